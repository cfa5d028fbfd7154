//! The outbox: notices are added by whatever writes what they report. Of one recipient, the applications that they are about take
//! turns, and share what may wait.

use std::collections::BTreeMap;

use async_trait::async_trait;
use postrider_domain::application::EnvironmentId;
use postrider_domain::delivery::DisableReason;
use postrider_domain::names::{EventTypeName, IdOrUid, Uid};
use postrider_domain::notice::{self, AttemptNotice, EndpointNotice, LastAttempt, NoticeKind};
use postrider_domain::time::Timestamp;
use postrider_store::{
    ApplicationKey, AttemptRecord, EndpointKey, MAX_NOTICES, MAX_NOTICES_OF_ALL, MessageKey, Notice, NoticeKey,
    NoticeTurn, Outbox, StoreError, share_of_notices,
};

use crate::ModelStore;
use crate::records::Waiting;
use crate::state::{Kind, News, Receiver, State, Tenant};

/// So many notices are dropped at once: that costs whoever fills the outbox the oldest of what he had told.
const DROPPED_AT_ONCE: usize = 100;

/// The notices to somebody, by the application that they are about, in the order in which they happened.
type ByApplication<'a> = BTreeMap<ApplicationKey, Vec<&'a Notice>>;

#[async_trait]
impl Outbox for ModelStore {
    async fn notices(&self, turn: NoticeTurn) -> Result<Vec<Notice>, StoreError> {
        let NoticeTurn { after, except, after_application, recipients, each } = turn;
        self.read(|state| {
            let waiting = state.waiting_notices().into_iter();
            let mut in_turn: Vec<_> = waiting.filter(|(recipient, _)| !except.contains(recipient)).collect();
            // Those after whoever had his turn last come first.
            in_turn.sort_by_key(|(recipient, _)| after.as_ref().is_some_and(|after| *recipient <= after));
            let turns = in_turn.into_iter().take(recipients);
            let oldest = |(recipient, waiting)| oldest_in_turn(waiting, after_application.get(recipient), each);
            turns.flat_map(oldest).cloned().collect()
        })
    }

    async fn remove_notices(&self, notices: Vec<NoticeKey>) -> Result<(), StoreError> {
        self.write(|state| state.notices.retain(|key, _| !notices.contains(key)))
    }
}

/// The oldest notice of each application whose turn it is, and if these are few, the next ones of each.
fn oldest_in_turn<'a>(waiting: ByApplication<'a>, last: Option<&ApplicationKey>, limit: usize) -> Vec<&'a Notice> {
    let mut in_turn: Vec<_> = waiting.into_iter().collect();
    // Those after the one that had its turn last come first.
    in_turn.sort_by_key(|(application, _)| last.is_some_and(|last| application <= last));
    in_turn.truncate(limit);
    let mut ranked: Vec<_> = in_turn.into_iter().flat_map(|(_, notices)| notices.into_iter().enumerate()).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.truncate(limit);
    let mut notices: Vec<_> = ranked.into_iter().map(|(_, notice)| notice).collect();
    notices.sort_by_key(|notice| notice.key);
    notices
}

/// How many of what each has are too many, so that all have no more than `most` together: those of who has more than his share, whoever
/// has most first, at most `limit`.
fn surplus<K>(counts: impl IntoIterator<Item = (K, usize)>, most: usize, limit: usize) -> Vec<(K, usize)> {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| *count);
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let share = share_of_notices(counts.iter().map(|(_, count)| number(*count)), number(most));
    let share = usize::try_from(share).unwrap_or(usize::MAX);
    let mut left = limit;
    let too_many = counts.into_iter().rev().map(|(whose, count)| {
        let surplus = count.saturating_sub(share).min(left);
        left -= surplus;
        (whose, surplus)
    });
    too_many.filter(|(_, surplus)| *surplus > 0).collect()
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

    fn add_notice<T: serde::Serialize>(&mut self, recipient: Uid, endpoint: EndpointKey, kind: NoticeKind, data: &T) {
        let Some(application) = self.application_of(endpoint) else { return };
        let Ok(payload) = notice::payload(kind, data) else { return };
        let event_type = EventTypeName::from_trusted(kind.event_type().to_owned());
        if kind == NoticeKind::EndpointUpdated {
            self.notices.retain(|_, other| other.endpoint != endpoint || other.notice.event_type != event_type);
        }
        if self.notices.values().filter(|other| other.notice.recipient == recipient).count() >= MAX_NOTICES {
            self.drop_of_those_with_most(&recipient, DROPPED_AT_ONCE);
        }
        let key = NoticeKey(self.next_number(Kind::Notice));
        let notice = Notice { key, recipient, application, event_type, payload };
        self.notices.insert(key, Waiting { endpoint, notice });
        self.news.push(News::NoticeAdded);
    }

    /// What waits, by recipient.
    fn waiting_notices(&self) -> BTreeMap<&Uid, ByApplication<'_>> {
        let mut waiting: BTreeMap<&Uid, ByApplication<'_>> = BTreeMap::new();
        for Waiting { notice, .. } in self.notices.values() {
            waiting.entry(&notice.recipient).or_default().entry(notice.application).or_default().push(notice);
        }
        waiting
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
        self.add_notice(recipient, endpoint, kind, &data);
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
        self.add_notice(recipient, endpoint, kind, &data);
    }

    /// Drops the oldest of what is too much, of those who have most, at most `rows`; returns how many that were.
    pub(crate) fn drop_notices(&mut self, rows: usize) -> usize {
        let most = usize::try_from(MAX_NOTICES_OF_ALL).unwrap_or(usize::MAX);
        let waiting = self.waiting_notices().into_iter();
        let counts =
            waiting.map(|(recipient, waiting)| (recipient.clone(), waiting.values().map(Vec::len).sum::<usize>()));
        let too_many = surplus(counts, most, rows);
        too_many.into_iter().map(|(recipient, notices)| self.drop_of_those_with_most(&recipient, notices)).sum()
    }

    /// Drops so many notices to somebody: the oldest ones of those applications that have most. Returns how many there were.
    fn drop_of_those_with_most(&mut self, recipient: &Uid, notices: usize) -> usize {
        let Some(waiting) = self.waiting_notices().remove(recipient) else { return 0 };
        let all: usize = waiting.values().map(Vec::len).sum();
        let counts = waiting.iter().map(|(application, notices)| (application, notices.len()));
        let too_many = surplus(counts, all.saturating_sub(notices), notices);
        let oldest = too_many.into_iter().flat_map(|(application, surplus)| waiting[application].iter().take(surplus));
        let gone: Vec<_> = oldest.map(|notice| notice.key).collect();
        for key in &gone {
            self.notices.remove(key);
        }
        gone.len()
    }
}
