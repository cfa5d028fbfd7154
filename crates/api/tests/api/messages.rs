//! Messages (rest-contract §8).

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use postrider_domain::application::EnvironmentId;
use postrider_domain::clock::Clock as _;
use postrider_ingest::{SubmitError, Tenant};
use serde_json::{Value, json};

use crate::world::{Answer, Extras, ORG, World, id, ids, org_token};

async fn post_text(world: &World, path: &str, body: impl Into<Bytes>) -> Answer {
    let token = org_token(ORG);
    let path = format!("/api/v1{path}");
    world.raw("POST", &path, Extras { token: Some(&token), body: body.into(), ..Extras::default() }).await
}

#[tokio::test]
async fn a_message_is_shown_as_it_was_made_byte_for_byte() {
    let world = World::new();
    world.app("shop").await;
    let payload = r#"{ "z":1.0,"a" : "\u00e4",  "n":12345678901234567890123 }"#;
    let body = format!(r#"{{"eventType":"a.b","eventId":"e-1","channels":["x","y"],"payload":{payload}}}"#);
    let made = post_text(&world, "/app/shop/msg", body).await;
    let parsed = made.expect(202);
    assert!(made.text.contains(payload), "{}", made.text);
    assert_eq!(
        (&parsed["eventType"], &parsed["eventId"], &parsed["channels"]),
        (&json!("a.b"), &json!("e-1"), &json!(["x", "y"]))
    );
    assert!(parsed["timestamp"].is_string());
    for path in [format!("/app/shop/msg/{}", id(&parsed)), "/app/shop/msg/e-1".to_owned()] {
        assert_eq!(world.get(&path).await.text, made.text);
    }
    let list = world.get("/app/shop/msg").await;
    assert!(list.text.contains(&made.text), "{}", list.text);
}

#[tokio::test]
async fn content_is_left_out_if_that_is_asked_for() {
    let world = World::new();
    world.app("shop").await;
    let body = json!({ "eventType": "a", "payload": { "secret": 1 } });
    let made = world.post("/app/shop/msg?with_content=false", body).await.expect(202);
    assert_eq!((&made["payload"], &made["eventId"], &made["channels"]), (&json!({}), &Value::Null, &Value::Null));
    let path = format!("/app/shop/msg/{}", id(&made));
    assert_eq!(world.get(&format!("{path}?with_content=false")).await.expect(200)["payload"], json!({}));
    assert_eq!(world.get(&path).await.expect(200)["payload"], json!({ "secret": 1 }));
    let list = world.get("/app/shop/msg?with_content=false").await.expect(200);
    assert_eq!(list["data"][0]["payload"], json!({}));
}

#[tokio::test]
async fn a_raw_payload_that_is_no_object_is_shown_as_expired() {
    let world = World::new();
    world.app("shop").await;
    for raw in ["<xml/>", "[1]", "{"] {
        let body = json!({ "eventType": "a", "payload": {}, "transformationsParams": { "rawPayload": raw } });
        let made = world.post("/app/shop/msg", body).await;
        assert!(made.text.contains(r#""payload":{"expired":true}"#), "{}", made.text);
        assert!(world.get(&format!("/app/shop/msg/{}", id(&made.expect(202)))).await.text == made.text);
    }
}

#[tokio::test]
async fn an_event_id_is_unique_in_its_application() {
    let world = World::new();
    world.app("one").await;
    world.app("two").await;
    let body = json!({ "eventType": "a", "payload": {}, "eventId": "e" });
    world.post("/app/one/msg", body.clone()).await.expect(202);
    let again = world.post("/app/one/msg", body.clone()).await;
    again.refused(409, "conflict");
    assert!(again.text.contains("eventId"), "{}", again.text);
    world.post("/app/two/msg", body).await.expect(202);
}

#[tokio::test]
async fn an_application_is_made_along_the_way() {
    let world = World::new();
    let message = |application: Value| json!({ "eventType": "a", "payload": {}, "application": application });
    let missing = world.post("/app/new/msg", json!({ "eventType": "a", "payload": {} })).await;
    missing.refused(404, "not_found");
    assert_eq!(missing.json()["detail"], "Entity not found: there is no such application");
    let no_uid = world.post("/app/new/msg", message(json!({ "name": "New" }))).await;
    assert_eq!(no_uid.invalid(), ["body.application.uid"]);
    assert!(no_uid.text.contains("application_uid_missing"));
    let other_uid = world.post("/app/new/msg", message(json!({ "name": "New", "uid": "old" }))).await;
    assert_eq!(other_uid.invalid(), ["body.application.uid"]);
    assert!(other_uid.text.contains("application_uid_mismatch"));
    let made = world.post("/app/new/msg", message(json!({ "name": "New", "uid": "new" }))).await.expect(202);
    assert_eq!(world.get("/app/new").await.expect(200)["name"], "New");
    world.get(&format!("/app/new/msg/{}", id(&made))).await.expect(200);
    world.post("/app/new/msg", message(json!({ "name": "Ignored", "uid": "else" }))).await.expect(202);
    assert_eq!(world.get("/app/new").await.expect(200)["name"], "New");
}

#[tokio::test]
async fn a_message_that_brings_its_application_makes_it_again_after_a_deletion_or_another_uid() {
    let world = World::new();
    let brought = json!({ "eventType": "a", "payload": {}, "application": { "name": "Shop", "uid": "shop" } });
    let bare = json!({ "eventType": "a", "payload": {} });
    world.post("/app/shop/msg", brought.clone()).await.expect(202);
    world.delete("/app/shop").await.expect(204);
    world.post("/app/shop/msg", brought.clone()).await.expect(202);
    world.send("PATCH", "/app/shop", json!({ "uid": "other" })).await.expect(200);
    world.post("/app/shop/msg", brought.clone()).await.expect(202);
    assert_eq!(ids(&world.get("/app/shop/msg").await.expect(200)).len(), 1);
    assert_eq!(ids(&world.get("/app/other/msg").await.expect(200)).len(), 1);
    // Without one that is brought along there is none.
    world.delete("/app/shop").await.expect(204);
    world.post("/app/shop/msg", bare.clone()).await.refused(404, "not_found");
    // Where there are rules, one is looked for to refuse by them.
    world.send("PATCH", "/environment/settings", json!({ "unknownEventTypes": "reject" })).await.expect(200);
    let refused = world.post("/app/other/msg", bare).await;
    assert_eq!(refused.expect(422)["detail"][0]["type"], "unknown_event_type");
    world.delete("/app/other").await.expect(204);
    let other = json!({ "eventType": "a", "payload": {}, "application": { "name": "Other", "uid": "other" } });
    let refused = world.post("/app/other/msg", other).await;
    assert_eq!(refused.expect(422)["detail"][0]["type"], "unknown_event_type");
    world.get("/app/other").await.expect(200);
}

#[tokio::test]
async fn what_is_no_message_is_refused() {
    let world = World::new();
    world.app("shop").await;
    let deep = format!(r#"{{"eventType":"a","payload":{{"a":{}{}}}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let broken = b"{\"eventType\":\"a\",\"payload\":{\"a\":\"\xff\"}}".to_vec();
    for body in [
        b"".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        br#"{"eventType":"a"}"#.to_vec(),
        br#"{"eventType":"a","payload":[1]}"#.to_vec(),
        br#"{"eventType":"a","payload":"x"}"#.to_vec(),
        br#"{"eventType":"a\u0000","payload":{}}"#.to_vec(),
        br#"{"eventType":"a","payload":{"a":1}"#.to_vec(),
        broken,
        deep.into_bytes(),
    ] {
        post_text(&world, "/app/shop/msg", body).await.invalid();
    }
    assert_eq!(post_text(&world, "/app/a%20b/msg", "{}").await.invalid(), ["path.app_id_or_uid.__all__"]);
    assert_eq!(post_text(&world, "/app/app_x/msg", "{}").await.invalid(), ["path.app_id_or_uid.__all__"]);
    assert!(ids(&world.get("/app/shop/msg").await.expect(200)).is_empty());
    for (depth, status) in [(126, 202), (127, 422)] {
        let deep = format!(r#"{{"eventType":"a","payload":{{"a":{}{}}}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert_eq!(post_text(&world, "/app/shop/msg", deep).await.status, status);
    }
}

#[tokio::test]
async fn a_body_may_have_two_mebibytes_and_no_byte_more() {
    let world = World::new();
    world.app("shop").await;
    let body = |len: usize| {
        let frame = r#"{"eventType":"a","payload":{"p":""}}"#.len();
        format!(r#"{{"eventType":"a","payload":{{"p":"{}"}}}}"#, "x".repeat(len - frame))
    };
    let limit = 2 * 1024 * 1024;
    post_text(&world, "/app/shop/msg?with_content=false", body(limit)).await.expect(202);
    post_text(&world, "/app/shop/msg", body(limit + 1)).await.refused(413, "payload_too_large");
}

#[tokio::test]
async fn a_list_is_filtered_by_type_and_channel() {
    let world = World::new();
    world.app("shop").await;
    let mut made = Vec::new();
    for (event_type, channels) in [("a", json!(["x"])), ("b", json!(["x", "y"])), ("c", Value::Null)] {
        let body = json!({ "eventType": event_type, "channels": channels, "payload": {} });
        made.push(id(&world.post("/app/shop/msg", body).await.expect(202)));
    }
    let (a, b, c) = (made[0].clone(), made[1].clone(), made[2].clone());
    for (query, want) in [
        ("event_types=a,c", vec![&c, &a]),
        ("event_types[]=b&event_types[]=a", vec![&b, &a]),
        ("event_types=none", vec![]),
        ("channel=x", vec![&b, &a]),
        ("channel=x&event_types=b", vec![&b]),
    ] {
        let list = world.get(&format!("/app/shop/msg?{query}")).await.expect(200);
        assert_eq!(ids(&list).iter().collect::<Vec<_>>(), want, "{query}");
    }
    assert_eq!(world.get("/app/shop/msg?event_types=a%20b").await.invalid(), ["query.event_types"]);
}

#[tokio::test]
async fn messages_of_nobody_are_not_found() {
    let world = World::new();
    world.app("shop").await;
    world.get("/app/none/msg").await.refused(404, "not_found");
    world.get("/app/shop/msg/none").await.refused(404, "not_found");
    world.get("/app/shop/msg/msg_0ujtsYcgvSTl8PAuAdqWYSMnLOv").await.refused(404, "not_found");
    world.get("/app/shop/msg/%ff").await.refused(404, "not_found");
}

#[tokio::test]
async fn a_store_that_is_closed_is_an_error_and_never_a_success() {
    let world = World::new();
    world.app("shop").await;
    world.message("shop", "a").await;
    world.close().await;
    let answer = world.post("/app/shop/msg", json!({ "eventType": "a", "payload": {} })).await;
    assert!(answer.status.is_server_error(), "{answer:?}");
    assert!(answer.json()["code"].is_string());
    world.get("/app").await.refused(503, "unavailable");
    let unhealthy = world.get("/health").await.expect(500);
    assert_eq!(unhealthy["database"]["status"], "error");
    world.get("/health/ping").await.expect(204);
}

#[tokio::test]
async fn tags_and_a_time_of_delivery_are_shown_and_tags_filter_lists() {
    let world = World::new();
    world.app("shop").await;
    world.endpoint("shop", "e").await;
    let soon = "2026-01-02T03:14:05Z";
    let body = json!({ "eventType": "a", "payload": {}, "tags": ["vip", "eu"], "deliverAt": soon });
    let made = world.post("/app/shop/msg", body).await.expect(202);
    assert_eq!((&made["tags"], &made["deliverAt"]), (&json!(["vip", "eu"]), &json!(soon)));
    let body = json!({ "eventType": "a", "payload": {}, "tags": [], "deliverAt": "2026-01-01T00:00:00Z" });
    let plain = world.post("/app/shop/msg", body).await.expect(202);
    assert_eq!((&plain["tags"], plain.get("deliverAt")), (&Value::Null, None), "the past is at once");
    let read = world.get(&format!("/app/shop/msg/{}", id(&made))).await.expect(200);
    assert_eq!(read, made);
    for (filter, want) in [("?tag=vip", vec![id(&made)]), ("?tag=e", vec![]), ("", vec![id(&plain), id(&made)])] {
        assert_eq!(ids(&world.get(&format!("/app/shop/msg{filter}")).await.expect(200)), want, "{filter}");
    }
    assert_eq!(world.get("/app/shop/msg?tag=a%20b").await.invalid(), ["query.tag"]);
}

#[tokio::test]
async fn where_names_seldom_come_together_is_found_page_by_page() {
    let world = World::new();
    world.app("shop").await;
    world.endpoint("shop", "e").await;
    let named =
        |tags: Value, channels: Value| json!({ "eventType": "a", "payload": {}, "tags": tags, "channels": channels });
    let both = id(&world.post("/app/shop/msg", named(json!(["x"]), json!(["y"]))).await.expect(202));
    let mut made = vec![both.clone()];
    while made.len() < postrider_store::PAGE_ROWS + 100 {
        let pairs = (0..20).flat_map(|_| [named(json!(["x"]), Value::Null), named(Value::Null, json!(["y"]))]);
        let batch = world.post("/app/shop/msg/batch", json!(pairs.collect::<Vec<_>>())).await.expect(202);
        made.extend(ids(&batch));
        // What several commits make within one instant makes long blocks.
        world.clock.advance(Duration::from_millis(100));
    }
    world.attempts_that_wait("shop", "e", &made, world.clock.now().saturating_add(Duration::from_secs(3_600))).await;
    for list in ["msg", "attempt/endpoint/e"] {
        let (mut query, mut pages) = (String::new(), Vec::new());
        while pages.last().is_none_or(|page: &Value| page["done"] == false) {
            let page = world.get(&format!("/app/shop/{list}?tag=x&channel=y{query}")).await.expect(200);
            query = format!("&iterator={}", page["iterator"].as_str().unwrap());
            pages.push(page);
        }
        let found: Vec<&Value> = pages.iter().flat_map(|page| page["data"].as_array().unwrap()).collect();
        assert_eq!((found.len(), pages.len()), (1, 2), "{list}");
        assert!([&found[0]["id"], &found[0]["msgId"]].contains(&&json!(both)), "{list}: {found:?}");
        // And back: nothing is left out, and nothing is there.
        let back = pages[1]["prevIterator"].as_str().unwrap();
        let back = world.get(&format!("/app/shop/{list}?tag=x&channel=y&iterator={back}")).await.expect(200);
        assert_eq!((ids(&back).len(), &back["done"]), (0, &json!(false)), "{list}");
    }
}

#[tokio::test]
async fn a_delivery_after_the_payload_is_gone_is_refused() {
    let world = World::new();
    world.app("shop").await;
    let send = async |hours: Option<u32>, at: &str| {
        let body = json!({ "eventType": "a", "payload": {}, "payloadRetentionHours": hours, "deliverAt": at });
        world.post("/app/shop/msg", body).await
    };
    send(Some(1), "2026-01-02T04:00:00Z").await.expect(202);
    assert_eq!(send(Some(1), "2026-01-02T04:10:00Z").await.invalid(), ["body.deliverAt"]);
    send(None, "2026-04-02T03:00:00Z").await.expect(202);
    assert_eq!(send(None, "2026-04-03T00:00:00Z").await.invalid(), ["body.deliverAt"]);
}

#[tokio::test]
async fn a_payload_expires_at_its_time_and_its_message_stays() {
    let world = World::new();
    world.app("shop").await;
    world.endpoint("shop", "e").await;
    let body = |hours: Option<u32>| json!({ "eventType": "a", "payload": { "n": 1 }, "payloadRetentionHours": hours });
    let short = world.post("/app/shop/msg", body(Some(2))).await.expect(202);
    let usual = world.post("/app/shop/msg", body(None)).await.expect(202);
    let kept = Duration::from_secs(90 * 86_400);
    let read = async |message: &Value| world.get(&format!("/app/shop/msg/{}", id(message))).await.expect(200);
    for (hours, gone) in [(1, [false, false]), (1, [true, false]), (90 * 24, [true, true])] {
        world.clock.advance(Duration::from_secs(hours * 3_600));
        world.store.sweep_payloads(world.clock.now(), kept, 100).await.unwrap();
        for (message, gone) in [&short, &usual].into_iter().zip(gone) {
            let shown = read(message).await;
            assert_eq!(shown["payload"], if gone { json!({ "expired": true }) } else { json!({ "n": 1 }) });
            assert_eq!((&shown["eventType"], &shown["timestamp"]), (&json!("a"), &message["timestamp"]));
            let resend = format!("/app/shop/msg/{}/endpoint/e/resend", id(message));
            let answer = world.post(&resend, Value::Null).await;
            if gone { answer.refused(400, "missing_payload") } else { drop(answer.expect(202)) }
        }
    }
}

#[tokio::test]
async fn a_body_that_waits_behind_those_of_others_for_too_long_is_no_fault_of_its_sender() {
    let world = World::new();
    let tenant = |number: usize| Tenant::environment(EnvironmentId::parse(&format!("org_{number}")).unwrap());
    let mut turns = Vec::new();
    while let Some(turn) = world.intake.reading_turn(tenant(turns.len())).now_or_never() {
        turns.push(turn.unwrap());
    }
    tokio::time::pause();
    assert!(matches!(world.intake.reading_turn(tenant(turns.len())).await, Err(SubmitError::Overloaded)));
    drop(turns);
}

#[tokio::test]
async fn a_body_that_is_no_message_says_what_to_send() {
    let world = World::new();
    world.app("shop").await;
    let large = vec![b' '; 2 * 1024 * 1024 + 1];
    for (body, status, said) in [
        (Bytes::new(), 422, "the body is missing: send a JSON object"),
        (Bytes::from_static(b" [{}]"), 422, "/msg/batch"),
        (Bytes::from(large), 413, "it may have 2097152 bytes"),
    ] {
        let answer = post_text(&world, "/app/shop/msg", body).await;
        assert!(answer.status == status && answer.text.contains(said), "{answer:?}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_in_one_form() {
    let world = World::new();
    world.app("shop").await;
    for (method, path) in [
        ("GET", "/app/none"),
        ("DELETE", "/app/none"),
        ("GET", "/app/shop/msg/none"),
        ("DELETE", "/app/shop/endpoint/none"),
        ("GET", "/catalogue/org_none"),
        ("GET", "/none"),
    ] {
        let answer = world.send_as(&org_token(ORG), method, path, None).await;
        answer.refused(404, "not_found");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("Entity not found: "), "{method} {path}: {detail}");
    }
}
