//! Whether the server works (rest-contract §12). Needs no token.
//!
//! The answer comes within a second, also when the store is stuck. However many ask at once, the store is asked once.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use http::StatusCode;
use parking_lot::Mutex;
use postrider_store::{Store, StoreError};
use serde::Serialize;
use tokio::task::AbortHandle;

use crate::answer;
use crate::openapi::{Operation, Routes};
use crate::router;

/// A store that has not answered after this time is as good as gone. Whoever asks gives up after a second, mostly.
const PATIENCE: Duration = Duration::from_millis(800);

/// A question to the store that is under way.
struct Ping {
    task: AbortHandle,
    answer: Shared<BoxFuture<'static, Result<(), StoreError>>>,
}

/// Asks the store whether it works, once at a time.
#[derive(Default)]
pub(crate) struct StorePing(Mutex<Option<Ping>>);

impl StorePing {
    /// The answer to the question that is under way; asks if there is none.
    fn answer(&self, store: &Arc<dyn Store>) -> Shared<BoxFuture<'static, Result<(), StoreError>>> {
        let mut pending = self.0.lock();
        if let Some(ping) = pending.as_ref().filter(|ping| !ping.task.is_finished()) {
            return ping.answer.clone();
        }
        let store = Arc::clone(store);
        // A task of its own: it goes on when whoever asked has gone.
        let task = tokio::spawn(async move { store.ping().await });
        let handle = task.abort_handle();
        let answer = async { task.await.unwrap_or(Err(StoreError::Closed)) }.boxed().shared();
        *pending = Some(Ping { task: handle, answer: answer.clone() });
        answer
    }
}

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
pub(super) async fn check(State(state): State<router::Shared>) -> Response {
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
