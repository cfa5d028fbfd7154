//! A simulated quarter: the same traffic every day, with retention at work, and the size of the file. The clock is in the
//! test's hand; sizes are counted in pages.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_domain::application::{Application, EnvironmentId};
use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::Next;
use postrider_domain::endpoint::{Endpoint, EndpointUrl, Headers};
use postrider_domain::entropy::{Entropy as _, SeededEntropy};
use postrider_domain::ids::{ApplicationId, AttemptId, EndpointId, MessageId};
use postrider_domain::message::Message;
use postrider_domain::names::{Channel, EventTypeName, IdOrUid, Tag, Uid};
use postrider_domain::signature::{Secret, SecretKind};
use postrider_domain::time::Timestamp;
use postrider_store::{
    Accepted, Applications as _, AttemptRecord, DeliveryKey, Endpoints as _, IdempotencyKey, NewEndpoint, NewMessage,
    Once, Owner, Retention as _, Routes, Settlement, Store as _, StoredAnswer, TokenExpiry, Tokens as _, Work as _,
};
use postrider_store_sqlite::{Ownership, SqliteStore};

const START: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);
const DAY: Duration = Duration::from_secs(86_400);

/// Messages a day, for each application.
const DAILY: u64 = 40;

/// For how long payloads and messages are kept here.
const PAYLOADS_KEPT: u32 = 10;
const MESSAGES_KEPT: u32 = 30;

const DAYS: u32 = 120;

/// Other requests a day, for each application, with idempotency keys; and for how long those are kept.
const KEYED: u64 = 3;
const KEYS_KEPT: Duration = Duration::from_secs(12 * 3_600);

struct World {
    _folder: tempfile::TempDir,
    path: PathBuf,
    store: SqliteStore,
    entropy: SeededEntropy,
    routes: Vec<Routes>,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("postrider.db");
        let store = SqliteStore::open(&path, Ownership::Owner).unwrap();
        let entropy = SeededEntropy::new(9);
        let mut world = Self { _folder: folder, path, store, entropy, routes: Vec::new() };
        for _ in 0..3 {
            let routes = world.application(START).await;
            world.routes.push(routes);
        }
        world
    }

    /// A new application with an endpoint.
    async fn application(&self, now: Timestamp) -> Routes {
        let environment = EnvironmentId::default_environment();
        let id = ApplicationId::new(now, &self.entropy);
        let application = Application {
            id,
            uid: None,
            name: "a".to_owned(),
            throttle_rate: None,
            metadata: BTreeMap::new(),
            created_at: now,
            updated_at: now,
        };
        self.store.create_application(&environment, application, None).await.unwrap();
        let key = self.store.application(&environment, &IdOrUid::Id(id)).await.unwrap().unwrap().key;
        let endpoint = Endpoint {
            id: EndpointId::new(now, &self.entropy),
            uid: None,
            url: EndpointUrl::parse("https://example.com/").unwrap(),
            description: String::new(),
            version: 1,
            disabled: false,
            disablement: None,
            held: None,
            event_types: None,
            channels: None,
            throttle_rate: None,
            metadata: BTreeMap::new(),
            created_at: now,
            updated_at: now,
        };
        let secret = Secret::generate(SecretKind::Hmac256, &self.entropy);
        self.store
            .create_endpoint(key, NewEndpoint { endpoint, secret, headers: Headers::new(), most: u64::MAX }, None)
            .await
            .unwrap();
        self.store.routes(&environment, &IdOrUid::Id(id)).await.unwrap().unwrap()
    }

    /// A message of some size, with an event id, tags of its own, and an end of its own now and then.
    fn message(&self, number: u64, at: Timestamp) -> Arc<Message> {
        let bytes = 200 + (self.entropy.unit() * 1_000.0) as usize;
        let large = number % 40 == 7;
        Arc::new(Message {
            id: MessageId::new(at, &self.entropy),
            event_id: Some(Uid::from_trusted(format!("event-{}", MessageId::new(at, &self.entropy)))),
            event_type: EventTypeName::parse(if number.is_multiple_of(3) { "invoice.paid" } else { "user.created" })
                .unwrap(),
            channels: number.is_multiple_of(5).then(|| vec![Channel::parse("x").unwrap()]),
            tags: number
                .is_multiple_of(10)
                .then(|| vec![Tag::parse(&format!("order-{number}-{}", at.as_micros())).unwrap()]),
            deliver_at: None,
            expires_at: number.is_multiple_of(7).then(|| at.saturating_add(2 * DAY)),
            payload: Some(Bytes::from(vec![b'x'; if large { 30_000 } else { bytes }])),
            created_at: at,
        })
    }

    /// A day's traffic: each message is delivered, a few at the second attempt.
    async fn traffic(&self, today: Timestamp) {
        for routes in &self.routes {
            let endpoint = routes.targets[0].key;
            for _ in 0..KEYED {
                self.keyed(routes, today).await;
            }
            let messages: Vec<_> = (0..DAILY)
                .map(|number| self.message(number, today.saturating_add(Duration::from_secs(60 * number))))
                .collect();
            let new = |message: &Arc<Message>| NewMessage {
                application: routes.application,
                version: routes.version,
                rules: None,
                message: Arc::clone(message),
                endpoints: vec![endpoint],
                idempotency: None,
            };
            let accepted = self.store.accept(messages.iter().map(new).collect()).await;
            let mut due: Vec<_> = Vec::new();
            for (accepted, message) in accepted.into_iter().zip(&messages) {
                let Ok(Accepted::New(key)) = accepted else { panic!("{accepted:?}") };
                due.push(DeliveryKey { due_at: message.created_at, message: key });
            }
            let settlement = |place: usize, delivery: DeliveryKey, made: u32, next: Next| {
                let started_at = delivery.due_at.saturating_add(Duration::from_millis(10));
                let succeeded = next == Next::Succeeded;
                Settlement {
                    endpoint,
                    delivery,
                    made,
                    trigger: Trigger::Scheduled,
                    attempt: Some(AttemptRecord {
                        id: AttemptId::new(started_at, &self.entropy),
                        started_at,
                        url: "https://example.com/".into(),
                        succeeded,
                        status_code: if succeeded { 200 } else { 500 },
                        response: Bytes::from(vec![b'y'; 20 + place % 50]),
                        duration_ms: 1,
                    }),
                    next,
                    elsewhere: None,
                    against: None,
                    origin: None,
                    notice: None,
                }
            };
            let later = |delivery: &DeliveryKey| delivery.due_at.saturating_add(Duration::from_secs(5));
            let first = due.iter().enumerate().map(|(place, delivery)| {
                let next = if place % 8 == 0 { Next::Waiting(later(delivery)) } else { Next::Succeeded };
                settlement(place, *delivery, 0, next)
            });
            self.store.settle(first.collect()).await.unwrap();
            let second = due.iter().enumerate().filter(|(place, _)| place % 8 == 0).map(|(place, delivery)| {
                let next = if place % 16 == 0 { Next::Exhausted } else { Next::Succeeded };
                settlement(place, DeliveryKey { due_at: later(delivery), ..*delivery }, 1, next)
            });
            self.store.settle(second.collect()).await.unwrap();
        }
    }

    /// A request with an idempotency key, of which the answer has some size.
    async fn keyed(&self, routes: &Routes, today: Timestamp) {
        let mut key = [0; 16];
        self.entropy.fill(&mut key);
        let once = Once {
            key: IdempotencyKey(key),
            owner: Owner::Application(routes.application),
            most: KEYED * 10_000,
            not_before: today.saturating_sub(KEYS_KEPT),
            answer: Box::new(|()| StoredAnswer { status: 204, body: Bytes::from(vec![b'z'; 8_000]) }),
        };
        let expiry = TokenExpiry { sessions: Vec::new(), issued_before: today, refused_from: today };
        self.store.expire_tokens(routes.application, expiry, Some(once), today).await.unwrap();
    }

    /// What the sweeper does.
    async fn sweep(&self, now: Timestamp) {
        while self.store.erase_deleted(now, 250).await.unwrap().more {}
        while self.store.sweep_payloads(now, DAY * PAYLOADS_KEPT, 500).await.unwrap().more {}
        while self.store.sweep_messages(now, DAY * MESSAGES_KEPT, 250).await.unwrap().more {}
        while self.store.forget_urls(now.saturating_sub(DAY * MESSAGES_KEPT), 250).await.unwrap().more {}
        while self.store.forget_keys(now.saturating_sub(KEYS_KEPT), 10).await.unwrap() {}
    }

    fn connection(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(&self.path).unwrap()
    }

    /// The pages of the file.
    fn pages(&self) -> i64 {
        pages(&self.connection())
    }

    /// The pages of a file that holds nothing but what is kept.
    fn kept_pages(&self) -> i64 {
        let copy = self.path.with_extension("copy");
        self.connection().execute("VACUUM INTO ?", [copy.to_str().unwrap()]).unwrap();
        let pages = pages(&rusqlite::Connection::open(&copy).unwrap());
        std::fs::remove_file(copy).unwrap();
        pages
    }

    fn count(&self, sql: &str) -> i64 {
        self.connection().query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

fn pages(connection: &rusqlite::Connection) -> i64 {
    connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap()
}

fn today(day: u32) -> Timestamp {
    START.saturating_add(DAY * day)
}

#[tokio::test]
async fn in_a_quarter_of_steady_traffic_the_file_stays_as_large_as_what_is_kept_needs() {
    let world = World::new().await;
    let mut settled = 0;
    for day in 0..DAYS {
        world.traffic(today(day)).await;
        world.sweep(today(day + 1).saturating_sub(Duration::from_secs(1))).await;
        if day == MESSAGES_KEPT + PAYLOADS_KEPT {
            settled = world.pages();
        }
    }
    let (pages, kept) = (world.pages(), world.kept_pages());
    let free = world.count("PRAGMA freelist_count");
    assert!(pages * 10 <= kept * 13, "{pages} pages for what needs {kept}, {free} of them free");
    assert!(pages * 100 <= settled * 105, "{settled} pages became {pages} although as much came as went");
    // Everything else is bounded by what is kept as well.
    for (table, rows) in
        [("answer", 0), ("answer_key", 0), ("answer_room", 0), ("token_expiry", 3), ("endpoint_url", 3)]
    {
        assert_eq!(world.count(&format!("SELECT count(*) FROM {table}")), rows, "{table}");
    }
    let messages = i64::from(MESSAGES_KEPT) * 3 * i64::try_from(DAILY).unwrap();
    assert_eq!(world.count("SELECT count(*) FROM message"), messages);
    assert_eq!(world.count("SELECT count(*) FROM attempt"), messages + messages / 8);
    // The block that covers an application's oldest message may begin before it; no other is left.
    assert!(
        world.count("SELECT count(*) FROM message_posting WHERE term = 0 AND start < (SELECT min(id) FROM message)")
            <= 3
    );
    assert_eq!(world.count("SELECT sum(succeeded < 0 OR failed < 0) FROM attempt_tally"), 0);
    world.store.close().await;
}

#[tokio::test]
async fn when_everything_is_gone_no_row_and_no_posting_is_left() {
    let world = World::new().await;
    for day in 0..20 {
        world.traffic(today(day)).await;
    }
    world.sweep(today(200)).await;
    for table in [
        "message",
        "payload",
        "attempt",
        "message_posting",
        "attempt_posting",
        "attempt_tally",
        "delivery",
        "held_message",
    ] {
        assert_eq!(world.count(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
    // And it goes on.
    let full = world.pages();
    for day in 200..220 {
        world.traffic(today(day)).await;
    }
    assert!(world.pages() * 100 <= full * 105, "{full} pages were free, and became {}", world.pages());
    world.store.close().await;
}

#[tokio::test]
async fn a_deleted_application_leaves_its_pages_to_the_others() {
    let world = World::new().await;
    for day in 0..10 {
        world.traffic(today(day)).await;
    }
    let environment = EnvironmentId::default_environment();
    for routes in &world.routes {
        world.store.delete_application(&environment, &IdOrUid::Id(routes.id), today(10)).await.unwrap();
    }
    let full = world.pages();
    while world.store.erase_deleted(today(10), 250).await.unwrap().more {}
    // Answers to repeated requests go at their time, whatever they are about.
    while world.store.forget_keys(today(10), 250).await.unwrap() {}
    let free = world.count("PRAGMA freelist_count");
    assert!(free * 10 > full * 8, "{free} of {full} pages are free");
    while world.store.erase_deleted(today(12), 250).await.unwrap().more {}
    assert_eq!(world.count("SELECT count(*) FROM application"), 0);
    assert_eq!(world.count("SELECT count(*) FROM endpoint"), 0);
    world.store.close().await;
}
