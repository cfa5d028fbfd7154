//! Receivers that make TLS a burden: with certificates that lead everywhere and nowhere, and with what is no response. It is
//! ended, says why, and costs little.

use std::sync::Arc;
use std::time::Duration;

use postrider_delivery::sender::{Sent, Slot};
use postrider_domain::delivery::Failure;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::floods::processor_time;
use crate::secure::{Authority, https, server_config, url};
use crate::support::*;

fn authority_named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// A receiver's certificate that is issued by `X`, and so many others of `X`, with different keys, issued by `X`.
fn of_one_name(others: usize) -> (Vec<CertificateDer<'static>>, KeyPair) {
    let issuer = Issuer::new(authority_named("X"), KeyPair::generate().unwrap());
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["hooks.example".to_owned()]).unwrap();
    let mut shown = vec![own.signed_by(&key, &issuer).unwrap().der().clone()];
    shown.extend((0..others).map(|_| {
        let key = KeyPair::generate().unwrap();
        authority_named("X").signed_by(&key, &issuer).unwrap().der().clone()
    }));
    (shown, key)
}

/// Starts a receiver on a thread of its own, so that what this one does can be measured.
fn on_a_thread(config: ServerConfig) -> std::net::SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let receiver = https(TlsAcceptor::from(Arc::new(config))).await;
            tell.send(receiver.address).unwrap();
            std::future::pending::<()>().await;
        });
    });
    told.recv().unwrap()
}

/// What came of attempts with a receiver that shows these certificates. Fails if they cost much.
fn shown_cheaply(shown: Vec<CertificateDer<'static>>, key: &KeyPair) -> Sent {
    let address = on_a_thread(server_config(shown, key, &[]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Authority::new().client(PATIENCE * 3);
        let before = processor_time();
        let sent = client.send(&format!("https://hooks.example:{}/", address.port())).await;
        let spent = processor_time() - before;
        // A handshake takes 3 ms in a build without optimizations. To try every order takes 430.
        assert!(spent < Duration::from_millis(150), "{spent:?}");
        sent
    })
}

#[test]
fn certificates_that_fit_each_other_in_every_order_cost_little_processor_time() {
    let (shown, key) = of_one_name(9);
    let sent = shown_cheaply(shown, &key);
    let (kind, detail) = failed(&sent);
    assert_eq!(kind, Failure::Tls);
    assert!(detail.contains("its issuer is unknown"), "{detail}");
}

#[test]
fn more_certificates_than_a_chain_has_are_refused_unread() {
    for others in [10, 60] {
        let (shown, key) = of_one_name(others);
        let sent = shown_cheaply(shown, &key);
        let (kind, detail) = failed(&sent);
        assert_eq!(kind, Failure::Tls);
        assert_eq!(
            detail,
            "the receiver's certificate was not accepted: with it come more than 9 certificates, or more than 32768 bytes of them"
        );
    }
}

#[tokio::test]
async fn a_certificate_with_thousands_of_names_is_refused_unread() {
    let authority = Authority::new();
    let names = (0..2_000).map(|number| format!("hooks-{number}.example")).collect::<Vec<_>>();
    let (own, key) = authority.issue(&CertificateParams::new(names).unwrap());
    let receiver = https(TlsAcceptor::from(Arc::new(server_config(vec![own], &key, &[])))).await;
    let sent = authority.client(PATIENCE).send(&url(&receiver, "hooks-7.example")).await;
    let (kind, detail) = failed(&sent);
    assert!(kind == Failure::Tls && detail.contains("more than 32768 bytes"), "{detail}");
}

#[tokio::test]
async fn certificates_in_any_order_again_and_such_that_have_nothing_to_do_with_it_do_no_harm() {
    let authority = Authority::new();
    let (issuer, between) = authority.below("between");
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["hooks.example".to_owned()]).unwrap();
    let own = own.signed_by(&key, &issuer).unwrap().der().clone();
    let (_, stranger) = Authority::new().below("a stranger");
    let (_, namesake) = Authority::new().below("between");
    let mut shown = vec![own.clone(), own, stranger.clone(), stranger.clone(), namesake.clone(), namesake];
    shown.extend([stranger.clone(), stranger, between.clone(), between]);
    let receiver = https(TlsAcceptor::from(Arc::new(server_config(shown, &key, &[])))).await;
    let sent = authority.client(PATIENCE).send(&url(&receiver, "hooks.example")).await;
    assert_eq!(answered(&sent).0, 200);
}

/// A receiver that sends so many session tickets after the handshake, and then answers.
async fn with_tickets(authority: &Authority, protocol: &str, tickets: usize) -> Receiver {
    let (own, key) = authority.issue(&CertificateParams::new(vec!["hooks.example".to_owned()]).unwrap());
    let mut config = server_config(vec![own], &key, &[protocol]);
    config.send_tls13_tickets = tickets;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    if protocol == "http/1.1" {
        return https(acceptor).await;
    }
    Receiver::start(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let Some(mut stream) = crate::floods::accept(&acceptor, stream).await else { return };
            let answer = crate::floods::frame(1, 5, 1, &[0x88]);
            let _ = stream.write_all(&answer).await;
            let _ = stream.flush().await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await
}

#[tokio::test]
async fn session_tickets_without_end_are_a_failed_attempt() {
    let authority = Authority::new();
    for protocol in ["http/1.1", "h2"] {
        let receiver = with_tickets(&authority, protocol, 1_000).await;
        let sent = authority.client(PATIENCE).send(&url(&receiver, "hooks.example")).await;
        let (kind, detail) = failed(&sent);
        let text = "the receiver sent too much over TLS that is no response";
        assert_eq!((kind, detail), (Failure::Tls, text), "{protocol}");
    }
}

#[tokio::test]
async fn a_response_that_came_whole_over_tls_counts_whatever_comes_right_behind_it() {
    let authority = Authority::new();
    let h2 = [crate::floods::frame(4, 0, 0, &[]), crate::floods::frame(1, 5, 1, &[0x88])].concat();
    for (protocol, answer) in [("http/1.1", OK.to_vec()), ("h2", h2)] {
        for (name, behind) in [
            ("a record that cannot be decrypted", &b"\x17\x03\x03\x00\x14aaaaaaaaaaaaaaaaaaaa"[..]),
            ("plain text", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            ("an alert that is not encrypted", b"\x15\x03\x03\x00\x02\x02\x14"),
        ] {
            let acceptor = authority.acceptor("hooks.example", &[protocol]);
            let answer = answer.clone();
            let receiver = Receiver::start(move |stream, _| {
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                async move {
                    let mut stream = acceptor.accept(stream).await.unwrap();
                    let mut request = [0; 4_096];
                    let mut read = 0;
                    // Over HTTP/2 the payload is the last that comes.
                    while !request[..read].windows(7).any(|bytes| bytes == b"{\"a\":1}") {
                        read += stream.read(&mut request[read..]).await.unwrap();
                    }
                    let (tcp, session) = stream.get_mut();
                    std::io::Write::write_all(&mut session.writer(), &answer).unwrap();
                    let mut bytes = Vec::new();
                    while session.wants_write() {
                        session.write_tls(&mut bytes).unwrap();
                    }
                    bytes.extend_from_slice(behind);
                    tcp.write_all(&bytes).await.unwrap();
                    let _ = tcp.read(&mut [0]).await;
                }
            })
            .await;
            let sent = authority.client(PATIENCE).send(&url(&receiver, "hooks.example")).await;
            assert_eq!(answered(&sent).0, 200, "{protocol}: {name}");
        }
    }
}

#[tokio::test]
async fn as_many_session_tickets_as_anybody_sends_do_no_harm() {
    let authority = Authority::new();
    for protocol in ["http/1.1", "h2"] {
        let receiver = with_tickets(&authority, protocol, 16).await;
        let sent = authority.client(PATIENCE).send(&url(&receiver, "hooks.example")).await;
        assert_eq!(answered(&sent).0, 200, "{protocol}");
    }
}

/// A receiver that answers with a head and a body of `length` bytes, in records of so many, each after a change of keys if
/// it is one byte; told when its connection is cut.
async fn in_records(authority: &Authority, length: usize, record: usize) -> (Receiver, Arc<tokio::sync::Notify>) {
    let acceptor = authority.acceptor("hooks.example", &["http/1.1"]);
    let cut = Arc::new(tokio::sync::Notify::new());
    let tell = Arc::clone(&cut);
    let receiver = Receiver::start(move |stream, _| {
        let (acceptor, tell) = (acceptor.clone(), Arc::clone(&tell));
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            while read_request(&mut stream).await.is_some() {
                if send_in_records(&mut stream, length, record).await.is_err() {
                    tell.notify_one();
                    return;
                }
            }
        }
    })
    .await;
    (receiver, cut)
}

async fn send_in_records(stream: &mut TlsStream<TcpStream>, length: usize, record: usize) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    for piece in vec![b'x'; length].chunks(record) {
        if record == 1 {
            stream.get_mut().1.refresh_traffic_keys().map_err(std::io::Error::other)?;
        }
        stream.write_all(piece).await?;
        stream.flush().await?;
    }
    Ok(())
}

#[tokio::test]
async fn keys_that_change_with_each_byte_of_a_response_end_the_connection_and_leave_the_status() {
    let authority = Authority::new();
    let (receiver, cut) = in_records(&authority, 60_000, 1).await;
    let sent = authority.client(PATIENCE).send(&url(&receiver, "hooks.example")).await;
    let (status, body) = answered(&sent);
    assert_eq!(status, 200);
    assert!(body.len() < 1_000, "{} bytes were read, each in a record of its own", body.len());
    assert!(tokio::time::timeout(PATIENCE, cut.notified()).await.is_ok(), "the connection is still there");
}

#[tokio::test]
async fn responses_in_small_records_do_no_harm_one_after_another() {
    let authority = Authority::new();
    let (receiver, _) = in_records(&authority, 60_000, 300).await;
    let client = authority.client(PATIENCE);
    let mut slot = Slot::default();
    for _ in 0..5 {
        assert_eq!(answered(&client.send_with(&url(&receiver, "hooks.example"), &mut slot).await).0, 200);
    }
    assert_eq!(receiver.connections(), 1, "the connection is kept");
}
