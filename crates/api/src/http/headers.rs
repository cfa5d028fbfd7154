//! Headers of HTTP itself: what a request must have, and what every answer has, so that a browser does nothing with it but
//! hand it to the page that asked.

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version};

use crate::wire::error::{ApiError, Result};

/// The header with which a POST is carried out once.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What every answer has, unless its route says otherwise. Answers may hold secrets, so nobody stores them.
const PROTECTION: [(HeaderName, HeaderValue); 5] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// Adds what an answer does not have yet.
pub(crate) fn protect(headers: &mut HeaderMap) {
    headers.reserve(PROTECTION.len());
    for (name, value) in PROTECTION {
        headers.entry(name).or_insert(value);
    }
}

/// Refuses a request that does not say unmistakably for which host it is, who asks, or what its body is.
pub(crate) fn check<B: http_body::Body>(request: &Request<B>) -> Result<()> {
    host(request)?;
    for name in [AUTHORIZATION, HeaderName::from_static(IDEMPOTENCY_KEY), CONTENT_TYPE] {
        if request.headers().get_all(&name).iter().nth(1).is_some() {
            return Err(ApiError::bad_request(format!("a request has at most one header {name}")));
        }
    }
    if request.body().is_end_stream() {
        return Ok(());
    }
    let mut encodings = request.headers().get_all(CONTENT_ENCODING).iter();
    if encodings.all(|encoding| encoding.as_bytes().is_empty() || encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_encoding",
        "A body is taken as it is: send it without Content-Encoding.",
    ))
}

/// Refuses a request of HTTP/1.1 that does not say, once, for which host it is (RFC 9112, section 3.2).
fn host<B>(request: &Request<B>) -> Result<()> {
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11 && request.uri().authority().is_none()) {
        return Err(ApiError::bad_request("a request has exactly one Host header"));
    }
    Ok(())
}
