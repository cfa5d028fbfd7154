//! The extra headers of an endpoint (rest-contract §7.1).

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use postrider_store::ChangeHeadersError;

use crate::access::caller::Tenant;
use crate::http::answer;
use crate::http::json::JsonBody;
use crate::openapi::{Operation, Routes};
use crate::state::Shared;
use crate::wire::error::{ApiError, Result};
use crate::wire::model::headers::{HeadersIn, HeadersOut, HeadersPatchIn};

/// The routes.
pub(super) fn routes() -> Routes {
    below("/app/{app_id}/endpoint/{endpoint_id}", "v1.endpoint")
}

/// The same for the operator's own endpoints.
pub(super) fn operational_routes() -> Routes {
    below("/operational-webhook/endpoint/{endpoint_id}", "v1.operational-webhook.endpoint")
}

fn below(path: &str, resource: &str) -> Routes {
    let path = &format!("{path}/headers");
    Routes::new()
        .get(
            path,
            read,
            Operation::new(format!("{resource}.get-headers"), "Get the extra headers of an endpoint")
                .returns::<HeadersOut<'_>>(StatusCode::OK, "The headers."),
        )
        .put(
            path,
            replace,
            Operation::new(format!("{resource}.update-headers"), "Replace the extra headers of an endpoint")
                .returns_nothing(StatusCode::NO_CONTENT, "They are replaced."),
        )
        .patch(
            path,
            change,
            Operation::new(format!("{resource}.patch-headers"), "Set and remove extra headers of an endpoint")
                .returns_nothing(StatusCode::NO_CONTENT, "They are changed."),
        )
}

impl From<ChangeHeadersError> for ApiError {
    fn from(error: ChangeHeadersError) -> Self {
        match error {
            ChangeHeadersError::Write(error) => error.into(),
            ChangeHeadersError::TooMany(error) => Self::invalid(&["body", "headers"], error.to_string()),
        }
    }
}

pub(super) async fn read(tenant: Tenant, State(state): State<Shared>) -> Result<Response> {
    let endpoint = tenant.endpoint(&state).await?;
    let headers = state.store.headers(endpoint.key).await?.ok_or_else(|| ApiError::no_such("endpoint"))?;
    Ok(answer::json(StatusCode::OK, &HeadersOut::from(&headers)))
}

pub(super) async fn replace(
    tenant: Tenant,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<HeadersIn>,
) -> Result<Response> {
    let headers = body.checked()?;
    let endpoint = tenant.endpoint(&state).await?;
    state.store.set_headers(endpoint.key, headers, state.clock.now()).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

pub(super) async fn change(
    tenant: Tenant,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<HeadersPatchIn>,
) -> Result<Response> {
    let changes = body.checked()?;
    let endpoint = tenant.endpoint(&state).await?;
    state.store.merge_headers(endpoint.key, changes, state.clock.now()).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}
