//! Lines that take turns: each time the next one gives the first of what waits in it, however much waits in the others. Nobody is
//! in it who has nothing that waits.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Something that others wait in.
pub(crate) trait Line: Default {
    type Item;

    fn is_empty(&self) -> bool;

    /// What [`Line::pop`] takes.
    fn first(&self) -> Option<&Self::Item>;

    fn pop(&mut self) -> Option<Self::Item>;

    /// Leaves what is not wanted out, as far as it comes before the first that is: it has no turn, and takes none.
    fn skip(&mut self, is_wanted: &impl Fn(&Self::Item) -> bool);

    /// Leaves out everything that is not wanted, and says how much is left.
    fn retain(&mut self, is_wanted: &impl Fn(&Self::Item) -> bool) -> usize;
}

impl<T> Line for VecDeque<T> {
    type Item = T;

    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }

    fn first(&self) -> Option<&T> {
        self.front()
    }

    fn pop(&mut self) -> Option<T> {
        self.pop_front()
    }

    fn skip(&mut self, is_wanted: &impl Fn(&T) -> bool) {
        while self.front().is_some_and(|first| !is_wanted(first)) {
            self.pop_front();
        }
    }

    fn retain(&mut self, is_wanted: &impl Fn(&T) -> bool) -> usize {
        Self::retain(self, is_wanted);
        // What much waited in once does not stay as large for that.
        self.shrink_to(2 * self.len());
        self.len()
    }
}

/// Lines by whose they are. They may be such themselves.
#[derive(Debug)]
pub(crate) struct Turns<K, L> {
    /// Whose turn it is next; each who waits is in it once.
    order: VecDeque<K>,
    lines: HashMap<K, L>,
}

impl<K, L> Default for Turns<K, L> {
    fn default() -> Self {
        Self { order: VecDeque::new(), lines: HashMap::new() }
    }
}

impl<K: Copy + Eq + Hash, L: Line> Turns<K, L> {
    /// The line of somebody, to which something is added: he is the last whose turn it is if nothing of his waited.
    pub(crate) fn of(&mut self, whose: K) -> &mut L {
        let Self { order, lines } = self;
        lines.entry(whose).or_insert_with(|| {
            order.push_back(whose);
            L::default()
        })
    }
}

impl<K: Copy + Eq + Hash, L: Line> Line for Turns<K, L> {
    type Item = L::Item;

    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn first(&self) -> Option<&L::Item> {
        self.lines.get(self.order.front()?)?.first()
    }

    fn pop(&mut self) -> Option<L::Item> {
        let whose = self.order.pop_front()?;
        let line = self.lines.get_mut(&whose)?;
        let first = line.pop();
        if line.is_empty() {
            self.lines.remove(&whose);
        } else {
            self.order.push_back(whose);
        }
        first
    }

    fn skip(&mut self, is_wanted: &impl Fn(&L::Item) -> bool) {
        while let Some(whose) = self.order.front() {
            if let Some(line) = self.lines.get_mut(whose) {
                line.skip(is_wanted);
                if !line.is_empty() {
                    return;
                }
            }
            self.lines.remove(whose);
            self.order.pop_front();
        }
    }

    fn retain(&mut self, is_wanted: &impl Fn(&L::Item) -> bool) -> usize {
        let mut left = 0;
        self.lines.retain(|_, line| {
            let of_this = line.retain(is_wanted);
            left += of_this;
            of_this > 0
        });
        self.order.retain(|whose| self.lines.contains_key(whose));
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_much_gives_one_at_a_time_and_who_has_nothing_left_is_gone() {
        let mut turns = Turns::<char, Turns<u8, VecDeque<u32>>>::default();
        for (environment, application, item) in
            [('a', 1, 11), ('a', 1, 12), ('a', 1, 13), ('a', 2, 21), ('b', 1, 31), ('b', 1, 32)]
        {
            turns.of(environment).of(application).push_back(item);
        }
        assert_eq!(turns.first(), Some(&11));
        let order: Vec<u32> = std::iter::from_fn(|| turns.pop()).collect();
        assert_eq!(order, [11, 31, 21, 32, 12, 13]);
        assert!(turns.is_empty() && turns.first().is_none() && turns.lines.is_empty());
    }

    #[test]
    fn what_is_not_wanted_is_left_out_and_takes_nobodys_turn() {
        let all = [('a', 1, 10), ('a', 1, 11), ('a', 2, 20), ('b', 1, 30), ('b', 1, 31), ('c', 1, 40), ('a', 1, 13)];
        let turns = || {
            let mut turns = Turns::<char, Turns<u8, VecDeque<u32>>>::default();
            all.iter()
                .for_each(|(environment, application, item)| turns.of(*environment).of(*application).push_back(*item));
            turns
        };
        let is_odd = |item: &u32| item % 2 == 1;
        let mut skipped = turns();
        let order: Vec<u32> = std::iter::from_fn(|| {
            skipped.skip(&is_odd);
            skipped.pop()
        })
        .collect();
        assert_eq!(order, [11, 31, 13]);
        assert!(skipped.is_empty() && skipped.lines.is_empty());
        let mut retained = turns();
        assert_eq!(retained.retain(&is_odd), 3);
        assert_eq!((retained.order.len(), retained.lines.len()), (2, 2));
        assert_eq!(std::iter::from_fn(|| retained.pop()).collect::<Vec<_>>(), [11, 31, 13]);
        assert_eq!(retained.retain(&is_odd), 0);
    }
}
