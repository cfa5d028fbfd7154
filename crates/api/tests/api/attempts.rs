//! Attempts, and asking for one more (rest-contract §10).

use serde_json::{Value, json};

use crate::world::{World, id, ids};

#[tokio::test]
async fn an_attempt_is_shown_as_it_went() {
    let world = World::new();
    world.app("shop").await;
    let endpoint = world.endpoint("shop", "e").await;
    let message = world.message("shop", "a").await;
    let attempt = world.attempt("shop", "e", &message, 500, "größer".as_bytes()).await;
    let shown = world.get(&format!("/app/shop/msg/{message}/attempt/{attempt}")).await.expect(200);
    assert_eq!(
        shown,
        json!({
            "id": attempt, "msgId": message, "endpointId": endpoint, "url": "https://example.com/hook", "status": 2,
            "statusText": "fail", "responseStatusCode": 500, "response": "größer", "responseDurationMs": 12,
            "triggerType": 0, "timestamp": shown["timestamp"],
        })
    );
    for path in ["/app/shop/attempt/endpoint/e".to_owned(), format!("/app/shop/attempt/msg/{message}")] {
        assert_eq!(world.get(&path).await.expect(200)["data"], json!([shown]), "{path}");
        let bare = world.get(&format!("{path}?with_content=false&expanded_statuses=true")).await.expect(200);
        assert_eq!(bare["data"][0]["response"], "{}");
    }
    let with_message = world.get("/app/shop/attempt/endpoint/e?with_msg=true").await.expect(200);
    let without_payload = world.get(&format!("/app/shop/msg/{message}?with_content=false")).await.expect(200);
    assert_eq!(with_message["data"][0]["msg"], without_payload);
    let read = world.get(&format!("/app/shop/msg/{message}/attempt/{attempt}?with_msg=true")).await.expect(200);
    assert_eq!(read["msg"], without_payload);
    let binary = world.message("shop", "a").await;
    world.attempt("shop", "e", &binary, 200, b"\xff\xfe").await;
    let list = world.get(&format!("/app/shop/attempt/msg/{binary}")).await.expect(200);
    assert_eq!((&list["data"][0]["response"], &list["data"][0]["statusText"]), (&json!("//4="), &json!("success")));
}

#[tokio::test]
async fn lists_are_filtered() {
    let world = World::new();
    world.app("shop").await;
    world.endpoint("shop", "e").await;
    world.endpoint("shop", "f").await;
    let body = json!({ "eventType": "a", "channels": ["x"], "payload": {} });
    let first = id(&world.post("/app/shop/msg", body).await.expect(202));
    let second = world.message("shop", "b").await;
    let ok = world.attempt("shop", "e", &first, 200, b"").await;
    let bad = world.attempt("shop", "e", &second, 404, b"").await;
    let other = world.attempt("shop", "f", &second, 0, b"").await;
    for (path, want) in [
        ("endpoint/e".to_owned(), vec![&bad, &ok]),
        ("endpoint/e?status=0".to_owned(), vec![&ok]),
        ("endpoint/e?status=2".to_owned(), vec![&bad]),
        ("endpoint/e?status=1".to_owned(), vec![]),
        ("endpoint/e?status=3".to_owned(), vec![]),
        ("endpoint/e?status_code_class=200".to_owned(), vec![&ok]),
        ("endpoint/e?status_code_class=400".to_owned(), vec![&bad]),
        ("endpoint/f?status_code_class=0".to_owned(), vec![&other]),
        ("endpoint/e?channel=x".to_owned(), vec![&ok]),
        ("endpoint/e?event_types=b".to_owned(), vec![&bad]),
        (format!("msg/{second}"), vec![&other, &bad]),
        (format!("msg/{second}?endpoint_id=f"), vec![&other]),
        (format!("msg/{first}?endpoint_id=f"), vec![]),
    ] {
        let list = world.get(&format!("/app/shop/attempt/{path}")).await.expect(200);
        assert_eq!(ids(&list).iter().collect::<Vec<_>>(), want, "{path}");
    }
    for (path, want) in [
        (format!("{second}/attempt"), vec![&other, &bad]),
        (format!("{second}/attempt?endpoint_id=f"), vec![&other]),
        (format!("{second}/endpoint/f/attempt"), vec![&other]),
        (format!("{first}/endpoint/f/attempt"), vec![]),
    ] {
        let list = world.get(&format!("/app/shop/msg/{path}")).await.expect(200);
        assert_eq!(ids(&list).iter().collect::<Vec<_>>(), want, "{path}");
    }
    for path in ["endpoint/none".to_owned(), "msg/none".to_owned(), format!("msg/{first}?endpoint_id=none")] {
        world.get(&format!("/app/shop/attempt/{path}")).await.refused(404, "not_found");
    }
    for query in ["status=5", "status=x", "status_code_class=250", "before=x"] {
        world.get(&format!("/app/shop/attempt/endpoint/e?{query}")).await.refused(400, "generic_error");
    }
    for path in [format!("/app/shop/msg/{second}/attempt/{ok}"), format!("/app/shop/msg/{first}/attempt/x")] {
        world.get(&path).await.refused(404, "not_found");
    }
}

#[tokio::test]
async fn one_more_attempt_is_asked_for() {
    let world = World::new();
    world.app("shop").await;
    world.endpoint("shop", "e").await;
    let message = world.message("shop", "a").await;
    world.attempt("shop", "e", &message, 500, b"").await;
    assert_eq!(world.pending("shop", "e").await, 0);
    let path = format!("/app/shop/msg/{message}/endpoint/e/resend");
    assert_eq!(world.send("POST", &path, Value::Null).await.expect(202), json!({}));
    assert_eq!(world.pending("shop", "e").await, 1);
    world.send("PATCH", "/app/shop/endpoint/e", json!({ "disabled": true })).await.expect(200);
    let said = world.send("POST", &path, Value::Null).await.expect(202);
    assert_eq!((&said["sent"], &said["code"]), (&json!(false), &json!("endpoint_disabled")));
    assert_eq!(world.pending("shop", "e").await, 1, "nothing is added for a disabled endpoint");
    world.post(&format!("/app/shop/msg/{message}/endpoint/none/resend"), json!({})).await.refused(404, "not_found");
    world.post("/app/shop/msg/none/endpoint/e/resend", json!({})).await.refused(404, "not_found");
}
