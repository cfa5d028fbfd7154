//! Who holds how much of something that is shared: applications, and the environments that they belong to.
//!
//! What is shared is shared among environments first: whoever runs one can make as many applications as he likes. So what is
//! taken is taken for an application together with its environment ([`Owner`]), from the first on. Of a lane that is not known
//! before its endpoint was read; until then what it has is nobody's, of which there is one share.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::{AddAssign, SubAssign};

use parking_lot::RwLock;
use postrider_store::{ApplicationKey, EnvironmentKey, Target};

/// An application, and the environment that it belongs to for as long as it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Owner {
    pub(crate) environment: EnvironmentKey,
    pub(crate) application: ApplicationKey,
}

impl Owner {
    /// Whose an endpoint is.
    pub(crate) fn of(target: &Target) -> Self {
        Self { environment: target.environment, application: target.application }
    }
}

/// Whose a lane is; `None` until that is known.
pub(crate) type Whose = Option<Owner>;

/// The environment of whoever that is.
pub(crate) fn environment_of(whose: Whose) -> Option<EnvironmentKey> {
    whose.map(|owner| owner.environment)
}

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

postrider_domain::limits! {
    in "Delivering";
    /// Applications of which it is remembered to which environment they belong
    pub(crate) const MAX_KNOWN: usize = 65_536, "applications", beyond "all are forgotten, and learned again with their messages; until then a change of an endpoint waits for its turn with those of whom that is not known";
}

/// Which environments applications belong to, as far as is known here: for those who tell of an endpoint by its application
/// alone. Whatever was taken knows by itself whose it is, so nothing depends on what is forgotten here.
#[derive(Debug, Default)]
pub(crate) struct Environments(RwLock<Map<ApplicationKey, EnvironmentKey>>);

impl Environments {
    /// Remembers it.
    pub(crate) fn learn(&self, owner: Owner) {
        if self.0.read().contains_key(&owner.application) {
            return;
        }
        let mut known = self.0.write();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(owner.application, owner.environment);
    }

    /// Whose something of this application is; `None` if that is not known.
    pub(crate) fn owner(&self, application: Option<ApplicationKey>) -> Whose {
        let application = application?;
        let environment = *self.0.read().get(&application)?;
        Some(Owner { environment, application })
    }
}

/// What can be held.
pub(crate) trait Amount: Copy + Default + PartialEq + AddAssign + SubAssign {
    /// How much it is.
    fn size(self) -> i64;
}

impl Amount for u32 {
    fn size(self) -> i64 {
        self.into()
    }
}

impl Amount for i64 {
    fn size(self) -> i64 {
        self
    }
}

/// What each holds.
#[derive(Debug)]
pub(crate) struct Holders<T> {
    by_owner: Map<Whose, T>,
    by_environment: Map<Option<EnvironmentKey>, Of<T>>,
    /// Who holds no more than this is small.
    crumb: i64,
}

/// What an environment holds.
#[derive(Debug, Clone, Copy, Default)]
struct Of<T> {
    all: T,
    /// What its small applications hold.
    small: i64,
}

impl<T: Amount> Holders<T> {
    /// Of which nobody holds anything. Who holds `crumb` or less is small.
    pub(crate) fn new(crumb: i64) -> Self {
        Self { by_owner: Map::default(), by_environment: Map::default(), crumb }
    }

    /// What an application holds, and all of its environment.
    pub(crate) fn of(&self, whose: Whose) -> (T, T) {
        (self.of_application(whose), self.of_environment(environment_of(whose)))
    }

    /// What an environment holds.
    pub(crate) fn of_environment(&self, environment: Option<EnvironmentKey>) -> T {
        self.by_environment.get(&environment).map_or_else(T::default, |of| of.all)
    }

    /// What those applications of an environment hold that are small.
    pub(crate) fn of_small(&self, environment: Option<EnvironmentKey>) -> i64 {
        self.by_environment.get(&environment).map_or(0, |of| of.small)
    }

    /// What an application holds.
    pub(crate) fn of_application(&self, whose: Whose) -> T {
        self.by_owner.get(&whose).copied().unwrap_or_default()
    }

    pub(crate) fn add(&mut self, whose: Whose, amount: T) {
        let own = self.by_owner.entry(whose).or_default();
        let before = small(*own, self.crumb);
        *own += amount;
        let of = self.by_environment.entry(environment_of(whose)).or_default();
        of.all += amount;
        of.small += small(*own, self.crumb) - before;
    }

    /// Takes back a part of what an application holds.
    pub(crate) fn subtract(&mut self, whose: Whose, amount: T) {
        let Entry::Occupied(mut own) = self.by_owner.entry(whose) else { return };
        let before = small(*own.get(), self.crumb);
        *own.get_mut() -= amount;
        let after = small(*own.get(), self.crumb);
        // Whoever holds nothing any more takes no place.
        if *own.get() == T::default() {
            own.remove();
        }
        let Entry::Occupied(mut of) = self.by_environment.entry(environment_of(whose)) else { return };
        of.get_mut().all -= amount;
        of.get_mut().small += after - before;
        if of.get().all == T::default() {
            of.remove();
        }
    }

    pub(crate) fn amounts(&self) -> impl Iterator<Item = T> {
        self.by_owner.values().copied()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.by_owner.is_empty() && self.by_environment.is_empty()
    }
}

/// What counts of an application that holds so much for what small ones hold.
fn small<T: Amount>(own: T, crumb: i64) -> i64 {
    if own.size() <= crumb { own.size() } else { 0 }
}

/// For tests: an application of an environment.
#[cfg(test)]
pub(crate) const fn owner(environment: i64, application: i64) -> Owner {
    Owner { environment: EnvironmentKey(environment), application: ApplicationKey(application) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_holds_what_its_applications_hold() {
        let mut holders = Holders::<i64>::new(3);
        let (a, b, nobody) = (Some(owner(7, 1)), Some(owner(7, 2)), None);
        holders.add(a, 3);
        holders.add(b, 4);
        holders.add(nobody, 5);
        assert_eq!((holders.of(a), holders.of(nobody)), ((3, 7), (5, 5)));
        let of_small = |holders: &Holders<i64>| holders.of_small(environment_of(a));
        assert_eq!(of_small(&holders), 3);
        holders.add(a, 1);
        assert_eq!(of_small(&holders), 0);
        holders.subtract(a, 1);
        holders.subtract(b, 2);
        assert_eq!(of_small(&holders), 5);
        holders.add(b, 2);
        holders.subtract(a, 3);
        assert_eq!(holders.of(a), (0, 4));
        holders.subtract(b, 4);
        holders.subtract(nobody, 5);
        assert!(holders.is_empty());
    }

    #[test]
    fn so_many_applications_are_known_and_no_more() {
        let environments = Environments::default();
        for number in 0..=MAX_KNOWN as i64 {
            environments.learn(owner(1, number));
        }
        assert_eq!(environments.0.read().len(), 1);
        let whose = |number| environments.owner(Some(ApplicationKey(number)));
        assert_eq!((whose(MAX_KNOWN as i64), whose(0)), (Some(owner(1, MAX_KNOWN as i64)), None));
    }
}
