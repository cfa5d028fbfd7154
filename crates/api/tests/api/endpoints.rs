//! Endpoints, their secrets, headers and statistics (rest-contract §7, §9).

use serde_json::{Value, json};

use crate::world::{Extras, ORG, World, app_token, id, org_token};

const HMAC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[tokio::test]
async fn an_endpoint_is_shown_as_it_was_made() {
    let world = World::new();
    let app = world.app("shop").await;
    world.post("/event-type", json!({ "name": "a.b", "description": "" })).await.expect(201);
    let body = json!({
        "url": "HTTP://BAD.url", "description": "d", "uid": "e", "rateLimit": 7, "filterTypes": ["a.b"],
        "channels": ["x", "y"], "metadata": { "k": "v" }, "secret": HMAC, "headers": { "X-A": "1" },
    });
    let made = world.post("/app/shop/endpoint", body).await.expect(201);
    assert_eq!(
        made,
        json!({
            "id": made["id"], "url": "http://bad.url/", "description": "d", "uid": "e", "version": 1,
            "disabled": false, "disabledReason": null, "disabledSince": null, "eventTypes": ["a.b"], "filterTypes": ["a.b"], "channels": ["x", "y"], "rateLimit": 7,
            "throttleRate": 7, "metadata": { "k": "v" }, "createdAt": made["createdAt"], "updatedAt": made["createdAt"],
        })
    );
    for path in [format!("/app/{app}/endpoint/{}", id(&made)), "/app/shop/endpoint/e".to_owned()] {
        assert_eq!(world.get(&path).await.expect(200), made);
    }
    assert_eq!(world.get("/app/shop/endpoint/e/secret").await.expect(200), json!({ "key": HMAC }));
    assert_eq!(world.get("/app/shop/endpoint/e/headers").await.expect(200)["headers"], json!({ "X-A": "1" }));

    let plain = world.post("/app/shop/endpoint", json!({ "url": "https://h.test/p?q" })).await.expect(201);
    for name in ["uid", "eventTypes", "filterTypes", "channels", "rateLimit", "throttleRate"] {
        assert_eq!(plain.get(name), Some(&Value::Null), "{name}");
    }
    let key = world.get(&format!("/app/shop/endpoint/{}/secret", id(&plain))).await.expect(200);
    assert!(key["key"].as_str().unwrap().starts_with("whsec_"));
}

#[tokio::test]
async fn a_put_replaces_all_but_secret_and_headers_or_makes_a_new_one() {
    let world = World::new();
    world.app("shop").await;
    let body = json!({
        "url": "https://a.test/", "uid": "e", "description": "d", "channels": ["x"], "disabled": true, "version": 3,
        "secret": HMAC, "headers": { "X-A": "1" },
    });
    let made = world.post("/app/shop/endpoint", body).await.expect(201);
    let path = format!("/app/shop/endpoint/{}", id(&made));
    let replacement = json!({ "url": "https://b.test/", "secret": "ignored", "headers": { "X-B": "2" } });
    let replaced = world.send("PUT", &path, replacement).await.expect(200);
    assert_eq!(
        (&replaced["url"], &replaced["uid"], &replaced["description"], &replaced["channels"], &replaced["disabled"]),
        (&json!("https://b.test/"), &Value::Null, &json!(""), &Value::Null, &json!(false))
    );
    assert_eq!((&replaced["version"], &replaced["createdAt"]), (&json!(1), &made["createdAt"]));
    let misshapen = json!({ "url": "https://b.test/", "secret": 5, "headers": ["X-B"] });
    world.send("PUT", &path, misshapen).await.expect(200);
    assert_eq!(world.get(&format!("{path}/secret")).await.expect(200)["key"], HMAC);
    assert_eq!(world.get(&format!("{path}/headers")).await.expect(200)["headers"], json!({ "X-A": "1" }));

    let first = world.send("PUT", "/app/shop/endpoint/fake", json!({ "url": "https://c.test/" })).await.expect(201);
    let second = world.send("PUT", "/app/shop/endpoint/fake", json!({ "url": "https://c.test/" })).await.expect(201);
    assert_ne!(first["id"], second["id"]);
}

#[tokio::test]
async fn a_patch_changes_what_is_there_and_null_clears() {
    let world = World::new();
    world.app("shop").await;
    world.post("/event-type", json!({ "name": "a.b", "description": "" })).await.expect(201);
    let body = json!({
        "url": "https://a.test/", "uid": "e", "eventTypes": ["a.b"], "channels": ["x"], "throttleRate": 4,
    });
    let made = world.post("/app/shop/endpoint", body).await.expect(201);
    let path = format!("/app/shop/endpoint/{}", id(&made));
    let patched = world.send("PATCH", &path, json!({ "disabled": true })).await.expect(200);
    for name in ["uid", "eventTypes", "channels", "throttleRate", "url"] {
        assert_eq!(patched[name], made[name], "{name}");
    }
    assert_eq!(patched["disabled"], true);
    let clear = json!({ "uid": null, "eventTypes": null, "channels": null, "throttleRate": null });
    let cleared = world.send("PATCH", &path, clear).await.expect(200);
    for name in ["uid", "eventTypes", "channels", "throttleRate"] {
        assert_eq!(cleared[name], Value::Null, "{name}");
    }
    for name in ["url", "description", "disabled", "version"] {
        let mut body = json!({});
        body[name] = Value::Null;
        assert_eq!(world.send("PATCH", &path, body).await.invalid(), [format!("body.{name}")]);
    }
    world.send("PATCH", "/app/shop/endpoint/none", json!({})).await.refused(404, "not_found");
}

#[tokio::test]
async fn a_uid_is_unique_in_its_application_until_its_endpoint_is_deleted() {
    let world = World::new();
    let (first, second) = (world.app("one").await, world.app("two").await);
    world.endpoint(&first, "e").await;
    world.endpoint(&second, "e").await;
    let body = json!({ "url": "https://a.test/", "uid": "e" });
    let again = world.post("/app/one/endpoint", body.clone()).await;
    again.refused(409, "conflict");
    assert!(again.text.contains("the uid is taken"), "{}", again.text);
    world.send("PUT", "/app/one/endpoint/e", body.clone()).await.expect(200);
    world.endpoint(&first, "f").await;
    world.send("PATCH", "/app/one/endpoint/f", json!({ "uid": "e" })).await.refused(409, "conflict");
    world.delete("/app/one/endpoint/e").await.expect(204);
    world.get("/app/one/endpoint/e").await.refused(404, "not_found");
    world.post("/app/one/endpoint", body).await.expect(201);
}

#[tokio::test]
async fn event_types_of_a_filter_must_exist() {
    let world = World::new();
    world.app("shop").await;
    for name in ["here", "gone"] {
        world.post("/event-type", json!({ "name": name, "description": "" })).await.expect(201);
    }
    world.delete("/event-type/gone").await.expect(204);
    world.endpoint("shop", "e").await;
    let body = json!({ "url": "https://a.test/", "eventTypes": ["here", "gone", "never"] });
    for (method, path) in
        [("POST", "/app/shop/endpoint"), ("PUT", "/app/shop/endpoint/e"), ("PATCH", "/app/shop/endpoint/e")]
    {
        let answer = world.send(method, path, body.clone()).await;
        assert_eq!(answer.invalid(), ["body.eventTypes"]);
        assert!(answer.text.contains("gone, never"), "{}", answer.text);
    }
}

/// Three event types that an endpoint asks for and nobody new may: one is archived, one is removed, one is shown to nobody
/// without its flag. Gives the operator's token and one of the endpoint's customer.
async fn overtaken(world: &World) -> [String; 2] {
    let app = world.app("shop").await;
    for name in ["open", "archived", "expunged", "hidden"] {
        world.post("/event-type", json!({ "name": name, "description": "" })).await.expect(201);
    }
    let body =
        json!({ "url": "https://a.test/", "uid": "e", "eventTypes": ["open", "archived", "expunged", "hidden"] });
    world.post("/app/shop/endpoint", body).await.expect(201);
    world.delete("/event-type/archived").await.expect(204);
    world.delete("/event-type/expunged?expunge=true").await.expect(204);
    world.send("PATCH", "/event-type/hidden", json!({ "featureFlag": "beta" })).await.expect(200);
    [org_token(ORG), app_token(&app, &["other"])]
}

#[tokio::test]
async fn what_an_endpoint_asks_for_may_stay_whatever_became_of_the_event_types() {
    for caller in 0..2 {
        let world = World::new();
        let token = &overtaken(&world).await[caller];
        let send = async |method: &str, event_types: &Value| {
            let body = json!({ "url": "https://b.test/", "uid": "e", "eventTypes": event_types });
            world.send_as(token, method, "/app/shop/endpoint/e", Some(&body)).await
        };
        let all = json!(["open", "archived", "expunged", "hidden"]);
        let shown = world.send_as(token, "GET", "/app/shop/endpoint/e", None).await.expect(200);
        assert_eq!(shown["eventTypes"], all);
        for method in ["PUT", "PATCH"] {
            for asked in [&all, &json!(["hidden", "expunged", "open", "archived"])] {
                assert_eq!(&send(method, asked).await.expect(200)["eventTypes"], asked, "{method}");
            }
        }
        // Less of it may stay, too. What is gone does not come back.
        send("PATCH", &json!(["archived", "hidden"])).await.expect(200);
        for method in ["PUT", "PATCH"] {
            let refused = send(method, &all).await;
            assert_eq!(refused.invalid(), ["body.eventTypes"]);
            assert!(refused.text.ends_with(": expunged\",\"type\":\"value_error\"}]}"), "{}", refused.text);
        }
    }
}

#[tokio::test]
async fn what_one_endpoint_asks_for_is_no_other_endpoints() {
    let world = World::new();
    let [operator, customer] = overtaken(&world).await;
    world.endpoint("shop", "all").await;
    for (token, may) in [(&customer, false), (&operator, true)] {
        for (method, path) in [
            ("POST", "/app/shop/endpoint"),
            ("PUT", "/app/shop/endpoint/nowhere"),
            ("PATCH", "/app/shop/endpoint/all"),
            // Takes its uid away, too.
            ("PUT", "/app/shop/endpoint/all"),
        ] {
            let body = json!({ "url": "https://b.test/", "eventTypes": ["open", "hidden"] });
            let answer = world.send_as(token, method, path, Some(&body)).await;
            assert_eq!((answer.status.is_success(), answer.status == 422), (may, !may), "{method} {path}: {answer:?}");
            let body = json!({ "url": "https://b.test/", "eventTypes": ["archived"] });
            let answer = world.send_as(token, method, path, Some(&body)).await;
            assert_eq!(answer.invalid(), ["body.eventTypes"], "{method} {path}");
        }
    }
}

#[tokio::test]
async fn what_breaks_a_rule_is_named() {
    let world = World::new();
    world.app("shop").await;
    let eleven: Vec<_> = (0..11).map(|n| n.to_string()).collect();
    for (member, value, place) in [
        ("url", json!("file:///etc/passwd"), "body.url"),
        ("url", json!("gopher://x"), "body.url"),
        ("url", json!("unix:/tmp/s"), "body.url"),
        ("url", json!("/hook"), "body.url"),
        ("url", json!("http://2130706433/"), "body.url"),
        ("url", json!("http://0177.0.0.1/"), "body.url"),
        ("url", json!(null), "body.url"),
        ("description", json!(null), "body.description"),
        ("description", json!("\u{8}"), "body.description"),
        ("disabled", json!(null), "body.disabled"),
        ("uid", json!("ep_1"), "body.uid"),
        ("version", json!(0), "body.version"),
        ("rateLimit", json!(0), "body.rateLimit"),
        ("eventTypes", json!([]), "body.eventTypes"),
        ("eventTypes", json!(["a b"]), "body.eventTypes.[0]"),
        ("eventTypes", json!(["a", 5]), "body.eventTypes.[1]"),
        ("channels", json!([]), "body.channels"),
        ("channels", json!(eleven), "body.channels"),
        ("channels", json!(["a", "a"]), "body.channels"),
        ("channels", json!(["a", "\r\n"]), "body.channels.[1]"),
        ("secret", json!("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), "body.secret"),
        ("secret", json!("whsec_AAAA"), "body.secret"),
        ("secret", json!(5), "body.secret"),
        ("headers", json!({ "X-A": 5 }), "body.headers.X-A"),
        ("headers", json!({ "\u{1f}": 5 }), "body.headers."),
        ("headers", json!([]), "body.headers"),
        ("metadata", json!({ "k": "v".repeat(4_096) }), "body.metadata"),
        ("headers", json!({ "Content-Type": "x" }), "body.headers.Content-Type"),
        ("headers", json!({ "X-A": "1\r\nX-B: 2" }), "body.headers.X-A"),
    ] {
        let mut body = json!({ "url": "https://a.test/" });
        body[member] = value;
        assert_eq!(world.post("/app/shop/endpoint", body.clone()).await.invalid(), [place], "{body}");
    }
    let both = json!({ "url": "https://a.test/", "eventTypes": null, "filterTypes": null });
    assert_eq!(world.post("/app/shop/endpoint", both).await.invalid().len(), 1);
    world.endpoint("shop", "e").await;
    let changed = world.send("PATCH", "/app/shop/endpoint/e", json!({ "url": "http://0x7f.1/" })).await;
    assert_eq!(changed.invalid(), ["body.url"]);
}

#[tokio::test]
async fn only_https_is_taken_if_that_is_set() {
    let world = World::with(true);
    world.app("shop").await;
    assert_eq!(world.post("/app/shop/endpoint", json!({ "url": "http://a.test/" })).await.invalid(), ["body.url"]);
    world.post("/app/shop/endpoint", json!({ "url": "https://a.test/" })).await.expect(201);
}

#[tokio::test]
async fn headers_are_replaced_merged_and_hidden() {
    let world = World::new();
    world.app("shop").await;
    world.endpoint("shop", "e").await;
    let path = "/app/shop/endpoint/e/headers";
    assert_eq!(world.get(path).await.expect(200), json!({ "headers": {}, "sensitive": [] }));
    let headers = json!({ "headers": { "X-One": "1", "x-TWO": "2", "Authorization": "secret" } });
    world.send("PUT", path, headers).await.expect(204);
    let shown = world.get(path).await;
    assert!(!shown.text.contains("secret"));
    assert_eq!(shown.json(), json!({ "headers": { "X-One": "1", "x-TWO": "2" }, "sensitive": ["Authorization"] }));
    let changes = json!({ "headers": { "X-ONE": null, "X-Three": "3" } });
    world.send("PATCH", path, changes).await.expect(204);
    let shown = world.get(path).await.expect(200);
    assert_eq!(shown, json!({ "headers": { "x-TWO": "2", "X-Three": "3" }, "sensitive": ["Authorization"] }));
    assert_eq!(world.send("PATCH", path, json!({ "headers": { "Svix-Id": "1" } })).await.invalid().len(), 1);
    assert_eq!(world.send("PUT", path, json!({})).await.invalid(), ["body"]);
    let changes = json!({ "headers": { "X-Four": "4" }, "deleteHeaders": ["X-Three", "Authorization", "X-Four"] });
    world.send("PATCH", path, changes).await.expect(204);
    let shown = world.get(path).await.expect(200);
    assert_eq!(shown, json!({ "headers": { "X-Four": "4", "x-TWO": "2" }, "sensitive": [] }));
    world.send("PUT", path, json!({ "headers": {} })).await.expect(204);
    assert_eq!(world.get(path).await.expect(200), json!({ "headers": {}, "sensitive": [] }));
}

async fn rotate(world: &World, agent: &str, body: Value) -> crate::world::Answer {
    let token = org_token(ORG);
    let headers = [("user-agent", agent)];
    let extras = Extras { token: Some(&token), headers: &headers, body: body.to_string().into() };
    world.raw("POST", "/api/v1/app/shop/endpoint/e/secret/rotate/", extras).await
}

#[tokio::test]
async fn a_rotation_answers_as_each_client_wants_it() {
    let world = World::new();
    world.app("shop").await;
    world.endpoint("shop", "e").await;
    assert_eq!(rotate(&world, "svix-libs/2.6.0/java", json!({ "key": HMAC })).await.expect(204), Value::Null);
    assert_eq!(world.get("/app/shop/endpoint/e/secret").await.expect(200)["key"], HMAC);
    let answer = rotate(&world, "svix-libs/2.7.0/python", json!({ "key": null })).await.expect(200);
    assert_eq!(answer, world.get("/app/shop/endpoint/e/secret").await.expect(200));
    let asymmetric = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    let answer = rotate(&world, "svix-libs/2.9.1/rust", json!({ "key": asymmetric })).await.expect(200);
    assert_eq!(answer["key"], "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=");
    assert_eq!(rotate(&world, "", json!({ "key": "whsec_x" })).await.invalid(), ["body.key"]);
    assert_eq!(
        rotate(&world, "", json!({ "gracePeriodSeconds": 604_801 })).await.invalid(),
        ["body.gracePeriodSeconds"]
    );
    assert_eq!(rotate(&world, "", json!({ "gracePeriodSeconds": -1 })).await.invalid(), ["body.gracePeriodSeconds"]);
}

#[tokio::test]
async fn the_eleventh_quick_rotation_is_refused() {
    let world = World::new();
    world.app("shop").await;
    world.endpoint("shop", "e").await;
    for _ in 0..10 {
        rotate(&world, "", json!({})).await.expect(204);
    }
    rotate(&world, "", json!({})).await.refused(400, "limit_reached");
    rotate(&world, "", json!({ "key": HMAC, "gracePeriodSeconds": 0 })).await.expect(204);
    assert_eq!(world.get("/app/shop/endpoint/e/secret").await.expect(200)["key"], HMAC);
    rotate(&world, "", json!({ "key": HMAC })).await.expect(204);
}

#[tokio::test]
async fn statistics_count_attempts_in_their_window() {
    let world = World::new();
    world.app("shop").await;
    world.endpoint("shop", "e").await;
    let path = "/app/shop/endpoint/e/stats";
    let zero = json!({ "success": 0, "pending": 0, "sending": 0, "fail": 0, "canceled": 0 });
    assert_eq!(world.get(path).await.expect(200), zero);
    for status in [200, 204, 500] {
        let message = world.message("shop", "a").await;
        world.attempt("shop", "e", &message, status, b"").await;
    }
    let counted = world.get(path).await.expect(200);
    assert_eq!(counted, json!({ "success": 2, "pending": 0, "sending": 0, "fail": 1, "canceled": 0 }));
    let before = world.get(&format!("{path}?until=2026-01-02T03:04:05Z")).await.expect(200);
    assert_eq!(before, zero);
    world.get(&format!("{path}?since=2025-12-03T00:00:00Z")).await.refused(400, "invalid_range");
    world.get(&format!("{path}?until=2026-01-03T00:00:00Z")).await.refused(400, "invalid_range");
    world.get(&format!("{path}?since=yesterday")).await.refused(400, "generic_error");
    world.get("/app/shop/endpoint/none/stats").await.refused(404, "not_found");
    let counted = world.get("/app/shop/endpoint/e/attempt-stats").await.expect(200);
    let all = world.get(path).await.expect(200);
    assert_eq!(counted, json!({ "success": all["success"], "fail": all["fail"], "canceled": 0 }));
    world.get("/app/shop/endpoint/none/attempt-stats").await.refused(404, "not_found");
}

#[tokio::test]
async fn which_setting_would_allow_a_url_is_for_the_operator_only() {
    let world = World::new();
    let app = world.app("shop").await;
    let body = json!({ "url": "http://127.0.0.1/" });
    for (token, is_told) in [(org_token(ORG), true), (app_token(&app, &[]), false)] {
        let made = world.send_as(&token, "POST", "/app/shop/endpoint", Some(&body)).await;
        assert_eq!(made.invalid(), ["body.url"]);
        assert_eq!(made.text.contains("is on this machine; move it"), is_told, "{}", made.text);
    }
}

#[tokio::test]
async fn a_url_without_a_scheme_is_told_what_it_must_begin_with() {
    let world = World::new();
    world.app("shop").await;
    for url in ["example.com/hook", "localhost:3000/hook", "/hook", "ftp://example.com/"] {
        let made = world.post("/app/shop/endpoint", json!({ "url": url })).await;
        assert_eq!(made.invalid(), ["body.url"]);
        assert!(made.text.contains("must begin with http:// or https://"), "{}", made.text);
    }
}
