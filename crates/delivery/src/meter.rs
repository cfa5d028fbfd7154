//! What a receiver may send, and what it takes: what comes over TLS, and over HTTP/2 bytes and frames, is counted, and a
//! connection that brings too much of what is no response is ended.
//!
//! h2 and hyper take interim responses, SETTINGS, PING, empty frames and the like without limit and without telling: a
//! receiver could keep a core busy with them, even after its response was given, or fill the memory with heads. So a
//! connection has a credit, which each request raises, and each byte and frame lowers; when the request is over, what is
//! left of its share is taken back ([`Meter::settle`]). A connection that has used its credit up reads nothing more.
//!
//! * Bytes are counted as they come off the network, so that TLS records with nothing in them count, too.
//! * Of TLS, whatever is not HTTP is counted by itself: heads of records, session tickets, changes of keys. A ticket of
//!   18 bytes costs as much as 2,000 bytes of a response, and TLS takes as many as come. This holds for HTTP/1, too, whose
//!   parser bounds the rest.
//! * Frames are counted where they are plain text, by a reader of their nine-byte heads. It also learns from SETTINGS how
//!   many streams the receiver allows, and from WINDOW_UPDATE and the DATA that is written how much the connection takes,
//!   which hyper does not tell.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::transport::Transport;

postrider_domain::limits! {
    in "Receivers over HTTP/2";
    /// What a receiver may send for one request, in frames; one that carries nothing of a response counts as eight, an acknowledgement of what was not asked as 128, one of a head as 48 and by its length
    pub const MAX_FRAMES: i64 = 1_024, "frames", beyond "the connection is closed";
    /// What a receiver may send for one request, as it comes over the network
    pub const MAX_BYTES: i64 = 262_144, "bytes", beyond "the connection is closed";
    /// What a receiver may send while it owes no response
    pub const MAX_IDLE_FRAMES: i64 = 256, "frames", beyond "the connection is closed";
    /// What a receiver may send while it owes no response
    pub const MAX_IDLE_BYTES: i64 = 65_536, "bytes", beyond "the connection is closed";
    in "Receivers over TLS";
    /// What a receiver may send for one request beside what HTTP reads: heads of TLS records, session tickets, changes of keys
    pub const MAX_OVERHEAD: i64 = 8_192, "bytes", beyond "the connection is closed; a status that is known stands";
    /// The same, while it owes no response
    pub const MAX_IDLE_OVERHEAD: i64 = 4_096, "bytes", beyond "the connection is closed";
}

/// What a receiver may send in a TLS handshake: rustls takes messages of up to 64 KiB.
const HANDSHAKE_BYTES: i64 = 96 * 1024;
/// The longest TLS record (RFC 5246 §6.2.3): before all of it is here, nobody knows what is in it.
pub(crate) const RECORD: i64 = 5 + 16_384 + 2_048;
/// What receivers are taken to send at most before TLS is on: more than comes.
const UNCOUNTED: i64 = i64::MAX / 2;
/// What a frame costs that carries nothing of a response.
const EMPTY_COST: i64 = 8;
/// What the acknowledgement of a PING costs that was not sent: h2 warns of each.
const UNASKED_COST: i64 = 128;
/// What a frame of a head costs, and so many bytes of it: it may be an interim response, and a byte may stand for a field.
const HEAD_COST: i64 = 48;
const HEAD_BYTES_PER_COST: usize = 128;
/// What a connection takes before the receiver has said more, and the most it can say (RFC 9113 §6.9).
const FIRST_WINDOW: i64 = 65_535;
const MAX_WINDOW: i64 = 0x7fff_ffff;
/// The streams that are taken for allowed before the receiver has said how many (RFC 9113 §6.5.2 recommends at least 100).
const UNSAID_STREAMS: u32 = 100;

/// The receiver has sent too much.
#[derive(Debug, thiserror::Error)]
#[error("the receiver sent too much over TLS that is no response")]
pub(crate) struct TooMuch;

/// A number of frames and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Credit {
    pub(crate) frames: i64,
    pub(crate) bytes: i64,
    /// Of the bytes, those that are not HTTP.
    pub(crate) overhead: i64,
}

impl Credit {
    /// For a request over HTTP/1, whose bytes its parser bounds.
    pub(crate) const OVER_HTTP1: Self = Self { frames: 0, bytes: 0, overhead: MAX_OVERHEAD };

    /// What a receiver may send for a request over HTTP/2 with so many bytes of payload. It acknowledges what it reads of
    /// that, each time in a record.
    pub(crate) fn of_request(payload: usize) -> Self {
        let payload = i64::try_from(payload).unwrap_or(i64::MAX / 2);
        let overhead = MAX_OVERHEAD + payload / 8;
        Self { frames: MAX_FRAMES + payload / 256, bytes: MAX_BYTES + payload / 4, overhead }
    }
}

impl std::ops::AddAssign for Credit {
    fn add_assign(&mut self, other: Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.overhead += other.overhead;
    }
}

impl std::ops::SubAssign for Credit {
    fn sub_assign(&mut self, other: Self) {
        self.frames -= other.frames;
        self.bytes -= other.bytes;
        self.overhead -= other.overhead;
    }
}

/// What one connection may still receive, and may still send.
#[derive(Debug)]
pub(crate) struct Meter {
    frames: AtomicI64,
    bytes: AtomicI64,
    /// What may still come that is not HTTP, or of which that is not known yet.
    overhead: AtomicI64,
    /// Only what is not HTTP is counted: connections of HTTP/1 are only read while a response is awaited.
    off: AtomicBool,
    streams: AtomicU32,
    /// Bytes of bodies that may be written before the receiver has read some of those that were.
    window: AtomicI64,
    /// The largest that the window was: nothing was unread then, as far as is known.
    whole_window: AtomicI64,
    /// Bytes of requests under way that are still to be written.
    unwritten: AtomicI64,
    /// PINGs that were sent and are not acknowledged.
    pings: AtomicI64,
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
            overhead: AtomicI64::new(UNCOUNTED),
            off: AtomicBool::new(false),
            streams: AtomicU32::new(UNSAID_STREAMS),
            window: AtomicI64::new(FIRST_WINDOW),
            whole_window: AtomicI64::new(FIRST_WINDOW),
            unwritten: AtomicI64::new(0),
            pings: AtomicI64::new(0),
            settled: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            settings: Notify::new(),
        }
    }
}

impl Meter {
    /// Counts no more but what is not HTTP.
    pub(crate) fn turn_off(&self) {
        self.off.store(true, Ordering::Relaxed);
    }

    /// TLS is on: from here on what is not HTTP is counted.
    pub(crate) fn secured(&self) {
        self.overhead.store(RECORD + MAX_IDLE_OVERHEAD, Ordering::Relaxed);
    }

    /// So many of the bytes that came are HTTP.
    pub(crate) fn explain(&self, count: usize) {
        self.overhead.fetch_add(i64::try_from(count).unwrap_or(0), Ordering::Relaxed);
    }

    /// Lets the receiver send so much more.
    pub(crate) fn grant(&self, credit: Credit) {
        self.frames.fetch_add(credit.frames, Ordering::Relaxed);
        self.bytes.fetch_add(credit.bytes, Ordering::Relaxed);
        self.overhead.fetch_add(credit.overhead, Ordering::Relaxed);
    }

    /// Takes back what is left of requests that are over. `granted` is what those under way were granted.
    pub(crate) fn settle(&self, granted: Credit) {
        self.frames.fetch_min(MAX_IDLE_FRAMES + granted.frames, Ordering::Relaxed);
        self.bytes.fetch_min(MAX_IDLE_BYTES + granted.bytes, Ordering::Relaxed);
        self.overhead.fetch_min(RECORD + MAX_IDLE_OVERHEAD + granted.overhead, Ordering::Relaxed);
    }

    /// Whether the receiver has sent too much over HTTP/2.
    pub(crate) fn is_spent(&self) -> bool {
        self.frames.load(Ordering::Relaxed) < 0 || self.bytes.load(Ordering::Relaxed) < 0
    }

    /// Whether the receiver has sent too much that is not HTTP.
    pub(crate) fn has_overrun(&self) -> bool {
        self.overhead.load(Ordering::Relaxed) < 0
    }

    /// How many streams the receiver allows at a time.
    pub(crate) fn streams(&self) -> u32 {
        self.streams.load(Ordering::Relaxed)
    }

    /// A body of so many bytes is going to be written.
    pub(crate) fn expect(&self, bytes: usize) {
        self.unwritten.fetch_add(i64::try_from(bytes).unwrap_or(MAX_WINDOW), Ordering::Relaxed);
    }

    /// Nothing is under way: what was not written of bodies won't be.
    pub(crate) fn expect_nothing(&self) {
        self.unwritten.store(0, Ordering::Relaxed);
    }

    /// Whether all that was expected of bodies is written.
    pub(crate) fn is_written(&self) -> bool {
        self.unwritten.load(Ordering::Relaxed) == 0
    }

    /// What is left of the connection's window when all requests under way are written; below zero if some will have to
    /// wait for it.
    pub(crate) fn window_left(&self) -> i64 {
        self.window.load(Ordering::Relaxed) - self.unwritten.load(Ordering::Relaxed)
    }

    /// The connection's window when everything is read.
    pub(crate) fn whole_window(&self) -> i64 {
        self.whole_window.load(Ordering::Relaxed)
    }

    fn widen(&self, by: u32) {
        let wider = |window: i64| Some((window + i64::from(by)).min(MAX_WINDOW));
        // h2 ends a connection whose window is raised beyond what can be, so that one need not be right.
        let _ = self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, wider);
        self.whole_window.fetch_max(self.window.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn wrote(&self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(MAX_WINDOW);
        self.window.fetch_sub(bytes, Ordering::Relaxed);
        // A body whose request is over may still be written, if the receiver did not wait for it.
        let fewer = |unwritten: i64| Some((unwritten - bytes).max(0));
        let _ = self.unwritten.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
    }

    /// What the acknowledgement of a PING costs.
    fn cost_of_acknowledgement(&self) -> i64 {
        let fewer = |pings: i64| (pings > 0).then(|| pings - 1);
        let asked = self.pings.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
        asked.map_or(UNASKED_COST, |_| EMPTY_COST)
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
        let count = i64::try_from(count).unwrap_or(UNCOUNTED);
        if !self.off.load(Ordering::Relaxed) {
            self.bytes.fetch_sub(count, Ordering::Relaxed);
        }
        self.overhead.fetch_sub(count, Ordering::Relaxed);
    }

    /// Fails if the receiver has sent too much over HTTP/2. Asked before more is read: what has been read may hold a
    /// response.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.is_spent() { Err(io::Error::other(TooMuch)) } else { Ok(()) }
    }

    /// Fails if the receiver has sent too much. Asked before more is read off the network, when all HTTP that was in what
    /// came is explained.
    pub(crate) fn check_wire(&self) -> io::Result<()> {
        if self.has_overrun() { Err(io::Error::other(TooMuch)) } else { self.check() }
    }
}

/// The kinds of frames that matter here (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;

const HEAD: usize = 9;
const SETTING: usize = 6;
const INCREMENT: usize = 4;
/// What a client sends before its first frame.
const PREFACE: usize = 24;

/// The head of a frame.
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    /// It is of the connection, not of one stream. The first bit of a stream's number means nothing.
    of_connection: bool,
}

impl Head {
    fn parse(bytes: [u8; HEAD]) -> Self {
        let [long, middle, short, kind, flags, stream @ ..] = bytes;
        let length = u32::from_be_bytes([0, long, middle, short]) as usize;
        Self { length, kind, flags, of_connection: u32::from_be_bytes(stream) << 1 == 0 }
    }
}

/// A part of a stream of frames.
enum Part<'a> {
    Head(Head),
    /// A piece of the last frame's payload.
    Payload(&'a [u8]),
}

/// Takes a stream of bytes, which comes in pieces of any size, apart.
#[derive(Debug, Default)]
struct Parts {
    head: [u8; HEAD],
    /// So much of the head is here.
    read: usize,
    /// Bytes of the frame's payload that are still to come.
    left: usize,
}

impl Parts {
    /// The next part, which it takes off `bytes`.
    fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Part<'a>> {
        if self.left > 0 && !bytes.is_empty() {
            let (payload, rest) = bytes.split_at(self.left.min(bytes.len()));
            self.left -= payload.len();
            *bytes = rest;
            return Some(Part::Payload(payload));
        }
        let (piece, rest) = bytes.split_at((HEAD - self.read).min(bytes.len()));
        self.head[self.read..][..piece.len()].copy_from_slice(piece);
        self.read += piece.len();
        *bytes = rest;
        if self.read < HEAD {
            return None;
        }
        self.read = 0;
        let head = Head::parse(self.head);
        self.left = head.length;
        Some(Part::Head(head))
    }
}

/// What is read of a frame's payload.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Content {
    #[default]
    Other,
    Settings,
    /// The connection's window.
    Window,
}

/// Reads the heads of frames that a receiver sends, its settings, and how much more it takes.
#[derive(Debug, Default)]
struct Frames {
    parts: Parts,
    content: Content,
    /// The setting, or the increment of the window, that is being read.
    field: Vec<u8>,
}

impl Frames {
    fn read(&mut self, mut bytes: &[u8], meter: &Meter) {
        while let Some(part) = self.parts.next(&mut bytes) {
            match part {
                Part::Head(head) => self.begin(&head, meter),
                Part::Payload(payload) => self.read_payload(payload, meter),
            }
            self.end_settings(meter);
        }
    }

    /// The head of a frame is complete.
    fn begin(&mut self, head: &Head, meter: &Meter) {
        let cost = match head.kind {
            DATA if head.length > 0 => 1,
            RST_STREAM | WINDOW_UPDATE => 1,
            HEADERS | CONTINUATION => {
                HEAD_COST + i64::try_from(head.length / HEAD_BYTES_PER_COST).unwrap_or(i64::MAX / 2)
            }
            PING if head.flags & ACK != 0 => meter.cost_of_acknowledgement(),
            _ => EMPTY_COST,
        };
        meter.frames.fetch_sub(cost, Ordering::Relaxed);
        self.field.clear();
        self.content = match head.kind {
            SETTINGS if head.flags & ACK == 0 => Content::Settings,
            // One of another length is an error, with which h2 ends the connection.
            WINDOW_UPDATE if head.of_connection && head.length == INCREMENT => Content::Window,
            _ => Content::Other,
        };
        if self.content == Content::Settings && !meter.settled.load(Ordering::Relaxed) {
            meter.streams.store(u32::MAX, Ordering::Relaxed);
        }
    }

    fn read_payload(&mut self, payload: &[u8], meter: &Meter) {
        if self.content == Content::Other {
            return;
        }
        for byte in payload {
            self.field.push(*byte);
            match (self.content, &self.field[..]) {
                (Content::Window, [a, b, c, d]) => {
                    // The first bit means nothing.
                    meter.widen(u32::from_be_bytes([*a, *b, *c, *d]) & 0x7fff_ffff);
                }
                (Content::Settings, [high, low, a, b, c, d]) => {
                    if u16::from_be_bytes([*high, *low]) == MAX_CONCURRENT_STREAMS {
                        meter.streams.store(u32::from_be_bytes([*a, *b, *c, *d]), Ordering::Relaxed);
                    }
                    self.field.clear();
                }
                _ => {}
            }
        }
        debug_assert!(self.field.len() < SETTING, "a setting is complete with six bytes");
    }

    /// Tells that the settings are here, if they are complete.
    fn end_settings(&mut self, meter: &Meter) {
        if self.parts.left == 0 && self.content == Content::Settings {
            self.content = Content::Other;
            meter.settled.store(true, Ordering::Release);
            meter.settings.notify_waiters();
        }
    }
}

/// Reads the heads of frames that are sent to a receiver: what they have of bodies is taken off the window, and what is asked is
/// noted.
#[derive(Debug)]
struct Written {
    parts: Parts,
}

impl Written {
    fn new() -> Self {
        Self { parts: Parts { left: PREFACE, ..Parts::default() } }
    }

    fn read(&mut self, mut bytes: &[u8], meter: &Meter) {
        while let Some(part) = self.parts.next(&mut bytes) {
            match part {
                Part::Head(head) if head.kind == DATA => meter.wrote(head.length),
                Part::Head(head) if head.kind == PING && head.flags & ACK == 0 => {
                    meter.pings.fetch_add(1, Ordering::Relaxed);
                }
                _ => {}
            }
        }
    }
}

/// A transport whose frames are counted.
pub(crate) struct Counted {
    transport: Transport,
    frames: Frames,
    written: Written,
    meter: Arc<Meter>,
}

impl Counted {
    pub(crate) fn new(transport: Transport) -> Self {
        let meter = transport.meter();
        Self { transport, frames: Frames::default(), written: Written::new(), meter }
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
        let this = &mut *self;
        let written = ready!(Pin::new(&mut this.transport).poll_write(cx, buf))?;
        this.written.read(&buf[..written], &this.meter);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = ready!(Pin::new(&mut this.transport).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for buf in bufs {
            let piece = &buf[..left.min(buf.len())];
            this.written.read(piece, &this.meter);
            left -= piece.len();
        }
        Poll::Ready(Ok(written))
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

    fn update(stream: u32, increment: u32) -> Vec<u8> {
        [&[0, 0, 4, WINDOW_UPDATE, 0][..], &stream.to_be_bytes(), &increment.to_be_bytes()].concat()
    }

    #[test]
    fn the_window_of_a_connection_is_read_from_its_updates_in_pieces_of_any_size() {
        let bytes =
            [update(0, 1_000), settings(7), update(1, 50_000), update(0, 24), frame(DATA, 0, b"answer")].concat();
        for size in 1..=bytes.len() {
            let (meter, mut frames) = (Meter::default(), Frames::default());
            bytes.chunks(size).for_each(|piece| frames.read(piece, &meter));
            assert_eq!(meter.window_left(), FIRST_WINDOW + 1_024, "in pieces of {size}");
            assert_eq!(meter.whole_window(), FIRST_WINDOW + 1_024);
            assert_eq!(meter.streams(), 7);
        }
    }

    #[test]
    fn updates_that_make_no_sense_change_no_window_and_none_grows_beyond_what_can_be() {
        let (meter, mut frames) = (Meter::default(), Frames::default());
        frames.read(&update(0, 0), &meter);
        frames.read(&update(0, 0x8000_0000), &meter);
        frames.read(&frame(WINDOW_UPDATE, 0, &[0, 0, 1]), &meter);
        frames.read(&frame(WINDOW_UPDATE, 0, &[0, 0, 1, 0, 0, 0, 1, 0]), &meter);
        frames.read(&frame(WINDOW_UPDATE, 0, &[]), &meter);
        assert_eq!(meter.window_left(), FIRST_WINDOW);
        frames.read(&update(0x8000_0000, 1), &meter);
        assert_eq!(meter.window_left(), FIRST_WINDOW + 1, "the first bit of a stream's number means nothing");
        frames.read(&update(0, u32::MAX).repeat(3), &meter);
        assert_eq!((meter.window_left(), meter.whole_window()), (MAX_WINDOW, MAX_WINDOW));
    }

    #[test]
    fn what_is_written_of_bodies_is_taken_off_the_window_in_pieces_of_any_size() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let (head, body) = (frame(HEADERS, 4, &[7; 40]), frame(DATA, 0, &[0; 300]));
        let bytes = [&preface[..], &settings(1), &head, &body, &frame(DATA, 1, &[])].concat();
        for size in 1..=bytes.len() {
            let (meter, mut written) = (Meter::default(), Written::new());
            meter.expect(1_000);
            assert_eq!(meter.window_left(), FIRST_WINDOW - 1_000);
            bytes.chunks(size).for_each(|piece| written.read(piece, &meter));
            assert_eq!(meter.window_left(), FIRST_WINDOW - 1_000, "written or not, it is the same");
            meter.expect_nothing();
            assert_eq!(meter.window_left(), FIRST_WINDOW - 300, "in pieces of {size}");
            Frames::default().read(&update(0, 300), &meter);
            assert_eq!((meter.window_left(), meter.whole_window()), (FIRST_WINDOW, FIRST_WINDOW));
        }
    }

    #[test]
    fn what_is_written_without_being_expected_leaves_nothing_behind() {
        let (meter, mut written) = (Meter::default(), Written { parts: Parts::default() });
        written.read(&frame(DATA, 0, &[0; 500]), &meter);
        Frames::default().read(&update(0, 500), &meter);
        meter.expect(100);
        assert_eq!(meter.window_left(), FIRST_WINDOW - 100);
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
    fn an_acknowledgement_that_nobody_asked_for_costs_more_than_one_that_somebody_did() {
        let (meter, mut frames, mut written) =
            (Meter::default(), Frames::default(), Written { parts: Parts::default() });
        let (ping, acknowledgement) = (frame(PING, 0, &[0; 8]), frame(PING, ACK, &[0; 8]));
        let mut cost = |meter: &Meter| {
            let before = meter.frames.load(Ordering::Relaxed);
            frames.read(&acknowledgement, meter);
            before - meter.frames.load(Ordering::Relaxed)
        };
        assert_eq!(cost(&meter), UNASKED_COST);
        // What is acknowledged to the receiver is no question.
        written.read(&[ping.clone(), acknowledgement.clone()].concat(), &meter);
        assert_eq!([cost(&meter), cost(&meter)], [EMPTY_COST, UNASKED_COST]);
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
        meter.count_bytes(1 << 40);
        assert!(meter.check_wire().is_ok());
    }

    /// What can come, in bytes, until it is too much.
    fn overhead_left(meter: &Meter) -> i64 {
        let before = meter.overhead.load(Ordering::Relaxed);
        meter.count_bytes(usize::try_from(before).unwrap());
        assert!(meter.check_wire().is_ok());
        meter.count_bytes(1);
        assert!(meter.check_wire().is_err());
        meter.explain(usize::try_from(before + 1).unwrap());
        before
    }

    #[test]
    fn what_is_not_http_is_counted_over_tls_for_each_request() {
        let meter = Meter::default();
        meter.turn_off();
        meter.secured();
        let idle = RECORD + MAX_IDLE_OVERHEAD;
        assert_eq!(overhead_left(&meter), idle);
        for _ in 0..3 {
            meter.grant(Credit::OVER_HTTP1);
            assert_eq!(overhead_left(&meter), idle + MAX_OVERHEAD);
            meter.count_bytes(100_000);
            meter.explain(100_000);
            meter.settle(Credit::default());
            assert_eq!(overhead_left(&meter), idle);
        }
        meter.grant(Credit::OVER_HTTP1);
        meter.count_bytes(usize::try_from(2 * MAX_OVERHEAD).unwrap());
        meter.settle(Credit::default());
        assert_eq!(overhead_left(&meter), idle - MAX_OVERHEAD, "what was used beyond is not given again");
    }
}
