//! No commit that callers ask for writes much more than a few of their rows, whatever is stored in those rows: others wait for each
//! commit. Judged by the WAL, which has every page of every commit while somebody reads an old version of the store.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_domain::application::{Application, EnvironmentId, Metadata};
use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::{Against, DisableReason, EndpointFact, Hold, HoldReason, Next};
use postrider_domain::endpoint::{Endpoint, EndpointPatch, EndpointUrl, Headers};
use postrider_domain::entropy::SeededEntropy;
use postrider_domain::event_type::{EventType, EventTypePatch, Schemas};
use postrider_domain::ids::{ApplicationId, EndpointId, MessageId};
use postrider_domain::message::Message;
use postrider_domain::names::{EventTypeName, IdOrUid};
use postrider_domain::signature::{Secret, SecretKind};
use postrider_domain::time::Timestamp;
use postrider_store::{
    Accepted, ApplicationKey, Applications as _, DeliveryKey, EndpointKey, Endpoints as _, Environments as _,
    EventTypes as _, Import, ImportedEventType, NewEndpoint, NewMessage, Settlement, Store as _, Work as _,
};
use postrider_store_sqlite::{Ownership, SqliteStore};
use rusqlite::Connection;
use tokio::task::JoinSet;

const NOW: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);

/// A commit has 256 rows of what callers ask for, of 2 KiB; or what is asked for is one large row, of 1 MiB here. Beside that there
/// are pages of trees.
const MOST_PAGES: usize = 256 + 128;

/// How many are asked for at a time.
const AT_ONCE: usize = 24;

/// The pages of each commit in the WAL.
fn commits(database: &Path) -> Vec<usize> {
    let wal = std::fs::read(database.with_extension("db-wal")).unwrap();
    let (mut commits, mut pages) = (Vec::new(), 0);
    for frame in wal[32..].chunks_exact(24 + 4_096) {
        // What is left of an earlier round of the file has other salts.
        if frame[8..16] != wal[16..24] {
            break;
        }
        pages += 1;
        if frame[4..8] != [0; 4] {
            commits.push(pages);
            pages = 0;
        }
    }
    commits
}

/// A store in a folder of its own.
struct Stored {
    store: Arc<SqliteStore>,
    database: PathBuf,
    reader: Connection,
    _folder: tempfile::TempDir,
}

impl Stored {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("a.db");
        let store = Arc::new(SqliteStore::open(&database, Ownership::Owner).unwrap());
        Self { store, reader: Connection::open(&database).unwrap(), database, _folder: folder }
    }

    /// From now on, all that is committed stays in the WAL.
    fn watch(&self) {
        self.reader.execute_batch("BEGIN; SELECT count(*) FROM application").unwrap();
    }

    /// Asks for all of these at once.
    async fn at_once<F: Future<Output = ()> + Send + 'static>(&self, ask: impl Fn(Arc<SqliteStore>, usize) -> F) {
        let mut asked = JoinSet::new();
        for number in 0..AT_ONCE {
            asked.spawn(ask(Arc::clone(&self.store), number));
        }
        asked.join_all().await;
    }

    async fn assert_commits_are_small(self, after: &str) {
        let commits = commits(&self.database);
        assert!(commits.len() > 1 && commits.iter().all(|pages| *pages <= MOST_PAGES), "{after}: {commits:?}");
        self.store.close().await;
    }
}

async fn application(store: &SqliteStore) -> ApplicationKey {
    let id = ApplicationId::new(NOW, &SeededEntropy::new(1));
    let application = Application {
        id,
        uid: None,
        name: "a".to_owned(),
        throttle_rate: None,
        metadata: Metadata::new(),
        created_at: NOW,
        updated_at: NOW,
    };
    let environment = EnvironmentId::default_environment();
    store.create_application(&environment, application, None).await.unwrap();
    store.application(&environment, &IdOrUid::Id(id)).await.unwrap().unwrap().key
}

/// An endpoint that names as many event types as one may, with names as long as they may be.
fn endpoint(id: EndpointId) -> NewEndpoint {
    let name = |number| EventTypeName::from_trusted(format!("{number:0>256}"));
    let endpoint = Endpoint {
        id,
        uid: None,
        url: EndpointUrl::from_trusted("https://example.com/".to_owned()),
        description: String::new(),
        version: 1,
        disabled: false,
        disablement: None,
        held: None,
        event_types: Some((0..1_000).map(name).collect()),
        channels: None,
        throttle_rate: None,
        metadata: Metadata::new(),
        created_at: NOW,
        updated_at: NOW,
    };
    NewEndpoint {
        endpoint,
        secret: Secret::generate(SecretKind::default(), &SeededEntropy::new(2)),
        headers: Headers::default(),
        most: u64::MAX,
    }
}

/// An event type with as much of schemas as one may have.
fn event_type(number: usize) -> EventType {
    let schema = serde_json::value::to_raw_value(&"x".repeat((1 << 20) - 2)).unwrap();
    EventType {
        name: name(number),
        description: String::new(),
        archived: false,
        deprecated: false,
        schemas: Some(Schemas::from([("1".to_owned(), schema)])),
        feature_flag: None,
        group_name: None,
        created_at: NOW,
        updated_at: NOW,
    }
}

fn name(number: usize) -> EventTypeName {
    EventTypeName::from_trusted(format!("kind.{number:03}"))
}

async fn with_event_types() -> Stored {
    let stored = Stored::new();
    for number in 0..AT_ONCE {
        let environment = EnvironmentId::default_environment();
        stored.store.create_event_type(&environment, u64::MAX, event_type(number), None).await.unwrap();
    }
    stored.watch();
    stored
}

#[tokio::test(flavor = "multi_thread")]
async fn small_changes_of_large_endpoints_do_not_go_into_one_commit() {
    let stored = Stored::new();
    let application = application(&stored.store).await;
    let entropy = SeededEntropy::new(3);
    let ids: Vec<_> = (0..AT_ONCE).map(|_| EndpointId::new(NOW, &entropy)).collect();
    for id in &ids {
        stored.store.create_endpoint(application, endpoint(*id), None).await.unwrap();
    }
    stored.watch();
    stored
        .at_once(|store, number| {
            let id = IdOrUid::Id(ids[number]);
            async move {
                let patch = EndpointPatch { description: Some("other".to_owned()), ..EndpointPatch::default() };
                let changed = store.update_endpoint(application, &id, patch, NOW).await.unwrap();
                assert_eq!((changed.description.as_str(), changed.event_types.unwrap().len()), ("other", 1_000));
            }
        })
        .await;
    stored
        .at_once(|store, number| {
            let id = IdOrUid::Id(ids[number]);
            async move {
                let key = store.endpoint(application, &id).await.unwrap().unwrap().key;
                let mut headers = Headers::new();
                headers.insert("A", "b");
                store.set_headers(key, headers, NOW).await.unwrap();
            }
        })
        .await;
    stored.assert_commits_are_small("descriptions and headers").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_changes_of_large_event_types_do_not_go_into_one_commit() {
    let stored = with_event_types().await;
    stored
        .at_once(|store, number| async move {
            let patch = EventTypePatch { description: Some("other".to_owned()), ..EventTypePatch::default() };
            let environment = EnvironmentId::default_environment();
            let changed = store.update_event_type(&environment, name(number).as_str(), patch, NOW).await.unwrap();
            assert_eq!((changed.description.as_str(), changed.schemas.unwrap().len()), ("other", 1));
        })
        .await;
    stored.assert_commits_are_small("descriptions").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_weighed_by_what_it_overwrites() {
    let stored = with_event_types().await;
    let environment = EnvironmentId::default_environment();
    let without_schemas = |number| {
        let new = EventType { schemas: None, description: "other".to_owned(), ..event_type(number) };
        let patch = EventTypePatch { description: Some("other".to_owned()), ..EventTypePatch::default() };
        ImportedEventType { new, patch }
    };
    // The others are archived.
    let event_types = (0..AT_ONCE / 2).map(without_schemas).collect();
    let import = Import { event_types, archive_others: true, ..Import::default() };
    stored.store.import(&environment, import, NOW, None).await.unwrap();
    for number in 0..AT_ONCE {
        let found = stored.store.event_type(&environment, name(number).as_str()).await.unwrap().unwrap();
        assert_eq!(found.archived, number >= AT_ONCE / 2);
        assert_eq!(found.description == "other", !found.archived);
        assert_eq!(found.schemas.unwrap()["1"].get(), event_type(number).schemas.unwrap()["1"].get());
    }
    stored.assert_commits_are_small("an import").await;
}

/// What an engine says of these endpoints, in one batch.
async fn settle(
    store: &SqliteStore,
    endpoints: &[EndpointKey],
    entropy: &SeededEntropy,
    next: Next,
    against: Option<Against>,
) {
    let id = IdOrUid::Id(ApplicationId::new(NOW, &SeededEntropy::new(1)));
    let routes = store.routes(&EnvironmentId::default_environment(), &id).await.unwrap().unwrap();
    let (application, version) = (routes.application, routes.version);
    let message = Message {
        id: MessageId::new(NOW, entropy),
        event_id: None,
        event_type: EventTypeName::from_trusted("a".to_owned()),
        channels: None,
        payload: Some(Bytes::from_static(b"{}")),
        tags: None,
        deliver_at: None,
        expires_at: None,
        created_at: NOW,
    };
    let (message, idempotency, rules) = (Arc::new(message), None, None);
    let new = NewMessage { application, version, rules, message, endpoints: endpoints.to_vec(), idempotency };
    let accepted = store.accept(vec![new]).await;
    let [Ok(Accepted::New(message))] = accepted[..] else { panic!("{accepted:?}") };
    let settlement = |endpoint: &EndpointKey| Settlement {
        endpoint: *endpoint,
        delivery: DeliveryKey { due_at: NOW, message },
        made: 0,
        trigger: Trigger::Scheduled,
        attempt: None,
        next,
        elsewhere: None,
        against: against.map(|kind| EndpointFact { at: NOW, kind }),
        notice: None,
        origin: None,
    };
    assert!(store.settle(endpoints.iter().map(settlement).collect()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_out_about_large_endpoints_leaves_their_rows_alone() {
    let stored = Stored::new();
    let (application, entropy) = (application(&stored.store).await, SeededEntropy::new(3));
    let mut keys = Vec::new();
    for _ in 0..AT_ONCE {
        let id = EndpointId::new(NOW, &entropy);
        stored.store.create_endpoint(application, endpoint(id), None).await.unwrap();
        keys.push(stored.store.endpoint(application, &IdOrUid::Id(id)).await.unwrap().unwrap().key);
    }
    stored.watch();
    let store = &stored.store;
    let is_failing = async || store.health(keys[0]).await.unwrap().unwrap().failing_since.is_some();
    let failing = Against::Failing { disable_after: Duration::from_secs(1) };
    settle(store, &keys, &entropy, Next::Exhausted, Some(failing)).await;
    assert!(is_failing().await);
    settle(store, &keys, &entropy, Next::Succeeded, None).await;
    assert!(!is_failing().await);
    settle(store, &keys, &entropy, Next::Canceled, Some(Against::Gone)).await;
    for key in &keys {
        let endpoint = &store.target(*key).await.unwrap().unwrap().endpoint;
        assert_eq!(endpoint.disablement.unwrap().reason, DisableReason::Gone);
    }
    stored.assert_commits_are_small("facts").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_that_are_lifted_do_not_have_all_their_retries_moved_in_one_commit() {
    let stored = Stored::new();
    let (application, entropy) = (application(&stored.store).await, SeededEntropy::new(3));
    let until = NOW.saturating_add(Duration::from_secs(3_600));
    let (mut ids, mut keys) = (Vec::new(), Vec::new());
    for _ in 0..AT_ONCE {
        let id = EndpointId::new(NOW, &entropy);
        let mut small = endpoint(id);
        small.endpoint.event_types = None;
        stored.store.create_endpoint(application, small, None).await.unwrap();
        let key = stored.store.endpoint(application, &IdOrUid::Id(id)).await.unwrap().unwrap().key;
        stored.store.hold(key, Hold { until, reason: HoldReason::Asked }, None).await.unwrap();
        ids.push(id);
        keys.push(key);
    }
    let put_off = "WITH RECURSIVE n(no) AS (SELECT 1 UNION ALL SELECT no + 1 FROM n WHERE no < 1000)
         INSERT INTO delivery (endpoint_no, due_at, message_no, made, trigger)
         SELECT endpoint.no, ?, n.no, 1, 0 FROM n CROSS JOIN endpoint";
    stored.reader.execute(put_off, [until.as_micros()]).unwrap();
    stored.watch();
    stored
        .at_once(|store, number| {
            let (id, key) = (ids[number], keys[number]);
            async move {
                if number % 2 == 0 {
                    let secret = Secret::generate(SecretKind::default(), &SeededEntropy::new(4));
                    store.rotate_secret(key, secret, NOW, NOW, None).await.unwrap();
                } else {
                    let url = EndpointUrl::parse("https://example.com/other").ok();
                    let patch = EndpointPatch { url, ..EndpointPatch::default() };
                    store.update_endpoint(application, &IdOrUid::Id(id), patch, NOW).await.unwrap();
                }
            }
        })
        .await;
    let late = "SELECT count(*) FROM delivery WHERE due_at >= ?";
    let connection = Connection::open(&stored.database).unwrap();
    let left: usize = connection.query_row(late, [until.as_micros()], |row| row.get(0)).unwrap();
    assert_eq!(left, 0, "all of them are due");
    stored.assert_commits_are_small("lifted holds").await;
}
