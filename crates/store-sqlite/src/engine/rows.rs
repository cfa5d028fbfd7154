//! Rows of messages and endpoints as the contract's types. Both the hot path and the lists read them.
//!
//! What was accepted once can be read for good: rules that callers' values are judged by are not applied here, because
//! they may have become stricter since.

use std::borrow::Cow;

use bytes::Bytes;
use postrider_domain::delivery::{DisableReason, Hold, HoldReason};
use postrider_domain::endpoint::{Disablement, Endpoint, EndpointUrl, Headers};
use postrider_domain::event_type_set::EventTypeSet;
use postrider_domain::message::Message;
use postrider_domain::names::{Channel, EventTypeName, Tag, Uid};
use postrider_domain::signature::{OldKey, Secret, SigningKeys};
use postrider_domain::time::Timestamp;
use postrider_store::{ApplicationKey, EndpointKey, EnvironmentKey, MessageKey, Stored, Target};
use rusqlite::Row;

use crate::engine::decode::{Columns, SqlError, encode_json};

/// What [`decode_message`] reads; a column `payload` follows, or `NULL AS payload`.
pub(crate) const MESSAGE_COLUMNS: &str =
    "message.no, message.id, event_type, event_id, message.channels, tags, deliver_at, message.expires_at,
     message.created_at";

/// The payload of a message, for the column `payload`; NULL when it is gone.
pub(crate) const PAYLOAD: &str = "(SELECT body FROM payload WHERE payload.message_no = message.no)";

/// How many columns a message has, its payload among them.
pub(crate) const MESSAGE_WIDTH: usize = 10;

/// Reads a message from a row that begins with [`MESSAGE_COLUMNS`] and the payload.
pub(crate) fn decode_message(row: &Row<'_>) -> Result<Stored<MessageKey, Message>, SqlError> {
    let columns = Columns::in_order(row, "message");
    let key = MessageKey(columns.get("no")?);
    let value = Message {
        id: columns.id("id")?,
        event_type: EventTypeName::from_trusted(columns.get("event_type")?),
        event_id: columns.get::<Option<String>>("event_id")?.map(Uid::from_trusted),
        channels: names(columns.maybe_json::<Vec<String>>("channels")?, Channel::from_trusted),
        tags: names(columns.maybe_json::<Vec<String>>("tags")?, Tag::from_trusted),
        deliver_at: columns.maybe_instant("deliver_at")?,
        expires_at: columns.maybe_instant("expires_at")?,
        created_at: columns.instant("created_at")?,
        payload: columns.get::<Option<Vec<u8>>>("payload")?.map(Bytes::from),
    };
    Ok(Stored { key, value })
}

/// What [`decode_endpoint`] reads.
pub(crate) const ENDPOINT_COLUMNS: &str = "endpoint.no, endpoint.id, endpoint.uid, url, description, endpoint.version,
     disabled,
     (SELECT disabled_reason FROM endpoint_fact WHERE endpoint_no = endpoint.no) AS disabled_reason,
     (SELECT disabled_since FROM endpoint_fact WHERE endpoint_no = endpoint.no) AS disabled_since,
     (SELECT not_before FROM endpoint_hold WHERE endpoint_no = endpoint.no) AS held_until,
     (SELECT reason FROM endpoint_hold WHERE endpoint_no = endpoint.no) AS held_reason, event_types, channels,
     endpoint.throttle_rate, endpoint.metadata, endpoint.created_at, endpoint.updated_at";

/// Reads an endpoint from a row with [`ENDPOINT_COLUMNS`].
pub(crate) fn decode_endpoint(row: &Row<'_>) -> Result<Stored<EndpointKey, Endpoint>, SqlError> {
    let columns = Columns::new(row, "endpoint");
    let event_types = names(columns.maybe_json::<Vec<String>>("event_types")?, EventTypeName::from_trusted);
    endpoint_of(&columns, event_types)
}

fn endpoint_of(
    columns: &Columns<'_, '_>,
    event_types: Option<Vec<EventTypeName>>,
) -> Result<Stored<EndpointKey, Endpoint>, SqlError> {
    let value = Endpoint {
        id: columns.id("id")?,
        uid: columns.get::<Option<String>>("uid")?.map(Uid::from_trusted),
        url: EndpointUrl::from_trusted(columns.get("url")?),
        description: columns.get("description")?,
        version: columns.get("version")?,
        disabled: columns.get("disabled")?,
        disablement: decode_disablement(columns)?,
        held: decode_held(columns)?,
        event_types,
        channels: names(columns.maybe_json::<Vec<String>>("channels")?, Channel::from_trusted),
        throttle_rate: columns.get("throttle_rate")?,
        metadata: columns.metadata()?,
        created_at: columns.instant("created_at")?,
        updated_at: columns.instant("updated_at")?,
    };
    Ok(Stored { key: EndpointKey(columns.get("no")?), value })
}

/// Reads the columns `disabled_reason` and `disabled_since`.
pub(crate) fn decode_disablement(columns: &Columns<'_, '_>) -> Result<Option<Disablement>, SqlError> {
    let reason = columns.get::<Option<String>>("disabled_reason")?.and_then(|word| DisableReason::parse(&word));
    let since = columns.maybe_instant("disabled_since")?;
    Ok(reason.zip(since).map(|(reason, since)| Disablement { reason, since }))
}

/// Reads the columns `held_until` and `held_reason`. What makes no sense holds nothing.
pub(crate) fn decode_held(columns: &Columns<'_, '_>) -> Result<Option<Hold>, SqlError> {
    let reason = columns.get::<Option<String>>("held_reason")?.and_then(|word| HoldReason::parse(&word));
    let until = columns.maybe_instant("held_until")?;
    Ok(reason.zip(until).map(|(reason, until)| Hold { until, reason }))
}

fn names<T>(texts: Option<Vec<String>>, from_trusted: impl Fn(String) -> T) -> Option<Vec<T>> {
    texts.map(|texts| texts.into_iter().map(from_trusted).collect())
}

/// What [`decode_target`] reads, from `endpoint JOIN application`: of an endpoint nothing that is for people.
pub(crate) const TARGET_COLUMNS: &str =
    "endpoint.no, endpoint.id, endpoint.uid, url, '' AS description, endpoint.version,
     disabled,
     (SELECT disabled_reason FROM endpoint_fact WHERE endpoint_no = endpoint.no) AS disabled_reason,
     (SELECT disabled_since FROM endpoint_fact WHERE endpoint_no = endpoint.no) AS disabled_since,
     NULL AS held_until, NULL AS held_reason, event_types, channels, endpoint.throttle_rate, '{}' AS metadata,
     endpoint.created_at, endpoint.updated_at, headers, signing_keys, CAST(receiver AS INTEGER) AS receiver, application_no, environment_no,
     application.throttle_rate AS application_rate,
     (endpoint.deleted_at IS NOT NULL OR application.deleted_at IS NOT NULL) AS gone";

/// The names of event types, without a copy of each.
fn event_type_set(columns: &Columns<'_, '_>) -> Result<Option<EventTypeSet>, SqlError> {
    #[derive(serde::Deserialize)]
    #[serde(transparent)]
    struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

    let Some(text) = columns.get::<Option<String>>("event_types")? else { return Ok(None) };
    let names: Vec<Name<'_>> =
        serde_json::from_str(&text).map_err(|error| columns.inconsistent("event_types", &error))?;
    let names: Vec<_> = names.into_iter().map(|Name(name)| name).collect();
    Ok(Some(EventTypeSet::of_trusted(&names)))
}

/// Reads an endpoint as the sender needs it from a row with [`TARGET_COLUMNS`].
pub(crate) fn decode_target(row: &Row<'_>) -> Result<Target, SqlError> {
    let columns = Columns::new(row, "endpoint");
    let Stored { key, value: mut endpoint } = endpoint_of(&columns, None)?;
    endpoint.disabled |= columns.get::<bool>("gone")?;
    Ok(Target {
        key,
        application: ApplicationKey(columns.get("application_no")?),
        environment: EnvironmentKey(columns.get("environment_no")?),
        endpoint,
        event_types: event_type_set(&columns)?,
        headers: columns.json::<Headers>("headers")?,
        keys: decode_keys(&columns)?,
        application_rate: columns.get("application_rate")?,
        receiver: columns.get::<i64>("receiver")?.unsigned_abs(),
    })
}

#[derive(serde::Deserialize, serde::Serialize)]
struct StoredKeys {
    current: String,
    old: Vec<StoredOldKey>,
}

#[derive(serde::Deserialize, serde::Serialize)]
struct StoredOldKey {
    secret: String,
    expires_at: i64,
}

/// Reads the column `signing_keys`.
pub(crate) fn decode_keys(columns: &Columns<'_, '_>) -> Result<SigningKeys, SqlError> {
    let stored: StoredKeys = columns.json("signing_keys")?;
    // The error must not quote the secret.
    let secret = |text: &str| Secret::from_trusted(text).map_err(|error| columns.inconsistent("signing_keys", &error));
    let old = |key: &StoredOldKey| {
        Ok(OldKey { secret: secret(&key.secret)?, expires_at: Timestamp::from_micros(key.expires_at) })
    };
    Ok(SigningKeys {
        current: secret(&stored.current)?,
        old: stored.old.iter().map(old).collect::<Result<_, SqlError>>()?,
    })
}

/// The text for the column `signing_keys`.
pub(crate) fn encode_keys(keys: &SigningKeys) -> Result<String, SqlError> {
    let old =
        |key: &OldKey| StoredOldKey { secret: key.secret.as_str().into(), expires_at: key.expires_at.as_micros() };
    let stored = StoredKeys { current: keys.current.as_str().into(), old: keys.old.iter().map(old).collect() };
    encode_json(&stored)
}
