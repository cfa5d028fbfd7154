//! What every request goes through (rest-contract §1, §2, §12), also over a real connection.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use hyper_util::rt::TokioIo;
use postrider_domain::application::EnvironmentId;
use postrider_ingest::{Tenant, Turn};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::{Extras, ORG, World, app_token, org_token};

#[tokio::test]
async fn a_slash_at_the_end_changes_nothing() {
    let world = World::new();
    let app = world.app("shop").await;
    for path in ["/app/shop/", "/app/shop//", "/app/shop/?x=1", "/app/shop"] {
        assert_eq!(world.get(path).await.expect(200)["id"], app, "{path}");
    }
    world.get("/health/ping/").await.expect(204);
}

#[tokio::test]
async fn what_does_not_exist_is_answered_with_json() {
    let world = World::new();
    world.get("/none").await.refused(404, "not_found");
    for path in ["//", "/api", "/docs/none"] {
        world.raw("GET", path, Extras::default()).await.refused(404, "not_found");
    }
    let wrong = world.send("PUT", "/app", json!({})).await;
    wrong.refused(405, "method_not_allowed");
    let allowed = wrong.headers["allow"].to_str().unwrap();
    assert!(allowed.contains("GET") && allowed.contains("POST"), "{allowed}");
    world.raw("OPTIONS", "/api/v1/app", Extras::default()).await.refused(405, "method_not_allowed");
    world.post("/auth/logout", json!({})).await.refused(501, "not_implemented");
}

#[tokio::test]
async fn health_needs_no_token() {
    let world = World::new();
    for method in ["GET", "HEAD"] {
        for path in ["/api/v1/health", "/api/v1/health/ping"] {
            let answer = world.raw(method, path, Extras::default()).await;
            assert_eq!((answer.status.as_u16(), answer.text.as_str()), (204, ""), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn the_content_type_of_a_body_does_not_matter() {
    let world = World::new();
    let token = org_token(ORG);
    for headers in [&[][..], &[("content-type", "text/plain")], &[("content-type", "application/json")]] {
        let extras = Extras { token: Some(&token), headers, body: r#"{"name":"x"}"#.into() };
        world.raw("POST", "/api/v1/app", extras).await.expect(201);
    }
}

#[tokio::test]
async fn pages_of_any_origin_may_call() {
    let world = World::new();
    let headers = [
        ("origin", "https://dash.test"),
        ("access-control-request-method", "PATCH"),
        ("access-control-request-headers", "authorization, x-odd"),
    ];
    let preflight = world.raw("OPTIONS", "/api/v1/app/x", Extras { headers: &headers, ..Extras::default() }).await;
    assert_eq!(preflight.status, 200);
    assert_eq!(preflight.headers["access-control-allow-origin"], "*");
    assert_eq!(preflight.headers["access-control-allow-methods"], "PATCH");
    assert_eq!(preflight.headers["access-control-allow-headers"], "authorization, x-odd");
    assert_eq!(preflight.headers["access-control-max-age"], "600");
    for path in ["/api/v1/app", "/none"] {
        let refused = world.raw("GET", path, Extras { headers: &headers[..1], ..Extras::default() }).await;
        assert!(refused.status.is_client_error());
        assert_eq!(refused.headers["access-control-allow-origin"], "*");
    }
}

/// Serves the world on one connection; gives the client's end.
async fn connect(world: &World) -> tokio::net::TcpStream {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let api = world.api.clone();
    tokio::spawn(async move {
        let service = hyper::service::service_fn(move |request| {
            let api = api.clone();
            async move { Ok::<_, std::convert::Infallible>(api.respond(request).await) }
        });
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    });
    client
}

/// Uploads `len` bytes, reads nothing until all are sent, then reads an answer and asks for another on the same
/// connection if that is still open.
async fn upload(world: &World, head: &str, len: usize) -> String {
    let mut client = connect(world).await;
    let exchange = async {
        client.write_all(head.as_bytes()).await.unwrap();
        let chunk = vec![b'x'; 64 * 1024];
        let mut left = len;
        while left > 0 {
            let now = left.min(chunk.len());
            client.write_all(&chunk[..now]).await.expect("the connection was reset during the upload");
            left -= now;
        }
        client.write_all(b"GET /api/v1/health/ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("the answer could not be read");
        answer
    };
    tokio::time::timeout(Duration::from_secs(30), exchange).await.expect("no answer")
}

#[tokio::test]
async fn a_client_that_uploads_too_much_can_read_its_answer() {
    let world = World::new();
    world.app("shop").await;
    let token = org_token(ORG);
    let len = 8_000_000;
    let head = |token: &str| {
        format!(
            "POST /api/v1/app/shop/msg HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {len}\r\n\r\n"
        )
    };
    let answer = upload(&world, &head(&token), len).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("payload_too_large"), "{answer}");
    assert!(answer.contains("HTTP/1.1 204 "), "the connection is of use still: {answer}");
    let answer = upload(&world, &head("wrong"), len).await;
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("HTTP/1.1 204 "), "{answer}");
}

/// All turns to have something large read.
fn all_turns(world: &World) -> Vec<Turn> {
    let turn_of = |number: usize| {
        let environment = EnvironmentId::parse(&format!("org_{number}")).unwrap();
        let intake = world.intake.clone();
        async move { intake.reading_turn(Tenant::environment(environment)).await.unwrap() }
    };
    let turns: Vec<_> = (0..).map_while(|number| turn_of(number).now_or_never()).collect();
    assert!(!turns.is_empty());
    turns
}

#[tokio::test]
async fn whoever_waits_for_a_turn_to_have_a_large_body_read_is_not_worked_on() {
    let world = World::new();
    let app = world.app("shop").await;
    let path = format!("/app/{app}/endpoint/{}", world.endpoint(&app, "main").await);
    let token = app_token(&app, &[]);
    // Others have them.
    let turns = all_turns(&world);
    let body = json!({ "description": "x".repeat(100_000) });
    let waiting = join_all((0..100).map(|_| world.send_as(&token, "PATCH", &path, Some(&body))));
    let small = async {
        for _ in 0..50 {
            world.send_as(&token, "GET", &path, None).await.expect(200);
        }
    };
    tokio::select! {
        _ = waiting => panic!("none of them has a turn"),
        () = small => {}
    }
    drop(turns);
    world.send_as(&token, "PATCH", &path, Some(&body)).await.invalid();
    world.close().await;
}

/// What becomes of a large body of the operator's for one application, when a hundred for another came before: those of its token,
/// or the operator's own.
async fn is_not_behind_another_application(with_its_token: bool) {
    let world = World::new();
    let (one, other) = (world.app("one").await, world.app("other").await);
    let endpoint = world.endpoint(&one, "main").await;
    let path = format!("/app/{one}/endpoint/{endpoint}");
    let operator = org_token(ORG);
    let token = if with_its_token { app_token(&one, &[]) } else { operator.clone() };
    let turns = all_turns(&world);
    let large = json!({ "description": "x".repeat(100_000) });
    let mut first: FuturesUnordered<_> =
        (0..100).map(|_| world.send_as(&token, "PATCH", &path, Some(&large))).collect();
    let come = async {
        for _ in 0..50 {
            world.send_as(&token, "GET", &path, None).await.expect(200);
        }
    };
    tokio::select! {
        _ = first.next() => panic!("none of them has a turn"),
        () = come => {}
    }
    // There is no event type, so nothing has to be stored before it is answered.
    let (message, messages) = (json!({ "payload": { "text": ",".repeat(5_200) } }), format!("/app/{other}/msg"));
    let mut last = Box::pin(world.send_as(&operator, "POST", &messages, Some(&message)));
    let comes = async {
        for _ in 0..50 {
            world.send_as(&operator, "GET", &format!("/app/{other}"), None).await.expect(200);
        }
    };
    tokio::select! {
        _ = &mut last => panic!("it has no turn"),
        _ = first.next() => panic!("none of them has a turn"),
        () = comes => {}
    }
    drop(turns);
    let mut before = 0;
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut last => break answer,
            Some(_) = first.next() => before += 1,
        }
    };
    answer.invalid();
    assert!(before < 10, "{before} came before");
    drop((first, last));
    world.close().await;
}

#[tokio::test]
async fn a_large_body_does_not_wait_behind_all_of_another_applications_token() {
    is_not_behind_another_application(true).await;
}

#[tokio::test]
async fn a_large_body_does_not_wait_behind_all_that_the_operator_sends_for_another_application() {
    is_not_behind_another_application(false).await;
}

#[tokio::test]
async fn what_a_header_says_is_unmistakable_or_refused() {
    let world = World::new();
    world.app("shop").await;
    let (token, other) = (format!("Bearer {}", org_token(ORG)), format!("Bearer {}", org_token("org_other")));
    let body = || Bytes::from_static(br#"{"eventType":"a","payload":{}}"#);
    for (headers, status) in [
        (vec![("authorization", token.as_str())], 202),
        (vec![("authorization", token.as_str()), ("authorization", other.as_str())], 400),
        (vec![("authorization", token.as_str()), ("idempotency-key", "a"), ("idempotency-key", "b")], 400),
        (
            vec![
                ("authorization", token.as_str()),
                ("content-type", "application/json"),
                ("content-type", "text/plain"),
            ],
            400,
        ),
        (vec![("authorization", token.as_str()), ("content-encoding", "identity")], 202),
        (vec![("authorization", token.as_str()), ("content-encoding", "gzip")], 415),
        (vec![("authorization", token.as_str()), ("content-encoding", "identity"), ("content-encoding", "br")], 415),
    ] {
        let extras = Extras { headers: &headers, body: body(), ..Extras::default() };
        let answer = world.raw("POST", "/api/v1/app/shop/msg", extras).await;
        assert_eq!(answer.status, status, "{headers:?}: {}", answer.text);
    }
}
