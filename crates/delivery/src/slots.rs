//! So many at a time, in turns: what the engine reads from the store for lanes, and handshakes that are computed.
//!
//! Environments and their applications take turns, and what is of one application comes in order. So one with a thousand
//! endpoints that all come due at once keeps the others waiting for one read of its own, not for a thousand; and whoever else
//! reads (a health check) stands behind as many as there are slots, not behind them all.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::holders::Whose;
use crate::lines::Lines;

/// Who has a slot, and who waits for one.
#[derive(Debug)]
pub(crate) struct Slots {
    queue: Mutex<Queue>,
}

#[derive(Debug)]
struct Queue {
    free: usize,
    /// Those that wait, and those that have stopped waiting, which go when it is their application's turn.
    lines: Lines<oneshot::Sender<Slot>>,
}

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot(Option<Arc<Slots>>);

impl Slots {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::new(Queue { free: count, lines: Lines::default() }) })
    }

    /// Waits for a slot.
    pub(crate) async fn slot(self: &Arc<Self>, of: Whose) -> Slot {
        let waits = {
            let mut queue = self.queue.lock();
            if queue.free > 0 {
                queue.free -= 1;
                return Slot(Some(Arc::clone(self)));
            }
            let (let_in, waits) = oneshot::channel();
            queue.lines.push(of, let_in);
            waits
        };
        // Nobody drops the other end but who gave the slot.
        waits.await.unwrap_or(Slot(None))
    }
}

impl Drop for Slot {
    /// Hands it on to whoever is next.
    fn drop(&mut self) {
        let Some(slots) = self.0.take() else { return };
        loop {
            let next = {
                let mut queue = slots.queue.lock();
                let next = queue.lines.next(|_| true, |_| true, |waiting| !waiting.is_closed());
                if next.is_none() {
                    queue.free += 1;
                }
                next
            };
            let Some((next, _)) = next else { return };
            match next.send(Slot(Some(Arc::clone(&slots)))) {
                Ok(()) => return,
                // That one has stopped waiting in this moment. Outside the lock, and not dropped: dropping would come back here.
                Err(mut refused) => drop(refused.0.take()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::holders::owner;
    use futures_util::FutureExt as _;

    const COUNT: usize = 3;

    fn of(number: i64) -> Whose {
        Some(owner(1, number))
    }

    #[tokio::test]
    async fn applications_take_turns_and_their_lanes_come_in_order() {
        let slots = Slots::new(COUNT);
        let mut busy = Vec::new();
        for _ in 0..COUNT {
            busy.push(slots.slot(of(1)).now_or_never().expect("there is room"));
        }
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = tokio::task::JoinSet::new();
        for (number, application) in [1, 1, 1, 2, 3, 1].into_iter().enumerate() {
            let (slots, order) = (Arc::clone(&slots), Arc::clone(&order));
            waiting.spawn(async move {
                let slot = slots.slot(of(application)).await;
                order.lock().push(number);
                drop(slot);
            });
            tokio::task::yield_now().await;
        }
        drop(busy.pop());
        waiting.join_all().await;
        assert_eq!(*order.lock(), [0, 3, 4, 1, 2, 5]);
        drop(busy);
        let queue = slots.queue.lock();
        assert!(queue.free == COUNT && queue.lines.is_empty());
    }

    #[tokio::test]
    async fn a_slot_that_nobody_waits_for_any_more_goes_to_the_next() {
        let slots = Slots::new(COUNT);
        let mut busy = Vec::new();
        for _ in 0..COUNT {
            busy.push(slots.slot(of(1)).await);
        }
        let mut gone = Box::pin(slots.slot(of(1)));
        assert!(gone.as_mut().now_or_never().is_none());
        let reached = Arc::new(AtomicUsize::new(0));
        let next = {
            let (slots, reached) = (Arc::clone(&slots), Arc::clone(&reached));
            tokio::spawn(async move {
                let _slot = slots.slot(of(2)).await;
                reached.fetch_add(1, Ordering::SeqCst);
            })
        };
        tokio::task::yield_now().await;
        drop(gone);
        // One that is dropped when it was let in already hands its slot on, too.
        let mut late = Box::pin(slots.slot(of(3)));
        assert!(late.as_mut().now_or_never().is_none());
        busy.clear();
        drop(late);
        next.await.unwrap();
        assert_eq!(reached.load(Ordering::SeqCst), 1);
        assert_eq!(slots.queue.lock().free, COUNT);
    }
}
