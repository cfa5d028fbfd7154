//! Cases for reading messages as a stream.

use postrider_domain::ids::{Id as _, Ksuid};
use postrider_domain::message::Message;

use super::Harness;
use super::world::{App, World, channel, type_name};
use crate::{StreamFilter, StreamPosition, StreamSlice};

const START: StreamPosition = StreamPosition { after: Ksuid::from_bytes([0; 20]), seen: None };

async fn read<H: Harness>(world: &World<H>, app: &App, from: StreamPosition, limit: usize) -> StreamSlice {
    world.store().stream(app.key, Vec::new(), from, limit).await.unwrap()
}

pub(super) async fn a_stream_is_read_slice_by_slice_to_its_end<H: Harness>(world: &World<H>) {
    let (app, other) = (world.application().await, world.application().await);
    let mut sent = Vec::new();
    for _ in 0..5 {
        sent.push(world.message(&app, &[]).await.value.as_ref().clone());
        world.message(&other, &[]).await;
    }
    let (mut got, mut position) = (Vec::new(), START);
    for (count, done) in [(2, false), (2, false), (1, true), (0, true)] {
        let slice = read(world, &app, position, 2).await;
        assert_eq!((slice.messages.len(), slice.done), (count, done));
        got.extend(slice.messages);
        position = slice.position;
    }
    assert_eq!(got, sent);
    let later = world.message(&app, &[]).await;
    assert_eq!(read(world, &app, position, 2).await.messages, [later.value.as_ref().clone()]);
}

pub(super) async fn what_comes_late_is_not_missed<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let slow: Vec<Message> = (0..3).map(|_| world.new_message()).collect();
    world.message(&app, &[]).await;
    let slice = read(world, &app, START, 10).await;
    assert_eq!((slice.messages.len(), slice.done), (1, true));
    let mut position = slice.position;
    for message in &slow {
        world.message_of(&app, &[], message.clone()).await;
    }
    let newest = world.message(&app, &[]).await.value.as_ref().clone();
    let mut got = Vec::new();
    loop {
        let slice = read(world, &app, position, 2).await;
        got.extend(slice.messages);
        position = slice.position;
        if slice.done {
            break;
        }
    }
    assert_eq!(got, [slow, vec![newest]].concat(), "each once");
    assert_eq!(read(world, &app, position, 2).await.messages, []);
}

pub(super) async fn a_stream_shows_what_passes_all_filters<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    for (event_type, channels) in [("a", None), ("b", None), ("a", Some("x")), ("b", Some("x")), ("a", Some("y"))] {
        let channels = channels.map(|name| vec![channel("z"), channel(name)]);
        let message = Message { event_type: type_name(event_type), channels, ..world.new_message() };
        world.message_of(&app, &[], message).await;
    }
    let types = |names: &[&str]| Some(names.iter().map(|name| type_name(name)).collect());
    let on = |names: &[&str]| Some(names.iter().map(|name| channel(name)).collect());
    let filter = |event_types, channels| StreamFilter { event_types, channels };
    for (filters, count) in [
        (vec![], 5),
        (vec![filter(types(&["a"]), None)], 3),
        (vec![filter(None, on(&["x", "y"]))], 3),
        (vec![filter(types(&["a", "b"]), None), filter(types(&["b"]), on(&["x"]))], 1),
        (vec![filter(types(&["a"]), None), filter(types(&["b"]), None)], 0),
    ] {
        let slice = world.store().stream(app.key, filters.clone(), START, 10).await.unwrap();
        assert_eq!((slice.messages.len(), slice.done), (count, true), "{filters:?}");
    }
}

pub(super) async fn a_reader_is_where_it_said<H: Harness>(world: &mut World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let (endpoint, other) = (world.endpoint(&app).await, world.endpoint(&app).await);
    assert_eq!(store.stream_position(endpoint.key, "one").await.unwrap(), None);
    let message = world.message(&app, &[]).await;
    let first = StreamPosition { after: message.value.id.ksuid(), seen: Some(message.key) };
    // Who begins a second time, with whatever in mind, is where it is.
    for beginning in [START, first] {
        assert_eq!(store.begin_stream(other.key, "two", beginning, world.tick()).await.unwrap(), START);
    }
    for (reader, position) in [("one", START), ("two", START), ("one", first)] {
        store.set_stream_position(endpoint.key, reader, position, world.tick()).await.unwrap();
    }
    for number in 2..crate::MAX_CONSUMERS {
        let reader = format!("reader-{number}");
        store.set_stream_position(endpoint.key, &reader, START, world.tick()).await.unwrap();
    }
    let one_more = store.set_stream_position(endpoint.key, "one more", START, world.tick()).await;
    assert!(matches!(one_more, Err(crate::WriteError::Full { .. })), "{one_more:?}");
    let begins = store.begin_stream(endpoint.key, "one more", START, world.tick()).await;
    assert!(matches!(begins, Err(crate::WriteError::Full { .. })), "{begins:?}");
    // Those who are there go on.
    store.set_stream_position(endpoint.key, "one", first, world.tick()).await.unwrap();
    world.reopen().await;
    let store = world.store();
    assert_eq!(store.stream_position(endpoint.key, "one").await.unwrap(), Some(first));
    assert_eq!(store.stream_position(endpoint.key, "two").await.unwrap(), Some(START));
    assert_eq!(store.stream_position(other.key, "one").await.unwrap(), None);
}
