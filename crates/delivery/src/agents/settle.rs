//! Storing results: attempts and next states, in batches.
//!
//! A result is never dropped: if the store fails, the batch is tried again until it takes it; meanwhile its deliveries stay
//! held, so they are not sent again, and the lanes' shares of memory stop new ones from piling up.

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::Next;
use postrider_domain::time::Timestamp;
use postrider_store::{StoreError, Unstorable};

use crate::lane::Lane;
use crate::lanes::Lanes;
use crate::results::Unsettled;

/// Waits between tries when the store fails.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// Runs until the engine is dropped.
pub(crate) async fn run(lanes: Arc<Lanes>) {
    loop {
        let batch = lanes.results.next_batch();
        if batch.is_empty() {
            lanes.results.arrived().await;
            continue;
        }
        let count = batch.len();
        commit(&lanes, batch).await;
        lanes.results.settled(count);
    }
}

/// Stores a batch, however long it takes, and tells the lanes.
async fn commit(lanes: &Arc<Lanes>, mut batch: Vec<Unsettled>) {
    let mut wait = FIRST_RETRY;
    loop {
        let settlements = batch.iter().map(|unsettled| unsettled.settlement.clone()).collect();
        match lanes.store.settle(settlements).await {
            Ok(unstorable) => {
                // From the last to the first, so that their places stay right.
                for Unstorable { place, error } in unstorable.into_iter().rev() {
                    let unsettled = batch.remove(place);
                    tracing::error!(%error, endpoint = unsettled.settlement.endpoint.0, "a result cannot be stored");
                    // Not before the next start, so that it is not sent again and again meanwhile.
                    lanes.stuck.take(&unsettled, &lanes.budgets);
                    lanes.pump(&unsettled.lane);
                }
                break;
            }
            Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, results = batch.len(), "results could not be stored yet; trying again");
                lanes.clock.sleep_until(lanes.clock.now().saturating_add(wait)).await;
                wait = (wait * 2).min(LAST_RETRY);
            }
        }
    }
    tell_lanes(lanes, &batch);
}

fn tell_lanes(lanes: &Arc<Lanes>, batch: &[Unsettled]) {
    let mut wake_at: Option<Timestamp> = None;
    let mut told: Option<&Arc<Lane>> = None;
    for unsettled in batch {
        let Unsettled { lane, held, settlement } = unsettled;
        let next_at = settlement.next_at();
        {
            let mut state = lane.state.lock();
            match held {
                Some(held) => state.settled(held, next_at, unsettled.answer_bytes(), &lanes.budgets),
                None => state.canceled(&settlement.delivery),
            }
            if settlement.trigger == Trigger::Manual && settlement.next == Next::Succeeded {
                state.series_ended(settlement.delivery.message, &lanes.budgets);
            }
        }
        if let Some(at) = next_at {
            wake_at = Some(wake_at.map_or(at, |earliest| earliest.min(at)));
        }
        // Runs of one lane are common; each needs one look.
        if let Some(last) = told.filter(|last| !Arc::ptr_eq(last, lane)) {
            lanes.pump(last);
        }
        told = Some(lane);
    }
    if let Some(last) = told {
        lanes.pump(last);
    }
    if let Some(at) = wake_at {
        lanes.alarm.expect(at);
    }
}
