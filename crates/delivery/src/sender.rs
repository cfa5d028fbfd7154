//! The sender: makes one attempt, and says what came of it. It decides nothing and stores nothing.
//!
//! One deadline covers the whole attempt: resolving, connecting, TLS, the request, and the response to its last byte. If the
//! status is known when it passes, that is the result; what is missing of the response does not change it. The response is
//! read up to 64 KiB and never decompressed, redirects are not followed, and no proxy is used.
//!
//! A connection that a receiver closed while it was idle is not a failed attempt. Usually that is seen before the
//! connection is used again. If it is not, the reused connection breaks before a byte of the response has come; the request
//! is then made once more, over a new connection and within the same deadline. On a new connection the same is a failure.

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::clock::Clock;
use postrider_domain::delivery::Outcome;
use postrider_domain::endpoint::{EndpointUrl, Headers};
use postrider_domain::message::Message;
use postrider_domain::signature::SigningKeys;
use postrider_domain::time::Timestamp;
use postrider_store::Target;

use crate::answer::{Stage, Trouble};
use crate::connect::{Connector, Link, Origin};
use crate::connection::Broken;
use crate::egress::Policy;
use crate::options::DeliveryOptions;
use crate::pool::Pool;
use crate::request::{self, SignatureNames, Template};
use crate::resolve::Resolve;
use crate::tls;

/// Makes attempts. One for the whole process.
pub struct Sender {
    connector: Connector,
    pool: Pool,
    names: SignatureNames,
    timeout: Duration,
    clock: Arc<dyn Clock>,
}

/// An endpoint, ready to be sent to, or the reason why it cannot be. Made anew when its URL, headers or keys change.
pub struct Prepared(Result<Template, Trouble>);

/// What whoever sends one message after another keeps between them: the connection. Dropping it closes the connection;
/// [`Sender::release`] leaves it to others.
#[derive(Default)]
pub struct Slot(Option<(Arc<Origin>, Link)>);

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
    message: &'a Message,
    started: Timestamp,
    stage: Stage,
}

impl Sender {
    /// A sender that trusts the certificates that the system trusts. Fails only if TLS cannot be set up.
    pub fn new(
        options: &DeliveryOptions,
        clock: Arc<dyn Clock>,
        resolve: Arc<dyn Resolve>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self::with_tls(options, clock, resolve, Arc::new(tls::system_config()?)))
    }

    /// A sender that trusts what `tls` says (see [`tls::config`]).
    pub fn with_tls(
        options: &DeliveryOptions,
        clock: Arc<dyn Clock>,
        resolve: Arc<dyn Resolve>,
        tls: Arc<rustls::ClientConfig>,
    ) -> Self {
        Self {
            connector: Connector::new(Policy::new(options), resolve, tls),
            pool: Pool::default(),
            names: options.header_prefix.into(),
            timeout: options.request_timeout.0,
            clock,
        }
    }

    /// The egress policy that attempts are made under.
    pub fn policy(&self) -> &Policy {
        self.connector.policy()
    }

    /// Prepares an endpoint: once per version of it.
    pub fn prepare(&self, target: &Target) -> Arc<Prepared> {
        Arc::new(self.prepare_parts(&target.endpoint.url, &target.headers, &target.keys))
    }

    /// Prepares a URL that is no stored endpoint.
    pub fn prepare_parts(&self, url: &EndpointUrl, headers: &Headers, keys: &SigningKeys) -> Prepared {
        Prepared(request::prepare(url, headers, keys, self.policy(), &self.names))
    }

    /// Makes one attempt. Dropping the future ends the request.
    pub async fn send(&self, to: &Prepared, message: &Message, slot: &mut Slot) -> Sent {
        let started = self.clock.now();
        let outcome = match &to.0 {
            Ok(to) => {
                let attempt = Attempt { to, message, started, stage: Stage::default() };
                match tokio::time::timeout(self.timeout, self.make(&attempt, slot)).await {
                    Ok(result) => result.unwrap_or_else(Outcome::from),
                    Err(_) => attempt.stage.timed_out(self.timeout),
                }
            }
            Err(refused) => refused.clone().into(),
        };
        Sent { outcome, duration: self.clock.now().since(started) }
    }

    /// Takes back what a slot holds, so that others can use it.
    pub fn release(&self, slot: Slot) {
        if let Some((origin, link)) = slot.0 {
            self.pool.put(&origin, link, self.clock.now());
        }
    }

    /// Closes connections that have been idle for a minute. Happens by itself when connections are taken and released;
    /// worth calling now and then in case none are.
    pub fn close_idle(&self) {
        self.pool.expire(self.clock.now());
    }

    async fn make(&self, attempt: &Attempt<'_>, slot: &mut Slot) -> Result<Outcome, Trouble> {
        let origin = &attempt.to.origin;
        if let Some(link) = self.idle(origin, slot) {
            match self.exchange(attempt, link, slot).await {
                Err(broken) if broken.unheard => {}
                other => return other.map_err(|broken| broken.trouble),
            }
            attempt.stage.resolving();
        }
        let link = self.connector.connect(origin, &attempt.stage).await?;
        if let Link::Http2(connection) = &link {
            // Others can use it from now on.
            self.pool.put(origin, Link::Http2(connection.clone()), attempt.started);
        }
        self.exchange(attempt, link, slot).await.map_err(|broken| broken.trouble)
    }

    /// A connection to the origin that has been used before: the slot's own, or one from the pool.
    fn idle(&self, origin: &Arc<Origin>, slot: &mut Slot) -> Option<Link> {
        match slot.0.take() {
            Some((own, mut link)) if own == *origin => {
                let open = match &mut link {
                    Link::Http1(connection) => connection.is_open(),
                    Link::Http2(connection) => connection.is_open(),
                };
                if open {
                    return Some(link);
                }
            }
            Some((other, link)) => self.pool.put(&other, link, self.clock.now()),
            None => {}
        }
        self.pool.take(origin, self.clock.now())
    }

    /// Makes the request over a connection. If that can be used again, it is in the slot afterwards.
    async fn exchange(&self, attempt: &Attempt<'_>, link: Link, slot: &mut Slot) -> Result<Outcome, Broken> {
        let Attempt { to, message, started, stage } = attempt;
        let wall = self.clock.wall();
        let payload = message.payload.clone().unwrap_or_default();
        stage.waiting();
        let reusable = match link {
            Link::Http1(mut connection) => {
                let request = to.http1(&message.id, payload, wall, *started);
                connection.exchange(request, stage, wall).await?.then_some(Link::Http1(connection))
            }
            Link::Http2(mut connection) => {
                let request = to.http2(&message.id, payload, wall, *started).ok_or_else(Broken::unbuilt)?;
                connection.exchange(request, stage, wall).await?;
                Some(Link::Http2(connection))
            }
        };
        slot.0 = reusable.map(|link| (Arc::clone(&to.origin), link));
        stage.take_outcome().ok_or_else(Broken::without_response)
    }
}
