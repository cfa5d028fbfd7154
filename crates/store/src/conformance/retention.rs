//! Cases for retention: payloads go at their time, in slices, and everything else stays.

use std::time::Duration;

use postrider_domain::attempt::Trigger;
use postrider_domain::message::Message;
use postrider_domain::time::Timestamp;

use super::Harness;
use super::recorder::{News, Recorder};
use super::world::{App, FAR, Msg, World, after, by_id};
use crate::Swept;

const DAY: u64 = 86_400;
const KEPT: Duration = Duration::from_secs(90 * DAY);

async fn has_payload<H: Harness>(world: &World<H>, app: &App, message: &Msg) -> bool {
    world.store().message(app.key, &by_id(message.value.id)).await.unwrap().unwrap().value.payload.is_some()
}

/// Removes everything whose time has come at `now`, in slices of this size; returns how many payloads that were.
async fn sweep<H: Harness>(world: &World<H>, now: Timestamp, rows: usize) -> usize {
    let mut removed = 0;
    for _ in 0..1_000 {
        let swept = world.store().sweep_payloads(now, KEPT, rows).await.unwrap();
        removed += swept.removed;
        if !swept.more {
            return removed;
        }
    }
    panic!("the sweep does not end");
}

pub(super) async fn payloads_go_at_their_time_in_slices_of_any_size<H: Harness>(world: &World<H>) {
    for rows in [1, 2, 3, 100] {
        let app = world.application().await;
        let start = world.tick();
        let day = |days| after(start, days * DAY);
        let message = async |created, expires_at, deliver_at| {
            let message = Message { created_at: created, expires_at, deliver_at, ..world.new_message() };
            world.message_of(&app, &[], message).await
        };
        let messages = [
            (message(day(0), None, None).await, 90),
            (message(day(0), Some(day(1)), None).await, 1),
            (message(day(0), Some(day(120)), None).await, 120),
            (message(day(0), None, Some(day(30))).await, 120),
            (message(day(1), None, None).await, 91),
            (message(day(1), Some(day(90)), None).await, 90),
            (message(day(2), None, None).await, 92),
        ];
        for today in [0, 1, 89, 90, 91, 92, 119, 120] {
            let now = after(start, today * DAY);
            let removed = sweep(world, now, rows).await;
            assert_eq!(sweep(world, now, rows).await, 0, "nothing twice");
            let due = messages.iter().filter(|(_, expires)| *expires == today).count();
            assert_eq!(removed, due, "day {today} in slices of {rows}");
            for (place, (message, expires)) in messages.iter().enumerate() {
                assert_eq!(has_payload(world, &app, message).await, today < *expires, "{place} on day {today}");
            }
        }
    }
}

pub(super) async fn what_was_erased_before_does_not_count<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let soon = after(world.tick(), 60);
    let mut messages = Vec::new();
    for expires_at in [None, Some(soon), None] {
        let message = Message { expires_at, ..world.new_message() };
        messages.push(world.message_of(&app, &[], message).await);
    }
    for message in &messages[..2] {
        world.store().expunge_message(message.key).await.unwrap();
    }
    let recorder = Recorder::of(world.store().as_ref());
    assert_eq!(sweep(world, FAR, 1).await, 1);
    assert_eq!(recorder.take(), [News::Expunged(messages[2].key)]);
}

pub(super) async fn a_large_payload_ends_a_slice<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    for expires_at in [None, Some(after(world.tick(), 60))] {
        for _ in 0..4 {
            let payload = Some(bytes::Bytes::from(vec![b' '; 2 << 20]));
            world.message_of(&app, &[], Message { payload, expires_at, ..world.new_message() }).await;
        }
    }
    let mut slices = Vec::new();
    loop {
        let Swept { removed, more } = world.store().sweep_payloads(FAR, KEPT, 100).await.unwrap();
        slices.push(removed);
        if !more {
            break;
        }
    }
    assert_eq!(slices.iter().sum::<usize>(), 8);
    assert!(slices.iter().all(|removed| *removed <= 4), "{slices:?}");
}

pub(super) async fn a_sweep_goes_on_after_a_restart<H: Harness>(world: &mut World<H>) {
    let app = world.application().await;
    let mut messages = Vec::new();
    for _ in 0..3 {
        messages.push(world.message(&app, &[]).await);
    }
    for left in [2, 1, 0] {
        assert_eq!(world.store().sweep_payloads(FAR, KEPT, 1).await.unwrap().removed, 1);
        world.reopen().await;
        let mut have = 0;
        for message in &messages {
            have += usize::from(has_payload(world, &app, message).await);
        }
        assert_eq!(have, left);
    }
    let later = world.message(&app, &[]).await;
    assert_eq!(sweep(world, FAR, 10).await, 1);
    assert!(!has_payload(world, &app, &later).await);
}

pub(super) async fn the_delivery_of_an_expired_payload_can_only_be_canceled<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    world.message(&app, &[&endpoint]).await;
    sweep(world, FAR, 10).await;
    let due = world.only_due(&endpoint).await;
    assert_eq!((due.message, due.trigger), (None, Trigger::Scheduled));
}
