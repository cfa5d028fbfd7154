//! Settings of environments, which are columns of the environment's row, and imports.
//!
//! `rules_version` is what keeps intake honest: it grows in the same transaction as anything that messages are checked
//! against, and the accept commit refuses routes of an older version. While an environment has no rules, its event types
//! change without it, so nobody's routes are loaded again for nothing.

use std::collections::VecDeque;

use async_trait::async_trait;
use postrider_domain::application::EnvironmentId;
use postrider_domain::environment::{
    EnvironmentSettings, EnvironmentSettingsPatch, MessageRules, SchemaEnforcement, UnknownEventTypes,
};
use postrider_domain::event_type::EventTypePatch;
use postrider_domain::names::EventTypeName;
use postrider_domain::time::Timestamp;
use postrider_store::{
    Capped, Environments, Import, ImportedEventType, Once, StoreError, StoredAnswer, WriteError, Written,
};
use rusqlite::{Connection, Row, params};

use crate::areas::event_types;
use crate::engine::askers::Whose;
use crate::engine::decode::{Columns, SqlError, all, first, readable};
use crate::engine::tx::{Abort, FEW_ROWS, Tx};
use crate::store::SqliteStore;
use crate::write::idempotency::{self, Subject};
use crate::write::owners::environment_number;

/// How many rows what an import brings of an event type counts as: it is looked for, and written with its schemas.
pub(crate) fn weight(imported: &ImportedEventType) -> usize {
    2 + event_types::rows_of_schemas(imported.new.schemas.as_ref())
}

/// What an import does to one event type.
enum Entry {
    /// It is added, or made as it should be.
    Bring(Box<ImportedEventType>),
    /// It is archived, if it is there and is not.
    Archive(String),
}

impl Entry {
    /// How many rows it counts as: what it brings, and what is there, which is written again.
    fn rows(&self, connection: &Connection, environment: &EnvironmentId) -> Result<usize, SqlError> {
        let (brought, name) = match self {
            Self::Bring(imported) => (weight(imported), imported.new.name.as_str()),
            Self::Archive(name) => (2, name.as_str()),
        };
        Ok(brought + event_types::stored(connection, environment, name)?)
    }

    fn carry_out(
        self,
        tx: &Tx<'_>,
        environment: &EnvironmentId,
        room: &mut event_types::Room,
        now: Timestamp,
    ) -> Result<Option<EventTypeName>, Abort<WriteError>> {
        match self {
            Self::Bring(imported) => add_or_change(tx, environment, room, *imported, now),
            Self::Archive(name) => archive(tx, environment, &name, now),
        }
    }
}

#[async_trait]
impl Environments for SqliteStore {
    async fn environment_settings(&self, environment: &EnvironmentId) -> Result<EnvironmentSettings, StoreError> {
        let environment = environment.clone();
        self.readers.run(move |connection| read(connection, &environment)).await
    }

    async fn update_environment_settings(
        &self,
        environment: &EnvironmentId,
        patch: EnvironmentSettingsPatch,
        now: Timestamp,
    ) -> Result<EnvironmentSettings, StoreError> {
        let environment = environment.clone();
        self.writer.run(Whose::from(&environment), move |tx| Ok(change(tx, &environment, patch, now)?)).await
    }

    async fn import(
        &self,
        environment: &EnvironmentId,
        import: Import,
        now: Timestamp,
        once: Option<Once<Vec<EventTypeName>>>,
    ) -> Result<Written<Vec<EventTypeName>>, WriteError> {
        let environment = environment.clone();
        let once = match once {
            Some(once) => match self.replay_or_return(&environment, once).await? {
                Ok(answer) => return Ok(Written::Replayed(answer)),
                Err(once) => Some(once),
            },
            None => None,
        };
        let plan = {
            let environment = environment.clone();
            self.lists.run(move |connection| Plan::of(connection, &environment, import)).await?
        };
        let Plan { mut entries, mut rows, settings, most, fits } = plan;
        if !fits {
            return Err(WriteError::Full { of: Capped::EventTypes, most });
        }
        let whose = Whose::from(&environment);
        let mut changed = Vec::new();
        while !entries.is_empty() {
            let environment = environment.clone();
            let take = move |tx: &Tx<'_>| step(tx, &environment, entries, rows, (most, now));
            let taken = self.writer.run_rows(whose.clone(), rows, take).await?;
            changed.extend(taken.changed);
            (entries, rows) = (taken.left, taken.rows);
        }
        changed.sort();
        // The answer names what has changed.
        let rows = if once.is_some() { FEW_ROWS + changed.len() } else { FEW_ROWS };
        let finish = move |tx: &Tx<'_>| {
            change(tx, &environment, settings, now)?;
            idempotency::remember(tx, once, Subject::ENVIRONMENT, &changed, now)?;
            Ok(Written::Done(changed))
        };
        self.writer.run_rows(whose, rows, finish).await
    }
}

impl SqliteStore {
    /// The answer that was given before under a key, or the key.
    async fn replay_or_return<T: Send + 'static>(
        &self,
        environment: &EnvironmentId,
        once: Once<T>,
    ) -> Result<Result<StoredAnswer, Once<T>>, WriteError> {
        self.writer
            .run(environment, move |tx| {
                let answer = idempotency::replay(tx, Some(&once), Subject::ENVIRONMENT)?;
                Ok::<_, Abort<WriteError>>(answer.ok_or(once))
            })
            .await
    }
}

/// Rows of one step of an import. Others write in between.
const STEP_ROWS: usize = 256;

/// How many rows the first step of these counts as. One that has more by itself is a step of its own.
fn rows_of_step(
    connection: &Connection,
    environment: &EnvironmentId,
    entries: &VecDeque<Entry>,
) -> Result<usize, SqlError> {
    let mut rows = 0;
    for entry in entries {
        let more = entry.rows(connection, environment)?;
        if rows > 0 && rows + more > STEP_ROWS {
            break;
        }
        rows += more;
    }
    Ok(rows)
}

/// What became of a step of an import.
struct Taken {
    changed: Vec<EventTypeName>,
    left: VecDeque<Entry>,
    /// How many rows the first step of what is left counts as.
    rows: usize,
}

/// Carries out as much as so many rows are enough for: what is there may have become larger since they were counted.
fn step(
    tx: &Tx<'_>,
    environment: &EnvironmentId,
    mut left: VecDeque<Entry>,
    mut rows: usize,
    (most, now): (u64, Timestamp),
) -> Result<Taken, Abort<WriteError>> {
    let mut room = event_types::Room::of(tx, environment, most)?;
    let mut changed = Vec::new();
    while let Some(entry) = left.pop_front() {
        match rows.checked_sub(entry.rows(tx, environment)?) {
            Some(rest) => rows = rest,
            None => {
                left.push_front(entry);
                break;
            }
        }
        changed.extend(entry.carry_out(tx, environment, &mut room, now)?);
    }
    let rows = rows_of_step(tx, environment, &left)?;
    Ok(Taken { changed, left, rows })
}

/// What an import has to do, found out without keeping anybody from writing, and without reading schemas that need not be
/// compared.
struct Plan {
    /// What is not as it should be.
    entries: VecDeque<Entry>,
    /// How many rows the first step counts as.
    rows: usize,
    settings: EnvironmentSettingsPatch,
    most: u64,
    /// Whether there is room for what is new.
    fits: bool,
}

impl Plan {
    fn of(connection: &Connection, environment: &EnvironmentId, import: Import) -> Result<Self, SqlError> {
        let Import { event_types, archive_others, settings, most } = import;
        // What the environment has beside it may be many times larger than any import: only its names are kept.
        let archived = match archive_others {
            true => all_but(connection, environment, &event_types)?,
            false => Vec::new(),
        };
        let (mut entries, mut added) = (VecDeque::with_capacity(event_types.len() + archived.len()), 0_u64);
        for imported in event_types {
            match event_types::find_plain(connection, environment, imported.new.name.as_str())? {
                Some(found) if !event_types::is_changed_by(connection, environment, &found, &imported.patch)? => {
                    continue;
                }
                Some(_) => {}
                None => added += 1,
            }
            entries.push_back(Entry::Bring(Box::new(imported)));
        }
        entries.extend(archived);
        let rows = rows_of_step(connection, environment, &entries)?;
        let fits = added == 0 || added <= event_types::Room::of(connection, environment, most)?.left();
        Ok(Self { entries, rows, settings, most, fits })
    }
}

/// What [`decode_rules`] reads.
pub(crate) const RULES_COLUMNS: &str = "schema_enforcement, unknown_event_types";

/// Rules that make no sense are none: all applications of the environment depend on them.
pub(crate) fn decode_rules(row: &Row<'_>) -> Result<MessageRules, SqlError> {
    let columns = Columns::new(row, "environment");
    let unknown = |column| columns.inconsistent(column, &"there is no such code");
    let schemas = || {
        let code = columns.get("schema_enforcement")?;
        SchemaEnforcement::from_code(code).ok_or_else(|| unknown("schema_enforcement"))
    };
    let unknown_event_types = || {
        let code = columns.get("unknown_event_types")?;
        UnknownEventTypes::from_code(code).ok_or_else(|| unknown("unknown_event_types"))
    };
    Ok(MessageRules {
        schemas: readable(schemas())?.unwrap_or_default(),
        unknown_event_types: readable(unknown_event_types())?.unwrap_or_default(),
    })
}

fn read(connection: &Connection, environment: &EnvironmentId) -> Result<EnvironmentSettings, SqlError> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT no, {RULES_COLUMNS}, public_catalogue, settings_created_at, settings_updated_at
         FROM environment WHERE id = ?"
    ))?;
    let settings = first(statement.query([environment.as_str()])?, |row| {
        let columns = Columns::new(row, "environment");
        Ok(EnvironmentSettings {
            rules: decode_rules(row)?,
            public_catalogue: columns.get("public_catalogue")?,
            created_at: columns.maybe_instant("settings_created_at")?,
            updated_at: columns.maybe_instant("settings_updated_at")?,
        })
    })?;
    Ok(settings.unwrap_or_default())
}

fn change(
    tx: &Tx<'_>,
    environment: &EnvironmentId,
    patch: EnvironmentSettingsPatch,
    now: Timestamp,
) -> Result<EnvironmentSettings, SqlError> {
    let former = read(tx, environment)?;
    let mut settings = former;
    patch.apply(&mut settings, now);
    if settings != former {
        let number = environment_number(tx, environment)?;
        tx.prepare_cached(
            "UPDATE environment SET schema_enforcement = ?2, unknown_event_types = ?3, public_catalogue = ?4,
                                    settings_created_at = ?5, settings_updated_at = ?6,
                                    rules_version = (rules_version & 0x3fffffffffffffff) + ?7
             WHERE no = ?1",
        )?
        .execute(params![
            number,
            settings.rules.schemas.code(),
            settings.rules.unknown_event_types.code(),
            settings.public_catalogue,
            settings.created_at.map(Timestamp::as_micros),
            settings.updated_at.map(Timestamp::as_micros),
            settings.rules != former.rules,
        ])?;
    }
    Ok(settings)
}

fn add_or_change(
    tx: &Tx<'_>,
    environment: &EnvironmentId,
    room: &mut event_types::Room,
    imported: ImportedEventType,
    now: Timestamp,
) -> Result<Option<EventTypeName>, Abort<WriteError>> {
    let ImportedEventType { new, patch } = imported;
    match event_types::find_plain(tx, environment, new.name.as_str())? {
        Some(found) if !event_types::is_changed_by(tx, environment, &found, &patch)? => return Ok(None),
        Some(found) => event_types::change_plain(tx, environment, found, patch, now)?,
        None => event_types::insert(tx, environment, room, &new)?,
    }
    Ok(Some(new.name))
}

/// Archives an event type that is there and is not archived; returns its name then.
fn archive(
    tx: &Tx<'_>,
    environment: &EnvironmentId,
    name: &str,
    now: Timestamp,
) -> Result<Option<EventTypeName>, Abort<WriteError>> {
    let patch = EventTypePatch { archived: Some(true), ..EventTypePatch::default() };
    match event_types::find_plain(tx, environment, name)? {
        Some(found) if !found.archived => {
            let name = found.name.clone();
            event_types::change_plain(tx, environment, found, patch, now)?;
            Ok(Some(name))
        }
        _ => Ok(None),
    }
}

/// The active event types that are not among these, to be archived.
fn all_but(
    connection: &Connection,
    environment: &EnvironmentId,
    kept: &[ImportedEventType],
) -> Result<Vec<Entry>, SqlError> {
    let kept: std::collections::HashSet<_> = kept.iter().map(|imported| imported.new.name.as_str()).collect();
    let mut statement = connection.prepare_cached(
        "SELECT name FROM event_type
         WHERE environment_no = (SELECT no FROM environment WHERE id = ?) AND NOT archived",
    )?;
    let active: Vec<String> = all(statement.query([environment.as_str()])?, |row| Ok(row.get(0)?))?;
    Ok(active.into_iter().filter(|name| !kept.contains(name.as_str())).map(Entry::Archive).collect())
}
