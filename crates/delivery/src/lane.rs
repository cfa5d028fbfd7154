//! A lane: the deliveries of one endpoint that are in memory, and the rules by which they leave.
//!
//! The store is the authority on what is pending. A lane holds a bounded window of it; `held` names every delivery that
//! this process has taken charge of and not yet settled, so that none is sent twice. Everything here can be lost at any
//! instant and is loaded again.
//!
//! This file is the lane's state and its decisions, without I/O: [`State::next_step`] says what to do next, and
//! `engine.rs` does it and reports back. The order in which a delivery is judged: disabled, held back by the receiver,
//! rate limits, concurrency.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_domain::attempt::Trigger;
use postrider_domain::message::Message;
use postrider_domain::time::Timestamp;
use postrider_store::{DeliveryKey, Due, EndpointKey, MessageKey, Target};

use crate::budget::Budget;
use crate::pace::Pace;
use crate::rate::Rate;
use crate::sender::Prepared;

/// A window is this many times what may be under way, within these bounds.
const WINDOW_FACTOR: u32 = 8;
const MIN_WINDOW: u32 = 8;
const MAX_WINDOW: u32 = 256;

/// Loads that may go on where the last one ended, before one looks from the beginning again.
const LOADS_IN_A_ROW: u32 = 32;

/// What a delivery costs in memory beside its payload, roughly.
const OVERHEAD_BYTES: u64 = 512;

/// An endpoint, ready to be sent to.
pub(crate) struct Ready {
    pub(crate) target: Arc<Target>,
    pub(crate) prepared: Arc<Prepared>,
    pub(crate) url: Arc<str>,
}

/// A delivery in the window.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) key: DeliveryKey,
    pub(crate) made: u32,
    pub(crate) trigger: Trigger,
    pub(crate) message: Arc<Message>,
}

impl Held {
    fn bytes(&self) -> u64 {
        OVERHEAD_BYTES + self.message.payload.as_ref().map_or(0, |payload| payload.len() as u64)
    }
}

/// What a lane wants done.
pub(crate) enum Step {
    /// Start a worker with this delivery; it has been counted.
    Work(Held, Arc<Ready>),
    /// Read the endpoint.
    Target,
    /// Load deliveries.
    Load(Load),
    /// Look again at this instant.
    WaitUntil(Timestamp),
    /// Remove the deliveries of an endpoint that wants nothing.
    Cancel,
    /// Note in the store when the endpoint is next due after this instant.
    Park(Timestamp),
    /// Forget the lane.
    Close,
    /// Nothing: an event will come.
    Idle,
}

/// What to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    /// What is due at this instant.
    pub(crate) now: Timestamp,
    /// And comes after this one; from the beginning if there is none.
    pub(crate) after: Option<DeliveryKey>,
    /// At most so many deliveries.
    pub(crate) limit: usize,
    /// About so many bytes of payload.
    pub(crate) max_bytes: usize,
}

impl Load {
    /// Whether it ended because there was nothing more.
    fn was_the_last(&self, found: &[Due]) -> bool {
        found.len() < self.limit && !self.cut_short(found)
    }

    /// Whether the store may have stopped because of the bytes, not because there was nothing more.
    fn cut_short(&self, found: &[Due]) -> bool {
        let bytes = |due: &Due| due.message.as_ref().and_then(|message| message.payload.as_ref()).map_or(0, Bytes::len);
        found.iter().map(bytes).sum::<usize>() >= self.max_bytes
    }
}

/// The shared resources a lane draws on.
pub(crate) struct Budgets {
    pub(crate) memory: Budget,
    pub(crate) requests: Budget,
}

/// One endpoint with work.
pub(crate) struct Lane {
    pub(crate) key: EndpointKey,
    pub(crate) state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) ready: Option<Arc<Ready>>,
    /// The endpoint changed since `ready` was made.
    stale: bool,
    window: VecDeque<Held>,
    held: HashSet<DeliveryKey, foldhash::fast::RandomState>,
    held_bytes: u64,
    workers: u32,
    pub(crate) pace: Pace,
    rate: Option<Rate>,
    application_rate: Option<Arc<Mutex<Rate>>>,
    /// The store may have due deliveries that are not held.
    more: bool,
    /// Where the next load goes on, so that it does not walk past everything that is held and not settled yet. What was
    /// stored before this place meanwhile is found when a load begins anew: when the end was reached, or after
    /// [`LOADS_IN_A_ROW`]. Until then there is `more`.
    place: Option<DeliveryKey>,
    loads_in_a_row: u32,
    /// The store may have later deliveries that its index of wakes does not know of.
    unparked: bool,
    /// Everything due until then was loaded, is being loaded, or is held; or there is `more`.
    loaded_until: Timestamp,
    /// Something asynchronous is under way that will look at the lane again.
    busy: Option<Busy>,
    /// Keys that stopped being held while a load was under way, which may have seen them in the store.
    settled_meanwhile: Vec<DeliveryKey>,
    /// The store failed: nothing is asked of it before this instant.
    retry_store_at: Option<Timestamp>,
    timer: Option<Timestamp>,
    closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Busy {
    Target,
    Load,
    Cancel,
    Park,
}

impl Lane {
    pub(crate) fn new(key: EndpointKey, concurrency: u32) -> Self {
        let state = State {
            ready: None,
            stale: false,
            window: VecDeque::new(),
            held: HashSet::default(),
            held_bytes: 0,
            workers: 0,
            pace: Pace::new(concurrency),
            rate: None,
            application_rate: None,
            more: false,
            place: None,
            loads_in_a_row: 0,
            unparked: false,
            loaded_until: Timestamp::EPOCH,
            busy: None,
            settled_meanwhile: Vec::new(),
            retry_store_at: None,
            timer: None,
            closed: false,
        };
        Self { key, state: Mutex::new(state) }
    }
}

impl State {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes the endpoint as it is now.
    pub(crate) fn set_ready(&mut self, ready: Arc<Ready>, application_rate: Option<Arc<Mutex<Rate>>>, now: Timestamp) {
        let wanted = ready.target.endpoint.throttle_rate;
        if self.rate.as_ref().map(Rate::per_second) != wanted {
            self.rate = wanted.map(|rate| Rate::new(rate, now));
        }
        self.application_rate = application_rate;
        self.ready = Some(ready);
        self.stale = false;
    }

    /// The endpoint changed: read it again before the next request.
    pub(crate) fn mark_stale(&mut self) {
        self.stale = true;
        self.wake();
    }

    /// The store has, or may have, something due.
    pub(crate) fn wake(&mut self) {
        self.more = true;
        self.unparked = true;
    }

    /// Offers a delivery straight from its accept commit. It is taken if there is room, else found in the store later.
    pub(crate) fn offer(&mut self, message: &Arc<Message>, key: MessageKey, budgets: &Budgets) {
        let key = DeliveryKey { due_at: message.created_at, message: key };
        // What waits in the store is older: taking this one first would let it overtake for ever.
        let room = !self.more && self.window.len() < self.window_size();
        let delivery = Held { key, made: 0, trigger: Trigger::Scheduled, message: Arc::clone(message) };
        let taken = self.held.contains(&key) || (room && self.hold(delivery, budgets));
        if !taken {
            self.wake();
        }
    }

    fn hold(&mut self, delivery: Held, budgets: &Budgets) -> bool {
        let bytes = delivery.bytes();
        if !budgets.memory.try_take(self.held_bytes, bytes) {
            return false;
        }
        self.held_bytes += bytes;
        self.held.insert(delivery.key);
        self.window.push_back(delivery);
        true
    }

    /// The next delivery to send, for a worker that is counted; `None` tells it to leave.
    pub(crate) fn take(&mut self, now: Timestamp) -> Option<(Held, Arc<Ready>)> {
        if self.stale || self.disabled() || self.workers > self.pace.limit() || self.blocked_until(now).is_some() {
            return None;
        }
        let ready = Arc::clone(self.ready.as_ref()?);
        let delivery = self.window.pop_front()?;
        if let Some(rate) = &mut self.rate {
            rate.take();
        }
        if let Some(rate) = &self.application_rate {
            rate.lock().take();
        }
        Some((delivery, ready))
    }

    /// A delivery could not be tried because of this machine: it is the next one again, after a pause.
    pub(crate) fn put_back(&mut self, delivery: Held, now: Timestamp) {
        self.window.push_front(delivery);
        self.pace.not_made(now);
    }

    /// When the receiver's wishes and the rate limits let the next request go; `None` is now.
    fn blocked_until(&mut self, now: Timestamp) -> Option<Timestamp> {
        let hold = self.pace.hold(now);
        let rate = self.rate.as_mut().and_then(|rate| rate.ready_at(now));
        let application = self.application_rate.as_ref().and_then(|rate| rate.lock().ready_at(now));
        hold.max(rate).max(application)
    }

    /// A worker left.
    pub(crate) fn worker_left(&mut self, budgets: &Budgets) {
        self.workers -= 1;
        budgets.requests.give_back(1);
    }

    /// A delivery's result is in the store. If it is to be tried again, that is due at `next_at`.
    pub(crate) fn settled(&mut self, delivery: &Held, next_at: Option<Timestamp>, budgets: &Budgets) {
        // A retry that became due before it was stored is missed by a load before the commit, and by parking after it.
        if next_at.is_some_and(|at| at <= self.loaded_until) {
            self.wake();
        }
        if self.held.remove(&delivery.key) {
            self.held_bytes -= delivery.bytes();
            budgets.memory.give_back(delivery.bytes());
            if self.busy == Some(Busy::Load) {
                self.settled_meanwhile.push(delivery.key);
            }
        }
    }

    /// Takes what waits of these messages out of the window; it stays held until its end is stored.
    pub(crate) fn withdraw(&mut self, messages: &HashSet<MessageKey>) -> Vec<Held> {
        if !self.window.iter().any(|delivery| messages.contains(&delivery.key.message)) {
            return Vec::new();
        }
        let (withdrawn, left) = self.window.drain(..).partition(|delivery| messages.contains(&delivery.key.message));
        self.window = left;
        withdrawn.into()
    }

    /// Drops what waits in memory, because the endpoint wants nothing any more.
    fn drop_window(&mut self, budgets: &Budgets) {
        self.place = None;
        for delivery in std::mem::take(&mut self.window) {
            self.settled(&delivery, None, budgets);
        }
    }

    /// What a load has to leave out.
    pub(crate) fn held_keys(&self, load: &Load) -> HashSet<DeliveryKey> {
        self.held.iter().filter(|key| Some(**key) > load.after).copied().collect()
    }

    /// How many more deliveries have a place in the window.
    fn room(&self) -> usize {
        self.window_size().saturating_sub(self.window.len())
    }

    fn window_size(&self) -> usize {
        (self.pace.limit() * WINDOW_FACTOR).clamp(MIN_WINDOW, MAX_WINDOW) as usize
    }

    /// Takes what a load found. `dispatched` is the newest message that was handed over from its accept commit: a newer
    /// one is still on its way through memory, and will be offered. Deliveries without a payload are returned: there is
    /// nothing to send, they can only be canceled.
    pub(crate) fn loaded(
        &mut self,
        found: Vec<Due>,
        load: Load,
        dispatched: MessageKey,
        budgets: &Budgets,
    ) -> Vec<Due> {
        self.busy = None;
        let settled = std::mem::take(&mut self.settled_meanwhile);
        let mut empty = Vec::new();
        let ended = load.was_the_last(&found);
        self.more |= !ended || load.after.is_some();
        let (mut place, mut passed_over) = (load.after, false);
        for due in found {
            let key = due.key;
            if due.fresh && key.message > dispatched {
                // If there is no room for it when it is offered, it is looked for again.
                passed_over = true;
                continue;
            }
            if !self.held.contains(&key) && !settled.contains(&key) && !self.take_over(due, &mut empty, budgets) {
                self.more = true;
                break;
            }
            if !passed_over {
                place = Some(key);
            }
        }
        self.place = place.filter(|_| !ended);
        empty
    }

    /// Takes charge of a delivery that was loaded; false if there is no room. One without a payload is put with the others
    /// of its kind.
    fn take_over(&mut self, due: Due, empty: &mut Vec<Due>, budgets: &Budgets) -> bool {
        let Some(message) = due.message.clone() else {
            self.held.insert(due.key);
            empty.push(due);
            return true;
        };
        self.hold(Held { key: due.key, made: due.made, trigger: due.trigger, message }, budgets)
    }

    /// A delivery without payload was canceled.
    pub(crate) fn canceled(&mut self, key: &DeliveryKey) {
        self.held.remove(key);
    }

    /// The endpoint was read, or could not be.
    pub(crate) fn target_read(&mut self) {
        self.busy = None;
    }

    /// A slice of an endpoint that wants nothing was removed; `rest` if there may be more.
    pub(crate) fn cancel_done(&mut self, rest: bool) {
        self.busy = None;
        if rest {
            self.wake();
        }
    }

    /// The store noted when the endpoint is next due.
    pub(crate) fn park_done(&mut self) {
        self.busy = None;
    }

    /// The store failed at what it was asked last.
    pub(crate) fn store_failed(&mut self, retry_at: Timestamp) {
        self.busy = None;
        self.settled_meanwhile.clear();
        self.retry_store_at = Some(retry_at);
        self.wake();
    }

    /// The timer for `at` has gone off.
    pub(crate) fn timer_done(&mut self, at: Timestamp) {
        if self.timer == Some(at) {
            self.timer = None;
        }
    }

    /// Decides what to do next, and notes it as begun. To be called again after every event, until it says
    /// [`Step::Idle`] or [`Step::Close`].
    pub(crate) fn next_step(&mut self, now: Timestamp, budgets: &Budgets) -> Step {
        if self.closed {
            return Step::Idle;
        }
        let store_asleep = self.retry_store_at.filter(|at| *at > now);
        let idle_store = self.busy.is_none() && store_asleep.is_none();
        if self.stale || self.ready.is_none() {
            return if idle_store { self.begin(Busy::Target, Step::Target) } else { self.wait(store_asleep) };
        }
        if self.disabled() {
            return self.wind_down(now, idle_store, store_asleep, budgets);
        }
        match self.blocked_until(now) {
            None if self.may_start(budgets) => {
                if let Some((delivery, ready)) = self.take(now) {
                    self.workers += 1;
                    return Step::Work(delivery, ready);
                }
            }
            blocked @ Some(_) if self.more || !self.window.is_empty() => return self.wait(blocked),
            _ => {}
        }
        if self.more && idle_store && self.room() * 2 >= self.window_size() {
            return self.begin_load(now, budgets);
        }
        self.rest(now, idle_store, store_asleep)
    }

    fn begin_load(&mut self, now: Timestamp, budgets: &Budgets) -> Step {
        self.more = false;
        self.loaded_until = now;
        let after = self.place.filter(|_| self.loads_in_a_row < LOADS_IN_A_ROW);
        self.loads_in_a_row = if after.is_some() { self.loads_in_a_row + 1 } else { 0 };
        let max_bytes = usize::try_from(budgets.memory.free() / 2).unwrap_or(usize::MAX);
        self.begin(Busy::Load, Step::Load(Load { now, after, limit: self.room(), max_bytes }))
    }

    fn disabled(&self) -> bool {
        self.ready.as_ref().is_some_and(|ready| ready.target.endpoint.disabled)
    }

    fn may_start(&self, budgets: &Budgets) -> bool {
        !self.window.is_empty()
            && self.workers < self.pace.limit()
            && budgets.requests.try_take(u64::from(self.workers), 1)
    }

    /// An endpoint that wants nothing: what waits is dropped here and removed in the store.
    fn wind_down(
        &mut self,
        now: Timestamp,
        idle_store: bool,
        store_asleep: Option<Timestamp>,
        budgets: &Budgets,
    ) -> Step {
        self.drop_window(budgets);
        if self.more && idle_store {
            self.more = false;
            // What is later due goes the same way, so nothing is left to be noted.
            self.unparked = false;
            return self.begin(Busy::Cancel, Step::Cancel);
        }
        self.rest(now, idle_store, store_asleep)
    }

    /// Nothing more to start: park, close, or wait for what is under way.
    fn rest(&mut self, now: Timestamp, idle_store: bool, store_asleep: Option<Timestamp>) -> Step {
        if !idle_store {
            return self.wait(store_asleep);
        }
        if self.more {
            return Step::Idle;
        }
        if self.unparked {
            // Before it is asked for: a wake that comes meanwhile must not be forgotten with the answer.
            self.unparked = false;
            return self.begin(Busy::Park, Step::Park(self.loaded_until));
        }
        if !self.held.is_empty() || self.workers > 0 {
            return Step::Idle;
        }
        if let Some(until) = self.pace.hold(now) {
            // What the receiver asked for must outlive the messages that it was asked about.
            return self.wait(Some(until));
        }
        self.closed = true;
        Step::Close
    }

    fn begin(&mut self, busy: Busy, step: Step) -> Step {
        self.busy = Some(busy);
        step
    }

    fn wait(&mut self, until: Option<Timestamp>) -> Step {
        match until {
            Some(at) if self.timer.is_none_or(|timer| timer > at) => {
                self.timer = Some(at);
                Step::WaitUntil(at)
            }
            _ => Step::Idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use postrider_domain::entropy::SeededEntropy;
    use postrider_domain::ids::MessageId;
    use postrider_domain::names::EventTypeName;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    fn budgets() -> Budgets {
        Budgets { memory: Budget::new(1_000_000, 2), requests: Budget::new(1_000, 8) }
    }

    fn message() -> Arc<Message> {
        Arc::new(Message {
            id: MessageId::new(NOW, &SeededEntropy::new(1)),
            event_id: None,
            event_type: EventTypeName::parse("a.b").unwrap(),
            channels: None,
            payload: None,
            tags: None,
            deliver_at: None,
            expires_at: None,
            created_at: NOW,
        })
    }

    /// A delivery that the lane holds.
    fn held(state: &mut State, budgets: &Budgets) -> Held {
        let key = DeliveryKey { due_at: NOW, message: MessageKey(1) };
        let delivery = Held { key, made: 0, trigger: Trigger::Scheduled, message: message() };
        assert!(state.hold(delivery.clone(), budgets));
        delivery
    }

    /// What the store has: deliveries that are due, by number.
    struct Stored(Vec<i64>);

    impl Stored {
        /// Lets the lane load a slice; where it began, and what was held after it.
        fn load(&self, state: &mut State, budgets: &Budgets, dispatched: i64) -> (Option<i64>, Vec<i64>) {
            let Step::Load(load) = state.begin_load(NOW, budgets) else { panic!("it loads") };
            let load = Load { limit: 3, ..load };
            let (held, after) = (state.held_keys(&load), load.after);
            let due = |number: &i64| Due {
                key: DeliveryKey { due_at: NOW, message: MessageKey(*number) },
                made: 0,
                trigger: Trigger::Scheduled,
                fresh: true,
                message: Some(message()),
            };
            let all = self.0.iter().map(due);
            let found = all.filter(|due| Some(due.key) > after && !held.contains(&due.key)).take(3).collect();
            assert_eq!(state.loaded(found, load, MessageKey(dispatched), budgets).len(), 0);
            let mut numbers: Vec<i64> = state.held.iter().map(|key| key.message.0).collect();
            numbers.sort_unstable();
            (after.map(|after| after.message.0), numbers)
        }
    }

    #[test]
    fn a_load_goes_on_where_the_last_one_ended_and_begins_anew_at_the_end() {
        let (budgets, lane) = (budgets(), Lane::new(EndpointKey(1), 4));
        let (mut state, mut stored) = (lane.state.lock(), Stored((1..=8).collect()));
        assert_eq!(stored.load(&mut state, &budgets, 100), (None, vec![1, 2, 3]));
        assert_eq!(stored.load(&mut state, &budgets, 100), (Some(3), (1..=6).collect()));
        // One that was stored late, before the place.
        stored.0.insert(0, 0);
        assert_eq!(stored.load(&mut state, &budgets, 100), (Some(6), (1..=8).collect()));
        assert!(state.more, "what was stored before the place meanwhile is looked for");
        assert_eq!(stored.load(&mut state, &budgets, 100), (None, (0..=8).collect()));
        assert!(!state.more);
    }

    #[test]
    fn what_is_still_to_be_offered_is_not_left_behind() {
        let (budgets, lane) = (budgets(), Lane::new(EndpointKey(1), 4));
        let (mut state, stored) = (lane.state.lock(), Stored(vec![1, 5, 2, 3, 4]));
        assert_eq!(stored.load(&mut state, &budgets, 4), (None, vec![1, 2]));
        // It is offered while there is no room for it.
        state.more = true;
        state.offer(&message(), MessageKey(5), &budgets);
        assert_eq!(stored.load(&mut state, &budgets, 5), (Some(1), vec![1, 2, 3, 4, 5]));
    }

    #[test]
    fn a_backlog_without_an_end_does_not_hide_what_came_late() {
        let (budgets, lane) = (budgets(), Lane::new(EndpointKey(1), 4));
        let (mut state, mut stored) = (lane.state.lock(), Stored((1..=1_000).collect()));
        stored.load(&mut state, &budgets, 2_000);
        stored.0.insert(0, 0);
        let mut loads = 1;
        while stored.load(&mut state, &budgets, 2_000).0.is_some() {
            loads += 1;
        }
        assert_eq!(loads, LOADS_IN_A_ROW + 1);
        assert!(state.held.iter().any(|key| key.message == MessageKey(0)));
    }

    #[test]
    fn what_is_dropped_from_memory_is_loaded_again() {
        let (budgets, lane) = (budgets(), Lane::new(EndpointKey(1), 4));
        let (mut state, stored) = (lane.state.lock(), Stored((1..=8).collect()));
        stored.load(&mut state, &budgets, 100);
        state.drop_window(&budgets);
        assert_eq!(stored.load(&mut state, &budgets, 100), (None, vec![1, 2, 3]));
    }

    #[test]
    fn a_lane_without_room_goes_on_before_what_it_could_not_take() {
        let lane = Lane::new(EndpointKey(1), 4);
        let room_for_two = Budgets { memory: Budget::new(2 * OVERHEAD_BYTES, 1), requests: Budget::new(1_000, 8) };
        let (mut state, stored) = (lane.state.lock(), Stored((1..=8).collect()));
        let (_, held) = stored.load(&mut state, &room_for_two, 100);
        assert!(state.more && held.len() < 3, "{held:?}");
        let (after, more) = stored.load(&mut state, &budgets(), 100);
        assert_eq!(after, held.last().copied());
        assert_eq!(more.len(), held.len() + 3);
    }

    #[test]
    fn a_retry_that_became_due_before_it_was_stored_is_looked_for() {
        let budgets = budgets();
        for (due_after_ms, looked_for) in [(1, true), (10, true), (11, false)] {
            let lane = Lane::new(EndpointKey(1), 4);
            let mut state = lane.state.lock();
            let delivery = held(&mut state, &budgets);
            // While its result was being stored, the lane loaded, without finding it.
            state.loaded_until = NOW.saturating_add(Duration::from_millis(10));
            let next_at = NOW.saturating_add(Duration::from_millis(due_after_ms));
            state.settled(&delivery, Some(next_at), &budgets);
            assert_eq!((state.more, state.unparked), (looked_for, looked_for), "{due_after_ms} ms");
        }
    }
}
