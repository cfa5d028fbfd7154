//! Attempts on the wire (rest-contract §10).

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use postrider_domain::attempt::Attempt;
use postrider_domain::ids::{AttemptId, EndpointId, MessageId};
use postrider_domain::time::Timestamp;
use postrider_store::AttemptStats;
use serde::Serialize;

/// The state of an attempt, or of a delivery, as a number and as a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// The receiver answered 2xx.
    Success,
    /// Not tried yet. No attempt is ever in it.
    Pending,
    /// It failed.
    Fail,
    /// It failed, and is tried again. No attempt is ever in it.
    Sending,
}

impl Status {
    const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Pending => 1,
            Self::Fail => 2,
            Self::Sending => 3,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Pending => "pending",
            Self::Fail => "fail",
            Self::Sending => "sending",
        }
    }

    /// The state with this number.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [Self::Success, Self::Pending, Self::Fail, Self::Sending].into_iter().find(|status| status.code() == code)
    }

    fn of(attempt: &Attempt) -> Self {
        if attempt.succeeded { Self::Success } else { Self::Fail }
    }
}

/// An attempt as it is shown.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AttemptOut<'a> {
    id: AttemptId,
    msg_id: MessageId,
    endpoint_id: EndpointId,
    url: &'a str,
    status: u8,
    status_text: &'static str,
    response_status_code: u16,
    response: Cow<'a, str>,
    response_duration_ms: u32,
    trigger_type: u8,
    timestamp: Timestamp,
}

impl<'a> AttemptOut<'a> {
    /// Shows an attempt with what the receiver answered, or without.
    pub(crate) fn new(attempt: &'a Attempt, with_content: bool) -> Self {
        let status = Status::of(attempt);
        Self {
            id: attempt.id,
            msg_id: attempt.message_id,
            endpoint_id: attempt.endpoint_id,
            url: &attempt.url,
            status: status.code(),
            status_text: status.text(),
            response_status_code: attempt.status_code,
            response: if with_content { response(attempt) } else { Cow::Borrowed("{}") },
            response_duration_ms: attempt.duration_ms,
            trigger_type: attempt.trigger.code(),
            timestamp: attempt.started_at,
        }
    }
}

/// What the receiver answered: as text if it is UTF-8, otherwise as base64.
fn response(attempt: &Attempt) -> Cow<'_, str> {
    match &attempt.response {
        None => Cow::Borrowed("EXPUNGED"),
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => Cow::Owned(BASE64.encode(bytes)),
        },
    }
}

/// How many attempts ended how. Only two of the states are ones in which an attempt can end.
#[derive(Serialize)]
pub(crate) struct StatsOut {
    success: u64,
    pending: u64,
    sending: u64,
    fail: u64,
    canceled: u64,
}

impl From<AttemptStats> for StatsOut {
    fn from(stats: AttemptStats) -> Self {
        Self { success: stats.succeeded, pending: 0, sending: 0, fail: stats.failed, canceled: 0 }
    }
}
