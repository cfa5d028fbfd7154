//! The pages of `docs/guide` do what they say: every block is executed, in order and as it stands, against a server.
//!
//! A page of a language puts its blocks of code into one file, which a block of shell then runs. All blocks of shell of a page
//! run in one shell. A block of text is what the shell printed since the one before, where `…` stands for anything.
//! The server's URL and a token are given as the first page tells the reader to. `scripts/test` installs the languages.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postrider_testkit::{TestServer, process};

/// What the shell prints between two blocks, which nothing else does.
const SEPARATOR: char = '\u{1e}';

/// Beyond this a page hangs. The one for Rust builds the SDK.
const DEADLINE: Duration = Duration::from_secs(600);

/// A fenced block: what is behind the fence, and what is in it.
struct Block {
    kind: String,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(kind), None) => open = Some(Block { kind: kind.to_owned(), text: String::new() }),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// The script that a reader types: code goes to the end of `file`, shell is run. What is printed before each block of text
/// is set apart by a separator.
fn script(blocks: &[Block], language: &str, file: &str) -> String {
    let mut script = "set -euo pipefail\n".to_owned();
    let mut redirect = ">";
    for block in blocks {
        match &*block.kind {
            "sh" | "bash" => script.push_str(&block.text),
            "text" => script.push_str("printf '\\036'\n"),
            // Shown, and not run.
            "json" => {}
            kind if kind == language => {
                let _ = write!(script, "cat {redirect}{file} <<'END OF THE BLOCK'\n{}\nEND OF THE BLOCK\n", block.text);
                redirect = ">>";
            }
            kind => panic!("nothing is known about blocks of {kind:?}"),
        }
    }
    script
}

/// Whether `…` in `pattern` can stand for something so that it is `line`.
fn matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn assert_printed(expected: &str, printed: &str) {
    let (wanted, got): (Vec<_>, Vec<_>) = (expected.lines().collect(), printed.lines().collect());
    let same = wanted.len() == got.len() && wanted.iter().zip(&got).all(|(pattern, line)| matches(pattern, line));
    assert!(same, "the page says\n{expected}\nbut this was printed\n{printed}");
}

/// Runs a page, with the folders of `programs` before all others in which programs are looked for.
async fn run(page: &str, file: &str, programs: &[PathBuf]) {
    let text = std::fs::read_to_string(root().join(format!("docs/guide/{page}.md"))).expect("the page exists");
    let blocks = blocks(&text);
    let server = TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
        .set("delivery.retry_schedule", r#"["5s","5m"]"#)
        .start()
        .await;
    let (url, token) = (server.url(), server.token());
    let inherited = std::env::var_os("PATH").expect("there is a PATH");
    let path = std::env::join_paths(programs.iter().cloned().chain(std::env::split_paths(&inherited)));
    let path = path.expect("no folder has a colon in its name").into_string().expect("folders are named in UTF-8");
    let home = std::env::var("HOME").unwrap_or_default();
    let cargo_target = root().join(".cache/judges/rust").display().to_string();
    let settings = [
        ("POSTRIDER_URL", url.as_str()),
        ("POSTRIDER_TOKEN", token.as_str()),
        ("PATH", path.as_str()),
        // Where the languages keep what they downloaded, and where what the judge has built is found again.
        ("HOME", home.as_str()),
        ("CARGO_TARGET_DIR", cargo_target.as_str()),
    ];
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let script = script(&blocks, page, file);
    let finished = process::run_within(DEADLINE, "bash", &["-c", &script], &settings, folder.path()).await;
    assert!(finished.status.success(), "{}\n{}", finished.stdout, finished.stderr);
    let expected: Vec<_> = blocks.iter().filter(|block| block.kind == "text").collect();
    let printed: Vec<_> = finished.stdout.split(SEPARATOR).collect();
    // The last is what was printed after the last block of text: nothing.
    assert_eq!((expected.len() + 1, printed.last()), (printed.len(), Some(&"")), "{}", finished.stdout);
    for (block, printed) in expected.iter().zip(printed) {
        assert_printed(&block.text, printed);
    }
    assert!(!expected.is_empty(), "the page says what is printed");
}

fn postrider() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_postrider")).parent().expect("a program is in a folder").to_owned()
}

#[tokio::test]
#[ignore = "needs curl: scripts/test runs this"]
async fn curl() {
    run("curl", "", &[postrider()]).await;
}

#[tokio::test]
#[ignore = "needs curl: scripts/test runs this"]
async fn idempotency() {
    run("idempotency", "", &[]).await;
}

#[tokio::test]
#[ignore = "needs curl: scripts/test runs this"]
async fn event_types() {
    run("event-types", "", &[]).await;
}

#[tokio::test]
#[ignore = "needs curl: scripts/test runs this"]
async fn disabled() {
    run("disabled", "", &[postrider()]).await;
}

#[tokio::test]
#[ignore = "needs curl: scripts/test runs this"]
async fn tokens() {
    run("tokens", "", &[]).await;
}

#[tokio::test]
#[ignore = "needs curl: scripts/test runs this"]
async fn batches() {
    run("batches", "", &[]).await;
}

#[tokio::test]
#[ignore = "needs Python: scripts/test installs it and runs this"]
async fn python() {
    run("python", "first_steps.py", &[root().join(".cache/judges/svix-2/bin")]).await;
}

#[tokio::test]
#[ignore = "needs Node: scripts/test installs it and runs this"]
async fn javascript() {
    run("javascript", "first-steps.mjs", &[]).await;
}

#[tokio::test]
#[ignore = "needs Go: scripts/test installs it and runs this"]
async fn go() {
    run("go", "main.go", &[]).await;
}

#[tokio::test]
#[ignore = "builds the SDK: scripts/test runs this"]
async fn rust() {
    run("rust", "src/main.rs", &[]).await;
}

#[tokio::test]
#[ignore = "needs Node: scripts/test installs it and runs this"]
async fn docs_search_finds_what_people_type() {
    let server = TestServer::builder(env!("CARGO_BIN_EXE_postrider")).start().await;
    let script = root().join("judges/javascript/search.mjs").display().to_string();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let url = server.url();
    let finished = process::run("node", &[&script], &[("POSTRIDER_URL", &url)], folder.path()).await;
    assert_eq!(finished.stdout, "passed\n", "{}", finished.stderr);
}

#[test]
fn an_ellipsis_stands_for_anything() {
    for (pattern, line, is_match) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a…", "ab", true),
        ("…b", "ab", true),
        ("…b", "abc", false),
        ("a…c…e", "abcde", true),
        ("a…e…c", "abcde", false),
        ("…", "", true),
    ] {
        assert_eq!(matches(pattern, line), is_match, "{pattern} {line}");
    }
}
