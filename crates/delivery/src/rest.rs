//! What is left of a message over HTTP/2 that the receiver answers before it has read all of it.
//!
//! hyper and h2 keep a body until it is written, and there is no way to take it back once the response has come: a receiver that
//! answers and leaves its window shut would have us keep every message that it is sent. So a body says when it is let go
//! ([`Payload::watch`]). Whoever has answered has some time to read on, or to say that it does not want the rest, and for as
//! long the attempt goes on. Then its connection gets no more requests and ends with the last of those that it has. What is
//! left by then is counted ([`Leavings`]); beyond a bound the connection is cut at once.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

postrider_domain::limits! {
    in "Receivers over HTTP/2";
    /// Of messages that were answered and then not read, until their connections have ended
    pub(crate) const MAX_LEFT_BYTES: usize = 16 * 1024 * 1024, "bytes", beyond "their connections are cut, with the requests in flight on them";
}

/// What a message takes at least that nobody reads: its stream.
const LEAST_BYTES: usize = 4 * 1024;

/// The body of a request.
#[derive(Debug)]
pub(crate) struct Payload(Option<Piece>);

/// The bytes of a body, wherever hyper and h2 have them.
#[derive(Debug)]
pub(crate) struct Piece {
    bytes: Bytes,
    /// Dropped with them: what tells that they are gone, and what counts until then.
    _there: Option<(oneshot::Sender<()>, Arc<OnceLock<Left>>)>,
}

/// What tells whether the body is still there.
#[derive(Debug)]
pub(crate) struct Rest {
    size: usize,
    gone: oneshot::Receiver<()>,
    left: Arc<OnceLock<Left>>,
}

/// All that was left.
#[derive(Debug, Default)]
pub(crate) struct Leavings(AtomicUsize);

/// One that was left.
#[derive(Debug)]
struct Left {
    leavings: Arc<Leavings>,
    size: usize,
}

impl Payload {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self((!bytes.is_empty()).then(|| Piece { bytes, _there: None }))
    }

    /// What tells whether it is still there; to be asked for before it is sent.
    pub(crate) fn watch(&mut self) -> Rest {
        let (there, gone) = oneshot::channel();
        let (left, bytes) = (Arc::default(), self.0.take().map(|piece| piece.bytes));
        let size = bytes.as_ref().map_or(0, Bytes::len);
        self.0 = bytes.map(|bytes| Piece { bytes, _there: Some((there, Arc::clone(&left))) });
        Rest { size, gone, left }
    }
}

impl Body for Payload {
    type Data = Piece;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, Infallible>>> {
        Poll::Ready(self.0.take().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |piece| piece.bytes.len() as u64))
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Rest {
    /// Waits until nothing is kept of the body any more.
    pub(crate) async fn gone(&mut self) {
        // Nothing is ever sent: the other end is dropped.
        let _ = (&mut self.gone).await;
    }

    /// Nobody waits for it any more, and it counts until it is gone. Whether it is still there, and whether there is room for it.
    pub(crate) fn leave(mut self, leavings: &Arc<Leavings>) -> Leaving {
        if self.gone.try_recv() != Err(oneshot::error::TryRecvError::Empty) {
            return Leaving::Nothing;
        }
        let size = self.size.max(LEAST_BYTES);
        let left = leavings.0.fetch_add(size, Ordering::Relaxed) + size;
        // It is dropped, and counts no more, with the last of the two who have it.
        let _ = self.left.set(Left { leavings: Arc::clone(leavings), size });
        if left > MAX_LEFT_BYTES { Leaving::TooMuch } else { Leaving::Something }
    }
}

/// What is left of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It was written, or was not wanted.
    Nothing,
    /// Something.
    Something,
    /// Something, and there is no room for it.
    TooMuch,
}

impl Drop for Left {
    fn drop(&mut self) {
        self.leavings.0.fetch_sub(self.size, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    fn left(leavings: &Leavings) -> usize {
        leavings.0.load(Ordering::Relaxed)
    }

    #[test]
    fn what_was_written_is_gone_and_counts_for_nothing() {
        let leavings = Arc::default();
        let mut payload = Payload::new(Bytes::from_static(b"all"));
        let mut rest = payload.watch();
        assert!(rest.gone().now_or_never().is_none());
        drop(payload);
        assert!(rest.gone().now_or_never().is_some());
        assert_eq!(rest.leave(&leavings), Leaving::Nothing);
        let mut nothing = Payload::new(Bytes::new());
        assert_eq!(nothing.watch().leave(&leavings), Leaving::Nothing);
        assert_eq!(left(&leavings), 0);
    }

    #[test]
    fn what_is_left_counts_until_it_is_gone() {
        let leavings = Arc::default();
        let sizes = [1, MAX_LEFT_BYTES - LEAST_BYTES, 1];
        let mut payloads: Vec<_> = sizes.map(|size| Payload::new(vec![0; size].into())).into();
        let said: Vec<_> = payloads.iter_mut().map(|payload| payload.watch().leave(&leavings)).collect();
        assert_eq!(said, [Leaving::Something, Leaving::Something, Leaving::TooMuch]);
        assert_eq!(left(&leavings), MAX_LEFT_BYTES + LEAST_BYTES);
        drop(payloads.remove(1));
        assert_eq!(left(&leavings), 2 * LEAST_BYTES);
        drop(payloads);
        assert_eq!(left(&leavings), 0);
    }
}
