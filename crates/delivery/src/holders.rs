//! Who holds how much of something that is shared: applications, and the environments that they belong to.
//!
//! What is shared is shared among environments first: whoever runs one can make as many applications as he likes. A lane, a
//! request or a look-up names its application only; of that it is remembered where it belongs ([`Environments`]), as soon
//! as its endpoint was read. What it holds before is nobody's in particular, and moves then.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::{AddAssign, SubAssign};

use parking_lot::RwLock;
use postrider_store::{ApplicationKey, EnvironmentKey};

/// Whose a lane is; `None` until that is known.
pub(crate) type Whose = Option<ApplicationKey>;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

postrider_domain::limits! {
    in "Delivering";
    /// Applications of which it is remembered to which environment they belong
    pub(crate) const MAX_KNOWN: usize = 65_536, "applications", beyond "all are forgotten, and learned again as their endpoints are read";
}

/// Which environments applications belong to, as far as is known here.
#[derive(Debug, Default)]
pub(crate) struct Environments(RwLock<Map<ApplicationKey, EnvironmentKey>>);

impl Environments {
    /// Remembers it; false if it was known.
    pub(crate) fn learn(&self, application: ApplicationKey, environment: EnvironmentKey) -> bool {
        if self.0.read().contains_key(&application) {
            return false;
        }
        let mut known = self.0.write();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(application, environment).is_none()
    }

    pub(crate) fn of(&self, whose: Whose) -> Option<EnvironmentKey> {
        self.0.read().get(&whose?).copied()
    }
}

/// What each holds.
#[derive(Debug)]
pub(crate) struct Holders<T> {
    by_application: Map<Whose, Holding<T>>,
    by_environment: Map<Option<EnvironmentKey>, T>,
}

#[derive(Debug)]
struct Holding<T> {
    amount: T,
    /// Where it counts, which is where it was known to belong when it began to hold something.
    environment: Option<EnvironmentKey>,
}

impl<T> Default for Holders<T> {
    fn default() -> Self {
        Self { by_application: Map::default(), by_environment: Map::default() }
    }
}

impl<T: Copy + Default + PartialEq + AddAssign + SubAssign> Holders<T> {
    /// What an application holds, and all of its environment.
    pub(crate) fn of(&self, whose: Whose, environments: &Environments) -> (T, T) {
        let (own, environment) = match self.by_application.get(&whose) {
            Some(holding) => (holding.amount, holding.environment),
            None => (T::default(), environments.of(whose)),
        };
        (own, self.by_environment.get(&environment).copied().unwrap_or_default())
    }

    /// What an environment holds.
    pub(crate) fn of_environment(&self, environment: Option<EnvironmentKey>) -> T {
        self.by_environment.get(&environment).copied().unwrap_or_default()
    }

    /// What an application holds.
    pub(crate) fn of_application(&self, whose: Whose) -> T {
        self.by_application.get(&whose).map(|holding| holding.amount).unwrap_or_default()
    }

    pub(crate) fn add(&mut self, whose: Whose, amount: T, environments: &Environments) {
        let new = || Holding { amount: T::default(), environment: environments.of(whose) };
        let holding = self.by_application.entry(whose).or_insert_with(new);
        holding.amount += amount;
        *self.by_environment.entry(holding.environment).or_default() += amount;
    }

    /// Takes back a part of what an application holds.
    pub(crate) fn subtract(&mut self, whose: Whose, amount: T) {
        let Entry::Occupied(mut holding) = self.by_application.entry(whose) else { return };
        holding.get_mut().amount -= amount;
        let (left, environment) = (holding.get().amount, holding.get().environment);
        if left == T::default() {
            holding.remove();
        }
        self.subtract_of(environment, amount);
    }

    fn subtract_of(&mut self, environment: Option<EnvironmentKey>, amount: T) {
        let Entry::Occupied(mut all) = self.by_environment.entry(environment) else { return };
        *all.get_mut() -= amount;
        if *all.get() == T::default() {
            all.remove();
        }
    }

    /// It has become known where an application belongs.
    pub(crate) fn belongs(&mut self, application: ApplicationKey, environment: EnvironmentKey) {
        let Some(holding) = self.by_application.get_mut(&Some(application)) else { return };
        let (amount, before) = (holding.amount, holding.environment.replace(environment));
        *self.by_environment.entry(Some(environment)).or_default() += amount;
        self.subtract_of(before, amount);
    }

    pub(crate) fn amounts(&self) -> impl Iterator<Item = T> {
        self.by_application.values().map(|holding| holding.amount)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.by_application.is_empty() && self.by_environment.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ApplicationKey = ApplicationKey(1);
    const B: ApplicationKey = ApplicationKey(2);

    #[test]
    fn an_environment_holds_what_its_applications_hold_also_before_it_was_known() {
        let (environments, mut holders) = (Environments::default(), Holders::<i64>::default());
        holders.add(Some(A), 3, &environments);
        assert!(environments.learn(A, EnvironmentKey(7)) && !environments.learn(A, EnvironmentKey(7)));
        holders.belongs(A, EnvironmentKey(7));
        environments.learn(B, EnvironmentKey(7));
        holders.add(Some(B), 4, &environments);
        assert_eq!(holders.of(Some(A), &environments), (3, 7));
        holders.subtract(Some(A), 3);
        assert_eq!(holders.of(Some(A), &environments), (0, 4), "it is known where it would count");
        holders.subtract(Some(B), 4);
        assert!(holders.is_empty());
    }

    #[test]
    fn so_many_applications_are_known_and_no_more() {
        let environments = Environments::default();
        for number in 0..=MAX_KNOWN as i64 {
            environments.learn(ApplicationKey(number), EnvironmentKey(1));
        }
        assert_eq!(environments.0.read().len(), 1);
    }
}
