//! The conformance suite of the store contract, on SQLite files in temporary folders.

#![expect(clippy::unwrap_used, reason = "a harness that fails is a test that fails")]

use std::sync::Arc;

use postrider_store::Store;
use postrider_store::conformance::Harness;
use postrider_store_sqlite::{Ownership, SqliteStore};

struct Sqlite {
    folder: tempfile::TempDir,
    store: Arc<SqliteStore>,
}

fn open(folder: &tempfile::TempDir) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(&folder.path().join("postrider.db"), Ownership::Owner).unwrap())
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
}

postrider_store::conformance_suite!(Sqlite);
