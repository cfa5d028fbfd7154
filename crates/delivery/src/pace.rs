//! How many requests an endpoint gets at a time, and when it gets none: learned from how it answers.
//!
//! A lane starts with a few and works up to the configured limit while the receiver answers; every sign of trouble (no
//! answer, 429, 502, 503, 504) halves it, down to one. So a receiver that hangs costs a few connections, not the limit,
//! and one that is overwhelmed gets room to recover. A receiver that says when to come back (`Retry-After`) is left alone
//! until then; one that only says 429 or 503, or asks for less than that, is left alone for a short, growing while.
//!
//! An endpoint from which nothing at all is heard, attempt after attempt, is tried at most once a second: a million
//! messages for a dead one would otherwise be tried as fast as connections are refused, at everybody's expense. What waits
//! keeps its attempts for when it is back.

use std::time::Duration;

use postrider_domain::delivery::{Decision, Hold, HoldReason, Outcome};
use postrider_domain::time::Timestamp;

/// Enough for a low latency at once, little enough to lose to a receiver that hangs.
const START: u32 = 4;

/// The first pause after an answer that asks for slowing down without saying for how long; doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// So many attempts in a row may end without an answer before there are pauses between them. The first is short; every
/// few attempts it doubles, up to the last.
const SILENT_BEFORE_PAUSE: u32 = 16;
const SILENT_PER_DOUBLING: u32 = 4;
const FIRST_SILENT_PAUSE: Duration = Duration::from_millis(25);
const LAST_SILENT_PAUSE: Duration = Duration::from_secs(1);

/// The pause after an attempt that this machine could not make; doubles up to the last.
const FIRST_UNMADE_PAUSE: Duration = Duration::from_millis(250);
const LAST_UNMADE_PAUSE: Duration = Duration::from_secs(15);

/// The pace of one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    limit: u32,
    max: u32,
    /// Answers in a row that asked for slowing down.
    refusals: u32,
    /// Attempts in a row that ended without an answer.
    silent: u32,
    /// Attempts in a row that this machine could not make.
    unmade: u32,
    hold: Option<Hold>,
}

impl Pace {
    pub(crate) fn new(max: u32) -> Self {
        let max = max.max(1);
        Self { limit: START.min(max), max, refusals: 0, silent: 0, unmade: 0, hold: None }
    }

    /// As for a receiver of which nothing is known.
    pub(crate) fn forget(&mut self) {
        *self = Self::new(self.max);
    }

    /// The most requests under way at present.
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// Before which instant nothing is sent, if it lies ahead.
    pub(crate) fn hold(&self, now: Timestamp) -> Option<Hold> {
        self.hold.filter(|hold| hold.until > now)
    }

    /// Nothing is sent until then, nor until a later instant that was said before.
    pub(crate) fn hold_back(&mut self, hold: Hold) {
        self.hold = self.hold.max(Some(hold));
    }

    /// Whether there is anything to remember of an endpoint while it has no lane.
    pub(crate) fn is_troubled(&self, now: Timestamp) -> bool {
        self.silent > 0 || self.refusals > 0 || self.unmade > 0 || self.hold(now).is_some()
    }

    /// Whether nothing was heard in so many attempts that there are pauses between them.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent >= SILENT_BEFORE_PAUSE
    }

    /// An attempt could not be made because of this machine: that says nothing of the receiver, but it takes a pause.
    pub(crate) fn not_made(&mut self, now: Timestamp) {
        let pause = FIRST_UNMADE_PAUSE.saturating_mul(1 << self.unmade.min(16)).min(LAST_UNMADE_PAUSE);
        self.unmade = self.unmade.saturating_add(1);
        self.hold_back(Hold { until: now.saturating_add(pause), reason: HoldReason::Local });
    }

    /// Learns from an attempt.
    pub(crate) fn learn(&mut self, outcome: &Outcome, decision: &Decision, now: Timestamp) {
        self.unmade = 0;
        if let Outcome::Answered { .. } = outcome {
            self.silent = 0;
        } else {
            self.silent = self.silent.saturating_add(1);
            if let Some(pause) = self.silent_pause() {
                self.hold_back(Hold { until: now.saturating_add(pause), reason: HoldReason::Silent });
            }
        }
        if !outcome.congested() {
            self.refusals = 0;
            self.limit = (self.limit + 1).min(self.max);
            return;
        }
        self.limit = (self.limit / 2).max(1);
        if asks_for_less(outcome) {
            let pause = FIRST_PAUSE.saturating_mul(1 << self.refusals.min(16)).min(LAST_PAUSE);
            self.refusals = self.refusals.saturating_add(1);
            self.hold_back(Hold { until: now.saturating_add(pause), reason: HoldReason::Overloaded });
        }
        // Whoever asks for less than that, or for nothing (`Retry-After: 0`, a date that has passed), takes nothing off it.
        if let Some(until) = decision.hold_until {
            self.hold_back(Hold { until, reason: HoldReason::Asked });
        }
    }
}

impl Pace {
    /// The pause after the attempts that heard nothing, if there were many.
    fn silent_pause(&self) -> Option<Duration> {
        let beyond = self.silent.checked_sub(SILENT_BEFORE_PAUSE)?;
        let doublings = (beyond / SILENT_PER_DOUBLING).min(16);
        Some(FIRST_SILENT_PAUSE.saturating_mul(1 << doublings).min(LAST_SILENT_PAUSE))
    }
}

fn asks_for_less(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Answered { .. }) && outcome.congested()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use postrider_domain::delivery::{Failure, Next};

    const NOW: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);

    fn learn(pace: &mut Pace, outcome: &Outcome, hold_until: Option<Timestamp>) {
        pace.learn(
            outcome,
            &Decision { next: Next::Succeeded, elsewhere: Next::Succeeded, against: None, hold_until },
            NOW,
        );
    }

    fn until(pace: &Pace, now: Timestamp) -> Option<Timestamp> {
        pace.hold(now).map(|hold| hold.until)
    }

    fn answered(status: u16) -> Outcome {
        Outcome::Answered { status, retry_after: None, body: Bytes::new() }
    }

    fn timed_out() -> Outcome {
        Outcome::Failed { kind: Failure::Timeout, detail: String::new() }
    }

    #[test]
    fn a_receiver_that_answers_gets_more_up_to_the_limit() {
        let mut pace = Pace::new(16);
        assert_eq!(pace.limit(), 4);
        for _ in 0..100 {
            learn(&mut pace, &answered(200), None);
        }
        assert_eq!(pace.limit(), 16);
    }

    #[test]
    fn a_receiver_that_hangs_ends_at_one() {
        let mut pace = Pace::new(16);
        for _ in 0..5 {
            learn(&mut pace, &timed_out(), None);
        }
        assert_eq!(
            (pace.limit(), until(&pace, NOW)),
            (1, None),
            "slowed down, but not paused: retries have their own waits"
        );
    }

    #[test]
    fn an_endpoint_that_stays_silent_is_tried_once_a_second_until_it_answers() {
        let mut pace = Pace::new(16);
        for _ in 0..15 {
            learn(&mut pace, &timed_out(), None);
        }
        assert_eq!(until(&pace, NOW), None, "a bad minute is the retry schedule's business");
        for _ in 0..1_000 {
            learn(&mut pace, &timed_out(), None);
        }
        assert_eq!(until(&pace, NOW), Some(NOW.saturating_add(LAST_SILENT_PAUSE)));
        learn(&mut pace, &answered(500), None);
        learn(&mut pace, &timed_out(), None);
        assert_eq!(pace.silent, 1);
    }

    #[test]
    fn a_refusal_of_one_message_is_no_reason_to_slow_down() {
        let mut pace = Pace::new(16);
        learn(&mut pace, &answered(400), None);
        assert_eq!((pace.limit(), until(&pace, NOW)), (5, None));
    }

    #[test]
    fn answers_that_ask_for_less_pause_the_lane_longer_and_longer() {
        let mut pace = Pace::new(16);
        let mut last = NOW;
        for _ in 0..20 {
            learn(&mut pace, &answered(503), None);
            let until = until(&pace, NOW).expect("a pause");
            assert!(until >= last && until <= NOW.saturating_add(LAST_PAUSE));
            last = until;
        }
        assert_eq!(last, NOW.saturating_add(LAST_PAUSE));
    }

    #[test]
    fn what_the_receiver_asked_for_is_kept_even_if_a_late_answer_asks_for_less() {
        let mut pace = Pace::new(16);
        let asked = NOW.saturating_add(Duration::from_secs(120));
        learn(&mut pace, &answered(429), Some(asked));
        learn(&mut pace, &answered(503), None);
        assert_eq!(until(&pace, NOW), Some(asked));
        assert_eq!(until(&pace, asked), None);
    }

    #[test]
    fn a_receiver_that_asks_for_no_time_at_all_is_paused_as_one_that_names_none() {
        for asked in
            [NOW, NOW.saturating_sub(Duration::from_secs(1_000_000)), NOW.saturating_add(Duration::from_millis(1))]
        {
            let (mut pace, mut silent) = (Pace::new(16), Pace::new(16));
            for _ in 0..20 {
                learn(&mut pace, &answered(429), Some(asked));
                learn(&mut silent, &answered(429), None);
                assert_eq!(until(&pace, NOW), until(&silent, NOW));
            }
        }
        let mut pace = Pace::new(16);
        let asked = NOW.saturating_add(Duration::from_secs(120));
        learn(&mut pace, &answered(503), Some(asked));
        assert_eq!(pace.hold(NOW), Some(Hold { until: asked, reason: HoldReason::Asked }));
    }

    #[test]
    fn what_this_machine_cannot_do_takes_growing_pauses_and_nothing_else() {
        let mut pace = Pace::new(32);
        let limit = pace.limit();
        let mut now = Timestamp::EPOCH;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            pace.not_made(now);
            let until = pace.hold(now).unwrap().until;
            pauses.push(until.since(now).as_millis());
            now = until;
        }
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000]);
        assert_eq!((pace.limit(), pace.is_silent()), (limit, false));
    }
}
