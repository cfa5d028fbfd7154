//! Many messages in one request: as an array, and as lines.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::world::{Answer, Extras, ORG, World, org_token, sign};

const PATH: &str = "/api/v1/app/shop/msg/batch";

async fn send(world: &World, body: impl Into<Bytes>, headers: &[(&'static str, &str)]) -> Answer {
    send_to(world, PATH, body, headers).await
}

async fn send_to(world: &World, path: &str, body: impl Into<Bytes>, headers: &[(&'static str, &str)]) -> Answer {
    let token = org_token(ORG);
    world.raw("POST", path, Extras { token: Some(&token), headers, body: body.into() }).await
}

fn message(event_id: Option<&str>) -> Value {
    json!({ "eventType": "a.b", "payload": { "n": 1 }, "eventId": event_id })
}

/// What became of each item: its status.
fn statuses(results: &[Value]) -> Vec<u64> {
    for (index, result) in results.iter().enumerate() {
        assert_eq!(result["index"], index, "{results:?}");
    }
    results.iter().map(|result| result["status"].as_u64().unwrap()).collect()
}

fn data(answer: &Answer) -> Vec<Value> {
    let body = answer.expect(202);
    let data = body["data"].as_array().unwrap().clone();
    let accepted = data.iter().filter(|result| result["status"] == 202).count();
    assert_eq!((&body["accepted"], &body["rejected"]), (&json!(accepted), &json!(data.len() - accepted)));
    data
}

fn lines(answer: &Answer) -> Vec<Value> {
    assert_eq!(
        (answer.status.as_u16(), &answer.headers["content-type"]),
        (202, &"application/x-ndjson".parse().unwrap())
    );
    answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ndjson(items: &[Value]) -> String {
    items.iter().map(|item| format!("{item}\n")).collect()
}

async fn stored(world: &World) -> usize {
    world.get("/app/shop/msg?limit=250").await.expect(200)["data"].as_array().unwrap().len()
}

#[tokio::test]
async fn every_item_has_its_own_result_in_order() {
    let world = World::new();
    world.app("shop").await;
    world.endpoint("shop", "ep").await;
    let items = json!([
        message(Some("one")),
        { "eventType": "a b", "payload": {} },
        message(None),
        message(Some("one")),
        5,
        { "eventType": "a", "payload": "text" },
        message(Some("two")),
    ]);
    let results = data(&send(&world, items.to_string(), &[]).await);
    assert_eq!(statuses(&results), [202, 422, 202, 409, 422, 422, 202]);
    assert_eq!((&results[0]["eventId"], &results[2]["eventId"]), (&json!("one"), &Value::Null));
    for (index, id) in [(0, "one"), (6, "two")] {
        let read = world.get(&format!("/app/shop/msg/{id}")).await.expect(200);
        assert_eq!((&read["id"], &read["timestamp"]), (&results[index]["id"], &results[index]["timestamp"]));
        assert_eq!(read["payload"], json!({ "n": 1 }));
    }
    assert_eq!((&results[3]["code"], results[3]["detail"].is_string()), (&json!("conflict"), true));
    for (index, member) in [(1, Some("eventType")), (4, None), (5, Some("payload"))] {
        let loc: Vec<_> = results[index]["detail"][0]["loc"].as_array().unwrap().clone();
        let want: Vec<_> =
            [json!("body"), json!(format!("[{index}]"))].into_iter().chain(member.map(Into::into)).collect();
        assert_eq!(loc, want);
    }
    assert_eq!(stored(&world).await, 3);
    assert_eq!(world.pending("shop", "ep").await, 3);
}

#[tokio::test]
async fn a_batch_under_a_key_is_repeated_with_the_same_answer() {
    let world = World::new();
    world.app("shop").await;
    let items = json!([message(Some("one")), { "eventType": "" , "payload": {} }, message(Some("one")), message(None)]);
    for (kind, body) in
        [("application/json", items.to_string()), ("application/jsonl", ndjson(items.as_array().unwrap()))]
    {
        let headers = [("idempotency-key", kind), ("content-type", kind)];
        let first = send(&world, body.clone(), &headers).await;
        let before = stored(&world).await;
        let again = send(&world, body, &headers).await;
        assert_eq!((first.status, &first.text), (again.status, &again.text));
        assert_eq!(stored(&world).await, before);
        world.delete("/app/shop").await.expect(204);
        world.app("shop").await;
    }
}

#[tokio::test]
async fn items_that_were_stored_before_a_crash_are_found_again() {
    let world = World::new();
    world.app("shop").await;
    let headers = [("idempotency-key", "k")];
    let first = data(&send(&world, json!([message(None)]).to_string(), &headers).await);
    let all = data(&send(&world, json!([message(None), message(None)]).to_string(), &headers).await);
    assert_eq!(all[0]["id"], first[0]["id"], "its key is made of the batch's key and its place");
    assert_eq!(stored(&world).await, 2);
    let other = data(&send(&world, json!([message(None)]).to_string(), &[("idempotency-key", "l")]).await);
    assert_ne!(other[0]["id"], first[0]["id"]);
}

#[tokio::test]
async fn an_application_that_an_item_brings_along_is_there_for_all() {
    let world = World::new();
    let body = |items: Value| items.to_string();
    send(&world, body(json!([message(None), message(None)])), &[]).await.refused(404, "not_found");
    let new = |uid: &str| json!({ "eventType": "a", "payload": {}, "application": { "name": "Shop", "uid": uid } });
    let results = data(&send(&world, body(json!([message(None), new("other")])), &[]).await);
    assert_eq!(statuses(&results), [404, 422]);
    assert_eq!(results[1]["detail"][0]["type"], "application_uid_mismatch");
    let results = data(&send(&world, body(json!([message(None), new("shop"), new("other")])), &[]).await);
    assert_eq!(statuses(&results), [202, 202, 202]);
    assert_eq!(world.get("/app/shop").await.expect(200)["name"], "Shop");
}

#[tokio::test]
async fn an_application_that_an_item_brings_along_is_made_again_after_a_deletion_or_another_uid() {
    let world = World::new();
    let body = |items: Value| items.to_string();
    let new = |uid: &str| json!({ "eventType": "a", "payload": {}, "application": { "name": "Shop", "uid": uid } });
    let all = || body(json!([new("other"), message(None), new("shop")]));
    assert_eq!(statuses(&data(&send(&world, all(), &[]).await)), [202, 202, 202]);
    world.delete("/app/shop").await.expect(204);
    assert_eq!(statuses(&data(&send(&world, all(), &[]).await)), [202, 202, 202]);
    world.send("PATCH", "/app/shop", json!({ "uid": "moved" })).await.expect(200);
    assert_eq!(statuses(&data(&send(&world, all(), &[]).await)), [202, 202, 202]);
    world.delete("/app/shop").await.expect(204);
    let results = data(&send(&world, body(json!([message(None), new("other")])), &[]).await);
    assert_eq!(statuses(&results), [404, 422]);
    assert_eq!(results[1]["detail"][0]["type"], "application_uid_mismatch");
}

#[tokio::test]
async fn an_array_has_limits() {
    let world = World::new();
    world.app("shop").await;
    let items = |count: usize| json!(vec![message(None); count]).to_string();
    assert_eq!(data(&send(&world, items(1_000), &[]).await).len(), 1_000);
    assert_eq!(send(&world, items(1_001), &[]).await.invalid(), ["body"]);
    assert_eq!(stored(&world).await, 250, "a page of the first");
    assert_eq!(data(&send(&world, "[]", &[]).await), Vec::<Value>::new());
    for nothing in ["", "[", "[{}", "null", "[]]"] {
        let answer = send(&world, nothing, &[("content-type", "application/json")]).await;
        assert_eq!(answer.status, 422, "{nothing:?}: {answer:?}");
    }
    let large =
        json!([{ "eventType": "a", "payload": { "a": "x".repeat(3 * 1024 * 1024) } }, message(None)]).to_string();
    assert_eq!(data(&send(&world, large, &[]).await).len(), 2);
    let spaces = format!("[{}]", " ".repeat(8 * 1024 * 1024));
    send(&world, spaces, &[]).await.refused(413, "payload_too_large");
}

#[tokio::test]
async fn lines_are_answered_with_lines() {
    let world = World::new();
    world.app("shop").await;
    let body = format!("{}\n\n{}\r\n{}\n{}", message(Some("one")), "{", message(Some("one")), message(None));
    for content_type in [None, Some("application/x-ndjson; charset=utf-8"), Some("text/plain")] {
        let headers: Vec<_> = content_type.map(|kind| ("content-type", kind)).into_iter().collect();
        let results = lines(&send(&world, body.clone(), &headers).await);
        assert_eq!(statuses(&results)[1..], [422, 409, 202], "{content_type:?}");
        assert_eq!(results[1]["detail"][0]["loc"], json!(["body", "[1]"]));
    }
    assert_eq!(lines(&send(&world, "", &[("content-type", "application/jsonl")]).await), Vec::<Value>::new());
    send_to(&world, "/api/v1/app/none/msg/batch", ndjson(&[message(None)]), &[]).await.refused(404, "not_found");
}

#[tokio::test]
async fn lines_go_on_beyond_the_limits_of_an_array() {
    let world = World::new();
    world.app("shop").await;
    let many = ndjson(&vec![message(None); 2_500]);
    let results = lines(&send(&world, many, &[]).await);
    assert_eq!(statuses(&results), [202; 2_500]);
    let long = json!({ "eventType": "a", "payload": { "a": "x".repeat(2 * 1024 * 1024) } });
    let body = ndjson(&[message(None), long.clone(), message(None), long.clone(), long, message(None)]);
    assert!(body.len() > 6 * 1024 * 1024);
    let results = lines(&send(&world, body, &[]).await);
    assert_eq!(statuses(&results), [202, 413, 202, 413, 413, 202]);
    assert_eq!(results[1]["code"], "payload_too_large");
}

#[tokio::test]
async fn a_batch_is_the_operators_and_its_path_is_checked() {
    let world = World::new();
    let body = json!([message(None)]).to_string();
    let answer = send_to(&world, "/api/v1/app/a%20b/msg/batch", body, &[]).await;
    assert_eq!(answer.invalid(), ["path.app_id_or_uid.__all__"]);
}

#[tokio::test]
async fn a_store_that_is_closed_fails_the_batch_as_a_whole() {
    let world = World::new();
    world.app("shop").await;
    send(&world, json!([message(None)]).to_string(), &[]).await.expect(202);
    world.close().await;
    let answer = send(&world, json!([message(None), message(None)]).to_string(), &[]).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(send(&world, ndjson(&[message(None)]), &[]).await.status, 503);
}

/// Lines that go on until the sender is dropped, and their answer.
struct Open {
    lines: tokio::sync::mpsc::UnboundedSender<Bytes>,
    answer: Body,
}

impl Open {
    /// Begins with a message.
    async fn new(world: &World, token: &str) -> Self {
        let (lines, received) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
        lines.send(ndjson(&[message(None)]).into()).unwrap();
        let next = async |mut received: tokio::sync::mpsc::UnboundedReceiver<Bytes>| {
            received.recv().await.map(|line| (Ok::<_, Infallible>(line), received))
        };
        let request = Request::post(PATH)
            .header("host", "api.test")
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/x-ndjson")
            .body(Body::from_stream(stream::unfold(received, next)))
            .unwrap();
        let response = world.api.respond(request).await;
        assert_eq!(response.status(), 202);
        Self { lines, answer: Body::new(response.into_body()) }
    }

    /// The next result; none at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            let piece = self.answer.frame().await?.unwrap().into_data().unwrap();
            if !piece.is_empty() {
                return Some(serde_json::from_slice(&piece).unwrap());
            }
        }
    }
}

#[tokio::test]
async fn lines_of_a_key_that_was_revoked_end_whether_more_of_them_come_or_not() {
    let world = World::new();
    world.app("shop").await;
    for comes in [true, false] {
        let before = stored(&world).await;
        let key = world.operator_key().await;
        let mut open = Open::new(&world, &key).await;
        assert_eq!(open.next().await.unwrap()["status"], 202);
        let id = world.store.api_keys().await.unwrap()[0].id;
        world.store.revoke_api_key(id).await.unwrap();
        world.clock.advance(Duration::from_secs(1));
        if comes {
            open.lines.send(ndjson(&[message(None), message(None)]).into()).unwrap();
        }
        let last = open.next().await.unwrap();
        let told = (&last["index"], &last["status"], &last["code"], last["detail"].is_string());
        assert_eq!(told, (&json!(1), &json!(401), &json!("authentication_failed"), true));
        assert_eq!(open.next().await, None);
        assert_eq!(stored(&world).await, before + 1);
    }
}

#[tokio::test]
async fn lines_of_a_token_that_has_expired_end() {
    let world = World::new();
    world.app("shop").await;
    let expires = 1_767_323_045 + 60;
    let mut open = Open::new(&world, &sign(&json!({ "sub": ORG, "exp": expires }))).await;
    assert_eq!(open.next().await.unwrap()["status"], 202);
    open.lines.send(ndjson(&[message(None)]).into()).unwrap();
    assert_eq!(open.next().await.unwrap()["status"], 202);
    // With the leeway.
    world.clock.advance(Duration::from_secs(60 + 900));
    open.lines.send(ndjson(&[message(None)]).into()).unwrap();
    assert_eq!(open.next().await.unwrap()["status"], 401);
    assert_eq!(open.next().await, None);
}
