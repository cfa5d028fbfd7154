//! API keys: opaque, stored only as a hash.

use async_trait::async_trait;
use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::KeyId;
use postrider_domain::time::Timestamp;

use crate::{StoreError, WriteError};

/// SHA-256 of a key's text. The text has 256 random bits, so no salt and no slow hash are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash(pub [u8; 32]);

/// An API key as the store knows it: everything but the key itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id.
    pub id: KeyId,
    /// The hash of its text.
    pub hash: KeyHash,
    /// The first characters of its text, so that people recognise it.
    pub hint: String,
    /// What it is for, for people.
    pub name: String,
    /// The environment it belongs to.
    pub environment: EnvironmentId,
    /// What it may do; at present always `["*"]`, all operations of its environment.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, give or take a minute.
    pub last_used_at: Option<Timestamp>,
}

/// Operations on keys.
#[async_trait]
pub trait ApiKeys {
    /// Adds a key.
    async fn create_api_key(&self, key: ApiKey) -> Result<(), WriteError>;
    /// The key with this hash, expired or not.
    async fn api_key(&self, hash: &KeyHash) -> Result<Option<ApiKey>, StoreError>;
    /// All keys, by id.
    async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError>;
    /// Removes a key.
    async fn revoke_api_key(&self, id: KeyId) -> Result<(), WriteError>;
    /// Notes when keys were last used. Keys that are gone are skipped.
    async fn touch_api_keys(&self, used: Vec<(KeyHash, Timestamp)>) -> Result<(), StoreError>;
}
