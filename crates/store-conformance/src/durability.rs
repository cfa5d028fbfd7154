//! Cases for what another process finds that opens the same database later.

use std::collections::HashSet;

use postrider_domain::delivery::Next;
use postrider_domain::endpoint::Headers;
use postrider_domain::time::Timestamp;

use super::Harness;
use super::accept::without_payload;
use super::world::{FAR, World, after, by_id, done, environment, failing, once, stored_answer};
use postrider_store::{
    AcceptError, Accepted, AttemptFilter, Direction, NewMessage, Scan, Store, StoreError, WriteError, Written,
};

pub(super) async fn everything_survives_a_restart<H: Harness>(world: &mut World<H>) {
    let app = world.add_application(&environment(), world.new_application(Some("one"))).await;
    let mut new = world.new_endpoint(Some("main"));
    new.headers = Headers::from([("X-A".to_owned(), "1".to_owned())]);
    let endpoint = world.add_endpoint(&app, new.clone()).await;
    done(world.store().create_event_type(&environment(), u64::MAX, world.new_event_type("a"), None).await.unwrap());
    done(world.store().rotate_secret(endpoint.key, world.secret(), FAR, world.tick(), None).await.unwrap());
    let message = world.message(&app, &[&endpoint]).await;
    let mut failed = world.settlement(&endpoint, &world.only_due(&endpoint).await, Next::Exhausted);
    failed.against = failing(message.value.created_at);
    world.settle(failed).await;
    let keys = world.store().signing_keys(endpoint.key).await.unwrap();
    let version = world.routes(&app).await.version;
    let page = || Scan::all(Direction::Ascending, 10);
    let filter = AttemptFilter { with_response: true, ..AttemptFilter::default() };
    let attempts = world.store().attempts_by_endpoint(endpoint.key, &filter, page()).await.unwrap().listed;

    world.reopen().await;
    let store = world.store();
    let id = by_id(app.value.id);
    assert_eq!(store.application(&environment(), &id).await.unwrap().as_ref(), Some(&app));
    assert_eq!(store.endpoint(app.key, &by_id(endpoint.value.id)).await.unwrap().as_ref(), Some(&endpoint));
    assert_eq!(store.headers(endpoint.key).await.unwrap(), Some(new.headers));
    assert_eq!(store.signing_keys(endpoint.key).await.unwrap(), keys);
    assert!(store.event_type(&environment(), "a").await.unwrap().is_some());
    let read = store.message(app.key, &by_id(message.value.id), true).await.unwrap().unwrap();
    assert_eq!((read.key, &read.value), (message.key, message.value.as_ref()));
    assert_eq!(store.attempts_by_endpoint(endpoint.key, &filter, page()).await.unwrap().listed, attempts);
    assert_eq!(world.routes(&app).await.version, version);
    let health = store.health(endpoint.key).await.unwrap().unwrap();
    assert_eq!(health.failing_since, Some(message.value.created_at));
}

pub(super) async fn replays_survive_a_restart<H: Harness>(world: &mut World<H>) {
    let app = world.application().await;
    let (key, other) = (world.idempotency_key(), world.idempotency_key());
    let draft = async |world: &World<H>| {
        let new = world.draft(&app, &[]).await;
        NewMessage { idempotency: Some((key, Timestamp::EPOCH)), ..new }
    };
    let first = draft(world).await;
    let message = first.message.clone();
    assert!(matches!(world.accept(first).await, Ok(Accepted::New(_))));
    let under = once(other, Timestamp::EPOCH, "first");
    let endpoint = world.new_endpoint(None);
    done(world.store().create_endpoint(app.key, endpoint, Some(under)).await.unwrap());

    world.reopen().await;
    match world.accept(draft(world).await).await {
        Ok(Accepted::Replayed(replayed)) => assert_eq!(*replayed, without_payload(&message)),
        result => panic!("it was accepted before the restart: {result:?}"),
    }
    let under = once(other, Timestamp::EPOCH, "second");
    let again = world.store().create_endpoint(app.key, world.new_endpoint(None), Some(under)).await.unwrap();
    assert_eq!(again, Written::Replayed(stored_answer("first")));
}

pub(super) async fn pending_deliveries_survive_a_restart<H: Harness>(world: &mut World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let (fresh, retried) = (world.message(&app, &[&endpoint]).await, world.message(&app, &[&endpoint]).await);
    let due = world.due(&endpoint, FAR).await.pop().unwrap();
    let at = after(retried.value.created_at, 60);
    world.settle(world.settlement(&endpoint, &due, Next::Waiting(at))).await;
    done(world.store().resend(endpoint.key, fresh.key, world.tick(), None).await.unwrap());
    let before = world.due(&endpoint, FAR).await;
    assert_eq!(before.len(), 3);

    world.reopen().await;
    let shown = |due: &[postrider_store::Due]| format!("{due:?}");
    assert_eq!(shown(&world.due(&endpoint, FAR).await), shown(&before));
}

pub(super) async fn handles_survive_a_restart<H: Harness>(world: &mut World<H>) {
    let app = world.application().await;
    let gone = world.endpoint(&app).await;
    let message = world.message(&app, &[&gone]).await;
    world.store().delete_endpoint(app.key, &by_id(gone.value.id), world.tick()).await.unwrap();
    world.reopen().await;
    let next = world.endpoint(&app).await;
    assert_ne!(next.key, gone.key, "a handle is not reused");
    assert_ne!(world.message(&app, &[]).await.key, message.key);
}

pub(super) async fn a_closed_store_says_so<H: Harness>(world: &World<H>) {
    fn assert_closed<T: std::fmt::Debug>(result: &Result<T, StoreError>) {
        assert!(matches!(result, Err(StoreError::Closed)), "{result:?}");
    }
    let (store, app) = (world.store(), world.application().await);
    let endpoint = world.endpoint(&app).await;
    let draft = world.draft(&app, &[endpoint.key]).await;
    store.close().await;
    store.close().await;

    assert_closed(&store.ping().await);
    assert_closed(&store.application(&environment(), &by_id(app.value.id)).await);
    assert_closed(&store.due(endpoint.key, FAR, None, HashSet::new(), 1, 1).await);
    assert_closed(&store.take_wakes(FAR, 1).await);
    assert_closed(&store.settle(Vec::new()).await);
    assert_closed(&store.wake_later(vec![endpoint.key], FAR).await);
    let accepted = store.accept(vec![draft]).await;
    assert!(matches!(accepted[..], [Err(AcceptError::Store(StoreError::Closed))]), "{accepted:?}");
    let created = store.create_application(&environment(), world.new_application(None), None).await;
    assert!(matches!(created, Err(WriteError::Store(StoreError::Closed))), "{created:?}");
}

pub(super) async fn a_store_that_is_open_answers_a_ping<H: Harness>(world: &mut World<H>) {
    let ping = async |store: &dyn Store| store.ping().await;
    ping(world.store().as_ref()).await.unwrap();
    world.reopen().await;
    ping(world.store().as_ref()).await.unwrap();
}
