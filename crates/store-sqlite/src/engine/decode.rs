//! From rows to the contract's types. What makes no sense is an error that names table, column and row; it never panics.
//!
//! The rule for all reads: a row that makes no sense stops nobody but who asks for that row. Whatever reads several leaves it
//! out, with a warning, and goes on.

use std::cell::Cell;
use std::collections::HashSet;

use parking_lot::Mutex;
use postrider_domain::application::Metadata;
use postrider_domain::ids::{Id, Ksuid};
use postrider_domain::time::Timestamp;
use postrider_store::{Listed, PAGE_BYTES, PAGE_ROWS, StoreError, Walked};
use rusqlite::types::FromSql;
use rusqlite::{Row, Rows};

/// Of so many rows it is remembered that they were warned of.
const MAX_WARNED: usize = 1_000;

/// The rows that were warned of: once is enough.
static WARNED: Mutex<Option<HashSet<String>>> = Mutex::new(None);

/// An error of the driver. Its text names the cause (disk full, I/O error) and holds no data.
pub(crate) fn driver(error: &rusqlite::Error) -> StoreError {
    if is_about_a_value(error) {
        let (table, column, row) = ("?", "?", "?".to_owned());
        return StoreError::Inconsistent { table, column, row, problem: error.to_string() };
    }
    StoreError::Unavailable(error.to_string())
}

/// Whether a value is not what it should be: to ask again would not help.
fn is_about_a_value(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    matches!(error, FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..))
}

/// What was read of a row; `None`, with a warning, if it makes no sense.
pub(crate) fn readable<T>(read: Result<T, SqlError>) -> Result<Option<T>, SqlError> {
    let error = match read {
        Ok(row) => return Ok(Some(row)),
        Err(SqlError::Store(error @ StoreError::Inconsistent { .. })) => error,
        Err(SqlError::Driver(error)) if is_about_a_value(&error) => driver(&error),
        Err(error) => return Err(error),
    };
    warn(&error.to_string());
    Ok(None)
}

/// Says once that a row is left out.
pub(crate) fn warn(problem: &str) {
    let mut warned = WARNED.lock();
    let warned = warned.get_or_insert_default();
    if warned.contains(problem) {
        return;
    }
    if warned.len() >= MAX_WARNED {
        warned.clear();
    }
    warned.insert(problem.to_owned());
    tracing::warn!("{problem}; it is left out");
}

/// What reading and writing closures return: the driver's errors and the contract's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SqlError {
    /// The driver failed.
    #[error(transparent)]
    Driver(#[from] rusqlite::Error),
    /// What was read makes no sense.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<SqlError> for StoreError {
    fn from(error: SqlError) -> Self {
        match error {
            SqlError::Driver(error) => driver(&error),
            SqlError::Store(error) => error,
        }
    }
}

/// All rows of a query that make sense.
pub(crate) fn all<T>(mut rows: Rows<'_>, decode: impl Fn(&Row<'_>) -> Result<T, SqlError>) -> Result<Vec<T>, SqlError> {
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.extend(readable(decode(row))?);
    }
    Ok(found)
}

/// The rows of a query for a page that make sense, `limit` of them or as many as [`PAGE_BYTES`] allow. The query itself has
/// no limit ([`NO_LIMIT`](crate::engine::range::NO_LIMIT)): what is left out has no place on a page.
pub(crate) fn listed<T>(
    mut rows: Rows<'_>,
    limit: i64,
    decode: impl Fn(&Row<'_>) -> Result<T, SqlError>,
) -> Result<Listed<T>, SqlError> {
    let limit = usize::try_from(limit).unwrap_or_default();
    let (mut found, mut bytes) = (Vec::new(), 0);
    while found.len() < limit
        && let Some(row) = rows.next()?
    {
        if bytes >= PAGE_BYTES {
            return Ok(Listed { rows: found, cut: true });
        }
        if let Some(decoded) = readable(decode(row))? {
            bytes += row_bytes(row);
            found.push(decoded);
        }
    }
    Ok(Listed { rows: found, cut: false })
}

/// As [`listed`], for a query that has rows which a filter does not let through, too: its column `passes` says so. After
/// [`PAGE_ROWS`] of those the page ends. `key` is what the walk goes by.
pub(crate) fn walked<T, C>(
    mut rows: Rows<'_>,
    limit: i64,
    key: impl Fn(&Row<'_>) -> Result<C, SqlError>,
    decode: impl Fn(&Row<'_>) -> Result<T, SqlError>,
) -> Result<Walked<T, C>, SqlError> {
    let limit = usize::try_from(limit).unwrap_or_default();
    let (mut found, mut bytes, mut in_vain) = (Vec::new(), 0, 0);
    while found.len() < limit
        && let Some(row) = rows.next()?
    {
        if bytes >= PAGE_BYTES {
            return Ok(Walked { listed: Listed { rows: found, cut: true }, reached: None });
        }
        let passes = row.get::<_, Option<bool>>("passes")?.unwrap_or(false);
        let decoded = if passes { readable(decode(row))? } else { None };
        match decoded {
            Some(decoded) => {
                bytes += row_bytes(row);
                found.push(decoded);
            }
            None => {
                in_vain += 1;
                // A row without a key is none that the next page could begin at.
                if in_vain >= PAGE_ROWS
                    && let Some(key) = readable(key(row))?
                {
                    return Ok(Walked { listed: Listed { rows: found, cut: true }, reached: Some(key) });
                }
            }
        }
    }
    Ok(Walked { listed: Listed { rows: found, cut: false }, reached: None })
}

/// How many bytes the texts and blobs of a row have.
pub(crate) fn row_bytes(row: &Row<'_>) -> usize {
    let width = row.as_ref().column_count();
    let column = |at| row.get_ref(at).ok().and_then(|value| value.as_bytes_or_null().ok().flatten().map(<[u8]>::len));
    (0..width).filter_map(column).sum()
}

/// The first row of a query, if there is one.
pub(crate) fn first<T>(
    mut rows: Rows<'_>,
    decode: impl Fn(&Row<'_>) -> Result<T, SqlError>,
) -> Result<Option<T>, SqlError> {
    rows.next()?.map(decode).transpose()
}

/// The JSON text of a list or map.
pub(crate) fn encode_json<T: serde::Serialize>(value: &T) -> Result<String, SqlError> {
    serde_json::to_string(value)
        .map_err(|error| SqlError::Driver(rusqlite::Error::ToSqlConversionFailure(Box::new(error))))
}

/// A row of a known table, for errors that say where they are. They name a row by its first column.
pub(crate) struct Columns<'row, 'statement> {
    row: &'row Row<'statement>,
    table: &'static str,
    /// Which column is read next, if they are read in their order.
    next: Option<Cell<usize>>,
}

impl<'row, 'statement> Columns<'row, 'statement> {
    pub(crate) fn new(row: &'row Row<'statement>, table: &'static str) -> Self {
        Self { row, table, next: None }
    }

    /// For columns that are all read, in the order in which they were selected: nobody has to look for their names.
    pub(crate) fn in_order(row: &'row Row<'statement>, table: &'static str) -> Self {
        Self::in_order_from(0, row, table)
    }

    /// The same, from this column on.
    pub(crate) fn in_order_from(first: usize, row: &'row Row<'statement>, table: &'static str) -> Self {
        Self { row, table, next: Some(Cell::new(first)) }
    }

    pub(crate) fn inconsistent(&self, column: &'static str, problem: &impl ToString) -> SqlError {
        let number = self.row.get::<_, i64>(0).map(|no| no.to_string());
        let row = number.or_else(|_| self.row.get::<_, String>(0)).unwrap_or_else(|_| "?".to_owned());
        SqlError::Store(StoreError::Inconsistent { table: self.table, column, row, problem: problem.to_string() })
    }

    pub(crate) fn get<T: FromSql>(&self, column: &'static str) -> Result<T, SqlError> {
        let value = match &self.next {
            None => self.row.get(column),
            Some(next) => {
                let index = next.replace(next.get() + 1);
                debug_assert_eq!(self.row.as_ref().column_name(index), Ok(column), "the order of {}", self.table);
                self.row.get(index)
            }
        };
        value.map_err(|error| if is_about_a_value(&error) { self.inconsistent(column, &error) } else { error.into() })
    }

    pub(crate) fn id<I: Id>(&self, column: &'static str) -> Result<I, SqlError> {
        Ok(I::from_ksuid(Ksuid::from_bytes(self.get::<[u8; 20]>(column)?)))
    }

    pub(crate) fn instant(&self, column: &'static str) -> Result<Timestamp, SqlError> {
        Ok(Timestamp::from_micros(self.get(column)?))
    }

    pub(crate) fn maybe_instant(&self, column: &'static str) -> Result<Option<Timestamp>, SqlError> {
        Ok(self.get::<Option<i64>>(column)?.map(Timestamp::from_micros))
    }

    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, column: &'static str) -> Result<T, SqlError> {
        let text: String = self.get(column)?;
        serde_json::from_str(&text).map_err(|error| self.inconsistent(column, &error))
    }

    pub(crate) fn maybe_json<T: serde::de::DeserializeOwned>(
        &self,
        column: &'static str,
    ) -> Result<Option<T>, SqlError> {
        let Some(text) = self.get::<Option<String>>(column)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|error| self.inconsistent(column, &error))
    }

    pub(crate) fn metadata(&self) -> Result<Metadata, SqlError> {
        self.json("metadata")
    }
}
