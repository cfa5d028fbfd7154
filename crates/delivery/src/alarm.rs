//! When the store's index of wakes is to be looked at again.
//!
//! The index is the authority; `next` here is only when to look. Whoever stores something due earlier says so with
//! [`Alarm::expect`]; if that is missed, a look once in a while finds it.

use std::sync::atomic::{AtomicI64, Ordering};

use postrider_domain::time::Timestamp;
use tokio::sync::Notify;

/// When to look next.
pub(crate) struct Alarm {
    next: AtomicI64,
    sooner: Notify,
}

impl Alarm {
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

    /// When to look next.
    pub(crate) fn next(&self) -> Timestamp {
        Timestamp::from_micros(self.next.load(Ordering::SeqCst))
    }

    /// There is a look now; without word of anything due, the next one is at `at`.
    pub(crate) fn set(&self, at: Timestamp) {
        self.next.store(at.as_micros(), Ordering::SeqCst);
    }

    /// Waits until there is reason to look sooner than was said.
    pub(crate) async fn sooner(&self) {
        self.sooner.notified().await;
    }
}
