//! What connections of both versions of HTTP have in common: what to say when one breaks.

use std::borrow::Cow;
use std::io;

use postrider_domain::delivery::Failure;

use crate::answer::Trouble;
use crate::holders::Owner;
use crate::tls;

const UNREADABLE: &str = "the receiver broke the rules of HTTP/2, or the head of its response is larger than 64 KiB, so its status is not known";

/// The request got no response.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) again: Again,
    pub(crate) trouble: Trouble,
    /// Because of whose request the connection has ended, if that is known.
    pub(crate) culprit: Option<Owner>,
}

/// Whether a request may be made once more within its attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    Not,
    /// Nothing says that the receiver saw it, so it may, if the connection had been idle.
    Unheard,
    /// The connection ended because of others' requests, or nobody knows because of whose: it may, whether the receiver saw it or not.
    ByOthers,
}

impl From<Trouble> for Broken {
    fn from(trouble: Trouble) -> Self {
        Self::of(trouble)
    }
}

impl Broken {
    /// What hyper says about an HTTP/2 connection.
    pub(crate) fn new(error: &hyper::Error, unheard: bool) -> Self {
        let again = if unheard { Again::Unheard } else { Again::Not };
        Self { again, ..Self::of(describe(error)) }
    }

    /// The request is over for this reason.
    pub(crate) fn of(trouble: Trouble) -> Self {
        Self { again: Again::Not, trouble, culprit: None }
    }

    /// The connection was ended because of what the receiver sent, and not for this request as far as can be told.
    pub(crate) fn by_others() -> Self {
        let detail = "the HTTP/2 connection, which others use, too, was ended because of what the receiver sent for others' requests or for none";
        Self { again: Again::ByOthers, ..Self::of(Trouble::new(Failure::Protocol, detail)) }
    }

    /// The connection, which had been idle, is no use any more.
    pub(crate) fn stale() -> Self {
        Self { again: Again::Unheard, ..Self::of(closed(None)) }
    }

    /// The exchange is over, but no status was noted.
    pub(crate) fn without_response() -> Self {
        Self::of(closed(None))
    }

    /// There was nothing that could have been sent.
    pub(crate) fn unbuilt() -> Self {
        Self::of(Trouble::new(Failure::Protocol, "the request could not be built"))
    }
}

/// What went wrong after an HTTP/2 connection was made, for the endpoint's owner.
pub(crate) fn describe(error: &hyper::Error) -> Trouble {
    let source = std::error::Error::source(error);
    let http2 = source.and_then(|source| source.downcast_ref::<h2::Error>());
    let io = source.and_then(|source| source.downcast_ref()).or_else(|| http2.and_then(h2::Error::get_io));
    match http2 {
        // h2 does not show the status of a head that it refuses.
        Some(error) if error.is_library() && !error.is_io() => Trouble::new(Failure::Protocol, UNREADABLE),
        Some(error) if !error.is_io() => {
            Trouble::new(Failure::Protocol, "the receiver broke the HTTP/2 stream off before it responded")
        }
        _ => closed(io),
    }
}

/// The connection ended before a byte of a response, for this reason or of itself.
pub(crate) fn closed(error: Option<&io::Error>) -> Trouble {
    ended(error, "before it responded")
}

/// The connection ended, `when` says at which point of the response.
pub(crate) fn ended(error: Option<&io::Error>, when: &'static str) -> Trouble {
    // With TLS 1.3 a receiver that demands a client certificate says so only after the handshake.
    if let Some(reason) = error.and_then(tls::reason) {
        return Trouble::new(Failure::Tls, reason);
    }
    let text: Cow<'static, str> = match error.map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionReset) => format!("the receiver reset the connection {when}").into(),
        _ => format!("the receiver closed the connection {when}").into(),
    };
    Trouble::new(Failure::Protocol, text)
}
