//! Background tasks: what was asked for, how far it is, and the step that takes it further.
//!
//! A step does a bounded amount of work and notes how far it came in one commit. So a crash repeats nothing and skips
//! nothing, and a restart goes on where the last step ended.

use async_trait::async_trait;
use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::{Ksuid, TaskId};
use postrider_domain::names::{Channel, EventTypeName, Tag};
use postrider_domain::task::{Task, TaskKind, TaskStatus};
use postrider_domain::time::Timestamp;

use crate::{ApplicationKey, EndpointKey, Listed, Once, Scan, StoreError, WriteError, Written};

/// The most messages that one task of [`Job::Recover`] sends again.
pub const MAX_RECOVERED: usize = 10_000;

/// A range of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// From this instant on.
    pub since: Timestamp,
    /// Up to this instant, which is not part of it.
    pub until: Timestamp,
}

/// What became of a message at an endpoint, for choosing what is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its last attempt succeeded.
    Succeeded,
    /// Its last attempt failed, and it is not tried again.
    Failed,
    /// Its last attempt failed, and it is tried again.
    Waiting,
}

/// Which messages are replayed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplayFilter {
    /// Only those of these types; `None` is all.
    pub event_types: Option<Vec<EventTypeName>>,
    /// Only those sent on this channel.
    pub channel: Option<Channel>,
    /// Only those with this tag.
    pub tag: Option<Tag>,
    /// Only those whose last attempt came to this.
    pub outcome: Option<Outcome>,
    /// Only those whose last attempt was answered with a status code from this hundred on.
    pub status_code_class: Option<u16>,
}

/// What a task does. Whatever has no payload any more is left out by all of them; a task for an endpoint that is disabled
/// or gone ends with what it has done until then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// A manual delivery for each message with a failed attempt to the endpoint that started in this time and with no
    /// successful one, oldest first, at most [`MAX_RECOVERED`].
    Recover {
        /// The endpoint.
        endpoint: EndpointKey,
        /// When the attempts were made.
        span: Span,
    },
    /// A delivery by the schedule for each message of this time that the endpoint wants, and to which nothing was ever
    /// attempted nor is pending.
    Replay {
        /// The endpoint.
        endpoint: EndpointKey,
        /// When the messages were accepted.
        span: Span,
    },
    /// A manual delivery for each message of this time that was attempted at the endpoint.
    BulkReplay {
        /// The endpoint.
        endpoint: EndpointKey,
        /// When the messages were accepted.
        span: Span,
        /// Which of them.
        filter: ReplayFilter,
    },
    /// Erases the payloads of all messages that an application has when the task is made.
    PurgeContent {
        /// The application.
        application: ApplicationKey,
    },
    /// Counts messages, attempts and destinations (messages times endpoints that were attempted) by application.
    ApplicationStats {
        /// Which ones; `None` is all of the environment.
        applications: Option<Vec<ApplicationKey>>,
        /// When messages were accepted, and attempts made.
        span: Span,
    },
    /// Counts the messages of an environment by event type.
    AggregateEventTypes,
}

impl Job {
    /// What kind of task does it.
    pub fn kind(&self) -> TaskKind {
        match self {
            Self::Recover { .. } => TaskKind::Recover,
            Self::Replay { .. } => TaskKind::Replay,
            Self::BulkReplay { .. } => TaskKind::BulkReplay,
            Self::PurgeContent { .. } => TaskKind::PurgeContent,
            Self::ApplicationStats { .. } => TaskKind::ApplicationStats,
            Self::AggregateEventTypes => TaskKind::AggregateEventTypes,
        }
    }
}

/// A task to add.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// Its id.
    pub id: TaskId,
    /// Whose task it is.
    pub environment: EnvironmentId,
    /// What it does.
    pub job: Job,
    /// When it was asked for.
    pub created_at: Timestamp,
}

/// Which tasks a list shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// Only those of this kind; of a kind that there is not (`Some(None)`) there are none.
    pub kind: Option<Option<TaskKind>>,
    /// Only those that are this far.
    pub status: Option<TaskStatus>,
}

/// Operations on background tasks.
#[async_trait]
pub trait Tasks {
    /// Adds a task, and tells observers.
    async fn create_task(&self, new: NewTask, once: Option<Once<Task>>) -> Result<Written<Task>, WriteError>;

    /// A task of this environment.
    async fn task(&self, environment: &EnvironmentId, id: TaskId) -> Result<Option<Task>, StoreError>;

    /// A page of an environment's tasks, by id.
    async fn tasks(
        &self,
        environment: &EnvironmentId,
        filter: TaskFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Listed<Task>, StoreError>;

    /// Tasks that have more to do, of all environments, oldest first, at most `limit`.
    async fn running_tasks(&self, limit: usize) -> Result<Vec<TaskId>, StoreError>;

    /// Takes a task one step further; a step looks at about `rows` rows. Returns how far the task is then. One that is not
    /// running stays as it is, and one that there is not counts as finished.
    async fn advance_task(&self, id: TaskId, rows: usize, now: Timestamp) -> Result<TaskStatus, StoreError>;

    /// Gives up a task that is running.
    async fn fail_task(&self, id: TaskId, now: Timestamp) -> Result<(), StoreError>;

    /// Removes tasks that ended before `before`, at most `limit`; returns how many it removed.
    async fn forget_tasks(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError>;
}
