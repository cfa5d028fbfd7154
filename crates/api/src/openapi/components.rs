//! What all operations share: the shapes of errors, who may call, and the introduction.

use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::wire::problem::{MAX_DEPTH, MAX_PLACE, MAX_PROBLEMS, MAX_TEXT};

/// The introduction of the document.
pub(crate) const DESCRIPTION: &str = "\
Everything is JSON, in UTF-8. What an operation does not know, it ignores: members of bodies as well as query parameters. \
If such a name is much like one that is known, the header `postrider-warning` of the response says so. \
Dates are RFC 3339. Ids and your own `uid`s are interchangeable wherever something is named.

Every answer of an operation that is no success has a body: `code` for programs and `detail` for people, or, with status 422, a list of \
everything that is wrong with the input. Only what cannot be read as a request is answered without one, before there is an operation: \
400 if its head is malformed, 414 if its URL is longer than 65,534 bytes, 431 if its head is too long or has more than 100 headers.

A `POST` can carry an `idempotency-key`: repeating it within 12 hours gives the same answer and does nothing twice, \
also if what it made was deleted meanwhile. A key belongs to its path, and to the application and endpoint that the path names. \
Answers take room until then: if those of your keys take all that there is for yours, a request with a key is refused (429 \
`too_many_keys`), and one without a key is not.

The SDKs of Svix work with this API: set their server URL to this server.";

/// The longest code of an error.
const MAX_CODE: usize = 64;

/// Why a text has no bound.
const OWN_TEXT: &str = "a text of the server's making";

/// The errors that can follow from what every operation does: status, name, when.
const ERRORS: [(StatusCode, &str, &str); 11] = [
    (StatusCode::BAD_REQUEST, "BadRequest", "The query string, a header or the token can't be read."),
    (StatusCode::UNAUTHORIZED, "Unauthorized", "There is no token, or none that is accepted."),
    (StatusCode::FORBIDDEN, "Forbidden", "The token does not allow this operation."),
    (StatusCode::NOT_FOUND, "NotFound", "What the path names does not exist, or belongs to another tenant."),
    (StatusCode::REQUEST_TIMEOUT, "RequestTimeout", "The body did not arrive in time."),
    (StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLarge", "The body is larger than 2 MiB."),
    (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedEncoding", "The body has a Content-Encoding."),
    (StatusCode::UNPROCESSABLE_ENTITY, "Invalid", "The input breaks rules: all of them are listed."),
    (
        StatusCode::TOO_MANY_REQUESTS,
        "TooManyRequests",
        "You have too many requests in flight at once, or too much that is kept for a while. Try again after `Retry-After`.",
    ),
    (StatusCode::INTERNAL_SERVER_ERROR, "ServerError", "The server is at fault. What happened is in its log."),
    (StatusCode::SERVICE_UNAVAILABLE, "Unavailable", "The server can't take this now. Try again later."),
];

/// What becomes of a head that is too large to be looked at: an answer without a body, and the end of the connection.
pub(crate) const HEAD_ERRORS: [(StatusCode, &str); 2] = [
    (StatusCode::URI_TOO_LONG, "The path with its query is too long to be read."),
    (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "The head of the request is too large to be read."),
];

/// The schemas of errors.
pub(crate) fn schemas() -> Map<String, Value> {
    let error = json!({
        "type": "object",
        "description": "Why something was not done.",
        "properties": {
            "code": { "type": "string", "maxLength": MAX_CODE, "description": "For programs.", "examples": ["not_found"] },
            "detail": {
                "type": "string",
                "x-unbounded": OWN_TEXT,
                "description": "For people.",
                "examples": ["Entity not found: there is no such endpoint"],
            },
            "reason": {
                "type": "string",
                "x-unbounded": OWN_TEXT,
                "description": "With status 401: what is wrong with the token, for people.",
            },
        },
        "required": ["code", "detail"],
    });
    let invalid = json!({
        "type": "object",
        "description": "Everything that is wrong with the input.",
        "properties": {
            "detail": { "type": "array", "minItems": 1, "maxItems": MAX_PROBLEMS, "items": { "$ref": "#/components/schemas/Problem" } },
        },
        "required": ["detail"],
    });
    let problem = json!({
        "type": "object",
        "description": "One thing that is wrong with the input.",
        "properties": {
            "loc": {
                "type": "array",
                "description": "Where: `body`, `query` or `path`, then names of members; elements of arrays as `[0]`.",
                "maxItems": MAX_DEPTH,
                "items": { "type": "string", "maxLength": MAX_PLACE + 1 },
                "examples": [["body", "channels", "[0]"]],
            },
            "msg": { "type": "string", "maxLength": MAX_TEXT + 1, "description": "What, for people." },
            "type": { "type": "string", "maxLength": MAX_CODE, "description": "What, for programs." },
        },
        "required": ["loc", "msg", "type"],
    });
    [("Error", error), ("Invalid", invalid), ("Problem", problem)]
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

/// The errors that operations refer to.
pub(crate) fn responses() -> Map<String, Value> {
    ERRORS.iter().map(|(status, name, when)| ((*name).to_owned(), error(*status, when))).collect()
}

/// A reference to one of [`responses`].
pub(crate) fn reference(status: StatusCode) -> Value {
    let name = ERRORS.iter().find(|(known, ..)| *known == status).map_or("ServerError", |(_, name, _)| *name);
    json!({ "$ref": format!("#/components/responses/{name}") })
}

/// An error with its shape.
pub(crate) fn error(status: StatusCode, when: &str) -> Value {
    let shape = if status == StatusCode::UNPROCESSABLE_ENTITY { "Invalid" } else { "Error" };
    json!({
        "description": when,
        "content": { "application/json": { "schema": { "$ref": format!("#/components/schemas/{shape}") } } },
    })
}

/// How callers say who they are.
pub(crate) fn security() -> Value {
    json!({
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key, or a signed token of an environment or of an application.",
        },
    })
}
