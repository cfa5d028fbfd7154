//! TLS that fails, in every way there is: what the log says must tell the endpoint's owner what to do.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use postrider_delivery::sender::Slot;
use postrider_domain::delivery::Failure;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use crate::secure::{Authority, acceptor, https, url};
use crate::support::*;

fn named(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| name.to_string()).collect::<Vec<_>>()).unwrap()
}

#[tokio::test]
async fn a_certificate_that_is_refused_is_refused_with_the_reason() {
    let authority = Authority::new();
    let mut expired = named(&["hooks.example"]);
    (expired.not_before, expired.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 2, 3));
    let mut early = named(&["hooks.example"]);
    (early.not_before, early.not_after) = (date_time_ymd(2100, 5, 6), date_time_ymd(2101, 1, 1));
    let own_key = KeyPair::generate().unwrap();
    let own = named(&["hooks.example"]).self_signed(&own_key).unwrap();
    let mut own_authority = named(&["hooks.example"]);
    own_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own_authority = own_authority.self_signed(&own_key).unwrap();
    let mut nameless = named(&[]);
    nameless.distinguished_name.push(DnType::CommonName, "hooks.example");
    let stranger = Authority::new();
    let client = authority.client(PATIENCE);
    for (acceptor, text) in [
        (authority.acceptor_of(&expired, &[]), "it has expired, on 2021-02-03"),
        (authority.acceptor_of(&early, &[]), "it is not valid yet, but from 2100-05-06 on"),
        (acceptor(own.der().clone(), &own_key, &[]), "its issuer is unknown (self-signed, or an intermediate"),
        (stranger.acceptor("hooks.example", &[]), "its signature is wrong, or made with a key that is too weak"),
        (acceptor(own_authority.der().clone(), &own_key, &[]), "self-signed"),
        (
            authority.acceptor_of(&named(&["other.example", "*.more.example"]), &[]),
            "it is for another host name: for other.example, *.more.example, not for hooks.example",
        ),
        (
            authority.acceptor_of(&nameless, &[]),
            "it has no host names (subjectAltName), so it is not for hooks.example",
        ),
    ] {
        let receiver = https(acceptor).await;
        let sent = client.send(&url(&receiver, "hooks.example")).await;
        let (kind, detail) = failed(&sent);
        assert_eq!(kind, Failure::Tls);
        let start = "the receiver's certificate was not accepted: ";
        assert!(detail.starts_with(start) && detail.contains(text), "{text}: {detail}");
    }
}

#[tokio::test]
async fn without_any_authority_that_is_trusted_the_receivers_certificate_is_not_blamed() {
    let receiver = https(Authority::new().acceptor("hooks.example", &[])).await;
    let sent = Client::local().send(&url(&receiver, "hooks.example")).await;
    let (kind, detail) = failed(&sent);
    assert!(kind == Failure::Tls && detail.starts_with("this server trusts no authority"), "{detail}");
}

/// Answers whatever comes first with these bytes, and closes.
async fn answer_handshake(mut stream: TcpStream, answer: &[u8]) {
    let mut sink = [0; 4096];
    let _ = stream.read(&mut sink).await;
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

/// The beginning of a handshake that ends with an alert of this number.
fn alert(number: u8) -> &'static [u8] {
    vec![0x15, 3, 3, 0, 2, 2, number].leak()
}

/// A server's hello with a version and a cipher.
fn hello(version: [u8; 2], cipher: [u8; 2]) -> &'static [u8] {
    let body = [&version[..], &[7; 32], &[0], &cipher, &[0]].concat();
    let handshake = [&[2, 0, 0, body.len() as u8][..], &body].concat();
    [&[0x16, 3, 1, 0, handshake.len() as u8][..], &handshake].concat().leak()
}

#[tokio::test]
async fn an_alert_is_named_with_what_it_means() {
    let client = Authority::new().client(PATIENCE);
    for (number, text) in [
        (
            40,
            "it has no cipher, key exchange or signature in common with this server, or refuses it for a reason of its \
             own (alert 40, HandshakeFailure)",
        ),
        (42, "it did not accept a certificate, though it asked for none (alert 42, BadCertificate)"),
        (49, "access was denied (alert 49, AccessDenied)"),
        (70, "it supports neither TLS 1.2 nor TLS 1.3 (alert 70, ProtocolVersion)"),
        (80, "it had an internal error (alert 80, InternalError)"),
        (71, "it demands more secure ciphers than this server has (alert 71, InsufficientSecurity)"),
        (116, "it demands a client certificate, which this server does not have (alert 116, CertificateRequired)"),
        (120, "it speaks neither HTTP/2 nor HTTP/1.1 (ALPN) (alert 120, NoApplicationProtocol)"),
        (200, "it gave no reason (alert 200"),
    ] {
        let receiver = Receiver::start(move |stream, _| answer_handshake(stream, alert(number))).await;
        let sent = client.send(&url(&receiver, "hooks.example")).await;
        let (kind, detail) = failed(&sent);
        assert_eq!(kind, Failure::Tls);
        let text = format!("the receiver refused the TLS connection: {text}");
        assert!(detail.starts_with(&text), "{detail}");
    }
    let receiver = Receiver::start(move |stream, _| answer_handshake(stream, alert(112))).await;
    let sent = client.send(&url(&receiver, "hooks.example")).await;
    assert_eq!(failed(&sent), (Failure::Tls, "the receiver has no certificate for this host name"));
}

#[tokio::test]
async fn a_handshake_that_leads_nowhere_is_named_as_what_it_is() {
    let client = Authority::new().client(PATIENCE);
    for (answer, text) in [
        (&b""[..], "the receiver closed the connection during the TLS handshake"),
        (&alert(40)[..3], "the receiver closed the connection during the TLS handshake"),
        (hello([3, 1], [0, 0x2f]), "the receiver supports neither TLS 1.2 nor TLS 1.3"),
        (hello([3, 2], [0xc0, 0x2f]), "the receiver supports neither TLS 1.2 nor TLS 1.3"),
        (hello([3, 3], [0, 0x2f]), "the receiver broke the rules of TLS"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "the receiver's response is not TLS: is it http instead of https?"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the receiver's response is not TLS: is it http instead of https?"),
        (b"220 mail.example ESMTP\r\n", "the receiver's response is not TLS: is it http instead of https?"),
    ] {
        let receiver = Receiver::start(move |stream, _| answer_handshake(stream, answer)).await;
        let sent = client.send(&url(&receiver, "hooks.example")).await;
        assert_eq!(failed(&sent), (Failure::Tls, text), "{}", answer.escape_ascii());
    }
    let receiver = Receiver::start(|mut stream, _| async move {
        let _ = stream.read(&mut [0; 4096]).await;
        reset(stream);
    })
    .await;
    let sent = client.send(&url(&receiver, "hooks.example")).await;
    assert_eq!(failed(&sent), (Failure::Tls, "the receiver reset the connection during the TLS handshake"));
}

/// A receiver that wants to know who sends.
fn demanding(authority: &Authority, version: &'static rustls::SupportedProtocolVersion, alpn: &[&str]) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(authority.roots.clone());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build().unwrap();
    let (certificate, key) = authority.issue(&named(&["hooks.example"]));
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn a_receiver_that_demands_a_client_certificate_is_named_as_such_in_every_version() {
    let authority = Authority::new();
    let client = authority.client(PATIENCE);
    for (version, alpn) in [
        (&rustls::version::TLS12, &[][..]),
        (&rustls::version::TLS13, &[]),
        (&rustls::version::TLS13, &["http/1.1"]),
        (&rustls::version::TLS13, &["h2"]),
    ] {
        let receiver = https(demanding(&authority, version, alpn)).await;
        let sent = client.send(&url(&receiver, "hooks.example")).await;
        let (kind, detail) = failed(&sent);
        assert!(kind == Failure::Tls && detail.contains("client certificate"), "{version:?} {alpn:?}: {detail}");
    }
}

/// A stream whose alerts have another number: there are receivers that choose it otherwise than rustls does.
struct Alerting {
    stream: TcpStream,
    number: u8,
}

impl AsyncRead for Alerting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Alerting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let alert = alert(self.number);
        let is_alert = buf.len() == alert.len() && buf[0] == alert[0];
        Pin::new(&mut self.stream).poll_write(cx, if is_alert { alert } else { buf })
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_receiver_that_asks_for_a_client_certificate_is_named_as_such_whatever_alert_it_sends() {
    let authority = Authority::new();
    let client = authority.client(PATIENCE);
    // OpenSSL, Go and Java choose different ones in TLS 1.2.
    for number in [40, 41, 42, 46, 48, 49] {
        let acceptor = demanding(&authority, &rustls::version::TLS12, &[]);
        let receiver = Receiver::start(move |stream, _| {
            let acceptor = acceptor.clone();
            async move { drop(acceptor.accept(Alerting { stream, number }).await) }
        })
        .await;
        let sent = client.send(&url(&receiver, "hooks.example")).await;
        let text = "it asked for a client certificate, which this server does not have";
        let start = format!("the receiver refused the TLS connection: {text} (alert {number}, ");
        let (kind, detail) = failed(&sent);
        assert!(kind == Failure::Tls && detail.starts_with(&start), "{detail}");
    }
}

#[tokio::test]
async fn what_is_said_unasked_over_tls_is_not_taken_for_the_next_answer() {
    let authority = Authority::new();
    let acceptor = authority.acceptor("hooks.example", &["http/1.1"]);
    let said = Arc::new(Notify::new());
    let tell = Arc::clone(&said);
    let receiver = Receiver::start(move |stream, number| {
        let (acceptor, tell) = (acceptor.clone(), Arc::clone(&tell));
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            while read_request(&mut stream).await.is_some() {
                stream.write_all(OK).await.unwrap();
                stream.flush().await.unwrap();
                if number == 0 {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nFAKE").await.unwrap();
                    stream.flush().await.unwrap();
                    tell.notify_one();
                }
            }
        }
    })
    .await;
    let client = authority.client(PATIENCE);
    let mut slot = Slot::default();
    assert_eq!(answered(&client.send_with(&url(&receiver, "hooks.example"), &mut slot).await), (200, &b"ok"[..]));
    said.notified().await;
    for _ in 0..3 {
        assert_eq!(answered(&client.send_with(&url(&receiver, "hooks.example"), &mut slot).await), (200, &b"ok"[..]));
    }
    assert_eq!(receiver.connections(), 2, "and one that says nothing is used again");
}
