//! Reading an application's messages as a stream. Message numbers are given out by the one thread that commits, so the
//! order of numbers is the order in which messages became visible: what came late has a number above the newest one that
//! was seen.

use async_trait::async_trait;
use postrider_domain::ids::{Id as _, Ksuid};
use postrider_domain::time::Timestamp;
use postrider_store::{
    ApplicationKey, Capped, EndpointKey, LATEST_COMMIT, MAX_CONSUMERS, MessageKey, StoreError, StreamFilter,
    StreamPosition, StreamSlice, Streams, WriteError,
};
use rusqlite::{Connection, OptionalExtension as _, Rows, Statement, params};

use crate::SqliteStore;
use crate::decode::{SqlError, readable};
use crate::rows::{MESSAGE_COLUMNS, PAYLOAD, decode_message};
use crate::writer::{Abort, Tx};

/// The most messages that one read looks at.
const MAX_LOOKED_AT: usize = 1_000;

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

/// What came late, in the order in which it came: (application, from, to, newest seen, limit).
const LATE_SQL: &str = "SELECT {COLUMNS}, NULL AS payload FROM message
     WHERE no IN (SELECT no FROM message INDEXED BY message_by_id
                  WHERE application_no = ?1 AND id > ?2 AND id <= ?3 AND no > ?4
                  ORDER BY no LIMIT ?5)
     ORDER BY no";

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
            let Some(message) = readable(decode_message(row))? else {
                self.looked_at += 1;
                continue;
            };
            step(&mut self.slice.position, message.key, message.value.id.ksuid());
            self.looked_at += 1;
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
        let mut late = snapshot.prepare_cached(&columns(LATE_SQL))?;
        let rows = late.query(params![application.0, since.as_bytes(), from.after.as_bytes(), seen.0, most])?;
        if !gathered.take(&mut payload, rows, |position, key, _| position.seen = Some(key))? {
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
    use super::*;
    use crate::plans::{assert_walks, plan};

    #[test]
    fn a_stream_walks_the_index_of_its_application() {
        assert_walks(&columns(NEXT_SQL), "message USING INDEX message_by_id (application_no=? AND id>?)");
        let plan = plan(&columns(LATE_SQL));
        let looked_through = "SEARCH message USING COVERING INDEX message_by_id (application_no=? AND id>? AND id<?)";
        assert!(plan.iter().any(|step| step == looked_through), "{plan:#?}");
    }
}
