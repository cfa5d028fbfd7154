//! Cases for erasing payloads and answers.

use postrider_domain::delivery::Next;

use super::Harness;
use super::recorder::{News, Recorder};
use super::world::{FAR, World, by_id, by_uid, uid_of};
use postrider_store::{ResendError, WriteError};

pub(super) async fn an_erased_payload_is_gone_and_its_message_stays<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let endpoint = world.endpoint(&app).await;
    let (erased, kept) = (world.message(&app, &[&endpoint]).await, world.message(&app, &[]).await);
    let recorder = Recorder::of(store.as_ref());
    for _ in 0..2 {
        store.expunge_message(erased.key).await.unwrap();
        assert_eq!(recorder.take(), [News::Expunged(erased.key)], "also when it is repeated");
    }
    let read = async |id| store.message(app.key, &by_id(id), true).await.unwrap().unwrap().value;
    assert_eq!(read(erased.value.id).await.payload, None);
    assert_eq!(read(erased.value.id).await.event_type, erased.value.event_type);
    assert_eq!(read(kept.value.id).await.payload, kept.value.payload);
    let due = world.due(&endpoint, FAR).await;
    assert!(due.len() == 1 && due[0].message.is_none(), "what is pending can only be canceled: {due:?}");
    let refused = store.resend(endpoint.key, erased.key, world.tick(), None).await;
    assert!(matches!(refused, Err(ResendError::MissingPayload)), "{refused:?}");
}

pub(super) async fn payloads_are_erased_by_id_and_event_id<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let mut new = world.new_message();
    new.event_id = Some(uid_of("order-1"));
    let (one, two) = (world.message(&app, &[]).await, world.message_of(&app, &[], new).await);
    let kept = world.message(&app, &[]).await;
    let elsewhere = world.message(&world.application().await, &[]).await;
    let recorder = Recorder::of(store.as_ref());
    let ids = vec![by_id(one.value.id), by_id(elsewhere.value.id), by_uid("order-1"), by_uid("order-2")];
    assert_eq!(store.expunge_messages(app.key, ids).await.unwrap(), [true, false, true, false]);
    assert_eq!(recorder.take(), [News::Expunged(one.key), News::Expunged(two.key)]);
    for (message, erased) in [(&one, true), (&two, true), (&kept, false)] {
        let read = store.message(app.key, &by_id(message.value.id), true).await.unwrap().unwrap();
        assert_eq!(read.value.payload.is_none(), erased);
    }
    assert!(store.expunge_messages(app.key, Vec::new()).await.unwrap().is_empty());
}

pub(super) async fn an_erased_answer_is_gone_and_its_attempt_stays<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let endpoint = world.endpoint(&app).await;
    let (message, other) = (world.message(&app, &[&endpoint]).await, world.message(&app, &[]).await);
    let due = world.only_due(&endpoint).await;
    let settlement = world.settlement(&endpoint, &due, Next::Succeeded);
    let id = settlement.attempt.as_ref().unwrap().id;
    world.settle(settlement).await;
    for _ in 0..2 {
        store.expunge_attempt(message.key, id).await.unwrap();
    }
    let attempt = store.attempt(app.key, message.key, id).await.unwrap().unwrap();
    assert_eq!((attempt.response, attempt.status_code), (None, 204));
    for (message, id) in [(other.key, id), (message.key, world.attempt_id(world.tick()))] {
        let refused = store.expunge_attempt(message, id).await;
        assert!(matches!(refused, Err(WriteError::NotFound)), "{refused:?}");
    }
}
