//! Event types of an environment (rest-contract §6).

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use postrider_domain::event_type::EventType;
use postrider_domain::names::EventTypeName;
use postrider_domain::schema::NAME_PATTERN;
use postrider_store::{Direction, EventTypeFilter, StoredAnswer, Upserted, WriteError};

use crate::access::caller::{Operator, Reader};
use crate::access::idempotency;
use crate::http::account::EVENT_TYPE_BYTES;
use crate::http::answer;
use crate::http::body::Ledger;
use crate::http::json::JsonBody;
use crate::http::pagination::{self, ListOut, Walk};
use crate::http::params::Params;
use crate::http::query::{FromQuery, Query, QueryString};
use crate::openapi::{Operation, Routes};
use crate::routes::schemas;
use crate::state::Shared;
use crate::wire::error::{ApiError, Result};
use crate::wire::model::event_type::{self, EventTypeIn, EventTypeOut, EventTypePatchIn, EventTypeUpdate};
use crate::wire::placed;

const NAME: &str = "event_type_name";

/// The routes.
pub(super) fn routes() -> Routes {
    type Out = EventTypeOut<'static>;
    Routes::new()
        .get(
            "/event-type",
            list,
            Operation::new("v1.event-type.list", "List event types")
                .description("By name. The token of an application shows what its feature flags allow.")
                .returns::<ListOut<Out>>(StatusCode::OK, "A page of event types."),
        )
        .post(
            "/event-type",
            create,
            Operation::new("v1.event-type.create", "Create an event type, or revive an archived one")
                .returns::<Out>(StatusCode::CREATED, "The event type.")
                .error(StatusCode::CONFLICT, "There is one of this name.")
                .creates(NAME, "/name"),
        )
        .get(
            "/event-type/{event_type_name}",
            read,
            Operation::new("v1.event-type.get", "Get an event type").returns::<Out>(StatusCode::OK, "The event type."),
        )
        .put(
            "/event-type/{event_type_name}",
            replace,
            Operation::new("v1.event-type.update", "Replace an event type, or create one")
                .path_pattern(NAME, NAME_PATTERN)
                .returns::<Out>(StatusCode::OK, "The changed event type.")
                .returns::<Out>(StatusCode::CREATED, "The new event type.")
                .creates(NAME, "/name"),
        )
        .patch(
            "/event-type/{event_type_name}",
            change,
            Operation::new("v1.event-type.patch", "Change members of an event type")
                .returns::<Out>(StatusCode::OK, "The changed event type."),
        )
        .delete(
            "/event-type/{event_type_name}",
            delete,
            Operation::new("v1.event-type.delete", "Archive an event type, or remove it")
                .returns_nothing(StatusCode::NO_CONTENT, "It is archived, or gone."),
        )
}

pub(super) struct ListQuery {
    walk: Walk<String>,
    include_archived: bool,
    with_content: bool,
}

impl FromQuery for ListQuery {
    fn from_query(query: &QueryString<'_>) -> Result<Self> {
        // Clients may ask for an order, but there is only one.
        query.order(Direction::Ascending)?;
        let position = pagination::name_position(query)?;
        Ok(Self {
            walk: pagination::by_order(position, Direction::Ascending, pagination::limit(query)?),
            include_archived: query.flag("include_archived", false)?,
            with_content: query.flag("with_content", false)?,
        })
    }
}

pub(super) struct DeleteQuery {
    expunge: bool,
}

impl FromQuery for DeleteQuery {
    fn from_query(query: &QueryString<'_>) -> Result<Self> {
        Ok(Self { expunge: query.flag("expunge", false)? })
    }
}

fn show(status: StatusCode, event_type: &EventType) -> Response {
    answer::json(status, &EventTypeOut::from(event_type))
}

fn created(event_type: &EventType) -> StoredAnswer {
    answer::to_store(StatusCode::CREATED, &EventTypeOut::from(event_type))
}

pub(super) async fn list(
    Query(query): Query<ListQuery>,
    reader: Reader,
    State(state): State<Shared>,
) -> Result<Response> {
    let filter = EventTypeFilter {
        include_archived: query.include_archived,
        with_schemas: query.with_content,
        feature_flags: reader.feature_flags,
    };
    let walk = query.walk;
    let walked = state.store.event_types(&reader.environment, &filter, walk.scan.clone()).await?;
    let reached = walked.reached.map(|name| pagination::name_iterator(&EventTypeName::from_trusted(name)));
    let page = walk.listed(walked.listed);
    let iterator = |event_type: &EventType| pagination::name_iterator(&event_type.name);
    Ok(page.answer_walked(reached, walk.reversed, iterator, EventTypeOut::from))
}

pub(super) async fn create(
    operator: Operator,
    Ledger(account): Ledger,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<EventTypeIn>,
) -> Result<Response> {
    account.reserve_answer(EVENT_TYPE_BYTES).await?;
    let now = state.clock.now();
    let new = body.checked(now)?;
    schemas::check(&state, &operator.environment, placed::of_body(new.schemas.as_ref())).await?;
    let once = idempotency::once(operator.once, state.store.believed(now), created);
    let most = state.limits.event_types_per_environment;
    match state.store.create_event_type(&operator.environment, most, new, once).await {
        Ok(written) => Ok(answer::written(written, created)),
        Err(WriteError::Conflict) => {
            let detail = "An event type with this name already exists.";
            Err(ApiError::new(StatusCode::CONFLICT, "event_type_exists", detail))
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn read(
    reader: Reader,
    params: Params,
    Ledger(account): Ledger,
    State(state): State<Shared>,
) -> Result<Response> {
    account.reserve_list().await?;
    account.begin_work().await?;
    let event_type = state.store.event_type(&reader.environment, params.text(NAME)?).await?;
    let sees = |event_type: &EventType| match (&reader.feature_flags, &event_type.feature_flag) {
        (Some(flags), Some(flag)) => flags.contains(flag),
        _ => true,
    };
    let event_type = event_type.filter(sees).ok_or_else(|| ApiError::no_such("event type"))?;
    Ok(show(StatusCode::OK, &event_type))
}

pub(super) async fn replace(
    operator: Operator,
    params: Params,
    Ledger(account): Ledger,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<EventTypeUpdate>,
) -> Result<Response> {
    account.reserve_answer(EVENT_TYPE_BYTES).await?;
    let name = params.text(NAME)?;
    // A name that is not legal names nothing, and nothing can be made under it.
    let legal =
        EventTypeName::parse(name).map_err(|error| ApiError::invalid(&["path", NAME], format!("the name {error}")))?;
    let now = state.clock.now();
    let otherwise = body.checked(legal, now)?;
    schemas::check(&state, &operator.environment, placed::of_body(otherwise.schemas.as_ref())).await?;
    let patch = event_type::replacement(&otherwise);
    let most = state.limits.event_types_per_environment;
    Ok(match state.store.upsert_event_type(&operator.environment, most, name, patch, otherwise, now).await? {
        Upserted::Updated(event_type) => show(StatusCode::OK, &event_type),
        Upserted::Created(event_type) => show(StatusCode::CREATED, &event_type),
    })
}

pub(super) async fn change(
    operator: Operator,
    params: Params,
    Ledger(account): Ledger,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<EventTypePatchIn>,
) -> Result<Response> {
    account.reserve_answer(EVENT_TYPE_BYTES).await?;
    let patch = body.checked()?;
    let new_schemas = patch.schemas.as_ref().and_then(Option::as_ref);
    schemas::check(&state, &operator.environment, placed::of_body(new_schemas)).await?;
    let name = params.text(NAME)?;
    let changed = state.store.update_event_type(&operator.environment, name, patch, state.clock.now()).await?;
    Ok(show(StatusCode::OK, &changed))
}

pub(super) async fn delete(
    operator: Operator,
    Query(query): Query<DeleteQuery>,
    params: Params,
    State(state): State<Shared>,
) -> Result<Response> {
    let name = params.text(NAME)?;
    state.store.delete_event_type(&operator.environment, name, query.expunge, state.clock.now()).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}
