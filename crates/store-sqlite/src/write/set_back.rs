//! A clock that was ahead and was set right: what was dated by it must not sleep until the right clock gets there.
//!
//! While a server runs, its clock never goes back, so this is found out at a start. The store notes the latest time that it
//! was shown, with the commits that come anyway. If that is later than the present, each waiting delivery is looked at: one
//! that was never tried is due now, unless it was scheduled for later; one whose last attempt ended later than now waits for
//! as long from now as it was to wait from then. What holds an endpoint back moves by as much as the clock did.

use std::time::Duration;

use postrider_domain::time::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, params};

use crate::engine::decode::{SqlError, readable};
use crate::engine::range;
use crate::write::deliveries::{MISDATED_ROWS, Misdated, decode_misdated, make_due};

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

/// Where a walk through those is: an endpoint, an instant, a message. As they are stored, whether they make sense or not.
pub(crate) type Place = [Value; 3];

/// Before the first of them.
pub(crate) const FIRST: Place = [Value::Integer(i64::MIN), Value::Integer(i64::MIN), Value::Integer(i64::MIN)];

/// The next of them.
pub(crate) struct Walked {
    /// Those that make sense.
    pub(crate) found: Vec<Waiting>,
    /// Where the walk goes on, unless that was the end of it.
    pub(crate) next: Option<Place>,
}

impl Waiting {
    /// Has it wait from `now`; returns whether it was misdated.
    pub(crate) fn mend(&self, connection: &Connection, now: i64) -> Result<bool, SqlError> {
        let Some(wait) = self.wait else { return Ok(false) };
        make_due(connection, &self.row, now.saturating_add(wait))?;
        Ok(true)
    }
}

/// Deliveries behind (?1, ?2, ?3) that are due after ?4, from each endpoint straight to those; from the one at which the walk is
/// straight to its place. In the order of their key: endpoints come as they are found, one after the other. If SQLite were asked
/// for it, it would read all that waits to sort it, for each slice. What is mended comes to lie before its former place, so that a
/// walk meets it once.
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
     WHERE due_at >= CASE WHEN busy.endpoint_no = ?1 THEN max(?2, ?4 + 1) ELSE ?4 + 1 END
         AND (delivery.endpoint_no, due_at, message_no) > (?1, ?2, ?3)
     LIMIT ?5";

/// The next slice of what waits.
pub(crate) fn waiting(connection: &Connection, after: &Place, now: i64) -> Result<Walked, SqlError> {
    let [endpoint, due_at, message] = after;
    let mut statement = connection.prepare_cached(WAITING_SQL)?;
    let mut rows = statement.query(params![endpoint, due_at, message, now, range::limit(MISDATED_ROWS)])?;
    let (mut found, mut seen, mut next) = (Vec::new(), 0, None);
    while let Some(row) = rows.next()? {
        found.extend(readable(
            decode_misdated(row).and_then(|misdated| Ok(Waiting { row: misdated, wait: row.get(5)? })),
        )?);
        seen += 1;
        if seen == MISDATED_ROWS {
            next = Some([row.get(0)?, row.get(1)?, row.get(2)?]);
        }
    }
    Ok(Walked { found, next })
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

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;
    use crate::engine::plans::{database, plan};

    const NOW: i64 = 1_767_323_045_000_000;

    #[test]
    fn what_waits_is_walked_in_order_from_where_the_walk_is() {
        let plan = plan(WAITING_SQL);
        let walked = "SEARCH delivery USING PRIMARY KEY (endpoint_no=? AND due_at>?)".to_owned();
        assert!(plan.contains(&walked), "{plan:#?}");
        assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{plan:#?}");
    }

    /// What SQLite does to find all that waits of so many endpoints, of which nothing is misdated.
    fn work(endpoints: i64, count: i64) -> i32 {
        let connection = database();
        let rows = "WITH RECURSIVE n(no) AS (SELECT 1 UNION ALL SELECT no + 1 FROM n WHERE no < ?1)
             INSERT INTO delivery (endpoint_no, due_at, message_no, made, trigger)
             SELECT no % ?2, ?3 + no / 3, no, 1, 0 FROM n";
        connection.execute(rows, [count, endpoints, NOW + 3]).unwrap();
        let mut statement = connection.prepare(WAITING_SQL).unwrap();
        let (mut place, mut seen) = ((i64::MIN, i64::MIN, i64::MIN), 0);
        loop {
            let (endpoint, due_at, message) = place;
            let found = statement
                .query_map(params![endpoint, due_at, message, NOW, range::limit(MISDATED_ROWS)], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })
                .unwrap();
            let found: Vec<(i64, i64, i64)> = found.collect::<Result<_, _>>().unwrap();
            assert!(found.is_sorted() && found.first().is_none_or(|first| *first > place));
            seen += found.len() as i64;
            match found.last() {
                Some(last) if found.len() == MISDATED_ROWS => place = *last,
                _ => break,
            }
        }
        assert_eq!(seen, count);
        statement.get_status(StatementStatus::VmStep)
    }

    #[test]
    fn what_waits_is_found_in_time_by_its_number_and_not_by_the_square_of_it() {
        for endpoints in [1, 40] {
            let (few, many) = (work(endpoints, 4_000), work(endpoints, 16_000));
            assert!(many < 5 * few, "{endpoints}: {few} steps for 4,000, {many} for 16,000");
        }
    }
}
