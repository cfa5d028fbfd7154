//! Cases for settling: the attempt and the delivery's next state, in one commit.

use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::{Against, DisableReason, EndpointFact, Hold, HoldReason, Next};
use postrider_domain::endpoint::{Disablement, EndpointPatch, EndpointUrl};
use postrider_domain::entropy::SeededEntropy;
use postrider_domain::signature::{Secret, SecretKind};
use postrider_domain::time::Timestamp;

use super::Harness;
use super::recorder::{News, Recorder};
use super::world::{App, Ep, FAR, Msg, World, after, by_id, done, failing};
use postrider_store::{AttemptFilter, Direction, Elsewhere, MessageKey, Scan, Settlement};

/// The attempts that are logged for a message, as (succeeded, trigger, next attempt), oldest first.
async fn log<H: Harness>(world: &World<H>, message: MessageKey) -> Vec<(bool, Trigger, Option<Timestamp>)> {
    let page = Scan::all(Direction::Ascending, 100);
    let attempts =
        world.store().attempts_by_message(message, None, &AttemptFilter::default(), page).await.unwrap().listed.rows;
    attempts.iter().map(|attempt| (attempt.succeeded, attempt.trigger, attempt.next_attempt_at)).collect()
}

async fn resend<H: Harness>(world: &World<H>, endpoint: &Ep, message: &Msg) -> Timestamp {
    let now = world.tick();
    done(world.store().resend(endpoint.key, message.key, now, None).await.unwrap());
    now
}

pub(super) async fn success_ends_a_delivery_and_logs_the_attempt<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let message = world.message(&app, &[&endpoint]).await;
    let due = world.only_due(&endpoint).await;
    world.settle(world.settlement(&endpoint, &due, Next::Succeeded)).await;
    assert_eq!(world.due(&endpoint, FAR).await.len(), 0);
    assert_eq!(log(world, message.key).await, [(true, Trigger::Scheduled, None)]);
}

pub(super) async fn waiting_moves_a_delivery_and_counts_the_attempt<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let message = world.message(&app, &[&endpoint]).await;
    let mut instants = Vec::new();
    for made in 1..=3 {
        let due = world.only_due(&endpoint).await;
        let at = after(message.value.created_at, u64::from(made) * 10);
        instants.push((false, Trigger::Scheduled, Some(at)));
        world.settle(world.settlement(&endpoint, &due, Next::Waiting(at))).await;
        let early = Timestamp::from_micros(at.as_micros() - 1);
        assert_eq!(world.due(&endpoint, early).await.len(), 0);
        let due = world.due(&endpoint, at).await.remove(0);
        assert_eq!((due.key.due_at, due.made, due.trigger), (at, made, Trigger::Scheduled));
        assert_eq!(due.message.as_ref(), Some(&message.value));
    }
    assert_eq!(log(world, message.key).await, instants);
}

pub(super) async fn exhausted_and_canceled_end_a_delivery<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    for next in [Next::Exhausted, Next::Canceled] {
        let message = world.message(&app, &[&endpoint]).await;
        let due = world.only_due(&endpoint).await;
        world.settle(world.settlement(&endpoint, &due, next)).await;
        assert_eq!(world.due(&endpoint, FAR).await.len(), 0, "{next:?}");
        assert_eq!(log(world, message.key).await, [(false, Trigger::Scheduled, None)]);
    }
}

pub(super) async fn a_delivery_can_be_canceled_without_an_attempt<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let message = world.message(&app, &[&endpoint]).await;
    let due = world.only_due(&endpoint).await;
    let mut canceled = world.settlement(&endpoint, &due, Next::Canceled);
    canceled.attempt = None;
    world.settle(canceled).await;
    assert_eq!(world.due(&endpoint, FAR).await.len(), 0);
    assert_eq!(log(world, message.key).await, []);
}

pub(super) async fn settling_again_does_no_harm<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let message = world.message(&app, &[&endpoint]).await;
    let first_wait = after(message.value.created_at, 10);
    let first = world.settlement(&endpoint, &world.only_due(&endpoint).await, Next::Waiting(first_wait));
    // Within one batch, and after it.
    world.store().settle(vec![first.clone(), first.clone()]).await.unwrap();
    world.settle(first.clone()).await;
    let waiting = world.only_due(&endpoint).await;
    assert_eq!((waiting.key.due_at, waiting.made), (first_wait, 1));

    let second_wait = after(message.value.created_at, 20);
    let second = world.settlement(&endpoint, &waiting, Next::Waiting(second_wait));
    world.settle(second.clone()).await;
    world.settle(first).await;
    world.settle(second.clone()).await;
    let waiting = world.only_due(&endpoint).await;
    assert_eq!((waiting.key.due_at, waiting.made), (second_wait, 2));

    let last = world.settlement(&endpoint, &waiting, Next::Succeeded);
    for settlement in [last.clone(), last, second] {
        world.settle(settlement).await;
        assert_eq!(world.due(&endpoint, FAR).await.len(), 0);
    }
    let want = [(false, Trigger::Scheduled, Some(first_wait)), (false, Trigger::Scheduled, Some(second_wait))];
    assert_eq!(log(world, message.key).await, [&want[..], &[(true, Trigger::Scheduled, None)]].concat());
}

pub(super) async fn a_delivery_that_is_gone_is_logged_but_not_scheduled<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let endpoint = world.endpoint(&app).await;
    let message = world.message(&app, &[&endpoint]).await;
    let due = world.only_due(&endpoint).await;
    world.disable(&app, &endpoint, true).await;
    assert_eq!(store.cancel_deliveries(endpoint.key, 10).await.unwrap(), 1);
    world.settle(world.settlement(&endpoint, &due, Next::Waiting(world.tick()))).await;
    assert_eq!(store.backlog(endpoint.key, 10).await.unwrap(), 0);
    assert_eq!(log(world, message.key).await.len(), 1);
}

pub(super) async fn the_delivery_of_a_deleted_endpoint_is_logged_but_not_scheduled<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let endpoint = world.endpoint(&app).await;
    let message = world.message(&app, &[&endpoint]).await;
    let due = world.only_due(&endpoint).await;
    store.delete_endpoint(app.key, &by_id(endpoint.value.id), world.tick()).await.unwrap();
    world.settle(world.settlement(&endpoint, &due, Next::Waiting(after(world.tick(), 60)))).await;
    assert_eq!(store.backlog(endpoint.key, 10).await.unwrap(), 0);
    assert_eq!(log(world, message.key).await.len(), 1);
}

/// Sends a message, and settles its attempt like this.
async fn attempted<H: Harness>(world: &World<H>, app: &App, endpoint: &Ep, next: Next, against: Option<EndpointFact>) {
    world.message(app, &[endpoint]).await;
    let due = world.only_due(endpoint).await;
    world.settle(Settlement { against, ..world.settlement(endpoint, &due, next) }).await;
}

async fn failing_since<H: Harness>(world: &World<H>, endpoint: &Ep) -> Option<Timestamp> {
    world.store().health(endpoint.key).await.unwrap().unwrap().failing_since
}

pub(super) async fn health_remembers_the_first_failure_until_a_success<H: Harness>(world: &mut World<H>) {
    let app = world.application().await;
    let (endpoint, other) = (world.endpoint(&app).await, world.endpoint(&app).await);
    let (first, later) = (world.tick(), after(world.tick(), 60));
    attempted(world, &app, &endpoint, Next::Exhausted, failing(first)).await;
    assert_eq!((failing_since(world, &endpoint).await, failing_since(world, &other).await), (Some(first), None));
    attempted(world, &app, &endpoint, Next::Exhausted, failing(later)).await;
    assert_eq!(failing_since(world, &endpoint).await, Some(first), "the first one counts");
    world.reopen().await;
    attempted(world, &app, &endpoint, Next::Succeeded, None).await;
    assert_eq!(failing_since(world, &endpoint).await, None, "whoever settled it need not know that it was failing");
    attempted(world, &app, &endpoint, Next::Exhausted, failing(later)).await;
    assert_eq!(failing_since(world, &endpoint).await, Some(later));
}

pub(super) async fn only_what_is_stored_disables<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let start = world.tick();
    let disabled = async || {
        let found = world.store().endpoint(app.key, &by_id(endpoint.value.id)).await.unwrap().unwrap();
        (found.value.disabled, found.value.disablement)
    };
    // A success in between: the second failure is a first one, however late it is.
    attempted(world, &app, &endpoint, Next::Exhausted, failing(start)).await;
    attempted(world, &app, &endpoint, Next::Succeeded, None).await;
    attempted(world, &app, &endpoint, Next::Exhausted, failing(after(start, 150))).await;
    assert_eq!(disabled().await, (false, None));
    // After a pause of more than twice the limit it begins anew.
    attempted(world, &app, &endpoint, Next::Exhausted, failing(after(start, 400))).await;
    assert_eq!((disabled().await, failing_since(world, &endpoint).await), ((false, None), Some(after(start, 400))));
    attempted(world, &app, &endpoint, Next::Exhausted, failing(after(start, 501))).await;
    let since = after(start, 501);
    assert_eq!(disabled().await, (true, Some(Disablement { reason: DisableReason::Failing, since })));
}

/// What changes the receiver of an endpoint, and what does not.
async fn changes<H: Harness>(world: &World<H>, app: &App, endpoint: &Ep, what: &str) {
    let (store, id) = (world.store(), by_id(endpoint.value.id));
    let patch = |patch| store.update_endpoint(app.key, &id, patch, world.tick());
    match what {
        "url" => {
            let url = Some(EndpointUrl::parse("https://elsewhere.example/hook").unwrap());
            drop(patch(EndpointPatch { url, ..EndpointPatch::default() }).await.unwrap());
        }
        "secret" => {
            let secret = Secret::generate(SecretKind::Hmac256, &SeededEntropy::new(5));
            store.rotate_secret(endpoint.key, secret, world.tick(), world.tick(), None).await.unwrap();
        }
        "enabled" => {
            world.disable(app, endpoint, true).await;
            world.disable(app, endpoint, false).await;
        }
        _ => {
            let description = Some("another".to_owned());
            drop(patch(EndpointPatch { description, ..EndpointPatch::default() }).await.unwrap());
        }
    }
}

pub(super) async fn what_a_receiver_answered_that_the_endpoint_has_no_more_does_not_count<H: Harness>(
    world: &World<H>,
) {
    for (what, counts) in [("url", false), ("secret", false), ("enabled", false), ("description", true)] {
        let app = world.application().await;
        let endpoint = world.endpoint(&app).await;
        world.message(&app, &[&endpoint]).await;
        let due = world.only_due(&endpoint).await;
        let receiver = world.store().target(endpoint.key).await.unwrap().unwrap().receiver;
        changes(world, &app, &endpoint, what).await;
        let (far, soon) = (after(world.tick(), 86_400), after(world.tick(), 5));
        let elsewhere = Some(Elsewhere { receiver, next: Next::Waiting(soon) });
        world.settle(Settlement { elsewhere, ..world.settlement(&endpoint, &due, Next::Waiting(far)) }).await;
        let due = world.only_due(&endpoint).await;
        assert_eq!(due.key.due_at, if counts { far } else { soon }, "{what}");
        // Nor does it disable the endpoint.
        let against = Some(EndpointFact { at: world.tick(), kind: Against::Gone });
        world.settle(Settlement { elsewhere, against, ..world.settlement(&endpoint, &due, Next::Canceled) }).await;
        let found = world.store().endpoint(app.key, &by_id(endpoint.value.id)).await.unwrap().unwrap().value;
        assert_eq!(found.disabled, counts, "{what}");
        assert_eq!(world.due(&endpoint, FAR).await.is_empty(), counts, "{what}");
    }
}

pub(super) async fn what_a_receiver_asked_that_the_endpoint_has_no_more_holds_nothing_back<H: Harness>(
    world: &World<H>,
) {
    for (what, counts) in [("url", false), ("secret", false), ("enabled", false), ("description", true)] {
        let app = world.application().await;
        let endpoint = world.endpoint(&app).await;
        let receiver = world.store().target(endpoint.key).await.unwrap().unwrap().receiver;
        changes(world, &app, &endpoint, what).await;
        let hold = Hold { until: after(world.tick(), 3_600), reason: HoldReason::Asked };
        assert_eq!(world.store().hold(endpoint.key, hold, Some(receiver)).await.unwrap(), counts, "{what}");
        assert_eq!(world.store().hold_of(endpoint.key).await.unwrap(), counts.then_some(hold), "{what}");
    }
}

pub(super) async fn another_url_begins_anew<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    attempted(world, &app, &endpoint, Next::Exhausted, failing(world.tick())).await;
    changes(world, &app, &endpoint, "description").await;
    assert!(failing_since(world, &endpoint).await.is_some());
    changes(world, &app, &endpoint, "url").await;
    assert_eq!(failing_since(world, &endpoint).await, None);
}

pub(super) async fn disabling_is_seen_by_routes_and_observers<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let (endpoint, other) = (world.endpoint(&app).await, world.endpoint(&app).await);
    let recorder = Recorder::of(store.as_ref());
    for reason in [DisableReason::Gone, DisableReason::Gone] {
        world.message(&app, &[&endpoint]).await;
        let due = world.only_due(&endpoint).await;
        let before = world.routes(&app).await.version;
        let mut settlement = world.settlement(&endpoint, &due, Next::Canceled);
        let at = world.tick();
        settlement.against = Some(EndpointFact { at, kind: Against::Gone });
        recorder.take();
        world.settle(settlement).await;
        let news = recorder.take();
        assert!(news.contains(&News::Changed(endpoint.key)), "{news:?}");
        assert!(!news.contains(&News::Changed(other.key)), "{news:?}");
        let routes = world.routes(&app).await;
        assert!(routes.version > before);
        assert!(routes.targets[0].endpoint.disabled && !routes.targets[1].endpoint.disabled);
        let id = by_id(endpoint.value.id);
        let found = store.endpoint(app.key, &id).await.unwrap().unwrap().value;
        assert_eq!((found.disabled, found.disablement), (true, Some(Disablement { reason, since: at })));
        let enable = postrider_domain::endpoint::EndpointPatch { disabled: Some(false), ..Default::default() };
        let enabled = store.update_endpoint(app.key, &id, enable, world.tick()).await.unwrap();
        assert_eq!(enabled.disablement, None);
    }
    let (id, now) = (by_id(endpoint.value.id), world.tick());
    let disable = postrider_domain::endpoint::EndpointPatch { disabled: Some(true), ..Default::default() };
    let by_hand = Some(Disablement { reason: DisableReason::ByHand, since: now });
    assert_eq!(store.update_endpoint(app.key, &id, disable.clone(), now).await.unwrap().disablement, by_hand);
    assert_eq!(store.update_endpoint(app.key, &id, disable, world.tick()).await.unwrap().disablement, by_hand);
    assert_eq!(store.endpoint(app.key, &id).await.unwrap().unwrap().value.disablement, by_hand);
}

pub(super) async fn a_batch_settles_many_endpoints_at_once<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoints = [world.endpoint(&app).await, world.endpoint(&app).await, world.endpoint(&app).await];
    let all: Vec<&Ep> = endpoints.iter().collect();
    let (first, second) = (world.message(&app, &all).await, world.message(&app, &all).await);
    let wait = after(world.tick(), 60);
    let mut batch = Vec::new();
    for (endpoint, next) in endpoints.iter().zip([Next::Succeeded, Next::Waiting(wait), Next::Exhausted]) {
        for due in world.due(endpoint, FAR).await {
            batch.push(world.settlement(endpoint, &due, next));
        }
    }
    world.store().settle(batch).await.unwrap();
    let mut pending = Vec::new();
    for endpoint in &endpoints {
        pending.push(world.due(endpoint, FAR).await.iter().map(|due| due.key.due_at).collect::<Vec<_>>());
    }
    assert_eq!(pending, [vec![], vec![wait, wait], vec![]]);
    for message in [first, second] {
        let mut log = log(world, message.key).await;
        log.sort_by_key(|(succeeded, _, next)| (*succeeded, *next));
        let want = [(false, None), (false, Some(wait)), (true, None)];
        assert_eq!(log, want.map(|(succeeded, next)| (succeeded, Trigger::Scheduled, next)));
    }
}

pub(super) async fn a_manual_success_ends_the_series_that_was_never_attempted<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let message = world.message(&app, &[&endpoint]).await;
    let at = resend(world, &endpoint, &message).await;
    let due = world.due(&endpoint, FAR).await;
    let manual = due.iter().find(|due| due.trigger == Trigger::Manual).unwrap();
    assert_eq!((due.len(), manual.key.due_at, manual.made), (2, at, 0));
    world.settle(world.settlement(&endpoint, manual, Next::Succeeded)).await;
    assert_eq!(world.due(&endpoint, FAR).await.len(), 0);
    assert_eq!(log(world, message.key).await, [(true, Trigger::Manual, None)]);
}

pub(super) async fn a_manual_success_ends_the_series_that_waits<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let message = world.message(&app, &[&endpoint]).await;
    for turn in 1..=2 {
        let due = world.only_due(&endpoint).await;
        let at = after(message.value.created_at, 1_000 * turn);
        world.settle(world.settlement(&endpoint, &due, Next::Waiting(at))).await;
    }
    // A manual failure in between must not hide when the series waits.
    for next in [Next::Exhausted, Next::Succeeded] {
        resend(world, &endpoint, &message).await;
        let due = world.due(&endpoint, FAR).await;
        let manual = due.iter().find(|due| due.trigger == Trigger::Manual).unwrap();
        assert_eq!(due.len(), 2);
        world.settle(world.settlement(&endpoint, manual, next)).await;
    }
    assert_eq!(world.due(&endpoint, FAR).await.len(), 0);
    assert_eq!(log(world, message.key).await.len(), 4);
}

pub(super) async fn a_manual_success_ends_a_series_of_quick_retries<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let message = world.message(&app, &[&endpoint]).await;
    // All within the 4 ms that ids resolve, so the order of ids says nothing.
    for micros in 1..=8 {
        let due = world.only_due(&endpoint).await;
        let at = Timestamp::from_micros(message.value.created_at.as_micros() + micros);
        let mut failed = world.settlement(&endpoint, &due, Next::Waiting(at));
        if let Some(attempt) = &mut failed.attempt {
            attempt.id = world.attempt_id(message.value.created_at);
        }
        world.settle(failed).await;
    }
    resend(world, &endpoint, &message).await;
    let due = world.due(&endpoint, FAR).await;
    let manual = due.iter().find(|due| due.trigger == Trigger::Manual).unwrap();
    world.settle(world.settlement(&endpoint, manual, Next::Succeeded)).await;
    assert_eq!(world.due(&endpoint, FAR).await.len(), 0);
}

pub(super) async fn a_manual_failure_leaves_the_series_alone<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let message = world.message(&app, &[&endpoint]).await;
    resend(world, &endpoint, &message).await;
    let due = world.due(&endpoint, FAR).await;
    let manual = due.iter().find(|due| due.trigger == Trigger::Manual).unwrap();
    world.settle(world.settlement(&endpoint, manual, Next::Exhausted)).await;
    let left = world.only_due(&endpoint).await;
    assert_eq!((left.trigger, left.key.due_at), (Trigger::Scheduled, message.value.created_at));
}

pub(super) async fn a_manual_success_leaves_other_messages_alone<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let (endpoint, other) = (world.endpoint(&app).await, world.endpoint(&app).await);
    let (one, two) = (world.message(&app, &[&endpoint, &other]).await, world.message(&app, &[&endpoint, &other]).await);
    resend(world, &endpoint, &one).await;
    let due = world.due(&endpoint, FAR).await;
    let manual = due.iter().find(|due| due.trigger == Trigger::Manual).unwrap();
    world.settle(world.settlement(&endpoint, manual, Next::Succeeded)).await;
    assert_eq!(world.only_due(&endpoint).await.key.message, two.key);
    assert_eq!(world.due(&other, FAR).await.len(), 2);
}
