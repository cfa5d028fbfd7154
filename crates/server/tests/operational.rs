//! Operational webhooks: an operator is told what becomes of his customers' endpoints and messages, once each.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postrider_domain::time::Timestamp;
use postrider_testkit::load::list_messages;
use postrider_testkit::{App, Received, Receiver, Reply, TestServer, TestServerBuilder, random, wait};
use serde_json::{Value, json};
use tokio::time::sleep;

const MANAGEMENT: &str = "org_00000000000SvixManagement00";

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
}

/// The operator of the test's environment: his application, and the receiver at which he is told.
struct Operator {
    app: App,
    secret: String,
    receiver: Receiver,
}

impl Operator {
    async fn of(server: &TestServer) -> Self {
        Self::of_environment(server, server.org()).await
    }

    async fn of_environment(server: &TestServer, org: &str) -> Self {
        let client = server.client_with(Some(server.sign(&json!({ "sub": MANAGEMENT }))));
        let body = json!({ "name": "operator", "uid": org });
        let made = client.post("/api/v1/app", &body).await.expect(201).json();
        let app = App { client, id: made["id"].as_str().unwrap().to_owned() };
        let receiver = Receiver::ok().await;
        let endpoint = app.endpoint(&receiver.url()).await;
        let secret = app.secret(&endpoint).await;
        Self { app, secret, receiver }
    }

    /// Waits for the first notice of this type; verifies its signature, and returns its data.
    async fn told(&self, kind: &str) -> Value {
        let find = |requests: &[Arc<Received>]| {
            let mut payloads = requests.iter().map(|request| self.verified(request));
            payloads.find(|payload| payload["type"] == kind)
        };
        self.receiver.wait_until(kind, find).await["data"].clone()
    }

    fn verified(&self, request: &Received) -> Value {
        let webhook = standardwebhooks::Webhook::new(&self.secret).unwrap();
        webhook.verify(&request.body, &request.header_map()).unwrap();
        serde_json::from_slice(&request.body).unwrap()
    }

    /// How many notices of each type were accepted about each message.
    async fn accepted(&self) -> HashMap<(String, String), usize> {
        let mut counts = HashMap::new();
        for message in list_messages(&self.app).await {
            let payload = &message["payload"];
            if let Some(id) = payload["data"]["msgId"].as_str() {
                let kind = payload["type"].as_str().unwrap().to_owned();
                *counts.entry((kind, id.to_owned())).or_default() += 1;
            }
        }
        counts
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_410_disables_the_endpoint_cancels_what_is_pending_and_tells_the_operator() {
    let server = server().set("delivery.retry_schedule", r#"["700ms"]"#).start().await;
    let (operator, app) = (Operator::of(&server).await, server.app().await);
    let receiver = Receiver::sequence([Reply::status(500), Reply::status(410), Reply::ok()]).await;
    let endpoint = app.endpoint_with(json!({ "url": receiver.url(), "uid": "main" })).await;
    let created = operator.told("endpoint.created").await;
    let want = json!({ "appId": app.id, "appUid": null, "endpointId": endpoint, "endpointUid": "main" });
    assert_eq!(created, want);

    let waiting = app.send("a", &json!({})).await;
    app.logged_attempts(&waiting, 1).await;
    let gone = app.send("a", &json!({})).await;
    let disabled = operator.told("endpoint.disabled").await;
    assert_eq!((&disabled["endpointId"], &disabled["appId"]), (&json!(endpoint), &json!(app.id)));
    Timestamp::parse(disabled["failSince"].as_str().unwrap()).unwrap();
    let path = app.path("/endpoint/main");
    assert_eq!(app.client.get(&path).await.expect(200).json()["disabled"], true);
    assert_eq!(app.attempts(&gone).await[0]["responseStatusCode"], 410);

    // Enabled again, it gets what comes from then on; the retry that was waiting is gone, and its time passes.
    app.client.patch(&path, &json!({ "disabled": false })).await.expect(200);
    operator.told("endpoint.updated").await;
    let now = &app.client.get(&app.path(&format!("/msg/{gone}"))).await.expect(200).json()["timestamp"];
    let at = Timestamp::parse(now.as_str().unwrap()).unwrap().saturating_add(Duration::from_secs(2));
    let body = json!({ "eventType": "a", "payload": {}, "deliverAt": at });
    let last = app.client.post(&app.path("/msg"), &body).await.expect(202).json()["id"].as_str().unwrap().to_owned();
    receiver.wait_for_id(&last).await;
    assert_eq!(receiver.requests().len(), 3);
    assert_eq!(app.attempts(&waiting).await.len(), 1);

    app.client.delete(&path).await.expect(204);
    assert_eq!(operator.told("endpoint.deleted").await, want);
}

/// After so long without a success an endpoint is disabled. Once twice of it has passed it is forgotten that it failed, so messages
/// come until it is disabled.
const DISABLE_AFTER: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_fails_for_too_long_is_disabled_and_says_so_in_the_api_the_log_and_to_the_operator() {
    let mut server = server().set("delivery.retry_schedule", "[]").set("delivery.disable_after", "2s").start().await;
    let (operator, app) = (Operator::of(&server).await, server.app().await);
    let bad = Receiver::always(Reply::status(500)).await;
    let count = AtomicUsize::new(0);
    let moody = Receiver::answering(move |_| match count.fetch_add(1, Ordering::Relaxed) % 2 {
        0 => Reply::status(500),
        _ => Reply::ok(),
    })
    .await;
    let endpoint = app.endpoint(&bad.url()).await;
    let other = app.endpoint(&moody.url()).await;
    let (path, other) = (app.path(&format!("/endpoint/{endpoint}")), app.path(&format!("/endpoint/{other}")));
    let instant = |text: &Value| Timestamp::parse(text.as_str().unwrap()).unwrap();

    let mut first = None;
    let shown = wait::until("an endpoint that is disabled", async || {
        let message = app.send("a", &json!({})).await;
        let attempts = app.logged_attempts(&message, 1).await;
        first.get_or_insert_with(|| instant(&attempts[0]["timestamp"]));
        let shown = app.client.get(&path).await.expect(200).json();
        (shown["disabled"] == true).then_some(shown)
    })
    .await;
    assert_eq!(shown["disabledReason"], "failing");
    let since = instant(&shown["disabledSince"]);
    assert!(since.since(first.unwrap()) > DISABLE_AFTER, "too early: {shown}, the first attempt at {first:?}");
    let line = server.logged("an endpoint was disabled").await;
    assert!(line.contains("WARN") && line.contains(&endpoint) && line.contains("failing"), "{line}");
    let told = operator.told("endpoint.disabled").await;
    assert_eq!((&told["endpointId"], &told["appId"]), (&json!(endpoint), &json!(app.id)));
    assert!(since.since(instant(&told["failSince"])) > DISABLE_AFTER, "{told} {shown}");
    let unharmed = app.client.get(&other).await.expect(200).json();
    assert_eq!((&unharmed["disabled"], &unharmed["disabledReason"]), (&json!(false), &Value::Null));

    // So it stays, and gets nothing, until somebody enables it; then it has all of that time again.
    server.terminate().await;
    server.start().await;
    let after = app.client.get(&path).await.expect(200).json();
    assert_eq!(
        (&after["disabledReason"], &after["disabledSince"]),
        (&shown["disabledReason"], &shown["disabledSince"])
    );
    let had = bad.requests().len();
    let missed = app.send("a", &json!({})).await;
    moody.wait_for_id(&missed).await;
    app.client.patch(&path, &json!({ "disabled": false })).await.expect(200);
    let next = app.send("a", &json!({})).await;
    bad.wait_for_id(&next).await;
    app.logged_attempts(&next, 2).await;
    assert_eq!(bad.requests().len(), had + 1);
    assert_eq!(app.client.get(&path).await.expect(200).json()["disabled"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_reported_as_failing_and_then_as_recovered_or_exhausted() {
    let server = server().set("delivery.retry_schedule", r#"["1ms","1ms","1ms","1ms"]"#).start().await;
    let (operator, app) = (Operator::of(&server).await, server.app().await);
    let bad = Receiver::always(Reply::status(500)).await;
    let better =
        Receiver::sequence([[500; 4].as_slice(), &[204]].concat().into_iter().map(Reply::status).collect::<Vec<_>>())
            .await;
    let endpoints = [app.endpoint(&bad.url()).await, app.endpoint(&better.url()).await];
    let body = json!({ "eventType": "a", "payload": {}, "eventId": "order-1" });
    let message = app.client.post(&app.path("/msg"), &body).await.expect(202).json()["id"].clone();
    for (kind, endpoint, number, status) in
        [("message.attempt.exhausted", &endpoints[0], 4, 500), ("message.attempt.recovered", &endpoints[1], 4, 204)]
    {
        let data = operator.told(kind).await;
        let path = app.path(&format!("/attempt/endpoint/{endpoint}"));
        let attempts = app.client.get(&path).await.expect(200).json()["data"].as_array().unwrap().clone();
        let attempt = &attempts[attempts.len() - 1 - number];
        let last = json!({ "id": attempt["id"], "responseStatusCode": status, "timestamp": attempt["timestamp"] });
        let want = json!({
            "appId": app.id, "appUid": null, "msgId": message, "msgEventId": "order-1", "endpointId": endpoint,
            "lastAttempt": last,
        });
        assert_eq!(data, want);
    }
    let id = message.as_str().unwrap().to_owned();
    let counts =
        wait::until("all notices", async || Some(operator.accepted().await).filter(|counts| counts.len() == 3)).await;
    assert_eq!(counts[&("message.attempt.failing".to_owned(), id)], 2, "once for each endpoint: {counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_it_tells_of_each_message_exactly_once() {
    let mut server = server().set("delivery.retry_schedule", "[]").start().await;
    let (operator, app) = (Operator::of(&server).await, server.app().await);
    let bad = Receiver::always(Reply::status(500)).await;
    app.endpoint(&bad.url()).await;
    let mut messages = Vec::new();
    for _ in 0..4 {
        for _ in 0..40 {
            messages.push(app.send("a", &json!({})).await);
        }
        sleep(random::duration(Duration::ZERO, Duration::from_millis(60))).await;
        server.kill().await;
        server.start().await;
    }
    for message in &messages {
        app.logged_attempts(message, 1).await;
    }
    let counts = wait::until("all notices", async || {
        Some(operator.accepted().await).filter(|counts| counts.len() == messages.len())
    })
    .await;
    for message in messages {
        let count = counts.get(&("message.attempt.exhausted".to_owned(), message.clone()));
        assert_eq!(count, Some(&1), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_who_can_not_be_told_keeps_no_other_from_being_told() {
    const OTHER: &str = "org_of_somebody_else";
    let mut server = server().start().await;
    let (operator, other) = (Operator::of(&server).await, Operator::of_environment(&server, OTHER).await);
    server.terminate().await;
    let database = rusqlite::Connection::open(server.store_path()).unwrap();
    // An id with a byte too many: nothing can be sent to that application.
    let longer = format!("UPDATE application SET id = CAST(id || x'00' AS BLOB) WHERE uid = '{OTHER}'");
    assert_eq!(database.execute(&longer, []).unwrap(), 1);
    // More than are sent at a time.
    let waiting = format!(
        r#"WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 300)
         INSERT INTO outbox (recipient, event_type, payload)
         SELECT '{OTHER}', 'endpoint.updated', CAST('{{"type":"endpoint.updated","data":{{}}}}' AS BLOB) FROM n"#
    );
    assert_eq!(database.execute(&waiting, []).unwrap(), 300);
    drop(database);
    server.start().await;
    server.logged("failed to send operational webhooks to an operator").await;
    let app = server.app().await;
    let receiver = Receiver::ok().await;
    let endpoint = app.endpoint(&receiver.url()).await;
    assert_eq!(operator.told("endpoint.created").await["endpointId"], json!(endpoint));

    // And he is told when he can be.
    server.terminate().await;
    let database = rusqlite::Connection::open(server.store_path()).unwrap();
    let again = format!("UPDATE application SET id = substr(id, 1, 20) WHERE uid = '{OTHER}'");
    assert_eq!(database.execute(&again, []).unwrap(), 1);
    // What the other one was told may not be removed yet.
    let left = format!("SELECT count(*) FROM outbox WHERE recipient = '{OTHER}'");
    assert_eq!(database.query_row(&left, [], |row| row.get::<_, i64>(0)).unwrap(), 300);
    drop(database);
    server.start().await;
    other.receiver.wait_for(300).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_of_whom_many_notices_wait_keeps_no_other_waiting() {
    const MANY: i64 = 9_000;
    const OTHER: &str = "org_of_somebody_else";
    let mut server = server().start().await;
    let (operator, _other) = (Operator::of(&server).await, Operator::of_environment(&server, OTHER).await);
    server.terminate().await;
    let database = rusqlite::Connection::open(server.store_path()).unwrap();
    let add = |recipient: &str, count: i64| {
        let waiting = r#"WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < ?2)
             INSERT INTO outbox (recipient, event_type, payload)
             SELECT ?1, 'endpoint.updated', CAST('{"type":"endpoint.updated","data":{}}' AS BLOB) FROM n"#;
        database.execute(waiting, rusqlite::params![recipient, count]).unwrap();
    };
    add(OTHER, MANY);
    add(server.org(), 1);
    server.start().await;
    operator.told("endpoint.updated").await;
    server.terminate().await;
    let left: i64 = database.query_row("SELECT count(*) FROM outbox", [], |row| row.get(0)).unwrap();
    assert!(left > MANY / 2, "{left} of {MANY} are left");
}
