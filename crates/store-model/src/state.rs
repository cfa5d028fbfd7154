//! What is stored, in ordered maps by handle, and what several areas look up in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use postrider_domain::allowance::Allowance;
use postrider_domain::application::{Application, EnvironmentId};
use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::Hold;
use postrider_domain::endpoint::{Endpoint, Headers};
use postrider_domain::environment::EnvironmentSettings;
use postrider_domain::event_type::EventType;
use postrider_domain::ids::{ApplicationId, AttemptId, EndpointId, TaskId};
use postrider_domain::message::Message;
use postrider_domain::names::{EventTypeName, IdOrUid};
use postrider_domain::notice::NoticeKind;
use postrider_domain::signature::SigningKeys;
use postrider_domain::time::Timestamp;
use postrider_store::{
    ApiKey, ApplicationKey, AttemptRecord, ClockSeen, DeliveryKey, EndpointKey, EnvironmentKey, MessageKey, NoticeKey,
    StreamNumber, StreamPosition,
};

use crate::records::{Answer, Rule, Undertaking, Url, Use, Waiting, Whose};

/// Everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) environments: BTreeMap<EnvironmentId, Environment>,
    pub(crate) event_types: BTreeMap<(EnvironmentId, String), Arc<EventType>>,
    pub(crate) applications: BTreeMap<ApplicationKey, Tenant>,
    pub(crate) endpoints: BTreeMap<EndpointKey, Arc<Receiver>>,
    pub(crate) messages: BTreeMap<MessageKey, Sent>,
    /// The messages that were accepted under idempotency keys.
    pub(crate) accepted_under: BTreeMap<[u8; 16], MessageKey>,
    pub(crate) deliveries: BTreeMap<(EndpointKey, DeliveryKey), Delivery>,
    pub(crate) attempts: BTreeMap<(EndpointKey, MessageKey, AttemptId), Logged>,
    pub(crate) urls: BTreeMap<i64, Url>,
    pub(crate) wakes: BTreeMap<EndpointKey, Timestamp>,
    pub(crate) holds: BTreeMap<EndpointKey, Hold>,
    pub(crate) answers: BTreeMap<i64, Answer>,
    pub(crate) asked: BTreeMap<(ApplicationKey, Use), Allowance>,
    pub(crate) tasks: BTreeMap<TaskId, Undertaking>,
    pub(crate) notices: BTreeMap<NoticeKey, Waiting>,
    pub(crate) readers: BTreeMap<(EndpointKey, String), Reader>,
    pub(crate) api_keys: Vec<ApiKey>,
    pub(crate) token_secret: Option<[u8; 32]>,
    pub(crate) token_rules: BTreeMap<(ApplicationKey, Whose), Vec<Rule>>,
    /// The latest time that the clock has shown.
    pub(crate) shown: Option<Timestamp>,
    /// What was noted of the clock.
    pub(crate) clock: Option<ClockSeen>,
    /// The last handle of each kind that was given out: none is given out twice.
    last: BTreeMap<Kind, i64>,
    /// What observers are to be told when this is committed.
    pub(crate) news: Vec<News>,
}

/// What observers are told.
#[derive(Debug, Clone)]
pub(crate) enum News {
    EndpointChanged(EndpointKey, Option<ApplicationKey>),
    WorkAdded(EndpointKey, Option<ApplicationKey>),
    MessagesExpunged(Vec<MessageKey>),
    NoticeAdded,
    TaskAdded,
    ApplicationDeleted,
}

/// What handles are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Environment,
    Application,
    Endpoint,
    Message,
    Url,
    Answer,
    Notice,
}

#[derive(Debug, Clone)]
pub(crate) struct Environment {
    pub(crate) key: EnvironmentKey,
    pub(crate) settings: EnvironmentSettings,
    pub(crate) rules_version: i64,
}

/// An application.
#[derive(Debug, Clone)]
pub(crate) struct Tenant {
    pub(crate) environment: EnvironmentId,
    pub(crate) application: Application,
    /// Grows with what its routes depend on, except rules.
    pub(crate) version: i64,
    pub(crate) deleted_at: Option<Timestamp>,
}

/// An endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Receiver {
    pub(crate) application: ApplicationKey,
    /// What holds it back is not in here.
    pub(crate) endpoint: Endpoint,
    pub(crate) headers: Headers,
    pub(crate) keys: SigningKeys,
    /// How often it was another one, as [`postrider_store::Target::receiver`] says.
    pub(crate) number: u64,
    pub(crate) failing_since: Option<Timestamp>,
    /// The number of the newest message when it was made.
    pub(crate) newest: StreamNumber,
    pub(crate) deleted_at: Option<Timestamp>,
}

/// A message.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) application: ApplicationKey,
    /// With its payload, unless that is gone.
    pub(crate) message: Arc<Message>,
}

/// What is still to be delivered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery {
    pub(crate) made: u32,
    pub(crate) trigger: Trigger,
    /// Accept made it, to be delivered at once, and nothing came of it.
    pub(crate) fresh: bool,
}

/// An attempt.
#[derive(Debug, Clone)]
pub(crate) struct Logged {
    pub(crate) record: AttemptRecord,
    pub(crate) is_expunged: bool,
    /// The number of its URL.
    pub(crate) url: i64,
    /// Which attempt of its series it was.
    pub(crate) number: u32,
    pub(crate) trigger: Trigger,
    pub(crate) next_attempt_at: Option<Timestamp>,
}

/// Who reads an endpoint's stream under a name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader {
    pub(crate) position: StreamPosition,
    pub(crate) updated_at: Timestamp,
}

/// The number of a message in streams.
pub(crate) fn number_of(message: MessageKey) -> StreamNumber {
    StreamNumber(message.0)
}

impl State {
    /// What every store begins with.
    pub(crate) fn empty() -> Self {
        let event_types = event_types();
        let management = EnvironmentId::management();
        let named = |one: EventType| ((management.clone(), one.name.to_string()), Arc::new(one));
        let mut state = Self { event_types: event_types.into_iter().map(named).collect(), ..Self::default() };
        state.environment(&management);
        state
    }

    /// A number that was never given out to one of this kind. They are counted as SQLite counts them, so that whoever compares
    /// engines finds the same ones.
    pub(crate) fn next_number(&mut self, kind: Kind) -> i64 {
        let last = self.last.entry(kind).or_default();
        *last += 1;
        *last
    }

    /// An environment, which exists from now on if it did not.
    pub(crate) fn environment(&mut self, id: &EnvironmentId) -> &mut Environment {
        if !self.environments.contains_key(id) {
            let key = EnvironmentKey(self.next_number(Kind::Environment));
            let new = Environment { key, settings: EnvironmentSettings::default(), rules_version: 0 };
            self.environments.insert(id.clone(), new);
        }
        self.environments.entry(id.clone()).or_insert_with(|| unreachable!("it is there"))
    }

    /// The application with this id or uid, unless it was deleted.
    pub(crate) fn find_application(
        &self,
        environment: &EnvironmentId,
        id: &IdOrUid<ApplicationId>,
    ) -> Option<(ApplicationKey, &Tenant)> {
        let is_it = |tenant: &&Tenant| match id {
            IdOrUid::Id(id) => tenant.application.id == *id,
            IdOrUid::Uid(uid) => tenant.application.uid.as_ref().is_some_and(|own| own.as_str() == &**uid),
        };
        let live = self.applications.iter().filter(|(_, tenant)| tenant.deleted_at.is_none());
        live.map(|(key, tenant)| (*key, tenant)).find(|(_, tenant)| tenant.environment == *environment && is_it(tenant))
    }

    /// Whether an application is there, and was not deleted.
    pub(crate) fn has_application(&self, key: ApplicationKey) -> bool {
        self.applications.get(&key).is_some_and(|tenant| tenant.deleted_at.is_none())
    }

    /// The endpoints of an application, without those that were deleted.
    pub(crate) fn endpoints_of(&self, application: ApplicationKey) -> impl Iterator<Item = (EndpointKey, &Receiver)> {
        let of = move |receiver: &&Arc<Receiver>| receiver.application == application && receiver.deleted_at.is_none();
        self.endpoints.iter().filter(move |(_, receiver)| of(receiver)).map(|(key, receiver)| (*key, receiver.as_ref()))
    }

    /// The endpoint of an application with this id or uid, unless one of them was deleted.
    pub(crate) fn find_endpoint(
        &self,
        application: ApplicationKey,
        id: &IdOrUid<EndpointId>,
    ) -> Option<(EndpointKey, &Receiver)> {
        let is_it = |receiver: &Receiver| match id {
            IdOrUid::Id(id) => receiver.endpoint.id == *id,
            IdOrUid::Uid(uid) => receiver.endpoint.uid.as_ref().is_some_and(|own| own.as_str() == &**uid),
        };
        let mut all = self.endpoints_of(application).filter(|_| self.has_application(application));
        all.find(|(_, receiver)| is_it(receiver))
    }

    /// An endpoint, unless it or its application was deleted.
    pub(crate) fn live_endpoint(&self, key: EndpointKey) -> Option<&Receiver> {
        let receiver = self.endpoints.get(&key)?;
        (receiver.deleted_at.is_none() && self.has_application(receiver.application)).then_some(receiver)
    }

    /// An endpoint that is there, to be changed.
    pub(crate) fn receiver(&mut self, key: EndpointKey) -> &mut Receiver {
        let Some(receiver) = self.endpoints.get_mut(&key) else { unreachable!("it was looked up") };
        Arc::make_mut(receiver)
    }

    /// Whose endpoint it is.
    pub(crate) fn application_of(&self, endpoint: EndpointKey) -> Option<ApplicationKey> {
        self.endpoints.get(&endpoint).map(|receiver| receiver.application)
    }

    /// An endpoint as it is shown.
    pub(crate) fn shown(&self, key: EndpointKey, receiver: &Receiver) -> Endpoint {
        Endpoint { held: self.holds.get(&key).copied(), ..receiver.endpoint.clone() }
    }

    /// The number of the newest message.
    pub(crate) fn newest(&self) -> StreamNumber {
        self.messages.last_key_value().map_or(StreamNumber::BEFORE_ALL, |(key, _)| number_of(*key))
    }

    /// What is still to be delivered to an endpoint, earliest first.
    pub(crate) fn pending(&self, endpoint: EndpointKey) -> impl Iterator<Item = (DeliveryKey, &Delivery)> {
        let first = DeliveryKey { due_at: Timestamp::EPOCH, message: MessageKey(i64::MIN) };
        let last = DeliveryKey { due_at: Timestamp::MAX, message: MessageKey(i64::MAX) };
        self.deliveries.range((endpoint, first)..=(endpoint, last)).map(|((_, key), delivery)| (*key, delivery))
    }

    /// The attempts at an endpoint, by message.
    pub(crate) fn attempts_at(&self, endpoint: EndpointKey) -> impl Iterator<Item = (MessageKey, AttemptId, &Logged)> {
        let of = move |(of, ..): &&(EndpointKey, MessageKey, AttemptId)| *of == endpoint;
        let from = lowest(endpoint, MessageKey(i64::MIN));
        let found = self.attempts.range(from..).take_while(move |(key, _)| of(key));
        found.map(|((_, message, id), logged)| (*message, *id, logged))
    }

    /// The attempts of a message at an endpoint.
    pub(crate) fn attempts_of(
        &self,
        endpoint: EndpointKey,
        message: MessageKey,
    ) -> impl Iterator<Item = (AttemptId, &Logged)> {
        let found = self.attempts.range(lowest(endpoint, message)..);
        found.take_while(move |(key, _)| (key.0, key.1) == (endpoint, message)).map(|(key, logged)| (key.2, logged))
    }

    /// Notes that the clock shows this.
    pub(crate) fn note_shown(&mut self, at: Timestamp) {
        self.shown = self.shown.max(Some(at));
    }
}

/// Before all attempts of a message at an endpoint.
fn lowest(endpoint: EndpointKey, message: MessageKey) -> (EndpointKey, MessageKey, AttemptId) {
    use postrider_domain::ids::{Id as _, Ksuid};
    (endpoint, message, AttemptId::from_ksuid(Ksuid::from_bytes([0; 20])))
}

/// All kinds of notices.
const KINDS: [NoticeKind; 7] = [
    NoticeKind::EndpointCreated,
    NoticeKind::EndpointUpdated,
    NoticeKind::EndpointDeleted,
    NoticeKind::EndpointDisabled,
    NoticeKind::AttemptFailing,
    NoticeKind::AttemptExhausted,
    NoticeKind::AttemptRecovered,
];

/// The event types of notices, with schemas that have examples.
fn event_types() -> Vec<EventType> {
    let described = |kind: NoticeKind| {
        let name = kind.event_type();
        let schema = serde_json::json!({ "examples": [{ "type": name, "data": {} }] });
        let schema = serde_json::value::to_raw_value(&schema).ok();
        EventType {
            name: EventTypeName::from_trusted(name.to_owned()),
            description: format!("What operators are told: {name}"),
            archived: false,
            deprecated: false,
            schemas: schema.map(|schema| BTreeMap::from([("1".to_owned(), schema)])),
            feature_flag: None,
            group_name: None,
            created_at: Timestamp::EPOCH,
            updated_at: Timestamp::EPOCH,
        }
    };
    KINDS.map(described).into()
}
