//! Whether the server works (rest-contract §12). Needs no token.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::Serialize;

use crate::answer;
use crate::openapi::{Operation, Routes};
use crate::router::Shared;

/// A store that has not answered after this time is as good as gone.
const PATIENCE: Duration = Duration::from_secs(5);

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
                .error(StatusCode::INTERNAL_SERVER_ERROR, "The store does not. `database` says what is wrong."),
        )
        .get(
            "/health/ping",
            ping,
            Operation::new("v1.health.ping", "Whether the server answers")
                .returns_nothing(StatusCode::NO_CONTENT, "It does."),
        )
}

/// The server and its store: 204, or 500 with what is wrong.
pub(super) async fn check(State(state): State<Shared>) -> Response {
    let error = match tokio::time::timeout(PATIENCE, state.store.ping()).await {
        Ok(Ok(())) => return answer::empty(StatusCode::NO_CONTENT),
        Ok(Err(error)) => error.to_string(),
        Err(_elapsed) => format!("the store has not answered for {} s", PATIENCE.as_secs()),
    };
    let database = Part { status: "error", error };
    let unhealthy = Unhealthy { code: "unhealthy", detail: "The store does not work.", database };
    answer::json(StatusCode::INTERNAL_SERVER_ERROR, &unhealthy)
}

/// The server alone.
pub(super) async fn ping() -> Response {
    answer::empty(StatusCode::NO_CONTENT)
}
