//! The one way in: judges a message by the rules of its environment, finds the endpoints that want it, and has it accepted.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::application::{Application, EnvironmentId};
use postrider_domain::clock::Clock;
use postrider_domain::entropy::Entropy;
use postrider_domain::event_type_set::EventTypeDigest;
use postrider_domain::ids::{ApplicationId, MessageId};
use postrider_domain::message::{MAX_DELAY, Message};
use postrider_domain::names::{Channel, EventTypeName, IdOrUid};
use postrider_domain::time::Timestamp;
use postrider_store::{
    AcceptError, Accepted, Dispatch, EndpointKey, IdempotencyKey, NewMessage, Routes, Store, StoreError, Target,
    WriteError,
};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};

use crate::batcher::{self, Batcher, Turned, Waiting};
use crate::budget::Refused;
use crate::judge::{Judges, MAX_WAITING};
use crate::options::LimitOptions;
use crate::routes::{Name, RouteCache};
use crate::rules::{RuleCache, Verdict};
use crate::submission::{NewApplication, Submission, SubmitError, Submitted, Violation};
use crate::sweeper;
use crate::turns::{Crowded, Tenant, Turn, Turns};

/// For how long an idempotency key is remembered (rest-contract §13).
pub(crate) const KEY_LIFETIME: Duration = Duration::from_secs(12 * 3_600);

/// How often routes are loaded anew for one message before it is given up: each time, somebody changed its environment's rules
/// in between. (Whoever changes endpoints keeps no message out: see [`NewMessage::rules`].)
pub(crate) const MAX_RELOADS: usize = 10;

postrider_domain::limits! {
    in "Requests";
    /// How long a large body, or an answer to one, waits for its turn to be read or written
    const READING_WAIT_SECONDS: u64 = 10, "seconds", beyond "503 with `Retry-After`";
    /// Those of one application's tokens, or of what the operator sends for one, that wait for it
    const MAX_READINGS_WAITING: usize = 1_024, "bodies", beyond "429";
}

const _: () = assert!(MAX_READINGS_WAITING == MAX_WAITING, "who waits for either kind of turns is bounded alike");

/// Large bodies that are read at a time: on half of the cores, so that the others are there for whoever sends little.
fn at_a_time() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2)
}

/// Takes messages in.
pub struct Intake {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    pub(crate) routes: RouteCache,
    pub(crate) rules: RuleCache,
    pub(crate) batcher: Arc<Batcher>,
    readings: Arc<Turns>,
    task: Mutex<Option<JoinHandle<()>>>,
    sweeper: AbortHandle,
}

impl Intake {
    /// Starts taking messages in, and hands them to `dispatcher`. Must be called within a tokio runtime.
    pub fn start(
        store: Arc<dyn Store>,
        dispatcher: Arc<dyn Dispatch>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        limits: &LimitOptions,
        judges: Arc<Judges>,
    ) -> Self {
        let batcher = Arc::new(Batcher::new(limits.queue_bytes));
        let task = tokio::spawn(batcher::run(Arc::clone(&batcher), Arc::clone(&store), dispatcher));
        let sweeper = tokio::spawn(sweeper::run(Arc::clone(&store), Arc::clone(&clock))).abort_handle();
        let (routes, rules) = (RouteCache::new(), RuleCache::new(judges));
        let readings = Turns::for_work(at_a_time());
        Self { store, clock, entropy, routes, rules, batcher, readings, task: Mutex::new(Some(task)), sweeper }
    }

    /// Waits until a tenant may have another large body read. Whoever has the turn waits for nothing that depends on what
    /// clients send or read: others could wait for it as long.
    pub async fn reading_turn(&self, tenant: Tenant) -> Result<Turn, SubmitError> {
        let wait = Duration::from_secs(READING_WAIT_SECONDS);
        match tokio::time::timeout(wait, self.readings.take(tenant)).await {
            Ok(turn) => turn.map_err(|Crowded| SubmitError::TooMany),
            // Others may have all of them.
            Err(_) => Err(SubmitError::Overloaded),
        }
    }

    /// Accepts a message. `Ok` means that it is on disk, with its deliveries and its key.
    pub async fn submit(&self, mut submission: Submission) -> Result<Submitted, SubmitError> {
        let name = (submission.environment.clone(), submission.application.clone());
        let brought = submission.create_application.take();
        let mut routes = match self.routes.get(self.store.as_ref(), &name).await? {
            Some(routes) => routes,
            None => self.make(&name, brought.clone()).await?,
        };
        let draft = self.draft(submission, self.clock.now())?;
        for reloads in 0..MAX_RELOADS {
            let mut warnings = Vec::new();
            if draft.is_judged_by(&routes) {
                match Box::pin(self.judge(&name, routes, &draft.message, &brought)).await? {
                    (checked, Verdict::Passes(violations)) => (routes, warnings) = (checked, violations),
                    (checked, Verdict::Refused(violations)) => return self.refuse(&checked, &draft, violations).await,
                }
            }
            let (new, targets) = draft.fan_out(&routes, RoutesRead::after(reloads));
            let endpoints = targets.len();
            match self.accept(&name.0, new, targets).await? {
                Ok(Accepted::New(_)) => {
                    return Ok(Submitted { message: draft.message, replayed: false, warnings, endpoints });
                }
                Ok(Accepted::Replayed(message)) => {
                    return Ok(Submitted { message, replayed: true, warnings, endpoints });
                }
                Err(AcceptError::Conflict) => return Err(SubmitError::Conflict),
                Err(AcceptError::Store(error) | AcceptError::Unsure { error, .. }) => return Err(error.into()),
                Err(AcceptError::Stale) => routes = self.reload_or_make(&name, &brought).await?,
            }
        }
        Err(SubmitError::RulesChanging)
    }

    /// The message of a submission.
    pub(crate) fn draft(&self, submission: Submission, now: Timestamp) -> Result<Draft, SubmitError> {
        let key = submission.idempotency.map(|key| (key, self.store.believed(now).saturating_sub(KEY_LIFETIME)));
        let deliver_at = submission.deliver_at.filter(|at| *at > now);
        let expires_at = submission.retention.map(|kept| now.saturating_add(kept));
        if deliver_at.is_some_and(|at| at >= expires_at.unwrap_or(now.saturating_add(MAX_DELAY))) {
            return Err(SubmitError::DeliverAtTooLate);
        }
        let message = Message {
            id: MessageId::new(now, self.entropy.as_ref()),
            event_id: submission.event_id,
            event_type: submission.event_type,
            channels: submission.channels,
            payload: Some(submission.payload),
            tags: submission.tags,
            deliver_at,
            expires_at,
            created_at: now,
        };
        Ok(Draft { message: Arc::new(message), only: submission.only, key })
    }

    /// The routes as they are now.
    pub(crate) async fn reload(&self, name: &Name) -> Result<Arc<Routes>, SubmitError> {
        self.routes.reload(self.store.as_ref(), name).await?.ok_or(SubmitError::ApplicationNotFound)
    }

    /// The same; of an application that is there no more, or by another name, those of the one that was brought along.
    async fn reload_or_make(&self, name: &Name, brought: &Option<NewApplication>) -> Result<Arc<Routes>, SubmitError> {
        match self.reload(name).await {
            Err(SubmitError::ApplicationNotFound) => self.make(name, brought.clone()).await,
            found => found,
        }
    }

    /// Makes the application that was brought along, and gives its routes.
    pub(crate) async fn make(&self, name: &Name, new: Option<NewApplication>) -> Result<Arc<Routes>, SubmitError> {
        self.create_application(&name.0, &name.1, new).await?;
        self.reload(name).await
    }

    /// Judges a message by the rules of its environment, and gives the routes by which it was judged. A refusal is one by
    /// the rules as they are now.
    async fn judge(
        &self,
        name: &Name,
        mut routes: Arc<Routes>,
        message: &Message,
        brought: &Option<NewApplication>,
    ) -> Result<(Arc<Routes>, Verdict), SubmitError> {
        for _ in 0..MAX_RELOADS {
            let verdict = self.rules.judge(self.store.as_ref(), &name.0, &routes, message, true).await?;
            if let Verdict::Passes(_) = verdict {
                return Ok((routes, verdict));
            }
            let newest = self.reload_or_make(name, brought).await?;
            // Endpoints have no say in it.
            if newest.rules_version == routes.rules_version {
                return Ok((newest, verdict));
            }
            routes = newest;
        }
        Err(SubmitError::RulesChanging)
    }

    /// Refuses a message, unless it was accepted before under its key: then the rules have changed since, and whoever
    /// asks again is told what he would have been told.
    pub(crate) async fn refuse(
        &self,
        routes: &Routes,
        draft: &Draft,
        violations: Vec<Violation>,
    ) -> Result<Submitted, SubmitError> {
        if let Some((key, not_before)) = draft.key
            && let Some(message) = self.store.accepted_under(routes.application, key, not_before).await?
        {
            let endpoints = draft.targets(routes).count();
            return Ok(Submitted { message: Arc::new(message), replayed: true, warnings: Vec::new(), endpoints });
        }
        Err(SubmitError::Refused(violations))
    }

    /// Queues a message with the endpoints that want it, and waits for its commit.
    async fn accept(
        &self,
        environment: &EnvironmentId,
        new: NewMessage,
        targets: Vec<Arc<Target>>,
    ) -> Result<Result<Accepted, AcceptError>, SubmitError> {
        let (reply, answer) = oneshot::channel();
        let application = new.application;
        self.batcher.push(environment, application, Waiting::One { new, targets, reply }).await?;
        answer.await.map_err(|_| SubmitError::Unavailable(StoreError::Closed))
    }

    /// Makes `new` if there is no such application (rest-contract §8.2).
    pub async fn ensure_application(
        &self,
        environment: &EnvironmentId,
        application: &IdOrUid<ApplicationId>,
        new: Option<NewApplication>,
    ) -> Result<(), SubmitError> {
        // What is remembered of it may be out of date.
        match self.store.application(environment, application).await? {
            Some(_) => Ok(()),
            None => self.create_application(environment, application, new).await,
        }
    }

    /// Whether a message of this type on these channels would be sent to anybody, as far as is known.
    pub async fn is_wanted(
        &self,
        environment: &EnvironmentId,
        application: &IdOrUid<ApplicationId>,
        event_type: &EventTypeName,
        channels: Option<&[Channel]>,
    ) -> Result<bool, SubmitError> {
        let name = (environment.clone(), application.clone());
        // Nothing is stored under the version of these routes, so they are read anew.
        let routes = self.routes.reload(self.store.as_ref(), &name).await?.ok_or(SubmitError::ApplicationNotFound)?;
        let event_type = EventTypeDigest::of(event_type);
        Ok(routes.targets.iter().any(|target| target.wants(event_type, channels)))
    }

    /// Makes the application that was brought along.
    async fn create_application(
        &self,
        environment: &EnvironmentId,
        application: &IdOrUid<ApplicationId>,
        new: Option<NewApplication>,
    ) -> Result<(), SubmitError> {
        let new = new.ok_or(SubmitError::ApplicationNotFound)?;
        let NewApplication { uid, name, throttle_rate, metadata } = new;
        let uid = uid.ok_or(SubmitError::ApplicationUidMissing)?;
        if !matches!(application, IdOrUid::Uid(wanted) if **wanted == *uid.as_str()) {
            return Err(SubmitError::ApplicationUidMismatch);
        }
        let now = self.clock.now();
        let id = ApplicationId::new(now, self.entropy.as_ref());
        let application =
            Application { id, uid: Some(uid), name, throttle_rate, metadata, created_at: now, updated_at: now };
        match self.store.create_application(environment, application, None).await {
            // In use: somebody else made it a moment ago, which is as good.
            Ok(_) | Err(WriteError::Conflict) => Ok(()),
            Err(WriteError::NotFound) => Err(SubmitError::ApplicationNotFound),
            Err(WriteError::Store(error)) => Err(error.into()),
            // Of applications there may be any number, and this one has no key.
            Err(
                error @ (WriteError::Full { .. }
                | WriteError::KeysFull { .. }
                | WriteError::ManyDeleted { .. }
                | WriteError::ManyUrls { .. }),
            ) => Err(SubmitError::Unavailable(StoreError::Unavailable(error.to_string()))),
        }
    }

    /// Whether what stores messages still runs, or was told to end.
    pub fn is_alive(&self) -> bool {
        self.task.lock().as_ref().is_none_or(|task| !task.is_finished() && !self.sweeper.is_finished())
    }

    /// Takes no more, and waits until everything taken is stored and dispatched.
    pub async fn close(&self) {
        self.sweeper.abort();
        self.batcher.close();
        let task = self.task.lock().take();
        if let Some(task) = task
            && task.await.is_err()
        {
            tracing::error!("the intake ended unexpectedly");
        }
    }
}

/// When the routes were read by which a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RoutesRead {
    /// Perhaps before it came: they must be the newest when it is accepted.
    AnyTime,
    /// After it came: whoever was answered before it came is in them.
    SinceItCame,
}

impl RoutesRead {
    /// Those of a message for which they were loaded anew so often.
    pub(crate) fn after(reloads: usize) -> Self {
        if reloads == 0 { Self::AnyTime } else { Self::SinceItCame }
    }
}

/// A message that is to be stored.
pub(crate) struct Draft {
    pub(crate) message: Arc<Message>,
    /// Send it to no endpoint but this one.
    only: Option<EndpointKey>,
    /// Accept it only once under this key, of which nothing is known from before the instant.
    pub(crate) key: Option<(IdempotencyKey, Timestamp)>,
}

impl Draft {
    /// Whether the rules of an environment concern it. What is sent to one endpoint is an example, of the operator's own
    /// making.
    pub(crate) fn is_judged_by(&self, routes: &Routes) -> bool {
        !routes.rules.are_none() && self.only.is_none()
    }

    /// The endpoints that want it.
    fn targets<'a>(&'a self, routes: &'a Routes) -> impl Iterator<Item = &'a Arc<Target>> {
        let (event_type, channels) = (EventTypeDigest::of(&self.message.event_type), self.message.channels.as_deref());
        let is_asked = |target: &Target| self.only.is_none_or(|only| only == target.key);
        routes.targets.iter().filter(move |target| is_asked(target) && target.wants(event_type, channels))
    }

    /// The message with the endpoints that want it, ready to be accepted.
    pub(crate) fn fan_out(&self, routes: &Routes, read: RoutesRead) -> (NewMessage, Vec<Arc<Target>>) {
        let targets: Vec<_> = self.targets(routes).cloned().collect();
        let new = NewMessage {
            application: routes.application,
            version: routes.version,
            rules: (read == RoutesRead::SinceItCame).then_some(routes.rules_version),
            message: Arc::clone(&self.message),
            endpoints: targets.iter().map(|target| target.key).collect(),
            idempotency: self.key,
        };
        (new, targets)
    }
}

impl From<Turned> for SubmitError {
    fn from(turned: Turned) -> Self {
        match turned {
            Turned::Away(Refused::Share) => Self::TooMany,
            Turned::Away(Refused::Full) | Turned::Closed => Self::Overloaded,
        }
    }
}
