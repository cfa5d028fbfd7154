//! The store on its host: what an operator or the machine does to its files must neither lose anything silently nor show it
//! to others.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use postrider_testkit::process::{self, Finished};
use postrider_testkit::{Ledger, Load, Receiver, Reply, TestServer, TestServerBuilder, wait};
use serde_json::json;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_postrider");

fn server() -> TestServerBuilder {
    TestServer::builder(PROGRAM)
}

fn database(server: &TestServer) -> PathBuf {
    server.folder().join("postrider.db")
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("the file is there").permissions().mode() & 0o777
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("its entry").path());
    files.filter(|path| path.to_string_lossy().contains("postrider.db")).collect()
}

fn message() -> serde_json::Value {
    json!({ "eventType": "a", "payload": {} })
}

/// Runs `postrider key …` on a store.
async fn key(arguments: &[&str], store: &Path, folder: &Path) -> Finished {
    let url = format!("sqlite://{}", store.display());
    process::run(PROGRAM, &[&["key"], arguments].concat(), &[("POSTRIDER_STORE__URL", &url)], folder).await
}

#[tokio::test]
async fn no_file_of_the_store_can_be_read_by_others_and_loose_ones_are_tightened_with_a_warning() {
    let mut server = server().start().await;
    server.app().await;
    let all = files(server.folder());
    assert!(all.len() >= 4, "{all:?}");
    for path in &all {
        assert_eq!(mode(path), 0o600, "{}", path.display());
    }
    server.terminate().await;
    let database = database(&server);
    std::fs::set_permissions(&database, std::fs::Permissions::from_mode(0o664)).unwrap();
    server.start().await;
    assert_eq!(mode(&database), 0o600);
    server.logged("could be read or written by others (mode 0664)").await;
}

#[tokio::test]
async fn a_database_that_is_deleted_or_replaced_turns_health_red_and_nothing_more_is_accepted() {
    for replace in [false, true] {
        let server = server().start().await;
        let app = server.app().await;
        let database = database(&server);
        let aside = server.folder().join("aside");
        std::fs::rename(&database, &aside).unwrap();
        if replace {
            std::fs::copy(&aside, &database).unwrap();
        }
        // Not one message more, however quickly it comes.
        app.client.post(&app.path("/msg"), &message()).await.expect(503);
        wait::until("health to be red", async || {
            let health = server.client().get("/api/v1/health").await;
            (!health.succeeded()).then_some(())
        })
        .await;
        let what = if replace { "was replaced by another file" } else { "was deleted or moved away" };
        let line = format!("{} {what}", database.display());
        let said = server.logged(&line).await;
        assert!(said.contains("ERROR"), "{said}");
        // Back in its place it is as good as ever.
        std::fs::rename(&aside, &database).unwrap();
        app.client.post(&app.path("/msg"), &message()).await.expect(202);
    }
}

#[tokio::test]
async fn a_write_ahead_log_that_is_deleted_is_noticed_like_the_database() {
    let server = server().start().await;
    let app = server.app().await;
    let path = server.folder().join("postrider.db-wal");
    std::fs::remove_file(&path).unwrap();
    server.logged("postrider.db-wal was deleted").await;
    app.client.post(&app.path("/msg"), &message()).await.expect(503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_file_descriptors_nothing_is_lost_and_it_goes_on_when_there_are_some() {
    let ledger = Ledger::new();
    let noted = ledger.clone();
    let answer = move |request: &_| {
        noted.note(request);
        Reply::ok()
    };
    let receiver = Receiver::builder(answer).forgetful().start().await;
    let mut server = server().start().await;
    let app = server.app().await;
    app.endpoint(&receiver.at("hook")).await;
    let load = Load::start(&app, 4);
    load.progress(50).await;
    server.limit_open_files(Some(8));
    wait::until("descriptors to be missed", async || {
        // Accepting it takes a descriptor.
        drop(tokio::net::TcpStream::connect(server.address()).await);
        server.log().contains("Too many open files").then_some(())
    })
    .await;
    server.limit_open_files(None);
    load.progress(50).await;
    let acked = load.finish().await;
    let ids: Vec<&str> = acked.iter().map(|message| message.id.as_str()).collect();
    ledger.wait_for(&["/hook".to_owned()], &ids).await;
    assert_eq!(ledger.repeated(), []);
    is_healthy(&server).await;
    assert_eq!(server.terminate().await.code(), Some(0));
}

/// Waits until health is green: on a busy machine the answer may be late, which counts as red.
async fn is_healthy(server: &TestServer) {
    let look = async || (server.client().get("/api/v1/health").await.status == 204).then_some(());
    wait::until("health to be green", look).await;
}

/// Cuts a file of a running server's store.
fn cut(server: &TestServer, suffix: &str, bytes: u64) {
    let path = server.folder().join(format!("postrider.db{suffix}"));
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

#[tokio::test]
async fn a_store_whose_files_are_cut_accepts_nothing_more_says_why_and_starts_again() {
    for (suffix, left) in [("-wal", 0), ("-wal", 1_000), ("", 0), ("", 4_096)] {
        let mut server = server().start().await;
        let app = server.app().await;
        for _ in 0..3 {
            app.client.post(&app.path("/msg"), &message()).await.expect(202);
        }
        wait::until("everything to be in the database", async || {
            let wal = std::fs::metadata(server.folder().join("postrider.db-wal")).unwrap().len();
            let bytes = std::fs::metadata(database(&server)).unwrap().len();
            let pages =
                |guest: rusqlite::Connection| guest.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0));
            let pages = rusqlite::Connection::open(database(&server)).and_then(pages).unwrap();
            (wal > 20_000 && bytes == pages.unsigned_abs() * 4_096).then_some(())
        })
        .await;
        // The server has seen that, too, when it has looked again.
        is_healthy(&server).await;
        cut(&server, suffix, left);
        // Not one message more, however quickly it comes.
        app.client.post(&app.path("/msg"), &message()).await.expect(503);
        let health = wait::until("health to say why", async || {
            let health = server.client().get("/api/v1/health").await;
            (health.status == 500).then_some(health)
        })
        .await;
        let named = format!("postrider.db{suffix} was cut to {left} bytes");
        assert!(health.text().contains(&named), "{}", health.text());
        let said = server.logged(&named).await;
        assert!(said.contains("ERROR"), "{said}");
        server.terminate().await;
        if suffix == "-wal" {
            server.start().await;
            let app = server.app().await;
            app.client.post(&app.path("/msg"), &message()).await.expect(202);
        }
    }
}

#[tokio::test]
async fn a_database_that_was_cut_in_the_middle_is_called_damaged_at_the_next_start() {
    let mut server = server().start().await;
    server.app().await;
    server.terminate().await;
    let path = database(&server);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(10_000).unwrap();
    let url = format!("sqlite://{}", path.display());
    let settings = [("POSTRIDER_SERVER__LISTEN", "127.0.0.1:0"), ("POSTRIDER_STORE__URL", &*url)];
    let finished = process::run(PROGRAM, &["serve"], &settings, server.folder()).await;
    assert!(!finished.status.success(), "{finished:?}");
    assert!(finished.stderr.contains("damaged"), "{finished:?}");
}

#[tokio::test]
async fn a_database_that_was_cut_beside_a_write_ahead_log_is_called_damaged_at_the_next_start() {
    let mut server = server().start().await;
    let app = server.app().await;
    let large = json!({ "eventType": "user.created", "payload": { "text": "x".repeat(100_000) } });
    for _ in 0..20 {
        app.client.post(&app.path("/msg"), &large).await.expect(202);
    }
    // A second start, so that what was sent lies in the database, and little in the WAL.
    server.terminate().await;
    server.start().await;
    let app = server.app().await;
    app.client.post(&app.path("/msg"), &message()).await.expect(202);
    let half = std::fs::metadata(database(&server)).unwrap().len() / 2 / 4_096 * 4_096;
    server.kill().await;
    cut(&server, "", half);
    assert!(std::fs::metadata(server.folder().join("postrider.db-wal")).unwrap().len() > 0, "there is a WAL");
    let url = format!("sqlite://{}", database(&server).display());
    let settings = [("POSTRIDER_SERVER__LISTEN", "127.0.0.1:0"), ("POSTRIDER_STORE__URL", &*url)];
    let finished = process::run(PROGRAM, &["serve"], &settings, server.folder()).await;
    assert!(!finished.status.success(), "{finished:?}");
    assert!(finished.stderr.contains(&format!("damaged (it was cut to {half} bytes")), "{finished:?}");
    assert_eq!(std::fs::metadata(database(&server)).unwrap().len(), half, "nothing was written to it");
}

#[tokio::test]
async fn what_other_programs_do_with_the_write_ahead_log_is_no_harm() {
    let server = server().start().await;
    let app = server.app().await;
    for _ in 0..5 {
        app.client.post(&app.path("/msg"), &message()).await.expect(202);
        let other = rusqlite::Connection::open(database(&server)).unwrap();
        other.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        other.close().unwrap();
    }
    app.client.post(&app.path("/msg"), &message()).await.expect(202);
    is_healthy(&server).await;
}

#[tokio::test]
async fn a_copy_of_the_database_of_a_quiet_server_alone_is_complete() {
    let server = server().start().await;
    let app = server.app().await;
    app.client.post(&app.path("/msg"), &message()).await.expect(202);
    let copies = TempDir::new().unwrap();
    wait::until("the copy to be complete", async || {
        let copy = copies.path().join("postrider.db");
        std::fs::copy(database(&server), &copy).unwrap();
        let mut second = self::server().store_folder(copies.path()).start().await;
        let found = second.client_with(Some(server.token())).get(&app.path("/msg")).await;
        second.terminate().await;
        for path in files(copies.path()) {
            std::fs::remove_file(path).unwrap();
        }
        (found.succeeded() && found.json()["data"].as_array().is_some_and(|data| data.len() == 1)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_start_that_makes_a_store_says_so_with_its_path_and_a_later_one_does_not() {
    let mut server = server().start().await;
    let line = format!("no store found; created an empty one path={}", database(&server).display());
    server.logged(&line).await;
    server.terminate().await;
    server.start().await;
    assert_eq!(server.log().matches("created an empty one").count(), 1);
}

#[tokio::test]
async fn key_commands_make_no_store_and_say_which_one_they_used() {
    let server = server().start().await;
    let elsewhere = TempDir::new().unwrap();
    let missing = elsewhere.path().join("postrider.db");
    for arguments in [&["list"][..], &["create"], &["revoke", "key_1srOrx2ZWZBpBUvZwXKQmoEYga2"]] {
        let finished = key(arguments, &missing, elsewhere.path()).await;
        assert!(!finished.status.success(), "{finished:?}");
        let lines = finished.error_lines();
        assert_eq!(lines.len(), 1, "{finished:?}");
        assert!(lines[0].contains("there is no store at") && lines[0].contains(missing.to_str().unwrap()), "{lines:?}");
        assert_eq!(files(elsewhere.path()), [] as [PathBuf; 0], "nothing was made");
    }
    let used = database(&server);
    let finished = key(&["list"], &used, elsewhere.path()).await;
    assert!(finished.status.success(), "{finished:?}");
    assert_eq!(finished.error_lines(), [format!("store: {}", used.display())]);
}

#[tokio::test]
async fn a_deleted_lock_file_lets_no_second_server_in() {
    let first = server().start().await;
    std::fs::remove_file(first.folder().join("postrider.db.lock")).unwrap();
    let url = format!("sqlite://{}", database(&first).display());
    let settings = [("POSTRIDER_SERVER__LISTEN", "127.0.0.1:0"), ("POSTRIDER_STORE__URL", &*url)];
    let finished = process::run(PROGRAM, &["serve"], &settings, first.folder()).await;
    assert!(!finished.status.success(), "{finished:?}");
    assert!(finished.stderr.contains("in use by another postrider"), "{finished:?}");
    let app = first.app().await;
    app.client.post(&app.path("/msg"), &message()).await.expect(202);
}

/// Serves a store until the process ends by itself, which it is to do at once.
async fn refused(store: &Path) -> Finished {
    let url = format!("sqlite://{}", store.display());
    let settings = [("POSTRIDER_SERVER__LISTEN", "127.0.0.1:0"), ("POSTRIDER_STORE__URL", &*url)];
    let finished = process::run(PROGRAM, &["serve"], &settings, store.parent().expect("a folder")).await;
    assert!(!finished.status.success(), "{finished:?}");
    finished
}

#[tokio::test]
async fn a_key_is_not_made_by_another_name_of_a_running_servers_store_which_loses_nothing() {
    let mut server = server().start().await;
    let app = server.app().await;
    app.client.post(&app.path("/msg"), &message()).await.expect(202);
    let elsewhere = TempDir::new_in(server.folder()).unwrap();
    let other = elsewhere.path().join("p.db");
    std::fs::hard_link(database(&server), &other).unwrap();
    for arguments in [&["create"][..], &["list"], &["revoke", "key_1srOrx2ZWZBpBUvZwXKQmoEYga2"]] {
        let finished = key(arguments, &other, elsewhere.path()).await;
        assert!(!finished.status.success(), "{finished:?}");
        assert!(finished.stderr.contains("by another name"), "{finished:?}");
    }
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 1, "nothing is left beside it");
    // By the server's own name it works.
    assert!(key(&["create"], &database(&server), server.folder()).await.status.success());
    app.client.post(&app.path("/msg"), &message()).await.expect(202);
    server.kill().await;
    for name in [&other, &database(&server)] {
        assert!(refused(name).await.stderr.contains("has 2 names"));
    }
    std::fs::remove_file(&other).unwrap();
    server.start().await;
    let found = server.client_with(Some(server.token())).get(&app.path("/msg")).await.expect(200);
    assert_eq!(found.json()["data"].as_array().map(Vec::len), Some(2), "{}", found.text());
}

#[tokio::test]
#[ignore = "needs the right to mount a file system: scripts/test runs it where it can"]
async fn a_store_that_is_mounted_without_its_folder_is_refused() {
    let mut server = server().start().await;
    let elsewhere = TempDir::new_in(server.folder()).unwrap();
    let other = elsewhere.path().join("p.db");
    std::fs::write(&other, "").unwrap();
    let mounted = Mounted::bind(&database(&server), &other);
    let finished = key(&["create"], &other, elsewhere.path()).await;
    assert!(finished.stderr.contains("by another name"), "{finished:?}");
    server.terminate().await;
    let finished = key(&["create"], &other, elsewhere.path()).await;
    assert!(finished.stderr.contains("mounted by itself"), "{finished:?}");
    assert!(refused(&other).await.stderr.contains("mounted by itself"));
    drop(mounted);
    server.start().await;
}

/// A file that is mounted at another place, until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn bind(file: &Path, at: &Path) -> Self {
        let done = std::process::Command::new("mount").arg("--bind").args([file, at]).status().unwrap();
        assert!(done.success(), "it may not mount");
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

/// A program that runs another as a user whom modes bind: root is none.
const AS_NOBODY: &[&str] = &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// Runs a command line as somebody who is not root, with the folder of a store as his own.
async fn unprivileged(command: &[&str], store: &Path) -> Finished {
    let folder = store.parent().unwrap();
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let all = if is_root { [AS_NOBODY, command].concat() } else { command.to_vec() };
    if is_root {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).chain([folder.to_owned()]) {
            std::os::unix::fs::chown(path, Some(65_534), Some(65_534)).unwrap();
        }
    }
    let url = format!("sqlite://{}", store.display());
    let settings = [("POSTRIDER_SERVER__LISTEN", "127.0.0.1:0"), ("POSTRIDER_STORE__URL", &*url)];
    process::run(all[0], &all[1..], &settings, folder).await
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Serves until it listens, or has ended by itself, and then asks it to end.
const SERVE_ONCE: &str = r#""$0" serve > listening & pid=$!
    until grep -q listening listening || ! kill -0 $pid 2> /dev/null; do sleep 0.05; done
    kill $pid 2> /dev/null; wait $pid"#;

#[tokio::test]
async fn a_store_that_cannot_be_written_is_named_with_its_mode_and_opens_when_it_can_be() {
    let mut server = server().start().await;
    server.app().await;
    // What is beside it stays.
    server.kill().await;
    let store = database(&server);
    let shm = store.with_file_name("postrider.db-shm");
    for (at_fault, mode) in [(&store, 0o400), (&store, 0o444)] {
        set_mode(at_fault, mode);
        for command in [&[PROGRAM, "serve"][..], &[PROGRAM, "key", "create"]] {
            let finished = unprivileged(command, &store).await;
            assert_eq!(finished.status.code(), Some(1), "{finished:?}");
            let says = format!("{} has the mode 0400", at_fault.display());
            let last = finished.error_lines().last().copied().unwrap_or_default();
            assert!(last.contains(&says) && last.contains("chmod 600"), "{finished:?}");
        }
    }
    set_mode(&store, 0o600);
    // As a start left it once that was refused.
    set_mode(&shm, 0o400);
    let finished = unprivileged(&["sh", "-c", SERVE_ONCE, PROGRAM], &store).await;
    assert!(finished.status.success(), "{finished:?}");
    assert!(unprivileged(&[PROGRAM, "key", "create"], &store).await.status.success());
}

#[tokio::test]
async fn who_may_not_look_into_the_folder_of_a_store_is_not_told_that_there_is_none() {
    let mut server = server().start().await;
    server.terminate().await;
    let inner = server.folder().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let store = inner.join("postrider.db");
    std::fs::rename(database(&server), &store).unwrap();
    set_mode(&inner, 0o600);
    let url = format!("sqlite://{}", store.display());
    // The folder that the command starts in is another one.
    let finished =
        unprivileged(&["env", &format!("POSTRIDER_STORE__URL={url}"), PROGRAM, "key", "create"], &database(&server))
            .await;
    set_mode(&inner, 0o700);
    assert!(!finished.status.success(), "{finished:?}");
    assert!(finished.stderr.contains("Permission denied") && !finished.stderr.contains("no store"), "{finished:?}");
}

#[tokio::test]
async fn a_start_that_gets_too_few_threads_says_so() {
    let folder = TempDir::new().unwrap();
    let store = folder.path().join("postrider.db");
    for most in [1, 2, 4, 8, 12] {
        let limit = format!("--nproc={most}:{most}");
        let finished = unprivileged(&["prlimit", &limit, PROGRAM, "serve"], &store).await;
        assert_eq!(finished.status.code(), Some(1), "{finished:?}");
        let lines = finished.error_lines();
        assert!(
            lines.len() == 1 && lines[0].contains("more threads") && lines[0].contains("ulimit -u"),
            "{most}: {finished:?}"
        );
    }
}
