//! Reading an application's messages as a stream, for those who poll instead of being called.
//!
//! A list by id is no stream: ids are made before the commit, so a message can appear below one that was read already. A
//! [`StreamPosition`] therefore also says what the store had taken when it was made, and the next read looks back for what
//! came late. So a reader that passes on the position it was given gets every message at least once, and in the absence of
//! stragglers in the order of their ids.

use std::time::Duration;

use async_trait::async_trait;
use postrider_domain::ids::Ksuid;
use postrider_domain::message::Message;
use postrider_domain::names::{Channel, EventTypeName};
use postrider_domain::time::Timestamp;

use crate::{ApplicationKey, EndpointKey, MessageKey, StoreError, WriteError};

/// How long the way from a message's id to its commit may be for the message not to be missed.
pub const LATEST_COMMIT: Duration = Duration::from_secs(60);

/// Where a reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamPosition {
    /// Everything up to this id was looked at,
    pub after: Ksuid,
    /// as far as the store had taken it when this was its newest message; `None` if nothing was looked at so far.
    pub seen: Option<MessageKey>,
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
    /// The next messages behind `from` that pass all of `filters`: at most `limit`, and fewer if many had to be looked at or
    /// their payloads are large.
    async fn stream(
        &self,
        application: ApplicationKey,
        filters: Vec<StreamFilter>,
        from: StreamPosition,
        limit: usize,
    ) -> Result<StreamSlice, StoreError>;

    /// Where a named reader of an endpoint's stream is; `None` if it never said.
    async fn stream_position(&self, endpoint: EndpointKey, reader: &str) -> Result<Option<StreamPosition>, StoreError>;

    /// Where a named reader is; one that is new is at `beginning` from now on, and whoever reads under its name at the same
    /// instant is there, too. [`WriteError::Full`] if it is new, and the endpoint has [`crate::MAX_CONSUMERS`].
    async fn begin_stream(
        &self,
        endpoint: EndpointKey,
        reader: &str,
        beginning: StreamPosition,
        now: Timestamp,
    ) -> Result<StreamPosition, WriteError>;

    /// Notes where a named reader is. [`WriteError::Full`] if it is new, and the endpoint has [`crate::MAX_CONSUMERS`].
    async fn set_stream_position(
        &self,
        endpoint: EndpointKey,
        reader: &str,
        position: StreamPosition,
        now: Timestamp,
    ) -> Result<(), WriteError>;
}
