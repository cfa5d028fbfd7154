//! Whether the system gives this process as many threads as it works with. Libraries panic, or wait for ever, where it does not; so
//! it is asked first, and whoever started the program is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use anyhow::anyhow;

/// Threads beside those that serve, deliver and read large bodies: the store's writer, its readers and what makes its checkpoints, the
/// log's, one that looks at the configuration of name servers, and those that runtimes may have beside their own.
pub(crate) const OTHERS: usize = 17;

/// They only wait.
const STACK_BYTES: usize = 64 * 1024;

/// Makes so many threads at a time, and ends them.
pub(super) fn check(count: usize) -> anyhow::Result<()> {
    let is_over = Arc::new(AtomicBool::new(false));
    let mut made: Vec<JoinHandle<()>> = Vec::new();
    let mut refused = None;
    while made.len() < count && refused.is_none() {
        let is_over = Arc::clone(&is_over);
        let wait = move || {
            while !is_over.load(Ordering::Acquire) {
                std::thread::park();
            }
        };
        match Builder::new().stack_size(STACK_BYTES).spawn(wait) {
            Ok(thread) => made.push(thread),
            Err(error) => refused = Some(error),
        }
    }
    is_over.store(true, Ordering::Release);
    let given = made.len();
    for thread in made {
        thread.thread().unpark();
        // It does nothing that panics.
        let _ = thread.join();
    }
    refused.map_or(Ok(()), |error| {
        Err(anyhow!(
            "the system gives this process {given} more threads, and it needs {count} ({error}): raise the limit of its user or service \
             (ulimit -u, TasksMax=, pids.max)"
        ))
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn threads_that_there_are_are_given() {
        super::check(8).unwrap();
    }
}
