//! Messages on their way: what arrives, signed by whom, when tried again.

use serde_json::json;
use svix::api::{MessageCreateOptions, MessageGetOptions, MessageListOptions};
use svix::models::*;

use crate::support::*;

pub async fn what_is_sent_arrives_and_verifies() {
    let (sdk, mut receiver) = (sdk(), Receiver::start().await);
    let owner = app(|app| app.uid = Some("main".into())).await;
    let target = endpoint(&owner, &receiver.url, |_| ()).await;
    let body = with(MessageIn::new("user.created".into(), json!({ "name": "Zoë", "n": 1 })), |message| {
        message.event_id = Some("first".into());
    });
    let options = MessageCreateOptions { with_content: Some(true), ..Default::default() };
    let sent = sdk.message().create("main".into(), body, Some(options)).await.unwrap();
    assert_eq!(sent.payload, json!({ "name": "Zoë", "n": 1 }));
    assert_eq!((&*sent.event_type, sent.event_id.as_deref()), ("user.created", Some("first")));
    let arrived = receiver.next().await;
    assert_eq!(arrived.header("webhook-id"), sent.id);
    // The SDK writes the members of an object in the order of their names.
    assert_eq!(arrived.body, r#"{"n":1,"name":"Zoë"}"#);
    arrived.assert_verifies(&secret_of(&owner, &target.id).await);

    let attempt = attempts(&owner, &sent, 1, |options| options.with_content = Some(true)).await.swap_remove(0);
    assert_eq!((attempt.status, attempt.response_status_code), (MessageStatus::Success, 200));
    assert_eq!((&attempt.msg_id, &attempt.endpoint_id), (&sent.id, &target.id));
    assert_eq!((&*attempt.url, &*attempt.response), (&*receiver.url, ""));
    assert!(attempt.timestamp >= sent.timestamp);
    let one = sdk.message_attempt().get(owner.id.clone(), sent.id.clone(), attempt.id.clone(), None).await.unwrap();
    assert_eq!((one.id, one.timestamp), (attempt.id, attempt.timestamp));
    let whole = Some(MessageGetOptions { with_content: Some(true) });
    assert_eq!(sdk.message().get(owner.id.clone(), "first".into(), whole).await.unwrap(), sent);
    let whole = Some(MessageListOptions { with_content: Some(true), ..Default::default() });
    let listed = sdk.message().list(owner.id.clone(), whole).await.unwrap();
    assert_eq!((listed.done, &listed.data), (true, &vec![sent.clone()]));
    assert_eq!(sdk.message().get(owner.id, sent.id, None).await.unwrap().payload, json!({}));
}

pub async fn a_raw_payload_arrives_as_it_is() {
    let mut receiver = Receiver::start().await;
    let owner = app(|_| ()).await;
    let target = endpoint(&owner, &receiver.url, |_| ()).await;
    let text = r#"{ "b" : 1.0,  "a":"\u00e9" }"#;
    let body = MessageIn::new_raw_payload("a".into(), text.into());
    sdk().message().create(owner.id.clone(), body, None).await.unwrap();
    let arrived = receiver.next().await;
    assert_eq!(arrived.body, text);
    arrived.assert_verifies(&secret_of(&owner, &target.id).await);
}

pub async fn a_failure_is_retried_and_logged_and_a_resend_is_possible() {
    let (sdk, mut receiver) = (sdk(), Receiver::start().await);
    let owner = app(|_| ()).await;
    let target = endpoint(&owner, &receiver.url, |_| ()).await;
    receiver.answer([500, 503]);
    let sent = message(&owner, |_| ()).await;
    assert_eq!(receiver.ids(3).await, [&*sent.id; 3]);
    assert_eq!(codes(&attempts(&owner, &sent, 3, |_| ()).await), [200, 503, 500]);
    let failed = attempts(&owner, &sent, 2, |options| options.status = Some(MessageStatus::Fail)).await;
    assert_eq!(codes(&failed), [503, 500]);
    sdk.message_attempt().resend(owner.id.clone(), sent.id.clone(), target.id.clone(), None).await.unwrap();
    let arrived = receiver.next().await;
    assert_eq!(arrived.header("webhook-id"), sent.id);
    arrived.assert_verifies(&secret_of(&owner, &target.id).await);
    let found = attempts(&owner, &sent, 4, |_| ()).await;
    assert_eq!(found[0].trigger_type, MessageAttemptTriggerType::Manual);
    let stats = sdk.endpoint().get_stats(owner.id, target.id, None).await.unwrap();
    assert_eq!((stats.success, stats.fail, stats.pending, stats.sending), (2, 2, 0, 0));
}

pub async fn a_secret_is_rotated_and_both_sign() {
    let (sdk, mut receiver) = (sdk(), Receiver::start().await);
    let owner = app(|_| ()).await;
    let target = endpoint(&owner, &receiver.url, |_| ()).await;
    let old = secret_of(&owner, &target.id).await;
    let rotate = async |body| sdk.endpoint().rotate_secret(owner.id.clone(), target.id.clone(), body, None).await;
    let rotated = rotate(EndpointSecretRotateIn::new()).await.unwrap();
    let fresh = secret_of(&owner, &target.id).await;
    assert_ne!(fresh, old);
    assert_eq!(rotated.key, fresh);
    message(&owner, |_| ()).await;
    let arrived = receiver.next().await;
    arrived.assert_verifies(&old);
    arrived.assert_verifies(&fresh);
    let given = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    rotate(with(EndpointSecretRotateIn::new(), |body| body.key = Some(given.into()))).await.unwrap();
    assert_eq!(secret_of(&owner, &target.id).await, given);
    message(&owner, |_| ()).await;
    let arrived = receiver.next().await;
    for secret in [&old, &fresh, given] {
        arrived.assert_verifies(secret);
    }
}

pub async fn event_types_and_channels_filter() {
    let (sdk, mut receiver) = (sdk(), Receiver::start().await);
    let owner = app(|_| ()).await;
    for name in ["order.paid", "order.sent"] {
        event_type(name, |_| ()).await;
    }
    endpoint(&owner, &receiver.url, |endpoint| {
        endpoint.event_types = Some(set(["order.paid"]));
        endpoint.channels = Some(set(["eu"]));
    })
    .await;
    let send = async |kind: &str, channels: &[&str]| {
        message(&owner, |message| {
            message.event_type = kind.into();
            message.channels = Some(set(channels.iter().copied())).filter(|_| !channels.is_empty());
        })
        .await
    };
    send("order.sent", &["eu"]).await;
    send("order.paid", &["us"]).await;
    send("order.paid", &[]).await;
    let wanted = send("order.paid", &["eu", "us"]).await;
    assert_eq!(wanted.channels, Some(set(["eu", "us"])));
    assert_eq!(receiver.ids(1).await, [wanted.id]);
    assert!(receiver.is_empty());
    for (channel, active) in [("eu", true), ("us", false)] {
        let asked = with(MessagePrecheckIn::new("order.paid".into()), |asked| asked.channels = Some(set([channel])));
        assert_eq!(sdk.message().precheck(owner.id.clone(), asked, None).await.unwrap().active, active);
    }
}

pub async fn the_same_idempotency_key_is_one_message() {
    let (sdk, mut receiver) = (sdk(), Receiver::start().await);
    let owner = app(|_| ()).await;
    endpoint(&owner, &receiver.url, |_| ()).await;
    let body = MessageIn::new("a".into(), json!({ "x": 1 }));
    let once = async || {
        let options = MessageCreateOptions { idempotency_key: Some("once".into()), ..Default::default() };
        sdk.message().create(owner.id.clone(), body.clone(), Some(options)).await.unwrap()
    };
    let first = once().await;
    assert_eq!(once().await, first);
    let after = message(&owner, |_| ()).await;
    let mut both = [first.id, after.id];
    both.sort();
    assert_eq!(receiver.ids(2).await, both);
    assert_eq!(sdk.message().list(owner.id, None).await.unwrap().data.len(), 2);
}

pub async fn an_example_is_sent() {
    let (sdk, mut receiver) = (sdk(), Receiver::start().await);
    let owner = app(|_| ()).await;
    let target = endpoint(&owner, &receiver.url, |_| ()).await;
    let schemas = json!({ "1": { "type": "object", "examples": [{ "id": 7 }] } });
    event_type("thing.made", |made| made.schemas = Some(schemas)).await;
    event_type("thing.bare", |_| ()).await;
    let example = async |name: &str| {
        let body = EventExampleIn::new(name.into());
        sdk.endpoint().send_example(owner.id.clone(), target.id.clone(), body, None).await
    };
    for (name, text) in [("thing.made", r#"{"id":7}"#), ("svix.ping", r#"{"success": true}"#)] {
        let sent = example(name).await.unwrap();
        let arrived = receiver.next().await;
        assert_eq!((arrived.header("webhook-id"), &*arrived.body), (&*sent.id, text.as_bytes()));
        arrived.assert_verifies(&secret_of(&owner, &target.id).await);
    }
    assert_refused(example("thing.bare").await, 400, "invalid_scheme");
    assert_refused(example("thing.unknown").await, 404, "not_found");
}
