//! `postrider send` from the outside, with `postrider listen` as the receiver.

#[expect(dead_code, reason = "the tests of other commands use the rest")]
mod support;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::{Process, post, postrider};

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A receiver that verifies with `SECRET`, and its URL.
fn receiver(arguments: &[&str]) -> (Process, String) {
    let mut command = postrider();
    command.args(["listen", "--json", "--secret", SECRET]).args(arguments);
    let process = Process::start(&mut command);
    let url = process.json()["url"].as_str().expect("a URL").to_owned();
    (process, url)
}

fn send(arguments: &[&str]) -> Command {
    let mut command = postrider();
    command.arg("send").args(arguments).env_remove("POSTRIDER_ENDPOINT_SECRET").stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the program starts")
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_event_arrives_verified_and_the_exit_code_is_0() {
    let (receiver, url) = receiver(&[]);
    let output = run(&mut send(&[&url, "--secret", SECRET, "--type", "user.created", "--data", "{\"n\":1.00}"]));
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("Attempt 1  → 200") && shown.contains("Delivered after 1 attempt"), "{shown}");
    assert!(!shown.contains(SECRET), "it is known already");
    let event = receiver.json();
    assert_eq!(event["verification"], "verified", "{event}");
    assert_eq!(event["payload"]["type"], "user.created");
    assert_eq!(event["payload"]["data"]["n"], 1.0);
}

#[test]
fn piped_input_that_is_not_read_is_spoken_of() {
    let (receiver, url) = receiver(&[]);
    for (arguments, piped, noted) in
        [(["--data", "1"], "2", true), (["--data", "1"], "", false), (["--file", "-"], "1", false)]
    {
        let (read, mut write) = std::io::pipe().expect("there are pipes");
        write.write_all(piped.as_bytes()).expect("it has room");
        drop(write);
        let output = run(send(&[&url, "--secret", SECRET]).args(arguments).stdin(read));
        assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
        assert_eq!(errors(&output).contains("standard input is not read"), noted, "{}", errors(&output));
        assert_eq!(receiver.json()["payload"], 1);
    }
}

#[test]
fn data_comes_from_standard_input_or_a_file_as_it_is() {
    let (receiver, url) = receiver(&[]);
    let mut child = send(&[&url, "--secret", SECRET, "--file", "-"]).stdin(Stdio::piped()).spawn().expect("it starts");
    child.stdin.take().expect("it is piped").write_all(b"plain text").expect("it reads");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert_eq!(receiver.json()["payload"], "plain text");
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(b"[1,2]").expect("it can be written");
    let path = file.path().to_str().expect("its path is text");
    assert_eq!(run(&mut send(&[&url, "--secret", SECRET, "--file", path])).status.code(), Some(0));
    assert_eq!(receiver.json()["payload"], serde_json::json!([1, 2]));
}

#[test]
fn what_is_piped_into_it_is_sent_without_being_asked_for() {
    let (receiver, url) = receiver(&[]);
    for (arguments, expected) in [(vec![], "{\"n\":1.00}"), (vec!["--type", "user.created"], "\"data\":{\"n\":1.00}")] {
        let mut command = send(&[&url, "--secret", SECRET]);
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it starts");
        child.stdin.take().expect("it is piped").write_all(b"{\"n\":1.00}").expect("it reads");
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
        let line = receiver.line_with("\"kind\":\"event\"");
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn an_empty_pipe_is_an_empty_event() {
    let (receiver, url) = receiver(&[]);
    let mut child =
        send(&[&url, "--secret", SECRET]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it starts");
    drop(child.stdin.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert_eq!(receiver.json()["payload"]["type"], "postrider.test");
}

#[test]
fn a_failing_receiver_is_tried_again_with_the_same_id_until_it_takes_the_message() {
    let (receiver, url) = receiver(&["--fail-first", "2"]);
    let output = run(&mut send(&[&url, "--secret", SECRET, "--schedule", "10ms,20ms", "--json"]));
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let lines = lines(&output);
    let statuses: Vec<_> = lines.iter().filter(|line| line["kind"] == "attempt").map(|line| &line["status"]).collect();
    assert_eq!(statuses, [500, 500, 200]);
    assert!(lines[1]["nextInMs"].as_u64().is_some_and(|wait| wait <= 12), "{}", lines[1]);
    assert_eq!(lines.last().expect("a result")["delivered"], true);
    let ids: Vec<_> = (0..3).map(|_| receiver.json()["id"].clone()).collect();
    assert!(ids.iter().all(|id| *id == lines[0]["id"]), "{ids:?}");
}

#[test]
fn the_exit_code_is_1_when_no_attempt_is_left() {
    let (_receiver, url) = receiver(&["--status", "503"]);
    let output = run(&mut send(&[&url, "--secret", SECRET, "--schedule", "1ms"]));
    assert_eq!(output.status.code(), Some(1));
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("Not delivered after 2 attempts"), "{shown}");
}

#[test]
fn a_receiver_that_is_gone_gets_no_second_attempt() {
    let (_receiver, url) = receiver(&["--status", "410"]);
    let output = run(&mut send(&[&url, "--secret", SECRET, "--schedule", "1ms,1ms"]));
    assert_eq!(output.status.code(), Some(1));
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("the receiver wants no more messages") && !shown.contains("Attempt 2"), "{shown}");
}

#[test]
fn a_secret_that_was_made_up_is_shown_and_verifies() {
    let (receiver, url) = receiver(&[]);
    let output = run(&mut send(&[&url, "--retries", "0", "--json"]));
    assert_eq!(output.status.code(), Some(1), "the receiver knows another secret");
    assert_eq!(receiver.json()["verification"], "not verified");
    let secret = lines(&output)[0]["newSecret"].as_str().expect("a secret").to_owned();
    assert!(secret.starts_with("whsec_"), "{secret}");
}

#[test]
fn an_earlier_message_can_be_sent_again_by_its_id_with_headers_of_ones_own() {
    let (receiver, url) = receiver(&[]);
    let id = "msg_0ujtsYcgvSTl8PAuAdqWYSMnLOv";
    let output = run(&mut send(&[&url, "--secret", SECRET, "--id", id, "--header-prefix", "svix", "-H", "X-Own: yes"]));
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let event = receiver.json();
    assert_eq!((event["id"].as_str(), event["verification"].as_str()), (Some(id), Some("verified")));
}

#[test]
fn a_local_address_is_refused_under_guard_and_named_as_such() {
    let (receiver, url) = receiver(&[]);
    let output = run(&mut send(&[&url, "--secret", SECRET, "--guard", "--retries", "0"]));
    assert_eq!(output.status.code(), Some(1));
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("private, local or reserved"), "{shown}");
    // Nothing has arrived: the next thing that does is this.
    let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    assert_eq!(post(&address, &[("webhook-id", "marker")], b"{}"), 401);
    assert_eq!(receiver.json()["id"], "marker");
}

#[test]
fn what_cannot_be_tried_is_explained_in_a_line_and_the_exit_code_is_2() {
    let url = "http://localhost:1/";
    for (arguments, text) in [
        (vec!["ftp://example.com/"], "must begin with http:// or https://"),
        (vec!["localhost:4000"], "must begin with http:// or https://"),
        (vec![url, "--secret", "nonsense"], "whsec_"),
        (vec![url, "--schedule", "soon"], "is not a duration"),
        (vec![url, "--type", "no spaces"], "may only contain"),
        (vec![url, "--type", "a.b", "--data", "{"], "must be JSON"),
        (vec![url, "--file", "/nowhere/event.json"], "/nowhere/event.json"),
        (vec![url, "--file", "-"], "standard input is empty"),
        (vec![url, "--header", "content-length: 1"], "set by the delivery itself"),
        (vec![], "Usage"),
    ] {
        let output = run(&mut send(&arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", errors(&output));
        assert!(errors(&output).contains(text), "{arguments:?}: {}", errors(&output));
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}
