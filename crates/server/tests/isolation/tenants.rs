//! One tenant against all: whatever an application's token, or the key of another environment, can send. Messages are sent
//! with the key, because an application's token cannot.

use std::time::Duration;

use http::Method;
use postrider_testkit::{Receiver, Reply, TestServer, TestServerBuilder};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::hostile::{Hostile, connect_from_elsewhere, repeat};
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
async fn an_endpoint_with_very_many_headers() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let endpoint = json!({ "url": "http://127.0.0.1:1025/", "headers": headers(24_569) });
        hostile.tenant.client.post(&hostile.tenant.path("/endpoint"), &endpoint).await;
        hostile.operator.client.post(&hostile.operator.path("/msg"), &message(&json!({}))).await;
        let mut attack = JoinSet::new();
        repeat(&mut attack, &hostile.tenant, 2, &Method::POST, "/endpoint", &endpoint);
        repeat(&mut attack, &hostile.operator, 1, &Method::POST, "/msg", &message(&json!({})));
        attack
    })
    .await;
}

#[tokio::test]
async fn urls_that_grow_when_they_are_encoded() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let endpoint = json!({ "url": format!("http://127.0.0.1:1025/{}", "ü".repeat(900)) });
        let mut attack = JoinSet::new();
        repeat(&mut attack, &hostile.tenant, 2, &Method::POST, "/endpoint", &endpoint);
        repeat(&mut attack, &hostile.operator, 2, &Method::POST, "/msg", &message(&json!({})));
        repeat(&mut attack, &hostile.tenant, 1, &Method::GET, "/endpoint", &json!({}));
        attack
    })
    .await;
}

/// Thirty definitions, each of which names the next one twice.
fn doubling_schema(keyword: &str) -> Value {
    let mut definitions = serde_json::Map::new();
    for level in 0..30 {
        let next = json!({ "$ref": format!("#/$defs/a{}", level + 1) });
        definitions.insert(format!("a{level}"), json!({ keyword: [next, next] }));
    }
    definitions.insert("a30".to_owned(), json!({ "type": "integer" }));
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
    hostile.operator.client.patch(path, &settings).await;
}

#[tokio::test]
async fn schemas_without_an_end() {
    unharmed(server(), async |server| {
        let mut attack = JoinSet::new();
        for (keyword, enforcement) in [("anyOf", "reject"), ("oneOf", "warn"), ("allOf", "reject")] {
            let hostile = Hostile::on(server).await;
            enforce_schemas(&hostile, enforcement).await;
            let event_type =
                json!({ "name": "user.created", "description": "", "schemas": { "1": doubling_schema(keyword) } });
            hostile.operator.client.post("/api/v1/event-type", &event_type).await;
            repeat(&mut attack, &hostile.operator, 1, &Method::POST, "/msg", &message(&json!("text")));
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
        hostile.operator.client.post("/api/v1/event-type", &event_type).await;
        let mut attack = JoinSet::new();
        for depth in [18, 40] {
            repeat(&mut attack, &hostile.operator, 1, &Method::POST, "/msg", &message(&nested_payload(depth)));
        }
        attack
    })
    .await;
}

#[tokio::test]
async fn schemas_with_thousands_of_patterns() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        enforce_schemas(&hostile, "reject").await;
        let patterns: Vec<Value> =
            (0..10_000).map(|number| json!({ "pattern": format!("\\w{{60}}{number}") })).collect();
        let event_type =
            json!({ "name": "user.created", "description": "", "schemas": { "1": { "anyOf": patterns } } });
        let mut attack = JoinSet::new();
        let app = hostile.operator.clone();
        attack.spawn(async move {
            loop {
                let request = app.client.request(Method::PUT, "/api/v1/event-type/user.created").json(&event_type);
                let _ = request.try_send().await;
            }
        });
        repeat(&mut attack, &hostile.operator, 2, &Method::POST, "/msg", &message(&json!("text")));
        attack
    })
    .await;
}

#[tokio::test]
async fn an_import_that_names_one_large_example_thousands_of_times() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let examples: serde_json::Map<String, Value> = (0..5_000)
            .map(|number| (number.to_string(), json!({ "$ref": "#/components/examples/b" })))
            .collect();
        let document = json!({
            "openapi": "3.1.0",
            "info": { "title": "t", "version": "1" },
            "components": { "examples": { "b": { "value": "x".repeat(900_000) } } },
            "webhooks": { "user.created": { "post": { "requestBody": { "content": { "application/json": { "schema": { "type": "string" }, "examples": examples } } } } } },
        });
        let body = json!({ "spec": document, "dryRun": true });
        let mut attack = JoinSet::new();
        for _ in 0..2 {
            let (app, body) = (hostile.operator.clone(), body.clone());
            attack.spawn(async move {
                loop {
                    let request = app.client.request(Method::POST, "/api/v1/event-type/import/openapi").json(&body);
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
        for number in 0..60 {
            let endpoint = json!({ "url": "http://127.0.0.1:1025/", "description": "d".repeat(2_000_000), "disabled": true, "metadata": { "n": number.to_string() } });
            let answer = hostile.tenant.client.post(&hostile.tenant.path("/endpoint"), &endpoint).await;
            if answer.status != 201 {
                let small = json!({ "url": "http://127.0.0.1:1025/", "description": "d".repeat(2_000), "disabled": true });
                hostile.tenant.client.post(&hostile.tenant.path("/endpoint"), &small).await;
            }
        }
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
        let since = json!({ "since": "2020-01-01T00:00:00Z" });
        for what in ["recover", "replay-missing", "bulk-replay"] {
            let path = format!("/endpoint/{endpoint}/{what}");
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
        for number in 0..1_500 {
            let endpoint = json!({ "url": hanging.at(&number.to_string()) });
            if hostile.tenant.client.post(&hostile.tenant.path("/endpoint"), &endpoint).await.status != 201 {
                break;
            }
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
        let endpoint = json!({ "url": format!("http://127.0.0.1:1025/{}", "\"".repeat(900)) });
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
            hostile.operator.client.post(&hostile.operator.path("/msg"), &message).await;
        }
        let mut attack = JoinSet::new();
        for rest in [
            "/msg?limit=250&tag=none".to_owned(),
            "/msg?limit=250&event_types=none.such".to_owned(),
            format!("/attempt/endpoint/{endpoint}?limit=250&status=2"),
            format!("/endpoint/{endpoint}/stats"),
        ] {
            repeat(&mut attack, &hostile.tenant, 1, &Method::GET, &rest, &json!({}));
        }
        attack
    })
    .await;
}
