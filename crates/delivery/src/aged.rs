//! What is remembered of many things within a bound: for one more the one that was put in longest ago is forgotten.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// At most `MOST` values by their keys. A key is held twice, so its clones should be cheap.
#[derive(Debug)]
pub(crate) struct Aged<K, V, const MOST: usize> {
    values: HashMap<K, (u64, V)>,
    /// Rises with every value: the order of `by_age` is the order of age.
    next: u64,
    by_age: BTreeMap<u64, K>,
}

impl<K, V, const MOST: usize> Default for Aged<K, V, MOST> {
    fn default() -> Self {
        Self { values: HashMap::new(), next: 0, by_age: BTreeMap::new() }
    }
}

impl<K: Clone + Eq + Hash, V, const MOST: usize> Aged<K, V, MOST> {
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.values.get(key).map(|(_, value)| value)
    }

    /// Puts one in, in place of the one that the key had.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        let number = self.next;
        self.next += 1;
        self.by_age.insert(number, key.clone());
        if let Some((before, _)) = self.values.insert(key, (number, value)) {
            self.by_age.remove(&before);
        }
        if self.values.len() > MOST
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.values.remove(&oldest);
        }
    }

    pub(crate) fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if let Some((number, _)) = self.values.remove(key) {
            self.by_age.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_remembered_and_the_oldest_is_forgotten_first() {
        let mut aged = Aged::<&str, u32, 3>::default();
        for (key, value) in [("a", 1), ("b", 2), ("c", 3), ("a", 4), ("d", 5)] {
            aged.insert(key, value);
        }
        assert_eq!(["a", "b", "c", "d"].map(|key| aged.get(key).copied()), [Some(4), None, Some(3), Some(5)]);
        aged.remove("c");
        aged.insert("e", 6);
        assert_eq!(["a", "c", "d", "e"].map(|key| aged.get(key).copied()), [Some(4), None, Some(5), Some(6)]);
        assert_eq!((aged.values.len(), aged.by_age.len()), (3, 3));
    }
}
