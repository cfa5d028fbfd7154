//! The settings of the sections `auth` and `signing`.

use std::fmt;

use postrider_domain::signature::SecretKind;

/// The secret that tokens are signed with, used as raw bytes. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(transparent)]
pub struct JwtSecret(pub String);

impl fmt::Debug for JwtSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JwtSecret(…)")
    }
}

postrider_domain::options! {
    /// Who may use the API.
    pub struct AuthOptions in "auth" {
        /// Accept JSON web tokens that are signed with this secret (HS256), beside API keys. None are accepted without it.
        pub jwt_secret: Option<JwtSecret> = None,
    }
}

postrider_domain::options! {
    /// How requests to endpoints are signed.
    pub struct SigningOptions in "signing" {
        /// The kind of secret that an endpoint gets if its creator brings none: `hmac256` or `ed25519`.
        pub default_kind: SecretKind = SecretKind::Hmac256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_not_shown() {
        let options = AuthOptions { jwt_secret: Some(JwtSecret("hunter2".to_owned())) };
        assert!(!format!("{options:?}").contains("hunter2"));
        assert_eq!(AuthOptions::reference()[0].default, None);
    }
}
