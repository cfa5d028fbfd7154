//! What is kept of a receiver's answer, and what to say when there is none.
//!
//! An answer is a status, what `Retry-After` asks for, and the first bytes of the body. However much a receiver sends, at
//! most [`MAX_READ_BYTES`] of the body are read and [`MAX_KEPT_ANSWER_BYTES`] are held in memory; it is never decompressed.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use postrider_domain::attempt::MAX_KEPT_ANSWER_BYTES;
use postrider_domain::delivery::{Failure, Outcome};
use postrider_domain::retry::parse_retry_after;
use postrider_domain::time::Timestamp;

/// Reading stops when more than this has come; the status counts all the same.
pub(crate) const MAX_READ_BYTES: usize = 64 * 1024;

/// A failure to get an answer, with its text for people.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    pub(crate) kind: Failure,
    pub(crate) detail: Cow<'static, str>,
}

impl Trouble {
    pub(crate) fn new(kind: Failure, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

impl From<Trouble> for Outcome {
    fn from(trouble: Trouble) -> Self {
        Self::Failed { kind: trouble.kind, detail: trouble.detail.into_owned() }
    }
}

/// The head of an answer, as far as it matters.
pub(crate) struct Head {
    status: StatusCode,
    retry_after: Option<Duration>,
}

impl Head {
    pub(crate) fn new(status: StatusCode, headers: &HeaderMap, wall: Timestamp) -> Self {
        // A success asks for nothing.
        let asked = if status.is_success() { None } else { headers.get(header::RETRY_AFTER) };
        let retry_after = asked.and_then(|value| parse_retry_after(value.to_str().ok()?, wall));
        Self { status, retry_after }
    }

    pub(crate) fn with_body(self, body: Kept) -> Outcome {
        Outcome::Answered { status: self.status.as_u16(), retry_after: self.retry_after, body: body.bytes.into() }
    }
}

/// The beginning of a body. Copied out of the connection's buffer, which would otherwise live as long as the attempt's
/// record does.
#[derive(Default)]
pub(crate) struct Kept {
    bytes: Vec<u8>,
    read: usize,
}

impl Kept {
    /// Takes the next bytes; `false` when enough was read.
    pub(crate) fn push(&mut self, data: &Bytes) -> bool {
        let room = MAX_KEPT_ANSWER_BYTES.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&data[..data.len().min(room)]);
        self.read = self.read.saturating_add(data.len());
        self.read <= MAX_READ_BYTES
    }
}

/// How far an attempt has come: what to say if the deadline ends it.
#[derive(Debug, Default)]
pub(crate) struct Stage(AtomicU16);

const RESOLVING: u16 = 0;
const CONNECTING: u16 = 1;
const SECURING: u16 = 2;
const WAITING: u16 = 3;
// From 100 on it is the status of the answer whose body is being read.

impl Stage {
    pub(crate) fn resolving(&self) {
        self.0.store(RESOLVING, Ordering::Relaxed);
    }

    pub(crate) fn connecting(&self) {
        self.0.store(CONNECTING, Ordering::Relaxed);
    }

    pub(crate) fn securing(&self) {
        self.0.store(SECURING, Ordering::Relaxed);
    }

    pub(crate) fn waiting(&self) {
        self.0.store(WAITING, Ordering::Relaxed);
    }

    pub(crate) fn reading(&self, head: &Head) {
        self.0.store(head.status.as_u16(), Ordering::Relaxed);
    }

    /// The failure of an attempt that ends here because `limit` has passed.
    pub(crate) fn timed_out(&self, limit: Duration) -> Trouble {
        let limit = postrider_domain::settings::Span(limit);
        let detail = match self.0.load(Ordering::Relaxed) {
            RESOLVING => format!("timed out after {limit}: the host name was not resolved"),
            CONNECTING => format!("timed out after {limit}: no connection could be made"),
            SECURING => format!("timed out after {limit}: the TLS handshake was not finished"),
            WAITING => format!("timed out after {limit}: the receiver did not answer"),
            status => format!("timed out after {limit}: the receiver answered {status}, but did not finish its answer"),
        };
        Trouble::new(Failure::Timeout, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_kept_up_to_its_limit_and_read_up_to_another() {
        let mut kept = Kept::default();
        let chunk = Bytes::from(vec![7u8; 16 * 1024]);
        for _ in 0..4 {
            assert!(kept.push(&chunk), "exactly 64 KiB are a whole answer");
        }
        assert!(!kept.push(&Bytes::from_static(b"x")));
        assert_eq!(kept.bytes.len(), MAX_KEPT_ANSWER_BYTES);
    }

    #[test]
    fn a_retry_after_that_is_no_text_is_ignored() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, http::HeaderValue::from_bytes(b"\xff12").unwrap());
        assert_eq!(Head::new(StatusCode::SERVICE_UNAVAILABLE, &headers, Timestamp::EPOCH).retry_after, None);
        headers.insert(header::RETRY_AFTER, http::HeaderValue::from_static("120"));
        let head = Head::new(StatusCode::SERVICE_UNAVAILABLE, &headers, Timestamp::EPOCH);
        assert_eq!(head.retry_after, Some(Duration::from_secs(120)));
    }
}
