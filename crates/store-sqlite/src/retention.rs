//! Removing payloads whose time has come.
//!
//! Those that are kept for the server's time go in the order of their numbers, which is that of their creation: a cursor
//! (`sequence`, name `retention`) stands at the first that may still have its payload. Those with a time of their own are
//! in a partial index. A message that the cursor passes before it is due gets a time of its own.

use std::time::Duration;

use async_trait::async_trait;
use postrider_domain::time::Timestamp;
use postrider_store::{MessageKey, Retention, StoreError, Swept};
use rusqlite::{Connection, params};

use crate::SqliteStore;
use crate::decode::SqlError;
use crate::messages::erase;
use crate::range;
use crate::tasks::MAX_BYTES_ERASED;
use crate::writer::{Abort, Tx};

#[async_trait]
impl Retention for SqliteStore {
    async fn sweep_payloads(&self, now: Timestamp, kept: Duration, rows: usize) -> Result<Swept, StoreError> {
        // Nobody else moves the cursor, so it can be read apart from the write.
        let slice = self.lists.run(move |connection| read(connection, now, kept, rows)).await?;
        if slice.is_nothing() {
            return Ok(Swept { removed: 0, more: false });
        }
        let swept = Swept { removed: slice.expired.len(), more: slice.more };
        self.writer.run(move |tx| Ok::<_, Abort<StoreError>>(write(tx, slice, kept)?)).await?;
        Ok(swept)
    }
}

/// What a sweep is to do.
#[derive(Default)]
struct Slice {
    expired: Vec<MessageKey>,
    /// Not due yet when the cursor passes them.
    put_off: Vec<MessageKey>,
    bytes: i64,
    /// Where the cursor moves to.
    next: Option<i64>,
    more: bool,
}

impl Slice {
    fn is_nothing(&self) -> bool {
        self.expired.is_empty() && self.next.is_none()
    }

    fn expires(&mut self, message: i64, bytes: i64) {
        self.expired.push(MessageKey(message));
        self.bytes += bytes;
    }

    fn is_full(&self) -> bool {
        self.bytes >= MAX_BYTES_ERASED
    }
}

const OWN_TIME_SQL: &str = "SELECT no, length(payload) FROM message
     WHERE expires_at <= ? AND payload IS NOT NULL ORDER BY expires_at LIMIT ?";

const CURSOR_SQL: &str =
    "SELECT no, length(payload), expires_at IS NOT NULL, created_at, coalesce(deliver_at, created_at)
     FROM message WHERE no >= (SELECT next FROM sequence WHERE name = 'retention') ORDER BY no LIMIT ?";

fn read(connection: &Connection, now: Timestamp, kept: Duration, rows: usize) -> Result<Slice, SqlError> {
    let mut slice = Slice::default();
    let mut seen = 0;
    let mut own_time = connection.prepare_cached(OWN_TIME_SQL)?;
    let mut found = own_time.query(params![now.as_micros(), range::limit(rows)])?;
    while let Some(row) = found.next()? {
        seen += 1;
        slice.expires(row.get(0)?, row.get(1)?);
        if slice.is_full() {
            break;
        }
    }
    slice.more = seen == rows || slice.is_full();
    if slice.more {
        return Ok(slice);
    }
    let until = now.saturating_sub(kept).as_micros();
    let mut cursor = connection.prepare_cached(CURSOR_SQL)?;
    let mut found = cursor.query([range::limit(rows)])?;
    let mut passed = 0;
    while let Some(row) = found.next()? {
        let (message, bytes): (i64, Option<i64>) = (row.get(0)?, row.get(1)?);
        let (has_own_time, created_at, due_at): (bool, i64, i64) = (row.get(2)?, row.get(3)?, row.get(4)?);
        if created_at > until || slice.is_full() {
            break;
        }
        passed += 1;
        slice.next = Some(message + 1);
        match bytes {
            Some(_) if has_own_time => {}
            Some(_) if due_at > until => slice.put_off.push(MessageKey(message)),
            Some(bytes) => slice.expires(message, bytes),
            None => {}
        }
    }
    slice.more = passed == rows || slice.is_full();
    Ok(slice)
}

fn write(tx: &Tx<'_>, slice: Slice, kept: Duration) -> Result<(), SqlError> {
    let kept = i64::try_from(kept.as_micros()).unwrap_or(i64::MAX);
    let mut put_off =
        tx.prepare_cached("UPDATE message SET expires_at = deliver_at + ?2 WHERE no = ?1 AND expires_at IS NULL")?;
    for message in &slice.put_off {
        put_off.execute(params![message.0, kept])?;
    }
    erase(tx, slice.expired)?;
    if let Some(next) = slice.next {
        tx.prepare_cached("UPDATE sequence SET next = ? WHERE name = 'retention'")?.execute([next])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plans::{assert_walks, plan};

    #[test]
    fn only_what_has_a_time_of_its_own_is_in_the_index() {
        assert_walks(OWN_TIME_SQL, "message USING INDEX message_by_expiry (expires_at<?)");
    }

    #[test]
    fn the_rest_is_walked_from_the_cursor_on() {
        let plan = plan(CURSOR_SQL);
        let walked = "SEARCH message USING INTEGER PRIMARY KEY (rowid>?)".to_owned();
        assert!(plan.contains(&walked) && !plan.iter().any(|step| step.contains("TEMP")), "{plan:#?}");
    }
}
