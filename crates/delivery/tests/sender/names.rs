//! Names, addresses and the egress policy at dial.

use std::sync::Arc;
use std::time::Duration;

use postrider_delivery::resolve::SystemResolver;
use postrider_delivery::sender::Slot;
use postrider_domain::clock::SystemClock;
use postrider_domain::delivery::Failure;
use rustls::RootCertStore;
use tokio::io::AsyncWriteExt as _;

use crate::support::*;

const REFUSED: &str = "the host name does not exist, or does not resolve to a public address";

/// In these tests 127.0.0.1 stands for a public address, and every other one of 127/8 for a private one.
fn client(names: Arc<Names>) -> Client {
    Client::new(&options(&["127.0.0.1/32"], PATIENCE), names, RootCertStore::empty())
}

#[tokio::test]
async fn a_name_that_turns_to_a_private_address_is_refused_there() {
    let public = Receiver::start(|mut stream, _| async move {
        read_request(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    })
    .await;
    let port = public.address.port();
    let private = Receiver::on(&format!("127.0.0.2:{port}"), |stream, _| answer_all(stream, OK)).await;
    let client = client(Names::answering(&["127.0.0.1", "127.0.0.2"]));
    let url = format!("http://rebound.example:{port}/");
    let mut slot = Slot::default();
    assert_eq!(answered(&client.send_with(&url, &mut slot).await).0, 200);
    assert_eq!(failed(&client.send_with(&url, &mut slot).await), (Failure::Forbidden, REFUSED));
    assert_eq!((public.connections(), private.connections()), (1, 0));
}

#[tokio::test]
async fn a_name_with_one_public_and_one_private_address_is_refused_in_either_order() {
    let public = Receiver::start(|stream, _| answer_all(stream, OK)).await;
    for addresses in ["127.0.0.1 127.0.0.2", "127.0.0.2 127.0.0.1", "127.0.0.1 fd00::1"] {
        let client = client(Names::answering(&[addresses]));
        let sent = client.send(&format!("http://mixed.example:{}/", public.address.port())).await;
        assert_eq!(failed(&sent), (Failure::Forbidden, REFUSED));
    }
    assert_eq!(public.connections(), 0);
}

#[tokio::test]
async fn localhost_is_refused_at_dial_in_every_spelling_unless_it_is_allowed() {
    let receiver = Receiver::start(|stream, _| answer_all(stream, OK)).await;
    let system = || Arc::new(SystemResolver::new(&options(&[], PATIENCE), Arc::new(SystemClock::new())).unwrap());
    let guarded = Client::new(&options(&[], PATIENCE), system(), RootCertStore::empty());
    let open = Client::new(&options(&["127.0.0.0/8", "::1/128"], PATIENCE), system(), RootCertStore::empty());
    for host in ["localhost", "localhost.", "LOCALHOST"] {
        let url = format!("http://{host}:{}/", receiver.address.port());
        assert_eq!(failed(&guarded.send(&url).await), (Failure::Forbidden, REFUSED), "{host}");
        assert_eq!(receiver.connections(), 0);
    }
    let sent = open.send(&format!("http://localhost:{}/", receiver.address.port())).await;
    assert_eq!(answered(&sent).0, 200);
}

#[tokio::test]
async fn the_next_address_is_tried_if_one_refuses() {
    let receiver = Receiver::start(|stream, _| answer_all(stream, OK)).await;
    let names = Names::answering(&["127.0.0.3 127.0.0.1"]);
    let client = Client::new(&options(&["127.0.0.0/8"], PATIENCE), names, RootCertStore::empty());
    let sent = client.send(&format!("http://two.example:{}/", receiver.address.port())).await;
    assert_eq!(answered(&sent).0, 200);
}

#[tokio::test]
async fn the_deadline_covers_a_name_that_never_resolves() {
    let options = options(&[], Duration::from_millis(200));
    let client = Client::new(&options, Names::hanging(), RootCertStore::empty());
    let sent = client.send("http://hanging.example/").await;
    assert_eq!(failed(&sent), (Failure::Timeout, "timed out after 200ms: the host name was not resolved"));
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_told_like_one_that_is_private_and_a_port_that_is_closed_apart() {
    let no_name = client(Arc::new(Names::nowhere()));
    assert_eq!(failed(&no_name.send("http://nowhere.example/").await), (Failure::Resolve, REFUSED));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sent = Client::local().send(&format!("http://{closed}/")).await;
    assert_eq!(failed(&sent), (Failure::Connect, "the receiver refused the connection"));
}
