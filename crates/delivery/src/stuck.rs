//! Deliveries whose results cannot be stored, because of what is in them or in their endpoints' rows.
//!
//! They are in the store as they were before, and would be sent again and again. So they are left out of what lanes load until
//! the next start, and nothing else is kept of them: neither lanes nor memory.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;
use postrider_store::{DeliveryKey, EndpointKey};

use crate::lane::Budgets;
use crate::results::Unsettled;

postrider_domain::limits! {
    in "Delivering";
    /// Deliveries whose results could not be stored, which are not made again before the next start
    pub(crate) const MAX_STUCK: usize = 16_384, "deliveries", beyond "their endpoints may send nothing until the next start";
    /// Of one endpoint
    pub(crate) const MAX_STUCK_OF_ENDPOINT: usize = 2_048, "deliveries", beyond "it may send nothing until the next start";
}

/// What they take at most, in bytes; a table that has just grown is half empty.
pub(crate) const STUCK_BYTES: u64 = (MAX_STUCK * 2 * size_of::<(EndpointKey, DeliveryKey)>()) as u64;

type Keys = HashSet<DeliveryKey, foldhash::fast::RandomState>;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Stuck(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    by_endpoint: HashMap<EndpointKey, Keys>,
    count: usize,
}

impl Stuck {
    /// Leaves a delivery out from now on; false if there is no place for it.
    fn add(&self, endpoint: EndpointKey, delivery: DeliveryKey) -> bool {
        let mut all = self.0.lock();
        let of_endpoint = all.by_endpoint.get(&endpoint).map_or(0, HashSet::len);
        if all.count >= MAX_STUCK || of_endpoint >= MAX_STUCK_OF_ENDPOINT {
            return false;
        }
        if all.by_endpoint.entry(endpoint).or_default().insert(delivery) {
            all.count += 1;
        }
        true
    }

    /// Adds those of an endpoint to what a load has to leave out.
    pub(crate) fn leave_out(&self, endpoint: EndpointKey, after: Option<DeliveryKey>, held: &mut HashSet<DeliveryKey>) {
        let all = self.0.lock();
        let own = all.by_endpoint.get(&endpoint).into_iter().flatten();
        held.extend(own.filter(|key| Some(**key) > after));
    }

    /// Takes a delivery out of its lane whose result cannot be stored. Where there is no place for it, it stays held there.
    pub(crate) fn take(&self, unsettled: &Unsettled, budgets: &Budgets) {
        let Unsettled { lane, held, settlement } = unsettled;
        let answer_bytes = unsettled.answer_bytes();
        if !self.add(lane.key, settlement.delivery) {
            return budgets.memory.of_answer(answer_bytes).discharge(unsettled.owner(), answer_bytes);
        }
        let mut state = lane.state.lock();
        match held {
            Some(held) => state.settled(held, None, answer_bytes, budgets),
            None => state.canceled(&settlement.delivery),
        }
    }
}

#[cfg(test)]
mod tests {
    use postrider_domain::time::Timestamp;
    use postrider_store::MessageKey;

    use super::*;

    #[test]
    fn so_many_of_an_endpoint_and_so_many_in_all_are_left_out() {
        let (stuck, at) = (Stuck::default(), Timestamp::EPOCH);
        let add = |endpoint: i64, message: i64| {
            stuck.add(EndpointKey(endpoint), DeliveryKey { due_at: at, message: MessageKey(message) })
        };
        assert_eq!((0..).take_while(|message| add(1, *message)).count(), MAX_STUCK_OF_ENDPOINT);
        assert_eq!((2..).take_while(|endpoint| add(*endpoint, 1)).count(), MAX_STUCK - MAX_STUCK_OF_ENDPOINT);
    }
}
