//! Rows that make no sense, as a broken disk or a hand edit leaves them: an error that says where, never a panic.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_domain::application::{Application, EnvironmentId};
use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::Next;
use postrider_domain::endpoint::{Endpoint, EndpointPatch, EndpointUrl, Headers};
use postrider_domain::entropy::SeededEntropy;
use postrider_domain::ids::{ApplicationId, AttemptId, EndpointId, MessageId};
use postrider_domain::message::Message;
use postrider_domain::names::{EventTypeName, IdOrUid};
use postrider_domain::signature::{Secret, SecretKind};
use postrider_domain::time::Timestamp;
use postrider_store::{
    Accepted, ApplicationFilter, ApplicationKey, Applications as _, AttemptRecord, DeliveryKey, Direction, EndpointKey,
    Endpoints as _, NewEndpoint, NewMessage, Scan, Settlement, Store as _, StoreError, Stored, Work as _,
};
use postrider_store_sqlite::{Ownership, SqliteStore};

struct Broken {
    _folder: tempfile::TempDir,
    store: SqliteStore,
    environment: EnvironmentId,
    id: ApplicationId,
    application: ApplicationKey,
    endpoint: EndpointKey,
    endpoint_id: EndpointId,
}

/// A store with one application and one endpoint, then `sql` run on its file by somebody else.
async fn broken_by(sql: &str) -> Broken {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("postrider.db");
    let store = SqliteStore::open(&path, Ownership::Owner).unwrap();
    let environment = EnvironmentId::default_environment();
    let (now, entropy) = (Timestamp::from_micros(1_767_323_045_000_000), SeededEntropy::new(1));
    let id = ApplicationId::new(now, &entropy);
    let application = Application {
        id,
        uid: None,
        name: "a".to_owned(),
        throttle_rate: None,
        metadata: BTreeMap::new(),
        created_at: now,
        updated_at: now,
    };
    store.create_application(&environment, application, None).await.unwrap();
    let application = store.application(&environment, &IdOrUid::Id(id)).await.unwrap().unwrap().key;
    let endpoint = Endpoint {
        id: EndpointId::new(now, &entropy),
        uid: None,
        url: EndpointUrl::parse("https://example.com/").unwrap(),
        description: String::new(),
        version: 1,
        disabled: false,
        disablement: None,
        held: None,
        event_types: None,
        channels: None,
        throttle_rate: None,
        metadata: BTreeMap::new(),
        created_at: now,
        updated_at: now,
    };
    let secret = Secret::generate(SecretKind::Hmac256, &entropy);
    let by_id = IdOrUid::Id(endpoint.id);
    let new = NewEndpoint { endpoint, secret, headers: Headers::new(), most: u64::MAX };
    store.create_endpoint(application, new, None).await.unwrap();
    let Stored { key: endpoint, value: Endpoint { id: endpoint_id, .. } } =
        store.endpoint(application, &by_id).await.unwrap().unwrap();
    break_file(&path, sql);
    Broken { _folder: folder, store, environment, id, application, endpoint, endpoint_id }
}

fn break_file(path: &Path, sql: &str) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.execute_batch(sql).unwrap();
    assert!(connection.changes() > 0, "{sql}");
}

fn assert_inconsistent(error: &StoreError, place: &str) {
    let text = error.to_string();
    assert!(matches!(error, StoreError::Inconsistent { .. }) && text.contains(place), "{text}");
}

#[tokio::test]
async fn a_broken_column_is_named_with_its_table_and_row() {
    let broken = broken_by("UPDATE application SET metadata = '{'").await;
    let Broken { store, environment, id, .. } = &broken;
    let error = store.application(environment, &IdOrUid::Id(*id)).await.unwrap_err();
    assert_inconsistent(&error, "application.metadata, row 1");
    let listed =
        store.applications(environment, ApplicationFilter::default(), Scan::all(Direction::Ascending, 10)).await;
    assert_eq!(listed.unwrap().listed.rows, [], "a list leaves it out");
    // Deleting reads nothing of what it deletes.
    store.delete_application(environment, &IdOrUid::Id(*id), Timestamp::EPOCH).await.unwrap();
    assert!(store.application(environment, &IdOrUid::Id(*id)).await.unwrap().is_none());
}

#[tokio::test]
async fn a_broken_endpoint_can_be_deleted() {
    for column in ["metadata", "event_types", "channels", "headers", "signing_keys"] {
        let broken = broken_by(&format!("UPDATE endpoint SET {column} = '{{'")).await;
        let by_id = IdOrUid::Id(broken.endpoint_id);
        broken.store.delete_endpoint(broken.application, &by_id, Timestamp::EPOCH).await.unwrap();
        assert!(broken.store.endpoint(broken.application, &by_id).await.unwrap().is_none(), "{column}");
    }
}

/// What was accepted by rules that were laxer.
#[tokio::test]
async fn an_endpoint_that_is_beyond_the_rules_of_today_is_read_changed_and_listed() {
    let long = format!("http://h/{}", "%C3%BC".repeat(900));
    for (column, value) in [
        ("url", format!("'{long}'")),
        ("url", "'gopher://x'".to_owned()),
        ("url", "'nonsense'".to_owned()),
        ("description", "printf('%.*c', 3000000, 'x')".to_owned()),
        (
            "headers",
            "(SELECT json_group_object('x-' || value, '') FROM (WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL \
          SELECT value + 1 FROM n LIMIT 24569) SELECT value FROM n))"
                .to_owned(),
        ),
        ("signing_keys", "json_object('current', 'whsec_YQ==', 'old', json_array())".to_owned()),
        ("uid", "'..'".to_owned()),
    ] {
        let broken = broken_by(&format!("UPDATE endpoint SET {column} = {value}")).await;
        let Broken { store, application, endpoint, endpoint_id, .. } = &broken;
        let by_id = IdOrUid::Id(*endpoint_id);
        let read = store.endpoint(*application, &by_id).await.unwrap().unwrap().value;
        assert_eq!(
            store.endpoints(*application, Scan::all(Direction::Ascending, 10)).await.unwrap().rows,
            std::slice::from_ref(&read)
        );
        assert!(store.target(*endpoint).await.unwrap().is_some(), "{column}");
        let patch = EndpointPatch { disabled: Some(true), ..EndpointPatch::default() };
        let changed = store.update_endpoint(*application, &by_id, patch, Timestamp::EPOCH).await.unwrap();
        assert_eq!((changed.url, changed.disabled), (read.url, true), "{column}");
        store.delete_endpoint(*application, &by_id, Timestamp::EPOCH).await.unwrap();
    }
}

#[tokio::test]
async fn credentials_that_are_in_a_stored_url_are_not_shown_and_become_a_header_with_the_next_change() {
    let elsewhere = EndpointUrl::parse("https://other.example/").unwrap();
    let same = EndpointUrl::parse("https://example.com/b").unwrap();
    for (url, authorization) in [(None, Some("Basic dTpz")), (Some(same), Some("Basic dTpz")), (Some(elsewhere), None)]
    {
        let broken = broken_by("UPDATE endpoint SET url = 'https://u:s@example.com/a'").await;
        let Broken { store, application, endpoint, endpoint_id, .. } = &broken;
        let target = store.target(*endpoint).await.unwrap().unwrap();
        assert_eq!(target.endpoint.url.as_str(), "https://example.com/a");
        assert_eq!(target.endpoint.url.credentials().unwrap().authorization(), "Basic dTpz");
        let patch = EndpointPatch { url, ..EndpointPatch::default() };
        store.update_endpoint(*application, &IdOrUid::Id(*endpoint_id), patch, Timestamp::EPOCH).await.unwrap();
        let target = store.target(*endpoint).await.unwrap().unwrap();
        assert_eq!((target.endpoint.url.credentials(), target.headers.get("authorization")), (None, authorization));
    }
}

#[tokio::test]
async fn every_column_of_an_endpoint_is_checked() {
    for (column, value) in [
        ("id", "x'00'"),
        ("event_types", "'a,b'"),
        ("channels", "'{}'"),
        ("version", "70000"),
        ("throttle_rate", "-1"),
        ("signing_keys", "'{\"current\":\"none\",\"old\":[]}'"),
        ("headers", "'{\"a\":1}'"),
    ] {
        let broken = broken_by(&format!("UPDATE endpoint SET {column} = {value}")).await;
        let error = broken.store.target(broken.endpoint).await.unwrap_err();
        assert_inconsistent(&error, &format!("endpoint.{column}, row 1"));
    }
    // What is for people is not read for sending.
    let Broken { store, application, endpoint, endpoint_id, .. } =
        broken_by("UPDATE endpoint SET metadata = '[]'").await;
    assert!(store.target(endpoint).await.unwrap().is_some());
    let error = store.endpoint(application, &IdOrUid::Id(endpoint_id)).await.unwrap_err();
    assert_inconsistent(&error, "endpoint.metadata, row 1");
}

#[tokio::test]
async fn an_error_never_quotes_a_secret() {
    let broken = broken_by("UPDATE endpoint SET signing_keys = replace(signing_keys, 'whsec_', 'whsec-')").await;
    let error = broken.store.signing_keys(broken.endpoint).await.unwrap_err();
    assert_inconsistent(&error, "endpoint.signing_keys");
    assert!(!error.to_string().contains("whsec-"), "{error}");
}

#[tokio::test]
async fn a_broken_row_stops_nobody_else() {
    let broken = broken_by("UPDATE endpoint SET channels = ''").await;
    let Broken { store, environment, id, application, endpoint, .. } = &broken;
    assert_eq!(store.endpoints(*application, Scan::all(Direction::Ascending, 10)).await.unwrap().rows, []);
    let routes = store.routes(environment, &IdOrUid::Id(*id)).await.unwrap().unwrap();
    assert!(routes.targets.is_empty(), "it gets nothing, and its application goes on");
    assert!(store.application(environment, &IdOrUid::Id(*id)).await.is_ok());
    assert!(store.due(*endpoint, Timestamp::MAX, None, HashSet::new(), 10, 1_000).await.is_ok());
    store.ping().await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_result_that_cannot_be_stored_fails_alone() {
    let broken = broken_by(
        "INSERT INTO endpoint (application_no, id, url, description, version, disabled, metadata, headers, signing_keys,
                               created_at, updated_at)
         SELECT application_no, x'0102030405060708090a0b0c0d0e0f1011121314', url, description, version, disabled, metadata,
                headers, signing_keys, created_at, updated_at FROM endpoint;
         CREATE TRIGGER bad BEFORE INSERT ON attempt WHEN NEW.endpoint_no = 1 AND NEW.status_code = 299 BEGIN
             SELECT RAISE(ABORT, 'no such status');
         END",
    )
    .await;
    let Broken { store, environment, id, application, endpoint, .. } = &broken;
    let routes = store.routes(environment, &IdOrUid::Id(*id)).await.unwrap().unwrap();
    let (bad, good) = (*endpoint, EndpointKey(endpoint.0 + 1));
    let entropy = SeededEntropy::new(5);
    let now = Timestamp::from_micros(1_767_323_046_000_000);
    let message = Message {
        id: MessageId::new(now, &entropy),
        event_id: None,
        event_type: EventTypeName::parse("a.b").unwrap(),
        channels: None,
        payload: Some(Bytes::from_static(b"{}")),
        tags: None,
        deliver_at: None,
        expires_at: None,
        created_at: now,
    };
    let new = NewMessage {
        application: *application,
        version: routes.version,
        rules: None,
        message: Arc::new(message),
        endpoints: vec![bad, good],
        idempotency: None,
    };
    let Ok(Accepted::New(message)) = store.accept(vec![new]).await.remove(0) else { panic!("it is accepted") };
    let settlement = |endpoint, status_code| Settlement {
        endpoint,
        delivery: DeliveryKey { due_at: now, message },
        made: 0,
        trigger: Trigger::Scheduled,
        attempt: Some(AttemptRecord {
            id: AttemptId::new(now, &entropy),
            started_at: now,
            url: "https://example.com/".into(),
            succeeded: true,
            status_code,
            response: Bytes::new(),
            duration_ms: 1,
        }),
        next: Next::Succeeded,
        elsewhere: None,
        against: None,
        notice: None,
        origin: None,
    };
    // One that is wrong beside one that is not: it is named, and the other one is stored.
    let unstorable = store.settle(vec![settlement(bad, 299), settlement(good, 200)]).await.unwrap();
    let places: Vec<usize> = unstorable.iter().map(|unstorable| unstorable.place).collect();
    assert_eq!(places, [0], "{unstorable:?}");
    assert_inconsistent(&unstorable[0].error, "no such status");
    let backlogs = [store.backlog(bad, 10).await.unwrap(), store.backlog(good, 10).await.unwrap()];
    assert_eq!(backlogs, [1, 0]);
    // The store goes on, for that endpoint, too.
    assert!(store.settle(vec![settlement(bad, 200)]).await.unwrap().is_empty());
    assert_eq!(store.backlog(bad, 10).await.unwrap(), 0);
    store.close().await;
}

#[tokio::test]
async fn a_version_that_cannot_grow_keeps_nothing_from_being_changed_or_deleted() {
    let broken = broken_by("UPDATE application SET version = 9223372036854775807").await;
    let Broken { store, environment, id, application, endpoint_id, .. } = &broken;
    let by_id = IdOrUid::Id(*id);
    let before = store.routes(environment, &by_id).await.unwrap().unwrap().version;
    let patch = EndpointPatch { disabled: Some(true), ..EndpointPatch::default() };
    store.update_endpoint(*application, &IdOrUid::Id(*endpoint_id), patch, Timestamp::EPOCH).await.unwrap();
    assert_ne!(store.routes(environment, &by_id).await.unwrap().unwrap().version, before);
    store.delete_application(environment, &by_id, Timestamp::EPOCH).await.unwrap();
    assert!(store.application(environment, &by_id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_page_of_a_list_is_full_whatever_it_leaves_out() {
    let broken = broken_by("UPDATE endpoint SET metadata = ''").await;
    let Broken { store, application, .. } = &broken;
    let entropy = SeededEntropy::new(7);
    let now = Timestamp::from_micros(1_767_323_046_000_000);
    for number in 0..3 {
        let endpoint = Endpoint {
            id: EndpointId::new(now, &entropy),
            uid: None,
            url: EndpointUrl::parse(&format!("https://example.com/{number}")).unwrap(),
            description: String::new(),
            version: 1,
            disabled: false,
            disablement: None,
            held: None,
            event_types: None,
            channels: None,
            throttle_rate: None,
            metadata: BTreeMap::new(),
            created_at: now,
            updated_at: now,
        };
        let secret = Secret::generate(SecretKind::Hmac256, &entropy);
        let new = NewEndpoint { endpoint, secret, headers: Headers::new(), most: u64::MAX };
        store.create_endpoint(*application, new, None).await.unwrap();
    }
    let page = store.endpoints(*application, Scan::all(Direction::Ascending, 2)).await.unwrap();
    assert_eq!(page.rows.len(), 2);
}

const NOW_MICROS: i64 = 1_767_323_045_000_000;

/// Deliveries that were never tried and are due in an hour, of which these make no sense; and the latest time that the store was
/// shown.
async fn due_in_an_hour(count: i64, senseless: &str, shown: i64) -> Broken {
    broken_by(&format!(
        "WITH RECURSIVE n(no) AS (SELECT 1 UNION ALL SELECT no + 1 FROM n WHERE no < {count})
         INSERT INTO delivery (endpoint_no, due_at, message_no, made, trigger)
         SELECT 1, {NOW_MICROS} + 3600000000 + no, no, 0, CASE WHEN no {senseless} THEN 300 ELSE 0 END FROM n;
         INSERT OR REPLACE INTO sequence (name, next) VALUES ('shown', {shown})",
    ))
    .await
}

/// A clock that was set back, and a longest wait beyond which nothing is due: each finds what is due too late.
const TOO_LATE: [(i64, Duration); 2] =
    [(NOW_MICROS + 7_200_000_000, Duration::from_secs(86_400)), (NOW_MICROS, Duration::from_secs(1))];

/// When each message is due, in that order.
fn deliveries(broken: &Broken) -> Vec<(i64, i64)> {
    let connection = rusqlite::Connection::open(broken._folder.path().join("postrider.db")).unwrap();
    let sql = "SELECT due_at, message_no FROM delivery ORDER BY due_at, message_no";
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn a_delivery_that_makes_no_sense_keeps_none_behind_it_from_waiting_from_now() {
    for (shown, longest) in TOO_LATE {
        let broken = due_in_an_hour(2_500, "= 500", shown).await;
        let mended = broken.store.pull_in(Timestamp::from_micros(NOW_MICROS), longest).await.unwrap();
        assert_eq!(mended, 2_499, "{longest:?}");
        let (late, mended): (Vec<_>, Vec<_>) =
            deliveries(&broken).into_iter().partition(|(due_at, _)| *due_at > NOW_MICROS + 1_000_000);
        assert_eq!(late.iter().map(|(_, message)| *message).collect::<Vec<_>>(), [500]);
        // In the order in which they were due.
        let in_order = (1..=2_500).filter(|number| *number != 500);
        assert!(mended.iter().map(|(_, message)| *message).eq(in_order), "{longest:?}");
        broken.store.close().await;
    }
}

#[tokio::test]
async fn deliveries_that_make_no_sense_are_looked_at_once_however_many_they_are() {
    for (shown, longest) in TOO_LATE {
        let broken = due_in_an_hour(2_500, "< 2500", shown).await;
        assert_eq!(broken.store.pull_in(Timestamp::from_micros(NOW_MICROS), longest).await.unwrap(), 1);
        broken.store.close().await;
    }
}

#[tokio::test]
async fn an_endpoint_of_which_it_makes_no_sense_whose_it_is_keeps_nobodys_work_from_being_found() {
    // Tables take anything then, as a disk that is broken does.
    let loose = "PRAGMA foreign_keys = off; PRAGMA writable_schema = ON;
                 UPDATE sqlite_schema SET sql = replace(sql, ') STRICT', ')') WHERE name IN ('endpoint', 'application');
                 PRAGMA writable_schema = RESET";
    for senseless in ["UPDATE endpoint SET application_no", "UPDATE application SET environment_no"] {
        let sql = format!("{loose}; {senseless} = 'garbage'; INSERT INTO wake VALUES (1, 1), (99, 2)");
        let broken = broken_by(&sql).await;
        let taken = broken.store.take_wakes(Timestamp::from_micros(3), 10).await.unwrap();
        let endpoints: Vec<_> = taken.endpoints.iter().map(|woken| woken.endpoint).collect();
        assert_eq!(endpoints, [broken.endpoint, EndpointKey(99)], "{senseless}");
    }
}
