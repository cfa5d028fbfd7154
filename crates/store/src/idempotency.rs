//! Idempotency: a POST that names a key is carried out once; a repetition gets the first answer.
//!
//! The key is part of the commit of what it protects, so there is no moment at which the one is stored without the other.
//!
//! A key belongs to what its request was about: the application, endpoint and message that the path named. Handles are never
//! reused, so under a uid that was given to another meanwhile the same key is a new one.
//!
//! Answers are kept whole, so there is a bound to the room that those of one owner take. Beyond it a request with a key is
//! refused: an answer that was promised is never forgotten to make room for another.

use bytes::Bytes;
use postrider_domain::application::EnvironmentId;
use postrider_domain::time::Timestamp;

use crate::ApplicationKey;

/// What a request's idempotency key, its principal and its path come to: 128 bits of a cryptographic hash over all of
/// them. The keys of a batch's items differ in their last bytes only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(pub [u8; 16]);

/// An answer to give again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body, byte for byte.
    pub body: Bytes,
}

impl StoredAnswer {
    /// What a remembered answer counts as beside its body.
    pub const OVERHEAD: u64 = 128;

    /// The room that it takes.
    pub fn room(&self) -> u64 {
        Self::OVERHEAD + self.body.len() as u64
    }
}

/// Who asks: whose share of the room for answers an answer takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// The operator of an environment.
    Operator(EnvironmentId),
    /// A token of an application.
    Application(ApplicationKey),
}

/// Carry this write out only once.
pub struct Once<T> {
    /// Under this key.
    pub key: IdempotencyKey,
    /// Who asks.
    pub owner: Owner,
    /// The room that the remembered answers of this owner may take together; else [`crate::WriteError::KeysFull`]. What has
    /// been kept for its time does not count. (An engine may count some of it for up to an hour longer.)
    pub most: u64,
    /// Keys older than this are forgotten: the same request would be carried out again.
    pub not_before: Timestamp,
    /// The answer to remember, made from what was written.
    pub answer: Box<dyn FnOnce(&T) -> StoredAnswer + Send>,
}

/// What became of a write that may have been carried out before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written<T> {
    /// It was carried out now.
    Done(T),
    /// It was carried out before; nothing was written.
    Replayed(StoredAnswer),
}
