//! A lane: the deliveries of one endpoint that are in memory, and the rules by which they leave.
//!
//! The store is the authority on what is pending. A lane holds a bounded window of it; `held` names every delivery that
//! this process has taken charge of and not yet settled, so that none is sent twice. Everything here can be lost at any
//! instant and is loaded again.
//!
//! This file is the lane's state and its decisions, without I/O: [`State::next_step`] says what to do next, and
//! `engine.rs` does it and reports back. The order in which a delivery is judged: disabled, held back by the receiver,
//! concurrency, rate limits.
//!
//! An open lane holds a permit, of which there are few. So one that can only wait for longer than a moment notes that in
//! the store and closes; and while others wait for a lane, one that has had its turn closes, and waits with them.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::{Hold, HoldReason};
use postrider_domain::message::Message;
use postrider_domain::time::Timestamp;
use postrider_store::{ApplicationKey, DeliveryKey, Due, EndpointKey, MessageKey, Target};

use crate::budget::{Memory, Permits, SMALL_BYTES};
use crate::limits::MAX_HELD;
use crate::pace::Pace;
use crate::rate::{Limited, Limits, RateBook};
use crate::sender::Prepared;
use crate::turns::Turns;

/// A window is this many times what may be under way, within these bounds.
const WINDOW_FACTOR: u32 = 8;
const MIN_WINDOW: u32 = 8;
const MAX_WINDOW: u32 = 256;

/// Loads that may go on where the last one ended, before one looks from the beginning again.
const LOADS_IN_A_ROW: u32 = 32;

/// What a delivery costs in memory beside its payload, roughly.
const OVERHEAD_BYTES: u64 = 512;

/// The most erased messages that a lane remembers while it loads; beyond that it loads again.
const MAX_ERASED_MEANWHILE: usize = 4_096;

/// A wait that is not worth closing the lane for, unless others wait for one.
const MOMENT: Duration = Duration::from_secs(1);

/// How long a lane goes on while others wait for one, from when it knew what there was to send.
const TURN: Duration = Duration::from_secs(1);

/// The wait before memory that was refused is asked for again: the first one, and the longest.
const FIRST_HUNGER: Duration = Duration::from_millis(50);
const LAST_HUNGER: Duration = Duration::from_secs(1);

/// How long an endpoint is left alone after something of ours failed in an unexpected way when it was its turn.
pub(crate) const TROUBLE_PAUSE: Duration = Duration::from_secs(30);

/// Messages, by number.
pub(crate) type Messages = HashSet<MessageKey, foldhash::fast::RandomState>;

/// An endpoint, ready to be sent to.
pub(crate) struct Ready {
    pub(crate) target: Arc<Target>,
    pub(crate) prepared: Arc<Prepared>,
    pub(crate) url: Arc<str>,
}

impl Ready {
    /// Whether requests would go to the same place, with the same credentials.
    fn is_same_receiver(&self, other: &Self) -> bool {
        let (a, b) = (self.target.as_ref(), other.target.as_ref());
        a.endpoint.url == b.endpoint.url
            && a.endpoint.disabled == b.endpoint.disabled
            && a.headers == b.headers
            && a.keys == b.keys
    }
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
    /// Note in the store that the endpoint is held back.
    Hold(Hold),
    /// Forget the lane. Its endpoint waits for another if it has had its turn only.
    Close { waits: bool },
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
    pub(crate) memory: Memory,
    pub(crate) permits: Permits,
    pub(crate) rates: RateBook,
    /// Those who wait for a lane.
    pub(crate) turns: Turns,
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
    /// Of small messages, and of others.
    held_bytes: [u64; 2],
    /// Memory was refused, and nothing more is loaded before this instant.
    hungry: Option<Timestamp>,
    hunger: Duration,
    /// Whose permits it has; `None` until that is known.
    application: Option<ApplicationKey>,
    turn: Turn,
    /// Its application had more than its share when that became known: others are to have their turn at once.
    in_excess: bool,
    workers: u32,
    pub(crate) pace: Pace,
    /// Until when the store knows that the endpoint is held back.
    noted_hold: Option<Timestamp>,
    /// What holds the endpoint back was noted before there was this lane: only the store knows whether that stands.
    doubts_hold: bool,
    limits: Limits,
    /// The newest message that was offered: no older one is still to come.
    offered: MessageKey,
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
    meanwhile: Meanwhile,
    /// The store failed: nothing is asked of it before this instant.
    retry_store_at: Option<Timestamp>,
    timer: Option<Timestamp>,
    closed: bool,
}

/// What happened while a load was under way, which may have seen the store as it was before.
#[derive(Default)]
struct Meanwhile {
    /// Keys that stopped being held.
    settled: Vec<DeliveryKey>,
    /// Messages whose payloads were erased.
    erased: HashSet<MessageKey>,
    /// Messages that a hand has delivered: what the schedule had for them is over.
    delivered: HashSet<MessageKey>,
    /// There was more than is remembered: what was loaded is not to be used.
    too_much: bool,
}

/// How far a lane is in its turn. It begins when the lane has something to send, or was told that the store has nothing or
/// fails: a store that is slow to answer must not cost the lane its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Preparing,
    Prepared,
    Since(Timestamp),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Busy {
    Target,
    Load,
    Cancel,
    Park,
    Hold(Timestamp),
}

impl Meanwhile {
    /// Whether a delivery that was loaded is none any more.
    fn has_ended(&self, due: &Due) -> bool {
        let by_hand = due.trigger == Trigger::Scheduled && self.delivered.contains(&due.key.message);
        by_hand || self.settled.contains(&due.key)
    }
}

impl Lane {
    /// A lane that has one permit of `application`. `doubts_hold`: the store may have noted that its endpoint is held back.
    pub(crate) fn new(key: EndpointKey, application: Option<ApplicationKey>, pace: Pace, doubts_hold: bool) -> Self {
        let state = State {
            ready: None,
            stale: false,
            window: VecDeque::new(),
            held: HashSet::default(),
            held_bytes: [0; 2],
            hungry: None,
            hunger: FIRST_HUNGER,
            application,
            turn: Turn::Preparing,
            in_excess: false,
            workers: 0,
            pace,
            noted_hold: None,
            doubts_hold,
            limits: [None; 2],
            offered: MessageKey(i64::MIN),
            more: false,
            place: None,
            loads_in_a_row: 0,
            unparked: false,
            loaded_until: Timestamp::EPOCH,
            busy: None,
            meanwhile: Meanwhile::default(),
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

    /// Whose permits the lane has.
    pub(crate) fn application(&self) -> Option<ApplicationKey> {
        self.application
    }

    /// Until when the store knows that the endpoint is held back.
    pub(crate) fn noted_hold(&self) -> Option<Timestamp> {
        self.noted_hold
    }

    /// Whether the endpoint has to be read before anything is sent.
    pub(crate) fn needs_target(&self) -> bool {
        self.ready.is_none()
    }

    /// Whether only the store knows if the endpoint is held back.
    pub(crate) fn doubts_hold(&self) -> bool {
        self.doubts_hold || self.noted_hold.is_some()
    }

    /// What the store has noted. If that is nothing, it was lifted, because the endpoint is another one now.
    pub(crate) fn hold_read(&mut self, hold: Option<Hold>) {
        self.doubts_hold = false;
        match hold {
            Some(hold) => self.pace.hold_back(hold),
            None => {
                self.noted_hold = None;
                self.pace.forget();
            }
        }
    }

    /// Takes the endpoint as it is now. What was learned of another receiver does not count for this one.
    pub(crate) fn set_ready(&mut self, ready: Arc<Ready>, budgets: &Budgets) {
        if self.ready.as_ref().is_some_and(|former| !former.is_same_receiver(&ready)) {
            self.pace.forget();
        }
        let Target { key, application, application_rate, endpoint, .. } = ready.target.as_ref();
        self.limits = [
            endpoint.throttle_rate.map(|rate| (Limited::Endpoint(*key), rate)),
            application_rate.map(|rate| (Limited::Application(*application), rate)),
        ];
        if self.application.is_none() {
            self.in_excess = !budgets.permits.adopt(*application);
            self.application = Some(*application);
        }
        self.ready = Some(ready);
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

    /// Offers a delivery straight from its accept commit. It is taken if there is room (true), else found in the store
    /// later.
    pub(crate) fn offer(&mut self, message: &Arc<Message>, key: MessageKey, budgets: &Budgets) -> bool {
        self.offered = self.offered.max(key);
        let key = DeliveryKey { due_at: message.created_at, message: key };
        // What waits in the store is older: taking this one first would let it overtake for ever.
        let room = !self.more && self.hungry.is_none() && self.window.len() < self.window_size();
        let delivery = Held { key, made: 0, trigger: Trigger::Scheduled, message: Arc::clone(message) };
        let taken = self.held.contains(&key) || (room && self.hold(delivery, budgets));
        if !taken {
            self.wake();
        }
        taken
    }

    fn hold(&mut self, delivery: Held, budgets: &Budgets) -> bool {
        let bytes = delivery.bytes();
        let share = &mut self.held_bytes[usize::from(bytes > SMALL_BYTES)];
        if !budgets.memory.of(bytes).try_take(*share, bytes) {
            self.hungry.get_or_insert(Timestamp::MAX);
            return false;
        }
        *share += bytes;
        (self.hungry, self.hunger) = (None, FIRST_HUNGER);
        self.held.insert(delivery.key);
        self.window.push_back(delivery);
        self.prepared();
        true
    }

    /// The next delivery to send, for a worker that is counted; `None` tells it to leave.
    pub(crate) fn take(&mut self, now: Timestamp, budgets: &Budgets) -> Option<(Held, Arc<Ready>)> {
        self.begin_turn(now);
        let unsure = self.stale || self.busy == Some(Busy::Target) || self.disabled();
        if unsure || self.workers > self.pace.limit() || self.has_had_its_turn(now, budgets) {
            return None;
        }
        self.pop(now, budgets).ok()?
    }

    /// A delivery could not be tried because of this machine: it is the next one again, after a pause. It waits for that
    /// in the store, where its payload may be erased meanwhile.
    pub(crate) fn put_back(&mut self, delivery: Held, now: Timestamp, budgets: &Budgets) {
        self.window.push_front(delivery);
        self.empty_window(budgets);
        self.pace.not_made(now);
    }

    /// The next delivery; `Err` says until when none may go.
    fn pop(&mut self, now: Timestamp, budgets: &Budgets) -> Result<Option<(Held, Arc<Ready>)>, Hold> {
        if let Some(hold) = self.pace.hold(now) {
            return Err(hold);
        }
        let Some(ready) = self.ready.as_ref().filter(|_| !self.window.is_empty()) else { return Ok(None) };
        budgets.rates.try_take(&self.limits, now).map_err(|until| Hold { until, reason: HoldReason::RateLimit })?;
        let ready = Arc::clone(ready);
        Ok(self.window.pop_front().map(|delivery| (delivery, ready)))
    }

    /// Whether others are to have a lane now.
    fn has_had_its_turn(&self, now: Timestamp, budgets: &Budgets) -> bool {
        let is_over = self.in_excess || matches!(self.turn, Turn::Since(began) if now.since(began) >= TURN);
        is_over && self.is_wanted(budgets)
    }

    /// Whether others wait for what this lane has. Where its application has less than its share they don't: they wait for
    /// lanes of their own.
    fn is_wanted(&self, budgets: &Budgets) -> bool {
        budgets.turns.any() && budgets.permits.is_short(self.application)
    }

    /// The lane knows what there is to do.
    fn prepared(&mut self) {
        if self.turn == Turn::Preparing {
            self.turn = Turn::Prepared;
        }
    }

    fn begin_turn(&mut self, now: Timestamp) {
        if self.turn == Turn::Prepared {
            self.turn = Turn::Since(now);
        }
    }

    /// A worker left. The lane keeps the permit of the last one.
    pub(crate) fn worker_left(&mut self, budgets: &Budgets) {
        self.workers -= 1;
        if self.workers > 0 {
            budgets.permits.give_back(self.application);
        }
    }

    /// Something of ours failed in an unexpected way; if it was while a delivery was made, that is in the store still.
    pub(crate) fn failed_unexpectedly(&mut self, delivery: Option<&Held>, now: Timestamp, budgets: &Budgets) {
        let until = now.saturating_add(TROUBLE_PAUSE);
        self.pace.hold_back(Hold { until, reason: HoldReason::Trouble });
        if let Some(delivery) = delivery {
            self.settled(delivery, None, 0, budgets);
            self.wake();
        } else {
            self.store_failed(until);
        }
    }

    /// A delivery's result is in the store. If it is to be tried again, that is due at `next_at`. Its answer took
    /// `answer_bytes` of memory.
    pub(crate) fn settled(
        &mut self,
        delivery: &Held,
        next_at: Option<Timestamp>,
        answer_bytes: u64,
        budgets: &Budgets,
    ) {
        budgets.memory.of(answer_bytes).give_back(answer_bytes);
        // A retry that became due before it was stored is missed by a load before the commit, and by parking after it.
        if next_at.is_some_and(|at| at <= self.loaded_until) {
            self.wake();
        }
        if self.held.remove(&delivery.key) {
            let bytes = delivery.bytes();
            self.held_bytes[usize::from(bytes > SMALL_BYTES)] -= bytes;
            budgets.memory.of(bytes).give_back(bytes);
            if self.busy == Some(Busy::Load) {
                self.meanwhile.settled.push(delivery.key);
            }
        }
    }

    /// A hand has delivered a message, and with the result the store has ended what the schedule had for it.
    pub(crate) fn series_ended(&mut self, message: MessageKey, budgets: &Budgets) {
        if self.busy == Some(Busy::Load) {
            self.meanwhile.delivered.insert(message);
        }
        let is_over = |delivery: &Held| delivery.key.message == message && delivery.trigger == Trigger::Scheduled;
        if let Some(place) = self.window.iter().position(is_over)
            && let Some(delivery) = self.window.remove(place)
        {
            self.settled(&delivery, None, 0, budgets);
            // If the store has not ended it after all, it is found again.
            self.wake();
        }
    }

    /// Takes what waits of these messages out of the window; it stays held until its end is stored. What is being loaded of
    /// them is taken for what has no payload.
    pub(crate) fn withdraw(&mut self, messages: &Messages) -> Vec<Held> {
        if self.busy == Some(Busy::Load) {
            self.meanwhile.too_much |= self.meanwhile.erased.len() + messages.len() > MAX_ERASED_MEANWHILE;
            if !self.meanwhile.too_much {
                self.meanwhile.erased.extend(messages);
            }
        }
        if !self.window.iter().any(|delivery| messages.contains(&delivery.key.message)) {
            return Vec::new();
        }
        let (withdrawn, left) = self.window.drain(..).partition(|delivery| messages.contains(&delivery.key.message));
        self.window = left;
        withdrawn.into()
    }

    /// Drops what waits in memory; the store has it, and it is to be loaded again.
    fn empty_window(&mut self, budgets: &Budgets) {
        if !self.window.is_empty() {
            self.wake();
        }
        self.drop_window(budgets);
    }

    fn drop_window(&mut self, budgets: &Budgets) {
        self.place = None;
        for delivery in std::mem::take(&mut self.window) {
            self.settled(&delivery, None, 0, budgets);
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

    /// Takes what a load found. `dispatched` is the newest message that was handed over from its accept commit: one that is
    /// newer, and newer than what was offered here, is still on its way through memory, and will be offered. Deliveries without a payload are returned: there is
    /// nothing to send, they can only be canceled.
    pub(crate) fn loaded(
        &mut self,
        found: Vec<Due>,
        load: Load,
        dispatched: MessageKey,
        budgets: &Budgets,
    ) -> Vec<Due> {
        self.busy = None;
        self.prepared();
        let meanwhile = std::mem::take(&mut self.meanwhile);
        if meanwhile.too_much {
            self.more = true;
            return Vec::new();
        }
        let mut empty = Vec::new();
        let seen = dispatched.max(self.offered);
        let ended = load.was_the_last(&found);
        self.more |= !ended || load.after.is_some();
        let (mut place, mut passed_over) = (load.after, false);
        for mut due in found {
            let key = due.key;
            if meanwhile.erased.contains(&key.message) {
                due.message = None;
            }
            if due.fresh && key.message > seen {
                // If there is no room for it when it is offered, it is looked for again.
                passed_over = true;
                continue;
            }
            let has_ended = meanwhile.has_ended(&due);
            self.more |= has_ended && due.trigger == Trigger::Scheduled && !meanwhile.settled.contains(&key);
            let is_over = self.held.contains(&key) || has_ended;
            if !is_over && !self.take_over(due, &mut empty, budgets) {
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
        self.prepared();
        if rest {
            self.wake();
        }
    }

    /// The store noted when the endpoint is next due.
    pub(crate) fn park_done(&mut self) {
        self.busy = None;
    }

    /// The store noted that the endpoint is held back.
    pub(crate) fn hold_done(&mut self) {
        if let Some(Busy::Hold(until)) = self.busy.take() {
            self.noted_hold = Some(until);
        }
    }

    /// The store failed at what it was asked last.
    pub(crate) fn store_failed(&mut self, retry_at: Timestamp) {
        self.stale |= self.busy == Some(Busy::Target);
        self.busy = None;
        self.meanwhile = Meanwhile::default();
        self.retry_store_at = Some(retry_at);
        self.prepared();
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
        self.begin_turn(now);
        let store_asleep = self.retry_store_at.filter(|at| *at > now);
        let idle_store = self.busy.is_none() && store_asleep.is_none();
        if self.has_had_its_turn(now, budgets) && self.pace.hold(now).is_none() {
            return self.end_turn(budgets);
        }
        if self.stale || self.ready.is_none() || self.busy == Some(Busy::Target) {
            if !idle_store {
                return self.wait(store_asleep);
            }
            // What changes while it is read makes it stale again.
            self.stale = false;
            return self.begin(Busy::Target, Step::Target);
        }
        if self.disabled() {
            return self.wind_down(idle_store, store_asleep, budgets);
        }
        if let Some(hold) = self.pace.hold(now) {
            return self.held_back(hold, now, idle_store, store_asleep, budgets);
        }
        if self.may_start(budgets) {
            match self.pop(now, budgets) {
                Ok(Some((delivery, ready))) => {
                    self.workers += 1;
                    return Step::Work(delivery, ready);
                }
                Ok(None) => self.return_permit(budgets),
                Err(hold) => {
                    self.return_permit(budgets);
                    return self.held_back(hold, now, idle_store, store_asleep, budgets);
                }
            }
        }
        if self.more && idle_store && self.room() * 2 >= self.window_size() && self.held.len() < MAX_HELD {
            return match self.hungry_until(now) {
                None => self.begin_load(now, budgets),
                until => self.wait(until),
            };
        }
        self.rest(idle_store, store_asleep)
    }

    /// Until when nothing is loaded because memory was refused.
    fn hungry_until(&mut self, now: Timestamp) -> Option<Timestamp> {
        let until = self.hungry?;
        if until == Timestamp::MAX {
            let until = now.saturating_add(self.hunger);
            self.hunger = (self.hunger * 2).min(LAST_HUNGER);
            self.hungry = Some(until);
            return self.hungry;
        }
        self.hungry = self.hungry.filter(|until| *until > now);
        self.hungry
    }

    /// Others wait for a lane: what waits here waits in the store again, and what is under way is waited for.
    fn end_turn(&mut self, budgets: &Budgets) -> Step {
        self.empty_window(budgets);
        if self.workers > 0 || !self.held.is_empty() || self.busy.is_some() {
            return Step::Idle;
        }
        self.closed = true;
        Step::Close { waits: true }
    }

    /// Nothing may be sent before an instant. A lane waits for that as long as it is near and nobody else wants the lane, or
    /// there is still something under way. Otherwise the store notes it, and the lane closes.
    fn held_back(
        &mut self,
        hold: Hold,
        now: Timestamp,
        idle_store: bool,
        store_asleep: Option<Timestamp>,
        budgets: &Budgets,
    ) -> Step {
        let brief = hold.until.since(now) <= MOMENT && !self.is_wanted(budgets);
        let pending = self.more || !self.window.is_empty() || self.unparked;
        if brief && pending {
            return self.wait(Some(hold.until));
        }
        self.empty_window(budgets);
        if self.workers > 0 || !self.held.is_empty() {
            return Step::Idle;
        }
        if !idle_store {
            return self.wait(store_asleep);
        }
        // Nothing comes earlier than the hold's end, whatever was added meanwhile.
        (self.more, self.unparked) = (false, false);
        if brief || self.noted_hold == Some(hold.until) {
            self.closed = true;
            return Step::Close { waits: false };
        }
        self.begin(Busy::Hold(hold.until), Step::Hold(hold))
    }

    fn begin_load(&mut self, now: Timestamp, budgets: &Budgets) -> Step {
        self.more = false;
        self.loaded_until = now;
        let after = self.place.filter(|_| self.loads_in_a_row < LOADS_IN_A_ROW);
        self.loads_in_a_row = if after.is_some() { self.loads_in_a_row + 1 } else { 0 };
        let max_bytes = usize::try_from(budgets.memory.free() / 2).unwrap_or(usize::MAX).max(1);
        self.begin(Busy::Load, Step::Load(Load { now, after, limit: self.room(), max_bytes }))
    }

    fn disabled(&self) -> bool {
        self.ready.as_ref().is_some_and(|ready| ready.target.endpoint.disabled)
    }

    /// Whether one more request may be made; then there is a permit for it.
    fn may_start(&self, budgets: &Budgets) -> bool {
        !self.window.is_empty()
            && self.workers < self.pace.limit()
            && (self.workers == 0 || budgets.permits.more(self.application, self.workers))
    }

    /// The permit for one more request is not needed. The first one is the lane's own.
    fn return_permit(&self, budgets: &Budgets) {
        if self.workers > 0 {
            budgets.permits.give_back(self.application);
        }
    }

    /// An endpoint that wants nothing: what waits is dropped here and removed in the store.
    fn wind_down(&mut self, idle_store: bool, store_asleep: Option<Timestamp>, budgets: &Budgets) -> Step {
        self.drop_window(budgets);
        if self.more && idle_store {
            self.more = false;
            return self.begin(Busy::Cancel, Step::Cancel);
        }
        self.rest(idle_store, store_asleep)
    }

    /// Nothing more to start: park, close, or wait for what is under way.
    fn rest(&mut self, idle_store: bool, store_asleep: Option<Timestamp>) -> Step {
        if !idle_store {
            return self.wait(store_asleep);
        }
        if self.more {
            return Step::Idle;
        }
        if self.unparked {
            // Before it is asked for: a wake that comes meanwhile must not be forgotten with the answer.
            self.unparked = false;
            self.noted_hold = None;
            return self.begin(Busy::Park, Step::Park(self.loaded_until));
        }
        if !self.held.is_empty() || self.workers > 0 {
            return Step::Idle;
        }
        self.closed = true;
        Step::Close { waits: false }
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
        with_memory(4_000_000)
    }

    fn with_memory(bytes: u64) -> Budgets {
        let (rates, turns) = (RateBook::default(), Turns::default());
        Budgets { memory: Memory::new(bytes), permits: Permits::new(1_000), rates, turns }
    }

    fn with_permits(total: u32) -> Budgets {
        Budgets { permits: Permits::new(total), ..budgets() }
    }

    fn new_lane() -> Lane {
        Lane::new(EndpointKey(1), Some(ApplicationKey(1)), Pace::new(4), false)
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
        let (budgets, lane) = (budgets(), new_lane());
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
        let (budgets, lane) = (budgets(), new_lane());
        let (mut state, stored) = (lane.state.lock(), Stored(vec![1, 5, 2, 3, 4]));
        assert_eq!(stored.load(&mut state, &budgets, 4), (None, vec![1, 2]));
        // It is offered while there is no room for it.
        state.more = true;
        state.offer(&message(), MessageKey(5), &budgets);
        assert_eq!(stored.load(&mut state, &budgets, 5), (Some(1), vec![1, 2, 3, 4, 5]));
    }

    #[test]
    fn a_backlog_without_an_end_does_not_hide_what_came_late() {
        let (budgets, lane) = (budgets(), new_lane());
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
        let (budgets, lane) = (budgets(), new_lane());
        let (mut state, stored) = (lane.state.lock(), Stored((1..=8).collect()));
        stored.load(&mut state, &budgets, 100);
        state.drop_window(&budgets);
        assert_eq!(stored.load(&mut state, &budgets, 100), (None, vec![1, 2, 3]));
    }

    #[test]
    fn a_lane_without_room_goes_on_before_what_it_could_not_take() {
        let lane = new_lane();
        let room_for_two = with_memory(4 * 3 * OVERHEAD_BYTES);
        let (mut state, stored) = (lane.state.lock(), Stored((1..=8).collect()));
        let (_, held) = stored.load(&mut state, &room_for_two, 100);
        assert!(state.more && held.len() < 3, "{held:?}");
        let (after, more) = stored.load(&mut state, &budgets(), 100);
        assert_eq!(after, held.last().copied());
        assert_eq!(more.len(), held.len() + 3);
    }

    /// A load under way, and what it finds: a delivery by the schedule of message 1.
    fn loading(state: &mut State, budgets: &Budgets) -> (Load, Due) {
        let Step::Load(load) = state.begin_load(NOW, budgets) else { panic!("it loads") };
        let key = DeliveryKey { due_at: NOW, message: MessageKey(1) };
        (load, Due { key, made: 1, trigger: Trigger::Scheduled, fresh: false, message: Some(message()) })
    }

    #[test]
    fn what_is_erased_while_it_is_loaded_is_not_sent() {
        for messages in [vec![MessageKey(1)], (1..=5_000).map(MessageKey).collect()] {
            let (budgets, lane) = (budgets(), new_lane());
            let mut state = lane.state.lock();
            let (load, due) = loading(&mut state, &budgets);
            assert!(state.withdraw(&messages.iter().copied().collect()).is_empty());
            let empty = state.loaded(vec![due], load, MessageKey(9), &budgets);
            assert!(state.window.is_empty());
            assert!(empty.len() == 1 || state.more, "it is canceled, or loaded again");
        }
    }

    #[test]
    fn what_a_hand_has_delivered_is_not_sent_by_the_schedule() {
        let (budgets, lane) = (budgets(), new_lane());
        let mut state = lane.state.lock();
        // It waits in the window.
        let waiting = held(&mut state, &budgets);
        state.series_ended(MessageKey(1), &budgets);
        assert!(state.window.is_empty() && !state.held.contains(&waiting.key));
        assert_eq!(budgets.memory.free(), 4_000_000);
        // It is being loaded.
        let (load, due) = loading(&mut state, &budgets);
        let manual = Due { key: DeliveryKey { due_at: after(1), ..due.key }, trigger: Trigger::Manual, ..due.clone() };
        state.series_ended(MessageKey(1), &budgets);
        state.loaded(vec![due, manual], load, MessageKey(9), &budgets);
        let triggers: Vec<Trigger> = state.window.iter().map(|delivery| delivery.trigger).collect();
        assert_eq!(triggers, [Trigger::Manual], "another one that a hand asked for is sent");
    }

    #[test]
    fn a_retry_that_became_due_before_it_was_stored_is_looked_for() {
        let budgets = budgets();
        for (due_after_ms, looked_for) in [(1, true), (10, true), (11, false)] {
            let lane = new_lane();
            let mut state = lane.state.lock();
            let delivery = held(&mut state, &budgets);
            // While its result was being stored, the lane loaded, without finding it.
            state.loaded_until = NOW.saturating_add(Duration::from_millis(10));
            let next_at = NOW.saturating_add(Duration::from_millis(due_after_ms));
            state.settled(&delivery, Some(next_at), 0, &budgets);
            assert_eq!((state.more, state.unparked), (looked_for, looked_for), "{due_after_ms} ms");
        }
    }

    fn after(millis: u64) -> Timestamp {
        NOW.saturating_add(Duration::from_millis(millis))
    }

    fn ready(application_rate: Option<u16>) -> Arc<Ready> {
        let url = postrider_domain::endpoint::EndpointUrl::parse("http://127.0.0.1/").unwrap();
        let endpoint = postrider_domain::endpoint::Endpoint {
            id: postrider_domain::ids::EndpointId::new(NOW, &SeededEntropy::new(1)),
            uid: None,
            url,
            description: String::new(),
            version: 1,
            disabled: false,
            disablement: None,
            event_types: None,
            channels: None,
            throttle_rate: None,
            metadata: std::collections::BTreeMap::new(),
            created_at: NOW,
            updated_at: NOW,
        };
        let secret = postrider_domain::signature::Secret::generate(
            postrider_domain::signature::SecretKind::Hmac256,
            &SeededEntropy::new(1),
        );
        let target = Target {
            key: EndpointKey(1),
            application: ApplicationKey(1),
            endpoint,
            headers: postrider_domain::endpoint::Headers::default(),
            keys: postrider_domain::signature::SigningKeys::new(secret),
            application_rate,
        };
        Arc::new(Ready {
            prepared: crate::sender::Sender::unprepared(ApplicationKey(1)),
            url: target.endpoint.url.as_str().into(),
            target: Arc::new(target),
        })
    }

    /// A lane of a known endpoint, with a permit.
    fn open_lane(budgets: &Budgets, application_rate: Option<u16>) -> Lane {
        assert!(budgets.permits.open(Some(ApplicationKey(1))));
        let lane = new_lane();
        lane.state.lock().set_ready(ready(application_rate), budgets);
        lane
    }

    fn hold(millis: u64) -> Hold {
        Hold { until: after(millis), reason: HoldReason::Asked }
    }

    #[test]
    fn a_delivery_that_was_refused_while_its_batch_is_on_its_way_is_found() {
        let (budgets, lane) = (budgets(), open_lane(&budgets(), None));
        let (mut state, stored) = (lane.state.lock(), Stored(vec![5]));
        state.more = true;
        assert!(!state.offer(&message(), MessageKey(5), &budgets));
        // The batch is not through yet: the newest message that was dispatched is an older one.
        assert_eq!(stored.load(&mut state, &budgets, 4), (None, vec![5]));
    }

    #[test]
    fn an_endpoint_that_is_held_back_gives_its_lane_back_and_loses_nothing() {
        let budgets = budgets();
        let lane = open_lane(&budgets, None);
        let mut state = lane.state.lock();
        assert!(state.offer(&message(), MessageKey(1), &budgets));
        state.pace.hold_back(hold(3_600_000));
        let Step::Hold(noted) = state.next_step(NOW, &budgets) else { panic!("it is noted") };
        assert_eq!(noted, hold(3_600_000));
        assert_eq!(budgets.memory.free(), 4_000_000, "what waited is in the store only");
        // What comes meanwhile is found at the end of the hold.
        state.wake();
        state.hold_done();
        assert!(matches!(state.next_step(NOW, &budgets), Step::Close { waits: false }));
        assert_eq!(state.noted_hold(), Some(hold(3_600_000).until));
    }

    #[test]
    fn a_hold_that_the_store_has_lifted_is_over_and_one_that_stands_is_noted_again() {
        for lifted in [true, false] {
            let budgets = budgets();
            assert!(budgets.permits.open(Some(ApplicationKey(1))));
            let mut pace = Pace::new(4);
            pace.hold_back(hold(3_600_000));
            let lane = Lane::new(EndpointKey(1), Some(ApplicationKey(1)), pace, true);
            let mut state = lane.state.lock();
            state.wake();
            assert!(matches!(state.next_step(NOW, &budgets), Step::Target) && state.doubts_hold());
            state.target_read();
            state.hold_read((!lifted).then(|| hold(3_600_000)));
            state.set_ready(ready(None), &budgets);
            match state.next_step(NOW, &budgets) {
                Step::Load(_) => assert!(lifted),
                Step::Hold(noted) => assert!(!lifted && noted == hold(3_600_000)),
                _ => panic!("it sends, or is held back"),
            }
        }
    }

    #[test]
    fn what_was_learned_of_one_receiver_does_not_hold_another_back() {
        let budgets = budgets();
        let lane = open_lane(&budgets, None);
        let mut state = lane.state.lock();
        assert!(state.offer(&message(), MessageKey(1), &budgets));
        state.pace.hold_back(hold(500));
        state.set_ready(ready(Some(7)), &budgets);
        assert!(state.pace.hold(NOW).is_some(), "a rate says nothing of the receiver");
        let other = ready(None);
        let mut target = other.target.as_ref().clone();
        target.endpoint.url = postrider_domain::endpoint::EndpointUrl::parse("http://127.0.0.2/").unwrap();
        let other = Ready { target: Arc::new(target), prepared: Arc::clone(&other.prepared), url: "".into() };
        state.set_ready(Arc::new(other), &budgets);
        assert!(matches!(state.next_step(NOW, &budgets), Step::Work(..)));
    }

    #[test]
    fn an_endpoint_that_was_disabled_while_it_was_held_back_leaves_nothing_in_the_store() {
        let budgets = budgets();
        let lane = open_lane(&budgets, None);
        let mut state = lane.state.lock();
        let mut target = ready(None).target.as_ref().clone();
        target.endpoint.disabled = true;
        let off = Ready { target: Arc::new(target), prepared: ready(None).prepared.clone(), url: "".into() };
        state.set_ready(Arc::new(off), &budgets);
        state.wake();
        assert!(matches!(state.next_step(NOW, &budgets), Step::Cancel));
        state.cancel_done(false);
        assert!(matches!(state.next_step(NOW, &budgets), Step::Park(_)), "which ends the hold");
        state.park_done();
        assert!(matches!(state.next_step(NOW, &budgets), Step::Close { waits: false }));
    }

    #[test]
    fn a_short_pause_is_waited_for_unless_others_want_the_lane() {
        let budgets = with_permits(1);
        let lane = open_lane(&budgets, None);
        let mut state = lane.state.lock();
        assert!(state.offer(&message(), MessageKey(1), &budgets));
        state.pace.hold_back(hold(500));
        assert!(matches!(state.next_step(NOW, &budgets), Step::WaitUntil(at) if at == after(500)));
        assert!(matches!(state.next_step(NOW, &budgets), Step::Idle));
        assert!(budgets.turns.push(EndpointKey(2), None));
        assert!(matches!(state.next_step(NOW, &budgets), Step::Hold(_)));
    }

    #[test]
    fn a_hold_that_ends_while_requests_are_under_way_leaves_nothing_behind() {
        let budgets = budgets();
        let lane = open_lane(&budgets, None);
        let mut state = lane.state.lock();
        for number in 1..=3 {
            assert!(state.offer(&message(), MessageKey(number), &budgets));
        }
        let Step::Work(under_way, _) = state.next_step(NOW, &budgets) else { panic!("a request") };
        state.pace.hold_back(hold(5_000));
        assert!(matches!(state.next_step(NOW, &budgets), Step::Idle));
        state.worker_left(&budgets);
        state.settled(&under_way, None, 0, &budgets);
        assert!(matches!(state.next_step(after(5_000), &budgets), Step::Load(_)), "what was dropped is loaded again");
    }

    #[test]
    fn a_lane_that_had_its_turn_makes_room_when_its_requests_are_over() {
        let budgets = with_permits(1);
        let lane = open_lane(&budgets, None);
        let mut state = lane.state.lock();
        for number in 1..=8 {
            assert!(state.offer(&message(), MessageKey(number), &budgets));
        }
        let Step::Work(under_way, _) = state.next_step(NOW, &budgets) else { panic!("a request") };
        assert!(budgets.turns.push(EndpointKey(2), None));
        assert!(state.take(after(999), &budgets).is_some(), "its turn is not over");
        assert!(state.take(after(1_000), &budgets).is_none());
        assert!(matches!(state.next_step(after(1_000), &budgets), Step::Idle));
        state.worker_left(&budgets);
        state.settled(&under_way, None, 0, &budgets);
        let other = Held { key: DeliveryKey { message: MessageKey(2), ..under_way.key }, ..under_way };
        state.settled(&other, None, 0, &budgets);
        assert!(matches!(state.next_step(after(1_000), &budgets), Step::Close { waits: true }));
    }

    #[test]
    fn a_lane_whose_application_has_less_than_its_share_goes_on_while_another_one_waits_for_its_own() {
        let budgets = with_permits(100);
        while budgets.permits.open(Some(ApplicationKey(2))) {}
        assert!(budgets.turns.push(EndpointKey(2), Some(ApplicationKey(2))));
        let lane = open_lane(&budgets, None);
        let mut state = lane.state.lock();
        for number in 1..=2 {
            assert!(state.offer(&message(), MessageKey(number), &budgets));
        }
        assert!(matches!(state.next_step(NOW, &budgets), Step::Work(..)));
        assert!(state.take(after(60_000), &budgets).is_some(), "nobody waits for what it has");
    }

    #[test]
    fn a_store_that_is_slow_costs_a_lane_no_turn_and_one_that_fails_does() {
        let budgets = with_permits(1);
        let lane = open_lane(&budgets, None);
        let mut state = lane.state.lock();
        state.wake();
        assert!(budgets.turns.push(EndpointKey(2), None));
        let Step::Load(load) = state.next_step(NOW, &budgets) else { panic!("it loads") };
        let due = Due {
            key: DeliveryKey { due_at: NOW, message: MessageKey(1) },
            made: 0,
            trigger: Trigger::Scheduled,
            fresh: false,
            message: Some(message()),
        };
        assert!(state.loaded(vec![due], load, MessageKey(1), &budgets).is_empty());
        assert!(matches!(state.next_step(after(5_000), &budgets), Step::Work(..)), "its turn begins now");

        let budgets = with_permits(1);
        let lane = open_lane(&budgets, None);
        let mut state = lane.state.lock();
        state.wake();
        assert!(matches!(state.next_step(NOW, &budgets), Step::Load(_)));
        assert!(budgets.turns.push(EndpointKey(2), None));
        state.store_failed(after(500));
        assert!(matches!(state.next_step(NOW, &budgets), Step::WaitUntil(_)));
        assert!(matches!(state.next_step(after(1_000), &budgets), Step::Close { waits: true }));
    }

    #[test]
    fn what_was_put_back_waits_in_the_store_where_it_may_be_erased() {
        let budgets = budgets();
        let lane = open_lane(&budgets, None);
        let mut state = lane.state.lock();
        for number in 1..=2 {
            assert!(state.offer(&message(), MessageKey(number), &budgets));
        }
        let Step::Work(delivery, _) = state.next_step(NOW, &budgets) else { panic!("a request") };
        state.put_back(delivery, NOW, &budgets);
        state.worker_left(&budgets);
        assert!(state.held.is_empty() && budgets.memory.free() == 4_000_000);
        assert!(matches!(state.next_step(NOW, &budgets), Step::WaitUntil(_)));
        let Step::Load(load) = state.next_step(after(250), &budgets) else { panic!("it is loaded again") };
        assert_eq!(load.after, None);
    }

    #[test]
    fn what_has_no_payload_is_not_loaded_without_end_while_the_store_takes_no_results() {
        let budgets = budgets();
        let lane = open_lane(&budgets, None);
        let mut state = lane.state.lock();
        state.wake();
        let (mut number, mut loads) = (0, 0);
        while let Step::Load(load) = state.next_step(NOW, &budgets) {
            let mut due = || {
                number += 1;
                let key = DeliveryKey { due_at: NOW, message: MessageKey(number) };
                Due { key, made: 0, trigger: Trigger::Scheduled, fresh: false, message: None }
            };
            let found: Vec<Due> = (0..load.limit).map(|_| due()).collect();
            assert_eq!(state.loaded(found, load, MessageKey(i64::MAX), &budgets).len(), load.limit);
            loads += 1;
            assert!(loads < 10_000, "it ends");
        }
        let first = DeliveryKey { due_at: NOW, message: MessageKey(1) };
        while state.held.len() >= MAX_HELD {
            let key = *state.held.iter().next().unwrap_or(&first);
            state.canceled(&key);
        }
        assert!(matches!(state.next_step(NOW, &budgets), Step::Load(_)), "it goes on when results are stored");
    }

    #[test]
    fn a_lane_whose_memory_is_refused_asks_seldom() {
        let budgets = with_memory(0);
        let lane = open_lane(&budgets, None);
        let mut state = lane.state.lock();
        state.wake();
        let (mut loads, mut now) = (0, NOW);
        while now < after(10_000) {
            match state.next_step(now, &budgets) {
                Step::Load(load) => {
                    loads += 1;
                    let due = Due {
                        key: DeliveryKey { due_at: NOW, message: MessageKey(1) },
                        made: 0,
                        trigger: Trigger::Scheduled,
                        fresh: false,
                        message: Some(message()),
                    };
                    assert!(state.loaded(vec![due], load, MessageKey(1), &budgets).is_empty());
                }
                Step::WaitUntil(at) => {
                    state.timer_done(at);
                    now = at;
                }
                _ => panic!("it waits for memory"),
            }
        }
        assert!((10..30).contains(&loads), "{loads}");
    }

    #[test]
    fn two_lanes_of_a_throttled_application_never_sleep_and_lose_no_permit() {
        let budgets = budgets();
        let lanes = [open_lane(&budgets, Some(10)), open_lane(&budgets, Some(10))];
        for lane in &lanes {
            for number in 1..=4 {
                assert!(lane.state.lock().offer(&message(), MessageKey(number), &budgets));
            }
        }
        let (mut now, mut sent) = (NOW, 0);
        while sent < 8 {
            let mut next = None;
            for lane in &lanes {
                let mut state = lane.state.lock();
                state.timer = None;
                match state.next_step(now, &budgets) {
                    Step::Work(delivery, _) => {
                        sent += 1;
                        state.worker_left(&budgets);
                        state.settled(&delivery, None, 0, &budgets);
                        next = Some(now);
                    }
                    Step::WaitUntil(at) => next = next.or(Some(at)),
                    Step::Close { .. } | Step::Idle => {}
                    _ => panic!("it sends, or waits for an instant"),
                }
            }
            now = next.expect("a lane with deliveries has an instant to wait for");
        }
        assert_eq!(budgets.permits.free(), 998);
    }
}
