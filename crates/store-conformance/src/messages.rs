//! Cases for reading messages.

use bytes::Bytes;
use postrider_domain::message::Message;
use postrider_domain::names::IdOrUid;
use postrider_domain::time::Timestamp;

use super::Harness;
use super::world::{App, World, by_id, by_uid, channel, tag, type_name, uid_of};
use postrider_store::{Direction, MessageFilter, Scan};

pub(super) async fn a_message_reads_back_as_it_was_accepted<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let message = Message {
        event_id: Some(uid_of("evt-1")),
        channels: Some(vec![channel("b"), channel("a")]),
        tags: Some(vec![tag("t"), tag("s")]),
        deliver_at: Some(Timestamp::from_micros(1_767_999_999_000_000)),
        expires_at: Some(Timestamp::from_micros(1_768_999_999_000_000)),
        ..world.new_message()
    };
    let accepted = world.message_of(&app, &[], message.clone()).await;
    for id in [by_id(message.id), by_uid("evt-1")] {
        let read = store.message(app.key, &id, true).await.unwrap().unwrap();
        assert_eq!((read.key, &read.value), (accepted.key, &message));
    }
    let plain = world.message(&app, &[]).await;
    let read = store.message(app.key, &by_id(plain.value.id), true).await.unwrap().unwrap();
    assert_eq!(&read.value, plain.value.as_ref());
}

pub(super) async fn a_payload_comes_back_byte_for_byte<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let every_byte: Vec<u8> = (0..=255).collect();
    let payloads = [Bytes::new(), Bytes::from(every_byte.clone()), Bytes::from(every_byte.repeat(8_192))];
    for payload in payloads {
        let message = Message { payload: Some(payload), ..world.new_message() };
        world.message_of(&app, &[], message.clone()).await;
        let read = store.message(app.key, &by_id(message.id), true).await.unwrap().unwrap();
        assert!(read.value == message, "{} bytes", message.payload.map_or(0, |payload| payload.len()));
    }
}

pub(super) async fn another_applications_messages_are_not_found<H: Harness>(world: &World<H>) {
    let store = world.store();
    let (mine, theirs) = (world.application().await, world.application().await);
    let message = Message { event_id: Some(uid_of("evt")), ..world.new_message() };
    let id = message.id;
    world.message_of(&theirs, &[], message).await;
    for id in [by_id(id), by_uid("evt"), IdOrUid::Uid("evt\0".into()), by_id(world.new_message().id)] {
        assert_eq!(store.message(mine.key, &id, true).await.unwrap(), None);
    }
    assert_eq!(list(world, &mine, MessageFilter::default(), 10).await, []);
}

async fn list<H: Harness>(world: &World<H>, app: &App, filter: MessageFilter, limit: usize) -> Vec<Message> {
    world.store().messages(app.key, &filter, Scan::all(Direction::Ascending, limit)).await.unwrap().listed.rows
}

/// Messages of three types on several channels, without their payloads, oldest first.
async fn varied<H: Harness>(world: &World<H>, app: &App) -> Vec<Message> {
    let mut all = Vec::new();
    for (kind, channels) in
        [("a", None), ("b", Some(vec!["x"])), ("a", Some(vec!["y", "x"])), ("c", Some(vec!["xx"])), ("b", None)]
    {
        // Those on channel x have tags, too.
        let tags = channels.as_ref().filter(|names| names.contains(&"x")).map(|_| vec![tag("old"), tag("new")]);
        let channels = channels.map(|names| names.into_iter().map(channel).collect());
        let message = Message { event_type: type_name(kind), channels, tags, ..world.new_message() };
        world.message_of(app, &[], message.clone()).await;
        all.push(Message { payload: None, ..message });
    }
    all
}

pub(super) async fn a_list_shows_only_what_its_filter_asks_for<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let all = varied(world, &app).await;
    let check = async |filter: MessageFilter, want: &[usize]| {
        let want: Vec<Message> = want.iter().map(|index| all[*index].clone()).collect();
        assert_eq!(list(world, &app, filter.clone(), 10).await, want, "{filter:?}");
    };
    let types = |names: &[&str]| Some(names.iter().map(|name| type_name(name)).collect());
    check(MessageFilter::default(), &[0, 1, 2, 3, 4]).await;
    check(MessageFilter { event_types: types(&["a"]), ..MessageFilter::default() }, &[0, 2]).await;
    check(MessageFilter { event_types: types(&["c", "b", "nothing"]), ..MessageFilter::default() }, &[1, 3, 4]).await;
    check(MessageFilter { event_types: types(&[]), ..MessageFilter::default() }, &[]).await;
    check(MessageFilter { channel: Some(channel("x")), ..MessageFilter::default() }, &[1, 2]).await;
    let both = MessageFilter { channel: Some(channel("x")), event_types: types(&["a"]), ..MessageFilter::default() };
    check(both.clone(), &[2]).await;
    check(MessageFilter { tag: Some(tag("new")), ..MessageFilter::default() }, &[1, 2]).await;
    check(MessageFilter { tag: Some(tag("new")), ..both }, &[2]).await;
    check(MessageFilter { tag: Some(tag("ne")), ..MessageFilter::default() }, &[]).await;
}

pub(super) async fn a_filtered_page_is_full_if_enough_messages_match<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let all = varied(world, &app).await;
    let filter = MessageFilter { event_types: Some(vec![type_name("b")]), ..MessageFilter::default() };
    assert_eq!(list(world, &app, filter.clone(), 2).await, [all[1].clone(), all[4].clone()]);
    assert_eq!(list(world, &app, filter, 1).await, [all[1].clone()]);
}

pub(super) async fn a_list_leaves_payloads_out_unless_asked<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let message = world.message(&app, &[]).await;
    for with_payload in [false, true] {
        let filter = MessageFilter { with_payload, ..MessageFilter::default() };
        let listed = list(world, &app, filter, 10).await;
        assert_eq!(listed[0].payload, message.value.payload.clone().filter(|_| with_payload));
    }
}
