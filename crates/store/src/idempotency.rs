//! Idempotency: a POST that names a key is carried out once; a repetition gets the first answer.
//!
//! The key is part of the commit of what it protects, so there is no moment at which the one is stored without the other.

use bytes::Bytes;
use postrider_domain::time::Timestamp;

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

/// Carry this write out only once.
pub struct Once<T> {
    /// Under this key.
    pub key: IdempotencyKey,
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
