//! Operational webhooks: takes notices from the outbox, and submits each as a message of the management environment.
//!
//! A notice is removed after its message is on disk. A crash in between submits it again under the same idempotency key,
//! which accepts nothing twice. From there on it is a message like any other: signed, filtered and retried.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use postrider_domain::application::EnvironmentId;
use postrider_domain::clock::Clock;
use postrider_domain::names::IdOrUid;
use postrider_ingest::{Intake, Submission, SubmitError};
use postrider_store::{EndpointKey, IdempotencyKey, MessageKey, Notice, Observer, Store, StoreError};
use ring::digest::{Context, SHA256};
use tokio::sync::Notify;

use crate::pause::{AFTER_FAILURE, sleep, sleep_or};

/// Notices that are submitted together.
const BATCH: usize = 128;

/// The longest time without a look at the outbox. Only news that was missed waits for it.
const LONGEST: Duration = Duration::from_secs(60);

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
    fn endpoint_changed(&self, _: EndpointKey) {}
    fn work_added(&self, _: EndpointKey) {}
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
        loop {
            match self.drain().await {
                Ok(()) => sleep_or(&self.clock, LONGEST, &self.filled.0).await,
                Err(Problem::Store(StoreError::Closed)) => return,
                Err(problem) => {
                    tracing::warn!(%problem, "operational webhooks could not be sent yet; trying again");
                    sleep(&self.clock, AFTER_FAILURE).await;
                }
            }
        }
    }

    /// Submits everything that is in the outbox.
    async fn drain(&self) -> Result<(), Problem> {
        loop {
            let notices = self.store.notices(BATCH).await?;
            if notices.is_empty() {
                return Ok(());
            }
            // Polled in order, so they are queued, and accepted, in order.
            let results = join_all(notices.iter().map(|notice| self.submit(notice))).await;
            let done = notices.iter().zip(&results).filter(|(_, result)| result.is_ok());
            self.store.remove_notices(done.map(|(notice, _)| notice.key).collect()).await?;
            results.into_iter().collect::<Result<Vec<()>, SubmitError>>()?;
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

/// Notices could not be sent.
enum Problem {
    Store(StoreError),
    Submit(SubmitError),
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Unavailable(error) => Self::Store(error),
            error => Self::Submit(error),
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Submit(error) => error.fmt(f),
        }
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
