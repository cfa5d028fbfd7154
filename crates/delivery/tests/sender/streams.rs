//! Who gets how much of the HTTP/2 connections to a host that several send to.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use postrider_domain::delivery::Failure;
use tokio::sync::watch;

use crate::secure::Authority;
use crate::support::*;

const HANGING: i64 = 1;
const OTHER: i64 = 2;

/// A host that allows so many streams on a connection, and never answers below `/hang`.
struct Host {
    receiver: Receiver,
    hanging: watch::Sender<usize>,
}

impl Host {
    async fn start(authority: &Authority, streams: u32) -> Self {
        let acceptor = authority.acceptor("hooks.example", &["h2"]);
        let hanging = watch::Sender::new(0);
        let told = hanging.clone();
        let receiver = Receiver::start(move |stream, _| {
            let (acceptor, told) = (acceptor.clone(), told.clone());
            async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let told = told.clone();
                    async move {
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
            }
        })
        .await;
        Self { receiver, hanging }
    }

    fn url(&self, path: &str) -> String {
        format!("https://hooks.example:{}{path}", self.receiver.address.port())
    }

    async fn hang(&self, wanted: usize) {
        let mut hanging = self.hanging.subscribe();
        tokio::time::timeout(PATIENCE, hanging.wait_for(|hanging| *hanging >= wanted)).await.unwrap().unwrap();
    }
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
