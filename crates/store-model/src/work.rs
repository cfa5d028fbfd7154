//! The work table: routes and targets, accepting, loading what is due, sending again. Settling is in `settle`, the index of wakes in
//! `wakes`.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use postrider_domain::application::EnvironmentId;
use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::Hold;
use postrider_domain::endpoint::{Endpoint, Health};
use postrider_domain::event_type_set::EventTypeSet;
use postrider_domain::ids::ApplicationId;
use postrider_domain::message::Message;
use postrider_domain::names::{EventTypeName, IdOrUid};
use postrider_domain::time::Timestamp;
use postrider_store::{
    AcceptError, Accepted, ApplicationKey, Capped, DeliveryKey, Due, DueSlice, EndpointKey, IdempotencyKey,
    MAX_ATTEMPTS_OF_MESSAGE, MAX_MANUAL_OF_ENDPOINT, MessageKey, NewMessage, Once, ResendError, Resent, Routes,
    Settlement, StoreError, Target, TooLarge, Unstorable, Wakes, Work, WriteError, Written,
};

use crate::records::Subject;
use crate::records::Use;
use crate::state::{Delivery, Kind, News, Receiver, Sent, State, Tenant};
use crate::{ModelStore, lists, messages};

#[async_trait]
impl Work for ModelStore {
    async fn routes(
        &self,
        environment: &EnvironmentId,
        application: &IdOrUid<ApplicationId>,
    ) -> Result<Option<Routes>, StoreError> {
        self.read(|state| {
            let (key, tenant) = state.find_application(environment, application)?;
            let environment = state.environments.get(environment)?;
            let mut targets: Vec<_> = state.endpoints_of(key).collect();
            targets.sort_by_key(|(_, receiver)| receiver.endpoint.id);
            let target = |(key, receiver)| state.target(key, receiver).map(Arc::new);
            Some(Routes {
                application: key,
                id: tenant.application.id,
                version: tenant.version + environment.rules_version,
                rules: environment.settings.rules,
                rules_version: environment.rules_version,
                targets: targets.into_iter().filter_map(target).collect(),
            })
        })
    }

    async fn target(&self, endpoint: EndpointKey) -> Result<Option<Target>, StoreError> {
        self.read(|state| state.target(endpoint, state.endpoints.get(&endpoint)?))
    }

    async fn accept(&self, batch: Vec<NewMessage>) -> Vec<Result<Accepted, AcceptError>> {
        let (count, fails_at) = (batch.len(), self.fails_at);
        let fails = batch.iter().any(|new| new.message.payload.as_deref().is_some_and(fails_at));
        let accepted = if fails {
            self.try_write(|state| {
                let before = state.messages.last_key_value().map(|(key, _)| *key);
                let results = state.accept_all(batch);
                let mut new = state.messages.iter().filter(|(key, _)| before.is_none_or(|before| **key > before));
                match new.any(|(_, sent)| sent.message.payload.as_deref().is_some_and(fails_at)) {
                    true => Err(StoreError::Unavailable("simulated".to_owned())),
                    false => Ok(results),
                }
            })
        } else {
            self.write(|state| state.accept_all(batch))
        };
        accepted.unwrap_or_else(|error| vec![Err(AcceptError::Store(error)); count])
    }

    async fn accepted_under(
        &self,
        application: ApplicationKey,
        key: IdempotencyKey,
        not_before: Timestamp,
    ) -> Result<Option<Message>, StoreError> {
        self.read(|state| state.accepted_under(application, key, not_before))
    }

    async fn settle(&self, batch: Vec<Settlement>) -> Result<Vec<Unstorable>, StoreError> {
        let refuses = |settlement: &Settlement| {
            settlement.attempt.as_ref().is_some_and(|attempt| (self.refuses)(&attempt.response))
        };
        self.write(|state| {
            let mut unstorable = Vec::new();
            for (place, settlement) in batch.iter().enumerate() {
                if refuses(settlement) {
                    unstorable.push(Unstorable { place, error: StoreError::Unavailable("simulated".to_owned()) });
                } else {
                    state.settle(settlement);
                }
            }
            unstorable
        })
    }

    async fn due(
        &self,
        endpoint: EndpointKey,
        now: Timestamp,
        after: Option<DeliveryKey>,
        held: HashSet<DeliveryKey>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<DueSlice, StoreError> {
        self.read(|state| {
            let is_asked_for =
                |key: &DeliveryKey| key.due_at <= now && after.is_none_or(|after| *key > after) && !held.contains(key);
            let due = state.pending(endpoint).filter(|(key, _)| is_asked_for(key));
            let receiver = state.endpoints.get(&endpoint).map(|receiver| receiver.number);
            let (mut found, mut bytes) = (DueSlice { receiver, ..DueSlice::default() }, 0_usize);
            for (key, Delivery { made, trigger, fresh }) in due.take(limit) {
                let message = state.messages.get(&key.message).map(|sent| &sent.message);
                let message = message.filter(|message| message.payload.is_some());
                let payload_bytes = message.map_or(0, |message| lists::payload_bytes(message));
                bytes = bytes.saturating_add(payload_bytes);
                if bytes > max_bytes {
                    found.too_large = Some(TooLarge { message: key.message, payload_bytes });
                    break;
                }
                let message = message.map(Arc::clone);
                found.due.push(Due { key, made: *made, trigger: *trigger, fresh: *fresh, message });
            }
            found
        })
    }

    async fn take_wakes(&self, now: Timestamp, limit: usize) -> Result<Wakes, StoreError> {
        self.write(|state| state.take_wakes(now, limit))
    }

    async fn park(&self, endpoint: EndpointKey, after: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        self.write(|state| state.park(endpoint, after))
    }

    async fn hold(&self, endpoint: EndpointKey, hold: Hold, receiver: Option<u64>) -> Result<bool, StoreError> {
        self.write(|state| {
            let present = state.endpoints.get(&endpoint).map(|receiver| receiver.number);
            if receiver.zip(present).is_some_and(|(asked, present)| asked != present) {
                return false;
            }
            state.holds.insert(endpoint, hold);
            state.wakes.insert(endpoint, hold.until);
            true
        })
    }

    async fn hold_of(&self, endpoint: EndpointKey) -> Result<Option<Hold>, StoreError> {
        self.read(|state| state.holds.get(&endpoint).copied())
    }

    async fn holds(&self) -> Result<Vec<(EndpointKey, Hold)>, StoreError> {
        self.read(|state| state.holds.iter().map(|(endpoint, hold)| (*endpoint, *hold)).collect())
    }

    async fn wake_later(&self, endpoints: Vec<EndpointKey>, at: Timestamp) -> Result<(), StoreError> {
        self.write(|state| endpoints.into_iter().for_each(|endpoint| state.lower_wake(endpoint, at)))
    }

    async fn pull_in(&self, now: Timestamp, longest: Duration) -> Result<u64, StoreError> {
        self.write(|state| state.pull_in(now, longest))
    }

    async fn rebuild_wakes(&self) -> Result<u64, StoreError> {
        self.write(State::rebuild_wakes)
    }

    async fn cancel_deliveries(&self, endpoint: EndpointKey, limit: usize) -> Result<usize, StoreError> {
        self.write(|state| {
            if state.live_endpoint(endpoint).is_some_and(|receiver| !receiver.endpoint.disabled) {
                return 0;
            }
            let gone: Vec<_> = state.pending(endpoint).map(|(key, _)| key).take(limit).collect();
            for key in &gone {
                state.deliveries.remove(&(endpoint, *key));
            }
            gone.len()
        })
    }

    async fn resend(
        &self,
        endpoint: EndpointKey,
        message: MessageKey,
        now: Timestamp,
        once: Option<Once<Resent>>,
    ) -> Result<Written<Resent>, ResendError> {
        let per_day = self.asked_per_day;
        self.try_write(|state| {
            let subject = Subject::message_at(message, endpoint);
            state.once(once, subject, now, |state| state.resend(endpoint, message, per_day, now))
        })
    }

    async fn forget_keys(&self, before: Timestamp, limit: usize) -> Result<bool, StoreError> {
        self.write(|state| {
            let messages = &state.messages;
            let is_young = |key: &MessageKey| messages.get(key).is_some_and(|sent| sent.message.created_at >= before);
            state.accepted_under.retain(|_, message| is_young(message));
            state.forget_answers(before, limit)
        })
    }

    async fn health(&self, endpoint: EndpointKey) -> Result<Option<Health>, StoreError> {
        self.read(|state| {
            state.endpoints.get(&endpoint).map(|receiver| Health { failing_since: receiver.failing_since })
        })
    }

    async fn backlog(&self, endpoint: EndpointKey, limit: usize) -> Result<usize, StoreError> {
        self.read(|state| state.pending(endpoint).take(limit).count())
    }
}

impl State {
    /// An endpoint as the sender needs it.
    fn target(&self, key: EndpointKey, receiver: &Receiver) -> Option<Target> {
        let Receiver { application, endpoint, headers, keys, number, deleted_at, .. } = receiver;
        let tenant = self.applications.get(application)?;
        let names = |names: &Vec<EventTypeName>| {
            EventTypeSet::of_trusted(&names.iter().map(|name| Cow::from(name.as_str())).collect::<Vec<_>>())
        };
        Some(Target {
            key,
            application: *application,
            environment: self.environments.get(&tenant.environment)?.key,
            event_types: endpoint.event_types.as_ref().map(names),
            endpoint: Endpoint {
                disabled: endpoint.disabled || deleted_at.is_some() || tenant.deleted_at.is_some(),
                description: String::new(),
                metadata: Default::default(),
                event_types: None,
                held: None,
                ..endpoint.clone()
            },
            headers: headers.clone(),
            keys: keys.clone(),
            application_rate: tenant.application.throttle_rate,
            receiver: *number,
        })
    }

    fn accept_all(&mut self, batch: Vec<NewMessage>) -> Vec<Result<Accepted, AcceptError>> {
        let latest = batch.iter().map(|new| new.message.created_at).max();
        let results = batch.into_iter().map(|new| self.accept(new)).collect();
        self.shown = self.shown.max(latest);
        results
    }

    fn accept(&mut self, new: NewMessage) -> Result<Accepted, AcceptError> {
        let NewMessage { application, version, rules, message, endpoints, idempotency } = new;
        self.check_version(application, version, rules)?;
        // A repeated request finds its own message under its event id, too: its key decides, not the event id.
        if let Some((key, not_before)) = idempotency
            && let Some(known) = self.accepted_under(application, key, not_before)
        {
            return Ok(Accepted::Replayed(Arc::new(known)));
        }
        let is_taken = |sent: &Sent| sent.message.event_id == message.event_id;
        if message.event_id.is_some() && self.messages_of(application).any(|(_, sent)| is_taken(sent)) {
            return Err(AcceptError::Conflict);
        }
        let key = MessageKey(self.next_number(Kind::Message));
        if let Some((idempotency, _)) = idempotency {
            self.accepted_under.insert(idempotency.0, key);
        }
        let (due_at, later) = (message.due_at(), message.deliver_at.is_some());
        self.messages.insert(key, Sent { application, message });
        let delivery = Delivery { made: 0, trigger: Trigger::Scheduled, fresh: !later };
        for endpoint in endpoints {
            self.deliveries.insert((endpoint, DeliveryKey { due_at, message: key }), delivery);
            if later {
                self.lower_wake(endpoint, due_at);
            }
        }
        Ok(Accepted::New(key))
    }

    /// Refuses routes that are out of date, or rules, if only those count.
    fn check_version(&self, application: ApplicationKey, version: i64, rules: Option<i64>) -> Result<(), AcceptError> {
        let tenant = self.applications.get(&application).filter(|tenant| tenant.deleted_at.is_none());
        let current = |tenant: &Tenant| {
            let rules_version = self.environments.get(&tenant.environment)?.rules_version;
            Some((tenant.version + rules_version, rules_version))
        };
        let (current, current_rules) = tenant.and_then(current).ok_or(AcceptError::Stale)?;
        if version == current || rules == Some(current_rules) { Ok(()) } else { Err(AcceptError::Stale) }
    }

    fn accepted_under(
        &self,
        application: ApplicationKey,
        key: IdempotencyKey,
        not_before: Timestamp,
    ) -> Option<Message> {
        let sent = self.messages.get(self.accepted_under.get(&key.0)?)?;
        let counts = sent.application == application && sent.message.created_at >= not_before;
        counts.then(|| messages::shown(&sent.message, false))
    }

    fn resend(
        &mut self,
        endpoint: EndpointKey,
        message: MessageKey,
        per_day: u64,
        now: Timestamp,
    ) -> Result<Resent, ResendError> {
        self.messages.get(&message).ok_or(WriteError::NotFound)?;
        if !self.has_payload(message) {
            return Err(ResendError::MissingPayload);
        }
        let Receiver { application, endpoint: found, .. } = self.live_endpoint(endpoint).ok_or(WriteError::NotFound)?;
        let application = *application;
        if found.disabled {
            return Ok(Resent::Disabled(found.disablement));
        }
        // The smaller number first: who asks for one message again and again is refused by it.
        if self.is_worn(endpoint, message) {
            return Err(WriteError::Full { of: Capped::Attempts, most: MAX_ATTEMPTS_OF_MESSAGE as u64 }.into());
        }
        if self.is_full_of_manual(endpoint) {
            return Err(ResendError::TooMany);
        }
        let spent = self.spend(application, Use::Call, 1, per_day, now);
        spent.map_err(|wait| ResendError::Spent { per_day, wait })?;
        self.add_manual(endpoint, message, now);
        self.news.push(News::WorkAdded(endpoint, Some(application)));
        let held = self.holds.get(&endpoint).filter(|hold| hold.until > now);
        Ok(held.map_or(Resent::Due, |hold| Resent::Held(*hold)))
    }

    /// Whether so many deliveries wait at an endpoint that somebody asked for that nobody may ask for more.
    pub(crate) fn is_full_of_manual(&self, endpoint: EndpointKey) -> bool {
        let manual = self.pending(endpoint).filter(|(_, delivery)| delivery.trigger == Trigger::Manual);
        manual.count() >= MAX_MANUAL_OF_ENDPOINT
    }

    /// Whether a message was, or is to be, attempted at an endpoint so often that nobody can have it sent there again.
    pub(crate) fn is_worn(&self, endpoint: EndpointKey, message: MessageKey) -> bool {
        let manual = self
            .pending(endpoint)
            .filter(|(key, delivery)| key.message == message && delivery.trigger == Trigger::Manual);
        self.attempts_of(endpoint, message).count() + manual.count() >= MAX_ATTEMPTS_OF_MESSAGE
    }

    /// Adds a manual delivery that is due at `now`, or as soon after it as no other delivery of this message is due.
    pub(crate) fn add_manual(&mut self, endpoint: EndpointKey, message: MessageKey, now: Timestamp) {
        let key = self.free_instant(endpoint, message, now);
        self.deliveries.insert((endpoint, key), Delivery { made: 0, trigger: Trigger::Manual, fresh: false });
        self.note_shown(now);
        self.lower_wake(endpoint, now);
    }

    /// The first instant from then on at which a message is not due at an endpoint.
    pub(crate) fn free_instant(&self, endpoint: EndpointKey, message: MessageKey, from: Timestamp) -> DeliveryKey {
        let mut key = DeliveryKey { due_at: from, message };
        while self.deliveries.contains_key(&(endpoint, key)) {
            key.due_at = key.due_at.saturating_add(Duration::from_micros(1));
        }
        key
    }
}
