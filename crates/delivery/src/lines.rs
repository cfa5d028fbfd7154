//! What waits for something that is done a few at a time: environments take turns, of each its applications, and what is of
//! one application comes in order.
//!
//! So an application with very many keeps the others waiting for one turn, not for all of its own, and so does an
//! environment with very many applications. Where something stands is decided when it comes; each step costs the same
//! however much waits, but for those who are passed over.

use std::collections::{HashMap, VecDeque};

use postrider_store::EnvironmentKey;

use crate::holders::{Whose, environment_of};

/// So many are looked at, when one is looked for to whom another would make room.
const MAX_ASKED: usize = 256;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// What waits.
#[derive(Debug)]
pub(crate) struct Lines<T> {
    by_environment: Map<Option<EnvironmentKey>, Line<T>>,
    /// Whose turn it is next; each environment of which anything waits is in it once.
    order: VecDeque<Option<EnvironmentKey>>,
}

/// Of one environment.
#[derive(Debug)]
struct Line<T> {
    by_application: Map<Whose, VecDeque<T>>,
    /// As [`Lines::order`], of applications.
    order: VecDeque<Whose>,
    count: usize,
}

impl<T> Default for Lines<T> {
    fn default() -> Self {
        Self { by_environment: Map::default(), order: VecDeque::new() }
    }
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { by_application: Map::default(), order: VecDeque::new(), count: 0 }
    }
}

/// What a turn gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// All that may be taken in one, or all that there was.
    Whole,
    /// What is next did not fit. Whoever got nothing keeps its turn.
    Full,
    /// Nothing waits.
    Nothing,
}

impl<T> Lines<T> {
    pub(crate) fn push(&mut self, of: Whose, one: T) {
        let environment = environment_of(of);
        let line = self.by_environment.entry(environment).or_default();
        if line.count == 0 {
            self.order.push_back(environment);
        }
        let waiting = line.by_application.entry(of).or_default();
        if waiting.is_empty() {
            line.order.push_back(of);
        }
        waiting.push_back(one);
        line.count += 1;
    }

    /// How much of an environment's waits.
    pub(crate) fn count_of(&self, environment: Option<EnvironmentKey>) -> usize {
        self.by_environment.get(&environment).map_or(0, |line| line.count)
    }

    /// Whether anything waits to which one of an application `yields`. Asks for one of each other environment, and for each application
    /// of its own; says yes, if there are very many.
    pub(crate) fn any_of(&self, own: Whose, mut yields: impl FnMut(Whose) -> bool) -> bool {
        let environment = environment_of(own);
        let of_own = self.by_environment.get(&environment);
        let applications = of_own.into_iter().flat_map(|line| line.order.iter().copied());
        let environments = self.order.iter().filter(|other| **other != environment);
        let others = environments.filter_map(|other| self.by_environment.get(other)?.order.front().copied());
        let mut candidates = applications.chain(others);
        candidates.by_ref().take(MAX_ASKED).any(&mut yields) || candidates.next().is_some()
    }

    /// The next one that still waits, whose environment has `room`, and whose application is `admitted`. What has no room is not
    /// looked through, and what does not wait any more costs nobody a turn.
    pub(crate) fn next(
        &mut self,
        mut has_room: impl FnMut(Option<EnvironmentKey>) -> bool,
        mut admitted: impl FnMut(Whose) -> bool,
        mut waits: impl FnMut(&T) -> bool,
    ) -> Option<(T, Whose)> {
        for _ in 0..self.order.len() {
            let environment = self.order.pop_front()?;
            let line = self.by_environment.get_mut(&environment)?;
            let next = if has_room(environment) { line.next(&mut admitted, &mut waits) } else { None };
            self.ends_turn(environment);
            if next.is_some() {
                return next;
            }
        }
        None
    }

    /// Takes a turn's worth of whoever is next: at most so many, as long as they `fit`.
    pub(crate) fn turn(&mut self, most: usize, fits: impl FnMut(&T) -> bool, into: &mut Vec<T>) -> Turn {
        let Some(environment) = self.order.pop_front() else { return Turn::Nothing };
        let Some(line) = self.by_environment.get_mut(&environment) else { return Turn::Nothing };
        let before = into.len();
        let turn = line.turn(most, fits, into);
        if turn == Turn::Full && into.len() == before {
            self.order.push_front(environment);
        } else {
            self.ends_turn(environment);
        }
        turn
    }

    /// Whoever has more waits for its next turn.
    fn ends_turn(&mut self, environment: Option<EnvironmentKey>) {
        if self.count_of(environment) > 0 {
            self.order.push_back(environment);
        } else {
            self.by_environment.remove(&environment);
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.by_environment.is_empty() && self.order.is_empty()
    }
}

impl<T> Line<T> {
    fn next(
        &mut self,
        mut admitted: impl FnMut(Whose) -> bool,
        mut waits: impl FnMut(&T) -> bool,
    ) -> Option<(T, Whose)> {
        for _ in 0..self.order.len() {
            let of = self.order.pop_front()?;
            if !admitted(of) {
                self.order.push_back(of);
                continue;
            }
            let waiting = self.by_application.get_mut(&of)?;
            let gone = waiting.iter().take_while(|one| !waits(one)).count();
            waiting.drain(..gone);
            let next = waiting.pop_front();
            self.count -= gone + usize::from(next.is_some());
            self.ends_turn(of);
            if let Some(one) = next {
                return Some((one, of));
            }
        }
        None
    }

    fn turn(&mut self, most: usize, mut fits: impl FnMut(&T) -> bool, into: &mut Vec<T>) -> Turn {
        let Some(of) = self.order.pop_front() else { return Turn::Nothing };
        let Some(waiting) = self.by_application.get_mut(&of) else { return Turn::Nothing };
        let wanted = most.min(waiting.len());
        let count = waiting.iter().take(wanted).take_while(|one| fits(one)).count();
        into.extend(waiting.drain(..count));
        self.count -= count;
        if count == 0 {
            self.order.push_front(of);
        } else {
            self.ends_turn(of);
        }
        if count < wanted { Turn::Full } else { Turn::Whole }
    }

    /// As [`Lines::ends_turn`], of an application.
    fn ends_turn(&mut self, of: Whose) {
        if self.by_application.get(&of).is_some_and(|waiting| !waiting.is_empty()) {
            self.order.push_back(of);
        } else {
            self.by_application.remove(&of);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holders::owner;

    const HERE: i64 = 1;
    const THERE: i64 = 2;
    const MANY: Whose = Some(owner(HERE, 1));
    const ONE: Whose = Some(owner(HERE, 2));
    const ONE_THERE: Whose = Some(owner(THERE, 2));

    /// Takes batches of so many until nothing is left, eight in a turn.
    fn batches(lines: &mut Lines<u32>, of: usize) -> Vec<Vec<u32>> {
        let mut all = Vec::new();
        loop {
            let (mut room, mut batch) = (of, Vec::new());
            let fits = |room: &mut usize| {
                let fits = *room > 0;
                *room = room.saturating_sub(1);
                fits
            };
            while lines.turn(8, |_| fits(&mut room), &mut batch) == Turn::Whole {}
            if batch.is_empty() {
                return all;
            }
            all.push(batch);
        }
    }

    #[test]
    fn an_applications_one_waits_for_no_thousand_of_anothers() {
        let mut lines = Lines::default();
        (0..10_000).for_each(|number| lines.push(MANY, number));
        lines.push(ONE, 77_777);
        let batches = batches(&mut lines, 128);
        assert!(batches[0].contains(&77_777), "it is in the first batch");
        let of_many: Vec<_> = batches.concat().into_iter().filter(|number| *number != 77_777).collect();
        assert_eq!(of_many, (0..10_000).collect::<Vec<_>>(), "the others keep their order, and none is lost");
        assert!(lines.is_empty());
    }

    #[test]
    fn an_environments_one_waits_for_no_thousand_applications_of_another() {
        let mut lines = Lines::default();
        for number in 0..1_000 {
            lines.push(Some(owner(HERE, 10 + i64::from(number))), number);
        }
        lines.push(ONE_THERE, 77_777);
        assert_eq!(batches(&mut lines, 8)[0], [0, 77_777, 1, 2, 3, 4, 5, 6]);
        assert!(lines.is_empty());
    }

    #[test]
    fn small_batches_are_shared_too() {
        let mut lines = Lines::default();
        for number in 0..20 {
            lines.push(MANY, number);
            lines.push(ONE, 100 + number);
        }
        let batches = batches(&mut lines, 3);
        assert_eq!(batches[..3], [vec![0, 1, 2], vec![100, 101, 102], vec![3, 4, 5]]);
        assert_eq!(batches.concat().len(), 40);
    }

    #[test]
    fn what_is_too_heavy_for_the_rest_of_a_batch_is_first_in_the_next() {
        for of_the_heavy in [ONE, ONE_THERE] {
            let mut lines = Lines::default();
            (0..100).for_each(|number| lines.push(MANY, number));
            lines.push(of_the_heavy, 1_000);
            let mut batch = || {
                let (mut weight, mut batch) = (0, Vec::new());
                // A thousand fits alone.
                let fits = |weight: &mut u32, one: &u32| {
                    let fits = *weight == 0 || (*weight < 10 && *one < 1_000);
                    *weight += if *one < 1_000 { 1 } else { 10 };
                    fits
                };
                while lines.turn(8, |one| fits(&mut weight, one), &mut batch) == Turn::Whole {}
                batch
            };
            assert_eq!(batch(), (0..8).collect::<Vec<_>>());
            assert_eq!(batch(), [1_000]);
        }
    }

    #[test]
    fn whoever_is_not_admitted_or_has_no_room_is_passed_over_and_keeps_its_place() {
        let mut lines = Lines::default();
        let (here, there) = (environment_of(MANY), environment_of(ONE_THERE));
        lines.push(MANY, 1);
        lines.push(ONE, 2);
        lines.push(ONE_THERE, 3);
        assert_eq!(lines.next(|_| false, |_| true, |_| true), None);
        assert_eq!(lines.next(|_| true, |_| false, |_| true), None);
        assert_eq!(lines.next(|environment| environment == there, |_| true, |_| true), Some((3, ONE_THERE)));
        assert_eq!(lines.next(|_| true, |of| of == ONE, |_| true), Some((2, ONE)));
        assert_eq!((lines.count_of(here), lines.count_of(there)), (1, 0));
        assert_eq!(lines.next(|_| true, |_| true, |_| true), Some((1, MANY)));
        assert!(lines.is_empty());
    }

    #[test]
    fn what_does_not_wait_any_more_costs_nobody_a_turn() {
        let mut lines = Lines::default();
        for number in [-1, -2, 1] {
            lines.push(MANY, number);
        }
        lines.push(ONE, -3);
        lines.push(ONE_THERE, 2);
        lines.push(ONE_THERE, -4);
        let mut next = || lines.next(|_| true, |_| true, |number| *number > 0).map(|(number, _)| number);
        assert_eq!([next(), next(), next(), next()], [Some(1), Some(2), None, None]);
        assert!(lines.is_empty());
    }
}
