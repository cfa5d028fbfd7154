//! API keys.

use async_trait::async_trait;
use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::{Id as _, KeyId};
use postrider_domain::time::Timestamp;
use postrider_store::{ApiKey, ApiKeys, KeyHash, StoreError, WriteError};
use rusqlite::{Row, params};

use crate::engine::askers::Whose;
use crate::engine::decode::{Columns, SqlError, all, encode_json, first};
use crate::engine::tx::{Abort, taken};
use crate::store::SqliteStore;
use crate::write::owners::environment_number;

#[async_trait]
impl ApiKeys for SqliteStore {
    async fn create_api_key(&self, key: ApiKey) -> Result<(), WriteError> {
        self.writer
            .run(Whose::from(&key.environment), move |tx| {
                let environment = environment_number(tx, &key.environment)?;
                tx.prepare_cached(
                    "INSERT INTO api_key (id, hash, hint, name, environment_no, scopes, created_at, expires_at,
                                          last_used_at)
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                )?
                .execute(params![
                    key.id.ksuid().as_bytes(),
                    key.hash.0,
                    key.hint,
                    key.name,
                    environment,
                    encode_json(&key.scopes)?,
                    key.created_at.as_micros(),
                    key.expires_at.map(Timestamp::as_micros),
                    key.last_used_at.map(Timestamp::as_micros),
                ])
                .map_err(taken)?;
                Ok(())
            })
            .await
    }

    async fn api_key(&self, hash: &KeyHash) -> Result<Option<ApiKey>, StoreError> {
        let hash = *hash;
        self.readers
            .run(move |connection| {
                let mut statement =
                    connection.prepare_cached(&format!("SELECT {COLUMNS} FROM {TABLES} WHERE hash = ?"))?;
                first(statement.query([hash.0])?, decode)
            })
            .await
    }

    async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        self.lists
            .run(|connection| {
                let mut statement =
                    connection.prepare_cached(&format!("SELECT {COLUMNS} FROM {TABLES} ORDER BY api_key.id"))?;
                all(statement.query([])?, decode)
            })
            .await
    }

    async fn revoke_api_key(&self, id: KeyId) -> Result<(), WriteError> {
        self.writer
            .run(Whose::Process, move |tx| {
                let mut statement = tx.prepare_cached("DELETE FROM api_key WHERE id = ?")?;
                match statement.execute([id.ksuid().as_bytes()])? {
                    0 => Err(Abort::Refused(WriteError::NotFound)),
                    _ => Ok(()),
                }
            })
            .await
    }

    async fn touch_api_keys(&self, used: Vec<(KeyHash, Timestamp)>) -> Result<(), StoreError> {
        self.writer
            .run(Whose::Process, move |tx| {
                let mut statement = tx.prepare_cached("UPDATE api_key SET last_used_at = ? WHERE hash = ?")?;
                for (hash, at) in used {
                    statement.execute(params![at.as_micros(), hash.0])?;
                }
                Ok::<_, Abort<StoreError>>(())
            })
            .await
    }
}

const TABLES: &str = "api_key JOIN environment ON environment.no = environment_no";

/// What [`decode`] reads from [`TABLES`]. The hint comes first, because errors name a row by its first column.
const COLUMNS: &str = "hint, api_key.id, hash, name, environment.id AS environment, scopes, created_at, expires_at,
     last_used_at";

fn decode(row: &Row<'_>) -> Result<ApiKey, SqlError> {
    let columns = Columns::new(row, "api_key");
    let environment: String = columns.get("environment")?;
    Ok(ApiKey {
        id: columns.id("id")?,
        hash: KeyHash(columns.get("hash")?),
        hint: columns.get("hint")?,
        name: columns.get("name")?,
        environment: EnvironmentId::parse(&environment)
            .ok_or_else(|| columns.inconsistent("environment_no", &"its environment has no legal id"))?,
        scopes: columns.json("scopes")?,
        created_at: columns.instant("created_at")?,
        expires_at: columns.maybe_instant("expires_at")?,
        last_used_at: columns.maybe_instant("last_used_at")?,
    })
}
