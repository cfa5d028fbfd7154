//! The benchmark's stopwatch: microseconds since the first look at it, in this process.
//!
//! Load and receivers run in one process, so that one clock measures a message from its sending to its arrival.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Microseconds since the stopwatch was first looked at; never 0, so that 0 can mean "not yet".
#[expect(clippy::disallowed_methods, reason = "this measures; nothing is decided by it")]
pub(super) fn micros() -> u64 {
    static ANCHOR: OnceLock<Instant> = OnceLock::new();
    ANCHOR.get_or_init(Instant::now).elapsed().as_micros() as u64 + 1
}

/// `duration` in the stopwatch's unit.
pub(super) fn span(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
