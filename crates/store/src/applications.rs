//! Applications of an environment.

use async_trait::async_trait;
use postrider_domain::application::{Application, ApplicationPatch, EnvironmentId};
use postrider_domain::ids::{ApplicationId, Ksuid};
use postrider_domain::names::IdOrUid;
use postrider_domain::time::Timestamp;

use crate::{Once, Scan, StoreError, Stored, Walked, WriteError, Written};

/// The engine's handle of an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApplicationKey(pub i64);

/// What an upsert did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upserted<T> {
    /// There was one, and it was changed.
    Updated(T),
    /// There was none.
    Created(T),
}

/// Which applications a list shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ApplicationFilter {
    /// Only those that have endpoints.
    pub with_endpoints: bool,
    /// Not those whose endpoints are all disabled. Those without endpoints are shown.
    pub without_disabled: bool,
}

/// Operations on applications. Deleted ones are found by none of them.
#[async_trait]
pub trait Applications {
    /// Adds an application; the environment exists from now on if it did not. [`WriteError::Conflict`] if the uid is taken.
    async fn create_application(
        &self,
        environment: &EnvironmentId,
        application: Application,
        once: Option<Once<Application>>,
    ) -> Result<Written<Application>, WriteError>;

    /// The application with this id or uid, if the environment has one.
    async fn application(
        &self,
        environment: &EnvironmentId,
        id: &IdOrUid<ApplicationId>,
    ) -> Result<Option<Stored<ApplicationKey, Application>>, StoreError>;

    /// A page of applications, by id.
    async fn applications(
        &self,
        environment: &EnvironmentId,
        filter: ApplicationFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Walked<Application>, StoreError>;

    /// Changes an application and its date of change. [`WriteError::NotFound`], [`WriteError::Conflict`] if the new uid is
    /// taken by another.
    async fn update_application(
        &self,
        environment: &EnvironmentId,
        id: &IdOrUid<ApplicationId>,
        patch: ApplicationPatch,
        now: Timestamp,
    ) -> Result<Application, WriteError>;

    /// Changes an application as [`Applications::update_application`] does, or adds `otherwise`, in one commit.
    async fn upsert_application(
        &self,
        environment: &EnvironmentId,
        id: &IdOrUid<ApplicationId>,
        patch: ApplicationPatch,
        otherwise: Application,
        now: Timestamp,
    ) -> Result<Upserted<Application>, WriteError>;

    /// Deletes an application: it and everything of it is found no more, its uid is free, and what is pending is not sent.
    async fn delete_application(
        &self,
        environment: &EnvironmentId,
        id: &IdOrUid<ApplicationId>,
        now: Timestamp,
    ) -> Result<(), WriteError>;
}
