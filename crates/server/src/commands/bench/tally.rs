//! Counts and latencies: what the tasks of a phase write, and what is added up at its end.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

/// An hour in microseconds: what takes longer counts as that.
const LONGEST: u64 = 3_600_000_000;

/// Counts and latencies, in microseconds.
#[derive(Clone)]
pub(super) struct Tally {
    /// Sent (or due to be sent) → answer read.
    pub(super) accept: Histogram<u64>,
    /// Sent (or due to be sent) → webhook received whole.
    pub(super) end_to_end: Histogram<u64>,
    /// Answer read → webhook received whole; 0 if the webhook was earlier.
    pub(super) lag: Histogram<u64>,
    /// Answers 2xx.
    pub(super) accepted: u64,
    /// Deliveries received for the first time.
    pub(super) received: u64,
    /// Deliveries received again.
    pub(super) repeated: u64,
    /// Deliveries whose signature was looked at.
    pub(super) signatures_checked: u64,
    /// … and did not verify.
    pub(super) signatures_bad: u64,
    /// When the last acceptance was read.
    pub(super) last_accept: u64,
    /// When the last first-time delivery arrived.
    pub(super) last_arrival: u64,
    /// Requests that were not accepted, by what happened.
    pub(super) errors: BTreeMap<String, Failures>,
}

/// Requests that failed in the same way.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub(super) struct Failures {
    /// How many.
    pub(super) count: u64,
    /// What the first one said.
    pub(super) sample: String,
}

/// What has happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Answers 2xx.
    pub(super) accepted: u64,
    /// First-time deliveries.
    pub(super) received: u64,
    /// Requests that were not accepted.
    pub(super) failed: u64,
}

impl Tally {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        let histogram = || {
            // Three digits up to an hour: 200 KB, and a relative error below 0.1 %.
            Histogram::new_with_bounds(1, LONGEST, 3).unwrap_or_else(|error| unreachable!("constant bounds: {error}"))
        };
        Self {
            accept: histogram(),
            end_to_end: histogram(),
            lag: histogram(),
            accepted: 0,
            received: 0,
            repeated: 0,
            signatures_checked: 0,
            signatures_bad: 0,
            last_accept: 0,
            last_arrival: 0,
            errors: BTreeMap::new(),
        }
    }

    /// Adds another's.
    pub(super) fn add(&mut self, other: &Self) {
        for (sum, part) in
            [(&mut self.accept, &other.accept), (&mut self.end_to_end, &other.end_to_end), (&mut self.lag, &other.lag)]
        {
            // Equal bounds: nothing can be out of range.
            let _ = sum.add(part);
        }
        self.accepted += other.accepted;
        self.received += other.received;
        self.repeated += other.repeated;
        self.signatures_checked += other.signatures_checked;
        self.signatures_bad += other.signatures_bad;
        self.last_accept = self.last_accept.max(other.last_accept);
        self.last_arrival = self.last_arrival.max(other.last_arrival);
        for (what, failures) in &other.errors {
            let sum = self
                .errors
                .entry(what.clone())
                .or_insert_with(|| Failures { count: 0, sample: failures.sample.clone() });
            sum.count += failures.count;
        }
    }
}
