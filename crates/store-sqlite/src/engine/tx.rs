//! The transaction that a write is carried out in: what it may do, what it has to tell afterwards, and how it ends without having
//! written anything.

use std::cell::RefCell;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};

use postrider_domain::delivery::DisableReason;
use postrider_store::{ApplicationKey, EndpointKey, MessageKey, StoreError, WriteError};
use rusqlite::Connection;
use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE};

use crate::engine::decode::SqlError;
use crate::engine::files::Files;

/// What an ordinary write counts as.
pub(crate) const FEW_ROWS: usize = 16;

/// Bytes that count as much as a row.
const BYTES_IN_A_ROW: usize = 2_048;

/// How many rows so many bytes count as.
pub(crate) fn rows_of(bytes: usize) -> usize {
    bytes / BYTES_IN_A_ROW
}

/// What a job tells observers after its commit.
#[derive(Debug)]
pub(crate) enum News {
    EndpointChanged(EndpointKey, Option<ApplicationKey>),
    EndpointDisabled(EndpointKey, DisableReason),
    WorkAdded(EndpointKey, Option<ApplicationKey>),
    MessagesExpunged(Vec<MessageKey>),
    NoticeAdded,
    TaskAdded,
    ApplicationDeleted,
    /// Concerns nobody but the writer itself.
    KeysDropped(i64),
}

/// Whose rows a job removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Application(i64),
    Endpoint(i64),
}

/// The transaction that a job writes in: a connection, and a place for news.
pub(crate) struct Tx<'c> {
    pub(crate) connection: &'c Connection,
    pub(crate) news: RefCell<Vec<News>>,
    /// Of whom the hot path must forget where rows are.
    pub(crate) moved: RefCell<Vec<Place>>,
    pub(crate) files: Option<&'c Files>,
}

impl Tx<'_> {
    /// Tells observers after the commit.
    pub(crate) fn tell(&self, news: News) {
        self.news.borrow_mut().push(news);
    }

    /// What the hot path remembers of where this owner's rows are is out of date.
    pub(crate) fn moved(&self, place: Place) {
        self.moved.borrow_mut().push(place);
    }

    /// What keeps the store from growing, if a write failed because of that.
    pub(crate) fn no_room(&self) -> Option<String> {
        self.files?.no_room()
    }
}

impl Deref for Tx<'_> {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        self.connection
    }
}

/// Why a job wrote nothing.
#[derive(Debug)]
pub(crate) enum Abort<E> {
    /// The driver failed, or what was read makes no sense.
    Sql(SqlError),
    /// The job refused: its rules say no.
    Refused(E),
}

impl<E> From<rusqlite::Error> for Abort<E> {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(SqlError::Driver(error))
    }
}

impl<E> From<SqlError> for Abort<E> {
    fn from(error: SqlError) -> Self {
        Self::Sql(error)
    }
}

/// What it means that a row could not be written: a unique index refused it if its identifier is taken.
pub(crate) fn taken(error: rusqlite::Error) -> Abort<WriteError> {
    match error.sqlite_extended_error_code() {
        Some(SQLITE_CONSTRAINT_UNIQUE | SQLITE_CONSTRAINT_PRIMARYKEY) => Abort::Refused(WriteError::Conflict),
        _ => error.into(),
    }
}

/// Runs `write` so that it takes effect wholly or not at all, whatever else the transaction holds; a panic is an error.
pub(crate) fn in_savepoint<T, E>(
    connection: &Connection,
    write: impl FnOnce() -> Result<T, Abort<E>>,
) -> Result<T, Abort<E>> {
    connection.execute_batch("SAVEPOINT job")?;
    let result = catch_unwind(AssertUnwindSafe(write)).unwrap_or_else(|_| {
        let problem = "a write failed unexpectedly; see the log".to_owned();
        Err(Abort::Sql(SqlError::Store(StoreError::Unavailable(problem))))
    });
    match &result {
        Ok(_) => connection.execute_batch("RELEASE job")?,
        // SQLite has rolled everything back already if the disk is full; then there is no savepoint to go back to.
        Err(_) if connection.is_autocommit() => {}
        Err(_) => connection.execute_batch("ROLLBACK TO job; RELEASE job")?,
    }
    result
}
