//! HTTP/1.1 as the load, the relay and the control calls use it: one connection, one request in flight.
//!
//! The task that sends a request also drives the connection, so that a request costs no wake-up of another task.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

type Driver = client::Connection<TokioIo<TcpStream>, Full<Bytes>>;

/// An open connection to one server.
pub(super) struct Connection {
    sender: client::SendRequest<Full<Bytes>>,
    /// `None` once the connection has ended.
    driver: Option<Driver>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Failed {
    /// Whether not even the request was written, because the server had closed the idle connection: harmless.
    pub(super) unsent: bool,
    /// What happened.
    pub(super) error: anyhow::Error,
}

impl Connection {
    /// Connects.
    pub(super) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("can't connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, driver) = client::handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, driver: Some(driver) })
    }

    /// Sends a request and reads the whole answer.
    pub(super) async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Failed> {
        let sender = &mut self.sender;
        let failed = |unsent, error: hyper::Error| Failed { unsent, error: error.into() };
        let exchange = async {
            sender.ready().await.map_err(|error| failed(true, error))?;
            let response = sender.send_request(request).await.map_err(|error| failed(error.is_canceled(), error))?;
            let status = response.status();
            Ok((status, whole(response.into_body()).await.map_err(|error| failed(false, error))?))
        };
        drive(&mut self.driver, exchange).await
    }
}

/// Runs `work` and the connection it works on in this task.
async fn drive<T>(driver: &mut Option<Driver>, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    std::future::poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(done);
        }
        if let Some(connection) = driver
            && pin!(connection).poll(context).is_ready()
        {
            *driver = None;
        }
        // The connection may just have handed over the answer: look again instead of waiting to be woken.
        work.as_mut().poll(context)
    })
    .await
}

/// Reads a body to its end. One frame is the usual case, and is not copied.
pub(super) async fn whole(mut body: Incoming) -> Result<Bytes, hyper::Error> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&std::mem::take(&mut first));
            rest.extend_from_slice(&data);
        }
        if body.is_end_stream() {
            break;
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}
