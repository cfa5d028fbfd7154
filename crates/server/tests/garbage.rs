//! A row that makes no sense stops nobody else: in every column of every table, the server starts, a neighbour's events are
//! delivered, lists answer, and health is green.
//!
//! Values are put there behind the back of the schema's own rules, as a broken disk or a hand edit might.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::path::Path;
use std::sync::Arc;

use futures_util::future::join_all;
use postrider_testkit::{App, Receiver, Reply, TestServer, TestServerBuilder, wait};
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

/// How many servers run at a time.
const AT_A_TIME: usize = 4;

/// What is put into columns, by their type.
const INTEGERS: [&str; 4] = ["'garbage'", "-1", "9223372036854775807", "x'00'"];
const TEXTS: [&str; 4] = ["CAST(x'ff' AS TEXT)", "''", "'{'", "x'ff00'"];
const BLOBS: [&str; 4] = ["x''", "'garbage'", "x'ff'", "zeroblob(40)"];

/// The rows of each table that are the victim's: application :app, endpoint :ep.
const VICTIMS: [(&str, &str); 31] = [
    ("environment", "id = 'org_victim'"),
    ("application", "no = :app"),
    ("endpoint", "no = :ep"),
    ("endpoint_url", "endpoint_no = :ep"),
    ("event_type", "name = 'victim'"),
    ("message", "application_no = :app"),
    ("payload", "message_no IN (SELECT no FROM message WHERE application_no = :app)"),
    ("delivery", "endpoint_no = :ep"),
    ("wake", "endpoint_no = :ep"),
    ("attempt", "endpoint_no = :ep"),
    ("answer_key", "answer_no = 1"),
    ("answer", "created_at = 1"),
    ("answer_room", "bytes = 130"),
    ("api_key", "name = 'victim'"),
    ("sequence", "1"),
    ("token_secret", "1"),
    ("token_expiry", "application_no = :app"),
    ("outbox", "recipient = 'victim'"),
    ("outbox_room", "recipient = 'victim'"),
    ("message_posting", "application_no = :app"),
    ("attempt_posting", "endpoint_no = :ep"),
    ("attempt_tally", "endpoint_no = :ep"),
    ("stream_reader", "endpoint_no = :ep"),
    ("task", "kind = 'endpoint.replay'"),
    ("key_log", "1"),
    ("key_run", "1"),
    ("key_bucket", "1"),
    ("held_message", "1"),
    ("endpoint_hold", "endpoint_no = :ep"),
    ("endpoint_fact", "endpoint_no = :ep"),
    ("asked", "application_no = :app"),
];

/// Rows of what is not there by itself.
const ROWS: &str = "
    INSERT INTO environment (id) VALUES ('org_victim');
    INSERT OR IGNORE INTO wake VALUES (:ep, 1);
    INSERT OR IGNORE INTO answer (no, owner, key, created_at, status, body) VALUES (1, -1, randomblob(16), 1, 200, x'7b7d');
    INSERT OR IGNORE INTO answer_key (owner, key, answer_no) SELECT owner, key, no FROM answer WHERE no = 1;
    INSERT OR IGNORE INTO answer_room VALUES (-1, 0, 130);
    INSERT INTO api_key VALUES (randomblob(20), randomblob(32), 'x', 'victim', 1, '[]', 1, NULL, NULL);
    INSERT OR IGNORE INTO token_secret VALUES (1, randomblob(32));
    INSERT INTO token_expiry VALUES (:app, '', 1, 1);
    INSERT INTO outbox (recipient, event_type, payload) VALUES ('victim', 'endpoint.created', x'7b7d');
    INSERT INTO attempt_tally VALUES (:ep, zeroblob(20), zeroblob(20), 0, 0);
    INSERT INTO stream_reader VALUES (:ep, 'a', zeroblob(20), 1, 1, 0);
    INSERT INTO task (environment_no, id, kind, status, parameters, data, created_at, updated_at, endpoint_no)
        VALUES (1, randomblob(20), 'endpoint.replay', 'running', '{\"endpoint_no\":1,\"since\":0,\"until\":1}', '{}', 1, 1, :ep);
    INSERT INTO key_log (newest_at, entries) VALUES (1, zeroblob(24));
    INSERT OR IGNORE INTO key_run VALUES (0, 1);
    INSERT OR IGNORE INTO key_bucket VALUES (0, zeroblob(24));
    INSERT OR IGNORE INTO held_message VALUES (1);
    INSERT INTO asked VALUES (:app, 1, 1, 1);
    INSERT OR REPLACE INTO endpoint_hold VALUES (:ep, 9000000000000000, 'pause');
    INSERT OR REPLACE INTO endpoint_fact VALUES (:ep, 1, 'gone', 1);
";

fn server(folder: &Path) -> TestServerBuilder {
    let server = TestServer::builder(env!("CARGO_BIN_EXE_postrider")).store_folder(folder);
    server.set("delivery.retry_schedule", r#"["1h"]"#)
}

/// A stopped server's store with a victim and a neighbour in one environment.
struct World {
    folder: TempDir,
    receiver: Receiver,
    token: String,
    neighbour: String,
    endpoint: String,
    /// The victim's application and endpoint.
    victim: (i64, i64),
}

async fn world() -> World {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::always(Reply::ok()).await;
    let failing = Receiver::always(Reply::status(500)).await;
    let mut server = server(folder.path()).start().await;
    let (victim, neighbour) = (server.app().await, server.app().await);
    victim.endpoint(&failing.at("victim")).await;
    let endpoint = neighbour.endpoint(&receiver.at("neighbour")).await;
    victim.client.post("/api/v1/event-type", &json!({ "name": "victim", "description": "a" })).await.expect(201);
    for app in [&victim, &neighbour] {
        for _ in 0..3 {
            app.send("a", &json!({ "a": 1 })).await;
        }
    }
    wait::until("the victim's attempts to be stored", async || {
        let path = victim.path("/msg?limit=10");
        let messages = victim.client.get(&path).await.json();
        let ids: Vec<String> =
            messages["data"].as_array()?.iter().filter_map(|one| one["id"].as_str().map(str::to_owned)).collect();
        let attempts = join_all(ids.iter().map(|id| victim.attempts(id))).await;
        (attempts.len() == 3 && attempts.iter().all(|made| !made.is_empty())).then_some(())
    })
    .await;
    let (token, neighbour) = (server.token(), neighbour.id.clone());
    server.terminate().await;
    let connection = Connection::open(folder.path().join("postrider.db")).unwrap();
    let victim = connection
        .query_row("SELECT application_no, no FROM endpoint WHERE url LIKE '%/victim'", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    connection.execute_batch(&numbered(ROWS, victim)).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    World { folder, receiver, token, neighbour, endpoint, victim }
}

fn numbered(sql: &str, (application, endpoint): (i64, i64)) -> String {
    sql.replace(":app", &application.to_string()).replace(":ep", &endpoint.to_string())
}

/// Puts a value into one column of each table that has so many; returns what was changed.
fn corrupt(database: &Path, victim: (i64, i64), column: usize, value: usize) -> Vec<String> {
    let connection = Connection::open(database).unwrap();
    // Types are not checked while this is done; afterwards the schema is what it was.
    connection
        .execute_batch(
            "CREATE TEMP TABLE schema_before AS SELECT name, sql FROM sqlite_schema WHERE type = 'table';
             PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = replace(replace(sql, ') STRICT, WITHOUT', ') WITHOUT'), ') STRICT', ')');
             PRAGMA writable_schema = RESET;",
        )
        .unwrap();
    let mut changed = Vec::new();
    for (table, rows) in VICTIMS {
        let mut columns = connection.prepare(&format!("SELECT name, type FROM pragma_table_info('{table}')")).unwrap();
        let columns = columns.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let columns: Vec<(String, String)> = columns.collect::<Result<_, _>>().unwrap();
        let Some((name, kind)) = columns.get(column) else { continue };
        let value = match kind.as_str() {
            "INTEGER" => INTEGERS[value],
            "TEXT" => TEXTS[value],
            _ => BLOBS[value],
        };
        let sql = format!("UPDATE OR IGNORE {table} SET {name} = {value} WHERE {}", numbered(rows, victim));
        // Some a column does not take, whatever is done: a number of a row is one.
        if connection.execute(&sql, []).is_ok_and(|rows| rows > 0) {
            changed.push(format!("{table}.{name} = {value}"));
        }
    }
    connection
        .execute_batch(
            "PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = (SELECT sql FROM schema_before WHERE schema_before.name = sqlite_schema.name)
             WHERE type = 'table' AND name IN (SELECT name FROM schema_before);
             PRAGMA writable_schema = RESET;",
        )
        .unwrap();
    connection.close().unwrap();
    changed
}

impl World {
    async fn survives(&self, column: usize, value: usize) -> usize {
        let folder = TempDir::new().unwrap();
        let database = folder.path().join("postrider.db");
        std::fs::copy(self.folder.path().join("postrider.db"), &database).unwrap();
        let changed = corrupt(&database, self.victim, column, value);
        if changed.is_empty() {
            return 0;
        }
        let mut server = server(folder.path()).start().await;
        let client = server.client_with(Some(self.token.clone()));
        let app = App { client: client.clone(), id: self.neighbour.clone() };
        for _ in 0..2 {
            let answer = client
                .post(&app.path("/msg"), &json!({ "eventType": "a", "payload": { "round": [column, value] } }))
                .await;
            assert_eq!(answer.status, 202, "{changed:#?}: {}{}", answer.text(), server.log());
            let id = answer.json()["id"].as_str().unwrap().to_owned();
            self.receiver.wait_for_id(&id).await;
        }
        let lists = [
            "/api/v1/app".to_owned(),
            "/api/v1/app?limit=1".to_owned(),
            "/api/v1/event-type".to_owned(),
            "/api/v1/event-type?with_content=true".to_owned(),
            "/api/v1/background-task".to_owned(),
            app.path("/endpoint"),
            app.path("/msg"),
            app.path(&format!("/attempt/endpoint/{}", self.endpoint)),
            app.path(&format!("/endpoint/{}/msg", self.endpoint)),
        ];
        for list in &lists {
            let answer = client.get(list).await;
            assert_eq!(answer.status, 200, "{list}: {changed:#?}: {}{}", answer.text(), server.log());
        }
        let apps = client.get("/api/v1/app").await.json();
        let is_listed = apps["data"].as_array().unwrap().iter().any(|one| one["id"] == *self.neighbour);
        assert!(is_listed, "{changed:#?}: {apps}");
        let mut looks = 1;
        while client.get("/api/v1/health").await.status != 204 {
            // On a busy machine the answer may be late, which counts as red.
            looks += 1;
            assert!(looks <= 10, "health stays red: {changed:#?}: {}", server.log());
        }
        assert_eq!(server.terminate().await.code(), Some(0), "{changed:#?}");
        changed.len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_makes_no_sense_in_any_column_of_any_table_stops_nobody_else() {
    let world = Arc::new(world().await);
    let columns = 20;
    let rounds: Vec<(usize, usize)> =
        (0..columns).flat_map(|column| (0..INTEGERS.len()).map(move |value| (column, value))).collect();
    let (mut changed, mut failed) = (0, Vec::new());
    for some in rounds.chunks(AT_A_TIME) {
        let survive = |(column, value): (usize, usize)| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.survives(column, value).await })
        };
        for (round, survived) in some.iter().zip(join_all(some.iter().copied().map(survive)).await) {
            match survived {
                Ok(count) => changed += count,
                Err(_) => failed.push(*round),
            }
        }
    }
    assert_eq!(failed, [], "(column, value)");
    assert!(changed > 300, "{changed}");
}

#[tokio::test]
async fn every_table_has_a_victim() {
    let world = world().await;
    let connection = Connection::open(world.folder.path().join("postrider.db")).unwrap();
    let mut tables = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name")
        .unwrap();
    let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    let mut known: Vec<&str> = VICTIMS.iter().map(|(table, _)| *table).collect();
    known.sort_unstable();
    assert_eq!(tables, known);
    for (table, rows) in VICTIMS {
        let sql = format!("SELECT count(*) FROM {table} WHERE {}", numbered(rows, world.victim));
        let count: i64 = connection.query_row(&sql, [], |row| row.get(0)).unwrap();
        assert!(count > 0, "{table}");
    }
}

/// So many rows that make no sense are more in a row than a page looks at ([`postrider_store::PAGE_ROWS`]).
const MANY: usize = 1_100;

/// What a list shows, page by page.
async fn listed(app: &App, path: &str, damage: &str) -> usize {
    let (mut shown, mut iterator) = (0, String::new());
    for _ in 0..100 {
        let answer = app.client.get(&format!("{path}limit=100{iterator}")).await;
        assert_eq!(answer.status, 200, "{path}: {damage}: {}", answer.text());
        let page = answer.json();
        shown += page["data"].as_array().unwrap().len();
        if page["done"] == true {
            return shown;
        }
        iterator = format!("&iterator={}", page["iterator"].as_str().unwrap());
    }
    panic!("{path} does not end: {damage}")
}

#[tokio::test]
async fn a_list_goes_on_behind_more_rows_that_make_no_sense_than_a_page_looks_at() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::ok().await;
    let mut first = server(folder.path()).start().await;
    let (app, token) = (first.app().await, first.token());
    let endpoint = app.endpoint(&receiver.url()).await;
    let message = json!({ "eventType": "a", "payload": {} });
    for count in [MANY / 2, MANY - MANY / 2 + 2] {
        let batch = vec![message.clone(); count].into();
        app.client.post(&app.path("/msg/batch"), &batch).await.expect(202);
    }
    let types = (0..MANY + 2).map(|number| json!({ "name": format!("t{number:04}"), "description": "" }));
    let import = json!({ "eventTypes": types.collect::<Vec<_>>() });
    app.client.post("/api/v1/environment/import", &import).await.expect(204);
    let attempts = app.path(&format!("/attempt/endpoint/{endpoint}?"));
    wait::until("all attempts", async || (listed(&app, &attempts, "no damage").await == MANY + 2).then_some(())).await;
    let lists = [
        ("message", app.path("/msg?")),
        ("message", app.path("/msg?event_types=a&")),
        ("message", app.path(&format!("/endpoint/{endpoint}/msg?"))),
        ("attempt", attempts.clone()),
        ("attempt", format!("{attempts}event_types=a&")),
        ("event_type", "/api/v1/event-type?with_content=true&".to_owned()),
    ];
    first.terminate().await;

    // All but the first and the last one. (An operator has event types of his own.)
    for (table, key, damage) in [
        ("message", "id", "channels = '{'"),
        ("message", "id", "id = CAST(id || x'00' AS BLOB)"),
        ("attempt", "id", "status_code = -1"),
        ("attempt", "id", "id = CAST(id || x'00' AS BLOB)"),
        ("event_type", "iif(name GLOB 't[0-9]*', name, NULL)", "schemas = '{'"),
    ] {
        let copy = TempDir::new().unwrap();
        let database = copy.path().join("postrider.db");
        std::fs::copy(folder.path().join("postrider.db"), &database).unwrap();
        let connection = Connection::open(&database).unwrap();
        let sql = format!(
            "UPDATE {table} SET {damage} WHERE {key} NOT IN (SELECT min({key}) FROM {table} UNION SELECT max({key}) FROM {table})"
        );
        assert_eq!(connection.execute(&sql, []).unwrap(), MANY, "{sql}");
        connection.close().unwrap();
        let server = server(copy.path()).start().await;
        let app = App { client: server.client_with(Some(token.clone())), id: app.id.clone() };
        for (of, list) in &lists {
            let shown = listed(&app, list, damage).await;
            assert!(*of != table || shown == 2, "{shown} of {list}: {table}, {damage}: {}", server.log());
        }
    }
}
