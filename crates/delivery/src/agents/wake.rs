//! Waking lanes for what becomes due: retries, and deliveries that found no room in memory; and opening lanes for those who
//! wait for one, as others close.

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::time::Timestamp;
use postrider_store::Woken;

use crate::holders::Owner;
use crate::lane::State;
use crate::lanes::Lanes;

/// How many endpoints are taken at a time.
const BATCH: usize = 256;

/// The longest time without a look.
const LONGEST: Duration = Duration::from_secs(30);

/// The wait after the store failed.
const PAUSE: Duration = Duration::from_millis(250);

/// Runs until the engine stops.
pub(crate) async fn run(lanes: Arc<Lanes>) {
    loop {
        lanes.take_turns();
        let now = lanes.clock.now();
        let next = lanes.alarm.next();
        if next <= now {
            // Before the look: what is announced while it is under way counts for the next one.
            lanes.alarm.set(now.saturating_add(LONGEST));
            look(&lanes, now).await;
        }
        let next = lanes.alarm.next();
        if next > lanes.clock.now() {
            tokio::select! {
                () = lanes.clock.sleep_until(next) => {}
                () = lanes.alarm.sooner() => {}
            }
        }
    }
}

async fn look(lanes: &Arc<Lanes>, now: Timestamp) {
    match lanes.store.take_wakes(now, BATCH).await {
        Ok(wakes) => {
            let woken = wakes.endpoints.into_iter().map(|Woken { endpoint, application, environment }| {
                let owner = application.zip(environment);
                (endpoint, owner.map(|(application, environment)| Owner { environment, application }))
            });
            lanes.bring_up_now(woken, State::wake);
            if let Some(at) = wakes.next_at {
                lanes.alarm.expect(at);
            }
        }
        Err(error) => {
            tracing::warn!(%error, "failed to look for deliveries that are due");
            lanes.alarm.expect(now.saturating_add(PAUSE));
        }
    }
}
