//! What `postrider serve --dev` tells a newcomer to type does what it says.

#[expect(dead_code, reason = "the tests of other commands use the rest")]
mod support;

use support::{Process, post_to, postrider};

/// What is between the first `from` and the next `to` in a line.
fn between<'a>(line: &'a str, from: &str, to: &str) -> &'a str {
    let found = line.split_once(from).and_then(|(_, rest)| rest.split_once(to)).map(|(found, _)| found);
    found.unwrap_or_else(|| panic!("'{from}' and '{to}' are not in: {line}"))
}

#[test]
fn the_commands_that_are_printed_show_a_delivery_that_is_verified() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("sqlite://{}", folder.path().join("postrider.db").display());
    let server = Process::start(
        postrider()
            .args(["serve", "--dev", "--listen", "127.0.0.1:0"])
            .current_dir(&folder)
            .env("POSTRIDER_STORE__URL", store),
    );
    let listening = server.line_with("listening on http://");
    let (_, address) = listening.rsplit_once("http://").unwrap();
    let listen = server.line_with(" listen --port 8072 ");
    let (_, secret) = listen.rsplit_once(" --secret ").unwrap();
    let receiver = Process::start(postrider().args(["listen", "--port", "0", "--secret", secret, "--json"]));
    let started = receiver.json();
    let authorization = format!("Bearer {}", between(&format!("{}\n", server.line_with("export KEY=")), "KEY=", "\n"));
    for expected in [201, 201, 202] {
        let line = server.line_with("curl ").replace("http://127.0.0.1:8072/", started["url"].as_str().unwrap());
        let path = between(&line, address, " ");
        let body = between(&line, " -d '", "'");
        let status = post_to(address, path, &[("authorization", &authorization)], body.as_bytes());
        assert_eq!(status, expected, "{line}");
    }
    let event = receiver.json();
    assert_eq!((&event["verification"], &event["payload"]["name"]), (&"verified".into(), &"Ada".into()));
}
