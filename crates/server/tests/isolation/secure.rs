//! Hostile receivers that speak TLS and HTTP/2, or pretend to: one tenant's endpoints lead to them, and another tenant must
//! not notice. What becomes of each attempt is judged by the tests of the sender; here, what it costs the others.

use std::sync::Arc;
use std::time::Duration;

use postrider_testkit::{Authority, TestServer, TestServerBuilder};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::neighbour::unharmed;
use crate::receivers::flood_some;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_HEADERS: u8 = 4;

/// The request's stream: each connection of these receivers is used for its first one.
const STREAM: u32 = 1;

/// Endpoints at the hostile receiver: few, because the receiver's half of each handshake is work of this machine, too.
const ENDPOINTS: usize = 5;

/// How long the client has to send its request before the receiver goes on.
const REQUEST: Duration = Duration::from_secs(1);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("frames are short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// One setting of HTTP/2.
fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// The head of an answer: `:status: 200`, indexed.
fn ok() -> Vec<u8> {
    frame(HEADERS, END_HEADERS, STREAM, &[0x88])
}

/// `:status: 103`, not indexed, and a header of some size.
fn early_hints() -> Vec<u8> {
    let block = [&b"\x08\x03103\x00\x04link\x40"[..], &[b'x'; 64]].concat();
    frame(HEADERS, END_HEADERS, STREAM, &block)
}

/// A head that is a few kilobytes on the wire, and 40 MB when it is decoded: a header of 4,000 bytes goes into the table,
/// and is named ten thousand times.
fn expanding_head() -> Vec<u8> {
    // A literal with indexing, its name `a`, its value of 127 + 3873 bytes; then the newest entry of the table again.
    let block = [&b"\x88\x40\x01a\x7f\xa1\x1e"[..], &[b'v'; 4_000], &[0xbe; 10_000]].concat();
    frame(HEADERS, END_HEADERS, STREAM, &block)
}

/// What a receiver does on a connection over which HTTP/2 was agreed.
#[derive(Clone)]
struct Script {
    /// What it says first.
    hello: Vec<u8>,
    /// What it answers to the request.
    answer: Vec<u8>,
    /// What it sends after that for as long as anybody reads it; nothing if empty.
    filler: Vec<u8>,
}

async fn play(stream: impl AsyncRead + AsyncWrite + Unpin, script: &Script) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reading = async {
        let mut sink = [0; 16 * 1024];
        while reader.read(&mut sink).await.is_ok_and(|count| count > 0) {}
    };
    let writing = async {
        writer.write_all(&script.hello).await?;
        writer.flush().await?;
        sleep(Duration::from_millis(20)).await;
        writer.write_all(&script.answer).await?;
        writer.flush().await?;
        while !script.filler.is_empty() {
            writer.write_all(&script.filler).await?;
            writer.flush().await?;
        }
        std::future::pending::<std::io::Result<()>>().await
    };
    // Whichever ends first: the connection is gone then.
    tokio::select! {
        () = reading => {}
        _ = writing => {}
    }
}

/// Runs something on every connection to a port of its own. It ends with the set.
async fn listen<S: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> S + Send + 'static,
) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has free ports");
    let url = format!("https://{}/", listener.local_addr().expect("a listener has an address"));
    let mut set = JoinSet::new();
    set.spawn(async move {
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => if let Ok((stream, _)) = accepted { open.spawn(serve(stream)); },
                Some(_) = open.join_next() => {}
            }
        }
    });
    (url, set)
}

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider")).set("delivery.request_timeout", "5s")
}

/// Floods endpoints over HTTP/2 whose receiver plays a script.
async fn http2_does_no_harm(script: Script) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let authority = Authority::new();
    let server = server().variable("SSL_CERT_FILE", authority.write_pem(folder.path()).display().to_string());
    let acceptor = authority.issue(&["127.0.0.1"]).acceptor(&[b"h2"]);
    let script = Arc::new(script);
    let (url, _receiver) = listen(move |stream| {
        let (acceptor, script) = (acceptor.clone(), Arc::clone(&script));
        async move {
            if let Ok(Ok(stream)) = timeout(REQUEST, acceptor.accept(stream)).await {
                Box::pin(play(stream, &script)).await;
            }
        }
    })
    .await;
    unharmed(server, async |server| flood_some(server, &url, ENDPOINTS).await).await;
}

#[tokio::test]
async fn settings_without_an_end() {
    let filler = frame(SETTINGS, 0, 0, &[]).repeat(100);
    http2_does_no_harm(Script { hello: frame(SETTINGS, 0, 0, &[]), answer: Vec::new(), filler }).await;
}

#[tokio::test]
async fn pings_without_an_end() {
    let filler = frame(PING, 0, 0, &[0; 8]).repeat(100);
    http2_does_no_harm(Script { hello: frame(SETTINGS, 0, 0, &[]), answer: Vec::new(), filler }).await;
}

#[tokio::test]
async fn interim_heads_without_an_end() {
    let filler = early_hints().repeat(100);
    http2_does_no_harm(Script { hello: frame(SETTINGS, 0, 0, &[]), answer: Vec::new(), filler }).await;
}

#[tokio::test]
async fn a_body_of_single_bytes_without_an_end() {
    let filler = frame(DATA, 0, STREAM, b"x").repeat(100);
    http2_does_no_harm(Script { hello: frame(SETTINGS, 0, 0, &[]), answer: ok(), filler }).await;
}

#[tokio::test]
async fn streams_that_hang_and_of_which_there_is_one_at_a_time() {
    let hello = setting(MAX_CONCURRENT_STREAMS, 1);
    http2_does_no_harm(Script { hello, answer: Vec::new(), filler: Vec::new() }).await;
}

#[tokio::test]
async fn a_window_for_no_byte_at_all() {
    let hello = setting(INITIAL_WINDOW_SIZE, 0);
    http2_does_no_harm(Script { hello, answer: Vec::new(), filler: Vec::new() }).await;
}

#[tokio::test]
async fn a_head_that_expands() {
    let script = Script { hello: frame(SETTINGS, 0, 0, &[]), answer: expanding_head(), filler: Vec::new() };
    http2_does_no_harm(script).await;
}

/// Floods endpoints over TLS whose receiver writes `pieces` instead of a handshake, `pause` apart, until it is left.
async fn handshake_does_no_harm(pieces: Vec<Vec<u8>>, pause: Duration) {
    let pieces = Arc::new(pieces);
    let (url, _receiver) = listen(move |mut stream| {
        let pieces = Arc::clone(&pieces);
        async move {
            for piece in pieces.iter().cycle() {
                if stream.write_all(piece).await.is_err() {
                    return;
                }
                sleep(pause).await;
            }
        }
    })
    .await;
    unharmed(server(), async |server| flood_some(server, &url, ENDPOINTS).await).await;
}

#[tokio::test]
async fn a_handshake_of_a_byte_at_a_time() {
    // The head of a record of 16 KiB, which is never complete.
    let bytes = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03";
    handshake_does_no_harm(bytes.iter().map(|byte| vec![*byte]).collect(), Duration::from_millis(200)).await;
}

#[tokio::test]
async fn a_handshake_of_empty_records_without_an_end() {
    handshake_does_no_harm(vec![b"\x16\x03\x03\x00\x00".repeat(1_000)], Duration::ZERO).await;
}

#[tokio::test]
async fn a_handshake_of_noise() {
    let noise: Vec<u8> = (0..16_384u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    handshake_does_no_harm(vec![noise], Duration::ZERO).await;
}
