//! How much an application's callers may have sent again. What is logged of it stays for `retention.history`, and whoever may ask
//! for one message may ask for it at endpoints that he makes without end: without a bound, one tenant's token fills the disk.

use std::time::Duration;

use postrider_domain::allowance::Allowance;
use postrider_domain::time::Timestamp;
use postrider_store::ApplicationKey;
use rusqlite::{Connection, params};

use crate::decode::{Columns, SqlError, first};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// Whoever has one message sent again. He leaves a tenth of the day's to tasks: they ask for more at a time, and would never
    /// find it while somebody takes one as soon as it is there.
    Call,
    /// A step of a task.
    Task,
}

/// Notes that so many attempts were asked for; or notes nothing, and says how long it takes until there is room for them.
pub(crate) fn spend(
    connection: &Connection,
    application: ApplicationKey,
    (asker, attempts): (Asker, u64),
    per_day: u64,
    now: Timestamp,
) -> Result<Result<(), Duration>, SqlError> {
    if attempts == 0 {
        return Ok(Ok(()));
    }
    let mut statement = connection.prepare_cached("SELECT whole_at FROM asked WHERE application_no = ?")?;
    let found = first(statement.query([application.0])?, |row| Columns::new(row, "asked").instant("whole_at"))?;
    let before = found.map_or(Allowance::WHOLE, Allowance::whole_at);
    let leaving = if asker == Asker::Call { per_day / 10 } else { 0 };
    let after = match before.spend_leaving(attempts, leaving, per_day, now) {
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
