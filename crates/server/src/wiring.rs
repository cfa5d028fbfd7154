//! Putting the server together: store, engine, intake and API, in the order in which they need each other, and taking it
//! apart in reverse.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use postrider_api::{Api, Parts, UrlRefused, Workers};
use postrider_delivery::Engine;
use postrider_delivery::egress::Forbidden;
use postrider_delivery::resolve::SystemResolver;
use postrider_delivery::sender::Sender;
use postrider_domain::clock::{Clock, SystemClock};
use postrider_domain::entropy::{Entropy, OsEntropy};
use postrider_ingest::{Intake, Judges, Place, Program};
use postrider_store::Store;
use postrider_store_sqlite::{Ownership, SqliteStore};
use postrider_upkeep::{Notifier, RetentionOptions, Sweeper, TaskRunner};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::apart::Apart;
use crate::commands::JUDGE;
use crate::config::{Config, ServerOptions};
use crate::supervisor::Supervisor;

/// File descriptors that are kept for the store, the log, the listener, connections that end, and whatever else.
const OTHER_DESCRIPTORS: u64 = 128;

/// The part of the descriptors that callers of the API get at most: one of so many. The rest is for deliveries.
const API_PART: u64 = 4;

/// The fewest connections of callers, and requests to endpoints, however few descriptors there are.
const LEAST: u64 = 16;

/// With fewer descriptors than these, beside those of its judges, a server can't do what it is for.
fn least_descriptors() -> u64 {
    OTHER_DESCRIPTORS + LEAST + postrider_delivery::descriptors(LEAST as u32)
}

/// A process that compares payloads with schemas costs two pipes and a handle; while it starts, one more pipe.
const PER_JUDGE: u64 = 5;

/// A part that runs by itself, with its name.
type Agent = (&'static str, JoinHandle<()>);

/// Starts what tells operators, works off their tasks and removes what is old.
fn start_upkeep(
    store: &Arc<dyn Store>,
    intake: &Arc<Intake>,
    clock: &Arc<dyn Clock>,
    retention: &RetentionOptions,
) -> Vec<Agent> {
    let notifier = Notifier::new(Arc::clone(store), Arc::clone(intake), Arc::clone(clock));
    let sweeper = Sweeper::new(Arc::clone(store), Arc::clone(clock), retention.clone());
    let tasks = TaskRunner::new(Arc::clone(store), Arc::clone(clock));
    vec![
        ("notifier", tokio::spawn(notifier.run())),
        ("background tasks", tokio::spawn(tasks.run())),
        ("sweeper", tokio::spawn(sweeper.run())),
    ]
}

/// A running server, except for its listener.
pub(crate) struct Server {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) api: Api,
    /// How many connections of callers there may be.
    pub(crate) connections: u32,
    intake: Arc<Intake>,
    engine: Engine,
    /// What the engine runs on.
    delivering: Apart,
    /// Can be stopped at any instant, and use the others.
    upkeep: Vec<Agent>,
    agents: Vec<Agent>,
    supervisor: Arc<Supervisor>,
}

/// The machine's time and randomness.
pub(crate) fn machine() -> (Arc<dyn Clock>, Arc<dyn Entropy>) {
    (Arc::new(SystemClock::new()), Arc::new(OsEntropy))
}

/// Opens the store that the settings name.
pub(crate) fn open_store(config: &Config, ownership: Ownership) -> anyhow::Result<Arc<dyn Store>> {
    let store = SqliteStore::open(&config.sqlite_path()?, ownership)?;
    Ok(Arc::new(store.asked_at_most(config.limits.asked_per_day)))
}

impl Server {
    /// Opens the store and starts delivering what is in it.
    pub(crate) async fn start(config: &Config) -> anyhow::Result<Self> {
        let (clock, entropy) = machine();
        let open_files = raise_open_files();
        let judges = PER_JUDGE * config.schemas.most_processes() as u64;
        check_open_files(open_files, judges)?;
        let store = open_store(config, Ownership::Owner)?;
        let mut delivery = config.delivery.clone();
        delivery.drain_timeout.0 = Phases::of(delivery.drain_timeout.0).drain;
        let open_files = open_files.map(|most| most.saturating_sub(judges));
        let descriptors = fit_to_descriptors(open_files, &config.server, delivery.max_in_flight);
        delivery.max_in_flight = descriptors.in_flight;
        let resolver = SystemResolver::new(&delivery, Arc::clone(&clock)).context("cannot set up name resolution")?;
        let sender = Sender::new(&delivery, Arc::clone(&clock), Arc::new(resolver)).context("cannot set up TLS")?;
        let policy = sender.policy().clone();
        let https_only = delivery.https_only;
        let delivering = Apart::for_deliveries(config.server.threads)?;
        let starting =
            Engine::start(Arc::clone(&store), Arc::new(sender), delivery, Arc::clone(&clock), Arc::clone(&entropy));
        let engine = delivering.run(starting).await??;
        let program = Program::this(&[JUDGE]).context("cannot find the program that is running")?;
        let judges = Judges::new(Place::Processes(program), config.schemas.clone());
        let intake = Arc::new(Intake::start(
            Arc::clone(&store),
            engine.dispatcher(),
            Arc::clone(&clock),
            Arc::clone(&entropy),
            &config.limits,
            Arc::clone(&judges),
        ));
        let api = Api::new(Parts {
            store: Arc::clone(&store),
            intake: Arc::clone(&intake),
            judges,
            workers: Workers::start().context("cannot start threads")?,
            clock: Arc::clone(&clock),
            entropy,
            check_url: Arc::new(move |url| {
                let refused = |why: Forbidden| UrlRefused { reason: why.to_string(), remedy: why.remedy() };
                policy.check_literal(url).map_err(refused)
            }),
            https_only,
            auth: config.auth.clone(),
            signing: config.signing.clone(),
            public_url: config.server.public_url.clone(),
            limits: config.limits.clone(),
            connections: descriptors.connections.into(),
        });
        let upkeep = start_upkeep(&store, &intake, &clock, &config.retention);
        let agents = vec![("key usage", tokio::spawn(api.key_usage().run()))];
        let mut supervisor = Supervisor::default();
        for (part, agent) in upkeep.iter().chain(&agents) {
            let agent = agent.abort_handle();
            supervisor.watch(part, move || agent.is_finished());
        }
        for (part, agent) in engine.agents() {
            supervisor.watch(part, move || agent.is_finished());
        }
        let (watched, writer) = (Arc::clone(&intake), Arc::clone(&store));
        supervisor.watch("intake", move || !watched.is_alive());
        supervisor.watch("the store's writer", move || !writer.is_alive());
        let supervisor = Arc::new(supervisor);
        Ok(Self {
            store,
            api,
            connections: descriptors.connections,
            intake,
            engine,
            delivering,
            upkeep,
            agents,
            supervisor,
        })
    }

    /// What watches the parts that the server cannot do without.
    pub(crate) fn supervisor(&self) -> Arc<Supervisor> {
        Arc::clone(&self.supervisor)
    }

    /// Ends in order, within the time that the phases have. `answering` completes when the API has answered what it was
    /// asked; meanwhile deliveries under way come to an end.
    pub(crate) async fn stop(self, answering: impl Future<Output = ()>, phases: Phases) {
        for (_, agent) in self.upkeep {
            agent.abort();
        }
        let answered = async {
            if timeout(phases.drain, answering).await.is_err() {
                tracing::warn!("clients still had requests in flight; their connections were closed");
            }
        };
        let rest = async {
            tokio::join!(answered, self.engine.shutdown());
            self.intake.close().await;
            for (_, agent) in self.agents {
                agent.abort();
            }
            self.api.key_usage().flush().await;
            // Whatever of it is left is refused by the store from then on.
            drop(self.delivering);
            self.store.close().await;
        };
        if timeout(phases.drain + phases.close, rest).await.is_err() {
            tracing::warn!("the store did not close in time; the next start finds everything that was committed");
        }
    }
}

/// How the time that a shutdown may take in all is divided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phases {
    /// For requests under way.
    pub(crate) drain: Duration,
    /// Then, for the store.
    pub(crate) close: Duration,
    /// Then, for the last lines of the log.
    pub(crate) last_words: Duration,
}

impl Phases {
    /// The last two need little: an eighth of the whole, and at most a second.
    pub(crate) fn of(whole: Duration) -> Self {
        let rest = (whole / 8).min(Duration::from_secs(1));
        // There are two streams to wait for.
        Self { drain: whole - rest, close: rest / 2, last_words: rest / 4 }
    }
}

/// What the file descriptors are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Descriptors {
    /// Connections of callers.
    connections: u32,
    /// Requests to endpoints.
    in_flight: u32,
}

/// Shares out `descriptors`: some are kept for store, log and listener; callers get a quarter of the rest at most, so that
/// deliveries always have what they need; and deliveries get what is left.
fn descriptor_budget(descriptors: u64, connections: u32, in_flight: u32) -> Descriptors {
    let rest = descriptors.saturating_sub(OTHER_DESCRIPTORS);
    let most = u32::try_from((rest / API_PART).max(LEAST)).unwrap_or(u32::MAX);
    let connections = connections.max(1).min(most);
    let rest = rest.saturating_sub(connections.into());
    Descriptors { connections, in_flight: most_in_flight(rest, in_flight) }
}

/// The most requests under way, of those that are wanted, for which so many descriptors are enough.
fn most_in_flight(descriptors: u64, wanted: u32) -> u32 {
    let (mut fits, mut beyond) = (wanted.min(LEAST as u32), wanted.saturating_add(1));
    while beyond - fits > 1 {
        let middle = fits + (beyond - fits) / 2;
        if postrider_delivery::descriptors(middle) <= descriptors { fits = middle } else { beyond = middle }
    }
    fits
}

/// Raises the limit on open files as far as allowed, and returns it, if there is one.
fn raise_open_files() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_err() {
        limit = getrlimit(Resource::Nofile);
    }
    limit.current
}

/// Refuses to start where nothing but failures would follow. `judges` is what the processes that compare payloads may take.
fn check_open_files(most: Option<u64>, judges: u64) -> anyhow::Result<()> {
    let least = least_descriptors() + judges;
    if let Some(most) = most.filter(|most| *most < least) {
        anyhow::bail!(
            "the limit on open files is {most}, and a server needs {least} or more, {judges} of them for schemas.processes: \
             raise it (`ulimit -n`, LimitNOFILE of systemd, --ulimit nofile of Docker)"
        );
    }
    Ok(())
}

/// Keeps connections and requests under way within so many descriptors, if there is a limit.
fn fit_to_descriptors(descriptors: Option<u64>, options: &ServerOptions, in_flight: u32) -> Descriptors {
    let connections = options.max_connections;
    let Some(descriptors) = descriptors else { return Descriptors { connections, in_flight } };
    let fitting = descriptor_budget(descriptors, connections, in_flight);
    if fitting.in_flight < in_flight {
        let lowered = fitting.in_flight;
        tracing::warn!(descriptors, "delivery.max_in_flight is lowered to {lowered} to fit the limit on open files");
    }
    if fitting.connections < connections {
        let (lowered, each) = (fitting.connections, options.most_per_address(fitting.connections));
        tracing::warn!(
            descriptors,
            "server.max_connections is lowered to {lowered} to fit the limit on open files, and max_connections_per_address to {each}"
        );
    }
    fitting
}

#[cfg(test)]
mod tests {
    use postrider_domain::clock::Sleep;
    use postrider_domain::ids::MessageId;
    use postrider_domain::time::Timestamp;
    use postrider_ingest::{LimitOptions, SchemaOptions};
    use postrider_store::{Dispatch, HandOver};

    use super::*;

    /// A clock whose reader panics.
    struct BrokenClock;

    impl Clock for BrokenClock {
        fn now(&self) -> Timestamp {
            panic!("a bug");
        }

        fn wall(&self) -> Timestamp {
            panic!("a bug");
        }

        fn sleep_until(&self, _: Timestamp) -> Sleep {
            panic!("a bug");
        }
    }

    struct Nowhere;

    impl Dispatch for Nowhere {
        fn announce(&self, _: &[MessageId]) {}

        fn dispatch(&self, _: HandOver) {}
    }

    #[tokio::test]
    async fn every_agent_that_panics_is_missed() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("test.db"), Ownership::Owner).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let (clock, entropy) = machine();
        let broken: Arc<dyn Clock> = Arc::new(BrokenClock);
        let intake = |clock: &Arc<dyn Clock>| {
            let judges = Judges::new(Place::Threads, SchemaOptions::default());
            let limits = LimitOptions::default();
            let (store, clock) = (Arc::clone(&store), Arc::clone(clock));
            Arc::new(Intake::start(store, Arc::new(Nowhere), clock, Arc::clone(&entropy), &limits, judges))
        };
        let mut watched = start_upkeep(&store, &intake(&clock), &broken, &RetentionOptions::default());
        // It removes old idempotency keys, beside storing messages.
        let sweeping = intake(&broken);
        watched.push(("intake", tokio::spawn(std::future::pending())));
        for (part, agent) in watched {
            let (agent, sweeping) = (agent.abort_handle(), Arc::clone(&sweeping));
            let mut supervisor = Supervisor::default();
            supervisor.watch("another", || false);
            supervisor.watch(part, move || if part == "intake" { !sweeping.is_alive() } else { agent.is_finished() });
            assert_eq!(supervisor.first_to_end().await, part);
        }
        store.close().await;
    }

    #[test]
    fn descriptors_are_shared_out_so_that_neither_callers_nor_endpoints_take_those_of_the_others() {
        for (descriptors, connections, in_flight) in [(256, 32, 35), (1_024, 224, 245), (20_000, 2_048, 4_096)] {
            let budget = descriptor_budget(descriptors, 2_048, 4_096);
            assert_eq!(budget, Descriptors { connections, in_flight }, "{descriptors}");
            let most = OTHER_DESCRIPTORS + u64::from(connections) + postrider_delivery::descriptors(in_flight);
            assert!(most <= descriptors);
        }
        assert_eq!(descriptor_budget(64, 2_048, 4_096), Descriptors { connections: 16, in_flight: 16 });
    }
}
