//! The work table: what must be delivered. Accept fills it, settle empties it, and both are batches.
//!
//! A delivery is a row `(endpoint, due instant, message)`. It exists from the accept commit until the settle commit that
//! ends it; while a request is under way the row is untouched, so a crash leaves it pending. `wakes` is an index of the
//! endpoints that have deliveries due later: one row per endpoint, however large its backlog is.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use postrider_domain::application::EnvironmentId;
use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::{EndpointFact, Hold, Next};
use postrider_domain::endpoint::{Disablement, Endpoint, Headers, Health};
use postrider_domain::environment::MessageRules;
use postrider_domain::event_type_set::{EventTypeDigest, EventTypeSet};
use postrider_domain::ids::{ApplicationId, AttemptId};
use postrider_domain::message::Message;
use postrider_domain::names::{Channel, IdOrUid};
use postrider_domain::notice::NoticeKind;
use postrider_domain::signature::SigningKeys;
use postrider_domain::time::Timestamp;

use crate::{
    ApplicationKey, EndpointKey, EnvironmentKey, IdempotencyKey, MessageKey, Once, StoreError, WriteError, Written,
};

/// An endpoint as the sender needs it.
#[derive(Debug, Clone)]
pub struct Target {
    /// The engine's handle.
    pub key: EndpointKey,
    /// Whose endpoint it is.
    pub application: ApplicationKey,
    /// To which its application belongs.
    pub environment: EnvironmentKey,
    /// The endpoint, without what is for people: its description and its metadata are empty. `disabled` is also true if it,
    /// or its application, was deleted. The event types that it asks for are in `event_types` only.
    pub endpoint: Endpoint,
    /// The event types that it wants; `None` is all.
    pub event_types: Option<EventTypeSet>,
    /// Its extra headers.
    pub headers: Headers,
    /// Its keys.
    pub keys: SigningKeys,
    /// The limit of its application over all its endpoints, in messages per second.
    pub application_rate: Option<u16>,
    /// How often its receiver was another one: its URL, keys or headers changed, or it was enabled or disabled. What was learned of one
    /// receiver says nothing of the next.
    pub receiver: u64,
}

impl Target {
    /// Whether a message of this type on these channels goes to this endpoint (rest-contract §8.1).
    pub fn wants(&self, event_type: EventTypeDigest, channels: Option<&[Channel]>) -> bool {
        !self.endpoint.disabled
            && self.event_types.as_ref().is_none_or(|wanted| wanted.has(event_type))
            && self.endpoint.hears(channels)
    }
}

/// Where the messages of an application go.
#[derive(Debug, Clone)]
pub struct Routes {
    /// The application's handle.
    pub application: ApplicationKey,
    /// The application's id.
    pub id: ApplicationId,
    /// Grows with every change that could alter where a message goes, how it is sent, or what it must be like: also one
    /// of the environment's rules, and of its event types while there are rules. What an endpoint is described by is no such
    /// change. Accept refuses an older one (see [`NewMessage::rules`]).
    pub version: i64,
    /// What the messages of the environment must be like.
    pub rules: MessageRules,
    /// Grows with every change of these rules, and of event types while there are rules; the same for all applications
    /// of the environment.
    pub rules_version: i64,
    /// The endpoints that are not deleted, by id. Disabled ones are among them.
    pub targets: Vec<Arc<Target>>,
}

/// A message to accept, with its fan-out.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// The application.
    pub application: ApplicationKey,
    /// The version of the routes from which `endpoints` was computed.
    pub version: i64,
    /// The version of their rules, if they were read after the message had come. Then nobody was answered before it came whose
    /// change they do not know, and it is accepted by them though they are no longer the newest, if the rules are the same.
    pub rules: Option<i64>,
    /// The message.
    pub message: Arc<Message>,
    /// The endpoints it goes to.
    pub endpoints: Vec<EndpointKey>,
    /// Accept it only once under this key. Of a key that is older than `not_before` nothing is known.
    pub idempotency: Option<(IdempotencyKey, Timestamp)>,
}

/// Bytes of a payload that cost as much as a row.
const ROW_BYTES: usize = 2_048;

/// What lists by type, channel and tag cost of a message that has none of its names in common with others, in rows: each is one.
fn names_in_rows(message: &Message) -> usize {
    message.channels.as_ref().map_or(0, |names| names.len()) + message.tags.as_ref().map_or(0, |names| names.len())
}

impl NewMessage {
    /// About what it costs to store it, in rows: so that no commit takes long, whatever is in it.
    pub fn rows(&self) -> usize {
        let payload = self.message.payload.as_ref().map_or(0, Bytes::len);
        1 + self.endpoints.len() + payload / ROW_BYTES + names_in_rows(&self.message)
    }
}

/// What accept did.
#[derive(Debug, Clone)]
pub enum Accepted {
    /// The message and its deliveries are on disk. Each delivery is due at the message's `due_at`; if that lies ahead, its
    /// endpoint is in the index of wakes.
    New(MessageKey),
    /// It had been accepted before, as this message, which comes without its payload. Nothing was written.
    Replayed(Arc<Message>),
}

/// A message was not accepted; others of its batch may have been.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AcceptError {
    /// The store failed; nothing of the batch may be taken for accepted.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was committed, and then it turned out that the store cannot be trusted: whether it lasts is not known. Nobody is to
    /// be told that it was accepted; but it is there, as long as the store is, so it is to be dispatched.
    #[error("{error}")]
    Unsure {
        /// The message.
        message: MessageKey,
        /// What is wrong.
        error: StoreError,
    },
    /// The routes changed, or the rules, if only those count, or the application is gone: load them again.
    #[error("the application's routes are out of date")]
    Stale,
    /// The application has another message with this event id.
    #[error("the event id is in use")]
    Conflict,
}

/// Names a delivery of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryKey {
    /// When it is due.
    pub due_at: Timestamp,
    /// What is delivered.
    pub message: MessageKey,
}

/// A delivery that is due, with all that the sender needs of it.
#[derive(Debug, Clone)]
pub struct Due {
    /// Its name.
    pub key: DeliveryKey,
    /// Attempts made so far.
    pub made: u32,
    /// Why the next attempt is made.
    pub trigger: Trigger,
    /// Whether accept made it to be delivered at once, and nothing came of it yet: it may still be on its way through
    /// memory (see [`crate::Dispatch`]). What is to be delivered later, or was added later, is found in the store only.
    pub fresh: bool,
    /// What to deliver; `None` if the payload is gone, so that the delivery can only be canceled.
    pub message: Option<Arc<Message>>,
}

/// The next deliveries of an endpoint.
#[derive(Debug, Clone, Default)]
pub struct DueSlice {
    /// Earliest first.
    pub due: Vec<Due>,
    /// The one after these, if they end there because it was too large.
    pub too_large: Option<TooLarge>,
    /// The endpoint's [`Target::receiver`]: whoever knows an older one has missed a change.
    pub receiver: Option<u64>,
}

/// A due delivery whose payload is more than was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    /// Its message.
    pub message: MessageKey,
    /// The payload's bytes.
    pub payload_bytes: usize,
}

impl From<Vec<Due>> for DueSlice {
    fn from(due: Vec<Due>) -> Self {
        Self { due, ..Self::default() }
    }
}

/// An attempt to log.
#[derive(Debug, Clone)]
pub struct AttemptRecord {
    /// Its id, made when it started.
    pub id: AttemptId,
    /// When it started.
    pub started_at: Timestamp,
    /// The URL that was used.
    pub url: Arc<str>,
    /// Whether the receiver answered 2xx.
    pub succeeded: bool,
    /// The status of the answer; 0 if there was none.
    pub status_code: u16,
    /// The first bytes of the answer, or what went wrong.
    pub response: Bytes,
    /// From start to answer, in milliseconds.
    pub duration_ms: u32,
}

/// Where a delivery comes from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Whose message it is.
    pub application: ApplicationKey,
    /// The message.
    pub message: Arc<Message>,
}

/// The result of an attempt, to store: the log entry and the delivery's next state, in one commit.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The endpoint.
    pub endpoint: EndpointKey,
    /// The delivery. If the store has it no more (its endpoint was deleted meanwhile), the attempt is logged all the same
    /// and nothing is scheduled.
    pub delivery: DeliveryKey,
    /// Attempts made before this one.
    pub made: u32,
    /// Why the attempt was made.
    pub trigger: Trigger,
    /// The log entry; `None` if the delivery is canceled without an attempt.
    pub attempt: Option<AttemptRecord>,
    /// The delivery's next state.
    pub next: Next,
    /// What counts instead if the endpoint has another receiver by now than the one that was asked. Then nothing is held against it.
    pub elsewhere: Option<Elsewhere>,
    /// What it says against the endpoint. A success says by itself that it works.
    pub against: Option<EndpointFact>,
    /// What the operator is told of the attempt, in the same commit. (That the endpoint was disabled he is told anyway.)
    pub notice: Option<NoticeKind>,
    /// What was delivered, if whoever settles has it at hand: that saves the store a look-up. Its payload is not needed.
    pub origin: Option<Origin>,
}

/// What came of an attempt, for an endpoint whose receiver was another one by the time it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elsewhere {
    /// The one that was asked: [`Target::receiver`].
    pub receiver: u64,
    /// The delivery's next state if that is not the endpoint's any more.
    pub next: Next,
}

impl Settlement {
    /// The earliest instant at which the delivery may be tried again, if it may be.
    pub fn next_at(&self) -> Option<Timestamp> {
        let states = [Some(self.next), self.elsewhere.map(|elsewhere| elsewhere.next)];
        let waits =
            states.into_iter().flatten().filter_map(|next| if let Next::Waiting(at) = next { Some(at) } else { None });
        waits.min()
    }

    /// About what it costs to store it, in rows: so that no commit takes long, whatever is in it.
    pub fn rows(&self) -> usize {
        let Some(attempt) = &self.attempt else { return 1 };
        // What is tried again is moved to its new instant, for which its endpoint is looked at.
        let moves = if matches!(self.next, Next::Waiting(_)) { 2 } else { 0 };
        // Its attempts are listed by each name, and by it once more if they failed; so are messages by whether one succeeded or
        // failed at the endpoint, and, unless the first did, by how they stand with it.
        let lists = if attempt.succeeded { 2 + usize::from(self.made > 0) } else { 4 };
        let names = self.origin.as_ref().map_or(0, |origin| lists * names_in_rows(&origin.message));
        // How the message stood is looked up, and how it stands now is posted by message, which has nothing in common with others.
        let stands = if attempt.succeeded && self.made == 0 { 0 } else { 4 };
        // Its endpoint's operator is looked up, and the notice is counted.
        let notice = if self.notice.is_some() { 4 } else { 0 };
        1 + moves + stands + notice + attempt.response.len() / ROW_BYTES + names
    }
}

/// Endpoints that have deliveries due, taken from the index of wakes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wakes {
    /// Those that are due. They are no longer in the index: whoever took them must look after them.
    pub endpoints: Vec<Woken>,
    /// When the next one is due, as far as the index knows.
    pub next_at: Option<Timestamp>,
}

/// An endpoint that was taken from the index of wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Woken {
    /// The endpoint.
    pub endpoint: EndpointKey,
    /// Whose it is; `None` if there is no such endpoint.
    pub application: Option<ApplicationKey>,
    /// To which the application belongs.
    pub environment: Option<EnvironmentKey>,
}

/// A result that cannot be stored.
#[derive(Debug, Clone)]
pub struct Unstorable {
    /// Its place in the batch.
    pub place: usize,
    /// Why.
    pub error: StoreError,
}

/// What came of asking for a manual delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resent {
    /// It is due.
    Due,
    /// It is due, and will be sent when what holds its endpoint back is over.
    Held(Hold),
    /// Nothing will be sent: the endpoint is disabled.
    Disabled(Option<Disablement>),
}

/// A manual delivery was not made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ResendError {
    /// The store failed, or there is no such message or endpoint.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The message's payload is gone.
    #[error("the payload is gone")]
    MissingPayload,
    /// [`crate::MAX_MANUAL_OF_ENDPOINT`] deliveries that somebody asked for wait at the endpoint already.
    #[error("too many requested deliveries are pending there already")]
    TooMany,
    /// The application's callers asked for as many attempts as they may in a day.
    #[error("{per_day} attempts were asked for within a day, which is as many as may be")]
    Spent {
        /// How many that is.
        per_day: u64,
        /// When there is room for one more.
        wait: Duration,
    },
}

/// Operations on the work table.
#[async_trait]
pub trait Work {
    /// Where the messages of an application go.
    async fn routes(
        &self,
        environment: &EnvironmentId,
        application: &IdOrUid<ApplicationId>,
    ) -> Result<Option<Routes>, StoreError>;

    /// One endpoint as the sender needs it; `None` if it never existed.
    async fn target(&self, endpoint: EndpointKey) -> Result<Option<Target>, StoreError>;

    /// Accepts messages: each with its deliveries and its idempotency key, all in one commit with whatever else is being
    /// written. One result per message, in order. `Ok` is given only when the commit has reached the disk.
    async fn accept(&self, batch: Vec<NewMessage>) -> Vec<Result<Accepted, AcceptError>>;

    /// The message that was accepted for this application under a key that is not older than `not_before`, without its payload.
    async fn accepted_under(
        &self,
        application: ApplicationKey,
        key: IdempotencyKey,
        not_before: Timestamp,
    ) -> Result<Option<Message>, StoreError>;

    /// Stores results in one commit. `Ok` names those that cannot be stored, however often they are tried: each fails alone.
    /// `Err` means that nothing was stored, or that nobody knows whether it was; trying again is sensible. Repeating a settlement that
    /// took effect does no harm, and changes nothing. What follows for an endpoint is decided by what is stored of it
    /// ([`EndpointFact::judge`]); that one was disabled
    /// is told to observers.
    async fn settle(&self, batch: Vec<Settlement>) -> Result<Vec<Unstorable>, StoreError>;

    /// The next deliveries of an endpoint that are due at `now`, earliest first, at most `limit`, leaving out those up to
    /// `after` and those whose keys are in `held`, and ending before a payload with which they would have more than `max_bytes`
    /// of it, also if it is the first. That one is not read, only how long it is.
    async fn due(
        &self,
        endpoint: EndpointKey,
        now: Timestamp,
        after: Option<DeliveryKey>,
        held: HashSet<DeliveryKey>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<DueSlice, StoreError>;

    /// Takes endpoints that are due at `now` out of the index of wakes, earliest first, at most `limit`. What was taken is
    /// given: an error means that nothing was.
    async fn take_wakes(&self, now: Timestamp, limit: usize) -> Result<Wakes, StoreError>;

    /// Puts the endpoint into the index of wakes at the earliest instant after `after` at which something of it is due, or
    /// leaves it there earlier: whoever put it there did so for something that the caller may not have seen. Returns where
    /// it is then, if anywhere. The caller has taken charge of what was due until `after` when it looked. What held the
    /// endpoint back is over.
    async fn park(&self, endpoint: EndpointKey, after: Timestamp) -> Result<Option<Timestamp>, StoreError>;

    /// Holds an endpoint back: it is in the index of wakes at `hold.until`, whether it has deliveries or not, and nothing
    /// puts it there earlier until it is parked, or held back until another instant. The caller has taken charge of nothing.
    /// Says whether that was noted: it is not if `receiver`, from which it was learned, is not the endpoint's [`Target::receiver`] any more.
    async fn hold(&self, endpoint: EndpointKey, hold: Hold, receiver: Option<u64>) -> Result<bool, StoreError>;

    /// What holds an endpoint back, also if its time is over. A change of the endpoint's URL, keys or headers lifts it in
    /// the same commit, and so does enabling, disabling or deleting it. Retries that the endpoint asked to put off beyond
    /// that are due at the date of the change then, if it has one, one after the other: the first 1,000 of them.
    async fn hold_of(&self, endpoint: EndpointKey) -> Result<Option<Hold>, StoreError>;

    /// The endpoints that were held back and not parked since, also those whose time is over.
    async fn holds(&self) -> Result<Vec<(EndpointKey, Hold)>, StoreError>;

    /// Puts endpoints into the index of wakes at `at`, or leaves them there earlier. One that is held back comes at the
    /// end of that.
    async fn wake_later(&self, endpoints: Vec<EndpointKey>, at: Timestamp) -> Result<(), StoreError>;

    /// Sees to what a clock that was ahead has dated, now that it was set right. Deliveries that were never tried, and are due
    /// later than `now`, are due now; one of which the last attempt ended later than `now` waits from now for as long as it
    /// was to wait then; what holds endpoints back moves by what the clock was set back; and what is still due later than
    /// `now` and the longest possible wait is due now. What is scheduled for its instant stays. To be called at start, before
    /// [`Work::rebuild_wakes`]. Returns how many deliveries there were.
    async fn pull_in(&self, now: Timestamp, longest: Duration) -> Result<u64, StoreError>;

    /// Puts every endpoint with deliveries into the index of wakes; one that is held back at the end of that, also if it
    /// has none. To be called once at start, when nobody holds any. Takes time by the number of endpoints, not of
    /// deliveries. Returns how many have deliveries.
    async fn rebuild_wakes(&self) -> Result<u64, StoreError>;

    /// Removes up to `limit` deliveries of an endpoint that wants nothing any more, because it is disabled or deleted; returns
    /// how many it removed. One that takes deliveries, perhaps again since the caller looked, keeps them all.
    async fn cancel_deliveries(&self, endpoint: EndpointKey, limit: usize) -> Result<usize, StoreError>;

    /// Adds one manual delivery, due at `now`, with its place in the index of wakes, and tells observers.
    /// [`WriteError::NotFound`] if the message or endpoint is gone, [`WriteError::Full`] if it was, or is to be, attempted there
    /// [`crate::MAX_ATTEMPTS_OF_MESSAGE`] times, [`ResendError::Spent`] if the application's callers asked for all the attempts
    /// that they may ask for in a day. Nothing is added for a disabled endpoint, which is no error, but is said.
    async fn resend(
        &self,
        endpoint: EndpointKey,
        message: MessageKey,
        now: Timestamp,
        once: Option<Once<Resent>>,
    ) -> Result<Written<Resent>, ResendError>;

    /// Forgets idempotency keys from before `before`, a slice at a time: those of writes with their answers, oldest first,
    /// at most `limit` of them and a few megabytes; those of messages as far as the engine can do away with them. (It may
    /// keep some longer: [`NewMessage::idempotency`] says which still count.) Returns whether there may be more.
    async fn forget_keys(&self, before: Timestamp, limit: usize) -> Result<bool, StoreError>;

    /// What is remembered of an endpoint's failures; `None` if it never existed.
    async fn health(&self, endpoint: EndpointKey) -> Result<Option<Health>, StoreError>;

    /// How many deliveries an endpoint has pending, counted up to `limit`.
    async fn backlog(&self, endpoint: EndpointKey, limit: usize) -> Result<usize, StoreError>;
}

impl From<StoreError> for ResendError {
    fn from(error: StoreError) -> Self {
        Self::Write(error.into())
    }
}
