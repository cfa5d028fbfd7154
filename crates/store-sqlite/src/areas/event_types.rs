//! Event types.

use async_trait::async_trait;
use postrider_domain::application::EnvironmentId;
use postrider_domain::event_type::{EventType, EventTypePatch, Schemas};
use postrider_domain::names::EventTypeName;
use postrider_domain::time::Timestamp;
use postrider_store::{
    Capped, EventTypeFilter, EventTypes, Once, Scan, StoreError, Upserted, Walked, WriteError, Written,
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::engine::askers::Whose;
use crate::engine::decode::{Columns, SqlError, all, encode_json, first, walked};
use crate::engine::range::Range;
use crate::engine::tx::{Abort, FEW_ROWS, Tx, rows_of, taken};
use crate::store::SqliteStore;
use crate::write::idempotency::{self, Subject};
use crate::write::inserts::json_list;
use crate::write::owners::{environment_number, rules_changed};

/// How many rows schemas count as: those of an event type may be a megabyte.
pub(crate) fn rows_of_schemas(schemas: Option<&Schemas>) -> usize {
    rows_of(schemas.into_iter().flat_map(Schemas::values).map(|schema| schema.get().len()).sum())
}

/// How many rows what a change brings counts as. What is there is written again with it: see [`stored`].
fn weight(patch: &EventTypePatch) -> usize {
    FEW_ROWS + rows_of_schemas(patch.schemas.as_ref().and_then(Option::as_ref))
}

/// How many rows a new event type counts as; `copies` is how often its schemas are written.
fn weight_of_new(event_type: &EventType, copies: usize) -> usize {
    FEW_ROWS + copies * rows_of_schemas(event_type.schemas.as_ref())
}

/// How many rows an event type counts as that is read and written again; none if it is not there.
pub(crate) fn stored(connection: &Connection, environment: &EnvironmentId, name: &str) -> Result<usize, SqlError> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT octet_length(description) + coalesce(octet_length(schemas), 0) FROM event_type WHERE {THIS}"
    ))?;
    let bytes: Option<usize> = statement.query_row(params![environment.as_str(), name], |row| row.get(0)).optional()?;
    Ok(bytes.map_or(0, rows_of))
}

fn weighed(
    environment: &EnvironmentId,
    name: &str,
) -> impl Fn(&Connection) -> Result<usize, SqlError> + Send + 'static {
    let (environment, name) = (environment.clone(), name.to_owned());
    move |connection| stored(connection, &environment, &name)
}

#[async_trait]
impl EventTypes for SqliteStore {
    async fn create_event_type(
        &self,
        environment: &EnvironmentId,
        most: u64,
        event_type: EventType,
        once: Option<Once<EventType>>,
    ) -> Result<Written<EventType>, WriteError> {
        let environment = environment.clone();
        // Beside its row there is the answer, with the schemas again.
        let copies = if once.is_some() { 2 } else { 1 };
        // In the place of one that is archived.
        let stored = weighed(&environment, event_type.name.as_str());
        self.writer
            .run_over(Whose::from(&environment), weight_of_new(&event_type, copies), stored, move |tx| {
                if let Some(answer) = idempotency::replay(tx, once.as_ref(), Subject::ENVIRONMENT)? {
                    return Ok(Written::Replayed(answer));
                }
                let now = event_type.created_at;
                let event_type = add_or_revive(tx, &environment, most, event_type)?;
                idempotency::remember(tx, once, Subject::ENVIRONMENT, &event_type, now)?;
                Ok(Written::Done(event_type))
            })
            .await
    }

    async fn event_type(&self, environment: &EnvironmentId, name: &str) -> Result<Option<EventType>, StoreError> {
        let (environment, name) = (environment.clone(), name.to_owned());
        self.lists.run(move |connection| find(connection, &environment, &name)).await
    }

    async fn event_types(
        &self,
        environment: &EnvironmentId,
        filter: &EventTypeFilter,
        scan: Scan<String>,
    ) -> Result<Walked<EventType, String>, StoreError> {
        let (environment, filter) = (environment.clone(), filter.clone());
        self.lists.run(move |connection| list(connection, &environment, &filter, scan)).await
    }

    async fn all_event_types(
        &self,
        environment: &EnvironmentId,
        filter: &EventTypeFilter,
        most: u64,
    ) -> Result<Option<Vec<EventType>>, StoreError> {
        let (environment, filter) = (environment.clone(), filter.clone());
        self.lists.run_at_once(move |connection| whole(connection, &environment, &filter, most)).await
    }

    async fn missing_event_types(
        &self,
        environment: &EnvironmentId,
        names: &[EventTypeName],
        feature_flags: Option<&[String]>,
    ) -> Result<Vec<EventTypeName>, StoreError> {
        let (environment, wanted) = (environment.clone(), json_list(names.iter().map(EventTypeName::as_str)));
        let flags = feature_flags.map(|flags| json_list(flags.iter().map(String::as_str)));
        self.lists
            .run(move |connection| {
                let mut statement = connection.prepare_cached(&missing_sql())?;
                let rows = statement.query(params![environment.as_str(), false, flags, wanted])?;
                all(rows, |row| Ok(EventTypeName::from_trusted(row.get(0)?)))
            })
            .await
    }

    async fn update_event_type(
        &self,
        environment: &EnvironmentId,
        name: &str,
        patch: EventTypePatch,
        now: Timestamp,
    ) -> Result<EventType, WriteError> {
        let (environment, name) = (environment.clone(), name.to_owned());
        self.writer
            .run_over(Whose::from(&environment), weight(&patch), weighed(&environment, &name), move |tx| {
                let found = find(tx, &environment, &name)?.ok_or(Abort::Refused(WriteError::NotFound))?;
                change(tx, &environment, found, patch, now)
            })
            .await
    }

    async fn upsert_event_type(
        &self,
        environment: &EnvironmentId,
        most: u64,
        name: &str,
        patch: EventTypePatch,
        otherwise: EventType,
        now: Timestamp,
    ) -> Result<Upserted<EventType>, WriteError> {
        let (environment, name) = (environment.clone(), name.to_owned());
        // Either is written.
        let rows = weight(&patch).max(weight_of_new(&otherwise, 1));
        self.writer
            .run_over(Whose::from(&environment), rows, weighed(&environment, &name), move |tx| {
                if let Some(found) = find(tx, &environment, &name)? {
                    return change(tx, &environment, found, patch, now).map(Upserted::Updated);
                }
                insert(tx, &environment, &mut Room::of(tx, &environment, most)?, &otherwise)?;
                Ok(Upserted::Created(otherwise))
            })
            .await
    }

    async fn delete_event_type(
        &self,
        environment: &EnvironmentId,
        name: &str,
        expunge: bool,
        now: Timestamp,
    ) -> Result<(), WriteError> {
        let (environment, name) = (environment.clone(), name.to_owned());
        self.writer
            .run_over(Whose::from(&environment), FEW_ROWS, weighed(&environment, &name), move |tx| {
                if expunge {
                    let removed = tx
                        .prepare_cached(&format!("DELETE FROM event_type WHERE {THIS}"))?
                        .execute(params![environment.as_str(), name])?;
                    if removed == 0 {
                        return Err(Abort::Refused(WriteError::NotFound));
                    }
                    rules_changed(tx, &environment)?;
                    return Ok(());
                }
                let found = find_plain(tx, &environment, &name)?.ok_or(Abort::Refused(WriteError::NotFound))?;
                if !found.archived {
                    let archive = EventTypePatch { archived: Some(true), ..EventTypePatch::default() };
                    change_plain(tx, &environment, found, archive, now)?;
                }
                Ok(())
            })
            .await
    }
}

/// Names one event type by environment and name.
const THIS: &str = "environment_no = (SELECT no FROM environment WHERE id = ?1) AND name = ?2";

/// What [`decode`] reads; a column `schemas` follows, or `NULL AS schemas`.
const COLUMNS: &str = "name, description, archived, deprecated, feature_flag, group_name, created_at, updated_at";

fn decode(row: &Row<'_>) -> Result<EventType, SqlError> {
    let columns = Columns::new(row, "event_type");
    Ok(EventType {
        name: EventTypeName::from_trusted(columns.get("name")?),
        description: columns.get("description")?,
        archived: columns.get("archived")?,
        deprecated: columns.get("deprecated")?,
        schemas: columns.maybe_json::<Schemas>("schemas")?,
        feature_flag: columns.get("feature_flag")?,
        group_name: columns.get("group_name")?,
        created_at: columns.instant("created_at")?,
        updated_at: columns.instant("updated_at")?,
    })
}

pub(crate) fn find(
    connection: &Connection,
    environment: &EnvironmentId,
    name: &str,
) -> Result<Option<EventType>, SqlError> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS}, schemas FROM event_type WHERE {THIS}"))?;
    first(statement.query(params![environment.as_str(), name])?, decode)
}

/// The same without its schemas, which are not read.
pub(crate) fn find_plain(
    connection: &Connection,
    environment: &EnvironmentId,
    name: &str,
) -> Result<Option<EventType>, SqlError> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS}, NULL AS schemas FROM event_type WHERE {THIS}"))?;
    first(statement.query(params![environment.as_str(), name])?, decode)
}

/// Whether a patch would change anything of an event type that was found without its schemas. Schemas are compared, if it has
/// any, as the texts that they are stored as, and read only if they are of the same length.
pub(crate) fn is_changed_by(
    connection: &Connection,
    environment: &EnvironmentId,
    found: &EventType,
    patch: &EventTypePatch,
) -> Result<bool, SqlError> {
    let EventTypePatch { description, archived, deprecated, schemas, feature_flag, group_name } = patch;
    let schemas_differ = || {
        let Some(schemas) = schemas else { return Ok(false) };
        let schemas = schemas.as_ref().map(encode_json).transpose()?;
        let mut statement = connection.prepare_cached(&format!(
            "SELECT iif(octet_length(schemas) IS octet_length(?3), schemas IS NOT ?3, true) FROM event_type WHERE {THIS}"
        ))?;
        let named = params![environment.as_str(), found.name.as_str(), schemas];
        Ok::<_, SqlError>(statement.query_row(named, |row| row.get(0))?)
    };
    let plain = EventTypePatch {
        description: description.clone(),
        archived: *archived,
        deprecated: *deprecated,
        schemas: None,
        feature_flag: feature_flag.clone(),
        group_name: group_name.clone(),
    };
    Ok(found.is_changed_by(&plain) || schemas_differ()?)
}

/// The event types of environment ?1.
const THEIRS: &str = "environment_no = (SELECT no FROM environment WHERE id = ?1)";

/// What a filter lets through: archived ones if ?2, with these flags if ?3 is not NULL.
const PASSES: &str = "(?2 OR NOT archived)
     AND (?3 IS NULL OR feature_flag IS NULL OR feature_flag IN (SELECT value FROM json_each(?3)))";

/// Which names of the list ?4 are not those of an event type that a filter lets through.
fn missing_sql() -> String {
    format!(
        "SELECT wanted.value FROM json_each(?4) AS wanted
         WHERE NOT EXISTS (SELECT 1 FROM event_type WHERE {THEIRS} AND {PASSES} AND name = wanted.value)
         ORDER BY wanted.key"
    )
}

/// Walks all, the last column of which says whether the filter lets one through; schemas of others are not read.
fn list_sql(order: &str) -> String {
    format!(
        "SELECT {COLUMNS}, CASE WHEN ?4 AND {PASSES} THEN schemas END AS schemas, {PASSES} AS passes FROM event_type
         WHERE {THEIRS} AND name >= ?5 AND name < ?6 ORDER BY name {order}"
    )
}

/// How many bytes the texts of one have, with schemas if ?4. Lengths are in the beginning of a row, so no text is read.
const BYTES: &str = "octet_length(name) + octet_length(description) + coalesce(octet_length(feature_flag), 0)
     + coalesce(octet_length(group_name), 0) + iif(?4, coalesce(octet_length(schemas), 0), 0)";

fn whole(
    connection: &Connection,
    environment: &EnvironmentId,
    filter: &EventTypeFilter,
    most: u64,
) -> Result<Option<Vec<EventType>>, SqlError> {
    let flags = filter.feature_flags.as_ref().map(encode_json).transpose()?;
    let named = params![environment.as_str(), filter.include_archived, flags, filter.with_schemas];
    let mut sizes =
        connection.prepare_cached(&format!("SELECT {BYTES} FROM event_type WHERE {THEIRS} AND {PASSES}"))?;
    let (mut sizes, mut bytes) = (sizes.query(named)?, 0_u64);
    while let Some(row) = sizes.next()? {
        bytes = bytes.saturating_add(row.get::<_, i64>(0)?.unsigned_abs());
        if bytes > most {
            return Ok(None);
        }
    }
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS}, CASE WHEN ?4 THEN schemas END AS schemas FROM event_type
         WHERE {THEIRS} AND {PASSES} ORDER BY name"
    ))?;
    Ok(Some(all(statement.query(named)?, decode)?))
}

fn list(
    connection: &Connection,
    environment: &EnvironmentId,
    filter: &EventTypeFilter,
    scan: Scan<String>,
) -> Result<Walked<EventType, String>, SqlError> {
    let Range { low, high, order, limit } = Range::of_names(scan);
    let flags = filter.feature_flags.as_ref().map(encode_json).transpose()?;
    let mut statement = connection.prepare_cached(&list_sql(order))?;
    let EventTypeFilter { include_archived, with_schemas, .. } = filter;
    let rows = statement.query(params![environment.as_str(), include_archived, flags, with_schemas, low, high])?;
    walked(rows, limit, |row| Columns::new(row, "event_type").get("name"), decode)
}

fn add_or_revive(
    tx: &Tx<'_>,
    environment: &EnvironmentId,
    most: u64,
    mut event_type: EventType,
) -> Result<EventType, Abort<WriteError>> {
    match find(tx, environment, event_type.name.as_str())? {
        Some(found) if !found.archived => return Err(Abort::Refused(WriteError::Conflict)),
        Some(found) => {
            event_type.created_at = found.created_at;
            write(tx, environment, &event_type)?;
        }
        None => insert(tx, environment, &mut Room::of(tx, environment, most)?, &event_type)?,
    }
    Ok(event_type)
}

/// How many event types an environment may still get in a transaction.
pub(crate) struct Room {
    left: u64,
    most: u64,
}

impl Room {
    pub(crate) fn of(connection: &Connection, environment: &EnvironmentId, most: u64) -> Result<Self, SqlError> {
        let there: i64 = connection
            .prepare_cached(
                "SELECT count(*) FROM event_type WHERE environment_no = (SELECT no FROM environment WHERE id = ?1)",
            )?
            .query_row([environment.as_str()], |row| row.get(0))?;
        Ok(Self { left: most.saturating_sub(there.unsigned_abs()), most })
    }

    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    fn take(&mut self) -> Result<(), Abort<WriteError>> {
        let full = Abort::Refused(WriteError::Full { of: Capped::EventTypes, most: self.most });
        self.left = self.left.checked_sub(1).ok_or(full)?;
        Ok(())
    }
}

pub(crate) fn insert(
    tx: &Tx<'_>,
    environment: &EnvironmentId,
    room: &mut Room,
    event_type: &EventType,
) -> Result<(), Abort<WriteError>> {
    room.take()?;
    rules_changed(tx, environment)?;
    let environment = environment_number(tx, environment)?;
    tx.prepare_cached(
        "INSERT INTO event_type (environment_no, name, description, archived, deprecated, schemas, feature_flag,
                                 group_name, created_at, updated_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        environment,
        event_type.name.as_str(),
        event_type.description,
        event_type.archived,
        event_type.deprecated,
        event_type.schemas.as_ref().map(encode_json).transpose()?,
        event_type.feature_flag,
        event_type.group_name,
        event_type.created_at.as_micros(),
        event_type.updated_at.as_micros(),
    ])
    .map_err(taken)?;
    Ok(())
}

pub(crate) fn change(
    tx: &Tx<'_>,
    environment: &EnvironmentId,
    mut event_type: EventType,
    patch: EventTypePatch,
    now: Timestamp,
) -> Result<EventType, Abort<WriteError>> {
    patch.apply(&mut event_type);
    event_type.updated_at = now;
    write(tx, environment, &event_type)?;
    Ok(event_type)
}

/// Changes an event type that was found without its schemas, which stay as they are unless the patch has others.
pub(crate) fn change_plain(
    tx: &Tx<'_>,
    environment: &EnvironmentId,
    mut event_type: EventType,
    patch: EventTypePatch,
    now: Timestamp,
) -> Result<(), SqlError> {
    let has_schemas = patch.schemas.is_some();
    patch.apply(&mut event_type);
    event_type.updated_at = now;
    overwrite(tx, environment, &event_type, has_schemas)
}

/// Overwrites an event type that is there, except its name and its date of creation.
fn write(tx: &Tx<'_>, environment: &EnvironmentId, event_type: &EventType) -> Result<(), SqlError> {
    overwrite(tx, environment, event_type, true)
}

fn overwrite(
    tx: &Tx<'_>,
    environment: &EnvironmentId,
    event_type: &EventType,
    has_schemas: bool,
) -> Result<(), SqlError> {
    rules_changed(tx, environment)?;
    tx.prepare_cached(&format!(
        "UPDATE event_type SET description = ?3, archived = ?4, deprecated = ?5, 
                               schemas = CASE WHEN ?10 THEN ?6 ELSE schemas END, feature_flag = ?7,
                               group_name = ?8, updated_at = ?9
         WHERE {THIS}"
    ))?
    .execute(params![
        environment.as_str(),
        event_type.name.as_str(),
        event_type.description,
        event_type.archived,
        event_type.deprecated,
        event_type.schemas.as_ref().map(encode_json).transpose()?,
        event_type.feature_flag,
        event_type.group_name,
        event_type.updated_at.as_micros(),
        has_schemas,
    ])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use postrider_store::{Direction, ImportedEventType};

    use super::*;
    use crate::areas::environments;
    use crate::engine::plans::{assert_walks, database, plan};

    #[test]
    fn all_event_types_of_an_environment_are_read_in_the_order_of_their_index() {
        let index = "event_type USING INDEX sqlite_autoindex_event_type_1 (environment_no=?)";
        assert_walks(&format!("SELECT {COLUMNS}, ?4 FROM event_type WHERE {THEIRS} AND {PASSES} ORDER BY name"), index);
        assert_walks(&format!("SELECT {BYTES} FROM event_type WHERE {THEIRS} AND {PASSES}"), index);
        for order in ["ASC", "DESC"] {
            let index = index.replace("=?)", "=? AND name>? AND name<?)");
            assert_walks(&list_sql(order), &index);
        }
    }

    #[test]
    fn a_page_looks_at_a_bounded_number_of_event_types_that_its_filter_leaves_out() {
        let connection = database();
        connection
            .execute_batch(
                "INSERT INTO environment (no, id) VALUES (7, 'org_a');
                 WITH RECURSIVE n (a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM n LIMIT 2000)
                 INSERT INTO event_type (environment_no, name, description, archived, deprecated, feature_flag, created_at,
                                         updated_at)
                     SELECT 7, printf('%06d', a), '', a % 2, 0, 'beta', 0, 0 FROM n;
                 UPDATE event_type SET feature_flag = NULL, archived = 0 WHERE name IN ('000700', '002000');",
            )
            .unwrap();
        let environment = EnvironmentId::parse("org_a").unwrap();
        let filter = EventTypeFilter { feature_flags: Some(Vec::new()), ..EventTypeFilter::default() };
        for (direction, names) in
            [(Direction::Ascending, ["000700", "002000"]), (Direction::Descending, ["002000", "000700"])]
        {
            let (mut scan, mut got, mut pages) = (Scan::all(direction, 10), Vec::new(), 0);
            loop {
                let walked = list(&connection, &environment, &filter, scan.clone()).unwrap();
                got.extend(walked.listed.rows.into_iter().map(|event_type| event_type.name.to_string()));
                pages += 1;
                let Some(reached) = walked.reached else { break };
                match direction {
                    Direction::Ascending => scan.lower = std::ops::Bound::Excluded(reached),
                    Direction::Descending => scan.upper = std::ops::Bound::Excluded(reached),
                }
            }
            assert_eq!((got, pages), (names.map(str::to_owned).to_vec(), 4));
        }
    }

    #[test]
    fn each_name_that_is_asked_for_is_looked_up() {
        let step = "SEARCH event_type USING INDEX sqlite_autoindex_event_type_1 (environment_no=? AND name=?)";
        let plan = plan(&missing_sql());
        assert!(plan.contains(&step.to_owned()), "{plan:#?}");
    }

    #[test]
    fn schemas_of_megabytes_are_weighed_as_often_as_they_are_written() {
        let schema = serde_json::value::to_raw_value(&"a".repeat(1 << 20)).unwrap();
        let now = Timestamp::EPOCH;
        let large = EventType {
            name: EventTypeName::from_trusted("a".to_owned()),
            description: String::new(),
            archived: false,
            deprecated: false,
            schemas: Some(Schemas::from([("1".to_owned(), schema)])),
            feature_flag: None,
            group_name: None,
            created_at: now,
            updated_at: now,
        };
        assert_eq!([weight_of_new(&large, 1), weight_of_new(&large, 2)], [FEW_ROWS + 512, FEW_ROWS + 1_024]);
        let patch = EventTypePatch { schemas: Some(large.schemas.clone()), ..EventTypePatch::default() };
        assert_eq!([weight(&patch), weight(&EventTypePatch::default())], [FEW_ROWS + 512, FEW_ROWS]);
        let imported = ImportedEventType { new: large, patch };
        assert!(environments::weight(&imported) > 512);
    }
}
