//! Event types on the wire (rest-contract §6).
//!
//! Clients of different ages name the feature flag of a type `featureFlag` (a text) or `featureFlags` (a list). A type
//! has at most one, so a list with more is refused rather than cut.

use postrider_domain::event_type::{
    EventType, EventTypePatch, MAX_EVENT_TYPE_DESCRIPTION, MAX_GROUP_NAME, MAX_SCHEMA_VERSIONS, MAX_SCHEMAS_BYTES,
    MAX_VERSION_NAME, Schemas,
};
use postrider_domain::message::MAX_BODY_BYTES;
use postrider_domain::names::EventTypeName;
use postrider_domain::time::Timestamp;
use schemars::{JsonSchema, Schema};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::wire::decode::{nullable, present};
use crate::wire::error::Result;
use crate::wire::quirks::{FlagIn, FlagOut, FlagPatch};
use crate::wire::rules::Problems;
use crate::wire::schema::{Prose, SchemasByVersion};

/// What creates or replaces an event type.
// `N` is its name, in the body or not.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EventType{N}", transform = name_of_any_type_is_optional)]
pub(crate) struct EventTypeBody<N> {
    /// Its name.
    name: N,
    /// What it is for, for people.
    #[schemars(with = "Prose")]
    description: String,
    /// Whether it is archived: no endpoint can ask for it, and lists leave it out.
    #[serde(default)]
    archived: bool,
    /// Whether it should not be used any more. Nothing depends on it.
    #[serde(default)]
    deprecated: bool,
    /// JSON Schemas of draft 7 by version.
    #[schemars(with = "Option<SchemasByVersion>")]
    schemas: Option<Schemas>,
    #[serde(flatten)]
    flag: FlagIn,
    /// The group under which it is shown.
    #[schemars(with = "Option<Prose>", length(max = MAX_GROUP_NAME))]
    group_name: Option<String>,
}

/// A name that is ignored need not be there.
fn name_of_any_type_is_optional(schema: &mut Schema) {
    let is_judged = schema.pointer("/properties/name/type").is_some();
    if let (false, Some(Value::Array(required))) = (is_judged, schema.get_mut("required")) {
        required.retain(|member| member != "name");
    }
}

/// The name in a body that creates an event type.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(rename = "In", inline)]
pub(crate) struct Named(#[schemars(with = "EventTypeName")] String);

/// The place of a name in a body that replaces one.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(rename = "Update", inline)]
pub(crate) struct Unnamed(
    #[schemars(with = "Option<Value>", extend("x-max-bytes" = MAX_BODY_BYTES))]
    #[expect(dead_code, reason = "what stands there is ignored")]
    Option<IgnoredAny>,
);

/// What creates an event type.
pub(crate) type EventTypeIn = EventTypeBody<Named>;

/// What replaces an event type: its name is in the path, and one in the body is ignored.
pub(crate) type EventTypeUpdate = EventTypeBody<Unnamed>;

impl EventTypeIn {
    /// Checks a body. Whether its schemas are schemas is left to be checked.
    pub(crate) fn checked(self, now: Timestamp) -> Result<EventType> {
        let mut problems = Problems::of_body();
        let name = problems.check("name", EventTypeName::parse(&self.name.0));
        self.check(problems, name, now)
    }
}

impl EventTypeUpdate {
    /// Checks a body for the event type of this name.
    pub(crate) fn checked(self, name: EventTypeName, now: Timestamp) -> Result<EventType> {
        self.check(Problems::of_body(), Some(name), now)
    }
}

impl<N> EventTypeBody<N> {
    fn check(self, mut problems: Problems, name: Option<EventTypeName>, now: Timestamp) -> Result<EventType> {
        let Self { name: _, description, archived, deprecated, schemas, flag, group_name } = self;
        problems.prose("description", &description, 0..=MAX_EVENT_TYPE_DESCRIPTION);
        if let Some(schemas) = &schemas {
            sizes(&mut problems, schemas);
        }
        let feature_flag = flag.checked(&mut problems);
        if let Some(group_name) = &group_name {
            problems.prose("groupName", group_name, 0..=MAX_GROUP_NAME);
        }
        problems.finish(name.map(|name| EventType {
            name,
            description,
            archived,
            deprecated,
            schemas,
            feature_flag,
            group_name,
            created_at: now,
            updated_at: now,
        }))
    }
}

/// The changes that make an event type the same as this.
pub(crate) fn replacement(event_type: &EventType) -> EventTypePatch {
    EventTypePatch {
        description: Some(event_type.description.clone()),
        archived: Some(event_type.archived),
        deprecated: Some(event_type.deprecated),
        schemas: Some(event_type.schemas.clone()),
        feature_flag: Some(event_type.feature_flag.clone()),
        group_name: Some(event_type.group_name.clone()),
    }
}

/// What changes an event type.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EventTypePatch")]
pub(crate) struct EventTypePatchIn {
    /// What it is for, for people.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "Prose")]
    description: Option<String>,
    /// Whether it is archived.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "bool")]
    archived: Option<bool>,
    /// Whether it should not be used any more.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "bool")]
    deprecated: Option<bool>,
    /// JSON Schemas of draft 7 by version, which replace all that there are. Null removes them.
    #[serde(default, deserialize_with = "nullable")]
    #[schemars(with = "Option<SchemasByVersion>")]
    schemas: Option<Option<Schemas>>,
    #[serde(flatten)]
    flag: FlagPatch,
    /// The group under which it is shown. Null removes it.
    #[serde(default, deserialize_with = "nullable")]
    #[schemars(with = "Option<Prose>", length(max = MAX_GROUP_NAME))]
    group_name: Option<Option<String>>,
}

impl EventTypePatchIn {
    /// Checks a body.
    pub(crate) fn checked(self) -> Result<EventTypePatch> {
        let mut problems = Problems::of_body();
        if let Some(description) = &self.description {
            problems.prose("description", description, 0..=MAX_EVENT_TYPE_DESCRIPTION);
        }
        if let Some(Some(schemas)) = &self.schemas {
            sizes(&mut problems, schemas);
        }
        let feature_flag = self.flag.checked(&mut problems);
        if let Some(Some(group_name)) = &self.group_name {
            problems.prose("groupName", group_name, 0..=MAX_GROUP_NAME);
        }
        problems.finish(Some(EventTypePatch {
            description: self.description,
            archived: self.archived,
            deprecated: self.deprecated,
            schemas: self.schemas,
            feature_flag,
            group_name: self.group_name,
        }))
    }
}

/// Checks how many and how large the schemas in the member `schemas` are.
fn sizes(problems: &mut Problems, schemas: &Schemas) {
    if let Err(problem) = check_sizes(schemas) {
        problems.add("schemas", problem);
    }
}

/// Checks how many schemas there are, how large they are together, and how long the names of their versions are.
pub(crate) fn check_sizes(schemas: &Schemas) -> Result<(), String> {
    if schemas.len() > MAX_SCHEMA_VERSIONS {
        return Err(format!("must have at most {MAX_SCHEMA_VERSIONS} versions"));
    }
    if schemas.keys().any(|version| version.chars().count() > MAX_VERSION_NAME) {
        return Err(format!("must have versions with names of at most {MAX_VERSION_NAME} characters"));
    }
    if schemas.values().map(|schema| schema.get().len()).sum::<usize>() > MAX_SCHEMAS_BYTES {
        return Err(format!("must come to at most {MAX_SCHEMAS_BYTES} bytes"));
    }
    Ok(())
}

/// An event type as it is shown.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventTypeOut<'a> {
    /// Its name.
    name: &'a EventTypeName,
    /// What it is for, for people.
    #[schemars(with = "Prose")]
    description: &'a str,
    /// Whether it is archived.
    archived: bool,
    /// Whether it should not be used any more.
    deprecated: bool,
    /// JSON Schemas by version; null if there are none, or if they were not asked for.
    #[schemars(with = "Option<SchemasByVersion>")]
    schemas: Option<&'a Schemas>,
    #[serde(flatten)]
    flag: FlagOut<'a>,
    /// The group under which it is shown.
    #[schemars(with = "Option<Prose>", length(max = MAX_GROUP_NAME))]
    group_name: Option<&'a str>,
    /// When it was made.
    created_at: Timestamp,
    /// When it was last changed.
    updated_at: Timestamp,
}

impl<'a> From<&'a EventType> for EventTypeOut<'a> {
    fn from(event_type: &'a EventType) -> Self {
        Self {
            name: &event_type.name,
            description: &event_type.description,
            archived: event_type.archived,
            deprecated: event_type.deprecated,
            schemas: event_type.schemas.as_ref(),
            flag: FlagOut::from(&event_type.feature_flag),
            group_name: event_type.group_name.as_deref(),
            created_at: event_type.created_at,
            updated_at: event_type.updated_at,
        }
    }
}
