//! Messages: events accepted for one application.

use std::time::Duration;

use bytes::Bytes;

use crate::ids::MessageId;
use crate::names::{Channel, EventTypeName, Tag, Uid};
use crate::time::Timestamp;

crate::limits! {
    in "Messages";
    /// The body of a request, and so the payload of a message
    pub const MAX_BODY_BYTES: usize = 2 * 1024 * 1024, "bytes", beyond "413";
    /// The channels that a message is sent on
    pub const MAX_MESSAGE_CHANNELS: usize = 5, "elements", beyond "422";
    /// The tags of a message
    pub const MAX_MESSAGE_TAGS: usize = 10, "elements", beyond "422";
    /// How far ahead a message can be scheduled, and for how long its payload can be kept
    pub const MAX_DELAY_DAYS: u16 = 90, "days", beyond "422";
}

/// The longest time by which the delivery of a message can be put off, and for which its payload can be kept.
pub const MAX_DELAY: Duration = Duration::from_secs(MAX_DELAY_DAYS as u64 * 86_400);

/// One event accepted for one application. The payload is delivered and signed byte for byte as it is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its id; also the `webhook-id` of every request made for it.
    pub id: MessageId,
    /// The caller's own identifier, unique in the application.
    pub event_id: Option<Uid>,
    /// What kind of event it is.
    pub event_type: EventTypeName,
    /// The channels it is sent on; `None` reaches only endpoints that listen to all.
    pub channels: Option<Vec<Channel>>,
    /// The bytes to deliver; `None` if they were expunged, or have expired, or were not asked for.
    pub payload: Option<Bytes>,
    /// By what it can be found in lists.
    pub tags: Option<Vec<Tag>>,
    /// When it is to be delivered, if not at once. Later than `created_at`.
    pub deliver_at: Option<Timestamp>,
    /// When its payload goes, if the sender said so; `None` is after the time that the server keeps payloads.
    pub expires_at: Option<Timestamp>,
    /// When it was accepted; equals the instant in the id.
    pub created_at: Timestamp,
}

impl Message {
    /// When the first attempts to deliver it are due.
    pub fn due_at(&self) -> Timestamp {
        self.deliver_at.unwrap_or(self.created_at)
    }
}
