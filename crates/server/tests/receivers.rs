//! What receivers do wrong: each case costs its own delivery an attempt, and nobody else anything.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::time::Duration;

use postrider_testkit::receiver::{Greeting, gzip_of_zeros};
use postrider_testkit::{App, Authority, Identity, Receiver, Reply, TestServer, TestServerBuilder, process, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Receivers may make the server use this much more memory than before, however much they send.
const MEMORY_SLACK: u64 = 48 * 1024 * 1024;

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
}

/// Sends one message to `url`; returns its first attempt.
async fn first_attempt(app: &App, url: &str) -> Value {
    let endpoint = app.endpoint(url).await;
    let message = app.send("a", &json!({ "x": 1 })).await;
    let attempt = app.logged_attempts(&message, 1).await[0].clone();
    app.client.delete(&app.path(&format!("/endpoint/{endpoint}"))).await.expect(204);
    attempt
}

/// Checks that there was no answer, and that the log says why, in words that contain one of `reasons`.
#[track_caller]
fn expect_no_answer(attempt: &Value, reasons: &[&str]) {
    assert_eq!((&attempt["status"], &attempt["responseStatusCode"]), (&json!(2), &json!(0)), "{attempt}");
    let reason = attempt["response"].as_str().unwrap_or_default().to_lowercase();
    assert!(reasons.iter().any(|part| reason.contains(part)), "{reasons:?} in: {attempt}");
}

#[track_caller]
fn expect_answer(attempt: &Value, status: u16) {
    let logged = if (200..300).contains(&status) { 0 } else { 2 };
    assert_eq!((&attempt["status"], &attempt["responseStatusCode"]), (&json!(logged), &json!(status)), "{attempt}");
}

#[tokio::test]
async fn an_endless_body_is_cut_at_64_kib_and_its_status_kept() {
    let server = server().set("delivery.retry_schedule", "[]").start().await;
    let app = server.app().await;
    for status in [200, 500] {
        let receiver = Receiver::always(Reply::endless_body(status)).await;
        let attempt = first_attempt(&app, &receiver.url()).await;
        expect_answer(&attempt, status);
        assert_eq!(attempt["response"].as_str().unwrap().len(), 20_000);
    }
}

#[tokio::test]
async fn one_byte_every_now_and_then_is_ended_by_the_total_deadline() {
    let server = server().set("delivery.retry_schedule", "[]").set("delivery.request_timeout", "700ms").start().await;
    let app = server.app().await;
    for reply in [Reply::dripping_head(Duration::from_millis(50)), Reply::dripping_body(Duration::from_millis(50))] {
        let receiver = Receiver::always(reply).await;
        let attempt = first_attempt(&app, &receiver.url()).await;
        let took = attempt["responseDurationMs"].as_u64().unwrap();
        assert!((600..10_000).contains(&took), "{attempt}");
    }
}

#[tokio::test]
async fn a_receiver_that_accepts_tls_then_silence_meets_the_deadline() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let server = server()
        .set("delivery.retry_schedule", "[]")
        .set("delivery.request_timeout", "700ms")
        .variable("SSL_CERT_FILE", authority.write_pem(folder.path()).to_str().unwrap())
        .start()
        .await;
    let app = server.app().await;
    let silent = Receiver::builder(|_| Reply::hang()).tls(authority.issue(&["127.0.0.1"])).start().await;
    expect_no_answer(&first_attempt(&app, &silent.url()).await, &["time", "deadline"]);

    let no_handshake = Receiver::builder(|_| Reply::ok()).greeting(Greeting::Silence).start().await;
    let url = format!("https://{}/", no_handshake.address());
    expect_no_answer(&first_attempt(&app, &url).await, &["time", "deadline"]);
}

#[tokio::test]
async fn a_receiver_that_hangs_meets_the_deadline_and_is_retried() {
    let server = server().set("delivery.request_timeout", "500ms").start().await;
    let app = server.app().await;
    let receiver = Receiver::sequence([Reply::hang(), Reply::ok()]).await;
    app.endpoint(&receiver.url()).await;
    let message = app.send("a", &json!({})).await;
    let attempts = app.logged_attempts(&message, 2).await;
    expect_no_answer(&attempts[0], &["time", "deadline"]);
    expect_answer(&attempts[1], 200);
}

#[tokio::test]
async fn a_gzip_answer_that_would_expand_to_1_gb_is_never_decompressed() {
    let server = server().set("delivery.retry_schedule", "[]").start().await;
    let app = server.app().await;
    let receiver =
        Receiver::always(Reply::ok().header("content-encoding", "gzip").body(gzip_of_zeros(1024 * 1024 * 1024))).await;
    let before = server.memory_bytes();
    expect_answer(&first_attempt(&app, &receiver.url()).await, 200);
    assert!(server.memory_bytes() < before + MEMORY_SLACK, "{before} bytes became {}", server.memory_bytes());
    assert_eq!(receiver.requests()[0].header("accept-encoding"), None);
}

#[tokio::test]
async fn ten_thousand_headers_or_a_1_mb_head_keep_their_status_with_memory_flat() {
    let server = server().set("delivery.retry_schedule", "[]").start().await;
    let app = server.app().await;
    let before = server.memory_bytes();
    for reply in [Reply::many_headers(10_000), Reply::huge_head(1024 * 1024)] {
        let receiver = Receiver::always(reply).await;
        for _ in 0..10 {
            // The status line came first, and is the verdict (docs/sending.md).
            expect_answer(&first_attempt(&app, &receiver.url()).await, 200);
        }
    }
    assert!(server.memory_bytes() < before + MEMORY_SLACK, "{before} bytes became {}", server.memory_bytes());
}

#[tokio::test]
async fn a_reset_after_reading_the_request_is_retried_with_the_same_id_and_recorded() {
    let server = server().start().await;
    let app = server.app().await;
    for misbehaviour in [Reply::reset(), Reply::close(), Reply::raw("this is no HTTP\r\n\r\n")] {
        let receiver = Receiver::sequence([misbehaviour, Reply::ok()]).await;
        let endpoint = app.endpoint(&receiver.url()).await;
        let message = app.send("a", &json!({})).await;
        let requests = receiver.wait_for(2).await;
        assert!(requests.iter().all(|request| request.id() == Some(&message)));
        let attempts = app.logged_attempts(&message, 2).await;
        expect_no_answer(&attempts[0], &[""]);
        assert_ne!(attempts[0]["response"], "", "{attempts:?}");
        expect_answer(&attempts[1], 200);
        assert_eq!(receiver.requests().len(), 2);
        app.client.delete(&app.path(&format!("/endpoint/{endpoint}"))).await.expect(204);
    }
}

#[tokio::test]
async fn a_receiver_that_is_not_there_is_retried_until_it_is() {
    let server = server().set("delivery.retry_schedule", r#"["50ms","50ms","50ms"]"#).start().await;
    let app = server.app().await;
    let gone = Receiver::ok().await.address();
    expect_no_answer(&first_attempt(&app, &format!("http://{gone}/")).await, &["connect", "refused"]);
    let rude = Receiver::builder(|_| Reply::ok()).greeting(Greeting::Reset).start().await;
    expect_no_answer(&first_attempt(&app, &rude.url()).await, &[""]);
    expect_no_answer(&first_attempt(&app, "http://no-such-host.invalid/").await, &[""]);
}

#[tokio::test]
async fn a_retry_after_that_is_absurd_is_clamped() {
    let server = server().set("delivery.retry_after_max", "100ms").start().await;
    let app = server.app().await;
    let values = [
        "1e18",
        "inf",
        "-1",
        "NaN",
        "99999999999999999999999999",
        "",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Thu, 99 Foo 2026 99:99:99 GMT",
        "soon",
    ];
    for value in values {
        let receiver = Receiver::sequence([Reply::status(503).header("Retry-After", value), Reply::ok()]).await;
        let endpoint = app.endpoint(&receiver.url()).await;
        let message = app.send("a", &json!({})).await;
        let attempts = app.logged_attempts(&message, 2).await;
        expect_answer(&attempts[1], 200);
        app.client.delete(&app.path(&format!("/endpoint/{endpoint}"))).await.expect(204);
    }
}

#[tokio::test]
async fn retry_after_on_429_or_503_holds_the_next_attempt_back_as_long_as_it_says() {
    let server = server().start().await;
    let app = server.app().await;
    for status in [429, 503] {
        let receiver = Receiver::sequence([Reply::status(status).header("Retry-After", "2"), Reply::ok()]).await;
        app.endpoint(&receiver.url()).await;
        let first = app.send("a", &json!({})).await;
        app.logged_attempts(&first, 1).await;
        // The wait is the endpoint's, not only the message's.
        app.send("a", &json!({})).await;
        let requests = receiver.wait_for(2).await;
        let waited = requests[1].at - requests[0].at;
        assert!(waited >= Duration::from_secs(2), "{status}: {waited:?}");
    }
}

#[tokio::test]
async fn a_410_disables_the_endpoint_and_cancels_what_was_pending() {
    let server = server().set("delivery.retry_schedule", r#"["1s"]"#).start().await;
    let app = server.app().await;
    let receiver = Receiver::sequence([Reply::status(500), Reply::status(410), Reply::ok()]).await;
    let endpoint = app.endpoint(&receiver.url()).await;
    let waiting = app.send("a", &json!({ "n": 1 })).await;
    app.logged_attempts(&waiting, 1).await;
    let last = app.send("a", &json!({ "n": 2 })).await;
    app.logged_attempts(&last, 1).await;
    let path = app.path(&format!("/endpoint/{endpoint}"));
    assert_eq!(app.client.get(&path).await.expect(200).json()["disabled"], true);

    // Enabled again, it gets what is new; what was pending does not come back.
    app.client.patch(&path, &json!({ "disabled": false })).await.expect(200);
    let mut newest = String::new();
    let end = tokio::time::Instant::now() + Duration::from_millis(1_500);
    while tokio::time::Instant::now() < end {
        newest = app.send("a", &json!({ "n": 3 })).await;
        receiver.wait_for_id(&newest).await;
    }
    app.logged_attempts(&newest, 1).await;
    let of_waiting = receiver.requests().iter().filter(|request| request.id() == Some(&waiting)).count();
    assert_eq!(of_waiting, 1);
}

#[tokio::test]
async fn an_expired_self_signed_or_wrong_host_certificate_is_a_tls_error_in_the_log_and_retried() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let server = server()
        .variable("SSL_CERT_FILE", authority.write_pem(folder.path()).to_str().unwrap())
        .set("delivery.retry_schedule", r#"["10ms"]"#)
        .start()
        .await;
    let app = server.app().await;
    let bad = [
        ("expired", authority.issue_expired(&["127.0.0.1"])),
        ("self-signed", Identity::self_signed(&["127.0.0.1"])),
        ("wrong host", authority.issue(&["example.com", "127.0.0.2"])),
        ("another authority", Authority::new().issue(&["127.0.0.1"])),
    ];
    for (what, identity) in bad {
        let receiver = Receiver::builder(|_| Reply::ok()).tls(identity).start().await;
        let endpoint = app.endpoint(&receiver.url()).await;
        let message = app.send("a", &json!({})).await;
        for attempt in app.logged_attempts(&message, 2).await {
            expect_no_answer(&attempt, &["tls", "certificate"]);
        }
        assert_eq!(receiver.requests().len(), 0, "{what}");
        assert_eq!(receiver.connections(), 2, "{what}");
        app.client.delete(&app.path(&format!("/endpoint/{endpoint}"))).await.expect(204);
    }
}

#[tokio::test]
async fn a_good_certificate_is_accepted() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let pem = authority.write_pem(folder.path());
    let server = server().variable("SSL_CERT_FILE", pem.to_str().unwrap()).start().await;
    let app = server.app().await;
    let receiver = Receiver::builder(|_| Reply::ok()).tls(authority.issue(&["127.0.0.1"])).start().await;
    expect_answer(&first_attempt(&app, &receiver.url()).await, 200);
}

#[tokio::test]
async fn a_certificate_file_that_is_a_pipe_or_absent_is_told_and_the_folder_of_certificates_is_used() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    authority.write_pem(folder.path());
    let elsewhere = tempfile::tempdir().unwrap();
    let pipe = elsewhere.path().join("pipe.pem");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (named, problem) in
        [(&pipe, "it is not a regular file"), (&elsewhere.path().join("absent.pem"), "No such file")]
    {
        let server = server()
            .variable("SSL_CERT_FILE", named.to_str().unwrap())
            .variable("SSL_CERT_DIR", folder.path().to_str().unwrap())
            .start()
            .await;
        let line = server.logged(&format!("SSL_CERT_FILE names {}", named.display())).await;
        assert!(line.contains("WARN") && line.contains(problem), "{line}");
        let app = server.app().await;
        let receiver = Receiver::builder(|_| Reply::ok()).tls(authority.issue(&["127.0.0.1"])).start().await;
        expect_answer(&first_attempt(&app, &receiver.url()).await, 200);
    }
}

#[tokio::test]
async fn a_certificate_file_without_a_name_counts_as_none() {
    let stranger = Authority::new().issue(&["127.0.0.1"]);
    let receiver = Receiver::builder(|_| Reply::ok()).tls(stranger).start().await;
    let mut told = Vec::new();
    for server in [server(), server().variable("SSL_CERT_FILE", ""), server().variable("SSL_CERT_DIR", "")] {
        let server = server.start().await;
        told.push(first_attempt(&server.app().await, &receiver.url()).await["response"].clone());
    }
    // Without any authority something else would be said (unless this machine has none, either).
    assert_eq!(told[1..], [told[0].clone(), told[0].clone()]);
}

#[tokio::test]
async fn a_receiver_of_http_2_gets_many_messages_on_few_connections() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let pem = authority.write_pem(folder.path());
    let server = server().variable("SSL_CERT_FILE", pem.to_str().unwrap()).start().await;
    let app = server.app().await;
    let receiver = Receiver::builder(|_| Reply::ok()).tls(authority.issue(&["127.0.0.1"])).http2().start().await;
    let endpoint = app.endpoint(&receiver.url()).await;
    let mut messages = Vec::new();
    for n in 0..100 {
        messages.push(app.send("a", &json!({ "n": n })).await);
    }
    let requests = receiver.wait_for(100).await;
    assert!(requests.iter().all(|request| request.version == http::Version::HTTP_2));
    let secret = app.secret(&endpoint).await;
    let webhook = standardwebhooks::Webhook::new(&secret).unwrap();
    for request in &requests {
        webhook.verify(&request.body, &request.header_map()).unwrap();
    }
    assert!(receiver.connections() <= 4, "{} connections", receiver.connections());
    for message in &messages {
        assert_eq!(app.logged_attempts(message, 1).await.len(), 1);
    }
}

#[tokio::test]
async fn a_connection_that_the_receiver_closed_while_idle_is_not_a_failed_attempt() {
    let server = server().set("delivery.retry_schedule", "[]").start().await;
    let app = server.app().await;
    for reply in [Reply::ok().then_close(), Reply::ok().then_reset()] {
        let receiver = Receiver::always(reply).await;
        let endpoint = app.endpoint(&receiver.url()).await;
        let mut messages = Vec::new();
        for n in 0..200 {
            // The next message comes when the answer has just been given, and the connection is being closed.
            messages.push(app.send("a", &json!({ "n": n })).await);
            receiver.wait_for(n + 1).await;
        }
        for message in &messages {
            let attempts = app.logged_attempts(message, 1).await;
            expect_answer(&attempts[0], 200);
        }
        assert_eq!(receiver.requests().len(), 200);
        app.client.delete(&app.path(&format!("/endpoint/{endpoint}"))).await.expect(204);
    }
}

#[tokio::test]
async fn kept_connections_are_used_again() {
    let server = server().start().await;
    let app = server.app().await;
    let receiver = Receiver::ok().await;
    app.endpoint(&receiver.url()).await;
    for n in 0..50 {
        let message = app.send("a", &json!({ "n": n })).await;
        app.logged_attempts(&message, 1).await;
    }
    assert!(receiver.connections() <= 2, "{} connections for 50 messages", receiver.connections());
}

/// A frame of HTTP/2, on the stream of the first request.
fn http2_frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let stream = [0, 0, 0, u8::from(kind == 1)];
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

/// Says `:status: 200` and as many fields as a head may have, but not that this is all; and waits.
async fn begin_a_head(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    begun: watch::Sender<usize>,
) -> std::io::Result<()> {
    stream.write_all(&http2_frame(4, 0, &[])).await?;
    stream.flush().await?;
    // Of a field that has two bytes, 34 count.
    let block = [&[0x88][..], &[0, 1, b'a', 1, b'b'].repeat(64 * 1024 / 34 - 2)].concat();
    stream.read_exact(&mut [0; 24]).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await?;
        if head[8] == 1 && head[4] & 1 != 0 {
            break;
        }
    }
    stream.write_all(&http2_frame(1, 0, &block)).await?;
    stream.flush().await?;
    begun.send_modify(|begun| *begun += 1);
    let _ = stream.read_to_end(&mut Vec::new()).await;
    Ok(())
}

/// What `postrider config check` says that a request under way takes, in bytes.
async fn stated_bytes_of_a_request() -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let settings = [("POSTRIDER_DELIVERY__MAX_IN_FLIGHT", "1024")];
    let checked =
        process::run(env!("CARGO_BIN_EXE_postrider"), &["config", "check", "--memory"], &settings, folder.path()).await;
    let line = checked.stdout.lines().find_map(|line| line.split_once(" MiB  requests in flight to endpoints"));
    line.unwrap().0.trim().parse::<f64>().unwrap() * 1024.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_http2_take_no_more_memory_than_is_said_of_them() {
    const ENDPOINTS: usize = 150;
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let certificates = authority.write_pem(folder.path()).display().to_string();
    let server = server().variable("SSL_CERT_FILE", certificates).set("delivery.request_timeout", "1m").start().await;
    let app = server.app().await;
    // Each at an address of its own, so that it has a connection of its own.
    let hosts: Vec<String> = (1..=ENDPOINTS).map(|number| format!("127.0.7.{number}")).collect();
    let acceptor = authority.issue(&hosts.iter().map(String::as_str).collect::<Vec<_>>()).acceptor(&[b"h2"]);
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let begun = watch::Sender::new(0);
    let tell = begun.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (accepting, tell) = (acceptor.accept(stream), tell.clone());
            tokio::spawn(async move { begin_a_head(accepting.await?, tell).await });
        }
    });
    for host in &hosts {
        app.endpoint(&format!("https://{host}:{port}/")).await;
    }
    let before = server.memory_bytes();
    app.send("a", &json!({})).await;
    let all = async { begun.subscribe().wait_for(|begun| *begun == ENDPOINTS).await.map(|_| ()) };
    wait::within("all requests to be under way", all).await.unwrap();
    let stated = stated_bytes_of_a_request().await;
    // Each head is read within a moment; until then it is less.
    wait::until("the memory to be settled", async || {
        let (one, _) = (server.memory_bytes(), tokio::time::sleep(Duration::from_millis(200)).await);
        (server.memory_bytes() == one).then_some(())
    })
    .await;
    let taken = (server.memory_bytes() - before) as f64 / ENDPOINTS as f64;
    assert!(taken < stated, "{} KiB, and {} KiB are stated", taken / 1024.0, stated / 1024.0);
}
