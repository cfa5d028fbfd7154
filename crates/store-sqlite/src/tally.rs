//! Counting attempts by the stretch: how many of about a thousand consecutive ones ended how, so that statistics need not
//! read them all. Runs on the writer's thread.
//!
//! A stretch is some number of whole blocks (see `blocks`). It is counted once, when the next one begins; what comes late
//! is added to it. Between stretches there is no gap.

use foldhash::HashMap;
use rusqlite::{Connection, OptionalExtension as _, Statement, params};

use crate::blocks::{Begun, Id};
use crate::terms::BLOCK;

/// Statistics read up to two stretches, and one row for each of the others.
const STRETCH_BLOCKS: usize = 64;

/// Endpoints whose stretch is remembered.
const MAX_ENDPOINTS: usize = 4_096;

pub(crate) struct Tally<'c> {
    last: Statement<'c>,
    blocks: Statement<'c>,
    close: Statement<'c>,
    late: Statement<'c>,
    open: HashMap<i64, Stretch>,
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
                                       WHERE endpoint_no = ?1 AND term = {BLOCK} AND start >= ?2 LIMIT ?3)"
            ))?,
            close: connection.prepare(
                "INSERT INTO attempt_tally (endpoint_no, start, until, succeeded, failed)
                 SELECT ?1, ?2, ?3, count(*) FILTER (WHERE succeeded), count(*) FILTER (WHERE NOT succeeded)
                 FROM attempt WHERE endpoint_no = ?1 AND id >= ?2 AND id < ?3",
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
        })
    }

    /// The transaction came to nothing.
    pub(crate) fn forget(&mut self) {
        self.open.clear();
    }

    /// Counts or blocks of an endpoint were removed.
    pub(crate) fn forget_owner(&mut self, endpoint: i64) {
        self.open.remove(&endpoint);
    }

    /// A block began. Ends the stretch before it if that is long enough.
    pub(crate) fn block_began(&mut self, begun: &Begun) -> rusqlite::Result<()> {
        let Begun { owner, start } = *begun;
        if let Some(stretch) = self.open.get_mut(&owner) {
            // What came late may have begun it in a stretch that is counted already.
            stretch.blocks += usize::from(start > stretch.start);
        } else if self.load(owner)?.is_none() {
            return Ok(());
        }
        let is_long = |stretch: &&mut Stretch| stretch.blocks > STRETCH_BLOCKS && stretch.start < start;
        let Some(stretch) = self.open.get_mut(&owner).filter(is_long) else { return Ok(()) };
        self.close.execute(params![owner, stretch.start, start])?;
        *stretch = Stretch { start, blocks: 1 };
        Ok(())
    }

    fn load(&mut self, owner: i64) -> rusqlite::Result<Option<()>> {
        let start: Option<Id> = self.last.query_row([owner], |row| row.get(0)).optional()?.flatten();
        let Some(start) = start else { return Ok(None) };
        let blocks = self.blocks.query_row(params![owner, start, STRETCH_BLOCKS + 1], |row| row.get(0))?;
        if self.open.len() >= MAX_ENDPOINTS {
            self.open.clear();
        }
        self.open.insert(owner, Stretch { start, blocks });
        Ok(Some(()))
    }

    /// An attempt was stored after blocks that are later than it. Adds it to its stretch, if that was counted already.
    pub(crate) fn came_late(&mut self, owner: i64, id: &Id) -> rusqlite::Result<()> {
        self.late.execute(params![owner, id]).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::blocks::{ATTEMPTS, Blocks, Rows};

    fn id(second: u32, number: u32) -> Id {
        let mut id = [0; 20];
        id[..4].copy_from_slice(&second.to_be_bytes());
        id[16..].copy_from_slice(&number.to_be_bytes());
        id
    }

    #[test]
    fn what_comes_late_below_what_a_clock_dated_ahead_is_counted_once_and_by_the_stretch() {
        let connection = crate::plans::database();
        let insert =
            "INSERT INTO attempt (endpoint_no, id, message_no, url_no, number, trigger, started_at, duration_ms,
                 succeeded, status_code) VALUES (1, ?, 1, 1, 1, 0, 0, 0, 1, 200)";
        let mut insert = connection.prepare(insert).unwrap();
        let mut blocks = Blocks::prepare(&connection, ATTEMPTS).unwrap();
        let tally = RefCell::new(Tally::prepare(&connection).unwrap());
        let mut store = |ids: Vec<Id>| {
            let mut rows = Rows::default();
            blocks.load(1).unwrap();
            for id in ids {
                insert.execute([id]).unwrap();
                rows.push(1, id, |terms| terms.push(7));
            }
            let begun = |begun| tally.borrow_mut().block_began(&begun);
            blocks.place(&mut rows, begun, |owner, id| tally.borrow_mut().came_late(owner, id)).unwrap();
        };
        store((0..40).map(|number| id(1, number)).collect());
        store(vec![id(4_000_000_000, 0)]);
        for batch in 0..500 {
            // Some of each batch belong to what was counted already.
            let mut ids: Vec<_> = (0..8).map(|number| id(2, batch * 8 + number)).collect();
            ids.push(id(1, 1_000 + batch));
            store(ids);
        }
        let counted = "SELECT count(*), sum(succeeded) = (SELECT count(*) FROM attempt WHERE id >= min(start) AND id < max(until)),
                 max(succeeded) FROM attempt_tally";
        let (stretches, is_true, most): (usize, bool, usize) =
            connection.query_row(counted, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        assert!(is_true && stretches >= 2, "{stretches}");
        assert!(most < 3_000, "{most}");
        let gaps = "SELECT count(*) FROM attempt_tally AS one WHERE EXISTS (SELECT 1 FROM attempt_tally WHERE start > one.start)
                 AND NOT EXISTS (SELECT 1 FROM attempt_tally WHERE start = one.until)";
        assert_eq!(connection.query_row(gaps, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    }
}
