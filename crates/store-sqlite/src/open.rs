//! Opening a store: who may, with which pragmas, and every way in which it can fail, in words that say what to do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use parking_lot::Mutex;
use postrider_domain::memory::{KIB, Part};
use postrider_store::{ASKED_PER_DAY, Observers};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, MAIN_DB, OpenFlags};

use crate::areas::retention;
use crate::engine::files::{self, Files};
use crate::engine::lock::{BUSY_TIMEOUT, Lock, LockFile};
use crate::engine::open_error::OpenError;
use crate::engine::readers::Readers;
use crate::engine::{cut, migrate};
use crate::lists::blocks;
use crate::store::SqliteStore;
use crate::write::writer::{Owned, Writer};

/// Earlier versions of SQLite can corrupt a database when a WAL file is reset while it is checkpointed.
const OLDEST_SQLITE: i32 = 3_051_003;

/// The page cache of a connection that writes, of which there are two: the writer's and that for checkpoints.
const WRITER_CACHE_KIB: u64 = 16_384;
const WRITERS: u64 = 2;

/// The page cache of a connection that reads.
const READER_CACHE_KIB: u64 = 4_096;

/// What every connection keeps for small objects (SQLite's lookaside, 400 pieces of 1,200 bytes: `.cargo/config.toml`).
const LOOKASIDE_KIB: u64 = 469;

/// What the store takes in memory at most. Beside it, two bytes for each idempotency key that is remembered.
pub fn memory() -> Vec<Part> {
    let readers = (READERS + LISTS) as u64;
    let caches = WRITERS * WRITER_CACHE_KIB + readers * READER_CACHE_KIB + (WRITERS + readers) * LOOKASIDE_KIB;
    vec![
        Part::fixed("caches of the store", caches * KIB),
        // Of messages and of attempts.
        Part::fixed("index cache for filtered lists", 2 * blocks::MAX_BYTES),
    ]
}

/// Connections for reads that are short: lanes' loads, and look-ups by id.
const READERS: usize = 3;

/// Of those, so many are left to what the process reads by itself.
const OWN_READERS: usize = 1;

/// Connections for lists and counts, which may be long: a filter that hardly anything passes walks far.
const LISTS: usize = 2;

/// Whether the store is opened to run the engine on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// The one process that accepts and delivers. Migrates, and keeps every other owner out.
    Owner,
    /// A guest for a few short statements, beside an owner or alone. The schema must be current.
    Guest,
}

impl SqliteStore {
    /// Opens the store in the file at `path`; an owner creates it if it does not exist, and says so in the log.
    pub fn open(path: &Path, ownership: Ownership) -> Result<Self, OpenError> {
        if rusqlite::version_number() < OLDEST_SQLITE {
            return Err(OpenError::OldSqlite { found: rusqlite::version() });
        }
        let path = &resolved(path);
        // Before anything is made beside it.
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(OpenError::NotAFile { path: path.to_owned() });
        }
        // SQLite would take the WAL of an empty database, or of none, for a leftover, and remove it.
        let bytes = |path: &Path| std::fs::metadata(path).ok().map(|found| found.len());
        let has_wal = bytes(&files::beside(path, "-wal")).is_some_and(|bytes| bytes > 0);
        if is_absent(path) && has_wal {
            return Err(OpenError::Missing { path: path.to_owned() });
        }
        if bytes(path) == Some(0) && has_wal {
            let problem = "it is empty, but its -wal is not".to_owned();
            return Err(OpenError::Damaged { path: path.to_owned(), problem });
        }
        twice(path, || match ownership {
            Ownership::Owner => Self::open_as_owner(path),
            Ownership::Guest => Self::open_as_guest(path),
        })
    }

    /// The same store, where an application's callers may ask for so many attempts in a day, and its tasks for as many, instead of
    /// [`ASKED_PER_DAY`].
    #[must_use]
    pub fn asked_at_most(self, per_day: u64) -> Self {
        Self { asked_per_day: per_day, ..self }
    }

    fn open_as_owner(path: &Path) -> Result<Self, OpenError> {
        let lock = LockFile::take(path)?;
        let is_new = files::prepare(path)?;
        let lock = Arc::new(Lock::own(path, lock)?);
        // Looked at before anything is written: another program's file must stay as it is.
        let is_empty = migrate::is_empty(&open_file(path)?, path)?;
        files::tighten_all(path);
        let mut connection = connect(path)?;
        check_whole(path, &connection)?;
        check_writable(path, &connection)?;
        migrate::migrate(&mut connection, path)?;
        if is_new {
            tracing::warn!(path = %path.display(), "no store found; created an empty one");
        } else if is_empty {
            tracing::warn!(path = %path.display(), "the store's file was empty; created an empty store in it");
        }
        Self::start(path, lock, connection, Ownership::Owner)
    }

    fn open_as_guest(path: &Path) -> Result<Self, OpenError> {
        if is_absent(path) {
            return Err(OpenError::Absent { path: path.to_owned() });
        }
        let lock = Arc::new(Lock::visit(path)?);
        if !migrate::is_current(&open_file(path)?, path)? {
            return Err(OpenError::NotMigrated { path: path.to_owned() });
        }
        Self::start(path, lock, connect(path)?, Ownership::Guest)
    }

    /// Starts what works on an open store. If that fails, the lock, which comes first, is let go of last.
    fn start(path: &Path, lock: Arc<Lock>, connection: Connection, ownership: Ownership) -> Result<Self, OpenError> {
        let files = (ownership == Ownership::Owner).then(|| Arc::new(Files::note(path, &connection)));
        let readers = |count, own| -> Result<Readers, OpenError> {
            let connections = (0..count).map(|_| connect_reader(path)).collect::<Result<_, _>>()?;
            Readers::start(connections, own, files.as_ref(), Some(&lock)).map_err(|error| OpenError::path(path, &error))
        };
        let (readers, lists) = (readers(READERS, OWN_READERS)?, readers(LISTS, 0)?);
        let owned = match &files {
            None => None,
            Some(files) => {
                // Those that are long first: what is short is held back only while what is short is waited for.
                let reads = [lists.pause(), readers.pause()];
                Some(Owned { checkpoints: connect(path)?, files: Arc::clone(files), reads })
            }
        };
        let observers = Arc::new(Observers::default());
        // What makes no sense there says nothing.
        let keys_seen = retention::keys_seen(&connection).unwrap_or_default();
        let writer = Writer::start(connection, owned, Some(Arc::clone(&lock)), Arc::clone(&observers))
            .map_err(|error| OpenError::path(path, &error))?;
        Ok(Self {
            writer,
            readers,
            lists,
            observers,
            progress: tokio::sync::Mutex::default(),
            keys_seen: AtomicI64::new(keys_seen),
            asked_per_day: ASKED_PER_DAY,
            lock: Mutex::new(Some(lock)),
        })
    }
}

/// Opens a store. What a disk did not give SQLite calls malformed, too, and whoever believes that loses what is in the WAL: so it is
/// tried once more, and looked whether the files can be read, before one is called damaged.
fn twice<T>(path: &Path, open: impl Fn() -> Result<T, OpenError>) -> Result<T, OpenError> {
    match open() {
        Err(OpenError::Damaged { .. }) => {}
        opened => return opened,
    }
    open().map_err(|error| match (error, cut::unreadable(path)) {
        (OpenError::Damaged { path, .. }, Some(problem)) => {
            OpenError::Unreadable { path, problem: problem.to_string() }
        }
        (error, _) => error,
    })
}

/// Refuses a database of which pages are missing, before anything is written to it.
fn check_whole(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    let pages: u64 = connection
        .query_row("PRAGMA page_count", [], |row| row.get(0))
        .map_err(|error| OpenError::database(path, &error))?;
    match cut::missing(path, pages).map_err(|error| OpenError::path(path, &error))? {
        Some(problem) => Err(OpenError::Damaged { path: path.to_owned(), problem }),
        None => Ok(()),
    }
}

/// Refuses a database of which a file cannot be written: SQLite would say so of the first commit.
fn check_writable(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK").map_err(|error| OpenError::database(path, &error))
}

/// Where a path leads, so that a store has one name only. SQLite puts its other files beside that, too.
fn resolved(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let by_folder = || Some(folder.canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(by_folder).unwrap_or_else(|| path.to_owned())
}

/// Whether there is no such file, though there is a folder for it. Who may not look into that does not know.
fn is_absent(path: &Path) -> bool {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_nowhere = |error: std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    std::fs::metadata(path).is_err_and(is_nowhere) && folder.is_dir()
}

fn open_file(path: &Path) -> Result<Connection, OpenError> {
    let database = |error: rusqlite::Error| OpenError::database(path, &error);
    // Whoever may make a store has made its file by now.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(database)?;
    // Opened for reading instead, without a word. What is read makes files beside it that are read-only, too.
    if connection.is_readonly(MAIN_DB).map_err(database)? {
        return Err(files::read_only(path));
    }
    connection.busy_timeout(BUSY_TIMEOUT).map_err(database)?;
    Ok(connection)
}

pub(crate) fn connect(path: &Path) -> Result<Connection, OpenError> {
    let database = |error: rusqlite::Error| OpenError::database(path, &error);
    let connection = open_file(path)?;
    connection
        .execute_batch(&format!(
            "PRAGMA page_size = 4096;
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA foreign_keys = OFF;
             PRAGMA temp_store = MEMORY;
             PRAGMA cache_size = -{WRITER_CACHE_KIB};
             PRAGMA wal_autocheckpoint = 0;",
        ))
        .map_err(database)?;
    // A plan does not depend on what is bound. Otherwise SQLite, which is built with STAT4 here, compiles a statement again
    // whenever the bounds of a range have changed: for each block that a list reads.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(database)?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

fn connect_reader(path: &Path) -> Result<Connection, OpenError> {
    let connection = connect(path)?;
    connection
        .execute_batch(&format!("PRAGMA query_only = ON; PRAGMA cache_size = -{READER_CACHE_KIB};"))
        .map_err(|error| OpenError::database(path, &error))?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damaged(path: &Path) -> OpenError {
        OpenError::Damaged { path: path.to_owned(), problem: "database disk image is malformed".to_owned() }
    }

    #[test]
    fn a_store_is_damaged_if_it_is_so_twice_and_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        std::fs::write(&path, "no database").unwrap();
        let tries = std::cell::Cell::new(0);
        let once = || {
            tries.set(tries.get() + 1);
            if tries.get() == 1 { Err(damaged(&path)) } else { Ok(()) }
        };
        assert!(twice(&path, once).is_ok());
        let always = || Err::<(), _>(damaged(&path));
        assert!(matches!(twice(&path, always), Err(OpenError::Damaged { .. })));
        // Can be opened, but not read.
        std::fs::create_dir(files::beside(&path, "-wal")).unwrap();
        assert!(matches!(twice(&path, always), Err(OpenError::Unreadable { .. })));
    }
}
