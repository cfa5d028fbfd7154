//! An orderly end: what is under way is finished and recorded, so that the next start repeats nothing.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use postrider_testkit::raw::RawConnection;
use postrider_testkit::{Ledger, Load, Receiver, Reply, TestServer, TestServerBuilder, random, wait};
use rustix::process::Signal;
use serde_json::json;
use tokio::net::TcpStream;

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
}

/// Waits until the server takes no connections any more: it has noticed that it was asked to end.
async fn stopped_listening(server: &TestServer) {
    wait::until("the server to stop listening", async || TcpStream::connect(server.address()).await.err()).await;
}

#[tokio::test]
async fn when_a_key_was_last_used_is_known_after_a_shutdown() {
    let mut server = server().start().await;
    let (url, folder) = (format!("sqlite://{}", server.store_path().display()), server.folder().to_owned());
    let key = async |arguments: &[&str]| {
        let settings = [("POSTRIDER_STORE__URL", url.as_str())];
        let program = env!("CARGO_BIN_EXE_postrider");
        let arguments = [&["key"], arguments, &["--json"]].concat();
        let finished = postrider_testkit::process::run(program, &arguments, &settings, &folder).await;
        assert!(finished.status.success(), "{}", finished.stderr);
        serde_json::from_str::<serde_json::Value>(&finished.stdout).unwrap()
    };
    let made = key(&["create"]).await;
    let text = made["key"].as_str().unwrap().to_owned();
    server.client_with(Some(text)).get("/api/v1/app").await.expect(200);
    assert_eq!(server.terminate().await.code(), Some(0));
    let listed = key(&["list"]).await;
    assert!(listed[0]["lastUsedAt"].is_string(), "{listed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminated_under_load_it_exits_0_loses_nothing_and_repeats_nothing() {
    let ledger = Ledger::new();
    let noted = ledger.clone();
    let answer = move |request: &_| {
        noted.note(request);
        Reply::ok().after(random::duration(Duration::ZERO, Duration::from_millis(30)))
    };
    let receiver = Receiver::builder(answer).forgetful().start().await;
    let mut server = server().start().await;
    let app = server.app().await;
    let targets = ["/0".to_owned(), "/1".to_owned()];
    for number in 0..2 {
        app.endpoint(&receiver.at(&number.to_string())).await;
    }
    let load = Load::start(&app, 8);
    for signal in [Signal::TERM, Signal::INT, Signal::TERM] {
        load.progress(200).await;
        server.signal(signal);
        let status = server.ended().await;
        assert_eq!(status.code(), Some(0), "{signal:?}: {status}");
        server.start().await;
    }
    let acked = load.finish().await;
    let ids: Vec<&str> = acked.iter().map(|message| message.id.as_str()).collect();
    ledger.wait_for(&targets, &ids).await;

    // Whatever was not settled would be sent again by the next start, before the new message.
    assert_eq!(server.terminate().await.code(), Some(0));
    server.start().await;
    let last = app.send("a", &json!({})).await;
    ledger.wait_for(&targets, &[&last]).await;
    assert_eq!(ledger.repeated(), []);
    assert_eq!(ledger.deliveries(), 2 * (acked.len() + 1));
}

#[tokio::test]
async fn a_request_under_way_is_finished_and_recorded() {
    let mut server = server().start().await;
    let app = server.app().await;
    let receiver = Receiver::always(Reply::ok().after(Duration::from_millis(1_500))).await;
    app.endpoint(&receiver.url()).await;
    let message = app.send("a", &json!({})).await;
    receiver.wait_for_id(&message).await;
    assert_eq!(server.terminate().await.code(), Some(0));
    server.start().await;
    let attempts = app.attempts(&message).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0]["status"], 0);
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn who_asks_for_much_without_a_token_and_reads_nothing_does_not_hold_up_the_end() {
    let patient = server().set("server.write_timeout", "10m").set("delivery.drain_timeout", "10m");
    let mut server = patient.start().await;
    let mut connection = RawConnection::open(server.address()).await;
    let requests = "GET /api/v1/app HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1_000);
    // Until answers fill what there is on the way out, and so requests what there is on the way in.
    while tokio::time::timeout(Duration::from_millis(500), connection.write(requests.as_bytes())).await.is_ok() {}
    assert_eq!(server.terminate().await.code(), Some(0));
    drop(connection);
}

#[tokio::test]
async fn what_waits_for_a_retry_does_not_hold_the_end_up() {
    let mut server = server().set("delivery.retry_schedule", r#"["1h"]"#).start().await;
    let app = server.app().await;
    let receiver = Receiver::always(Reply::status(500)).await;
    app.endpoint(&receiver.url()).await;
    let message = app.send("a", &json!({})).await;
    app.logged_attempts(&message, 1).await;
    assert_eq!(server.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_after_a_second_ends_it_at_once_and_what_was_under_way_is_sent_again() {
    for signal in [Signal::TERM, Signal::INT] {
        // Neither of the two would end it within the time of this test.
        let patient = server().set("delivery.drain_timeout", "10m").set("delivery.request_timeout", "10m");
        let mut server = patient.start().await;
        let app = server.app().await;
        let receiver = Receiver::sequence([Reply::hang(), Reply::ok()]).await;
        app.endpoint(&receiver.url()).await;
        let message = app.send("a", &json!({})).await;
        receiver.wait_for_id(&message).await;
        server.signal(signal);
        stopped_listening(&server).await;
        let status = wait::until("the end of the server", async || {
            let ended = server.try_ended();
            if ended.is_none() {
                server.signal(signal);
            }
            ended
        })
        .await;
        assert!(status.code() != Some(0) || status.signal().is_some(), "{signal:?}: {status}");
        server.start().await;
        let requests = receiver.wait_for(2).await;
        assert!(requests.iter().all(|request| request.id() == Some(&message)));
    }
}

#[tokio::test]
async fn a_drain_that_takes_too_long_is_given_up_and_what_was_under_way_is_sent_again() {
    let mut server =
        server().set("delivery.drain_timeout", "300ms").set("delivery.request_timeout", "10m").start().await;
    let app = server.app().await;
    let receiver = Receiver::sequence([Reply::hang(), Reply::ok()]).await;
    app.endpoint(&receiver.url()).await;
    let message = app.send("a", &json!({})).await;
    receiver.wait_for_id(&message).await;
    assert_eq!(server.terminate().await.code(), Some(0));
    server.start().await;
    receiver.wait_for(2).await;
    assert_eq!(app.logged_attempts(&message, 1).await[0]["status"], 0);
}

#[tokio::test]
async fn a_status_that_is_known_when_the_drain_ends_counts_whatever_is_still_to_come() {
    let mut server = server().set("delivery.drain_timeout", "1s").set("delivery.request_timeout", "10m").start().await;
    let app = server.app().await;
    let receiver = Receiver::always(Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome of it")).await;
    let gone = Receiver::always(Reply::raw("HTTP/1.1 410 Gone\r\n\r\nand no end of it")).await;
    app.endpoint(&receiver.url()).await;
    let leaving = app.endpoint(&gone.url()).await;
    let message = app.send("a", &json!({})).await;
    receiver.wait_for_id(&message).await;
    gone.wait_for_id(&message).await;
    assert_eq!(server.terminate().await.code(), Some(0));
    server.start().await;
    let attempts = app.logged_attempts(&message, 2).await;
    let mut statuses: Vec<_> = attempts.iter().map(|attempt| attempt["responseStatusCode"].as_u64()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [Some(200), Some(410)]);
    // The next one goes to the one that is left, and nothing comes before it.
    let next = app.send("a", &json!({})).await;
    receiver.wait_for_id(&next).await;
    assert_eq!((receiver.requests().len(), gone.requests().len()), (2, 1));
    let left = app.client.get(&app.path(&format!("/endpoint/{leaving}"))).await.expect(200).json();
    assert_eq!(left["disabled"], true);
}

#[tokio::test]
async fn an_idle_server_exits_0_when_asked() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = server().start().await;
        // A kept connection without a request on it is no reason to stay.
        let idle = TcpStream::connect(server.address()).await.unwrap();
        server.client().get("/api/v1/health/ping").await.expect(204);
        server.signal(signal);
        assert_eq!(server.ended().await.code(), Some(0), "{signal:?}");
        drop(idle);
    }
}

#[tokio::test]
async fn two_signals_within_a_second_do_not_end_the_drain() {
    let mut server = server().start().await;
    let app = server.app().await;
    let receiver = Receiver::always(Reply::ok().after(Duration::from_millis(1_500))).await;
    app.endpoint(&receiver.url()).await;
    let message = app.send("a", &json!({})).await;
    receiver.wait_for_id(&message).await;
    server.signal(Signal::TERM);
    server.signal(Signal::INT);
    assert_eq!(server.ended().await.code(), Some(0));
    server.start().await;
    assert_eq!(app.attempts(&message).await.len(), 1);
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn a_hang_up_and_whatever_else_asks_for_an_end_ends_it_in_order() {
    for signal in [Signal::HUP, Signal::QUIT, Signal::XCPU, Signal::POWER] {
        let mut server = server().start().await;
        let app = server.app().await;
        let receiver = Receiver::always(Reply::ok().after(Duration::from_millis(1_500))).await;
        app.endpoint(&receiver.url()).await;
        let message = app.send("a", &json!({})).await;
        receiver.wait_for_id(&message).await;
        server.signal(signal);
        assert_eq!(server.ended().await.code(), Some(0), "{signal:?}");
        server.start().await;
        assert_eq!(app.attempts(&message).await[0]["status"], 0, "{signal:?}");
        assert_eq!(receiver.requests().len(), 1);
    }
}

#[tokio::test]
async fn no_size_of_stacks_in_the_environment_keeps_it_from_working() {
    for size in ["0", "1", "18446744073709551615"] {
        let mut server = server().variable("RUST_MIN_STACK", size).start().await;
        let app = server.app().await;
        let receiver = Receiver::always(Reply::ok()).await;
        app.endpoint(&receiver.url()).await;
        let message = app.send("a", &json!({})).await;
        receiver.wait_for_id(&message).await;
        assert_eq!(server.terminate().await.code(), Some(0), "{size}");
    }
}

#[tokio::test]
async fn signals_that_mean_nothing_here_do_not_end_it() {
    let mut server = server().start().await;
    for signal in [
        Signal::TRAP,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::VTALARM,
        Signal::PROF,
        Signal::IO,
        Signal::PIPE,
        Signal::WINCH,
        Signal::STKFLT,
        Signal::XFSZ,
    ] {
        server.signal(signal);
        server.client().get("/api/v1/health").await.expect(204);
        assert_eq!(server.try_ended(), None, "{signal:?}");
    }
    assert_eq!(server.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_shutdown_is_bounded_although_receiver_caller_and_store_all_hang() {
    let patient = server().set("delivery.request_timeout", "10m").set("delivery.drain_timeout", "2s");
    let mut server = patient.start().await;
    let app = server.app().await;
    let receiver = Receiver::sequence([Reply::hang(), Reply::ok()]).await;
    app.endpoint(&receiver.url()).await;
    let message = app.send("a", &json!({})).await;
    receiver.wait_for_id(&message).await;
    let mut caller = TcpStream::connect(server.address()).await.unwrap();
    let half = format!(
        "POST {} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-length: 1000\r\n\r\n{{",
        app.path("/msg"),
        server.token()
    );
    tokio::io::AsyncWriteExt::write_all(&mut caller, half.as_bytes()).await.unwrap();
    let guest = rusqlite::Connection::open(server.store_path()).unwrap();
    guest.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(server.terminate().await.code(), Some(0));
    guest.execute_batch("ROLLBACK").unwrap();
    drop(guest);
    server.start().await;
    receiver.wait_for(2).await;
    assert_eq!(app.logged_attempts(&message, 1).await[0]["status"], 0);
}

#[tokio::test]
async fn health_says_503_while_the_store_is_locked_and_204_when_it_is_free_again() {
    let server = server().start().await;
    let guest = rusqlite::Connection::open(server.store_path()).unwrap();
    guest.execute_batch("BEGIN IMMEDIATE").unwrap();
    let answer = server.client().get("/api/v1/health").await;
    // The writer itself would give up after ten seconds, and health say 500 then.
    assert_eq!(answer.expect(503).json()["database"]["status"], "error");
    guest.execute_batch("ROLLBACK").unwrap();
    wait::until("health", async || (server.client().get("/api/v1/health").await.status == 204).then_some(())).await;
}
