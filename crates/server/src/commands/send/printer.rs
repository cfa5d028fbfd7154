//! How a delivery is shown while it is made: readably, or as one JSON object per line.

use std::borrow::Cow;
use std::io::Write as _;
use std::time::Duration;

use postrider_delivery::sender::Sent;
use postrider_domain::delivery::{Next, Outcome};
use postrider_domain::message::Message;
use serde_json::json;

use crate::terminal::{self, BAD, DIM, GOOD, NOTE, STRONG, harmless, paint};

/// Enough of an answer's first line to recognise it.
const SHOWN_CHARACTERS: usize = 200;

/// One attempt.
pub(super) struct Made<'a> {
    /// From 1.
    pub(super) number: u32,
    /// What came of it.
    pub(super) sent: &'a Sent,
    /// When it is tried again, if it is.
    pub(super) next: Option<Duration>,
}

/// Prints a delivery.
pub(super) struct Printer {
    json: bool,
    url: String,
    /// A secret that the user does not know yet.
    new_secret: Option<String>,
}

impl Printer {
    pub(super) fn new(json: bool, url: String, new_secret: Option<String>) -> Self {
        Self { json, url, new_secret }
    }

    /// What is going to be sent, and how it can be verified.
    pub(super) fn start(&self, message: &Message) -> anyhow::Result<()> {
        let mut out = terminal::stdout();
        let bytes = message.payload.as_ref().map_or(0, |payload| payload.len());
        if self.json {
            let start = json!({
                "kind": "sending", "id": message.id, "url": self.url, "bytes": bytes, "newSecret": self.new_secret,
            });
            writeln!(out, "{start}")?;
            return Ok(out.flush()?);
        }
        writeln!(out, "Sending {} ({bytes} bytes) to {}", paint(STRONG, message.id), paint(STRONG, &self.url))?;
        if let Some(secret) = &self.new_secret {
            writeln!(out, "Signed with a new secret, to verify with: {}", paint(STRONG, secret))?;
        }
        Ok(out.flush()?)
    }

    /// One attempt.
    pub(super) fn attempt(&self, made: &Made<'_>) -> anyhow::Result<()> {
        let mut out = terminal::stdout();
        writeln!(out, "{}", if self.json { made.to_json() } else { made.line() })?;
        Ok(out.flush()?)
    }

    /// What came of it all.
    pub(super) fn end(&self, next: Next, attempts: u32) -> anyhow::Result<()> {
        let mut out = terminal::stdout();
        let delivered = next == Next::Succeeded;
        if self.json {
            writeln!(out, "{}", json!({ "kind": "result", "delivered": delivered, "attempts": attempts }))?;
            return Ok(out.flush()?);
        }
        let count = if attempts == 1 { "1 attempt".to_owned() } else { format!("{attempts} attempts") };
        match next {
            Next::Succeeded => writeln!(out, "{} after {count}", paint(GOOD, "Delivered"))?,
            Next::Canceled => {
                writeln!(out, "{}: the receiver wants no more messages (410)", paint(BAD, "Not delivered"))?;
            }
            Next::Waiting(_) | Next::Exhausted => writeln!(out, "{} after {count}", paint(BAD, "Not delivered"))?,
        }
        Ok(out.flush()?)
    }
}

impl Made<'_> {
    fn line(&self) -> String {
        let (style, what, more) = match &self.sent.outcome {
            Outcome::Answered { status, body, .. } => {
                let style = if self.sent.outcome.succeeded() { GOOD } else { BAD };
                (style, status.to_string(), first_line(body))
            }
            Outcome::Failed { detail, .. } => (BAD, "no answer".to_owned(), detail.clone()),
        };
        let millis = self.sent.duration.as_secs_f64() * 1e3;
        let mut line = format!("Attempt {}  → {}", self.number, paint(style, what));
        line += &paint(DIM, format!("  {millis:.1} ms"));
        if !more.is_empty() {
            line += &format!("  {}", harmless(&more));
        }
        if let Some(wait) = self.next {
            line += &paint(NOTE, format!("  again in {:.1} s", wait.as_secs_f64()));
        }
        line
    }

    fn to_json(&self) -> String {
        let (status, answer, error) = match &self.sent.outcome {
            Outcome::Answered { status, body, .. } => (Some(status), Some(String::from_utf8_lossy(body)), None),
            Outcome::Failed { detail, .. } => (None, None, Some(detail)),
        };
        json!({
            "kind": "attempt", "attempt": self.number, "status": status, "answer": answer, "error": error,
            "durationMs": self.sent.duration.as_secs_f64() * 1e3, "nextInMs": self.next.map(|wait| wait.as_millis() as u64),
        })
        .to_string()
    }
}

fn first_line(body: &[u8]) -> String {
    let text: Cow<'_, str> = String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN_CHARACTERS)]);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    match line.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn shown(outcome: Outcome, next: Option<Duration>) -> String {
        let sent = Sent { outcome, duration: Duration::from_micros(12_340) };
        anstream::adapter::strip_str(&Made { number: 2, sent: &sent, next }.line()).to_string()
    }

    #[test]
    fn an_attempt_is_one_line_with_the_first_line_of_the_answer() {
        let body = Bytes::from_static(b"\n  try \x1b[31m later\nmore");
        let outcome = Outcome::Answered { status: 503, retry_after: None, body };
        assert_eq!(
            shown(outcome, Some(Duration::from_millis(1_100))),
            "Attempt 2  → 503  12.3 ms  try \u{fffd}[31m later  again in 1.1 s"
        );
    }

    #[test]
    fn a_failure_says_why() {
        let kind = postrider_domain::delivery::Failure::Connect;
        let outcome = Outcome::Failed { kind, detail: "the receiver refused the connection".to_owned() };
        assert_eq!(shown(outcome, None), "Attempt 2  → no answer  12.3 ms  the receiver refused the connection");
    }
}
