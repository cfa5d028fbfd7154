//! Lists and their pages (rest-contract §3), over all kinds of list.

use std::time::Duration;

use serde_json::{Value, json};

use crate::world::{World, id, ids};

/// Everything that a list shows when it is walked forward, page by page.
async fn walk(world: &World, path: &str, limit: usize) -> Vec<String> {
    let mut seen = Vec::new();
    let mut iterator = String::new();
    loop {
        let page = world.get(&format!("{path}limit={limit}{iterator}")).await.expect(200);
        seen.extend(ids(&page));
        if page["done"] == true {
            return seen;
        }
        assert_eq!(ids(&page).len(), limit);
        iterator = format!("&iterator={}", page["iterator"].as_str().unwrap());
    }
}

/// The page that `iterator` of the answer, or with `prevIterator` the one before, leads to.
async fn follow(world: &World, path: &str, page: &Value, member: &str) -> Value {
    world.get(&format!("{path}iterator={}", page[member].as_str().unwrap())).await.expect(200)
}

#[tokio::test]
async fn every_list_is_walked_in_both_directions() {
    let world = World::new();
    world.app("shop").await;
    let (mut apps, mut endpoints, mut messages, mut attempts, mut types) = (vec![], vec![], vec![], vec![], vec![]);
    for n in 0..5 {
        apps.push(world.app(&format!("app{n}")).await);
        endpoints.push(world.endpoint("shop", &format!("ep{n}")).await);
        messages.push(world.message("shop", "a").await);
        attempts.push(world.attempt("shop", "ep0", &messages[n], 200, b"").await);
        let name = format!("type{n}");
        world.post("/event-type", json!({ "name": name, "description": "" })).await.expect(201);
        types.push(name);
    }
    apps.insert(0, id(&world.get("/app/shop").await.expect(200)));
    let reversed = |list: &[String]| list.iter().rev().cloned().collect::<Vec<_>>();
    for (path, want) in [
        ("/app?", apps.clone()),
        ("/app?order=ascending&", apps.clone()),
        ("/app?order=descending&", reversed(&apps)),
        ("/app/shop/endpoint?", reversed(&endpoints)),
        ("/app/shop/endpoint?order=ascending&", endpoints.clone()),
        ("/app/shop/msg?", reversed(&messages)),
        ("/app/shop/attempt/endpoint/ep0?", reversed(&attempts)),
        ("/event-type?", types.clone()),
        ("/event-type?order=descending&", types),
    ] {
        for limit in [1, 2, 3, 50] {
            assert_eq!(walk(&world, path, limit).await, want, "{path} {limit}");
        }
        let first = world.get(&format!("{path}limit=2")).await.expect(200);
        let second = follow(&world, &format!("{path}limit=2&"), &first, "iterator").await;
        let back = follow(&world, &format!("{path}limit=2&"), &second, "prevIterator").await;
        assert_eq!(ids(&back), ids(&first), "{path}");
        assert_eq!(back["done"], true, "{path}");
        assert_eq!(
            ids(&follow(&world, &format!("{path}limit=1&"), &second, "prevIterator").await),
            want[1..2],
            "{path}"
        );
    }
}

#[tokio::test]
async fn an_empty_list_has_an_iterator_that_is_null() {
    let world = World::new();
    assert_eq!(world.get("/app").await.text, r#"{"data":[],"iterator":null,"done":true}"#);
    world.app("shop").await;
    assert_eq!(world.get("/app?limit=0").await.text, r#"{"data":[],"iterator":null,"done":false}"#);
}

#[tokio::test]
async fn the_largest_page_of_every_list_and_poller_is_what_it_was_charged_beforehand() {
    let charged = postrider_api::limits().into_iter().find(|limit| limit.what.starts_with("What a list"));
    let charged: usize = charged.unwrap().bound.trim_end_matches(" bytes").parse().unwrap();
    let world = World::new();
    world.app("shop").await;
    // Each takes two bytes of JSON, and six in what receivers answer.
    let quotes = "\"".repeat(4_096);
    let metadata = json!({ "a": "x".repeat(4_000) });
    for n in 0..250 {
        let endpoint = json!({ "url": "https://example.com/hook", "uid": format!("ep{n}"), "description": quotes,
                               "metadata": metadata, "disabled": n > 0 });
        world.post("/app/shop/endpoint", endpoint).await.expect(201);
        let event_type = json!({ "name": format!("type{n}"), "description": quotes,
                                 "schemas": { "1": { "description": metadata["a"] } } });
        world.post("/event-type", event_type).await.expect(201);
        world.post("/app", json!({ "name": &quotes[..1_024], "metadata": metadata })).await.expect(201);
    }
    let name = |n: usize| format!("{n:0>256}");
    let (channels, tags) = ((0..5).map(name).collect::<Vec<_>>(), (0..10).map(name).collect::<Vec<_>>());
    for n in 0..250 {
        // Large ones, with many between them that are small but for their names.
        let payload = json!({ "a": "x".repeat(if n == 1 || (200..205).contains(&n) { 2_070_000 } else { 0 }) });
        let message = json!({ "eventType": name(0), "eventId": name(n), "channels": channels, "tags": tags,
                              "payload": payload });
        let message = id(&world.post("/app/shop/msg", message).await.expect(202));
        world.attempt("shop", "ep0", &message, 500, "\u{1}".repeat(20_000).as_bytes()).await;
    }
    for (path, least) in [
        ("/app/shop/poller/ep0?", 4),
        ("/app/shop/poller/ep0/consumer/one?", 4),
        ("/app/shop/msg?", 4),
        ("/app/shop/endpoint/ep0/msg?", 1),
        ("/app/shop/attempt/endpoint/ep0?with_content=true&with_msg=true&", 2),
        ("/app/shop/endpoint?", 2),
        ("/event-type?with_content=true&", 2),
        ("/app?", 1),
    ] {
        let page = world.get(&format!("{path}limit=250")).await;
        page.expect(200);
        let size = page.text.len();
        assert!((least << 20..=charged).contains(&size), "{path}: {size} of {charged}");
    }
}

#[tokio::test]
async fn limits_orders_and_iterators_are_checked_before_the_caller() {
    let world = World::new();
    for (query, status) in [
        ("limit=250", 401),
        ("limit=300", 422),
        ("limit=x", 422),
        ("limit=-1", 422),
        ("order=sideways", 400),
        ("iterator=BAD-$$$ITERATOR", 422),
        ("iterator=ep_0ujtsYcgvSTl8PAuAdqWYSMnLOv", 422),
        ("iterator=app_0ujtsYcgvSTl8PAuAdqWYSMnLOv", 401),
        ("iterator=-app_0ujtsYcgvSTl8PAuAdqWYSMnLOv", 401),
    ] {
        let answer = world.raw("GET", &format!("/api/v1/app?{query}"), crate::world::Extras::default()).await;
        assert_eq!(answer.status, status, "{query}: {}", answer.text);
    }
}

#[tokio::test]
async fn lists_by_time_can_be_cut_on_both_sides() {
    let world = World::new();
    world.app("shop").await;
    let (mut messages, mut times) = (vec![], vec![]);
    for _ in 0..5 {
        let message = world.message("shop", "a").await;
        let shown = world.get(&format!("/app/shop/msg/{message}")).await.expect(200);
        times.push(shown["timestamp"].as_str().unwrap().to_owned());
        messages.push(message);
    }
    let list = async |query: String| {
        let page = world.get(&format!("/app/shop/msg?{query}")).await.expect(200);
        (ids(&page), page["done"].clone(), page)
    };
    let newest_first = |from: usize, to: usize| messages[from..to].iter().rev().cloned().collect::<Vec<_>>();
    assert_eq!(list(format!("after={}", times[1])).await.0, newest_first(1, 5), "after is inclusive");
    assert_eq!(list(format!("before={}", times[3])).await.0, newest_first(0, 3), "before is exclusive");
    let both = format!("after={}&before={}", times[1], times[4]);
    assert_eq!(list(both.clone()).await.0, newest_first(1, 4));
    let (page, done, body) = list(format!("{both}&limit=2")).await;
    assert_eq!((page, done), (newest_first(2, 4), json!(false)));
    let rest = list(format!("{both}&limit=2&iterator={}", body["iterator"].as_str().unwrap())).await;
    assert_eq!((rest.0, rest.1), (newest_first(1, 2), json!(true)));
    let free = list(format!("limit=9&iterator={}", body["iterator"].as_str().unwrap())).await;
    assert_eq!(free.0, newest_first(0, 2), "an iterator may be used without the filter");

    let (page, done, body) = list(format!("after={}&limit=2", times[1])).await;
    assert_eq!((page, done), (newest_first(1, 3), json!(false)), "after alone shows the oldest");
    let newer = list(format!("limit=2&iterator={}", body["prevIterator"].as_str().unwrap())).await;
    assert_eq!((newer.0, newer.1), (newest_first(3, 5), json!(true)));

    world.clock.advance(Duration::from_secs(91 * 86_400));
    assert_eq!(list(String::new()).await.0, Vec::<String>::new(), "only the last 90 days are shown");
    assert_eq!(list(format!("before={}", times[4].replace("2026-01", "2026-02"))).await.0, newest_first(0, 5));
    assert_eq!(
        list(format!("before={}%20UTC", times[3].trim_end_matches('Z').replace('T', "%20"))).await.0,
        newest_first(0, 3)
    );
}
