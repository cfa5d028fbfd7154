//! From rows to the contract's types. What makes no sense is an error that names table, column and row; it never panics.

use std::cell::Cell;

use postrider_domain::application::Metadata;
use postrider_domain::ids::{Id, Ksuid};
use postrider_domain::time::Timestamp;
use postrider_store::{Listed, PAGE_BYTES, StoreError};
use rusqlite::types::FromSql;
use rusqlite::{Row, Rows};

/// An error of the driver. Its text names the cause (disk full, I/O error) and holds no data.
pub(crate) fn driver(error: &rusqlite::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
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

/// All rows of a query.
pub(crate) fn all<T>(mut rows: Rows<'_>, decode: impl Fn(&Row<'_>) -> Result<T, SqlError>) -> Result<Vec<T>, SqlError> {
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(decode(row)?);
    }
    Ok(found)
}

/// The rows of a query for a page, as many as [`PAGE_BYTES`] allow.
pub(crate) fn listed<T>(
    mut rows: Rows<'_>,
    decode: impl Fn(&Row<'_>) -> Result<T, SqlError>,
) -> Result<Listed<T>, SqlError> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        if bytes >= PAGE_BYTES {
            return Ok(Listed { rows: found, cut: true });
        }
        bytes += row_bytes(row);
        found.push(decode(row)?);
    }
    Ok(Listed { rows: found, cut: false })
}

/// How many bytes the texts and blobs of a row have.
fn row_bytes(row: &Row<'_>) -> usize {
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
        Self { row, table, next: Some(Cell::new(0)) }
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
        value.map_err(|error| match error {
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..) => self.inconsistent(column, &error),
            error => SqlError::Driver(error),
        })
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
