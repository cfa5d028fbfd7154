//! Errors as callers see them: `{"code", "detail"}` on every status but 422, which has a list of what is wrong with the
//! input (rest-contract §2).

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use postrider_ingest::Violation;
use postrider_store::{StoreError, WriteError};

use crate::answer;
use crate::json::MAX_DEPTH;
use crate::openapi::types::{Place, Said};

/// What a handler answers if it does not do what it was asked.
#[derive(Debug, Clone)]
pub(crate) enum ApiError {
    /// `{"code", "detail"}` with a status.
    General {
        /// The status.
        status: StatusCode,
        /// For programs.
        code: &'static str,
        /// For people.
        detail: Cow<'static, str>,
    },
    /// 422 with everything that was found wrong.
    Invalid(Vec<Problem>),
}

/// The result of a handler or an extractor.
pub(crate) type Result<T, E = ApiError> = std::result::Result<T, E>;

/// One thing that is wrong with the input.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Problem {
    /// Where: `body`, `query` or `path`, then member names; elements of lists as `[0]`.
    #[schemars(with = "Vec<Place>", length(max = MAX_DEPTH))]
    pub(crate) loc: Vec<Cow<'static, str>>,
    /// What, for people.
    #[schemars(with = "Said")]
    pub(crate) msg: String,
    /// What, for programs.
    #[serde(rename = "type")]
    #[schemars(length(max = 64))]
    pub(crate) kind: &'static str,
}

impl Problem {
    /// The text could not be decoded.
    pub(crate) const DECODE: &'static str = "value_error.jsondecode";
    /// A value breaks a rule.
    pub(crate) const VALUE: &'static str = "value_error";
}

impl From<Violation> for Problem {
    fn from(Violation { loc, msg, kind }: Violation) -> Self {
        let loc = std::iter::once(Cow::Borrowed("body")).chain(loc).collect();
        Self { loc, msg, kind }
    }
}

impl ApiError {
    /// Its status.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::General { status, .. } => *status,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    /// An error with its status, its code and a text for people.
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::General { status, code, detail: detail.into() }
    }

    /// 400: a query string, header or path that can't be decoded.
    pub(crate) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "generic_error", detail)
    }

    /// 401: no token, or none that is accepted.
    pub(crate) fn invalid_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "authentication_failed", "Invalid token")
    }

    /// 403: an application's token on an operation of its environment.
    pub(crate) fn insufficient_access() -> Self {
        Self::new(StatusCode::FORBIDDEN, "insufficient access", "Insufficient access for the given operation.")
    }

    /// 404: missing, or somebody else's.
    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "Entity not found")
    }

    /// 409: an identifier is taken.
    pub(crate) fn conflict() -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "A conflict has occurred")
    }

    /// 413: more bytes than a body may have.
    pub(crate) fn payload_too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", "Request payload is too large.")
    }

    /// 500: nothing that the caller did.
    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "Something went wrong. It has been logged.")
    }

    /// 501: an operation that is known, but not to be had.
    pub(crate) fn not_implemented(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "not_implemented", detail)
    }

    /// 422 with one problem.
    pub(crate) fn invalid(loc: &[&'static str], msg: impl Into<String>) -> Self {
        let loc = loc.iter().copied().map(Cow::Borrowed).collect();
        Self::Invalid(vec![Problem { loc, msg: msg.into(), kind: Problem::VALUE }])
    }
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
            Self::General { status, code, detail } => answer::json(status, &General { code, detail }),
            Self::Invalid(detail) => answer::json(StatusCode::UNPROCESSABLE_ENTITY, &Invalid { detail }),
        }
    }
}

impl From<StoreError> for ApiError {
    /// 503 if trying again may help, otherwise 500. What exactly failed is logged, not shown.
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) | StoreError::Closed => {
                tracing::warn!(%error, "a request could not be served");
                let detail = "The store is unavailable. Try again later.";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
            }
            StoreError::Inconsistent { .. } => {
                tracing::error!(%error, "a request could not be served");
                Self::internal()
            }
        }
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Store(error) => error.into(),
            WriteError::NotFound => Self::not_found(),
            WriteError::Conflict => Self::conflict(),
        }
    }
}
