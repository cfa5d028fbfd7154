//! What came of delivering: the messages that were attempted to an endpoint, and the endpoints to which a message was
//! attempted. Both are drawn from the log of attempts; what was never attempted is in neither.

use async_trait::async_trait;
use postrider_domain::endpoint::Endpoint;
use postrider_domain::ids::Ksuid;
use postrider_domain::message::Message;
use postrider_domain::names::{Channel, EventTypeName, Tag};
use postrider_domain::time::Timestamp;

use crate::{ApplicationKey, EndpointKey, MessageKey, Scan, StoreError, Walked};

/// How a message stands with an endpoint to which it was attempted at least once. Each attempt says one of these, and the
/// highest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Every attempt failed, and after each another one was scheduled.
    Waiting,
    /// No attempt succeeded, and one failed after which no other was scheduled.
    Failed,
    /// Some attempt succeeded, whatever came after it.
    Delivered,
    /// It is [`Standing::Waiting`] as far as its attempts say, but what they announced was canceled. No attempt says that.
    Canceled,
}

impl Standing {
    /// What one attempt says.
    pub const fn after(succeeded: bool, is_scheduled_again: bool) -> Self {
        match (succeeded, is_scheduled_again) {
            (true, _) => Self::Delivered,
            (false, false) => Self::Failed,
            (false, true) => Self::Waiting,
        }
    }
}

/// Which attempted messages a list shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptedFilter {
    /// Only those that stand like this.
    pub standing: Option<Standing>,
    /// Only those sent on this channel.
    pub channel: Option<Channel>,
    /// Only those of these types; `None` is all.
    pub event_types: Option<Vec<EventTypeName>>,
    /// Only those with this tag.
    pub tag: Option<Tag>,
    /// With their payloads; otherwise `payload` is `None`.
    pub with_payload: bool,
}

/// A message that was attempted to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptedMessage {
    /// The message.
    pub message: Message,
    /// Whether its latest attempt succeeded.
    pub succeeded: bool,
    /// When it is tried again, as its latest attempt says.
    pub next_attempt_at: Option<Timestamp>,
    /// It was to be tried again, but that was canceled: because the endpoint was disabled, for instance.
    pub canceled: bool,
}

/// An endpoint to which a message was attempted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The endpoint, as it is now or was when it was deleted; the event types that a deleted one asked for are not kept.
    pub endpoint: Endpoint,
    /// Whether the latest attempt succeeded.
    pub succeeded: bool,
    /// When it is tried again, as the latest attempt says.
    pub next_attempt_at: Option<Timestamp>,
    /// It was to be tried again, but that was canceled.
    pub canceled: bool,
}

/// Operations that read what came of delivering.
#[async_trait]
pub trait Attempted {
    /// A page of the messages of an application that were attempted to this endpoint of it, by message id. Stops early after
    /// [`crate::PAGE_BYTES`] of payload, and after [`crate::PAGE_ROWS`]: that something was canceled no index says. However few
    /// messages the filter lets through, the time is that of a page.
    async fn attempted_messages(
        &self,
        application: ApplicationKey,
        endpoint: EndpointKey,
        filter: &AttemptedFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Walked<AttemptedMessage>, StoreError>;

    /// A page of the endpoints to which a message was attempted, by endpoint id. Deleted ones are among them. Stops early after
    /// [`crate::PAGE_BYTES`] of endpoints; and of a message that was attempted at very many, after [`crate::PAGE_ROWS`] of the
    /// application's to which it was not.
    async fn destinations(&self, message: MessageKey, scan: Scan<Ksuid>) -> Result<Walked<Destination>, StoreError>;
}
