//! A judging process, seen from the server: started, asked, and lost.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::time::Instant;

use super::child::{Bounds, NOT_READY, OUT_OF_TIME};
use super::wire::{self, Answer, Question};

/// How many times the processor time that is allowed a question may take by the clock, on a machine that is busy.
const PATIENCE: u32 = 20;

/// The least time by the clock.
const LEAST: Duration = Duration::from_secs(5);

/// How a process is started.
#[derive(Debug, Clone)]
pub struct Program {
    path: OsString,
    arguments: Vec<OsString>,
}

impl Program {
    /// The program that is running, called with these arguments, to which those that say the limits are added.
    pub fn this(arguments: &[&str]) -> std::io::Result<Self> {
        // Also when the file was replaced since: an upgrade must not change who judges.
        let running = Path::new("/proc/self/exe");
        let path = if running.exists() { running.into() } else { std::env::current_exe()?.into() };
        Ok(Self { path, arguments: arguments.iter().map(OsString::from).collect() })
    }

    /// The shell, with a script.
    #[cfg(test)]
    pub(super) fn shell(script: &str) -> Self {
        Self { path: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] }
    }
}

/// The signals that a process gets for what it does itself: it had no more memory or no more stack, or the library has a
/// bug. All others come from outside.
const OWN_SIGNALS: [Signal; 6] = [Signal::ABORT, Signal::SEGV, Signal::BUS, Signal::ILL, Signal::FPE, Signal::TRAP];

/// How often it is logged at most that there are no processes.
const LOG_PAUSE: Duration = Duration::from_secs(60);

/// When that was logged last, and how often it was not since.
static LOGGED: Mutex<(Option<Instant>, u64)> = Mutex::new((None, 0));

/// There is no answer.
pub(super) enum Failure {
    /// The limits were reached, by what was asked.
    TooCostly,
    /// The host has no process to spare, whatever is asked.
    Unavailable,
}

/// Why a process is gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It took more processor time than it may.
    ByTime,
    /// It had no more memory, or no more stack, or the library has a bug.
    Otherwise,
    /// It had said all that it was asked before, and taken much memory for it.
    InOrder,
    /// The system did not let it begin, ended it because memory is short, or gave it no time: which says nothing about what
    /// it was asked.
    ByTheHost,
}

/// Notes that the host has no process to spare: in the log once in a while, however many messages wait for one.
pub(super) fn unavailable(reason: &str) -> Failure {
    let mut logged = LOGGED.lock();
    if logged.0.is_none_or(|last| last.elapsed() >= LOG_PAUSE) {
        let unlogged = std::mem::take(&mut logged.1);
        logged.0 = Some(Instant::now());
        drop(logged);
        tracing::warn!(reason, unlogged, "there is no process that compares payloads with schemas");
    } else {
        logged.1 += 1;
    }
    Failure::Unavailable
}

/// A process that waits for questions. It is killed when this is dropped.
pub(super) struct Child {
    process: tokio::process::Child,
    input: ChildStdin,
    output: ChildStdout,
    /// The processor time that it took for the last question, as far as it has said that: all of it, if its answer is complete.
    pub(super) spent: Duration,
}

impl Child {
    /// Starts one.
    pub(super) fn start(program: &Program, bounds: Bounds) -> Result<Self, Failure> {
        let mut command = Command::new(&program.path);
        command.args(&program.arguments).args(bounds.as_arguments());
        // It has no business with what the server was told, nor with the signals of its terminal.
        command.env_clear().kill_on_drop(true).process_group(0);
        // In KiB: the allocator would take a gigabyte of address space to begin with.
        command.env("MIMALLOC_ARENA_RESERVE", "16384");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().map_err(|error| unavailable(&format!("it can't be started: {error}")))?;
        let pipes = (process.stdin.take(), process.stdout.take());
        let (Some(input), Some(output)) = pipes else { return Err(unavailable("it has no pipes")) };
        Ok(Self { process, input, output, spent: Duration::ZERO })
    }

    /// Asks it. The flag says whether the answer is complete; if not, the process is gone.
    pub(super) async fn ask(&mut self, question: &Question<'_>, bounds: Bounds) -> Result<(Answer, bool), Ended> {
        let patience = bounds.longest().saturating_mul(PATIENCE).max(LEAST);
        let answered = tokio::time::timeout(patience, self.first_part(question)).await;
        let answer = match answered {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err(self.ended().await),
            // By the processor's time it ends itself, long before this.
            Err(_) => return Err(Ended::ByTheHost),
        };
        if !matches!(answer, Answer::Differs(_)) {
            return Ok((answer, true));
        }
        match tokio::time::timeout(patience, self.details()).await {
            Ok(Some(violations)) => Ok((Answer::Differs(violations), true)),
            _ => Ok((answer, false)),
        }
    }

    async fn first_part(&mut self, question: &Question<'_>) -> Option<Answer> {
        self.input.write_all(&question.head().ok()?).await.ok()?;
        self.input.write_all(question.schema).await.ok()?;
        self.input.write_all(question.payload).await.ok()?;
        self.input.flush().await.ok()?;
        let (kind, text) = self.part().await?;
        wire::first_part(kind, text)
    }

    async fn details(&mut self) -> Option<Vec<crate::submission::Violation>> {
        let (kind, text) = self.part().await?;
        wire::details(kind, &text)
    }

    async fn part(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; wire::ANSWER_HEAD];
        self.output.read_exact(&mut head).await.ok()?;
        let (kind, spent, length) = wire::part_head(head);
        self.spent = spent;
        let mut text = vec![0; (length <= wire::MAX_ANSWER).then_some(length)?];
        self.output.read_exact(&mut text).await.ok()?;
        Some((kind, text))
    }

    /// Why it said nothing more. What it was still doing is over.
    async fn ended(&mut self) -> Ended {
        match tokio::time::timeout(LEAST, self.process.wait()).await {
            Ok(Ok(status)) => why(status),
            _ => Ended::ByTheHost,
        }
    }
}

fn why(status: ExitStatus) -> Ended {
    let own = |signal: i32| OWN_SIGNALS.iter().any(|own| own.as_raw() == signal);
    match (status.code(), status.signal()) {
        (Some(0), _) => Ended::InOrder,
        (Some(OUT_OF_TIME), _) => Ended::ByTime,
        (Some(NOT_READY), _) => Ended::ByTheHost,
        (None, Some(signal)) if !own(signal) => Ended::ByTheHost,
        _ => Ended::Otherwise,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_does_to_a_process_is_not_the_cost_of_a_payload() {
        let ended = |signal: Signal| why(ExitStatus::from_raw(signal.as_raw()));
        for host in [Signal::KILL, Signal::TERM, Signal::HUP, Signal::XCPU] {
            assert_eq!(ended(host), Ended::ByTheHost, "{host:?}");
        }
        for own in OWN_SIGNALS {
            assert_eq!(ended(own), Ended::Otherwise, "{own:?}");
        }
        let exited = |code: i32| why(ExitStatus::from_raw(code << 8));
        assert_eq!((exited(OUT_OF_TIME), exited(NOT_READY)), (Ended::ByTime, Ended::ByTheHost));
        assert_eq!((exited(0), exited(101)), (Ended::InOrder, Ended::Otherwise));
    }

    #[test]
    fn a_host_without_processes_is_logged_once_in_a_while() {
        let lines = || LOGGED.lock().1;
        unavailable("a test");
        let before = lines();
        for _ in 0..1_000 {
            unavailable("a test");
        }
        assert_eq!(lines() - before, 1_000, "none of them was written");
    }
}
