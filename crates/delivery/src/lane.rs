//! A lane: the deliveries of one endpoint that are in memory, and the rules by which they leave.
//!
//! The store is the authority on what is pending. A lane holds a bounded window of it; `held` names every delivery that
//! this process has taken charge of and not yet settled, so that none is sent twice. Everything here can be lost at any
//! instant and is loaded again.
//!
//! This file is the lane's state and its decisions, without I/O: [`State::next_step`] says what to do next, and
//! `lanes.rs` does it and reports back; what is held and loaded is in `window.rs`. The order in which a delivery
//! is judged: disabled, held back by the receiver, concurrency, rate limits.
//!
//! An open lane holds a permit, of which there are few. So one that can only wait for longer than a moment notes that in
//! the store and closes; and while others wait for a lane, one that has had its turn closes, and waits with them.

mod window;

#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::delivery::{Decision, Hold, HoldReason, Outcome};
use postrider_domain::ids::EndpointId;
use postrider_domain::time::Timestamp;
use postrider_store::{DeliveryKey, EndpointKey, Target, TooLarge};

use crate::budget::{Cost, Memory, Permits, Reserved};
use crate::holders::{Owner, Whose};
use crate::limits::MAX_HELD;
use crate::pace::Pace;
use crate::rate::{Limited, Limits, RateBook};
use crate::sender::Prepared;
use crate::turns::Turns;
use window::{FIRST_HUNGER, FIRST_ON_ITS_WAY, Hungry, Meanwhile};
pub(crate) use window::{Held, Load, Messages};

/// A wait that is not worth closing the lane for, unless others wait for one.
const MOMENT: Duration = Duration::from_secs(1);

/// How long a lane goes on while others wait for one, from when it knew what there was to send.
const TURN: Duration = Duration::from_secs(1);

/// How long an endpoint is left alone after something of ours failed in an unexpected way when it was its turn.
pub(crate) const TROUBLE_PAUSE: Duration = Duration::from_secs(30);

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
        a.receiver == b.receiver && a.endpoint.disabled == b.endpoint.disabled
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
    /// Whether there was nothing to send to when the endpoint was read.
    targetless: bool,
    window: VecDeque<Held>,
    held: HashSet<DeliveryKey, foldhash::fast::RandomState>,
    /// What that costs.
    held_cost: Cost,
    /// Memory was refused.
    hungry: Option<Hungry>,
    hunger: Duration,
    /// How long the lane waits after the next load that finds only what is still on its way.
    on_its_way: Duration,
    /// The next one in the store, if it did not fit when it was come across.
    needs: Option<TooLarge>,
    /// What was taken for the load under way.
    reserved: Option<Reserved>,
    /// Whose permits it has; `None` until that is known.
    owner: Whose,
    turn: Turn,
    /// Its application had more than its share when that became known: others are to have their turn at once.
    in_excess: bool,
    workers: u32,
    pub(crate) pace: Pace,
    /// Until when the store knows that the endpoint is held back.
    noted_hold: Option<Timestamp>,
    /// What holds the endpoint back was noted before there was this lane: only the store knows whether that stands.
    doubts_hold: bool,
    /// It was read from the store: a change of the endpoint may have lifted it since.
    hold_was_read: bool,
    limits: Limits,
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
    /// How many deliveries were canceled because the endpoint is disabled, and are not in the log yet.
    canceled: usize,
    /// Something asynchronous is under way that will look at the lane again.
    busy: Option<Busy>,
    meanwhile: Meanwhile,
    /// The store failed: nothing is asked of it before this instant.
    retry_store_at: Option<Timestamp>,
    timer: Option<Timestamp>,
    closed: bool,
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

impl Lane {
    /// A lane that has one permit of `owner`. `doubts_hold`: the store may have noted that its endpoint is held back.
    pub(crate) fn new(key: EndpointKey, owner: Whose, pace: Pace, doubts_hold: bool) -> Self {
        let state = State {
            ready: None,
            stale: false,
            targetless: false,
            window: VecDeque::new(),
            held: HashSet::default(),
            held_cost: Cost::default(),
            hungry: None,
            needs: None,
            reserved: None,
            hunger: FIRST_HUNGER,
            on_its_way: FIRST_ON_ITS_WAY,
            owner,
            turn: Turn::Preparing,
            in_excess: false,
            workers: 0,
            pace,
            noted_hold: None,
            hold_was_read: false,
            doubts_hold,
            limits: [None; 2],
            more: false,
            place: None,
            loads_in_a_row: 0,
            unparked: false,
            loaded_until: Timestamp::EPOCH,
            canceled: 0,
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
    pub(crate) fn owner(&self) -> Whose {
        self.owner
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
        self.hold_was_read = hold.is_some();
        // What changed while it was read may have lifted it.
        self.doubts_hold = self.stale && self.hold_was_read;
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
            self.hold_was_read = false;
            self.pace.forget();
        }
        let Target { key, application, application_rate, endpoint, .. } = ready.target.as_ref();
        self.limits = [
            endpoint.throttle_rate.map(|rate| (Limited::Endpoint(*key), rate)),
            application_rate.map(|rate| (Limited::Application(*application), rate)),
        ];
        if self.owner.is_none() {
            let owner = Owner::of(&ready.target);
            self.in_excess = !budgets.permits.adopt(owner);
            self.owner = Some(owner);
        }
        let was_disabled = self.disabled();
        self.ready = Some(ready);
        if was_disabled && !self.disabled() {
            // Nothing was loaded while it was.
            self.wake();
        }
    }

    /// Which receiver the endpoint has, as far as this lane knows.
    pub(crate) fn receiver(&self) -> Option<u64> {
        self.ready.as_ref().map(|ready| ready.target.receiver)
    }

    /// Whoever offers or loads something says which receiver the endpoint has: if it is a newer one, this lane was not told yet.
    pub(crate) fn sees_receiver(&mut self, receiver: u64) {
        if self.ready.as_ref().is_some_and(|ready| ready.target.receiver < receiver) {
            self.mark_stale();
        }
    }

    /// Learns from an attempt, unless it went to another receiver than the endpoint has now.
    pub(crate) fn learn(&mut self, receiver: u64, outcome: &Outcome, decision: &Decision, now: Timestamp) {
        if self.ready.as_ref().is_none_or(|ready| ready.target.receiver == receiver) {
            self.pace.learn(outcome, decision, now);
        }
    }

    /// The endpoint changed: read it again before the next request.
    pub(crate) fn mark_stale(&mut self) {
        self.stale = true;
        self.doubts_hold |= self.hold_was_read;
        self.wake();
    }

    /// The store has, or may have, something due.
    pub(crate) fn wake(&mut self) {
        self.more = true;
        self.unparked = true;
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

    /// Whether others are to have a lane now. If none are, it has another turn.
    fn has_had_its_turn(&mut self, now: Timestamp, budgets: &Budgets) -> bool {
        let is_over = self.in_excess || matches!(self.turn, Turn::Since(began) if now.since(began) >= TURN);
        if !is_over || self.is_wanted(budgets) {
            return is_over;
        }
        (self.in_excess, self.turn) = (false, Turn::Since(now));
        false
    }

    /// Whether others wait for what this lane has. Where its application has less than its share they don't: they wait for
    /// lanes of their own; nor do those who have as much as it has.
    fn is_wanted(&self, budgets: &Budgets) -> bool {
        let (turns, permits, own) = (&budgets.turns, &budgets.permits, self.owner);
        turns.any() && permits.is_short(own) && turns.any_of(own, |other| permits.has_less(other, own))
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
            budgets.permits.give_back(self.owner);
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
            self.store_failed(until, budgets);
        }
    }

    /// The endpoint was read, or could not be.
    pub(crate) fn target_read(&mut self) {
        self.busy = None;
    }

    /// There is nothing to send to. The endpoint cannot be read, and is looked at again at the end of a hold; or there is
    /// none, and nothing is pending there any more.
    pub(crate) fn no_target(&mut self, hold: Option<Hold>, budgets: &Budgets) {
        self.busy = None;
        self.ready = None;
        self.targetless = true;
        self.empty_window(budgets);
        self.more = false;
        if let Some(hold) = hold {
            self.pace.hold_back(hold);
        }
    }

    /// So many deliveries of an endpoint that wants nothing were removed; `rest` if there may be more. The store removes none of an
    /// endpoint that is enabled. So if it has removed none, nobody may have told this lane that the endpoint was, and it is read again:
    /// what is due there would wake the lane again and again. Once all are removed: how many there were.
    pub(crate) fn cancel_done(&mut self, removed: usize, rest: bool) -> usize {
        self.busy = None;
        self.prepared();
        self.stale |= removed == 0;
        self.canceled += removed;
        if rest {
            self.wake();
            return 0;
        }
        std::mem::take(&mut self.canceled)
    }

    /// The id of the endpoint, if the lane has read it.
    pub(crate) fn endpoint(&self) -> Option<EndpointId> {
        self.ready.as_ref().map(|ready| ready.target.endpoint.id)
    }

    /// The store noted when the endpoint is next due.
    pub(crate) fn park_done(&mut self) {
        self.busy = None;
    }

    /// The store noted that the endpoint is held back; or it did not, because the endpoint has another receiver than this lane knows.
    pub(crate) fn hold_done(&mut self, is_noted: bool) {
        let Some(Busy::Hold(until)) = self.busy.take() else { return };
        if is_noted {
            self.noted_hold = Some(until);
            return;
        }
        (self.noted_hold, self.hold_was_read, self.doubts_hold) = (None, false, false);
        self.pace.forget();
        self.mark_stale();
    }

    /// The store failed at what it was asked last.
    pub(crate) fn store_failed(&mut self, retry_at: Timestamp, budgets: &Budgets) {
        self.stale |= self.busy == Some(Busy::Target);
        self.busy = None;
        self.give_back_reserved(budgets);
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
        if self.targetless {
            if let Some(hold) = self.pace.hold(now).filter(|_| !self.stale) {
                return self.held_back(hold, now, idle_store, store_asleep, budgets);
            }
            if !self.stale && !self.more {
                return self.rest(idle_store, store_asleep);
            }
            self.targetless = false;
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
            return match self.hungry_until(now, budgets) {
                None => self.begin_load(now, budgets),
                until => self.wait(until),
            };
        }
        self.rest(idle_store, store_asleep)
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

    fn disabled(&self) -> bool {
        self.ready.as_ref().is_some_and(|ready| ready.target.endpoint.disabled)
    }

    /// Whether one more request may be made; then there is a permit for it.
    fn may_start(&self, budgets: &Budgets) -> bool {
        !self.window.is_empty()
            && self.workers < self.pace.limit()
            && (self.workers == 0 || budgets.permits.more(self.owner, self.workers))
    }

    /// The permit for one more request is not needed. The first one is the lane's own.
    fn return_permit(&self, budgets: &Budgets) {
        if self.workers > 0 {
            budgets.permits.give_back(self.owner);
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
