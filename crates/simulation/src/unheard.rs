//! What is found without any hint: each change after which something is to be sent, by itself, while nobody is told of anything.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_delivery::options::DeliveryOptions;
use postrider_domain::delivery::{Hold, HoldReason};
use postrider_domain::endpoint::{EndpointPatch, EndpointUrl};
use postrider_domain::ids::TaskId;
use postrider_domain::names::IdOrUid;
use postrider_domain::time::Timestamp;
use postrider_ingest::Submission;
use postrider_store::{Job, NewTask, ReplayFilter, Span, Tasks as _, Work as _};

use crate::at_once::at_once;
use crate::book::{Book, Events};
use crate::carrier::Manner;
use crate::dice::Dice;
use crate::life::Life;
use crate::place::Place;
use crate::store::Weather;
use crate::world::{self, BEGIN, Over, World, within_runtime};

/// The longest time without a look at what is due.
const SCAN: Duration = Duration::from_secs(30);

/// The longest time without a look at background tasks.
const TASKS: Duration = Duration::from_secs(60);

/// What calls of the store and a request take.
const SLACK: Duration = Duration::from_secs(5);

/// How often it is looked whether something was sent.
const LOOK: Duration = Duration::from_millis(500);

/// In which what is prepared has come to its end: longer than a whole schedule.
const PREPARED: Duration = Duration::from_secs(120);

/// How long the endpoint is held back whose hold is lifted.
const HELD: Duration = Duration::from_secs(3_600);

/// A change after which something is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A message is accepted.
    Accept,
    /// One is accepted that is to be delivered later.
    AcceptForLater,
    /// Somebody asks for a message to be sent again.
    Resend,
    /// A task sends again what failed.
    Recover,
    /// A task sends what an endpoint has missed.
    ReplayMissing,
    /// A task sends everything again.
    BulkReplay,
    /// An endpoint that was held back is disabled, and enabled before what it has is canceled.
    Enable,
    /// An endpoint that was held back gets another URL.
    Move,
}

impl Change {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Accept,
        Self::AcceptForLater,
        Self::Resend,
        Self::Recover,
        Self::ReplayMissing,
        Self::BulkReplay,
        Self::Enable,
        Self::Move,
    ];

    /// In which the message is sent after the change.
    fn within(self) -> Duration {
        let looks = match self {
            Self::Recover | Self::ReplayMissing | Self::BulkReplay => TASKS + SCAN,
            _ => SCAN,
        };
        looks + SLACK
    }
}

/// Makes a change, of which nobody is told: whether the message is sent as soon as somebody looks of his own accord.
pub fn is_found_without_hints(change: Change, over: Over<'_>) -> bool {
    let (dice, book) = (Arc::new(Dice::new(0, 0)), Arc::new(Book::default()));
    let world = Arc::new(within_runtime(async { World::made(&dice, &book, over) }));
    let options = DeliveryOptions { max_in_flight: 100, ..world::options(&dice) };
    let home = world.homes[0];
    let is_sent = within_runtime(async {
        if matches!(change, Change::Enable | Change::Move) {
            let hold = Hold { until: BEGIN.saturating_add(HELD), reason: HoldReason::Asked };
            let is_noted = at_once(world.store().hold(home.endpoint, hold, None));
            assert!(matches!(is_noted, Ok(true)), "nothing is wrong with the store: {is_noted:?}");
        }
        let life = match Life::begin(Arc::clone(&world), 0, BEGIN, options).await {
            Ok(life) => Unheard { life, home },
            Err(error) => unreachable!("the store works at a start: {error}"),
        };
        *life.life.store.weather.lock() = Weather { lost: 1.0, ..Weather::CALM };
        life.prepare(change).await;
        let before = life.sent();
        life.make(change).await;
        life.waits_until(change.within(), || life.sent() > before).await
    });
    within_runtime(async { at_once(world.store().close()) });
    is_sent
}

/// A process that is told of nothing, and one endpoint.
struct Unheard {
    life: Life,
    home: Place,
}

impl Unheard {
    /// How many requests the endpoint saw.
    fn sent(&self) -> usize {
        self.life.world.book.note(|events| events.seen.get(&self.home.endpoint).map_or(0, Vec::len))
    }

    async fn waits_until(&self, longest: Duration, is_so: impl Fn() -> bool) -> bool {
        let deadline = self.life.clock.now().saturating_add(longest);
        while !is_so() {
            if self.life.clock.now() > deadline {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }

    async fn submit(&self, deliver_at: Option<Timestamp>) {
        let payload = Bytes::from_static(b"1");
        let drawn = self.life.submission(&self.home);
        let submitted = self.life.intake.submit(Submission { deliver_at, payload, idempotency: None, ..drawn }).await;
        assert!(submitted.is_ok(), "nothing is wrong with the store");
    }

    async fn set(&self, patch: EndpointPatch) {
        let (below, id) = (&self.life.store.below, IdOrUid::Id(self.home.endpoint_id));
        let change = below.update_endpoint(self.home.application, &id, patch, self.life.clock.now());
        let changed = self.life.store.change("update_endpoint", self.home.endpoint, change).await;
        assert!(changed.is_ok(), "nothing is wrong with the store");
    }

    async fn set_disabled(&self, disabled: bool) {
        self.set(EndpointPatch { disabled: Some(disabled), ..EndpointPatch::default() }).await;
    }

    /// What there has to be before the change.
    async fn prepare(&self, change: Change) {
        let world = &self.life.world;
        match change {
            Change::Accept | Change::AcceptForLater => return,
            Change::Enable | Change::Move => return self.submit(None).await,
            Change::ReplayMissing => {
                self.set_disabled(true).await;
                self.submit(None).await;
                return self.set_disabled(false).await;
            }
            Change::Recover => world.receivers.set(self.home.endpoint, Manner::Fails),
            Change::Resend | Change::BulkReplay => {}
        }
        self.submit(None).await;
        let has_ended = || world.is_quiet(&self.life.store);
        assert!(self.waits_until(PREPARED, has_ended).await, "{change:?}: the message comes to an end");
        world.receivers.calm();
    }

    async fn make(&self, change: Change) {
        let (now, endpoint) = (self.life.clock.now(), self.home.endpoint);
        let span = Span { since: BEGIN, until: now.saturating_add(SLACK) };
        match change {
            Change::Accept => self.submit(None).await,
            Change::AcceptForLater => self.submit(Some(now.saturating_add(SLACK))).await,
            Change::Resend => {
                let of_it = |events: &mut Events| events.accepted.keys().find(|at| at.0 == endpoint).copied();
                let Some((_, message)) = self.life.world.book.note(of_it) else { unreachable!("there is one") };
                let resent = self.life.store.resend(endpoint, message, now, None).await;
                assert!(resent.is_ok(), "nothing is wrong with the store");
            }
            Change::Recover => self.run(Job::Recover { endpoint, span }).await,
            Change::ReplayMissing => self.run(Job::Replay { endpoint, span }).await,
            Change::BulkReplay => {
                self.run(Job::BulkReplay { endpoint, span, filter: ReplayFilter::default() }).await;
            }
            Change::Enable => {
                self.set_disabled(true).await;
                self.set_disabled(false).await;
            }
            Change::Move => {
                let url = EndpointUrl::parse("https://elsewhere.example/hook").ok();
                self.set(EndpointPatch { url, ..EndpointPatch::default() }).await;
            }
        }
    }

    async fn run(&self, job: Job) {
        let (now, environment) = (self.life.clock.now(), self.life.world.environment.clone());
        let id = TaskId::new(now, self.life.world.dice.as_ref());
        let made = self.life.store.create_task(NewTask { id, environment, job, created_at: now }, None).await;
        assert!(made.is_ok(), "nothing is wrong with the store: {made:?}");
    }
}
