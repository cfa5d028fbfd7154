//! A connection that carries many requests at a time, over HTTP/2. It is shared by everybody who sends to its host, so its
//! I/O has a task of its own.
//!
//! Sharing is fair because streams and bytes are counted here ([`Streams`]): a request that is given to hyper finds a free
//! stream, and room for its body in the connection's window, and never waits behind those of others. An application has a
//! quarter of either at most, so one whose requests hang leaves the rest to others; `shared.rs` opens another connection
//! for what it has beyond; and applications of other environments than the one that opened a connection have half of it together,
//! however many they are. On a connection that it opened, an application's bodies may be of any size when none of others
//! is still to be written: they keep nobody waiting then, and nobody joins before they are written.
//!
//! What a receiver sends for one request is that one's, too ([`Meter`]): too much of it ends the request, which is reset, and not the
//! connection. Where the connection ends nevertheless because of one, or nobody knows because of which, the others' requests have
//! not failed ([`Again::ByOthers`]).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use postrider_domain::delivery::Failure;
use postrider_domain::time::Timestamp;
use postrider_store::ApplicationKey;
use tokio::sync::{Notify, oneshot, watch};

use crate::answer::{Stage, Trouble};
use crate::connection::{Again, Broken, describe};
use crate::frames::Counted;
use crate::holders::Owner;
use crate::limits::{MAX_BODY_BYTES, MAX_HEAD_BYTES, REST_PATIENCE};
use crate::meter::{Credit, Meter, Opened};
use crate::rest::{Leaving, Leavings, Payload, Rest};
use crate::transport::{Fault, Transport};

postrider_domain::limits! {
    in "Receivers over HTTP/2";
    /// Of the streams that a receiver allows on a connection, and of the bytes of bodies that it takes before it reads them, one application has one in so many, but always one request
    pub const SHARE: u32 = 4, "streams and bytes", beyond "another connection is opened";
    /// Of the same, all applications of other environments than the one that opened the connection have one in so many, but always one request
    pub(crate) const FOREIGN_SHARE: u32 = 2, "streams and bytes", beyond "another connection is opened";
}

/// A connection that carries many requests at a time. Clones share it; it closes when the last one is gone.
#[derive(Clone)]
pub(crate) struct Http2 {
    requests: http2::SendRequest<Payload>,
    streams: Arc<Streams>,
    address: SocketAddr,
    fault: Fault,
    /// Dropped with the last of those who use it.
    _in_use: Arc<oneshot::Sender<()>>,
}

/// How often a receiver is asked whether it is still there while it owes responses, and how long it has to say so.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection that nobody uses has for its last bytes: a receiver that does not read takes none.
const CLOSING_PATIENCE: Duration = Duration::from_secs(1);
/// How long the receiver's settings are waited for, which it should send first.
const SETTINGS_PATIENCE: Duration = Duration::from_secs(1);
/// How long a head has that was read, until it is here.
const HEAD_PATIENCE: Duration = Duration::from_secs(1);
/// Receivers give a window back when half of it is read: of one that has read everything, at least one in so many bytes is
/// there.
const GIVEN_BACK: i64 = 2;

/// The streams of one connection.
pub(crate) struct Streams {
    meter: Arc<Meter>,
    open: Mutex<Open>,
    /// Responses that came over the connection.
    responses: AtomicU64,
    /// It gets no new requests.
    retired: AtomicBool,
    /// Told when it is to end at once.
    cut: Arc<Notify>,
    leavings: Arc<Leavings>,
    /// Told when a stream is free again.
    freed: OnceLock<Arc<Notify>>,
    /// Whoever was the first to have a request on it; and whether others had some, too.
    first: OnceLock<Owner>,
    is_shared: AtomicBool,
}

#[derive(Default)]
struct Open {
    count: u32,
    by_application: HashMap<ApplicationKey, Own>,
    /// What those have who are of another environment than whoever opened the connection.
    foreign: Own,
    granted: Credit,
}

/// What one application, or several, have under way.
#[derive(Default, Clone, Copy)]
struct Own {
    requests: u32,
    /// Of their bodies.
    bytes: usize,
}

/// The right to one stream of a connection. Giving it back without [`Permit::heard`] says that the attempt was ended
/// before anything was heard.
pub(crate) struct Permit {
    streams: Arc<Streams>,
    owner: Owner,
    /// The bytes of the request's body.
    size: usize,
    /// Its environment did not open the connection.
    is_foreign: bool,
    /// The number of its stream, once it was handed over.
    number: Option<u32>,
    responses_before: u64,
    heard: bool,
    /// What there may be of the body yet, when the response has come.
    rest: Option<Rest>,
}

impl Http2 {
    pub(crate) async fn start(
        transport: Transport,
        address: SocketAddr,
        leavings: Arc<Leavings>,
    ) -> Result<Self, Trouble> {
        let (meter, fault) = (transport.meter(), transport.fault());
        let (uncut, cut) = watch::channel(());
        let (requests, io) = http2::Builder::new(UntilCut(cut))
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            // hyper's defaults are for downloads: nobody may send us more than we would read.
            .initial_stream_window_size(MAX_BODY_BYTES as u32)
            .initial_connection_window_size(16 * MAX_BODY_BYTES as u32)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            // What a receiver sends that makes no sense is counted here, each request's by itself.
            .max_local_error_reset_streams(None)
            .handshake(TokioIo::new(Counted::new(transport)))
            .await
            .map_err(|error| describe(&error))?;
        let (ending, cut_short) = (Arc::clone(&meter), Arc::new(Notify::new()));
        let streams = Arc::new(Streams::new(meter, leavings, Arc::clone(&cut_short)));
        let (in_use, mut unused) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let life = async {
                tokio::select! {
                    ended = io => {
                        if let Err(error) = ended {
                            tracing::debug!(%error, "an HTTP/2 connection ended");
                        }
                        ending.end();
                        // It takes no more requests. Those that it has are answered yet, if that is all that the receiver wanted
                        // (RFC 9113 §6.8).
                        let _ = (&mut unused).await;
                    }
                    _ = &mut unused => ending.end(),
                }
                tokio::time::sleep(CLOSING_PATIENCE).await;
            };
            tokio::select! {
                () = life => {}
                () = cut_short.notified() => ending.end(),
            }
            drop(uncut);
        });
        // Before it is known how many streams there are, nobody can count on one.
        let _ = tokio::time::timeout(SETTINGS_PATIENCE, streams.meter.settled()).await;
        Ok(Self { requests, streams, address, fault, _in_use: Arc::new(in_use) })
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
        mut request: Request<Payload>,
        permit: &mut Permit,
        stage: &Stage,
        wall: Timestamp,
    ) -> Result<(), Broken> {
        let rest = request.body_mut().watch();
        if self.streams.meter.streams() == 0 {
            stage.streamless();
            self.streams.meter.opened().await;
            stage.waiting();
        }
        stage.sending();
        let (opened, response) = self.hand_over(request, permit);
        let response = within_share(&opened, response).await;
        permit.heard();
        let response = match response {
            Some(response) => response.map_err(|error| self.broken(&error, permit, &opened))?,
            None => return Err(too_much()),
        };
        let rest = permit.rest.insert(rest);
        stage.reading(response.status(), response.headers(), wall);
        // The head, which may be large, is not kept for as long as the body takes.
        tokio::select! {
            biased;
            () = opened.spent.cancelled() => {}
            () = read(response.into_body(), stage, Reader { meter: &self.streams.meter, number: opened.number }) => {}
        }
        // hyper lets go of a body only when it is written, or the receiver does not want it.
        let _ = tokio::time::timeout(REST_PATIENCE, rest.gone()).await;
        Ok(())
    }

    /// Hands a request to hyper, which opens streams in the order in which it gets requests.
    fn hand_over(&mut self, mut request: Request<Payload>, permit: &mut Permit) -> (Opened, Handed) {
        let (taking, taken) = oneshot::channel::<()>();
        // Dropped when the stream is opened: h2 keeps nothing of it.
        request.extensions_mut().insert(Arc::new(taking));
        let requests = &mut self.requests;
        let (opened, response) = self.streams.meter.open(permit.owner, permit.size, || requests.send_request(request));
        permit.number = Some(opened.number);
        (opened, Handed(Some((Box::pin(response), taken))))
    }

    fn broken(&self, error: &hyper::Error, permit: &Permit, opened: &Opened) -> Broken {
        let meter = &self.streams.meter;
        let is_too_much = meter.is_spent() || meter.has_overrun();
        // As long as the connection goes on, nobody has ended it.
        let was_ended = !was_reset(error) && (is_too_much || was_ended_here(error));
        let culprit = meter.culprit().filter(|_| was_ended);
        if opened.spent.is_cancelled() {
            return Broken { culprit, ..too_much() };
        }
        let by_others = was_ended && culprit.map_or_else(|| self.is_shared(), |culprit| culprit != permit.owner);
        if by_others {
            return Broken { culprit, ..Broken::by_others() };
        }
        let broken = self.ended(error);
        let again = if culprit.is_some() || is_too_much { Again::Not } else { broken.again };
        Broken { culprit, again, ..broken }
    }

    /// Whether others than the one who was the first to use it have had requests on it, too.
    pub(crate) fn is_shared(&self) -> bool {
        self.streams.is_shared.load(Ordering::Relaxed)
    }

    /// What ended the connection, or the request alone.
    fn ended(&self, error: &hyper::Error) -> Broken {
        if self.streams.meter.is_spent() {
            return too_much();
        }
        let broken = Broken::new(error, was_unheard(error));
        match self.fault.text() {
            Some(text) => Broken { trouble: Trouble::new(Failure::Tls, text), ..broken },
            None => broken,
        }
    }
}

/// The receiver has sent more for a request than anybody needs.
fn too_much() -> Broken {
    let detail = "the receiver sent too much over HTTP/2 that is no response";
    Broken::of(Trouble::new(Failure::Protocol, detail))
}

/// Whether h2 ended the connection, because of what the receiver sent.
fn was_ended_here(error: &hyper::Error) -> bool {
    cause(error).is_some_and(|cause| cause.is_go_away() && cause.is_library())
}

/// Whether it is the request alone that has ended.
fn was_reset(error: &hyper::Error) -> bool {
    cause(error).is_some_and(h2::Error::is_reset)
}

fn cause(error: &hyper::Error) -> Option<&h2::Error> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref())
}

type Responding = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

/// A request that hyper was given. It opens a stream for it even if nobody waits for the response any more, since streams are numbered
/// by what was handed over.
struct Handed(Option<(Responding, oneshot::Receiver<()>)>);

impl Drop for Handed {
    fn drop(&mut self) {
        let Some((response, mut taken)) = self.0.take() else { return };
        if taken.try_recv() != Err(oneshot::error::TryRecvError::Empty) {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = taken.await;
                drop(response);
            });
        }
    }
}

impl Future for Handed {
    type Output = hyper::Result<Response<Incoming>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some((response, _)) = self.0.as_mut() else { return Poll::Pending };
        let response = ready!(response.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(response)
    }
}

/// Waits for the head of a response; `None` if the receiver sends too much before it. If it was too much of something else, the head may be
/// among what was read before, and comes within a moment.
async fn within_share(opened: &Opened, mut response: Handed) -> Option<hyper::Result<Response<Incoming>>> {
    tokio::select! {
        biased;
        response = &mut response => return Some(response),
        () = opened.spent.cancelled() => {}
    }
    if opened.spent_on_heads.load(Ordering::Acquire) {
        return None;
    }
    tokio::time::timeout(HEAD_PATIENCE, response).await.ok()
}

/// Whoever reads what comes on a stream. h2 counts small frames for the connection until they are read, and those that nobody will read
/// for ever; so from the end of this on it does not see them.
struct Reader<'a> {
    meter: &'a Meter,
    number: u32,
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.meter.stop_reading(self.number);
    }
}

/// Reads a response's body, as far as it is kept. The reader, which is the last argument, is gone before the body is.
async fn read(mut body: Incoming, stage: &Stage, _reader: Reader<'_>) {
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) if frame.data_ref().is_none_or(|data| stage.received().keep(data)) => {}
            _ => return,
        }
    }
    stage.received().finish();
}

/// Runs what belongs to one connection until that is cut, which happens when the other end is dropped: hyper would wait for as
/// long as a receiver does not read.
#[derive(Clone)]
struct UntilCut(watch::Receiver<()>);

impl<F> Executor<F> for UntilCut
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        let mut cut = self.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = future => {}
                _ = cut.changed() => {}
            }
        });
    }
}

impl Streams {
    fn new(meter: Arc<Meter>, leavings: Arc<Leavings>, cut: Arc<Notify>) -> Self {
        Self {
            meter,
            open: Mutex::default(),
            responses: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            cut,
            leavings,
            freed: OnceLock::new(),
            first: OnceLock::new(),
            is_shared: AtomicBool::new(false),
        }
    }

    /// Says whom to tell when a stream is free again.
    pub(crate) fn tell(&self, freed: &Arc<Notify>) {
        // Set once, by the pool that has it.
        let _ = self.freed.set(Arc::clone(freed));
    }

    /// A stream for a request with a body of so many bytes on a connection that somebody `opened`, unless there is none, or whoever makes
    /// it has his share.
    pub(crate) fn reserve(self: &Arc<Self>, owner: Owner, size: usize, opened: Owner) -> Option<Permit> {
        let allowed = self.meter.streams();
        let mut open = self.open.lock();
        let own = open.by_application.get(&owner.application).copied().unwrap_or_default();
        let is_foreign = owner.environment != opened.environment;
        let has_stream = open.count < allowed && own.requests < (allowed / SHARE).max(1);
        let foreign_bytes = open.foreign.bytes.saturating_add(size);
        let is_welcome = !is_foreign
            || (open.foreign.requests < (allowed / FOREIGN_SHARE).max(1)
                && signed(foreign_bytes) <= self.meter.whole_window() / i64::from(FOREIGN_SHARE));
        let alone = open.count == own.requests;
        let free = owner == opened && (alone || self.meter.is_written());
        let granted = has_stream && is_welcome && self.has_room(own.bytes, size, free);
        granted.then(|| self.take(&mut open, owner, size, is_foreign))
    }

    /// Whether the window has room for another body of an application that has so many bytes under way. `free`: nobody else
    /// has any that a large one could keep waiting.
    fn has_room(&self, own: usize, size: usize, free: bool) -> bool {
        let (whole, left) = (self.meter.whole_window(), self.meter.window_left());
        let share = whole / i64::from(SHARE);
        // One that is larger than what is left is read as it is written, if everything before it was.
        let fits_freely = free && left >= signed(size).clamp(share, whole / GIVEN_BACK);
        fits_freely || (left >= share && signed(own.saturating_add(size)) <= share)
    }

    /// Whether so much of the window was not given back that there is something that the receiver has not read.
    pub(crate) fn is_unread(&self) -> bool {
        self.meter.window_left() < self.meter.whole_window() / GIVEN_BACK
    }

    /// A stream for whoever made the connection.
    pub(crate) fn reserve_first(self: &Arc<Self>, owner: Owner, size: usize) -> Permit {
        self.take(&mut self.open.lock(), owner, size, false)
    }

    fn take(self: &Arc<Self>, open: &mut Open, owner: Owner, size: usize, is_foreign: bool) -> Permit {
        let credit = Credit::of_request(size);
        open.count += 1;
        open.by_application.entry(owner.application).or_default().add(size);
        if is_foreign {
            open.foreign.add(size);
        }
        open.granted += credit;
        self.meter.grant(credit);
        self.meter.expect(size);
        if *self.first.get_or_init(|| owner) != owner {
            self.is_shared.store(true, Ordering::Relaxed);
        }
        let responses_before = self.responses.load(Ordering::Relaxed);
        let streams = Arc::clone(self);
        Permit { streams, owner, size, is_foreign, number: None, responses_before, heard: false, rest: None }
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

impl Own {
    fn add(&mut self, size: usize) {
        self.requests += 1;
        self.bytes += size;
    }

    fn subtract(&mut self, size: usize) {
        self.requests -= 1;
        self.bytes -= size;
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
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
        match self.rest.take().map_or(Leaving::Nothing, |rest| rest.leave(&streams.leavings)) {
            Leaving::Nothing => {}
            Leaving::Something => streams.retired.store(true, Ordering::Relaxed),
            Leaving::TooMuch => {
                streams.retired.store(true, Ordering::Relaxed);
                streams.cut.notify_one();
            }
        }
        if let Some(number) = self.number {
            streams.meter.close(number);
        }
        let mut open = streams.open.lock();
        open.count -= 1;
        if let Some(own) = open.by_application.get_mut(&self.owner.application) {
            own.subtract(self.size);
            if own.requests == 0 {
                open.by_application.remove(&self.owner.application);
            }
        }
        if self.is_foreign {
            open.foreign.subtract(self.size);
        }
        if open.count == 0 {
            streams.meter.expect_nothing();
        }
        open.granted -= Credit::of_request(self.size);
        streams.meter.settle(open.granted);
        drop(open);
        if let Some(freed) = streams.freed.get() {
            freed.notify_waiters();
        }
    }
}

/// Whether it was the connection that ended, or the receiver says that it did not process the request.
fn was_unheard(error: &hyper::Error) -> bool {
    error.is_canceled()
        || error.is_closed()
        || cause(error).is_some_and(|cause| {
            cause.is_io() || cause.is_go_away() || cause.reason() == Some(h2::Reason::REFUSED_STREAM)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holders::owner;
    use crate::rest::MAX_LEFT_BYTES;
    use futures_util::FutureExt as _;

    const A: Owner = owner(1, 1);
    const B: Owner = owner(1, 2);
    /// Has opened it, of the same environment.
    const OPENER: Owner = owner(1, 3);

    fn streams() -> Arc<Streams> {
        Arc::new(Streams::new(Arc::default(), Arc::default(), Arc::default()))
    }

    fn reserve(streams: &Arc<Streams>, owner: Owner) -> Option<Permit> {
        streams.reserve(owner, 0, OPENER)
    }

    #[test]
    fn an_application_has_a_quarter_of_the_streams_and_leaves_the_rest_to_others() {
        let streams = streams();
        let taken: Vec<_> = std::iter::from_fn(|| reserve(&streams, A)).collect();
        assert_eq!(taken.len(), 25, "of a hundred");
        assert!(reserve(&streams, B).is_some());
        drop(taken);
        assert!(streams.is_idle() && !streams.serves(A.application));
    }

    #[test]
    fn an_application_has_a_quarter_of_the_window_and_leaves_the_rest_to_others() {
        let streams = streams();
        for size in [16_384, usize::MAX] {
            assert!(streams.reserve(A, size, OPENER).is_none(), "also of a connection on which nobody is");
        }
        let taken: Vec<_> = std::iter::from_fn(|| streams.reserve(A, 4_000, OPENER)).collect();
        assert_eq!(taken.len(), 4, "of 65,535 bytes");
        assert!(streams.reserve(B, 10_000, OPENER).is_some());
        drop(taken);
        assert!(streams.reserve(A, 4_000, OPENER).is_some());
    }

    #[test]
    fn however_many_applications_another_environment_has_they_leave_half_to_whoever_opened_the_connection() {
        for size in [0, 1_000] {
            let streams = streams();
            let of_others = (0..40).flat_map(|number| [owner(2, 100 + number), owner(3, 200 + number)].repeat(8));
            let taken: Vec<_> = of_others.filter_map(|other| streams.reserve(other, size, OPENER)).collect();
            assert_eq!(taken.len(), if size == 0 { 50 } else { 32 }, "of a hundred, and of 65,535 bytes");
            assert!(streams.reserve(A, 10_000, OPENER).is_some());
            drop(taken);
            assert!(streams.reserve(owner(2, 100), size, OPENER).is_some());
        }
    }

    #[test]
    fn whoever_opened_a_connection_may_fill_it_and_others_join_when_a_share_is_left() {
        let streams = streams();
        let taken: Vec<_> = std::iter::from_fn(|| streams.reserve(A, 10_000, A)).collect();
        assert_eq!(taken.len(), 5);
        assert!(reserve(&streams, B).is_none(), "less than a share is left");
        drop(taken);
        assert!(reserve(&streams, B).is_some());
    }

    #[test]
    fn a_large_body_goes_where_no_other_is_still_to_be_written_and_keeps_others_off() {
        let streams = streams();
        let unwritten = streams.reserve(B, 1_000, OPENER).unwrap();
        assert!(streams.reserve(A, 1_000_000, A).is_none());
        drop(unwritten);
        let written = reserve(&streams, B).unwrap();
        let large = streams.reserve(A, 1_000_000, A).unwrap();
        assert!(reserve(&streams, B).is_none() && reserve(&streams, A).is_none());
        drop((large, written));
        assert!(streams.reserve(A, 1_000_000, A).is_some(), "what was not written is forgotten");
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

    #[test]
    fn a_connection_on_which_something_is_left_of_an_answered_message_is_retired_and_one_too_many_is_cut() {
        let leavings = Arc::default();
        let mut bodies = [MAX_LEFT_BYTES, 1].map(|size| Payload::new(vec![0; size].into()));
        let mut were_cut = Vec::new();
        for body in &mut bodies {
            let streams = Arc::new(Streams::new(Arc::default(), Arc::clone(&leavings), Arc::default()));
            let mut permit = reserve(&streams, A).unwrap();
            permit.heard();
            permit.rest = Some(body.watch());
            drop(permit);
            assert!(streams.retired.load(Ordering::Relaxed));
            were_cut.push(streams.cut.notified().now_or_never().is_some());
        }
        assert_eq!(were_cut, [false, true]);
    }
}
