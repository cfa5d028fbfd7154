//! How often something has happened that the log is to tell of: at once, then once a minute at most with how often it was since.

use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::time::Timestamp;

/// The least time between two lines.
pub(crate) const BETWEEN_LINES: Duration = Duration::from_secs(60);

/// What was not said yet, and when something was said last.
#[derive(Debug, Default)]
pub(crate) struct Unsaid(Mutex<(usize, Option<Timestamp>)>);

impl Unsaid {
    /// So many more; how many are to be told of now.
    pub(crate) fn to_say(&self, more: usize, now: Timestamp) -> Option<usize> {
        let (unsaid, said_at) = &mut *self.0.lock();
        *unsaid += more;
        if *unsaid == 0 || said_at.is_some_and(|at| now.since(at) < BETWEEN_LINES) {
            return None;
        }
        *said_at = Some(now);
        Some(std::mem::take(unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_at_once_is_said_in_one_line_a_minute() {
        let (unsaid, start) = (Unsaid::default(), Timestamp::from_micros(1_000_000));
        assert_eq!(unsaid.to_say(0, start), None);
        assert_eq!(unsaid.to_say(3, start), Some(3));
        for _ in 0..1_000 {
            assert_eq!(unsaid.to_say(1, start), None);
        }
        let later = start.saturating_add(BETWEEN_LINES);
        assert_eq!(unsaid.to_say(0, later), Some(1_000), "also if there was nothing since");
        assert_eq!(unsaid.to_say(0, later.saturating_add(BETWEEN_LINES)), None);
    }
}
