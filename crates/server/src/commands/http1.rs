//! A plain HTTP/1.1 server for the commands that receive: the listener, the benchmark's receivers and its relay.

use std::future::Future;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Serves every connection of `listener` with `answer`, until dropped.
pub(crate) async fn serve<F, R>(listener: TcpListener, answer: F)
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Result<Response<Full<Bytes>>, hyper::Error>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let Some((stream, _)) = accept(&listener).await else { continue };
        // What has ended is forgotten as new ones come.
        while connections.try_join_next().is_some() {}
        let service = hyper::service::service_fn(answer.clone());
        connections.spawn(async move {
            // A connection that breaks is the client's to notice.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Without it an answer may wait for the acknowledgement of the last one.
            let _ = stream.set_nodelay(true);
            Some((stream, peer))
        }
        Err(_) => {
            // Out of descriptors, most likely: busy waiting would make it worse.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            None
        }
    }
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
