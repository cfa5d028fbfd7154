//! Idempotency keys (rest-contract §13).

use serde_json::{Value, json};

use crate::world::{Answer, Extras, ORG, World, app_token, ids, org_token};

async fn post(world: &World, token: &str, path: &str, key: &str, body: &Value) -> Answer {
    let headers = [("idempotency-key", key)];
    let extras = Extras { token: Some(token), headers: &headers, body: body.to_string().into() };
    world.raw("POST", &format!("/api/v1{path}"), extras).await
}

#[tokio::test]
async fn every_post_is_carried_out_once_per_key() {
    let world = World::new();
    let token = org_token(ORG);
    world.app("shop").await;
    world.endpoint("shop", "e").await;
    let message = world.message("shop", "a").await;
    for (path, first, second) in [
        ("/app", json!({ "name": "one" }), json!({ "name": "two" })),
        ("/app/shop/endpoint", json!({ "url": "https://1.test/" }), json!({ "url": "https://2.test/" })),
        ("/app/shop/endpoint/e/secret/rotate", json!({}), json!({ "gracePeriodSeconds": 1 })),
        (
            "/app/shop/msg",
            json!({ "eventType": "a", "payload": { "n": 1 } }),
            json!({ "eventType": "b", "payload": {} }),
        ),
        ("/event-type", json!({ "name": "one", "description": "" }), json!({ "name": "two", "description": "" })),
        (&format!("/app/shop/msg/{message}/endpoint/e/resend"), json!({}), json!({})),
    ] {
        let answer = post(&world, &token, path, "key-1", &first).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text);
        // A slash at the end is the same path; another body is still the same request.
        for path in [path.to_owned(), format!("{path}/")] {
            let again = post(&world, &token, &path, "key-1", &second).await;
            assert_eq!((again.status, &again.text), (answer.status, &answer.text), "{path}");
        }
    }
    assert_eq!(ids(&world.get("/app").await.expect(200)).len(), 2);
    assert_eq!(ids(&world.get("/app/shop/endpoint").await.expect(200)).len(), 2);
    assert_eq!(ids(&world.get("/app/shop/msg").await.expect(200)).len(), 2);
    assert_eq!(ids(&world.get("/event-type").await.expect(200)), ["one"]);
}

#[tokio::test]
async fn a_key_counts_for_one_caller_and_one_path() {
    let world = World::new();
    let app = world.app("shop").await;
    world.app("other").await;
    let token = org_token(ORG);
    let body = json!({ "url": "https://a.test/" });
    let mut made = Vec::new();
    for (token, path, key) in [
        (&token, "/app/shop/endpoint", "k"),
        (&token, "/app/other/endpoint", "k"),
        (&token, "/app/shop/endpoint?x=1", "k"),
        (&token, "/app/shop/endpoint", "l"),
        (&app_token(&app, &[]), "/app/shop/endpoint", "k"),
    ] {
        made.push(post(&world, token, path, key, &body).await.expect(201)["id"].to_string());
    }
    made.sort();
    made.dedup();
    assert_eq!(made.len(), 5);
}

#[tokio::test]
async fn a_failure_frees_the_key() {
    let world = World::new();
    let token = org_token(ORG);
    let body = json!({ "name": "a", "uid": "u" });
    world.app("u").await;
    post(&world, &token, "/app", "k", &json!({ "name": "" })).await.invalid();
    post(&world, &token, "/app", "k", &body).await.refused(409, "conflict");
    world.delete("/app/u").await.expect(204);
    let made = post(&world, &token, "/app", "k", &body).await.expect(201);
    assert_eq!(post(&world, &token, "/app", "k", &body).await.expect(201), made);

    let message = json!({ "eventType": "a", "payload": {}, "eventId": "e" });
    post(&world, &token, "/app/none/msg", "m", &message).await.refused(404, "not_found");
    world.app("none").await;
    let sent = post(&world, &token, "/app/none/msg", "m", &message).await.expect(202);
    assert_eq!(post(&world, &token, "/app/none/msg", "m", &message).await.expect(202), sent);
}

#[tokio::test]
async fn a_key_is_forgotten_after_twelve_hours() {
    let world = World::new();
    world.app("shop").await;
    let token = org_token(ORG);
    let message = json!({ "eventType": "a", "payload": {} });
    for (path, body) in [("/app", json!({ "name": "a" })), ("/app/shop/msg", message)] {
        let first = post(&world, &token, path, "k", &body).await.json();
        world.clock.advance(std::time::Duration::from_secs(12 * 3_600 - 1));
        assert_eq!(post(&world, &token, path, "k", &body).await.json(), first, "{path}");
        world.clock.advance(std::time::Duration::from_secs(2));
        assert_ne!(post(&world, &token, path, "k", &body).await.json()["id"], first["id"], "{path}");
    }
}

#[tokio::test]
async fn fifty_requests_at_once_are_one() {
    let world = World::new();
    world.app("shop").await;
    let token = org_token(ORG);
    let body = json!({ "eventType": "a", "payload": { "n": 1 } });
    let requests = (0..50).map(|_| post(&world, &token, "/app/shop/msg", "k", &body));
    let answers = futures_util::future::join_all(requests).await;
    for answer in &answers {
        assert_eq!((answer.status, &answer.text), (answers[0].status, &answers[0].text));
    }
    answers[0].expect(202);
    assert_eq!(ids(&world.get("/app/shop/msg").await.expect(200)).len(), 1);
}

#[tokio::test]
async fn a_key_that_is_too_long_is_refused() {
    let world = World::new();
    let token = org_token(ORG);
    let body = json!({ "name": "a" });
    post(&world, &token, "/app", &"k".repeat(256), &body).await.expect(201);
    post(&world, &token, "/app", &"k".repeat(257), &body).await.refused(400, "generic_error");
}
