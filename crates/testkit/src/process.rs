//! Running the program under test: with an environment that holds nothing of the tester's, and to its end if asked.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::timeout;

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
/// If it cannot be started, or has not ended by the deadline; then with what it had printed.
pub async fn run(program: impl AsRef<Path>, arguments: &[&str], settings: &[(&str, &str)], folder: &Path) -> Finished {
    run_within(wait::DEADLINE, program, arguments, settings, folder).await
}

/// As [`run`], with another deadline.
///
/// # Panics
/// As [`run`] does.
pub async fn run_within(
    deadline: Duration,
    program: impl AsRef<Path>,
    arguments: &[&str],
    settings: &[(&str, &str)],
    folder: &Path,
) -> Finished {
    let program = program.as_ref();
    let mut command = command(program, folder);
    command.args(arguments).envs(settings.iter().copied());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program:?} cannot be started: {error}"));
    let stdout = Output::of(child.stdout.take());
    let stderr = Output::of(child.stderr.take());
    let Ok(status) = timeout(deadline, child.wait()).await else {
        panic!("{program:?} {arguments:?} did not end\n{}\n{}", stdout.so_far(), stderr.so_far());
    };
    let status = status.expect("a child process can be waited for");
    Finished { status, stdout: stdout.all().await, stderr: stderr.all().await }
}

/// What comes out of a pipe.
struct Output {
    bytes: Arc<Mutex<Vec<u8>>>,
    reading: JoinHandle<()>,
}

impl Output {
    fn of(pipe: Option<impl AsyncRead + Unpin + Send + 'static>) -> Self {
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let into = Arc::clone(&bytes);
        let reading = tokio::spawn(async move {
            let mut pipe = pipe.expect("the output of the command is a pipe");
            let mut chunk = Vec::new();
            while pipe.read_buf(&mut chunk).await.is_ok_and(|read| read > 0) {
                into.lock().append(&mut chunk);
            }
        });
        Self { bytes, reading }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock()).into_owned()
    }

    async fn all(mut self) -> String {
        wait::within("the end of the output", &mut self.reading).await.expect("reading does not panic");
        self.so_far()
    }
}
