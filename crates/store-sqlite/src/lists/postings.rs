//! Reading a filtered list by its postings: only blocks that have something for it (`blocks` says what is promised).
//!
//! A filter is a conjunction of clauses, each a union of terms. The postings of each term are read in the list's order, a chunk
//! at a time, and merged into those of the clause; where those of all clauses meet, the rows of the block are compared with the
//! filter itself, until the page is full. With one clause a page costs as many blocks as it has rows, at worst, and one look-up
//! for each term of which there is nothing. Clauses that seldom meet may be long in vain: each time that one has to follow
//! another counts as many rows as look-ups, each block that had nothing as [`BLOCK_ROWS`], and after [`PAGE_ROWS`] the page ends
//! early. Where many rows came late, a block is longer: of each as many rows are looked at as a page may look at, and the page ends there.

use std::collections::VecDeque;

use postrider_domain::ids::Ksuid;
use postrider_store::{Listed, PAGE_BYTES, PAGE_ROWS, Walked};
use rusqlite::{Connection, OptionalExtension as _, Row, Rows, params};

use crate::engine::decode::{SqlError, readable};
use crate::engine::range::Range;
use crate::lists::blocks::{BLOCK_ROWS, IS_ID, Id, Log, covering_sql, following_sql};
use crate::lists::terms::{BLOCK, Term};

/// How many postings of a term are read at a time, at most.
const CHUNK: usize = 32;

/// How many are read where another clause led; twice as many each time from there on.
const FIRST_CHUNK: usize = 2;

/// To compare with so many names more costs as much as to look at a row.
const NAMES_OF_ROW: usize = 64;

/// A clause of more terms is not looked for beside another one: to compare the rows of a block costs less than so many look-ups.
const MAX_SOUGHT: usize = 16;

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
    /// Rows that were looked at in vain, and what else cost as much.
    looked_at: usize,
    /// The page ends when it is so many.
    most: usize,
    /// So much each read costs, because of the names with which it compares.
    each: usize,
    reached: Option<Id>,
}

impl<T> Gathered<T> {
    pub(crate) fn new(limit: i64) -> Self {
        let limit = usize::try_from(limit).unwrap_or_default();
        let found = Listed { rows: Vec::new(), cut: false };
        Self { found, limit, bytes: 0, looked_at: 0, most: PAGE_ROWS, each: 0, reached: None }
    }

    fn is_full(&self) -> bool {
        self.found.cut || self.found.rows.len() >= self.limit
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

    /// Adds the rows of a query that make sense, until the page is full. The query itself has no limit
    /// ([`NO_LIMIT`](crate::engine::range::NO_LIMIT)): what makes no sense has no place on a page, and is looked at in vain. `key` is the id
    /// that the walk goes by; `decode` also says how many bytes of what can be large a row holds.
    pub(crate) fn take(
        &mut self,
        mut rows: Rows<'_>,
        key: impl Fn(&Row<'_>) -> Result<Id, SqlError>,
        decode: impl Fn(&Row<'_>) -> Result<(T, usize), SqlError>,
    ) -> Result<(), SqlError> {
        while !self.is_full()
            && let Some(row) = rows.next()?
        {
            match readable(decode(row))? {
                Some((row, bytes)) => {
                    self.push(row, bytes);
                }
                None => match readable(key(row))? {
                    Some(id) => {
                        self.look(id);
                    }
                    // A row without an id is none that the next page could begin at.
                    None => self.looked_at += 1,
                },
            }
        }
        Ok(())
    }

    /// Notes that this row was looked at; says whether more may be, unless the page is full.
    pub(crate) fn look(&mut self, at: Id) -> bool {
        self.look_in_vain(1, at, &[])
    }

    /// The same for so many rows, of which the walk meets the one with this id last. A list from or to `low` does not end before
    /// that: a block that covers it begins there, and is the first or the last one.
    fn look_in_vain(&mut self, rows: usize, at: Id, low: &[u8]) -> bool {
        if low > at.as_slice() {
            self.looked_at += rows;
        } else if self.spend(rows) {
            self.reached = Some(at);
        }
        !self.is_full()
    }

    /// Notes what cost as much as looking at so many rows, up to the row that was pushed last; says whether the page ends with it.
    fn spend(&mut self, rows: usize) -> bool {
        self.looked_at += rows;
        let ends = self.looked_at >= self.most && !self.is_full();
        self.found.cut |= ends;
        ends
    }

    fn finish(self) -> Walked<T> {
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
        // Of a page without room nothing is read.
        if !page.is_full() {
            read(&self.range.low, &self.range.high, &mut page)?;
        }
        Ok(page.finish())
    }

    /// Gathers rows in the list's order. `read` adds to a page the rows with ids in `[low, high)` that meet the filter, which has
    /// these clauses. It may say what it looks at ([`Gathered::look`]); the page may end early.
    pub(crate) fn gather<T>(
        &self,
        connection: &Connection,
        clauses: Vec<Vec<Term>>,
        named: Named,
        read: impl FnMut(&[u8], &[u8], &mut Gathered<T>) -> Result<(), SqlError>,
    ) -> Result<Walked<T>, SqlError> {
        self.gather_into(Gathered::new(self.range.limit), connection, clauses, named, read)
    }

    fn gather_into<T>(
        &self,
        mut page: Gathered<T>,
        connection: &Connection,
        clauses: Vec<Vec<Term>>,
        named: Named,
        mut read: impl FnMut(&[u8], &[u8], &mut Gathered<T>) -> Result<(), SqlError>,
    ) -> Result<Walked<T>, SqlError> {
        page.each = clauses.iter().map(Vec::len).sum::<usize>() / NAMES_OF_ROW;
        let clauses = sought(clauses);
        let Range { low, high, .. } = self.range;
        if low >= high {
            return Ok(page.finish());
        }
        // Everything before the first block has no postings.
        let first = self.first_block(connection)?.map_or_else(|| high.clone(), |first| first.to_vec());
        let first = first.clamp(low.clone(), high.clone());
        let ascending = self.range.is_ascending();
        if ascending && *low < first && !page.is_full() {
            self.read_some(connection, (low, &first), &mut page, &mut read)?;
        }
        if first < *high && !page.is_full() {
            self.gather_posted(connection, &clauses, named, &first, &mut page, &mut read)?;
        }
        if !ascending && *low < first && !page.is_full() {
            self.read_some(connection, (low, &first), &mut page, &mut read)?;
        }
        Ok(page.finish())
    }

    /// Reads what a part of the list has for a page, of which that looks at [`PAGE_ROWS`] at most, and ends with them.
    fn read_some<T>(
        &self,
        connection: &Connection,
        (low, high): (&[u8], &[u8]),
        page: &mut Gathered<T>,
        read: &mut impl FnMut(&[u8], &[u8], &mut Gathered<T>) -> Result<(), SqlError>,
    ) -> Result<(), SqlError> {
        let mut last = connection.prepare_cached(&last_looked_at_sql(self.log, self.range.order))?;
        let last: Option<Id> =
            last.query_row(params![self.owner, low, high, page.most - 1], |row| row.get(0)).optional()?;
        let Some(last) = last else { return read(low, high, page) };
        let behind = [last.as_slice(), &[0]].concat();
        let (low, high) = if self.range.is_ascending() { (low, behind.as_slice()) } else { (last.as_slice(), high) };
        read(low, high, page)?;
        if !page.is_full() {
            (page.found.cut, page.reached) = (true, Some(last));
        }
        Ok(())
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
        while let Some(start) = meeting.next(page, low)? {
            let end = match named {
                Named::Rows => [start.as_slice(), &[0]].concat(),
                Named::Blocks => {
                    let end: Option<Id> = following.query_row(params![self.owner, start], |row| row.get(0))?;
                    end.map_or_else(|| high.to_vec(), |end| end.to_vec())
                }
            };
            let (found, looked_at) = (page.found.rows.len(), page.looked_at);
            let part = (low.max(&start), high.min(&end));
            match named {
                Named::Rows => read(part.0, part.1, page)?,
                Named::Blocks => self.read_some(connection, part, page, read)?,
            }
            let cost = meeting.cost() + page.each;
            if page.found.rows.len() > found {
                page.spend(cost);
            } else {
                // What `read` itself looked at counts already.
                let rows = if named == Named::Blocks { BLOCK_ROWS } else { 1 };
                page.look_in_vain(cost + rows.saturating_sub(page.looked_at - looked_at), start, low);
            }
            if page.is_full() {
                break;
            }
        }
        Ok(())
    }
}

/// The row of an owner, of those with ids in [?2, ?3), that comes after so many others of them.
fn last_looked_at_sql(log: Log, order: &str) -> String {
    let Log { rows, owner, .. } = log;
    format!(
        "SELECT id FROM {rows} WHERE {owner} = ?1 AND id >= ?2 AND id < ?3 AND length(id) = 20
         ORDER BY id {order} LIMIT 1 OFFSET ?4"
    )
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
        let chunks = Chunks { statement, owner: list.owner, ascending: list.range.is_ascending(), count: 0 };
        let clauses = clauses.iter().map(|terms| Merge::start(terms, floor, &list.range.high)).collect();
        Ok(Self { chunks, clauses })
    }

    /// The next start in the list's order that all clauses have, each once; `None` also if the page ends before there is one. The
    /// list goes from or to `low`.
    fn next<T>(&mut self, page: &mut Gathered<T>, low: &[u8]) -> Result<Option<Id>, SqlError> {
        let Some(first) = self.clauses.first_mut() else { return Ok(None) };
        let Some(mut wanted) = first.front(&mut self.chunks)? else { return Ok(None) };
        // What one clause has costs what is shown of it; what it costs to follow is counted.
        self.chunks.count = 0;
        let mut place = 0;
        let mut agreed = 1;
        while agreed < self.clauses.len() {
            place = (place + 1) % self.clauses.len();
            let Some(front) = self.clauses[place].follow(&mut self.chunks, wanted)? else { return Ok(None) };
            if front == wanted {
                agreed += 1;
            } else {
                // Whatever is up to here was seen: this clause has nothing before `front`.
                let cost = self.cost();
                if !page.look_in_vain(cost.max(1), wanted, low) {
                    return Ok(None);
                }
                wanted = front;
                agreed = 1;
            }
        }
        for clause in &mut self.clauses {
            clause.pass(&wanted);
        }
        Ok(Some(wanted))
    }

    /// How many look-ups it has cost to follow since this was asked last.
    fn cost(&mut self) -> usize {
        std::mem::take(&mut self.chunks.count)
    }
}

/// The clauses that are looked for, those of few terms first: they lead.
fn sought(mut clauses: Vec<Vec<Term>>) -> Vec<Vec<Term>> {
    for terms in &mut clauses {
        terms.sort_unstable();
        terms.dedup();
    }
    clauses.sort_by_key(Vec::len);
    let few = clauses.iter().filter(|terms| terms.len() <= MAX_SOUGHT).count();
    clauses.truncate(few.max(1));
    clauses
}

/// Reads chunks of one owner's postings in a list's order.
struct Chunks<'c> {
    statement: rusqlite::CachedStatement<'c>,
    owner: i64,
    ascending: bool,
    /// How many were read.
    count: usize,
}

/// Postings of several terms, merged in the list's order.
struct Merge {
    cursors: Vec<Cursor>,
}

/// Where one term's postings are being read.
struct Cursor {
    term: Term,
    ahead: VecDeque<Id>,
    /// How many postings are read next.
    chunk: usize,
    /// What is not read yet lies in here; `None` if there is no more.
    rest: Option<(Vec<u8>, Vec<u8>)>,
}

impl Merge {
    fn start(terms: &[Term], floor: &[u8], high: &[u8]) -> Self {
        let cursor = |term: &Term| Cursor {
            term: *term,
            ahead: VecDeque::new(),
            chunk: CHUNK,
            rest: Some((floor.to_vec(), high.to_vec())),
        };
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
        let wanted = self.chunk;
        self.chunk = (2 * wanted).min(CHUNK);
        chunks.count += 1;
        let mut rows =
            chunks.statement.query(params![chunks.owner, self.term, low, high, crate::engine::range::limit(wanted)])?;
        while let Some(row) = rows.next()? {
            self.ahead.push_back(row.get(0)?);
        }
        if let Some(last) = self.ahead.back().filter(|_| self.ahead.len() == wanted) {
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
        self.chunk = FIRST_CHUNK;
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

/// A chunk of ?5 postings of owner ?1 for term ?2 that begin in [?3, ?4).
fn chunk_sql(log: Log, order: &str) -> String {
    let Log { postings, owner, .. } = log;
    format!(
        "SELECT start FROM {postings} WHERE {owner} = ? AND term = ? AND start >= ? AND start < ? AND {IS_ID}
         ORDER BY start {order} LIMIT ?"
    )
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use postrider_store::{Direction, Scan};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::engine::plans::{assert_walks, database};
    use crate::lists::blocks::{ATTEMPTS, MESSAGES};

    /// A row: the terms that it meets, and whether a block begins with it.
    type Entry = (Vec<Term>, bool);

    fn id(number: usize) -> Id {
        let mut id = [0; 20];
        id[..8].copy_from_slice(&number.to_be_bytes());
        id
    }

    fn number(id: &[u8]) -> usize {
        usize::from_be_bytes(id[..8].try_into().unwrap())
    }

    /// A log whose n-th row has the id n.
    struct World {
        connection: Connection,
        entries: Vec<Entry>,
    }

    impl World {
        fn new(entries: Vec<Entry>) -> Self {
            let connection = database();
            connection.execute_batch("BEGIN").unwrap();
            let mut post = connection.prepare("INSERT OR IGNORE INTO message_posting VALUES (1, ?, ?)").unwrap();
            let insert = "INSERT INTO message (application_no, id, event_type, created_at) VALUES (1, ?, 'a', 0)";
            let mut insert = connection.prepare(insert).unwrap();
            let mut block = None;
            for (place, (terms, begins)) in entries.iter().enumerate() {
                insert.execute([id(place)]).unwrap();
                if *begins {
                    block = Some(id(place));
                }
                // What lies before the first block has no postings.
                let Some(block) = block else { continue };
                for term in std::iter::once(&BLOCK).chain(terms) {
                    post.execute(params![term, block]).unwrap();
                }
            }
            drop((insert, post));
            connection.execute_batch("COMMIT").unwrap();
            Self { connection, entries }
        }

        fn meets(&self, place: usize, clauses: &[Vec<Term>]) -> bool {
            clauses.iter().all(|terms| terms.iter().any(|term| self.entries[place].0.contains(term)))
        }

        /// A page that ends when it has looked at `most` rows: what it has, and where the next one goes on.
        fn page(&self, clauses: &[Vec<Term>], scan: &Scan<Ksuid>, most: usize) -> (Vec<usize>, Option<Ksuid>) {
            let range = Range::of_ids(scan.clone());
            let list = List { log: MESSAGES, owner: 1, range: &range };
            let mut shown = Vec::new();
            let read = |low: &[u8], high: &[u8], page: &mut Gathered<()>| {
                let inside = |place: &usize| (low..high).contains(&id(*place).as_slice());
                let mut places: Vec<usize> = (0..self.entries.len()).filter(inside).collect();
                if !range.is_ascending() {
                    places.reverse();
                }
                for place in places.into_iter().filter(|place| self.meets(*place, clauses)) {
                    shown.push(place);
                    if !page.push((), 0) {
                        break;
                    }
                }
                Ok(())
            };
            let page = Gathered { most, ..Gathered::new(range.limit) };
            let walked = list.gather_into(page, &self.connection, clauses.to_vec(), Named::Blocks, read).unwrap();
            let is_over = !walked.listed.cut && shown.len() < scan.limit;
            let last = shown.last().map(|place| Ksuid::from_bytes(id(*place)));
            (shown, walked.reached.or(last).filter(|_| !is_over))
        }

        /// All pages, one after the other: what they have, and how many there are.
        fn pages(&self, clauses: &[Vec<Term>], scan: &Scan<Ksuid>, most: usize) -> (Vec<usize>, usize) {
            let mut scan = scan.clone();
            let (mut shown, mut count) = (Vec::new(), 0);
            loop {
                let (more, next) = self.page(clauses, &scan, most);
                shown.extend(more);
                count += 1;
                let Some(next) = next else { return (shown, count) };
                let place = number(next.as_bytes());
                let (end, goes_on) = match scan.direction {
                    Direction::Ascending => (&mut scan.lower, place >= count - 1),
                    Direction::Descending => (&mut scan.upper, place + count <= self.entries.len()),
                };
                assert!(goes_on, "each page goes on");
                *end = Bound::Excluded(next);
            }
        }

        /// The same from either end.
        fn both_ways(&self, clauses: &[Vec<Term>], limit: usize, most: usize) -> [(Vec<usize>, usize); 2] {
            [Direction::Ascending, Direction::Descending]
                .map(|direction| self.pages(clauses, &Scan::all(direction, limit), most))
        }
    }

    /// So many blocks of one row.
    fn blocks(count: usize, terms: impl Fn(usize) -> Vec<Term>) -> World {
        World::new((0..count).map(|place| (terms(place), true)).collect())
    }

    #[test]
    fn names_that_hardly_ever_come_together_end_a_page_and_the_next_goes_on() {
        let world = blocks(6_000, |place| match place {
            10 | 5_000 => vec![7, 8],
            _ if place.is_multiple_of(2) => vec![7],
            _ => vec![8],
        });
        let [forth, back] = world.both_ways(&[vec![7], vec![8]], 50, 2_000);
        assert_eq!(forth, (vec![10, 5_000], 3));
        assert_eq!(back, (vec![5_000, 10], 3));
    }

    #[test]
    fn names_that_are_in_every_block_but_in_no_row_end_a_page_too() {
        let entry =
            |place: usize| (vec![if place.is_multiple_of(2) { 7 } else { 8 }], place.is_multiple_of(BLOCK_ROWS));
        let world = World::new((0..8_000).map(entry).collect());
        for (shown, pages) in world.both_ways(&[vec![7], vec![8]], 50, 2_000) {
            assert_eq!((shown, pages), (vec![], 5));
        }
    }

    #[test]
    fn a_block_of_any_number_of_rows_ends_a_page_and_the_next_goes_on() {
        let entry =
            |place: usize| (vec![if place == 700 || place == 2_600 { 7 } else { 8 }], place == 0 || place == 100);
        let world = World::new((0..3_000).map(entry).collect());
        let [forth, back] = world.both_ways(&[vec![7]], 50, 500);
        assert_eq!(forth, (vec![700, 2_600], 6));
        assert_eq!(back, (vec![2_600, 700], 6));
    }

    #[test]
    fn a_name_that_is_rare_leads_past_what_the_other_has() {
        let world = blocks(6_000, |place| if place % 1_500 == 700 { vec![7, 8] } else { vec![7] });
        let rare = vec![700, 2_200, 3_700, 5_200];
        // Twenty look-ups are enough, and all chunks of the frequent one would be 188.
        let [forth, back] = world.both_ways(&[vec![7], vec![8]], 50, 20);
        assert_eq!(forth, (rare.clone(), 1));
        assert_eq!(back, (rare.into_iter().rev().collect(), 1));
    }

    #[test]
    fn many_types_beside_a_name_are_compared_and_not_looked_for() {
        let types: Vec<Term> = (100..600).collect();
        let world = blocks(6_000, |place| {
            let kind = 100 + Term::try_from(place % 500).unwrap();
            if place.is_multiple_of(100) { vec![kind, 8] } else { vec![kind] }
        });
        // To compare with 501 names costs 7 for each of 60 blocks; to look for each type in each of them would be 30,000.
        for (shown, pages) in world.both_ways(&[types, vec![8]], 100, 600) {
            assert_eq!((shown.len(), pages), (60, 1));
        }
    }

    #[test]
    fn rows_that_make_no_sense_hide_no_others_whatever_blocks_they_are_in() {
        const COUNT: usize = 1_200;
        let is_damaged = |place: usize| [3, 4, 5, 611, 612].contains(&place);
        // One block, and some that are short, before and after it.
        for long in [0..COUNT, 16..1_100] {
            let entry =
                |place: usize| (vec![7], place == long.start || (place.is_multiple_of(16) && !long.contains(&place)));
            let World { connection, .. } = World::new((0..COUNT).map(entry).collect());
            let mut damage = connection.prepare("UPDATE message SET event_type = 'b' WHERE id = ?").unwrap();
            for place in (0..COUNT).filter(|place| is_damaged(*place)) {
                damage.execute([id(place)]).unwrap();
            }
            for direction in [Direction::Ascending, Direction::Descending] {
                let (mut shown, mut scan) = (Vec::new(), Scan::all(direction, 10));
                loop {
                    let range = Range::of_ids(scan.clone());
                    let sql = "SELECT id, event_type FROM message WHERE application_no = 1 AND id >= ? AND id < ?";
                    let sql = format!("{sql} ORDER BY id {}", range.order);
                    let mut statement = connection.prepare(&sql).unwrap();
                    let read = |low: &[u8], high: &[u8], page: &mut Gathered<usize>| {
                        let rows = statement.query(params![low, high])?;
                        let key = |row: &Row<'_>| Ok(row.get(0)?);
                        page.take(rows, key, |row| {
                            let damage = rusqlite::Error::IntegralValueOutOfRange(1, 0);
                            let makes_sense = row.get::<_, String>(1)? == "a";
                            if makes_sense { Ok((number(&row.get::<_, Id>(0)?), 0)) } else { Err(damage.into()) }
                        })
                    };
                    let list = List { log: MESSAGES, owner: 1, range: &range };
                    let Walked { listed, reached } =
                        list.gather(&connection, vec![vec![7]], Named::Blocks, read).unwrap();
                    let is_over = !listed.cut && listed.rows.len() < scan.limit;
                    let last = listed.rows.last().map(|place| Ksuid::from_bytes(id(*place)));
                    shown.extend(listed.rows);
                    let Some(next) = reached.or(last).filter(|_| !is_over) else { break };
                    match direction {
                        Direction::Ascending => scan.lower = Bound::Excluded(next),
                        Direction::Descending => scan.upper = Bound::Excluded(next),
                    }
                }
                shown.sort_unstable();
                assert!(
                    shown.into_iter().eq((0..COUNT).filter(|place| !is_damaged(*place))),
                    "{direction:?}, {long:?}"
                );
            }
        }
    }

    #[test]
    fn rows_that_a_posting_names_in_vain_end_a_page() {
        // As those of another name with the same hash would.
        let connection = blocks(3_000, |_| vec![7]).connection;
        let range = Range::of_ids(Scan::all(Direction::Ascending, 50));
        let list = List { log: MESSAGES, owner: 1, range: &range };
        let mut count = 0;
        let nothing = |low: &[u8], _: &[u8], _: &mut Gathered<()>| {
            count += usize::from(!low.is_empty());
            Ok(())
        };
        let walked = list.gather(&connection, vec![vec![7]], Named::Rows, nothing).unwrap();
        assert_eq!((count, walked.reached), (PAGE_ROWS, Some(Ksuid::from_bytes(id(PAGE_ROWS - 1)))));
    }

    proptest! {
        #[test]
        fn pages_have_each_row_that_meets_all_clauses_once_and_in_order(
            entries in vec((vec(1..6_i64, 0..3), prop::bool::weighted(0.3)), 0..120),
            clauses in vec(vec(1..6_i64, 0..4), 1..4),
            (limit, most) in (1..6_usize, 1..60_usize),
            (from, to) in (0..130_usize, 0..130_usize),
        ) {
            let world = World::new(entries);
            for direction in [Direction::Ascending, Direction::Descending] {
                let (lower, upper) = (Ksuid::from_bytes(id(from)), Ksuid::from_bytes(id(to)));
                let scan = Scan { lower: Bound::Included(lower), upper: Bound::Excluded(upper), direction, limit };
                let mut want: Vec<usize> =
                    (from..to.min(world.entries.len())).filter(|place| world.meets(*place, &clauses)).collect();
                if direction == Direction::Descending {
                    want.reverse();
                }
                prop_assert_eq!(world.pages(&clauses, &scan, most).0, want);
            }
        }
    }

    #[test]
    fn postings_are_read_in_their_order() {
        for log in [MESSAGES, ATTEMPTS] {
            let Log { postings, owner, .. } = log;
            for order in ["ASC", "DESC"] {
                let walked = format!("{postings} USING PRIMARY KEY ({owner}=? AND term=? AND start>? AND start<?)");
                assert_walks(&chunk_sql(log, order), &walked);
            }
            let walked = match log.postings == MESSAGES.postings {
                true => "message USING COVERING INDEX message_by_id (application_no=? AND id>? AND id<?)",
                false => "attempt USING PRIMARY KEY (endpoint_no=? AND id>? AND id<?)",
            };
            assert_walks(&last_looked_at_sql(log, "DESC"), walked);
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
