//! Reading messages, and erasing payloads. The hot path writes them.

use async_trait::async_trait;
use postrider_domain::ids::{Id as _, Ksuid, MessageId};
use postrider_domain::message::Message;
use postrider_domain::names::{EventTypeName, IdOrUid};
use postrider_store::{
    ApplicationKey, AttemptFilter, MessageFilter, MessageKey, Messages, Scan, StoreError, Stored, Walked,
};
use rusqlite::types::Null;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::engine::decode::{SqlError, first};
use crate::engine::range::{NO_LIMIT, Range};
use crate::engine::rows::{MESSAGE_COLUMNS, PAYLOAD, decode_message};
use crate::engine::tx::{Abort, FEW_ROWS, News, Tx, rows_of};
use crate::limits::MAX_BYTES_ERASED;
use crate::lists::blocks::MESSAGES;
use crate::lists::postings::{Gathered, List, Named};
use crate::lists::terms::{About, Wanted};
use crate::store::SqliteStore;
use crate::write::inserts::json_list;

#[async_trait]
impl Messages for SqliteStore {
    async fn message(
        &self,
        application: ApplicationKey,
        id: &IdOrUid<MessageId>,
        with_payload: bool,
    ) -> Result<Option<Stored<MessageKey, Message>>, StoreError> {
        let id = id.clone();
        // What is long waits where long reads do.
        let readers = if with_payload { &self.lists } else { &self.readers };
        readers.run(move |connection| find(connection, application, &id, with_payload)).await
    }

    async fn messages(
        &self,
        application: ApplicationKey,
        filter: &MessageFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Walked<Message>, StoreError> {
        let filter = filter.clone();
        self.lists.run_at_once(move |connection| list(connection, application, &filter, scan)).await
    }

    async fn expunge_message(&self, message: MessageKey) -> Result<(), StoreError> {
        self.writer
            .run(message, move |tx| {
                erase(tx, vec![message])?;
                Ok::<_, Abort<StoreError>>(())
            })
            .await
    }

    async fn expunge_messages(
        &self,
        application: ApplicationKey,
        ids: Vec<IdOrUid<MessageId>>,
    ) -> Result<Vec<bool>, StoreError> {
        let found = self
            .readers
            .run(move |connection| ids.iter().map(|id| find_payload(connection, application, id)).collect())
            .await?;
        let found: Vec<Option<(MessageKey, usize)>> = found;
        let (mut keys, mut bytes) = (Vec::new(), 0);
        let mut left = found.iter().flatten().peekable();
        while let Some((key, length)) = left.next() {
            keys.push(*key);
            bytes += length;
            // SQLite reads a payload to its end to free its pages, and others wait for that.
            if bytes as i64 >= MAX_BYTES_ERASED || left.peek().is_none() {
                let (slice, rows) = (std::mem::take(&mut keys), FEW_ROWS + rows_of(std::mem::take(&mut bytes)));
                self.writer
                    .run_rows(application, rows, move |tx| erase(tx, slice).map_err(Abort::<StoreError>::from))
                    .await?;
            }
        }
        Ok(found.iter().map(Option::is_some).collect())
    }
}

/// What the application of a message that can be found meets.
pub(crate) const LIVE: &str = "EXISTS (SELECT 1 FROM application WHERE no = ?1 AND deleted_at IS NULL)";

/// Which messages a filter lets through, given its list of types as ?5, its channel as ?6 and its tag as ?8.
pub(crate) const FILTER: &str = "(?5 IS NULL OR message.event_type IN (SELECT value FROM json_each(?5)))
     AND (?6 IS NULL OR instr(message.channels, ?6) > 0)
     AND (?8 IS NULL OR instr(message.tags, ?8) > 0)";

/// A filter's channel or tag, for [`FILTER`]: as it stands in the column's JSON. Nothing else there has it inside, because
/// names hold no quotes.
pub(crate) fn quoted(name: Option<&impl std::fmt::Display>) -> Option<String> {
    name.map(|name| format!("\"{name}\""))
}

/// A filter's list of types, for [`FILTER`].
pub(crate) fn types(names: Option<&Vec<EventTypeName>>) -> Option<String> {
    names.map(|names| json_list(names.iter().map(EventTypeName::as_str)))
}

/// Whether a filter lets a message through, by its names.
pub(crate) fn passes(connection: &Connection, message: MessageKey, filter: &AttemptFilter) -> Result<bool, SqlError> {
    // The parameters of the filter have their numbers; the others are not asked for.
    let mut statement = connection.prepare_cached(&format!("SELECT 1 FROM message WHERE no = ?1 AND {FILTER}"))?;
    let (types, channel, tag) =
        (types(filter.event_types.as_ref()), quoted(filter.channel.as_ref()), quoted(filter.tag.as_ref()));
    Ok(statement.exists(params![message.0, Null, Null, Null, types, channel, Null, tag])?)
}

/// A message, and the bytes of its payload.
fn find_payload(
    connection: &Connection,
    application: ApplicationKey,
    id: &IdOrUid<MessageId>,
) -> Result<Option<(MessageKey, usize)>, SqlError> {
    let Some(key) = find_key(connection, application, id)? else { return Ok(None) };
    let mut length = connection.prepare_cached("SELECT octet_length(body) FROM payload WHERE message_no = ?")?;
    let length: Option<usize> = length.query_row([key.0], |row| row.get(0)).optional()?;
    Ok(Some((key, length.unwrap_or(0))))
}

/// Erases payloads, and tells observers.
pub(crate) fn erase(tx: &Tx<'_>, messages: Vec<MessageKey>) -> Result<(), SqlError> {
    let mut erase = tx.prepare_cached("DELETE FROM payload WHERE message_no = ?")?;
    for message in &messages {
        erase.execute([message.0])?;
    }
    if !messages.is_empty() {
        tx.tell(News::MessagesExpunged(messages));
    }
    Ok(())
}

/// The number of a message, without reading its payload.
fn find_key(
    connection: &Connection,
    application: ApplicationKey,
    id: &IdOrUid<MessageId>,
) -> Result<Option<MessageKey>, SqlError> {
    let by = match id {
        IdOrUid::Id(_) => "id",
        IdOrUid::Uid(_) => "event_id",
    };
    let sql = format!("SELECT no FROM message WHERE application_no = ?1 AND {by} = ?2 AND {LIVE}");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = match id {
        IdOrUid::Id(id) => statement.query(params![application.0, id.ksuid().as_bytes()])?,
        IdOrUid::Uid(uid) => statement.query(params![application.0, uid])?,
    };
    first(rows, |row| Ok(MessageKey(row.get(0)?)))
}

fn find(
    connection: &Connection,
    application: ApplicationKey,
    id: &IdOrUid<MessageId>,
    with_payload: bool,
) -> Result<Option<Stored<MessageKey, Message>>, SqlError> {
    let payload = if with_payload { PAYLOAD } else { "NULL" };
    let by = match id {
        IdOrUid::Id(_) => "id",
        IdOrUid::Uid(_) => "event_id",
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {MESSAGE_COLUMNS}, {payload} AS payload FROM message WHERE application_no = ?1 AND {by} = ?2 AND {LIVE}"
    ))?;
    let rows = match id {
        IdOrUid::Id(id) => statement.query(params![application.0, id.ksuid().as_bytes()])?,
        IdOrUid::Uid(uid) => statement.query(params![application.0, uid])?,
    };
    first(rows, decode_message)
}

fn list_sql(order: &str) -> String {
    format!(
        "SELECT {MESSAGE_COLUMNS}, CASE WHEN ?7 THEN {PAYLOAD} END AS payload FROM message
         WHERE application_no = ?1 AND id >= ?2 AND id < ?3 AND {LIVE} AND {FILTER}
         ORDER BY id {order} LIMIT ?4"
    )
}

fn list(
    connection: &Connection,
    application: ApplicationKey,
    filter: &MessageFilter,
    scan: Scan<Ksuid>,
) -> Result<Walked<Message>, SqlError> {
    let range = Range::of_ids(scan);
    let (types, channel, tag) =
        (types(filter.event_types.as_ref()), quoted(filter.channel.as_ref()), quoted(filter.tag.as_ref()));
    let mut statement = connection.prepare_cached(&list_sql(range.order))?;
    let read = |low: &[u8], high: &[u8], page: &mut Gathered<Message>| {
        let rows =
            statement.query(params![application.0, low, high, NO_LIMIT, types, channel, filter.with_payload, tag])?;
        page.take(rows, |row| Ok(row.get("id")?), |row| Ok(sized(decode_message(row)?.value)))
    };
    let list = List { log: MESSAGES, owner: application.0, range: &range };
    let MessageFilter { event_types, channel, tag, .. } = filter;
    let wanted = Wanted { event_types: event_types.as_deref(), channel: channel.as_ref(), tag: tag.as_ref() };
    if wanted.is_all() {
        return list.walk(read);
    }
    list.gather(connection, wanted.clauses(&[About::Message]), Named::Blocks, read)
}

/// A message, and how many bytes its payload has.
pub(crate) fn sized(message: Message) -> (Message, usize) {
    let bytes = message.payload.as_ref().map_or(0, |payload| payload.len());
    (message, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plans::assert_walks;

    #[test]
    fn a_page_walks_the_index_of_its_application() {
        for order in ["ASC", "DESC"] {
            assert_walks(&list_sql(order), "message USING INDEX message_by_id (application_no=? AND id>? AND id<?)");
        }
    }
}
