//! Receivers that want too much of the sender's time or memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postrider_delivery::sender::Slot;
use postrider_domain::attempt::MAX_KEPT_ANSWER_BYTES;
use postrider_domain::delivery::Failure;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::*;

/// Short, because these cases wait it out; long enough for a connection on a busy machine.
const SHORT: Duration = Duration::from_millis(500);

/// Writes `chunk` until the sender hangs up, and counts what it took.
async fn flood(stream: &mut TcpStream, chunk: &[u8], taken: &AtomicUsize) {
    while stream.write_all(chunk).await.is_ok() {
        taken.fetch_add(chunk.len(), Ordering::SeqCst);
    }
}

#[tokio::test]
async fn an_endless_body_is_cut_and_the_status_kept() {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let receiver = Receiver::start(move |mut stream, _| {
        let counter = Arc::clone(&counter);
        async move {
            read_request(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
            flood(&mut stream, b"10\r\n0123456789abcdef\r\n", &counter).await;
        }
    })
    .await;
    let client = Client::local();
    let mut slot = Slot::default();
    let sent = client.send_with(&receiver.url(), &mut slot).await;
    let (status, body) = answered(&sent);
    assert_eq!((status, body.len()), (200, MAX_KEPT_ANSWER_BYTES));
    assert!(body.starts_with(b"0123456789abcdef0123"));
    client.send_with(&receiver.url(), &mut slot).await;
    assert_eq!(receiver.connections(), 2, "the first was not used again");
}

#[tokio::test]
async fn a_compressed_answer_is_kept_as_it_is() {
    let receiver = Receiver::start(|stream, _| {
        answer_all(stream, b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00")
    })
    .await;
    assert_eq!(answered(&Client::local().send(&receiver.url()).await), (200, &b"\x1f\x8b\x08\x00"[..]));
}

/// Writes `first`, and then one byte every 10 ms.
async fn drip(mut stream: TcpStream, first: &'static [u8]) {
    read_request(&mut stream).await.unwrap();
    stream.write_all(first).await.unwrap();
    while stream.write_all(b"x").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_deadline_ends_an_answer_that_comes_byte_by_byte() {
    let head = Receiver::start(|stream, _| drip(stream, b"HTTP/1.1 200 OK\r\nx-slow: ")).await;
    let body = Receiver::start(|stream, _| drip(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n")).await;
    let client = Client::with_timeout(SHORT);
    let sent = client.send(&head.url()).await;
    assert_eq!(failed(&sent), (Failure::Timeout, "timed out after 500ms: the receiver did not answer"));
    assert!(sent.duration >= SHORT && sent.duration < PATIENCE);
    let sent = client.send(&body.url()).await;
    assert_eq!(
        failed(&sent),
        (Failure::Timeout, "timed out after 500ms: the receiver answered 200, but did not finish its answer")
    );
}

#[tokio::test]
async fn the_deadline_ends_silence_and_interim_answers_without_end() {
    let silent = Receiver::start(|mut stream, _| async move {
        let mut sink = Vec::new();
        let _ = stream.read_to_end(&mut sink).await;
    })
    .await;
    let interim = Receiver::start(|mut stream, _| async move {
        read_request(&mut stream).await.unwrap();
        flood(&mut stream, b"HTTP/1.1 102 Processing\r\n\r\n", &AtomicUsize::new(0)).await;
    })
    .await;
    for receiver in [silent, interim] {
        let sent = Client::with_timeout(SHORT).send(&receiver.url()).await;
        assert_eq!(failed(&sent), (Failure::Timeout, "timed out after 500ms: the receiver did not answer"));
    }
}

#[tokio::test]
async fn the_deadline_ends_a_request_that_is_not_taken() {
    let receiver = Receiver::start(|stream, _| async move {
        // Held open, never read: the socket buffers fill up.
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let client = Client::with_timeout(SHORT);
    let large = message(vec![b' '; 16 * 1024 * 1024]);
    let sent = client.send_message(&receiver.url(), &large, &mut Slot::default()).await;
    assert_eq!(failed(&sent).0, Failure::Timeout);
}

#[tokio::test]
async fn a_head_without_end_is_a_failed_attempt_and_takes_no_memory() {
    for line in [&b"x-header: value\r\n"[..], &[b'a'; 1024][..]] {
        let taken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&taken);
        let receiver = Receiver::start(move |mut stream, _| {
            let counter = Arc::clone(&counter);
            async move {
                read_request(&mut stream).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
                flood(&mut stream, line, &counter).await;
            }
        })
        .await;
        let sent = Client::local().send(&receiver.url()).await;
        assert_eq!(failed(&sent), (Failure::Protocol, "the head of the answer is too large"));
        // What was taken was mostly in the buffers of the two sockets.
        let taken = taken.load(Ordering::SeqCst);
        assert!(taken < 16 * 1024 * 1024, "{taken} bytes");
    }
}

#[tokio::test]
async fn ten_thousand_headers_are_a_failed_attempt() {
    let mut answer = b"HTTP/1.1 200 OK\r\n".to_vec();
    for number in 0..10_000 {
        answer.extend_from_slice(format!("x-{number}: y\r\n").as_bytes());
    }
    answer.extend_from_slice(b"content-length: 0\r\n\r\n");
    let answer: &'static [u8] = answer.leak();
    let receiver = Receiver::start(move |stream, _| answer_all(stream, answer)).await;
    let sent = Client::local().send(&receiver.url()).await;
    assert_eq!(failed(&sent), (Failure::Protocol, "the head of the answer is too large"));
}

#[tokio::test]
async fn what_is_no_http_is_a_failed_attempt() {
    for answer in [&b"SSH-2.0-OpenSSH_9.6\r\n"[..], b"HTTP/1.1 2x0 OK\r\n\r\n", b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"] {
        let receiver = Receiver::start(move |stream, _| answer_all(stream, answer)).await;
        let sent = Client::local().send(&receiver.url()).await;
        assert_eq!(failed(&sent), (Failure::Protocol, "the answer is not valid HTTP"));
    }
}

#[tokio::test]
async fn bytes_that_nobody_asked_for_are_not_taken_for_the_next_answer() {
    let receiver = Receiver::start(|stream, number| {
        let answer: &[u8] = match number {
            0 => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
            _ => OK,
        };
        answer_all(stream, answer)
    })
    .await;
    let client = Client::local();
    let mut slot = Slot::default();
    for _ in 0..2 {
        assert_eq!(answered(&client.send_with(&receiver.url(), &mut slot).await), (200, &b"ok"[..]));
    }
    assert_eq!(receiver.connections(), 2);
}
