//! Endpoints on the wire (rest-contract §7).

use postrider_domain::application::Metadata;
use postrider_domain::endpoint::{Endpoint, EndpointPatch, EndpointUrl, Headers};
use postrider_domain::ids::EndpointId;
use postrider_domain::names::{Channel, EventTypeName, Uid};
use postrider_domain::signature::Secret;
use postrider_domain::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::json::{nullable, present};
use crate::model::headers;
use crate::router::State;
use crate::rules::Problems;

/// The most channels that an endpoint listens to by name.
const MAX_CHANNELS: usize = 10;

/// What creates or replaces an endpoint.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointIn {
    url: String,
    #[serde(default)]
    description: String,
    uid: Option<String>,
    throttle_rate: Option<u16>,
    rate_limit: Option<u16>,
    version: Option<u16>,
    #[serde(default)]
    disabled: bool,
    #[serde(alias = "filterTypes")]
    event_types: Option<Vec<String>>,
    channels: Option<Vec<String>>,
    metadata: Option<Metadata>,
    secret: Option<String>,
    headers: Option<Headers>,
}

/// An endpoint that somebody wants, checked by itself.
pub(crate) struct EndpointParts {
    /// The endpoint without its id and dates.
    patch: EndpointPatch,
    url: EndpointUrl,
    /// The secret that the caller brought.
    pub(crate) secret: Option<Secret>,
    /// The extra headers.
    pub(crate) headers: Headers,
}

impl EndpointIn {
    /// For a replacement, which leaves secret and headers alone: the members are ignored like unknown ones.
    pub(crate) fn without_secrets(self) -> Self {
        Self { secret: None, headers: None, ..self }
    }

    /// Checks a body. Whether its event types exist is for the store to say.
    pub(crate) fn checked(self, state: &State) -> Result<EndpointParts> {
        let mut problems = Problems::of_body();
        let url = check_url(&mut problems, &self.url, state);
        problems.prose("description", &self.description, 0);
        let throttle_rate = self.throttle_rate.or(self.rate_limit);
        problems.rate("throttleRate", throttle_rate);
        problems.rate("version", self.version);
        let metadata = self.metadata.unwrap_or_default();
        problems.metadata(&metadata);
        let headers = self.headers.unwrap_or_default();
        headers::check(&mut problems, &headers);
        let patch = EndpointPatch {
            uid: Some(self.uid.and_then(|uid| problems.check("uid", Uid::parse::<EndpointId>(&uid)))),
            url: url.clone(),
            description: Some(self.description),
            version: Some(self.version.unwrap_or(1)),
            disabled: Some(self.disabled),
            event_types: Some(self.event_types.map(|names| check_event_types(&mut problems, &names))),
            channels: Some(self.channels.map(|names| check_channels(&mut problems, &names))),
            throttle_rate: Some(throttle_rate),
            metadata: Some(metadata),
        };
        let secret = self.secret.and_then(|secret| problems.check("secret", secret.parse::<Secret>()));
        problems.finish(url.map(|url| EndpointParts { patch, url, secret, headers }))
    }
}

impl EndpointParts {
    /// The event types that must exist.
    pub(crate) fn event_types(&self) -> Option<&[EventTypeName]> {
        wanted_types(&self.patch)
    }

    /// The changes that make an endpoint the same as this. Secret and headers are no part of a replacement.
    pub(crate) fn replacement(&self) -> EndpointPatch {
        self.patch.clone()
    }

    /// The endpoint, made now.
    pub(crate) fn endpoint(&self, id: EndpointId, now: Timestamp) -> Endpoint {
        let mut endpoint = Endpoint {
            id,
            uid: None,
            url: self.url.clone(),
            description: String::new(),
            version: 1,
            disabled: false,
            event_types: None,
            channels: None,
            throttle_rate: None,
            metadata: Metadata::new(),
            created_at: now,
            updated_at: now,
        };
        self.patch.clone().apply(&mut endpoint);
        endpoint
    }
}

/// What changes an endpoint.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointPatchIn {
    #[serde(default, deserialize_with = "present")]
    url: Option<String>,
    #[serde(default, deserialize_with = "present")]
    description: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    uid: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    throttle_rate: Option<Option<u16>>,
    #[serde(default, deserialize_with = "nullable")]
    rate_limit: Option<Option<u16>>,
    #[serde(default, deserialize_with = "present")]
    version: Option<u16>,
    #[serde(default, deserialize_with = "present")]
    disabled: Option<bool>,
    #[serde(default, deserialize_with = "nullable", alias = "filterTypes")]
    event_types: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "nullable")]
    channels: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "nullable")]
    metadata: Option<Option<Metadata>>,
}

impl EndpointPatchIn {
    /// Checks a body. Whether its event types exist is for the store to say.
    pub(crate) fn checked(self, state: &State) -> Result<EndpointPatch> {
        let mut problems = Problems::of_body();
        if let Some(description) = &self.description {
            problems.prose("description", description, 0);
        }
        let throttle_rate = self.throttle_rate.or(self.rate_limit);
        problems.rate("throttleRate", throttle_rate.flatten());
        problems.rate("version", self.version);
        let metadata = self.metadata.map(Option::unwrap_or_default);
        if let Some(metadata) = &metadata {
            problems.metadata(metadata);
        }
        let patch = EndpointPatch {
            uid: self.uid.map(|uid| uid.and_then(|uid| problems.check("uid", Uid::parse::<EndpointId>(&uid)))),
            url: self.url.and_then(|url| check_url(&mut problems, &url, state)),
            description: self.description,
            version: self.version,
            disabled: self.disabled,
            event_types: self.event_types.map(|names| names.map(|names| check_event_types(&mut problems, &names))),
            channels: self.channels.map(|names| names.map(|names| check_channels(&mut problems, &names))),
            throttle_rate,
            metadata,
        };
        problems.finish(Some(patch))
    }
}

/// The event types that must exist for a change to be legal.
pub(crate) fn wanted_types(patch: &EndpointPatch) -> Option<&[EventTypeName]> {
    patch.event_types.as_ref()?.as_deref()
}

fn check_url(problems: &mut Problems, text: &str, state: &State) -> Option<EndpointUrl> {
    let url = problems.check("url", EndpointUrl::parse(text))?;
    if state.https_only && url.url().scheme() != "https" {
        problems.add("url", "must be an https URL");
    }
    problems.check("url", (state.check_url)(&url)).map(|()| url)
}

fn check_event_types(problems: &mut Problems, names: &[String]) -> Vec<EventTypeName> {
    problems.list("eventTypes", names, 1..=usize::MAX, EventTypeName::parse)
}

fn check_channels(problems: &mut Problems, names: &[String]) -> Vec<Channel> {
    let channels = problems.list("channels", names, 1..=MAX_CHANNELS, Channel::parse);
    problems.distinct("channels", &channels);
    channels
}

/// An endpoint as it is shown. Old and new clients read the same value under different names, so both are there.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointOut<'a> {
    id: EndpointId,
    url: &'a str,
    description: &'a str,
    uid: Option<&'a Uid>,
    version: u16,
    disabled: bool,
    event_types: Option<&'a [EventTypeName]>,
    filter_types: Option<&'a [EventTypeName]>,
    channels: Option<&'a [Channel]>,
    rate_limit: Option<u16>,
    throttle_rate: Option<u16>,
    metadata: &'a Metadata,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl<'a> From<&'a Endpoint> for EndpointOut<'a> {
    fn from(endpoint: &'a Endpoint) -> Self {
        Self {
            id: endpoint.id,
            url: endpoint.url.as_str(),
            description: &endpoint.description,
            uid: endpoint.uid.as_ref(),
            version: endpoint.version,
            disabled: endpoint.disabled,
            event_types: endpoint.event_types.as_deref(),
            filter_types: endpoint.event_types.as_deref(),
            channels: endpoint.channels.as_deref(),
            rate_limit: endpoint.throttle_rate,
            throttle_rate: endpoint.throttle_rate,
            metadata: &endpoint.metadata,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
        }
    }
}

/// What rotates a secret.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RotateIn {
    key: Option<String>,
    grace_period_seconds: Option<u64>,
}

/// For how long an old key signs if the caller does not say, in seconds.
const DEFAULT_GRACE_SECONDS: u64 = 86_400;

/// The longest time for which an old key can go on signing, in seconds.
const MAX_GRACE_SECONDS: u64 = 604_800;

impl RotateIn {
    /// Checks a body: the new secret if the caller brought one, and for how long the old one signs.
    pub(crate) fn checked(self) -> Result<(Option<Secret>, std::time::Duration)> {
        let mut problems = Problems::of_body();
        let secret = self.key.and_then(|key| problems.check("key", key.parse::<Secret>()));
        let grace = self.grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS);
        if grace > MAX_GRACE_SECONDS {
            problems.add("gracePeriodSeconds", format!("must be 0 to {MAX_GRACE_SECONDS}"));
        }
        problems.finish(Some((secret, std::time::Duration::from_secs(grace))))
    }
}

/// A secret as it is shown: the public half of an asymmetric one.
#[derive(Serialize)]
pub(crate) struct SecretOut {
    key: String,
}

impl From<&Secret> for SecretOut {
    fn from(secret: &Secret) -> Self {
        Self { key: secret.public_text() }
    }
}
