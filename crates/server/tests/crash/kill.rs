//! `kill -9`, again and again: nothing that was acked is lost, and only that is repeated whose result was not stored yet.
//!
//! How many times is said by `POSTRIDER_CRASH_KILLS`; `scripts/test` says 50.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use postrider_testkit::load::list_messages;
use postrider_testkit::{Receiver, Reply, TestServer, random};
use serde_json::json;
use tokio::time::sleep;

use crate::world::{World, server};

/// Endpoints that are added under the kills, and get what was sent before.
const REPLAYS: u64 = 2;

fn kills() -> u64 {
    match std::env::var("POSTRIDER_CRASH_KILLS") {
        Ok(text) => text.parse().expect("POSTRIDER_CRASH_KILLS is a number"),
        Err(_) => 5,
    }
}

/// Kills the server at a random moment; now and then also while it starts. Returns how many times.
async fn crash(server: &mut TestServer) -> u64 {
    sleep(random::duration(Duration::ZERO, Duration::from_millis(300))).await;
    server.kill().await;
    let early = random::unit() < 0.25;
    if early {
        server.start_unwatched();
        sleep(random::duration(Duration::ZERO, Duration::from_millis(60))).await;
        server.kill().await;
    }
    server.start().await;
    1 + u64::from(early)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_under_load_it_loses_nothing_and_repeats_only_what_was_under_way() {
    let kills = kills();
    let mut world = World::begin(server().start().await).await;
    let (mut killed, mut replayed) = (0, Vec::new());
    while killed < kills {
        if killed * (REPLAYS + 1) >= (replayed.len() as u64 + 1) * kills {
            let name = format!("replayed-{}", replayed.len());
            world.add_endpoint(&name).await;
            replayed.push(name);
        }
        killed += crash(&mut world.server).await;
    }
    let said = world.end(killed, &replayed).await;
    // Straight to standard error, so that it is seen although the test passed.
    let _ = writeln!(std::io::stderr(), "{killed} kills: {said}");
}

#[tokio::test]
async fn a_kill_after_the_request_was_sent_and_before_its_result_was_stored_is_exactly_one_repeat() {
    let mut server = server().start().await;
    let app = server.app().await;
    let receiver = Receiver::sequence([Reply::hang(), Reply::ok()]).await;
    app.endpoint(&receiver.url()).await;
    let message = app.send("a", &json!({ "x": 1 })).await;
    receiver.wait_for(1).await;
    server.kill().await;
    server.start().await;
    let requests = receiver.wait_for(2).await;
    assert!(requests.iter().all(|request| request.id() == Some(&message)));
    let attempts = app.logged_attempts(&message, 1).await;
    assert_eq!(attempts[0]["status"], 0);

    server.kill().await;
    server.start().await;
    let next = app.send("a", &json!({})).await;
    receiver.wait_for_id(&next).await;
    assert_eq!(receiver.requests().len(), 3);
    assert_eq!(app.attempts(&message).await.len(), 1);
}

#[tokio::test]
async fn a_request_repeated_after_a_crash_that_followed_the_commit_gets_the_original_id() {
    let mut server = server().start().await;
    let app = server.app().await;
    let receiver = Receiver::ok().await;
    app.endpoint(&receiver.url()).await;
    let send = async || {
        let path = app.path("/msg");
        let request = app.client.request(Method::POST, &path).header("idempotency-key", "k");
        request.json(&json!({ "eventType": "a", "payload": {} })).send().await.expect(202).text()
    };
    let first = send().await;
    server.kill().await;
    server.start().await;
    assert_eq!(send().await, first);
    let id = serde_json::from_str::<serde_json::Value>(&first).unwrap()["id"].as_str().unwrap().to_owned();
    app.logged_attempts(&id, 1).await;
    assert_eq!(list_messages(&app).await.len(), 1);
}

#[tokio::test]
async fn retries_that_were_waiting_are_made_after_a_crash() {
    let mut server = server().set("delivery.retry_schedule", r#"["5s","10ms"]"#).start().await;
    let app = server.app().await;
    let healthy = Arc::new(AtomicU64::new(0));
    let gate = Arc::clone(&healthy);
    let receiver =
        Receiver::answering(move |_| if gate.load(Ordering::SeqCst) == 1 { Reply::ok() } else { Reply::status(500) })
            .await;
    app.endpoint(&receiver.url()).await;
    let mut messages = Vec::new();
    for n in 0..20 {
        messages.push(app.send("a", &json!({ "n": n })).await);
    }
    for message in &messages {
        app.logged_attempts(message, 1).await;
    }
    server.kill().await;
    healthy.store(1, Ordering::SeqCst);
    server.start().await;
    for message in &messages {
        let attempts = app.logged_attempts(message, 2).await;
        assert_eq!(attempts.last().map(|attempt| &attempt["status"]), Some(&json!(0)), "{attempts:?}");
    }
}
