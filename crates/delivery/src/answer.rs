//! What is kept of a receiver's response, and what to say when there is none.
//!
//! A response is a status, what `Retry-After` asks for, and the first bytes of the body. The status is the verdict: once it
//! is known, neither the deadline nor whatever goes wrong with the rest of the response changes it. However much a receiver
//! sends, at most [`MAX_BODY_BYTES`] of the body are read and [`MAX_KEPT_ANSWER_BYTES`] are held in memory; it is never
//! decompressed.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use parking_lot::{Mutex, MutexGuard};
use postrider_domain::attempt::MAX_KEPT_ANSWER_BYTES;
use postrider_domain::delivery::{Failure, Outcome};
use postrider_domain::retry::parse_retry_after;
use postrider_domain::time::Timestamp;

use crate::limits::MAX_BODY_BYTES;
use crate::waits::Waits;

/// A failure to get a response, with its text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) kind: Failure,
    pub(crate) detail: Cow<'static, str>,
    /// This machine lacks what closing connections would give back.
    pub(crate) starved: bool,
}

impl Trouble {
    pub(crate) fn new(kind: Failure, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), starved: false }
    }

    /// This machine has no more open files, buffers, memory or ports.
    pub(crate) fn starved(detail: impl Into<Cow<'static, str>>) -> Self {
        Self { starved: true, ..Self::new(Failure::Local, detail) }
    }
}

impl From<Trouble> for Outcome {
    fn from(trouble: Trouble) -> Self {
        Self::Failed { kind: trouble.kind, detail: trouble.detail.into_owned() }
    }
}

/// The response as far as it has come.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    /// `None` until the status line of a final response is complete.
    status: Option<u16>,
    retry_after: Option<Duration>,
    body: Kept,
}

impl Received {
    /// The status of the final response; the verdict from here on.
    pub(crate) fn begin(&mut self, status: u16) {
        *self = Self { status: Some(status), ..Self::default() };
    }

    pub(crate) fn status(&self) -> Option<u16> {
        self.status
    }

    /// Whether the receiver has taken the message.
    pub(crate) fn is_success(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// A `Retry-After`: the first that can be read counts, and none of a success, which asks for nothing.
    pub(crate) fn retry_after(&mut self, value: &[u8], wall: Timestamp) {
        if self.status.is_some() && !self.is_success() && self.retry_after.is_none() {
            self.retry_after = std::str::from_utf8(value).ok().and_then(|value| parse_retry_after(value, wall));
        }
    }

    /// Takes the next bytes of the body; `false` when enough was read.
    pub(crate) fn keep(&mut self, data: &[u8]) -> bool {
        self.body.push(data)
    }

    /// The body is whole.
    pub(crate) fn finish(&mut self) {
        self.body.whole = true;
    }

    /// The response refuted itself: it does not count.
    pub(crate) fn refuse(&mut self) {
        *self = Self::default();
    }

    fn into_outcome(self) -> Option<Outcome> {
        let Self { status, retry_after, body } = self;
        Some(Outcome::Answered { status: status?, retry_after, body: body.into_bytes().into() })
    }
}

/// The beginning of a body. Copied out of the connection's buffer, which would otherwise live as long as the attempt's
/// record does.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Kept {
    bytes: Vec<u8>,
    read: usize,
    whole: bool,
}

impl Kept {
    fn push(&mut self, data: &[u8]) -> bool {
        let room = MAX_KEPT_ANSWER_BYTES.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&data[..data.len().min(room)]);
        self.read = self.read.saturating_add(data.len());
        self.read <= MAX_BODY_BYTES
    }

    /// What is stored: a text that was cut within a character ends before it, so that it is text still.
    fn into_bytes(mut self) -> Vec<u8> {
        if !self.whole || self.read > self.bytes.len() {
            let text = postrider_domain::attempt::cut_text(&self.bytes).map(str::len);
            self.bytes.truncate(text.unwrap_or(self.bytes.len()));
        }
        self.bytes
    }
}

/// How far an attempt has come, and what it has received: what there is to say if the deadline ends it.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    step: AtomicU8,
    /// The receiver may have seen the request, over this connection or one before.
    sent: AtomicBool,
    received: Mutex<Received>,
    waits: Waits,
}

const RESOLVING: u8 = 0;
const CONNECTING: u8 = 1;
const SECURING: u8 = 2;
const WAITING: u8 = 3;
const INTERIM: u8 = 4;
const STREAMLESS: u8 = 5;

impl Stage {
    pub(crate) fn resolving(&self) {
        self.step.store(RESOLVING, Ordering::Relaxed);
    }

    pub(crate) fn connecting(&self) {
        self.step.store(CONNECTING, Ordering::Relaxed);
    }

    pub(crate) fn securing(&self) {
        self.step.store(SECURING, Ordering::Relaxed);
    }

    pub(crate) fn waiting(&self) {
        self.step.store(WAITING, Ordering::Relaxed);
    }

    /// The request is written from here on.
    pub(crate) fn sending(&self) {
        self.sent.store(true, Ordering::Relaxed);
    }

    /// The receiver allows no request on its connection yet.
    pub(crate) fn streamless(&self) {
        self.step.store(STREAMLESS, Ordering::Relaxed);
    }

    /// An interim response (1xx) has come.
    pub(crate) fn interim(&self) {
        self.step.store(INTERIM, Ordering::Relaxed);
    }

    /// The head of an HTTP/2 response.
    pub(crate) fn reading(&self, status: StatusCode, headers: &HeaderMap, wall: Timestamp) {
        let mut received = self.received();
        received.begin(status.as_u16());
        for value in headers.get_all(header::RETRY_AFTER) {
            received.retry_after(value.as_bytes(), wall);
        }
    }

    /// What it has waited for on this machine.
    pub(crate) fn waits(&self) -> &Waits {
        &self.waits
    }

    /// The response as far as it has come. Nobody waits for this lock: an attempt has one task.
    pub(crate) fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock()
    }

    /// Whether it is known what came of the attempt, whatever else of the response comes.
    pub(crate) fn has_status(&self) -> bool {
        self.received().status().is_some()
    }

    /// What came of the attempt: the response, if its status is known.
    pub(crate) fn take_outcome(&self) -> Option<Outcome> {
        std::mem::take(&mut *self.received()).into_outcome()
    }

    /// What came of an attempt that ends here because `limit` has passed.
    pub(crate) fn timed_out(&self, limit: Duration) -> Result<Outcome, Trouble> {
        self.take_outcome().ok_or_else(|| self.unanswered(limit))
    }

    fn unanswered(&self, limit: Duration) -> Trouble {
        // Once the request is on its way, the receiver has seen it: that is an attempt, however long it took to get there, and
        // also if it has to be made again.
        let is_before = matches!(self.step.load(Ordering::Relaxed), RESOLVING | CONNECTING | SECURING);
        let waited_here = is_before && !self.sent.load(Ordering::Relaxed) && self.waits.total() > limit / 2;
        let limit = postrider_domain::settings::Span(limit);
        if waited_here {
            let detail = format!("timed out after {limit}: most of that was the wait for a turn on this machine");
            return Trouble::new(Failure::Local, detail);
        }
        let detail = match self.step.load(Ordering::Relaxed) {
            RESOLVING => format!("timed out after {limit}: the host name was not resolved"),
            CONNECTING => format!("timed out after {limit}: no connection could be made"),
            SECURING => format!("timed out after {limit}: the TLS handshake was not finished"),
            INTERIM => format!("timed out after {limit}: the receiver sent interim responses, but no final one"),
            STREAMLESS => format!(
                "timed out after {limit}: the receiver allows no request on its HTTP/2 connections \
                 (SETTINGS_MAX_CONCURRENT_STREAMS is 0)"
            ),
            _ => format!("timed out after {limit}: the receiver did not respond"),
        };
        Trouble::new(Failure::Timeout, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(status: u16, body: &[u8], whole: bool) -> Outcome {
        let stage = Stage::default();
        stage.received().begin(status);
        stage.received().keep(body);
        if whole {
            stage.received().finish();
        }
        stage.take_outcome().unwrap()
    }

    #[test]
    fn a_body_is_kept_up_to_its_limit_and_read_up_to_another() {
        let mut kept = Kept::default();
        let chunk = vec![7u8; 16 * 1024];
        for _ in 0..4 {
            assert!(kept.push(&chunk), "exactly 64 KiB are a whole body");
        }
        assert!(!kept.push(b"x"));
        assert_eq!(kept.bytes.len(), MAX_KEPT_ANSWER_BYTES);
    }

    #[test]
    fn a_text_that_is_cut_within_a_character_ends_before_it() {
        let text = format!("{}ü and so on", "x".repeat(MAX_KEPT_ANSWER_BYTES - 1));
        let Outcome::Answered { body, .. } = received(200, text.as_bytes(), true) else { panic!("no response") };
        assert_eq!(body, text.as_bytes()[..MAX_KEPT_ANSWER_BYTES - 1]);
        let Outcome::Answered { body, .. } = received(200, b"caf\xc3", false) else { panic!("no response") };
        assert_eq!(body, b"caf"[..]);
        let Outcome::Answered { body, .. } = received(200, b"\xff\x00\xc3", false) else { panic!("no response") };
        assert_eq!(body, b"\xff\x00\xc3"[..], "what is no text is kept as it is");
        let Outcome::Answered { body, .. } = received(200, b"caf\xc3", true) else { panic!("no response") };
        assert_eq!(body, b"caf\xc3"[..], "what came whole is kept whole");
    }

    #[test]
    fn a_retry_after_that_is_no_text_is_ignored() {
        let asked = |values: &[&'static [u8]]| {
            let stage = Stage::default();
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::RETRY_AFTER, http::HeaderValue::from_bytes(value).unwrap());
            }
            stage.reading(StatusCode::SERVICE_UNAVAILABLE, &headers, Timestamp::EPOCH);
            stage.received().retry_after
        };
        assert_eq!(asked(&[b"\xff12"]), None);
        assert_eq!(asked(&[b"\xff12", b"120", b"5"]), Some(Duration::from_secs(120)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_waited_here_for_most_of_its_time_is_none() {
        let second = Duration::from_secs(1);
        for (waited, kind) in [(2 * second, Failure::Timeout), (3 * second, Failure::Local)] {
            let stage = Stage::default();
            stage.waits().count(tokio::time::sleep(waited)).await;
            let Trouble { kind: told, detail, .. } = stage.timed_out(4 * second).unwrap_err();
            assert_eq!(told, kind, "{detail}");
            stage.waiting();
            let Trouble { kind: told, detail, .. } = stage.timed_out(4 * second).unwrap_err();
            assert_eq!(told, Failure::Timeout, "what the receiver has seen counts: {detail}");
        }
    }

    #[test]
    fn the_deadline_keeps_a_status_that_is_known() {
        let stage = Stage::default();
        stage.waiting();
        stage.received().begin(503);
        stage.received().retry_after(b"7", Timestamp::EPOCH);
        stage.received().keep(b"we are");
        let (status, retry_after, body) = (503, Some(Duration::from_secs(7)), b"we are"[..].into());
        assert_eq!(stage.timed_out(Duration::from_secs(1)), Ok(Outcome::Answered { status, retry_after, body }));
        let nothing = Trouble::new(Failure::Timeout, "timed out after 1s: the receiver did not respond");
        assert_eq!(stage.timed_out(Duration::from_secs(1)), Err(nothing), "a response is told once");
    }
}
