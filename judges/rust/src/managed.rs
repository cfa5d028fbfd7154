//! What is kept: applications, event types, endpoints.

use js_option::JsOption;
use serde_json::json;
use svix::api::{ApplicationListOptions, EndpointListOptions, EventTypeDeleteOptions, EventTypeListOptions};
use svix::models::*;

use crate::support::*;

pub async fn applications_are_managed() {
    let sdk = sdk();
    let applications = sdk.application();
    let gold = set([("tier", "gold")].map(|(name, value)| (name.to_owned(), value.to_owned())));
    let made = app(|app| {
        app.uid = Some("managed".into());
        app.metadata = Some(gold);
        app.throttle_rate = Some(9);
    })
    .await;
    assert_eq!((&*made.name, made.uid.as_deref(), made.throttle_rate), ("from Rust", Some("managed"), Some(9)));
    assert_eq!(made.metadata["tier"], "gold");
    assert_eq!(applications.get("managed".into()).await.unwrap(), made);
    assert_eq!(applications.get(made.id.clone()).await.unwrap(), made);
    let named = |name: &str, uid: &str| with(ApplicationIn::new(name.into()), |app| app.uid = Some(uid.into()));
    assert_eq!(applications.get_or_create(named("other", "managed"), None).await.unwrap(), made);
    let other = applications.get_or_create(named("other", "made"), None).await.unwrap();
    assert_eq!((&*other.name, other.uid.as_deref()), ("other", Some("made")));
    assert_refused(applications.create(named("other", "managed"), None).await, 409, "conflict");

    let patch = with(ApplicationPatch::new(), |patch| patch.name = Some("renamed".into()));
    let patched = applications.patch(made.id.clone(), patch).await.unwrap();
    assert_eq!((&*patched.name, &patched.uid, &patched.metadata), ("renamed", &made.uid, &made.metadata));
    let whole = applications.upsert("managed".into(), named("whole", "managed")).await.unwrap();
    assert_eq!((&whole.id, whole.created_at, whole.throttle_rate), (&made.id, made.created_at, None));
    assert!(whole.metadata.is_empty());
    let new = applications.upsert("nowhere".into(), ApplicationIn::new("new".into())).await.unwrap();
    assert!(new.id != made.id && new.id != other.id);

    applications.delete("managed".into()).await.unwrap();
    assert_refused(applications.get(made.id.clone()).await, 404, "not_found");
    assert_refused(applications.delete(made.id.clone()).await, 404, "not_found");
    assert_ne!(app(|app| app.uid = Some("managed".into())).await.id, made.id);
}

pub async fn applications_are_listed_in_both_directions() {
    let sdk = sdk();
    let mut made = Vec::new();
    while made.len() < 5 {
        made.push(app(|_| ()).await.id);
    }
    let page = async |expected: &[String], done: bool, order: Option<Ordering>, iterator: Option<String>| {
        let options = ApplicationListOptions { limit: Some(2), order, iterator, ..Default::default() };
        let listed = sdk.application().list(Some(options)).await.unwrap();
        let ids: Vec<_> = listed.data.iter().map(|one| one.id.clone()).collect();
        assert_eq!((&*ids, listed.done), (expected, done));
        listed
    };
    let first = page(&made[..2], false, None, None).await;
    let second = page(&made[2..4], false, None, first.iterator).await;
    let third = page(&made[4..], true, None, second.iterator).await;
    let back = page(&made[2..4], false, None, third.prev_iterator).await;
    page(&made[..2], true, None, back.prev_iterator).await;
    made.reverse();
    let order = Some(Ordering::Descending);
    let last = page(&made[..2], false, order, None).await;
    let before = page(&made[2..4], false, order, last.iterator).await;
    page(&made[..2], true, order, before.prev_iterator).await;
}

async fn names(set: impl FnOnce(&mut EventTypeListOptions)) -> Vec<String> {
    let listed = sdk().event_type().list(Some(with(EventTypeListOptions::default(), set))).await.unwrap();
    listed.data.into_iter().map(|one| one.name).collect()
}

pub async fn event_types_are_managed() {
    let sdk = sdk();
    let types = sdk.event_type();
    let schemas = json!({ "1": { "type": "object", "required": ["id"] } });
    let made = event_type("order.sent", |made| {
        made.description = "on its way".into();
        made.schemas = Some(schemas.clone());
        made.feature_flags = Some(set(["beta"]));
        made.group_name = Some("orders".into());
    })
    .await;
    assert_eq!((&*made.name, &*made.description), ("order.sent", "on its way"));
    assert_eq!((made.archived, made.deprecated, made.group_name.as_deref()), (Some(false), false, Some("orders")));
    assert_eq!((&made.schemas, &made.feature_flags), (&Some(schemas.clone()), &Some(set(["beta"]))));
    assert_eq!(types.get("order.sent".into()).await.unwrap(), made);
    let again = EventTypeIn::new("order.sent".into(), String::new());
    assert_refused(types.create(again, None).await, 409, "event_type_exists");
    assert_invalid(types.create(EventTypeIn::new("no blanks".into(), String::new()), None).await);
    event_type("order.paid", |_| ()).await;

    assert_eq!(names(|_| ()).await, ["order.paid", "order.sent"]);
    let listed = types.list(Some(EventTypeListOptions { limit: Some(1), ..Default::default() })).await.unwrap();
    assert_eq!((listed.iterator.as_deref(), listed.done), (Some("order.paid"), false));
    assert_eq!(names(|options| options.iterator = listed.iterator).await, ["order.sent"]);
    let whole = EventTypeListOptions { with_content: Some(true), ..Default::default() };
    assert_eq!(types.list(Some(whole)).await.unwrap().data[1].schemas, Some(schemas.clone()));
    assert_eq!(types.list(None).await.unwrap().data[1].schemas, None);

    let patch = with(EventTypePatch::new(), |patch| patch.description = Some("gone".into()));
    let patched = types.patch("order.sent".into(), patch).await.unwrap();
    assert_eq!((&*patched.description, patched.schemas), ("gone", Some(schemas)));
    let update = with(EventTypeUpsertIn::new("again".into()), |update| update.deprecated = Some(true));
    let whole = types.upsert("order.sent".into(), update).await.unwrap();
    assert_eq!((&*whole.description, whole.deprecated, whole.schemas), ("again", true, None));
    types.upsert("order.lost".into(), EventTypeUpsertIn::new("never seen again".into())).await.unwrap();
    types.delete("order.sent".into(), None).await.unwrap();
    assert_eq!(names(|_| ()).await, ["order.lost", "order.paid"]);
    let all = names(|options| options.include_archived = Some(true)).await;
    assert_eq!(all, ["order.lost", "order.paid", "order.sent"]);
    assert_eq!(types.get("order.sent".into()).await.unwrap().archived, Some(true));
    let expunge = Some(EventTypeDeleteOptions { expunge: Some(true) });
    types.delete("order.sent".into(), expunge).await.unwrap();
    assert_refused(types.get("order.sent".into()).await, 404, "not_found");
}

pub async fn event_types_come_from_an_openapi_document() {
    let sdk = sdk();
    let webhook = |description: &str| {
        let schema = json!({ "type": "object", "properties": { "id": { "type": "string" } } });
        let body = json!({ "content": { "application/json": { "schema": schema } } });
        json!({ "post": { "description": description, "requestBody": body, "responses": { "200": { "description": "" } } } })
    };
    let head = json!({ "title": "events", "version": "1" });
    let document = |webhooks| json!({ "openapi": "3.1.0", "info": head, "webhooks": webhooks });
    let both = document(json!({ "user.born": webhook("somebody new"), "user.gone": webhook("somebody left") }));
    let load = async |set: &dyn Fn(&mut EventTypeImportOpenApiIn)| {
        let body = with(EventTypeImportOpenApiIn::new(), |body| set(body));
        let mut data = sdk.event_type().import_openapi(body, None).await.unwrap().data;
        data.modified.sort();
        data
    };
    let tried = load(&|body| {
        body.spec = Some(both.clone());
        body.dry_run = Some(true);
    })
    .await;
    let mut found: Vec<_> = tried.to_modify.unwrap().into_iter().map(|one| one.name).collect();
    found.sort();
    assert_eq!(found, ["user.born", "user.gone"]);
    assert!(names(|_| ()).await.is_empty());
    assert_eq!(load(&|body| body.spec = Some(both.clone())).await.modified, ["user.born", "user.gone"]);
    let born = sdk.event_type().get("user.born".into()).await.unwrap();
    assert_eq!(born.description, "somebody new");
    assert_eq!(born.schemas.unwrap()["1"]["properties"], json!({ "id": { "type": "string" } }));
    load(&|body| {
        body.spec_raw = Some(document(json!({ "user.born": webhook("somebody new") })).to_string());
        body.replace_all = Some(true);
    })
    .await;
    assert_eq!(sdk.event_type().get("user.gone".into()).await.unwrap().archived, Some(true));
}

pub async fn endpoints_are_managed() {
    let (sdk, receiver) = (sdk(), Receiver::start().await);
    let endpoints = sdk.endpoint();
    let owner = app(|_| ()).await;
    let id = || owner.id.clone();
    event_type("a", |_| ()).await;
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let first = endpoint(&owner, &receiver.url, |endpoint| {
        endpoint.uid = Some("one".into());
        endpoint.description = Some("first".into());
        endpoint.metadata = Some([("k".to_owned(), "v".to_owned())].into());
        endpoint.channels = Some(set(["eu"]));
        endpoint.event_types = Some(set(["a"]));
        endpoint.secret = Some(secret.into());
        endpoint.throttle_rate = Some(50);
    })
    .await;
    assert_eq!((&*first.url, first.uid.as_deref(), &*first.description), (&*receiver.url, Some("one"), "first"));
    assert_eq!((&first.channels, &first.event_types), (&Some(set(["eu"])), &Some(set(["a"]))));
    assert_eq!((first.disabled, first.throttle_rate, &*first.metadata["k"]), (Some(false), Some(50), "v"));
    assert_eq!(secret_of(&owner, "one").await, secret);
    assert_eq!(endpoints.get(id(), "one".into()).await.unwrap(), first);
    let taken = with(EndpointIn::new(receiver.url.clone()), |taken| taken.uid = Some("one".into()));
    assert_refused(endpoints.create(id(), taken, None).await, 409, "conflict");
    assert_invalid(endpoints.create(id(), EndpointIn::new("no URL".into()), None).await);
    let unheard = with(EndpointIn::new(receiver.url.clone()), |it| it.event_types = Some(set(["unheard-of"])));
    assert_invalid(endpoints.create(id(), unheard, None).await);

    let second = endpoint(&owner, &receiver.url, |_| ()).await;
    let page = endpoints.list(id(), Some(EndpointListOptions { limit: Some(1), ..Default::default() })).await.unwrap();
    assert_eq!((&page.data[0].id, page.data.len(), page.done), (&second.id, 1, false));
    let next = EndpointListOptions { iterator: page.iterator, ..Default::default() };
    let rest = endpoints.list(id(), Some(next)).await.unwrap();
    assert_eq!((&*rest.data, rest.done), (&[first.clone()][..], true));
    let oldest = EndpointListOptions { order: Some(Ordering::Ascending), ..Default::default() };
    assert_eq!(endpoints.list(id(), Some(oldest)).await.unwrap().data[0], first);

    let patch = with(EndpointPatch::new(), |patch| {
        patch.disabled = Some(true);
        patch.channels = JsOption::Null;
    });
    let patched = endpoints.patch(id(), "one".into(), patch).await.unwrap();
    assert_eq!((patched.disabled, patched.channels, &*patched.description), (Some(true), None, "first"));
    let update = with(EndpointUpsertIn::new(format!("{}x", receiver.url)), |update| update.uid = Some("one".into()));
    let whole = endpoints.upsert(id(), "one".into(), update).await.unwrap();
    assert_eq!((whole.id, whole.disabled, &*whole.description), (first.id, Some(false), ""));
    assert_eq!(secret_of(&owner, "one").await, secret);
    endpoints.delete(id(), second.id.clone()).await.unwrap();
    assert_refused(endpoints.get(id(), second.id).await, 404, "not_found");
}

pub async fn headers_are_managed_and_sent() {
    let (sdk, mut receiver) = (sdk(), Receiver::start().await);
    let endpoints = sdk.endpoint();
    let owner = app(|_| ()).await;
    let headers =
        |from: &[(&str, &str)]| from.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    endpoint(&owner, &receiver.url, |endpoint| {
        endpoint.uid = Some("one".into());
        endpoint.headers = Some(headers(&[("x-a", "1"), ("x-c", "3")]));
    })
    .await;
    let patch = with(EndpointHeadersPatchIn::new(headers(&[("X-B", "2")])), |patch| {
        patch.delete_headers = Some(vec!["x-c".into()]);
    });
    endpoints.patch_headers(owner.id.clone(), "one".into(), patch).await.unwrap();
    let got = endpoints.get_headers(owner.id.clone(), "one".into()).await.unwrap();
    assert_eq!((got.headers, got.sensitive.len()), (headers(&[("x-a", "1"), ("X-B", "2")]), 0));
    message(&owner, |_| ()).await;
    let arrived = receiver.next().await;
    assert_eq!((arrived.header("x-a"), arrived.header("x-b")), ("1", "2"));
    arrived.assert_verifies(&secret_of(&owner, "one").await);
    let put = async |name: &str, value: &str| {
        let body = EndpointHeadersIn::new(headers(&[(name, value)]));
        endpoints.set_headers(owner.id.clone(), "one".into(), body).await
    };
    put("authorization", "Basic x").await.unwrap();
    let got = endpoints.get_headers(owner.id.clone(), "one".into()).await.unwrap();
    assert_eq!((got.headers.len(), got.sensitive), (0, set(["authorization"])));
    message(&owner, |_| ()).await;
    let arrived = receiver.next().await;
    assert_eq!((arrived.header("authorization"), arrived.header("x-a")), ("Basic x", ""));
    assert_invalid(put("content-length", "3").await);
}
