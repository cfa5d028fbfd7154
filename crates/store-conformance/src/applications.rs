//! Cases for applications.

use std::collections::BTreeMap;

use postrider_domain::application::ApplicationPatch;
use postrider_domain::ids::ApplicationId;
use postrider_domain::names::IdOrUid;

use super::Harness;
use super::world::{World, by_id, by_uid, done, environment, other_environment, uid_of};
use postrider_store::{ApplicationFilter, Direction, MessageFilter, Scan, Upserted, WriteError};

pub(super) async fn an_application_reads_back_as_it_was_written<H: Harness>(world: &World<H>) {
    let mut application = world.new_application(Some("customer-1"));
    application.throttle_rate = Some(u16::MAX);
    let written = world.store().create_application(&environment(), application.clone(), None).await.unwrap();
    assert_eq!(done(written), application);
    let read = world.store().application(&environment(), &by_id(application.id)).await.unwrap().unwrap();
    assert_eq!(read.value, application);
}

pub(super) async fn an_application_is_found_by_its_uid<H: Harness>(world: &World<H>) {
    let app = world.add_application(&environment(), world.new_application(Some("one"))).await;
    world.add_application(&environment(), world.new_application(None)).await;
    let find = async |id: IdOrUid<ApplicationId>| world.store().application(&environment(), &id).await.unwrap();
    assert_eq!(find(by_uid("one")).await, Some(app));
    for text in ["two", "", "ONE", "one\0", "%"] {
        assert_eq!(find(by_uid(text)).await, None, "{text:?}");
    }
}

pub(super) async fn a_list_may_leave_out_applications_that_nobody_listens_to<H: Harness>(world: &World<H>) {
    let store = world.store();
    let (bare, deaf, heard) = (world.application().await, world.application().await, world.application().await);
    for (app, disabled) in [(&deaf, true), (&deaf, true), (&heard, true), (&heard, false)] {
        let mut new = world.new_endpoint(None);
        new.endpoint.disabled = disabled;
        world.add_endpoint(app, new).await;
    }
    let gone = world.endpoint(&bare).await;
    store.delete_endpoint(bare.key, &by_id(gone.value.id), world.tick()).await.unwrap();
    for (with_endpoints, without_disabled, want) in [
        (false, false, vec![&bare, &deaf, &heard]),
        (true, false, vec![&deaf, &heard]),
        (false, true, vec![&bare, &heard]),
        (true, true, vec![&heard]),
    ] {
        let filter = ApplicationFilter { with_endpoints, without_disabled };
        let listed =
            store.applications(&environment(), filter, Scan::all(Direction::Ascending, 10)).await.unwrap().listed.rows;
        let want: Vec<_> = want.into_iter().map(|app| app.value.clone()).collect();
        assert_eq!(listed, want, "{filter:?}");
    }
}

pub(super) async fn a_taken_uid_is_a_conflict_on_every_way_to_write_it<H: Harness>(world: &World<H>) {
    let (store, environment) = (world.store(), environment());
    let taken = world.add_application(&environment, world.new_application(Some("taken"))).await;
    let other = world.application().await;
    let patch = ApplicationPatch { uid: Some(Some(uid_of("taken"))), ..ApplicationPatch::default() };
    let (id, now) = (by_id(other.value.id), world.tick());

    let created = store.create_application(&environment, world.new_application(Some("taken")), None).await;
    assert!(matches!(created, Err(WriteError::Conflict)), "{created:?}");
    let updated = store.update_application(&environment, &id, patch.clone(), now).await;
    assert!(matches!(updated, Err(WriteError::Conflict)), "{updated:?}");
    let otherwise = || world.new_application(Some("taken"));
    let changed = store.upsert_application(&environment, &id, patch.clone(), otherwise(), now).await;
    assert!(matches!(changed, Err(WriteError::Conflict)), "{changed:?}");
    let unknown = by_uid("unknown");
    let added = store.upsert_application(&environment, &unknown, patch.clone(), otherwise(), now).await;
    assert!(matches!(added, Err(WriteError::Conflict)), "{added:?}");

    let own = store.update_application(&environment, &by_id(taken.value.id), patch, now).await.unwrap();
    assert_eq!(own.uid, Some(uid_of("taken")), "its own uid is free for it");
    let all = store
        .applications(&environment, ApplicationFilter::default(), Scan::all(Direction::Ascending, 10))
        .await
        .unwrap()
        .listed
        .rows;
    assert_eq!(all, [own, other.value], "a refused write writes nothing");
}

pub(super) async fn environments_do_not_see_each_other<H: Harness>(world: &World<H>) {
    let store = world.store();
    let mine = world.add_application(&environment(), world.new_application(Some("same"))).await;
    let theirs = world.add_application(&other_environment(), world.new_application(Some("same"))).await;
    assert_ne!(mine.key, theirs.key);
    assert_eq!(store.application(&environment(), &by_uid("same")).await.unwrap(), Some(mine));
    let id = by_id(theirs.value.id);
    assert_eq!(store.application(&environment(), &id).await.unwrap(), None);
    let patch = ApplicationPatch::default();
    let updated = store.update_application(&environment(), &id, patch, world.tick()).await;
    assert!(matches!(updated, Err(WriteError::NotFound)), "{updated:?}");
    let deleted = store.delete_application(&environment(), &id, world.tick()).await;
    assert!(matches!(deleted, Err(WriteError::NotFound)), "{deleted:?}");
    let listed = store
        .applications(&other_environment(), ApplicationFilter::default(), Scan::all(Direction::Ascending, 10))
        .await
        .unwrap()
        .listed
        .rows;
    assert_eq!(listed, [theirs.value]);
}

pub(super) async fn a_patch_changes_only_what_it_names<H: Harness>(world: &World<H>) {
    let (store, environment) = (world.store(), environment());
    let mut want = world.add_application(&environment, world.new_application(Some("one"))).await.value;
    let id = by_id(want.id);
    let patches = [
        ApplicationPatch { name: Some("Zwei".to_owned()), ..ApplicationPatch::default() },
        ApplicationPatch { throttle_rate: Some(Some(7)), ..ApplicationPatch::default() },
        ApplicationPatch { uid: Some(None), ..ApplicationPatch::default() },
        ApplicationPatch { metadata: Some(BTreeMap::new()), ..ApplicationPatch::default() },
        ApplicationPatch { throttle_rate: Some(None), ..ApplicationPatch::default() },
        ApplicationPatch::default(),
    ];
    for patch in patches {
        let now = world.tick();
        patch.clone().apply(&mut want);
        want.updated_at = now;
        assert_eq!(store.update_application(&environment, &id, patch, now).await.unwrap(), want);
        assert_eq!(store.application(&environment, &id).await.unwrap().unwrap().value, want);
    }
}

pub(super) async fn an_update_of_what_is_not_there_is_not_found<H: Harness>(world: &World<H>) {
    let store = world.store();
    for id in [by_uid("nobody"), by_id(world.new_application(None).id)] {
        let updated = store.update_application(&environment(), &id, ApplicationPatch::default(), world.tick()).await;
        assert!(matches!(updated, Err(WriteError::NotFound)), "{updated:?}");
        let deleted = store.delete_application(&environment(), &id, world.tick()).await;
        assert!(matches!(deleted, Err(WriteError::NotFound)), "{deleted:?}");
    }
}

pub(super) async fn an_upsert_changes_what_is_there_and_adds_what_is_not<H: Harness>(world: &World<H>) {
    let (store, environment) = (world.store(), environment());
    let patch = ApplicationPatch { name: Some("new name".to_owned()), ..ApplicationPatch::default() };
    let otherwise = world.new_application(Some("fresh"));
    let upsert = async |id: IdOrUid<ApplicationId>, now| {
        store.upsert_application(&environment, &id, patch.clone(), otherwise.clone(), now).await.unwrap()
    };
    let added = upsert(by_uid("fresh"), world.tick()).await;
    assert_eq!(added, Upserted::Created(otherwise.clone()));

    let now = world.tick();
    let mut want = otherwise.clone();
    patch.clone().apply(&mut want);
    want.updated_at = now;
    assert_eq!(upsert(by_uid("fresh"), now).await, Upserted::Updated(want.clone()));
    assert_eq!(upsert(by_id(want.id), now).await, Upserted::Updated(want.clone()));
    let all = store
        .applications(&environment, ApplicationFilter::default(), Scan::all(Direction::Ascending, 10))
        .await
        .unwrap()
        .listed
        .rows;
    assert_eq!(all, [want]);
}

pub(super) async fn a_deleted_application_and_all_of_it_are_found_no_more<H: Harness>(world: &World<H>) {
    let (store, environment) = (world.store(), environment());
    let app = world.add_application(&environment, world.new_application(Some("gone"))).await;
    let endpoint = world.add_endpoint(&app, world.new_endpoint(Some("ep"))).await;
    let message = world.message(&app, &[&endpoint]).await;
    store.delete_application(&environment, &by_uid("gone"), world.tick()).await.unwrap();

    let id = by_id(app.value.id);
    assert_eq!(store.application(&environment, &id).await.unwrap(), None);
    assert_eq!(store.application(&environment, &by_uid("gone")).await.unwrap(), None);
    let page = || Scan::all(Direction::Descending, 10);
    assert_eq!(store.applications(&environment, ApplicationFilter::default(), page()).await.unwrap().listed.rows, []);
    assert_eq!(store.endpoint(app.key, &by_id(endpoint.value.id)).await.unwrap(), None);
    assert_eq!(store.endpoint(app.key, &by_uid("ep")).await.unwrap(), None);
    assert_eq!(store.endpoints(app.key, page()).await.unwrap().rows, []);
    assert_eq!(store.headers(endpoint.key).await.unwrap(), None);
    assert_eq!(store.signing_keys(endpoint.key).await.unwrap(), None);
    assert_eq!(store.message(app.key, &by_id(message.value.id), true).await.unwrap(), None);
    assert_eq!(store.messages(app.key, &MessageFilter::default(), page()).await.unwrap().listed.rows, []);
    assert!(store.routes(&environment, &id).await.unwrap().is_none());
    let again = store.delete_application(&environment, &id, world.tick()).await;
    assert!(matches!(again, Err(WriteError::NotFound)), "{again:?}");
}

pub(super) async fn a_uid_is_free_after_its_application_is_deleted<H: Harness>(world: &World<H>) {
    let (store, environment) = (world.store(), environment());
    let first = world.add_application(&environment, world.new_application(Some("one"))).await;
    store.delete_application(&environment, &by_id(first.value.id), world.tick()).await.unwrap();
    let second = world.add_application(&environment, world.new_application(Some("one"))).await;
    let found = store.application(&environment, &by_uid("one")).await.unwrap().unwrap();
    assert_eq!(found, second);
}

pub(super) async fn handles_are_not_reused_after_a_delete<H: Harness>(world: &World<H>) {
    let store = world.store();
    let first = world.application().await;
    let endpoint = world.endpoint(&first).await;
    let message = world.message(&first, &[&endpoint]).await;
    store.delete_application(&environment(), &by_id(first.value.id), world.tick()).await.unwrap();
    let second = world.application().await;
    assert_ne!(second.key, first.key);
    let other = world.endpoint(&second).await;
    assert_ne!(other.key, endpoint.key);
    assert_ne!(world.message(&second, &[&other]).await.key, message.key);
}
