//! Erasing the payloads of an application's messages, by number of messages and by bytes: freeing the pages of a large
//! payload takes its time, too.

use postrider_domain::ids::Ksuid;
use postrider_domain::time::Timestamp;
use postrider_store::{ApplicationKey, MessageKey};
use rusqlite::{Connection, params};

use super::{Effects, Slice, Stage, after, count, end, place};
use crate::engine::decode::SqlError;
use crate::engine::range;
use crate::limits::MAX_BYTES_ERASED;

const PURGE_SQL: &str =
    "SELECT id, no, (SELECT length(body) FROM payload WHERE payload.message_no = message.no) FROM message
     WHERE application_no = ? AND id >= ? AND id < ? ORDER BY id LIMIT ?";

pub(super) fn purge(connection: &Connection, mut stage: Stage, application: ApplicationKey) -> Result<Slice, SqlError> {
    let mut statement = connection.prepare_cached(PURGE_SQL)?;
    let mut rows = statement.query(params![
        application.0,
        after(&stage.cursor, Ksuid::floor(Timestamp::EPOCH)),
        end(stage.created_at).as_bytes(),
        range::limit(stage.bounds.rows)
    ])?;
    let (mut messages, mut bytes, mut seen, mut cursor) = (Vec::new(), 0, 0, stage.cursor);
    while let Some(row) = rows.next()? {
        seen += 1;
        cursor = place(&row.get::<_, [u8; 20]>(0)?);
        if let Some(length) = row.get::<_, Option<i64>>(2)? {
            messages.push(MessageKey(row.get(1)?));
            bytes += length;
        }
        if bytes >= MAX_BYTES_ERASED {
            // There may be more.
            seen = stage.bounds.rows;
            break;
        }
    }
    count(&mut stage.data, "messages", 0);
    Ok(Slice {
        cursor,
        data: stage.data,
        ended: seen < stage.bounds.rows,
        effects: Effects::Erase(messages),
        ..Slice::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_walked_by_their_index() {
        crate::engine::plans::assert_walks(
            PURGE_SQL,
            "message USING COVERING INDEX message_by_id (application_no=? AND id>? AND id<?)",
        );
    }
}
