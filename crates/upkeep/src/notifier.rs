//! Operational webhooks: takes notices from the outbox, and submits each as a message of the management environment.
//!
//! A notice is removed after its message is on disk. A crash in between submits it again under the same idempotency key,
//! which accepts nothing twice. From there on it is a message like any other: signed, filtered and retried.
//!
//! Recipients have nothing to do with each other. They take turns, a few notices each, which are submitted in order; nobody waits
//! for another's to be submitted. To each of them, the applications that the notices are about take turns. One whose notices can't be submitted is left alone for a while, longer each time, and
//! everybody else's go on.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use postrider_domain::application::EnvironmentId;
use postrider_domain::clock::Clock;
use postrider_domain::names::{IdOrUid, Uid};
use postrider_domain::time::Timestamp;
use postrider_ingest::{Intake, Submission, SubmitError};
use postrider_store::{
    ApplicationKey, EndpointKey, IdempotencyKey, MessageKey, Notice, NoticeTurn, Observer, Store, StoreError,
};
use ring::digest::{Context, SHA256};
use tokio::sync::Notify;

use crate::limits::{NOTICES_OF_TURN, RECIPIENTS_AT_A_TIME};
use crate::pause::{AFTER_FAILURE, sleep, sleep_or};

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
            match self.send_all(&mut parked).await {
                Ok(()) => sleep_or(&self.clock, parked.shortest_wait(self.clock.now()), &self.filled.0).await,
                Err(StoreError::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "operational webhooks could not be sent yet; trying again");
                    sleep(&self.clock, AFTER_FAILURE).await;
                }
            }
        }
    }

    /// Submits everything that is in the outbox, but for recipients that are left alone. If the store fails meanwhile, what is being
    /// submitted is submitted once more: its key accepts it once.
    async fn send_all(&self, parked: &mut Parked) -> Result<(), StoreError> {
        let mut under_way = FuturesUnordered::new();
        let mut busy: HashSet<Uid> = HashSet::new();
        let mut last = None;
        let mut after_application = HashMap::new();
        loop {
            let now = self.clock.now();
            let mut except = parked.still(now);
            except.extend(busy.iter().cloned());
            let recipients = RECIPIENTS_AT_A_TIME - busy.len();
            let (after, of_each) = (last.clone(), after_application.clone());
            let turn = NoticeTurn { after, except, after_application: of_each, recipients, each: NOTICES_OF_TURN };
            for notices in self.store.notices(turn).await?.chunk_by(|one, next| one.recipient == next.recipient) {
                let recipient = &notices[0].recipient;
                let last_of_it = last_in_turn(after_application.get(recipient).copied(), notices);
                after_application.insert(recipient.clone(), last_of_it);
                last = Some(recipient.clone());
                busy.extend(last.clone());
                under_way.push(self.send(notices.to_vec()));
            }
            if busy.is_empty() {
                parked.forget_before(now);
                return Ok(());
            }
            // Whose wait ends meanwhile has his turn soon: as somebody is at work, somebody will be done.
            let news = async {
                tokio::select! {
                    sent = under_way.select_next_some() => Some(sent),
                    () = sleep_or(&self.clock, parked.shortest_wait(now), &self.filled.0), if recipients > 0 => None,
                }
            };
            let Some(sent) = news.await else { continue };
            busy.remove(&sent.recipient);
            parked.learn(sent, self.clock.now())?;
        }
    }

    /// Submits a recipient's notices, and removes those that were accepted.
    async fn send(&self, notices: Vec<Notice>) -> Sent {
        let recipient = notices[0].recipient.clone();
        // Polled in order, so they are queued, and accepted, in order.
        let results = join_all(notices.iter().map(|notice| self.try_submit(notice))).await;
        let done = notices.iter().zip(&results).filter(|(_, result)| result.is_ok());
        let removed = self.store.remove_notices(done.map(|(notice, _)| notice.key).collect()).await;
        let removed = removed.map_err(|error| match error {
            StoreError::Closed => Problem::Closed,
            error => Problem::Other(error.to_string()),
        });
        Sent { recipient, result: results.into_iter().chain([removed]).find(Result::is_err).unwrap_or(Ok(())) }
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

/// Which application had its turn last: those after the one that had it before came first.
fn last_in_turn(before: Option<ApplicationKey>, notices: &[Notice]) -> ApplicationKey {
    let applications = || notices.iter().map(|notice| notice.application);
    let from_the_first = applications().filter(|application| Some(*application) <= before).max();
    from_the_first.or(applications().max()).unwrap_or(ApplicationKey(i64::MIN))
}

/// A notice could not be submitted.
enum Problem {
    Closed,
    Other(String),
}

/// What became of a recipient's turn.
struct Sent {
    recipient: Uid,
    result: Result<(), Problem>,
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

    /// Until the next one's time comes.
    fn shortest_wait(&self, now: Timestamp) -> Duration {
        let waits = self.0.values().filter(|wait| wait.not_before > now).map(|wait| wait.not_before.since(now));
        waits.min().unwrap_or(LONGEST).min(LONGEST)
    }

    /// Takes in what became of a turn.
    fn learn(&mut self, Sent { recipient, result }: Sent, now: Timestamp) -> Result<(), StoreError> {
        match result {
            Ok(()) => drop(self.0.remove(&recipient)),
            Err(Problem::Closed) => return Err(StoreError::Closed),
            Err(Problem::Other(problem)) => {
                let tries = self.0.get(&recipient).map_or(0, |wait| wait.tries) + 1;
                let wait = AFTER_FAILURE.saturating_mul(2_u32.saturating_pow(tries - 1)).min(LONGEST_WAIT);
                tracing::warn!(%recipient, problem, tries, "failed to send operational webhooks to an operator; trying again later");
                self.0.insert(recipient, Wait { tries, not_before: now.saturating_add(wait) });
            }
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
