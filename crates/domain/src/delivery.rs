//! The life of a delivery, and the one function that decides its next state.
//!
//! ```text
//! pending ─► sending ─► succeeded
//!    ▲          ├─────► waiting (until next_attempt_at) ─► pending
//!    │          ├─────► exhausted
//!    │          └─────► canceled
//!    └── resend, recover (from any state)
//! ```
//!
//! `sending` is a fact in memory only: after a crash the delivery is pending still, and is sent again. [`transition`] is
//! pure: what it needs of the world (time, jitter) is passed in, so every case can be tested.

use std::time::Duration;

use bytes::Bytes;

use crate::attempt::Trigger;
use crate::retry::{RetrySchedule, jittered, jittered_up};
use crate::time::Timestamp;

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver answered.
    Answered {
        /// The HTTP status.
        status: u16,
        /// What `Retry-After` asked for.
        retry_after: Option<Duration>,
        /// The first bytes of the body, at most [`crate::attempt::MAX_KEPT_ANSWER_BYTES`].
        body: Bytes,
    },
    /// There was no answer.
    Failed {
        /// What kind of failure it was.
        kind: Failure,
        /// What went wrong, for people.
        detail: String,
    },
}

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The egress policy forbids the target.
    Forbidden,
    /// The name did not resolve.
    Resolve,
    /// No connection could be made.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The deadline passed.
    Timeout,
    /// The connection broke, or what came was no HTTP answer.
    Protocol,
    /// This machine could not make the attempt (no open files, no local ports), or others' requests ended the connection that it was
    /// made over: that is no attempt, and says nothing of the endpoint.
    Local,
}

impl Outcome {
    /// Whether the receiver took the message: any 2xx.
    pub fn succeeded(&self) -> bool {
        matches!(self, Self::Answered { status: 200..=299, .. })
    }

    /// Whether the receiver is in trouble or asks for less, as opposed to refusing this one message.
    pub fn congested(&self) -> bool {
        match self {
            Self::Answered { status, .. } => matches!(status, 429 | 502 | 503 | 504),
            Self::Failed { kind, .. } => !matches!(kind, Failure::Forbidden | Failure::Local),
        }
    }
}

/// How failures are treated; the settings in force for one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The waits between attempts.
    pub schedule: RetrySchedule,
    /// The most that a `Retry-After` can ask for.
    pub retry_after_max: Duration,
    /// An endpoint that has exhausted deliveries for longer than this, with no success, is disabled.
    pub disable_after: Duration,
}

/// What the transition needs to know about a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Attempts made before this one.
    pub made: u32,
    /// Why this attempt was made.
    pub trigger: Trigger,
    /// Whether nothing was heard from the endpoint in many attempts before this one.
    pub silent: bool,
}

/// The state after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Done: a 2xx.
    Succeeded,
    /// Tried again at this instant.
    Waiting(Timestamp),
    /// The schedule is used up, or it was a manual attempt that failed.
    Exhausted,
    /// The endpoint wants nothing any more.
    Canceled,
}

/// What an attempt says against its endpoint. It is a fact, and travels with the attempt's result; what follows from it is
/// decided in the commit that stores it, by what is stored then ([`EndpointFact::judge`]). (A success speaks for itself.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointFact {
    /// When the attempt ended.
    pub at: Timestamp,
    /// What it came to.
    pub kind: Against,
}

/// See [`EndpointFact`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    /// The endpoint answered 410 Gone.
    Gone,
    /// A delivery was exhausted, or nothing at all is heard from the endpoint.
    Failing {
        /// One that is failing for longer than this without a success is disabled.
        disable_after: Duration,
    },
}

/// What follows for an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointChange {
    /// Remember that it has been failing since this instant.
    FailingSince(Timestamp),
    /// Disable it.
    Disable(DisableReason),
}

impl EndpointFact {
    /// What follows for an endpoint that is not disabled, and has been failing since then as far as is stored: the first
    /// failure is noted, and forgotten after twice the limit; a later one beyond the limit disables (rest-contract §11).
    pub fn judge(&self, failing_since: Option<Timestamp>) -> Option<EndpointChange> {
        let limit = match self.kind {
            Against::Gone => return Some(EndpointChange::Disable(DisableReason::Gone)),
            Against::Failing { disable_after } => disable_after,
        };
        let Some(since) = failing_since else { return Some(EndpointChange::FailingSince(self.at)) };
        let failing_for = self.at.since(since);
        if failing_for > limit.saturating_mul(2) {
            Some(EndpointChange::FailingSince(self.at))
        } else {
            (failing_for > limit).then_some(EndpointChange::Disable(DisableReason::Failing))
        }
    }
}

/// Why an endpoint is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisableReason {
    /// It answered 410 Gone.
    Gone,
    /// It has been failing for longer than `delivery.disable_after`.
    Failing,
    /// Somebody disabled it.
    ByHand,
}

impl DisableReason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Gone, Self::Failing, Self::ByHand];

    /// The word on the wire and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Failing => "failing",
            Self::ByHand => "manual",
        }
    }

    /// What a word stands for.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

/// Why nothing is sent to an endpoint for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HoldReason {
    /// It asked for that with `Retry-After`.
    Asked,
    /// It asked for less without saying for how long.
    Overloaded,
    /// Nothing was heard from it in many attempts.
    Silent,
    /// A rate limit is used up.
    RateLimit,
    /// This machine could not make its attempts.
    Local,
    /// Something of ours failed in an unexpected way when it was its turn.
    Trouble,
}

impl HoldReason {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Asked, Self::Overloaded, Self::Silent, Self::RateLimit, Self::Local, Self::Trouble];

    /// The word in the store and in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "retry-after",
            Self::Overloaded => "overloaded",
            Self::Silent => "silent",
            Self::RateLimit => "rate-limit",
            Self::Local => "local",
            Self::Trouble => "trouble",
        }
    }

    /// What a word stands for.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

/// Nothing is sent to an endpoint before an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hold {
    /// Until then.
    pub until: Timestamp,
    /// Why.
    pub reason: HoldReason,
}

/// The decision: the delivery's next state, and what else follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The delivery's next state.
    pub next: Next,
    /// The delivery's next state if the endpoint has another receiver by now: then it is tried there by the schedule, whatever the
    /// former one asked for.
    pub elsewhere: Next,
    /// What it says against the endpoint, if anything.
    pub against: Option<EndpointFact>,
    /// Nothing is sent to the endpoint before this instant, because it asked for that.
    pub hold_until: Option<Timestamp>,
}

/// Decides what follows from an attempt. `unit` in `[0, 1)` is the jitter.
pub fn transition(progress: Progress, outcome: &Outcome, policy: &RetryPolicy, now: Timestamp, unit: f64) -> Decision {
    if outcome.succeeded() {
        return Decision { next: Next::Succeeded, elsewhere: Next::Succeeded, against: None, hold_until: None };
    }
    let wait = match progress.trigger {
        Trigger::Scheduled => policy.schedule.wait_after(progress.made.saturating_add(1)),
        // Somebody is watching a manual attempt, and can ask for another.
        Trigger::Manual => None,
    };
    let after = |wait| Next::Waiting(now.saturating_add(wait));
    let elsewhere = wait.map_or(Next::Exhausted, |base| after(jittered(base, unit)));
    if matches!(outcome, Outcome::Answered { status: 410, .. }) {
        let against = Some(EndpointFact { at: now, kind: Against::Gone });
        return Decision { next: Next::Canceled, elsewhere, against, hold_until: None };
    }
    // Somebody is watching a manual attempt: it is not held against the endpoint.
    let failing = (progress.trigger != Trigger::Manual)
        .then_some(EndpointFact { at: now, kind: Against::Failing { disable_after: policy.disable_after } });
    let asked = asked_wait(outcome, policy);
    let hold_until = asked.map(|wait| now.saturating_add(wait));
    let Some(base) = wait else {
        return Decision { next: Next::Exhausted, elsewhere, against: failing, hold_until };
    };
    let next = asked.filter(|asked| *asked > base).map_or(elsewhere, |asked| after(jittered_up(asked, unit)));
    // An endpoint that is silent is tried so seldom that its deliveries may take for ever to be exhausted.
    let against = failing.filter(|_| progress.silent && matches!(outcome, Outcome::Failed { .. }));
    Decision { next, elsewhere, against, hold_until }
}

/// What `Retry-After` asks for, at most the policy's maximum; only those answers count that ask for slowing down.
fn asked_wait(outcome: &Outcome, policy: &RetryPolicy) -> Option<Duration> {
    match outcome {
        Outcome::Answered { retry_after: Some(wait), .. } if outcome.congested() => {
            Some((*wait).min(policy.retry_after_max))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(waits: &[u64]) -> RetryPolicy {
        RetryPolicy {
            schedule: RetrySchedule::try_new(waits.iter().map(|secs| Duration::from_secs(*secs)).collect()).unwrap(),
            retry_after_max: Duration::from_secs(86_400),
            disable_after: Duration::from_secs(100),
        }
    }

    fn answered(status: u16, retry_after: Option<u64>) -> Outcome {
        Outcome::Answered { status, retry_after: retry_after.map(Duration::from_secs), body: Bytes::new() }
    }

    fn scheduled(made: u32) -> Progress {
        Progress { made, trigger: Trigger::Scheduled, silent: false }
    }

    const NOW: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);

    fn decide(progress: Progress, outcome: &Outcome) -> Decision {
        transition(progress, outcome, &policy(&[5, 300]), NOW, 0.5)
    }

    /// What follows for an endpoint that has been failing since then.
    fn change(progress: Progress, outcome: &Outcome, failing_since: Option<Timestamp>) -> Option<EndpointChange> {
        decide(progress, outcome).against?.judge(failing_since)
    }

    #[test]
    fn at_another_receiver_the_schedule_counts_whatever_the_former_one_asked_for() {
        let elsewhere = |made, outcome: &Outcome| decide(scheduled(made), outcome).elsewhere;
        let plain = decide(scheduled(0), &answered(500, None)).next;
        assert!(matches!(plain, Next::Waiting(_)));
        for outcome in [answered(410, None), answered(503, Some(86_400)), answered(500, None)] {
            assert_eq!(elsewhere(0, &outcome), plain, "{outcome:?}");
            assert_eq!(elsewhere(2, &outcome), Next::Exhausted, "{outcome:?}");
        }
        assert_eq!(elsewhere(0, &answered(204, None)), Next::Succeeded);
        let manual = Progress { trigger: Trigger::Manual, ..scheduled(0) };
        assert_eq!(decide(manual, &answered(410, None)).elsewhere, Next::Exhausted);
    }

    #[test]
    fn only_2xx_succeeds() {
        for status in 100..600 {
            let next = decide(scheduled(0), &answered(status, None)).next;
            assert_eq!(next == Next::Succeeded, (200..300).contains(&status), "{status}");
        }
    }

    #[test]
    fn the_schedule_is_walked_to_its_end() {
        let failed = answered(500, None);
        let wait = |secs| Next::Waiting(NOW.saturating_add(Duration::from_secs(secs)));
        assert_eq!(decide(scheduled(0), &failed).next, wait(5));
        assert_eq!(decide(scheduled(1), &failed).next, wait(300));
        assert_eq!(decide(scheduled(2), &failed).next, Next::Exhausted);
    }

    #[test]
    fn a_retry_after_of_120_on_429_or_503_waits_at_least_120_seconds_and_holds_the_lane() {
        for status in [429, 503] {
            let decision = decide(scheduled(0), &answered(status, Some(120)));
            let Next::Waiting(at) = decision.next else { panic!("{decision:?}") };
            assert!(at >= NOW.saturating_add(Duration::from_secs(120)));
            assert_eq!(decision.hold_until, Some(NOW.saturating_add(Duration::from_secs(120))));
        }
    }

    #[test]
    fn a_retry_after_is_clamped_between_the_schedule_and_the_maximum() {
        let short = decide(scheduled(1), &answered(503, Some(1)));
        assert_eq!(short.next, Next::Waiting(NOW.saturating_add(Duration::from_secs(300))));
        let Next::Waiting(at) = decide(scheduled(0), &answered(503, Some(u64::MAX))).next else { panic!() };
        assert!(at <= NOW.saturating_add(Duration::from_secs(86_400 * 6 / 5)));
    }

    #[test]
    fn a_410_cancels_and_disables() {
        let decision = decide(scheduled(0), &answered(410, None));
        assert_eq!(decision.next, Next::Canceled);
        let change = decision.against.and_then(|fact| fact.judge(None));
        assert_eq!(change, Some(EndpointChange::Disable(DisableReason::Gone)));
    }

    #[test]
    fn a_failed_manual_attempt_is_not_retried_and_does_not_count_against_the_endpoint() {
        let manual = Progress { made: 0, trigger: Trigger::Manual, silent: false };
        let decision = decide(manual, &answered(500, None));
        assert_eq!((decision.next, decision.against), (Next::Exhausted, None));
    }

    #[test]
    fn an_endpoint_is_disabled_by_an_exhaustion_beyond_the_limit_and_forgiven_by_a_success() {
        let ago = |secs| Some(NOW.saturating_sub(Duration::from_secs(secs)));
        let change = |since| change(scheduled(2), &answered(500, None), since);
        assert_eq!(change(None), Some(EndpointChange::FailingSince(NOW)));
        assert_eq!(change(ago(100)), None);
        assert_eq!(change(ago(101)), Some(EndpointChange::Disable(DisableReason::Failing)));
        assert_eq!(change(ago(201)), Some(EndpointChange::FailingSince(NOW)), "forgotten after twice the limit");
        assert_eq!(decide(scheduled(0), &answered(200, None)).against, None);
    }

    #[test]
    fn a_silent_endpoint_is_judged_at_every_attempt() {
        let progress = Progress { silent: true, ..scheduled(0) };
        let ago = |secs| Some(NOW.saturating_sub(Duration::from_secs(secs)));
        let timed_out = Outcome::Failed { kind: Failure::Timeout, detail: String::new() };
        assert_eq!(change(progress, &timed_out, None), Some(EndpointChange::FailingSince(NOW)));
        assert_eq!(change(progress, &timed_out, ago(101)), Some(EndpointChange::Disable(DisableReason::Failing)));
        assert_eq!(change(progress, &answered(500, None), ago(101)), None, "an answer breaks the silence");
        assert_eq!(change(scheduled(0), &timed_out, ago(101)), None);
    }

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            (100u16..1000, proptest::option::of(any::<u64>())).prop_map(|(status, wait)| answered(status, wait)),
            prop_oneof![
                Just(Failure::Forbidden),
                Just(Failure::Resolve),
                Just(Failure::Connect),
                Just(Failure::Tls),
                Just(Failure::Timeout),
                Just(Failure::Protocol),
            ]
            .prop_map(|kind| Outcome::Failed { kind, detail: String::new() }),
        ]
    }

    proptest! {
        /// Whatever happens, a delivery reaches a final state after as many attempts as the schedule has, plus one.
        #[test]
        fn every_series_of_outcomes_ends(outcomes in proptest::collection::vec(any_outcome(), 10), unit in 0.0f64..1.0) {
            let policy = policy(&[1, 2, 3]);
            let mut made = 0;
            for outcome in &outcomes {
                let decision = transition(scheduled(made), outcome, &policy, NOW, unit);
                match decision.next {
                    Next::Waiting(at) => {
                        prop_assert!(at > NOW);
                        prop_assert!(!outcome.succeeded());
                        made += 1;
                    }
                    Next::Succeeded => { prop_assert!(outcome.succeeded()); return Ok(()) }
                    Next::Exhausted => { prop_assert_eq!(made, 3); return Ok(()) }
                    Next::Canceled => return Ok(()),
                }
            }
            prop_assert!(false, "no final state");
        }

        /// A manual attempt is always the last of its delivery.
        #[test]
        fn a_manual_attempt_never_waits(outcome in any_outcome(), made in 0u32..20, unit in 0.0f64..1.0) {
            let progress = Progress { made, trigger: Trigger::Manual, silent: false };
            let decision = transition(progress, &outcome, &policy(&[1; 50]), NOW, unit);
            prop_assert!(!matches!(decision.next, Next::Waiting(_)));
        }

        /// No answer, however strange, schedules a retry before the schedule's own wait less jitter.
        #[test]
        fn no_retry_is_early(outcome in any_outcome(), unit in 0.0f64..1.0) {
            if let Next::Waiting(at) = transition(scheduled(0), &outcome, &policy(&[100]), NOW, unit).next {
                prop_assert!(at.since(NOW) >= Duration::from_secs(79));
            }
        }
    }
}
