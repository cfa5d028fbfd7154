//! Who may do what, what an environment is told of itself, and how the SDK hears of errors.

use serde_json::json;
use svix::Svix;
use svix::models::*;

use crate::support::*;

pub async fn a_portal_token_reaches_its_application_only() {
    let (sdk, receiver) = (sdk(), Receiver::start().await);
    let mine = app(|app| app.uid = Some("mine".into())).await;
    let others = app(|app| app.uid = Some("others".into())).await;
    endpoint(&mine, &receiver.url, |endpoint| endpoint.uid = Some("one".into())).await;
    let access = async |body: AppPortalAccessIn| -> Svix {
        client(&sdk.authentication().app_portal_access("mine".into(), body, None).await.unwrap().token)
    };
    let portal = access(AppPortalAccessIn::new()).await;
    let seen = portal.endpoint().list(mine.id.clone(), None).await.unwrap();
    assert_eq!(seen.data[0].uid.as_deref(), Some("one"));
    assert_eq!(portal.application().get("mine".into()).await.unwrap().id, mine.id);
    assert_refused(portal.endpoint().list(others.id, None).await, 404, "not_found");
    assert_refused(portal.application().list(None).await, 403, "insufficient access");
    let body = MessageIn::new("a".into(), json!({}));
    assert_refused(portal.message().create(mine.id.clone(), body, None).await, 403, "insufficient access");

    event_type("secret", |made| made.feature_flags = Some(set(["beta"]))).await;
    event_type("open", |_| ()).await;
    let beta = access(with(AppPortalAccessIn::new(), |body| body.feature_flags = Some(set(["beta"])))).await;
    assert_eq!(portal.event_type().list(None).await.unwrap().data.len(), 1);
    assert_eq!(beta.event_type().list(None).await.unwrap().data.len(), 2);

    let new = with(ApplicationIn::new("new".into()), |app| app.uid = Some("fresh".into()));
    let body = with(AppPortalAccessIn::new(), |body| body.application = Some(new));
    let fresh = sdk.authentication().app_portal_access("fresh".into(), body, None).await.unwrap();
    assert!(!fresh.url.is_empty());
    assert_eq!(sdk.application().get("fresh".into()).await.unwrap().name, "new");
    let nobody = sdk.authentication().app_portal_access("nobody".into(), AppPortalAccessIn::new(), None).await;
    assert_refused(nobody, 404, "not_found");
    assert_refused(portal.authentication().logout(None).await, 501, "not_implemented");
    let now = with(ApplicationTokenExpireIn::new(), |body| body.expiry = Some(0));
    sdk.authentication().expire_all("mine".into(), now, None).await.unwrap();
    for expired in [&portal, &beta] {
        assert_refused(expired.endpoint().list(mine.id.clone(), None).await, 401, "authentication_failed");
    }
    let after = access(AppPortalAccessIn::new()).await;
    assert_eq!(after.endpoint().list(mine.id, None).await.unwrap().data.len(), 1);
}

pub async fn operational_webhooks_are_managed_and_arrive() {
    let (sdk, mut receiver) = (sdk(), Receiver::start().await);
    let operational = sdk.operational_webhook();
    let hooks = operational.endpoint();
    let body = with(OperationalWebhookEndpointIn::new(receiver.url.clone()), |body| {
        body.uid = Some("ops".into());
        body.description = Some("mine".into());
        body.event_types = Some(set(["endpoint.created", "message.attempt.exhausted"]));
    });
    let made = hooks.create(body, None).await.unwrap();
    assert_eq!((made.uid.as_deref(), &*made.description, &made.url), (Some("ops"), "mine", &receiver.url));
    assert_eq!(made.event_types, Some(set(["endpoint.created", "message.attempt.exhausted"])));
    assert_eq!(hooks.get("ops".into()).await.unwrap(), made);
    assert_eq!(hooks.list(None).await.unwrap().data, [made.clone()]);
    let headers = OperationalWebhookEndpointHeadersIn::new([("x-ops".to_owned(), "1".to_owned())].into());
    hooks.set_headers("ops".into(), headers.clone()).await.unwrap();
    assert_eq!(hooks.get_headers("ops".into()).await.unwrap().headers, headers.headers);
    let old = hooks.get_secret("ops".into()).await.unwrap().key;
    hooks.rotate_secret("ops".into(), OperationalWebhookEndpointSecretIn::new(), None).await.unwrap();
    let fresh = hooks.get_secret("ops".into()).await.unwrap().key;
    assert_ne!(old, fresh);

    let owner = app(|app| app.uid = Some("watched".into())).await;
    let target = endpoint(&owner, &format!("{}customer", receiver.url), |_| ()).await;
    let arrived = receiver.next().await;
    arrived.assert_verifies(&old);
    arrived.assert_verifies(&fresh);
    assert_eq!(arrived.header("x-ops"), "1");
    let event = arrived.json();
    assert_eq!(event["type"], "endpoint.created");
    assert_eq!([&event["data"]["appId"], &event["data"]["endpointId"]], [&json!(owner.id), &json!(target.id)]);
    assert_eq!(event["data"]["appUid"], "watched");

    receiver.answer([500; 4]);
    let sent = message(&owner, |_| ()).await;
    assert_eq!(receiver.ids(4).await, [&*sent.id; 4]);
    let arrived = receiver.next().await;
    arrived.assert_verifies(&fresh);
    let event = arrived.json();
    assert_eq!((&event["type"], &event["data"]["msgId"]), (&json!("message.attempt.exhausted"), &json!(sent.id)));
    assert_eq!(event["data"]["lastAttempt"]["responseStatusCode"], 500);

    let update = with(OperationalWebhookEndpointUpsertIn::new(format!("{}new", receiver.url)), |update| {
        update.uid = Some("ops".into());
    });
    let changed = hooks.upsert("ops".into(), update).await.unwrap();
    assert_eq!((&changed.id, changed.url, &*changed.description), (&made.id, format!("{}new", receiver.url), ""));
    hooks.delete("ops".into()).await.unwrap();
    assert_refused(hooks.get(made.id).await, 404, "not_found");
}

pub async fn environments_are_exported_and_imported() {
    let sdk = sdk();
    event_type("kept", |made| made.description = "as it was".into()).await;
    let exported = sdk.environment().export(None).await.unwrap();
    assert_eq!(exported.event_types.iter().map(|one| &*one.name).collect::<Vec<_>>(), ["kept"]);
    let patch = with(EventTypePatch::new(), |patch| patch.description = Some("changed".into()));
    sdk.event_type().patch("kept".into(), patch).await.unwrap();
    let kept = EventTypeIn::new("kept".into(), "as it was".into());
    let wanted = with(EnvironmentIn::new(), |wanted| wanted.event_types = Some(vec![kept]));
    sdk.environment().import(wanted, None).await.unwrap();
    assert_eq!(sdk.event_type().get("kept".into()).await.unwrap().description, "as it was");
}

pub async fn errors_are_the_sdks_own() {
    let sdk = sdk();
    assert_refused(sdk.application().get("no-such-app".into()).await, 404, "not_found");
    let wrong = sdk.application().create(ApplicationIn::new(String::new()), None).await;
    assert_eq!(assert_invalid(wrong), ["body", "name"]);
    let owner = app(|_| ()).await;
    let send = async |app: &str, message| sdk.message().create(app.to_owned(), message, None).await;
    let plain = |kind: &str| MessageIn::new(kind.into(), json!({}));
    assert_invalid(send(&owner.id, plain("no blanks")).await);
    assert_refused(send("no-such-app", plain("a")).await, 404, "not_found");
    for token in ["no token", "a.b.c"] {
        let refused = client(token).application().list(None).await;
        assert_eq!(assert_refused(refused, 401, "authentication_failed"), "Invalid token");
    }
    let once = with(plain("a"), |message| message.event_id = Some("once".into()));
    send(&owner.id, once.clone()).await.unwrap();
    assert_refused(send(&owner.id, once).await, 409, "conflict");
    let big = with(plain("a"), |message| message.payload = json!({ "text": "x".repeat(3 << 20) }));
    assert_refused(send(&owner.id, big).await, 413, "payload_too_large");
    assert_eq!(sdk.application().get(owner.id.clone()).await.unwrap().id, owner.id);
}

pub async fn health_is_told() {
    sdk().health().get().await.unwrap();
}

pub async fn what_is_absent_says_so() {
    let sdk = sdk();
    let owner = app(|_| ()).await;
    assert_refused(sdk.integration().list(owner.id, None).await, 501, "not_implemented");
    assert_refused(sdk.connector().list(None).await, 501, "not_implemented");
    assert_refused(sdk.streaming().stream().list(None).await, 501, "not_implemented");
}
