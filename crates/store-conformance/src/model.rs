//! A model of the work table, and random histories in which the store must agree with it.
//!
//! The model of the index of wakes is exact, and it checks the promise that matters most: an endpoint with deliveries is
//! either looked after by the process (it accepted for it, or took it from the index, and has not parked it since) or it
//! is in the index, no later than its earliest delivery is due. Nothing is ever forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::Next;
use postrider_domain::time::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::Harness;
use super::world::{App, Ep, FAR, World};
use postrider_store::{Accepted, DeliveryKey, Due, MessageKey};

const ENDPOINTS: usize = 3;

/// One thing that happens. Numbers pick among what there is, modulo how many there are.
#[derive(Debug, Clone)]
enum Step {
    /// `wait` is for how long the delivery is put off.
    Accept {
        to: [bool; ENDPOINTS],
        wait: Option<u64>,
    },
    Settle {
        endpoint: usize,
        nth: usize,
        next: Ending,
        twice: bool,
    },
    Resend {
        endpoint: usize,
        nth: usize,
    },
    Take {
        limit: usize,
    },
    Park {
        endpoint: usize,
    },
    WakeLater {
        endpoint: usize,
        wait: u64,
    },
    Cancel {
        endpoint: usize,
        limit: usize,
    },
    Pass {
        wait: u64,
    },
    Restart,
}

#[derive(Debug, Clone, Copy)]
enum Ending {
    Succeeded,
    Waiting(u64),
    Exhausted,
    Canceled,
}

fn step() -> impl Strategy<Value = Step> {
    let ending = prop_oneof![
        2 => Just(Ending::Succeeded),
        3 => (1u64..20).prop_map(Ending::Waiting),
        1 => Just(Ending::Exhausted),
        1 => Just(Ending::Canceled),
    ];
    let endpoint = || 0..ENDPOINTS;
    prop_oneof![
        4 => (any::<[bool; ENDPOINTS]>(), proptest::option::weighted(0.2, 1u64..20))
            .prop_map(|(to, wait)| Step::Accept { to, wait }),
        6 => (endpoint(), 0usize..9, ending, any::<bool>())
            .prop_map(|(endpoint, nth, next, twice)| Step::Settle { endpoint, nth, next, twice }),
        1 => (endpoint(), 0usize..9).prop_map(|(endpoint, nth)| Step::Resend { endpoint, nth }),
        4 => (0usize..4).prop_map(|limit| Step::Take { limit }),
        4 => endpoint().prop_map(|endpoint| Step::Park { endpoint }),
        1 => (endpoint(), 1u64..20).prop_map(|(endpoint, wait)| Step::WakeLater { endpoint, wait }),
        1 => (endpoint(), 0usize..3).prop_map(|(endpoint, limit)| Step::Cancel { endpoint, limit }),
        3 => (1u64..20).prop_map(|wait| Step::Pass { wait }),
        1 => Just(Step::Restart),
    ]
}

/// Runs random histories; see [`super::the_work_table_behaves_like_its_model`].
pub(super) fn compare<H: Harness>() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = Config { cases: 32, failure_persistence: None, max_shrink_iters: 512, ..Config::default() };
    let histories = proptest::collection::vec(step(), 1..40);
    let result = TestRunner::new(config).run(&histories, |history| {
        runtime.block_on(async {
            let mut run = Run::<H>::start().await;
            for step in history {
                run.step(step).await;
                run.check().await;
            }
            run.now = FAR;
            run.take(ENDPOINTS).await;
        });
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// What the model knows of one endpoint.
#[derive(Default)]
struct Pending {
    deliveries: BTreeMap<DeliveryKey, (u32, Trigger)>,
    /// Whether the process looks after it.
    held: bool,
    /// Its place in the index of wakes.
    wake: Option<Timestamp>,
}

impl Pending {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |earlier| earlier.min(at)));
    }
}

struct Run<H> {
    world: World<H>,
    app: App,
    endpoints: Vec<Ep>,
    model: Vec<Pending>,
    messages: Vec<(MessageKey, Timestamp)>,
    now: Timestamp,
}

impl<H: Harness> Run<H> {
    async fn start() -> Self {
        let world = World::fresh().await;
        let app = world.application().await;
        let mut endpoints = Vec::new();
        for _ in 0..ENDPOINTS {
            endpoints.push(world.endpoint(&app).await);
        }
        let now = world.tick();
        let model = (0..ENDPOINTS).map(|_| Pending::default()).collect();
        Self { world, app, endpoints, model, messages: Vec::new(), now }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Accept { to, wait } => self.accept(to, wait).await,
            Step::Settle { endpoint, nth, next, twice } => self.settle(endpoint, nth, next, twice).await,
            Step::Resend { endpoint, nth } => self.resend(endpoint, nth).await,
            Step::Take { limit } => self.take(limit).await,
            Step::Park { endpoint } => self.park(endpoint).await,
            Step::WakeLater { endpoint, wait } => {
                let at = self.later(wait);
                self.world.store().wake_later(vec![self.endpoints[endpoint].key], at).await.unwrap();
                self.model[endpoint].wake_at(at);
            }
            Step::Cancel { endpoint, limit } => self.cancel(endpoint, limit).await,
            Step::Pass { wait } => self.now = self.later(wait),
            Step::Restart => self.restart().await,
        }
    }

    /// Every instant is used once, so that no two deliveries of a message are due at the same one.
    fn later(&mut self, seconds: u64) -> Timestamp {
        self.now = self.now.saturating_add(Duration::from_micros(1));
        self.now.saturating_add(Duration::from_secs(seconds))
    }

    async fn accept(&mut self, to: [bool; ENDPOINTS], wait: Option<u64>) {
        let chosen: Vec<usize> = (0..ENDPOINTS).filter(|index| to[*index]).collect();
        let keys: Vec<_> = chosen.iter().map(|index| self.endpoints[*index].key).collect();
        let mut message = self.world.new_message();
        message.created_at = self.later(0);
        message.deliver_at = wait.map(|wait| self.later(wait));
        let due_at = message.due_at();
        let new = self.world.draft_of(&self.app, &keys, message).await;
        let Ok(Accepted::New(key)) = self.world.accept(new).await else { panic!("it should have been accepted") };
        self.messages.push((key, due_at));
        for index in chosen {
            let pending = &mut self.model[index];
            pending.deliveries.insert(DeliveryKey { due_at, message: key }, (0, Trigger::Scheduled));
            if wait.is_some() {
                pending.wake_at(due_at);
            } else {
                pending.held = true;
            }
        }
    }

    async fn settle(&mut self, endpoint: usize, nth: usize, ending: Ending, twice: bool) {
        let count = self.model[endpoint].deliveries.len();
        let Some((&key, &(made, trigger))) = self.model[endpoint].deliveries.iter().nth(nth % count.max(1)) else {
            return;
        };
        let next = match ending {
            Ending::Succeeded => Next::Succeeded,
            Ending::Waiting(wait) if trigger == Trigger::Scheduled => Next::Waiting(self.later(wait)),
            Ending::Waiting(_) | Ending::Exhausted => Next::Exhausted,
            Ending::Canceled => Next::Canceled,
        };
        let due = Due { key, made, trigger, fresh: false, message: None };
        let settlement = self.world.settlement(&self.endpoints[endpoint], &due, next);
        for _ in 0..=usize::from(twice) {
            self.world.settle(settlement.clone()).await;
        }
        let pending = &mut self.model[endpoint];
        pending.deliveries.remove(&key);
        if let Next::Waiting(due_at) = next {
            pending.deliveries.insert(DeliveryKey { due_at, message: key.message }, (made + 1, trigger));
            pending.wake_at(due_at);
        }
        if next == Next::Succeeded && trigger == Trigger::Manual {
            pending
                .deliveries
                .retain(|other, (_, trigger)| other.message != key.message || *trigger == Trigger::Manual);
        }
    }

    async fn resend(&mut self, endpoint: usize, nth: usize) {
        let Some(&(message, _)) = self.messages.get(nth % self.messages.len().max(1)) else { return };
        let due_at = self.later(0);
        let key = self.endpoints[endpoint].key;
        super::world::done(self.world.store().resend(key, message, due_at, None).await.unwrap());
        let pending = &mut self.model[endpoint];
        pending.deliveries.insert(DeliveryKey { due_at, message }, (0, Trigger::Manual));
        pending.wake_at(due_at);
    }

    async fn take(&mut self, limit: usize) {
        let wakes = self.world.store().take_wakes(self.now, limit).await.unwrap();
        let mut index: Vec<_> = (0..ENDPOINTS).filter_map(|place| Some((self.model[place].wake?, place))).collect();
        index.sort_unstable();
        let due = index.iter().take_while(|(at, _)| *at <= self.now).count().min(limit);
        let taken: Vec<_> = index[..due].iter().map(|(_, place)| self.endpoints[*place].key).collect();
        let next_at = index.get(due).map(|(at, _)| *at);
        let found: Vec<_> = wakes.endpoints.iter().map(|woken| woken.endpoint).collect();
        assert_eq!((found, wakes.next_at), (taken, next_at));
        for (_, place) in &index[..due] {
            self.model[*place].held = true;
            self.model[*place].wake = None;
        }
    }

    /// Only who looks after an endpoint parks it.
    async fn park(&mut self, endpoint: usize) {
        let pending = &mut self.model[endpoint];
        if !pending.held {
            return;
        }
        let parked = self.world.store().park(self.endpoints[endpoint].key, self.now).await.unwrap();
        let later = pending.deliveries.keys().map(|key| key.due_at).find(|due_at| *due_at > self.now);
        if let Some(later) = later {
            pending.wake_at(later);
        }
        assert_eq!(parked, pending.wake);
        pending.held = pending.deliveries.keys().any(|key| key.due_at <= self.now);
    }

    async fn cancel(&mut self, endpoint: usize, limit: usize) {
        let store = self.world.store();
        let stored = &self.endpoints[endpoint];
        assert_eq!(store.cancel_deliveries(stored.key, limit).await.unwrap(), 0, "it takes deliveries");
        self.world.disable(&self.app, stored, true).await;
        let removed = store.cancel_deliveries(stored.key, limit).await.unwrap();
        self.world.disable(&self.app, stored, false).await;
        let pending = &mut self.model[endpoint];
        assert_eq!(removed, limit.min(pending.deliveries.len()));
        // Whoever changes an endpoint has it looked at.
        if let Some(first) = pending.deliveries.keys().next().map(|first| first.due_at) {
            pending.wake_at(first);
        }
        // Which ones it removes is the store's choice.
        let left: BTreeSet<DeliveryKey> =
            self.world.due(&self.endpoints[endpoint], FAR).await.iter().map(|due| due.key).collect();
        assert_eq!(left.len(), pending.deliveries.len() - removed);
        pending.deliveries.retain(|key, _| left.contains(key));
    }

    async fn restart(&mut self) {
        self.world.reopen().await;
        let found = self.world.store().rebuild_wakes().await.unwrap();
        let pending = self.model.iter().filter(|pending| !pending.deliveries.is_empty()).count();
        assert_eq!(found, pending as u64);
        for pending in &mut self.model {
            pending.held = false;
            pending.wake = pending.deliveries.keys().next().map(|first| first.due_at);
        }
    }

    /// The store's deliveries are the model's, in order, and nothing is forgotten.
    async fn check(&self) {
        for (endpoint, pending) in self.endpoints.iter().zip(&self.model) {
            for now in [self.now, FAR] {
                let due = self.world.due(endpoint, now).await;
                let found: Vec<_> = due.iter().map(|due| (due.key, (due.made, due.trigger))).collect();
                let want = pending.deliveries.iter().filter(|(key, _)| key.due_at <= now);
                let want: Vec<_> = want.map(|(key, rest)| (*key, *rest)).collect();
                assert_eq!(found, want, "due at {now}");
            }
            let backlog = self.world.store().backlog(endpoint.key, 1_000).await.unwrap();
            assert_eq!(backlog, pending.deliveries.len());
            if let Some(first) = pending.deliveries.keys().next().filter(|_| !pending.held) {
                assert!(pending.wake.is_some_and(|at| at <= first.due_at), "{first:?} is forgotten");
            }
        }
    }
}
