//! The secret of an endpoint, and its rotation (rest-contract §9).

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use postrider_domain::signature::Secret;
use postrider_store::{RotateError, StoredAnswer};

use crate::access::{ManageSecret, ReadSecret, Tenant};
use crate::answer;
use crate::error::{ApiError, Result};
use crate::idempotency;
use crate::json::JsonBody;
use crate::model::endpoint::{RotateIn, SecretOut};
use crate::quirks;
use crate::router::Shared;

pub(super) async fn read(tenant: Tenant<ReadSecret>, State(state): State<Shared>) -> Result<Response> {
    let endpoint = tenant.endpoint(&state).await?;
    let keys = state.store.signing_keys(endpoint.key).await?.ok_or_else(ApiError::not_found)?;
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
    let once = idempotency::once(tenant.once, now, rotated);
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
