//! What came of delivering: attempted messages of an endpoint, destinations of a message (rest-contract §10).

use std::time::Duration;

use postrider_domain::clock::Clock as _;
use postrider_domain::delivery::Next;
use serde_json::{Value, json};

use crate::world::{World, id, ids};

const DAY: Duration = Duration::from_secs(86_400);

/// A shop with endpoints `e` and `f`, and a message for each way in which delivering to `e` can go: never tried, waiting,
/// failed, delivered at once, delivered in the end.
async fn shop() -> (World, [String; 5]) {
    let world = World::new();
    world.app("shop").await;
    world.endpoint("shop", "e").await;
    world.endpoint("shop", "f").await;
    let mut messages = Vec::new();
    for (kind, channel) in [("a", "x"), ("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")] {
        let body = json!({ "eventType": kind, "channels": [channel], "payload": { "n": 1 } });
        messages.push(id(&world.post("/app/shop/msg", body).await.expect(202)));
    }
    let [never, waiting, failed, delivered, in_the_end] = messages.try_into().unwrap();
    let first = (0, None);
    let later = world.clock.now().saturating_add(DAY);
    world.attempt_then(("shop", "e", &waiting), first, (500, b""), Next::Waiting(later)).await;
    world.attempt_then(("shop", "e", &failed), first, (404, b""), Next::Exhausted).await;
    world.attempt_then(("shop", "e", &delivered), first, (200, b""), Next::Succeeded).await;
    world.attempt_then(("shop", "e", &in_the_end), first, (500, b""), Next::Waiting(later)).await;
    world.attempt_then(("shop", "e", &in_the_end), (1, Some(later)), (204, b""), Next::Succeeded).await;
    world.attempt("shop", "f", &never, 200, b"").await;
    (world, [never, waiting, failed, delivered, in_the_end])
}

async fn listed(world: &World, query: &str) -> Vec<String> {
    ids(&world.get(&format!("/app/shop/endpoint/e/msg?{query}")).await.expect(200))
}

#[tokio::test]
async fn every_attempted_message_is_listed_once_as_its_latest_attempt_says() {
    let (world, [_, waiting, failed, delivered, in_the_end]) = shop().await;
    let list = world.get("/app/shop/endpoint/e/msg").await.expect(200);
    assert_eq!(ids(&list), [&in_the_end, &delivered, &failed, &waiting].map(Clone::clone));
    let statuses: Vec<(u64, &str)> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["status"].as_u64().unwrap(), row["statusText"].as_str().unwrap()))
        .collect();
    assert_eq!(statuses, [(0, "success"), (0, "success"), (2, "fail"), (3, "sending")]);
    let row = &list["data"][3];
    let mut message = world.get(&format!("/app/shop/msg/{waiting}")).await.expect(200);
    assert_eq!(row["nextAttempt"], "2026-01-03T03:04:05.040Z");
    assert!(list["data"][2].get("nextAttempt").is_none(), "{list}");
    message["status"] = json!(3);
    message["statusText"] = json!("sending");
    message["nextAttempt"] = row["nextAttempt"].clone();
    assert_eq!(*row, message, "the message's own members are beside them");
    let bare = world.get("/app/shop/endpoint/e/msg?with_content=false").await.expect(200);
    assert_eq!(bare["data"][0]["payload"], json!({}));
}

#[tokio::test]
async fn attempted_messages_are_filtered_by_how_they_stand() {
    let (world, [_, waiting, failed, delivered, in_the_end]) = shop().await;
    for (query, want) in [
        ("status=0", vec![&in_the_end, &delivered]),
        ("status=1", vec![]),
        ("status=2", vec![&failed]),
        ("status=3", vec![&waiting]),
        ("status=0&event_types=b&channel=y", vec![&in_the_end]),
        ("status=3&event_types=b", vec![]),
        ("status=2&channel=y&event_types=b,a", vec![&failed]),
        ("channel=y", vec![&in_the_end, &failed]),
        ("event_types=a", vec![&failed, &waiting]),
        ("event_types=none", vec![]),
    ] {
        assert_eq!(listed(&world, query).await.iter().collect::<Vec<_>>(), want, "{query}");
    }
    world.attempt("shop", "e", &delivered, 500, b"").await;
    assert_eq!(listed(&world, "status=0").await, [in_the_end, delivered], "it was delivered, whatever came later");
    assert_eq!(listed(&world, "status=2").await, [failed]);
}

#[tokio::test]
async fn what_will_be_tried_again_is_looked_for_in_the_last_week() {
    let (world, [_, waiting, ..]) = shop().await;
    world.clock.advance(6 * DAY);
    assert_eq!(listed(&world, "status=3").await, std::slice::from_ref(&waiting));
    world.clock.advance(2 * DAY);
    assert_eq!(listed(&world, "status=3").await, Vec::<String>::new());
    assert!(listed(&world, "").await.contains(&waiting));
}

#[tokio::test]
async fn what_is_in_no_index_is_found_page_by_page() {
    let world = World::new();
    world.app("shop").await;
    world.endpoint("shop", "e").await;
    let later = world.clock.now().saturating_add(DAY);
    let canceled = world.message("shop", "a").await;
    world.attempt_then(("shop", "e", &canceled), (0, None), (500, b""), Next::Waiting(later)).await;
    for disabled in [true, false] {
        world.send("PATCH", "/app/shop/endpoint/e", json!({ "disabled": disabled })).await.expect(200);
        if disabled {
            world.cancel("shop", "e").await;
        }
    }
    let mut waiting = Vec::new();
    while waiting.len() < postrider_store::PAGE_ROWS + 100 {
        let items = vec![json!({ "eventType": "a", "payload": {} }); 700];
        let batch = world.post("/app/shop/msg/batch", json!(items)).await.expect(202);
        waiting.extend(ids(&batch));
    }
    world.attempts_that_wait("shop", "e", &waiting, later).await;
    let mut query = "status=4".to_owned();
    let (mut found, mut pages) = (Vec::new(), Vec::new());
    loop {
        let page = world.get(&format!("/app/shop/endpoint/e/msg?{query}")).await.expect(200);
        found.extend(ids(&page));
        pages.push(page.clone());
        if page["done"] == true {
            break;
        }
        query = format!("status=4&iterator={}", page["iterator"].as_str().unwrap());
    }
    assert_eq!((found, pages.len()), (vec![canceled.clone()], 2));
    // And back: nothing is left out.
    let oldest = format!("status=4&iterator=-{canceled}");
    let back = world.get(&format!("/app/shop/endpoint/e/msg?{oldest}")).await.expect(200);
    assert_eq!((ids(&back).len(), &back["done"]), (0, &json!(false)));
    let query = format!("status=4&iterator={}", back["prevIterator"].as_str().unwrap());
    let back = world.get(&format!("/app/shop/endpoint/e/msg?{query}")).await.expect(200);
    assert_eq!((ids(&back).len(), &back["done"]), (0, &json!(true)));
}

#[tokio::test]
async fn pages_of_attempted_messages_go_both_ways_under_a_filter() {
    let (world, [_, _, failed, delivered, in_the_end]) = shop().await;
    let get = async |query: String| world.get(&format!("/app/shop/endpoint/e/msg?{query}")).await.expect(200);
    let first = get("channel=y&limit=1".to_owned()).await;
    assert_eq!((ids(&first), &first["done"]), (vec![in_the_end.clone()], &json!(false)));
    let second = get(format!("channel=y&limit=1&iterator={}", first["iterator"].as_str().unwrap())).await;
    assert_eq!((ids(&second), &second["done"]), (vec![failed.clone()], &json!(true)));
    let back = get(format!("channel=y&iterator={}", second["prevIterator"].as_str().unwrap())).await;
    assert_eq!(ids(&back), std::slice::from_ref(&in_the_end));
    let at = world.get(&format!("/app/shop/msg/{delivered}")).await.expect(200)["timestamp"].clone();
    let at = at.as_str().unwrap();
    assert_eq!(ids(&get(format!("after={at}")).await), [in_the_end, delivered]);
    assert_eq!(ids(&get(format!("before={at}&channel=y")).await), [failed]);
    for (path, status, code) in [
        ("/app/shop/endpoint/none/msg", 404, "not_found"),
        ("/app/none/endpoint/e/msg", 404, "not_found"),
        ("/app/shop/endpoint/e/msg?status=5", 400, "generic_error"),
    ] {
        world.get(path).await.refused(status, code);
    }
    assert_eq!(world.get("/app/shop/endpoint/e/msg?iterator=ep_1").await.invalid(), ["query.iterator"]);
}

#[tokio::test]
async fn destinations_show_the_latest_attempt_even_of_deleted_endpoints() {
    let (world, [never, waiting, _, _, in_the_end]) = shop().await;
    world.attempt("shop", "f", &waiting, 200, b"").await;
    let path = format!("/app/shop/msg/{waiting}/endpoint");
    let list = world.get(&path).await.expect(200);
    let rows = list["data"].as_array().unwrap();
    let shown: Vec<(&Value, &Value, &Value)> =
        rows.iter().map(|row| (&row["uid"], &row["status"], &row["nextAttempt"])).collect();
    let next = json!("2026-01-03T03:04:05.040Z");
    assert_eq!(shown, [(&json!("e"), &json!(2), &next), (&json!("f"), &json!(0), &Value::Null)]);
    assert_eq!((&rows[0]["statusText"], &rows[1]["statusText"]), (&json!("fail"), &json!("success")));
    let mut endpoint = world.get("/app/shop/endpoint/e").await.expect(200);
    endpoint.as_object_mut().unwrap().remove("metadata");
    for (member, value) in [("status", json!(2)), ("statusText", json!("fail")), ("nextAttempt", next)] {
        endpoint[member] = value;
    }
    assert_eq!(rows[0], endpoint);
    assert_eq!(list["done"], true);

    let first = world.get(&format!("{path}?limit=1")).await.expect(200);
    assert_eq!((ids(&first), &first["done"]), (vec![id(&rows[0])], &json!(false)));
    let second =
        world.get(&format!("{path}?limit=1&iterator={}", first["iterator"].as_str().unwrap())).await.expect(200);
    assert_eq!((ids(&second), &second["done"]), (vec![id(&rows[1])], &json!(true)));
    let back = world.get(&format!("{path}?iterator={}", second["prevIterator"].as_str().unwrap())).await.expect(200);
    assert_eq!(ids(&back), ids(&first));

    world.delete("/app/shop/endpoint/e").await.expect(204);
    assert_eq!(ids(&world.get(&path).await.expect(200)), ids(&list), "deleted endpoints are still listed");
    let in_the_end = world.get(&format!("/app/shop/msg/{in_the_end}/endpoint")).await.expect(200);
    assert_eq!((&in_the_end["data"][0]["status"], &in_the_end["data"][0]["nextAttempt"]), (&json!(0), &Value::Null));
    assert_eq!(ids(&world.get(&format!("/app/shop/msg/{never}/endpoint")).await.expect(200)).len(), 1);
    world.get("/app/shop/msg/none/endpoint").await.refused(404, "not_found");
    assert_eq!(world.get(&format!("{path}?iterator=msg_x")).await.invalid(), ["query.iterator"]);
}

#[tokio::test]
async fn a_page_of_large_payloads_ends_early_and_goes_on() {
    let world = World::new();
    world.app("shop").await;
    let mut messages = Vec::new();
    for _ in 0..11 {
        let body = json!({ "eventType": "a", "payload": { "text": "x".repeat(1_000_000) } });
        messages.push(id(&world.post("/app/shop/msg?with_content=false", body).await.expect(202)));
    }
    messages.reverse();
    for path in ["/app/shop/msg?", "/app/shop/msg?event_types=a&"] {
        let first = world.get(path).await.expect(200);
        assert_eq!(ids(&first), messages[..3], "2 MiB, and what the last one brings");
        assert_eq!(first["done"], false);
        let rest = world.get(&format!("{path}iterator={}", first["iterator"].as_str().unwrap())).await.expect(200);
        assert_eq!((ids(&rest), &rest["done"]), (messages[3..6].to_vec(), &json!(false)));
        let back = world.get(&format!("{path}iterator={}", rest["prevIterator"].as_str().unwrap())).await.expect(200);
        assert_eq!((ids(&back), &back["done"]), (messages[..3].to_vec(), &json!(true)));
        let all = world.get(&format!("{path}with_content=false")).await.expect(200);
        assert_eq!((ids(&all), &all["done"]), (messages.clone(), &json!(true)));
    }
}
