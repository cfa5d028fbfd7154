//! What waits for its commit, and what goes into the next one.
//!
//! Environments take turns, and within each its applications, so that a flood delays only whose it is. A commit has so many
//! rows at most, in which what payloads and names cost is counted, so that it does not take long whatever is in it.
//!
//! What is large is committed without that of other applications, and stands in a line of its own. While others send what is
//! small, the lines take turns, a large commit is kept short, and the next one comes after as much time as it took: whoever
//! sends a single message waits for the commit under way and one large one at most, and mostly for none. However many send
//! what is small, large ones get their turn. Without that company, they follow each other at once.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use postrider_domain::application::EnvironmentId;
use postrider_store::ApplicationKey;
use tokio::time::Instant;

use crate::batcher::{LARGE_ROWS, MAX_ROWS, PART_ROWS, Place};

/// While somebody sends what is small, more often than this, commits of what is large are kept short and apart.
const COMPANY: Duration = Duration::from_millis(100);

/// The longest pause after a large commit, however long that took.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(crate) struct Queue {
    small: Line,
    large: Line,
    /// Which line it was last.
    was_small: bool,
    /// When it was the small one's turn last.
    small_at: Option<Instant>,
    /// When the pause of the large one ends.
    pause_until: Option<Instant>,
    closed: bool,
}

impl Queue {
    pub(crate) fn add(&mut self, environment: &EnvironmentId, application: ApplicationKey, place: Place) {
        let line = if place.0.rows() > LARGE_ROWS { &mut self.large } else { &mut self.small };
        line.add(environment, application, place);
    }

    /// Takes what goes into the next commit: small ones of many, or large ones of one application. Nothing, though large
    /// ones wait, until [`Queue::pause`].
    pub(crate) fn take(&mut self, now: Instant) -> Vec<Place> {
        let pauses = self.pause(now).is_some();
        self.was_small = !self.small.is_empty() && (self.large.is_empty() || pauses || !self.was_small);
        if self.was_small {
            self.small_at = Some(now);
            return self.small.take();
        }
        if pauses {
            Vec::new()
        } else {
            self.large.take_of_one(if self.has_company(now) { PART_ROWS } else { MAX_ROWS })
        }
    }

    /// Storing what was taken last took so long. If it was large, as much time is left to others before the next.
    pub(crate) fn took(&mut self, time: Duration, now: Instant) {
        if !self.was_small {
            self.pause_until = Some(now + time.min(LONGEST_PAUSE));
        }
    }

    /// Until when what is large waits, if it does.
    pub(crate) fn pause(&self, now: Instant) -> Option<Instant> {
        self.pause_until.filter(|until| *until > now && !self.large.is_empty() && self.has_company(now))
    }

    fn has_company(&self, now: Instant) -> bool {
        !self.small.is_empty() || self.small_at.is_some_and(|at| now.saturating_duration_since(at) < COMPANY)
    }

    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.small.is_empty() && self.large.is_empty()
    }
}

/// Environments that take turns.
#[derive(Default)]
struct Line {
    turns: VecDeque<EnvironmentId>,
    environments: HashMap<EnvironmentId, Environment, foldhash::fast::RandomState>,
}

impl Line {
    fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    fn add(&mut self, environment: &EnvironmentId, application: ApplicationKey, place: Place) {
        if let Some(of) = self.environments.get_mut(environment) {
            return of.add(application, place);
        }
        self.turns.push_back(environment.clone());
        self.environments.entry(environment.clone()).or_default().add(application, place);
    }

    /// Takes a commit's worth, one from each whose turn it is.
    fn take(&mut self) -> Vec<Place> {
        let (mut taken, mut room) = (Vec::new(), Room::of(MAX_ROWS));
        while self.turn(&mut room, 1, &mut taken) {}
        taken
    }

    /// Takes a commit's worth from the application whose turn it is.
    fn take_of_one(&mut self, rows: usize) -> Vec<Place> {
        let mut taken = Vec::new();
        self.turn(&mut Room::of(rows), usize::MAX, &mut taken);
        taken
    }

    /// Takes what the next application has, at most so many; false if there is none, or no room for its first.
    fn turn(&mut self, room: &mut Room, most: usize, taken: &mut Vec<Place>) -> bool {
        let Some(environment) = self.turns.front() else { return false };
        let Some(of) = self.environments.get_mut(environment) else { return false };
        if !of.turn(room, most, taken) {
            return false;
        }
        let is_empty = of.turns.is_empty();
        if let Some(environment) = self.turns.pop_front() {
            if is_empty {
                self.environments.remove(&environment);
            } else {
                self.turns.push_back(environment);
            }
        }
        true
    }
}

/// What waits of one environment: its applications take turns.
#[derive(Default)]
struct Environment {
    turns: VecDeque<ApplicationKey>,
    waiting: HashMap<ApplicationKey, VecDeque<Place>, foldhash::fast::RandomState>,
}

impl Environment {
    fn add(&mut self, application: ApplicationKey, place: Place) {
        let waiting = self.waiting.entry(application).or_insert_with(|| {
            self.turns.push_back(application);
            VecDeque::new()
        });
        waiting.push_back(place);
    }

    fn turn(&mut self, room: &mut Room, most: usize, taken: &mut Vec<Place>) -> bool {
        let Some(application) = self.turns.front().copied() else { return false };
        let Some(waiting) = self.waiting.get_mut(&application) else { return false };
        let before = taken.len();
        while taken.len() - before < most
            && let Some(place) = waiting.pop_front_if(|place| room.takes(place))
        {
            taken.push(place);
        }
        if taken.len() == before {
            return false;
        }
        self.turns.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&application);
        } else {
            self.turns.push_back(application);
        }
        true
    }
}

/// How many rows still go into a commit. One message goes into an empty one whatever it has.
struct Room {
    rows: usize,
    is_untouched: bool,
}

impl Room {
    fn of(rows: usize) -> Self {
        Self { rows, is_untouched: true }
    }

    /// Whether there is room for this, which is then taken.
    fn takes(&mut self, place: &Place) -> bool {
        let rows = place.0.rows();
        let takes = self.is_untouched || rows <= self.rows;
        if takes {
            (self.rows, self.is_untouched) = (self.rows.saturating_sub(rows), false);
        }
        takes
    }
}
