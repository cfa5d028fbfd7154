//! Endpoints: URLs that want messages, with their filters, limits and health.

use crate::application::Metadata;
use crate::delivery::{DisableReason, Hold};
pub use crate::endpoint_url::{Credentials, EndpointUrl, MAX_URL_BYTES, UrlError};
use crate::event_type::set;
pub use crate::headers::Headers;
use crate::ids::EndpointId;
use crate::names::{Channel, EventTypeName, Uid};
use crate::time::Timestamp;

crate::limits! {
    in "Endpoints";
    /// The description of an endpoint
    pub const MAX_ENDPOINT_DESCRIPTION: usize = 4_096, "characters", beyond "422";
    /// The event types that an endpoint asks for by name
    pub const MAX_ENDPOINT_EVENT_TYPES: usize = 1_000, "elements", beyond "422";
    /// The channels that an endpoint listens to by name
    pub const MAX_ENDPOINT_CHANNELS: usize = 10, "elements", beyond "422";
    /// Messages per second to an endpoint, or to all endpoints of an application
    pub const MAX_RATE: u16 = 65_535, "per second", beyond "422";
}

/// A URL of an application that wants messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// The caller's own identifier, unique in the application.
    pub uid: Option<Uid>,
    /// Where requests go; normalised.
    pub url: EndpointUrl,
    /// What it is for, for people.
    pub description: String,
    /// A number that old clients require; echoed only.
    pub version: u16,
    /// A disabled endpoint gets nothing.
    pub disabled: bool,
    /// Why and since when it is disabled; `None` if it is not, or if that was not noted.
    pub disablement: Option<Disablement>,
    /// What holds it back: nothing is sent to it until then. It may be over.
    pub held: Option<Hold>,
    /// The event types it wants; `None` is all.
    pub event_types: Option<Vec<EventTypeName>>,
    /// The channels it listens to; `None` is all.
    pub channels: Option<Vec<Channel>>,
    /// Messages per second; `None` is unlimited.
    pub throttle_rate: Option<u16>,
    /// Free text pairs.
    pub metadata: Metadata,
    /// When it was made; equals the instant in the id.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Endpoint {
    /// Whether a message of this type on these channels goes to this endpoint (rest-contract §8.1).
    pub fn wants(&self, event_type: &EventTypeName, channels: Option<&[Channel]>) -> bool {
        !self.disabled
            && self.event_types.as_ref().is_none_or(|wanted| wanted.contains(event_type))
            && self.hears(channels)
    }

    /// Whether what is sent on these channels is for it.
    pub fn hears(&self, channels: Option<&[Channel]>) -> bool {
        let is_heard =
            |heard: &Vec<Channel>| channels.is_some_and(|sent| sent.iter().any(|channel| heard.contains(channel)));
        self.channels.as_ref().is_none_or(is_heard)
    }

    /// Whether messages go where they went, and as they went, to the endpoint as it was `before`: it may be described otherwise.
    pub fn is_routed_as(&self, before: &Self) -> bool {
        let routed = |endpoint: &Self| (endpoint.disabled, endpoint.throttle_rate);
        routed(self) == routed(before)
            && self.url == before.url
            && self.channels == before.channels
            && self.event_types == before.event_types
    }
}

/// Why and since when an endpoint is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disablement {
    /// Why.
    pub reason: DisableReason,
    /// Since when.
    pub since: Timestamp,
}

/// Changes to an endpoint. `None` leaves a member as it is; a full replacement sets every member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointPatch {
    /// See [`Endpoint::uid`].
    pub uid: Option<Option<Uid>>,
    /// See [`Endpoint::url`].
    pub url: Option<EndpointUrl>,
    /// See [`Endpoint::description`].
    pub description: Option<String>,
    /// See [`Endpoint::version`].
    pub version: Option<u16>,
    /// See [`Endpoint::disabled`].
    pub disabled: Option<bool>,
    /// See [`Endpoint::event_types`].
    pub event_types: Option<Option<Vec<EventTypeName>>>,
    /// See [`Endpoint::channels`].
    pub channels: Option<Option<Vec<Channel>>>,
    /// See [`Endpoint::throttle_rate`].
    pub throttle_rate: Option<Option<u16>>,
    /// See [`Endpoint::metadata`]. The whole map is replaced.
    pub metadata: Option<Metadata>,
    /// The value of the header `Authorization` to set: what a URL with credentials in it turns into. The header is no
    /// part of an [`Endpoint`], so whoever keeps the headers has to set it in the same commit.
    pub authorization: Option<String>,
}

impl EndpointPatch {
    /// Applies the changes at `now`, which is noted as the instant at which it was disabled, if it is now and was not.
    /// Other dates, and headers, are the caller's business.
    pub fn apply(self, to: &mut Endpoint, now: Timestamp) {
        let was_disabled = to.disabled;
        let Self {
            uid,
            url,
            description,
            version,
            disabled,
            event_types,
            channels,
            throttle_rate,
            metadata,
            authorization: _,
        } = self;
        set(&mut to.uid, uid);
        set(&mut to.url, url);
        set(&mut to.description, description);
        set(&mut to.version, version);
        set(&mut to.disabled, disabled);
        if !to.disabled {
            to.disablement = None;
        } else if !was_disabled {
            to.disablement = Some(Disablement { reason: DisableReason::ByHand, since: now });
        }
        set(&mut to.event_types, event_types);
        set(&mut to.channels, channels);
        set(&mut to.throttle_rate, throttle_rate);
        set(&mut to.metadata, metadata);
    }
}

/// What the store remembers of an endpoint's failures, for disabling it in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    /// When a delivery was first exhausted with no success since.
    pub failing_since: Option<Timestamp>,
}
