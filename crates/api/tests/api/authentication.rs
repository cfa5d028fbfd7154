//! Tokens of applications: what they allow, and how they end.

use std::time::Duration;

use serde_json::{Value, json};

use crate::world::{Extras, ORG, World, app_token, org_token};

/// Makes a token for an application.
async fn token(world: &World, app: &str, body: Value) -> String {
    let access = world.post(&format!("/auth/app-portal-access/{app}"), body).await.expect(200);
    access["token"].as_str().unwrap().to_owned()
}

async fn status(world: &World, token: &str, method: &str, path: &str) -> u16 {
    let body = json!({ "url": "https://example.com/", "eventType": "svix.ping" });
    let body = (method != "GET").then_some(&body);
    world.send_as(token, method, path, body).await.status.as_u16()
}

#[tokio::test]
async fn a_portal_token_is_a_token_of_its_application_and_no_other() {
    let world = World::new();
    let (app, other) = (world.app("shop").await, world.app("other").await);
    let access = world.post("/auth/app-portal-access/shop", json!({ "featureFlags": ["beta"] })).await.expect(200);
    assert!(access["url"].as_str().unwrap().starts_with("https://hooks.example.com/"), "{access}");
    let token = access["token"].as_str().unwrap();
    assert_eq!(status(&world, token, "GET", "/app/shop").await, 200);
    assert_eq!(status(&world, token, "GET", &format!("/app/{other}")).await, 404);
    assert_eq!(status(&world, token, "GET", "/app").await, 403);
    let who = world.send_as(token, "GET", "/auth/whoami", None).await.expect(200);
    assert_eq!(who, json!({ "environmentId": ORG, "applicationId": app, "featureFlags": ["beta"] }));
    let me = world.get("/auth/whoami").await.expect(200);
    assert_eq!(me, json!({ "environmentId": ORG }));
}

#[tokio::test]
async fn a_portal_token_makes_its_application_if_it_is_brought_along() {
    let world = World::new();
    world.post("/auth/app-portal-access/new", json!({})).await.refused(404, "not_found");
    let application = |uid: &str| json!({ "application": { "name": "New", "uid": uid } });
    let wrong = world.post("/auth/app-portal-access/new", application("else")).await;
    assert_eq!(wrong.invalid(), ["body.application.uid"]);
    world.post("/auth/app-portal-access/new", application("new")).await.expect(200);
    world.get("/app/new").await.expect(200);
    // The older form takes any body, or none.
    for body in ["", "null", "nonsense"] {
        let token = org_token(ORG);
        let extras = Extras { token: Some(&token), body: body.into(), ..Extras::default() };
        world.raw("POST", "/api/v1/auth/dashboard-access/new/", extras).await.expect(200);
    }
}

#[tokio::test]
async fn a_portal_token_makes_its_application_again_after_a_deletion_or_another_uid() {
    let world = World::new();
    let message = json!({ "eventType": "a", "payload": {} });
    let application = json!({ "application": { "name": "Shop", "uid": "shop" } });
    world.app("shop").await;
    world.post("/app/shop/msg", message.clone()).await.expect(202);
    world.delete("/app/shop").await.expect(204);
    world.post("/auth/app-portal-access/shop", application.clone()).await.expect(200);
    world.post("/app/shop/msg", message).await.expect(202);
    world.send("PATCH", "/app/shop", json!({ "uid": "other" })).await.expect(200);
    world.post("/auth/app-portal-access/shop", application).await.expect(200);
    world.get("/app/shop").await.expect(200);
}

#[tokio::test]
async fn a_restricted_token_may_do_what_its_capabilities_say() {
    let world = World::new();
    let app = world.app("shop").await;
    world.endpoint("shop", "ep").await;
    let message = world.message("shop", "a.b").await;
    world.attempt("shop", "ep", &message, 200, b"").await;
    let resend = format!("/app/{app}/msg/{message}/endpoint/ep/resend");
    let requests = [
        ("GET", "/app/shop/endpoint/ep", 200),
        ("GET", "/app/shop/endpoint/ep/secret", 200),
        ("POST", "/app/shop/endpoint/ep/secret/rotate", 204),
        ("POST", resend.as_str(), 202),
        ("PATCH", "/app/shop/endpoint/ep", 200),
        ("PUT", "/app/shop/endpoint/ep/headers", 422),
    ];
    for (body, allowed) in [
        (json!({}), [true; 6]),
        (json!({ "readOnly": true }), [true, false, false, false, false, false]),
        (json!({ "capabilities": ["ViewBase"] }), [true, false, false, false, false, false]),
        (json!({ "capabilities": ["ViewBase", "ViewEndpointSecret"] }), [true, true, false, false, false, false]),
        (json!({ "capabilities": ["ManageEndpointSecret"] }), [true, true, true, false, false, false]),
        (json!({ "capabilities": ["CreateAttempts"] }), [true, false, false, true, false, false]),
        (json!({ "capabilities": ["ManageEndpoint"] }), [true, true, true, false, true, true]),
        (json!({ "capabilities": ["ManageEndpoint"], "readOnly": true }), [true, false, false, false, false, false]),
    ] {
        let token = token(&world, "shop", body.clone()).await;
        for ((method, path, good), allowed) in requests.iter().zip(allowed) {
            let want = if allowed { *good } else { 403 };
            assert_eq!(status(&world, &token, method, path).await, want, "{method} {path} with {body}");
        }
    }
    let token = token(&world, "shop", json!({ "readOnly": true })).await;
    for (method, path, lacking) in [
        ("GET", "/app/shop/endpoint/ep/secret", "'ViewEndpointSecret'"),
        ("POST", resend.as_str(), "'CreateAttempts'"),
        ("PATCH", "/app/shop/endpoint/ep", "'ManageEndpoint'"),
    ] {
        let refused = world.send_as(&token, method, path, Some(&json!({}))).await;
        refused.refused(403, "insufficient access");
        assert!(refused.text.contains(lacking), "{}", refused.text);
    }
}

#[tokio::test]
async fn a_token_ends_when_it_said_it_would() {
    let world = World::new();
    world.app("shop").await;
    for (lifetime, wait) in [(json!(3_600), 3_600), (Value::Null, 28 * 86_400)] {
        let token = token(&world, "shop", json!({ "expiry": lifetime })).await;
        world.clock.advance(Duration::from_secs(wait + 15 * 60 - 1));
        assert_eq!(status(&world, &token, "GET", "/app/shop").await, 200);
        // Its dates have fractions of a second, which the clock's leeway leaves aside.
        world.clock.advance(Duration::from_secs(2));
        assert_eq!(status(&world, &token, "GET", "/app/shop").await, 401);
    }
    for expiry in [0, 3_599, 28 * 86_400 + 1] {
        let refused = world.post("/auth/app-portal-access/shop", json!({ "expiry": expiry })).await;
        assert_eq!(refused.invalid(), ["body.expiry"], "{expiry}");
    }
}

#[tokio::test]
async fn all_tokens_of_an_application_can_be_ended() {
    let world = World::new();
    world.app("shop").await;
    world.app("other").await;
    let old = token(&world, "shop", json!({})).await;
    let of_session = token(&world, "shop", json!({ "sessionId": "s1" })).await;
    let of_other = token(&world, "other", json!({})).await;
    let works = async |token: &str, app: &str| status(&world, token, "GET", &format!("/app/{app}")).await == 200;
    let expire = async |body: Value| world.post("/auth/app/shop/expire-all", body).await.expect(204);

    expire(json!({ "sessionIds": ["s1", "s2"] })).await;
    assert!(works(&old, "shop").await && !works(&of_session, "shop").await);
    expire(json!({ "expiry": 60 })).await;
    let new = token(&world, "shop", json!({})).await;
    assert!(works(&old, "shop").await, "it has a minute left");
    world.clock.advance(Duration::from_secs(60));
    assert!(!works(&old, "shop").await);
    assert!(works(&new, "shop").await && works(&of_other, "other").await);
    assert_eq!(status(&world, &old, "GET", "/event-type").await, 401);
    world.post("/auth/app/nowhere/expire-all", json!({})).await.refused(404, "not_found");
}

#[tokio::test]
async fn the_tokens_of_an_application_end_with_it() {
    let world = World::new();
    let app = world.app("shop").await;
    world.app("other").await;
    world.post("/event-type", json!({ "name": "a", "description": "" })).await.expect(201);
    let tokens = [token(&world, "shop", json!({ "sessionId": "s" })).await, app_token(&app, &[])];
    let of_other = token(&world, "other", json!({})).await;
    let requests = [
        ("GET", "/event-type", 200),
        ("GET", "/event-type/a", 200),
        ("GET", "/auth/whoami", 200),
        ("GET", "/app/shop", 200),
        ("POST", "/app/shop/endpoint", 201),
    ];
    for token in &tokens {
        for (method, path, good) in requests {
            assert_eq!(status(&world, token, method, path).await, good, "{method} {path}");
        }
    }
    world.delete("/app/shop").await.expect(204);
    // Another one of that name is not the one that they were made for.
    for named_anew in [false, true] {
        for token in &tokens {
            for (method, path, _) in requests.into_iter().chain([("GET", "/app", 403)]) {
                assert_eq!(status(&world, token, method, path).await, 401, "{method} {path}, {named_anew}");
            }
        }
        if !named_anew {
            world.app("shop").await;
        }
    }
    let new = token(&world, "shop", json!({})).await;
    assert_eq!(status(&world, &new, "GET", "/app/shop").await, 200);
    assert_eq!(status(&world, &of_other, "GET", "/event-type").await, 200);
}

#[tokio::test]
async fn without_a_configured_secret_tokens_of_applications_are_signed_with_one_of_the_store() {
    let world = World::without_jwt_secret();
    let key = world.operator_key().await;
    let body = json!({ "name": "shop", "uid": "shop" });
    world.send_as(&key, "POST", "/app", Some(&body)).await.expect(201);
    let access = world.send_as(&key, "POST", "/auth/app-portal-access/shop", Some(&json!({}))).await.expect(200);
    let token = access["token"].as_str().unwrap();
    assert_eq!(status(&world, token, "GET", "/app/shop").await, 200);
    world.send_as(&org_token(ORG), "GET", "/app", None).await.refused(401, "authentication_failed");
}

#[tokio::test]
async fn logout_says_what_to_do_instead() {
    let world = World::new();
    let answer = world.post("/auth/logout", json!({})).await;
    answer.refused(501, "not_implemented");
    assert!(answer.text.contains("expire-all"), "{}", answer.text);
}
