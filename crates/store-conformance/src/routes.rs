//! Cases for routes and targets: what intake and the sender know of an application.

use std::collections::BTreeMap;

use postrider_domain::application::{ApplicationPatch, Metadata};
use postrider_domain::endpoint::{Endpoint, EndpointPatch, EndpointUrl, Headers};
use postrider_domain::event_type_set::EventTypeDigest;

use super::Harness;
use super::world::{FAR, World, by_id, by_uid, channel, done, environment, other_environment, type_name, uid_of};
use postrider_store::EndpointKey;

pub(super) async fn routes_hold_all_that_the_sender_needs<H: Harness>(world: &World<H>) {
    let store = world.store();
    let mut application = world.new_application(None);
    application.throttle_rate = Some(50);
    let app = world.add_application(&environment(), application).await;
    let mut new = world.new_endpoint(None);
    new.endpoint.event_types = Some(vec![type_name("a")]);
    new.endpoint.channels = Some(vec![channel("c")]);
    new.endpoint.throttle_rate = Some(5);
    new.headers = Headers::from([("X-A".to_owned(), "1".to_owned())]);
    let endpoint = world.add_endpoint(&app, new.clone()).await;
    done(store.rotate_secret(endpoint.key, world.secret(), FAR, world.tick(), None).await.unwrap());
    let keys = store.signing_keys(endpoint.key).await.unwrap().unwrap();

    let routes = world.routes(&app).await;
    assert_eq!((routes.application, routes.id), (app.key, app.value.id));
    let single = store.target(endpoint.key).await.unwrap().unwrap();
    for target in [routes.targets[0].as_ref(), &single] {
        assert_eq!((target.key, target.application), (endpoint.key, app.key));
        // What is for people is left out, and of event types there are no texts.
        let sent = endpoint.value.clone();
        let sent = Endpoint { description: String::new(), metadata: Metadata::new(), event_types: None, ..sent };
        assert_eq!(target.endpoint, sent);
        let wants = |event_type: &str, name: &str| {
            target.wants(EventTypeDigest::of(&type_name(event_type)), Some(&[channel(name)]))
        };
        assert!(wants("a", "c") && !wants("b", "c") && !wants("a", "d"));
        assert_eq!(target.headers, new.headers);
        assert_eq!(target.keys, keys);
        assert_eq!(target.application_rate, Some(50));
    }
}

pub(super) async fn routes_leave_out_deleted_endpoints_and_keep_disabled_ones<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    assert!(world.routes(&app).await.targets.is_empty());
    let (first, gone, last) = (world.endpoint(&app).await, world.endpoint(&app).await, world.endpoint(&app).await);
    let disabled = EndpointPatch { disabled: Some(true), ..EndpointPatch::default() };
    store.update_endpoint(app.key, &by_id(last.value.id), disabled, world.tick()).await.unwrap();
    store.delete_endpoint(app.key, &by_id(gone.value.id), world.tick()).await.unwrap();
    let routes = world.routes(&app).await;
    let seen: Vec<_> = routes.targets.iter().map(|target| (target.key, target.endpoint.disabled)).collect();
    assert_eq!(seen, [(first.key, false), (last.key, true)]);
}

pub(super) async fn routes_are_found_by_id_and_uid_in_their_environment_only<H: Harness>(world: &World<H>) {
    let store = world.store();
    let app = world.add_application(&environment(), world.new_application(Some("one"))).await;
    for id in [by_id(app.value.id), by_uid("one")] {
        let routes = store.routes(&environment(), &id).await.unwrap();
        assert_eq!(routes.map(|routes| routes.application), Some(app.key));
        assert!(store.routes(&other_environment(), &id).await.unwrap().is_none());
    }
    assert!(store.routes(&environment(), &by_uid("two")).await.unwrap().is_none());
}

pub(super) async fn a_change_that_they_depend_on_makes_routes_newer_and_no_other<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let version = std::sync::atomic::AtomicI64::new(world.routes(&app).await.version);
    let check = async |what: &str, newer: bool| {
        let now = world.routes(&app).await.version;
        let before = version.swap(now, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(now > before, newer, "{what}: {before} to {now}");
    };
    let newer = async |what: &str| check(what, true).await;
    let same = async |what: &str| check(what, false).await;
    let endpoint = world.endpoint(&app).await;
    newer("create").await;
    let id = by_id(endpoint.value.id);
    let disable = EndpointPatch { disabled: Some(true), ..EndpointPatch::default() };
    store.update_endpoint(app.key, &id, disable, world.tick()).await.unwrap();
    newer("update").await;
    for patch in [
        EndpointPatch { event_types: Some(Some(vec![type_name("a")])), ..EndpointPatch::default() },
        EndpointPatch { channels: Some(Some(vec![channel("a")])), ..EndpointPatch::default() },
        EndpointPatch { throttle_rate: Some(Some(7)), ..EndpointPatch::default() },
        EndpointPatch { url: Some(EndpointUrl::parse("https://other.example/").unwrap()), ..EndpointPatch::default() },
        EndpointPatch { authorization: Some("Bearer x".to_owned()), ..EndpointPatch::default() },
    ] {
        store.update_endpoint(app.key, &id, patch.clone(), world.tick()).await.unwrap();
        newer(&format!("{patch:?}")).await;
        store
            .update_endpoint(app.key, &id, EndpointPatch { authorization: None, ..patch }, world.tick())
            .await
            .unwrap();
        same("what it is already").await;
    }
    let described = EndpointPatch {
        description: Some("new".to_owned()),
        metadata: Some(Metadata::from([("a".to_owned(), "b".to_owned())])),
        version: Some(9),
        ..EndpointPatch::default()
    };
    store.update_endpoint(app.key, &id, described.clone(), world.tick()).await.unwrap();
    same("a description").await;
    let otherwise = world.new_endpoint(None);
    store.upsert_endpoint(app.key, &id, described, otherwise, world.tick()).await.unwrap();
    same("upsert of a description").await;
    let enable = EndpointPatch { disabled: Some(false), ..EndpointPatch::default() };
    store.upsert_endpoint(app.key, &id, enable, world.new_endpoint(None), world.tick()).await.unwrap();
    newer("upsert that changes").await;
    let otherwise = world.new_endpoint(None);
    store.upsert_endpoint(app.key, &by_uid("x"), EndpointPatch::default(), otherwise, world.tick()).await.unwrap();
    newer("upsert that adds").await;
    done(store.rotate_secret(endpoint.key, world.secret(), FAR, world.tick(), None).await.unwrap());
    newer("rotate").await;
    store.set_headers(endpoint.key, Headers::from([("X-A".to_owned(), "1".to_owned())]), world.tick()).await.unwrap();
    newer("set headers").await;
    store.merge_headers(endpoint.key, BTreeMap::new(), world.tick()).await.unwrap();
    same("merge no headers").await;
    store.merge_headers(endpoint.key, BTreeMap::from([("X-A".into(), None)]), world.tick()).await.unwrap();
    newer("merge headers").await;
    store.delete_endpoint(app.key, &id, world.tick()).await.unwrap();
    newer("delete").await;
    // The rate limit is for every endpoint, and a cache may know the application by its uid.
    for (patch, other) in [
        (
            ApplicationPatch { throttle_rate: Some(Some(1)), ..ApplicationPatch::default() },
            ApplicationPatch { throttle_rate: Some(None), ..ApplicationPatch::default() },
        ),
        (
            ApplicationPatch { uid: Some(Some(uid_of("moved"))), ..ApplicationPatch::default() },
            ApplicationPatch { uid: Some(None), ..ApplicationPatch::default() },
        ),
    ] {
        let id = by_id(app.value.id);
        store.update_application(&environment(), &id, patch.clone(), world.tick()).await.unwrap();
        newer("update of the application").await;
        store.update_application(&environment(), &id, patch, world.tick()).await.unwrap();
        same("what it is already").await;
        let otherwise = world.new_application(None);
        store.upsert_application(&environment(), &id, other, otherwise, world.tick()).await.unwrap();
        newer("upsert of the application").await;
    }
}

pub(super) async fn a_target_stays_readable_after_its_endpoint_or_application_is_deleted<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let (first, second) = (world.endpoint(&app).await, world.endpoint(&app).await);
    let target = async |key| store.target(key).await.unwrap().unwrap();
    assert!(!target(first.key).await.endpoint.disabled);
    store.delete_endpoint(app.key, &by_id(first.value.id), world.tick()).await.unwrap();
    let deleted = target(first.key).await;
    assert!(deleted.endpoint.disabled);
    assert_eq!(deleted.endpoint.id, first.value.id);
    assert!(!target(second.key).await.endpoint.disabled);
    store.delete_application(&environment(), &by_id(app.value.id), world.tick()).await.unwrap();
    assert!(target(second.key).await.endpoint.disabled);
}

pub(super) async fn an_endpoint_that_never_existed_has_no_target<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    for key in [endpoint.key.0 + 1_000, 0, -1, i64::MAX] {
        assert!(world.store().target(EndpointKey(key)).await.unwrap().is_none(), "{key}");
    }
}
