//! What the hot path does for lists: postings of the messages it accepts and of the attempts it logs, how each message
//! stands with each endpoint, and the tally of attempts.
//!
//! A message, or an attempt, that is like those before it in its block costs a few look-ups in memory. Only what failed
//! before, or fails now, is looked up in the log.

use postrider_domain::ids::Id as _;
use postrider_domain::message::Message;
use postrider_store::{ApplicationKey, AttemptRecord, EndpointKey, MessageKey, Settlement, Standing};
use rusqlite::{Connection, Statement, params};

use crate::engine::decode::{SqlError, readable};
use crate::engine::tx::Place;
use crate::lists::blocks::{ATTEMPTS, Blocks, Id, MESSAGES, Rows};
use crate::lists::history::{ENTRY_SQL, Entry};
use crate::lists::standings::{TRIED_SQL, decode_tried};
use crate::lists::tally::Tally;
use crate::lists::terms::{About, Outcome, Subject, Term, class_of};

pub(crate) struct Indexer<'c> {
    messages: Blocks<'c>,
    attempts: Blocks<'c>,
    tally: Tally<'c>,
    subject: Statement<'c>,
    attempts_of: Statement<'c>,
    accepted: Rows,
    attempted: Rows,
    terms: Vec<Term>,
}

/// What an attempt was for.
struct Case<'a> {
    application: ApplicationKey,
    /// The message's.
    id: Id,
    subject: Subject<'a>,
}

impl<'c> Indexer<'c> {
    pub(crate) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            messages: Blocks::prepare(connection, MESSAGES)?,
            attempts: Blocks::prepare(connection, ATTEMPTS)?,
            tally: Tally::prepare(connection)?,
            subject: connection.prepare(ENTRY_SQL)?,
            attempts_of: connection.prepare(TRIED_SQL)?,
            accepted: Rows::default(),
            attempted: Rows::default(),
            terms: Vec::new(),
        })
    }

    /// The transaction came to nothing.
    pub(crate) fn forget(&mut self) {
        self.messages.forget();
        self.attempts.forget();
        self.tally.forget();
        self.accepted.clear();
        self.attempted.clear();
    }

    /// The transaction reached the disk.
    pub(crate) fn committed(&mut self) {
        self.messages.committed();
        self.attempts.committed();
    }

    /// Rows of this owner were removed.
    pub(crate) fn forget_place(&mut self, place: Place) {
        match place {
            Place::Application(application) => self.messages.forget_owner(application),
            Place::Endpoint(endpoint) => {
                self.attempts.forget_owner(endpoint);
                self.tally.forget_owner(endpoint);
            }
        }
    }

    /// A message of this application is about to be stored.
    pub(crate) fn accepting(&mut self, application: ApplicationKey) -> rusqlite::Result<()> {
        self.messages.load(application.0)
    }

    /// A message was stored.
    pub(crate) fn accepted(&mut self, application: ApplicationKey, message: &Message) {
        let id = *message.id.ksuid().as_bytes();
        self.accepted.push(application.0, id, |terms| Subject::of(message).spread(About::Message, terms));
    }

    /// All messages of a batch were stored.
    pub(crate) fn place_accepted(&mut self) -> rusqlite::Result<()> {
        self.messages.place(&mut self.accepted, |_| Ok(()), |_, _| Ok(()))
    }

    /// An attempt to this endpoint is about to be stored.
    pub(crate) fn attempting(&mut self, endpoint: EndpointKey) -> rusqlite::Result<()> {
        self.attempts.load(endpoint.0)
    }

    /// An attempt was stored, after which another one is due at `next_at`.
    pub(crate) fn attempted(
        &mut self,
        settlement: &Settlement,
        attempt: &AttemptRecord,
        next_at: Option<i64>,
    ) -> Result<(), SqlError> {
        if let Some(origin) = &settlement.origin {
            let (application, id) = (origin.application, *origin.message.id.ksuid().as_bytes());
            let case = Case { application, id, subject: Subject::of(&origin.message) };
            return self.index(settlement, attempt, next_at, &case);
        }
        let mut rows = self.subject.query([settlement.delivery.message.0])?;
        // An attempt for a message that is not there is in no list either.
        let Some(row) = rows.next()? else { return Ok(()) };
        // Nor is one for a message that makes no sense.
        let Some(message) = readable(Entry::decode(row))? else { return Ok(()) };
        drop(rows);
        let (application, id, subject) = (ApplicationKey(message.application), message.id, message.subject());
        self.index(settlement, attempt, next_at, &Case { application, id, subject })
    }

    fn index(
        &mut self,
        settlement: &Settlement,
        attempt: &AttemptRecord,
        next_at: Option<i64>,
        case: &Case<'_>,
    ) -> Result<(), SqlError> {
        let endpoint = settlement.endpoint;
        self.attempted.push(endpoint.0, *attempt.id.ksuid().as_bytes(), |terms| {
            case.subject.spread(About::Attempt(Outcome::Class(class_of(attempt.status_code))), terms);
            if !attempt.succeeded {
                case.subject.spread(About::Attempt(Outcome::Failed), terms);
            }
        });
        self.terms.clear();
        case.subject.spread(About::Attempted(endpoint, attempt.succeeded), &mut self.terms);
        self.messages.post(case.application.0, &case.id, &self.terms)?;
        self.stand(settlement, attempt, next_at, case)
    }

    /// Brings the postings of how the message stands up to date.
    fn stand(
        &mut self,
        settlement: &Settlement,
        attempt: &AttemptRecord,
        next_at: Option<i64>,
        case: &Case<'_>,
    ) -> Result<(), SqlError> {
        let endpoint = settlement.endpoint;
        let failed_before = About::Attempted(endpoint, false).any();
        if attempt.succeeded && !self.messages.may_have(case.application.0, &case.id, failed_before)? {
            return Ok(());
        }
        let before = self.stood(settlement.delivery.message, endpoint, attempt)?;
        let after = before.max(Some(Standing::after(attempt.succeeded, next_at.is_some())));
        if before == after {
            return Ok(());
        }
        for (standing, is_so) in [(before, false), (after, true)] {
            // Most messages are delivered: blocks are enough for those.
            let Some(standing) = standing.filter(|standing| *standing != Standing::Delivered) else { continue };
            self.terms.clear();
            case.subject.spread(About::Standing(endpoint, standing), &mut self.terms);
            self.messages.post_row(case.application.0, &case.id, &self.terms, is_so)?;
        }
        Ok(())
    }

    /// How a message stood with an endpoint before this attempt.
    fn stood(
        &mut self,
        message: MessageKey,
        endpoint: EndpointKey,
        attempt: &AttemptRecord,
    ) -> Result<Option<Standing>, SqlError> {
        let mut rows = self.attempts_of.query(params![message.0, endpoint.0])?;
        let mut stood = None;
        while let Some(row) = rows.next()? {
            let Some(tried) = readable(decode_tried(row))? else { continue };
            if tried.id != attempt.id.ksuid() {
                stood = stood.max(Some(tried.standing()));
            }
        }
        Ok(stood)
    }

    /// All attempts of a batch were stored.
    pub(crate) fn place_attempted(&mut self) -> rusqlite::Result<()> {
        let tally = std::cell::RefCell::new(&mut self.tally);
        self.attempts.place(
            &mut self.attempted,
            |begun| tally.borrow_mut().block_began(&begun),
            |endpoint, id| tally.borrow_mut().came_late(endpoint, id),
        )?;
        self.tally.placed()
    }
}
