//! Cases for retention: payloads go at their time, then messages with their attempts, and what belongs to deleted
//! applications at once; all of it in slices, and everything else stays.

use std::time::Duration;

use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::{Hold, HoldReason, Next};
use postrider_domain::endpoint::{EndpointPatch, EndpointUrl};
use postrider_domain::ids::Ksuid;
use postrider_domain::message::Message;
use postrider_domain::time::Timestamp;

use super::Harness;
use super::recorder::{News, Recorder};
use super::world::{App, Ep, FAR, Msg, World, after, by_id, environment};
use postrider_store::{AttemptFilter, AttemptStats, ClockSeen, Direction, MOST_AHEAD, MessageFilter, Scan, Swept};

const DAY: u64 = 86_400;
const KEPT: Duration = Duration::from_secs(90 * DAY);

async fn has_payload<H: Harness>(world: &World<H>, app: &App, message: &Msg) -> bool {
    world.store().message(app.key, &by_id(message.value.id), true).await.unwrap().unwrap().value.payload.is_some()
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

/// Removes messages whose time has come at `now`, in slices of this size; returns how many that were.
async fn sweep_messages<H: Harness>(world: &World<H>, now: Timestamp, rows: usize) -> usize {
    let mut removed = 0;
    for _ in 0..1_000 {
        let swept = world.store().sweep_messages(now, KEPT, rows).await.unwrap();
        removed += swept.removed;
        if !swept.more {
            return removed;
        }
    }
    panic!("the sweep does not end");
}

async fn is_there<H: Harness>(world: &World<H>, app: &App, message: &Msg) -> bool {
    world.store().message(app.key, &by_id(message.value.id), true).await.unwrap().is_some()
}

async fn attempts<H: Harness>(world: &World<H>, endpoint: &Ep) -> usize {
    let all = Scan::all(Direction::Ascending, 1_000);
    world.store().attempts_by_endpoint(endpoint.key, &AttemptFilter::default(), all).await.unwrap().listed.rows.len()
}

/// Attempts everything that is pending at an endpoint, once.
async fn deliver<H: Harness>(world: &World<H>, endpoint: &Ep) {
    for due in world.due(endpoint, FAR).await {
        world.settle(world.settlement(endpoint, &due, Next::Succeeded)).await;
    }
}

pub(super) async fn messages_go_with_their_attempts_in_slices_of_any_size<H: Harness>(world: &World<H>) {
    for rows in [1, 2, 7, 100] {
        let app = world.application().await;
        let endpoints = [world.endpoint(&app).await, world.endpoint(&app).await];
        let start = world.tick();
        let day = |days| after(start, days * DAY);
        let mut messages = Vec::new();
        for number in 0..40 {
            let message = Message { created_at: day(number / 10), ..world.new_message() };
            messages.push(world.message_of(&app, &[&endpoints[0], &endpoints[1]], message).await);
        }
        for endpoint in &endpoints {
            deliver(world, endpoint).await;
        }
        assert_eq!(sweep_messages(world, day(89), rows).await, 0);
        for today in 90..94 {
            assert_eq!(sweep_messages(world, day(today), rows).await, 10, "day {today} in slices of {rows}");
            assert_eq!(sweep_messages(world, day(today), rows).await, 0, "nothing twice");
            let left = usize::try_from(93 - today).unwrap() * 10;
            for (place, message) in messages.iter().enumerate() {
                assert_eq!(is_there(world, &app, message).await, place >= 40 - left);
            }
            let all = Scan::all(Direction::Descending, 100);
            let listed = world.store().messages(app.key, &MessageFilter::default(), all).await.unwrap().listed;
            assert_eq!(listed.rows.len(), left);
            for endpoint in &endpoints {
                assert_eq!(attempts(world, endpoint).await, left);
                let (from, to) = (Ksuid::floor(Timestamp::EPOCH), Ksuid::floor(FAR));
                let stats = world.store().attempt_stats(endpoint.key, from, to).await.unwrap();
                assert_eq!(stats, AttemptStats { succeeded: left as u64, failed: 0 });
            }
        }
    }
}

pub(super) async fn a_message_that_is_still_to_be_delivered_stays_until_it_was<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let (endpoint, other) = (world.endpoint(&app).await, world.endpoint(&app).await);
    let done = world.message(&app, &[&other]).await;
    let pending = world.message(&app, &[&endpoint, &other]).await;
    let created_at = world.tick();
    let scheduled = Message { created_at, deliver_at: Some(after(created_at, 30 * DAY)), ..world.new_message() };
    let scheduled = world.message_of(&app, &[], scheduled).await;
    deliver(world, &other).await;
    let late = after(created_at, 100 * DAY);
    assert_eq!(sweep_messages(world, late, 10).await, 1);
    assert!(!is_there(world, &app, &done).await);
    assert!(is_there(world, &app, &pending).await && has_payload(world, &app, &pending).await);
    assert!(is_there(world, &app, &scheduled).await, "it was due 30 days later");
    deliver(world, &endpoint).await;
    assert_eq!(sweep_messages(world, late, 10).await, 1);
    assert_eq!(sweep_messages(world, after(created_at, 120 * DAY), 10).await, 1);
}

pub(super) async fn a_message_that_is_sent_again_while_old_ones_go_stays<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let first = world.message(&app, &[]).await;
    let again = world.message(&app, &[]).await;
    let late = after(world.tick(), 100 * DAY);
    let swept = world.store().sweep_messages(late, KEPT, 1).await.unwrap();
    assert_eq!(swept, Swept { removed: 1, more: true });
    world.store().resend(endpoint.key, again.key, late, None).await.unwrap();
    assert_eq!(sweep_messages(world, late, 1).await, 0);
    assert!(!is_there(world, &app, &first).await && is_there(world, &app, &again).await);
    assert!(world.only_due(&endpoint).await.message.is_some());
    deliver(world, &endpoint).await;
    assert_eq!(sweep_messages(world, late, 1).await, 1);
}

pub(super) async fn what_a_wrong_clock_dated_ahead_goes_with_what_came_after_it<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let start = world.tick();
    let day = |days| after(start, days * DAY);
    let mut messages = Vec::new();
    for created_at in [day(0), day(400), day(401), day(1), day(2)] {
        messages.push(world.message_of(&app, &[], Message { created_at, ..world.new_message() }).await);
    }
    assert_eq!(sweep(world, day(90), 2).await, 1);
    assert_eq!(sweep(world, day(91), 2).await, 3);
    assert_eq!(sweep_messages(world, day(90), 2).await, 1);
    assert_eq!(sweep_messages(world, day(91), 2).await, 3);
    assert!(is_there(world, &app, &messages[4]).await && has_payload(world, &app, &messages[4]).await);
    assert_eq!(sweep_messages(world, day(92), 2).await, 1);
}

pub(super) async fn what_belongs_to_a_deleted_application_is_erased_and_nothing_else<H: Harness>(world: &World<H>) {
    let (app, other) = (world.application().await, world.application().await);
    let (endpoint, others) = (world.endpoint(&app).await, world.endpoint(&other).await);
    let mut messages = Vec::new();
    for _ in 0..20 {
        messages.push(world.message(&app, &[&endpoint]).await);
        world.message(&other, &[&others]).await;
    }
    deliver(world, &endpoint).await;
    deliver(world, &others).await;
    world.message(&app, &[&endpoint]).await;
    let recorder = Recorder::of(world.store().as_ref());
    let now = world.tick();
    let hold = Hold { until: after(now, 1), reason: HoldReason::Asked };
    world.store().hold(endpoint.key, hold, None).await.unwrap();
    world.store().delete_application(&environment(), &by_id(app.value.id), now).await.unwrap();
    let mut erased = 0;
    for later in [0, 2 * DAY] {
        while let Swept { removed, more: true } = world.store().erase_deleted(after(now, later), 7).await.unwrap() {
            erased += removed;
        }
        assert_eq!(attempts(world, &endpoint).await, 0);
        assert_eq!(world.due(&endpoint, FAR).await.len(), 0);
    }
    assert_eq!(erased, 21 + 21 + 2, "payloads, messages, the endpoint and the application");
    let told = recorder.take().into_iter().filter(|news| matches!(news, News::Expunged(_))).count();
    assert_eq!(told, 21);
    assert!(world.store().target(endpoint.key).await.unwrap().is_none());
    assert_eq!(world.store().holds().await.unwrap(), [], "nothing brings up an endpoint that is not there");
    let all = Scan::all(Direction::Ascending, 100);
    assert_eq!(
        world.store().messages(other.key, &MessageFilter::default(), all.clone()).await.unwrap().listed.rows.len(),
        20
    );
    assert_eq!(attempts(world, &others).await, 20);
    let left = world.store().attempts_by_message(messages[0].key, None, &AttemptFilter::default(), all).await.unwrap();
    assert!(left.listed.rows.is_empty());
}

pub(super) async fn the_clock_is_as_it_was_noted_or_as_the_newest_message_says<H: Harness>(world: &mut World<H>) {
    assert_eq!(world.store().clock_seen().await.unwrap(), None);
    let app = world.application().await;
    let message = world.message(&app, &[]).await;
    let right = |right| Some(ClockSeen { right, doubted: Duration::ZERO, shown: right, keys: right });
    assert_eq!(world.store().clock_seen().await.unwrap(), right(message.value.created_at));
    let noted = world.tick();
    world.store().note_clock(noted, noted).await.unwrap();
    world.message(&app, &[]).await;
    world.reopen().await;
    assert_eq!(world.store().clock_seen().await.unwrap(), right(noted));
    // It is doubted, time goes on, and it is believed again.
    let hour = Duration::from_secs(3_600);
    let [later, keys, shown] = [1, 2, 1_000].map(|hours| noted.saturating_add(hours * hour));
    let doubt = ClockSeen { right: later, doubted: hour, shown, keys };
    world.store().note_doubt(doubt).await.unwrap();
    let ahead = noted.saturating_add(100 * MOST_AHEAD);
    for _ in 0..2 {
        assert_eq!(world.store().clock_seen().await.unwrap(), Some(doubt));
        assert_eq!(world.store().believed(ahead), doubt.keys);
        assert_eq!(world.store().believed(doubt.keys.saturating_add(2 * hour)), doubt.keys);
        for near in [doubt.keys.saturating_add(hour), doubt.keys.saturating_sub(100 * hour)] {
            assert_eq!(world.store().believed(near), near);
        }
        world.reopen().await;
    }
    world.store().note_clock(ahead, ahead).await.unwrap();
    assert_eq!(world.store().believed(ahead), ahead);
    assert_eq!(world.store().clock_seen().await.unwrap(), right(ahead));
}

pub(super) async fn urls_go_when_no_attempt_names_them_also_those_of_living_endpoints<H: Harness>(world: &World<H>) {
    for rows in [1, 2, 100] {
        let app = world.application().await;
        let endpoint = world.endpoint(&app).await;
        let change = async |url: &str| {
            let patch = EndpointPatch { url: Some(EndpointUrl::parse(url).unwrap()), ..EndpointPatch::default() };
            world.store().update_endpoint(app.key, &by_id(endpoint.value.id), patch, world.tick()).await.unwrap();
        };
        let attempt = async |url: &str| {
            let message = world.message(&app, &[&endpoint]).await;
            let due = world.only_due(&endpoint).await;
            let mut settlement = world.settlement(&endpoint, &due, Next::Succeeded);
            settlement.attempt.as_mut().unwrap().url = url.into();
            world.settle(settlement).await;
            message
        };
        let forget = async |before| {
            let mut removed = 0;
            loop {
                let swept = world.store().forget_urls(before, rows).await.unwrap();
                removed += swept.removed;
                if !swept.more {
                    return removed;
                }
            }
        };
        let urls = async || {
            let page = Scan::all(Direction::Ascending, 100);
            let filter = AttemptFilter::default();
            let attempts = world.store().attempts_by_endpoint(endpoint.key, &filter, page).await.unwrap().listed;
            attempts.rows.into_iter().map(|attempt| attempt.url).collect::<Vec<_>>()
        };
        let mut sent = Vec::new();
        // One that comes back, and one that is named late, by an attempt that began before the change.
        for url in ["https://1.test/", "https://2.test/", "https://1.test/", "https://3.test/"] {
            change(url).await;
            sent.push(attempt(url).await);
        }
        sent.push(attempt("https://1.test/").await);
        let all = urls().await;
        assert_eq!(all.len(), 5);
        assert_eq!(forget(FAR).await, 0, "all of them are named");
        assert_eq!(urls().await, all);
        // The first four go, so three former URLs are named no more; the late one is not known to be a former one.
        let until = sent[3].value.created_at;
        while world.store().sweep_messages(after(until, KEPT.as_secs()), KEPT, 100).await.unwrap().more {}
        assert_eq!(forget(Timestamp::EPOCH).await, 0, "they were not retired then");
        assert_eq!(forget(FAR).await, 3);
        assert_eq!(urls().await, all[4..]);
        change("https://4.test/").await;
        let until = sent[4].value.created_at;
        while world.store().sweep_messages(after(until, KEPT.as_secs()), KEPT, 100).await.unwrap().more {}
        assert_eq!(forget(FAR).await, 2);
        assert_eq!(urls().await.len(), 0);
    }
}
