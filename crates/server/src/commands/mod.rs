//! The commands, one file or folder each: an `Args` that clap fills, and a `run` that takes it and gives the exit code.

use std::future::Future;

use anyhow::Context as _;

pub(crate) mod bench;
pub(crate) mod config;
mod dev;
mod http1;
pub(crate) mod key;
pub(crate) mod listen;
pub(crate) mod openapi;
pub(crate) mod send;
pub(crate) mod serve;

/// Runs a command's future to its end, on as many threads as there are cores.
pub(crate) fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("can't start the asynchronous runtime")?
        .block_on(command)
}
