//! Who gets how much of the window of an HTTP/2 connection: what one tenant's requests have sent, and the receiver has not
//! read, keeps no other waiting.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use postrider_delivery::sender::{Sent, Slot};
use postrider_domain::delivery::Failure;
use postrider_store::{ApplicationKey, EnvironmentKey};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::secure::Authority;
use crate::support::*;

const HANGING: i64 = 1;
const OTHER: i64 = 2;
/// What the RFC gives a connection of which nothing is said.
const DEFAULT: u32 = 65_535;
const MEGABYTE: usize = 1_000_000;

/// A host that answers with the length of the body it has read; refuses below `/refuse` without reading; and below `/hang`
/// neither answers nor ever gives back the window that a body took. Below `/early` it answers first and reads then; below
/// `/early-hang` it answers and reads nothing.
struct Host {
    receiver: Receiver,
    /// Bytes that were taken and are not given back.
    taken: watch::Sender<usize>,
    /// Connections that have ended.
    ended: watch::Sender<usize>,
}

impl Host {
    async fn start(authority: &Authority, window: u32, streams: u32) -> Self {
        let acceptor = authority.acceptor("hooks.example", &["h2"]);
        let taken = watch::Sender::new(0);
        let ended = watch::Sender::new(0);
        let (tell, tell_end) = (taken.clone(), ended.clone());
        let receiver = Receiver::start(move |stream, _| {
            let (serving, tell_end) =
                (serve(acceptor.clone(), stream, window, streams, tell.clone()), tell_end.clone());
            async move {
                serving.await;
                tell_end.send_modify(|ended| *ended += 1);
            }
        });
        Self { receiver: receiver.await, taken, ended }
    }

    fn url(&self, path: &str) -> String {
        format!("https://hooks.example:{}{path}", self.receiver.address.port())
    }

    /// Waits until so many bytes are taken.
    async fn takes(&self, wanted: usize) {
        let mut taken = self.taken.subscribe();
        tokio::time::timeout(PATIENCE, taken.wait_for(|taken| *taken >= wanted)).await.unwrap().unwrap();
    }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, window: u32, streams: u32, taken: watch::Sender<usize>) {
    let stream = acceptor.accept(stream).await.unwrap();
    let mut server = h2::server::Builder::new();
    server.initial_window_size(window).initial_connection_window_size(window).max_concurrent_streams(streams);
    let Ok(mut connection) = server.handshake::<_, Bytes>(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let taken = taken.clone();
        tokio::spawn(async move {
            match request.uri().path() {
                "/hang" => keep(request, &taken).await,
                "/refuse" => answer(respond, 413, "unread"),
                "/early" => {
                    answer(respond, 200, "taken");
                    let length = read(request).await;
                    taken.send_modify(|taken| *taken += length);
                }
                "/early-hang" => {
                    answer(respond, 200, "taken");
                    keep(request, &taken).await;
                }
                _ => {
                    let length = read(request).await;
                    answer(respond, 200, &length.to_string());
                }
            }
        });
    }
}

async fn read(request: Request<RecvStream>) -> usize {
    let (mut body, mut length) = (request.into_body(), 0);
    while let Some(Ok(data)) = body.data().await {
        length += data.len();
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    length
}

/// Gives nothing back, not even when the sender has given up.
async fn keep(request: Request<RecvStream>, taken: &watch::Sender<usize>) {
    let mut body = request.into_body();
    // One more than its bytes: an empty one is seen, too.
    taken.send_modify(|taken| *taken += 1);
    while let Some(Ok(data)) = body.data().await {
        taken.send_modify(|taken| *taken += data.len());
    }
    std::future::pending::<()>().await;
}

fn answer(mut respond: SendResponse<Bytes>, status: u16, text: &str) {
    let head = Response::builder().status(status).body(()).unwrap();
    // Whoever has gone gets no response.
    let _ = respond
        .send_response(head, false)
        .and_then(|mut body: SendStream<Bytes>| body.send_data(Bytes::copy_from_slice(text.as_bytes()), true));
}

async fn send(client: &Client, application: i64, url: &str, size: usize) -> Sent {
    let to = client.prepare(url).of(EnvironmentKey(1), ApplicationKey(application));
    client.sender.send(&to, &message(vec![b'x'; size]), &mut Slot::default()).await
}

/// Starts requests of so many bytes.
fn start(client: &Arc<Client>, application: i64, url: &str, sizes: &[usize]) -> JoinSet<Sent> {
    let start = |size: &usize| {
        let (client, url, size) = (Arc::clone(client), url.to_owned(), *size);
        async move { send(&client, application, &url, size).await }
    };
    sizes.iter().map(start).collect()
}

/// Requests, of small bodies one after another, are answered.
async fn are_answered(client: &Client, host: &Host, application: i64, count: usize) {
    for _ in 0..count {
        let sent = tokio::time::timeout(PATIENCE, send(client, application, &host.url("/"), 500)).await.unwrap();
        assert_eq!(answered(&sent), (200, &b"500"[..]));
    }
}

#[tokio::test]
async fn a_tenant_is_served_while_a_large_message_of_another_hangs_unread_at_the_same_host() {
    let authority = Authority::new();
    let host = Host::start(&authority, DEFAULT, 100).await;
    let client = Arc::new(authority.client(PATIENCE * 2));
    let _hanging = start(&client, HANGING, &host.url("/hang"), &[100_000]);
    host.takes(DEFAULT as usize).await;
    are_answered(&client, &host, OTHER, 20).await;
    assert_eq!(host.receiver.connections(), 2);
}

#[tokio::test]
async fn whoever_takes_a_message_over_http2_before_it_was_read_gets_the_rest() {
    let authority = Authority::new();
    let host = Host::start(&authority, DEFAULT, 100).await;
    let client = Arc::new(authority.client(PATIENCE * 2));
    for number in 1..=3 {
        let sent = send(&client, OTHER, &host.url("/early"), MEGABYTE).await;
        assert_eq!(answered(&sent), (200, &b"taken"[..]));
        host.takes(number * MEGABYTE).await;
    }
}

#[tokio::test]
async fn a_connection_on_which_an_answered_message_stays_unread_gets_no_more_requests_and_ends() {
    let authority = Authority::new();
    let host = Host::start(&authority, DEFAULT, 100).await;
    let client = Arc::new(authority.client(PATIENCE * 2));
    let sent = send(&client, HANGING, &host.url("/early-hang"), MEGABYTE).await;
    assert_eq!(answered(&sent), (200, &b"taken"[..]));
    are_answered(&client, &host, HANGING, 1).await;
    assert_eq!(host.receiver.connections(), 2);
    let mut ended = host.ended.subscribe();
    tokio::time::timeout(PATIENCE, ended.wait_for(|ended| *ended == 1)).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_endpoint_is_served_while_a_large_message_of_its_application_hangs_unread_at_the_same_host() {
    let authority = Authority::new();
    let host = Host::start(&authority, DEFAULT, 100).await;
    let client = Arc::new(authority.client(PATIENCE * 2));
    let _hanging = start(&client, HANGING, &host.url("/hang"), &[100_000]);
    host.takes(DEFAULT as usize).await;
    are_answered(&client, &host, HANGING, 20).await;
}

#[tokio::test]
async fn a_tenant_is_served_while_anothers_attempts_hang_unread_again_and_again_at_the_same_host() {
    const SIZE: usize = 16_000;
    let authority = Authority::new();
    let host = Host::start(&authority, DEFAULT, 100).await;
    let client = Arc::new(authority.client(PATIENCE * 2));
    are_answered(&client, &host, OTHER, 1).await;
    for round in 1..=12 {
        let mut hanging = start(&client, HANGING, &host.url("/hang"), &[SIZE]);
        host.takes(round * SIZE).await;
        are_answered(&client, &host, OTHER, 5).await;
        // As when its time is over.
        hanging.shutdown().await;
        are_answered(&client, &host, OTHER, 5).await;
    }
}

#[tokio::test]
async fn a_tenant_is_served_while_those_of_many_others_hang_unread_at_the_same_host() {
    let authority = Authority::new();
    let host = Host::start(&authority, DEFAULT, 100).await;
    let client = Arc::new(authority.client(PATIENCE * 2));
    are_answered(&client, &host, OTHER, 1).await;
    let hanging = (10..18).map(|application| start(&client, application, &host.url("/hang"), &[15_000; 4]));
    let _hanging: Vec<_> = hanging.collect();
    host.takes(8 * 4 * 15_000).await;
    are_answered(&client, &host, OTHER, 20).await;
}

#[tokio::test]
async fn bodies_of_a_megabyte_arrive_at_a_receiver_with_the_default_window() {
    let authority = Authority::new();
    let host = Host::start(&authority, DEFAULT, 100).await;
    let client = Arc::new(authority.client(PATIENCE));
    for _ in 0..5 {
        let sent = send(&client, OTHER, &host.url("/"), MEGABYTE).await;
        assert_eq!(answered(&sent), (200, &b"1000000"[..]));
    }
    assert_eq!(host.receiver.connections(), 1, "one after another needs one connection");
    let sends = start(&client, OTHER, &host.url("/"), &[MEGABYTE; 32]);
    for sent in sends.join_all().await {
        assert_eq!(answered(&sent), (200, &b"1000000"[..]));
    }
    assert!(host.receiver.connections() <= 16);
}

#[tokio::test]
async fn bodies_that_are_refused_unread_and_empty_ones_leave_the_connection_to_others() {
    let authority = Authority::new();
    let host = Host::start(&authority, DEFAULT, 100).await;
    let client = Arc::new(authority.client(PATIENCE));
    for _ in 0..5 {
        assert_eq!(answered(&send(&client, HANGING, &host.url("/refuse"), MEGABYTE).await).0, 413);
        assert_eq!(answered(&send(&client, HANGING, &host.url("/"), 0).await), (200, &b"0"[..]));
        are_answered(&client, &host, OTHER, 5).await;
    }
    assert!(host.receiver.connections() <= 2, "{}", host.receiver.connections());
}

#[tokio::test]
async fn a_large_window_is_shared_by_requests_of_many_over_one_connection() {
    let authority = Authority::new();
    let host = Host::start(&authority, 1 << 30, 100).await;
    let client = Arc::new(authority.client(PATIENCE));
    are_answered(&client, &host, OTHER, 1).await;
    let sends = (10..18).map(|application| start(&client, application, &host.url("/"), &[100_000; 8]));
    for sends in sends.collect::<Vec<_>>() {
        for sent in sends.join_all().await {
            assert_eq!(answered(&sent), (200, &b"100000"[..]));
        }
    }
    assert_eq!(host.receiver.connections(), 1);
}

#[tokio::test]
async fn a_tenant_without_a_request_at_a_host_gets_a_connection_though_others_hang_on_as_many_as_there_may_be() {
    let authority = Authority::new();
    let host = Host::start(&authority, DEFAULT, 4).await;
    let client = Arc::new(authority.client(PATIENCE * 2));
    // Its connection is there, and will be full of others' requests.
    are_answered(&client, &host, OTHER, 1).await;
    let hanging = (10..14).map(|application| start(&client, application, &host.url("/hang"), &[1; 64]));
    let _hanging: Vec<_> = hanging.collect();
    host.takes(2 * 4 * 32).await;
    assert!((32..=64).contains(&host.receiver.connections()));
    are_answered(&client, &host, OTHER, 3).await;
}

#[tokio::test]
async fn large_messages_go_over_their_tenants_connection_while_anothers_small_ones_hang_on_it() {
    let authority = Authority::new();
    let host = Host::start(&authority, DEFAULT, 100).await;
    let client = Arc::new(authority.client(PATIENCE));
    are_answered(&client, &host, OTHER, 1).await;
    let _hanging = start(&client, HANGING, &host.url("/hang"), &[100; 20]);
    host.takes(20 * 101).await;
    for _ in 0..5 {
        let sent = send(&client, OTHER, &host.url("/"), MEGABYTE).await;
        assert_eq!(answered(&sent), (200, &b"1000000"[..]));
    }
    assert_eq!(host.receiver.connections(), 1);
}

/// Longer than an idle connection is kept when something is unread, and shorter than when nothing is.
const PAUSE: Duration = Duration::from_secs(2);

fn client_at(clock: &Arc<ShiftedClock>, authority: &Authority) -> Arc<Client> {
    let names = Names::answering(&["127.0.0.1"]);
    let options = options(&["127.0.0.0/8"], PATIENCE);
    Arc::new(Client::at(clock.clone(), &options, names, authority.roots.clone()))
}

#[tokio::test]
async fn an_idle_connection_whose_window_does_not_come_back_is_closed() {
    let authority = Authority::new();
    let host = Host::start(&authority, DEFAULT, 100).await;
    let clock = Arc::new(ShiftedClock::default());
    let client = client_at(&clock, &authority);
    are_answered(&client, &host, HANGING, 1).await;
    let mut hanging = start(&client, HANGING, &host.url("/hang"), &[12_000; 4]);
    host.takes(4 * 12_000).await;
    // One is answered meanwhile: so the connection is not taken for dead.
    let sent = send(&client, OTHER, &host.url("/"), 1).await;
    assert_eq!(answered(&sent).0, 200);
    hanging.shutdown().await;
    assert_eq!(host.receiver.connections(), 1);
    clock.advance(PAUSE);
    are_answered(&client, &host, OTHER, 1).await;
    assert_eq!(host.receiver.connections(), 2);
}

#[tokio::test]
async fn an_idle_connection_whose_receiver_has_read_everything_is_kept() {
    let authority = Authority::new();
    let host = Host::start(&authority, DEFAULT, 100).await;
    let clock = Arc::new(ShiftedClock::default());
    let client = client_at(&clock, &authority);
    for _ in 0..50 {
        // At each of these, another part of the window was not given back yet.
        are_answered(&client, &host, OTHER, 7).await;
        clock.advance(PAUSE);
    }
    assert_eq!(host.receiver.connections(), 1);
}

#[cfg(target_os = "linux")]
/// Whether this process has the socket with this port at its end; the system may have it for longer.
fn is_open(port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let end = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns[1].ends_with(&end) && columns[9] != "0"
    })
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_connection_that_nobody_uses_is_closed_though_its_receiver_does_not_read_what_it_was_sent() {
    let authority = Authority::new();
    let acceptor = authority.acceptor("hooks.example", &["h2"]);
    let (tell, mut told) = watch::channel(0);
    let receiver = Receiver::start(move |stream, _| {
        let (acceptor, tell) = (acceptor.clone(), tell.clone());
        async move {
            let port = stream.peer_addr().unwrap().port();
            let stream = acceptor.accept(stream).await.unwrap();
            let mut server = h2::server::Builder::new();
            server.initial_window_size(1 << 25).initial_connection_window_size(1 << 25);
            let mut connection = server.handshake::<_, Bytes>(stream).await.unwrap();
            let _request = connection.accept().await;
            if is_open(port) {
                tell.send(port).unwrap();
            }
            std::future::pending::<()>().await;
        }
    })
    .await;
    let names = Names::answering(&["127.0.0.1"]);
    let client = Client::new(&options(&["127.0.0.0/8"], Duration::from_secs(2)), names, authority.roots.clone());
    let url = format!("https://hooks.example:{}/", receiver.address.port());
    let sent = client.send_message(&url, &message(vec![b'x'; 20 * MEGABYTE]), &mut Slot::default()).await;
    assert_eq!(failed(&sent).0, Failure::Timeout);
    let port = *tokio::time::timeout(PATIENCE, told.wait_for(|port| *port > 0)).await.unwrap().unwrap();
    drop(client);
    let closed = async {
        while is_open(port) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
}
