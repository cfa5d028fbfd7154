//! The files of a store: nobody but their owner may read them, and they are still those that were opened.
//!
//! A store holds signing secrets and payloads. SQLite gives the WAL and its index the permissions of the database, so the
//! database gets its own before SQLite sees it, whatever the umask.
//!
//! Who deletes or replaces a database under a running server leaves it writing into a file that nobody will find again.
//! Therefore the files are compared with what is at their paths after every commit, and a few times a second.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::OpenError;
use crate::migrate::APPLICATION_ID;

/// Where a database names its program, in four bytes (SQLite's file format, 1.3).
const APPLICATION_ID_AT: usize = 68;

/// The first page.
const PAGE_BYTES: u64 = 4_096;

/// Reading and writing, for the owner.
const PRIVATE: u32 = 0o600;

/// What all others may do.
const OTHERS: u32 = 0o077;

/// The files that SQLite keeps beside a database.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// The files without which what is written goes nowhere, by what is added to the database's name.
const WATCHED: [&str; 3] = ["", "-wal", "-shm"];

/// A path beside that of the database.
pub(crate) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes an empty file for a database if there is none, and sees to it that nobody but the owner reads what is there, unless
/// it is another program's. To be called by the owner of the store before SQLite opens it. Returns whether it made the file.
pub(crate) fn prepare(database: &Path) -> Result<bool, OpenError> {
    let failed = |error: std::io::Error| OpenError::path(database, &error);
    let made = create_private(database).map_err(failed)?;
    if !made && may_be_ours(database).map_err(failed)? {
        tighten_all(database);
    }
    Ok(made)
}

/// Takes from others what they may do with a database and the files beside it.
pub(crate) fn tighten_all(database: &Path) {
    tighten(database);
    for suffix in COMPANIONS {
        tighten(&beside(database, suffix));
    }
}

/// Whether a file is a store, or empty, by its first page: what it says of its program may still be in the WAL.
fn may_be_ours(path: &Path) -> std::io::Result<bool> {
    let mut file = File::open(path)?;
    let (mut header, mut read) = ([0; APPLICATION_ID_AT + 4], 0);
    while read < header.len() {
        match file.read(&mut header[read..])? {
            0 => break,
            more => read += more,
        }
    }
    let [.., a, b, c, d] = header;
    let is_small = file.metadata()?.len() <= PAGE_BYTES;
    Ok(read == 0 || i32::from_be_bytes([a, b, c, d]) == APPLICATION_ID || (is_small && header.starts_with(b"SQLite ")))
}

/// Makes an empty file that only its owner may use; false if there is one already.
fn create_private(path: &Path) -> std::io::Result<bool> {
    match OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path) {
        Ok(file) => {
            // The umask can only take permissions away, also from the owner.
            file.set_permissions(Permissions::from_mode(PRIVATE))?;
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes from others what they may do with a file that is there. By its path: to open and close the file would end the
/// locks that SQLite has on it in this process.
pub(crate) fn tighten(path: &Path) {
    let Ok(found) = std::fs::metadata(path) else { return };
    let mode = found.permissions().mode() & 0o7777;
    if !found.is_file() || mode & OTHERS == 0 {
        return;
    }
    let shown = path.display();
    match std::fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS)) {
        Ok(()) => {
            tracing::warn!("{shown} could be read or written by others (mode {mode:04o}); now it is its owner's only");
        }
        Err(error) => tracing::warn!(%error, "failed to take {shown} (mode {mode:04o}) from others"),
    }
}

/// Which file it is, wherever its path leads later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// Of what is at a path. `None` if nothing is there.
    fn at(path: &Path) -> std::io::Result<Option<Self>> {
        match std::fs::metadata(path) {
            Ok(found) => Ok(Some(Self { device: found.dev(), inode: found.ino() })),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The files as they were opened.
#[derive(Debug)]
pub(crate) struct Files {
    opened: Vec<(PathBuf, Option<Identity>)>,
    /// What was wrong when they were looked at last.
    problem: Mutex<Option<String>>,
}

impl Files {
    /// Notes which files there are. To be called when the database is open, and so its companions are there.
    pub(crate) fn note(database: &Path) -> Self {
        let identity = |path: PathBuf| {
            let found = Identity::at(&path).ok().flatten();
            (path, found)
        };
        let opened = WATCHED.iter().map(|suffix| identity(beside(database, suffix))).collect();
        Self { opened, problem: Mutex::new(None) }
    }

    /// What is wrong with the files, in words; says so in the log when that changes.
    pub(crate) fn problem(&self) -> Option<String> {
        let found = self.look();
        let mut known = self.problem.lock();
        if *known != found {
            match &found {
                Some(problem) => tracing::error!(
                    "{problem}: nothing is accepted until the server is restarted on the right file, or the file is back"
                ),
                None => tracing::info!("the files of the store are back"),
            }
            known.clone_from(&found);
        }
        found
    }

    fn look(&self) -> Option<String> {
        self.opened.iter().find_map(|(path, opened)| {
            let opened = (*opened)?;
            let what = match Identity::at(path) {
                Ok(Some(found)) if found == opened => return None,
                Ok(Some(_)) => "was replaced by another file",
                Ok(None) => "was deleted or moved away",
                // Says nothing about the file.
                Err(_) => return None,
            };
            Some(format!("{} {what} while it was in use", path.display()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_file_is_private_and_existing_ones_become_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        assert!(prepare(&path).unwrap());
        assert_eq!(mode(&path), PRIVATE);
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let path = beside(&path, suffix);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o664)).unwrap();
        }
        assert!(!prepare(&path).unwrap());
        for suffix in ["", "-wal", "-shm", "-journal"] {
            assert_eq!(mode(&beside(&path, suffix)), PRIVATE, "{suffix}");
        }
    }

    #[test]
    fn a_file_that_is_deleted_replaced_or_back_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, aside) = (folder.path().join("a.db"), folder.path().join("aside"));
        std::fs::write(&path, "").unwrap();
        let files = Files::note(&path);
        assert_eq!(files.problem(), None);
        std::fs::rename(&path, &aside).unwrap();
        assert!(files.problem().is_some_and(|problem| problem.contains("deleted")));
        std::fs::write(&path, "").unwrap();
        assert!(files.problem().is_some_and(|problem| problem.contains("replaced")));
        std::fs::rename(&aside, &path).unwrap();
        assert_eq!(files.problem(), None);
    }
}
