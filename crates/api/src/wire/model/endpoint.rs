//! Endpoints on the wire (rest-contract §7).

use postrider_domain::application::Metadata;
use postrider_domain::delivery::Hold;
use postrider_domain::endpoint::{
    Credentials, Endpoint, EndpointPatch, EndpointUrl, Headers, MAX_ENDPOINT_CHANNELS, MAX_ENDPOINT_DESCRIPTION,
    MAX_ENDPOINT_EVENT_TYPES,
};
use postrider_domain::ids::EndpointId;
use postrider_domain::names::{Channel, EventTypeName, Uid};
use postrider_domain::signature::Secret;
use postrider_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::wire::decode::{member, nullable, present, present_whole, whole};
use crate::wire::error::Result;
use crate::wire::model::headers::{self, HeadersText};
use crate::wire::quirks::{EventTypesIn, EventTypesOut, EventTypesPatch, RateIn, RateOut, RatePatch};
use crate::wire::rules::Problems;
use crate::wire::schema::{
    HeaderValues, MetadataPairs, Prose, Rate, SecretShown, SecretText, UidOf, UrlShown, UrlText,
};
use crate::wire::url_policy::UrlPolicy;

/// What creates an endpoint.
pub(crate) type EndpointIn = EndpointBody<Secrets>;

/// What replaces an endpoint, whose secret and headers stay.
pub(crate) type EndpointUpdateIn = EndpointBody<KeptSecrets>;

/// The members of an endpoint, and `S`, what else may be set at the same time.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Endpoint{S}")]
pub(crate) struct EndpointBody<S> {
    /// Where messages go: an `http` or `https` URL. A user and password in it become the header `Authorization`, unless
    /// `headers` has one.
    #[schemars(with = "UrlText")]
    url: String,
    /// What it is for, for people.
    #[serde(default)]
    #[schemars(with = "Prose")]
    description: String,
    /// Your own identifier, which can be used wherever the id can.
    #[schemars(with = "Option<UidOf<EndpointId>>")]
    uid: Option<String>,
    #[serde(flatten)]
    rate: RateIn,
    /// A number that older clients require. Nothing depends on it.
    #[serde(default, deserialize_with = "whole")]
    #[schemars(with = "Option<Rate>", extend("deprecated" = true))]
    version: Option<u16>,
    /// Whether it is disabled: it is sent nothing. Disabling an endpoint **cancels everything that is pending for it**, retries
    /// included, and enabling it does not bring that back: `recover` sends again what failed, `replay-missing` what was never
    /// attempted. To end a pause (`heldUntil`), change the URL, a header or the secret instead.
    #[serde(default)]
    disabled: bool,
    #[serde(flatten)]
    wanted: EventTypesIn,
    /// The channels that it listens to; null is all messages, with and without channels.
    #[schemars(with = "Option<Vec<Channel>>", length(min = 1, max = MAX_ENDPOINT_CHANNELS), extend("uniqueItems" = true))]
    channels: Option<Vec<String>>,
    /// Free text pairs, of at most 4096 bytes as JSON.
    #[schemars(with = "Option<MetadataPairs>")]
    metadata: Option<Metadata>,
    #[serde(flatten)]
    secrets: S,
}

/// What is set when an endpoint is created, and has operations of its own later.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "In")]
pub(crate) struct Secrets {
    /// What its messages are signed with. By default it is generated.
    #[serde(default, deserialize_with = "secret")]
    #[schemars(with = "Option<SecretText>")]
    secret: Option<String>,
    /// Extra headers of its requests.
    #[serde(default, deserialize_with = "extra_headers")]
    #[schemars(with = "Option<HeaderValues>")]
    headers: Option<HeadersText>,
}

/// Secret and headers stay as they are: what a body says of them is ignored like any unknown member.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "Update")]
pub(crate) struct KeptSecrets {}

impl From<KeptSecrets> for Secrets {
    fn from(_: KeptSecrets) -> Self {
        Self::default()
    }
}

fn secret<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<String>, D::Error> {
    member("secret", from, |from| Option::deserialize(from))
}

fn extra_headers<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<HeadersText>, D::Error> {
    member("headers", from, |from| Option::deserialize(from))
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

impl<S: Into<Secrets>> EndpointBody<S> {
    /// Checks a body. Whether its event types exist is for the store to say.
    pub(crate) fn checked(self, urls: &UrlPolicy, is_operator: bool) -> Result<EndpointParts> {
        let mut problems = Problems::of_body();
        let (url, credentials) = check_url(&mut problems, &self.url, urls, is_operator).unzip();
        problems.prose("description", &self.description, 0..=MAX_ENDPOINT_DESCRIPTION);
        let throttle_rate = self.rate.checked(&mut problems);
        problems.rate("version", self.version);
        let metadata = self.metadata.unwrap_or_default();
        problems.metadata(&metadata);
        let Secrets { secret, headers } = self.secrets.into();
        let mut headers = headers::check(&mut problems, headers.unwrap_or_default());
        let authorization = credentials.flatten().map(|credentials| credentials.authorization());
        if let Some(value) = authorization.clone().filter(|_| headers.get(AUTHORIZATION).is_none()) {
            headers.insert(AUTHORIZATION, value);
            problems.check("headers", headers.check());
        }
        let patch = EndpointPatch {
            uid: Some(self.uid.and_then(|uid| problems.check("uid", Uid::parse::<EndpointId>(&uid)))),
            url: url.clone(),
            description: Some(self.description),
            version: Some(self.version.unwrap_or(1)),
            disabled: Some(self.disabled),
            event_types: Some(self.wanted.event_types.map(|names| check_event_types(&mut problems, &names))),
            channels: Some(self.channels.map(|names| check_channels(&mut problems, &names))),
            throttle_rate: Some(throttle_rate),
            metadata: Some(metadata),
            authorization,
        };
        let secret = secret.and_then(|secret| problems.check("secret", secret.parse::<Secret>()));
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
            disablement: None,
            held: None,
            event_types: None,
            channels: None,
            throttle_rate: None,
            metadata: Metadata::new(),
            created_at: now,
            updated_at: now,
        };
        self.patch.clone().apply(&mut endpoint, now);
        endpoint
    }
}

/// What changes an endpoint.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EndpointPatch")]
pub(crate) struct EndpointPatchIn {
    /// Where messages go: an `http` or `https` URL. A user and password in it replace the header `Authorization`.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "UrlText")]
    url: Option<String>,
    /// What it is for, for people.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "Prose")]
    description: Option<String>,
    /// Your own identifier. Null removes it.
    #[serde(default, deserialize_with = "nullable")]
    #[schemars(with = "Option<UidOf<EndpointId>>")]
    uid: Option<Option<String>>,
    #[serde(flatten)]
    rate: RatePatch,
    /// A number that older clients require. Nothing depends on it.
    #[serde(default, deserialize_with = "present_whole")]
    #[schemars(with = "Rate", extend("deprecated" = true))]
    version: Option<u16>,
    /// Whether it is disabled: it is sent nothing. Disabling an endpoint **cancels everything that is pending for it**, retries
    /// included, and enabling it does not bring that back: `recover` sends again what failed, `replay-missing` what was never
    /// attempted. To end a pause (`heldUntil`), change the URL, a header or the secret instead.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "bool")]
    disabled: Option<bool>,
    #[serde(flatten)]
    wanted: EventTypesPatch,
    /// The channels that it listens to; null is all.
    #[serde(default, deserialize_with = "nullable")]
    #[schemars(with = "Option<Vec<Channel>>", length(min = 1, max = MAX_ENDPOINT_CHANNELS), extend("uniqueItems" = true))]
    channels: Option<Option<Vec<String>>>,
    /// Free text pairs, which replace all that there are.
    #[serde(default, deserialize_with = "nullable")]
    #[schemars(with = "Option<MetadataPairs>")]
    metadata: Option<Option<Metadata>>,
}

impl EndpointPatchIn {
    /// Checks a body. Whether its event types exist is for the store to say.
    pub(crate) fn checked(self, urls: &UrlPolicy, is_operator: bool) -> Result<EndpointPatch> {
        let mut problems = Problems::of_body();
        if let Some(description) = &self.description {
            problems.prose("description", description, 0..=MAX_ENDPOINT_DESCRIPTION);
        }
        let throttle_rate = self.rate.checked(&mut problems);
        problems.rate("version", self.version);
        let metadata = self.metadata.map(Option::unwrap_or_default);
        if let Some(metadata) = &metadata {
            problems.metadata(metadata);
        }
        let url = self.url.and_then(|url| check_url(&mut problems, &url, urls, is_operator));
        let (url, credentials) = url.unzip();
        let patch = EndpointPatch {
            uid: self.uid.map(|uid| uid.and_then(|uid| problems.check("uid", Uid::parse::<EndpointId>(&uid)))),
            url,
            description: self.description,
            version: self.version,
            disabled: self.disabled,
            event_types: self
                .wanted
                .event_types
                .map(|names| names.map(|names| check_event_types(&mut problems, &names))),
            channels: self.channels.map(|names| names.map(|names| check_channels(&mut problems, &names))),
            throttle_rate,
            metadata,
            authorization: credentials.flatten().map(|credentials| credentials.authorization()),
        };
        problems.finish(Some(patch))
    }
}

/// The event types that must exist for a change to be legal.
pub(crate) fn wanted_types(patch: &EndpointPatch) -> Option<&[EventTypeName]> {
    patch.event_types.as_ref()?.as_deref()
}

/// What a URL's user and password become: whoever may read an endpoint may not read those.
const AUTHORIZATION: &str = "Authorization";

fn check_url(
    problems: &mut Problems,
    text: &str,
    urls: &UrlPolicy,
    is_operator: bool,
) -> Option<(EndpointUrl, Option<Credentials>)> {
    let url = problems.check("url", EndpointUrl::parse(text))?;
    if urls.https_only && url.url().is_none_or(|url| url.scheme() != "https") {
        problems.add("url", "must be an https URL");
    }
    problems.check("url", urls.judge(&url, is_operator)).map(|()| url.into_parts())
}

fn check_event_types(problems: &mut Problems, names: &[String]) -> Vec<EventTypeName> {
    problems.list("eventTypes", names, 1..=MAX_ENDPOINT_EVENT_TYPES, EventTypeName::parse)
}

fn check_channels(problems: &mut Problems, names: &[String]) -> Vec<Channel> {
    let channels = problems.list("channels", names, 1..=MAX_ENDPOINT_CHANNELS, Channel::parse);
    problems.distinct("channels", &channels);
    channels
}

/// An endpoint as it is shown. Old and new clients read the same value under different names, so both are there.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointOut<'a> {
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
    held: HeldOut,
    #[serde(flatten)]
    wanted: EventTypesOut<'a>,
    /// The channels that it listens to; null is all.
    #[schemars(with = "Option<Vec<Channel>>", length(max = MAX_ENDPOINT_CHANNELS))]
    channels: Option<&'a [Channel]>,
    #[serde(flatten)]
    rate: RateOut,
    /// Free text pairs.
    #[schemars(with = "MetadataPairs")]
    metadata: &'a Metadata,
    /// When it was made.
    created_at: Timestamp,
    /// When it was last changed.
    updated_at: Timestamp,
}

/// What holds an endpoint back: nothing is sent to it before then, whoever asks for it.
#[derive(Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HeldOut {
    /// Nothing is sent to the endpoint before then, also no resend. Absent if nothing holds it back. To end the pause, change its
    /// URL, a header or the secret. (Disabling the endpoint ends it, too, but cancels everything that is pending.)
    #[serde(skip_serializing_if = "Option::is_none")]
    held_until: Option<Timestamp>,
    /// Why: it asked for that (`retry-after`), it asked for less (`overloaded`), nothing was heard from it (`silent`), its rate limit is
    /// used up (`rate-limit`), or the server could not make its attempts (`local`, `trouble`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["retry-after", "overloaded", "silent", "rate-limit", "local", "trouble"]))]
    held_reason: Option<&'static str>,
}

impl From<Hold> for HeldOut {
    fn from(hold: Hold) -> Self {
        Self { held_until: Some(hold.until), held_reason: Some(hold.reason.as_str()) }
    }
}

impl<'a> EndpointOut<'a> {
    /// An endpoint as it is now.
    pub(crate) fn new(endpoint: &'a Endpoint, now: Timestamp) -> Self {
        let held = endpoint.held.filter(|hold| hold.until > now && !endpoint.disabled);
        Self {
            id: endpoint.id,
            url: endpoint.url.as_str(),
            description: &endpoint.description,
            uid: endpoint.uid.as_ref(),
            version: endpoint.version,
            disabled: endpoint.disabled,
            disabled_reason: endpoint.disablement.map(|disablement| disablement.reason.as_str()),
            disabled_since: endpoint.disablement.map(|disablement| disablement.since),
            held: held.map(HeldOut::from).unwrap_or_default(),
            wanted: endpoint.event_types.as_deref().into(),
            channels: endpoint.channels.as_deref(),
            rate: endpoint.throttle_rate.into(),
            metadata: &endpoint.metadata,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
        }
    }
}

/// What rotates a secret.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EndpointSecretRotateIn")]
pub(crate) struct RotateIn {
    /// The new secret. By default one is generated, of the kind that `signing.default_kind` names, whatever kind the old one is:
    /// to stay with Ed25519 where that is `hmac256`, bring a key.
    #[schemars(with = "Option<SecretText>")]
    key: Option<String>,
    /// For how long the old one goes on signing too. By default a day; 0 is not at all.
    #[serde(default, deserialize_with = "whole")]
    #[schemars(range(max = MAX_GRACE_SECONDS))]
    grace_period_seconds: Option<u64>,
}

postrider_domain::limits! {
    in "Secrets";
    /// For how long an old secret signs beside the new one
    pub(crate) const MAX_GRACE_SECONDS: u64 = 604_800, "seconds", beyond "422";
}

/// For how long an old key signs if the caller does not say, in seconds.
const DEFAULT_GRACE_SECONDS: u64 = 86_400;

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
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EndpointSecretOut")]
pub(crate) struct SecretOut {
    /// The secret, or of an asymmetric one its public half.
    #[schemars(with = "SecretShown")]
    key: String,
}

impl From<&Secret> for SecretOut {
    fn from(secret: &Secret) -> Self {
        Self { key: secret.public_text() }
    }
}
