//! Asking the store whether it works: once at a time, however many want to know.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use postrider_store::{Store, StoreError};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// A store that has not answered after this time is as good as gone. Whoever asks gives up after a second, mostly.
pub(crate) const PATIENCE: Duration = Duration::from_millis(800);

/// A question to the store that is under way.
struct Ping {
    task: AbortHandle,
    answer: Shared<BoxFuture<'static, Result<(), StoreError>>>,
}

/// Asks the store whether it works, once at a time.
pub(crate) struct StorePing {
    /// The threads that serve: whoever asks may be carried by others, which are busy with what nobody is known to send.
    runtime: Handle,
    pending: Mutex<Option<Ping>>,
}

impl StorePing {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { runtime, pending: Mutex::default() }
    }

    /// The answer to the question that is under way; asks if there is none.
    pub(crate) fn answer(&self, store: &Arc<dyn Store>) -> Shared<BoxFuture<'static, Result<(), StoreError>>> {
        let mut pending = self.pending.lock();
        if let Some(ping) = pending.as_ref().filter(|ping| !ping.task.is_finished()) {
            return ping.answer.clone();
        }
        let store = Arc::clone(store);
        // A task of its own: it goes on when whoever asked has gone.
        let task = self.runtime.spawn(async move { store.ping().await });
        let handle = task.abort_handle();
        let answer = async { task.await.unwrap_or(Err(StoreError::Closed)) }.boxed().shared();
        *pending = Some(Ping { task: handle, answer: answer.clone() });
        answer
    }
}
