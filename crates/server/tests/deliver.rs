//! The main job: an accepted event arrives signed, byte for byte, where it should, and is logged.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use postrider_testkit::{Answer, App, Received, Receiver, Reply, TestServer, TestServerBuilder, wait};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::{Value, json};

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
}

/// Verifies as a receiver would, with the public library.
#[track_caller]
fn verify(secret: &str, request: &Received) {
    let webhook = standardwebhooks::Webhook::new(secret).unwrap();
    webhook.verify(&request.body, &request.header_map()).unwrap();
}

/// Verifies that one of the signatures is of the owner of this public key (`whpk_…`).
#[track_caller]
fn verify_ed25519(public_key: &str, request: &Received) {
    let key = UnparsedPublicKey::new(&ED25519, BASE64.decode(public_key.strip_prefix("whpk_").unwrap()).unwrap());
    let head = format!("{}.{}.", request.id().unwrap(), request.timestamp());
    let text = [head.as_bytes(), &request.body].concat();
    let signatures = request.signatures();
    let mut signatures = signatures.iter().filter_map(|signature| signature.strip_prefix("v1a,"));
    assert!(signatures.any(|signature| key.verify(&text, &BASE64.decode(signature).unwrap()).is_ok()));
}

/// Posts the text of a message as it is. The answer does not repeat the payload.
async fn post_message(app: &App, text: &str) -> Answer {
    let path = app.path("/msg?with_content=false");
    app.client.request(http::Method::POST, &path).body(text.to_owned()).send().await
}

#[tokio::test]
async fn a_message_is_delivered_signed_and_logged() {
    let server = server().start().await;
    let app = server.app().await;
    let receiver = Receiver::always(Reply::ok().body("thank you")).await;
    let endpoint = app.endpoint(&receiver.at("hook?from=test")).await;
    let message = app.send("invoice.paid", &json!({ "amount": 12 })).await;

    let request = receiver.wait_for_id(&message).await;
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/hook?from=test"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert!(request.header("user-agent").unwrap().starts_with("Postrider/"), "{:?}", request.headers);
    assert_eq!(&request.body[..], br#"{"amount":12}"#);
    verify(&app.secret(&endpoint).await, &request);

    let attempts = app.logged_attempts(&message, 1).await;
    assert_eq!(attempts.len(), 1);
    let attempt = &attempts[0];
    assert_eq!(attempt["status"], 0, "{attempt}");
    assert_eq!(attempt["statusText"], "success");
    assert_eq!(attempt["responseStatusCode"], 200);
    assert_eq!(attempt["response"], "thank you");
    assert_eq!(attempt["msgId"], message);
    assert_eq!(attempt["endpointId"], endpoint);
    assert_eq!(attempt["url"], receiver.at("hook?from=test"));
    assert_eq!(attempt["triggerType"], 0);
    assert!(attempt["responseDurationMs"].is_u64(), "{attempt}");
}

#[tokio::test]
async fn the_payload_arrives_byte_for_byte() {
    let server = server().start().await;
    let app = server.app().await;
    let receiver = Receiver::ok().await;
    let endpoint = app.endpoint(&receiver.url()).await;
    let payloads = [
        r#"{ "b" : 1.0,	"a":[ ],   "B":1e2 , "b":-0 }"#,
        "{\n  \"nested\": {\r\n    \"z\": null, \"a\": true\n  }\n}",
        r#"{"escapes":"\u00e9\/\ud83d\ude00\u0000\t","plain":"é😀/"}"#,
        r#"{"big":123456789012345678901234567890.000000000000000000001,"long":1E400}"#,
        "{}",
    ];
    for payload in payloads {
        let text = format!(r#"{{"payload": {payload} ,"eventType":"a.b"}}"#);
        let message = post_message(&app, &text).await.expect(202).json();
        let request = receiver.wait_for_id(message["id"].as_str().unwrap()).await;
        assert_eq!(String::from_utf8_lossy(&request.body), payload);
        verify(&app.secret(&endpoint).await, &request);
    }
}

#[tokio::test]
async fn a_message_reaches_each_of_ten_endpoints_once() {
    let server = server().start().await;
    let app = server.app().await;
    let receiver = Receiver::ok().await;
    let mut paths = Vec::new();
    for number in 0..10 {
        app.endpoint(&receiver.at(&format!("hook/{number}"))).await;
        paths.push(format!("/hook/{number}"));
    }
    let messages = [app.send("a", &json!({ "n": 1 })).await, app.send("a", &json!({ "n": 2 })).await];
    receiver.wait_for(20).await;
    for message in &messages {
        assert_eq!(app.logged_attempts(message, 10).await.len(), 10);
        let arrived = receiver.requests();
        let mut targets: Vec<_> =
            arrived.iter().filter(|request| request.id() == Some(message)).map(|request| &request.target).collect();
        targets.sort();
        assert_eq!(targets, paths.iter().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn only_endpoints_that_want_the_type_and_channel_get_a_message() {
    let server = server().start().await;
    let app = server.app().await;
    let receiver = Receiver::ok().await;
    for name in ["user.created", "user.deleted"] {
        app.client.post("/api/v1/event-type", &json!({ "name": name, "description": "" })).await.expect(201);
    }
    app.endpoint(&receiver.at("all")).await;
    app.endpoint_with(json!({ "url": receiver.at("created"), "eventTypes": ["user.created"] })).await;
    app.endpoint_with(json!({ "url": receiver.at("red"), "channels": ["red"] })).await;
    app.endpoint_with(json!({ "url": receiver.at("both"), "eventTypes": ["user.created"], "channels": ["red"] })).await;

    let cases = [
        (json!({ "eventType": "user.created" }), vec!["/all", "/created"]),
        (json!({ "eventType": "user.deleted", "channels": ["red", "blue"] }), vec!["/all", "/red"]),
        (json!({ "eventType": "user.created", "channels": ["red"] }), vec!["/all", "/both", "/created", "/red"]),
        (json!({ "eventType": "user.deleted", "channels": ["blue"] }), vec!["/all"]),
    ];
    let mut expected = Vec::new();
    for (mut message, paths) in cases {
        message["payload"] = json!({});
        let id = app.client.post(&app.path("/msg"), &message).await.expect(202).json()["id"].clone();
        expected.extend(paths.into_iter().map(|path| (id.as_str().unwrap().to_owned(), path.to_owned())));
    }
    receiver.wait_for(expected.len()).await;
    // Every message has passed its fan-out by now: `all` wants them all, and gets the last one after the others.
    let arrived = receiver.requests();
    let mut arrived: Vec<_> =
        arrived.iter().map(|request| (request.id().unwrap().to_owned(), request.target.clone())).collect();
    arrived.sort();
    expected.sort();
    assert_eq!(arrived, expected);
}

#[tokio::test]
async fn a_failed_delivery_is_retried_with_the_same_id_and_a_fresh_timestamp() {
    let server = server().set("delivery.retry_schedule", r#"["1500ms","10ms","10ms"]"#).start().await;
    let app = server.app().await;
    let receiver = Receiver::sequence([Reply::status(500).body("not now"), Reply::status(503), Reply::ok()]).await;
    let endpoint = app.endpoint(&receiver.url()).await;
    let message = app.send("a", &json!({ "x": 1 })).await;

    let requests = receiver.wait_for(3).await;
    let secret = app.secret(&endpoint).await;
    for request in &requests {
        assert_eq!(request.id(), Some(message.as_str()));
        assert_eq!(&request.body[..], br#"{"x":1}"#);
        verify(&secret, request);
    }
    assert!(requests[1].timestamp() > requests[0].timestamp());

    let attempts = app.logged_attempts(&message, 3).await;
    let seen: Vec<_> = attempts.iter().map(|attempt| (&attempt["status"], &attempt["responseStatusCode"])).collect();
    assert_eq!(seen, [(&json!(2), &json!(500)), (&json!(2), &json!(503)), (&json!(0), &json!(200))]);
    assert_eq!(attempts[0]["response"], "not now");
    assert_eq!(receiver.requests().len(), 3);
}

#[tokio::test]
async fn a_delivery_that_used_up_its_schedule_is_given_up() {
    let server = server().set("delivery.retry_schedule", r#"["1ms","1ms"]"#).start().await;
    let app = server.app().await;
    let receiver = Receiver::answering(|request| match &request.body[..] {
        br#"{"x":1}"# => Reply::status(400),
        _ => Reply::ok(),
    })
    .await;
    app.endpoint(&receiver.url()).await;
    let hopeless = app.send("a", &json!({ "x": 1 })).await;
    let attempts = app.logged_attempts(&hopeless, 3).await;
    assert!(attempts.iter().all(|attempt| attempt["status"] == 2 && attempt["responseStatusCode"] == 400));

    // The endpoint goes on with what comes next, and the first message does not come back with it.
    for n in 2..5 {
        let message = app.send("a", &json!({ "x": n })).await;
        receiver.wait_for_id(&message).await;
    }
    assert_eq!(app.attempts(&hopeless).await.len(), 3);
}

#[tokio::test]
async fn an_answer_of_410_disables_the_endpoint() {
    let server = server().start().await;
    let app = server.app().await;
    let gone = Receiver::always(Reply::status(410)).await;
    let healthy = Receiver::ok().await;
    let endpoint = app.endpoint(&gone.url()).await;
    app.endpoint(&healthy.url()).await;
    let first = app.send("a", &json!({})).await;
    gone.wait_for_id(&first).await;
    wait::until("the endpoint to be disabled", async || {
        let found = app.client.get(&app.path(&format!("/endpoint/{endpoint}"))).await.expect(200).json();
        (found["disabled"] == json!(true)).then_some(())
    })
    .await;
    let second = app.send("a", &json!({})).await;
    app.logged_attempts(&second, 1).await;
    healthy.wait_for(2).await;
    assert_eq!(gone.requests().len(), 1);
}

#[tokio::test]
async fn a_redirect_is_a_failed_attempt_and_not_followed() {
    let server = server().set("delivery.retry_schedule", "[]").start().await;
    let app = server.app().await;
    let elsewhere = Receiver::ok().await;
    for status in [301, 302, 307, 308] {
        let receiver = Receiver::always(Reply::status(status).header("location", &elsewhere.url())).await;
        let endpoint = app.endpoint(&receiver.url()).await;
        let message = app.send("a", &json!({})).await;
        let attempt = &app.logged_attempts(&message, 1).await[0];
        assert_eq!((&attempt["status"], &attempt["responseStatusCode"]), (&json!(2), &json!(status)));
        app.client.delete(&app.path(&format!("/endpoint/{endpoint}"))).await.expect(204);
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_disabled_endpoint_gets_nothing() {
    let server = server().start().await;
    let app = server.app().await;
    let (on, off) = (Receiver::ok().await, Receiver::ok().await);
    app.endpoint(&on.url()).await;
    let endpoint = app.endpoint_with(json!({ "url": off.url(), "disabled": true })).await;
    let unwanted = app.send("a", &json!({})).await;
    on.wait_for_id(&unwanted).await;
    app.client.patch(&app.path(&format!("/endpoint/{endpoint}")), &json!({ "disabled": false })).await.expect(200);
    let wanted = app.send("a", &json!({})).await;
    off.wait_for_id(&wanted).await;
    assert_eq!(off.requests().len(), 1);
}

#[tokio::test]
async fn an_endpoint_that_was_just_created_gets_the_next_message() {
    let server = server().start().await;
    let app = server.app().await;
    let receiver = Receiver::ok().await;
    // The routes of an application are cached: every creation has to get past what is cached.
    for number in 0..20 {
        app.endpoint(&receiver.at(&number.to_string())).await;
        let message = app.send("a", &json!({})).await;
        let target = format!("/{number}");
        receiver
            .wait_until("the newest endpoint's copy", |all| {
                all.iter().find(|request| request.id() == Some(&message) && request.target == target).map(drop)
            })
            .await;
    }
}

#[tokio::test]
async fn a_resend_is_one_manual_attempt() {
    let server = server().set("delivery.retry_schedule", "[]").start().await;
    let app = server.app().await;
    let receiver = Receiver::sequence([Reply::status(500), Reply::status(500), Reply::ok()]).await;
    let endpoint = app.endpoint(&receiver.url()).await;
    let message = app.send("a", &json!({ "x": 1 })).await;
    app.logged_attempts(&message, 1).await;
    for made in 2..4 {
        let path = app.path(&format!("/msg/{message}/endpoint/{endpoint}/resend"));
        let answer = app.client.post(&path, &json!({})).await.expect(202);
        assert_eq!(answer.json(), json!({}));
        let attempts = app.logged_attempts(&message, made).await;
        assert_eq!(attempts[made - 1]["triggerType"], 1);
    }
    let requests = receiver.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| request.id() == Some(&message) && &request.body[..] == br#"{"x":1}"#));
    assert_eq!(app.attempts(&message).await[0]["status"], 0);
}

#[tokio::test]
async fn after_a_rotation_both_keys_sign() {
    let server = server().start().await;
    let app = server.app().await;
    let receiver = Receiver::ok().await;
    let endpoint = app.endpoint(&receiver.url()).await;
    let old = app.secret(&endpoint).await;
    let rotate = app.path(&format!("/endpoint/{endpoint}/secret/rotate"));
    app.client.post(&rotate, &json!({})).await.expect(204);
    let new = app.secret(&endpoint).await;
    assert_ne!(old, new);

    let message = app.send("a", &json!({})).await;
    let request = receiver.wait_for_id(&message).await;
    assert_eq!(request.signatures().len(), 2);
    verify(&old, &request);
    verify(&new, &request);

    // Without a time of grace the key of before signs no more; the first one's day is not over.
    app.client.post(&rotate, &json!({ "gracePeriodSeconds": 0 })).await.expect(204);
    let newest = app.secret(&endpoint).await;
    let message = app.send("a", &json!({})).await;
    let request = receiver.wait_for_id(&message).await;
    assert_eq!(request.signatures().len(), 2);
    verify(&newest, &request);
    verify(&old, &request);
    assert!(standardwebhooks::Webhook::new(&new).unwrap().verify(&request.body, &request.header_map()).is_err());
}

#[tokio::test]
async fn symmetric_and_asymmetric_keys_sign_together() {
    let server = server().set("signing.default_kind", "ed25519").start().await;
    let app = server.app().await;
    let receiver = Receiver::ok().await;
    let endpoint = app.endpoint(&receiver.url()).await;
    let public_key = app.secret(&endpoint).await;
    let message = app.send("a", &json!({ "n": 1 })).await;
    let request = receiver.wait_for_id(&message).await;
    assert_eq!(request.signatures().len(), 1);
    verify_ed25519(&public_key, &request);

    let secret = format!("whsec_{}", BASE64.encode([7; 32]));
    let rotate = app.path(&format!("/endpoint/{endpoint}/secret/rotate"));
    app.client.post(&rotate, &json!({ "key": secret })).await.expect(204);
    assert_eq!(app.secret(&endpoint).await, secret);
    let message = app.send("a", &json!({ "n": 2 })).await;
    let request = receiver.wait_for_id(&message).await;
    assert!(request.signatures()[0].starts_with("v1,"), "the current key signs first: {:?}", request.signatures());
    verify(&secret, &request);
    verify_ed25519(&public_key, &request);
}

#[tokio::test]
async fn custom_headers_are_sent() {
    let server = server().start().await;
    let app = server.app().await;
    let receiver = Receiver::ok().await;
    let endpoint = app.endpoint(&receiver.url()).await;
    let headers = json!({ "headers": { "X-My-HEADER": "some  value", "Authorization": "Basic eDp5" } });
    app.client.put(&app.path(&format!("/endpoint/{endpoint}/headers")), &headers).await.expect(204);
    let message = app.send("a", &json!({})).await;
    let request = receiver.wait_for_id(&message).await;
    assert_eq!(request.header("x-my-header"), Some("some  value"));
    assert_eq!(request.header("authorization"), Some("Basic eDp5"));
}

#[tokio::test]
async fn the_other_header_prefix_replaces_the_names() {
    let server = server().set("delivery.header_prefix", "svix").start().await;
    let app = server.app().await;
    let receiver = Receiver::ok().await;
    app.endpoint(&receiver.url()).await;
    let message = app.send("a", &json!({})).await;
    let request = &receiver.wait_for(1).await[0];
    assert_eq!(request.header("svix-id"), Some(message.as_str()));
    assert!(request.header("svix-timestamp").is_some() && request.header("svix-signature").is_some());
    assert_eq!(request.id(), None);
}

#[tokio::test]
async fn a_retry_uses_the_endpoint_as_it_is_then() {
    let server = server().set("delivery.retry_schedule", r#"["2s"]"#).start().await;
    let app = server.app().await;
    let (before, after) = (Receiver::always(Reply::status(500)).await, Receiver::ok().await);
    let endpoint = app.endpoint(&before.url()).await;
    let message = app.send("a", &json!({})).await;
    app.logged_attempts(&message, 1).await;
    let path = app.path(&format!("/endpoint/{endpoint}"));
    app.client.patch(&path, &json!({ "url": after.url() })).await.expect(200);
    app.client.put(&format!("{path}/headers"), &json!({ "headers": { "x-new": "1" } })).await.expect(204);
    let request = after.wait_for_id(&message).await;
    assert_eq!(request.header("x-new"), Some("1"));
    let attempts = app.logged_attempts(&message, 2).await;
    assert_eq!((&attempts[0]["url"], &attempts[1]["url"]), (&json!(before.url()), &json!(after.url())));
}

#[tokio::test]
async fn attempts_tell_how_long_the_receiver_took() {
    let server = server().start().await;
    let app = server.app().await;
    let receiver = Receiver::always(Reply::ok().after(Duration::from_millis(300))).await;
    let endpoint = app.endpoint(&receiver.url()).await;
    let message = app.send("a", &json!({})).await;
    let attempt = &app.logged_attempts(&message, 1).await[0];
    assert!(attempt["responseDurationMs"].as_u64().unwrap() >= 300, "{attempt}");

    let path = app.path(&format!("/attempt/endpoint/{endpoint}"));
    let of_endpoint = app.client.get(&path).await.expect(200).json();
    assert_eq!(of_endpoint["data"], Value::Array(vec![attempt.clone()]));
    let id = attempt["id"].as_str().unwrap();
    let one = app.client.get(&app.path(&format!("/msg/{message}/attempt/{id}"))).await.expect(200).json();
    assert_eq!(&one, attempt);
}

#[tokio::test]
async fn a_message_without_endpoints_is_kept_all_the_same() {
    let server = server().start().await;
    let app = server.app().await;
    let message = app.send("a", &json!({ "x": [1, 2] })).await;
    let found = app.client.get(&app.path(&format!("/msg/{message}"))).await.expect(200).json();
    assert_eq!(found["payload"], json!({ "x": [1, 2] }));
    assert_eq!(app.attempts(&message).await, Vec::<Value>::new());
}
