//! Endpoints: URLs that want messages, with their filters, limits and health.

use std::collections::BTreeMap;

use crate::application::Metadata;
use crate::event_type::set;
use crate::ids::EndpointId;
use crate::names::{Channel, EventTypeName, Uid};
use crate::time::Timestamp;

/// Extra request headers by name; the spelling of names is kept.
pub type Headers = BTreeMap<String, String>;

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
            && self
                .channels
                .as_ref()
                .is_none_or(|heard| channels.is_some_and(|sent| sent.iter().any(|channel| heard.contains(channel))))
    }
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
}

impl EndpointPatch {
    /// Applies the changes. Dates are the caller's business.
    pub fn apply(self, to: &mut Endpoint) {
        let Self { uid, url, description, version, disabled, event_types, channels, throttle_rate, metadata } = self;
        set(&mut to.uid, uid);
        set(&mut to.url, url);
        set(&mut to.description, description);
        set(&mut to.version, version);
        set(&mut to.disabled, disabled);
        set(&mut to.event_types, event_types);
        set(&mut to.channels, channels);
        set(&mut to.throttle_rate, throttle_rate);
        set(&mut to.metadata, metadata);
    }
}

/// An absolute http or https URL with a host, in its normal form (host in lower case, empty path `/`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointUrl(url::Url);

/// Why a text can't be an endpoint's URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It does not parse.
    #[error("is not a URL: {0}")]
    Syntax(String),
    /// Another scheme than http or https.
    #[error("has the scheme '{0}': only http and https are delivered to")]
    Scheme(String),
    /// No host to connect to.
    #[error("has no host")]
    Host,
    /// Longer than any server takes.
    #[error("is longer than 2048 characters")]
    Length,
}

impl EndpointUrl {
    /// Checks and normalises a URL.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > 2_048 {
            return Err(UrlError::Length);
        }
        let url = url::Url::parse(text).map_err(|error| UrlError::Syntax(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(UrlError::Scheme(url.scheme().to_owned()));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(UrlError::Host);
        }
        Ok(Self(url))
    }

    /// The normal form.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The parsed URL.
    pub fn url(&self) -> &url::Url {
        &self.0
    }
}

/// What the store remembers of an endpoint's failures, for disabling it in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    /// When a delivery was first exhausted with no success since.
    pub failing_since: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_normalised() {
        assert_eq!(EndpointUrl::parse("http://BAD.url").unwrap().as_str(), "http://bad.url/");
    }

    #[test]
    fn another_scheme_or_no_host_is_refused() {
        for text in ["file:///etc/passwd", "gopher://x", "unix:/tmp/s", "http://", "/hook", "", "ftp://h/"] {
            assert!(EndpointUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numeric_spellings_of_an_address_become_that_address() {
        for text in ["http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/"] {
            assert_eq!(EndpointUrl::parse(text).unwrap().as_str(), "http://127.0.0.1/", "{text}");
        }
    }
}
