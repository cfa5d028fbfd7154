//! Names with several addresses, of which one fails, at each step: the others get their chance.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use postrider_delivery::options::DeliveryOptions;
use postrider_delivery::resolve::{Resolve, ResolveError};
use postrider_delivery::sender::Slot;
use postrider_domain::delivery::Failure;
use rustls::RootCertStore;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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

#[tokio::test]
async fn of_many_addresses_that_are_silent_in_the_tls_handshake_two_are_held_at_a_time() {
    let (opened, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut receivers: Vec<Receiver> = Vec::new();
    for number in 1..=8 {
        let port = receivers.first().map_or(0, |first| first.address.port());
        let (opened, closed) = (Arc::clone(&opened), Arc::clone(&closed));
        let address = format!("127.0.0.{number}:{port}");
        let silent = Receiver::on(&address, move |mut stream, _| {
            let (opened, closed) = (Arc::clone(&opened), Arc::clone(&closed));
            async move {
                opened.fetch_add(1, Ordering::SeqCst);
                let mut bytes = [0; 4_096];
                while stream.read(&mut bytes).await.is_ok_and(|length| length > 0) {}
                closed.fetch_add(1, Ordering::SeqCst);
            }
        });
        receivers.push(silent.await);
    }
    let names = (1..=8).map(|number| format!("127.0.0.{number}")).collect::<Vec<_>>().join(" ");
    let client =
        Client::new(&options(&["127.0.0.0/8"], PATIENCE * 2), Names::answering(&[&names]), RootCertStore::empty());
    let url = https(&receivers[0]);
    let sending = client.send(&url);
    let all_but_two = async {
        while (opened.load(Ordering::SeqCst), closed.load(Ordering::SeqCst)) != (8, 6) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        sent = sending => panic!("{sent:?}: {opened:?} opened, {closed:?} closed"),
        () = all_but_two => {}
    }
}

/// Never answers for names that begin with "slow"; the others are 127.0.0.1.
#[derive(Default)]
struct Slow {
    under_way: AtomicUsize,
}

#[async_trait]
impl Resolve for Slow {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if host.starts_with("slow") {
            self.under_way.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        Ok(vec![IpAddr::from([127, 0, 0, 1])])
    }
}

#[tokio::test]
async fn look_ups_that_hang_take_no_more_than_there_are_and_leave_some_to_other_applications() {
    let names = Arc::new(Slow::default());
    let receiver = Receiver::start(|stream, _| answer_all(stream, OK)).await;
    let limits = DeliveryOptions { max_in_flight: 128, ..options(&["127.0.0.0/8"], PATIENCE) };
    let client = Arc::new(Client::new(&limits, Arc::clone(&names) as _, RootCertStore::empty()));
    let mut hanging = tokio::task::JoinSet::new();
    for (application, share) in [(1, 16), (2, 8), (3, 4)] {
        let before = names.under_way.load(Ordering::SeqCst);
        for number in 0..100 {
            let client = Arc::clone(&client);
            hanging.spawn(async move {
                client.send_for(application, &format!("http://slow{application}-{number}.example/")).await
            });
        }
        while names.under_way.load(Ordering::SeqCst) < before + share {
            tokio::task::yield_now().await;
        }
    }
    let url = format!("http://hooks.example:{}/", receiver.address.port());
    assert_eq!(answered(&client.send_for(4, &url).await).0, 200);
    assert_eq!(names.under_way.load(Ordering::SeqCst), 28, "of 32, which are a quarter of the requests under way");
}

#[tokio::test]
async fn a_wait_for_the_applications_other_look_ups_is_no_attempt_however_short_the_timeout() {
    let names = Arc::new(Slow::default());
    // Four look-ups at a time, of which an application has two.
    let limits = DeliveryOptions { max_in_flight: 4, ..options(&["127.0.0.0/8"], Duration::from_secs(2)) };
    let client = Arc::new(Client::new(&limits, Arc::clone(&names) as _, RootCertStore::empty()));
    let mut sending = tokio::task::JoinSet::new();
    let mut send = |number: usize| {
        let client = Arc::clone(&client);
        sending.spawn(async move { client.send_for(1, &format!("http://slow{number}.example/")).await });
    };
    for number in 0..2 {
        send(number);
    }
    while names.under_way.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    send(2);
    let mut kinds: Vec<_> = sending.join_all().await.iter().map(|sent| failed(sent).0).collect();
    kinds.sort_by_key(|kind| *kind == Failure::Local);
    assert_eq!(kinds, [Failure::Timeout, Failure::Timeout, Failure::Local]);
}

/// Too much is being looked up, except for names that begin with "hooks".
struct TooMany;

#[async_trait]
impl Resolve for TooMany {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if host.starts_with("hooks") { Ok(vec![IpAddr::from([127, 0, 0, 1])]) } else { Err(ResolveError::Busy) }
    }
}

#[tokio::test]
async fn that_too_much_is_looked_up_closes_nobodys_idle_connections() {
    let receiver = Receiver::start(|stream, _| answer_all(stream, OK)).await;
    let client = Client::new(&options(&["127.0.0.0/8"], PATIENCE), Arc::new(TooMany), RootCertStore::empty());
    let url = format!("http://hooks.example:{}/", receiver.address.port());
    for _ in 0..3 {
        let mut slot = Slot::default();
        assert_eq!(answered(&client.send_with(&url, &mut slot).await).0, 200);
        client.sender.release(slot);
        assert_eq!(failed(&client.send("http://slow.example/").await).0, Failure::Local);
    }
    assert_eq!(receiver.connections(), 1);
}
