//! What may be used of something in a day: so much at once, and as much again over each day.
//!
//! One instant says all of it: that at which everything that was used will be there again. So it fits in a column or a map
//! entry. A clock that jumps, either way, gives back what was used, and never takes anything for longer than a day.

use std::time::Duration;

use crate::time::Timestamp;

/// In how long as much as there is at once comes back.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// What was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    whole_at: Timestamp,
}

impl Allowance {
    /// Nothing was used.
    pub const WHOLE: Self = Self { whole_at: Timestamp::EPOCH };

    /// What was used will be there again at this instant.
    pub const fn whole_at(whole_at: Timestamp) -> Self {
        Self { whole_at }
    }

    /// When what was used will be there again.
    pub const fn until(self) -> Timestamp {
        self.whole_at
    }

    /// Whether all of it is there.
    pub fn is_whole(self, now: Timestamp) -> bool {
        self.used_until(now) <= now.as_micros()
    }

    /// Nobody can have used more than a day's worth: if that seems so, it was noted by a clock that was wrong.
    fn used_until(self, now: Timestamp) -> i64 {
        let latest = now.as_micros().saturating_add(DAY_MICROS);
        Some(self.whole_at.as_micros()).filter(|at| *at <= latest).unwrap_or_default()
    }

    /// Uses `amount` where `per_day` are there in a day, or none of it: then how long it takes until so much is there. More
    /// than there is in a day counts as all of that.
    pub fn spend(self, amount: u64, per_day: u64, now: Timestamp) -> Result<Self, Duration> {
        // Rounded up: what is used must not come back earlier than all the rest of the day's.
        let takes = match (amount, per_day) {
            (0, _) => 0,
            (_, 0) => return Err(DAY),
            _ => (u128::from(amount) * DAY.as_micros()).div_ceil(u128::from(per_day)),
        };
        let takes = i64::try_from(takes).unwrap_or(DAY_MICROS).min(DAY_MICROS);
        let latest = now.as_micros().saturating_add(DAY_MICROS);
        let whole_at = self.used_until(now).max(now.as_micros()).saturating_add(takes);
        if whole_at > latest {
            return Err(Duration::from_micros(u64::try_from(whole_at - latest).unwrap_or_default()));
        }
        Ok(Self { whole_at: Timestamp::from_micros(whole_at) })
    }

    /// The most that can be used at once.
    pub fn left(self, per_day: u64, now: Timestamp) -> u64 {
        let latest = now.as_micros().saturating_add(DAY_MICROS);
        let room = latest - self.used_until(now).max(now.as_micros());
        let left = u128::from(per_day) * u128::try_from(room).unwrap_or_default() / DAY.as_micros();
        u64::try_from(left).unwrap_or(per_day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);

    /// What can be used in one go.
    fn left(mut allowance: Allowance, per_day: u64, now: Timestamp) -> u64 {
        let mut count = 0;
        while let Ok(next) = allowance.spend(1, per_day, now) {
            (allowance, count) = (next, count + 1);
        }
        count
    }

    proptest! {
        #[test]
        fn never_more_than_one_days_worth_and_what_came_back(
            per_day in 1u64..100_000,
            uses in prop::collection::vec((0u64..5_000, 0u64..40_000_000), 1..200),
        ) {
            let (mut allowance, mut now, mut used) = (Allowance::WHOLE, START, 0u128);
            for (amount, pause) in uses {
                now = now.saturating_add(Duration::from_millis(pause));
                let amount = amount.min(per_day);
                if let Ok(next) = allowance.spend(amount, per_day, now) {
                    (allowance, used) = (next, used + u128::from(amount));
                }
                let days = 1.0 + now.since(START).as_secs_f64() / DAY.as_secs_f64();
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                let (used, most) = (used as f64, per_day as f64 * days);
                prop_assert!(used <= most + 0.001, "{} of {}", used, most);
            }
        }

        #[test]
        fn what_is_left_can_be_used_and_no_more(per_day in 1u64..1_000_000, used in 0u64..1_000_000, pause in 0u64..90_000_000) {
            let spent = Allowance::WHOLE.spend(used.min(per_day), per_day, START).unwrap();
            let now = START.saturating_add(Duration::from_millis(pause));
            let left = spent.left(per_day, now);
            prop_assert!(left <= per_day);
            prop_assert!(spent.spend(left, per_day, now).is_ok());
            prop_assert!(left == per_day || spent.spend(left + 1, per_day, now).is_err());
        }

        #[test]
        fn the_wait_that_is_named_is_enough_and_no_longer_than_needed(per_day in 1u64..1_000_000, amount in 1u64..10_000) {
            let amount = amount.min(per_day);
            let spent = Allowance::WHOLE.spend(per_day, per_day, START).unwrap();
            let wait = spent.spend(amount, per_day, START).unwrap_err();
            prop_assert!(spent.spend(amount, per_day, START.saturating_add(wait)).is_ok());
            let earlier = wait.saturating_sub(Duration::from_micros(1));
            prop_assert!(spent.spend(amount, per_day, START.saturating_add(earlier)).is_err());
        }
    }

    #[test]
    fn a_days_worth_is_there_at_once_and_half_of_it_again_after_half_a_day() {
        assert_eq!(left(Allowance::WHOLE, 1_000, START), 1_000);
        let spent = Allowance::WHOLE.spend(1_000, 1_000, START).unwrap();
        assert_eq!(left(spent, 1_000, START), 0);
        assert_eq!(left(spent, 1_000, START.saturating_add(DAY / 2)), 500);
        assert_eq!(left(spent, 1_000, START.saturating_add(DAY * 400)), 1_000);
    }

    #[test]
    fn more_than_a_day_has_takes_all_of_it() {
        let spent = Allowance::WHOLE.spend(u64::MAX, 10, START).unwrap();
        assert_eq!(left(spent, 10, START), 0);
        assert_eq!(spent.spend(5_000, 10, START), Err(DAY));
    }

    #[test]
    fn what_a_wrong_clock_noted_stops_nobody() {
        let spent = Allowance::WHOLE.spend(1, 10, START.saturating_add(DAY * 3_000)).unwrap();
        assert_eq!(left(spent, 10, START), 10);
        for garbage in [i64::MIN, -1, i64::MAX] {
            let noted = Allowance::whole_at(Timestamp::from_micros(garbage));
            assert!(noted.is_whole(START) && left(noted, 10, START) == 10, "{garbage}");
        }
    }

    #[test]
    fn using_nothing_is_always_possible() {
        let spent = Allowance::WHOLE.spend(1_000, 1_000, START).unwrap();
        assert_eq!(spent.spend(0, 1_000, START), Ok(spent));
        assert!(spent.spend(0, 0, START).is_ok());
    }

    #[test]
    fn where_there_is_nothing_nothing_is_used() {
        assert_eq!(Allowance::WHOLE.spend(1, 0, START), Err(DAY));
    }
}
