//! What the operator of an environment decides for all of it: whether messages must match the schemas of their event
//! types, and whether the event types are published.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event_type::set;
use crate::time::Timestamp;

/// What happens to a message whose payload does not match the schema of its event type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SchemaEnforcement {
    /// Nobody looks.
    #[default]
    Off,
    /// It is accepted, and the answer says what does not match.
    Warn,
    /// It is refused.
    Reject,
}

impl SchemaEnforcement {
    /// The number by which it is stored.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// What a number stands for.
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Off, Self::Warn, Self::Reject].into_iter().find(|mode| mode.code() == code)
    }
}

/// What happens to a message whose event type the environment does not have, or has archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownEventTypes {
    /// It is accepted.
    #[default]
    Allow,
    /// It is refused.
    Reject,
}

impl UnknownEventTypes {
    /// The number by which it is stored.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// What a number stands for.
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Allow, Self::Reject].into_iter().find(|mode| mode.code() == code)
    }
}

/// What messages of an environment must be like, beyond what holds everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageRules {
    /// Whether payloads must match the schemas of their event types.
    pub schemas: SchemaEnforcement,
    /// Whether event types must be registered.
    pub unknown_event_types: UnknownEventTypes,
}

impl MessageRules {
    /// Whether every message passes, so that none has to be looked at.
    pub fn are_none(self) -> bool {
        self == Self::default()
    }
}

/// The settings of an environment. One that was never changed has the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EnvironmentSettings {
    /// What its messages must be like.
    pub rules: MessageRules,
    /// Whether everybody may read its event types.
    pub public_catalogue: bool,
    /// When they were first changed.
    pub created_at: Option<Timestamp>,
    /// When they were last changed.
    pub updated_at: Option<Timestamp>,
}

/// Changes to settings. `None` leaves a member as it is; a full replacement sets every member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EnvironmentSettingsPatch {
    /// See [`MessageRules::schemas`].
    pub schema_enforcement: Option<SchemaEnforcement>,
    /// See [`MessageRules::unknown_event_types`].
    pub unknown_event_types: Option<UnknownEventTypes>,
    /// See [`EnvironmentSettings::public_catalogue`].
    pub public_catalogue: Option<bool>,
}

impl EnvironmentSettingsPatch {
    /// Applies the changes at `now`. Nothing happens, not even to the dates, if there are none.
    pub fn apply(self, to: &mut EnvironmentSettings, now: Timestamp) {
        if self == Self::default() {
            return;
        }
        set(&mut to.rules.schemas, self.schema_enforcement);
        set(&mut to.rules.unknown_event_types, self.unknown_event_types);
        set(&mut to.public_catalogue, self.public_catalogue);
        to.created_at.get_or_insert(now);
        to.updated_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_for_what_they_were_made_of() {
        for mode in [SchemaEnforcement::Off, SchemaEnforcement::Warn, SchemaEnforcement::Reject] {
            assert_eq!(SchemaEnforcement::from_code(mode.code()), Some(mode));
        }
        for mode in [UnknownEventTypes::Allow, UnknownEventTypes::Reject] {
            assert_eq!(UnknownEventTypes::from_code(mode.code()), Some(mode));
        }
        assert_eq!((SchemaEnforcement::from_code(3), UnknownEventTypes::from_code(2)), (None, None));
    }

    #[test]
    fn settings_are_dated_by_their_first_and_last_change() {
        let (first, second) = (Timestamp::from_micros(1), Timestamp::from_micros(2));
        let mut settings = EnvironmentSettings::default();
        EnvironmentSettingsPatch::default().apply(&mut settings, first);
        assert_eq!(settings, EnvironmentSettings::default());
        let publish = EnvironmentSettingsPatch { public_catalogue: Some(true), ..Default::default() };
        publish.apply(&mut settings, first);
        publish.apply(&mut settings, second);
        assert_eq!((settings.created_at, settings.updated_at), (Some(first), Some(second)));
        assert!(settings.public_catalogue && settings.rules.are_none());
    }
}
