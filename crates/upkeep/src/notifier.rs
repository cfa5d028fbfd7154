//! Operational webhooks: takes notices from the outbox, and submits each as a message of the management environment.
//!
//! A notice is removed after its message is on disk. A crash in between submits it again under the same idempotency key,
//! which accepts nothing twice. From there on it is a message like any other: signed, filtered and retried.
//!
//! Recipients have nothing to do with each other: one whose notices can't be submitted is left alone for a while, longer
//! each time, and everybody else's go on.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use postrider_domain::application::EnvironmentId;
use postrider_domain::clock::Clock;
use postrider_domain::names::{IdOrUid, Uid};
use postrider_domain::time::Timestamp;
use postrider_ingest::{Intake, Submission, SubmitError};
use postrider_store::{ApplicationKey, EndpointKey, IdempotencyKey, MessageKey, Notice, Observer, Store, StoreError};
use ring::digest::{Context, SHA256};
use tokio::sync::Notify;

use crate::pause::{AFTER_FAILURE, sleep, sleep_or};

/// Notices that are submitted together.
const BATCH: usize = 128;

/// The longest time without a look at the outbox. Only news that was missed waits for it.
const LONGEST: Duration = Duration::from_secs(60);

/// The longest time that a recipient is left alone.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Sends what is in the outbox.
pub struct Notifier {
    store: Arc<dyn Store>,
    intake: Arc<Intake>,
    clock: Arc<dyn Clock>,
    filled: Arc<Filled>,
}

/// Hears of new notices.
#[derive(Default)]
struct Filled(Notify);

impl Observer for Filled {
    fn endpoint_changed(&self, _: EndpointKey, _: Option<ApplicationKey>) {}
    fn work_added(&self, _: EndpointKey, _: Option<ApplicationKey>) {}
    fn messages_expunged(&self, _: &[MessageKey]) {}

    fn notice_added(&self) {
        self.0.notify_one();
    }
}

impl Notifier {
    /// Makes one that hears of new notices from now on.
    pub fn new(store: Arc<dyn Store>, intake: Arc<Intake>, clock: Arc<dyn Clock>) -> Self {
        let filled = Arc::new(Filled::default());
        store.observe(Arc::clone(&filled) as Arc<dyn Observer>);
        Self { store, intake, clock, filled }
    }

    /// Runs until the store is closed.
    pub async fn run(self) {
        let mut parked = Parked::default();
        loop {
            match self.drain(&mut parked).await {
                Ok(()) => sleep_or(&self.clock, parked.shortest_wait(self.clock.now()), &self.filled.0).await,
                Err(StoreError::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "operational webhooks could not be sent yet; trying again");
                    sleep(&self.clock, AFTER_FAILURE).await;
                }
            }
        }
    }

    /// Submits everything that is in the outbox, but for recipients that are left alone.
    async fn drain(&self, parked: &mut Parked) -> Result<(), StoreError> {
        loop {
            let now = self.clock.now();
            let notices = self.store.notices(BATCH, parked.still(now)).await?;
            if notices.is_empty() {
                parked.forget_before(now);
                return Ok(());
            }
            // Polled in order, so they are queued, and accepted, in order.
            let results = join_all(notices.iter().map(|notice| self.try_submit(notice))).await;
            let done = notices.iter().zip(&results).filter(|(_, result)| result.is_ok());
            self.store.remove_notices(done.map(|(notice, _)| notice.key).collect()).await?;
            parked.learn(&notices, results, self.clock.now())?;
        }
    }

    /// Submits a notice; one that makes this panic concerns its recipient only.
    async fn try_submit(&self, notice: &Notice) -> Result<(), Problem> {
        match AssertUnwindSafe(self.submit(notice)).catch_unwind().await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(SubmitError::Unavailable(StoreError::Closed))) => Err(Problem::Closed),
            Ok(Err(error)) => Err(Problem::Other(error.to_string())),
            Err(_) => Err(Problem::Other("submitting it panicked".to_owned())),
        }
    }

    async fn submit(&self, notice: &Notice) -> Result<(), SubmitError> {
        let submission = Submission {
            environment: EnvironmentId::management(),
            application: IdOrUid::Uid(notice.recipient.as_str().into()),
            event_type: notice.event_type.clone(),
            event_id: None,
            channels: None,
            payload: notice.payload.clone(),
            tags: None,
            deliver_at: None,
            retention: None,
            create_application: None,
            only: None,
            idempotency: Some(key(notice)),
        };
        match self.intake.submit(submission).await {
            Ok(_) => Ok(()),
            // Nobody wants to be told any more.
            Err(SubmitError::ApplicationNotFound) => Ok(()),
            // Trying again would keep all later ones waiting.
            Err(SubmitError::Refused(_)) => {
                tracing::warn!(event_type = %notice.event_type, "the rules of the management environment refuse a notice");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// A notice could not be submitted.
enum Problem {
    Closed,
    Other(String),
}

/// Recipients that are left alone for a while.
#[derive(Default)]
struct Parked(HashMap<Uid, Wait>);

struct Wait {
    tries: u32,
    not_before: Timestamp,
}

impl Parked {
    /// Those whose time has not come.
    fn still(&self, now: Timestamp) -> Vec<Uid> {
        self.0.iter().filter(|(_, wait)| wait.not_before > now).map(|(recipient, _)| recipient.clone()).collect()
    }

    /// Forgets those whose time has come and for whom there is nothing.
    fn forget_before(&mut self, now: Timestamp) {
        self.0.retain(|_, wait| wait.not_before > now);
    }

    fn shortest_wait(&self, now: Timestamp) -> Duration {
        let next = self.0.values().map(|wait| wait.not_before.since(now)).min();
        next.map_or(LONGEST, |next| next.clamp(Duration::from_millis(1), LONGEST))
    }

    /// Takes in what became of a batch.
    fn learn(
        &mut self,
        notices: &[Notice],
        results: Vec<Result<(), Problem>>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut failed: HashMap<&Uid, String> = HashMap::new();
        for (notice, result) in notices.iter().zip(results) {
            match result {
                Ok(()) => {}
                Err(Problem::Closed) => return Err(StoreError::Closed),
                Err(Problem::Other(problem)) => drop(failed.insert(&notice.recipient, problem)),
            }
        }
        for notice in notices {
            if !failed.contains_key(&notice.recipient) {
                self.0.remove(&notice.recipient);
            }
        }
        for (recipient, problem) in failed {
            let tries = self.0.get(recipient).map_or(0, |wait| wait.tries) + 1;
            let wait = AFTER_FAILURE.saturating_mul(2_u32.saturating_pow(tries - 1)).min(LONGEST_WAIT);
            self.0.insert(recipient.clone(), Wait { tries, not_before: now.saturating_add(wait) });
            tracing::warn!(%recipient, problem, tries, "failed to send operational webhooks to an operator; trying again later");
        }
        Ok(())
    }
}

/// The same for the same notice always. Its content is part of it: a database that was restored counts from an earlier
/// number on.
fn key(notice: &Notice) -> IdempotencyKey {
    let mut hash = Context::new(&SHA256);
    hash.update(b"outbox");
    hash.update(&notice.key.0.to_le_bytes());
    hash.update(&notice.payload);
    let mut key = [0; 16];
    key.copy_from_slice(&hash.finish().as_ref()[..16]);
    IdempotencyKey(key)
}
