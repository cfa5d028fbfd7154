//! Idempotency keys of requests (rest-contract §13). Only POSTs have them; the method and the body are no part of them.

use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, Method};
use postrider_domain::time::Timestamp;
use postrider_store::{IdempotencyKey, Once, StoredAnswer};
use ring::digest::{Context, SHA256};

use crate::auth::Caller;
use crate::error::{ApiError, Result};

const HEADER: &str = "idempotency-key";

postrider_domain::limits! {
    in "Requests";
    /// The header `idempotency-key`
    pub(crate) const MAX_KEY_BYTES: usize = 256, "bytes", beyond "400";
}

/// For how long an answer is given again.
const KEPT: Duration = Duration::from_secs(12 * 3_600);

/// The key of a request, if it has one.
pub(crate) fn key(parts: &Parts, caller: &Caller) -> Result<Option<IdempotencyKey>> {
    if parts.method != Method::POST {
        return Ok(None);
    }
    let Some(text) = text(&parts.headers)? else { return Ok(None) };
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut hash = Context::new(&SHA256);
    // The lengths keep "ab" + "c" apart from "a" + "bc"; the caller's share has the same length always.
    hash.update(&caller.fingerprint);
    for part in [text, target.as_bytes()] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut key = [0; 16];
    key.copy_from_slice(&hash.finish().as_ref()[..16]);
    Ok(Some(IdempotencyKey(key)))
}

fn text(headers: &HeaderMap) -> Result<Option<&[u8]>> {
    match headers.get(HEADER).map(http::HeaderValue::as_bytes) {
        None | Some([]) => Ok(None),
        Some(text) if text.len() <= MAX_KEY_BYTES => Ok(Some(text)),
        Some(_) => Err(ApiError::bad_request(format!("the idempotency key is longer than {MAX_KEY_BYTES} bytes"))),
    }
}

/// Has a write carried out once, and its answer remembered.
pub(crate) fn once<T>(
    key: Option<IdempotencyKey>,
    now: Timestamp,
    answer: impl FnOnce(&T) -> StoredAnswer + Send + 'static,
) -> Option<Once<T>> {
    key.map(|key| Once { key, not_before: now.saturating_sub(KEPT), answer: Box::new(answer) })
}
