//! What is known of the attempts of one message to one endpoint, of which its state is read.

use postrider_domain::ids::Ksuid;
use postrider_domain::time::Timestamp;
use postrider_store::Tried;
use rusqlite::Row;

use crate::engine::decode::SqlError;

/// The attempts of message ?1 to endpoint ?2.
pub(crate) const TRIED_SQL: &str = "SELECT id, succeeded, next_attempt_at, started_at, number
     FROM attempt INDEXED BY attempt_by_message WHERE message_no = ?1 AND endpoint_no = ?2";

/// Reads what [`TRIED_SQL`] says of an attempt.
pub(crate) fn decode_tried(row: &Row<'_>) -> Result<Tried, SqlError> {
    let next_attempt_at: Option<i64> = row.get(2)?;
    Ok(Tried {
        id: Ksuid::from_bytes(row.get(0)?),
        succeeded: row.get(1)?,
        next_attempt_at: next_attempt_at.map(Timestamp::from_micros),
        started_at: Timestamp::from_micros(row.get(3)?),
        number: row.get(4)?,
    })
}
