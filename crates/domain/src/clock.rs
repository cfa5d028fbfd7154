//! Time as something that is passed in, in two kinds.
//!
//! * [`Clock::now`] is for scheduling, ids and records. It never goes back while the process runs: a system clock that
//!   is set back one hour sends nothing early, late or twice. A system clock that jumps ahead is followed, because that
//!   is what a machine that slept looks like.
//! * [`Clock::wall`] is what the system clock says. Only the signature's timestamp uses it, because the receiver compares
//!   that with its own clock.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::time::Timestamp;

/// What waits for a [`Clock`].
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A source of time.
pub trait Clock: Send + Sync {
    /// The present for scheduling and records; never goes back.
    fn now(&self) -> Timestamp;
    /// The present as the system clock says it.
    fn wall(&self) -> Timestamp;
    /// Completes when [`Clock::now`] has reached `at`, or earlier (waits are cut to a minute): look at the clock again.
    /// Must be called within a tokio runtime.
    fn sleep_until(&self, at: Timestamp) -> Sleep;
}

/// The machine's time.
#[derive(Debug)]
pub struct SystemClock {
    anchor: Instant,
    /// Wall microseconds at `anchor`; moves only forward.
    anchor_wall_micros: AtomicI64,
    /// When the system clock was compared last, in microseconds since `anchor`.
    compared_at_micros: AtomicI64,
}

/// [`Clock::now`] is asked for many times for each message, and compares the system clock so often at most.
const COMPARE_MICROS: i64 = 10_000;

/// A system clock that is further ahead than this was set, or the machine slept: follow it. NTP's slew stays below.
const FOLLOW_AHEAD_MICROS: i64 = 2_000_000;

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that may read the machine's clocks")]
impl SystemClock {
    /// Anchors the scheduling clock at the present.
    pub fn new() -> Self {
        let wall = Self::system_micros();
        Self { anchor: Instant::now(), anchor_wall_micros: AtomicI64::new(wall), compared_at_micros: AtomicI64::new(0) }
    }

    fn system_micros() -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
    }

    fn elapsed_micros(&self) -> i64 {
        Instant::now().duration_since(self.anchor).as_micros() as i64
    }

    /// The pure part of `now`: what to show for these readings, and the anchor to remember.
    fn steady(anchor_wall: i64, elapsed: i64, system: i64) -> (i64, i64) {
        let steady = anchor_wall.saturating_add(elapsed);
        if system > steady.saturating_add(FOLLOW_AHEAD_MICROS) {
            (system, system - elapsed)
        } else {
            (steady, anchor_wall)
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let anchor = self.anchor_wall_micros.load(Ordering::Relaxed);
        let elapsed = self.elapsed_micros();
        if elapsed - self.compared_at_micros.load(Ordering::Relaxed) < COMPARE_MICROS {
            return Timestamp::from_micros(anchor.saturating_add(elapsed));
        }
        self.compared_at_micros.store(elapsed, Ordering::Relaxed);
        let (now, new_anchor) = Self::steady(anchor, elapsed, Self::system_micros());
        if new_anchor > anchor {
            self.anchor_wall_micros.fetch_max(new_anchor, Ordering::Relaxed);
        }
        Timestamp::from_micros(now)
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_micros(Self::system_micros())
    }

    fn sleep_until(&self, at: Timestamp) -> Sleep {
        // Long waits are cut, so that a machine that slept notices within a minute that its retries are due.
        let wait = at.since(self.now()).min(Duration::from_secs(60));
        if wait.is_zero() {
            return Box::pin(std::future::ready(()));
        }
        Box::pin(tokio::time::sleep(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_set_back_changes_nothing() {
        assert_eq!(SystemClock::steady(1_000_000_000, 5, 1_000_000_000 - 3_600_000_000).0, 1_000_000_005);
    }

    #[test]
    fn a_clock_set_ahead_is_followed_and_stays() {
        let (now, anchor) = SystemClock::steady(1_000, 5, 1_000 + 3_600_000_000);
        assert_eq!(now, 3_600_001_000);
        assert_eq!(SystemClock::steady(anchor, 6, 0).0, now + 1);
    }

    #[test]
    fn now_does_not_go_back() {
        let clock = SystemClock::new();
        let first = clock.now();
        assert!(clock.now() >= first);
    }
}
