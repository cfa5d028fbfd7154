//! Waking lanes for what becomes due: retries, and deliveries that found no room in memory; and opening lanes for those who
//! wait for one, as others close.
//!
//! The store's index of wakes is the authority; `next` here is only when to look at it again. Whoever stores something
//! due earlier says so with [`Waker::expect`]; if that is missed, a look once in a while finds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use postrider_domain::time::Timestamp;
use postrider_store::Woken;
use tokio::sync::Notify;

use crate::engine::Shared;
use crate::holders::Owner;
use crate::lane::State;

/// How many endpoints are taken at a time.
const BATCH: usize = 256;

/// The longest time without a look.
const LONGEST: Duration = Duration::from_secs(30);

/// The wait after the store failed.
const PAUSE: Duration = Duration::from_millis(250);

/// When to look next.
pub(crate) struct Waker {
    next: AtomicI64,
    sooner: Notify,
}

impl Waker {
    pub(crate) fn new() -> Self {
        // At the start there is to be a look.
        Self { next: AtomicI64::new(0), sooner: Notify::new() }
    }

    /// Something in the store is due at `at`.
    pub(crate) fn expect(&self, at: Timestamp) {
        if self.next.fetch_min(at.as_micros(), Ordering::SeqCst) > at.as_micros() {
            self.sooner.notify_one();
        }
    }

    /// A lane closed, or somebody began to wait for one.
    pub(crate) fn turn(&self) {
        self.sooner.notify_one();
    }
}

/// Runs until the engine stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        shared.take_turns();
        let now = shared.clock.now();
        let next = Timestamp::from_micros(shared.waker.next.load(Ordering::SeqCst));
        if next <= now {
            // Before the look: what is announced while it is under way counts for the next one.
            shared.waker.next.store(now.saturating_add(LONGEST).as_micros(), Ordering::SeqCst);
            look(&shared, now).await;
        }
        let next = Timestamp::from_micros(shared.waker.next.load(Ordering::SeqCst));
        if next > shared.clock.now() {
            tokio::select! {
                () = shared.clock.sleep_until(next) => {}
                () = shared.waker.sooner.notified() => {}
            }
        }
    }
}

async fn look(shared: &Arc<Shared>, now: Timestamp) {
    match shared.store.take_wakes(now, BATCH).await {
        Ok(wakes) => {
            let woken = wakes.endpoints.into_iter().map(|Woken { endpoint, application, environment }| {
                let owner = application.zip(environment);
                (endpoint, owner.map(|(application, environment)| Owner { environment, application }))
            });
            shared.bring_up_now(woken, State::wake);
            if let Some(at) = wakes.next_at {
                shared.waker.expect(at);
            }
        }
        Err(error) => {
            tracing::warn!(%error, "failed to look for deliveries that are due");
            shared.waker.expect(now.saturating_add(PAUSE));
        }
    }
}
