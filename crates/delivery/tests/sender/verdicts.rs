//! What counts over HTTP/2: the status, once its head has come, whatever is wrong with the rest; and what is said where the
//! head itself cannot be read.

use std::time::Duration;

use postrider_delivery::sender::Sent;
use postrider_domain::delivery::Failure;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::floods::{END_HEADERS, END_STREAM, HEADERS, RST_STREAM, SETTINGS, accept, frame, read_request};
use crate::secure::{Authority, url};
use crate::support::{PATIENCE, Receiver, answered, failed};

const DATA: u8 = 0;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

/// `:status: 200`, indexed.
const STATUS_200: u8 = 0x88;

/// A field of a head, as literals.
fn field(name: &str, value: &str) -> Vec<u8> {
    assert!(name.len() < 127 && value.len() < 127);
    [&[0, name.len() as u8][..], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

/// A head that says 200, and these fields.
fn head(flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    let fields = fields.iter().flat_map(|(name, value)| field(name, value));
    frame(HEADERS, END_HEADERS | flags, 1, &[STATUS_200].into_iter().chain(fields).collect::<Vec<_>>())
}

fn data(flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, flags, 1, bytes)
}

/// Reads until the other side closes.
async fn linger(mut stream: TlsStream<TcpStream>) {
    let mut sink = [0; 1024];
    while stream.read(&mut sink).await.is_ok_and(|count| count > 0) {}
}

/// What comes of a request whose response is these frames. They come at once, or one by one.
async fn answered_with(frames: &[Vec<u8>], at_once: bool) -> Sent {
    let authority = Authority::new();
    let acceptor = authority.acceptor("hooks.example", &["h2"]);
    let pieces = if at_once { vec![frames.concat()] } else { frames.to_vec() };
    let receiver = Receiver::start(move |stream, _| {
        let (acceptor, pieces) = (acceptor.clone(), pieces.clone());
        async move {
            let Some(mut stream) = accept(&acceptor, stream).await else { return };
            for piece in pieces {
                // It may be cut off meanwhile.
                let _ = stream.write_all(&piece).await;
                let _ = stream.flush().await;
                tokio::task::yield_now().await;
            }
            linger(stream).await;
        }
    })
    .await;
    authority.client(PATIENCE).send(&url(&receiver, "hooks.example")).await
}

#[tokio::test]
async fn a_status_that_has_come_over_http2_counts_whatever_follows() {
    let length = |length| head(0, &[("content-length", length)]);
    for (name, frames) in [
        ("less than its length", [length("5"), data(END_STREAM, b"abc")]),
        ("more than its length", [length("2"), data(END_STREAM, b"abc")]),
        ("nothing of its length", [length("5"), data(END_STREAM, b"")]),
        ("a stream that is reset", [head(0, &[]), frame(RST_STREAM, 0, 1, &[0, 0, 0, 2])]),
        ("a connection that is given up", [head(0, &[]), frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 1])]),
        ("trailers that are none", [head(0, &[]), frame(HEADERS, END_HEADERS | END_STREAM, 1, &field("X", "y"))]),
        ("a frame without sense", [head(0, &[]), frame(SETTINGS, 0, 1, &[1])]),
        ("a second head", [head(0, &[]), head(0, &[])]),
    ] {
        for at_once in [true, false] {
            let sent = if name.contains("given up") {
                // The receiver says that it has processed the request, and then nothing.
                let close = frame(RST_STREAM, 0, 1, &[0, 0, 0, 0]);
                answered_with(&[&frames[..], &[close]].concat(), at_once).await
            } else {
                answered_with(&frames, at_once).await
            };
            assert_eq!(answered(&sent).0, 200, "{name}, at once: {at_once}");
        }
    }
}

#[tokio::test]
async fn a_head_that_cannot_be_read_over_http2_is_a_failed_attempt_that_says_so() {
    let large: Vec<Vec<u8>> = (0..70).map(|_| [&[0, 1, b'a', 0x7f, 0xe9, 0x06][..], &[b'b'; 1_000]].concat()).collect();
    let large: Vec<Vec<u8>> = large.chunks(10).map(|fields| fields.concat()).collect();
    let mut frames = vec![frame(HEADERS, 0, 1, &[STATUS_200])];
    frames.extend(large.iter().map(|fields| frame(CONTINUATION, 0, 1, fields)));
    frames.push(frame(CONTINUATION, END_HEADERS, 1, &[]));
    for (name, frames) in [
        ("more than 64 KiB", frames),
        ("a name in upper case", vec![head(END_STREAM, &[("X-A", "b")])]),
        ("a field of a connection", vec![head(END_STREAM, &[("connection", "close")])]),
        ("a length that is none", vec![head(0, &[("content-length", "five")])]),
        ("two lengths", vec![head(0, &[("content-length", "1"), ("content-length", "2")])]),
        ("a length, and the end", vec![head(END_STREAM, &[("content-length", "5")])]),
    ] {
        let sent = answered_with(&frames, true).await;
        let text = "the receiver broke the rules of HTTP/2, or the head of its response is larger than 64 KiB, so its status is not known";
        assert_eq!(failed(&sent), (Failure::Protocol, text), "{name}");
    }
}

/// What comes of a request to a receiver that allows no stream, and later maybe one.
async fn without_streams(and_later: bool) -> Sent {
    let authority = Authority::new();
    let acceptor = authority.acceptor("hooks.example", &["h2"]);
    let receiver = Receiver::start(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            let streams = |number: u8| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, number]);
            stream.write_all(&streams(0)).await.unwrap();
            stream.flush().await.unwrap();
            if and_later {
                // The request waits for a stream by now, or will find one.
                stream.write_all(&streams(1)).await.unwrap();
                stream.flush().await.unwrap();
                read_request(&mut stream).await.unwrap();
                stream.write_all(&head(END_STREAM, &[])).await.unwrap();
                stream.flush().await.unwrap();
            }
            linger(stream).await;
        }
    })
    .await;
    let patience = if and_later { PATIENCE } else { Duration::from_secs(1) };
    authority.client(patience).send(&url(&receiver, "hooks.example")).await
}

#[tokio::test]
async fn a_receiver_that_allows_no_stream_yet_is_waited_for_within_the_attempt() {
    assert_eq!(answered(&without_streams(true).await).0, 200);
}

#[tokio::test]
async fn a_receiver_that_allows_no_stream_at_all_is_named_as_such() {
    let text = "timed out after 1s: the receiver allows no request on its HTTP/2 connections (SETTINGS_MAX_CONCURRENT_STREAMS is 0)";
    assert_eq!(failed(&without_streams(false).await), (Failure::Timeout, text));
}
