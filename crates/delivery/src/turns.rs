//! Endpoints that wait for a lane, because there are fewer lanes than endpoints that want one.
//!
//! Environments take turns, of each its applications, and an application's endpoints in the order in which they came; so one
//! with very many keeps the others waiting for one turn, not for all of its own. What waits here is in the store, too, and a
//! start finds it there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use postrider_store::{EndpointKey, EnvironmentKey};

use crate::budget::has_due;
use crate::holders::{Environments, Whose};
use crate::limits::MAX_WAITING_FOR_A_LANE;
use crate::lines::Lines;

/// Places that are not filled from the store: more than an application has endpoints, so that whoever is taken out of the
/// store finds one.
const RESERVED: usize = MAX_WAITING_FOR_A_LANE / 16;

/// Who waits.
#[derive(Debug)]
pub(crate) struct Turns {
    queues: Mutex<Queues>,
    count: AtomicUsize,
    environments: Arc<Environments>,
}

#[derive(Debug, Default)]
struct Queues {
    endpoints: HashSet<EndpointKey>,
    /// How many of each application wait, wherever they stand.
    of: HashMap<Whose, usize>,
    lines: Lines<EndpointKey>,
}

impl Turns {
    pub(crate) fn new(environments: &Arc<Environments>) -> Self {
        Self { queues: Mutex::default(), count: AtomicUsize::new(0), environments: Arc::clone(environments) }
    }

    /// Whether anybody waits.
    pub(crate) fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Whether this endpoint waits, or another of the same application does.
    pub(crate) fn has(&self, endpoint: EndpointKey, of: Whose) -> bool {
        let queues = self.queues.lock();
        queues.of.contains_key(&of) || queues.endpoints.contains(&endpoint)
    }

    /// Whether there is room for those who wait in the store. The last places are for endpoints that messages come to: whoever
    /// takes more out of the store only puts it back. One environment never takes all of the others.
    pub(crate) fn has_room(&self) -> bool {
        self.count.load(Ordering::Relaxed) < MAX_WAITING_FOR_A_LANE - RESERVED
    }

    /// Lets an endpoint wait, if it doesn't already; false if there is no place for another of its application, which may
    /// have as many as it leaves of what there is for its environment.
    pub(crate) fn push(&self, endpoint: EndpointKey, of: Whose) -> bool {
        let mut queues = self.queues.lock();
        if queues.endpoints.contains(&endpoint) {
            return true;
        }
        let environment = self.environments.of(of);
        let free = MAX_WAITING_FOR_A_LANE.saturating_sub(queues.endpoints.len());
        let own = queues.of.get(&of).copied().unwrap_or(0);
        if !has_due(own, queues.lines.count_of(environment), free) {
            return false;
        }
        queues.lines.push(environment, of, endpoint);
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
        let (endpoint, of) = queues.lines.next(has_room, admitted)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_store::ApplicationKey;

    fn turns() -> Turns {
        Turns::new(&Arc::default())
    }

    fn push(turns: &Turns, endpoint: i64, of: i64) -> bool {
        turns.push(EndpointKey(endpoint), Some(ApplicationKey(of)))
    }

    #[test]
    fn applications_take_turns_and_their_endpoints_come_in_order() {
        let turns = turns();
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
        let turns = turns();
        assert!(push(&turns, 1, 1) && push(&turns, 2, 2));
        let next = turns.next(|_| true, |of| of == Some(ApplicationKey(2)));
        assert_eq!(next, Some((EndpointKey(2), Some(ApplicationKey(2)))));
        assert_eq!(turns.next(|_| true, |_| false), None);
        assert_eq!(turns.next(|_| false, |_| true), None);
        assert!(turns.any());
    }

    #[test]
    fn as_long_as_there_is_room_every_endpoint_of_an_application_finds_a_place() {
        let environments = Arc::new(Environments::default());
        for of in 0..100 {
            environments.learn(ApplicationKey(of), EnvironmentKey(of % 10));
        }
        let turns = Turns::new(&environments);
        let mut others = (0..).map(|endpoint| push(&turns, endpoint, endpoint / 1_000));
        while turns.has_room() {
            assert_eq!(others.next(), Some(true));
        }
        assert!((1..=1_000).all(|endpoint| push(&turns, -endpoint, -1)));
    }

    #[test]
    fn one_application_leaves_places_for_the_others() {
        let turns = turns();
        let places = (0..).take_while(|endpoint| push(&turns, *endpoint, 1)).count();
        assert!(places <= MAX_WAITING_FOR_A_LANE / 2 + 1, "{places}");
        assert!(push(&turns, -1, 2));
    }

    #[test]
    fn one_environment_leaves_places_for_the_others_and_takes_turns_with_them() {
        let environments = Arc::new(Environments::default());
        for of in 0..200 {
            environments.learn(ApplicationKey(of), EnvironmentKey(i64::from(of == 0)));
        }
        let turns = Turns::new(&environments);
        let crowd = (1_000..100_000).filter(|endpoint| push(&turns, *endpoint, 1 + endpoint % 199)).count();
        assert!((MAX_WAITING_FOR_A_LANE / 2..=MAX_WAITING_FOR_A_LANE * 3 / 4).contains(&crowd), "{crowd}");
        assert!(turns.has_room() && push(&turns, 1, 0) && push(&turns, 2, 0));
        let order: Vec<_> =
            (0..4).filter_map(|_| turns.next(|_| true, |_| true)).map(|(endpoint, _)| endpoint.0 < 10).collect();
        assert_eq!(order, [false, true, false, true]);
    }
}
