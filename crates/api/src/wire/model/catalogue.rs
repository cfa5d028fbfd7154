//! The public catalogue on the wire: what receivers need to know of the event types of an environment.

use postrider_domain::event_type::{EventType, MAX_GROUP_NAME, Schemas};
use postrider_domain::names::EventTypeName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::wire::schema::{Prose, SchemasByVersion};

/// The event types that an environment has published.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CatalogueOut<'a> {
    /// By name. Archived ones, and those with a feature flag, are left out.
    #[schemars(extend("x-unbounded" = "all event types that there are"))]
    event_types: Vec<CatalogueEntry<'a>>,
}

/// An event type in a catalogue.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct CatalogueEntry<'a> {
    /// Its name.
    name: &'a EventTypeName,
    /// What it is for.
    #[schemars(with = "Prose")]
    description: &'a str,
    /// The group under which it is shown.
    #[schemars(with = "Option<Prose>", length(max = MAX_GROUP_NAME))]
    group_name: Option<&'a str>,
    /// Whether it should not be used any more.
    deprecated: bool,
    /// JSON Schemas by version.
    #[schemars(with = "Option<SchemasByVersion>")]
    schemas: Option<&'a Schemas>,
    /// The examples of the newest schema.
    #[schemars(with = "Vec<serde_json::Value>", extend("x-unbounded" = "what the schema has"))]
    examples: Vec<&'a RawValue>,
}

impl<'a> CatalogueOut<'a> {
    pub(crate) fn new(event_types: &'a [EventType]) -> Self {
        let entry = |event_type: &'a EventType| CatalogueEntry {
            name: &event_type.name,
            description: &event_type.description,
            group_name: event_type.group_name.as_deref(),
            deprecated: event_type.deprecated,
            schemas: event_type.schemas.as_ref(),
            examples: examples(event_type),
        };
        Self { event_types: event_types.iter().map(entry).collect() }
    }
}

/// The examples of the newest schema.
fn examples(event_type: &EventType) -> Vec<&RawValue> {
    #[derive(Deserialize)]
    struct Examples<'a> {
        #[serde(borrow, default)]
        examples: Vec<&'a RawValue>,
    }
    // A schema may also be `true` or `false`, which has none.
    let schema = event_type.newest_schema().and_then(|schema| serde_json::from_str::<Examples<'_>>(schema.get()).ok());
    schema.map(|schema| schema.examples).unwrap_or_default()
}
