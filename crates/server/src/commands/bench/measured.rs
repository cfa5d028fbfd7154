//! The figures of one phase, and how they are computed from its books.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::load::Sent;
use super::phase::Phase;
use super::tally::Failures;
use super::usage::Usage;

/// What one phase came to.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Measured {
    /// Messages accepted (2xx).
    pub(super) accepted: u64,
    /// Accepted / (last answer − first request).
    pub(super) accepted_per_s: f64,
    /// Deliveries received for the first time.
    pub(super) delivered: u64,
    /// Delivered / (last arrival − first request): sustained, with whatever had to be caught up after the last request.
    pub(super) delivered_per_s: f64,
    /// Request sent (or due) → answer read.
    pub(super) accept_ms: Percentiles,
    /// Request sent (or due) → webhook received whole.
    pub(super) end_to_end_ms: Percentiles,
    /// Answer read → webhook received whole; 0 if the webhook came first.
    pub(super) accept_to_receive_ms: Percentiles,
    /// Deliveries of accepted messages that did not arrive.
    pub(super) lost: u64,
    /// Deliveries that arrived once more.
    pub(super) repeated: u64,
    /// Deliveries whose signature was verified, and how many of them did not verify.
    pub(super) signatures_checked: u64,
    /// See above.
    pub(super) signatures_bad: u64,
    /// Requests that a fixed rate called for and that could not be sent, because all connections waited for the server.
    pub(super) unsent: u64,
    /// Requests that were not accepted, by status or cause.
    pub(super) errors: BTreeMap<String, Failures>,
    /// Memory at the end, and processor time during the phase.
    pub(super) server: Option<Usage>,
}

/// A distribution of milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Percentiles {
    /// Half are below.
    pub(super) p50: f64,
    /// 90 % are below.
    pub(super) p90: f64,
    /// 99 % are below.
    pub(super) p99: f64,
    /// 99.9 % are below.
    pub(super) p999: f64,
    /// The longest.
    pub(super) max: f64,
}

impl Measured {
    /// The figures of a phase that is over.
    pub(super) fn of(phase: &Phase, sent: Sent, server: Option<Usage>) -> Self {
        let sum = phase.sum();
        Self {
            accepted: sum.accepted,
            accepted_per_s: per_second(sum.accepted, sent.began, sum.last_accept),
            delivered: sum.received,
            delivered_per_s: per_second(sum.received, sent.began, sum.last_arrival),
            accept_ms: (&sum.accept).into(),
            end_to_end_ms: (&sum.end_to_end).into(),
            accept_to_receive_ms: (&sum.lag).into(),
            lost: phase.missing(),
            repeated: sum.repeated,
            signatures_checked: sum.signatures_checked,
            signatures_bad: sum.signatures_bad,
            unsent: sent.unsent,
            errors: sum.errors,
            server,
        }
    }

    /// Whether the server did what it must: everything accepted has arrived, and signed.
    pub(super) fn is_sound(&self) -> bool {
        self.accepted > 0 && self.lost == 0 && self.signatures_bad == 0
    }
}

impl From<&Histogram<u64>> for Percentiles {
    fn from(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        // The highest bucket reaches beyond the highest value: what is shown should have happened.
        let max = histogram.max() as f64 / 1e3;
        let at = |quantile| f64::min(at(quantile), max);
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max }
    }
}

fn per_second(count: u64, from: u64, to: u64) -> f64 {
    if count == 0 {
        return 0.0;
    }
    count as f64 * 1e6 / to.saturating_sub(from).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::message::Stamp;

    #[test]
    fn rates_are_taken_from_the_first_request_to_the_last_event() {
        let phase = Phase::new(0, 1);
        for sequence in 0..10 {
            let stamp = Stamp { phase: 0, sequence, sent: 1_000_000 };
            phase.accept(0, stamp, 1_500_000);
            phase.receive(0, 0, stamp, 2_000_000, None);
        }
        let measured = Measured::of(&phase, Sent { began: 1_000_000, unsent: 0 }, None);
        assert_eq!((measured.accepted_per_s, measured.delivered_per_s), (20.0, 10.0));
        assert_eq!(measured.end_to_end_ms.max.round(), 1_000.0);
        assert!(measured.is_sound());
    }

    #[test]
    fn what_is_missing_or_badly_signed_is_not_sound() {
        let stamp = Stamp { phase: 0, sequence: 0, sent: 1 };
        let sent = Sent { began: 1, unsent: 0 };
        let phase = Phase::new(0, 1);
        assert!(!Measured::of(&phase, sent, None).is_sound(), "nothing was accepted");
        phase.accept(0, stamp, 2);
        assert!(!Measured::of(&phase, sent, None).is_sound(), "it did not arrive");
        phase.receive(0, 0, stamp, 3, Some(false));
        assert!(!Measured::of(&phase, sent, None).is_sound(), "its signature is wrong");
    }

    #[test]
    fn percentiles_are_milliseconds_and_never_above_the_longest() {
        let mut histogram = Histogram::new_with_bounds(1, 3_600_000_000, 3).unwrap();
        for micros in 1..=1_000u64 {
            histogram.record(micros * 1_000).unwrap();
        }
        let percentiles = Percentiles::from(&histogram);
        assert!((percentiles.p50 - 500.0).abs() < 1.0 && (percentiles.p99 - 990.0).abs() < 1.0);
        assert!(percentiles.p999 <= percentiles.max);
    }
}
