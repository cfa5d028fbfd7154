//! How many requests of one application's tokens are worked on at a time: what each of them looks up and decodes takes its time, and
//! while hundreds do so at once, whoever comes then stands behind all of them. The others stand in line.
//!
//! Who waits for bytes of his body, for room for it or for the answer, for a turn to have it read, or for his answer to be read, is not
//! worked on, and has no place: whatever clients send and read, places are free as soon as what is done for others is done. Who
//! waited so stands in line again, at its end. In which order a request waits for what, `account.rs` says.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use postrider_domain::ids::ApplicationId;
use tokio::sync::Semaphore;

postrider_domain::limits! {
    in "Requests";
    /// Requests of one application's tokens that are worked on at a time
    pub(crate) const MAX_AT_WORK: usize = 32, "requests", beyond "the others wait for their turn, up to 5 s, then 429";
}

/// Lines that nobody uses are looked for when there are this many, and then whenever their number has doubled.
const FIRST_CLEANING: usize = 1_024;

/// The applications' lines.
pub(crate) struct AtWork(Mutex<Lines>);

struct Lines {
    by_application: HashMap<ApplicationId, Weak<Semaphore>>,
    clean_at: usize,
}

impl Default for AtWork {
    fn default() -> Self {
        Self(Mutex::new(Lines { by_application: HashMap::new(), clean_at: FIRST_CLEANING }))
    }
}

impl AtWork {
    /// The places of an application.
    pub(crate) fn line(&self, application: ApplicationId) -> Arc<Semaphore> {
        let mut lines = self.0.lock();
        let line = lines.by_application.entry(application).or_default();
        if let Some(line) = line.upgrade() {
            return line;
        }
        let new = Arc::new(Semaphore::new(MAX_AT_WORK));
        *line = Arc::downgrade(&new);
        if lines.by_application.len() >= lines.clean_at {
            lines.by_application.retain(|_, line| line.strong_count() > 0);
            lines.clean_at = (lines.by_application.len() * 2).max(FIRST_CLEANING);
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::ids::{Id as _, Ksuid};
    use postrider_domain::time::Timestamp;
    use std::time::Duration;

    fn application(seconds: u64) -> ApplicationId {
        ApplicationId::from_ksuid(Ksuid::floor(
            Timestamp::EPOCH.saturating_add(Duration::from_secs(2_000_000_000 + seconds)),
        ))
    }

    #[test]
    fn an_application_has_one_line_and_lines_that_nobody_uses_are_forgotten() {
        let at_work = AtWork::default();
        let (one, same, other) =
            (at_work.line(application(1)), at_work.line(application(1)), at_work.line(application(2)));
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        for number in 0..10_000 {
            at_work.line(application(10 + number));
        }
        assert!(at_work.0.lock().by_application.len() <= FIRST_CLEANING);
        assert!(Arc::ptr_eq(&one, &at_work.line(application(1))), "one that is in use stays");
    }
}
