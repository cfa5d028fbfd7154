//! Deliveries in the work table, and the index of wakes that says when each endpoint is due: what every other file uses that adds one,
//! makes one due, or changes whom it goes to.
//!
//! Whatever adds a delivery lowers its endpoint's wake in the same transaction; whatever makes one due that was not keeps its message
//! from being removed.

use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::HoldReason;
use postrider_domain::time::Timestamp;
use postrider_store::{EndpointKey, MAX_ATTEMPTS_OF_MESSAGE, MAX_MANUAL_OF_ENDPOINT, MessageKey};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::engine::decode::{SqlError, all};
use crate::engine::range;
use crate::write::set_back;

/// In `delivery.trigger` beside the codes of [`Trigger`](postrider_domain::attempt::Trigger): by the schedule, but not
/// handed over by the accept commit, because it is due later, or was added later.
pub(crate) const SCHEDULED_LATER: u8 = 2;

const MANUAL_SQL: &str = "SELECT count(*) FROM (
         SELECT 1 FROM delivery INDEXED BY delivery_manual WHERE endpoint_no = ? AND trigger = 1 LIMIT ?)";

/// Whether so many deliveries wait at an endpoint that somebody asked for that nobody may ask for more.
pub(crate) fn is_full_of_manual(connection: &Connection, endpoint: EndpointKey) -> Result<bool, SqlError> {
    let mut statement = connection.prepare_cached(MANUAL_SQL)?;
    let waiting: usize =
        statement.query_row(params![endpoint.0, range::limit(MAX_MANUAL_OF_ENDPOINT)], |row| row.get(0))?;
    Ok(waiting >= MAX_MANUAL_OF_ENDPOINT)
}

const WAITING_SQL: &str = "SELECT count(*) FROM (
         SELECT 1 FROM delivery INDEXED BY delivery_manual
         WHERE endpoint_no = ? AND message_no = ? AND trigger = 1 LIMIT ?)";

const WORN_SQL: &str = "SELECT 1 FROM attempt INDEXED BY attempt_by_message WHERE message_no = ? AND endpoint_no = ?
     LIMIT 1 OFFSET ?";

/// Whether a message was, or is to be, attempted at an endpoint so often that nobody can have it sent there again. So what
/// is logged grows with what is sent and with the endpoints that it can be sent to, and not with how often somebody asks.
pub(crate) fn is_worn(connection: &Connection, endpoint: EndpointKey, message: MessageKey) -> Result<bool, SqlError> {
    let waiting: usize = connection
        .prepare_cached(WAITING_SQL)?
        .query_row(params![endpoint.0, message.0, range::limit(MAX_ATTEMPTS_OF_MESSAGE)], |row| row.get(0))?;
    let Some(last) = (MAX_ATTEMPTS_OF_MESSAGE - 1).checked_sub(waiting) else { return Ok(true) };
    Ok(connection.prepare_cached(WORN_SQL)?.exists(params![message.0, endpoint.0, range::limit(last)])?)
}

/// Adds a manual delivery that is due at `now`, or as soon after it as no other delivery of this message is due.
pub(crate) fn add_manual(
    connection: &Connection,
    endpoint: EndpointKey,
    message: MessageKey,
    now: Timestamp,
) -> Result<(), SqlError> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO delivery (endpoint_no, due_at, message_no, made, trigger) VALUES (?, ?, ?, 0, ?)
         ON CONFLICT DO NOTHING",
    )?;
    let mut due_at = now.as_micros();
    while insert.execute(params![endpoint.0, due_at, message.0, Trigger::Manual.code()])? == 0 {
        due_at += 1;
    }
    hold(connection, message)?;
    set_back::note(connection, now)?;
    lower_wake(connection, endpoint, now)
}

/// Puts endpoint ?1 into the index of wakes at ?2, or leaves it there earlier; at the end of what holds it back, if that is
/// later.
pub(crate) const LOWER_WAKE_SQL: &str = "INSERT INTO wake (endpoint_no, due_at)
     VALUES (?1, max(?2, coalesce((SELECT not_before FROM endpoint_hold WHERE endpoint_no = ?1), ?2)))
     ON CONFLICT DO UPDATE SET due_at = excluded.due_at WHERE excluded.due_at < wake.due_at";

/// To be called in the transaction that adds a delivery by something other than accept.
pub(crate) fn lower_wake(connection: &Connection, endpoint: EndpointKey, at: Timestamp) -> Result<(), SqlError> {
    connection.prepare_cached(LOWER_WAKE_SQL)?.execute(params![endpoint.0, at.as_micros()])?;
    Ok(())
}

/// The endpoint has another receiver now, or wants nothing any more: what held it back is over, and answers that are still to come from
/// the former one do not count ([`Target::receiver`]). With
/// `now`, if it had asked to be left alone, retries that are due at the end of that or later are due then: those of the
/// [`MISDATED_ROWS`] deliveries that come first, which [`put_off`] counts.
pub(crate) fn change_receiver(
    connection: &Connection,
    endpoint: EndpointKey,
    now: Option<Timestamp>,
) -> Result<(), SqlError> {
    connection
        .prepare_cached("UPDATE endpoint SET receiver = abs(CAST(receiver AS INTEGER)) + 1 WHERE no = ?")?
        .execute([endpoint.0])?;
    let lifted: Option<(i64, String)> = connection
        .prepare_cached("DELETE FROM endpoint_hold WHERE endpoint_no = ? RETURNING not_before, reason")?
        .query_row([endpoint.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if lifted.is_some() {
        // Whoever remembers it comes and finds that it is over, also if nothing is pending yet.
        lower_wake(connection, endpoint, Timestamp::EPOCH)?;
    }
    let Some((until, now)) = lifted.filter(|(_, reason)| reason == HoldReason::Asked.as_str()).zip(now) else {
        return Ok(());
    };
    let now = now.as_micros();
    let mut statement = connection.prepare_cached(PUT_OFF_SQL)?;
    let rows = statement.query(params![endpoint.0, until.0.max(now + 1), range::limit(MISDATED_ROWS)])?;
    for (due, row) in (now..).zip(all(rows, decode_misdated)?) {
        make_due(connection, &row, due)?;
    }
    Ok(())
}

/// Retries among the first ?3 deliveries of endpoint ?1 that are due at ?2 or later.
const PUT_OFF_SQL: &str = "SELECT endpoint_no, due_at, message_no, made, trigger FROM (
         SELECT endpoint_no, due_at, message_no, made, trigger FROM delivery
         WHERE endpoint_no = ?1 AND due_at >= ?2 ORDER BY due_at, message_no LIMIT ?3
     ) WHERE made > 0";

/// How many retries [`change_receiver`] would make due; each counts as a row.
pub(crate) fn put_off(connection: &Connection, endpoint: EndpointKey) -> Result<usize, SqlError> {
    let asked: Option<i64> = connection
        .prepare_cached("SELECT not_before FROM endpoint_hold WHERE endpoint_no = ? AND reason = ?")?
        .query_row(params![endpoint.0, HoldReason::Asked.as_str()], |row| row.get(0))
        .optional()?;
    let Some(until) = asked else { return Ok(0) };
    let mut statement = connection.prepare_cached(&format!("SELECT count(*) FROM ({PUT_OFF_SQL})"))?;
    Ok(statement.query_row(params![endpoint.0, until, range::limit(MISDATED_ROWS)], |row| row.get(0))?)
}

/// Puts the endpoint into the index of wakes as early as something of it is due, or leaves it there earlier; at the end of
/// what holds it back, if that is later. To be called in the transaction that changes it.
pub(crate) fn look_again(connection: &Connection, endpoint: EndpointKey) -> Result<(), SqlError> {
    let first: Option<i64> = connection
        .prepare_cached("SELECT min(due_at) FROM delivery WHERE endpoint_no = ?")?
        .query_row([endpoint.0], |row| row.get(0))?;
    first.map_or(Ok(()), |due_at| lower_wake(connection, endpoint, Timestamp::from_micros(due_at)))
}

/// Keeps a message that is about to be removed, because there is something to deliver of it again.
pub(crate) fn hold(connection: &Connection, message: MessageKey) -> Result<(), SqlError> {
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO held_message (no) SELECT ?1 FROM sequence WHERE name = 'history' AND next >= ?1",
        )?
        .execute([message.0])?;
    Ok(())
}

/// How many deliveries are made due at a time.
pub(crate) const MISDATED_ROWS: usize = 1_000;

/// A delivery that is due too late.
pub(crate) struct Misdated {
    pub(crate) endpoint: i64,
    pub(crate) due_at: i64,
    pub(crate) message: i64,
    made: i64,
    trigger: u8,
}

pub(crate) fn decode_misdated(row: &Row<'_>) -> Result<Misdated, SqlError> {
    Ok(Misdated {
        endpoint: row.get(0)?,
        due_at: row.get(1)?,
        message: row.get(2)?,
        made: row.get(3)?,
        trigger: row.get(4)?,
    })
}

/// Makes a delivery due at `due`, or at the next microsecond at which its message is not due there already, and has the log
/// say so. Who looks for messages that may be removed may be past where it is then, and not yet where it was: so it is noted. Whoever makes many due takes another microsecond for each: to look for a free one again and again would take the
/// square of their number.
pub(crate) fn make_due(connection: &Connection, row: &Misdated, mut due: i64) -> Result<(), SqlError> {
    let Misdated { endpoint, due_at, message, made, trigger } = row;
    connection
        .prepare_cached("DELETE FROM delivery WHERE endpoint_no = ? AND due_at = ? AND message_no = ?")?
        .execute(params![endpoint, due_at, message])?;
    // Nobody holds it, as whatever is added later.
    let is_fresh = *made == 0 && *trigger == Trigger::Scheduled.code();
    let trigger = if is_fresh { SCHEDULED_LATER } else { *trigger };
    let mut insert = connection.prepare_cached(
        "INSERT INTO delivery (endpoint_no, due_at, message_no, made, trigger) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT DO NOTHING",
    )?;
    while insert.execute(params![endpoint, due, message, made, trigger])? == 0 {
        due += 1;
    }
    hold(connection, MessageKey(*message))?;
    connection
        .prepare_cached(
            "UPDATE attempt SET next_attempt_at = ?4 WHERE next_attempt_at = ?3 AND (endpoint_no, id) IN (
                 SELECT endpoint_no, id FROM attempt INDEXED BY attempt_by_message WHERE message_no = ?2 AND endpoint_no = ?1)",
        )?
        .execute(params![endpoint, message, due_at, due])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_an_endpoint_has_waiting_no_more_is_looked_at_than_is_made_due() {
        let plan = crate::engine::plans::plan(PUT_OFF_SQL);
        assert!(
            plan.contains(&"SEARCH delivery USING PRIMARY KEY (endpoint_no=? AND due_at>?)".to_owned()),
            "{plan:#?}"
        );
        assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{plan:#?}");
        let connection = crate::engine::plans::database();
        let rows = "INSERT INTO delivery (endpoint_no, due_at, message_no, made, trigger)
             VALUES (1, 5, 1, 0, 2), (1, 6, 2, 1, 0), (1, 7, 3, 0, 2), (1, 8, 4, 1, 0)";
        connection.execute_batch(rows).unwrap();
        let mut put_off = connection.prepare(PUT_OFF_SQL).unwrap();
        let found = put_off.query_map([1, 5, 3], |row| row.get(2)).unwrap();
        assert_eq!(found.collect::<Result<Vec<i64>, _>>().unwrap(), [2]);
    }

    #[test]
    fn what_is_made_due_earlier_keeps_its_message() {
        let connection = crate::engine::plans::database();
        let rows = "INSERT INTO delivery (endpoint_no, due_at, message_no, made, trigger) VALUES (1, 90, 5, 1, 0), (1, 91, 11, 1, 0);
             INSERT INTO endpoint_hold (endpoint_no, not_before, reason) VALUES (1, 50, 'retry-after');
             UPDATE sequence SET next = 10 WHERE name = 'history';";
        connection.execute_batch(rows).unwrap();
        change_receiver(&connection, EndpointKey(1), Some(Timestamp::from_micros(20))).unwrap();
        let due: i64 = connection.query_row("SELECT max(due_at) FROM delivery", [], |row| row.get(0)).unwrap();
        assert!(due < 50);
        // The other one is not old enough to be removed.
        let mut held = connection.prepare("SELECT no FROM held_message").unwrap();
        let held: Vec<i64> = held.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(held, [5]);
    }

    #[test]
    fn sending_again_counts_what_waits_of_this_message_however_much_else_does() {
        let index = "delivery USING COVERING INDEX delivery_manual";
        let attempts = "attempt USING COVERING INDEX attempt_by_message";
        for (sql, walked) in [
            (MANUAL_SQL, format!("{index} (endpoint_no=?)")),
            (WAITING_SQL, format!("{index} (endpoint_no=? AND message_no=?)")),
            (WORN_SQL, format!("{attempts} (message_no=? AND endpoint_no=?)")),
        ] {
            let plan = crate::engine::plans::plan(sql);
            // What is scanned is what the search found, and no more than is counted.
            let costly = |step: &String| {
                step.contains("TEMP B-TREE") || (step.starts_with("SCAN") && !step.contains("(subquery-"))
            };
            assert!(plan.contains(&format!("SEARCH {walked}")) && !plan.iter().any(costly), "{sql}: {plan:#?}");
        }
    }
}
