//! All lanes, and what performs their decisions.
//!
//! Messages come in straight from their accept commit ([`postrider_store::Dispatch`]) or from the store, when its index of wakes
//! says that something is due. Each open lane holds a permit; who gets none waits for a turn (`turns.rs`).
//! `Lanes::pump` asks a lane what it wants until it wants nothing, and starts that: workers that send, reads of the store,
//! timers. Every piece of work ends by pumping its lane again.
//!
//! A panic while one lane is looked after is caught here, and harms that lane only: it is left alone for a while.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use postrider_domain::clock::Clock;
use postrider_domain::delivery::{Hold, HoldReason, RetryPolicy};
use postrider_domain::entropy::Entropy;
use postrider_domain::ids::MessageId;
use postrider_domain::time::Timestamp;
use postrider_store::{EndpointKey, Fresh, MessageKey, Store, StoreError, Target};
use tokio::sync::Notify;

use crate::alarm::Alarm;
use crate::budget::{Memory, Permits};
use crate::holders::{Environments, Owner, Whose, environment_of};
use crate::kept::KeptAnswers;
use crate::lane::{Budgets, Lane, Load, Messages, Ready, State, Step, TROUBLE_PAUSE};
use crate::limits::READS_AT_A_TIME;
use crate::on_their_way::OnTheirWay;
use crate::options::DeliveryOptions;
use crate::pace::Pace;
use crate::rate::RateBook;
use crate::results::{Results, Unsettled};
use crate::sender::{Carrier, Sender};
use crate::shard::{Remembered, SHARDS, Shard};
use crate::slots::Slots;
use crate::stuck::Stuck;
use crate::turns::Turns;
use crate::unsent::Unsent;
use crate::worker;

/// Deliveries of a disabled endpoint that are removed in one commit.
const CANCEL_SLICE: usize = 1_000;

/// The wait before the store is asked again after it failed.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// How long an endpoint that cannot be read is left alone. Who changes it is noticed at once.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(600);

/// How often what holds an endpoint back may change while the endpoint is read, before the store is asked again later.
const HOLD_LOOKS: usize = 8;

pub(crate) struct Lanes {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) carrier: Arc<dyn Carrier>,
    pub(crate) options: DeliveryOptions,
    pub(crate) policy: RetryPolicy,
    pub(crate) budgets: Budgets,
    pub(crate) results: Results,
    pub(crate) kept: KeptAnswers,
    pub(crate) alarm: Alarm,
    reads: Arc<Slots>,
    shards: Vec<Mutex<Shard>>,
    pub(crate) on_their_way: OnTheirWay,
    pub(crate) unsent: Unsent,
    pub(crate) stuck: Stuck,
    pub(crate) environments: Environments,
    stopping: AtomicBool,
    workers: AtomicUsize,
    worker_left: Notify,
    runtime: tokio::runtime::Handle,
}

impl Lanes {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        carrier: Arc<dyn Carrier>,
        options: DeliveryOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Arc<Self> {
        Arc::new(Self {
            results: Results::new(),
            reads: Slots::new(READS_AT_A_TIME),
            budgets: Budgets {
                memory: Memory::new(options.memory_bytes),
                permits: Permits::new(options.max_in_flight),
                rates: RateBook::default(),
                turns: Turns::default(),
            },
            kept: KeptAnswers::new(options.kept_responses_per_day),
            alarm: Alarm::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            on_their_way: OnTheirWay::default(),
            unsent: Unsent::default(),
            stuck: Stuck::default(),
            environments: Environments::default(),
            stopping: AtomicBool::new(false),
            workers: AtomicUsize::new(0),
            worker_left: Notify::new(),
            runtime: tokio::runtime::Handle::current(),
            store,
            clock,
            entropy,
            carrier,
            policy: RetryPolicy {
                schedule: options.retry_schedule.clone(),
                retry_after_max: options.retry_after_max.0,
                disable_after: options.disable_after.0,
            },
            options,
        })
    }

    pub(crate) fn shard(&self, endpoint: EndpointKey) -> &Mutex<Shard> {
        &self.shards[endpoint.0.unsigned_abs() as usize % SHARDS]
    }

    pub(crate) fn remember_holds(&self, holds: Vec<(EndpointKey, Hold)>) {
        let now = self.clock.now();
        for (endpoint, hold) in holds {
            let mut pace = Pace::new(self.options.concurrency);
            pace.hold_back(hold);
            let known = Remembered { pace, noted_hold: Some(hold.until), doubts_hold: false };
            self.shard(endpoint).lock().remember(endpoint, known, now);
        }
    }

    /// Runs `change` on the endpoint's lane and pumps it, if one is open.
    pub(crate) fn with_open<T>(
        self: &Arc<Self>,
        endpoint: EndpointKey,
        change: impl FnOnce(&mut State) -> T,
    ) -> Option<T> {
        let (lane, result) = {
            let shard = self.shard(endpoint).lock();
            let lane = shard.open(endpoint)?;
            // Whether it is open, and the change, under one lock: it could close in between.
            let mut state = lane.state.lock();
            if state.is_closed() {
                return None;
            }
            let result = change(&mut state);
            drop(state);
            (Arc::clone(lane), result)
        };
        self.pump(&lane);
        Some(result)
    }

    /// Opens a lane with a permit of `of` that was taken, runs `change` on it, and pumps it. If one is open by now, that is
    /// used. `change` is told whether what comes with a message may be older than a change of the endpoint: of one that is
    /// told later, the lane hears.
    fn open<T>(self: &Arc<Self>, endpoint: EndpointKey, of: Whose, change: impl FnOnce(&mut State, bool) -> T) -> T {
        let mut is_given_back = false;
        let (lane, result) = {
            let (mut shard, now) = (self.shard(endpoint).lock(), self.clock.now());
            let changed = shard.changed_lately(now);
            let found = shard.open(endpoint).cloned();
            match found.as_ref().map(|lane| (lane, lane.state.lock())) {
                Some((lane, mut state)) if !state.is_closed() => {
                    self.budgets.permits.give_back(of);
                    is_given_back = true;
                    let result = change(&mut state, changed);
                    (Arc::clone(lane), result)
                }
                closed => {
                    drop(closed);
                    let (pace, doubts_hold) = shard.recall(endpoint, now);
                    let pace = pace.unwrap_or_else(|| Pace::new(self.options.concurrency));
                    let lane = Arc::new(Lane::new(endpoint, of, pace, doubts_hold));
                    let result = change(&mut lane.state.lock(), changed);
                    shard.lanes.insert(endpoint, Arc::clone(&lane));
                    (lane, result)
                }
            }
        };
        if is_given_back {
            self.permit_free();
        }
        self.pump(&lane);
        result
    }

    /// Offers a fresh delivery to its lane; false if it was not taken.
    pub(crate) fn offer(self: &Arc<Self>, fresh: &Fresh, target: &Arc<Target>) -> bool {
        // Under the lane's lock, which a withdrawal takes after it noted what is erased.
        let offer = |state: &mut State| {
            state.sees_receiver(target.receiver);
            !self.on_their_way.is_erased(fresh.key) && state.offer(&fresh.message, fresh.key, &self.budgets)
        };
        if let Some(taken) = self.with_open(target.key, offer) {
            return taken;
        }
        let of = Some(Owner::of(target));
        let on_hold = self.shard(target.key).lock().is_on_hold(target.key, self.clock.now());
        // Where hardly anything is free, those who came before go first.
        let turns = &self.budgets.turns;
        let is_crowded = turns.any() && (turns.has(target.key, of) || !self.budgets.permits.has_plenty());
        let waits = on_hold || is_crowded;
        if waits || !self.budgets.permits.open(of) {
            return false;
        }
        let ready = self.prepare(target);
        self.open(target.key, of, |state, changed| {
            // Otherwise the lane reads it.
            if state.needs_target() && !changed && !state.doubts_hold() {
                state.set_ready(ready, &self.budgets);
            }
            offer(state)
        })
    }

    /// Sees to it that these endpoints are looked after, whose deliveries are or may be due: by their lanes, or in turn, or
    /// at the end of what holds them back, when the store's index of wakes has them.
    pub(crate) fn bring_up(self: &Arc<Self>, endpoints: impl Iterator<Item = (EndpointKey, Whose)>) {
        let now = self.clock.now();
        let due = endpoints.filter(|(endpoint, _)| !self.shard(*endpoint).lock().is_on_hold(*endpoint, now));
        self.bring_up_now(due, State::wake);
    }

    /// As [`Lanes::bring_up`], whether they are held back or not: they were taken out of the index of wakes, or what holds
    /// them back may have been lifted. Runs `change` on the lanes that are open.
    pub(crate) fn bring_up_now(
        self: &Arc<Self>,
        endpoints: impl Iterator<Item = (EndpointKey, Whose)>,
        change: fn(&mut State),
    ) {
        let turns = &self.budgets.turns;
        let mut crowded_out = BTreeMap::<Duration, Vec<EndpointKey>>::new();
        for (endpoint, of) in endpoints {
            if self.with_open(endpoint, change).is_none() && !turns.push(endpoint, of) {
                crowded_out.entry(turns.pause(environment_of(of))).or_default().push(endpoint);
            }
        }
        self.alarm.turn();
        for (pause, endpoints) in crowded_out {
            self.runtime.spawn(Arc::clone(self).wake_later(endpoints, pause));
        }
    }

    /// Opens lanes for those who wait, as far as there are permits.
    pub(crate) fn take_turns(self: &Arc<Self>) {
        while !self.is_stopping() && self.budgets.permits.any_free() {
            let permits = &self.budgets.permits;
            let next = self.budgets.turns.next(|environment| permits.has_room(environment), |of| permits.open(of));
            let Some((endpoint, of)) = next else { return };
            // If a lane was opened meanwhile, it may not know of a change for which this one waited.
            self.open(endpoint, of, |state, _| state.mark_stale());
        }
    }

    /// Sees to it that a delivery which is due at `at` is found then. The accept commit has noted its endpoint.
    pub(crate) fn later(self: &Arc<Self>, endpoint: EndpointKey, of: Whose, at: Timestamp) {
        if at > self.clock.now() {
            self.alarm.expect(at);
        } else {
            // Its time came while it was stored: a lane may have loaded, and parked, without seeing it.
            self.bring_up(std::iter::once((endpoint, of)));
        }
    }

    /// Notes endpoints that found no place to wait, so that the waker comes back to them.
    async fn wake_later(self: Arc<Self>, endpoints: Vec<EndpointKey>, pause: Duration) {
        loop {
            let now = self.clock.now();
            let later = now.saturating_add(pause);
            match self.store.wake_later(endpoints.clone(), later).await {
                Ok(()) => {
                    self.alarm.expect(later);
                    // A lane that was opened meanwhile may have taken the note for its own.
                    for endpoint in endpoints {
                        self.with_open(endpoint, State::wake);
                    }
                    return;
                }
                Err(StoreError::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "failed to note that deliveries wait; trying again");
                    self.clock.sleep_until(now.saturating_add(STORE_PAUSE)).await;
                }
            }
        }
    }

    /// Does what the lane wants until it wants nothing.
    pub(crate) fn pump(self: &Arc<Self>, lane: &Arc<Lane>) {
        if catch_unwind(AssertUnwindSafe(|| self.pump_on(lane))).is_err() {
            self.lane_failed(lane);
        }
    }

    fn pump_on(self: &Arc<Self>, lane: &Arc<Lane>) {
        loop {
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let step = lane.state.lock().next_step(self.clock.now(), &self.budgets);
            let (lanes, lane) = (Arc::clone(self), Arc::clone(lane));
            match step {
                Step::Idle => return,
                Step::Close { waits } => return self.forget(&lane, waits),
                Step::Work(delivery, ready) => {
                    self.workers.fetch_add(1, Ordering::SeqCst);
                    self.runtime.spawn(worker::run(lanes, lane, delivery, ready));
                }
                Step::Target => self.look_after(&lane, Arc::clone(&lanes).read_target(Arc::clone(&lane))),
                Step::Load(load) => self.look_after(&lane, Arc::clone(&lanes).load(Arc::clone(&lane), load)),
                Step::Cancel => self.look_after(&lane, Arc::clone(&lanes).cancel(Arc::clone(&lane))),
                Step::Park(after) => self.look_after(&lane, Arc::clone(&lanes).park(Arc::clone(&lane), after)),
                Step::Hold(hold) => self.look_after(&lane, Arc::clone(&lanes).hold(Arc::clone(&lane), hold)),
                Step::WaitUntil(at) => drop(self.runtime.spawn(async move {
                    lanes.clock.sleep_until(at).await;
                    lane.state.lock().timer_done(at);
                    lanes.pump(&lane);
                })),
            }
        }
    }

    /// Runs a piece of work for a lane.
    fn look_after(self: &Arc<Self>, lane: &Arc<Lane>, work: impl Future<Output = ()> + Send + 'static) {
        let (lanes, lane) = (Arc::clone(self), Arc::clone(lane));
        self.runtime.spawn(async move {
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                lanes.lane_failed(&lane);
                lanes.pump(&lane);
            }
        });
    }

    /// A bug must cost one endpoint a pause, and nobody else anything.
    fn lane_failed(self: &Arc<Self>, lane: &Arc<Lane>) {
        tracing::error!(
            endpoint = lane.key.0,
            "looking after an endpoint failed unexpectedly; it is left alone for a while"
        );
        let now = self.clock.now();
        lane.state.lock().failed_unexpectedly(None, now, &self.budgets);
        let (lanes, lane) = (Arc::clone(self), Arc::clone(lane));
        self.runtime.spawn(async move {
            lanes.clock.sleep_until(now.saturating_add(TROUBLE_PAUSE)).await;
            lanes.pump(&lane);
        });
    }

    /// Takes a closed lane out of the map, unless another has taken its place.
    fn forget(self: &Arc<Self>, lane: &Arc<Lane>, waits: bool) {
        let (of, known) = {
            let state = lane.state.lock();
            (state.owner(), Remembered::of(&state, waits))
        };
        {
            let mut shard = self.shard(lane.key).lock();
            if shard.open(lane.key).is_some_and(|current| Arc::ptr_eq(current, lane)) {
                shard.lanes.remove(&lane.key);
                shard.remember(lane.key, known, self.clock.now());
            }
        }
        self.budgets.permits.give_back(of);
        if waits {
            self.bring_up(std::iter::once((lane.key, of)));
        } else {
            self.permit_free();
        }
    }

    /// A permit was given back: somebody may be waiting for it.
    pub(crate) fn permit_free(&self) {
        if self.budgets.turns.any() {
            self.alarm.turn();
        }
    }

    fn store_failed(self: &Arc<Self>, lane: &Arc<Lane>, error: &StoreError, what: &str) {
        if !matches!(error, StoreError::Closed) {
            tracing::warn!(%error, endpoint = lane.key.0, "failed to {what}; trying again");
        }
        let retry_at = self.clock.now().saturating_add(STORE_PAUSE);
        lane.state.lock().store_failed(retry_at, &self.budgets);
        self.pump(lane);
    }

    async fn read_target(self: Arc<Self>, lane: Arc<Lane>) {
        let (of, asks) = {
            let state = lane.state.lock();
            (state.owner(), state.doubts_hold())
        };
        let slot = self.reads.slot(of).await;
        let read = self.target_and_hold(lane.key, asks).await;
        drop(slot);
        match read {
            Ok(Some((target, hold))) => {
                let ready = self.prepare(&Arc::new(target));
                let mut state = lane.state.lock();
                state.target_read();
                if asks {
                    state.hold_read(hold);
                }
                state.set_ready(ready, &self.budgets);
                drop(state);
                // What it counted for before is free for others.
                self.permit_free();
            }
            Ok(None) => return self.without_target(&lane, None).await,
            Err(error @ StoreError::Inconsistent { .. }) => return self.without_target(&lane, Some(&error)).await,
            Err(error) => return self.store_failed(&lane, &error, "read an endpoint"),
        }
        self.pump(&lane);
    }

    /// An endpoint, and, if that is asked for, what holds it back.
    async fn target_and_hold(
        &self,
        endpoint: EndpointKey,
        asks: bool,
    ) -> Result<Option<(Target, Option<Hold>)>, StoreError> {
        let mut hold = if asks { self.store.hold_of(endpoint).await? } else { None };
        for _ in 0..HOLD_LOOKS {
            // The hold first: what lifts it changes the endpoint, which is read after that. And once more: it may have been lifted
            // between the two, and would hold back a receiver that asked for nothing, if nobody tells of the change.
            let target = self.store.target(endpoint).await?;
            let before = hold;
            hold = if before.is_some() { self.store.hold_of(endpoint).await? } else { None };
            if hold == before {
                return Ok(target.map(|target| (target, hold)));
            }
        }
        Err(StoreError::Unavailable("what holds an endpoint back changed with every look".to_owned()))
    }

    /// There is nothing to send to: what is pending there goes, unless the endpoint is there and cannot be read.
    async fn without_target(self: Arc<Self>, lane: &Arc<Lane>, unreadable: Option<&StoreError>) {
        let mut removed = 0;
        loop {
            match self.store.cancel_deliveries(lane.key, CANCEL_SLICE).await {
                Ok(count) => {
                    removed += count;
                    if count < CANCEL_SLICE {
                        break;
                    }
                }
                Err(error) => return self.store_failed(lane, &error, "cancel deliveries"),
            }
        }
        let hold = match unreadable {
            // The row may be of an endpoint that was deleted: then everything has gone by now.
            Some(error) => {
                tracing::warn!(%error, endpoint = lane.key.0, removed, "an endpoint cannot be read: nothing is sent to it");
                let until = self.clock.now().saturating_add(UNREADABLE_PAUSE);
                Some(Hold { until, reason: HoldReason::Trouble })
            }
            None => {
                tracing::warn!(
                    endpoint = lane.key.0,
                    removed,
                    "deliveries to an endpoint that does not exist were removed"
                );
                None
            }
        };
        lane.state.lock().no_target(hold, &self.budgets);
        self.pump(lane);
    }

    /// Whatever an endpoint is like, preparing it harms nobody else.
    fn prepare(&self, target: &Arc<Target>) -> Arc<Ready> {
        let owner = Owner::of(target);
        self.environments.learn(owner);
        let prepared = catch_unwind(AssertUnwindSafe(|| self.carrier.prepare(target))).unwrap_or_else(|_| {
            tracing::error!(endpoint = %target.endpoint.id, "an endpoint could not be prepared because of an internal error");
            Sender::unprepared(owner)
        });
        Arc::new(Ready { prepared, url: target.endpoint.url.as_str().into(), target: Arc::clone(target) })
    }

    async fn load(self: Arc<Self>, lane: Arc<Lane>, load: Load) {
        let of = lane.state.lock().owner();
        let slot = self.reads.slot(of).await;
        let mut held = lane.state.lock().held_keys(&load);
        self.stuck.leave_out(lane.key, load.after, &mut held);
        let found = self.store.due(lane.key, load.now, load.after, held, load.limit, load.max_bytes).await;
        drop(slot);
        match found {
            Ok(found) => {
                let is_passed_over = |message: &MessageId| self.on_their_way.is_passed_over(message, lane.key);
                let empty = lane.state.lock().loaded(found, load, is_passed_over, &self.budgets);
                self.unsent.note(lane.key, empty.len(), self.clock.now());
                for due in empty {
                    let settlement = worker::canceled(lane.key, due.key, due.made, due.trigger);
                    let unsettled = Unsettled { lane: Arc::clone(&lane), held: None, settlement };
                    self.results.submit(unsettled, &self.budgets.memory);
                }
                self.pump(&lane);
            }
            Err(error) => self.store_failed(&lane, &error, "load deliveries"),
        }
    }

    /// Cancels what waits in memory of messages whose payloads were erased. What the store still has of them is loaded
    /// without a payload, and canceled then.
    pub(crate) fn withdraw(self: &Arc<Self>, messages: &[MessageKey]) {
        let messages: Messages = messages.iter().copied().collect();
        self.on_their_way.erase(&messages);
        for shard in &self.shards {
            let open: Vec<_> = shard.lock().lanes.values().cloned().collect();
            for lane in open {
                // By itself, so that the lane's lock is not kept while results are handed over.
                let withdrawn = lane.state.lock().withdraw(&messages);
                self.unsent.note(lane.key, withdrawn.len(), self.clock.now());
                for held in withdrawn {
                    let settlement = worker::canceled(lane.key, held.key, held.made, held.trigger);
                    let unsettled = Unsettled { lane: Arc::clone(&lane), held: Some(held), settlement };
                    self.results.submit(unsettled, &self.budgets.memory);
                }
            }
        }
    }

    async fn cancel(self: Arc<Self>, lane: Arc<Lane>) {
        match self.store.cancel_deliveries(lane.key, CANCEL_SLICE).await {
            Ok(removed) => {
                let (canceled, endpoint) = {
                    let mut state = lane.state.lock();
                    (state.cancel_done(removed, removed == CANCEL_SLICE), state.endpoint())
                };
                self.unsent.note_disabled(endpoint, canceled, self.clock.now());
                self.pump(&lane);
            }
            Err(error) => self.store_failed(&lane, &error, "cancel deliveries"),
        }
    }

    async fn park(self: Arc<Self>, lane: Arc<Lane>, after: Timestamp) {
        match self.store.park(lane.key, after).await {
            Ok(next_at) => {
                lane.state.lock().park_done();
                if let Some(at) = next_at {
                    self.alarm.expect(at);
                }
                self.pump(&lane);
            }
            Err(error) => self.store_failed(&lane, &error, "note when an endpoint is due"),
        }
    }

    async fn hold(self: Arc<Self>, lane: Arc<Lane>, hold: Hold) {
        let receiver = lane.state.lock().receiver();
        match self.store.hold(lane.key, hold, receiver).await {
            Ok(is_noted) => {
                let (until, reason) = (hold.until, hold.reason.as_str());
                tracing::debug!(endpoint = lane.key.0, %until, reason, is_noted, "an endpoint is held back");
                lane.state.lock().hold_done(is_noted);
                self.alarm.expect(hold.until);
                self.pump(&lane);
            }
            Err(error) => self.store_failed(&lane, &error, "note that an endpoint is held back"),
        }
    }

    /// Starts no more requests; workers leave when they have made the one under way.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// How many workers there are.
    pub(crate) fn workers(&self) -> usize {
        self.workers.load(Ordering::SeqCst)
    }

    /// Whether workers should leave.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    pub(crate) fn worker_gone(&self) {
        if self.workers.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.worker_left.notify_waiters();
        }
    }

    pub(crate) async fn workers_gone(&self) {
        loop {
            let left = self.worker_left.notified();
            if self.workers.load(Ordering::SeqCst) == 0 {
                return;
            }
            left.await;
        }
    }
}
