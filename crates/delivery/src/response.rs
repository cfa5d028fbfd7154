//! Reads an HTTP/1 response as it comes: bytes in, verdict out, without I/O.
//!
//! Of a response only the status, its framing and `Retry-After` matter, so that is what is read; everything else is passed
//! over, whatever it is. The rules:
//!
//! * A complete status line is the verdict. Headers that are not used, in whatever form and number, and a body that breaks
//!   off, has wrong chunks or never ends, do not change it.
//! * Framing that contradicts itself (two different lengths, or a length beside a coding) is refused: the response does not
//!   count, since somebody on its way sees another one. Framing that only cannot be read is as good as none: the body goes on
//!   until the connection ends.
//! * A connection is used again only if the response leaves no doubt about where it ended.
//! * Memory is bounded: of a line, [`MAX_LINE_BYTES`] are held; heads and body are read up to [`MAX_HEAD_BYTES`] and
//!   [`MAX_BODY_BYTES`], interim responses up to [`MAX_INTERIM`].
//! * What is made of the bytes does not depend on how they are divided among reads.

use memchr::{memchr, memchr2};
use postrider_domain::delivery::Failure;
use postrider_domain::time::Timestamp;

use crate::answer::{Received, Trouble};
use crate::limits::{MAX_BODY_BYTES, MAX_HEAD_BYTES, MAX_INTERIM};

/// What is held of a line: enough for a status, and for each header that matters.
const MAX_LINE_BYTES: usize = 1_024;

/// What follows from the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The response goes on.
    More,
    /// It is over. `reusable` if nothing of it can come any more; `surplus` bytes were not its own.
    Over { reusable: bool, surplus: usize },
    /// It does not count.
    Refused(Trouble),
}

/// A response on its way in.
#[derive(Debug)]
pub(crate) struct Parser {
    /// What the system clock said when the request was made: `Retry-After` may name a date.
    wall: Timestamp,
    at: At,
    line: Line,
    /// Bytes of heads so far.
    head: usize,
    /// Bytes of the body so far, with what divides it.
    body: usize,
    interim: usize,
    status: u16,
    framing: Framing,
    /// The header that came last, if the line after it may belong to it.
    pending: Option<Pending>,
    /// Nothing has been odd enough to doubt where the response ends.
    clean: bool,
}

/// A header that matters, of which the last line may not have come: it can be folded.
#[derive(Debug)]
struct Pending {
    name: Name,
    value: Vec<u8>,
    /// None of it is missing.
    whole: bool,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Status,
    Header,
    /// So many bytes of the body, or of its chunk.
    Data(u64),
    ChunkSize,
    ChunkEnd,
    Trailer,
    /// The body, up to the end of the connection.
    UntilClose,
}

/// What follows from a part of the input.
enum Next {
    Go,
    Over { reusable: bool },
    Refused(Trouble),
}

impl Parser {
    pub(crate) fn new(wall: Timestamp) -> Self {
        Self {
            wall,
            at: At::Status,
            line: Line::default(),
            head: 0,
            body: 0,
            interim: 0,
            status: 0,
            framing: Framing::default(),
            pending: None,
            clean: true,
        }
    }

    /// Whether interim responses have come.
    pub(crate) fn has_interim(&self) -> bool {
        self.interim > 0
    }

    /// How many bytes may be read at most.
    pub(crate) fn room(&self) -> usize {
        (MAX_HEAD_BYTES - self.head) + (MAX_BODY_BYTES - self.body)
    }

    /// Takes the next bytes, and notes what they say.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], received: &mut Received) -> Step {
        while !bytes.is_empty() {
            let next = match self.at {
                At::Data(left) => self.data(left, &mut bytes, received),
                At::UntilClose => self.until_close(&mut bytes, received),
                _ => self.read_line(&mut bytes, received),
            };
            match next {
                Next::Go => {}
                Next::Over { reusable } => {
                    let surplus = bytes.len();
                    return Step::Over { reusable: reusable && surplus == 0, surplus };
                }
                Next::Refused(trouble) => {
                    received.refuse();
                    return Step::Refused(trouble);
                }
            }
        }
        Step::More
    }

    /// Nothing more comes: the connection has ended.
    pub(crate) fn end(&self, received: &mut Received) {
        if self.at == At::UntilClose {
            received.finish();
        }
    }

    fn in_head(&self) -> bool {
        matches!(self.at, At::Status | At::Header)
    }

    /// Takes bytes up to the end of a line, and makes something of the line when it is whole.
    fn read_line(&mut self, bytes: &mut &[u8], received: &mut Received) -> Next {
        let (read, limit) =
            if self.in_head() { (&mut self.head, MAX_HEAD_BYTES) } else { (&mut self.body, MAX_BODY_BYTES) };
        let (within, _) = bytes.split_at(bytes.len().min(limit - *read));
        let end = memchr(b'\n', within);
        let taken = end.map_or(within.len(), |end| end + 1);
        *read += taken;
        let full = *read == limit;
        *bytes = &bytes[taken..];
        let next = match end {
            Some(end) => self.line_end(&within[..end], received),
            None => self.line_part(within),
        };
        match next {
            Next::Go if full => self.full(received),
            next => next,
        }
    }

    fn line_part(&mut self, part: &[u8]) -> Next {
        self.line.push(part);
        if self.at == At::Status && !may_be_status(&self.line.held) {
            return no_http(&self.line.held);
        }
        Next::Go
    }

    fn line_end(&mut self, part: &[u8], received: &mut Received) -> Next {
        if self.line.length == 0 {
            // Most lines come in one piece, and need not be held.
            return self.whole_line(Text::of(part), received);
        }
        self.line.push(part);
        let mut line = std::mem::take(&mut self.line);
        let next = self.whole_line(line.text(), received);
        line.clear();
        self.line = line;
        next
    }

    fn whole_line(&mut self, line: Text<'_>, received: &mut Received) -> Next {
        let empty = line.bytes.is_empty();
        match self.at {
            At::Status if empty => Next::Go,
            At::Status => self.status_line(line, received),
            At::Header if empty => self.head_ended(),
            At::Header => self.header(line, received),
            At::ChunkSize => self.chunk_size(line),
            At::ChunkEnd if empty => self.go(At::ChunkSize),
            At::Trailer if empty => {
                received.finish();
                Next::Over { reusable: self.keeps_open() }
            }
            At::Trailer => Next::Go,
            // Something else than the end of a chunk where it should be; the others are no lines.
            At::ChunkEnd | At::Data(_) | At::UntilClose => Next::Over { reusable: false },
        }
    }

    fn go(&mut self, at: At) -> Next {
        self.at = at;
        Next::Go
    }

    /// As much was read as is read at most. A status counts also if only the end of its reason is missing.
    fn full(&mut self, received: &mut Received) -> Next {
        if self.at == At::Status
            && let Some((_, status)) = parse_status(&self.line.held)
            && !is_interim(status)
        {
            received.begin(status);
        }
        if received.status().is_some() {
            Next::Over { reusable: false }
        } else if self.interim > 0 {
            too_many_interim()
        } else {
            refused("the head of the response is too large")
        }
    }

    fn status_line(&mut self, line: Text<'_>, received: &mut Received) -> Next {
        let Some((minor, status)) = parse_status(line.bytes) else { return no_http(line.bytes) };
        self.status = status;
        self.framing = Framing { http_1_0: minor == b'0', ..Framing::default() };
        if is_interim(status) {
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return too_many_interim();
            }
        } else {
            received.begin(status);
        }
        self.go(At::Header)
    }

    /// A response that has no body, whatever its head announces.
    fn is_bodiless(&self) -> bool {
        matches!(self.status, 101 | 204 | 304)
    }

    fn header(&mut self, line: Text<'_>, received: &mut Received) -> Next {
        if is_interim(self.status) {
            return Next::Go;
        }
        let Field { name, value, clean } = Field::parse(line.bytes);
        self.clean &= clean;
        if name == Name::Continuation {
            self.fold(line, received);
            return Next::Go;
        }
        let next = self.header_ended();
        if name == Name::RetryAfter && line.whole {
            received.retry_after(value, self.wall);
        }
        if name != Name::Other {
            self.pending = Some(Pending { name, value: value.to_vec(), whole: line.whole });
        }
        next
    }

    /// A line that belongs to the header before it, as if there were a blank instead of the end of the line.
    fn fold(&mut self, line: Text<'_>, received: &mut Received) {
        let Some(pending) = self.pending.as_mut() else { return };
        let more = trim_end(trim_start(line.bytes));
        pending.whole &= line.whole && pending.value.len() + more.len() < MAX_LINE_BYTES;
        if !pending.whole {
            return;
        }
        if !pending.value.is_empty() && !more.is_empty() {
            pending.value.push(b' ');
        }
        pending.value.extend_from_slice(more);
        if pending.name == Name::RetryAfter {
            received.retry_after(&pending.value, self.wall);
        }
    }

    /// The line after a header is none of its own: now it says what it says.
    fn header_ended(&mut self) -> Next {
        let Some(Pending { name, value, whole }) = self.pending.take() else { return Next::Go };
        self.clean &= whole || name == Name::RetryAfter;
        let framed = match name {
            Name::ContentLength if whole => self.framing.content_length(&value),
            Name::ContentLength => self.framing.unreadable_length(),
            Name::TransferEncoding => self.framing.transfer_encoding(&value, whole),
            Name::Connection => {
                self.framing.connection(&value);
                Ok(())
            }
            Name::RetryAfter | Name::Continuation | Name::Other => Ok(()),
        };
        match framed {
            Err(_) if self.is_bodiless() => self.clean = false,
            Err(why) => return self.contradiction(why),
            Ok(()) => {}
        }
        Next::Go
    }

    fn contradiction(&self, why: &str) -> Next {
        let status = self.status;
        let text = format!("the receiver responded {status}, but with framing that cannot be trusted: {why}");
        Next::Refused(Trouble::new(Failure::Protocol, text))
    }

    fn head_ended(&mut self) -> Next {
        if is_interim(self.status) {
            return self.go(At::Status);
        }
        if let refused @ Next::Refused(_) = self.header_ended() {
            return refused;
        }
        if self.is_bodiless() {
            // What it announces might still follow.
            let reusable = self.status != 101 && self.keeps_open() && self.framing.announces_nothing();
            return Next::Over { reusable };
        }
        match self.framing.extent() {
            Extent::Length(0) => Next::Over { reusable: self.keeps_open() },
            Extent::Length(length) => self.go(At::Data(length)),
            Extent::Chunked => self.go(At::ChunkSize),
            Extent::UntilClose => self.go(At::UntilClose),
        }
    }

    fn keeps_open(&self) -> bool {
        self.clean && self.framing.keeps_open()
    }

    fn data(&mut self, left: u64, bytes: &mut &[u8], received: &mut Received) -> Next {
        let data = self.take_body(left, bytes);
        received.keep(data);
        match left - data.len() as u64 {
            0 if self.framing.coding == Coding::Chunked => self.at = At::ChunkEnd,
            0 => {
                received.finish();
                return Next::Over { reusable: self.keeps_open() };
            }
            left => self.at = At::Data(left),
        }
        self.end_if_full()
    }

    fn until_close(&mut self, bytes: &mut &[u8], received: &mut Received) -> Next {
        let data = self.take_body(u64::MAX, bytes);
        received.keep(data);
        self.end_if_full()
    }

    fn take_body<'a>(&mut self, most: u64, bytes: &mut &'a [u8]) -> &'a [u8] {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(MAX_BODY_BYTES - self.body);
        let (data, rest) = bytes.split_at(bytes.len().min(most));
        self.body += data.len();
        *bytes = rest;
        data
    }

    fn end_if_full(&self) -> Next {
        if self.body == MAX_BODY_BYTES { Next::Over { reusable: false } } else { Next::Go }
    }

    fn chunk_size(&mut self, line: Text<'_>) -> Next {
        match parse_chunk_size(line.bytes) {
            // Nobody can say where this body ends; the status stands.
            None => Next::Over { reusable: false },
            Some(0) => self.go(At::Trailer),
            Some(size) => self.go(At::Data(size)),
        }
    }
}

/// 101 is final: whoever switches protocols unasked says nothing more that could be read.
fn is_interim(status: u16) -> bool {
    matches!(status, 100 | 102..200)
}

fn refused(text: &'static str) -> Next {
    Next::Refused(Trouble::new(Failure::Protocol, text))
}

fn too_many_interim() -> Next {
    refused("too many interim responses (1xx) without a final one")
}

fn no_http(line: &[u8]) -> Next {
    // The first byte of a TLS alert or handshake.
    if matches!(line.first(), Some(0x15 | 0x16)) {
        return refused("the response is TLS, not HTTP: is it https instead of http?");
    }
    refused("the response is not valid HTTP")
}

/// A line without its end. If it is very long, its beginning.
#[derive(Debug, Clone, Copy)]
struct Text<'a> {
    bytes: &'a [u8],
    whole: bool,
}

impl<'a> Text<'a> {
    fn of(line: &'a [u8]) -> Self {
        Self::new(&line[..line.len().min(MAX_LINE_BYTES)], line.len() <= MAX_LINE_BYTES)
    }

    fn new(bytes: &'a [u8], whole: bool) -> Self {
        // A line may end with LF alone.
        let bytes = if whole { bytes.strip_suffix(b"\r").unwrap_or(bytes) } else { bytes };
        Self { bytes, whole }
    }
}

/// A line of which the end has not come.
#[derive(Debug, Default)]
struct Line {
    held: Vec<u8>,
    length: usize,
}

impl Line {
    fn push(&mut self, part: &[u8]) {
        let room = MAX_LINE_BYTES - self.held.len();
        self.held.extend_from_slice(&part[..part.len().min(room)]);
        self.length += part.len();
    }

    fn text(&self) -> Text<'_> {
        Text::new(&self.held, self.length <= MAX_LINE_BYTES)
    }

    fn clear(&mut self) {
        self.held.clear();
        self.length = 0;
    }
}

const VERSION: &[u8] = b"HTTP/1.";

/// Whether these can be the first bytes of a status line, or of an empty line before it.
fn may_be_status(line: &[u8]) -> bool {
    let known = line.len().min(VERSION.len());
    line == b"\r" || line[..known] == VERSION[..known]
}

/// The minor version, as a digit, and the status of a status line. Blanks may be more than one, the reason may be absent.
fn parse_status(line: &[u8]) -> Option<(u8, u16)> {
    let (minor, rest) = line.strip_prefix(VERSION)?.split_first()?;
    let code = trim_start(rest);
    let [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] = code else { return None };
    let parted = code.len() < line.len() - VERSION.len() - 1 && rest.first().is_none_or(|next| is_blank(*next));
    let [a, b, c] = [a, b, c].map(|digit| u16::from(digit - b'0'));
    (minor.is_ascii_digit() && parted).then_some((*minor, a * 100 + b * 10 + c))
}

/// The size of a chunk. Extensions are passed over.
fn parse_chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let rest = trim_start(&line[digits..]);
    let ends = rest.is_empty() || (rest[0] == b';' && memchr(b'\r', rest).is_none());
    let text = std::str::from_utf8(&line[..digits]).ok()?;
    ends.then(|| u64::from_str_radix(text, 16).ok())?
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn trim_start(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|byte| is_blank(**byte)).count()..]
}

fn trim_end(text: &[u8]) -> &[u8] {
    &text[..text.len() - text.iter().rev().take_while(|byte| is_blank(**byte)).count()]
}

fn elements(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(|element| trim_end(trim_start(element)))
}

/// The headers that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    ContentLength,
    TransferEncoding,
    Connection,
    RetryAfter,
    /// A line that belongs to the one before it.
    Continuation,
    Other,
}

/// A line of a head.
struct Field<'a> {
    name: Name,
    value: &'a [u8],
    /// Every reader would see the same in it.
    clean: bool,
}

impl<'a> Field<'a> {
    fn parse(line: &'a [u8]) -> Self {
        if line.first().is_some_and(|first| is_blank(*first)) {
            return Self { name: Name::Continuation, value: line, clean: false };
        }
        let Some(colon) = memchr(b':', line) else { return Self { name: Name::Other, value: line, clean: false } };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        let clean = !name.is_empty() && name.iter().all(is_token) && memchr2(b'\r', b'\0', value).is_none();
        Self { name: Name::of(trim_end(name)), value: trim_end(trim_start(value)), clean }
    }
}

impl Name {
    fn of(name: &[u8]) -> Self {
        match name.len() {
            10 if name.eq_ignore_ascii_case(b"connection") => Self::Connection,
            11 if name.eq_ignore_ascii_case(b"retry-after") => Self::RetryAfter,
            14 if name.eq_ignore_ascii_case(b"content-length") => Self::ContentLength,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => Self::TransferEncoding,
            _ => Self::Other,
        }
    }
}

/// Bytes that names of headers consist of (RFC 9110 §5.6.2).
fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

/// What a head says about where the response ends, and about what comes after it.
#[derive(Debug, Default)]
struct Framing {
    length: Length,
    coding: Coding,
    http_1_0: bool,
    close: bool,
    keep_alive: bool,
    /// Codings were named in a way that others may read otherwise.
    doubtful: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Length {
    #[default]
    Unsaid,
    /// No number: as good as none.
    Unreadable,
    Bytes(u64),
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Coding {
    #[default]
    None,
    /// In chunks, as the last of the codings.
    Chunked,
    Other,
}

/// How far a body goes.
enum Extent {
    Length(u64),
    Chunked,
    UntilClose,
}

const BOTH: &str = "Content-Length and Transfer-Encoding contradict each other";

impl Framing {
    fn content_length(&mut self, value: &[u8]) -> Result<(), &'static str> {
        if self.coding != Coding::None {
            return Err(BOTH);
        }
        for element in elements(value) {
            let length = Length::parse(element);
            if !matches!(self.length, Length::Unsaid) && self.length != length {
                return Err("there are two different Content-Lengths");
            }
            self.length = length;
        }
        Ok(())
    }

    /// A length that is too long to be held.
    fn unreadable_length(&mut self) -> Result<(), &'static str> {
        self.content_length(b"")
    }

    /// `identity` is no coding, and `chunked` after `chunked` says nothing new; what comes last counts (RFC 9112 §6.3). Of a
    /// value that is not `whole` the last coding is not known.
    fn transfer_encoding(&mut self, value: &[u8], whole: bool) -> Result<(), &'static str> {
        for element in elements(value) {
            if element.is_empty() || element.eq_ignore_ascii_case(b"identity") {
                self.doubtful = true;
                continue;
            }
            let chunked = element.eq_ignore_ascii_case(b"chunked");
            self.doubtful |= self.coding == Coding::Chunked;
            self.coding = if chunked { Coding::Chunked } else { Coding::Other };
        }
        if !whole {
            (self.coding, self.doubtful) = (Coding::Other, true);
        }
        if self.coding != Coding::None && self.length != Length::Unsaid {
            return Err(BOTH);
        }
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) {
        for element in elements(value) {
            self.close |= element.eq_ignore_ascii_case(b"close");
            self.keep_alive |= element.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    fn extent(&self) -> Extent {
        match (self.coding, self.length) {
            (Coding::Chunked, _) => Extent::Chunked,
            (Coding::None, Length::Bytes(length)) => Extent::Length(length),
            (Coding::Other, _) | (Coding::None, Length::Unsaid | Length::Unreadable) => Extent::UntilClose,
        }
    }

    fn announces_nothing(&self) -> bool {
        self.coding == Coding::None && matches!(self.length, Length::Unsaid | Length::Bytes(0))
    }

    /// HTTP/1.0 knows no chunks, and closes unless it says otherwise.
    fn keeps_open(&self) -> bool {
        !self.close && !self.doubtful && (!self.http_1_0 || (self.keep_alive && self.coding == Coding::None))
    }
}

impl Length {
    /// A number that is too large is the largest: more than is read in any case.
    fn parse(text: &[u8]) -> Self {
        if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
            return Self::Unreadable;
        }
        let digit = |sum: u64, byte: &u8| sum.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
        Self::Bytes(text.iter().fold(0, digit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What comes of bytes that are divided like this: what was received, the last step, and whether the connection could
    /// be used again if this is all that comes.
    fn read(pieces: &[&[u8]]) -> (Received, Step, bool) {
        let mut parser = Parser::new(Timestamp::EPOCH);
        let mut received = Received::default();
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        let mut given = 0;
        for piece in pieces {
            let within = &piece[..piece.len().min(parser.room())];
            given += within.len();
            let step = parser.feed(within, &mut received);
            assert!(parser.line.held.capacity() <= 2 * MAX_LINE_BYTES);
            match step {
                Step::More => {}
                Step::Over { reusable, surplus } => {
                    let reusable = reusable && total == given - surplus;
                    return (received, Step::Over { reusable, surplus: total - given + surplus }, reusable);
                }
                refused => return (received, refused, false),
            }
        }
        parser.end(&mut received);
        (received, Step::More, false)
    }

    fn status(bytes: &[u8]) -> Option<u16> {
        read(&[bytes]).0.status()
    }

    const LINES: [&[u8]; 28] = [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 503\n",
        b"HTTP/1.1 103 Early\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n",
        b"HTTP/1.1 ",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b"Content-Length: 5\r\n",
        b"content-length:6\n",
        b"Content-Length : 5, 5\r\n",
        b"Content-Length: x\r\n",
        b"Content-Length: 99999999999999999999999\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Connection: keep-alive, close\r\n",
        b"Retry-After: 7\r\n",
        b" folded\r\n",
        b"no colon\r\n",
        b"X-A : b\r\n",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"hello",
        b"\xff\x00",
        &[b'x'; 1_500],
        &[b'y'; 40_000],
    ];

    fn inputs() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            8 => proptest::sample::select(&LINES[..]).prop_map(<[u8]>::to_vec),
            1 => proptest::collection::vec(any::<u8>(), 0..40),
        ];
        let tail = proptest::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat());
        (proptest::sample::select(&LINES[..5]), tail).prop_map(|(first, tail)| [first, &tail].concat())
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_within_bounds_and_alike_however_it_is_divided(
            bytes in inputs(),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
        ) {
            let whole = read(&[&bytes]);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let mut rest = &bytes[..];
            let mut pieces = Vec::new();
            for (before, cut) in std::iter::once(&0).chain(&cuts).zip(&cuts) {
                let (piece, left) = rest.split_at(cut - before);
                pieces.push(piece);
                rest = left;
            }
            pieces.push(rest);
            prop_assert_eq!(&read(&pieces), &whole);
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(&read(&single), &whole);
        }

        #[test]
        fn noise_is_no_response_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (received, ..) = read(&[&bytes]);
            prop_assert!(received.status().is_none() || bytes.windows(7).any(|window| window == VERSION));
        }

        #[test]
        fn nothing_after_a_complete_2xx_status_line_but_framing_is_a_failure(
            lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..20),
        ) {
            let mut bytes = b"HTTP/1.1 200 OK\r\n".to_vec();
            for line in lines {
                // Random bytes do not spell a framing header.
                bytes.extend_from_slice(&line);
                bytes.extend_from_slice(b"\r\n");
            }
            prop_assert_eq!(status(&bytes), Some(200));
        }
    }

    #[test]
    fn a_status_line_is_read_in_every_form_that_is_clear() {
        for (line, want) in [
            (&b"HTTP/1.1 200 OK\r\n"[..], Some(200)),
            (b"HTTP/1.1 200\r\n", Some(200)),
            (b"HTTP/1.1 200 \n", Some(200)),
            (b"HTTP/1.0  404\tNo\r\n", Some(404)),
            (b"\r\n\n\r\nHTTP/1.1 201 Made\r\n", Some(201)),
            (b"HTTP/1.1 200 \xff\x01\r\n", Some(200)),
            (b"HTTP/1.1 999 Odd\r\n", Some(999)),
            (b"HTTP/1.1 101 Switch\r\n", Some(101)),
            (b"HTTP/1.1 100 Continue\r\n", None),
            (b"HTTP/1.1 200 OK", None),
            (b"HTTP/1.1 000 Zero\r\n", None),
            (b"HTTP/1.1 20 OK\r\n", None),
            (b"HTTP/1.1 2000 OK\r\n", None),
            (b"HTTP/1.1200 OK\r\n", None),
            (b"HTTP/2.0 200 OK\r\n", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None),
            (b"<html>\r\nhello</html>", None),
        ] {
            assert_eq!(status(line), want, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn the_end_of_a_response_is_found_or_the_connection_is_not_used_again() {
        for (rest, reusable) in [
            ("Content-Length: 2\r\n\r\nok", true),
            ("Content-Length: 2\n\nok", true),
            ("Content-Length: 2, 2\r\ncontent-length: 2\r\n\r\nok", true),
            ("Transfer-Encoding: Chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nX-T: 1\r\n\r\n", true),
            ("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", true),
            ("X-A: \u{fc}\u{7f}\u{1}\r\nContent-Length: 0\r\n\r\n", true),
            ("Connection: Close\r\nContent-Length: 2\r\n\r\nok", false),
            ("Content-Length: 2\r\n\r\nokk", false),
            ("Content-Length: 3\r\n\r\nok", false),
            ("Content-Length: x\r\n\r\nok", false),
            ("X-A : b\r\nContent-Length: 2\r\n\r\nok", false),
            ("Content-Length : 2\r\n\r\nok", false),
            ("X-A: b\r\n folded\r\nContent-Length: 2\r\n\r\nok", false),
            ("no colon\r\nContent-Length: 2\r\n\r\nok", false),
            ("X: a\rContent-Length: 7\r\nContent-Length: 2\r\n\r\nok", false),
            ("Transfer-Encoding: chunked\r\n\r\n2\r\nokk\r\n0\r\n\r\n", false),
            ("Transfer-Encoding: chunked\r\n\r\nxyz\r\n", false),
            ("Transfer-Encoding: chunked\r\n\r\n-1\r\n", false),
            ("Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n", false),
            ("\r\nok", false),
            ("Transfer-Encoding: identity\r\n\r\nok", false),
            ("Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", false),
            ("Transfer-Encoding: gzip\r\n\r\nok", false),
            ("Transfer-Encoding: xchunked\r\n\r\nok", false),
            ("Transfer-Encoding:\r\n\r\nok", false),
            ("Transfer-Encoding: chunked, identity\r\n\r\n2\r\nok\r\n0\r\n\r\n", false),
            ("Transfer-Encoding: chunked, gzip\r\n\r\nok", false),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false),
            ("Transfer-Encoding: gzip,\r\n\tchunked\r\n\r\n0\r\n\r\n", false),
            ("Transfer-Encoding: x\r\n\tchunked\r\n\r\nok", false),
            ("Content-Length:\r\n 2\r\n\r\nok", false),
            ("Content-Length: 1\r\n 5\r\n\r\nok", false),
        ] {
            let (received, step, again) = read(&[b"HTTP/1.1 200 OK\r\n", rest.as_bytes()]);
            assert_eq!((received.status(), again), (Some(200), reusable), "{rest:?}: {step:?}");
        }
        for (head, reusable) in [
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false),
            ("HTTP/1.1 204 Nothing\r\n\r\n", true),
            ("HTTP/1.1 204 Nothing\r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.1 204 Nothing\r\nContent-Length: 5\r\n\r\n", false),
            ("HTTP/1.1 204 Nothing\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", false),
            ("HTTP/1.1 101 Switch\r\n\r\n", false),
        ] {
            let (received, step, again) = read(&[head.as_bytes()]);
            assert!(received.status().is_some() && again == reusable, "{head:?}: {step:?}");
        }
    }

    #[test]
    fn framing_that_contradicts_itself_is_refused() {
        for headers in [
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5, 6",
            "Content-Length: 5\r\nContent-Length: x",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "transfer-encoding : chunked\r\nX: y\r\ncontent-length: 5",
            "Transfer-Encoding: gzip\r\nContent-Length: 5",
            "Content-Length: 5\r\nTransfer-Encoding: gzip,\r\n chunked",
            "Content-Length:\r\n 5\r\nContent-Length: 6",
        ] {
            let head = format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n");
            let (received, step, _) = read(&[head.as_bytes()]);
            assert!(matches!(step, Step::Refused(_)) && received.status().is_none(), "{headers:?}: {step:?}");
        }
    }

    #[test]
    fn heads_and_interim_responses_are_bounded() {
        let long = [b"HTTP/1.1 200 OK\r\n", &b"X-A: b\r\n".repeat(20_000)[..]].concat();
        assert_eq!(status(&long), Some(200), "the status line was read");
        let (_, step, _) = read(&[&b"\r\n".repeat(MAX_HEAD_BYTES)]);
        assert!(matches!(step, Step::Refused(trouble) if trouble.detail.contains("too large")));
        let some = [&b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n".repeat(MAX_INTERIM)[..], b"HTTP/1.1 200 OK\r\n\r\n"];
        assert_eq!(status(&some.concat()), Some(200));
        let many = b"HTTP/1.1 103 Hints\r\n\r\n".repeat(MAX_INTERIM + 1);
        let large = [&b"HTTP/1.1 103 Hints\r\n"[..], &b"Link: x\r\n".repeat(10_000)].concat();
        for bytes in [many, large] {
            let (_, step, _) = read(&[&bytes]);
            assert!(matches!(step, Step::Refused(trouble) if trouble.detail.contains("too many interim")));
        }
    }

    #[test]
    fn a_status_is_read_from_a_line_of_any_length() {
        for length in [30_000, 100_000] {
            let reason = [b"HTTP/1.1 200 ", &vec![b'x'; length][..], b"\r\n\r\n"].concat();
            assert_eq!(status(&reason), Some(200));
        }
        let interim = [b"HTTP/1.1 103 ", &[b'x'; 100_000][..]].concat();
        assert_eq!(status(&interim), None);
        assert_eq!(
            status(b"HTTP/1.1 200 and the end is miss"),
            None,
            "only a whole line is a verdict before the bound"
        );
    }
}
