//! Cases for environments: settings, what they mean for routes, and imports.

use postrider_domain::environment::{
    EnvironmentSettings, EnvironmentSettingsPatch, MessageRules, SchemaEnforcement, UnknownEventTypes,
};
use postrider_domain::event_type::{EventType, EventTypePatch, Schemas};
use postrider_domain::time::Timestamp;

use super::Harness;
use super::world::{World, done, environment, once, other_environment, stored_answer};
use postrider_store::{AcceptError, Capped, Import, ImportedEventType, WriteError, Written};

const REJECT: EnvironmentSettingsPatch = EnvironmentSettingsPatch {
    schema_enforcement: Some(SchemaEnforcement::Reject),
    unknown_event_types: None,
    public_catalogue: None,
};

async fn set<H: Harness>(world: &World<H>, patch: EnvironmentSettingsPatch) -> EnvironmentSettings {
    world.store().update_environment_settings(&environment(), patch, world.tick()).await.unwrap()
}

pub(super) async fn an_environment_has_the_default_settings_until_they_are_changed<H: Harness>(world: &World<H>) {
    let store = world.store();
    let read = async || store.environment_settings(&environment()).await.unwrap();
    assert_eq!(read().await, EnvironmentSettings::default());
    assert_eq!(set(world, EnvironmentSettingsPatch::default()).await, EnvironmentSettings::default());
    assert_eq!(read().await, EnvironmentSettings::default(), "nothing changed, so there is no date");

    let publish = EnvironmentSettingsPatch { public_catalogue: Some(true), ..EnvironmentSettingsPatch::default() };
    let first = set(world, publish).await;
    assert!(first.public_catalogue && first.rules.are_none());
    assert!(first.created_at.is_some() && first.created_at == first.updated_at);
    assert_eq!(read().await, first);
    let second = set(world, REJECT).await;
    let rules = MessageRules { schemas: SchemaEnforcement::Reject, unknown_event_types: UnknownEventTypes::Allow };
    assert_eq!((second.rules, second.public_catalogue, second.created_at), (rules, true, first.created_at));
    assert!(second.updated_at > first.updated_at);
    assert_eq!(read().await, second);
}

pub(super) async fn settings_belong_to_their_environment_and_survive_a_restart<H: Harness>(world: &mut World<H>) {
    let settings = set(world, REJECT).await;
    world.reopen().await;
    assert_eq!(world.store().environment_settings(&environment()).await.unwrap(), settings);
    let others = world.store().environment_settings(&other_environment()).await.unwrap();
    assert_eq!(others, EnvironmentSettings::default());
}

pub(super) async fn rules_reach_the_routes_and_make_them_newer<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let mut version = world.routes(&app).await.version;
    let unknown = |unknown| EnvironmentSettingsPatch { unknown_event_types: Some(unknown), ..Default::default() };
    let schemas = |mode| EnvironmentSettingsPatch { schema_enforcement: Some(mode), ..Default::default() };
    for patch in [
        REJECT,
        schemas(SchemaEnforcement::Warn),
        unknown(UnknownEventTypes::Reject),
        schemas(SchemaEnforcement::Off),
        unknown(UnknownEventTypes::Allow),
    ] {
        let settings = set(world, patch).await;
        let routes = world.routes(&app).await;
        assert_eq!(routes.rules, settings.rules);
        assert!(routes.version > version, "{patch:?}");
        version = routes.version;
    }
    for harmless in [
        EnvironmentSettingsPatch { public_catalogue: Some(true), ..Default::default() },
        schemas(SchemaEnforcement::Off),
    ] {
        set(world, harmless).await;
        assert_eq!(world.routes(&app).await.version, version, "nothing that concerns a message: {harmless:?}");
    }
}

pub(super) async fn event_types_make_routes_newer_only_while_there_are_rules<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    for (patch, newer) in [(EnvironmentSettingsPatch::default(), false), (REJECT, true)] {
        set(world, patch).await;
        let mut version = world.routes(&app).await.version;
        let mut check = async |what: &str| {
            let now = world.routes(&app).await.version;
            assert_eq!(now > version, newer, "{what}");
            version = now;
        };
        done(store.create_event_type(&environment(), u64::MAX, world.new_event_type("a"), None).await.unwrap());
        check("create").await;
        let patch = EventTypePatch { deprecated: Some(true), ..EventTypePatch::default() };
        store.update_event_type(&environment(), "a", patch.clone(), world.tick()).await.unwrap();
        check("update").await;
        store
            .upsert_event_type(&environment(), u64::MAX, "a", patch.clone(), world.new_event_type("a"), world.tick())
            .await
            .unwrap();
        check("upsert").await;
        store.delete_event_type(&environment(), "a", false, world.tick()).await.unwrap();
        check("archive").await;
        store.delete_event_type(&environment(), "a", true, world.tick()).await.unwrap();
        check("expunge").await;
        let event_types = vec![imported(world.new_event_type("a"))];
        let import = Import { event_types, ..Import::default() };
        done(store.import(&environment(), import, world.tick(), None).await.unwrap());
        check("import").await;
        store.delete_event_type(&environment(), "a", true, world.tick()).await.unwrap();
    }
}

pub(super) async fn a_message_of_routes_before_a_rule_is_refused<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let before = world.draft(&app, &[]).await;
    set(world, REJECT).await;
    let refused = world.accept(before).await;
    assert!(matches!(refused, Err(AcceptError::Stale)), "{refused:?}");
    world.message(&app, &[]).await;
    let before = world.draft(&app, &[]).await;
    done(world.store().create_event_type(&environment(), u64::MAX, world.new_event_type("a"), None).await.unwrap());
    let refused = world.accept(before).await;
    assert!(matches!(refused, Err(AcceptError::Stale)), "{refused:?}");
}

/// Brings an event type in whole.
fn imported(new: EventType) -> ImportedEventType {
    let patch = EventTypePatch {
        description: Some(new.description.clone()),
        archived: Some(new.archived),
        schemas: Some(new.schemas.clone()),
        ..EventTypePatch::default()
    };
    ImportedEventType { new, patch }
}

async fn import<H: Harness>(world: &World<H>, import: Import) -> Vec<String> {
    let changed = done(world.store().import(&environment(), import, world.tick(), None).await.unwrap());
    changed.iter().map(ToString::to_string).collect()
}

async fn read<H: Harness>(world: &World<H>, name: &str) -> EventType {
    world.store().event_type(&environment(), name).await.unwrap().unwrap()
}

pub(super) async fn an_import_adds_changes_and_leaves_alone<H: Harness>(world: &World<H>) {
    for name in ["same", "other", "changed"] {
        let mut event_type = world.new_event_type(name);
        event_type.feature_flag = Some("beta".to_owned());
        done(world.store().create_event_type(&environment(), u64::MAX, event_type, None).await.unwrap());
    }
    world.store().delete_event_type(&environment(), "changed", false, world.tick()).await.unwrap();
    let same = read(world, "same").await;
    let schemas: Schemas = serde_json::from_str(r#"{"1": {"type":  "object"}}"#).unwrap();
    let event_types = vec![
        imported(world.new_event_type("new")),
        imported(EventType { schemas: Some(schemas), ..world.new_event_type("changed") }),
        imported(world.new_event_type("same")),
    ];
    let settings = EnvironmentSettingsPatch { public_catalogue: Some(true), ..REJECT };
    let what = Import { event_types, settings, ..Import::default() };
    assert_eq!(import(world, what.clone()).await, ["changed", "new"]);
    let changed = read(world, "changed").await;
    assert!(!changed.archived && changed.feature_flag.as_deref() == Some("beta"), "{changed:?}");
    assert_eq!(changed.schemas.unwrap()["1"].get(), r#"{"type":  "object"}"#);
    assert_eq!(read(world, "same").await.updated_at, same.updated_at);
    assert!(!read(world, "other").await.archived);
    let settings = world.store().environment_settings(&environment()).await.unwrap();
    assert!(settings.public_catalogue && settings.rules.schemas == SchemaEnforcement::Reject);
    assert_eq!(import(world, what).await, [""; 0], "everything is there already");
}

pub(super) async fn an_import_archives_the_others_if_asked<H: Harness>(world: &World<H>) {
    for name in ["b", "a", "kept", "gone"] {
        done(
            world.store().create_event_type(&environment(), u64::MAX, world.new_event_type(name), None).await.unwrap(),
        );
    }
    done(
        world.store().create_event_type(&other_environment(), u64::MAX, world.new_event_type("a"), None).await.unwrap(),
    );
    world.store().delete_event_type(&environment(), "gone", false, world.tick()).await.unwrap();
    let event_types = vec![imported(world.new_event_type("kept"))];
    let what = Import { event_types, archive_others: true, ..Import::default() };
    assert_eq!(import(world, what).await, ["a", "b"]);
    for (name, archived) in [("a", true), ("b", true), ("kept", false), ("gone", true)] {
        assert_eq!(read(world, name).await.archived, archived, "{name}");
    }
    let theirs = world.store().event_type(&other_environment(), "a").await.unwrap().unwrap();
    assert!(!theirs.archived);
}

pub(super) async fn a_large_import_is_brought_in_whole_or_not_at_all<H: Harness>(world: &World<H>) {
    let schemas: Schemas = serde_json::from_str(&format!(r#"{{"1": {{"title": "{}"}}}}"#, "x".repeat(20_000))).unwrap();
    let event_types: Vec<_> = (0..300)
        .map(|number| EventType {
            schemas: Some(schemas.clone()),
            ..world.new_event_type(&format!("kind.{number:03}"))
        })
        .map(imported)
        .collect();
    let what = Import { event_types, archive_others: true, ..Import::default() };
    let refused = Import { most: 299, ..what.clone() };
    let refused = world.store().import(&environment(), refused, world.tick(), None).await;
    assert!(matches!(refused, Err(WriteError::Full { of: Capped::EventTypes, most: 299 })), "{refused:?}");
    assert!(world.store().event_type(&environment(), "kind.000").await.unwrap().is_none());
    let names: Vec<_> = (0..300).map(|number| format!("kind.{number:03}")).collect();
    assert_eq!(import(world, what.clone()).await, names);
    assert_eq!(read(world, "kind.299").await.schemas.unwrap()["1"].get(), schemas["1"].get());
    let less = Import { event_types: what.event_types[..10].to_vec(), ..what };
    assert_eq!(import(world, less).await, names[10..]);
    assert!(read(world, "kind.010").await.archived && !read(world, "kind.009").await.archived);
}

pub(super) async fn an_import_is_carried_out_once<H: Harness>(world: &World<H>) {
    let (store, key) = (world.store(), world.idempotency_key());
    for (name, first) in [("a", true), ("b", false)] {
        let event_types = vec![imported(world.new_event_type(name))];
        let what = Import { event_types, ..Import::default() };
        let once = once(key, Timestamp::from_micros(0), "{}");
        let written = store.import(&environment(), what, world.tick(), Some(once)).await.unwrap();
        match written {
            Written::Done(names) => assert!(first && names.len() == 1),
            Written::Replayed(answer) => assert!(!first && answer == stored_answer("{}")),
        }
    }
    assert!(store.event_type(&environment(), "b").await.unwrap().is_none());
}
