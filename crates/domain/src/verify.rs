//! Verifying what [`crate::signature`] signs: the receiver's half of Standard Webhooks 1.0.0.
//!
//! Both sets of header names are read (`webhook-*` first, then `svix-*`), and both schemes (`v1` HMAC-SHA256, `v1a`
//! Ed25519). A request verifies if any signature in its header fits any of the keys, its timestamp is within the
//! tolerance, and not one byte of the body differs. Comparison takes the same time wherever a signature differs. Nothing
//! in a request can make this panic.

use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::signature::{ParseSecretError, Secret};
use crate::time::Timestamp;

/// How far the sender's clock may be from the receiver's.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// What a receiver verifies with. `Debug` shows no key.
#[derive(Clone)]
pub struct VerifyingKey(Key);

#[derive(Clone)]
enum Key {
    Hmac(ring::hmac::Key),
    Ed25519([u8; 32]),
}

/// Why a text is no verifying key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseKeyError {
    /// It begins like a secret, but is none.
    #[error(transparent)]
    Secret(#[from] ParseSecretError),
    /// It begins like a public key, but is none.
    #[error("must hold 32 bytes as standard base64 after whpk_")]
    Public,
    /// Another prefix, or none.
    #[error("must begin with whsec_ (the shared secret) or whpk_ (the public key)")]
    Prefix,
}

/// Why a request does not verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Neither `webhook-<name>` nor `svix-<name>` is there, or it is not text.
    #[error("header webhook-{0} is missing")]
    MissingHeader(&'static str),
    /// Not whole Unix seconds.
    #[error("the timestamp is not a number of seconds")]
    Timestamp,
    /// Signed longer ago than the tolerance: a replay, or a clock that is wrong.
    #[error("the timestamp is too old")]
    TooOld,
    /// Signed further in the future than the tolerance.
    #[error("the timestamp is in the future")]
    TooNew,
    /// No signature fits any key.
    #[error("no signature fits")]
    NoMatch,
}

/// The three headers of a signed request, as they were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedHeaders<'a> {
    /// `webhook-id`: the same for every attempt.
    pub id: &'a str,
    /// `webhook-timestamp`: Unix seconds of this attempt.
    pub timestamp: &'a str,
    /// `webhook-signature`: one or more signatures, separated by blanks.
    pub signature: &'a str,
}

impl<'a> SignedHeaders<'a> {
    /// Takes the headers from wherever `header` finds them by their lower-case names. One full set is taken, never a mix.
    pub fn find(header: impl Fn(&'static str) -> Option<&'a str>) -> Result<Self, VerifyError> {
        let set = |[id, timestamp, signature]: [&'static str; 3]| {
            Ok(Self {
                id: header(id).ok_or(VerifyError::MissingHeader("id"))?,
                timestamp: header(timestamp).ok_or(VerifyError::MissingHeader("timestamp"))?,
                signature: header(signature).ok_or(VerifyError::MissingHeader("signature"))?,
            })
        };
        let standard = set(["webhook-id", "webhook-timestamp", "webhook-signature"]);
        standard.or_else(|missing| set(["svix-id", "svix-timestamp", "svix-signature"]).map_err(|_| missing))
    }

    /// Whether `body` was signed by one of `keys`, and recently: `now` is the receiver's wall clock.
    pub fn verify(
        &self,
        keys: &[VerifyingKey],
        body: &[u8],
        now: Timestamp,
        tolerance: Duration,
    ) -> Result<(), VerifyError> {
        self.check_timestamp(now, tolerance)?;
        let text = [self.id.as_bytes(), b".", self.timestamp.as_bytes(), b".", body].concat();
        let fits = self.signature.split(' ').any(|signature| keys.iter().any(|key| key.fits(signature, &text)));
        if fits { Ok(()) } else { Err(VerifyError::NoMatch) }
    }

    fn check_timestamp(&self, now: Timestamp, tolerance: Duration) -> Result<(), VerifyError> {
        // Digits only: `parse` alone would take a sign.
        if !self.timestamp.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(VerifyError::Timestamp);
        }
        let sent: i64 = self.timestamp.parse().map_err(|_| VerifyError::Timestamp)?;
        let tolerance = i64::try_from(tolerance.as_secs()).unwrap_or(i64::MAX);
        match now.as_seconds().saturating_sub(sent) {
            age if age > tolerance => Err(VerifyError::TooOld),
            age if age < tolerance.saturating_neg() => Err(VerifyError::TooNew),
            _ => Ok(()),
        }
    }
}

impl VerifyingKey {
    /// Whether one `<scheme>,<base64>` is this key's signature of `text`.
    fn fits(&self, signature: &str, text: &[u8]) -> bool {
        let Some((scheme, encoded)) = signature.split_once(',') else { return false };
        let Ok(bytes) = BASE64.decode(encoded) else { return false };
        match &self.0 {
            // ring compares in constant time.
            Key::Hmac(key) => scheme == "v1" && ring::hmac::verify(key, text, &bytes).is_ok(),
            Key::Ed25519(key) => scheme == "v1a" && UnparsedPublicKey::new(&ED25519, key).verify(text, &bytes).is_ok(),
        }
    }
}

impl FromStr for VerifyingKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        if let Some(encoded) = text.strip_prefix(Secret::PUBLIC_PREFIX) {
            let bytes = BASE64.decode(encoded).map_err(|_| ParseKeyError::Public)?;
            return Ok(Self(Key::Ed25519(bytes.try_into().map_err(|_| ParseKeyError::Public)?)));
        }
        if let Some(encoded) = text.strip_prefix(Secret::HMAC_PREFIX) {
            // Parsed as a secret for its checks; the bytes are taken again because a secret does not give them away.
            text.parse::<Secret>()?;
            let bytes = BASE64.decode(encoded).map_err(|_| ParseSecretError::Base64)?;
            return Ok(Self(Key::Hmac(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &bytes))));
        }
        if text.starts_with(Secret::ED25519_PREFIX) {
            return text.parse::<Secret>()?.public_text().parse();
        }
        Err(ParseKeyError::Prefix)
    }
}

impl std::fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VerifyingKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const SECONDS: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const HMAC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const HMAC_SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    const SECRET: &str =
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    const ED25519_SIGNATURE: &str =
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn verify(key: &str, signature: &str, body: &[u8], now: i64) -> Result<(), VerifyError> {
        let headers = SignedHeaders { id: ID, timestamp: "1614265330", signature };
        headers.verify(&[key.parse().unwrap()], body, at(now), TOLERANCE)
    }

    #[test]
    fn the_published_vectors_verify() {
        let other = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        for (key, signature) in [
            (HMAC, HMAC_SIGNATURE),
            (other, "v1,O4Gjv1HqPqsMrjmczoggs/sWA8gZD0VyHG+fLh4+ktI="),
            (PUBLIC, ED25519_SIGNATURE),
            (SECRET, ED25519_SIGNATURE),
        ] {
            assert_eq!(verify(key, signature, BODY, SECONDS), Ok(()), "{key}");
        }
    }

    #[test]
    fn one_fitting_signature_among_others_is_enough() {
        let many = format!("v1,AAAA v2,??? nonsense {ED25519_SIGNATURE} {HMAC_SIGNATURE}");
        assert_eq!(verify(HMAC, &many, BODY, SECONDS), Ok(()));
        assert_eq!(verify(PUBLIC, &many, BODY, SECONDS), Ok(()));
    }

    #[test]
    fn a_changed_body_key_or_scheme_does_not_verify() {
        let other = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        assert_eq!(verify(HMAC, HMAC_SIGNATURE, b"{\"test\": 2432232315}", SECONDS), Err(VerifyError::NoMatch));
        assert_eq!(verify(other, HMAC_SIGNATURE, BODY, SECONDS), Err(VerifyError::NoMatch));
        assert_eq!(verify(HMAC, &HMAC_SIGNATURE.replace("v1,", "v1a,"), BODY, SECONDS), Err(VerifyError::NoMatch));
        assert_eq!(verify(PUBLIC, HMAC_SIGNATURE, BODY, SECONDS), Err(VerifyError::NoMatch));
    }

    #[test]
    fn the_timestamp_may_be_five_minutes_off_and_no_more() {
        for (now, expected) in [
            (SECONDS + 300, Ok(())),
            (SECONDS - 300, Ok(())),
            (SECONDS + 301, Err(VerifyError::TooOld)),
            (SECONDS - 301, Err(VerifyError::TooNew)),
        ] {
            assert_eq!(verify(HMAC, HMAC_SIGNATURE, BODY, now), expected, "{now}");
        }
    }

    #[test]
    fn a_timestamp_that_is_no_number_is_refused() {
        for timestamp in ["", "+1614265330", "-1", "1e9", "99999999999999999999"] {
            let headers = SignedHeaders { id: ID, timestamp, signature: HMAC_SIGNATURE };
            let keys = [HMAC.parse().unwrap()];
            assert_eq!(headers.verify(&keys, BODY, at(SECONDS), TOLERANCE), Err(VerifyError::Timestamp), "{timestamp}");
        }
    }

    #[test]
    fn either_set_of_names_is_found_but_never_a_mix() {
        let from = |names: &'static [&'static str]| {
            SignedHeaders::find(move |name| names.iter().find(|known| **known == name).copied())
        };
        assert_eq!(from(&["webhook-id", "webhook-timestamp", "webhook-signature"]).unwrap().id, "webhook-id");
        assert_eq!(from(&["svix-id", "svix-timestamp", "svix-signature"]).unwrap().id, "svix-id");
        assert_eq!(
            from(&["webhook-id", "svix-timestamp", "webhook-signature"]),
            Err(VerifyError::MissingHeader("timestamp"))
        );
        assert_eq!(from(&[]), Err(VerifyError::MissingHeader("id")));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for (text, error) in [
            ("", ParseKeyError::Prefix),
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", ParseKeyError::Prefix),
            ("whsec_AAAA", ParseKeyError::Secret(ParseSecretError::HmacLength)),
            ("whpk_AAAA", ParseKeyError::Public),
            ("whpk_***", ParseKeyError::Public),
            ("whsk_AAAA", ParseKeyError::Secret(ParseSecretError::Ed25519)),
        ] {
            assert_eq!(text.parse::<VerifyingKey>().unwrap_err(), error, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_request_can_make_it_panic(
            id in ".{0,40}", timestamp in ".{0,24}", signature in "(v1a?,)?.{0,80}( v1,[A-Za-z0-9+/=]{0,60})?",
            body: Vec<u8>, now: i64, tolerance: u64,
        ) {
            let headers = SignedHeaders { id: &id, timestamp: &timestamp, signature: &signature };
            let keys = [HMAC.parse().unwrap(), PUBLIC.parse().unwrap()];
            let result = headers.verify(&keys, &body, Timestamp::from_micros(now), Duration::from_secs(tolerance));
            prop_assert!(result.is_err(), "nobody forges a signature by chance");
        }

        #[test]
        fn a_request_with_a_numeric_timestamp_cannot_make_it_panic(seconds: u64, now: i64, tolerance: u64) {
            let timestamp = seconds.to_string();
            let headers = SignedHeaders { id: ID, timestamp: &timestamp, signature: "v1,AAAA" };
            let _ = headers.verify(&[], BODY, Timestamp::from_micros(now), Duration::from_secs(tolerance));
        }

        #[test]
        fn any_text_is_a_key_or_refused_without_a_panic(text in "(whsec_|whpk_|whsk_)?.{0,100}") {
            let _ = text.parse::<VerifyingKey>();
        }
    }
}
