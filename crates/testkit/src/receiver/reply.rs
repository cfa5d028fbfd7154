//! What a receiver does with a request: an answer, or one of the ways in which receivers misbehave.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::Received;

/// What happens after a request was read.
#[derive(Debug, Clone)]
pub struct Reply {
    pub(super) delay: Duration,
    pub(super) act: Act,
}

#[derive(Debug, Clone)]
pub(super) enum Act {
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: Bytes,
        then: Then,
    },
    /// These bytes, then nothing more.
    Raw(Bytes),
    Hang,
    Close,
    Reset,
    /// These bytes, then the filler for as long as the other side reads.
    Endless {
        head: Bytes,
        filler: Bytes,
    },
    /// These bytes, then one byte after every wait.
    Drip {
        head: Bytes,
        every: Duration,
    },
}

/// What happens to the connection after an answer. None of it is announced by a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    KeepOpen,
    Close,
    Reset,
}

impl Reply {
    const fn act(act: Act) -> Self {
        Self { delay: Duration::ZERO, act }
    }

    /// 200 with an empty body.
    pub fn ok() -> Self {
        Self::status(200)
    }

    /// This status with an empty body.
    pub fn status(status: u16) -> Self {
        Self::act(Act::Answer { status, headers: Vec::new(), body: Bytes::new(), then: Then::KeepOpen })
    }

    /// These bytes as they are, and then silence.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self::act(Act::Raw(bytes.into()))
    }

    /// No answer, ever, on a connection that stays open.
    pub fn hang() -> Self {
        Self::act(Act::Hang)
    }

    /// No answer; the connection is closed in order.
    pub fn close() -> Self {
        Self::act(Act::Close)
    }

    /// No answer; the connection is reset.
    pub fn reset() -> Self {
        Self::act(Act::Reset)
    }

    /// This status and a body without an end.
    pub fn endless_body(status: u16) -> Self {
        let head = format!("HTTP/1.1 {status} Something\r\ntransfer-encoding: chunked\r\n\r\n");
        let filler = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
        Self::act(Act::Endless { head: head.into(), filler: filler.into() })
    }

    /// Status 200 and a body of which one byte comes after every wait.
    pub fn dripping_body(every: Duration) -> Self {
        Self::act(Act::Drip { head: "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n".into(), every })
    }

    /// A head of which one byte comes after every wait.
    pub fn dripping_head(every: Duration) -> Self {
        Self::act(Act::Drip { head: "HTTP/1.1 200 OK\r\nx-slow: ".into(), every })
    }

    /// Status 200 with this many headers.
    pub fn many_headers(count: usize) -> Self {
        (0..count).fold(Self::ok(), |reply, number| reply.header(&format!("x-header-{number}"), "value"))
    }

    /// Status 200 with a header of this many bytes.
    pub fn huge_head(bytes: usize) -> Self {
        Self::ok().header("x-huge", &"x".repeat(bytes))
    }

    /// Adds a header to an answer.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Act::Answer { headers, .. } = &mut self.act {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Sets the body of an answer.
    #[must_use]
    pub fn body(mut self, bytes: impl Into<Bytes>) -> Self {
        if let Act::Answer { body, .. } = &mut self.act {
            *body = bytes.into();
        }
        self
    }

    /// Waits before it answers or misbehaves.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Closes the connection after the answer, without having said so.
    #[must_use]
    pub fn then_close(self) -> Self {
        self.then(Then::Close)
    }

    /// Resets the connection after the answer.
    #[must_use]
    pub fn then_reset(self) -> Self {
        self.then(Then::Reset)
    }

    fn then(mut self, what: Then) -> Self {
        if let Act::Answer { then, .. } = &mut self.act {
            *then = what;
        }
        self
    }

    /// A program that goes through `replies` request by request, and then stays with the last.
    ///
    /// # Panics
    /// If there are none.
    pub fn in_sequence(replies: impl Into<Vec<Self>>) -> impl Fn(&Received) -> Self + Send + Sync + 'static {
        let replies = replies.into();
        assert!(!replies.is_empty(), "a sequence has at least one reply");
        let next = AtomicUsize::new(0);
        move |_| replies[next.fetch_add(1, Ordering::SeqCst).min(replies.len() - 1)].clone()
    }
}

/// A gzip stream (RFC 1952) that expands to about `bytes` zeros, at 13 bits for every 258 of them. Its checksum is not
/// right, which nobody learns before having expanded it.
pub fn gzip_of_zeros(bytes: usize) -> Bytes {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut bits = BitWriter { out: &mut out, pending: 0, count: 0 };
    // RFC 1951 §3.2.6: one last block with fixed codes; the literal 0, then copies of 258 bytes from 1 byte back.
    bits.code(0b110, 3);
    bits.code(0b0011_0000, 8);
    for _ in 0..16 {
        bits.code(0b1100_0101, 8);
        bits.code(0, 5);
    }
    // Eight copies are 13 whole bytes, which from the second time on are always the same.
    let eight = bits.out[bits.out.len() - 13..].to_vec();
    bits.out.extend(eight.repeat((bytes / (8 * 258)).saturating_sub(2)));
    bits.code(0, 7);
    bits.code(0, 7);
    out.extend([0; 8]);
    out.into()
}

/// Writes Huffman codes: most significant bit first, into bytes that fill from their least significant bit.
struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    pending: u8,
    count: u8,
}

impl BitWriter<'_> {
    fn code(&mut self, code: u16, bits: u8) {
        for place in (0..bits).rev() {
            self.pending |= u8::from(code >> place & 1 == 1) << self.count;
            self.count += 1;
            if self.count == 8 {
                self.out.push(self.pending);
                (self.pending, self.count) = (0, 0);
            }
        }
    }
}
