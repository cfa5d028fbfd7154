//! A judging process, seen from the server: started, asked, and lost.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStdin, ChildStdout, Command};

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
}

/// There is no answer.
pub(super) enum Failure {
    /// The limits were reached.
    TooCostly,
    /// No process could be started.
    Unavailable,
}

/// Why a process is gone.
pub(super) enum Ended {
    /// It took too long.
    ByTime,
    /// It had no more memory, no more stack, or was asked too much before.
    Otherwise,
    /// The system did not let it begin, which says nothing about what it was asked.
    NotReady,
}

/// A process that waits for questions. It is killed when this is dropped.
pub(super) struct Child {
    process: tokio::process::Child,
    input: ChildStdin,
    output: ChildStdout,
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
        let unavailable = |error: Option<std::io::Error>| {
            tracing::warn!(
                error = error.map(|error| error.to_string()),
                "failed to start a process that compares payloads with schemas"
            );
            Failure::Unavailable
        };
        let mut process = command.spawn().map_err(|error| unavailable(Some(error)))?;
        let pipes = (process.stdin.take(), process.stdout.take());
        let (Some(input), Some(output)) = pipes else { return Err(unavailable(None)) };
        Ok(Self { process, input, output })
    }

    /// Asks it. The flag says whether the answer is complete; if not, the process is gone.
    pub(super) async fn ask(&mut self, question: &Question<'_>, bounds: Bounds) -> Result<(Answer, bool), Ended> {
        let patience = bounds.longest().saturating_mul(PATIENCE).max(LEAST);
        let answered = tokio::time::timeout(patience, self.first_part(question)).await;
        let answer = match answered {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err(self.ended().await),
            Err(_) => return Err(Ended::ByTime),
        };
        if question.kind != wire::COMPARE || !matches!(answer, Answer::Differs(_)) {
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
        let (kind, length) = wire::part_head(head);
        let mut text = vec![0; (length <= wire::MAX_ANSWER).then_some(length)?];
        self.output.read_exact(&mut text).await.ok()?;
        Some((kind, text))
    }

    /// Why it said nothing more. What it was still doing is over.
    async fn ended(&mut self) -> Ended {
        match tokio::time::timeout(LEAST, self.process.wait()).await {
            Ok(Ok(status)) if status.code() == Some(OUT_OF_TIME) => Ended::ByTime,
            Ok(Ok(status)) if status.code() == Some(NOT_READY) => Ended::NotReady,
            _ => Ended::Otherwise,
        }
    }
}
