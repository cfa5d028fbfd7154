//! What people see while it runs, on standard error: one line that is overwritten on a terminal, else a line now and then.

use std::io::Write as _;

use parking_lot::Mutex;

use super::clock::micros;
use super::phase::Phase;
use super::tally::Counts;
use crate::terminal;

/// Without a terminal: a line every so many microseconds.
const SPARSE: u64 = 10_000_000;

/// Shows what is going on.
pub(super) struct Progress {
    terminal: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    label: String,
    last: u64,
    open_line: bool,
}

impl Progress {
    /// On standard error.
    pub(super) fn new() -> Self {
        Self { terminal: terminal::stderr_is_terminal(), state: Mutex::default() }
    }

    /// What goes on from now on.
    pub(super) fn begin(&self, label: impl Into<String>) {
        let mut state = self.state.lock();
        state.label = label.into();
        state.last = micros();
        let text = format!("{} …", state.label);
        self.write(&mut state, &text);
    }

    /// The counts of a phase that began at `began`.
    pub(super) fn show(&self, phase: &Phase, counts: Counts, began: u64) {
        let mut state = self.state.lock();
        let now = micros();
        if !self.terminal && now - state.last < SPARSE {
            return;
        }
        state.last = now;
        let seconds = (now.saturating_sub(began)) as f64 / 1e6;
        let rate = |count: u64| (count as f64 / seconds.max(0.001)) as u64;
        let mut text =
            format!("{} {seconds:.0} s: accepted {} ({}/s)", state.label, counts.accepted, rate(counts.accepted));
        if phase.endpoints > 0 {
            text += &format!(", received {} ({}/s)", counts.received, rate(counts.received));
        }
        if counts.failed > 0 {
            text += &format!(", {}", terminal::paint(terminal::BAD, format!("failed {}", counts.failed)));
        }
        self.write(&mut state, &text);
    }

    /// Nothing more to show: gives the line back.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        if self.terminal && state.open_line {
            let _ = write!(terminal::stderr(), "\r\x1b[K");
            state.open_line = false;
        }
    }

    fn write(&self, state: &mut State, text: &str) {
        // Progress that can't be written is no reason to stop measuring.
        let mut out = terminal::stderr();
        if self.terminal {
            let _ = write!(out, "\r\x1b[K{text}");
            let _ = out.flush();
            state.open_line = true;
        } else {
            let _ = writeln!(out, "{text}");
        }
    }
}
