//! One tenant against all: whatever an application's token, or the key of another environment, can send. Messages are sent
//! with the key, because an application's token cannot.

use std::time::Duration;

use http::Method;
use postrider_domain::clock::{Clock as _, SystemClock};
use postrider_testkit::{Receiver, Reply, TestServer, TestServerBuilder, wait};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::hostile::{Hostile, arrives, connect_from_elsewhere, repeat};
use crate::neighbour::unharmed;

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
}

fn message(payload: &Value) -> Value {
    json!({ "eventType": "user.created", "payload": payload })
}

fn headers(count: usize) -> Value {
    (0..count).map(|number| (format!("x-{number}"), json!("v"))).collect()
}

#[tokio::test]
async fn endpoints_with_as_many_headers_as_they_may_have_and_with_very_many() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let endpoint = |count| json!({ "url": "http://127.0.0.1:1025/", "headers": headers(count) });
        let (most, too_many) = (endpoint(50), endpoint(24_569));
        arrives(&hostile.tenant, &Method::POST, "/endpoint", &most, 201).await;
        arrives(&hostile.tenant, &Method::POST, "/endpoint", &too_many, 422).await;
        arrives(&hostile.operator, &Method::POST, "/msg", &message(&json!({})), 202).await;
        let mut attack = JoinSet::new();
        repeat(&mut attack, &hostile.tenant, 2, &Method::POST, "/endpoint", &most);
        repeat(&mut attack, &hostile.tenant, 2, &Method::POST, "/endpoint", &too_many);
        repeat(&mut attack, &hostile.operator, 1, &Method::POST, "/msg", &message(&json!({})));
        attack
    })
    .await;
}

#[tokio::test]
async fn urls_that_grow_when_they_are_encoded() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let endpoint = json!({ "url": format!("http://127.0.0.1:1025/{}", "ü".repeat(330)) });
        arrives(&hostile.tenant, &Method::POST, "/endpoint", &endpoint, 201).await;
        let mut attack = JoinSet::new();
        repeat(&mut attack, &hostile.tenant, 2, &Method::POST, "/endpoint", &endpoint);
        repeat(&mut attack, &hostile.operator, 2, &Method::POST, "/msg", &message(&json!({})));
        repeat(&mut attack, &hostile.tenant, 1, &Method::GET, "/endpoint", &json!({}));
        attack
    })
    .await;
}

/// Definitions, each of which names the next one twice.
fn doubling_schema(keyword: &str, levels: usize) -> Value {
    let mut definitions = serde_json::Map::new();
    for level in 0..levels {
        let next = json!({ "$ref": format!("#/$defs/a{}", level + 1) });
        definitions.insert(format!("a{level}"), json!({ keyword: [next, next] }));
    }
    definitions.insert(format!("a{levels}"), json!({ "type": "integer" }));
    json!({ "$defs": definitions, "$ref": "#/$defs/a0" })
}

/// An innocent tree of conditions.
fn recursive_schema() -> Value {
    let node = |op: &str| json!({ "properties": { "op": { "const": op }, "args": { "items": { "$ref": "#/$defs/node" } } }, "required": ["op", "args"] });
    json!({ "$defs": { "node": { "oneOf": [node("and"), node("or"), { "type": "string" }] } }, "properties": { "filter": { "$ref": "#/$defs/node" } } })
}

fn nested_payload(depth: usize) -> Value {
    let leaf = json!(5);
    let filter = (0..depth).fold(leaf, |inner, _| json!({ "op": "or", "args": [inner, "x"] }));
    json!({ "filter": filter })
}

async fn enforce_schemas(hostile: &Hostile, enforcement: &str) {
    let path = "/api/v1/environment/settings";
    let settings = json!({ "schemaEnforcement": enforcement });
    hostile.operator.client.patch(path, &settings).await.expect(200);
}

#[tokio::test]
async fn schemas_without_an_end() {
    unharmed(server(), async |server| {
        let mut attack = JoinSet::new();
        for (keyword, enforcement, answered) in
            [("anyOf", "reject", 422), ("oneOf", "warn", 202), ("allOf", "reject", 422)]
        {
            let hostile = Hostile::on(server).await;
            enforce_schemas(&hostile, enforcement).await;
            let event_type = move |levels| {
                let schema = doubling_schema(keyword, levels);
                json!({ "name": "user.created", "description": "", "schemas": { "1": schema } })
            };
            // One without an end is refused when it is made, so this is the worst that is taken.
            let client = &hostile.operator.client;
            client.post("/api/v1/event-type", &event_type(30)).await.expect(422);
            client.post("/api/v1/event-type", &event_type(10)).await.expect(201);
            let judged = message(&json!({ "text": "text" }));
            let answer = arrives(&hostile.operator, &Method::POST, "/msg", &judged, answered).await.text();
            assert!(answer.contains("schema_violation"), "{answer}");
            repeat(&mut attack, &hostile.operator, 1, &Method::POST, "/msg", &judged);
            let client = client.clone();
            attack.spawn(async move {
                loop {
                    let _ = client.request(Method::POST, "/api/v1/event-type").json(&event_type(30)).try_send().await;
                    sleep(Duration::from_millis(5)).await;
                }
            });
        }
        attack
    })
    .await;
}

#[tokio::test]
async fn payloads_that_an_innocent_schema_takes_exponential_work_to_refuse() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        enforce_schemas(&hostile, "reject").await;
        let event_type = json!({ "name": "user.created", "description": "", "schemas": { "1": recursive_schema() } });
        hostile.operator.client.post("/api/v1/event-type", &event_type).await.expect(201);
        let mut attack = JoinSet::new();
        for depth in [18, 40] {
            let answer = arrives(&hostile.operator, &Method::POST, "/msg", &message(&nested_payload(depth)), 422).await;
            assert!(answer.text().contains("would take too long"), "{}", answer.text());
            repeat(&mut attack, &hostile.operator, 1, &Method::POST, "/msg", &message(&nested_payload(depth)));
        }
        attack
    })
    .await;
}

#[tokio::test]
async fn schemas_with_as_many_patterns_as_they_may_have() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        enforce_schemas(&hostile, "reject").await;
        let patterns: Vec<Value> =
            (0..1_000).map(|number| json!({ "pattern": format!("\\w{{60}}{number}") })).collect();
        let schema = json!({ "properties": { "text": { "anyOf": patterns } } });
        let event_type = json!({ "description": "", "schemas": { "1": schema } });
        hostile.operator.client.put("/api/v1/event-type/user.created", &event_type).await.expect(201);
        let judged = message(&json!({ "text": "text" }));
        let answer = arrives(&hostile.operator, &Method::POST, "/msg", &judged, 422).await.text();
        assert!(answer.contains("schema_violation"), "{answer}");
        let mut attack = JoinSet::new();
        let app = hostile.operator.clone();
        attack.spawn(async move {
            loop {
                let request = app.client.request(Method::PUT, "/api/v1/event-type/user.created").json(&event_type);
                let _ = request.try_send().await;
            }
        });
        repeat(&mut attack, &hostile.operator, 2, &Method::POST, "/msg", &judged);
        attack
    })
    .await;
}

#[tokio::test]
async fn imports_that_name_one_large_example_as_often_as_they_may_and_thousands_of_times() {
    const IMPORT: &str = "/api/v1/event-type/import/openapi";
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let body = |times: usize, length: usize| {
            let examples: serde_json::Map<String, Value> = (0..times)
                .map(|number| (number.to_string(), json!({ "$ref": "#/components/examples/b" })))
                .collect();
            let document = json!({
                "openapi": "3.1.0",
                "info": { "title": "t", "version": "1" },
                "components": { "examples": { "b": { "value": "x".repeat(length) } } },
                "webhooks": { "user.created": { "post": { "requestBody": { "content": { "application/json": { "schema": { "type": "string" }, "examples": examples } } } } } },
            });
            json!({ "spec": document, "dryRun": true })
        };
        let mut attack = JoinSet::new();
        for (times, length, status) in [(17, 60_000, 200), (5_000, 900_000, 422)] {
            let (app, body) = (hostile.operator.clone(), body(times, length));
            app.client.post(IMPORT, &body).await.expect(status);
            attack.spawn(async move {
                loop {
                    let request = app.client.request(Method::POST, IMPORT).json(&body);
                    let _ = request.try_send().await;
                }
            });
        }
        attack
    })
    .await;
}

#[tokio::test]
async fn bodies_of_which_the_last_byte_never_comes() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let token = hostile.token(server);
        let (address, body) = (server.address(), vec![b' '; 2 * 1024 * 1024 - 1]);
        let body = std::sync::Arc::new(body);
        let mut attack = JoinSet::new();
        for _ in 0..500 {
            let (head, body) = (
                format!(
                    "POST /api/v1/app/{}/msg HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                    hostile.tenant.id,
                    body.len() + 1
                ),
                std::sync::Arc::clone(&body),
            );
            attack.spawn(async move {
                let Some(mut stream) = connect_from_elsewhere(address).await else { return };
                // Cut off is what is hoped for.
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&body).await;
                sleep(Duration::from_secs(600)).await;
            });
        }
        attack
    })
    .await;
}

#[tokio::test]
async fn bodies_that_never_begin_and_heads_that_never_end() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let (address, token) = (server.address(), hostile.token(server));
        let mut attack = JoinSet::new();
        for number in 0..300 {
            let head = format!(
                "POST /api/v1/app/{}/msg HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n",
                hostile.tenant.id
            );
            attack.spawn(async move {
                let Some(mut stream) = connect_from_elsewhere(address).await else { return };
                let _ = stream.write_all(head.as_bytes()).await;
                if number % 2 == 0 {
                    let _ = stream.write_all(b"content-length: 100\r\n\r\n").await;
                }
                loop {
                    sleep(Duration::from_millis(500)).await;
                    if number % 2 == 1 && stream.write_all(b"x-more: and more\r\n").await.is_err() {
                        return;
                    }
                }
            });
        }
        attack
    })
    .await;
}

#[tokio::test]
async fn large_lists_that_are_not_read() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        for number in 0..250 {
            let endpoint = json!({ "url": "http://127.0.0.1:1025/", "description": "d".repeat(4_096), "disabled": true, "metadata": { "n": number.to_string() } });
            arrives(&hostile.tenant, &Method::POST, "/endpoint", &endpoint, 201).await;
        }
        let whole = arrives(&hostile.tenant, &Method::GET, "/endpoint?limit=250", &json!({}), 200).await;
        assert!(whole.body.len() > 1_000_000, "more than the system takes: {}", whole.body.len());
        let (address, token) = (server.address(), hostile.token(server));
        let mut attack = JoinSet::new();
        for _ in 0..40 {
            let request = format!(
                "GET /api/v1/app/{}/endpoint?limit=250 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n",
                hostile.tenant.id
            );
            attack.spawn(async move {
                let Some(mut stream) = connect_from_elsewhere(address).await else { return };
                for _ in 0..50 {
                    let _ = stream.write_all(request.as_bytes()).await;
                }
                sleep(Duration::from_secs(600)).await;
            });
        }
        attack
    })
    .await;
}

#[tokio::test]
async fn endpoints_that_ask_to_be_left_alone_for_a_day() {
    let server = server().set("delivery.max_in_flight", "16");
    unharmed(server, async |server| {
        let hostile = Hostile::on(server).await;
        let busy = Box::leak(Box::new(Receiver::always(Reply::status(429).header("retry-after", "86400")).await));
        for number in 0..100 {
            hostile.tenant.endpoint(&busy.at(&number.to_string())).await;
        }
        hostile.operator.send("user.created", &json!({})).await;
        busy.wait_for(64).await;
        let mut attack = JoinSet::new();
        let operator = hostile.operator.clone();
        attack.spawn(async move {
            loop {
                let _ = operator
                    .client
                    .request(Method::POST, &operator.path("/msg"))
                    .json(&message(&json!({})))
                    .try_send()
                    .await;
                sleep(Duration::from_millis(50)).await;
            }
        });
        attack
    })
    .await;
}

#[tokio::test]
async fn connections_that_say_nothing() {
    unharmed(server(), async |server| {
        let address = server.address();
        let mut attack = JoinSet::new();
        for _ in 0..1_500 {
            attack.spawn(async move {
                loop {
                    let stream = connect_from_elsewhere(address).await;
                    sleep(Duration::from_secs(5)).await;
                    drop(stream);
                }
            });
        }
        attack
    })
    .await;
}

#[tokio::test]
async fn thousands_of_replays() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let sink = Box::leak(Box::new(Receiver::builder(|_| Reply::ok()).forgetful().start().await));
        let endpoint = hostile.tenant.endpoint(&sink.url()).await;
        for _ in 0..50 {
            hostile.operator.send("user.created", &json!({})).await;
        }
        let mut attack = JoinSet::new();
        let since = SystemClock::new().wall().saturating_sub(Duration::from_secs(13 * 86_400));
        let since = json!({ "since": since.to_string() });
        for what in ["recover", "replay-missing", "bulk-replay"] {
            let path = format!("/endpoint/{endpoint}/{what}");
            // While one of them runs, another is refused.
            wait::until("a task to begin", async || {
                let answer = hostile.tenant.client.post(&hostile.tenant.path(&path), &since).await;
                (answer.status == 202).then_some(())
            })
            .await;
            repeat(&mut attack, &hostile.tenant, 1, &Method::POST, &path, &since);
        }
        attack
    })
    .await;
}

#[tokio::test]
async fn one_message_to_as_many_endpoints_as_are_allowed() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let hanging = Box::leak(Box::new(Receiver::always(Reply::hang()).await));
        for number in 0..1_000 {
            hostile.tenant.endpoint(&hanging.at(&number.to_string())).await;
        }
        let mut attack = JoinSet::new();
        repeat(&mut attack, &hostile.operator, 2, &Method::POST, "/msg", &message(&json!({})));
        attack
    })
    .await;
}

#[tokio::test]
async fn batch_after_batch() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let item = message(&json!({ "text": "x".repeat(1_500) }));
        let batch = Value::from(vec![item; 1_000]);
        arrives(&hostile.operator, &Method::POST, "/msg/batch", &batch, 202).await;
        let mut attack = JoinSet::new();
        repeat(&mut attack, &hostile.operator, 8, &Method::POST, "/msg/batch", &batch);
        attack
    })
    .await;
}

#[tokio::test]
async fn names_of_their_own_in_every_message() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let sink = Box::leak(Box::new(Receiver::builder(|_| Reply::ok()).forgetful().start().await));
        hostile.tenant.endpoint(&sink.url()).await;
        let mut attack = JoinSet::new();
        for caller in 0..4 {
            let operator = hostile.operator.clone();
            attack.spawn(async move {
                for number in 0.. {
                    let names = |kind: &str, count: usize| -> Vec<String> {
                        (0..count).map(|place| format!("{kind}-{caller}-{number}-{place}")).collect()
                    };
                    let message = json!({ "eventType": "user.created", "payload": {}, "channels": names("c", 5), "tags": names("t", 10) });
                    let _ = operator.client.request(Method::POST, &operator.path("/msg")).json(&message).try_send().await;
                }
            });
        }
        attack
    })
    .await;
}

#[tokio::test]
async fn operational_endpoints_whose_url_grows() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let endpoint = json!({ "url": format!("http://127.0.0.1:1025/{}", "\"".repeat(670)) });
        hostile.operator.client.post("/api/v1/operational-webhook/endpoint", &endpoint).await.expect(201);
        let mut attack = JoinSet::new();
        let operator = hostile.operator.clone();
        attack.spawn(async move {
            loop {
                let request = operator.client.request(Method::POST, "/api/v1/operational-webhook/endpoint");
                let _ = request.json(&endpoint).try_send().await;
                let request = operator.client.request(Method::POST, &operator.path("/endpoint"));
                let _ = request.json(&json!({ "url": "http://127.0.0.1:1025/" })).try_send().await;
            }
        });
        attack
    })
    .await;
}

#[tokio::test]
async fn changes_without_an_end() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let endpoint = hostile.tenant.endpoint("http://127.0.0.1:1025/").await;
        let mut attack = JoinSet::new();
        for disabled in [true, false] {
            let path = format!("/endpoint/{endpoint}");
            arrives(&hostile.tenant, &Method::PATCH, &path, &json!({ "disabled": disabled }), 200).await;
            repeat(&mut attack, &hostile.tenant, 2, &Method::PATCH, &path, &json!({ "disabled": disabled }));
        }
        repeat(&mut attack, &hostile.operator, 2, &Method::POST, "/msg", &message(&json!({})));
        attack
    })
    .await;
}

#[tokio::test]
async fn json_nested_as_deep_as_a_body_is_long() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let body =
            format!(r#"{{"eventType":"user.created","payload":{}{}}}"#, "[".repeat(400_000), "]".repeat(400_000));
        let mut attack = JoinSet::new();
        for _ in 0..3 {
            let (operator, body) = (hostile.operator.clone(), body.clone());
            attack.spawn(async move {
                loop {
                    let request = operator.client.request(Method::POST, &operator.path("/msg")).body(body.clone());
                    let _ = request.header("content-type", "application/json").try_send().await;
                }
            });
        }
        attack
    })
    .await;
}

#[tokio::test]
async fn pollers_and_lists_without_an_end() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let sink = Box::leak(Box::new(Receiver::builder(|_| Reply::ok()).forgetful().start().await));
        let endpoint = hostile.tenant.endpoint(&sink.url()).await;
        for number in 0..300 {
            let message =
                json!({ "eventType": format!("type.{number}"), "payload": {}, "tags": [format!("tag-{number}")] });
            arrives(&hostile.operator, &Method::POST, "/msg", &message, 202).await;
        }
        let mut attack = JoinSet::new();
        for rest in [
            "/msg?limit=250&tag=none".to_owned(),
            "/msg?limit=250&event_types=none.such".to_owned(),
            format!("/attempt/endpoint/{endpoint}?limit=250&status=2"),
            format!("/endpoint/{endpoint}/stats"),
        ] {
            arrives(&hostile.tenant, &Method::GET, &rest, &json!({}), 200).await;
            repeat(&mut attack, &hostile.tenant, 1, &Method::GET, &rest, &json!({}));
        }
        attack
    })
    .await;
}
