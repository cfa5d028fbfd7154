//! Counting what applications sent. Nothing is written but the counts, so a step looks at more rows than one that writes.

use postrider_domain::ids::{ApplicationId, Id as _, Ksuid};
use postrider_domain::time::Timestamp;
use postrider_store::{ApplicationKey, MAX_COUNTED_APPLICATIONS, MAX_COUNTED_TYPES, Span};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Slice, Stage, after, count, end, place};
use crate::engine::decode::SqlError;
use crate::engine::range;

/// How many rows are counted for each one that a step may look at.
const ROWS_FACTOR: usize = 10;

/// How far the counting is.
#[derive(Serialize, Deserialize, Default)]
struct Progress {
    /// How many applications were begun.
    begun: usize,
    /// The id of the application that was begun last, as a place.
    application: Value,
    /// The application that is being counted.
    no: Option<i64>,
    /// The endpoint whose attempts are being counted, as a place; null while messages are.
    endpoint: Value,
    /// The last message or attempt that was counted, as a place.
    counted: Value,
}

impl Progress {
    fn of(cursor: Value) -> Self {
        serde_json::from_value(cursor).unwrap_or_default()
    }

    fn slice(&self, data: Map<String, Value>, ended: bool) -> Result<Slice, SqlError> {
        let cursor = serde_json::to_value(self)
            .map_err(|error| SqlError::Driver(rusqlite::Error::ToSqlConversionFailure(Box::new(error))))?;
        Ok(Slice { cursor, data, ended, ..Slice::default() })
    }

    /// Begins the next application, if there is one; returns its id and uid.
    fn begin(
        &mut self,
        connection: &Connection,
        environment_no: i64,
        chosen: Option<&[ApplicationKey]>,
    ) -> Result<Option<(ApplicationId, Option<String>)>, SqlError> {
        let decode = |row: &Row<'_>| Ok((row.get(0)?, row.get::<_, [u8; 20]>(1)?, row.get(2)?));
        let found = match chosen {
            Some(chosen) => {
                let Some(key) = chosen.get(self.begun) else { return Ok(None) };
                let mut statement = connection.prepare_cached("SELECT no, id, uid FROM application WHERE no = ?")?;
                statement.query_row([key.0], decode).optional()?
            }
            None => {
                let mut statement = connection.prepare_cached(NEXT_APPLICATION_SQL)?;
                let after = after(&self.application, Ksuid::floor(Timestamp::EPOCH));
                statement.query_row(params![environment_no, after], decode).optional()?
            }
        };
        let Some((no, id, uid)) = found else { return Ok(None) };
        *self = Self { begun: self.begun + 1, application: place(&id), no: Some(no), ..Self::default() };
        Ok(Some((ApplicationId::from_ksuid(Ksuid::from_bytes(id)), uid)))
    }

    /// Goes on with the next endpoint of the application, or is done with it.
    fn next_endpoint(&mut self, connection: &Connection, application: i64) -> Result<(), SqlError> {
        let mut statement = connection.prepare_cached(NEXT_ENDPOINT_SQL)?;
        let after = after(&self.endpoint, Ksuid::floor(Timestamp::EPOCH));
        let next: Option<[u8; 20]> = statement.query_row(params![application, after], |row| row.get(0)).optional()?;
        self.counted = Value::Null;
        match next {
            Some(id) => self.endpoint = place(&id),
            None => self.no = None,
        }
        Ok(())
    }
}

const NEXT_APPLICATION_SQL: &str = "SELECT no, id, uid FROM application INDEXED BY application_live
     WHERE environment_no = ? AND id >= ? AND deleted_at IS NULL ORDER BY id LIMIT 1";

/// Deleted ones, too: their attempts were made.
const NEXT_ENDPOINT_SQL: &str = "SELECT id FROM endpoint WHERE application_no = ? AND id >= ? ORDER BY id LIMIT 1";

const MESSAGES_SQL: &str = "SELECT count(*), max(id) FROM (
         SELECT id FROM message WHERE application_no = ? AND id >= ? AND id < ? ORDER BY id LIMIT ?
     )";

const ATTEMPTS_SQL: &str = "SELECT count(*), max(id), count(*) FILTER (WHERE number = 1 AND trigger = 0) FROM (
         SELECT id, number, trigger FROM attempt
         WHERE endpoint_no = (SELECT no FROM endpoint WHERE application_no = ?1 AND id = ?2) AND id >= ?3 AND id < ?4
         ORDER BY id LIMIT ?5
     )";

pub(super) fn applications(
    connection: &Connection,
    stage: Stage,
    chosen: Option<&[ApplicationKey]>,
    span: Span,
) -> Result<Slice, SqlError> {
    let Stage { environment_no, mut data, bounds, cursor, .. } = stage;
    let mut progress = Progress::of(cursor);
    let mut list = match data.remove("applications") {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let (first, end) = (Ksuid::floor(span.since), end(span.until));
    let mut left = bounds.rows.saturating_mul(ROWS_FACTOR);
    let mut ended = false;
    while left > 0 && !ended {
        let Some(application) = progress.no else {
            left -= 1;
            match progress.begin(connection, environment_no, chosen)? {
                // More than a task may name are only numbered.
                Some(_) if list.len() >= MAX_COUNTED_APPLICATIONS => {
                    progress.no = None;
                    count(&mut data, "otherApplications", 1);
                }
                Some((id, uid)) => list.push(json!({ "appId": id, "appUid": uid })),
                None => ended = true,
            }
            continue;
        };
        let from = after(&progress.counted, first);
        let limit = range::limit(left);
        let (counted, last): (usize, Option<[u8; 20]>) = match endpoint(&progress.endpoint) {
            None => {
                let mut statement = connection.prepare_cached(MESSAGES_SQL)?;
                let (counted, last) = statement
                    .query_row(params![application, from, end.as_bytes(), limit], |row| {
                        Ok((row.get(0)?, row.get(1)?))
                    })?;
                add(&mut list, &[("messages", counted), ("attempts", 0), ("messageDestinations", 0)]);
                (counted, last)
            }
            Some(endpoint) => {
                let mut statement = connection.prepare_cached(ATTEMPTS_SQL)?;
                let parameters = params![application, endpoint, from, end.as_bytes(), limit];
                let (counted, last, destinations) =
                    statement.query_row(parameters, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
                add(&mut list, &[("attempts", counted), ("messageDestinations", destinations)]);
                (counted, last)
            }
        };
        if counted < left {
            progress.next_endpoint(connection, application)?;
        } else if let Some(last) = last {
            progress.counted = place(&last);
        }
        left = left.saturating_sub(counted.max(1));
    }
    data.insert("applications".to_owned(), list.into());
    progress.slice(data, ended)
}

/// The id in a place, if there is one.
fn endpoint(cursor: &Value) -> Option<Vec<u8>> {
    let mut id = cursor.is_string().then(|| after(cursor, Ksuid::floor(Timestamp::EPOCH)))?;
    id.truncate(20);
    Some(id)
}

/// Adds to the counts of the application that was begun last.
fn add(list: &mut [Value], counts: &[(&str, usize)]) {
    let Some(Value::Object(entry)) = list.last_mut() else { return };
    for (name, more) in counts {
        count(entry, name, *more);
    }
}

const TYPES_SQL: &str = "SELECT id, event_type FROM message
     WHERE application_no = ? AND id >= ? AND id < ? ORDER BY id LIMIT ?";

pub(super) fn event_types(connection: &Connection, stage: Stage) -> Result<Slice, SqlError> {
    let Stage { environment_no, mut data, bounds, cursor, created_at, .. } = stage;
    let mut progress = Progress::of(cursor);
    let mut types = match data.remove("eventTypes") {
        Some(Value::Object(types)) => types,
        _ => Map::new(),
    };
    let end = end(created_at);
    let mut left = bounds.rows;
    let mut ended = false;
    while left > 0 && !ended {
        let Some(application) = progress.no else {
            left -= 1;
            ended = progress.begin(connection, environment_no, None)?.is_none();
            continue;
        };
        let mut statement = connection.prepare_cached(TYPES_SQL)?;
        let from = after(&progress.counted, Ksuid::floor(Timestamp::EPOCH));
        let mut found = statement.query(params![application, from, end.as_bytes(), range::limit(left)])?;
        let mut counted = 0;
        while let Some(row) = found.next()? {
            counted += 1;
            progress.counted = place(&row.get::<_, [u8; 20]>(0)?);
            let name = row.get::<_, String>(1)?;
            if types.len() >= MAX_COUNTED_TYPES && !types.contains_key(&name) {
                count(&mut data, "otherEventTypes", 1);
            } else {
                count(&mut types, &name, 1);
            }
        }
        if counted < left {
            progress.counted = Value::Null;
            progress.no = None;
        }
        left = left.saturating_sub(counted.max(1));
    }
    data.insert("eventTypes".to_owned(), types.into());
    progress.slice(data, ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plans::plan;

    #[test]
    fn counting_walks_indexes() {
        for (sql, walked) in [
            (MESSAGES_SQL, "message USING COVERING INDEX message_by_id (application_no=? AND id>? AND id<?)"),
            (ATTEMPTS_SQL, "attempt USING PRIMARY KEY (endpoint_no=? AND id>? AND id<?)"),
            (TYPES_SQL, "message USING INDEX message_by_id (application_no=? AND id>? AND id<?)"),
            (NEXT_APPLICATION_SQL, "application USING INDEX application_live (environment_no=? AND id>?)"),
            (NEXT_ENDPOINT_SQL, "endpoint USING COVERING INDEX endpoint_by_id (application_no=? AND id>?)"),
        ] {
            let plan = plan(sql);
            assert!(plan.iter().any(|step| step.contains(&format!("SEARCH {walked}"))), "{plan:#?}");
        }
    }
}
