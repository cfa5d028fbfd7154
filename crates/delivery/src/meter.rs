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
//! * Frames are counted where they are plain text (`frames.rs`). Those of one stream, and the records that bring them, are its
//!   request's alone: a stream that has used its share up is spent, which ends that request, and what is on its way still
//!   ([`MAX_LATE_FRAMES`]) costs nobody else anything. So the connection's credit is for what belongs to no stream.
//! * Of a connection that ends it is known because of which stream, if it was one ([`Meter::culprit`]).

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::holders::Owner;

postrider_domain::limits! {
    in "Receivers over HTTP/2";
    /// What a receiver may send for one request, in frames; one that carries nothing of a response counts as eight, an acknowledgement of what was not asked as 128, one of a head as 48 and by its length
    pub const MAX_FRAMES: i64 = 1_024, "frames", beyond "the request is reset, and a status that is known stands; of what belongs to no request: the connection is closed";
    /// The same in bytes
    pub const MAX_BYTES: i64 = 262_144, "bytes", beyond "as with its frames";
    /// What may come for one request, in frames, after it was reset or given up, or enough of its response was read: it was on its way
    pub const MAX_LATE_FRAMES: i64 = 8_192, "frames", beyond "the connection is closed; others' requests on it are made again, and the application gets connections of its own";
    /// Requests over one connection of which more may come after they were reset or given up
    pub(crate) const MAX_LATE_STREAMS: usize = 256, "requests", beyond "what comes for the oldest counts as what belongs to none";
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
/// What a record of TLS takes beside what is in it, at most: its head, a number, and what authenticates it (RFC 5246 §6.2.3.3).
const RECORD_OVERHEAD: i64 = 5 + 8 + 16;
/// What a frame costs that carries nothing of a response.
pub(crate) const EMPTY_COST: i64 = 8;
/// What the acknowledgement of a PING costs that was not sent: h2 warns of each.
pub(crate) const UNASKED_COST: i64 = 128;
/// What a frame of a head costs, and so many bytes of it: it may be an interim response, and a byte may stand for a field.
pub(crate) const HEAD_COST: i64 = 48;
pub(crate) const HEAD_BYTES_PER_COST: usize = 128;
/// What a connection takes before the receiver has said more, and the most it can say (RFC 9113 §6.9).
pub(crate) const FIRST_WINDOW: i64 = 65_535;
pub(crate) const MAX_WINDOW: i64 = 0x7fff_ffff;
/// The streams that are taken for allowed before the receiver has said how many (RFC 9113 §6.5.2 recommends at least 100).
pub(crate) const UNSAID_STREAMS: u32 = 100;

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
    by_stream: Mutex<ByStream>,
    /// The stream of the last frame that was passed on, until more is asked for: what is wrong with it ends the connection.
    in_doubt: AtomicU32,
}

/// What the receiver may still send on each stream.
#[derive(Debug, Default)]
struct ByStream {
    /// How many were opened.
    opened: u32,
    open: HashMap<u32, Stream, foldhash::fast::RandomState>,
    /// Whose requests are over, while the receiver has not ended them.
    late: BTreeMap<u32, Late>,
    /// The stream that brought so much that the connection ends.
    ruinous: Option<Owner>,
    /// The stream of the last frame that was counted, and whose it is.
    charged: Option<(u32, Owner)>,
}

/// The stream of a request that is under way.
#[derive(Debug)]
struct Stream {
    owner: Owner,
    frames: i64,
    bytes: i64,
    late: i64,
    /// The receiver has ended it.
    ended: bool,
    /// Nobody reads what comes on it.
    unread: bool,
    spent: CancellationToken,
    spent_on_heads: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Late {
    owner: Owner,
    frames: i64,
}

/// A stream that was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) number: u32,
    /// Told when the receiver has sent too much on it.
    pub(crate) spent: CancellationToken,
    /// Whether that was a head, so that it was one of too many.
    pub(crate) spent_on_heads: Arc<AtomicBool>,
}

/// Whose a frame is, and what is done with it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Charged {
    /// It belongs to a request.
    Stream,
    /// It belongs to a request that is over, as far as we are concerned.
    Late,
    /// It belongs to none.
    #[default]
    Connection,
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
            by_stream: Mutex::default(),
            in_doubt: AtomicU32::new(0),
        }
    }
}

impl ByStream {
    /// Whose a stream is, or was.
    fn owner(&self, number: u32) -> Option<Owner> {
        let open = self.open.get(&number).map(|stream| stream.owner);
        open.or_else(|| self.late.get(&number).map(|late| late.owner))
    }

    fn charge(&mut self, number: u32, (cost, bytes, is_head): (i64, i64, bool)) -> Charged {
        // It may be over before it is known what was made of this frame.
        self.charged = self.owner(number).map(|owner| (number, owner));
        if let Some(stream) = self.open.get_mut(&number) {
            if stream.ended {
                return Charged::Connection;
            }
            if !stream.unread && !stream.spent.is_cancelled() {
                stream.frames -= cost;
                stream.bytes -= bytes;
                if stream.frames < 0 || stream.bytes < 0 {
                    stream.spent_on_heads.store(is_head, Ordering::Release);
                    stream.spent.cancel();
                }
                return Charged::Stream;
            }
            stream.late -= cost;
            if stream.late < 0 {
                self.ruinous = self.ruinous.or(Some(stream.owner));
            }
            return Charged::Late;
        }
        let Some(late) = self.late.get_mut(&number) else { return Charged::Connection };
        late.frames -= cost;
        if late.frames < 0 {
            self.ruinous = self.ruinous.or(Some(late.owner));
        }
        Charged::Late
    }
}

impl Meter {
    /// Opens a stream for a request with a body of so many bytes, by whatever `hands_over` the request. Streams are numbered in the
    /// order in which requests are handed over.
    pub(crate) fn open<T>(&self, owner: Owner, size: usize, hands_over: impl FnOnce() -> T) -> (Opened, T) {
        let credit = Credit::of_request(size);
        let mut by_stream = self.by_stream.lock();
        let number = by_stream.opened.saturating_mul(2).saturating_add(1);
        by_stream.opened = by_stream.opened.saturating_add(1);
        let spent = CancellationToken::new();
        let spent_on_heads = Arc::new(AtomicBool::new(false));
        let opened = Opened { number, spent: spent.clone(), spent_on_heads: Arc::clone(&spent_on_heads) };
        let (frames, bytes, late) = (credit.frames, credit.bytes, MAX_LATE_FRAMES);
        let stream = Stream { owner, frames, bytes, late, ended: false, unread: false, spent, spent_on_heads };
        by_stream.open.insert(number, stream);
        (opened, hands_over())
    }

    /// The request on a stream is over.
    pub(crate) fn close(&self, number: u32) {
        let mut by_stream = self.by_stream.lock();
        let Some(stream) = by_stream.open.remove(&number).filter(|stream| !stream.ended) else { return };
        if by_stream.late.len() >= MAX_LATE_STREAMS {
            by_stream.late.pop_first();
        }
        by_stream.late.insert(number, Late { owner: stream.owner, frames: stream.late });
    }

    /// Nobody reads what comes on a stream any more: it is late, and what is left of the stream's share is for it, too.
    pub(crate) fn stop_reading(&self, number: u32) {
        let mut by_stream = self.by_stream.lock();
        if let Some(stream) = by_stream.open.get_mut(&number) {
            stream.late = stream.late.saturating_add(std::mem::take(&mut stream.frames).max(0));
            stream.unread = true;
        }
    }

    /// The request on a stream is over because of what the receiver has sent on it.
    pub(crate) fn spend(&self, number: u32) {
        if let Some(stream) = self.by_stream.lock().open.get(&number) {
            stream.spent.cancel();
        }
    }

    /// The receiver has ended a stream.
    pub(crate) fn end_stream(&self, number: u32) {
        let mut by_stream = self.by_stream.lock();
        if by_stream.late.remove(&number).is_none()
            && let Some(stream) = by_stream.open.get_mut(&number)
        {
            stream.ended = true;
        }
    }

    /// Counts a frame.
    pub(crate) fn charge(&self, number: u32, cost: i64, bytes: usize, is_head: bool) -> Charged {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX / 2);
        let charged = self.by_stream.lock().charge(number, (cost, bytes, is_head));
        if charged == Charged::Connection {
            self.frames.fetch_sub(cost, Ordering::Relaxed);
        }
        charged
    }

    /// A record goes on with a frame of this stream: one more that is to be read for it.
    pub(crate) fn charge_record(&self, number: u32) {
        self.by_stream.lock().charge(number, (1, 0, false));
    }

    /// So many bytes of what came are some stream's.
    pub(crate) fn refund(&self, bytes: i64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A record brought what is some stream's.
    pub(crate) fn explain_record(&self) {
        self.bytes.fetch_add(RECORD_OVERHEAD, Ordering::Relaxed);
        self.overhead.fetch_add(RECORD_OVERHEAD, Ordering::Relaxed);
    }

    /// A frame of this stream is passed on, or, if it is 0, all that were are understood.
    pub(crate) fn doubt(&self, number: u32) {
        self.in_doubt.store(number, Ordering::Release);
    }

    /// Because of whose request the connection has ended, if it was one.
    pub(crate) fn culprit(&self) -> Option<Owner> {
        let by_stream = self.by_stream.lock();
        let in_doubt = || {
            let number = self.in_doubt.load(Ordering::Acquire);
            let charged = by_stream.charged.filter(|(charged, _)| *charged == number).map(|(_, owner)| owner);
            charged.or_else(|| by_stream.owner(number))
        };
        by_stream.ruinous.or_else(in_doubt)
    }

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
        self.frames.load(Ordering::Relaxed) < 0
            || self.bytes.load(Ordering::Relaxed) < 0
            || self.by_stream.lock().ruinous.is_some()
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

    pub(crate) fn widen(&self, by: u32) {
        let wider = |window: i64| Some((window + i64::from(by)).min(MAX_WINDOW));
        // h2 ends a connection whose window is raised beyond what can be, so that one need not be right.
        let _ = self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, wider);
        self.whole_window.fetch_max(self.window.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    pub(crate) fn wrote(&self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(MAX_WINDOW);
        self.window.fetch_sub(bytes, Ordering::Relaxed);
        // A body whose request is over may still be written, if the receiver did not wait for it.
        let fewer = |unwritten: i64| Some((unwritten - bytes).max(0));
        let _ = self.unwritten.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
    }

    /// What the acknowledgement of a PING costs.
    pub(crate) fn cost_of_acknowledgement(&self) -> i64 {
        let fewer = |pings: i64| (pings > 0).then(|| pings - 1);
        let asked = self.pings.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
        asked.map_or(UNASKED_COST, |_| EMPTY_COST)
    }

    /// A PING was sent.
    pub(crate) fn asked(&self) {
        self.pings.fetch_add(1, Ordering::Relaxed);
    }

    /// The receiver allows so many streams.
    pub(crate) fn allow(&self, streams: u32) {
        self.streams.store(streams, Ordering::Relaxed);
    }

    /// The receiver's settings begin, which leave open how many streams there are unless they say so.
    pub(crate) fn settings_begin(&self) {
        if !self.settled.load(Ordering::Relaxed) {
            self.allow(u32::MAX);
        }
    }

    /// The receiver's settings are here.
    pub(crate) fn settings_end(&self) {
        self.settled.store(true, Ordering::Release);
        self.settings.notify_waiters();
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

#[cfg(test)]
mod tests {
    use super::*;

    impl Meter {
        pub(crate) fn is_settled(&self) -> bool {
            self.settled.load(Ordering::Relaxed)
        }

        pub(crate) fn frames_left(&self) -> i64 {
            self.frames.load(Ordering::Relaxed)
        }
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
