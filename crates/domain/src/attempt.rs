//! Attempts: the log of requests that were made.

use bytes::Bytes;

use crate::ids::{AttemptId, EndpointId, MessageId};
use crate::message::Message;
use crate::time::Timestamp;

crate::limits! {
    in "Responses of receivers";
    /// What is kept of a response's body, for the log of attempts
    pub const MAX_KEPT_ANSWER_BYTES: usize = 20_000, "bytes", beyond "cut, at a character if it is text";
}

/// A text whose last character may have been cut, without that character. `None` if it is no text.
pub fn cut_text(bytes: &[u8]) -> Option<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&bytes[..error.valid_up_to()]).ok(),
        Err(_) => None,
    }
}

/// Why an attempt was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// By the schedule. On the wire: 0.
    Scheduled,
    /// Because somebody asked for it. On the wire: 1.
    Manual,
}

impl Trigger {
    /// The number on the wire and in the store.
    pub const fn code(self) -> u8 {
        match self {
            Self::Scheduled => 0,
            Self::Manual => 1,
        }
    }

    /// The trigger of a number; anything but 1 is scheduled.
    pub const fn from_code(code: u8) -> Self {
        if code == 1 { Self::Manual } else { Self::Scheduled }
    }
}

/// One HTTP request made for a delivery, as the log shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its id, made when the attempt started.
    pub id: AttemptId,
    /// The message it was made for.
    pub message_id: MessageId,
    /// The endpoint it was made to.
    pub endpoint_id: EndpointId,
    /// The URL at that time.
    pub url: String,
    /// Whether the receiver answered 2xx.
    pub succeeded: bool,
    /// The status of the answer; 0 if there was none.
    pub status_code: u16,
    /// The first bytes of the answer, or what went wrong; `None` if it was expunged.
    pub response: Option<Bytes>,
    /// From start to answer, in milliseconds.
    pub duration_ms: u32,
    /// Why it was made.
    pub trigger: Trigger,
    /// When it started; equals the instant in the id.
    pub started_at: Timestamp,
    /// When the delivery is tried again; `None` if it is not.
    pub next_attempt_at: Option<Timestamp>,
    /// The message, without its payload, if it was asked for.
    pub message: Option<Box<Message>>,
}
