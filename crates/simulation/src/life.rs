//! One life of the process: from its start to its end, in order or not.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_delivery::options::DeliveryOptions;
use postrider_delivery::sender::Sender;
use postrider_delivery::{Engine, tls};
use postrider_domain::clock::Clock;
use postrider_domain::entropy::Entropy;
use postrider_domain::time::Timestamp;
use postrider_ingest::{Intake, Judges, LimitOptions, Place, SchemaOptions, Submission};
use postrider_store::{Store, StoreError};
use postrider_upkeep::TaskRunner;
use tokio::task::JoinSet;

use crate::broken::Broken;
use crate::carrier::{Courier, Manner, NoNames};
use crate::clock::VirtualClock;
use crate::dispatch::Stepwise;
use crate::promises;
use crate::store::{Stormy, Weather};
use crate::watch::Watch;
use crate::world::World;

/// How much people do in one life, at most.
const DEEDS: usize = 40;

/// The longest pause between two deeds: in busy lives, and in others.
const PAUSES: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(2), Duration::from_secs(90)];

/// In which the calmed world must become quiet: longer than all waits of a delivery together.
const CALMING: Duration = Duration::from_secs(3 * 3_600);

/// How often messages are handed over in steps.
const STEPWISE: f64 = 0.4;

/// In which endpoints that are sent something have asked to be left alone.
const LONG_ENOUGH_TO_ASK: Duration = Duration::from_secs(10);

/// How often it is looked whether a newcomer got a message.
const LOOK_FOR_NEWCOMER: Duration = Duration::from_millis(500);

/// In which what was under way when all became calm has ended, and is stored.
const ENDS: Duration = Duration::from_secs(30);

/// How often it is looked at meanwhile, at first and later.
const FIRST_LOOK: Duration = Duration::from_secs(5);
const LAST_LOOK: Duration = Duration::from_secs(300);

/// In which a message is sent to an endpoint at which nothing else waits: some of the others hang, each for one timeout in
/// its turn.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    InOrder,
    ByCrash,
}

/// A process that runs.
pub(crate) struct Life {
    pub(crate) world: Arc<World>,
    pub(crate) number: usize,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Arc<Stormy>,
    engine: Arc<Engine>,
    pub(crate) intake: Arc<Intake>,
    /// What people are doing.
    deeds: Mutex<JoinSet<()>>,
}

impl Life {
    /// Starts it at `now`. Must be called within a runtime of its own.
    pub(crate) async fn begin(
        world: Arc<World>,
        number: usize,
        now: Timestamp,
        options: DeliveryOptions,
    ) -> Result<Self, StoreError> {
        let clock: Arc<dyn Clock> = Arc::new(VirtualClock::new(now));
        let store = Arc::new(Stormy {
            below: world.store(),
            relay: Arc::clone(&world.relay),
            weather: Mutex::new(Weather::CALM),
            dice: Arc::clone(&world.dice),
            clock: Arc::clone(&clock),
            book: Arc::clone(&world.book),
            watch: Watch::new(&options),
            engine: Mutex::default(),
        });
        world.book.note(|events| events.begins_anew(now));
        world.relay.begin(&store);
        let as_store = || Arc::clone(&store) as Arc<dyn Store>;
        let entropy = || Arc::clone(&world.dice) as Arc<dyn Entropy>;
        let tls = tls::config(rustls::RootCertStore::empty()).unwrap_or_else(|_| unreachable!("it trusts nobody"));
        let sender = Sender::with_tls(&options, Arc::clone(&clock), Arc::new(NoNames), tls);
        let receivers = Arc::clone(&world.receivers);
        let (most, under_way) = (options.max_in_flight as usize, AtomicUsize::new(0));
        let courier = Courier { receivers, clock: Arc::clone(&clock), life: number, most, under_way, sender };
        let engine = Engine::start(as_store(), Arc::new(courier), options, Arc::clone(&clock), entropy()).await?;
        let engine = Arc::new(engine);
        *store.engine.lock() = Arc::downgrade(&engine);
        let judges = Judges::new(Place::Threads, SchemaOptions::default());
        let limits = LimitOptions::default();
        let dispatcher = if world.dice.happens(STEPWISE) {
            Arc::new(Stepwise::new(engine.dispatcher(), Arc::clone(&world.dice)))
        } else {
            engine.dispatcher()
        };
        let intake = Intake::start(as_store(), dispatcher, Arc::clone(&clock), entropy(), &limits, judges);
        tokio::spawn(TaskRunner::new(as_store(), Arc::clone(&clock)).run());
        world.book.line(now, || format!("life {number} begins"));
        Ok(Self { world, number, clock, store, engine, intake: Arc::new(intake), deeds: Mutex::default() })
    }

    /// What happens in it.
    pub(crate) async fn pass(self: &Arc<Self>) {
        let dice = Arc::clone(&self.world.dice);
        *self.store.weather.lock() = Weather::drawn(&dice);
        let pause = *dice.one(&PAUSES);
        for _ in 0..dice.below(DEEDS) {
            // People do not wait for each other.
            self.deeds.lock().spawn(Arc::clone(self).deed());
            if dice.happens(0.5) {
                tokio::time::sleep(dice.time(pause)).await;
            }
        }
    }

    /// It ends, in order or not; the instant of that, and how.
    pub(crate) async fn end(&self) -> (Timestamp, Ended) {
        let ended = if self.world.dice.happens(0.3) { Ended::InOrder } else { Ended::ByCrash };
        if ended == Ended::InOrder {
            self.line(|| "is asked to end".to_owned());
            self.engine.shutdown().await;
            self.intake.close().await;
        }
        self.line(|| "ends".to_owned());
        self.world.relay.end();
        (self.clock.now(), ended)
    }

    /// Nothing goes wrong any more; waits until all is quiet, and says so.
    pub(crate) async fn calm(&self) -> bool {
        *self.store.weather.lock() = Weather::CALM;
        let mut deeds = std::mem::take(&mut *self.deeds.lock());
        while deeds.join_next().await.is_some() {}
        // It may have been changed meanwhile.
        *self.store.weather.lock() = Weather::CALM;
        // Now, so that nothing comes after it that would have the endpoint looked at once more.
        if self.world.dice.happens(0.3) {
            self.submit_while_out_of_reach().await;
        }
        if self.world.dice.happens(0.3) {
            self.look_for_a_newcomer().await;
        }
        self.world.receivers.calm();
        self.line(|| "all is calm".to_owned());
        let deadline = self.clock.now().saturating_add(CALMING);
        tokio::time::sleep(ENDS).await;
        for broken in promises::held_for_nothing(
            self.world.store().as_ref(),
            &self.world.homes(),
            &self.world.book,
            self.clock.now(),
        ) {
            self.world.book.note(|events| events.breaks(broken));
        }
        let mut pause = FIRST_LOOK;
        while self.clock.now() < deadline {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
            if !self.is_quiet() {
                continue;
            }
            // Lanes close when they have nothing to do.
            tokio::time::sleep(FIRST_LOOK).await;
            let usage = self.engine.usage();
            if self.is_quiet() {
                self.line(|| format!("is quiet: {usage:?}"));
                self.world.book.note(|events| events.left_over = Some(usage));
                return true;
            }
        }
        self.line(|| format!("is not quiet: {:?}", self.engine.usage()));
        false
    }

    fn is_quiet(&self) -> bool {
        self.world.is_quiet(&self.store) && self.engine.usage().requests == 0
    }

    /// All endpoints are sent something, and ask to be left alone.
    async fn have_all_ask_to_wait(&self) {
        for home in &self.world.homes {
            self.world.receivers.set(home.endpoint, Manner::AsksToWait);
        }
        for home in &self.world.homes {
            let submission = Submission { deliver_at: None, ..self.submission(home) };
            // It may be refused: some fail in the store.
            let _ = self.intake.submit(submission).await;
        }
        tokio::time::sleep(LONG_ENOUGH_TO_ASK).await;
    }

    /// The store works, and receivers are as they are: somebody new has an endpoint made, and sends a message.
    async fn look_for_a_newcomer(&self) {
        if self.world.dice.happens(0.5) {
            self.have_all_ask_to_wait().await;
        }
        let home = self.world.newcomer(self.clock.now());
        self.line(|| format!("endpoint {} is new", home.endpoint.0));
        let submission = Submission { deliver_at: None, ..self.submission(&home) };
        if self.intake.submit(submission).await.is_err() {
            return;
        }
        let deadline = self.clock.now().saturating_add(PATIENCE);
        let is_seen = || self.world.book.note(|events| events.seen.contains_key(&home.endpoint));
        while !is_seen() {
            if self.clock.now() > deadline {
                return self.world.book.note(|events| events.breaks(Broken::Starved));
            }
            tokio::time::sleep(LOOK_FOR_NEWCOMER).await;
        }
    }

    pub(crate) fn line(&self, line: impl FnOnce() -> String) {
        self.world.book.line(self.clock.now(), || format!("life {} {}", self.number, line()));
    }
}
