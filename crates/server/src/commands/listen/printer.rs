//! How the listener shows what arrives: readably, or as one JSON object per line. What a request contains can't control
//! the terminal.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, StatusCode};
use postrider_domain::time::Timestamp;
use postrider_domain::verify::VerifyError;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::forward::Forwarded;

use crate::log::Output;
use crate::terminal::{self, BAD, DIM, GOOD, NOTE, STRONG, harmless, paint};

/// Longer payloads are cut, so that a large one does not push everything else away.
const SHOWN_CHARACTERS: usize = 20_000;

/// Whether a request is from who it claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verification {
    /// A signature fits.
    Verified,
    /// None does, and why.
    Failed(VerifyError),
    /// There is nothing to verify with.
    NoSecret,
}

/// A request and its answer.
pub(super) struct Event<'a> {
    /// When it arrived.
    pub(super) at: Timestamp,
    /// Where to.
    pub(super) path: &'a str,
    /// `webhook-id`
    pub(super) id: Option<&'a str>,
    /// Which attempt of its message this is.
    pub(super) attempt: Option<u32>,
    /// Whether its signature fits.
    pub(super) verification: Verification,
    /// What is answered.
    pub(super) status: StatusCode,
    /// What became of it at the application that it was forwarded to.
    pub(super) forwarded: Option<&'a Forwarded>,
    /// The headers, as they came.
    pub(super) headers: &'a HeaderMap,
    /// What it carries.
    pub(super) body: &'a [u8],
}

/// An event as one line of JSON. The payload is what arrived: its numbers, its order and its doubled members.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    kind: &'static str,
    at: Timestamp,
    id: Option<&'a str>,
    attempt: Option<u32>,
    path: &'a str,
    verification: &'static str,
    reason: Option<String>,
    r#type: Option<String>,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    forwarded: Option<&'a Forwarded>,
    headers: Vec<(&'a str, Cow<'a, str>)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Box<RawValue>>,
    /// Only of a body that is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

/// Prints, and counts for the summary.
pub(super) struct Printer {
    json: bool,
    quiet: bool,
    headers: bool,
    requests: u64,
    first_attempts: u64,
    verified: u64,
    not_verified: u64,
    answered_otherwise: u64,
    /// Where events go, if not straight to standard output.
    output: Option<Output>,
}

impl Printer {
    /// Prints as JSON or for people; without payloads if `quiet`, and for people with headers only if `headers`.
    pub(super) fn new(json: bool, quiet: bool, headers: bool) -> Self {
        Self {
            json,
            quiet,
            headers,
            requests: 0,
            first_attempts: 0,
            verified: 0,
            not_verified: 0,
            answered_otherwise: 0,
            output: None,
        }
    }

    /// Prints events to where a server prints, which holds nobody up.
    pub(super) fn to(self, output: Output) -> Self {
        Self { output: Some(output), ..self }
    }

    /// Where it listens, and what to do next.
    pub(super) fn start(&self, address: SocketAddr, verifies: bool) -> anyhow::Result<()> {
        let mut out = terminal::stdout();
        let url = format!("http://{address}/");
        if self.json {
            writeln!(out, "{}", json!({ "kind": "listening", "url": url, "verifies": verifies }))?;
            return Ok(());
        }
        writeln!(out, "Listening on {}", paint(STRONG, &url))?;
        writeln!(out, "Make it the URL of an endpoint, or send something to it from another terminal:\n")?;
        let secret = if verifies { " --secret …" } else { "" };
        let send = format!("postrider send {url} --type demo.hello --data '{{\"hello\":\"world\"}}'{secret}");
        writeln!(out, "  {}\n", paint(STRONG, send))?;
        if !verifies {
            writeln!(out, "{}", paint(DIM, "Signatures are not verified: give the endpoint's --secret for that."))?;
        }
        writeln!(out, "{}", paint(DIM, "Ctrl-C ends it."))?;
        out.flush()?;
        Ok(())
    }

    /// One request.
    pub(super) fn event(&mut self, event: &Event<'_>) -> std::io::Result<()> {
        self.requests += 1;
        self.first_attempts += u64::from(event.attempt == Some(1));
        self.verified += u64::from(event.verification == Verification::Verified);
        self.not_verified += u64::from(matches!(event.verification, Verification::Failed(_)));
        self.answered_otherwise += u64::from(!event.status.is_success());
        let mut out = terminal::buffer();
        if self.json {
            writeln!(out, "{}", event.to_json(self.quiet)?)?;
        } else {
            writeln!(out, "{}", event.line())?;
            if self.headers {
                for (name, value) in event.header_lines() {
                    writeln!(out, "    {}: {}", paint(DIM, harmless(name)), harmless(&value))?;
                }
            }
            if !self.quiet && !event.body.is_empty() {
                writeln!(out, "{}", indented(&readable(event.body)))?;
            }
        }
        match &self.output {
            Some(output) => {
                output.push(out.into_inner());
                Ok(())
            }
            None => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(&out.into_inner()).and_then(|()| stdout.flush())
            }
        }
    }

    /// The summary.
    pub(super) fn end(&self) -> anyhow::Result<()> {
        let mut out = terminal::stdout();
        if self.json {
            let summary = json!({
                "kind": "summary", "requests": self.requests, "messages": self.first_attempts,
                "verified": self.verified, "notVerified": self.not_verified,
                "answeredOtherThan2xx": self.answered_otherwise,
            });
            writeln!(out, "{summary}")?;
        } else {
            writeln!(
                out,
                "\n{}, {}; {} verified, {} not verified; {}",
                counted(self.requests, "request"),
                counted(self.first_attempts, "message"),
                self.verified,
                self.not_verified,
                counted(self.answered_otherwise, "non-2xx response"),
            )?;
        }
        out.flush()?;
        Ok(())
    }
}

/// A number of things: 1 request, 2 requests.
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

impl Event<'_> {
    fn line(&self) -> String {
        let verification = match self.verification {
            Verification::Verified => paint(GOOD, "verified"),
            Verification::Failed(error) => paint(BAD, format!("not verified: {error}")),
            Verification::NoSecret => paint(NOTE, "no secret given"),
        };
        let mut line = format!("{}  {}  {verification}", paint(DIM, self.at), harmless(self.id.unwrap_or("(no id)")));
        if let Some(event_type) = self.event_type() {
            line += &format!("  {}", paint(STRONG, harmless(&event_type)));
        }
        if self.path != "/" {
            line += &format!("  {}", harmless(self.path));
        }
        let style = if self.status.is_success() { GOOD } else { BAD };
        line += &format!("  → {}", paint(style, self.status.as_u16()));
        if let Some(forwarded) = self.forwarded {
            line += &format!("  {}", paint(DIM, harmless(&forwarded.to_string())));
        }
        match self.attempt {
            Some(attempt) if attempt > 1 => line + &paint(NOTE, format!("  attempt {attempt}")),
            _ => line,
        }
    }

    /// The headers in their order, text or not.
    fn header_lines(&self) -> Vec<(&str, Cow<'_, str>)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()))).collect()
    }

    fn to_json(&self, quiet: bool) -> serde_json::Result<String> {
        let (verification, reason) = match self.verification {
            Verification::Verified => ("verified", None),
            Verification::Failed(error) => ("not verified", Some(error.to_string())),
            Verification::NoSecret => ("no secret given", None),
        };
        let is_text = std::str::from_utf8(self.body).is_ok();
        serde_json::to_string(&Line {
            kind: "event",
            at: self.at,
            id: self.id,
            attempt: self.attempt,
            path: self.path,
            verification,
            reason,
            r#type: self.event_type(),
            status: self.status.as_u16(),
            forwarded: self.forwarded,
            headers: self.header_lines(),
            payload: if quiet { None } else { self.payload()? },
            payload_base64: (!quiet && !is_text).then(|| BASE64.encode(self.body)),
        })
    }

    /// The payload as it came, but on one line, or as a string if it is text and not JSON.
    fn payload(&self) -> serde_json::Result<Option<Box<RawValue>>> {
        let Ok(text) = std::str::from_utf8(self.body) else { return Ok(None) };
        if serde_json::from_str::<&RawValue>(text).is_err() {
            return serde_json::value::to_raw_value(text).map(Some);
        }
        // JSON has line ends only between its tokens, where a blank says the same.
        RawValue::from_string(text.trim().replace(['\n', '\r'], " ")).map(Some)
    }

    /// The payload's own `type`, where senders put the event's name.
    fn event_type(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Typed<'a> {
            #[serde(borrow)]
            r#type: Cow<'a, str>,
        }
        serde_json::from_slice::<Typed<'_>>(self.body).ok().map(|typed| typed.r#type.into_owned())
    }
}

/// JSON indented, anything else as it is; cut to a length that can be looked at.
fn readable(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    // Parsed as a whole first, because that refuses what is nested too deeply to be indented.
    let text = if serde_json::from_slice::<Value>(body).is_ok() { spread(&text) } else { text.into_owned() };
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}\n… ({} bytes in all)", &text[..end], body.len()),
        None => text,
    }
}

/// Spreads JSON over lines. Members keep their order and numbers their digits: what was signed is what is seen.
fn spread(json: &str) -> String {
    let (mut out, mut depth, mut in_string, mut escaped) =
        (String::with_capacity(json.len() * 2), 0usize, false, false);
    let mut letters = json.trim().chars().peekable();
    while let Some(letter) = letters.next() {
        if in_string {
            in_string = escaped || letter != '"';
            escaped = letter == '\\' && !escaped;
            out.push(letter);
            continue;
        }
        match letter {
            '{' | '[' => {
                out.push(letter);
                while letters.next_if(|next| next.is_ascii_whitespace()).is_some() {}
                match letters.next_if(|next| matches!(next, '}' | ']')) {
                    Some(end) => out.push(end),
                    None => {
                        depth += 1;
                        line(&mut out, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(letter);
            }
            ',' => {
                out.push(letter);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            blank if blank.is_ascii_whitespace() => {}
            other => {
                in_string = other == '"';
                out.push(other);
            }
        }
    }
    out
}

fn line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

fn indented(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("    {}", harmless(line))).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(body: &[u8]) -> Event<'_> {
        Event {
            at: Timestamp::from_micros(1_767_323_045_120_000),
            path: "/hook",
            id: Some("msg_1"),
            attempt: Some(2),
            verification: Verification::Verified,
            status: StatusCode::INTERNAL_SERVER_ERROR,
            forwarded: None,
            headers: NO_HEADERS.get_or_init(HeaderMap::new),
            body,
        }
    }

    static NO_HEADERS: std::sync::OnceLock<HeaderMap> = std::sync::OnceLock::new();

    fn json(event: &Event<'_>, quiet: bool) -> Value {
        serde_json::from_str(&event.to_json(quiet).unwrap()).unwrap()
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_line_says_when_which_whether_what_where_and_the_answer() {
        assert_eq!(
            plain(&event(br#"{"type":"user.created"}"#).line()),
            "2026-01-02T03:04:05.120Z  msg_1  verified  user.created  /hook  → 500  attempt 2"
        );
    }

    #[test]
    fn nothing_in_a_request_controls_the_terminal() {
        let body = "{\"type\":\"\\u001b[2J\",\"a\":\"\u{9b}31m\"}";
        let line = event(body.as_bytes()).line();
        assert!(!plain(&line).contains('\u{1b}'));
        assert!(!indented(&readable(body.as_bytes())).contains('\u{9b}'));
        assert!(!indented(&readable(b"not json \x1b[2J")).contains('\u{1b}'));
    }

    #[test]
    fn a_payload_that_is_not_json_is_shown_as_text() {
        assert_eq!(json(&event(b"hello"), false)["payload"], "hello");
        assert_eq!(indented(&readable(b"hello\nworld")), "    hello\n    world");
    }

    #[test]
    fn json_is_indented_and_a_long_text_is_cut() {
        let text = readable(br#"{"z":1.0, "a":[ ],"b":["x\",{}"]}"#);
        assert_eq!(text, "{\n  \"z\": 1.0,\n  \"a\": [],\n  \"b\": [\n    \"x\\\",{}\"\n  ]\n}");
        assert!(readable("x".repeat(30_000).as_bytes()).ends_with("(30000 bytes in all)"));
    }

    #[test]
    fn a_quiet_event_has_no_payload() {
        assert!(json(&event(b"{}"), true).get("payload").is_none());
    }

    #[test]
    fn a_payload_in_json_keeps_numbers_order_and_doubled_members_on_one_line() {
        let line = event(b"{ \"z\": 1.00,\n \"a\": 12345678901234567890, \"z\": 1e400 }\n").to_json(false).unwrap();
        assert!(line.contains(r#""payload":{ "z": 1.00,  "a": 12345678901234567890, "z": 1e400 }"#), "{line}");
        assert!(!line.contains('\n'));
    }

    #[test]
    fn a_payload_that_is_no_text_is_shown_in_base64() {
        let shown = json(&event(b"\xff\xfe"), false);
        assert_eq!((shown.get("payload"), &shown["payloadBase64"]), (None, &"//4=".into()));
    }
}
