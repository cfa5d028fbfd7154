//! A backup is done while messages come: as the operator's guide says, in a transaction of who copies. Between the pages that
//! are copied somebody else commits each time, as under load.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::Duration;

use postrider_domain::time::Timestamp;
use postrider_store::{Retention as _, Store as _};
use postrider_store_sqlite::{Ownership, SqliteStore};
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

const NOW: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);

/// The shell of SQLite copies so many pages at a time.
const PAGES_AT_A_TIME: i32 = 100;

/// A store of some thousand pages.
async fn fill(database: &Path) {
    SqliteStore::open(database, Ownership::Owner).unwrap().close().await;
    let connection = Connection::open(database).unwrap();
    let payload = "INSERT INTO payload (message_no, body) VALUES (7, zeroblob(8000000))";
    connection.execute(payload, []).unwrap();
}

/// Copies what `source` sees, step by step, with a commit of the store in between; how many steps it took, or `None` if it was not done
/// after twice as many as there are pages for.
async fn steps(source: &Connection, copy: &Path, store: &SqliteStore) -> Option<usize> {
    let mut copy = Connection::open(copy).unwrap();
    let backup = Backup::new(source, &mut copy).unwrap();
    let mut most = usize::MAX;
    let mut taken = 0;
    while taken < most {
        let step = backup.step(PAGES_AT_A_TIME).unwrap();
        taken += 1;
        if step == StepResult::Done {
            return Some(taken);
        }
        let pages = usize::try_from(backup.progress().pagecount).unwrap();
        most = 2 * pages / PAGES_AT_A_TIME as usize;
        let now = NOW.saturating_add(Duration::from_secs(taken as u64));
        store.note_clock(now, now).await.unwrap();
    }
    None
}

#[tokio::test]
async fn a_backup_in_a_transaction_is_done_however_often_the_store_commits() {
    let folder = tempfile::tempdir().unwrap();
    let (database, copy) = (folder.path().join("a.db"), folder.path().join("copy.db"));
    fill(&database).await;
    let store = SqliteStore::open(&database, Ownership::Owner).unwrap();
    store.note_clock(NOW, NOW).await.unwrap();
    let source = Connection::open(&database).unwrap();
    source.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema").unwrap();
    assert!(steps(&source, &copy, &store).await.is_some_and(|steps| steps > 10));
    source.execute_batch("COMMIT").unwrap();
    // Without it the copy begins anew with each commit: if that is no longer so, the guide can say less.
    assert_eq!(steps(&source, &folder.path().join("other.db"), &store).await, None);
    store.close().await;

    let store = SqliteStore::open(&copy, Ownership::Owner).unwrap();
    assert_eq!(store.clock_seen().await.unwrap().map(|seen| seen.right), Some(NOW), "it is as of its beginning");
    store.close().await;
    let copied = Connection::open(&copy).unwrap();
    let check: String = copied.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}
