//! Schemas and payloads that would take for ever: whoever uses them is told, and nobody else notices.

use postrider_testkit::{App, Client, Receiver, TestServer, TestServerBuilder, wait};
use serde_json::{Map, Value, json};

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
}

/// What an attacker has: an environment that enforces schemas.
async fn enforcing(server: &TestServer, how: &str) -> App {
    let app = server.app().await;
    app.client.patch("/api/v1/environment/settings", &json!({ "schemaEnforcement": how })).await.expect(200);
    app
}

/// Another environment of the same server.
async fn neighbour(server: &TestServer) -> App {
    let org = format!("org_{}", postrider_testkit::random::name());
    let token = server.sign(&postrider_testkit::token::environment_claims(&org));
    App::create(server.client_with(Some(token))).await
}

async fn make(app: &App, name: &str, schema: &Value) -> postrider_testkit::Answer {
    let body = json!({ "name": name, "description": "", "schemas": { "1": schema } });
    app.client.post("/api/v1/event-type", &body).await
}

async fn send(app: &App, event_type: &str, payload: &str) -> postrider_testkit::Answer {
    let body = format!(r#"{{"eventType":"{event_type}","payload":{payload}}}"#);
    app.client
        .request(http::Method::POST, &app.path("/msg"))
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await
}

/// Does health and deliveries for a neighbour until the attack has ended.
async fn undisturbed<T>(server: &TestServer, attack: impl Future<Output = T>) -> T {
    let (receiver, healthy) = (Receiver::ok().await, neighbour(server).await);
    healthy.endpoint(&receiver.url()).await;
    tokio::pin!(attack);
    let mut sent = 0;
    loop {
        let round = async {
            server.client_with(None).get("/api/v1/health").await.expect(204);
            let message = healthy.send("a", &json!({ "n": 1 })).await;
            receiver.wait_for_id(&message).await;
        };
        tokio::pin!(round);
        tokio::select! {
            biased;
            () = &mut round => sent += 1,
            result = &mut attack => {
                round.await;
                return result;
            }
        }
        assert!(sent < 100_000, "the attack never ends");
    }
}

fn levels(keyword: &str, leaf: &Value) -> Value {
    let mut definitions = Map::new();
    for level in 0..30 {
        let next = json!({ "$ref": format!("#/definitions/a{}", level + 1) });
        definitions.insert(format!("a{level}"), json!({ keyword: [next, next] }));
    }
    definitions.insert("a30".to_owned(), leaf.clone());
    json!({ "$ref": "#/definitions/a0", "definitions": definitions })
}

/// The same by names, which only trying it out shows.
fn named_levels(keyword: &str, leaf: &Value) -> Value {
    let mut definitions = Map::new();
    for level in 0..30 {
        let next = json!({ "$ref": format!("#a{}", level + 1) });
        definitions.insert(format!("a{level}"), json!({ "$anchor": format!("a{level}"), keyword: [next, next] }));
    }
    definitions.insert("a30".to_owned(), json!({ "$anchor": "a30", "allOf": [leaf] }));
    let draft = "https://json-schema.org/draft/2020-12/schema";
    json!({ "$schema": draft, "$ref": "#a0", "$defs": definitions })
}

fn patterns(count: usize) -> Value {
    let patterns: Vec<_> = (0..count).map(|n| json!({ "pattern": format!("\\w{{60}}{n}") })).collect();
    json!({ "anyOf": patterns })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_nobody_could_use_is_refused_while_others_are_served() {
    let server = server().start().await;
    let app = enforcing(&server, "reject").await;
    let schemas = [
        levels("anyOf", &json!({ "type": "string" })),
        levels("oneOf", &json!({ "type": "string" })),
        levels("allOf", &json!({})),
        named_levels("oneOf", &json!({ "type": "string" })),
        patterns(30_000),
    ];
    for schema in &schemas {
        let refused = undisturbed(&server, make(&app, "a", schema)).await;
        let shown = schema.to_string();
        assert_eq!(refused.status, 422, "{}", &shown[..80]);
        assert_eq!(refused.json()["detail"][0]["loc"], json!(["body", "schemas", "1"]), "{}", refused.text());
    }
}

/// Schemas that are harmless to look at, each with a payload that is not.
fn harmless() -> Vec<(&'static str, Value, String)> {
    let node = json!({ "oneOf": [
        { "properties": { "op": { "const": "and" }, "args": { "items": { "$ref": "#/$defs/node" } } }, "required": ["op"] },
        { "properties": { "op": { "const": "or" }, "args": { "items": { "$ref": "#/$defs/node" } } }, "required": ["op"] },
        { "type": "string" },
    ] });
    let filter = json!({ "$defs": { "node": node }, "properties": { "filter": { "$ref": "#/$defs/node" } } });
    let mut nested = "5".to_owned();
    for _ in 0..40 {
        nested = format!(r#"{{"op":"or","args":[{nested}]}}"#);
    }
    let deep = |depth: usize| format!("{}5{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    let by = |keyword: &str| {
        let next = json!({ "properties": { "a": { "$ref": "#" } }, "type": "object" });
        json!({ keyword: [next, next] })
    };
    let draft = "https://json-schema.org/draft/2020-12/schema";
    let dynamic = json!({ "properties": { "a": { "$dynamicRef": "#x" } }, "type": "object" });
    let many: Vec<_> = (0..5_000).rev().map(|n| json!({ "minimum": n })).collect();
    let product = json!({ "properties": { "a": { "items": { "anyOf": many } } } });
    let wide: Vec<_> = (0..12_000).map(|n| format!(r#"{{"n":{n},"m":[{n}]}}"#)).collect();
    let unevaluated = json!({ "properties": { "a": { "$ref": "#" } }, "type": "object" });
    vec![
        ("product", product, format!(r#"{{"a":[{}]}}"#, vec!["0"; 100_000].join(","))),
        ("filter", filter, format!(r#"{{"filter":{nested}}}"#)),
        ("any", by("anyOf"), deep(60)),
        ("one", by("oneOf"), deep(60)),
        ("all", by("allOf"), deep(60)),
        ("dynamic", json!({ "$schema": draft, "$dynamicAnchor": "x", "anyOf": [dynamic, dynamic] }), deep(60)),
        (
            "unique",
            json!({ "properties": { "a": { "uniqueItems": true } } }),
            format!(r#"{{"a":[{}]}}"#, wide.join(",")),
        ),
        (
            "unevaluated",
            json!({ "$schema": draft, "anyOf": [unevaluated, unevaluated], "unevaluatedProperties": false }),
            deep(60),
        ),
        ("multiple", json!({ "properties": { "a": { "multipleOf": 1e-300 } } }), r#"{"a":1e300}"#.to_owned()),
        ("endless", json!({ "allOf": [{ "$ref": "#" }] }), deep(60)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_would_take_for_ever_is_refused_or_passes_with_a_warning_while_others_are_served() {
    let server = server().start().await;
    let app = enforcing(&server, "reject").await;
    let cases = harmless();
    for (name, schema, _) in &cases {
        let made = make(&app, name, schema).await;
        assert!(made.status == 201 || *name == "endless", "{name}: {}", made.text());
    }
    for (name, _, payload) in &cases {
        let answer = undisturbed(&server, send(&app, name, payload)).await;
        assert!(answer.status == 202 || answer.status == 422, "{name}: {}", answer.text());
    }
    // Nothing but the verdict is known of the nested filter, and nothing at all of this one.
    let told = send(&app, "filter", &cases[1].2).await.expect(422).json();
    assert_eq!(told["detail"][0]["type"], "schema_violation", "{told}");
    let told = send(&app, "product", &cases[0].2).await.expect(422).json();
    assert_eq!(told["detail"][0]["type"], "schema_too_costly", "{told}");
    app.client.patch("/api/v1/environment/settings", &json!({ "schemaEnforcement": "warn" })).await.expect(200);
    let warned = send(&app, "product", &cases[0].2).await.expect(202).json();
    assert_eq!(warned["warnings"][0]["type"], "schema_too_costly", "{warned}");
    // Right payloads pass by the same schemas.
    send(&app, "filter", r#"{"filter":{"op":"or","args":["x"]}}"#).await.expect(202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_compared_passes_if_a_setting_says_so() {
    let server = server().set("schemas.beyond_budget", "pass").set("schemas.time", "50ms").start().await;
    let app = enforcing(&server, "reject").await;
    let cases = harmless();
    make(&app, "product", &cases[0].1).await.expect(201);
    let passed = send(&app, "product", &cases[0].2).await.expect(202).json();
    assert_eq!(passed["warnings"][0]["type"], "schema_too_costly");
    send(&app, "product", "{}").await.expect(202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn costly_payloads_of_one_environment_do_not_hold_up_schemas_of_another() {
    let server = server().start().await;
    let (app, other) = (enforcing(&server, "reject").await, neighbour(&server).await);
    other.client.patch("/api/v1/environment/settings", &json!({ "schemaEnforcement": "reject" })).await.expect(200);
    make(&other, "a", &json!({ "required": ["id"] })).await.expect(201);
    let cases = harmless();
    make(&app, "product", &cases[0].1).await.expect(201);
    let attack = async {
        let many = (0..40).map(|_| send(&app, "product", &cases[0].2));
        futures_util::future::join_all(many).await
    };
    let honest = async {
        for _ in 0..10 {
            send(&other, "a", r#"{"id":1}"#).await.expect(202);
            send(&other, "a", "{}").await.expect(422);
        }
    };
    tokio::pin!(attack);
    tokio::select! {
        () = honest => {}
        _ = &mut attack => panic!("the attack ended before"),
    }
    for answer in attack.await {
        assert!([422, 503].contains(&answer.status), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_costly_payload_does_not_hide_what_is_wrong_with_others() {
    let server = server().start().await;
    let app = enforcing(&server, "reject").await;
    let cases = harmless();
    make(&app, "filter", &cases[1].1).await.expect(201);
    let costly = send(&app, "filter", &cases[1].2).await.expect(422).json();
    assert_eq!(costly["detail"][0]["loc"], json!(["body", "payload"]), "only that it does not match: {costly}");
    let told = send(&app, "filter", r#"{"filter":5}"#).await.expect(422).json();
    assert_eq!(told["detail"][0]["loc"], json!(["body", "payload", "filter"]), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_the_host_ends_is_trouble_of_the_server_and_not_of_the_payload() {
    let server = server().set("schemas.time", "1m").start().await;
    let app = enforcing(&server, "reject").await;
    let cases = harmless();
    make(&app, "product", &cases[0].1).await.expect(201);
    let short_of_memory = async {
        loop {
            for process in server.children() {
                // It may have ended by itself.
                let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let refused = tokio::select! {
        answer = send(&app, "product", &cases[0].2) => answer.expect(503),
        () = short_of_memory => unreachable!("it goes on"),
    };
    assert_eq!(refused.headers["retry-after"], "1", "{}", refused.text());
    server.logged("there is no process that compares payloads with schemas").await;
    // Nothing of it stays.
    send(&app, "product", "{}").await.expect(202);
}

#[tokio::test]
async fn processes_that_compare_stand_back_behind_the_server() {
    /// How far, and the most that the system knows.
    const NICE: i32 = 5;
    const MOST: i32 = 19;
    let server = server().start().await;
    let app = enforcing(&server, "reject").await;
    make(&app, "a", &json!({ "required": ["id"] })).await.expect(201);
    send(&app, "a", r#"{"id":1}"#).await.expect(202);
    let nice = |process| rustix::process::getpriority_process(process).expect("it lives");
    // The server is as this test is.
    let expected = (nice(None) + NICE).min(MOST);
    let of_children: Vec<_> = server.children().into_iter().map(|child| nice(Some(child))).collect();
    assert!(!of_children.is_empty() && of_children.iter().all(|nice| *nice == expected), "{of_children:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_nobody_needs_end() {
    let server = server().set("schemas.idle", "5s").start().await;
    let app = enforcing(&server, "reject").await;
    assert_eq!(server.children().len(), 0);
    let started = wait::until("a process", async || (!server.children().is_empty()).then_some(()));
    let schema = json!({ "required": ["id"] });
    let (made, ()) = tokio::join!(make(&app, "a", &schema), started);
    made.expect(201);
    wait::until("no process", async || server.children().is_empty().then_some(())).await;
    send(&app, "a", r#"{"id":1}"#).await.expect(202);
    send(&app, "a", "{}").await.expect(422);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_that_a_float_or_a_text_cannot_hold_is_compared_all_the_same() {
    let server = server().start().await;
    let app = enforcing(&server, "reject").await;
    let schema = json!({ "properties": { "name": { "type": "string" }, "n": { "type": "number", "minimum": 0 } } });
    make(&app, "a", &schema).await.expect(201);
    for good in [r#"{"name":"\ud800","n":1e400}"#, r#"{"n":0}"#] {
        send(&app, "a", good).await.expect(202);
    }
    let told = send(&app, "a", r#"{"name":1e400,"n":-1e400,"x":"\udc00"}"#).await.expect(422).json();
    let mut places: Vec<_> = told["detail"].as_array().unwrap().iter().map(|one| one["loc"][2].clone()).collect();
    places.sort_by_key(ToString::to_string);
    assert_eq!(places, ["n", "name"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_multiplies_is_refused_with_its_bound_while_others_are_served() {
    let server = server().start().await;
    let client: Client = server.client();
    let example = json!({ "$ref": "#/components/examples/b" });
    let examples: Map<_, _> = (0..5_000).map(|n| (n.to_string(), example.clone())).collect();
    let content = json!({ "application/json": { "examples": examples } });
    let large = json!({ "value": "x".repeat(900_000) });
    let spec = json!({
        "openapi": "3.1.0",
        "webhooks": { "a": { "post": { "requestBody": { "content": content } } } },
        "components": { "examples": { "b": large } },
    });
    for body in [json!({ "spec": spec }), json!({ "specRaw": spec.to_string(), "dryRun": true })] {
        let import = client.post("/api/v1/event-type/import/openapi", &body);
        let refused = undisturbed(&server, import).await.expect(422);
        assert!(refused.text().contains("references are followed"), "{}", refused.text());
    }
    assert!(server.memory_bytes() < 500_000_000, "{} bytes", server.memory_bytes());
}
