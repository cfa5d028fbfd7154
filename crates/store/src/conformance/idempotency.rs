//! Cases for writes that are carried out once under a key. Accepting has cases of its own.

use bytes::Bytes;
use postrider_domain::time::Timestamp;

use super::Harness;
use super::world::{FAR, World, done, environment, once, stored_answer};
use crate::{ApplicationFilter, Direction, EventTypeFilter, Once, Scan, StoredAnswer, WriteError, Written};

pub(super) async fn an_application_is_created_once<H: Harness>(world: &World<H>) {
    let (store, key) = (world.store(), world.idempotency_key());
    let first = world.new_application(Some("one"));
    // The answer is made of what was written, and may hold any byte.
    let answer = |name: &str| StoredAnswer { status: 201, body: Bytes::from([name.as_bytes(), b"\0\xff"].concat()) };
    let under = |_| {
        let answer: Box<dyn FnOnce(&_) -> _ + Send> =
            Box::new(move |written: &postrider_domain::application::Application| answer(&written.id.to_string()));
        Once { key, not_before: Timestamp::EPOCH, answer }
    };
    let written = store.create_application(&environment(), first.clone(), Some(under(()))).await.unwrap();
    assert_eq!(done(written), first);
    // A replay wins over the conflict of uids that carrying it out again would be.
    for uid in [Some("one"), None] {
        let again = world.new_application(uid);
        let replayed = store.create_application(&environment(), again, Some(under(()))).await.unwrap();
        assert_eq!(replayed, Written::Replayed(answer(&first.id.to_string())));
    }
    let all = store
        .applications(&environment(), ApplicationFilter::default(), Scan::all(Direction::Ascending, 10))
        .await
        .unwrap()
        .rows;
    assert_eq!(all, [first]);
}

pub(super) async fn an_endpoint_is_created_once<H: Harness>(world: &World<H>) {
    let (store, app, key) = (world.store(), world.application().await, world.idempotency_key());
    let create = async |answer| {
        let under = once(key, Timestamp::EPOCH, answer);
        store.create_endpoint(app.key, world.new_endpoint(None), Some(under)).await.unwrap()
    };
    let first = done(create("first").await);
    let version = world.routes(&app).await.version;
    assert_eq!(create("second").await, Written::Replayed(stored_answer("first")));
    let all = store.endpoints(app.key, Scan::all(Direction::Ascending, 10)).await.unwrap().rows;
    assert_eq!(all, [first]);
    assert_eq!(world.routes(&app).await.version, version, "a replay changes nothing");
}

pub(super) async fn an_event_type_is_created_once<H: Harness>(world: &World<H>) {
    let (store, key) = (world.store(), world.idempotency_key());
    let create = async |answer| {
        let under = once(key, Timestamp::EPOCH, answer);
        store.create_event_type(&environment(), u64::MAX, world.new_event_type("a"), Some(under)).await.unwrap()
    };
    done(create("first").await);
    match create("second").await {
        Written::Replayed(answer) => assert_eq!(answer, stored_answer("first")),
        Written::Done(again) => panic!("carried out twice: {again:?}"),
    }
    let page = Scan::all(Direction::Ascending, 10);
    assert_eq!(store.event_types(&environment(), &EventTypeFilter::default(), page).await.unwrap().rows.len(), 1);
}

pub(super) async fn a_rotation_is_carried_out_once<H: Harness>(world: &World<H>) {
    let (store, app, key) = (world.store(), world.application().await, world.idempotency_key());
    let endpoint = world.endpoint(&app).await;
    let rotate = async |answer| {
        let under = once(key, Timestamp::EPOCH, answer);
        store.rotate_secret(endpoint.key, world.secret(), FAR, world.tick(), Some(under)).await.unwrap()
    };
    let current = done(rotate("first").await);
    assert_eq!(rotate("second").await, Written::Replayed(stored_answer("first")));
    let keys = store.signing_keys(endpoint.key).await.unwrap().unwrap();
    assert_eq!((keys.current, keys.old.len()), (current, 1));
}

pub(super) async fn a_refused_write_leaves_no_key<H: Harness>(world: &World<H>) {
    let (store, key) = (world.store(), world.idempotency_key());
    world.add_application(&environment(), world.new_application(Some("taken"))).await;
    let create = async |uid| {
        let under = once(key, Timestamp::EPOCH, "answer");
        store.create_application(&environment(), world.new_application(uid), Some(under)).await
    };
    for _ in 0..2 {
        let refused = create(Some("taken")).await;
        assert!(matches!(refused, Err(WriteError::Conflict)), "{refused:?}");
    }
    done(create(None).await.unwrap());
}

pub(super) async fn an_expired_key_is_carried_out_anew<H: Harness>(world: &World<H>) {
    let (store, key) = (world.store(), world.idempotency_key());
    let create = async |not_before, answer| {
        let under = once(key, not_before, answer);
        store.create_application(&environment(), world.new_application(None), Some(under)).await.unwrap()
    };
    let first = done(create(Timestamp::EPOCH, "first").await);
    assert_eq!(create(first.created_at, "second").await, Written::Replayed(stored_answer("first")));
    let later = Timestamp::from_micros(first.created_at.as_micros() + 1);
    done(create(later, "second").await);
    assert_eq!(create(later, "third").await, Written::Replayed(stored_answer("second")));
    let all = store
        .applications(&environment(), ApplicationFilter::default(), Scan::all(Direction::Ascending, 10))
        .await
        .unwrap()
        .rows;
    assert_eq!(all.len(), 2);
}

pub(super) async fn forgetting_removes_the_old_keys_of_each_slice_and_keeps_the_others<H: Harness>(world: &World<H>) {
    let store = world.store();
    let create = async |key, answer| {
        let under = once(key, Timestamp::EPOCH, answer);
        store.create_application(&environment(), world.new_application(None), Some(under)).await.unwrap()
    };
    let mut written = Vec::new();
    for _ in 0..5 {
        let key = world.idempotency_key();
        written.push((key, done(create(key, "first").await).created_at));
    }
    let (mut from, mut slices) = (None, 0);
    loop {
        from = store.forget_keys(written[3].1, from, 2).await.unwrap();
        slices += 1;
        if from.is_none() {
            break;
        }
    }
    assert!((3..=4).contains(&slices), "{slices} slices of two for five keys");
    for (place, (key, _)) in written.into_iter().enumerate() {
        match create(key, "again").await {
            Written::Done(_) => assert!(place < 3, "the key {place} was forgotten"),
            Written::Replayed(answer) => assert!(place >= 3 && answer == stored_answer("first"), "{place}: {answer:?}"),
        }
    }
}

pub(super) async fn racing_writes_under_one_key_are_carried_out_once<H: Harness>(world: &World<H>) {
    let (store, key) = (world.store(), world.idempotency_key());
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let (store, application) = (world.store(), world.new_application(None));
        let under = once(key, Timestamp::EPOCH, "answer");
        tasks.push(tokio::spawn(async move {
            store.create_application(&environment(), application, Some(under)).await.unwrap()
        }));
    }
    let mut carried_out = 0;
    for task in tasks {
        match task.await.unwrap() {
            Written::Done(_) => carried_out += 1,
            Written::Replayed(answer) => assert_eq!(answer, stored_answer("answer")),
        }
    }
    assert_eq!(carried_out, 1);
    let all = store
        .applications(&environment(), ApplicationFilter::default(), Scan::all(Direction::Ascending, 10))
        .await
        .unwrap()
        .rows;
    assert_eq!(all.len(), 1);
}
