//! What came of delivering (rest-contract §10): the messages that were attempted to an endpoint, and the endpoints to
//! which a message was attempted.

use std::ops::Bound;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use postrider_domain::ids::{EndpointId, Id as _, Ksuid, MessageId};
use postrider_domain::time::Timestamp;
use postrider_store::{AttemptedFilter, AttemptedMessage, Destination, Direction, Scan, Standing};

use crate::access::caller::Tenant;
use crate::http::pagination::{self, ListOut, Page, Timed, Walk};
use crate::http::query::{FromQuery, Query, QueryString};
use crate::openapi::{Operation, Routes};
use crate::state::Shared;
use crate::wire::error::Result;
use crate::wire::model::attempt::Status;
use crate::wire::model::attempted::{AttemptedMessageOut, DestinationOut};

/// How far back messages are looked for that will be tried again.
const WAITING_SPAN: Duration = Duration::from_secs(7 * 86_400);

/// The routes.
pub(super) fn routes() -> Routes {
    Routes::new()
        .get(
            "/app/{app_id}/endpoint/{endpoint_id}/msg",
            messages,
            Operation::new("v1.message-attempt.list-attempted-messages", "List the messages attempted to an endpoint")
                .description(
                    "`status` 0 lists what was delivered, however it went later; 2 what failed and is not tried again; \
                     3 what failed and will be, of the last 7 days; 4 what was to be tried again, and was canceled. Where \
                     few of many are in the state, pages come with fewer elements than asked for, or none, until `done`.",
                )
                .returns::<ListOut<AttemptedMessageOut<'static>>>(StatusCode::OK, "A page of messages."),
        )
        .get(
            "/app/{app_id}/msg/{msg_id}/endpoint",
            destinations,
            Operation::new(
                "v1.message-attempt.list-attempted-destinations",
                "List the endpoints that a message was attempted to",
            )
            .description("Endpoints that were deleted since are among them.")
            .returns::<ListOut<DestinationOut<'static>>>(StatusCode::OK, "A page of endpoints."),
        )
}

pub(super) struct MessagesQuery {
    timed: Timed,
    filter: AttemptedFilter,
    /// Only messages in a state in which none can be once it was attempted.
    is_empty: bool,
}

impl FromQuery for MessagesQuery {
    fn from_query(query: &QueryString<'_>) -> Result<Self> {
        let status = query.code("status", &Status::CODES)?.and_then(Status::from_code);
        let standing = match status {
            None | Some(Status::Pending) => None,
            Some(Status::Success) => Some(Standing::Delivered),
            Some(Status::Fail) => Some(Standing::Failed),
            Some(Status::Sending) => Some(Standing::Waiting),
            Some(Status::Canceled) => Some(Standing::Canceled),
        };
        let filter = AttemptedFilter {
            standing,
            channel: query.channel()?,
            event_types: query.event_types()?,
            tag: query.tag()?,
            with_payload: query.flag("with_content", true)?,
        };
        Ok(Self { timed: Timed::from_query::<MessageId>(query)?, filter, is_empty: status == Some(Status::Pending) })
    }
}

fn answer_messages(
    page: &Page<AttemptedMessage>,
    reached: Option<Ksuid>,
    reversed: bool,
    with_content: bool,
) -> Response {
    page.answer_walked(
        reached.map(|id| MessageId::from_ksuid(id).to_string()),
        reversed,
        |attempted| attempted.message.id.to_string(),
        |attempted| AttemptedMessageOut::new(attempted, with_content),
    )
}

pub(super) async fn messages(
    Query(query): Query<MessagesQuery>,
    tenant: Tenant,
    State(state): State<Shared>,
) -> Result<Response> {
    let MessagesQuery { timed, filter, is_empty } = query;
    let endpoint = tenant.endpoint(&state).await?;
    if is_empty {
        return Ok(answer_messages(&Page::empty(), None, false, false));
    }
    let now = state.clock.now();
    let mut walk = timed.walk(now);
    if filter.standing == Some(Standing::Waiting) {
        not_before(&mut walk.scan, now.saturating_sub(WAITING_SPAN));
    }
    let application = tenant.application.key;
    let walked = state.store.attempted_messages(application, endpoint.key, &filter, walk.scan.clone()).await?;
    Ok(answer_messages(&walk.listed(walked.listed), walked.reached, walk.reversed, filter.with_payload))
}

/// Cuts off what is older.
fn not_before(scan: &mut Scan<Ksuid>, at: Timestamp) {
    let floor = Ksuid::floor(at);
    match scan.lower {
        Bound::Included(lower) | Bound::Excluded(lower) if lower >= floor => {}
        _ => scan.lower = Bound::Included(floor),
    }
}

pub(super) struct DestinationsQuery(Walk<Ksuid>);

impl FromQuery for DestinationsQuery {
    fn from_query(query: &QueryString<'_>) -> Result<Self> {
        let position = pagination::id_position::<EndpointId>(query)?;
        Ok(Self(pagination::by_order(position, Direction::Ascending, pagination::limit(query)?)))
    }
}

pub(super) async fn destinations(
    Query(DestinationsQuery(walk)): Query<DestinationsQuery>,
    tenant: Tenant,
    State(state): State<Shared>,
) -> Result<Response> {
    let message = tenant.message(&state).await?;
    let walked = state.store.destinations(message, walk.scan.clone()).await?;
    let page = walk.listed(walked.listed);
    let reached = walked.reached.map(|id| EndpointId::from_ksuid(id).to_string());
    let iterator = |destination: &Destination| destination.endpoint.id.to_string();
    Ok(page.answer_walked(reached, walk.reversed, iterator, DestinationOut::from))
}
