//! The keys of POSTs other than message creation: the answer is stored with what it answers, in one commit. (`keys` has
//! those of messages.)
//!
//! A key is a small row in a tree that lies by owner, so a request with a key touches as many pages however many keys others
//! have. Answers lie apart, in the order in which they came: they are appended, and removed from the front. Of each owner is
//! noted what his answers of an hour take; who has no room left is refused, and told when he has.

use std::collections::BTreeMap;

use bytes::Bytes;
use postrider_domain::time::Timestamp;
use postrider_store::{ApplicationKey, EndpointKey, MessageKey, Once, Owner, StoredAnswer, WriteError};
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::engine::decode::SqlError;
use crate::engine::range;
use crate::engine::tx::{Abort, Tx};
use crate::limits::MAX_BYTES_ERASED;
use crate::write::owners::environment_number;

/// What a request is about, by the numbers of its rows, of which none is [`NOTHING`]. Its key is another one for anything else,
/// also under the same uid.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject {
    application: i64,
    endpoint: i64,
    message: i64,
}

/// In the place of a number.
const NOTHING: i64 = 0;

impl Subject {
    /// Nothing that could be made anew: the environment itself.
    pub(crate) const ENVIRONMENT: Self = Self { application: NOTHING, endpoint: NOTHING, message: NOTHING };

    pub(crate) fn application(application: ApplicationKey) -> Self {
        Self { application: application.0, ..Self::ENVIRONMENT }
    }

    pub(crate) fn endpoint(endpoint: EndpointKey) -> Self {
        Self { endpoint: endpoint.0, ..Self::ENVIRONMENT }
    }

    pub(crate) fn message_at(message: MessageKey, endpoint: EndpointKey) -> Self {
        Self { message: message.0, ..Self::endpoint(endpoint) }
    }
}

/// An answer of an owner counts in the hour in which it was given.
const HOUR: i64 = 3_600_000_000;

/// What is dated further ahead of the newest answer was dated by a clock that was wrong.
const AHEAD: i64 = 24 * HOUR;

/// The owner as a number; see `answer_key`.
fn number_of(tx: &Tx<'_>, owner: &Owner) -> Result<i64, SqlError> {
    Ok(match owner {
        Owner::Application(application) => application.0,
        Owner::Operator(environment) => -environment_number(tx, environment)?,
    })
}

/// Of keys before there were owners nobody noted what they were about.
const REPLAY_SQL: &str = "SELECT status, body FROM (
         SELECT answer_no FROM answer_key
         WHERE owner = ?1 AND key = ?2 AND application_no = ?4 AND endpoint_no = ?5 AND message_no = ?6
         UNION ALL
         SELECT answer_no FROM answer_key WHERE owner = 0 AND key = ?2
     ) CROSS JOIN answer ON answer.no = answer_no WHERE created_at >= ?3";

/// The answer that was given before under this key, if it is not too old. If there is none, the write is to be carried out,
/// which is refused right here if its answer will have no room.
pub(crate) fn replay<T, E: From<WriteError>>(
    tx: &Tx<'_>,
    once: Option<&Once<T>>,
    subject: Subject,
) -> Result<Option<StoredAnswer>, Abort<E>> {
    let Some(once) = once else { return Ok(None) };
    let owner = number_of(tx, &once.owner)?;
    let Subject { application, endpoint, message } = subject;
    let answer = tx
        .prepare_cached(REPLAY_SQL)?
        .query_row(params![owner, once.key.0, once.not_before.as_micros(), application, endpoint, message], |row| {
            Ok(StoredAnswer { status: row.get(0)?, body: Bytes::from(row.get::<_, Vec<u8>>(1)?) })
        })
        .optional()?;
    if answer.is_none() {
        check_room(tx, owner, once.most, once.not_before, StoredAnswer::OVERHEAD)?;
    }
    Ok(answer)
}

/// Stores the answer to give next time; refuses what was written if there is no room for it.
pub(crate) fn remember<T, E: From<WriteError>>(
    tx: &Tx<'_>,
    once: Option<Once<T>>,
    subject: Subject,
    written: &T,
    now: Timestamp,
) -> Result<(), Abort<E>> {
    let Some(Once { key, owner, most, not_before, answer }) = once else { return Ok(()) };
    let owner = number_of(tx, &owner)?;
    let answer = answer(written);
    check_room(tx, owner, most, not_before, answer.room())?;
    let Subject { application, endpoint, message } = subject;
    let number = tx
        .prepare_cached(
            "INSERT INTO answer (owner, key, created_at, application_no, endpoint_no, message_no, status, body)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .insert(params![
            owner,
            key.0,
            now.as_micros(),
            application,
            endpoint,
            message,
            answer.status,
            answer.body.as_ref()
        ])?;
    // In the place of one that is too old.
    tx.prepare_cached(
        "INSERT OR REPLACE INTO answer_key (owner, key, application_no, endpoint_no, message_no, answer_no)
         VALUES (?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![owner, key.0, application, endpoint, message, number])?;
    tx.prepare_cached(
        "INSERT INTO answer_room (owner, hour, bytes) VALUES (?, ?, ?)
         ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes",
    )?
    .execute(params![owner, hour(now.as_micros()), bytes(answer.room())])?;
    Ok(())
}

fn hour(at: i64) -> i64 {
    at.div_euclid(HOUR)
}

fn bytes(room: u64) -> i64 {
    i64::try_from(room).unwrap_or(i64::MAX)
}

const ROOM_SQL: &str =
    "SELECT hour, CAST(bytes AS INTEGER) FROM answer_room WHERE owner = ? AND hour >= ? ORDER BY hour";

/// Refuses an answer that has no room among those of its owner, and finds out when it will, if ever.
fn check_room<E: From<WriteError>>(
    tx: &Tx<'_>,
    owner: i64,
    most: u64,
    not_before: Timestamp,
    needed: u64,
) -> Result<(), Abort<E>> {
    if needed > most {
        return Err(Abort::Refused(WriteError::KeysFull { wait: None }.into()));
    }
    let mut taken = tx.prepare_cached(ROOM_SQL)?;
    let taken: Vec<(i64, i64)> = taken
        .query_map(params![owner, hour(not_before.as_micros())], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let mut over = taken.iter().fold(bytes(needed), |sum, (_, room)| sum.saturating_add(*room)) - bytes(most);
    if over <= 0 {
        return Ok(());
    }
    let mut free_from = not_before.as_micros();
    for (hour, room) in taken {
        free_from = hour.saturating_add(1).saturating_mul(HOUR);
        over -= room;
        if over <= 0 {
            break;
        }
    }
    let wait = Timestamp::from_micros(free_from).since(not_before);
    Err(Abort::Refused(WriteError::KeysFull { wait: Some(wait) }.into()))
}

/// The last answer among the first `?3` that is too old. Those that a wrong clock dated ahead are passed over: they are as old
/// as what came after them.
const LAST_OLD_SQL: &str =
    "SELECT max(no) FROM (SELECT no, created_at FROM answer WHERE created_at <= ?1 ORDER BY no LIMIT ?3)
     WHERE created_at < ?2";

/// The answers up to that one that are too old or dated ahead. Those that are neither came before a clock went back, and stay.
const FIRST_SQL: &str =
    "SELECT no, CAST(owner AS INTEGER), key, CAST(application_no AS INTEGER), CAST(endpoint_no AS INTEGER),
         CAST(message_no AS INTEGER), CAST(created_at AS INTEGER), coalesce(length(body), 0)
     FROM answer WHERE no <= ?1 AND (created_at < ?2 OR created_at > ?3) ORDER BY no LIMIT ?4";

const DELETE_KEY_SQL: &str = "DELETE FROM answer_key
     WHERE owner = ? AND key = ? AND application_no = ? AND endpoint_no = ? AND message_no = ? AND answer_no = ?";

/// Removes the oldest answers, as far as they are from before `before`: at most `limit` of them, and some megabytes. Returns
/// whether there may be more.
pub(crate) fn forget(connection: &Connection, before: Timestamp, limit: usize) -> Result<bool, SqlError> {
    let newest: Option<i64> = connection
        .prepare_cached("SELECT CAST(created_at AS INTEGER) FROM answer ORDER BY no DESC LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    let Some(newest) = newest else { return Ok(false) };
    let (before, limit_rows) = (before.as_micros(), range::limit(limit));
    // The newest one may be from before a clock was set right.
    let ahead = newest.max(before).saturating_add(AHEAD);
    let last_old: Option<i64> =
        connection.prepare_cached(LAST_OLD_SQL)?.query_row(params![ahead, before, limit_rows], |row| row.get(0))?;
    let Some(last_old) = last_old else { return Ok(false) };
    let mut first = connection.prepare_cached(FIRST_SQL)?;
    let mut rows = first.query(params![last_old, before, ahead, limit_rows])?;
    let mut delete_key = connection.prepare_cached(DELETE_KEY_SQL)?;
    let (mut gone, mut size) = (Vec::new(), 0);
    let mut freed: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let (number, owner, created_at, length): (i64, i64, i64, i64) =
            (row.get(0)?, row.get(1)?, row.get(6)?, row.get(7)?);
        let (application, endpoint, message): (i64, i64, i64) = (row.get(3)?, row.get(4)?, row.get(5)?);
        let key = ToSqlOutput::Borrowed(row.get_ref(2)?);
        delete_key.execute(params![owner, key, application, endpoint, message, number])?;
        let room = length.saturating_add(bytes(StoredAnswer::OVERHEAD));
        *freed.entry((owner, hour(created_at))).or_default() += room;
        gone.push(number);
        size += length;
        if size >= MAX_BYTES_ERASED {
            break;
        }
    }
    drop(rows);
    let mut delete = connection.prepare_cached("DELETE FROM answer WHERE no = ?")?;
    for number in &gone {
        delete.execute([number])?;
    }
    give_back(connection, freed)?;
    Ok(gone.len() == limit || gone.last().is_some_and(|last| *last < last_old))
}

/// What was removed takes no room any more.
fn give_back(connection: &Connection, freed: BTreeMap<(i64, i64), i64>) -> Result<(), SqlError> {
    let mut lower =
        connection.prepare_cached("UPDATE answer_room SET bytes = bytes - ?3 WHERE owner = ?1 AND hour = ?2")?;
    let mut clear = connection.prepare_cached("DELETE FROM answer_room WHERE owner = ? AND hour = ? AND bytes <= 0")?;
    for ((owner, hour), room) in freed {
        lower.execute(params![owner, hour, room])?;
        clear.execute([owner, hour])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plans::plan;

    #[test]
    fn a_key_is_looked_up_and_nothing_is_scanned() {
        for sql in [REPLAY_SQL, ROOM_SQL, FIRST_SQL, DELETE_KEY_SQL] {
            let plan = plan(sql);
            let costly = |step: &String| step.contains("TEMP B-TREE") || step.starts_with("SCAN answer");
            assert!(!plan.iter().any(costly), "{sql}: {plan:#?}");
        }
    }

    #[test]
    fn a_store_that_had_keys_in_one_table_with_their_answers_keeps_them() {
        let connection = Connection::open_in_memory().unwrap();
        let (before, after) = crate::engine::migrate::MIGRATIONS.split_at(5);
        for migration in before {
            connection.execute_batch(migration).unwrap();
        }
        for (key, created_at, body) in [(3, 30, "third"), (1, 20, "second"), (2, 10, "first")] {
            connection
                .execute(
                    "INSERT INTO idempotency (key, created_at, status, body) VALUES (?, ?, 201, ?)",
                    params![[key as u8; 16], created_at, body.as_bytes()],
                )
                .unwrap();
        }
        for migration in after {
            connection.execute_batch(migration).unwrap();
        }
        let mut replay = connection.prepare(REPLAY_SQL).unwrap();
        for (key, created_at, body) in [(3, 30, "third"), (1, 20, "second"), (2, 10, "first")] {
            // Whoever asks, and for whatever: neither was noted.
            let mut found = |not_before: i64| {
                let parameters = params![-1, [key as u8; 16], not_before, 7, NOTHING, NOTHING];
                replay.query_row(parameters, |row| Ok((row.get(0)?, row.get(1)?))).optional().unwrap()
            };
            assert_eq!(found(created_at), Some((201, body.as_bytes().to_vec())));
            assert_eq!(found(created_at + 1), None);
        }
        // They go in the order in which they came.
        forget(&connection, Timestamp::from_micros(20), 10).unwrap();
        let left = |sql: &str| -> i64 { connection.query_row(sql, [], |row| row.get(0)).unwrap() };
        assert_eq!(left("SELECT count(*) FROM answer"), 2);
        forget(&connection, Timestamp::from_micros(31), 10).unwrap();
        for table in ["answer", "answer_key", "answer_room"] {
            assert_eq!(left(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
        }
    }
}
