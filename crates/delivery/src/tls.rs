//! TLS: whom we trust, and how a failed handshake is explained.
//!
//! Trusted are the system's root certificates, or those of `SSL_CERT_FILE`/`SSL_CERT_DIR`. There is no way to switch the
//! check of certificates off.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use postrider_domain::time::Timestamp;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, InvalidMessage, PeerIncompatible, PeerMisbehaved, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{ServerName, UnixTime};

use crate::certificates::{MAX_CERTIFICATE_BYTES, TooManyShown, Verifier};
use crate::meter::{MAX_IDLE_OVERHEAD, MAX_OVERHEAD, RECORD, TooMuch};

/// How connections are secured.
#[derive(Debug, Clone)]
pub struct Tls {
    pub(crate) config: Arc<ClientConfig>,
    /// Whether any authority is trusted. Without, what is wrong with a certificate's issuer is no fault of the receiver's.
    pub(crate) has_roots: bool,
}

/// The configuration that trusts the system's certificates. Without any, every https endpoint fails, which is worth a
/// warning but not a refusal to start: there may be none.
pub fn system_config() -> Result<Tls, rustls::Error> {
    let found = crate::roots::load();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certificates);
    if added > 0 {
        for problem in &found.problems {
            tracing::warn!("{problem}: the other authorities are trusted, those are not");
        }
    } else {
        tracing::warn!(
            errors = ?found.problems,
            "no root certificates were found, so no https endpoint can be delivered to: install ca-certificates, or set \
             SSL_CERT_FILE"
        );
    }
    config(roots)
}

/// The configuration that trusts these certificates.
pub fn config(roots: RootCertStore) -> Result<Tls, rustls::Error> {
    let has_roots = !roots.is_empty();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Verifier::new(roots, provider.signature_verification_algorithms));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        // No danger: it checks what rustls checks, with what rustls checks it with, but not without bounds.
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(NoCertificate));
    config.resumption = Resumption::in_memory_sessions(SESSIONS_AT_HOSTS * TICKETS);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Tls { config: Arc::new(config), has_roots })
}

/// We have no certificate to show; but that a receiver asks for one explains what it does next.
#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // All connections have one configuration, or sessions could not be resumed; whose handshake it is, the task knows.
        let _ = ASKED.try_with(|asked| asked.0.store(true, Ordering::Relaxed));
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

tokio::task_local! {
    static ASKED: Asked;
}

/// Whether a receiver asked for a client certificate in the handshake of a connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked(Arc<AtomicBool>);

impl Asked {
    /// Notes it while a handshake is made.
    pub(crate) async fn watch<F: Future>(&self, handshake: F) -> F::Output {
        ASKED.scope(self.clone(), handshake).await
    }

    /// What went wrong in the handshake, for the endpoint's owner.
    pub(crate) fn describe(&self, error: &io::Error) -> Cow<'static, str> {
        let how = match (cause(error), error.kind()) {
            (Some(error), _) => return describe_rustls(error, self.is_true()),
            (None, _) if is_too_much(error) => "the receiver sent too much during the TLS handshake",
            (None, io::ErrorKind::UnexpectedEof) => "the receiver closed the connection during the TLS handshake",
            (None, io::ErrorKind::ConnectionReset) => "the receiver reset the connection during the TLS handshake",
            (None, _) => "the connection broke during the TLS handshake",
        };
        if self.is_true() { format!("{how}, in which {NO_CERTIFICATE}").into() } else { how.into() }
    }

    /// An error of the connection after the handshake, with what is to be said of it if TLS is the reason.
    pub(crate) fn explain(&self, error: io::Error) -> io::Error {
        match cause(&error) {
            Some(why) => io::Error::new(error.kind(), Explained(describe_rustls(why, self.is_true()))),
            None => error,
        }
    }

    fn is_true(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What went wrong with TLS, for the endpoint's owner.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Explained(Cow<'static, str>);

/// What went wrong with TLS after the handshake, for the endpoint's owner; `None` if it was something else.
pub(crate) fn reason(error: &io::Error) -> Option<Cow<'static, str>> {
    if is_too_much(error) {
        return Some(TooMuch.to_string().into());
    }
    Some(error.get_ref()?.downcast_ref::<Explained>()?.0.clone())
}

fn is_too_much(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<TooMuch>())
}

postrider_domain::limits! {
    in "Receivers over TLS";
    /// Hosts whose sessions are remembered, so that the next handshake with them is a short one
    pub const SESSIONS_AT_HOSTS: usize = 32, "hosts", beyond "one is forgotten, and its next handshake is a whole one";
}

/// What rustls keeps for each of them: so many tickets, each with the certificates that it was given for.
const TICKETS: usize = 8;
const TICKET_BYTES: u64 = (RECORD + MAX_IDLE_OVERHEAD + MAX_OVERHEAD) as u64 + MAX_CERTIFICATE_BYTES as u64;

/// What remembered sessions take in memory at most.
pub(crate) const SESSIONS_BYTES: u64 = (SESSIONS_AT_HOSTS * TICKETS) as u64 * TICKET_BYTES;

/// What to say if nobody is trusted, instead of blaming the receiver's certificate.
pub(crate) const NO_ROOTS: &str = "this server trusts no authority, so no receiver's certificate can be checked: install ca-certificates, or set SSL_CERT_FILE";

/// Whether a certificate was refused because of who issued it.
pub(crate) fn is_about_issuer(error: &io::Error) -> bool {
    matches!(cause(error), Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)))
}

/// The TLS failure behind an I/O error, if there is one.
fn cause(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// `asked`: the receiver asked for a client certificate.
fn describe_rustls(error: &rustls::Error, asked: bool) -> Cow<'static, str> {
    use rustls::Error as E;
    match error {
        E::AlertReceived(alert) => describe_alert(*alert, asked).into(),
        E::InvalidCertificate(error) => {
            format!("the receiver's certificate was not accepted: {}", describe_certificate(error)).into()
        }
        E::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            "the receiver's response is not TLS: is it http instead of https?".into()
        }
        E::PeerIncompatible(why) => describe_incompatible(why).into(),
        E::NoCertificatesPresented => "the receiver presented no certificate".into(),
        E::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol) => {
            "the receiver chose an application protocol (ALPN) that was not offered".into()
        }
        E::InvalidMessage(_)
        | E::PeerMisbehaved(_)
        | E::InappropriateMessage { .. }
        | E::InappropriateHandshakeMessage { .. }
        | E::PeerSentOversizedRecord => "the receiver broke the rules of TLS".into(),
        E::DecryptError => "what the receiver sent over TLS was damaged on its way".into(),
        _ => "TLS failed on this side".into(),
    }
}

const NO_CERTIFICATE: &str = "it asked for a client certificate, which this server does not have";

/// An alert that the receiver sent: what it means, and its name and number (RFC 8446 §6), which its owner can look up.
/// `asked`: for a client certificate. Before TLS 1.3 there is no alert of its own for that, so receivers take what fits.
fn describe_alert(alert: AlertDescription, asked: bool) -> String {
    use AlertDescription as A;
    let meaning = match alert {
        A::UnrecognisedName => return "the receiver has no certificate for this host name".to_owned(),
        A::CertificateRequired => "it demands a client certificate, which this server does not have",
        A::HandshakeFailure
        | A::NoCertificate
        | A::BadCertificate
        | A::UnsupportedCertificate
        | A::CertificateUnknown
        | A::CertificateExpired
        | A::CertificateRevoked
        | A::UnknownCA
        | A::AccessDenied
        | A::InternalError
        | A::CloseNotify
        | A::UserCanceled
            if asked =>
        {
            NO_CERTIFICATE
        }
        A::ProtocolVersion => "it supports neither TLS 1.2 nor TLS 1.3",
        A::InsufficientSecurity => "it demands more secure ciphers than this server has",
        A::HandshakeFailure => {
            "it has no cipher, key exchange or signature in common with this server, or refuses it for a reason of its own"
        }
        A::NoApplicationProtocol => "it speaks neither HTTP/2 nor HTTP/1.1 (ALPN)",
        A::NoCertificate
        | A::BadCertificate
        | A::UnsupportedCertificate
        | A::CertificateUnknown
        | A::CertificateExpired
        | A::CertificateRevoked => "it did not accept a certificate, though it asked for none",
        A::UnknownCA => "it does not know an authority of a certificate, though it asked for none",
        A::AccessDenied => "access was denied",
        A::InternalError => "it had an internal error",
        A::CloseNotify | A::UserCanceled => "it closed the connection",
        A::DecodeError | A::IllegalParameter | A::UnexpectedMessage | A::MissingExtension | A::UnsupportedExtension => {
            "it did not understand the request for a connection"
        }
        A::BadRecordMac | A::DecryptError | A::DecryptionFailed | A::RecordOverflow => {
            "what it received was damaged on its way"
        }
        _ => "it gave no reason",
    };
    format!("the receiver refused the TLS connection: {meaning} (alert {}, {alert:?})", u8::from(alert))
}

fn describe_incompatible(why: &PeerIncompatible) -> &'static str {
    use PeerIncompatible as P;
    match why {
        P::ServerDoesNotSupportTls12Or13 | P::ServerTlsVersionIsDisabledByOurConfig | P::Tls12NotOffered => {
            "the receiver supports neither TLS 1.2 nor TLS 1.3"
        }
        P::NoCipherSuitesInCommon => "the receiver and this server have no secure cipher in common",
        P::NoKxGroupsInCommon | P::NoEcPointFormatsInCommon => {
            "the receiver and this server have no secure key exchange in common"
        }
        P::NoSignatureSchemesInCommon => "the receiver and this server have no secure signature in common",
        _ => "the receiver's TLS lacks what a secure connection needs",
    }
}

fn describe_certificate(error: &CertificateError) -> Cow<'static, str> {
    use CertificateError as E;
    match error {
        E::Expired => "it has expired".into(),
        E::ExpiredContext { not_after, .. } => format!("it has expired, on {}", date(*not_after)).into(),
        E::NotValidYet => "it is not valid yet".into(),
        E::NotValidYetContext { not_before, .. } => {
            format!("it is not valid yet, but from {} on", date(*not_before)).into()
        }
        E::UnknownIssuer => "its issuer is unknown (self-signed, or an intermediate certificate is missing)".into(),
        E::NotValidForName => "it is for another host name".into(),
        E::NotValidForNameContext { expected, presented } => other_name(expected, presented).into(),
        E::Revoked => "it was revoked".into(),
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => "it is not meant for servers".into(),
        // Keys that are too short are told in no other way.
        E::BadSignature => {
            "its signature is wrong, or made with a key that is too weak, such as RSA of less than 2,048 bits".into()
        }
        E::BadEncoding => "it cannot be read".into(),
        E::UnsupportedSignatureAlgorithmContext { .. } | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "it is signed with an algorithm that is not supported, such as SHA-1".into()
        }
        E::UnhandledCriticalExtension => "it has a critical extension that is not supported".into(),
        E::Other(error) if error.0.is::<TooManyShown>() => error.0.to_string().into(),
        E::Other(error) => describe_other(&error.to_string()).into(),
        _ => "it is not usable".into(),
    }
}

/// webpki's own reasons, by their names: short, and without addresses.
fn describe_other(reason: &str) -> String {
    match reason {
        "CaUsedAsEndEntity" => "it is an authority's own certificate (self-signed), not a server's".to_owned(),
        "UnsupportedCertVersion" => "it is of a version older than X.509 v3".to_owned(),
        _ => format!("it is not usable ({})", reason.chars().take(MAX_TEXT).collect::<String>()),
    }
}

/// The most names of a certificate that are told, and the most characters of each: the receiver chooses them.
const MAX_NAMES: usize = 5;
const MAX_TEXT: usize = 100;

fn other_name(expected: &ServerName<'_>, presented: &[String]) -> String {
    let expected = expected.to_str();
    if presented.is_empty() {
        return format!("it has no host names (subjectAltName), so it is not for {expected}");
    }
    let names: Vec<String> = presented.iter().take(MAX_NAMES).map(|name| plain_name(name)).collect();
    let more = if presented.len() > MAX_NAMES { " and others" } else { "" };
    format!("it is for another host name: for {}{more}, not for {expected}", names.join(", "))
}

/// `DnsName("example.com")` as `example.com`, without anything that a terminal or a page would take for more than text.
fn plain_name(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    let plain = inner.trim_matches('"').chars().take(MAX_TEXT);
    plain.map(|char| if char.is_ascii_graphic() { char } else { '?' }).collect()
}

fn date(time: UnixTime) -> String {
    let micros = i64::try_from(time.as_secs()).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    let mut text = String::new();
    if write!(text, "{}", Timestamp::from_micros(micros)).is_err() {
        return "a date that is out of range".to_owned();
    }
    text.split('T').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_certificate_are_told_in_bounds_and_as_plain_text() {
        let expected = ServerName::try_from("hooks.example").unwrap();
        let one = ["DnsName(\"other.example\")".to_owned()];
        assert_eq!(
            other_name(&expected, &one),
            "it is for another host name: for other.example, not for hooks.example"
        );
        let many: Vec<String> = (0..1_000).map(|number| format!("DnsName(\"\u{1b}[31m{number}\u{202e}\")")).collect();
        let text = other_name(&expected, &many);
        assert!(text.contains("?[31m0?") && text.contains(" and others") && text.len() < 700, "{text}");
        assert!(other_name(&expected, &[]).contains("no host names"));
        assert!(other_name(&expected, &["x".repeat(10_000)]).len() < 300);
    }

    #[test]
    fn every_alert_has_a_text_with_its_number() {
        for number in 0..=u8::MAX {
            let alert = AlertDescription::from(number);
            for asked in [false, true] {
                let text = describe_alert(alert, asked);
                let named = alert == AlertDescription::UnrecognisedName || text.contains(&format!("alert {number}, "));
                assert!(named && text.starts_with("the receiver "), "{text}");
            }
        }
    }

    #[test]
    fn dates_beyond_what_can_be_shown_do_no_harm() {
        assert_eq!(date(UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_577_836_800))), "2020-01-01");
        let _ = date(UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::MAX)));
    }
}
