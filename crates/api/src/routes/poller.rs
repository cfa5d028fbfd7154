//! Polling an endpoint's messages instead of being called: a stream of what the endpoint's filters let through, in slices.
//!
//! The endpoint may be disabled, so that nothing is sent to its URL. A reader goes on with the iterator of its last slice;
//! a named one (a consumer) may leave that to the server: it gets the same slice again until it passes that slice's
//! iterator, which says that it is done with it. So every message is read at least once.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use postrider_domain::endpoint::Endpoint;
use postrider_domain::ids::{Id as _, Ksuid, MessageId};
use postrider_domain::names::{NameError, is_step};
use postrider_domain::schema::KSUID_PATTERN;
use postrider_domain::time::Timestamp;
use postrider_store::{EndpointKey, Stored, StreamFilter, StreamNumber, StreamPosition};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::access::caller::{MovePosition, Need, Tenant};
use crate::http::json::JsonBody;
use crate::http::query::{FromQuery, Query, QueryString};
use crate::http::{answer, pagination};
use crate::openapi::{Operation, Routes};
use crate::state::{self, Shared};
use crate::wire::error::{ApiError, Result};
use crate::wire::model::message::MessageOut;

/// The routes.
pub(super) fn routes() -> Routes {
    const POLLED: &str = "The next messages, oldest first, and the iterator to go on with.";
    const LATER: &str = "A message with `deliverAt` is read at once.";
    Routes::new()
        .get(
            "/app/{app_id}/poller/{sink_id}",
            poll,
            Operation::new("v1.message.poller.poll", "Read the messages that an endpoint's filters let through")
                .returns::<PollOut<'_>>(StatusCode::OK, POLLED)
                .differs(LATER),
        )
        .get(
            "/app/{app_id}/poller/{sink_id}/consumer/{consumer_id}",
            poll_as_consumer,
            Operation::new("v1.message.poller.consumer-poll", "Read on where a named consumer stopped")
                .returns::<PollOut<'_>>(StatusCode::OK, POLLED)
                .differs(
                    "Its first request decides where it begins. A slice is answered again until its `iterator` is passed. \
                     There is no lock between readers. A token that may only read gets 403, because a position is written.",
                ),
        )
        .post(
            "/app/{app_id}/poller/{sink_id}/consumer/{consumer_id}/seek",
            seek,
            Operation::new("v1.message.poller.consumer-seek", "Set where a named consumer reads on")
                .returns::<SeekOut>(StatusCode::OK, "Where it reads on."),
        )
}

postrider_domain::limits! {
    in "Polling";
    /// The name of a consumer
    pub(crate) const MAX_CONSUMER_BYTES: usize = 256, "bytes", beyond "404";
}

pub(super) struct PollQuery {
    limit: usize,
    iterator: Option<StreamPosition>,
    filter: StreamFilter,
    after: Option<Timestamp>,
}

impl FromQuery for PollQuery {
    fn from_query(query: &QueryString<'_>) -> Result<Self> {
        let filter = StreamFilter {
            event_types: query.event_type()?.map(|event_type| vec![event_type]),
            channels: query.channel()?.map(|channel| vec![channel]),
        };
        let iterator =
            query.iterator(|| format!("^msg_{KSUID_PATTERN}[.-][0-9]{{1,18}}$")).map(parse_iterator).transpose()?;
        Ok(Self { limit: pagination::limit(query)?, iterator, filter, after: query.date("after")? })
    }
}

/// A message's id, and a number of the stream: `<after>.0` of a reader that has not begun, `<after>.<newest>` of one that goes by id
/// still, `<after>-<last>` of one that goes by number. To callers, just a text.
fn iterator(position: StreamPosition) -> String {
    let (after, separator, number) = match position {
        StreamPosition::Since(after) => (after, '.', 0),
        StreamPosition::Among { after, newest } => (after, '.', newest.0),
        StreamPosition::Behind { last, after } => (after, '-', last.0),
    };
    format!("{}{separator}{number}", MessageId::from_ksuid(after))
}

fn parse_iterator(text: &str) -> Result<StreamPosition> {
    let parse = |text: &str| {
        let by_number = text.contains('-');
        let (id, number) = text.split_once(if by_number { '-' } else { '.' })?;
        let (after, number) = (id.parse::<MessageId>().ok()?.ksuid(), number.parse::<i64>().ok()?);
        Some(match number {
            last if by_number => StreamPosition::Behind { last: StreamNumber(last), after },
            0 => StreamPosition::Since(after),
            newest => StreamPosition::Among { after, newest: StreamNumber(newest) },
        })
    };
    parse(text).ok_or_else(|| ApiError::invalid(&["query", "iterator"], "is not an iterator of this stream"))
}

/// Before everything made from `at` on.
fn before(at: Timestamp) -> StreamPosition {
    StreamPosition::Since(Ksuid::floor(at))
}

/// A slice of a stream.
#[derive(Serialize, JsonSchema)]
struct PollOut<'a> {
    /// The messages.
    #[schemars(length(max = pagination::MAX_LIMIT))]
    data: Vec<MessageOut<'a>>,
    /// Where to go on: pass it as `iterator`.
    #[schemars(length(max = pagination::MAX_ITERATOR))]
    iterator: String,
    /// Whether nothing was left behind this slice.
    done: bool,
}

async fn slice<N>(
    state: &state::State,
    tenant: &Tenant<N>,
    endpoint: &Endpoint,
    query: PollQuery,
    from: StreamPosition,
) -> Result<Response> {
    let own = StreamFilter { event_types: endpoint.event_types.clone(), channels: endpoint.channels.clone() };
    let slice = state.store.stream(tenant.application.key, vec![own, query.filter], from, query.limit).await?;
    let data = slice.messages.iter().map(|message| MessageOut::new(message, true)).collect();
    Ok(answer::json(StatusCode::OK, &PollOut { data, iterator: iterator(slice.position), done: slice.done }))
}

/// Where a reader begins that has no iterator: at what it asks for, else at the first message since there is the endpoint.
async fn beginning(state: &state::State, query: &PollQuery, endpoint: EndpointKey) -> Result<StreamPosition> {
    match query.after {
        Some(at) => Ok(before(at)),
        None => Ok(state.store.stream_beginning(endpoint).await?),
    }
}

pub(super) async fn poll(
    Query(query): Query<PollQuery>,
    tenant: Tenant,
    State(state): State<Shared>,
) -> Result<Response> {
    let endpoint = sink(&tenant, &state).await?;
    let from = match query.iterator {
        Some(position) => position,
        None => beginning(&state, &query, endpoint.key).await?,
    };
    slice(&state, &tenant, &endpoint.value, query, from).await
}

pub(super) async fn poll_as_consumer(
    Query(query): Query<PollQuery>,
    tenant: Tenant<MovePosition>,
    State(state): State<Shared>,
) -> Result<Response> {
    let endpoint = sink(&tenant, &state).await?;
    let consumer = consumer(&tenant)?;
    let from = match query.iterator {
        Some(position) => note(&state, endpoint.key, consumer, position).await?,
        None => match state.store.stream_position(endpoint.key, consumer).await? {
            Some(known) => known,
            // From its first slice on it is one of those that there may be, and not only once it is done with that.
            None => {
                let beginning = beginning(&state, &query, endpoint.key).await?;
                state.store.begin_stream(endpoint.key, consumer, beginning, state.clock.now()).await?
            }
        },
    };
    slice(&state, &tenant, &endpoint.value, query, from).await
}

/// Notes where a consumer is, and returns it. A new one beyond what an endpoint may have is refused.
async fn note(
    state: &Shared,
    endpoint: EndpointKey,
    consumer: &str,
    position: StreamPosition,
) -> Result<StreamPosition> {
    Ok(state.store.set_stream_position(endpoint, consumer, position, state.clock.now()).await?)
}

/// From where on a consumer wants to read.
#[derive(Deserialize, JsonSchema)]
pub(super) struct SeekIn {
    /// The first instant of which it wants messages.
    #[schemars(with = "Timestamp")]
    after: String,
}

/// Where it reads on.
#[derive(Serialize, JsonSchema)]
struct SeekOut {
    /// Pass it as `iterator`, or leave it to the server.
    #[schemars(length(max = pagination::MAX_ITERATOR))]
    iterator: String,
}

pub(super) async fn seek(
    tenant: Tenant,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<SeekIn>,
) -> Result<Response> {
    let after =
        Timestamp::parse(&body.after).map_err(|error| ApiError::invalid(&["body", "after"], error.to_string()))?;
    let endpoint = sink(&tenant, &state).await?;
    let position = note(&state, endpoint.key, consumer(&tenant)?, before(after)).await?;
    Ok(answer::json(StatusCode::OK, &SeekOut { iterator: iterator(position) }))
}

async fn sink<N: Need>(tenant: &Tenant<N>, state: &Shared) -> Result<Stored<EndpointKey, Endpoint>> {
    let id = tenant.params().id_or_uid("sink_id")?;
    state.store.endpoint(tenant.application.key, &id).await?.ok_or_else(|| ApiError::no_such("endpoint"))
}

fn consumer<N: Need>(tenant: &Tenant<N>) -> Result<&str> {
    let name = tenant.params().text("consumer_id")?;
    if name.len() > MAX_CONSUMER_BYTES {
        return Err(ApiError::no_such("consumer"));
    }
    if is_step(name) {
        return Err(ApiError::invalid(&["path", "consumer_id"], NameError::Step.to_string()));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_iterator_reads_back_and_those_of_before_mean_what_they_meant() {
        let after = Ksuid::floor(Timestamp::from_micros(1_767_323_045_000_000));
        let (newest, last) = (StreamNumber(7), StreamNumber::BEFORE_ALL);
        for position in [
            StreamPosition::Since(after),
            StreamPosition::Among { after, newest },
            StreamPosition::Behind { last, after },
            StreamPosition::Behind { last: newest, after },
        ] {
            assert_eq!(parse_iterator(&iterator(position)).unwrap(), position);
        }
        let id = MessageId::from_ksuid(after);
        assert_eq!(parse_iterator(&format!("{id}.0")).unwrap(), StreamPosition::Since(after));
        assert_eq!(parse_iterator(&format!("{id}.7")).unwrap(), StreamPosition::Among { after, newest });
        for text in ["", "7", "msg_x-7"].map(str::to_owned).into_iter().chain([format!("{id}-"), format!("{id}7")]) {
            assert!(parse_iterator(&text).is_err(), "{text}");
        }
    }
}
