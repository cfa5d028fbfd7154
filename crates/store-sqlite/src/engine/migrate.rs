//! Bringing a database to the schema that this version knows. `user_version` counts the migrations that were applied;
//! each runs in a transaction of its own together with the count.

use std::path::Path;

use rusqlite::Connection;

use crate::engine::files::APPLICATION_ID;
use crate::engine::open_error::OpenError;

/// In order; a migration that was released is never changed.
pub(crate) const MIGRATIONS: [&str; 20] = [
    include_str!("../../migrations/0001_initial.sql"),
    include_str!("../../migrations/0002_whole_contract.sql"),
    include_str!("../../migrations/0003_retention.sql"),
    include_str!("../../migrations/0004_endpoint_state.sql"),
    include_str!("../../migrations/0005_task_turns.sql"),
    include_str!("../../migrations/0006_answers.sql"),
    include_str!("../../migrations/0007_leftovers.sql"),
    include_str!("../../migrations/0008_event_types.sql"),
    include_str!("../../migrations/0009_asked.sql"),
    include_str!("../../migrations/0010_asked_by_tasks.sql"),
    include_str!("../../migrations/0011_endpoint_facts.sql"),
    include_str!("../../migrations/0012_attempts_of_messages.sql"),
    include_str!("../../migrations/0013_names_by_themselves.sql"),
    include_str!("../../migrations/0014_former_urls.sql"),
    include_str!("../../migrations/0015_later_deliveries.sql"),
    include_str!("../../migrations/0016_lists_that_end.sql"),
    include_str!("../../migrations/0017_bounds.sql"),
    include_str!("../../migrations/0018_streams.sql"),
    include_str!("../../migrations/0019_receivers.sql"),
    include_str!("../../migrations/0020_notices.sql"),
];

/// Whether nothing is missing.
pub(crate) fn is_current(connection: &Connection, path: &Path) -> Result<bool, OpenError> {
    Ok(applied(connection, path)? == MIGRATIONS.len())
}

/// Whether there is nothing in it. Refuses a file that is not ours, or of a newer version.
pub(crate) fn is_empty(connection: &Connection, path: &Path) -> Result<bool, OpenError> {
    Ok(applied(connection, path)? == 0)
}

/// How many migrations were applied; refuses a file that is not ours, or of a newer version.
fn applied(connection: &Connection, path: &Path) -> Result<usize, OpenError> {
    let driver = |error: rusqlite::Error| OpenError::database(path, &error);
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(driver);
    let found = pragma("user_version")?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(driver)?;
    if tables > 0 && pragma("application_id")? != i64::from(APPLICATION_ID) {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    match usize::try_from(found) {
        Ok(version) if version <= MIGRATIONS.len() => Ok(version),
        _ => Err(OpenError::Newer { path: path.to_owned(), found, known: MIGRATIONS.len() }),
    }
}

/// Applies what is missing.
pub(crate) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let applied = applied(connection, path)?;
    if applied > 0 && applied < MIGRATIONS.len() {
        // Whoever waits for the start of a server with a large store should know for what.
        let (from, to) = (applied, MIGRATIONS.len());
        tracing::info!(path = %path.display(), from, to, "bringing the store to the form of this version; that takes time by its size");
    }
    for (version, sql) in MIGRATIONS.iter().enumerate().skip(applied) {
        let driver = |error: rusqlite::Error| OpenError::migration(path, version + 1, MIGRATIONS.len(), &error);
        let transaction = connection.transaction().map_err(driver)?;
        transaction.execute_batch(sql).map_err(driver)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(driver)?;
        transaction.pragma_update(None, "user_version", version + 1).map_err(driver)?;
        transaction.commit().map_err(driver)?;
    }
    Ok(())
}
