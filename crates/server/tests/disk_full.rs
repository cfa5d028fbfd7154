//! A full disk: nothing is acked that was not stored, everything goes on by itself when there is room again.
//!
//! One test lets writes fail by a limit on the size of files, which works everywhere; the other fills a small file system
//! of its own, for which it must be allowed to mount one.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use http::Method;
use postrider_testkit::load::list_messages;
use postrider_testkit::process;
use postrider_testkit::server::Stderr;
use postrider_testkit::{Answer, App, Ledger, Receiver, Reply, TestServer, TestServerBuilder, random, wait};
use serde_json::json;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
}

/// A message that was answered with a 2xx.
struct Acked {
    id: String,
    payload: String,
}

/// An application with an endpoint, and what it was promised.
struct Sender {
    app: App,
    receiver: Receiver,
    ledger: Ledger,
    acked: Vec<Acked>,
}

impl Sender {
    async fn new(server: &TestServer) -> Self {
        let ledger = Ledger::new();
        let noted = ledger.clone();
        let answer = move |request: &_| {
            noted.note(request);
            Reply::ok()
        };
        let receiver = Receiver::builder(answer).forgetful().start().await;
        let app = server.app().await;
        app.endpoint(&receiver.at("hook")).await;
        Self { app, receiver, ledger, acked: Vec::new() }
    }

    /// Sends 16 KiB.
    async fn send(&mut self) -> Answer {
        let payload = format!(r#"{{"key":"{}","filler":"{}"}}"#, random::name(), "x".repeat(16 * 1024));
        let body = format!(r#"{{"eventType":"a","payload":{payload}}}"#);
        let answer = self.app.client.request(Method::POST, &self.app.path("/msg")).body(body).send().await;
        if answer.succeeded() {
            let id = answer.json()["id"].as_str().expect("a message has an id").to_owned();
            self.acked.push(Acked { id, payload });
        }
        answer
    }

    /// Sends until that fails, and then some more.
    async fn send_until_full(&mut self) {
        wait::until("the disk to be full", async || {
            let answer = self.send().await;
            if !answer.succeeded() {
                expect_server_error(&answer);
            }
            (!answer.succeeded()).then_some(())
        })
        .await;
        for _ in 0..50 {
            let answer = self.send().await;
            if !answer.succeeded() {
                expect_server_error(&answer);
            }
        }
    }

    /// While the disk is full, whoever decides where requests go must know.
    async fn expect_red(&self, server: &TestServer) {
        for _ in 0..5 {
            let health = server.client().get("/api/v1/health").await;
            expect_server_error(&health);
            assert!(health.text().contains("the store cannot grow"), "{}", health.text());
        }
    }

    /// Waits until health is green, before anything was sent.
    async fn wait_until_green(&self, server: &TestServer) {
        let look = async || (server.client().get("/api/v1/health").await.status == 204).then_some(());
        wait::until("health to be green", look).await;
    }

    /// Waits until messages are accepted again.
    async fn send_until_accepted(&mut self) {
        wait::until("messages to be accepted again", async || self.send().await.succeeded().then_some(())).await;
        self.send().await.expect(202);
    }

    /// Everything that was acked arrives once and can be read; nothing else was stored.
    async fn expect_nothing_lost(&self) {
        let ids: Vec<&str> = self.acked.iter().map(|message| message.id.as_str()).collect();
        self.ledger.wait_for(&["/hook".to_owned()], &ids).await;
        for message in &self.acked {
            assert_eq!(self.ledger.body("/hook", &message.id).expect("the same bytes each time"), message.payload);
        }
        assert_eq!(self.ledger.repeated(), [], "the process never died, so nothing may be repeated");
        let mut listed: Vec<String> = list_messages(&self.app)
            .await
            .iter()
            .map(|message| message["id"].as_str().expect("a message has an id").to_owned())
            .collect();
        listed.sort_unstable();
        let mut ids: Vec<String> = ids.into_iter().map(str::to_owned).collect();
        ids.sort_unstable();
        assert_eq!(listed, ids);
        assert!(self.receiver.connections() > 0);
    }
}

#[track_caller]
fn expect_server_error(answer: &Answer) {
    assert!((500..600).contains(&answer.status), "{} {}", answer.status, answer.text());
    let error = answer.json();
    assert!(error["code"].is_string() && error["detail"].is_string(), "{error}");
}

#[tokio::test]
async fn writes_that_fail_are_never_acked_and_it_recovers_when_they_succeed_again() {
    let mut server = server().survives_file_size_limit().start().await;
    let mut sender = Sender::new(&server).await;
    for _ in 0..20 {
        sender.send().await.expect(202);
    }
    server.limit_file_size(Some(6 * MIB));
    sender.send_until_full().await;
    sender.expect_red(&server).await;
    server.limit_file_size(None);
    sender.wait_until_green(&server).await;
    sender.send_until_accepted().await;
    sender.expect_nothing_lost().await;

    assert_eq!(server.terminate().await.code(), Some(0));
    server.start().await;
    let next = sender.app.send("a", &json!({})).await;
    sender.ledger.wait_for(&["/hook".to_owned()], &[&next]).await;
    assert_eq!(sender.ledger.repeated(), []);
}

#[tokio::test]
#[ignore = "needs the right to mount a file system: scripts/test runs it where it can"]
async fn a_full_file_system_is_never_acked_and_it_recovers_when_there_is_room_again() {
    let disk = SmallDisk::mount(32 * MIB);
    let mut server = server().store_folder(disk.path()).start().await;
    let mut sender = Sender::new(&server).await;
    for _ in 0..20 {
        sender.send().await.expect(202);
    }
    let ballast = disk.fill();
    sender.send_until_full().await;
    sender.expect_red(&server).await;
    std::fs::remove_file(ballast).unwrap();
    sender.wait_until_green(&server).await;
    sender.send_until_accepted().await;
    sender.expect_nothing_lost().await;
    assert_eq!(server.terminate().await.code(), Some(0));
}

#[tokio::test]
#[ignore = "needs the right to mount a file system: scripts/test runs it where it can"]
async fn a_log_on_the_same_full_file_system_changes_nothing() {
    let disk = SmallDisk::mount(32 * MIB);
    let log = Stderr::File(disk.path().join("log"));
    let mut server = server().store_folder(disk.path()).stderr(log).set("log.level", "debug").start().await;
    let mut sender = Sender::new(&server).await;
    for _ in 0..20 {
        sender.send().await.expect(202);
    }
    let ballast = disk.fill();
    sender.send_until_full().await;
    sender.expect_red(&server).await;
    std::fs::remove_file(ballast).unwrap();
    sender.wait_until_green(&server).await;
    sender.send_until_accepted().await;
    sender.expect_nothing_lost().await;
    server.client().get("/api/v1/health").await.expect(204);
    assert_eq!(server.terminate().await.code(), Some(0));
}

#[tokio::test]
#[ignore = "needs the right to mount a file system: scripts/test runs it where it can"]
async fn a_server_that_is_killed_on_a_full_file_system_starts_again_with_room_and_has_lost_nothing() {
    let disk = SmallDisk::mount(32 * MIB);
    let mut server = server().store_folder(disk.path()).start().await;
    let mut sender = Sender::new(&server).await;
    let ballast = disk.fill();
    sender.send_until_full().await;
    server.kill().await;
    // The index of the write-ahead log is made at every start; here somebody else has taken the room that it had.
    std::fs::remove_file(disk.path().join("postrider.db-shm")).unwrap();
    let more = disk.fill_to_the_last_page();
    let store = format!("sqlite://{}", server.store_path().display());
    let settings = [("POSTRIDER_SERVER__LISTEN", "127.0.0.1:0"), ("POSTRIDER_STORE__URL", &*store)];
    let start = process::run(env!("CARGO_BIN_EXE_postrider"), &["serve"], &settings, server.folder()).await;
    assert_eq!(start.status.code(), Some(1), "{start:?}");
    let said = start.stderr;
    assert!(said.contains("there is no room to open the store") && said.contains("make some"), "{said}");
    std::fs::remove_file(more).unwrap();
    std::fs::remove_file(ballast).unwrap();
    server.start().await;
    sender.send_until_accepted().await;
    let ids: Vec<&str> = sender.acked.iter().map(|message| message.id.as_str()).collect();
    sender.ledger.wait_for(&["/hook".to_owned()], &ids).await;
}

/// A file system in memory, unmounted with this value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: u64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let options = format!("size={bytes}");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &options, "postrider-test"]).arg(folder.path());
        assert!(command.status().is_ok_and(|status| status.success()), "no file system could be mounted");
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves no more than 2 MiB; returns the file that takes the rest.
    fn fill(&self) -> std::path::PathBuf {
        let path = self.path().join("ballast");
        let mut file = std::fs::File::create(&path).expect("the new file system is writable");
        let block = vec![0u8; 64 * KIB as usize];
        let mut written = 0;
        while file.write_all(&block).is_ok() {
            written += KIB * 64;
        }
        file.set_len(written - 2 * MIB).expect("a file can be made shorter");
        path
    }
}

impl SmallDisk {
    /// Takes all room that is left.
    fn fill_to_the_last_page(&self) -> std::path::PathBuf {
        let path = self.path().join("more-ballast");
        let mut file = std::fs::File::create(&path).expect("a file of nothing needs no room");
        while file.write_all(&[0; KIB as usize]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server may hold its files for a moment longer.
        let unmounted = Command::new("umount").arg("--lazy").arg(self.path()).status();
        if !std::thread::panicking() {
            assert!(unmounted.is_ok_and(|status| status.success()), "the file system could not be unmounted");
        }
    }
}
