//! Removing what is kept no longer: whatever is old, as much as is asked for at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use postrider_domain::time::Timestamp;
use postrider_store::{
    AHEAD, ApplicationKey, ClockSeen, DELETED_KEPT, EndpointKey, MOST_AHEAD_OF_KEYS, MessageKey, Retention, StoreError,
    Swept,
};

use crate::ModelStore;
use crate::state::{Sent, State};

/// So many bytes of payloads are removed at a time.
const MAX_BYTES: usize = 4 * 1024 * 1024;

const NOTHING: Swept = Swept { removed: 0, more: false };

#[async_trait]
impl Retention for ModelStore {
    async fn sweep_payloads(&self, now: Timestamp, kept: Duration, rows: usize) -> Result<Swept, StoreError> {
        self.write(|state| {
            let (mut expired, mut bytes) = (Vec::new(), 0);
            for (key, sent) in state.messages.iter().filter(|(key, sent)| state.is_expired(**key, sent, now, kept)) {
                if expired.len() == rows || bytes >= MAX_BYTES {
                    let removed = expired.len();
                    state.erase_payloads(expired);
                    return Swept { removed, more: true };
                }
                bytes += sent.message.payload.as_ref().map_or(0, |payload| payload.len());
                expired.push(*key);
            }
            let removed = expired.len();
            state.erase_payloads(expired);
            Swept { removed, more: false }
        })
    }

    async fn sweep_messages(&self, now: Timestamp, kept: Duration, rows: usize) -> Result<Swept, StoreError> {
        self.write(|state| {
            let pending: BTreeSet<_> = state.deliveries.keys().map(|(_, key)| key.message).collect();
            let is_old = |key: MessageKey, sent: &Sent| state.is_old(key, sent, now, kept) && !pending.contains(&key);
            let old = state.messages.iter().filter(|(key, sent)| is_old(**key, sent));
            let old: Vec<_> = old.map(|(key, _)| *key).collect();
            let gone: BTreeSet<_> = old.iter().copied().take(rows.max(1)).collect();
            state.remove_messages(&gone);
            Swept { removed: gone.len(), more: gone.len() < old.len() }
        })
    }

    async fn erase_deleted(&self, now: Timestamp, rows: usize) -> Result<Swept, StoreError> {
        self.write(|state| state.erase_next(now, rows.max(1)).map_or(NOTHING, |removed| Swept { removed, more: true }))
    }

    async fn forget_urls(&self, before: Timestamp, rows: usize) -> Result<Swept, StoreError> {
        self.write(|state| {
            let named: BTreeSet<_> = state.attempts.values().map(|logged| logged.url).collect();
            let is_former = |retired_at: Option<Timestamp>| retired_at.is_some_and(|at| at < before);
            let unnamed =
                state.urls.iter().filter(|(number, url)| is_former(url.retired_at) && !named.contains(number));
            let unnamed: Vec<_> = unnamed.map(|(number, _)| *number).collect();
            for number in unnamed.iter().take(rows) {
                state.urls.remove(number);
            }
            Swept { removed: unnamed.len().min(rows), more: unnamed.len() > rows }
        })
    }

    async fn forget_leftovers(&self, before: Timestamp, rows: usize) -> Result<usize, StoreError> {
        self.write(|state| {
            let old = state.readers.iter().filter(|(_, reader)| reader.updated_at < before);
            let old: Vec<_> = old.map(|(name, _)| name.clone()).take(rows).collect();
            for name in &old {
                state.readers.remove(name);
            }
            let expired = state.api_keys.iter().filter(|key| key.expires_at.is_some_and(|at| at < before));
            let expired: Vec<_> = expired.map(|key| key.id).take(rows).collect();
            state.api_keys.retain(|key| !expired.contains(&key.id));
            old.len() + expired.len() + state.drop_notices(rows)
        })
    }

    async fn clock_seen(&self) -> Result<Option<ClockSeen>, StoreError> {
        self.read(State::clock_seen)
    }

    async fn note_clock(&self, now: Timestamp, keys: Timestamp) -> Result<(), StoreError> {
        self.write(|state| {
            state.clock = Some(ClockSeen { right: now, doubted: Duration::ZERO, shown: now, keys });
            state.note_shown(now);
        })?;
        *self.keys_seen.lock() = Some(keys);
        Ok(())
    }

    async fn note_doubt(&self, seen: ClockSeen) -> Result<(), StoreError> {
        self.write(|state| state.clock = Some(seen))?;
        *self.keys_seen.lock() = Some(seen.keys);
        Ok(())
    }

    fn believed(&self, now: Timestamp) -> Timestamp {
        let seen = *self.keys_seen.lock();
        seen.filter(|seen| now.since(*seen) > MOST_AHEAD_OF_KEYS).unwrap_or(now)
    }
}

impl State {
    /// What is known of the clock.
    pub(crate) fn clock_seen(&self) -> Option<ClockSeen> {
        let newest = || {
            let (_, sent) = self.messages.last_key_value()?;
            let at = sent.message.created_at;
            Some(ClockSeen { right: at, doubted: Duration::ZERO, shown: at, keys: at })
        };
        self.clock.or_else(newest)
    }

    /// When a message was accepted; of one that a clock dated far ahead, when the next one was whose date can be true.
    fn accepted_at(&self, key: MessageKey, sent: &Sent, now: Timestamp) -> Option<Timestamp> {
        let ahead = now.saturating_add(AHEAD);
        let dated = |sent: &Sent| Some(sent.message.created_at).filter(|at| *at <= ahead);
        dated(sent).or_else(|| self.messages.range(key..).find_map(|(_, later)| dated(later)))
    }

    /// Whether a message was accepted, and due, at `now` less `kept` or earlier.
    fn is_old(&self, key: MessageKey, sent: &Sent, now: Timestamp, kept: Duration) -> bool {
        let until = now.saturating_sub(kept);
        self.accepted_at(key, sent, now).is_some_and(|at| at <= until)
            && sent.message.deliver_at.is_none_or(|at| at <= until)
    }

    /// Whether the time of a payload has come.
    fn is_expired(&self, key: MessageKey, sent: &Sent, now: Timestamp, kept: Duration) -> bool {
        let has_come = match sent.message.expires_at {
            Some(at) => at <= now,
            None => self.is_old(key, sent, now, kept),
        };
        sent.message.payload.is_some() && has_come
    }

    /// Removes messages with their attempts.
    fn remove_messages(&mut self, gone: &BTreeSet<MessageKey>) {
        self.messages.retain(|key, _| !gone.contains(key));
        self.attempts.retain(|(_, message, _), _| !gone.contains(message));
        self.accepted_under.retain(|_, message| !gone.contains(message));
    }

    /// Erases the next of what belongs to what was deleted; returns how many payloads, messages, endpoints and applications those
    /// are, and `None` if nothing is left.
    fn erase_next(&mut self, now: Timestamp, rows: usize) -> Option<usize> {
        let before = now.saturating_sub(DELETED_KEPT);
        let is_deleted = |key: &ApplicationKey| !self.has_application(*key);
        let is_of_deleted = |key: &EndpointKey| self.application_of(*key).is_some_and(|of| is_deleted(&of));
        let pending = self.deliveries.keys().filter(|(endpoint, _)| is_of_deleted(endpoint));
        let pending: Vec<_> = pending.copied().take(rows).collect();
        if !pending.is_empty() {
            for key in &pending {
                self.deliveries.remove(key);
            }
            return Some(0);
        }
        let of_deleted = || self.messages.iter().filter(|(_, sent)| is_deleted(&sent.application));
        let payloads = of_deleted().filter(|(_, sent)| sent.message.payload.is_some());
        let payloads: Vec<_> = payloads.map(|(key, _)| *key).take(rows).collect();
        let messages: BTreeSet<_> = of_deleted().map(|(key, _)| *key).take(rows).collect();
        if !payloads.is_empty() {
            let erased = payloads.len();
            self.erase_payloads(payloads);
            return Some(erased);
        }
        if !messages.is_empty() {
            self.remove_messages(&messages);
            return Some(messages.len());
        }
        let applications =
            self.applications.iter().filter(|(_, tenant)| tenant.deleted_at.is_some_and(|at| at < before));
        let applications: BTreeSet<_> = applications.map(|(key, _)| *key).collect();
        let endpoints: BTreeSet<_> =
            self.endpoints.keys().filter(|key| self.is_left_over(**key, &applications, before)).copied().collect();
        let erased = applications.len() + endpoints.len();
        self.remove_endpoints(&endpoints);
        self.applications.retain(|key, _| !applications.contains(key));
        self.token_rules.retain(|(key, _), _| !applications.contains(key));
        self.asked.retain(|(key, _), _| !applications.contains(key));
        (erased > 0).then_some(erased)
    }

    /// Whether an endpoint goes: with its application, or because it was deleted itself, and nothing is left of it.
    fn is_left_over(&self, key: EndpointKey, gone: &BTreeSet<ApplicationKey>, before: Timestamp) -> bool {
        let Some(receiver) = self.endpoints.get(&key) else { return false };
        let is_used = || self.attempts_at(key).next().is_some() || self.pending(key).next().is_some();
        gone.contains(&receiver.application) || (receiver.deleted_at.is_some_and(|at| at < before) && !is_used())
    }

    fn remove_endpoints(&mut self, gone: &BTreeSet<EndpointKey>) {
        self.endpoints.retain(|key, _| !gone.contains(key));
        self.attempts.retain(|(key, ..), _| !gone.contains(key));
        self.wakes.retain(|key, _| !gone.contains(key));
        self.holds.retain(|key, _| !gone.contains(key));
        self.readers.retain(|(key, _), _| !gone.contains(key));
        self.urls.retain(|_, url| !gone.contains(&url.endpoint));
    }
}
