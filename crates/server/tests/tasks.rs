//! Background tasks in a real process: they do what they say, and a crash neither repeats nor skips any of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use postrider_testkit::load::list_attempts;
use postrider_testkit::{App, Receiver, Reply, TestServer, TestServerBuilder, random, wait};
use serde_json::{Value, json};
use tokio::time::sleep;

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider")).set("delivery.retry_schedule", "[]")
}

/// A receiver that fails until it is told to mend.
async fn broken() -> (Receiver, Arc<AtomicBool>) {
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = Arc::clone(&mended);
    let answer = move |_: &_| if is_mended.load(Ordering::SeqCst) { Reply::ok() } else { Reply::status(500) };
    (Receiver::answering(answer).await, mended)
}

async fn send_many(app: &App, count: usize) -> Vec<String> {
    let mut messages = Vec::new();
    while messages.len() < count {
        let bodies: Vec<Value> = (0..16).map(|n| json!({ "n": n })).collect();
        messages.extend(join_all(bodies.iter().map(|body| app.send("a", body))).await);
    }
    messages
}

/// Waits until an endpoint has so many attempts, and returns them.
async fn attempted(app: &App, endpoint: &str, count: usize) -> Vec<Value> {
    wait::until("all attempts", async || Some(list_attempts(app, endpoint).await).filter(|all| all.len() >= count))
        .await
}

async fn start(app: &App, endpoint: &str, what: &str) -> Value {
    let path = app.path(&format!("/endpoint/{endpoint}/{what}"));
    app.client.post(&path, &json!({ "since": since(app).await })).await.expect(202).json()
}

/// The time of the application's first message.
async fn since(app: &App) -> Value {
    app.client.get(&format!("/api/v1/app/{}", app.id)).await.expect(200).json()["createdAt"].clone()
}

async fn finished(app: &App, task: &Value) -> Value {
    let path = format!("/api/v1/background-task/{}", task["id"].as_str().unwrap());
    wait::until("the end of the task", async || {
        Some(app.client.get(&path).await.expect(200).json()).filter(|task| task["status"] != "running")
    })
    .await
}

fn manual(attempts: &[Value]) -> Vec<&str> {
    let manual = attempts.iter().filter(|attempt| attempt["triggerType"] == 1);
    manual.map(|attempt| attempt["msgId"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recover_makes_exactly_one_more_attempt_for_each_failed_message() {
    let server = server().start().await;
    let (app, (receiver, mended)) = (server.app().await, broken().await);
    let endpoint = app.endpoint(&receiver.url()).await;
    let messages = send_many(&app, 16).await;
    attempted(&app, &endpoint, messages.len()).await;
    mended.store(true, Ordering::SeqCst);
    app.send("a", &json!({})).await;
    attempted(&app, &endpoint, messages.len() + 1).await;

    let task = start(&app, &endpoint, "recover").await;
    let shown = finished(&app, &task).await;
    assert_eq!((&shown["status"], &shown["data"]), (&json!("finished"), &json!({ "messages": messages.len() })));
    let attempts = attempted(&app, &endpoint, 2 * messages.len() + 1).await;
    assert_eq!(attempts.len(), 2 * messages.len() + 1);
    let recovered: HashSet<&str> = manual(&attempts).into_iter().collect();
    assert_eq!(recovered, messages.iter().map(String::as_str).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_it_recovers_each_message_once() {
    let mut server = server().start().await;
    let (app, (receiver, mended)) = (server.app().await, broken().await);
    let endpoint = app.endpoint(&receiver.url()).await;
    // More than one step.
    let messages = send_many(&app, 1_200).await;
    attempted(&app, &endpoint, messages.len()).await;
    mended.store(true, Ordering::SeqCst);
    let task = start(&app, &endpoint, "recover").await;
    for _ in 0..4 {
        sleep(random::duration(Duration::ZERO, Duration::from_millis(30))).await;
        server.kill().await;
        server.start().await;
    }
    let shown = finished(&app, &task).await;
    assert_eq!((&shown["status"], &shown["data"]), (&json!("finished"), &json!({ "messages": messages.len() })));
    let attempts = attempted(&app, &endpoint, 2 * messages.len()).await;
    let manual = manual(&attempts);
    let distinct: HashSet<&str> = manual.iter().copied().collect();
    assert_eq!((manual.len(), distinct.len()), (messages.len(), messages.len()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_endpoint_gets_what_was_sent_before_it_was_there() {
    let server = server().set("delivery.retry_schedule", r#"["1ms"]"#).start().await;
    let app = server.app().await;
    let messages = send_many(&app, 16).await;
    let receiver = Receiver::sequence([Reply::status(500), Reply::ok()]).await;
    let endpoint = app.endpoint(&receiver.url()).await;
    for _ in 0..2 {
        let task = start(&app, &endpoint, "replay-missing").await;
        finished(&app, &task).await;
    }
    for message in &messages {
        receiver.wait_for_id(message).await;
    }
    let attempts = attempted(&app, &endpoint, messages.len() + 1).await;
    assert_eq!(attempts.len(), messages.len() + 1, "one failed, and was tried again");
    assert_eq!(manual(&attempts).len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_erased_meanwhile_is_not_delivered() {
    let server = server().start().await;
    let (app, receiver) = (server.app().await, Receiver::ok().await);
    app.endpoint(&receiver.url()).await;
    app.send("a", &json!({})).await;
    let first = receiver.wait_for(1).await;
    let now = Duration::from_secs(first[0].timestamp().unsigned_abs());
    let at = |seconds: u64| postrider_domain::time::Timestamp::EPOCH.saturating_add(now + Duration::from_secs(seconds));
    let put_off = async |seconds| {
        let body = json!({ "eventType": "a", "payload": {}, "deliverAt": at(seconds) });
        let made = app.client.post(&app.path("/msg"), &body).await.expect(202).json();
        made["id"].as_str().unwrap().to_owned()
    };
    let erased = put_off(3).await;
    let task = app.client.post(&app.path("/msg/expunge-all-contents"), &Value::Null).await.expect(202).json();
    assert_eq!(finished(&app, &task).await["data"], json!({ "messages": 2 }));
    let kept = put_off(4).await;
    receiver.wait_for_id(&kept).await;
    assert!(receiver.requests().iter().all(|request| request.id() != Some(&erased)));
    assert_eq!(app.attempts(&erased).await.len(), 0);
}

/// Changes the database while the server does not run.
async fn changed(server: &mut TestServer, sql: &str) {
    server.terminate().await;
    let changed = rusqlite::Connection::open(server.store_path()).unwrap().execute(sql, []).unwrap();
    assert!(changed > 0, "{sql}");
    server.start().await;
}

/// An application of another environment with an endpoint at which a message has failed.
async fn stranger(server: &TestServer, receiver: &Receiver) -> (App, String) {
    let client = server.client_with(Some(server.sign(&json!({ "sub": "org_of_a_stranger" }))));
    let app = App::create(client).await;
    let endpoint = app.endpoint(&receiver.url()).await;
    app.send("a", &json!({})).await;
    attempted(&app, &endpoint, 1).await;
    (app, endpoint)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_replays_of_one_tenant_keep_no_other_environment_from_recovering() {
    let server = server().start().await;
    let (app, receiver, (failing, _)) = (server.app().await, Receiver::ok().await, broken().await);
    let endpoint = app.endpoint(&receiver.url()).await;
    let messages = send_many(&app, 48).await;
    attempted(&app, &endpoint, messages.len()).await;
    let (other, others) = stranger(&server, &failing).await;

    let (path, body) = (app.path(&format!("/endpoint/{endpoint}/bulk-replay")), json!({ "since": since(&app).await }));
    let mut started = Vec::new();
    for _ in 0..10 {
        for answer in join_all((0..50).map(|_| app.client.post(&path, &body))).await {
            match answer.status {
                202 => started.push(answer.json()),
                409 => {}
                _ => assert!(answer.expect(429).headers.contains_key("retry-after")),
            }
        }
    }
    let task = start(&other, &others, "recover").await;
    assert_eq!(finished(&other, &task).await["data"], json!({ "messages": 1 }));
    assert!(!started.is_empty());
    for task in started {
        assert_eq!(finished(&app, &task).await["status"], "finished");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_can_not_go_on_is_given_up_with_its_error_and_one_that_fails_keeps_no_other_waiting() {
    let mut server = server().start().await;
    let (failing, _) = broken().await;
    let app = server.app().await;
    let usage = async || app.client.put("/api/v1/stats/usage/event-types", &Value::Null).await.expect(202).json();
    let hopeless = usage().await;
    finished(&app, &hopeless).await;
    let purge = app.client.post(&app.path("/msg/expunge-all-contents"), &Value::Null).await.expect(202).json();
    finished(&app, &purge).await;
    // No step of the one can be read, and none of the other can be written: its number grows too large.
    changed(
        &mut server,
        "UPDATE task SET status = 'running', cursor = NULL,
             parameters = CASE kind WHEN 'application.purge_content'
                 THEN json_object('application_no', (SELECT min(no) FROM application), 'since', 0, 'until', 0) ELSE '{' END,
             step = CASE kind WHEN 'application.purge_content' THEN 9223372036854775807 ELSE step END",
    )
    .await;
    let given_up = finished(&app, &hopeless).await;
    assert_eq!(given_up["status"], "failed");
    let error = given_up["data"]["error"].as_str().unwrap();
    assert!(error.contains("parameters"), "{error}");
    server.logged("failed to take a background task further").await;
    for (app, endpoint) in [stranger(&server, &failing).await, {
        let endpoint = app.endpoint(&failing.url()).await;
        app.send("a", &json!({})).await;
        attempted(&app, &endpoint, 1).await;
        (app.clone(), endpoint)
    }] {
        let task = start(&app, &endpoint, "recover").await;
        assert_eq!(finished(&app, &task).await["data"], json!({ "messages": 1 }));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_for_which_ten_thousand_deliveries_wait_takes_no_more_that_somebody_asks_for() {
    let mut server = server().start().await;
    let (app, receiver) = (server.app().await, Receiver::ok().await);
    let endpoint = app.endpoint(&receiver.url()).await;
    let message = app.send("a", &json!({})).await;
    app.logged_attempts(&message, 1).await;
    // In an hour.
    changed(
        &mut server,
        "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 10000)
         INSERT INTO delivery (endpoint_no, due_at, message_no, made, trigger)
         SELECT endpoint.no, message.created_at + 3600000000 + n, message.no, 0, 1 FROM endpoint, message, n",
    )
    .await;
    // Another one than those that wait are of: of each message only so many may.
    let another = app.send("b", &json!({})).await;
    let resend = app.path(&format!("/msg/{another}/endpoint/{endpoint}/resend"));
    let replay = app.path(&format!("/endpoint/{endpoint}/bulk-replay"));
    for (path, body) in [(resend, Value::Null), (replay, json!({ "since": since(&app).await }))] {
        let answer = app.client.post(&path, &body).await.expect(429);
        assert!(answer.headers.contains_key("retry-after"));
        assert_eq!(answer.json()["code"], "too_many_deliveries");
    }
    // What is sent goes on.
    let next = app.send("a", &json!({})).await;
    receiver.wait_for_id(&next).await;
}
