//! What can go wrong in a store: typed, so that callers can tell "try again" from "somebody must look at this".

use std::time::Duration;

/// The store could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The driver failed: disk full, connection lost, time-out. Whether a write took effect is unknown; it was not
    /// reported as done to anybody. Trying again later is sensible.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// What was read makes no sense. Trying again will not help.
    #[error("the store is inconsistent: {table}.{column}, row {row}: {problem}")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// Which row, in words.
        row: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// A write did not take place.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was to be changed does not exist.
    #[error("there is no such row")]
    NotFound,
    /// A uid or name is taken.
    #[error("the identifier is in use")]
    Conflict,
    /// There are as many as there may be.
    #[error("there are {most} {of} already, which is as many as there may be")]
    Full {
        /// Of what.
        of: Capped,
        /// How many that is.
        most: u64,
    },
    /// The answers that are remembered for this owner's idempotency keys take all the room that they may take.
    #[error("too many answers are remembered for idempotency keys")]
    KeysFull {
        /// When enough of them will have been kept for their time; `None` if this answer is larger than all of that room.
        wait: Option<Duration>,
    },
    /// URLs of the application's endpoints that attempts name were changed too often: each is kept for as long as those.
    #[error("former URLs take {most} bytes of a day, which is as many as may be")]
    ManyUrls {
        /// How many bytes they may take in a day.
        most: u64,
        /// When there is room for this one.
        wait: Duration,
    },
    /// Too many endpoints of the application were deleted of late: what is left of them goes after a while.
    #[error("{most} endpoints were deleted of late, which is as many as may be")]
    ManyDeleted {
        /// How many may be.
        most: u64,
        /// When one more will have room.
        wait: Duration,
    },
}

/// What there may be only so many of. Whether there is room is found out by the commit that adds one, so that no number of
/// requests at the same instant gets past it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capped {
    /// The event types of an environment, archived ones among them.
    EventTypes,
    /// The endpoints of an application.
    Endpoints,
    /// The consumers of an endpoint's messages.
    Consumers,
    /// The rules that end tokens of an application.
    TokenRules,
    /// The attempts to send a message to an endpoint.
    Attempts,
}

impl std::fmt::Display for Capped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::EventTypes => "event types",
            Self::Endpoints => "endpoints",
            Self::Consumers => "consumers",
            Self::TokenRules => "rules that end tokens",
            Self::Attempts => "attempts at this endpoint",
        })
    }
}
