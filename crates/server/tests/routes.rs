//! Where an application's messages go: whatever its customer's token makes of its endpoints, messages are accepted, go where
//! they should, and what is remembered of it stays within its memory.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::Method;
use postrider_testkit::{Answer, App, Receiver, Reply, TestServer};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const MIB: u64 = 1024 * 1024;

/// An application with `count` endpoints that ask for a thousand event types by name, of so many characters, and none of which
/// is `wanted`.
async fn with_endpoints(count: u64, characters: usize) -> (TestServer, App, String) {
    let mut server = TestServer::builder(env!("CARGO_BIN_EXE_postrider")).start().await;
    let app = server.app().await;
    let endpoint = app.endpoint("https://example.com/").await;
    app.client.post("/api/v1/event-type", &json!({ "name": "wanted", "description": "" })).await.expect(201);
    server.terminate().await;
    let connection = rusqlite::Connection::open(server.store_path()).unwrap();
    let names: Vec<String> = (0..1_000).map(|place| format!("t{place:0>width$}", width = characters - 1)).collect();
    connection.execute("UPDATE endpoint SET event_types = ?", [json!(names).to_string()]).unwrap();
    let columns = "application_no, url, description, version, disabled, event_types, metadata, headers, signing_keys,
         created_at, updated_at";
    let copy = format!(
        "WITH RECURSIVE more(number) AS (SELECT 2 UNION ALL SELECT number + 1 FROM more WHERE number < {count})
         INSERT INTO endpoint (id, {columns}) SELECT randomblob(20), {columns} FROM more CROSS JOIN endpoint"
    );
    assert_eq!(connection.execute(&copy, []).unwrap() as u64, count - 1);
    drop(connection);
    server.start().await;
    (server, app, endpoint)
}

/// Tokens of the application's customer that change an endpoint without a pause, until they are told to stop; then they say how
/// many changes were made.
struct Changers {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Changers {
    fn start(server: &TestServer, app: &App, endpoint: &str, change: fn(u64) -> Value) -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..2)
            .map(|_| {
                let customer = server.client_with(Some(server.application_token(&app.id)));
                let (path, stop, made) = (app.path(&format!("/endpoint/{endpoint}")), stop.clone(), made.clone());
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let number = made.fetch_add(1, Ordering::Relaxed);
                        customer.patch(&path, &change(number)).await.expect(200);
                    }
                })
            })
            .collect();
        Self { stop, made, tasks }
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.made.load(Ordering::Relaxed)
    }
}

async fn send(app: &App) -> Answer {
    let message = json!({ "eventType": "wanted", "payload": {} });
    app.client.request(Method::POST, &app.path("/msg")).json(&message).send().await
}

fn matched(answer: &Answer) -> u64 {
    answer.headers["postrider-matched-endpoints"].to_str().unwrap().parse().unwrap()
}

/// Sends while others change an endpoint. Each message goes as the change says that was answered before it.
async fn messages_are_accepted_while_a_token_changes(change: fn(u64) -> Value) {
    let receiver = Receiver::always(Reply::ok()).await;
    let (server, app, endpoint) = with_endpoints(200, 20).await;
    let hears = json!({ "url": receiver.at("x"), "filterTypes": ["wanted"] });
    let toggled = app.path(&format!("/endpoint/{}", app.endpoint_with(hears).await));
    let changers = Changers::start(&server, &app, &endpoint, change);
    for round in 0..16 {
        let disabled = round % 2 == 1;
        app.client.patch(&toggled, &json!({ "disabled": disabled })).await.expect(200);
        for _ in 0..2 {
            let answer = send(&app).await;
            assert_eq!(answer.status, 202, "{}", answer.text());
            assert_eq!(matched(&answer), u64::from(!disabled), "in round {round}");
        }
    }
    let batch: Vec<Value> = (0..10).map(|_| json!({ "eventType": "wanted", "payload": {} })).collect();
    let sent = app.client.post(&app.path("/msg/batch"), &json!(batch)).await;
    assert!(sent.status < 300 && !sent.text().contains("unavailable"), "{} {}", sent.status, sent.text());
    app.client.patch(&toggled, &json!({ "disabled": false })).await.expect(200);
    let last = app.send("wanted", &json!({})).await;
    assert!(changers.stop().await > 20);
    receiver.wait_for_id(&last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_descriptions_without_a_pause_keep_no_message_from_being_accepted() {
    messages_are_accepted_while_a_token_changes(|number| json!({ "description": number.to_string() })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_urls_without_a_pause_keep_no_message_from_being_accepted() {
    messages_are_accepted_while_a_token_changes(|number| json!({ "url": format!("https://example.com/{number}") }))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_names_of_event_types_take_no_more_memory_than_is_there_for_routes() {
    let (server, app, endpoint) = with_endpoints(400, 240).await;
    send(&server.app().await).await.expect(202);
    let before = server.memory_bytes();
    for number in 0..4 {
        send(&app).await.expect(202);
        let url = format!("https://example.com/{number}");
        app.client.patch(&app.path(&format!("/endpoint/{endpoint}")), &json!({ "url": url })).await.expect(200);
    }
    let more = server.peak_memory_bytes().saturating_sub(before);
    assert!(more < 64 * MIB, "{} MiB", more / MIB);
}
