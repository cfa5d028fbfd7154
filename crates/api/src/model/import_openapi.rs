//! The import of an OpenAPI document on the wire.

use postrider_domain::event_type::{EventType, MAX_GROUP_NAME, Schemas};
use postrider_domain::names::EventTypeName;
use postrider_domain::time::Timestamp;
use postrider_store::Import;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::model::environment::MAX_IMPORTED;
use crate::openapi::types::{DocumentText, Object, Prose, SchemasByVersion};
use crate::webhooks::{self, Document};

/// An OpenAPI document to import: either `spec` or `specRaw`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EventTypeImportOpenApiIn")]
pub(crate) struct ImportIn {
    /// Only say what would be done.
    dry_run: Option<bool>,
    /// Archive the event types that the document does not have.
    replace_all: Option<bool>,
    /// The document.
    #[schemars(with = "Option<Object>")]
    spec: Option<Value>,
    /// The document as a text of YAML or JSON.
    #[schemars(with = "Option<DocumentText>")]
    spec_raw: Option<String>,
}

impl ImportIn {
    /// Checks a body: what to import, and whether only to say what that would do.
    pub(crate) fn checked(self, now: Timestamp) -> Result<(Import, bool)> {
        let (member, spec) = match (self.spec, self.spec_raw) {
            (Some(spec), None) => ("spec", spec),
            (None, Some(text)) => {
                let invalid = |problem| ApiError::invalid(&["body", "specRaw"], problem);
                ("specRaw", webhooks::yaml(&text).map_err(invalid)?)
            }
            _ => return Err(ApiError::bad_request("give either `spec` or `specRaw`")),
        };
        let event_types = webhooks::event_types(&Document::new(spec, member)?, member, now)?;
        let archive_others = self.replace_all.unwrap_or_default();
        let import = Import { event_types, archive_others, ..Import::default() };
        Ok((import, self.dry_run.unwrap_or_default()))
    }
}

/// What an import did.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EventTypeImportOpenApiOut")]
pub(crate) struct ImportOut<'a> {
    /// What it did.
    data: ImportData<'a>,
}

/// The names of the event types that were, or would be, added, changed or archived.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EventTypeImportOpenApiOutData")]
struct ImportData<'a> {
    /// Their names.
    #[schemars(length(max = MAX_IMPORTED))]
    modified: &'a [EventTypeName],
    /// What they would be, if nothing was done.
    // Written with a low line, as clients expect it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_IMPORTED))]
    to_modify: Option<Vec<ImportedOut<'a>>>,
}

/// An event type as the document has it.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EventTypeFromOpenApi")]
struct ImportedOut<'a> {
    /// Its name.
    name: &'a EventTypeName,
    /// What it is for.
    #[schemars(with = "Prose")]
    description: &'a str,
    /// JSON Schemas by version.
    #[schemars(with = "Option<SchemasByVersion>")]
    schemas: Option<&'a Schemas>,
    /// Whether it should not be used any more.
    deprecated: bool,
    /// The group under which it is shown.
    #[schemars(with = "Option<Prose>", length(max = MAX_GROUP_NAME))]
    group_name: Option<&'a str>,
}

impl<'a> ImportOut<'a> {
    /// After an import.
    pub(crate) fn done(modified: &'a [EventTypeName]) -> Self {
        Self { data: ImportData { modified, to_modify: None } }
    }

    /// Instead of one.
    pub(crate) fn tried(modified: &'a [EventTypeName], to_modify: &[&'a EventType]) -> Self {
        let shown = |event_type: &&'a EventType| ImportedOut {
            name: &event_type.name,
            description: &event_type.description,
            schemas: event_type.schemas.as_ref(),
            deprecated: event_type.deprecated,
            group_name: event_type.group_name.as_deref(),
        };
        Self { data: ImportData { modified, to_modify: Some(to_modify.iter().map(shown).collect()) } }
    }
}
