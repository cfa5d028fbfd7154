//! Turns at reading from the store: what the engine reads for lanes, a few at a time.
//!
//! Environments and their applications take turns, and an application's lanes in the order in which they came. So one with a
//! thousand endpoints that all come due at once keeps the others waiting for one read of its own, not for a thousand; and
//! whoever else reads (a health check) stands behind as many as there are turns, not behind them all.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::holders::{Environments, Whose};
use crate::limits::READS_AT_A_TIME;
use crate::lines::Lines;

/// Who reads, and who waits for it.
#[derive(Debug)]
pub(crate) struct Reads {
    queue: Mutex<Queue>,
    environments: Arc<Environments>,
}

#[derive(Debug)]
struct Queue {
    free: usize,
    /// Those that wait: as many as there are lanes, at most.
    lines: Lines<oneshot::Sender<Turn>>,
}

/// Leave to read, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn(Option<Arc<Reads>>);

impl Reads {
    pub(crate) fn new(environments: &Arc<Environments>) -> Arc<Self> {
        let queue = Mutex::new(Queue { free: READS_AT_A_TIME, lines: Lines::default() });
        Arc::new(Self { queue, environments: Arc::clone(environments) })
    }

    /// Waits for a turn.
    pub(crate) async fn turn(self: &Arc<Self>, of: Whose) -> Turn {
        let waits = {
            let mut queue = self.queue.lock();
            if queue.free > 0 {
                queue.free -= 1;
                return Turn(Some(Arc::clone(self)));
            }
            let (let_in, waits) = oneshot::channel();
            queue.lines.push(self.environments.of(of), of, let_in);
            waits
        };
        // Nobody drops the other end but who gave the turn.
        waits.await.unwrap_or(Turn(None))
    }
}

impl Drop for Turn {
    /// Hands it on to whoever is next.
    fn drop(&mut self) {
        let Some(reads) = self.0.take() else { return };
        loop {
            let next = {
                let mut queue = reads.queue.lock();
                let next = queue.lines.next(|_| true, |_| true);
                if next.is_none() {
                    queue.free += 1;
                }
                next
            };
            let Some((next, _)) = next else { return };
            match next.send(Turn(Some(Arc::clone(&reads)))) {
                Ok(()) => return,
                // That one has stopped waiting. Outside the lock, and not dropped: dropping would come back here.
                Err(mut refused) => drop(refused.0.take()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;
    use postrider_store::ApplicationKey;

    use super::*;

    fn of(number: i64) -> Whose {
        Some(ApplicationKey(number))
    }

    #[tokio::test]
    async fn applications_take_turns_and_their_lanes_come_in_order() {
        let reads = Reads::new(&Arc::default());
        let mut busy = Vec::new();
        for _ in 0..READS_AT_A_TIME {
            busy.push(reads.turn(of(1)).now_or_never().expect("there is room"));
        }
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = tokio::task::JoinSet::new();
        for (number, application) in [1, 1, 1, 2, 3, 1].into_iter().enumerate() {
            let (reads, order) = (Arc::clone(&reads), Arc::clone(&order));
            waiting.spawn(async move {
                let turn = reads.turn(of(application)).await;
                order.lock().push(number);
                drop(turn);
            });
            tokio::task::yield_now().await;
        }
        drop(busy.pop());
        waiting.join_all().await;
        assert_eq!(*order.lock(), [0, 3, 4, 1, 2, 5]);
        drop(busy);
        let queue = reads.queue.lock();
        assert!(queue.free == READS_AT_A_TIME && queue.lines.is_empty());
    }

    #[tokio::test]
    async fn a_turn_that_nobody_waits_for_any_more_goes_to_the_next() {
        let reads = Reads::new(&Arc::default());
        let mut busy = Vec::new();
        for _ in 0..READS_AT_A_TIME {
            busy.push(reads.turn(of(1)).await);
        }
        let mut gone = Box::pin(reads.turn(of(1)));
        assert!(gone.as_mut().now_or_never().is_none());
        let reached = Arc::new(AtomicUsize::new(0));
        let next = {
            let (reads, reached) = (Arc::clone(&reads), Arc::clone(&reached));
            tokio::spawn(async move {
                let _turn = reads.turn(of(2)).await;
                reached.fetch_add(1, Ordering::SeqCst);
            })
        };
        tokio::task::yield_now().await;
        drop(gone);
        // One that is dropped when it was let in already hands its turn on, too.
        let mut late = Box::pin(reads.turn(of(3)));
        assert!(late.as_mut().now_or_never().is_none());
        busy.clear();
        drop(late);
        next.await.unwrap();
        assert_eq!(reached.load(Ordering::SeqCst), 1);
        assert_eq!(reads.queue.lock().free, READS_AT_A_TIME);
    }
}
