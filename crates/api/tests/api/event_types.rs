//! Event types (rest-contract §6).

use serde_json::{Value, json};

use crate::world::{Answer, World, app_token, ids};

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

/// What an answer says, whichever name was asked for. Ids and dates of what was made say nothing about the name.
fn said(answer: &Answer, name: &str) -> (u16, Value) {
    let body = if answer.status.is_success() { answer.json()["data"].clone() } else { answer.json() };
    let body = body.to_string().replace(name, "NAME");
    (answer.status.as_u16(), serde_json::from_str(&body).unwrap())
}

#[tokio::test]
async fn an_event_type_that_a_token_may_not_see_is_to_it_as_one_that_does_not_exist() {
    let world = World::new();
    let app = world.app("shop").await;
    for (name, flag, archived) in [("gamma", "gamma", false), ("delta", "delta", true), ("beta", "beta", false)] {
        let body = json!({ "name": name, "description": "", "featureFlag": flag, "archived": archived });
        world.post("/event-type", body).await.expect(201);
    }
    for name in ["gamma", "delta", "never"] {
        world.endpoint("shop", name).await;
    }
    let message = world.message("shop", "another").await;
    let requests = |name: &str| {
        let (app, own) = ("/app/shop", format!("/app/shop/endpoint/{name}"));
        let wanted = |member: &str| json!({ "url": "https://a.test/", member: ["beta", name] });
        vec![
            ("POST", format!("{app}/endpoint"), wanted("eventTypes")),
            ("POST", format!("{app}/endpoint"), wanted("filterTypes")),
            ("PUT", own.clone(), wanted("filterTypes")),
            ("PUT", format!("{app}/endpoint/nowhere"), wanted("eventTypes")),
            ("PATCH", own.clone(), wanted("filterTypes")),
            ("PATCH", own.clone(), wanted("eventTypes")),
            ("PATCH", format!("{app}/endpoint/nowhere"), wanted("eventTypes")),
            ("POST", format!("{own}/bulk-replay"), json!({ "since": "2026-01-01T00:00:00Z", "eventTypes": [name] })),
            ("POST", format!("{own}/send-example"), json!({ "eventType": name })),
            ("POST", format!("{app}/msg"), json!({ "eventType": name, "payload": {} })),
            ("POST", format!("{app}/msg/precheck/active"), json!({ "eventType": name })),
            ("GET", format!("/event-type/{name}"), Value::Null),
            ("PATCH", format!("/event-type/{name}"), json!({})),
            ("GET", "/event-type?include_archived=true&with_content=true".to_owned(), Value::Null),
            ("GET", format!("{app}/msg?event_types={name}"), Value::Null),
            ("GET", format!("{app}/attempt/msg/{message}?event_types={name}"), Value::Null),
            ("GET", format!("{app}/attempt/endpoint/{name}?event_types={name}"), Value::Null),
            ("GET", format!("{own}/msg?event_types={name}"), Value::Null),
            ("GET", format!("{app}/poller/{name}?event_type={name}"), Value::Null),
            ("GET", format!("{app}/poller/{name}/consumer/c?event_type={name}"), Value::Null),
        ]
    };
    let token = app_token(&app, &["beta", "other"]);
    let ask = async |name: &str| {
        let mut answers = Vec::new();
        for (method, path, body) in requests(name) {
            let body = (!body.is_null()).then_some(&body);
            answers.push((
                method,
                path.replace(name, "NAME"),
                said(&world.send_as(&token, method, &path, body).await, name),
            ));
        }
        answers
    };
    let want = ask("never").await;
    assert_eq!(want.iter().map(|(.., (status, _))| *status).filter(|status| *status == 422).count(), 7, "{want:#?}");
    for hidden in ["gamma", "delta"] {
        for (got, want) in ask(hidden).await.into_iter().zip(&want) {
            assert_eq!(&got, want, "{hidden}");
        }
    }
    // Who sees it may ask for it.
    let wanted = json!({ "url": "https://a.test/", "eventTypes": ["beta"] });
    world.send_as(&token, "POST", "/app/shop/endpoint", Some(&wanted)).await.expect(201);
}
