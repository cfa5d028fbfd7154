//! `postrider serve`: the server.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::dev;
use crate::config::{Config, LogFormat, LogOptions};
use crate::wiring::Server;
use crate::{http, terminal};

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
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

/// Where settings come from; shared by the commands that need a store.
#[derive(Debug, clap::Args)]
pub(crate) struct Settings {
    /// File with settings [default: postrider.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything is kept [default: sqlite://postrider.db]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
}

impl Settings {
    /// Reads file and environment, and applies these flags and `others`.
    pub(crate) fn load(&self, others: &[(&str, Option<String>)]) -> anyhow::Result<Config> {
        let own = [("store.url", self.store.clone())];
        let flags: Vec<_> =
            own.iter().chain(others).filter_map(|(path, value)| value.clone().map(|value| (*path, value))).collect();
        Config::load(self.config.as_deref(), std::env::vars(), &flags)
    }
}

/// What `--dev` lets be delivered to.
const LOOPBACK: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];

/// Runs until SIGTERM or Ctrl-C.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut config = args.settings.load(&[("server.listen", args.listen.clone())])?;
    if args.dev {
        config.delivery.allow_subnets.0.extend(LOOPBACK);
        // A line for every attempt, unless more or less was asked for.
        if config.log.level == LogOptions::default().level {
            config.log.level.push_str(",postrider_delivery::worker=debug");
        }
    }
    start_log(&config.log)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if config.server.threads > 0 {
        runtime.worker_threads(config.server.threads);
    }
    let runtime = runtime.enable_all().build().context("cannot start the asynchronous runtime")?;
    runtime.block_on(serve(&config, args.dev))
}

async fn serve(config: &Config, dev: bool) -> anyhow::Result<ExitCode> {
    let address = &config.server.listen;
    let listener = TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            anyhow!("cannot listen on {address}: another program does already; stop it, or choose another address with --listen")
        }
        _ => anyhow!("cannot listen on {address}: {error}; choose another address with --listen"),
    })?;
    // Before anybody is told that it runs: from then on a signal must end it in order.
    let mut signals = Signals::install()?;
    let server = Server::start(config).await?;
    let url = format!("http://{}", listener.local_addr()?);
    say(&format!("postrider {} listening on {url}", env!("CARGO_PKG_VERSION")));
    let receiving = if dev { Some(dev::welcome(&server, &url).await?) } else { None };
    http::serve(listener, server.api.clone(), signals.first()).await;
    tracing::info!("stopping: no new messages are taken, requests under way are finished");
    let stopped = tokio::select! {
        () = server.stop() => {
            tracing::info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
        () = signals.again() => {
            tracing::warn!("stopped at once; what was under way is sent again at the next start");
            Ok(ExitCode::FAILURE)
        }
    };
    // Last: what is delivered while the server drains is received.
    if let Some(receiving) = receiving {
        receiving.abort();
    }
    stopped
}

/// The signals that end the server. A second one ends it at once.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn install() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("cannot handle signals");
        Ok(Self { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())? })
    }

    async fn first(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    async fn again(&mut self) {
        self.first().await;
    }
}

fn start_log(options: &LogOptions) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&options.level)
        .map_err(|error| anyhow!("log.level is '{}', which is no level: {error}", options.level))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match options.format {
        LogFormat::Text => log.with_ansi(terminal::stderr_is_terminal()).with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

/// For people; the log goes elsewhere.
pub(super) fn say(text: &str) {
    use std::io::Write as _;
    let mut out = terminal::stdout();
    // A closed standard output is no reason to stop serving.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
