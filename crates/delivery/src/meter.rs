//! What a receiver may send over HTTP/2: bytes and frames are counted, and a connection that brings too much of what is no
//! response is ended.
//!
//! h2 and hyper take interim responses, SETTINGS, PING, empty frames and the like without limit and without telling: a
//! receiver could keep a core busy with them, even after its response was given, or fill the memory with heads. So a
//! connection has a credit, which each request raises, and each byte and frame lowers; when the request is over, what is
//! left of its share is taken back ([`Meter::settle`]). A connection that has used its credit up reads nothing more.
//!
//! * Bytes are counted as they come off the network, so that TLS records with nothing in them count, too.
//! * Frames are counted where they are plain text, by a reader of their nine-byte heads. It also learns from SETTINGS how
//!   many streams the receiver allows, which hyper does not tell.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::transport::Transport;

postrider_domain::limits! {
    in "Receivers over HTTP/2";
    /// What a receiver may send for one request, in frames; one that carries nothing of a response counts as eight, one of a head as 48 and by its length
    pub const MAX_FRAMES: i64 = 1_024, "frames", beyond "the connection is closed";
    /// What a receiver may send for one request, as it comes over the network
    pub const MAX_BYTES: i64 = 262_144, "bytes", beyond "the connection is closed";
    /// What a receiver may send while it owes no response
    pub const MAX_IDLE_FRAMES: i64 = 256, "frames", beyond "the connection is closed";
    /// What a receiver may send while it owes no response
    pub const MAX_IDLE_BYTES: i64 = 65_536, "bytes", beyond "the connection is closed";
}

/// What a receiver may send in a TLS handshake: certificates can be long.
const HANDSHAKE_BYTES: i64 = 256 * 1024;
/// What a frame costs that carries nothing of a response.
const EMPTY_COST: i64 = 8;
/// What a frame of a head costs, and so many bytes of it: it may be an interim response, and a byte may stand for a field.
const HEAD_COST: i64 = 48;
const HEAD_BYTES_PER_COST: usize = 128;
/// The streams that are taken for allowed before the receiver has said how many (RFC 9113 §6.5.2 recommends at least 100).
const UNSAID_STREAMS: u32 = 100;

/// A number of frames and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Credit {
    pub(crate) frames: i64,
    pub(crate) bytes: i64,
}

impl Credit {
    /// What a receiver may send for a request with so many bytes of payload. It acknowledges what it reads of that.
    pub(crate) fn of_request(payload: usize) -> Self {
        let payload = i64::try_from(payload).unwrap_or(i64::MAX / 2);
        Self { frames: MAX_FRAMES + payload / 256, bytes: MAX_BYTES + payload / 4 }
    }
}

impl std::ops::AddAssign for Credit {
    fn add_assign(&mut self, other: Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
    }
}

impl std::ops::SubAssign for Credit {
    fn sub_assign(&mut self, other: Self) {
        self.frames -= other.frames;
        self.bytes -= other.bytes;
    }
}

/// What one connection may still receive.
#[derive(Debug)]
pub(crate) struct Meter {
    frames: AtomicI64,
    bytes: AtomicI64,
    /// Nothing is counted: HTTP/1, whose connections are only read while a response is awaited.
    off: AtomicBool,
    streams: AtomicU32,
    /// The receiver has said how many streams it allows, or that it leaves that open.
    settled: AtomicBool,
    /// The connection has ended.
    ended: AtomicBool,
    settings: Notify,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            frames: AtomicI64::new(MAX_IDLE_FRAMES),
            bytes: AtomicI64::new(HANDSHAKE_BYTES),
            off: AtomicBool::new(false),
            streams: AtomicU32::new(UNSAID_STREAMS),
            settled: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            settings: Notify::new(),
        }
    }
}

impl Meter {
    /// Counts no more.
    pub(crate) fn turn_off(&self) {
        self.off.store(true, Ordering::Relaxed);
    }

    /// Lets the receiver send so much more.
    pub(crate) fn grant(&self, credit: Credit) {
        self.frames.fetch_add(credit.frames, Ordering::Relaxed);
        self.bytes.fetch_add(credit.bytes, Ordering::Relaxed);
    }

    /// Takes back what is left of requests that are over. `granted` is what those under way were granted.
    pub(crate) fn settle(&self, granted: Credit) {
        self.frames.fetch_min(MAX_IDLE_FRAMES + granted.frames, Ordering::Relaxed);
        self.bytes.fetch_min(MAX_IDLE_BYTES + granted.bytes, Ordering::Relaxed);
    }

    /// Whether the receiver has sent too much.
    pub(crate) fn is_spent(&self) -> bool {
        self.frames.load(Ordering::Relaxed) < 0 || self.bytes.load(Ordering::Relaxed) < 0
    }

    /// How many streams the receiver allows at a time.
    pub(crate) fn streams(&self) -> u32 {
        self.streams.load(Ordering::Relaxed)
    }

    /// The connection has ended: there is nothing to wait for.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.settled.store(true, Ordering::Release);
        self.settings.notify_waiters();
    }

    /// Waits until the receiver allows a stream, or the connection has ended.
    pub(crate) async fn opened(&self) {
        loop {
            let mut settings = std::pin::pin!(self.settings.notified());
            // From here on nothing that is told is missed.
            settings.as_mut().enable();
            if self.streams() > 0 || self.ended.load(Ordering::Acquire) {
                return;
            }
            settings.await;
        }
    }

    /// Waits until the receiver has sent its settings, or the connection has ended.
    pub(crate) async fn settled(&self) {
        let settings = self.settings.notified();
        if !self.settled.load(Ordering::Acquire) {
            settings.await;
        }
    }

    /// Counts bytes off the network.
    pub(crate) fn count_bytes(&self, count: usize) {
        if !self.off.load(Ordering::Relaxed) {
            self.bytes.fetch_sub(i64::try_from(count).unwrap_or(i64::MAX), Ordering::Relaxed);
        }
    }

    /// Fails if the receiver has sent too much. Asked before more is read: what has been read may hold a response.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.is_spent() {
            Err(io::Error::other("the receiver has sent too much that is no response"))
        } else {
            Ok(())
        }
    }
}

/// The kinds of frames that matter here (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;

const HEAD: usize = 9;
const SETTING: usize = 6;

/// Reads the heads of frames, and the settings, out of a stream of bytes in pieces of any size.
#[derive(Debug, Default)]
struct Frames {
    head: Vec<u8>,
    /// Bytes of the frame's payload that are still to come.
    left: usize,
    /// The setting that is being read, in a frame of settings.
    setting: Option<Vec<u8>>,
}

impl Frames {
    fn read(&mut self, mut bytes: &[u8], meter: &Meter) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (payload, rest) = bytes.split_at(self.left.min(bytes.len()));
                self.left -= payload.len();
                self.read_settings(payload, meter);
                bytes = rest;
            } else {
                let (piece, rest) = bytes.split_at((HEAD - self.head.len()).min(bytes.len()));
                self.head.extend_from_slice(piece);
                bytes = rest;
                if self.head.len() == HEAD {
                    self.begin(meter);
                }
            }
        }
    }

    /// The head of a frame is complete.
    fn begin(&mut self, meter: &Meter) {
        let head = std::mem::take(&mut self.head);
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        self.left = length;
        let cost = match kind {
            DATA if length > 0 => 1,
            RST_STREAM | WINDOW_UPDATE => 1,
            HEADERS | CONTINUATION => HEAD_COST + i64::try_from(length / HEAD_BYTES_PER_COST).unwrap_or(i64::MAX / 2),
            _ => EMPTY_COST,
        };
        meter.frames.fetch_sub(cost, Ordering::Relaxed);
        let told = kind == SETTINGS && flags & ACK == 0;
        self.setting = told.then(Vec::new);
        if told && !meter.settled.load(Ordering::Relaxed) {
            meter.streams.store(u32::MAX, Ordering::Relaxed);
        }
        self.end_settings(meter);
    }

    fn read_settings(&mut self, payload: &[u8], meter: &Meter) {
        let Some(setting) = &mut self.setting else { return };
        for byte in payload {
            setting.push(*byte);
            if let [high, low, value @ ..] = &setting[..]
                && let Ok(value) = <[u8; 4]>::try_from(value)
            {
                if u16::from_be_bytes([*high, *low]) == MAX_CONCURRENT_STREAMS {
                    meter.streams.store(u32::from_be_bytes(value), Ordering::Relaxed);
                }
                setting.clear();
            }
        }
        debug_assert!(setting.len() < SETTING, "a setting is complete with six bytes");
        self.end_settings(meter);
    }

    /// Tells that the settings are here, if they are complete.
    fn end_settings(&mut self, meter: &Meter) {
        if self.left == 0 && self.setting.take().is_some() {
            meter.settled.store(true, Ordering::Release);
            meter.settings.notify_waiters();
        }
    }
}

/// A transport whose frames are counted.
pub(crate) struct Counted {
    transport: Transport,
    frames: Frames,
    meter: Arc<Meter>,
}

impl Counted {
    pub(crate) fn new(transport: Transport) -> Self {
        let meter = transport.meter();
        Self { transport, frames: Frames::default(), meter }
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.meter.check()?;
        let before = buf.filled().len();
        let result = Pin::new(&mut this.transport).poll_read(cx, buf);
        this.frames.read(&buf.filled()[before..], &this.meter);
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 0], payload].concat()
    }

    fn settings(streams: u32) -> Vec<u8> {
        let value = streams.to_be_bytes();
        frame(SETTINGS, 0, &[&[0, 4, 0, 1, 0, 0, 0, 3], &value[..]].concat())
    }

    #[test]
    fn the_streams_that_a_receiver_allows_are_read_from_its_settings_in_pieces_of_any_size() {
        let bytes = [frame(WINDOW_UPDATE, 0, &[0, 0, 0, 9]), settings(7), frame(DATA, 0, b"answer")].concat();
        for size in 1..bytes.len() {
            let (meter, mut frames) = (Meter::default(), Frames::default());
            assert_eq!(meter.streams(), UNSAID_STREAMS);
            bytes.chunks(size).for_each(|piece| frames.read(piece, &meter));
            assert_eq!(meter.streams(), 7, "in pieces of {size}");
            assert!(meter.settled.load(Ordering::Relaxed));
        }
    }

    #[test]
    fn settings_that_leave_the_streams_open_allow_any_number_and_an_acknowledgement_says_nothing() {
        let (meter, mut frames) = (Meter::default(), Frames::default());
        frames.read(&frame(SETTINGS, ACK, &[]), &meter);
        assert_eq!((meter.streams(), meter.settled.load(Ordering::Relaxed)), (UNSAID_STREAMS, false));
        frames.read(&frame(SETTINGS, 0, &[]), &meter);
        assert_eq!((meter.streams(), meter.settled.load(Ordering::Relaxed)), (u32::MAX, true));
        frames.read(&settings(3), &meter);
        frames.read(&frame(SETTINGS, 0, &[]), &meter);
        assert_eq!(meter.streams(), 3, "later settings change what they name");
    }

    #[test]
    fn what_is_left_of_a_request_is_taken_back_when_it_is_over() {
        let (meter, mut frames) = (Meter::default(), Frames::default());
        meter.grant(Credit::of_request(0));
        meter.settle(Credit::default());
        for _ in 0..MAX_IDLE_FRAMES / EMPTY_COST {
            frames.read(&settings(1), &meter);
        }
        assert!(!meter.is_spent());
        frames.read(&settings(1), &meter);
        assert!(meter.is_spent() && meter.check().is_err());
    }

    #[test]
    fn bytes_count_until_counting_is_turned_off() {
        let meter = Meter::default();
        meter.count_bytes(usize::try_from(HANDSHAKE_BYTES).unwrap());
        assert!(meter.check().is_ok());
        meter.count_bytes(1);
        assert!(meter.check().is_err());
        let meter = Meter::default();
        meter.turn_off();
        meter.count_bytes(usize::MAX);
        assert!(meter.check().is_ok());
    }
}
