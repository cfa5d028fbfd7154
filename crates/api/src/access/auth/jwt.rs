//! Tokens that an operator signs himself: JSON Web Tokens with HMAC-SHA256 (RFC 7519, RFC 7515), and nothing else of
//! that family: one algorithm, one secret, no key in a header is ever looked at.
//!
//! `jsonwebtoken` was considered: without its own cryptography it wants a provider that is installed for the whole
//! process, and it reads the system clock by itself. Of what it does, HS256 needs the few lines below.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use postrider_domain::time::Timestamp;
use ring::hmac;

use super::LEEWAY_SECONDS;

/// The secret, ready to verify and to sign.
pub(super) struct Verifier(hmac::Key);

/// The token is malformed, or not signed with the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotSigned;

/// The header of what is signed here.
pub(super) const HEADER: &str = r#"{"typ":"JWT","alg":"HS256"}"#;

/// The characters of a signature.
pub(super) const SIGNATURE_CHARS: usize = 43;

/// Whether a token has the header of those that are signed here. Others may have it, too.
pub(super) fn may_be_made_here(token: &str) -> bool {
    token.split_once('.').is_some_and(|(header, _)| header == BASE64.encode(HEADER))
}

#[derive(serde::Deserialize)]
struct Header {
    alg: String,
    /// Extensions that must be understood (RFC 7515 §4.1.11); none are.
    crit: Option<serde::de::IgnoredAny>,
}

/// What a token says.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
pub(super) struct Claims {
    /// Whom it is for: an environment, or with `org` an application.
    pub(super) sub: Option<String>,
    /// The environment of the application.
    pub(super) org: Option<String>,
    /// The feature flags of the application's user.
    #[serde(default)]
    pub(super) feature_flags: Vec<String>,
    /// What the application's user may do; everything if it is missing.
    pub(super) capabilities: Option<Vec<String>>,
    /// Whether the application's user may only look.
    #[serde(default)]
    pub(super) read_only: bool,
    /// The session that the token was issued for.
    pub(super) session_id: Option<String>,
    /// When it is valid.
    #[serde(flatten)]
    pub(super) validity: Validity,
}

/// When a token is valid: seconds since the epoch, which RFC 7519 lets have a fraction.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Deserialize)]
pub(super) struct Validity {
    iat: Option<f64>,
    nbf: Option<f64>,
    exp: Option<f64>,
}

impl Validity {
    /// When the token was issued: the beginning of time if it does not say.
    pub(super) fn issued_at(&self) -> Timestamp {
        // Saturates: what is out of range was issued never, or always.
        Timestamp::from_micros((self.iat.unwrap_or(0.0) * 1e6) as i64)
    }

    /// Whether the token is valid by the wall clock.
    pub(super) fn holds_at(&self, wall: Timestamp) -> bool {
        let (now, leeway) = (wall.as_seconds() as f64, f64::from(LEEWAY_SECONDS));
        let begun = |at: Option<f64>| at.is_none_or(|at| at <= now + leeway);
        begun(self.iat) && begun(self.nbf) && self.exp.is_none_or(|exp| exp > now - leeway)
    }
}

impl Verifier {
    /// Verifies with these raw bytes; `None` if there are none, because then anybody could sign.
    pub(super) fn new(secret: &[u8]) -> Option<Self> {
        (!secret.is_empty()).then(|| Self(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// A token that says `claims`.
    pub(super) fn sign(&self, claims: &serde_json::Value) -> String {
        let text = format!("{}.{}", BASE64.encode(HEADER), BASE64.encode(claims.to_string()));
        let signature = BASE64.encode(hmac::sign(&self.0, text.as_bytes()));
        format!("{text}.{signature}")
    }

    /// The claims of a token with a good signature. Whether they hold at present is another question.
    pub(super) fn claims(&self, token: &str) -> Result<Claims, NotSigned> {
        let (text, signature) = token.rsplit_once('.').ok_or(NotSigned)?;
        let (header, claims) = text.split_once('.').ok_or(NotSigned)?;
        let header: Header = decode(header)?;
        if header.alg != "HS256" || header.crit.is_some() {
            return Err(NotSigned);
        }
        let signature = BASE64.decode(signature).map_err(|_| NotSigned)?;
        hmac::verify(&self.0, text.as_bytes(), &signature).map_err(|_| NotSigned)?;
        decode(claims)
    }
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, NotSigned> {
    let json = BASE64.decode(part).map_err(|_| NotSigned)?;
    serde_json::from_slice(&json).map_err(|_| NotSigned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_767_323_045;

    fn token(header: &str, claims: &str) -> String {
        let text = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        format!("{text}.{}", BASE64.encode(hmac::sign(&key, text.as_bytes())))
    }

    const HS256: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

    #[test]
    fn the_example_of_rfc_7515_is_verified() {
        // Appendix A.1: the key is given as base64url.
        let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0\
                     dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let claims = Verifier::new(&BASE64.decode(key).unwrap()).unwrap().claims(token).unwrap();
        assert_eq!(claims.validity.exp, Some(1_300_819_380.0));
    }

    #[test]
    fn an_empty_secret_verifies_nothing() {
        assert!(Verifier::new(b"").is_none());
    }

    #[test]
    fn only_hs256_with_the_right_secret_is_accepted() {
        let verifier = Verifier::new(b"secret").unwrap();
        let good = token(HS256, r#"{"sub":"org_x"}"#);
        assert_eq!(verifier.claims(&good).unwrap().sub.as_deref(), Some("org_x"));
        assert!(Verifier::new(b"other").unwrap().claims(&good).is_err());
        let (text, _) = good.rsplit_once('.').unwrap();
        for bad in [
            String::new(),
            "..".to_owned(),
            format!("{text}."),
            format!("{good}."),
            format!("{good}="),
            token(r#"{"alg":"none"}"#, "{}"),
            token(r#"{"alg":"HS512"}"#, "{}"),
            token(r#"{"alg":"HS256","crit":["b64"]}"#, "{}"),
            token(HS256, "[]"),
            token(HS256, r#"{"exp":"soon"}"#),
        ] {
            assert_eq!(verifier.claims(&bad), Err(NotSigned), "{bad}");
        }
    }

    #[test]
    fn times_hold_with_fifteen_minutes_of_leeway() {
        let holds = |claims: String| {
            let claims = Verifier::new(b"secret").unwrap().claims(&token(HS256, &claims)).unwrap();
            claims.validity.holds_at(Timestamp::from_micros(NOW * 1_000_000))
        };
        assert!(holds("{}".to_owned()));
        for (name, seconds, want) in [
            ("exp", -899, true),
            ("exp", -900, false),
            ("nbf", 900, true),
            ("nbf", 901, false),
            ("iat", 900, true),
            ("iat", 901, false),
        ] {
            assert_eq!(holds(format!(r#"{{"{name}":{}.0}}"#, NOW + seconds)), want, "{name} {seconds}");
        }
        assert!(!holds(r#"{"exp":-1e300}"#.to_owned()));
        assert!(holds(r#"{"exp":1e300}"#.to_owned()));
    }
}
