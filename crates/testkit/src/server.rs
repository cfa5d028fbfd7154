//! A server in a process of its own: started on a free port and a store of its own, killed, terminated, started again.
//!
//! Settings are given as environment variables, as an operator would. What it printed is shown if the test fails.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::Child;
use tokio::sync::watch;

use crate::client::{App, Client};
use crate::{process, random, token, wait};

/// What the line says in which a server tells its address.
const LISTENING: &str = "listening on http://";

/// The secret with which every test signs its tokens. A test's environment is random, so tests do not meet.
const JWT_SECRET: &str = "a secret that only the tests know";

/// Where the standard error of a server goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Stderr {
    /// Into what [`TestServer::log`] shows.
    #[default]
    Collected,
    /// A pipe whose reader has gone.
    ClosedPipe,
    /// A pipe that nobody reads.
    UnreadPipe,
    /// A file, which is made if need be; `/dev/full` for a disk without room.
    File(PathBuf),
}

/// How to start a server.
#[derive(Debug, Clone)]
pub struct TestServerBuilder {
    program: PathBuf,
    variables: BTreeMap<String, String>,
    store_folder: Option<PathBuf>,
    survives_file_size_limit: bool,
    stderr: Stderr,
}

/// A running server, or one that was stopped and can be started again on the same store.
#[derive(Debug)]
pub struct TestServer {
    how: TestServerBuilder,
    folder: TempDir,
    child: Option<Child>,
    address: watch::Sender<SocketAddr>,
    log: Log,
    org: String,
    /// The end of its standard error that nobody reads.
    unread: Option<std::io::PipeReader>,
}

/// The lines that a server printed, from all of its starts.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl TestServerBuilder {
    /// Sets `section.name`, as the environment would.
    #[must_use]
    pub fn set(mut self, setting: &str, value: impl Into<String>) -> Self {
        let (section, name) = setting.split_once('.').expect("a setting is named section.name");
        self.variables.insert(format!("POSTRIDER_{}__{}", section.to_uppercase(), name.to_uppercase()), value.into());
        self
    }

    /// Sets an environment variable that is no setting.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// Sends what it writes to standard error elsewhere.
    #[must_use]
    pub fn stderr(mut self, stderr: Stderr) -> Self {
        self.stderr = stderr;
        self
    }

    /// Puts the store into this folder instead of one that is removed with the server.
    #[must_use]
    pub fn store_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.store_folder = Some(folder.into());
        self
    }

    /// Lets a write beyond [`TestServer::limit_file_size`] fail with an error. By default the kernel ends the process.
    #[must_use]
    pub fn survives_file_size_limit(mut self) -> Self {
        self.survives_file_size_limit = true;
        self
    }

    /// Starts the server and waits until it listens.
    ///
    /// # Panics
    /// With what it printed, if it ends before it listens.
    pub async fn start(self) -> TestServer {
        let folder = TempDir::with_prefix("postrider-test-").expect("a temporary folder can be made");
        let address = watch::Sender::new(SocketAddr::from(([127, 0, 0, 1], 0)));
        let org = format!("org_{}", random::name());
        let mut server = TestServer { how: self, folder, child: None, address, log: Log::default(), org, unread: None };
        server.start().await;
        server
    }
}

impl TestServer {
    /// How a server for tests is started: loopback only, where everything may be delivered to, and quick retries.
    pub fn builder(program: impl Into<PathBuf>) -> TestServerBuilder {
        let builder = TestServerBuilder {
            program: program.into(),
            variables: BTreeMap::new(),
            store_folder: None,
            survives_file_size_limit: false,
            stderr: Stderr::default(),
        };
        builder
            .set("server.listen", "127.0.0.1:0")
            .set("auth.jwt_secret", JWT_SECRET)
            .set("delivery.allow_subnets", r#"["127.0.0.0/8"]"#)
            .set("delivery.retry_schedule", r#"["10ms","10ms","10ms"]"#)
    }

    /// Starts the server again, after it was killed or terminated, on the same store. It gets another port; clients
    /// that it made follow.
    ///
    /// # Panics
    /// If it runs, or ends before it listens.
    pub async fn start(&mut self) {
        assert!(self.try_start().await, "the server ended before it listened{}", self.log);
    }

    /// As [`TestServer::start`], of a server that may end before it listens; whether it listens.
    ///
    /// # Panics
    /// If it runs.
    pub async fn try_start(&mut self) -> bool {
        let stdout = self.spawn();
        let address = stdout.listening_address(&self.log).await;
        address.is_some_and(|address| {
            self.address.send_replace(address);
            true
        })
    }

    /// Starts the process without waiting until it listens, for tests that kill it while it starts.
    ///
    /// # Panics
    /// If it runs, or cannot be started.
    pub fn start_unwatched(&mut self) {
        let stdout = self.spawn();
        let log = self.log.clone();
        tokio::spawn(async move { stdout.listening_address(&log).await });
    }

    fn spawn(&mut self) -> Stdout {
        assert!(self.child.is_none(), "the server runs");
        let mut command = if self.how.survives_file_size_limit {
            // A signal that is ignored stays ignored in the program that replaces the shell.
            let mut command = process::command(Path::new("sh"), self.folder.path());
            command.args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#]).arg(&self.how.program);
            command
        } else {
            process::command(&self.how.program, self.folder.path())
        };
        command.arg("serve").env("POSTRIDER_STORE__URL", self.store_url()).envs(&self.how.variables);
        if let Some(stderr) = self.stderr() {
            command.stderr(stderr);
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", self.how.program));
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(collect(stderr, self.log.clone()));
        }
        let stdout = child.stdout.take().expect("standard output is a pipe");
        self.child = Some(child);
        Stdout(BufReader::new(stdout))
    }

    /// Where standard error goes, if it is not collected.
    fn stderr(&mut self) -> Option<Stdio> {
        let pipe = || std::io::pipe().expect("a pipe can be made");
        match &self.how.stderr {
            Stderr::Collected => None,
            Stderr::ClosedPipe => Some(pipe().1.into()),
            Stderr::UnreadPipe => {
                let (reader, writer) = pipe();
                self.unread = Some(reader);
                Some(writer.into())
            }
            Stderr::File(path) => {
                let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
                Some(file.expect("the file for standard error can be opened").into())
            }
        }
    }

    /// The path of the store's file.
    pub fn store_path(&self) -> PathBuf {
        self.how.store_folder.as_deref().unwrap_or(self.folder.path()).join("postrider.db")
    }

    fn store_url(&self) -> String {
        format!("sqlite://{}", self.store_path().display())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        *self.address.borrow()
    }

    /// Its URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The environment of this test.
    pub fn org(&self) -> &str {
        &self.org
    }

    /// A token for the environment of this test.
    pub fn token(&self) -> String {
        token::sign(&token::environment_claims(&self.org), JWT_SECRET)
    }

    /// A token for one application.
    pub fn application_token(&self, application: &str) -> String {
        token::sign(&token::application_claims(&self.org, application), JWT_SECRET)
    }

    /// Any token that the server's secret signs.
    pub fn sign(&self, claims: &serde_json::Value) -> String {
        token::sign(claims, JWT_SECRET)
    }

    /// A client with the token of this test's environment.
    pub fn client(&self) -> Client {
        Client::new(self.address.subscribe(), Some(self.token()))
    }

    /// A client with another token, or none.
    pub fn client_with(&self, token: Option<String>) -> Client {
        Client::new(self.address.subscribe(), token)
    }

    /// A new application.
    pub async fn app(&self) -> App {
        App::create(self.client()).await
    }

    /// Kills the process, so that it can finish nothing.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    /// Asks the process to end, and waits until it has.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// Waits for the end of the process.
    ///
    /// # Panics
    /// If it does not run, or does not end.
    pub async fn ended(&mut self) -> ExitStatus {
        // Whoever stops waiting leaves it as it is.
        let child = self.child.as_mut().expect("the server runs");
        let status = wait::within("the end of the server", child.wait()).await;
        self.child = None;
        status.expect("a child process can be waited for")
    }

    /// How the process ended, if it has.
    ///
    /// # Panics
    /// If it was not started.
    pub fn try_ended(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_mut().expect("the server was started");
        let status = child.try_wait().expect("a child process can be waited for")?;
        self.child = None;
        Some(status)
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If the process does not run.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a child process can be signalled");
    }

    /// Makes writes fail that would make a file larger than this; `None` lifts the limit.
    pub fn limit_file_size(&self, bytes: Option<u64>) {
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(self.pid()), Resource::Fsize, limit).expect("a child process can be limited");
    }

    /// Leaves the process no file descriptor beyond this many; `None` lifts the limit.
    pub fn limit_open_files(&self, count: Option<u64>) {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.pid().as_raw_nonzero()));
        let limits = limits.expect("the process runs");
        let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("there is a limit");
        // The hard limit, which not everybody may raise, stays.
        let most = line.split_whitespace().nth(4).and_then(|text| text.parse::<u64>().ok());
        let limit = Rlimit { current: count.or(most), maximum: most };
        prlimit(Some(self.pid()), Resource::Nofile, limit).expect("a child process can be limited");
    }

    /// The memory that the process has in use, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most memory that the process had in use until now, in bytes.
    pub fn peak_memory_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// The most memory that the process may have in use by its own account of its settings (`postrider config check`), in
    /// bytes.
    ///
    /// # Panics
    /// If it does not say.
    pub async fn stated_memory_bytes(&self) -> u64 {
        let mut command = process::command(&self.how.program, self.folder.path());
        command
            .args(["config", "check", "--memory"])
            .env("POSTRIDER_STORE__URL", self.store_url())
            .envs(&self.how.variables);
        let output = wait::within("what the settings say of memory", command.output()).await;
        let text = String::from_utf8(output.expect("the program can be run").stdout).expect("it prints text");
        let line = text.lines().find_map(|line| line.split_once(" MiB  in the server's own process, at most"));
        let mib = line.and_then(|(mib, _)| mib.trim().parse::<f64>().ok());
        (mib.unwrap_or_else(|| panic!("there is no sum: {text}")) * 1024.0 * 1024.0) as u64
    }

    fn status_bytes(&self, member: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let status = std::fs::read_to_string(path).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix(member)).expect("a process has memory");
        let kib = line.trim().trim_end_matches(" kB").parse::<u64>().expect("memory is a number");
        kib * 1024
    }

    /// The processes that it has started and that have not ended.
    pub fn children(&self) -> Vec<Pid> {
        let parent = self.pid();
        let processes = std::fs::read_dir("/proc").expect("the system lists its processes");
        let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let is_child = |number: &i32| {
            // One may end while it is looked at. What comes before the state is its name in parentheses.
            let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
            let mut parts = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
            let (state, of) = (parts.next(), parts.next());
            state != Some("Z") && of == Some(&*parent.as_raw_nonzero().to_string())
        };
        numbers.filter(is_child).filter_map(Pid::from_raw).collect()
    }

    /// The folder that goes away with this value: where the process runs, and its store is by default.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The first line that says this, once the process has printed it: what it prints comes through a pipe, and so it
    /// may be read after an answer that was sent later.
    pub async fn logged(&self, what: &str) -> String {
        wait::until(&format!("the log to say {what:?}"), async || {
            self.log().lines().find(|line| line.contains(what)).map(ToOwned::to_owned)
        })
        .await
    }

    /// What the process printed until now, as far as it was read: for texts of failures, and to count what was waited
    /// for.
    pub fn log(&self) -> String {
        self.log.to_string()
    }

    fn pid(&self) -> Pid {
        let id = self.child.as_ref().and_then(Child::id).expect("the server runs");
        Pid::from_raw(id.cast_signed()).expect("no process has the number 0")
    }
}

impl Drop for TestServer {
    #[expect(clippy::print_stderr, reason = "a test that fails shows what its server said")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log);
        }
    }
}

/// The standard output of a process that has just started.
struct Stdout(BufReader<tokio::process::ChildStdout>);

impl Stdout {
    /// The address in the first line that tells one; `None` if the process ended before. What follows goes to the log.
    async fn listening_address(self, log: &Log) -> Option<SocketAddr> {
        let mut lines = self.0.lines();
        let address = loop {
            let next = wait::within("the server's address", lines.next_line()).await;
            let line = next.ok().flatten()?;
            let address = line.split_once(LISTENING).and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
            log.push(line);
            if address.is_some() {
                break address;
            }
        };
        tokio::spawn(collect(lines.into_inner(), log.clone()));
        address
    }
}

async fn collect(pipe: impl AsyncRead + Unpin, log: Log) {
    let mut lines = BufReader::new(pipe).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log.push(line);
    }
}

impl Log {
    fn push(&self, line: String) {
        self.0.lock().push(line);
    }
}

impl std::fmt::Display for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("\n--- what the server printed ---\n")?;
        self.0.lock().iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
