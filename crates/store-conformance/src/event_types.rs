//! Cases for event types.

use postrider_domain::application::EnvironmentId;
use postrider_domain::event_type::{EventType, EventTypePatch, Schemas};
use postrider_domain::names::EventTypeName;

use super::Harness;
use super::world::{World, done, environment, other_environment, type_name};
use postrider_store::{Direction, EventTypeFilter, Scan, Upserted, WriteError};

/// All of an event type in a form that can be compared.
fn shown(event_type: &EventType) -> String {
    let texts = |schemas: &Schemas| -> Vec<String> {
        schemas.iter().map(|(version, schema)| format!("{version}={}", schema.get())).collect()
    };
    let schemas = event_type.schemas.as_ref().map(texts);
    let EventType { name, description, archived, deprecated, feature_flag, group_name, created_at, updated_at, .. } =
        event_type;
    format!(
        "{name} {description:?} {archived} {deprecated} {schemas:?} {feature_flag:?} {group_name:?} {created_at} \
         {updated_at}"
    )
}

fn schemas(text: &str) -> Schemas {
    let schema: Box<serde_json::value::RawValue> = serde_json::from_str(text).unwrap();
    Schemas::from([("1".to_owned(), schema)])
}

async fn read<H: Harness>(world: &World<H>, name: &str) -> Option<String> {
    world.store().event_type(&environment(), name).await.unwrap().as_ref().map(shown)
}

async fn names<H: Harness>(world: &World<H>, filter: EventTypeFilter) -> Vec<String> {
    let page = Scan::all(Direction::Ascending, 100);
    let listed = world.store().event_types(&environment(), &filter, page).await.unwrap().listed.rows;
    listed.into_iter().map(|event_type| event_type.name.to_string()).collect()
}

async fn add<H: Harness>(world: &World<H>, event_type: EventType) {
    done(world.store().create_event_type(&environment(), u64::MAX, event_type, None).await.unwrap());
}

pub(super) async fn an_event_type_reads_back_with_its_schemas_byte_for_byte<H: Harness>(world: &World<H>) {
    let mut event_type = world.new_event_type("user.created");
    event_type.description = String::new();
    event_type.deprecated = true;
    event_type.schemas = Some(schemas("{ \"type\":\"object\",\"b\" : 1.50, \"a\":\"\\u00e4\" }"));
    event_type.feature_flag = Some("beta".to_owned());
    event_type.group_name = Some("users".to_owned());
    let written =
        done(world.store().create_event_type(&environment(), u64::MAX, event_type.clone(), None).await.unwrap());
    assert_eq!(shown(&written), shown(&event_type));
    assert_eq!(read(world, "user.created").await, Some(shown(&event_type)));

    let mut empty = world.new_event_type("empty");
    empty.schemas = Some(Schemas::new());
    add(world, empty.clone()).await;
    assert_eq!(read(world, "empty").await, Some(shown(&empty)), "no schemas and empty schemas differ");
}

pub(super) async fn an_active_name_is_a_conflict_and_an_archived_one_is_revived<H: Harness>(world: &World<H>) {
    let store = world.store();
    let mut first = world.new_event_type("a");
    first.schemas = Some(schemas("{}"));
    add(world, first.clone()).await;
    let again = store.create_event_type(&environment(), u64::MAX, world.new_event_type("a"), None).await;
    assert!(matches!(again, Err(WriteError::Conflict)), "{:?}", again.err());
    assert_eq!(read(world, "a").await, Some(shown(&first)));

    store.delete_event_type(&environment(), "a", false, world.tick()).await.unwrap();
    let revived = world.new_event_type("a");
    let written = done(store.create_event_type(&environment(), u64::MAX, revived.clone(), None).await.unwrap());
    let want = EventType { created_at: first.created_at, ..revived };
    assert_eq!(shown(&written), shown(&want));
    assert_eq!(read(world, "a").await, Some(shown(&want)));
}

pub(super) async fn environments_do_not_see_each_other<H: Harness>(world: &World<H>) {
    let store = world.store();
    add(world, world.new_event_type("a")).await;
    let theirs = world.new_event_type("a");
    done(store.create_event_type(&other_environment(), u64::MAX, theirs.clone(), None).await.unwrap());
    store.delete_event_type(&environment(), "a", true, world.tick()).await.unwrap();
    assert_eq!(read(world, "a").await, None);
    let read = store.event_type(&other_environment(), "a").await.unwrap().unwrap();
    assert_eq!(shown(&read), shown(&theirs));
    let updated = store.update_event_type(&environment(), "a", EventTypePatch::default(), world.tick()).await;
    assert!(matches!(updated, Err(WriteError::NotFound)), "{:?}", updated.err());
    assert_eq!(names(world, EventTypeFilter::default()).await, [""; 0]);
}

pub(super) async fn a_list_is_ordered_bytewise_and_filtered<H: Harness>(world: &World<H>) {
    for (name, flag) in [("b", None), ("a.b", Some("beta")), ("a-b", Some("alpha")), ("Z", None), ("a", None)] {
        let event_type = EventType {
            feature_flag: flag.map(str::to_owned),
            schemas: Some(schemas("{}")),
            ..world.new_event_type(name)
        };
        add(world, event_type).await;
    }
    world.store().delete_event_type(&environment(), "a", false, world.tick()).await.unwrap();

    assert_eq!(names(world, EventTypeFilter::default()).await, ["Z", "a-b", "a.b", "b"]);
    let archived = EventTypeFilter { include_archived: true, ..EventTypeFilter::default() };
    assert_eq!(names(world, archived).await, ["Z", "a", "a-b", "a.b", "b"]);
    let flags = |flags: &[&str]| EventTypeFilter {
        feature_flags: Some(flags.iter().map(|flag| (*flag).to_owned()).collect()),
        ..EventTypeFilter::default()
    };
    assert_eq!(names(world, flags(&["beta", "gamma"])).await, ["Z", "a.b", "b"]);
    assert_eq!(names(world, flags(&[])).await, ["Z", "b"]);

    for with_schemas in [false, true] {
        let filter = EventTypeFilter { with_schemas, ..EventTypeFilter::default() };
        let page = Scan::all(Direction::Descending, 1);
        let listed = world.store().event_types(&environment(), &filter, page).await.unwrap().listed.rows;
        assert_eq!(listed[0].schemas.is_some(), with_schemas);
    }
}

pub(super) async fn missing_names_are_told_in_the_order_given<H: Harness>(world: &World<H>) {
    let store = world.store();
    for name in ["a", "b"] {
        add(world, world.new_event_type(name)).await;
    }
    store.delete_event_type(&environment(), "b", false, world.tick()).await.unwrap();
    let wanted: Vec<_> = ["z", "a", "b", "A", "y"].map(type_name).into();
    let missing = store.missing_event_types(&environment(), &wanted, None).await.unwrap();
    assert_eq!(missing, ["z", "b", "A", "y"].map(type_name), "an archived type is missing");
    assert_eq!(store.missing_event_types(&environment(), &[type_name("a")], None).await.unwrap(), []);
    assert_eq!(store.missing_event_types(&environment(), &[], None).await.unwrap(), []);
    let elsewhere = store.missing_event_types(&other_environment(), &[type_name("a")], None).await.unwrap();
    assert_eq!(elsewhere, [type_name("a")]);
}

pub(super) async fn names_behind_flags_are_missing_to_those_without<H: Harness>(world: &World<H>) {
    let store = world.store();
    for (name, flag) in [("open", None), ("beta", Some("beta")), ("gamma", Some("gamma")), ("old", Some("beta"))] {
        add(world, EventType { feature_flag: flag.map(str::to_owned), ..world.new_event_type(name) }).await;
    }
    store.delete_event_type(&environment(), "old", false, world.tick()).await.unwrap();
    let wanted: Vec<_> = ["gamma", "open", "never", "beta", "old"].map(type_name).into();
    for (flags, want) in [
        (None, &["never", "old"][..]),
        (Some(&[][..]), &["gamma", "never", "beta", "old"]),
        (Some(&["beta", "other"]), &["gamma", "never", "old"]),
        (Some(&["gamma", "beta"]), &["never", "old"]),
    ] {
        let own = flags.map(|flags: &[&str]| flags.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>());
        let missing = store.missing_event_types(&environment(), &wanted, own.as_deref()).await.unwrap();
        assert_eq!(missing.iter().map(EventTypeName::as_str).collect::<Vec<_>>(), want, "{flags:?}");
    }
}

pub(super) async fn a_patch_changes_only_what_it_names<H: Harness>(world: &World<H>) {
    let store = world.store();
    let mut want = world.new_event_type("a");
    add(world, want.clone()).await;
    let patches = [
        EventTypePatch { description: Some("d".to_owned()), ..EventTypePatch::default() },
        EventTypePatch { schemas: Some(Some(schemas("{\"x\": 1}"))), ..EventTypePatch::default() },
        EventTypePatch { feature_flag: Some(Some("f".to_owned())), ..EventTypePatch::default() },
        EventTypePatch { group_name: Some(Some("g".to_owned())), ..EventTypePatch::default() },
        EventTypePatch { archived: Some(true), deprecated: Some(true), ..EventTypePatch::default() },
        EventTypePatch { schemas: Some(None), feature_flag: Some(None), ..EventTypePatch::default() },
        EventTypePatch { group_name: Some(None), archived: Some(false), ..EventTypePatch::default() },
    ];
    for patch in patches {
        let now = world.tick();
        patch.clone().apply(&mut want);
        want.updated_at = now;
        let updated = store.update_event_type(&environment(), "a", patch, now).await.unwrap();
        assert_eq!(shown(&updated), shown(&want));
        assert_eq!(read(world, "a").await, Some(shown(&want)));
    }
}

pub(super) async fn an_upsert_changes_what_is_there_and_adds_what_is_not<H: Harness>(world: &World<H>) {
    let store = world.store();
    let patch = EventTypePatch { description: Some("d".to_owned()), ..EventTypePatch::default() };
    let otherwise = world.new_event_type("a");
    let upsert = async |now| {
        store.upsert_event_type(&environment(), u64::MAX, "a", patch.clone(), otherwise.clone(), now).await.unwrap()
    };
    match upsert(world.tick()).await {
        Upserted::Created(created) => assert_eq!(shown(&created), shown(&otherwise)),
        Upserted::Updated(updated) => panic!("there was none: {updated:?}"),
    }
    let now = world.tick();
    let want = EventType { description: "d".to_owned(), updated_at: now, ..otherwise.clone() };
    match upsert(now).await {
        Upserted::Updated(updated) => assert_eq!(shown(&updated), shown(&want)),
        Upserted::Created(created) => panic!("there was one: {created:?}"),
    }
    assert_eq!(read(world, "a").await, Some(shown(&want)));
}

pub(super) async fn deleting_archives_again_and_again_and_expunging_removes<H: Harness>(world: &World<H>) {
    let store = world.store();
    let first = world.new_event_type("a");
    add(world, first.clone()).await;
    let now = world.tick();
    for _ in 0..2 {
        store.delete_event_type(&environment(), "a", false, now).await.unwrap();
        let archived = store.event_type(&environment(), "a").await.unwrap().unwrap();
        assert!(archived.archived);
    }
    store.delete_event_type(&environment(), "a", true, world.tick()).await.unwrap();
    assert_eq!(read(world, "a").await, None);
    for expunge in [false, true] {
        let again = store.delete_event_type(&environment(), "a", expunge, world.tick()).await;
        assert!(matches!(again, Err(WriteError::NotFound)), "{again:?}");
    }
}

pub(super) async fn a_name_of_an_illegal_form_names_nothing<H: Harness>(world: &World<H>) {
    let store = world.store();
    add(world, world.new_event_type("a")).await;
    for name in ["", "a\0", "A", "%", "a ", &"ä".repeat(1_000)] {
        assert!(store.event_type(&environment(), name).await.unwrap().is_none(), "{name:?}");
        let updated = store.update_event_type(&environment(), name, EventTypePatch::default(), world.tick()).await;
        assert!(matches!(updated, Err(WriteError::NotFound)), "{name:?}: {:?}", updated.err());
        let deleted = store.delete_event_type(&environment(), name, true, world.tick()).await;
        assert!(matches!(deleted, Err(WriteError::NotFound)), "{name:?}: {deleted:?}");
    }
}

pub(super) async fn all_of_them_are_read_at_once_unless_they_are_too_large<H: Harness>(world: &World<H>) {
    let store = world.store();
    let mut large = world.new_event_type("b");
    large.schemas = Some(schemas(&format!("\"{}\"", "x".repeat(10_000))));
    let mut flagged = world.new_event_type("c");
    flagged.feature_flag = Some("beta".to_owned());
    let mut archived = world.new_event_type("d");
    archived.archived = true;
    for event_type in [flagged, archived, large.clone(), world.new_event_type("a")] {
        add(world, event_type).await;
    }
    done(store.create_event_type(&other_environment(), u64::MAX, world.new_event_type("z"), None).await.unwrap());
    let all = async |filter: &EventTypeFilter, most: u64| {
        let found = store.all_event_types(&environment(), filter, most).await.unwrap();
        found.map(|found| found.iter().map(|one| one.name.to_string()).collect::<Vec<_>>())
    };
    let names = |text: &str| Some(text.chars().map(String::from).collect::<Vec<_>>());
    let everything = EventTypeFilter { include_archived: true, with_schemas: true, feature_flags: None };
    let bare = EventTypeFilter { with_schemas: false, ..everything.clone() };
    let unflagged = EventTypeFilter { feature_flags: Some(Vec::new()), ..EventTypeFilter::default() };
    let beta = EventTypeFilter { feature_flags: Some(vec!["beta".to_owned()]), ..EventTypeFilter::default() };
    assert_eq!(all(&everything, 20_000).await, names("abcd"));
    assert_eq!(all(&everything, 10_000).await, None, "with schemas they are more");
    assert_eq!(all(&bare, 10_000).await, names("abcd"));
    assert_eq!(all(&EventTypeFilter::default(), 10_000).await, names("abc"));
    assert_eq!(all(&unflagged, 10_000).await, names("ab"));
    assert_eq!(all(&beta, 10_000).await, names("abc"));
    assert_eq!(all(&bare, 3).await, None);
    let read = store.all_event_types(&environment(), &everything, u64::MAX).await.unwrap().unwrap();
    assert_eq!(shown(&read[1]), shown(&large));
    let nowhere = EnvironmentId::parse("org_nowhere").unwrap();
    let nowhere = store.all_event_types(&nowhere, &everything, 0).await.unwrap();
    assert_eq!(nowhere.map(|found| found.len()), Some(0));
}
