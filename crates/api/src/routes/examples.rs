//! Sending an example of an event type to one endpoint (rest-contract §9.5).
//!
//! The example is a real message: it is stored, listed and signed like any other, and the endpoint's own filters and its
//! disabled flag count. Only no other endpoint gets it.

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use postrider_domain::endpoint::Endpoint;
use postrider_domain::event_type::EventType;
use postrider_domain::ids::Id as _;
use postrider_domain::names::{EventTypeName, IdOrUid};
use postrider_domain::time::Timestamp;
use postrider_ingest::Submission;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::access::caller::{Operator, Tenant};
use crate::http::answer;
use crate::http::json::JsonBody;
use crate::openapi::{Operation, Routes};
use crate::routes::messages::MATCHED_ENDPOINTS;
use crate::state::{self, Shared};
use crate::wire::error::{ApiError, Result};
use crate::wire::model::message::{ExampleIn, MessageOut};
use crate::wire::problem::Problem;

/// The routes.
pub(super) fn routes() -> Routes {
    Routes::new().post(
        "/app/{app_id}/endpoint/{endpoint_id}/send-example",
        send,
        Operation::new("v1.endpoint.send-example", "Send an example of an event type to an endpoint")
            .description(
                "It is a message like any other, which no other endpoint gets. What is sent is the first example of the newest \
                 version of the event type's schemas that has one. The response leaves it out (`payload` is `{}`): get the \
                 message to see it. If nothing will be sent, or later, `warnings` says why.",
            )
            .returns::<MessageOut<'_>>(StatusCode::OK, "The message.")
            .creates("msg_id", "/id"),
    )
}

/// The event types that need not be defined, and what is sent for them: a first sign of life.
const PINGS: [&str; 2] = ["postrider.ping", "svix.ping"];
const PING: &[u8] = br#"{"success": true}"#;

pub(super) async fn send(
    operator: Operator,
    tenant: Tenant,
    State(state): State<Shared>,
    JsonBody(body): JsonBody<ExampleIn>,
) -> Result<Response> {
    let event_type = body.checked()?;
    let endpoint = tenant.endpoint(&state).await?;
    let payload = example(&state, &operator, &event_type).await?;
    let submission = Submission {
        environment: operator.environment,
        application: IdOrUid::Id(tenant.application.value.id),
        event_type,
        event_id: None,
        channels: None,
        payload,
        tags: None,
        deliver_at: None,
        retention: None,
        create_application: None,
        only: Some(endpoint.key),
        idempotency: operator.once.map(|keyed| keyed.about(endpoint.value.id.ksuid())),
    };
    let submitted = state.intake.submit(submission).await?;
    let warnings = why_not_now(submitted.endpoints, &endpoint.value, state.clock.now()).into_iter().collect();
    let mut response =
        answer::json(StatusCode::OK, &MessageOut::new(&submitted.message, false).with_warnings(warnings));
    response.headers_mut().insert(MATCHED_ENDPOINTS, submitted.endpoints.into());
    Ok(response)
}

/// Whoever sends an example looks at what comes of it, so he is told if that will be nothing, or later.
fn why_not_now(endpoints: usize, endpoint: &Endpoint, now: Timestamp) -> Option<Problem> {
    let msg = if endpoints > 0 {
        let hold = endpoint.held.filter(|hold| hold.until > now)?;
        format!("It is sent when what holds the endpoint back is over, at {}.", hold.until)
    } else if endpoint.disabled {
        "Nothing is sent: the endpoint is disabled.".to_owned()
    } else {
        "Nothing is sent: the endpoint does not ask for messages of this event type without a channel.".to_owned()
    };
    let loc = vec!["path".into(), "endpoint_id".into()];
    Some(Problem { loc, msg, kind: if endpoints > 0 { "held" } else { "not_sent" } })
}

/// What to send for an event type.
async fn example(state: &state::State, operator: &Operator, name: &EventTypeName) -> Result<Bytes> {
    if PINGS.contains(&name.as_str()) {
        return Ok(Bytes::from_static(PING));
    }
    let event_type = state.store.event_type(&operator.environment, name.as_str()).await?;
    let event_type = event_type.ok_or_else(|| ApiError::no_such("event type"))?;
    first_example(&event_type).ok_or_else(|| {
        let detail = format!("The event type '{name}' has no schema whose first example is an object.");
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_scheme", detail)
    })
}

/// The first example in the newest of a type's schemas that has one, as it was written.
fn first_example(event_type: &EventType) -> Option<Bytes> {
    #[derive(Deserialize)]
    struct Examples<'a> {
        #[serde(borrow)]
        examples: Vec<&'a RawValue>,
    }
    event_type.newest_first().into_iter().find_map(|schema| {
        let Examples { examples } = serde_json::from_str(schema.get()).ok()?;
        let example = examples.first()?.get();
        example.starts_with('{').then(|| Bytes::copy_from_slice(example.as_bytes()))
    })
}
