//! What the cases share: a fresh store, a clock that ticks by itself, and short ways to make things.
//!
//! Every tick is 5 ms after the one before, so ids made at ticks are in the order in which they were made.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use postrider_domain::application::{Application, EnvironmentId};
use postrider_domain::delivery::{Against, EndpointFact, Next};
use postrider_domain::endpoint::{Endpoint, EndpointPatch, EndpointUrl, Headers};
use postrider_domain::entropy::{Entropy as _, SeededEntropy};
use postrider_domain::event_type::EventType;
use postrider_domain::ids::{ApplicationId, AttemptId, EndpointId, MessageId, TaskId};
use postrider_domain::message::Message;
use postrider_domain::names::{Channel, EventTypeName, IdOrUid, Tag, Uid};
use postrider_domain::signature::{Secret, SecretKind};
use postrider_domain::time::Timestamp;

use super::Harness;
use postrider_store::{
    AcceptError, Accepted, ApplicationKey, AttemptRecord, Due, EndpointKey, IdempotencyKey, MessageKey, NewEndpoint,
    NewMessage, Once, Owner, Routes, Settlement, Store, Stored, StoredAnswer, Written,
};

pub(super) type App = Stored<ApplicationKey, Application>;
pub(super) type Ep = Stored<EndpointKey, Endpoint>;
pub(super) type Msg = Stored<MessageKey, Arc<Message>>;

/// Later than everything that a case makes due.
pub(super) const FAR: Timestamp = Timestamp::MAX;

const START_MICROS: i64 = 1_767_323_045_000_000;
const TICK_MICROS: i64 = 5_000;

/// A store for one case, and what makes things for it.
pub(super) struct World<H> {
    harness: H,
    entropy: SeededEntropy,
    ticks: AtomicI64,
}

impl<H: Harness> World<H> {
    pub(super) async fn fresh() -> Self {
        Self { harness: H::fresh().await, entropy: SeededEntropy::new(11), ticks: AtomicI64::new(0) }
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        self.harness.store()
    }

    pub(super) async fn reopen(&mut self) {
        self.harness.reopen().await;
    }

    pub(super) async fn reopen_where_may_be_asked_for(&mut self, per_day: u64) {
        self.harness.reopen_where_may_be_asked_for(per_day).await;
    }

    pub(super) async fn age(&mut self) {
        self.harness.age().await;
    }

    /// The next instant.
    pub(super) fn tick(&self) -> Timestamp {
        Timestamp::from_micros(START_MICROS + TICK_MICROS * self.ticks.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn new_application(&self, uid: Option<&str>) -> Application {
        let now = self.tick();
        Application {
            id: ApplicationId::new(now, &self.entropy),
            uid: uid.map(uid_of),
            name: "Käse & \"Söhne\"".to_owned(),
            throttle_rate: None,
            metadata: BTreeMap::from([("plan".to_owned(), "gold 🥇".to_owned())]),
            created_at: now,
            updated_at: now,
        }
    }

    pub(super) async fn application(&self) -> App {
        self.add_application(&environment(), self.new_application(None)).await
    }

    pub(super) async fn add_application(&self, environment: &EnvironmentId, application: Application) -> App {
        let id = by_id(application.id);
        done(self.store().create_application(environment, application, None).await.unwrap());
        self.store().application(environment, &id).await.unwrap().unwrap()
    }

    pub(super) fn secret(&self) -> Secret {
        Secret::generate(SecretKind::Hmac256, &self.entropy)
    }

    pub(super) fn new_endpoint(&self, uid: Option<&str>) -> NewEndpoint {
        let now = self.tick();
        let endpoint = Endpoint {
            id: EndpointId::new(now, &self.entropy),
            uid: uid.map(uid_of),
            url: EndpointUrl::parse("https://example.com/hook?a=1").unwrap(),
            description: String::new(),
            version: 1,
            disabled: false,
            disablement: None,
            held: None,
            event_types: None,
            channels: None,
            throttle_rate: None,
            metadata: BTreeMap::new(),
            created_at: now,
            updated_at: now,
        };
        NewEndpoint { endpoint, secret: self.secret(), headers: Headers::new(), most: u64::MAX }
    }

    pub(super) async fn endpoint(&self, app: &App) -> Ep {
        self.add_endpoint(app, self.new_endpoint(None)).await
    }

    /// Enables or disables an endpoint.
    pub(super) async fn disable(&self, app: &App, endpoint: &Ep, disabled: bool) {
        let patch = EndpointPatch { disabled: Some(disabled), ..EndpointPatch::default() };
        self.store().update_endpoint(app.key, &by_id(endpoint.value.id), patch, self.tick()).await.unwrap();
    }

    pub(super) async fn add_endpoint(&self, app: &App, new: NewEndpoint) -> Ep {
        let id = by_id(new.endpoint.id);
        done(self.store().create_endpoint(app.key, new, None).await.unwrap());
        self.store().endpoint(app.key, &id).await.unwrap().unwrap()
    }

    pub(super) fn new_event_type(&self, name: &str) -> EventType {
        let now = self.tick();
        EventType {
            name: type_name(name),
            description: "what happened".to_owned(),
            archived: false,
            deprecated: false,
            schemas: None,
            feature_flag: None,
            group_name: None,
            created_at: now,
            updated_at: now,
        }
    }

    pub(super) async fn routes(&self, app: &App) -> Routes {
        self.store().routes(&environment(), &by_id(app.value.id)).await.unwrap().unwrap()
    }

    pub(super) fn new_message(&self) -> Message {
        self.new_message_at(self.tick())
    }

    /// What a clock that shows `now` makes.
    pub(super) fn new_message_at(&self, now: Timestamp) -> Message {
        Message {
            id: MessageId::new(now, &self.entropy),
            event_id: None,
            event_type: type_name("invoice.paid"),
            channels: None,
            payload: Some(Bytes::from_static(br#"{"a": 1,  "b":"\u00e4"}"#)),
            tags: None,
            deliver_at: None,
            expires_at: None,
            created_at: now,
        }
    }

    /// A message that is ready to be accepted.
    pub(super) async fn draft(&self, app: &App, endpoints: &[EndpointKey]) -> NewMessage {
        self.draft_of(app, endpoints, self.new_message()).await
    }

    pub(super) async fn draft_of(&self, app: &App, endpoints: &[EndpointKey], message: Message) -> NewMessage {
        self.draft_of_version(app, self.routes(app).await.version, endpoints, message)
    }

    pub(super) fn draft_of_version(
        &self,
        app: &App,
        version: i64,
        endpoints: &[EndpointKey],
        message: Message,
    ) -> NewMessage {
        NewMessage {
            application: app.key,
            version,
            rules: None,
            message: Arc::new(message),
            endpoints: endpoints.to_vec(),
            idempotency: None,
        }
    }

    /// Accepts one message.
    pub(super) async fn accept(&self, new: NewMessage) -> Result<Accepted, AcceptError> {
        let mut results = self.store().accept(vec![new]).await;
        assert_eq!(results.len(), 1, "one result per message");
        results.remove(0)
    }

    /// Accepts a message for these endpoints.
    pub(super) async fn message(&self, app: &App, endpoints: &[&Ep]) -> Msg {
        self.message_of(app, endpoints, self.new_message()).await
    }

    pub(super) async fn message_of(&self, app: &App, endpoints: &[&Ep], message: Message) -> Msg {
        let keys: Vec<EndpointKey> = endpoints.iter().map(|endpoint| endpoint.key).collect();
        let new = self.draft_of(app, &keys, message).await;
        let value = Arc::clone(&new.message);
        match self.accept(new).await {
            Ok(Accepted::New(key)) => Stored { key, value },
            other => panic!("the message should have been accepted: {other:?}"),
        }
    }

    /// All deliveries of an endpoint that are due at `now`.
    pub(super) async fn due(&self, endpoint: &Ep, now: Timestamp) -> Vec<Due> {
        self.store().due(endpoint.key, now, None, HashSet::new(), 1_000, 1 << 30).await.unwrap().due
    }

    /// The only delivery of an endpoint.
    pub(super) async fn only_due(&self, endpoint: &Ep) -> Due {
        let mut due = self.due(endpoint, FAR).await;
        assert_eq!(due.len(), 1, "one delivery is pending: {due:?}");
        due.remove(0)
    }

    /// What came of an attempt that was just made.
    pub(super) fn settlement(&self, endpoint: &Ep, due: &Due, next: Next) -> Settlement {
        let now = self.tick();
        let succeeded = next == Next::Succeeded;
        let attempt = AttemptRecord {
            id: self.attempt_id(now),
            started_at: now,
            url: endpoint.value.url.as_str().into(),
            succeeded,
            status_code: if succeeded { 204 } else { 500 },
            response: Bytes::from_static(b"an answer\xff"),
            duration_ms: 12,
        };
        Settlement {
            endpoint: endpoint.key,
            delivery: due.key,
            made: due.made,
            trigger: due.trigger,
            attempt: Some(attempt),
            next,
            elsewhere: None,
            against: None,
            notice: None,
            // As after a restart; the lists' own cases give it.
            origin: None,
        }
    }

    pub(super) fn attempt_id(&self, at: Timestamp) -> AttemptId {
        AttemptId::new(at, &self.entropy)
    }

    pub(super) fn task_id(&self, at: Timestamp) -> TaskId {
        TaskId::new(at, &self.entropy)
    }

    pub(super) async fn settle(&self, settlement: Settlement) {
        let unstorable = self.store().settle(vec![settlement]).await.unwrap();
        assert!(unstorable.is_empty(), "{unstorable:?}");
    }

    pub(super) fn idempotency_key(&self) -> IdempotencyKey {
        let mut bytes = [0; 16];
        self.entropy.fill(&mut bytes);
        IdempotencyKey(bytes)
    }
}

/// The environment that most cases use.
pub(super) fn environment() -> EnvironmentId {
    EnvironmentId::parse("org_one").unwrap()
}

/// Another one.
pub(super) fn other_environment() -> EnvironmentId {
    EnvironmentId::parse("org_two").unwrap()
}

pub(super) fn by_id<I>(id: I) -> IdOrUid<I> {
    IdOrUid::Id(id)
}

pub(super) fn by_uid<I>(uid: &str) -> IdOrUid<I> {
    IdOrUid::Uid(uid.into())
}

pub(super) fn uid_of(text: &str) -> Uid {
    Uid::from_trusted(text.to_owned())
}

pub(super) fn type_name(text: &str) -> EventTypeName {
    EventTypeName::parse(text).unwrap()
}

pub(super) fn channel(text: &str) -> Channel {
    Channel::parse(text).unwrap()
}

pub(super) fn tag(text: &str) -> Tag {
    Tag::parse(text).unwrap()
}

pub(super) fn after(at: Timestamp, seconds: u64) -> Timestamp {
    at.saturating_add(Duration::from_secs(seconds))
}

/// What a write that was carried out now wrote.
pub(super) fn done<T: std::fmt::Debug>(written: Written<T>) -> T {
    match written {
        Written::Done(value) => value,
        Written::Replayed(answer) => panic!("it was not carried out before: {answer:?}"),
    }
}

/// A write under a key, answered by `answer`.
pub(super) fn once<T>(key: IdempotencyKey, not_before: Timestamp, answer: &'static str) -> Once<T> {
    Once { key, owner: operator(), most: u64::MAX, not_before, answer: Box::new(move |_| stored_answer(answer)) }
}

/// Who asks in most cases.
pub(super) fn operator() -> Owner {
    Owner::Operator(environment())
}

pub(super) fn stored_answer(body: &'static str) -> StoredAnswer {
    StoredAnswer { status: 201, body: Bytes::from_static(body.as_bytes()) }
}

/// What an attempt that ended at `at` says of an endpoint that is disabled after failing for 100 s.
pub(super) fn failing(at: Timestamp) -> Option<EndpointFact> {
    Some(EndpointFact { at, kind: Against::Failing { disable_after: std::time::Duration::from_secs(100) } })
}
