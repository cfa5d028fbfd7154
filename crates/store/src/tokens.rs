//! Tokens of applications: the secret that signs those made here, and which ones were ended before their time.
//!
//! Tokens themselves are not kept. One is ended by a rule: tokens of an application (or only those of a session) that were
//! issued before an instant stop working at another. All of an application's end when it is deleted.

use async_trait::async_trait;
use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::ApplicationId;
use postrider_domain::time::Timestamp;

postrider_domain::limits! {
    in "Tokens of applications";
    /// Rules that end tokens of one application: one for each session that was ended, and for each end that lies ahead
    pub const MAX_TOKEN_RULES: usize = 20_000, "rules", beyond "400 `limit_reached`; ending all tokens of the application takes the place of all others";
}

use crate::{ApplicationKey, Once, StoreError, WriteError, Written};

/// Ends tokens of an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenExpiry {
    /// Only tokens of these sessions; all tokens if there are none.
    pub sessions: Vec<String>,
    /// Only tokens issued before this instant.
    pub issued_before: Timestamp,
    /// They are refused from this instant on.
    pub refused_from: Timestamp,
}

/// A token, as far as it matters for being ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedToken {
    /// The environment that its application belongs to.
    pub environment: EnvironmentId,
    /// Its application.
    pub application: ApplicationId,
    /// The session that it was issued for.
    pub session: Option<String>,
    /// When it was issued.
    pub issued_at: Timestamp,
}

/// Operations on tokens.
#[async_trait]
pub trait Tokens {
    /// The secret that signs tokens made by this store's servers: the first candidate that was ever offered.
    async fn token_secret(&self, candidate: [u8; 32]) -> Result<[u8; 32], StoreError>;

    /// Ends tokens. What was ended earlier stays so.
    async fn expire_tokens(
        &self,
        application: ApplicationKey,
        expiry: TokenExpiry,
        once: Option<Once<()>>,
        now: Timestamp,
    ) -> Result<Written<()>, WriteError>;

    /// Whether a token is no good at `now`: it was ended, or its application is not there, or not there any more.
    async fn token_is_expired(&self, token: &IssuedToken, now: Timestamp) -> Result<bool, StoreError>;
}
