//! Whether the server works (rest-contract §12). Needs no token.
//!
//! The answer comes within a second, also when the store is stuck. However many ask at once, the store is asked once.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::Serialize;

use crate::http::answer;
use crate::openapi::{Operation, Routes};
use crate::state;
use crate::store_ping::PATIENCE;

#[derive(Serialize)]
struct Unhealthy {
    code: &'static str,
    detail: &'static str,
    database: Part,
}

#[derive(Serialize)]
struct Part {
    status: &'static str,
    error: String,
}

/// The routes.
pub(super) fn routes() -> Routes {
    Routes::new()
        .get(
            "/health",
            check,
            Operation::new("v1.health.get", "Whether the server and its store work")
                .returns_nothing(StatusCode::NO_CONTENT, "They do.")
                .error(StatusCode::INTERNAL_SERVER_ERROR, "The store does not. `database` says what is wrong.")
                .error(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "The store does not answer (`unhealthy`), or connections are needed for others (`overloaded`).",
                ),
        )
        .get(
            "/health/ping",
            ping,
            Operation::new("v1.health.ping", "Whether the server answers")
                .returns_nothing(StatusCode::NO_CONTENT, "It does."),
        )
}

/// The server and its store: 204, or 500 with what is wrong, or 503 if the store does not answer.
pub(super) async fn check(State(state): State<state::Shared>) -> Response {
    let (status, error) = match tokio::time::timeout(PATIENCE, state.store_ping.answer(&state.store)).await {
        Ok(Ok(())) => return answer::empty(StatusCode::NO_CONTENT),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Err(_elapsed) => {
            let error = format!("the store has not answered for {} ms", PATIENCE.as_millis());
            (StatusCode::SERVICE_UNAVAILABLE, error)
        }
    };
    let database = Part { status: "error", error };
    let unhealthy = Unhealthy { code: "unhealthy", detail: "The store does not work.", database };
    answer::json(status, &unhealthy)
}

/// The server alone.
pub(super) async fn ping() -> Response {
    answer::empty(StatusCode::NO_CONTENT)
}
