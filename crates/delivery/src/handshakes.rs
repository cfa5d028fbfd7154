//! Whose TLS handshake is computed next.
//!
//! A handshake takes a processor for about a millisecond, for two with the worst certificates that a receiver may show, and
//! hundreds can be ready at a time. If each were computed as soon as it is ready, everybody's requests would wait behind all
//! of them. So at most half of the processors compute handshakes, and environments and their applications take turns
//! (`slots.rs`). Only what is computed takes a turn. To wait for the network takes none, so a receiver that stalls keeps no
//! other handshake waiting.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use crate::holders::Owner;
use crate::slots::Slots;
use crate::waits::Waits;

postrider_domain::limits! {
    in "Receivers over TLS";
    /// One handshake is computed at a time for so many processors of this machine, at least one; environments and their applications take turns
    pub const PROCESSORS_PER_HANDSHAKE: usize = 2, "processors", beyond "handshakes wait";
}

/// The handshakes of all connections.
#[derive(Debug)]
pub(crate) struct Handshakes {
    processors: Arc<Slots>,
}

impl Handshakes {
    /// For this machine.
    pub(crate) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self::at_a_time((processors / PROCESSORS_PER_HANDSHAKE).max(1))
    }

    fn at_a_time(count: usize) -> Self {
        Self { processors: Slots::new(count) }
    }

    /// Makes a handshake for an application, each step of it in turn. `waits` counts how long it waits for that.
    pub(crate) async fn make<F: Future>(&self, owner: Owner, waits: &Waits, handshake: F) -> F::Output {
        let mut handshake = pin!(handshake);
        loop {
            {
                let _slot = waits.count(self.processors.slot(Some(owner))).await;
                if let Poll::Ready(result) = futures_util::poll!(handshake.as_mut()) {
                    return result;
                }
            }
            woken().await;
        }
    }
}

/// Waits until the task is woken, by what it has waited for before.
async fn woken() {
    let mut waited = false;
    poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::holders::owner;

    const A: Owner = owner(1, 1);
    const B: Owner = owner(1, 2);

    #[tokio::test]
    async fn applications_take_turns_however_many_handshakes_one_has() {
        let (handshakes, made) = (Arc::new(Handshakes::at_a_time(1)), Arc::new(Mutex::new(Vec::new())));
        let busy = handshakes.processors.slot(None).await;
        let tasks: Vec<_> = [(A, 1), (A, 2), (A, 3), (B, 4)]
            .into_iter()
            .map(|(of, number)| {
                let (handshakes, made) = (Arc::clone(&handshakes), Arc::clone(&made));
                tokio::spawn(async move {
                    handshakes.make(of, &Waits::default(), async { made.lock().push(number) }).await;
                })
            })
            .collect();
        // All of them come to wait for the processor, or for their turn to.
        tokio::task::yield_now().await;
        drop(busy);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*made.lock(), [1, 4, 2, 3]);
    }

    #[tokio::test]
    async fn a_handshake_that_waits_for_the_network_keeps_no_other_waiting() {
        let handshakes = Arc::new(Handshakes::at_a_time(1));
        let (answer, answered) = tokio::sync::oneshot::channel();
        let (began, begun) = tokio::sync::oneshot::channel();
        let stalled = Arc::clone(&handshakes);
        let stalled = tokio::spawn(async move {
            let handshake = async {
                began.send(()).unwrap();
                answered.await.unwrap()
            };
            stalled.make(A, &Waits::default(), handshake).await
        });
        begun.await.unwrap();
        assert_eq!(handshakes.make(A, &Waits::default(), async { 1 }).await, 1);
        answer.send(2).unwrap();
        assert_eq!(stalled.await.unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_turn_is_counted_and_the_wait_for_the_network_is_not() {
        let (handshakes, waits) = (Handshakes::at_a_time(1), Waits::default());
        let second = std::time::Duration::from_secs(1);
        let busy = async {
            let _busy = handshakes.processors.slot(None).await;
            tokio::time::sleep(3 * second).await;
        };
        tokio::join!(busy, handshakes.make(A, &waits, tokio::time::sleep(5 * second)));
        assert_eq!(waits.total(), 3 * second);
    }
}
