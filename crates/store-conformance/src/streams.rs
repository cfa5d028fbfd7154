//! Cases for reading messages as a stream.

use postrider_domain::ids::Ksuid;
use postrider_domain::message::Message;
use postrider_domain::time::Timestamp;

use super::Harness;
use super::world::{App, World, channel, type_name};
use postrider_store::{StreamFilter, StreamPosition, StreamSlice};

const START: StreamPosition = StreamPosition::Since(Ksuid::from_bytes([0; 20]));

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

/// Reads to the end, slice by slice.
async fn read_on<H: Harness>(world: &World<H>, app: &App, position: &mut StreamPosition) -> Vec<Message> {
    let mut got = Vec::new();
    loop {
        let slice = read(world, app, *position, 2).await;
        got.extend(slice.messages);
        *position = slice.position;
        if slice.done {
            return got;
        }
    }
}

/// Clocks that are wrong, by so many seconds: behind, ahead, and as far as in 2153.
const WRONG: [i64; 7] = [-3_600, -120, -61, 61, 90, 10_800, 4_000_000_000];

/// Accepts three messages that are dated by a clock that is wrong by so many seconds.
async fn send<H: Harness>(world: &World<H>, app: &App, wrong_by: i64) -> Vec<Message> {
    let mut sent = Vec::new();
    for _ in 0..3 {
        let shown = Timestamp::from_micros(world.tick().as_micros() + wrong_by * 1_000_000);
        sent.push(world.message_of(app, &[], world.new_message_at(shown)).await.value.as_ref().clone());
    }
    sent
}

pub(super) async fn a_reader_gets_what_came_while_the_clock_was_wrong<H: Harness>(world: &mut World<H>) {
    for wrong_by in WRONG {
        let app = world.application().await;
        // One who reads at all times, one who does not while the clock is wrong, one who is in the midst of it all.
        let (mut often, mut seldom, mut slow) = (START, START, START);
        let mut sent = send(world, &app, 0).await;
        let mut got = [&mut often, &mut seldom].map(|_| Vec::new());
        got[0].extend(read_on(world, &app, &mut often).await);
        got[1].extend(read_on(world, &app, &mut seldom).await);
        let first = read(world, &app, slow, 2).await;
        slow = first.position;
        world.reopen().await;
        sent.extend(send(world, &app, wrong_by).await);
        got[0].extend(read_on(world, &app, &mut often).await);
        world.reopen().await;
        sent.extend(send(world, &app, 0).await);
        got[0].extend(read_on(world, &app, &mut often).await);
        got[1].extend(read_on(world, &app, &mut seldom).await);
        assert!(got.iter().all(|got| *got == sent), "{wrong_by}: {got:#?}");
        let mut all = [first.messages, read_on(world, &app, &mut slow).await].concat();
        all.sort_by_key(|message| sent.iter().position(|sent| sent == message));
        assert!(all == sent, "{wrong_by}: each once, {all:#?}");
        // What comes later comes, too, and nothing of that again.
        let later = send(world, &app, 0).await;
        for position in [&mut often, &mut seldom, &mut slow] {
            assert_eq!(read_on(world, &app, position).await, later, "{wrong_by}");
        }
    }
}

pub(super) async fn a_named_reader_gets_what_came_while_the_clock_was_wrong<H: Harness>(world: &mut World<H>) {
    for wrong_by in WRONG {
        let app = world.application().await;
        let endpoint = world.endpoint(&app).await;
        world.store().begin_stream(endpoint.key, "one", START, world.tick()).await.unwrap();
        for wrong_by in [0, wrong_by, 0] {
            let sent = send(world, &app, wrong_by).await;
            let mut position = world.store().stream_position(endpoint.key, "one").await.unwrap().unwrap();
            assert_eq!(read_on(world, &app, &mut position).await, sent, "{wrong_by}");
            world.store().set_stream_position(endpoint.key, "one", position, world.tick()).await.unwrap();
            world.reopen().await;
        }
    }
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

pub(super) async fn who_begins_where_there_is_nothing_gets_what_comes<H: Harness>(world: &mut World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let beginning = StreamPosition::Since(Ksuid::floor(world.tick()));
    let mut first = read(world, &app, beginning, 2).await.position;
    let mut noted = [
        world.store().begin_stream(endpoint.key, "begins", beginning, world.tick()).await.unwrap(),
        world.store().set_stream_position(endpoint.key, "seeks", beginning, world.tick()).await.unwrap(),
    ];
    world.reopen().await;
    let sent = send(world, &app, -3_600).await;
    for (reader, position) in ["begins", "seeks"].into_iter().zip(&mut noted) {
        assert_eq!(world.store().stream_position(endpoint.key, reader).await.unwrap(), Some(*position));
        assert_eq!(read_on(world, &app, position).await, sent, "{reader}");
    }
    assert_eq!(read_on(world, &app, &mut first).await, sent);
}

pub(super) async fn an_endpoints_stream_begins_where_the_endpoint_does<H: Harness>(world: &mut World<H>) {
    let app = world.application().await;
    for wrong_by in WRONG {
        send(world, &app, 0).await;
        let shown = Timestamp::from_micros(world.tick().as_micros() + wrong_by * 1_000_000);
        let mut new = world.new_endpoint(None);
        (new.endpoint.created_at, new.endpoint.updated_at) = (shown, shown);
        let endpoint = world.add_endpoint(&app, new).await;
        world.reopen().await;
        let sent = send(world, &app, 0).await;
        let mut beginning = world.store().stream_beginning(endpoint.key).await.unwrap();
        assert_eq!(read_on(world, &app, &mut beginning).await, sent, "{wrong_by}");
    }
}

pub(super) async fn a_reader_is_where_it_said<H: Harness>(world: &mut World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let (endpoint, other) = (world.endpoint(&app).await, world.endpoint(&app).await);
    assert_eq!(store.stream_position(endpoint.key, "one").await.unwrap(), None);
    world.message(&app, &[]).await;
    let first = read(world, &app, START, 1).await.position;
    assert!(matches!(first, StreamPosition::Behind { .. }), "{first:?}");
    // One that has not begun begins when it is noted.
    let begun = store.begin_stream(other.key, "two", START, world.tick()).await.unwrap();
    assert!(matches!(begun, StreamPosition::Among { .. }), "{begun:?}");
    // Who begins a second time, with whatever in mind, is where it is.
    for beginning in [START, first] {
        assert_eq!(store.begin_stream(other.key, "two", beginning, world.tick()).await.unwrap(), begun);
    }
    for (reader, position, noted) in [("one", START, begun), ("two", START, begun), ("one", first, first)] {
        let known = store.set_stream_position(endpoint.key, reader, position, world.tick()).await.unwrap();
        assert_eq!(known, noted);
    }
    for number in 2..postrider_store::MAX_CONSUMERS {
        let reader = format!("reader-{number}");
        store.set_stream_position(endpoint.key, &reader, START, world.tick()).await.unwrap();
    }
    let one_more = store.set_stream_position(endpoint.key, "one more", START, world.tick()).await;
    assert!(matches!(one_more, Err(postrider_store::WriteError::Full { .. })), "{one_more:?}");
    let begins = store.begin_stream(endpoint.key, "one more", START, world.tick()).await;
    assert!(matches!(begins, Err(postrider_store::WriteError::Full { .. })), "{begins:?}");
    // Those who are there go on.
    store.set_stream_position(endpoint.key, "one", first, world.tick()).await.unwrap();
    world.reopen().await;
    let store = world.store();
    assert_eq!(store.stream_position(endpoint.key, "one").await.unwrap(), Some(first));
    assert_eq!(store.stream_position(endpoint.key, "two").await.unwrap(), Some(begun));
    assert_eq!(store.stream_position(other.key, "one").await.unwrap(), None);
}
