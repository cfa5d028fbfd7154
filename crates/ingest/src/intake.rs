//! The one way in: finds the endpoints that want a message, and has it accepted.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::application::{Application, EnvironmentId};
use postrider_domain::clock::Clock;
use postrider_domain::entropy::Entropy;
use postrider_domain::ids::{ApplicationId, MessageId};
use postrider_domain::message::{MAX_DELAY, Message};
use postrider_domain::names::{Channel, EventTypeName, IdOrUid};
use postrider_store::{
    AcceptError, Accepted, Dispatch, EndpointKey, NewMessage, Routes, Store, StoreError, Target, WriteError,
};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};

use crate::batcher::{self, Batcher, Waiting};
use crate::routes::RouteCache;
use crate::submission::{NewApplication, Submission, SubmitError, Submitted};
use crate::sweeper;

/// For how long an idempotency key is remembered (rest-contract §13).
pub(crate) const KEY_LIFETIME: Duration = Duration::from_secs(12 * 3_600);

/// How often routes are loaded anew for one message before it is given up: each time, somebody changed them in between.
const MAX_RELOADS: usize = 10;

/// Takes messages in.
pub struct Intake {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    routes: RouteCache,
    batcher: Arc<Batcher>,
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
    ) -> Self {
        let batcher = Arc::new(Batcher::default());
        let task = tokio::spawn(batcher::run(Arc::clone(&batcher), Arc::clone(&store), dispatcher));
        let sweeper = tokio::spawn(sweeper::run(Arc::clone(&store), Arc::clone(&clock))).abort_handle();
        Self { store, clock, entropy, routes: RouteCache::new(), batcher, task: Mutex::new(Some(task)), sweeper }
    }

    /// Accepts a message. `Ok` means that it is on disk, with its deliveries and its key.
    pub async fn submit(&self, submission: Submission) -> Result<Submitted, SubmitError> {
        let name = (submission.environment.clone(), submission.application.clone());
        let routes = match self.routes.get(self.store.as_ref(), &name).await? {
            Some(routes) => routes,
            None => {
                let new = submission.create_application.clone();
                self.create_application(&submission.environment, &submission.application, new).await?;
                let routes = self.routes.reload(self.store.as_ref(), &name).await?;
                routes.ok_or(SubmitError::ApplicationNotFound)?
            }
        };
        let now = self.clock.now();
        let key = submission.idempotency.map(|key| (key, now.saturating_sub(KEY_LIFETIME)));
        let deliver_at = submission.deliver_at.filter(|at| *at > now);
        let expires_at = submission.retention.map(|kept| now.saturating_add(kept));
        if deliver_at.is_some_and(|at| at >= expires_at.unwrap_or(now.saturating_add(MAX_DELAY))) {
            return Err(SubmitError::DeliverAtTooLate);
        }
        let message = Arc::new(Message {
            id: MessageId::new(now, self.entropy.as_ref()),
            event_id: submission.event_id,
            event_type: submission.event_type,
            channels: submission.channels,
            payload: Some(submission.payload),
            tags: submission.tags,
            deliver_at,
            expires_at,
            created_at: now,
        });
        let mut routes = routes;
        for _ in 0..MAX_RELOADS {
            match self.accept(&routes, &message, submission.only, key).await? {
                Ok(Accepted::New(_)) => return Ok(Submitted { message, replayed: false }),
                Ok(Accepted::Replayed(message)) => return Ok(Submitted { message, replayed: true }),
                Err(AcceptError::Conflict) => return Err(SubmitError::Conflict),
                Err(AcceptError::Store(error)) => return Err(error.into()),
                Err(AcceptError::Stale) => {
                    let reloaded = self.routes.reload(self.store.as_ref(), &name).await?;
                    routes = reloaded.ok_or(SubmitError::ApplicationNotFound)?;
                }
            }
        }
        let problem = "the application's endpoints changed again and again while the message was stored";
        Err(StoreError::Unavailable(problem.to_owned()).into())
    }

    /// Queues the message with the endpoints that want it, and waits for its commit.
    async fn accept(
        &self,
        routes: &Routes,
        message: &Arc<Message>,
        only: Option<EndpointKey>,
        idempotency: Option<(postrider_store::IdempotencyKey, postrider_domain::time::Timestamp)>,
    ) -> Result<Result<Accepted, AcceptError>, SubmitError> {
        let targets = matching(routes, message, only);
        let new = NewMessage {
            application: routes.application,
            version: routes.version,
            message: Arc::clone(message),
            endpoints: targets.iter().map(|target| target.key).collect(),
            idempotency,
        };
        let (reply, answer) = oneshot::channel();
        self.batcher.push(Waiting { new, targets, reply }).map_err(|_| SubmitError::Overloaded)?;
        answer.await.map_err(|_| SubmitError::Unavailable(StoreError::Closed))
    }

    /// Makes `new` if there is no such application (rest-contract §8.2).
    pub async fn ensure_application(
        &self,
        environment: &EnvironmentId,
        application: &IdOrUid<ApplicationId>,
        new: Option<NewApplication>,
    ) -> Result<(), SubmitError> {
        let name = (environment.clone(), application.clone());
        match self.routes.get(self.store.as_ref(), &name).await? {
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
        Ok(routes.targets.iter().any(|target| target.endpoint.wants(event_type, channels)))
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
        }
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

/// The endpoints that want a message, or this one only, if it does.
fn matching(routes: &Routes, message: &Message, only: Option<EndpointKey>) -> Vec<Arc<Target>> {
    let wants = |target: &&Arc<Target>| {
        only.is_none_or(|only| only == target.key)
            && target.endpoint.wants(&message.event_type, message.channels.as_deref())
    };
    routes.targets.iter().filter(wants).cloned().collect()
}
