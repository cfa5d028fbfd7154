//! The conformance suite of the store contract, on the model.

use std::sync::Arc;

use postrider_store::Store;
use postrider_store_conformance::Harness;
use postrider_store_model::{Database, ModelStore};

struct Model {
    database: Arc<Database>,
    store: Arc<ModelStore>,
}

#[async_trait::async_trait]
impl Harness for Model {
    async fn fresh() -> Self {
        let database = Arc::new(Database::default());
        let store = Arc::new(ModelStore::open(Arc::clone(&database)));
        Self { database, store }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    async fn reopen(&mut self) {
        self.store.close().await;
        self.store = Arc::new(ModelStore::open(Arc::clone(&self.database)));
    }

    async fn reopen_where_may_be_asked_for(&mut self, per_day: u64) {
        self.store.close().await;
        self.store = Arc::new(ModelStore::open(Arc::clone(&self.database)).asked_at_most(per_day));
    }
}

postrider_store_conformance::conformance_suite!(Model);
