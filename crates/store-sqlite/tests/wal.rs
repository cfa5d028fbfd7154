//! The WAL stays short while much is written, and becomes short again after somebody has read for long.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use postrider_domain::application::{Application, EnvironmentId};
use postrider_domain::entropy::{Entropy as _, SeededEntropy};
use postrider_domain::ids::ApplicationId;
use postrider_domain::time::Timestamp;
use postrider_store::{Applications as _, IdempotencyKey, Once, Owner, Store as _, StoredAnswer};
use postrider_store_sqlite::{Ownership, SqliteStore};

const NOW: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);

/// What one write stores.
const WRITE_BYTES: usize = 256 * 1024;

/// The longest WAL: 64 MiB, and the commits that came while it was looked at.
const LONGEST_BYTES: u64 = 80 * 1024 * 1024;

/// The file keeps so much of its length when it is started anew.
const KEPT_BYTES: u64 = 128 * 1024 * 1024;

/// So much is cut off at a time.
const CUT_BYTES: u64 = 16 * 1024 * 1024;

/// Writes so much.
async fn write(store: &SqliteStore, entropy: &SeededEntropy, bytes: usize) {
    for _ in 0..bytes / WRITE_BYTES {
        let application = Application {
            id: ApplicationId::new(NOW, entropy),
            uid: None,
            name: "a".to_owned(),
            throttle_rate: None,
            metadata: BTreeMap::new(),
            created_at: NOW,
            updated_at: NOW,
        };
        let mut key = [0; 16];
        entropy.fill(&mut key);
        let once = Once {
            key: IdempotencyKey(key),
            owner: Owner::Operator(EnvironmentId::default_environment()),
            most: u64::MAX,
            not_before: NOW.saturating_sub(Duration::from_secs(3_600)),
            answer: Box::new(|_: &_| StoredAnswer { status: 201, body: Bytes::from(vec![b'a'; WRITE_BYTES]) }),
        };
        store.create_application(&EnvironmentId::default_environment(), application, Some(once)).await.unwrap();
    }
}

fn length(database: &Path) -> u64 {
    database.with_extension("db-wal").metadata().unwrap().len()
}

/// How much of the WAL is in use.
fn used(database: &Path) -> u64 {
    let connection = rusqlite::Connection::open(database).unwrap();
    let pages = connection.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get::<_, u64>(1)).unwrap();
    pages * 4_096
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wal_stays_short_however_much_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("a.db");
    let (store, entropy) = (SqliteStore::open(&database, Ownership::Owner).unwrap(), SeededEntropy::new(1));
    let much = 3 * usize::try_from(LONGEST_BYTES).unwrap();
    tokio::join!(write(&store, &entropy, much / 2), write(&store, &entropy, much / 2));
    assert!(length(&database) <= LONGEST_BYTES, "{}", length(&database));
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wal_becomes_short_again_when_whoever_read_it_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("a.db");
    let (store, entropy) = (SqliteStore::open(&database, Ownership::Owner).unwrap(), SeededEntropy::new(1));
    let much = usize::try_from(KEPT_BYTES).unwrap();
    let reader = rusqlite::Connection::open(&database).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM application").unwrap();
    write(&store, &entropy, much * 5 / 4).await;
    assert!(used(&database) > LONGEST_BYTES, "a reader keeps all of it");
    reader.execute_batch("COMMIT").unwrap();
    // The thread looks again after a rest.
    let mut written = 0;
    while used(&database) > LONGEST_BYTES && written < 100 * much {
        write(&store, &entropy, WRITE_BYTES).await;
        written += WRITE_BYTES;
    }
    assert!(used(&database) <= LONGEST_BYTES, "{} after {written} more", used(&database));
    // What the reader made of it is given back in pieces: nobody waits for more than one.
    let (mut before, mut written) = (length(&database), 0);
    while before > KEPT_BYTES && written < 100 * much {
        write(&store, &entropy, WRITE_BYTES).await;
        written += WRITE_BYTES;
        let left = length(&database);
        assert!(before - left <= CUT_BYTES, "{before} to {left}");
        before = left;
    }
    assert!(before <= KEPT_BYTES, "{before} after {written} more");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reader_made_of_the_wal_is_given_back_also_if_nothing_more_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("a.db");
    let (store, entropy) = (SqliteStore::open(&database, Ownership::Owner).unwrap(), SeededEntropy::new(1));
    let reader = rusqlite::Connection::open(&database).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM application").unwrap();
    write(&store, &entropy, usize::try_from(KEPT_BYTES).unwrap() * 5 / 4).await;
    reader.execute_batch("COMMIT").unwrap();
    tokio::time::timeout(Duration::from_secs(600), async {
        while length(&database) > KEPT_BYTES {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .unwrap();
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wal_is_not_cut_each_time_that_it_is_started_anew() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("a.db");
    let (store, entropy) = (SqliteStore::open(&database, Ownership::Owner).unwrap(), SeededEntropy::new(1));
    let longer = usize::try_from(LONGEST_BYTES).unwrap();
    let reader = rusqlite::Connection::open(&database).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM application").unwrap();
    write(&store, &entropy, longer).await;
    reader.execute_batch("COMMIT").unwrap();
    let before = length(&database);
    assert!((LONGEST_BYTES..KEPT_BYTES).contains(&before), "{before}");
    let mut written = 0;
    while used(&database) > LONGEST_BYTES && written < 100 * longer {
        write(&store, &entropy, WRITE_BYTES).await;
        written += WRITE_BYTES;
    }
    assert!(length(&database) >= before, "{} after {written} more", length(&database));
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wal_stays_short_though_somebody_reads_at_every_moment() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("a.db");
    let (store, entropy) = (SqliteStore::open(&database, Ownership::Owner).unwrap(), SeededEntropy::new(1));
    let is_over = Arc::new(AtomicBool::new(false));
    let (over, path) = (Arc::clone(&is_over), database.clone());
    let reading = std::thread::spawn(move || {
        let (one, other) = (rusqlite::Connection::open(&path).unwrap(), rusqlite::Connection::open(&path).unwrap());
        let begin = "BEGIN; SELECT count(*) FROM application";
        one.execute_batch(begin).unwrap();
        while !over.load(Ordering::SeqCst) {
            other.execute_batch(begin).unwrap();
            one.execute_batch("COMMIT").unwrap();
            one.execute_batch(begin).unwrap();
            other.execute_batch("COMMIT").unwrap();
        }
    });
    let much = 3 * usize::try_from(LONGEST_BYTES).unwrap();
    tokio::join!(write(&store, &entropy, much / 2), write(&store, &entropy, much / 2));
    is_over.store(true, Ordering::SeqCst);
    reading.join().unwrap();
    assert!(length(&database) <= LONGEST_BYTES, "{}", length(&database));
    store.close().await;
}
