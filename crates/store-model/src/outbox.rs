//! The outbox: notices are added by whatever writes what they report.

use std::collections::BTreeMap;

use async_trait::async_trait;
use postrider_domain::application::EnvironmentId;
use postrider_domain::delivery::DisableReason;
use postrider_domain::event_type::EventType;
use postrider_domain::names::{EventTypeName, IdOrUid, Uid};
use postrider_domain::notice::{self, AttemptNotice, EndpointNotice, LastAttempt, NoticeKind};
use postrider_domain::time::Timestamp;
use postrider_store::{
    AttemptRecord, EndpointKey, MAX_NOTICES, MAX_NOTICES_OF_ALL, MessageKey, Notice, NoticeKey, NoticeTurn, Outbox,
    StoreError, share_of_notices,
};

use crate::ModelStore;
use crate::state::{Kind, News, Receiver, State, Tenant};

#[async_trait]
impl Outbox for ModelStore {
    async fn notices(&self, turn: NoticeTurn) -> Result<Vec<Notice>, StoreError> {
        let NoticeTurn { after, except, recipients, each } = turn;
        self.read(|state| {
            let mut waiting: BTreeMap<&Uid, Vec<&Notice>> = BTreeMap::new();
            for notice in state.notices.values().filter(|notice| !except.contains(&notice.recipient)) {
                waiting.entry(&notice.recipient).or_default().push(notice);
            }
            let mut in_turn: Vec<_> = waiting.into_iter().collect();
            // Those after whoever had his turn last come first.
            in_turn.sort_by_key(|(recipient, _)| after.as_ref().is_some_and(|after| *recipient <= after));
            let notices = in_turn.into_iter().take(recipients);
            notices.flat_map(|(_, notices)| notices.into_iter().take(each).cloned()).collect()
        })
    }

    async fn remove_notices(&self, notices: Vec<NoticeKey>) -> Result<(), StoreError> {
        self.write(|state| state.notices.retain(|key, _| !notices.contains(key)))
    }
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
pub(crate) fn event_types() -> Vec<EventType> {
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

impl State {
    /// Whom an endpoint's operator is, and the endpoint, if he wants to be told of it.
    fn reported(&self, endpoint: EndpointKey) -> Option<(Uid, &Tenant, &Receiver)> {
        let receiver = self.endpoints.get(&endpoint)?;
        let tenant = self.applications.get(&receiver.application)?;
        let (management, environment) = (EnvironmentId::management(), &tenant.environment);
        let told = self.find_application(&management, &IdOrUid::Uid(environment.as_str().into()));
        let recipient = Uid::from_trusted(environment.as_str().to_owned());
        (told.is_some() && *environment != management).then_some((recipient, tenant, receiver))
    }

    fn add_notice<T: serde::Serialize>(&mut self, recipient: Uid, kind: NoticeKind, data: &T) {
        let waiting = self.notices.values().filter(|notice| notice.recipient == recipient).count();
        let Some(payload) = notice::payload(kind, data).ok().filter(|_| waiting < MAX_NOTICES) else { return };
        let key = NoticeKey(self.next_number(Kind::Notice));
        let event_type = EventTypeName::from_trusted(kind.event_type().to_owned());
        self.notices.insert(key, Notice { key, recipient, event_type, payload });
        self.news.push(News::NoticeAdded);
    }

    /// Reports what became of an endpoint.
    pub(crate) fn report_endpoint(&mut self, endpoint: EndpointKey, kind: NoticeKind) {
        self.report(endpoint, kind, |_| None);
    }

    /// Reports that an endpoint was disabled, for it has been failing since a time that is stored, or since `now`.
    pub(crate) fn report_disabled(&mut self, endpoint: EndpointKey, now: Timestamp) {
        self.report(endpoint, NoticeKind::EndpointDisabled, |since| since.or(Some(now)));
    }

    fn report(
        &mut self,
        endpoint: EndpointKey,
        kind: NoticeKind,
        fail_since: impl Fn(Option<Timestamp>) -> Option<Timestamp>,
    ) {
        let Some((recipient, Tenant { application, .. }, receiver)) = self.reported(endpoint) else { return };
        let disablement = receiver.endpoint.disablement;
        let data = EndpointNotice {
            app_id: application.id,
            app_uid: application.uid.clone(),
            endpoint_id: receiver.endpoint.id,
            endpoint_uid: receiver.endpoint.uid.clone(),
            fail_since: fail_since(receiver.failing_since),
            disabled_reason: disablement.map(|disablement| DisableReason::as_str(disablement.reason)),
            disabled_since: disablement.map(|disablement| disablement.since),
        };
        self.add_notice(recipient, kind, &data);
    }

    /// Reports what an attempt came to.
    pub(crate) fn report_attempt(
        &mut self,
        endpoint: EndpointKey,
        message: MessageKey,
        attempt: &AttemptRecord,
        kind: NoticeKind,
    ) {
        let Some((recipient, Tenant { application, .. }, receiver)) = self.reported(endpoint) else { return };
        let Some(sent) = self.messages.get(&message) else { return };
        let last_attempt =
            LastAttempt { id: attempt.id, response_status_code: attempt.status_code, timestamp: attempt.started_at };
        let data = AttemptNotice {
            app_id: application.id,
            app_uid: application.uid.clone(),
            msg_id: sent.message.id,
            msg_event_id: sent.message.event_id.clone(),
            endpoint_id: receiver.endpoint.id,
            last_attempt,
        };
        self.add_notice(recipient, kind, &data);
    }

    /// Drops the oldest of what is too much, of those who have most, at most `rows`; returns how many that were.
    pub(crate) fn drop_notices(&mut self, rows: usize) -> usize {
        let mut waiting: BTreeMap<&Uid, Vec<NoticeKey>> = BTreeMap::new();
        for notice in self.notices.values() {
            waiting.entry(&notice.recipient).or_default().push(notice.key);
        }
        let mut waiting: Vec<_> = waiting.into_values().collect();
        waiting.sort_by_key(Vec::len);
        let count = |keys: &Vec<NoticeKey>| i64::try_from(keys.len()).unwrap_or(i64::MAX);
        let share = share_of_notices(waiting.iter().map(count), MAX_NOTICES_OF_ALL);
        let share = usize::try_from(share).unwrap_or(usize::MAX);
        let surplus = waiting.into_iter().rev().flat_map(|keys| {
            let too_many = keys.len().saturating_sub(share);
            keys.into_iter().take(too_many)
        });
        let gone: Vec<_> = surplus.take(rows).collect();
        for key in &gone {
            self.notices.remove(key);
        }
        gone.len()
    }
}
