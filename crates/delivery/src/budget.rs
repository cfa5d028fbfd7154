//! What all lanes share: bytes of memory for waiting messages, and requests under way.
//!
//! Shares follow a dynamic threshold: a lane may take more as long as what it has is less than a fraction of what is still
//! free. The more lanes want, the less each gets, and there is always something left for the next one; an endpoint that
//! hangs can't fill the house. Every lane may have one of each, whatever is free.

use std::sync::atomic::{AtomicI64, Ordering};

/// A resource with a fixed total.
#[derive(Debug)]
pub(crate) struct Budget {
    free: AtomicI64,
    /// A lane's share may reach what is free divided by this.
    divisor: i64,
}

impl Budget {
    pub(crate) fn new(total: u64, divisor: i64) -> Self {
        Self { free: AtomicI64::new(i64::try_from(total).unwrap_or(i64::MAX)), divisor }
    }

    /// Takes `amount` for a lane that has `share` already; false if that would be more than its due.
    pub(crate) fn try_take(&self, share: u64, amount: u64) -> bool {
        let wanted = i64::try_from(share.saturating_add(amount)).unwrap_or(i64::MAX);
        if share > 0 && wanted > self.free.load(Ordering::Relaxed) / self.divisor {
            return false;
        }
        // Two lanes may pass the check at once; the excess is at most one item each.
        self.free.fetch_sub(i64::try_from(amount).unwrap_or(i64::MAX), Ordering::Relaxed);
        true
    }

    pub(crate) fn give_back(&self, amount: u64) {
        self.free.fetch_add(i64::try_from(amount).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// What is left; nothing if it is overdrawn.
    pub(crate) fn free(&self) -> u64 {
        u64::try_from(self.free.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes ones for a lane until it is refused; returns its share.
    fn fill(budget: &Budget) -> u64 {
        (0..).take_while(|share| budget.try_take(*share, 1)).count() as u64
    }

    #[test]
    fn one_lane_never_takes_all() {
        let budget = Budget::new(1_000, 2);
        let share = fill(&budget);
        assert!((300..=500).contains(&share), "{share}");
    }

    #[test]
    fn a_thousand_greedy_lanes_leave_something_for_the_next() {
        let budget = Budget::new(100_000, 2);
        for _ in 0..1_000 {
            fill(&budget);
        }
        assert!(fill(&budget) >= 1);
    }

    #[test]
    fn every_lane_may_have_one_even_if_nothing_is_free() {
        let budget = Budget::new(0, 2);
        assert!(budget.try_take(0, 10));
        assert!(!budget.try_take(10, 1));
        assert_eq!(budget.free(), 0);
        budget.give_back(10);
        assert_eq!(budget.free(), 0);
    }
}
