//! The public catalogue on the wire: what receivers need to know of the event types of an environment.

use postrider_domain::event_type::{EventType, Schemas};
use postrider_domain::names::EventTypeName;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A catalogue.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CatalogueOut<'a> {
    event_types: Vec<CatalogueEntry<'a>>,
}

/// An event type in a catalogue.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CatalogueEntry<'a> {
    name: &'a EventTypeName,
    description: &'a str,
    group_name: Option<&'a str>,
    deprecated: bool,
    schemas: Option<&'a Schemas>,
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
