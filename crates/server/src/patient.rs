//! A stream whose writes have a deadline, and of which few write much at the same time.
//!
//! * hyper waits for ever for a client that does not read its answer, and keeps the answer in memory all the while.
//! * It writes as much at a time as the system takes: whoever asks for large answers on many connections keeps the threads
//!   from everybody else. So a connection writes [`SHARE_BYTES`] as they come, and what is more in turns of [`TURN_BYTES`], for
//!   which it stands in a [`Line`] with all others that have more. Whoever has a short answer waits for none of them.
//! * It may read the next request before the answer to the last one is written: to a client that does not read, the heads of answers
//!   without a body would pile up. So it is said of each connection whether all is written ([`Place::written`]), for which requests
//!   wait.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::PollSemaphore;

use crate::connections::{Awaited, MAX_TURNS, Place, SHARE_BYTES, TURN_BYTES};

/// The pieces that one write takes: as many as hyper has ready at once.
const MAX_PIECES: usize = 16;

/// Where connections with much to write wait for a turn: first come, first served. Clones are the same line.
#[derive(Debug, Clone)]
pub(crate) struct Line(Arc<Semaphore>);

impl Default for Line {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_TURNS)))
    }
}

/// A stream of which a write fails when nothing could be written for a while.
pub(crate) struct Patient<S> {
    stream: S,
    line: PollSemaphore,
    /// The turn that it has.
    turn: Option<OwnedSemaphorePermit>,
    /// What it may write before it needs one, or another one.
    room: usize,
    patience: Duration,
    /// Is told when the client does not read, and when all is written.
    place: Arc<Place>,
    /// What was written since.
    moved: usize,
    /// Runs while a write is stuck.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// Lets a write wait for `patience` until the client takes something. What it waits in the `line` is not counted.
    pub(crate) fn new(stream: S, line: &Line, patience: Duration, place: &Arc<Place>) -> Self {
        let (line, place) = (PollSemaphore::new(Arc::clone(&line.0)), Arc::clone(place));
        Self { stream, line, turn: None, room: SHARE_BYTES, patience, place, moved: 0, deadline: None }
    }

    /// How much may be written now. Between two turns of one connection is everything else that has something to do.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if self.room == 0 {
            // Until it has its turn.
            self.place.set_unwritten(true);
            if self.turn.take().is_some() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.turn = ready!(self.line.poll_acquire(cx));
            self.room = TURN_BYTES;
        }
        Poll::Ready(self.room)
    }

    /// What a write came to, unless it is stuck for too long. Nobody keeps a turn while the client does not read.
    fn judge(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            if self.deadline.take().is_some() {
                self.place.go_on(Awaited::Reader);
            }
            let bytes = *written.as_ref().unwrap_or(&0);
            self.moved += bytes;
            self.room -= self.room.min(bytes);
            return Poll::Ready(written);
        }
        if self.turn.take().is_some() {
            self.room = 0;
        }
        self.place.set_unwritten(true);
        if self.deadline.is_none() {
            self.place.wait(Awaited::Reader, std::mem::take(&mut self.moved));
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(self.patience)));
        match deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(cx));
        let written = Pin::new(&mut self.stream).poll_write(cx, &bytes[..bytes.len().min(room)]);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(cx));
        let (pieces, count) = fitting(bytes, room);
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, &pieces[..count]);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper asks for this when it has written all that it has: an answer begins with a share again, and a request that waits for
    /// this goes on.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        (self.turn, self.room) = (None, SHARE_BYTES);
        if self.place.set_unwritten(false) {
            cx.waker().wake_by_ref();
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The first `room` bytes of what is there, and in how many pieces they are.
fn fitting<'a>(bytes: &'a [io::IoSlice<'a>], mut room: usize) -> ([io::IoSlice<'a>; MAX_PIECES], usize) {
    let mut pieces = [io::IoSlice::new(&[]); MAX_PIECES];
    let mut count = 0;
    for piece in bytes.iter().filter(|piece| !piece.is_empty()) {
        if room == 0 || count == MAX_PIECES {
            break;
        }
        let length = piece.len().min(room);
        pieces[count] = io::IoSlice::new(&piece[..length]);
        room -= length;
        count += 1;
    }
    (pieces, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn place() -> Arc<Place> {
        let connections = crate::connections::Connections::new(1, 1);
        Arc::new(connections.admit(std::net::Ipv4Addr::LOCALHOST.into()).unwrap())
    }

    /// What can be written now, in pieces as hyper has them.
    fn write<S: AsyncWrite + Unpin>(near: &mut Patient<S>, cx: &mut Context<'_>, mut rest: &[u8]) -> usize {
        let before = rest.len();
        while !rest.is_empty() {
            let (head, body) = rest.split_at(rest.len().min(100));
            let pieces = [head, &[], body].map(io::IoSlice::new);
            let written = match rest.len() % 2 {
                0 => Pin::new(&mut *near).poll_write_vectored(cx, &pieces),
                _ => Pin::new(&mut *near).poll_write(cx, rest),
            };
            match written {
                Poll::Ready(written) => rest = &rest[written.unwrap()..],
                Poll::Pending => break,
            }
        }
        before - rest.len()
    }

    fn whole(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    #[tokio::test]
    async fn a_share_is_written_at_once_and_the_rest_in_turns() {
        let (near, mut far) = tokio::io::duplex(4 * TURN_BYTES);
        let mut near = Patient::new(near, &Line::default(), Duration::from_secs(60), &place());
        let whole = whole(SHARE_BYTES + 2 * TURN_BYTES + 5);
        let (mut at, mut turns) = (0, Vec::new());
        while at < whole.len() {
            let written = poll_fn(|cx| Poll::Ready(write(&mut near, cx, &whole[at..]))).await;
            at += written;
            turns.push(written);
        }
        assert_eq!(turns, [SHARE_BYTES + TURN_BYTES, TURN_BYTES, 5]);
        let mut read = vec![0; whole.len()];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(read, whole);
    }

    #[tokio::test]
    async fn who_writes_much_waits_for_a_turn_and_who_writes_little_does_not() {
        let line = Line::default();
        let whole = whole(SHARE_BYTES + TURN_BYTES + 1);
        let streams: Vec<_> = (0..MAX_TURNS + 2).map(|_| tokio::io::duplex(2 * TURN_BYTES)).collect();
        let (mut streams, _far): (Vec<_>, Vec<_>) = streams.into_iter().unzip();
        let mut little = Patient::new(streams.pop().unwrap(), &line, Duration::from_secs(60), &place());
        let mut last = Patient::new(streams.pop().unwrap(), &line, Duration::from_secs(60), &place());
        let turns: Vec<_> = streams.iter().map(|_| line.0.clone().try_acquire_owned().unwrap()).collect();
        poll_fn(|cx| {
            assert_eq!(write(&mut last, cx, &whole), SHARE_BYTES, "all turns are taken");
            assert_eq!(write(&mut little, cx, &whole[..SHARE_BYTES]), SHARE_BYTES);
            assert!(Pin::new(&mut little).poll_flush(cx).is_ready());
            assert_eq!(write(&mut little, cx, &whole[..SHARE_BYTES]), SHARE_BYTES, "another short answer");
            Poll::Ready(())
        })
        .await;
        drop(turns);
        let written = poll_fn(|cx| Poll::Ready(write(&mut last, cx, &whole[SHARE_BYTES..]))).await;
        assert_eq!(written, TURN_BYTES);
    }

    #[tokio::test]
    async fn whoever_does_not_read_keeps_no_turn() {
        let line = Line::default();
        let (near, _far) = tokio::io::duplex(SHARE_BYTES + 10);
        let mut near = Patient::new(near, &line, Duration::from_secs(60), &place());
        let whole = whole(SHARE_BYTES + TURN_BYTES);
        let written = poll_fn(|cx| Poll::Ready(write(&mut near, cx, &whole))).await;
        assert_eq!((written, line.0.available_permits()), (SHARE_BYTES + 10, MAX_TURNS));
    }

    #[tokio::test]
    async fn it_is_said_whether_all_is_written() {
        let (near, mut far) = tokio::io::duplex(SHARE_BYTES + 10);
        let place = place();
        let mut near = Patient::new(near, &Line::default(), Duration::from_secs(60), &place);
        let is_written = || futures_util::FutureExt::now_or_never(place.written()).is_some();
        let whole = whole(SHARE_BYTES + TURN_BYTES);
        let written = poll_fn(|cx| Poll::Ready(write(&mut near, cx, &whole))).await;
        assert!(!is_written());
        let mut read = vec![0; whole.len()];
        let rest = async {
            near.write_all(&whole[written..]).await.unwrap();
            near.flush().await.unwrap();
        };
        let (_, _) = tokio::join!(rest, async { far.read_exact(&mut read).await.unwrap() });
        assert!(is_written());
    }

    #[tokio::test]
    async fn a_write_that_nobody_reads_fails_and_one_that_is_read_does_not() {
        let (near, mut far) = tokio::io::duplex(10);
        let mut near = Patient::new(near, &Line::default(), Duration::from_millis(50), &place());
        let mut taken = [0; 30];
        let (written, read) = tokio::join!(near.write_all(&[0; 30]), far.read_exact(&mut taken));
        written.and(read.map(drop)).unwrap();
        let stuck = near.write_all(&[0; 11]).await;
        assert_eq!(stuck.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
