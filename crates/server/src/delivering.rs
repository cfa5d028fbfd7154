//! The threads that deliver: apart from those that serve, and behind them while processors are short, so that whoever asks
//! the server for something, or gives it a message, waits for no queue of deliveries that became due at once.

use std::future::Future;

use anyhow::Context as _;
use tokio::runtime::Runtime;

use crate::commands;

/// How far the threads stand back: at 5, Linux gives a thread about a quarter of a core that it shares with one at 0. Deliveries
/// go on however busy callers are.
const NICE: i32 = 5;

/// The threads, and what runs on them. Whatever is still under way when this is dropped ends where it waits next.
pub(crate) struct Delivering {
    /// There until it is dropped.
    runtime: Option<Runtime>,
}

impl Delivering {
    /// Starts so many threads; 0 is one per core. They are for a server of which [`commands::serving`] has asked whether there
    /// are enough.
    pub(crate) fn start(threads: usize) -> anyhow::Result<Self> {
        let runtime = commands::threads(threads)
            .thread_name("deliver")
            .on_thread_start(stand_back)
            .build()
            .context("cannot start threads for deliveries")?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// Runs `starting` on these threads. What it spawns stays there.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        starting: impl Future<Output = T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let runtime = self.runtime.as_ref().context("the threads have ended")?;
        runtime.spawn(starting).await.context("deliveries did not start")
    }
}

impl Drop for Delivering {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Dropped, it would wait for its threads, and panic where waiting is not allowed.
            runtime.shutdown_background();
        }
    }
}

/// Makes this thread give way to others. Only Linux has a priority for each thread; elsewhere it would be that of the process.
fn stand_back() {
    if cfg!(target_os = "linux") {
        // Where it is refused, the thread works like any other.
        let _ = rustix::process::nice(NICE);
    }
}
