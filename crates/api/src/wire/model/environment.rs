//! Environments on the wire: their settings, and the document by which event types and settings are moved from one
//! environment to another.

use postrider_domain::environment::{
    EnvironmentSettings, EnvironmentSettingsPatch, SchemaEnforcement, UnknownEventTypes,
};
use postrider_domain::event_type::EventType;
use postrider_domain::memory::MIB;
use postrider_domain::time::Timestamp;
use postrider_store::{Import, ImportedEventType};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wire::decode::{Few, object, present};
use crate::wire::error::{ApiError, Result};
use crate::wire::model::event_type::{self, EventTypeIn, EventTypeOut};
use crate::wire::placed::{self, Placed};
use crate::wire::problem::MAX_PROBLEMS;
use crate::wire::schema::Object;

postrider_domain::limits! {
    in "Imports";
    /// The body of an import
    pub(crate) const MAX_IMPORT_BYTES: usize = 8 * 1024 * 1024, "bytes", beyond "413";
    /// The values in the body of an import of event types and settings
    pub(crate) const MAX_IMPORT_VALUES: usize = 1_000_000, "values", beyond "422";
    /// The values in the body of an import of an OpenAPI document
    pub(crate) const MAX_DOCUMENT_VALUES: usize = 300_000, "values", beyond "422";
    /// The event types that one import brings
    pub(crate) const MAX_IMPORTED: usize = 10_000, "event types", beyond "422";
}

/// What reading one import takes in memory at most: its values, and what is made of them.
pub(crate) const IMPORT_MEMORY: u64 = 240 * MIB;

/// The settings of an environment.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EnvironmentSettingsOut")]
pub(crate) struct SettingsOut {
    /// What happens to a message whose payload does not match the schema of its event type.
    schema_enforcement: SchemaEnforcement,
    /// What happens to a message whose event type is not there, or archived.
    unknown_event_types: UnknownEventTypes,
    /// Whether everybody may read the catalogue of event types.
    public_catalogue: bool,
    /// When they were first changed.
    created_at: Option<Timestamp>,
    /// When they were last changed.
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
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EnvironmentSettingsIn")]
pub(crate) struct SettingsIn {
    /// What happens to a message whose payload does not match the schema of its event type.
    #[serde(default)]
    schema_enforcement: SchemaEnforcement,
    /// What happens to a message whose event type is not there, or archived.
    #[serde(default)]
    unknown_event_types: UnknownEventTypes,
    /// Whether everybody may read the catalogue of event types.
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

/// What changes settings: what is left out stays as it is.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EnvironmentSettingsPatch")]
pub(crate) struct SettingsPatchIn {
    /// What happens to a message whose payload does not match the schema of its event type.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "SchemaEnforcement")]
    schema_enforcement: Option<SchemaEnforcement>,
    /// What happens to a message whose event type is not there, or archived.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "UnknownEventTypes")]
    unknown_event_types: Option<UnknownEventTypes>,
    /// Whether everybody may read the catalogue of event types.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "bool")]
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
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EnvironmentOut<'a> {
    /// The version of this form.
    version: u8,
    /// When it was exported.
    created_at: Timestamp,
    /// All event types, also those that are archived.
    #[schemars(extend("x-unbounded" = "all event types that there are"))]
    event_types: Vec<EventTypeOut<'a>>,
    /// The settings.
    settings: SettingsOut,
    /// Always empty.
    #[schemars(with = "Vec<Object>", length(max = 0))]
    connectors: [(); 0],
}

impl<'a> EnvironmentOut<'a> {
    pub(crate) fn new(event_types: &'a [EventType], settings: EnvironmentSettings, now: Timestamp) -> Self {
        let event_types = event_types.iter().map(EventTypeOut::from).collect();
        Self { version: 1, created_at: now, event_types, settings: settings.into(), connectors: [] }
    }
}

/// An environment as it is imported: also one that another server exported, of whose settings only ours are read.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EnvironmentIn {
    /// Event types to add, or to replace if they are there.
    #[schemars(with = "Option<Vec<EventTypeIn>>", length(max = MAX_IMPORTED))]
    event_types: Option<Few<EventTypeIn, { MAX_IMPORTED + 1 }>>,
    /// Settings to change.
    #[serde(default, deserialize_with = "object")]
    settings: Option<SettingsPatchIn>,
}

impl EnvironmentIn {
    /// Checks a body. Whether its schemas are schemas is left to be checked.
    pub(crate) fn checked(self, now: Timestamp) -> Result<Import> {
        let (mut event_types, mut problems) = (Vec::new(), Vec::new());
        if self.event_types.as_ref().is_some_and(|Few(all)| all.len() > MAX_IMPORTED) {
            let msg = format!("must have at most {MAX_IMPORTED} elements");
            return Err(ApiError::invalid(&["body", "eventTypes"], msg));
        }
        for (index, body) in self.event_types.into_iter().flat_map(|Few(all)| all).enumerate() {
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
            problems.truncate(MAX_PROBLEMS);
            return Err(ApiError::Invalid(problems));
        }
        let settings = self.settings.unwrap_or_default().into();
        Ok(Import { event_types, settings, ..Import::default() })
    }
}

/// The schemas of an import, with their places in its body.
pub(crate) fn schemas(import: &Import) -> Vec<Placed<'_>> {
    let mut placed = Vec::new();
    for (index, imported) in import.event_types.iter().enumerate() {
        for mut one in placed::of_body(imported.new.schemas.as_ref()) {
            one.loc.splice(1..1, ["eventTypes".into(), format!("[{index}]").into()]);
            placed.push(one);
        }
    }
    placed
}
