//! What is known of one connection, and of its client: what it may be closed for, and since when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::place::Sign;
use super::{LATE, PACE_BYTES};

/// Why a connection may be closed for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A caller who is not known was answered, and may have read it; or any, and what is left of the body is only thrown away.
    Done,
    /// There was no request yet.
    New,
    /// There is no request, and the last one was a known caller's.
    Kept,
    /// The client of a request is slow, and was so since then, had it not paused.
    Slow,
    /// The same of a body whose client was late before.
    Late,
    /// There is a request, and it is not known yet whose.
    Unknown,
}

pub(super) const KINDS: usize = 6;

pub(super) struct Entry {
    /// Where in `State::addresses`.
    pub(super) address: usize,
    /// Requests under way: from the end of their heads until their answers are written.
    pub(super) requests: usize,
    /// Those of them that are not answered yet.
    pub(super) unanswered: usize,
    /// Whether it takes time to find out who is the caller of one.
    pub(super) asks_who: bool,
    /// Whether there was none yet.
    pub(super) is_new: bool,
    /// Whether the last one that was answered was a known caller's.
    pub(super) is_known: bool,
    /// Of the last request, if it had a body: whether that still comes.
    pub(super) body_comes: Option<Arc<AtomicBool>>,
    /// Since when there is no request, or none that is not answered, or whose caller is known.
    pub(super) since: Instant,
    pub(super) client: Client,
    /// What it may be closed for, and since when: where it is in `Address::waiting`.
    pub(super) waits: Option<(Kind, Instant)>,
    /// Whether it is one of `State::count`.
    pub(super) is_counted: bool,
    pub(super) sign: Arc<Sign>,
}

/// What is waited for of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// More of a request's body.
    Body,
    /// That it reads more of an answer.
    Reader,
}

/// How a client keeps pace.
#[derive(Default)]
pub(super) struct Client {
    pub(super) awaits_body: bool,
    pub(super) awaits_reader: bool,
    /// Since when it is waited for, had there been no pause.
    pub(super) since: Option<Instant>,
    /// How far it is behind while nothing is waited for.
    pub(super) behind: Duration,
    /// Whether it was late with what came before the request under way.
    pub(super) was_late: bool,
}

impl Entry {
    /// Whether it may be closed for another.
    pub(super) fn waits(&self) -> Option<(Kind, Instant)> {
        // A short answer is not under way any more, but may not have fit beside what its client has not read.
        let is_written = !self.client.awaits_reader;
        if self.requests == 0 && self.is_known && is_written {
            return Some((if self.body_comes() { Kind::Done } else { Kind::Kept }, self.since));
        }
        if self.unanswered == 0 && !self.is_known {
            return Some((if self.is_new { Kind::New } else { Kind::Done }, self.since));
        }
        if self.asks_who {
            return Some((Kind::Unknown, self.since));
        }
        // What is answered while its body still comes waits for either.
        let waits = self.client.awaits_body || (self.unanswered == 0 && self.client.awaits_reader);
        let kind = if self.client.awaits_body && self.client.was_late { Kind::Late } else { Kind::Slow };
        self.client.since.filter(|_| waits).map(|since| (kind, since))
    }

    /// Whether more of a body comes that is only thrown away: its request is answered, and that is written.
    pub(super) fn body_comes(&self) -> bool {
        self.requests == 0 && self.body_comes.as_ref().is_some_and(|comes| comes.load(Ordering::Acquire))
    }
}

impl Entry {
    pub(super) fn begin(&mut self) {
        if self.requests == 0 {
            self.client.begin();
        }
        self.body_comes = None;
        self.is_new = false;
        self.requests += 1;
        self.unanswered += 1;
    }

    pub(super) fn answer(&mut self, is_known: bool, now: Instant) {
        self.unanswered -= 1;
        (self.asks_who, self.is_known, self.since) = (false, is_known, now);
    }

    pub(super) fn end(&mut self, is_answered: bool, body_comes: Option<Arc<AtomicBool>>, now: Instant) {
        self.requests -= 1;
        self.body_comes = body_comes;
        self.unanswered -= usize::from(!is_answered);
        // Of those that are not answered there is one: the next is begun when that is written.
        self.asks_who &= is_answered;
        if self.requests == 0 {
            self.since = now;
        }
    }
}

impl Client {
    fn awaits(&mut self, what: Awaited) -> &mut bool {
        match what {
            Awaited::Body => &mut self.awaits_body,
            Awaited::Reader => &mut self.awaits_reader,
        }
    }

    /// It begins anew. Half of what it is behind is forgiven each time, so that whoever is late again and again is known by that.
    fn begin(&mut self) {
        self.was_late = self.behind >= LATE;
        self.behind /= 2;
    }

    /// It is waited for. Before, so many bytes came or were read.
    pub(super) fn wait(&mut self, what: Awaited, moved: usize, now: Instant) {
        let made_up = Duration::from_secs_f64(moved as f64 / PACE_BYTES as f64);
        self.behind = self.behind.saturating_sub(made_up);
        *self.awaits(what) = true;
        let behind = self.behind;
        self.since.get_or_insert_with(|| now.checked_sub(behind).unwrap_or(now));
    }

    /// It goes on.
    pub(super) fn go_on(&mut self, what: Awaited, now: Instant) {
        *self.awaits(what) = false;
        if !self.awaits_body
            && !self.awaits_reader
            && let Some(since) = self.since.take()
        {
            self.behind = now.saturating_duration_since(since);
        }
    }
}
