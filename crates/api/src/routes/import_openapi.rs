//! Event types from an OpenAPI document: what it describes is added or changed, and revived if it was archived.

use std::collections::HashSet;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use postrider_domain::names::EventTypeName;
use postrider_ingest::Turn;
use postrider_store::{EventTypeFilter, Import};

use crate::access::caller::Operator;
use crate::access::idempotency;
use crate::http::answer;
use crate::http::body::{Incoming, Ledger};
use crate::import::body::{ImportIn, ImportOut};
use crate::openapi::{Operation, Routes};
use crate::routes::environment::{all_event_types, bring_in, read_import};
use crate::routes::schemas;
use crate::state::Shared;
use crate::wire::decode;
use crate::wire::error::Result;
use crate::wire::model::environment::{MAX_DOCUMENT_VALUES, MAX_IMPORT_BYTES};

/// The routes.
pub(super) fn routes() -> Routes {
    Routes::new().post(
        "/event-type/import/openapi",
        import,
        Operation::new("v1.event-type.import-openapi", "Import the webhooks of an OpenAPI document")
            .description(
                "Takes `webhooks` of version 3.1 and `x-webhooks` of 3.0. References within the document are resolved; \
                 one to another document is refused.",
            )
            .body::<ImportIn>()
            .returns::<ImportOut<'_>>(StatusCode::OK, "The event types that were, or would be, changed."),
    )
}

pub(super) async fn import(
    operator: Operator,
    Ledger(account): Ledger,
    State(state): State<Shared>,
    body: Incoming,
) -> Result<Response> {
    let body = body.read_up_to(MAX_IMPORT_BYTES).await?;
    let now = state.clock.now();
    // Before it is its turn: whoever has that waits for nobody who has to read an answer.
    account.reserve_whole().await?;
    let read = move |body: &[u8]| {
        decode::few_values(body, MAX_DOCUMENT_VALUES)?;
        decode::decode::<ImportIn>(decode::text(body)?)?.checked(now)
    };
    let (read, turn) = read_import(&state, &operator.environment, account, body, read).await?;
    schemas::check(&state, &operator.environment, read.schemas()).await?;
    let (dry_run, import) = (read.dry_run, read.into_import());
    if dry_run {
        return try_out(&operator, &state, import, turn).await;
    }
    let imported = |names: &Vec<EventTypeName>| answer::to_store(StatusCode::OK, &ImportOut::done(names));
    let import = Import { most: state.limits.event_types_per_environment, ..import };
    let once = idempotency::once(operator.once, state.store.believed(now), imported);
    Ok(answer::written(bring_in(&state, &operator.environment, import, turn, now, once).await?, imported))
}

/// Says what an import would do, which may be as large as the import: it is still its turn while that is written.
async fn try_out(operator: &Operator, state: &Shared, mut import: Import, turn: Turn) -> Result<Response> {
    let mut modified = Vec::new();
    let mut to_modify = Vec::new();
    let named: HashSet<_> = import.event_types.iter().map(|imported| imported.new.name.clone()).collect();
    for imported in std::mem::take(&mut import.event_types) {
        let found = state.store.event_type(&operator.environment, imported.new.name.as_str()).await?;
        if found.is_none_or(|found| found.is_changed_by(&imported.patch)) {
            modified.push(imported.new.name.clone());
            to_modify.push(imported.new);
        }
    }
    if import.archive_others {
        let filter = EventTypeFilter::default();
        let active = all_event_types(state.store.as_ref(), &operator.environment, &filter).await?;
        modified.extend(active.into_iter().map(|one| one.name).filter(|name| !named.contains(name)));
    }
    let write = move || {
        modified.sort();
        modified.dedup();
        let written = answer::json(StatusCode::OK, &ImportOut::tried(&modified, &to_modify));
        drop(turn);
        written
    };
    state.reading.workers.run(write).await
}
