//! One process owns the store: a lock on `<file>.lock` and one on the database itself, which the operating system releases
//! when the process ends, however it ends. The lock file holds the owner's process number, for the message to whoever comes
//! second; the lock on the database keeps others out even if somebody deletes the lock file.
//!
//! A store is opened by one name only. SQLite keeps what was written last beside the name by which it opened a file (`-wal`): if
//! one process comes by another, neither sees what the other wrote, and each copies its own over it. Of that the locks
//! tell, too: whoever finds the database locked, but not the lock file beside the name that it was given, has another name
//! than the owner. Where nobody has it, there must be no other name at all: no hard link, and no mount of the file alone.
//!
//! These are `flock` locks. SQLite's own are of another kind (`fcntl`), which do not meet them, but which a process loses
//! when it closes any descriptor of the file. So the lock must be let go after the last connection, and is taken before the
//! first one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use crate::engine::files::{beside, tighten};
use crate::engine::open_error::OpenError;

/// How long a statement waits for another process that writes (`postrider key …` beside a server).
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How often an owner looks whether the guests have left that it waits for.
const LOOK: Duration = Duration::from_millis(20);

/// Held as long as the store is open.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Let go of first: it must not be found locked without the other.
    _database: File,
    /// What only an owner has.
    _file: Option<File>,
}

/// Taken by an owner before it makes a database, or looks at one.
#[derive(Debug)]
pub(crate) struct LockFile(File);

impl LockFile {
    /// Locks the lock file, or says who has.
    pub(crate) fn take(database: &Path) -> Result<Self, OpenError> {
        let path = beside(database, ".lock");
        let failed = |error: std::io::Error| OpenError::file(database, &path, &error);
        // What a link leads to is not written to, and a pipe not waited for.
        if std::fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
            return Err(failed(std::io::Error::other("its lock file is no ordinary file")));
        }
        tighten(&path);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        let mut file = options.open(&path).map_err(failed)?;
        if !locked(file.try_lock()).map_err(failed)? {
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
        Ok(Self(file))
    }
}

impl Lock {
    /// For the owner: locks the database, too, which must be there. Waits for guests, which stay for a few statements.
    pub(crate) fn own(path: &Path, file: LockFile) -> Result<Self, OpenError> {
        let failed = |error: std::io::Error| OpenError::path(path, &error);
        let database = File::open(path).map_err(failed)?;
        let mut looks = BUSY_TIMEOUT.as_millis() / LOOK.as_millis();
        while !locked(database.try_lock()).map_err(failed)? {
            let is_a_guests = locked(database.try_lock_shared()).map_err(failed)?;
            if !is_a_guests || looks == 0 {
                // It has another name, or somebody deleted its lock file.
                return Err(OpenError::InUse { path: path.to_owned(), owner: String::new() });
            }
            database.unlock().map_err(failed)?;
            looks -= 1;
            std::thread::sleep(LOOK);
        }
        has_one_name(path, &database)?;
        Ok(Self { _database: database, _file: Some(file.0) })
    }

    /// For a guest: keeps owners out if there is none, and otherwise makes sure that it has the store by the same name.
    pub(crate) fn visit(path: &Path) -> Result<Self, OpenError> {
        let failed = |error: std::io::Error| OpenError::path(path, &error);
        let database = File::open(path).map_err(failed)?;
        match found(|| locked(database.try_lock_shared()), || is_owned_by_name(path)).map_err(failed)? {
            Found::Alone => has_one_name(path, &database)?,
            Found::BesideItsOwner => {}
            Found::ByAnotherName => return Err(OpenError::OtherName { path: path.to_owned() }),
        }
        Ok(Self { _database: database, _file: None })
    }
}

/// How a guest finds a store.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Nobody had it, and owners are kept out now.
    Alone,
    BesideItsOwner,
    /// Somebody has it who came by another name.
    ByAnotherName,
}

/// `lock` takes the database, unless an owner has it; `is_owned` says whether one has the lock file beside the name.
fn found(
    mut lock: impl FnMut() -> std::io::Result<bool>,
    mut is_owned: impl FnMut() -> std::io::Result<bool>,
) -> std::io::Result<Found> {
    // The first look may come while an owner ends: it lets go of the one after the other.
    for _ in 0..2 {
        if lock()? {
            return Ok(Found::Alone);
        }
        if is_owned()? {
            return Ok(Found::BesideItsOwner);
        }
    }
    Ok(Found::ByAnotherName)
}

/// Whether an owner has the lock file beside this name.
fn is_owned_by_name(database: &Path) -> std::io::Result<bool> {
    match File::open(beside(database, ".lock")) {
        Ok(file) => Ok(!locked(file.try_lock_shared())?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Refuses a database that others can open by another name.
fn has_one_name(path: &Path, database: &File) -> Result<(), OpenError> {
    let names = database.metadata().map_err(|error| OpenError::path(path, &error))?.nlink();
    if names > 1 {
        return Err(OpenError::HardLinked { path: path.to_owned(), names });
    }
    let folder = path.parent().and_then(|folder| File::open(folder).ok());
    match (mount(database), folder.and_then(|folder| mount(&folder))) {
        (Some(its_own), Some(folders)) if its_own != folders => Err(OpenError::MountedAlone { path: path.to_owned() }),
        _ => Ok(()),
    }
}

/// The number of the mount that a file was opened by, where the system says (Linux).
fn mount(file: &File) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

/// Whether a lock was taken; false if somebody else has it.
fn locked(taken: Result<(), TryLockError>) -> std::io::Result<bool> {
    match taken {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_that_ends_while_a_guest_looks_is_not_taken_for_one_that_has_another_name() {
        let look = |database: &[bool], file: &[bool]| {
            let (mut database, mut file) = (database.iter(), file.iter());
            found(|| Ok(*database.next().unwrap()), || Ok(*file.next().unwrap())).unwrap()
        };
        assert_eq!(look(&[true], &[]), Found::Alone);
        assert_eq!(look(&[false], &[true]), Found::BesideItsOwner);
        assert_eq!(look(&[false, false], &[false, false]), Found::ByAnotherName);
        assert_eq!(look(&[false, true], &[false]), Found::Alone, "it ended in between");
        assert_eq!(look(&[false, false], &[false, true]), Found::BesideItsOwner, "and another one has begun");
    }
}
