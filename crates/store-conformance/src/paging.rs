//! Keyset paging: pages walk every list once, in order, whatever the limit, the direction and the bounds.
//!
//! The lists are small, so every limit, direction and pair of bounds is tried instead of a random choice of them.

use std::future::Future;
use std::ops::Bound;

use postrider_domain::delivery::Next;
use postrider_domain::ids::{Id as _, Ksuid};

use super::Harness;
use super::world::{FAR, World, done, environment};
use postrider_store::{ApplicationFilter, AttemptFilter, Direction, EventTypeFilter, MessageFilter, Scan};

/// How many things a list has here.
const COUNT: usize = 5;

/// Walks a list of exactly `keys` (ascending) with every kind of scan. `page` returns the keys of one page.
async fn walk<K, F>(keys: &[K], page: impl Fn(Scan<K>) -> F)
where
    K: Ord + Clone + std::fmt::Debug,
    F: Future<Output = Vec<K>>,
{
    assert_eq!(keys.len(), COUNT);
    assert!(keys.is_sorted(), "made in the order of keys: {keys:?}");
    for direction in [Direction::Ascending, Direction::Descending] {
        for lower in bounds(keys) {
            for upper in bounds(keys) {
                let scan = Scan { lower: lower.clone(), upper, direction, limit: usize::MAX };
                assert_eq!(page(scan.clone()).await, expected(keys, &scan), "{scan:?}");
            }
        }
        for limit in 1..=COUNT + 1 {
            follow(keys, direction, limit, &page).await;
        }
    }
}

/// Follows a list page by page, as the API's iterators do.
async fn follow<K, F>(keys: &[K], direction: Direction, limit: usize, page: impl Fn(Scan<K>) -> F)
where
    K: Ord + Clone + std::fmt::Debug,
    F: Future<Output = Vec<K>>,
{
    let mut seen: Vec<K> = Vec::new();
    loop {
        let mut scan = Scan::all(direction, limit);
        if let Some(last) = seen.last().cloned() {
            match direction {
                Direction::Ascending => scan.lower = Bound::Excluded(last),
                Direction::Descending => scan.upper = Bound::Excluded(last),
            }
        }
        let found = page(scan).await;
        assert!(found.len() <= limit, "{} of {limit}", found.len());
        if found.is_empty() {
            break;
        }
        seen.extend(found);
        assert!(seen.len() <= keys.len(), "a page came twice: {seen:?}");
    }
    assert_eq!(seen, expected(keys, &Scan::all(direction, usize::MAX)), "{direction:?}, {limit} at a time");
}

fn bounds<K: Clone>(keys: &[K]) -> Vec<Bound<K>> {
    let exact = keys.iter().flat_map(|key| [Bound::Included(key.clone()), Bound::Excluded(key.clone())]);
    std::iter::once(Bound::Unbounded).chain(exact).collect()
}

/// What a scan means, said another way.
fn expected<K: Ord + Clone>(keys: &[K], scan: &Scan<K>) -> Vec<K> {
    let above = |key: &K| match &scan.lower {
        Bound::Included(low) => key >= low,
        Bound::Excluded(low) => key > low,
        Bound::Unbounded => true,
    };
    let below = |key: &K| match &scan.upper {
        Bound::Included(high) => key <= high,
        Bound::Excluded(high) => key < high,
        Bound::Unbounded => true,
    };
    let mut within: Vec<K> = keys.iter().filter(|key| above(key) && below(key)).cloned().collect();
    if scan.direction == Direction::Descending {
        within.reverse();
    }
    within.truncate(scan.limit);
    within
}

pub(super) async fn pages_of_applications_visit_each_once<H: Harness>(world: &World<H>) {
    let mut keys: Vec<Ksuid> = Vec::new();
    for _ in 0..COUNT {
        keys.push(world.application().await.value.id.ksuid());
    }
    let store = world.store();
    walk(&keys, async |scan| {
        let listed = store.applications(&environment(), ApplicationFilter::default(), scan).await.unwrap().listed.rows;
        listed.iter().map(|application| application.id.ksuid()).collect()
    })
    .await;
}

pub(super) async fn pages_of_endpoints_visit_each_once<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let mut keys: Vec<Ksuid> = Vec::new();
    for _ in 0..COUNT {
        keys.push(world.endpoint(&app).await.value.id.ksuid());
    }
    walk(&keys, async |scan| {
        let listed = store.endpoints(app.key, scan).await.unwrap().rows;
        listed.iter().map(|endpoint| endpoint.id.ksuid()).collect()
    })
    .await;
}

pub(super) async fn pages_of_event_types_visit_each_once<H: Harness>(world: &World<H>) {
    let store = world.store();
    let keys = ["A", "a", "a-b", "a.b", "aa"].map(str::to_owned);
    for name in &keys {
        done(store.create_event_type(&environment(), u64::MAX, world.new_event_type(name), None).await.unwrap());
    }
    walk(&keys, async |scan| {
        let listed = store.event_types(&environment(), &EventTypeFilter::default(), scan).await.unwrap().listed.rows;
        listed.iter().map(|event_type| event_type.name.to_string()).collect()
    })
    .await;
}

pub(super) async fn pages_of_messages_visit_each_once<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let mut keys: Vec<Ksuid> = Vec::new();
    for _ in 0..COUNT {
        keys.push(world.message(&app, &[]).await.value.id.ksuid());
    }
    walk(&keys, async |scan| {
        let listed = store.messages(app.key, &MessageFilter::default(), scan).await.unwrap().listed.rows;
        listed.iter().map(|message| message.id.ksuid()).collect()
    })
    .await;
}

pub(super) async fn pages_of_attempts_visit_each_once<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let (endpoint, other) = (world.endpoint(&app).await, world.endpoint(&app).await);
    let message = world.message(&app, &[&endpoint, &other]).await;
    let (mut here, mut everywhere): (Vec<Ksuid>, Vec<Ksuid>) = (Vec::new(), Vec::new());
    for turn in 0..COUNT {
        here.push(attempted(world, &endpoint).await);
        everywhere.push(here[turn]);
        if turn % 2 == 0 {
            everywhere.push(attempted(world, &other).await);
        }
    }
    everywhere.truncate(COUNT);
    let filter = AttemptFilter::default();
    walk(&here, async |scan| {
        let listed = store.attempts_by_endpoint(endpoint.key, &filter, scan).await.unwrap().listed.rows;
        listed.iter().map(|attempt| attempt.id.ksuid()).collect()
    })
    .await;
    walk(&here, async |scan| {
        let listed =
            store.attempts_by_message(message.key, Some(endpoint.key), &filter, scan).await.unwrap().listed.rows;
        listed.iter().map(|attempt| attempt.id.ksuid()).collect()
    })
    .await;
    let last = Bound::Included(everywhere[COUNT - 1]);
    walk(&everywhere, async |mut scan| {
        if scan.upper == Bound::Unbounded {
            scan.upper = last;
        }
        let listed = store.attempts_by_message(message.key, None, &filter, scan).await.unwrap().listed.rows;
        listed.iter().map(|attempt| attempt.id.ksuid()).collect()
    })
    .await;
}

/// Logs an attempt for the only delivery of an endpoint, which then waits; returns the attempt's id.
async fn attempted<H: Harness>(world: &World<H>, endpoint: &super::world::Ep) -> Ksuid {
    let due = world.only_due(endpoint).await;
    let settlement = world.settlement(endpoint, &due, Next::Waiting(world.tick()));
    let id = settlement.attempt.as_ref().unwrap().id.ksuid();
    world.settle(settlement).await;
    id
}

pub(super) async fn no_limit_is_too_large_and_none_too_small<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let endpoint = world.endpoint(&app).await;
    world.message(&app, &[&endpoint]).await;
    done(store.create_event_type(&environment(), u64::MAX, world.new_event_type("a"), None).await.unwrap());
    attempted(world, &endpoint).await;
    for (limit, want) in [(0, 0), (usize::MAX, 1)] {
        let page = || Scan::all(Direction::Descending, limit);
        assert_eq!(
            store.applications(&environment(), ApplicationFilter::default(), page()).await.unwrap().listed.rows.len(),
            want
        );
        assert_eq!(store.endpoints(app.key, page()).await.unwrap().rows.len(), want);
        assert_eq!(store.messages(app.key, &MessageFilter::default(), page()).await.unwrap().listed.rows.len(), want);
        let attempts =
            store.attempts_by_endpoint(endpoint.key, &AttemptFilter::default(), page()).await.unwrap().listed.rows;
        assert_eq!(attempts.len(), want);
        let page = Scan::all(Direction::Descending, limit);
        let types = store.event_types(&environment(), &EventTypeFilter::default(), page).await.unwrap().listed.rows;
        assert_eq!(types.len(), want);
        assert_eq!(store.backlog(endpoint.key, limit).await.unwrap(), want);
        let due = store.due(endpoint.key, FAR, None, Default::default(), limit, usize::MAX).await.unwrap().due;
        assert_eq!(due.len(), want);
    }
}
