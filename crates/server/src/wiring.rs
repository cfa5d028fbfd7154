//! Putting the server together: store, engine, intake and API, in the order in which they need each other, and taking it
//! apart in reverse.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use postrider_api::{Api, Parts};
use postrider_delivery::Engine;
use postrider_delivery::resolve::SystemResolver;
use postrider_delivery::sender::Sender;
use postrider_domain::clock::{Clock, SystemClock};
use postrider_domain::entropy::{Entropy, OsEntropy};
use postrider_ingest::Intake;
use postrider_store::Store;
use postrider_store_sqlite::{Ownership, SqliteStore};
use postrider_upkeep::{Notifier, Sweeper, TaskRunner};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::time::timeout;

use crate::config::Config;

/// File descriptors that are kept for the store, clients of the API and whatever else.
const OTHER_DESCRIPTORS: u64 = 2_048;

/// A running server, except for its listener.
pub(crate) struct Server {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) api: Api,
    intake: Arc<Intake>,
    engine: Engine,
    /// Can be stopped at any instant, and use the others.
    upkeep: Vec<tokio::task::JoinHandle<()>>,
    agents: Vec<tokio::task::JoinHandle<()>>,
}

/// The machine's time and randomness.
pub(crate) fn machine() -> (Arc<dyn Clock>, Arc<dyn Entropy>) {
    (Arc::new(SystemClock::new()), Arc::new(OsEntropy))
}

/// Opens the store that the settings name.
pub(crate) fn open_store(config: &Config, ownership: Ownership) -> anyhow::Result<Arc<dyn Store>> {
    Ok(Arc::new(SqliteStore::open(&config.sqlite_path()?, ownership)?))
}

impl Server {
    /// Opens the store and starts delivering what is in it.
    pub(crate) async fn start(config: &Config) -> anyhow::Result<Self> {
        let (clock, entropy) = machine();
        let store = open_store(config, Ownership::Owner)?;
        let mut delivery = config.delivery.clone();
        delivery.drain_timeout.0 = Phases::of(delivery.drain_timeout.0).drain;
        delivery.max_in_flight = fit_to_descriptors(delivery.max_in_flight);
        let resolver = SystemResolver::new(&delivery, Arc::clone(&clock)).context("cannot set up name resolution")?;
        let sender = Sender::new(&delivery, Arc::clone(&clock), Arc::new(resolver)).context("cannot set up TLS")?;
        let policy = sender.policy().clone();
        let https_only = delivery.https_only;
        let engine =
            Engine::start(Arc::clone(&store), sender, delivery, Arc::clone(&clock), Arc::clone(&entropy)).await?;
        let intake =
            Arc::new(Intake::start(Arc::clone(&store), engine.dispatcher(), Arc::clone(&clock), Arc::clone(&entropy)));
        let api = Api::new(Parts {
            store: Arc::clone(&store),
            intake: Arc::clone(&intake),
            clock: Arc::clone(&clock),
            entropy,
            check_url: Arc::new(move |url| policy.check_literal(url).map_err(|forbidden| forbidden.to_string())),
            https_only,
            auth: config.auth.clone(),
            signing: config.signing.clone(),
            public_url: config.server.public_url.clone(),
        });
        let notifier = Notifier::new(Arc::clone(&store), Arc::clone(&intake), Arc::clone(&clock));
        let sweeper = Sweeper::new(Arc::clone(&store), Arc::clone(&clock), config.retention.clone());
        let tasks = TaskRunner::new(Arc::clone(&store), Arc::clone(&clock));
        let upkeep = vec![tokio::spawn(notifier.run()), tokio::spawn(tasks.run()), tokio::spawn(sweeper.run())];
        let agents = vec![tokio::spawn(api.key_usage().run())];
        Ok(Self { store, api, intake, engine, upkeep, agents })
    }

    /// Ends in order, within the time that the phases have. `answering` completes when the API has answered what it was
    /// asked; meanwhile deliveries under way come to an end.
    pub(crate) async fn stop(self, answering: impl Future<Output = ()>, phases: Phases) {
        for agent in self.upkeep {
            agent.abort();
        }
        let answered = async {
            if timeout(phases.drain, answering).await.is_err() {
                tracing::warn!("clients still had requests under way; their connections were cut");
            }
        };
        let rest = async {
            tokio::join!(answered, self.engine.shutdown());
            self.intake.close().await;
            for agent in self.agents {
                agent.abort();
            }
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

/// Raises the limit on open files as far as allowed, and keeps the requests under way within it.
fn fit_to_descriptors(wanted: u32) -> u32 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_err() {
        limit = getrlimit(Resource::Nofile);
    }
    let Some(descriptors) = limit.current else { return wanted };
    // Every lane may have one request beyond the budget, so a request may cost two descriptors.
    let fitting = u32::try_from(descriptors.saturating_sub(OTHER_DESCRIPTORS) / 2).unwrap_or(u32::MAX).max(16);
    if fitting < wanted {
        tracing::warn!(descriptors, "delivery.max_in_flight is lowered to {fitting} to fit the limit on open files");
    }
    wanted.min(fitting)
}
