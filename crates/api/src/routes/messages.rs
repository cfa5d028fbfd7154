//! Messages of an application (rest-contract §8).

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderName, StatusCode};
use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::{ApplicationId, Id as _, MessageId};
use postrider_domain::message::Message;
use postrider_domain::names::{IdOrUid, Uid};
use postrider_ingest::SubmitError;
use postrider_store::MessageFilter;

use crate::access::caller::{Operator, Tenant};
use crate::http::account::Account;
use crate::http::body::{Incoming, Ledger};
use crate::http::json::JsonBody;
use crate::http::pagination::{ListOut, Timed};
use crate::http::params::Params;
use crate::http::query::{FromQuery, Query, QueryString};
use crate::http::{answer, large};
use crate::openapi::{Operation, Routes};
use crate::state::Shared;
use crate::wire::error::{ApiError, Result};
use crate::wire::model::message::{self, MessageOut, PrecheckIn, PrecheckOut};
use crate::wire::problem::Problem;
use crate::wire::schema::APPLICATION_PATTERN;
use crate::wire::typos::Warnings;

/// How many endpoints want a message that was accepted; of a repetition, how many would now. It is a header, because some
/// SDKs refuse members that they do not know.
pub(super) const MATCHED_ENDPOINTS: HeaderName = HeaderName::from_static("postrider-matched-endpoints");

/// The routes.
pub(super) fn routes() -> Routes {
    type Out = MessageOut<'static>;
    Routes::new()
        .get(
            "/app/{app_id}/msg",
            list,
            Operation::new("v1.message.list", "List the messages of an application")
                .description(
                    "Newest first, and of the last 90 days unless `before`, `after` or `iterator` say otherwise.",
                )
                .returns::<ListOut<Out>>(StatusCode::OK, "A page of messages."),
        )
        .post(
            "/app/{app_id}/msg",
            create,
            Operation::new("v1.message.create", "Create a message")
                .description(
                    "When this is answered the message is on disk, and will be delivered to every endpoint of the \
                     application that wants it: the header `postrider-matched-endpoints` says how many enabled ones do.",
                )
                .path_pattern("app_id", APPLICATION_PATTERN)
                .body::<message::MessageIn<'_>>()
                .returns::<Out>(StatusCode::ACCEPTED, "The message.")
                .error(StatusCode::CONFLICT, "Another message of the application has this `eventId`.")
                .creates("msg_id", "/id"),
        )
        .get(
            "/app/{app_id}/msg/{msg_id}",
            read,
            Operation::new("v1.message.get", "Get a message").returns::<Out>(StatusCode::OK, "The message."),
        )
        .delete(
            "/app/{app_id}/msg/{msg_id}/content",
            expunge,
            Operation::new("v1.message.expunge-content", "Erase the payload of a message")
                .description("It is not delivered any more. The message itself and its attempts stay.")
                .returns_nothing(StatusCode::NO_CONTENT, "It is gone."),
        )
        .post(
            "/app/{app_id}/msg/precheck/active",
            precheck,
            Operation::new("v1.message.precheck", "Ask whether any endpoint wants such a message")
                .returns::<PrecheckOut>(StatusCode::OK, "Whether one does."),
        )
}

pub(super) struct ContentQuery {
    with_content: bool,
}

impl FromQuery for ContentQuery {
    fn from_query(query: &QueryString<'_>) -> Result<Self> {
        Ok(Self { with_content: query.flag("with_content", true)? })
    }
}

pub(super) struct ListQuery {
    timed: Timed,
    filter: MessageFilter,
}

impl FromQuery for ListQuery {
    fn from_query(query: &QueryString<'_>) -> Result<Self> {
        let filter = MessageFilter {
            channel: query.channel()?,
            event_types: query.event_types()?,
            tag: query.tag()?,
            with_payload: query.flag("with_content", true)?,
        };
        Ok(Self { timed: Timed::from_query::<MessageId>(query)?, filter })
    }
}

pub(super) async fn list(
    Query(query): Query<ListQuery>,
    tenant: Tenant,
    State(state): State<Shared>,
) -> Result<Response> {
    let ListQuery { timed, filter } = query;
    let walk = timed.walk(state.clock.now());
    let walked = state.store.messages(tenant.application.key, &filter, walk.scan.clone()).await?;
    Ok(walk.listed(walked.listed).answer_walked(
        walked.reached.map(|id| MessageId::from_ksuid(id).to_string()),
        walk.reversed,
        |message| message.id.to_string(),
        |message| MessageOut::new(message, filter.with_payload),
    ))
}

pub(super) async fn read(
    tenant: Tenant,
    Query(query): Query<ContentQuery>,
    Ledger(account): Ledger,
    State(state): State<Shared>,
) -> Result<Response> {
    if query.with_content {
        account.reserve_list().await?;
        account.begin_work().await?;
    }
    let message = tenant.whole_message(&state, query.with_content).await?;
    Ok(answer::json(StatusCode::OK, &MessageOut::new(&message.value, query.with_content)))
}

pub(super) async fn create(
    operator: Operator,
    Query(query): Query<ContentQuery>,
    params: Params,
    State(state): State<Shared>,
    Extension(warnings): Extension<Warnings>,
    body: Incoming,
) -> Result<Response> {
    let application = addressee(params.text("app_id")?)?;
    let account = Arc::clone(body.account());
    let body = body.read().await?;
    let (environment, once) = (operator.environment.clone(), operator.once.map(|keyed| keyed.key));
    let (addressee, takes_time) = (application.clone(), large::takes_time(&body, large::PASSED_OVER));
    let read = move || message::read(&body, environment, addressee, once, &warnings);
    let message::Read { submission, is_object } = large::read(&state.reading, &account, takes_time, read).await??;
    let submitted = state.intake.submit(submission).await?;
    let replayed = if submitted.replayed && query.with_content {
        Some(stored(&state, &account, &operator.environment, &application, submitted.message.id).await?)
    } else {
        None
    };
    let message = replayed.as_ref().unwrap_or(&submitted.message);
    let mut response = if submitted.replayed || !is_object || !submitted.warnings.is_empty() {
        // What was sent before, or was sent raw, has to be looked at before it is shown.
        let warnings = submitted.warnings.into_iter().map(Problem::from).collect();
        let shown = MessageOut::new(message, query.with_content).with_warnings(warnings);
        answer::json(StatusCode::ACCEPTED, &shown)
    } else {
        let content = message.payload.as_deref().filter(|_| query.with_content);
        answer::raw_json(StatusCode::ACCEPTED, message::write(message, content))
    };
    response.headers_mut().insert(MATCHED_ENDPOINTS, submitted.endpoints.into());
    Ok(response)
}

/// What was accepted before, with its payload, for which there has to be room in the answer.
async fn stored(
    state: &Shared,
    account: &Account,
    environment: &EnvironmentId,
    application: &IdOrUid<ApplicationId>,
    message: MessageId,
) -> Result<Arc<Message>> {
    account.reserve_list().await?;
    account.begin_work().await?;
    let application = state.store.application(environment, application).await?;
    let application = application.ok_or_else(|| ApiError::no_such("application"))?.key;
    let found = state.store.message(application, &IdOrUid::Id(message), true).await?;
    Ok(Arc::new(found.ok_or_else(|| ApiError::no_such("message"))?.value))
}

pub(super) async fn expunge(operator: Operator, params: Params, State(state): State<Shared>) -> Result<Response> {
    let message = operator.message(&state, &params).await?;
    state.store.expunge_message(message).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// Whether anybody would be sent such a message.
pub(super) async fn precheck(
    operator: Operator,
    params: Params,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<PrecheckIn>,
) -> Result<Response> {
    let (event_type, channels) = body.checked()?;
    let application = params.id_or_uid("app_id")?;
    let active = state.intake.is_wanted(&operator.environment, &application, &event_type, channels.as_deref()).await?;
    Ok(answer::json(StatusCode::OK, &PrecheckOut { active }))
}

/// The application that the path names. Here alone its form is checked: the message would otherwise be lost in a 404 that
/// looks as if the application were not there yet.
pub(super) fn addressee(text: &str) -> Result<IdOrUid<ApplicationId>> {
    let id = IdOrUid::parse(text);
    if let IdOrUid::Uid(_) = &id {
        Uid::parse::<ApplicationId>(text)
            .map_err(|error| ApiError::invalid(&["path", "app_id_or_uid", "__all__"], error.to_string()))?;
    }
    Ok(id)
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let about_uid = |kind: &'static str, msg: &str| {
            let loc = ["body", "application", "uid"].map(Into::into).to_vec();
            Self::Invalid(vec![Problem { loc, msg: msg.to_owned(), kind }])
        };
        match error {
            SubmitError::ApplicationNotFound => Self::no_such("application"),
            SubmitError::ApplicationUidMissing => {
                about_uid("application_uid_missing", "the application to create needs the uid that the path names")
            }
            SubmitError::ApplicationUidMismatch => {
                about_uid("application_uid_mismatch", "the uid of the application to create is not what the path names")
            }
            SubmitError::Refused(violations) => Self::Invalid(violations.into_iter().map(Problem::from).collect()),
            SubmitError::Conflict => Self::conflict("eventId"),
            SubmitError::DeliverAtTooLate => Self::invalid(&["body", "deliverAt"], error.to_string()),
            SubmitError::TooMany => Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", error.to_string()),
            SubmitError::Overloaded | SubmitError::NotCompared | SubmitError::RulesChanging => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", error.to_string())
            }
            SubmitError::Unavailable(error) => error.into(),
        }
    }
}
