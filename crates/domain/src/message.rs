//! Messages: events accepted for one application.

use bytes::Bytes;

use crate::ids::MessageId;
use crate::names::{Channel, EventTypeName, Uid};
use crate::time::Timestamp;

/// The largest body of a request that creates one message, in bytes (rest-contract §1.1).
pub const MAX_BODY_BYTES: usize = 2 * 1024 * 1024;

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
    /// For how many days the payload is kept.
    pub retention_days: u16,
    /// When it was accepted; equals the instant in the id.
    pub created_at: Timestamp,
}
