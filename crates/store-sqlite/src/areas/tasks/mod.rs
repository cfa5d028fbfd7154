//! Background tasks. A step reads on a reader's connection, which may take a moment, and writes what follows together with
//! its place in one short transaction of the writer. The number of the step says whether that place is still the one that
//! was read.
//!
//! `replay` chooses messages to send again, `purge` payloads to erase, `usage` counts.

mod purge;
mod replay;
mod usage;

use std::time::Duration;

use async_trait::async_trait;
use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::{Id as _, Ksuid, TaskId};
use postrider_domain::names::{Channel, EventTypeName, Tag};
use postrider_domain::task::{Task, TaskKind, TaskStatus};
use postrider_domain::time::Timestamp;
use postrider_store::{
    Advanced, Again, ApplicationKey, EndpointKey, Job, MAX_ENDED_TASKS, MAX_FIRST_TASKS_OF_ENVIRONMENT,
    MAX_TASKS_OF_APPLICATION, MAX_TASKS_OF_ENVIRONMENT, MessageKey, NewTask, Once, Outcome, ReplayFilter, RunningTask,
    Scan, Span, StoreError, TaskError, TaskFilter, Tasks, WAITING, Walked, Written,
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::areas::messages;
use crate::engine::askers::Whose;
use crate::engine::decode::{Columns, SqlError, all, encode_json, first, walked};
use crate::engine::range::{self, Range};
use crate::engine::tx::{Abort, FEW_ROWS, News, Tx, rows_of};
use crate::store::SqliteStore;
use crate::write::deliveries::is_full_of_manual;
use crate::write::idempotency::{self, Subject};
use crate::write::owners::environment_number;

#[async_trait]
impl Tasks for SqliteStore {
    async fn create_task(&self, new: NewTask, once: Option<Once<Task>>) -> Result<Written<Task>, TaskError> {
        self.writer
            .run(whose(&new), move |tx| {
                let subject = about(&new.job);
                if let Some(answer) = idempotency::replay(tx, once.as_ref(), subject)? {
                    return Ok(Written::Replayed(answer));
                }
                make_room(tx, &new)?;
                let task = insert(tx, &new)?;
                forget_ended(tx, &new)?;
                idempotency::remember(tx, once, subject, &task, new.created_at)?;
                tx.tell(News::TaskAdded);
                Ok(Written::Done(task))
            })
            .await
    }

    async fn task(&self, environment: &EnvironmentId, id: TaskId) -> Result<Option<Task>, StoreError> {
        let environment = environment.clone();
        self.readers
            .run(move |connection| {
                let mut statement = connection.prepare_cached(&format!(
                    "SELECT {COLUMNS}, data FROM task
                     WHERE environment_no = (SELECT no FROM environment WHERE id = ?) AND id = ?"
                ))?;
                first(statement.query(params![environment.as_str(), id.ksuid().as_bytes()])?, decode)
            })
            .await
    }

    async fn task_of(&self, application: ApplicationKey, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.readers
            .run(move |connection| {
                let sql = format!("SELECT {COLUMNS}, data FROM task WHERE id = ? AND application_no = ?");
                let mut statement = connection.prepare_cached(&sql)?;
                first(statement.query(params![id.ksuid().as_bytes(), application.0])?, decode)
            })
            .await
    }

    async fn tasks(
        &self,
        environment: &EnvironmentId,
        filter: TaskFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Walked<Task>, StoreError> {
        let environment = environment.clone();
        self.lists
            .run(move |connection| {
                let Range { low, high, order, limit } = Range::of_ids(scan);
                let mut statement = connection.prepare_cached(&list_sql(order))?;
                let rows = statement.query(params![
                    environment.as_str(),
                    low,
                    high,
                    filter.kind.map(|kind| kind.map_or("", TaskKind::as_str)),
                    filter.status.map(TaskStatus::as_str)
                ])?;
                walked(rows, limit, |row| Ok(Columns::new(row, "task").id::<TaskId>("id")?.ksuid()), decode)
            })
            .await
    }

    async fn running_tasks(&self, limit: usize) -> Result<Vec<RunningTask>, StoreError> {
        self.readers
            .run_own(move |connection| {
                let mut statement = connection.prepare_cached(RUNNING_SQL)?;
                all(statement.query([range::limit(limit)])?, |row| {
                    let columns = Columns::new(row, "task");
                    let application = columns.get::<Option<i64>>("application_no")?.map(ApplicationKey);
                    Ok(RunningTask { id: columns.id("id")?, environment: columns.get("environment_no")?, application })
                })
            })
            .await
    }

    async fn advance_task(&self, id: TaskId, rows: usize, now: Timestamp) -> Result<Advanced, StoreError> {
        let (per_day, bounds) = (self.asked_per_day, Bounds { rows, per_day: self.asked_per_day, now });
        match self.lists.run(move |connection| read_step(connection, id, bounds)).await? {
            Read::Ended(status) => Ok(Advanced { status, wait: None }),
            Read::Waits(wait) => Ok(Advanced { status: TaskStatus::Running, wait: Some(wait) }),
            Read::Slice { step, slice, rows } => {
                let write =
                    move |tx: &Tx<'_>| Ok::<_, Abort<StoreError>>(write_step(tx, id, step, slice, per_day, now)?);
                self.writer.run_rows(Whose::Process, rows, write).await
            }
        }
    }

    async fn fail_task(&self, id: TaskId, problem: &str, now: Timestamp) -> Result<(), StoreError> {
        let problem = problem.to_owned();
        self.writer.run(Whose::Process, move |tx| Ok::<_, Abort<StoreError>>(give_up(tx, id, problem, now)?)).await
    }

    async fn forget_tasks(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.writer
            .run(Whose::Process, move |tx| {
                let removed =
                    tx.prepare_cached(FORGET_SQL)?.execute(params![before.as_micros(), range::limit(limit)])?;
                Ok::<_, Abort<StoreError>>(removed)
            })
            .await
    }
}

/// What [`decode`] reads; a column `data` follows.
const COLUMNS: &str = "id, kind, status, created_at, updated_at";

/// What a filter lets through.
const PASSES: &str = "(?4 IS NULL OR kind = ?4) AND (?5 IS NULL OR status = ?5)";

fn list_sql(order: &str) -> String {
    // What a task has found may be large, and the rest stands behind it: of those that are left out neither is read.
    let of_shown = ["data", "created_at", "updated_at"];
    let of_shown = of_shown.map(|column| format!("CASE WHEN {PASSES} THEN {column} END AS {column}")).join(", ");
    format!(
        "SELECT id, kind, status, {of_shown}, {PASSES} AS passes FROM task
         WHERE environment_no = (SELECT no FROM environment WHERE id = ?1) AND id >= ?2 AND id < ?3
         ORDER BY id {order}"
    )
}

/// Walks all that are running: their number is bounded by environment. One that can't even be named is left out, so that it
/// stops no other.
const RUNNING_SQL: &str = "SELECT id, environment_no, application_no FROM (
         SELECT id, environment_no, application_no,
             row_number() OVER (PARTITION BY environment_no, application_no ORDER BY id) AS place
         FROM task WHERE status = 'running' AND typeof(id) = 'blob' AND length(id) = 20
     ) WHERE place <= ?";

const REPLAYING_SQL: &str =
    "SELECT id FROM task WHERE status = 'running' AND endpoint_no = ? AND length(id) = 20 LIMIT 1";

/// Tasks of one kind of work (?3: whether they send messages to an endpoint again; ?2, if that is NULL: whether they count), of the
/// environment and of the application.
const COUNT_SQL: &str = "SELECT count(*), count(*) FILTER (WHERE application_no IS ?2) FROM task
     WHERE status = 'running' AND environment_no = ?1
         AND (endpoint_no IS NOT NULL) = ?3 AND (application_no IS NULL) = (?2 IS NULL)";

/// Tasks of an application, or of an environment as a whole, that ended before the last ones that did. More than one or two only
/// after the upgrade of a store that had more.
const ENDED_SQL: &str = "DELETE FROM task WHERE no IN (
         SELECT no FROM task INDEXED BY task_ended_of
         WHERE environment_no = ?1 AND application_no IS ?2 AND status <> 'running'
         ORDER BY updated_at DESC, id DESC LIMIT 16 OFFSET ?3
     )";

const FORGET_SQL: &str = "DELETE FROM task WHERE id IN (
         SELECT id FROM task WHERE status <> 'running' AND updated_at < ? ORDER BY updated_at LIMIT ?
     )";

fn decode(row: &Row<'_>) -> Result<Task, SqlError> {
    let columns = Columns::new(row, "task");
    Ok(Task {
        id: columns.id("id")?,
        kind: kind(&columns)?,
        status: status(&columns)?,
        data: columns.json("data")?,
        created_at: columns.instant("created_at")?,
        updated_at: columns.instant("updated_at")?,
    })
}

fn kind(columns: &Columns<'_, '_>) -> Result<TaskKind, SqlError> {
    TaskKind::parse(&columns.get::<String>("kind")?).ok_or_else(|| columns.inconsistent("kind", &"unknown"))
}

fn status(columns: &Columns<'_, '_>) -> Result<TaskStatus, SqlError> {
    TaskStatus::parse(&columns.get::<String>("status")?).ok_or_else(|| columns.inconsistent("status", &"unknown"))
}

/// The column `parameters`.
#[derive(Serialize, Deserialize, Default)]
struct Parameters {
    endpoint_no: Option<i64>,
    application_no: Option<i64>,
    applications: Option<Vec<i64>>,
    since: i64,
    until: i64,
    event_types: Option<Vec<String>>,
    channel: Option<String>,
    tag: Option<String>,
    outcome: Option<u8>,
    status_code_class: Option<u16>,
}

impl Parameters {
    fn of(job: &Job) -> Self {
        let spanning =
            |span: &Span| Self { since: span.since.as_micros(), until: span.until.as_micros(), ..Self::default() };
        match job {
            Job::Recover { endpoint, span } | Job::Replay { endpoint, span } => {
                Self { endpoint_no: Some(endpoint.0), ..spanning(span) }
            }
            Job::BulkReplay { endpoint, span, filter } => Self {
                endpoint_no: Some(endpoint.0),
                event_types: filter.event_types.as_ref().map(|names| names.iter().map(ToString::to_string).collect()),
                channel: filter.channel.as_ref().map(ToString::to_string),
                tag: filter.tag.as_ref().map(ToString::to_string),
                outcome: filter.outcome.map(|outcome| match outcome {
                    Outcome::Succeeded => 0,
                    Outcome::Failed => 2,
                    Outcome::Waiting => 3,
                }),
                status_code_class: filter.status_code_class,
                ..spanning(span)
            },
            Job::PurgeContent { application } => Self { application_no: Some(application.0), ..Self::default() },
            Job::ApplicationStats { applications, span } => Self {
                applications: applications.as_ref().map(|keys| keys.iter().map(|key| key.0).collect()),
                ..spanning(span)
            },
            Job::AggregateEventTypes => Self::default(),
        }
    }

    fn job(self, kind: TaskKind) -> Option<Job> {
        let span = Span { since: Timestamp::from_micros(self.since), until: Timestamp::from_micros(self.until) };
        let endpoint = self.endpoint_no.map(EndpointKey);
        Some(match kind {
            TaskKind::Recover => Job::Recover { endpoint: endpoint?, span },
            TaskKind::Replay => Job::Replay { endpoint: endpoint?, span },
            TaskKind::BulkReplay => Job::BulkReplay {
                endpoint: endpoint?,
                span,
                filter: ReplayFilter {
                    event_types: self
                        .event_types
                        .map(|names| names.into_iter().map(EventTypeName::from_trusted).collect()),
                    channel: self.channel.map(Channel::from_trusted),
                    tag: self.tag.map(Tag::from_trusted),
                    outcome: self.outcome.map(|code| match code {
                        0 => Outcome::Succeeded,
                        2 => Outcome::Failed,
                        _ => Outcome::Waiting,
                    }),
                    status_code_class: self.status_code_class,
                },
            },
            TaskKind::PurgeContent => Job::PurgeContent { application: ApplicationKey(self.application_no?) },
            TaskKind::ApplicationStats => Job::ApplicationStats {
                applications: self.applications.map(|keys| keys.into_iter().map(ApplicationKey).collect()),
                span,
            },
            TaskKind::AggregateEventTypes => Job::AggregateEventTypes,
        })
    }
}

/// The endpoint and the application that a job is about.
fn subject(tx: &Tx<'_>, job: &Job) -> Result<(Option<i64>, Option<i64>), SqlError> {
    Ok(match job {
        Job::Recover { endpoint, .. } | Job::Replay { endpoint, .. } | Job::BulkReplay { endpoint, .. } => {
            let mut statement = tx.prepare_cached("SELECT application_no FROM endpoint WHERE no = ?")?;
            (Some(endpoint.0), statement.query_row([endpoint.0], |row| row.get(0)).optional()?)
        }
        Job::PurgeContent { application } => (None, Some(application.0)),
        Job::ApplicationStats { .. } | Job::AggregateEventTypes => (None, None),
    })
}

/// Refuses a task if too many are running.
fn make_room(tx: &Tx<'_>, new: &NewTask) -> Result<(), Abort<TaskError>> {
    let (endpoint, application) = subject(tx, &new.job)?;
    if let Some(endpoint) = endpoint {
        let mut statement = tx.prepare_cached(REPLAYING_SQL)?;
        let other = first(statement.query([endpoint])?, |row| Columns::new(row, "task").id("id"))?;
        if let Some(other) = other {
            return Err(Abort::Refused(TaskError::Busy(other)));
        }
        if is_full_of_manual(tx, EndpointKey(endpoint))? {
            return Err(Abort::Refused(TaskError::TooManyDeliveries));
        }
    }
    let environment = environment_number(tx, &new.environment)?;
    let running =
        tx.prepare_cached(COUNT_SQL)?.query_row(params![environment, application, endpoint.is_some()], |row| {
            Ok(Running { of_environment: row.get(0)?, of_application: application.and(Some(row.get(1)?)) })
        })?;
    running.room_for_one().map_err(|running| Abort::Refused(TaskError::TooMany(running)))
}

/// Tasks that run and do the same kind of work: send messages again, erase, or count. Each kind has places of its own, so what an
/// operator starts never waits for what tenants may start.
struct Running {
    of_environment: usize,
    /// Of the application that one more would be about, if it is about one.
    of_application: Option<usize>,
}

impl Running {
    /// Whether one more may be added; if not, how many there are of which it would be too many. Tasks may run for days, because they
    /// wait for what their application may ask for in a day. So an application leaves as many places as it has, and one that has
    /// none finds a place where others find no second one.
    fn room_for_one(&self) -> Result<(), usize> {
        let Self { of_environment, of_application } = *self;
        match of_application {
            Some(0) if of_environment < MAX_FIRST_TASKS_OF_ENVIRONMENT => Ok(()),
            Some(0) => Err(of_environment),
            Some(own) if own < MAX_TASKS_OF_APPLICATION && of_environment + own < MAX_TASKS_OF_ENVIRONMENT => Ok(()),
            Some(own) => Err(own),
            None if of_environment < MAX_TASKS_OF_ENVIRONMENT => Ok(()),
            None => Err(of_environment),
        }
    }
}

fn insert(tx: &Tx<'_>, new: &NewTask) -> Result<Task, SqlError> {
    let task = Task {
        id: new.id,
        kind: new.job.kind(),
        status: TaskStatus::Running,
        data: Map::new(),
        created_at: new.created_at,
        updated_at: new.created_at,
    };
    let (endpoint, application) = subject(tx, &new.job)?;
    tx.prepare_cached(
        "INSERT INTO task (environment_no, id, kind, status, parameters, data, created_at, updated_at, endpoint_no,
             application_no)
         VALUES (?, ?, ?, ?, ?, '{}', ?, ?, ?, ?)",
    )?
    .execute(params![
        environment_number(tx, &new.environment)?,
        task.id.ksuid().as_bytes(),
        task.kind.as_str(),
        task.status.as_str(),
        encode_json(&Parameters::of(&new.job))?,
        task.created_at.as_micros(),
        task.updated_at.as_micros(),
        endpoint,
        application,
    ])?;
    Ok(task)
}

/// Makes room for a task that will have ended.
fn forget_ended(tx: &Tx<'_>, new: &NewTask) -> Result<(), SqlError> {
    let (_, application) = subject(tx, &new.job)?;
    let environment = environment_number(tx, &new.environment)?;
    tx.prepare_cached(ENDED_SQL)?.execute(params![environment, application, range::limit(MAX_ENDED_TASKS - 1)])?;
    Ok(())
}

/// Whose the request for a task is.
fn whose(new: &NewTask) -> Whose {
    match &new.job {
        Job::Recover { endpoint, .. } | Job::Replay { endpoint, .. } | Job::BulkReplay { endpoint, .. } => {
            (*endpoint).into()
        }
        Job::PurgeContent { application } => (*application).into(),
        Job::ApplicationStats { .. } | Job::AggregateEventTypes => (&new.environment).into(),
    }
}

/// What the request for a task names.
fn about(job: &Job) -> Subject {
    match job {
        Job::Recover { endpoint, .. } | Job::Replay { endpoint, .. } | Job::BulkReplay { endpoint, .. } => {
            Subject::endpoint(*endpoint)
        }
        Job::PurgeContent { application } => Subject::application(*application),
        Job::ApplicationStats { .. } | Job::AggregateEventTypes => Subject::ENVIRONMENT,
    }
}

/// How far a step goes.
#[derive(Clone, Copy)]
struct Bounds {
    /// About how many rows it looks at.
    rows: usize,
    /// How many attempts tasks of an application may ask for in a day.
    per_day: u64,
    now: Timestamp,
}

/// A task as a step finds it.
struct Stage {
    id: Ksuid,
    environment_no: i64,
    created_at: Timestamp,
    /// How far it is, in words of the kind of task; null at first.
    cursor: Value,
    data: Map<String, Value>,
    /// Since when it has waited for what its application may ask for, if it waits.
    waits_since: Option<Timestamp>,
    bounds: Bounds,
}

/// What a step comes to.
#[derive(Default)]
struct Slice {
    cursor: Value,
    data: Map<String, Value>,
    ended: bool,
    effects: Effects,
    /// Nothing is to be written: it waits where it waited before, for so long.
    waits_as_before: Option<Duration>,
}

#[derive(Default)]
enum Effects {
    #[default]
    None,
    /// Deliveries to an endpoint, if it is there and not disabled.
    Deliver { endpoint: EndpointKey, how: Again, messages: Vec<MessageKey>, then: Then },
    /// Payloads to erase.
    Erase(Vec<MessageKey>),
}

/// What comes after the deliveries of a step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The next step.
    GoesOn,
    /// More than may be asked for: it waits.
    Waits {
        /// If it has waited already and these deliveries are none, since when.
        since: Option<Timestamp>,
    },
}

/// What a delivery counts as that is added: its row and those of indexes, and what is counted of its message.
const ROWS_OF_DELIVERY: usize = 2;

impl Slice {
    /// How many rows it counts as.
    fn rows(&self) -> Result<usize, SqlError> {
        let effects = match &self.effects {
            Effects::None => 0,
            Effects::Deliver { messages, .. } => ROWS_OF_DELIVERY * messages.len(),
            Effects::Erase(messages) => messages.len(),
        };
        Ok(FEW_ROWS + rows_of(encode_json(&self.data)?.len()) + effects)
    }
}

enum Read {
    Slice {
        step: i64,
        slice: Slice,
        /// How many rows it counts as.
        rows: usize,
    },
    /// It waits as it did before, for so long. There is nothing to write.
    Waits(Duration),
    Ended(TaskStatus),
}

fn read_step(connection: &Connection, id: TaskId, bounds: Bounds) -> Result<Read, SqlError> {
    // The place and what it points to in one snapshot.
    let snapshot = connection.unchecked_transaction()?;
    let mut statement = snapshot.prepare_cached(
        "SELECT id, environment_no, kind, status, parameters, step, cursor, data, created_at, updated_at FROM task
         WHERE id = ?",
    )?;
    let found = first(statement.query([id.ksuid().as_bytes()])?, |row| {
        let columns = Columns::new(row, "task");
        let status = status(&columns)?;
        if status != TaskStatus::Running {
            // What it was to do is there no more.
            return Ok(Err(status));
        }
        let kind = kind(&columns)?;
        let job = columns.json::<Parameters>("parameters")?.job(kind);
        let data: Map<String, Value> = columns.json("data")?;
        let updated_at = columns.instant("updated_at")?;
        let stage = Stage {
            id: id.ksuid(),
            environment_no: columns.get("environment_no")?,
            created_at: columns.instant("created_at")?,
            cursor: columns.maybe_json("cursor")?.unwrap_or(Value::Null),
            waits_since: data.contains_key(WAITING.0).then_some(updated_at),
            data,
            bounds,
        };
        let job = job.ok_or_else(|| columns.inconsistent("parameters", &"a member is missing"))?;
        Ok(Ok((columns.get("step")?, job, stage)))
    })?;
    let (step, job, stage) = match found {
        None => return Ok(Read::Ended(TaskStatus::Finished)),
        Some(Err(status)) => return Ok(Read::Ended(status)),
        Some(Ok(running)) => running,
    };
    let slice = match job {
        Job::Recover { endpoint, span } => replay::recover(&snapshot, stage, endpoint, span)?,
        Job::Replay { endpoint, span } => replay::missing(&snapshot, stage, endpoint, span)?,
        Job::BulkReplay { endpoint, span, filter } => replay::again(&snapshot, stage, endpoint, span, &filter)?,
        Job::PurgeContent { application } => purge::purge(&snapshot, stage, application)?,
        Job::ApplicationStats { applications, span } => {
            usage::applications(&snapshot, stage, applications.as_deref(), span)?
        }
        Job::AggregateEventTypes => usage::event_types(&snapshot, stage)?,
    };
    // Nothing is waited for at an endpoint that takes nothing any more: the step ends the task.
    let is_refused = match &slice.effects {
        Effects::Deliver { endpoint, .. } => replay::refusal(&snapshot, *endpoint)?.is_some(),
        _ => false,
    };
    if let Some(wait) = slice.waits_as_before.filter(|_| !is_refused) {
        return Ok(Read::Waits(wait));
    }
    Ok(Read::Slice { step, rows: slice.rows()?, slice })
}

/// Tasks of application ?1 that wait until more may be asked for, and have since before ?3, if that is not NULL; without task ?2.
/// What the data of one is may be what is wrong with it.
const WAIT_BEFORE_SQL: &str = "SELECT 1 FROM task
     WHERE status = 'running' AND environment_no = (SELECT environment_no FROM application WHERE no = ?1)
         AND application_no = ?1 AND id <> ?2 AND (?3 IS NULL OR (updated_at, id) < (?3, ?2))
         AND CASE WHEN json_valid(data) THEN data ->> 'waiting' END IS NOT NULL";

impl Stage {
    /// Whether other tasks of the application have waited for longer: what may be asked for is theirs, one after the other. Or
    /// whoever needs one attempt would take each as it comes, and whoever needs ten never find them.
    fn stands_in_line(&self, connection: &Connection, application: ApplicationKey) -> Result<bool, SqlError> {
        let mut statement = connection.prepare_cached(WAIT_BEFORE_SQL)?;
        let since = self.waits_since.map(Timestamp::as_micros);
        Ok(statement.exists(params![application.0, self.id.as_bytes(), since])?)
    }
}

fn write_step(
    tx: &Tx<'_>,
    id: TaskId,
    step: i64,
    slice: Slice,
    per_day: u64,
    now: Timestamp,
) -> Result<Advanced, SqlError> {
    let Slice { cursor, mut data, mut ended, effects, .. } = slice;
    let id = id.ksuid();
    let (mut wait, mut updated_at) = (None, now);
    let mut current = tx.prepare_cached("SELECT 1 FROM task WHERE id = ? AND step = ? AND status = 'running'")?;
    if !current.exists(params![id.as_bytes(), step])? {
        // Somebody else took this step, or ended the task. The next look will tell.
        return Ok(Advanced { status: TaskStatus::Running, wait: None });
    }
    data.remove(WAITING.0);
    match effects {
        Effects::None => {}
        Effects::Deliver { endpoint, how, messages, then } => {
            // Looked at again here: it may have changed since the slice was read.
            if let Some(reason) = replay::refusal(tx, endpoint)? {
                data.insert("stopped".to_owned(), reason.into());
                ended = true;
            } else {
                match replay::deliver(tx, endpoint, how, messages, per_day, now)? {
                    Ok((added, until_more)) => {
                        count(&mut data, "messages", added);
                        if let Then::Waits { since } = then {
                            data.insert(WAITING.0.to_owned(), WAITING.1.into());
                            (wait, updated_at) = (Some(until_more), since.unwrap_or(now));
                        }
                    }
                    // Somebody else has asked for it since the slice was read. The step is taken anew, from the same place.
                    Err(wait) => return Ok(Advanced { status: TaskStatus::Running, wait: Some(wait) }),
                }
            }
        }
        Effects::Erase(erased) => {
            count(&mut data, "messages", erased.len());
            messages::erase(tx, erased)?;
        }
    }
    let status = if ended { TaskStatus::Finished } else { TaskStatus::Running };
    tx.prepare_cached(
        // What it was to do is needed no more when it is done, and may be large.
        "UPDATE task SET status = ?2, step = step + 1, cursor = ?3, data = ?4, updated_at = ?5,
             parameters = CASE ?2 WHEN 'running' THEN parameters ELSE '{}' END
         WHERE id = ?1",
    )?
    .execute(params![
        id.as_bytes(),
        status.as_str(),
        encode_json(&cursor)?,
        encode_json(&data)?,
        updated_at.as_micros()
    ])?;
    Ok(Advanced { status, wait })
}

fn give_up(tx: &Tx<'_>, id: TaskId, problem: String, now: Timestamp) -> Result<(), SqlError> {
    let id = id.ksuid();
    let mut running = tx.prepare_cached("SELECT data FROM task WHERE id = ? AND status = 'running'")?;
    let found: Option<String> = running.query_row([id.as_bytes()], |row| row.get(0)).optional()?;
    let Some(found) = found else { return Ok(()) };
    // What it has found so far may be what is wrong with it.
    let mut data: Map<String, Value> = serde_json::from_str(&found).unwrap_or_default();
    data.remove(WAITING.0);
    data.insert("error".to_owned(), problem.into());
    tx.prepare_cached("UPDATE task SET status = 'failed', updated_at = ?, data = ?, parameters = '{}' WHERE id = ?")?
        .execute(params![now.as_micros(), encode_json(&data)?, id.as_bytes()])?;
    Ok(())
}

/// An id as a place in a cursor.
fn place(id: &[u8]) -> Value {
    id.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

/// The place right after the one in a cursor, or `first` if there is none.
fn after(cursor: &Value, first: Ksuid) -> Vec<u8> {
    let Some(text) = cursor.as_str() else { return first.as_bytes().to_vec() };
    let digits = text.as_bytes().chunks_exact(2);
    let mut id: Vec<u8> =
        digits.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
    id.push(0);
    id
}

/// The first id after a time, for ids that are compared with `<`.
fn end(until: Timestamp) -> Ksuid {
    // Ids resolve 4 ms; who needs it exact looks at the instant itself.
    Ksuid::floor(until.saturating_add(std::time::Duration::from_millis(4)))
}

/// Adds to a count in a task's data.
fn count(data: &mut Map<String, Value>, name: &str, more: usize) -> u64 {
    let sum = data.get(name).and_then(Value::as_u64).unwrap_or(0) + more as u64;
    data.insert(name.to_owned(), sum.into());
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_found_by_indexes() {
        for order in ["ASC", "DESC"] {
            crate::engine::plans::assert_walks(
                &list_sql(order),
                "task USING INDEX task_by_id (environment_no=? AND id>? AND id<?)",
            );
        }
        for (sql, index) in [
            (RUNNING_SQL, "task_turn"),
            (COUNT_SQL, "task_turn"),
            (WAIT_BEFORE_SQL, "task_turn (environment_no=? AND application_no=?"),
            (REPLAYING_SQL, "task_at_endpoint"),
        ] {
            let plan = crate::engine::plans::plan(sql);
            assert!(plan.iter().any(|step| step.contains(index)), "{plan:#?}");
        }
    }

    #[test]
    fn a_step_is_weighed_by_what_it_sends_or_erases() {
        let messages: Vec<_> = (0..500).map(MessageKey).collect();
        let rows = |effects| Slice { effects, ..Slice::default() }.rows().unwrap();
        let how = Again::ByTheSchedule;
        let deliver = |messages| Effects::Deliver { endpoint: EndpointKey(1), how, messages, then: Then::GoesOn };
        assert_eq!([rows(Effects::None), rows(deliver(Vec::new()))], [FEW_ROWS; 2]);
        assert_eq!(rows(deliver(messages.clone())), FEW_ROWS + 1_000);
        assert_eq!(rows(Effects::Erase(messages)), FEW_ROWS + 500);
        // What is counted by name is written again with each step.
        let data = Map::from_iter([("a".to_owned(), "a".repeat(1 << 20).into())]);
        assert_eq!(Slice { data, ..Slice::default() }.rows().unwrap(), FEW_ROWS + 512);
    }

    #[test]
    fn a_cursor_goes_on_after_its_place() {
        let first = Ksuid::floor(Timestamp::from_micros(1_767_323_045_000_000));
        assert_eq!(after(&Value::Null, first), first.as_bytes());
        let mut next = first.as_bytes().to_vec();
        let cursor = place(&next);
        next.push(0);
        assert_eq!(after(&cursor, Ksuid::floor(Timestamp::EPOCH)), next);
    }
}
