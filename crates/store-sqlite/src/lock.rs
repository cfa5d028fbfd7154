//! One process owns the store: a lock on `<file>.lock` and one on the database itself, which the operating system releases
//! when the process ends, however it ends. The lock file holds the owner's process number, for the message to whoever comes
//! second; the lock on the database keeps others out even if somebody deletes the lock file.
//!
//! These are `flock` locks. SQLite's own are of another kind (`fcntl`), which do not meet them, but which a process loses
//! when it closes any descriptor of the file. So the lock must be let go after the last connection, and is taken before the
//! first one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::OpenError;
use crate::files::{beside, tighten};

/// Held as long as the store is open.
#[derive(Debug)]
pub(crate) struct OwnerLock {
    _file: File,
    database: Option<File>,
}

impl OwnerLock {
    /// Locks the lock file, or says who has.
    pub(crate) fn take(database: &Path) -> Result<Self, OpenError> {
        let path = beside(database, ".lock");
        let failed = |error: std::io::Error| OpenError::path(database, &error);
        tighten(&path);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        let mut file = options.open(&path).map_err(failed)?;
        if !lock(&file).map_err(failed)? {
            let mut owner = String::new();
            // The number is a courtesy; the lock is what counts.
            let _ = file.read_to_string(&mut owner);
            return Err(OpenError::InUse { path: database.to_owned(), owner: owner.trim().to_owned() });
        }
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = written {
            // A full disk must not keep the server from starting: it can still deliver what is stored.
            tracing::warn!(%error, "failed to note the process number in the lock file");
        }
        Ok(Self { _file: file, database: None })
    }

    /// Locks the database, too, which must be there.
    pub(crate) fn with_database(mut self, path: &Path) -> Result<Self, OpenError> {
        let failed = |error: std::io::Error| OpenError::path(path, &error);
        let file = self.database.insert(File::open(path).map_err(failed)?);
        if lock(file).map_err(failed)? {
            return Ok(self);
        }
        // Somebody deleted the lock file of whoever has it.
        Err(OpenError::InUse { path: path.to_owned(), owner: String::new() })
    }
}

/// Locks a file; false if somebody else has.
fn lock(file: &File) -> std::io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
