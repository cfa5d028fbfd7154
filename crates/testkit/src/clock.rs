//! A clock that stands still until a test moves it.

use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::clock::{Clock, Sleep};
use postrider_domain::time::Timestamp;
use tokio::sync::watch;

/// A [`Clock`] in the hands of a test. Whoever sleeps on it wakes when [`ManualClock::advance`] or [`ManualClock::set`]
/// passes the instant that they wait for.
#[derive(Debug)]
pub struct ManualClock {
    now: watch::Sender<Timestamp>,
    /// What the system clock shows, if a test set it apart from `now`.
    wall: Mutex<Option<Timestamp>>,
}

impl ManualClock {
    /// Stands at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self { now: watch::Sender::new(now), wall: Mutex::new(None) }
    }

    /// Moves ahead by `step`; a wall clock that was set apart moves by as much.
    pub fn advance(&self, step: Duration) {
        if let Some(wall) = self.wall.lock().as_mut() {
            *wall = wall.saturating_add(step);
        }
        self.now.send_modify(|now| *now = now.saturating_add(step));
    }

    /// Moves to `now`. Like the machine's clock for scheduling it never goes back: an earlier instant changes nothing.
    pub fn set(&self, now: Timestamp) {
        self.now.send_if_modified(|present| {
            let moves = now > *present;
            if moves {
                *present = now;
            }
            moves
        });
    }

    /// How many sleep on it. Whoever is to be woken by a step has to be one of them before.
    pub fn sleepers(&self) -> usize {
        self.now.receiver_count()
    }

    /// Sets what the system clock shows, in either direction, as an operator or NTP would.
    pub fn set_wall(&self, wall: Timestamp) {
        *self.wall.lock() = Some(wall);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.now.borrow()
    }

    fn wall(&self) -> Timestamp {
        self.wall.lock().unwrap_or_else(|| self.now())
    }

    fn sleep_until(&self, at: Timestamp) -> Sleep {
        let mut now = self.now.subscribe();
        Box::pin(async move {
            // A clock that is gone wakes nobody.
            if now.wait_for(|now| *now >= at).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    #[tokio::test]
    async fn a_sleeper_wakes_when_the_clock_passes_its_instant() {
        let clock = Arc::new(ManualClock::new(START));
        let sleeper = tokio::spawn(clock.sleep_until(START.saturating_add(Duration::from_secs(10))));
        clock.advance(Duration::from_secs(9));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        crate::wait::within("the sleeper", sleeper).await.unwrap();
    }

    #[test]
    fn the_wall_clock_is_set_apart_and_then_moves_along() {
        let clock = ManualClock::new(START);
        assert_eq!(clock.wall(), START);
        clock.set_wall(START.saturating_sub(Duration::from_secs(3_600)));
        clock.advance(Duration::from_secs(60));
        assert_eq!(clock.now(), START.saturating_add(Duration::from_secs(60)));
        assert_eq!(clock.wall(), START.saturating_sub(Duration::from_secs(3_540)));
    }

    #[test]
    fn now_does_not_go_back() {
        let clock = ManualClock::new(START);
        clock.set(Timestamp::EPOCH);
        assert_eq!(clock.now(), START);
    }
}
