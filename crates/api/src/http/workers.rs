//! Threads for work that takes its time, which give way to those that serve when cores are short, as those that deliver do.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

use crate::wire::error::{ApiError, Result};

/// How far the threads stand back: at 5, Linux gives a thread about a quarter of a core that it shares with one at 0. Much
/// further, and what is large would not be read while the server is busy.
const NICE: i32 = 5;

/// Larger than any body nests.
const STACK_BYTES: usize = 2 * 1024 * 1024;

/// The threads.
pub struct Workers(rayon::ThreadPool);

impl Workers {
    /// Starts one for each core.
    ///
    /// # Errors
    /// If the system gives no more threads.
    pub fn start() -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(cores).stack_size(STACK_BYTES);
        let pool = pool.thread_name(|number| format!("large-{number}")).start_handler(|_| stand_back());
        pool.build().map(Self).map_err(std::io::Error::other)
    }

    /// Runs `work`, which is carried through even if nobody waits for it any more.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (done, result) = oneshot::channel();
        self.0.spawn(move || {
            // A panic was logged; whoever waits is told by the channel's end.
            if let Ok(value) = catch_unwind(AssertUnwindSafe(work)) {
                let _ = done.send(value);
            }
        });
        result.await.map_err(|_| ApiError::internal())
    }
}

/// Makes this thread give way to others. Only Linux has a priority for each thread; elsewhere it would be that of the process.
fn stand_back() {
    if cfg!(target_os = "linux") {
        // Where it is refused, the thread works like any other.
        let _ = rustix::process::nice(NICE);
    }
}
