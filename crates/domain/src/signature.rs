//! Signing, as Standard Webhooks 1.0.0 defines it.
//!
//! Signed are the bytes `<id>.<timestamp>.<body>`, the body exactly as it is sent. `v1` is HMAC-SHA256 with a `whsec_`
//! secret, `v1a` is Ed25519 with a `whsk_` key, shown to others only as its public half `whpk_`. During a rotation every
//! unexpired key signs, the current one first, then the old ones in the order in which they expire.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::signature::KeyPair as _;

use crate::entropy::Entropy;
use crate::ids::MessageId;
use crate::time::Timestamp;

crate::limits! {
    in "Secrets";
    /// Old secrets that sign beside the current one
    pub const MAX_OLD_KEYS: usize = 10, "secrets", beyond "400";
    /// A symmetric secret, without its prefix and decoded
    pub const MAX_SECRET_BYTES: usize = 75, "bytes", beyond "422";
}

/// Which kind of secret is generated when the caller brings none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretKind {
    /// HMAC-SHA256, signature scheme `v1`.
    #[default]
    Hmac256,
    /// Ed25519, signature scheme `v1a`.
    Ed25519,
}

/// An endpoint's secret, ready to sign. `Debug` shows no key.
#[derive(Clone)]
pub struct Secret {
    text: Box<str>,
    key: Key,
}

#[derive(Clone)]
enum Key {
    Hmac(ring::hmac::Key),
    Ed25519(std::sync::Arc<ring::signature::Ed25519KeyPair>),
}

/// Why a text is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseSecretError {
    /// Another prefix, or none.
    #[error("must begin with whsec_ (HMAC-SHA256) or whsk_ (Ed25519)")]
    Prefix,
    /// Not standard base64.
    #[error("must be standard base64 after its prefix")]
    Base64,
    /// Too short or too long for HMAC.
    #[error("must hold 24 to {MAX_SECRET_BYTES} bytes after its prefix")]
    HmacLength,
    /// Not a seed followed by its public key.
    #[error("must hold the 64 bytes of an Ed25519 seed and its public key")]
    Ed25519,
}

impl Secret {
    /// What a symmetric secret begins with.
    pub const HMAC_PREFIX: &'static str = "whsec_";
    /// What an asymmetric secret begins with.
    pub const ED25519_PREFIX: &'static str = "whsk_";
    /// What the public half of an asymmetric secret begins with.
    pub const PUBLIC_PREFIX: &'static str = "whpk_";

    /// A new secret: 24 random bytes for HMAC, a random seed for Ed25519.
    pub fn generate(kind: SecretKind, entropy: &dyn Entropy) -> Self {
        match kind {
            SecretKind::Hmac256 => {
                let mut bytes = [0u8; 24];
                entropy.fill(&mut bytes);
                Self::hmac(format!("{}{}", Self::HMAC_PREFIX, BASE64.encode(bytes)).into(), &bytes)
            }
            SecretKind::Ed25519 => loop {
                let mut seed = [0u8; 32];
                entropy.fill(&mut seed);
                // Every seed is a key; the loop only spares an unreachable error.
                if let Ok(pair) = ring::signature::Ed25519KeyPair::from_seed_unchecked(&seed) {
                    let bytes = [&seed[..], pair.public_key().as_ref()].concat();
                    let text = format!("{}{}", Self::ED25519_PREFIX, BASE64.encode(bytes)).into();
                    return Self { text, key: Key::Ed25519(pair.into()) };
                }
            },
        }
    }

    fn hmac(text: Box<str>, bytes: &[u8]) -> Self {
        Self { text, key: Key::Hmac(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, bytes)) }
    }

    /// The secret as it was set: `whsec_…` or `whsk_…`. For the store.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What a receiver needs to verify: a symmetric secret as it was set, of an asymmetric one the public half.
    pub fn public_text(&self) -> String {
        match &self.key {
            Key::Hmac(_) => self.text.to_string(),
            Key::Ed25519(pair) => format!("{}{}", Self::PUBLIC_PREFIX, BASE64.encode(pair.public_key().as_ref())),
        }
    }

    /// Appends `v1,<base64>` or `v1a,<base64>` over the parts of the signed text to `header`.
    fn sign_into(&self, id: &str, timestamp: &str, body: &[u8], header: &mut String) {
        match &self.key {
            Key::Hmac(key) => {
                let mut context = ring::hmac::Context::with_key(key);
                for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
                    context.update(part);
                }
                header.push_str("v1,");
                BASE64.encode_string(context.sign().as_ref(), header);
            }
            Key::Ed25519(pair) => {
                let text = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
                header.push_str("v1a,");
                BASE64.encode_string(pair.sign(&text).as_ref(), header);
            }
        }
    }
}

impl FromStr for Secret {
    type Err = ParseSecretError;

    fn from_str(text: &str) -> Result<Self, ParseSecretError> {
        Self::decode(text, |bytes| (24..=MAX_SECRET_BYTES).contains(&bytes))
    }
}

impl Secret {
    /// A secret that a store kept: of any length, since the rule may have been another one when it was taken. Fails only
    /// if nothing can be signed with it.
    pub fn from_trusted(text: &str) -> Result<Self, ParseSecretError> {
        Self::decode(text, |_| true)
    }

    fn decode(text: &str, is_legal: impl Fn(usize) -> bool) -> Result<Self, ParseSecretError> {
        if let Some(encoded) = text.strip_prefix(Self::HMAC_PREFIX) {
            let bytes = BASE64.decode(encoded).map_err(|_| ParseSecretError::Base64)?;
            if !is_legal(bytes.len()) {
                return Err(ParseSecretError::HmacLength);
            }
            return Ok(Self::hmac(text.into(), &bytes));
        }
        let encoded = text.strip_prefix(Self::ED25519_PREFIX).ok_or(ParseSecretError::Prefix)?;
        let bytes = BASE64.decode(encoded).map_err(|_| ParseSecretError::Base64)?;
        let (seed, public) = bytes.split_at_checked(32).ok_or(ParseSecretError::Ed25519)?;
        let pair = ring::signature::Ed25519KeyPair::from_seed_and_public_key(seed, public)
            .map_err(|_| ParseSecretError::Ed25519)?;
        Ok(Self { text: text.into(), key: Key::Ed25519(pair.into()) })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Secret {}

/// An old key of an endpoint and the instant until which it still signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldKey {
    /// The former secret.
    pub secret: Secret,
    /// From this instant on it no longer signs.
    pub expires_at: Timestamp,
}

/// All keys of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKeys {
    /// The key in force.
    pub current: Secret,
    /// Former keys, ascending by expiry.
    pub old: Vec<OldKey>,
}

/// Too many old keys are still valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "at most {MAX_OLD_KEYS} old keys may be valid at a time: wait until one expires, or rotate with gracePeriodSeconds 0, which adds none"
)]
pub struct TooManyKeys;

impl SigningKeys {
    /// A single key.
    pub fn new(current: Secret) -> Self {
        Self { current, old: Vec::new() }
    }

    /// Makes `next` the current key; the former one keeps signing until `grace_until` (not at all if that is `now`). No key
    /// signs twice: if `next` is the current one nothing changes, and if it is an old one it is that no longer.
    pub fn rotate(&mut self, next: Secret, grace_until: Timestamp, now: Timestamp) -> Result<(), TooManyKeys> {
        if next == self.current {
            return Ok(());
        }
        let mut old: Vec<OldKey> =
            self.old.iter().filter(|key| key.expires_at > now && key.secret != next).cloned().collect();
        if grace_until > now && old.len() >= MAX_OLD_KEYS {
            return Err(TooManyKeys);
        }
        let secret = std::mem::replace(&mut self.current, next);
        if grace_until > now {
            let place = old.partition_point(|key| key.expires_at <= grace_until);
            old.insert(place, OldKey { secret, expires_at: grace_until });
        }
        self.old = old;
        Ok(())
    }

    /// The value of the signature header for one attempt: every valid key's signature, separated by blanks.
    /// `timestamp` is Unix seconds in decimal, exactly as sent in its header.
    pub fn sign(&self, id: &MessageId, timestamp: &str, body: &[u8], now: Timestamp) -> String {
        self.sign_text(&id.to_string(), timestamp, body, now)
    }

    /// The same for a caller who has the text of the id already: writing it takes as long as the rest of the header.
    pub fn sign_text(&self, id: &str, timestamp: &str, body: &[u8], now: Timestamp) -> String {
        let mut header = String::with_capacity(96);
        self.current.sign_into(id, timestamp, body, &mut header);
        for key in self.old.iter().filter(|key| key.expires_at > now) {
            header.push(' ');
            key.secret.sign_into(id, timestamp, body, &mut header);
        }
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;

    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const ED25519: &str =
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";

    fn signed(secret: &str) -> String {
        let mut header = String::new();
        secret.parse::<Secret>().unwrap().sign_into(ID, "1614265330", BODY, &mut header);
        header
    }

    #[test]
    fn the_published_vectors_are_met() {
        for (secret, signature) in [
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
            ("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "v1,O4Gjv1HqPqsMrjmczoggs/sWA8gZD0VyHG+fLh4+ktI="),
            (ED25519, "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="),
        ] {
            assert_eq!(signed(secret), signature);
        }
    }

    #[test]
    fn an_asymmetric_secret_shows_only_its_public_half() {
        let secret: Secret = ED25519.parse().unwrap();
        assert_eq!(secret.public_text(), "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=");
        assert!(!format!("{secret:?}").contains("6Xb"));
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let short = format!("whsec_{}", BASE64.encode([1u8; 23]));
        let long = format!("whsec_{}", BASE64.encode([1u8; 76]));
        let mismatched = format!("whsk_{}", BASE64.encode([1u8; 64]));
        for (text, error) in [
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", ParseSecretError::Prefix),
            ("whsec_***", ParseSecretError::Base64),
            (short.as_str(), ParseSecretError::HmacLength),
            (long.as_str(), ParseSecretError::HmacLength),
            ("whsk_AAAA", ParseSecretError::Ed25519),
            (mismatched.as_str(), ParseSecretError::Ed25519),
        ] {
            assert_eq!(text.parse::<Secret>().unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn a_generated_secret_reads_back() {
        let entropy = SeededEntropy::new(3);
        for kind in [SecretKind::Hmac256, SecretKind::Ed25519] {
            let secret = Secret::generate(kind, &entropy);
            assert_eq!(secret.as_str().parse::<Secret>(), Ok(secret.clone()));
        }
    }

    #[test]
    fn a_rotated_key_signs_until_its_grace_ends() {
        let entropy = SeededEntropy::new(4);
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let id = MessageId::new(at(1), &entropy);
        let mut keys = SigningKeys::new(Secret::generate(SecretKind::Hmac256, &entropy));
        keys.rotate(Secret::generate(SecretKind::Ed25519, &entropy), at(100), at(10)).unwrap();
        keys.rotate(Secret::generate(SecretKind::Hmac256, &entropy), at(50), at(11)).unwrap();
        let schemes = |now| -> Vec<String> {
            let header = keys.sign(&id, "12", b"{}", at(now));
            header.split(' ').map(|part| part.split(',').next().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(schemes(12), ["v1", "v1a", "v1"], "current first, then by expiry");
        assert_eq!(schemes(50), ["v1", "v1"]);
        assert_eq!(schemes(100), ["v1"]);
    }

    #[test]
    fn the_eleventh_quick_rotation_is_refused() {
        let entropy = SeededEntropy::new(5);
        let at = Timestamp::from_micros;
        let mut keys = SigningKeys::new(Secret::generate(SecretKind::Hmac256, &entropy));
        for turn in 0..10 {
            keys.rotate(Secret::generate(SecretKind::Hmac256, &entropy), at(1_000 + turn), at(10)).unwrap();
        }
        assert_eq!(keys.rotate(Secret::generate(SecretKind::Hmac256, &entropy), at(2_000), at(10)), Err(TooManyKeys));
        let without_grace = keys.rotate(Secret::generate(SecretKind::Hmac256, &entropy), at(10), at(10));
        assert_eq!(without_grace, Ok(()), "adds no old key");
        assert_eq!(keys.old.len(), MAX_OLD_KEYS);
        assert!(keys.rotate(Secret::generate(SecretKind::Hmac256, &entropy), at(2_000), at(1_000)).is_ok());
    }

    #[test]
    fn a_key_that_is_there_already_does_not_sign_twice() {
        let entropy = SeededEntropy::new(6);
        let at = Timestamp::from_micros;
        let [first, second] = [(); 2].map(|()| Secret::generate(SecretKind::Hmac256, &entropy));
        let mut keys = SigningKeys::new(first.clone());
        keys.rotate(first.clone(), at(1_000), at(10)).unwrap();
        assert_eq!(keys, SigningKeys::new(first.clone()));
        keys.rotate(second.clone(), at(1_000), at(10)).unwrap();
        keys.rotate(first.clone(), at(1_000), at(11)).unwrap();
        assert_eq!((&keys.current, keys.old.len(), &keys.old[0].secret), (&first, 1, &second));
    }
}
