//! A cache of where messages go: per application, under the name by which callers call it.
//!
//! It is a hint. The accept commit checks the version of the routes that were used, and refuses an older one; then they
//! are loaded again. So nothing has to be invalidated from outside, and an endpoint that was created with 201 gets every
//! message accepted after it.
//!
//! An application may have many large endpoints, all of which its own token can make: so what routing does not need of them
//! is not read ([`Target`]), the cache is one piece, which a large application fits into, and what is not in it is read once for
//! all who wait for it. Its token can change them without a pause, too: routes that took long to read are left alone for as
//! long, so that reading them again and again takes no more than half of one core.

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::application::EnvironmentId;
use postrider_domain::event_type_set::EventTypeSet;
use postrider_domain::ids::ApplicationId;
use postrider_domain::names::{Channel, IdOrUid};
use postrider_store::{Routes, Store, StoreError, Target};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use tokio::time::Instant;

use crate::shared_loads::SharedLoads;

postrider_domain::limits! {
    in "Intake";
    /// Memory for where messages go, by application
    pub(crate) const CAPACITY: u64 = 67_108_864, "bytes", beyond "what was not used for long is read again when it is needed";
}

/// Routes of applications that are being read: as many at a time as callers may read from the store, each of a thousand endpoints
/// that are as large as they may be.
pub(crate) const BEING_READ: u64 = 2 * 1_000 * MAX_ENDPOINT_BYTES as u64;

/// What an endpoint takes at most, about.
const MAX_ENDPOINT_BYTES: usize = 42 * 1_024;

/// The longest pause before routes are read again.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Applications that the cache is made for; it has room for more, or fewer.
const APPLICATIONS: usize = 1_024;

/// What an application, or an endpoint, takes beside its texts, in bytes.
const OVERHEAD: usize = 1_024;

/// Who asked, and by which name.
pub(crate) type Name = (EnvironmentId, IdOrUid<ApplicationId>);

/// What is remembered of an application.
#[derive(Clone)]
struct Known {
    routes: Arc<Routes>,
    /// Not read again before this.
    rests_until: Instant,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Name, Known> for ByBytes {
    fn weight(&self, _name: &Name, known: &Known) -> u64 {
        (OVERHEAD + known.routes.targets.iter().map(|target| bytes(target)).sum::<usize>()) as u64
    }
}

/// About how many bytes an endpoint takes.
fn bytes(target: &Target) -> usize {
    let endpoint = &target.endpoint;
    let headers = target.headers.iter().map(|(name, value)| 64 + name.len() + value.len()).sum::<usize>();
    let text = |channel: &Channel| size_of::<Channel>() + channel.as_str().len();
    OVERHEAD
        + endpoint.url.as_str().len() * 2
        + headers
        + target.event_types.as_ref().map_or(0, EventTypeSet::bytes)
        + endpoint.channels.iter().flatten().map(text).sum::<usize>()
}

pub(crate) struct RouteCache {
    cache: Cache<Name, Known, ByBytes, foldhash::fast::RandomState>,
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
        if let Some(known) = self.cache.get(name) {
            return Ok(Some(known.routes));
        }
        self.reload(store, name).await
    }

    /// The routes as they are now.
    pub(crate) async fn reload(&self, store: &dyn Store, name: &Name) -> Result<Option<Arc<Routes>>, StoreError> {
        let rest = async {
            if let Some(known) = self.cache.get(name) {
                tokio::time::sleep_until(known.rests_until).await;
            }
        };
        let load = async {
            let begun = Instant::now();
            let Some(routes) = store.routes(&name.0, &name.1).await? else {
                self.cache.remove(name);
                return Ok(None);
            };
            let routes = Arc::new(routes);
            let known = Known { routes: Arc::clone(&routes), rests_until: rests_until(begun, Instant::now()) };
            self.cache.insert(name.clone(), known);
            Ok(Some(routes))
        };
        self.loads.get(name, rest, load).await
    }
}

/// Until when routes are left alone that were read from `begun` to `ended`.
fn rests_until(begun: Instant, ended: Instant) -> Instant {
    ended + ended.saturating_duration_since(begun).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::application::Metadata;
    use postrider_domain::endpoint::{Endpoint, EndpointUrl, MAX_ENDPOINT_CHANNELS, MAX_ENDPOINT_EVENT_TYPES};
    use postrider_domain::entropy::SeededEntropy;
    use postrider_domain::environment::MessageRules;
    use postrider_domain::headers::{Headers, MAX_HEADERS_BYTES};
    use postrider_domain::ids::EndpointId;
    use postrider_domain::names::MAX_NAME_BYTES;
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
            description: String::new(),
            version: 1,
            disabled: false,
            disablement: None,
            event_types: None,
            channels: Some(vec![Channel::from_trusted("c".repeat(MAX_NAME_BYTES)); MAX_ENDPOINT_CHANNELS]),
            throttle_rate: None,
            metadata: Metadata::new(),
            created_at: Timestamp::EPOCH,
            updated_at: Timestamp::EPOCH,
        };
        let target = Target {
            key: EndpointKey(1),
            application: ApplicationKey(1),
            endpoint,
            event_types: Some(EventTypeSet::of_trusted(&vec!["e".into(); MAX_ENDPOINT_EVENT_TYPES])),
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
        let known = Known { routes: Arc::new(large(1_000)), rests_until: Instant::now() };
        cache.cache.insert(name.clone(), known);
        let kept = cache.cache.get(&name).expect("it is in the cache");
        assert!(kept.routes.targets.iter().all(|target| bytes(target) < MAX_ENDPOINT_BYTES));
    }

    #[test]
    fn routes_rest_for_as_long_as_they_took_to_read_and_no_longer_than_a_second() {
        let begun = Instant::now();
        for (took, rest) in [(0, 0), (7, 7), (900, 900), (9_000, 1_000)] {
            let ended = begun + Duration::from_millis(took);
            assert_eq!(rests_until(begun, ended), ended + Duration::from_millis(rest));
        }
    }
}
