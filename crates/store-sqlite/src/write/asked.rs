//! How much an application's callers may have sent again, and what its endpoints' former URLs may take. What is logged stays for
//! `retention.history`, with the URL that it went to, and whoever may ask for one message may ask for it at endpoints that he makes,
//! or at URLs that he changes, without end: without a bound, one tenant's token fills the disk.

use std::time::Duration;

use postrider_domain::allowance::Allowance;
use postrider_domain::time::Timestamp;
use postrider_store::ApplicationKey;
use rusqlite::{Connection, params};

use crate::engine::decode::{Columns, SqlError, first};

/// What was used for. Each has an allowance of its own: whoever takes one attempt as soon as it is there would leave nothing to whoever
/// needs several at a time, and a task that takes whatever is there would leave nothing to whoever asks now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Attempts, for whoever has one message sent again.
    Call,
    /// Attempts, for tasks.
    Task,
    /// Bytes, for URLs that are former ones.
    Urls,
}

impl Use {
    fn column(self) -> &'static str {
        match self {
            Self::Call => "whole_at",
            Self::Task => "tasks_whole_at",
            Self::Urls => "urls_whole_at",
        }
    }
}

/// What is left, by what was used.
pub(crate) fn found(connection: &Connection, application: ApplicationKey, used: Use) -> Result<Allowance, SqlError> {
    let column = used.column();
    let mut statement = connection.prepare_cached(&format!("SELECT {column} FROM asked WHERE application_no = ?"))?;
    let found = first(statement.query([application.0])?, |row| Columns::new(row, "asked").instant(column))?;
    Ok(found.map_or(Allowance::WHOLE, Allowance::whole_at))
}

/// Notes that so much was used, and returns what is left; or notes nothing, and says how long it takes until there
/// is room for them.
pub(crate) fn spend(
    connection: &Connection,
    application: ApplicationKey,
    (used, amount): (Use, u64),
    per_day: u64,
    now: Timestamp,
) -> Result<Result<Allowance, Duration>, SqlError> {
    let before = found(connection, application, used)?;
    let after = match before.spend(amount, per_day, now) {
        Ok(after) if amount == 0 => return Ok(Ok(after)),
        Ok(after) => after,
        Err(wait) => return Ok(Err(wait)),
    };
    let column = used.column();
    connection
        .prepare_cached("INSERT OR IGNORE INTO asked (application_no, whole_at) VALUES (?, 0)")?
        .execute([application.0])?;
    connection
        .prepare_cached(&format!("UPDATE asked SET {column} = ? WHERE application_no = ?"))?
        .execute(params![after.until().as_micros(), application.0])?;
    Ok(Ok(after))
}

/// Notes that so much was used, though there may not be so much left: then nothing is.
pub(crate) fn take(
    connection: &Connection,
    application: ApplicationKey,
    (used, amount): (Use, u64),
    per_day: u64,
    now: Timestamp,
) -> Result<(), SqlError> {
    let left = found(connection, application, used)?.left(per_day, now);
    spend(connection, application, (used, amount.min(left)), per_day, now)?.map(drop).or(Ok(()))
}
