//! What goes into one transaction, and in which order: the rules, without anything that is done. The writer asks them.
//!
//! A transaction takes what waits until it weighs enough. Results have time, because nobody waits for them: many or costly ones
//! let what was accepted meanwhile go first, once, and don't go along with what is much less than they are.

/// A transaction ends when it holds this many rows' worth of jobs, so that no one waits long for a commit. What is accepted,
/// and what is settled, comes in batches of half as many; a slice of what is removed may come on top.
const MAX_WEIGHT: usize = 1_024;

/// Results that weigh no more go along with whatever there is.
const LIGHT: usize = 256;

/// What kind of job it is, as far as that decides when it is its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Messages: somebody waits.
    Accept,
    /// Results of attempts: nobody does.
    Settle,
    /// Any other write.
    Other,
}

/// A job, as far as the rules are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) kind: Kind,
    /// The rows that it writes, about.
    pub(crate) rows: usize,
}

/// What becomes of the next job that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is in this transaction.
    This,
    /// It is the first of the next one.
    Next,
}

/// How far a transaction is filled.
#[derive(Debug, Default)]
pub(crate) struct Filling {
    rows: usize,
    /// Something is in the next transaction already, and may not be overtaken again.
    is_closed: bool,
}

impl Filling {
    /// Whether the first job of a transaction waits a moment for company, which then shares its fsync.
    pub(crate) fn waits_for_company(first: Waiting) -> bool {
        first.kind == Kind::Settle
    }

    /// When it is the turn of the first job, if a second one has come while it waited. `was_put_off`: it has let others go first.
    pub(crate) fn turn_of_first(&mut self, first: Waiting, second: Waiting, was_put_off: bool) -> Turn {
        let lets_go = second.kind == Kind::Accept && first.rows > LIGHT && !was_put_off;
        if !lets_go {
            return Turn::This;
        }
        self.is_closed = true;
        Turn::Next
    }

    /// A job was carried out.
    pub(crate) fn add(&mut self, job: Waiting) {
        self.rows += job.rows;
    }

    /// Whether there is room for what waits.
    pub(crate) fn takes_more(&self) -> bool {
        !self.is_closed && self.rows < MAX_WEIGHT
    }

    /// When it is the turn of the next job that waits, if there is room.
    pub(crate) fn turn_of(&mut self, job: Waiting) -> Turn {
        if job.kind == Kind::Settle && job.rows > LIGHT.max(2 * self.rows) {
            self.is_closed = true;
            return Turn::Next;
        }
        Turn::This
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(rows: usize) -> Waiting {
        Waiting { kind: Kind::Accept, rows }
    }

    fn settle(rows: usize) -> Waiting {
        Waiting { kind: Kind::Settle, rows }
    }

    fn other(rows: usize) -> Waiting {
        Waiting { kind: Kind::Other, rows }
    }

    #[test]
    fn only_results_wait_for_company() {
        assert!(Filling::waits_for_company(settle(1)));
        assert!(!Filling::waits_for_company(accept(1)) && !Filling::waits_for_company(other(1)));
    }

    #[test]
    fn heavy_results_let_what_was_accepted_go_first_once() {
        let turn = |first, second, was_put_off| Filling::default().turn_of_first(first, second, was_put_off);
        assert_eq!(turn(settle(LIGHT + 1), accept(1), false), Turn::Next);
        assert_eq!(turn(settle(LIGHT + 1), accept(1), true), Turn::This, "once");
        assert_eq!(turn(settle(LIGHT), accept(1), false), Turn::This, "light ones go along");
        assert_eq!(turn(settle(LIGHT + 1), other(1), false), Turn::This);
        assert_eq!(turn(settle(LIGHT + 1), settle(1), false), Turn::This);
    }

    #[test]
    fn nothing_more_is_taken_once_something_was_put_off() {
        let mut filling = Filling::default();
        filling.turn_of_first(settle(LIGHT + 1), accept(1), false);
        filling.add(accept(1));
        assert!(!filling.takes_more());
        let mut filling = Filling::default();
        filling.add(accept(1));
        assert!(filling.takes_more());
        assert_eq!(filling.turn_of(settle(LIGHT + 1)), Turn::Next);
        assert!(!filling.takes_more());
    }

    #[test]
    fn results_do_not_go_along_with_what_is_much_less_than_they_are() {
        let turn = |rows, job| {
            let mut filling = Filling::default();
            filling.add(accept(rows));
            filling.turn_of(job)
        };
        assert_eq!(turn(1, settle(LIGHT)), Turn::This);
        assert_eq!(turn(1, settle(LIGHT + 1)), Turn::Next);
        assert_eq!(turn(200, settle(400)), Turn::This);
        assert_eq!(turn(200, settle(401)), Turn::Next);
        assert_eq!(turn(1, accept(MAX_WEIGHT)), Turn::This, "who waits is not put off");
        assert_eq!(turn(1, other(MAX_WEIGHT)), Turn::This);
    }

    #[test]
    fn a_transaction_is_full_when_it_weighs_enough() {
        let mut filling = Filling::default();
        filling.add(other(MAX_WEIGHT - 1));
        assert!(filling.takes_more());
        filling.add(other(1));
        assert!(!filling.takes_more());
    }
}
