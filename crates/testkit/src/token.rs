//! Tokens as an operator would make them from `auth.jwt_secret` (HS256).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use postrider_domain::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

/// Ten years, as tokens for an environment have it.
const LIFETIME_SECONDS: i64 = 10 * 365 * 86_400;

/// The claims of a token for the environment `org`.
pub fn environment_claims(org: &str) -> Value {
    let now = SystemClock::new().wall().as_seconds();
    json!({ "sub": org, "iss": "testkit", "iat": now, "nbf": now, "exp": now + LIFETIME_SECONDS })
}

/// The claims of a token for one application of the environment `org`.
pub fn application_claims(org: &str, application: &str) -> Value {
    let mut claims = environment_claims(org);
    claims["sub"] = application.into();
    claims["org"] = org.into();
    claims
}

/// Signs claims with `secret`.
pub fn sign(claims: &Value, secret: &str) -> String {
    let header = BASE64.encode(json!({ "typ": "JWT", "alg": "HS256" }).to_string());
    let text = format!("{header}.{}", BASE64.encode(claims.to_string()));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    format!("{text}.{}", BASE64.encode(ring::hmac::sign(&key, text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_signed_over_its_header_and_claims() {
        let token = sign(&environment_claims("org_x"), "secret");
        let (text, signature) = token.rsplit_once('.').unwrap();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"secret");
        ring::hmac::verify(&key, text.as_bytes(), &BASE64.decode(signature).unwrap()).unwrap();
    }
}
