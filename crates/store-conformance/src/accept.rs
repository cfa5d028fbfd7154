//! Cases for accepting messages.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::{Against, EndpointFact, Next};
use postrider_domain::endpoint::{EndpointPatch, Headers};
use postrider_domain::environment::{EnvironmentSettingsPatch, UnknownEventTypes};
use postrider_domain::message::Message;
use postrider_domain::names::Uid;
use postrider_domain::time::Timestamp;

use super::Harness;
use super::world::{App, FAR, World, after, by_id, by_uid, channel, done, environment, uid_of};
use postrider_store::{
    AcceptError, Accepted, Direction, IdempotencyKey, MessageFilter, NewMessage, Scan, Wakes, Woken,
};

pub(super) fn with_event_id(mut new: NewMessage, event_id: &str) -> NewMessage {
    new.message = Arc::new(Message { event_id: Some(uid_of(event_id)), ..new.message.as_ref().clone() });
    new
}

pub(super) fn under(mut new: NewMessage, key: IdempotencyKey) -> NewMessage {
    new.idempotency = Some((key, Timestamp::EPOCH));
    new
}

/// How many messages an application has.
pub(super) async fn count<H: Harness>(world: &World<H>, app: &App) -> usize {
    let page = Scan::all(Direction::Ascending, 1_000);
    world.store().messages(app.key, &MessageFilter::default(), page).await.unwrap().listed.rows.len()
}

pub(super) fn assert_new(result: &Result<Accepted, AcceptError>) {
    assert!(matches!(result, Ok(Accepted::New(_))), "{result:?}");
}

pub(super) fn assert_conflict(result: &Result<Accepted, AcceptError>) {
    assert!(matches!(result, Err(AcceptError::Conflict)), "{result:?}");
}

pub(super) fn assert_stale(result: &Result<Accepted, AcceptError>) {
    assert!(matches!(result, Err(AcceptError::Stale)), "{result:?}");
}

/// As it is read by whoever does not ask for the payload.
pub(super) fn without_payload(message: &Message) -> Message {
    Message { payload: None, ..message.clone() }
}

pub(super) fn assert_replayed(result: &Result<Accepted, AcceptError>, original: &Message) {
    match result {
        Ok(Accepted::Replayed(message)) => assert_eq!(message.as_ref(), &without_payload(original)),
        other => panic!("it was accepted before: {other:?}"),
    }
}

pub(super) async fn an_accepted_message_has_its_deliveries_and_its_key<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoints = [world.endpoint(&app).await, world.endpoint(&app).await, world.endpoint(&app).await];
    let message = Message {
        event_id: Some(uid_of("evt")),
        channels: Some(vec![channel("a"), channel("b")]),
        ..world.new_message()
    };
    let key = world.idempotency_key();
    let new = under(world.draft_of(&app, &[endpoints[0].key, endpoints[2].key], message.clone()).await, key);
    let accepted = match world.accept(new.clone()).await {
        Ok(Accepted::New(key)) => key,
        other => panic!("{other:?}"),
    };
    for (endpoint, pending) in endpoints.iter().zip([true, false, true]) {
        let due = world.due(endpoint, message.created_at).await;
        assert_eq!(due.len(), usize::from(pending));
        for due in due {
            assert_eq!((due.key.due_at, due.key.message), (message.created_at, accepted));
            assert_eq!((due.made, due.trigger), (0, Trigger::Scheduled));
            assert_eq!(due.message.as_deref(), Some(&message));
        }
    }
    assert_replayed(&world.accept(new).await, &message);
}

pub(super) async fn a_message_that_goes_nowhere_is_stored<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let message = world.message(&app, &[]).await;
    let read = world.store().message(app.key, &by_id(message.value.id), true).await.unwrap().unwrap();
    assert_eq!(&read.value, message.value.as_ref());
    assert_eq!(world.store().rebuild_wakes().await.unwrap(), 0);
}

pub(super) async fn routes_that_changed_are_refused<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let endpoint = world.endpoint(&app).await;
    let id = by_id(endpoint.value.id);
    let draft = async || world.draft(&app, &[endpoint.key]).await;

    let mut drafts = vec![("create", draft().await)];
    world.endpoint(&app).await;
    drafts.push(("update", draft().await));
    let slower = EndpointPatch { throttle_rate: Some(Some(9)), ..EndpointPatch::default() };
    store.update_endpoint(app.key, &id, slower, world.tick()).await.unwrap();
    drafts.push(("rotate", draft().await));
    done(store.rotate_secret(endpoint.key, world.secret(), FAR, world.tick(), None).await.unwrap());
    drafts.push(("headers", draft().await));
    store.set_headers(endpoint.key, Headers::from([("X-A".to_owned(), "1".to_owned())]), world.tick()).await.unwrap();
    drafts.push(("merged headers", draft().await));
    store.merge_headers(endpoint.key, BTreeMap::from([("X-A".into(), None)]), world.tick()).await.unwrap();
    // What the engine does by itself counts like what a caller does.
    world.message(&app, &[&endpoint]).await;
    let due = world.only_due(&endpoint).await;
    let mut gone = world.settlement(&endpoint, &due, Next::Canceled);
    gone.against = Some(EndpointFact { at: world.tick(), kind: Against::Gone });
    drafts.push(("disable", draft().await));
    world.settle(gone).await;
    drafts.push(("delete", draft().await));
    store.delete_endpoint(app.key, &id, world.tick()).await.unwrap();

    let before = count(world, &app).await;
    for (change, draft) in drafts {
        let result = world.accept(draft).await;
        assert!(matches!(result, Err(AcceptError::Stale)), "{change}: {result:?}");
    }
    assert_eq!(count(world, &app).await, before);
    assert_new(&world.accept(world.draft(&app, &[]).await).await);
}

pub(super) async fn routes_that_were_read_after_a_message_came_need_not_be_the_newest_but_by_the_newest_rules<
    H: Harness,
>(
    world: &World<H>,
) {
    let (store, app) = (world.store(), world.application().await);
    let endpoint = world.endpoint(&app).await;
    let draft = async |rules: i64| NewMessage { rules: Some(rules), ..world.draft(&app, &[endpoint.key]).await };
    let before = world.routes(&app).await;
    let drafts = [draft(before.rules_version).await, draft(before.rules_version).await];
    store.delete_endpoint(app.key, &by_id(endpoint.value.id), world.tick()).await.unwrap();
    assert!(world.routes(&app).await.version > before.version);
    let [by_the_same_rules, by_older_rules] = drafts;
    assert_new(&world.accept(by_the_same_rules).await);
    // Whoever sends it looks at its endpoint anew.
    assert!(store.target(endpoint.key).await.unwrap().unwrap().endpoint.disabled);
    let strict = EnvironmentSettingsPatch {
        unknown_event_types: Some(UnknownEventTypes::Reject),
        ..EnvironmentSettingsPatch::default()
    };
    store.update_environment_settings(&environment(), strict, world.tick()).await.unwrap();
    assert_stale(&world.accept(by_older_rules).await);
    let newest = draft(world.routes(&app).await.rules_version).await;
    assert_new(&world.accept(newest.clone()).await);
    store.delete_application(&environment(), &by_id(app.value.id), world.tick()).await.unwrap();
    assert_stale(&world.accept(newest).await);
}

pub(super) async fn the_routes_of_a_deleted_application_are_refused<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let endpoint = world.endpoint(&app).await;
    let draft = world.draft(&app, &[endpoint.key]).await;
    store.delete_application(&environment(), &by_id(app.value.id), world.tick()).await.unwrap();
    for version in -1..3 {
        let draft = NewMessage { version: draft.version + version, ..draft.clone() };
        assert_stale(&world.accept(draft).await);
    }
    let never = NewMessage { application: postrider_store::ApplicationKey(i64::MAX), ..draft };
    assert_stale(&world.accept(never).await);
    assert_eq!(world.due(&endpoint, FAR).await.len(), 0);
}

pub(super) async fn an_event_id_is_taken_once_within_and_across_batches<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let mut drafts = Vec::new();
    for event_id in ["a", "b", "a"] {
        drafts.push(with_event_id(world.draft(&app, &[]).await, event_id));
    }
    let results = world.store().accept(drafts.clone()).await;
    assert_eq!(results.len(), 3);
    assert_new(&results[0]);
    assert_new(&results[1]);
    assert_conflict(&results[2]);
    let found = world.store().message(app.key, &by_uid("a"), true).await.unwrap().unwrap();
    assert_eq!(found.value.id, drafts[0].message.id);
    assert_conflict(&world.accept(with_event_id(world.draft(&app, &[]).await, "b")).await);
    assert_eq!(count(world, &app).await, 2);
}

pub(super) async fn an_event_id_belongs_to_its_application<H: Harness>(world: &World<H>) {
    let (first, second) = (world.application().await, world.application().await);
    let batch = vec![
        with_event_id(world.draft(&first, &[]).await, "same"),
        with_event_id(world.draft(&second, &[]).await, "same"),
    ];
    world.store().accept(batch).await.iter().for_each(assert_new);
}

pub(super) async fn a_refused_message_does_not_hurt_its_batch<H: Harness>(world: &World<H>) {
    let (app, changed) = (world.application().await, world.application().await);
    let endpoint = world.endpoint(&app).await;
    let stale = world.draft(&changed, &[]).await;
    world.endpoint(&changed).await;
    world.message_of(&app, &[], Message { event_id: Some(uid_of("taken")), ..world.new_message() }).await;
    let draft = async || world.draft(&app, &[endpoint.key]).await;
    let conflicting = with_event_id(draft().await, "taken");
    let batch = vec![draft().await, stale, draft().await, conflicting, draft().await];
    let results = world.store().accept(batch).await;
    assert_eq!(results.len(), 5);
    assert_stale(&results[1]);
    assert_conflict(&results[3]);
    for index in [0, 2, 4] {
        assert_new(&results[index]);
    }
    assert_eq!(world.due(&endpoint, FAR).await.len(), 3, "a refused message has no deliveries");
}

pub(super) async fn racing_batches_accept_each_message_once<H: Harness>(world: &World<H>) {
    const TASKS: usize = 8;
    const IDS: usize = 20;
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let keys: Vec<IdempotencyKey> = (0..IDS).map(|_| world.idempotency_key()).collect();
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let mut batches = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            let mut new = world.draft(&app, &[endpoint.key]).await;
            // Half of them race for an event id, the other half for an idempotency key.
            if index % 2 == 0 {
                new = with_event_id(new, &format!("evt-{index}"));
            } else {
                new = under(new, *key);
            }
            batches.push(new);
        }
        batches.rotate_left(task);
        let store = world.store();
        tasks.push(tokio::spawn(async move {
            let mut accepted = 0;
            for new in batches {
                let results = store.accept(vec![new]).await;
                accepted += results.iter().filter(|result| matches!(result, Ok(Accepted::New(_)))).count();
            }
            accepted
        }));
    }
    let mut accepted = 0;
    for task in tasks {
        accepted += task.await.unwrap();
    }
    assert_eq!(accepted, IDS);
    assert_eq!(count(world, &app).await, IDS);
    let due = world.due(&endpoint, FAR).await;
    let distinct: HashSet<_> = due.iter().map(|due| due.key.message).collect();
    assert_eq!((due.len(), distinct.len()), (IDS, IDS));
    let event_ids: HashSet<Option<Uid>> =
        due.iter().filter_map(|due| due.message.as_ref()).map(|message| message.event_id.clone()).collect();
    assert_eq!(event_ids.len(), IDS / 2 + 1);
}

pub(super) async fn an_empty_batch_is_nothing<H: Harness>(world: &World<H>) {
    assert!(world.store().accept(Vec::new()).await.is_empty());
    world.store().settle(Vec::new()).await.unwrap();
}

pub(super) async fn a_delivery_that_is_put_off_is_in_the_index_of_wakes_and_not_fresh<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let (endpoint, other) = (world.endpoint(&app).await, world.endpoint(&app).await);
    let at = after(world.tick(), 60);
    let message = Message { deliver_at: Some(at), ..world.new_message() };
    let message = world.message_of(&app, &[&endpoint], message).await;
    world.message(&app, &[&other]).await;
    let early = Timestamp::from_micros(at.as_micros() - 1);
    assert_eq!(world.due(&endpoint, early).await.len(), 0);
    let due = world.only_due(&endpoint).await;
    assert_eq!((due.key.due_at, due.key.message, due.made, due.trigger), (at, message.key, 0, Trigger::Scheduled));
    assert!(!due.fresh && world.only_due(&other).await.fresh);
    let environment = world.store().target(endpoint.key).await.unwrap().map(|target| target.environment);
    assert!(environment.is_some());
    let woken = Woken { endpoint: endpoint.key, application: Some(app.key), environment };
    let wakes = Wakes { endpoints: vec![woken], next_at: None };
    assert_eq!(world.store().take_wakes(at, 10).await.unwrap(), wakes);
    // A retry is like any other.
    let retry_at = after(at, 60);
    world.settle(world.settlement(&endpoint, &due, Next::Waiting(retry_at))).await;
    let due = world.only_due(&endpoint).await;
    assert_eq!((due.key.due_at, due.made, due.trigger, due.fresh), (retry_at, 1, Trigger::Scheduled, false));
}

pub(super) async fn a_manual_success_ends_a_delivery_that_is_put_off<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let message = Message { deliver_at: Some(after(world.tick(), 60)), ..world.new_message() };
    let message = world.message_of(&app, &[&endpoint], message).await;
    let now = world.tick();
    done(world.store().resend(endpoint.key, message.key, now, None).await.unwrap());
    let manual = world.due(&endpoint, now).await.remove(0);
    world.settle(world.settlement(&endpoint, &manual, Next::Succeeded)).await;
    assert_eq!(world.due(&endpoint, FAR).await.len(), 0);
}
