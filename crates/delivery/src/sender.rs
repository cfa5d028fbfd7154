//! The sender: makes one attempt, and says what came of it. It decides nothing and stores nothing.
//!
//! One deadline covers the whole attempt: resolving, connecting, TLS, the request, and the response to its last byte. If the
//! status is known when it passes, that is the result; what is missing of the response does not change it. The response is
//! read up to 64 KiB and never decompressed, redirects are not followed, and no proxy is used.
//!
//! A connection that a receiver closed while it was idle is not a failed attempt. Usually that is seen before the
//! connection is used again. If it is not, the reused connection breaks before a byte of the response has come; the request
//! is then made once more, over a new connection and within the same deadline. On a new connection the same is a failure.
//!
//! So it is on any connection that others use, too, if it ends because of what the receiver sent for their requests. If that happens
//! twice, it is no attempt; nor is it if it is known whose request that was, and the time is over before there is an answer.
//!
//! What keeps this machine from making the attempt (no open files, no free stream of a shared connection) is no attempt:
//! it ends as [`Failure::Local`], and the wait for a stream is not part of the deadline.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use postrider_domain::clock::Clock;
use postrider_domain::delivery::{Failure, Outcome};
use postrider_domain::endpoint::{EndpointUrl, Headers};
use postrider_domain::message::Message;
use postrider_domain::signature::SigningKeys;
use postrider_domain::time::Timestamp;
use postrider_store::{ApplicationKey, EndpointKey, EnvironmentKey, Target};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::answer::{Stage, Trouble};
use crate::connect::{Connector, Made, Single, Tried};
use crate::connection::{Again, Broken};
use crate::egress::Policy;
use crate::holders::Owner;
use crate::options::DeliveryOptions;
use crate::origin::Origin;
use crate::pool::Pool;
use crate::request::{self, SignatureNames, Template};
use crate::resolve::Resolve;
use crate::shared::{Making, Opened, SharedPool, Turn, Use};
use crate::tls::{self, Tls};

/// Whoever makes attempts for the engine: [`Sender`] over the network; in a simulation, something that needs none.
#[async_trait]
pub trait Carrier: Send + Sync + 'static {
    /// Prepares an endpoint: once per version of it.
    fn prepare(&self, target: &Target) -> Arc<Prepared>;

    /// Itself, if it is a [`Sender`], which can be asked without allocating a future for each attempt.
    fn as_sender(&self) -> Option<&Sender> {
        None
    }

    /// Makes one attempt at `target`, from which `to` was prepared. Dropping the future ends the request.
    async fn send(&self, target: &Target, to: &Prepared, message: &Message, slot: &mut Slot) -> Sent;

    /// Takes back what a slot holds, so that others can use it.
    fn release(&self, slot: Slot);

    /// Closes connections that nobody has used for a while.
    fn close_idle(&self);

    /// Between two messages that are handed over, on the thread that does it, while nothing is locked. The simulation, which has one
    /// thread, lets others go on here, as they do on a machine.
    fn between_messages(&self) {}
}

#[async_trait]
impl Carrier for Sender {
    fn prepare(&self, target: &Target) -> Arc<Prepared> {
        Self::prepare(self, target)
    }

    fn as_sender(&self) -> Option<&Sender> {
        Some(self)
    }

    async fn send(&self, _: &Target, to: &Prepared, message: &Message, slot: &mut Slot) -> Sent {
        Self::send(self, to, message, slot).await
    }

    fn release(&self, slot: Slot) {
        Self::release(self, slot);
    }

    fn close_idle(&self) {
        Self::close_idle(self);
    }
}

/// Makes attempts over the network. One for the whole process.
pub struct Sender {
    connector: Connector,
    pool: Pool,
    shared: SharedPool,
    spared: Spared,
    names: SignatureNames,
    timeout: Duration,
    /// The process is about to end.
    ending: CancellationToken,
    /// When it was last told that this machine lacks something.
    told_at: Mutex<Option<Timestamp>>,
    clock: Arc<dyn Clock>,
}

/// An endpoint, ready to be sent to, or the reason why it cannot be. Made anew when its URL, headers or keys change.
pub struct Prepared {
    to: Result<Template, Trouble>,
    /// Whose share of connections it uses.
    owner: Owner,
    /// Which endpoint it is.
    endpoint: EndpointKey,
}

/// Attempts in a row that were none, because others ended the connection, of each endpoint of which there were any: also while nobody
/// sends to it.
#[derive(Default)]
struct Spared {
    counts: Mutex<HashMap<EndpointKey, u32>>,
    /// There hardly ever are any.
    any: AtomicBool,
}

impl Spared {
    /// What others brought about is no attempt, unless it goes on so, attempt after attempt: a receiver may have others at hand.
    fn end(&self, made: Result<Outcome, Broken>, endpoint: EndpointKey) -> Outcome {
        match made {
            Err(Broken { again: Again::ByOthers, trouble, .. }) if self.spares(endpoint) => {
                Trouble { kind: Failure::Local, ..trouble }.into()
            }
            // None for another reason: that is neither one more in a row nor the end of it.
            Err(Broken { trouble: trouble @ Trouble { kind: Failure::Local, .. }, .. }) => trouble.into(),
            other => {
                self.forget(endpoint);
                other.unwrap_or_else(|broken| broken.trouble.into())
            }
        }
    }

    fn spares(&self, endpoint: EndpointKey) -> bool {
        let mut counts = self.counts.lock();
        if counts.len() >= MAX_SPARED_ENDPOINTS && !counts.contains_key(&endpoint) {
            counts.clear();
        }
        self.any.store(true, Ordering::Release);
        let count = counts.entry(endpoint).or_default();
        *count += 1;
        *count <= MAX_SPARED
    }

    fn forget(&self, endpoint: EndpointKey) {
        if self.any.load(Ordering::Acquire) {
            let mut counts = self.counts.lock();
            counts.remove(&endpoint);
            self.any.store(!counts.is_empty(), Ordering::Release);
        }
    }
}

/// What whoever sends one message after another keeps between them: the connection, if it is not one that all share.
/// Dropping it closes the connection; [`Sender::release`] leaves it to others.
#[derive(Default)]
pub struct Slot(Option<(Arc<Origin>, Single)>);

/// What a request is made over.
enum Link {
    Single(Single),
    Shared(Box<Use>),
}

/// How an attempt begins.
enum Way {
    /// Over a connection that has been used before.
    Used(Link),
    /// Over a new one.
    New(Option<Making>),
}

/// As long as this machine lacks something, it is told so often: thousands of attempts may find it out within a second.
const TOLD_EVERY: Duration = Duration::from_secs(10);

postrider_domain::limits! {
    in "Receivers over HTTP/2";
    /// Attempts at an endpoint in a row that are none because the connection ended for what the receiver sent for others' requests, or for none, and so did the next, or the time was over
    pub(crate) const MAX_SPARED: u32 = 8, "attempts", beyond "the next has failed";
    /// Endpoints of which that is counted
    pub(crate) const MAX_SPARED_ENDPOINTS: usize = 16_384, "endpoints", beyond "all are counted again from 0";
}

/// How long a request waits for a stream, and how often it looks whether there is one.
const STREAM_PATIENCE: Duration = Duration::from_secs(5);
const STREAM_WAIT: Duration = Duration::from_millis(100);

/// What came of an attempt.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The response, or why there is none.
    pub outcome: Outcome,
    /// From the start to the end of the response.
    pub duration: Duration,
}

/// One attempt under way.
struct Attempt<'a> {
    to: &'a Template,
    owner: Owner,
    message: &'a Message,
    started: Timestamp,
    stage: Stage,
    tried: Tried,
    /// Of a connection that it was made over it is known that another's request ended it.
    ended_by_others: AtomicBool,
}

impl Attempt<'_> {
    /// The bytes of the request's body.
    fn size(&self) -> usize {
        self.message.payload.as_ref().map_or(0, bytes::Bytes::len)
    }

    /// What came of it when its time is over.
    fn timed_out(&self, limit: Duration) -> Result<Outcome, Broken> {
        let trouble = match self.stage.timed_out(limit) {
            Ok(outcome) => return Ok(outcome),
            Err(trouble) => trouble,
        };
        // The receiver had not all of the time, and nobody knows what it would have said. Where it is not known who ended the connection,
        // it may have been this receiver.
        if self.ended_by_others.load(Ordering::Relaxed) { Err(Broken::by_others()) } else { Err(Broken::of(trouble)) }
    }
}

impl Sender {
    /// A sender that trusts the certificates that the system trusts. Fails only if TLS cannot be set up.
    pub fn new(
        options: &DeliveryOptions,
        clock: Arc<dyn Clock>,
        resolve: Arc<dyn Resolve>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self::with_tls(options, clock, resolve, tls::system_config()?))
    }

    /// A sender that trusts what `tls` says (see [`tls::config`]).
    pub fn with_tls(options: &DeliveryOptions, clock: Arc<dyn Clock>, resolve: Arc<dyn Resolve>, tls: Tls) -> Self {
        Self {
            connector: Connector::new(options, resolve, tls, Arc::clone(&clock)),
            pool: Pool::new(options.max_in_flight),
            shared: SharedPool::new(options.max_in_flight),
            spared: Spared::default(),
            names: options.header_prefix.into(),
            timeout: options.request_timeout.0,
            ending: CancellationToken::new(),
            told_at: Mutex::default(),
            clock,
        }
    }

    /// The egress policy that attempts are made under.
    pub fn policy(&self) -> &Policy {
        self.connector.policy()
    }

    /// Prepares an endpoint: once per version of it.
    pub fn prepare(&self, target: &Target) -> Arc<Prepared> {
        let prepared = self.prepare_parts(&target.endpoint.url, &target.headers, &target.keys);
        Arc::new(Prepared { owner: Owner::of(target), endpoint: target.key, ..prepared })
    }

    /// Prepares a URL that is no stored endpoint.
    pub fn prepare_parts(&self, url: &EndpointUrl, headers: &Headers, keys: &SigningKeys) -> Prepared {
        let to = request::prepare(url, headers, keys, self.policy(), &self.names);
        let owner = Owner { environment: EnvironmentKey(0), application: ApplicationKey(0) };
        Prepared { to, owner, endpoint: EndpointKey(0) }
    }

    /// Stands for an endpoint that could not be prepared because of an error of ours: every attempt fails with that.
    pub(crate) fn unprepared(owner: Owner) -> Arc<Prepared> {
        let detail = "the request could not be made because of an internal error";
        Arc::new(Prepared { to: Err(Trouble::new(Failure::Protocol, detail)), owner, endpoint: EndpointKey(0) })
    }

    /// Makes one attempt. Dropping the future ends the request.
    pub async fn send(&self, to: &Prepared, message: &Message, slot: &mut Slot) -> Sent {
        let started = self.clock.now();
        let outcome = match &to.to {
            Ok(template) => {
                let (owner, stage, tried) = (to.owner, Stage::default(), Tried::default());
                let ended_by_others = AtomicBool::new(false);
                let attempt = Attempt { to: template, owner, message, started, stage, tried, ended_by_others };
                self.spared.end(self.attempt(&attempt, slot).await, to.endpoint)
            }
            Err(refused) => refused.clone().into(),
        };
        Sent { outcome, duration: self.clock.now().since(started) }
    }

    /// Takes back what a slot holds, so that others can use it.
    pub fn release(&self, slot: Slot) {
        if let Some((origin, single)) = slot.0 {
            self.pool.put(&origin, single, self.clock.now());
        }
    }

    /// The process is about to end. Attempts whose status is known end as they would at their deadline, and so does each that comes to
    /// know it from here on; nothing else changes.
    pub(crate) fn end(&self) {
        self.ending.cancel();
    }

    /// Waits for an attempt to be made, or until it is known what came of it and nobody can wait for the rest.
    async fn unless_ended<E>(
        &self,
        attempt: &Attempt<'_>,
        make: impl Future<Output = Result<Outcome, E>>,
    ) -> Result<Outcome, E> {
        let (mut make, mut ending) = (pin!(make), pin!(self.ending.cancelled()));
        poll_fn(|cx| {
            if let Poll::Ready(made) = make.as_mut().poll(cx) {
                return Poll::Ready(made);
            }
            if attempt.stage.has_status() && ending.as_mut().poll(cx).is_ready() {
                return attempt.stage.take_outcome().map_or(Poll::Pending, |outcome| Poll::Ready(Ok(outcome)));
            }
            Poll::Pending
        })
        .await
    }

    /// Closes connections that have been idle for a minute. Happens by itself when connections are taken and released;
    /// worth calling now and then in case none are.
    pub fn close_idle(&self) {
        let now = self.clock.now();
        self.pool.expire(now);
        self.shared.expire(now);
    }

    async fn attempt(&self, attempt: &Attempt<'_>, slot: &mut Slot) -> Result<Outcome, Broken> {
        let way = self.way(attempt, slot).await?;
        let made = self.unless_ended(attempt, self.make(attempt, way, slot));
        let made = match tokio::time::timeout(self.timeout, made).await {
            Ok(made) => made,
            Err(_) => attempt.timed_out(self.timeout),
        };
        let (connector, origin) = (&self.connector, &attempt.to.origin);
        match &made {
            Ok(_) => connector.praise(origin, &attempt.tried),
            // It says nothing of the address.
            Err(broken) if broken.again == Again::ByOthers || broken.trouble.kind == Failure::Local => {}
            Err(_) => connector.blame(origin, &attempt.tried),
        }
        made
    }

    /// Closes what is not in use: the next attempt may need the descriptors.
    fn shed(&self) {
        self.pool.shed();
        self.shared.shed();
    }

    async fn make(&self, attempt: &Attempt<'_>, way: Way, slot: &mut Slot) -> Result<Outcome, Broken> {
        let mut again = Again::Not;
        let making = match way {
            Way::New(making) => making,
            Way::Used(link) => {
                let is_single = matches!(link, Link::Single(_));
                match self.exchange(attempt, link, slot).await {
                    Err(broken) if broken.again != Again::Not => again = broken.again,
                    // That is said of the time in which nothing came, while the request was on its way (RFC 9110, section 15.5.9).
                    Ok(Outcome::Answered { status: 408, .. }) if is_single && slot.0.is_none() => {}
                    other => return other,
                }
                attempt.stage.resolving();
                None
            }
        };
        let link = self.connect(attempt).await?;
        drop(making);
        match self.exchange(attempt, link, slot).await {
            Err(broken) if broken.again == Again::ByOthers && again != Again::ByOthers => {}
            other => return other,
        }
        attempt.stage.resolving();
        let link = self.connect(attempt).await?;
        self.exchange(attempt, link, slot).await
    }

    async fn connect(&self, attempt: &Attempt<'_>) -> Result<Link, Trouble> {
        let Attempt { owner, stage, tried, .. } = attempt;
        let origin = &attempt.to.origin;
        self.shared.make_room();
        let made = self.connector.connect(origin, *owner, stage, tried).await;
        let made = made.inspect_err(|trouble| {
            if trouble.starved {
                self.tell(trouble);
                self.shed();
            }
        })?;
        Ok(match made {
            Made::Http1(single) => Link::Single(single),
            Made::Http2 { connection, until } => {
                let opened = Opened { connection, owner: *owner, until };
                // Others can use it from now on.
                Link::Shared(Box::new(self.shared.add(origin, opened, attempt.size(), self.clock.now())))
            }
        })
    }

    fn tell(&self, trouble: &Trouble) {
        let now = self.clock.now();
        let mut told_at = self.told_at.lock();
        if told_at.is_none_or(|told_at| now.since(told_at) >= TOLD_EVERY) {
            *told_at = Some(now);
            tracing::warn!(detail = %trouble.detail, "no connection can be opened here; those that nobody uses are closed");
        }
    }

    /// Finds a connection to the origin that has been used before: the slot's own, a stream of a shared one, or one from
    /// the pool. Waits if there is none that can be used, and no more may be opened.
    async fn way(&self, attempt: &Attempt<'_>, slot: &mut Slot) -> Result<Way, Trouble> {
        let origin = &attempt.to.origin;
        if let Some(own) = self.own(attempt, slot) {
            return Ok(Way::Used(Link::Single(own)));
        }
        let began = Instant::now();
        let (mut first, mut waited) = (None, false);
        loop {
            let now = self.clock.now();
            waited |= began.elapsed() >= STREAM_WAIT;
            match self.shared.next(origin, attempt.owner, attempt.size(), waited, now) {
                Turn::Use(stream) => return Ok(Way::Used(Link::Shared(stream))),
                Turn::Connect(making) => return Ok(Way::New(Some(making))),
                Turn::Unknown => {
                    let idle = self.pool.take(origin, attempt.owner, now);
                    return Ok(idle.map_or(Way::New(None), |single| Way::Used(Link::Single(single))));
                }
                Turn::Wait(_) if began.elapsed() >= STREAM_PATIENCE => return Err(no_stream()),
                Turn::Wait(wait) if first.is_none() => {
                    let door = tokio::time::timeout_at(began + STREAM_PATIENCE, wait.door.lock_owned()).await;
                    first = Some(door.map_err(|_| no_stream())?);
                }
                Turn::Wait(wait) => {
                    let _ = tokio::time::timeout(STREAM_WAIT, wait.freed).await;
                    waited = true;
                }
            }
        }
    }

    /// The connection that the slot has kept, if it is one to the origin and not too old. Whether it is still open is looked at
    /// right before the request is written.
    fn own(&self, attempt: &Attempt<'_>, slot: &mut Slot) -> Option<Single> {
        let now = attempt.started;
        let (origin, mut single) = slot.0.take()?;
        if origin != attempt.to.origin {
            self.pool.put(&origin, single, now);
            return None;
        }
        (!single.is_old(now)).then_some(single)
    }

    /// Makes the request over a connection. If that can be used again, it is in the slot afterwards, or with those that
    /// are shared.
    async fn exchange(&self, attempt: &Attempt<'_>, link: Link, slot: &mut Slot) -> Result<Outcome, Broken> {
        let Attempt { to, message, started, stage, tried, .. } = attempt;
        let wall = self.clock.wall();
        let payload = message.payload.clone().unwrap_or_default();
        stage.waiting();
        match link {
            Link::Single(mut single) => {
                tried.settle_on(single.address);
                let request = to.http1(&message.id, payload, wall, *started);
                let reusable = single.connection.exchange(request, stage, wall).await?;
                if reusable {
                    slot.0 = Some((Arc::clone(&to.origin), single));
                }
            }
            Link::Shared(mut stream) => {
                tried.settle_on(stream.connection.address());
                let request = to.http2(&message.id, payload, wall, *started).ok_or_else(Broken::unbuilt)?;
                let made = stream.connection.exchange(request, &mut stream.permit, stage, wall).await;
                if let Err(Broken { culprit: Some(culprit), again, .. }) = &made {
                    attempt.ended_by_others.fetch_or(*again == Again::ByOthers, Ordering::Relaxed);
                    self.shared.set_apart(&to.origin, *culprit, stream.connection.is_shared(), self.clock.now());
                }
                made?;
            }
        }
        stage.take_outcome().ok_or_else(Broken::without_response)
    }
}

fn no_stream() -> Trouble {
    Trouble::new(Failure::Local, "all streams of the connections to the receiver's host are in use")
}

impl Prepared {
    /// Says which application of which environment it belongs to, which is whose share of connections it uses.
    #[must_use]
    pub fn of(self, environment: EnvironmentKey, application: ApplicationKey) -> Self {
        Self { owner: Owner { environment, application }, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(outcome: &Outcome) -> Failure {
        match outcome {
            Outcome::Failed { kind, .. } => *kind,
            Outcome::Answered { .. } => panic!("there was no answer"),
        }
    }

    #[test]
    fn what_others_brought_about_is_no_attempt_so_often_in_a_row() {
        let (spared, one, mut kinds) = (Spared::default(), EndpointKey(1), Vec::new());
        for _ in 0..2 * (MAX_SPARED + 1) {
            kinds.push(kind(&spared.end(Err(Broken::by_others()), one)));
            assert_eq!(kind(&spared.end(Err(Broken::of(no_stream())), one)), Failure::Local, "which is no end of it");
        }
        let round = [vec![Failure::Local; MAX_SPARED as usize], vec![Failure::Protocol]].concat();
        assert_eq!(kinds, [round.clone(), round].concat());
        assert_eq!(kind(&spared.end(Err(Broken::by_others()), EndpointKey(2))), Failure::Local);
        assert_eq!(kind(&spared.end(Err(Broken::without_response()), one)), Failure::Protocol);
        assert_eq!(kind(&spared.end(Err(Broken::by_others()), one)), Failure::Local);
    }
}
