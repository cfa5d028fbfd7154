//! `kill -9`, again and again: nothing that was acked is lost, and only that is repeated whose result was not stored yet.
//!
//! How many times is said by `POSTRIDER_CRASH_KILLS`; `scripts/test` says 50.

use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use postrider_testkit::load::{list_attempts, list_messages};
use postrider_testkit::{Acked, App, Ledger, Load, Receiver, Reply, TestServer, TestServerBuilder, random};
use serde_json::json;
use tokio::time::sleep;

const ENDPOINTS: usize = 3;
const CALLERS: usize = 8;
/// `delivery.concurrency`: the most requests under way to one endpoint.
const CONCURRENCY: u64 = 16;
/// The most repeats that one kill may cause at one endpoint: requests under way, and as many again whose results were on
/// their way into the store.
const UNDER_WAY: u64 = 2 * CONCURRENCY;

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider")).set("delivery.concurrency", CONCURRENCY.to_string())
}

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

/// Every key was accepted as exactly one message, the one whose id its caller was told.
async fn expect_each_accepted_once(app: &App, acked: &[Acked]) {
    let mut ids: HashMap<String, Vec<String>> = HashMap::new();
    for message in list_messages(app).await {
        let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
        ids.entry(text(&message["payload"]["key"])).or_default().push(text(&message["id"]));
    }
    for message in acked {
        assert_eq!(ids.get(&message.key), Some(&vec![message.id.clone()]), "{message:?}");
    }
    assert_eq!(ids.len(), acked.len(), "messages that nobody was told of");
}

/// Every delivery has exactly one attempt in the log, a success: none was made again whose result had been stored.
async fn expect_each_recorded_once(app: &App, endpoints: &[String], acked: &[Acked]) {
    for endpoint in endpoints {
        let attempts = list_attempts(app, endpoint).await;
        let messages: HashSet<&str> = attempts.iter().filter_map(|attempt| attempt["msgId"].as_str()).collect();
        assert_eq!((attempts.len(), messages.len()), (acked.len(), acked.len()), "{endpoint}");
        let failed = attempts.iter().find(|attempt| attempt["status"] != 0);
        assert_eq!(failed, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_under_load_it_loses_nothing_and_repeats_only_what_was_under_way() {
    let kills = kills();
    let ledger = Ledger::new();
    let noted = ledger.clone();
    let answer = move |request: &_| {
        noted.note(request);
        Reply::ok().after(random::duration(Duration::ZERO, Duration::from_millis(10)))
    };
    let receiver = Receiver::builder(answer).forgetful().start().await;
    let mut server = server().start().await;
    let app = server.app().await;
    let (mut endpoints, mut targets) = (Vec::new(), Vec::new());
    for number in 0..ENDPOINTS {
        endpoints.push(app.endpoint(&receiver.at(&number.to_string())).await);
        targets.push(format!("/{number}"));
    }

    let load = Load::start(&app, CALLERS);
    let mut killed = 0;
    while killed < kills {
        killed += crash(&mut server).await;
    }
    load.progress(100).await;
    let acked = load.finish().await;

    let ids: Vec<&str> = acked.iter().map(|message| message.id.as_str()).collect();
    ledger.wait_for(&targets, &ids).await;
    expect_each_accepted_once(&app, &acked).await;
    for message in &acked {
        for target in &targets {
            let body = ledger.body(target, &message.id).expect("the same bytes each time");
            assert_eq!(body, message.payload, "{message:?}");
        }
    }
    assert_eq!(ledger.deliveries(), acked.len() * ENDPOINTS, "deliveries of messages that nobody was told of");
    let (repeats, bound) = (ledger.repeats(), killed * ENDPOINTS as u64 * UNDER_WAY);
    assert!(repeats <= bound, "{repeats} repeats, {bound} at most were under way");

    // All of it is settled: another start sends nothing again.
    assert!(server.terminate().await.success());
    server.start().await;
    expect_each_recorded_once(&app, &endpoints, &acked).await;
    let last = app.send("a", &json!({})).await;
    ledger.wait_for(&targets, &[&last]).await;
    assert_eq!(ledger.repeats(), repeats);

    let repeated_requests: u32 = acked.iter().map(|message| message.requests - 1).sum();
    let (messages, deliveries) = (acked.len(), acked.len() * ENDPOINTS);
    // Straight to standard error, so that it is seen although the test passed.
    let _ = writeln!(
        std::io::stderr(),
        "{killed} kills: {messages} messages acked ({repeated_requests} requests repeated), 0 lost of {deliveries} \
         deliveries, {repeats} repeated ({bound} allowed)"
    );
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
    let mut server = server().set("delivery.retry_schedule", r#"["500ms","10ms"]"#).start().await;
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
