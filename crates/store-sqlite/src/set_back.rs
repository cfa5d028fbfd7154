//! A clock that was ahead and was set right: what was dated by it must not sleep until the right clock gets there.
//!
//! While a server runs, its clock never goes back, so this is found out at a start. The store notes the latest time that it
//! was shown, with the commits that come anyway. If that is later than the present, each waiting delivery is looked at: one
//! that was never tried is due now, unless it was scheduled for later; one whose last attempt ended later than now waits for
//! as long from now as it was to wait from then. What holds an endpoint back moves by as much as the clock did.

use std::time::Duration;

use postrider_domain::time::Timestamp;
use rusqlite::{Connection, Row, params};

use crate::decode::{SqlError, all, readable};
use crate::range;
use crate::work::{MISDATED_ROWS, Misdated, decode_misdated, make_due};

/// Notes that the clock shows ?1, if that is a second or more later than what was noted.
pub(crate) const NOTE_SQL: &str = "INSERT INTO sequence (name, next) VALUES ('shown', ?1)
     ON CONFLICT DO UPDATE SET next = excluded.next WHERE typeof(next) <> 'integer' OR next < excluded.next - 1000000";

/// Notes that the clock shows `now`.
pub(crate) fn note(connection: &Connection, now: Timestamp) -> Result<(), SqlError> {
    connection.prepare_cached(NOTE_SQL)?.execute([now.as_micros()])?;
    Ok(())
}

/// By how much the clock is behind what it has shown; by a store of before this was noted, what messages were dated with. What makes
/// no sense says nothing of it.
pub(crate) fn behind(connection: &Connection, now: Timestamp) -> Result<Duration, SqlError> {
    let shown = connection.query_row(
        "SELECT coalesce(
                 (SELECT next FROM sequence WHERE name = 'shown'),
                 max(coalesce((SELECT next FROM sequence WHERE name = 'seen'), 0),
                     coalesce((SELECT created_at FROM message ORDER BY no DESC LIMIT 1), 0)))",
        [],
        |row| row.get(0),
    );
    let shown: Option<i64> = readable(shown.map_err(SqlError::from))?;
    Ok(shown.map_or(Duration::ZERO, |shown| Timestamp::from_micros(shown).since(now)))
}

/// A delivery that is due later than now.
pub(crate) struct Waiting {
    pub(crate) row: Misdated,
    /// How long it is to wait from now, if that is not until it is due.
    wait: Option<i64>,
}

/// Where a walk through those is: an endpoint, an instant, a message.
pub(crate) type Place = (i64, i64, i64);

impl Waiting {
    pub(crate) fn place(&self) -> Place {
        (self.row.endpoint, self.row.due_at, self.row.message)
    }

    /// Has it wait from `now`; returns whether it was misdated.
    pub(crate) fn mend(&self, connection: &Connection, now: i64) -> Result<bool, SqlError> {
        let Some(wait) = self.wait else { return Ok(false) };
        make_due(connection, &self.row, now.saturating_add(wait))?;
        Ok(true)
    }
}

/// Deliveries behind (?1, ?2, ?3) that are due after ?4, from each endpoint straight to those. What is mended comes to lie
/// before its former place, so that a walk meets it once.
const WAITING_SQL: &str = "WITH RECURSIVE busy (endpoint_no) AS (
         SELECT min(endpoint_no) FROM delivery WHERE endpoint_no >= ?1
         UNION ALL
         SELECT (SELECT min(delivery.endpoint_no) FROM delivery WHERE delivery.endpoint_no > busy.endpoint_no)
         FROM busy WHERE busy.endpoint_no IS NOT NULL
     )
     SELECT delivery.endpoint_no, due_at, message_no, made, trigger, CASE
         WHEN made > 0 THEN (
             SELECT max(due_at - started_at - duration_ms * 1000, 0)
             FROM attempt INDEXED BY attempt_by_message
             WHERE attempt.message_no = delivery.message_no AND attempt.endpoint_no = delivery.endpoint_no
                 AND next_attempt_at = due_at AND started_at + duration_ms * 1000 > ?4
             LIMIT 1)
         WHEN NOT EXISTS (SELECT 1 FROM message WHERE no = message_no AND deliver_at = due_at) THEN 0
     END
     FROM busy CROSS JOIN delivery ON delivery.endpoint_no = busy.endpoint_no
     WHERE due_at > ?4 AND (delivery.endpoint_no, due_at, message_no) > (?1, ?2, ?3)
     ORDER BY delivery.endpoint_no, due_at, message_no LIMIT ?5";

/// The next slice of what waits.
pub(crate) fn waiting(connection: &Connection, after: Place, now: i64) -> Result<Vec<Waiting>, SqlError> {
    let (endpoint, due_at, message) = after;
    let mut statement = connection.prepare_cached(WAITING_SQL)?;
    let rows = statement.query(params![endpoint, due_at, message, now, range::limit(MISDATED_ROWS)])?;
    all(rows, |row: &Row<'_>| Ok(Waiting { row: decode_misdated(row)?, wait: row.get(5)? }))
}

/// Has endpoints held back until as long from now as they were to be when the clock was last seen, and notes that the clock
/// was set back.
pub(crate) fn end(connection: &Connection, now: i64, behind: Duration) -> Result<(), SqlError> {
    let behind = i64::try_from(behind.as_micros()).unwrap_or(i64::MAX);
    connection.execute(
        "UPDATE endpoint_hold SET not_before = max(?1, not_before - ?2) WHERE not_before > ?1",
        [now, behind],
    )?;
    connection.execute("INSERT OR REPLACE INTO sequence (name, next) VALUES ('shown', ?)", [now])?;
    Ok(())
}
