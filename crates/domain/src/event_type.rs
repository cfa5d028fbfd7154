//! Event types: named kinds of event, with optional JSON Schemas per version.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::names::EventTypeName;
use crate::time::Timestamp;

/// JSON Schemas by version, kept as the text that came in.
pub type Schemas = BTreeMap<String, Box<RawValue>>;

/// A named kind of event of one environment.
#[derive(Debug, Clone)]
pub struct EventType {
    /// Its name, unique in the environment.
    pub name: EventTypeName,
    /// What it means, for people. May be empty.
    pub description: String,
    /// Archived types are hidden, but messages may still use them.
    pub archived: bool,
    /// Deprecated types are shown as such.
    pub deprecated: bool,
    /// Schemas by version; `None` if never set.
    pub schemas: Option<Schemas>,
    /// Only application tokens that carry this flag see the type.
    pub feature_flag: Option<String>,
    /// The group it is shown in.
    pub group_name: Option<String>,
    /// When it was first made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// Changes to an event type. `None` leaves a member as it is; a full replacement sets every member.
#[derive(Debug, Clone, Default)]
pub struct EventTypePatch {
    /// See [`EventType::description`].
    pub description: Option<String>,
    /// See [`EventType::archived`].
    pub archived: Option<bool>,
    /// See [`EventType::deprecated`].
    pub deprecated: Option<bool>,
    /// See [`EventType::schemas`].
    pub schemas: Option<Option<Schemas>>,
    /// See [`EventType::feature_flag`].
    pub feature_flag: Option<Option<String>>,
    /// See [`EventType::group_name`].
    pub group_name: Option<Option<String>>,
}

impl EventTypePatch {
    /// Applies the changes. Dates are the caller's business.
    pub fn apply(self, to: &mut EventType) {
        let Self { description, archived, deprecated, schemas, feature_flag, group_name } = self;
        set(&mut to.description, description);
        set(&mut to.archived, archived);
        set(&mut to.deprecated, deprecated);
        set(&mut to.schemas, schemas);
        set(&mut to.feature_flag, feature_flag);
        set(&mut to.group_name, group_name);
    }
}

/// Replaces `member` if there is a new value.
pub(crate) fn set<T>(member: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *member = value;
    }
}
