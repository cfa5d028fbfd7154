//! A cache of where messages go: per application, under the name by which callers call it.
//!
//! It is a hint. The accept commit checks the version of the routes that were used, and refuses an older one; then they
//! are loaded again. So nothing has to be invalidated from outside, and an endpoint that was created with 201 gets every
//! message accepted after it.
//!
//! An application may have many large endpoints, all of which its own token can make: so what routing does not need of them
//! is not read ([`Target`]), the cache is one piece, which a large application fits into, and what is not in it is read once for
//! all who wait for it. Its token can change them without a pause, too: an application whose routes took long to read is left
//! alone for as long, by whichever name it is called and whether they are still in the cache, so that reading them again and again
//! takes no more than half of one core.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::application::EnvironmentId;
use postrider_domain::event_type_set::EventTypeSet;
use postrider_domain::ids::ApplicationId;
use postrider_domain::names::{Channel, IdOrUid};
use postrider_store::{ApplicationKey, Routes, Store, StoreError, Target};
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

#[derive(Clone)]
struct ByBytes;

impl Weighter<Name, Arc<Routes>> for ByBytes {
    fn weight(&self, _name: &Name, routes: &Arc<Routes>) -> u64 {
        (OVERHEAD + routes.targets.iter().map(|target| bytes(target)).sum::<usize>()) as u64
    }
}

/// Applications that are left alone for a while: twice as many as were read of late, since none rests for longer than it was read.
#[derive(Default)]
struct Rests {
    until: HashMap<ApplicationKey, Instant, foldhash::fast::RandomState>,
    /// By which names they were read.
    names: HashMap<Name, ApplicationKey, foldhash::fast::RandomState>,
    /// How many names there were when those that needed no rest any more were left out.
    left: usize,
}

/// So many names are not looked through for those that need no rest any more.
const FEW_NAMES: usize = 16;

impl Rests {
    /// Until when nothing is read by this name, if it was read by it of late.
    fn until(&self, name: &Name) -> Option<Instant> {
        self.until.get(self.names.get(name)?).copied()
    }

    /// An application was read by this name. It rests for as long as that took, after what it has to rest for other reads.
    fn note(&mut self, name: &Name, application: ApplicationKey, begun: Instant, ended: Instant) {
        if self.names.len() >= 2 * self.left.max(FEW_NAMES) {
            self.until.retain(|_, until| *until > begun);
            self.names.retain(|_, application| self.until.contains_key(application));
            self.left = self.names.len();
        }
        let since = self.until.get(&application).map_or(begun, |until| begun.max(*until));
        let until = (since + 2 * ended.saturating_duration_since(begun)).min(ended + MAX_PAUSE);
        self.until.insert(application, until);
        self.names.insert(name.clone(), application);
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
    cache: Cache<Name, Arc<Routes>, ByBytes, foldhash::fast::RandomState>,
    loads: SharedLoads<Name, Result<Option<Arc<Routes>>, StoreError>>,
    rests: Mutex<Rests>,
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
        Self { cache, loads: SharedLoads::new(), rests: Mutex::default() }
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
        self.read(name, store.routes(&name.0, &name.1)).await
    }

    async fn read(
        &self,
        name: &Name,
        read: impl Future<Output = Result<Option<Routes>, StoreError>>,
    ) -> Result<Option<Arc<Routes>>, StoreError> {
        let rest = async {
            // Somebody may read it by its other name meanwhile.
            while let Some(until) = self.rests_until(name) {
                tokio::time::sleep_until(until).await;
            }
        };
        let load = async {
            let begun = Instant::now();
            let Some(routes) = read.await? else {
                self.cache.remove(name);
                return Ok(None);
            };
            let routes = Arc::new(routes);
            self.rests.lock().note(name, routes.application, begun, Instant::now());
            self.cache.insert(name.clone(), Arc::clone(&routes));
            Ok(Some(routes))
        };
        self.loads.get(name, rest, load).await
    }

    /// Until when it is to be left alone, if that is later than now.
    fn rests_until(&self, name: &Name) -> Option<Instant> {
        self.rests.lock().until(name).filter(|until| *until > Instant::now())
    }
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
            held: None,
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
            environment: postrider_store::EnvironmentKey(1),
            endpoint,
            event_types: Some(EventTypeSet::of_trusted(&vec!["e".into(); MAX_ENDPOINT_EVENT_TYPES])),
            headers: Headers::from([("x-a", "v".repeat(MAX_HEADERS_BYTES - 3))]),
            keys: SigningKeys { current: Secret::generate(SecretKind::Hmac256, &entropy), old: Vec::new() },
            application_rate: None,
            receiver: 0,
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
        cache.cache.insert(name.clone(), Arc::new(large(1_000)));
        let kept = cache.cache.get(&name).expect("it is in the cache");
        assert!(kept.targets.iter().all(|target| bytes(target) < MAX_ENDPOINT_BYTES));
    }

    /// Reads routes of so many endpoints without a pause for a minute, under each of these names; returns for how long
    /// something was read.
    async fn read_for_a_minute(cache: &RouteCache, names: &[&str], applications: &[i64], endpoints: usize) -> Duration {
        const TAKES: Duration = Duration::from_millis(100);
        let (begun, busy) = (Instant::now(), std::cell::Cell::new(Duration::ZERO));
        let (routes, busy) = (&large(endpoints), &busy);
        let readers = names.iter().zip(applications).map(|(name, application)| async move {
            let name = (EnvironmentId::default_environment(), IdOrUid::parse(name));
            while begun.elapsed() < Duration::from_secs(60) {
                let read = async {
                    tokio::time::sleep(TAKES).await;
                    busy.set(busy.get() + TAKES);
                    Ok(Some(Routes { application: ApplicationKey(*application), ..routes.clone() }))
                };
                assert!(cache.read(&name, read).await.unwrap().is_some());
            }
        });
        futures_util::future::join_all(readers).await;
        busy.get()
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_that_is_called_by_two_names_is_read_half_of_the_time() {
        let cache = RouteCache::new();
        let busy = read_for_a_minute(&cache, &["shop", "app_1srOrx2ZWZBpBUvZwXKQmoEYga2"], &[1, 1], 1).await;
        assert!(busy <= Duration::from_secs(31) && busy >= Duration::from_secs(25), "{busy:?}");
        let busy = read_for_a_minute(&cache, &["one", "two"], &[2, 3], 1).await;
        assert!(busy > Duration::from_secs(50), "each has its own half: {busy:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn applications_for_which_there_is_no_room_together_are_read_half_of_the_time_all_the_same() {
        let cache = RouteCache::new();
        let busy = read_for_a_minute(&cache, &["one", "two", "three"], &[1, 2, 3], 1_000).await;
        assert!(busy <= Duration::from_secs(93), "{busy:?}");
    }

    #[test]
    fn routes_rest_for_as_long_as_they_took_to_read_and_no_longer_than_a_second() {
        let begun = Instant::now();
        let name = (EnvironmentId::default_environment(), IdOrUid::parse("shop"));
        for (took, rest) in [(0, 0), (7, 7), (900, 900), (9_000, 1_000)] {
            let (mut rests, ended) = (Rests::default(), begun + Duration::from_millis(took));
            rests.note(&name, ApplicationKey(1), begun, ended);
            assert_eq!(rests.until(&name), Some(ended + Duration::from_millis(rest)));
        }
    }

    #[test]
    fn of_those_that_need_no_rest_any_more_nothing_is_kept() {
        let (mut rests, mut at) = (Rests::default(), Instant::now());
        for number in 0..1_000 {
            let name = (EnvironmentId::default_environment(), IdOrUid::parse(&format!("shop-{number}")));
            let ended = at + Duration::from_millis(5);
            rests.note(&name, ApplicationKey(number), at, ended);
            at = ended;
        }
        let most = 2 * FEW_NAMES;
        assert!(rests.until.len() <= most && rests.names.len() <= most, "{}", rests.names.len());
    }
}
