//! Reading a filtered list by its postings: only blocks that have something for it (`blocks` says what is promised).
//!
//! A filter is a union of terms. The postings of each are read in the list's order, a chunk at a time, and merged; the rows
//! of each block that comes up are compared with the filter itself, until the page is full. So a page costs as many blocks
//! as it has rows, at worst, and one look-up for each term of which there is nothing.

use std::collections::VecDeque;

use postrider_domain::ids::Ksuid;
use postrider_store::{Listed, PAGE_BYTES, PAGE_ROWS, Walked};
use rusqlite::{Connection, Row, Rows, Statement, params};

use crate::blocks::{IS_ID, Id, Log, covering_sql, following_sql};
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
    /// Rows that were looked at one by one.
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
        self.looked_at += 1;
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
    ) -> Result<Listed<T>, SqlError> {
        let mut page = Gathered::new(self.range.limit);
        read(&self.range.low, &self.range.high, &mut page)?;
        Ok(page.finish().listed)
    }

    /// Gathers rows in the list's order. `read` adds to a page the rows with ids in `[low, high)` that meet the filter, whose
    /// terms these are.
    pub(crate) fn gather<T>(
        &self,
        connection: &Connection,
        terms: Vec<Term>,
        named: Named,
        read: impl FnMut(&[u8], &[u8], &mut Gathered<T>) -> Result<(), SqlError>,
    ) -> Result<Listed<T>, SqlError> {
        Ok(self.gather_some(connection, terms, named, read)?.listed)
    }

    /// The same where `read` says what it looks at ([`Gathered::look`]), so that the page may end early.
    pub(crate) fn gather_some<T>(
        &self,
        connection: &Connection,
        mut terms: Vec<Term>,
        named: Named,
        mut read: impl FnMut(&[u8], &[u8], &mut Gathered<T>) -> Result<(), SqlError>,
    ) -> Result<Walked<T>, SqlError> {
        terms.sort_unstable();
        terms.dedup();
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
            self.gather_posted(connection, &terms, named, &first, &mut page, &mut read)?;
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
        terms: &[Term],
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
        let mut merge = Merge::start(self, connection, terms, &floor)?;
        while let Some(start) = merge.next()? {
            let end = match named {
                Named::Rows => [start.as_slice(), &[0]].concat(),
                Named::Blocks => {
                    let end: Option<Id> = following.query_row(params![self.owner, start], |row| row.get(0))?;
                    end.map_or_else(|| high.to_vec(), |end| end.to_vec())
                }
            };
            read(low.max(&start), high.min(&end), page)?;
            if page.is_full() {
                break;
            }
        }
        Ok(())
    }
}

/// Postings of several terms, merged in the list's order.
struct Merge<'a, 'c> {
    chunk: rusqlite::CachedStatement<'c>,
    list: &'a List<'a>,
    ascending: bool,
    cursors: Vec<Cursor>,
}

/// Where one term's postings are being read.
struct Cursor {
    term: Term,
    ahead: VecDeque<Id>,
    /// What is not read yet lies in here; `None` if there is no more.
    rest: Option<(Vec<u8>, Vec<u8>)>,
}

impl<'a, 'c> Merge<'a, 'c> {
    fn start(list: &'a List<'a>, connection: &'c Connection, terms: &[Term], floor: &[u8]) -> Result<Self, SqlError> {
        let chunk = connection.prepare_cached(&chunk_sql(list.log, list.range.order))?;
        let cursor = |term: &Term| Cursor {
            term: *term,
            ahead: VecDeque::new(),
            rest: Some((floor.to_vec(), list.range.high.clone())),
        };
        let cursors = terms.iter().map(cursor).collect();
        Ok(Self { chunk, list, ascending: list.range.is_ascending(), cursors })
    }

    /// The next start in the list's order, each once.
    fn next(&mut self) -> Result<Option<Id>, SqlError> {
        let mut next: Option<Id> = None;
        for cursor in &mut self.cursors {
            cursor.fill(&mut self.chunk, self.list.owner, self.ascending)?;
            let Some(&front) = cursor.ahead.front() else { continue };
            if next.is_none_or(|next| if self.ascending { front < next } else { front > next }) {
                next = Some(front);
            }
        }
        if let Some(next) = next {
            for cursor in self.cursors.iter_mut().filter(|cursor| cursor.ahead.front() == Some(&next)) {
                cursor.ahead.pop_front();
            }
        }
        self.cursors.retain(|cursor| cursor.rest.is_some() || !cursor.ahead.is_empty());
        Ok(next)
    }
}

impl Cursor {
    fn fill(&mut self, chunk: &mut Statement<'_>, owner: i64, ascending: bool) -> Result<(), SqlError> {
        if !self.ahead.is_empty() {
            return Ok(());
        }
        let Some((low, high)) = self.rest.take() else { return Ok(()) };
        let mut rows = chunk.query(params![owner, self.term, low, high])?;
        while let Some(row) = rows.next()? {
            self.ahead.push_back(row.get(0)?);
        }
        if let Some(last) = self.ahead.back().filter(|_| self.ahead.len() == CHUNK) {
            self.rest = Some(if ascending { ([last.as_slice(), &[0]].concat(), high) } else { (low, last.to_vec()) });
        }
        Ok(())
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
    use super::*;
    use crate::blocks::{ATTEMPTS, MESSAGES};
    use crate::plans::assert_walks;

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
