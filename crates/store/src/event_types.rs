//! Event types of an environment.

use async_trait::async_trait;
use postrider_domain::application::EnvironmentId;
use postrider_domain::event_type::{EventType, EventTypePatch};
use postrider_domain::names::EventTypeName;
use postrider_domain::time::Timestamp;

use crate::{Once, Scan, StoreError, Upserted, Walked, WriteError, Written};

/// Which event types a list shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventTypeFilter {
    /// Archived ones too.
    pub include_archived: bool,
    /// With their schemas; otherwise `schemas` is `None` in what is returned.
    pub with_schemas: bool,
    /// `Some`: only types with no flag or one of these. `None`: all.
    pub feature_flags: Option<Vec<String>>,
}

/// Operations on event types.
#[async_trait]
pub trait EventTypes {
    /// Adds an event type. An archived one of that name is revived: overwritten, its date of creation kept.
    /// [`WriteError::Conflict`] if there is an active one; [`WriteError::Full`] if the environment would have more than
    /// `most` afterwards, archived ones among them.
    async fn create_event_type(
        &self,
        environment: &EnvironmentId,
        most: u64,
        event_type: EventType,
        once: Option<Once<EventType>>,
    ) -> Result<Written<EventType>, WriteError>;

    /// The event type of this name, archived or not. `name` need not be a legal name.
    async fn event_type(&self, environment: &EnvironmentId, name: &str) -> Result<Option<EventType>, StoreError>;

    /// A page of event types, by name, bytewise.
    async fn event_types(
        &self,
        environment: &EnvironmentId,
        filter: &EventTypeFilter,
        scan: Scan<String>,
    ) -> Result<Walked<EventType, String>, StoreError>;

    /// All event types that a filter lets through, by name; `None` if their texts have more than `most` bytes: then those are not
    /// read, so that asking costs little.
    async fn all_event_types(
        &self,
        environment: &EnvironmentId,
        filter: &EventTypeFilter,
        most: u64,
    ) -> Result<Option<Vec<EventType>>, StoreError>;

    /// Those of `names` that are not the name of an active event type which `feature_flags` let see, in the order given. What they
    /// let see is the same as in [`EventTypeFilter::feature_flags`].
    async fn missing_event_types(
        &self,
        environment: &EnvironmentId,
        names: &[EventTypeName],
        feature_flags: Option<&[String]>,
    ) -> Result<Vec<EventTypeName>, StoreError>;

    /// Changes an event type and its date of change.
    async fn update_event_type(
        &self,
        environment: &EnvironmentId,
        name: &str,
        patch: EventTypePatch,
        now: Timestamp,
    ) -> Result<EventType, WriteError>;

    /// Changes an event type, or adds `otherwise`, in one commit; of `most` the same holds.
    async fn upsert_event_type(
        &self,
        environment: &EnvironmentId,
        most: u64,
        name: &str,
        patch: EventTypePatch,
        otherwise: EventType,
        now: Timestamp,
    ) -> Result<Upserted<EventType>, WriteError>;

    /// Archives an event type (again and again without error), or removes it if `expunge`.
    async fn delete_event_type(
        &self,
        environment: &EnvironmentId,
        name: &str,
        expunge: bool,
        now: Timestamp,
    ) -> Result<(), WriteError>;
}
