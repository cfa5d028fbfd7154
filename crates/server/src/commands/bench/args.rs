//! What `postrider bench` takes, and what its help says.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use postrider_domain::settings::Span;

use super::load::{Extent, Pace};
use super::message::SMALLEST_PAYLOAD;
use super::relay::RelayArgs;

const EXAMPLES: &str = "\
Examples:
  postrider bench --relay                    as fast as it goes, and which part of the machine's ceiling that is
  postrider bench --rate 200                 latency at 200 messages a second
  postrider bench --endpoints 10 --relay     every message to ten endpoints
  postrider bench --compare idempotency      what an idempotency key per request costs
  postrider bench --compare batch            how much faster messages are taken in 500 at a time
  postrider bench --hang 50                  do 50 hanging endpoints slow a healthy one down?
  postrider bench --dead-backlog 1000000     a million messages waiting for a dead endpoint
  postrider bench --lists 10000000           a page of every list among ten million rows
  postrider bench --url http://127.0.0.1:8071 --jwt-secret SECRET    another server, of any make";

/// Measure a server: messages per second, latency, what gets lost or repeated.
///
/// Starts receivers and a load in this process, and (unless --url names one) a private server on a store that is
/// removed afterwards. Any server that speaks the same REST API can be measured.
///
/// The exit code is 1 if an accepted message did not arrive, or arrived with a wrong signature.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(super) inner: Option<Inner>,

    /// What to measure
    #[arg(value_enum, default_value_t = Subject::Server, hide_default_value = true)]
    pub(super) subject: Subject,

    /// The server to measure, e.g. http://127.0.0.1:8071 [default: a private one]
    #[arg(long, value_name = "URL", help_heading = "Server")]
    pub(super) url: Option<String>,
    /// A key or token of that server that may create applications [default: POSTRIDER_TOKEN of the environment]
    #[arg(long, value_name = "TOKEN", requires = "url", help_heading = "Server")]
    pub(super) token: Option<String>,
    /// That server's JWT secret, to make a token with
    #[arg(long, value_name = "SECRET", requires = "url", conflicts_with = "token", help_heading = "Server")]
    pub(super) jwt_secret: Option<String>,
    /// That server's process, whose memory and processor time to report
    #[arg(long, value_name = "PID", requires = "url", help_heading = "Server")]
    pub(super) pid: Option<u32>,
    /// Where to put the private server's store, e.g. on the disk to measure [default: where temporary files are]
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "url", help_heading = "Server")]
    pub(super) dir: Option<PathBuf>,
    /// Address on which the receivers listen; the server must reach it
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), help_heading = "Server")]
    pub(super) bind: IpAddr,

    /// How many connections send, each with one request at a time
    #[arg(long, value_name = "N", default_value_t = 192, help_heading = "Load")]
    pub(super) connections: usize,
    /// Send so many messages per second, instead of as fast as they are accepted
    #[arg(long, value_name = "N/s", value_parser = rate, help_heading = "Load")]
    pub(super) rate: Option<f64>,
    /// How long to measure, e.g. 30s or 5m
    #[arg(long, value_name = "TIME", default_value = "10s", help_heading = "Load")]
    pub(super) duration: Span,
    /// Measure so many messages, instead of some time
    #[arg(long, value_name = "N", conflicts_with = "duration", help_heading = "Load")]
    pub(super) messages: Option<u32>,
    /// How long to send before measuring
    #[arg(long, value_name = "TIME", default_value = "2s", help_heading = "Load")]
    pub(super) warmup: Span,
    /// How many endpoints want every message
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Load")]
    pub(super) endpoints: usize,
    /// Size of a message's payload
    #[arg(long, value_name = "BYTES", default_value_t = 1_024, help_heading = "Load")]
    pub(super) payload: usize,
    /// Send an idempotency key with every message, as the SDKs do
    #[arg(long, help_heading = "Load")]
    pub(super) idempotency: bool,
    /// Give up on what was accepted when nothing has arrived for this long
    #[arg(long, value_name = "TIME", default_value = "10s", help_heading = "Load")]
    pub(super) drain: Span,

    /// Measure in turn with a relay that accepts, signs and forwards, but stores nothing: the machine's ceiling
    #[arg(long, help_heading = "Comparison")]
    pub(super) relay: bool,
    /// Measure in turn without and with something
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Comparison")]
    pub(super) compare: Option<Compare>,
    /// How often to measure; the ratios are of the medians [default: 3 in a comparison, else 1]
    #[arg(long, value_name = "N", help_heading = "Comparison")]
    pub(super) rounds: Option<usize>,

    /// Compare a healthy endpoint's latency without and with N endpoints that never answer
    #[arg(long, value_name = "N", conflicts_with_all = ["relay", "compare", "dead_backlog"])]
    #[arg(help_heading = "Isolation")]
    pub(super) hang: Option<usize>,
    /// How many messages wait for each hanging endpoint
    #[arg(long, value_name = "N", default_value_t = 1_000, help_heading = "Isolation")]
    pub(super) hang_messages: u32,
    /// Let N messages wait for an endpoint that refuses connections; then measure a healthy one, and a restart
    #[arg(long, value_name = "N", conflicts_with_all = ["relay", "compare"], help_heading = "Isolation")]
    pub(super) dead_backlog: Option<u32>,

    /// Fill a store with N messages and N attempts (1000000 if N is left out), and measure pages of lists in it
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1000000", help_heading = "Lists")]
    #[arg(conflicts_with_all = ["url", "relay", "compare", "hang", "dead_backlog"])]
    pub(super) lists: Option<u64>,

    /// Print the result as one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

/// What runs inside the benchmark.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Inner {
    /// The relay itself, as a process of its own.
    #[command(hide = true)]
    RelayServer(RelayArgs),
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Subject {
    /// A server (the default)
    Server,
    /// Only the relay that stores nothing: what this machine can do at best
    Relay,
}

/// What can be left out and put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Compare {
    /// Without and with an idempotency key in every request
    Idempotency,
    /// One message in every request, and 500 in each of a few connections
    Batch,
}

/// Messages per second in the scenarios that look at a healthy endpoint's latency.
const HEALTHY_RATE: f64 = 200.0;

impl Args {
    /// What clap can't check.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(self.connections > 0, "--connections must be at least 1");
        ensure!(self.endpoints > 0, "--endpoints must be at least 1");
        ensure!(self.payload >= SMALLEST_PAYLOAD, "--payload must be at least {SMALLEST_PAYLOAD}");
        ensure!(self.rounds() > 0, "--rounds must be at least 1");
        ensure!(self.duration.0 > Duration::ZERO, "--duration must not be 0");
        ensure!(
            self.subject == Subject::Server || (self.hang.is_none() && self.dead_backlog.is_none()),
            "the relay stores nothing: --hang and --dead-backlog measure a server"
        );
        ensure!(
            self.subject == Subject::Server || self.url.is_none(),
            "the relay is a process of the benchmark's own: there is no --url to measure"
        );
        Ok(())
    }

    /// How often to measure.
    pub(super) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.relay || self.compare.is_some() { 3 } else { 1 })
    }

    /// How fast the measured messages are sent.
    pub(super) fn pace(&self) -> Pace {
        let scenario = self.hang.is_some() || self.dead_backlog.is_some();
        self.rate.or(scenario.then_some(HEALTHY_RATE)).map_or(Pace::Closed, Pace::Rate)
    }

    /// How many messages are measured.
    pub(super) fn extent(&self) -> Extent {
        self.messages.map_or(Extent::Time(self.duration.0), |count| Extent::Messages(count.into()))
    }
}

/// `200` or `200/s`.
fn rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    let rate = number.parse().ok().filter(|rate: &f64| *rate > 0.0 && *rate <= 1e6);
    rate.ok_or_else(|| "write a number of messages per second, as in 200 or 200/s".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_positive_number_with_or_without_its_unit() {
        assert_eq!(rate("200"), Ok(200.0));
        assert_eq!(rate("0.5/s"), Ok(0.5));
        for text in ["", "0", "-1", "inf", "NaN", "200/min"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
