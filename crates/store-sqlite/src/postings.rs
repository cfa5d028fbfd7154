//! Reading a filtered list by its postings: only blocks that have something for it (`blocks` says what is promised).
//!
//! A filter is a conjunction of clauses, each a union of terms. The postings of each term are read in the list's order, a chunk
//! at a time, and merged into those of the clause; where those of all clauses meet, the rows of the block are compared with the
//! filter itself, until the page is full. With one clause a page costs as many blocks as it has rows, at worst, and one look-up
//! for each term of which there is nothing. Clauses that seldom meet may be long in vain: each time that one has to follow
//! another, and the rows of each block that had nothing, are counted as rows that were looked at, and the page ends early
//! ([`PAGE_ROWS`]).

use std::collections::VecDeque;

use postrider_domain::ids::Ksuid;
use postrider_store::{Listed, PAGE_BYTES, PAGE_ROWS, Walked};
use rusqlite::{Connection, Row, Rows, params};

use crate::blocks::{BLOCK_ROWS, IS_ID, Id, Log, covering_sql, following_sql};
use crate::decode::{SqlError, readable};
use crate::range::Range;
use crate::terms::{BLOCK, Term};

/// How many postings of a term are read at a time.
const CHUNK: usize = 32;

/// What postings of the terms name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    /// Blocks.
    Blocks,
    /// Single rows.
    Rows,
}

/// The rows of a page, while it fills.
pub(crate) struct Gathered<T> {
    found: Listed<T>,
    limit: usize,
    bytes: usize,
    left_out: bool,
    /// Rows that were looked at in vain.
    looked_at: usize,
    reached: Option<Id>,
}

impl<T> Gathered<T> {
    pub(crate) fn new(limit: i64) -> Self {
        let limit = usize::try_from(limit).unwrap_or_default();
        let found = Listed { rows: Vec::new(), cut: false };
        Self { found, limit, bytes: 0, left_out: false, looked_at: 0, reached: None }
    }

    fn is_full(&self) -> bool {
        self.found.cut || self.found.rows.len() >= self.limit
    }

    /// How many rows are still wanted, for `LIMIT`.
    pub(crate) fn wanted(&self) -> i64 {
        crate::range::limit(self.limit - self.found.rows.len())
    }

    /// Adds a row that holds so many bytes of what can be large, unless the page holds enough of that already; says whether
    /// more rows are wanted.
    pub(crate) fn push(&mut self, row: T, bytes: usize) -> bool {
        if self.bytes >= PAGE_BYTES {
            self.found.cut = true;
        } else {
            self.found.rows.push(row);
            self.bytes += bytes;
        }
        !self.is_full()
    }

    /// Adds the rows of a query that make sense. `decode` also says how many bytes of what can be large a row holds.
    pub(crate) fn take(
        &mut self,
        mut rows: Rows<'_>,
        decode: impl Fn(&Row<'_>) -> Result<(T, usize), SqlError>,
    ) -> Result<(), SqlError> {
        while !self.is_full() {
            let Some(row) = rows.next()? else { break };
            match readable(decode(row))? {
                Some((row, bytes)) => drop(self.push(row, bytes)),
                None => self.left_out = true,
            }
        }
        Ok(())
    }

    /// Notes that this row was looked at; says whether more may be, unless the page is full.
    pub(crate) fn look(&mut self, at: Id) -> bool {
        self.look_at_some(1, at)
    }

    /// The same for some rows, of which the walk meets this one last.
    fn look_at_some(&mut self, rows: usize, at: Id) -> bool {
        self.looked_at += rows;
        if self.looked_at >= PAGE_ROWS && !self.is_full() {
            self.found.cut = true;
            self.reached = Some(at);
        }
        !self.is_full()
    }

    /// The page. Where rows were left out, there may be more than the query was asked for.
    fn finish(mut self) -> Walked<T> {
        self.found.cut |= self.left_out && !self.found.rows.is_empty();
        let reached = self.reached.map(Ksuid::from_bytes);
        Walked { listed: self.found, reached }
    }
}

/// A list of one owner's rows in a log.
pub(crate) struct List<'a> {
    pub(crate) log: Log,
    pub(crate) owner: i64,
    pub(crate) range: &'a Range<Vec<u8>>,
}

impl List<'_> {
    /// Gathers rows in the list's order that are walked one by one, because everything is asked for.
    pub(crate) fn walk<T>(
        &self,
        mut read: impl FnMut(&[u8], &[u8], &mut Gathered<T>) -> Result<(), SqlError>,
    ) -> Result<Walked<T>, SqlError> {
        let mut page = Gathered::new(self.range.limit);
        read(&self.range.low, &self.range.high, &mut page)?;
        Ok(page.finish())
    }

    /// Gathers rows in the list's order. `read` adds to a page the rows with ids in `[low, high)` that meet the filter, which has
    /// these clauses. It may say what it looks at ([`Gathered::look`]); the page may end early.
    pub(crate) fn gather<T>(
        &self,
        connection: &Connection,
        mut clauses: Vec<Vec<Term>>,
        named: Named,
        mut read: impl FnMut(&[u8], &[u8], &mut Gathered<T>) -> Result<(), SqlError>,
    ) -> Result<Walked<T>, SqlError> {
        for terms in &mut clauses {
            terms.sort_unstable();
            terms.dedup();
        }
        let Range { low, high, limit, .. } = self.range;
        let mut page = Gathered::new(*limit);
        if low >= high {
            return Ok(page.finish());
        }
        // Everything before the first block has no postings.
        let first = self.first_block(connection)?.map_or_else(|| high.clone(), |first| first.to_vec());
        let first = first.clamp(low.clone(), high.clone());
        let ascending = self.range.is_ascending();
        if ascending && *low < first && !page.is_full() {
            read(low, &first, &mut page)?;
        }
        if first < *high && !page.is_full() {
            self.gather_posted(connection, &clauses, named, &first, &mut page, &mut read)?;
        }
        if !ascending && *low < first && !page.is_full() {
            read(low, &first, &mut page)?;
        }
        Ok(page.finish())
    }

    fn first_block(&self, connection: &Connection) -> Result<Option<Id>, SqlError> {
        let Log { postings, owner, .. } = self.log;
        let sql = format!("SELECT min(start) FROM {postings} WHERE {owner} = ? AND term = {BLOCK} AND {IS_ID}");
        Ok(connection.prepare_cached(&sql)?.query_row([self.owner], |row| row.get(0))?)
    }

    /// The part of the list from `low` on, where there are postings.
    fn gather_posted<T>(
        &self,
        connection: &Connection,
        clauses: &[Vec<Term>],
        named: Named,
        low: &[u8],
        page: &mut Gathered<T>,
        read: &mut impl FnMut(&[u8], &[u8], &mut Gathered<T>) -> Result<(), SqlError>,
    ) -> Result<(), SqlError> {
        let high = self.range.high.as_slice();
        // The block that covers the lower end may begin before it.
        let floor = match named {
            Named::Rows => low.to_vec(),
            Named::Blocks => {
                let mut covering = connection.prepare_cached(&covering_sql(self.log))?;
                let start: Option<Id> = covering.query_row(params![self.owner, low], |row| row.get(0))?;
                start.map_or_else(|| low.to_vec(), |start| start.to_vec())
            }
        };
        let mut following = connection.prepare_cached(&following_sql(self.log))?;
        let mut meeting = Meeting::start(self, connection, clauses, &floor)?;
        while let Some(start) = meeting.next(page)? {
            let end = match named {
                Named::Rows => [start.as_slice(), &[0]].concat(),
                Named::Blocks => {
                    let end: Option<Id> = following.query_row(params![self.owner, start], |row| row.get(0))?;
                    end.map_or_else(|| high.to_vec(), |end| end.to_vec())
                }
            };
            let before = (page.found.rows.len(), page.looked_at);
            read(low.max(&start), high.min(&end), page)?;
            let is_in_vain = before == (page.found.rows.len(), page.looked_at);
            if is_in_vain && named == Named::Blocks {
                page.look_at_some(BLOCK_ROWS, start);
            }
            if page.is_full() {
                break;
            }
        }
        Ok(())
    }
}

/// Postings of several clauses: where all of them are.
struct Meeting<'c> {
    chunks: Chunks<'c>,
    clauses: Vec<Merge>,
}

impl<'c> Meeting<'c> {
    fn start(
        list: &List<'_>,
        connection: &'c Connection,
        clauses: &[Vec<Term>],
        floor: &[u8],
    ) -> Result<Self, SqlError> {
        let statement = connection.prepare_cached(&chunk_sql(list.log, list.range.order))?;
        let chunks = Chunks { statement, owner: list.owner, ascending: list.range.is_ascending() };
        let clauses = clauses.iter().map(|terms| Merge::start(terms, floor, &list.range.high)).collect();
        Ok(Self { chunks, clauses })
    }

    /// The next start in the list's order that all clauses have, each once; `None` also if the page ends before there is one.
    fn next<T>(&mut self, page: &mut Gathered<T>) -> Result<Option<Id>, SqlError> {
        let Some(first) = self.clauses.first_mut() else { return Ok(None) };
        let Some(mut wanted) = first.front(&mut self.chunks)? else { return Ok(None) };
        let (mut place, mut agreed) = (0, 1);
        while agreed < self.clauses.len() {
            place = (place + 1) % self.clauses.len();
            let Some(front) = self.clauses[place].follow(&mut self.chunks, wanted)? else { return Ok(None) };
            if front == wanted {
                agreed += 1;
            } else if page.look(wanted) {
                (wanted, agreed) = (front, 1);
            } else {
                return Ok(None);
            }
        }
        for clause in &mut self.clauses {
            clause.pass(&wanted);
        }
        Ok(Some(wanted))
    }
}

/// Reads chunks of one owner's postings in a list's order.
struct Chunks<'c> {
    statement: rusqlite::CachedStatement<'c>,
    owner: i64,
    ascending: bool,
}

/// Postings of several terms, merged in the list's order.
struct Merge {
    cursors: Vec<Cursor>,
}

/// Where one term's postings are being read.
struct Cursor {
    term: Term,
    ahead: VecDeque<Id>,
    /// What is not read yet lies in here; `None` if there is no more.
    rest: Option<(Vec<u8>, Vec<u8>)>,
}

impl Merge {
    fn start(terms: &[Term], floor: &[u8], high: &[u8]) -> Self {
        let cursor =
            |term: &Term| Cursor { term: *term, ahead: VecDeque::new(), rest: Some((floor.to_vec(), high.to_vec())) };
        Self { cursors: terms.iter().map(cursor).collect() }
    }

    /// The next start.
    fn front(&mut self, chunks: &mut Chunks<'_>) -> Result<Option<Id>, SqlError> {
        let mut next: Option<Id> = None;
        for cursor in &mut self.cursors {
            cursor.fill(chunks)?;
            let Some(&front) = cursor.ahead.front() else { continue };
            if next.is_none_or(|next| chunks.is_before(&front, &next)) {
                next = Some(front);
            }
        }
        self.cursors.retain(|cursor| cursor.rest.is_some() || !cursor.ahead.is_empty());
        Ok(next)
    }

    /// The next start that is not before this one in the list's order.
    fn follow(&mut self, chunks: &mut Chunks<'_>, at: Id) -> Result<Option<Id>, SqlError> {
        for cursor in &mut self.cursors {
            cursor.leave_out(chunks, &at);
        }
        self.front(chunks)
    }

    /// Goes on behind the next start, which is this one.
    fn pass(&mut self, start: &Id) {
        for cursor in self.cursors.iter_mut().filter(|cursor| cursor.ahead.front() == Some(start)) {
            cursor.ahead.pop_front();
        }
    }
}

impl Cursor {
    fn fill(&mut self, chunks: &mut Chunks<'_>) -> Result<(), SqlError> {
        if !self.ahead.is_empty() {
            return Ok(());
        }
        let Some((low, high)) = self.rest.take() else { return Ok(()) };
        let mut rows = chunks.statement.query(params![chunks.owner, self.term, low, high])?;
        while let Some(row) = rows.next()? {
            self.ahead.push_back(row.get(0)?);
        }
        if let Some(last) = self.ahead.back().filter(|_| self.ahead.len() == CHUNK) {
            let (low, high) =
                if chunks.ascending { ([last.as_slice(), &[0]].concat(), high) } else { (low, last.to_vec()) };
            self.rest = Some((low, high));
        }
        Ok(())
    }

    /// What is before this start in the list's order is not read any more.
    fn leave_out(&mut self, chunks: &Chunks<'_>, at: &Id) {
        while self.ahead.front().is_some_and(|front| chunks.is_before(front, at)) {
            self.ahead.pop_front();
        }
        let Some((low, high)) = self.rest.as_mut().filter(|_| self.ahead.is_empty()) else { return };
        if chunks.ascending {
            if low.as_slice() < at.as_slice() {
                *low = at.to_vec();
            }
        } else {
            let behind = [at.as_slice(), &[0]].concat();
            if *high > behind {
                *high = behind;
            }
        }
    }
}

impl Chunks<'_> {
    fn is_before(&self, one: &Id, other: &Id) -> bool {
        if self.ascending { one < other } else { one > other }
    }
}

/// A chunk of the postings of owner ?1 for term ?2 that begin in [?3, ?4).
fn chunk_sql(log: Log, order: &str) -> String {
    let Log { postings, owner, .. } = log;
    format!(
        "SELECT start FROM {postings} WHERE {owner} = ? AND term = ? AND start >= ? AND start < ? AND {IS_ID}
         ORDER BY start {order} LIMIT {CHUNK}"
    )
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use postrider_store::{Direction, Scan};

    use super::*;
    use crate::blocks::{ATTEMPTS, MESSAGES};
    use crate::migrate::MIGRATIONS;
    use crate::plans::assert_walks;

    const ONE: Term = 7;
    const OTHER: Term = 8;

    fn id(number: u32) -> Id {
        let mut id = [0; 20];
        id[..4].copy_from_slice(&number.to_be_bytes());
        id
    }

    /// So many blocks with these terms each.
    fn posted(blocks: u32, has: impl Fn(u32, Term) -> bool) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        for migration in MIGRATIONS {
            connection.execute_batch(migration).unwrap();
        }
        connection.execute_batch("BEGIN").unwrap();
        let mut post = connection.prepare("INSERT INTO message_posting VALUES (1, ?, ?)").unwrap();
        for block in 0..blocks {
            for term in [BLOCK, ONE, OTHER] {
                if term == BLOCK || has(block, term) {
                    post.execute(params![term, id(block)]).unwrap();
                }
            }
        }
        drop(post);
        connection.execute_batch("COMMIT").unwrap();
        connection
    }

    /// The blocks that are read for a page on from there, and where it ended.
    fn page(connection: &Connection, direction: Direction, from: Option<Ksuid>) -> (Vec<Id>, Option<Ksuid>) {
        let mut scan = Scan::all(direction, 50);
        let end = if direction == Direction::Ascending { &mut scan.lower } else { &mut scan.upper };
        *end = from.map_or(Bound::Unbounded, Bound::Excluded);
        let range = Range::of_ids(scan);
        let list = List { log: MESSAGES, owner: 1, range: &range };
        let mut read = Vec::new();
        let clauses = vec![vec![ONE], vec![OTHER]];
        let walked = list.gather(connection, clauses, Named::Blocks, |low, _, page: &mut Gathered<()>| {
            // What comes before the first block is read, too, and has nothing.
            if let Ok(start) = low.try_into() {
                read.push(start);
                page.push((), 0);
            }
            Ok(())
        });
        let walked = walked.unwrap();
        assert_eq!(walked.listed.cut, walked.reached.is_some());
        (read, walked.reached)
    }

    /// The blocks that are read for all pages, and how many pages there are.
    fn pages(connection: &Connection, direction: Direction) -> (Vec<Id>, usize) {
        let (mut read, mut reached) = page(connection, direction, None);
        let mut count = 1;
        while reached.is_some() {
            let (more, next) = page(connection, direction, reached);
            assert_ne!(next, reached, "the next page goes on");
            read.extend(more);
            (reached, count) = (next, count + 1);
        }
        (read, count)
    }

    #[test]
    fn names_that_hardly_ever_come_together_end_a_page_and_the_next_goes_on() {
        let both = [10, 5_000];
        let connection = posted(6_000, |block, term| both.contains(&block) || (block % 2 == 0) == (term == ONE));
        assert_eq!(pages(&connection, Direction::Ascending), (vec![id(10), id(5_000)], 3));
        assert_eq!(pages(&connection, Direction::Descending), (vec![id(5_000), id(10)], 3));
    }

    #[test]
    fn a_name_that_is_rare_leads_past_what_the_other_has() {
        let connection = posted(6_000, |block, term| term == ONE || block % 1_500 == 700);
        let rare = [700, 2_200, 3_700, 5_200].map(id);
        assert_eq!(pages(&connection, Direction::Ascending), (rare.to_vec(), 1));
        assert_eq!(pages(&connection, Direction::Descending), (rare.into_iter().rev().collect(), 1));
    }

    #[test]
    fn postings_are_read_in_their_order() {
        for Log { postings, owner, rows } in [MESSAGES, ATTEMPTS] {
            let log = Log { postings, owner, rows };
            for order in ["ASC", "DESC"] {
                let walked = format!("{postings} USING PRIMARY KEY ({owner}=? AND term=? AND start>? AND start<?)");
                assert_walks(&chunk_sql(log, order), &walked);
            }
            assert_walks(
                &covering_sql(log),
                &format!("{postings} USING PRIMARY KEY ({owner}=? AND term=? AND start<?)"),
            );
            assert_walks(
                &following_sql(log),
                &format!("{postings} USING PRIMARY KEY ({owner}=? AND term=? AND start>?)"),
            );
        }
    }
}
