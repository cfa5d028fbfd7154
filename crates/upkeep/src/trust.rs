//! Whether the clock is believed before anything is removed because of it. A clock that is a year ahead (a dead battery, a
//! wrong server of time) would empty the store; a server that was off for a week looks the same. So nothing is removed until
//! such a clock has shown it for a day of running. (Idempotency keys are not old before that, either: `Retention::believed`.)

use std::time::Duration;

use postrider_domain::time::Timestamp;
use postrider_store::MOST_AHEAD;

/// For how long a clock that is further ahead must run before it is believed.
const CONFIRMED: Duration = Duration::from_secs(86_400);

/// The most that counts between two looks: more is another jump.
const LONGEST_LOOK: Duration = Duration::from_secs(15 * 60);

/// What is known of the clock.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    looked: Option<Timestamp>,
    ran: Duration,
    doubted: bool,
    behind: bool,
}

/// What a look at the clock means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is believed: to be noted in the store.
    Right,
    /// Nothing is to be removed by it.
    Doubted,
}

impl Trust {
    /// Looks at the clock: `now` for scheduling, `wall` as the machine shows it, and when it was `seen` last.
    pub(crate) fn look(&mut self, now: Timestamp, wall: Timestamp, seen: Option<Timestamp>) -> Verdict {
        let seen = seen.unwrap_or(now);
        let passed = self.looked.map_or(Duration::ZERO, |looked| now.since(looked));
        self.looked = Some(now);
        let is_behind = seen.since(now) > MOST_AHEAD;
        if is_behind && !self.behind {
            tracing::warn!(%now, %seen, "the clock is behind what the store has seen; what was dated later is kept for as long");
        }
        self.behind = is_behind;
        // Set back after a jump ahead, which scheduling follows until the next start.
        let is_apart = now.since(wall) > MOST_AHEAD;
        if now.since(seen) <= MOST_AHEAD && !is_apart {
            if self.doubted {
                tracing::info!(%now, "the clock is believed again");
            }
            (self.doubted, self.ran) = (false, Duration::ZERO);
            return Verdict::Right;
        }
        if !self.doubted {
            tracing::warn!(
                %now, %wall, %seen,
                "the clock is more than a day ahead of when it was seen last: nothing is removed by it until it has shown \
                 this for a day of running, or is set right and the server started again"
            );
        }
        self.doubted = true;
        self.ran = if is_apart { Duration::ZERO } else { self.ran + passed.min(LONGEST_LOOK) };
        if self.ran < CONFIRMED {
            return Verdict::Doubted;
        }
        tracing::warn!(%now, "the clock has shown this time for a day: it is believed");
        (self.doubted, self.ran) = (false, Duration::ZERO);
        Verdict::Right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);
    const DAY: Duration = Duration::from_secs(86_400);
    const LOOK: Duration = Duration::from_secs(300);

    #[test]
    fn a_clock_that_goes_on_is_believed() {
        let (mut trust, mut now) = (Trust::default(), NOW);
        for _ in 0..100 {
            assert_eq!(trust.look(now.saturating_add(DAY), now.saturating_add(DAY), Some(now)), Verdict::Right);
            now = now.saturating_add(DAY);
        }
    }

    #[test]
    fn a_clock_a_year_ahead_is_believed_after_a_day_of_running_and_not_after_another_jump() {
        let (mut trust, mut now) = (Trust::default(), NOW.saturating_add(365 * DAY));
        assert_eq!(trust.look(now, now, Some(NOW)), Verdict::Doubted);
        now = now.saturating_add(365 * DAY);
        assert_eq!(trust.look(now, now, Some(NOW)), Verdict::Doubted);
        let mut looks = 0;
        while trust.look(now, now, Some(NOW)) == Verdict::Doubted {
            (looks, now) = (looks + 1, now.saturating_add(LOOK));
            assert!(looks < 1_000);
        }
        assert_eq!(looks, 285, "a day of running, less the 15 minutes that the jump counted for");
    }

    #[test]
    fn a_clock_that_was_set_right_is_not_believed_where_it_is_still_followed() {
        let mut trust = Trust::default();
        let ahead = NOW.saturating_add(365 * DAY);
        for look in 0..1_000 {
            let passed = look * LOOK;
            let (now, wall) = (ahead.saturating_add(passed), NOW.saturating_add(passed));
            assert_eq!(trust.look(now, wall, Some(NOW)), Verdict::Doubted);
        }
    }

    #[test]
    fn a_clock_that_was_never_seen_or_is_behind_is_believed() {
        assert_eq!(Trust::default().look(NOW, NOW, None), Verdict::Right);
        assert_eq!(Trust::default().look(NOW, NOW, Some(NOW.saturating_add(365 * DAY))), Verdict::Right);
    }
}
