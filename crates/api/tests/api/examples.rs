//! Examples sent to one endpoint, and asking beforehand whether a message is wanted.

use serde_json::json;

use crate::world::{World, id};

#[tokio::test]
async fn an_example_goes_to_its_endpoint_only() {
    let world = World::new();
    world.app("shop").await;
    world.endpoint("shop", "one").await;
    world.endpoint("shop", "two").await;
    let schema = json!({ "1": { "type": "object", "examples": [{ "b": 1, "a": 2 }] } });
    let event_type = json!({ "name": "a.b", "description": "", "schemas": schema });
    world.post("/event-type", event_type).await.expect(201);
    for (event_type, payload) in [("a.b", json!({ "b": 1, "a": 2 })), ("svix.ping", json!({ "success": true }))] {
        let before = world.pending("shop", "one").await;
        let path = "/app/shop/endpoint/one/send-example";
        let answer = world.post(path, json!({ "eventType": event_type })).await.expect(200);
        assert_eq!((&answer["payload"], &answer["eventType"]), (&json!({}), &json!(event_type)));
        assert_eq!(world.pending("shop", "one").await, before + 1);
        let stored = world.get(&format!("/app/shop/msg/{}", id(&answer))).await.expect(200);
        assert_eq!(stored["payload"], payload);
    }
    assert_eq!(world.pending("shop", "two").await, 0);
}

#[tokio::test]
async fn an_example_needs_something_to_show() {
    let world = World::new();
    world.app("shop").await;
    world.endpoint("shop", "one").await;
    let path = "/app/shop/endpoint/one/send-example";
    world.post(path, json!({ "eventType": "nowhere" })).await.refused(404, "not_found");
    for (name, schemas) in [
        ("none", json!(null)),
        ("without", json!({ "1": { "type": "object" } })),
        ("empty", json!({ "1": { "examples": [] } })),
        ("no.object", json!({ "1": { "examples": ["text"] } })),
    ] {
        let event_type = json!({ "name": name, "description": "", "schemas": schemas });
        world.post("/event-type", event_type).await.expect(201);
        world.post(path, json!({ "eventType": name })).await.refused(400, "invalid_scheme");
    }
    assert_eq!(world.post(path, json!({ "eventType": "a b" })).await.invalid(), ["body.eventType"]);
}

#[tokio::test]
async fn the_example_is_that_of_the_newest_version_that_has_one() {
    let world = World::new();
    world.app("shop").await;
    world.endpoint("shop", "one").await;
    let version = |number: u64| json!({ "examples": [{ "version": number }] });
    for (name, schemas, want) in [
        ("two", json!({ "1": version(1), "2": version(2) }), 2),
        ("ten", json!({ "9": version(9), "10": version(10) }), 10),
        ("other", json!({ "2": version(2) }), 2),
        ("older", json!({ "1": version(1), "2": { "type": "object" } }), 1),
    ] {
        let event_type = json!({ "name": name, "description": "", "schemas": schemas });
        world.post("/event-type", event_type).await.expect(201);
        let sent = world.post("/app/shop/endpoint/one/send-example", json!({ "eventType": name })).await.expect(200);
        let stored = world.get(&format!("/app/shop/msg/{}", id(&sent))).await.expect(200);
        assert_eq!(stored["payload"], json!({ "version": want }), "{name}");
    }
}

#[tokio::test]
async fn an_endpoint_that_wants_no_example_is_sent_none_and_the_answer_says_so() {
    let world = World::new();
    world.app("shop").await;
    world.endpoint("shop", "one").await;
    let wants = |patch| world.send("PATCH", "/app/shop/endpoint/one", patch);
    let ping = json!({ "eventType": "svix.ping" });
    let cases = [
        (json!({ "disabled": true }), "0", Some("disabled")),
        (json!({ "disabled": false, "channels": ["x"] }), "0", Some("does not ask")),
        (json!({ "channels": null }), "1", None),
    ];
    for (patch, count, why) in cases {
        wants(patch).await.expect(200);
        let answer = world.post("/app/shop/endpoint/one/send-example", ping.clone()).await;
        let shown = answer.expect(200);
        assert_eq!(answer.headers["postrider-matched-endpoints"], count);
        match why {
            Some(why) => {
                let said = shown["warnings"][0]["msg"].as_str().unwrap();
                assert!(said.contains("Nothing is sent") && said.contains(why), "{said}");
            }
            None => assert!(shown.get("warnings").is_none(), "{shown}"),
        }
    }
    assert_eq!(world.pending("shop", "one").await, 1);
}

#[tokio::test]
async fn a_precheck_says_whether_anybody_is_listening() {
    let world = World::new();
    world.app("shop").await;
    let active = async |body: serde_json::Value| {
        world.post("/app/shop/msg/precheck/active", body).await.expect(200)["active"].as_bool().unwrap()
    };
    assert!(!active(json!({ "eventType": "a.b" })).await);
    let endpoint = json!({ "url": "https://example.com/", "uid": "ep", "channels": ["x"] });
    world.post("/app/shop/endpoint", endpoint).await.expect(201);
    assert!(!active(json!({ "eventType": "a.b" })).await);
    assert!(active(json!({ "eventType": "a.b", "channels": ["y", "x"] })).await);
    world.send("PATCH", "/app/shop/endpoint/ep", json!({ "disabled": true })).await.expect(200);
    assert!(!active(json!({ "eventType": "a.b", "channels": ["x"] })).await);
    world.post("/app/nowhere/msg/precheck/active", json!({ "eventType": "a.b" })).await.refused(404, "not_found");
}
