//! The outbox: notices to operators that are stored in the commit of what they report, and sent afterwards.
//!
//! Nothing is stored for an environment whose operator has nowhere to be told: its application in the management
//! environment, whose uid is the environment's id. The management environment itself reports nothing, so there is no loop.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;
use postrider_domain::names::{EventTypeName, Uid};

use crate::{ApplicationKey, StoreError};

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
    /// What it is about is of this application; of notices of former versions that is not known, and they are of one that there is not.
    pub application: ApplicationKey,
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
    /// Which application of a recipient had its turn last: those after it come first, and it itself last.
    pub after_application: HashMap<Uid, ApplicationKey>,
    /// Recipients, at most.
    pub recipients: usize,
    /// Notices of each of them, at most.
    pub each: usize,
}

/// Operations on the outbox. It is filled by [`crate::Work::settle`] and by changes of endpoints. That an endpoint was updated
/// takes the place of a notice that says the same and waits. Beyond [`crate::MAX_NOTICES`] to one recipient, the oldest ones of
/// those applications are dropped that have most.
#[async_trait]
pub trait Outbox {
    /// Notices of those whose turn it is, recipient after recipient, and to each in the order in which they happened. A recipient's
    /// applications take turns, the oldest one of each: however many there are to one recipient or of one application, it costs
    /// others nothing.
    async fn notices(&self, turn: NoticeTurn) -> Result<Vec<Notice>, StoreError>;

    /// Removes notices that were accepted as messages. What is not there any more is no error.
    async fn remove_notices(&self, notices: Vec<NoticeKey>) -> Result<(), StoreError>;
}
