//! Settling: the attempt, the delivery's next state, and what follows for the endpoint, in one commit.

use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::{DisableReason, EndpointChange, EndpointFact, Next};
use postrider_domain::endpoint::Disablement;
use postrider_domain::time::Timestamp;
use postrider_store::{AttemptRecord, DeliveryKey, EndpointKey, Settlement};

use crate::state::{Delivery, Logged, State};
use crate::urls::ended;

impl State {
    pub(crate) fn settle(&mut self, settlement: &Settlement) {
        let Settlement { endpoint, delivery, trigger, attempt, notice, .. } = settlement;
        let (endpoint, message) = (*endpoint, delivery.message);
        let was_pending = self.deliveries.remove(&(endpoint, *delivery)).is_some();
        let (next, against) = self.consequences(settlement);
        let next_attempt_at = match next {
            Next::Waiting(at) if was_pending => self.reschedule(settlement, at),
            _ => None,
        };
        if let Some(attempt) = attempt {
            self.log(settlement, attempt, next_attempt_at);
        }
        if !was_pending {
            // Settled before, or canceled meanwhile.
            return;
        }
        if next == Next::Succeeded {
            if self.endpoints.contains_key(&endpoint) {
                self.receiver(endpoint).failing_since = None;
            }
            if *trigger == Trigger::Manual {
                // What the schedule still has for this message would be a repeat.
                self.deliveries.retain(|(of, key), delivery| {
                    (*of, key.message) != (endpoint, message) || delivery.trigger == Trigger::Manual
                });
            }
        }
        if let Some(fact) = against {
            self.count_against(endpoint, fact);
        }
        let notice = notice.filter(|_| next == settlement.next);
        if let (Some(kind), Some(attempt)) = (notice, attempt) {
            self.report_attempt(endpoint, message, attempt, kind);
        }
    }

    /// What follows for the delivery, and what counts against its endpoint. Of another receiver than it has now an attempt says
    /// nothing, unless it succeeded.
    fn consequences(&self, settlement: &Settlement) -> (Next, Option<EndpointFact>) {
        let Settlement { next, elsewhere, against, .. } = *settlement;
        let Some(elsewhere) = elsewhere.filter(|_| next != Next::Succeeded) else { return (next, against) };
        let present = self.endpoints.get(&settlement.endpoint).map(|receiver| receiver.number);
        let is_other = present.is_some_and(|present| present != elsewhere.receiver);
        if is_other { (elsewhere.next, None) } else { (next, against) }
    }

    /// Makes the delivery wait until `at`, unless its endpoint was deleted meanwhile; returns until when it waits.
    fn reschedule(&mut self, settlement: &Settlement, at: Timestamp) -> Option<Timestamp> {
        let Settlement { endpoint, delivery, made, trigger, .. } = settlement;
        self.live_endpoint(*endpoint)?;
        let key = DeliveryKey { due_at: at, message: delivery.message };
        if self.deliveries.contains_key(&(*endpoint, key)) {
            return None;
        }
        let waiting = Delivery { made: made.saturating_add(1), trigger: *trigger, fresh: false };
        self.deliveries.insert((*endpoint, key), waiting);
        self.lower_wake(*endpoint, at);
        Some(at)
    }

    /// Logs an attempt, unless it is there already: a result may be stored for the second time.
    fn log(&mut self, settlement: &Settlement, attempt: &AttemptRecord, next_attempt_at: Option<Timestamp>) {
        let Settlement { endpoint, delivery, made, trigger, .. } = settlement;
        self.note_shown(ended(attempt));
        let key = (*endpoint, delivery.message, attempt.id);
        if self.attempts.contains_key(&key) {
            return;
        }
        let logged = Logged {
            url: self.url_of(*endpoint, attempt),
            record: attempt.clone(),
            is_expunged: false,
            number: made.saturating_add(1),
            trigger: *trigger,
            next_attempt_at,
        };
        self.attempts.insert(key, logged);
    }

    /// An attempt says something against its endpoint. One that is disabled already is told of no more.
    fn count_against(&mut self, endpoint: EndpointKey, fact: EndpointFact) {
        let found = self.endpoints.get(&endpoint);
        let Some(found) = found.filter(|found| !found.endpoint.disabled && found.deleted_at.is_none()) else { return };
        match fact.judge(found.failing_since) {
            None => {}
            Some(EndpointChange::FailingSince(at)) => self.receiver(endpoint).failing_since = Some(at),
            Some(EndpointChange::Disable(reason)) => self.disable(endpoint, reason, fact.at),
        }
    }

    fn disable(&mut self, endpoint: EndpointKey, reason: DisableReason, at: Timestamp) {
        let receiver = self.receiver(endpoint);
        receiver.endpoint.disabled = true;
        receiver.endpoint.disablement = Some(Disablement { reason, since: at });
        self.make_routes_newer(endpoint);
        self.report_disabled(endpoint, at);
        self.change_receiver(endpoint, None);
        self.tell_changed(endpoint);
    }
}
