//! Background tasks: starting them, and watching them (rest-contract §9.7; the others as the SDKs know them).

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::{Id as _, Ksuid, TaskId};
use postrider_domain::names::IdOrUid;
use postrider_domain::task::{Task, TaskKind, TaskStatus};
use postrider_store::{Direction, Job, NewTask, StoredAnswer, TaskError, TaskFilter};

use crate::access::caller::{CreateAttempts, Operator, Reader, Tenant};
use crate::access::idempotency::{self, Keyed};
use crate::http::account::LIST_BYTES;
use crate::http::answer;
use crate::http::body::Ledger;
use crate::http::json::JsonBody;
use crate::http::pagination::{self, ListOut, Walk};
use crate::http::params::Params;
use crate::http::query::{FromQuery, Query, QueryString};
use crate::openapi::{Operation, Routes};
use crate::state::Shared;
use crate::wire::error::{ApiError, Result};
use crate::wire::model::task::{
    AppUsageIn, AppUsageOut, BulkExpungeIn, BulkExpungeOut, BulkReplayIn, RecoverIn, StartedOut, TaskOut,
};

/// Messages whose payloads are erased in one commit.
const EXPUNGE_SLICE: usize = 200;

const STARTED: &str = "The task that does it; `GET /api/v1/background-task/{task_id}` shows how far it is.";

/// What is said of a task whose endpoint takes nothing.
macro_rules! none_if_disabled {
    ($what:literal) => {
        concat!(
            $what,
            " Enable a disabled endpoint first: nothing is sent to it, the request is accepted all the same, the task ends at \
             once, and `stopped` in its `data` (`GET /api/v1/background-task/{task_id}`) is `endpoint_disabled`."
        )
    };
}

const BUSY: &str = "Another task is sending messages to this endpoint again.";

/// The routes.
pub(super) fn routes() -> Routes {
    starting().and(watching())
}

fn starting() -> Routes {
    Routes::new()
        .post(
            "/app/{app_id}/endpoint/{endpoint_id}/recover",
            recover,
            Operation::new("v1.endpoint.recover", "Send again what failed at an endpoint")
                .description(none_if_disabled!(
                    "Each message with a failed attempt in this time, and no successful one, is sent again, once: if that \
                     attempt fails, there is no retry. `since` is at most 14 days before `until` (422 otherwise), and at \
                     most 10,000 messages are sent. What was never attempted, because the endpoint was disabled then, is \
                     for `replay-missing`; what was delivered, for `bulk-replay`."
                ))
                .error(StatusCode::CONFLICT, BUSY)
                .returns::<StartedOut>(StatusCode::ACCEPTED, STARTED),
        )
        .post(
            "/app/{app_id}/endpoint/{endpoint_id}/replay-missing",
            replay_missing,
            Operation::new("v1.endpoint.replay-missing", "Send an endpoint what was never attempted there")
                .description(none_if_disabled!(
                    "Each message of this time that the endpoint's filters let through, and that was never attempted there \
                     (it was made later, had other filters, or was disabled), is sent as if the endpoint had been there, \
                     with all retries. `since` is at most 14 days before `until` (422 otherwise). What was attempted and \
                     failed is for `recover`."
                ))
                .error(StatusCode::CONFLICT, BUSY)
                .returns::<StartedOut>(StatusCode::ACCEPTED, STARTED),
        )
        .post(
            "/app/{app_id}/endpoint/{endpoint_id}/bulk-replay",
            bulk_replay,
            Operation::new("v1.endpoint.bulk-replay", "Send again what was attempted at an endpoint, delivered or not")
                .description(none_if_disabled!(
                    "Each message of this time that was attempted there, also successfully, is sent again, once, if the \
                     filters of the request and of the endpoint let it. To send again only what failed, use `recover`; \
                     what was never attempted is for `replay-missing`."
                ))
                .error(StatusCode::CONFLICT, BUSY)
                .returns::<StartedOut>(StatusCode::ACCEPTED, STARTED),
        )
        .post(
            "/app/{app_id}/msg/expunge-all-contents",
            expunge_all,
            Operation::new("v1.message.expunge-all-contents", "Erase the payloads of all messages of an application")
                .description("Those that it has now. The messages themselves and their attempts stay.")
                .returns::<StartedOut>(StatusCode::ACCEPTED, STARTED),
        )
        .post(
            "/app/{app_id}/msg/bulk-expunge",
            bulk_expunge,
            Operation::new("v1.message.bulk-expunge-content", "Erase the payloads of some messages")
                .returns::<BulkExpungeOut>(StatusCode::OK, "What became of each."),
        )
        .post(
            "/stats/usage/app",
            app_usage,
            Operation::new("v1.statistics.aggregate-app-stats", "Count what applications sent")
                .description("Messages, attempts, and destinations: messages times the endpoints that they went to.")
                .returns::<AppUsageOut>(StatusCode::ACCEPTED, STARTED),
        )
        .put(
            "/stats/usage/event-types",
            event_type_usage,
            Operation::new("v1.statistics.aggregate-event-types", "Count messages by event type")
                .returns::<StartedOut>(StatusCode::ACCEPTED, STARTED),
        )
}

fn watching() -> Routes {
    type Out = TaskOut<'static>;
    Routes::new()
        .get(
            "/background-task",
            list,
            Operation::new("v1.background-task.list", "List background tasks")
                .description("Of the last 90 days, newest first.")
                .returns::<ListOut<Out>>(StatusCode::OK, "A page of tasks."),
        )
        .get(
            "/background-task/{task_id}",
            read,
            Operation::new("v1.background-task.get", "Get a background task")
                .description("To an application's token there are only tasks that are about that application.")
                .returns::<Out>(StatusCode::OK, "The task."),
        )
}

impl From<TaskError> for ApiError {
    fn from(error: TaskError) -> Self {
        match error {
            TaskError::Write(error) => error.into(),
            TaskError::Busy(other) => {
                let detail =
                    format!("The task {other} is sending messages to this endpoint again. Wait until it ends.");
                Self::new(StatusCode::CONFLICT, "task_running", detail)
            }
            TaskError::TooManyDeliveries => Self::too_many_deliveries(),
            TaskError::TooMany(running) => {
                let detail = format!("{running} background tasks are running already. Try again when some have ended.");
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_tasks", detail)
            }
        }
    }
}

/// Adds a task, and answers with what `show` makes of it.
async fn start(
    state: &Shared,
    environment: EnvironmentId,
    once: Option<Keyed>,
    job: Job,
    show: impl Fn(&Task) -> StoredAnswer + Send + Clone + 'static,
) -> Result<Response> {
    let created_at = state.clock.now();
    let new = NewTask { id: TaskId::new(created_at, &*state.entropy), environment, job, created_at };
    let once = idempotency::once(once, state.store.believed(created_at), show.clone());
    Ok(answer::written(state.store.create_task(new, once).await?, show))
}

fn started(task: &Task) -> StoredAnswer {
    answer::to_store(StatusCode::ACCEPTED, &StartedOut::from(task))
}

async fn recover(
    tenant: Tenant<CreateAttempts>,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<RecoverIn>,
) -> Result<Response> {
    let endpoint = tenant.endpoint(&state).await?.key;
    let span = body.checked(state.clock.now())?;
    start(&state, tenant.environment, tenant.once, Job::Recover { endpoint, span }, started).await
}

async fn replay_missing(
    tenant: Tenant<CreateAttempts>,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<RecoverIn>,
) -> Result<Response> {
    let endpoint = tenant.endpoint(&state).await?.key;
    let span = body.checked(state.clock.now())?;
    start(&state, tenant.environment, tenant.once, Job::Replay { endpoint, span }, started).await
}

async fn bulk_replay(
    tenant: Tenant<CreateAttempts>,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<BulkReplayIn>,
) -> Result<Response> {
    let endpoint = tenant.endpoint(&state).await?.key;
    let (span, filter) = body.checked(state.clock.now())?;
    start(&state, tenant.environment, tenant.once, Job::BulkReplay { endpoint, span, filter }, started).await
}

async fn expunge_all(operator: Operator, params: Params, State(state): State<Shared>) -> Result<Response> {
    let application = operator.application(&state, &params).await?.key;
    start(&state, operator.environment, operator.once, Job::PurgeContent { application }, started).await
}

/// In several commits, because erasing takes time; it does no harm to repeat it.
async fn bulk_expunge(
    operator: Operator,
    params: Params,
    Ledger(account): Ledger,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<BulkExpungeIn>,
) -> Result<Response> {
    account.reserve_answer(LIST_BYTES).await?;
    let application = operator.application(&state, &params).await?.key;
    let ids = body.checked()?;
    let mut found = Vec::with_capacity(ids.len());
    for slice in ids.chunks(EXPUNGE_SLICE) {
        let names = slice.iter().map(|id| IdOrUid::parse(id)).collect();
        found.extend(state.store.expunge_messages(application, names).await?);
    }
    Ok(answer::json(StatusCode::OK, &BulkExpungeOut::new(ids, &found)))
}

async fn app_usage(
    operator: Operator,
    Ledger(account): Ledger,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<AppUsageIn>,
) -> Result<Response> {
    account.reserve_answer(LIST_BYTES).await?;
    let (span, ids) = body.checked()?;
    let mut unresolved = Vec::new();
    let applications = match ids {
        None => None,
        Some(ids) => {
            let mut found = Vec::new();
            for id in ids {
                match state.store.application(&operator.environment, &IdOrUid::parse(&id)).await? {
                    Some(application) => found.push(application.key),
                    None => unresolved.push(id),
                }
            }
            if found.is_empty() {
                return Err(ApiError::invalid(&["body", "appIds"], "none of these applications exists"));
            }
            // One that is named twice is counted once.
            found.sort_unstable();
            found.dedup();
            Some(found)
        }
    };
    let show = move |task: &Task| answer::to_store(StatusCode::ACCEPTED, &AppUsageOut::new(task, unresolved.clone()));
    start(&state, operator.environment, operator.once, Job::ApplicationStats { applications, span }, show).await
}

async fn event_type_usage(operator: Operator, State(state): State<Shared>) -> Result<Response> {
    start(&state, operator.environment, operator.once, Job::AggregateEventTypes, started).await
}

pub(super) struct ListQuery {
    walk: Walk<Ksuid>,
    filter: TaskFilter,
}

impl FromQuery for ListQuery {
    fn from_query(query: &QueryString<'_>) -> Result<Self> {
        // Kinds that this server has no tasks of are asked for, too.
        let others = ["message.broadcast", "sdk.generate"];
        let kinds: Vec<_> = TaskKind::ALL.iter().map(|kind| kind.as_str()).chain(others).collect();
        let statuses: Vec<_> = TaskStatus::ALL.iter().map(|status| status.as_str()).collect();
        let filter = TaskFilter {
            kind: query.word("task", &kinds)?.map(TaskKind::parse),
            status: query.word("status", &statuses)?.and_then(TaskStatus::parse),
        };
        Ok(Self { walk: pagination::ordered::<TaskId>(query, Direction::Descending)?, filter })
    }
}

async fn list(Query(query): Query<ListQuery>, operator: Operator, State(state): State<Shared>) -> Result<Response> {
    let ListQuery { walk, filter } = query;
    let walked = state.store.tasks(&operator.environment, filter, walk.scan.clone()).await?;
    let reached = walked.reached.map(|id| TaskId::from_ksuid(id).to_string());
    let page = walk.listed(walked.listed);
    Ok(page.answer_walked(reached, walk.reversed, |task| task.id.to_string(), TaskOut::from))
}

async fn read(reader: Reader, params: Params, State(state): State<Shared>) -> Result<Response> {
    let id = params.id::<TaskId>("task_id", "task")?;
    let task = match reader.application {
        None => state.store.task(&reader.environment, id).await?,
        Some(own) => match state.store.application(&reader.environment, &IdOrUid::Id(own)).await? {
            Some(application) => state.store.task_of(application.key, id).await?,
            None => None,
        },
    };
    Ok(answer::json(StatusCode::OK, &TaskOut::from(&task.ok_or_else(|| ApiError::no_such("task"))?)))
}
