//! Receivers that want too much of the sender's time or memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postrider_delivery::sender::Slot;
use postrider_domain::attempt::MAX_KEPT_ANSWER_BYTES;
use postrider_domain::delivery::{Failure, Outcome};
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
    let receiver = Receiver::start(|stream, _| drip(stream, b"HTTP/1.1 200 O")).await;
    let sent = Client::with_timeout(SHORT).send(&receiver.url()).await;
    assert_eq!(failed(&sent), (Failure::Timeout, "timed out after 500ms: the receiver did not respond"));
    assert!(sent.duration >= SHORT && sent.duration < PATIENCE);
}

#[tokio::test]
async fn a_status_that_came_before_the_deadline_counts_whatever_is_missing() {
    for (first, status, body) in [
        (&b"HTTP/1.1 200 OK\r\nx-slow: "[..], 200, false),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n", 200, true),
        (b"HTTP/1.1 200 OK\r\n\r\n", 200, true),
        (b"HTTP/1.1 202 Accepted\r\ntransfer-encoding: chunked\r\n\r\nfff\r\n", 202, true),
        (b"HTTP/1.1 503 No\r\nx-slow: ", 503, false),
        (b"HTTP/1.1 404 No\r\ncontent-length: 9999\r\n\r\n", 404, true),
    ] {
        let receiver = Receiver::start(move |stream, _| drip(stream, first)).await;
        let client = Client::with_timeout(SHORT);
        let mut slot = Slot::default();
        let sent = client.send_with(&receiver.url(), &mut slot).await;
        let (found, kept) = answered(&sent);
        assert_eq!((found, kept.starts_with(b"x")), (status, body), "{}", first.escape_ascii());
        assert_eq!(sent.outcome.succeeded(), status < 300);
        client.send_with(&receiver.url(), &mut slot).await;
        assert_eq!(receiver.connections(), 2, "the connection was closed");
    }
}

#[tokio::test]
async fn a_retry_after_that_came_before_the_deadline_counts() {
    for first in [
        &b"HTTP/1.1 503 No\r\nRetry-After: 120\r\nx-slow: "[..],
        b"HTTP/1.1 429 No\r\nretry-after : 120\r\ncontent-length: 9999\r\n\r\n",
    ] {
        let receiver = Receiver::start(move |stream, _| drip(stream, first)).await;
        let sent = Client::with_timeout(SHORT).send(&receiver.url()).await;
        let Outcome::Answered { retry_after, .. } = sent.outcome else { panic!("{:?}", sent.outcome) };
        assert_eq!(retry_after, Some(Duration::from_secs(120)));
    }
}

#[tokio::test]
async fn the_deadline_ends_silence_and_interim_answers_without_a_final_one() {
    let silent = Receiver::start(|stream, _| drip_nothing(stream, b"")).await;
    let interim = Receiver::start(|stream, _| drip_nothing(stream, b"HTTP/1.1 102 Processing\r\n\r\n")).await;
    for (receiver, text) in [
        (silent, "timed out after 500ms: the receiver did not respond"),
        (interim, "timed out after 500ms: the receiver sent interim responses, but no final one"),
    ] {
        let sent = Client::with_timeout(SHORT).send(&receiver.url()).await;
        assert_eq!(failed(&sent), (Failure::Timeout, text));
    }
}

/// Writes `first` after a request, and nothing else.
async fn drip_nothing(mut stream: TcpStream, first: &'static [u8]) {
    read_request(&mut stream).await.unwrap();
    stream.write_all(first).await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

/// A receiver that never ends its answer, and what it got rid of.
async fn endless(first: &'static [u8], chunk: &'static [u8]) -> (Receiver, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let receiver = Receiver::start(move |mut stream, _| {
        let counter = Arc::clone(&counter);
        async move {
            read_request(&mut stream).await.unwrap();
            stream.write_all(first).await.unwrap();
            flood(&mut stream, chunk, &counter).await;
        }
    })
    .await;
    (receiver, taken)
}

#[tokio::test]
async fn interim_answers_without_end_are_a_failed_attempt_at_once() {
    for chunk in [
        &b"HTTP/1.1 100 Continue\r\n\r\n"[..],
        b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n",
        b"HTTP/1.1 199 Odd\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n",
    ] {
        let (receiver, taken) = endless(b"", chunk).await;
        let client = Client::local();
        let mut slot = Slot::default();
        for connections in 1..=2 {
            let sent = client.send_with(&receiver.url(), &mut slot).await;
            assert_eq!(failed(&sent), (Failure::Protocol, "too many interim responses (1xx) without a final one"));
            assert_eq!(receiver.connections(), connections);
        }
        assert!(taken.load(Ordering::SeqCst) < 16 * 1024 * 1024, "nothing is read after the attempt");
    }
}

#[tokio::test]
async fn an_interim_answer_with_a_head_without_end_is_a_failed_attempt() {
    let (receiver, _) = endless(b"HTTP/1.1 103 Early Hints\r\n", b"link: </x>\r\n").await;
    let sent = Client::local().send(&receiver.url()).await;
    assert_eq!(failed(&sent), (Failure::Protocol, "too many interim responses (1xx) without a final one"));
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
async fn a_head_without_end_keeps_the_status_and_takes_no_memory() {
    for line in [&b"x-header: value\r\n"[..], &[b'a'; 1024][..]] {
        for (first, status) in [(&b"HTTP/1.1 200 OK\r\n"[..], 200), (b"HTTP/1.1 500 No\r\n", 500)] {
            let (receiver, taken) = endless(first, line).await;
            let client = Client::local();
            let mut slot = Slot::default();
            for connections in 1..=2 {
                let sent = client.send_with(&receiver.url(), &mut slot).await;
                assert_eq!(answered(&sent), (status, &b""[..]));
                assert_eq!(receiver.connections(), connections);
            }
            // What was taken was mostly in the buffers of the sockets.
            let taken = taken.load(Ordering::SeqCst);
            assert!(taken < 16 * 1024 * 1024, "{taken} bytes");
        }
    }
}

#[tokio::test]
async fn a_head_without_end_and_without_a_status_is_a_failed_attempt() {
    let (receiver, _) = endless(b"", b"\r\n\r\n\r\n").await;
    let sent = Client::local().send(&receiver.url()).await;
    assert_eq!(failed(&sent), (Failure::Protocol, "the head of the response is too large"));
}

#[tokio::test]
async fn the_status_counts_of_a_status_line_without_end() {
    let (receiver, _) = endless(b"HTTP/1.1 200 ", b"OK OK OK OK").await;
    assert_eq!(answered(&Client::local().send(&receiver.url()).await), (200, &b""[..]));
}

#[tokio::test]
async fn the_number_of_headers_does_not_matter() {
    for count in [101, 10_000] {
        let mut answer = b"HTTP/1.1 200 OK\r\n".to_vec();
        for number in 0..count {
            answer.extend_from_slice(format!("x-{number}: y\r\n").as_bytes());
        }
        answer.extend_from_slice(b"content-length: 0\r\n\r\n");
        let answer: &'static [u8] = answer.leak();
        let receiver = Receiver::start(move |stream, _| answer_all(stream, answer)).await;
        assert_eq!(answered(&Client::local().send(&receiver.url()).await).0, 200);
    }
}

#[tokio::test]
async fn what_is_no_http_is_a_failed_attempt() {
    for answer in [
        &b"SSH-2.0-OpenSSH_9.6\r\n"[..],
        b"<html>thank you</html>",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 000 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ] {
        let receiver = Receiver::start(move |stream, _| answer_all(stream, answer)).await;
        let sent = Client::local().send(&receiver.url()).await;
        assert_eq!(failed(&sent), (Failure::Protocol, "the response is not valid HTTP"));
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
