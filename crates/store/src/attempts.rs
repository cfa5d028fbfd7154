//! Reading the log of attempts, and erasing answers from it. It is written by [`crate::Work::settle`].

use async_trait::async_trait;
use postrider_domain::attempt::Attempt;
use postrider_domain::ids::{AttemptId, Ksuid};
use postrider_domain::names::{Channel, EventTypeName, Tag};

use crate::{ApplicationKey, EndpointKey, MessageKey, Scan, StoreError, Walked, WriteError};

/// Which attempts a list shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptFilter {
    /// Only those that succeeded (`true`) or failed (`false`).
    pub succeeded: Option<bool>,
    /// Only those with a status code from this hundred on: 0 for 0 to 99, 200 for 200 to 299 and so on.
    pub status_code_class: Option<u16>,
    /// Only those of messages sent on this channel.
    pub channel: Option<Channel>,
    /// Only those of messages of these types; `None` is all.
    pub event_types: Option<Vec<EventTypeName>>,
    /// Only those of messages with this tag.
    pub tag: Option<Tag>,
    /// With what the receiver answered; otherwise `response` is `Some` and empty.
    pub with_response: bool,
    /// With the message of each attempt, but never its payload; otherwise `message` is `None`.
    pub with_message: bool,
}

/// How many bytes an answer has as a text in JSON, at most, where a control character takes six: receivers answer what they like, and a
/// page is charged beforehand for what it shows.
pub fn shown_bytes(answer: &[u8]) -> usize {
    let escaped = |byte: &u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 1,
        ..b' ' => 5,
        _ => 0,
    };
    answer.len() + answer.iter().map(escaped).sum::<usize>()
}

/// How many attempts ended how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttemptStats {
    /// Attempts that succeeded.
    pub succeeded: u64,
    /// Attempts that failed.
    pub failed: u64,
}

/// Operations on the log of attempts.
#[async_trait]
pub trait Attempts {
    /// A page of the attempts to an endpoint, by id. Stops early after [`crate::PAGE_BYTES`] of answers, and after
    /// [`crate::PAGE_ROWS`]: no index says where several names come together. However few attempts the filter lets through, the
    /// time is that of a page, not of the list.
    async fn attempts_by_endpoint(
        &self,
        endpoint: EndpointKey,
        filter: &AttemptFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Walked<Attempt>, StoreError>;

    /// A page of the attempts for a message, by id; to one endpoint only if `endpoint` names it. Stops early after
    /// [`crate::PAGE_BYTES`] of answers, and after [`crate::PAGE_ROWS`] that the filter does not let through.
    async fn attempts_by_message(
        &self,
        message: MessageKey,
        endpoint: Option<EndpointKey>,
        filter: &AttemptFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Walked<Attempt>, StoreError>;

    /// One attempt of a message of this application, with that message as [`AttemptFilter::with_message`] gives it.
    async fn attempt(
        &self,
        application: ApplicationKey,
        message: MessageKey,
        id: AttemptId,
    ) -> Result<Option<Attempt>, StoreError>;

    /// Erases what the receiver answered. Repeating it does no harm. [`WriteError::NotFound`] if the message has no such
    /// attempt.
    async fn expunge_attempt(&self, message: MessageKey, id: AttemptId) -> Result<(), WriteError>;

    /// Counts the attempts to an endpoint whose ids lie in `[from, to)`, exactly, and without reading all of them.
    async fn attempt_stats(&self, endpoint: EndpointKey, from: Ksuid, to: Ksuid) -> Result<AttemptStats, StoreError>;
}
