//! The import of an OpenAPI document on the wire.

use postrider_domain::event_type::{EventType, MAX_GROUP_NAME, Schemas};
use postrider_domain::names::EventTypeName;
use postrider_domain::time::Timestamp;
use postrider_store::Import;
use schemars::{JsonSchema, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::import::{self, Document, Webhook};
use crate::wire::error::{ApiError, Result};
use crate::wire::model::environment::{MAX_IMPORT_BYTES, MAX_IMPORTED};
use crate::wire::placed::Placed;
use crate::wire::schema::{Object, Prose, SchemasByVersion, members};

members! {
    /// A document as text.
    DocumentText => json_schema!({ "type": "string", "maxLength": MAX_IMPORT_BYTES });
}

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
    /// Checks a body. Whether schemas are schemas is left to be checked.
    pub(crate) fn checked(self, now: Timestamp) -> Result<Read> {
        let (member, spec) = match (self.spec, self.spec_raw) {
            (Some(spec), None) => ("spec", spec),
            (None, Some(text)) => {
                let invalid = |problem| ApiError::invalid(&["body", "specRaw"], problem);
                ("specRaw", import::yaml(&text).map_err(invalid)?)
            }
            _ => return Err(ApiError::bad_request("give either `spec` or `specRaw`")),
        };
        let webhooks = import::event_types(&Document::new(spec, member)?, member, now)?;
        let (replace_all, dry_run) = (self.replace_all.unwrap_or_default(), self.dry_run.unwrap_or_default());
        Ok(Read { webhooks, member, replace_all, dry_run })
    }
}

/// What a body asks for.
pub(crate) struct Read {
    webhooks: Vec<Webhook>,
    member: &'static str,
    replace_all: bool,
    /// Only to say what would be done.
    pub(crate) dry_run: bool,
}

impl Read {
    /// The schemas with their places.
    pub(crate) fn schemas(&self) -> Vec<Placed<'_>> {
        let mut placed = Vec::new();
        for Webhook { group, imported } in &self.webhooks {
            for schema in imported.new.schemas.iter().flat_map(Schemas::values) {
                let name = imported.new.name.to_string();
                let loc = vec!["body".into(), self.member.into(), (*group).into(), name.into()];
                placed.push(Placed { loc, text: schema.get() });
            }
        }
        placed
    }

    /// What to import.
    pub(crate) fn into_import(self) -> Import {
        let event_types = self.webhooks.into_iter().map(|webhook| webhook.imported).collect();
        Import { event_types, archive_others: self.replace_all, ..Import::default() }
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
    pub(crate) fn tried(modified: &'a [EventTypeName], to_modify: &'a [EventType]) -> Self {
        let shown = |event_type: &'a EventType| ImportedOut {
            name: &event_type.name,
            description: &event_type.description,
            schemas: event_type.schemas.as_ref(),
            deprecated: event_type.deprecated,
            group_name: event_type.group_name.as_deref(),
        };
        Self { data: ImportData { modified, to_modify: Some(to_modify.iter().map(shown).collect()) } }
    }
}
