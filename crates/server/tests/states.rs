//! States tell the truth: a disabled endpoint says why and since when, what was canceled is canceled everywhere, and what will
//! not be sent is not promised.

use std::time::Duration;

use postrider_testkit::{App, Receiver, Reply, TestServer, TestServerBuilder, wait};
use serde_json::{Value, json};

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
}

/// Asks until the answer is as wanted.
async fn until(app: &App, path: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let asking = async {
        loop {
            let answer = app.client.get(&app.path(path)).await.expect(200).json();
            if wanted(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(Duration::from_secs(60), asking).await {
        Ok(answer) => answer,
        Err(_) => panic!("waited in vain for: {what}"),
    }
}

#[tokio::test]
async fn an_endpoint_that_is_gone_says_so_wherever_it_is_asked() {
    let server = server().start().await;
    let app = server.app().await;
    let receiver = Receiver::always(Reply::status(410)).await;
    let endpoint = app.endpoint(&receiver.url()).await;
    let path = format!("/endpoint/{endpoint}");
    let fresh = app.client.get(&app.path(&path)).await.expect(200).json();
    assert_eq!((&fresh["disabledReason"], &fresh["disabledSince"]), (&Value::Null, &Value::Null));

    let message = app.send("a", &json!({})).await;
    let shown = until(&app, &path, "a disabled endpoint", |shown| shown["disabled"] == true).await;
    assert_eq!(shown["disabledReason"], "gone");
    assert!(shown["disabledSince"].as_str().unwrap() >= shown["createdAt"].as_str().unwrap());
    let line = server.logged("an endpoint was disabled").await;
    assert!(line.contains("WARN") && line.contains(&endpoint) && line.contains("gone"), "{line}");

    // What is asked for by hand will not be sent, and the answer says so.
    let resend = app.path(&format!("/msg/{message}/endpoint/{endpoint}/resend"));
    let answer = app.client.post(&resend, &json!({})).await.expect(202).json();
    assert_eq!((&answer["sent"], &answer["code"]), (&json!(false), &json!("endpoint_disabled")));
    assert!(answer["detail"].as_str().unwrap().contains("410"), "{answer}");
    for kind in ["recover", "replay-missing"] {
        let asked = json!({ "since": shown["createdAt"] });
        let task = app.client.post(&app.path(&format!("{path}/{kind}")), &asked).await.expect(202).json();
        let id = task["id"].as_str().unwrap();
        let finished = async {
            loop {
                let task = app.client.get(&format!("/api/v1/background-task/{id}")).await.expect(200).json();
                if task["status"] != "running" {
                    return task;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert_eq!(finished.await["data"], json!({ "messages": 0, "stopped": "endpoint_disabled" }), "{kind}");
    }

    let enable = json!({ "disabled": false });
    let enabled = app.client.patch(&app.path(&path), &enable).await.expect(200).json();
    assert_eq!((&enabled["disabledReason"], &enabled["disabledSince"]), (&Value::Null, &Value::Null));
    let disabled = app.client.patch(&app.path(&path), &json!({ "disabled": true })).await.expect(200).json();
    assert_eq!(disabled["disabledReason"], "manual");
}

#[tokio::test]
async fn nothing_is_replayed_to_an_endpoint_that_is_disabled_nor_when_it_is_enabled_again() {
    let server = server().start().await;
    let app = server.app().await;
    // What failed, what was delivered, and what was never attempted: each kind of task has something that it would send.
    let receiver = Receiver::sequence([vec![Reply::status(500); 4], vec![Reply::ok()]].concat()).await;
    let endpoint = app.endpoint(&receiver.url()).await;
    let path = format!("/endpoint/{endpoint}");
    let failed = app.send("a", &json!({})).await;
    app.logged_attempts(&failed, 4).await;
    let delivered = app.send("a", &json!({})).await;
    app.logged_attempts(&delivered, 1).await;
    let disabled = app.client.patch(&app.path(&path), &json!({ "disabled": true })).await.expect(200).json();
    let missed = app.send("a", &json!({})).await;

    let asked = json!({ "since": disabled["createdAt"] });
    let run = async |kind: &str| {
        let task = app.client.post(&app.path(&format!("{path}/{kind}")), &asked).await.expect(202).json();
        let task = format!("/api/v1/background-task/{}", task["id"].as_str().unwrap());
        wait::until(kind, async || {
            let shown = app.client.get(&task).await.expect(200).json();
            (shown["status"] != "running").then_some(shown)
        })
        .await
    };
    for kind in ["recover", "replay-missing", "bulk-replay"] {
        let task = run(kind).await;
        let want = json!({ "messages": 0, "stopped": "endpoint_disabled" });
        assert_eq!((&task["status"], &task["data"]), (&json!("finished"), &want), "{kind}");
    }
    app.client.patch(&app.path(&path), &json!({ "disabled": false })).await.expect(200);
    let last = app.send("a", &json!({})).await;
    receiver.wait_for_id(&last).await;
    assert_eq!(receiver.requests().len(), 6, "nothing that was asked for meanwhile is sent");

    // Asked for again, it is.
    for (kind, count) in [("recover", 1), ("replay-missing", 1), ("bulk-replay", 4)] {
        let task = run(kind).await;
        assert_eq!(task["data"], json!({ "messages": count }), "{kind}");
    }
    receiver.wait_for_id(&missed).await;
    receiver.wait_for(12).await;
}

#[tokio::test]
async fn an_endpoint_that_is_held_back_says_until_when_and_why_until_that_is_lifted() {
    let server = server().start().await;
    let app = server.app().await;
    let receiver = Receiver::sequence([Reply::status(503).header("retry-after", "600"), Reply::ok()]).await;
    let endpoint = app.endpoint(&receiver.url()).await;
    let path = format!("/endpoint/{endpoint}");
    let fresh = app.client.get(&app.path(&path)).await.expect(200).json();
    assert!(fresh.get("heldUntil").is_none() && fresh.get("heldReason").is_none(), "{fresh}");

    let message = app.send("a", &json!({})).await;
    let held = until(&app, &path, "an endpoint that is held back", |shown| shown.get("heldUntil").is_some()).await;
    assert_eq!((&held["heldReason"], &held["disabled"]), (&json!("retry-after"), &json!(false)));
    assert!(held["heldUntil"].as_str().unwrap() > held["createdAt"].as_str().unwrap(), "{held}");
    let listed = app.client.get(&app.path("/endpoint")).await.expect(200).json();
    assert_eq!(listed["data"][0]["heldUntil"], held["heldUntil"]);
    let resend = app.path(&format!("/msg/{message}/endpoint/{endpoint}/resend"));
    let answer = app.client.post(&resend, &json!({})).await.expect(202).json();
    assert_eq!(answer, json!({ "heldUntil": held["heldUntil"], "heldReason": "retry-after" }));
    let renamed = app.client.patch(&app.path(&path), &json!({ "description": "b" })).await.expect(200).json();
    assert_eq!(renamed["heldUntil"], held["heldUntil"]);

    let moved = app.client.patch(&app.path(&path), &json!({ "url": receiver.at("other") })).await.expect(200).json();
    assert!(moved.get("heldUntil").is_none(), "{moved}");
    // The engine may have been about to note it once more, for the URL of before, and takes that back.
    let lifted = |shown: &Value| shown.get("heldUntil").is_none() && shown.get("heldReason").is_none();
    until(&app, &path, "an endpoint that is held back no more", lifted).await;
    receiver.wait_for(2).await;
    let answer = app.client.post(&resend, &json!({})).await.expect(202).json();
    assert_eq!(answer, json!({}));
}

/// How long the former receiver takes to answer: meanwhile the endpoint gets another one.
const SLOW: Duration = Duration::from_secs(2);

#[tokio::test]
async fn what_a_former_receiver_answers_after_a_change_says_nothing_of_the_new_one() {
    let server = server().set("delivery.retry_schedule", r#"["1s", "1s"]"#).start().await;
    for reply in [Reply::status(503).header("retry-after", "86400"), Reply::status(410)] {
        let app = server.app().await;
        let former = Receiver::always(reply.after(SLOW)).await;
        let present = Receiver::ok().await;
        let endpoint = app.endpoint(&former.url()).await;
        let path = format!("/endpoint/{endpoint}");
        let first = app.send("a", &json!({})).await;
        former.wait_for(1).await;
        app.client.patch(&app.path(&path), &json!({ "url": present.url() })).await.expect(200);
        // It was told no, or not now, and is tried at the new one by the schedule.
        present.wait_for_id(&first).await;
        let attempts = format!("/attempt/msg/{first}");
        until(&app, &attempts, "two attempts", |page| page["data"].as_array().is_some_and(|all| all.len() == 2)).await;
        let shown = app.client.get(&app.path(&path)).await.expect(200).json();
        assert_eq!(shown["disabled"], json!(false), "{shown}");
        assert!(shown.get("heldUntil").is_none() && shown.get("disabledReason").is_none_or(Value::is_null), "{shown}");
        let second = app.send("a", &json!({})).await;
        present.wait_for_id(&second).await;
    }
}

#[tokio::test]
async fn what_was_canceled_is_canceled_everywhere() {
    let server = server().set("delivery.retry_schedule", r#"["1h"]"#).start().await;
    let app = server.app().await;
    let receiver = Receiver::always(Reply::status(500)).await;
    let endpoint = app.endpoint(&receiver.url()).await;
    let message = app.send("a", &json!({})).await;
    let (attempted, destinations) = (format!("/endpoint/{endpoint}/msg"), format!("/msg/{message}/endpoint"));
    let first = |page: &Value| page["data"][0].clone();
    let waiting = until(&app, &attempted, "an attempt", |page| !first(page).is_null()).await;
    assert_eq!((&first(&waiting)["status"], &first(&waiting)["statusText"]), (&json!(3), &json!("sending")));
    assert!(first(&waiting)["nextAttempt"].is_string());

    app.client.patch(&app.path(&format!("/endpoint/{endpoint}")), &json!({ "disabled": true })).await.expect(200);
    let canceled = until(&app, &attempted, "a canceled delivery", |page| first(page)["status"] != 3).await;
    assert_eq!((&first(&canceled)["status"], &first(&canceled)["statusText"]), (&json!(4), &json!("canceled")));
    assert_eq!(first(&canceled)["nextAttempt"], Value::Null);
    let destination = first(&app.client.get(&app.path(&destinations)).await.expect(200).json());
    assert_eq!((&destination["status"], &destination["nextAttempt"]), (&json!(4), &Value::Null));
    for (status, count) in [(3, 0), (4, 1)] {
        let page = app.client.get(&app.path(&format!("{attempted}?status={status}"))).await.expect(200).json();
        assert_eq!(page["data"].as_array().unwrap().len(), count, "{status}");
    }
    let line = server.logged("pending deliveries were canceled").await;
    assert!(line.contains("INFO") && line.contains(&endpoint) && line.contains("canceled=1"), "{line}");
    // It stays canceled when the endpoint is enabled again.
    app.client.patch(&app.path(&format!("/endpoint/{endpoint}")), &json!({ "disabled": false })).await.expect(200);
    assert_eq!(first(&app.client.get(&app.path(&attempted)).await.expect(200).json())["status"], 4);
}
