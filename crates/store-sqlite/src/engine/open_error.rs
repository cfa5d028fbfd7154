//! Why a store could not be opened, in one line each that says what to do.

use std::path::{Path, PathBuf};

use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;

use crate::engine::files::{self, READ_ERRORS};

/// A store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "the store {path} is in use by another postrider{}: stop that one first, or give this one a store of its own (store.url)",
        if owner.is_empty() { String::new() } else { format!(" (process {owner})") }
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// The other's process number, if known.
        owner: String,
    },
    /// Its owner has it by another name.
    #[error(
        "the store {path} is in use by a postrider that has it by another name, or whose .lock file was deleted: what this command \
         writes would damage it; give the command the same path as the server (store.url)"
    )]
    OtherName {
        /// The file.
        path: PathBuf,
    },
    /// It can be opened by another name.
    #[error(
        "the store {path} has {names} names (hard links), and what was written last (-wal) is next to one of them only: opened by another \
         it would be damaged; find them with `find / -xdev -samefile {path}`, keep the one that the server has (with the -wal next \
         to it, if there is one), and remove the others; to have a copy, make one with cp"
    )]
    HardLinked {
        /// The file.
        path: PathBuf,
        /// How many there are.
        names: u64,
    },
    /// It can be opened by another name, outside.
    #[error(
        "the store {path} is mounted by itself, without its folder: what is written last is kept next to it (-wal), where it would \
         not be found from outside, or by the next container; mount the folder instead"
    )]
    MountedAlone {
        /// The file.
        path: PathBuf,
    },
    /// The path can't be used.
    #[error("cannot open the store {path}: {problem}: check that the folder exists and that this user may write to it")]
    Path {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        problem: String,
    },
    /// It may be read, but not written.
    #[error(
        "the store {path} cannot be written: {file} has the mode {mode:04o}, and this user may not write to it, or its file system is \
         read-only: give it to the user that the server runs as (chown), and make it writable (chmod 600 {file})"
    )]
    ReadOnly {
        /// The store.
        path: PathBuf,
        /// The file that is the reason.
        file: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A newer version made it.
    #[error(
        "the store {path} has schema version {found}, this postrider knows up to {known}: use the newer postrider that wrote it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version known here.
        known: usize,
    },
    /// It could not be brought to the form of this version.
    #[error(
        "the store {path} could not be brought to schema version {step} of {last} ({problem}): it is as the step before left it; restore the \
         backup that was made before the upgrade, and go on with the earlier postrider, or see to the reason and start again"
    )]
    Migration {
        /// The file.
        path: PathBuf,
        /// The version that was to be reached.
        step: usize,
        /// The version that this postrider has.
        last: usize,
        /// What SQLite says.
        problem: String,
    },
    /// It is some other program's database.
    #[error("the file {path} is a database of another program: choose another path in store.url")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It is no database, or is one no more.
    #[error(
        "the file {path} is no store, or it is damaged ({problem}): if it was one, look for errors of its disk in the system's log first, \
         and keep it with the -wal beside it; then choose another path in store.url, or restore it from a backup"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        problem: String,
    },
    /// It is not there, but what was written to it last is.
    #[error(
        "the store {path} is not there, but its -wal is, with what was written last: put the file back where it was before this \
         is started (was it moved, or is its disk not mounted?); only if it is gone for good, move the -wal away, too"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The disk does not give what is in it.
    #[error(
        "the store {path} could not be read ({problem}): nothing says that it is damaged; leave it and its -wal as they are, see to the \
         disk, and start again"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What SQLite or the operating system says.
        problem: String,
    },
    /// It is not a file that can hold a database.
    #[error("{path} is not a regular file, so it cannot be a store: choose another path in store.url")]
    NotAFile {
        /// What is there.
        path: PathBuf,
    },
    /// SQLite itself is too old.
    #[error("this postrider was built with SQLite {found}, which can corrupt its files: build it with 3.51.3 or later")]
    OldSqlite {
        /// The version.
        found: &'static str,
    },
    /// The disk is full.
    #[error(
        "there is no room to open the store {path} ({problem}): make some on its file system and start again; nothing that was acknowledged is lost"
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        problem: String,
    },
    /// SQLite refused.
    #[error("cannot use the store {path}: {problem}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        problem: String,
    },
    /// A guest came before any owner.
    #[error(
        "there is no store at {path}: `postrider serve` makes it; if there should be one, check the folder, --store and store.url"
    )]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// A guest came before the owner of this version.
    #[error("the store {path} is not set up yet, or is of an older version: start the server once")]
    NotMigrated {
        /// The file.
        path: PathBuf,
    },
}

impl OpenError {
    pub(crate) fn path(path: &Path, error: &std::io::Error) -> Self {
        Self::file(path, path, error)
    }

    /// Something is wrong with one of a store's files.
    pub(crate) fn file(path: &Path, file: &Path, error: &std::io::Error) -> Self {
        // Whoever may not enter the folder learns nothing of the file.
        if error.kind() == std::io::ErrorKind::PermissionDenied
            && let Ok(found) = std::fs::metadata(file)
        {
            let mode = std::os::unix::fs::MetadataExt::mode(&found) & 0o7777;
            return Self::ReadOnly { path: path.to_owned(), file: file.to_owned(), mode };
        }
        let (path, problem) = (path.to_owned(), error.to_string());
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Full { path, problem },
            _ => Self::Path { path, problem },
        }
    }

    /// A step to another schema failed. Only what else is said of a store says more than that.
    pub(crate) fn migration(path: &Path, step: usize, last: usize, error: &rusqlite::Error) -> Self {
        match Self::database(path, error) {
            Self::Database { path, problem } => {
                // Without the statement, which is long and tells an operator nothing.
                let problem = match error {
                    rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
                    _ => problem,
                };
                Self::Migration { path, step, last, problem }
            }
            other => other,
        }
    }

    pub(crate) fn database(path: &Path, error: &rusqlite::Error) -> Self {
        // The index of the WAL is made at every start.
        let extended = error.sqlite_extended_error_code();
        let is_index = extended == Some(SQLITE_IOERR_SHMSIZE);
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full { path: path.to_owned(), problem: error.to_string() },
            _ if is_index => Self::Full { path: path.to_owned(), problem: error.to_string() },
            _ if extended.is_some_and(|code| READ_ERRORS.contains(&code)) => {
                Self::Unreadable { path: path.to_owned(), problem: error.to_string() }
            }
            Some(rusqlite::ErrorCode::ReadOnly) => files::read_only(path),
            Some(rusqlite::ErrorCode::CannotOpen) => Self::Path { path: path.to_owned(), problem: error.to_string() },
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
                Self::Damaged { path: path.to_owned(), problem: error.to_string() }
            }
            _ => Self::Database { path: path.to_owned(), problem: error.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_disk_did_not_give_is_not_called_damaged() {
        for code in READ_ERRORS {
            let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
            assert!(matches!(OpenError::database(Path::new("a.db"), &error), OpenError::Unreadable { .. }), "{code}");
        }
    }
}
