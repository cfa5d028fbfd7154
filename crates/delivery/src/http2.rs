//! A connection that carries many requests at a time, over HTTP/2. It is shared by everybody who sends to its host, so its
//! I/O has a task of its own.
//!
//! Sharing is fair because streams are counted here ([`Streams`]): a request that is given to hyper finds a free stream,
//! and never waits behind those of others. An application has a quarter of a connection's streams at most, so one whose
//! requests hang leaves the rest to others; `shared.rs` opens another connection for what it has beyond.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use postrider_domain::delivery::Failure;
use postrider_domain::time::Timestamp;
use postrider_store::ApplicationKey;
use tokio::sync::Notify;

use crate::answer::{Stage, Trouble};
use crate::connection::{Broken, describe};
use crate::limits::{MAX_BODY_BYTES, MAX_HEAD_BYTES};
use crate::meter::{Counted, Credit, Meter};
use crate::transport::{Fault, Transport};

/// The body of a request.
pub(crate) type Payload = Full<Bytes>;

postrider_domain::limits! {
    in "Receivers over HTTP/2";
    /// Of the streams that a receiver allows on a connection, one application has one in so many, but always one
    pub const SHARE: u32 = 4, "streams", beyond "another connection is opened";
}

/// A connection that carries many requests at a time. Clones share it; it closes when the last one is gone.
#[derive(Clone)]
pub(crate) struct Http2 {
    requests: http2::SendRequest<Payload>,
    streams: Arc<Streams>,
    address: SocketAddr,
    fault: Fault,
}

/// How often a receiver is asked whether it is still there while it owes responses, and how long it has to say so.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the receiver's settings are waited for, which it should send first.
const SETTINGS_PATIENCE: Duration = Duration::from_secs(1);
/// The streams of one connection.
pub(crate) struct Streams {
    meter: Arc<Meter>,
    open: Mutex<Open>,
    /// Responses that came over the connection.
    responses: AtomicU64,
    /// It gets no new requests.
    retired: AtomicBool,
    /// Told when a stream is free again.
    freed: OnceLock<Arc<Notify>>,
}

#[derive(Default)]
struct Open {
    count: u32,
    by_application: HashMap<ApplicationKey, u32>,
    granted: Credit,
}

/// The right to one stream of a connection. Giving it back without [`Permit::heard`] says that the attempt was ended
/// before anything was heard.
pub(crate) struct Permit {
    streams: Arc<Streams>,
    application: ApplicationKey,
    credit: Credit,
    responses_before: u64,
    heard: bool,
}

impl Http2 {
    pub(crate) async fn start(transport: Transport, address: SocketAddr) -> Result<Self, Trouble> {
        let (meter, fault) = (transport.meter(), transport.fault());
        let (requests, io) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            // hyper's defaults are for downloads: nobody may send us more than we would read.
            .initial_stream_window_size(MAX_BODY_BYTES as u32)
            .initial_connection_window_size(16 * MAX_BODY_BYTES as u32)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .handshake(TokioIo::new(Counted::new(transport)))
            .await
            .map_err(|error| describe(&error))?;
        let ending = Arc::clone(&meter);
        tokio::spawn(async move {
            if let Err(error) = io.await {
                tracing::debug!(%error, "an HTTP/2 connection ended");
            }
            ending.end();
        });
        // Before it is known how many streams there are, nobody can count on one.
        let _ = tokio::time::timeout(SETTINGS_PATIENCE, meter.settled()).await;
        Ok(Self { requests, streams: Arc::new(Streams::new(meter)), address, fault })
    }

    pub(crate) fn is_open(&self) -> bool {
        self.requests.is_ready() && !self.streams.retired.load(Ordering::Relaxed)
    }

    /// Where it leads.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn streams(&self) -> &Arc<Streams> {
        &self.streams
    }

    /// Makes a request. The response is in `stage`.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Payload>,
        permit: &mut Permit,
        stage: &Stage,
        wall: Timestamp,
    ) -> Result<(), Broken> {
        if self.streams.meter.streams() == 0 {
            stage.streamless();
            self.streams.meter.opened().await;
            stage.waiting();
        }
        let response = self.requests.send_request(request).await;
        permit.heard();
        let response = response.map_err(|error| self.broken(&error))?;
        stage.reading(response.status(), response.headers(), wall);
        // The head, which may be large, is not kept for as long as the body takes.
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) if frame.data_ref().is_none_or(|data| stage.received().keep(data)) => {}
                _ => return Ok(()),
            }
        }
        stage.received().finish();
        Ok(())
    }

    fn broken(&self, error: &hyper::Error) -> Broken {
        if self.streams.meter.is_spent() {
            let detail = "the receiver sent too much over HTTP/2 that is no response";
            return Broken { unheard: false, trouble: Trouble::new(Failure::Protocol, detail) };
        }
        let broken = Broken::new(error, was_unheard(error));
        match self.fault.text() {
            Some(text) => Broken { trouble: Trouble::new(Failure::Tls, text), ..broken },
            None => broken,
        }
    }
}

impl Streams {
    fn new(meter: Arc<Meter>) -> Self {
        Self {
            meter,
            open: Mutex::default(),
            responses: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            freed: OnceLock::new(),
        }
    }

    /// Says whom to tell when a stream is free again.
    pub(crate) fn tell(&self, freed: &Arc<Notify>) {
        // Set once, by the pool that has it.
        let _ = self.freed.set(Arc::clone(freed));
    }

    /// A stream for a request of an application, unless there is none, or it has its share.
    pub(crate) fn reserve(self: &Arc<Self>, application: ApplicationKey, credit: Credit) -> Option<Permit> {
        let allowed = self.meter.streams();
        let mut open = self.open.lock();
        let own = open.by_application.get(&application).copied().unwrap_or(0);
        (open.count < allowed && own < (allowed / SHARE).max(1)).then(|| self.take(&mut open, application, credit))
    }

    /// A stream for whoever made the connection.
    pub(crate) fn reserve_first(self: &Arc<Self>, application: ApplicationKey, credit: Credit) -> Permit {
        self.take(&mut self.open.lock(), application, credit)
    }

    fn take(self: &Arc<Self>, open: &mut Open, application: ApplicationKey, credit: Credit) -> Permit {
        open.count += 1;
        *open.by_application.entry(application).or_default() += 1;
        open.granted += credit;
        self.meter.grant(credit);
        let responses_before = self.responses.load(Ordering::Relaxed);
        Permit { streams: Arc::clone(self), application, credit, responses_before, heard: false }
    }

    /// Whether an application has requests under way.
    pub(crate) fn serves(&self, application: ApplicationKey) -> bool {
        self.open.lock().by_application.contains_key(&application)
    }

    /// Whether no request is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.open.lock().count == 0
    }
}

impl Permit {
    /// The receiver responded, or said that it won't.
    fn heard(&mut self) {
        self.heard = true;
        self.streams.responses.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let streams = &self.streams;
        // Silence from beginning to end: it is the connection that is dead, as far as can be told.
        if !self.heard && streams.responses.load(Ordering::Relaxed) == self.responses_before {
            streams.retired.store(true, Ordering::Relaxed);
        }
        let mut open = streams.open.lock();
        open.count -= 1;
        if let Some(own) = open.by_application.get_mut(&self.application) {
            *own -= 1;
            if *own == 0 {
                open.by_application.remove(&self.application);
            }
        }
        open.granted -= self.credit;
        streams.meter.settle(open.granted);
        drop(open);
        if let Some(freed) = streams.freed.get() {
            freed.notify_waiters();
        }
    }
}

/// Whether it was the connection that ended, or the receiver says that it did not process the request.
fn was_unheard(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    error.is_canceled()
        || error.is_closed()
        || cause.is_some_and(|cause| {
            cause.is_io() || cause.is_go_away() || cause.reason() == Some(h2::Reason::REFUSED_STREAM)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ApplicationKey = ApplicationKey(1);
    const B: ApplicationKey = ApplicationKey(2);

    fn streams() -> Arc<Streams> {
        Arc::new(Streams::new(Arc::default()))
    }

    fn reserve(streams: &Arc<Streams>, application: ApplicationKey) -> Option<Permit> {
        streams.reserve(application, Credit::of_request(0))
    }

    #[test]
    fn an_application_has_a_quarter_of_the_streams_and_leaves_the_rest_to_others() {
        let streams = streams();
        let taken: Vec<_> = std::iter::from_fn(|| reserve(&streams, A)).collect();
        assert_eq!(taken.len(), 25, "of a hundred");
        assert!(reserve(&streams, B).is_some());
        drop(taken);
        assert!(streams.is_idle() && !streams.serves(A));
    }

    #[test]
    fn a_connection_that_was_silent_from_beginning_to_end_of_an_attempt_is_retired() {
        let streams = streams();
        let (silent, mut answered) = (reserve(&streams, A).unwrap(), reserve(&streams, B).unwrap());
        answered.heard();
        drop(silent);
        assert!(!streams.retired.load(Ordering::Relaxed), "others were answered meanwhile");
        drop(reserve(&streams, A));
        assert!(streams.retired.load(Ordering::Relaxed));
    }
}
