//! Cases for the index of wakes: no endpoint with deliveries is forgotten.

use std::time::Duration;

use postrider_domain::delivery::{Against, EndpointFact, Hold, HoldReason, Next};
use postrider_domain::endpoint::{EndpointPatch, EndpointUrl, Headers};
use postrider_domain::message::Message;
use postrider_domain::task::TaskStatus;
use postrider_domain::time::Timestamp;

use super::Harness;
use super::world::{App, Ep, FAR, World, after, by_id, done, environment};
use postrider_store::{
    AttemptFilter, Direction, EndpointKey, Job, NewTask, ReplayFilter, Scan, Settlement, Span, Wakes,
};

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
    assert_eq!(take(world, instant(10), 10).await, (vec![endpoint.key], None));
    assert_eq!(park(instant(10)).await, Some(instant(20)), "what is due by then is the caller's, and put off");
    assert_eq!(take(world, instant(20), 10).await, (vec![endpoint.key], None));
    assert_eq!(park(instant(20)).await, None, "nothing is due later");
    assert_eq!(take(world, FAR, 10).await, (vec![], None));
}

pub(super) async fn parking_leaves_what_was_added_since_the_caller_looked<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let endpoint = world.endpoint(&app).await;
    let message = world.message(&app, &[&endpoint]).await;
    // It looks, and sees the one delivery. Before it parks, another is added that was due before that.
    let due = world.only_due(&endpoint).await;
    done(store.resend(endpoint.key, message.key, instant(5), None).await.unwrap());
    assert_eq!(store.park(endpoint.key, instant(10)).await.unwrap(), Some(instant(5)));
    world.settle(world.settlement(&endpoint, &due, Next::Succeeded)).await;
    assert_eq!(take(world, instant(10), 10).await, (vec![endpoint.key], None));
    assert_eq!(store.park(endpoint.key, instant(10)).await.unwrap(), None);
}

pub(super) async fn parking_one_endpoint_leaves_others_alone<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let (one, two) = (waiting(world, &app, instant(10)).await, waiting(world, &app, instant(20)).await);
    assert_eq!(take(world, instant(10), 10).await, (vec![one.key], Some(instant(20))));
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
    world.store().hold(held.key, hold(50), None).await.unwrap();
    world.store().hold(idle.key, hold(60), None).await.unwrap();
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

pub(super) async fn an_endpoint_on_hold_is_looked_after_at_the_end_of_it_though_what_it_has_is_due_later<H: Harness>(
    world: &mut World<H>,
) {
    let app = world.application().await;
    let endpoint = waiting(world, &app, instant(60)).await;
    let hold = Hold { until: instant(50), reason: HoldReason::Asked };
    world.store().hold(endpoint.key, hold, None).await.unwrap();
    world.reopen().await;
    assert_eq!(world.store().rebuild_wakes().await.unwrap(), 1);
    assert_eq!(take(world, instant(49), 10).await, (vec![], Some(instant(50))));
    assert_eq!(take(world, instant(50), 10).await, (vec![endpoint.key], None));
    assert_eq!(world.store().park(endpoint.key, instant(50)).await.unwrap(), Some(instant(60)));
    assert_eq!(world.store().holds().await.unwrap(), []);
}

pub(super) async fn what_a_hand_adds_is_in_the_index<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let message = world.message(&app, &[]).await;
    done(world.store().resend(endpoint.key, message.key, instant(5), None).await.unwrap());
    assert_eq!(take(world, instant(5), 10).await, (vec![endpoint.key], None));
}

/// Takes a task to its end.
async fn carry_out<H: Harness>(world: &World<H>, job: Job) {
    let created_at = world.tick();
    let id = world.task_id(created_at);
    let new = NewTask { id, environment: environment(), job, created_at };
    done(world.store().create_task(new, None).await.unwrap());
    while world.store().advance_task(id, 10, instant(5)).await.unwrap().status == TaskStatus::Running {}
}

pub(super) async fn what_a_task_adds_is_in_the_index<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let span = Span { since: Timestamp::EPOCH, until: FAR };
    world.message(&app, &[]).await;
    let tried = async || {
        let endpoint = world.endpoint(&app).await;
        world.message(&app, &[&endpoint]).await;
        let due = world.only_due(&endpoint).await;
        world.settle(world.settlement(&endpoint, &due, Next::Exhausted)).await;
        endpoint.key
    };
    let (recovered, replayed, again) = (tried().await, world.endpoint(&app).await.key, tried().await);
    for (endpoint, job) in [
        (recovered, Job::Recover { endpoint: recovered, span }),
        (replayed, Job::Replay { endpoint: replayed, span }),
        (again, Job::BulkReplay { endpoint: again, span, filter: ReplayFilter::default() }),
    ] {
        // Whoever looks after it parks it, having seen nothing of this.
        carry_out(world, job).await;
        assert_eq!(world.store().park(endpoint, FAR).await.unwrap(), Some(instant(5)));
        assert_eq!(take(world, instant(5), 10).await, (vec![endpoint], None));
    }
}

pub(super) async fn what_is_scheduled_is_in_the_index<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let scheduled = Message { deliver_at: Some(instant(5)), ..world.new_message() };
    world.message_of(&app, &[&endpoint], scheduled).await;
    assert_eq!(world.store().park(endpoint.key, FAR).await.unwrap(), Some(instant(5)));
    assert_eq!(take(world, instant(5), 10).await, (vec![endpoint.key], None));
}

/// A change of an endpoint, by name.
async fn change<H: Harness>(world: &World<H>, app: &App, endpoint: &Ep, what: &str) {
    let (store, id, now) = (world.store(), by_id(endpoint.value.id), world.tick());
    let patch = match what {
        "url" => {
            EndpointPatch { url: EndpointUrl::parse("https://example.com/mended").ok(), ..EndpointPatch::default() }
        }
        "credentials" => EndpointPatch { authorization: Some("Basic eDp5".to_owned()), ..EndpointPatch::default() },
        "description" => EndpointPatch { description: Some("new".to_owned()), ..EndpointPatch::default() },
        "rate" => EndpointPatch { throttle_rate: Some(Some(5)), ..EndpointPatch::default() },
        "disable" => EndpointPatch { disabled: Some(true), ..EndpointPatch::default() },
        "enable" => EndpointPatch { disabled: Some(false), ..EndpointPatch::default() },
        "secret" => {
            let rotated = store.rotate_secret(endpoint.key, world.secret(), now, now, None).await;
            return drop(rotated.unwrap());
        }
        "headers" => {
            let mut headers = Headers::new();
            headers.insert("X-Token", "another");
            return store.set_headers(endpoint.key, headers, now).await.unwrap();
        }
        "the same headers" => return store.set_headers(endpoint.key, Headers::new(), now).await.unwrap(),
        "delete" => return store.delete_endpoint(app.key, &id, now).await.unwrap(),
        _ => return store.delete_application(&environment(), &by_id(app.value.id), now).await.unwrap(),
    };
    store.update_endpoint(app.key, &id, patch, now).await.unwrap();
}

pub(super) async fn a_change_of_what_a_hold_was_learned_from_lifts_it<H: Harness>(world: &World<H>) {
    let hold = Hold { until: instant(50), reason: HoldReason::Asked };
    for (what, lifted) in [
        ("url", true),
        ("credentials", true),
        ("secret", true),
        ("headers", true),
        ("the same headers", false),
        ("disable", true),
        ("delete", true),
        ("application", true),
        ("description", false),
        ("rate", false),
    ] {
        let app = world.application().await;
        let (endpoint, idle) = (waiting(world, &app, instant(10)).await, world.endpoint(&app).await);
        let changed = if what == "application" { 1 } else { 2 };
        for held in [&endpoint, &idle] {
            world.store().hold(held.key, hold, None).await.unwrap();
        }
        for held in [&endpoint, &idle].into_iter().take(changed) {
            change(world, &app, held, what).await;
        }
        for held in [&endpoint, &idle] {
            let stands = world.store().hold_of(held.key).await.unwrap();
            assert_eq!(stands, (!lifted).then_some(hold), "{what}");
        }
        let (found, _) = take(world, instant(10), 10).await;
        // The idle one, too: whoever remembers the hold is to find that it is over.
        assert_eq!(found, if lifted { vec![endpoint.key, idle.key] } else { vec![] }, "{what}");
        take(world, FAR, 10).await;
    }
}

pub(super) async fn retries_that_were_put_off_are_due_when_the_hold_is_lifted<H: Harness>(world: &World<H>) {
    for (reason, what, due, lifted) in [
        (HoldReason::Asked, "url", 2, true),
        (HoldReason::Asked, "secret", 2, true),
        (HoldReason::Asked, "headers", 2, true),
        (HoldReason::Asked, "description", 0, false),
        (HoldReason::Asked, "disable", 0, true),
        (HoldReason::Silent, "url", 0, true),
    ] {
        let app = world.application().await;
        let endpoint = waiting(world, &app, instant(50)).await;
        wait(world, &app, &endpoint, instant(55)).await;
        wait(world, &app, &endpoint, instant(40)).await;
        let scheduled = Message { deliver_at: Some(instant(60)), ..world.new_message() };
        world.message_of(&app, &[&endpoint], scheduled).await;
        world.store().hold(endpoint.key, Hold { until: instant(50), reason }, None).await.unwrap();
        change(world, &app, &endpoint, what).await;
        let now = world.tick();
        let found = world.due(&endpoint, now).await;
        assert_eq!(found.len(), due, "{reason:?}, {what}");
        assert!(found.iter().all(|due| due.made == 1 && !due.fresh));
        assert_eq!(take(world, now, 10).await.0.len(), usize::from(lifted), "{reason:?}, {what}");
        take(world, FAR, 10).await;
    }
}

pub(super) async fn whoever_changes_an_endpoint_has_what_it_has_pending_looked_at<H: Harness>(world: &World<H>) {
    for what in ["url", "description", "rate", "enable", "secret", "headers", "disable", "delete", "application"] {
        let app = world.application().await;
        let (endpoint, idle) = (waiting(world, &app, instant(10)).await, world.endpoint(&app).await);
        take(world, FAR, 10).await;
        if what == "enable" {
            // Canceling what it had has not come to its end.
            change(world, &app, &endpoint, "disable").await;
            take(world, FAR, 10).await;
        }
        let changed = if what == "application" { 1 } else { 2 };
        for changed in [&idle, &endpoint].into_iter().take(changed) {
            change(world, &app, changed, what).await;
        }
        assert_eq!(take(world, instant(10), 10).await, (vec![endpoint.key], None), "{what}");
    }
}

pub(super) async fn an_endpoint_that_its_failures_disable_is_looked_at_and_not_held_back<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = waiting(world, &app, instant(10)).await;
    world.store().hold(endpoint.key, Hold { until: instant(50), reason: HoldReason::Silent }, None).await.unwrap();
    let other = world.message(&app, &[&endpoint]).await;
    let due = world.due(&endpoint, other.value.created_at).await.pop().unwrap();
    let fact = EndpointFact { at: world.tick(), kind: Against::Gone };
    world.settle(Settlement { against: Some(fact), ..world.settlement(&endpoint, &due, Next::Exhausted) }).await;
    assert_eq!(world.store().hold_of(endpoint.key).await.unwrap(), None);
    assert_eq!(take(world, instant(10), 10).await, (vec![endpoint.key], None));
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
    let log = world.store().attempts_by_endpoint(endpoint.key, &AttemptFilter::default(), all).await.unwrap().listed;
    let next: Vec<_> = log.rows.iter().map(|attempt| attempt.next_attempt_at).collect();
    assert_eq!(next, [Some(instant(50)), Some(instant(0))]);
}

pub(super) async fn what_a_clock_dated_that_was_ahead_waits_from_now_when_it_was_set_right<H: Harness>(
    world: &World<H>,
) {
    let app = world.application().await;
    // As it should be: its attempt was made before now.
    let endpoint = waiting(world, &app, instant(50)).await;
    // Three hours ahead: an attempt, a message, and what somebody asked for again.
    let ahead = instant(10_800);
    let message = world.message(&app, &[&endpoint]).await;
    let due = world.due(&endpoint, message.value.created_at).await.pop().unwrap();
    let mut failed = world.settlement(&endpoint, &due, Next::Waiting(after(ahead, 7)));
    let attempt = failed.attempt.as_mut().unwrap();
    (attempt.started_at, attempt.duration_ms) = (ahead, 2_000);
    world.settle(failed).await;
    let (dated, resent) = (world.new_message(), world.message(&app, &[]).await);
    world.message_of(&app, &[&endpoint], Message { created_at: ahead, ..dated }).await;
    world.store().resend(endpoint.key, resent.key, ahead, None).await.unwrap();
    // Asked for at an instant, by a caller whose clock was right.
    let scheduled = Message { deliver_at: Some(instant(9_000)), ..world.new_message() };
    world.message_of(&app, &[&endpoint], scheduled).await;
    world.store().hold(endpoint.key, Hold { until: after(ahead, 30), reason: HoldReason::Asked }, None).await.unwrap();
    let pull_in = async || world.store().pull_in(instant(0), Duration::from_secs(100_000)).await.unwrap();
    assert_eq!(pull_in().await, 3);
    assert_eq!(pull_in().await, 0);
    for (at, due) in [(1, 2), (4, 2), (6, 3), (49, 3), (50, 4), (8_999, 4), (9_000, 5)] {
        assert_eq!(world.due(&endpoint, after(instant(at), 0)).await.len(), due, "at {at}");
    }
    let hold = world.store().hold_of(endpoint.key).await.unwrap().unwrap();
    assert!(hold.until <= instant(30), "{hold:?}");
}
