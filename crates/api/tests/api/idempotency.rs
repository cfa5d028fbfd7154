//! Idempotency keys (rest-contract §13).

use postrider_domain::clock::Clock as _;
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
async fn a_clock_that_is_a_year_ahead_forgets_no_key() {
    let world = World::new();
    world.app("shop").await;
    let token = org_token(ORG);
    let message = json!({ "eventType": "a", "payload": {} });
    let paths = [("/app", json!({ "name": "a" })), ("/app/shop/msg", message)];
    world.store.note_clock(world.clock.now(), world.clock.now()).await.unwrap();
    let mut first = Vec::new();
    for (path, body) in &paths {
        first.push(post(&world, &token, path, "k", body).await.json());
    }
    world.clock.advance(std::time::Duration::from_secs(365 * 86_400));
    for ((path, body), first) in paths.iter().zip(&first) {
        assert_eq!(&post(&world, &token, path, "k", body).await.json(), first, "{path}");
    }
    // It was right: it has shown that for long enough.
    world.store.note_clock(world.clock.now(), world.clock.now()).await.unwrap();
    for ((path, body), first) in paths.iter().zip(&first) {
        assert_ne!(post(&world, &token, path, "k", body).await.json()["id"], first["id"], "{path}");
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

#[tokio::test]
async fn an_answer_is_there_again_when_its_endpoint_has_its_uid_back() {
    let world = World::new();
    let token = org_token(ORG);
    world.app("shop").await;
    let (one, two) = (world.endpoint("shop", "e").await, world.endpoint("shop", "f").await);
    let name = async |endpoint: &str, uid: &str| {
        world.send("PATCH", &format!("/app/shop/endpoint/{endpoint}"), json!({ "uid": uid })).await.expect(200);
    };
    let secret =
        async |endpoint: &str| world.get(&format!("/app/shop/endpoint/{endpoint}/secret")).await.json()["key"].clone();
    let rotate = async || post(&world, &token, "/app/shop/endpoint/e/secret/rotate", "k", &json!({})).await.expect(204);
    rotate().await;
    let of_one = secret(&one).await;
    name(&one, "x").await;
    name(&two, "e").await;
    let before = secret(&two).await;
    rotate().await;
    let of_two = secret(&two).await;
    assert_ne!(of_two, before, "another endpoint, for which the key is a new one");
    rotate().await;
    name(&two, "f").await;
    name(&one, "e").await;
    rotate().await;
    assert_eq!([secret(&one).await, secret(&two).await], [of_one, of_two], "each was rotated once");
}

#[tokio::test]
async fn a_key_belongs_to_what_the_path_names_and_not_to_its_uid() {
    let world = World::new();
    let token = org_token(ORG);
    world.post("/event-type", json!({ "name": "a", "description": "" })).await.expect(201);
    let mut answers: Vec<Vec<String>> = Vec::new();
    // The application is the former one's successor, then the endpoint is; and so is whatever is theirs.
    for successor in ["none", "application", "endpoint"] {
        if successor != "endpoint" {
            world.app("shop").await;
        }
        world.endpoint("shop", "e").await;
        let message = json!({ "eventType": "a", "payload": {}, "eventId": "m" });
        let sent = world.post("/app/shop/msg", message).await;
        assert!(matches!(sent.status.as_u16(), 202 | 409), "{}", sent.text);
        let span = json!({ "since": "2026-01-01T00:00:00Z" });
        let paths = [
            ("/app/shop/endpoint", json!({ "url": "https://1.test/" }), 201, false),
            ("/app/shop/msg", json!({ "eventType": "a", "payload": {} }), 202, false),
            ("/app/shop/msg/expunge-all-contents", json!({}), 202, false),
            ("/app/shop/endpoint/e/send-example", json!({ "eventType": "postrider.ping" }), 200, true),
            ("/app/shop/endpoint/e/replay-missing", span, 202, true),
        ];
        let mut made = Vec::new();
        for (path, body, status, is_at_endpoint) in &paths {
            let first = post(&world, &token, path, "k", body).await;
            first.expect(*status);
            let again = post(&world, &token, path, "k", body).await;
            assert_eq!((again.status, &again.text), (first.status, &first.text), "{path}");
            let is_known = answers.iter().flatten().any(|known| *known == first.text);
            assert_eq!(is_known, successor == "endpoint" && !is_at_endpoint, "{path}, {successor}: {}", first.text);
            made.push(first.text.clone());
        }
        let rotate = "/app/shop/endpoint/e/secret/rotate";
        let secret = async || world.get("/app/shop/endpoint/e/secret").await.json()["key"].clone();
        let before = secret().await;
        post(&world, &token, rotate, "k", &json!({})).await.expect(204);
        let after = secret().await;
        assert_ne!(before, after, "rotated, {successor}");
        post(&world, &token, rotate, "k", &json!({})).await.expect(204);
        assert_eq!(secret().await, after);
        answers.push(made);
        world.clock.advance(std::time::Duration::from_secs(1));
        match successor {
            "none" => world.delete("/app/shop").await.expect(204),
            _ => world.delete("/app/shop/endpoint/e").await.expect(204),
        };
    }
}

#[tokio::test]
async fn ended_tokens_of_a_former_application_end_none_of_its_successors() {
    let world = World::new();
    let token = org_token(ORG);
    for _ in 0..2 {
        let app = world.app("shop").await;
        let customer = app_token(&app, &[]);
        let look = async || {
            let extras = Extras { token: Some(&customer), ..Extras::default() };
            world.raw("GET", "/api/v1/app/shop/endpoint", extras).await.status.as_u16()
        };
        assert_eq!(look().await, 200);
        world.clock.advance(std::time::Duration::from_secs(1));
        post(&world, &token, "/auth/app/shop/expire-all", "k", &json!({})).await.expect(204);
        assert_eq!(look().await, 401);
        world.delete("/app/shop").await.expect(204);
    }
}

#[tokio::test]
async fn answers_of_an_applications_keys_have_a_bound_of_their_own_and_say_when_there_is_room() {
    let world = World::new();
    let (one, two) = (world.app("one").await, world.app("two").await);
    world.endpoint("one", "e").await;
    // An answer of half a megabyte.
    let types: Vec<String> = (0..1_000).map(|number| format!("t{number:0>250}")).collect();
    for name in &types {
        world.post("/event-type", json!({ "name": name, "description": "" })).await.expect(201);
    }
    let body = json!({ "url": "https://1.test/", "filterTypes": types });
    let token = app_token(&one, &[]);
    let mut refused = None;
    for number in 0..100 {
        let answer = post(&world, &token, "/app/one/endpoint", &format!("k{number}"), &body).await;
        if answer.status.as_u16() == 429 {
            refused = Some((number, answer));
            break;
        }
        let id = answer.expect(201)["id"].as_str().unwrap().to_owned();
        world.delete(&format!("/app/one/endpoint/{id}")).await.expect(204);
    }
    let (number, refused) = refused.expect("there is a bound");
    assert!((25..=40).contains(&number), "{number}");
    assert!(refused.text.contains("too_many_keys") && refused.text.contains("Without a key"), "{}", refused.text);
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((11 * 3_600..=13 * 3_600 + 1).contains(&wait), "{wait}");
    // What was promised is kept, and nobody else is refused: not the operator, nor another application.
    post(&world, &token, "/app/one/endpoint", "k0", &body).await.expect(201);
    let small = json!({ "url": "https://1.test/" });
    post(&world, &org_token(ORG), "/app/one/endpoint", "other", &small).await.expect(201);
    post(&world, &app_token(&two, &[]), "/app/two/endpoint", "other", &small).await.expect(201);
    // Without a key it is carried out, and with one after the time that was said.
    let extras = Extras { token: Some(&token), headers: &[], body: small.to_string().into() };
    world.raw("POST", "/api/v1/app/one/endpoint", extras).await.expect(201);
    world.clock.advance(std::time::Duration::from_secs(wait));
    post(&world, &app_token(&one, &[]), "/app/one/endpoint", "later", &body).await.expect(201);
}
