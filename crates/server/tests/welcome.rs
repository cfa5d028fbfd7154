//! What `postrider serve --dev` tells a newcomer to type does what it says.

#[expect(dead_code, reason = "the tests of other commands use the rest")]
mod support;

use support::{Process, post_to, postrider};

/// What is between the first `from` and the next `to` in a line.
fn between<'a>(line: &'a str, from: &str, to: &str) -> &'a str {
    let found = line.split_once(from).and_then(|(_, rest)| rest.split_once(to)).map(|(found, _)| found);
    found.unwrap_or_else(|| panic!("'{from}' and '{to}' are not in: {line}"))
}

/// Starts `serve --dev` in this folder, and returns it with its address.
fn start(folder: &std::path::Path) -> (Process, String) {
    let store = format!("sqlite://{}", folder.join("postrider.db").display());
    let server = Process::start(
        postrider()
            .args(["serve", "--dev", "--listen", "127.0.0.1:0"])
            .current_dir(folder)
            .env("POSTRIDER_STORE__URL", store),
    );
    let listening = server.line_with("listening on http://");
    let (_, address) = listening.rsplit_once("http://").expect("the line has a URL");
    (server, address.to_owned())
}

#[test]
fn the_command_that_is_printed_shows_a_verified_delivery_at_every_start() {
    let folder = tempfile::tempdir().unwrap();
    // Whoever has the receiver's port, it finds another. If this test cannot have it, somebody else has.
    let _taken = std::net::TcpListener::bind("127.0.0.1:8072");
    for start_number in 1..=2 {
        let (server, address) = start(folder.path());
        let export = format!("{}\n", server.line_with("export POSTRIDER_URL="));
        let authorization = format!("Bearer {}", between(&export, "POSTRIDER_TOKEN=", "\n"));
        let line = server.line_with("curl ");
        let (path, body) = (between(&line, &address, " "), between(&line, " -d '", "'"));
        let status = post_to(&address, path, &[("authorization", &authorization)], body.as_bytes());
        assert_eq!(status, 202, "start {start_number}: {line}");
        let arrived = server.line_with("  verified  ");
        assert!(arrived.contains("→ 200"), "start {start_number}: {arrived}");
        server.line_with("\"name\": \"Ada\"");
        server.interrupt();
        assert!(server.wait().success(), "start {start_number}");
    }
}

#[test]
fn a_key_of_an_earlier_start_is_still_valid() {
    let folder = tempfile::tempdir().unwrap();
    let key = |server: &Process| server.line_with(" POSTRIDER_TOKEN=").rsplit_once('=').unwrap().1.to_owned();
    let (first, _) = start(folder.path());
    let old = key(&first);
    first.interrupt();
    first.wait();
    let (second, address) = start(folder.path());
    assert_ne!(key(&second), old);
    let message = br#"{"eventType":"user.created","payload":{}}"#;
    let authorization = format!("Bearer {old}");
    assert_eq!(post_to(&address, "/api/v1/app/demo/msg", &[("authorization", &authorization)], message), 202);
}
