//! The commands, one file or folder each: an `Args` that clap fills, and a `run` that takes it and gives the exit code.

use std::future::Future;

use anyhow::{Context as _, anyhow};
use tokio::runtime::{Builder, Runtime};

use crate::apart;

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
pub(crate) mod settings;
mod threads;

/// The stack of every thread that this program starts, whatever `RUST_MIN_STACK` says: zero and huge sizes end it.
pub(crate) const STACK_BYTES: usize = 2 * 1024 * 1024;

/// Threads that a runtime may have beside those. Nothing that goes on for long may use them: tokio panics where the system gives it none.
const BLOCKING: usize = 2;

/// Why nothing can listen at an address, and what to do: `port` and `address` are the options that choose another.
pub(crate) fn cannot_listen(at: &str, error: &std::io::Error, port: &str, address: &str) -> anyhow::Error {
    use std::io::ErrorKind;

    match error.kind() {
        ErrorKind::AddrInUse => {
            anyhow!("cannot listen on {at}: another program does already; stop it, or choose another port with {port}")
        }
        ErrorKind::AddrNotAvailable => {
            anyhow!(
                "cannot listen on {at}: this machine does not have that address; choose one that it has with {address}"
            )
        }
        ErrorKind::PermissionDenied => anyhow!(
            "cannot listen on {at}: this user may not; ports below 1024 are for root, so choose a higher one with {port}, and have a \
             proxy in front of it"
        ),
        _ => anyhow!("cannot listen on {at}: {error}; choose another address with {address}"),
    }
}

/// Runs a command's future to its end, on as many threads as there are cores.
pub(crate) fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    threads::check(cores() + threads::OTHERS)?;
    start(&mut threads(0))?.block_on(command)
}

/// A runtime for what a server serves, with so many threads; 0 is one per core. The system gives as many again for what it
/// delivers, one for connections of strangers, and what else there is: one per core that reads large bodies, and two for each of
/// `judges`, the processes that compare payloads.
pub(crate) fn serving(threads: usize, judges: usize) -> anyhow::Result<Runtime> {
    let apart = workers(threads) + apart::STRANGERS;
    threads::check(workers(threads) + apart + cores() + 2 * judges + threads::OTHERS)?;
    start(&mut self::threads(threads))
}

/// What starts a runtime with so many threads; 0 is one per core.
pub(crate) fn threads(count: usize) -> Builder {
    let mut builder = Builder::new_multi_thread();
    // Always said: otherwise tokio reads a variable of its own, and panics at one that makes no sense.
    builder.worker_threads(workers(count)).max_blocking_threads(BLOCKING).thread_stack_size(STACK_BYTES).enable_all();
    builder
}

fn start(threads: &mut Builder) -> anyhow::Result<Runtime> {
    threads.build().context("cannot start the asynchronous runtime")
}

fn workers(threads: usize) -> usize {
    if threads > 0 { threads } else { cores() }
}

/// How many threads run at once: cores, or fewer if a quota says so.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// What the command is called that runs schemas.
pub(crate) const JUDGE: &str = "__judge";
