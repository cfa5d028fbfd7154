//! The signals that a server knows: [`MEANINGS`] has every one of them.
//!
//! There is nothing that could be read again while it runs (settings take effect at a start), so whatever asks it to do
//! something else than to go on ends it in order.

use std::time::Duration;

use anyhow::Context as _;
use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind, signal};

/// For how long after the first signal another one means nothing: some supervisors send two.
const GRACE: Duration = Duration::from_secs(1);

/// What a signal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// Ends the server in order; once more, after [`GRACE`], at once.
    Stop,
    /// Ends it in order, but never at once. One that whoever started it chose to ignore, as `nohup` does, stays ignored.
    StopInOrder,
    /// Nothing. By default it would end the process without a word, or (`XFSZ`) instead of a write that fails.
    Nothing,
    /// What the system makes of it: those that nobody can handle, job control, what does nothing anyway, and those of a
    /// crash, after which nothing in this process can be trusted.
    System,
}

/// What each signal means that is not for real time.
const MEANINGS: [(Signal, Meaning); 31] = [
    (Signal::HUP, Meaning::StopInOrder),
    (Signal::INT, Meaning::Stop),
    (Signal::QUIT, Meaning::Stop),
    (Signal::ILL, Meaning::System),
    (Signal::TRAP, Meaning::Nothing),
    (Signal::ABORT, Meaning::System),
    (Signal::BUS, Meaning::System),
    (Signal::FPE, Meaning::System),
    (Signal::KILL, Meaning::System),
    (Signal::USR1, Meaning::Nothing),
    (Signal::SEGV, Meaning::System),
    (Signal::USR2, Meaning::Nothing),
    (Signal::PIPE, Meaning::System),
    (Signal::ALARM, Meaning::Nothing),
    (Signal::TERM, Meaning::Stop),
    (Signal::STKFLT, Meaning::Nothing),
    (Signal::CHILD, Meaning::System),
    (Signal::CONT, Meaning::System),
    (Signal::STOP, Meaning::System),
    (Signal::TSTP, Meaning::System),
    (Signal::TTIN, Meaning::System),
    (Signal::TTOU, Meaning::System),
    (Signal::URG, Meaning::System),
    // More than it may use of the processor: the system says so each second, and kills it at the harder limit.
    (Signal::XCPU, Meaning::StopInOrder),
    (Signal::XFSZ, Meaning::Nothing),
    (Signal::VTALARM, Meaning::Nothing),
    (Signal::PROF, Meaning::Nothing),
    (Signal::WINCH, Meaning::System),
    (Signal::IO, Meaning::Nothing),
    (Signal::POWER, Meaning::StopInOrder),
    (Signal::SYS, Meaning::System),
];

/// Signals for real time, which mean nothing here; the C library keeps the first two for itself.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// The signals that end the server.
pub(crate) struct Signals {
    stop: Vec<unix::Signal>,
    /// What ends it in order, but never at once.
    in_order: Vec<unix::Signal>,
}

impl Signals {
    /// From now on signals mean what [`MEANINGS`] says.
    pub(crate) fn install() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("cannot handle signals");
        let mut signals = Self { stop: Vec::new(), in_order: Vec::new() };
        for (known, meaning) in MEANINGS {
            let kind = SignalKind::from_raw(known.as_raw());
            match meaning {
                Meaning::Stop => signals.stop.push(on(kind)?),
                Meaning::StopInOrder if is_ignored(known) => {}
                Meaning::StopInOrder => signals.in_order.push(on(kind)?),
                // What is installed stays, also when the stream is dropped.
                Meaning::Nothing => drop(on(kind)?),
                Meaning::System => {}
            }
        }
        for real_time in REAL_TIME {
            // Not every system has all of them.
            drop(on(SignalKind::from_raw(real_time)));
        }
        Ok(signals)
    }

    /// Waits until the server is asked to end.
    pub(crate) async fn first(&mut self) {
        let Self { stop, in_order } = self;
        tokio::select! {
            () = any(stop) => {}
            () = any(in_order) => {}
        }
    }

    /// To be awaited from the first signal on: waits until it is asked again.
    pub(crate) async fn again(&mut self) {
        let since = tokio::time::Instant::now();
        loop {
            any(&mut self.stop).await;
            if since.elapsed() >= GRACE {
                return;
            }
        }
    }
}

/// Waits for one of several signals.
async fn any(signals: &mut [unix::Signal]) {
    std::future::poll_fn(|context| {
        let come = signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
        if come { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// Whether this process was started with the signal ignored.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal.as_raw() - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_one_meaning() {
        let numbers: Vec<i32> = MEANINGS.iter().map(|(signal, _)| signal.as_raw()).collect();
        assert_eq!(numbers, (1..=31).collect::<Vec<i32>>());
    }
}
