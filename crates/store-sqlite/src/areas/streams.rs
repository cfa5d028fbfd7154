//! Reading an application's messages as a stream. Message numbers are given out by the one thread that commits, so the
//! order of numbers is the order in which messages became visible, and what comes has a number above everything that was there.
//!
//! A reader that begins walks the index of ids, and leaves out what came after it began; then it follows the index of numbers. Each
//! read looks at a bounded number of entries, whatever its position says.

use async_trait::async_trait;
use postrider_domain::ids::{Id as _, Ksuid};
use postrider_domain::message::Message;
use postrider_domain::time::Timestamp;
use postrider_store::{
    ApplicationKey, Capped, EndpointKey, MAX_CONSUMERS, PAGE_BYTES, StoreError, StreamFilter, StreamNumber,
    StreamPosition, StreamSlice, Streams, WriteError,
};
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, params};

use crate::engine::decode::{SqlError, readable};
use crate::engine::range;
use crate::engine::rows::{MESSAGE_COLUMNS, PAYLOAD, decode_message};
use crate::engine::tx::{Abort, Tx};
use crate::store::SqliteStore;
use crate::write::hot::MAX_NUMBER;

/// The most messages that one read looks at.
const MAX_LOOKED_AT: usize = 1_000;

/// The most entries of the index of ids that one read passes: those of messages that came later are left out.
const MAX_PASSED: usize = 10_000;

#[async_trait]
impl Streams for SqliteStore {
    async fn stream_beginning(&self, endpoint: EndpointKey) -> Result<StreamPosition, StoreError> {
        self.readers.run(move |connection| beginning_of(connection, endpoint)).await
    }

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
                note(tx, endpoint, &reader, beginning, now)
            })
            .await
    }

    async fn set_stream_position(
        &self,
        endpoint: EndpointKey,
        reader: &str,
        position: StreamPosition,
        now: Timestamp,
    ) -> Result<StreamPosition, WriteError> {
        let reader = reader.to_owned();
        self.writer.run(endpoint, move |tx| note(tx, endpoint, &reader, position, now)).await
    }
}

/// The newest message there is; before all if there is none. One whose number makes no sense does not count: every other would be
/// before it for good.
pub(crate) fn newest_message(connection: &Connection) -> Result<i64, SqlError> {
    let newest = "SELECT coalesce(max(no), 0) FROM message WHERE no < ?";
    Ok(connection.prepare_cached(newest)?.query_row([MAX_NUMBER], |row| row.get(0))?)
}

fn beginning_of(connection: &Connection, endpoint: EndpointKey) -> Result<StreamPosition, SqlError> {
    let (newest, created_at): (Option<i64>, i64) = connection
        .prepare_cached("SELECT newest_message, created_at FROM endpoint WHERE no = ?")?
        .query_row([endpoint.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let after = Ksuid::floor(Timestamp::from_micros(created_at));
    let behind = |newest| StreamPosition::Behind { last: StreamNumber(newest), after };
    Ok(newest.map_or(StreamPosition::Since(after), behind))
}

fn position_of(
    connection: &Connection,
    endpoint: EndpointKey,
    reader: &str,
) -> Result<Option<StreamPosition>, SqlError> {
    let position = connection
        .prepare_cached("SELECT after, seen, by_number FROM stream_reader WHERE endpoint_no = ? AND name = ?")?
        .query_row(params![endpoint.0, reader], |row| {
            let after = Ksuid::from_bytes(row.get(0)?);
            let (seen, by_number): (Option<i64>, bool) = (row.get(1)?, row.get(2)?);
            Ok(seen.map_or(StreamPosition::Since(after), |seen| Place { after, seen, by_number }.position()))
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
) -> Result<StreamPosition, Abort<WriteError>> {
    let place = Place::begun(position, newest_message(tx)?);
    let Place { after, seen, by_number } = place;
    let noted = tx
        .prepare_cached(
            "INSERT OR REPLACE INTO stream_reader (endpoint_no, name, after, seen, by_number, updated_at)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6
             WHERE (SELECT count(*) FROM stream_reader WHERE endpoint_no = ?1 AND name <> ?2) < ?7",
        )?
        .execute(params![endpoint.0, reader, after.as_bytes(), seen, by_number, now.as_micros(), MAX_CONSUMERS])?;
    if noted == 0 {
        return Err(Abort::Refused(WriteError::Full { of: Capped::Consumers, most: MAX_CONSUMERS as u64 }));
    }
    Ok(place.position())
}

/// Where a reader is that has begun: a [`StreamPosition`] as it is stored.
#[derive(Debug, Clone, Copy)]
struct Place {
    after: Ksuid,
    seen: i64,
    /// Whether it has looked at everything up to `seen`, and not only, of that, at everything up to `after`.
    by_number: bool,
}

impl Place {
    /// Where it is when this is the newest message.
    fn begun(position: StreamPosition, newest: i64) -> Self {
        match position.begun(StreamNumber(newest)) {
            StreamPosition::Since(after) => Self { after, seen: newest, by_number: false },
            StreamPosition::Among { after, newest } => Self { after, seen: newest.0, by_number: false },
            StreamPosition::Behind { last, after } => Self { after, seen: last.0, by_number: true },
        }
    }

    fn position(self) -> StreamPosition {
        let (after, seen) = (self.after, StreamNumber(self.seen));
        match self.by_number {
            true => StreamPosition::Behind { last: seen, after },
            false => StreamPosition::Among { after, newest: seen },
        }
    }
}

/// What there is behind an id, in the order of ids: (application, after, limit).
const BY_ID_SQL: &str = "SELECT no, id FROM message INDEXED BY message_by_id
     WHERE application_no = ?1 AND id > ?2 ORDER BY id LIMIT ?3";

/// What came behind a message, in the order in which it came: (application, last, newest).
const BY_NUMBER_SQL: &str = "SELECT no FROM message INDEXED BY message_by_application
     WHERE application_no = ?1 AND no > ?2 AND no <= ?3 ORDER BY no";

fn message_sql() -> String {
    format!("SELECT {MESSAGE_COLUMNS}, NULL AS payload FROM message WHERE no = ?")
}

/// The payload of a message that is taken: what filters leave out is not read.
fn payload_sql() -> String {
    format!("SELECT {PAYLOAD} FROM message WHERE no = ?")
}

/// What a read gathers.
struct Page<'c> {
    connection: &'c Connection,
    application: ApplicationKey,
    filters: &'c [StreamFilter],
    limit: usize,
    message: CachedStatement<'c>,
    payload: CachedStatement<'c>,
    messages: Vec<Message>,
    looked_at: usize,
    bytes: usize,
}

impl Page<'_> {
    fn is_full(&self) -> bool {
        self.messages.len() >= self.limit || self.looked_at >= MAX_LOOKED_AT || self.bytes >= PAGE_BYTES
    }

    /// Takes a message if it passes the filters; returns its id if it makes sense.
    fn look(&mut self, number: i64) -> Result<Option<Ksuid>, SqlError> {
        self.looked_at += 1;
        let mut rows = self.message.query([number])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let Some(message) = readable(decode_message(row))? else { return Ok(None) };
        let mut message = message.value;
        let id = message.id.ksuid();
        if self.filters.iter().all(|filter| filter.passes(&message.event_type, message.channels.as_deref())) {
            let body: Option<Vec<u8>> = self.payload.query_row([number], |row| row.get(0))?;
            message.payload = body.map(bytes::Bytes::from);
            self.bytes += message.payload.as_ref().map_or(0, bytes::Bytes::len);
            self.messages.push(message);
        }
        Ok(Some(id))
    }

    /// Takes what follows a place, which it moves along. Returns whether nothing is left.
    fn take(&mut self, place: &mut Place, newest: i64) -> Result<bool, SqlError> {
        if !place.by_number && !self.take_by_id(place)? {
            return Ok(false);
        }
        place.by_number = true;
        self.take_by_number(place, newest)
    }

    /// Takes what had come when the reader began; returns whether nothing of it is left.
    fn take_by_id(&mut self, place: &mut Place) -> Result<bool, SqlError> {
        let mut walk = self.connection.prepare_cached(BY_ID_SQL)?;
        let mut entries = walk.query(params![self.application.0, place.after.as_bytes(), range::limit(MAX_PASSED)])?;
        let mut passed = 0;
        while let Some(entry) = entries.next()? {
            let number: i64 = entry.get(0)?;
            if number <= place.seen {
                if self.is_full() {
                    return Ok(false);
                }
                self.look(number)?;
            }
            passed += 1;
            // Also past what makes no sense: a reader that met nothing else would be where it was for ever.
            place.after = place_of(entry.get_ref(1)?.as_blob().unwrap_or_default());
        }
        Ok(passed < MAX_PASSED)
    }

    /// Takes what came since, up to the newest; returns whether nothing is left.
    fn take_by_number(&mut self, place: &mut Place, newest: i64) -> Result<bool, SqlError> {
        let mut walk = self.connection.prepare_cached(BY_NUMBER_SQL)?;
        let mut entries = walk.query(params![self.application.0, place.seen, newest])?;
        while let Some(entry) = entries.next()? {
            if self.is_full() {
                return Ok(false);
            }
            let number = entry.get(0)?;
            if let Some(id) = self.look(number)? {
                place.after = place.after.max(id);
            }
            place.seen = number;
        }
        Ok(true)
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
    let newest = newest_message(&snapshot)?;
    let mut page = Page {
        connection: &snapshot,
        application,
        filters,
        limit,
        message: snapshot.prepare_cached(&message_sql())?,
        payload: snapshot.prepare_cached(&payload_sql())?,
        messages: Vec::new(),
        looked_at: 0,
        bytes: 0,
    };
    let mut place = Place::begun(from, newest);
    let done = page.take(&mut place, newest)?;
    Ok(StreamSlice { messages: page.messages, position: place.position(), done })
}

/// Where an id is in the order of ids, also if it is none: at the first one that is not before it.
fn place_of(bytes: &[u8]) -> Ksuid {
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
    Ksuid::from_bytes(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plans::{assert_walks, database, steps};

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

    /// Where one is who began when `newest` was the newest message, and has come to this id.
    fn among(micros: u64, number: u32, newest: u32) -> StreamPosition {
        StreamPosition::Among { after: Ksuid::from_bytes(id(micros, number)), newest: StreamNumber(newest.into()) }
    }

    fn behind(micros: u64, last: u32) -> StreamPosition {
        StreamPosition::Behind { last: StreamNumber(last.into()), after: Ksuid::from_bytes(id(micros, 0)) }
    }

    /// What is read from a position to the end, and in how many reads.
    fn read_on(connection: &Connection, position: &mut StreamPosition) -> (Vec<[u8; 20]>, usize) {
        let (mut got, mut reads) = (Vec::new(), 0);
        loop {
            let slice = read(connection, ApplicationKey(1), &[], *position, 250).unwrap();
            got.extend(slice.messages.iter().map(|message| *message.id.ksuid().as_bytes()));
            (*position, reads) = (slice.position, reads + 1);
            if slice.done {
                return (got, reads);
            }
        }
    }

    #[test]
    fn a_read_looks_at_a_bounded_number_of_messages_wherever_it_goes_on() {
        let (mut few, mut many) = (busy_minute(30_000), busy_minute(120_000));
        let begins = StreamPosition::Since(Ksuid::floor(Timestamp::EPOCH));
        // At the beginning or the end of a busy minute, with nothing, next to nothing or half of it to go through by id.
        let (early, late) = ([1, 10, 15_000].map(|newest| among(0, 0, newest)), among(MINUTE, 0, 15_000));
        for from in early.into_iter().chain([late, begins, behind(0, 1), behind(0, 15_000), behind(MINUTE, 200_000)]) {
            let [few, many] = [&mut few, &mut many].map(|connection| {
                steps(connection, |connection| {
                    read(connection, ApplicationKey(1), &[], from, 1).map(drop).unwrap();
                })
            });
            assert!(many <= few + few / 10, "{from:?}: {few} to {many}");
        }
    }

    #[test]
    fn what_came_late_in_a_busy_minute_is_found_once_and_in_its_order() {
        let half = 15_000;
        let connection = busy_minute(2 * half);
        let mut position = among(MINUTE, 0, half);
        let (got, reads) = read_on(&connection, &mut position);
        let late = (1..=half).map(|number| 2 * number - 1);
        let late: Vec<_> = late.map(|place| id(u64::from(place) * MINUTE / 2 / u64::from(2 * half), place)).collect();
        assert!(got == late, "{} in {reads} reads", got.len());
        assert!(matches!(position, StreamPosition::Behind { last, .. } if last.0 == i64::from(2 * half)));
    }

    #[test]
    fn an_id_that_is_none_is_a_place_too() {
        assert_eq!(*place_of(&[7; 20]).as_bytes(), [7; 20]);
        assert_eq!(place_of(&[7; 2]).as_bytes()[..4], [7, 7, 0, 0]);
        let long = [[7; 19].as_slice(), &[0xff, 0]].concat();
        assert_eq!(place_of(&long).as_bytes()[17..], [7, 8, 0]);
    }

    #[test]
    fn one_that_has_little_to_go_through_by_id_soon_passes_what_came_later() {
        let connection = busy_minute(60_000);
        // All that is left of what it began with is the first message; 60,000 entries follow.
        let (got, reads) = read_on(&connection, &mut among(0, 0, 1));
        assert_eq!((got.len(), got.iter().collect::<std::collections::BTreeSet<_>>().len()), (60_000, 60_000));
        assert!(reads <= 60_000 / 250 + 60_000 / MAX_PASSED + 1, "{reads}");
    }

    #[test]
    fn one_that_read_more_than_there_is_goes_on_by_id() {
        // A backup was restored, and what came since has numbers that are below those that the reader knows.
        let connection = busy_minute(1_000);
        connection.execute("DELETE FROM message WHERE no > 300", []).unwrap();
        let insert = "INSERT INTO message (no, application_no, id, event_type, created_at) VALUES (?, 1, ?, 'a', 0)";
        for number in 400..410 {
            connection.execute(insert, params![number, id(2 * MINUTE, number)]).unwrap();
        }
        for mut position in [behind(MINUTE, 1_000), among(MINUTE, 0, 1_000)] {
            let (got, _) = read_on(&connection, &mut position);
            assert_eq!(got, (400..410).map(|number| id(2 * MINUTE, number)).collect::<Vec<_>>());
            assert!(matches!(position, StreamPosition::Behind { last: StreamNumber(409), .. }), "{position:?}");
        }
    }

    #[test]
    fn a_number_that_makes_no_sense_keeps_nothing_from_a_reader() {
        let connection = busy_minute(10);
        connection.execute("UPDATE message SET no = ? WHERE no = 10", [i64::MAX]).unwrap();
        let mut position = StreamPosition::Since(Ksuid::floor(Timestamp::EPOCH));
        assert_eq!(read_on(&connection, &mut position).0.len(), 9);
        let insert = "INSERT INTO message (no, application_no, id, event_type, created_at) VALUES (11, 1, ?, 'a', 0)";
        connection.execute(insert, [id(0, 0)]).unwrap();
        assert_eq!(read_on(&connection, &mut position).0, [id(0, 0)]);
    }

    #[test]
    fn readers_of_before_go_on_where_they_were() {
        let connection = crate::open::connect(std::path::Path::new(":memory:")).unwrap();
        let migrations = crate::engine::migrate::MIGRATIONS;
        let this = migrations.iter().position(|sql| sql.contains("message_by_application")).unwrap();
        migrations[..this].iter().for_each(|sql| connection.execute_batch(sql).unwrap());
        let insert = "INSERT INTO message (no, application_no, id, event_type, created_at) VALUES (?, 1, ?, 'a', 0)";
        // The last one came late, below those that one reader had read.
        for (number, micros) in [(1, 10), (2, 20), (3, 15)] {
            connection.execute(insert, params![number, id(micros * MINUTE, 0)]).unwrap();
        }
        let reader = "INSERT INTO stream_reader (endpoint_no, name, after, seen, updated_at) VALUES (1, ?, ?, ?, 0)";
        for (name, after, seen) in [("read", 20, Some(2)), ("began", 0, Some(2)), ("new", 12, None)] {
            connection.execute(reader, params![name, id(after * MINUTE, 0), seen]).unwrap();
        }
        migrations[this..].iter().for_each(|sql| connection.execute_batch(sql).unwrap());
        for (name, places) in [("read", vec![15]), ("began", vec![10, 20, 15]), ("new", vec![15, 20])] {
            let mut position = position_of(&connection, EndpointKey(1), name).unwrap().unwrap();
            let wanted: Vec<_> = places.into_iter().map(|micros| id(micros * MINUTE, 0)).collect();
            assert_eq!(read_on(&connection, &mut position).0, wanted, "{name}");
        }
    }

    #[test]
    fn a_stream_walks_the_indexes_of_its_application() {
        assert_walks(BY_ID_SQL, "message USING COVERING INDEX message_by_id (application_no=? AND id>?)");
        let by_number =
            "message USING COVERING INDEX message_by_application (application_no=? AND rowid>? AND rowid<?)";
        assert_walks(BY_NUMBER_SQL, by_number);
    }
}
