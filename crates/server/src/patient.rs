//! A stream whose writes have a deadline, and take turns with those of others.
//!
//! * hyper waits for ever for a client that does not read its answer, and keeps the answer in memory all the while.
//! * It writes as much at a time as the system takes: whoever asks for large answers on many connections keeps the threads
//!   from everybody else. So [`TURN_BYTES`] are written each time that the connection is polled, and no more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::connections::TURN_BYTES;

/// The pieces that one write takes: as many as hyper has ready at once.
const MAX_PIECES: usize = 16;

/// What was written in the turn that a connection has. Clones are the same turn.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turn(Arc<AtomicUsize>);

impl Turn {
    /// The connection is about to be polled, after all others that had something to do.
    pub(crate) fn begin(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn room(&self) -> usize {
        TURN_BYTES.saturating_sub(self.0.load(Ordering::Relaxed))
    }

    fn count(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.0.fetch_add(*bytes, Ordering::Relaxed);
        }
    }
}

/// A stream of which a write fails when nothing could be written for a while.
pub(crate) struct Patient<S> {
    stream: S,
    turn: Turn,
    patience: Duration,
    /// Runs while a write is stuck.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// Lets a write wait for `patience`. Who polls says when a `turn` begins.
    pub(crate) fn new(stream: S, turn: Turn, patience: Duration) -> Self {
        Self { stream, turn, patience, deadline: None }
    }

    /// How much may be written now; if that is nothing, the connection is polled again when it is its turn.
    fn poll_turn(&self, cx: &Context<'_>) -> Poll<usize> {
        match self.turn.room() {
            0 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            room => Poll::Ready(room),
        }
    }

    /// What a write came to, unless it is stuck for too long.
    fn judge<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
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
        let room = ready!(self.poll_turn(cx));
        let written = Pin::new(&mut self.stream).poll_write(cx, &bytes[..bytes.len().min(room)]);
        self.turn.count(&written);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_turn(cx));
        let (pieces, count) = fitting(bytes, room);
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, &pieces[..count]);
        self.turn.count(&written);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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

    #[tokio::test]
    async fn so_much_is_written_in_a_turn_and_the_rest_in_the_next_ones() {
        let (near, mut far) = tokio::io::duplex(4 * TURN_BYTES);
        let turn = Turn::default();
        let mut near = Patient::new(near, turn.clone(), Duration::from_secs(60));
        let whole: Vec<u8> = (0..3 * TURN_BYTES + 5).map(|at| (at % 251) as u8).collect();
        let (mut at, mut turns) = (0, Vec::new());
        while at < whole.len() {
            turn.begin();
            let before = at;
            poll_fn(|cx| {
                loop {
                    let rest = &whole[at..];
                    let (head, body) = rest.split_at(rest.len().min(100));
                    let pieces = [head, &[], body].map(io::IoSlice::new);
                    let written = match at % 2 {
                        0 => Pin::new(&mut near).poll_write_vectored(cx, &pieces),
                        _ => Pin::new(&mut near).poll_write(cx, rest),
                    };
                    match written {
                        Poll::Ready(written) => at += written.unwrap(),
                        Poll::Pending => return Poll::Ready(()),
                    }
                    if at == whole.len() {
                        return Poll::Ready(());
                    }
                }
            })
            .await;
            turns.push(at - before);
        }
        assert_eq!(turns, [TURN_BYTES, TURN_BYTES, TURN_BYTES, 5]);
        let mut read = vec![0; whole.len()];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(read, whole);
    }

    #[tokio::test]
    async fn a_write_that_nobody_reads_fails_and_one_that_is_read_does_not() {
        let (near, mut far) = tokio::io::duplex(10);
        let mut near = Patient::new(near, Turn::default(), Duration::from_millis(50));
        let mut taken = [0; 30];
        let (written, read) = tokio::join!(near.write_all(&[0; 30]), far.read_exact(&mut taken));
        written.and(read.map(drop)).unwrap();
        let stuck = near.write_all(&[0; 11]).await;
        assert_eq!(stuck.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
