//! A connection that carries one request at a time, over HTTP/1.1.
//!
//! The task that sends reads and writes itself: there is no task per connection, and nothing reads from a connection that
//! waits. Before a connection is used again, [`Transport::is_quiet`] looks at it: a receiver that has closed it, or has said
//! anything that nobody asked for, gets the request over a new one. What remains is a response that is forged while the
//! request is on its way: HTTP/1.1 has nothing to tell it by (docs/sending.md).
//!
//! The request is written while the response is read, because a receiver may respond before it has read everything. Whoever
//! has taken a message gets the rest of it all the same, for a while ([`REST_PATIENCE`]).

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use postrider_domain::time::Timestamp;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use crate::answer::Stage;
use crate::connection::{Again, Broken, closed, ended};
use crate::limits::REST_PATIENCE;
use crate::meter::Credit;
use crate::response::{Parser, Step};
use crate::transport::Transport;

/// What is read at a time; most responses are smaller.
const READ_BYTES: usize = 4 * 1024;

/// A request as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Request line and headers, with the empty line.
    pub(crate) head: Bytes,
    pub(crate) body: Bytes,
}

/// A body of so many bytes is signed within a few microseconds.
const QUICK_BYTES: usize = 4 * 1024;

/// How soon it is looked for the first time whether it has, and how seldom in the end.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(100);

/// A connection that carries one request at a time.
pub(crate) struct Http1 {
    transport: Transport,
    /// It has carried a request.
    used: bool,
    /// It was looked at since the last request: whoever took it from the pool has just done so.
    looked: bool,
}

/// One request and its response under way.
struct Exchange<'a, B> {
    transport: &'a mut Transport,
    /// What is still to be written.
    request: B,
    /// All of the request has left this process.
    written: bool,
    parser: Parser,
    /// The receiver has sent something.
    heard: bool,
    stage: &'a Stage,
}

impl Http1 {
    pub(crate) fn new(transport: Transport) -> Self {
        Self { transport, used: false, looked: false }
    }

    /// Whether it can take a request, as far as is known: the receiver has not closed it, and said nothing unasked. Whoever was
    /// told so makes a request at once, or asks again before it.
    pub(crate) fn is_open(&mut self) -> bool {
        self.looked = self.transport.is_quiet();
        self.looked
    }

    /// It is closed in order when it is dropped.
    pub(crate) fn part(&mut self) {
        self.transport.part();
    }

    /// Makes a request. The response is in `stage`; `Ok` says whether the connection can be used again.
    pub(crate) async fn exchange(&mut self, request: Request, stage: &Stage, wall: Timestamp) -> Result<bool, Broken> {
        // Right before the request is written, so that as little as possible can come in between. (To sign what is large takes
        // its time.)
        let looked = self.looked && request.body.len() <= QUICK_BYTES;
        if self.used && !looked && !self.is_open() {
            return Err(Broken::stale());
        }
        (self.used, self.looked) = (true, false);
        stage.sending();
        let meter = self.transport.meter();
        meter.grant(Credit::OVER_HTTP1);
        let mut exchange = Exchange {
            transport: &mut self.transport,
            request: request.head.chain(request.body),
            written: false,
            parser: Parser::new(wall),
            heard: false,
            stage,
        };
        // An exchange that is dropped takes its connection with it.
        let result = poll_fn(|cx| exchange.poll(cx)).await;
        if matches!(result, Ok(false)) && stage.received().is_success() {
            let _ = tokio::time::timeout(REST_PATIENCE, exchange.deliver_the_rest()).await;
        }
        meter.settle(Credit::default());
        result
    }
}

impl<B: Buf> Exchange<'_, B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Broken>> {
        if !self.written && self.poll_write(cx).is_ready() {
            self.written = true;
        }
        loop {
            match ready!(self.poll_read(cx)) {
                Ok(Step::More) => {}
                Ok(Step::Over { reusable, .. }) => return Poll::Ready(Ok(reusable && self.written)),
                Ok(Step::Refused(trouble)) => return Poll::Ready(Err(Broken::of(trouble))),
                Err(error) => return Poll::Ready(self.end(error.as_ref())),
            }
        }
    }

    /// The receiver has taken the message before it has read all of it, and the connection, which is about to be dropped, would
    /// take with it what is left. Over when everything has reached the receiver's system, or cannot.
    async fn deliver_the_rest(&mut self) {
        poll_fn(|cx| self.poll_write(cx)).await;
        let mut wait = FIRST_LOOK;
        while self.transport.is_under_way() {
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LAST_LOOK);
        }
    }

    /// Ready when there is nothing left to write, or no use in it: then reading tells why.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.request.has_remaining() {
            let mut parts = [IoSlice::new(&[]), IoSlice::new(&[])];
            let count = self.request.chunks_vectored(&mut parts);
            match ready!(Pin::new(&mut *self.transport).poll_write_vectored(cx, &parts[..count])) {
                Ok(written) if written > 0 => self.request.advance(written),
                _ => return Poll::Ready(()),
            }
        }
        Pin::new(&mut *self.transport).poll_flush(cx).map(|_| ())
    }

    /// Reads once. `Err` if the connection has ended, with the error that it ended with.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, Option<io::Error>>> {
        let mut space = [MaybeUninit::uninit(); READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut space[..self.parser.room().min(READ_BYTES)]);
        match ready!(Pin::new(&mut *self.transport).poll_read(cx, &mut buffer)) {
            Err(error) => return Poll::Ready(Err(Some(error))),
            Ok(()) if buffer.filled().is_empty() => return Poll::Ready(Err(None)),
            Ok(()) => {}
        }
        self.heard = true;
        let step = self.parser.feed(buffer.filled(), &mut self.stage.received());
        if self.parser.has_interim() {
            self.stage.interim();
        }
        Poll::Ready(Ok(step))
    }

    /// The connection has ended: with a response if its status is known.
    fn end(&self, error: Option<&io::Error>) -> Result<bool, Broken> {
        let mut received = self.stage.received();
        if received.status().is_some() {
            if error.is_none() {
                self.parser.end(&mut received);
            }
            return Ok(false);
        }
        let trouble = match (self.heard, self.parser.has_interim()) {
            (false, _) => closed(error),
            (true, true) => ended(error, "after interim responses, without a final one"),
            (true, false) => ended(error, "within the status line of its response"),
        };
        // Whoever sends too much beside responses would send it again.
        let unheard = !self.heard && !self.transport.meter().has_overrun();
        Err(Broken { again: if unheard { Again::Unheard } else { Again::Not }, ..Broken::of(trouble) })
    }
}
