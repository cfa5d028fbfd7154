//! Cases for the index of wakes: no endpoint with deliveries is forgotten.

use std::time::Duration;

use postrider_domain::delivery::{Hold, HoldReason, Next};
use postrider_domain::message::Message;
use postrider_domain::time::Timestamp;

use super::Harness;
use super::world::{App, Ep, FAR, World, after, done};
use crate::{AttemptFilter, Direction, EndpointKey, Scan, Wakes};

/// A new endpoint with one delivery that waits until `at`.
async fn waiting<H: Harness>(world: &World<H>, app: &App, at: Timestamp) -> Ep {
    let endpoint = world.endpoint(app).await;
    wait(world, app, &endpoint, at).await;
    endpoint
}

/// One more delivery of an endpoint that waits until `at`.
async fn wait<H: Harness>(world: &World<H>, app: &App, endpoint: &Ep, at: Timestamp) {
    let message = world.message(app, &[endpoint]).await;
    let due = world.due(endpoint, message.value.created_at).await.pop().unwrap();
    world.settle(world.settlement(endpoint, &due, Next::Waiting(at))).await;
}

async fn take<H: Harness>(world: &World<H>, now: Timestamp, limit: usize) -> (Vec<EndpointKey>, Option<Timestamp>) {
    let Wakes { endpoints, next_at } = world.store().take_wakes(now, limit).await.unwrap();
    (endpoints.iter().map(|woken| woken.endpoint).collect(), next_at)
}

fn instant(seconds: u64) -> Timestamp {
    after(Timestamp::from_micros(1_800_000_000_000_000), seconds)
}

pub(super) async fn a_waiting_delivery_is_in_the_index<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = waiting(world, &app, instant(10)).await;
    assert_eq!(take(world, instant(9), 10).await, (vec![], Some(instant(10))));
    assert_eq!(take(world, instant(10), 10).await, (vec![endpoint.key], None));
    assert_eq!(take(world, FAR, 10).await, (vec![], None), "whoever took it looks after it");
}

pub(super) async fn the_index_keeps_the_earliest_instant<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = waiting(world, &app, instant(20)).await;
    for (at, earliest) in [(30, 20), (10, 10), (15, 10)] {
        wait(world, &app, &endpoint, instant(at)).await;
        assert_eq!(take(world, instant(0), 10).await, (vec![], Some(instant(earliest))));
    }
    assert_eq!(take(world, instant(10), 10).await, (vec![endpoint.key], None));
}

pub(super) async fn taking_is_by_instant_and_limit_and_removes<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let mut keys = Vec::new();
    for at in [40, 10, 30, 20] {
        keys.push(waiting(world, &app, instant(at)).await.key);
    }
    assert_eq!(take(world, instant(30), 0).await, (vec![], Some(instant(10))));
    assert_eq!(take(world, instant(30), 2).await, (vec![keys[1], keys[3]], Some(instant(30))));
    assert_eq!(take(world, instant(30), 2).await, (vec![keys[2]], Some(instant(40))));
    assert_eq!(take(world, instant(30), 2).await, (vec![], Some(instant(40))));
    assert_eq!(take(world, FAR, usize::MAX).await, (vec![keys[0]], None));
}

pub(super) async fn parking_sets_the_index_to_what_is_due_later<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let endpoint = world.endpoint(&app).await;
    let park = async |after| store.park(endpoint.key, after).await.unwrap();
    assert_eq!(park(instant(0)).await, None);
    assert_eq!(take(world, FAR, 10).await, (vec![], None));

    wait(world, &app, &endpoint, instant(20)).await;
    wait(world, &app, &endpoint, instant(10)).await;
    assert_eq!(take(world, FAR, 10).await, (vec![endpoint.key], None));
    for _ in 0..2 {
        assert_eq!(park(instant(9)).await, Some(instant(10)));
        assert_eq!(take(world, instant(9), 10).await, (vec![], Some(instant(10))));
    }
    assert_eq!(park(instant(10)).await, Some(instant(20)), "what is due by then is the caller's, and put off");
    assert_eq!(take(world, instant(19), 10).await, (vec![], Some(instant(20))));
    assert_eq!(park(instant(20)).await, None, "nothing is due later");
    assert_eq!(take(world, FAR, 10).await, (vec![], None));
}

pub(super) async fn parking_one_endpoint_leaves_others_alone<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let (one, two) = (waiting(world, &app, instant(10)).await, waiting(world, &app, instant(20)).await);
    assert_eq!(world.store().park(one.key, instant(10)).await.unwrap(), None);
    assert_eq!(take(world, FAR, 10).await, (vec![two.key], None));
}

pub(super) async fn waking_later_keeps_the_earlier_instant<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let (first, second) = (waiting(world, &app, instant(10)).await, waiting(world, &app, instant(30)).await);
    let third = world.endpoint(&app).await;
    world.message(&app, &[&third]).await;
    store.wake_later(vec![first.key, second.key, third.key], instant(20)).await.unwrap();
    assert_eq!(take(world, instant(10), 10).await, (vec![first.key], Some(instant(20))));
    let (mut both, next_at) = take(world, instant(20), 10).await;
    both.sort();
    assert_eq!((both, next_at), (vec![second.key, third.key], None));
    store.wake_later(Vec::new(), instant(20)).await.unwrap();
    assert_eq!(take(world, FAR, 10).await, (vec![], None));
}

pub(super) async fn rebuilding_finds_fresh_and_waiting_deliveries<H: Harness>(world: &mut World<H>) {
    let app = world.application().await;
    let fresh = world.endpoint(&app).await;
    let accepted_at = world.message(&app, &[&fresh]).await.value.created_at;
    let idle = world.endpoint(&app).await;
    world.message(&app, &[&idle]).await;
    let due = world.only_due(&idle).await;
    world.settle(world.settlement(&idle, &due, Next::Succeeded)).await;
    let parked = waiting(world, &app, instant(10)).await;
    let taken = waiting(world, &app, instant(5)).await;
    assert_eq!(take(world, instant(5), 10).await.0, [taken.key]);

    world.reopen().await;
    assert_eq!(world.store().rebuild_wakes().await.unwrap(), 3);
    assert_eq!(take(world, accepted_at, 10).await, (vec![fresh.key], Some(instant(5))));
    assert_eq!(take(world, FAR, 10).await, (vec![taken.key, parked.key], None));
}

pub(super) async fn an_endpoint_on_hold_is_not_due_before_the_end_of_it<H: Harness>(world: &mut World<H>) {
    let app = world.application().await;
    let (held, idle) = (waiting(world, &app, instant(10)).await, world.endpoint(&app).await);
    let hold = |seconds| Hold { until: instant(seconds), reason: HoldReason::Asked };
    world.store().hold(held.key, hold(50)).await.unwrap();
    world.store().hold(idle.key, hold(60)).await.unwrap();
    assert_eq!(take(world, instant(49), 10).await, (vec![], Some(instant(50))));
    // Nothing that comes meanwhile makes it due earlier: a retry, a hand, a lane that had no room.
    wait(world, &app, &held, instant(20)).await;
    let message = world.message(&app, &[&held]).await;
    done(world.store().resend(held.key, message.key, instant(5), None).await.unwrap());
    world.store().wake_later(vec![held.key], instant(1)).await.unwrap();
    assert_eq!(take(world, instant(49), 10).await, (vec![], Some(instant(50))));

    world.reopen().await;
    let mut holds = world.store().holds().await.unwrap();
    holds.sort();
    assert_eq!(holds, [(held.key, hold(50)), (idle.key, hold(60))]);
    assert_eq!(world.store().rebuild_wakes().await.unwrap(), 1);
    assert_eq!(take(world, instant(49), 10).await, (vec![], Some(instant(50))));
    assert_eq!(take(world, instant(50), 10).await, (vec![held.key], Some(instant(60))), "also if it has nothing");
    // Whoever parks it says that the hold is over.
    assert_eq!(world.store().park(held.key, Timestamp::EPOCH).await.unwrap(), Some(message.value.created_at));
    assert_eq!(take(world, instant(5), 10).await.0, [held.key]);
    assert_eq!(world.store().holds().await.unwrap().len(), 1);
}

pub(super) async fn what_a_hand_adds_is_in_the_index<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let message = world.message(&app, &[]).await;
    done(world.store().resend(endpoint.key, message.key, instant(5), None).await.unwrap());
    assert_eq!(take(world, instant(5), 10).await, (vec![endpoint.key], None));
}

pub(super) async fn rebuilding_an_empty_store_finds_nothing<H: Harness>(world: &World<H>) {
    assert_eq!(world.store().rebuild_wakes().await.unwrap(), 0);
    assert_eq!(take(world, FAR, 10).await, (vec![], None));
}

pub(super) async fn what_is_due_later_than_any_wait_is_due_now_except_what_was_scheduled<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = waiting(world, &app, instant(50)).await;
    wait(world, &app, &endpoint, instant(1_000_000)).await;
    let misdated = Message { created_at: instant(2_000_000), ..world.new_message() };
    world.message_of(&app, &[&endpoint], misdated).await;
    let scheduled = Message { deliver_at: Some(instant(3_000_000)), ..world.new_message() };
    world.message_of(&app, &[&endpoint], scheduled).await;
    let pull_in = async || world.store().pull_in(instant(0), Duration::from_secs(100)).await.unwrap();
    assert_eq!(pull_in().await, 2);
    assert_eq!(pull_in().await, 0);
    for (at, due) in [(1, 2), (60, 3), (2_999_999, 3), (3_000_000, 4)] {
        assert_eq!(world.due(&endpoint, instant(at)).await.len(), due, "at {at}");
    }
    let all = Scan::all(Direction::Ascending, 10);
    let log = world.store().attempts_by_endpoint(endpoint.key, &AttemptFilter::default(), all).await.unwrap();
    let next: Vec<_> = log.rows.iter().map(|attempt| attempt.next_attempt_at).collect();
    assert_eq!(next, [Some(instant(50)), Some(instant(0))]);
}
