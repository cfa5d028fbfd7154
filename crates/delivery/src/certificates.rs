//! The check of a receiver's certificates, bounded in what it costs.
//!
//! webpki tries the certificates that a receiver shows in every order that their names allow: up to 200,000 steps, in each of
//! which it reads all of them anew, and up to a hundred signatures. A receiver that shows nine of one name, issued by that
//! name, keeps a core busy for a quarter of a second with each handshake. So there may be only as many as a chain needs
//! ([`MAX_CERTIFICATES`], [`MAX_CERTIFICATE_BYTES`]), and of these webpki gets those that can lead from the receiver's own to
//! an authority, few of each name. With [`MAX_ISSUERS`] of them, two of each name, about ten signatures are checked at worst.
//!
//! Everything else about a certificate is checked as rustls does it.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::EndEntityCert;

postrider_domain::limits! {
    in "Receivers over TLS";
    /// Certificates that a receiver may show, with its own
    pub const MAX_CERTIFICATES: usize = 10, "certificates", beyond "the attempt has failed";
    /// Certificates that a receiver may show, together
    pub const MAX_CERTIFICATE_BYTES: usize = 32_768, "bytes", beyond "the attempt has failed";
    /// Certificates that can be part of a way from a receiver's own to a trusted authority
    pub const MAX_ISSUERS: usize = 5, "certificates", beyond "they are not considered";
    /// Of those, the ones of one name
    pub const MAX_ISSUERS_OF_A_NAME: usize = 2, "certificates", beyond "they are not considered";
}

/// A receiver shows more certificates than are looked at.
#[derive(Debug, thiserror::Error)]
#[error("with it come more than {} certificates, or more than {MAX_CERTIFICATE_BYTES} bytes of them", MAX_CERTIFICATES - 1)]
pub(crate) struct TooManyShown;

/// Checks receivers' certificates.
#[derive(Debug)]
pub(crate) struct Verifier {
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(crate) fn new(roots: RootCertStore, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { roots, algorithms }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if are_too_many(own, others) {
            let why = OtherError(Arc::new(TooManyShown));
            return Err(CertificateError::Other(why).into());
        }
        let certificate = ParsedCertificate::try_from(own)?;
        let issuers = issuers(own, others);
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, &issuers, now, self.algorithms.all)?;
        verify_server_name(&certificate, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, own, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, own, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn are_too_many(own: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> bool {
    let bytes = own.len() + others.iter().map(|other| other.len()).sum::<usize>();
    others.len() >= MAX_CERTIFICATES || bytes > MAX_CERTIFICATE_BYTES
}

/// Of the others those that can have issued a receiver's own certificate, or one that can, by their names. In whatever order
/// they come; what cannot be read has issued nothing.
fn issuers<'a>(own: &CertificateDer<'_>, others: &'a [CertificateDer<'_>]) -> Vec<CertificateDer<'a>> {
    let Ok(own) = EndEntityCert::try_from(own) else { return Vec::new() };
    let known: Vec<_> = others.iter().filter_map(|other| EndEntityCert::try_from(other).ok()).collect();
    let mut names = vec![own.issuer()];
    let mut found: Vec<CertificateDer<'a>> = Vec::new();
    let mut looked = 0;
    while let Some(name) = names.get(looked).copied() {
        looked += 1;
        let mut of_name = 0;
        for candidate in known.iter().filter(|candidate| candidate.subject() == name) {
            let again = found.contains(&candidate.der());
            if again || of_name == MAX_ISSUERS_OF_A_NAME || found.len() == MAX_ISSUERS {
                continue;
            }
            of_name += 1;
            found.push(candidate.der());
            if !names.contains(&candidate.issuer()) {
                names.push(candidate.issuer());
            }
        }
    }
    found
}
