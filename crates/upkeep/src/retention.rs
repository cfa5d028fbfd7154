//! Removing what is kept no longer: payloads whose time has come, later their messages with all attempts, what belongs to
//! deleted applications, tasks that ended long ago, URLs
//! that nothing refers to, and positions that nobody reads from any more.
//!
//! Everything goes in slices with pauses as long as themselves between them. Nothing depends on when this runs, except
//! that something is there for a few minutes longer than it was to be. A clock that may be wrong removes nothing (`trust`).

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::clock::Clock;
use postrider_domain::settings::Span;
use postrider_domain::time::Timestamp;
use postrider_store::{ApplicationKey, EndpointKey, MessageKey, Observer, Store, StoreError, Swept};
use tokio::sync::{Mutex, Notify};

use crate::pause::{sleep, sleep_or};
use crate::trust::{Trust, Verdict};

/// How many rows a slice looks at.
const SLICE_ROWS: usize = 500;

/// How many rows a slice removes where each is in several tables.
const SLICE_REMOVED: usize = 250;

/// The pause between sweeps.
const BETWEEN_SWEEPS: Duration = Duration::from_secs(5 * 60);

/// The pause between looks for URLs that nothing refers to any more: a look may have to walk all attempts of an endpoint.
const BETWEEN_LOOKS_AT_URLS: Duration = Duration::from_secs(86_400);

/// For how long tasks are shown after they ended.
const TASKS_KEPT: Duration = Duration::from_secs(90 * 86_400);

fn span(text: &str) -> Span {
    text.parse().unwrap_or(Span(Duration::MAX))
}

postrider_domain::options! {
    /// For how long things are kept.
    pub struct RetentionOptions in "retention" {
        /// How long the payload of a message is kept after it was due, if the message itself does not say. It goes within
        /// minutes then; the message and its attempts stay. A delivery that is to be tried again later than that is canceled, and
        /// the log says so: keep payloads for longer than `delivery.retry_schedule` takes (`config check` warns of it).
        #[within("1ms", "36500d")]
        pub payload: Span = span("90d"),
        /// How long a message is kept after it was due, with its attempts and whatever is left of its payload. One that is
        /// still to be delivered stays until it was. The space of what is removed is used again by what comes, so that the
        /// file grows no further than what is kept needs. Data of a deleted application goes at once.
        #[within("1ms", "36500d")]
        pub history: Span = span("90d"),
    }
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Payloads whose time had come.
    pub payloads: usize,
    /// Messages whose time had come, with their attempts.
    pub messages: usize,
    /// What was left of deleted applications and endpoints.
    pub erased: usize,
}

/// Removes what is kept no longer.
pub struct Sweeper {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    options: RetentionOptions,
    trust: Mutex<Trust>,
    deleted: Arc<Deleted>,
    /// When URLs were looked at last.
    urls_at: Mutex<Option<Timestamp>>,
}

/// Hears of applications that are deleted.
#[derive(Default)]
struct Deleted(Notify);

impl Observer for Deleted {
    fn endpoint_changed(&self, _: EndpointKey, _: Option<ApplicationKey>) {}
    fn work_added(&self, _: EndpointKey, _: Option<ApplicationKey>) {}
    fn messages_expunged(&self, _: &[MessageKey]) {}

    fn application_deleted(&self) {
        self.0.notify_one();
    }
}

impl Sweeper {
    /// Makes one with these settings, which hears of deleted applications from now on.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, options: RetentionOptions) -> Self {
        let deleted = Arc::new(Deleted::default());
        store.observe(Arc::clone(&deleted) as Arc<dyn Observer>);
        Self { store, clock, options, trust: Mutex::default(), deleted, urls_at: Mutex::default() }
    }

    /// Runs until the store is closed.
    pub async fn run(self) {
        loop {
            match self.sweep().await {
                Ok(removed) if removed == Removed::default() => {}
                Ok(Removed { payloads, messages, erased }) => {
                    tracing::info!(payloads, messages, erased, "expired data was removed");
                }
                Err(StoreError::Closed) => return,
                Err(error) => tracing::warn!(%error, "failed to remove expired data; trying again"),
            }
            sleep_or(&self.clock, BETWEEN_SWEEPS, &self.deleted.0).await;
        }
    }

    /// Removes everything whose time has come.
    pub async fn sweep(&self) -> Result<Removed, StoreError> {
        let mut removed = Removed { erased: self.slices(Slice::Deleted).await?, ..Removed::default() };
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let seen = self.store.clock_seen().await?;
        match self.trust.lock().await.look(now, wall, seen) {
            Verdict::Right { keys } => self.store.note_clock(now, keys).await?,
            Verdict::Doubted(seen) => {
                self.store.note_doubt(seen).await?;
                return Ok(removed);
            }
        }
        removed.payloads = self.slices(Slice::Payloads).await?;
        removed.messages = self.slices(Slice::Messages).await?;
        self.forget_urls(now).await?;
        let before = now.saturating_sub(TASKS_KEPT);
        while self.store.forget_tasks(before, SLICE_ROWS).await? == SLICE_ROWS {}
        let before = now.saturating_sub(self.options.history.0.max(TASKS_KEPT));
        while self.store.forget_leftovers(before, SLICE_ROWS).await? >= SLICE_ROWS {}
        Ok(removed)
    }

    /// Once a day, removes URLs that endpoints have no longer and no attempt names.
    async fn forget_urls(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut last = self.urls_at.lock().await;
        if last.is_some_and(|at| now.since(at) < BETWEEN_LOOKS_AT_URLS) {
            return Ok(());
        }
        self.slices(Slice::Urls).await?;
        *last = Some(now);
        Ok(())
    }

    /// Removes things of one kind until there are no more; returns how many.
    async fn slices(&self, kind: Slice) -> Result<usize, StoreError> {
        let mut removed = 0;
        loop {
            let began = self.clock.now();
            let swept = self.slice(kind, began).await?;
            removed += swept.removed;
            if !swept.more {
                return Ok(removed);
            }
            sleep(&self.clock, self.clock.now().since(began)).await;
        }
    }

    async fn slice(&self, kind: Slice, now: Timestamp) -> Result<Swept, StoreError> {
        match kind {
            Slice::Deleted => self.store.erase_deleted(now, SLICE_REMOVED).await,
            Slice::Payloads => self.store.sweep_payloads(now, self.options.payload.0, SLICE_ROWS).await,
            Slice::Messages => self.store.sweep_messages(now, self.options.history.0, SLICE_REMOVED).await,
            Slice::Urls => self.store.forget_urls(now.saturating_sub(self.options.history.0), SLICE_ROWS).await,
        }
    }
}

/// What is removed slice by slice.
#[derive(Debug, Clone, Copy)]
enum Slice {
    Deleted,
    Payloads,
    Messages,
    Urls,
}
