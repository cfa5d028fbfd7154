//! Reading an application's messages as a stream, for those who poll instead of being called.
//!
//! The order of a stream is the order in which messages were committed. That of their ids is none that can be relied on: ids are
//! made before the commit, so a message can appear below one that was read already, and by a clock, which may be wrong by years and
//! be set right. So only a reader that begins goes by id, from the instant that it asks for through what there is when it begins; what
//! comes after that it gets as it comes. A reader that passes on the position it was given gets every message at least once, whatever
//! clocks do.

use async_trait::async_trait;
use postrider_domain::ids::Ksuid;
use postrider_domain::message::Message;
use postrider_domain::names::{Channel, EventTypeName};
use postrider_domain::time::Timestamp;

use crate::{ApplicationKey, EndpointKey, StoreError, WriteError};

/// The place of a message in the order of its stream: whatever is committed later has a higher one. What an engine calls a message
/// otherwise ([`crate::MessageKey`]) promises no order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamNumber(pub i64);

impl StreamNumber {
    /// Before every message.
    pub const BEFORE_ALL: Self = Self(0);
}

/// Where a reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamPosition {
    /// It has not begun: it wants what there is above this id, and everything that comes later.
    Since(Ksuid),
    /// It began when `newest` was the number of the newest message. Of what had come by then it has looked at everything up to the id `after`; of
    /// what came later, at nothing.
    Among {
        /// What it looked at last.
        after: Ksuid,
        /// Up to here it goes by id.
        newest: StreamNumber,
    },
    /// It has looked at everything up to the number `last`.
    Behind {
        /// The place.
        last: StreamNumber,
        /// The highest id that it saw. Where it goes on if the store is one of before `last`, because a backup was restored: what is
        /// given out then are numbers that it knows.
        after: Ksuid,
    },
}

impl StreamPosition {
    /// Where a reader is that has begun, when `newest` is the number of the newest message; [`StreamNumber::BEFORE_ALL`] if there is none.
    #[must_use]
    pub fn begun(self, newest: StreamNumber) -> Self {
        // If there is nothing, there is nothing to go through.
        let at = |after| match newest {
            StreamNumber::BEFORE_ALL => Self::Behind { last: newest, after },
            _ => Self::Among { after, newest },
        };
        // Beyond the newest it is of a store that had more: a backup was restored, and numbers from here on are those of other messages.
        match self {
            Self::Since(after) => at(after),
            Self::Among { after, newest: seen } | Self::Behind { after, last: seen } if seen > newest => at(after),
            begun => begun,
        }
    }
}

/// Which messages a reader wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamFilter {
    /// Only those of these types; `None` is all.
    pub event_types: Option<Vec<EventTypeName>>,
    /// Only those sent on one of these channels; `None` is all.
    pub channels: Option<Vec<Channel>>,
}

impl StreamFilter {
    /// Whether a message passes.
    pub fn passes(&self, event_type: &EventTypeName, channels: Option<&[Channel]>) -> bool {
        let heard = |wanted: &Vec<Channel>| channels.is_some_and(|sent| sent.iter().any(|one| wanted.contains(one)));
        self.event_types.as_ref().is_none_or(|wanted| wanted.contains(event_type))
            && self.channels.as_ref().is_none_or(heard)
    }
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSlice {
    /// The messages, with their payloads.
    pub messages: Vec<Message>,
    /// Where to go on.
    pub position: StreamPosition,
    /// Whether nothing was left behind it.
    pub done: bool,
}

/// Operations on streams.
#[async_trait]
pub trait Streams {
    /// Where somebody begins who wants every message since there is the endpoint.
    async fn stream_beginning(&self, endpoint: EndpointKey) -> Result<StreamPosition, StoreError>;

    /// The next messages behind `from` that pass all of `filters`: at most `limit`, and fewer if many had to be looked at or
    /// after [`crate::PAGE_BYTES`] of payload.
    async fn stream(
        &self,
        application: ApplicationKey,
        filters: Vec<StreamFilter>,
        from: StreamPosition,
        limit: usize,
    ) -> Result<StreamSlice, StoreError>;

    /// Where a named reader of an endpoint's stream is; `None` if it never said.
    async fn stream_position(&self, endpoint: EndpointKey, reader: &str) -> Result<Option<StreamPosition>, StoreError>;

    /// Where a named reader is; one that is new begins now, at `beginning`, and whoever reads under its name at the same
    /// instant is there, too. [`WriteError::Full`] if it is new, and the endpoint has [`crate::MAX_CONSUMERS`].
    async fn begin_stream(
        &self,
        endpoint: EndpointKey,
        reader: &str,
        beginning: StreamPosition,
        now: Timestamp,
    ) -> Result<StreamPosition, WriteError>;

    /// Notes where a named reader is, and returns it: one that has not begun does so now. [`WriteError::Full`] if it is new, and the endpoint has [`crate::MAX_CONSUMERS`].
    async fn set_stream_position(
        &self,
        endpoint: EndpointKey,
        reader: &str,
        position: StreamPosition,
        now: Timestamp,
    ) -> Result<StreamPosition, WriteError>;
}
