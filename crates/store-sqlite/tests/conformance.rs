//! The conformance suite of the store contract, on SQLite files in temporary folders.

#![expect(clippy::unwrap_used, reason = "a harness that fails is a test that fails")]

use std::sync::Arc;

use postrider_store::Store;
use postrider_store_conformance::Harness;
use postrider_store_sqlite::{Ownership, SqliteStore};

struct Sqlite {
    folder: tempfile::TempDir,
    store: Arc<SqliteStore>,
}

fn path(folder: &tempfile::TempDir) -> std::path::PathBuf {
    folder.path().join("postrider.db")
}

fn open(folder: &tempfile::TempDir) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(&path(folder), Ownership::Owner).unwrap())
}

#[async_trait::async_trait]
impl Harness for Sqlite {
    async fn fresh() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        Self { folder, store }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    async fn reopen(&mut self) {
        self.store.close().await;
        self.store = open(&self.folder);
    }

    async fn reopen_where_may_be_asked_for(&mut self, per_day: u64) {
        self.store.close().await;
        let store = SqliteStore::open(&path(&self.folder), Ownership::Owner).unwrap();
        self.store = Arc::new(store.asked_at_most(per_day));
    }

    /// Version 1 had no postings and no tally.
    async fn age(&mut self) {
        self.store.close().await;
        let connection = rusqlite::Connection::open(path(&self.folder)).unwrap();
        let forget = "DELETE FROM message_posting; DELETE FROM attempt_posting; DELETE FROM attempt_tally;";
        connection.execute_batch(forget).unwrap();
        drop(connection);
        self.store = open(&self.folder);
    }
}

postrider_store_conformance::conformance_suite!(Sqlite);
