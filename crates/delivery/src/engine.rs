//! The engine: all lanes, and what performs their decisions.
//!
//! Messages come in straight from their accept commit ([`Dispatch`]) or from the store, when the waker says that
//! something is due. `Shared::pump` asks a lane what it wants until it wants nothing, and starts that: workers that send,
//! reads of the store, timers. Every piece of work ends by pumping its lane again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::clock::Clock;
use postrider_domain::delivery::RetryPolicy;
use postrider_domain::entropy::Entropy;
use postrider_domain::retry::jittered_up;
use postrider_domain::time::Timestamp;
use postrider_store::{ApplicationKey, Dispatch, EndpointKey, Fresh, MessageKey, Observer, Store, StoreError, Target};
use tokio::sync::Notify;

use crate::budget::Budget;
use crate::idler;
use crate::lane::{Budgets, Lane, Load, Ready, State, Step};
use crate::options::DeliveryOptions;
use crate::rate::Rate;
use crate::sender::Sender;
use crate::settler::{self, Settler, Unsettled};
use crate::waker::{self, Waker};
use crate::worker;

/// Lanes are spread over this many locks.
const SHARDS: usize = 64;

/// How many lanes may be open for each request that may be under way. Most wait: for a receiver's wish, a rate limit.
const LANES_PER_REQUEST: usize = 4;

/// Deliveries of a disabled endpoint that are removed in one commit.
const CANCEL_SLICE: usize = 1_000;

/// The wait before the store is asked again after it failed.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// Rate limits of applications, and how many lanes use them.
type ApplicationRates = HashMap<ApplicationKey, std::sync::Weak<Mutex<Rate>>>;

pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) sender: Sender,
    pub(crate) options: DeliveryOptions,
    pub(crate) policy: RetryPolicy,
    pub(crate) budgets: Budgets,
    pub(crate) settler: Settler,
    pub(crate) waker: Waker,
    shards: Vec<Mutex<HashMap<EndpointKey, Arc<Lane>>>>,
    lanes: AtomicUsize,
    application_rates: Mutex<ApplicationRates>,
    /// The newest message that was handed over by its accept commit, or was there at start.
    dispatched: AtomicI64,
    stopping: AtomicBool,
    workers: AtomicUsize,
    worker_left: Notify,
    runtime: tokio::runtime::Handle,
}

/// Delivers what the store holds.
pub struct Engine {
    shared: Arc<Shared>,
    agents: Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

impl Engine {
    /// Starts delivering. Everything that was pending in the store is looked at again. Call it before anything is accepted.
    pub async fn start(
        store: Arc<dyn Store>,
        sender: Sender,
        options: DeliveryOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, StoreError> {
        let longest = options.retry_schedule.longest().max(jittered_up(options.retry_after_max.0, 1.0));
        let pulled = store.pull_in(clock.now(), longest).await?;
        if pulled > 0 {
            tracing::warn!(
                pulled,
                "deliveries were due later than any wait can be, because the clock was wrong: they are due now"
            );
        }
        let endpoints = store.rebuild_wakes().await?;
        let newest = store.newest_message().await?;
        if endpoints > 0 {
            tracing::info!(endpoints, "deliveries are pending from before");
        }
        let shared = Arc::new(Shared {
            budgets: Budgets {
                memory: Budget::new(options.memory_bytes, 2),
                requests: Budget::new(u64::from(options.max_in_flight), 8),
            },
            settler: Settler::default(),
            waker: Waker::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            lanes: AtomicUsize::new(0),
            application_rates: Mutex::default(),
            dispatched: AtomicI64::new(newest.map_or(0, |newest| newest.0)),
            stopping: AtomicBool::new(false),
            workers: AtomicUsize::new(0),
            worker_left: Notify::new(),
            runtime: tokio::runtime::Handle::current(),
            store: Arc::clone(&store),
            clock,
            entropy,
            sender,
            policy: RetryPolicy {
                schedule: options.retry_schedule.clone(),
                retry_after_max: options.retry_after_max.0,
                disable_after: options.disable_after.0,
            },
            options,
        });
        store.observe(Arc::new(Handle(Arc::clone(&shared))));
        let agents = vec![
            tokio::spawn(settler::run(Arc::clone(&shared))),
            tokio::spawn(waker::run(Arc::clone(&shared))),
            tokio::spawn(idler::run(Arc::clone(&shared))),
        ];
        Ok(Self { shared, agents: Mutex::new(agents) })
    }

    /// What intake hands accepted messages to.
    pub fn dispatcher(&self) -> Arc<dyn Dispatch> {
        Arc::new(Handle(Arc::clone(&self.shared)))
    }

    /// Ends in order: starts no more requests, waits for those under way (at most `delivery.drain_timeout`) and for their
    /// results to be stored. Returns how many requests were left to the next start.
    pub async fn shutdown(&self) -> usize {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let drained = async {
            self.shared.workers_gone().await;
            self.shared.settler.drained().await;
        };
        let deadline = self.shared.options.drain_timeout.0;
        if tokio::time::timeout(deadline, drained).await.is_err() {
            tracing::warn!(
                "requests are still under way after {deadline:?}; they will be made again at the next start"
            );
        }
        for agent in self.agents.lock().drain(..) {
            agent.abort();
        }
        self.shared.workers.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn shard(&self, endpoint: EndpointKey) -> &Mutex<HashMap<EndpointKey, Arc<Lane>>> {
        &self.shards[endpoint.0.unsigned_abs() as usize % SHARDS]
    }

    /// How many more lanes may be opened for what waits in the store.
    pub(crate) fn room_for_lanes(&self) -> usize {
        (self.options.max_in_flight as usize * LANES_PER_REQUEST).saturating_sub(self.lanes.load(Ordering::Relaxed))
    }

    /// Runs `change` on the endpoint's lane, which is opened if need be (then `true` is passed), and pumps it.
    fn with_lane(self: &Arc<Self>, endpoint: EndpointKey, change: impl FnOnce(&mut State, bool)) {
        let lane = {
            let mut shard = self.shard(endpoint).lock();
            // Whether it is open, and the change, under one lock: it could close in between.
            let mut open = shard.get(&endpoint).map(|lane| (lane, lane.state.lock()));
            if let Some((lane, state)) = open.as_mut().filter(|(_, state)| !state.is_closed()) {
                change(state, false);
                Arc::clone(lane)
            } else {
                drop(open);
                let lane = Arc::new(Lane::new(endpoint, self.options.concurrency));
                change(&mut lane.state.lock(), true);
                if shard.insert(endpoint, Arc::clone(&lane)).is_none() {
                    self.lanes.fetch_add(1, Ordering::Relaxed);
                }
                lane
            }
        };
        self.pump(&lane);
    }

    /// Offers a fresh delivery to its lane; false if there is none and no room for another.
    fn offer(self: &Arc<Self>, fresh: &Fresh, target: &Arc<Target>) -> bool {
        if self.room_for_lanes() == 0 && !self.shard(target.key).lock().contains_key(&target.key) {
            return false;
        }
        self.with_lane(target.key, |state, opened| {
            if opened {
                let now = self.clock.now();
                let (ready, rate) = self.prepare(target, now);
                state.set_ready(ready, rate, now);
            }
            state.offer(&fresh.message, fresh.key, &self.budgets);
        });
        true
    }

    /// Sees to it that a delivery which is due at `at` is found then. The accept commit has noted its endpoint.
    fn later(self: &Arc<Self>, endpoint: EndpointKey, at: Timestamp) {
        if at > self.clock.now() {
            self.waker.expect(at);
        } else {
            // Its time came while it was stored: a lane may have loaded, and parked, without seeing it.
            self.wake_lane(endpoint);
        }
    }

    /// Notes endpoints whose deliveries found no lane, so that the waker comes back to them.
    async fn wake_later(self: Arc<Self>, endpoints: Vec<EndpointKey>) {
        loop {
            let now = self.clock.now();
            match self.store.wake_later(endpoints.clone(), now).await {
                Ok(()) => return self.waker.expect(now.saturating_add(STORE_PAUSE)),
                Err(StoreError::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "could not note that deliveries wait; trying again");
                    self.clock.sleep_until(now.saturating_add(STORE_PAUSE)).await;
                }
            }
        }
    }

    pub(crate) fn wake_lane(self: &Arc<Self>, endpoint: EndpointKey) {
        self.with_lane(endpoint, |state, _| state.wake());
    }

    /// Does what the lane wants until it wants nothing.
    pub(crate) fn pump(self: &Arc<Self>, lane: &Arc<Lane>) {
        loop {
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let step = lane.state.lock().next_step(self.clock.now(), &self.budgets);
            let (shared, lane) = (Arc::clone(self), Arc::clone(lane));
            match step {
                Step::Idle => return,
                Step::Close => return self.forget(&lane),
                Step::Work(delivery, ready) => {
                    self.workers.fetch_add(1, Ordering::SeqCst);
                    self.runtime.spawn(worker::run(shared, lane, delivery, ready));
                }
                Step::Target => drop(self.runtime.spawn(async move { shared.read_target(lane).await })),
                Step::Load(load) => drop(self.runtime.spawn(async move { shared.load(lane, load).await })),
                Step::Cancel => drop(self.runtime.spawn(async move { shared.cancel(lane).await })),
                Step::Park(after) => drop(self.runtime.spawn(async move { shared.park(lane, after).await })),
                Step::WaitUntil(at) => drop(self.runtime.spawn(async move {
                    shared.clock.sleep_until(at).await;
                    lane.state.lock().timer_done(at);
                    shared.pump(&lane);
                })),
            }
        }
    }

    /// Takes a closed lane out of the map, unless another has taken its place.
    fn forget(&self, lane: &Arc<Lane>) {
        let mut shard = self.shard(lane.key).lock();
        if shard.get(&lane.key).is_some_and(|current| Arc::ptr_eq(current, lane)) {
            shard.remove(&lane.key);
            self.lanes.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn store_failed(self: &Arc<Self>, lane: &Arc<Lane>, error: &StoreError, what: &str) {
        if !matches!(error, StoreError::Closed) {
            tracing::warn!(%error, endpoint = lane.key.0, "could not {what}; trying again");
        }
        let retry_at = self.clock.now().saturating_add(STORE_PAUSE);
        lane.state.lock().store_failed(retry_at);
        self.pump(lane);
    }

    async fn read_target(self: Arc<Self>, lane: Arc<Lane>) {
        match self.store.target(lane.key).await {
            Ok(Some(target)) => {
                let now = self.clock.now();
                let (ready, rate) = self.prepare(&Arc::new(target), now);
                let mut state = lane.state.lock();
                state.target_read();
                state.set_ready(ready, rate, now);
            }
            Ok(None) => {
                // A delivery without an endpoint: nothing in Postrider makes one.
                let error = StoreError::Inconsistent {
                    table: "delivery",
                    column: "endpoint",
                    row: lane.key.0.to_string(),
                    problem: "the endpoint does not exist".to_owned(),
                };
                return self.store_failed(&lane, &error, "read an endpoint");
            }
            Err(error) => return self.store_failed(&lane, &error, "read an endpoint"),
        }
        self.pump(&lane);
    }

    fn prepare(&self, target: &Arc<Target>, now: Timestamp) -> (Arc<Ready>, Option<Arc<Mutex<Rate>>>) {
        let rate = target.application_rate.map(|rate| self.application_rate(target.application, rate, now));
        let ready = Ready {
            prepared: self.sender.prepare(target),
            url: target.endpoint.url.as_str().into(),
            target: Arc::clone(target),
        };
        (Arc::new(ready), rate)
    }

    /// The one bucket that all lanes of an application share.
    fn application_rate(&self, application: ApplicationKey, wanted: u16, now: Timestamp) -> Arc<Mutex<Rate>> {
        let mut rates = self.application_rates.lock();
        if let Some(rate) = rates.get(&application).and_then(std::sync::Weak::upgrade) {
            let mut current = rate.lock();
            if current.per_second() != wanted {
                *current = Rate::new(wanted, now);
            }
            drop(current);
            return rate;
        }
        rates.retain(|_, rate| rate.strong_count() > 0);
        let rate = Arc::new(Mutex::new(Rate::new(wanted, now)));
        rates.insert(application, Arc::downgrade(&rate));
        rate
    }

    async fn load(self: Arc<Self>, lane: Arc<Lane>, load: Load) {
        let held = lane.state.lock().held_keys(&load);
        match self.store.due(lane.key, load.now, load.after, held, load.limit, load.max_bytes.max(1)).await {
            Ok(found) => {
                let dispatched = MessageKey(self.dispatched.load(Ordering::SeqCst));
                let empty = lane.state.lock().loaded(found, load, dispatched, &self.budgets);
                for due in empty {
                    let settlement = worker::canceled(lane.key, due.key, due.made, due.trigger);
                    self.settler.submit(Unsettled { lane: Arc::clone(&lane), held: None, settlement });
                }
                self.pump(&lane);
            }
            Err(error) => self.store_failed(&lane, &error, "load deliveries"),
        }
    }

    /// Cancels what waits in memory of messages whose payloads were erased. What the store still has of them is loaded
    /// without a payload, and canceled then.
    fn withdraw(self: &Arc<Self>, messages: &[MessageKey]) {
        let messages: HashSet<MessageKey> = messages.iter().copied().collect();
        for shard in &self.shards {
            let lanes: Vec<_> = shard.lock().values().cloned().collect();
            for lane in lanes {
                // By itself, so that the lane's lock is not kept while results are handed over.
                let withdrawn = lane.state.lock().withdraw(&messages);
                for held in withdrawn {
                    let settlement = worker::canceled(lane.key, held.key, held.made, held.trigger);
                    self.settler.submit(Unsettled { lane: Arc::clone(&lane), held: Some(held), settlement });
                }
            }
        }
    }

    async fn cancel(self: Arc<Self>, lane: Arc<Lane>) {
        match self.store.cancel_deliveries(lane.key, CANCEL_SLICE).await {
            Ok(removed) => {
                lane.state.lock().cancel_done(removed == CANCEL_SLICE);
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
                    self.waker.expect(at);
                }
                self.pump(&lane);
            }
            Err(error) => self.store_failed(&lane, &error, "note when an endpoint is due"),
        }
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

    async fn workers_gone(&self) {
        loop {
            let left = self.worker_left.notified();
            if self.workers.load(Ordering::SeqCst) == 0 {
                return;
            }
            left.await;
        }
    }
}

/// The engine as others see it: what hands it messages, and what tells it of changes.
struct Handle(Arc<Shared>);

impl Dispatch for Handle {
    fn dispatch(&self, batch: Vec<Fresh>) {
        let shared = &self.0;
        let mut crowded_out = Vec::new();
        for fresh in &batch {
            for target in &fresh.targets {
                if let Some(at) = fresh.message.deliver_at {
                    shared.later(target.key, at);
                } else if !shared.offer(fresh, target) {
                    crowded_out.push(target.key);
                }
            }
        }
        // After the offers: a load that sees this number may rely on them.
        if let Some(newest) = batch.iter().map(|fresh| fresh.key.0).max() {
            shared.dispatched.fetch_max(newest, Ordering::SeqCst);
        }
        if !crowded_out.is_empty() {
            shared.runtime.spawn(Arc::clone(shared).wake_later(crowded_out));
        }
    }
}

impl Observer for Handle {
    fn endpoint_changed(&self, endpoint: EndpointKey) {
        // Opened even if there is no lane: if the endpoint was disabled, what it has pending is to be canceled.
        self.0.with_lane(endpoint, |state, _| state.mark_stale());
    }

    fn work_added(&self, endpoint: EndpointKey) {
        self.0.wake_lane(endpoint);
    }

    fn messages_expunged(&self, messages: &[MessageKey]) {
        self.0.withdraw(messages);
    }
}
