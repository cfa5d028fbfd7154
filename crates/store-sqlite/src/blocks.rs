//! Writing postings: which block a row belongs to, and what was posted for that block already.
//!
//! Runs on the writer's thread, for one log: the messages of applications, or the attempts to endpoints. What must hold
//! after every commit, because lists rely on it (see `postings`):
//!
//! * Every row at or after its owner's first block that meets a term has a posting of it at the start of the block that
//!   covers the row: the last block that begins at or before its id.
//! * A new block begins after every row there is, so it takes no row from the block before.
//!
//! Ids are made when something starts, and rows are stored when it ends, so a row may come late and belong to an earlier
//! block. What is remembered here is only ever a shortcut: whatever is forgotten is read again.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use rusqlite::{Connection, OptionalExtension as _, Statement, params};

use crate::terms::{BLOCK, Term};

/// How many rows a block has before the next one begins. A list reads up to a block for each row that it shows, and each
/// block costs an insert for each of its terms.
pub(crate) const BLOCK_ROWS: usize = 16;

/// Owners that are remembered.
const MAX_OWNERS: usize = 4_096;

/// Blocks that are remembered of an owner: the open one, the one before, and some in which a backlog is being delivered.
const MAX_BLOCKS: usize = 4;

/// The 20 bytes of a KSUID.
pub(crate) type Id = [u8; 20];

/// The first block of an owner that has no rows yet begins here.
const BEFORE_ALL: Id = [0; 20];

/// A log and its postings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Log {
    /// The table of postings.
    pub(crate) postings: &'static str,
    /// The rows, with the index that has them by owner and id.
    pub(crate) rows: &'static str,
    /// The column of the owner, in both.
    pub(crate) owner: &'static str,
}

/// Messages by application.
pub(crate) const MESSAGES: Log =
    Log { postings: "message_posting", rows: "message INDEXED BY message_by_id", owner: "application_no" };

/// Attempts by endpoint.
pub(crate) const ATTEMPTS: Log = Log { postings: "attempt_posting", rows: "attempt", owner: "endpoint_no" };

/// A block that began while rows were placed.
pub(crate) struct Begun {
    pub(crate) owner: i64,
    pub(crate) start: Id,
}

/// Rows of one batch that wait to be placed, with the terms they meet.
#[derive(Default)]
pub(crate) struct Rows {
    rows: Vec<(i64, Id, usize)>,
    terms: Vec<Term>,
}

impl Rows {
    /// Adds a row, whose terms are what `spread` pushes.
    pub(crate) fn push(&mut self, owner: i64, id: Id, spread: impl FnOnce(&mut Vec<Term>)) {
        let first = self.terms.len();
        spread(&mut self.terms);
        self.rows.push((owner, id, first));
    }

    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.terms.clear();
    }
}

/// The writing side of a log's postings.
pub(crate) struct Blocks<'c> {
    post: Statement<'c>,
    unpost: Statement<'c>,
    covering: Statement<'c>,
    following: Statement<'c>,
    newest: Statement<'c>,
    count: Statement<'c>,
    owners: HashMap<i64, Owner>,
}

/// What is remembered of an owner.
struct Owner {
    /// The newest row that was stored, however it compares with blocks.
    newest: Option<Id>,
    /// Where the last block begins; `None` if there is none.
    open: Option<Id>,
    /// How many rows it has, as far as that matters.
    rows: usize,
    known: Vec<Known>,
}

/// A block, and terms that are known to be posted for it.
struct Known {
    start: Id,
    /// Where the next block begins.
    end: Option<Id>,
    terms: HashSet<Term, BuildHasherDefault<Already>>,
    /// Whether these are all its terms.
    complete: bool,
}

/// Terms are hashes already.
#[derive(Default)]
struct Already(u64);

impl Hasher for Already {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_i64(&mut self, term: i64) {
        self.0 = term.cast_unsigned();
    }
}

impl<'c> Blocks<'c> {
    pub(crate) fn prepare(connection: &'c Connection, log: Log) -> rusqlite::Result<Self> {
        let Log { postings, rows, owner } = log;
        let prepare = |sql: String| connection.prepare(&sql);
        Ok(Self {
            post: prepare(format!("INSERT OR IGNORE INTO {postings} ({owner}, term, start) VALUES (?, ?, ?)"))?,
            unpost: prepare(format!("DELETE FROM {postings} WHERE {owner} = ? AND term = ? AND start = ?"))?,
            covering: prepare(covering_sql(log))?,
            following: prepare(following_sql(log))?,
            newest: prepare(format!("SELECT max(id) FROM {rows} WHERE {owner} = ?"))?,
            count: prepare(format!(
                "SELECT count(*) FROM (SELECT 1 FROM {rows} WHERE {owner} = ? AND id >= ? LIMIT ?)"
            ))?,
            owners: HashMap::new(),
        })
    }

    /// The transaction came to nothing.
    pub(crate) fn forget(&mut self) {
        self.owners.clear();
    }

    /// Reads what has to be known of an owner. To be called before rows are stored that are not placed yet.
    pub(crate) fn load(&mut self, owner: i64) -> rusqlite::Result<()> {
        if self.owners.contains_key(&owner) {
            return Ok(());
        }
        let open = covering(&mut self.covering, owner, &[0xff; 20])?;
        let newest = self.newest.query_row([owner], |row| row.get(0))?;
        let (rows, known) = match open {
            Some(start) => {
                let count: usize = self.count.query_row(params![owner, start, BLOCK_ROWS], |row| row.get(0))?;
                (count, vec![Known { start, end: None, terms: HashSet::default(), complete: false }])
            }
            None => (0, Vec::new()),
        };
        if self.owners.len() >= MAX_OWNERS {
            self.owners.clear();
        }
        self.owners.insert(owner, Owner { newest, open, rows, known });
        Ok(())
    }

    /// Posts the terms of rows that were stored, and takes the rows. In the order of ids, so that blocks are even although
    /// ids within 4 ms come in no order. Tells of each block that begins, and of each row that belongs to an earlier block
    /// than the last one.
    pub(crate) fn place(
        &mut self,
        batch: &mut Rows,
        mut begun: impl FnMut(Begun) -> rusqlite::Result<()>,
        mut late: impl FnMut(i64, &Id) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<()> {
        let Rows { rows, terms } = batch;
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_unstable_by_key(|place| (rows[*place].0, rows[*place].1));
        for place in order {
            let (owner, id, first) = rows[place];
            let last = rows.get(place + 1).map_or(terms.len(), |next| next.2);
            if let Some(start) = self.advance(owner, id)? {
                begun(Begun { owner, start })?;
            }
            if self.owners[&owner].open.is_some_and(|open| id < open) {
                late(owner, &id)?;
            }
            self.post(owner, &id, &terms[first..last])?;
        }
        batch.clear();
        Ok(())
    }

    /// Notes a row that was stored; begins a block with it if it is time to, and says where.
    fn advance(&mut self, owner: i64, id: Id) -> rusqlite::Result<Option<Id>> {
        self.load(owner)?;
        let Some(state) = self.owners.get_mut(&owner) else { return Ok(None) };
        let is_newest = state.newest.is_none_or(|newest| id > newest);
        let is_full = state.open.is_none() || state.rows >= BLOCK_ROWS;
        if !is_newest || !is_full {
            state.rows += usize::from(state.open.is_some_and(|open| id >= open));
            state.newest = state.newest.max(Some(id));
            return Ok(None);
        }
        let start = if state.newest.is_none() { BEFORE_ALL } else { id };
        self.post.execute(params![owner, BLOCK, start])?;
        for known in state.known.iter_mut().filter(|known| known.end.is_none()) {
            known.end = Some(start);
        }
        if state.known.len() == MAX_BLOCKS {
            state.known.remove(0);
        }
        state.known.push(Known { start, end: None, terms: HashSet::default(), complete: true });
        (state.newest, state.open, state.rows) = (Some(id), Some(start), 1);
        Ok(Some(start))
    }

    /// Posts terms for the block of a row that is stored. Rows before the first block need none.
    pub(crate) fn post(&mut self, owner: i64, id: &Id, terms: &[Term]) -> rusqlite::Result<()> {
        let Some(at) = self.find(owner, id)? else { return Ok(()) };
        let Some(state) = self.owners.get_mut(&owner) else { return Ok(()) };
        let block = &mut state.known[at];
        for &term in terms {
            if block.terms.insert(term) {
                self.post.execute(params![owner, term, block.start])?;
            }
        }
        Ok(())
    }

    /// Whether a term may be posted for the block of a row. `false` is certain.
    pub(crate) fn may_have(&mut self, owner: i64, id: &Id, term: Term) -> rusqlite::Result<bool> {
        let Some(at) = self.find(owner, id)? else { return Ok(true) };
        let known = self.owners.get(&owner).map(|state| &state.known[at]);
        Ok(known.is_none_or(|block| !block.complete || block.terms.contains(&term)))
    }

    /// Posts terms for a single row, or takes them back. Rows before the first block have none.
    pub(crate) fn post_row(&mut self, owner: i64, id: &Id, terms: &[Term], is_so: bool) -> rusqlite::Result<()> {
        if self.find(owner, id)?.is_none() {
            return Ok(());
        }
        let statement = if is_so { &mut self.post } else { &mut self.unpost };
        for term in terms {
            statement.execute(params![owner, term, id])?;
        }
        Ok(())
    }

    /// The place of the block that covers a row among those that are known of its owner.
    fn find(&mut self, owner: i64, id: &Id) -> rusqlite::Result<Option<usize>> {
        self.load(owner)?;
        let Some(state) = self.owners.get_mut(&owner) else { return Ok(None) };
        let covers = |known: &Known| known.start <= *id && known.end.is_none_or(|end| *id < end);
        if let Some(at) = state.known.iter().rposition(covers) {
            return Ok(Some(at));
        }
        let Some(start) = covering(&mut self.covering, owner, id)? else { return Ok(None) };
        let end = self.following.query_row(params![owner, start], |row| row.get(0)).optional()?.flatten();
        if state.known.len() == MAX_BLOCKS {
            // The open block is asked for most; of the others the oldest acquaintance goes.
            let oldest = state.known.iter().position(|known| known.end.is_some()).unwrap_or(0);
            state.known.remove(oldest);
        }
        state.known.push(Known { start, end, terms: HashSet::default(), complete: false });
        Ok(Some(state.known.len() - 1))
    }
}

/// The block that covers an id: of owner ?1, id ?2.
pub(crate) fn covering_sql(log: Log) -> String {
    let Log { postings, owner, .. } = log;
    format!("SELECT max(start) FROM {postings} WHERE {owner} = ? AND term = {BLOCK} AND start <= ?")
}

/// The block after the one that begins at ?2, of owner ?1.
pub(crate) fn following_sql(log: Log) -> String {
    let Log { postings, owner, .. } = log;
    format!("SELECT min(start) FROM {postings} WHERE {owner} = ? AND term = {BLOCK} AND start > ?")
}

fn covering(statement: &mut Statement<'_>, owner: i64, id: &Id) -> rusqlite::Result<Option<Id>> {
    statement.query_row(params![owner, id], |row| row.get(0)).optional().map(Option::flatten)
}
