//! Environments on the wire: their settings, and the document by which event types and settings are moved from one
//! environment to another.

use postrider_domain::environment::{
    EnvironmentSettings, EnvironmentSettingsPatch, SchemaEnforcement, UnknownEventTypes,
};
use postrider_domain::event_type::EventType;
use postrider_domain::time::Timestamp;
use postrider_store::{Import, ImportedEventType};
use serde::{Deserialize, Serialize};

use crate::error::{ApiError, Result};
use crate::json::present;
use crate::model::event_type::{self, EventTypeIn, EventTypeOut};

/// Settings as they are shown.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SettingsOut {
    schema_enforcement: SchemaEnforcement,
    unknown_event_types: UnknownEventTypes,
    public_catalogue: bool,
    created_at: Option<Timestamp>,
    updated_at: Option<Timestamp>,
}

impl From<EnvironmentSettings> for SettingsOut {
    fn from(settings: EnvironmentSettings) -> Self {
        Self {
            schema_enforcement: settings.rules.schemas,
            unknown_event_types: settings.rules.unknown_event_types,
            public_catalogue: settings.public_catalogue,
            created_at: settings.created_at,
            updated_at: settings.updated_at,
        }
    }
}

/// What replaces settings: what is left out gets its default.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SettingsIn {
    #[serde(default)]
    schema_enforcement: SchemaEnforcement,
    #[serde(default)]
    unknown_event_types: UnknownEventTypes,
    #[serde(default)]
    public_catalogue: bool,
}

impl From<SettingsIn> for EnvironmentSettingsPatch {
    fn from(settings: SettingsIn) -> Self {
        Self {
            schema_enforcement: Some(settings.schema_enforcement),
            unknown_event_types: Some(settings.unknown_event_types),
            public_catalogue: Some(settings.public_catalogue),
        }
    }
}

/// What changes settings.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SettingsPatchIn {
    #[serde(default, deserialize_with = "present")]
    schema_enforcement: Option<SchemaEnforcement>,
    #[serde(default, deserialize_with = "present")]
    unknown_event_types: Option<UnknownEventTypes>,
    #[serde(default, deserialize_with = "present")]
    public_catalogue: Option<bool>,
}

impl From<SettingsPatchIn> for EnvironmentSettingsPatch {
    fn from(patch: SettingsPatchIn) -> Self {
        Self {
            schema_enforcement: patch.schema_enforcement,
            unknown_event_types: patch.unknown_event_types,
            public_catalogue: patch.public_catalogue,
        }
    }
}

/// An environment as it is exported. There are no connectors here; clients expect a list of them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EnvironmentOut<'a> {
    version: u8,
    created_at: Timestamp,
    event_types: Vec<EventTypeOut<'a>>,
    settings: SettingsOut,
    connectors: [(); 0],
}

impl<'a> EnvironmentOut<'a> {
    pub(crate) fn new(event_types: &'a [EventType], settings: EnvironmentSettings, now: Timestamp) -> Self {
        let event_types = event_types.iter().map(EventTypeOut::from).collect();
        Self { version: 1, created_at: now, event_types, settings: settings.into(), connectors: [] }
    }
}

/// An environment as it is imported: also one that another server exported, of whose settings only ours are read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EnvironmentIn {
    event_types: Option<Vec<EventTypeIn>>,
    settings: Option<SettingsPatchIn>,
}

impl EnvironmentIn {
    /// Checks a body.
    pub(crate) fn checked(self, now: Timestamp) -> Result<Import> {
        let (mut event_types, mut problems) = (Vec::new(), Vec::new());
        for (index, body) in self.event_types.into_iter().flatten().enumerate() {
            match body.checked(now) {
                Ok(new) => event_types.push(ImportedEventType { patch: event_type::replacement(&new), new }),
                Err(ApiError::Invalid(found)) => problems.extend(found.into_iter().map(|mut problem| {
                    let place = ["eventTypes".into(), format!("[{index}]").into()];
                    problem.loc.splice(1..1, place);
                    problem
                })),
                Err(error) => return Err(error),
            }
        }
        if !problems.is_empty() {
            return Err(ApiError::Invalid(problems));
        }
        Ok(Import { event_types, archive_others: false, settings: self.settings.unwrap_or_default().into() })
    }
}
