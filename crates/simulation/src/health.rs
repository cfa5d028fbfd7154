//! When an endpoint is to be disabled for failing, told once more and in other words than the engine's, from what is stored.

use std::time::Duration;

use postrider_domain::time::Timestamp;

/// How an endpoint is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// Nothing is held against it.
    Well,
    /// A failure at this instant was the first since it worked.
    Failing(Timestamp),
    /// It is disabled.
    Disabled,
}

impl Health {
    /// After a success was stored of a delivery that waited for it.
    pub(crate) fn succeeded(self) -> Self {
        if self == Self::Disabled { self } else { Self::Well }
    }

    /// After a failure that counts was stored, of this instant. One that fails for longer than `limit` is disabled; what is older
    /// than twice the limit says nothing any more.
    pub(crate) fn failed(self, at: Timestamp, limit: Duration) -> Self {
        match self {
            Self::Disabled => Self::Disabled,
            Self::Well => Self::Failing(at),
            Self::Failing(since) if at.since(since) > limit * 2 => Self::Failing(at),
            Self::Failing(since) if at.since(since) > limit => Self::Disabled,
            Self::Failing(since) => Self::Failing(since),
        }
    }
}
