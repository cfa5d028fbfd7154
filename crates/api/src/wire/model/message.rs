//! Messages on the wire (rest-contract §8). Creating one is the hot path: the body is parsed once, names are borrowed
//! from it until they are checked, the payload stays the slice of the body that it is, and the answer is written as text.

use std::borrow::Cow;
use std::io::Write as _;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::{ApplicationId, MessageId};
use postrider_domain::message::{MAX_DELAY_DAYS, MAX_MESSAGE_CHANNELS, MAX_MESSAGE_TAGS, Message};
use postrider_domain::names::{Channel, EventTypeName, IdOrUid, Tag, Uid};
use postrider_domain::time::Timestamp;
use postrider_ingest::Submission;
use postrider_store::IdempotencyKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::wire::decode::{self, Few};
use crate::wire::error::Result;
use crate::wire::model::application::ApplicationIn;
use crate::wire::problem::{MAX_PROBLEMS, Problem};
use crate::wire::rules::Problems;
use crate::wire::schema::{Object, RawText, UidOf};
use crate::wire::typos::Warnings;

/// For how long a payload can be kept, in days and in hours.
const RETENTION_DAYS: RangeInclusive<u16> = 5..=MAX_DELAY_DAYS;
const RETENTION_HOURS: RangeInclusive<u16> = 1..=MAX_DELAY_DAYS * 24;

/// Of a larger body a payload that is less than half of it is copied.
const COPY_BEYOND: usize = 16 * 1024;

/// What stands for a payload that is gone. Clients compare this text.
const EXPIRED: &str = r#"{"expired":true}"#;

/// What stands for a payload that was not asked for.
const LEFT_OUT: &str = "{}";

/// A text that is borrowed from the body unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl AsRef<str> for Text<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// What creates a message.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("anyOf" = [
    { "properties": { "payloadRetentionPeriod": { "type": "null" } } },
    { "properties": { "payloadRetentionHours": { "type": "null" } } },
]))]
pub(crate) struct MessageIn<'a> {
    /// What kind of event it is. The event type need not exist.
    #[serde(borrow)]
    #[schemars(with = "EventTypeName")]
    event_type: Text<'a>,
    /// What is delivered, byte for byte: a JSON object. `data` is another name.
    #[serde(borrow, alias = "data")]
    #[schemars(with = "Object", extend("examples" = [{ "id": "inv_123", "total": 4_200 }]))]
    payload: &'a RawValue,
    /// Your own identifier, which can be used wherever the id can. It can be used once.
    #[serde(borrow)]
    #[schemars(with = "Option<UidOf<MessageId>>")]
    event_id: Option<Text<'a>>,
    /// The channels that it is sent on.
    #[serde(borrow)]
    #[schemars(with = "Option<Vec<Channel>>", length(min = 1, max = MAX_MESSAGE_CHANNELS), extend("uniqueItems" = true))]
    channels: Option<Few<Text<'a>>>,
    /// Words by which it can be found, and nothing else.
    #[serde(borrow)]
    #[schemars(with = "Option<Vec<Tag>>", length(max = MAX_MESSAGE_TAGS), extend("uniqueItems" = true))]
    tags: Option<Few<Text<'a>>>,
    /// Not to be delivered before this instant.
    deliver_at: Option<Timestamp>,
    /// For how many days the payload is kept after it was due. By default as long as the server keeps payloads (90 days).
    #[serde(default, deserialize_with = "decode::whole")]
    #[schemars(range(min = 5, max = 90))]
    payload_retention_period: Option<u16>,
    /// For how many hours the payload is kept after it was due. Counts more than the days. What was not delivered by then never is:
    /// its retries, which go on for three days unless the operator set something else, are canceled.
    #[serde(default, deserialize_with = "decode::whole")]
    #[schemars(range(min = 1, max = 2_160))]
    payload_retention_hours: Option<u16>,
    /// What changes the delivery.
    #[serde(borrow, default, deserialize_with = "decode::object")]
    transformations_params: Option<TransformationsParams<'a>>,
    /// The application, to be made if the path names none. Its uid must be what the path names.
    #[serde(default, deserialize_with = "decode::small_object")]
    application: Option<ApplicationIn>,
}

/// What changes the delivery of a message.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct TransformationsParams<'a> {
    /// Delivered instead of the payload, whatever text it is. One that is no JSON object is delivered all the same, but is shown
    /// to nobody: where the message is read, its `payload` is `{"expired":true}` from the start. It can be sent again like any
    /// other.
    #[serde(borrow)]
    #[schemars(with = "Option<RawText>")]
    raw_payload: Option<Text<'a>>,
}

/// A message that was read from a body.
pub(crate) struct Read {
    /// What to submit.
    pub(crate) submission: Submission,
    /// Whether its payload is known to be a JSON object. One that was given as raw text may be anything.
    pub(crate) is_object: bool,
}

/// Reads and checks a body.
pub(crate) fn read(
    body: &Bytes,
    environment: EnvironmentId,
    application: IdOrUid<ApplicationId>,
    idempotency: Option<IdempotencyKey>,
    warnings: &Warnings,
) -> Result<Read> {
    let text = decode::text(body)?;
    decode::not_missing(text)?;
    if text.trim_ascii_start().starts_with('[') {
        let msg =
            "must be one message, a JSON object: for an array of messages use POST /api/v1/app/{app_id}/msg/batch";
        return Err(decode::undecodable(Vec::new(), msg.to_owned()));
    }
    let message: MessageIn<'_> = decode::decode_noting(text, |name, known| warnings.unknown(name, known))?;
    // A small part of a large body would keep all of it in memory for as long as the message waits.
    let is_most = |text: &str| body.len() <= COPY_BEYOND || text.len() > body.len() / 2;
    let keep = |text: &str| {
        if is_most(text) { body.slice_ref(text.as_bytes()) } else { Bytes::copy_from_slice(text.as_bytes()) }
    };
    message.checked(environment, application, idempotency, keep)
}

impl MessageIn<'_> {
    /// The payload as it was written.
    pub(crate) fn payload(&self) -> &str {
        self.payload.get()
    }

    /// Checks a message. `keep` makes a payload of its own from a part of what was read.
    pub(crate) fn checked(
        self,
        environment: EnvironmentId,
        application: IdOrUid<ApplicationId>,
        idempotency: Option<IdempotencyKey>,
        keep: impl Fn(&str) -> Bytes,
    ) -> Result<Read> {
        let mut problems = Problems::of_body();
        if !is_object(self.payload) {
            problems.add("payload", "must be a JSON object");
        }
        let event_type = problems.check("eventType", EventTypeName::parse(&self.event_type.0));
        let event_id = self.event_id.and_then(|id| problems.check("eventId", Uid::parse::<MessageId>(&id.0)));
        let channels = self.channels.map(|Few(names)| {
            let channels = problems.list("channels", &names, 1..=MAX_MESSAGE_CHANNELS, Channel::parse);
            problems.distinct("channels", &channels);
            channels
        });
        // Without any is the same as with none.
        let tags = self.tags.filter(|tags| !tags.0.is_empty()).map(|Few(names)| {
            let tags = problems.list("tags", &names, 1..=MAX_MESSAGE_TAGS, Tag::parse);
            problems.distinct("tags", &tags);
            tags
        });
        let retention = retention(self.payload_retention_period, self.payload_retention_hours, &mut problems);
        let create_application =
            self.application.map(|application| problems.within("application", |problems| application.check(problems)));
        let raw = self.transformations_params.and_then(|params| params.raw_payload);
        let is_object = raw.is_none();
        let payload = match raw {
            Some(Text(Cow::Borrowed(raw))) => keep(raw),
            Some(Text(Cow::Owned(raw))) => raw.into(),
            None => keep(self.payload.get()),
        };
        let submission = event_type.map(|event_type| Submission {
            environment,
            application,
            event_type,
            event_id,
            channels,
            payload,
            tags,
            deliver_at: self.deliver_at,
            retention,
            create_application,
            only: None,
            idempotency,
        });
        problems.finish(submission.map(|submission| Read { submission, is_object }))
    }
}

/// For how long the payload is kept, if the sender says so.
fn retention(days: Option<u16>, hours: Option<u16>, problems: &mut Problems) -> Option<Duration> {
    if days.is_some() && hours.is_some() {
        problems.add("payloadRetentionHours", "must not be given together with payloadRetentionPeriod");
    }
    let mut check = |member: &'static str, value: Option<u16>, range: RangeInclusive<u16>| {
        if value.is_some_and(|value| !range.contains(&value)) {
            problems.add(member, format!("must be {} to {}", range.start(), range.end()));
        }
        value
    };
    let days = check("payloadRetentionPeriod", days, RETENTION_DAYS);
    let hours = check("payloadRetentionHours", hours, RETENTION_HOURS);
    let hours = hours.map(u64::from).or(days.map(|days| u64::from(days) * 24));
    hours.map(|hours| Duration::from_secs(hours * 3_600))
}

fn is_object(json: &RawValue) -> bool {
    json.get().starts_with('{')
}

/// What has an example sent.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EventExampleIn")]
pub(crate) struct ExampleIn {
    /// Its event type, or `postrider.ping`, which need not be defined.
    #[schemars(with = "EventTypeName")]
    event_type: String,
}

impl ExampleIn {
    /// Checks a body.
    pub(crate) fn checked(self) -> Result<EventTypeName> {
        let mut problems = Problems::of_body();
        let event_type = problems.check("eventType", EventTypeName::parse(&self.event_type));
        problems.finish(event_type)
    }
}

/// What asks whether anybody would be sent a message.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "MessagePrecheckIn")]
pub(crate) struct PrecheckIn {
    /// The event type of the message.
    #[schemars(with = "EventTypeName")]
    event_type: String,
    /// The channels that it would be sent on.
    #[schemars(with = "Option<Vec<Channel>>", length(min = 1, max = MAX_MESSAGE_CHANNELS))]
    channels: Option<Vec<String>>,
}

impl PrecheckIn {
    /// Checks a body.
    pub(crate) fn checked(self) -> Result<(EventTypeName, Option<Vec<Channel>>)> {
        let mut problems = Problems::of_body();
        let event_type = problems.check("eventType", EventTypeName::parse(&self.event_type));
        let channels =
            self.channels.map(|names| problems.list("channels", &names, 1..=MAX_MESSAGE_CHANNELS, Channel::parse));
        problems.finish(event_type.map(|event_type| (event_type, channels)))
    }
}

/// Whether anybody would be.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "MessagePrecheckOut")]
pub(crate) struct PrecheckOut {
    /// Whether an endpoint that is not disabled wants it.
    pub(crate) active: bool,
}

/// A message as it is shown.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MessageOut<'a> {
    /// The channels that it was sent on.
    #[schemars(with = "Option<Vec<Channel>>", length(max = MAX_MESSAGE_CHANNELS))]
    channels: Option<&'a [Channel]>,
    /// Not delivered before this instant.
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_at: Option<Timestamp>,
    /// Your own identifier, if it has one.
    event_id: Option<&'a Uid>,
    /// What kind of event it is.
    event_type: &'a EventTypeName,
    /// Its id.
    id: MessageId,
    /// What is delivered; `{}` if it was not asked for, `{"expired":true}` if it is gone, or is a `rawPayload` that is no JSON
    /// object.
    #[schemars(with = "Object")]
    payload: &'a RawValue,
    /// Words by which it can be found.
    #[schemars(with = "Option<Vec<Tag>>", length(max = MAX_MESSAGE_TAGS))]
    tags: Option<&'a [Tag]>,
    /// When it was accepted.
    timestamp: Timestamp,
    /// What of it does not match the schema of its event type, if the environment only warns of that. In the answer to
    /// its creation only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_PROBLEMS))]
    warnings: Vec<Problem>,
}

impl<'a> MessageOut<'a> {
    /// Shows a message with its payload, or without.
    pub(crate) fn new(message: &'a Message, with_content: bool) -> Self {
        Self {
            channels: message.channels.as_deref(),
            deliver_at: message.deliver_at,
            event_id: message.event_id.as_ref(),
            event_type: &message.event_type,
            id: message.id,
            payload: if with_content { shown_payload(message) } else { constant(LEFT_OUT) },
            tags: message.tags.as_deref(),
            timestamp: message.created_at,
            warnings: Vec::new(),
        }
    }

    /// Tells what is wrong with a message that was accepted all the same.
    pub(crate) fn with_warnings(self, warnings: Vec<Problem>) -> Self {
        Self { warnings, ..self }
    }
}

/// The payload as it is shown: a JSON object in any case, because clients have a type for that. One that was sent raw and
/// is none is shown as if it were gone.
fn shown_payload(message: &Message) -> &RawValue {
    let payload = message.payload.as_deref().and_then(|payload| serde_json::from_slice::<&RawValue>(payload).ok());
    payload.filter(|payload| is_object(payload)).unwrap_or_else(|| constant(EXPIRED))
}

fn constant(json: &'static str) -> &'static RawValue {
    serde_json::from_str(json).unwrap_or(RawValue::NULL)
}

/// Writes a message that was just accepted, the same as [`MessageOut`] but without reading its payload again.
/// `content` is a JSON object. Names need no escapes, because of what they may consist of.
pub(crate) fn write(message: &Message, content: Option<&[u8]>) -> Bytes {
    let content = content.unwrap_or(LEFT_OUT.as_bytes());
    let mut out = Vec::with_capacity(content.len() + 256 + message.event_type.as_str().len());
    out.extend_from_slice(b"{\"channels\":");
    quote_all(message.channels.as_deref(), Channel::as_str, &mut out);
    if let Some(at) = message.deliver_at {
        let _ = write!(out, ",\"deliverAt\":\"{at}\"");
    }
    out.extend_from_slice(b",\"eventId\":");
    match &message.event_id {
        None => out.extend_from_slice(b"null"),
        Some(id) => quote(id.as_str(), &mut out),
    }
    out.extend_from_slice(b",\"eventType\":");
    quote(message.event_type.as_str(), &mut out);
    // Writing to a vector does not fail.
    let _ = write!(out, ",\"id\":\"{}\",\"payload\":", message.id);
    out.extend_from_slice(content);
    out.extend_from_slice(b",\"tags\":");
    quote_all(message.tags.as_deref(), Tag::as_str, &mut out);
    let _ = write!(out, ",\"timestamp\":\"{}\"}}", message.created_at);
    out.into()
}

fn quote_all<T>(names: Option<&[T]>, text: impl Fn(&T) -> &str, out: &mut Vec<u8>) {
    let Some(names) = names else { return out.extend_from_slice(b"null") };
    for (at, name) in names.iter().enumerate() {
        out.push(if at == 0 { b'[' } else { b',' });
        quote(text(name), out);
    }
    out.push(b']');
}

fn quote(name: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::error::ApiError;
    use postrider_domain::entropy::SeededEntropy;

    fn read_text(body: &str) -> Result<Read> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        read(&body, EnvironmentId::default_environment(), IdOrUid::parse("shop"), None, &Warnings::default())
    }

    fn submission(body: &str) -> Submission {
        read_text(body).map(|read| read.submission).unwrap_or_else(|error| panic!("{body}: {error:?}"))
    }

    fn place(body: &str) -> String {
        match read_text(body).map(|read| read.submission) {
            Err(ApiError::Invalid(problems)) => problems[0].loc.join("."),
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn the_payload_is_the_bytes_of_the_body() {
        let payload = "{ \"b\" :1.00,\t\"a\":\"\\u00e4\", \"b\":2e0 }";
        for body in [
            format!(r#"{{"eventType":"a.b","payload": {payload} }}"#),
            format!(r#"{{"data":{payload},"eventType":"a\u002eb","unknown":[{{}}]}}"#),
        ] {
            let bytes = Bytes::from(body);
            let read =
                read(&bytes, EnvironmentId::default_environment(), IdOrUid::parse("shop"), None, &Warnings::default())
                    .unwrap();
            assert_eq!(read.submission.payload, payload);
            assert!(bytes.as_ptr_range().contains(&read.submission.payload.as_ptr()), "the payload was copied");
            assert_eq!(read.submission.event_type.as_str(), "a.b");
        }
    }

    #[test]
    fn a_raw_payload_is_delivered_instead() {
        let body =
            |raw: &str| format!(r#"{{"eventType":"a","payload":{{}},"transformationsParams":{{"rawPayload":{raw}}}}}"#);
        assert_eq!(submission(&body(r#""<xml/>""#)).payload, "<xml/>");
        assert_eq!(submission(&body(r#""a\nb""#)).payload, "a\nb");
        assert_eq!(submission(&body("null")).payload, "{}");
    }

    #[test]
    fn every_rule_is_said_with_its_place() {
        for (rest, want) in [
            (r#""payload":[]"#, "body.payload"),
            (r#""payload":"{}""#, "body.payload"),
            (r#""payload":{},"data":{}"#, "body"),
            (r#""payload":{},"eventId":"msg_1""#, "body.eventId"),
            (r#""payload":{},"eventId":"a\u0000""#, "body.eventId"),
            (r#""payload":{},"channels":[]"#, "body.channels"),
            (r#""payload":{},"channels":["a","a"]"#, "body.channels"),
            (r#""payload":{},"channels":["a","b","c","d","e","f"]"#, "body.channels"),
            (r#""payload":{},"channels":["a","b\r\n"]"#, "body.channels.[1]"),
            (r#""payload":{},"payloadRetentionPeriod":4"#, "body.payloadRetentionPeriod"),
            (r#""payload":{},"payloadRetentionPeriod":91"#, "body.payloadRetentionPeriod"),
            (r#""payload":{},"payloadRetentionPeriod":"9""#, "body.payloadRetentionPeriod"),
            (r#""payload":{},"payloadRetentionHours":0"#, "body.payloadRetentionHours"),
            (r#""payload":{},"payloadRetentionHours":2161"#, "body.payloadRetentionHours"),
            (r#""payload":{},"payloadRetentionHours":24,"payloadRetentionPeriod":5"#, "body.payloadRetentionHours"),
            (r#""payload":{},"tags":["a","a"]"#, "body.tags"),
            (&format!(r#""payload":{{}},"tags":["a"{}]"#, r#","a""#.repeat(5_000)), "body.tags"),
            (r#""payload":{},"tags":["a b"]"#, "body.tags.[0]"),
            (r#""payload":{},"deliverAt":"soon""#, "body.deliverAt"),
            (r#""payload":{},"application":{"name":""}"#, "body.application.name"),
            (r#""payload":{},"transformationsParams":{"rawPayload":1}"#, "body.transformationsParams.rawPayload"),
        ] {
            assert_eq!(place(&format!(r#"{{"eventType":"a",{rest}}}"#)), want, "{rest}");
        }
        assert_eq!(place(r#"{"payload":{}}"#), "body");
        assert_eq!(place(r#"{"eventType":"a\r\nb","payload":{}}"#), "body.eventType");
        assert_eq!(place(r#"{"eventType":"a","payload":{}"#), "body");
        assert_eq!(place(r#"{"eventType":"a","payload":{}}x"#), "body");
    }

    fn message(payload: Option<&'static str>) -> Message {
        let at = Timestamp::from_micros(1_767_323_045_120_001);
        Message {
            id: MessageId::new(at, &SeededEntropy::new(1)),
            event_id: None,
            event_type: EventTypeName::parse("a.b").unwrap(),
            channels: None,
            payload: payload.map(Bytes::from),
            tags: None,
            deliver_at: None,
            expires_at: None,
            created_at: at,
        }
    }

    fn shown(message: &Message, with_content: bool) -> String {
        serde_json::to_string(&MessageOut::new(message, with_content)).unwrap()
    }

    #[test]
    fn a_message_is_written_as_it_is_shown_later() {
        let payload = "{ \"b\" : 1 }";
        let plain = message(Some(payload));
        let channels = ["x", "y"].map(|name| Channel::parse(name).unwrap()).to_vec();
        let full = Message {
            event_id: Some(Uid::parse::<MessageId>("e-1").unwrap()),
            channels: Some(channels),
            tags: Some(vec![Tag::parse("t_1").unwrap()]),
            deliver_at: Some(Timestamp::from_micros(1_767_323_046_000_000)),
            ..message(Some(payload))
        };
        for message in [plain, full] {
            assert_eq!(write(&message, None), shown(&message, false));
            assert_eq!(write(&message, Some(payload.as_bytes())), shown(&message, true));
            assert!(shown(&message, true).contains(payload));
        }
    }

    #[test]
    fn what_is_no_object_is_shown_as_expired() {
        for payload in [None, Some("<xml/>"), Some("[1]"), Some("{} {}"), Some("")] {
            assert!(shown(&message(payload), true).contains(r#""payload":{"expired":true}"#), "{payload:?}");
            assert!(shown(&message(payload), false).contains(r#""payload":{}"#), "{payload:?}");
        }
    }
}
