//! How much an application's callers may have sent again. What is logged of it stays for `retention.history`, and whoever may ask
//! for one message may ask for it at endpoints that he makes without end: without a bound, one tenant's token fills the disk.

use std::time::Duration;

use postrider_domain::allowance::Allowance;
use postrider_domain::time::Timestamp;
use postrider_store::ApplicationKey;
use rusqlite::{Connection, params};

use crate::decode::{Columns, SqlError, first};

/// Who asks. Each has an allowance of its own: whoever takes one attempt as soon as it is there would leave nothing to whoever
/// needs several at a time, and a task that takes whatever is there would leave nothing to whoever asks now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// Whoever has one message sent again.
    Call,
    /// Tasks.
    Task,
}

impl Asker {
    fn column(self) -> &'static str {
        match self {
            Self::Call => "whole_at",
            Self::Task => "tasks_whole_at",
        }
    }
}

/// What was asked for.
pub(crate) fn found(connection: &Connection, application: ApplicationKey, asker: Asker) -> Result<Allowance, SqlError> {
    let column = asker.column();
    let mut statement = connection.prepare_cached(&format!("SELECT {column} FROM asked WHERE application_no = ?"))?;
    let found = first(statement.query([application.0])?, |row| Columns::new(row, "asked").instant(column))?;
    Ok(found.map_or(Allowance::WHOLE, Allowance::whole_at))
}

/// Notes that so many attempts were asked for, and returns what is left; or notes nothing, and says how long it takes until there
/// is room for them.
pub(crate) fn spend(
    connection: &Connection,
    application: ApplicationKey,
    (asker, attempts): (Asker, u64),
    per_day: u64,
    now: Timestamp,
) -> Result<Result<Allowance, Duration>, SqlError> {
    let before = found(connection, application, asker)?;
    let after = match before.spend(attempts, per_day, now) {
        Ok(after) if attempts == 0 => return Ok(Ok(after)),
        Ok(after) => after,
        Err(wait) => return Ok(Err(wait)),
    };
    let column = asker.column();
    let other = match asker {
        Asker::Call => Asker::Task.column(),
        Asker::Task => Asker::Call.column(),
    };
    connection
        .prepare_cached(&format!(
            "INSERT INTO asked (application_no, {column}, {other}) VALUES (?, ?, 0)
             ON CONFLICT DO UPDATE SET {column} = excluded.{column}"
        ))?
        .execute(params![application.0, after.until().as_micros()])?;
    Ok(Ok(after))
}
