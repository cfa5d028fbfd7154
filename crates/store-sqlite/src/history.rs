//! Removing messages with the attempts to deliver them: rows, postings and counts, in one transaction of the writer; or, of what
//! nobody reads any more, the rows alone.
//!
//! What must hold afterwards is what `blocks` and `tally` promise. A block of which rows go keeps the terms that one of the
//! rows left meets; a block without rows goes itself, and what comes late in its place belongs to the block before it. Counts
//! are those of the attempts that are stored. Nothing is left over: the terms to take back are those of the rows that go. (Rows
//! that make no sense have no terms: they go without a trace, or stay, and stop nothing. What a version before this one posted for
//! combinations of names stays until its owner goes.)

use std::collections::{BTreeMap, BTreeSet};

use postrider_domain::names::{Channel, EventTypeName, Tag};
use postrider_store::{EndpointKey, Standing};
use rusqlite::{Connection, Row, params};

use crate::blocks::{ATTEMPTS, Id, Log, MESSAGES, covering_sql, following_sql};
use crate::decode::{Columns, SqlError, readable};
use crate::terms::{About, BLOCK, Outcome, Subject, Term, class_of};
use crate::writer::{Place, Tx};

/// Above every id.
const END: [u8; 21] = [0xff; 21];

/// What is to be removed.
#[derive(Debug, Default)]
pub(crate) struct Removal {
    /// Messages, all of whose attempts are in `attempts`.
    pub(crate) messages: BTreeSet<i64>,
    /// Attempts by endpoint and id.
    pub(crate) attempts: BTreeSet<(i64, Id)>,
}

/// A message, as far as postings are concerned.
pub(crate) struct Entry {
    no: i64,
    pub(crate) application: i64,
    pub(crate) id: Id,
    event_type: EventTypeName,
    channels: Vec<Channel>,
    tags: Vec<Tag>,
}

impl Entry {
    pub(crate) fn decode(row: &Row<'_>) -> Result<Self, SqlError> {
        let columns = Columns::new(row, "message");
        let channels: Vec<String> = columns.maybe_json("channels")?.unwrap_or_default();
        let tags: Vec<String> = columns.maybe_json("tags")?.unwrap_or_default();
        Ok(Self {
            no: columns.get("no")?,
            application: columns.get("application_no")?,
            id: columns.get("id")?,
            event_type: EventTypeName::from_trusted(columns.get("event_type")?),
            channels: channels.into_iter().map(Channel::from_trusted).collect(),
            tags: tags.into_iter().map(Tag::from_trusted).collect(),
        })
    }

    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject { event_type: &self.event_type, channels: &self.channels, tags: &self.tags }
    }
}

/// An attempt, as far as postings are concerned.
struct Tried {
    endpoint: i64,
    id: Id,
    message: i64,
    succeeded: bool,
    status_code: u16,
}

impl Tried {
    fn decode(row: &Row<'_>) -> Result<Self, SqlError> {
        Ok(Self {
            endpoint: row.get(0)?,
            id: row.get(1)?,
            message: row.get(2)?,
            succeeded: row.get(3)?,
            status_code: row.get(4)?,
        })
    }

    /// What it means for the block of its message.
    fn about_message(&self) -> About {
        About::Attempted(EndpointKey(self.endpoint), self.succeeded)
    }

    /// What it means for its own block.
    fn spread(&self, subject: Subject<'_>, terms: &mut Vec<Term>) {
        subject.spread(About::Attempt(Outcome::Class(class_of(self.status_code))), terms);
        if !self.succeeded {
            subject.spread(About::Attempt(Outcome::Failed), terms);
        }
    }
}

/// What [`Entry::decode`] reads, of message ?1.
pub(crate) const ENTRY_SQL: &str =
    "SELECT no, application_no, id, event_type, channels, tags FROM message WHERE no = ?";

const ENTRIES_SQL: &str =
    "SELECT no, application_no, id, event_type, channels, tags FROM message INDEXED BY message_by_id
     WHERE application_no = ? AND id >= ? AND id < ?";

const TRIED_OF_MESSAGE_SQL: &str = "SELECT attempt.endpoint_no, attempt.id, attempt.message_no, succeeded, status_code
     FROM attempt INDEXED BY attempt_by_message WHERE message_no = ?";

const TRIED_OF_ENDPOINT_SQL: &str = "SELECT endpoint_no, id, message_no, succeeded, status_code
     FROM attempt WHERE endpoint_no = ? AND id >= ? AND id < ?";

const TRIED_SQL: &str = "SELECT endpoint_no, id, message_no, succeeded, status_code
     FROM attempt WHERE endpoint_no = ? AND id = ?";

/// Where a block begins and ends.
type Span = (Id, Vec<u8>);

/// The block of a log that covers a row; `None` if its owner's blocks begin later.
fn block(connection: &Connection, log: Log, owner: i64, id: &Id) -> Result<Option<Span>, SqlError> {
    let mut covering = connection.prepare_cached(&covering_sql(log))?;
    let start: Option<Id> = covering.query_row(params![owner, id], |row| row.get(0))?;
    let Some(start) = start else { return Ok(None) };
    let mut following = connection.prepare_cached(&following_sql(log))?;
    let end: Option<Id> = following.query_row(params![owner, start], |row| row.get(0))?;
    Ok(Some((start, end.map_or(END.to_vec(), |end| end.to_vec()))))
}

fn entry(connection: &Connection, no: i64) -> Result<Option<Entry>, SqlError> {
    let mut statement = connection.prepare_cached(ENTRY_SQL)?;
    let mut rows = statement.query([no])?;
    Ok(rows.next()?.map(|row| readable(Entry::decode(row))).transpose()?.flatten())
}

fn tried(connection: &Connection, sql: &str, parameters: impl rusqlite::Params) -> Result<Vec<Tried>, SqlError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.extend(readable(Tried::decode(row))?);
    }
    Ok(found)
}

/// What a block loses and keeps.
#[derive(Default)]
struct Change {
    gone: BTreeSet<Term>,
    kept: BTreeSet<Term>,
    is_empty: bool,
    /// Postings of single messages to take back.
    single: Vec<(Term, Id)>,
}

impl Change {
    /// Notes the terms of a row.
    fn note(&mut self, goes: bool, terms: &[Term]) {
        let into = if goes { &mut self.gone } else { &mut self.kept };
        into.extend(terms);
    }
}

/// What is to be done for a removal, read before anything is removed.
#[derive(Default)]
pub(crate) struct Plan {
    messages: BTreeMap<(i64, Id), Change>,
    attempts: BTreeMap<(i64, Id), Change>,
    /// How many attempts go, by endpoint: id, and whether it succeeded.
    counted: Vec<(i64, Id, bool)>,
    owners: BTreeSet<i64>,
}

/// Reads what a removal means for postings and counts. The same on any connection: a reader that does this first brings what
/// has to be read to where the writer finds it quickly.
pub(crate) fn plan(connection: &Connection, removal: &Removal) -> Result<Plan, SqlError> {
    let mut plan = Plan::default();
    let (mut touched, mut ends) = (BTreeMap::new(), BTreeMap::<(i64, Id), Vec<u8>>::new());
    for no in &removal.messages {
        if let Some(entry) = entry(connection, *no)? {
            touched.insert(*no, entry);
        }
    }
    for (endpoint, id) in &removal.attempts {
        for attempt in tried(connection, TRIED_SQL, params![endpoint, id])? {
            plan.counted.push((*endpoint, *id, attempt.succeeded));
            if !touched.contains_key(&attempt.message)
                && let Some(entry) = entry(connection, attempt.message)?
            {
                touched.insert(attempt.message, entry);
            }
            if let Some((start, end)) = block(connection, ATTEMPTS, *endpoint, id)? {
                ends.insert((*endpoint, start), end);
            }
        }
    }
    for ((endpoint, start), end) in ends {
        let change = attempts_change(connection, removal, &touched, endpoint, &start, &end)?;
        plan.attempts.insert((endpoint, start), change);
    }
    let mut ends = BTreeMap::new();
    for entry in touched.values() {
        plan.owners.insert(entry.application);
        if let Some((start, end)) = block(connection, MESSAGES, entry.application, &entry.id)? {
            ends.insert((entry.application, start), end);
        }
    }
    for ((application, start), end) in ends {
        let change = messages_change(connection, removal, application, &start, &end)?;
        plan.messages.insert((application, start), change);
    }
    Ok(plan)
}

fn attempts_change(
    connection: &Connection,
    removal: &Removal,
    touched: &BTreeMap<i64, Entry>,
    endpoint: i64,
    start: &Id,
    end: &[u8],
) -> Result<Change, SqlError> {
    let mut change = Change { is_empty: true, ..Change::default() };
    let mut terms = Vec::new();
    for attempt in tried(connection, TRIED_OF_ENDPOINT_SQL, params![endpoint, start, end])? {
        let goes = removal.attempts.contains(&(endpoint, attempt.id));
        change.is_empty &= goes;
        terms.clear();
        match touched.get(&attempt.message) {
            Some(entry) => attempt.spread(entry.subject(), &mut terms),
            None => {
                let Some(entry) = entry(connection, attempt.message)? else { continue };
                attempt.spread(entry.subject(), &mut terms);
            }
        }
        change.note(goes, &terms);
    }
    Ok(change)
}

fn messages_change(
    connection: &Connection,
    removal: &Removal,
    application: i64,
    start: &Id,
    end: &[u8],
) -> Result<Change, SqlError> {
    let mut change = Change { is_empty: true, ..Change::default() };
    let mut statement = connection.prepare_cached(ENTRIES_SQL)?;
    let mut rows = statement.query(params![application, start, end])?;
    let mut terms = Vec::new();
    while let Some(row) = rows.next()? {
        let Some(entry) = readable(Entry::decode(row))? else { continue };
        let goes = removal.messages.contains(&entry.no);
        change.is_empty &= goes;
        terms.clear();
        entry.subject().spread(About::Message, &mut terms);
        change.note(goes, &terms);
        let (mut left, mut leaving) = (BTreeSet::new(), BTreeSet::new());
        for attempt in tried(connection, TRIED_OF_MESSAGE_SQL, [entry.no])? {
            let goes = removal.attempts.contains(&(attempt.endpoint, attempt.id));
            terms.clear();
            entry.subject().spread(attempt.about_message(), &mut terms);
            change.note(goes, &terms);
            let endpoints = if goes { &mut leaving } else { &mut left };
            endpoints.insert(attempt.endpoint);
        }
        for endpoint in leaving.difference(&left) {
            for standing in [Standing::Failed, Standing::Waiting] {
                terms.clear();
                entry.subject().spread(About::Standing(EndpointKey(*endpoint), standing), &mut terms);
                change.single.extend(terms.iter().map(|term| (*term, entry.id)));
            }
        }
    }
    Ok(change)
}

/// Removes messages and attempts, and what refers to them.
pub(crate) fn remove(tx: &Tx<'_>, removal: &Removal) -> Result<(), SqlError> {
    let plan = plan(tx, removal)?;
    remove_rows(tx, removal)?;
    for (log, changes) in [(MESSAGES, &plan.messages), (ATTEMPTS, &plan.attempts)] {
        unpost(tx, log, changes)?;
    }
    discount(tx, &plan.counted)?;
    for application in &plan.owners {
        tx.moved(Place::Application(*application));
    }
    for (endpoint, _, _) in &plan.counted {
        tx.moved(Place::Endpoint(*endpoint));
    }
    Ok(())
}

/// Removes messages and attempts of owners of whom nobody reads any more: their postings and counts stay for now, and can then
/// go in the order in which they lie in the database, which costs a fraction of taking them back one by one.
pub(crate) fn remove_rows(tx: &Tx<'_>, removal: &Removal) -> Result<(), SqlError> {
    let mut attempt = tx.prepare_cached("DELETE FROM attempt WHERE endpoint_no = ? AND id = ?")?;
    for (endpoint, id) in &removal.attempts {
        attempt.execute(params![endpoint, id])?;
    }
    let mut payload = tx.prepare_cached("DELETE FROM payload WHERE message_no = ?")?;
    let mut message = tx.prepare_cached("DELETE FROM message WHERE no = ?")?;
    for no in &removal.messages {
        payload.execute([no])?;
        message.execute([no])?;
    }
    Ok(())
}

fn unpost(tx: &Tx<'_>, log: Log, changes: &BTreeMap<(i64, Id), Change>) -> Result<(), SqlError> {
    let Log { postings, owner, .. } = log;
    let sql = format!("DELETE FROM {postings} WHERE {owner} = ? AND term = ? AND start = ?");
    let mut unpost = tx.prepare_cached(&sql)?;
    for ((owner, start), change) in changes {
        for term in change.gone.difference(&change.kept) {
            unpost.execute(params![owner, term, start])?;
        }
        if change.is_empty {
            unpost.execute(params![owner, BLOCK, start])?;
        }
        for (term, id) in &change.single {
            unpost.execute(params![owner, term, id])?;
        }
    }
    Ok(())
}

/// Takes attempts from the counts of their stretches, and removes what has become empty at the beginning: what comes later
/// relies on stretches without a gap.
fn discount(tx: &Tx<'_>, counted: &[(i64, Id, bool)]) -> Result<(), SqlError> {
    let mut fewer = tx.prepare_cached(
        "UPDATE attempt_tally SET succeeded = succeeded - ?3, failed = failed - (NOT ?3)
         WHERE endpoint_no = ?1 AND until > ?2
             AND start = (SELECT max(start) FROM attempt_tally WHERE endpoint_no = ?1 AND start <= ?2)",
    )?;
    for (endpoint, id, succeeded) in counted {
        fewer.execute(params![endpoint, id, succeeded])?;
    }
    let mut first = tx.prepare_cached(
        "DELETE FROM attempt_tally WHERE endpoint_no = ?1 AND succeeded = 0 AND failed = 0
             AND start = (SELECT min(start) FROM attempt_tally WHERE endpoint_no = ?1)",
    )?;
    let endpoints: BTreeSet<i64> = counted.iter().map(|(endpoint, _, _)| *endpoint).collect();
    for endpoint in endpoints {
        while first.execute([endpoint])? > 0 {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plans::assert_walks;

    #[test]
    fn what_a_removal_means_is_read_by_indexes() {
        assert_walks(ENTRIES_SQL, "message USING INDEX message_by_id (application_no=? AND id>? AND id<?)");
        assert_walks(TRIED_OF_MESSAGE_SQL, "attempt USING COVERING INDEX attempt_by_message (message_no=?)");
        assert_walks(TRIED_OF_ENDPOINT_SQL, "attempt USING PRIMARY KEY (endpoint_no=? AND id>? AND id<?)");
        assert_walks(TRIED_SQL, "attempt USING PRIMARY KEY (endpoint_no=? AND id=?)");
    }
}
