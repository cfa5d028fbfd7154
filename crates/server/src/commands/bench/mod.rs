//! `postrider bench`: measures this or any other server that has the same REST API.
//!
//! Load and receivers run in this process and share a clock; the server is a process of its own. The books ([`phase`]) are
//! kept per message and endpoint, so that what was lost or repeated is known and not estimated. Every delivery counts;
//! every hundredth has its signature verified.
//!
//! | file | role |
//! |---|---|
//! | [`args`] | what it takes |
//! | [`throughput`], [`isolation`], [`lists`] | the scenarios |
//! | [`lab`] | runs one phase: load, receivers, drain |
//! | [`load`], [`receiver`], [`http`], [`message`], [`idempotency`], [`clock`] | the hot path |
//! | [`phase`], [`tally`], [`measured`], [`report`], [`usage`] | the figures |
//! | [`relay`] | the ceiling: a server that stores nothing |
//! | [`private`], [`control`], [`token`] | starting servers, and talking to them |

mod args;
mod clock;
mod control;
mod http;
mod idempotency;
mod isolation;
mod lab;
mod lists;
mod load;
mod measured;
mod message;
mod phase;
mod private;
mod progress;
mod receiver;
mod relay;
mod report;
mod tally;
mod throughput;
mod token;
mod usage;

use std::process::ExitCode;

use anyhow::{Context as _, bail};

pub(crate) use args::Args;
use args::Inner;
use lab::Lab;
use report::Report;

use super::block_on;
use crate::terminal;

/// Measures, and prints what came out.
pub(crate) fn run(mut args: Args) -> anyhow::Result<ExitCode> {
    if let Some(Inner::RelayServer(relay)) = args.inner.take() {
        return block_on(relay::run(relay)).map(|()| ExitCode::SUCCESS);
    }
    args.check()?;
    let json = args.json;
    if let Some(rows) = args.lists {
        let outcome = block_on(until_interrupted(lists::run(&args, rows)))?;
        let mut out = terminal::stdout();
        if json {
            outcome.write_json(&mut out)?;
        } else {
            outcome.write_table(&mut out)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let report = block_on(until_interrupted(measure(args)))?;
    let mut out = terminal::stdout();
    if json {
        report.write_json(&mut out)?;
    } else {
        report.write_table(&mut out)?;
    }
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What `work` gives, unless somebody presses Ctrl-C meanwhile.
async fn until_interrupted<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        done = work => done,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("can't listen for Ctrl-C")?;
            bail!("interrupted")
        }
    }
}

async fn measure(args: Args) -> anyhow::Result<Report> {
    let lab = Lab::new(args).await?;
    let report = match (lab.args.hang, lab.args.dead_backlog) {
        (Some(count), _) => isolation::hanging(&lab, count).await,
        (None, Some(count)) => isolation::backlog(&lab, count).await,
        (None, None) => throughput::run(&lab).await,
    };
    lab.progress.end();
    report
}
