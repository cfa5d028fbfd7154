//! Settings of environments, and bringing event types and settings in from elsewhere.
//!
//! An environment needs no registration: one that nothing was written for has the default settings.

use async_trait::async_trait;
use postrider_domain::application::EnvironmentId;
use postrider_domain::environment::{EnvironmentSettings, EnvironmentSettingsPatch};
use postrider_domain::event_type::{EventType, EventTypePatch};
use postrider_domain::names::EventTypeName;
use postrider_domain::time::Timestamp;

use crate::{Once, StoreError, WriteError, Written};

/// The engine's handle of an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvironmentKey(pub i64);

/// An event type that is brought in.
#[derive(Debug, Clone)]
pub struct ImportedEventType {
    /// What it is to be if there is none of its name.
    pub new: EventType,
    /// What changes if there is one.
    pub patch: EventTypePatch,
}

/// What is brought in.
#[derive(Debug, Clone)]
pub struct Import {
    /// Event types to add or to change.
    pub event_types: Vec<ImportedEventType>,
    /// Archive the active event types that are not among these.
    pub archive_others: bool,
    /// Settings to change.
    pub settings: EnvironmentSettingsPatch,
    /// The most event types that the environment may have afterwards, if any are added; else [`WriteError::Full`].
    pub most: u64,
}

impl Default for Import {
    /// Nothing, and any number may follow.
    fn default() -> Self {
        Self {
            event_types: Vec::new(),
            archive_others: false,
            settings: EnvironmentSettingsPatch::default(),
            most: u64::MAX,
        }
    }
}

/// Operations on environments.
#[async_trait]
pub trait Environments {
    /// The settings of an environment.
    async fn environment_settings(&self, environment: &EnvironmentId) -> Result<EnvironmentSettings, StoreError>;

    /// Changes settings. If they alter what messages must be like, every [`Routes`](crate::Routes) of the environment is
    /// out of date from then on.
    async fn update_environment_settings(
        &self,
        environment: &EnvironmentId,
        patch: EnvironmentSettingsPatch,
        now: Timestamp,
    ) -> Result<EnvironmentSettings, StoreError>;

    /// Brings event types and settings in. Returns the names of the event types that were added, changed or archived, in
    /// bytewise order; one that is the same already is not touched.
    ///
    /// If there is no room for all that are new, nothing is written. What is written takes as many commits as it needs to keep
    /// nobody waiting, settings and key last; so what fails in between, or is no longer waited for, leaves a part, and is
    /// completed by doing it again.
    async fn import(
        &self,
        environment: &EnvironmentId,
        import: Import,
        now: Timestamp,
        once: Option<Once<Vec<EventTypeName>>>,
    ) -> Result<Written<Vec<EventTypeName>>, WriteError>;
}
