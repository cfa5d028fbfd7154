//! Inserting rows of one table several at a time. Most of what a statement costs comes once, however many rows it has.
//!
//! Runs on the writer's thread, inside a transaction: rows that wait are in nobody's view until they are flushed, so
//! whoever reads the table flushes first, or looks at what is [`waiting`](Bulk::waiting), too.

use rusqlite::{Connection, Statement, ToSql};

/// Rows of a statement.
const MANY: usize = 16;

/// A row, as it is inserted.
pub(crate) trait Insert {
    /// Where to: verb, table and columns, as in `INSERT OR FAIL INTO t (a, b)`. With `FAIL` or `IGNORE` SQLite keeps no
    /// journal for the statement; that of the transaction is enough.
    const INTO: &'static str;
    /// How many columns.
    const COLUMNS: usize;

    /// Binds the values, in the order of the columns.
    fn bind(&self, values: &mut Values<'_, '_>) -> rusqlite::Result<()>;

    /// Whether it is so large that it is better inserted by itself: what is bound is copied.
    fn is_large(&self) -> bool {
        false
    }
}

/// The parameters of a statement, one after the other.
pub(crate) struct Values<'a, 'c> {
    statement: &'a mut Statement<'c>,
    next: usize,
}

impl Values<'_, '_> {
    pub(crate) fn push(&mut self, value: impl ToSql) -> rusqlite::Result<()> {
        self.statement.raw_bind_parameter(self.next, value)?;
        self.next += 1;
        Ok(())
    }
}

/// Rows that are inserted together.
pub(crate) struct Bulk<'c, R> {
    one: Statement<'c>,
    many: Statement<'c>,
    rows: Vec<R>,
}

impl<'c, R: Insert> Bulk<'c, R> {
    pub(crate) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        let row = format!("({})", vec!["?"; R::COLUMNS].join(", "));
        let insert = |rows: usize| connection.prepare(&format!("{} VALUES {}", R::INTO, vec![&*row; rows].join(", ")));
        Ok(Self { one: insert(1)?, many: insert(MANY)?, rows: Vec::with_capacity(MANY) })
    }

    /// Inserts a row now, or soon together with others.
    pub(crate) fn push(&mut self, row: R) -> rusqlite::Result<()> {
        if row.is_large() {
            self.flush()?;
            insert(&mut self.one, &[row])?;
            return Ok(());
        }
        self.rows.push(row);
        if self.rows.len() == MANY {
            insert(&mut self.many, &self.rows)?;
            self.rows.clear();
        }
        Ok(())
    }

    /// Rows that are not inserted yet.
    pub(crate) fn waiting(&self) -> &[R] {
        &self.rows
    }

    /// Inserts what waits.
    pub(crate) fn flush(&mut self) -> rusqlite::Result<()> {
        for row in &self.rows {
            insert(&mut self.one, std::slice::from_ref(row))?;
        }
        self.rows.clear();
        Ok(())
    }

    /// Inserts a row by itself; false if it was ignored.
    pub(crate) fn insert(&mut self, row: &R) -> rusqlite::Result<bool> {
        Ok(insert(&mut self.one, std::slice::from_ref(row))? == 1)
    }

    /// The transaction came to nothing.
    pub(crate) fn forget(&mut self) {
        self.rows.clear();
    }
}

/// Executes a statement for as many rows as it has places.
fn insert<R: Insert>(statement: &mut Statement<'_>, rows: &[R]) -> rusqlite::Result<usize> {
    let mut values = Values { statement, next: 1 };
    for row in rows {
        row.bind(&mut values)?;
    }
    let inserted = statement.raw_execute();
    // Payloads would stay in memory until the next ones take their places.
    statement.clear_bindings();
    inserted
}
