//! Applications of an environment (rest-contract §5).

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use postrider_domain::application::Application;
use postrider_domain::ids::{ApplicationId, Id as _, Ksuid};
use postrider_domain::names::IdOrUid;
use postrider_store::{ApplicationFilter, Direction, StoredAnswer, Upserted, WriteError};

use crate::access::caller::{Operator, Tenant};
use crate::access::idempotency;
use crate::http::answer;
use crate::http::json::JsonBody;
use crate::http::pagination::{self, ListOut, Walk};
use crate::http::params::Params;
use crate::http::query::{FromQuery, Query, QueryString};
use crate::openapi::{Operation, Routes};
use crate::state::Shared;
use crate::wire::error::{ApiError, Result};
use crate::wire::model::application::{self, ApplicationIn, ApplicationOut, ApplicationPatchIn};

const ID: &str = "app_id";

/// The routes.
pub(super) fn routes() -> Routes {
    type Out = ApplicationOut<'static>;
    Routes::new()
        .get(
            "/app",
            list,
            Operation::new("v1.application.list", "List applications")
                .returns::<ListOut<Out>>(StatusCode::OK, "A page of applications."),
        )
        .post(
            "/app",
            create,
            Operation::new("v1.application.create", "Create an application")
                .returns::<Out>(StatusCode::CREATED, "The new application.")
                .returns::<Out>(StatusCode::OK, "The application that has the uid already, with `get_if_exists`.")
                .error(StatusCode::CONFLICT, "Another application has this uid.")
                .creates("app_id", "/id"),
        )
        .get(
            "/app/{app_id}",
            read,
            Operation::new("v1.application.get", "Get an application")
                .returns::<Out>(StatusCode::OK, "The application."),
        )
        .put(
            "/app/{app_id}",
            replace,
            Operation::new("v1.application.update", "Replace an application, or create one")
                .description(
                    "Members that are left out are reset. If the path names nothing, an application is created with a \
                     new id; what the path says does not become its uid.",
                )
                .returns::<Out>(StatusCode::OK, "The changed application.")
                .returns::<Out>(StatusCode::CREATED, "The new application.")
                .error(StatusCode::CONFLICT, "Another application has this uid.")
                .creates("app_id", "/id"),
        )
        .patch(
            "/app/{app_id}",
            change,
            Operation::new("v1.application.patch", "Change members of an application")
                .returns::<Out>(StatusCode::OK, "The changed application.")
                .error(StatusCode::CONFLICT, "Another application has this uid."),
        )
        .delete(
            "/app/{app_id}",
            delete,
            Operation::new("v1.application.delete", "Delete an application")
                .description("Its endpoints, messages and tokens go with it, and what is not delivered yet is dropped.")
                .returns_nothing(StatusCode::NO_CONTENT, "It is gone."),
        )
}

pub(super) struct ListQuery {
    walk: Walk<Ksuid>,
    filter: ApplicationFilter,
}

impl FromQuery for ListQuery {
    fn from_query(query: &QueryString<'_>) -> Result<Self> {
        let filter = ApplicationFilter {
            with_endpoints: query.flag("exclude_apps_with_no_endpoints", false)?,
            without_disabled: query.flag("exclude_apps_with_disabled_endpoints", false)?,
        };
        Ok(Self { walk: pagination::ordered::<ApplicationId>(query, Direction::Ascending)?, filter })
    }
}

pub(super) struct CreateQuery {
    get_if_exists: bool,
}

impl FromQuery for CreateQuery {
    fn from_query(query: &QueryString<'_>) -> Result<Self> {
        Ok(Self { get_if_exists: query.flag("get_if_exists", false)? })
    }
}

fn show(status: StatusCode, application: &Application) -> Response {
    answer::json(status, &ApplicationOut::from(application))
}

fn created(application: &Application) -> StoredAnswer {
    answer::to_store(StatusCode::CREATED, &ApplicationOut::from(application))
}

fn uid_conflict() -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "conflict", "An application with this uid already exists.")
}

pub(super) async fn list(
    Query(ListQuery { walk, filter }): Query<ListQuery>,
    operator: Operator,
    State(state): State<Shared>,
) -> Result<Response> {
    let walked = state.store.applications(&operator.environment, filter, walk.scan.clone()).await?;
    let reached = walked.reached.map(|id| ApplicationId::from_ksuid(id).to_string());
    let page = walk.listed(walked.listed);
    Ok(page.answer_walked(reached, walk.reversed, |application| application.id.to_string(), ApplicationOut::from))
}

pub(super) async fn create(
    operator: Operator,
    Query(query): Query<CreateQuery>,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<ApplicationIn>,
) -> Result<Response> {
    let now = state.clock.now();
    let new = application::made(body.checked()?, ApplicationId::new(now, &*state.entropy), now);
    let uid = new.uid.clone();
    let once = idempotency::once(operator.once, state.store.believed(now), created);
    match state.store.create_application(&operator.environment, new, once).await {
        Ok(written) => Ok(answer::written(written, created)),
        Err(WriteError::Conflict) => match uid {
            Some(uid) if query.get_if_exists => {
                let id = IdOrUid::parse(uid.as_str());
                let existing = state.store.application(&operator.environment, &id).await?;
                // One that was deleted in between has been in the way nevertheless.
                existing.map(|existing| show(StatusCode::OK, &existing.value)).ok_or_else(uid_conflict)
            }
            _ => Err(uid_conflict()),
        },
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn read(tenant: Tenant) -> Response {
    show(StatusCode::OK, &tenant.application.value)
}

pub(super) async fn replace(
    operator: Operator,
    params: Params,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<ApplicationIn>,
) -> Result<Response> {
    let new = body.checked()?;
    let id = params.id_or_uid(ID)?;
    let now = state.clock.now();
    let otherwise = application::made(new.clone(), ApplicationId::new(now, &*state.entropy), now);
    let patch = application::replacement(new);
    Ok(match state.store.upsert_application(&operator.environment, &id, patch, otherwise, now).await? {
        Upserted::Updated(application) => show(StatusCode::OK, &application),
        Upserted::Created(application) => show(StatusCode::CREATED, &application),
    })
}

pub(super) async fn change(
    operator: Operator,
    params: Params,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<ApplicationPatchIn>,
) -> Result<Response> {
    let patch = body.checked()?;
    let id = params.id_or_uid(ID)?;
    let changed = state.store.update_application(&operator.environment, &id, patch, state.clock.now()).await?;
    Ok(show(StatusCode::OK, &changed))
}

pub(super) async fn delete(operator: Operator, params: Params, State(state): State<Shared>) -> Result<Response> {
    let id = params.id_or_uid(ID)?;
    state.store.delete_application(&operator.environment, &id, state.clock.now()).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}
