//! Endpoints cannot hurt each other: while many hang, flood or fail, a healthy one gets everything.

use std::time::Duration;

use postrider_testkit::{App, Load, Receiver, Reply, TestServer, TestServerBuilder};
use serde_json::{Value, json};

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
    let server = server().set("delivery.retry_schedule", Value::from(vec!["1ms"; 50]).to_string()).start().await;
    let app = server.app().await;
    let (failing, resetting, healthy) =
        (Receiver::always(Reply::status(503)).await, Receiver::always(Reply::reset()).await, Receiver::ok().await);
    for receiver in [&failing, &resetting, &healthy] {
        app.endpoint(&receiver.url()).await;
    }
    app.endpoint("http://127.0.0.1:1/").await;
    for n in 0..MESSAGES {
        app.send("a", &json!({ "n": n })).await;
    }
    healthy.wait_for(MESSAGES).await;
}
