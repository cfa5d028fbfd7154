//! Who gets how much of the HTTP/2 connections to a host that several send to.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use postrider_delivery::sender::Slot;
use postrider_domain::delivery::Failure;
use postrider_store::{ApplicationKey, EnvironmentKey};
use tokio::sync::watch;

use crate::secure::Authority;
use crate::support::*;

const HANGING: i64 = 1;
const OTHER: i64 = 2;

/// A host that allows so many streams on a connection, never answers below `/hang`, and below `/held` when it is let go.
struct Host {
    receiver: Receiver,
    hanging: watch::Sender<usize>,
    held: watch::Sender<usize>,
    let_go: watch::Sender<bool>,
    /// Connections that have ended.
    ended: watch::Sender<usize>,
}

impl Host {
    async fn start(authority: &Authority, streams: u32) -> Self {
        let acceptor = authority.acceptor("hooks.example", &["h2"]);
        let (hanging, held) = (watch::Sender::new(0), watch::Sender::new(0));
        let (let_go, ended) = (watch::Sender::new(false), watch::Sender::new(0));
        let (told, holding, going, ending) = (hanging.clone(), held.clone(), let_go.clone(), ended.clone());
        let receiver = Receiver::start(move |stream, _| {
            let (acceptor, told, holding) = (acceptor.clone(), told.clone(), holding.clone());
            let (going, ending) = (going.clone(), ending.clone());
            async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let (told, holding, mut going) = (told.clone(), holding.clone(), going.subscribe());
                    async move {
                        if request.uri().path() == "/held" {
                            holding.send_modify(|held| *held += 1);
                            going.wait_for(|let_go| *let_go).await.unwrap();
                        }
                        if request.uri().path() == "/hang" {
                            told.send_modify(|hanging| *hanging += 1);
                            std::future::pending::<()>().await;
                        }
                        Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from_static(b"ok"))))
                    }
                });
                let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                server.max_concurrent_streams(streams);
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
                ending.send_modify(|ended| *ended += 1);
            }
        })
        .await;
        Self { receiver, hanging, held, let_go, ended }
    }

    fn url(&self, path: &str) -> String {
        format!("https://hooks.example:{}{path}", self.receiver.address.port())
    }

    async fn hang(&self, wanted: usize) {
        reached(&self.hanging, wanted).await;
    }

    async fn hold(&self, wanted: usize) {
        reached(&self.held, wanted).await;
    }
}

async fn reached(count: &watch::Sender<usize>, wanted: usize) {
    let mut count = count.subscribe();
    tokio::time::timeout(PATIENCE, count.wait_for(|count| *count >= wanted)).await.unwrap().unwrap();
}

/// Starts requests that hang.
fn hang(client: &Arc<Client>, url: &str, count: usize) -> tokio::task::JoinSet<Failure> {
    (0..count)
        .map(|_| {
            let (client, url) = (Arc::clone(client), url.to_owned());
            async move { failed(&client.send_for(HANGING, &url).await).0 }
        })
        .collect()
}

async fn is_served(streams: u32, hanging: usize) {
    let authority = Authority::new();
    let host = Host::start(&authority, streams).await;
    let client = Arc::new(authority.client(PATIENCE * 2));
    let _requests = hang(&client, &host.url("/hang"), hanging);
    host.hang(hanging).await;
    for _ in 0..20 {
        let sent = tokio::time::timeout(PATIENCE, client.send_for(OTHER, &host.url("/"))).await.unwrap();
        assert_eq!(answered(&sent).0, 200, "{streams} streams");
    }
}

#[tokio::test]
async fn a_tenant_is_served_while_anothers_requests_hang_at_the_same_host_with_4_streams() {
    is_served(4, 16).await;
}

#[tokio::test]
async fn a_tenant_is_served_while_anothers_requests_hang_at_the_same_host_with_10_streams() {
    is_served(10, 20).await;
}

#[tokio::test]
async fn a_tenant_is_served_while_anothers_requests_hang_at_the_same_host_with_100_streams() {
    is_served(100, 200).await;
}

#[tokio::test]
async fn an_endpoint_is_served_while_another_of_its_application_hangs_at_the_same_host() {
    let authority = Authority::new();
    let host = Host::start(&authority, 100).await;
    let client = Arc::new(authority.client(PATIENCE * 2));
    let _requests = hang(&client, &host.url("/hang"), 100);
    host.hang(100).await;
    for _ in 0..20 {
        assert_eq!(answered(&client.send_for(HANGING, &host.url("/")).await).0, 200);
    }
}

#[tokio::test]
async fn a_receiver_that_allows_one_stream_gets_a_connection_per_request_at_a_time() {
    let authority = Authority::new();
    let host = Host::start(&authority, 1).await;
    let client = Arc::new(authority.client(PATIENCE));
    let sends: tokio::task::JoinSet<u16> = (0..64)
        .map(|_| {
            let (client, url) = (Arc::clone(&client), host.url("/"));
            async move { answered(&client.send_for(OTHER, &url).await).0 }
        })
        .collect();
    assert_eq!(sends.join_all().await, [200; 64]);
}

#[tokio::test]
async fn an_application_opens_a_bounded_number_of_connections_and_what_is_beyond_is_no_attempt() {
    let authority = Authority::new();
    let host = Host::start(&authority, 4).await;
    let client = Arc::new(authority.client(PATIENCE * 2));
    // The first is made alone: before it is, the host is not known to speak HTTP/2.
    assert_eq!(answered(&client.send_for(HANGING, &host.url("/")).await).0, 200);
    let mut requests = hang(&client, &host.url("/hang"), 24);
    for _ in 0..8 {
        assert_eq!(requests.join_next().await.unwrap().unwrap(), Failure::Local);
    }
    assert_eq!(host.receiver.connections(), 16);
    assert_eq!(answered(&client.send_for(OTHER, &host.url("/")).await).0, 200);
}

/// Sends once for an application of another environment than the tests' usual one.
async fn send_from_elsewhere(client: &Client, url: &str) -> u16 {
    let to = client.prepare(url).of(EnvironmentKey(2), ApplicationKey(999));
    answered(&client.sender.send(&to, &message("{}"), &mut Slot::default()).await).0
}

#[tokio::test]
async fn an_environment_has_its_connections_however_many_applications_of_another_hang_at_the_same_host() {
    let authority = Authority::new();
    let host = Host::start(&authority, 4).await;
    let client = Arc::new(authority.client(PATIENCE * 2));
    assert_eq!(send_from_elsewhere(&client, &host.url("/")).await, 200);
    let mut hanging: tokio::task::JoinSet<Failure> = (0..40 * 10)
        .map(|number| {
            let (client, url) = (Arc::clone(&client), host.url("/hang"));
            async move { failed(&client.send_for(number % 40, &url).await).0 }
        })
        .collect();
    // They have all that they may.
    assert_eq!(hanging.join_next().await.unwrap().unwrap(), Failure::Local);
    let held: tokio::task::JoinSet<u16> = (0..6)
        .map(|_| {
            let (client, url) = (Arc::clone(&client), host.url("/held"));
            async move { send_from_elsewhere(&client, &url).await }
        })
        .collect();
    host.hold(6).await;
    host.let_go.send_replace(true);
    assert_eq!(held.join_all().await, [200; 6]);
}

#[tokio::test]
async fn a_request_waits_for_a_stream_however_often_those_of_others_become_free() {
    let authority = Authority::new();
    let host = Host::start(&authority, 4).await;
    let client = Arc::new(authority.client(PATIENCE * 2));
    assert_eq!(answered(&client.send_for(OTHER, &host.url("/")).await).0, 200);
    // One on the other's connection, and one on each that it may open.
    let held: Vec<_> = (0..17)
        .map(|_| {
            let (client, url) = (Arc::clone(&client), host.url("/held"));
            tokio::spawn(async move { answered(&client.send_for(HANGING, &url).await).0 })
        })
        .collect();
    host.hold(17).await;
    let waiting = tokio::spawn({
        let (client, url) = (Arc::clone(&client), host.url("/"));
        async move { client.send_for(HANGING, &url).await }
    });
    for _ in 0..100 {
        assert_eq!(answered(&client.send_for(OTHER, &host.url("/")).await).0, 200);
    }
    assert!(!waiting.is_finished(), "it has waited for much less than it may");
    host.let_go.send_replace(true);
    assert_eq!(answered(&waiting.await.unwrap()).0, 200);
    for held in held {
        assert_eq!(held.await.unwrap(), 200);
    }
}

#[tokio::test]
async fn connections_that_nobody_uses_any_more_are_closed_beyond_the_bound_before_another_is_opened() {
    let authority = Authority::new();
    let mut options = options(&["127.0.0.0/8"], PATIENCE);
    // Which leaves one connection that nobody uses.
    options.max_in_flight = 2;
    let client = Arc::new(authority.client_with(&options));
    let (mut hosts, mut held) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let host = Host::start(&authority, 100).await;
        let (client, url) = (Arc::clone(&client), host.url("/held"));
        held.push(tokio::spawn(async move { answered(&client.send_for(OTHER, &url).await).0 }));
        host.hold(1).await;
        hosts.push(host);
    }
    for host in &hosts {
        host.let_go.send_replace(true);
    }
    for held in held {
        assert_eq!(held.await.unwrap(), 200);
    }
    let receiver = Receiver::start(|stream, _| answer_all(stream, OK)).await;
    assert_eq!(answered(&client.send(&receiver.url()).await).0, 200);
    for host in &hosts[..2] {
        let mut ended = host.ended.subscribe();
        tokio::time::timeout(PATIENCE, ended.wait_for(|ended| *ended == 1)).await.unwrap().unwrap();
    }
    assert_eq!(answered(&client.send_for(OTHER, &hosts[2].url("/")).await).0, 200);
    assert_eq!(hosts[2].receiver.connections(), 1, "the one that was used last is kept");
}

/// Takes one connection, on which it wants no other request as soon as it has one, which it answers late; and others that it
/// answers at once.
async fn that_drains(authority: &Authority) -> Receiver {
    let acceptor = authority.acceptor("hooks.example", &["h2"]);
    Receiver::start(move |stream, number| {
        let acceptor = acceptor.clone();
        async move {
            let stream = acceptor.accept(stream).await.unwrap();
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let is_late = request.uri().path() == "/late";
                if number == 0 && is_late {
                    connection.graceful_shutdown();
                }
                tokio::spawn(async move {
                    if is_late {
                        tokio::time::sleep(LATE).await;
                    }
                    let _ = respond.send_response(http::Response::new(()), true);
                    drop::<h2::server::SendResponse<Bytes>>(respond);
                });
            }
        }
    })
    .await
}

/// Longer than a connection that nobody uses is kept for its last bytes.
const LATE: Duration = Duration::from_millis(2_500);

#[tokio::test]
async fn what_is_under_way_is_answered_on_a_connection_that_takes_no_more_requests() {
    let authority = Authority::new();
    let receiver = that_drains(&authority).await;
    let url = |path: &str| format!("https://hooks.example:{}{path}", receiver.address.port());
    let client = Arc::new(authority.client(PATIENCE));
    // From here on the host is known to speak HTTP/2.
    assert_eq!(answered(&client.send_for(OTHER, &url("/")).await).0, 200);
    let late = tokio::spawn({
        let (client, url) = (Arc::clone(&client), url("/late"));
        async move { client.send_for(OTHER, &url).await }
    });
    while receiver.connections() < 2 {
        assert_eq!(answered(&client.send_for(OTHER, &url("/")).await).0, 200);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!late.is_finished());
    assert_eq!(answered(&late.await.unwrap()).0, 200);
}

#[tokio::test]
async fn a_connection_on_which_an_attempt_ended_in_silence_gets_no_new_requests() {
    let authority = Authority::new();
    let host = Host::start(&authority, 100).await;
    let client = authority.client(Duration::from_secs(1));
    assert_eq!(answered(&client.send_for(OTHER, &host.url("/")).await).0, 200);
    assert_eq!(failed(&client.send_for(OTHER, &host.url("/hang")).await).0, Failure::Timeout);
    assert_eq!(host.receiver.connections(), 1);
    for _ in 0..3 {
        assert_eq!(answered(&client.send_for(OTHER, &host.url("/")).await).0, 200);
    }
    assert_eq!(host.receiver.connections(), 2);
}

#[tokio::test]
async fn requests_of_many_endpoints_at_a_healthy_host_share_few_connections() {
    let authority = Authority::new();
    let host = Host::start(&authority, 100).await;
    let client = Arc::new(authority.client(PATIENCE));
    assert_eq!(answered(&client.send_for(0, &host.url("/")).await).0, 200);
    let done = Arc::new(AtomicUsize::new(0));
    let sends: tokio::task::JoinSet<()> = (0..80)
        .map(|number| {
            let (client, url, done) = (Arc::clone(&client), host.url("/"), Arc::clone(&done));
            async move {
                for _ in 0..10 {
                    assert_eq!(answered(&client.send_for(number % 8, &url).await).0, 200);
                    done.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
        .collect();
    sends.join_all().await;
    assert_eq!(done.load(Ordering::SeqCst), 800);
    assert_eq!(host.receiver.connections(), 1);
}
