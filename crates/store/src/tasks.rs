//! Background tasks: what was asked for, how far it is, and the step that takes it further.
//!
//! A step does a bounded amount of work and notes how far it came in one commit. So a crash repeats nothing and skips
//! nothing, and a restart goes on where the last step ended.

use std::time::Duration;

use async_trait::async_trait;
use postrider_domain::allowance::Allowance;
use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::{Ksuid, TaskId};
use postrider_domain::names::{Channel, EventTypeName, Tag};
use postrider_domain::task::{Task, TaskKind, TaskStatus};
use postrider_domain::time::Timestamp;

use crate::{ApplicationKey, EndpointKey, Once, Scan, StoreError, Walked, WriteError, Written};

postrider_domain::limits! {
    in "Background tasks";
    /// Messages that one `recover` sends again
    pub const MAX_RECOVERED: usize = 10_000, "messages", beyond "the later ones are left out";
    /// Running tasks of one application that send messages again, and as many that erase
    pub const MAX_TASKS_OF_APPLICATION: usize = 20, "tasks", beyond "429";
    /// Running tasks of one environment that send messages again, as many that erase, and as many that count
    pub const MAX_TASKS_OF_ENVIRONMENT: usize = 200, "tasks", beyond "429; of the former two, an application that has some leaves as many places as it has";
    /// Running tasks of one environment that send messages again, and as many that erase, with those of applications that had none
    pub const MAX_FIRST_TASKS_OF_ENVIRONMENT: usize = 1_000, "tasks", beyond "429";
    /// Tasks that ended and are shown, of one application, and of an environment as a whole
    pub const MAX_ENDED_TASKS: usize = 1_000, "tasks", beyond "those that ended first are shown no longer";
    /// Running tasks that send messages to one endpoint again
    pub const MAX_REPLAYS_OF_ENDPOINT: usize = 1, "task", beyond "409";
    /// Applications that one task counts by name
    pub const MAX_COUNTED_APPLICATIONS: usize = 5_000, "applications", beyond "`otherApplications` says how many more there are";
    /// Event types that one task counts by name
    pub const MAX_COUNTED_TYPES: usize = 2_000, "event types", beyond "counted together, in `otherEventTypes`";
    /// Deliveries that wait at one endpoint because somebody asked for them
    pub const MAX_MANUAL_OF_ENDPOINT: usize = 10_000, "deliveries", beyond "429 for `resend` and for whatever sends messages again";
    /// Attempts to send one message to one endpoint, with deliveries that wait because somebody asked for them
    pub const MAX_ATTEMPTS_OF_MESSAGE: usize = 200, "attempts", beyond "400 `limit_reached` for `resend`; whatever else sends messages again leaves this one out";
    /// Attempts that the callers of one application may ask for in a day by `resend`, and as many by tasks
    setting "limits.asked_per_day", beyond "429 `too_many_asked_for` for `resend`; tasks wait, and take turns";
    /// What a delivery by the schedule counts as among the attempts that were asked for (`limits.asked_per_day`)
    pub const ASKED_BY_SCHEDULE: u64 = 10, "attempts", beyond "however many it takes";
    /// Notices to one operator that wait to be sent
    pub const MAX_NOTICES: usize = 10_000, "notices", beyond "the oldest ones about the applications that have most are dropped, and the log says how many";
}

/// How many attempts an application's callers may ask for in a day, if nobody says otherwise: so many by `resend`, and as many by
/// tasks that send messages again.
pub const ASKED_PER_DAY: u64 = 1_000_000;

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

/// How messages are sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Once, now.
    Manually,
    /// As if they had been sent there when they were accepted.
    ByTheSchedule,
}

impl Again {
    /// What a message counts as among those that may be asked for; never more than there is in a day.
    pub fn attempts(self, per_day: u64) -> u64 {
        match self {
            Self::Manually => 1,
            Self::ByTheSchedule => ASKED_BY_SCHEDULE.min(per_day),
        }
    }
}

/// The most messages that one step sends: their deliveries and what belongs to them are in one commit, to which others' messages do not
/// go, so it is as large as commits of messages may be.
const MAX_SENT_IN_STEP: u64 = 240;

/// How many messages a step may send again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// So many.
    pub messages: usize,
    /// What it would need more for has to wait so long, if not only for the next step.
    pub wait: Option<Duration>,
}

impl Share {
    /// None, for an endpoint of nobody.
    pub const NOTHING: Self = Self { messages: 0, wait: None };

    /// What is left for the tasks of an application, if it is this one's turn.
    pub fn of(left: Allowance, again: Again, per_day: u64, is_its_turn: bool, now: Timestamp) -> Self {
        let each = again.attempts(per_day);
        let messages = if is_its_turn { left.left(per_day, now) / each.max(1) } else { 0 };
        if messages >= MAX_SENT_IN_STEP {
            return Self { messages: count_of(MAX_SENT_IN_STEP), wait: None };
        }
        Self { messages: count_of(messages), wait: Some(left.spend(each, per_day, now).err().unwrap_or_default()) }
    }
}

fn count_of(few: u64) -> usize {
    usize::try_from(few).unwrap_or(usize::MAX)
}

/// In the data of a task that waits until its application's tasks may ask for more; and what it says there.
pub const WAITING: (&str, &str) = ("waiting", "limits.asked_per_day");

/// What a task does. Whatever has no payload any more is left out by all of them; a task for an endpoint that is disabled
/// or gone ends with what it has done until then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// A manual delivery for each message with a failed attempt to the endpoint that started in this time and with no
    /// successful one, oldest first, at most [`MAX_RECOVERED`]. One that was attempted [`MAX_ATTEMPTS_OF_MESSAGE`] times is
    /// left out.
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
    /// A manual delivery for each message of this time that was attempted at the endpoint, as [`Job::Recover`] leaving out
    /// those that were attempted [`MAX_ATTEMPTS_OF_MESSAGE`] times.
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

    /// The endpoint that it is for.
    pub const fn endpoint(&self) -> Option<EndpointKey> {
        match self {
            Self::Recover { endpoint, .. } | Self::Replay { endpoint, .. } | Self::BulkReplay { endpoint, .. } => {
                Some(*endpoint)
            }
            Self::PurgeContent { .. } | Self::ApplicationStats { .. } | Self::AggregateEventTypes => None,
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

/// A task that has more to do, and whose turn it is beside which others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunningTask {
    /// Its id.
    pub id: TaskId,
    /// The engine's number of its environment.
    pub environment: i64,
    /// Its application, unless it is about all of the environment.
    pub application: Option<ApplicationKey>,
}

/// How far a task is after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advanced {
    /// Its status.
    pub status: TaskStatus,
    /// How long it has to wait before the next step: the step would have sent more messages again than the application's
    /// callers may ask for in a day, and was not taken.
    pub wait: Option<Duration>,
}

/// A task was not added.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TaskError {
    /// The store failed, or there is no such endpoint or application.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Messages are being sent again at this endpoint already, by this task.
    #[error("another task is sending messages to this endpoint again")]
    Busy(TaskId),
    /// [`MAX_MANUAL_OF_ENDPOINT`] deliveries that somebody asked for wait at the endpoint already.
    #[error("too many requested deliveries are pending there already")]
    TooManyDeliveries,
    /// So many of the application's, or the environment's, tasks are running already.
    #[error("{0} tasks are running already")]
    TooMany(usize),
}

impl From<StoreError> for TaskError {
    fn from(error: StoreError) -> Self {
        Self::Write(error.into())
    }
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
    /// Adds a task, and tells observers. At an endpoint one task at a time sends messages again. Tasks that send again, those that
    /// erase, and those that count have places apart; of each of the former two an application has at most
    /// [`MAX_TASKS_OF_APPLICATION`] running, and leaves as many of the [`MAX_TASKS_OF_ENVIRONMENT`] places of its environment as it
    /// has, while one that has none finds a place beyond these, up to [`MAX_FIRST_TASKS_OF_ENVIRONMENT`]. Of tasks that ended the
    /// last [`MAX_ENDED_TASKS`] stay, of the application, or of those that are about all of the environment.
    async fn create_task(&self, new: NewTask, once: Option<Once<Task>>) -> Result<Written<Task>, TaskError>;

    /// A task of this environment.
    async fn task(&self, environment: &EnvironmentId, id: TaskId) -> Result<Option<Task>, StoreError>;

    /// A task that is about this application, or about an endpoint of it.
    async fn task_of(&self, application: ApplicationKey, id: TaskId) -> Result<Option<Task>, StoreError>;

    /// A page of an environment's tasks, by id.
    async fn tasks(
        &self,
        environment: &EnvironmentId,
        filter: TaskFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Walked<Task>, StoreError>;

    /// Tasks that have more to do, of all environments: the oldest ones of each application, at most `limit` of each,
    /// ordered by environment, application and id.
    async fn running_tasks(&self, limit: usize) -> Result<Vec<RunningTask>, StoreError>;

    /// Takes a task one step further; a step looks at about `rows` rows. Returns how far the task is then. One that is not
    /// running stays as it is, and one that there is not counts as finished. One that has to wait says so in its data,
    /// and stays as it is until it need not; tasks of an application that wait go on in turn, whoever has waited for longest first.
    async fn advance_task(&self, id: TaskId, rows: usize, now: Timestamp) -> Result<Advanced, StoreError>;

    /// Gives up a task that is running; its data says why.
    async fn fail_task(&self, id: TaskId, problem: &str, now: Timestamp) -> Result<(), StoreError>;

    /// Removes tasks that ended before `before`, at most `limit`; returns how many it removed.
    async fn forget_tasks(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError>;
}
