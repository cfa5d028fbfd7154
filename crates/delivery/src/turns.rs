//! Endpoints that wait for a lane, because there are fewer lanes than endpoints that want one.
//!
//! Environments take turns, of each its applications, and an application's endpoints in the order in which they came; so one
//! with very many keeps the others waiting for one turn, not for all of its own. What waits here is in the store, too, and a
//! start finds it there.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::fair::Stock;
use postrider_store::{EndpointKey, EnvironmentKey};

use crate::holders::{Whose, environment_of};
use crate::limits::{CROWD, CROWDED_PAUSE, LONGEST_CROWDED_PAUSE, MAX_WAITING_FOR_A_LANE};
use crate::lines::Lines;

/// Who waits.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    queues: Mutex<Queues>,
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Queues {
    endpoints: HashSet<EndpointKey>,
    /// How many of each application wait, wherever they stand.
    of: HashMap<Whose, usize>,
    lines: Lines<EndpointKey>,
}

impl Turns {
    /// Whether anybody waits.
    pub(crate) fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Whether this endpoint waits, or another of the same application does.
    pub(crate) fn has(&self, endpoint: EndpointKey, of: Whose) -> bool {
        let queues = self.queues.lock();
        queues.of.contains_key(&of) || queues.endpoints.contains(&endpoint)
    }

    /// Whether anybody waits to whom this one `yields`.
    pub(crate) fn any_of(&self, own: Whose, yields: impl FnMut(Whose) -> bool) -> bool {
        self.queues.lock().lines.any_of(own, yields)
    }

    /// How long an endpoint that found no place had better wait in the store: the longer, the more of its environment wait
    /// before it. What is put back is taken out again, and everybody's commits wait for that.
    pub(crate) fn pause(&self, environment: Option<EnvironmentKey>) -> Duration {
        pause(self.queues.lock().lines.count_of(environment))
    }

    /// Lets an endpoint wait, if it doesn't already; false if there is no place for another of its application, which may
    /// have as many as it leaves of what there is for its environment.
    pub(crate) fn push(&self, endpoint: EndpointKey, of: Whose) -> bool {
        let mut queues = self.queues.lock();
        if queues.endpoints.contains(&endpoint) {
            return true;
        }
        let environment = environment_of(of);
        let stock = Stock {
            total: signed(MAX_WAITING_FOR_A_LANE),
            free: signed(MAX_WAITING_FOR_A_LANE.saturating_sub(queues.endpoints.len())),
            least: 1,
            small: None,
        };
        let own = queues.of.get(&of).copied().unwrap_or(0);
        if !stock.may_take(signed(own), signed(queues.lines.count_of(environment)), 1) {
            return false;
        }
        queues.lines.push(of, endpoint);
        *queues.of.entry(of).or_default() += 1;
        queues.endpoints.insert(endpoint);
        self.count.store(queues.endpoints.len(), Ordering::Relaxed);
        true
    }

    /// The next endpoint whose environment has `room`, and whose application is `admitted`. What has no room is not looked
    /// through.
    pub(crate) fn next(
        &self,
        has_room: impl FnMut(Option<EnvironmentKey>) -> bool,
        admitted: impl FnMut(Whose) -> bool,
    ) -> Option<(EndpointKey, Whose)> {
        let mut queues = self.queues.lock();
        let (endpoint, of) = queues.lines.next(has_room, admitted, |_| true)?;
        queues.endpoints.remove(&endpoint);
        if let Some(own) = queues.of.get_mut(&of) {
            *own -= 1;
            if *own == 0 {
                queues.of.remove(&of);
            }
        }
        self.count.store(queues.endpoints.len(), Ordering::Relaxed);
        Some((endpoint, of))
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn pause(waiting: usize) -> Duration {
    let crowds = u32::try_from(waiting / CROWD).unwrap_or(u32::MAX).max(1);
    CROWDED_PAUSE.saturating_mul(crowds).min(LONGEST_CROWDED_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holders::owner;

    fn push(turns: &Turns, endpoint: i64, of: i64) -> bool {
        turns.push(EndpointKey(endpoint), Some(owner(1, of)))
    }

    #[test]
    fn applications_take_turns_and_their_endpoints_come_in_order() {
        let turns = Turns::default();
        for endpoint in [1, 2, 3, 3, 1] {
            assert!(push(&turns, endpoint, 1));
        }
        assert!(push(&turns, 9, 2));
        let order: Vec<i64> =
            std::iter::from_fn(|| turns.next(|_| true, |_| true)).map(|(endpoint, _)| endpoint.0).collect();
        assert_eq!(order, [1, 9, 2, 3]);
        assert!(!turns.any());
    }

    #[test]
    fn an_application_that_has_its_share_is_passed_over() {
        let turns = Turns::default();
        assert!(push(&turns, 1, 1) && push(&turns, 2, 2));
        let next = turns.next(|_| true, |of| of == Some(owner(1, 2)));
        assert_eq!(next, Some((EndpointKey(2), Some(owner(1, 2)))));
        assert_eq!(turns.next(|_| true, |_| false), None);
        assert_eq!(turns.next(|_| false, |_| true), None);
        assert!(turns.any());
    }

    #[test]
    fn one_application_leaves_places_for_the_others() {
        let turns = Turns::default();
        let places = (0..).take_while(|endpoint| push(&turns, *endpoint, 1)).count();
        assert!(places <= MAX_WAITING_FOR_A_LANE / 2 + 1, "{places}");
        assert!(push(&turns, -1, 2));
    }

    /// Lets as many of an environment wait as may.
    fn crowd(turns: &Turns, environment: i64) -> usize {
        let endpoints = (1_000..100_000).map(|endpoint| environment * 1_000_000 + endpoint);
        endpoints.filter(|number| turns.push(EndpointKey(*number), Some(owner(environment, number % 199)))).count()
    }

    #[test]
    fn one_environment_leaves_places_for_the_others_and_takes_turns_with_them() {
        let turns = Turns::default();
        let crowd = crowd(&turns, 1);
        assert!((MAX_WAITING_FOR_A_LANE / 2..=MAX_WAITING_FOR_A_LANE * 3 / 4).contains(&crowd), "{crowd}");
        let other = Some(owner(2, 1));
        assert!(turns.push(EndpointKey(1), other) && turns.push(EndpointKey(2), other));
        let order: Vec<_> =
            (0..4).filter_map(|_| turns.next(|_| true, |_| true)).map(|(endpoint, _)| endpoint.0 < 10).collect();
        assert_eq!(order, [false, true, false, true]);
    }

    #[test]
    fn three_environments_that_have_all_they_may_leave_places_for_a_fourth() {
        let turns = Turns::default();
        let crowds = [1, 2, 3].map(|environment| crowd(&turns, environment));
        assert!(crowds.iter().sum::<usize>() > MAX_WAITING_FOR_A_LANE * 13 / 16, "{crowds:?}");
        assert!((1..=300).all(|endpoint| turns.push(EndpointKey(endpoint), Some(owner(4, 1)))));
    }

    #[test]
    fn the_more_of_an_environment_wait_the_longer_is_who_finds_no_place_left_to_the_store() {
        let turns = Turns::default();
        crowd(&turns, 1);
        let pause = |environment| turns.pause(Some(EnvironmentKey(environment)));
        assert_eq!((pause(1), pause(2)), (LONGEST_CROWDED_PAUSE, CROWDED_PAUSE));
        assert_eq!(super::pause(5 * CROWD), 5 * CROWDED_PAUSE);
    }
}
