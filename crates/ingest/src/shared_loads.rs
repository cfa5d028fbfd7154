//! Loading something once for all who want it at the same time.
//!
//! Whoever asks gets what a load found that began after he asked, so it is as new as if he had loaded it himself. Of each
//! name one load is waited for at a time: however many ask for what is large, it is read, and in memory, once. Only what somebody
//! had begun who has gone away may end beside the next one: a read of the store is not called back. Before a load there may be a
//! pause, in which others join.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// What the last load found, with the number of its beginning.
type Last<V> = Arc<tokio::sync::Mutex<Option<(u64, V)>>>;

/// Loads under way, by name.
pub(crate) struct SharedLoads<K, V> {
    /// Numbers questions and beginnings of loads.
    next: AtomicU64,
    under_way: Mutex<HashMap<K, Last<V>, foldhash::fast::RandomState>>,
}

/// Somebody's interest in a name. When the last of them is gone, so is what is kept under it.
struct Interest<'a, K: Eq + Hash, V> {
    loads: &'a SharedLoads<K, V>,
    name: &'a K,
    last: Option<Last<V>>,
}

impl<K: Eq + Hash + Clone, V: Clone> SharedLoads<K, V> {
    pub(crate) fn new() -> Self {
        Self { next: AtomicU64::new(0), under_way: Mutex::default() }
    }

    /// What a load of this name finds that begins from now on, `paused` first.
    pub(crate) async fn get(&self, name: &K, paused: impl Future<Output = ()>, load: impl Future<Output = V>) -> V {
        let asked = self.number();
        let interest = self.interest(name);
        let Some(last) = &interest.last else { return load.await };
        let mut last = last.lock().await;
        if let Some((begun, found)) = &*last
            && *begun > asked
        {
            return found.clone();
        }
        paused.await;
        let begun = self.number();
        let found = load.await;
        *last = Some((begun, found.clone()));
        found
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    fn interest<'a>(&'a self, name: &'a K) -> Interest<'a, K, V> {
        let last = Arc::clone(self.under_way.lock().entry(name.clone()).or_default());
        Interest { loads: self, name, last: Some(last) }
    }
}

impl<K: Eq + Hash, V> Drop for Interest<'_, K, V> {
    fn drop(&mut self) {
        let mut under_way = self.loads.under_way.lock();
        drop(self.last.take());
        if under_way.get(self.name).is_some_and(|last| Arc::strong_count(last) == 1) {
            under_way.remove(self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use std::cell::Cell;
    use std::future::ready;

    #[tokio::test]
    async fn who_asks_while_a_load_is_under_way_shares_the_next_one() {
        let loads = SharedLoads::<&str, u32>::new();
        let (count, open) = (Cell::new(0), tokio::sync::Semaphore::new(0));
        let load = || async {
            count.set(count.get() + 1);
            let found = count.get();
            open.acquire().await.unwrap().forget();
            found
        };
        let mut first = Box::pin(loads.get(&"a", ready(()), load()));
        assert!(first.as_mut().now_or_never().is_none());
        let mut others: Vec<_> = (0..100).map(|_| Box::pin(loads.get(&"a", ready(()), load()))).collect();
        others.iter_mut().for_each(|other| assert!(other.as_mut().now_or_never().is_none()));
        let mut elsewhere = Box::pin(loads.get(&"b", ready(()), load()));
        assert!(elsewhere.as_mut().now_or_never().is_none(), "it has a load of its own");
        open.add_permits(3);
        assert_eq!(first.await, 1);
        for other in others {
            assert_eq!(other.await, 3, "what the first one found may be older than the question");
        }
        assert_eq!(elsewhere.await, 2);
        assert!(loads.under_way.lock().is_empty());
    }

    #[tokio::test]
    async fn who_asks_in_the_pause_before_a_load_shares_that_one() {
        let loads = SharedLoads::<&str, u32>::new();
        let (count, over) = (Cell::new(0), tokio::sync::Notify::new());
        let load = || async {
            count.set(count.get() + 1);
            count.get()
        };
        let mut first = Box::pin(loads.get(&"a", over.notified(), load()));
        assert!(first.as_mut().now_or_never().is_none());
        let mut second = Box::pin(loads.get(&"a", ready(()), load()));
        assert!(second.as_mut().now_or_never().is_none());
        over.notify_one();
        assert_eq!((first.await, second.await), (1, 1));
    }

    #[tokio::test]
    async fn who_gives_up_leaves_nothing_behind_and_the_next_one_loads() {
        let loads = SharedLoads::<&str, u32>::new();
        let mut stuck = Box::pin(loads.get(&"a", ready(()), std::future::pending()));
        assert!(stuck.as_mut().now_or_never().is_none());
        let mut next = Box::pin(loads.get(&"a", ready(()), async { 1 }));
        assert!(next.as_mut().now_or_never().is_none());
        drop(stuck);
        assert_eq!(next.await, 1);
        assert!(loads.under_way.lock().is_empty());
    }
}
