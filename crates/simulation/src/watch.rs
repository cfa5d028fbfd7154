//! What is looked at while the engine runs: how much it has taken, and how often it asks for the same.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_delivery::Usage;
use postrider_delivery::options::DeliveryOptions;
use postrider_domain::time::Timestamp;
use postrider_store::EndpointKey;

use crate::book::Book;
use crate::bounds::LARGEST;
use crate::broken::Broken;
use crate::store::Stormy;

/// What the last small message may take beyond what there is, and what messages take beside their payloads.
const SMALL: usize = 32 * 1024;

/// So many calls of one kind at one instant are too many.
const CALLS: usize = 3_000;

/// So many loads of an endpoint within this time are too many, if nothing comes of them.
const LOADS: usize = 64;
const WITHIN: Duration = Duration::from_secs(1);

/// Who looks.
pub(crate) struct Watch {
    memory: i64,
    calls: Mutex<(Timestamp, BTreeMap<&'static str, usize>)>,
}

impl Watch {
    pub(crate) fn new(options: &DeliveryOptions) -> Self {
        let memory = i64::try_from(options.memory_bytes).unwrap_or(i64::MAX);
        Self { memory, calls: Mutex::new((Timestamp::EPOCH, BTreeMap::new())) }
    }

    /// Whether the engine has no more than it may have, and counts all of it.
    pub(crate) fn look(&self, book: &Book, usage: Usage) {
        book.note(|events| {
            let answers: u64 = events.unsettled.values().sum();
            let answers = i64::try_from(answers).unwrap_or(i64::MAX);
            // What was cut is not told one by one.
            if usage.memory_bytes < answers - i64::try_from(usage.cut_bytes).unwrap_or(i64::MAX) {
                events.breaks(Broken::Uncounted);
            }
            // Overdrawn by as much again; the last message of each kind may go beyond that, and answers are only counted.
            if usage.memory_bytes > self.memory * 2 + (LARGEST + SMALL) as i64 + answers {
                events.breaks(Broken::TooMuchMemory);
            }
        });
    }

    /// Whether there are too many calls of a kind at this instant.
    pub(crate) fn spins(&self, what: &'static str, now: Timestamp) -> bool {
        let mut calls = self.calls.lock();
        if calls.0 != now {
            *calls = (now, BTreeMap::new());
        }
        let count = calls.1.entry(what).or_default();
        *count += 1;
        *count > CALLS
    }
}

impl Stormy {
    /// Notes that deliveries of an endpoint are about to be loaded.
    pub(crate) async fn note_load(&self, endpoint: EndpointKey) {
        let now = self.clock.now();
        let spins = self.book.note(|events| {
            let loads = events.loads.entry(endpoint).or_default();
            loads.push_back(now);
            let first = (loads.len() > LOADS).then(|| loads.pop_front()).flatten();
            let spins = first.is_some_and(|first| now.since(first) < WITHIN);
            if spins {
                events.breaks(Broken::Spins("due"));
            }
            spins
        });
        if spins {
            // So that it comes to an end.
            tokio::time::sleep(WITHIN).await;
        }
    }
}
