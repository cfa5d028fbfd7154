//! Counting attempts by the stretch: how many of about a thousand consecutive ones ended how, so that statistics need not
//! read them all. Runs on the writer's thread.
//!
//! A stretch is some number of whole blocks (see `blocks`). It is counted once, when the next one begins; what comes late
//! is added to it. Between stretches there is no gap. When so many blocks have begun late that a stretch has too many, it is split where
//! the last of them begins: after a clock that was ahead all that comes belongs to the stretch that ends there, until that time has come.

use foldhash::HashMap;
use rusqlite::{Connection, OptionalExtension as _, Statement, params};

use crate::lists::blocks::{BEHIND_ALL, Begun, Id};
use crate::lists::terms::BLOCK;

/// Statistics read up to two stretches, and one row for each of the others.
const STRETCH_BLOCKS: usize = 64;

/// Endpoints whose stretch is remembered.
const MAX_ENDPOINTS: usize = 4_096;

pub(crate) struct Tally<'c> {
    last: Statement<'c>,
    blocks: Statement<'c>,
    covering: Statement<'c>,
    close: Statement<'c>,
    shorten: Statement<'c>,
    late: Statement<'c>,
    open: HashMap<i64, Stretch>,
    /// Blocks of the batch that began in stretches that were counted already.
    late_blocks: Vec<Begun>,
}

/// The stretch that is not counted yet.
struct Stretch {
    start: Id,
    /// How many blocks it has.
    blocks: usize,
}

impl<'c> Tally<'c> {
    pub(crate) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            last: connection.prepare(
                "SELECT coalesce(
                     (SELECT until FROM attempt_tally
                      WHERE endpoint_no = ?1 AND length(start) = 20 AND length(until) = 20 ORDER BY start DESC LIMIT 1),
                     (SELECT min(start) FROM attempt_posting WHERE endpoint_no = ?1 AND term = 0 AND length(start) = 20))",
            )?,
            blocks: connection.prepare(&format!(
                "SELECT count(*) FROM (SELECT 1 FROM attempt_posting
                                       WHERE endpoint_no = ?1 AND term = {BLOCK} AND start >= ?2 AND start < ?3 LIMIT ?4)"
            ))?,
            covering: connection.prepare(
                "SELECT start, until FROM attempt_tally
                 WHERE endpoint_no = ?1 AND start <= ?2 AND length(start) = 20 AND length(until) = 20
                 ORDER BY start DESC LIMIT 1",
            )?,
            close: connection.prepare(
                "INSERT INTO attempt_tally (endpoint_no, start, until, succeeded, failed)
                 SELECT ?1, ?2, ?3, count(*) FILTER (WHERE succeeded), count(*) FILTER (WHERE NOT succeeded)
                 FROM attempt WHERE endpoint_no = ?1 AND id >= ?2 AND id < ?3",
            )?,
            shorten: connection.prepare(
                "UPDATE attempt_tally
                 SET until = ?3, succeeded = max(0, attempt_tally.succeeded - rest.succeeded),
                     failed = max(0, attempt_tally.failed - rest.failed)
                 FROM (SELECT succeeded, failed FROM attempt_tally WHERE endpoint_no = ?1 AND start = ?3) AS rest
                 WHERE endpoint_no = ?1 AND start = ?2",
            )?,
            late: connection.prepare(
                "UPDATE attempt_tally
                 SET succeeded = attempt_tally.succeeded + added.succeeded,
                     failed = failed + NOT added.succeeded
                 FROM (SELECT succeeded FROM attempt WHERE endpoint_no = ?1 AND id = ?2) AS added
                 WHERE endpoint_no = ?1 AND until > ?2
                     AND start = (SELECT max(start) FROM attempt_tally WHERE endpoint_no = ?1 AND start <= ?2)",
            )?,
            open: HashMap::default(),
            late_blocks: Vec::new(),
        })
    }

    /// The transaction came to nothing.
    pub(crate) fn forget(&mut self) {
        self.open.clear();
        self.late_blocks.clear();
    }

    /// Counts or blocks of an endpoint were removed.
    pub(crate) fn forget_owner(&mut self, endpoint: i64) {
        self.open.remove(&endpoint);
    }

    /// A block began. Ends the stretch before it if that is long enough.
    pub(crate) fn block_began(&mut self, begun: &Begun) -> rusqlite::Result<()> {
        let Begun { owner, start } = *begun;
        if let Some(stretch) = self.open.get_mut(&owner) {
            stretch.blocks += usize::from(start > stretch.start);
        } else if self.load(owner)?.is_none() {
            return Ok(());
        }
        let Some(stretch) = self.open.get_mut(&owner) else { return Ok(()) };
        if start < stretch.start {
            self.late_blocks.push(Begun { owner, start });
            return Ok(());
        }
        if stretch.blocks <= STRETCH_BLOCKS || start == stretch.start {
            return Ok(());
        }
        self.close.execute(params![owner, stretch.start, start])?;
        *stretch = Stretch { start, blocks: 1 };
        Ok(())
    }

    fn load(&mut self, owner: i64) -> rusqlite::Result<Option<()>> {
        let start: Option<Id> = self.last.query_row([owner], |row| row.get(0)).optional()?.flatten();
        let Some(start) = start else { return Ok(None) };
        let blocks = self.blocks.query_row(params![owner, start, BEHIND_ALL, STRETCH_BLOCKS + 1], |row| row.get(0))?;
        if self.open.len() >= MAX_ENDPOINTS {
            self.open.clear();
        }
        self.open.insert(owner, Stretch { start, blocks });
        Ok(Some(()))
    }

    /// All attempts that are stored are counted that belong to counted stretches. Splits those of them that became too long. What is
    /// read for that is the upper part; it is short, because time goes on.
    pub(crate) fn placed(&mut self) -> rusqlite::Result<()> {
        for Begun { owner, start } in std::mem::take(&mut self.late_blocks) {
            let stretch = self.covering.query_row(params![owner, start], |row| Ok((row.get(0)?, row.get(1)?)));
            let Some((from, until)): Option<(Id, Id)> = stretch.optional()?.filter(|(_, until)| *until > start) else {
                continue;
            };
            let before: usize = self.blocks.query_row(params![owner, from, start, STRETCH_BLOCKS], |row| row.get(0))?;
            if before >= STRETCH_BLOCKS {
                self.close.execute(params![owner, start, until])?;
                self.shorten.execute(params![owner, from, start])?;
            }
        }
        Ok(())
    }

    /// An attempt was stored after blocks that are later than it. Adds it to its stretch, if that was counted already.
    pub(crate) fn came_late(&mut self, owner: i64, id: &Id) -> rusqlite::Result<()> {
        self.late.execute(params![owner, id]).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use postrider_domain::ids::Ksuid;
    use postrider_store::EndpointKey;

    use super::*;
    use crate::lists::blocks::{ATTEMPTS, BLOCK_ROWS, Blocks, Rows};

    fn id(second: u32, number: u32) -> Id {
        let mut id = [0; 20];
        id[..4].copy_from_slice(&second.to_be_bytes());
        id[16..].copy_from_slice(&number.to_be_bytes());
        id
    }

    /// Stores these batches of attempts to one endpoint, each in a batch of its own.
    fn stored(batches: impl IntoIterator<Item = Vec<Id>>) -> Connection {
        let connection = crate::engine::plans::database();
        let insert =
            "INSERT INTO attempt (endpoint_no, id, message_no, url_no, number, trigger, started_at, duration_ms,
                 succeeded, status_code) VALUES (1, ?, 1, 1, 1, 0, 0, 0, 1, 200)";
        let mut insert = connection.prepare(insert).unwrap();
        let mut blocks = Blocks::prepare(&connection, ATTEMPTS).unwrap();
        let tally = RefCell::new(Tally::prepare(&connection).unwrap());
        for ids in batches {
            let mut rows = Rows::default();
            blocks.load(1).unwrap();
            for id in ids {
                insert.execute([id]).unwrap();
                rows.push(1, id, |terms| terms.push(7));
            }
            let begun = |begun| tally.borrow_mut().block_began(&begun);
            blocks.place(&mut rows, begun, |owner, id| tally.borrow_mut().came_late(owner, id)).unwrap();
            tally.borrow_mut().placed().unwrap();
        }
        drop((insert, blocks, tally));
        connection
    }

    /// How many stretches there are. They have no gap, each has what is said of it, and none more than so many.
    fn stretches(connection: &Connection, most: usize) -> usize {
        let each = "SELECT start, until, succeeded, failed,
                 (SELECT count(*) FROM attempt WHERE id >= start AND id < until) FROM attempt_tally ORDER BY start";
        let mut each = connection.prepare(each).unwrap();
        type Stretch = (Id, Id, usize, usize, usize);
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?));
        let all: Vec<Stretch> = each.query_map([], read).unwrap().map(Result::unwrap).collect();
        assert!(all.iter().all(|(_, _, succeeded, failed, count)| (succeeded, *failed) == (count, 0)), "{all:?}");
        assert!(all.iter().all(|(_, _, succeeded, ..)| *succeeded <= most), "{all:?}");
        assert!(all.windows(2).all(|pair| pair[0].1 == pair[1].0), "{all:?}");
        all.len()
    }

    #[test]
    fn what_comes_late_below_what_a_clock_dated_ahead_is_counted_once_and_by_the_stretch() {
        let first = (0..40).map(|number| id(1, number)).collect();
        let ahead = vec![id(4_000_000_000, 0)];
        let late = (0..500).map(|batch| {
            // Some of each batch belong to what was counted already.
            let mut ids: Vec<_> = (0..8).map(|number| id(2, batch * 8 + number)).collect();
            ids.push(id(1, 1_000 + batch));
            ids
        });
        let connection = stored([first, ahead].into_iter().chain(late));
        assert!(stretches(&connection, 3_000) >= 2);
    }

    #[test]
    fn statistics_read_a_few_stretches_though_a_clock_was_ahead_for_many() {
        let times = |second: u32, count: u32| (0..count / 10).map(move |batch| (second, batch));
        // As long as the clock is ahead, and when it is right again.
        let all = |late: u32| times(1, 40).chain(times(4_000_000_000, 2_000)).chain(times(2, late));
        let cost = |late: u32| {
            let batches =
                all(late).map(|(second, batch)| (0..10).map(|number| id(second, batch * 10 + number)).collect());
            let mut connection = stored(batches);
            assert!(stretches(&connection, 3 * STRETCH_BLOCKS * BLOCK_ROWS) > 3);
            let mut found = None;
            let steps = crate::engine::plans::steps(&mut connection, |connection| {
                let (from, to) = (Ksuid::from_bytes(id(0, 0)), Ksuid::from_bytes(id(3, 0)));
                found = Some(crate::areas::attempts::stats(connection, EndpointKey(1), from, to).unwrap());
            });
            assert_eq!(found.unwrap().succeeded, u64::from(40 + late));
            steps
        };
        let [few, many] = [5_000, 15_000].map(cost);
        assert!(many <= few + few / 2 + 5, "{few} to {many} thousand steps");
    }
}
