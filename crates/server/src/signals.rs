//! The signals that a server knows.
//!
//! * TERM, INT, HUP and PWR end it in order. (There is nothing that could be read again while it runs: settings take effect
//!   at a start.) A HUP that whoever started it chose to ignore, as `nohup` does, stays ignored.
//! * A second TERM or INT ends it at once, but not within the first second: some supervisors send two.
//! * USR1, USR2, ALRM, VTALRM, PROF, IO, STKFLT and those for real time do nothing; by default each would end it without a
//!   word. So would XFSZ, when a file may not grow further: the write fails instead, as on a full disk.

use std::time::Duration;

use anyhow::Context as _;
use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind, signal};

/// For how long after the first signal another one means nothing.
const GRACE: Duration = Duration::from_secs(1);

/// What does nothing.
const IGNORED: [Signal; 8] = [
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::VTALARM,
    Signal::PROF,
    Signal::IO,
    Signal::STKFLT,
    Signal::XFSZ,
];

/// Signals for real time, which mean nothing here; the C library keeps the first two for itself.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// The signals that end the server.
pub(crate) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    /// What ends it in order, but never at once.
    others: Vec<unix::Signal>,
}

impl Signals {
    /// From now on no signal ends the process by itself, but KILL, QUIT and those of a crash.
    pub(crate) fn install() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("cannot handle signals");
        for ignored in IGNORED {
            // What is installed stays, also when the stream is dropped.
            drop(on(SignalKind::from_raw(ignored.as_raw()))?);
        }
        for real_time in REAL_TIME {
            // Not every system has all of them.
            drop(on(SignalKind::from_raw(real_time)));
        }
        let others = [Signal::HUP, Signal::POWER].into_iter().filter(|other| !is_ignored(*other));
        let others = others.map(|other| on(SignalKind::from_raw(other.as_raw()))).collect::<anyhow::Result<_>>()?;
        Ok(Self { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())?, others })
    }

    /// Waits until the server is asked to end.
    pub(crate) async fn first(&mut self) {
        let others = std::future::poll_fn(|context| {
            let come = self.others.iter_mut().any(|other| other.poll_recv(context).is_ready());
            if come { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        });
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = others => {}
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
