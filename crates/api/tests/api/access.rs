//! Who may do what: every route with every kind of caller.

use std::time::Duration;

use postrider_domain::application::EnvironmentId;
use postrider_domain::entropy::OsEntropy;
use postrider_domain::ids::KeyId;
use postrider_domain::time::Timestamp;
use postrider_store::{ApiKey, KeyHash};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::world::{Answer, Extras, ORG, World, app_token, id, org_token, sign};

/// Who may use a route (rest-contract §0).
#[derive(Debug, Clone, Copy, PartialEq)]
enum Access {
    /// The operator only.
    Operator,
    /// The operator, or a token of the application in the path.
    Tenant,
    /// Any token.
    Reader,
}

use Access::{Operator, Reader, Tenant};

/// Every route that wants a token: method, path, who may, what a good request sends, what it is answered. What removes
/// something comes last.
fn routes() -> Vec<(&'static str, &'static str, Access, Value, u16)> {
    let endpoint = json!({ "url": "https://example.com/" });
    let event_type = json!({ "description": "" });
    vec![
        ("GET", "/app", Operator, Value::Null, 200),
        ("POST", "/app", Operator, json!({ "name": "new" }), 201),
        ("GET", "/app/{app}", Tenant, Value::Null, 200),
        ("PATCH", "/app/{app}", Operator, json!({}), 200),
        ("GET", "/app/{app}/endpoint", Tenant, Value::Null, 200),
        ("POST", "/app/{app}/endpoint", Tenant, endpoint.clone(), 201),
        ("GET", "/app/{app}/endpoint/{ep}", Tenant, Value::Null, 200),
        ("PUT", "/app/{app}/endpoint/{ep}", Tenant, endpoint, 200),
        ("PATCH", "/app/{app}/endpoint/{ep}", Tenant, json!({}), 200),
        ("GET", "/app/{app}/endpoint/{ep}/secret", Tenant, Value::Null, 200),
        ("POST", "/app/{app}/endpoint/{ep}/secret/rotate", Tenant, json!({}), 204),
        ("GET", "/app/{app}/endpoint/{ep}/headers", Tenant, Value::Null, 200),
        ("PUT", "/app/{app}/endpoint/{ep}/headers", Tenant, json!({ "headers": {} }), 204),
        ("PATCH", "/app/{app}/endpoint/{ep}/headers", Tenant, json!({ "headers": {} }), 204),
        ("GET", "/app/{app}/endpoint/{ep}/stats", Tenant, Value::Null, 200),
        ("GET", "/app/{app}/endpoint/{ep}/attempt-stats", Tenant, Value::Null, 200),
        ("GET", "/app/{app}/endpoint/{ep}/msg", Tenant, Value::Null, 200),
        ("GET", "/app/{app}/msg/{msg}/endpoint", Tenant, Value::Null, 200),
        ("GET", "/app/{app}/msg", Tenant, Value::Null, 200),
        ("POST", "/app/{app}/msg", Operator, json!({ "eventType": "a.b", "payload": {} }), 202),
        ("POST", "/app/{app}/msg/batch", Operator, json!([{ "eventType": "a.b", "payload": {} }]), 202),
        ("GET", "/app/{app}/msg/{msg}", Tenant, Value::Null, 200),
        ("GET", "/app/{app}/msg/{msg}/attempt", Tenant, Value::Null, 200),
        ("GET", "/app/{app}/msg/{msg}/endpoint/{ep}/attempt", Tenant, Value::Null, 200),
        ("GET", "/app/{app}/msg/{msg}/attempt/{atmpt}", Tenant, Value::Null, 200),
        ("POST", "/app/{app}/msg/{msg}/endpoint/{ep}/resend", Tenant, Value::Null, 202),
        ("GET", "/app/{app}/attempt/endpoint/{ep}", Tenant, Value::Null, 200),
        ("GET", "/app/{app}/attempt/msg/{msg}", Tenant, Value::Null, 200),
        ("GET", "/event-type", Reader, Value::Null, 200),
        ("POST", "/event-type", Operator, json!({ "name": "new", "description": "" }), 201),
        ("GET", "/event-type/a.b", Reader, Value::Null, 200),
        ("PUT", "/event-type/a.b", Operator, event_type, 200),
        ("PATCH", "/event-type/a.b", Operator, json!({}), 200),
        ("POST", "/app/{app}/endpoint/{ep}/send-example", Operator, json!({ "eventType": "svix.ping" }), 200),
        ("POST", "/app/{app}/msg/precheck/active", Operator, json!({ "eventType": "a.b" }), 200),
        ("POST", "/auth/app-portal-access/{app}", Operator, json!({}), 200),
        ("POST", "/auth/dashboard-access/{app}", Operator, Value::Null, 200),
        ("GET", "/app/{app}/poller/{ep}", Tenant, Value::Null, 200),
        ("GET", "/app/{app}/poller/{ep}/consumer/one", Tenant, Value::Null, 200),
        ("POST", "/app/{app}/poller/{ep}/consumer/one/seek", Tenant, json!({ "after": "2026-01-01T00:00:00Z" }), 200),
        ("POST", "/app/{app}/endpoint/{ep}/recover", Tenant, json!({ "since": "2026-01-01T00:00:00Z" }), 202),
        ("POST", "/app/{app}/endpoint/{ep}/replay-missing", Tenant, json!({ "since": "2026-01-01T00:00:00Z" }), 202),
        ("POST", "/app/{app}/endpoint/{ep}/bulk-replay", Tenant, json!({ "since": "2026-01-01T00:00:00Z" }), 202),
        ("POST", "/app/{app}/msg/bulk-expunge", Operator, json!({ "ids": [] }), 200),
        (
            "POST",
            "/stats/usage/app",
            Operator,
            json!({ "since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z" }),
            202,
        ),
        ("PUT", "/stats/usage/event-types", Operator, Value::Null, 202),
        ("GET", "/background-task", Operator, Value::Null, 200),
        ("GET", "/background-task/{task}", Tenant, Value::Null, 200),
        ("POST", "/app/{app}/msg/expunge-all-contents", Operator, Value::Null, 202),
        ("GET", "/auth/whoami", Reader, Value::Null, 200),
        ("GET", "/operational-webhook/endpoint", Operator, Value::Null, 200),
        ("POST", "/operational-webhook/endpoint", Operator, json!({ "url": "https://example.com/" }), 201),
        ("GET", "/operational-webhook/endpoint/op", Operator, Value::Null, 200),
        (
            "PUT",
            "/operational-webhook/endpoint/op",
            Operator,
            json!({ "url": "https://example.com/", "uid": "op" }),
            200,
        ),
        ("PATCH", "/operational-webhook/endpoint/op", Operator, json!({}), 200),
        ("GET", "/operational-webhook/endpoint/op/headers", Operator, Value::Null, 200),
        ("PUT", "/operational-webhook/endpoint/op/headers", Operator, json!({ "headers": {} }), 204),
        ("PATCH", "/operational-webhook/endpoint/op/headers", Operator, json!({ "headers": {} }), 204),
        ("GET", "/operational-webhook/endpoint/op/secret", Operator, Value::Null, 200),
        ("POST", "/operational-webhook/endpoint/op/secret/rotate", Operator, json!({}), 204),
        ("DELETE", "/operational-webhook/endpoint/op", Operator, Value::Null, 204),
        ("DELETE", "/app/{app}/msg/{msg}/attempt/{atmpt}/content", Operator, Value::Null, 204),
        ("DELETE", "/app/{app}/msg/{msg}/content", Operator, Value::Null, 204),
        ("POST", "/auth/app/{app}/expire-all", Operator, json!({ "expiry": 60 }), 204),
        ("POST", "/event-type/import/openapi", Operator, json!({ "spec": { "openapi": "3.1.0" } }), 200),
        ("GET", "/environment/settings", Operator, Value::Null, 200),
        ("PUT", "/environment/settings", Operator, json!({}), 200),
        ("PATCH", "/environment/settings", Operator, json!({}), 200),
        ("POST", "/environment/export", Operator, Value::Null, 200),
        ("POST", "/environment/import", Operator, json!({}), 204),
        ("DELETE", "/event-type/a.b", Operator, Value::Null, 204),
        ("DELETE", "/app/{app}/endpoint/{ep}", Tenant, Value::Null, 204),
        ("PUT", "/app/{app}", Operator, json!({ "name": "other" }), 200),
        ("DELETE", "/app/{app}", Operator, Value::Null, 204),
    ]
}

/// An application with one of everything.
#[derive(Clone)]
struct Furnished {
    app: String,
    endpoint: String,
    message: String,
    attempt: String,
    task: String,
}

impl Furnished {
    async fn new(world: &World, uid: &str) -> Self {
        let app = world.app(uid).await;
        let endpoint = world.endpoint(&app, "ep").await;
        let message = world.message(&app, "a.b").await;
        let attempt = world.attempt(&app, &endpoint, &message, 500, b"").await;
        let task = id(&world.post(&format!("/app/{app}/msg/expunge-all-contents"), Value::Null).await.expect(202));
        Self { app, endpoint, message, attempt, task }
    }

    fn path(&self, path: &str) -> String {
        path.replace("{app}", &self.app)
            .replace("{ep}", &self.endpoint)
            .replace("{msg}", &self.message)
            .replace("{atmpt}", &self.attempt)
            .replace("{task}", &self.task)
    }
}

#[tokio::test]
async fn every_route_knows_its_callers() {
    let world = World::new();
    world.post("/event-type", json!({ "name": "a.b", "description": "" })).await.expect(201);
    let (own, other) = (Furnished::new(&world, "own").await, Furnished::new(&world, "other").await);
    let operational = json!({ "url": "https://example.com/", "uid": "op" });
    world.post("/operational-webhook/endpoint", operational).await.expect(201);
    let own_token = app_token(&own.app, &[]);
    let other_token = app_token(&other.app, &[]);
    for (method, path, access, body, status) in routes() {
        let path = own.path(path);
        let body = (!body.is_null()).then_some(&body);
        let case = format!("{method} {path}");

        let nobody = world.raw(method, &format!("/api/v1{path}"), Extras::default()).await;
        nobody.refused(401, "authentication_failed");
        assert_eq!(nobody.json()["detail"], "Invalid token", "{case}");
        let forged = format!("{}x", org_token(ORG));
        world.send_as(&forged, method, &path, body).await.refused(401, "authentication_failed");

        let stranger = world.send_as(&other_token, method, &path, body).await;
        let elsewhere = world.send_as(&org_token("org_elsewhere"), method, &path, body).await;
        match access {
            Operator => stranger.refused(403, "insufficient access"),
            Tenant => {
                stranger.refused(404, "not_found");
                elsewhere.refused(404, "not_found");
            }
            Reader => assert!(stranger.status.is_success(), "{case}: {}", stranger.text),
        }
        if access == Operator {
            world.send_as(&own_token, method, &path, body).await.refused(403, "insufficient access");
        } else if method != "DELETE" {
            let answer = world.send_as(&own_token, method, &path, body).await;
            assert!(is_allowed(&answer, status), "{case}: {} {}", answer.status, answer.text);
        }
        let answer = world.send_as(&org_token(ORG), method, &path, body).await;
        assert!(is_allowed(&answer, status), "{case}: {} {}", answer.status, answer.text);
    }
}

/// What somebody has just started is not started again beside itself: that is no matter of access.
fn is_allowed(answer: &Answer, status: u16) -> bool {
    answer.status.as_u16() == status || (answer.status.as_u16() == 409 && answer.json()["code"] == "task_running")
}

#[tokio::test]
async fn ids_of_one_application_are_nothing_in_another() {
    let world = World::new();
    let (own, other) = (Furnished::new(&world, "own").await, Furnished::new(&world, "other").await);
    // To the operator tasks are the environment's, whichever application they are about.
    let foreign = Furnished { app: own.app.clone(), task: own.task.clone(), ..other.clone() };
    let foreign_endpoint = Furnished { endpoint: other.endpoint.clone(), ..own.clone() };
    let foreign_attempt = Furnished { attempt: other.attempt.clone(), ..own.clone() };
    for (method, path, access, body, _) in routes() {
        if (method, path) == ("PUT", "/app/{app}/endpoint/{ep}") {
            // Makes a new endpoint, whatever the path names.
            continue;
        }
        for furnished in [&foreign, &foreign_endpoint, &foreign_attempt] {
            let (path, own) = (furnished.path(path), own.path(path));
            if path == own {
                continue;
            }
            for token in [app_token(&furnished.app, &[]), org_token(ORG)] {
                let body = (!body.is_null()).then_some(&body);
                let answer = world.send_as(&token, method, &path, body).await;
                let for_operators = access == Operator && token != org_token(ORG);
                let want = if for_operators { 403 } else { 404 };
                assert_eq!(answer.status, want, "{method} {path}: {}", answer.text);
            }
        }
    }
}

#[tokio::test]
async fn tokens_are_judged_by_the_clock_each_time() {
    let world = World::new();
    let seconds = 1_767_323_045;
    let token = sign(&json!({ "sub": ORG, "exp": seconds + 3_600, "iat": seconds }));
    world.send_as(&token, "GET", "/app", None).await.expect(200);
    world.clock.advance(Duration::from_secs(3_600 + 899));
    world.send_as(&token, "GET", "/app", None).await.expect(200);
    world.clock.advance(Duration::from_secs(1));
    world.send_as(&token, "GET", "/app", None).await.refused(401, "authentication_failed");
}

#[tokio::test]
async fn a_signed_token_for_nothing_is_a_bad_token() {
    let world = World::new();
    for claims in [json!({ "sub": "user_1" }), json!({}), json!({ "sub": "app_x", "org": ORG })] {
        let answer = world.send_as(&sign(&claims), "GET", "/app", None).await;
        answer.refused(400, "bad token");
        assert!(answer.text.contains("org_") && answer.text.contains("app_"), "{}", answer.text);
    }
}

/// Stores a key as `postrider key create` would.
async fn api_key(world: &World, text: &str, scopes: &[&str], expires_at: Option<Timestamp>) -> KeyId {
    let now = postrider_domain::clock::Clock::now(&*world.clock);
    let id = KeyId::new(now, &OsEntropy);
    let hash = KeyHash(digest(&SHA256, text.as_bytes()).as_ref().try_into().unwrap());
    let key = ApiKey {
        id,
        hash,
        hint: text[..6].to_owned(),
        name: "test".to_owned(),
        environment: EnvironmentId::parse(ORG).unwrap(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        created_at: now,
        expires_at,
        last_used_at: None,
    };
    world.store.create_api_key(key).await.unwrap();
    id
}

#[tokio::test]
async fn an_api_key_is_an_operator_until_it_is_revoked_or_expires() {
    let world = World::new();
    let app = world.app("shop").await;
    let expires = Timestamp::from_micros(1_767_323_045_000_000 + 60_000_000);
    let id = api_key(&world, "pk_first", &["*"], None).await;
    api_key(&world, "pk_brief", &["*"], Some(expires)).await;
    api_key(&world, "pk_narrow", &["messages:create"], None).await;
    for key in ["pk_first", "pk_brief"] {
        assert_eq!(world.send_as(key, "GET", "/app/shop", None).await.expect(200)["id"], app);
    }
    world.send_as("pk_narrow", "GET", "/app/shop", None).await.refused(403, "insufficient access");
    world.send_as("pk_unknown", "GET", "/app/shop", None).await.refused(401, "authentication_failed");

    world.store.revoke_api_key(id).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    world.send_as("pk_first", "GET", "/app/shop", None).await.refused(401, "authentication_failed");
    world.send_as("pk_brief", "GET", "/app/shop", None).await.expect(200);
    world.clock.advance(Duration::from_secs(59));
    let expired = world.send_as("pk_brief", "GET", "/app/shop", None).await;
    expired.refused(401, "authentication_failed");
    assert!(expired.text.contains("the API key has expired"), "{}", expired.text);
}

#[tokio::test]
async fn the_last_use_of_a_key_is_written_down_within_a_minute() {
    let world = World::new();
    api_key(&world, "pk_first", &["*"], None).await;
    let agent = tokio::spawn(world.api.key_usage().run());
    tokio::task::yield_now().await;
    world.send_as("pk_first", "GET", "/app", None).await.expect(200);
    let last_use = async |world: &World| world.store.api_keys().await.unwrap()[0].last_used_at;
    assert_eq!(last_use(&world).await, None);
    world.clock.advance(Duration::from_secs(60));
    let deadline = tokio::time::sleep(Duration::from_secs(20));
    tokio::pin!(deadline);
    while last_use(&world).await.is_none() {
        tokio::select! {
            () = &mut deadline => panic!("the use was not written down"),
            () = tokio::task::yield_now() => {}
        }
    }
    agent.abort();
}

#[tokio::test]
async fn environments_are_worlds_of_their_own() {
    let world = World::new();
    let there = org_token("org_there");
    let body = json!({ "name": "shop", "uid": "shop" });
    let here = world.app("shop").await;
    let made = world.send_as(&there, "POST", "/app", Some(&body)).await.expect(201);
    assert_ne!(id(&made), here);
    assert_eq!(world.send_as(&there, "GET", "/app/shop", None).await.expect(200)["id"], made["id"]);
    world.send_as(&there, "GET", &format!("/app/{here}"), None).await.refused(404, "not_found");
}

/// Whether a path of the table is one of this documented path.
fn is_of(path: &str, documented: &str) -> bool {
    let (path, documented) = (path.split('/'), documented.split('/'));
    path.clone().count() == documented.clone().count()
        && path.zip(documented).all(|(part, wanted)| wanted.starts_with('{') || part == wanted)
}

#[tokio::test]
async fn no_route_that_wants_a_token_is_missing_here() {
    let world = World::new();
    let document = world.raw("GET", "/api/v1/openapi.json", Extras::default()).await.json();
    let tried = routes();
    let mut missing = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.strip_prefix("/api/v1").unwrap();
        for (method, operation) in item.as_object().unwrap() {
            let is_tried =
                |row: &(&str, &str, Access, Value, u16)| row.0.eq_ignore_ascii_case(method) && is_of(row.1, path);
            if operation["security"] != json!([]) && !tried.iter().any(is_tried) {
                missing.push(format!("{method} {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    world.close().await;
}
