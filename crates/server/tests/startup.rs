//! What an operator got wrong is told in one clear line, and the process ends with a failure.

use std::net::TcpListener;
use std::path::Path;

use postrider_testkit::process::{self, Finished};
use postrider_testkit::{TestServer, TestServerBuilder};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_postrider");

fn server() -> TestServerBuilder {
    TestServer::builder(PROGRAM)
}

/// Runs `serve` with these settings, which has to fail.
async fn serve(folder: &Path, settings: &[(&str, &str)]) -> Finished {
    let store = format!("sqlite://{}", folder.join("postrider.db").display());
    let mut all = vec![("POSTRIDER_SERVER__LISTEN", "127.0.0.1:0"), ("POSTRIDER_STORE__URL", &store)];
    all.extend(settings);
    process::run(PROGRAM, &["serve"], &all, folder).await
}

/// One line on standard error that has every one of `parts`, nothing else, and a failure.
#[track_caller]
fn expect_one_line(finished: &Finished, parts: &[&str]) {
    assert!(!finished.status.success(), "{finished:?}");
    assert!(finished.status.code().is_some(), "ended by a signal: {finished:?}");
    let lines = finished.error_lines();
    assert_eq!(lines.len(), 1, "one line, not: {}", finished.stderr);
    for part in parts {
        assert!(lines[0].contains(part), "'{part}' in: {}", lines[0]);
    }
    assert!(!lines[0].contains("panicked"), "{}", lines[0]);
    assert!(!finished.stdout.contains("listening on"), "{}", finished.stdout);
}

#[tokio::test]
async fn a_port_in_use() {
    let folder = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let finished = serve(folder.path(), &[("POSTRIDER_SERVER__LISTEN", &address)]).await;
    expect_one_line(&finished, &[&address, "already", "--listen"]);
}

#[tokio::test]
async fn an_address_that_is_none() {
    let folder = TempDir::new().unwrap();
    for bad in ["nonsense", "127.0.0.1", "127.0.0.1:70000", ""] {
        let finished = serve(folder.path(), &[("POSTRIDER_SERVER__LISTEN", bad)]).await;
        expect_one_line(&finished, &["listen"]);
    }
}

#[tokio::test]
async fn an_unknown_setting_in_the_file() {
    let folder = TempDir::new().unwrap();
    for (text, name) in [("[delivery]\nretry_shedule = []\n", "retry_shedule"), ("[delivry]\n", "delivry")] {
        std::fs::write(folder.path().join("postrider.toml"), text).unwrap();
        expect_one_line(&serve(folder.path(), &[]).await, &["postrider.toml", name]);
    }
}

#[tokio::test]
async fn an_unknown_setting_in_the_environment() {
    let folder = TempDir::new().unwrap();
    for name in ["POSTRIDER_DELIVERY__RETRY_SHEDULE", "POSTRIDER_DELIVRY__CONCURRENCY"] {
        expect_one_line(&serve(folder.path(), &[(name, "5")]).await, &[name]);
    }
}

#[tokio::test]
async fn a_setting_of_the_wrong_kind() {
    let folder = TempDir::new().unwrap();
    let cases = [
        ("POSTRIDER_DELIVERY__REQUEST_TIMEOUT", "5"),
        ("POSTRIDER_DELIVERY__CONCURRENCY", "many"),
        ("POSTRIDER_DELIVERY__ALLOW_SUBNETS", "[\"10.0.0.0/99\"]"),
        ("POSTRIDER_DELIVERY__HTTPS_ONLY", "perhaps"),
        ("POSTRIDER_SIGNING__DEFAULT_KIND", "rot13"),
    ];
    for (name, value) in cases {
        expect_one_line(&serve(folder.path(), &[(name, value)]).await, &[name]);
    }
}

#[tokio::test]
async fn a_settings_file_that_is_no_toml() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("postrider.toml"), "[delivery\nconcurrency = \n").unwrap();
    expect_one_line(&serve(folder.path(), &[]).await, &["postrider.toml", "line 1"]);
    std::fs::write(folder.path().join("postrider.toml"), b"# a comment\n# na\xefve\n").unwrap();
    expect_one_line(&serve(folder.path(), &[]).await, &["postrider.toml, line 2", "not UTF-8"]);
}

#[tokio::test]
async fn a_number_where_a_text_belongs() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("postrider.toml"), "[log]\nformat = 5\n").unwrap();
    let parts = ["log.format must be a text in quotes", "\"text\"", "postrider.toml, line 2"];
    expect_one_line(&serve(folder.path(), &[]).await, &parts);
}

#[tokio::test]
async fn a_settings_file_that_is_not_there() {
    let folder = TempDir::new().unwrap();
    let finished = process::run(PROGRAM, &["serve", "--config", "missing.toml"], &[], folder.path()).await;
    expect_one_line(&finished, &["missing.toml"]);
}

#[tokio::test]
async fn a_store_of_an_unknown_kind() {
    let folder = TempDir::new().unwrap();
    for url in ["mysql://localhost/x", "postrider.db", ""] {
        let finished = serve(folder.path(), &[("POSTRIDER_STORE__URL", url)]).await;
        expect_one_line(&finished, &["sqlite://"]);
    }
}

#[tokio::test]
async fn a_store_in_a_folder_that_is_not_there() {
    let folder = TempDir::new().unwrap();
    let finished = serve(folder.path(), &[("POSTRIDER_STORE__URL", "sqlite:///no/such/folder/postrider.db")]).await;
    expect_one_line(&finished, &["/no/such/folder"]);
}

#[tokio::test]
async fn a_store_that_cannot_be_written() {
    let folder = TempDir::new().unwrap();
    // Not even root can make a file here, or write a folder as a file.
    for path in ["/proc/postrider.db", "/proc/self"] {
        let finished = serve(folder.path(), &[("POSTRIDER_STORE__URL", &format!("sqlite://{path}"))]).await;
        expect_one_line(&finished, &["/proc"]);
    }
}

#[tokio::test]
async fn a_store_that_is_no_database() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("postrider.db");
    std::fs::write(&path, "this is a letter to a friend, and no database\n".repeat(200)).unwrap();
    let before = std::fs::read(&path).unwrap();
    expect_one_line(&serve(folder.path(), &[]).await, &["postrider.db"]);
    assert_eq!(std::fs::read(&path).unwrap(), before, "somebody's file was changed");
}

#[tokio::test]
async fn a_store_of_a_newer_version() {
    let folder = TempDir::new().unwrap();
    let mut first = server().store_folder(folder.path()).start().await;
    first.terminate().await;
    let path = folder.path().join("postrider.db");
    let mut bytes = std::fs::read(&path).unwrap();
    // The user version is 4 bytes at 60 of the database's header (SQLite file format, 1.3).
    bytes[60..64].copy_from_slice(&9_999u32.to_be_bytes());
    std::fs::write(&path, bytes).unwrap();
    expect_one_line(&serve(folder.path(), &[]).await, &["newer", "postrider.db"]);
}

#[tokio::test]
async fn a_second_process_on_the_same_store() {
    let folder = TempDir::new().unwrap();
    let first = server().store_folder(folder.path()).start().await;
    expect_one_line(&serve(folder.path(), &[]).await, &["postrider.db", "process"]);
    first.client().get("/api/v1/health").await.expect(204);
}

#[tokio::test]
async fn a_store_is_free_again_at_once_when_its_process_was_killed() {
    let mut server = server().start().await;
    let app = server.app().await;
    for _ in 0..3 {
        server.kill().await;
        server.start().await;
    }
    app.client.get(&app.path("")).await.expect(200);
}

#[tokio::test]
async fn a_limit_on_open_files_that_is_too_low_for_anything() {
    let folder = TempDir::new().unwrap();
    // Processes for schemas need some, too.
    for (most, processes) in [(20, "1"), (32, "0"), (100, "0"), (190, "3"), (1_000, "256")] {
        let store = format!("sqlite://{}", folder.path().join("postrider.db").display());
        let settings = [
            ("POSTRIDER_SERVER__LISTEN", "127.0.0.1:0"),
            ("POSTRIDER_STORE__URL", &*store),
            ("POSTRIDER_SCHEMAS__PROCESSES", processes),
        ];
        let script = format!("ulimit -n {most} && exec '{PROGRAM}' serve");
        let finished = process::run("/bin/sh", &["-c", &script], &settings, folder.path()).await;
        expect_one_line(
            &finished,
            &[&format!("the limit on open files is {most}, and a server needs "), "LimitNOFILE"],
        );
        assert!(!folder.path().join("postrider.db").exists(), "nothing is made that can't be used");
    }
}

#[tokio::test]
async fn a_network_that_is_an_address_within_one() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("p.toml"), "\n[delivery]\nallow_subnets = [\"10.0.0.1/8\"]\n").unwrap();
    let told = "write 10.0.0.0/8 for the network, or 10.0.0.1 for the one address";
    let finished = process::run(PROGRAM, &["config", "check", "--config", "p.toml"], &[], folder.path()).await;
    assert!(!finished.status.success(), "{finished:?}");
    let said = format!("{}{}", finished.stdout, finished.stderr);
    assert!(
        said.contains(told) && said.contains("delivery.allow_subnets") && said.contains("p.toml, line 3"),
        "{said}"
    );
    for network in ["192.168.1.5/16", "fd00::1/8", "10.0.0.0/8,10.1.2.3/24"] {
        let finished = serve(folder.path(), &[("POSTRIDER_DELIVERY__ALLOW_SUBNETS", network)]).await;
        expect_one_line(&finished, &["is an address within a network", "POSTRIDER_DELIVERY__ALLOW_SUBNETS"]);
    }
}

#[tokio::test]
async fn an_unknown_argument_or_command() {
    let folder = TempDir::new().unwrap();
    for arguments in [&["serve", "--no-such-flag"][..], &["no-such-command"]] {
        let finished = process::run(PROGRAM, arguments, &[], folder.path()).await;
        assert_eq!(finished.status.code(), Some(2), "{finished:?}");
        assert!(finished.stderr.contains(arguments[arguments.len() - 1]), "{finished:?}");
    }
}
