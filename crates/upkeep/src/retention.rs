//! Removing what is kept no longer: payloads whose time has come, and tasks that ended long ago.
//!
//! Everything goes in slices with pauses as long as themselves between them. Nothing depends on when this runs, except
//! that a payload is there for a few minutes longer than it was to be.

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::clock::Clock;
use postrider_domain::settings::Span;
use postrider_store::{Store, StoreError};

use crate::pause::sleep;

/// How many rows a slice looks at.
const SLICE_ROWS: usize = 500;

/// The pause between sweeps.
const BETWEEN_SWEEPS: Duration = Duration::from_secs(5 * 60);

/// For how long tasks are shown after they ended.
const TASKS_KEPT: Duration = Duration::from_secs(90 * 86_400);

fn span(text: &str) -> Span {
    text.parse().unwrap_or(Span(Duration::MAX))
}

postrider_domain::options! {
    /// For how long things are kept.
    pub struct RetentionOptions in "retention" {
        /// How long the payload of a message is kept after it was due, if the message itself does not say. It goes within
        /// minutes then; the message and its attempts stay.
        #[within("1ms", "36500d")]
        pub payload: Span = span("90d"),
    }
}

/// Removes what is kept no longer.
pub struct Sweeper {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    options: RetentionOptions,
}

impl Sweeper {
    /// Makes one with these settings.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, options: RetentionOptions) -> Self {
        Self { store, clock, options }
    }

    /// Runs until the store is closed.
    pub async fn run(self) {
        loop {
            match self.sweep().await {
                Ok(0) => {}
                Ok(removed) => tracing::info!(removed, "payloads were removed, because their time had come"),
                Err(StoreError::Closed) => return,
                Err(error) => tracing::warn!(%error, "what has expired could not be removed yet"),
            }
            sleep(&self.clock, BETWEEN_SWEEPS).await;
        }
    }

    /// Removes everything whose time has come; returns how many payloads that were.
    pub async fn sweep(&self) -> Result<usize, StoreError> {
        let mut removed = 0;
        loop {
            let began = self.clock.now();
            let swept = self.store.sweep_payloads(began, self.options.payload.0, SLICE_ROWS).await?;
            removed += swept.removed;
            if !swept.more {
                break;
            }
            sleep(&self.clock, self.clock.now().since(began)).await;
        }
        let before = self.clock.now().saturating_sub(TASKS_KEPT);
        while self.store.forget_tasks(before, SLICE_ROWS).await? == SLICE_ROWS {}
        Ok(removed)
    }
}
