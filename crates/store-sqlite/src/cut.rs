//! Whether a database that is about to be opened has all of its pages, in its file or in the WAL beside it. A file that was
//! cut while nobody looked reads well until somebody comes to what is missing; SQLite itself compares its length only if
//! there is no WAL.

use std::collections::HashSet;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::files::beside;

const PAGE_BYTES: u64 = 4_096;

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
    let missing = (in_file + 1..=pages).filter(|page| !in_wal.contains(page)).count();
    Ok((missing > 0).then(|| {
        let should = pages * PAGE_BYTES;
        format!("it was cut to {bytes} bytes: {missing} of its pages are missing, with which it would have {should}")
    }))
}

/// The pages of which a WAL has a version that belongs to it; of one that there is not, none.
fn pages_in_wal(path: &Path) -> std::io::Result<HashSet<u64>> {
    let wal = match File::open(path) {
        Ok(wal) => wal,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(HashSet::new()),
        Err(error) => return Err(error),
    };
    let mut head = [0; WAL_HEAD];
    let mut pages = HashSet::new();
    let mut at = WAL_HEAD as u64;
    if wal.read_exact_at(&mut head, 0).is_err() {
        return Ok(pages);
    }
    let mut frame = [0; FRAME_HEAD];
    while wal.read_exact_at(&mut frame, at).is_ok() {
        // What is left of an earlier round of the file has other salts.
        if frame[8..16] != head[16..24] {
            break;
        }
        pages.insert(u64::from(u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]])));
        at += FRAME_HEAD as u64 + PAGE_BYTES;
    }
    Ok(pages)
}
