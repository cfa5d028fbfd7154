//! A resource that many parties share (bytes, rows, requests), so that none of them can take it from the others.
//!
//! Shares follow a dynamic threshold: a party may take more only while what it holds is less than a fraction of what is
//! still free. The more parties want, the less each gets. A reserve is for those who have next to nothing, so that whoever
//! comes next finds something even when many have taken all that they can. The total is never exceeded. Whoever is refused may wait for a while; how many wait is bounded, too.
//!
//! **Who waits.** What is given back is handed to those who wait, in the order in which they came, and only they are woken: whoever is
//! woken has what he waited for. Each time so many of them are looked at, of each party the first few, and the next time others come
//! first. So giving something back costs the same however many wait, and nobody is passed over for ever: as long as something is
//! taken, there is another time; when nothing is, everybody fits.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

postrider_domain::limits! {
    in "Requests";
    /// Requests of one caller that wait for the same share at a time
    pub const MAX_WAITERS: usize = 256, "requests", beyond "429 or 503 at once";
}

/// The reserve: one part of so many.
const RESERVE: u64 = 8;

/// What a party may have of the reserve beside what it took first: one part of so many of the total, and at least one.
const CRUMB: u64 = 512;

/// How many of those who wait are looked at when something is given back, in all and of one party.
const MAX_LOOKS: usize = 64;
const MAX_LOOKS_OF_PARTY: usize = 8;

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
}

#[derive(Debug)]
struct State<K> {
    total: u64,
    used: u64,
    held: HashMap<K, u64, foldhash::fast::RandomState>,
    /// Those who wait, by who asks.
    waiting: HashMap<K, VecDeque<Wish<K>>, foldhash::fast::RandomState>,
    /// Whoever has somebody waiting, in the order in which they are looked at.
    turns: VecDeque<K>,
    /// The number of the next wish.
    next: u64,
}

/// What somebody waits for.
#[derive(Debug)]
struct Wish<K> {
    number: u64,
    shares: Arc<[Share<K>]>,
    amount: u64,
    granted: oneshot::Sender<()>,
}

impl<K: Eq + Hash + Clone> Budget<K> {
    /// A budget of which nothing is taken.
    pub fn new(total: u64) -> Arc<Self> {
        let state = State {
            total,
            used: 0,
            held: HashMap::default(),
            waiting: HashMap::default(),
            turns: VecDeque::new(),
            next: 0,
        };
        Arc::new(Self { total, state: Mutex::new(state) })
    }

    /// Takes `amount` on behalf of all of `shares`. What is more than a party could ever have counts as the most that it
    /// could have, so that a small budget slows large requests down and does not refuse them for ever.
    ///
    /// # Errors
    /// If one of them would get more than its share.
    pub fn try_take(self: &Arc<Self>, shares: &Arc<[Share<K>]>, amount: u64) -> Result<Held<K>, Refused> {
        let amount = self.fitting(shares, amount);
        self.state.lock().reserve(shares, amount)?;
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

    fn give_back(&self, shares: &[Share<K>], amount: u64) {
        if amount > 0 {
            self.state.lock().give_back(shares, amount);
        }
    }

    /// Lines up on behalf of the last of `shares`, who is the one that asks; `None` if there is enough by now.
    fn line_up(self: &Arc<Self>, shares: &Arc<[Share<K>]>, amount: u64) -> Result<Option<Waiter<K>>, Refused> {
        let mut state = self.state.lock();
        let Err(refused) = state.reserve(shares, amount) else { return Ok(None) };
        let party = shares.last().ok_or(refused)?.party.clone();
        let line = state.waiting.entry(party.clone()).or_default();
        if line.len() >= MAX_WAITERS {
            return Err(refused);
        }
        let is_first = line.is_empty();
        let (granted, answer) = oneshot::channel();
        let number = state.next;
        state.next += 1;
        if is_first {
            state.turns.push_back(party.clone());
        }
        let wish = Wish { number, shares: Arc::clone(shares), amount, granted };
        state.waiting.entry(party.clone()).or_default().push_back(wish);
        drop(state);
        Ok(Some(Waiter {
            budget: Arc::clone(self),
            shares: Arc::clone(shares),
            party,
            number,
            amount,
            answer,
            refused,
        }))
    }
}

impl<K: Eq + Hash + Clone> State<K> {
    fn reserve(&mut self, shares: &[Share<K>], amount: u64) -> Result<(), Refused> {
        let left = self.total.saturating_sub(self.used).checked_sub(amount);
        for share in shares {
            let held = self.held.get(&share.party).copied().unwrap_or(0);
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
        self.used += amount;
        for share in shares {
            *self.held.entry(share.party.clone()).or_insert(0) += amount;
        }
        Ok(())
    }

    fn give_back(&mut self, shares: &[Share<K>], amount: u64) {
        self.used -= amount;
        for share in shares {
            if let Some(held) = self.held.get_mut(&share.party) {
                *held -= amount;
                if *held == 0 {
                    self.held.remove(&share.party);
                }
            }
        }
        self.hand_out();
    }

    /// Hands what is free to those who wait for it.
    fn hand_out(&mut self) {
        let mut looks = 0;
        for _ in 0..self.turns.len() {
            if looks >= MAX_LOOKS {
                return;
            }
            let Some(party) = self.turns.pop_front() else { return };
            let Some(mut line) = self.waiting.remove(&party) else { continue };
            looks += self.look_at(&mut line);
            if !line.is_empty() {
                self.waiting.insert(party.clone(), line);
                self.turns.push_back(party);
            }
        }
    }

    /// Grants what fits of the first wishes of a party; says how many were looked at.
    fn look_at(&mut self, line: &mut VecDeque<Wish<K>>) -> usize {
        let (mut looks, mut passed) = (0, 0);
        // A few are passed that want more than there is: what somebody behind them has may be what they wait for.
        while passed < MAX_LOOKS_OF_PARTY
            && let Some(Wish { shares, amount, .. }) = line.get(passed)
        {
            looks += 1;
            let (shares, amount) = (Arc::clone(shares), *amount);
            if self.reserve(&shares, amount).is_err() {
                passed += 1;
            } else if let Some(wish) = line.remove(passed) {
                // Whoever gave up has left the line before he lets go of his end.
                let _ = wish.granted.send(());
            }
        }
        looks
    }
}

/// A place among those who wait. What was granted and is not taken goes back.
struct Waiter<K: Eq + Hash + Clone> {
    budget: Arc<Budget<K>>,
    shares: Arc<[Share<K>]>,
    party: K,
    number: u64,
    amount: u64,
    answer: oneshot::Receiver<()>,
    refused: Refused,
}

impl<K: Eq + Hash + Clone> Waiter<K> {
    /// Waits for what was wished for, which is the caller's then.
    async fn wait(mut self, patience: Duration) -> Result<(), Refused> {
        match tokio::time::timeout(patience, &mut self.answer).await {
            Ok(Ok(())) => {
                self.amount = 0;
                Ok(())
            }
            _ => Err(self.refused),
        }
    }
}

impl<K: Eq + Hash + Clone> Drop for Waiter<K> {
    fn drop(&mut self) {
        if self.amount == 0 {
            return;
        }
        let mut state = self.budget.state.lock();
        let state = &mut *state;
        let place = |line: &VecDeque<Wish<K>>| line.iter().position(|wish| wish.number == self.number);
        let waits =
            state.waiting.get_mut(&self.party).and_then(|line| place(line).and_then(|place| line.remove(place)));
        match waits {
            Some(_) => {
                if state.waiting.get(&self.party).is_some_and(VecDeque::is_empty) {
                    state.waiting.remove(&self.party);
                    state.turns.retain(|party| *party != self.party);
                }
            }
            // It was granted meanwhile.
            None => state.give_back(&self.shares, self.amount),
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
        if amount == 0 {
            return Ok(());
        }
        if let Some(waiter) = self.budget.line_up(&self.shares, amount)? {
            waiter.wait(patience).await?;
        }
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
        while budget.state.lock().waiting.get(&1).map(VecDeque::len) != Some(MAX_WAITERS) {
            tokio::task::yield_now().await;
        }
        let one_more = budget.take(&shares, 1, Duration::from_secs(600)).await;
        assert_eq!(one_more.unwrap_err(), Refused::Share);
        drop(held);
        for waiter in waiting {
            waiter.await.unwrap().unwrap();
        }
    }

    /// Counts how often those who wait are woken.
    struct Wakes(std::sync::atomic::AtomicUsize);

    impl std::task::Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn only_those_are_woken_who_get_something_and_in_the_order_in_which_they_came() {
        let budget = Budget::new(1_000);
        let group =
            |party| -> Arc<[Share<u32>]> { Arc::new([Share { party: 0, divisor: 2 }, Share { party, divisor: 4 }]) };
        let mut held: Vec<_> = (1..=5).flat_map(|party| fill(&budget, &group(party))).collect();
        let wakes = Arc::new(Wakes(0.into()));
        let waker = std::task::Waker::from(Arc::clone(&wakes));
        let mut context = std::task::Context::from_waker(&waker);
        let woken = || wakes.0.load(std::sync::atomic::Ordering::Relaxed);
        let mut waiting = Vec::new();
        for number in 0..5 * MAX_WAITERS {
            let (budget, shares) = (Arc::clone(&budget), group(1 + number as u32 % 5));
            let mut one = Box::pin(async move { budget.take(&shares, 1, Duration::from_secs(600)).await });
            assert!(one.as_mut().poll(&mut context).is_pending());
            waiting.push(one);
        }
        // What others take and give back concerns nobody who has his share.
        for _ in 0..1_000 {
            drop(budget.try_take(&of(9, 1), 10).unwrap());
        }
        assert_eq!(woken(), 0);
        held.truncate(held.len() - 20);
        let given = woken();
        assert!((1..=20).contains(&given), "{given} were woken for 20 that were given back");
        let mut first = waiting.iter_mut().take(60).filter_map(|one| match one.as_mut().poll(&mut context) {
            std::task::Poll::Ready(taken) => Some(taken.unwrap()),
            std::task::Poll::Pending => None,
        });
        assert!(first.next().is_some(), "who came first has it");
    }

    #[tokio::test]
    async fn what_is_granted_to_somebody_who_has_gone_goes_back() {
        let budget = Budget::new(100);
        let shares = of(1, 1);
        let held = budget.try_take(&shares, 44).unwrap();
        let waker = std::task::Waker::noop();
        let mut gone = Box::pin(budget.take(&shares, 44, Duration::from_secs(600)));
        let mut next = Box::pin(budget.take(&shares, 44, Duration::from_secs(600)));
        for one in [&mut gone, &mut next] {
            assert!(one.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
        }
        drop(held);
        assert_eq!(budget.used(), 44, "it is the first one's");
        drop(gone);
        assert_eq!(next.await.unwrap().amount(), 44);
        assert_eq!(budget.used(), 0);
        assert!(budget.state.lock().waiting.is_empty() && budget.state.lock().turns.is_empty());
    }

    #[tokio::test]
    async fn one_who_wants_much_keeps_nobody_behind_him_waiting() {
        let budget = Budget::new(100);
        let shares = of(1, 1);
        let mut held = budget.try_take(&shares, 44).unwrap();
        let waker = std::task::Waker::noop();
        let mut much = Box::pin(budget.take(&shares, 44, Duration::from_secs(600)));
        assert!(much.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
        let little = budget.take(&shares, 4, Duration::from_secs(600));
        let (little, ()) = tokio::join!(little, async {
            tokio::task::yield_now().await;
            held.shrink_to(40);
        });
        assert_eq!(little.unwrap().amount(), 4);
        drop(held);
        assert_eq!(much.await.unwrap().amount(), 44);
    }
}
