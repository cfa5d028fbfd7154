//! Answers: JSON with a status, or nothing with a status. An answer that a repeated request must get again is made as a
//! [`StoredAnswer`] first, so that what is remembered is exactly what is sent.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use postrider_store::{StoredAnswer, Written};
use serde::Serialize;

use crate::wire::error::{ApiError, Rejected, UNAUTHORIZED};
use crate::wire::problem::Problem;

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

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        #[derive(serde::Serialize)]
        struct General {
            code: &'static str,
            detail: Cow<'static, str>,
        }
        #[derive(serde::Serialize)]
        struct Invalid {
            detail: Vec<Problem>,
        }
        match self {
            Self::General { status, code, detail } => json(status, &General { code, detail }),
            Self::Later { code, detail, wait } => {
                let mut response = json(StatusCode::TOO_MANY_REQUESTS, &General { code, detail });
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
                response
            }
            Self::Unauthorized(why) => unauthorized(why),
            Self::Invalid(detail) => json(StatusCode::UNPROCESSABLE_ENTITY, &Invalid { detail }),
        }
    }
}

/// Says why also as RFC 6750 does.
fn unauthorized(why: Rejected) -> Response {
    #[derive(serde::Serialize)]
    struct Unauthorized {
        code: &'static str,
        detail: &'static str,
        reason: &'static str,
    }
    let body = Unauthorized { code: UNAUTHORIZED, detail: "Invalid token", reason: why.reason() };
    let mut response = json(StatusCode::UNAUTHORIZED, &body);
    let challenge = if why == Rejected::Missing { "Bearer" } else { r#"Bearer error="invalid_token""# };
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use postrider_store::WriteError;

    use super::*;

    #[test]
    fn an_answer_that_will_never_have_room_is_not_to_be_asked_for_again() {
        let response = ApiError::from(WriteError::KeysFull { wait: None }).into_response();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
        let later = ApiError::from(WriteError::KeysFull { wait: Some(Duration::from_secs(7)) }).into_response();
        assert_eq!(later.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(later.headers()[header::RETRY_AFTER], "8");
    }
}
