//! The commands, one file or folder each: an `Args` that clap fills, and a `run` that takes it and gives the exit code.

use std::future::Future;

use anyhow::Context as _;

pub(crate) mod bench;
pub(crate) mod config;
mod dev;
mod http1;
pub(crate) mod judge;
pub(crate) mod key;
pub(crate) mod listen;
pub(crate) mod openapi;
pub(crate) mod send;
pub(crate) mod serve;
mod threads;

/// The stack of every thread that this program starts, whatever `RUST_MIN_STACK` says: zero and huge sizes end it.
pub(crate) const STACK_BYTES: usize = 2 * 1024 * 1024;

/// Runs a command's future to its end, on as many threads as there are cores.
pub(crate) fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    runtime(0)?.block_on(command)
}

/// A runtime with so many threads; 0 is one per core.
pub(crate) fn runtime(threads: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = if threads > 0 { threads } else { cores() };
    threads::check(workers + cores() + threads::OTHERS)?;
    // Always said: otherwise tokio reads a variable of its own, and panics at one that makes no sense.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")
}

/// What the command is called that runs schemas.
pub(crate) const JUDGE: &str = "__judge";
