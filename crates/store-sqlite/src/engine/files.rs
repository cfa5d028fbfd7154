//! The files of a store: nobody but their owner may read them, and they are still those that were opened.
//!
//! A store holds signing secrets and payloads. SQLite gives the WAL and its index the permissions of the database, so the
//! database gets its own before SQLite sees it, whatever the umask.
//!
//! Who deletes or replaces a database under a running server leaves it writing into a file that nobody will find again; who
//! makes one shorter takes away what was committed. Therefore the files are compared before and after every commit, and a
//! few times a second, with what they must be: the same files, not shorter than what is in them. After a commit the WAL is
//! also looked into: what is appended behind a hole lengthens the file, and is lost all the same.
//!
//! A file that is back is as good as ever. What was shortened, or what SQLite calls malformed, is not: nothing is written to
//! such a store any more, nor copied from its WAL, until it is opened again.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::ffi::{
    SQLITE_IOERR_CORRUPTFS, SQLITE_IOERR_DATA, SQLITE_IOERR_FSYNC, SQLITE_IOERR_READ, SQLITE_IOERR_SHMSIZE,
    SQLITE_IOERR_SHORT_READ, SQLITE_IOERR_TRUNCATE, SQLITE_IOERR_WRITE,
};
use rusqlite::{Connection, ErrorCode};

use crate::engine::decode::SqlError;
use crate::engine::open_error::OpenError;

/// Marks the file as Postrider's ("PstR"), so that another program's database is not taken for an empty one.
pub(crate) const APPLICATION_ID: i32 = 0x5073_7452;

/// Where a database names its program, in four bytes (SQLite's file format, 1.3).
const APPLICATION_ID_AT: usize = 68;

/// The first page.
const PAGE_BYTES: u64 = 4_096;

/// Reading and writing, for the owner.
const PRIVATE: u32 = 0o600;

/// Writing, for the owner.
const OWNER_WRITES: u32 = 0o200;

/// What all others may do.
const OTHERS: u32 = 0o077;

/// The files that SQLite keeps beside a database.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// The head of a WAL, and that of each frame in it (SQLite's file format, 4.1).
const WAL_HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: u64 = 24;

/// Where the salt is in both: frames with another one than the WAL's are left from before it was started anew.
const WAL_SALT_AT: u64 = 16;
const FRAME_SALT_AT: u64 = 8;

/// What SQLite says if what is stored can't be read.
pub(crate) const READ_ERRORS: [i32; 4] =
    [SQLITE_IOERR_READ, SQLITE_IOERR_SHORT_READ, SQLITE_IOERR_DATA, SQLITE_IOERR_CORRUPTFS];

/// What SQLite says if something can't be written.
const WRITE_ERRORS: [i32; 4] = [SQLITE_IOERR_WRITE, SQLITE_IOERR_FSYNC, SQLITE_IOERR_TRUNCATE, SQLITE_IOERR_SHMSIZE];

/// So much must fit on the disk again, after a write that did not.
const ROOM_BYTES: usize = 1024 * 1024;

/// For how many looks an error of reading counts, if it does not come again.
const LOOKS_AFTER_ERROR: u32 = 2;

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
        let_write_beside(database);
    }
    Ok(made)
}

/// Lets the owner write the files beside a database again that he may write. SQLite gives them its permissions when it makes them, so
/// they are read-only if it was then. By their paths, as in [`tighten`]; they may be in use.
fn let_write_beside(database: &Path) {
    let read_only = |path: &Path| is_read_only(path).unwrap_or(None);
    if read_only(database).is_some() {
        return;
    }
    for path in COMPANIONS.map(|suffix| beside(database, suffix)) {
        let Some(mode) = read_only(&path) else { continue };
        let shown = path.display();
        match std::fs::set_permissions(&path, Permissions::from_mode((mode & !OTHERS) | PRIVATE)) {
            Ok(()) => {
                tracing::warn!(
                    "{shown} could not be written (mode {mode:04o}), though the database can be; now it can"
                );
            }
            Err(error) => {
                tracing::warn!(%error, "{shown} cannot be written (mode {mode:04o}), though the database can be");
            }
        }
    }
}

/// The mode of a file that not even its owner may write.
fn is_read_only(path: &Path) -> std::io::Result<Option<u32>> {
    let found = std::fs::metadata(path)?;
    let mode = found.permissions().mode() & 0o7777;
    Ok((found.is_file() && mode & OWNER_WRITES == 0).then_some(mode))
}

/// The error of a database that SQLite opened, but cannot write: it names the file that is the reason.
pub(crate) fn read_only(database: &Path) -> OpenError {
    let all = || std::iter::once(database.to_owned()).chain(COMPANIONS.map(|suffix| beside(database, suffix)));
    let file = all().find(|path| matches!(is_read_only(path), Ok(Some(_)))).unwrap_or_else(|| database.to_owned());
    let mode = std::fs::metadata(&file).map_or(0, |found| found.permissions().mode() & 0o7777);
    OpenError::ReadOnly { path: database.to_owned(), file, mode }
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

/// What is at a path: which file, and how long it is. `None` if nothing is there.
fn found_at(path: &Path) -> std::io::Result<Option<(Identity, u64)>> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(Some((Identity { device: found.dev(), inode: found.ino() }, found.len()))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file as it was opened.
#[derive(Debug)]
struct Watched {
    path: PathBuf,
    opened: Option<Identity>,
}

/// What is at the path of a file.
enum Look {
    /// The file, so long.
    Same(u64),
    /// Nothing can be said of it.
    Unknown,
    Wrong(String),
}

impl Watched {
    fn note(path: PathBuf) -> (Self, u64) {
        let found = found_at(&path).ok().flatten();
        (Self { opened: found.map(|(identity, _)| identity), path }, found.map_or(0, |(_, bytes)| bytes))
    }

    fn look(&self) -> Look {
        let Some(opened) = self.opened else { return Look::Unknown };
        let what = match found_at(&self.path) {
            Ok(Some((found, bytes))) if found == opened => return Look::Same(bytes),
            Ok(Some(_)) => "was replaced by another file",
            Ok(None) => "was deleted or moved away",
            // Says nothing about the file.
            Err(_) => return Look::Unknown,
        };
        Look::Wrong(format!("{} {what} while it was in use", self.path.display()))
    }

    fn shortened(&self, bytes: u64, least: u64) -> String {
        format!("{} was cut to {bytes} bytes, {least} are needed, while it was in use", self.path.display())
    }
}

/// What the index of the WAL, which all connections share, says there is.
struct Claimed {
    frames: u64,
    pages: u64,
}

impl Claimed {
    /// `None` if this connection has not looked at the WAL yet. Not to be asked in a transaction.
    fn by(connection: &Connection) -> Option<Self> {
        let number = |sql: &str, column: usize| connection.query_row(sql, [], |row| row.get::<_, i64>(column)).ok();
        let frames = number("PRAGMA wal_checkpoint(NOOP)", 1)?;
        let pages = number("PRAGMA page_count", 0)?;
        Some(Self { frames: u64::try_from(frames).ok()?, pages: u64::try_from(pages).ok()? })
    }
}

/// The files as they were opened, and what was found wrong with them.
#[derive(Debug)]
pub(crate) struct Files {
    database: Watched,
    wal: Watched,
    index: Watched,
    /// To look into the WAL. (To open and close one of the others would end SQLite's locks.)
    wal_file: Option<File>,
    page_bytes: u64,
    database_bytes: AtomicU64,
    index_bytes: AtomicU64,
    /// How many frames the WAL has after the last commit of the writer.
    frames: AtomicU64,
    /// What only opening the store again can mend.
    broken: OnceLock<String>,
    /// Whether reading may end the process: what is mapped into memory is not in the file any more.
    unreadable: AtomicBool,
    /// An error of reading, and for how many looks it counts.
    read_error: Mutex<Option<(String, u32)>>,
    /// A write failed, for want of room for instance, and none has succeeded since there was some.
    unwritten: AtomicBool,
    /// There was room when it was looked for since.
    has_room: AtomicBool,
    /// What was wrong when they were looked at last.
    problem: Mutex<Option<String>>,
}

impl Files {
    /// Notes which files there are. To be called when the database is open, and so its companions are there.
    pub(crate) fn note(database: &Path, connection: &Connection) -> Self {
        let (wal, _) = Watched::note(beside(database, "-wal"));
        let (index, index_bytes) = Watched::note(beside(database, "-shm"));
        let (database, database_bytes) = Watched::note(database.to_owned());
        let page_bytes = connection.query_row("PRAGMA page_size", [], |row| row.get::<_, i64>(0));
        Self {
            wal_file: File::open(&wal.path).ok(),
            page_bytes: page_bytes.map_or(PAGE_BYTES, i64::unsigned_abs),
            database,
            wal,
            index,
            database_bytes: AtomicU64::new(database_bytes),
            index_bytes: AtomicU64::new(index_bytes),
            frames: AtomicU64::new(Claimed::by(connection).map_or(0, |claimed| claimed.frames)),
            broken: OnceLock::new(),
            unreadable: AtomicBool::new(false),
            read_error: Mutex::default(),
            unwritten: AtomicBool::new(false),
            has_room: AtomicBool::new(false),
            problem: Mutex::default(),
        }
    }

    /// What is wrong with the files, in words; says so in the log when that changes. Not to be asked in a transaction.
    pub(crate) fn problem(&self, connection: &Connection) -> Option<String> {
        let found = self.look(connection).or_else(|| Some(self.read_error.lock().as_ref()?.0.clone()));
        self.tell(&found);
        found
    }

    /// As [`Files::problem`], after a commit of `connection`, which must be in the WAL. `before` is how many frames that had
    /// before.
    pub(crate) fn problem_after_commit(&self, connection: &Connection, before: u64) -> Option<String> {
        if self.broken.get().is_none() && self.has_hole(before) {
            let frames = self.frames();
            // Unless another program has started the WAL anew at this very moment: then nothing is lost.
            if Claimed::by(connection).is_none_or(|claimed| claimed.frames >= frames) {
                self.fail(format!("{} was cut while it was in use", self.wal.path.display()));
            }
        }
        // What could not be read says nothing of what was written.
        let found = self.look(connection);
        if found.is_some() {
            self.tell(&found);
        }
        found
    }

    /// How many frames the WAL has after the last commit.
    pub(crate) fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// The writer has committed: the WAL has so many frames.
    pub(crate) fn committed(&self, frames: i32) {
        self.frames.store(u64::from(frames.unsigned_abs()), Ordering::Relaxed);
        // By itself it proves nothing: a little may fit into what the files have already.
        if self.has_room.swap(false, Ordering::Relaxed) {
            self.unwritten.store(false, Ordering::Relaxed);
        }
    }

    fn could_not_write(&self) {
        self.has_room.store(false, Ordering::Relaxed);
        self.unwritten.store(true, Ordering::Relaxed);
    }

    /// Whether only opening the store again can help.
    pub(crate) fn are_broken(&self) -> bool {
        self.broken.get().is_some()
    }

    /// Whether a connection can look at the index of the WAL without ending the process.
    pub(crate) fn are_readable(&self) -> bool {
        self.look_at_index();
        !self.unreadable.load(Ordering::Relaxed)
    }

    /// Takes in what an error of SQLite says about the files.
    pub(crate) fn heard(&self, error: &SqlError) {
        let SqlError::Driver(error) = error else { return };
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                // SQLite says the same of a page that its disk could not give.
                let path = self.database.path.display();
                self.fail(format!(
                    "{path} is damaged, or its disk could not read it: its errors are in the system's log ({error})"
                ));
                self.tell(&self.broken.get().cloned());
            }
            // Who writes hears of errors of writing by himself, each time; whoever only asks how the store is does not.
            Some(ErrorCode::DiskFull) => self.could_not_write(),
            Some(ErrorCode::SystemIoFailure)
                if WRITE_ERRORS.contains(&error.sqlite_extended_error_code().unwrap_or(0)) =>
            {
                self.could_not_write();
            }
            Some(ErrorCode::SystemIoFailure)
                if READ_ERRORS.contains(&error.sqlite_extended_error_code().unwrap_or(0)) =>
            {
                let problem = format!("{} could not be read ({error})", self.database.path.display());
                *self.read_error.lock() = Some((problem, LOOKS_AFTER_ERROR));
            }
            _ => {}
        }
    }

    /// What keeps the store from growing, if a write failed and it is so still. Once there is room, the next commit that writes ends
    /// that; if it fails, it is so again.
    pub(crate) fn no_room(&self) -> Option<String> {
        if !self.unwritten.load(Ordering::Relaxed) {
            return None;
        }
        let problem = self.try_room().err().map(|error| format!("the store cannot grow: {error}"));
        self.has_room.store(problem.is_none(), Ordering::Relaxed);
        problem
    }

    /// Makes a file as long as the longest of the store's and [`ROOM_BYTES`] more, and removes it. Only those bytes take room
    /// where the file system knows of holes; elsewhere it takes as much as the longest of the files, and so says "no room"
    /// before there is none. It is synced: a file system may find out only then that there is no room, as over a network, or that
    /// the disk does not take it.
    fn try_room(&self) -> std::io::Result<()> {
        let path = beside(&self.database.path, "-room");
        let longest = [&self.database, &self.wal].map(|file| match file.look() {
            Look::Same(bytes) => bytes,
            Look::Wrong(_) | Look::Unknown => 0,
        });
        // One that stayed, or a link that somebody else put there: what a link leads to is not written to.
        let _ = std::fs::remove_file(&path);
        let written = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(&path).and_then(|file| {
            file.write_all_at(&vec![1; ROOM_BYTES], longest.into_iter().max().unwrap_or(0))?;
            file.sync_all()
        });
        let _ = std::fs::remove_file(&path);
        written
    }

    /// Time has passed: an error of reading that did not come again is over.
    pub(crate) fn tick(&self) {
        let mut error = self.read_error.lock();
        *error = error.take().and_then(|(problem, looks)| Some((problem, looks.checked_sub(1)?)));
    }

    /// For the end of a connection: what may be wrong in the WAL must not be copied.
    pub(crate) fn let_go(&self, connection: &Connection) {
        if self.are_broken() {
            // Fails only for a connection that can do nothing any more.
            let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
    }

    fn fail(&self, problem: String) {
        // The first one is what it was.
        let _ = self.broken.set(problem);
    }

    fn tell(&self, found: &Option<String>) {
        let mut known = self.problem.lock();
        if *known == *found {
            return;
        }
        match found {
            Some(problem) if self.are_broken() => tracing::error!(
                "{problem}: nothing is accepted any more; stop the server, see to the file, and start it again"
            ),
            Some(problem) => tracing::error!(
                "{problem}: nothing is accepted until the file is back; put it back before the server is started again"
            ),
            None => tracing::info!("the files of the store are back"),
        }
        known.clone_from(found);
    }

    fn look(&self, connection: &Connection) -> Option<String> {
        // First, because to ask SQLite about the others is to look at it.
        if let Some(problem) = self.look_at_index() {
            return Some(problem);
        }
        if let Some(problem) = self.broken.get() {
            return Some(problem.clone());
        }
        self.look_at_database(connection).or_else(|| self.look_at_wal(connection))
    }

    /// It only grows. A shorter one would end the process when the part is read that it lacks.
    fn look_at_index(&self) -> Option<String> {
        // Before the look: it may have grown since, and somebody else may have seen that.
        let known = self.index_bytes.load(Ordering::SeqCst);
        match self.index.look() {
            Look::Wrong(problem) => return Some(problem),
            Look::Unknown => {}
            Look::Same(bytes) => {
                self.index_bytes.fetch_max(bytes, Ordering::SeqCst);
                if bytes < known {
                    self.unreadable.store(true, Ordering::Relaxed);
                    self.fail(self.index.shortened(bytes, known));
                }
            }
        }
        if self.unreadable.load(Ordering::Relaxed) { self.broken.get().cloned() } else { None }
    }

    /// It only grows, too, unless another program makes it smaller (`VACUUM`), and says so in the WAL.
    fn look_at_database(&self, connection: &Connection) -> Option<String> {
        // Before the look, as of the index.
        let known = self.database_bytes.load(Ordering::SeqCst);
        match self.database.look() {
            Look::Wrong(problem) => return Some(problem),
            Look::Unknown => {}
            Look::Same(bytes) => {
                self.database_bytes.fetch_max(bytes, Ordering::SeqCst);
                if bytes < known {
                    match Claimed::by(connection) {
                        None => return None,
                        Some(Claimed { frames, pages }) if frames > 0 && bytes >= pages * self.page_bytes => {
                            self.database_bytes.store(bytes, Ordering::SeqCst);
                        }
                        Some(_) => self.fail(self.database.shortened(bytes, known)),
                    }
                }
            }
        }
        self.broken.get().cloned()
    }

    /// Another program may empty it when everything is in the database, and says so in the index.
    fn look_at_wal(&self, connection: &Connection) -> Option<String> {
        match self.wal.look() {
            Look::Wrong(problem) => return Some(problem),
            Look::Unknown => {}
            Look::Same(bytes) if bytes < self.wal_bytes(self.frames()) => {
                let claimed = Claimed::by(connection)?;
                let least = self.wal_bytes(claimed.frames);
                // Read again: it may have been written since.
                match self.wal.look() {
                    Look::Same(bytes) if bytes < least => self.fail(self.wal.shortened(bytes, least)),
                    _ => {
                        self.frames.fetch_min(claimed.frames, Ordering::Relaxed);
                    }
                }
            }
            Look::Same(_) => {}
        }
        self.broken.get().cloned()
    }

    /// How long the file of the WAL is, used or not; 0 if nothing can be said of it.
    pub(crate) fn wal_length(&self) -> u64 {
        match self.wal.look() {
            Look::Same(bytes) => bytes,
            Look::Wrong(_) | Look::Unknown => 0,
        }
    }

    /// How long a WAL with so many frames is at least.
    fn wal_bytes(&self, frames: u64) -> u64 {
        if frames == 0 { 0 } else { WAL_HEADER_BYTES + frames * self.frame_bytes() }
    }

    fn frame_bytes(&self) -> u64 {
        FRAME_HEADER_BYTES + self.page_bytes
    }

    /// Whether the WAL lacks its head, the last frame of the last commit, or that of the commit before it.
    fn has_hole(&self, before: u64) -> bool {
        self.shows_hole(before, |at| self.salt(at))
    }

    /// The same by what is read. What can't be read is no hole: the disk may give it the next time.
    fn shows_hole(&self, before: u64, salt: impl Fn(u64) -> Option<[u8; 8]>) -> bool {
        let frames = self.frames();
        let Some(head) = salt(WAL_SALT_AT).filter(|_| frames > 0) else { return false };
        let is_missing = |frame: u64| {
            let at = |frame| self.wal_bytes(frame) - self.frame_bytes() + FRAME_SALT_AT;
            frame > 0 && salt(at(frame)).is_some_and(|found| found != head)
        };
        head == [0; 8] || is_missing(frames) || (before < frames && is_missing(before))
    }

    /// What is in the WAL at a place where a salt should be: zeros if the file ends before. `None` if it can't be read.
    fn salt(&self, at: u64) -> Option<[u8; 8]> {
        let mut salt = [0; 8];
        match self.wal_file.as_ref()?.read_exact_at(&mut salt, at) {
            Ok(()) => Some(salt),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Some([0; 8]),
            Err(_) => None,
        }
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
    fn what_is_beside_a_database_that_may_be_written_may_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        assert!(prepare(&path).unwrap());
        let wal = beside(&path, "-wal");
        std::fs::write(&wal, "").unwrap();
        for (database, before, after) in [(0o400, 0o400, 0o400), (PRIVATE, 0o400, PRIVATE), (PRIVATE, 0o444, PRIVATE)] {
            std::fs::set_permissions(&path, Permissions::from_mode(database)).unwrap();
            std::fs::set_permissions(&wal, Permissions::from_mode(before)).unwrap();
            assert!(!prepare(&path).unwrap());
            assert_eq!((mode(&path), mode(&wal)), (database, after));
        }
    }

    #[test]
    fn the_error_of_a_database_that_cannot_be_written_names_the_file_that_is_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        prepare(&path).unwrap();
        let shm = beside(&path, "-shm");
        std::fs::write(&shm, "").unwrap();
        for at_fault in [&shm, &path] {
            std::fs::set_permissions(at_fault, Permissions::from_mode(0o400)).unwrap();
            assert!(matches!(read_only(&path), OpenError::ReadOnly { file, mode: 0o400, .. } if file == *at_fault));
        }
    }

    /// A database with a WAL, and a connection that has written to it.
    fn database(folder: &Path) -> (PathBuf, Connection) {
        let path = folder.join("a.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "PRAGMA page_size = 4096; PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (a);
                 WITH RECURSIVE n (a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM n LIMIT 5000) INSERT INTO t SELECT a FROM n",
            )
            .unwrap();
        (path, connection)
    }

    fn cut(path: &Path, bytes: u64) {
        OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
    }

    #[test]
    fn a_file_that_is_deleted_replaced_or_back_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, connection) = database(folder.path());
        let aside = folder.path().join("aside");
        let files = Files::note(&path, &connection);
        assert_eq!(files.problem(&connection), None);
        std::fs::rename(&path, &aside).unwrap();
        assert!(files.problem(&connection).is_some_and(|problem| problem.contains("deleted")));
        std::fs::write(&path, "").unwrap();
        assert!(files.problem(&connection).is_some_and(|problem| problem.contains("replaced")));
        std::fs::rename(&aside, &path).unwrap();
        assert_eq!(files.problem(&connection), None);
    }

    #[test]
    fn a_file_that_is_cut_is_noticed_and_stays_broken() {
        for (suffix, left) in [("-wal", 0), ("-wal", 1_000), ("", 0), ("", 4_096), ("-shm", 0)] {
            let folder = tempfile::tempdir().unwrap();
            let (path, connection) = database(folder.path());
            connection.execute_batch("PRAGMA wal_checkpoint(PASSIVE); INSERT INTO t VALUES (1)").unwrap();
            let files = Files::note(&path, &connection);
            assert_eq!(files.problem(&connection), None);
            cut(&beside(&path, suffix), left);
            let problem = files.problem(&connection).unwrap();
            assert!(problem.contains(&format!("a.db{suffix} was cut to {left} bytes")), "{problem}");
            assert!(files.are_broken());
            assert_eq!(files.are_readable(), suffix != "-shm");
            files.let_go(&connection);
        }
    }

    #[test]
    fn a_commit_behind_a_hole_in_the_wal_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let (path, connection) = database(folder.path());
        let files = Files::note(&path, &connection);
        let before = files.frames();
        cut(&beside(&path, "-wal"), 0);
        connection.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        files.committed(i32::try_from(Claimed::by(&connection).unwrap().frames).unwrap());
        let bytes = std::fs::metadata(beside(&path, "-wal")).unwrap().len();
        assert!(bytes >= files.wal_bytes(files.frames()), "it is as long as it should be");
        assert!(files.problem_after_commit(&connection, before).is_some());
        files.let_go(&connection);
    }

    #[test]
    fn after_a_write_that_failed_only_one_that_succeeds_when_there_is_room_says_that_all_is_well() {
        let folder = tempfile::tempdir().unwrap();
        let (path, connection) = database(folder.path());
        let files = Files::note(&path, &connection);
        let error = |code| SqlError::Driver(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None));
        let is_unwritten = || files.unwritten.load(Ordering::Relaxed);
        for code in [rusqlite::ffi::SQLITE_FULL, SQLITE_IOERR_FSYNC] {
            files.heard(&error(code));
            files.committed(1);
            assert!(is_unwritten(), "a little fits always");
            assert_eq!(files.no_room(), None);
            assert!(is_unwritten(), "nothing was written yet");
            files.heard(&error(code));
            files.committed(2);
            assert!(is_unwritten(), "there may be none again");
            assert_eq!(files.no_room(), None);
            files.committed(3);
            assert!(!is_unwritten());
        }
    }

    #[test]
    fn what_other_programs_may_do_is_no_problem() {
        let folder = tempfile::tempdir().unwrap();
        let (path, connection) = database(folder.path());
        let files = Files::note(&path, &connection);
        let other = Connection::open(&path).unwrap();
        other.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        assert_eq!(std::fs::metadata(beside(&path, "-wal")).unwrap().len(), 0);
        assert_eq!(files.problem(&connection), None);
        other.execute_batch("DELETE FROM t; VACUUM; PRAGMA wal_checkpoint(PASSIVE)").unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < files.database_bytes.load(Ordering::Relaxed));
        assert_eq!(files.problem(&connection), None);
        connection.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        let before = files.frames();
        files.committed(i32::try_from(Claimed::by(&connection).unwrap().frames).unwrap());
        assert_eq!(files.problem_after_commit(&connection, before), None);
    }

    #[test]
    fn what_cannot_be_read_of_the_wal_is_no_hole_and_zeros_are_one() {
        let folder = tempfile::tempdir().unwrap();
        let (path, connection) = database(folder.path());
        let files = Files::note(&path, &connection);
        let before = files.frames();
        connection.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        files.committed(i32::try_from(Claimed::by(&connection).unwrap().frames).unwrap());
        assert!(before > 0 && before < files.frames());
        let mut places = std::collections::BTreeSet::new();
        let asked = std::cell::RefCell::new(&mut places);
        assert!(!files.shows_hole(before, |at| {
            asked.borrow_mut().insert(at);
            files.salt(at)
        }));
        assert_eq!(places.len(), 3);
        for place in places {
            assert!(!files.shows_hole(before, |at| if at == place { None } else { files.salt(at) }), "{place}");
            assert!(files.shows_hole(before, |at| if at == place { Some([0; 8]) } else { files.salt(at) }), "{place}");
        }
    }

    #[test]
    fn an_error_of_reading_counts_until_it_stays_away_and_a_damaged_page_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let (path, connection) = database(folder.path());
        let files = Files::note(&path, &connection);
        let error = |code| SqlError::Driver(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None));
        files.heard(&error(rusqlite::ffi::SQLITE_FULL));
        assert_eq!(files.problem(&connection), None);
        files.heard(&error(SQLITE_IOERR_READ));
        assert!(files.problem(&connection).is_some_and(|problem| problem.contains("could not be read")));
        for _ in 0..=LOOKS_AFTER_ERROR {
            files.tick();
        }
        assert_eq!(files.problem(&connection), None);
        files.heard(&error(rusqlite::ffi::SQLITE_CORRUPT));
        files.tick();
        assert!(files.are_broken() && files.problem(&connection).is_some_and(|problem| problem.contains("damaged")));
    }
}
