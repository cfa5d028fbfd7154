//! Servers that the benchmark starts itself, from the same program: a private `serve` on a temporary store, and the relay.
//!
//! Both say where they listen on the first line of their standard output, are told to stop with SIGTERM, and must then
//! exit with 0. One that is dropped without being stopped is killed.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use postrider_domain::entropy::{Entropy as _, OsEntropy};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::receiver::Address;

/// How long a server may take until it listens; a large store is opened and recovered within it.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long it may take to stop: it may have to wait for the answer to what it has sent.
const STOP_DEADLINE: Duration = Duration::from_secs(60);
const LISTENING: &str = "listening on http://";

/// A server process that belongs to the benchmark.
pub(super) struct Server {
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// Its process id.
    pub(super) pid: u32,
    child: Child,
    log: PathBuf,
    /// The relay ends when this closes.
    _stdin: Option<ChildStdin>,
}

/// A store in a directory that disappears with this.
pub(super) struct TemporaryStore {
    directory: tempfile::TempDir,
    secret: String,
}

/// Says where this process listens, as the first line of its output.
pub(super) fn announce(address: SocketAddr) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{LISTENING}{address}")?;
    out.flush()
}

impl TemporaryStore {
    /// Makes a directory for it in `parent`, or where temporary files are.
    pub(super) fn create(parent: Option<&Path>) -> anyhow::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("postrider-bench-");
        let directory = match parent {
            Some(parent) => builder.tempdir_in(parent.canonicalize().unwrap_or_else(|_| parent.to_owned())),
            None => builder.tempdir(),
        };
        let mut key = [0u8; 24];
        OsEntropy.fill(&mut key);
        Ok(Self { directory: directory.context("can't make a directory for the store")?, secret: BASE64.encode(key) })
    }

    /// The file of the database.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("bench.db")
    }

    /// What tokens must be signed with.
    pub(super) fn jwt_secret(&self) -> &str {
        &self.secret
    }

    /// Starts `serve` on it. Further settings come from this process's own environment.
    pub(super) async fn serve(&self) -> anyhow::Result<Server> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("serve")
            .env("POSTRIDER_SERVER__LISTEN", "127.0.0.1:0")
            .env("POSTRIDER_STORE__URL", format!("sqlite://{}/bench.db", self.directory.path().display()))
            .env("POSTRIDER_AUTH__JWT_SECRET", &self.secret)
            .env("POSTRIDER_DELIVERY__ALLOW_SUBNETS", r#"["127.0.0.0/8"]"#)
            // No settings file of the directory in which the benchmark happens to run.
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        Server::start(command, self.directory.path()).await.context("the private server did not start")
    }
}

impl Server {
    /// Starts the relay to these receivers.
    pub(super) async fn relay(receivers: &[Address], logs: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "relay-server"]).stdin(Stdio::piped());
        for receiver in receivers {
            command.args(["--to", &receiver.url, "--secret", &receiver.secret]);
        }
        Self::start(command, logs).await.context("the relay did not start")
    }

    async fn start(mut command: Command, logs: &Path) -> anyhow::Result<Self> {
        let log = logs.join(format!("{}.log", BASE64.encode(random_name())));
        command.stdout(Stdio::piped()).stderr(std::fs::File::create(&log)?).kill_on_drop(true);
        let mut child = command.spawn()?;
        let pid = child.id().context("it ended at once")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let first = tokio::time::timeout(START_DEADLINE, lines.next_line()).await;
        let address = match first {
            Ok(Ok(Some(line))) => listening(&line).with_context(|| format!("it said: {line}"))?,
            Ok(_) => bail!("it ended: {}", tail(&log)),
            Err(_) => bail!("it does not listen after {} s: {}", START_DEADLINE.as_secs(), tail(&log)),
        };
        // Whatever else it says must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let stdin = child.stdin.take();
        Ok(Self { address, pid, child, log, _stdin: stdin })
    }

    /// Tells it to stop, and waits until it has. Anything but exit code 0 is an error.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).context("no process id")?;
        if self.child.try_wait()?.is_none() {
            kill_process(pid, Signal::TERM).context("can't tell the server to stop")?;
        }
        let status = tokio::time::timeout(STOP_DEADLINE, self.child.wait())
            .await
            .with_context(|| format!("the server does not stop within {} s of SIGTERM", STOP_DEADLINE.as_secs()))??;
        if !status.success() {
            bail!("the server ended with {status}: {}", tail(&self.log));
        }
        Ok(())
    }
}

fn random_name() -> [u8; 6] {
    let mut name = [0u8; 6];
    OsEntropy.fill(&mut name);
    name
}

fn listening(line: &str) -> Option<SocketAddr> {
    let rest = &line[line.find(LISTENING)? + LISTENING.len()..];
    rest.split_whitespace().next()?.trim_end_matches('/').parse().ok()
}

/// The end of what a server wrote to its standard error.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.trim().lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_the_line() {
        let address: SocketAddr = "127.0.0.1:8071".parse().unwrap();
        for line in ["listening on http://127.0.0.1:8071", "postrider 0.1.0 listening on http://127.0.0.1:8071/ (dev)"]
        {
            assert_eq!(listening(line), Some(address), "{line}");
        }
        assert_eq!(listening("error: the port is in use"), None);
    }
}
