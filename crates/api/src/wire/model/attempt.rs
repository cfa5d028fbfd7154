//! Attempts on the wire (rest-contract §10).

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use postrider_domain::attempt::{Attempt, MAX_KEPT_ANSWER_BYTES, cut_text};
use postrider_domain::delivery::{DisableReason, Hold};
use postrider_domain::endpoint::Disablement;
use postrider_domain::ids::{AttemptId, EndpointId, MessageId};
use postrider_domain::time::Timestamp;
use postrider_store::AttemptStats;
use schemars::JsonSchema;
use serde::Serialize;

use crate::wire::model::endpoint::HeldOut;
use crate::wire::model::message::MessageOut;
use crate::wire::schema::{ResponseShown, UrlShown};

/// The classes of status codes that attempts can be chosen by: their lowest codes.
pub(crate) const STATUS_CLASSES: [u16; 6] = [0, 100, 200, 300, 400, 500];

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
    /// It failed, and was to be tried again, but that was canceled. No attempt is ever in it.
    Canceled,
}

impl Status {
    /// The numbers.
    pub(crate) const CODES: [u8; 5] = [0, 1, 2, 3, 4];

    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Pending => 1,
            Self::Fail => 2,
            Self::Sending => 3,
            Self::Canceled => 4,
        }
    }

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Pending => "pending",
            Self::Fail => "fail",
            Self::Sending => "sending",
            Self::Canceled => "canceled",
        }
    }

    /// The state with this number.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [Self::Success, Self::Pending, Self::Fail, Self::Sending, Self::Canceled]
            .into_iter()
            .find(|status| status.code() == code)
    }

    /// How an attempt ended.
    pub(crate) fn of(succeeded: bool) -> Self {
        if succeeded { Self::Success } else { Self::Fail }
    }
}

/// An attempt as it is shown.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "MessageAttemptOut")]
pub(crate) struct AttemptOut<'a> {
    /// Its id.
    id: AttemptId,
    /// The message that was sent.
    msg_id: MessageId,
    /// The endpoint that it was sent to.
    endpoint_id: EndpointId,
    /// The URL that the endpoint had at that time.
    #[schemars(with = "UrlShown")]
    url: &'a str,
    /// How it ended: 0 succeeded, 2 failed.
    #[schemars(extend("enum" = [0, 2]))]
    status: u8,
    /// How it ended, as a word.
    #[schemars(extend("enum" = ["success", "fail"]))]
    status_text: &'static str,
    /// The status that the receiver answered; 0 if it did not answer.
    response_status_code: u16,
    /// What the receiver answered: text, or base64 of what is not UTF-8, or why there is no answer.
    #[schemars(with = "ResponseShown")]
    response: Cow<'a, str>,
    /// How long it took, in milliseconds.
    response_duration_ms: u32,
    /// Why it was made: 0 by schedule, 1 by hand.
    #[schemars(extend("enum" = [0, 1]))]
    trigger_type: u8,
    /// When it began.
    timestamp: Timestamp,
    /// The message, without its payload, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    msg: Option<MessageOut<'a>>,
}

impl<'a> AttemptOut<'a> {
    /// Shows an attempt with what the receiver answered, or without.
    pub(crate) fn new(attempt: &'a Attempt, with_content: bool) -> Self {
        let status = Status::of(attempt.succeeded);
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
            msg: None,
        }
    }
}

impl<'a> AttemptOut<'a> {
    /// Shows the message, too, if it was read together with the attempt.
    pub(crate) fn with_message(self, attempt: &'a Attempt) -> Self {
        Self { msg: attempt.message.as_deref().map(|message| MessageOut::new(message, false)), ..self }
    }
}

/// What the receiver answered: as text if it is UTF-8, otherwise as base64.
fn response(attempt: &Attempt) -> Cow<'_, str> {
    match &attempt.response {
        None => Cow::Borrowed("EXPUNGED"),
        Some(bytes) => shown(bytes),
    }
}

fn shown(bytes: &[u8]) -> Cow<'_, str> {
    // As much as is kept was probably cut, and perhaps within a character.
    let text = if bytes.len() == MAX_KEPT_ANSWER_BYTES { cut_text(bytes) } else { std::str::from_utf8(bytes).ok() };
    text.map_or_else(|| Cow::Owned(BASE64.encode(bytes)), Cow::Borrowed)
}

/// What came of asking for one more attempt. It is empty if the attempt is made at once.
#[derive(Default, Serialize, JsonSchema)]
pub(crate) struct ResendOut {
    /// False if nothing will be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<bool>,
    /// Why nothing will be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["endpoint_disabled"]))]
    code: Option<&'static str>,
    /// Why nothing will be sent, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    detail: Option<String>,
    #[serde(flatten)]
    held: HeldOut,
}

impl ResendOut {
    /// It is made when what holds the endpoint back is over.
    pub(crate) fn held(hold: Hold) -> Self {
        Self { held: hold.into(), ..Self::default() }
    }

    /// Nothing is sent to a disabled endpoint.
    pub(crate) fn disabled(why: Option<Disablement>) -> Self {
        let reason = match why.map(|why| why.reason) {
            Some(DisableReason::Gone) => "because it answered 410 Gone",
            Some(DisableReason::Failing) => "because it had been failing for too long",
            Some(DisableReason::ByHand) => "by hand",
            None => "for a reason that was not noted",
        };
        let since = why.map_or(String::new(), |why| format!(" since {}", why.since));
        let detail = format!("The endpoint is disabled{since}, {reason}: nothing is sent to it. Enable it first.");
        Self { sent: Some(false), code: Some("endpoint_disabled"), detail: Some(detail), ..Self::default() }
    }
}

/// How many attempts ended how.
// Only two of the states are ones in which an attempt can end.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EndpointStatsOut")]
pub(crate) struct StatsOut {
    /// Attempts that succeeded.
    success: u64,
    /// Always 0.
    pending: u64,
    /// Always 0.
    sending: u64,
    /// Attempts that failed.
    fail: u64,
    /// Always 0: deliveries are canceled, and no attempt is. The attempted messages with `status=4` are those.
    canceled: u64,
}

/// How many attempts ended how.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EndpointAttemptStatsOut")]
pub(crate) struct AttemptStatsOut {
    /// Attempts that succeeded.
    success: u64,
    /// Attempts that failed.
    fail: u64,
    /// Always 0: deliveries are canceled, and no attempt is. The attempted messages with `status=4` are those.
    canceled: u64,
}

impl From<AttemptStats> for AttemptStatsOut {
    fn from(stats: AttemptStats) -> Self {
        Self { success: stats.succeeded, fail: stats.failed, canceled: 0 }
    }
}

impl From<AttemptStats> for StatsOut {
    fn from(stats: AttemptStats) -> Self {
        Self { success: stats.succeeded, pending: 0, sending: 0, fail: stats.failed, canceled: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_was_cut_within_a_character_is_shown_as_text() {
        let text = "x".repeat(MAX_KEPT_ANSWER_BYTES - 1);
        assert_eq!(shown(format!("{text}ü").as_bytes().split_last().unwrap().1), text);
        assert_eq!(shown("grün".as_bytes()), "grün");
        assert_eq!(shown(b"caf\xc3"), BASE64.encode(b"caf\xc3"), "it came like this");
        assert_eq!(shown(&[0xff; MAX_KEPT_ANSWER_BYTES]), BASE64.encode([0xff; MAX_KEPT_ANSWER_BYTES]));
    }
}
