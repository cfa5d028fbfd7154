//! Endpoints that wait for a lane, because there are fewer lanes than endpoints that want one.
//!
//! Applications take turns, and an application's endpoints in the order in which they came; so one application with very
//! many endpoints keeps the others waiting for one turn, not for all of its own. What waits here is in the store, too, and
//! a start finds it there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use postrider_store::{ApplicationKey, EndpointKey};

use crate::limits::MAX_WAITING_FOR_A_LANE;

/// Places that are not filled from the store: more than an application has endpoints, so that whoever is taken out of the
/// store finds one.
const RESERVED: usize = MAX_WAITING_FOR_A_LANE / 16;

/// Who waits.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    queues: Mutex<Queues>,
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Queues {
    endpoints: HashSet<EndpointKey>,
    of: HashMap<Option<ApplicationKey>, VecDeque<EndpointKey>>,
    /// Whose turn it is next; each application that waits is in it once.
    order: VecDeque<Option<ApplicationKey>>,
}

impl Turns {
    /// Whether anybody waits.
    pub(crate) fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Whether this endpoint waits, or another of the same application does.
    pub(crate) fn has(&self, endpoint: EndpointKey, of: Option<ApplicationKey>) -> bool {
        let queues = self.queues.lock();
        queues.of.contains_key(&of) || queues.endpoints.contains(&endpoint)
    }

    /// Whether there is room for those who wait in the store. The last places are for endpoints that messages come to: whoever
    /// takes more out of the store only puts it back.
    pub(crate) fn has_room(&self) -> bool {
        self.count.load(Ordering::Relaxed) < MAX_WAITING_FOR_A_LANE - RESERVED
    }

    /// Lets an endpoint wait, if it doesn't already; false if there is no place for another of its application, which may
    /// have half of the places that are free.
    pub(crate) fn push(&self, endpoint: EndpointKey, of: Option<ApplicationKey>) -> bool {
        let mut queues = self.queues.lock();
        if queues.endpoints.contains(&endpoint) {
            return true;
        }
        let free = MAX_WAITING_FOR_A_LANE.saturating_sub(queues.endpoints.len());
        let waiting = queues.of.get(&of).map_or(0, VecDeque::len);
        if free == 0 || waiting > free {
            return false;
        }
        if waiting == 0 {
            queues.order.push_back(of);
        }
        queues.of.entry(of).or_default().push_back(endpoint);
        queues.endpoints.insert(endpoint);
        self.count.store(queues.endpoints.len(), Ordering::Relaxed);
        true
    }

    /// The next endpoint whose application is `admitted`.
    pub(crate) fn next(
        &self,
        mut admitted: impl FnMut(Option<ApplicationKey>) -> bool,
    ) -> Option<(EndpointKey, Option<ApplicationKey>)> {
        let mut queues = self.queues.lock();
        for _ in 0..queues.order.len() {
            let of = queues.order.pop_front()?;
            if !admitted(of) {
                queues.order.push_back(of);
                continue;
            }
            let queue = queues.of.get_mut(&of)?;
            let endpoint = queue.pop_front()?;
            if queue.is_empty() {
                queues.of.remove(&of);
            } else {
                queues.order.push_back(of);
            }
            queues.endpoints.remove(&endpoint);
            self.count.store(queues.endpoints.len(), Ordering::Relaxed);
            return Some((endpoint, of));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(turns: &Turns, endpoint: i64, of: i64) -> bool {
        turns.push(EndpointKey(endpoint), Some(ApplicationKey(of)))
    }

    #[test]
    fn applications_take_turns_and_their_endpoints_come_in_order() {
        let turns = Turns::default();
        for endpoint in [1, 2, 3, 3, 1] {
            assert!(push(&turns, endpoint, 1));
        }
        assert!(push(&turns, 9, 2));
        let order: Vec<i64> = std::iter::from_fn(|| turns.next(|_| true)).map(|(endpoint, _)| endpoint.0).collect();
        assert_eq!(order, [1, 9, 2, 3]);
        assert!(!turns.any());
    }

    #[test]
    fn an_application_that_has_its_share_is_passed_over() {
        let turns = Turns::default();
        assert!(push(&turns, 1, 1) && push(&turns, 2, 2));
        let next = turns.next(|of| of == Some(ApplicationKey(2)));
        assert_eq!(next, Some((EndpointKey(2), Some(ApplicationKey(2)))));
        assert_eq!(turns.next(|_| false), None);
        assert!(turns.any());
    }

    #[test]
    fn as_long_as_there_is_room_every_endpoint_of_an_application_finds_a_place() {
        let turns = Turns::default();
        let mut others = (0..).map(|endpoint| push(&turns, endpoint, endpoint / 1_000));
        while turns.has_room() {
            assert_eq!(others.next(), Some(true));
        }
        assert!((1..=1_000).all(|endpoint| push(&turns, -endpoint, -1)));
    }

    #[test]
    fn one_application_leaves_places_for_the_others() {
        let turns = Turns::default();
        let places = (0..).take_while(|endpoint| push(&turns, *endpoint, 1)).count();
        assert!(places <= MAX_WAITING_FOR_A_LANE / 2 + 1, "{places}");
        assert!(push(&turns, -1, 2));
    }
}
