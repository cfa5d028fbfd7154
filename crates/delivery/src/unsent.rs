//! Deliveries that end without an attempt, because the payloads of their messages were erased before: by retention, or because
//! somebody expunged them. Nobody is answered then, so the log says it: at once, then once a minute at most with how many there were
//! since.

use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::time::Timestamp;
use postrider_store::EndpointKey;

/// The least time between two lines.
const BETWEEN_LINES: Duration = Duration::from_secs(60);

/// What was not said yet, and when something was said last.
#[derive(Default)]
pub(crate) struct Unsent(Mutex<(usize, Option<Timestamp>)>);

impl Unsent {
    /// So many deliveries to an endpoint were found to have nothing to send.
    pub(crate) fn note(&self, endpoint: EndpointKey, deliveries: usize, now: Timestamp) {
        if let Some(canceled) = self.to_say(deliveries, now) {
            say(canceled, Some(endpoint));
        }
    }

    /// Says what was not said yet, if it is time for that. To be called now and then: nothing more may happen.
    pub(crate) fn say_the_rest(&self, now: Timestamp) {
        if let Some(canceled) = self.to_say(0, now) {
            say(canceled, None);
        }
    }

    /// How many are to be told of now.
    fn to_say(&self, deliveries: usize, now: Timestamp) -> Option<usize> {
        let (unsaid, said_at) = &mut *self.0.lock();
        *unsaid += deliveries;
        if *unsaid == 0 || said_at.is_some_and(|at| now.since(at) < BETWEEN_LINES) {
            return None;
        }
        *said_at = Some(now);
        Some(std::mem::take(unsaid))
    }
}

fn say(canceled: usize, endpoint: Option<EndpointKey>) {
    tracing::warn!(
        canceled,
        endpoint = endpoint.map(|endpoint| endpoint.0),
        "deliveries were canceled: the payloads of their messages were erased before they were delivered (retention.payload, \
         payloadRetentionHours, or expunged)"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_at_once_is_said_in_one_line_a_minute() {
        let (unsent, start) = (Unsent::default(), Timestamp::from_micros(1_000_000));
        assert_eq!(unsent.to_say(0, start), None);
        assert_eq!(unsent.to_say(3, start), Some(3));
        for _ in 0..1_000 {
            assert_eq!(unsent.to_say(1, start), None);
        }
        let later = start.saturating_add(BETWEEN_LINES);
        assert_eq!(unsent.to_say(0, later), Some(1_000), "also if there was nothing since");
        assert_eq!(unsent.to_say(0, later.saturating_add(BETWEEN_LINES)), None);
    }
}
