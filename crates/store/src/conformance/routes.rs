//! Cases for routes and targets: what intake and the sender know of an application.

use std::collections::BTreeMap;

use postrider_domain::application::ApplicationPatch;
use postrider_domain::endpoint::{EndpointPatch, Headers};

use super::Harness;
use super::world::{FAR, World, by_id, by_uid, channel, done, environment, other_environment, type_name, uid_of};
use crate::EndpointKey;

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
        assert_eq!(target.endpoint, endpoint.value);
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

pub(super) async fn every_change_makes_routes_newer<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let version = std::sync::atomic::AtomicI64::new(world.routes(&app).await.version);
    let newer = async |what: &str| {
        let now = world.routes(&app).await.version;
        let before = version.swap(now, std::sync::atomic::Ordering::Relaxed);
        assert!(now > before, "{what}: {before} to {now}");
    };
    let endpoint = world.endpoint(&app).await;
    newer("create").await;
    let id = by_id(endpoint.value.id);
    let disable = EndpointPatch { disabled: Some(true), ..EndpointPatch::default() };
    store.update_endpoint(app.key, &id, disable, world.tick()).await.unwrap();
    newer("update").await;
    let otherwise = world.new_endpoint(None);
    store.upsert_endpoint(app.key, &id, EndpointPatch::default(), otherwise, world.tick()).await.unwrap();
    newer("upsert that changes").await;
    let otherwise = world.new_endpoint(None);
    store.upsert_endpoint(app.key, &by_uid("x"), EndpointPatch::default(), otherwise, world.tick()).await.unwrap();
    newer("upsert that adds").await;
    done(store.rotate_secret(endpoint.key, world.secret(), FAR, world.tick(), None).await.unwrap());
    newer("rotate").await;
    store.set_headers(endpoint.key, Headers::new()).await.unwrap();
    newer("set headers").await;
    store.merge_headers(endpoint.key, BTreeMap::new()).await.unwrap();
    newer("merge headers").await;
    store.delete_endpoint(app.key, &id, world.tick()).await.unwrap();
    newer("delete").await;
    // The rate limit is for every endpoint, and a cache may know the application by its uid.
    for patch in [
        ApplicationPatch { throttle_rate: Some(Some(1)), ..ApplicationPatch::default() },
        ApplicationPatch { uid: Some(Some(uid_of("moved"))), ..ApplicationPatch::default() },
    ] {
        store.update_application(&environment(), &by_id(app.value.id), patch.clone(), world.tick()).await.unwrap();
        newer("update of the application").await;
        let otherwise = world.new_application(None);
        let id = by_id(app.value.id);
        store.upsert_application(&environment(), &id, patch, otherwise, world.tick()).await.unwrap();
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
