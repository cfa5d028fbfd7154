//! Retention: payloads go when their time has come; messages and attempts stay.

use std::time::Duration;

use async_trait::async_trait;
use postrider_domain::time::Timestamp;

use crate::StoreError;

/// How far a sweep came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// How many payloads were removed.
    pub removed: usize,
    /// Whether there may be more whose time has come.
    pub more: bool,
}

/// Operations on what has expired.
#[async_trait]
pub trait Retention {
    /// Removes payloads whose `expires_at` has come, and those without one of messages that were due at `now` less `kept`
    /// or earlier. Looks at about `rows` messages, and stops early after a few megabytes, so it keeps nobody waiting.
    /// What is still to be delivered of them is loaded without payload, and canceled.
    async fn sweep_payloads(&self, now: Timestamp, kept: Duration, rows: usize) -> Result<Swept, StoreError>;
}
