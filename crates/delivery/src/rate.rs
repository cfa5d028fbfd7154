//! The rate limit of an endpoint or an application: messages per second.
//!
//! A token bucket of one tenth of a second's worth, at least one: even over any second it exceeds the rate by at most that
//! much. Twenty lines of arithmetic on our own injected clock; a library would need the clock adapted and the waiting
//! rewritten, and would bring a concurrent map for what is one field of a lane.

use postrider_domain::time::Timestamp;

/// Tokens of one millionth of a message.
const MESSAGE: i64 = 1_000_000;

/// A token bucket.
#[derive(Debug, Clone)]
pub(crate) struct Rate {
    per_second: i64,
    tokens: i64,
    filled_at: Timestamp,
}

impl Rate {
    pub(crate) fn new(per_second: u16, now: Timestamp) -> Self {
        let per_second = i64::from(per_second.max(1));
        Self { per_second, tokens: Self::capacity(per_second), filled_at: now }
    }

    fn capacity(per_second: i64) -> i64 {
        (per_second * MESSAGE / 10).max(MESSAGE)
    }

    pub(crate) fn per_second(&self) -> u16 {
        u16::try_from(self.per_second).unwrap_or(u16::MAX)
    }

    /// When the next message may go: `None` is now.
    pub(crate) fn ready_at(&mut self, now: Timestamp) -> Option<Timestamp> {
        // A second's worth fills any bucket; more could overflow.
        let elapsed_micros = i64::try_from(now.since(self.filled_at).as_micros()).unwrap_or(i64::MAX).min(1_000_000);
        self.tokens = (self.tokens + elapsed_micros * self.per_second).min(Self::capacity(self.per_second));
        self.filled_at = self.filled_at.max(now);
        let missing = MESSAGE - self.tokens;
        (missing > 0)
            .then(|| Timestamp::from_micros(now.as_micros() + (missing + self.per_second - 1) / self.per_second))
    }

    /// Uses one message's worth, after [`Rate::ready_at`] said now.
    pub(crate) fn take(&mut self) {
        self.tokens -= MESSAGE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const START: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);

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
}
