//! Cases for the outbox: notices are part of the commit of what they report.

use std::collections::BTreeMap;

use postrider_domain::application::EnvironmentId;
use postrider_domain::delivery::{Against, EndpointFact, Next};
use postrider_domain::endpoint::{EndpointPatch, Headers};
use postrider_domain::names::Uid;
use postrider_domain::notice::NoticeKind;
use serde_json::{Value, json};

use super::Harness;
use super::world::{App, World, after, by_id, environment, other_environment, uid_of};
use postrider_store::{Direction, EventTypeFilter, Notice, NoticeTurn, Scan, Settlement};

const KINDS: [NoticeKind; 7] = [
    NoticeKind::EndpointCreated,
    NoticeKind::EndpointUpdated,
    NoticeKind::EndpointDeleted,
    NoticeKind::EndpointDisabled,
    NoticeKind::AttemptFailing,
    NoticeKind::AttemptExhausted,
    NoticeKind::AttemptRecovered,
];

/// Gives the operator of an environment an application to be told by.
async fn told<H: Harness>(world: &World<H>, environment: &EnvironmentId) -> App {
    world.add_application(&EnvironmentId::management(), world.new_application(Some(environment.as_str()))).await
}

/// The oldest notices of each recipient.
async fn oldest<H: Harness>(world: &World<H>, each: usize) -> Vec<Notice> {
    world.store().notices(NoticeTurn { recipients: 10, each, ..NoticeTurn::default() }).await.unwrap()
}

/// The notices in the outbox, as recipient and payload; they are removed.
async fn take<H: Harness>(world: &World<H>) -> Vec<(String, Value)> {
    let notices = oldest(world, 100).await;
    world.store().remove_notices(notices.iter().map(|notice| notice.key).collect()).await.unwrap();
    let shown = notices.iter().map(|notice| {
        let payload: Value = serde_json::from_slice(&notice.payload).unwrap();
        assert_eq!(payload["type"], notice.event_type.as_str());
        (notice.recipient.to_string(), payload)
    });
    shown.collect()
}

/// The types of the notices in the outbox; they are removed.
async fn take_types<H: Harness>(world: &World<H>) -> Vec<String> {
    take(world).await.iter().map(|(_, payload)| payload["type"].as_str().unwrap().to_owned()).collect()
}

fn patch(description: &str) -> EndpointPatch {
    EndpointPatch { description: Some(description.to_owned()), ..EndpointPatch::default() }
}

pub(super) async fn nothing_is_reported_if_nobody_is_told<H: Harness>(world: &World<H>) {
    told(world, &other_environment()).await;
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    world.message(&app, &[&endpoint]).await;
    let mut failed = world.settlement(&endpoint, &world.only_due(&endpoint).await, Next::Exhausted);
    failed.notice = Some(NoticeKind::AttemptExhausted);
    world.settle(failed).await;
    let id = by_id(endpoint.value.id);
    world.store().delete_endpoint(app.key, &id, world.tick()).await.unwrap();
    assert_eq!(take(world).await, []);

    let operator = told(world, &environment()).await;
    world.endpoint(&app).await;
    assert_eq!(take(world).await.len(), 1);
    let management = EnvironmentId::management();
    world.store().delete_application(&management, &by_id(operator.value.id), world.tick()).await.unwrap();
    world.endpoint(&app).await;
    assert_eq!(take(world).await, []);
}

pub(super) async fn changes_of_endpoints_are_reported_in_order<H: Harness>(world: &World<H>) {
    told(world, &environment()).await;
    let app = world.add_application(&environment(), world.new_application(Some("shop"))).await;
    let endpoint = world.add_endpoint(&app, world.new_endpoint(Some("main"))).await;
    let (store, id) = (world.store(), by_id(endpoint.value.id));
    let data = json!({
        "appId": app.value.id, "appUid": "shop", "endpointId": endpoint.value.id, "endpointUid": "main"
    });
    let notice = |kind: &str| ("org_one".to_owned(), json!({ "type": kind, "data": data }));
    assert_eq!(take(world).await, [notice("endpoint.created")]);

    store.update_endpoint(app.key, &id, patch("new"), world.tick()).await.unwrap();
    let otherwise = || world.new_endpoint(None);
    store.upsert_endpoint(app.key, &id, patch("newer"), otherwise(), world.tick()).await.unwrap();
    let grace = after(world.tick(), 60);
    store.rotate_secret(endpoint.key, world.secret(), grace, world.tick(), None).await.unwrap();
    store.set_headers(endpoint.key, Headers::new(), world.tick()).await.unwrap();
    store.merge_headers(endpoint.key, BTreeMap::from([("x-a".to_owned(), None)]), world.tick()).await.unwrap();
    store.delete_endpoint(app.key, &id, world.tick()).await.unwrap();
    // What changed again before that was told is told once.
    assert_eq!(take(world).await, [notice("endpoint.updated"), notice("endpoint.deleted")]);

    store.upsert_endpoint(app.key, &id, patch("again"), otherwise(), world.tick()).await.unwrap();
    assert_eq!(take_types(world).await, ["endpoint.created"]);
}

pub(super) async fn what_did_not_happen_is_not_reported<H: Harness>(world: &World<H>) {
    told(world, &environment()).await;
    let app = world.application().await;
    world.add_endpoint(&app, world.new_endpoint(Some("taken"))).await;
    let endpoint = world.endpoint(&app).await;
    take(world).await;
    let (store, id) = (world.store(), by_id(endpoint.value.id));
    store.create_endpoint(app.key, world.new_endpoint(Some("taken")), None).await.unwrap_err();
    let taken: Option<Uid> = Some(uid_of("taken"));
    let conflict = EndpointPatch { uid: Some(taken), ..EndpointPatch::default() };
    store.update_endpoint(app.key, &id, conflict, world.tick()).await.unwrap_err();
    assert_eq!(take(world).await, []);
}

pub(super) async fn the_management_environment_does_not_report_itself<H: Harness>(world: &World<H>) {
    let management = EnvironmentId::management();
    let itself = told(world, &management).await;
    let operator = told(world, &environment()).await;
    for app in [&itself, &operator] {
        world.endpoint(app).await;
    }
    assert_eq!(take(world).await, []);
}

pub(super) async fn an_attempt_is_reported_once<H: Harness>(world: &World<H>) {
    told(world, &environment()).await;
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let mut new = world.new_message();
    new.event_id = Some(uid_of("order-1"));
    let message = world.message_of(&app, &[&endpoint], new).await;
    take(world).await;
    let mut failed = world.settlement(&endpoint, &world.only_due(&endpoint).await, Next::Exhausted);
    failed.notice = Some(NoticeKind::AttemptExhausted);
    let attempt = failed.attempt.clone().unwrap();
    for _ in 0..2 {
        world.settle(failed.clone()).await;
    }
    let payload = json!({
        "type": "message.attempt.exhausted",
        "data": {
            "appId": app.value.id, "appUid": null, "msgId": message.value.id, "msgEventId": "order-1",
            "endpointId": endpoint.value.id,
            "lastAttempt": { "id": attempt.id, "responseStatusCode": 500, "timestamp": attempt.started_at },
        },
    });
    assert_eq!(take(world).await, [("org_one".to_owned(), payload)]);
}

pub(super) async fn a_disabled_endpoint_is_reported_once_with_the_time_of_its_first_failure<H: Harness>(
    world: &World<H>,
) {
    told(world, &environment()).await;
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    for _ in 0..3 {
        world.message(&app, &[&endpoint]).await;
    }
    take(world).await;
    let due = world.due(&endpoint, super::world::FAR).await;
    let first = world.tick();
    let against = |settlement, kind| Settlement { against: Some(EndpointFact { at: first, kind }), ..settlement };
    let failing = world.settlement(&endpoint, &due[0], Next::Exhausted);
    let gone = [1, 2].map(|nth| world.settlement(&endpoint, &due[nth], Next::Canceled));
    let [one, two] = gone.map(|settlement| against(settlement, Against::Gone));
    world
        .store()
        .settle(vec![against(failing, Against::Failing { disable_after: std::time::Duration::MAX }), one, two])
        .await
        .unwrap();
    let notices = take(world).await;
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!(notices[0].1["type"], "endpoint.disabled");
    assert_eq!(notices[0].1["data"]["failSince"], json!(first));
    assert_eq!(notices[0].1["data"]["disabledReason"], "gone");
    assert_eq!(notices[0].1["data"]["disabledSince"], json!(first));
    assert_eq!(notices[0].1["data"]["endpointId"], json!(endpoint.value.id));
}

pub(super) async fn notices_survive_a_restart_until_they_are_removed<H: Harness>(world: &mut World<H>) {
    told(world, &environment()).await;
    let app = world.application().await;
    for _ in 0..3 {
        world.endpoint(&app).await;
    }
    let before = oldest(world, 2).await;
    assert_eq!(before.len(), 2);
    world.reopen().await;
    assert_eq!(oldest(world, 2).await, before);
    for _ in 0..2 {
        world.store().remove_notices(vec![before[0].key]).await.unwrap();
    }
    let left = oldest(world, 10).await;
    assert_eq!((left.len(), &left[0]), (2, &before[1]));
    assert!(left[1].key > left[0].key);
}

pub(super) async fn the_event_types_of_notices_are_there<H: Harness>(world: &World<H>) {
    let filter = EventTypeFilter { with_schemas: true, ..EventTypeFilter::default() };
    let page = Scan::all(Direction::Ascending, 100);
    let types = world.store().event_types(&EnvironmentId::management(), &filter, page).await.unwrap().listed.rows;
    let mut want: Vec<_> = KINDS.iter().map(|kind| kind.event_type()).collect();
    want.sort_unstable();
    assert_eq!(types.iter().map(|kind| kind.name.as_str()).collect::<Vec<_>>(), want);
    for kind in types {
        assert!(!kind.description.is_empty() && !kind.archived, "{kind:?}");
        let schema: Value = serde_json::from_str(kind.schemas.unwrap()["1"].get()).unwrap();
        assert_eq!(schema["examples"][0]["type"], kind.name.as_str());
    }
}

pub(super) async fn recipients_take_turns<H: Harness>(world: &World<H>) {
    let third = EnvironmentId::parse("org_third").unwrap();
    let (first, other) = (environment(), other_environment());
    let mut uids = Vec::new();
    for environment in [&first, &other, &third] {
        told(world, environment).await;
        uids.push(uid_of(environment.as_str()));
    }
    // One has many before anybody else has any.
    for environment in [&first, &first, &first, &first, &other, &third, &other] {
        let app = world.add_application(environment, world.new_application(None)).await;
        world.endpoint(&app).await;
    }
    let asked = async |after: Option<&EnvironmentId>, except: &[Uid], recipients| {
        let after = after.map(|environment| uid_of(environment.as_str()));
        let turn = NoticeTurn { after, except: except.to_vec(), recipients, each: 2, ..NoticeTurn::default() };
        let notices = world.store().notices(turn).await.unwrap();
        for pair in notices.windows(2).filter(|pair| pair[0].recipient == pair[1].recipient) {
            assert!(pair[0].key < pair[1].key);
        }
        notices.into_iter().map(|notice| notice.recipient).collect::<Vec<_>>()
    };
    uids.sort_unstable();
    let count = |uid: &Uid| if uid.as_str() == third.as_str() { 1 } else { 2 };
    let of =
        |order: [usize; 3]| order.iter().flat_map(|at| vec![uids[*at].clone(); count(&uids[*at])]).collect::<Vec<_>>();
    assert_eq!(asked(None, &[], 10).await, of([0, 1, 2]));
    let by_name = uids.iter().map(|uid| EnvironmentId::parse(uid.as_str()).unwrap()).collect::<Vec<_>>();
    assert_eq!(asked(Some(&by_name[0]), &[], 10).await, of([1, 2, 0]));
    assert_eq!(asked(Some(&by_name[2]), &[], 10).await, of([0, 1, 2]));
    assert_eq!(asked(Some(&by_name[1]), &[], 1).await, vec![uids[2].clone(); count(&uids[2])]);
    let except = [uids[2].clone(), uid_of("nobody")];
    assert_eq!(asked(Some(&by_name[1]), &except, 1).await, vec![uids[0].clone(); count(&uids[0])]);
    assert_eq!(asked(None, &uids, 10).await, []);
}

pub(super) async fn a_change_takes_the_place_of_one_of_the_same_endpoint_that_waits<H: Harness>(world: &World<H>) {
    told(world, &environment()).await;
    let app = world.application().await;
    let (endpoint, other) = (world.endpoint(&app).await, world.endpoint(&app).await);
    take(world).await;
    let update = async |endpoint: &super::world::Ep| {
        world.store().update_endpoint(app.key, &by_id(endpoint.value.id), patch("new"), world.tick()).await.unwrap();
        oldest(world, 100).await
    };
    let first = update(&endpoint).await;
    update(&other).await;
    let both = update(&endpoint).await;
    assert_eq!((first.len(), both.len()), (1, 2));
    // Not the same one: it may be on its way to him already, with what was true then.
    assert!(both.iter().all(|notice| notice.key != first[0].key));
    world.store().remove_notices(vec![first[0].key]).await.unwrap();
    assert_eq!(oldest(world, 100).await, both);
}

pub(super) async fn applications_of_a_recipient_take_turns<H: Harness>(world: &World<H>) {
    const EACH: usize = 4;
    told(world, &environment()).await;
    let (mut busy, mut numbers) = (Vec::new(), Vec::new());
    for _ in 0..2 * EACH {
        busy.push(world.application().await);
    }
    let (last, first) = (world.application().await, &busy[0]);
    for _ in 0..EACH {
        for app in &busy {
            world.endpoint(app).await;
        }
    }
    world.endpoint(&last).await;
    let mut after_application = std::collections::HashMap::new();
    for _ in 0..3 {
        let recipients = 1;
        let turn = NoticeTurn {
            recipients,
            each: EACH,
            after_application: after_application.clone(),
            ..NoticeTurn::default()
        };
        let notices = world.store().notices(turn).await.unwrap();
        assert_eq!(notices.len(), EACH);
        assert!(notices.windows(2).all(|pair| pair[0].key < pair[1].key));
        let found: Vec<_> = notices.iter().map(|notice| notice.application).collect();
        // Until it begins anew, the last one is the one with the greatest number.
        after_application.insert(notices[0].recipient.clone(), found.iter().copied().max().unwrap());
        numbers.extend(found);
        world.store().remove_notices(notices.iter().map(|notice| notice.key).collect()).await.unwrap();
    }
    // One of each, in the order of their numbers; then they begin anew.
    let mut want: Vec<_> = busy.iter().map(|app| app.key).chain([last.key]).collect();
    want.extend(busy.iter().take(EACH - 1).map(|app| app.key));
    let (all, anew) = (&mut numbers[..], &mut want[..]);
    all.sort_unstable();
    anew.sort_unstable();
    assert_eq!(all, anew);
    // Where there is but one, it has all of the turn.
    let turn = |of: &App| NoticeTurn {
        recipients: 1,
        each: 2,
        after_application: [(uid_of(environment().as_str()), of.key)].into(),
        ..NoticeTurn::default()
    };
    let of_two = world.store().notices(turn(first)).await.unwrap();
    assert_eq!(of_two.iter().map(|notice| notice.application).collect::<Vec<_>>(), [busy[1].key, busy[2].key]);
}
