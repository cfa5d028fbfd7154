//! Event types: named kinds of event, with optional JSON Schemas per version.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::names::EventTypeName;
use crate::time::Timestamp;

crate::limits! {
    in "Event types";
    /// The description of an event type
    pub const MAX_EVENT_TYPE_DESCRIPTION: usize = 4_096, "characters", beyond "422";
    /// The name of the group that an event type is shown in
    pub const MAX_GROUP_NAME: usize = 256, "characters", beyond "422";
    /// The schemas of an event type: its versions
    pub const MAX_SCHEMA_VERSIONS: usize = 100, "schemas", beyond "422";
    /// The name of a version
    pub const MAX_VERSION_NAME: usize = 64, "characters", beyond "422";
    /// All schemas of an event type together
    pub const MAX_SCHEMAS_BYTES: usize = 1024 * 1024, "bytes", beyond "422";
}

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

impl EventType {
    /// The schema of the newest version: versions are compared numerically, so "10" is newer than "9".
    pub fn newest_schema(&self) -> Option<&RawValue> {
        self.newest_version().map(|(_, schema)| schema)
    }

    /// The same with the name of its version.
    pub fn newest_version(&self) -> Option<(&str, &RawValue)> {
        let newest = self.schemas.iter().flatten().max_by(|a, b| compare_versions(a.0, b.0));
        newest.map(|(version, schema)| (version.as_str(), &**schema))
    }

    /// All schemas, that of the newest version first.
    pub fn newest_first(&self) -> Vec<&RawValue> {
        let mut schemas: Vec<_> = self.schemas.iter().flatten().collect();
        schemas.sort_by(|a, b| compare_versions(b.0, a.0));
        schemas.into_iter().map(|(_, schema)| &**schema).collect()
    }

    /// Whether a patch would change anything.
    pub fn is_changed_by(&self, patch: &EventTypePatch) -> bool {
        let EventTypePatch { description, archived, deprecated, schemas, feature_flag, group_name } = patch;
        differs(&self.description, description)
            || differs(&self.archived, archived)
            || differs(&self.deprecated, deprecated)
            || schemas.as_ref().is_some_and(|new| !same_schemas(self.schemas.as_ref(), new.as_ref()))
            || differs(&self.feature_flag, feature_flag)
            || differs(&self.group_name, group_name)
    }
}

fn differs<T: PartialEq>(now: &T, new: &Option<T>) -> bool {
    new.as_ref().is_some_and(|new| new != now)
}

fn same_schemas(a: Option<&Schemas>, b: Option<&Schemas>) -> bool {
    let texts = |schemas: Option<&Schemas>| {
        let texts =
            schemas.map(|schemas| schemas.iter().map(|(version, text)| (version.clone(), text.get().to_owned())));
        texts.map(Iterator::collect::<Vec<_>>)
    };
    texts(a) == texts(b)
}

/// Numbers in versions count as numbers, everything else as text: "9" < "10", "1.9" < "1.10", "v2" < "v10".
fn compare_versions(a: &str, b: &str) -> Ordering {
    let (mut rest_a, mut rest_b) = (a, b);
    while !rest_a.is_empty() && !rest_b.is_empty() {
        let (part_a, part_b) = (first_part(rest_a), first_part(rest_b));
        rest_a = &rest_a[part_a.len()..];
        rest_b = &rest_b[part_b.len()..];
        let order = match (number(part_a), number(part_b)) {
            // Without zeros in front, the longer number is the larger one.
            (Some(a), Some(b)) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
            _ => part_a.cmp(part_b),
        };
        if order.is_ne() {
            return order;
        }
    }
    rest_a.len().cmp(&rest_b.len()).then_with(|| a.cmp(b))
}

/// The digits, or the text without digits, that a version begins with.
fn first_part(version: &str) -> &str {
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let digits = version.as_bytes().first().is_some_and(is_digit);
    let len = version.bytes().take_while(|byte| is_digit(byte) == digits).count();
    &version[..len]
}

fn number(part: &str) -> Option<&str> {
    part.starts_with(|first: char| first.is_ascii_digit()).then(|| part.trim_start_matches('0'))
}

/// Replaces `member` if there is a new value.
pub(crate) fn set<T>(member: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *member = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schemas(versions: &[&str]) -> Schemas {
        let text = |version: &&str| RawValue::from_string(format!("\"{version}\"")).unwrap();
        versions.iter().map(|version| ((*version).to_owned(), text(version))).collect()
    }

    fn event_type(schemas: Option<Schemas>) -> EventType {
        EventType {
            name: EventTypeName::from_trusted("a".to_owned()),
            description: String::new(),
            archived: false,
            deprecated: false,
            schemas,
            feature_flag: None,
            group_name: None,
            created_at: Timestamp::from_micros(0),
            updated_at: Timestamp::from_micros(0),
        }
    }

    #[test]
    fn the_newest_version_is_the_highest_number() {
        for (versions, newest) in [
            (&["1", "2", "10"][..], "10"),
            (&["9", "010"], "010"),
            (&["1.9", "1.10", "1.2"], "1.10"),
            (&["v2", "v10", "v1"], "v10"),
            (&["2024-01-31", "2024-02-01"], "2024-02-01"),
            (&["1", "1-rc"], "1-rc"),
            (&["a", "b", "ä"], "ä"),
            (&["99999999999999999999999999", "100000000000000000000000000"], "100000000000000000000000000"),
            (&[""], ""),
        ] {
            let event_type = event_type(Some(schemas(versions)));
            assert_eq!(event_type.newest_schema().unwrap().get(), format!("\"{newest}\""));
        }
        assert!(event_type(Some(Schemas::new())).newest_schema().is_none());
        assert!(event_type(None).newest_schema().is_none());
    }

    #[test]
    fn a_patch_that_says_what_is_there_changes_nothing() {
        let now = event_type(Some(schemas(&["1"])));
        assert!(!now.is_changed_by(&EventTypePatch::default()));
        let same = EventTypePatch { schemas: Some(now.schemas.clone()), archived: Some(false), ..Default::default() };
        assert!(!now.is_changed_by(&same));
        for patch in [
            EventTypePatch { schemas: Some(None), ..Default::default() },
            EventTypePatch { schemas: Some(Some(schemas(&["2"]))), ..Default::default() },
            EventTypePatch { archived: Some(true), ..Default::default() },
            EventTypePatch { group_name: Some(Some("g".to_owned())), ..Default::default() },
        ] {
            assert!(now.is_changed_by(&patch), "{patch:?}");
        }
    }
}
