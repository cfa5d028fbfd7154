//! Connections and answers over plain HTTP/1.1.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_delivery::sender::Slot;
use postrider_domain::delivery::Failure;
use postrider_domain::time::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::support::*;

#[tokio::test]
async fn what_arrives_is_the_payload_byte_for_byte_with_a_signature_over_it() {
    let received = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&received);
    let receiver = Receiver::start(move |mut stream, _| {
        let seen = Arc::clone(&seen);
        async move {
            *seen.lock() = read_request(&mut stream).await;
            stream.write_all(OK).await.unwrap();
        }
    })
    .await;
    let client = Client::local();
    let message = message("{\"z\": 1.0,  \"a\":\t\"\\u00fc\" }\n");
    let sent = client.send_message(&receiver.url(), &message, &mut Slot::default()).await;
    assert_eq!(answered(&sent), (200, &b"ok"[..]));
    let received = received.lock().take().unwrap();
    assert!(received.head.starts_with("POST /hook HTTP/1.1\r\nHost: 127.0.0.1:"), "{}", received.head);
    assert_eq!(Some(&received.body[..]), message.payload.as_deref());
    assert_eq!(received.header("webhook-id"), Some(message.id.to_string().as_str()));
    let timestamp = received.header("webhook-timestamp").unwrap();
    let expected = client.keys.sign(&message.id, timestamp, &received.body, Timestamp::EPOCH);
    assert_eq!(received.header("webhook-signature"), Some(expected.as_str()));
    assert_eq!(received.header("accept-encoding"), None, "nothing is ever decompressed");
}

#[tokio::test]
async fn consecutive_sends_share_one_connection_in_a_slot_and_through_the_pool() {
    let receiver = Receiver::start(|stream, _| answer_all(stream, OK)).await;
    let client = Client::local();
    let mut slot = Slot::default();
    for _ in 0..3 {
        assert_eq!(answered(&client.send_with(&receiver.url(), &mut slot).await).0, 200);
    }
    client.sender.release(slot);
    assert_eq!(answered(&client.send(&receiver.url()).await).0, 200);
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn long_responses_over_one_connection_are_all_kept_whole() {
    let body = vec![b'x'; 20_000];
    let answer = [b"HTTP/1.1 200 OK\r\ncontent-length: 20000\r\n\r\n", &body[..]].concat();
    let receiver = Receiver::start(move |stream, _| {
        let answer = answer.clone();
        async move { answer_all(stream, &answer).await }
    })
    .await;
    let (client, mut slot) = (Client::local(), Slot::default());
    for number in 0..20 {
        let sent = client.send_with(&receiver.url(), &mut slot).await;
        assert!(answered(&sent) == (200, &body[..]), "response {number}");
    }
    assert_eq!(receiver.connections(), 1);
}

/// What a receiver sees of the end of a connection that it leaves to us.
async fn end_of(answer: &'static [u8], client: &Client, clock: &ShiftedClock) -> std::io::Result<usize> {
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    let receiver = Receiver::start(move |mut stream, _| {
        let tell = tell.clone();
        async move {
            read_request(&mut stream).await.unwrap();
            stream.write_all(answer).await.unwrap();
            tell.send(stream.read(&mut [0]).await).await.unwrap();
        }
    })
    .await;
    let mut slot = Slot::default();
    client.send_with(&receiver.url(), &mut slot).await;
    client.sender.release(slot);
    clock.advance(Duration::from_secs(61));
    client.sender.close_idle();
    told.recv().await.unwrap()
}

#[tokio::test]
async fn a_connection_that_is_not_used_again_leaves_no_port_behind_and_an_idle_one_is_closed_in_order() {
    let clock = Arc::new(ShiftedClock::default());
    let options = options(&["127.0.0.0/8"], Duration::from_millis(200));
    let client =
        Client::at(Arc::clone(&clock) as _, &options, Names::answering(&["127.0.0.1"]), rustls::RootCertStore::empty());
    for answer in [
        &b"HTTP/1.1 500 Oops\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno"[..],
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok and more",
        b"HTTP/1.1 200 OK\r\n\r\nuntil it ends",
        b"what is no response\r\n\r\n",
        b"",
    ] {
        let end = end_of(answer, &client, &clock).await;
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "{}", answer.escape_ascii());
    }
    assert_eq!(end_of(OK, &client, &clock).await.unwrap(), 0);
}

#[tokio::test]
async fn a_slot_that_changes_its_endpoint_leaves_its_connection_to_others() {
    let first = Receiver::start(|stream, _| answer_all(stream, OK)).await;
    let second = Receiver::start(|stream, _| answer_all(stream, OK)).await;
    let client = Client::local();
    let mut slot = Slot::default();
    for receiver in [&first, &second, &first, &second] {
        assert_eq!(answered(&client.send_with(&receiver.url(), &mut slot).await).0, 200);
    }
    assert_eq!((first.connections(), second.connections()), (1, 1));
}

#[tokio::test]
async fn a_connection_that_the_receiver_closed_while_idle_is_not_a_failed_attempt() {
    let closed = Arc::new(Notify::new());
    let tell = Arc::clone(&closed);
    let receiver = Receiver::start(move |mut stream, _| {
        let tell = Arc::clone(&tell);
        async move {
            read_request(&mut stream).await.unwrap();
            stream.write_all(OK).await.unwrap();
            drop(stream);
            tell.notify_one();
        }
    })
    .await;
    let client = Client::local();
    let mut slot = Slot::default();
    for connections in 1..=5 {
        assert_eq!(answered(&client.send_with(&receiver.url(), &mut slot).await).0, 200);
        closed.notified().await;
        assert_eq!(receiver.connections(), connections);
    }
}

#[tokio::test]
async fn a_reused_connection_that_breaks_before_the_answer_is_replaced_within_the_attempt() {
    let ids = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&ids);
    let receiver = Receiver::start(move |mut stream, number| {
        let log = Arc::clone(&log);
        async move {
            while let Some(request) = read_request(&mut stream).await {
                log.lock().push(request.header("webhook-id").unwrap().to_owned());
                if number == 0 && log.lock().len() == 2 {
                    return reset(stream);
                }
                stream.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    let client = Client::local();
    let mut slot = Slot::default();
    client.send_with(&receiver.url(), &mut slot).await;
    assert_eq!(answered(&client.send_with(&receiver.url(), &mut slot).await).0, 200);
    let ids = ids.lock();
    assert_eq!(ids.len(), 3);
    assert_eq!(ids[1], ids[2], "the same message again");
    assert_eq!(receiver.connections(), 2);
}

#[tokio::test]
async fn a_connection_that_breaks_within_the_answer_is_not_replaced() {
    let receiver = Receiver::start(|mut stream, _| async move {
        read_request(&mut stream).await.unwrap();
        stream.write_all(OK).await.unwrap();
        if read_request(&mut stream).await.is_some() {
            stream.write_all(b"HTTP/1.1 20").await.unwrap();
        }
    })
    .await;
    let client = Client::local();
    let mut slot = Slot::default();
    client.send_with(&receiver.url(), &mut slot).await;
    let sent = client.send_with(&receiver.url(), &mut slot).await;
    assert_eq!(
        failed(&sent),
        (Failure::Protocol, "the receiver closed the connection within the status line of its response")
    );
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_reset_after_reading_the_request_of_a_new_connection_is_a_failed_attempt() {
    let receiver = Receiver::start(|mut stream, _| async move {
        read_request(&mut stream).await.unwrap();
        reset(stream);
    })
    .await;
    let sent = Client::local().send(&receiver.url()).await;
    assert_eq!(failed(&sent), (Failure::Protocol, "the receiver reset the connection before it responded"));
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_the_receiver_says_it_closes_is_not_used_again() {
    let close = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
    // Says so, but keeps it open: using it again would be answered.
    let receiver = Receiver::start(|stream, _| answer_all(stream, close)).await;
    let client = Client::local();
    let mut slot = Slot::default();
    for connections in 1..=3 {
        assert_eq!(answered(&client.send_with(&receiver.url(), &mut slot).await), (200, &b"ok"[..]));
        assert_eq!(receiver.connections(), connections);
    }
}

#[tokio::test]
async fn an_answer_without_a_length_ends_with_its_connection() {
    let receiver = Receiver::start(|mut stream, _| async move {
        read_request(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.0 202 Accepted\r\n\r\nfine").await.unwrap();
    })
    .await;
    assert_eq!(answered(&Client::local().send(&receiver.url()).await), (202, &b"fine"[..]));
}

#[tokio::test]
async fn an_answer_given_before_the_request_was_read_counts() {
    let receiver = Receiver::start(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        // Closing with megabytes unread resets the connection, which fails whatever the sender still writes.
    })
    .await;
    let client = Client::local();
    let large = message(vec![b' '; 8 * 1024 * 1024]);
    for _ in 0..20 {
        let sent = client.send_message(&receiver.url(), &large, &mut Slot::default()).await;
        assert_eq!(answered(&sent).0, 413);
    }
}

/// Whether it closes the connection itself, says so, or has it kept.
#[tokio::test]
async fn whoever_takes_a_message_before_it_was_read_gets_the_rest() {
    for (head, closes) in [("connection: close\r\n", false), ("connection: close\r\n", true), ("", false)] {
        let (arrived, count) = tokio::sync::oneshot::channel();
        let arrived = Mutex::new(Some(arrived));
        let receiver = Receiver::start(move |mut stream, _| {
            let arrived = arrived.lock().take().expect("one request");
            async move {
                let mut bytes = stream.read_u8().await.map(|_| 1).unwrap();
                stream
                    .write_all(format!("HTTP/1.1 200 OK\r\n{head}content-length: 0\r\n\r\n").as_bytes())
                    .await
                    .unwrap();
                if closes {
                    stream.shutdown().await.unwrap();
                }
                let mut buffer = [0; 4 * 1024];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    bytes += read;
                }
                let _ = arrived.send(bytes);
            }
        })
        .await;
        let large = message(vec![b' '; 8 * 1024 * 1024]);
        let mut slot = Slot::default();
        let sent = Client::local().send_message(&receiver.url(), &large, &mut slot).await;
        assert_eq!(answered(&sent).0, 200);
        drop(slot);
        assert!(count.await.unwrap() > 8 * 1024 * 1024, "{head:?} {closes}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_does_not_change_the_status() {
    let receiver = Receiver::start(|mut stream, _| async move {
        read_request(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this").await.unwrap();
    })
    .await;
    assert_eq!(answered(&Client::local().send(&receiver.url()).await), (200, &b"only this"[..]));
}

#[tokio::test]
async fn names_of_headers_are_in_title_case_on_the_wire() {
    let heads = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&heads);
    let receiver = Receiver::start(move |mut stream, _| {
        let seen = Arc::clone(&seen);
        async move {
            *seen.lock() = read_request(&mut stream).await.unwrap().head;
            stream.write_all(OK).await.unwrap();
        }
    })
    .await;
    Client::local().send(&receiver.url()).await;
    let head = heads.lock().clone();
    let names = ["Host", "Content-Type", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature", "Content-Length"];
    for name in names {
        assert!(head.contains(&format!("\r\n{name}: ")), "{name} in {head}");
    }
}

/// Answers a request, then says something unasked, and tells so.
async fn speak_unasked(mut stream: TcpStream, said: &Notify, number: usize) {
    const FORGED: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nFAKE";
    if number > 0 {
        return answer_all(stream, OK).await;
    }
    read_request(&mut stream).await.unwrap();
    stream.write_all(OK).await.unwrap();
    // Not in one piece with the response, which the sender would see at once.
    stream.flush().await.unwrap();
    stream.write_all(FORGED).await.unwrap();
    said.notify_one();
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn what_a_receiver_says_unasked_while_a_connection_waits_is_not_taken_for_the_next_answer() {
    for _ in 0..20 {
        let said = Arc::new(Notify::new());
        let tell = Arc::clone(&said);
        let receiver = Receiver::start(move |stream, number| {
            let tell = Arc::clone(&tell);
            async move { speak_unasked(stream, &tell, number).await }
        })
        .await;
        let client = Client::local();
        let mut slot = Slot::default();
        assert_eq!(answered(&client.send_with(&receiver.url(), &mut slot).await), (200, &b"ok"[..]));
        said.notified().await;
        assert_eq!(answered(&client.send_with(&receiver.url(), &mut slot).await), (200, &b"ok"[..]));
        assert_eq!(receiver.connections(), 2);
    }
}

#[tokio::test]
async fn a_408_of_a_connection_that_waited_is_not_taken_for_the_answer_and_another_one_is() {
    const TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    for (of_new_ones, expected) in [(OK, (200, &b"ok"[..])), (TIMEOUT, (408, &b""[..]))] {
        let receiver = Receiver::start(move |mut stream, number| async move {
            if number > 0 {
                return answer_all(stream, of_new_ones).await;
            }
            for answer in [OK, TIMEOUT] {
                read_request(&mut stream).await.unwrap();
                stream.write_all(answer).await.unwrap();
            }
        })
        .await;
        let client = Client::local();
        let mut slot = Slot::default();
        assert_eq!(answered(&client.send_with(&receiver.url(), &mut slot).await), (200, &b"ok"[..]));
        assert_eq!(answered(&client.send_with(&receiver.url(), &mut slot).await), expected);
        assert_eq!(receiver.connections(), 2, "it is tried again once");
    }
}

#[tokio::test]
async fn interim_answers_are_passed_over() {
    let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n\
        HTTP/1.1 201 Created\r\ncontent-length: 4\r\n\r\ndone";
    let receiver = Receiver::start(|stream, _| answer_all(stream, answer)).await;
    let client = Client::local();
    let mut slot = Slot::default();
    for _ in 0..2 {
        assert_eq!(answered(&client.send_with(&receiver.url(), &mut slot).await), (201, &b"done"[..]));
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_switch_of_protocols_is_an_answer_that_is_no_success() {
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
    let receiver = Receiver::start(|stream, _| answer_all(stream, answer)).await;
    let client = Client::local();
    let mut slot = Slot::default();
    for connections in 1..=2 {
        let sent = client.send_with(&receiver.url(), &mut slot).await;
        assert_eq!(answered(&sent).0, 101);
        assert!(!sent.outcome.succeeded());
        assert_eq!(receiver.connections(), connections);
    }
}

#[tokio::test]
async fn a_redirect_to_a_metadata_address_is_recorded_and_not_followed() {
    let followed = Receiver::on("127.0.0.9:0", |stream, _| answer_all(stream, OK)).await;
    for status in [302, 307] {
        let location = followed.url();
        let receiver = Receiver::start(move |stream, _| {
            let answer = format!("HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
            async move { answer_all(stream, answer.as_bytes()).await }
        })
        .await;
        let sent = Client::local().send(&receiver.url()).await;
        assert_eq!(answered(&sent).0, status);
        assert!(!sent.outcome.succeeded());
    }
    assert_eq!(followed.connections(), 0);
}

#[tokio::test]
async fn requests_at_the_same_time_use_connections_of_their_own() {
    let receiver = Receiver::start(|mut stream, _| async move {
        let mut one = [0u8; 1];
        while read_request(&mut stream).await.is_some() {
            stream.write_all(OK).await.unwrap();
        }
        let _ = stream.read(&mut one).await;
    })
    .await;
    let client = Arc::new(Client::local());
    let url = receiver.url();
    let sends = (0..32).map(|_| {
        let (client, url) = (Arc::clone(&client), url.clone());
        tokio::spawn(async move {
            let mut slot = Slot::default();
            for _ in 0..20 {
                assert_eq!(answered(&client.send_with(&url, &mut slot).await).0, 200);
            }
            client.sender.release(slot);
        })
    });
    for send in sends.collect::<Vec<_>>() {
        send.await.unwrap();
    }
    assert!(receiver.connections() <= 32, "{}", receiver.connections());
}
