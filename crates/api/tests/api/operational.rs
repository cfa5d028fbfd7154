//! The endpoints at which an operator gets operational webhooks.

use serde_json::json;

use crate::world::{World, app_token, id, org_token};

const MANAGEMENT: &str = "org_00000000000SvixManagement00";
const PATH: &str = "/operational-webhook/endpoint";

#[tokio::test]
async fn an_operators_own_endpoints_are_those_of_his_application_in_the_management_environment() {
    let world = World::new();
    let body = json!({ "url": "https://example.com/ops", "uid": "ops", "headers": { "x-a": "b" } });
    let made = world.post(PATH, body).await.expect(201);
    assert_eq!(world.get(&format!("{PATH}/ops")).await.expect(200), made);
    assert_eq!(world.get(PATH).await.expect(200)["data"], json!([made]));
    let there = world.send_as(&org_token(MANAGEMENT), "GET", "/app/org_test/endpoint", None).await.expect(200);
    assert_eq!(there["data"], json!([made]));

    let headers = world.get(&format!("{PATH}/ops/headers")).await.expect(200);
    assert_eq!(headers["headers"], json!({ "x-a": "b" }));
    let key = world.get(&format!("{PATH}/ops/secret")).await.expect(200)["key"].clone();
    world.post(&format!("{PATH}/ops/secret/rotate"), json!({})).await.expect(204);
    assert_ne!(world.get(&format!("{PATH}/ops/secret")).await.expect(200)["key"], key);
    let put = world.send("PUT", &format!("{PATH}/ops"), json!({ "url": "https://example.com/2" })).await.expect(200);
    assert_eq!((&put["url"], &put["id"]), (&json!("https://example.com/2"), &made["id"]));
    world.delete(&format!("{PATH}/{}", id(&made))).await.expect(204);
    assert_eq!(world.get(PATH).await.expect(200)["data"], json!([]));
}

#[tokio::test]
async fn an_operators_own_application_is_made_again_after_its_deletion() {
    let world = World::new();
    let made = world.post(PATH, json!({ "url": "https://example.com/ops" })).await.expect(201);
    let (own, message) = (org_token(MANAGEMENT), json!({ "eventType": "a", "payload": {} }));
    world.send_as(&own, "POST", "/app/org_test/msg", Some(&message)).await.expect(202);
    world.send_as(&own, "DELETE", "/app/org_test", None).await.expect(204);
    assert_eq!(world.get(PATH).await.expect(200)["data"], json!([]));
    world.get(&format!("{PATH}/{}", id(&made))).await.refused(404, "not_found");
}

#[tokio::test]
async fn operators_do_not_see_each_others_endpoints() {
    let world = World::new();
    let made = id(&world.post(PATH, json!({ "url": "https://example.com/ops" })).await.expect(201));
    let other = org_token("org_other");
    assert_eq!(world.send_as(&other, "GET", PATH, None).await.expect(200)["data"], json!([]));
    world.send_as(&other, "GET", &format!("{PATH}/{made}"), None).await.refused(404, "not_found");
    let app = world.app("shop").await;
    world.send_as(&app_token(&app, &[]), "GET", PATH, None).await.refused(403, "insufficient access");
}
