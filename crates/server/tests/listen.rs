//! `postrider listen` from the outside: what it answers, what it prints, how it ends.

mod support;

use std::process::Command;

use postrider_domain::clock::{Clock as _, SystemClock};
use postrider_domain::entropy::OsEntropy;
use postrider_domain::ids::MessageId;
use postrider_domain::signature::{Secret, SecretKind, SigningKeys};

use support::{Process, post, postrider};

const BODY: &[u8] = br#"{"type":"user.created","data":{"name":"Ada"}}"#;

fn listen(arguments: &[&str]) -> Command {
    let mut command = postrider();
    command.arg("listen").args(arguments).env_remove("POSTRIDER_ENDPOINT_SECRET");
    command
}

/// Starts it with `--json`, and gives its address as well.
fn listen_json(arguments: &[&str]) -> (Process, String) {
    let process = Process::start(listen(arguments).arg("--json"));
    let start = process.json();
    assert_eq!(start["kind"], "listening");
    let url = start["url"].as_str().expect("a URL");
    let address = url.strip_prefix("http://").expect("http").trim_end_matches('/').to_owned();
    (process, address)
}

/// Headers with which `secret` signs `BODY` now, under either prefix.
fn signed(secret: &Secret, prefix: &str) -> Vec<(String, String)> {
    let now = SystemClock::new().wall();
    let id = MessageId::new(now, &OsEntropy);
    let timestamp = now.as_seconds().to_string();
    let signature = SigningKeys::new(secret.clone()).sign(&id, &timestamp, BODY, now);
    [("id", id.to_string()), ("timestamp", timestamp), ("signature", signature)]
        .map(|(name, value)| (format!("{prefix}-{name}"), value))
        .into()
}

fn post_signed(address: &str, headers: &[(String, String)]) -> u16 {
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    post(address, &headers, BODY)
}

#[test]
fn a_signed_request_is_verified_with_either_scheme_and_either_names() {
    for kind in [SecretKind::Hmac256, SecretKind::Ed25519] {
        let secret = Secret::generate(kind, &OsEntropy);
        let (process, address) = listen_json(&["--secret", &secret.public_text()]);
        for prefix in ["webhook", "svix"] {
            let headers = signed(&secret, prefix);
            assert_eq!(post_signed(&address, &headers), 200);
            let event = process.json();
            assert_eq!(event["verification"], "verified", "{event}");
            assert_eq!(event["id"], headers[0].1);
            assert_eq!(event["type"], "user.created");
            assert_eq!(event["payload"]["data"]["name"], "Ada");
        }
    }
}

#[test]
fn what_is_not_signed_by_the_secret_is_refused() {
    let (process, address) = listen_json(&["--secret", "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="]);
    let other = Secret::generate(SecretKind::Hmac256, &OsEntropy);
    assert_eq!(post_signed(&address, &signed(&other, "webhook")), 401);
    assert_eq!(process.json()["reason"], "no signature fits");
    assert_eq!(post(&address, &[], BODY), 401);
    assert_eq!(process.json()["reason"], "header webhook-id is missing");
}

#[test]
fn it_fails_as_often_as_it_is_told_and_counts_attempts() {
    let (process, address) = listen_json(&["--fail-first", "2", "--status", "204,503"]);
    let expected = [("a", 500, 1), ("a", 500, 2), ("a", 204, 3), ("b", 500, 1), ("b", 500, 2), ("b", 503, 3)];
    for (id, status, attempt) in expected {
        assert_eq!(post(&address, &[("webhook-id", id)], BODY), status, "attempt {attempt} of {id}");
        let event = process.json();
        assert_eq!((&event["attempt"], &event["verification"]), (&attempt.into(), &"no secret given".into()));
    }
}

#[test]
fn ctrl_c_ends_it_with_a_summary_and_success() {
    let (process, address) = listen_json(&["--status", "200,500"]);
    for id in ["a", "a", "b"] {
        post(&address, &[("webhook-id", id)], b"{}");
        process.json();
    }
    process.interrupt();
    let summary = process.json();
    assert_eq!(summary["kind"], "summary");
    assert_eq!((&summary["requests"], &summary["messages"]), (&3.into(), &2.into()));
    assert_eq!(summary["answeredOtherThan2xx"], 1);
    assert!(process.wait().success());
}

#[test]
fn people_are_told_the_url_what_to_type_next_and_what_arrived() {
    let process = Process::start(&mut listen(&[]));
    let line = process.line_with("Listening on ");
    let address = line.strip_prefix("Listening on http://").unwrap().trim_end_matches('/').to_owned();
    process.line_with(&format!("postrider send http://{address}/"));
    post(&address, &[("webhook-id", "msg_1")], BODY);
    let line = process.line_with("msg_1");
    assert!(line.ends_with("msg_1  no secret given  user.created  → 200"), "{line}");
    process.line_with("    \"name\": \"Ada\"");
    assert!(!line.contains('\u{1b}'), "no colour without a terminal");
}

#[test]
fn a_port_in_use_and_a_wrong_secret_are_said_in_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = listen(&["--port", &port]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.starts_with("error: cannot listen on 127.0.0.1:") && error.lines().count() == 1, "{error}");

    let output = listen(&["--secret", "hunter2"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("must begin with whsec_"));
}

#[test]
fn what_arrives_is_forwarded_as_it_is_and_the_application_s_response_is_answered() {
    let (application, at) = listen_json(&["--status", "202"]);
    let (listener, address) = listen_json(&["--forward-to", &format!("http://{at}/webhooks?from=postrider")]);
    let body = br#"{"z":1.00,"a":2,"a":3}"#;
    assert_eq!(post(&address, &[("webhook-id", "msg_1"), ("X-Own", "yes")], body), 202);
    let (passed_on, arrived) = (listener.json(), application.json());
    assert_eq!(
        (&passed_on["status"], &arrived["path"], &arrived["id"]),
        (&202.into(), &"/webhooks".into(), &"msg_1".into())
    );
    let headers = arrived["headers"].as_array().expect("headers are a list");
    assert!(headers.contains(&serde_json::json!(["x-own", "yes"])), "{headers:?}");
    assert!(headers.contains(&serde_json::json!(["host", at])), "{headers:?}");
}

#[test]
fn nothing_that_does_not_verify_is_forwarded() {
    let (application, at) = listen_json(&[]);
    let secret = Secret::generate(SecretKind::Hmac256, &OsEntropy).public_text();
    let (_listener, address) = listen_json(&["--forward-to", &format!("http://{at}/"), "--secret", &secret]);
    assert_eq!(post(&address, &[("webhook-id", "forged")], BODY), 401);
    // The first thing that arrives there is this.
    assert_eq!(post(&at, &[("webhook-id", "marker")], BODY), 200);
    assert_eq!(application.json()["id"], "marker");
}

#[test]
fn an_application_that_is_not_there_is_a_502_that_says_so() {
    let (listener, address) = listen_json(&["--forward-to", "http://127.0.0.1:1/"]);
    assert_eq!(post(&address, &[("webhook-id", "a")], BODY), 502);
    let event = listener.json();
    assert!(event["forwarded"].as_str().is_some_and(|text| text.contains("connection failed")), "{event}");
}

#[test]
fn json_shows_headers_and_the_payload_as_it_came() {
    let mut process = listen(&["--json"]);
    let process = Process::start(&mut process);
    let url = process.json()["url"].as_str().expect("a URL").to_owned();
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    post(
        address,
        &[("webhook-id", "a"), ("X-Own", "yes")],
        b"{\"z\": 1.00,\n\"a\": 12345678901234567890, \"z\": 1e400}",
    );
    let line = process.line_with("\"kind\":\"event\"");
    assert!(line.contains(r#""payload":{"z": 1.00, "a": 12345678901234567890, "z": 1e400}"#), "{line}");
    assert!(line.contains(r#"["x-own","yes"]"#), "{line}");
}

#[test]
fn people_see_headers_when_they_ask_for_them() {
    let process = Process::start(&mut listen(&["--headers"]));
    let line = process.line_with("Listening on ");
    let address = line.strip_prefix("Listening on http://").unwrap().trim_end_matches('/').to_owned();
    post(&address, &[("webhook-id", "msg_1"), ("x-own", "\u{9b}31m")], BODY);
    let shown = process.line_with("x-own: ");
    assert!(!shown.contains('\u{9b}'), "{shown}");
}

#[test]
fn a_listener_that_is_told_to_forward_to_itself_does_so_once() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let to = format!("http://127.0.0.1:{port}/");
    let (listener, address) = listen_json(&["--port", &port.to_string(), "--forward-to", &to]);
    assert_eq!(post(&address, &[("webhook-id", "a")], BODY), 508);
    assert_eq!(listener.json()["status"], 508);
}
