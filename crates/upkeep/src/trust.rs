//! Whether the clock is believed before anything is removed because of it. A clock that is a year ahead (a dead battery, a
//! wrong server of time) would empty the store; a server that was off for a week looks the same. So nothing is removed until
//! such a clock has shown it for a day of running, of one process or of several after each other.
//!
//! Idempotency keys are kept for hours only, and to take a repeated request for a new one can't be undone. So they go by a time of their
//! own, which follows the clock where that goes on or goes back; where it jumps ahead, by more than an hour, theirs catches up four times
//! as fast as time passes while somebody runs (`Retention::believed`). But it is never more than a day behind a clock that is believed: a
//! machine that is off for most of every day would keep keys for ever. So of several jumps of less than a day, one after the other, all
//! but the first make keys older.

use std::time::Duration;

use postrider_domain::time::Timestamp;
use postrider_store::{ClockSeen, MOST_AHEAD, MOST_AHEAD_OF_KEYS};

/// For how long a clock that is further ahead must run before it is believed.
const CONFIRMED: Duration = Duration::from_secs(86_400);

/// The most that counts between two looks: more is another jump.
const LONGEST_LOOK: Duration = Duration::from_secs(15 * 60);

/// How much faster than time the time of idempotency keys catches up.
const CATCHES_UP: u32 = 4;

/// What is known of the clock.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    looked: Option<Timestamp>,
    doubted: bool,
    behind: bool,
}

/// What a look at the clock means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is believed: to be noted in the store, with the time that it is for idempotency keys.
    Right { keys: Timestamp },
    /// Nothing is to be removed by it. What is known of it, to be noted.
    Doubted(ClockSeen),
}

impl Trust {
    /// Looks at the clock: `now` for scheduling, `wall` as the machine shows it, and what was noted of it last.
    pub(crate) fn look(&mut self, now: Timestamp, wall: Timestamp, seen: Option<ClockSeen>) -> Verdict {
        let ClockSeen { right: seen, doubted, shown, keys } =
            seen.unwrap_or(ClockSeen { right: now, doubted: Duration::ZERO, shown: now, keys: now });
        let passed = self.looked.map_or(Duration::ZERO, |looked| now.since(looked)).min(LONGEST_LOOK);
        self.looked = Some(now);
        let keys = if now.since(keys) > MOST_AHEAD_OF_KEYS { keys.saturating_add(CATCHES_UP * passed) } else { now };
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
            self.doubted = false;
            // However often a machine is off, its keys are no older than that.
            return Verdict::Right { keys: keys.max(now.saturating_sub(MOST_AHEAD)) };
        }
        if !self.doubted {
            tracing::warn!(
                %now, %wall, %seen,
                "the clock is more than a day ahead of when it was seen last: nothing is removed by it until it has shown \
                 this for a day of running, or is set right and the server started again"
            );
        }
        self.doubted = true;
        // Another time than it showed before is doubted from the beginning. Between two processes a day may pass.
        let is_another = now.since(shown).max(shown.since(now)) > MOST_AHEAD;
        let doubted = if is_apart || is_another { Duration::ZERO } else { doubted.saturating_add(passed) };
        if doubted < CONFIRMED {
            return Verdict::Doubted(ClockSeen { right: seen.saturating_add(passed), doubted, shown: now, keys });
        }
        tracing::warn!(%now, "the clock has shown this time for a day: it is believed");
        self.doubted = false;
        // Those from before the jump are old by now, however far it was.
        Verdict::Right { keys: now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);
    const DAY: Duration = Duration::from_secs(86_400);
    const LOOK: Duration = Duration::from_secs(300);

    fn right(at: Timestamp) -> Option<ClockSeen> {
        Some(ClockSeen { right: at, doubted: Duration::ZERO, shown: at, keys: at })
    }

    fn is_right(verdict: Verdict) -> bool {
        matches!(verdict, Verdict::Right { .. })
    }

    /// Looks as often as the clock is not believed, in processes that each look so often, with so long between two looks; how often that
    /// was.
    fn looks_until_believed(
        mut seen: ClockSeen,
        mut now: Timestamp,
        of_process: usize,
        between: Duration,
    ) -> (usize, ClockSeen) {
        let mut trust = Trust::default();
        for looks in 0..1_000 {
            if looks % of_process == 0 {
                trust = Trust::default();
            }
            match trust.look(now, now, Some(seen)) {
                Verdict::Right { .. } => return (looks, seen),
                Verdict::Doubted(noted) => seen = noted,
            }
            now = now.saturating_add(between);
        }
        panic!("it is never believed");
    }

    #[test]
    fn a_clock_that_goes_on_is_believed() {
        let (mut trust, mut now) = (Trust::default(), NOW);
        for _ in 0..100 {
            assert!(is_right(trust.look(now.saturating_add(DAY), now.saturating_add(DAY), right(now))));
            now = now.saturating_add(DAY);
        }
    }

    #[test]
    fn a_clock_a_year_ahead_is_believed_after_a_day_of_running_and_not_after_another_jump() {
        let mut trust = Trust::default();
        let mut now = NOW.saturating_add(365 * DAY);
        let Verdict::Doubted(mut seen) = trust.look(now, now, right(NOW)) else { panic!("it is believed") };
        assert_eq!((seen.right, seen.doubted, seen.shown), (NOW, Duration::ZERO, now));
        // Nearly a day of running, and another jump, of the process or between two.
        (0..280).for_each(|_| {
            now = now.saturating_add(LOOK);
            let Verdict::Doubted(noted) = trust.look(now, now, Some(seen)) else { panic!("it is believed") };
            seen = noted;
        });
        for mut trust in [trust, Trust::default()] {
            let now = now.saturating_add(365 * DAY);
            let Verdict::Doubted(noted) = trust.look(now, now, Some(seen)) else { panic!("it is believed") };
            assert_eq!(noted.doubted, Duration::ZERO);
        }
        let (looks, seen) = looks_until_believed(right(NOW).unwrap(), now, usize::MAX, LOOK);
        assert_eq!(looks, 288);
        assert_eq!(seen.right, NOW.saturating_add(DAY - LOOK), "time goes on by what was run");
    }

    #[test]
    fn keys_of_a_clock_that_was_at_its_epoch_get_old_after_a_day() {
        let (mut trust, mut now, mut seen) = (Trust::default(), NOW, right(Timestamp::from_micros(1)).unwrap());
        for _ in 0..300 {
            match trust.look(now, now, Some(seen)) {
                Verdict::Doubted(noted) => seen = noted,
                Verdict::Right { keys } => return assert_eq!(keys, now),
            }
            now = now.saturating_add(LOOK);
        }
        panic!("it is never believed");
    }

    #[test]
    fn so_it_is_where_the_process_is_started_anew_each_night() {
        let (looks, seen) = looks_until_believed(right(NOW).unwrap(), NOW.saturating_add(3 * DAY), 100, LOOK);
        assert_eq!((looks, seen.doubted), (290, DAY - LOOK), "what is between two processes does not count");
    }

    #[test]
    fn a_jump_of_half_a_day_makes_no_key_old_and_is_caught_up() {
        let (mut trust, mut keys, jumped) =
            (Trust::default(), NOW, NOW.saturating_add(13 * Duration::from_secs(3_600)));
        assert!(is_right(trust.look(NOW, NOW, right(NOW))));
        for look in 0..1_000 {
            let now = jumped.saturating_add(look * LOOK);
            let seen = ClockSeen { right: now, doubted: Duration::ZERO, shown: now, keys };
            let Verdict::Right { keys: noted } = trust.look(now, now, Some(seen)) else {
                panic!("it is believed otherwise")
            };
            let ran = look * LOOK + LONGEST_LOOK;
            assert!(noted.since(NOW) <= CATCHES_UP * ran || look > 30, "{look}");
            keys = noted;
        }
        assert_eq!(keys, jumped.saturating_add(999 * LOOK));
    }

    #[test]
    fn the_time_of_keys_goes_back_with_a_clock_that_is_behind_and_does_not_jump_with_it_then() {
        let behind = NOW.saturating_sub(13 * Duration::from_secs(3_600));
        let mut trust = Trust::default();
        assert_eq!(trust.look(behind, behind, right(NOW)), Verdict::Right { keys: behind });
        let seen = ClockSeen { keys: behind, ..right(NOW).unwrap() };
        let Verdict::Right { keys } = trust.look(NOW, NOW, Some(seen)) else { panic!("it is right again") };
        assert!(keys.since(behind) <= CATCHES_UP * LONGEST_LOOK);
    }

    #[test]
    fn a_clock_that_was_set_right_is_not_believed_where_it_is_still_followed() {
        let (mut trust, mut seen) = (Trust::default(), right(NOW));
        let ahead = NOW.saturating_add(365 * DAY);
        for look in 0..1_000 {
            let passed = look * LOOK;
            let (now, wall) = (ahead.saturating_add(passed), NOW.saturating_add(passed));
            match trust.look(now, wall, seen) {
                Verdict::Right { .. } => panic!("it is believed"),
                Verdict::Doubted(noted) => seen = Some(noted),
            }
        }
        // It is started again, and follows the clock that is right.
        let now = NOW.saturating_add(1_000 * LOOK);
        assert!(is_right(Trust::default().look(now, now, seen)));
    }

    #[test]
    fn a_clock_that_was_never_seen_or_is_behind_is_believed() {
        assert!(is_right(Trust::default().look(NOW, NOW, None)));
        assert!(is_right(Trust::default().look(NOW, NOW, right(NOW.saturating_add(365 * DAY)))));
    }
}
