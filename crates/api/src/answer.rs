//! Answers: JSON with a status, or nothing with a status. An answer that a repeated request must get again is made as a
//! [`StoredAnswer`] first, so that what is remembered is exactly what is sent.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use postrider_store::{StoredAnswer, Written};
use serde::Serialize;

/// A JSON answer. A value that can't be serialised is a programming error, answered with 500.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => raw_json(status, body.into()),
        Err(error) => {
            tracing::error!(%error, "an answer could not be serialised");
            raw_json(StatusCode::INTERNAL_SERVER_ERROR, Bytes::from_static(br#"{"code":"server_error","detail":""}"#))
        }
    }
}

/// An answer of text that is JSON already.
pub(crate) fn raw_json(status: StatusCode, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A JSON answer to remember.
pub(crate) fn to_store<T: Serialize>(status: StatusCode, value: &T) -> StoredAnswer {
    // Everything that is answered is made of strings, numbers and JSON that was parsed before; see `json`.
    StoredAnswer { status: status.as_u16(), body: serde_json::to_vec(value).unwrap_or_default().into() }
}

/// Sends an answer that is, or could have been, remembered.
pub(crate) fn send(answer: StoredAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if answer.body.is_empty() { empty(status) } else { raw_json(status, answer.body) }
}

/// Answers a write: what it made, or what the first request with the same key was answered.
pub(crate) fn written<T>(written: Written<T>, answer: impl FnOnce(&T) -> StoredAnswer) -> Response {
    send(match written {
        Written::Done(value) => answer(&value),
        Written::Replayed(answer) => answer,
    })
}
