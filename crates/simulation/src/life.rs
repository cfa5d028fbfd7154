//! One life of the process: from its start to its end, in order or not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_delivery::options::DeliveryOptions;
use postrider_delivery::sender::Sender;
use postrider_delivery::{Engine, tls};
use postrider_domain::clock::Clock;
use postrider_domain::endpoint::{EndpointPatch, EndpointUrl};
use postrider_domain::entropy::Entropy;
use postrider_domain::ids::TaskId;
use postrider_domain::names::{EventTypeName, IdOrUid};
use postrider_domain::time::Timestamp;
use postrider_ingest::{Intake, Judges, LimitOptions, Place, SchemaOptions, Submission, SubmitError, Submitted};
use postrider_store::{Endpoints, Job, Messages, NewTask, ReplayFilter, Span, Store, StoreError, Tasks, Work};
use postrider_upkeep::TaskRunner;

use crate::book::At;
use crate::carrier::{Courier, Manner, NoNames};
use crate::clock::VirtualClock;
use crate::store::{Stormy, Weather};
use crate::world::{Place as Home, World};

/// How much people do in one life, at most.
const DEEDS: usize = 40;

/// The longest pause between two deeds.
const PAUSE: Duration = Duration::from_secs(2);

/// In which the calmed world must become quiet: longer than all waits of a delivery together.
const CALMING: Duration = Duration::from_secs(900);

/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_secs(5);

/// A process that runs.
pub(crate) struct Life {
    world: Arc<World>,
    number: usize,
    clock: Arc<dyn Clock>,
    store: Arc<Stormy>,
    engine: Engine,
    intake: Arc<Intake>,
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
            below: Arc::clone(&world.store),
            relay: Arc::clone(&world.relay),
            weather: Mutex::new(Weather::CALM),
            dice: Arc::clone(&world.dice),
            clock: Arc::clone(&clock),
            book: Arc::clone(&world.book),
        });
        world.relay.begin(&store);
        let as_store = || Arc::clone(&store) as Arc<dyn Store>;
        let entropy = || Arc::clone(&world.dice) as Arc<dyn Entropy>;
        let tls = tls::config(rustls::RootCertStore::empty()).unwrap_or_else(|_| unreachable!("it trusts nobody"));
        let sender = Sender::with_tls(&options, Arc::clone(&clock), Arc::new(NoNames), tls);
        let receivers = Arc::clone(&world.receivers);
        let courier = Courier { receivers, clock: Arc::clone(&clock), life: number, sender };
        let engine = Engine::start(as_store(), Arc::new(courier), options, Arc::clone(&clock), entropy()).await?;
        let judges = Judges::new(Place::Threads, SchemaOptions::default());
        let limits = LimitOptions::default();
        let intake = Intake::start(as_store(), engine.dispatcher(), Arc::clone(&clock), entropy(), &limits, judges);
        tokio::spawn(TaskRunner::new(as_store(), Arc::clone(&clock)).run());
        world.book.line(now, || format!("life {number} begins"));
        Ok(Self { world, number, clock, store, engine, intake: Arc::new(intake) })
    }

    /// What happens to it until it ends; the instant of that.
    pub(crate) async fn pass(self) -> Timestamp {
        let dice = Arc::clone(&self.world.dice);
        *self.store.weather.lock() = Weather::drawn(&dice);
        let life = Arc::new(self);
        for _ in 0..dice.below(DEEDS) {
            let deed = Arc::clone(&life).deed();
            // People do not wait for each other.
            tokio::spawn(deed);
            if dice.happens(0.5) {
                tokio::time::sleep(dice.time(PAUSE)).await;
            }
        }
        if dice.happens(0.3) {
            life.line(|| "is asked to end".to_owned());
            life.engine.shutdown().await;
            life.intake.close().await;
        }
        life.line(|| "ends".to_owned());
        life.world.relay.end();
        life.clock.now()
    }

    /// Nothing goes wrong any more; waits until all is quiet, and says so.
    pub(crate) async fn calm(self) -> bool {
        self.world.receivers.calm();
        *self.store.weather.lock() = Weather::CALM;
        self.line(|| "all is calm".to_owned());
        let deadline = self.clock.now().saturating_add(CALMING);
        while self.clock.now() < deadline {
            tokio::time::sleep(LOOK).await;
            if self.world.is_quiet(&self.store) && self.engine.usage().requests == 0 {
                // Lanes close when they have nothing to do.
                tokio::time::sleep(LOOK).await;
                let usage = self.engine.usage();
                self.line(|| format!("is quiet: {usage:?}"));
                self.world.book.note(|events| events.left_over = Some(usage));
                return true;
            }
        }
        self.line(|| format!("is not quiet: {:?}", self.engine.usage()));
        false
    }

    fn line(&self, line: impl FnOnce() -> String) {
        self.world.book.line(self.clock.now(), || format!("life {} {}", self.number, line()));
    }

    /// Somebody does something.
    async fn deed(self: Arc<Self>) {
        let dice = &self.world.dice;
        match dice.below(20) {
            0..=6 => self.submit(1).await,
            7..=9 => self.submit(2 + dice.below(30)).await,
            10 | 11 => {
                let manner = *dice.one(&Manner::ALL);
                let home = *dice.one(&self.world.homes);
                self.line(|| format!("endpoint {} {manner:?} from now on", home.endpoint.0));
                self.world.receivers.set(home.endpoint, manner);
            }
            12 => {
                let weather = Weather::drawn(dice);
                self.line(|| format!("the weather changes: {weather:?}"));
                *self.store.weather.lock() = weather;
            }
            13 | 14 => self.resend().await,
            15 => self.erase().await,
            16 => self.replay().await,
            17 => self.disable(true).await,
            18 => self.disable(false).await,
            _ if dice.happens(0.2) => self.delete().await,
            _ => self.move_away().await,
        }
    }

    async fn submit(&self, count: usize) {
        let home = *self.world.dice.one(&self.world.homes);
        let submissions = (0..count).map(|_| self.submission(&home)).collect::<Vec<_>>();
        let mut results = if count == 1 {
            let mut results = Vec::new();
            for submission in submissions {
                results.push(self.intake.submit(submission).await);
            }
            results
        } else {
            self.intake.submit_all(submissions).await
        };
        self.world.book.note(|events| {
            let acked = results.drain(..).filter_map(|result: Result<Submitted, SubmitError>| result.ok());
            events.acked.extend(acked.map(|submitted| submitted.message.id.to_string()));
        });
    }

    fn submission(&self, home: &Home) -> Submission {
        let dice = &self.world.dice;
        let later = dice.happens(0.1).then(|| self.clock.now().saturating_add(dice.time(Duration::from_secs(60))));
        let size = if dice.happens(0.1) { dice.below(300_000) } else { dice.below(100) };
        Submission {
            environment: self.world.environment.clone(),
            application: IdOrUid::Id(home.application_id),
            event_type: EventTypeName::from_trusted("a".to_owned()),
            event_id: None,
            channels: None,
            payload: Bytes::from(vec![b'1'; 1 + size]),
            tags: None,
            deliver_at: later,
            retention: None,
            create_application: None,
            only: None,
            idempotency: None,
        }
    }

    /// A delivery that was made some time.
    fn some_delivery(&self) -> Option<At> {
        self.world.book.note(|events| {
            let count = events.accepted.len();
            let nth = (count > 0).then(|| self.world.dice.below(count))?;
            events.accepted.keys().nth(nth).copied()
        })
    }

    async fn resend(&self) {
        let (Some((endpoint, message)), now) = (self.some_delivery(), self.clock.now()) else { return };
        self.world.book.note(|events| {
            events.asked_again.entry((endpoint, message)).or_insert(now);
        });
        self.line(|| format!("is asked to send message {} to endpoint {} again", message.0, endpoint.0));
        // It may be refused: the payload is gone, or the weather is bad.
        let _ = self.store.resend(endpoint, message, self.clock.now(), None).await;
    }

    async fn erase(&self) {
        let Some((_, message)) = self.some_delivery() else { return };
        self.world.book.note(|events| events.erasing.insert(message));
        if self.store.expunge_message(message).await.is_ok() {
            let now = self.clock.now();
            self.world.book.note(|events| {
                events.erased.entry(message).or_insert(now);
            });
            self.line(|| format!("has erased message {}", message.0));
        }
    }

    async fn replay(&self) {
        let (dice, now) = (&self.world.dice, self.clock.now());
        let home = *dice.one(&self.world.homes);
        let span = Span { since: now.saturating_sub(Duration::from_secs(600)), until: now };
        let endpoint = home.endpoint;
        let job = match dice.below(3) {
            0 => Job::Recover { endpoint, span },
            1 => Job::Replay { endpoint, span },
            _ => Job::BulkReplay { endpoint, span, filter: ReplayFilter::default() },
        };
        self.line(|| format!("is asked for {job:?}"));
        self.world.book.note(|events| {
            events.replayed.entry(endpoint).or_insert(now);
        });
        let environment = self.world.environment.clone();
        let new = NewTask { id: TaskId::new(now, dice.as_ref()), environment, job, created_at: now };
        // It may be refused: another one is under way.
        let _ = self.store.create_task(new, None).await;
    }

    async fn disable(&self, disabled: bool) {
        let home = *self.world.dice.one(&self.world.homes);
        if disabled {
            self.world.book.note(|events| events.shut.insert(home.endpoint));
        }
        self.line(|| format!("endpoint {}: disabled is set to {disabled}", home.endpoint.0));
        self.change(&home, EndpointPatch { disabled: Some(disabled), ..EndpointPatch::default() }).await;
    }

    async fn delete(&self) {
        let home = *self.world.dice.one(&self.world.homes);
        self.world.book.note(|events| {
            events.shut.insert(home.endpoint);
            events.deleted.insert(home.endpoint);
        });
        self.line(|| format!("endpoint {} is deleted", home.endpoint.0));
        let id = IdOrUid::Id(home.endpoint_id);
        // It may be deleted already.
        let _ = self.store.delete_endpoint(home.application, &id, self.clock.now()).await;
    }

    async fn move_away(&self) {
        let home = *self.world.dice.one(&self.world.homes);
        let url = EndpointUrl::parse("https://elsewhere.example/hook").ok();
        self.change(&home, EndpointPatch { url, ..EndpointPatch::default() }).await;
    }

    async fn change(&self, home: &Home, patch: EndpointPatch) {
        let id = IdOrUid::Id(home.endpoint_id);
        // Bad weather: somebody who cared would try again.
        let _ = self.store.update_endpoint(home.application, &id, patch, self.clock.now()).await;
    }
}
