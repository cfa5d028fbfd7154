//! `postrider __judge`: a process that runs schemas, started by the server and by nobody else.

use std::process::ExitCode;
use std::time::Duration;

use postrider_ingest::Bounds;

/// Arguments of `__judge`, as [`Bounds`] writes them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Processor time of one comparison, in microseconds
    time: u64,
    /// Address space, in bytes
    memory: u64,
}

/// Answers questions until there are no more.
pub(crate) fn run(args: &Args) -> ExitCode {
    postrider_ingest::run_child(Bounds { time: Duration::from_micros(args.time), memory_bytes: args.memory })
}
