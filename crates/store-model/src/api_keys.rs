//! API keys.

use async_trait::async_trait;
use postrider_domain::ids::KeyId;
use postrider_domain::time::Timestamp;
use postrider_store::{ApiKey, ApiKeys, KeyHash, StoreError, WriteError};

use crate::ModelStore;

#[async_trait]
impl ApiKeys for ModelStore {
    async fn create_api_key(&self, key: ApiKey) -> Result<(), WriteError> {
        self.try_write(|state| {
            if state.api_keys.iter().any(|known| known.id == key.id || known.hash == key.hash) {
                return Err(WriteError::Conflict);
            }
            state.environment(&key.environment);
            state.api_keys.push(key);
            Ok(())
        })
    }

    async fn api_key(&self, hash: &KeyHash) -> Result<Option<ApiKey>, StoreError> {
        self.read(|state| state.api_keys.iter().find(|key| key.hash == *hash).cloned())
    }

    async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        self.read(|state| {
            let mut keys = state.api_keys.clone();
            keys.sort_by_key(|key| key.id);
            keys
        })
    }

    async fn revoke_api_key(&self, id: KeyId) -> Result<(), WriteError> {
        self.try_write(|state| {
            let before = state.api_keys.len();
            state.api_keys.retain(|key| key.id != id);
            if state.api_keys.len() == before { Err(WriteError::NotFound) } else { Ok(()) }
        })
    }

    async fn touch_api_keys(&self, used: Vec<(KeyHash, Timestamp)>) -> Result<(), StoreError> {
        self.write(|state| {
            for (hash, at) in used {
                for key in state.api_keys.iter_mut().filter(|key| key.hash == hash) {
                    key.last_used_at = Some(at);
                }
            }
        })
    }
}
