//! What the process remembers of a part of the endpoints: which have a lane, and of those without one what is worth it.
//!
//! It is bounded. What finds no room is learned again (a pace), or the store is asked for it (a hold).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use postrider_domain::time::Timestamp;
use postrider_store::EndpointKey;

use crate::lane::{Lane, State};
use crate::limits::MAX_REMEMBERED;
use crate::pace::Pace;

/// Lanes are spread over this many locks.
pub(crate) const SHARDS: usize = 64;

/// What is remembered of endpoints without a lane takes at most, in bytes; a table that has just grown is half empty.
pub(crate) const REMEMBERED_BYTES: u64 = (SHARDS * MAX_REMEMBERED * 2 * size_of::<(EndpointKey, Remembered)>()) as u64;

/// How long a message may be on its way from its commit to its lanes.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

/// How often it is looked at most for what need not be remembered of endpoints.
const TIDYING: Duration = Duration::from_secs(1);

/// What part of the endpoints has.
#[derive(Default)]
pub(crate) struct Shard {
    pub(crate) lanes: HashMap<EndpointKey, Arc<Lane>, foldhash::fast::RandomState>,
    /// What is remembered of endpoints without a lane: at most [`MAX_REMEMBERED`].
    remembered: HashMap<EndpointKey, Remembered>,
    /// When one of its endpoints was changed last.
    pub(crate) changed_at: Option<Timestamp>,
    /// Until when endpoints may be held back of which that is not remembered: then only the store knows.
    forgotten_until: Option<Timestamp>,
    /// When it was last looked for what need not be remembered any more.
    tidied_at: Option<Timestamp>,
}

pub(crate) struct Remembered {
    pub(crate) pace: Pace,
    /// Until when the store knows that the endpoint is held back, so that nobody need open a lane.
    pub(crate) noted_hold: Option<Timestamp>,
    /// The hold in `pace` was noted before, and only the store knows whether it stands.
    pub(crate) doubts_hold: bool,
}

impl Remembered {
    /// What is worth remembering of a lane that closes. One that `waits` for its turn is not to be taken for held back.
    pub(crate) fn of(lane: &State, waits: bool) -> Self {
        let noted_hold = lane.noted_hold().filter(|_| !waits);
        Self { pace: lane.pace.clone(), noted_hold, doubts_hold: lane.doubts_hold() }
    }
}

impl Shard {
    /// The open lane of an endpoint.
    pub(crate) fn open(&self, endpoint: EndpointKey) -> Option<&Arc<Lane>> {
        self.lanes.get(&endpoint)
    }

    /// Whether the store brings the endpoint up when its time has come.
    pub(crate) fn is_on_hold(&self, endpoint: EndpointKey, now: Timestamp) -> bool {
        self.remembered.get(&endpoint).is_some_and(|known| known.noted_hold > Some(now))
    }

    pub(crate) fn remember(&mut self, endpoint: EndpointKey, mut known: Remembered, now: Timestamp) {
        known.noted_hold = known.noted_hold.filter(|until| *until > now);
        if known.noted_hold.is_none() && !known.pace.is_troubled(now) {
            return;
        }
        if self.remembered.len() >= MAX_REMEMBERED {
            self.tidy(now);
        }
        if self.remembered.len() < MAX_REMEMBERED {
            self.remembered.insert(endpoint, known);
        } else {
            // A pace is learned again, and the store is asked for holds.
            self.forgotten_until = self.forgotten_until.max(known.noted_hold);
        }
    }

    /// Forgets what is not in the store, and what is over; not again and again while everything has to stay.
    pub(crate) fn tidy(&mut self, now: Timestamp) {
        if self.tidied_at.is_some_and(|at| now.since(at) < TIDYING) {
            return;
        }
        self.tidied_at = Some(now);
        self.remembered.retain(|_, known| known.noted_hold > Some(now));
    }

    /// Whether the store may have noted that an endpoint without a lane is held back, of which nothing is remembered.
    pub(crate) fn has_forgotten(&self, endpoint: EndpointKey, now: Timestamp) -> bool {
        self.forgotten_until > Some(now) && !self.remembered.contains_key(&endpoint)
    }

    /// Whether what comes with a message may be older than a change of its endpoint that was told already.
    pub(crate) fn changed_lately(&self, now: Timestamp) -> bool {
        self.changed_at.is_some_and(|at| now.since(at) < ON_ITS_WAY)
    }

    /// Takes what is remembered of an endpoint that gets a lane: its pace, and whether the store has to be asked if it is held
    /// back.
    pub(crate) fn recall(&mut self, endpoint: EndpointKey, now: Timestamp) -> (Option<Pace>, bool) {
        let forgotten = self.has_forgotten(endpoint, now);
        let closed = self.open(endpoint).map(|lane| {
            let state = lane.state.lock();
            (state.pace.clone(), state.doubts_hold())
        });
        let known = self.remembered.remove(&endpoint);
        let known = known.map(|known| (known.pace, known.doubts_hold || known.noted_hold.is_some()));
        // One that is about to be forgotten has learned something since.
        let (pace, doubts_hold) = closed.or(known).unzip();
        (pace, doubts_hold.unwrap_or(forgotten))
    }
}

#[cfg(test)]
mod tests {
    use postrider_domain::delivery::{Hold, HoldReason};

    use super::*;

    fn known(pace: &Pace, noted_hold: Option<Timestamp>) -> Remembered {
        Remembered { pace: pace.clone(), noted_hold, doubts_hold: false }
    }

    #[test]
    fn a_lane_that_closes_without_having_asked_leaves_the_doubt_to_the_next() {
        let (now, mut shard) = (Timestamp::EPOCH, Shard::default());
        let until = now.saturating_add(Duration::from_secs(3_600));
        let mut pace = Pace::new(4);
        pace.hold_back(Hold { until, reason: HoldReason::Asked });
        shard.remember(EndpointKey(1), known(&pace, Some(until)), now);
        for waits in [true, false, true] {
            let (pace, doubts_hold) = shard.recall(EndpointKey(1), now);
            assert!(doubts_hold, "the store was not asked yet");
            let lane = Lane::new(EndpointKey(1), None, pace.expect("it is remembered"), doubts_hold);
            shard.remember(EndpointKey(1), Remembered::of(&lane.state.lock(), waits), now);
            assert!(!shard.is_on_hold(EndpointKey(1), now), "it waits for its turn, or for the store");
        }
    }

    #[test]
    fn holds_that_are_not_remembered_are_looked_up() {
        let (now, mut shard) = (Timestamp::EPOCH, Shard::default());
        let until = now.saturating_add(Duration::from_secs(3_600));
        let mut pace = Pace::new(4);
        pace.hold_back(Hold { until, reason: HoldReason::Asked });
        let last = EndpointKey(MAX_REMEMBERED as i64);
        for number in 0..=last.0 {
            shard.remember(EndpointKey(number), known(&pace, Some(until)), now);
        }
        assert_eq!(shard.remembered.len(), MAX_REMEMBERED);
        assert!(shard.is_on_hold(EndpointKey(0), now) && !shard.is_on_hold(last, now));
        assert!(matches!(shard.recall(last, now), (None, true)), "the store is asked");
        assert!(matches!(shard.recall(EndpointKey(0), now), (Some(_), true)), "whether it stands");
        // There is room again when the holds are over.
        assert!(matches!(shard.recall(last, until), (None, false)));
        let later = until.saturating_add(Duration::from_secs(1));
        shard.remember(last, known(&pace, Some(later)), until);
        shard.remember(EndpointKey(-1), known(&pace, Some(later)), until);
        assert!(shard.remembered.len() <= 2 && shard.is_on_hold(EndpointKey(-1), until));
    }

    #[test]
    fn a_pace_without_a_hold_makes_room_for_those_with_one() {
        let (now, mut shard) = (Timestamp::EPOCH, Shard::default());
        let until = now.saturating_add(Duration::from_secs(3_600));
        let mut pace = Pace::new(4);
        pace.hold_back(Hold { until, reason: HoldReason::Silent });
        for number in 0..MAX_REMEMBERED as i64 {
            shard.remember(EndpointKey(number), known(&pace, None), now);
        }
        shard.remember(EndpointKey(-1), known(&pace, Some(until)), now);
        assert!(shard.is_on_hold(EndpointKey(-1), now) && shard.remembered.len() == 1);
        assert!(!shard.has_forgotten(EndpointKey(1), now), "the store has noted nothing of it");
    }
}
