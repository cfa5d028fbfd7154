//! Opening a store, and every way in which that is refused: one clear line that says what to do.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use postrider_domain::application::EnvironmentId;
use postrider_domain::event_type::EventType;
use postrider_domain::names::EventTypeName;
use postrider_domain::time::Timestamp;
use postrider_store::{ApiKeys as _, EventTypes as _, Store as _};
use postrider_store_sqlite::{OpenError, Ownership, SqliteStore};
use rusqlite::Connection;

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("postrider.db");
    (folder, path)
}

fn refused(path: &Path, ownership: Ownership) -> OpenError {
    let error = SqliteStore::open(path, ownership).unwrap_err();
    assert!(!error.to_string().contains('\n'), "one line: {error}");
    error
}

#[tokio::test]
async fn a_second_owner_is_told_who_the_first_one_is() {
    let (_folder, path) = folder();
    let first = SqliteStore::open(&path, Ownership::Owner).unwrap();
    let error = refused(&path, Ownership::Owner);
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(&format!("(process {})", std::process::id())), "{error}");
    first.ping().await.unwrap();
    first.close().await;
    SqliteStore::open(&path, Ownership::Owner).unwrap().close().await;
}

#[tokio::test]
async fn what_links_beside_a_store_lead_to_is_not_written_to() {
    let (folder, path) = folder();
    let precious = folder.path().join("precious");
    std::fs::write(&precious, "words").unwrap();
    let link = |name: &str| std::os::unix::fs::symlink(&precious, folder.path().join(name)).unwrap();
    link("postrider.db.lock");
    assert!(refused(&path, Ownership::Owner).to_string().contains("lock file"));
    std::fs::remove_file(folder.path().join("postrider.db.lock")).unwrap();
    let store = SqliteStore::open(&path, Ownership::Owner).unwrap();
    link("postrider.db-room");
    store.ping().await.unwrap();
    store.close().await;
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "words");
}

#[tokio::test]
async fn whoever_asks_whether_the_store_works_has_it_write() {
    let (_folder, path) = folder();
    let store = SqliteStore::open(&path, Ownership::Owner).unwrap();
    // SQLite counts what others have written.
    let other = Connection::open(&path).unwrap();
    let written = || other.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0)).unwrap();
    let before = written();
    store.ping().await.unwrap();
    assert_ne!(written(), before);
    store.close().await;
}

#[tokio::test]
async fn a_guest_writes_beside_an_owner() {
    let (_folder, path) = folder();
    let owner = SqliteStore::open(&path, Ownership::Owner).unwrap();
    let guest = SqliteStore::open(&path, Ownership::Guest).unwrap();
    for store in [&owner, &guest] {
        store.ping().await.unwrap();
        assert_eq!(store.api_keys().await.unwrap(), []);
    }
    guest.close().await;
    owner.ping().await.unwrap();
    owner.close().await;
}

#[tokio::test]
async fn by_another_name_than_the_owners_nobody_opens_a_store() {
    let (folder, path) = folder();
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let other = elsewhere.join("other.db");
    let owner = SqliteStore::open(&path, Ownership::Owner).unwrap();
    std::fs::hard_link(&path, &other).unwrap();
    let error = refused(&other, Ownership::Guest);
    assert!(matches!(error, OpenError::OtherName { .. }), "{error}");
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 1, "nothing is left beside it");
    let error = refused(&other, Ownership::Owner);
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    let guest = SqliteStore::open(&path, Ownership::Guest).unwrap();
    guest.ping().await.unwrap();
    guest.close().await;
    owner.close().await;
}

#[tokio::test]
async fn a_store_with_two_names_is_refused_by_either_until_one_is_removed() {
    let (folder, path) = folder();
    SqliteStore::open(&path, Ownership::Owner).unwrap().close().await;
    let other = folder.path().join("other.db");
    std::fs::hard_link(&path, &other).unwrap();
    for name in [&path, &other] {
        for ownership in [Ownership::Owner, Ownership::Guest] {
            let error = refused(name, ownership);
            assert!(matches!(error, OpenError::HardLinked { names: 2, .. }), "{error}");
        }
        assert!(!name.with_extension("db-wal").exists());
    }
    std::fs::remove_file(&other).unwrap();
    SqliteStore::open(&path, Ownership::Owner).unwrap().close().await;
}

#[tokio::test]
async fn an_owner_waits_for_a_guest_that_came_before_it() {
    let (_folder, path) = folder();
    SqliteStore::open(&path, Ownership::Owner).unwrap().close().await;
    let guest = SqliteStore::open(&path, Ownership::Guest).unwrap();
    let taken = std::fs::File::open(&path).unwrap().try_lock();
    assert!(matches!(taken, Err(std::fs::TryLockError::WouldBlock)), "a guest keeps owners out: {taken:?}");
    let (opened, lock_file) = (path.clone(), path.with_extension("db.lock"));
    std::fs::write(&lock_file, "").unwrap();
    let owner = tokio::task::spawn_blocking(move || SqliteStore::open(&opened, Ownership::Owner));
    // What it has written there it writes before it looks for guests.
    while std::fs::read(&lock_file).unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    guest.ping().await.unwrap();
    assert!(!owner.is_finished(), "it waits");
    guest.close().await;
    owner.await.unwrap().unwrap().close().await;
}

#[test]
fn a_guest_needs_a_store_that_is_set_up() {
    let (_folder, path) = folder();
    let error = refused(&path, Ownership::Guest);
    assert!(matches!(error, OpenError::Absent { .. }), "{error}");
    assert!(!path.exists(), "a guest makes no file");
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let (_folder, path) = folder();
    let path = path.join("nowhere").join("postrider.db");
    for ownership in [Ownership::Owner, Ownership::Guest] {
        let error = refused(&path, ownership);
        assert!(matches!(error, OpenError::Path { .. }), "{error}");
        assert!(error.to_string().contains("nowhere"), "{error}");
    }
}

#[test]
fn another_programs_database_is_left_alone() {
    let (_folder, path) = folder();
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
    let before = std::fs::read(&path).unwrap();
    for ownership in [Ownership::Owner, Ownership::Guest] {
        let error = refused(&path, ownership);
        assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
        assert!(std::fs::read(&path).unwrap() == before, "not a byte of it changes");
    }
}

#[test]
fn a_file_that_is_no_database_is_left_alone() {
    let (_folder, path) = folder();
    let text = "Dear diary, ".repeat(1_000);
    std::fs::write(&path, &text).unwrap();
    let error = refused(&path, Ownership::Owner);
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn an_empty_database_with_a_write_ahead_log_beside_it_is_called_damaged_and_its_log_is_kept() {
    let (folder, path) = folder();
    let wal = folder.path().join("postrider.db-wal");
    std::fs::write(&path, b"").unwrap();
    std::fs::write(&wal, b"what was not copied yet").unwrap();
    for ownership in [Ownership::Owner, Ownership::Guest] {
        let error = refused(&path, ownership);
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    }
    assert_eq!(std::fs::read(&wal).unwrap(), b"what was not copied yet");
}

#[test]
fn where_only_the_write_ahead_log_is_left_no_new_store_is_made_and_the_log_is_kept() {
    let (folder, path) = folder();
    let wal = folder.path().join("postrider.db-wal");
    std::fs::write(&wal, b"what was not copied yet").unwrap();
    for ownership in [Ownership::Owner, Ownership::Guest] {
        let error = refused(&path, ownership);
        assert!(matches!(error, OpenError::Missing { .. }), "{error}");
        assert!(!path.exists());
    }
    assert_eq!(std::fs::read(&wal).unwrap(), b"what was not copied yet");
}

#[test]
fn what_is_no_regular_file_is_refused_before_anything_is_made_beside_it() {
    let (folder, path) = folder();
    std::fs::create_dir(&path).unwrap();
    let socket = folder.path().join("socket.db");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for path in [&path, &socket, Path::new("/dev/null")] {
        for ownership in [Ownership::Owner, Ownership::Guest] {
            let error = refused(path, ownership);
            assert!(matches!(error, OpenError::NotAFile { .. }), "{error}");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no lock file");
}

#[tokio::test]
async fn a_store_whose_first_page_is_gone_is_called_damaged_and_not_another_programs() {
    let (_folder, path) = folder();
    SqliteStore::open(&path, Ownership::Owner).unwrap().close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..4096].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let error = refused(&path, Ownership::Owner);
    assert!(error.to_string().contains("damaged") && error.to_string().contains("backup"), "{error}");
}

#[tokio::test]
async fn a_store_that_was_closed_is_one_file() {
    for _ in 0..50 {
        let (_folder, path) = folder();
        SqliteStore::open(&path, Ownership::Owner).unwrap().close().await;
        assert!(!path.with_extension("db-wal").exists(), "all is in the database");
    }
}

#[tokio::test]
async fn a_step_to_another_schema_that_fails_is_named_without_its_statements() {
    let (_folder, path) = folder();
    SqliteStore::open(&path, Ownership::Owner).unwrap().close().await;
    // What the last step makes is there already.
    let connection = Connection::open(&path).unwrap();
    let newest: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    connection.pragma_update(None, "user_version", newest - 1).unwrap();
    drop(connection);
    let error = refused(&path, Ownership::Owner);
    let text = error.to_string();
    assert!(matches!(error, OpenError::Migration { .. }), "{text}");
    assert!(text.contains(&format!("version {newest} of {newest}")) && text.contains("restore the backup"), "{text}");
    assert!(!text.contains("CREATE") && !text.contains("ALTER"), "{text}");
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_refused() {
    let (_folder, path) = folder();
    SqliteStore::open(&path, Ownership::Owner).unwrap().close().await;
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 999).unwrap();
    for ownership in [Ownership::Owner, Ownership::Guest] {
        let error = refused(&path, ownership);
        assert!(matches!(error, OpenError::Newer { found: 999, .. }), "{error}");
    }
}

#[tokio::test]
async fn a_reader_that_stays_open_makes_no_write_wait() {
    let (_folder, path) = folder();
    let store = SqliteStore::open(&path, Ownership::Owner).unwrap();
    let reader = rusqlite::Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM sequence").unwrap();
    // More than the WAL holds before it is started anew.
    let writes = async {
        for number in 0..45 {
            let event_type = EventType {
                name: EventTypeName::parse(&format!("a{number}")).unwrap(),
                description: "x".repeat(1 << 20),
                archived: false,
                deprecated: false,
                schemas: None,
                feature_flag: None,
                group_name: None,
                created_at: Timestamp::EPOCH,
                updated_at: Timestamp::EPOCH,
            };
            store.create_event_type(&EnvironmentId::default_environment(), u64::MAX, event_type, None).await.unwrap();
        }
    };
    // A checkpoint that waits for a reader does so for ten seconds, with each of the last dozen writes.
    tokio::time::timeout(Duration::from_secs(90), writes).await.expect("no write waits for the reader");
    reader.execute_batch("COMMIT").unwrap();
    store.close().await;
}
