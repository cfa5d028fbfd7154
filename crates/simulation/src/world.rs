//! The world of one seed: a store with some applications and endpoints, and the lives of the process that delivers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_delivery::options::DeliveryOptions;
use postrider_domain::application::{Application, EnvironmentId};
use postrider_domain::endpoint::{Endpoint, EndpointUrl, Headers};
use postrider_domain::ids::{ApplicationId, EndpointId};
use postrider_domain::names::IdOrUid;
use postrider_domain::retry::RetrySchedule;
use postrider_domain::signature::{Secret, SecretKind};
use postrider_domain::time::Timestamp;
use postrider_store::{ApplicationKey, NewEndpoint, Store};
use postrider_store_model::{Database, ModelStore};
use postrider_store_sqlite::{Ownership, SqliteStore};

use crate::at_once::at_once;
use crate::book::{Book, Limited, Rated};
use crate::bounds::MANY;
use crate::carrier::{Receivers, TIMEOUT};
use crate::dice::Dice;
use crate::image::{self, Beginning};
use crate::life::{Ended, Life};
use crate::place::Place;
use crate::promises;
use crate::promises::Report;
use crate::store::{Relay, Stormy};

/// When the world begins.
pub(crate) const BEGIN: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);

/// How many lives it has at most before it is calmed.
const LIVES: usize = 3;

/// How often the last process goes on when the world is calmed, so that nothing is put right by a start.
const STAYS: f64 = 0.5;

/// Threads of a runtime for what blocks; calls come one after the other.
const BLOCKING_THREADS: usize = 2;

/// What outlives the process.
pub(crate) struct World {
    pub(crate) environment: EnvironmentId,
    pub(crate) homes: Vec<Place>,
    /// How often a run of keys fails that is made with a message under a key, if the store makes runs.
    pub(crate) failing_runs: f64,
    /// Who came later.
    newcomers: Mutex<Vec<Place>>,
    disk: Disk,
    store: Mutex<Arc<dyn Store>>,
    pub(crate) relay: Arc<Relay>,
    pub(crate) receivers: Arc<Receivers>,
    pub(crate) book: Arc<Book>,
    pub(crate) dice: Arc<Dice>,
}

/// What a world is over.
#[derive(Debug, Clone, Copy)]
pub enum Over<'a> {
    /// The SQLite engine, on a file in this folder, which is empty.
    Sqlite(&'a Path),
    /// The model.
    Model,
}

/// What a store is on. It outlives the process; what the store has in memory does not.
enum Disk {
    /// A file, which has another name after each crash.
    File {
        folder: PathBuf,
        name: Mutex<String>,
    },
    Memory(Arc<Database>),
}

impl Disk {
    fn made(over: Over<'_>, beginning: Beginning) -> Self {
        let Over::Sqlite(folder) = over else { return Self::Memory(Arc::default()) };
        let name = "postrider.db".to_owned();
        let copied = image::copy(beginning, &folder.join(&name));
        assert!(copied.is_ok(), "a file in {}: {copied:?}", folder.display());
        Self::File { folder: folder.to_owned(), name: Mutex::new(name) }
    }

    fn open(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(database) => {
                let store = ModelStore::open(Arc::clone(database));
                Arc::new(store.failing_at(image::fails).refusing_results(image::is_unstorable))
            }
            Self::File { folder, name } => {
                match SqliteStore::open(&folder.join(name.lock().as_str()), Ownership::Owner) {
                    Ok(store) => Arc::new(store),
                    Err(error) => panic!("a store in {}: {error}", folder.display()),
                }
            }
        }
    }

    /// Keeps what the disk has at this instant, and nothing that a process would write when it ends in order.
    fn crash(&self, number: usize) {
        let Self::File { folder, name } = self else { return };
        let mut name = name.lock();
        let next = format!("after-crash-{number}.db");
        let copied = image::copy_open(&folder.join(name.as_str()), &folder.join(&next));
        assert!(copied.is_ok(), "a copy in {}: {copied:?}", folder.display());
        *name = next;
    }
}

/// Runs the world of a seed.
///
/// # Panics
///
/// If the store can't be made.
pub fn run(seed: u64, over: Over<'_>) -> Report {
    let dice = Arc::new(Dice::new(seed, 0));
    let book = Arc::new(Book::default());
    let world = Arc::new(within_runtime(async { World::made(&dice, &book, over) }));
    let options = options(&dice);
    let mut now = BEGIN;
    let lives = 1 + dice.below(LIVES);
    // The last one is calmed, or another one after it.
    let stays = dice.happens(STAYS);
    let mut quiet = None;
    for number in 0..=lives {
        let mut options = options.clone();
        let (is_last, is_calmed) = (number == lives, number + usize::from(stays) == lives);
        if is_last && stays {
            break;
        }
        if is_calmed {
            // A queue that is too short would only make it long.
            options.max_in_flight = options.max_in_flight.max(2);
        }
        let life = Arc::clone(&world);
        let ((ended_at, ended), is_quiet) = within_runtime(async move {
            let life = match Life::begin(life, number, now, options).await {
                Ok(life) => Arc::new(life),
                Err(error) => unreachable!("the store works at a start: {error}"),
            };
            if !is_last {
                life.pass().await;
            }
            let quiet = if is_calmed { Some(life.calm().await) } else { None };
            (life.end().await, quiet)
        });
        quiet = is_quiet;
        if !is_calmed {
            within_runtime(async { world.restart(number, ended) });
        }
        // The machine needs a while to start again.
        now = ended_at.saturating_add(dice.time(Duration::from_secs(20)));
    }
    let quiet = quiet.unwrap_or_default();
    within_runtime(async {
        let report =
            promises::judge(world.store().as_ref(), &world.homes(), &world.book, world.failing_runs == 0.0, quiet);
        at_once(world.store().close());
        report
    })
}

/// A process, with whatever it has going on: all of it ends when this ends.
pub(crate) fn within_runtime<T>(life: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // What threads of the store hand in comes after what is there already: in which turn it would come otherwise depends on
    // how often the runtime looked while it had nothing to do.
    builder.enable_time().start_paused(true).global_queue_interval(u32::MAX).max_blocking_threads(BLOCKING_THREADS);
    let runtime = builder.build();
    let runtime = runtime.unwrap_or_else(|error| unreachable!("a runtime without sockets can be built: {error}"));
    runtime.block_on(life)
}

pub(crate) fn options(dice: &Dice) -> DeliveryOptions {
    let mut options = DeliveryOptions::default();
    let waits = [1, 4, 20].map(Duration::from_secs);
    options.retry_schedule = RetrySchedule::try_new(waits.to_vec()).unwrap_or_default();
    options.retry_after_max.0 = Duration::from_secs(*dice.one(&[30, 30, 3_600]));
    options.request_timeout.0 = TIMEOUT;
    options.disable_after.0 = Duration::from_secs(*dice.one(&[10, 60, 600]));
    options.concurrency = *dice.one(&[1, 2, 8]);
    options.max_in_flight = *dice.one(&[1, 2, 5, 100]);
    options.memory_bytes = *dice.one(&[1 << 20, 32 << 20]);
    options.drain_timeout.0 = Duration::from_secs(2);
    options
}

impl World {
    pub(crate) fn made(dice: &Arc<Dice>, book: &Arc<Book>, over: Over<'_>) -> Self {
        let beginning = if dice.happens(0.1) { Beginning::NearlyARun } else { Beginning::Empty };
        let disk = Disk::made(over, beginning);
        let store = disk.open();
        let relay = Arc::new(Relay::default());
        store.observe(Arc::clone(&relay) as _);
        let environment = EnvironmentId::parse("org_sim").unwrap_or_else(|| unreachable!("it is a name"));
        let mut homes = Vec::new();
        for _ in 0..1 + dice.below(2) {
            let (application, application_id) = make_application(dice, book, store.as_ref(), &environment, BEGIN);
            for _ in 0..1 + dice.below(*dice.one(&[3, 3, 8])) {
                let rate = dice.happens(0.2).then(|| 1 + dice.below(5) as u16);
                homes.push(home(dice, book, store.as_ref(), application, application_id, rate, BEGIN));
            }
        }
        let receivers = Arc::new(Receivers::new(Arc::clone(dice), Arc::clone(book)));
        let (book, dice, newcomers) = (Arc::clone(book), Arc::clone(dice), Mutex::default());
        let failing_runs = if beginning == Beginning::NearlyARun { 0.3 } else { 0.0 };
        let store = Mutex::new(store);
        Self { environment, homes, failing_runs, newcomers, disk, store, relay, receivers, book, dice }
    }

    /// The store, as the present process has it.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store.lock())
    }

    /// The process has ended, and another one opens the store anew: it has what is on the disk, and nothing else.
    fn restart(&self, number: usize, ended: Ended) {
        if ended == Ended::ByCrash {
            self.disk.crash(number);
        }
        let mut store = self.store.lock();
        at_once(store.close());
        *store = self.disk.open();
        store.observe(Arc::clone(&self.relay) as _);
    }

    /// All endpoints.
    pub(crate) fn homes(&self) -> Vec<Place> {
        self.homes.iter().chain(self.newcomers.lock().iter()).copied().collect()
    }

    /// One more application, with one endpoint.
    pub(crate) fn newcomer(&self, now: Timestamp) -> Place {
        let (dice, book, store) = (&self.dice, &self.book, self.store());
        let store = store.as_ref();
        let (application, application_id) = make_application(dice, book, store, &self.environment, now);
        let place = home(dice, book, store, application, application_id, None, now);
        self.relay.pass_on();
        self.newcomers.lock().push(place);
        place
    }

    /// What somebody may allow.
    pub(crate) fn some_rate(&self) -> Option<u16> {
        *self.dice.one(&[None, Some(1), Some(1), Some(2), Some(5), Some(30)])
    }

    /// Whether nothing waits to be delivered, nor will by itself.
    pub(crate) fn is_quiet(&self, store: &Stormy) -> bool {
        if at_once(store.below.running_tasks(1)).is_ok_and(|tasks| !tasks.is_empty()) {
            return false;
        }
        self.homes().iter().all(|home| {
            let waiting = at_once(store.below.backlog(home.endpoint, MANY));
            waiting.is_ok_and(|count| count == 0 || at_once(store.is_only_stuck(home.endpoint)))
        })
    }
}

/// An application; one in a few has a rate, unless it comes later.
fn make_application(
    dice: &Dice,
    book: &Book,
    store: &dyn Store,
    environment: &EnvironmentId,
    now: Timestamp,
) -> (ApplicationKey, ApplicationId) {
    let throttle_rate = (now == BEGIN && dice.happens(0.15)).then(|| 1 + dice.below(5) as u16);
    let id = ApplicationId::new(now, dice);
    let application = Application {
        id,
        uid: None,
        name: "simulated".to_owned(),
        throttle_rate,
        metadata: BTreeMap::new(),
        created_at: now,
        updated_at: now,
    };
    let made = at_once(store.create_application(environment, application, None));
    assert!(made.is_ok(), "an application can be made: {made:?}");
    let found = at_once(store.application(environment, &IdOrUid::Id(id))).ok().flatten();
    let Some(key) = found.map(|found| found.key) else { unreachable!("it was made") };
    if throttle_rate.is_some() {
        book.note(|events| events.rates.insert(Limited::Application(key), vec![Rated::at_first(throttle_rate)]));
    }
    (key, id)
}

fn home(
    dice: &Dice,
    book: &Book,
    store: &dyn Store,
    application: ApplicationKey,
    application_id: ApplicationId,
    throttle_rate: Option<u16>,
    now: Timestamp,
) -> Place {
    let endpoint_id = EndpointId::new(now, dice);
    let endpoint = Endpoint {
        id: endpoint_id,
        uid: None,
        url: EndpointUrl::parse("https://receiver.example/hook").unwrap_or_else(|_| unreachable!("it is a URL")),
        description: String::new(),
        version: 1,
        disabled: false,
        disablement: None,
        held: None,
        event_types: None,
        channels: None,
        throttle_rate,
        metadata: BTreeMap::new(),
        created_at: now,
        updated_at: now,
    };
    let secret = Secret::generate(SecretKind::Hmac256, dice);
    let new = NewEndpoint { endpoint, secret, headers: Headers::new(), most: u64::MAX };
    let made = at_once(store.create_endpoint(application, new, None));
    assert!(made.is_ok(), "an endpoint can be made: {made:?}");
    let found = at_once(store.endpoint(application, &IdOrUid::Id(endpoint_id))).ok().flatten();
    let Some(endpoint) = found.map(|found| found.key) else { unreachable!("it was made") };
    let target = at_once(store.target(endpoint)).ok().flatten();
    book.note(|events| {
        events.applications.insert(endpoint, application);
        if throttle_rate.is_some() {
            events.rates.insert(Limited::Endpoint(endpoint), vec![Rated::at_first(throttle_rate)]);
        }
        if let Some(target) = target {
            events.is_now(target);
        }
    });
    Place { application, application_id, endpoint, endpoint_id }
}
