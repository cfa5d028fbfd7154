//! What connections of both versions of HTTP have in common: what they send, and what to say when one breaks.

use bytes::Bytes;
use http_body_util::Full;
use postrider_domain::delivery::Failure;

use crate::answer::Trouble;

/// The body of a request.
pub(crate) type Payload = Full<Bytes>;

/// A head larger than this is no answer. hyper also refuses one with more than 100 headers.
pub(crate) const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The request got no answer.
#[derive(Debug)]
pub(crate) struct Broken {
    /// Nothing says that the receiver saw the request, so on a connection that had been idle it can be made again.
    pub(crate) unheard: bool,
    pub(crate) trouble: Trouble,
}

impl Broken {
    pub(crate) fn new(error: &hyper::Error, unheard: bool) -> Self {
        Self { unheard, trouble: Trouble::new(Failure::Protocol, describe(error)) }
    }

    /// There was nothing that could have been sent.
    pub(crate) fn unbuilt() -> Self {
        Self { unheard: false, trouble: Trouble::new(Failure::Protocol, "the request could not be built") }
    }
}

/// What went wrong after the connection was made, for the endpoint's owner.
pub(crate) fn describe(error: &hyper::Error) -> &'static str {
    let source = std::error::Error::source(error);
    let io = source.and_then(|source| source.downcast_ref::<std::io::Error>());
    if error.is_parse_too_large() {
        "the head of the answer is too large"
    } else if error.is_parse() {
        "the answer is not valid HTTP"
    } else if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionReset) {
        "the receiver reset the connection before it answered"
    } else if source.is_some_and(|source| source.is::<h2::Error>()) {
        "the receiver broke the HTTP/2 stream off before it answered"
    } else {
        "the receiver closed the connection before it answered"
    }
}
