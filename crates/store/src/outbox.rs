//! The outbox: notices to operators that are stored in the commit of what they report, and sent afterwards.
//!
//! Nothing is stored for an environment whose operator has nowhere to be told: its application in the management
//! environment, whose uid is the environment's id. The management environment itself reports nothing, so there is no loop. It has the
//! event types of all notices from the beginning, described, with a schema that has an example.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;
use postrider_domain::names::{EventTypeName, Uid};

use crate::{ApplicationKey, StoreError};

postrider_domain::limits! {
    in "The store";
    /// Operational webhooks that wait to be sent
    pub const MAX_NOTICES_OF_ALL: i64 = 100_000, "notices", beyond "the oldest of those who have most are dropped, with a warning in the log";
}

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

/// How many notices each recipient may have so that they have no more than `most` together, if who has less gives what he does not need
/// to the others. The counts come in their order.
pub fn share_of_notices(counts: impl ExactSizeIterator<Item = i64>, most: i64) -> i64 {
    let (mut left, mut others) = (most, i64::try_from(counts.len()).unwrap_or(i64::MAX));
    for count in counts {
        if count > left / others {
            return left / others;
        }
        left -= count;
        others -= 1;
    }
    i64::MAX
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_of_who_has_most() {
        for (counts, most, want) in [
            (vec![], 10, i64::MAX),
            (vec![3, 3, 4], 10, i64::MAX),
            (vec![1, 2, 100], 10, 7),
            (vec![5, 5, 5], 10, 3),
            (vec![1, 50, 60], 11, 5),
        ] {
            assert_eq!(share_of_notices(counts.iter().copied(), most), want, "{counts:?}");
        }
    }
}
