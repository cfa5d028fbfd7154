//! Who has most of what is kept as long as there is room: first of the environments, then of that one's applications, and of
//! what that one has the oldest.
//!
//! So whoever has few keeps them, however many others have, and however many applications an environment has.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use postrider_store::{ApplicationKey, EnvironmentKey};

use crate::holders::Owner;

/// What everybody has, by numbers in the order of age.
#[derive(Debug, Default)]
pub(crate) struct Ranks {
    environments: Ranking<EnvironmentKey>,
    applications: HashMap<EnvironmentKey, Ranking<ApplicationKey>>,
}

#[derive(Debug)]
struct Ranking<K> {
    /// The numbers of what each has.
    numbers: HashMap<K, BTreeSet<u64>>,
    /// How many each has, and its oldest; the one with most, and of those the one with the oldest, last.
    order: BTreeSet<(usize, Reverse<u64>, K)>,
}

impl<K> Default for Ranking<K> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), order: BTreeSet::new() }
    }
}

impl Ranks {
    pub(crate) fn insert(&mut self, owner: Owner, number: u64) {
        self.environments.change(owner.environment, |numbers| numbers.insert(number));
        let applications = self.applications.entry(owner.environment).or_default();
        applications.change(owner.application, |numbers| numbers.insert(number));
    }

    pub(crate) fn remove(&mut self, owner: Owner, number: u64) {
        self.environments.change(owner.environment, |numbers| numbers.remove(&number));
        let Some(applications) = self.applications.get_mut(&owner.environment) else { return };
        applications.change(owner.application, |numbers| numbers.remove(&number));
        if applications.order.is_empty() {
            self.applications.remove(&owner.environment);
        }
    }

    /// What is to go first: whose it is, and its number.
    pub(crate) fn first_to_go(&self) -> Option<(Owner, u64)> {
        let (_, _, environment) = *self.environments.order.last()?;
        let (_, Reverse(oldest), application) = *self.applications.get(&environment)?.order.last()?;
        Some((Owner { environment, application }, oldest))
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.environments.order.is_empty() && self.environments.numbers.is_empty() && self.applications.is_empty()
    }
}

impl<K: Copy + Eq + Ord + Hash> Ranking<K> {
    /// Changes what one has.
    fn change(&mut self, of: K, change: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let rank = |own: &BTreeSet<u64>| own.first().map(|oldest| (own.len(), Reverse(*oldest), of));
        let own = self.numbers.entry(of).or_default();
        if let Some(before) = rank(own) {
            self.order.remove(&before);
        }
        change(own);
        match rank(own) {
            Some(after) => drop(self.order.insert(after)),
            None => drop(self.numbers.remove(&of)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holders::owner;

    #[test]
    fn an_environment_with_many_applications_loses_its_own_and_no_other_ones() {
        let (mut ranks, few) = (Ranks::default(), owner(2, 1));
        ranks.insert(few, 0);
        ranks.insert(few, 1);
        for number in 2..10 {
            ranks.insert(owner(1, number), number as u64);
        }
        ranks.insert(owner(1, 5), 10);
        let mut gone = Vec::new();
        while let Some((owner, number)) = ranks.first_to_go().filter(|_| gone.len() < 8) {
            ranks.remove(owner, number);
            gone.push(number);
        }
        // Whose application has two loses one of them first. At last both have two, and the oldest goes.
        assert_eq!(gone, [5, 2, 3, 4, 6, 7, 8, 0]);
        while let Some((owner, number)) = ranks.first_to_go() {
            ranks.remove(owner, number);
        }
        assert!(ranks.is_empty());
    }
}
