//! Who of many is next, when what they want takes time, and nobody knows beforehand how much.
//!
//! Each has a place in a virtual time, which goes on with what is done, divided by those who are active: as far as it has gone,
//! everybody who was active all along has had as much. Whoever used time is ahead of it by that, and waits until the others have had
//! as much. Whoever comes anew starts at the present, so nobody saves anything up; and whoever comes again is no newcomer, as long as
//! he is remembered. This is weighted fair queuing, with three differences:
//!
//! * What a turn will take is expected to be what those before it took: the longest of the last seconds ([`Expectation`]). When it ends,
//!   what it took
//!   is counted instead. So of two that have had as much, the one comes first who takes little, and waits for no more than what is
//!   under way. The first turn of a newcomer is expected to take what those of the newcomers before it took, and puts him behind nobody.
//! * Turns that are expected to be long are kept apart from short ones ([`Kind`]): whoever gives turns may pass them over, and what somebody
//!   has of the ones takes nothing from what he may have of the others.
//! * The present is never behind the one who was chosen last: nobody who comes starts in the past.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// A time that was used, or a place in virtual time: nanoseconds, so that there are enough for centuries.
pub(super) type Nanos = u64;

/// So long the longest turn is expected to come again, however many short ones come between: those are had in no time.
const REMEMBERED: Duration = Duration::from_secs(10);

/// So long after a long turn the next ones are expected to be long, too.
const LONG_REMEMBERED: Duration = Duration::from_secs(60);

/// What is expected of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Short,
    Long,
}

/// Something of short turns, and of long ones, in the order of [`Kind`].
pub(super) type ByKind<T> = [T; 2];

const KINDS: ByKind<Kind> = [Kind::Short, Kind::Long];

/// What somebody is worth to those who order them.
pub(super) trait Waits {
    /// The first of what waits that is expected to be short, and of what is expected to be long, where nothing else is known than that
    /// so much is expected of whoever it is of.
    fn next(&self, expected: Nanos, kind: Kind) -> ByKind<Option<Next>>;

    /// Nothing waits.
    fn is_empty(&self) -> bool;
}

/// The first of what waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Next {
    /// When it came: those who are equal otherwise go by that.
    pub(super) arrival: u64,
    /// How long it is expected to take.
    pub(super) expected: Nanos,
}

/// Those who share time.
pub(super) struct SharedTime<K, T> {
    now: Nanos,
    /// Those that have a turn, or wait for one.
    active: usize,
    /// And those that have not, as far as they are remembered.
    members: HashMap<K, Member<T>, foldhash::fast::RandomState>,
    /// Those that may be given a turn, in order.
    ready: ByKind<BTreeSet<(Rank, K)>>,
    /// What is expected of those of whom nothing is known.
    newcomers: Expectation,
    idle: BTreeSet<(Nanos, K)>,
    bounds: Bounds,
}

/// What holds for each of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Turns of each kind at a time.
    pub(super) most: usize,
    /// Those that are remembered without being active.
    pub(super) remembered: usize,
    /// What takes so much time is long.
    pub(super) long: Nanos,
}

/// Where it stands, and when it came.
type Rank = (Nanos, u64);

pub(super) struct Member<T> {
    /// Up to when it has had its part.
    used: Nanos,
    /// `None` if it had no turn yet.
    expectation: Option<Expectation>,
    /// The turns that it has.
    taken: ByKind<usize>,
    pub(super) waiting: T,
    place: Place,
}

/// Where a member is kept in order.
#[derive(Debug, Clone, Copy)]
enum Place {
    Nowhere,
    Idle(Nanos),
    /// Active, and there among those of each kind that may be given a turn.
    Active(ByKind<Option<Ready>>),
}

/// Where somebody is among those that may be given a turn, and what he would be given.
#[derive(Debug, Clone, Copy)]
struct Ready {
    rank: Rank,
    next: Next,
}

/// What a turn is expected to take.
#[derive(Debug, Clone, Copy, Default)]
struct Expectation {
    longest: Nanos,
    /// When the one was given that took so long.
    longest_at: Option<Instant>,
    /// When one was given that was long.
    long_at: Option<Instant>,
}

impl Expectation {
    /// One that was given then took so much time.
    fn learn(&mut self, at: Instant, cost: Nanos, long: Nanos) {
        let is_within =
            |time: Option<Instant>, within| time.is_some_and(|time| at.saturating_duration_since(time) < within);
        if cost >= self.longest || !is_within(self.longest_at, REMEMBERED) {
            (self.longest, self.longest_at) = (cost, Some(at));
        }
        if cost >= long {
            self.long_at = Some(at);
        } else if !is_within(self.long_at, LONG_REMEMBERED) {
            self.long_at = None;
        }
    }

    fn kind(&self) -> Kind {
        if self.long_at.is_some() { Kind::Long } else { Kind::Short }
    }
}

impl<K: Ord + Hash + Clone, T: Waits> SharedTime<K, T> {
    pub(super) fn new(bounds: Bounds) -> Self {
        let (members, ready) = (HashMap::default(), Default::default());
        Self { now: 0, active: 0, members, ready, newcomers: Expectation::default(), idle: BTreeSet::new(), bounds }
    }

    /// Who is next, where those that are expected to be long may be passed over; and what is expected of the turn.
    pub(super) fn next(&self, passes_long: bool) -> Option<(K, Kind)> {
        let [short, long] = self.ready.each_ref().map(BTreeSet::first);
        let long = long.filter(|_| !passes_long);
        match (short, long) {
            (Some((short, id)), long) if long.is_none_or(|(long, _)| short <= long) => Some((id.clone(), Kind::Short)),
            (_, long) => long.map(|(_, id)| (id.clone(), Kind::Long)),
        }
    }

    /// Who is next of those of a kind.
    pub(super) fn next_of(&self, kind: Kind) -> Option<&K> {
        self.ready[kind as usize].first().map(|(_, id)| id)
    }

    /// The first of each kind that may be given a turn.
    pub(super) fn firsts(&self) -> ByKind<Option<Next>> {
        KINDS.map(|kind| match self.members.get(self.next_of(kind)?)?.place {
            Place::Active(ready) => ready[kind as usize].map(|ready| ready.next),
            Place::Nowhere | Place::Idle(_) => None,
        })
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
            expectation: None,
            taken: [0; 2],
            waiting: new(),
            place: Place::Nowhere,
        });
        let was_active = matches!(member.place, Place::Active(_));
        match member.place {
            Place::Nowhere => {}
            Place::Idle(used) => {
                self.idle.remove(&(used, id.clone()));
            }
            Place::Active(places) => {
                for (ready, place) in self.ready.iter_mut().zip(places) {
                    place.map(|place| ready.remove(&(place.rank, id.clone())));
                }
            }
        }
        if !was_active {
            member.used = member.used.max(now);
        }
        let result = change(member);
        let is_active = member.is_active();
        member.place = if is_active {
            let places = member.places(&self.newcomers, self.bounds.most);
            for (ready, place) in self.ready.iter_mut().zip(places) {
                place.map(|place| ready.insert((place.rank, id.clone())));
            }
            Place::Active(places)
        } else {
            self.idle.insert((member.used, id.clone()));
            Place::Idle(member.used)
        };
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

    /// A turn of a member has ended.
    pub(super) fn ended(&mut self, id: &K, new: impl FnOnce() -> T, turn: Ended) {
        let long = self.bounds.long;
        let is_newcomer = self.change(id, new, |member| {
            member.end(turn);
            let is_newcomer = member.expectation.is_none();
            member.expectation.get_or_insert_default().learn(turn.at, turn.cost, long);
            is_newcomer
        });
        if is_newcomer {
            self.newcomers.learn(turn.at, turn.cost, long);
        }
    }
}

/// A turn that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    /// When it was given.
    pub(super) at: Instant,
    pub(super) kind: Kind,
    /// What it was expected to take.
    pub(super) expected: Nanos,
    /// What it took.
    pub(super) cost: Nanos,
}

impl<T: Waits> Member<T> {
    fn is_active(&self) -> bool {
        self.taken != [0; 2] || !self.waiting.is_empty()
    }

    /// Where it stands among those that may be given a turn, if it may have so many of each kind.
    fn places(&self, newcomers: &Expectation, most: usize) -> ByKind<Option<Ready>> {
        let expectation = self.expectation.as_ref().unwrap_or(newcomers);
        let next = self.waiting.next(expectation.longest, expectation.kind());
        KINDS.map(|kind| {
            let next = next[kind as usize].filter(|_| self.taken[kind as usize] < most)?;
            // A newcomer is not put behind the others for what is expected of him; that only decides where he is kept.
            let expected = self.expectation.map_or(0, |_| next.expected);
            Some(Ready { rank: (self.used.saturating_add(expected), next.arrival), next })
        })
    }

    /// It is given a turn that is expected to take so long; says where it stood until then.
    pub(super) fn begin(&mut self, kind: Kind, expected: Nanos) -> Nanos {
        let used = self.used;
        self.taken[kind as usize] += 1;
        self.used = used.saturating_add(expected);
        used
    }

    /// A turn has ended, and what it took counts in place of what it was expected to take.
    fn end(&mut self, turn: Ended) {
        self.taken[turn.kind as usize] -= 1;
        self.used = self.used.saturating_sub(turn.expected).saturating_add(turn.cost);
    }
}
