//! Settings of the caller's environment, and moving settings and event types from one environment to another.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use postrider_domain::application::EnvironmentId;
use postrider_domain::environment::EnvironmentSettingsPatch;
use postrider_domain::event_type::EventType;
use postrider_domain::names::EventTypeName;
use postrider_domain::time::Timestamp;
use postrider_ingest::{Tenant, Turn};
use postrider_store::{EventTypeFilter, Import, Once, Store, StoredAnswer, Written, on_behalf};

use crate::access::caller::Operator;
use crate::access::idempotency;
use crate::http::account::{Account, WHOLE_BYTES};
use crate::http::answer;
use crate::http::body::{Incoming, Ledger};
use crate::http::json::JsonBody;
use crate::openapi::{Operation, Routes};
use crate::routes::schemas;
use crate::state::{self, Shared};
use crate::wire::decode;
use crate::wire::error::{ApiError, Result};
use crate::wire::model::environment::{
    self, EnvironmentIn, EnvironmentOut, MAX_IMPORT_BYTES, MAX_IMPORT_VALUES, SettingsIn, SettingsOut, SettingsPatchIn,
};

/// The routes.
pub(super) fn routes() -> Routes {
    Routes::new()
        .get(
            "/environment/settings",
            read,
            Operation::new("v1.environment.get-settings", "Get the settings of the environment")
                .returns::<SettingsOut>(StatusCode::OK, "The settings."),
        )
        .put(
            "/environment/settings",
            replace,
            Operation::new("v1.environment.update-settings", "Replace the settings of the environment")
                .description("They count for every message that is created after the answer.")
                .returns::<SettingsOut>(StatusCode::OK, "The changed settings."),
        )
        .patch(
            "/environment/settings",
            change,
            Operation::new("v1.environment.patch-settings", "Change settings of the environment")
                .description("They count for every message that is created after the answer.")
                .returns::<SettingsOut>(StatusCode::OK, "The changed settings."),
        )
        .post(
            "/environment/export",
            export,
            Operation::new("v1.environment.export", "Export event types and settings")
                .returns::<EnvironmentOut<'_>>(StatusCode::OK, "All of them.")
                .differs("There are no connectors to export, and the settings are Postrider's own."),
        )
        .post(
            "/environment/import",
            import,
            Operation::new("v1.environment.import", "Import event types and settings")
                .description(
                    "Adds and replaces, and removes nothing. Many event types are stored by several commits, and the settings by the \
                     last: what is cut off is completed by sending it again.",
                )
                .body::<EnvironmentIn>()
                .returns_nothing(StatusCode::NO_CONTENT, "They are there.")
                .differs("Connectors, and settings that Postrider does not have, are ignored."),
        )
}

pub(super) async fn read(operator: Operator, State(state): State<Shared>) -> Result<Response> {
    let settings = state.store.environment_settings(&operator.environment).await?;
    Ok(answer::json(StatusCode::OK, &SettingsOut::from(settings)))
}

pub(super) async fn replace(
    operator: Operator,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<SettingsIn>,
) -> Result<Response> {
    update(&operator, &state, body.into()).await
}

pub(super) async fn change(
    operator: Operator,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<SettingsPatchIn>,
) -> Result<Response> {
    update(&operator, &state, body.into()).await
}

async fn update(operator: &Operator, state: &Shared, patch: EnvironmentSettingsPatch) -> Result<Response> {
    let now = state.clock.now();
    let settings = state.store.update_environment_settings(&operator.environment, patch, now).await?;
    Ok(answer::json(StatusCode::OK, &SettingsOut::from(settings)))
}

pub(super) async fn export(
    operator: Operator,
    Ledger(account): Ledger,
    State(state): State<Shared>,
) -> Result<Response> {
    let filter = EventTypeFilter { include_archived: true, with_schemas: true, feature_flags: None };
    let settings = state.store.environment_settings(&operator.environment).await?;
    let now = state.clock.now();
    let write =
        move |event_types: &[EventType]| answer::json(StatusCode::OK, &EnvironmentOut::new(event_types, settings, now));
    write_all(account, &state, &operator.environment, &filter, write).await
}

pub(super) async fn import(
    operator: Operator,
    Ledger(account): Ledger,
    State(state): State<Shared>,
    body: Incoming,
) -> Result<Response> {
    let body = body.read_up_to(MAX_IMPORT_BYTES).await?;
    let now = state.clock.now();
    let read = move |body: &[u8]| {
        decode::few_values(body, MAX_IMPORT_VALUES)?;
        decode::decode::<EnvironmentIn>(decode::text(body)?)?.checked(now)
    };
    let (import, turn) = read_import(&state, &operator.environment, account, body, read).await?;
    schemas::check(&state, &operator.environment, environment::schemas(&import)).await?;
    let import = Import { most: state.limits.event_types_per_environment, ..import };
    let once = idempotency::once(operator.once, state.store.believed(now), imported);
    Ok(answer::written(bring_in(&state, &operator.environment, import, turn, now, once).await?, imported))
}

/// Brings in what was read, through to the end also if whoever sent it has gone. The turn ends with it.
pub(super) async fn bring_in(
    state: &state::State,
    environment: &EnvironmentId,
    import: Import,
    turn: Turn,
    now: Timestamp,
    once: Option<Once<Vec<EventTypeName>>>,
) -> Result<Written<Vec<EventTypeName>>> {
    let (store, environment) = (Arc::clone(&state.store), environment.clone());
    let work = async move {
        let written = store.import(&environment, import, now, once).await;
        drop(turn);
        written
    };
    Ok(tokio::spawn(on_behalf(work)).await.map_err(|_| ApiError::internal())??)
}

/// Reads the body of an import when it is its turn, which ends when what is returned with it is dropped.
///
/// Megabytes take their time, and a thread can't be stopped: so turn and account stay with it until it is done, also if
/// whoever sent the body has gone. Otherwise he could have any number of them read by hanging up.
pub(super) async fn read_import<T: Send + 'static>(
    state: &state::State,
    environment: &EnvironmentId,
    account: Arc<Account>,
    body: Bytes,
    read: impl FnOnce(&[u8]) -> Result<T> + Send + 'static,
) -> Result<(T, Turn)> {
    let turn = state.judges.import_turn(environment).await;
    let turn = turn.map_err(|_| schemas::busy("Too much is being imported: try again in a moment."))?;
    let read = move || {
        let read = read(&body);
        drop(body);
        read
    };
    let (read, (turn, _account)) = state.reading.workers.run(kept_meanwhile((turn, account), read)).await?;
    read.map(|read| (read, turn))
}

/// `work` that keeps `kept` until it is done.
fn kept_meanwhile<T, K>(kept: K, work: impl FnOnce() -> T) -> impl FnOnce() -> (T, K) {
    move || (work(), kept)
}

fn imported(_: &Vec<EventTypeName>) -> StoredAnswer {
    StoredAnswer { status: StatusCode::NO_CONTENT.as_u16(), body: bytes::Bytes::new() }
}

/// All event types that a filter lets through, by name; 413, without reading them, if they are larger than what could be imported.
///
/// There must be room for them ([`Account::reserve_whole`]).
pub(super) async fn all_event_types(
    store: &dyn Store,
    environment: &EnvironmentId,
    filter: &EventTypeFilter,
) -> Result<Vec<EventType>> {
    store.all_event_types(environment, filter, WHOLE_BYTES).await?.ok_or_else(|| {
        let detail = "The event types are larger than an import may be: read them page by page.";
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail)
    })
}

/// Writes what `write` makes of all event types that a filter lets through. As what is large is read, so it is written: an
/// environment's in turn, and by threads that give way. It is a turn only once there is room: until then others have theirs.
pub(super) async fn write_all<T: Send + 'static>(
    account: Arc<Account>,
    state: &state::State,
    environment: &EnvironmentId,
    filter: &EventTypeFilter,
    write: impl FnOnce(&[EventType]) -> T + Send + 'static,
) -> Result<T> {
    account.reserve_whole().await?;
    let tenant = account.tenant().unwrap_or_else(|| Tenant::environment(environment.clone()));
    let turn = state.intake.reading_turn(tenant).await?;
    let (store, environment, filter) = (Arc::clone(&state.store), environment.clone(), filter.clone());
    // The store reads to the end, whoever has hung up: so long it is somebody's turn, and counts as their memory.
    let reading = tokio::spawn(on_behalf(async move {
        let read = all_event_types(store.as_ref(), &environment, &filter).await;
        (read, turn, account)
    }));
    let (read, turn, account) = reading.await.map_err(|_| ApiError::internal())?;
    let event_types = read?;
    let write = move || write(&event_types);
    state.reading.workers.run(kept_meanwhile((turn, account), write)).await.map(|(written, _)| written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use std::sync::mpsc;

    use crate::http::workers::Workers;

    /// Tells when it is dropped.
    struct Kept(mpsc::Sender<()>);

    impl Drop for Kept {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }

    #[tokio::test]
    async fn what_an_import_holds_is_held_until_it_is_read_also_if_its_sender_has_gone() {
        let (go_on, waits) = mpsc::channel::<()>();
        let (dropped, is_dropped) = mpsc::channel();
        let workers = Workers::start().unwrap();
        let mut reading = Box::pin(workers.run(kept_meanwhile(Kept(dropped), move || waits.recv())));
        assert!(reading.as_mut().now_or_never().is_none());
        drop(reading);
        assert_eq!(is_dropped.try_recv(), Err(mpsc::TryRecvError::Empty));
        go_on.send(()).unwrap();
        assert_eq!(is_dropped.recv_timeout(std::time::Duration::from_secs(60)), Ok(()));
    }
}
