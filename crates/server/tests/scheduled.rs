//! What messages have of time: a delivery that is put off with `deliverAt` is not early, not forgotten, and not made after
//! it was called off; a payload is gone when it is kept no longer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::time::Duration;

use postrider_domain::time::Timestamp;
use postrider_testkit::{App, Receiver, TestServer, TestServerBuilder, wait};
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
