//! The receiver does what tests rely on: it records bytes as they came, and misbehaves as told.

use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use postrider_testkit::raw::RawConnection;
use postrider_testkit::receiver::gzip_of_zeros;
use postrider_testkit::{Client, Receiver, Reply};
use tokio::sync::watch;

fn client(address: SocketAddr) -> Client {
    Client::new(watch::Sender::new(address).subscribe(), None)
}

#[tokio::test]
async fn a_request_is_recorded_with_its_order_casing_and_bytes() {
    let receiver = Receiver::ok().await;
    let mut connection = RawConnection::open(receiver.address()).await;
    let request = b"POST /hook?x=1 HTTP/1.1\r\nZeta: 1\r\nX-aLPha:  two \r\ncontent-length: 4\r\n\r\n\x00\xff\r\n";
    connection.write(request).await.unwrap();
    assert_eq!(connection.read_answer().await.unwrap().unwrap().status, 200);
    let received = &receiver.wait_for(1).await[0];
    assert_eq!((received.method.as_str(), received.target.as_str()), ("POST", "/hook?x=1"));
    assert_eq!(received.headers[0], ("Zeta".into(), "1".into()));
    assert_eq!(received.headers[1], ("X-aLPha".into(), "two".into()));
    assert_eq!(&received.body[..], b"\x00\xff\r\n");
}

#[tokio::test]
async fn replies_come_in_sequence_and_the_last_stays() {
    let receiver = Receiver::sequence([Reply::status(503).header("Retry-After", "7"), Reply::status(204)]).await;
    let client = client(receiver.address());
    let first = client.get("/").await;
    assert_eq!((first.status, first.headers["retry-after"].to_str().unwrap()), (503, "7"));
    assert_eq!(client.get("/").await.status, 204);
    assert_eq!(client.get("/").await.status, 204);
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn an_answer_can_be_followed_by_the_end_of_the_connection() {
    for reply in [Reply::ok().then_close(), Reply::ok().then_reset()] {
        let receiver = Receiver::always(reply).await;
        let client = client(receiver.address());
        assert_eq!(client.get("/").await.status, 200);
        assert_eq!(client.get("/").await.status, 200);
        assert_eq!(receiver.connections(), 2);
    }
}

#[tokio::test]
async fn a_reset_or_a_close_is_no_answer() {
    for reply in [Reply::reset(), Reply::close()] {
        let receiver = Receiver::always(reply).await;
        assert!(client(receiver.address()).request(Method::POST, "/").body("x").try_send().await.is_err());
        assert_eq!(&receiver.wait_for(1).await[0].body[..], b"x");
    }
}

#[tokio::test]
async fn a_delay_holds_the_answer_back() {
    let receiver = Receiver::always(Reply::ok().after(Duration::from_millis(50))).await;
    let start = tokio::time::Instant::now();
    client(receiver.address()).get("/").await.expect(200);
    assert!(start.elapsed() >= Duration::from_millis(50));
}

#[test]
fn the_gzip_bomb_is_small_and_begins_as_gzip_does() {
    let bomb = gzip_of_zeros(100_000_000);
    assert!(bomb.len() < 700_000);
    assert_eq!(bomb[..3], [0x1f, 0x8b, 8]);
}
