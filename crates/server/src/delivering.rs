//! The threads that deliver: apart from those that serve, and behind them while processors are short, so that whoever asks
//! the server for something, or gives it a message, waits for no queue of deliveries that became due at once.
//!
//! Where a priority would not help, deliveries run on the threads that serve.

use std::future::Future;

use anyhow::Context as _;
use tokio::runtime::{Handle, Runtime};

use crate::commands;

/// How far the threads stand back, and those that they start for what blocks: at 5, Linux gives a thread about a quarter of a core
/// that it shares with one at 0. Deliveries go on however busy callers are.
const NICE: i32 = 5;

/// Where deliveries run. Whatever is still under way on their own threads when this is dropped ends where it waits next.
pub(crate) struct Delivering {
    /// Their own threads, if they have any.
    runtime: Option<Runtime>,
}

impl Delivering {
    /// Starts so many threads; 0 is one per core. They are for a server of which [`commands::serving`] has asked whether there
    /// are enough.
    pub(crate) fn start(threads: usize) -> anyhow::Result<Self> {
        if !priorities_help() {
            return Ok(Self { runtime: None });
        }
        let runtime = commands::threads(threads)
            .thread_name("deliver")
            .on_thread_start(stand_back(NICE))
            .build()
            .context("cannot start threads for deliveries")?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// Runs `starting` where deliveries run. What it spawns stays there.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        starting: impl Future<Output = T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let runtime = self.runtime.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone());
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

/// What makes a thread give way to the one that asks for this. The priority is not lowered but set: threads have that of the one
/// that starts them, and would end up lower and lower.
fn stand_back(by: i32) -> impl Fn() + Send + Sync + 'static {
    let own = rustix::process::getpriority_process(None);
    move || {
        // Where it is refused, the thread works like any other.
        let _ = own.and_then(|own| rustix::process::setpriority_process(None, own + by));
    }
}

/// Whether a thread that stands back leaves to others what they need. Only Linux has a priority for each thread; elsewhere it is that
/// of the process. And where a quota of processor time is less than there are cores (`docker --cpus`, `CPUQuota=`), threads have cores
/// of their own, use the quota up together, and are stopped together.
#[cfg(target_os = "linux")]
fn priorities_help() -> bool {
    let cores = rustix::thread::sched_getaffinity(None).map_or(0, |cores| cores.count() as usize);
    commands::cores() >= cores
}

#[cfg(not(target_os = "linux"))]
fn priorities_help() -> bool {
    false
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
