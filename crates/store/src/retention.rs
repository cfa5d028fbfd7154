//! Retention: payloads go when their time has come, later whole messages with their attempts, and at once what belongs to
//! deleted applications. All of it in slices, so nobody who accepts or settles waits for long.

use std::time::Duration;

use async_trait::async_trait;
use postrider_domain::time::Timestamp;

use crate::StoreError;

/// What is dated further ahead was dated by a clock that is wrong.
pub const AHEAD: Duration = Duration::from_secs(86_400);

/// How long the rows of what was deleted stay, for requests that are under way.
pub const DELETED_KEPT: Duration = Duration::from_secs(86_400);

/// What the clock may be ahead of when it was seen last, without being doubted.
pub const MOST_AHEAD: Duration = Duration::from_secs(86_400);

/// The same for idempotency keys, which are kept for hours only.
pub const MOST_AHEAD_OF_KEYS: Duration = Duration::from_secs(3_600);

/// What is known of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockSeen {
    /// When it was last known to be right; while it is not believed, as far as time has gone on since while somebody ran.
    pub right: Timestamp,
    /// For how long of running it has shown what is not believed.
    pub doubted: Duration,
    /// What it showed when it was looked at last.
    pub shown: Timestamp,
    /// The time by which idempotency keys are old: see [`Retention::believed`].
    pub keys: Timestamp,
}

/// How far a sweep came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// How many of what was looked for were removed.
    pub removed: usize,
    /// Whether there may be more whose time has come.
    pub more: bool,
}

/// Operations on what is kept no longer. What is removed leaves its place to what comes.
#[async_trait]
pub trait Retention {
    /// Removes payloads whose `expires_at` has come, and those without one of messages that were due at `now` less `kept`
    /// or earlier. Looks at about `rows` messages, and stops early after a few megabytes, so it keeps nobody waiting.
    /// What is still to be delivered of them is loaded without payload, and canceled.
    async fn sweep_payloads(&self, now: Timestamp, kept: Duration, rows: usize) -> Result<Swept, StoreError>;

    /// Removes messages that were accepted, and due, at `now` less `kept` or earlier, with their attempts and all that refers
    /// to them, except those of which a delivery is pending. Removes about `rows` rows. Lists and statistics are then those of
    /// what is left. A message that a clock dated more than a day ahead is as old as those that were accepted after it.
    async fn sweep_messages(&self, now: Timestamp, kept: Duration, rows: usize) -> Result<Swept, StoreError>;

    /// Erases about `rows` rows of what belongs to deleted applications: deliveries first, then payloads, then messages and
    /// attempts; a day after they were deleted, the applications and endpoints themselves, and endpoints to which no attempt
    /// is left. `more` is false when it has been everywhere; the next call begins anew.
    async fn erase_deleted(&self, now: Timestamp, rows: usize) -> Result<Swept, StoreError>;

    /// Removes URLs that endpoints had before `before`, and have no longer, if no attempt that is there names them. Looks at
    /// about `rows` attempts of one endpoint. `more` is false when it has been everywhere; the next call begins anew.
    async fn forget_urls(&self, before: Timestamp, rows: usize) -> Result<Swept, StoreError>;

    /// Removes positions of stream readers that were not moved since `before`, and notices of which far too many wait, about
    /// `rows` of each; returns how many.
    async fn forget_leftovers(&self, before: Timestamp, rows: usize) -> Result<usize, StoreError>;

    /// What is known of the clock: what was noted last, else that it was right when the newest message was accepted.
    async fn clock_seen(&self) -> Result<Option<ClockSeen>, StoreError>;

    /// Notes that the clock shows `now`, and is believed, while it is `keys` for idempotency keys.
    async fn note_clock(&self, now: Timestamp, keys: Timestamp) -> Result<(), StoreError>;

    /// Notes what is known of a clock that is not believed.
    async fn note_doubt(&self, seen: ClockSeen) -> Result<(), StoreError>;

    /// The time by which idempotency keys are old: `now`, or, if that is more than [`MOST_AHEAD_OF_KEYS`] after it, [`ClockSeen::keys`],
    /// as far as this process or the one before it knows. So a clock that jumps makes no key old, neither
    /// to whoever looks one up nor to whoever removes them, and what comes twice meanwhile is accepted once.
    fn believed(&self, now: Timestamp) -> Timestamp;
}
