//! When API keys were last used: collected in memory, written to the store once a minute and when the server ends.
//!
//! Nothing depends on it but people who look at their keys, so what a crash loses is not missed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::clock::Clock;
use postrider_domain::time::Timestamp;
use postrider_store::{KeyHash, Store};

/// How often uses are written down.
const INTERVAL: Duration = Duration::from_secs(60);

/// Uses that are not written down yet. There are at most as many entries as there are keys in the store.
#[derive(Default)]
pub(super) struct UsageLog(Mutex<HashMap<KeyHash, Timestamp>>);

impl UsageLog {
    /// Notes a use.
    pub(super) fn note(&self, key: KeyHash, at: Timestamp) {
        let mut uses = self.0.lock();
        let last = uses.entry(key).or_insert(at);
        *last = at.max(*last);
    }

    fn take(&self) -> Vec<(KeyHash, Timestamp)> {
        self.0.lock().drain().collect()
    }
}

/// Writes down when API keys were used.
pub struct KeyUsage {
    log: Arc<UsageLog>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
}

impl KeyUsage {
    pub(super) fn new(log: Arc<UsageLog>, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { log, store, clock }
    }

    /// Writes once a minute, for ever.
    pub async fn run(self) {
        loop {
            let next = self.clock.now().saturating_add(INTERVAL);
            while self.clock.now() < next {
                self.clock.sleep_until(next).await;
            }
            self.flush().await;
        }
    }

    /// Writes down what was noted since the last time. If the store fails, it is tried again next time.
    pub async fn flush(&self) {
        let uses = self.log.take();
        if uses.is_empty() {
            return;
        }
        if let Err(error) = self.store.touch_api_keys(uses.clone()).await {
            tracing::warn!(%error, "when keys were last used could not be written");
            for (key, at) in uses {
                self.log.note(key, at);
            }
        }
    }
}
