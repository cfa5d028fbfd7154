//! Cases for writes that are carried out once under a key. Accepting has cases of its own.

use std::time::Duration;

use bytes::Bytes;
use postrider_domain::application::Application;
use postrider_domain::time::Timestamp;

use super::Harness;
use super::world::{FAR, World, after, by_id, done, environment, once, operator, other_environment, stored_answer};
use postrider_store::{
    ApplicationFilter, ApplicationKey, Direction, EventTypeFilter, IdempotencyKey, Job, NewTask, Once, Owner, Scan,
    Span, StoredAnswer, TokenExpiry, WriteError, Written,
};

pub(super) async fn an_application_is_created_once<H: Harness>(world: &World<H>) {
    let (store, key) = (world.store(), world.idempotency_key());
    let first = world.new_application(Some("one"));
    // The answer is made of what was written, and may hold any byte.
    let answer = |name: &str| StoredAnswer { status: 201, body: Bytes::from([name.as_bytes(), b"\0\xff"].concat()) };
    let under = |_| {
        let answer: Box<dyn FnOnce(&_) -> _ + Send> =
            Box::new(move |written: &postrider_domain::application::Application| answer(&written.id.to_string()));
        Once { key, owner: operator(), most: u64::MAX, not_before: Timestamp::EPOCH, answer }
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
        .listed
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
    assert_eq!(
        store.event_types(&environment(), &EventTypeFilter::default(), page).await.unwrap().listed.rows.len(),
        1
    );
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
        .listed
        .rows;
    assert_eq!(all.len(), 2);
}

pub(super) async fn forgetting_removes_the_old_keys_in_slices_and_keeps_the_others<H: Harness>(world: &World<H>) {
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
    let mut slices = 1;
    while store.forget_keys(written[3].1, 2).await.unwrap() {
        slices += 1;
    }
    assert!((2..=3).contains(&slices), "{slices} slices of two for three keys");
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
        .listed
        .rows;
    assert_eq!(all.len(), 1);
}

/// Creates an application at an instant, under a key, with an answer of so many bytes, for an owner with room for `most`.
async fn create_at<H: Harness>(
    world: &World<H>,
    at: Timestamp,
    (key, not_before): (IdempotencyKey, Timestamp),
    (owner, most): (&Owner, u64),
    length: usize,
) -> Result<Written<Application>, WriteError> {
    let answer = move |_: &_| StoredAnswer { status: 201, body: Bytes::from(vec![b'a'; length]) };
    let once = Once { key, owner: owner.clone(), most, not_before, answer: Box::new(answer) };
    let new = Application { created_at: at, updated_at: at, ..world.new_application(None) };
    world.store().create_application(&environment(), new, Some(once)).await
}

const HOUR: u64 = 3_600;

pub(super) async fn what_a_wrong_clock_dated_ahead_is_forgotten_with_what_came_after_it<H: Harness>(world: &World<H>) {
    let start = world.tick();
    let create = async |at, key| {
        let owner = (&operator(), u64::MAX);
        create_at(world, at, (key, Timestamp::EPOCH), owner, 1).await.unwrap()
    };
    let keys: Vec<_> = (0..4).map(|_| world.idempotency_key()).collect();
    for (key, at) in keys.iter().zip([after(start, 1), after(start, 9_000 * HOUR), after(start, 2), after(start, 20)]) {
        done(create(at, *key).await);
    }
    while world.store().forget_keys(after(start, 10), 1).await.unwrap() {}
    for (place, key) in keys.into_iter().enumerate() {
        let is_forgotten = matches!(create(after(start, 30), key).await, Written::Done(_));
        assert_eq!(is_forgotten, place < 3, "{place}");
    }
}

pub(super) async fn a_key_belongs_to_the_application_that_it_was_used_at<H: Harness>(world: &World<H>) {
    let store = world.store();
    let (endpoints, purges, ends) = (world.idempotency_key(), world.idempotency_key(), world.idempotency_key());
    let mut made = Vec::new();
    for uid in ["one", "one"] {
        let app = world.add_application(&environment(), world.new_application(Some(uid))).await;
        let create = async || {
            let under = once(endpoints, Timestamp::EPOCH, "an endpoint");
            store.create_endpoint(app.key, world.new_endpoint(Some("e")), Some(under)).await.unwrap()
        };
        let purge = async || {
            let created_at = world.tick();
            let job = Job::PurgeContent { application: app.key };
            let new = NewTask { id: world.task_id(created_at), environment: environment(), job, created_at };
            store.create_task(new, Some(once(purges, Timestamp::EPOCH, "a task"))).await.unwrap()
        };
        let end = async || {
            let now = world.tick();
            let all = TokenExpiry { sessions: Vec::new(), issued_before: now, refused_from: now };
            let under = once(ends, Timestamp::EPOCH, "ended");
            store.expire_tokens(app.key, all, Some(under), now).await.unwrap()
        };
        // Carried out at this application, although the same was asked of the former one; and once there.
        made.push((done(create().await).id, done(purge().await).id));
        done(end().await);
        assert_eq!(create().await, Written::Replayed(stored_answer("an endpoint")));
        assert_eq!(purge().await, Written::Replayed(stored_answer("a task")));
        assert_eq!(end().await, Written::Replayed(stored_answer("ended")));
        store.delete_application(&environment(), &by_id(app.value.id), world.tick()).await.unwrap();
    }
    assert_ne!(made[0], made[1]);
}

pub(super) async fn a_key_belongs_to_the_endpoint_and_the_message_that_it_was_used_at<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let (rotations, replays, resends) = (world.idempotency_key(), world.idempotency_key(), world.idempotency_key());
    let messages = [world.message(&app, &[]).await, world.message(&app, &[]).await];
    for _ in 0..2 {
        let endpoint = world.add_endpoint(&app, world.new_endpoint(Some("e"))).await;
        let rotate = async || {
            let under = once(rotations, Timestamp::EPOCH, "a secret");
            store.rotate_secret(endpoint.key, world.secret(), FAR, world.tick(), Some(under)).await.unwrap()
        };
        let replay = async || {
            let created_at = world.tick();
            let span = Span { since: Timestamp::EPOCH, until: FAR };
            let job = Job::Replay { endpoint: endpoint.key, span };
            let new = NewTask { id: world.task_id(created_at), environment: environment(), job, created_at };
            store.create_task(new, Some(once(replays, Timestamp::EPOCH, "a task"))).await.unwrap()
        };
        let resend = async |message| {
            let under = once(resends, Timestamp::EPOCH, "sent");
            store.resend(endpoint.key, message, world.tick(), Some(under)).await.unwrap()
        };
        done(rotate().await);
        done(replay().await);
        assert_eq!(rotate().await, Written::Replayed(stored_answer("a secret")));
        assert_eq!(replay().await, Written::Replayed(stored_answer("a task")));
        for message in &messages {
            done(resend(message.key).await);
            assert_eq!(resend(message.key).await, Written::Replayed(stored_answer("sent")));
        }
        store.delete_endpoint(app.key, &by_id(endpoint.value.id), world.tick()).await.unwrap();
    }
}

pub(super) async fn an_answer_stays_when_its_key_is_used_where_something_else_has_its_name<H: Harness>(
    world: &World<H>,
) {
    let (store, app, key) = (world.store(), world.application().await, world.idempotency_key());
    let endpoints = [world.endpoint(&app).await, world.endpoint(&app).await];
    let rotate = async |place: usize, answer| {
        let under = once(key, Timestamp::EPOCH, answer);
        store.rotate_secret(endpoints[place].key, world.secret(), FAR, world.tick(), Some(under)).await.unwrap()
    };
    // The same path, and first the one, then the other had its uid.
    done(rotate(0, "of the first").await);
    done(rotate(1, "of the second").await);
    assert_eq!(rotate(0, "again").await, Written::Replayed(stored_answer("of the first")));
    assert_eq!(rotate(1, "again").await, Written::Replayed(stored_answer("of the second")));
    while store.forget_keys(FAR, 1).await.unwrap() {}
    done(rotate(1, "anew").await);
    done(rotate(0, "anew").await);
}

pub(super) async fn answers_that_are_not_old_stay_when_the_clock_went_back_meanwhile<H: Harness>(world: &World<H>) {
    let start = world.tick();
    // Once by some hours, and once by more than what counts as dated ahead.
    for back in [13 * HOUR, 100 * HOUR] {
        let base = after(start, 10 * back);
        let create =
            async |at, key| create_at(world, at, (key, Timestamp::EPOCH), (&operator(), u64::MAX), 1).await.unwrap();
        let keys: Vec<_> = (0..4).map(|_| world.idempotency_key()).collect();
        for (key, seconds) in keys.iter().zip([back, 0, 1, back + 1]) {
            done(create(after(base, seconds), *key).await);
        }
        for _ in 0..2 {
            while world.store().forget_keys(after(base, back - 12 * HOUR), 2).await.unwrap() {}
        }
        for (place, key) in keys.into_iter().enumerate() {
            let is_forgotten = matches!(create(after(base, back + 2), key).await, Written::Done(_));
            assert_eq!(is_forgotten, [1, 2].contains(&place), "{place}");
        }
    }
}

/// Whether an answer was refused for want of room; until when, and the longest there is if for ever.
fn full<T: std::fmt::Debug>(result: Result<Written<T>, WriteError>) -> Option<Duration> {
    match result {
        Ok(_) => None,
        Err(WriteError::KeysFull { wait }) => Some(wait.unwrap_or(Duration::MAX)),
        Err(error) => panic!("{error}"),
    }
}

pub(super) async fn answers_take_no_more_room_than_their_owner_has<H: Harness>(world: &World<H>) {
    const ROOM: u64 = 10_000;
    let (one, two) = (world.application().await, world.application().await);
    let owners = [
        operator(),
        Owner::Operator(other_environment()),
        Owner::Application(one.key),
        Owner::Application(two.key),
        Owner::Application(ApplicationKey(i64::MAX)),
    ];
    for owner in &owners {
        let create = async |key, length| {
            let at = world.tick();
            create_at(world, at, (key, Timestamp::EPOCH), (owner, ROOM), length).await
        };
        let large = usize::try_from(ROOM - StoredAnswer::OVERHEAD).unwrap();
        assert_eq!(full(create(world.idempotency_key(), large + 1).await), Some(Duration::MAX), "{owner:?}");
        let (mut keys, mut taken) = (Vec::new(), 0);
        for length in [1_000, 0, 3_000, large] {
            let key = world.idempotency_key();
            let room = StoredAnswer::OVERHEAD + length as u64;
            assert_eq!(full(create(key, length).await).is_some(), taken + room > ROOM, "{owner:?}: {taken} + {room}");
            if taken + room <= ROOM {
                taken += room;
                keys.push(key);
            }
        }
        let later = full(create(world.idempotency_key(), large).await);
        assert!(later.is_some_and(|wait| wait < Duration::MAX), "{owner:?}: {later:?}");
        // Until nothing at all has room.
        while full(create(world.idempotency_key(), 500).await).is_none() {}
        while full(create(world.idempotency_key(), 0).await).is_none() {}
        // What is remembered is answered, and without a key everything goes on.
        for key in keys {
            assert!(matches!(create(key, 0).await, Ok(Written::Replayed(_))), "{owner:?}");
        }
        world.store().create_application(&environment(), world.new_application(None), None).await.unwrap();
    }
}

pub(super) async fn an_answer_that_is_too_old_or_forgotten_takes_no_room<H: Harness>(world: &World<H>) {
    let room = 2 * (StoredAnswer::OVERHEAD + 100);
    // At the beginning of an hour.
    let start = Timestamp::from_micros(1_767_322_800_000_000);
    let create = async |hours: u64| {
        let at = after(start, hours * HOUR);
        let not_before = at.saturating_sub(Duration::from_secs(12 * HOUR));
        create_at(world, at, (world.idempotency_key(), not_before), (&operator(), room), 100).await
    };
    assert_eq!(full(create(0).await), None);
    assert_eq!(full(create(3).await), None);
    // The first of them is kept for 12 hours, and may count for an hour longer.
    let wait = full(create(5).await).expect("there is no room");
    assert!((7 * HOUR..=8 * HOUR).contains(&wait.as_secs()), "{wait:?}");
    assert_eq!(full(create(13).await), None);
    assert!(full(create(13).await).is_some());
    while world.store().forget_keys(after(start, 4 * HOUR), 1).await.unwrap() {}
    // All but one are forgotten, whatever the age that counts.
    let at = after(start, 14 * HOUR);
    let all_count = async || create_at(world, at, (world.idempotency_key(), start), (&operator(), room), 100).await;
    assert_eq!(full(all_count().await), None);
    assert!(full(all_count().await).is_some());
}

pub(super) async fn an_answer_for_which_there_is_no_room_leaves_nothing<H: Harness>(world: &World<H>) {
    let (store, key) = (world.store(), world.idempotency_key());
    for most in [0, StoredAnswer::OVERHEAD, u64::MAX] {
        let at = world.tick();
        let written = create_at(world, at, (key, Timestamp::EPOCH), (&operator(), most), 1).await;
        assert_eq!(full(written).is_some(), most < u64::MAX);
        let all = store
            .applications(&environment(), ApplicationFilter::default(), Scan::all(Direction::Ascending, 10))
            .await
            .unwrap();
        assert_eq!(all.listed.rows.len(), usize::from(most == u64::MAX));
    }
}
