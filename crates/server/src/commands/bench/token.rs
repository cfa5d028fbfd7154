//! The token of an organization, made from a server's JWT secret (rest-contract §4).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use postrider_domain::clock::{Clock as _, SystemClock};

/// Whom the benchmark's applications belong to.
pub(super) const ORGANIZATION: &str = "org_postrider_bench";
const VALID_SECONDS: i64 = 24 * 3_600;

/// An HS256 token that is valid for a day.
pub(super) fn organization(secret: &str) -> String {
    sign(secret, SystemClock::new().wall().as_seconds())
}

fn sign(secret: &str, now: i64) -> String {
    let header = BASE64.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
    // A minute back, for a server whose clock is behind.
    let claims = serde_json::json!({
        "iss": "svix-server", "sub": ORGANIZATION, "iat": now - 60, "nbf": now - 60, "exp": now + VALID_SECONDS,
    });
    let text = format!("{header}.{}", BASE64.encode(claims.to_string()));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let signature = BASE64.encode(ring::hmac::sign(&key, text.as_bytes()));
    format!("{text}.{signature}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_three_parts_and_its_signature_covers_the_first_two() {
        let token = sign("a secret", 1_700_000_000);
        let (text, signature) = token.rsplit_once('.').unwrap();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"a secret");
        ring::hmac::verify(&key, text.as_bytes(), &BASE64.decode(signature).unwrap()).unwrap();
        let claims: serde_json::Value =
            serde_json::from_slice(&BASE64.decode(text.split_once('.').unwrap().1).unwrap()).unwrap();
        assert_eq!(claims["sub"], ORGANIZATION);
        assert_eq!(claims["exp"], 1_700_000_000 + VALID_SECONDS);
    }
}
