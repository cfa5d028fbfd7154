//! Endpoints of an application, with their secrets and headers. Every change makes the application's routes newer (see
//! [`crate::Routes::version`]) and is told to observers.

use async_trait::async_trait;
use postrider_domain::endpoint::{Endpoint, EndpointPatch, Headers};
use postrider_domain::headers::{HeaderChanges, TooManyHeaders};
use postrider_domain::ids::{EndpointId, Ksuid};
use postrider_domain::names::IdOrUid;
use postrider_domain::signature::{Secret, SigningKeys};
use postrider_domain::time::Timestamp;

use crate::{ApplicationKey, Listed, Once, Scan, StoreError, Stored, Upserted, WriteError, Written};

postrider_domain::limits! {
    in "Endpoints";
    /// Endpoints of an application that were deleted within a day: a row of each is there for so long
    pub const MAX_DELETED_ENDPOINTS: u64 = 5_000, "endpoints", beyond "no more are made: 429 `too_many_deleted`";
    /// Former URLs of an application's endpoints that attempts name, in a day: each is kept for as long as those
    pub const FORMER_URLS_PER_DAY: u64 = 8_388_608, "bytes", beyond "no URL with an attempt is changed: 429 `too_many_urls`";
}

/// What a former URL takes beside its text: its row, and its place in the index.
pub const URL_OVERHEAD: u64 = 64;

/// The engine's handle of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey(pub i64);

/// An endpoint to add.
#[derive(Debug, Clone)]
pub struct NewEndpoint {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Its first secret.
    pub secret: Secret,
    /// Its extra headers.
    pub headers: Headers,
    /// The most endpoints that the application may have afterwards, not counting deleted ones; else [`WriteError::Full`].
    /// (If far too many were deleted of late, [`WriteError::ManyDeleted`].)
    pub most: u64,
}

/// A rotation did not take place.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RotateError {
    /// The store failed, or there is no such endpoint.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Too many old keys are still valid.
    #[error(transparent)]
    TooManyKeys(#[from] postrider_domain::signature::TooManyKeys),
}

/// Headers were not changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChangeHeadersError {
    /// The store failed, or there is no such endpoint.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// With the changes there would be too many.
    #[error(transparent)]
    TooMany(#[from] TooManyHeaders),
}

/// Operations on endpoints. Deleted ones, and those of deleted applications, are found by none of them.
#[async_trait]
pub trait Endpoints {
    /// Adds an endpoint. [`WriteError::NotFound`] if the application is gone, [`WriteError::Conflict`] if the uid is taken.
    async fn create_endpoint(
        &self,
        application: ApplicationKey,
        new: NewEndpoint,
        once: Option<Once<Endpoint>>,
    ) -> Result<Written<Endpoint>, WriteError>;

    /// The endpoint with this id or uid, if the application has one.
    async fn endpoint(
        &self,
        application: ApplicationKey,
        id: &IdOrUid<EndpointId>,
    ) -> Result<Option<Stored<EndpointKey, Endpoint>>, StoreError>;

    /// A page of endpoints, by id.
    async fn endpoints(&self, application: ApplicationKey, scan: Scan<Ksuid>) -> Result<Listed<Endpoint>, StoreError>;

    /// Changes an endpoint and its date of change. Enabling it forgets that it was failing. Credentials that its URL was
    /// stored with become its header `Authorization`, unless it has one or the new URL leads to another origin.
    async fn update_endpoint(
        &self,
        application: ApplicationKey,
        id: &IdOrUid<EndpointId>,
        patch: EndpointPatch,
        now: Timestamp,
    ) -> Result<Endpoint, WriteError>;

    /// Changes an endpoint as [`Endpoints::update_endpoint`] does (secret and headers stay), or adds `otherwise`.
    async fn upsert_endpoint(
        &self,
        application: ApplicationKey,
        id: &IdOrUid<EndpointId>,
        patch: EndpointPatch,
        otherwise: NewEndpoint,
        now: Timestamp,
    ) -> Result<Upserted<Endpoint>, WriteError>;

    /// Deletes an endpoint: it is found no more, its uid is free, and what is pending is not sent. Its attempts stay.
    async fn delete_endpoint(
        &self,
        application: ApplicationKey,
        id: &IdOrUid<EndpointId>,
        now: Timestamp,
    ) -> Result<(), WriteError>;

    /// All keys of an endpoint, expired ones included until the next rotation.
    async fn signing_keys(&self, endpoint: EndpointKey) -> Result<Option<SigningKeys>, StoreError>;

    /// Makes `next` the current key; the former one signs until `grace_until`. Returns the new current key's public text.
    async fn rotate_secret(
        &self,
        endpoint: EndpointKey,
        next: Secret,
        grace_until: Timestamp,
        now: Timestamp,
        once: Option<Once<Secret>>,
    ) -> Result<Written<Secret>, RotateError>;

    /// The extra headers of an endpoint.
    async fn headers(&self, endpoint: EndpointKey) -> Result<Option<Headers>, StoreError>;

    /// Replaces the extra headers.
    async fn set_headers(&self, endpoint: EndpointKey, headers: Headers, now: Timestamp) -> Result<(), WriteError>;

    /// Makes changes to the headers in one commit, by [`Headers::changed`].
    async fn merge_headers(
        &self,
        endpoint: EndpointKey,
        changes: HeaderChanges,
        now: Timestamp,
    ) -> Result<(), ChangeHeadersError>;
}

impl From<StoreError> for ChangeHeadersError {
    fn from(error: StoreError) -> Self {
        Self::Write(error.into())
    }
}

impl From<StoreError> for RotateError {
    fn from(error: StoreError) -> Self {
        Self::Write(error.into())
    }
}
