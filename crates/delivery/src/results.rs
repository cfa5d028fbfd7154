//! What came of attempts and waits to be stored, in batches.
//!
//! Workers hand it over and go on. Everything that gathers while one commit is under way goes into the next, up to a bound, and environments and their applications take turns: until its result is stored a delivery is
//! held, and takes memory of its lane's share, so an application whose results waited behind thousands of others' could send
//! nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use postrider_store::{EndpointKey, Settlement};
use tokio::sync::Notify;

use crate::budget::Memory;
use crate::holders::Whose;
use crate::lane::{Held, Lane};
use crate::lines::{Lines, Turn};

/// The most rows in one batch, or those of one result, so that no commit takes long.
const MAX_ROWS: usize = 512;

/// What an endpoint's first result in a batch costs beside its rows: they lie on pages of its own, which others in the batch
/// have no use for.
const ENDPOINT_ROWS: usize = 6;

/// So many results of one application are taken in a turn.
const TURN: usize = 8;

/// A result on its way to the store.
pub(crate) struct Unsettled {
    pub(crate) lane: Arc<Lane>,
    /// What was sent; `None` if the delivery had no payload and was canceled.
    pub(crate) held: Option<Held>,
    pub(crate) settlement: Settlement,
}

impl Unsettled {
    /// Whose it is; `None` if the lane does not know.
    pub(crate) fn owner(&self) -> Whose {
        self.lane.state.lock().owner()
    }

    /// What the receiver's answer takes of memory until it is stored.
    pub(crate) fn answer_bytes(&self) -> u64 {
        self.settlement.attempt.as_ref().map_or(0, |attempt| attempt.response.len() as u64)
    }
}

/// The queue of results.
pub(crate) struct Results {
    queue: Mutex<Lines<Unsettled>>,
    arrived: Notify,
    /// Told after each commit; a shutdown waits for the last.
    committed: Notify,
    /// Results in the queue or in a commit.
    pending: AtomicUsize,
}

impl Results {
    pub(crate) fn new() -> Self {
        Self { queue: Mutex::default(), arrived: Notify::new(), committed: Notify::new(), pending: AtomicUsize::new(0) }
    }

    /// Hands over a result.
    pub(crate) fn submit(&self, unsettled: Unsettled, memory: &Memory) {
        let (answer, whose) = (unsettled.answer_bytes(), unsettled.owner());
        memory.of_answer(answer).charge(whose, answer);
        self.pending.fetch_add(1, Ordering::SeqCst);
        self.queue.lock().push(whose, unsettled);
        self.arrived.notify_one();
    }

    /// Waits until something is handed over.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// So many are in the store, or will never be.
    pub(crate) fn settled(&self, count: usize) {
        self.pending.fetch_sub(count, Ordering::SeqCst);
        self.committed.notify_waiters();
    }

    /// Waits until everything handed over is in the store.
    pub(crate) async fn drained(&self) {
        loop {
            let committed = self.committed.notified();
            if self.pending.load(Ordering::SeqCst) == 0 {
                return;
            }
            committed.await;
        }
    }

    pub(crate) fn next_batch(&self) -> Vec<Unsettled> {
        let (mut rows, mut endpoints) = (0, HashSet::<EndpointKey, foldhash::fast::RandomState>::default());
        let mut fits = |Unsettled { settlement, .. }: &Unsettled| {
            let before = rows;
            let is_first = endpoints.insert(settlement.endpoint);
            rows += settlement.rows() + if is_first { ENDPOINT_ROWS } else { 0 };
            before == 0 || rows <= MAX_ROWS
        };
        let (mut queue, mut batch) = (self.queue.lock(), Vec::new());
        while queue.turn(TURN, &mut fits, &mut batch) == Turn::Whole {}
        batch
    }
}
