//! Names with several addresses, of which one fails, at each step: the others get their chance.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postrider_domain::delivery::Failure;
use rustls::RootCertStore;
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::TlsAcceptor;

use crate::secure::Authority;
use crate::support::*;

/// Answers over TLS at an address.
async fn good(acceptor: TlsAcceptor, address: &str) -> Receiver {
    Receiver::on(address, move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            while read_request(&mut stream).await.is_some() {
                stream.write_all(OK).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    })
    .await
}

fn client(authority: &Authority, timeout: Duration) -> Client {
    let names = Names::answering(&["127.0.0.1 127.0.0.2"]);
    Client::new(&options(&["127.0.0.0/8"], timeout), names, authority.roots.clone())
}

fn https(receiver: &Receiver) -> String {
    format!("https://hooks.example:{}/", receiver.address.port())
}

#[tokio::test]
async fn an_address_whose_certificate_is_wrong_leaves_the_turn_to_the_next_within_the_attempt() {
    let authority = Authority::new();
    let wrong = good(Authority::new().acceptor("hooks.example", &[]), "127.0.0.1:0").await;
    let right = good(authority.acceptor("hooks.example", &[]), &format!("127.0.0.2:{}", wrong.address.port())).await;
    let client = client(&authority, PATIENCE);
    for _ in 0..3 {
        assert_eq!(answered(&client.send(&https(&wrong)).await).0, 200);
    }
    assert_eq!((wrong.connections(), right.connections()), (1, 3), "the wrong one is not tried first again");
}

#[tokio::test]
async fn an_address_that_is_silent_in_the_tls_handshake_leaves_the_turn_to_the_next_within_the_attempt() {
    let authority = Authority::new();
    let silent = Receiver::start(|stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let right = good(authority.acceptor("hooks.example", &[]), &format!("127.0.0.2:{}", silent.address.port())).await;
    let client = client(&authority, PATIENCE);
    for _ in 0..3 {
        assert_eq!(answered(&client.send(&https(&silent)).await).0, 200);
    }
    assert_eq!((silent.connections(), right.connections()), (1, 3));
}

#[tokio::test]
async fn an_address_that_resets_in_the_tls_handshake_leaves_the_turn_to_the_next_within_the_attempt() {
    let authority = Authority::new();
    let resetting = Receiver::start(|stream, _| async move { reset(stream) }).await;
    let right =
        good(authority.acceptor("hooks.example", &[]), &format!("127.0.0.2:{}", resetting.address.port())).await;
    assert_eq!(answered(&client(&authority, PATIENCE).send(&https(&resetting)).await).0, 200);
    assert_eq!(right.connections(), 1);
}

#[tokio::test]
async fn an_address_that_closes_before_it_answers_leaves_the_turn_to_the_next_at_the_next_attempt() {
    let closing = Receiver::start(|mut stream, _| async move {
        read_request(&mut stream).await;
    })
    .await;
    let right =
        Receiver::on(&format!("127.0.0.2:{}", closing.address.port()), |stream, _| answer_all(stream, OK)).await;
    let client = client(&Authority::new(), PATIENCE);
    let url = format!("http://hooks.example:{}/", closing.address.port());
    assert_eq!(failed(&client.send(&url).await).0, Failure::Protocol);
    assert_eq!(answered(&client.send(&url).await).0, 200);
    assert_eq!((closing.connections(), right.connections()), (1, 1));
}

#[tokio::test]
async fn an_address_that_never_answers_leaves_the_turn_to_the_next_at_the_next_attempt() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let silent = Receiver::start(move |mut stream, _| {
        let count = Arc::clone(&count);
        async move {
            read_request(&mut stream).await;
            count.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
    })
    .await;
    let _right =
        Receiver::on(&format!("127.0.0.2:{}", silent.address.port()), |stream, _| answer_all(stream, OK)).await;
    let client = client(&Authority::new(), Duration::from_secs(2));
    let url = format!("http://hooks.example:{}/", silent.address.port());
    assert_eq!(failed(&client.send(&url).await).0, Failure::Timeout);
    for _ in 0..3 {
        assert_eq!(answered(&client.send(&url).await).0, 200);
    }
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_this_machine_cannot_do_is_no_failure_of_the_receiver() {
    let client = Client::new(&options(&[], PATIENCE), Names::busy(), RootCertStore::empty());
    let sent = client.send("http://hooks.example/").await;
    assert_eq!(failed(&sent).0, Failure::Local);
    assert!(!sent.outcome.congested());
}
