//! The index of wakes, and what a clock that was ahead has dated.

use std::collections::BTreeSet;
use std::time::Duration;

use postrider_domain::delivery::HoldReason;
use postrider_domain::time::Timestamp;
use postrider_store::{DeliveryKey, EndpointKey, Wakes, Woken};

use crate::state::{Delivery, State};
use crate::urls::ended;

/// So many retries are due when what an endpoint asked for is lifted.
const MAX_PUT_OFF: usize = 1_000;

/// The instant for one of several that are made due at once: so they keep their order.
fn nth_after(at: Timestamp, nth: usize) -> Timestamp {
    at.saturating_add(Duration::from_micros(nth as u64))
}

impl State {
    /// Puts an endpoint into the index, or leaves it there earlier; at the end of what holds it back, if that is later.
    pub(crate) fn lower_wake(&mut self, endpoint: EndpointKey, at: Timestamp) {
        let at = self.holds.get(&endpoint).map_or(at, |hold| at.max(hold.until));
        let wake = self.wakes.entry(endpoint).or_insert(at);
        *wake = at.min(*wake);
    }

    /// Puts the endpoint into the index as early as something of it is due.
    pub(crate) fn look_again(&mut self, endpoint: EndpointKey) {
        let first = self.pending(endpoint).next().map(|(key, _)| key.due_at);
        if let Some(due_at) = first {
            self.lower_wake(endpoint, due_at);
        }
    }

    pub(crate) fn take_wakes(&mut self, now: Timestamp, limit: usize) -> Wakes {
        let mut index: Vec<_> = self.wakes.iter().map(|(endpoint, due_at)| (*due_at, *endpoint)).collect();
        index.sort_unstable();
        let due = index.iter().take_while(|(due_at, _)| *due_at <= now).take(limit).count();
        let endpoints = index.iter().take(due).map(|(_, endpoint)| self.woken(*endpoint)).collect();
        for (_, endpoint) in index.iter().take(due) {
            self.wakes.remove(endpoint);
        }
        Wakes { endpoints, next_at: index.get(due).map(|(due_at, _)| *due_at) }
    }

    fn woken(&self, endpoint: EndpointKey) -> Woken {
        let application = self.application_of(endpoint);
        let tenant = application.and_then(|key| self.applications.get(&key));
        let environment = tenant.and_then(|tenant| self.environments.get(&tenant.environment));
        Woken { endpoint, application, environment: environment.map(|environment| environment.key) }
    }

    pub(crate) fn park(&mut self, endpoint: EndpointKey, after: Timestamp) -> Option<Timestamp> {
        self.holds.remove(&endpoint);
        let next = self.pending(endpoint).map(|(key, _)| key.due_at).find(|due_at| *due_at > after);
        if let Some(next) = next {
            self.lower_wake(endpoint, next);
        }
        self.wakes.get(&endpoint).copied()
    }

    pub(crate) fn rebuild_wakes(&mut self) -> u64 {
        self.wakes.clear();
        // Nobody could look after one that is not there.
        let endpoints = &self.endpoints;
        self.holds.retain(|endpoint, _| endpoints.contains_key(endpoint));
        let busy: BTreeSet<_> = self.deliveries.keys().map(|(endpoint, _)| *endpoint).collect();
        busy.iter().for_each(|endpoint| self.look_again(*endpoint));
        let holds: Vec<_> = self.holds.iter().map(|(endpoint, hold)| (*endpoint, hold.until)).collect();
        holds.into_iter().for_each(|(endpoint, until)| self.lower_wake(endpoint, until));
        busy.len() as u64
    }

    /// The endpoint has another receiver now, or wants nothing any more: what held it back is over, and answers that are still to come
    /// from the former one do not count. With `now`, if it had asked to be left alone, retries that are due at the end of that or
    /// later are due then.
    pub(crate) fn change_receiver(&mut self, endpoint: EndpointKey, now: Option<Timestamp>) {
        if self.endpoints.contains_key(&endpoint) {
            self.receiver(endpoint).number += 1;
        }
        let Some(lifted) = self.holds.remove(&endpoint) else { return };
        // Whoever remembers it comes and finds that it is over, also if nothing is pending yet.
        self.lower_wake(endpoint, Timestamp::EPOCH);
        let Some(now) = now.filter(|_| lifted.reason == HoldReason::Asked) else { return };
        let is_put_off = |key: DeliveryKey, made: u32| key.due_at >= lifted.until && key.due_at > now && made > 0;
        let put_off = self.pending(endpoint).filter(|(key, delivery)| is_put_off(*key, delivery.made));
        let put_off: Vec<_> = put_off.map(|(key, _)| key).take(MAX_PUT_OFF).collect();
        for (nth, key) in put_off.into_iter().enumerate() {
            self.make_due(endpoint, key, nth_after(now, nth));
        }
    }

    /// Makes a delivery due at `at`, or as soon after it as its message is not due, and has the log say so.
    fn make_due(&mut self, endpoint: EndpointKey, key: DeliveryKey, at: Timestamp) {
        let Some(delivery) = self.deliveries.remove(&(endpoint, key)) else { return };
        let due = self.free_instant(endpoint, key.message, at);
        // Nobody holds it, as whatever is added later.
        self.deliveries.insert((endpoint, due), Delivery { fresh: false, ..delivery });
        for ((of, message, _), attempt) in &mut self.attempts {
            if (*of, *message, attempt.next_attempt_at) == (endpoint, key.message, Some(key.due_at)) {
                attempt.next_attempt_at = Some(due.due_at);
            }
        }
    }

    pub(crate) fn pull_in(&mut self, now: Timestamp, longest: Duration) -> u64 {
        let latest = now.saturating_add(longest);
        for hold in self.holds.values_mut() {
            hold.until = hold.until.min(latest);
        }
        let mended = self.pull_back(now);
        let late: Vec<_> = self.deliveries.keys().filter(|(_, key)| key.due_at > latest).copied().collect();
        let mut pulled = 0;
        for (endpoint, key) in late {
            if !self.is_scheduled(endpoint, key) {
                self.make_due(endpoint, key, nth_after(now, pulled));
                pulled += 1;
            }
        }
        mended + pulled as u64
    }

    /// Whether it is due when whoever sent it asked for, and was not tried yet.
    fn is_scheduled(&self, endpoint: EndpointKey, key: DeliveryKey) -> bool {
        let is_untried = self.deliveries.get(&(endpoint, key)).is_some_and(|delivery| delivery.made == 0);
        let deliver_at = self.messages.get(&key.message).and_then(|sent| sent.message.deliver_at);
        is_untried && deliver_at == Some(key.due_at)
    }

    /// Has deliveries wait from now that were dated by a clock that was ahead, and moves what holds endpoints back by what it was
    /// set back; returns how many there were.
    fn pull_back(&mut self, now: Timestamp) -> u64 {
        let Some(shown) = self.shown.filter(|shown| *shown > now) else { return 0 };
        let later: Vec<_> = self.deliveries.keys().filter(|(_, key)| key.due_at > now).copied().collect();
        let mut mended = 0;
        for (endpoint, key) in later {
            if let Some(wait) = self.wait_of(endpoint, key, now) {
                self.make_due(endpoint, key, nth_after(now.saturating_add(wait), mended));
                mended += 1;
            }
        }
        for hold in self.holds.values_mut().filter(|hold| hold.until > now) {
            hold.until = hold.until.saturating_sub(shown.since(now)).max(now);
        }
        self.shown = Some(now);
        mended as u64
    }

    /// For how long a delivery is to wait from now, if it was misdated.
    fn wait_of(&self, endpoint: EndpointKey, key: DeliveryKey, now: Timestamp) -> Option<Duration> {
        if self.deliveries.get(&(endpoint, key))?.made == 0 {
            return (!self.is_scheduled(endpoint, key)).then_some(Duration::ZERO);
        }
        let announced = self.attempts_of(endpoint, key.message).map(|(_, logged)| logged);
        let mut announced = announced.filter(|logged| logged.next_attempt_at == Some(key.due_at));
        let last = announced.find(|logged| ended(&logged.record) > now)?;
        Some(key.due_at.since(ended(&last.record)))
    }
}
