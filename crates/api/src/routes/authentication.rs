//! Tokens of applications: making them, ending them, and finding out whom one speaks for (rest-contract §4).
//!
//! A repeated request with the same idempotency key makes another token, which is as good: to give the same one again, it
//! would have to be kept.

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use postrider_store::{StoredAnswer, TokenExpiry};

use crate::access::caller::{Operator, Reader};
use crate::access::idempotency;
use crate::http::answer;
use crate::http::body::Ledger;
use crate::http::json::JsonBody;
use crate::http::params::Params;
use crate::openapi::{Operation, Routes};
use crate::routes::messages::addressee;
use crate::state::{self, Shared};
use crate::wire::error::{ApiError, Result};
use crate::wire::model::authentication::{ExpireIn, PortalAccess, PortalAccessIn, PortalAccessOut, WhoamiOut};
use crate::wire::schema::APPLICATION_PATTERN;

/// The routes.
pub(super) fn routes() -> Routes {
    Routes::new()
        .post(
            "/auth/app-portal-access/{app_id}",
            portal_access,
            Operation::new("v1.authentication.app-portal-access", "Make a token for a customer of an application")
                .path_pattern("app_id", APPLICATION_PATTERN)
                .returns::<PortalAccessOut>(StatusCode::OK, "The token, and a page to use it on.")
                .differs("`url` leads to the documentation of this API: there is no portal."),
        )
        .post(
            "/auth/dashboard-access/{app_id}",
            dashboard_access,
            Operation::new(
                "v1.authentication.dashboard-access",
                "Make a token for a customer of an application (older path)",
            )
            .path_pattern("app_id", APPLICATION_PATTERN)
            .returns::<PortalAccessOut>(StatusCode::OK, "The token, and a page to use it on."),
        )
        .post(
            "/auth/app/{app_id}/expire-all",
            expire_all,
            Operation::new("v1.authentication.expire-all", "End the tokens of an application")
                .returns_nothing(StatusCode::NO_CONTENT, "They are ended."),
        )
        .get(
            "/auth/whoami",
            whoami,
            Operation::new("v1.authentication.whoami", "Find out whom a token speaks for")
                .returns::<WhoamiOut>(StatusCode::OK, "The environment, and the application if it speaks for one."),
        )
        .post("/auth/logout", logout, Operation::not_implemented(LOGOUT.0, LOGOUT.1))
}

/// The most that a link and its token take: the token is the larger part, and is in both.
const ACCESS_BYTES: u64 = 65_536;

/// The page that a link for an application's customer leads to.
const PAGE: &str = "/docs";

pub(super) async fn portal_access(
    operator: Operator,
    params: Params,
    headers: HeaderMap,
    Ledger(account): Ledger,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<PortalAccessIn>,
) -> Result<Response> {
    account.reserve_answer(ACCESS_BYTES).await?;
    issue(&state, operator, &params, &headers, body.checked()?).await
}

/// An older form, without a body.
pub(super) async fn dashboard_access(
    operator: Operator,
    params: Params,
    headers: HeaderMap,
    State(state): State<Shared>,
) -> Result<Response> {
    issue(&state, operator, &params, &headers, PortalAccessIn::default().checked()?).await
}

async fn issue(
    state: &state::State,
    operator: Operator,
    params: &Params,
    headers: &HeaderMap,
    mut access: PortalAccess,
) -> Result<Response> {
    let id = addressee(params.text("app_id")?)?;
    let environment = operator.environment;
    state.intake.ensure_application(&environment, &id, access.create_application.take()).await?;
    let application =
        state.store.application(&environment, &id).await?.ok_or_else(|| ApiError::no_such("application"))?;
    let token = state.authenticator.issue(access.token(environment, application.value.id)).await?;
    let url = format!("{}{PAGE}", base_url(state, headers));
    Ok(answer::json(StatusCode::OK, &PortalAccessOut { url, token }))
}

/// Where this server is reached: as it was told, or as the caller reached it.
fn base_url(state: &state::State, headers: &HeaderMap) -> String {
    if let Some(url) = &state.public_url {
        return url.trim_end_matches('/').to_owned();
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    format!("http://{host}")
}

fn done((): &()) -> StoredAnswer {
    StoredAnswer { status: StatusCode::NO_CONTENT.as_u16(), body: Bytes::new() }
}

pub(super) async fn expire_all(
    operator: Operator,
    params: Params,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<ExpireIn>,
) -> Result<Response> {
    let (grace, sessions) = body.checked()?;
    let application = operator.application(&state, &params).await?;
    let now = state.clock.now();
    // Tokens are dated by the clock on the wall, and refused by the one that counts on.
    let issued_before = state.clock.wall();
    let expiry = TokenExpiry { sessions, issued_before, refused_from: now.saturating_add(grace) };
    let once = idempotency::once(operator.once, state.store.believed(now), done);
    let written = state.store.expire_tokens(application.key, expiry, once, now).await?;
    Ok(answer::written(written, done))
}

/// Tokens are not kept, so there is nothing to log out of; clients expect to be told so, whatever their token.
const LOGOUT: (&str, &str) = (
    "Logging out ends a token, and tokens are not kept.",
    "To end the tokens of an application, use POST /api/v1/auth/app/{app_id}/expire-all.",
);

pub(super) async fn logout() -> ApiError {
    ApiError::not_implemented(format!("{} {}", LOGOUT.0, LOGOUT.1))
}

pub(super) async fn whoami(reader: Reader) -> Response {
    answer::json(
        StatusCode::OK,
        &WhoamiOut {
            environment_id: reader.environment.to_string(),
            application_id: reader.application,
            feature_flags: reader.feature_flags,
        },
    )
}
