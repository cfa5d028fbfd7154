//! Receivers that speak HTTP/1 in odd ways: what was meant is taken, what contradicts itself is not.

use postrider_delivery::sender::Slot;
use postrider_domain::delivery::Failure;
use tokio::io::AsyncWriteExt as _;

use crate::support::*;

/// What two requests in a row come to, and how many connections they take.
async fn twice(answer: &'static [u8]) -> (u16, Vec<u8>, usize) {
    let receiver = Receiver::start(move |stream, _| answer_all(stream, answer)).await;
    let client = Client::with_timeout(PATIENCE);
    let mut slot = Slot::default();
    client.send_with(&receiver.url(), &mut slot).await;
    let sent = client.send_with(&receiver.url(), &mut slot).await;
    let (status, body) = answered(&sent);
    (status, body.to_vec(), receiver.connections())
}

#[tokio::test]
async fn odd_headers_that_leave_no_doubt_about_the_end_are_taken_and_the_connection_is_kept() {
    for answer in [
        &b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"[..],
        b"\r\n\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 \xff\x01\x7f\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-A: \x01\x7f\xff\xc3\xbc\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=\"y\"\r\no\r\n01\r\nk\r\n0\r\nX-Sum : 1\r\n\r\n",
    ] {
        assert_eq!(twice(answer).await, (200, b"ok".to_vec(), 1), "{}", answer.escape_ascii());
    }
}

#[tokio::test]
async fn odd_headers_that_others_might_read_otherwise_are_taken_and_the_connection_is_closed() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length: 2\r\n\r\nok"[..],
        b"HTTP/1.1 200 OK\r\nX-A: b\r\n and more\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n begins folded\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n: no name\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-\xc3\xbc: b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX\x01\x7f: b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-A: b\rc\0d\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    ] {
        assert_eq!(twice(answer).await, (200, b"ok".to_vec(), 2), "{}", answer.escape_ascii());
    }
}

#[tokio::test]
async fn a_success_stays_one_whatever_is_wrong_with_its_body() {
    for rest in [
        &b"Content-Length: 9\r\n\r\ncut"[..],
        b"Content-Length: 2\r\n\r\nmore than two",
        b"Content-Length: -1\r\n\r\nx",
        b"Content-Length: 99999999999999999999999999\r\n\r\nx",
        b"Transfer-Encoding: chunked\r\n\r\nnot a size\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\ntoo long\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe",
        b"Content-Encoding: gzip\r\n\r\n\x1f\x8bnot gzip",
        b"\r\n",
        b"",
    ] {
        let answer: &'static [u8] = [b"HTTP/1.1 201 Created\r\n", rest].concat().leak();
        let receiver = Receiver::start(move |mut stream, _| async move {
            read_request(&mut stream).await.unwrap();
            stream.write_all(answer).await.unwrap();
        })
        .await;
        let sent = Client::local().send(&receiver.url()).await;
        assert!(sent.outcome.succeeded(), "{}: {:?}", rest.escape_ascii(), sent.outcome);
    }
}

#[tokio::test]
async fn a_success_stays_one_if_the_connection_is_reset_within_its_head_or_body() {
    for answer in [&b"HTTP/1.1 200 OK\r\nX-A: "[..], b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut"] {
        let receiver = Receiver::start(move |mut stream, _| async move {
            read_request(&mut stream).await.unwrap();
            stream.write_all(answer).await.unwrap();
            reset(stream);
        })
        .await;
        let sent = Client::local().send(&receiver.url()).await;
        assert_eq!(answered(&sent).0, 200);
    }
}

#[tokio::test]
async fn framing_that_contradicts_itself_is_a_failed_attempt_and_the_connection_is_closed() {
    for (headers, why) in [
        ("Content-Length: 2\r\nContent-Length: 3", "there are two different Content-Lengths"),
        ("Content-Length: 2, 3", "there are two different Content-Lengths"),
        (
            "Content-Length: 2\r\nTransfer-Encoding: chunked",
            "Content-Length and Transfer-Encoding contradict each other",
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 2",
            "Content-Length and Transfer-Encoding contradict each other",
        ),
        ("Content-Length: 2\r\nTransfer-Encoding: gzip", "Content-Length and Transfer-Encoding contradict each other"),
        ("Content-Length:\r\n 2\r\nContent-Length: 3", "there are two different Content-Lengths"),
    ] {
        let answer: &'static str = format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\nok").leak();
        let receiver = Receiver::start(move |stream, _| answer_all(stream, answer.as_bytes())).await;
        let client = Client::local();
        let mut slot = Slot::default();
        for connections in 1..=2 {
            let sent = client.send_with(&receiver.url(), &mut slot).await;
            let text = format!("the receiver responded 200, but with framing that cannot be trusted: {why}");
            assert_eq!(failed(&sent), (Failure::Protocol, text.as_str()));
            assert_eq!(receiver.connections(), connections);
        }
    }
}

#[tokio::test]
async fn statuses_beyond_the_usual_ones_are_recorded_as_they_are() {
    for (line, status) in [("HTTP/1.1 299", 299), ("HTTP/1.1 600 Odd", 600), ("HTTP/1.0 999 Request denied", 999)] {
        let answer: &'static str = format!("{line}\r\nContent-Length: 0\r\n\r\n").leak();
        let receiver = Receiver::start(move |stream, _| answer_all(stream, answer.as_bytes())).await;
        let sent = Client::local().send(&receiver.url()).await;
        assert_eq!((answered(&sent).0, sent.outcome.succeeded()), (status, status < 300));
    }
}

#[tokio::test]
async fn interim_answers_and_then_the_end_of_the_connection_is_a_failed_attempt() {
    let receiver = Receiver::start(|mut stream, _| async move {
        read_request(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
    })
    .await;
    let sent = Client::local().send(&receiver.url()).await;
    let text = "the receiver closed the connection after interim responses, without a final one";
    assert_eq!(failed(&sent), (Failure::Protocol, text));
}

#[tokio::test]
async fn tls_where_http_was_expected_is_named_as_such() {
    let receiver = Receiver::start(|stream, _| answer_all(stream, b"\x15\x03\x01\x00\x02\x02\x46")).await;
    let sent = Client::local().send(&receiver.url()).await;
    assert_eq!(failed(&sent), (Failure::Protocol, "the response is TLS, not HTTP: is it https instead of http?"));
}
