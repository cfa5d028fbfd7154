//! The sweeper on a store, with a clock that only the test moves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_domain::application::{Application, EnvironmentId};
use postrider_domain::clock::Clock as _;
use postrider_domain::entropy::OsEntropy;
use postrider_domain::ids::{ApplicationId, MessageId};
use postrider_domain::message::Message;
use postrider_domain::names::{EventTypeName, IdOrUid};
use postrider_domain::settings::Span;
use postrider_domain::time::Timestamp;
use postrider_ingest::{Intake, Judges, LimitOptions, Place, SchemaOptions};
use postrider_store::{
    Accepted, Applications as _, Dispatch, HandOver, IdempotencyKey, Messages as _, NewMessage, Once, Owner,
    Retention as _, Routes, StoredAnswer, Work as _, Written,
};
use postrider_store_sqlite::{Ownership, SqliteStore};
use postrider_testkit::{ManualClock, wait};
use postrider_upkeep::{Removed, RetentionOptions, Sweeper};

const NOW: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);
const DAY: Duration = Duration::from_secs(86_400);

/// A store with one application, and a sweeper on it.
struct World {
    _folder: tempfile::TempDir,
    store: Arc<SqliteStore>,
    clock: Arc<ManualClock>,
    environment: EnvironmentId,
    id: ApplicationId,
    routes: Routes,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Arc::new(SqliteStore::open(&folder.path().join("test.db"), Ownership::Owner).expect("a store"));
        let environment = EnvironmentId::parse("org_test").expect("an id");
        let id = ApplicationId::new(NOW, &OsEntropy);
        let application = Application {
            id,
            uid: None,
            name: "test".to_owned(),
            throttle_rate: None,
            metadata: BTreeMap::new(),
            created_at: NOW,
            updated_at: NOW,
        };
        store.create_application(&environment, application, None).await.expect("an application");
        let routes = store.routes(&environment, &IdOrUid::Id(id)).await.expect("the store reads").expect("routes");
        Self { _folder: folder, store, clock: Arc::new(ManualClock::new(NOW)), environment, id, routes }
    }

    fn sweeper(&self, payload: Duration, history: Duration) -> Sweeper {
        let options = RetentionOptions { payload: Span(payload), history: Span(history) };
        Sweeper::new(Arc::clone(&self.store) as _, Arc::clone(&self.clock) as _, options)
    }

    /// Accepts a message now.
    async fn accept(&self, expires_at: Option<Timestamp>) -> MessageId {
        let now = self.clock.now();
        let message = Arc::new(Message {
            id: MessageId::new(now, &OsEntropy),
            event_id: None,
            event_type: EventTypeName::parse("a").expect("a name"),
            channels: None,
            payload: Some(Bytes::from_static(b"{}")),
            tags: None,
            deliver_at: None,
            expires_at,
            created_at: now,
        });
        let id = message.id;
        let new = NewMessage {
            application: self.routes.application,
            version: self.routes.version,
            rules: None,
            message,
            endpoints: Vec::new(),
            idempotency: None,
        };
        assert!(matches!(self.store.accept(vec![new]).await[0], Ok(Accepted::New(_))));
        id
    }

    /// Whether the message is there, and its payload.
    async fn look(&self, id: MessageId) -> (bool, bool) {
        let found = self.store.message(self.routes.application, &IdOrUid::Id(id), true).await.expect("the store reads");
        (found.is_some(), found.is_some_and(|message| message.value.payload.is_some()))
    }

    /// Sweeps twice a day until an instant, when nothing is to be removed before it.
    async fn pass(&self, sweeper: &Sweeper, until: Timestamp) {
        while self.clock.now() < until {
            self.clock.advance((DAY / 2).min(until.since(self.clock.now())));
            assert_eq!(sweeper.sweep().await.expect("the store writes"), Removed::default());
        }
    }
}

const MICRO: Duration = Duration::from_micros(1);

#[tokio::test]
async fn payloads_and_messages_are_gone_at_their_time_and_not_before() {
    let world = World::new().await;
    let sweeper = world.sweeper(90 * DAY, 120 * DAY);
    let (usual, short) = (world.accept(None).await, world.accept(Some(NOW.saturating_add(DAY))).await);
    let payload = Removed { payloads: 1, ..Removed::default() };
    let messages = Removed { messages: 2, ..Removed::default() };
    for (days, removed) in [(1, payload), (90, payload), (120, messages)] {
        world.pass(&sweeper, NOW.saturating_add(DAY * days).saturating_sub(MICRO)).await;
        world.clock.advance(MICRO);
        assert_eq!(sweeper.sweep().await.unwrap(), removed, "day {days}");
        assert_eq!(world.look(short).await, (days < 120, false));
        assert_eq!(world.look(usual).await, (days < 120, days < 90));
    }
}

#[tokio::test]
async fn the_agent_comes_by_often_enough_and_at_once_when_an_application_is_deleted() {
    let world = World::new().await;
    let gone = async |message| {
        wait::until("the payload to go", async || (!world.look(message).await.1).then_some(())).await;
    };
    let first = world.accept(Some(world.clock.now())).await;
    let agent = tokio::spawn(world.sweeper(90 * DAY, 90 * DAY).run());
    gone(first).await;
    let second = world.accept(Some(world.clock.now().saturating_add(DAY / 2))).await;
    wait::until("the agent to sleep", async || (world.clock.sleepers() > 0).then_some(())).await;
    world.clock.advance(DAY / 2 + Duration::from_secs(3_600));
    gone(second).await;
    // Handles outlive their applications.
    world.store.delete_application(&world.environment, &IdOrUid::Id(world.id), world.clock.now()).await.unwrap();
    wait::until("the messages to be erased", async || (!world.look(second).await.0).then_some(())).await;
    agent.abort();
}

#[tokio::test]
async fn a_clock_that_is_a_year_ahead_removes_nothing_until_it_has_shown_that_for_a_day() {
    let world = World::new().await;
    let message = world.accept(None).await;
    let sweeper = world.sweeper(90 * DAY, 90 * DAY);
    assert_eq!(sweeper.sweep().await.expect("the store writes"), Removed::default());
    world.clock.advance(365 * DAY);
    // A restart knows no more than before.
    let sweeper = {
        drop(sweeper);
        world.sweeper(90 * DAY, 90 * DAY)
    };
    world.accept(None).await;
    let minutes = Duration::from_secs(5 * 60);
    for _ in 0..288 {
        assert_eq!(sweeper.sweep().await.expect("the store writes"), Removed::default());
        assert_eq!(world.look(message).await, (true, true));
        world.clock.advance(minutes);
    }
    let removed = sweeper.sweep().await.unwrap();
    assert_eq!((removed.payloads, removed.messages), (1, 1));
}

struct Nowhere;

impl Dispatch for Nowhere {
    fn announce(&self, _: &[MessageId]) {}
    fn dispatch(&self, _: HandOver) {}
}

impl World {
    /// Makes an application under a key; whether that had been done before.
    async fn repeats(&self, key: u8) -> bool {
        let now = self.clock.now();
        let application = Application {
            id: ApplicationId::new(now, &OsEntropy),
            uid: None,
            name: "keyed".to_owned(),
            throttle_rate: None,
            metadata: BTreeMap::new(),
            created_at: now,
            updated_at: now,
        };
        let once = Once {
            key: IdempotencyKey([key; 16]),
            owner: Owner::Operator(self.environment.clone()),
            most: u64::MAX,
            not_before: Timestamp::EPOCH,
            answer: Box::new(|_: &Application| StoredAnswer { status: 201, body: Bytes::new() }),
        };
        let written = self.store.create_application(&self.environment, application, Some(once)).await;
        matches!(written.expect("the store writes"), Written::Replayed(_))
    }
}

#[tokio::test]
async fn a_clock_that_is_a_year_ahead_removes_no_idempotency_key_that_was_not_old_before() {
    let world = World::new().await;
    let (old, recent) = (1, 2);
    assert!(!world.repeats(old).await);
    world.clock.advance(Duration::from_secs(13 * 3_600));
    world.store.note_clock(world.clock.now(), world.clock.now()).await.expect("the store writes");
    assert!(!world.repeats(recent).await);
    world.clock.advance(365 * DAY);
    // It removes them, too.
    let judges = Judges::new(Place::Threads, SchemaOptions::default());
    let (store, clock) = (Arc::clone(&world.store) as _, Arc::clone(&world.clock) as _);
    let limits = LimitOptions::default();
    let _intake = Intake::start(store, Arc::new(Nowhere), clock, Arc::new(OsEntropy), &limits, judges);
    wait::until("the old key to go", async || (!world.repeats(old).await).then_some(())).await;
    assert!(world.repeats(recent).await);
}
