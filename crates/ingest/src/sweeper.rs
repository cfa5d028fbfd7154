//! Forgetting idempotency keys whose time has passed, a slice at a time, so that neither the table nor a commit grows.
//!
//! Nothing depends on when it runs: an old key is not honoured even while it is still there. A clock that may be wrong makes none old.

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::clock::Clock;
use postrider_store::{Store, StoreError};

use crate::intake::KEY_LIFETIME;

/// Keys that are removed in one commit.
const SLICE: usize = 500;

/// The pause between slices: with it, more than 100 million keys go in the lifetime of a key.
const BETWEEN_SLICES: Duration = Duration::from_millis(150);

/// The pause when there are no more.
const BETWEEN_WALKS: Duration = Duration::from_secs(600);

/// Runs until the store is closed.
pub(crate) async fn run(store: Arc<dyn Store>, clock: Arc<dyn Clock>) {
    loop {
        let now = clock.now();
        let pause = match store.forget_keys(store.believed(now).saturating_sub(KEY_LIFETIME), SLICE).await {
            Ok(true) => BETWEEN_SLICES,
            Ok(false) => BETWEEN_WALKS,
            Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "old idempotency keys could not be removed yet");
                BETWEEN_WALKS
            }
        };
        let until = now.saturating_add(pause);
        while clock.now() < until {
            clock.sleep_until(until).await;
        }
    }
}
