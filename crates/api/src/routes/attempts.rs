//! Attempts to deliver messages, and asking for one more (rest-contract §10).

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use postrider_domain::attempt::Attempt;
use postrider_domain::ids::{AttemptId, EndpointId, Id as _, Ksuid};
use postrider_domain::names::IdOrUid;
use postrider_store::{AttemptFilter, EndpointKey, MessageKey, ResendError, Resent, StoredAnswer};

use crate::access::caller::{CreateAttempts, Operator, Tenant};
use crate::access::idempotency;
use crate::http::answer;
use crate::http::pagination::{ListOut, Page, Timed};
use crate::http::params::Params;
use crate::http::query::{FromQuery, Query, QueryString};
use crate::openapi::{Operation, Routes};
use crate::state::Shared;
use crate::wire::error::{ApiError, Result};
use crate::wire::model::attempt::{AttemptOut, ResendOut, STATUS_CLASSES, Status};

/// The routes.
pub(super) fn routes() -> Routes {
    type Out = AttemptOut<'static>;
    type List = ListOut<Out>;
    Routes::new()
        // Two older forms of the lists below, which some clients still use.
        .get(
            "/app/{app_id}/msg/{msg_id}/attempt",
            list_by_message,
            Operation::new("v1.message-attempt.list", "List the attempts of a message (older path)")
                .returns::<List>(StatusCode::OK, "A page of attempts.")
                .creates("attempt_id", "/data/0/id"),
        )
        .get(
            "/app/{app_id}/msg/{msg_id}/endpoint/{endpoint_id}/attempt",
            list_by_message_and_endpoint,
            Operation::new(
                "v1.message-attempt.list-by-endpoint-and-msg",
                "List the attempts of a message at an endpoint",
            )
            .returns::<List>(StatusCode::OK, "A page of attempts."),
        )
        .get(
            "/app/{app_id}/msg/{msg_id}/attempt/{attempt_id}",
            read,
            Operation::new("v1.message-attempt.get", "Get an attempt").returns::<Out>(StatusCode::OK, "The attempt."),
        )
        .delete(
            "/app/{app_id}/msg/{msg_id}/attempt/{attempt_id}/content",
            expunge,
            Operation::new("v1.message-attempt.expunge-content", "Erase what an attempt was answered")
                .returns_nothing(StatusCode::NO_CONTENT, "It is gone."),
        )
        .post(
            "/app/{app_id}/msg/{msg_id}/endpoint/{endpoint_id}/resend",
            resend,
            Operation::new("v1.message-attempt.resend", "Send a message to an endpoint once more")
                .description(
                    "One attempt is made, whatever the filters of the endpoint. It is not repeated if it fails. A disabled \
                     endpoint gets nothing: then `sent` is false, and `detail` says why. What an endpoint is sent that is held back \
                     waits until `heldUntil`.",
                )
                .returns::<ResendOut>(StatusCode::ACCEPTED, "It will be made, unless `sent` is false."),
        )
        .get(
            "/app/{app_id}/attempt/endpoint/{endpoint_id}",
            list_by_endpoint,
            Operation::new("v1.message-attempt.list-by-endpoint", "List the attempts of an endpoint")
                .returns::<List>(StatusCode::OK, "A page of attempts."),
        )
        .get(
            "/app/{app_id}/attempt/msg/{msg_id}",
            list_by_message,
            Operation::new("v1.message-attempt.list-by-msg", "List the attempts of a message")
                .returns::<List>(StatusCode::OK, "A page of attempts.")
                .creates("attempt_id", "/data/0/id"),
        )
}

pub(super) struct ListQuery {
    timed: Timed,
    filter: AttemptFilter,
    /// Only attempts in a state in which none can be.
    is_empty: bool,
    endpoint: Option<IdOrUid<EndpointId>>,
}

impl FromQuery for ListQuery {
    fn from_query(query: &QueryString<'_>) -> Result<Self> {
        let status = query.code("status", &Status::CODES)?.and_then(Status::from_code);
        let status_code_class = query.code("status_code_class", &STATUS_CLASSES)?;
        let (succeeded, is_empty) = match status {
            None => (None, false),
            Some(Status::Success) => (Some(true), false),
            Some(Status::Fail) => (Some(false), false),
            Some(Status::Pending | Status::Sending | Status::Canceled) => (None, true),
        };
        let filter = AttemptFilter {
            succeeded,
            status_code_class,
            channel: query.channel()?,
            event_types: query.event_types()?,
            tag: query.tag()?,
            with_response: query.flag("with_content", true)?,
            with_message: query.flag("with_msg", false)?,
        };
        let endpoint = query.text("endpoint_id")?.map(IdOrUid::parse);
        Ok(Self { timed: Timed::from_query::<AttemptId>(query)?, filter, is_empty, endpoint })
    }
}

fn answer_page(page: &Page<Attempt>, reached: Option<Ksuid>, reversed: bool, with_content: bool) -> Response {
    page.answer_walked(
        reached.map(|id| AttemptId::from_ksuid(id).to_string()),
        reversed,
        |attempt| attempt.id.to_string(),
        |attempt| AttemptOut::new(attempt, with_content).with_message(attempt),
    )
}

pub(super) async fn list_by_endpoint(
    Query(query): Query<ListQuery>,
    tenant: Tenant,
    State(state): State<Shared>,
) -> Result<Response> {
    let ListQuery { timed, filter, is_empty, .. } = query;
    let endpoint = tenant.endpoint(&state).await?;
    if is_empty {
        return Ok(answer_page(&Page::empty(), None, false, false));
    }
    let walk = timed.walk(state.clock.now());
    let walked = state.store.attempts_by_endpoint(endpoint.key, &filter, walk.scan.clone()).await?;
    Ok(answer_page(&walk.listed(walked.listed), walked.reached, walk.reversed, filter.with_response))
}

pub(super) async fn list_by_message(
    Query(query): Query<ListQuery>,
    tenant: Tenant,
    State(state): State<Shared>,
) -> Result<Response> {
    let message = tenant.message(&state).await?;
    let endpoint = match &query.endpoint {
        Some(id) => {
            let found = state.store.endpoint(tenant.application.key, id).await?;
            Some(found.ok_or_else(|| ApiError::no_such("endpoint"))?.key)
        }
        None => None,
    };
    message_page(&state, query, message, endpoint).await
}

/// An older form of the list by message, with the endpoint in the path.
pub(super) async fn list_by_message_and_endpoint(
    Query(query): Query<ListQuery>,
    tenant: Tenant,
    State(state): State<Shared>,
) -> Result<Response> {
    let message = tenant.message(&state).await?;
    let endpoint = tenant.endpoint(&state).await?;
    message_page(&state, query, message, Some(endpoint.key)).await
}

async fn message_page(
    state: &Shared,
    query: ListQuery,
    message: MessageKey,
    endpoint: Option<EndpointKey>,
) -> Result<Response> {
    let ListQuery { timed, filter, is_empty, .. } = query;
    if is_empty {
        return Ok(answer_page(&Page::empty(), None, false, false));
    }
    let walk = timed.walk(state.clock.now());
    let walked = state.store.attempts_by_message(message, endpoint, &filter, walk.scan.clone()).await?;
    Ok(answer_page(&walk.listed(walked.listed), walked.reached, walk.reversed, filter.with_response))
}

pub(super) struct MessageQuery {
    with_msg: bool,
}

impl FromQuery for MessageQuery {
    fn from_query(query: &QueryString<'_>) -> Result<Self> {
        Ok(Self { with_msg: query.flag("with_msg", false)? })
    }
}

pub(super) async fn read(
    tenant: Tenant,
    Query(query): Query<MessageQuery>,
    State(state): State<Shared>,
) -> Result<Response> {
    let message = tenant.message(&state).await?;
    let id = tenant.params().id::<AttemptId>("attempt_id", "attempt")?;
    let attempt = state.store.attempt(tenant.application.key, message, id).await?;
    let attempt = attempt.ok_or_else(|| ApiError::no_such("attempt"))?;
    let shown = AttemptOut::new(&attempt, true);
    Ok(answer::json(StatusCode::OK, &if query.with_msg { shown.with_message(&attempt) } else { shown }))
}

pub(super) async fn expunge(operator: Operator, params: Params, State(state): State<Shared>) -> Result<Response> {
    let message = operator.message(&state, &params).await?;
    state.store.expunge_attempt(message, params.id::<AttemptId>("attempt_id", "attempt")?).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// Clients parse an object, and take anything but 202 for a failure; so what will not be sent is said in the object.
fn resent(resent: &Resent) -> StoredAnswer {
    let body = match resent {
        Resent::Due => Bytes::from_static(b"{}"),
        Resent::Held(hold) => serde_json::to_vec(&ResendOut::held(*hold)).unwrap_or_default().into(),
        Resent::Disabled(why) => serde_json::to_vec(&ResendOut::disabled(*why)).unwrap_or_default().into(),
    };
    StoredAnswer { status: StatusCode::ACCEPTED.as_u16(), body }
}

pub(super) async fn resend(tenant: Tenant<CreateAttempts>, State(state): State<Shared>) -> Result<Response> {
    let message = tenant.message(&state).await?;
    let endpoint = tenant.endpoint(&state).await?;
    let now = state.clock.now();
    let once = idempotency::once(tenant.once, state.store.believed(now), resent);
    let written = state.store.resend(endpoint.key, message, now, once).await?;
    Ok(answer::written(written, resent))
}

impl From<ResendError> for ApiError {
    fn from(error: ResendError) -> Self {
        match error {
            ResendError::Write(error) => error.into(),
            ResendError::TooMany => Self::too_many_deliveries(),
            ResendError::Spent { per_day, wait } => {
                let detail = format!(
                    "{per_day} attempts of the application were asked for one by one within a day, which is as many as may be \
                     (limits.asked_per_day)."
                );
                Self::Later { code: "too_many_asked_for", detail: detail.into(), wait }
            }
            ResendError::MissingPayload => {
                Self::new(StatusCode::BAD_REQUEST, "missing_payload", "The payload of this message is gone.")
            }
        }
    }
}
