//! Cases for deliveries that somebody asked for.

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::{DisableReason, Next};
use postrider_domain::endpoint::EndpointPatch;
use postrider_domain::message::Message;
use postrider_domain::task::TaskStatus;
use postrider_domain::time::Timestamp;

use super::Harness;
use super::recorder::{News, Recorder};
use super::world::{App, Ep, FAR, Msg, World, by_id, done, environment, once, stored_answer};
use postrider_store::{
    Advanced, Capped, EndpointKey, Job, MAX_ATTEMPTS_OF_MESSAGE, MessageKey, NewTask, ReplayFilter, ResendError,
    Resent, Span, WriteError, Written,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A message that was delivered, and its endpoint.
async fn delivered<H: Harness>(world: &World<H>) -> (App, Ep, Msg) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let message = world.message(&app, &[&endpoint]).await;
    let due = world.only_due(&endpoint).await;
    world.settle(world.settlement(&endpoint, &due, Next::Succeeded)).await;
    (app, endpoint, message)
}

fn assert_not_found<T: std::fmt::Debug>(result: &Result<T, ResendError>) {
    assert!(matches!(result, Err(ResendError::Write(WriteError::NotFound))), "{result:?}");
}

pub(super) async fn a_resend_adds_a_manual_delivery_and_tells_observers<H: Harness>(world: &World<H>) {
    let (app, endpoint, message) = delivered(world).await;
    // The message need not have gone there before.
    let other = world.endpoint(&app).await;
    let recorder = Recorder::of(world.store().as_ref());
    for endpoint in [&endpoint, &other] {
        let now = world.tick();
        done(world.store().resend(endpoint.key, message.key, now, None).await.unwrap());
        assert_eq!(recorder.take(), [News::WorkAdded(endpoint.key)]);
        let due = world.due(endpoint, now).await.remove(0);
        assert_eq!((due.key.due_at, due.key.message), (now, message.key));
        assert_eq!((due.made, due.trigger), (0, Trigger::Manual));
        assert_eq!(due.message.as_ref(), Some(&message.value));
    }
}

pub(super) async fn a_resend_beside_a_pending_delivery_is_one_more<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let message = world.message(&app, &[&endpoint]).await;
    // At the very instant at which the scheduled delivery is due, twice.
    for _ in 0..2 {
        let at = message.value.created_at;
        done(world.store().resend(endpoint.key, message.key, at, None).await.unwrap());
    }
    let due = world.due(&endpoint, FAR).await;
    let manual = due.iter().filter(|due| due.trigger == Trigger::Manual).count();
    assert_eq!((due.len(), manual), (3, 2));
}

pub(super) async fn a_disabled_endpoint_gets_nothing<H: Harness>(world: &World<H>) {
    let (app, endpoint, message) = delivered(world).await;
    let disable = EndpointPatch { disabled: Some(true), ..EndpointPatch::default() };
    let id = by_id(endpoint.value.id);
    world.store().update_endpoint(app.key, &id, disable, world.tick()).await.unwrap();
    let recorder = Recorder::of(world.store().as_ref());
    let resent = done(world.store().resend(endpoint.key, message.key, world.tick(), None).await.unwrap());
    let Resent::Disabled(Some(why)) = resent else { panic!("it says so: {resent:?}") };
    assert_eq!(why.reason, DisableReason::ByHand);
    assert_eq!(world.due(&endpoint, FAR).await.len(), 0);
    assert_eq!(recorder.take(), []);
}

pub(super) async fn what_is_not_there_is_not_found<H: Harness>(world: &World<H>) {
    let (app, endpoint, message) = delivered(world).await;
    let store = world.store();
    assert_not_found(&store.resend(EndpointKey(i64::MAX), message.key, world.tick(), None).await);
    assert_not_found(&store.resend(endpoint.key, MessageKey(i64::MAX), world.tick(), None).await);
    store.delete_endpoint(app.key, &by_id(endpoint.value.id), world.tick()).await.unwrap();
    assert_not_found(&store.resend(endpoint.key, message.key, world.tick(), None).await);
    assert_eq!(store.backlog(endpoint.key, 10).await.unwrap(), 0);
    let other = world.endpoint(&app).await;
    store.delete_application(&environment(), &by_id(app.value.id), world.tick()).await.unwrap();
    assert_not_found(&store.resend(other.key, message.key, world.tick(), None).await);
}

pub(super) async fn a_payload_that_is_gone_cannot_be_sent_again<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let expunged = Message { payload: None, ..world.new_message() };
    let message = world.message_of(&app, &[], expunged).await;
    let result = world.store().resend(endpoint.key, message.key, world.tick(), None).await;
    assert!(matches!(result, Err(ResendError::MissingPayload)), "{result:?}");
    assert_eq!(world.due(&endpoint, FAR).await.len(), 0);
}

pub(super) async fn a_resend_is_carried_out_once<H: Harness>(world: &World<H>) {
    let (_, endpoint, message) = delivered(world).await;
    let (store, key) = (world.store(), world.idempotency_key());
    let resend = async |not_before| {
        let under = once(key, not_before, "first");
        store.resend(endpoint.key, message.key, world.tick(), Some(under)).await.unwrap()
    };
    done(resend(Timestamp::EPOCH).await);
    let recorder = Recorder::of(Arc::as_ref(&store));
    assert_eq!(resend(Timestamp::EPOCH).await, Written::Replayed(stored_answer("first")));
    assert_eq!(recorder.take(), []);
    assert_eq!(world.due(&endpoint, FAR).await.len(), 1);
    done(resend(world.tick()).await);
    assert_eq!(world.due(&endpoint, FAR).await.len(), 2);
}

pub(super) async fn a_message_is_sent_to_an_endpoint_so_often_and_no_more<H: Harness>(world: &World<H>) {
    let (app, endpoint, message) = delivered(world).await;
    let (store, other) = (world.store(), world.message(&app, &[]).await);
    let resend = async |message: &Msg| store.resend(endpoint.key, message.key, world.tick(), None).await;
    let settle_all = async || {
        for due in world.due(&endpoint, FAR).await {
            world.settle(world.settlement(&endpoint, &due, Next::Succeeded)).await;
        }
    };
    // It was attempted once; a few wait.
    for number in 1..MAX_ATTEMPTS_OF_MESSAGE {
        done(resend(&message).await.unwrap());
        if number % 60 == 0 {
            settle_all().await;
        }
    }
    for _ in 0..2 {
        let refused = resend(&message).await;
        let is_full = matches!(refused, Err(ResendError::Write(WriteError::Full { of: Capped::Attempts, most })) if most == MAX_ATTEMPTS_OF_MESSAGE as u64);
        assert!(is_full, "{refused:?}");
        settle_all().await;
    }
    // Other messages, and other endpoints, have not been.
    done(resend(&other).await.unwrap());
    let second = world.endpoint(&app).await;
    done(store.resend(second.key, message.key, world.tick(), None).await.unwrap());
    settle_all().await;
    // A task that sends everything again leaves it out.
    let created_at = world.tick();
    let span = Span { since: Timestamp::EPOCH, until: FAR };
    let job = Job::BulkReplay { endpoint: endpoint.key, span, filter: ReplayFilter::default() };
    let new = NewTask { id: world.task_id(created_at), environment: environment(), job, created_at };
    let task = done(store.create_task(new, None).await.unwrap());
    while store.advance_task(task.id, 100, world.tick()).await.unwrap().status == TaskStatus::Running {}
    let due = world.due(&endpoint, FAR).await;
    assert_eq!(due.iter().map(|due| due.key.message).collect::<Vec<_>>(), [other.key]);
    let task = store.task(&environment(), task.id).await.unwrap().unwrap();
    assert_eq!(task.data["messages"], 1);
}

pub(super) async fn so_many_attempts_are_asked_for_in_a_day_and_no_more<H: Harness>(world: &mut World<H>) {
    const PER_DAY: u64 = 3;
    let (app, endpoint, message) = delivered(world).await;
    world.reopen_where_may_be_asked_for(PER_DAY).await;
    let start = world.tick();
    let resend = async |endpoint: EndpointKey, now, once| world.store().resend(endpoint, message.key, now, once).await;
    let key = world.idempotency_key();
    let under = || Some(once(key, Timestamp::EPOCH, "first"));
    done(resend(endpoint.key, start, under()).await.unwrap());
    // What is not carried out does not count.
    for _ in 0..5 {
        resend(endpoint.key, start, under()).await.unwrap();
        assert_not_found(&resend(EndpointKey(i64::MAX), start, None).await);
    }
    done(resend(endpoint.key, start, None).await.unwrap());
    // Also if it goes to an endpoint that is new.
    let second = world.endpoint(&app).await;
    done(resend(second.key, start, None).await.unwrap());
    for endpoint in [&endpoint, &second, &world.endpoint(&app).await] {
        match resend(endpoint.key, start, None).await {
            Err(ResendError::Spent { per_day: PER_DAY, wait }) => assert_eq!(wait, DAY / 3),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(world.due(&second, FAR).await.len(), 1);
    // It is remembered.
    world.reopen_where_may_be_asked_for(PER_DAY).await;
    let early = start.saturating_add(DAY / 3).saturating_sub(Duration::from_micros(1));
    let refused = world.store().resend(endpoint.key, message.key, early, None).await;
    assert!(matches!(refused, Err(ResendError::Spent { .. })), "{refused:?}");
    let later = start.saturating_add(DAY / 3);
    done(world.store().resend(endpoint.key, message.key, later, None).await.unwrap());
    // Another application has a day's worth of its own.
    let (_, other, message) = delivered(world).await;
    done(world.store().resend(other.key, message.key, start, None).await.unwrap());
}

pub(super) async fn a_task_that_would_send_more_than_a_days_worth_goes_on_when_it_may<H: Harness>(
    world: &mut World<H>,
) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let mut messages = Vec::new();
    for _ in 0..6 {
        messages.push(world.message(&app, &[&endpoint]).await.key);
        let due = world.only_due(&endpoint).await;
        world.settle(world.settlement(&endpoint, &due, Next::Exhausted)).await;
    }
    let missed = world.message(&app, &[]).await;
    world.reopen_where_may_be_asked_for(4).await;
    let (created_at, span) = (world.tick(), Span { since: Timestamp::EPOCH, until: FAR });
    let add = async |job| {
        let new = NewTask { id: world.task_id(created_at), environment: environment(), job, created_at };
        done(world.store().create_task(new, None).await.unwrap()).id
    };
    let recover = add(Job::Recover { endpoint: endpoint.key, span }).await;
    let step = async |now| world.store().advance_task(recover, 2, now).await.unwrap();
    let data = async || world.store().task(&environment(), recover).await.unwrap().unwrap().data;
    for _ in 0..2 {
        assert_eq!(step(created_at).await, Advanced { status: TaskStatus::Running, wait: None });
    }
    for _ in 0..3 {
        assert_eq!(step(created_at).await, Advanced { status: TaskStatus::Running, wait: Some(DAY / 4) });
        let said = serde_json::json!({ "messages": 4, "waiting": "limits.asked_per_day" });
        assert_eq!(serde_json::Value::Object(data().await), said);
        assert_eq!(world.due(&endpoint, FAR).await.len(), 4);
    }
    // While it waits, a look writes nothing.
    let second = Duration::from_secs(1);
    let waits = step(created_at.saturating_add(second)).await;
    assert_eq!(waits, Advanced { status: TaskStatus::Running, wait: Some(DAY / 4 - second) });
    assert_eq!(world.store().task(&environment(), recover).await.unwrap().unwrap().updated_at, created_at);
    // It goes on by as much as there is, and knows by the same look how long it waits for more.
    let sooner = created_at.saturating_add(DAY / 4);
    assert_eq!(step(sooner).await, Advanced { status: TaskStatus::Running, wait: Some(DAY / 4) });
    assert_eq!(world.due(&endpoint, FAR).await.len(), 5);
    let later = created_at.saturating_add(DAY / 2);
    while step(later).await.status == TaskStatus::Running {}
    assert_eq!(serde_json::Value::Object(data().await), serde_json::json!({ "messages": 6 }));
    let due = world.due(&endpoint, FAR).await;
    assert_eq!(due.iter().map(|due| due.key.message).collect::<std::collections::HashSet<_>>().len(), 6);
    // A whole series counts as more than all of these, and is sent all the same, when nothing else was asked for.
    let replay = add(Job::Replay { endpoint: endpoint.key, span }).await;
    let step = async |now| world.store().advance_task(replay, 100, now).await.unwrap();
    let waits = loop {
        // Rows of which nothing is to be sent are passed over meanwhile.
        if let Some(wait) = step(later).await.wait {
            break wait;
        }
    };
    assert_eq!(waits, DAY);
    while step(later.saturating_add(DAY)).await.status == TaskStatus::Running {}
    let due = world.due(&endpoint, FAR).await;
    assert!(due.iter().any(|due| due.key.message == missed.key), "{due:?}");
}

pub(super) async fn whoever_asks_again_and_again_leaves_something_to_a_task<H: Harness>(world: &mut World<H>) {
    const PER_DAY: u64 = 20;
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let asked_for = world.message(&app, &[]).await;
    let missed: Vec<_> = [world.message(&app, &[]).await.key, world.message(&app, &[]).await.key].into();
    world.reopen_where_may_be_asked_for(PER_DAY).await;
    let start = world.tick();
    let span = Span { since: Timestamp::EPOCH, until: FAR };
    let job = Job::Recover { endpoint: endpoint.key, span };
    for key in &missed {
        done(world.store().resend(endpoint.key, *key, start, None).await.unwrap());
    }
    for due in world.due(&endpoint, FAR).await {
        world.settle(world.settlement(&endpoint, &due, Next::Exhausted)).await;
    }
    let new = NewTask { id: world.task_id(start), environment: environment(), job, created_at: start };
    let task = done(world.store().create_task(new, None).await.unwrap()).id;
    let mut refused = 0;
    // Somebody takes each attempt as soon as it is there.
    for _ in 0..100 {
        let resent = world.store().resend(endpoint.key, asked_for.key, start, None).await;
        refused += usize::from(matches!(resent, Err(ResendError::Spent { .. })));
    }
    assert_eq!(refused, 100 - (20 - missed.len()), "tasks have as much of their own");
    let advanced = world.store().advance_task(task, 100, start).await.unwrap();
    assert_eq!(advanced.wait, None);
    let due = world.due(&endpoint, FAR).await;
    assert!(missed.iter().all(|key| due.iter().any(|due| due.key.message == *key)), "{due:?}");
}

/// Adds messages that failed for good at an endpoint.
async fn failed<H: Harness>(world: &World<H>, app: &App, endpoint: &Ep, count: usize) -> Vec<MessageKey> {
    let mut failed = Vec::new();
    for _ in 0..count {
        failed.push(world.message(app, &[endpoint]).await.key);
        let due = world.only_due(endpoint).await;
        world.settle(world.settlement(endpoint, &due, Next::Exhausted)).await;
    }
    failed
}

pub(super) async fn a_task_that_takes_all_it_may_leaves_something_to_whoever_asks_for_one_message<H: Harness>(
    world: &mut World<H>,
) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let messages = failed(world, &app, &endpoint, 9).await;
    world.reopen_where_may_be_asked_for(3).await;
    let start = world.tick();
    let job = Job::Recover { endpoint: endpoint.key, span: Span { since: Timestamp::EPOCH, until: FAR } };
    let new = NewTask { id: world.task_id(start), environment: environment(), job, created_at: start };
    let task = done(world.store().create_task(new, None).await.unwrap()).id;
    // It takes each attempt as soon as it is there.
    for third in 0..4 {
        let now = start.saturating_add(DAY / 3 * third);
        let advanced = world.store().advance_task(task, 100, now).await.unwrap();
        assert_eq!(advanced, Advanced { status: TaskStatus::Running, wait: Some(DAY / 3) });
        let resent = world.store().resend(endpoint.key, messages[8], now, None).await;
        assert!(matches!(resent, Ok(Written::Done(Resent::Due))), "{resent:?}");
    }
    assert_eq!(world.due(&endpoint, FAR).await.len(), 3 + 3 + 4);
}

pub(super) async fn each_task_that_waits_gets_its_turn<H: Harness>(world: &mut World<H>) {
    const PER_DAY: u32 = 20;
    let app = world.application().await;
    let (one, other) = (world.endpoint(&app).await, world.endpoint(&app).await);
    failed(world, &app, &one, 60).await;
    world.reopen_where_may_be_asked_for(PER_DAY.into()).await;
    let (start, span) = (world.tick(), Span { since: Timestamp::EPOCH, until: FAR });
    let add = async |job| {
        let new = NewTask { id: world.task_id(start), environment: environment(), job, created_at: start };
        done(world.store().create_task(new, None).await.unwrap()).id
    };
    let sent =
        async |id| world.store().task(&environment(), id).await.unwrap().unwrap().data["messages"].as_u64().unwrap();
    // The one asks for an attempt at a time, the other for ten.
    let again = add(Job::BulkReplay { endpoint: one.key, span, filter: ReplayFilter::default() }).await;
    let missing = add(Job::Replay { endpoint: other.key, span }).await;
    for twentieth in 0..2 * PER_DAY {
        let mut now = start.saturating_add(DAY / PER_DAY * twentieth);
        for task in [again, missing] {
            now = now.saturating_add(Duration::from_micros(1));
            let advanced = world.store().advance_task(task, 100, now).await.unwrap();
            assert!(advanced.wait.is_some(), "{advanced:?}");
        }
    }
    // A day's worth was there at once; what came back was taken in turns, of one attempt and of ten.
    assert_eq!((sent(again).await, sent(missing).await), (20 + 4, 3));
}
