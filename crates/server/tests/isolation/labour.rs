//! One tenant against all, by what the server has to do for a request that looks harmless: read it, reload what it changed,
//! remove what it removed, or look for what it asks.

use std::time::Duration;

use http::Method;
use postrider_domain::clock::{Clock as _, SystemClock};
use postrider_testkit::{Answer, App, Client, Receiver, Reply, TestServer, TestServerBuilder, random};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::hostile::{Hostile, arrives, connect_from_elsewhere, repeat};
use crate::neighbour::{unharmed, unharmed_with_changes, unharmed_with_schema, unharmed_with_texts};

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
}

fn message() -> Value {
    json!({ "eventType": "user.created", "payload": {} })
}

/// A receiver that takes everything and lives as long as the test.
async fn sink() -> &'static Receiver {
    Box::leak(Box::new(Receiver::builder(|_| Reply::ok()).forgetful().start().await))
}

#[tokio::test]
async fn messages_as_large_as_they_may_be() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let numbers: Vec<Value> = (0..250_000).map(|number| json!([number % 10])).collect();
        let large = json!({ "eventType": "user.created", "payload": { "numbers": numbers } });
        arrives(&hostile.operator, &Method::POST, "/msg", &large, 202).await;
        let mut attack = JoinSet::new();
        repeat(&mut attack, &hostile.operator, 8, &Method::POST, "/msg", &large);
        attack
    })
    .await;
}

/// A message of two megabytes.
fn large_message() -> Value {
    json!({ "eventType": "user.created", "payload": { "text": "x".repeat(2_000_000) } })
}

#[tokio::test]
async fn a_large_message_of_which_little_is_asked_for_over_hundreds_of_connections() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let (client, path) = (&hostile.operator.client, hostile.operator.path("/msg"));
        let sent = client.post(&path, &large_message()).await.expect(202).json();
        let message = sent["id"].as_str().expect("a message has an id");
        let mut attack = JoinSet::new();
        for (rest, status) in [
            (format!("/msg/{message}?with_content=false"), 200),
            (format!("/msg/{message}/attempt/atmpt_2mNKyQEw7Lzk1xFPCkW9m5l5Jvs"), 404),
        ] {
            arrives(&hostile.tenant, &Method::GET, &rest, &Value::Null, status).await;
            repeat(&mut attack, &hostile.operator, 150, &Method::GET, &rest, &Value::Null);
            repeat(&mut attack, &hostile.tenant, 50, &Method::GET, &rest, &Value::Null);
        }
        attack
    })
    .await;
}

#[tokio::test]
async fn a_large_message_that_is_asked_for_over_hundreds_of_connections() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let (client, path) = (&hostile.operator.client, hostile.operator.path("/msg"));
        let sent = client.post(&path, &large_message()).await.expect(202).json();
        let rest = format!("/msg/{}", sent["id"].as_str().expect("a message has an id"));
        let mut attack = JoinSet::new();
        // Few at a time: what is measured is not how fast the attacker reads.
        repeat(&mut attack, &hostile.operator, 4, &Method::GET, &rest, &Value::Null);
        attack
    })
    .await;
}

async fn post_under_key(client: &Client, path: &str, body: &Value) -> Option<Answer> {
    client.request(Method::POST, path).header("idempotency-key", "large").json(body).try_send().await.ok()
}

#[tokio::test]
async fn a_large_message_that_is_repeated_under_its_key_over_hundreds_of_connections() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let path = hostile.operator.path("/msg?with_content=false");
        let first = post_under_key(&hostile.operator.client, &path, &large_message()).await;
        assert!(first.is_some_and(|answer| answer.status == 202));
        let mut attack = JoinSet::new();
        for _ in 0..300 {
            let (client, path) = (hostile.operator.client.clone(), path.clone());
            attack.spawn(async move {
                loop {
                    let _ = post_under_key(&client, &path, &message()).await;
                    sleep(Duration::from_millis(5)).await;
                }
            });
        }
        attack
    })
    .await;
}

#[tokio::test]
async fn lines_that_trickle() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let (address, token) = (server.address(), hostile.token(server));
        let mut attack = JoinSet::new();
        for _ in 0..50 {
            let head = format!(
                "POST /api/v1/app/{}/msg/batch HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n",
                hostile.operator.id
            );
            attack.spawn(async move {
                let Some(stream) = connect_from_elsewhere(address).await else { return };
                let (mut reader, mut writer) = stream.into_split();
                let reading = tokio::spawn(async move {
                    let mut drain = [0; 4096];
                    while reader.read(&mut drain).await.is_ok_and(|count| count > 0) {}
                });
                let _ = writer.write_all(head.as_bytes()).await;
                let line = format!("{}\n", message());
                let chunk = format!("{:x}\r\n{line}\r\n", line.len());
                while writer.write_all(chunk.as_bytes()).await.is_ok() {
                    sleep(Duration::from_millis(20)).await;
                }
                reading.abort();
            });
        }
        attack
    })
    .await;
}

#[tokio::test]
async fn batches_to_many_endpoints() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let hanging = Box::leak(Box::new(Receiver::always(Reply::hang()).await));
        for number in 0..100 {
            hostile.tenant.endpoint(&hanging.at(&number.to_string())).await;
        }
        let batch = Value::from(vec![message(); 200]);
        arrives(&hostile.operator, &Method::POST, "/msg/batch", &batch, 202).await;
        let mut attack = JoinSet::new();
        repeat(&mut attack, &hostile.operator, 2, &Method::POST, "/msg/batch", &batch);
        attack
    })
    .await;
}

#[tokio::test]
async fn messages_to_many_endpoints_that_refuse_connections() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        for number in 0..1_000 {
            hostile.tenant.endpoint(&format!("http://127.0.0.1:1025/{number}")).await;
        }
        let mut attack = JoinSet::new();
        repeat(&mut attack, &hostile.operator, 1, &Method::POST, "/msg", &message());
        attack
    })
    .await;
}

#[tokio::test]
async fn large_messages_to_many_endpoints_that_hang() {
    unharmed(server(), async |server| fill_endpoints_that_hang(server, 500, 6, 1_900_000).await).await;
}

#[tokio::test]
async fn large_messages_to_many_endpoints_that_hang_beside_others_that_are_not_small() {
    unharmed_with_texts(server(), async |server| fill_endpoints_that_hang(server, 100, 2, 1_900_000).await).await;
}

#[tokio::test]
async fn small_messages_to_many_endpoints_that_hang() {
    unharmed(server(), async |server| fill_endpoints_that_hang(server, 700, 8, 15_800).await).await;
}

/// Has far more than there is memory for wait for endpoints that hang, which are looked after.
async fn fill_endpoints_that_hang(server: &TestServer, endpoints: usize, messages: usize, bytes: usize) -> JoinSet<()> {
    let hostile = Hostile::on(server).await;
    let hanging = Box::leak(Box::new(Receiver::always(Reply::hang()).await));
    for number in 0..endpoints {
        hostile.tenant.endpoint(&hanging.at(&number.to_string())).await;
    }
    let message = json!({ "eventType": "user.created", "payload": { "text": "x".repeat(bytes) } });
    for _ in 0..messages {
        hostile.operator.client.post(&hostile.operator.path("/msg"), &message).await.expect(202);
    }
    JoinSet::new()
}

#[tokio::test]
async fn bodies_of_thousands_of_members_that_are_refused() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let metadata: serde_json::Map<String, Value> =
            (0..6_400).map(|number| (number.to_string(), json!(""))).collect();
        let endpoint = json!({ "url": "https://example.com/", "metadata": metadata });
        assert!(endpoint.to_string().len() < 65_536, "what is longer is read elsewhere for that");
        arrives(&hostile.tenant, &Method::POST, "/endpoint", &endpoint, 422).await;
        let mut attack = JoinSet::new();
        repeat(&mut attack, &hostile.tenant, 100, &Method::POST, "/endpoint", &endpoint);
        attack
    })
    .await;
}

#[tokio::test]
async fn changes_of_an_application_with_many_large_endpoints() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let headers: serde_json::Map<String, Value> =
            (0..40).map(|number| (format!("x-{number}"), json!("v".repeat(380)))).collect();
        let kind = json!({ "name": "never.sent", "description": "" });
        hostile.operator.client.post("/api/v1/event-type", &kind).await.expect(201);
        let mut last = String::new();
        for number in 0..300 {
            let body = json!({ "url": format!("http://127.0.0.1:1025/{number}"), "headers": headers, "eventTypes": ["never.sent"] });
            let made = arrives(&hostile.tenant, &Method::POST, "/endpoint", &body, 201).await.json();
            last = made["id"].as_str().unwrap_or_default().to_owned();
        }
        let mut attack = JoinSet::new();
        let change = json!({ "description": "changed" });
        arrives(&hostile.tenant, &Method::PATCH, &format!("/endpoint/{last}"), &change, 200).await;
        repeat(&mut attack, &hostile.tenant, 2, &Method::PATCH, &format!("/endpoint/{last}"), &change);
        repeat(&mut attack, &hostile.operator, 2, &Method::POST, "/msg", &message());
        attack
    })
    .await;
}

#[tokio::test]
async fn keys_that_nobody_knows() {
    unharmed(server(), async |server| {
        let mut attack = JoinSet::new();
        for _ in 0..200 {
            let server = server.client_with(Some(format!("pk_{}", random::name().repeat(3))));
            attack.spawn(async move {
                loop {
                    let _ = server.request(Method::GET, "/api/v1/app").try_send().await;
                    sleep(Duration::from_millis(2)).await;
                }
            });
        }
        attack
    })
    .await;
}

#[tokio::test]
async fn thousands_of_messages_that_are_due_at_once() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let sink = sink().await;
        for number in 0..10 {
            hostile.tenant.endpoint(&sink.at(&number.to_string())).await;
        }
        let mut attack = JoinSet::new();
        let operator = hostile.operator.clone();
        attack.spawn(async move {
            loop {
                let soon = SystemClock::new().wall().saturating_add(Duration::from_secs(1)).to_string();
                let due = json!({ "eventType": "user.created", "payload": {}, "deliverAt": soon });
                let batch = Value::from(vec![due; 500]);
                let request = operator.client.request(Method::POST, &operator.path("/msg/batch")).json(&batch);
                let _ = request.try_send().await;
                sleep(Duration::from_millis(500)).await;
            }
        });
        attack
    })
    .await;
}

#[tokio::test]
async fn lists_filtered_by_hundreds_of_types() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let batch: Vec<Value> = (0..1_000)
            .map(|number| json!({ "eventType": format!("t.{}", number % 500), "payload": {}, "tags": ["all"] }))
            .collect();
        arrives(&hostile.operator, &Method::POST, "/msg/batch", &Value::from(batch), 202).await;
        let types: Vec<String> = (0..500).map(|number| format!("event_types=t.{number}")).collect();
        let path = format!("/msg?limit=250&tag=all&{}", types.join("&"));
        arrives(&hostile.tenant, &Method::GET, &path, &json!({}), 200).await;
        let mut attack = JoinSet::new();
        repeat(&mut attack, &hostile.tenant, 4, &Method::GET, &path, &json!({}));
        attack
    })
    .await;
}

#[tokio::test]
async fn applications_without_an_end() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let mut attack = JoinSet::new();
        for _ in 0..4 {
            let client = hostile.operator.client.clone();
            attack.spawn(async move {
                loop {
                    let name = json!({ "name": "a", "uid": random::name() });
                    let made = client.request(Method::POST, "/api/v1/app").json(&name).try_send().await;
                    if let Ok(made) = made
                        && let Some(id) = made.json()["id"].as_str()
                    {
                        let _ = client.request(Method::DELETE, &format!("/api/v1/app/{id}")).try_send().await;
                    }
                }
            });
        }
        attack
    })
    .await;
}

#[tokio::test]
async fn a_backlog_that_is_dropped_again_and_again() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let hanging = Box::leak(Box::new(Receiver::always(Reply::hang()).await));
        let batch = Value::from(vec![message(); 500]);
        let mut attack = JoinSet::new();
        attack.spawn(async move {
            loop {
                let endpoint = hostile.tenant.endpoint(&hanging.url()).await;
                for _ in 0..4 {
                    let path = hostile.operator.path("/msg/batch");
                    let _ = hostile.operator.client.request(Method::POST, &path).json(&batch).try_send().await;
                }
                let path = hostile.tenant.path(&format!("/endpoint/{endpoint}"));
                let _ = hostile.tenant.client.request(Method::DELETE, &path).try_send().await;
            }
        });
        attack
    })
    .await;
}

#[tokio::test]
async fn all_event_types_again_and_again() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        for number in 0..300 {
            let kind = json!({ "name": format!("t.{number}"), "description": "d".repeat(4_000) });
            hostile.operator.client.post("/api/v1/event-type", &kind).await.expect(201);
        }
        let mut attack = JoinSet::new();
        let (list, all) = ("/api/v1/event-type?limit=250&with_content=true", "/api/v1/environment/export");
        for (method, path) in [(Method::GET, list), (Method::POST, all)] {
            hostile.operator.client.request(method.clone(), path).send().await.expect(200);
            for _ in 0..3 {
                let (client, method) = (hostile.operator.client.clone(), method.clone());
                attack.spawn(async move {
                    loop {
                        let _ = client.request(method.clone(), path).try_send().await;
                        sleep(Duration::from_millis(5)).await;
                    }
                });
            }
        }
        attack
    })
    .await;
}

#[tokio::test]
async fn imports_of_thousands_of_event_types() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let body = |text: &str| {
            let kind = |number| json!({ "name": format!("kind.{number}"), "description": text });
            json!({ "eventTypes": (0..8_000).map(kind).collect::<Vec<_>>() }).to_string()
        };
        let mut attack = JoinSet::new();
        let (operator, bodies) = (hostile.operator.clone(), [body("one"), body("another")]);
        let import = operator.client.request(Method::POST, "/api/v1/environment/import");
        import.header("content-type", "application/json").body(bodies[1].clone()).send().await.expect(204);
        attack.spawn(async move {
            for body in bodies.iter().cycle() {
                let request = operator.client.request(Method::POST, "/api/v1/environment/import");
                let request = request.header("content-type", "application/json").body(body.clone());
                let _ = request.try_send().await;
            }
        });
        attack
    })
    .await;
}

#[tokio::test]
async fn event_types_with_schemas_as_large_as_they_may_be() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let schema = json!({ "type": "object", "description": "x".repeat(900_000) });
        let body = json!({ "description": "", "schemas": { "1": schema } });
        hostile.operator.client.put("/api/v1/event-type/kind.0.0", &body).await.expect(201);
        let body = body.to_string();
        let mut attack = JoinSet::new();
        for caller in 0..4 {
            let (operator, body) = (hostile.operator.clone(), body.clone());
            attack.spawn(async move {
                for number in 0.. {
                    let path = format!("/api/v1/event-type/kind.{caller}.{}", number % 50);
                    let request = operator.client.request(Method::PUT, &path);
                    let _ = request.header("content-type", "application/json").body(body.clone()).try_send().await;
                }
            });
        }
        attack
    })
    .await;
}

#[tokio::test]
async fn applications_with_all_they_have_made_and_deleted_again_and_again() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let mut attack = JoinSet::new();
        for _ in 0..2 {
            let operator = hostile.operator.clone();
            attack.spawn(async move {
                loop {
                    let app = App::create(operator.client.clone()).await;
                    for number in 0..50 {
                        let endpoint = json!({ "url": format!("http://127.0.0.1:1025/{number}") });
                        let _ =
                            app.client.request(Method::POST, &app.path("/endpoint")).json(&endpoint).try_send().await;
                    }
                    let batch = Value::from(vec![message(); 500]);
                    let _ = app.client.request(Method::POST, &app.path("/msg/batch")).json(&batch).try_send().await;
                    let _ = app.client.request(Method::DELETE, &app.path("")).try_send().await;
                }
            });
        }
        attack
    })
    .await;
}

/// Messages whose names nobody else has.
fn batch_with_own_names(batch: usize) -> Value {
    let names = |kind: &str, number: usize, count: usize| -> Vec<String> {
        (0..count).map(|name| format!("{kind}.{batch}.{number}.{name}")).collect()
    };
    let message = |number: usize| {
        json!({
            "eventType": format!("kind.{batch}.{number}"),
            "payload": {},
            "tags": names("tag", number, 10),
            "channels": names("channel", number, 5),
        })
    };
    (0..500).map(message).collect()
}

#[tokio::test]
async fn an_application_that_is_deleted_when_thousands_of_messages_with_names_failed() {
    const BATCHES: usize = 5;
    const ENDPOINTS: usize = 4;
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let (failed, mut failures) = watch::channel(0);
        let failing = Receiver::builder(move |_| {
            failed.send_modify(|count| *count += 1);
            Reply::status(500)
        });
        let failing = Box::leak(Box::new(failing.forgetful().start().await));
        for number in 0..ENDPOINTS {
            hostile.tenant.endpoint(&failing.at(&number.to_string())).await;
        }
        for batch in 0..BATCHES {
            let path = hostile.operator.path("/msg/batch");
            hostile.operator.client.post(&path, &batch_with_own_names(batch)).await.expect(202);
        }
        failures.wait_for(|count| *count >= 500 * BATCHES * ENDPOINTS).await.expect("the receiver lives on");
        let app = hostile.operator.path("");
        hostile.operator.client.request(Method::DELETE, &app).try_send().await.expect("the server answers");
        // What is left of it goes while others send.
        JoinSet::new()
    })
    .await;
}

/// A customer's endpoints, to whose filters a thousand names are given again and again.
async fn thousand_names(hostile: &Hostile, attack: &mut JoinSet<()>, status: u16) {
    let names: Vec<String> = (0..1_000).map(|number| format!("name.{number}")).collect();
    let change = json!({ "eventTypes": names });
    let mut paths = Vec::new();
    for number in 0..20 {
        let endpoint = hostile.tenant.endpoint(&format!("http://127.0.0.1:1025/{number}")).await;
        paths.push(format!("/endpoint/{endpoint}"));
    }
    arrives(&hostile.tenant, &Method::PATCH, &paths[0], &change, status).await;
    for path in paths {
        repeat(attack, &hostile.tenant, 10, &Method::PATCH, &path, &change);
    }
}

#[tokio::test]
async fn a_customers_thousand_names_over_hundreds_of_connections() {
    unharmed_with_changes(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let types: Vec<Value> =
            (0..1_000).map(|number| json!({ "name": format!("name.{number}"), "description": "" })).collect();
        let import = json!({ "eventTypes": types });
        hostile.operator.client.post("/api/v1/environment/import", &import).await.expect(204);
        let mut attack = JoinSet::new();
        thousand_names(&hostile, &mut attack, 200).await;
        attack
    })
    .await;
}

#[tokio::test]
async fn a_customers_thousand_names_that_nobody_has_defined() {
    unharmed_with_changes(server(), async |server| {
        let mut attack = JoinSet::new();
        thousand_names(&Hostile::on(server).await, &mut attack, 422).await;
        attack
    })
    .await;
}

#[tokio::test]
async fn an_operators_sessions_that_end_over_hundreds_of_connections() {
    unharmed_with_changes(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let sessions: Vec<String> = (0..120).map(|number| format!("s{number}")).collect();
        let body = json!({ "sessionIds": sessions });
        let mut attack = JoinSet::new();
        for _ in 0..20 {
            let client = hostile.operator.client.clone();
            let app = App::create(client.clone()).await;
            let path = format!("/api/v1/auth/app/{}/expire-all", app.id);
            client.post(&path, &body).await.expect(204);
            for _ in 0..20 {
                let (client, path, body) = (client.clone(), path.clone(), body.clone());
                attack.spawn(async move {
                    loop {
                        let _ = client.request(Method::POST, &path).json(&body).try_send().await;
                    }
                });
            }
        }
        attack
    })
    .await;
}

#[tokio::test]
async fn exports_that_are_too_large_again_and_again() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let schema = json!({ "1": { "type": "object", "description": "x".repeat(900_000) } });
        for number in 0..100 {
            let kind = json!({ "name": format!("t.{number}"), "description": "", "schemas": schema });
            hostile.operator.client.post("/api/v1/event-type", &kind).await.expect(201);
        }
        hostile.operator.client.request(Method::POST, "/api/v1/environment/export").send().await.expect(413);
        let mut attack = JoinSet::new();
        for _ in 0..64 {
            let client = hostile.operator.client.clone();
            attack.spawn(async move {
                loop {
                    let _ = client.request(Method::POST, "/api/v1/environment/export").try_send().await;
                    sleep(Duration::from_millis(5)).await;
                }
            });
        }
        attack
    })
    .await;
}

/// A schema, and a payload that does not match it, as is soon seen; to find what does not, the process takes longer than it may, and ends.
fn costly_mismatch() -> (Value, Value) {
    let operator = |name: &str| json!({ "properties": { "op": { "const": name }, "args": { "items": { "$ref": "#/$defs/node" } } }, "required": ["op"] });
    let node = json!({ "oneOf": [operator("and"), operator("or"), { "type": "string" }] });
    let schema = json!({ "$defs": { "node": node }, "properties": { "filter": { "$ref": "#/$defs/node" } } });
    let filter = (0..40).fold(json!(5), |inner, _| json!({ "op": "or", "args": [inner] }));
    (schema, json!({ "filter": filter }))
}

#[tokio::test]
async fn mismatches_over_which_processes_are_lost_in_two_environments() {
    unharmed_with_schema(server(), async |server| {
        let (schema, payload) = costly_mismatch();
        let kind = json!({ "name": "costly", "description": "", "schemas": { "1": schema } });
        let message = json!({ "eventType": "costly", "payload": payload });
        let mut attack = JoinSet::new();
        for _ in 0..2 {
            let hostile = Hostile::on(server).await;
            hostile.operator.client.post("/api/v1/event-type", &kind).await.expect(201);
            let settings = json!({ "schemaEnforcement": "reject" });
            hostile.operator.client.patch("/api/v1/environment/settings", &settings).await.expect(200);
            let told = arrives(&hostile.operator, &Method::POST, "/msg", &message, 422).await.json();
            assert_eq!(told["detail"][0]["loc"], json!(["body", "payload"]), "only the verdict is known: {told}");
            repeat(&mut attack, &hostile.operator, 4, &Method::POST, "/msg", &message);
        }
        attack
    })
    .await;
}
