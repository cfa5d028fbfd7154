//! Event types on the wire (rest-contract §6).
//!
//! Clients of different ages name the feature flag of a type `featureFlag` (a text) or `featureFlags` (a list). A type
//! has at most one, so a list with more is refused rather than cut.

use postrider_domain::event_type::{EventType, EventTypePatch, Schemas};
use postrider_domain::names::{EventTypeName, NameError};
use postrider_domain::time::Timestamp;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::json::{nullable, present};
use crate::rules::Problems;

/// What creates or replaces an event type. `N` is its name.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventTypeBody<N> {
    name: N,
    description: String,
    #[serde(default)]
    archived: bool,
    #[serde(default)]
    deprecated: bool,
    schemas: Option<Schemas>,
    feature_flag: Option<String>,
    feature_flags: Option<Vec<String>>,
    group_name: Option<String>,
}

/// What creates an event type.
pub(crate) type EventTypeIn = EventTypeBody<String>;

/// What replaces an event type: its name is in the path, and one in the body is ignored.
pub(crate) type EventTypeUpdate = EventTypeBody<Option<IgnoredAny>>;

impl EventTypeIn {
    /// Checks a body.
    pub(crate) fn checked(self, now: Timestamp) -> Result<EventType> {
        let mut problems = Problems::of_body();
        let name = problems.check("name", EventTypeName::parse(&self.name));
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
        let Self { name: _, description, archived, deprecated, schemas, feature_flag, feature_flags, group_name } =
            self;
        problems.prose("description", &description, 0);
        if let Some(schemas) = &schemas {
            check_schemas(&mut problems, schemas);
        }
        let feature_flag = check_flag(&mut problems, feature_flag, feature_flags);
        if let Some(group_name) = &group_name {
            problems.prose("groupName", group_name, 0);
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
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventTypePatchIn {
    #[serde(default, deserialize_with = "present")]
    description: Option<String>,
    #[serde(default, deserialize_with = "present")]
    archived: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    deprecated: Option<bool>,
    #[serde(default, deserialize_with = "nullable")]
    schemas: Option<Option<Schemas>>,
    #[serde(default, deserialize_with = "nullable")]
    feature_flag: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    feature_flags: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "nullable")]
    group_name: Option<Option<String>>,
}

impl EventTypePatchIn {
    /// Checks a body.
    pub(crate) fn checked(self) -> Result<EventTypePatch> {
        let mut problems = Problems::of_body();
        if let Some(description) = &self.description {
            problems.prose("description", description, 0);
        }
        if let Some(Some(schemas)) = &self.schemas {
            check_schemas(&mut problems, schemas);
        }
        let names_flag = self.feature_flag.is_some() || self.feature_flags.is_some();
        let flag = check_flag(&mut problems, self.feature_flag.flatten(), self.feature_flags.flatten());
        if let Some(Some(group_name)) = &self.group_name {
            problems.prose("groupName", group_name, 0);
        }
        problems.finish(Some(EventTypePatch {
            description: self.description,
            archived: self.archived,
            deprecated: self.deprecated,
            schemas: self.schemas,
            feature_flag: names_flag.then_some(flag),
            group_name: self.group_name,
        }))
    }
}

fn check_schemas(problems: &mut Problems, schemas: &Schemas) {
    problems.within("schemas", |problems| {
        for (version, text) in schemas {
            problems.check(version.clone(), postrider_ingest::check_schema(text.get()));
        }
    });
}

fn check_flag(problems: &mut Problems, flag: Option<String>, flags: Option<Vec<String>>) -> Option<String> {
    let mut flags: Vec<_> = flag.into_iter().chain(flags.into_iter().flatten()).collect();
    flags.dedup();
    if flags.len() > 1 {
        problems.add("featureFlags", "must have at most one element");
    }
    let flag = flags.pop()?;
    // Flags are written by the same rule as names.
    let legal: Result<_, NameError> = EventTypeName::parse(&flag).map(|_| flag);
    problems.check("featureFlag", legal)
}

/// An event type as it is shown.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventTypeOut<'a> {
    name: &'a EventTypeName,
    description: &'a str,
    archived: bool,
    deprecated: bool,
    schemas: Option<&'a Schemas>,
    feature_flag: Option<&'a str>,
    feature_flags: &'a [String],
    group_name: Option<&'a str>,
    created_at: Timestamp,
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
            feature_flag: event_type.feature_flag.as_deref(),
            feature_flags: event_type.feature_flag.as_slice(),
            group_name: event_type.group_name.as_deref(),
            created_at: event_type.created_at,
            updated_at: event_type.updated_at,
        }
    }
}
