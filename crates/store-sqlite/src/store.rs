//! The store itself, and the contract as a whole: health, observers, closing.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use async_trait::async_trait;
use postrider_store::{Observer, Observers, Store, StoreError};
use rusqlite::OptionalExtension as _;

use crate::engine::askers::Whose;
use crate::engine::lock::Lock;
use crate::engine::readers::Readers;
use crate::engine::tx::Abort;
use crate::write::progress::Progress;
use crate::write::writer::Writer;

/// A store in one SQLite file.
pub struct SqliteStore {
    pub(crate) writer: Writer,
    pub(crate) readers: Readers,
    pub(crate) lists: Readers,
    pub(crate) observers: Arc<Observers>,
    /// Where removing what is kept no longer is.
    pub(crate) progress: tokio::sync::Mutex<Progress>,
    /// By which time idempotency keys are old, in microseconds; 0 if nothing says so. See `Retention::believed`.
    pub(crate) keys_seen: AtomicI64,
    /// See [`SqliteStore::asked_at_most`].
    pub(crate) asked_per_day: u64,
    /// Let go of last: see `lock`.
    pub(crate) lock: parking_lot::Mutex<Option<Arc<Lock>>>,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SqliteStore")
    }
}

/// Changes something, so that there is something to write: but once a second, however often it is asked for. Nobody reads it.
const BEAT_SQL: &str = "INSERT INTO sequence (name, next) VALUES ('beat', unixepoch()) ON CONFLICT DO UPDATE
    SET next = unixepoch() WHERE next <> unixepoch()";

#[async_trait]
impl Store for SqliteStore {
    async fn ping(&self) -> Result<(), StoreError> {
        // Both sides: a reader that answers says nothing about a writer that is stuck or a disk that is full.
        self.writer
            .run(Whose::Process, |tx| {
                if let Some(problem) = tx.no_room() {
                    return Err(Abort::Refused(StoreError::Unavailable(problem)));
                }
                tx.execute(BEAT_SQL, [])?;
                Ok::<_, Abort<StoreError>>(())
            })
            .await?;
        // What was written is not in the memory of any reader.
        let read = "SELECT next FROM sequence WHERE name = 'beat'";
        self.readers.run_own(|connection| Ok(connection.query_row(read, [], |_| Ok(())).optional().map(drop)?)).await
    }

    fn observe(&self, observer: Arc<dyn Observer>) {
        self.observers.add(observer);
    }

    fn is_alive(&self) -> bool {
        self.writer.is_alive()
    }

    async fn close(&self) {
        self.writer.close().await;
        self.readers.close().await;
        self.lists.close().await;
        self.lock.lock().take();
    }
}
