//! What one caller may cost: whatever he sends, or does not read, memory stays within its bounds, and others are served.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::Method;
use postrider_domain::time::Timestamp;
use postrider_testkit::raw::RawConnection;
use postrider_testkit::{App, Receiver, TestServer, TestServerBuilder, wait};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

const MIB: usize = 1024 * 1024;

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
}

/// The head of a request with a token, and whatever else.
fn head(method: &str, path: &str, token: &str, more: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{more}\r\n").into_bytes()
}

/// The status and the code of the next answer.
async fn refusal(connection: &mut RawConnection) -> (u16, String) {
    let answer = connection.read_answer().await.unwrap().unwrap();
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    (answer.status, body["code"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn bodies_that_never_end_hold_bounded_memory_and_only_their_sender_is_told_to_come_back() {
    let server = server().set("limits.request_bytes", (40 * MIB).to_string()).start().await;
    let (mine, other) = (server.app().await, server.app().await);
    let token = server.application_token(&mine.id);
    let before = server.memory_bytes();
    let floods: Vec<_> = (0..100)
        .map(|_| {
            let (address, path, token) = (server.address(), mine.path("/endpoint"), token.clone());
            tokio::spawn(async move {
                let mut connection = RawConnection::open(address).await;
                let length = format!("content-length: {}\r\n", 2 * MIB);
                connection.write(&head("POST", &path, &token, &length)).await.unwrap();
                // Fails once the server has had enough.
                let _ = connection.write(&vec![b' '; 2 * MIB - 1]).await;
                connection
            })
        })
        .collect();
    let mut refused = 0;
    for flood in floods {
        other.send("a", &json!({})).await;
        let mut connection = flood.await.unwrap();
        // One that got in is told that its body does not go on.
        let Ok(Some(answer)) = connection.read_answer().await else { continue };
        assert!(matches!(answer.status, 408 | 429), "{}", String::from_utf8_lossy(&answer.body));
        if answer.status == 429 {
            assert_eq!(answer.header("retry-after"), Some("1"));
            refused += 1;
        }
    }
    assert!(refused > 0);
    let grown = server.memory_bytes().saturating_sub(before) as usize;
    assert!(grown < 100 * MIB, "{} MiB", grown / MIB);
    other.send("a", &json!({})).await;
}

#[tokio::test]
async fn a_body_that_never_begins_or_stops_is_408() {
    let server = server().set("limits.body_stall", "300ms").start().await;
    let app = server.app().await;
    let lines = "transfer-encoding: chunked\r\ncontent-type: application/x-ndjson\r\n";
    for (path, more, sent) in [
        ("/msg", "content-length: 100\r\n", ""),
        ("/msg", "content-length: 100\r\n", "{"),
        ("/msg", "transfer-encoding: chunked\r\n", ""),
        ("/msg/batch", "content-length: 100\r\n", "["),
        ("/msg/batch", lines, ""),
        ("/endpoint", "content-length: 100\r\n", ""),
    ] {
        let mut connection = RawConnection::open(server.address()).await;
        connection.write(&head("POST", &app.path(path), &server.token(), more)).await.unwrap();
        connection.write(sent.as_bytes()).await.unwrap();
        assert_eq!(refusal(&mut connection).await, (408, "request_timeout".to_owned()), "{path} {more} {sent}");
    }
}

#[tokio::test]
async fn a_body_that_trickles_is_408_in_the_end() {
    let server = server().set("limits.body_timeout", "1s").start().await;
    let app = server.app().await;
    let mut connection = RawConnection::open(server.address()).await;
    connection.write(&head("POST", &app.path("/msg"), &server.token(), "content-length: 1000000\r\n")).await.unwrap();
    let trickle = async {
        while connection.write(b" ").await.is_ok() {
            let waited = tokio::time::timeout(Duration::from_millis(20), connection.read_answer()).await;
            if let Ok(answer) = waited {
                return answer.unwrap().unwrap().status;
            }
        }
        0
    };
    assert_eq!(wait::within("the end of the patience", trickle).await, 408);
}

/// An application with messages that make a full page.
async fn app_with_large_messages(server: &TestServer) -> App {
    let app = server.app().await;
    for _ in 0..6 {
        app.send("a", &json!({ "x": "x".repeat(500_000) })).await;
    }
    app
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_cut_off() {
    let server = server().set("server.write_timeout", "1s").start().await;
    let app = app_with_large_messages(&server).await;
    let mut connection = RawConnection::open(server.address()).await;
    let request = head("GET", &app.path("/msg"), &server.token(), "");
    connection.write(&request.repeat(20)).await.unwrap();
    wait::until("the end of the connection", async || connection.write(b"\r\n").await.err()).await;
}

/// What the system holds of what the server wrote to a client, in bytes, while the connection stands.
fn held_by_the_system(server: SocketAddr, client: SocketAddr) -> Option<u64> {
    let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ports = [server, client].map(|address| format!(":{:04X}", address.port()));
    let is_it = |line: &&str| {
        let mut columns = line.split_whitespace().skip(1);
        ports.iter().all(|port| columns.next().is_some_and(|column| column.ends_with(port)))
            && columns.next() == Some("01")
    };
    let queues = connections.lines().find(is_it)?.split_whitespace().nth(4)?;
    Some(u64::from_str_radix(queues.split_once(':')?.0, 16).unwrap())
}

#[tokio::test]
async fn the_system_holds_bounded_memory_for_a_client_that_does_not_read_whatever_it_asks_for() {
    let server = server().set("server.write_timeout", "1s").start().await;
    let app = app_with_large_messages(&server).await;
    let document = b"GET /api/v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".to_vec();
    for request in [document, head("GET", &app.path("/msg"), &server.token(), "")] {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let mut stream = socket.connect(server.address()).await.unwrap();
        stream.write_all(&request.repeat(30)).await.unwrap();
        let mut most = 0;
        wait::until("the end of the server's patience", async || {
            let held = held_by_the_system(server.address(), stream.local_addr().unwrap());
            most = most.max(held.unwrap_or(0));
            held.is_none().then_some(())
        })
        .await;
        assert!((1..=128 * 1024).contains(&most), "{most} bytes");
    }
}

#[tokio::test]
async fn answers_without_a_body_that_nobody_reads_hold_bounded_memory() {
    let server = server().set("server.write_timeout", "5s").start().await;
    let before = server.peak_memory_bytes();
    let head = "OPTIONS /a HTTP/1.1\r\nhost: x\r\naccess-control-request-method: a\r\nexpect: 100-continue\r\n";
    let requests = format!("{head}content-length: 1\r\n\r\nx").repeat(1_000);
    let floods = (0..8).map(|_| {
        let (address, requests) = (server.address(), requests.clone());
        tokio::spawn(async move {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            // Until the server has waited long enough for somebody who reads.
            for _ in 0..1_000 {
                if stream.write_all(requests.as_bytes()).await.is_err() {
                    break;
                }
            }
        })
    });
    for flood in floods.collect::<Vec<_>>() {
        flood.await.unwrap();
    }
    let grown = server.peak_memory_bytes().saturating_sub(before) as usize;
    assert!(grown < 16 * MIB, "{} MiB", grown / MIB);
}

#[tokio::test]
async fn requests_behind_one_another_are_all_answered_when_their_answers_are_read_late() {
    let server = server().start().await;
    for (request, status) in [("GET /api/v1/health/ping", 204), ("POST /api/v1/app", 401)] {
        let mut connection = RawConnection::open(server.address()).await;
        let request = format!("{request} HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx");
        // Their answers are more than the system takes.
        connection.write(request.repeat(2_000).as_bytes()).await.unwrap();
        for _ in 0..2_000 {
            assert_eq!(connection.read_answer().await.unwrap().unwrap().status, status);
        }
    }
    // Answered before their bodies end: each waits for the answers before it.
    let mut connection = RawConnection::open(server.address()).await;
    let head = "OPTIONS /a HTTP/1.1\r\nhost: x\r\naccess-control-request-method: a\r\nexpect: 100-continue\r\n";
    let requests = format!("{head}content-length: 1\r\n\r\nx").repeat(1_500);
    connection.write(requests.as_bytes()).await.unwrap();
    let mut answered = 0;
    // The server ends a connection of which a body is not there when its answer is.
    while answered < 1_500 && connection.read_answer().await.is_ok_and(|answer| answer.is_some()) {
        answered += 1;
    }
    assert!(answered > 0);
}

#[tokio::test]
async fn answers_that_nobody_reads_hold_bounded_memory_and_others_get_their_lists() {
    let server = server().set("limits.response_bytes", (64 * MIB).to_string()).start().await;
    let (mine, other) = (app_with_large_messages(&server).await, app_with_large_messages(&server).await);
    let request = head("GET", &mine.path("/msg"), &server.application_token(&mine.id), "");
    let before = server.memory_bytes();
    let mut unread = Vec::new();
    for _ in 0..80 {
        let mut connection = RawConnection::open(server.address()).await;
        connection.write(&request.repeat(5)).await.unwrap();
        unread.push(connection);
        other.client.get(&other.path("/msg?limit=1")).await.expect(200);
    }
    let grown = server.memory_bytes().saturating_sub(before) as usize;
    assert!(grown < 100 * MIB, "{} MiB", grown / MIB);
}

/// The same request over so many connections, of whose answers no more is read than that they begin.
struct Unread(Vec<JoinHandle<RawConnection>>);

impl Unread {
    fn send(server: &TestServer, request: &[u8], count: usize) -> Self {
        let one = |_| {
            let (address, request) = (server.address(), request.to_vec());
            tokio::spawn(async move {
                let mut connection = RawConnection::open(address).await;
                connection.write(&request).await.unwrap();
                connection.answer_begins().await.unwrap();
                connection
            })
        };
        Self((0..count).map(one).collect())
    }

    /// Returns when the first answer has begun. The others wait for room.
    async fn of(server: &TestServer, request: &[u8], count: usize) -> Self {
        let unread = Self::send(server, request, count);
        wait::until("an answer", async || (unread.without_answer() < count).then_some(())).await;
        unread
    }

    fn without_answer(&self) -> usize {
        self.0.iter().filter(|one| !one.is_finished()).count()
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Event types of megabytes, in the catalogue of the server's own environment.
async fn publish_megabytes(server: &TestServer) {
    let client = server.client();
    client.patch("/api/v1/environment/settings", &json!({ "publicCatalogue": true })).await.expect(200);
    for number in 0..7 {
        let schema = json!({ "title": "x".repeat(900_000) });
        let body = json!({ "name": format!("large.{number}"), "description": "", "schemas": { "1": schema } });
        client.post("/api/v1/event-type", &body).await.expect(201);
    }
}

#[tokio::test]
async fn whoever_waits_for_room_for_a_large_answer_keeps_nobodys_large_body_waiting() {
    let server = server().start().await;
    publish_megabytes(&server).await;
    let claims = postrider_testkit::token::environment_claims("org_neighbour");
    let neighbour = App::create(server.client_with(Some(server.sign(&claims)))).await;
    let large = json!({ "x": "x".repeat(100_000) });
    let catalogue = format!("GET /api/v1/catalogue/{} HTTP/1.1\r\nhost: x\r\n\r\n", server.org()).into_bytes();
    let export = head("POST", "/api/v1/environment/export", &server.token(), "content-length: 0\r\n");
    for (request, most) in [(catalogue, 1), (export, 2)] {
        let unread = Unread::of(&server, &request, 8).await;
        neighbour.send("a", &large).await;
        // Right after the first: they wait for so many seconds only.
        assert!(unread.without_answer() >= 8 - most, "{} wait", unread.without_answer());
        for _ in 0..20 {
            neighbour.send("a", &large).await;
        }
    }
}

#[tokio::test]
async fn an_import_that_is_only_tried_and_waits_for_room_keeps_no_import_waiting() {
    let server = server().start().await;
    publish_megabytes(&server).await;
    let export = head("POST", "/api/v1/environment/export", &server.token(), "content-length: 0\r\n");
    let exports = Unread::of(&server, &export, 8).await;
    let body = json!({ "spec": { "openapi": "3.1.0" }, "replaceAll": true, "dryRun": true }).to_string();
    let length = format!("content-length: {}\r\n", body.len());
    let mut tried = head("POST", "/api/v1/event-type/import/openapi", &server.token(), &length);
    tried.extend_from_slice(body.as_bytes());
    let tried = Unread::send(&server, &tried, 4);
    for number in 0..20 {
        let import = json!({ "eventTypes": [{ "name": format!("small.{number}"), "description": "" }] });
        server.client().post("/api/v1/environment/import", &import).await.expect(204);
        // They wait for so many seconds only.
        assert!(number > 0 || tried.without_answer() == 4);
    }
    drop(exports);
}

/// A request with a body of JSON.
fn with_body(method: &str, path: &str, token: &str, body: &str) -> Vec<u8> {
    let mut request = head(method, path, token, &format!("content-length: {}\r\n", body.len()));
    request.extend_from_slice(body.as_bytes());
    request
}

#[tokio::test]
async fn answers_to_changes_that_nobody_reads_hold_bounded_memory_and_others_change_theirs() {
    let server = server().start().await;
    let app = server.app().await;
    let schema = json!({ "title": "x".repeat(1_000_000) });
    let large = json!({ "name": "large", "description": "", "schemas": { "1": schema } });
    app.client.post("/api/v1/event-type", &large).await.expect(201);
    let types: Vec<_> =
        (0..1_000).map(|place| json!({ "name": format!("t{place:0>250}"), "description": "" })).collect();
    app.client.post("/api/v1/environment/import", &json!({ "eventTypes": types })).await.expect(204);
    let names: Vec<_> = types.iter().map(|one| one["name"].clone()).collect();
    let endpoint = json!({ "url": "https://example.com/", "filterTypes": names, "uid": "e" });
    app.client.post(&app.path("/endpoint"), &endpoint).await.expect(201);
    let other = server.client_with(Some(server.sign(&postrider_testkit::token::environment_claims("org_another"))));
    let other = App::create(other).await;
    let id = other.endpoint("https://example.com/").await;
    for (path, token) in [
        ("/api/v1/event-type/large".to_owned(), server.token()),
        (app.path("/endpoint/e"), server.application_token(&app.id)),
    ] {
        let before = server.memory_bytes();
        let unread = Unread::send(&server, &with_body("PATCH", &path, &token, "{}"), 300);
        wait::until("an answer to each", async || (unread.without_answer() == 0).then_some(())).await;
        let grown = server.memory_bytes().saturating_sub(before) as usize;
        assert!(grown < 90 * MIB, "{path}: {} MiB", grown / MIB);
        // His own changes are refused before they are made; nobody else's are.
        let mine = server.client_with(Some(token));
        let refused = mine.patch(&path, &json!({ "description": "changed" })).await;
        assert_eq!(refused.expect(429).json()["code"], "too_many_requests");
        other.client.patch(&other.path(&format!("/endpoint/{id}")), &json!({})).await.expect(200);
        drop(unread);
        let read = wait::until("room", async || {
            let read = mine.get(&path).await;
            (read.status == 200).then_some(read)
        });
        assert_eq!(read.await.json()["description"], "");
    }
}

#[tokio::test]
async fn what_is_told_of_many_payloads_that_do_not_match_is_bounded() {
    let server = server().start().await;
    let app = server.app().await;
    let schema = json!({ "type": "object", "additionalProperties": { "$ref": "#" } });
    let deep = json!({ "name": "deep", "description": "", "schemas": { "1": schema } });
    app.client.post("/api/v1/event-type", &deep).await.expect(201);
    let numbers: Vec<_> = (0..50).map(|number| format!("\"{number}\":{number}")).collect();
    let payload =
        format!("{}{{{}}}{}", format!("{{\"{}\":", "x".repeat(256)).repeat(80), numbers.join(","), "}".repeat(80));
    let item = format!(r#"{{"eventType":"deep","payload":{payload}}}"#);
    let post = async |path: &str, kind: &str, body: String| {
        let request = app.client.request(Method::POST, &app.path(path)).header("content-type", kind);
        request.body(body.into_bytes()).send().await
    };
    for (how, status, member) in [("warn", 202, "warnings"), ("reject", 422, "detail")] {
        app.client.patch("/api/v1/environment/settings", &json!({ "schemaEnforcement": how })).await.expect(200);
        let one = post("/msg", "application/json", item.clone()).await.expect(status);
        let text = one.text();
        assert!(text.contains("does not match in more places than are listed"), "{how}");
        let of_it = if how == "reject" { text.len() } else { text.len() - payload.len() };
        assert!((8_000..24_000).contains(&of_it), "{how}: {of_it} bytes");
        let array = format!("[{}]", vec![item.as_str(); 100].join(","));
        let answer = post("/msg/batch", "application/json", array).await.expect(202);
        let results = answer.json()["data"].as_array().unwrap().clone();
        let lines = post("/msg/batch", "application/x-ndjson", vec![item.as_str(); 100].join("\n")).await.expect(202);
        for answer in [&answer, &lines] {
            assert!(answer.body.len() < 3 * MIB / 2, "{how}: {} bytes", answer.body.len());
            assert!(answer.text().contains("no more is reported"));
        }
        assert!(
            results.len() == 100
                && results.iter().all(|result| result[member][0]["loc"][1] == format!("[{}]", result["index"]))
        );
        assert_eq!(lines.text().lines().count(), 100);
    }
}

#[tokio::test]
async fn what_a_caller_sent_is_not_repeated_whole_in_the_text_of_an_error() {
    let server = server().start().await;
    let app = server.app().await;
    let long = "x".repeat(1_900_000);
    let refused = app
        .client
        .post(&app.path("/msg"), &json!({ "eventType": "a", "payload": {}, "payloadRetentionHours": long }))
        .await
        .expect(422);
    assert!(refused.body.len() < 2_000, "{}", refused.body.len());
    assert_eq!(refused.json()["detail"][0]["loc"], json!(["body", "payloadRetentionHours"]));
    let endpoint = json!({ "url": "https://example.com/", "filterTypes": (0..1_000).map(|n| format!("{n:0>250}")).collect::<Vec<_>>() });
    let refused = app.client.post(&app.path("/endpoint"), &endpoint).await.expect(422);
    assert!(refused.body.len() < 2_000, "{}", refused.body.len());
}

#[tokio::test]
async fn members_of_many_values_that_are_not_known_take_no_memory() {
    let server = server().start().await;
    let app = server.app().await;
    let zeros = vec!["0"; 3_500_000].join(",");
    let before = server.peak_memory_bytes();
    for (path, body) in [
        (
            "/api/v1/environment/import".to_owned(),
            format!(r#"{{"eventTypes":[{{"name":"a","description":"","x":[{zeros}]}}]}}"#),
        ),
        (
            app.path("/msg/batch"),
            // As many as there are in a message by itself, which is the most of one in an array.
            format!(
                r#"[{{"eventType":"a","payload":{{}},"application":{{"name":"a","x":[{}]}}}}]"#,
                &zeros[..2_000_001]
            ),
        ),
    ] {
        let answer = app
            .client
            .request(Method::POST, &path)
            .header("content-type", "application/json")
            .body(body.into_bytes())
            .send()
            .await;
        assert!(answer.text().contains("values"), "{path}: {}", answer.text());
    }
    let many = vec![r#"{"name":"a","description":""}"#; 270_000].join(",");
    let body = format!(r#"{{"eventTypes":[{many}]}}"#);
    let answer =
        app.client.request(Method::POST, "/api/v1/environment/import").body(body.into_bytes()).send().await.expect(422);
    assert!(answer.text().contains("at most 10000 elements"), "{}", answer.text());
    let grown = server.peak_memory_bytes().saturating_sub(before) as usize;
    assert!(grown < 64 * MIB, "{} MiB", grown / MIB);
}

#[tokio::test]
async fn whoever_waits_for_room_for_a_list_is_not_worked_on() {
    let server = server().start().await;
    let app = app_with_large_messages(&server).await;
    let endpoint = app.path(&format!("/endpoint/{}", app.endpoint("https://example.com/").await));
    let token = server.application_token(&app.id);
    let unread = Unread::of(&server, &head("GET", &app.path("/msg"), &token, ""), 80).await;
    let customer = server.client_with(Some(token));
    customer.get(&endpoint).await.expect(200);
    // Right after the first: they wait for so many seconds only.
    assert!(unread.without_answer() >= 70, "{} wait", unread.without_answer());
    for _ in 0..20 {
        customer.get(&endpoint).await.expect(200);
    }
}

#[tokio::test]
async fn whoever_waits_for_room_for_a_body_is_not_worked_on() {
    let server = server().start().await;
    let app = server.app().await;
    let endpoint = app.path(&format!("/endpoint/{}", app.endpoint("https://example.com/").await));
    let token = server.application_token(&app.id);
    // Who has room is told to go on with his body.
    let more = format!("content-length: {MIB}\r\nexpect: 100-continue\r\n");
    let unread = Unread::of(&server, &head("POST", &app.path("/endpoint"), &token, &more), 80).await;
    let customer = server.client_with(Some(token));
    customer.get(&endpoint).await.expect(200);
    // Right after the first: they wait for so many seconds only.
    assert!(unread.without_answer() >= 70, "{} wait", unread.without_answer());
    for _ in 0..20 {
        customer.get(&endpoint).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_lists_of_one_operator_at_once_wait_and_none_is_refused() {
    // Room for four pages at a time.
    let server = server().set("limits.response_bytes", (56 * MIB).to_string()).start().await;
    let app = server.app().await;
    app.send("a", &json!({})).await;
    let lists: tokio::task::JoinSet<u16> = (0..128)
        .map(|number| {
            let (client, path) = (server.client(), app.path(["/msg", "/endpoint"][number % 2]));
            async move { client.get(&path).await.status }
        })
        .collect();
    assert_eq!(lists.join_all().await, [200; 128]);
}

#[tokio::test]
async fn lists_of_large_rows_end_early_whatever_they_list() {
    let server = server().start().await;
    let client = server.client();
    let schema = json!({ "type": "object", "description": "x".repeat(200_000) });
    for n in 0..15 {
        let body = json!({ "name": format!("type{n:02}"), "description": "", "schemas": { "1": schema } });
        client.post("/api/v1/event-type", &body).await.expect(201);
    }
    let (mut seen, mut iterator, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = client.get(&format!("/api/v1/event-type?with_content=true{iterator}")).await.expect(200);
        assert!(page.body.len() < 3 * MIB, "{}", page.body.len());
        let page = page.json();
        seen.extend(page["data"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()));
        pages += 1;
        if page["done"] == true {
            break;
        }
        iterator = format!("&iterator={}", page["iterator"].as_str().unwrap());
    }
    assert!(pages > 1);
    assert_eq!(seen, (0..15).map(|n| format!("type{n:02}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn idle_connections_make_room_for_new_ones_and_deliveries_go_on() {
    let server = server().set("server.max_connections", "20").start().await;
    let app = server.app().await;
    let receiver = Receiver::ok().await;
    app.endpoint(&receiver.url()).await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(RawConnection::open(server.address()).await);
    }
    let sent = server.client().post(&app.path("/msg"), &json!({ "eventType": "a", "payload": {} })).await;
    receiver.wait_for_id(sent.expect(202).json()["id"].as_str().unwrap()).await;
    assert!(idle[0].read_answer().await.unwrap().is_none(), "the one that was idle for longest was closed");
}

#[tokio::test]
async fn connections_of_one_address_are_limited_among_themselves() {
    let server = server().set("server.max_connections_per_address", "5").start().await;
    let mut idle = Vec::new();
    for _ in 0..6 {
        idle.push(RawConnection::open(server.address()).await);
    }
    assert!(idle[0].read_answer().await.unwrap().is_none());
    idle[5].write(b"GET /api/v1/health/ping HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(idle[5].read_answer().await.unwrap().unwrap().status, 204);
}

#[tokio::test]
async fn a_connection_whose_answer_is_still_being_read_is_not_closed_for_another() {
    let server = server().set("server.max_connections_per_address", "4").start().await;
    publish_megabytes(&server).await;
    let mut slow = RawConnection::open(server.address()).await;
    slow.write(&head("POST", "/api/v1/environment/export", &server.token(), "content-length: 0\r\n")).await.unwrap();
    slow.answer_begins().await.unwrap();
    // More than there may be: of those that wait, one after the other is closed.
    let mut others = Vec::new();
    for _ in 0..8 {
        others.push(RawConnection::open(server.address()).await);
        server.client().get("/api/v1/health/ping").await.expect(204);
    }
    let answer = slow.read_answer().await.unwrap().unwrap();
    assert!(answer.status == 200 && answer.body.len() > 6_000_000, "{}", answer.body.len());
}

#[tokio::test]
async fn what_is_closed_for_a_new_connection_never_was_a_request_under_way() {
    let server = server().set("server.max_connections_per_address", "1").start().await;
    let (address, token) = (server.address(), server.token());
    let mut unanswered = Vec::new();
    let mut answered = 0;
    for round in 0..200 {
        let mut idle = RawConnection::open(address).await;
        idle.write(b"GET /api/v1/health/ping HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert_eq!(idle.read_answer().await.unwrap().unwrap().status, 204);
        let body = format!(r#"{{"name":"a","uid":"r-{round}"}}"#);
        let mut request = head("POST", "/api/v1/app", &token, &format!("content-length: {}\r\n", body.len()));
        request.extend_from_slice(body.as_bytes());
        let (_, other) = tokio::join!(idle.write(&request), RawConnection::open(address));
        match idle.read_answer().await {
            Ok(Some(answer)) if answer.status == 201 => answered += 1,
            Ok(Some(answer)) => panic!("{}", answer.status),
            Ok(None) | Err(_) => unanswered.push(round),
        }
        drop(other);
    }
    let client = server.client();
    for round in &unanswered {
        client.get(&format!("/api/v1/app/r-{round}")).await.expect(404);
    }
    // Which of the two comes first is the machine's choice, but it is not always the same one that loses.
    assert!(answered > 0, "a request that was under way is answered");
}

/// A server with four connections, whoever has them.
fn few_connections() -> TestServerBuilder {
    server().set("server.max_connections", "4").set("server.max_connections_per_address", "4")
}

/// A request under way that waits for its body. Its operator may have too many for a moment, while an earlier answer is written.
async fn asked_for_its_body(server: &TestServer, app: &App, token: &str, length: usize) -> RawConnection {
    wait::until("a request that is asked for its body", async || {
        let mut connection = RawConnection::open(server.address()).await;
        let more = format!("content-length: {length}\r\nexpect: 100-continue\r\n");
        connection.write(&head("POST", &app.path("/msg"), token, &more)).await.unwrap();
        (connection.read_answer().await.ok()??.status == 100).then_some(connection)
    })
    .await
}

#[tokio::test]
async fn when_all_connections_are_busy_the_next_one_is_told_so() {
    let server = few_connections().start().await;
    let app = server.app().await;
    let mut busy = tokio::task::JoinSet::new();
    // One operator alone does not get all of them.
    let claims = postrider_testkit::token::environment_claims("org_another");
    for token in [server.token(), server.token(), server.token(), server.sign(&claims)] {
        let mut connection = asked_for_its_body(&server, &app, &token, 2_000_000).await;
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
    assert_eq!(told.header("retry-after"), Some("1"));
    assert_eq!(serde_json::from_slice::<Value>(&told.body).unwrap()["code"], "overloaded");
    drop(busy);
    wait::until("room", async || {
        let mut connection = RawConnection::open(server.address()).await;
        let _ = connection.write(b"GET /api/v1/health/ping HTTP/1.1\r\nhost: x\r\n\r\n").await;
        connection.read_answer().await.ok().flatten().filter(|answer| answer.status == 204)
    })
    .await;
}

/// Whether somebody who comes anew, from this address, is answered that the server lives.
async fn is_answered(server: &TestServer, from: Ipv4Addr) -> bool {
    let mut connection = RawConnection::open_from(from.into(), server.address()).await;
    let _ = connection.write(b"GET /api/v1/health/ping HTTP/1.1\r\nhost: x\r\n\r\n").await;
    connection.read_answer().await.ok().flatten().is_some_and(|answer| answer.status == 204)
}

#[tokio::test]
async fn two_addresses_that_do_not_read_what_anybody_may_ask_for_leave_room_for_a_third() {
    let server =
        server().set("server.max_connections", "8").set("server.max_connections_per_address", "4").start().await;
    let [first, second, third] = [2, 3, 4].map(|last| Ipv4Addr::new(127, 0, 0, last));
    let document = "GET /api/v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(30);
    let mut unread = Vec::new();
    for round in 0..3 {
        for address in [first, second].repeat(4) {
            let mut connection = RawConnection::open_from(address.into(), server.address()).await;
            connection.write(document.as_bytes()).await.unwrap();
            connection.answer_begins().await.unwrap();
            unread.push(connection);
        }
        assert!(is_answered(&server, third).await, "a third address, round {round}");
        server.client().get("/api/v1/health").await.expect(204);
    }
    assert!(is_answered(&server, first).await, "their own others");
}

/// Sends bodies late, again and again, over connections from this address, for ever: the head and a byte at once, and the rest a while
/// later.
fn send_bodies_late(
    server: &TestServer,
    app: &App,
    token: &str,
    from: Ipv4Addr,
    connections: usize,
) -> tokio::task::JoinSet<()> {
    const BODY: &[u8] = br#"{"url":1}"#;
    let mut sending = tokio::task::JoinSet::new();
    let length = format!("content-type: application/json\r\ncontent-length: {}\r\n", BODY.len());
    let request = [head("POST", &app.path("/endpoint"), token, &length), BODY[..1].to_vec()].concat();
    for _ in 0..connections {
        let (address, request) = (server.address(), request.clone());
        sending.spawn(async move {
            loop {
                let mut connection = RawConnection::open_from(from.into(), address).await;
                while connection.write(&request).await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    let rest = connection.write(&BODY[1..]).await;
                    if rest.is_err() || !connection.read_answer().await.is_ok_and(|answer| answer.is_some()) {
                        break;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    sending
}

#[tokio::test]
async fn bodies_that_come_late_again_and_again_leave_room_for_those_that_are_sent_promptly() {
    for environments in [1, 2, 4] {
        let server = server()
            .set("server.max_connections", "256")
            .set("server.max_connections_per_address", "128")
            .start()
            .await;
        let mine = server.app().await;
        let [first, second, third] = [2, 3, 4].map(|last| Ipv4Addr::new(127, 0, 0, last));
        let mut sending = Vec::new();
        for number in 0..environments {
            let org = format!("org_late{number}");
            let operator = server.sign(&postrider_testkit::token::environment_claims(&org));
            let app = App::create(server.client_with(Some(operator.clone()))).await;
            let tenant = server.sign(&postrider_testkit::token::application_claims(&org, &app.id));
            for (token, from) in [(&operator, first), (&tenant, second), (&operator, third)] {
                sending.push(send_bodies_late(&server, &app, token, from, 360 / 3 / environments));
            }
        }
        // They have what they can get, and are known for what they are.
        tokio::time::sleep(Duration::from_secs(4)).await;
        let list = head("GET", &mine.path("/endpoint"), &server.token(), "");
        let mut kept = RawConnection::open(server.address()).await;
        for round in 0..100 {
            kept.write(&list).await.unwrap();
            let answer = kept.read_answer().await.unwrap();
            let status = answer.expect("a connection that a known caller keeps goes on").status;
            assert_eq!(status, 200, "{environments} environments, round {round}");
            assert!(is_answered(&server, Ipv4Addr::LOCALHOST).await, "{environments} environments, round {round}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        mine.send("a", &json!({})).await;
    }
}

/// Sends this from these addresses for ever, each time over a new connection, and then leaves that until it is closed, or for three
/// seconds.
fn hold_after_answers(server: &TestServer, request: &[u8], from: &[Ipv4Addr]) -> tokio::task::JoinSet<()> {
    let mut holding = tokio::task::JoinSet::new();
    for from in from {
        let (address, request, from) = (server.address(), request.to_owned(), IpAddr::from(*from));
        holding.spawn(async move {
            loop {
                let mut connection = RawConnection::open_from(from, address).await;
                let _ = connection.write(&request).await;
                if connection.read_answer().await.is_ok_and(|answer| answer.is_some()) {
                    let _ = tokio::time::timeout(Duration::from_secs(3), connection.read_answer()).await;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    holding
}

/// What is answered to whoever comes anew with this.
async fn answered(server: &TestServer, request: &[u8]) -> Option<u16> {
    let mut connection = RawConnection::open(server.address()).await;
    let _ = connection.write(request).await;
    connection.read_answer().await.ok().flatten().map(|answer| answer.status)
}

#[tokio::test]
async fn what_one_token_holds_when_its_requests_were_answered_leaves_room_for_whoever_comes() {
    const LATE: &str = "content-length: 19\r\n";
    let three = [2, 3, 4].map(|last| Ipv4Addr::new(127, 0, 0, last)).repeat(140);
    let many = (0..210).map(|last| Ipv4Addr::new(127, 0, 1, last)).collect::<Vec<_>>().repeat(2);
    let same = vec![Ipv4Addr::LOCALHOST; 420];
    // Bodies that are not needed, and do not come; and connections that were just used.
    for (method, length, from, of_address) in [
        ("GET", LATE, &three, "128"),
        ("PATCH", LATE, &many, "128"),
        ("HEAD", LATE, &same, "256"),
        ("GET", "", &three, "128"),
        ("GET", "", &many, "128"),
    ] {
        let server = server().set("server.max_connections", "256");
        let server = server.set("server.max_connections_per_address", of_address).start().await;
        let app = server.app().await;
        let request = head(method, &app.path(""), &server.application_token(&app.id), length);
        let _holding = hold_after_answers(&server, &request, from);
        let another = server.sign(&postrider_testkit::token::environment_claims("org_another"));
        let health = head("GET", "/api/v1/health", "", "");
        let list = head("GET", "/api/v1/app", &another, "");
        let mut refused = 0;
        for _ in 0..100 {
            refused += usize::from(answered(&server, &health).await != Some(204));
            refused += usize::from(answered(&server, &list).await != Some(200));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Hundreds come anew at the same instant, of which one may lose now and then.
        assert!(refused <= 3, "{refused} of 200 beside {method} {length:?} from {}", from[0]);
    }
}

/// Asks for something with keys that nobody knows, so many times ahead, over connections from this address, for ever.
fn ask_with_unknown_keys(
    server: &TestServer,
    from: Ipv4Addr,
    connections: usize,
    ahead: usize,
) -> tokio::task::JoinSet<()> {
    let address = server.address();
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..connections {
        asking.spawn(async move {
            let mut keys = (0..).map(|key| format!("pk_{number}_{key}_{}", "x".repeat(30)));
            let mut request = move || head("GET", "/api/v1/app", &keys.next().unwrap(), "");
            loop {
                let mut connection = RawConnection::open_from(from.into(), address).await;
                let first: Vec<u8> = (0..ahead).flat_map(|_| request()).collect();
                let _ = connection.write(&first).await;
                while connection.write(&request()).await.is_ok()
                    && connection.read_answer().await.is_ok_and(|answer| answer.is_some())
                {}
            }
        });
    }
    asking
}

#[tokio::test]
async fn two_addresses_that_ask_all_the_time_with_keys_that_nobody_knows_leave_room_for_a_third() {
    for ahead in [3, 500] {
        let server =
            server().set("server.max_connections", "16").set("server.max_connections_per_address", "8").start().await;
        let whoami = head("GET", "/api/v1/auth/whoami", &server.token(), "");
        let [first, second, third] = [2, 3, 4].map(|last| Ipv4Addr::new(127, 0, 0, last));
        let _asking = [first, second].map(|address| ask_with_unknown_keys(&server, address, 12, ahead));
        let mut refused = 0;
        for _ in 0..200 {
            let mut connection = RawConnection::open_from(third.into(), server.address()).await;
            let _ = connection.write(&whoami).await;
            let answer = connection.read_answer().await.ok().flatten();
            refused += usize::from(answer.is_none_or(|answer| answer.status != 200));
            refused += usize::from(!is_answered(&server, third).await);
        }
        assert_eq!(refused, 0, "of 400, beside {ahead} requests ahead");
    }
}

#[tokio::test]
async fn quiet_connections_of_nobody_from_many_addresses_end_none_that_known_callers_use() {
    let server =
        server().set("server.max_connections", "128").set("server.max_connections_per_address", "128").start().await;
    let (busy, whoami) = (Ipv4Addr::new(127, 0, 0, 2), head("GET", "/api/v1/auth/whoami", &server.token(), ""));
    let known = async || {
        let mut connection = RawConnection::open_from(busy.into(), server.address()).await;
        connection.write(&whoami).await.unwrap();
        (connection.read_answer().await.unwrap().unwrap().status, connection)
    };
    let mut kept = Vec::new();
    for _ in 0..12 {
        kept.push(known().await);
    }
    let mut quiet = Vec::new();
    for last in 100..120 {
        let mut connection = RawConnection::open_from(Ipv4Addr::new(127, 0, 0, last).into(), server.address()).await;
        connection.write(b"GET /api/v1/app HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert_eq!(connection.read_answer().await.unwrap().unwrap().status, 401);
        quiet.push(connection);
    }
    // Whoever comes anew needs a place each time.
    for _ in 0..15 {
        kept.push(known().await);
    }
    for (status, connection) in &mut kept {
        assert_eq!(*status, 200);
        connection.write(&whoami).await.unwrap();
        assert_eq!(connection.read_answer().await.unwrap().map(|answer| answer.status), Some(200));
    }
}

#[tokio::test]
async fn paths_and_queries_of_thousands_of_parts_are_refused_whoever_asks() {
    let server = server().start().await;
    let anybody = server.client_with(None);
    for (steps, refused) in [(4_000, (400, "ambiguous_path")), (30_000, (414, "uri_too_long"))] {
        let path = format!("/{}event-type/x", "./".repeat(steps));
        let mut connection = RawConnection::open(server.address()).await;
        connection.write(&head("DELETE", &path, "none", "")).await.unwrap();
        assert_eq!(refusal(&mut connection).await, (refused.0, refused.1.to_owned()));
    }
    for parameters in [600, 601, 32_000] {
        let path = format!("/api/v1/app/x/attempt/endpoint/y?{}", "a&".repeat(parameters));
        let answer = anybody.get(&path).await;
        assert_eq!(answer.status, if parameters > 600 { 422 } else { 401 }, "{}", answer.text());
    }
}

#[tokio::test]
async fn a_body_without_a_token_holds_no_place() {
    let server = few_connections().start().await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut connection = RawConnection::open(server.address()).await;
        let head = b"POST /api/v1/app HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{";
        connection.write(head).await.unwrap();
        connection.answer_begins().await.unwrap();
        slow.push(connection);
    }
    assert!(is_answered(&server, Ipv4Addr::new(127, 0, 0, 2)).await);
}

#[tokio::test]
async fn bodies_of_known_callers_that_do_not_come_leave_room_in_the_end() {
    let server = few_connections().set("limits.body_stall", "10m").set("limits.body_timeout", "10m").start().await;
    let app = server.app().await;
    let claims = postrider_testkit::token::environment_claims("org_another");
    let mut slow = Vec::new();
    for token in [server.token(), server.token(), server.token(), server.sign(&claims)] {
        slow.push(asked_for_its_body(&server, &app, &token, 100).await);
    }
    wait::until("room", async || is_answered(&server, Ipv4Addr::new(127, 0, 0, 2)).await.then_some(())).await;
}

#[tokio::test]
async fn one_address_gets_half_of_the_connections_if_nothing_is_said() {
    let server = server().set("server.max_connections", "8").set("server.head_timeout", "10m").start().await;
    let mut idle = Vec::new();
    for _ in 0..5 {
        idle.push(RawConnection::open(server.address()).await);
    }
    assert!(idle[0].read_answer().await.unwrap().is_none());
}

#[tokio::test]
async fn a_connection_without_a_first_request_is_closed_soon_and_a_used_one_is_kept() {
    let server = server().set("server.head_timeout", "300ms").start().await;
    let ping = b"GET /api/v1/health/ping HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut used = RawConnection::open(server.address()).await;
    used.write(ping).await.unwrap();
    assert_eq!(used.read_answer().await.unwrap().unwrap().status, 204);
    for sent in ["", "GET /api/v1/health"] {
        let mut silent = RawConnection::open(server.address()).await;
        silent.write(sent.as_bytes()).await.unwrap();
        assert!(silent.read_answer().await.is_ok_and(|answer| answer.is_none()), "{sent:?}");
    }
    used.write(ping).await.unwrap();
    assert_eq!(used.read_answer().await.unwrap().unwrap().status, 204);
}

#[tokio::test]
async fn an_application_has_only_so_many_endpoints() {
    let server = server().set("limits.endpoints_per_application", "3").start().await;
    let (app, other) = (server.app().await, server.app().await);
    let body = json!({ "url": "https://example.com/" });
    let mut endpoints = Vec::new();
    for _ in 0..3 {
        endpoints.push(app.endpoint("https://example.com/").await);
    }
    for (method, path) in [(Method::POST, "/endpoint"), (Method::PUT, "/endpoint/new")] {
        let answer = app.client.request(method, &app.path(path)).json(&body).send().await;
        let error = answer.expect(400).json();
        assert_eq!(error["code"], "limit_reached");
        assert!(error["detail"].as_str().unwrap().contains("limits.endpoints_per_application"), "{error}");
    }
    app.client.put(&app.path(&format!("/endpoint/{}", endpoints[0])), &body).await.expect(200);
    app.client.delete(&app.path(&format!("/endpoint/{}", endpoints[0]))).await.expect(204);
    app.endpoint("https://example.com/").await;
    other.endpoint("https://example.com/").await;
}

#[tokio::test]
async fn an_environment_has_only_so_many_event_types() {
    let server = server().set("limits.event_types_per_environment", "2").start().await;
    let client = server.client();
    for name in ["a", "b"] {
        client.post("/api/v1/event-type", &json!({ "name": name, "description": "" })).await.expect(201);
    }
    let one = json!({ "name": "c", "description": "" });
    for answer in [
        client.post("/api/v1/event-type", &one).await,
        client.put("/api/v1/event-type/c", &json!({ "description": "" })).await,
    ] {
        assert_eq!(answer.expect(400).json()["code"], "limit_reached");
    }
    client.put("/api/v1/event-type/a", &json!({ "description": "x" })).await.expect(200);
}

/// How many of these were made, of requests at the same instant; the others are told that there is no room.
async fn made_at_once(app: &App, requests: impl Iterator<Item = (Method, String, Value)>) -> usize {
    let requests: Vec<_> = requests.collect();
    let one = async |(method, path, body): &(Method, String, Value)| {
        let answer = app.client.request(method.clone(), path).json(body).send().await;
        if answer.status == 400 {
            assert_eq!(answer.json()["code"], "limit_reached", "{}", answer.text());
        }
        answer.status
    };
    let statuses = futures_util::future::join_all(requests.iter().map(one)).await;
    assert!(statuses.iter().all(|status| matches!(status, 200 | 201 | 204 | 400)), "{statuses:?}");
    statuses.iter().filter(|status| **status != 400).count()
}

#[tokio::test]
async fn requests_at_the_same_instant_do_not_get_past_a_cap() {
    let server = server()
        .set("limits.event_types_per_environment", "7")
        .set("limits.endpoints_per_application", "5")
        .start()
        .await;
    let app = server.app().await;
    let described = json!({ "description": "" });
    let event_types = (0..30).map(|number| match number % 3 {
        0 => {
            (Method::POST, "/api/v1/event-type".to_owned(), json!({ "name": format!("a{number}"), "description": "" }))
        }
        1 => (Method::PUT, format!("/api/v1/event-type/a{number}"), described.clone()),
        _ => {
            let new = json!({ "eventTypes": [{ "name": format!("a{number}"), "description": "" }] });
            (Method::POST, "/api/v1/environment/import".to_owned(), new)
        }
    });
    assert_eq!(made_at_once(&app, event_types).await, 7);
    let all = app.client.get("/api/v1/event-type").await.expect(200).json();
    let known: Vec<_> = all["data"].as_array().unwrap().clone();
    assert_eq!(known.len(), 7);

    let body = json!({ "url": "https://example.com/" });
    let endpoints = (0..20).map(|number| match number % 2 {
        0 => (Method::POST, app.path("/endpoint"), body.clone()),
        _ => (Method::PUT, app.path(&format!("/endpoint/e{number}")), body.clone()),
    });
    assert_eq!(made_at_once(&app, endpoints).await, 5);
    let endpoint = app.client.get(&app.path("/endpoint")).await.expect(200).json()["data"][0]["id"].clone();
    let path = |number: usize| app.path(&format!("/poller/{}/consumer/c{number}/seek", endpoint.as_str().unwrap()));
    let consumers = (0..130).map(|number| (Method::POST, path(number), json!({ "after": "2026-01-01T00:00:00Z" })));
    assert_eq!(made_at_once(&app, consumers).await, 100);

    // What is there can be changed, and imported again; of an import that does not fit nothing stays.
    let import = async |event_types: &[Value]| {
        app.client.post("/api/v1/environment/import", &json!({ "eventTypes": event_types })).await
    };
    import(&known).await.expect(204);
    let freed = known[0]["name"].as_str().unwrap();
    app.client.delete(&format!("/api/v1/event-type/{freed}?expunge=true")).await.expect(204);
    let two = ["x", "y"].map(|name| json!({ "name": name, "description": "" }));
    assert_eq!(import(&two).await.expect(400).json()["code"], "limit_reached");
    app.client.get("/api/v1/event-type/x").await.expect(404);
    import(&two[..1]).await.expect(204);
}

#[tokio::test]
async fn a_flood_of_batches_neither_fills_memory_nor_holds_up_another_application() {
    let server = server().set("limits.queue_bytes", (2 * MIB).to_string()).start().await;
    let (mine, other) = (server.app().await, server.app().await);
    let item = json!({ "eventType": "a", "payload": { "x": "x".repeat(2_000) } });
    let batch = Value::from(vec![item; 500]).to_string();
    let before = server.memory_bytes();
    let floods: Vec<_> = (0..20)
        .map(|_| {
            let (app, batch) = (mine.clone(), batch.clone());
            tokio::spawn(async move {
                let path = app.path("/msg/batch");
                app.client.request(Method::POST, &path).body(batch.into_bytes()).send().await.status
            })
        })
        .collect();
    for flood in floods {
        other.send("a", &json!({})).await;
        let status = flood.await.unwrap();
        assert!(matches!(status, 202 | 429), "{status}");
    }
    let grown = server.memory_bytes().saturating_sub(before) as usize;
    assert!(grown < 150 * MIB, "{} MiB", grown / MIB);
}

#[tokio::test]
async fn a_batch_of_a_large_fan_out_is_stored_whole_by_several_commits() {
    let server = server().start().await;
    let app = server.app().await;
    for _ in 0..60 {
        app.endpoint("https://example.com/").await;
    }
    let made = app.client.get(&app.path("")).await.expect(200).json();
    let now = Timestamp::parse(made["createdAt"].as_str().unwrap()).unwrap();
    let at = now.saturating_add(Duration::from_secs(86_400));
    let item = json!({ "eventType": "a", "payload": {}, "deliverAt": at });
    let answer = app.client.post(&app.path("/msg/batch"), &Value::from(vec![item; 100])).await.expect(202).json();
    assert_eq!((&answer["accepted"], &answer["data"][99]["matchedEndpoints"]), (&json!(100), &json!(60)));
    let listed = app.client.get(&app.path("/msg?limit=250&with_content=false")).await.expect(200).json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn a_message_says_how_many_endpoints_it_goes_to() {
    let server = server().start().await;
    let app = server.app().await;
    let message = json!({ "eventType": "a", "payload": {} });
    let create = async || app.client.post(&app.path("/msg"), &message).await.expect(202).headers;
    assert_eq!(create().await["postrider-matched-endpoints"], "0");
    let receiver = Receiver::ok().await;
    app.endpoint(&receiver.url()).await;
    assert_eq!(create().await["postrider-matched-endpoints"], "1");
    let batch = app.client.post(&app.path("/msg/batch"), &json!([message])).await.expect(202).json();
    assert_eq!(batch["data"][0]["matchedEndpoints"], 1);
}

#[tokio::test]
async fn links_that_are_handed_out_begin_with_the_public_url_and_its_path() {
    for public_url in ["https://hooks.example.com/events", "https://hooks.example.com/events/"] {
        let server = server().set("server.public_url", public_url).start().await;
        let app = server.app().await;
        let id = app.path("").rsplit_once("/app/").unwrap().1.trim_matches('/').to_owned();
        let access =
            app.client.post(&format!("/api/v1/auth/app-portal-access/{id}"), &json!({})).await.expect(200).json();
        assert_eq!(access["url"], "https://hooks.example.com/events/docs");
    }
}

#[tokio::test]
async fn the_page_of_the_documentation_works_behind_a_prefix() {
    let server = server().start().await;
    let client = server.client();
    let page = client.get("/docs").await.expect(200).text();
    for link in page.split(['"', '\'']).filter(|part| part.contains("docs.") || part.contains("api/v1")) {
        assert!(!link.starts_with('/'), "{link}");
    }
    let script = client.get("/docs/docs.js").await.expect(200).text();
    assert!(!script.contains("fetch(\"/"));
    assert!(!page.contains("<style") && !page.contains("style=") && !page.contains("onclick"));
    assert_eq!(client.get("/docs/").await.headers["location"], "../docs");
    assert_eq!(client.get("/").await.headers["location"], "docs");
}

#[tokio::test]
async fn a_request_of_http_1_1_says_once_for_which_host_it_is() {
    let server = server().start().await;
    for (request, status) in [
        ("GET /api/v1/health/ping HTTP/1.1\r\n\r\n", 400),
        ("GET /api/v1/health/ping HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        ("GET /api/v1/health/ping HTTP/1.1\r\nhost: a\r\n\r\n", 204),
        ("GET /api/v1/health/ping HTTP/1.0\r\n\r\n", 204),
    ] {
        let mut connection = RawConnection::open(server.address()).await;
        connection.write(request.as_bytes()).await.unwrap();
        assert_eq!(connection.read_answer().await.unwrap().unwrap().status, status, "{request}");
    }
}

#[tokio::test]
async fn a_401_says_what_is_wrong_with_the_token() {
    let secret = "a secret that is long enough to be used";
    let server = server().set("auth.jwt_secret", secret).start().await;
    let expired = json!({ "sub": server.org(), "exp": 1_000_000 });
    for (token, reason) in [
        (None, "there is no token"),
        (Some("nothing".to_owned()), "malformed"),
        (Some("a.b.c".to_owned()), "not signed"),
        (Some("pk_unknown".to_owned()), "unknown, or was revoked"),
        (Some(secret.to_owned()), "the secret that tokens are signed with"),
        (Some(postrider_testkit::token::sign(&expired, secret)), "expired"),
    ] {
        let answer = server.client_with(token.clone()).get("/api/v1/app").await;
        let error = answer.clone().expect(401).json();
        assert_eq!((&error["code"], &error["detail"]), (&json!("authentication_failed"), &json!("Invalid token")));
        assert!(error["reason"].as_str().unwrap().contains(reason), "{token:?}: {error}");
        assert!(answer.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
    }
}

#[tokio::test]
async fn a_404_says_what_was_not_found() {
    let server = server().start().await;
    let app = server.app().await;
    for (path, what) in [
        ("/api/v1/app/none".to_owned(), "application"),
        (app.path("/endpoint/none"), "endpoint"),
        (app.path("/msg/none"), "message"),
        ("/api/v1/event-type/none".to_owned(), "event type"),
        ("/api/v1/none".to_owned(), "path"),
    ] {
        let error = app.client.get(&path).await.expect(404).json();
        assert_eq!(error["code"], "not_found");
        assert!(error["detail"].as_str().unwrap().starts_with("Entity not found"), "{error}");
        assert!(error["detail"].as_str().unwrap().contains(what), "{path}: {error}");
    }
}

#[tokio::test]
async fn an_import_that_archives_many_megabytes_of_event_types_reads_their_names() {
    let mut server = server().start().await;
    let app = server.app().await;
    let large = json!({ "name": "large", "description": "", "schemas": { "1": { "title": "x".repeat(900_000) } } });
    app.client.post("/api/v1/event-type", &large).await.expect(201);
    server.terminate().await;
    let connection = rusqlite::Connection::open(server.store_path()).unwrap();
    let columns = "environment_no, description, archived, deprecated, schemas, created_at, updated_at";
    let copy = format!(
        "WITH RECURSIVE more(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM more WHERE number < 200)
         INSERT INTO event_type (name, {columns}) SELECT 'copy.' || number, {columns} FROM more CROSS JOIN event_type
         WHERE name = 'large'"
    );
    assert_eq!(connection.execute(&copy, []).unwrap(), 200);
    drop(connection);
    server.start().await;
    let body = json!({ "spec": { "openapi": "3.1.0" }, "replaceAll": true });
    let answer = app.client.post("/api/v1/event-type/import/openapi", &body).await.expect(200).json();
    assert!(answer["data"]["modified"].as_array().unwrap().len() > 200, "{answer}");
    let peak = server.peak_memory_bytes();
    assert!(peak < 120 << 20, "{} MiB", peak >> 20);
}
