//! The outbox: notices to operators that are stored in the commit of what they report, and sent afterwards.
//!
//! Nothing is stored for an environment whose operator has nowhere to be told: its application in the management
//! environment, whose uid is the environment's id. The management environment itself reports nothing, so there is no loop.

use async_trait::async_trait;
use bytes::Bytes;
use postrider_domain::names::{EventTypeName, Uid};

use crate::StoreError;

/// The engine's handle of a notice; in the order in which they happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NoticeKey(pub i64);

/// A notice that is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The engine's handle.
    pub key: NoticeKey,
    /// To whom: the uid of an application in the management environment.
    pub recipient: Uid,
    /// Its event type.
    pub event_type: EventTypeName,
    /// The message.
    pub payload: Bytes,
}

/// Whose notices are asked for, and how many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoticeTurn {
    /// Who had his turn last: those after him come first, in the order of their uids, and he himself last.
    pub after: Option<Uid>,
    /// Who has no turn.
    pub except: Vec<Uid>,
    /// Recipients, at most.
    pub recipients: usize,
    /// Notices of each of them, at most.
    pub each: usize,
}

/// Operations on the outbox. It is filled by [`crate::Work::settle`] and by changes of endpoints.
#[async_trait]
pub trait Outbox {
    /// The oldest notices of those whose turn it is, recipient after recipient. However many there are to one, it costs others
    /// nothing.
    async fn notices(&self, turn: NoticeTurn) -> Result<Vec<Notice>, StoreError>;

    /// Removes notices that were accepted as messages. What is not there any more is no error.
    async fn remove_notices(&self, notices: Vec<NoticeKey>) -> Result<(), StoreError>;
}
