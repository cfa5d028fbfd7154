//! A cache of where messages go: per application, under the name by which callers call it.
//!
//! It is a hint. The accept commit checks the version of the routes that were used, and refuses an older one; then they
//! are loaded again. So nothing has to be invalidated from outside, and an endpoint that was created with 201 gets every
//! message accepted after it.
//!
//! An application may have many large endpoints, all of which its own token can make: so what routing does not need of them
//! is not kept, the cache is one piece, which a large application fits into, and what is not in it is read once for all who
//! wait for it.

use std::sync::Arc;

use postrider_domain::application::{EnvironmentId, Metadata};
use postrider_domain::ids::ApplicationId;
use postrider_domain::names::{Channel, IdOrUid, MAX_NAME_BYTES};
use postrider_store::{Routes, Store, StoreError, Target};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use crate::shared_loads::SharedLoads;

postrider_domain::limits! {
    in "Intake";
    /// Memory for where messages go, by application
    pub(crate) const CAPACITY: u64 = 67_108_864, "bytes", beyond "what was not used for long is read again when it is needed";
}

/// Applications that the cache is made for; it has room for more, or fewer.
const APPLICATIONS: usize = 1_024;

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
    loads: SharedLoads<Name, Result<Option<Arc<Routes>>, StoreError>>,
}

impl RouteCache {
    pub(crate) fn new() -> Self {
        let (hasher, lifecycle) = (foldhash::fast::RandomState::default(), DefaultLifecycle::default());
        let mut options = OptionsBuilder::new();
        // Each shard takes nothing that is larger than its part of the room, and there would be several per core.
        options.shards(1).estimated_items_capacity(APPLICATIONS).weight_capacity(CAPACITY);
        let cache = match options.build() {
            Ok(options) => Cache::with_options(options, ByBytes, hasher, lifecycle),
            // Only if one of them were not said.
            Err(_) => Cache::with(APPLICATIONS, CAPACITY, ByBytes, hasher, lifecycle),
        };
        Self { cache, loads: SharedLoads::new() }
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
        let load = async {
            let Some(routes) = store.routes(&name.0, &name.1).await? else {
                self.cache.remove(name);
                return Ok(None);
            };
            let routes = Arc::new(without_prose(routes));
            self.cache.insert(name.clone(), Arc::clone(&routes));
            Ok(Some(routes))
        };
        self.loads.get(name, load).await
    }
}

/// Routes without what is for people.
fn without_prose(mut routes: Routes) -> Routes {
    // Nobody else has them yet.
    for target in routes.targets.iter_mut().filter_map(Arc::get_mut) {
        target.endpoint.description = String::new();
        target.endpoint.metadata = Metadata::new();
    }
    routes
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::endpoint::{Endpoint, EndpointUrl};
    use postrider_domain::entropy::SeededEntropy;
    use postrider_domain::environment::MessageRules;
    use postrider_domain::headers::{Headers, MAX_HEADERS_BYTES};
    use postrider_domain::ids::EndpointId;
    use postrider_domain::signature::{Secret, SecretKind, SigningKeys};
    use postrider_domain::time::Timestamp;
    use postrider_store::{ApplicationKey, EndpointKey};

    /// As large as they may be.
    fn large(count: usize) -> Routes {
        let entropy = SeededEntropy::new(1);
        let endpoint = Endpoint {
            id: EndpointId::new(Timestamp::EPOCH, &entropy),
            uid: None,
            url: EndpointUrl::from_trusted(format!("http://h/{}", "a".repeat(2_000))),
            description: "ü".repeat(4_096),
            version: 1,
            disabled: false,
            disablement: None,
            event_types: None,
            channels: None,
            throttle_rate: None,
            metadata: Metadata::from([("k".to_owned(), "v".repeat(4_000))]),
            created_at: Timestamp::EPOCH,
            updated_at: Timestamp::EPOCH,
        };
        let target = Target {
            key: EndpointKey(1),
            application: ApplicationKey(1),
            endpoint,
            headers: Headers::from([("x-a", "v".repeat(MAX_HEADERS_BYTES - 3))]),
            keys: SigningKeys { current: Secret::generate(SecretKind::Hmac256, &entropy), old: Vec::new() },
            application_rate: None,
        };
        let targets = (0..count).map(|_| Arc::new(target.clone())).collect();
        let id = ApplicationId::new(Timestamp::EPOCH, &entropy);
        Routes {
            application: ApplicationKey(1),
            id,
            version: 1,
            rules: MessageRules::default(),
            rules_version: 0,
            targets,
        }
    }

    #[test]
    fn an_application_of_a_thousand_large_endpoints_is_remembered() {
        let cache = RouteCache::new();
        let name = (EnvironmentId::default_environment(), IdOrUid::parse("shop"));
        cache.cache.insert(name.clone(), Arc::new(without_prose(large(1_000))));
        let kept = cache.cache.get(&name).expect("it is in the cache");
        assert!(kept.targets.iter().all(|target| bytes(target) < 24 * 1024));
    }
}
