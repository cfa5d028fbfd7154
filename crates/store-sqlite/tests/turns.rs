//! Whatever one caller asks of the store at a time, others' writes and the process's own are carried out soon: what counts is how
//! much of his comes before them, not how long it takes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};

use postrider_domain::application::{Application, EnvironmentId};
use postrider_domain::delivery::{Hold, HoldReason};
use postrider_domain::endpoint::{Endpoint, EndpointPatch, EndpointUrl, Headers};
use postrider_domain::entropy::SeededEntropy;
use postrider_domain::ids::{ApplicationId, EndpointId};
use postrider_domain::names::{EventTypeName, IdOrUid, Uid};
use postrider_domain::signature::{Secret, SecretKind};
use postrider_domain::time::Timestamp;
use postrider_store::{
    ApplicationKey, Applications as _, EndpointKey, Endpoints as _, NewEndpoint, Retention as _, Store as _,
    TokenExpiry, Tokens as _, Work as _,
};
use postrider_store_sqlite::{Ownership, SqliteStore};
use tokio::task::JoinSet;

const NOW: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);

/// What one caller asks for at a time.
const MANY: usize = 400;

/// How much of that may come before what somebody else asks for meanwhile.
const FEW: usize = 60;

struct World {
    store: Arc<SqliteStore>,
    entropy: SeededEntropy,
}

struct Tenant {
    environment: EnvironmentId,
    application: ApplicationKey,
    endpoint: EndpointKey,
    endpoint_id: IdOrUid<EndpointId>,
}

impl World {
    fn application(&self) -> Application {
        Application {
            id: ApplicationId::new(NOW, &self.entropy),
            uid: None,
            name: "a".to_owned(),
            throttle_rate: None,
            metadata: BTreeMap::new(),
            created_at: NOW,
            updated_at: NOW,
        }
    }

    async fn tenant(&self, environment: &str) -> Tenant {
        let environment = EnvironmentId::parse(environment).unwrap();
        let application = self.application();
        let id = IdOrUid::Id(application.id);
        self.store.create_application(&environment, application, None).await.unwrap();
        let application = self.store.application(&environment, &id).await.unwrap().unwrap().key;
        let endpoint = Endpoint {
            id: EndpointId::new(NOW, &self.entropy),
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
            created_at: NOW,
            updated_at: NOW,
        };
        let endpoint_id = IdOrUid::Id(endpoint.id);
        let secret = Secret::generate(SecretKind::Hmac256, &self.entropy);
        let new = NewEndpoint { endpoint, secret, headers: Headers::new(), most: u64::MAX };
        self.store.create_endpoint(application, new, None).await.unwrap();
        let endpoint = self.store.endpoint(application, &endpoint_id).await.unwrap().unwrap().key;
        Tenant { environment, application, endpoint, endpoint_id }
    }
}

/// Has `attack` going on [`MANY`] times, and says for each other write how many of those came between asking for it and its end.
async fn beside<A: Future<Output = ()> + Send + 'static>(
    world: &World,
    attack: impl Fn(usize) -> A,
    neighbour: &Tenant,
    same_environment: &Tenant,
) -> Vec<(&'static str, usize)> {
    let done = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for number in 0..MANY {
        let (one, done) = (attack(number), Arc::clone(&done));
        tasks.spawn(async move {
            one.await;
            done.fetch_add(1, Ordering::SeqCst);
            None
        });
    }
    let mut other = |what: &'static str, write: Box<dyn Future<Output = ()> + Send + Unpin>| {
        let done = Arc::clone(&done);
        tasks.spawn(async move {
            let before = done.load(Ordering::SeqCst);
            write.await;
            Some((what, done.load(Ordering::SeqCst) - before))
        });
    };
    let store = || Arc::clone(&world.store);
    let endpoint = neighbour.endpoint;
    let health = store();
    other("the health check", Box::new(Box::pin(async move { health.ping().await.unwrap() })));
    let park = store();
    other("a note of the engine", Box::new(Box::pin(async move { assert!(park.park(endpoint, NOW).await.is_ok()) })));
    let hold = Hold { until: NOW, reason: HoldReason::Trouble };
    let held = store();
    other(
        "a hold of the engine",
        Box::new(Box::pin(async move { assert!(held.hold(endpoint, hold, None).await.unwrap()) })),
    );
    for (what, tenant) in [("another environment", neighbour), ("the same environment", same_environment)] {
        let (of, new, environment) = (store(), world.application(), tenant.environment.clone());
        let create = async move { drop(of.create_application(&environment, new, None).await.unwrap()) };
        other(what, Box::new(Box::pin(create)));
        let (of, application, id) = (store(), tenant.application, tenant.endpoint_id.clone());
        let patch = EndpointPatch { description: Some("new".to_owned()), ..EndpointPatch::default() };
        let change = async move { drop(of.update_endpoint(application, &id, patch, NOW).await.unwrap()) };
        other(what, Box::new(Box::pin(change)));
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

async fn expect_few_before_others<A: Future<Output = ()> + Send + 'static>(
    attack: impl FnOnce(&World, Tenant) -> Box<dyn Fn(usize) -> A>,
) {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(&folder.path().join("a.db"), Ownership::Owner).unwrap());
    let world = World { store, entropy: SeededEntropy::new(1) };
    let hostile = world.tenant("org_hostile").await;
    let (neighbour, same) = (world.tenant("org_neighbour").await, world.tenant("org_hostile").await);
    let attack = attack(&world, hostile);
    let before = beside(&world, attack, &neighbour, &same).await;
    assert_eq!(before.len(), 7);
    assert!(before.iter().all(|(_, count)| *count <= FEW), "{before:?}");
    world.store.close().await;
}

#[tokio::test]
async fn a_customers_thousand_names_many_times_delay_others_by_a_few_of_them() {
    expect_few_before_others(|world, hostile| {
        let store = Arc::clone(&world.store);
        let names: Vec<_> = (0..1_000).map(|number| EventTypeName::from_trusted(format!("name.{number}"))).collect();
        let patch = EndpointPatch { event_types: Some(Some(names)), ..EndpointPatch::default() };
        Box::new(move |_| {
            let (store, id, patch) = (Arc::clone(&store), hostile.endpoint_id.clone(), patch.clone());
            let application = hostile.application;
            async move { drop(store.update_endpoint(application, &id, patch, NOW).await.unwrap()) }
        })
    })
    .await;
}

#[tokio::test]
async fn an_operators_hundred_sessions_many_times_delay_others_by_a_few_of_them() {
    expect_few_before_others(|world, hostile| {
        let store = Arc::clone(&world.store);
        Box::new(move |_| {
            let (store, application) = (Arc::clone(&store), hostile.application);
            let sessions = (0..120).map(|number| format!("s{number}")).collect();
            let expiry = TokenExpiry { sessions, issued_before: NOW, refused_from: NOW };
            async move { drop(store.expire_tokens(application, expiry, None, NOW).await.unwrap()) }
        })
    })
    .await;
}

/// Whether something is asked for, and waits.
fn is_asked<T>(write: &mut Pin<Box<dyn Future<Output = T> + Send + '_>>) -> bool {
    write.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

/// How many requests of a caller are given up before they were begun.
const GIVEN_UP: usize = 1_000;

#[tokio::test]
async fn what_a_caller_asks_for_and_gives_up_before_it_is_begun_is_not_carried_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let world =
        World { store: Arc::new(SqliteStore::open(&path, Ownership::Owner).unwrap()), entropy: SeededEntropy::new(1) };
    let hostile = world.tenant("org_hostile").await;
    let (store, application, id) = (&world.store, hostile.application, &hostile.endpoint_id);
    // While somebody else writes, nothing is begun.
    let guest = rusqlite::Connection::open(&path).unwrap();
    guest.execute_batch("BEGIN IMMEDIATE").unwrap();
    let names: Vec<_> = (0..1_000).map(|number| EventTypeName::from_trusted(format!("name.{number}"))).collect();
    let patch = EndpointPatch { event_types: Some(Some(names)), ..EndpointPatch::default() };
    for _ in 0..GIVEN_UP {
        let mut change = store.update_endpoint(application, id, patch.clone(), NOW);
        assert!(is_asked(&mut change));
    }
    let patch = EndpointPatch { description: Some("new".to_owned()), ..EndpointPatch::default() };
    let mut change = store.update_endpoint(application, id, patch, NOW);
    assert!(is_asked(&mut change));
    guest.execute_batch("ROLLBACK").unwrap();
    change.await.unwrap();
    let endpoint = store.endpoint(application, id).await.unwrap().unwrap().value;
    assert_eq!((endpoint.event_types, endpoint.description.as_str()), (None, "new"));
    world.store.close().await;
}

#[tokio::test]
async fn what_is_dropped_of_notices_is_of_those_who_have_most() {
    // With what the store keeps in all, and a slice more.
    const MOST: i64 = 100_000;
    const HOGS: i64 = 11;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    SqliteStore::open(&path, Ownership::Owner).unwrap().close().await;
    let database = rusqlite::Connection::open(&path).unwrap();
    let add = |recipient: &str, count: i64| {
        let add = "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < ?2)
             INSERT INTO outbox (recipient, event_type, payload) SELECT ?1, 'a', x'7b7d' FROM n";
        database.execute(add, rusqlite::params![recipient, count]).unwrap();
    };
    // The oldest of all are those of whoever has few.
    add("few", 500);
    for hog in 0..HOGS {
        add(&format!("hog_{hog}"), MOST / 10);
    }
    let store = SqliteStore::open(&path, Ownership::Owner).unwrap();
    while store.forget_leftovers(NOW, 1_000).await.unwrap() >= 1_000 {}
    let count = |of: &str| {
        let sql = format!("SELECT count(*) FROM outbox WHERE recipient LIKE '{of}'");
        database.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(count("few"), 500);
    assert!((MOST - HOGS..=MOST).contains(&count("%")), "{}", count("%"));
    for hog in 0..HOGS {
        let (left, share) = (count(&format!("hog_{hog}")), (MOST - 500) / HOGS);
        assert!((share..share + HOGS).contains(&left), "{left} of {share}");
    }
    store.close().await;
}

#[tokio::test]
async fn what_is_dropped_of_an_operators_notices_is_about_the_application_that_has_most() {
    const MOST: i64 = 10_000;
    const OPERATOR: &str = "org_one";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    let store = Arc::new(SqliteStore::open(&path, Ownership::Owner).unwrap());
    let world = World { store, entropy: SeededEntropy::new(1) };
    let told = Application { uid: Some(Uid::from_trusted(OPERATOR.to_owned())), ..world.application() };
    world.store.create_application(&EnvironmentId::management(), told, None).await.unwrap();
    let database = rusqlite::Connection::open(&path).unwrap();
    let waiting = "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < ?2)
         INSERT INTO outbox (recipient, application_no, event_type, payload) SELECT ?1, ?3, 'a', x'7b7d' FROM n";
    let add = |application: i64, count: i64| {
        database.execute(waiting, rusqlite::params![OPERATOR, count, application]).unwrap();
    };
    // The oldest ones are of whoever has few.
    add(-1, 10);
    add(-2, MOST - 10);
    let count = |of: &str| {
        let sql = format!("SELECT count(*) FROM outbox WHERE {of}");
        database.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    for _ in 0..3 {
        world.tenant(OPERATOR).await;
    }
    assert_eq!(count("event_type = 'endpoint.created'"), 3, "others' are told");
    assert_eq!(count("application_no = -1"), 10);
    assert_eq!(count("application_no = -2"), MOST - 10 - 100);
    assert!(count("true") <= MOST);
    world.store.close().await;
}
