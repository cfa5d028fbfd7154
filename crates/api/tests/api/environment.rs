//! Settings of an environment, moving them and event types elsewhere, and the public catalogue.

use serde_json::{Value, json};

use crate::world::{Answer, Extras, ORG, World, ids, org_token};

#[tokio::test]
async fn settings_have_defaults_until_they_are_changed() {
    let world = World::new();
    let defaults = json!({
        "schemaEnforcement": "off", "unknownEventTypes": "allow", "publicCatalogue": false,
        "createdAt": null, "updatedAt": null,
    });
    assert_eq!(world.get("/environment/settings").await.expect(200), defaults);
    let body = json!({ "publicCatalogue": true, "unknownEventTypes": "reject" });
    let first = world.send("PATCH", "/environment/settings", body).await.expect(200);
    assert_eq!((&first["publicCatalogue"], &first["schemaEnforcement"]), (&json!(true), &json!("off")));
    assert!(first["createdAt"].is_string() && first["createdAt"] == first["updatedAt"], "{first}");
    let body = json!({ "schemaEnforcement": "warn" });
    let second = world.send("PUT", "/environment/settings", body).await.expect(200);
    assert_eq!((&second["publicCatalogue"], &second["unknownEventTypes"]), (&json!(false), &json!("allow")));
    assert_eq!((&second["schemaEnforcement"], &second["createdAt"]), (&json!("warn"), &first["createdAt"]));
    assert_ne!(second["updatedAt"], first["updatedAt"]);
    assert_eq!(world.get("/environment/settings").await.expect(200), second);
    for (body, place) in [
        (json!({ "schemaEnforcement": "strict" }), "body.schemaEnforcement"),
        (json!({ "publicCatalogue": null }), "body.publicCatalogue"),
        (json!({ "publicCatalogue": "true" }), "body.publicCatalogue"),
    ] {
        assert_eq!(world.send("PATCH", "/environment/settings", body).await.invalid(), [place]);
    }
    assert_eq!(world.get("/environment/settings").await.expect(200), second);
}

#[tokio::test]
async fn what_is_exported_can_be_imported_elsewhere() {
    let world = World::new();
    let schemas = json!({ "1": { "type": "object" } });
    for body in [
        json!({ "name": "b", "description": "B", "schemas": schemas, "featureFlags": ["beta"], "groupName": "g" }),
        json!({ "name": "a", "description": "A", "deprecated": true }),
        json!({ "name": "old", "description": "" }),
    ] {
        world.post("/event-type", body).await.expect(201);
    }
    world.delete("/event-type/old").await.expect(204);
    world.send("PATCH", "/environment/settings", json!({ "schemaEnforcement": "reject" })).await.expect(200);
    let exported = world.post("/environment/export", Value::Null).await.expect(200);
    assert_eq!((&exported["version"], &exported["connectors"]), (&json!(1), &json!([])));
    assert!(exported["createdAt"].is_string());
    let names: Vec<_> = exported["eventTypes"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["a", "b", "old"]);

    let there = org_token("org_there");
    let own = json!({ "name": "own", "description": "" });
    world.send_as(&there, "POST", "/event-type", Some(&own)).await.expect(201);
    for _ in 0..2 {
        world.send_as(&there, "POST", "/environment/import", Some(&exported)).await.expect(204);
    }
    let again = world.send_as(&there, "POST", "/environment/export", None).await.expect(200);
    assert_eq!(again["settings"]["schemaEnforcement"], "reject");
    let strip = |list: &Value| {
        let mut list = list.as_array().unwrap().clone();
        list.retain(|one| one["name"] != "own");
        list.iter_mut().for_each(|one| one.as_object_mut().unwrap().retain(|name, _| !name.ends_with("At")));
        list
    };
    assert_eq!(strip(&again["eventTypes"]), strip(&exported["eventTypes"]));
    let list = world.send_as(&there, "GET", "/event-type", None).await.expect(200);
    assert_eq!(ids(&list), ["a", "b", "own"], "nothing is removed");
}

#[tokio::test]
async fn an_import_takes_effect_wholly_or_not_at_all() {
    let world = World::new();
    let good = json!({ "name": "a", "description": "" });
    let bad = json!({ "name": "b", "description": "", "schemas": { "1": { "type": "text" } } });
    let body = json!({ "eventTypes": [good, bad], "settings": { "schemaEnforcement": "warn" } });
    assert_eq!(world.post("/environment/import", body).await.invalid(), ["body.eventTypes.[1].schemas.1"]);
    let body = json!({ "eventTypes": [good], "settings": { "schemaEnforcement": "strict" } });
    assert_eq!(world.post("/environment/import", body).await.invalid(), ["body.settings.schemaEnforcement"]);
    for body in [json!({ "eventTypes": [good], "settings": [] }), json!({ "settings": ["warn"] })] {
        assert_eq!(world.post("/environment/import", body).await.invalid(), ["body.settings"]);
    }
    assert_eq!(
        world.post("/environment/import", json!({ "eventTypes": [["a", ""]] })).await.invalid(),
        ["body.eventTypes.[0]"]
    );
    assert_eq!(ids(&world.get("/event-type").await.expect(200)), Vec::<String>::new());
    // What another server exported: unknown settings, connectors, missing lists.
    let body = json!({ "eventTypes": null, "settings": { "customColor": "#fff" }, "connectors": [{ "kind": "x" }] });
    world.post("/environment/import", body).await.expect(204);
    world.post("/environment/import", json!({ "settings": null })).await.expect(204);
    assert_eq!(world.get("/environment/settings").await.expect(200)["createdAt"], Value::Null);
}

async fn catalogue(world: &World, environment: &str, headers: &[(&'static str, &str)]) -> Answer {
    world.raw("GET", &format!("/api/v1/catalogue/{environment}"), Extras { headers, ..Extras::default() }).await
}

#[tokio::test]
async fn a_published_catalogue_shows_what_receivers_may_know() {
    let world = World::new();
    let schemas = json!({ "1": { "examples": [1] }, "2": { "type": "object", "examples": [{ "id": "x" }] } });
    for body in [
        json!({ "name": "b", "description": "B", "schemas": schemas, "groupName": "g", "deprecated": true }),
        json!({ "name": "a", "description": "A", "schemas": { "1": true } }),
        json!({ "name": "secret", "description": "", "featureFlags": ["beta"] }),
        json!({ "name": "old", "description": "" }),
    ] {
        world.post("/event-type", body).await.expect(201);
    }
    world.delete("/event-type/old").await.expect(204);
    for environment in [ORG, "org_none", "none", "org_%00", "org_%20"] {
        catalogue(&world, environment, &[]).await.refused(404, "not_found");
    }
    world.send("PATCH", "/environment/settings", json!({ "publicCatalogue": true })).await.expect(200);
    let shown = catalogue(&world, ORG, &[]).await;
    assert_eq!(
        shown.expect(200),
        json!({ "eventTypes": [
            { "name": "a", "description": "A", "groupName": null, "deprecated": false, "schemas": { "1": true },
              "examples": [] },
            { "name": "b", "description": "B", "groupName": "g", "deprecated": true, "schemas": schemas,
              "examples": [{ "id": "x" }] },
        ] })
    );
    catalogue(&world, "org_none", &[]).await.refused(404, "not_found");
    world.send("PATCH", "/environment/settings", json!({ "publicCatalogue": false })).await.expect(200);
    catalogue(&world, ORG, &[]).await.refused(404, "not_found");
}

#[tokio::test]
async fn a_catalogue_that_is_known_is_not_sent_again() {
    let world = World::new();
    world.send("PATCH", "/environment/settings", json!({ "publicCatalogue": true })).await.expect(200);
    let first = catalogue(&world, ORG, &[]).await;
    assert_eq!(first.expect(200), json!({ "eventTypes": [] }));
    let tag = first.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(first.headers["cache-control"], "public, max-age=60");
    for known in [tag.clone(), format!("\"x\", W/{tag}"), "*".to_owned()] {
        let again = catalogue(&world, ORG, &[("if-none-match", &known)]).await;
        assert_eq!((again.status.as_u16(), again.text.as_str()), (304, ""), "{known}");
        assert_eq!(again.headers["etag"], tag.as_str());
    }
    world.post("/event-type", json!({ "name": "a", "description": "" })).await.expect(201);
    let changed = catalogue(&world, ORG, &[("if-none-match", &tag)]).await;
    assert_eq!(ids(&json!({ "data": changed.expect(200)["eventTypes"] })), ["a"]);
    assert_ne!(changed.headers["etag"], tag.as_str());
}
