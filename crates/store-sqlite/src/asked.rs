//! How much an application's callers may have sent again. What is logged of it stays for `retention.history`, and whoever may ask
//! for one message may ask for it at endpoints that he makes without end: without a bound, one tenant's token fills the disk.

use std::time::Duration;

use postrider_domain::allowance::Allowance;
use postrider_domain::time::Timestamp;
use postrider_store::ApplicationKey;
use rusqlite::{Connection, params};

use crate::decode::{Columns, SqlError, first};

/// Notes that so many attempts were asked for; or notes nothing, and says how long it takes until there is room for them.
pub(crate) fn spend(
    connection: &Connection,
    application: ApplicationKey,
    attempts: u64,
    per_day: u64,
    now: Timestamp,
) -> Result<Result<(), Duration>, SqlError> {
    if attempts == 0 {
        return Ok(Ok(()));
    }
    let mut statement = connection.prepare_cached("SELECT whole_at FROM asked WHERE application_no = ?")?;
    let found = first(statement.query([application.0])?, |row| Columns::new(row, "asked").instant("whole_at"))?;
    let before = found.map_or(Allowance::WHOLE, Allowance::whole_at);
    let after = match before.spend(attempts, per_day, now) {
        Ok(after) => after,
        Err(wait) => return Ok(Err(wait)),
    };
    connection
        .prepare_cached(
            "INSERT INTO asked (application_no, whole_at) VALUES (?, ?)
             ON CONFLICT DO UPDATE SET whole_at = excluded.whole_at",
        )?
        .execute(params![application.0, after.until().as_micros()])?;
    Ok(Ok(()))
}
