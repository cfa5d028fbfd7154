//! What is refused because of its size is not read: pages that cannot be read are not come across.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::path::Path;

use postrider_domain::application::EnvironmentId;
use postrider_domain::event_type::{EventType, Schemas};
use postrider_domain::names::EventTypeName;
use postrider_domain::time::Timestamp;
use postrider_store::{
    Attempted as _, Direction, EndpointKey, EventTypeFilter, EventTypes as _, MessageKey, Scan, Store as _, Work as _,
};
use postrider_store_sqlite::{Ownership, SqliteStore};

const PAGE: usize = 4_096;

fn large(name: &str) -> EventType {
    let schema = serde_json::value::to_raw_value(&"x".repeat(900_000)).unwrap();
    EventType {
        name: EventTypeName::from_trusted(name.to_owned()),
        description: String::new(),
        archived: false,
        deprecated: false,
        schemas: Some(Schemas::from([("1".to_owned(), schema)])),
        feature_flag: Some("beta".to_owned()),
        group_name: Some("users".to_owned()),
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
    }
}

/// Overwrites the pages on which nothing is but part of a text of x; returns how many those are.
fn spoil(database: &Path) -> usize {
    let mut file = std::fs::read(database).unwrap();
    let mut spoiled = 0;
    for page in file.chunks_mut(PAGE) {
        // The first bytes are the number of the page that follows.
        if page[4..].iter().all(|byte| *byte == b'x') {
            page.fill(0xff);
            spoiled += 1;
        }
    }
    std::fs::write(database, file).unwrap();
    spoiled
}

#[tokio::test]
async fn a_list_of_event_types_without_their_schemas_reads_none_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("a.db");
    let environment = EnvironmentId::default_environment();
    let store = SqliteStore::open(&database, Ownership::Owner).unwrap();
    for name in ["a", "b", "c"] {
        store.create_event_type(&environment, u64::MAX, large(name), None).await.unwrap();
    }
    store.close().await;
    drop(store);
    assert!(spoil(&database) > 600);
    let store = SqliteStore::open(&database, Ownership::Owner).unwrap();
    let flags = |flag: &str| Some(vec![flag.to_owned()]);
    for (feature_flags, with_schemas, found) in [(None, false, 3), (flags("beta"), false, 3), (flags("other"), true, 0)]
    {
        let filter = EventTypeFilter { include_archived: false, with_schemas, feature_flags };
        let page = store.event_types(&environment, &filter, Scan::all(Direction::Ascending, 10)).await.unwrap();
        assert_eq!((page.listed.rows.len(), page.reached), (found, None));
    }
    store.close().await;
}

#[tokio::test]
async fn event_types_that_are_too_large_for_one_answer_are_refused_without_being_read() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("a.db");
    let environment = EnvironmentId::default_environment();
    let store = SqliteStore::open(&database, Ownership::Owner).unwrap();
    for name in ["a", "b", "c"] {
        store.create_event_type(&environment, u64::MAX, large(name), None).await.unwrap();
    }
    store.close().await;
    drop(store);
    assert!(spoil(&database) > 600);

    let store = SqliteStore::open(&database, Ownership::Owner).unwrap();
    let everything = EventTypeFilter { include_archived: true, with_schemas: true, feature_flags: None };
    let public = EventTypeFilter { with_schemas: true, feature_flags: Some(Vec::new()), ..EventTypeFilter::default() };
    let ask =
        async |filter, most| store.all_event_types(&environment, filter, most).await.map(|found| found.map(|_| ()));
    assert!(matches!(ask(&everything, 2_000_000).await, Ok(None)));
    assert!(matches!(ask(&public, 0).await, Ok(Some(()))), "none of them is public");
    assert!(ask(&everything, 3_000_000).await.is_err(), "those pages cannot be read");
    store.close().await;
}

#[tokio::test]
async fn of_the_destinations_of_a_message_those_on_the_page_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("a.db");
    SqliteStore::open(&database, Ownership::Owner).unwrap().close().await;
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    for (number, name) in [(1, "a".to_owned()), (2, "x".repeat(900_000))] {
        let endpoint = "INSERT INTO endpoint (no, application_no, id, url, description, version, disabled, event_types, metadata,
                                              headers, signing_keys, created_at, updated_at)
                        VALUES (?1, 1, CAST(printf('%020d', ?1) AS BLOB), 'https://a.example', '', 1, 0, json_array(?2), '{}',
                                '{}', '{}', 0, 0)";
        connection.execute(endpoint, rusqlite::params![number, name]).unwrap();
        let attempt =
            "INSERT INTO attempt (endpoint_no, id, message_no, url_no, number, trigger, started_at, duration_ms,
                                            succeeded, status_code)
                       VALUES (?1, zeroblob(20), 7, 1, 1, 0, 0, 0, 1, 200)";
        connection.execute(attempt, [number]).unwrap();
    }
    connection.close().unwrap();
    assert!(spoil(&database) > 200);
    let store = SqliteStore::open(&database, Ownership::Owner).unwrap();
    let page = async |limit| store.destinations(MessageKey(7), Scan::all(Direction::Ascending, limit)).await;
    assert_eq!(page(1).await.unwrap().listed.rows.len(), 1);
    assert!(page(2).await.is_err(), "those pages cannot be read");
    store.close().await;
}

#[tokio::test]
async fn a_payload_that_does_not_fit_into_what_is_loaded_is_not_read() {
    const BYTES: usize = 900_000;
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("a.db");
    SqliteStore::open(&database, Ownership::Owner).unwrap().close().await;
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection
        .execute("INSERT INTO payload (message_no, body) VALUES (7, CAST(?1 AS BLOB))", ["x".repeat(BYTES)])
        .unwrap();
    let pending = "INSERT INTO delivery (endpoint_no, due_at, message_no, made, trigger) VALUES (1, 5, 7, 0, 0)";
    connection.execute(pending, []).unwrap();
    connection.close().unwrap();
    assert!(spoil(&database) > 200);

    let store = SqliteStore::open(&database, Ownership::Owner).unwrap();
    let load = async |max_bytes| store.due(EndpointKey(1), Timestamp::MAX, None, HashSet::new(), 10, max_bytes).await;
    let slice = load(BYTES - 1).await.unwrap();
    assert_eq!((slice.due.len(), slice.too_large.map(|beyond| beyond.payload_bytes)), (0, Some(BYTES)));
    assert!(load(BYTES).await.is_err(), "those pages cannot be read");
    store.close().await;
}
