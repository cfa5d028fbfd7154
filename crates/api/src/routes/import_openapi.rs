//! Event types from an OpenAPI document: what it describes is added or changed, and revived if it was archived.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use postrider_domain::names::EventTypeName;
use postrider_ingest::Turn;
use postrider_store::{EventTypeFilter, Import};

use crate::access::Operator;
use crate::account::{Account, Ledger};
use crate::answer;
use crate::body::Incoming;
use crate::error::Result;
use crate::idempotency;
use crate::json;
use crate::model::environment::{MAX_DOCUMENT_VALUES, MAX_IMPORT_BYTES};
use crate::model::import_openapi::{ImportIn, ImportOut};
use crate::openapi::{Operation, Routes};
use crate::router::Shared;
use crate::routes::environment::{all_event_types, bring_in, read_import};
use crate::schemas;

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
    json::few_values(&body, MAX_DOCUMENT_VALUES)?;
    let read = move |body: &[u8]| json::decode::<ImportIn>(json::text(body)?)?.checked(now);
    let (read, turn) = read_import(&state, &operator.environment, Arc::clone(&account), body, read).await?;
    schemas::check(&state, &operator.environment, read.schemas()).await?;
    let (dry_run, import) = (read.dry_run, read.into_import());
    if dry_run {
        return try_out(&account, &operator, &state, &import, turn).await;
    }
    let imported = |names: &Vec<EventTypeName>| answer::to_store(StatusCode::OK, &ImportOut::done(names));
    let import = Import { most: state.limits.event_types_per_environment, ..import };
    let once = idempotency::once(operator.once, now, imported);
    Ok(answer::written(bring_in(&state, &operator.environment, import, turn, now, once).await?, imported))
}

/// Says what an import would do.
async fn try_out(
    account: &Account,
    operator: &Operator,
    state: &Shared,
    import: &Import,
    turn: Turn,
) -> Result<Response> {
    let mut to_modify = Vec::new();
    let mut modified = Vec::new();
    for imported in &import.event_types {
        let found = state.store.event_type(&operator.environment, imported.new.name.as_str()).await?;
        if found.is_none_or(|found| found.is_changed_by(&imported.patch)) {
            modified.push(imported.new.name.clone());
            to_modify.push(&imported.new);
        }
    }
    // There may be no room for what follows until clients have read their answers.
    drop(turn);
    if import.archive_others {
        let named: HashSet<_> = import.event_types.iter().map(|imported| &imported.new.name).collect();
        account.reserve_whole().await?;
        let filter = EventTypeFilter::default();
        let active = all_event_types(state.store.as_ref(), &operator.environment, &filter).await?;
        modified.extend(active.into_iter().map(|one| one.name).filter(|name| !named.contains(name)));
    }
    modified.sort();
    modified.dedup();
    Ok(answer::json(StatusCode::OK, &ImportOut::tried(&modified, &to_modify)))
}
