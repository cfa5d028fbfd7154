//! Endpoints of an application (rest-contract §7), and how their attempts ended (§9.6).

use std::collections::HashSet;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use postrider_domain::endpoint::Endpoint;
use postrider_domain::ids::{EndpointId, Ksuid};
use postrider_domain::names::{EventTypeName, IdOrUid};
use postrider_domain::signature::Secret;
use postrider_domain::time::Timestamp;
use postrider_store::{Direction, NewEndpoint, StoredAnswer, Upserted};

use crate::access::caller::Tenant;
use crate::access::idempotency;
use crate::http::account::ENDPOINT_BYTES;
use crate::http::answer;
use crate::http::body::Ledger;
use crate::http::json::JsonBody;
use crate::http::pagination::{self, ListOut, Walk};
use crate::http::query::{FromQuery, Query, QueryString};
use crate::openapi::{Operation, Routes};
use crate::state::{self, Shared};
use crate::wire::error::{ApiError, Result};
use crate::wire::model::attempt::{AttemptStatsOut, StatsOut};
use crate::wire::model::endpoint::{
    EndpointIn, EndpointOut, EndpointParts, EndpointPatchIn, EndpointUpdateIn, wanted_types,
};

const ID: &str = "endpoint_id";

/// The longest time that statistics cover, and what it may be exceeded by: the clocks of callers differ.
const STATS_SPAN: Duration = Duration::from_secs(28 * 86_400);
const STATS_SLACK: Duration = Duration::from_secs(5 * 60);

/// The resolution of ids: statistics up to now include what has just been made.
const ID_RESOLUTION: Duration = Duration::from_millis(4);

/// The routes.
pub(super) fn routes() -> Routes {
    collection("/app/{app_id}/endpoint", "v1.endpoint")
        .get(
            "/app/{app_id}/endpoint/{endpoint_id}/stats",
            stats,
            Operation::new("v1.endpoint.get-stats", "Count the attempts of an endpoint by how they ended")
                .description("The time between `since` and `until` is 28 days at most.")
                .returns::<StatsOut>(StatusCode::OK, "The counts."),
        )
        .get(
            "/app/{app_id}/endpoint/{endpoint_id}/attempt-stats",
            attempt_stats,
            Operation::new("v1.endpoint.get-attempt-stats", "Count the attempts of an endpoint that have ended")
                .description("The time between `since` and `until` is 28 days at most.")
                .returns::<AttemptStatsOut>(StatusCode::OK, "The counts."),
        )
}

/// The operator's own endpoints, which get the operational webhooks: the same handlers, for the application that a path
/// without one means.
pub(super) fn operational_routes() -> Routes {
    collection("/operational-webhook/endpoint", "v1.operational-webhook.endpoint")
}

fn collection(path: &str, resource: &str) -> Routes {
    type Out = EndpointOut<'static>;
    let one = &format!("{path}/{{endpoint_id}}");
    Routes::new()
        .get(
            path,
            list,
            Operation::new(format!("{resource}.list"), "List the endpoints of an application")
                .returns::<ListOut<Out>>(StatusCode::OK, "A page of endpoints."),
        )
        .post(
            path,
            create,
            Operation::new(format!("{resource}.create"), "Create an endpoint")
                .returns::<Out>(StatusCode::CREATED, "The new endpoint.")
                .error(StatusCode::CONFLICT, "Another endpoint of the application has this uid.")
                .creates(ID, "/id"),
        )
        .get(
            one,
            read,
            Operation::new(format!("{resource}.get"), "Get an endpoint")
                .returns::<Out>(StatusCode::OK, "The endpoint."),
        )
        .put(
            one,
            replace,
            Operation::new(format!("{resource}.update"), "Replace an endpoint, or create one")
                .description(
                    "Members that are left out are reset, but its secret and headers stay. If the path names nothing, \
                     an endpoint is created with a new id; what the path says does not become its uid.",
                )
                .returns::<Out>(StatusCode::OK, "The changed endpoint.")
                .returns::<Out>(StatusCode::CREATED, "The new endpoint.")
                .error(StatusCode::CONFLICT, "Another endpoint of the application has this uid.")
                .creates(ID, "/id"),
        )
        .patch(
            one,
            change,
            Operation::new(format!("{resource}.patch"), "Change members of an endpoint")
                .returns::<Out>(StatusCode::OK, "The changed endpoint.")
                .error(StatusCode::CONFLICT, "Another endpoint of the application has this uid."),
        )
        .delete(
            one,
            delete,
            Operation::new(format!("{resource}.delete"), "Delete an endpoint")
                .description("What is not delivered to it yet is dropped.")
                .returns_nothing(StatusCode::NO_CONTENT, "It is gone."),
        )
}

pub(super) struct ListQuery(Walk<Ksuid>);

impl FromQuery for ListQuery {
    fn from_query(query: &QueryString<'_>) -> Result<Self> {
        pagination::ordered::<EndpointId>(query, Direction::Descending).map(Self)
    }
}

fn show(status: StatusCode, endpoint: &Endpoint, now: Timestamp) -> Response {
    answer::json(status, &EndpointOut::new(endpoint, now))
}

fn created(endpoint: &Endpoint) -> StoredAnswer {
    answer::to_store(StatusCode::CREATED, &EndpointOut::new(endpoint, endpoint.created_at))
}

/// Refuses a filter for event types that nobody has defined, that are archived, or that the caller may not see, all in the same words.
/// What the endpoint that is changed asks for already may stay, whatever became of it: what was read can be written back, and a
/// customer need not give up what the operator chose for him, or what was hidden since.
async fn event_types_exist(
    state: &state::State,
    tenant: &Tenant,
    changed: Option<&IdOrUid<EndpointId>>,
    wanted: Option<&[EventTypeName]>,
) -> Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    let flags = tenant.feature_flags.as_deref();
    let mut missing = state.store.missing_event_types(&tenant.environment, wanted, flags).await?;
    if let Some(endpoint) = changed.filter(|_| !missing.is_empty()) {
        let asked = asked_for(state, tenant, endpoint).await?;
        missing.retain(|name| !asked.contains(name));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.iter().map(EventTypeName::as_str).collect::<Vec<_>>().join(", ");
    Err(ApiError::invalid(&["body", "eventTypes"], format!("these event types do not exist: {missing}")))
}

/// The event types that an endpoint asks for by name; none if it is not there.
async fn asked_for(
    state: &state::State,
    tenant: &Tenant,
    endpoint: &IdOrUid<EndpointId>,
) -> Result<HashSet<EventTypeName>> {
    let endpoint = state.store.endpoint(tenant.application.key, endpoint).await?;
    Ok(endpoint.and_then(|endpoint| endpoint.value.event_types).into_iter().flatten().collect())
}

fn new_endpoint(state: &state::State, parts: EndpointParts, now: Timestamp) -> NewEndpoint {
    let endpoint = parts.endpoint(EndpointId::new(now, &*state.entropy), now);
    let secret = parts.secret.unwrap_or_else(|| Secret::generate(state.signing.default_kind, &*state.entropy));
    NewEndpoint { endpoint, secret, headers: parts.headers, most: state.limits.endpoints_per_application }
}

pub(super) async fn list(
    Query(ListQuery(walk)): Query<ListQuery>,
    tenant: Tenant,
    State(state): State<Shared>,
) -> Result<Response> {
    let now = state.clock.now();
    let page = walk.listed(state.store.endpoints(tenant.application.key, walk.scan.clone()).await?);
    Ok(page.answer(|endpoint| endpoint.id.to_string(), |endpoint| EndpointOut::new(endpoint, now)))
}

pub(super) async fn create(
    tenant: Tenant,
    Ledger(account): Ledger,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<EndpointIn>,
) -> Result<Response> {
    account.reserve_answer(ENDPOINT_BYTES).await?;
    let parts = body.checked(&state.urls, tenant.is_operator())?;
    event_types_exist(&state, &tenant, None, parts.event_types()).await?;
    let now = state.clock.now();
    let new = new_endpoint(&state, parts, now);
    let once = idempotency::once(tenant.once, state.store.believed(now), created);
    let written = state.store.create_endpoint(tenant.application.key, new, once).await?;
    Ok(answer::written(written, created))
}

pub(super) async fn read(tenant: Tenant, State(state): State<Shared>) -> Result<Response> {
    Ok(show(StatusCode::OK, &tenant.endpoint(&state).await?.value, state.clock.now()))
}

pub(super) async fn replace(
    tenant: Tenant,
    Ledger(account): Ledger,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<EndpointUpdateIn>,
) -> Result<Response> {
    account.reserve_answer(ENDPOINT_BYTES).await?;
    let parts = body.checked(&state.urls, tenant.is_operator())?;
    let id = tenant.params().id_or_uid(ID)?;
    event_types_exist(&state, &tenant, Some(&id), parts.event_types()).await?;
    let now = state.clock.now();
    let patch = parts.replacement();
    let otherwise = new_endpoint(&state, parts, now);
    Ok(match state.store.upsert_endpoint(tenant.application.key, &id, patch, otherwise, now).await? {
        Upserted::Updated(endpoint) => show(StatusCode::OK, &endpoint, now),
        Upserted::Created(endpoint) => show(StatusCode::CREATED, &endpoint, now),
    })
}

pub(super) async fn change(
    tenant: Tenant,
    Ledger(account): Ledger,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<EndpointPatchIn>,
) -> Result<Response> {
    account.reserve_answer(ENDPOINT_BYTES).await?;
    let patch = body.checked(&state.urls, tenant.is_operator())?;
    let id = tenant.params().id_or_uid(ID)?;
    event_types_exist(&state, &tenant, Some(&id), wanted_types(&patch)).await?;
    let now = state.clock.now();
    Ok(show(StatusCode::OK, &state.store.update_endpoint(tenant.application.key, &id, patch, now).await?, now))
}

pub(super) async fn delete(tenant: Tenant, State(state): State<Shared>) -> Result<Response> {
    let id = tenant.params().id_or_uid(ID)?;
    state.store.delete_endpoint(tenant.application.key, &id, state.clock.now()).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

pub(super) struct StatsQuery {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl FromQuery for StatsQuery {
    fn from_query(query: &QueryString<'_>) -> Result<Self> {
        Ok(Self { since: query.date("since")?, until: query.date("until")? })
    }
}

impl StatsQuery {
    /// The ids of the attempts to count: from the first one up to, and without, the second.
    fn range(self, now: Timestamp) -> Result<(Ksuid, Ksuid)> {
        let until = self.until.unwrap_or(now);
        let since = self.since.unwrap_or_else(|| until.saturating_sub(STATS_SPAN));
        let refuse = |detail: &'static str| Err(ApiError::new(StatusCode::BAD_REQUEST, "invalid_range", detail));
        if until > now {
            return refuse("'until' is in the future");
        }
        if since > until {
            return refuse("'since' is after 'until'");
        }
        if until.since(since) > STATS_SPAN + STATS_SLACK {
            return refuse("the time between 'since' and 'until' is longer than 28 days");
        }
        let end = if self.until.is_none() { now.saturating_add(ID_RESOLUTION) } else { until };
        Ok((Ksuid::floor(since), Ksuid::floor(end)))
    }
}

pub(super) async fn stats(
    Query(query): Query<StatsQuery>,
    tenant: Tenant,
    State(state): State<Shared>,
) -> Result<Response> {
    let (from, to) = query.range(state.clock.now())?;
    let endpoint = tenant.endpoint(&state).await?;
    let stats = state.store.attempt_stats(endpoint.key, from, to).await?;
    Ok(answer::json(StatusCode::OK, &StatsOut::from(stats)))
}

pub(super) async fn attempt_stats(
    Query(query): Query<StatsQuery>,
    tenant: Tenant,
    State(state): State<Shared>,
) -> Result<Response> {
    let (from, to) = query.range(state.clock.now())?;
    let endpoint = tenant.endpoint(&state).await?;
    let stats = state.store.attempt_stats(endpoint.key, from, to).await?;
    Ok(answer::json(StatusCode::OK, &AttemptStatsOut::from(stats)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn statistics_cover_28_days_and_no_future() {
        let ago = |days: u32| NOW.saturating_sub(DAY * days);
        let ahead = NOW.saturating_add(Duration::from_secs(1));
        for (since, until, legal) in [
            (None, None, true),
            (Some(ago(28)), None, true),
            (Some(ago(29)), None, false),
            (Some(ago(29)), Some(ago(2)), true),
            (None, Some(ago(400)), true),
            (None, Some(ahead), false),
            (Some(ago(1)), Some(ago(2)), false),
        ] {
            assert_eq!(StatsQuery { since, until }.range(NOW).is_ok(), legal, "{since:?} {until:?}");
        }
    }

    #[test]
    fn statistics_up_to_now_include_this_moment() {
        let (_, to) = StatsQuery { since: None, until: None }.range(NOW).unwrap();
        assert!(to > Ksuid::new(NOW, &postrider_domain::entropy::SeededEntropy::new(1)));
    }
}
