//! Removing messages with the attempts to deliver them: rows, postings and counts, in one transaction of the writer; or, of what
//! nobody reads any more, the rows alone.
//!
//! What must hold afterwards is what `blocks` and `tally` promise. A block of which rows go keeps the terms that one of the
//! rows left meets; a block without rows goes itself, and what comes late in its place belongs to the block before it. Counts
//! are those of the attempts that are stored. Nothing is left over: the terms to take back are those of the rows that go, and each
//! is looked for in its block until a row is found that keeps it; of other rows as many are read as that takes, and no more than
//! [`MAX_COMPARED`]. So the attempts of a message with any number of them go a few at a time, and cost what those few do. (Rows
//! that make no sense have no terms: they go without a trace, or stay, and stop nothing. What a version before this one posted for
//! combinations of names stays until its owner goes, and so do the terms of rows that go from a block of more than [`LONG_BLOCK`]: a
//! clock that was ahead may have put any number into one, and everybody's history would wait while they are compared.)

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use postrider_domain::names::{Channel, EventTypeName, Tag};
use postrider_store::{EndpointKey, Standing};
use rusqlite::{Connection, Row, params};

use crate::engine::decode::{Columns, SqlError, readable};
use crate::engine::range;
use crate::engine::tx::{Place, Tx};
use crate::lists::blocks::{ATTEMPTS, Id, Log, MESSAGES, covering_sql, following_sql};
use crate::lists::terms::{About, BLOCK, Outcome, Subject, Term, class_of};

/// So many rows that stay are compared with those that go in one transaction: some milliseconds' worth, for which everybody waits.
/// What a step removes is chosen so that it is enough, unless a single attempt takes more ([`Removal::keeps_terms`]).
pub(crate) const MAX_COMPARED: usize = 4_096;

/// So many are when a step is chosen: a little may come until it is carried out.
pub(crate) const MAX_COMPARED_FIRST: usize = MAX_COMPARED / 2;

/// What goes from a block of more rows is compared with none of them.
pub(crate) const LONG_BLOCK: usize = 512;

/// To find that out costs as much as to compare so many.
const LONG_BLOCK_COST: usize = 16;

/// Above every id.
const END: [u8; 21] = [0xff; 21];

/// What is to be removed.
#[derive(Debug, Default)]
pub(crate) struct Removal {
    /// Messages, all of whose attempts are in `attempts`.
    pub(crate) messages: BTreeSet<i64>,
    /// Attempts by endpoint and id.
    pub(crate) attempts: BTreeSet<(i64, Id)>,
    /// Their terms stay, because to find out which nothing else meets takes too long.
    pub(crate) keeps_terms: bool,
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
    id: Id,
    message: i64,
    succeeded: bool,
    status_code: u16,
}

impl Tried {
    fn decode(row: &Row<'_>) -> Result<Self, SqlError> {
        Ok(Self { id: row.get(0)?, message: row.get(1)?, succeeded: row.get(2)?, status_code: row.get(3)? })
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

const OUTCOMES_SQL: &str = "SELECT id, succeeded FROM attempt INDEXED BY attempt_by_message
     WHERE message_no = ? AND endpoint_no = ?";

const TRIED_OF_ENDPOINT_SQL: &str = "SELECT id, message_no, succeeded, status_code
     FROM attempt WHERE endpoint_no = ? AND id >= ? AND id < ?";

const TRIED_SQL: &str = "SELECT id, message_no, succeeded, status_code
     FROM attempt WHERE endpoint_no = ? AND id = ?";

/// Whether an owner's block has more rows than so many.
fn long_sql(log: Log) -> String {
    let Log { rows, owner, .. } = log;
    format!("SELECT 1 FROM {rows} WHERE {owner} = ?1 AND id >= ?2 AND id < ?3 LIMIT 1 OFFSET ?4")
}

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

/// What the rows that go meet of a block: what is still in here when it was compared with those that stay is posted no longer.
#[derive(Default)]
struct Loss {
    end: Vec<u8>,
    terms: BTreeSet<Term>,
    /// Those of attempts, by endpoint.
    attempted: BTreeMap<i64, BTreeSet<Term>>,
}

impl Loss {
    fn until(end: &[u8]) -> Self {
        Self { end: end.to_vec(), ..Self::default() }
    }

    fn is_nothing(&self) -> bool {
        self.terms.is_empty() && self.attempted.is_empty()
    }

    fn without(&mut self, terms: &[Term]) {
        for term in terms {
            self.terms.remove(term);
        }
    }
}

/// What is to be taken back of a block.
#[derive(Default)]
struct Change {
    gone: BTreeSet<Term>,
    is_empty: bool,
}

/// What is to be done for a removal, read before anything is removed.
#[derive(Default)]
pub(crate) struct Plan {
    messages: BTreeMap<(i64, Id), Change>,
    attempts: BTreeMap<(i64, Id), Change>,
    /// Postings of single messages to take back, by application.
    single: Vec<(i64, Term, Id)>,
    /// How many attempts go, by endpoint: id, and whether it succeeded.
    counted: Vec<(i64, Id, bool)>,
    owners: BTreeSet<i64>,
    /// Whether everything was compared that had to be. What was not stays posted.
    pub(crate) is_whole: bool,
}

/// Reads what a removal means for postings and counts, and compares what goes with what stays: `most` rows of that, at most. The
/// same on any connection: a reader that does this first finds out how much is to be compared, and brings it to where the writer
/// finds it quickly.
pub(crate) fn plan(connection: &Connection, removal: &Removal, most: usize) -> Result<Plan, SqlError> {
    let mut plan = Plan::default();
    let mut reading = Reading { connection, removal, entries: BTreeMap::new(), left: most, is_over: false };
    let (gone, attempts) = reading.lost_attempts()?;
    plan.counted.extend(gone.iter().map(|gone| (gone.endpoint, gone.id, gone.succeeded)));
    let messages = reading.lost_messages(&gone, &mut plan)?;
    for ((endpoint, start), loss) in attempts {
        plan.attempts.insert((endpoint, start), reading.compare_attempts(endpoint, &start, loss)?);
    }
    for ((application, start), loss) in messages {
        plan.messages.insert((application, start), reading.compare_messages(application, &start, loss)?);
    }
    plan.is_whole = !reading.is_over;
    Ok(plan)
}

/// What is lost by the blocks of a log.
type Losses = BTreeMap<(i64, Id), Loss>;

/// An attempt that goes.
struct Gone {
    endpoint: i64,
    id: Id,
    message: i64,
    succeeded: bool,
}

/// Comparing what goes with what stays.
struct Reading<'a> {
    connection: &'a Connection,
    removal: &'a Removal,
    /// Messages that were read, by number.
    entries: BTreeMap<i64, Option<Rc<Entry>>>,
    /// So many rows may still be compared.
    left: usize,
    /// Whether there were more.
    is_over: bool,
}

impl Reading<'_> {
    /// Notes that a row is compared; false if it may not be.
    fn look(&mut self) -> bool {
        self.is_over |= self.left == 0;
        self.left = self.left.saturating_sub(1);
        !self.is_over
    }

    fn entry(&mut self, no: i64) -> Result<Option<Rc<Entry>>, SqlError> {
        if let Some(known) = self.entries.get(&no) {
            return Ok(known.clone());
        }
        let mut statement = self.connection.prepare_cached(ENTRY_SQL)?;
        let mut rows = statement.query([no])?;
        let entry = rows.next()?.map(|row| readable(Entry::decode(row))).transpose()?.flatten().map(Rc::new);
        self.entries.insert(no, entry.clone());
        Ok(entry)
    }

    /// The attempts that go, and what their blocks lose.
    fn lost_attempts(&mut self) -> Result<(Vec<Gone>, Losses), SqlError> {
        let (connection, removal) = (self.connection, self.removal);
        let (mut found, mut losses, mut terms) = (Vec::new(), Losses::new(), Vec::new());
        let mut covering: Option<(i64, Span)> = None;
        for (endpoint, id) in &removal.attempts {
            let Some(attempt) = tried(connection, params![endpoint, id])? else { continue };
            found.push(Gone { endpoint: *endpoint, id: *id, message: attempt.message, succeeded: attempt.succeeded });
            let covers = |(owner, (_, end)): &(i64, Span)| owner == endpoint && id.as_slice() < end.as_slice();
            // They come in the order of their blocks.
            if !covering.as_ref().is_some_and(covers) {
                covering = block(connection, ATTEMPTS, *endpoint, id)?.map(|span| (*endpoint, span));
            }
            let (Some((_, (start, end))), Some(entry)) = (&covering, self.entry(attempt.message)?) else { continue };
            terms.clear();
            attempt.spread(entry.subject(), &mut terms);
            losses.entry((*endpoint, *start)).or_insert_with(|| Loss::until(end)).terms.extend(&terms);
        }
        Ok((found, losses))
    }

    /// What the blocks of messages lose. Notes whose they are, and the postings of single messages.
    fn lost_messages(&mut self, gone: &[Gone], plan: &mut Plan) -> Result<Losses, SqlError> {
        let (mut losses, mut terms, mut blocks) = (Losses::new(), Vec::new(), BTreeMap::new());
        let touched = self.removal.messages.iter().copied().chain(gone.iter().map(|gone| gone.message));
        for no in touched.collect::<BTreeSet<i64>>() {
            let Some(entry) = self.entry(no)? else { continue };
            plan.owners.insert(entry.application);
            let span = block(self.connection, MESSAGES, entry.application, &entry.id)?;
            let Some((start, end)) = span else { continue };
            blocks.insert(no, (entry.application, start));
            let loss = losses.entry((entry.application, start)).or_insert_with(|| Loss::until(&end));
            if self.removal.messages.contains(&no) {
                entry.subject().spread(About::Message, &mut terms);
                loss.terms.extend(terms.drain(..));
            }
        }
        let mut stood = BTreeSet::new();
        for Gone { endpoint, message, succeeded, .. } in gone {
            let Some(loss) = blocks.get(message).and_then(|place| losses.get_mut(place)) else { continue };
            let Some(entry) = self.entry(*message)? else { continue };
            entry.subject().spread(About::Attempted(EndpointKey(*endpoint), *succeeded), &mut terms);
            loss.attempted.entry(*endpoint).or_default().extend(terms.drain(..));
            if !stood.insert((*message, *endpoint)) || self.is_left(*message, *endpoint)? {
                continue;
            }
            for standing in [Standing::Failed, Standing::Waiting] {
                entry.subject().spread(About::Standing(EndpointKey(*endpoint), standing), &mut terms);
                plan.single.extend(terms.drain(..).map(|term| (entry.application, term, entry.id)));
            }
        }
        Ok(losses)
    }

    /// Whether an attempt of this message to this endpoint stays: of those that go there are a few, and the first other one says so.
    fn is_left(&self, message: i64, endpoint: i64) -> Result<bool, SqlError> {
        if self.removal.messages.contains(&message) {
            return Ok(false);
        }
        let mut statement = self.connection.prepare_cached(OUTCOMES_SQL)?;
        let mut rows = statement.query([message, endpoint])?;
        while let Some(row) = rows.next()? {
            let Some(id) = readable(row.get(0).map_err(SqlError::from))? else { continue };
            if !self.removal.attempts.contains(&(endpoint, id)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a block has too many rows to compare with.
    fn is_long(&mut self, log: Log, owner: i64, start: &Id, end: &[u8]) -> Result<bool, SqlError> {
        let mut statement = self.connection.prepare_cached(&long_sql(log))?;
        let is_long = statement.exists(params![owner, start, end, range::limit(LONG_BLOCK)])?;
        if is_long {
            self.is_over |= self.left < LONG_BLOCK_COST;
            self.left = self.left.saturating_sub(LONG_BLOCK_COST);
        }
        Ok(is_long)
    }

    /// What a block of an endpoint's attempts loses.
    fn compare_attempts(&mut self, endpoint: i64, start: &Id, mut loss: Loss) -> Result<Change, SqlError> {
        if self.is_long(ATTEMPTS, endpoint, start, &loss.end)? {
            return Ok(Change::default());
        }
        let mut statement = self.connection.prepare_cached(TRIED_OF_ENDPOINT_SQL)?;
        let mut rows = statement.query(params![endpoint, start, loss.end])?;
        let (mut is_empty, mut terms) = (true, Vec::new());
        while is_empty || !loss.is_nothing() {
            let Some(row) = rows.next()? else { break };
            let Some(attempt) = readable(Tried::decode(row))? else { continue };
            if self.removal.attempts.contains(&(endpoint, attempt.id)) {
                continue;
            }
            is_empty = false;
            if !self.look() {
                return Ok(Change::default());
            }
            let Some(entry) = self.entry(attempt.message)? else { continue };
            terms.clear();
            attempt.spread(entry.subject(), &mut terms);
            loss.without(&terms);
        }
        Ok(Change { gone: loss.terms, is_empty })
    }

    /// What a block of an application's messages loses.
    fn compare_messages(&mut self, application: i64, start: &Id, mut loss: Loss) -> Result<Change, SqlError> {
        if self.is_long(MESSAGES, application, start, &loss.end)? {
            return Ok(Change::default());
        }
        let mut statement = self.connection.prepare_cached(ENTRIES_SQL)?;
        let mut rows = statement.query(params![application, start, loss.end])?;
        let (mut is_empty, mut terms) = (true, Vec::new());
        while is_empty || !loss.is_nothing() {
            let Some(row) = rows.next()? else { break };
            let Some(entry) = readable(Entry::decode(row))? else { continue };
            if self.removal.messages.contains(&entry.no) {
                continue;
            }
            is_empty = false;
            if !self.look() {
                return Ok(Change::default());
            }
            terms.clear();
            entry.subject().spread(About::Message, &mut terms);
            loss.without(&terms);
            for (endpoint, lost) in &mut loss.attempted {
                if !self.compare_outcomes(&entry, *endpoint, lost)? {
                    return Ok(Change::default());
                }
            }
            loss.attempted.retain(|_, lost| !lost.is_empty());
        }
        let mut gone = loss.terms;
        gone.extend(loss.attempted.into_values().flatten());
        Ok(Change { gone, is_empty })
    }

    /// Takes from what is lost what a message's attempts to an endpoint meet that stay; false if not all of them could be read.
    /// They are not read if none of them could.
    fn compare_outcomes(&mut self, entry: &Entry, endpoint: i64, lost: &mut BTreeSet<Term>) -> Result<bool, SqlError> {
        // Its terms alone cost about as much as a row.
        if !self.look() {
            return Ok(false);
        }
        let mut met = [true, false].map(|succeeded| {
            let mut terms = Vec::new();
            entry.subject().spread(About::Attempted(EndpointKey(endpoint), succeeded), &mut terms);
            terms.retain(|term| lost.contains(term));
            (succeeded, terms)
        });
        if met.iter().all(|(_, terms)| terms.is_empty()) {
            return Ok(true);
        }
        let mut statement = self.connection.prepare_cached(OUTCOMES_SQL)?;
        let mut rows = statement.query([entry.no, endpoint])?;
        while met.iter().any(|(_, terms)| !terms.is_empty()) {
            if !self.look() {
                return Ok(false);
            }
            let Some(row) = rows.next()? else { break };
            let Some((id, succeeded)) = readable(outcome(row))? else { continue };
            if self.removal.attempts.contains(&(endpoint, id)) {
                continue;
            }
            for term in met.iter_mut().filter(|met| met.0 == succeeded).flat_map(|met| met.1.drain(..)) {
                lost.remove(&term);
            }
        }
        Ok(true)
    }
}

fn outcome(row: &Row<'_>) -> Result<(Id, bool), SqlError> {
    Ok((row.get(0)?, row.get(1)?))
}

fn tried(connection: &Connection, key: impl rusqlite::Params) -> Result<Option<Tried>, SqlError> {
    let mut statement = connection.prepare_cached(TRIED_SQL)?;
    let mut rows = statement.query(key)?;
    Ok(rows.next()?.map(|row| readable(Tried::decode(row))).transpose()?.flatten())
}

/// Removes messages and attempts, and what refers to them.
pub(crate) fn remove(tx: &Tx<'_>, removal: &Removal) -> Result<(), SqlError> {
    // A little may have come since a reader compared.
    let plan = plan(tx, removal, if removal.keeps_terms { 0 } else { MAX_COMPARED })?;
    remove_rows(tx, removal)?;
    for (log, changes) in [(MESSAGES, &plan.messages), (ATTEMPTS, &plan.attempts)] {
        unpost(tx, log, changes)?;
    }
    unpost_single(tx, &plan.single)?;
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
        for term in &change.gone {
            unpost.execute(params![owner, term, start])?;
        }
        if change.is_empty {
            unpost.execute(params![owner, BLOCK, start])?;
        }
    }
    Ok(())
}

fn unpost_single(tx: &Tx<'_>, single: &[(i64, Term, Id)]) -> Result<(), SqlError> {
    let Log { postings, owner, .. } = MESSAGES;
    let sql = format!("DELETE FROM {postings} WHERE {owner} = ? AND term = ? AND start = ?");
    let mut unpost = tx.prepare_cached(&sql)?;
    for (application, term, id) in single {
        unpost.execute(params![application, term, id])?;
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
pub(crate) mod tests {
    use postrider_domain::entropy::{Entropy as _, SeededEntropy};

    use super::*;
    use crate::engine::plans::{assert_walks, database, steps};

    const APPLICATION: i64 = 1;

    fn id(front: i64, back: i64) -> Id {
        let mut id = [0; 20];
        id[..8].copy_from_slice(&front.to_be_bytes());
        id[12..].copy_from_slice(&back.to_be_bytes());
        id
    }

    fn insert_message(connection: &Connection, no: i64, tag: &str) {
        let sql =
            "INSERT INTO message (no, application_no, id, event_type, tags, created_at) VALUES (?, ?, ?, 'a', ?, 5)";
        let tags = serde_json::to_string(&[tag]).unwrap();
        connection.prepare_cached(sql).unwrap().execute(params![no, APPLICATION, id(no, 0), tags]).unwrap();
    }

    /// The attempt of this number of a message at an endpoint.
    fn insert_attempt(connection: &Connection, endpoint: i64, message: i64, number: i64, succeeded: bool) {
        let sql = "INSERT INTO attempt (endpoint_no, id, message_no, url_no, number, trigger, started_at, duration_ms,
                 succeeded, status_code) VALUES (?1, ?2, ?3, 1, ?4, 0, 5, 1, ?5, CASE WHEN ?5 THEN 200 ELSE 500 END)";
        let row = params![endpoint, id(message, number), message, number, succeeded];
        connection.prepare_cached(sql).unwrap().execute(row).unwrap();
    }

    /// Begins a block at each of these ids.
    fn insert_blocks(connection: &Connection, log: Log, owner: i64, starts: &[Id]) {
        let Log { postings, owner: column, .. } = log;
        let sql = format!("INSERT INTO {postings} ({column}, term, start) VALUES (?, ?, ?)");
        for start in starts {
            connection.prepare_cached(&sql).unwrap().execute(params![owner, BLOCK, start]).unwrap();
        }
    }

    type Postings = BTreeSet<(&'static str, i64, Term, Id)>;

    /// The postings that the rows there are need, by the promise of `blocks`.
    fn needed(connection: &Connection) -> Postings {
        let mut needed = Postings::new();
        let mut attempts = connection
            .prepare("SELECT id, message_no, succeeded, status_code, endpoint_no FROM attempt ORDER BY endpoint_no, id")
            .unwrap();
        let mut terms = Vec::new();
        let mut post = |log: Log, owner: i64, row: &Id, terms: &mut Vec<Term>| {
            let (start, _) = block(connection, log, owner, row).unwrap().unwrap();
            terms.push(BLOCK);
            needed.extend(terms.drain(..).map(|term| (log.postings, owner, term, start)));
        };
        let mut rows = attempts.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let (attempt, endpoint): (Tried, i64) = (Tried::decode(row).unwrap(), row.get(4).unwrap());
            let entry =
                connection.query_row(ENTRY_SQL, [attempt.message], |row| Ok(Entry::decode(row).unwrap())).unwrap();
            attempt.spread(entry.subject(), &mut terms);
            post(ATTEMPTS, endpoint, &attempt.id, &mut terms);
            entry.subject().spread(About::Attempted(EndpointKey(endpoint), attempt.succeeded), &mut terms);
            post(MESSAGES, APPLICATION, &entry.id, &mut terms);
        }
        let mut messages = connection.prepare("SELECT no FROM message").unwrap();
        for no in messages.query_map([], |row| row.get::<_, i64>(0)).unwrap() {
            let entry = entry_of(connection, no.unwrap());
            entry.subject().spread(About::Message, &mut terms);
            post(MESSAGES, APPLICATION, &entry.id, &mut terms);
        }
        needed
    }

    fn entry_of(connection: &Connection, no: i64) -> Entry {
        connection.query_row(ENTRY_SQL, [no], |row| Ok(Entry::decode(row).unwrap())).unwrap()
    }

    /// What a plan takes back of blocks.
    fn taken_back(plan: &Plan) -> Postings {
        let mut taken = Postings::new();
        for (log, changes) in [(MESSAGES, &plan.messages), (ATTEMPTS, &plan.attempts)] {
            for ((owner, start), change) in changes {
                let block = change.is_empty.then_some(BLOCK);
                taken.extend(change.gone.iter().chain(&block).map(|term| (log.postings, *owner, *term, *start)));
            }
        }
        taken
    }

    pub(crate) fn delete_rows(connection: &Connection, removal: &Removal) {
        for (endpoint, id) in &removal.attempts {
            connection.execute("DELETE FROM attempt WHERE endpoint_no = ? AND id = ?", params![endpoint, id]).unwrap();
        }
        for no in &removal.messages {
            connection.execute("DELETE FROM message WHERE no = ?", [no]).unwrap();
        }
    }

    /// Messages of two blocks with attempts at some endpoints, which go in steps of any size.
    #[test]
    fn what_is_taken_back_is_what_nothing_that_stays_needs() {
        for seed in 0..60 {
            let (entropy, connection) = (SeededEntropy::new(seed << 32 | 1), database());
            let below = |most: i64| (entropy.unit() * most as f64) as i64;
            insert_blocks(&connection, MESSAGES, APPLICATION, &[[0; 20], id(6, 0)]);
            for endpoint in 1..=4 {
                insert_blocks(&connection, ATTEMPTS, endpoint, &[[0; 20], id(3, 0), id(8, 0)]);
            }
            let mut left = Vec::new();
            for message in 1..=10 {
                insert_message(&connection, message, ["x", "y", "z"][below(3) as usize]);
                for endpoint in 1..=4 {
                    for number in 0..below(4) {
                        insert_attempt(&connection, endpoint, message, number, below(2) == 0);
                        left.push((message, endpoint, id(message, number)));
                    }
                }
            }
            let mut message = 1;
            while message <= 10 {
                let before = needed(&connection);
                let mut removal = Removal::default();
                for _ in 0..=below(30) {
                    // A message goes with the last of its attempts, or one of them alone.
                    if let Some(at) = left.iter().position(|attempt| attempt.0 == message) {
                        let (_, endpoint, id) = left.remove(at);
                        removal.attempts.insert((endpoint, id));
                    }
                    if message <= 10 && !left.iter().any(|attempt| attempt.0 == message) {
                        removal.messages.insert(message);
                        message += 1;
                    }
                }
                let plan = plan(&connection, &removal, MAX_COMPARED).unwrap();
                let some = super::plan(&connection, &removal, 3).unwrap();
                delete_rows(&connection, &removal);
                let gone: Postings = before.difference(&needed(&connection)).copied().collect();
                assert!(plan.is_whole);
                assert_eq!(taken_back(&plan), gone, "seed {seed}");
                assert!(taken_back(&some).is_subset(&gone), "what was not compared stays: seed {seed}");
            }
        }
    }

    #[test]
    fn how_a_message_stands_is_taken_back_with_its_last_attempt_at_an_endpoint() {
        let connection = database();
        insert_blocks(&connection, MESSAGES, APPLICATION, &[[0; 20]]);
        insert_message(&connection, 1, "x");
        for number in 0..3 {
            insert_attempt(&connection, 7, 1, number, false);
        }
        let of = |numbers: &[i64]| Removal {
            attempts: numbers.iter().map(|number| (7, id(1, *number))).collect(),
            ..Removal::default()
        };
        assert!(plan(&connection, &of(&[0, 1]), MAX_COMPARED).unwrap().single.is_empty());
        delete_rows(&connection, &of(&[0, 1]));
        let last = plan(&connection, &of(&[2]), MAX_COMPARED).unwrap();
        // Any, the type and the tag, of failed and of waiting.
        assert_eq!(last.single.len(), 6);
    }

    /// 16 messages that were attempted so often at each of some endpoints.
    pub(crate) fn fan_out(endpoints: i64, attempts: i64) -> Connection {
        let connection = database();
        connection.execute_batch("BEGIN").unwrap();
        insert_blocks(&connection, MESSAGES, APPLICATION, &[[0; 20]]);
        for message in 1..=16 {
            insert_message(&connection, message, &message.to_string());
            for endpoint in 1..=endpoints {
                for number in 0..attempts {
                    insert_attempt(&connection, endpoint, message, number, false);
                }
            }
        }
        for endpoint in 1..=endpoints {
            let starts: Vec<Id> = (1..=16).map(|message| id(message, 0)).collect();
            insert_blocks(&connection, ATTEMPTS, endpoint, &starts);
        }
        connection.execute_batch("COMMIT").unwrap();
        connection
    }

    /// So many messages in one block, each with a tag of its own.
    pub(crate) fn one_block(messages: i64) -> Connection {
        let connection = database();
        connection.execute_batch("BEGIN").unwrap();
        insert_blocks(&connection, MESSAGES, APPLICATION, &[[0; 20]]);
        for message in 1..=messages {
            insert_message(&connection, message, &message.to_string());
        }
        connection.execute_batch("COMMIT").unwrap();
        connection
    }

    #[test]
    fn a_few_attempts_cost_the_same_however_many_others_their_message_has() {
        let removal = |endpoints: i64, attempts: i64| Removal {
            attempts: (1..=endpoints)
                .flat_map(|endpoint| (0..attempts).map(move |number| (endpoint, id(1, number))))
                .collect(),
            ..Removal::default()
        };
        let cost = |endpoints| {
            steps(&mut fan_out(endpoints, 20), |connection| {
                assert!(plan(connection, &removal(10, 20), MAX_COMPARED).unwrap().is_whole);
            })
        };
        let [few, many] = [10, 200].map(cost);
        assert!(many <= few + few / 4 + 1, "{few} to {many} thousand steps");
    }

    #[test]
    fn what_a_removal_means_is_read_by_indexes() {
        assert_walks(ENTRIES_SQL, "message USING INDEX message_by_id (application_no=? AND id>? AND id<?)");
        assert_walks(OUTCOMES_SQL, "attempt USING COVERING INDEX attempt_by_message (message_no=? AND endpoint_no=?)");
        assert_walks(TRIED_OF_ENDPOINT_SQL, "attempt USING PRIMARY KEY (endpoint_no=? AND id>? AND id<?)");
        assert_walks(TRIED_SQL, "attempt USING PRIMARY KEY (endpoint_no=? AND id=?)");
        let messages = "message USING COVERING INDEX message_by_id (application_no=? AND id>? AND id<?)";
        assert_walks(&long_sql(MESSAGES), messages);
        assert_walks(&long_sql(ATTEMPTS), "attempt USING PRIMARY KEY (endpoint_no=? AND id>? AND id<?)");
    }
}
