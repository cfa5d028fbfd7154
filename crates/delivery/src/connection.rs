//! Connections to receivers, and one request and answer over them.
//!
//! * [`Http1`] keeps hyper's two halves, the one that takes requests and the one that does the I/O, together, and the
//!   task that sends polls both. A task per connection would cost two task switches per request. The price: while a
//!   connection is idle nobody polls it, so [`Http1::is_open`] looks at it before it is used again.
//! * [`Http2`] is shared by everybody who sends to its host, so its I/O has a task of its own.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use postrider_domain::delivery::{Failure, Outcome};
use postrider_domain::time::Timestamp;
use tokio::task::coop::unconstrained;

use crate::answer::{Head, Kept, MAX_READ_BYTES, Stage, Trouble};
use crate::transport::{Heard, Transport};

/// The body of a request.
pub(crate) type Payload = Full<Bytes>;

/// A head larger than this is no answer. hyper also refuses one with more than 100 headers.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The request got no answer.
#[derive(Debug)]
pub(crate) struct Broken {
    /// Nothing says that the receiver saw the request, so on a connection that had been idle it can be made again.
    pub(crate) unheard: bool,
    pub(crate) trouble: Trouble,
}

impl Broken {
    fn new(error: &hyper::Error, unheard: bool) -> Self {
        Self { unheard, trouble: Trouble::new(Failure::Protocol, describe(error)) }
    }

    /// There was nothing that could have been sent.
    pub(crate) fn unbuilt() -> Self {
        Self { unheard: false, trouble: Trouble::new(Failure::Protocol, "the request could not be built") }
    }
}

/// What went wrong after the connection was made, for the endpoint's owner.
fn describe(error: &hyper::Error) -> &'static str {
    let source = std::error::Error::source(error);
    let io = source.and_then(|source| source.downcast_ref::<std::io::Error>());
    if error.is_parse_too_large() {
        "the head of the answer is too large"
    } else if error.is_parse() {
        "the answer is not valid HTTP"
    } else if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionReset) {
        "the receiver reset the connection before it answered"
    } else if source.is_some_and(|source| source.is::<h2::Error>()) {
        "the receiver broke the HTTP/2 stream off before it answered"
    } else {
        "the receiver closed the connection before it answered"
    }
}

/// Polls what only ever becomes ready through the connection's own I/O, which the same task polls right before: a waker
/// would only wake that task once more for nothing. Exempt from tokio's budget, whose end would need that waker.
fn quietly<T>(poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    pin!(unconstrained(poll_fn(poll))).poll(&mut Context::from_waker(Waker::noop()))
}

/// A connection that carries one request at a time.
pub(crate) struct Http1 {
    requests: http1::SendRequest<Payload>,
    /// `None` once it is closed.
    io: Option<http1::Connection<TokioIo<Transport>, Payload>>,
    heard: Heard,
}

impl Http1 {
    pub(crate) async fn start(transport: Transport) -> Result<Self, Trouble> {
        let heard = transport.heard();
        let (requests, io) = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake(TokioIo::new(transport))
            .await
            .map_err(|error| Trouble::new(Failure::Protocol, describe(&error)))?;
        Ok(Self { requests, io: Some(io), heard })
    }

    /// Whether it can take a request, as far as is known: the receiver has not closed it, and said nothing unasked.
    pub(crate) fn is_open(&mut self) -> bool {
        let _ = quietly(|cx| {
            self.drive(cx);
            Poll::Ready(())
        });
        self.io.is_some() && self.requests.is_ready()
    }

    /// Reads and writes what is to be read and written.
    fn drive(&mut self, cx: &mut Context<'_>) {
        // What went wrong reaches the request's own future; here it matters only that the connection is over.
        if self.io.as_mut().is_some_and(|io| Pin::new(io).poll(cx).is_ready()) {
            self.io = None;
        }
    }

    /// Makes a request. `Ok` says, besides the outcome, whether the connection can be used again.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Payload>,
        stage: &Stage,
        wall: Timestamp,
    ) -> Result<(Outcome, bool), Broken> {
        self.heard.reset();
        let response = self.head(request).await.map_err(|error| Broken::new(&error, !self.heard.anything()))?;
        let (parts, mut body) = response.into_parts();
        let head = Head::new(parts.status, &parts.headers, wall);
        stage.reading(&head);
        let mut kept = Kept::default();
        // The status is the verdict: a body that breaks off, or never ends, doesn't change it.
        let whole = loop {
            match self.frame(&mut body).await {
                None => break true,
                Some(Ok(frame)) if frame.data_ref().is_none_or(|data| kept.push(data)) => {}
                Some(_) => break false,
            }
        };
        let reusable = whole && self.io.is_some() && (self.requests.is_ready() || self.is_open());
        Ok((head.with_body(kept), reusable))
    }

    async fn head(&mut self, request: Request<Payload>) -> hyper::Result<Response<Incoming>> {
        let mut response = pin!(self.requests.send_request(request));
        poll_fn(|cx| {
            self.drive(cx);
            quietly(|cx| response.as_mut().poll(cx))
        })
        .await
    }

    async fn frame(&mut self, body: &mut Incoming) -> Option<hyper::Result<Frame<Bytes>>> {
        poll_fn(|cx| {
            // Most answers are here in full when their head is.
            let mut polled = quietly(|cx| Pin::new(&mut *body).poll_frame(cx));
            if polled.is_pending() {
                self.drive(cx);
                polled = quietly(|cx| Pin::new(&mut *body).poll_frame(cx));
            }
            polled
        })
        .await
    }
}

/// A connection that carries many requests at a time. Clones share it; it closes when the last one is gone.
#[derive(Clone)]
pub(crate) struct Http2 {
    requests: http2::SendRequest<Payload>,
}

/// How often a receiver is asked whether it is still there while it owes answers, and how long it has to say so.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

impl Http2 {
    pub(crate) async fn start(transport: Transport) -> Result<Self, Trouble> {
        let (requests, io) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            // hyper's defaults are for downloads: nobody may send us more than we would read.
            .initial_stream_window_size(MAX_READ_BYTES as u32)
            .initial_connection_window_size(16 * MAX_READ_BYTES as u32)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .handshake(TokioIo::new(transport))
            .await
            .map_err(|error| Trouble::new(Failure::Protocol, describe(&error)))?;
        tokio::spawn(async move {
            if let Err(error) = io.await {
                tracing::debug!(%error, "an HTTP/2 connection ended");
            }
        });
        Ok(Self { requests })
    }

    pub(crate) fn is_open(&self) -> bool {
        self.requests.is_ready()
    }

    /// Makes a request.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Payload>,
        stage: &Stage,
        wall: Timestamp,
    ) -> Result<Outcome, Broken> {
        let response = self.requests.send_request(request).await;
        let (parts, mut body) = response.map_err(|error| Broken::new(&error, was_unheard(&error)))?.into_parts();
        let head = Head::new(parts.status, &parts.headers, wall);
        stage.reading(&head);
        let mut kept = Kept::default();
        while let Some(Ok(frame)) = body.frame().await {
            if frame.data_ref().is_some_and(|data| !kept.push(data)) {
                break;
            }
        }
        Ok(head.with_body(kept))
    }
}

/// Whether it was the connection that ended, or the receiver says that it did not process the request.
fn was_unheard(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    error.is_canceled()
        || error.is_closed()
        || cause.is_some_and(|cause| {
            cause.is_io() || cause.is_go_away() || cause.reason() == Some(h2::Reason::REFUSED_STREAM)
        })
}
