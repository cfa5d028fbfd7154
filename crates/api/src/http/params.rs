//! Parameters of the path. They are looked up, never validated: what has an illegal form names nothing.

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use postrider_domain::ids::Id;
use postrider_domain::names::{IdOrUid, MAX_NAME_BYTES};

use crate::wire::error::{ApiError, Result};

/// The parameters of the path by name.
pub(crate) struct Params(RawPathParams);

impl Params {
    /// Whether the path has such a parameter.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// The text of a parameter, percent-decoded.
    pub(crate) fn text(&self, name: &'static str) -> Result<&str> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| value).ok_or_else(|| ApiError::no_such("path"))
    }

    /// The same of one that names something. What is longer than a name names nothing, and is made by no upsert either.
    pub(crate) fn name(&self, name: &'static str) -> Result<&str> {
        self.text(name).ok().filter(|text| text.len() <= MAX_NAME_BYTES).ok_or_else(|| ApiError::no_such("path"))
    }

    /// A parameter that may be an id or the caller's own identifier.
    pub(crate) fn id_or_uid<I: Id>(&self, name: &'static str) -> Result<IdOrUid<I>> {
        self.name(name).map(IdOrUid::parse)
    }

    /// A parameter that can only be an id of such a thing.
    pub(crate) fn id<I: Id>(&self, name: &'static str, thing: &'static str) -> Result<I> {
        self.text(name)?.parse().map_err(|_| ApiError::no_such(thing))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        // A path that does not decode to UTF-8 names nothing either.
        RawPathParams::from_request_parts(parts, state).await.map(Self).map_err(|_| ApiError::no_such("path"))
    }
}
