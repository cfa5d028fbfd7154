//! Polling an endpoint's messages.

use std::time::Duration;

use serde_json::{Value, json};

use crate::world::World;

async fn shop() -> World {
    let world = World::new();
    world.app("shop").await;
    world.message("shop", "before.the.endpoint").await;
    let endpoint = json!({ "url": "https://example.com/", "uid": "ep", "disabled": true });
    world.post("/app/shop/endpoint", endpoint).await.expect(201);
    world
}

fn ids(slice: &Value) -> Vec<&str> {
    slice["data"].as_array().unwrap().iter().map(|message| message["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_stream_begins_with_its_endpoint_and_goes_on_with_its_iterator() {
    let world = shop().await;
    let path = "/app/shop/poller/ep";
    let empty = world.get(path).await.expect(200);
    assert_eq!((ids(&empty), &empty["done"]), (vec![], &json!(true)));
    let mut sent = Vec::new();
    for _ in 0..3 {
        sent.push(world.message("shop", "a.b").await);
    }
    let next = async |slice: &Value| {
        let iterator = slice["iterator"].as_str().unwrap();
        world.get(&format!("{path}?limit=2&iterator={iterator}")).await.expect(200)
    };
    let first = next(&empty).await;
    assert_eq!((ids(&first), &first["done"]), (vec![sent[0].as_str(), &sent[1]], &json!(false)));
    assert_eq!(first["data"][0]["payload"], json!({ "n": 1 }));
    let second = next(&first).await;
    assert_eq!((ids(&second), &second["done"]), (vec![sent[2].as_str()], &json!(true)));
    assert_eq!(ids(&next(&second).await), Vec::<&str>::new());
    assert_eq!(world.get(&format!("{path}?iterator=nonsense")).await.invalid(), ["query.iterator"]);
}

#[tokio::test]
async fn a_stream_is_filtered_by_its_endpoint_and_by_its_reader() {
    let world = shop().await;
    world.post("/event-type", json!({ "name": "a.b", "description": "" })).await.expect(201);
    world.send("PATCH", "/app/shop/endpoint/ep", json!({ "eventTypes": ["a.b"] })).await.expect(200);
    let wanted = world.message("shop", "a.b").await;
    world.message("shop", "c.d").await;
    let count = async |query: &str| ids(&world.get(&format!("/app/shop/poller/ep{query}")).await.expect(200)).len();
    assert_eq!(ids(&world.get("/app/shop/poller/ep").await.expect(200)), [wanted]);
    assert_eq!(count("?event_type=a.b").await, 1);
    assert_eq!(count("?event_type=c.d").await, 0);
    assert_eq!(count("?channel=x").await, 0);
    assert_eq!(count("?after=2030-01-01T00:00:00Z").await, 0);
    assert_eq!(count("?after=2020-01-01T00:00:00Z").await, 1);
}

#[tokio::test]
async fn a_consumer_gets_a_slice_again_until_it_is_done_with_it() {
    let world = shop().await;
    let path = "/app/shop/poller/ep/consumer/billing";
    let (one, two) = (world.message("shop", "a.b").await, world.message("shop", "a.b").await);
    let mut first = Value::Null;
    for _ in 0..2 {
        first = world.get(&format!("{path}?limit=1")).await.expect(200);
        assert_eq!(ids(&first), [one.as_str()]);
    }
    let done = format!("{path}?iterator={}", first["iterator"].as_str().unwrap());
    assert_eq!(ids(&world.get(&done).await.expect(200)), [two.as_str()]);
    assert_eq!(ids(&world.get(path).await.expect(200)), [two.as_str()], "the first is done with");
    assert_eq!(ids(&world.get("/app/shop/poller/ep/consumer/audit").await.expect(200)).len(), 2);

    world.clock.advance(Duration::from_secs(60));
    let at = "2026-01-02T03:04:50Z";
    let sought = world.post(&format!("{path}/seek"), json!({ "after": at })).await.expect(200);
    assert!(sought["iterator"].is_string());
    assert_eq!(ids(&world.get(path).await.expect(200)), Vec::<&str>::new());
    world.post(&format!("{path}/seek"), json!({ "after": "2020-01-01 00:00:00" })).await.expect(200);
    assert_eq!(ids(&world.get(path).await.expect(200)).len(), 3);
    assert_eq!(world.post(&format!("{path}/seek"), json!({ "after": "soon" })).await.invalid(), ["body.after"]);
    world.get("/app/shop/poller/nowhere/consumer/billing").await.refused(404, "not_found");
}

#[tokio::test]
async fn a_consumer_beyond_as_many_as_there_may_be_is_refused_at_its_first_request() {
    let world = shop().await;
    world.message("shop", "a.b").await;
    let path = |number: usize| format!("/app/shop/poller/ep/consumer/c{number}");
    for number in 0..100 {
        world.get(&path(number)).await.expect(200);
    }
    world.get(&path(100)).await.refused(400, "limit_reached");
    world.get(&path(0)).await.expect(200);
}

#[tokio::test]
async fn a_consumer_begins_where_its_first_request_says() {
    let world = shop().await;
    let path = "/app/shop/poller/ep/consumer/billing";
    let one = world.message("shop", "a.b").await;
    let first = world.get(&format!("{path}?after=2030-01-01T00:00:00Z")).await.expect(200);
    assert_eq!(ids(&first), Vec::<&str>::new());
    assert_eq!(ids(&world.get(path).await.expect(200)), Vec::<&str>::new());
    world.post(&format!("{path}/seek"), json!({ "after": "2020-01-01T00:00:00Z" })).await.expect(200);
    assert!(ids(&world.get(path).await.expect(200)).contains(&one.as_str()));
}

#[tokio::test]
async fn of_first_requests_at_once_one_decides_where_a_consumer_begins() {
    let world = shop().await;
    let one = world.message("shop", "a.b").await;
    for number in 0..20 {
        let path = format!("/app/shop/poller/ep/consumer/c{number}");
        let (early, late) =
            (format!("{path}?after=2020-01-01T00:00:00Z"), format!("{path}?after=2030-01-01T00:00:00Z"));
        let (early, late) = tokio::join!(world.get(&early), world.get(&late));
        let (early, late, next) = (early.expect(200), late.expect(200), world.get(&path).await.expect(200));
        assert_eq!(ids(&early), ids(&late), "both are the same consumer");
        assert_eq!(ids(&early), ids(&next), "which is where it was told");
        assert!(ids(&early).is_empty() || ids(&early).contains(&one.as_str()));
    }
}

#[tokio::test]
async fn a_token_that_may_only_read_moves_nobodys_position() {
    let world = shop().await;
    let (one, two) = (world.message("shop", "a.b").await, world.message("shop", "a.b").await);
    let access = world.post("/auth/app-portal-access/shop", json!({ "readOnly": true })).await.expect(200);
    let token = access["token"].as_str().unwrap();
    let get = async |path: &str| world.send_as(token, "GET", path, None).await;
    let path = "/app/shop/poller/ep/consumer/billing";
    let first = get("/app/shop/poller/ep?limit=1").await.expect(200);
    assert_eq!(ids(&first), [one.as_str()], "reading without a name moves nothing");
    let passed = format!("{path}?iterator={}", first["iterator"].as_str().unwrap());
    for path in [path, &passed] {
        get(path).await.refused(403, "insufficient access");
    }
    assert_eq!(ids(&world.get(path).await.expect(200)), [one.as_str(), two.as_str()]);
}
