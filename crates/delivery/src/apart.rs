//! Who has HTTP/2 connections of his own at an origin for a while, because what a receiver sent for a request of his ended one that others
//! use, too.
//!
//! First that is the application. Whoever runs an environment can have as many of them as he likes; so where several of one environment
//! are apart, the others of it share connections among themselves, and with no other environment. That holds for as long as it goes on.
//!
//! All that is remembered is bounded, and whoever has most of it forgets first: nobody can have others' misdeeds forgotten.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use postrider_domain::time::Timestamp;
use postrider_store::{ApplicationKey, EnvironmentKey};

use crate::holders::Owner;
use crate::origin::Origin;
use crate::ranks::Ranks;

postrider_domain::limits! {
    in "Receivers over HTTP/2";
    /// Applications that have connections of their own at an origin for ten minutes, because what a receiver sent for a request of theirs ended one that others use, too
    pub(crate) const MAX_APART: usize = 1_024, "applications", beyond "of the environment that has most, and of that one's application that has most, the one that was set apart longest ago shares connections again";
    /// Of these, at one origin, so many of one environment
    pub(crate) const APART_OF_ENVIRONMENT: usize = 4, "applications", beyond "others of that environment, too, share connections there with no other environment";
}

/// How long an application has connections of its own at an origin where it ended one that was shared.
const APART: Duration = Duration::from_secs(600);

/// What one takes: the name of a host, which has 253 bytes, and its places in tables and orders, which are half empty when they have just grown.
pub(crate) const APART_BYTES: u64 = 2 * postrider_domain::memory::KIB;

/// With whom an application shares connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Circle {
    /// With everybody who is not apart.
    All,
    /// With those of its environment who are not apart.
    Environment(EnvironmentKey),
    /// With nobody.
    Application(Owner),
}

/// Who is apart, and where.
#[derive(Debug, Default)]
pub(crate) struct Apart {
    /// By number.
    entries: BTreeMap<u64, Entry>,
    /// The numbers.
    places: HashMap<Arc<Origin>, HashMap<EnvironmentKey, HashMap<ApplicationKey, u64>>>,
    ranks: Ranks,
    /// Rises with every entry, as their ends do.
    next: u64,
}

#[derive(Debug)]
struct Entry {
    origin: Arc<Origin>,
    owner: Owner,
    until: Timestamp,
}

impl Apart {
    /// With whom an application shares connections to an origin.
    pub(crate) fn circle(&self, origin: &Origin, owner: Owner) -> Circle {
        if self.entries.is_empty() {
            return Circle::All;
        }
        let of_environment = self.places.get(origin).and_then(|environments| environments.get(&owner.environment));
        match of_environment {
            Some(applications) if applications.contains_key(&owner.application) => Circle::Application(owner),
            Some(applications) if applications.len() >= APART_OF_ENVIRONMENT => Circle::Environment(owner.environment),
            _ => Circle::All,
        }
    }

    /// What a receiver sent for a request of this application ended a connection to the origin, which others used, too, or not. Whoever is
    /// apart already stays so for longer.
    pub(crate) fn note(&mut self, origin: &Arc<Origin>, owner: Owner, was_shared: bool, now: Timestamp) {
        self.expire(now);
        match self.number(origin, owner) {
            Some(number) => self.remove(number),
            None if was_shared => {}
            None => return,
        }
        let number = self.next;
        self.next += 1;
        let (origin, until) = (Arc::clone(origin), now.saturating_add(APART));
        let environments = self.places.entry(Arc::clone(&origin)).or_default();
        environments.entry(owner.environment).or_default().insert(owner.application, number);
        self.entries.insert(number, Entry { origin, owner, until });
        self.ranks.insert(owner, number);
        if self.entries.len() > MAX_APART
            && let Some((_, first)) = self.ranks.first_to_go()
        {
            self.remove(first);
        }
    }

    /// Forgets who was apart for long enough.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        while let Some((number, entry)) = self.entries.first_key_value()
            && entry.until <= now
        {
            self.remove(*number);
        }
    }

    fn number(&self, origin: &Origin, owner: Owner) -> Option<u64> {
        self.places.get(origin)?.get(&owner.environment)?.get(&owner.application).copied()
    }

    fn remove(&mut self, number: u64) {
        let Some(Entry { origin, owner, .. }) = self.entries.remove(&number) else { return };
        self.ranks.remove(owner, number);
        let Some(environments) = self.places.get_mut(&origin) else { return };
        if let Some(applications) = environments.get_mut(&owner.environment) {
            applications.remove(&owner.application);
            if applications.is_empty() {
                environments.remove(&owner.environment);
            }
        }
        if environments.is_empty() {
            self.places.remove(&origin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holders::owner;

    const NOW: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);

    fn origin(number: usize) -> Arc<Origin> {
        Arc::new(Origin { https: true, host: url::Host::Domain(format!("{number}.example")), port: 443 })
    }

    #[test]
    fn an_application_is_apart_where_it_ended_what_others_used_for_ten_minutes_and_for_longer_if_it_goes_on() {
        let (mut apart, here, one) = (Apart::default(), origin(1), owner(1, 1));
        apart.note(&here, one, false, NOW);
        assert_eq!(apart.circle(&here, one), Circle::All, "it was alone");
        apart.note(&here, one, true, NOW);
        assert_eq!(apart.circle(&here, one), Circle::Application(one));
        assert_eq!(apart.circle(&here, owner(1, 2)), Circle::All);
        assert_eq!(apart.circle(&origin(2), one), Circle::All);
        let later = NOW.saturating_add(APART / 2);
        apart.note(&here, one, false, later);
        apart.expire(NOW.saturating_add(APART));
        assert_eq!(apart.circle(&here, one), Circle::Application(one));
        apart.expire(later.saturating_add(APART));
        assert_eq!(apart.circle(&here, one), Circle::All);
        assert!(apart.entries.is_empty() && apart.places.is_empty() && apart.ranks.is_empty());
    }

    #[test]
    fn however_many_applications_an_environment_has_the_next_ones_end_nothing_of_other_environments() {
        let (mut apart, here) = (Apart::default(), origin(1));
        let mut ended = 0;
        for number in 0..10_000 {
            let next = owner(1, number);
            let shares = apart.circle(&here, next) == Circle::All;
            ended += usize::from(shares);
            // With others of its environment, at least.
            apart.note(&here, next, true, NOW);
        }
        assert_eq!(ended, APART_OF_ENVIRONMENT);
        assert_eq!(apart.circle(&here, owner(1, 0)), Circle::Environment(EnvironmentKey(1)), "it was long ago");
        assert_eq!(apart.circle(&here, owner(2, 20_000)), Circle::All);
        assert_eq!(apart.entries.len(), MAX_APART);
    }

    #[test]
    fn whoever_has_most_is_forgotten_first() {
        let (mut apart, other) = (Apart::default(), owner(2, 1));
        apart.note(&origin(0), other, true, NOW);
        for number in 0..2 * MAX_APART {
            apart.note(&origin(number), owner(1, 7), true, NOW);
        }
        assert_eq!(apart.entries.len(), MAX_APART);
        assert_eq!(apart.places.len(), MAX_APART);
        assert_eq!(apart.circle(&origin(0), other), Circle::Application(other));
        assert_eq!(apart.circle(&origin(0), owner(1, 7)), Circle::All);
    }
}
