//! A store that is empty, made once and copied for each seed; and what makes writes to it fail half way.
//!
//! The file has triggers that look at what is written: a payload that begins with one of the bytes here makes the statement
//! that stores it, or one that follows from it, fail as a full disk would. So where a transaction breaks is the seed's choice, too.
//! An answer that begins with another one makes the statement fail that logs the attempt, whenever it is tried.

use std::path::Path;
use std::sync::OnceLock;

use postrider_store::Store as _;
use postrider_store_sqlite::{Ownership, SqliteStore};
use rusqlite::Connection;

use crate::at_once::at_once;

/// The statement fails.
pub(crate) const FAILS: u8 = b'F';
/// The statement fails, and SQLite takes the whole transaction back.
pub(crate) const ROLLS_BACK: u8 = b'R';
/// A run of idempotency keys that would be made in the transaction of this message fails.
pub(crate) const FAILS_RUN: u8 = b'K';

/// The result of an attempt that was answered like this cannot be stored, however often that is tried.
pub(crate) const IS_UNSTORABLE: u8 = b'U';

/// Whether the result of an attempt with such an answer cannot be stored, for a store without triggers.
pub(crate) fn is_unstorable(answer: &[u8]) -> bool {
    answer.first() == Some(&IS_UNSTORABLE)
}

/// Whether what stores such a payload fails, for a store without triggers.
pub(crate) fn fails(payload: &[u8]) -> bool {
    matches!(payload.first(), Some(&(FAILS | ROLLS_BACK)))
}

/// A run is made of so many keys.
const RUN_KEYS: usize = 1 << 15;

/// A key and the number of its message.
const ENTRY_BYTES: usize = 24;

const TRIGGERS: &str = "
    CREATE TRIGGER simulated_failure BEFORE INSERT ON payload WHEN substr(NEW.body, 1, 1) = x'46'
    BEGIN SELECT RAISE(ABORT, 'simulated'); END;
    CREATE TRIGGER simulated_rollback BEFORE INSERT ON payload WHEN substr(NEW.body, 1, 1) = x'52'
    BEGIN SELECT RAISE(ROLLBACK, 'simulated'); END;
    CREATE TRIGGER simulated_failure_of_run BEFORE INSERT ON key_bucket
    WHEN (SELECT substr(body, 1, 1) FROM payload ORDER BY message_no DESC LIMIT 1) = x'4b'
    BEGIN SELECT RAISE(ABORT, 'simulated'); END;
    CREATE TRIGGER simulated_result BEFORE INSERT ON attempt WHEN substr(NEW.response, 1, 1) = x'55'
    BEGIN SELECT RAISE(ABORT, 'simulated'); END;";

/// What a store begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beginning {
    Empty,
    /// So many keys in its log that a few more make a run.
    NearlyARun,
}

/// Puts the file of a store there.
pub(crate) fn copy(beginning: Beginning, to: &Path) -> std::io::Result<()> {
    static EMPTY: OnceLock<Vec<u8>> = OnceLock::new();
    static NEARLY_A_RUN: OnceLock<Vec<u8>> = OnceLock::new();
    let (cell, keys) = match beginning {
        Beginning::Empty => (&EMPTY, 0),
        Beginning::NearlyARun => (&NEARLY_A_RUN, RUN_KEYS - 3),
    };
    let folder = to.parent().unwrap_or(Path::new("."));
    std::fs::write(to, cell.get_or_init(|| made(folder, keys)))
}

/// Copies the files of a store that is open, as a crash at this instant would leave them. Nobody may write to it meanwhile but
/// a checkpoint: what that has copied to the database is in the WAL as well.
pub(crate) fn copy_open(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::copy(from, to)?;
    match std::fs::copy(wal_of(from), wal_of(to)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        copied => copied.map(drop),
    }
}

fn wal_of(database: &Path) -> std::path::PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn made(folder: &Path, keys: usize) -> Vec<u8> {
    let path = folder.join("image.db");
    let store = SqliteStore::open(&path, Ownership::Owner);
    let store = store.unwrap_or_else(|error| panic!("an empty store in {}: {error}", folder.display()));
    at_once(store.close());
    drop(store);
    let prepare = || -> rusqlite::Result<()> {
        let connection = Connection::open(&path)?;
        connection.execute_batch(TRIGGERS)?;
        if keys > 0 {
            // Of messages that are gone.
            let entries: Vec<u8> = (0..keys).flat_map(key_of_nothing).collect();
            connection.execute("INSERT INTO key_log (newest_at, entries) VALUES (0, ?)", [entries])?;
        }
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE);")
    };
    prepare().unwrap_or_else(|error| panic!("an empty store in {}: {error}", folder.display()));
    let image = std::fs::read(&path);
    image.unwrap_or_else(|error| panic!("the store that was made in {}: {error}", folder.display()))
}

fn key_of_nothing(number: usize) -> [u8; ENTRY_BYTES] {
    let mut entry = [0xff; ENTRY_BYTES];
    entry[..8].copy_from_slice(&(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    entry[16..].copy_from_slice(&0_i64.to_be_bytes());
    entry
}
