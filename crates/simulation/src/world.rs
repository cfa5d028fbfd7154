//! The world of one seed: a store with some applications and endpoints, and the lives of the process that delivers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use postrider_delivery::options::DeliveryOptions;
use postrider_domain::application::{Application, EnvironmentId};
use postrider_domain::endpoint::{Endpoint, EndpointUrl, Headers};
use postrider_domain::ids::{ApplicationId, EndpointId};
use postrider_domain::names::IdOrUid;
use postrider_domain::retry::RetrySchedule;
use postrider_domain::signature::{Secret, SecretKind};
use postrider_domain::time::Timestamp;
use postrider_store::{ApplicationKey, EndpointKey, NewEndpoint, Store};
use postrider_store_sqlite::{Ownership, SqliteStore};

use crate::book::Book;
use crate::carrier::{Receivers, TIMEOUT};
use crate::dice::Dice;
use crate::life::Life;
use crate::promises::{self, Broken};
use crate::store::{Relay, Stormy, at_once};

/// When the world begins.
const BEGIN: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);

/// How many lives it has at most before it is calmed.
const LIVES: usize = 3;

/// Deliveries of an endpoint that are counted.
const MANY: usize = 10_000;

/// An endpoint and whose it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) application: ApplicationKey,
    pub(crate) application_id: ApplicationId,
    pub(crate) endpoint: EndpointKey,
    pub(crate) endpoint_id: EndpointId,
}

/// What outlives the process.
pub(crate) struct World {
    pub(crate) environment: EnvironmentId,
    pub(crate) homes: Vec<Place>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) relay: Arc<Relay>,
    pub(crate) receivers: Arc<Receivers>,
    pub(crate) book: Arc<Book>,
    pub(crate) dice: Arc<Dice>,
}

/// What came of a seed.
#[derive(Debug)]
pub struct Report {
    /// Deliveries that were accepted.
    pub deliveries: usize,
    /// Requests that receivers saw.
    pub requests: usize,
    /// Promises that were broken.
    pub broken: Vec<Broken>,
    /// What happened, a line for each event.
    pub trace: Vec<String>,
}

/// Runs the world of a seed on a store in this folder, which is empty.
///
/// # Panics
///
/// If the store can't be made there.
pub fn run(seed: u64, folder: &std::path::Path) -> Report {
    let dice = Arc::new(Dice::new(seed, 0));
    let book = Arc::new(Book::default());
    let world = Arc::new(within_runtime(async { World::made(&dice, &book, folder) }));
    let mut options = options(&dice);
    let mut now = BEGIN;
    let lives = 1 + dice.below(LIVES);
    for number in 0..lives {
        let (options, world) = (options.clone(), Arc::clone(&world));
        now = within_runtime(async move {
            match Life::begin(world, number, now, options).await {
                Ok(life) => life.pass().await,
                Err(error) => unreachable!("the store works at a start: {error}"),
            }
        });
        // The machine needs a while to start again.
        now = now.saturating_add(dice.time(Duration::from_secs(20)));
    }
    // A queue that is too short for the last life would only make it long.
    options.max_in_flight = options.max_in_flight.max(4);
    let last = Arc::clone(&world);
    let quiet = within_runtime(async move {
        match Life::begin(last, lives, now, options).await {
            Ok(life) => life.calm().await,
            Err(error) => unreachable!("the store works at a start: {error}"),
        }
    });
    within_runtime(async {
        let report = promises::judge(&world, quiet);
        at_once(world.store.close());
        report
    })
}

/// A process, with whatever it has going on: all of it ends when this ends.
fn within_runtime<T>(life: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // What threads of the store hand in comes after what is there already: in which turn it would come otherwise depends on
    // how often the runtime looked while it had nothing to do.
    builder.enable_time().start_paused(true).global_queue_interval(u32::MAX);
    let runtime = builder.build();
    let runtime = runtime.unwrap_or_else(|error| unreachable!("a runtime without sockets can be built: {error}"));
    runtime.block_on(life)
}

fn options(dice: &Dice) -> DeliveryOptions {
    let mut options = DeliveryOptions::default();
    let waits = [1, 4, 20].map(Duration::from_secs);
    options.retry_schedule = RetrySchedule::try_new(waits.to_vec()).unwrap_or_default();
    options.retry_after_max.0 = Duration::from_secs(30);
    options.request_timeout.0 = TIMEOUT;
    options.disable_after.0 = Duration::from_secs(*dice.one(&[10, 60, 600]));
    options.concurrency = *dice.one(&[1, 2, 8]);
    options.max_in_flight = *dice.one(&[1, 2, 5, 100]);
    options.memory_bytes = *dice.one(&[1 << 20, 32 << 20]);
    options.drain_timeout.0 = Duration::from_secs(2);
    options
}

impl World {
    fn made(dice: &Arc<Dice>, book: &Arc<Book>, folder: &std::path::Path) -> Self {
        let opened = SqliteStore::open(&folder.join("postrider.db"), Ownership::Owner);
        let store: Arc<dyn Store> = match opened {
            Ok(store) => Arc::new(store),
            Err(error) => panic!("a store in {}: {error}", folder.display()),
        };
        let relay = Arc::new(Relay::default());
        store.observe(Arc::clone(&relay) as _);
        let environment = EnvironmentId::parse("org_sim").unwrap_or_else(|| unreachable!("it is a name"));
        let mut homes = Vec::new();
        for _ in 0..1 + dice.below(2) {
            let application = application(dice);
            let application_id = application.id;
            let made = at_once(store.create_application(&environment, application, None));
            assert!(made.is_ok(), "an application can be made: {made:?}");
            let found = at_once(store.application(&environment, &IdOrUid::Id(application_id))).ok().flatten();
            let Some(application) = found.map(|found| found.key) else { unreachable!("it was made") };
            for _ in 0..1 + dice.below(3) {
                homes.push(home(dice, book, store.as_ref(), application, application_id));
            }
        }
        let receivers = Arc::new(Receivers::new(Arc::clone(dice), Arc::clone(book)));
        Self { environment, homes, store, relay, receivers, book: Arc::clone(book), dice: Arc::clone(dice) }
    }

    /// Whether nothing waits to be delivered.
    pub(crate) fn is_quiet(&self, store: &Stormy) -> bool {
        self.homes.iter().all(|home| at_once(store.below.backlog(home.endpoint, MANY)).is_ok_and(|count| count == 0))
    }
}

fn application(dice: &Dice) -> Application {
    Application {
        id: ApplicationId::new(BEGIN, dice),
        uid: None,
        name: "simulated".to_owned(),
        throttle_rate: None,
        metadata: BTreeMap::new(),
        created_at: BEGIN,
        updated_at: BEGIN,
    }
}

fn home(
    dice: &Dice,
    book: &Book,
    store: &dyn Store,
    application: ApplicationKey,
    application_id: ApplicationId,
) -> Place {
    let throttle_rate = dice.happens(0.2).then(|| 1 + dice.below(5) as u16);
    let endpoint_id = EndpointId::new(BEGIN, dice);
    let endpoint = Endpoint {
        id: endpoint_id,
        uid: None,
        url: EndpointUrl::parse("https://receiver.example/hook").unwrap_or_else(|_| unreachable!("it is a URL")),
        description: String::new(),
        version: 1,
        disabled: false,
        disablement: None,
        event_types: None,
        channels: None,
        throttle_rate,
        metadata: BTreeMap::new(),
        created_at: BEGIN,
        updated_at: BEGIN,
    };
    let secret = Secret::generate(SecretKind::Hmac256, dice);
    let new = NewEndpoint { endpoint, secret, headers: Headers::new(), most: u64::MAX };
    let made = at_once(store.create_endpoint(application, new, None));
    assert!(made.is_ok(), "an endpoint can be made: {made:?}");
    let found = at_once(store.endpoint(application, &IdOrUid::Id(endpoint_id))).ok().flatten();
    let Some(endpoint) = found.map(|found| found.key) else { unreachable!("it was made") };
    if let Some(rate) = throttle_rate {
        book.note(|events| events.rates.insert(endpoint, rate));
    }
    Place { application, application_id, endpoint, endpoint_id }
}
