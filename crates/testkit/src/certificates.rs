//! Certificates for receivers: good ones of an authority that a server can be told to trust, and bad ones.
//!
//! A server trusts an [`Authority`] if `SSL_CERT_FILE` names the file of [`Authority::write_pem`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

/// Issues certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

fn params(hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    CertificateParams::new(hosts).expect("host names and addresses are valid names for a certificate")
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key can be generated")
}

impl Authority {
    /// A new authority that nobody trusts yet.
    pub fn new() -> Self {
        let mut params = params(&[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, key()).expect("an authority can sign itself"))
    }

    /// Writes the certificate of the authority into `folder`, for `SSL_CERT_FILE`.
    pub fn write_pem(&self, folder: &Path) -> PathBuf {
        let path = folder.join("authority.pem");
        std::fs::write(&path, self.0.pem()).expect("the folder of a test is writable");
        path
    }

    /// A certificate for these host names or addresses.
    pub fn issue(&self, hosts: &[&str]) -> Identity {
        self.sign(&params(hosts))
    }

    /// A certificate that expired long ago.
    pub fn issue_expired(&self, hosts: &[&str]) -> Identity {
        let mut params = params(hosts);
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Identity {
        let key = key();
        let certificate = params.signed_by(&key, &self.0).expect("an authority can sign");
        Identity { certificate: certificate.der().clone(), key: key.serialize_der() }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Identity {
    /// A certificate that vouches for itself.
    pub fn self_signed(hosts: &[&str]) -> Self {
        let key = key();
        let certificate = params(hosts).self_signed(&key).expect("a certificate can sign itself");
        Self { certificate: certificate.der().clone(), key: key.serialize_der() }
    }

    /// Accepts connections over TLS with this certificate, and offers these protocols by ALPN.
    pub fn acceptor(&self, protocols: &[&[u8]]) -> TlsAcceptor {
        TlsAcceptor::from(self.server_config(protocols))
    }

    /// The settings of a TLS server that shows this certificate and offers these protocols by ALPN.
    fn server_config(&self, protocols: &[&[u8]]) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)
            .expect("the key belongs to the certificate");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }
}
