//! Errors as callers see them: `{"code", "detail"}` on every status but 422, which has a list of what is wrong with the
//! input (rest-contract §2).

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;
use postrider_store::{Capped, StoreError, WriteError};

use crate::wire::problem::Problem;

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
    /// 429: what is asked for has to wait for so long.
    Later {
        /// For programs.
        code: &'static str,
        /// For people.
        detail: Cow<'static, str>,
        /// How long it takes until there is room.
        wait: Duration,
    },
    /// 401 with the reason. The detail is the same for all of them, because clients compare it.
    Unauthorized(Rejected),
    /// 422 with everything that was found wrong.
    Invalid(Vec<Problem>),
}

/// Why nobody is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// There is no token.
    Missing,
    /// The header is there, but is no `Bearer` token.
    NotBearer,
    /// It is longer than [`MAX_TOKEN_BYTES`](crate::access::auth::MAX_TOKEN_BYTES), and was not looked at.
    TooLong,
    /// It is neither an API key nor a signed token.
    Malformed,
    /// No key of this server, at least not any more.
    UnknownKey,
    /// It was good once, or will be.
    Expired,
    /// It is an API key whose time is over.
    ExpiredKey,
    /// Its session, or all tokens of its application, were ended, or there is no such application any more.
    Ended,
    /// It looks like a signed token, but not one of this server's.
    NotSigned,
    /// It is the secret that tokens are signed with.
    Secret,
}

impl Rejected {
    /// For people.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Missing => "there is no token: send the header 'Authorization: Bearer' with an API key or a token",
            Self::NotBearer => "the header 'Authorization' does not have the form 'Bearer <token>'",
            Self::TooLong => "the token is longer than those that are taken: 21504 bytes",
            Self::Malformed => "the token is malformed: it is neither an API key (pk_…) nor a signed token",
            Self::UnknownKey => "the API key is unknown, or was revoked",
            Self::Expired => "the token has expired, or is not valid yet",
            Self::ExpiredKey => "the API key has expired: `postrider key create` makes a new one",
            Self::Ended => "the token was ended before its time, or its application was deleted",
            Self::NotSigned => "the token is not signed with a secret of this server, or not with HS256",
            Self::Secret => "this is the secret that tokens are signed with: sign a token with it, and send that",
        }
    }
}

/// The result of a handler or an extractor.
pub(crate) type Result<T, E = ApiError> = std::result::Result<T, E>;

impl ApiError {
    /// Its status.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::General { status, .. } => *status,
            Self::Later { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
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

    /// 403: an application's token on an operation of its environment.
    pub(crate) fn insufficient_access() -> Self {
        let detail =
            "Insufficient access for the given operation. It is for an API key, or a token of the environment.";
        Self::new(StatusCode::FORBIDDEN, "insufficient access", detail)
    }

    /// 403: an application's token whose maker did not allow this.
    pub(crate) fn lacks(capability: impl std::fmt::Debug) -> Self {
        let detail =
            format!("Insufficient access for the given operation. The token lacks the capability '{capability:?}'.");
        Self::new(StatusCode::FORBIDDEN, "insufficient access", detail)
    }

    /// 404: missing, or somebody else's.
    pub(crate) fn no_such(entity: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("Entity not found: there is no such {entity}"))
    }

    /// 409: an identifier is taken, which this member has.
    pub(crate) fn conflict(member: &'static str) -> Self {
        let detail = format!("A conflict has occurred: the {member} is taken");
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }

    /// 413: more bytes than a body may have.
    pub(crate) fn payload_too_large(most: usize) -> Self {
        let detail = format!("Request payload is too large: it may have {most} bytes.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail)
    }

    /// 429: as many deliveries wait at an endpoint as may be asked for.
    pub(crate) fn too_many_deliveries() -> Self {
        let detail =
            "Too many requested deliveries (resend, recover, replays) are pending at this endpoint. Try again later.";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_deliveries", detail)
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

/// The code of 401.
pub(crate) const UNAUTHORIZED: &str = "authentication_failed";

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
            WriteError::NotFound => {
                Self::new(StatusCode::NOT_FOUND, "not_found", "Entity not found: what the path names does not exist")
            }
            WriteError::Conflict => Self::conflict("uid"),
            WriteError::KeysFull { wait: None } => {
                let detail = "The answer to your request would be remembered for its idempotency key, and is larger than all the \
                              room that there is for yours. Without a key the request is carried out.";
                Self::new(StatusCode::BAD_REQUEST, "limit_reached", detail)
            }
            WriteError::KeysFull { wait: Some(wait) } => {
                let detail = "The answers to your requests with an idempotency key are remembered for 12 hours, and take all \
                              the room that there is for yours. Without a key the request is carried out.";
                Self::Later { code: "too_many_keys", detail: detail.into(), wait }
            }
            WriteError::ManyUrls { most, wait } => {
                let detail = format!(
                    "Each URL to which an attempt was made is kept for as long as the attempt, and those of the application's endpoints \
                     that were changed within a day take {most} bytes, which is as much as may be."
                );
                Self::Later { code: "too_many_urls", detail: detail.into(), wait }
            }
            WriteError::ManyDeleted { most, wait } => {
                let detail = format!(
                    "{most} endpoints of the application were deleted within a day, and no more are made before some of them \
                     were removed for good. To change an endpoint, update it."
                );
                Self::Later { code: "too_many_deleted", detail: detail.into(), wait }
            }
            WriteError::Full { of, most } => {
                let (whose, setting) = match of {
                    Capped::EventTypes => ("environment", " (limits.event_types_per_environment)"),
                    Capped::Endpoints => ("application", " (limits.endpoints_per_application)"),
                    Capped::Consumers => ("endpoint", ""),
                    Capped::Attempts => ("message", ""),
                    Capped::TokenRules => {
                        ("application", ": end all of its tokens with `expiry` 0, which takes the place of them")
                    }
                };
                let detail = format!("The {whose} has {most} {of} already, and may not have more{setting}.");
                Self::new(StatusCode::BAD_REQUEST, "limit_reached", detail)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_too_many_rules_is_told_what_takes_the_place_of_all() {
        let full = WriteError::Full { of: Capped::TokenRules, most: 20_000 };
        match ApiError::from(full) {
            ApiError::General { detail, .. } => assert!(detail.contains("with `expiry` 0"), "{detail}"),
            other => panic!("{other:?}"),
        }
    }
}
