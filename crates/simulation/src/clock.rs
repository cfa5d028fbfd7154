//! The clock of the simulated machine: tokio's, which moves on only when everybody waits.

use std::time::Duration;

use postrider_domain::clock::{Clock, Sleep};
use postrider_domain::time::Timestamp;
use tokio::time::Instant;

/// The machine's time in one life of the process.
pub(crate) struct VirtualClock {
    began: Instant,
    at: Timestamp,
}

impl VirtualClock {
    /// It is `at` now. Must be called within the runtime of that life.
    pub(crate) fn new(at: Timestamp) -> Self {
        Self { began: Instant::now(), at }
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        self.at.saturating_add(self.began.elapsed())
    }

    fn wall(&self) -> Timestamp {
        self.now()
    }

    fn sleep_until(&self, at: Timestamp) -> Sleep {
        // As the machine's: cut, so that whoever waits for long looks at the clock again.
        Box::pin(tokio::time::sleep(at.since(self.now()).min(Duration::from_secs(60))))
    }
}
