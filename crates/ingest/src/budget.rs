//! A resource that many parties share (bytes, rows, requests), so that none of them can take it from the others.
//!
//! Shares follow a dynamic threshold: a party may take more only while what it holds is less than a fraction of what is
//! still free. The more parties want, the less each gets. A reserve is for those who have next to nothing, so that whoever
//! comes next finds something even when many have taken all that they can. The total is never exceeded. Whoever is refused may wait for a while; how many wait is bounded, too.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

postrider_domain::limits! {
    in "Requests";
    /// Requests of one caller that wait for the same share at a time
    pub const MAX_WAITERS: usize = 256, "requests", beyond "429 or 503 at once";
}

/// The reserve: one part of so many.
const RESERVE: u64 = 8;

/// What a party may have of the reserve beside what it took first: one part of so many of the total, and at least one.
const CRUMB: u64 = 512;

/// A party, and what it may hold: what is free, divided by this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share<K> {
    /// Who.
    pub party: K,
    /// With 1 it gets nearly half of an idle budget at most, with 2 nearly a third, with n one part of n + 1.
    pub divisor: u64,
}

/// Why nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The party has as much as it may have.
    Share,
    /// The party has nothing, and others have taken too much.
    Full,
}

/// A resource with a fixed total, shared out to parties that are told apart by `K`.
#[derive(Debug)]
pub struct Budget<K> {
    total: u64,
    state: Mutex<State<K>>,
    freed: Notify,
}

#[derive(Debug)]
struct State<K> {
    used: u64,
    held: HashMap<K, u64, foldhash::fast::RandomState>,
    waiting: HashMap<K, usize, foldhash::fast::RandomState>,
}

impl<K: Eq + Hash + Clone> Budget<K> {
    /// A budget of which nothing is taken.
    pub fn new(total: u64) -> Arc<Self> {
        let state = State { used: 0, held: HashMap::default(), waiting: HashMap::default() };
        Arc::new(Self { total, state: Mutex::new(state), freed: Notify::new() })
    }

    /// Takes `amount` on behalf of all of `shares`. What is more than a party could ever have counts as the most that it
    /// could have, so that a small budget slows large requests down and does not refuse them for ever.
    ///
    /// # Errors
    /// If one of them would get more than its share.
    pub fn try_take(self: &Arc<Self>, shares: &Arc<[Share<K>]>, amount: u64) -> Result<Held<K>, Refused> {
        let amount = self.fitting(shares, amount);
        self.reserve(shares, amount)?;
        Ok(Held { budget: Arc::clone(self), shares: Arc::clone(shares), amount })
    }

    /// The same, but waits up to `patience` for what others give back.
    ///
    /// # Errors
    /// If there was not enough in all that time, or too many wait already.
    pub async fn take(
        self: &Arc<Self>,
        shares: &Arc<[Share<K>]>,
        amount: u64,
        patience: Duration,
    ) -> Result<Held<K>, Refused> {
        let mut held = Held { budget: Arc::clone(self), shares: Arc::clone(shares), amount: 0 };
        held.grow(amount, patience).await?;
        Ok(held)
    }

    /// How much is taken at present.
    pub fn used(&self) -> u64 {
        self.state.lock().used
    }

    /// As much of `amount` as one request can have while nobody else has anything.
    fn fitting(&self, shares: &[Share<K>], amount: u64) -> u64 {
        let most = shares.iter().map(|share| (self.total - self.total / RESERVE) / (share.divisor + 1)).min();
        amount.min(most.unwrap_or(self.total))
    }

    fn reserve(&self, shares: &[Share<K>], amount: u64) -> Result<(), Refused> {
        let mut state = self.state.lock();
        let left = self.total.saturating_sub(state.used).checked_sub(amount);
        for share in shares {
            let held = state.held.get(&share.party).copied().unwrap_or(0);
            let wanted = held.saturating_add(amount);
            // Compared with what is left afterwards.
            let fits = left.is_some_and(|left| {
                let shared = left.saturating_sub(self.total / RESERVE);
                // Whoever has nothing gets one thing out of the reserve, if it is not too large.
                let first = if held == 0 { self.total / RESERVE } else { self.total / CRUMB };
                wanted.saturating_mul(share.divisor) <= shared || wanted <= first.max(1)
            });
            if !fits {
                return Err(if held > 0 { Refused::Share } else { Refused::Full });
            }
        }
        if left.is_none() {
            return Err(Refused::Full);
        }
        state.used += amount;
        for share in shares {
            *state.held.entry(share.party.clone()).or_insert(0) += amount;
        }
        Ok(())
    }

    fn give_back(&self, shares: &[Share<K>], amount: u64) {
        if amount == 0 {
            return;
        }
        let has_waiters = {
            let mut state = self.state.lock();
            state.used -= amount;
            for share in shares {
                if let Some(held) = state.held.get_mut(&share.party) {
                    *held -= amount;
                    if *held == 0 {
                        state.held.remove(&share.party);
                    }
                }
            }
            !state.waiting.is_empty()
        };
        if has_waiters {
            self.freed.notify_waiters();
        }
    }

    /// Lines up on behalf of the last of `shares`, who is the one that asks.
    fn line_up(self: &Arc<Self>, shares: &[Share<K>]) -> Option<Waiter<K>> {
        let party = shares.last()?.party.clone();
        let mut state = self.state.lock();
        let waiting = state.waiting.entry(party.clone()).or_insert(0);
        if *waiting >= MAX_WAITERS {
            return None;
        }
        *waiting += 1;
        drop(state);
        Some(Waiter { budget: Arc::clone(self), party })
    }
}

/// A place among those who wait.
struct Waiter<K: Eq + Hash + Clone> {
    budget: Arc<Budget<K>>,
    party: K,
}

impl<K: Eq + Hash + Clone> Drop for Waiter<K> {
    fn drop(&mut self) {
        let mut state = self.budget.state.lock();
        if let Some(waiting) = state.waiting.get_mut(&self.party) {
            *waiting -= 1;
            if *waiting == 0 {
                state.waiting.remove(&self.party);
            }
        }
    }
}

/// What was taken of a budget; given back when it is dropped.
#[derive(Debug)]
pub struct Held<K: Eq + Hash + Clone> {
    budget: Arc<Budget<K>>,
    shares: Arc<[Share<K>]>,
    amount: u64,
}

impl<K: Eq + Hash + Clone> Held<K> {
    /// How much it is.
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Takes `amount` more, waiting up to `patience` for it.
    ///
    /// # Errors
    /// If there was not enough in all that time; what was held already is still held.
    pub async fn grow(&mut self, amount: u64, patience: Duration) -> Result<(), Refused> {
        let amount = self.budget.fitting(&self.shares, self.amount.saturating_add(amount)).saturating_sub(self.amount);
        let Err(refused) = self.try_grow(amount) else { return Ok(()) };
        let budget = Arc::clone(&self.budget);
        let Some(_waiter) = budget.line_up(&self.shares) else { return Err(refused) };
        let waited = tokio::time::timeout(patience, async {
            loop {
                let mut freed = std::pin::pin!(budget.freed.notified());
                // From here on nothing that is given back is missed.
                freed.as_mut().enable();
                if self.try_grow(amount).is_ok() {
                    return;
                }
                freed.await;
            }
        });
        waited.await.map_err(|_| refused)
    }

    fn try_grow(&mut self, amount: u64) -> Result<(), Refused> {
        self.budget.reserve(&self.shares, amount)?;
        self.amount += amount;
        Ok(())
    }

    /// Gives back what is more than `amount`.
    pub fn shrink_to(&mut self, amount: u64) {
        let excess = self.amount.saturating_sub(amount);
        self.budget.give_back(&self.shares, excess);
        self.amount -= excess;
    }
}

impl<K: Eq + Hash + Clone> Drop for Held<K> {
    fn drop(&mut self) {
        self.budget.give_back(&self.shares, self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(party: u32, divisor: u64) -> Arc<[Share<u32>]> {
        Arc::new([Share { party, divisor }])
    }

    /// Takes ones for a party until it is refused.
    fn fill(budget: &Arc<Budget<u32>>, shares: &Arc<[Share<u32>]>) -> Vec<Held<u32>> {
        std::iter::from_fn(|| budget.try_take(shares, 1).ok()).collect()
    }

    #[test]
    fn one_party_never_takes_all() {
        let budget = Budget::new(1_000);
        assert_eq!(fill(&budget, &of(1, 1)).len(), 437);
        assert_eq!(budget.used(), 0, "everything was given back");
        assert_eq!(fill(&budget, &of(1, 4)).len(), 175);
    }

    #[test]
    fn fifty_greedy_parties_leave_something_for_the_next() {
        let budget = Budget::new(1_000_000);
        let held: Vec<_> = (0..50).map(|party| budget.try_take(&of(party, 1), u64::MAX)).collect();
        let greedy: Vec<_> = (0..50).flat_map(|party| fill(&budget, &of(party, 1))).collect();
        assert!(budget.used() <= 1_000_000);
        assert!(budget.try_take(&of(1_000, 1), 1_000).is_ok());
        drop((held, greedy));
        assert_eq!(budget.used(), 0);
        assert!(budget.state.lock().held.is_empty());
    }

    #[test]
    fn the_total_is_never_exceeded_and_what_is_too_large_counts_as_much_as_there_can_be() {
        let budget = Budget::new(100);
        let all = budget.try_take(&of(1, 1), 1_000).unwrap();
        assert_eq!((all.amount(), budget.used()), (44, 44));
        assert_eq!(budget.try_take(&of(1, 1), 1).unwrap_err(), Refused::Share);
        let more: Vec<_> = (2..1_000).map(|party| budget.try_take(&of(party, 1), 7)).collect();
        assert!(budget.used() <= 100);
        assert!(more.iter().any(|taken| matches!(taken, Err(Refused::Full))));
    }

    #[test]
    fn a_group_has_a_share_of_its_own() {
        let budget = Budget::new(800);
        let member =
            |party| -> Arc<[Share<u32>]> { Arc::new([Share { party: 0, divisor: 2 }, Share { party, divisor: 2 }]) };
        let held: Vec<_> = (1..100).flat_map(|party| fill(&budget, &member(party))).collect();
        assert_eq!(held.len(), 233, "all members together have a third of what is no reserve");
        assert!(budget.try_take(&of(1_000, 1), 200).is_ok());
    }

    #[tokio::test]
    async fn whoever_waits_gets_what_is_given_back() {
        let budget = Budget::new(100);
        let shares = of(1, 1);
        let held = budget.try_take(&shares, 44).unwrap();
        assert_eq!(budget.take(&shares, 1, Duration::from_millis(1)).await.unwrap_err(), Refused::Share);
        let waiting = budget.take(&shares, 44, Duration::from_secs(600));
        let (taken, ()) = tokio::join!(waiting, async {
            tokio::task::yield_now().await;
            drop(held);
        });
        assert_eq!(taken.unwrap().amount(), 44);
        assert!(budget.state.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn only_so_many_wait() {
        let budget = Budget::new(100);
        let shares = of(1, 1);
        let held = budget.try_take(&shares, 44).unwrap();
        let waiting: Vec<_> = (0..MAX_WAITERS)
            .map(|_| {
                let (budget, shares) = (Arc::clone(&budget), Arc::clone(&shares));
                tokio::spawn(async move { budget.take(&shares, 1, Duration::from_secs(600)).await.map(drop) })
            })
            .collect();
        while budget.state.lock().waiting.get(&1) != Some(&MAX_WAITERS) {
            tokio::task::yield_now().await;
        }
        let one_more = budget.take(&shares, 1, Duration::from_secs(600)).await;
        assert_eq!(one_more.unwrap_err(), Refused::Share);
        drop(held);
        for waiter in waiting {
            waiter.await.unwrap().unwrap();
        }
    }
}
