//! Erasing payloads and answers.

use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn an_erased_payload_reads_as_expired_and_is_not_sent_again() {
    let world = World::new();
    let app = world.app("shop").await;
    world.endpoint("shop", "ep").await;
    let message = world.message("shop", "a.b").await;
    let path = format!("/app/{app}/msg/{message}");
    for _ in 0..2 {
        world.delete(&format!("{path}/content")).await.expect(204);
    }
    let one = world.get(&path).await;
    assert!(one.text.contains(r#""payload":{"expired":true}"#), "{}", one.text);
    assert_eq!(world.get("/app/shop/msg").await.expect(200)["data"][0]["payload"], json!({ "expired": true }));
    world.post(&format!("{path}/endpoint/ep/resend"), json!({})).await.refused(400, "missing_payload");
    world.delete("/app/shop/msg/nothing/content").await.refused(404, "not_found");
}

#[tokio::test]
async fn an_erased_answer_reads_as_such() {
    let world = World::new();
    world.app("shop").await;
    world.endpoint("shop", "ep").await;
    let message = world.message("shop", "a.b").await;
    let attempt = world.attempt("shop", "ep", &message, 500, b"oops").await;
    let path = format!("/app/shop/msg/{message}/attempt/{attempt}");
    assert_eq!(world.get(&path).await.expect(200)["response"], "oops");
    for _ in 0..2 {
        world.delete(&format!("{path}/content")).await.expect(204);
    }
    let erased = world.get(&path).await.expect(200);
    assert_eq!((&erased["response"], &erased["responseStatusCode"]), (&json!("EXPUNGED"), &json!(500)));
    world.delete(&format!("/app/shop/msg/{message}/attempt/x/content")).await.refused(404, "not_found");
}
