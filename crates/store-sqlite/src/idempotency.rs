//! The keys of POSTs other than message creation: the answer is stored with what it answers, in one commit. (`keys` has
//! those of messages.)

use bytes::Bytes;
use postrider_domain::time::Timestamp;
use postrider_store::{IdempotencyKey, Once, StoredAnswer};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::decode::SqlError;
use crate::writer::Tx;

/// The answer that was given before under this key, if it is not too old.
pub(crate) fn replay<T>(tx: &Tx<'_>, once: Option<&Once<T>>) -> Result<Option<StoredAnswer>, SqlError> {
    let Some(once) = once else { return Ok(None) };
    let answer = tx
        .prepare_cached("SELECT status, body FROM idempotency WHERE key = ? AND created_at >= ?")?
        .query_row(params![once.key.0, once.not_before.as_micros()], |row| {
            Ok(StoredAnswer { status: row.get(0)?, body: Bytes::from(row.get::<_, Vec<u8>>(1)?) })
        })
        .optional()?;
    Ok(answer)
}

/// Stores the answer to give next time.
pub(crate) fn remember<T>(tx: &Tx<'_>, once: Option<Once<T>>, written: &T, now: Timestamp) -> Result<(), SqlError> {
    let Some(once) = once else { return Ok(()) };
    let answer = (once.answer)(written);
    tx.prepare_cached("INSERT OR REPLACE INTO idempotency (key, created_at, status, body) VALUES (?, ?, ?, ?)")?
        .execute(params![once.key.0, now.as_micros(), answer.status, answer.body.as_ref()])?;
    Ok(())
}

/// Above all keys that are likely to be there.
pub(crate) const LAST: IdempotencyKey = IdempotencyKey([0xff; 16]);

/// Removes keys from before `before` among the next `limit` after `from`; returns where to go on.
pub(crate) fn forget(
    connection: &Connection,
    before: Timestamp,
    from: Option<IdempotencyKey>,
    limit: usize,
) -> Result<Option<IdempotencyKey>, SqlError> {
    let from = from.map_or(Vec::new(), |key| key.0.to_vec());
    // The last key of the slice; none if fewer than `limit` are left.
    let last: Option<[u8; 16]> = connection
        .prepare_cached("SELECT key FROM idempotency WHERE key > ? ORDER BY key LIMIT 1 OFFSET ?")?
        .query_row(params![from, limit.saturating_sub(1)], |row| row.get(0))
        .optional()?;
    // Longer than any key, so above all of them.
    let to = last.map_or(vec![0xff; 17], |key| key.to_vec());
    connection
        .prepare_cached("DELETE FROM idempotency WHERE key > ? AND key <= ? AND created_at < ?")?
        .execute(params![from, to, before.as_micros()])?;
    Ok(last.map(IdempotencyKey))
}
