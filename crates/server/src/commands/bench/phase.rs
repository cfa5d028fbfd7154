//! The books of one measured phase: what was sent, accepted, received, and how long it took.
//!
//! Written by all load and receiver tasks at once. Whether a message was accepted and received is kept in atomics by its
//! sequence number; latencies and counts in a few shards, each behind a lock that hardly anybody else wants.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::message::Stamp;
use super::tally::{Counts, Failures, Tally};

const SHARDS: usize = 4;
const SEGMENT: usize = 32_768;
/// 268 million messages per phase: hours at the highest rate.
const SEGMENTS: usize = 8_192;
/// A phase's books.
pub(super) struct Phase {
    /// Its place in the run; messages carry it.
    pub(super) number: u8,
    /// How many endpoints should receive every message.
    pub(super) endpoints: usize,
    segments: Box<[OnceLock<Segment>]>,
    shards: [Mutex<Tally>; SHARDS],
}

/// What is known about [`SEGMENT`] messages in a row.
struct Segment {
    /// When the acceptance was read; 0 means not yet.
    accepted: Box<[AtomicU64]>,
    /// One bit per message, one map per endpoint.
    received: Box<[Box<[AtomicU64]>]>,
}

impl Phase {
    /// Empty books.
    pub(super) fn new(number: u8, endpoints: usize) -> Self {
        Self {
            number,
            endpoints,
            segments: (0..SEGMENTS).map(|_| OnceLock::new()).collect(),
            shards: std::array::from_fn(|_| Mutex::new(Tally::new())),
        }
    }

    /// An answer 2xx was read at `now` for a message that was (to be) sent at `sent`.
    pub(super) fn accept(&self, writer: usize, stamp: Stamp, now: u64) {
        // A phase that nobody receives needs no times.
        if self.endpoints > 0
            && let Some((segment, place)) = self.place(stamp.sequence)
        {
            segment.accepted[place].store(now, Relaxed);
        }
        let mut shard = self.shard(writer).lock();
        shard.accept.saturating_record(now.saturating_sub(stamp.sent));
        shard.accepted += 1;
        shard.last_accept = shard.last_accept.max(now);
    }

    /// A request was not accepted.
    pub(super) fn fail(&self, writer: usize, what: &str, sample: impl FnOnce() -> String) {
        let mut shard = self.shard(writer).lock();
        match shard.errors.get_mut(what) {
            Some(failures) => failures.count += 1,
            None => {
                shard.errors.insert(what.to_owned(), Failures { count: 1, sample: sample() });
            }
        }
    }

    /// A delivery to `endpoint` was received whole at `now`. `signature` is the result of looking at it, if that was done.
    pub(super) fn receive(&self, writer: usize, endpoint: usize, stamp: Stamp, now: u64, signature: Option<bool>) {
        let Some((segment, place)) = self.place(stamp.sequence) else { return };
        let Some(map) = segment.received.get(endpoint) else { return };
        let bit = 1u64 << (place % 64);
        let repeated = map[place / 64].fetch_or(bit, Relaxed) & bit != 0;
        let accepted = segment.accepted[place].load(Relaxed);
        let mut shard = self.shard(writer).lock();
        shard.signatures_checked += u64::from(signature.is_some());
        shard.signatures_bad += u64::from(signature == Some(false));
        if repeated {
            shard.repeated += 1;
            return;
        }
        shard.end_to_end.saturating_record(now.saturating_sub(stamp.sent));
        // Not accepted yet: the webhook overtook the answer.
        shard.lag.saturating_record(if accepted == 0 { 0 } else { now.saturating_sub(accepted) });
        shard.received += 1;
        shard.last_arrival = shard.last_arrival.max(now);
    }

    /// How many deliveries of accepted messages have not been received.
    pub(super) fn missing(&self) -> u64 {
        self.segments.iter().map_while(OnceLock::get).map(Segment::missing).sum()
    }

    /// All shards in one.
    pub(super) fn sum(&self) -> Tally {
        let mut sum = Tally::new();
        for shard in &self.shards {
            sum.add(&shard.lock());
        }
        sum
    }

    /// Accepted, received and failed so far: what progress shows, cheaper than [`Phase::sum`].
    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for shard in &self.shards {
            let shard = shard.lock();
            counts.accepted += shard.accepted;
            counts.received += shard.received;
            counts.failed += shard.errors.values().map(|failures| failures.count).sum::<u64>();
        }
        counts
    }

    fn shard(&self, writer: usize) -> &Mutex<Tally> {
        &self.shards[writer % SHARDS]
    }

    fn place(&self, sequence: u32) -> Option<(&Segment, usize)> {
        let sequence = sequence as usize;
        // In order, so that `missing` may stop at the first gap.
        let number = sequence / SEGMENT;
        let cell = self.segments.get(number)?;
        let segment = match cell.get() {
            Some(segment) => segment,
            None => {
                for earlier in &self.segments[..number] {
                    earlier.get_or_init(|| Segment::new(self.endpoints));
                }
                cell.get_or_init(|| Segment::new(self.endpoints))
            }
        };
        Some((segment, sequence % SEGMENT))
    }
}

impl Segment {
    fn new(endpoints: usize) -> Self {
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect::<Box<[_]>>();
        Self { accepted: zeros(SEGMENT), received: (0..endpoints).map(|_| zeros(SEGMENT / 64)).collect() }
    }

    fn missing(&self) -> u64 {
        let mut missing = 0;
        for (word, times) in self.accepted.chunks(64).enumerate() {
            let accepted = times
                .iter()
                .enumerate()
                .fold(0u64, |bits, (bit, time)| bits | u64::from(time.load(Relaxed) != 0) << bit);
            for map in &self.received {
                missing += u64::from((accepted & !map[word].load(Relaxed)).count_ones());
            }
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(sequence: u32) -> Stamp {
        Stamp { phase: 0, sequence, sent: 100 }
    }

    #[test]
    fn what_was_accepted_and_not_received_by_every_endpoint_is_missing() {
        let phase = Phase::new(0, 2);
        for sequence in [0, 1, 70_000] {
            phase.accept(0, stamp(sequence), 150);
        }
        phase.receive(1, 0, stamp(0), 200, None);
        phase.receive(1, 1, stamp(0), 200, None);
        phase.receive(1, 0, stamp(70_000), 200, None);
        assert_eq!(phase.missing(), 3, "1 to both endpoints, 70,000 to the second");
    }

    #[test]
    fn what_was_never_accepted_is_not_missing_and_counts_when_it_arrives() {
        let phase = Phase::new(0, 1);
        phase.receive(0, 0, stamp(5), 200, None);
        assert_eq!(phase.missing(), 0);
        assert_eq!(phase.counts().received, 1);
    }

    #[test]
    fn a_second_arrival_is_a_repeat_and_changes_no_latency() {
        let phase = Phase::new(0, 1);
        phase.accept(0, stamp(0), 150);
        phase.receive(0, 0, stamp(0), 200, Some(true));
        phase.receive(1, 0, stamp(0), 900, Some(false));
        let sum = phase.sum();
        assert_eq!((sum.received, sum.repeated, sum.last_arrival), (1, 1, 200));
        assert_eq!((sum.signatures_checked, sum.signatures_bad), (2, 1));
        assert_eq!((sum.end_to_end.len(), sum.end_to_end.max()), (1, 100));
        assert_eq!(sum.lag.max(), 50);
    }

    #[test]
    fn a_webhook_that_overtakes_its_answer_has_no_lag() {
        let phase = Phase::new(0, 1);
        phase.receive(0, 0, stamp(0), 200, None);
        phase.accept(0, stamp(0), 250);
        assert_eq!(phase.sum().lag.max(), 0);
    }

    #[test]
    fn failures_are_counted_by_what_happened_and_keep_the_first_answer() {
        let phase = Phase::new(0, 1);
        phase.fail(0, "500", || "first".into());
        phase.fail(1, "500", || "second".into());
        phase.fail(0, "500", || "third".into());
        let errors = phase.sum().errors;
        assert_eq!((errors["500"].count, errors["500"].sample.as_str()), (3, "first"));
    }

    #[test]
    fn what_belongs_nowhere_is_ignored() {
        let phase = Phase::new(0, 1);
        phase.receive(0, 7, stamp(0), 200, None);
        phase.receive(0, 0, stamp(u32::MAX), 200, None);
        assert_eq!(phase.counts(), Counts::default());
    }
}
