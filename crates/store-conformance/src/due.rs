//! Cases for reading and dropping what is due.

use std::collections::HashSet;

use bytes::Bytes;
use postrider_domain::delivery::Next;
use postrider_domain::message::Message;

use super::Harness;
use super::world::{FAR, World, after};
use postrider_store::{Due, EndpointKey, MessageKey};

fn messages(due: &[Due]) -> Vec<MessageKey> {
    due.iter().map(|due| due.key.message).collect()
}

pub(super) async fn deliveries_come_by_due_instant_and_not_before_it<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let (a, b, c) = (
        world.message(&app, &[&endpoint]).await,
        world.message(&app, &[&endpoint]).await,
        world.message(&app, &[&endpoint]).await,
    );
    let (start, retry) = (a.value.created_at, after(c.value.created_at, 60));
    assert_eq!(messages(&world.due(&endpoint, start).await), [a.key]);
    let first = world.due(&endpoint, start).await.remove(0);
    world.settle(world.settlement(&endpoint, &first, Next::Waiting(retry))).await;

    assert_eq!(messages(&world.due(&endpoint, start).await), []);
    assert_eq!(messages(&world.due(&endpoint, b.value.created_at).await), [b.key]);
    assert_eq!(messages(&world.due(&endpoint, c.value.created_at).await), [b.key, c.key]);
    assert_eq!(messages(&world.due(&endpoint, retry).await), [b.key, c.key, a.key]);
}

pub(super) async fn held_deliveries_are_left_out_and_do_not_count<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    for _ in 0..6 {
        world.message(&app, &[&endpoint]).await;
    }
    let all = world.due(&endpoint, FAR).await;
    let held: HashSet<_> = [0, 1, 3].into_iter().map(|index: usize| all[index].key).collect();
    let found = world.store().due(endpoint.key, FAR, None, held, 2, 1 << 30).await.unwrap().due;
    assert_eq!(messages(&found), [all[2].key.message, all[4].key.message]);
    let held: HashSet<_> = all.iter().map(|due| due.key).collect();
    assert_eq!(world.store().due(endpoint.key, FAR, None, held, 10, 1 << 30).await.unwrap().due.len(), 0);
}

pub(super) async fn reading_goes_on_after_a_delivery<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    for _ in 0..5 {
        world.message(&app, &[&endpoint]).await;
    }
    // Two more that are due at one instant, which only the number tells apart.
    let one = world.new_message();
    for _ in 0..2 {
        let message = Message { created_at: one.created_at, ..world.new_message() };
        world.message_of(&app, &[&endpoint], message).await;
    }
    let all = world.due(&endpoint, FAR).await;
    assert_eq!(all[5].key.due_at, all[6].key.due_at);
    for (place, due) in all.iter().enumerate() {
        for limit in [1, 3, 10] {
            let store = world.store();
            let read = store.due(endpoint.key, FAR, Some(due.key), HashSet::new(), limit, 1 << 30).await.unwrap().due;
            let rest: Vec<MessageKey> = messages(&all[place + 1..]).into_iter().take(limit).collect();
            assert_eq!(messages(&read), rest);
        }
    }
    let held = HashSet::from([all[3].key]);
    let found =
        world.store().due(endpoint.key, all[5].key.due_at, Some(all[1].key), held, 3, 1 << 30).await.unwrap().due;
    assert_eq!(messages(&found), [2, 4, 5].map(|place: usize| all[place].key.message));
}

pub(super) async fn limits_by_number_and_bytes_are_kept<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    for _ in 0..4 {
        let payload = Some(Bytes::from(vec![b'x'; 10_000]));
        world.message_of(&app, &[&endpoint], Message { payload, ..world.new_message() }).await;
    }
    let load = async |limit, max_bytes| {
        let slice = world.store().due(endpoint.key, FAR, None, HashSet::new(), limit, max_bytes).await.unwrap();
        (slice.due.len(), slice.too_large.map(|too_large| too_large.payload_bytes))
    };
    assert_eq!(load(3, usize::MAX).await, (3, None));
    assert_eq!(load(usize::MAX, usize::MAX).await, (4, None));
    assert_eq!(load(0, usize::MAX).await, (0, None));
    for max_bytes in [0, 1, 9_999] {
        assert_eq!(
            load(10, max_bytes).await,
            (0, Some(10_000)),
            "it does not fit, also if it is the first: {max_bytes}"
        );
    }
    assert_eq!(load(10, 10_000).await, (1, Some(10_000)));
    assert_eq!(load(10, 29_999).await, (2, Some(10_000)));
    assert_eq!(load(2, 29_999).await, (2, None), "it was the number that ended it");
    assert_eq!(load(10, 40_000).await, (4, None));
}

pub(super) async fn one_endpoints_deliveries_do_not_show_at_another<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let (left, right) = (world.endpoint(&app).await, world.endpoint(&app).await);
    let (one, two) = (world.message(&app, &[&left]).await, world.message(&app, &[&right, &left]).await);
    assert_eq!(messages(&world.due(&left, FAR).await), [one.key, two.key]);
    assert_eq!(messages(&world.due(&right, FAR).await), [two.key]);
    let due = world.due(&left, FAR).await.remove(1);
    world.settle(world.settlement(&left, &due, Next::Succeeded)).await;
    assert_eq!(messages(&world.due(&left, FAR).await), [one.key]);
    assert_eq!(messages(&world.due(&right, FAR).await), [two.key]);
    let nobody = world.store().due(EndpointKey(i64::MAX), FAR, None, HashSet::new(), 10, 1_000).await.unwrap();
    assert_eq!((nobody.due.len(), nobody.too_large), (0, None));
}

pub(super) async fn a_delivery_whose_payload_is_gone_has_no_message<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    world.message_of(&app, &[&endpoint], Message { payload: None, ..world.new_message() }).await;
    let whole = world.message(&app, &[&endpoint]).await;
    let due = world.due(&endpoint, FAR).await;
    assert_eq!(due.len(), 2);
    assert_eq!(due[0].message, None);
    assert_eq!(due[1].message.as_deref(), Some(whole.value.as_ref()));
}

pub(super) async fn canceling_removes_in_slices<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let (endpoint, other) = (world.endpoint(&app).await, world.endpoint(&app).await);
    for _ in 0..5 {
        world.message(&app, &[&endpoint, &other]).await;
    }
    let cancel = async |limit| world.store().cancel_deliveries(endpoint.key, limit).await.unwrap();
    assert_eq!(cancel(1_000).await, 0, "an endpoint that takes deliveries keeps them");
    world.disable(&app, &endpoint, true).await;
    assert_eq!(cancel(0).await, 0);
    assert_eq!(cancel(2).await, 2);
    assert_eq!(world.due(&endpoint, FAR).await.len(), 3);
    assert_eq!(cancel(1_000).await, 3);
    assert_eq!(cancel(1_000).await, 0);
    assert_eq!(world.due(&endpoint, FAR).await.len(), 0);
    assert_eq!(world.due(&other, FAR).await.len(), 5, "another endpoint keeps its deliveries");
}

pub(super) async fn a_backlog_is_counted_up_to_the_limit<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let count = async |limit| world.store().backlog(endpoint.key, limit).await.unwrap();
    assert_eq!(count(10).await, 0);
    for _ in 0..3 {
        world.message(&app, &[&endpoint]).await;
    }
    let due = world.due(&endpoint, FAR).await.remove(0);
    world.settle(world.settlement(&endpoint, &due, Next::Waiting(after(world.tick(), 60)))).await;
    assert_eq!(count(10).await, 3, "what waits is pending, too");
    assert_eq!(count(2).await, 2);
}
