//! Idempotency keys of requests (rest-contract §13). Only POSTs have them; the method and the body are no part of them.

use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, Method};
use postrider_domain::ids::Ksuid;
use postrider_domain::time::Timestamp;
use postrider_store::{IdempotencyKey, Once, Owner, StoredAnswer};
use ring::digest::{Context, SHA256};

use crate::access::auth::Caller;
use crate::http::headers::IDEMPOTENCY_KEY;
use crate::wire::error::{ApiError, Result};

postrider_domain::limits! {
    in "Requests";
    /// The header `idempotency-key`
    pub(crate) const MAX_KEY_BYTES: usize = 256, "bytes", beyond "400";
    /// Answers that are remembered for the keys of an application's tokens (of messages none is: those are in the store).
    /// Each counts 128 bytes more than it has
    const MAX_ANSWERS_OF_APPLICATION: u64 = 16 << 20, "bytes", beyond "429 `too_many_keys` until older ones were kept for 12 hours; without a key the request is carried out";
    /// The same of an operator's keys, all together
    const MAX_ANSWERS_OF_OPERATOR: u64 = 1 << 30, "bytes", beyond "429 `too_many_keys`";
}

/// For how long an answer is given again.
const KEPT: Duration = Duration::from_secs(12 * 3_600);

/// The key of a request.
#[derive(Debug, Clone)]
pub(crate) struct Keyed {
    /// The key, by caller and path.
    pub(crate) key: IdempotencyKey,
    owner: Owner,
}

impl Keyed {
    /// The key for something about this very thing, and not about what else had its uid. (The store knows by itself what
    /// its writes are about; a message that is about an endpoint is a message.)
    pub(crate) fn about(&self, thing: Ksuid) -> IdempotencyKey {
        let mut hash = Context::new(&SHA256);
        hash.update(&self.key.0);
        hash.update(thing.as_bytes());
        shortened(hash)
    }
}

/// The key of a request, if it has one, and who asks.
pub(crate) fn key(parts: &Parts, caller: &Caller, owner: Owner) -> Result<Option<Keyed>> {
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
    Ok(Some(Keyed { key: shortened(hash), owner }))
}

fn shortened(hash: Context) -> IdempotencyKey {
    let mut key = [0; 16];
    key.copy_from_slice(&hash.finish().as_ref()[..16]);
    IdempotencyKey(key)
}

fn text(headers: &HeaderMap) -> Result<Option<&[u8]>> {
    match headers.get(IDEMPOTENCY_KEY).map(http::HeaderValue::as_bytes) {
        None | Some([]) => Ok(None),
        Some(text) if text.len() <= MAX_KEY_BYTES => Ok(Some(text)),
        Some(_) => Err(ApiError::bad_request(format!("the idempotency key is longer than {MAX_KEY_BYTES} bytes"))),
    }
}

/// Has a write carried out once, and its answer remembered. By which time keys are old is what the store believes.
pub(crate) fn once<T>(
    keyed: Option<Keyed>,
    believed: Timestamp,
    answer: impl FnOnce(&T) -> StoredAnswer + Send + 'static,
) -> Option<Once<T>> {
    let Keyed { key, owner } = keyed?;
    let most = match &owner {
        Owner::Operator(_) => MAX_ANSWERS_OF_OPERATOR,
        Owner::Application(_) => MAX_ANSWERS_OF_APPLICATION,
    };
    Some(Once { key, owner, most, not_before: believed.saturating_sub(KEPT), answer: Box::new(answer) })
}
