//! What came of delivering, on the wire (rest-contract §10): a message as one endpoint has it, and an endpoint as one
//! message has it.

use postrider_domain::endpoint::{Endpoint, MAX_ENDPOINT_CHANNELS};
use postrider_domain::ids::EndpointId;
use postrider_domain::names::{Channel, Uid};
use postrider_domain::time::Timestamp;
use postrider_store::{AttemptedMessage, Destination};
use schemars::JsonSchema;
use serde::Serialize;

use crate::wire::model::attempt::Status;
use crate::wire::model::message::MessageOut;
use crate::wire::quirks::{EventTypesOut, RateOut};
use crate::wire::schema::{Prose, UrlShown};

/// A message that was attempted to an endpoint, with what its latest attempt says.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EndpointMessageOut")]
pub(crate) struct AttemptedMessageOut<'a> {
    #[serde(flatten)]
    message: MessageOut<'a>,
    /// How it stands: 0 delivered, 2 failed, 3 will be tried again, 4 was to be tried again, but that was canceled.
    #[schemars(extend("enum" = [0, 2, 3, 4]))]
    status: u8,
    /// How it stands, as a word.
    #[schemars(extend("enum" = ["success", "fail", "sending", "canceled"]))]
    status_text: &'static str,
    /// When it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt: Option<Timestamp>,
}

impl<'a> AttemptedMessageOut<'a> {
    /// Shows a message with its payload, or without.
    pub(crate) fn new(attempted: &'a AttemptedMessage, with_content: bool) -> Self {
        let status = match attempted.next_attempt_at {
            Some(_) => Status::Sending,
            None if attempted.canceled => Status::Canceled,
            None => Status::of(attempted.succeeded),
        };
        Self {
            message: MessageOut::new(&attempted.message, with_content),
            status: status.code(),
            status_text: status.text(),
            next_attempt: attempted.next_attempt_at,
        }
    }
}

/// An endpoint to which a message was attempted, with what the latest attempt says.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "MessageEndpointOut")]
pub(crate) struct DestinationOut<'a> {
    /// Its id.
    id: EndpointId,
    /// Where messages go, in its normal form.
    #[schemars(with = "UrlShown")]
    url: &'a str,
    /// What it is for, for people.
    #[schemars(with = "Prose")]
    description: &'a str,
    /// Your own identifier, if it has one.
    uid: Option<&'a Uid>,
    /// A number that older clients require.
    #[schemars(extend("deprecated" = true))]
    version: u16,
    /// Whether it is disabled. Then it is sent nothing, messages that come meanwhile are not sent to it later, and what was
    /// pending when it was disabled is canceled.
    disabled: bool,
    /// Why it is disabled: it answered 410 Gone, it was failing for too long, or somebody disabled it. Null if it is not.
    #[schemars(extend("enum" = ["gone", "failing", "manual", null]))]
    disabled_reason: Option<&'static str>,
    /// Since when it is disabled; null if it is not.
    disabled_since: Option<Timestamp>,
    #[serde(flatten)]
    wanted: EventTypesOut<'a>,
    /// The channels that it listens to; null is all.
    #[schemars(with = "Option<Vec<Channel>>", length(max = MAX_ENDPOINT_CHANNELS))]
    channels: Option<&'a [Channel]>,
    #[serde(flatten)]
    rate: RateOut,
    /// When it was made.
    created_at: Timestamp,
    /// When it was last changed.
    updated_at: Timestamp,
    /// How the latest attempt ended: 0 succeeded, 2 failed, 4 failed, and the next one was canceled.
    #[schemars(extend("enum" = [0, 2, 4]))]
    status: u8,
    /// How the latest attempt ended, as a word.
    #[schemars(extend("enum" = ["success", "fail", "canceled"]))]
    status_text: &'static str,
    /// When it is tried again.
    next_attempt: Option<Timestamp>,
}

impl<'a> From<&'a Destination> for DestinationOut<'a> {
    fn from(destination: &'a Destination) -> Self {
        let Destination { endpoint, succeeded, next_attempt_at, canceled } = destination;
        let Endpoint { id, url, description, uid, version, disabled, event_types, channels, throttle_rate, .. } =
            endpoint;
        let status = if *canceled { Status::Canceled } else { Status::of(*succeeded) };
        Self {
            id: *id,
            url: url.as_str(),
            description,
            uid: uid.as_ref(),
            version: *version,
            disabled: *disabled,
            disabled_reason: endpoint.disablement.map(|disablement| disablement.reason.as_str()),
            disabled_since: endpoint.disablement.map(|disablement| disablement.since),
            wanted: event_types.as_deref().into(),
            channels: channels.as_deref(),
            rate: (*throttle_rate).into(),
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
            status: status.code(),
            status_text: status.text(),
            next_attempt: *next_attempt_at,
        }
    }
}
