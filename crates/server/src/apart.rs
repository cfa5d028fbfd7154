//! Threads apart from those that serve, and behind them while processors are short, so that known callers wait for neither of
//! these: deliveries that became due at once, and connections on which requests without a good token come again and again. All that is
//! ready on the same threads takes turns, so everybody would wait for all of it, several times for each request.

use std::future::Future;

use anyhow::Context as _;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::commands;

/// How far the threads stand back, and those that they start for what blocks: at 5, Linux gives a thread about a quarter of a core
/// that it shares with one at 0. Deliveries go on however busy callers are, and so do strangers.
const NICE: i32 = 5;

/// One: what nobody is known to send has no more than a core.
pub(crate) const STRANGERS: usize = 1;

/// The threads, and what runs on them. Whatever is still under way when this is dropped ends where it waits next.
pub(crate) struct Apart {
    /// There until it is dropped.
    runtime: Option<Runtime>,
}

impl Apart {
    /// Starts so many threads for deliveries; 0 is one per core. They are for a server of which [`commands::serving`] has asked
    /// whether there are enough.
    pub(crate) fn for_deliveries(threads: usize) -> anyhow::Result<Self> {
        Self::start("deliver", commands::threads(threads))
    }

    /// Starts those for connections on which several requests in a row had no good token.
    pub(crate) fn for_strangers() -> anyhow::Result<Self> {
        let mut threads = commands::threads(STRANGERS);
        // Sockets are watched by the threads that serve: what they tell has its turn as often as what is ready here.
        threads.global_queue_interval(2);
        Self::start("strangers", threads)
    }

    fn start(name: &'static str, mut threads: Builder) -> anyhow::Result<Self> {
        let runtime = threads
            .thread_name(name)
            .on_thread_start(stand_back(NICE))
            .build()
            .with_context(|| format!("cannot start the threads '{name}'"))?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// What has tasks run on these threads.
    pub(crate) fn handle(&self) -> anyhow::Result<Handle> {
        Ok(self.runtime.as_ref().context("the threads have ended")?.handle().clone())
    }

    /// Runs `starting` on these threads. What it spawns stays there.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        starting: impl Future<Output = T> + Send + 'static,
    ) -> anyhow::Result<T> {
        self.handle()?.spawn(starting).await.context("deliveries did not start")
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Dropped, it would wait for its threads, and panic where waiting is not allowed.
            runtime.shutdown_background();
        }
    }
}

/// What makes a thread give way to the one that asks for this. The priority is not lowered but set: threads have that of the one
/// that starts them, and would end up lower and lower. Only Linux has one for each thread; elsewhere it is that of the process.
fn stand_back(by: i32) -> impl Fn() + Send + Sync + 'static {
    let own = rustix::process::getpriority_process(None);
    move || {
        if cfg!(target_os = "linux") {
            // Where it is refused, the thread works like any other.
            let _ = own.and_then(|own| rustix::process::setpriority_process(None, own + by));
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn threads_stand_back_from_those_that_serve_and_no_further_if_they_start_others() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let serving = priority();
        let stand_back = stand_back(NICE);
        let delivers = std::thread::spawn(move || {
            stand_back();
            let starts = std::thread::spawn(move || {
                stand_back();
                priority()
            });
            (priority(), starts.join().unwrap())
        });
        let most = 19.min(serving + NICE);
        assert_eq!(delivers.join().unwrap(), (most, most));
        assert_eq!(priority(), serving);
    }
}
