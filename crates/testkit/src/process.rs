//! Running the program under test: with an environment that holds nothing of the tester's, and to its end if asked.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::process::Command;

use crate::wait;

/// What a process that ended left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// The lines of standard error that are not blank.
    pub fn error_lines(&self) -> Vec<&str> {
        self.stderr.lines().filter(|line| !line.trim().is_empty()).collect()
    }
}

/// A command in `folder`, without the tester's own settings in its environment.
pub(crate) fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir(folder).kill_on_drop(true);
    command.env("RUST_BACKTRACE", "1").env("HOME", folder);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a program to its end.
///
/// # Panics
/// If it cannot be started, or has not ended by the deadline.
pub async fn run(program: impl AsRef<Path>, arguments: &[&str], settings: &[(&str, &str)], folder: &Path) -> Finished {
    let program = program.as_ref();
    let mut command = command(program, folder);
    command.args(arguments).envs(settings.iter().copied());
    let output = wait::within(&format!("the end of {program:?} {arguments:?}"), command.output()).await;
    let output = output.unwrap_or_else(|error| panic!("{program:?} cannot be started: {error}"));
    Finished {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
