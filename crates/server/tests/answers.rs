//! What every answer has, whoever makes it: the router, the connection that it comes over, or the one who accepts connections.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::time::Duration;

use postrider_testkit::raw::{RawAnswer, RawConnection};
use postrider_testkit::{TestServer, TestServerBuilder, token, wait};
use serde_json::{Value, json};

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
}

/// What is answered to these bytes. What is sent after an answer has come may fail.
async fn answered(server: &TestServer, sent: &[u8]) -> RawAnswer {
    let mut connection = RawConnection::open(server.address()).await;
    let _ = connection.write(sent).await;
    connection.read_answer().await.unwrap().unwrap()
}

/// Checks that a browser does nothing with an answer but hand it to the page that asked.
fn assert_protected(answer: &RawAnswer, what: &str) {
    let header = |name: &str| answer.header(name).unwrap_or_default();
    assert_eq!(header("x-content-type-options"), "nosniff", "{what}: {answer:?}");
    assert_eq!(header("x-frame-options"), "DENY", "{what}");
    assert_eq!(header("referrer-policy"), "no-referrer", "{what}");
    assert!(header("content-security-policy").contains("default-src 'none'"), "{what}");
    assert!(header("content-security-policy").contains("frame-ancestors 'none'"), "{what}");
    assert!(!header("content-security-policy").contains("unsafe"), "{what}");
    assert!(matches!(header("cache-control"), "no-store" | "no-cache"), "{what}");
}

#[tokio::test]
async fn every_answer_has_the_headers_that_browsers_heed() {
    let server = server().set("limits.body_stall", "1s").start().await;
    let app = server.app().await;
    let endpoint = app.endpoint("https://example.com/").await;
    let me = format!("authorization: Bearer {}\r\n", server.token());
    let length = |length: usize| format!("{me}content-type: application/json\r\ncontent-length: {length}\r\n");
    let (messages, batch) = (app.path("/msg"), app.path("/msg/batch"));
    let secret = app.path(&format!("/endpoint/{endpoint}/secret"));
    let lines = format!("{me}content-type: application/x-ndjson\r\ncontent-length: 2\r\n");
    let page = "origin: https://example.com\r\naccess-control-request-method: GET\r\n";
    for (method, path, more, body, status) in [
        ("GET", "/api/v1/app", &*me, "", 200),
        ("GET", "/docs", "", "", 200),
        ("GET", "/docs/docs.js", "", "", 200),
        ("GET", "/api/v1/openapi.json", "", "", 200),
        ("GET", &*secret, &*me, "", 200),
        ("OPTIONS", "/api/v1/app", page, "", 200),
        ("POST", "/api/v1/app", &*length(14), r#"{"name":"more"}"#, 422),
        ("POST", "/api/v1/app", &*length(15), r#"{"name":"more"}"#, 201),
        ("POST", &*batch, &*lines, "1\n", 202),
        ("GET", "/api/v1/health/ping", "", "", 204),
        ("GET", "/", "", "", 307),
        ("GET", "/api/v1/app?order=none", &*me, "", 400),
        ("GET", "/api/v1/app", "host: again\r\n", "", 400),
        ("DELETE", "/api/v1/app/a/..", &*me, "", 400),
        ("GET", "/api/v1/app", "", "", 401),
        ("GET", "/none", "", "", 404),
        ("PATCH", "/api/v1/app", &*me, "", 405),
        ("POST", &*messages, &*length(10), "{", 408),
        ("POST", &*messages, &*length(3_000_000), "{", 413),
    ] {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{more}\r\n{body}");
        let answer = answered(&server, request.as_bytes()).await;
        let what = format!("{method} {path}");
        assert_eq!(answer.status, status, "{what}: {}", String::from_utf8_lossy(&answer.body));
        assert_protected(&answer, &what);
        if path == secret {
            assert_eq!(answer.header("cache-control"), Some("no-store"));
        }
    }
}

#[tokio::test]
async fn what_is_no_request_is_answered_without_a_body_that_a_browser_could_do_something_with() {
    let server = server().start().await;
    let long = "x".repeat(80_000);
    for (sent, status) in [
        ("nonsense\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nhost: x\r\nno colon\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n".to_owned(), 400),
        (format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"), 414),
        (format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(150)), 431),
        (format!("GET / HTTP/1.1\r\nhost: x\r\na: {long}{long}\r\n\r\n"), 431),
    ] {
        let answer = answered(&server, sent.as_bytes()).await;
        let what = &sent[..sent.len().min(60)];
        assert_eq!((answer.status, answer.header("content-length")), (status, Some("0")), "{what}: {answer:?}");
        assert_eq!(answer.header("content-type"), None, "{what}");
    }
}

#[tokio::test]
async fn whoever_finds_no_connection_free_is_answered_as_everybody_is() {
    let server =
        server().set("server.max_connections", "4").set("server.max_connections_per_address", "4").start().await;
    let app = server.app().await;
    let mut busy = tokio::task::JoinSet::new();
    // One operator alone does not get all of them.
    let claims = token::environment_claims("org_another");
    for token in [server.token(), server.token(), server.token(), server.sign(&claims)] {
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 2000000\r\nexpect: 100-continue\r\n\r\n",
            app.path("/msg")
        );
        let mut connection = wait::until("a request that is asked for its body", async || {
            let mut connection = RawConnection::open(server.address()).await;
            connection.write(head.as_bytes()).await.unwrap();
            (connection.read_answer().await.ok()??.status == 100).then_some(connection)
        })
        .await;
        // At more than the pace of those that are never closed for another.
        busy.spawn(async move {
            while connection.write(&[b' '; 8_192]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
    let told = wait::until("a refusal", async || {
        let mut connection = RawConnection::open(server.address()).await;
        let _ = connection.write(b"GET /api/v1/health/ping HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let answer = connection.read_answer().await.ok().flatten()?;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_protected(&told, "no connection");
    assert_eq!((told.header("retry-after"), told.header("connection")), (Some("1"), Some("close")));
    let body: Value = serde_json::from_slice(&told.body).unwrap();
    let said = json!("All connections of the server are in use. Try again in a moment.");
    assert_eq!((&body["code"], &body["detail"]), (&json!("overloaded"), &said));
    drop(busy);
}
