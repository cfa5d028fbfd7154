//! Whose something is: environments and applications by number, and the version of an application's routes, which whatever changes
//! them raises.

use postrider_domain::application::EnvironmentId;
use postrider_store::{ApplicationKey, EndpointKey};
use rusqlite::{Connection, OptionalExtension as _};

use crate::engine::decode::SqlError;
use crate::engine::tx::Tx;

/// The version after an application's. Whatever is stored, it fits, also added to that of an environment.
pub(crate) const NEXT_VERSION: &str = "(version & 0x3fffffffffffffff) + 1";

/// The version of the routes of an application, from `application JOIN environment`: both parts only grow.
pub(crate) const ROUTES_VERSION: &str = "(version & 0x3fffffffffffffff) + (rules_version & 0x3fffffffffffffff)";

/// The number of an environment, which exists from now on if it did not.
pub(crate) fn environment_number(tx: &Tx<'_>, environment: &EnvironmentId) -> Result<i64, SqlError> {
    let known = tx
        .prepare_cached("SELECT no FROM environment WHERE id = ?")?
        .query_row([environment.as_str()], |row| row.get(0))
        .optional()?;
    match known {
        Some(number) => Ok(number),
        None => Ok(tx.prepare_cached("INSERT INTO environment (id) VALUES (?)")?.insert([environment.as_str()])?),
    }
}

/// Whose endpoint it is.
pub(crate) fn application_of(
    connection: &Connection,
    endpoint: EndpointKey,
) -> Result<Option<ApplicationKey>, SqlError> {
    let mut statement = connection.prepare_cached("SELECT application_no FROM endpoint WHERE no = ?")?;
    Ok(statement.query_row([endpoint.0], |row| row.get(0).map(ApplicationKey)).optional()?)
}

/// An event type changes: what intake knows of it is out of date, if it looks at event types at all.
pub(crate) fn rules_changed(tx: &Tx<'_>, environment: &EnvironmentId) -> Result<(), SqlError> {
    tx.prepare_cached(
        "UPDATE environment SET rules_version = (rules_version & 0x3fffffffffffffff) + 1
         WHERE id = ? AND (schema_enforcement <> 0 OR unknown_event_types <> 0)",
    )?
    .execute([environment.as_str()])?;
    Ok(())
}
