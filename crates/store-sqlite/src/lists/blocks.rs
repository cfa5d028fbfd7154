//! Writing postings: which block a row belongs to, and what was posted for that block already.
//!
//! Runs on the writer's thread, for one log: the messages of applications, or the attempts to endpoints. What must hold
//! after every commit, because lists rely on it (see `postings`):
//!
//! * Every row at or after its owner's first block that meets a term has a posting of it at the start of the block that
//!   covers the row: the last block that begins at or before its id.
//! * A new block begins after every row of the block before, so it takes no row from that.
//!
//! Ids are made when something starts, and rows are stored when it ends, so a row may come late and belong to an earlier
//! block. Mostly that has rows above it, and takes it, however many it has. One that has none, and enough of others, ends there: after a
//! clock that was ahead was set right, all rows come late, until that time has come. A row that is dated ahead of all others begins a
//! block for the same reason: it would be above those that follow. What is remembered here is only ever a shortcut: whatever is forgotten is read again.

use std::hash::{BuildHasherDefault, Hasher};

use foldhash::HashMap;
use rusqlite::{Connection, OptionalExtension as _, Statement, params};

use crate::engine::tx::Place;
use crate::lists::terms::{BLOCK, Term};

/// How many rows a block has before the next one begins. A list reads up to a block for each row that it shows, and each
/// block costs an insert for each of its terms.
pub(crate) const BLOCK_ROWS: usize = 16;

/// A row that is so much younger than all others begins a block, whether or not the last one is full.
const AHEAD_SECONDS: u32 = 3_600;

/// Owners that are remembered.
const MAX_OWNERS: usize = 4_096;

/// Blocks that are remembered, about, and how many of them may be one owner's. What is delivered lies behind what is
/// accepted, by a hundred messages and more under load: its blocks are to be known still. The blocks of a backlog become
/// known again when their turn comes.
const MAX_BLOCKS: usize = 4 * MAX_OWNERS;
const MAX_BLOCKS_OF_ONE: usize = 64;

/// Terms that are remembered of all blocks together; beyond, everything is forgotten. Most blocks have a few, but whoever
/// gives every message names of its own has hundreds for each.
const MAX_TERMS: usize = 1 << 18;

/// What a term takes in memory, at worst: a table that has just grown is half empty.
const TERM_BYTES: u64 = 40;

/// What the blocks of one log take in memory at most.
pub(crate) const MAX_BYTES: u64 = MAX_TERMS as u64 * TERM_BYTES + MAX_BLOCKS as u64 * size_of::<Known>() as u64;

/// The 20 bytes of a KSUID.
pub(crate) type Id = [u8; 20];

/// An id as numbers, which are compared in no time.
type Order = (u128, u32);

fn order(id: &Id) -> Order {
    let (mut front, mut back) = ([0; 16], [0; 4]);
    front.copy_from_slice(&id[..16]);
    back.copy_from_slice(&id[16..]);
    (u128::from_be_bytes(front), u32::from_be_bytes(back))
}

/// When an id was made, in seconds.
fn seconds(id: &Id) -> u32 {
    u32::from_be_bytes([id[0], id[1], id[2], id[3]])
}

fn id_of((front, back): Order) -> Id {
    let mut id = [0; 20];
    id[..16].copy_from_slice(&front.to_be_bytes());
    id[16..].copy_from_slice(&back.to_be_bytes());
    id
}

/// The first block of an owner that has no rows yet begins here.
const BEFORE_ALL: Id = [0; 20];

/// No id is as high as this.
pub(crate) const BEHIND_ALL: [u8; 21] = [0xff; 21];

/// A log and its postings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Log {
    /// The table of postings.
    pub(crate) postings: &'static str,
    /// The rows, with the index that has them by owner and id.
    pub(crate) rows: &'static str,
    /// The column of the owner, in both.
    pub(crate) owner: &'static str,
    /// What the hot path remembers an owner's rows by.
    pub(crate) place: fn(i64) -> Place,
}

/// Messages by application.
pub(crate) const MESSAGES: Log = Log {
    postings: "message_posting",
    rows: "message INDEXED BY message_by_id",
    owner: "application_no",
    place: Place::Application,
};

/// Attempts by endpoint.
pub(crate) const ATTEMPTS: Log =
    Log { postings: "attempt_posting", rows: "attempt", owner: "endpoint_no", place: Place::Endpoint };

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
    posted: Statement<'c>,
    unpost: Statement<'c>,
    covering: Statement<'c>,
    following: Statement<'c>,
    newest: Statement<'c>,
    count: Statement<'c>,
    above: Statement<'c>,
    owners: HashMap<i64, Owner>,
    /// How many terms were remembered since everything was forgotten.
    terms: usize,
    /// Counts what blocks are asked for, to tell which was last.
    turn: u64,
}

/// What is remembered of an owner.
struct Owner {
    /// The newest row that was stored, however it compares with blocks.
    newest: Option<Id>,
    /// Where the last block begins; `None` if there is none.
    open: Option<Id>,
    /// How many rows it has, as far as that matters.
    rows: usize,
    /// In their order.
    known: Vec<Known>,
}

/// A block, and what is known of its terms.
struct Known {
    start: Id,
    /// The same as numbers.
    from: Order,
    /// Where the next block begins.
    until: Option<Order>,
    /// No row of it that is known is above this one.
    last: Option<Order>,
    /// Whether a term is posted for it.
    terms: std::collections::HashMap<Term, bool, BuildHasherDefault<Already>>,
    /// Whether no other terms are.
    complete: bool,
    /// When it was asked for last.
    turn: u64,
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
        let Log { postings, rows, owner, .. } = log;
        let prepare = |sql: String| connection.prepare(&sql);
        Ok(Self {
            post: prepare(format!("INSERT OR IGNORE INTO {postings} ({owner}, term, start) VALUES (?, ?, ?)"))?,
            posted: prepare(format!("SELECT 1 FROM {postings} WHERE {owner} = ? AND term = ? AND start = ?"))?,
            unpost: prepare(format!("DELETE FROM {postings} WHERE {owner} = ? AND term = ? AND start = ?"))?,
            covering: prepare(covering_sql(log))?,
            following: prepare(following_sql(log))?,
            newest: prepare(format!("SELECT max(id) FROM {rows} WHERE {owner} = ? AND length(id) = 20"))?,
            count: prepare(format!(
                "SELECT count(*) FROM (SELECT 1 FROM {rows} WHERE {owner} = ? AND id >= ? AND id < ? LIMIT ?)"
            ))?,
            above: prepare(format!(
                "SELECT max(id) FROM {rows} WHERE {owner} = ? AND id >= ? AND id < ? AND length(id) = 20"
            ))?,
            owners: HashMap::default(),
            terms: 0,
            turn: 0,
        })
    }

    /// The transaction came to nothing.
    pub(crate) fn forget(&mut self) {
        self.owners.clear();
        self.terms = 0;
    }

    /// The transaction reached the disk: nothing waits to be placed, so what takes too much room can be forgotten.
    pub(crate) fn committed(&mut self) {
        if self.terms > MAX_TERMS {
            self.forget();
        }
    }

    /// Rows or blocks of an owner were removed.
    pub(crate) fn forget_owner(&mut self, owner: i64) {
        self.owners.remove(&owner);
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
                let count: usize =
                    self.count.query_row(params![owner, start, BEHIND_ALL, BLOCK_ROWS], |row| row.get(0))?;
                (count, vec![Known::new(start, None, false, self.turn)])
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
        let most = self.share();
        let Some(state) = self.owners.get_mut(&owner) else { return Ok(None) };
        if state.open.is_some_and(|open| id < open) {
            return self.advance_late(owner, id);
        }
        let is_newest = state.newest.is_none_or(|newest| id > newest);
        let is_ahead = state.newest.is_some_and(|newest| seconds(&id).saturating_sub(seconds(&newest)) > AHEAD_SECONDS);
        let is_full = state.open.is_none() || state.rows >= BLOCK_ROWS || is_ahead;
        if !is_newest || !is_full {
            state.rows += usize::from(state.open.is_some());
            state.newest = state.newest.max(Some(id));
            return Ok(None);
        }
        let start = if state.newest.is_none() { BEFORE_ALL } else { id };
        self.post.execute(params![owner, BLOCK, start])?;
        // The open one is the last of those that are known, and is always known.
        if let Some(before) = state.known.last_mut() {
            before.until = Some(order(&start));
        }
        (state.newest, state.open, state.rows) = (Some(id), Some(start), 1);
        self.turn += 1;
        state.remember(Known::new(start, None, true, self.turn), most);
        Ok(Some(start))
    }

    /// The same for a row that belongs before the last block: one begins with it if the block that covers it has enough rows, and none
    /// above it. Rows of the same batch that are not placed yet may be among those: then the last of them begins one.
    fn advance_late(&mut self, owner: i64, id: Id) -> rusqlite::Result<Option<Id>> {
        let Some(at) = self.find(owner, &id)? else { return Ok(None) };
        let most = self.share();
        let Some(state) = self.owners.get_mut(&owner) else { return Ok(None) };
        let block = &mut state.known[at];
        let (start, Some(until)) = (block.start, block.until) else { return Ok(None) };
        if block.last.is_none_or(|last| last <= order(&id)) {
            let last: Option<Id> = self.above.query_row(params![owner, start, id_of(until)], |row| row.get(0))?;
            block.last = last.as_ref().map(order);
        }
        if block.last.is_some_and(|last| last > order(&id)) {
            return Ok(None);
        }
        let rows: usize =
            self.count.query_row(params![owner, start, id_of(until), BLOCK_ROWS + 1], |row| row.get(0))?;
        if rows <= BLOCK_ROWS {
            return Ok(None);
        }
        self.post.execute(params![owner, BLOCK, id])?;
        block.until = Some(order(&id));
        self.turn += 1;
        state.remember(Known::new(id, Some(until), true, self.turn), most);
        Ok(Some(id))
    }

    /// Posts terms for the block of a row that is stored. Rows before the first block need none.
    pub(crate) fn post(&mut self, owner: i64, id: &Id, terms: &[Term]) -> rusqlite::Result<()> {
        let Some(at) = self.find(owner, id)? else { return Ok(()) };
        let Some(block) = self.owners.get_mut(&owner).map(|state| &mut state.known[at]) else { return Ok(()) };
        let known = block.terms.len();
        for &term in terms {
            if block.terms.insert(term, true) != Some(true) {
                self.post.execute(params![owner, term, block.start])?;
            }
        }
        self.terms += block.terms.len() - known;
        Ok(())
    }

    /// Whether a term may be posted for the block of a row. `false` is certain.
    pub(crate) fn may_have(&mut self, owner: i64, id: &Id, term: Term) -> rusqlite::Result<bool> {
        let Some(at) = self.find(owner, id)? else { return Ok(true) };
        let Some(block) = self.owners.get_mut(&owner).map(|state| &mut state.known[at]) else { return Ok(true) };
        if let Some(posted) = block.terms.get(&term) {
            return Ok(*posted);
        }
        let posted = !block.complete && self.posted.exists(params![owner, term, block.start])?;
        block.terms.insert(term, posted);
        self.terms += 1;
        Ok(posted)
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
        self.turn += 1;
        let Some(state) = self.owners.get_mut(&owner) else { return Ok(None) };
        if let Some(at) = state.covering(order(id)) {
            state.known[at].turn = self.turn;
            return Ok(Some(at));
        }
        let Some(start) = covering(&mut self.covering, owner, id)? else { return Ok(None) };
        let end: Option<Id> = self.following.query_row(params![owner, start], |row| row.get(0)).optional()?.flatten();
        let most = self.share();
        let Some(state) = self.owners.get_mut(&owner) else { return Ok(None) };
        state.remember(Known::new(start, end.as_ref().map(order), false, self.turn), most);
        Ok(state.covering(order(id)))
    }

    /// How many blocks may be remembered of an owner.
    fn share(&self) -> usize {
        (MAX_BLOCKS / self.owners.len().max(1)).min(MAX_BLOCKS_OF_ONE)
    }
}

impl Owner {
    /// The place of the known block that covers an id.
    fn covering(&self, id: Order) -> Option<usize> {
        let at = self.known.partition_point(|known| known.from <= id).checked_sub(1)?;
        self.known[at].until.is_none_or(|until| id < until).then_some(at)
    }

    /// Remembers a block, if need be instead of those that were asked for the longest time ago.
    fn remember(&mut self, block: Known, most: usize) {
        self.known.insert(self.known.partition_point(|known| known.from < block.from), block);
        while self.known.len() > most {
            // The open one stays: where it ends is noted there.
            let closed = self.known.iter().enumerate().filter(|(_, known)| known.until.is_some());
            let Some((oldest, _)) = closed.min_by_key(|(_, known)| known.turn) else { break };
            self.known.remove(oldest);
        }
    }
}

impl Known {
    fn new(start: Id, until: Option<Order>, complete: bool, turn: u64) -> Self {
        Self { start, from: order(&start), until, last: None, terms: Default::default(), complete, turn }
    }
}

/// What the start of a block meets that makes sense.
pub(crate) const IS_ID: &str = "length(start) = 20";

/// The block that covers an id: of owner ?1, id ?2.
pub(crate) fn covering_sql(log: Log) -> String {
    let Log { postings, owner, .. } = log;
    format!("SELECT max(start) FROM {postings} WHERE {owner} = ?1 AND term = {BLOCK} AND start <= ?2 AND {IS_ID}")
}

/// The block after the one that begins at ?2, of owner ?1.
pub(crate) fn following_sql(log: Log) -> String {
    let Log { postings, owner, .. } = log;
    format!("SELECT min(start) FROM {postings} WHERE {owner} = ?1 AND term = {BLOCK} AND start > ?2 AND {IS_ID}")
}

fn covering(statement: &mut Statement<'_>, owner: i64, id: &Id) -> rusqlite::Result<Option<Id>> {
    statement.query_row(params![owner, id], |row| row.get(0)).optional().map(Option::flatten)
}

#[cfg(test)]
mod tests {
    use postrider_domain::entropy::{Entropy as _, SeededEntropy};

    use super::*;

    fn id(number: u64) -> Id {
        let mut id = [0; 20];
        id[4..12].copy_from_slice(&number.to_be_bytes());
        id
    }

    #[test]
    fn every_row_is_posted_for_its_block_however_late_it_comes_and_whatever_was_forgotten() {
        let connection = crate::engine::plans::database();
        let mut store = connection
            .prepare(
                "INSERT OR IGNORE INTO attempt (endpoint_no, id, message_no, url_no, number, trigger, started_at,
                     duration_ms, succeeded, status_code) VALUES (?, ?, 1, 1, 1, 0, 0, 0, 1, 200)",
            )
            .unwrap();
        let (mut blocks, entropy) = (Blocks::prepare(&connection, ATTEMPTS).unwrap(), SeededEntropy::new(3));
        let mut all = Vec::new();
        for batch in 0..400u64 {
            let mut rows = Rows::default();
            for number in batch * 12..(batch + 1) * 12 {
                let owner = 1 + (number % 2).cast_signed();
                // One of five belongs to some block before.
                let late = entropy.unit() < 0.2;
                let at = if late { (entropy.unit() * number as f64) as u64 * 2 + 1 } else { number * 2 };
                let terms = [7, 100 + (at % 30).cast_signed()];
                blocks.load(owner).unwrap();
                if store.execute(params![owner, id(at)]).unwrap() == 1 {
                    rows.push(owner, id(at), |spread| spread.extend(terms));
                    all.push((owner, id(at), terms));
                }
            }
            blocks.place(&mut rows, |_| Ok(()), |_, _| Ok(())).unwrap();
            if batch % 100 == 99 {
                blocks.forget();
            }
            assert!(blocks.owners.values().all(|owner| owner.known.len() <= MAX_BLOCKS_OF_ONE));
        }
        let mut posted = connection
            .prepare(&format!(
                "SELECT 1 FROM attempt_posting WHERE endpoint_no = ?1 AND term = ?3 AND start = ({})",
                covering_sql(ATTEMPTS)
            ))
            .unwrap();
        for (owner, id, terms) in &all {
            for term in terms {
                assert!(posted.exists(params![owner, id, term]).unwrap(), "owner {owner}, {id:?}, term {term}");
            }
        }
        let begun: usize =
            connection.query_row("SELECT count(*) FROM attempt_posting WHERE term = 0", [], |row| row.get(0)).unwrap();
        assert!(begun > 3 * MAX_BLOCKS_OF_ONE, "{begun} blocks of {} rows", all.len());
    }

    #[test]
    fn a_clock_that_was_ahead_leaves_no_long_block() {
        // As far as in 2153, and by less than a block of its own takes.
        for ahead in [4_000_000_000, AHEAD_SECONDS + 1] {
            let connection = crate::engine::plans::database();
            let mut store = connection
                .prepare("INSERT INTO message (application_no, id, event_type, created_at) VALUES (1, ?, 'a', 0)")
                .unwrap();
            let at = |second: u32, number: u64| {
                let mut id = id(number);
                id[..4].copy_from_slice(&second.to_be_bytes());
                id
            };
            let mut blocks = Blocks::prepare(&connection, MESSAGES).unwrap();
            let (mut all, mut rows) = (Vec::new(), Rows::default());
            let mut store_batch = |blocks: &mut Blocks<'_>, ids: Vec<Id>| {
                blocks.load(1).unwrap();
                for id in ids {
                    store.execute([id]).unwrap();
                    let term = i64::from_be_bytes(id[4..12].try_into().unwrap()) % 30 + 100;
                    rows.push(1, id, |spread| spread.push(term));
                    all.push((id, term));
                }
                blocks.place(&mut rows, |_| Ok(()), |_, _| Ok(())).unwrap();
            };
            store_batch(&mut blocks, (0..5).map(|number| at(1, number)).collect());
            store_batch(&mut blocks, (5..9).map(|number| at(1 + ahead, number)).collect());
            for batch in 0..300_u64 {
                let numbers = 10 + batch * 10..20 + batch * 10;
                store_batch(&mut blocks, numbers.map(|number| at(2, number)).collect());
                if batch % 100 == 99 {
                    blocks.forget();
                }
            }
            let covering = covering_sql(MESSAGES);
            let mut start = connection.prepare(&covering).unwrap();
            let posted = "SELECT 1 FROM message_posting WHERE application_no = 1 AND term = ? AND start = ?";
            let mut posted = connection.prepare(posted).unwrap();
            let mut counts = std::collections::BTreeMap::<Id, usize>::new();
            for (id, term) in all {
                let start: Id = start.query_row(params![1, id], |row| row.get(0)).unwrap();
                assert!(posted.exists(params![term, start]).unwrap(), "{id:?}, term {term}");
                *counts.entry(start).or_default() += 1;
            }
            assert!(counts.values().all(|count| *count <= BLOCK_ROWS + 10), "{ahead}: {counts:?}");
        }
    }

    #[test]
    fn what_comes_below_many_rows_that_a_clock_dated_ahead_has_full_blocks() {
        let connection = crate::engine::plans::database();
        let mut store = connection
            .prepare("INSERT INTO message (application_no, id, event_type, created_at) VALUES (1, ?, 'a', 0)")
            .unwrap();
        let mut blocks = Blocks::prepare(&connection, MESSAGES).unwrap();
        let mut rows = Rows::default();
        let mut begun = 0;
        let mut store_row = |second: u32, number: u64| {
            let mut id = id(number);
            id[..4].copy_from_slice(&second.to_be_bytes());
            blocks.load(1).unwrap();
            store.execute([id]).unwrap();
            rows.push(1, id, |spread| spread.push(7));
            let count = |_| {
                begun += 1;
                Ok(())
            };
            blocks.place(&mut rows, count, |_, _| Ok(())).unwrap();
        };
        (0..5).for_each(|number| store_row(1, number));
        (5..45).for_each(|number| store_row(4_000_000_000, number));
        let late: u64 = 3_000;
        (100..100 + late).for_each(|number| store_row(2, number));
        let (most, least) = (late as usize / BLOCK_ROWS * 3 / 2, late as usize / BLOCK_ROWS / 2);
        assert!((least..=most).contains(&begun), "{begun} blocks");
    }

    #[test]
    fn so_many_terms_are_remembered_and_no_more() {
        let connection = crate::engine::plans::database();
        let mut blocks = Blocks::prepare(&connection, MESSAGES).unwrap();
        let mut remembered = Vec::new();
        let mut rows = Rows::default();
        for number in 0..12u64 {
            let first = (number * 30_000).cast_signed();
            rows.push(1, id(number), |spread| spread.extend(first..first + 30_000));
            blocks.place(&mut rows, |_| Ok(()), |_, _| Ok(())).unwrap();
            blocks.committed();
            remembered.push(blocks.owners.values().flat_map(|owner| &owner.known).map(|known| known.terms.len()).sum());
        }
        assert!(remembered.iter().all(|terms: &usize| *terms <= MAX_TERMS), "{remembered:?}");
        assert!(remembered.iter().any(|terms| *terms > MAX_TERMS / 2), "{remembered:?}");
    }
}
