//! The age of connections: a name that moves is followed, and the egress policy asked again.

use std::sync::Arc;
use std::time::Duration;

use postrider_delivery::sender::Slot;
use postrider_domain::delivery::Failure;
use rustls::RootCertStore;

use crate::secure::{Authority, http2, url};
use crate::support::*;

/// The default of `delivery.connection_max_age`.
const MAX_AGE: Duration = Duration::from_secs(300);

#[tokio::test]
async fn messages_follow_a_name_to_its_new_address_within_the_age_of_a_connection() {
    let old = Receiver::start(|stream, _| answer_all(stream, OK)).await;
    let port = old.address.port();
    let new = Receiver::on(&format!("127.0.0.2:{port}"), |stream, _| answer_all(stream, OK)).await;
    let clock = Arc::new(ShiftedClock::default());
    let names = Names::answering(&["127.0.0.1", "127.0.0.2"]);
    let client =
        Client::at(Arc::clone(&clock) as _, &options(&["127.0.0.0/8"], PATIENCE), names, RootCertStore::empty());
    let url = format!("http://moving.example:{port}/");
    let mut slot = Slot::default();
    // One every ten seconds, so the connection is never idle for long; half through the pool.
    for number in 0..30 {
        assert_eq!(answered(&client.send_with(&url, &mut slot).await).0, 200);
        if number % 2 == 0 {
            client.sender.release(std::mem::take(&mut slot));
        }
        clock.advance(MAX_AGE / 30);
    }
    assert_eq!((old.connections(), new.connections()), (1, 1));
}

#[tokio::test]
async fn a_connection_is_not_replaced_before_half_its_age() {
    let receiver = Receiver::start(|stream, _| answer_all(stream, OK)).await;
    let clock = Arc::new(ShiftedClock::default());
    let names = Names::answering(&["127.0.0.1"]);
    let client =
        Client::at(Arc::clone(&clock) as _, &options(&["127.0.0.0/8"], PATIENCE), names, RootCertStore::empty());
    let mut slot = Slot::default();
    for _ in 0..15 {
        assert_eq!(answered(&client.send_with(&receiver.url(), &mut slot).await).0, 200);
        clock.advance(MAX_AGE / 30);
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_name_that_turns_private_while_messages_flow_is_refused_within_the_age_of_a_connection() {
    let public = Receiver::start(|stream, _| answer_all(stream, OK)).await;
    let port = public.address.port();
    let private = Receiver::on(&format!("127.0.0.2:{port}"), |stream, _| answer_all(stream, OK)).await;
    let clock = Arc::new(ShiftedClock::default());
    let names = Names::answering(&["127.0.0.1", "127.0.0.2"]);
    let client =
        Client::at(Arc::clone(&clock) as _, &options(&["127.0.0.1/32"], PATIENCE), names, RootCertStore::empty());
    let url = format!("http://turning.example:{port}/");
    let mut slot = Slot::default();
    assert_eq!(answered(&client.send_with(&url, &mut slot).await).0, 200);
    clock.advance(MAX_AGE);
    assert_eq!(failed(&client.send_with(&url, &mut slot).await).0, Failure::Forbidden);
    assert_eq!(private.connections(), 0);
}

#[tokio::test]
async fn messages_over_http2_follow_a_name_to_its_new_address_within_the_age_of_a_connection() {
    let authority = Authority::new();
    let old = http2(&authority, usize::MAX).await;
    let new = crate::secure::http2_on(&authority, &format!("127.0.0.2:{}", old.address.port()), usize::MAX).await;
    let clock = Arc::new(ShiftedClock::default());
    let names = Names::answering(&["127.0.0.1", "127.0.0.2"]);
    let allowed = options(&["127.0.0.0/8"], PATIENCE);
    let client = Client::at(Arc::clone(&clock) as _, &allowed, names, authority.roots.clone());
    let url = url(&old, "hooks.example");
    for _ in 0..30 {
        assert_eq!(answered(&client.send(&url).await).0, 200);
        clock.advance(MAX_AGE / 30);
    }
    assert_eq!((old.connections(), new.connections()), (1, 1));
}
