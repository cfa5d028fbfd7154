//! What callers do wrong, or do twice: every request gets the contract's answer, and the server goes on.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::collections::BTreeSet;

use http::Method;
use postrider_testkit::raw::RawConnection;
use postrider_testkit::{Answer, App, Receiver, TestServer, TestServerBuilder, wait};
use serde_json::{Value, json};

/// What a request's body may have, in bytes.
const BODY_LIMIT: usize = 2 * 1024 * 1024;

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
}

/// Checks the form of every error but a 422.
#[track_caller]
fn expect_error(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let error = answer.json();
    assert_eq!(error["code"], code, "{error}");
    assert!(error["detail"].is_string(), "{error}");
}

/// Checks the form of a 422, which lists what is wrong.
#[track_caller]
fn expect_invalid(answer: &Answer, what: &str) {
    assert_eq!(answer.status, 422, "{what}: {}", answer.text());
    let error = answer.json();
    let items = error["detail"].as_array().unwrap_or_else(|| panic!("{what}: {error}"));
    assert!(!items.is_empty(), "{what}: {error}");
    for item in items {
        assert!(item["loc"].is_array() && item["msg"].is_string() && item["type"].is_string(), "{what}: {error}");
    }
}

async fn post_bytes(app: &App, path: &str, body: impl Into<Vec<u8>>) -> Answer {
    app.client.request(Method::POST, &app.path(path)).body(body.into()).send().await
}

/// The head of a POST of a message with `length` bytes.
fn message_head(server: &TestServer, app: &App, length: usize) -> Vec<u8> {
    format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-length: {length}\r\n\r\n",
        app.path("/msg"),
        server.address(),
        server.token()
    )
    .into_bytes()
}

/// A message whose JSON text has exactly `length` bytes.
fn message_of(length: usize) -> Vec<u8> {
    let (head, tail) = (r#"{"eventType":"a","payload":{"x":""#, r#""}}"#);
    format!("{head}{}{tail}", "x".repeat(length - head.len() - tail.len())).into_bytes()
}

/// Reads an answer, and then either asks for something else on the same connection or sees it closed in order.
async fn expect_usable_or_closed(mut connection: RawConnection, status: u16) {
    let answer = connection.read_answer().await.unwrap().unwrap();
    assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(serde_json::from_slice::<Value>(&answer.body).unwrap()["code"], "payload_too_large");
    let ping = b"GET /api/v1/health/ping HTTP/1.1\r\nhost: x\r\n\r\n";
    if answer.header("connection") == Some("close") {
        assert!(connection.read_answer().await.unwrap().is_none(), "the connection was to be closed");
    } else {
        connection.write(ping).await.unwrap();
        assert_eq!(connection.read_answer().await.unwrap().unwrap().status, 204);
    }
}

#[tokio::test]
async fn a_path_is_refused_that_is_longer_than_any_that_names_something() {
    let server = server().start().await;
    for (length, status) in [(8_192, 404), (8_193, 414)] {
        let path = format!("/api/v1/app/{}", "x".repeat(length - "/api/v1/app/".len()));
        let refused = server.client().get(&path).await.expect(status);
        assert_eq!(refused.json()["code"], if status == 414 { "uri_too_long" } else { "not_found" });
    }
}

#[tokio::test]
async fn the_same_idempotency_key_in_fifty_requests_at_once_is_one_message_and_fifty_equal_answers() {
    let server = server().start().await;
    let app = server.app().await;
    let receiver = Receiver::ok().await;
    app.endpoint(&receiver.url()).await;
    let requests = (0..50).map(|_| {
        let app = app.clone();
        tokio::spawn(async move {
            let message = json!({ "eventType": "a", "payload": { "x": 1 } });
            let path = app.path("/msg");
            let request = app.client.request(Method::POST, &path).header("idempotency-key", "the same");
            request.json(&message).send().await
        })
    });
    let requests: Vec<_> = requests.collect();
    let mut answers = BTreeSet::new();
    for request in requests {
        let answer = request.await.unwrap();
        answers.insert((answer.status, answer.text()));
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    let (status, body) = answers.pop_first().unwrap();
    assert_eq!(status, 202, "{body}");
    let listed = app.client.get(&app.path("/msg")).await.expect(200).json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);

    // What comes afterwards is the second request at the receiver.
    let next = app.send("a", &json!({})).await;
    receiver.wait_for_id(&next).await;
    assert_eq!(receiver.requests().len(), 2);
}

#[tokio::test]
async fn an_idempotency_key_holds_for_every_resource() {
    let server = server().start().await;
    let client = server.client();
    let create = async |name: &str| {
        let request = client.request(Method::POST, "/api/v1/app").header("idempotency-key", "one app");
        request.json(&json!({ "name": name })).send().await.expect(201).json()
    };
    let first = create("first").await;
    assert_eq!(create("second").await, first);
    let app = App { client: client.clone(), id: first["id"].as_str().unwrap().to_owned() };
    let endpoint = async || {
        let path = app.path("/endpoint");
        let request = client.request(Method::POST, &path).header("idempotency-key", "one endpoint");
        request.json(&json!({ "url": "https://example.com/" })).send().await.expect(201).json()
    };
    assert_eq!(endpoint().await, endpoint().await);
}

#[tokio::test]
async fn a_body_of_the_limit_is_taken() {
    let server = server().start().await;
    let app = server.app().await;
    post_bytes(&app, "/msg", message_of(BODY_LIMIT)).await.expect(202);
}

#[tokio::test]
async fn a_body_one_byte_over_the_limit_is_413_and_the_connection_usable_or_closed_cleanly() {
    let server = server().start().await;
    let app = server.app().await;
    let mut connection = RawConnection::open(server.address()).await;
    connection.write(&message_head(&server, &app, BODY_LIMIT + 1)).await.unwrap();
    connection.write(&message_of(BODY_LIMIT + 1)).await.unwrap();
    expect_usable_or_closed(connection, 413).await;
}

#[tokio::test]
async fn a_body_of_eight_megabytes_is_413_for_a_caller_that_writes_all_of_it_first() {
    let server = server().start().await;
    let app = server.app().await;
    let length = 8 * 1024 * 1024;
    let mut connection = RawConnection::open(server.address()).await;
    connection.write(&message_head(&server, &app, length)).await.unwrap();
    connection.write(&message_of(length)).await.unwrap();
    expect_usable_or_closed(connection, 413).await;
}

#[tokio::test]
async fn a_chunked_body_over_the_limit_is_413() {
    let server = server().start().await;
    let app = server.app().await;
    let mut connection = RawConnection::open(server.address()).await;
    let head = String::from_utf8(message_head(&server, &app, 0)).unwrap();
    connection.write(head.replace("content-length: 0", "transfer-encoding: chunked").as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..=BODY_LIMIT / 0x10000 {
        connection.write(chunk.as_bytes()).await.unwrap();
    }
    connection.write(b"0\r\n\r\n").await.unwrap();
    expect_usable_or_closed(connection, 413).await;
}

#[tokio::test]
async fn a_hundred_thousand_nested_arrays_are_refused_without_a_stack_overflow() {
    let server = server().start().await;
    let app = server.app().await;
    let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
    let deep = [
        format!(r#"{{"eventType":"a","payload":{{"x":{open}{close}}}}}"#),
        format!(r#"{{"eventType":"a","payload":{{}},"unknown":{open}{close}}}"#),
        format!("{open}{close}"),
        open.clone(),
        format!(r#"{{"eventType":"a","payload":{}1{}}}"#, r#"{"x":"#.repeat(100_000), "}".repeat(100_000)),
    ];
    for body in deep {
        let shown = body[..40].to_owned();
        let answer = post_bytes(&app, "/msg", body).await;
        assert!((400..500).contains(&answer.status), "{shown}: {} {}", answer.status, answer.text());
    }
    let schema = format!(r#"{{"name":"a","description":"","schemas":{{"1":{{"x":{open}{close}}}}}}}"#);
    let answer = app.client.request(Method::POST, "/api/v1/event-type").body(schema).send().await;
    assert!((400..500).contains(&answer.status), "{} {}", answer.status, answer.text());
    app.send("a", &json!({})).await;
}

#[tokio::test]
async fn cr_lf_and_nul_in_a_header_value_id_or_type_are_422() {
    let server = server().start().await;
    let app = server.app().await;
    let endpoint = app.endpoint("https://example.com/").await;
    for bad in ["a\r\nb: c", "a\nb", "a\rb", "a\0b", "\u{7f}", "\n", "a b", "é"] {
        let message = |field: &str, value: Value| {
            let mut message = json!({ "eventType": "a", "payload": {} });
            message[field] = value;
            message
        };
        for (field, value) in [("eventType", json!(bad)), ("eventId", json!(bad)), ("channels", json!([bad]))] {
            let answer = app.client.post(&app.path("/msg"), &message(field, value)).await;
            expect_invalid(&answer, &format!("{field} {bad:?}"));
        }
        let answer = app.client.post("/api/v1/app", &json!({ "name": "x", "uid": bad })).await;
        expect_invalid(&answer, &format!("uid {bad:?}"));
        let answer = app.client.post("/api/v1/event-type", &json!({ "name": bad, "description": "" })).await;
        expect_invalid(&answer, &format!("name {bad:?}"));
        let body = json!({ "url": "https://example.com/", "uid": bad });
        expect_invalid(&app.client.post(&app.path("/endpoint"), &body).await, &format!("endpoint uid {bad:?}"));
        let headers = app.path(&format!("/endpoint/{endpoint}/headers"));
        let name = format!("x-{bad}");
        expect_invalid(&app.client.put(&headers, &json!({ "headers": { name: "v" } })).await, &format!("name {bad:?}"));
    }
    for bad in ["a\r\nb: c", "a\nb", "a\rb", "a\0b"] {
        let headers = app.path(&format!("/endpoint/{endpoint}/headers"));
        let body = json!({ "headers": { "x-custom": bad } });
        expect_invalid(&app.client.put(&headers, &body).await, &format!("value {bad:?}"));
        expect_invalid(&app.client.patch(&headers, &body).await, &format!("value {bad:?}"));
    }
    let found = app.client.get(&app.path(&format!("/endpoint/{endpoint}/headers"))).await.expect(200).json();
    assert_eq!(found["headers"], json!({}));
}

#[tokio::test]
async fn a_path_with_strange_bytes_names_nothing() {
    let server = server().start().await;
    let client = server.client();
    for id in ["%00", "%0d%0a", "%ff%fe", "..%2f..%2fetc", "%f0%9f%98%80", "%"] {
        let answer = client.get(&format!("/api/v1/app/{id}")).await;
        assert!(matches!(answer.status, 400 | 404), "{id}: {} {}", answer.status, answer.text());
        assert!(answer.json()["code"].is_string(), "{id}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_body_that_is_not_utf_8_is_422() {
    let server = server().start().await;
    let app = server.app().await;
    let bodies: [&[u8]; 4] = [
        b"{\"eventType\":\"a\",\"payload\":{\"x\":\"\xff\"}}",
        b"{\"eventType\":\"a\xc3\x28\",\"payload\":{}}",
        b"{\"eventType\":\"a\",\"payload\":{\"\xed\xa0\x80\":1}}",
        b"\xff\xfe{\x00}\x00",
    ];
    for body in bodies {
        expect_invalid(&post_bytes(&app, "/msg", body).await, &String::from_utf8_lossy(body));
    }
}

#[tokio::test]
async fn json_that_is_none_is_422() {
    let server = server().start().await;
    let app = server.app().await;
    let bodies = [
        "",
        " ",
        "{",
        "null",
        "[]",
        "7",
        r#""text""#,
        r#"{"eventType":"a"}"#,
        r#"{"payload":{}}"#,
        r#"{"eventType":"a","payload":[]}"#,
        r#"{"eventType":"a","payload":"{}"}"#,
        r#"{"eventType":"a","payload":null}"#,
        r#"{"eventType":7,"payload":{}}"#,
        r#"{"eventType":"a","payload":{},}"#,
        r#"{"eventType":"a","payload":{"x":01}}"#,
        r#"{"eventType":"a","payload":{"x":NaN}}"#,
        r#"{"eventType":"a","payload":{"x":'y'}}"#,
        "{\"eventType\":\"a\",\"payload\":{\"x\":\"a raw\nline\"}}",
        r#"{"eventType":"a","payload":{"x":"\ud800"},}"#,
        r#"{"eventType":"a","payload":{}} trailing"#,
    ];
    for body in bodies {
        expect_invalid(&post_bytes(&app, "/msg", body).await, body);
    }
}

#[tokio::test]
async fn an_unknown_route_or_method_is_answered_with_json() {
    let server = server().start().await;
    let client = server.client();
    for path in ["/api/v1/no-such-thing", "/api/v2/app", "/api/v1/app/x/y/z", "/no"] {
        expect_error(&client.get(path).await, 404, "not_found");
    }
    for (method, path) in [(Method::DELETE, "/api/v1/app"), (Method::PUT, "/api/v1/event-type")] {
        let answer = client.request(method, path).send().await;
        assert_eq!(answer.status, 405, "{}", answer.text());
        assert!(answer.json()["code"].is_string() && answer.json()["detail"].is_string(), "{}", answer.text());
    }
    expect_error(&client.get("/api/v1/app/app_unknown").await, 404, "not_found");
}

#[tokio::test]
async fn a_request_without_a_valid_token_is_401() {
    let server = server().start().await;
    let app = server.app().await;
    let good = server.token();
    let (head, signature) = good.rsplit_once('.').unwrap();
    let unsigned = format!("{}.{}.", "eyJhbGciOiJub25lIn0", good.split('.').nth(1).unwrap());
    let bad = [None, Some(String::new()), Some("x".into()), Some(format!("{head}.")), Some(unsigned)];
    let tampered = format!("{head}.{}", signature.chars().rev().collect::<String>());
    for token in bad.into_iter().chain([Some(tampered), Some("pk_unknown".into())]) {
        let client = server.client_with(token.clone());
        for path in ["/api/v1/app", &app.path("/msg")] {
            let answer = client.get(path).await;
            assert_eq!(answer.status, 401, "{token:?} {}", answer.text());
            expect_error(&answer, 401, "authentication_failed");
        }
        assert_eq!(client.post(&app.path("/msg"), &json!({})).await.status, 401, "{token:?}");
    }
}

#[tokio::test]
async fn the_longest_token_that_is_made_is_taken_and_one_that_is_longer_than_the_limit_is_told_so() {
    let server = server().start().await;
    let app = server.app().await;
    let wanted = json!({
        "featureFlags": vec!["f".repeat(256); 50],
        "capabilities": vec!["ManageTransformations"; 16],
        "sessionId": "\u{1f}".repeat(256),
    });
    let path = format!("/api/v1/auth/app-portal-access/{}", app.id);
    let token = app.client.post(&path, &wanted).await.expect(200).json()["token"].as_str().unwrap().to_owned();
    assert!(token.len() > 20_000);
    let whoami = server.client_with(Some(token)).get("/api/v1/auth/whoami").await.expect(200).json();
    assert_eq!(whoami["featureFlags"], wanted["featureFlags"]);
    let mut claims = postrider_testkit::token::environment_claims(server.org());
    claims["more"] = "x".repeat(21_504).into();
    let answer = server.client_with(Some(server.sign(&claims))).get("/api/v1/auth/whoami").await;
    expect_error(&answer, 401, "authentication_failed");
    assert_eq!(answer.json()["reason"], "the token is longer than those that are taken: 21504 bytes");
}

#[tokio::test]
async fn a_token_of_one_application_reaches_only_that_one() {
    let server = server().start().await;
    let (mine, other) = (server.app().await, server.app().await);
    let message = other.send("a", &json!({})).await;
    let client = server.client_with(Some(server.application_token(&mine.id)));
    assert_eq!(client.get(&mine.path("")).await.status, 200);
    for path in [other.path(""), other.path("/endpoint"), other.path("/msg"), other.path(&format!("/msg/{message}"))] {
        expect_error(&client.get(&path).await, 404, "not_found");
    }
    let answer = client.post(&mine.path("/msg"), &json!({ "eventType": "a", "payload": {} })).await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(client.get("/api/v1/app").await.status, 403);
}

#[tokio::test]
async fn another_environment_sees_nothing() {
    let server = server().start().await;
    let app = server.app().await;
    let message = app.send("a", &json!({})).await;
    let claims = postrider_testkit::token::environment_claims("org_another");
    let stranger = server.client_with(Some(server.sign(&claims)));
    for path in [app.path(""), app.path("/msg"), app.path(&format!("/msg/{message}")), app.path("/endpoint")] {
        expect_error(&stranger.get(&path).await, 404, "not_found");
    }
    assert_eq!(stranger.get("/api/v1/app").await.expect(200).json()["data"], json!([]));
}

#[tokio::test]
async fn garbage_on_the_wire_ends_only_its_own_connection() {
    let server = server().start().await;
    let app = server.app().await;
    let garbage: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /api/v1/app HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n123456",
        b"GET / HTTP/1.1\r\nhost: x\r\nbad header\0: y\r\n\r\n",
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
    ];
    for bytes in garbage {
        let mut connection = RawConnection::open(server.address()).await;
        connection.write(bytes).await.unwrap();
        // An error answer, or the end of the connection: either is in order, a success is not.
        if let Ok(Some(answer)) = connection.read_answer().await {
            assert!((400..=505).contains(&answer.status), "{}", answer.status);
        }
    }
    app.send("a", &json!({})).await;
}

#[tokio::test]
async fn a_caller_that_goes_away_in_the_middle_of_its_request_leaves_nothing_behind() {
    let server = server().start().await;
    let app = server.app().await;
    for sent in [10, 40] {
        let mut connection = RawConnection::open(server.address()).await;
        let body = message_of(100);
        connection.write(&message_head(&server, &app, body.len())).await.unwrap();
        connection.write(&body[..sent]).await.unwrap();
        drop(connection);
    }
    let whole = app.send("a", &json!({})).await;
    wait::until("the one message", async || {
        let listed = app.client.get(&app.path("/msg")).await.expect(200).json();
        (listed["data"][0]["id"] == json!(whole)).then_some(())
    })
    .await;
    assert_eq!(app.client.get(&app.path("/msg")).await.json()["data"].as_array().unwrap().len(), 1);
}
