//! `postrider serve`: the server.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::dev;
use super::settings::Settings;
use crate::apart::Apart;
use crate::config::{self, Config, LogOptions};
use crate::http;
use crate::log::{self, Output};
use crate::signals::Signals;
use crate::wiring::{Phases, Server};

const SIGNALS: &str = "\
Signals:
  TERM, INT, QUIT, HUP, PWR, XCPU
                        shut down cleanly: requests in flight are finished, at most for delivery.drain_timeout (8s)
  TERM, INT or QUIT again
                        end at once, from a second after the first; what was in flight is sent again at the next start
  USR1, USR2, ALRM, VTALRM, PROF, TRAP, IO, STKFLT, XFSZ, real-time signals
                        nothing";

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = SIGNALS)]
pub(crate) struct Args {
    /// For trying things out on this machine: delivers to local addresses, makes an API key, brings a receiver with it
    #[arg(long)]
    dev: bool,
    #[command(flatten)]
    settings: Settings,
    /// Address and port to listen on [default: 127.0.0.1:8071]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

/// How long a server of which a part is broken tries to end in order.
const LAST_RESORT: std::time::Duration = std::time::Duration::from_secs(10);

/// What `--dev` lets be delivered to.
const LOOPBACK: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];

/// Runs until it is asked to end: see [`Signals`].
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = args.settings.load(args.listen.as_ref())?;
    let warning = config::readable_secret(&loaded);
    let mut config = loaded.config;
    if args.dev {
        config.delivery.allow_subnets.0.extend(LOOPBACK);
        // A line for every attempt, unless more or less was asked for.
        if config.log.level == LogOptions::default().level {
            config.log.level.push_str(",postrider_delivery::worker=debug");
        }
    }
    let log = log::start(&config.log)?;
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    let stdout = log::stdout();
    let runtime = super::serving(config.server.threads, config.schemas.most_processes())?;
    let strangers = Apart::for_strangers()?;
    let result = runtime.block_on(serve(&config, args, &stdout, &strangers));
    // Not dropped, which would wait for whatever is stuck.
    runtime.shutdown_background();
    // Last: connections that go on elsewhere may have timers there.
    drop(strangers);
    let patience = Phases::of(config.delivery.drain_timeout.0).last_words;
    log.flush(patience);
    stdout.flush(patience);
    result
}

async fn serve(config: &Config, args: &Args, stdout: &Output, strangers: &Apart) -> anyhow::Result<ExitCode> {
    let dev = args.dev;
    // Before anybody is told that it runs: from then on a signal must end it in order.
    let mut signals = Signals::install()?;
    let address = &config.server.listen;
    let listener = http::listen(address).await.map_err(|error| {
        super::cannot_listen(address, &error, "--listen (server.listen)", "--listen (server.listen)")
    })?;
    let server = tokio::select! {
        started = Server::start(config) => started?,
        // Nothing was promised to anybody yet.
        () = signals.first() => return Ok(ExitCode::SUCCESS),
    };
    let url = format!("http://{}", listener.local_addr()?);
    stdout.say(&format!("postrider {} listening on {url}", env!("CARGO_PKG_VERSION")));
    if !dev && config.auth.jwt_secret.is_none() && server.store.api_keys().await.is_ok_and(|keys| keys.is_empty()) {
        let options = args.settings.as_typed();
        tracing::warn!(
            "there is no API key yet, so every request is refused: `postrider key create{options}` makes one"
        );
    }
    let receiving = if dev { Some(dev::welcome(&server, &url, stdout).await?) } else { None };
    let (stop, stopped) = oneshot::channel::<()>();
    let bounds = http::Bounds::new(&config.server, server.connections);
    let runtimes = http::Runtimes { strangers: strangers.handle()?, known: Handle::current() };
    let answering = http::serve(listener, server.api.clone(), bounds, runtimes, async { drop(stopped.await) });
    let (supervisor, mut broken) = (server.supervisor(), false);
    let mut answering = Box::pin(answering);
    tokio::select! {
        () = &mut answering => {}
        () = signals.first() => {}
        part = supervisor.first_to_end() => {
            tracing::error!(part, "a part of the server ended unexpectedly: it finishes what it can, and exits to be started again");
            broken = true;
        }
    }
    drop(stop);
    let patience = config.delivery.drain_timeout.0;
    let patience = if broken { patience.min(LAST_RESORT) } else { patience };
    tracing::info!("stopping: no new messages are accepted, requests in flight are finished");
    let stopped = tokio::select! {
        () = server.stop(answering, Phases::of(patience)) => {
            tracing::info!("stopped");
            Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        () = signals.again() => {
            tracing::warn!("stopped at once; what was in flight is sent again at the next start");
            Ok(ExitCode::FAILURE)
        }
    };
    // Last: what is delivered while the server drains is received.
    if let Some(receiving) = receiving {
        receiving.abort();
    }
    stopped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_the_signals_that_the_documentation_names() {
        let text = include_str!("../../../../docs/operating.md");
        let rows: Vec<_> = text.lines().skip_while(|line| !line.starts_with("| signal |")).skip(2).collect();
        let signals = |row: &str| row.split('|').nth(1).unwrap_or_default().trim().to_owned();
        for row in [rows[0], rows[2]] {
            let line = format!("\n  {}\n", signals(row));
            assert!(SIGNALS.contains(&line), "{line}");
        }
        assert!(rows[1].contains("TERM, INT or QUIT") && SIGNALS.contains("TERM, INT or QUIT again"));
    }
}
