//! Each write of a recorded piece of work fails, one after the other: what is acked is there, and what failed can be done again.
//!
//! The disk says that it is broken, or full, or writes half; once, or for a while. By default each write fails in one of these
//! ways; with `POSTRIDER_DISK_FAULTS=all` in each of them.

use std::io::Write as _;
use std::path::Path;

use http::Method;
use postrider_testkit::load::list_messages;
use postrider_testkit::{App, Disk, Fault, FaultKind, Ledger, Plan, Receiver, Reply, TestServer, wait};
use serde_json::{Value, json};

use crate::world::insist;

/// The ways in which a write fails, and how many do.
const WAYS: [(FaultKind, u64); 5] = [
    (FaultKind::Broken, 1),
    (FaultKind::Full, 1),
    (FaultKind::Short, 2),
    (FaultKind::Broken, 20),
    (FaultKind::Full, 20),
];

/// Runs until the fault happens: a run may have fewer writes than the one in which they were counted, and its last one fails then.
const TRIES: usize = 5;

/// Servers that do the work at the same time.
const BENCHES: usize = 6;

/// A server on a disk, and what its store was before the work.
struct Bench {
    disk: Disk,
    server: TestServer,
    app: App,
    receiver: Receiver,
    ledger: Ledger,
    before: tempfile::TempDir,
}

/// What was acked of the work.
struct Done {
    messages: Vec<String>,
    /// The one whose payload was removed.
    removed: String,
    /// What an endpoint's description was changed to.
    description: String,
}

impl Bench {
    async fn new() -> Self {
        let disk = Disk::new();
        let server = TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
            // Retries wait for nothing that takes long, and are not used up while the disk fails.
            .set("delivery.retry_schedule", r#"["10ms","10ms","10ms","1s","1s"]"#);
        let mut server = disk.under(server).start().await;
        let (app, ledger) = (server.app().await, Ledger::new());
        let noted = ledger.clone();
        let answer = move |request: &_| {
            noted.note(request);
            Reply::ok()
        };
        let receiver = Receiver::builder(answer).forgetful().start().await;
        app.endpoint_with(json!({ "url": receiver.at("hook"), "uid": "endpoint" })).await;
        assert!(server.terminate().await.success());
        let before = tempfile::tempdir().expect("a temporary folder can be made");
        copy_files(&disk.store(), before.path());
        Self { disk, server, app, receiver, ledger, before }
    }

    /// The work, until all of it is acked.
    async fn work(app: &App, receiver: &Receiver) -> Done {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let mut messages = Vec::new();
        for number in 0..3 {
            let message = json!({ "eventType": "a", "payload": { "number": number } });
            messages.push(text(&insist(app, Method::POST, "/msg", &message).await.json()["id"]));
        }
        let batch =
            |number| json!({ "eventType": "b", "payload": { "number": number }, "channels": ["c"], "tags": ["d"] });
        let batch = insist(app, Method::POST, "/msg/batch", &json!([batch(3), batch(4), batch(5)])).await.json();
        let results = batch["data"].as_array().expect("results");
        messages.extend(results.iter().filter_map(|result| Some(result["id"].as_str()?.to_owned())));
        let description = "changed".to_owned();
        insist(app, Method::PATCH, "/endpoint/endpoint", &json!({ "description": description })).await;
        insist(app, Method::POST, "/endpoint", &json!({ "url": receiver.at("other"), "uid": "other" })).await;
        let removed = messages[0].clone();
        insist(app, Method::DELETE, &format!("/msg/{removed}/content"), &Value::Null).await;
        insist(app, Method::POST, &format!("/msg/{}/endpoint/other/resend", messages[1]), &json!({})).await;
        Done { messages, removed, description }
    }

    /// Does the work on a disk that fails so, once it does.
    async fn run_until_it_fails(&mut self, mut fault: Fault) {
        for _ in 0..TRIES {
            let before = self.disk.failures();
            let operations = self.run(Some(fault)).await;
            if self.disk.failures() > before {
                return;
            }
            assert!(operations < fault.at, "{operations} writes, and not one failed: {fault:?}");
            fault.at = operations;
        }
        panic!("there are fewer writes each time: {fault:?}");
    }

    /// Does the work on a disk that fails so, and looks at what is there afterwards, on one that does not. Returns how many
    /// writes there were.
    async fn run(&mut self, fault: Option<Fault>) -> u64 {
        copy_files(self.before.path(), &self.disk.store());
        self.disk.plan(Plan { fault, ..Plan::default() });
        if !self.server.try_start().await {
            assert!(!self.server.ended().await.success(), "it says so when it cannot start: {fault:?}");
            self.disk.plan(Plan::default());
            self.server.start().await;
        }
        let done = {
            let mut work = Box::pin(Self::work(&self.app, &self.receiver));
            loop {
                tokio::select! {
                    done = &mut work => break done,
                    status = self.server.ended() => {
                        assert!(!status.success(), "it ends for a reason: {fault:?}");
                        self.disk.plan(Plan::default());
                        self.server.start().await;
                    }
                }
            }
        };
        let _ = self.server.terminate().await;
        let operations = self.disk.operations();
        self.disk.plan(Plan::default());
        self.server.start().await;
        self.look(&done, fault).await;
        assert!(self.server.terminate().await.success());
        let store = rusqlite::Connection::open(self.server.store_path()).expect("the store can be opened");
        let found: String = store.query_row("PRAGMA integrity_check", (), |row| row.get(0)).expect("it can be checked");
        assert_eq!(found, "ok", "{fault:?}");
        operations
    }

    async fn look(&self, done: &Done, fault: Option<Fault>) {
        let ids: Vec<&str> = done.messages.iter().map(String::as_str).filter(|id| *id != done.removed).collect();
        self.ledger.wait_for(&["/hook".to_owned()], &ids).await;
        self.ledger.wait_for(&["/other".to_owned()], &[&done.messages[1]]).await;
        let sorted = |mut ids: Vec<String>| {
            ids.sort();
            ids
        };
        let listed = list_messages(&self.app).await;
        let listed = listed.iter().filter_map(|message| Some(message["id"].as_str()?.to_owned())).collect();
        assert_eq!(sorted(listed), sorted(done.messages.clone()), "each once: {fault:?}");
        let get = async |path: &str| self.app.client.get(&self.app.path(path)).await.expect(200).json();
        assert_eq!(get("/endpoint/endpoint").await["description"], done.description, "{fault:?}");
        assert_eq!(get(&format!("/msg/{}", done.removed)).await["payload"], json!({ "expired": true }), "{fault:?}");
        for message in &ids {
            wait::until("a success to be recorded", async || {
                let attempts = self.app.attempts(message).await;
                attempts.iter().any(|attempt| attempt["status"] == 0).then_some(())
            })
            .await;
        }
        let health = self.app.client.get("/api/v1/health").await;
        assert_eq!(health.status, 204, "{fault:?}: {}", health.text());
    }
}

/// Makes the files of a folder those of another.
fn copy_files(from: &Path, to: &Path) {
    let files =
        |folder: &Path| std::fs::read_dir(folder).expect("the folder is there").map(|file| file.expect("a file"));
    for file in files(to) {
        std::fs::remove_file(file.path()).expect("a file can be removed");
    }
    for file in files(from) {
        std::fs::copy(file.path(), to.join(file.file_name())).expect("a file can be copied");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_write_fails_what_was_acked_is_there() {
    let all = std::env::var("POSTRIDER_DISK_FAULTS").is_ok_and(|which| which == "all");
    let mut bench = Bench::new().await;
    let operations = bench.run(None).await;
    assert!(operations > 0, "nothing that the server writes is counted");
    let is_wanted = move |at: u64, way: usize| all || at as usize % WAYS.len() == way;
    let faults = (1..=operations).flat_map(move |at| {
        let ways = WAYS.into_iter().enumerate().filter(move |(way, _)| is_wanted(at, *way));
        ways.map(move |(_, (kind, count))| Fault { at, count, kind })
    });
    let runs = faults.clone().count();
    // Each start, end and wait leaves room for others.
    let benches = (0..BENCHES).map(|number| {
        let faults: Vec<_> = faults.clone().skip(number).step_by(BENCHES).collect();
        async move {
            let mut bench = Bench::new().await;
            for fault in faults {
                bench.run_until_it_fails(fault).await;
            }
        }
    });
    futures_util::future::join_all(benches).await;
    let _ = writeln!(std::io::stderr(), "{operations} writes and syncs; {runs} runs in which some failed");
}
