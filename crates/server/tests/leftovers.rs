//! What calls leave in the store: however often somebody repeats them, it stays below a bound.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::time::Duration;

use http::Method;
use postrider_testkit::{Answer, App, Client, Receiver, Reply, TestServer, wait};
use serde_json::{Value, json};

const MIB: u64 = 1024 * 1024;

async fn server() -> TestServer {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider")).start().await
}

/// An application, and what its customer calls it with.
async fn customer(server: &TestServer) -> (App, Client) {
    let app = server.app().await;
    let client = server.client_with(Some(server.application_token(&app.id)));
    (app, client)
}

/// The size of a stopped server's store.
async fn stored(mut server: TestServer) -> u64 {
    server.terminate().await;
    std::fs::metadata(server.store_path()).expect("the store is there").len()
}

/// An endpoint of which the answer is half a megabyte.
async fn large_endpoint(operator: &Client) -> Value {
    let types: Vec<String> = (0..1_000).map(|place| format!("t{place:0>250}")).collect();
    for name in &types {
        operator.post("/api/v1/event-type", &json!({ "name": name, "description": "" })).await.expect(201);
    }
    json!({ "url": "https://example.com/", "filterTypes": types })
}

async fn post(client: &Client, path: &str, key: Option<String>, body: &Value) -> Answer {
    let mut request = client.request(Method::POST, path);
    if let Some(key) = key {
        request = request.header("idempotency-key", &key);
    }
    request.json(body).send().await
}

#[tokio::test]
async fn large_endpoints_under_keys_that_are_deleted_again_leave_no_more_than_the_room_for_answers() {
    let server = server().await;
    let (app, customer) = customer(&server).await;
    let large = large_endpoint(&app.client).await;
    let (mut made, mut refused) = (0, 0);
    for number in 0..150 {
        let answer = post(&customer, &app.path("/endpoint"), Some(format!("k{number}")), &large).await;
        if answer.status == 429 {
            assert!(answer.text().contains("too_many_keys"), "{}", answer.text());
            refused += 1;
            continue;
        }
        let id = answer.expect(201).json()["id"].as_str().expect("an id").to_owned();
        customer.delete(&app.path(&format!("/endpoint/{id}"))).await.expect(204);
        made += 1;
    }
    assert!(made > 25 && refused > 50, "{made} made, {refused} refused");
    // The operator is not refused, and without a key nobody is.
    let small = json!({ "url": "https://example.com/" });
    post(&app.client, &app.path("/endpoint"), Some("other".to_owned()), &small).await.expect(201);
    post(&customer, &app.path("/endpoint"), None, &small).await.expect(201);
    let stored = stored(server).await;
    assert!(stored < 20 * MIB, "{stored} bytes");
}

#[tokio::test]
async fn endpoints_that_were_deleted_within_a_day_are_so_many_and_no_more_are_made() {
    let mut server = server().await;
    let app = server.app().await;
    let id = app.endpoint("https://example.com/").await;
    app.client.delete(&app.path(&format!("/endpoint/{id}"))).await.expect(204);
    server.terminate().await;
    let connection = rusqlite::Connection::open(server.store_path()).unwrap();
    let columns =
        "application_no, url, description, version, disabled, metadata, headers, signing_keys, created_at, updated_at,
         deleted_at";
    let copy = format!(
        "WITH RECURSIVE more(number) AS (SELECT 2 UNION ALL SELECT number + 1 FROM more WHERE number < 5000)
         INSERT INTO endpoint (id, {columns}) SELECT randomblob(20), {columns} FROM more CROSS JOIN endpoint"
    );
    assert_eq!(connection.execute(&copy, []).unwrap(), 4_999);
    drop(connection);
    server.start().await;
    let refused = post(&app.client, &app.path("/endpoint"), None, &json!({ "url": "https://example.com/" })).await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert!(refused.text().contains("too_many_deleted"), "{}", refused.text());
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((23 * 3_600..=24 * 3_600 + 1).contains(&wait), "{wait}");
    let put = app.client.put(&app.path("/endpoint/new"), &json!({ "url": "https://example.com/" })).await;
    assert_eq!(put.status, 429, "{}", put.text());
    // Another application is not concerned.
    server.app().await.endpoint("https://example.com/").await;
}

#[tokio::test]
async fn whoever_asked_for_a_days_worth_of_attempts_waits_and_nobody_else() {
    let receiver = Receiver::always(Reply::ok()).await;
    let server = TestServer::builder(env!("CARGO_BIN_EXE_postrider")).set("limits.asked_per_day", "3").start().await;
    let app = server.app().await;
    let message = app.send("a", &json!({})).await;
    let mut answers = Vec::new();
    // To an endpoint of its own each time.
    for number in 0..4 {
        let endpoint = app.endpoint(&receiver.at(&number.to_string())).await;
        answers
            .push(app.client.post(&app.path(&format!("/msg/{message}/endpoint/{endpoint}/resend")), &json!({})).await);
    }
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [202, 202, 202, 429]);
    let refused = &answers[3];
    assert_eq!(refused.json()["code"], "too_many_asked_for");
    assert!(refused.text().contains("limits.asked_per_day"), "{}", refused.text());
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((7 * 3_600..=8 * 3_600 + 1).contains(&wait), "{wait}");
    let other = server.app().await;
    let (endpoint, message) = (other.endpoint(&receiver.at("other")).await, other.send("a", &json!({})).await);
    other.client.post(&other.path(&format!("/msg/{message}/endpoint/{endpoint}/resend")), &json!({})).await.expect(202);
}

#[tokio::test]
async fn former_urls_that_attempts_name_have_so_many_bytes_in_a_day_and_no_more() {
    let receiver = Receiver::always(Reply::ok()).await;
    let mut server = server().await;
    let (app, customer) = customer(&server).await;
    let url = |number: u32| receiver.at(&format!("{number}-{}", "u".repeat(1_900)));
    let endpoint = app.endpoint(&url(0)).await;
    let message = app.send("a", &json!({})).await;
    app.logged_attempts(&message, 1).await;
    let (path, resend) =
        (app.path(&format!("/endpoint/{endpoint}")), app.path(&format!("/msg/{message}/endpoint/{endpoint}/resend")));
    customer.patch(&path, &json!({ "url": url(1) })).await.expect(200);
    // Of almost all that there is for a day somebody has made use.
    server.terminate().await;
    let connection = rusqlite::Connection::open(server.store_path()).unwrap();
    let used: i64 = connection.query_row("SELECT urls_whole_at FROM asked", [], |row| row.get(0)).unwrap();
    let day = Duration::from_secs(24 * 3_600).as_micros() as i64;
    let one = day / (8 * 1024 * 1024 / 2_000);
    connection.execute("UPDATE asked SET urls_whole_at = ?", [used + day - 3 * one]).unwrap();
    drop(connection);
    server.start().await;
    // That of an endpoint to which nothing was sent costs nothing.
    let fresh = app.endpoint_with(json!({ "url": url(0), "channels": ["other"] })).await;
    for number in 2..12 {
        let path = app.path(&format!("/endpoint/{fresh}"));
        customer.patch(&path, &json!({ "url": url(number) })).await.expect(200);
    }
    let mut statuses = Vec::new();
    for number in 12..16 {
        customer.post(&resend, &json!({})).await.expect(202);
        app.logged_attempts(&message, number - 10).await;
        let answer = customer.patch(&path, &json!({ "url": url(number as u32) })).await;
        statuses.push(answer.status);
        if answer.status == 429 {
            assert_eq!(answer.json()["code"], "too_many_urls");
            assert!(answer.headers.contains_key("retry-after"));
        }
    }
    assert!(statuses.starts_with(&[200]) && statuses.ends_with(&[429]), "{statuses:?}");
    // Whatever else is changed is changed, and so is the URL of another application's endpoint.
    customer.patch(&path, &json!({ "description": "new" })).await.expect(200);
    let other = server.app().await;
    let endpoint = other.endpoint(&url(0)).await;
    let message = other.send("a", &json!({})).await;
    other.logged_attempts(&message, 1).await;
    other.client.patch(&other.path(&format!("/endpoint/{endpoint}")), &json!({ "url": url(1) })).await.expect(200);
}

#[tokio::test]
async fn urls_that_change_while_attempts_are_under_way_are_counted_like_others() {
    const DAY: i64 = 24 * 3_600 * 1_000_000;
    let receiver = Receiver::always(Reply::ok().after(Duration::from_secs(2))).await;
    let mut server = server().await;
    let (app, customer) = customer(&server).await;
    let url = |number: usize| receiver.at(&format!("{number}-{}", "u".repeat(1_900)));
    let endpoint = app.endpoint(&url(0)).await;
    let path = app.path(&format!("/endpoint/{endpoint}"));
    server.terminate().await;
    // Of what there is for a day, ten are left.
    let connection = rusqlite::Connection::open(server.store_path()).unwrap();
    let now: i64 = connection.query_row("SELECT created_at FROM endpoint", [], |row| row.get(0)).unwrap();
    let ten = DAY / (8 * 1024 * 1024 / 20_000);
    let used = "INSERT INTO asked (application_no, whole_at, urls_whole_at) SELECT no, 0, ? FROM application";
    connection.execute(used, [now + DAY - ten]).unwrap();
    drop(connection);
    server.start().await;
    let (mut sent, mut refused) = (0, 0);
    for number in 1..=20 {
        // Three attempts are under way when it changes.
        for _ in 0..3 {
            app.send("a", &json!({})).await;
        }
        sent += 3;
        receiver.wait_for(sent).await;
        let answer = customer.patch(&path, &json!({ "url": url(number) })).await;
        refused += usize::from(answer.status == 429);
        assert!(answer.status == 200 || answer.text().contains("too_many_urls"), "{}", answer.text());
    }
    assert!((5..=15).contains(&refused), "{refused} refused");
    wait::until("the attempts to be stored", async || {
        let attempts = app.client.get(&app.path(&format!("/attempt/endpoint/{endpoint}?limit=100"))).await.json();
        (attempts["data"].as_array()?.len() == sent).then_some(())
    })
    .await;
    let connection = rusqlite::Connection::open(server.store_path()).unwrap();
    let (named, present): (i64, i64) = connection
        .query_row("SELECT count(*), count(*) FILTER (WHERE retired_at IS NULL) FROM endpoint_url", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    // Those that were changed, and the present one.
    assert!(present <= 1 && named <= 20 - refused as i64 + 1, "{named} named, {present} of them present");
}

#[tokio::test]
async fn long_responses_are_cut_short_when_an_application_had_so_many_of_them() {
    let receiver = Receiver::always(Reply::status(200).body("x".repeat(10_000))).await;
    let server = TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
        .set("delivery.kept_responses_per_day", "20000")
        .start()
        .await;
    let app = server.app().await;
    app.endpoint(&receiver.at("x")).await;
    let mut kept = Vec::new();
    for _ in 0..4 {
        let message = app.send("a", &json!({})).await;
        let attempts = app.logged_attempts(&message, 1).await;
        kept.push(attempts[0]["response"].as_str().unwrap().len());
    }
    assert_eq!(kept, [10_000, 10_000, 256, 256]);
}

/// How many rows of a stopped server's store meet a condition.
async fn rows(server: &mut TestServer, of: &str) -> i64 {
    server.terminate().await;
    let connection = rusqlite::Connection::open(server.store_path()).unwrap();
    connection.query_row(&format!("SELECT count(*) FROM {of}"), [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn ending_the_tokens_of_an_application_again_and_again_leaves_as_many_rules_as_there_are_sessions() {
    let mut server = server().await;
    let app = server.app().await;
    let path = format!("/api/v1/auth/app/{}/expire-all", app.id);
    let end = async |body: Value| post(&app.client, &path, None, &body).await.expect(204);
    for _ in 0..200 {
        end(json!({ "sessionIds": ["a", "b"] })).await;
        end(json!({ "expiry": 0 })).await;
        end(json!({ "sessionIds": ["a", "b", "c"] })).await;
    }
    assert_eq!(rows(&mut server, "token_expiry").await, 4);
    server.start().await;
    end(json!({})).await;
    assert_eq!(rows(&mut server, "token_expiry").await, 1, "it says what the sessions' rules said");
}

#[tokio::test]
async fn an_endpoint_whose_url_changes_again_and_again_keeps_those_that_its_log_names() {
    const CHANGES: usize = 40;
    let receiver = Receiver::always(Reply::ok()).await;
    let mut server = server().await;
    let app = server.app().await;
    let endpoint = app.endpoint(&receiver.at("0")).await;
    for number in 0..CHANGES {
        let url = json!({ "url": receiver.at(&number.to_string()) });
        app.client.patch(&app.path(&format!("/endpoint/{endpoint}")), &url).await.expect(200);
        let message = app.send("a", &json!({})).await;
        let attempts = app.logged_attempts(&message, 1).await;
        assert_eq!(attempts[0]["url"], url["url"]);
    }
    let named = rows(&mut server, "endpoint_url").await;
    assert_eq!(usize::try_from(named).unwrap(), CHANGES);
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::copy(server.store_path(), folder.path().join("postrider.db")).unwrap();
    // From here on nothing of the log is kept, and what is kept no longer goes right after the start.
    let builder = TestServer::builder(env!("CARGO_BIN_EXE_postrider")).store_folder(folder.path());
    let mut server = builder.set("retention.history", "1ms").set("retention.payload", "1ms").start().await;
    let connection = rusqlite::Connection::open(server.store_path()).unwrap();
    wait::until("former URLs to go", async || {
        let left: i64 = connection.query_row("SELECT count(*) FROM endpoint_url", [], |row| row.get(0)).unwrap();
        (left <= 1).then_some(())
    })
    .await;
    drop(connection);
    assert_eq!(rows(&mut server, "attempt").await, 0);
}

#[tokio::test]
async fn a_message_that_a_customer_has_sent_again_and_again_fills_no_log() {
    let receiver = Receiver::always(Reply::ok()).await;
    let mut server = server().await;
    let (app, customer) = customer(&server).await;
    let endpoint = app.endpoint(&receiver.url()).await;
    let message = app.send("a", &json!({})).await;
    app.logged_attempts(&message, 1).await;
    let resend = app.path(&format!("/msg/{message}/endpoint/{endpoint}/resend"));
    let mut sent = 0;
    for _ in 0..250 {
        let answer = customer.post(&resend, &json!({})).await;
        if answer.status == 202 {
            sent += 1;
        } else {
            assert_eq!(answer.expect(400).json()["code"], "limit_reached");
        }
    }
    // With the one by the schedule, 200.
    assert_eq!(sent, 199);
    let next = app.send("a", &json!({})).await;
    app.logged_attempts(&next, 1).await;
    assert!(rows(&mut server, "attempt").await <= 201);
}
