//! A cache of where messages go: per application, under the name by which callers call it.
//!
//! It is a hint. The accept commit checks the version of the routes that were used, and refuses an older one; then they
//! are loaded again. So nothing has to be invalidated from outside, and an endpoint that was created with 201 gets every
//! message accepted after it.

use std::sync::Arc;

use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::ApplicationId;
use postrider_domain::names::{Channel, IdOrUid, MAX_NAME_BYTES};
use postrider_store::{Routes, Store, StoreError, Target};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

postrider_domain::limits! {
    in "Intake";
    /// Memory for where messages go, by application
    pub(crate) const CAPACITY: u64 = 67_108_864, "bytes", beyond "what was not used for long is read again when it is needed";
}

/// What an application, or an endpoint, takes beside its texts, in bytes.
const OVERHEAD: usize = 1_024;

/// Who asked, and by which name.
pub(crate) type Name = (EnvironmentId, IdOrUid<ApplicationId>);

#[derive(Clone)]
struct ByBytes;

impl Weighter<Name, Arc<Routes>> for ByBytes {
    fn weight(&self, _name: &Name, routes: &Arc<Routes>) -> u64 {
        (OVERHEAD + routes.targets.iter().map(|target| bytes(target)).sum::<usize>()) as u64
    }
}

/// About how many bytes an endpoint takes.
fn bytes(target: &Target) -> usize {
    let endpoint = &target.endpoint;
    let names = |count: Option<usize>| count.unwrap_or(0) * (size_of::<Channel>() + MAX_NAME_BYTES / 8);
    let headers = target.headers.iter().map(|(name, value)| 64 + name.len() + value.len()).sum::<usize>();
    let metadata = endpoint.metadata.iter().map(|(name, value)| 64 + name.len() + value.len()).sum::<usize>();
    OVERHEAD
        + endpoint.description.len()
        + endpoint.url.as_str().len() * 2
        + headers
        + metadata
        + names(endpoint.event_types.as_ref().map(Vec::len))
        + names(endpoint.channels.as_ref().map(Vec::len))
}

pub(crate) struct RouteCache {
    cache: Cache<Name, Arc<Routes>, ByBytes, foldhash::fast::RandomState>,
}

impl RouteCache {
    pub(crate) fn new() -> Self {
        let hasher = foldhash::fast::RandomState::default();
        let cache = Cache::with(1_024, CAPACITY, ByBytes, hasher, quick_cache::sync::DefaultLifecycle::default());
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
