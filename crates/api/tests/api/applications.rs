//! Applications (rest-contract §5).

use serde_json::json;

use crate::world::{World, id};

#[tokio::test]
async fn an_application_is_shown_as_it_was_made() {
    let world = World::new();
    let body = json!({ "name": "Shop", "uid": "shop-1", "throttleRate": 5, "metadata": { "a": "ä" }, "unknown": [1] });
    let made = world.post("/app", body).await.expect(201);
    assert_eq!(
        made,
        json!({
            "id": made["id"], "name": "Shop", "uid": "shop-1", "throttleRate": 5, "rateLimit": 5,
            "metadata": { "a": "ä" }, "createdAt": made["createdAt"], "updatedAt": made["createdAt"],
        })
    );
    assert!(made["createdAt"].as_str().unwrap().starts_with("2026-01-02T03:04:05"));
    for path in [format!("/app/{}", id(&made)), "/app/shop-1".to_owned()] {
        assert_eq!(world.get(&path).await.expect(200), made);
    }
    let plain = world.post("/app", json!({ "name": "x", "uid": null, "metadata": null })).await.expect(201);
    assert_eq!(plain["metadata"], json!({}));
    assert!(plain["throttleRate"].is_null() && plain.as_object().unwrap().contains_key("throttleRate"));
    assert!(plain.get("uid").is_none() && plain.get("rateLimit").is_none());
}

#[tokio::test]
async fn the_old_name_of_the_rate_counts_only_without_the_new_one() {
    let world = World::new();
    for (body, rate) in [
        (json!({ "name": "x", "rateLimit": 3 }), 3),
        (json!({ "name": "x", "rateLimit": 3, "throttleRate": null }), 3),
        (json!({ "name": "x", "rateLimit": 3, "throttleRate": 4 }), 4),
    ] {
        assert_eq!(world.post("/app", body).await.expect(201)["throttleRate"], rate);
    }
}

#[tokio::test]
async fn a_uid_is_unique_and_may_be_asked_for() {
    let world = World::new();
    let made = world.post("/app", json!({ "name": "a", "uid": "u" })).await.expect(201);
    world.post("/app", json!({ "name": "b", "uid": "u" })).await.refused(409, "conflict");
    world.post("/app?get_if_exists=false", json!({ "name": "b", "uid": "u" })).await.refused(409, "conflict");
    let found = world.post("/app?get_if_exists=true", json!({ "name": "b", "uid": "u" })).await.expect(200);
    assert_eq!(found, made);
    world.post("/app?get_if_exists=true", json!({ "name": "c" })).await.expect(201);
    world.post("/app?get_if_exists=yes", json!({ "name": "c" })).await.refused(400, "generic_error");

    world.post("/app", json!({ "name": "d", "uid": "v" })).await.expect(201);
    world.send("PATCH", "/app/v", json!({ "uid": "u" })).await.refused(409, "conflict");
    world.send("PUT", "/app/v", json!({ "name": "d", "uid": "u" })).await.refused(409, "conflict");
    world.send("PATCH", "/app/u", json!({ "uid": "u" })).await.expect(200);

    world.delete("/app/u").await.expect(204);
    world.get("/app/u").await.refused(404, "not_found");
    world.delete("/app/u").await.refused(404, "not_found");
    assert_ne!(world.post("/app", json!({ "name": "e", "uid": "u" })).await.expect(201)["id"], made["id"]);
}

#[tokio::test]
async fn a_put_replaces_everything_or_makes_a_new_one() {
    let world = World::new();
    let body = json!({ "name": "a", "uid": "u", "throttleRate": 5, "metadata": { "k": "v" } });
    let made = world.post("/app", body).await.expect(201);
    let path = format!("/app/{}", id(&made));
    let replaced = world.send("PUT", &path, json!({ "name": "b" })).await.expect(200);
    assert_eq!(
        replaced,
        json!({
            "id": made["id"], "name": "b", "throttleRate": null, "metadata": {},
            "createdAt": made["createdAt"], "updatedAt": replaced["updatedAt"],
        })
    );
    assert_ne!(replaced["updatedAt"], made["updatedAt"]);
    assert_eq!(world.get(&path).await.expect(200), replaced);

    let first = world.send("PUT", "/app/fake-id", json!({ "name": "c" })).await.expect(201);
    let second = world.send("PUT", "/app/fake-id", json!({ "name": "c" })).await.expect(201);
    assert_ne!(first["id"], second["id"]);
    assert!(first.get("uid").is_none());
}

#[tokio::test]
async fn a_patch_changes_what_is_there_and_null_clears() {
    let world = World::new();
    let body = json!({ "name": "a", "uid": "u", "throttleRate": 5, "metadata": { "k": "v" } });
    let made = world.post("/app", body).await.expect(201);
    let path = format!("/app/{}", id(&made));
    let same = world.send("PATCH", &path, json!({})).await.expect(200);
    assert_eq!(
        (&same["name"], &same["uid"], &same["throttleRate"]),
        (&made["name"], &made["uid"], &made["throttleRate"])
    );

    let named = world.send("PATCH", &path, json!({ "name": "b", "metadata": { "x": "y" } })).await.expect(200);
    assert_eq!((&named["name"], &named["metadata"], &named["uid"]), (&json!("b"), &json!({ "x": "y" }), &json!("u")));

    let cleared =
        world.send("PATCH", &path, json!({ "uid": null, "throttleRate": null, "metadata": null })).await.expect(200);
    assert!(cleared.get("uid").is_none() && cleared["throttleRate"].is_null());
    assert_eq!(cleared["metadata"], json!({}));

    assert_eq!(world.send("PATCH", &path, json!({ "rateLimit": 7 })).await.expect(200)["throttleRate"], 7);
    let both = json!({ "rateLimit": 8, "throttleRate": 9 });
    assert_eq!(world.send("PATCH", &path, both).await.expect(200)["throttleRate"], 9);
    assert!(world.send("PATCH", &path, json!({ "rateLimit": null })).await.expect(200)["throttleRate"].is_null());

    assert_eq!(world.send("PATCH", &path, json!({ "name": null })).await.invalid(), ["body.name"]);
    world.send("PATCH", "/app/none", json!({})).await.refused(404, "not_found");
}

#[tokio::test]
async fn what_breaks_a_rule_is_named() {
    let world = World::new();
    let long = "x".repeat(257);
    for (body, place) in [
        (json!({ "name": "" }), "body.name"),
        (json!({ "name": "a\u{1}" }), "body.name"),
        (json!({ "name": "a", "uid": "app_1" }), "body.uid"),
        (json!({ "name": "a", "uid": "a b" }), "body.uid"),
        (json!({ "name": "a", "uid": "" }), "body.uid"),
        (json!({ "name": "a", "uid": long }), "body.uid"),
        (json!({ "name": "a", "throttleRate": 0 }), "body.throttleRate"),
        (json!({ "name": "a", "throttleRate": 65_536 }), "body.throttleRate"),
        (json!({ "name": "a", "metadata": { "k": "v".repeat(4_096) } }), "body.metadata"),
        (json!({ "name": "a", "metadata": { "k": 1 } }), "body.metadata.k"),
        (json!({ "name": null }), "body.name"),
        (json!({ "uid": "a" }), "body"),
        (json!([]), "body"),
    ] {
        assert_eq!(world.post("/app", body.clone()).await.invalid(), [place], "{body}");
    }
    let both = world.post("/app", json!({ "name": "", "uid": "app_1" })).await.invalid();
    assert_eq!(both, ["body.name", "body.uid"]);
}
