//! The frames of HTTP/2, in both directions (RFC 9113 §4): their heads are read on their way, and counted ([`Meter`]). It is learned
//! from SETTINGS how many streams the receiver allows, and from WINDOW_UPDATE and the DATA that is written how much the
//! connection takes, which hyper does not tell.
//!
//! What a receiver sends is passed on one frame at a time, so that it is known which was the last when h2 ends the connection
//! because of one. h2 does not see
//!
//! * DATA frames that are empty, and do not end their stream: they say nothing, and it ends a connection that has brought a hundred.
//!   It counts those in which there is nothing but padding, too; they take a part of the windows, so a stream that brings one is spent.
//! * DATA of streams that are over as far as we are concerned. h2 would count each of them against the connection. They have
//!   taken a part of the connection's window; so it sees one large frame instead of them, which it passes over.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;

use crate::meter::{Charged, EMPTY_COST, HEAD_BYTES_PER_COST, HEAD_COST, Meter};
use crate::transport::Transport;

/// So much is read at a time.
const READ_BYTES: usize = 8 * 1024;
/// The longest frame that h2 takes, and what is passed over in one (RFC 9113 §4.2).
const MAX_FRAME_BYTES: usize = 16_384;
/// So much is not passed on before h2 hears of it.
const SKIPPED_BYTES: usize = 8 * 1024;

/// The kinds of frames that matter here (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const MAX_CONCURRENT_STREAMS: u16 = 3;

const HEAD: usize = 9;
const SETTING: usize = 6;
const INCREMENT: usize = 4;
/// The longest DATA frame with nothing but padding: the length of that, and as much as it can say (RFC 9113 §6.1).
const MAX_PADDING: usize = 1 + 255;
/// What a client sends before its first frame.
const PREFACE: usize = 24;

/// The head of a frame.
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    /// The number of its stream, or 0 if it is of the connection.
    stream: u32,
}

impl Head {
    fn parse(bytes: [u8; HEAD]) -> Self {
        let [long, middle, short, kind, flags, stream @ ..] = bytes;
        let length = u32::from_be_bytes([0, long, middle, short]) as usize;
        // The first bit means nothing.
        Self { length, kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff }
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

impl Content {
    fn of(head: &Head) -> Self {
        match head.kind {
            SETTINGS if head.flags & ACK == 0 => Self::Settings,
            // One of another length is an error, with which h2 ends the connection.
            WINDOW_UPDATE if head.stream == 0 && head.length == INCREMENT => Self::Window,
            _ => Self::Other,
        }
    }
}

/// Reads the heads of frames that a receiver sends, its settings, and how much more it takes.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    parts: Parts,
    content: Content,
    /// The setting, or the increment of the window, that is being read.
    field: Vec<u8>,
    /// The stream of the frame that is being read.
    stream: u32,
    charged: Charged,
    /// h2 does not see it.
    skips: bool,
    /// Whether h2 sees it is known when its first byte is here, which says how much of it is padding.
    is_undecided: bool,
    /// It is a head, or a part of one, that another frame goes on with.
    awaits_more: bool,
    /// When it is complete, the receiver has ended the stream.
    ends: bool,
    /// Of what h2 does not see, so much takes a part of the window.
    skipped: usize,
    /// Nothing of what was read last was counted as a stream's yet.
    fresh: bool,
}

impl Frames {
    /// More has come.
    fn arrived(&mut self) {
        self.fresh = true;
    }

    /// Takes the next part off `bytes`, and adds what h2 is to see of it to `passed`. False if there is nothing more.
    fn pass(&mut self, bytes: &mut &[u8], passed: &mut Vec<u8>, meter: &Meter) -> bool {
        let Some(part) = self.parts.next(bytes) else { return false };
        match part {
            Part::Head(head) => {
                self.begin(&head, meter);
                self.content = Content::of(&head);
                if self.content == Content::Settings {
                    meter.settings_begin();
                }
                if !self.skips && !self.is_undecided {
                    passed.extend_from_slice(&self.parts.head);
                }
            }
            Part::Payload(payload) => {
                if std::mem::take(&mut self.is_undecided) {
                    self.decide(payload, passed, meter);
                }
                self.go_on(meter);
                self.read_payload(payload, meter);
                if !self.skips {
                    passed.extend_from_slice(payload);
                }
            }
        }
        if self.parts.left == 0 {
            self.end(passed, meter);
        }
        // What it sees instead of others is of this stream, too.
        if !passed.is_empty() {
            meter.doubt(self.stream);
        }
        true
    }

    /// The head of a frame is complete.
    fn begin(&mut self, head: &Head, meter: &Meter) {
        let cost = match head.kind {
            DATA if head.length > 0 || head.flags & END_STREAM != 0 => 1,
            RST_STREAM | WINDOW_UPDATE => 1,
            HEADERS | CONTINUATION => {
                HEAD_COST + i64::try_from(head.length / HEAD_BYTES_PER_COST).unwrap_or(i64::MAX / 2)
            }
            PING if head.flags & ACK != 0 => meter.cost_of_acknowledgement(),
            _ => EMPTY_COST,
        };
        self.field.clear();
        self.stream = head.stream;
        let is_head = matches!(head.kind, HEADERS | CONTINUATION);
        self.charged = meter.charge(head.stream, cost, HEAD + head.length, is_head);
        if self.charged != Charged::Connection {
            meter.refund(i64::try_from(HEAD + head.length).unwrap_or(0));
            if std::mem::take(&mut self.fresh) {
                meter.explain_record();
            }
        }
        let says_nothing = head.length == 0 && head.flags & END_STREAM == 0 && self.charged == Charged::Stream;
        let is_late = self.charged == Charged::Late && head.length <= MAX_FRAME_BYTES;
        self.skips = head.kind == DATA && (says_nothing || is_late);
        let may_be_padding = head.flags & (PADDED | END_STREAM) == PADDED && (1..=MAX_PADDING).contains(&head.length);
        self.is_undecided = head.kind == DATA && may_be_padding && self.charged == Charged::Stream;
        if self.skips {
            self.skipped += head.length;
        }
        self.ends = match head.kind {
            HEADERS | DATA => head.flags & END_STREAM != 0,
            CONTINUATION => self.ends,
            kind => kind == RST_STREAM,
        };
        self.awaits_more = is_head && head.flags & END_HEADERS == 0;
    }

    /// The first bytes of a frame are here that may have nothing but padding.
    fn decide(&mut self, payload: &[u8], passed: &mut Vec<u8>, meter: &Meter) {
        let length = Head::parse(self.parts.head).length;
        self.skips = payload.first().is_some_and(|padding| 1 + usize::from(*padding) == length);
        if self.skips {
            self.skipped += length;
            meter.spend(self.stream);
        } else {
            passed.extend_from_slice(&self.parts.head);
        }
    }

    /// A frame goes on. If it does in another record than it began in, that is one more to be read for its stream.
    fn go_on(&mut self, meter: &Meter) {
        if self.charged != Charged::Connection && std::mem::take(&mut self.fresh) {
            meter.charge_record(self.stream);
            meter.explain_record();
        }
    }

    /// A frame is complete.
    fn end(&mut self, passed: &mut Vec<u8>, meter: &Meter) {
        if std::mem::take(&mut self.content) == Content::Settings {
            meter.settings_end();
        }
        if self.ends && !self.awaits_more {
            self.ends = false;
            meter.end_stream(self.stream);
        }
        if self.skips && self.skipped >= SKIPPED_BYTES {
            let length = self.skipped.min(MAX_FRAME_BYTES);
            self.skipped -= length;
            let [_, long, middle, short] = u32::try_from(length).unwrap_or(0).to_be_bytes();
            passed.extend_from_slice(&[long, middle, short, DATA, 0]);
            passed.extend_from_slice(&self.stream.to_be_bytes());
            passed.resize(passed.len() + length, 0);
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
                        meter.allow(u32::from_be_bytes([*a, *b, *c, *d]));
                    }
                    self.field.clear();
                }
                _ => {}
            }
        }
        debug_assert!(self.field.len() < SETTING, "a setting is complete with six bytes");
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
                    meter.asked();
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
    /// What was read; so much of it is passed on, or is not to be.
    input: Vec<u8>,
    taken: usize,
    /// What is to be passed on, of one frame; so much of it is.
    passed: Vec<u8>,
    given: usize,
}

impl Counted {
    pub(crate) fn new(transport: Transport) -> Self {
        let meter = transport.meter();
        let (frames, written) = (Frames::default(), Written::new());
        Self { transport, frames, written, meter, input: Vec::new(), taken: 0, passed: Vec::new(), given: 0 }
    }

    /// Gives what is to be passed on, as far as there is room.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let rest = &self.passed[self.given..];
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        self.given += count;
        if self.given == self.passed.len() {
            self.passed.clear();
            self.given = 0;
        }
        count > 0
    }

    /// Takes the next frame, or what is here of it, off what was read.
    fn take(&mut self) -> bool {
        let mut rest = &self.input[self.taken..];
        while self.frames.pass(&mut rest, &mut self.passed, &self.meter) {
            if self.frames.parts.left == 0 && !self.passed.is_empty() {
                break;
            }
        }
        self.taken = self.input.len() - rest.len();
        !self.passed.is_empty()
    }

    /// Reads more; whether there is any.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.input.resize(READ_BYTES, 0);
        let mut more = ReadBuf::new(&mut self.input);
        let result = Pin::new(&mut self.transport).poll_read(cx, &mut more);
        let count = more.filled().len();
        self.input.truncate(count);
        self.taken = 0;
        if result.is_pending() {
            // There are thousands that wait.
            (self.input, self.passed) = (Vec::new(), Vec::new());
            return Poll::Pending;
        }
        ready!(result)?;
        self.frames.arrived();
        Poll::Ready(Ok(count > 0))
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        // There may be thousands of frames: those for whom they are read some before the next come.
        let turn = ready!(coop::poll_proceed(cx));
        let this = &mut *self;
        if this.passed.is_empty() {
            this.meter.doubt(0);
        }
        loop {
            if this.give(buf) {
                turn.made_progress();
                return Poll::Ready(Ok(()));
            }
            if this.take() {
                continue;
            }
            this.meter.check()?;
            if !ready!(this.poll_more(cx))? {
                return Poll::Ready(Ok(()));
            }
        }
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
    use crate::holders::owner;
    use crate::meter::{
        Credit, FIRST_WINDOW, MAX_FRAMES, MAX_IDLE_FRAMES, MAX_LATE_FRAMES, MAX_WINDOW, UNASKED_COST, UNSAID_STREAMS,
    };

    impl Frames {
        /// What h2 is to see of these bytes, which came at once.
        fn read(&mut self, mut bytes: &[u8], meter: &Meter) -> Vec<u8> {
            let mut passed = Vec::new();
            self.arrived();
            while self.pass(&mut bytes, &mut passed, meter) {}
            passed
        }
    }

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
            bytes.chunks(size).for_each(|piece| drop(frames.read(piece, &meter)));
            assert_eq!(meter.streams(), 7, "in pieces of {size}");
            assert!(meter.is_settled());
        }
    }

    #[test]
    fn settings_that_leave_the_streams_open_allow_any_number_and_an_acknowledgement_says_nothing() {
        let (meter, mut frames) = (Meter::default(), Frames::default());
        frames.read(&frame(SETTINGS, ACK, &[]), &meter);
        assert_eq!((meter.streams(), meter.is_settled()), (UNSAID_STREAMS, false));
        frames.read(&frame(SETTINGS, 0, &[]), &meter);
        assert_eq!((meter.streams(), meter.is_settled()), (u32::MAX, true));
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
            bytes.chunks(size).for_each(|piece| drop(frames.read(piece, &meter)));
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
            let before = meter.frames_left();
            frames.read(&acknowledgement, meter);
            before - meter.frames_left()
        };
        assert_eq!(cost(&meter), UNASKED_COST);
        // What is acknowledged to the receiver is no question.
        written.read(&[ping.clone(), acknowledgement.clone()].concat(), &meter);
        assert_eq!([cost(&meter), cost(&meter)], [EMPTY_COST, UNASKED_COST]);
    }

    const STREAM: u32 = 1;

    /// A frame of the first stream.
    fn of_stream(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = frame(kind, flags, payload);
        frame[5..HEAD].copy_from_slice(&STREAM.to_be_bytes());
        frame
    }

    fn with_stream() -> (Meter, tokio_util::sync::CancellationToken) {
        let meter = Meter::default();
        let (opened, ()) = meter.open(owner(1, 1), 0, || ());
        assert_eq!(opened.number, STREAM);
        (meter, opened.spent)
    }

    #[test]
    fn a_stream_that_has_used_its_share_is_spent_and_costs_the_connection_nothing_until_it_goes_on_for_long() {
        let (meter, spent) = with_stream();
        let (mut frames, piece) = (Frames::default(), of_stream(DATA, 0, b"x"));
        for _ in 0..MAX_FRAMES {
            assert_eq!(frames.read(&piece, &meter), piece);
        }
        assert!(!spent.is_cancelled());
        frames.read(&piece, &meter);
        assert!(spent.is_cancelled());
        meter.doubt(0);
        let late: usize = (0..MAX_LATE_FRAMES).map(|_| frames.read(&piece, &meter).len()).sum();
        assert_eq!(late, HEAD + SKIPPED_BYTES, "the window is given back in one frame");
        assert_eq!(meter.culprit(), Some(owner(1, 1)), "which is of that stream, too");
        meter.doubt(0);
        assert!(!meter.is_spent() && meter.culprit().is_none());
        frames.read(&piece, &meter);
        assert_eq!((meter.is_spent(), meter.culprit()), (true, Some(owner(1, 1))));
    }

    #[test]
    fn what_comes_late_for_a_request_that_is_over_costs_nobody_anything_until_the_receiver_ends_it() {
        let (meter, _) = with_stream();
        let (mut frames, piece) = (Frames::default(), of_stream(DATA, 0, b"x"));
        meter.close(STREAM);
        for _ in 0..2 * MAX_IDLE_FRAMES {
            assert!(frames.read(&piece, &meter).is_empty());
        }
        assert!(!meter.is_spent());
        frames.read(&of_stream(RST_STREAM, 0, &[0; 4]), &meter);
        for _ in 0..=MAX_IDLE_FRAMES {
            frames.read(&piece, &meter);
        }
        meter.doubt(0);
        assert!(meter.is_spent() && meter.culprit().is_none());
    }

    #[test]
    fn data_that_is_empty_is_not_passed_on_unless_it_ends_the_stream() {
        let (meter, _) = with_stream();
        let (mut frames, end) = (Frames::default(), of_stream(DATA, END_STREAM, b""));
        assert!(frames.read(&of_stream(DATA, 0, b""), &meter).is_empty());
        assert_eq!(frames.read(&end, &meter), end);
    }

    #[test]
    fn data_with_nothing_but_padding_spends_its_stream_and_is_not_passed_on_unless_it_ends_it() {
        let padding = |flags| of_stream(DATA, PADDED | flags, &[3, 0, 0, 0]);
        for size in 1..=padding(0).len() {
            let ((meter, spent), mut frames) = (with_stream(), Frames::default());
            let whole = padding(END_STREAM);
            let passed: Vec<u8> = whole.chunks(size).flat_map(|piece| frames.read(piece, &meter)).collect();
            assert_eq!((passed, spent.is_cancelled()), (whole, false), "in pieces of {size}");
            let ((meter, spent), mut frames) = (with_stream(), Frames::default());
            let passed: usize = padding(0).chunks(size).map(|piece| frames.read(piece, &meter).len()).sum();
            assert_eq!((passed, spent.is_cancelled()), (0, true), "in pieces of {size}");
        }
        let ((meter, spent), mut frames) = (with_stream(), Frames::default());
        let mut passed = 0;
        for _ in 0..SKIPPED_BYTES / 4 {
            passed += frames.read(&padding(0), &meter).len();
        }
        assert_eq!((passed, spent.is_cancelled()), (HEAD + SKIPPED_BYTES, true), "the window is given back");
    }

    #[test]
    fn what_comes_when_nobody_reads_it_is_not_passed_on_and_its_window_is_given_back() {
        let (meter, spent) = with_stream();
        let (mut frames, piece) = (Frames::default(), of_stream(DATA, 0, b"x"));
        assert_eq!(frames.read(&piece, &meter), piece);
        meter.stop_reading(STREAM);
        let passed: usize = (1..MAX_FRAMES + MAX_LATE_FRAMES).map(|_| frames.read(&piece, &meter).len()).sum();
        assert_eq!(passed, HEAD + SKIPPED_BYTES);
        meter.close(STREAM);
        assert!(!meter.is_spent() && !spent.is_cancelled());
        frames.read(&piece, &meter);
        assert_eq!((meter.is_spent(), meter.culprit()), (true, Some(owner(1, 1))));
    }

    #[test]
    fn everything_else_is_passed_on_as_it_comes_in_pieces_of_any_size() {
        let bytes = [
            settings(7),
            of_stream(HEADERS, 0, &[1; 40]),
            of_stream(CONTINUATION, END_HEADERS, &[2; 3]),
            of_stream(DATA, 0, &[3; 100]),
            of_stream(DATA, PADDED, &[1, 3, 0]),
            of_stream(DATA, PADDED, &[9, 0]),
            frame(PING, 0, &[4; 8]),
            of_stream(HEADERS, END_HEADERS | END_STREAM, &[5; 9]),
        ]
        .concat();
        for size in 1..=bytes.len() {
            let ((meter, _), mut frames) = (with_stream(), Frames::default());
            let passed: Vec<u8> = bytes.chunks(size).flat_map(|piece| frames.read(piece, &meter)).collect();
            assert_eq!(passed, bytes, "in pieces of {size}");
        }
    }
}
