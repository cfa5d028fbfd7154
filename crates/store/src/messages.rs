//! Reading messages, and erasing their payloads. They are written by [`crate::Work::accept`].

use async_trait::async_trait;
use postrider_domain::ids::{Ksuid, MessageId};
use postrider_domain::message::Message;
use postrider_domain::names::{Channel, EventTypeName, IdOrUid, Tag};

use crate::{ApplicationKey, Scan, StoreError, Stored, Walked};

/// The engine's handle of a message. Handles can be sorted, but which of two is greater says nothing about which was committed
/// first: that is what [`crate::StreamNumber`] is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageKey(pub i64);

/// Which messages a list shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageFilter {
    /// Only those sent on this channel.
    pub channel: Option<Channel>,
    /// Only those of these types; `None` is all.
    pub event_types: Option<Vec<EventTypeName>>,
    /// Only those with this tag.
    pub tag: Option<Tag>,
    /// With their payloads; otherwise `payload` is `None`.
    pub with_payload: bool,
}

/// Operations on messages that were accepted.
#[async_trait]
pub trait Messages {
    /// The message with this id or event id, if the application has one; without its payload unless that is asked for, which
    /// takes as long, and as much memory, as it has bytes.
    async fn message(
        &self,
        application: ApplicationKey,
        id: &IdOrUid<MessageId>,
        with_payload: bool,
    ) -> Result<Option<Stored<MessageKey, Message>>, StoreError>;

    /// A page of messages, by id. Stops early after [`crate::PAGE_BYTES`] of payload, and after [`crate::PAGE_ROWS`]: no index
    /// says where several names come together. However few messages the filter lets through, the time is that of a page, not of
    /// the list.
    async fn messages(
        &self,
        application: ApplicationKey,
        filter: &MessageFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Walked<Message>, StoreError>;

    /// Erases the payload; what is still to be delivered of it is not. Told to observers. Repeating it does no harm.
    async fn expunge_message(&self, message: MessageKey) -> Result<(), StoreError>;

    /// Erases the payloads of messages of an application as [`Messages::expunge_message`] does, in one commit; says of each
    /// whether there is such a message.
    async fn expunge_messages(
        &self,
        application: ApplicationKey,
        ids: Vec<IdOrUid<MessageId>>,
    ) -> Result<Vec<bool>, StoreError>;
}
