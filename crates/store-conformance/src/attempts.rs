//! Cases for the log of attempts.

use std::ops::Bound;

use bytes::Bytes;
use postrider_domain::attempt::Attempt;
use postrider_domain::delivery::Next;
use postrider_domain::endpoint::{EndpointPatch, EndpointUrl};
use postrider_domain::ids::{AttemptId, Id as _, Ksuid};
use postrider_domain::message::Message;

use super::Harness;
use super::world::{App, Ep, FAR, Msg, World, after, by_id, channel, done, environment, type_name};
use postrider_store::{
    AttemptFilter, AttemptStats, AttemptedFilter, Direction, EndpointKey, MessageKey, Scan, Settlement,
};

/// The log entry that a settlement leaves.
pub(super) fn entry(message: &Msg, endpoint: &Ep, settlement: &Settlement) -> Attempt {
    let record = settlement.attempt.clone().unwrap();
    let next_attempt_at = match settlement.next {
        Next::Waiting(at) => Some(at),
        _ => None,
    };
    Attempt {
        id: record.id,
        message_id: message.value.id,
        endpoint_id: endpoint.value.id,
        url: record.url.to_string(),
        succeeded: record.succeeded,
        status_code: record.status_code,
        response: Some(record.response),
        duration_ms: record.duration_ms,
        trigger: settlement.trigger,
        started_at: record.started_at,
        next_attempt_at,
        message: None,
    }
}

/// The log entry together with its message, as it is shown: without the payload.
fn with_message(attempt: Attempt, message: &Msg) -> Attempt {
    let message = Message { payload: None, ..message.value.as_ref().clone() };
    Attempt { message: Some(Box::new(message)), ..attempt }
}

/// A new message to one endpoint, delivered with the given status.
async fn delivered<H: Harness>(world: &World<H>, app: &App, endpoint: &Ep, status: u16) -> (Msg, Attempt) {
    delivered_as(world, app, endpoint, status, world.new_message()).await
}

async fn delivered_as<H: Harness>(
    world: &World<H>,
    app: &App,
    endpoint: &Ep,
    status: u16,
    message: Message,
) -> (Msg, Attempt) {
    let message = world.message_of(app, &[endpoint], message).await;
    let due = world.only_due(endpoint).await;
    let next = if (200..300).contains(&status) { Next::Succeeded } else { Next::Exhausted };
    let mut settlement = world.settlement(endpoint, &due, next);
    if let Some(record) = &mut settlement.attempt {
        record.status_code = status;
    }
    let attempt = entry(&message, endpoint, &settlement);
    world.settle(settlement).await;
    (message, attempt)
}

fn full() -> AttemptFilter {
    AttemptFilter { with_response: true, ..AttemptFilter::default() }
}

async fn by_endpoint<H: Harness>(world: &World<H>, key: EndpointKey, filter: AttemptFilter) -> Vec<Attempt> {
    let page = Scan::all(Direction::Ascending, 100);
    world.store().attempts_by_endpoint(key, &filter, page).await.unwrap().listed.rows
}

async fn by_message<H: Harness>(
    world: &World<H>,
    key: MessageKey,
    endpoint: Option<EndpointKey>,
    filter: AttemptFilter,
) -> Vec<Attempt> {
    let page = Scan::all(Direction::Ascending, 100);
    world.store().attempts_by_message(key, endpoint, &filter, page).await.unwrap().listed.rows
}

pub(super) async fn an_attempt_reads_back_as_it_was_settled<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let message = world.message(&app, &[&endpoint]).await;
    let mut want = Vec::new();
    for next in [Next::Waiting(after(message.value.created_at, 60)), Next::Succeeded] {
        let settlement = world.settlement(&endpoint, &world.only_due(&endpoint).await, next);
        want.push(entry(&message, &endpoint, &settlement));
        world.settle(settlement).await;
    }
    assert_eq!(by_endpoint(world, endpoint.key, full()).await, want);
    assert_eq!(by_message(world, message.key, None, full()).await, want);
    for attempt in want {
        let read = world.store().attempt(app.key, message.key, attempt.id).await.unwrap();
        assert_eq!(read, Some(with_message(attempt, &message)));
    }
}

pub(super) async fn lists_by_endpoint_and_by_message_show_theirs_only<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let (left, right) = (world.endpoint(&app).await, world.endpoint(&app).await);
    let (one, two) = (world.message(&app, &[&left, &right]).await, world.message(&app, &[&left]).await);
    let mut want = Vec::new();
    // The attempts to both endpoints alternate in time, so order by id is not order by endpoint.
    for (endpoint, message) in [(&right, &one), (&left, &one), (&left, &two)] {
        let all = world.due(endpoint, super::world::FAR).await;
        let due = all.iter().find(|due| due.key.message == message.key).unwrap();
        let settlement = world.settlement(endpoint, due, Next::Exhausted);
        want.push(entry(message, endpoint, &settlement));
        world.settle(settlement).await;
    }
    assert_eq!(by_endpoint(world, left.key, full()).await, want[1..]);
    assert_eq!(by_endpoint(world, right.key, full()).await, want[..1]);
    assert_eq!(by_message(world, one.key, None, full()).await, want[..2]);
    assert_eq!(by_message(world, one.key, Some(left.key), full()).await, want[1..2]);
    assert_eq!(by_message(world, two.key, Some(right.key), full()).await, []);
    let newest = Scan::all(Direction::Descending, 1);
    let newest = world.store().attempts_by_message(one.key, None, &full(), newest).await.unwrap().listed.rows;
    assert_eq!(newest, want[1..2]);
}

pub(super) async fn a_list_shows_only_what_its_filter_asks_for<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let mut all = Vec::new();
    for status in [0, 99, 100, 200, 299, 308, 404, 500, 599, 999] {
        all.push(delivered(world, &app, &endpoint, status).await);
    }
    let check = async |filter: AttemptFilter, want: &[u16]| {
        let statuses: Vec<u16> =
            by_endpoint(world, endpoint.key, filter.clone()).await.iter().map(|attempt| attempt.status_code).collect();
        assert_eq!(statuses, want, "{filter:?}");
        let mut statuses = Vec::new();
        for (message, _) in &all {
            let found = by_message(world, message.key, None, filter.clone()).await;
            statuses.extend(found.iter().map(|attempt| attempt.status_code));
        }
        assert_eq!(statuses, want, "by message: {filter:?}");
    };
    let class = |class| AttemptFilter { status_code_class: Some(class), ..AttemptFilter::default() };
    check(class(0), &[0, 99]).await;
    check(class(100), &[100]).await;
    check(class(200), &[200, 299]).await;
    check(class(500), &[500, 599]).await;
    let succeeded = |succeeded| AttemptFilter { succeeded: Some(succeeded), ..AttemptFilter::default() };
    check(succeeded(true), &[200, 299]).await;
    check(succeeded(false), &[0, 99, 100, 308, 404, 500, 599, 999]).await;
    check(AttemptFilter { status_code_class: Some(400), ..succeeded(true) }, &[]).await;
}

pub(super) async fn a_filter_looks_at_the_message<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let mut all = Vec::new();
    for (kind, sent_on) in [("a", None), ("b", Some("x")), ("c", Some("x"))] {
        let channels = sent_on.map(|name| vec![channel(name), channel("z")]);
        let message = Message { event_type: type_name(kind), channels, ..world.new_message() };
        all.push(delivered_as(world, &app, &endpoint, 200, message).await);
    }
    let check = async |filter: AttemptFilter, want: &[usize]| {
        let want: Vec<Attempt> = want.iter().map(|index| all[*index].1.clone()).collect();
        assert_eq!(by_endpoint(world, endpoint.key, filter.clone()).await, want, "{filter:?}");
        let mut found = Vec::new();
        for (message, _) in &all {
            found.extend(by_message(world, message.key, Some(endpoint.key), filter.clone()).await);
        }
        assert_eq!(found, want, "by message: {filter:?}");
    };
    check(AttemptFilter { channel: Some(channel("x")), ..full() }, &[1, 2]).await;
    check(AttemptFilter { channel: Some(channel("y")), ..full() }, &[]).await;
    let types = |names: &[&str]| Some(names.iter().map(|name| type_name(name)).collect());
    check(AttemptFilter { event_types: types(&["b", "a"]), ..full() }, &[0, 1]).await;
    check(AttemptFilter { event_types: types(&["b", "a"]), channel: Some(channel("z")), ..full() }, &[1]).await;
    check(AttemptFilter { event_types: types(&[]), ..full() }, &[]).await;
}

pub(super) async fn a_list_leaves_answers_out_unless_asked<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let (message, attempt) = delivered(world, &app, &endpoint, 200).await;
    let want = Attempt { response: Some(Bytes::new()), ..attempt };
    assert_eq!(by_endpoint(world, endpoint.key, AttemptFilter::default()).await, std::slice::from_ref(&want));
    assert_eq!(by_message(world, message.key, None, AttemptFilter::default()).await, [want]);
}

pub(super) async fn an_attempt_is_found_only_under_its_message_and_application<H: Harness>(world: &World<H>) {
    let store = world.store();
    let (app, other) = (world.application().await, world.application().await);
    let endpoint = world.endpoint(&app).await;
    let (message, attempt) = delivered(world, &app, &endpoint, 200).await;
    let elsewhere = world.message(&app, &[]).await;
    let read = store.attempt(app.key, message.key, attempt.id).await.unwrap();
    assert_eq!(read, Some(with_message(attempt.clone(), &message)));
    assert_eq!(store.attempt(other.key, message.key, attempt.id).await.unwrap(), None);
    assert_eq!(store.attempt(app.key, elsewhere.key, attempt.id).await.unwrap(), None);
    let unknown = AttemptId::from_ksuid(Ksuid::floor(attempt.started_at));
    assert_eq!(store.attempt(app.key, message.key, unknown).await.unwrap(), None);
    store.delete_application(&environment(), &by_id(app.value.id), world.tick()).await.unwrap();
    assert_eq!(store.attempt(app.key, message.key, attempt.id).await.unwrap(), None);
}

pub(super) async fn stats_count_a_half_open_range<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let mut ids = Vec::new();
    for status in [200, 500, 201, 404, 200] {
        ids.push(delivered(world, &app, &endpoint, status).await.1.id.ksuid());
    }
    let stats = async |from, to| world.store().attempt_stats(endpoint.key, from, to).await.unwrap();
    let (low, high) = (Ksuid::from_bytes([0; 20]), Ksuid::from_bytes([0xff; 20]));
    assert_eq!(stats(low, high).await, AttemptStats { succeeded: 3, failed: 2 });
    assert_eq!(stats(ids[1], ids[3]).await, AttemptStats { succeeded: 1, failed: 1 });
    assert_eq!(stats(ids[1], ids[1]).await, AttemptStats::default());
    assert_eq!(stats(high, low).await, AttemptStats::default());
    let nobody = world.endpoint(&app).await;
    assert_eq!(world.store().attempt_stats(nobody.key, low, high).await.unwrap(), AttemptStats::default());
}

pub(super) async fn stats_of_many_attempts_are_exact_though_some_come_late<H: Harness>(world: &mut World<H>) {
    const BATCHES: usize = 45;
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let mut ids: Vec<(Ksuid, bool)> = Vec::new();
    let mut late = Vec::new();
    for batch in 0..BATCHES {
        let message = world.message(&app, &[&endpoint]).await;
        let due = world.due(&endpoint, super::world::FAR).await.remove(0);
        let mut settlements = Vec::new();
        for turn in 0..64 {
            let next = if turn % 7 == 3 { Next::Exhausted } else { Next::Succeeded };
            let settlement = world.settlement(&endpoint, &due, next);
            // Some took so long that a thousand others ended before.
            if turn % 16 == 5 { late.push(settlement) } else { settlements.push(settlement) }
        }
        if batch >= 20 {
            settlements.extend(late.drain(..5));
        }
        if batch == BATCHES - 1 {
            settlements.append(&mut late);
        }
        for settlement in &settlements {
            let record = settlement.attempt.as_ref().unwrap();
            ids.push((record.id.ksuid(), record.succeeded));
        }
        world.store().settle(settlements).await.unwrap();
        assert_eq!(message.key, due.key.message);
        if batch % 17 == 9 {
            world.reopen().await;
        }
        let mut sorted: Vec<Ksuid> = ids.iter().map(|(id, _)| *id).collect();
        sorted.sort_unstable();
        let at = |part: usize| sorted[part * (sorted.len() - 1) / 10];
        let ends = [
            (Ksuid::from_bytes([0; 20]), Ksuid::from_bytes([0xff; 20])),
            (at(0), at(10)),
            (at(3), at(4)),
            (at(1), at(9)),
        ];
        for (from, to) in ends {
            let mut want = AttemptStats::default();
            for (_, succeeded) in ids.iter().filter(|(id, _)| (from..to).contains(id)) {
                *if *succeeded { &mut want.succeeded } else { &mut want.failed } += 1;
            }
            assert_eq!(world.store().attempt_stats(endpoint.key, from, to).await.unwrap(), want, "after batch {batch}");
        }
    }
}

pub(super) async fn the_url_is_the_one_that_was_used<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let mut endpoint = world.endpoint(&app).await;
    let urls = ["https://a.example/", "https://b.example/", "https://a.example/"];
    for url in urls {
        let patch = EndpointPatch { url: Some(EndpointUrl::parse(url).unwrap()), ..EndpointPatch::default() };
        let id = by_id(endpoint.value.id);
        endpoint.value = store.update_endpoint(app.key, &id, patch, world.tick()).await.unwrap();
        delivered(world, &app, &endpoint, 200).await;
    }
    // A request may still have been under way to the old URL when it was changed.
    let stale = Ep {
        value: postrider_domain::endpoint::Endpoint {
            url: EndpointUrl::parse("https://never.stored/").unwrap(),
            ..endpoint.value.clone()
        },
        ..endpoint.clone()
    };
    delivered(world, &app, &stale, 200).await;
    let seen: Vec<String> =
        by_endpoint(world, endpoint.key, full()).await.into_iter().map(|attempt| attempt.url).collect();
    assert_eq!(seen, [&urls[..], &["https://never.stored/"]].concat());
}

pub(super) async fn attempts_outlive_their_endpoint<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let endpoint = world.endpoint(&app).await;
    let (message, attempt) = delivered(world, &app, &endpoint, 200).await;
    store.delete_endpoint(app.key, &by_id(endpoint.value.id), world.tick()).await.unwrap();
    assert_eq!(by_message(world, message.key, None, full()).await, std::slice::from_ref(&attempt));
    let page = Scan { lower: Bound::Included(attempt.id.ksuid()), ..Scan::all(Direction::Descending, 10) };
    let listed = store.attempts_by_endpoint(endpoint.key, &full(), page).await.unwrap().listed.rows;
    assert_eq!(listed, std::slice::from_ref(&attempt));
    assert_eq!(store.attempt(app.key, message.key, attempt.id).await.unwrap(), Some(with_message(attempt, &message)));
}

pub(super) async fn of_attempts_that_began_together_the_latest_has_the_greatest_id<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    for _ in 0..8 {
        let message = world.message(&app, &[&endpoint]).await;
        let now = world.tick();
        done(world.store().resend(endpoint.key, message.key, now, None).await.unwrap());
        let mut latest = None;
        for (due, next) in world.due(&endpoint, FAR).await.iter().zip([Next::Exhausted, Next::Waiting(FAR)]) {
            let mut settlement = world.settlement(&endpoint, due, next);
            let attempt = settlement.attempt.as_mut().unwrap();
            (attempt.started_at, attempt.id) = (now, world.attempt_id(now));
            latest = latest.max(Some((attempt.id, matches!(next, Next::Waiting(_)))));
            world.settle(settlement).await;
        }
        let page = Scan::all(Direction::Descending, 1);
        let found =
            world.store().attempted_messages(app.key, endpoint.key, &AttemptedFilter::default(), page).await.unwrap();
        assert_eq!(Some(found.listed.rows[0].next_attempt_at.is_some()), latest.map(|(_, waits)| waits));
        world.disable(&app, &endpoint, true).await;
        world.store().cancel_deliveries(endpoint.key, 10).await.unwrap();
        world.disable(&app, &endpoint, false).await;
    }
}
