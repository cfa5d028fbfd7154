//! The settings of the sections `auth` and `signing`.

use postrider_domain::settings::SecretText;
use postrider_domain::signature::SecretKind;

postrider_domain::options! {
    /// Who may use the API.
    pub struct AuthOptions in "auth" {
        /// Accept JSON web tokens that are signed with this secret (HS256), in addition to API keys. None are accepted without it.
        /// Its bytes are used as they are, and there must be 32 or more: `openssl rand -hex 32` makes a good one.
        /// `sub` is the environment (`org_…`) that a token is for; or it is an application (`app_…`), and `org` its environment.
        /// A token has at most 21,504 bytes. Its `exp`, `nbf` and `iat` are compared with the clock with 15 minutes of leeway.
        pub jwt_secret: Option<SecretText> = None,
        /// Take secrets of fewer than 32 bytes, too. They can be guessed, and who guesses one may do everything: only for
        /// trying things out.
        pub allow_short_secret: bool = false,
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
        let secret = SecretText::try_new("hunter2".to_owned()).unwrap();
        let options = AuthOptions { jwt_secret: Some(secret), ..AuthOptions::default() };
        assert!(!format!("{options:?}").contains("hunter2"));
        let setting = &AuthOptions::reference()[0];
        assert!(setting.is_secret() && setting.default.is_none());
    }
}
