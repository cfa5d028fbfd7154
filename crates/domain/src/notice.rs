//! Notices: what operators are told of by operational webhooks (rest-contract §11.1), and what follows from an attempt.
//!
//! A notice is rendered when it happens, in the commit of what it reports, so it shows things as they were then.

use bytes::Bytes;
use serde::Serialize;

use crate::attempt::Trigger;
use crate::delivery::{Next, Progress};
use crate::ids::{ApplicationId, AttemptId, EndpointId, MessageId};
use crate::names::Uid;
use crate::time::Timestamp;

/// The failed attempt after which the operator is told that a message is in trouble.
const WORRYING: u32 = 4;

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoticeKind {
    /// An endpoint was made.
    EndpointCreated,
    /// An endpoint was changed, or got a new secret.
    EndpointUpdated,
    /// An endpoint was deleted.
    EndpointDeleted,
    /// The engine disabled an endpoint.
    EndpointDisabled,
    /// A message has failed several times, and is tried again.
    AttemptFailing,
    /// A message is not tried again.
    AttemptExhausted,
    /// A message that had been reported as failing was delivered.
    AttemptRecovered,
}

impl NoticeKind {
    /// The name of its event type.
    pub const fn event_type(self) -> &'static str {
        match self {
            Self::EndpointCreated => "endpoint.created",
            Self::EndpointUpdated => "endpoint.updated",
            Self::EndpointDeleted => "endpoint.deleted",
            Self::EndpointDisabled => "endpoint.disabled",
            Self::AttemptFailing => "message.attempt.failing",
            Self::AttemptExhausted => "message.attempt.exhausted",
            Self::AttemptRecovered => "message.attempt.recovered",
        }
    }
}

/// What the operator is told of an attempt after which a delivery is in the state `next`. Of a manual attempt somebody
/// knows already.
pub fn of_attempt(progress: Progress, next: Next) -> Option<NoticeKind> {
    let number = progress.made.saturating_add(1);
    match (progress.trigger, next) {
        (Trigger::Manual, _) | (_, Next::Canceled) => None,
        (_, Next::Waiting(_)) => (number == WORRYING).then_some(NoticeKind::AttemptFailing),
        (_, Next::Exhausted) => Some(NoticeKind::AttemptExhausted),
        (_, Next::Succeeded) => (number > WORRYING).then_some(NoticeKind::AttemptRecovered),
    }
}

/// The data of a notice about an endpoint.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointNotice {
    /// Its application.
    pub app_id: ApplicationId,
    /// Its application's uid.
    pub app_uid: Option<Uid>,
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Its uid.
    pub endpoint_uid: Option<Uid>,
    /// Since when it had been failing, if it was disabled for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_since: Option<Timestamp>,
    /// Why it is disabled, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled_reason: Option<&'static str>,
    /// Since when it is disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled_since: Option<Timestamp>,
}

/// The data of a notice about the attempts to deliver a message.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptNotice {
    /// The application.
    pub app_id: ApplicationId,
    /// The application's uid.
    pub app_uid: Option<Uid>,
    /// The message.
    pub msg_id: MessageId,
    /// The message's event id.
    pub msg_event_id: Option<Uid>,
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// The attempt that the notice follows from.
    pub last_attempt: LastAttempt,
}

/// An attempt, in a notice.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastAttempt {
    /// Its id.
    pub id: AttemptId,
    /// The status of the answer; 0 if there was none.
    pub response_status_code: u16,
    /// When it started.
    pub timestamp: Timestamp,
}

#[derive(Serialize)]
struct Payload<'a, T> {
    #[serde(rename = "type")]
    event_type: &'static str,
    data: &'a T,
}

/// The payload of the message that tells of `data`.
pub fn payload<T: Serialize>(kind: NoticeKind, data: &T) -> Result<Bytes, serde_json::Error> {
    serde_json::to_vec(&Payload { event_type: kind.event_type(), data }).map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Next = Next::Waiting(Timestamp::MAX);

    fn told(number: u32, next: Next) -> Option<NoticeKind> {
        of_attempt(Progress { made: number - 1, trigger: Trigger::Scheduled, silent: false }, next)
    }

    #[test]
    fn a_message_is_failing_once_at_its_fourth_attempt() {
        for number in 1..=9 {
            let want = (number == 4).then_some(NoticeKind::AttemptFailing);
            assert_eq!(told(number, LATER), want, "{number}");
        }
    }

    #[test]
    fn a_message_is_exhausted_at_its_last_attempt_whichever_that_is() {
        for number in [1, 4, 9] {
            assert_eq!(told(number, Next::Exhausted), Some(NoticeKind::AttemptExhausted), "{number}");
        }
    }

    #[test]
    fn a_message_recovers_only_after_it_was_reported() {
        for number in 1..=9 {
            let want = (number >= 5).then_some(NoticeKind::AttemptRecovered);
            assert_eq!(told(number, Next::Succeeded), want, "{number}");
        }
    }

    #[test]
    fn nobody_is_told_of_manual_attempts_and_of_what_was_canceled() {
        assert_eq!(told(4, Next::Canceled), None);
        for next in [LATER, Next::Exhausted, Next::Succeeded, Next::Canceled] {
            let manual = Progress { made: 4, trigger: Trigger::Manual, silent: false };
            assert_eq!(of_attempt(manual, next), None, "{next:?}");
        }
    }
}
