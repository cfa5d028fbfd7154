//! Names that callers choose: uids, event type names and channels. Each is checked in its constructor, so a value of
//! these types is always legal, and never holds CR, LF, NUL or anything else that could break out of a header or a query.

use std::fmt;

use crate::ids::{Id, MessageId};

crate::limits! {
    in "Names";
    /// A uid, an event id, the name of an event type, a channel
    pub const MAX_NAME_BYTES: usize = 256, "characters", beyond "422";
}

/// Why a name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty or longer than [`MAX_NAME_BYTES`].
    #[error("must be 1 to {MAX_NAME_BYTES} characters long")]
    Length,
    /// It has a character outside `[a-zA-Z0-9\-_.]`.
    #[error("may only contain letters, digits, '-', '_' and '.'")]
    Character,
    /// It is a step in a path: a client that normalises its URL would address what is above.
    #[error("must not be '.' or '..', which clients take for steps in a path")]
    Step,
    /// A uid that begins like an id could be mistaken for one.
    #[error("must not begin with '{0}', which is how ids begin")]
    Prefix(&'static str),
    /// A path of the API ends like this where a name may stand, so it would not be found by this name.
    #[error("must not be '{0}', which is a path of the API")]
    Path(&'static str),
}

/// What stands in paths of the API where the `eventId` of a message may stand.
const MESSAGE_PATHS: [&str; 3] = ["batch", "bulk-expunge", "expunge-all-contents"];

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > MAX_NAME_BYTES {
        return Err(NameError::Length);
    }
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
        return Err(NameError::Character);
    }
    if is_step(text) {
        return Err(NameError::Step);
    }
    Ok(())
}

/// Whether a part of a path is a step in it rather than a name: clients and proxies resolve it before they send the path.
pub fn is_step(text: &str) -> bool {
    matches!(text, "." | "..")
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// A value that a store kept, which was checked when it was first taken.
            pub fn from_trusted(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

name!(
    /// An identifier that the caller chose for an application, an endpoint or a message (there called `eventId`).
    Uid
);
name!(
    /// The name of an event type.
    EventTypeName
);
name!(
    /// A channel that a message is sent on and an endpoint may listen to.
    Channel
);
name!(
    /// A tag of a message, by which lists can be filtered. Endpoints know nothing of it.
    Tag
);

impl Uid {
    /// Checks a uid of something whose ids are of kind `I` (rest-contract §1.5).
    pub fn parse<I: Id>(text: &str) -> Result<Self, NameError> {
        check(text)?;
        if text.starts_with(I::PREFIX) {
            return Err(NameError::Prefix(I::PREFIX));
        }
        if I::PREFIX == MessageId::PREFIX
            && let Some(path) = MESSAGE_PATHS.into_iter().find(|path| *path == text)
        {
            return Err(NameError::Path(path));
        }
        Ok(Self(text.into()))
    }
}

impl EventTypeName {
    /// Checks the name of an event type.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text).map(|()| Self(text.into()))
    }
}

impl Channel {
    /// Checks the name of a channel.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text).map(|()| Self(text.into()))
    }
}

impl Tag {
    /// Checks a tag.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text).map(|()| Self(text.into()))
    }
}

/// What a path parameter may hold: an id or the caller's own identifier. It is looked up, never validated: a text of an
/// illegal form simply names nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum IdOrUid<I> {
    /// The text is an id.
    Id(I),
    /// Anything else.
    Uid(Box<str>),
}

impl<I: Id> IdOrUid<I> {
    /// Reads a path parameter.
    pub fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Uid(text.into()), Self::Id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ApplicationId, EndpointId};

    #[test]
    fn control_characters_never_get_into_a_name() {
        for text in ["a\r\nb", "a\0", "a b", "ä", "", &"x".repeat(257)] {
            assert!(EventTypeName::parse(text).is_err(), "{text:?}");
            assert!(Channel::parse(text).is_err(), "{text:?}");
            assert!(Uid::parse::<MessageId>(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_step_in_a_path_is_no_name() {
        for text in [".", ".."] {
            assert_eq!(EventTypeName::parse(text), Err(NameError::Step));
            assert_eq!(Channel::parse(text), Err(NameError::Step));
            assert_eq!(Tag::parse(text), Err(NameError::Step));
            assert_eq!(Uid::parse::<MessageId>(text), Err(NameError::Step));
        }
        for text in ["...", "a.", ".a", "..a", "-"] {
            assert!(Uid::parse::<MessageId>(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn no_name_is_hidden_by_a_path_of_the_api() {
        let document = include_str!("../../../docs/openapi.json");
        let document: serde_json::Value = serde_json::from_str(document).unwrap();
        let paths: Vec<Vec<&str>> =
            document["paths"].as_object().unwrap().keys().map(|path| path.split('/').collect()).collect();
        let fits = |path: &[&str], template: &[&str]| {
            path.len() == template.len()
                && path.iter().zip(template).all(|(part, wanted)| part == wanted || wanted.starts_with('{'))
        };
        let mut hidden = Vec::new();
        for path in &paths {
            for template in paths.iter().filter(|template| *template != path && fits(path, template)) {
                let named = template.iter().zip(path).filter(|(name, part)| name.starts_with('{') && name != part);
                hidden.extend(named.map(|(name, part)| (*name, *part)));
            }
        }
        assert!(hidden.contains(&("{msg_id}", "batch")), "{hidden:?}");
        for (name, part) in hidden {
            let taken = match name {
                "{msg_id}" => Uid::parse::<MessageId>(part).is_ok(),
                "{app_id}" => Uid::parse::<ApplicationId>(part).is_ok(),
                "{endpoint_id}" => Uid::parse::<EndpointId>(part).is_ok(),
                "{event_type_name}" => EventTypeName::parse(part).is_ok(),
                _ => false,
            };
            assert!(!taken, "{name} may be {part}");
        }
    }

    #[test]
    fn a_uid_must_not_look_like_an_id_of_its_kind() {
        assert_eq!(Uid::parse::<ApplicationId>("app_1"), Err(NameError::Prefix("app_")));
        assert!(Uid::parse::<MessageId>("app_1").is_ok());
    }
}
