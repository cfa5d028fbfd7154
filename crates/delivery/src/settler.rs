//! Recording results: attempts and next states, in batches.
//!
//! Workers hand over what came of each attempt and go on. Everything that gathers while one commit is under way goes into
//! the next, up to a bound, and environments and their applications take turns: until its result is stored a delivery is
//! held, and takes memory of its lane's share, so an application whose results waited behind thousands of others' could send
//! nothing. A result is never dropped: if the store fails, the batch is tried again until it takes it; meanwhile its
//! deliveries stay held, so they are not sent again, and the lanes' shares of memory stop new ones from piling up.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::Next;
use postrider_domain::time::Timestamp;
use postrider_store::{EndpointKey, Settlement, StoreError, Unstorable};
use tokio::sync::Notify;

use crate::budget::Memory;
use crate::engine::Shared;
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

/// Waits between tries when the store fails.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(2);

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
pub(crate) struct Settler {
    queue: Mutex<Lines<Unsettled>>,
    arrived: Notify,
    /// Told after each commit; a shutdown waits for the last.
    committed: Notify,
    /// Results in the queue or in a commit.
    pending: AtomicUsize,
}

impl Settler {
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

    fn next_batch(&self) -> Vec<Unsettled> {
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

/// Runs until the engine is dropped.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        let batch = shared.settler.next_batch();
        if batch.is_empty() {
            shared.settler.arrived.notified().await;
            continue;
        }
        let count = batch.len();
        commit(&shared, batch).await;
        shared.settler.pending.fetch_sub(count, Ordering::SeqCst);
        shared.settler.committed.notify_waiters();
    }
}

/// Stores a batch, however long it takes, and tells the lanes.
async fn commit(shared: &Arc<Shared>, mut batch: Vec<Unsettled>) {
    let mut wait = FIRST_RETRY;
    loop {
        let settlements = batch.iter().map(|unsettled| unsettled.settlement.clone()).collect();
        match shared.store.settle(settlements).await {
            Ok(unstorable) => {
                // From the last to the first, so that their places stay right.
                for Unstorable { place, error } in unstorable.into_iter().rev() {
                    let unsettled = batch.remove(place);
                    tracing::error!(%error, endpoint = unsettled.settlement.endpoint.0, "a result cannot be stored");
                    // Not before the next start, so that it is not sent again and again meanwhile.
                    shared.stuck.take(&unsettled, &shared.budgets);
                    shared.pump(&unsettled.lane);
                }
                break;
            }
            Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, results = batch.len(), "results could not be stored yet; trying again");
                shared.clock.sleep_until(shared.clock.now().saturating_add(wait)).await;
                wait = (wait * 2).min(LAST_RETRY);
            }
        }
    }
    tell_lanes(shared, &batch);
}

fn tell_lanes(shared: &Arc<Shared>, batch: &[Unsettled]) {
    let mut wake_at: Option<Timestamp> = None;
    let mut told: Option<&Arc<Lane>> = None;
    for unsettled in batch {
        let Unsettled { lane, held, settlement } = unsettled;
        let next_at = settlement.next_at();
        {
            let mut state = lane.state.lock();
            match held {
                Some(held) => state.settled(held, next_at, unsettled.answer_bytes(), &shared.budgets),
                None => state.canceled(&settlement.delivery),
            }
            if settlement.trigger == Trigger::Manual && settlement.next == Next::Succeeded {
                state.series_ended(settlement.delivery.message, &shared.budgets);
            }
        }
        if let Some(at) = next_at {
            wake_at = Some(wake_at.map_or(at, |earliest| earliest.min(at)));
        }
        // Runs of one lane are common; each needs one look.
        if let Some(last) = told.filter(|last| !Arc::ptr_eq(last, lane)) {
            shared.pump(last);
        }
        told = Some(lane);
    }
    if let Some(last) = told {
        shared.pump(last);
    }
    if let Some(at) = wake_at {
        shared.waker.expect(at);
    }
}
