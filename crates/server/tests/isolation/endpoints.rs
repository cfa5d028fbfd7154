//! Endpoints cannot hurt each other: while many hang, flood or fail, a healthy one gets everything.

use std::time::Duration;

use postrider_testkit::{App, Load, Receiver, Reply, TestServer, TestServerBuilder};
use serde_json::{Value, json};

use crate::neighbour::turn;

const MESSAGES: usize = 100;

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
}

/// How many attempts at an endpoint are logged.
async fn attempts_of(app: &App, endpoint: &str) -> usize {
    let path = app.path(&format!("/attempt/endpoint/{endpoint}?limit=250"));
    app.client.get(&path).await.expect(200).json()["data"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn a_healthy_endpoint_gets_all_its_messages_while_fifty_others_hang() {
    let _turn = turn().await;
    let server = server().set("delivery.request_timeout", "10m").start().await;
    let hanging = Receiver::always(Reply::hang()).await;
    let (beside, apart) = (Receiver::ok().await, Receiver::ok().await);
    let (app, other_app) = (server.app().await, server.app().await);
    let mut stuck = Vec::new();
    for number in 0..50 {
        stuck.push(app.endpoint(&hanging.at(&number.to_string())).await);
    }
    app.endpoint(&beside.url()).await;
    other_app.endpoint(&apart.url()).await;
    for n in 0..MESSAGES {
        app.send("a", &json!({ "n": n })).await;
        other_app.send("a", &json!({ "n": n })).await;
    }
    beside.wait_for(MESSAGES).await;
    apart.wait_for(MESSAGES).await;
    // They were hanging all the while: each has requests under way, and none has a result.
    hanging
        .wait_until("a request at each of the fifty", |all| {
            let mut targets: Vec<&str> = all.iter().map(|request| request.target.as_str()).collect();
            targets.sort_unstable();
            targets.dedup();
            (targets.len() == stuck.len()).then_some(())
        })
        .await;
    for endpoint in &stuck {
        assert_eq!(attempts_of(&app, endpoint).await, 0);
    }
}

#[tokio::test]
async fn a_flooded_slow_endpoint_does_not_hold_the_others_up() {
    let _turn = turn().await;
    let server = server().start().await;
    let app = server.app().await;
    let slow = Receiver::always(Reply::ok().after(Duration::from_secs(1))).await;
    app.endpoint(&slow.url()).await;
    let load = Load::start(&app, 4);
    load.progress(2_000).await;
    let flood = load.finish().await;

    let healthy = Receiver::ok().await;
    app.endpoint(&healthy.url()).await;
    for n in 0..MESSAGES {
        app.send("a", &json!({ "n": n })).await;
    }
    healthy.wait_for(MESSAGES).await;
    assert!(slow.requests().len() < flood.len(), "the slow endpoint still had a backlog");
}

#[tokio::test]
async fn an_endpoint_that_only_fails_does_not_hold_the_others_up() {
    let _turn = turn().await;
    let server = server().set("delivery.retry_schedule", Value::from(vec!["1ms"; 50]).to_string()).start().await;
    let app = server.app().await;
    let (failing, resetting, healthy) =
        (Receiver::always(Reply::status(503)).await, Receiver::always(Reply::reset()).await, Receiver::ok().await);
    for receiver in [&failing, &resetting, &healthy] {
        app.endpoint(&receiver.url()).await;
    }
    app.endpoint("http://127.0.0.1:1025/").await;
    for n in 0..MESSAGES {
        app.send("a", &json!({ "n": n })).await;
    }
    healthy.wait_for(MESSAGES).await;
}

#[tokio::test]
async fn endpoints_that_ask_to_be_left_alone_take_no_lane_from_the_others() {
    let _turn = turn().await;
    let server = server().set("delivery.max_in_flight", "1").start().await;
    let (held, healthy) =
        (Receiver::always(Reply::status(429).header("retry-after", "3600")).await, Receiver::ok().await);
    let (app, other_app) = (server.app().await, server.app().await);
    for number in 0..6 {
        app.endpoint(&held.at(&number.to_string())).await;
    }
    other_app.endpoint(&healthy.url()).await;
    app.send("a", &json!({ "n": 0 })).await;
    for n in 0..MESSAGES {
        app.send("a", &json!({ "n": n })).await;
        other_app.send("a", &json!({ "n": n })).await;
    }
    healthy.wait_for(MESSAGES).await;
    held.wait_until("one request at each of the six", |all| (all.len() >= 6).then_some(())).await;
}

#[tokio::test]
async fn an_endpoint_that_moves_away_from_whoever_asked_to_be_left_alone_gets_everything_at_once() {
    let _turn = turn().await;
    let server = server().start().await;
    let held = Receiver::always(Reply::status(429).header("retry-after", "3600")).await;
    let healthy = Receiver::ok().await;
    let app = server.app().await;
    let endpoint = app.endpoint(&held.url()).await;
    app.send("a", &json!({ "n": 0 })).await;
    while attempts_of(&app, &endpoint).await < 1 {
        tokio::task::yield_now().await;
    }
    // It waits with the first one.
    app.send("a", &json!({ "n": 1 })).await;
    let path = app.path(&format!("/endpoint/{endpoint}"));
    app.client.patch(&path, &json!({ "description": "another name changes nothing" })).await.expect(200);
    app.client.patch(&path, &json!({ "url": healthy.url() })).await.expect(200);
    healthy.wait_for(2).await;
    assert_eq!(held.requests().len(), 1);
}

#[tokio::test]
async fn what_a_receiver_asked_for_is_kept_over_a_restart() {
    let _turn = turn().await;
    let mut server = server().start().await;
    let held = Receiver::always(Reply::status(429).header("retry-after", "3600")).await;
    let healthy = Receiver::ok().await;
    let app = server.app().await;
    let endpoint = app.endpoint(&held.url()).await;
    app.send("a", &json!({})).await;
    held.wait_for(1).await;
    while attempts_of(&app, &endpoint).await < 1 {
        tokio::task::yield_now().await;
    }
    assert!(server.terminate().await.success());
    server.start().await;
    app.endpoint(&healthy.url()).await;
    for _ in 0..20 {
        app.send("a", &json!({})).await;
    }
    healthy.wait_for(20).await;
    assert_eq!(held.requests().len(), 1);
}

#[tokio::test]
async fn a_batch_for_many_endpoints_of_which_most_hang_reaches_the_others_in_full() {
    let _turn = turn().await;
    let server = server().set("delivery.request_timeout", "10m").start().await;
    let (hanging, healthy) = (Receiver::always(Reply::hang()).await, Receiver::ok().await);
    let app = server.app().await;
    for number in 0..60 {
        app.endpoint(&hanging.at(&number.to_string())).await;
    }
    app.endpoint(&healthy.url()).await;
    let messages: Vec<Value> = (0..1_000).map(|n| json!({ "eventType": "a", "payload": { "n": n } })).collect();
    app.client.post(&app.path("/msg/batch"), &json!(messages)).await.expect(202);
    healthy.wait_for(1_000).await;
}

#[tokio::test]
async fn a_rate_limit_holds_for_messages_that_come_with_pauses() {
    let _turn = turn().await;
    let server = server().start().await;
    let (receiver, app) = (Receiver::ok().await, server.app().await);
    let body = json!({ "url": receiver.url(), "throttleRate": 1 });
    app.client.post(&app.path("/endpoint"), &body).await.expect(201);
    let began = tokio::time::Instant::now();
    for _ in 0..20 {
        app.send("a", &json!({})).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let seconds = began.elapsed().as_secs();
    assert!(receiver.requests().len() as u64 <= seconds + 2, "{} in {seconds} s", receiver.requests().len());
}
