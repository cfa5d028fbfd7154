//! Whether a database that is about to be opened has all of its pages, in its file or in the WAL beside it. A file that was
//! cut while nobody looked reads well until somebody comes to what is missing; SQLite itself compares its length only if
//! there is no WAL.

use std::collections::HashSet;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::engine::files::beside;

const PAGE_BYTES: u64 = 4_096;

/// Is never written: its bytes are what SQLite locks.
const LOCK_PAGE: u64 = 0x4000_0000 / PAGE_BYTES + 1;

/// The head of a WAL, and of each of its frames, which is followed by a page.
const WAL_HEAD: usize = 32;
const FRAME_HEAD: usize = 24;

/// What is missing of a database with so many pages, in words; `None` if nothing is.
pub(crate) fn missing(path: &Path, pages: u64) -> std::io::Result<Option<String>> {
    let bytes = std::fs::metadata(path)?.len();
    let in_file = bytes / PAGE_BYTES;
    if in_file >= pages {
        return Ok(None);
    }
    let in_wal = pages_in_wal(&beside(path, "-wal"))?;
    // 1 is the first.
    let missing = (in_file + 1..=pages).filter(|page| *page != LOCK_PAGE && !in_wal.contains(page)).count();
    Ok((missing > 0).then(|| {
        let should = pages * PAGE_BYTES;
        format!("it was cut to {bytes} bytes: {missing} of its pages are missing, with which it would have {should}")
    }))
}

/// The pages of which a WAL has a version that was committed; of one that there is not, none.
fn pages_in_wal(path: &Path) -> std::io::Result<HashSet<u64>> {
    let wal = match File::open(path) {
        Ok(wal) => wal,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(HashSet::new()),
        Err(error) => return Err(error),
    };
    let mut head = [0; WAL_HEAD];
    let (mut pages, mut uncommitted) = (HashSet::new(), Vec::new());
    let mut at = WAL_HEAD as u64;
    if !is_read(&wal, &mut head, 0)? {
        return Ok(pages);
    }
    let mut frame = [0; FRAME_HEAD];
    while is_read(&wal, &mut frame, at)? {
        // What is left of an earlier round of the file has other salts.
        if frame[8..16] != head[16..24] {
            break;
        }
        uncommitted.push(u64::from(u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]])));
        // The last frame of a commit says how many pages the database has. What follows no commit is as if it were not there.
        if frame[4..8] != [0; 4] {
            pages.extend(uncommitted.drain(..));
        }
        at += FRAME_HEAD as u64 + PAGE_BYTES;
    }
    Ok(pages)
}

/// Whether so much is there; an error if that can't be read, which says nothing of what is there.
fn is_read(file: &File, into: &mut [u8], at: u64) -> std::io::Result<bool> {
    match file.read_exact_at(into, at) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// How much of a file is looked at to find out whether it can be read.
const TRIED_BYTES: u64 = 64 * 1024 * 1024;

/// At a time.
const TRIED_PIECE: usize = 64 * 1024;

/// Why the beginning of a database, or of the WAL beside it, can't be read; `None` if it can.
pub(crate) fn unreadable(path: &Path) -> Option<std::io::Error> {
    let read = |path: &Path| -> std::io::Result<()> {
        let (file, mut piece, mut at) = (File::open(path)?, vec![0; TRIED_PIECE], 0);
        while at < TRIED_BYTES {
            match file.read_at(&mut piece, at)? {
                0 => break,
                count => at += count as u64,
            }
        }
        Ok(())
    };
    let problem = |path: &Path| read(path).err().filter(|error| error.kind() != ErrorKind::NotFound);
    problem(path).or_else(|| problem(&beside(path, "-wal")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wal_that_can_not_be_read_is_none_that_ends() {
        let (_folder, path) = store(1, &[2, 3]);
        assert_eq!(missing(&path, 2).unwrap(), None);
        assert!(unreadable(&path).is_none());
        let wal = beside(&path, "-wal");
        std::fs::remove_file(&wal).unwrap();
        assert!(unreadable(&path).is_none());
        // Can be opened, but not read.
        std::fs::create_dir(&wal).unwrap();
        missing(&path, 2).unwrap_err();
        assert!(unreadable(&path).is_some());
    }

    /// A database of so many pages in a sparse file, and a WAL with these pages, each of which is a commit, of which the last one is
    /// of an earlier round.
    fn store(in_file: u64, in_wal: &[u32]) -> (tempfile::TempDir, std::path::PathBuf) {
        let frames: Vec<_> = in_wal.iter().map(|page| (*page, 99)).collect();
        store_of_frames(in_file, &frames)
    }

    /// The same with what the frames say of commits.
    fn store_of_frames(in_file: u64, in_wal: &[(u32, u32)]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("postrider.db");
        File::create(&path).unwrap().set_len(in_file * PAGE_BYTES).unwrap();
        let mut wal = vec![0; WAL_HEAD];
        wal[16..24].copy_from_slice(b"thissalt");
        for (place, (page, commit)) in in_wal.iter().enumerate() {
            wal.extend(page.to_be_bytes());
            wal.extend(commit.to_be_bytes());
            wal.extend(if place + 1 < in_wal.len() { b"thissalt" } else { b"formerly" });
            wal.resize(wal.len() + 8 + 4_096, 0);
        }
        std::fs::write(beside(&path, "-wal"), wal).unwrap();
        (folder, path)
    }

    #[test]
    fn what_lies_in_the_wal_is_not_missing_and_what_lay_there_in_an_earlier_round_is() {
        let (_folder, path) = store(10, &[11, 3, 12, 13]);
        assert_eq!(missing(&path, 10).unwrap(), None);
        assert_eq!(missing(&path, 12).unwrap(), None);
        assert!(missing(&path, 13).unwrap().unwrap().contains("1 of its pages"));
        std::fs::remove_file(beside(&path, "-wal")).unwrap();
        assert!(missing(&path, 12).unwrap().unwrap().contains("cut to 40960 bytes: 2 of its pages"));
    }

    #[test]
    fn what_was_not_committed_is_missing() {
        let (_folder, path) = store_of_frames(10, &[(11, 0), (12, 12), (13, 0), (14, 0), (1, 99)]);
        assert_eq!(missing(&path, 12).unwrap(), None);
        assert!(missing(&path, 14).unwrap().unwrap().contains("2 of its pages"));
    }

    #[test]
    fn the_page_that_is_never_written_is_not_missed() {
        let lock = u32::try_from(LOCK_PAGE).unwrap();
        let (_folder, path) = store(LOCK_PAGE - 2, &[lock - 1, lock + 1, 1]);
        assert_eq!(missing(&path, LOCK_PAGE + 1).unwrap(), None);
    }
}
