//! What comes in, and what is answered.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_domain::application::{EnvironmentId, Metadata};
use postrider_domain::ids::ApplicationId;
use postrider_domain::message::Message;
use postrider_domain::names::{Channel, EventTypeName, IdOrUid, Tag, Uid};
use postrider_domain::time::Timestamp;
use postrider_store::{EndpointKey, IdempotencyKey, StoreError};

/// A message that somebody wants to send. Everything in it has been checked by itself.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Whose message it is.
    pub environment: EnvironmentId,
    /// To whom it goes.
    pub application: IdOrUid<ApplicationId>,
    /// What kind of event it is.
    pub event_type: EventTypeName,
    /// The caller's own identifier.
    pub event_id: Option<Uid>,
    /// The channels it is sent on.
    pub channels: Option<Vec<Channel>>,
    /// The bytes to deliver.
    pub payload: Bytes,
    /// By what it can be found in lists.
    pub tags: Option<Vec<Tag>>,
    /// When to deliver it; an instant that has passed is at once.
    pub deliver_at: Option<Timestamp>,
    /// For how long the payload is kept, if not for the time that the server keeps payloads.
    pub retention: Option<Duration>,
    /// Make this application first, if there is none that `application` names (rest-contract §8.2). Its uid must then be
    /// what `application` says.
    pub create_application: Option<NewApplication>,
    /// Send it to no endpoint but this one.
    pub only: Option<EndpointKey>,
    /// Accept it only once under this key.
    pub idempotency: Option<IdempotencyKey>,
}

/// An application that a message may bring along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewApplication {
    /// The caller's own identifier.
    pub uid: Option<Uid>,
    /// Its name, for people.
    pub name: String,
    /// Messages per second over all its endpoints.
    pub throttle_rate: Option<u16>,
    /// Free text pairs.
    pub metadata: Metadata,
}

/// A message that is on disk.
#[derive(Debug, Clone)]
pub struct Submitted {
    /// The message; the first one, without its payload, if the request is a repetition.
    pub message: Arc<Message>,
    /// Whether it had been accepted before under the same key.
    pub replayed: bool,
    /// What is wrong with it in the eyes of an environment that only warns.
    pub warnings: Vec<Violation>,
    /// How many endpoints want it. Of a repetition: how many would now.
    pub endpoints: usize,
}

/// A rule of the environment that a message breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where: a member of the message, then members of that; elements of lists as `[0]`.
    pub loc: Vec<Cow<'static, str>>,
    /// What, for people. Does not contain the value.
    pub msg: String,
    /// What, for programs.
    pub kind: &'static str,
}

impl Violation {
    /// The payload does not match its schema.
    pub(crate) fn of_schema(loc: Vec<Cow<'static, str>>, msg: String) -> Self {
        Self { loc, msg, kind: "schema_violation" }
    }

    /// The payload does not match its schema, and where is not known.
    pub(crate) fn mismatch() -> Self {
        Self::of_schema(
            vec!["payload".into()],
            "does not match the schema; to say where would take too long".to_owned(),
        )
    }

    /// The limits were reached before it was known whether the payload matches.
    pub(crate) fn too_costly() -> Self {
        let msg = "could not be compared with the schema of its event type within the limits on time and memory";
        Self { loc: vec!["payload".into()], msg: msg.to_owned(), kind: "schema_too_costly" }
    }

    /// Nobody had time to compare the payload.
    pub(crate) fn not_compared() -> Self {
        let msg =
            "was not compared with the schema of its event type, because too much is being compared at the moment";
        Self { loc: vec!["payload".into()], msg: msg.to_owned(), kind: "schema_not_compared" }
    }

    /// Nothing can be compared with the schema.
    pub(crate) fn unusable_schema(version: &str, problem: &str) -> Self {
        let msg = format!("the schema of this event type, version {version:?}, can't be used: {problem}");
        Self { loc: vec!["eventType".into()], msg, kind: "schema_unusable" }
    }

    /// The environment does not have this event type.
    pub(crate) fn unknown_event_type() -> Self {
        let msg = "the environment has no active event type of this name".to_owned();
        Self { loc: vec!["eventType".into()], msg, kind: "unknown_event_type" }
    }
}

/// A message was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubmitError {
    /// There is no such application, and none was brought along.
    #[error("there is no such application")]
    ApplicationNotFound,
    /// The application that was brought along has no uid.
    #[error("the application to create has no uid")]
    ApplicationUidMissing,
    /// The application that was brought along has another uid than the one that the message is for.
    #[error("the application to create has another uid")]
    ApplicationUidMismatch,
    /// It breaks rules of its environment.
    #[error("the message breaks rules of its environment")]
    Refused(Vec<Violation>),
    /// The application has another message with this event id.
    #[error("the event id is in use")]
    Conflict,
    /// Its payload would be gone, or it would have to wait for longer than messages are kept.
    #[error("must not be later than the payload is kept")]
    DeliverAtTooLate,
    /// The application, or its environment, has as much waiting to be stored as it may have. Nothing was accepted.
    #[error("too many of your messages are waiting to be stored: try again in a moment")]
    TooMany,
    /// More is arriving than the disk takes, and the queue is full. Nothing was accepted.
    #[error("too many messages are waiting to be stored: try again in a moment")]
    Overloaded,
    /// More is arriving than is compared with schemas in time. Nothing was accepted.
    #[error("too many messages are being compared with schemas: try again in a moment")]
    NotCompared,
    /// The rules of the environment changed each time the message was judged by them. Nothing was accepted.
    #[error(
        "the environment's rules or event types changed again and again while the message was judged: try again in a moment"
    )]
    RulesChanging,
    /// The store failed. Whether the message was accepted is unknown; its key finds out.
    #[error(transparent)]
    Unavailable(#[from] StoreError),
}
