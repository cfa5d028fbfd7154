//! Background tasks (rest-contract §9.7).

use postrider_domain::clock::Clock as _;
use postrider_domain::ids::TaskId;
use postrider_domain::task::TaskStatus;
use serde_json::{Value, json};

use crate::world::{Extras, ORG, World, app_token, id, ids, org_token};

/// Takes a task to its end, as the server's agent would.
async fn finish(world: &World, task: &Value) -> Value {
    let id: TaskId = id(task).parse().unwrap();
    while world.store.advance_task(id, 2, world.clock.now()).await.unwrap().status == TaskStatus::Running {}
    let shown = world.get(&format!("/background-task/{id}")).await.expect(200);
    assert_eq!((&shown["status"], &shown["task"]), (&json!("finished"), &task["task"]));
    shown["data"].clone()
}

fn assert_started(task: &Value, kind: &str) {
    assert!(id(task).starts_with("qtask_") && task["updatedAt"].is_string(), "{task}");
    assert_eq!((&task["status"], &task["task"]), (&json!("running"), &json!(kind)));
    assert!(task.get("data").is_none(), "{task}");
}

/// An application `shop` with an endpoint `e`, where one message failed and another succeeded.
async fn shop(world: &World) -> [String; 2] {
    world.app("shop").await;
    world.endpoint("shop", "e").await;
    let failed = world.message("shop", "a").await;
    let succeeded = world.message("shop", "b").await;
    world.attempt("shop", "e", &failed, 500, b"").await;
    world.attempt("shop", "e", &succeeded, 200, b"").await;
    [failed, succeeded]
}

#[tokio::test]
async fn what_failed_is_recovered_once() {
    let world = World::new();
    shop(&world).await;
    assert_eq!(world.pending("shop", "e").await, 0);
    let since = json!({ "since": "2026-01-01T00:00:00Z" });
    let token = org_token(ORG);
    let send = async || {
        let headers = [("idempotency-key", "k")];
        let extras = Extras { token: Some(&token), headers: &headers, body: since.to_string().into() };
        world.raw("POST", "/api/v1/app/shop/endpoint/e/recover", extras).await.expect(202)
    };
    let task = send().await;
    assert_started(&task, "endpoint.recover");
    assert_eq!(send().await, task, "a repeated request starts nothing");
    assert_eq!(finish(&world, &task).await, json!({ "messages": 1 }));
    assert_eq!(world.pending("shop", "e").await, 1);

    let late = json!({ "since": "2026-01-02T04:00:00Z" });
    let task = world.post("/app/shop/endpoint/e/recover", late).await.expect(202);
    assert_eq!(finish(&world, &task).await, json!({ "messages": 0 }), "none has failed since");
}

#[tokio::test]
async fn a_second_task_that_sends_messages_to_an_endpoint_again_is_409_until_the_first_has_ended() {
    let world = World::new();
    shop(&world).await;
    let since = json!({ "since": "2026-01-01T00:00:00Z" });
    let first = world.post("/app/shop/endpoint/e/bulk-replay", since.clone()).await.expect(202);
    for what in ["recover", "replay-missing", "bulk-replay"] {
        let answer = world.post(&format!("/app/shop/endpoint/e/{what}"), since.clone()).await;
        answer.refused(409, "task_running");
        assert!(answer.expect(409)["detail"].as_str().unwrap().contains(&id(&first)));
    }
    finish(&world, &first).await;
    world.post("/app/shop/endpoint/e/recover", since).await.expect(202);
}

#[tokio::test]
async fn more_tasks_of_an_application_than_may_run_are_429_with_retry_after() {
    let world = World::new();
    world.app("shop").await;
    world.app("other").await;
    for _ in 0..postrider_store::MAX_TASKS_OF_APPLICATION {
        world.post("/app/shop/msg/expunge-all-contents", Value::Null).await.expect(202);
    }
    let answer = world.post("/app/shop/msg/expunge-all-contents", Value::Null).await;
    answer.refused(429, "too_many_tasks");
    assert!(answer.headers.contains_key("retry-after"), "{:?}", answer.headers);
    world.post("/app/other/msg/expunge-all-contents", Value::Null).await.expect(202);
}

#[tokio::test]
async fn failures_are_recovered_for_fourteen_days() {
    let world = World::new();
    shop(&world).await;
    let path = "/app/shop/endpoint/e/recover";
    let body = |since: &str, until: Option<&str>| json!({ "since": since, "until": until });
    let taken = async |body: Value| {
        let task = world.post(path, body).await.expect(202);
        finish(&world, &task).await;
    };
    taken(body("2025-12-19T03:04:05Z", None)).await;
    assert_eq!(world.post(path, body("2025-12-19T02:58:00Z", None)).await.invalid(), ["body.since"]);
    taken(body("2025-12-01T00:00:00Z", Some("2025-12-15T00:05:00Z"))).await;
    let long_ago = body("2025-12-01T00:00:00Z", Some("2025-12-15T00:05:00.001Z"));
    assert_eq!(world.post(path, long_ago).await.invalid(), ["body.since"]);
    // What is yet to come does not move the limit.
    taken(body("2025-12-20T00:00:00Z", Some("2027-01-01T00:00:00Z"))).await;
    assert_eq!(world.post(path, json!({})).await.invalid(), ["body"]);
    assert_eq!(world.post(path, body("soon", None)).await.invalid(), ["body.since"]);
    world.post("/app/shop/endpoint/f/recover", body("2026-01-01T00:00:00Z", None)).await.refused(404, "not_found");
}

#[tokio::test]
async fn an_endpoint_gets_what_it_missed() {
    let world = World::new();
    world.app("shop").await;
    for kind in ["a", "b"] {
        world.message("shop", kind).await;
    }
    for name in ["a", "b"] {
        world.post("/event-type", json!({ "name": name, "description": "" })).await.expect(201);
    }
    let body = json!({ "url": "https://example.com/", "uid": "e", "eventTypes": ["a"] });
    world.post("/app/shop/endpoint", body).await.expect(201);
    for want in [1, 0] {
        let body = json!({ "since": "2026-01-01T00:00:00Z" });
        let task = world.post("/app/shop/endpoint/e/replay-missing", body).await.expect(202);
        assert_started(&task, "endpoint.replay");
        assert_eq!(finish(&world, &task).await, json!({ "messages": want }));
        assert_eq!(world.pending("shop", "e").await, 1);
    }
}

#[tokio::test]
async fn what_was_sent_is_replayed_by_filter() {
    let world = World::new();
    shop(&world).await;
    let path = "/app/shop/endpoint/e/bulk-replay";
    for (filter, want) in [
        (json!({}), 2),
        (json!({ "status": 0 }), 1),
        (json!({ "status": 1 }), 0),
        (json!({ "status": 4 }), 0),
        (json!({ "statusCodeClass": 500 }), 1),
        (json!({ "eventTypes": ["b"] }), 1),
        (json!({ "eventTypes": [] }), 2),
        (json!({ "channel": "x" }), 0),
        (json!({ "tag": "x" }), 0),
        (json!({ "until": "2026-01-02T00:00:00Z" }), 0),
    ] {
        let mut body = filter.clone();
        body["since"] = json!("2025-01-01T00:00:00Z");
        let task = world.post(path, body).await.expect(202);
        assert_started(&task, "endpoint.bulk-replay");
        assert_eq!(finish(&world, &task).await, json!({ "messages": want }), "{filter}");
    }
    let wrong = json!({
        "since": "2026-01-01T00:00:00Z", "status": 5, "statusCodeClass": 7, "tag": "a b", "channel": "", "eventTypes": ["?"]
    });
    let places = world.post(path, wrong).await.invalid();
    assert_eq!(places, ["body.eventTypes.[0]", "body.channel", "body.tag", "body.status", "body.statusCodeClass"]);
}

#[tokio::test]
async fn payloads_are_erased_in_bulk() {
    let world = World::new();
    let [one, two] = shop(&world).await;
    let body = json!({ "ids": [one, "unknown"] });
    let answer = world.post("/app/shop/msg/bulk-expunge", body).await.expect(200);
    assert_eq!(answer, json!({ "results": { &one: "expunged", "unknown": "not-found" } }));
    let payload = async |id: &str| world.get(&format!("/app/shop/msg/{id}")).await.expect(200)["payload"].clone();
    let expired = json!({ "expired": true });
    assert_eq!((payload(&one).await, payload(&two).await), (expired.clone(), json!({ "n": 1 })));
    assert_eq!(world.post("/app/shop/msg/bulk-expunge", json!({})).await.expect(200), json!({ "results": {} }));

    let task = world.post("/app/shop/msg/expunge-all-contents", Value::Null).await.expect(202);
    assert_started(&task, "application.purge_content");
    assert_eq!(finish(&world, &task).await, json!({ "messages": 1 }));
    assert_eq!(payload(&two).await, expired);
}

#[tokio::test]
async fn usage_is_counted() {
    let world = World::new();
    shop(&world).await;
    let idle = world.app("idle").await;
    let span = |ids: Value| json!({ "since": "2026-01-01T00:00:00Z", "until": "2026-02-01T00:00:00Z", "appIds": ids });
    let task = world.post("/stats/usage/app", span(json!(["shop", idle, "nobody", "shop"]))).await.expect(202);
    assert_eq!(task["unresolvedAppIds"], json!(["nobody"]));
    let counted = finish(&world, &task).await;
    let counts = counted["applications"].as_array().unwrap();
    assert_eq!(counts.len(), 2);
    assert_eq!((&counts[0]["appUid"], &counts[0]["messages"]), (&json!("shop"), &json!(2)));
    assert_eq!((&counts[0]["attempts"], &counts[0]["messageDestinations"]), (&json!(2), &json!(2)));
    assert_eq!((&counts[1]["appId"], &counts[1]["messages"]), (&json!(idle), &json!(0)));
    assert_eq!(world.post("/stats/usage/app", span(json!(["nobody"]))).await.invalid(), ["body.appIds"]);
    let backwards = json!({ "since": "2026-02-01T00:00:00Z", "until": "2026-01-01T00:00:00Z" });
    assert_eq!(world.post("/stats/usage/app", backwards).await.invalid(), ["body.until"]);

    let task = world.send("PUT", "/stats/usage/event-types", Value::Null).await.expect(202);
    assert_started(&task, "event-type.aggregate");
    assert_eq!(finish(&world, &task).await, json!({ "eventTypes": { "a": 1, "b": 1 } }));
}

#[tokio::test]
async fn tasks_are_listed_to_their_operator() {
    let world = World::new();
    let app = world.app("shop").await;
    let types = world.send("PUT", "/stats/usage/event-types", Value::Null).await.expect(202);
    let purge = world.post("/app/shop/msg/expunge-all-contents", Value::Null).await.expect(202);
    finish(&world, &types).await;
    let (first, second) = (id(&types), id(&purge));
    for (query, want) in [
        ("", vec![&second, &first]),
        ("?order=ascending", vec![&first, &second]),
        ("?status=running", vec![&second]),
        ("?status=failed", vec![]),
        ("?task=event-type.aggregate", vec![&first]),
        ("?task=sdk.generate", vec![]),
        ("?limit=1", vec![&second]),
    ] {
        let list = world.get(&format!("/background-task{query}")).await.expect(200);
        assert_eq!(ids(&list).iter().collect::<Vec<_>>(), want, "{query}");
    }
    let rest = world.get(&format!("/background-task?iterator={second}")).await.expect(200);
    assert_eq!((ids(&rest), &rest["done"]), (vec![first.clone()], &json!(true)));
    world.get("/background-task?status=gone").await.refused(400, "generic_error");
    assert_eq!(world.get("/background-task?iterator=msg_1").await.invalid(), ["query.iterator"]);

    let other = org_token("org_other");
    assert_eq!(world.send_as(&other, "GET", "/background-task", None).await.expect(200)["data"], json!([]));
    let path = format!("/background-task/{first}");
    world.send_as(&other, "GET", &path, None).await.refused(404, "not_found");
    world.send_as(&app_token(&app, &[]), "GET", &path, None).await.refused(404, "not_found");
    let nonsense = world.get("/background-task/nonsense").await;
    nonsense.refused(404, "not_found");
    assert!(nonsense.text.contains("no such task"), "{}", nonsense.text);
}

#[tokio::test]
async fn a_token_that_starts_a_task_can_see_what_became_of_it_and_why() {
    let world = World::new();
    shop(&world).await;
    let other = world.app("other").await;
    let shop = world.get("/app/shop").await.expect(200);
    let (own, foreign) = (app_token(&id(&shop), &[]), app_token(&other, &[]));
    let since = json!({ "since": "2026-01-01T00:00:00Z" });
    for (what, disabled, data) in [
        ("recover", false, json!({ "messages": 1 })),
        ("recover", true, json!({ "messages": 0, "stopped": "endpoint_disabled" })),
        ("replay-missing", true, json!({ "messages": 0, "stopped": "endpoint_disabled" })),
    ] {
        world.send("PATCH", "/app/shop/endpoint/e", json!({ "disabled": disabled })).await.expect(200);
        let path = format!("/app/shop/endpoint/e/{what}");
        let task = world.send_as(&own, "POST", &path, Some(&since)).await.expect(202);
        finish(&world, &task).await;
        let path = format!("/background-task/{}", id(&task));
        let shown = world.send_as(&own, "GET", &path, None).await.expect(200);
        assert_eq!((&shown["status"], &shown["data"]), (&json!("finished"), &data), "{what}");
        world.send_as(&foreign, "GET", &path, None).await.refused(404, "not_found");
        world.send_as(&own, "GET", "/background-task", None).await.refused(403, "insufficient access");
    }
}
