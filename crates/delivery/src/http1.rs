//! A connection that carries one request at a time, over HTTP/1.1.
//!
//! [`Http1`] keeps hyper's two halves, the one that takes requests and the one that does the I/O, together, and the task
//! that sends polls both. A task per connection would cost two task switches per request. The price: while a connection is
//! idle nobody polls it, so [`Http1::is_open`] looks at it before it is used again.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use postrider_domain::delivery::{Failure, Outcome};
use postrider_domain::time::Timestamp;
use tokio::task::coop::unconstrained;

use crate::answer::{Head, Kept, Stage, Trouble};
use crate::connection::{Broken, MAX_HEAD_BYTES, Payload, describe};
use crate::transport::{Heard, Transport};

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
