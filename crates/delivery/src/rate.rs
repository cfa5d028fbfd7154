//! Rate limits of endpoints and applications: messages per second.
//!
//! A token bucket of one tenth of a second's worth, at least one: even over any second it exceeds the rate by at most that
//! much. Twenty lines of arithmetic on our own injected clock; a library would need the clock adapted and the waiting
//! rewritten.
//!
//! Buckets outlive the lanes that use them, or every pause in the traffic would fill them. One that is full again is the
//! same as none, and goes.

use std::collections::HashMap;

use parking_lot::Mutex;
use postrider_domain::time::Timestamp;
use postrider_store::{ApplicationKey, EndpointKey};

/// Tokens of one millionth of a message.
const MESSAGE: i64 = 1_000_000;

/// Full buckets are looked for when there are this many, and then whenever their number has doubled.
const FIRST_CLEANING: usize = 1_024;

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Limited {
    Endpoint(EndpointKey),
    Application(ApplicationKey),
}

/// The limits that a request has to keep: of its endpoint, and of its application.
pub(crate) type Limits = [Option<(Limited, u16)>; 2];

/// All buckets that are not full.
#[derive(Debug)]
pub(crate) struct RateBook(Mutex<Book>);

#[derive(Debug)]
struct Book {
    buckets: HashMap<Limited, Rate, foldhash::fast::RandomState>,
    clean_at: usize,
}

impl Default for RateBook {
    fn default() -> Self {
        Self(Mutex::new(Book { buckets: HashMap::default(), clean_at: FIRST_CLEANING }))
    }
}

impl RateBook {
    /// Uses one message's worth of each limit, or none of any: then the instant at which to try again.
    pub(crate) fn try_take(&self, limits: &Limits, now: Timestamp) -> Result<(), Timestamp> {
        if limits.iter().all(Option::is_none) {
            return Ok(());
        }
        let mut book = self.0.lock();
        let ready_at = limits.iter().flatten().filter_map(|limit| book.bucket(*limit, now).ready_at(now)).max();
        if let Some(at) = ready_at {
            return Err(at);
        }
        for limit in limits.iter().flatten() {
            book.bucket(*limit, now).take();
        }
        book.clean(now);
        Ok(())
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().buckets.len()
    }
}

impl Book {
    fn bucket(&mut self, (whose, per_second): (Limited, u16), now: Timestamp) -> &mut Rate {
        let bucket = self.buckets.entry(whose).or_insert_with(|| Rate::new(per_second, now));
        bucket.set(per_second, now);
        bucket
    }

    fn clean(&mut self, now: Timestamp) {
        if self.buckets.len() >= self.clean_at {
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
            self.clean_at = (self.buckets.len() * 2).max(FIRST_CLEANING);
        }
    }
}

/// A token bucket.
#[derive(Debug, Clone)]
struct Rate {
    per_second: i64,
    tokens: i64,
    filled_at: Timestamp,
}

impl Rate {
    fn new(per_second: u16, now: Timestamp) -> Self {
        let per_second = i64::from(per_second.max(1));
        Self { per_second, tokens: Self::capacity(per_second), filled_at: now }
    }

    fn capacity(per_second: i64) -> i64 {
        (per_second * MESSAGE / 10).max(MESSAGE)
    }

    /// The rate may have been changed; what was used stays used.
    fn set(&mut self, per_second: u16, now: Timestamp) {
        let per_second = i64::from(per_second.max(1));
        if self.per_second != per_second {
            self.fill(now);
            self.per_second = per_second;
            self.tokens = self.tokens.min(Self::capacity(per_second));
        }
    }

    fn fill(&mut self, now: Timestamp) {
        // A second's worth fills any bucket; more could overflow.
        let elapsed_micros = i64::try_from(now.since(self.filled_at).as_micros()).unwrap_or(i64::MAX).min(1_000_000);
        self.tokens = (self.tokens + elapsed_micros * self.per_second).min(Self::capacity(self.per_second));
        self.filled_at = self.filled_at.max(now);
    }

    fn is_full(&mut self, now: Timestamp) -> bool {
        self.fill(now);
        self.tokens == Self::capacity(self.per_second)
    }

    /// When the next message may go: `None` is now.
    fn ready_at(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.fill(now);
        let missing = MESSAGE - self.tokens;
        (missing > 0)
            .then(|| Timestamp::from_micros(now.as_micros() + (missing + self.per_second - 1) / self.per_second))
    }

    /// Uses one message's worth, after [`Rate::ready_at`] said now.
    fn take(&mut self) {
        self.tokens -= MESSAGE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const START: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);
    const ENDPOINT: Limited = Limited::Endpoint(EndpointKey(1));
    const APPLICATION: Limited = Limited::Application(ApplicationKey(1));

    fn after(millis: u64) -> Timestamp {
        START.saturating_add(Duration::from_millis(millis))
    }

    proptest! {
        #[test]
        fn no_second_sees_more_than_the_rate_and_a_tenth(rate in 1u16..2_000) {
            let (mut bucket, mut now, mut sent) = (Rate::new(rate, START), START, 0i64);
            while now < START.saturating_add(Duration::from_secs(3)) {
                match bucket.ready_at(now) {
                    None => { bucket.take(); sent += 1; }
                    Some(at) => { prop_assert!(at > now); now = at; }
                }
            }
            let most = 3 * i64::from(rate) + i64::from(rate) / 10 + 2;
            prop_assert!(sent <= most, "{} of {}", sent, most);
            prop_assert!(sent >= 3 * i64::from(rate) - 2, "the rate is also reached: {}", sent);
        }
    }

    #[test]
    fn a_clock_that_stands_still_or_a_long_pause_does_no_harm() {
        let mut bucket = Rate::new(10, START);
        bucket.take();
        assert!(bucket.ready_at(START).is_some());
        assert_eq!(bucket.ready_at(START.saturating_add(Duration::from_secs(1_000_000_000))), None);
        assert!(bucket.tokens <= MESSAGE);
    }

    #[test]
    fn a_limit_holds_for_messages_that_come_one_by_one_with_pauses() {
        let (book, limits) = (RateBook::default(), [Some((ENDPOINT, 1)), None]);
        let sent = (0..23).filter(|tenth| book.try_take(&limits, after(tenth * 100)).is_ok()).count();
        assert_eq!(sent, 3);
    }

    #[test]
    fn what_one_limit_refuses_is_not_counted_by_the_other() {
        let book = RateBook::default();
        let both = [Some((ENDPOINT, 10)), Some((APPLICATION, 1))];
        assert_eq!(book.try_take(&both, START), Ok(()));
        assert_eq!(book.try_take(&both, after(500)), Err(after(1_000)));
        assert_eq!(book.try_take(&[both[0], None], after(500)), Ok(()), "the endpoint's own was not used");
    }

    #[test]
    fn a_changed_rate_does_not_fill_the_bucket() {
        let book = RateBook::default();
        assert_eq!(book.try_take(&[Some((ENDPOINT, 1)), None], START), Ok(()));
        assert!(book.try_take(&[Some((ENDPOINT, 2)), None], START).is_err());
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten() {
        let book = RateBook::default();
        for endpoint in 0..10_000 {
            let limit = Some((Limited::Endpoint(EndpointKey(endpoint)), 100));
            assert_eq!(book.try_take(&[limit, None], after(u64::try_from(endpoint).unwrap())), Ok(()));
        }
        assert!(book.len() <= FIRST_CLEANING, "{}", book.len());
    }
}
