//! The secret of an endpoint, and its rotation (rest-contract §9).

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use postrider_domain::signature::Secret;
use postrider_store::{RotateError, StoredAnswer};

use crate::access::caller::{ManageSecret, ReadSecret, Tenant};
use crate::access::idempotency;
use crate::http::answer;
use crate::http::json::JsonBody;
use crate::openapi::{Operation, Routes};
use crate::state::Shared;
use crate::wire::error::{ApiError, Result};
use crate::wire::model::endpoint::{RotateIn, SecretOut};
use crate::wire::quirks;

/// The routes.
pub(super) fn routes() -> Routes {
    below("/app/{app_id}/endpoint/{endpoint_id}", "v1.endpoint")
}

/// The same for the operator's own endpoints.
pub(super) fn operational_routes() -> Routes {
    below("/operational-webhook/endpoint/{endpoint_id}", "v1.operational-webhook.endpoint")
}

fn below(path: &str, resource: &str) -> Routes {
    Routes::new()
        .get(
            &format!("{path}/secret"),
            read,
            Operation::new(format!("{resource}.get-secret"), "Get the secret of an endpoint")
                .returns::<SecretOut>(StatusCode::OK, "The secret."),
        )
        .post(
            &format!("{path}/secret/rotate"),
            rotate,
            Operation::new(format!("{resource}.rotate-secret"), "Replace the secret of an endpoint")
                .description(
                    "The old secret goes on signing too for a while, so that receivers can change theirs. At most 10 \
                     old secrets do at a time; `gracePeriodSeconds` 0 adds none. Each ends when its own time is over, at most \
                     7 days after it was replaced, and a later rotation does not end it earlier: where old ones must end at \
                     once, replace the endpoint. A secret that the endpoint has already is no second one: the current one \
                     changes nothing, an old one becomes the current one.",
                )
                .returns_nothing(StatusCode::NO_CONTENT, "It is replaced.")
                .returns::<SecretOut>(StatusCode::OK, "It is replaced, and the client is an SDK from version 2.7 on.")
                .differs("Answers 200 with the new key to SDKs from 2.7 on, which need it, and 204 to all others."),
        )
}

pub(super) async fn read(tenant: Tenant<ReadSecret>, State(state): State<Shared>) -> Result<Response> {
    let endpoint = tenant.endpoint(&state).await?;
    let keys = state.store.signing_keys(endpoint.key).await?.ok_or_else(|| ApiError::no_such("endpoint"))?;
    Ok(answer::json(StatusCode::OK, &SecretOut::from(&keys.current)))
}

pub(super) async fn rotate(
    tenant: Tenant<ManageSecret>,
    State(state): State<Shared>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<RotateIn>,
) -> Result<Response> {
    let (secret, grace) = body.checked()?;
    let endpoint = tenant.endpoint(&state).await?;
    let now = state.clock.now();
    let next = secret.unwrap_or_else(|| Secret::generate(state.signing.default_kind, &*state.entropy));
    let wants_key = quirks::wants_rotated_key(&headers);
    let rotated = move |secret: &Secret| match wants_key {
        true => answer::to_store(StatusCode::OK, &SecretOut::from(secret)),
        false => StoredAnswer { status: StatusCode::NO_CONTENT.as_u16(), body: bytes::Bytes::new() },
    };
    let once = idempotency::once(tenant.once, state.store.believed(now), rotated);
    let written = state.store.rotate_secret(endpoint.key, next, now.saturating_add(grace), now, once).await;
    Ok(answer::written(written?, rotated))
}

impl From<RotateError> for ApiError {
    fn from(error: RotateError) -> Self {
        match error {
            RotateError::Write(error) => error.into(),
            RotateError::TooManyKeys(error) => Self::new(StatusCode::BAD_REQUEST, "limit_reached", error.to_string()),
        }
    }
}
