//! The signals that a server knows.
//!
//! * TERM, INT and HUP end it in order. (There is nothing that could be read again while it runs: settings take effect at
//!   a start.) A HUP that whoever started it chose to ignore, as `nohup` does, stays ignored.
//! * A second TERM or INT ends it at once, but not within the first second: some supervisors send two.
//! * USR1, USR2, ALRM, VTALRM, PROF and IO do nothing; by default each would end it without a word.

use std::time::Duration;

use anyhow::Context as _;
use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind, signal};

/// For how long after the first signal another one means nothing.
const GRACE: Duration = Duration::from_secs(1);

/// What does nothing.
const IGNORED: [Signal; 6] = [Signal::USR1, Signal::USR2, Signal::ALARM, Signal::VTALARM, Signal::PROF, Signal::IO];

/// The signals that end the server.
pub(crate) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hang_up: Option<unix::Signal>,
}

impl Signals {
    /// From now on no signal ends the process by itself, but KILL, QUIT and those of a crash.
    pub(crate) fn install() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("cannot handle signals");
        for ignored in IGNORED {
            // What is installed stays, also when the stream is dropped.
            drop(on(SignalKind::from_raw(ignored.as_raw()))?);
        }
        let hang_up = if is_ignored(Signal::HUP) { None } else { Some(on(SignalKind::hangup())?) };
        Ok(Self { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())?, hang_up })
    }

    /// Waits until the server is asked to end.
    pub(crate) async fn first(&mut self) {
        let hang_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hang_up => {}
        }
    }

    /// To be awaited from the first signal on: waits until it is asked again.
    pub(crate) async fn again(&mut self) {
        let since = tokio::time::Instant::now();
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            if since.elapsed() >= GRACE {
                return;
            }
        }
    }
}

/// Whether this process was started with the signal ignored.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal.as_raw() - 1) & 1 == 1
}
