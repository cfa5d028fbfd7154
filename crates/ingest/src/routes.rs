//! A cache of where messages go: per application, under the name by which callers call it.
//!
//! It is a hint. The accept commit checks the version of the routes that were used, and refuses an older one; then they
//! are loaded again. So nothing has to be invalidated from outside, and an endpoint that was created with 201 gets every
//! message accepted after it.

use std::sync::Arc;

use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::ApplicationId;
use postrider_domain::names::IdOrUid;
use postrider_store::{Routes, Store, StoreError};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// Room for endpoints, in units of one application or one endpoint.
const CAPACITY: u64 = 65_536;

/// Who asked, and by which name.
pub(crate) type Name = (EnvironmentId, IdOrUid<ApplicationId>);

#[derive(Clone)]
struct ByEndpoints;

impl Weighter<Name, Arc<Routes>> for ByEndpoints {
    fn weight(&self, _name: &Name, routes: &Arc<Routes>) -> u64 {
        1 + routes.targets.len() as u64
    }
}

pub(crate) struct RouteCache {
    cache: Cache<Name, Arc<Routes>, ByEndpoints, foldhash::fast::RandomState>,
}

impl RouteCache {
    pub(crate) fn new() -> Self {
        let hasher = foldhash::fast::RandomState::default();
        let cache = Cache::with(1_024, CAPACITY, ByEndpoints, hasher, quick_cache::sync::DefaultLifecycle::default());
        Self { cache }
    }

    /// The routes, from the cache or the store; `None` if there is no such application.
    pub(crate) async fn get(&self, store: &dyn Store, name: &Name) -> Result<Option<Arc<Routes>>, StoreError> {
        if let Some(routes) = self.cache.get(name) {
            return Ok(Some(routes));
        }
        self.reload(store, name).await
    }

    /// The routes as they are now.
    pub(crate) async fn reload(&self, store: &dyn Store, name: &Name) -> Result<Option<Arc<Routes>>, StoreError> {
        let Some(routes) = store.routes(&name.0, &name.1).await? else {
            self.cache.remove(name);
            return Ok(None);
        };
        let routes = Arc::new(routes);
        self.cache.insert(name.clone(), Arc::clone(&routes));
        Ok(Some(routes))
    }
}
