//! Rules of an environment: payloads that must match the schemas of their event types, and event types that must be known.

use postrider_domain::application::EnvironmentId;
use postrider_domain::event_type::EventTypePatch;
use postrider_domain::time::Timestamp;
use serde_json::{Value, json};

use crate::world::{Answer, Extras, ORG, World, id, org_token};

fn schema(kind: &str) -> Value {
    json!({ "type": "object", "required": ["id"], "properties": { "id": { "type": kind }, "tags": { "items": { "type": "string" } } } })
}

async fn world(enforcement: &str) -> World {
    let world = World::new();
    world.app("shop").await;
    world.send("PATCH", "/environment/settings", json!({ "schemaEnforcement": enforcement })).await.expect(200);
    let schemas = json!({ "1": schema("boolean"), "9": schema("boolean"), "10": schema("string") });
    world.post("/event-type", json!({ "name": "a", "description": "", "schemas": schemas })).await.expect(201);
    world
}

async fn send(world: &World, event_type: &str, payload: Value) -> Answer {
    world.post("/app/shop/msg", json!({ "eventType": event_type, "payload": payload })).await
}

async fn stored(world: &World) -> usize {
    world.get("/app/shop/msg").await.expect(200)["data"].as_array().unwrap().len()
}

#[tokio::test]
async fn nobody_looks_unless_asked_to() {
    let world = world("off").await;
    let sent = send(&world, "a", json!({ "id": 5 })).await.expect(202);
    assert!(sent.get("warnings").is_none(), "{sent}");
}

#[tokio::test]
async fn a_payload_that_does_not_match_the_newest_schema_is_refused() {
    let world = world("reject").await;
    send(&world, "a", json!({ "id": "x", "tags": [] })).await.expect(202);
    let refused = send(&world, "a", json!({ "tags": ["x", 5] })).await;
    let mut places = refused.invalid();
    places.sort();
    assert_eq!(places, ["body.payload", "body.payload.tags.[1]"]);
    let detail = refused.json()["detail"].clone();
    assert!(detail.as_array().unwrap().iter().all(|problem| problem["type"] == "schema_violation"), "{detail}");
    assert_eq!(stored(&world).await, 1, "nothing is stored of it");

    // What has no schema passes, and so does what is not registered.
    world.post("/event-type", json!({ "name": "free", "description": "" })).await.expect(201);
    for event_type in ["free", "unknown"] {
        send(&world, event_type, json!({ "id": 5 })).await.expect(202);
    }
    world.delete("/event-type/a").await.expect(204);
    send(&world, "a", json!({ "id": 5 })).await.expect(202);
}

#[tokio::test]
async fn a_warning_is_told_and_the_message_accepted() {
    let world = world("warn").await;
    let sent = send(&world, "a", json!({ "id": 5 })).await.expect(202);
    let warnings = sent["warnings"].as_array().unwrap();
    assert_eq!((warnings.len(), &warnings[0]["loc"]), (1, &json!(["body", "payload", "id"])));
    assert_eq!((&warnings[0]["type"], sent["payload"]["id"].as_i64()), (&json!("schema_violation"), Some(5)));
    let read = world.get(&format!("/app/shop/msg/{}", id(&sent))).await.expect(200);
    assert!(read.get("warnings").is_none());
    let sent = send(&world, "a", json!({ "id": "x" })).await.expect(202);
    assert!(sent.get("warnings").is_none());
}

#[tokio::test]
async fn a_change_counts_for_every_application_whatever_became_of_the_application() {
    let world = world("reject").await;
    world.app("busy").await;
    // The version of this application is ahead of the other's by what the schema's change will add to both.
    world.send("PATCH", "/app/busy", json!({ "name": "Busy" })).await.expect(200);
    let busy = json!({ "eventType": "a", "payload": { "id": "x" } });
    world.post("/app/busy/msg", busy).await.expect(202);
    let schemas = json!({ "10": schema("integer") });
    world.send("PATCH", "/event-type/a", json!({ "schemas": schemas })).await.expect(200);
    assert_eq!(send(&world, "a", json!({ "id": "x" })).await.invalid(), ["body.payload.id"]);
    send(&world, "a", json!({ "id": 5 })).await.expect(202);
}

#[tokio::test]
async fn every_change_counts_from_its_answer_on() {
    let world = world("reject").await;
    let (bad, good) = (json!({ "id": 5 }), json!({ "id": "x" }));
    let expect = async |good_status: u16, bad_status: u16| {
        send(&world, "a", good.clone()).await.expect(good_status);
        send(&world, "a", bad.clone()).await.expect(bad_status);
    };
    let set = async |body: Value| drop(world.send("PATCH", "/environment/settings", body).await.expect(200));
    let change = async |body: Value| drop(world.send("PATCH", "/event-type/a", body).await.expect(200));
    for _ in 0..3 {
        expect(202, 422).await;
        change(json!({ "schemas": { "11": schema("integer") } })).await;
        expect(422, 202).await;
        change(json!({ "schemas": null })).await;
        expect(202, 202).await;
        change(json!({ "schemas": { "1": schema("string") } })).await;
        expect(202, 422).await;
        set(json!({ "schemaEnforcement": "off" })).await;
        expect(202, 202).await;
        set(json!({ "schemaEnforcement": "reject" })).await;
        expect(202, 422).await;
        world.delete("/event-type/a").await.expect(204);
        expect(202, 202).await;
        let body = json!({ "name": "a", "description": "", "schemas": { "1": schema("integer") } });
        world.post("/event-type", body).await.expect(201);
        expect(422, 202).await;
        let body = json!({ "description": "", "schemas": { "1": schema("string") } });
        world.send("PUT", "/event-type/a", body).await.expect(200);
    }
}

#[tokio::test]
async fn racing_a_change_of_the_schema_no_message_gets_in_by_the_old_one() {
    let world = std::sync::Arc::new(world("reject").await);
    for round in 0..20 {
        let kind = if round % 2 == 0 { "integer" } else { "string" };
        let payload = if round % 2 == 0 { json!({ "id": "x" }) } else { json!({ "id": 5 }) };
        let body = json!({ "schemas": { "1": schema(kind) } });
        let changing = world.send("PATCH", "/event-type/a", body);
        let sending = futures_util::future::join_all((0..8).map(|_| send(&world, "a", payload.clone())));
        let (changed, _) = tokio::join!(changing, sending);
        changed.expect(200);
        send(&world, "a", payload).await.expect(422);
    }
}

#[tokio::test]
async fn event_types_can_be_required_to_be_known() {
    let world = world("off").await;
    world.send("PATCH", "/environment/settings", json!({ "unknownEventTypes": "reject" })).await.expect(200);
    send(&world, "a", json!({ "id": 5 })).await.expect(202);
    let refused = send(&world, "typo", json!({})).await;
    assert_eq!(refused.invalid(), ["body.eventType"]);
    assert_eq!(refused.json()["detail"][0]["type"], "unknown_event_type");
    world.post("/event-type", json!({ "name": "typo", "description": "" })).await.expect(201);
    send(&world, "typo", json!({})).await.expect(202);
    world.delete("/event-type/typo").await.expect(204);
    send(&world, "typo", json!({})).await.expect(422);
}

#[tokio::test]
async fn one_environment_is_not_judged_by_anothers_rules() {
    let world = world("reject").await;
    let there = org_token("org_there");
    let app = json!({ "name": "shop", "uid": "shop" });
    world.send_as(&there, "POST", "/app", Some(&app)).await.expect(201);
    let message = json!({ "eventType": "a", "payload": { "id": 5 } });
    world.send_as(&there, "POST", "/app/shop/msg", Some(&message)).await.expect(202);
    send(&world, "a", json!({ "id": 5 })).await.expect(422);
}

#[tokio::test]
async fn in_a_batch_each_item_is_judged_by_itself() {
    for (mode, status) in [("reject", 422), ("warn", 202)] {
        let world = world(mode).await;
        let item = |payload: Value| json!({ "eventType": "a", "payload": payload });
        let items = [item(json!({ "id": "x" })), item(json!({ "id": 5 })), item(json!({ "id": "y" }))];
        let body = world.post("/app/shop/msg/batch", json!(items)).await.expect(202);
        let results = body["data"].as_array().unwrap();
        let statuses: Vec<_> = results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
        assert_eq!(statuses, [202, status, 202]);
        let told = &results[1][if mode == "warn" { "warnings" } else { "detail" }][0];
        assert_eq!(told["loc"], json!(["body", "[1]", "payload", "id"]), "{told}");
        assert!(results[0].get("warnings").is_none());
    }
}

#[tokio::test]
async fn what_was_accepted_under_a_key_stays_accepted_when_rules_become_stricter() {
    let world = world("off").await;
    let token = org_token(ORG);
    let message = json!({ "eventType": "a", "payload": { "id": 5 } });
    let post = async |path: &str, body: &Value| {
        let extras =
            Extras { token: Some(&token), headers: &[("idempotency-key", "k")], body: body.to_string().into() };
        world.raw("POST", &format!("/api/v1/app/shop{path}"), extras).await.expect(202)
    };
    let (single, batch) = (post("/msg", &message).await, post("/msg/batch", &json!([message])).await);
    world.send("PATCH", "/environment/settings", json!({ "schemaEnforcement": "reject" })).await.expect(200);
    assert_eq!(post("/msg", &message).await, single);
    assert_eq!(post("/msg/batch", &json!([message])).await, batch);
    assert_eq!(stored(&world).await, 2);
}

#[tokio::test]
async fn a_raw_payload_is_judged_as_it_is_delivered() {
    let world = world("reject").await;
    let raw = |text: &str| json!({ "eventType": "a", "payload": {}, "transformationsParams": { "rawPayload": text } });
    world.post("/app/shop/msg", raw(r#"{"id": "x"}"#)).await.expect(202);
    for text in ["<xml/>", "[]"] {
        assert_eq!(world.post("/app/shop/msg", raw(text)).await.invalid(), ["body.payload"], "{text}");
    }
}

/// Schemas of the right form that nothing can be compared with, and what of them is at fault.
fn unusable() -> [(Value, &'static str); 6] {
    [
        (json!({ "properties": { "id": { "pattern": "^(?!x)" } } }), "properties.id.pattern"),
        (json!({ "items": { "pattern": "(a)\\1" } }), "items.pattern"),
        (json!({ "pattern": "a{100000}" }), "pattern"),
        (json!({ "properties": { "id": { "$ref": "http://127.0.0.1:1/secret" } } }), "properties.id.$ref"),
        (json!({ "$ref": "file:///etc/passwd" }), "$ref"),
        (json!({ "not": { "$ref": "#/definitions/gone" } }), "not.$ref"),
    ]
}

#[tokio::test]
async fn a_schema_that_nothing_can_be_compared_with_is_refused_wherever_it_comes_in() {
    let world = world("reject").await;
    for (schema, fault) in unusable() {
        let schemas = json!({ "1": schema });
        let event_type = json!({ "name": "new", "description": "", "schemas": schemas });
        let webhook = json!({ "post": { "requestBody": { "content": { "application/json": { "schema": {
            "type": "object", "properties": { "id": { "pattern": "^(?!x)" } } } } } } } });
        let document = json!({ "openapi": "3.1.0", "webhooks": { "new": webhook } });
        for (method, path, body) in [
            ("POST", "/event-type", event_type.clone()),
            ("PUT", "/event-type/a", json!({ "description": "", "schemas": schemas })),
            ("PATCH", "/event-type/a", json!({ "schemas": schemas })),
            ("POST", "/environment/import", json!({ "eventTypes": [event_type] })),
            ("POST", "/event-type/import/openapi", json!({ "spec": document })),
        ] {
            let refused = world.send(method, path, body).await;
            let places = refused.invalid();
            let said = refused.json()["detail"][0]["msg"].as_str().unwrap().to_owned();
            let fault = if path.ends_with("openapi") { "properties.id.pattern" } else { fault };
            assert!(said.starts_with(fault), "{method} {path}: {said}");
            assert!(places[0].contains("1") || path.ends_with("openapi"), "{method} {path}: {places:?}");
        }
    }
    // What was there is as it was.
    send(&world, "a", json!({ "id": "x" })).await.expect(202);
}

#[tokio::test]
async fn a_message_is_told_what_of_a_schema_that_was_stored_before_is_at_fault() {
    for (mode, status) in [("reject", 422), ("warn", 202)] {
        let world = world(mode).await;
        for (schema, fault) in unusable() {
            let schemas = Some([("11".to_owned(), serde_json::value::to_raw_value(&schema).unwrap())].into());
            let patch = EventTypePatch { schemas: Some(schemas), ..EventTypePatch::default() };
            let environment = EnvironmentId::parse(ORG).unwrap();
            world.store.update_event_type(&environment, "a", patch, Timestamp::from_micros(1)).await.unwrap();
            let answer = send(&world, "a", json!({ "id": "x" })).await.expect(status);
            let told = &answer[if mode == "warn" { "warnings" } else { "detail" }][0];
            assert_eq!((&told["loc"], &told["type"]), (&json!(["body", "eventType"]), &json!("schema_unusable")));
            let said = told["msg"].as_str().unwrap();
            assert!(said.contains("version \"11\"") && said.contains(fault), "{said}");
        }
    }
}

#[tokio::test]
async fn a_large_payload_is_judged_too() {
    let world = world("reject").await;
    let large = "x".repeat(1024 * 1024);
    send(&world, "a", json!({ "id": large })).await.expect(202);
    send(&world, "a", json!({ "id": [large] })).await.expect(422);
}
