//! Cases for accepting a message once under an idempotency key.

use std::sync::Arc;

use bytes::Bytes;
use postrider_domain::delivery::Next;
use postrider_domain::message::Message;
use postrider_domain::time::Timestamp;

use super::Harness;
use super::accept::{
    assert_conflict, assert_new, assert_replayed, assert_stale, count, under, with_event_id, without_payload,
};
use super::world::{FAR, World, uid_of};
use postrider_store::NewMessage;

pub(super) async fn one_key_in_one_batch_accepts_one_message<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let key = world.idempotency_key();
    let mut batch = Vec::new();
    for _ in 0..3 {
        batch.push(under(world.draft(&app, &[endpoint.key]).await, key));
    }
    let first = Arc::clone(&batch[0].message);
    let results = world.store().accept(batch).await;
    assert_new(&results[0]);
    assert_replayed(&results[1], &first);
    assert_replayed(&results[2], &first);
    assert_eq!(world.due(&endpoint, FAR).await.len(), 1);
}

pub(super) async fn one_key_in_many_batches_accepts_one_message<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let (key, other) = (world.idempotency_key(), world.idempotency_key());
    let first = under(world.draft(&app, &[endpoint.key]).await, key);
    let original = Arc::clone(&first.message);
    assert_new(&world.accept(first).await);
    for _ in 0..2 {
        let again = under(world.draft(&app, &[endpoint.key]).await, key);
        assert_replayed(&world.accept(again).await, &original);
    }
    assert_new(&world.accept(under(world.draft(&app, &[endpoint.key]).await, other)).await);
    // It makes no difference that the first one was delivered meanwhile.
    for due in world.due(&endpoint, FAR).await {
        world.settle(world.settlement(&endpoint, &due, Next::Succeeded)).await;
    }
    let again = under(world.draft(&app, &[endpoint.key]).await, key);
    assert_replayed(&world.accept(again).await, &original);
    assert_eq!(world.due(&endpoint, FAR).await.len(), 0);
    assert_eq!(count(world, &app).await, 2);
}

pub(super) async fn a_replay_comes_before_a_conflict_of_event_ids<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let key = world.idempotency_key();
    let first = with_event_id(under(world.draft(&app, &[]).await, key), "evt");
    let again = with_event_id(under(world.draft(&app, &[]).await, key), "evt");
    let original = Arc::clone(&first.message);
    let results = world.store().accept(vec![first, again.clone()]).await;
    assert_new(&results[0]);
    assert_replayed(&results[1], &original);
    assert_replayed(&world.accept(again).await, &original);
}

pub(super) async fn a_refused_message_leaves_no_key<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    world.message_of(&app, &[], Message { event_id: Some(uid_of("taken")), ..world.new_message() }).await;
    let key = world.idempotency_key();
    let conflicting = with_event_id(under(world.draft(&app, &[]).await, key), "taken");
    let stale = NewMessage { version: i64::MIN, ..under(world.draft(&app, &[]).await, key) };
    let good = under(world.draft(&app, &[]).await, key);
    let results = world.store().accept(vec![conflicting.clone(), stale, good]).await;
    assert_conflict(&results[0]);
    assert_stale(&results[1]);
    assert_new(&results[2]);
}

pub(super) async fn an_expired_key_accepts_anew_and_is_renewed<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let key = world.idempotency_key();
    let draft = async |not_before| {
        let new = world.draft(&app, &[]).await;
        NewMessage { idempotency: Some((key, not_before)), ..new }
    };
    let first = draft(Timestamp::EPOCH).await;
    let first_at = first.message.created_at;
    let first_message = Arc::clone(&first.message);
    assert_new(&world.accept(first).await);
    assert_replayed(&world.accept(draft(first_at).await).await, &first_message);

    let just_later = Timestamp::from_micros(first_at.as_micros() + 1);
    let second = draft(just_later).await;
    let second_message = Arc::clone(&second.message);
    assert_new(&world.accept(second).await);
    assert_replayed(&world.accept(draft(just_later).await).await, &second_message);
    assert_eq!(count(world, &app).await, 2);
}

/// Forgets all keys from before an instant.
async fn forget<H: Harness>(world: &World<H>, before: Timestamp) {
    while world.store().forget_keys(before, 2).await.unwrap() {}
}

pub(super) async fn forgetting_keeps_the_keys_that_are_young_enough<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let mut accepted = Vec::new();
    for _ in 0..5 {
        let new = under(world.draft(&app, &[]).await, world.idempotency_key());
        assert_new(&world.accept(new.clone()).await);
        accepted.push(new);
    }
    let before = accepted[3].message.created_at;
    forget(world, before).await;
    for (place, old) in accepted.iter().enumerate() {
        let (key, _) = old.idempotency.unwrap();
        let mut again = under(world.draft(&app, &[]).await, key);
        again.idempotency = Some((key, before));
        let again = world.accept(again).await;
        if place < 3 { assert_new(&again) } else { assert_replayed(&again, &old.message) }
    }
}

pub(super) async fn the_keys_of_very_many_messages_lead_to_them<H: Harness>(world: &mut World<H>) {
    const BATCH: usize = 1_000;
    const BATCHES: usize = 70;
    let app = world.application().await;
    let version = world.routes(&app).await.version;
    let mut samples = Vec::new();
    for _ in 0..BATCHES {
        let draft = |_| {
            let message = Message { payload: Some(Bytes::from_static(b"{}")), ..world.new_message() };
            under(world.draft_of_version(&app, version, &[], message), world.idempotency_key())
        };
        let batch: Vec<NewMessage> = (0..BATCH).map(draft).collect();
        samples.extend([batch[0].clone(), batch[BATCH / 2].clone(), batch[BATCH - 1].clone()]);
        world.store().accept(batch).await.iter().for_each(assert_new);
    }
    let half = samples[samples.len() / 2].message.created_at;
    for pass in 0..3 {
        for sample in &samples {
            assert_replayed(&world.accept(sample.clone()).await, &sample.message);
            let (key, not_before) = sample.idempotency.unwrap();
            let found = world.store().accepted_under(app.key, key, not_before).await.unwrap();
            assert_eq!(found, Some(without_payload(&sample.message)));
        }
        assert_new(&world.accept(under(world.draft(&app, &[]).await, world.idempotency_key())).await);
        if pass == 0 {
            world.reopen().await;
        } else {
            forget(world, half).await;
            samples.retain(|sample| sample.message.created_at >= half);
        }
    }
}

pub(super) async fn what_was_accepted_under_a_key_is_found_by_it<H: Harness>(world: &World<H>) {
    let (store, app, other) = (world.store(), world.application().await, world.application().await);
    let key = world.idempotency_key();
    let new = under(world.draft(&app, &[]).await, key);
    let message = Arc::clone(&new.message);
    assert_new(&world.accept(new).await);
    let later = Timestamp::from_micros(message.created_at.as_micros() + 1);
    for (application, key, not_before, found) in [
        (app.key, key, message.created_at, true),
        (app.key, key, later, false),
        (other.key, key, Timestamp::EPOCH, false),
        (app.key, world.idempotency_key(), Timestamp::EPOCH, false),
    ] {
        let accepted = store.accepted_under(application, key, not_before).await.unwrap();
        assert_eq!(accepted, found.then(|| without_payload(&message)));
    }
}
