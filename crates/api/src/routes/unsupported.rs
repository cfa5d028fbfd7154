//! Operations that clients of the Svix API know and that this server does not have: each answers 501, with what it is and
//! what to use instead, rather than a 404 that looks like a wrong address. The token is judged first.

use http::Method;

use crate::access::caller::Reader;
use crate::openapi::{Operation, Routes};
use crate::wire::error::ApiError;

/// Operations that are absent for the same reason.
struct Absent {
    /// What they are.
    what: &'static str,
    /// What to use instead.
    instead: &'static str,
    /// Which they are: methods and path.
    operations: &'static [(&'static [Method], &'static str)],
}

impl Absent {
    fn refusal(&self) -> ApiError {
        ApiError::not_implemented(format!("{} This server does not do that. {}", self.what, self.instead))
    }
}

const READ: &[Method] = &[Method::GET];
const MAKE: &[Method] = &[Method::POST];
const REMOVE: &[Method] = &[Method::DELETE];
const COLLECTION: &[Method] = &[Method::GET, Method::POST];
const READ_AND_REPLACE: &[Method] = &[Method::GET, Method::PUT];
const READ_AND_CHANGE: &[Method] = &[Method::GET, Method::PATCH];
const ITEM: &[Method] = &[Method::GET, Method::PUT, Method::DELETE];
const WHOLE_ITEM: &[Method] = &[Method::GET, Method::PUT, Method::PATCH, Method::DELETE];

/// What is absent.
const ABSENT: &[Absent] = &[
    Absent {
        what: "Transformations run code on a payload before it is delivered.",
        instead: "Create the message with the payload that the receiver needs; `transformationsParams.rawPayload` may be \
                  any text.",
        operations: &[(READ_AND_CHANGE, "/app/{app_id}/endpoint/{endpoint_id}/transformation")],
    },
    Absent {
        what: "Destinations are receivers that are no webhooks, such as queues and buckets.",
        instead: "Create an endpoint whose receiver passes messages on.",
        operations: &[
            (COLLECTION, "/app/{app_id}/destination"),
            (WHOLE_ITEM, "/app/{app_id}/destination/{destination_id}"),
            (MAKE, "/app/{app_id}/destination/{destination_id}/secret/rotate"),
            (READ_AND_CHANGE, "/app/{app_id}/destination/{destination_id}/transformation"),
        ],
    },
    Absent {
        what: "Integrations are keys by which other services manage the endpoints of an application.",
        instead: "Make such a service a token with POST /api/v1/auth/app-portal-access/{app_id} and the capabilities that \
                  it needs.",
        operations: &[
            (COLLECTION, "/app/{app_id}/integration"),
            (ITEM, "/app/{app_id}/integration/{integration_id}"),
            (READ, "/app/{app_id}/integration/{integration_id}/key"),
            (MAKE, "/app/{app_id}/integration/{integration_id}/key/rotate"),
        ],
    },
    Absent {
        what: "Autoconfiguration lets a receiver set up its own endpoint with a link.",
        instead: "Make the receiver a token with POST /api/v1/auth/app-portal-access/{app_id}, by which it can create its \
                  endpoint.",
        operations: &[
            (MAKE, "/app/{app_id}/autoconfig"),
            (REMOVE, "/app/{app_id}/autoconfig/{autoconfig_id}"),
            (MAKE, "/app/{app_id}/autoconfig/{autoconfig_id}/rotate"),
        ],
    },
    Absent {
        what: "Connectors are templates from which customers create endpoints in a portal.",
        instead: "Create the endpoint with POST /api/v1/app/{app_id}/endpoint from a page of your own.",
        operations: &[(COLLECTION, "/connector"), (WHOLE_ITEM, "/connector/{connector_id}")],
    },
    Absent {
        what: "Streams pass events on to sinks, without applications and endpoints.",
        instead: "Create messages with POST /api/v1/app/{app_id}/msg, or many at once with \
                  POST /api/v1/app/{app_id}/msg/batch.",
        operations: &[
            (COLLECTION, "/stream"),
            (WHOLE_ITEM, "/stream/{stream_id}"),
            (MAKE, "/stream/{stream_id}/events"),
            (COLLECTION, "/stream/{stream_id}/sink"),
            (WHOLE_ITEM, "/stream/{stream_id}/sink/{sink_id}"),
            (READ, "/stream/{stream_id}/sink/{sink_id}/events"),
            (READ_AND_CHANGE, "/stream/{stream_id}/sink/{sink_id}/headers"),
            (READ, "/stream/{stream_id}/sink/{sink_id}/secret"),
            (MAKE, "/stream/{stream_id}/sink/{sink_id}/secret/rotate"),
            (READ_AND_CHANGE, "/stream/{stream_id}/sink/{sink_id}/transformation"),
            (COLLECTION, "/stream/event-type"),
            (WHOLE_ITEM, "/stream/event-type/{event_type_name}"),
            (MAKE, "/auth/stream-logout"),
            (MAKE, "/auth/stream-portal-access/{stream_id}"),
            (MAKE, "/auth/stream/{stream_id}/expire-all"),
            (READ, "/auth/stream/{stream_id}/sink/{sink_id}/poller/token"),
            (MAKE, "/auth/stream/{stream_id}/sink/{sink_id}/poller/token/rotate"),
        ],
    },
    Absent {
        what: "Ingest receives the webhooks of other services.",
        instead: "Receive them with a program of your own that creates messages with POST /api/v1/app/{app_id}/msg.",
        operations: &[
            (COLLECTION, "/ingest/api/v1/source"),
            (ITEM, "/ingest/api/v1/source/{source_id}"),
            (MAKE, "/ingest/api/v1/source/{source_id}/dashboard"),
            (MAKE, "/ingest/api/v1/source/{source_id}/token/rotate"),
            (COLLECTION, "/ingest/api/v1/source/{source_id}/endpoint"),
            (ITEM, "/ingest/api/v1/source/{source_id}/endpoint/{endpoint_id}"),
            (READ_AND_REPLACE, "/ingest/api/v1/source/{source_id}/endpoint/{endpoint_id}/headers"),
            (READ, "/ingest/api/v1/source/{source_id}/endpoint/{endpoint_id}/secret"),
            (MAKE, "/ingest/api/v1/source/{source_id}/endpoint/{endpoint_id}/secret/rotate"),
            (READ_AND_CHANGE, "/ingest/api/v1/source/{source_id}/endpoint/{endpoint_id}/transformation"),
        ],
    },
];

/// The routes.
pub(super) fn routes() -> Routes {
    let one = |absent: &'static Absent, method: &Method, path: &str| {
        let refuse = move |_: Reader| async move { absent.refusal() };
        Routes::new().on(method, path, refuse, Operation::not_implemented(absent.what, absent.instead))
    };
    let all = ABSENT.iter().flat_map(|absent| absent.operations.iter().map(move |operation| (absent, operation)));
    all.flat_map(|(absent, (methods, path))| methods.iter().map(move |method| one(absent, method, path)))
        .fold(Routes::new(), Routes::and)
}
