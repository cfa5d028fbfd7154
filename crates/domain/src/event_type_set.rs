//! The event types that an endpoint asks for by name, as routing needs them: of each name a digest, in order.
//!
//! A name may have 256 characters, and an application a million of them, in a thousand endpoints: as texts, those are a quarter
//! of a gigabyte, as digests 16 MB. No two names are known that have the same one.

use std::borrow::Cow;

use crate::names::EventTypeName;

/// What a name is known by here: the first half of its SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventTypeDigest([u8; 16]);

impl EventTypeDigest {
    /// That of a name.
    pub fn of(name: &EventTypeName) -> Self {
        Self::of_text(name.as_str())
    }

    fn of_text(name: &str) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
        let mut half = [0; 16];
        half.copy_from_slice(&digest.as_ref()[..16]);
        Self(half)
    }
}

/// Names of event types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventTypeSet(Box<[EventTypeDigest]>);

impl EventTypeSet {
    /// These names, which were checked when they were first taken.
    pub fn of_trusted(names: &[Cow<'_, str>]) -> Self {
        let mut digests: Vec<_> = names.iter().map(|name| EventTypeDigest::of_text(name)).collect();
        digests.sort_unstable();
        Self(digests.into())
    }

    /// Whether this name is among them.
    pub fn has(&self, name: EventTypeDigest) -> bool {
        self.0.binary_search(&name).is_ok()
    }

    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_the_names_that_it_was_made_of_and_no_others() {
        let names: Vec<_> = (0..1_000).map(|number| format!("order.{number}")).collect();
        let set = EventTypeSet::of_trusted(&names.iter().map(|name| Cow::from(name.as_str())).collect::<Vec<_>>());
        let has = |name: &str| set.has(EventTypeDigest::of(&EventTypeName::parse(name).unwrap()));
        assert!(names.iter().all(|name| has(name)));
        assert!(!["order", "order.1000", "order.00", "Order.1"].into_iter().any(has));
        assert_eq!(set.bytes(), 16_000);
    }
}
