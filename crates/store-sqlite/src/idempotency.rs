//! The keys of POSTs other than message creation: the answer is stored with what it answers, in one commit. (Messages
//! store their own number instead; see the hot path.)

use bytes::Bytes;
use postrider_domain::time::Timestamp;
use postrider_store::{Once, StoredAnswer};
use rusqlite::{OptionalExtension as _, params};

use crate::decode::SqlError;
use crate::writer::Tx;

/// The answer that was given before under this key, if it is not too old.
pub(crate) fn replay<T>(tx: &Tx<'_>, once: Option<&Once<T>>) -> Result<Option<StoredAnswer>, SqlError> {
    let Some(once) = once else { return Ok(None) };
    let answer = tx
        .prepare_cached(
            "SELECT status, body FROM idempotency WHERE key = ? AND created_at >= ? AND status IS NOT NULL",
        )?
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
