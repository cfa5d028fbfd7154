//! Reading an application's messages as a stream. Message numbers are given out by the one thread that commits, so the
//! order of numbers is the order in which messages became visible: what came late has a number above the newest one that
//! was seen.
//!
//! What came late is looked for among the messages of the minute before the last one that was read, if they are few, and else among
//! the numbers that were given out since: so many in a read, wherever it is said to go on.

use async_trait::async_trait;
use postrider_domain::ids::Ksuid;
use postrider_domain::time::Timestamp;
use postrider_store::{
    ApplicationKey, Capped, EndpointKey, LATEST_COMMIT, MAX_CONSUMERS, MessageKey, StoreError, StreamFilter,
    StreamPosition, StreamSlice, Streams, WriteError,
};
use rusqlite::{Connection, OptionalExtension as _, Row, Rows, Statement, params};

use crate::SqliteStore;
use crate::decode::{SqlError, readable};
use crate::rows::{MESSAGE_COLUMNS, PAYLOAD, decode_message};
use crate::writer::{Abort, Tx};

/// The most messages that one read looks at.
const MAX_LOOKED_AT: usize = 1_000;

/// What came late is looked for by id if so many messages of the application lie where it can be, or fewer. Of each, two entries of an
/// index are read.
const FEW_IDS: usize = 10_000;

/// Else by number: so many in a read, whoever's they are. Of each, the beginning of a row is read.
const MAX_NUMBERS: usize = 5_000;

/// A read ends when it has about so many bytes of payload.
const MAX_BYTES: usize = 8 * 1024 * 1024;

#[async_trait]
impl Streams for SqliteStore {
    async fn stream(
        &self,
        application: ApplicationKey,
        filters: Vec<StreamFilter>,
        from: StreamPosition,
        limit: usize,
    ) -> Result<StreamSlice, StoreError> {
        self.lists.run(move |connection| read(connection, application, &filters, from, limit)).await
    }

    async fn stream_position(&self, endpoint: EndpointKey, reader: &str) -> Result<Option<StreamPosition>, StoreError> {
        let reader = reader.to_owned();
        self.readers.run(move |connection| position_of(connection, endpoint, &reader)).await
    }

    async fn begin_stream(
        &self,
        endpoint: EndpointKey,
        reader: &str,
        beginning: StreamPosition,
        now: Timestamp,
    ) -> Result<StreamPosition, WriteError> {
        let reader = reader.to_owned();
        self.writer
            .run(endpoint, move |tx| {
                if let Some(known) = position_of(tx, endpoint, &reader)? {
                    return Ok(known);
                }
                note(tx, endpoint, &reader, beginning, now)?;
                Ok(beginning)
            })
            .await
    }

    async fn set_stream_position(
        &self,
        endpoint: EndpointKey,
        reader: &str,
        position: StreamPosition,
        now: Timestamp,
    ) -> Result<(), WriteError> {
        let reader = reader.to_owned();
        self.writer.run(endpoint, move |tx| note(tx, endpoint, &reader, position, now)).await
    }
}

fn position_of(
    connection: &Connection,
    endpoint: EndpointKey,
    reader: &str,
) -> Result<Option<StreamPosition>, SqlError> {
    let position = connection
        .prepare_cached("SELECT after, seen FROM stream_reader WHERE endpoint_no = ? AND name = ?")?
        .query_row(params![endpoint.0, reader], |row| {
            let seen = row.get::<_, Option<i64>>(1)?.map(MessageKey);
            Ok(StreamPosition { after: Ksuid::from_bytes(row.get(0)?), seen })
        })
        .optional()?;
    Ok(position)
}

fn note(
    tx: &Tx<'_>,
    endpoint: EndpointKey,
    reader: &str,
    position: StreamPosition,
    now: Timestamp,
) -> Result<(), Abort<WriteError>> {
    let noted = tx
        .prepare_cached(
            "INSERT OR REPLACE INTO stream_reader (endpoint_no, name, after, seen, updated_at)
             SELECT ?1, ?2, ?3, ?4, ?5
             WHERE (SELECT count(*) FROM stream_reader WHERE endpoint_no = ?1 AND name <> ?2) < ?6",
        )?
        .execute(params![
            endpoint.0,
            reader,
            position.after.as_bytes(),
            position.seen.map(|seen| seen.0),
            now.as_micros(),
            MAX_CONSUMERS
        ])?;
    if noted == 0 {
        return Err(Abort::Refused(WriteError::Full { of: Capped::Consumers, most: MAX_CONSUMERS as u64 }));
    }
    Ok(())
}

/// What came late, in the order in which it came: (application, from, to, newest seen, newest looked for, limit).
const LATE_SQL: &str = "SELECT {COLUMNS}, NULL AS payload FROM message
     WHERE no IN (SELECT no FROM message INDEXED BY message_by_id
                  WHERE application_no = ?1 AND id > ?2 AND id <= ?3 AND no > ?4 AND no <= ?5
                  ORDER BY no LIMIT ?6)
     ORDER BY no";

/// The same, looked for among all messages that came.
const LATE_BY_NUMBER_SQL: &str = "SELECT {COLUMNS}, NULL AS payload FROM message NOT INDEXED
     WHERE no > ?4 AND no <= ?5 AND application_no = ?1 AND id > ?2 AND id <= ?3
     ORDER BY no LIMIT ?6";

/// How many messages lie where it can be, counted up to a limit: (application, from, to, limit).
const WINDOW_SQL: &str = "SELECT count(*) FROM (
         SELECT 1 FROM message INDEXED BY message_by_id WHERE application_no = ?1 AND id > ?2 AND id <= ?3 LIMIT ?4
     )";

/// The number of the last of so many messages that came since: (newest seen, how many but one).
const SINCE_SQL: &str = "SELECT no FROM message WHERE no > ?1 ORDER BY no LIMIT 1 OFFSET ?2";

/// Whether any message that came between two numbers has an id before one.
const IN_TIME_SQL: &str = "SELECT EXISTS (SELECT 1 FROM message WHERE no > ?1 AND no <= ?2 AND id < ?3)";

/// What follows, in the order of ids: (application, after, limit).
const NEXT_SQL: &str = "SELECT {COLUMNS}, NULL AS payload FROM message
     WHERE application_no = ?1 AND id > ?2 ORDER BY id LIMIT ?3";

fn columns(sql: &str) -> String {
    sql.replace("{COLUMNS}", MESSAGE_COLUMNS)
}

/// The payload of a message that is taken: what filters leave out is not read.
fn payload_sql() -> String {
    format!("SELECT {PAYLOAD} FROM message WHERE no = ?")
}

/// What a read has gathered.
struct Gathered<'a> {
    slice: StreamSlice,
    filters: &'a [StreamFilter],
    limit: usize,
    looked_at: usize,
    bytes: usize,
}

impl Gathered<'_> {
    fn is_full(&self) -> bool {
        self.slice.messages.len() >= self.limit || self.looked_at >= MAX_LOOKED_AT || self.bytes >= MAX_BYTES
    }

    /// Takes rows until it is full, and moves the position along; false if rows may be left.
    fn take(
        &mut self,
        payload: &mut Statement<'_>,
        mut rows: Rows<'_>,
        step: impl Fn(&mut StreamPosition, MessageKey, Ksuid),
    ) -> Result<bool, SqlError> {
        loop {
            if self.is_full() {
                return Ok(rows.next()?.is_none());
            }
            let Some(row) = rows.next()? else { return Ok(true) };
            // Also past what makes no sense: a poller that met nothing else would be where it was for ever.
            step(&mut self.slice.position, MessageKey(row.get("no")?), place(row)?);
            self.looked_at += 1;
            let Some(message) = readable(decode_message(row))? else { continue };
            let mut value = message.value;
            if self.filters.iter().all(|filter| filter.passes(&value.event_type, value.channels.as_deref())) {
                let body: Option<Vec<u8>> = payload.query_row([message.key.0], |row| row.get(0))?;
                value.payload = body.map(bytes::Bytes::from);
                self.bytes += value.payload.as_ref().map_or(0, bytes::Bytes::len);
                self.slice.messages.push(value);
            }
        }
    }
}

/// Where a row is in the order of ids, also if its id is none: at the first id that is not before it.
fn place(row: &Row<'_>) -> Result<Ksuid, SqlError> {
    // What is no blob is before all that are, and is not met.
    let bytes = row.get_ref("id")?.as_blob().unwrap_or_default();
    let mut place = [0; 20];
    let length = bytes.len().min(place.len());
    place[..length].copy_from_slice(&bytes[..length]);
    if bytes.len() > place.len() {
        for byte in place.iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
    }
    Ok(Ksuid::from_bytes(place))
}

/// How what came late is looked for.
struct Look {
    sql: &'static str,
    /// Up to this number.
    until: i64,
    /// Whether there is nothing behind it.
    is_all: bool,
}

impl Look {
    /// In the range of ids behind the one of a pair, up to the other, and of numbers likewise.
    fn of(
        connection: &Connection,
        application: ApplicationKey,
        (since, after): (Ksuid, Ksuid),
        (seen, newest): (i64, i64),
    ) -> Result<Self, SqlError> {
        let by_id = Self { sql: LATE_SQL, until: newest, is_all: true };
        let few = i64::try_from(FEW_IDS).unwrap_or(i64::MAX);
        let there: i64 = connection
            .prepare_cached(WINDOW_SQL)?
            .query_row(params![application.0, since.as_bytes(), after.as_bytes(), few + 1], |row| row.get(0))?;
        if there <= few {
            return Ok(by_id);
        }
        let last = i64::try_from(MAX_NUMBERS - 1).unwrap_or(i64::MAX);
        let until: Option<i64> =
            connection.prepare_cached(SINCE_SQL)?.query_row([seen, last], |row| row.get(0)).optional()?;
        let Some(until) = until else { return Ok(Self { sql: LATE_BY_NUMBER_SQL, ..by_id }) };
        // Once all that came was made later than what still counts as late could have come, none of that follows. (Twice the time:
        // clocks may be set right in between.)
        let end = Ksuid::floor(after.timestamp().saturating_add(2 * LATEST_COMMIT));
        let in_time: bool = connection
            .prepare_cached(IN_TIME_SQL)?
            .query_row(params![seen, until, end.as_bytes()], |row| row.get(0))?;
        Ok(Self { sql: LATE_BY_NUMBER_SQL, until, is_all: !in_time })
    }
}

fn read(
    connection: &Connection,
    application: ApplicationKey,
    filters: &[StreamFilter],
    from: StreamPosition,
    limit: usize,
) -> Result<StreamSlice, SqlError> {
    // One snapshot: the newest message must be the newest of what the other statements see.
    let snapshot = connection.unchecked_transaction()?;
    let newest: i64 = snapshot.query_row("SELECT coalesce(max(no), 0) FROM message", [], |row| row.get(0))?;
    let slice = StreamSlice { messages: Vec::new(), position: from, done: false };
    let mut gathered = Gathered { slice, filters, limit, looked_at: 0, bytes: 0 };
    let mut payload = snapshot.prepare_cached(&payload_sql())?;
    let most = i64::try_from(MAX_LOOKED_AT + 1).unwrap_or(i64::MAX);
    if let Some(seen) = from.seen.filter(|seen| seen.0 < newest) {
        let since = Ksuid::floor(from.after.timestamp().saturating_sub(LATEST_COMMIT));
        let look = Look::of(&snapshot, application, (since, from.after), (seen.0, newest))?;
        let mut late = snapshot.prepare_cached(&columns(look.sql))?;
        let (since, after) = (since.as_bytes(), from.after.as_bytes());
        let rows = late.query(params![application.0, since, after, seen.0, look.until, most])?;
        if !gathered.take(&mut payload, rows, |position, key, _| position.seen = Some(key))? {
            return Ok(gathered.slice);
        }
        if !look.is_all {
            gathered.slice.position.seen = Some(MessageKey(look.until));
            return Ok(gathered.slice);
        }
    }
    let mut next = snapshot.prepare_cached(&columns(NEXT_SQL))?;
    let rows = next.query(params![application.0, from.after.as_bytes(), most])?;
    gathered.slice.done = gathered.take(&mut payload, rows, |position, _, id| position.after = id)?;
    // Nothing at or below `after` is left that this snapshot holds.
    gathered.slice.position.seen = Some(MessageKey(newest));
    Ok(gathered.slice)
}

#[cfg(test)]
mod tests {
    use postrider_domain::ids::Id as _;

    use super::*;
    use crate::plans::{assert_walks, database, plan, steps};

    const MINUTE: u64 = 60_000_000;

    fn id(micros: u64, number: u32) -> [u8; 20] {
        let mut id =
            *Ksuid::floor(Timestamp::from_micros(1_767_323_045_000_000 + i64::try_from(micros).unwrap())).as_bytes();
        id[16..].copy_from_slice(&number.to_be_bytes());
        id
    }

    /// So many messages of one application that were made within less than a minute: the second half of them late, in the
    /// order of their numbers and with ids among those of the others.
    fn busy_minute(messages: u32) -> Connection {
        let connection = database();
        connection.execute_batch("BEGIN").unwrap();
        let sql = "INSERT INTO message (no, application_no, id, event_type, created_at) VALUES (?, 1, ?, 'a', 0)";
        let mut insert = connection.prepare(sql).unwrap();
        for number in 1..=messages {
            let place = if number <= messages / 2 { 2 * number } else { 2 * (number - messages / 2) - 1 };
            insert.execute(params![number, id(u64::from(place) * MINUTE / 2 / u64::from(messages), place)]).unwrap();
        }
        drop(insert);
        connection.execute_batch("COMMIT").unwrap();
        connection
    }

    fn at(micros: u64, number: u32, seen: u32) -> StreamPosition {
        StreamPosition { after: Ksuid::from_bytes(id(micros, number)), seen: Some(MessageKey(seen.into())) }
    }

    #[test]
    fn a_read_looks_at_a_bounded_number_of_messages_wherever_it_goes_on() {
        let (mut few, mut many) = (busy_minute(30_000), busy_minute(120_000));
        // At the end of a busy minute, having seen nothing, next to nothing, or half of it.
        for seen in [1, 10, 15_000] {
            let [few, many] = [&mut few, &mut many].map(|connection| {
                steps(connection, |connection| {
                    read(connection, ApplicationKey(1), &[], at(MINUTE, 0, seen), 1).map(drop).unwrap();
                })
            });
            assert!(many <= few + few / 10, "{seen}: {few} to {many}");
        }
    }

    #[test]
    fn what_came_late_in_a_busy_minute_is_found_once_and_in_its_order() {
        let half = 15_000;
        let connection = busy_minute(2 * half);
        let (mut position, mut got, mut reads) = (at(MINUTE, 0, half), Vec::new(), 0);
        loop {
            let slice = read(&connection, ApplicationKey(1), &[], position, 250).unwrap();
            got.extend(slice.messages.iter().map(|message| *message.id.ksuid().as_bytes()));
            (position, reads) = (slice.position, reads + 1);
            if slice.done {
                break;
            }
        }
        let late = (1..=half).map(|number| 2 * number - 1);
        let late: Vec<_> = late.map(|place| id(u64::from(place) * MINUTE / 2 / u64::from(2 * half), place)).collect();
        assert!(got == late, "{} in {reads} reads", got.len());
        assert_eq!(position.seen, Some(MessageKey(i64::from(2 * half))));
    }

    #[test]
    fn a_poller_goes_on_behind_any_number_of_messages_that_make_no_sense() {
        let many = MAX_LOOKED_AT as u32 + 10;
        // What came late, and what follows.
        for from in [at(MINUTE, 0, 1), StreamPosition { after: Ksuid::from_bytes([0; 20]), seen: None }] {
            let connection = busy_minute(many);
            connection.execute("UPDATE message SET event_type = x'00' WHERE no < ?", [many]).unwrap_err();
            connection.execute("UPDATE message SET channels = 'no list' WHERE no < ?", [many]).unwrap();
            let (mut position, mut reads) = (from, 0);
            let found = loop {
                let slice = read(&connection, ApplicationKey(1), &[], position, 250).unwrap();
                (position, reads) = (slice.position, reads + 1);
                if slice.done || reads > 10 {
                    break slice.messages;
                }
            };
            assert_eq!((found.len(), reads), (1, 2));
        }
    }

    #[test]
    fn an_id_that_is_none_is_a_place_too() {
        let connection = database();
        let place_of = |id: &[u8]| {
            let sql = "SELECT ? AS id";
            *connection.query_row(sql, [id], |row| Ok(place(row).unwrap())).unwrap().as_bytes()
        };
        assert_eq!(place_of(&[7; 20]), [7; 20]);
        assert_eq!(place_of(&[7; 2])[..4], [7, 7, 0, 0]);
        let long = [[7; 19].as_slice(), &[0xff, 0]].concat();
        assert_eq!(place_of(&long)[17..], [7, 8, 0]);
    }

    #[test]
    fn what_came_long_after_a_busy_minute_is_not_looked_through_for_late_messages_of_it() {
        let connection = busy_minute(30_000);
        connection.execute_batch("BEGIN").unwrap();
        let sql = "INSERT INTO message (no, application_no, id, event_type, created_at) VALUES (?, 2, ?, 'a', 0)";
        for number in 30_001..=60_000 {
            connection.prepare_cached(sql).unwrap().execute(params![number, id(10 * MINUTE, number)]).unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
        let slice = read(&connection, ApplicationKey(1), &[], at(MINUTE, 0, 30_000), 1).unwrap();
        assert_eq!((slice.messages.len(), slice.done, slice.position.seen), (0, true, Some(MessageKey(60_000))));
    }

    #[test]
    fn a_stream_walks_the_index_of_its_application() {
        assert_walks(&columns(NEXT_SQL), "message USING INDEX message_by_id (application_no=? AND id>?)");
        let plan = plan(&columns(LATE_SQL));
        let looked_through = "SEARCH message USING COVERING INDEX message_by_id (application_no=? AND id>? AND id<?)";
        assert!(plan.iter().any(|step| step == looked_through), "{plan:#?}");
        for sql in [LATE_BY_NUMBER_SQL, SINCE_SQL, IN_TIME_SQL] {
            let plan = crate::plans::plan(&columns(sql));
            assert!(
                plan.iter().any(|step| step.starts_with("SEARCH message USING INTEGER PRIMARY KEY (rowid>?")),
                "{plan:#?}"
            );
        }
    }
}
