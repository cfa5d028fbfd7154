//! Event types (rest-contract §6).

use serde_json::{Value, json};

use crate::world::{World, app_token, ids};

#[tokio::test]
async fn an_event_type_is_shown_as_it_was_made() {
    let world = World::new();
    let schemas = json!({ "1": { "type": "object", "title": "Ä" } });
    let body = json!({
        "name": "user.created", "description": "A user.", "schemas": schemas, "featureFlags": ["beta"],
        "groupName": "user", "deprecated": true,
    });
    let made = world.post("/event-type", body).await.expect(201);
    assert_eq!(
        made,
        json!({
            "name": "user.created", "description": "A user.", "archived": false, "deprecated": true,
            "schemas": schemas, "featureFlag": "beta", "featureFlags": ["beta"], "groupName": "user",
            "createdAt": made["createdAt"], "updatedAt": made["createdAt"],
        })
    );
    assert_eq!(world.get("/event-type/user.created").await.expect(200), made);
    let list = world.get("/event-type").await.expect(200);
    assert!(list["data"][0]["schemas"].is_null(), "schemas are left out unless asked for");
    let list = world.get("/event-type?with_content=true").await.expect(200);
    assert_eq!(list["data"], json!([made]));
    world.get("/event-type/none").await.refused(404, "not_found");
}

#[tokio::test]
async fn a_name_in_use_is_refused_unless_it_is_archived() {
    let world = World::new();
    let made = world.post("/event-type", json!({ "name": "a", "description": "1" })).await.expect(201);
    world.post("/event-type", json!({ "name": "a", "description": "2" })).await.refused(409, "event_type_exists");
    world.delete("/event-type/a").await.expect(204);
    world.delete("/event-type/a").await.expect(204);
    assert_eq!(world.get("/event-type/a").await.expect(200)["archived"], true);
    assert_eq!(ids(&world.get("/event-type").await.expect(200)), Vec::<String>::new());
    assert_eq!(ids(&world.get("/event-type?include_archived=true").await.expect(200)), ["a"]);
    let revived = world.post("/event-type", json!({ "name": "a", "description": "2" })).await.expect(201);
    assert_eq!((&revived["description"], &revived["archived"]), (&json!("2"), &json!(false)));
    assert_eq!(revived["createdAt"], made["createdAt"]);
    world.delete("/event-type/a?expunge=true").await.expect(204);
    world.get("/event-type/a").await.refused(404, "not_found");
    world.delete("/event-type/a").await.refused(404, "not_found");
}

#[tokio::test]
async fn a_put_replaces_everything_or_makes_a_new_one() {
    let world = World::new();
    let body = json!({ "name": 5, "description": "1", "schemas": { "1": true }, "archived": true });
    let made = world.send("PUT", "/event-type/a", body).await.expect(201);
    assert_eq!((&made["name"], &made["archived"]), (&json!("a"), &json!(true)));
    let replaced = world.send("PUT", "/event-type/a", json!({ "description": "2" })).await.expect(200);
    assert_eq!((&replaced["archived"], &replaced["schemas"]), (&json!(false), &Value::Null));
    assert_eq!(replaced["createdAt"], made["createdAt"]);
    assert_eq!(world.send("PUT", "/event-type/a%20b", json!({ "description": "" })).await.invalid().len(), 1);
}

#[tokio::test]
async fn a_patch_changes_what_is_there_and_null_clears() {
    let world = World::new();
    let body = json!({ "name": "a", "description": "1", "schemas": { "1": true }, "featureFlag": "f" });
    world.post("/event-type", body).await.expect(201);
    let patched = world.send("PATCH", "/event-type/a", json!({ "description": "2" })).await.expect(200);
    assert_eq!((&patched["schemas"], &patched["featureFlag"]), (&json!({ "1": true }), &json!("f")));
    let emptied = world.send("PATCH", "/event-type/a", json!({ "schemas": {} })).await.expect(200);
    assert_eq!(emptied["schemas"], json!({}));
    let cleared = json!({ "schemas": null, "featureFlag": null });
    let cleared = world.send("PATCH", "/event-type/a", cleared).await.expect(200);
    assert!(cleared["schemas"].is_null() && cleared["featureFlag"].is_null());
    assert_eq!(
        world.send("PATCH", "/event-type/a", json!({ "description": null })).await.invalid(),
        ["body.description"]
    );
    world.send("PATCH", "/event-type/none", json!({})).await.refused(404, "not_found");
}

#[tokio::test]
async fn what_breaks_a_rule_is_named() {
    let world = World::new();
    for (body, place) in [
        (json!({ "name": "a b", "description": "" }), "body.name"),
        (json!({ "name": "a\r\n", "description": "" }), "body.name"),
        (json!({ "name": "a", "description": "\u{0}" }), "body.description"),
        (json!({ "name": "a" }), "body"),
        (json!({ "name": "a", "description": "", "schemas": { "1": { "readOnly": 15 } } }), "body.schemas.1"),
        (json!({ "name": "a", "description": "", "featureFlag": "a b" }), "body.featureFlag"),
        (json!({ "name": "a", "description": "", "featureFlags": ["a", "b"] }), "body.featureFlags"),
    ] {
        assert_eq!(world.post("/event-type", body.clone()).await.invalid(), [place], "{body}");
    }
}

#[tokio::test]
async fn an_application_sees_only_what_its_flags_allow() {
    let world = World::new();
    let app = world.app("shop").await;
    for (name, flag) in [("open", Value::Null), ("beta", json!("beta")), ("gamma", json!("gamma"))] {
        let body = json!({ "name": name, "description": "", "featureFlag": flag });
        world.post("/event-type", body).await.expect(201);
    }
    let token = app_token(&app, &["beta"]);
    let list = world.send_as(&token, "GET", "/event-type", None).await.expect(200);
    assert_eq!(ids(&list), ["beta", "open"]);
    assert_eq!(ids(&world.get("/event-type").await.expect(200)), ["beta", "gamma", "open"]);
    for (name, status) in [("open", 200), ("beta", 200), ("gamma", 404)] {
        world.send_as(&token, "GET", &format!("/event-type/{name}"), None).await.expect(status);
    }
}
