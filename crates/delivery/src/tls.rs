//! TLS: whom we trust, and how a failed handshake is explained.
//!
//! Trusted are the system's root certificates, or those of `SSL_CERT_FILE`/`SSL_CERT_DIR`. There is no way to switch the
//! check of certificates off.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};

/// The configuration that trusts the system's certificates. Without any, every https endpoint fails, which is worth a
/// warning but not a refusal to start: there may be none.
pub fn system_config() -> Result<ClientConfig, rustls::Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::warn!(
            errors = ?found.errors,
            "no root certificates were found, so no https endpoint can be delivered to: install ca-certificates, or set \
             SSL_CERT_FILE"
        );
    }
    config(roots)
}

/// The configuration that trusts these certificates.
pub fn config(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// What went wrong in a handshake, for the endpoint's owner.
pub(crate) fn describe(error: &io::Error) -> Cow<'static, str> {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match (inner, error.kind()) {
        (Some(error), _) => describe_rustls(error),
        (None, io::ErrorKind::UnexpectedEof) => "the receiver closed the connection during the TLS handshake".into(),
        (None, io::ErrorKind::ConnectionReset) => "the receiver reset the connection during the TLS handshake".into(),
        (None, _) => "the connection broke during the TLS handshake".into(),
    }
}

fn describe_rustls(error: &rustls::Error) -> Cow<'static, str> {
    match error {
        rustls::Error::InvalidCertificate(error) => {
            format!("the receiver's certificate was not accepted: {}", describe_certificate(error)).into()
        }
        rustls::Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            "the receiver has no certificate for this host name".into()
        }
        rustls::Error::AlertReceived(alert) => format!("the receiver refused the TLS handshake: {alert:?}").into(),
        rustls::Error::InvalidMessage(_) => "the receiver's answer is not TLS: is it http instead of https?".into(),
        rustls::Error::PeerIncompatible(_) => "the receiver offers no TLS version or cipher that is secure".into(),
        _ => "the TLS handshake failed".into(),
    }
}

fn describe_certificate(error: &CertificateError) -> Cow<'static, str> {
    use CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } => "it has expired".into(),
        E::NotValidYet | E::NotValidYetContext { .. } => "it is not valid yet".into(),
        E::UnknownIssuer => "its issuer is unknown (self-signed, or an intermediate certificate is missing)".into(),
        E::NotValidForName | E::NotValidForNameContext { .. } => "it is for another host name".into(),
        E::Revoked => "it was revoked".into(),
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => "it is not meant for servers".into(),
        E::BadSignature => "its signature is wrong".into(),
        E::BadEncoding => "it cannot be read".into(),
        // webpki's own reasons, e.g. an authority's certificate used as a server's: short, and without addresses.
        E::Other(error) => {
            let text: String = error.to_string().chars().take(100).collect();
            format!("it is not usable ({text})").into()
        }
        _ => "it is not usable".into(),
    }
}
