//! `postrider config`: what an operator sees of the settings, and how a slip is told, from the outside.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use postrider_testkit::{TestServer, wait};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_postrider");
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn postrider(folder: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env_clear().current_dir(folder.path());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("it prints text")
}

fn error_lines(output: &Output) -> Vec<String> {
    String::from_utf8(output.stderr.clone()).expect("it prints text").lines().map(str::to_owned).collect()
}

#[test]
fn check_prints_the_sum_of_memory_and_on_request_its_parts() {
    let folder = TempDir::new().unwrap();
    let check = |arguments: &[&str]| {
        let output = postrider(&folder, &[&["config", "check"], arguments].concat()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        text(&output)
    };
    let short = check(&[]);
    assert!(short.starts_with("The settings are valid: 0 of ") && short.contains("--memory"), "{short}");
    assert!(short.lines().filter(|line| line.contains("MiB at most in all")).count() == 1, "{short}");
    assert!(!short.contains("(delivery.memory_bytes)"), "{short}");
    let text = check(&["--memory"]);
    assert!(
        text.contains(
            "66.0 MiB  messages that wait to be sent, and responses; up to twice the setting, and one message (delivery.memory_bytes)"
        ),
        "{text}"
    );
    assert!(text.trim_end().ends_with("in all, at most"), "{text}");
    assert!(!folder.path().join("postrider.db").exists(), "a check makes nothing");
}

#[test]
fn check_prints_a_line_for_each_problem_with_its_source_and_fails() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("postrider.toml"), "[auth]\njwt_secret = \"\"\n[delivery]\nconcurency = 1\n")
        .unwrap();
    let output = postrider(&folder, &["config", "check", "--listen", "nowhere"])
        .env("POSTRIDER_LOG__LEVEL", "verbose")
        .env("POSTRIDER_SERVER_LISTEN", "x")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let lines = error_lines(&output);
    assert_eq!(lines.len(), 5, "{lines:#?}");
    for part in [
        "postrider.toml, line 2",
        "postrider.toml, line 4",
        "POSTRIDER_LOG__LEVEL",
        "POSTRIDER_SERVER__LISTEN?",
        "flag --listen",
    ] {
        assert!(lines.iter().any(|line| line.contains(part)), "{part} in {lines:#?}");
    }
}

#[test]
fn check_refuses_a_folder_in_place_of_the_store() {
    let folder = TempDir::new().unwrap();
    let output = postrider(&folder, &["config", "check", "--store", "sqlite://."]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let lines = error_lines(&output);
    assert!(lines.len() == 1 && lines[0].contains("store.url names a folder"), "{lines:?}");
}

#[test]
fn show_prints_every_value_with_its_source_and_masks_secrets() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("postrider.toml"), "\n[delivery]\nconcurrency = 7\n").unwrap();
    let show = |arguments: &[&str]| {
        let output = postrider(&folder, arguments)
            .env("POSTRIDER_AUTH__JWT_SECRET", SECRET)
            .env("POSTRIDER_DELIVERY__RETRY_SCHEDULE", "1s,2s")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(!format!("{output:?}").contains(SECRET));
        text(&output)
    };
    let text = show(&["config", "show", "--store", "sqlite://other.db"]);
    for line in [
        "store.url = \"sqlite://other.db\"  # flag --store",
        "auth.jwt_secret = \"********\"  # environment variable POSTRIDER_AUTH__JWT_SECRET",
        "delivery.concurrency = 7  # postrider.toml, line 3",
        "delivery.retry_schedule = [\"1s\",\"2s\"]  # environment variable POSTRIDER_DELIVERY__RETRY_SCHEDULE",
        "delivery.https_only = false  # default",
        "# server.public_url is not set",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} in {text}");
    }
    let json: serde_json::Value = serde_json::from_str(&show(&["config", "show", "--json"])).unwrap();
    let of = |setting: &str| json.as_array().unwrap().iter().find(|row| row["setting"] == setting).unwrap();
    assert_eq!(of("auth.jwt_secret")["value"], "********");
    assert_eq!(of("auth.jwt_secret")["secret"], true);
    assert_eq!(of("delivery.concurrency")["source"], "file");
    assert_eq!(of("delivery.retry_schedule")["value"][1], "2s");
    assert_eq!(of("server.public_url")["value"], serde_json::Value::Null);
}

#[test]
fn the_reference_is_valid_and_safe_when_every_line_of_it_is_taken() {
    let folder = TempDir::new().unwrap();
    let reference = text(&postrider(&folder, &["config", "reference"]).output().unwrap());
    let names = ["server", "store", "auth", "delivery", "signing", "retention", "log"];
    assert!(names.iter().all(|name| reference.contains(&format!("[{name}]"))));
    let taken: String = reference
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.split_once(" = ").is_some_and(|(name, _)| !name.contains(' ')) => {
                format!("{setting}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(!taken.contains("jwt_secret ="), "{taken}");
    std::fs::write(folder.path().join("postrider.toml"), taken).unwrap();
    let output = postrider(&folder, &["config", "check"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_token_that_is_signed_with_the_empty_key_opens_nothing_because_there_is_no_start() {
    let folder = TempDir::new().unwrap();
    for secret in ["", " ", "short", "0123456789abcdef0123456789abcde"] {
        let output = postrider(&folder, &["serve", "--listen", "127.0.0.1:0"])
            .env("POSTRIDER_AUTH__JWT_SECRET", secret)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let lines = error_lines(&output);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("POSTRIDER_AUTH__JWT_SECRET"), "{lines:?}");
    }
    assert!(!folder.path().join("postrider.db").exists());
}

#[test]
fn a_variable_of_somebody_that_is_not_utf8_is_no_matter_and_one_of_ours_is_named() {
    let folder = TempDir::new().unwrap();
    let bad = OsStr::from_bytes(b"caf\xe9");
    let output = postrider(&folder, &["config", "check"]).env("LANG", bad).env(bad, "x").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    for arguments in [&["serve"][..], &["key", "list"], &["send", "http://127.0.0.1:1/"], &["config", "show"]] {
        for name in ["POSTRIDER_LOG__LEVEL", "POSTRIDER_ENDPOINT_SECRET"] {
            let output = postrider(&folder, arguments).env(name, bad).output().unwrap();
            let lines = error_lines(&output);
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            assert!(lines.len() == 1 && lines[0].contains(name) && lines[0].contains("UTF-8"), "{lines:?}");
        }
    }
}

#[test]
fn a_key_that_would_never_be_valid_or_cannot_be_shown_in_a_line_is_not_made() {
    let folder = TempDir::new().unwrap();
    let long = "n".repeat(257);
    for (arguments, named) in [
        (["--expires-in", "0s"], "--expires-in"),
        (["--name", "two\nlines"], "--name"),
        (["--name", "\u{1b}[2J"], "--name"),
        (["--name", " "], "--name"),
        (["--name", &long], "--name"),
    ] {
        let output = postrider(&folder, &["key", "create"]).args(arguments).output().unwrap();
        let lines = error_lines(&output);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(lines.len() == 1 && lines[0].contains(named), "{lines:?}");
    }
}

#[test]
fn an_argument_that_is_not_utf8_is_an_error_and_no_panic() {
    let folder = TempDir::new().unwrap();
    let bad = OsStr::from_bytes(b"\xff");
    for option in ["--listen", "--store", "--config", "--dev"] {
        let output = postrider(&folder, &["serve", option]).arg(bad).output().unwrap();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{output:?}");
        assert!(!format!("{output:?}").contains("panicked"), "{output:?}");
    }
}

#[tokio::test]
async fn a_server_starts_whatever_the_environment_of_others_and_its_own_name_are() {
    let folder = TempDir::new().unwrap();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let bad = OsStr::from_bytes(b"\xff");
    let mut child = postrider(&folder, &["serve", "--dev", "--listen", &address.to_string()])
        .arg0(bad)
        .env("TOKIO_WORKER_THREADS", "many")
        .env("LANG", bad)
        .env(bad, bad)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait::until("the server to listen", async || tokio::net::TcpStream::connect(address).await.ok()).await;
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
}

#[tokio::test]
async fn a_short_secret_that_the_operator_allows_is_taken() {
    let server = TestServer::builder(PROGRAM).set("auth.allow_short_secret", "true").set("auth.jwt_secret", "x");
    let server = server.start().await;
    server.client().get("/api/v1/health").await.expect(204);
}

#[test]
fn check_warns_of_what_can_be_set_and_is_probably_a_mistake() {
    let folder = TempDir::new().unwrap();
    let check = |settings: &[(&str, &str)]| {
        let output = postrider(&folder, &["config", "check"]).envs(settings.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        text(&output).lines().filter(|line| line.starts_with("Warning: ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let modest = [
        ("POSTRIDER_DELIVERY__ALLOW_SUBNETS", "10.0.0.0/8,fc00::/7"),
        ("POSTRIDER_DELIVERY__RETRY_SCHEDULE", "30s,1m"),
    ];
    assert_eq!(check(&modest), [] as [String; 0]);
    for (name, value, said) in [
        ("POSTRIDER_DELIVERY__ALLOW_SUBNETS", "0.0.0.0/0", "opens all of 0.0.0.0/0"),
        ("POSTRIDER_DELIVERY__ALLOW_SUBNETS", "::ffff:0:0/96", "opens all of 0.0.0.0/0"),
        ("POSTRIDER_DELIVERY__ALLOW_SUBNETS", "::/0", "opens all of ::/0"),
        ("POSTRIDER_DELIVERY__RETRY_SCHEDULE", "0s,0s,0s", "gives up after 4 attempts within 0"),
        ("POSTRIDER_DELIVERY__MEMORY_BYTES", "1099511627776", "let memory grow to"),
        ("POSTRIDER_DELIVERY__REQUEST_TIMEOUT", "10ms", "delivery.request_timeout is 10ms"),
        ("POSTRIDER_DELIVERY__DISABLE_AFTER", "1ms", "delivery.disable_after is 1ms"),
        ("POSTRIDER_SERVER__WRITE_TIMEOUT", "1s", "server.write_timeout is 1s"),
        ("POSTRIDER_RETENTION__PAYLOAD", "1d", "what is not delivered by then is canceled"),
        ("POSTRIDER_RETENTION__PAYLOAD", "1d", "3d 18h"),
        ("POSTRIDER_RETENTION__HISTORY", "30d", "retention.history is 30d and retention.payload 90d"),
        ("POSTRIDER_SERVER__MAX_CONNECTIONS_PER_ADDRESS", "4096", "more than server.max_connections: 2048"),
    ] {
        let warned = check(&[(name, value)]);
        assert!(warned.len() == 1 && warned[0].contains(said), "{name}={value}: {warned:?}");
    }
    let file = folder.path().join("secret.toml");
    std::fs::write(&file, format!("[auth]\njwt_secret = \"{}\"\n", "x".repeat(32))).unwrap();
    for (mode, said) in [(0o600, 0), (0o640, 0), (0o644, 1)] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let output = postrider(&folder, &["config", "check", "--config"]).arg(&file).output().unwrap();
        let warned: Vec<_> =
            text(&output).lines().filter(|line| line.starts_with("Warning: ")).map(str::to_owned).collect();
        assert_eq!(warned.len(), said, "{mode:o}: {warned:?}");
        assert!(warned.iter().all(|line| line.contains("secret.toml holds auth.jwt_secret")), "{warned:?}");
    }
    let short = [("POSTRIDER_AUTH__ALLOW_SHORT_SECRET", "true"), ("POSTRIDER_AUTH__JWT_SECRET", "x")];
    let warned = check(&short);
    assert!(warned.len() == 1 && warned[0].contains("auth.jwt_secret has 1 bytes"), "{warned:?}");
}
