//! TLS and HTTP/2.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use postrider_delivery::options::DeliveryOptions;
use postrider_delivery::sender::Slot;
use postrider_domain::delivery::Failure;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::support::*;

/// A certificate authority of a test.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) roots: RootCertStore,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "an authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        Self { issuer: Issuer::new(params, key), roots }
    }

    pub(crate) fn acceptor(&self, name: &str, protocols: &[&str]) -> TlsAcceptor {
        self.acceptor_of(&CertificateParams::new(vec![name.to_owned()]).unwrap(), protocols)
    }

    pub(crate) fn acceptor_of(&self, params: &CertificateParams, protocols: &[&str]) -> TlsAcceptor {
        let (certificate, key) = self.issue(params);
        acceptor(certificate, &key, protocols)
    }

    pub(crate) fn issue(&self, params: &CertificateParams) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().der().clone(), key)
    }

    /// An authority below this one, with its certificate.
    pub(crate) fn below(&self, name: &str) -> (Issuer<'static, KeyPair>, CertificateDer<'static>) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let (certificate, key) = self.issue(&params);
        (Issuer::new(params, key), certificate)
    }

    pub(crate) fn client(&self, timeout: Duration) -> Client {
        self.client_with(&options(&["127.0.0.0/8"], timeout))
    }

    pub(crate) fn client_with(&self, options: &DeliveryOptions) -> Client {
        Client::new(options, Names::answering(&["127.0.0.1"]), self.roots.clone())
    }
}

pub(crate) fn acceptor(certificate: CertificateDer<'static>, key: &KeyPair, protocols: &[&str]) -> TlsAcceptor {
    TlsAcceptor::from(Arc::new(server_config(vec![certificate], key, protocols)))
}

/// The settings of a receiver that shows these certificates, its own first.
pub(crate) fn server_config(
    certificates: Vec<CertificateDer<'static>>,
    key: &KeyPair,
    protocols: &[&str],
) -> ServerConfig {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

/// Answers over TLS and HTTP/1.1.
pub(crate) async fn https(acceptor: TlsAcceptor) -> Receiver {
    Receiver::start(move |stream, _| {
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

pub(crate) fn url(receiver: &Receiver, host: &str) -> String {
    format!("https://{host}:{}/hook", receiver.address.port())
}

#[tokio::test]
async fn https_is_delivered_to_and_its_connections_are_kept() {
    let authority = Authority::new();
    let receiver = https(authority.acceptor("hooks.example", &["http/1.1"])).await;
    let client = authority.client(PATIENCE);
    let mut slot = Slot::default();
    for host in ["hooks.example", "hooks.example", "HOOKS.example"] {
        assert_eq!(answered(&client.send_with(&url(&receiver, host), &mut slot).await), (200, &b"ok"[..]));
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_host_name_with_the_dot_of_the_root_has_the_same_certificate() {
    let authority = Authority::new();
    let receiver = https(authority.acceptor("hooks.example", &[])).await;
    let sent = authority.client(PATIENCE).send(&url(&receiver, "hooks.example.")).await;
    assert_eq!(answered(&sent).0, 200);
}

#[tokio::test]
async fn the_deadline_ends_silence_before_and_after_the_handshake() {
    let authority = Authority::new();
    let silent = Receiver::start(|stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let acceptor = authority.acceptor("hooks.example", &[]);
    let accepting = Receiver::start(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let stream = acceptor.accept(stream).await;
            std::future::pending::<()>().await;
            drop(stream);
        }
    })
    .await;
    let client = authority.client(Duration::from_secs(1));
    for (receiver, text) in [
        (silent, "timed out after 1s: the TLS handshake was not finished"),
        (accepting, "timed out after 1s: the receiver did not respond"),
    ] {
        let sent = client.send(&url(&receiver, "hooks.example")).await;
        assert_eq!(failed(&sent), (Failure::Timeout, text));
    }
}

/// An HTTP/2 receiver that closes each connection after `requests`, gracefully.
pub(crate) async fn http2(authority: &Authority, requests: usize) -> Receiver {
    http2_on(authority, "127.0.0.1:0", requests).await
}

/// The same at an address.
pub(crate) async fn http2_on(authority: &Authority, address: &str, requests: usize) -> Receiver {
    let acceptor = authority.acceptor("hooks.example", &["h2", "http/1.1"]);
    Receiver::on(address, move |stream, _| {
        let acceptor = acceptor.clone();
        async move { serve_http2(acceptor, stream, requests).await }
    })
    .await
}

async fn serve_http2(acceptor: TlsAcceptor, stream: TcpStream, requests: usize) {
    let stream = acceptor.accept(stream).await.unwrap();
    let served = Arc::new(AtomicUsize::new(0));
    let enough = Arc::new(tokio::sync::Notify::new());
    let (count, tell) = (Arc::clone(&served), Arc::clone(&enough));
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let (count, tell) = (Arc::clone(&count), Arc::clone(&tell));
        async move {
            let text = format!(
                "{:?} {} {}",
                request.version(),
                request.uri(),
                request.headers().contains_key("webhook-signature")
            );
            let body = request.into_body().collect().await.unwrap().to_bytes();
            if count.fetch_add(1, Ordering::SeqCst) + 1 == requests {
                tell.notify_one();
            }
            let body = [text.as_bytes(), b" ", &body].concat();
            Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from(body))))
        }
    });
    let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let serving = serving.serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        _ = serving.as_mut() => {}
        () = enough.notified() => {
            serving.as_mut().graceful_shutdown();
            let _ = serving.await;
        }
    }
}

#[tokio::test]
async fn http2_carries_many_requests_over_one_connection() {
    let authority = Authority::new();
    let receiver = http2(&authority, usize::MAX).await;
    let client = Arc::new(authority.client(PATIENCE));
    let url = url(&receiver, "hooks.example");
    let first = client.send(&url).await;
    assert_eq!(answered(&first), (200, format!("HTTP/2.0 {url} true {{\"a\":1}}").as_bytes()));
    let sends: Vec<_> = (0..50)
        .map(|_| {
            let (client, url) = (Arc::clone(&client), url.clone());
            tokio::spawn(async move { answered(&client.send(&url).await).0 })
        })
        .collect();
    for send in sends {
        assert_eq!(send.await.unwrap(), 200);
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn an_http2_connection_that_the_receiver_ends_is_replaced_without_a_failed_attempt() {
    let authority = Authority::new();
    let receiver = http2(&authority, 3).await;
    let client = authority.client(PATIENCE);
    let mut slot = Slot::default();
    for _ in 0..12 {
        assert_eq!(answered(&client.send_with(&url(&receiver, "hooks.example"), &mut slot).await).0, 200);
    }
    assert!(receiver.connections() > 1, "the receiver ended none");
}
