//! What messages have of time: a delivery that is put off with `deliverAt` is not early, not forgotten, and not made after
//! it was called off; a payload is gone when it is kept no longer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::time::Duration;

use postrider_domain::clock::{Clock as _, SystemClock};
use postrider_domain::time::Timestamp;
use postrider_testkit::{App, Receiver, Reply, TestServer, TestServerBuilder, wait};
use serde_json::{Value, json};

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
}

fn instant(value: &Value) -> Timestamp {
    Timestamp::parse(value.as_str().unwrap()).unwrap()
}

/// The server's present.
async fn now(app: &App) -> Timestamp {
    let id = app.send("now", &json!({})).await;
    instant(&app.client.get(&app.path(&format!("/msg/{id}"))).await.expect(200).json()["timestamp"])
}

/// Sends a message to be delivered at `at`; returns its id.
async fn put_off(app: &App, at: Timestamp) -> String {
    let message = json!({ "eventType": "later", "payload": {}, "deliverAt": at });
    let made = app.client.post(&app.path("/msg"), &message).await.expect(202).json();
    // What has passed by the time that it arrives is delivered at once.
    assert!(made["deliverAt"].is_null() || instant(&made["deliverAt"]) == at, "{made}");
    made["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_delivered_at_its_time_and_not_before() {
    let server = server().start().await;
    let (app, receiver) = (server.app().await, Receiver::ok().await);
    app.endpoint(&receiver.url()).await;
    // Some within the time that their own commit takes, to meet the lane while it loads and parks.
    let mut all = Vec::new();
    for ms in [1_200, 1, 3, 5, 8, 10, 12, 15, 20, 30, 50, 100, 700] {
        let at = now(&app).await.saturating_add(Duration::from_millis(ms));
        all.push((put_off(&app, at).await, at));
    }
    for (message, at) in &all {
        receiver.wait_for_id(message).await;
        let attempts = app.logged_attempts(message, 1).await;
        assert!(instant(&attempts[0]["timestamp"]) >= *at, "{attempts:?}");
        assert_eq!(attempts[0]["triggerType"], 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_put_off_survives_a_crash() {
    let mut server = server().start().await;
    let (app, receiver) = (server.app().await, Receiver::ok().await);
    app.endpoint(&receiver.url()).await;
    let at = now(&app).await.saturating_add(Duration::from_millis(1_500));
    let message = put_off(&app, at).await;
    server.kill().await;
    server.start().await;
    receiver.wait_for_id(&message).await;
    let attempts = app.logged_attempts(&message, 1).await;
    assert!(instant(&attempts[0]["timestamp"]) >= at);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_put_off_does_not_reach_an_endpoint_that_was_deleted() {
    let server = server().start().await;
    let (app, receiver) = (server.app().await, Receiver::ok().await);
    let (deleted, kept) = (app.endpoint(&receiver.at("deleted")).await, app.endpoint(&receiver.at("kept")).await);
    let at = now(&app).await.saturating_add(Duration::from_millis(500));
    let message = put_off(&app, at).await;
    app.client.delete(&app.path(&format!("/endpoint/{deleted}"))).await.expect(204);
    let last = put_off(&app, at.saturating_add(Duration::from_millis(100))).await;
    receiver.wait_for_id(&last).await;
    let of_message = |path: &str| {
        let all = receiver.requests();
        all.iter().filter(|request| request.id() == Some(&message) && request.target == path).count()
    };
    assert_eq!((of_message("/deleted"), of_message("/kept")), (0, 1), "{kept}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_is_kept_no_longer_is_removed() {
    let mut server = server().set("retention.payload", "1ms").start().await;
    let (app, receiver) = (server.app().await, Receiver::ok().await);
    app.endpoint(&receiver.url()).await;
    let message = app.send("a", &json!({ "n": 1 })).await;
    app.logged_attempts(&message, 1).await;
    // It is looked for at the start, and every few minutes after it.
    assert!(server.terminate().await.success());
    server.start().await;
    let path = app.path(&format!("/msg/{message}"));
    wait::until("the payload to go", async || {
        Some(app.client.get(&path).await.expect(200).json())
            .filter(|shown| shown["payload"] == json!({ "expired": true }))
    })
    .await;
    assert_eq!(app.attempts(&message).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_whose_payload_was_removed_meanwhile_is_canceled_and_the_log_says_so() {
    let server = server().set("retention.payload", "1ms").set("delivery.retry_schedule", r#"["1h"]"#);
    let mut server = server.start().await;
    let (app, receiver) = (server.app().await, Receiver::always(Reply::status(500)).await);
    let endpoint = app.endpoint(&receiver.url()).await;
    let message = app.send("a", &json!({ "n": 1 })).await;
    app.logged_attempts(&message, 1).await;
    // It is looked for at the start, and every few minutes after it.
    assert!(server.terminate().await.success());
    server.start().await;
    let path = app.path(&format!("/msg/{message}"));
    wait::until("the payload to go", async || {
        let shown = app.client.get(&path).await.expect(200).json();
        (shown["payload"] == json!({ "expired": true })).then_some(())
    })
    .await;
    assert!(server.terminate().await.success());
    let database = rusqlite::Connection::open(server.folder().join("postrider.db")).unwrap();
    assert_eq!(database.execute("UPDATE delivery SET due_at = 1", []).unwrap(), 1);
    drop(database);
    server.start().await;
    let line = server.logged("the payloads of their messages were erased").await;
    assert!(line.contains("WARN") && line.contains("canceled=1"), "{line}");
    let path = app.path(&format!("/endpoint/{endpoint}/msg"));
    wait::until("the end of the delivery", async || {
        let listed = app.client.get(&path).await.expect(200).json();
        (listed["data"][0]["statusText"] == "canceled").then_some(())
    })
    .await;
    assert_eq!(receiver.requests().len(), 1);
}

/// Dates all that is stored by a clock that was so far ahead.
fn put_ahead(server: &TestServer, by: Duration) {
    let by = i64::try_from(by.as_micros()).unwrap();
    let database = rusqlite::Connection::open(server.folder().join("postrider.db")).unwrap();
    database
        .execute_batch(&format!(
            "UPDATE message SET created_at = created_at + {by};
             UPDATE attempt SET started_at = started_at + {by}, next_attempt_at = next_attempt_at + {by};
             UPDATE delivery SET due_at = due_at + {by} WHERE NOT EXISTS
                 (SELECT 1 FROM message WHERE no = message_no AND deliver_at = due_at);
             UPDATE sequence SET next = next + {by} WHERE name IN ('seen', 'shown')"
        ))
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_clock_three_hours_ahead_put_off_is_sent_after_its_wait_once_it_was_set_right() {
    let mut server = server().set("delivery.retry_schedule", r#"["10s","1h"]"#).start().await;
    let app = server.app().await;
    let receiver = Receiver::sequence([Reply::status(500), Reply::ok()]).await;
    app.endpoint(&receiver.url()).await;
    put_off(&app, SystemClock::new().now().saturating_add(Duration::from_secs(86_400))).await;
    let tried = app.send("tried", &json!({})).await;
    wait::until("the first attempt to be stored", async || {
        let attempts = app.client.get(&app.path(&format!("/attempt/msg/{tried}"))).await.json();
        attempts["data"].as_array().is_some_and(|attempts| attempts.len() == 1).then_some(())
    })
    .await;
    server.kill().await;
    put_ahead(&server, Duration::from_secs(10_800));
    server.start().await;
    let requests = receiver.wait_for(2).await;
    // And not what is to be delivered tomorrow.
    assert_eq!(requests.iter().map(|request| request.id()).collect::<Vec<_>>(), [Some(&*tried), Some(&*tried)]);
}

#[tokio::test]
async fn a_message_is_scheduled_for_ninety_days_ahead_and_no_further() {
    const MOST: Duration = Duration::from_secs(90 * 86_400);
    /// More than passes between two requests, so it does not matter what the server's clock says exactly.
    const NEAR: Duration = Duration::from_secs(600);
    let server = server().start().await;
    let app = server.app().await;
    let now = now(&app).await;
    let send = async |at: Timestamp| {
        let body = json!({ "eventType": "a", "payload": {}, "deliverAt": at });
        app.client.post(&app.path("/msg"), &body).await
    };
    send(now.saturating_add(MOST - NEAR)).await.expect(202);
    let refused = send(now.saturating_add(MOST + NEAR)).await.expect(422).json();
    assert_eq!(refused["detail"][0]["loc"], json!(["body", "deliverAt"]));
}
