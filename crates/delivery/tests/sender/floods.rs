//! HTTP/2 receivers that send frames without end: the connection is ended, during the attempt and after it.

use std::sync::Arc;
use std::time::Duration;

use postrider_delivery::sender::Sent;
use postrider_domain::delivery::Failure;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::secure::{Authority, url};
use crate::support::{PATIENCE, Receiver, answered, failed};

pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const UNKNOWN: u8 = 99;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `:status` with a literal value, not indexed; and a header of some size.
fn early_hints() -> Vec<u8> {
    let mut block = vec![0x08, 3];
    block.extend_from_slice(b"103");
    block.extend_from_slice(b"\x00\x04link\x40");
    block.extend_from_slice(&[b'x'; 64]);
    frame(HEADERS, END_HEADERS, 1, &block)
}

/// Accepts, sends settings, and reads until the request on the first stream is here.
pub(crate) async fn accept(acceptor: &TlsAcceptor, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    let mut stream = acceptor.accept(stream).await.ok()?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.ok()?;
    stream.flush().await.ok()?;
    read_request(&mut stream).await?;
    Some(stream)
}

/// Reads the preface, and on until the request on the first stream is here.
pub(crate) async fn read_request(stream: &mut TlsStream<TcpStream>) -> Option<()> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.ok()?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await.ok()?;
        let of_stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) == 1;
        if of_stream && head[4] & END_STREAM != 0 {
            return Some(());
        }
    }
}

/// Sends frames until the connection is gone, or for so many of them; reads what comes back, so that nothing is held up.
async fn flood(stream: TlsStream<TcpStream>, frames: &[u8]) -> bool {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reading = tokio::spawn(async move {
        let mut sink = vec![0; 64 * 1024];
        while reader.read(&mut sink).await.is_ok_and(|count| count > 0) {}
    });
    let many = frames.repeat(100);
    let mut gone = false;
    for _ in 0..10_000 {
        if writer.write_all(&many).await.is_err() || writer.flush().await.is_err() || reading.is_finished() {
            gone = true;
            break;
        }
    }
    reading.abort();
    gone
}

/// Floods with each kind of frame, after the answer or instead of it.
async fn flooded(answer: Option<Vec<u8>>, kind: Vec<u8>, name: &str) {
    let authority = Authority::new();
    let acceptor = authority.acceptor("hooks.example", &["h2"]);
    let gone = Arc::new(Notify::new());
    let tell = Arc::clone(&gone);
    let answers = answer.is_some();
    let receiver = Receiver::start(move |stream, _| {
        let (acceptor, tell, answer, kind) = (acceptor.clone(), Arc::clone(&tell), answer.clone(), kind.clone());
        async move {
            let Some(mut stream) = accept(&acceptor, stream).await else { return };
            if let Some(answer) = answer {
                stream.write_all(&answer).await.unwrap();
                stream.flush().await.unwrap();
            }
            if flood(stream, &kind).await {
                tell.notify_one();
            }
        }
    })
    .await;
    let client = authority.client(PATIENCE * 2);
    let sent = client.send(&url(&receiver, "hooks.example")).await;
    if answers {
        assert_eq!(answered(&sent).0, 200, "{name}");
    } else {
        let (kind, detail) = failed(&sent);
        assert_eq!(
            (kind, detail),
            (Failure::Protocol, "the receiver sent too much over HTTP/2 that is no response"),
            "{name}"
        );
    }
    let ended = tokio::time::timeout(PATIENCE, gone.notified()).await;
    assert!(ended.is_ok(), "{name}: the connection is still there");
}

fn kinds() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("SETTINGS with content", frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("frames of an unknown kind", frame(UNKNOWN, 0, 0, b"what is this")),
        ("PRIORITY", frame(2, 0, 3, &[0, 0, 0, 0, 1])),
    ]
}

#[tokio::test]
async fn frames_without_end_after_the_answer_end_the_connection() {
    // `:status: 200`, indexed.
    let answer = frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]);
    for (name, kind) in kinds().into_iter().chain([("RST_STREAM", frame(RST_STREAM, 0, 1, &[0, 0, 0, 0]))]) {
        flooded(Some(answer.clone()), kind, name).await;
    }
}

#[tokio::test]
async fn frames_without_end_instead_of_an_answer_end_the_connection() {
    for (name, kind) in kinds() {
        flooded(None, kind, name).await;
    }
}

#[tokio::test]
async fn interim_responses_without_end_end_the_connection() {
    flooded(None, early_hints(), "103").await;
}

#[tokio::test]
async fn empty_data_frames_without_end_end_the_connection_and_leave_the_status() {
    let head = frame(HEADERS, END_HEADERS, 1, &[0x88]);
    flooded(Some(head), frame(0, 0, 1, &[]), "empty DATA").await;
}

#[tokio::test]
async fn a_head_that_never_ends_ends_the_connection() {
    // The block begins, and goes on in CONTINUATION frames that carry nothing.
    let begin = frame(HEADERS, 0, 1, &[0x88]);
    let authority = Authority::new();
    let acceptor = authority.acceptor("hooks.example", &["h2"]);
    let gone = Arc::new(Notify::new());
    let tell = Arc::clone(&gone);
    let receiver = Receiver::start(move |stream, _| {
        let (acceptor, tell, begin) = (acceptor.clone(), Arc::clone(&tell), begin.clone());
        async move {
            let Some(mut stream) = accept(&acceptor, stream).await else { return };
            stream.write_all(&begin).await.unwrap();
            if flood(stream, &frame(9, 0, 1, &[])).await {
                tell.notify_one();
            }
        }
    })
    .await;
    let sent = authority.client(PATIENCE * 2).send(&url(&receiver, "hooks.example")).await;
    assert_eq!(failed(&sent).0, Failure::Protocol);
    assert!(tokio::time::timeout(PATIENCE, gone.notified()).await.is_ok());
}

/// What comes of a request whose response comes after these frames, so many times.
async fn after_frames(frames: Vec<u8>, count: usize) -> Sent {
    let authority = Authority::new();
    let acceptor = authority.acceptor("hooks.example", &["h2"]);
    let receiver = Receiver::start(move |stream, _| {
        let (acceptor, mut all) = (acceptor.clone(), frames.repeat(count));
        async move {
            let Some(mut stream) = accept(&acceptor, stream).await else { return };
            all.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]));
            // It may be cut off meanwhile.
            let _ = stream.write_all(&all).await;
            let _ = stream.flush().await;
            let mut sink = [0; 1024];
            while stream.read(&mut sink).await.is_ok_and(|count| count > 0) {}
        }
    })
    .await;
    let client = authority.client(Duration::from_secs(20));
    client.send(&url(&receiver, "hooks.example")).await
}

#[tokio::test]
async fn some_interim_responses_and_pings_before_an_answer_do_no_harm() {
    let frames = [early_hints(), frame(PING, 0, 0, &[0; 8])].concat();
    assert_eq!(answered(&after_frames(frames, 16).await).0, 200);
}

#[tokio::test]
async fn more_heads_of_interim_responses_than_anybody_needs_are_a_failed_attempt() {
    // A hundred kilobytes, so that they are not all read at once: a field of 1,000 bytes in each.
    let mut block = vec![0x08, 3];
    block.extend_from_slice(b"103");
    block.extend_from_slice(&[0x00, 1, b'a', 0x7f, 0xe9, 0x06]);
    block.extend_from_slice(&[b'b'; 1_000]);
    let sent = after_frames(frame(HEADERS, END_HEADERS, 1, &block), 100).await;
    assert_eq!(failed(&sent).0, Failure::Protocol);
}

/// How long this thread was on a processor.
pub(crate) fn processor_time() -> Duration {
    let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(schedule.split(' ').next().unwrap().parse().unwrap())
}

/// A receiver on a thread of its own that begins with some frames and then sends others without end; told when its
/// connection is gone.
fn flooding_thread(
    acceptor: TlsAcceptor,
    (begin, frames): (Vec<u8>, Vec<u8>),
    gone: Arc<Notify>,
) -> std::net::SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let ended = Arc::clone(&gone);
            let receiver = Receiver::start(move |stream, _| {
                let (acceptor, ended) = (acceptor.clone(), Arc::clone(&ended));
                let (begin, frames) = (begin.clone(), frames.clone());
                async move {
                    let Some(mut stream) = accept(&acceptor, stream).await else { return };
                    stream.write_all(&begin).await.unwrap();
                    flood(stream, &frames).await;
                    ended.notify_one();
                }
            })
            .await;
            tell.send(receiver.address).unwrap();
            std::future::pending::<()>().await;
        });
    });
    told.recv().unwrap()
}

/// Lets a receiver flood, and tells what came of the attempt. Fails if it costs much.
fn flooded_cheaply(begin: Vec<u8>, frames: Vec<u8>) -> Sent {
    let (authority, gone) = (Authority::new(), Arc::new(Notify::new()));
    let acceptor = authority.acceptor("hooks.example", &["h2"]);
    let address = flooding_thread(acceptor, (begin, frames), Arc::clone(&gone));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = authority.client(PATIENCE * 2);
        let before = processor_time();
        let sent = client.send(&format!("https://hooks.example:{}/", address.port())).await;
        tokio::time::timeout(PATIENCE, gone.notified()).await.expect("the connection is ended");
        // A handshake, and some hundred frames. The million that it would send takes many times as long.
        let spent = processor_time() - before;
        assert!(spent < Duration::from_secs(2), "{spent:?}");
        sent
    })
}

#[test]
fn a_flood_costs_little_processor_time() {
    let answer = frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]);
    assert_eq!(answered(&flooded_cheaply(answer, frame(PING, 0, 0, &[0; 8]))).0, 200);
}

#[test]
fn interim_responses_of_which_each_byte_stands_for_a_large_field_cost_little_processor_time() {
    // A field of three kilobytes enters the table; from then on each byte of a head of 16 KiB stands for it.
    let field = [&[0x40, 1, b'a', 0x7f, 0xb9, 0x16][..], &[b'b'; 3_000]].concat();
    let begin = frame(HEADERS, END_HEADERS, 1, &[&[0x08, 3][..], b"103", &field].concat());
    let bomb = frame(HEADERS, END_HEADERS, 1, &[&[0x08, 3][..], b"103", &[0xbe; 16_000]].concat());
    assert_eq!(failed(&flooded_cheaply(begin, bomb)).0, Failure::Protocol);
}
