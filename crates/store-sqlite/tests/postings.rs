//! What postings cost: how many there are for ordinary traffic, and that those which are true no longer are taken back.
//! What they are for, the conformance suite checks.

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
use postrider_domain::entropy::SeededEntropy;
use postrider_domain::ids::{ApplicationId, AttemptId, EndpointId, MessageId};
use postrider_domain::message::Message;
use postrider_domain::names::{Channel, EventTypeName, IdOrUid, Tag};
use postrider_domain::signature::{Secret, SecretKind};
use postrider_domain::time::Timestamp;
use postrider_store::{
    Accepted, Applications as _, AttemptRecord, DeliveryKey, EndpointKey, Endpoints as _, MessageKey, NewEndpoint,
    NewMessage, Origin, Retention as _, Routes, Settlement, Store as _, Work as _,
};
use postrider_store_sqlite::{Ownership, SqliteStore};

const START: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);

struct World {
    _folder: tempfile::TempDir,
    path: PathBuf,
    store: SqliteStore,
    entropy: SeededEntropy,
    id: IdOrUid<ApplicationId>,
    routes: Routes,
    endpoint: EndpointKey,
}

/// A message that was accepted.
struct Sent {
    key: MessageKey,
    message: Arc<Message>,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("postrider.db");
        let store = SqliteStore::open(&path, Ownership::Owner).unwrap();
        let (environment, entropy) = (EnvironmentId::default_environment(), SeededEntropy::new(5));
        let id = ApplicationId::new(START, &entropy);
        let application = Application {
            id,
            uid: None,
            name: "a".to_owned(),
            throttle_rate: None,
            metadata: BTreeMap::new(),
            created_at: START,
            updated_at: START,
        };
        store.create_application(&environment, application, None).await.unwrap();
        let application = store.application(&environment, &IdOrUid::Id(id)).await.unwrap().unwrap().key;
        let endpoint = Endpoint {
            id: EndpointId::new(START, &entropy),
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
            created_at: START,
            updated_at: START,
        };
        let secret = Secret::generate(SecretKind::Hmac256, &entropy);
        let new = NewEndpoint { endpoint, secret, headers: Headers::new(), most: u64::MAX };
        store.create_endpoint(application, new, None).await.unwrap();
        let routes = store.routes(&environment, &IdOrUid::Id(id)).await.unwrap().unwrap();
        let endpoint = routes.targets[0].key;
        Self { _folder: folder, path, store, entropy, id: IdOrUid::Id(id), routes, endpoint }
    }

    /// Accepts messages of one type, 5 ms apart.
    async fn accept(&self, count: u64) -> Vec<Sent> {
        self.accept_named(count, None, None).await
    }

    async fn accept_named(&self, count: u64, channels: Option<Vec<Channel>>, tags: Option<Vec<Tag>>) -> Vec<Sent> {
        let message = |number: u64| {
            let at = START.saturating_add(Duration::from_millis(5 * number));
            Arc::new(Message {
                id: MessageId::new(at, &self.entropy),
                event_id: None,
                event_type: EventTypeName::parse("invoice.paid").unwrap(),
                channels: channels.clone(),
                tags: tags.clone(),
                deliver_at: None,
                expires_at: None,
                payload: Some(Bytes::from_static(b"{}")),
                created_at: at,
            })
        };
        let messages: Vec<_> = (0..count).map(message).collect();
        let new = |message: &Arc<Message>| NewMessage {
            application: self.routes.application,
            version: self.routes.version,
            rules: None,
            message: Arc::clone(message),
            endpoints: vec![self.endpoint],
            idempotency: None,
        };
        let accepted = self.store.accept(messages.iter().map(new).collect()).await;
        let sent = accepted.into_iter().zip(messages).map(|(accepted, message)| match accepted {
            Ok(Accepted::New(key)) => Sent { key, message },
            other => panic!("{other:?}"),
        });
        sent.collect()
    }

    fn settlement(&self, sent: &Sent, due_at: Timestamp, made: u32, next: Next) -> Settlement {
        let started_at = due_at.saturating_add(Duration::from_millis(1));
        let succeeded = next == Next::Succeeded;
        Settlement {
            endpoint: self.endpoint,
            delivery: DeliveryKey { due_at, message: sent.key },
            made,
            trigger: Trigger::Scheduled,
            attempt: Some(AttemptRecord {
                id: AttemptId::new(started_at, &self.entropy),
                started_at,
                url: "https://example.com/".into(),
                succeeded,
                status_code: if succeeded { 200 } else { 500 },
                response: Bytes::new(),
                duration_ms: 1,
            }),
            next,
            elsewhere: None,
            against: None,
            origin: Some(Origin { application: self.routes.application, message: Arc::clone(&sent.message) }),
            notice: None,
        }
    }

    fn count(&self, sql: &str) -> i64 {
        rusqlite::Connection::open(&self.path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

/// Postings of single messages. The only block in the test begins before everything.
const OF_MESSAGES: &str = "SELECT count(*) FROM message_posting JOIN message ON message.id = start";

#[tokio::test]
async fn sixteen_messages_of_one_kind_cost_seven_inserts() {
    let world = World::new().await;
    let sent = world.accept(1_600).await;
    let settle = |sent: &Sent| world.settlement(sent, sent.message.created_at, 0, Next::Succeeded);
    world.store.settle(sent.iter().map(settle).collect()).await.unwrap();
    assert_eq!(world.count("SELECT count(*) FROM message_posting"), 400);
    assert_eq!(world.count("SELECT count(*) FROM attempt_posting"), 300);
    assert_eq!(world.count("SELECT sum(succeeded) FROM attempt_tally"), 1_024);
    world.store.close().await;
}

#[tokio::test]
async fn each_name_of_a_message_is_posted_and_no_combination_of_names() {
    let world = World::new().await;
    let channels = (0..5).map(|number| Channel::parse(&format!("c{number}")).unwrap()).collect();
    let tags = (0..10).map(|number| Tag::parse(&format!("t{number}")).unwrap()).collect();
    let sent = world.accept_named(1, Some(channels), Some(tags)).await;
    // The block, its type, and the names.
    assert_eq!(world.count("SELECT count(*) FROM message_posting"), 2 + 15);
    let later = START.saturating_add(Duration::from_secs(60));
    let failed = world.settlement(&sent[0], sent[0].message.created_at, 0, Next::Waiting(later));
    world.store.settle(vec![failed]).await.unwrap();
    // Of the block that it failed at the endpoint, and of the message that it waits: each for any type, too.
    assert_eq!(world.count("SELECT count(*) FROM message_posting"), 2 + 15 + 2 * 17);
    // The block, how it ended, and that it failed.
    assert_eq!(world.count("SELECT count(*) FROM attempt_posting"), 1 + 2 * 17);
    world.store.close().await;
}

#[tokio::test]
async fn only_messages_that_failed_or_wait_have_postings_of_their_own() {
    let world = World::new().await;
    let sent = world.accept(3).await;
    let later = START.saturating_add(Duration::from_secs(60));
    let settle = async |which: usize, due_at, made, next| {
        world.store.settle(vec![world.settlement(&sent[which], due_at, made, next)]).await.unwrap();
    };
    let first = |which: usize| sent[which].message.created_at;
    settle(0, first(0), 0, Next::Succeeded).await;
    assert_eq!(world.count(OF_MESSAGES), 0);
    settle(1, first(1), 0, Next::Waiting(later)).await;
    settle(2, first(2), 0, Next::Waiting(later)).await;
    assert_eq!(world.count(OF_MESSAGES), 4, "two waiting, each for any type and for its own");
    settle(1, later, 1, Next::Exhausted).await;
    assert_eq!(world.count(OF_MESSAGES), 4, "one waiting, one failed");
    settle(2, later, 1, Next::Succeeded).await;
    assert_eq!(world.count(OF_MESSAGES), 2, "one failed");
    world.store.close().await;
}

#[tokio::test]
async fn what_nobody_reads_any_more_goes_with_its_application_and_little_at_a_time() {
    goes_little_at_a_time(false).await;
}

#[tokio::test]
async fn what_nobody_reads_any_more_goes_with_its_endpoint_and_little_at_a_time() {
    goes_little_at_a_time(true).await;
}

/// With its application, or `alone`.
async fn goes_little_at_a_time(alone: bool) {
    const ROWS: usize = 7;
    let world = World::new().await;
    // A version before this one posted combinations of names.
    let connection = rusqlite::Connection::open(&world.path).unwrap();
    let owners = [("attempt_posting", world.endpoint.0), ("message_posting", world.routes.application.0)];
    for (postings, owner) in owners.into_iter().take(if alone { 1 } else { 2 }) {
        let mut post = connection.prepare(&format!("INSERT INTO {postings} VALUES (?, ?, zeroblob(20))")).unwrap();
        for term in 1..=100 {
            post.execute([owner, term]).unwrap();
        }
    }
    let mut stretch =
        connection.prepare("INSERT INTO attempt_tally VALUES (?, randomblob(20), zeroblob(20), 0, 0)").unwrap();
    let mut url =
        connection.prepare("INSERT INTO endpoint_url (endpoint_no, url, retired_at) VALUES (?, ?, 1)").unwrap();
    for number in 0..100 {
        stretch.execute([world.endpoint.0]).unwrap();
        url.execute((world.endpoint.0, format!("https://{number}.test/"))).unwrap();
    }
    if alone {
        let id = IdOrUid::Id(world.routes.targets[0].endpoint.id);
        world.store.delete_endpoint(world.routes.application, &id, START).await.unwrap();
    } else {
        world.store.delete_application(&EnvironmentId::default_environment(), &world.id, START).await.unwrap();
    }
    let later = START.saturating_add(Duration::from_secs(365 * 86_400));
    let postings = || {
        let count = |table: &str| world.count(&format!("SELECT count(*) FROM {table}"));
        let tables = ["message_posting", "attempt_posting", "attempt_tally", "endpoint_url"];
        usize::try_from(tables.into_iter().map(count).sum::<i64>()).unwrap()
    };
    let mut left = postings();
    loop {
        let more = world.store.erase_deleted(later, ROWS).await.unwrap().more;
        assert!(left - postings() <= ROWS, "{left}");
        left = postings();
        if !more {
            break;
        }
    }
    assert_eq!((left, world.count("SELECT count(*) FROM endpoint")), (0, 0));
    assert_eq!(world.count("SELECT count(*) FROM application"), i64::from(alone));
    world.store.close().await;
}

#[tokio::test]
async fn what_is_deleted_goes_row_by_row_however_many_names_it_has() {
    const ROWS: usize = 100;
    let world = World::new().await;
    let tags: Vec<_> = (0..15).map(|number| Tag::parse(&format!("t{number}")).unwrap()).collect();
    let sent = world.accept_named(200, None, Some(tags)).await;
    let later = START.saturating_add(Duration::from_secs(60));
    let failed = |sent: &Sent| world.settlement(sent, sent.message.created_at, 0, Next::Waiting(later));
    world.store.settle(sent.iter().map(failed).collect()).await.unwrap();
    world.store.delete_application(&EnvironmentId::default_environment(), &world.id, START).await.unwrap();
    let count = |table: &str| usize::try_from(world.count(&format!("SELECT count(*) FROM {table}"))).unwrap();
    let tables = ["delivery", "payload", "message", "attempt", "message_posting", "attempt_posting"];
    let rows: usize = tables.into_iter().map(count).sum();
    let mut slices = 0;
    while world.store.erase_deleted(later, ROWS).await.unwrap().more {
        slices += 1;
    }
    assert_eq!(tables.map(count), [0; 6], "nothing is left");
    // One of each kind may be less than full.
    assert!(slices <= rows / ROWS + tables.len(), "{slices} slices for {rows} rows");
    world.store.close().await;
}
