//! Who of many is next, when what they want takes time, and nobody knows beforehand how much.
//!
//! Each has a place in a virtual time, which goes on with what is done, divided by those who are active: as far as it has gone,
//! everybody who was active all along has had as much. Whoever used time is ahead of it by that, and waits until the others have had
//! as much. Whoever comes anew starts at the present, so nobody saves anything up; and whoever comes again is no newcomer, as long as
//! he is remembered. This is weighted fair queuing, with two differences:
//!
//! * What a turn will take is expected to be what those before it took: the longest of the last seconds. When it ends, what it took is counted instead. So of two that have had as much, the one comes first who takes little, and
//!   waits for no more than what is under way.
//! * The present is never behind the one who was chosen last: nobody who comes starts in the past.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// A time that was used, or a place in virtual time: nanoseconds, so that there are enough for centuries.
pub(super) type Nanos = u64;

/// So long the longest turn is expected to come again, however many short ones come between: those are had in no time.
const REMEMBERED: Duration = Duration::from_secs(10);

/// What somebody is worth to those who order them.
pub(super) trait Waits {
    /// What is next of what waits; `None` if nothing does.
    fn next(&self) -> Option<Next>;
}

/// The first of what waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Next {
    /// When it came: those who are equal otherwise go by that.
    pub(super) arrival: u64,
    /// How long it is expected to take; `None` if nothing is known of that but of whoever it is of.
    pub(super) expected: Option<Nanos>,
}

/// Those who share time.
pub(super) struct SharedTime<K, T> {
    now: Nanos,
    /// Those that have a turn, or wait for one.
    active: usize,
    /// And those that have not, as far as they are remembered.
    members: HashMap<K, Member<T>, foldhash::fast::RandomState>,
    /// Those that may be given a turn, in order: the ones that are expected to be short, and the others.
    ready: [BTreeSet<(Rank, K)>; 2],
    idle: BTreeSet<(Nanos, K)>,
    bounds: Bounds,
}

/// What holds for each of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Turns at a time.
    pub(super) most: usize,
    /// Those that are remembered without being active.
    pub(super) remembered: usize,
    /// What is expected to take so long is kept apart.
    pub(super) long: Nanos,
}

/// Where it stands, and when it came.
type Rank = (Nanos, u64);

pub(super) struct Member<T> {
    /// Up to when it has had its part.
    used: Nanos,
    /// How long its turns are expected to take; `None` if it had none yet.
    expected: Option<Nanos>,
    /// When the one was given that took so long.
    longest_at: Option<Instant>,
    /// The turns that it has.
    pub(super) taken: usize,
    pub(super) waiting: T,
    place: Place,
}

/// Where a member is kept in order.
#[derive(Debug, Clone, Copy)]
enum Place {
    Nowhere,
    Idle(Nanos),
    Ready(usize, Rank),
}

impl<K: Ord + Hash + Clone, T: Waits> SharedTime<K, T> {
    pub(super) fn new(bounds: Bounds) -> Self {
        let (members, ready) = (HashMap::default(), Default::default());
        Self { now: 0, active: 0, members, ready, idle: BTreeSet::new(), bounds }
    }

    /// Who is next, where those that are expected to be long may be passed over; and whether it is one of those.
    pub(super) fn next(&self, passes_long: bool) -> Option<(K, bool)> {
        let [short, long] = self.ready.each_ref().map(BTreeSet::first);
        let long = long.filter(|_| !passes_long);
        let is_long = match (short, long) {
            (Some((short, _)), Some((long, _))) => long < short,
            (short, _) => short.is_none(),
        };
        let (_, next) = if is_long { long } else { short }?;
        Some((next.clone(), is_long))
    }

    /// The first of those that wait, if there is one that may be given a turn.
    pub(super) fn first(&self) -> Option<Next> {
        let (next, _) = self.next(false)?;
        let member = self.members.get(&next)?;
        let first = member.waiting.next()?;
        Some(Next { expected: first.expected.or(member.expected), ..first })
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.active == 0 && self.ready.iter().all(BTreeSet::is_empty)
    }

    pub(super) fn get(&self, id: &K) -> Option<&Member<T>> {
        self.members.get(id)
    }

    /// Changes a member, which is made for that if it is not known, and is then where it belongs in the order.
    pub(super) fn change<R>(&mut self, id: &K, new: impl FnOnce() -> T, change: impl FnOnce(&mut Member<T>) -> R) -> R {
        let now = self.now;
        let member = self.members.entry(id.clone()).or_insert_with(|| Member {
            used: now,
            expected: None,
            longest_at: None,
            taken: 0,
            waiting: new(),
            place: Place::Nowhere,
        });
        match member.place {
            Place::Nowhere => {}
            Place::Idle(used) => {
                self.idle.remove(&(used, id.clone()));
            }
            Place::Ready(which, rank) => {
                self.ready[which].remove(&(rank, id.clone()));
            }
        }
        let was_active = matches!(member.place, Place::Ready(..)) || member.is_active();
        if !was_active {
            member.used = member.used.max(now);
        }
        let result = change(member);
        let is_active = member.is_active();
        member.place = Place::Nowhere;
        if !is_active {
            member.place = Place::Idle(member.used);
            self.idle.insert((member.used, id.clone()));
        } else if member.taken < self.bounds.most
            && let Some(next) = member.waiting.next()
        {
            let expected = member.expects();
            let which = usize::from(expected >= self.bounds.long);
            let rank = (member.used.saturating_add(expected), next.arrival);
            member.place = Place::Ready(which, rank);
            self.ready[which].insert((rank, id.clone()));
        }
        self.active = self.active + usize::from(is_active) - usize::from(was_active);
        while self.idle.len() > self.bounds.remembered
            && let Some((_, longest_ago)) = self.idle.pop_first()
        {
            self.members.remove(&longest_ago);
        }
        result
    }

    /// Somebody was given a turn, and stood there until then.
    pub(super) fn begun(&mut self, used: Nanos) {
        self.now = self.now.max(used);
    }

    /// So much was done for one of those who are active, or were until then.
    pub(super) fn done(&mut self, cost: Nanos) {
        self.now = self.now.saturating_add(cost / self.active.max(1) as Nanos);
    }
}

impl<T: Waits> Member<T> {
    fn is_active(&self) -> bool {
        self.taken > 0 || self.waiting.next().is_some()
    }

    /// How long its next turn is expected to take.
    pub(super) fn expects(&self) -> Nanos {
        self.waiting.next().and_then(|next| next.expected).or(self.expected).unwrap_or(0)
    }

    /// It is given a turn that is expected to take so long; says where it stood until then.
    pub(super) fn begin(&mut self, expected: Nanos) -> Nanos {
        let used = self.used;
        self.taken += 1;
        self.used = used.saturating_add(expected);
        used
    }

    /// A turn that began then and was expected to take so long took that long.
    pub(super) fn end(&mut self, at: Instant, expected: Nanos, cost: Nanos) {
        self.taken -= 1;
        self.used = self.used.saturating_sub(expected).saturating_add(cost);
        let is_remembered = self.longest_at.is_some_and(|longest| at.saturating_duration_since(longest) < REMEMBERED);
        if !is_remembered || self.expected.is_none_or(|before| cost >= before) {
            (self.expected, self.longest_at) = (Some(cost), Some(at));
        }
    }
}
