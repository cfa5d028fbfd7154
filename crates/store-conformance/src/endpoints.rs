//! Cases for endpoints, their secrets and headers.

use std::collections::BTreeMap;

use postrider_domain::delivery::{DisableReason, Next};
use postrider_domain::endpoint::{Disablement, EndpointPatch, EndpointUrl, Headers};
use postrider_domain::headers::MAX_HEADERS;
use postrider_domain::ids::EndpointId;
use postrider_domain::names::IdOrUid;
use postrider_domain::signature::{MAX_OLD_KEYS, OldKey, SigningKeys};

use super::Harness;
use super::recorder::{News, Recorder};
use super::world::{FAR, World, after, by_id, by_uid, channel, done, environment, failing, type_name, uid_of};
use postrider_store::{ChangeHeadersError, Direction, EndpointKey, RotateError, Scan, Upserted, WriteError};

pub(super) async fn an_endpoint_reads_back_as_it_was_written<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let mut new = world.new_endpoint(Some("main"));
    new.endpoint.description = "Übergabe\n\"A\"".to_owned();
    new.endpoint.version = u16::MAX;
    new.endpoint.disabled = true;
    let since = new.endpoint.created_at;
    new.endpoint.disablement = Some(Disablement { reason: DisableReason::ByHand, since });
    new.endpoint.event_types = Some(vec![type_name("b"), type_name("a")]);
    new.endpoint.channels = Some(vec![channel("x"), channel("y")]);
    new.endpoint.throttle_rate = Some(9);
    new.endpoint.metadata = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    new.headers = Headers::from([("X-Custom".to_owned(), "1".to_owned())]);
    assert_eq!(done(store.create_endpoint(app.key, new.clone(), None).await.unwrap()), new.endpoint);
    let read = store.endpoint(app.key, &by_id(new.endpoint.id)).await.unwrap().unwrap();
    assert_eq!(read.value, new.endpoint);
    assert_eq!(store.headers(read.key).await.unwrap(), Some(new.headers));
    assert_eq!(store.signing_keys(read.key).await.unwrap(), Some(SigningKeys::new(new.secret)));
}

pub(super) async fn an_endpoint_is_found_by_its_uid_in_its_application_only<H: Harness>(world: &World<H>) {
    let store = world.store();
    let (mine, theirs) = (world.application().await, world.application().await);
    let endpoint = world.add_endpoint(&mine, world.new_endpoint(Some("main"))).await;
    let same = world.add_endpoint(&theirs, world.new_endpoint(Some("main"))).await;
    assert_eq!(store.endpoint(mine.key, &by_uid("main")).await.unwrap().as_ref(), Some(&endpoint));
    assert_eq!(store.endpoint(theirs.key, &by_uid("main")).await.unwrap().as_ref(), Some(&same));
    let id = by_id(endpoint.value.id);
    assert_eq!(store.endpoint(theirs.key, &id).await.unwrap(), None);
    let updated = store.update_endpoint(theirs.key, &id, EndpointPatch::default(), world.tick()).await;
    assert!(matches!(updated, Err(WriteError::NotFound)), "{updated:?}");
    let deleted = store.delete_endpoint(theirs.key, &id, world.tick()).await;
    assert!(matches!(deleted, Err(WriteError::NotFound)), "{deleted:?}");
    let listed = store.endpoints(theirs.key, Scan::all(Direction::Ascending, 10)).await.unwrap().rows;
    assert_eq!(listed, [same.value]);
}

pub(super) async fn a_taken_uid_is_a_conflict_on_every_way_to_write_it<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let taken = world.add_endpoint(&app, world.new_endpoint(Some("taken"))).await;
    let other = world.endpoint(&app).await;
    let patch = EndpointPatch { uid: Some(Some(uid_of("taken"))), ..EndpointPatch::default() };
    let (id, now) = (by_id(other.value.id), world.tick());

    let created = store.create_endpoint(app.key, world.new_endpoint(Some("taken")), None).await;
    assert!(matches!(created, Err(WriteError::Conflict)), "{created:?}");
    let updated = store.update_endpoint(app.key, &id, patch.clone(), now).await;
    assert!(matches!(updated, Err(WriteError::Conflict)), "{updated:?}");
    for id in [id, by_uid("unknown")] {
        let otherwise = world.new_endpoint(Some("taken"));
        let upserted = store.upsert_endpoint(app.key, &id, patch.clone(), otherwise, now).await;
        assert!(matches!(upserted, Err(WriteError::Conflict)), "{upserted:?}");
    }
    let own = store.update_endpoint(app.key, &by_id(taken.value.id), patch, now).await.unwrap();
    let all = store.endpoints(app.key, Scan::all(Direction::Ascending, 10)).await.unwrap().rows;
    assert_eq!(all, [own, other.value], "a refused write writes nothing");
}

pub(super) async fn an_endpoint_of_an_application_that_is_gone_is_not_found<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let endpoint = world.endpoint(&app).await;
    store.delete_application(&environment(), &by_id(app.value.id), world.tick()).await.unwrap();
    let id = by_id(endpoint.value.id);

    let created = store.create_endpoint(app.key, world.new_endpoint(None), None).await;
    assert!(matches!(created, Err(WriteError::NotFound)), "{created:?}");
    let updated = store.update_endpoint(app.key, &id, EndpointPatch::default(), world.tick()).await;
    assert!(matches!(updated, Err(WriteError::NotFound)), "{updated:?}");
    let otherwise = world.new_endpoint(None);
    let upserted = store.upsert_endpoint(app.key, &id, EndpointPatch::default(), otherwise, world.tick()).await;
    assert!(matches!(upserted, Err(WriteError::NotFound)), "{upserted:?}");
    let deleted = store.delete_endpoint(app.key, &id, world.tick()).await;
    assert!(matches!(deleted, Err(WriteError::NotFound)), "{deleted:?}");
    let headers = store.set_headers(endpoint.key, Headers::new(), world.tick()).await;
    assert!(matches!(headers, Err(WriteError::NotFound)), "{headers:?}");
    let merged = store.merge_headers(endpoint.key, BTreeMap::new(), world.tick()).await;
    assert!(matches!(merged, Err(ChangeHeadersError::Write(WriteError::NotFound))), "{merged:?}");
    let rotated = store.rotate_secret(endpoint.key, world.secret(), FAR, world.tick(), None).await;
    assert!(matches!(rotated, Err(RotateError::Write(WriteError::NotFound))), "{rotated:?}");
}

pub(super) async fn a_patch_changes_only_what_it_names<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let mut want = world.add_endpoint(&app, world.new_endpoint(Some("one"))).await.value;
    let id = by_id(want.id);
    let patches = [
        EndpointPatch { url: Some(EndpointUrl::parse("http://b.example/").unwrap()), ..EndpointPatch::default() },
        EndpointPatch { event_types: Some(Some(vec![type_name("t")])), ..EndpointPatch::default() },
        EndpointPatch { channels: Some(Some(vec![channel("c")])), ..EndpointPatch::default() },
        EndpointPatch { throttle_rate: Some(Some(3)), version: Some(4), ..EndpointPatch::default() },
        EndpointPatch { uid: Some(None), description: Some("d".to_owned()), ..EndpointPatch::default() },
        EndpointPatch { disabled: Some(true), metadata: Some(BTreeMap::new()), ..EndpointPatch::default() },
        EndpointPatch { event_types: Some(None), channels: Some(None), ..EndpointPatch::default() },
        EndpointPatch { throttle_rate: Some(None), disabled: Some(false), ..EndpointPatch::default() },
    ];
    for patch in patches {
        let now = world.tick();
        patch.clone().apply(&mut want, now);
        want.updated_at = now;
        assert_eq!(store.update_endpoint(app.key, &id, patch, now).await.unwrap(), want);
        assert_eq!(store.endpoint(app.key, &id).await.unwrap().unwrap().value, want);
    }
}

pub(super) async fn an_upsert_keeps_secret_and_headers_or_adds_an_endpoint<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let patch = EndpointPatch { description: Some("changed".to_owned()), ..EndpointPatch::default() };
    let upsert = async |id: IdOrUid<EndpointId>, otherwise, now| {
        store.upsert_endpoint(app.key, &id, patch.clone(), otherwise, now).await.unwrap()
    };
    let mut first = world.new_endpoint(Some("main"));
    first.headers = Headers::from([("X-A".to_owned(), "1".to_owned())]);
    let added = upsert(by_uid("main"), first.clone(), world.tick()).await;
    assert_eq!(added, Upserted::Created(first.endpoint.clone()));

    let now = world.tick();
    let mut want = first.endpoint.clone();
    patch.clone().apply(&mut want, now);
    want.updated_at = now;
    assert_eq!(upsert(by_uid("main"), world.new_endpoint(None), now).await, Upserted::Updated(want.clone()));
    let key = store.endpoint(app.key, &by_uid("main")).await.unwrap().unwrap().key;
    assert_eq!(store.headers(key).await.unwrap(), Some(first.headers));
    assert_eq!(store.signing_keys(key).await.unwrap().unwrap().current, first.secret);
    let all = store.endpoints(app.key, Scan::all(Direction::Ascending, 10)).await.unwrap().rows;
    assert_eq!(all, [want]);
}

pub(super) async fn a_deleted_endpoint_is_found_no_more_and_frees_its_uid<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let gone = world.add_endpoint(&app, world.new_endpoint(Some("main"))).await;
    store.delete_endpoint(app.key, &by_uid("main"), world.tick()).await.unwrap();

    let id = by_id(gone.value.id);
    assert_eq!(store.endpoint(app.key, &id).await.unwrap(), None);
    assert_eq!(store.endpoint(app.key, &by_uid("main")).await.unwrap(), None);
    assert_eq!(store.headers(gone.key).await.unwrap(), None);
    assert_eq!(store.signing_keys(gone.key).await.unwrap(), None);
    let again = store.delete_endpoint(app.key, &id, world.tick()).await;
    assert!(matches!(again, Err(WriteError::NotFound)), "{again:?}");
    let headers = store.set_headers(gone.key, Headers::new(), world.tick()).await;
    assert!(matches!(headers, Err(WriteError::NotFound)), "{headers:?}");
    let merged = store.merge_headers(gone.key, BTreeMap::new(), world.tick()).await;
    assert!(matches!(merged, Err(ChangeHeadersError::Write(WriteError::NotFound))), "{merged:?}");
    let rotated = store.rotate_secret(gone.key, world.secret(), FAR, world.tick(), None).await;
    assert!(matches!(rotated, Err(RotateError::Write(WriteError::NotFound))), "{rotated:?}");

    let next = world.add_endpoint(&app, world.new_endpoint(Some("main"))).await;
    assert_ne!(next.key, gone.key);
    let all = store.endpoints(app.key, Scan::all(Direction::Ascending, 10)).await.unwrap().rows;
    assert_eq!(all, [next.value]);
}

pub(super) async fn rotation_keeps_the_former_key_until_its_grace_ends<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let endpoint = world.endpoint(&app).await;
    let keys = async || store.signing_keys(endpoint.key).await.unwrap().unwrap();
    let first = keys().await.current;
    let (second, third, now) = (world.secret(), world.secret(), world.tick());
    let rotated = store.rotate_secret(endpoint.key, second.clone(), after(now, 60), now, None).await.unwrap();
    assert_eq!(done(rotated), second);
    let old = vec![OldKey { secret: first, expires_at: after(now, 60) }];
    assert_eq!(keys().await, SigningKeys { current: second, old });

    // At this instant the first key's grace has ended, and the second one gets none.
    let later = after(now, 60);
    done(store.rotate_secret(endpoint.key, third.clone(), later, later, None).await.unwrap());
    assert_eq!(keys().await, SigningKeys::new(third));
}

pub(super) async fn the_eleventh_quick_rotation_is_refused_and_changes_nothing<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let endpoint = world.endpoint(&app).await;
    let now = world.tick();
    for turn in 0..MAX_OLD_KEYS as u64 {
        let until = after(now, 60 + turn);
        done(store.rotate_secret(endpoint.key, world.secret(), until, now, None).await.unwrap());
    }
    let before = store.signing_keys(endpoint.key).await.unwrap();
    let version = world.routes(&app).await.version;
    let refused = store.rotate_secret(endpoint.key, world.secret(), after(now, 90), now, None).await;
    assert!(matches!(refused, Err(RotateError::TooManyKeys(_))), "{refused:?}");
    assert_eq!(store.signing_keys(endpoint.key).await.unwrap(), before);
    assert_eq!(world.routes(&app).await.version, version);
}

pub(super) async fn headers_are_replaced_and_merged<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let endpoint = world.endpoint(&app).await;
    let map = |pairs: &[(&str, &str)]| -> Headers { pairs.iter().copied().collect() };
    let read = async || store.headers(endpoint.key).await.unwrap().unwrap();
    assert_eq!(read().await, map(&[]));
    store.set_headers(endpoint.key, map(&[("X-A", "1"), ("X-B", "2")]), world.tick()).await.unwrap();
    store.set_headers(endpoint.key, map(&[("X-B", "3"), ("x-c", "4")]), world.tick()).await.unwrap();
    assert_eq!(read().await, map(&[("X-B", "3"), ("x-c", "4")]));
    let changes = [("X-B", None), ("x-b", None), ("X-D", Some("5".to_owned())), ("x-c", Some("6".to_owned()))];
    let changes = changes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    store.merge_headers(endpoint.key, changes, world.tick()).await.unwrap();
    assert_eq!(read().await, map(&[("X-D", "5"), ("x-c", "6")]));
    let other_case = [("X-C", Some("7".to_owned())), ("x-d", None)];
    let other_case = other_case.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    store.merge_headers(endpoint.key, other_case, world.tick()).await.unwrap();
    assert_eq!(read().await, map(&[("X-C", "7")]));
    let many = (0..MAX_HEADERS).map(|at| (format!("y-{at}"), Some(String::new()))).collect();
    let refused = store.merge_headers(endpoint.key, many, world.tick()).await;
    assert!(matches!(refused, Err(ChangeHeadersError::TooMany(_))), "{refused:?}");
    assert_eq!(read().await, map(&[("X-C", "7")]));
    let nobody = store.set_headers(EndpointKey(i64::MAX), map(&[]), world.tick()).await;
    assert!(matches!(nobody, Err(WriteError::NotFound)), "{nobody:?}");
}

pub(super) async fn a_patch_can_set_the_authorization_of_an_endpoint<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let endpoint = world.endpoint(&app).await;
    let id = by_id(endpoint.value.id);
    for (authorization, want) in
        [(Some("Basic YTpi"), "Basic YTpi"), (None, "Basic YTpi"), (Some("Basic Yzpk"), "Basic Yzpk")]
    {
        let patch = EndpointPatch { authorization: authorization.map(str::to_owned), ..EndpointPatch::default() };
        store.update_endpoint(app.key, &id, patch, world.tick()).await.unwrap();
        let headers = store.headers(endpoint.key).await.unwrap().unwrap();
        assert_eq!(headers.get("authorization"), Some(want));
    }
}

pub(super) async fn enabling_an_endpoint_forgets_that_it_was_failing<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let endpoint = world.endpoint(&app).await;
    world.message(&app, &[&endpoint]).await;
    let due = world.only_due(&endpoint).await;
    let mut settlement = world.settlement(&endpoint, &due, Next::Exhausted);
    settlement.against = failing(world.tick());
    world.settle(settlement).await;

    let disable = |disabled| EndpointPatch { disabled: Some(disabled), ..EndpointPatch::default() };
    let id = by_id(endpoint.value.id);
    let is_failing = async || store.health(endpoint.key).await.unwrap().unwrap().failing_since.is_some();
    store.update_endpoint(app.key, &id, disable(true), world.tick()).await.unwrap();
    assert!(is_failing().await);
    store.update_endpoint(app.key, &id, disable(false), world.tick()).await.unwrap();
    assert!(!is_failing().await);
}

pub(super) async fn observers_are_told_of_every_change<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let (endpoint, other) = (world.endpoint(&app).await, world.endpoint(&app).await);
    let (first, second) = (Recorder::of(store.as_ref()), Recorder::of(store.as_ref()));
    let id = by_id(endpoint.value.id);
    let told = |what: &str| {
        let news = first.take();
        assert!(news.contains(&News::Changed(endpoint.key)), "{what}: {news:?}");
        assert!(!news.contains(&News::Changed(other.key)), "{what}: {news:?}");
        assert_eq!(second.take(), news, "every observer is told");
    };
    store.update_endpoint(app.key, &id, EndpointPatch::default(), world.tick()).await.unwrap();
    told("update");
    let otherwise = world.new_endpoint(None);
    store.upsert_endpoint(app.key, &id, EndpointPatch::default(), otherwise, world.tick()).await.unwrap();
    told("upsert");
    done(store.rotate_secret(endpoint.key, world.secret(), FAR, world.tick(), None).await.unwrap());
    told("rotate");
    store.set_headers(endpoint.key, Headers::new(), world.tick()).await.unwrap();
    told("set headers");
    store.merge_headers(endpoint.key, BTreeMap::new(), world.tick()).await.unwrap();
    told("merge headers");
    store.delete_endpoint(app.key, &id, world.tick()).await.unwrap();
    told("delete");
    store.delete_application(&environment(), &by_id(app.value.id), world.tick()).await.unwrap();
    assert!(first.take().contains(&News::Changed(other.key)), "delete of the application");
}
