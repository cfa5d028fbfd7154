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

/// What an attempt says of how its message stands with its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// Its id.
    pub id: Ksuid,
    /// When it started.
    pub started_at: Timestamp,
    /// Which attempt of its series it was.
    pub number: i64,
    /// Whether the receiver answered 2xx.
    pub succeeded: bool,
    /// When another one is made, as it says.
    pub next_attempt_at: Option<Timestamp>,
}

impl Tried {
    /// How the message stands, as this attempt says.
    pub const fn standing(&self) -> Standing {
        Standing::after(self.succeeded, self.next_attempt_at.is_some())
    }

    /// What tells which is the latest: ids are not enough, because retries may follow within the 4 ms that they resolve. Of a
    /// scheduled and a manual attempt that began together it is the one with the greater id, as in lists.
    fn order(&self) -> (Timestamp, i64, Ksuid) {
        (self.started_at, self.number, self.id)
    }
}

/// All attempts of one message to one endpoint, taken together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    latest: Tried,
    standing: Standing,
    /// When there was to be another attempt, as each of them says.
    announced: Vec<Timestamp>,
}

impl Story {
    /// Takes one more attempt into what is known of the others; in any order.
    #[must_use]
    pub fn with(known: Option<Self>, tried: Tried) -> Self {
        let first = Self { latest: tried, standing: tried.standing(), announced: Vec::new() };
        let mut story = known.unwrap_or(first);
        story.announced.extend(tried.next_attempt_at);
        story.standing = story.standing.max(tried.standing());
        if tried.order() > story.latest.order() {
            story.latest = tried;
        }
        story
    }

    /// What the latest attempt announced is looked for: if it is not pending, it was canceled. Unless another one announced
    /// what is: by a clock that was wrong, the latest was not the last.
    pub fn checked<E>(mut self, mut is_pending: impl FnMut(Timestamp) -> Result<bool, E>) -> Result<Self, E> {
        let Some(at) = self.latest.next_attempt_at else { return Ok(self) };
        if is_pending(at)? {
            return Ok(self);
        }
        self.latest.next_attempt_at = None;
        if self.standing != Standing::Waiting {
            return Ok(self);
        }
        for at in std::mem::take(&mut self.announced) {
            if is_pending(at)? {
                self.latest.next_attempt_at = Some(at);
                return Ok(self);
            }
        }
        self.standing = Standing::Canceled;
        Ok(self)
    }

    /// The latest attempt, with what is pending of what was announced.
    pub const fn latest(&self) -> &Tried {
        &self.latest
    }

    /// How the message stands.
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether what was announced was canceled.
    pub fn is_canceled(&self) -> bool {
        self.standing == Standing::Canceled
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
