//! Making a connection: resolve the name, check every address, dial the checked ones, and secure the connection.
//!
//! The addresses that were checked are the ones that are dialled: nothing is resolved a second time, so a name that
//! changes its mind in between gains nothing. If one address of a name is forbidden, all are: a name that points both
//! outside and inside is a mistake or an attack. And a connection has a greatest age, after which the name is resolved,
//! and its addresses checked, again: what was true once is not believed for ever.
//!
//! Of several addresses the next one is tried when one fails, in TCP or in TLS, or takes long (RFC 8305 §5). An attempt has
//! [`AT_ONCE`] sockets at most: for one more address the oldest is closed.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, select_all};
use parking_lot::Mutex;
use postrider_domain::clock::Clock;
use postrider_domain::delivery::Failure;
use postrider_domain::time::Timestamp;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::addresses::Failed;
use crate::answer::{Stage, Trouble};
use crate::egress::{Forbidden, Policy};
use crate::handshakes::Handshakes;
use crate::holders::Owner;
use crate::http1::Http1;
use crate::http2::Http2;
use crate::options::DeliveryOptions;
use crate::origin::Origin;
use crate::ours;
use crate::resolve::{Resolve, ResolveError};
use crate::rest::Leavings;
use crate::share::Shares;
use crate::sockets;
use crate::tls::{self, Asked, Tls};
use crate::transport::{Transport, Wire};
use crate::waits::Waits;

/// A connection that carries one request at a time.
pub(crate) struct Single {
    pub(crate) connection: Box<Http1>,
    /// It gets no requests from this instant on.
    pub(crate) until: Timestamp,
    pub(crate) address: SocketAddr,
    /// Who used it last.
    pub(crate) owner: Owner,
}

impl Single {
    /// Whether it can take a request, as far as is known.
    pub(crate) fn is_usable(&mut self, now: Timestamp) -> bool {
        !self.is_old(now) && self.connection.is_open()
    }

    /// Whether it has been open for as long as it may. Then it is about to be dropped.
    pub(crate) fn is_old(&mut self, now: Timestamp) -> bool {
        let is_old = now >= self.until;
        if is_old {
            self.part();
        }
        is_old
    }

    /// It is idle, and is closed in order when it is dropped.
    pub(crate) fn part(&mut self) {
        self.connection.part();
    }
}

/// A new connection.
pub(crate) enum Made {
    Http1(Single),
    Http2 { connection: Http2, until: Timestamp },
}

/// How many addresses an attempt tries at a time. The first has the socket that each request may have; for the second there
/// is one as long as there are some to spare.
const AT_ONCE: usize = 2;

postrider_domain::limits! {
    in "Name resolution";
    /// Names that are looked up at a time for one application
    pub const MAX_LOOK_UPS_OF_APPLICATION: u32 = 64, "names", beyond "the delivery waits; no attempt is counted";
}

/// How long an address may keep the next one waiting (RFC 8305 §5): until TCP is connected, and until TLS is.
const STAGGER: Duration = Duration::from_millis(250);
const TLS_STAGGER: Duration = Duration::from_secs(1);
/// How long an attempt waits for its application's other look-ups.
const LOOK_UP_PATIENCE: Duration = Duration::from_secs(5);
/// Connections get this part of the age that is allowed at least and at most; the rest is for what names are remembered.
const LEAST_AGE: f64 = 0.6;
const GREATEST_AGE: f64 = 0.9;

/// What all names get that do not lead to an address that may be delivered to. One text, so that nobody finds out by it
/// which names there are inside this network.
const UNRESOLVED: &str = "the host name does not exist, or does not resolve to a public address";

pub(crate) struct Connector {
    policy: Policy,
    resolve: Arc<dyn Resolve>,
    tls: TlsConnector,
    has_roots: bool,
    clock: Arc<dyn Clock>,
    max_age: Duration,
    /// Connections made so far: makes their ages differ.
    made: AtomicU32,
    failed: Failed,
    handshakes: Handshakes,
    leavings: Arc<Leavings>,
    looking_up: Arc<Shares>,
    second_addresses: Arc<Shares>,
}

/// The addresses that an attempt has tried, and that are to be blamed if it comes to nothing.
#[derive(Debug, Default)]
pub(crate) struct Tried(Mutex<Vec<SocketAddr>>);

impl Tried {
    /// An attempt goes on with this one alone.
    pub(crate) fn settle_on(&self, address: SocketAddr) {
        *self.0.lock() = vec![address];
    }

    fn add(&self, address: SocketAddr) {
        self.0.lock().push(address);
    }
}

impl Connector {
    pub(crate) fn new(options: &DeliveryOptions, resolve: Arc<dyn Resolve>, tls: Tls, clock: Arc<dyn Clock>) -> Self {
        Self {
            policy: Policy::new(options),
            resolve,
            tls: TlsConnector::from(tls.config),
            has_roots: tls.has_roots,
            clock,
            max_age: options.connection_max_age.0,
            made: AtomicU32::new(0),
            failed: Failed::default(),
            handshakes: Handshakes::new(),
            leavings: Arc::default(),
            looking_up: Shares::new(sockets::look_ups(options.max_in_flight), MAX_LOOK_UPS_OF_APPLICATION),
            second_addresses: Shares::new(sockets::second_addresses(options.max_in_flight), u32::MAX),
        }
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Opens a connection for an application.
    pub(crate) async fn connect(
        &self,
        to: &Origin,
        owner: Owner,
        stage: &Stage,
        tried: &Tried,
    ) -> Result<Made, Trouble> {
        let addresses = self.addresses(to, owner, stage.waits()).await?;
        let until = self.clock.now().saturating_add(self.age());
        stage.connecting();
        let (transport, address) = self.dial(to, &addresses, owner, stage, tried).await?;
        tried.settle_on(address);
        if transport.speaks_http2() {
            return Ok(Made::Http2 {
                connection: Http2::start(transport, address, Arc::clone(&self.leavings)).await?,
                until,
            });
        }
        transport.meter().turn_off();
        let connection = Box::new(Http1::new(transport));
        Ok(Made::Http1(Single { connection, until, address, owner }))
    }

    /// Remembers that what was tried came to nothing: other addresses come first next time.
    pub(crate) fn blame(&self, to: &Origin, tried: &Tried) {
        self.failed.blame(to, &std::mem::take(&mut *tried.0.lock()), self.clock.now());
    }

    /// Remembers that what was tried last works.
    pub(crate) fn praise(&self, to: &Origin, tried: &Tried) {
        if let Some(address) = tried.0.lock().last() {
            self.failed.praise(to, *address);
        }
    }

    /// How old the next connection may become. Steps of the golden ratio spread the ages evenly, so that connections
    /// which were opened together are not replaced together.
    fn age(&self) -> Duration {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let unit = f64::from(number.wrapping_mul(0x9E37_79B9)) / (f64::from(u32::MAX) + 1.0);
        self.max_age.mul_f64(LEAST_AGE + (GREATEST_AGE - LEAST_AGE) * unit)
    }

    /// The addresses of a host, every one of them allowed, in the order in which they are to be tried.
    async fn addresses(&self, to: &Origin, owner: Owner, waits: &Waits) -> Result<Vec<SocketAddr>, Trouble> {
        let found = match &to.host {
            url::Host::Ipv4(address) => vec![IpAddr::from(*address)],
            url::Host::Ipv6(address) => vec![IpAddr::from(*address)],
            url::Host::Domain(name) => self.look_up(name, owner, waits).await?,
        };
        for address in &found {
            self.policy.check(*address).map_err(|why| self.refuse(to, why))?;
        }
        Ok(self.failed.order(to, &found, self.clock.now()))
    }

    async fn look_up(&self, name: &str, owner: Owner, waits: &Waits) -> Result<Vec<IpAddr>, Trouble> {
        let found = match self.resolve.known(name).await {
            Some(known) => known,
            None => {
                let turn = waits.count(self.looking_up.take(owner));
                let turn = tokio::time::timeout(LOOK_UP_PATIENCE, turn).await;
                let _turn = turn.map_err(|_| unresolved(ResolveError::Busy))?;
                self.resolve.resolve(name).await
            }
        };
        found.map_err(|error| {
            tracing::debug!(host = name, %error, "a host name was not resolved");
            unresolved(error)
        })
    }

    fn refuse(&self, to: &Origin, why: Forbidden) -> Trouble {
        match &to.host {
            _ if why == (Forbidden::Unknown { starved: true }) => Trouble::starved(why.to_string()),
            _ if why == (Forbidden::Unknown { starved: false }) => Trouble::new(Failure::Local, why.to_string()),
            url::Host::Domain(name) => {
                tracing::debug!(host = name, "a host name resolves to an address that is not delivered to");
                Trouble::new(Failure::Forbidden, UNRESOLVED)
            }
            _ => forbidden(why),
        }
    }

    /// Connects to the first address that can be used. The next one is tried when one fails or takes long; beyond
    /// [`AT_ONCE`], or where there is no second socket to be had, the oldest is given up for it. The last ones have what is left
    /// of the attempt's time.
    async fn dial(
        &self,
        to: &Origin,
        addresses: &[SocketAddr],
        owner: Owner,
        stage: &Stage,
        tried: &Tried,
    ) -> Result<(Transport, SocketAddr), Trouble> {
        let connected = AtomicBool::new(false);
        let mut waiting = addresses.iter().copied();
        // The oldest first.
        let mut trying = VecDeque::with_capacity(AT_ONCE);
        let mut second = None;
        let mut trouble: Option<Trouble> = None;
        loop {
            if let Some(next) = waiting.next() {
                if trying.len() == 1 && second.is_none() {
                    second = self.second_addresses.try_take(owner);
                }
                let most = if second.is_some() { AT_ONCE } else { 1 };
                while trying.len() >= most {
                    trying.pop_front();
                }
                tried.add(next);
                connected.store(false, Ordering::Relaxed);
                trying.push_back(self.open(to, owner, next, stage, &connected).boxed());
            }
            if trying.is_empty() {
                return Err(trouble.unwrap_or_else(|| Trouble::new(Failure::Resolve, UNRESOLVED)));
            }
            tokio::select! {
                result = first_to_end(&mut trying) => match result {
                    Ok(done) => {
                        self.blame_all_but(to, done.1, tried);
                        return Ok(done);
                    }
                    Err(other) => trouble = Some(more_telling(trouble, other)),
                },
                () = patience(waiting.len() > 0, &connected, stage.waits()) => {}
            }
        }
    }

    /// Another address had to be tried than those that came first: they are slow, or don't work.
    fn blame_all_but(&self, to: &Origin, good: SocketAddr, tried: &Tried) {
        let bad: Vec<_> = tried.0.lock().iter().copied().take_while(|address| *address != good).collect();
        if !bad.is_empty() {
            self.failed.blame(to, &bad, self.clock.now());
        }
    }

    /// Connects to one address.
    async fn open(
        &self,
        to: &Origin,
        owner: Owner,
        address: SocketAddr,
        stage: &Stage,
        connected: &AtomicBool,
    ) -> Result<(Transport, SocketAddr), Trouble> {
        let tcp = TcpStream::connect(address).await.map_err(|error| describe(address, &error))?;
        connected.store(true, Ordering::Relaxed);
        // A request is written at once, and its response awaited: there is nothing to gather.
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let wire = Wire::new(tcp);
        if !to.https {
            return Ok((Transport::plain(wire), address));
        }
        stage.securing();
        Ok((self.secure(to, owner, stage.waits(), wire).await?, address))
    }

    async fn secure(&self, to: &Origin, owner: Owner, waits: &Waits, wire: Wire) -> Result<Transport, Trouble> {
        let name = match &to.host {
            url::Host::Ipv4(address) => ServerName::from(IpAddr::from(*address)),
            url::Host::Ipv6(address) => ServerName::from(IpAddr::from(*address)),
            // Certificates and SNI have names without the dot of the root (RFC 6066 §3).
            url::Host::Domain(name) => ServerName::try_from(name.trim_end_matches('.').to_owned())
                .map_err(|_| Trouble::new(Failure::Tls, "the host name is none that a certificate can have"))?,
        };
        let asked = Asked::default();
        let handshake = asked.watch(self.tls.connect(name, wire));
        let stream = self.handshakes.make(owner, waits, handshake).await;
        let stream = stream.map_err(|error| match error {
            error if !self.has_roots && tls::is_about_issuer(&error) => Trouble::new(Failure::Tls, tls::NO_ROOTS),
            error => Trouble::new(Failure::Tls, asked.describe(&error)),
        })?;
        Ok(Transport::tls(stream, asked))
    }
}

pub(crate) fn forbidden(why: Forbidden) -> Trouble {
    Trouble::new(Failure::Forbidden, why.to_string())
}

fn unresolved(error: ResolveError) -> Trouble {
    use ResolveError as E;
    match error {
        E::NoSuchName | E::NoAddress => Trouble::new(Failure::Resolve, UNRESOLVED),
        E::Unanswered => Trouble::new(Failure::Resolve, error.to_string()),
        E::NoNameServer | E::Busy => Trouble::new(Failure::Local, error.to_string()),
        E::Exhausted => Trouble::starved(error.to_string()),
    }
}

/// Waits for one of them, and takes it out.
async fn first_to_end<T>(trying: &mut VecDeque<BoxFuture<'_, T>>) -> T {
    let (result, place, _) = select_all(trying.iter_mut()).await;
    drop(trying.remove(place));
    result
}

/// Waits as long as the addresses under way may keep the next one waiting. While one of them waits for its turn here, that is
/// not their doing.
async fn patience(more: bool, connected: &AtomicBool, waits: &Waits) {
    if !more {
        std::future::pending::<()>().await;
    }
    let (began, waited) = (Instant::now(), waits.total());
    loop {
        let stagger = if connected.load(Ordering::Relaxed) { TLS_STAGGER } else { STAGGER };
        let here = waits.total().saturating_sub(waited);
        let rest = (stagger + here).saturating_sub(began.elapsed());
        if rest.is_zero() {
            return;
        }
        tokio::time::sleep(rest).await;
    }
}

/// Of two failures the one to tell of: our own, because then nothing was found out; else the one that came furthest.
fn more_telling(one: Option<Trouble>, other: Trouble) -> Trouble {
    let rank = |trouble: &Trouble| match trouble.kind {
        Failure::Local => 2,
        Failure::Tls => 1,
        _ => 0,
    };
    match one {
        Some(one) if rank(&one) > rank(&other) => one,
        _ => other,
    }
}

/// Why no connection could be made, for the endpoint's owner.
fn describe(address: SocketAddr, error: &io::Error) -> Trouble {
    if ours::lacks_ports(address, error) {
        // To close what nobody uses would free none for this address.
        return Trouble::new(Failure::Local, "all local ports for connections to this address are in use");
    }
    if ours::is_limit(error) {
        return Trouble::starved(format!("a limit of this machine: {error}"));
    }
    let detail: Cow<'static, str> = match error.kind() {
        io::ErrorKind::ConnectionRefused => "the receiver refused the connection".into(),
        io::ErrorKind::ConnectionReset => "the receiver reset the connection".into(),
        io::ErrorKind::HostUnreachable => "the receiver's host cannot be reached".into(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => {
            "the receiver's network cannot be reached".into()
        }
        io::ErrorKind::TimedOut => "the receiver's host does not answer".into(),
        kind => {
            tracing::warn!(%error, ?kind, "a connection could not be opened");
            "no connection could be made".into()
        }
    };
    Trouble::new(Failure::Connect, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_an_address_waits_for_here_is_not_taken_for_its_slowness() {
        let second = Duration::from_secs(1);
        for (connected, stagger) in [(false, STAGGER), (true, TLS_STAGGER)] {
            let (waits, began) = (Waits::default(), Instant::now());
            let connected = AtomicBool::new(connected);
            // Its first turn comes after ten seconds, and the next one, right after, takes another five.
            let turns = async {
                waits.count(tokio::time::sleep(10 * second)).await;
                waits.count(tokio::time::sleep(5 * second)).await;
            };
            tokio::join!(turns, patience(true, &connected, &waits));
            assert_eq!(began.elapsed(), 15 * second + stagger);
        }
    }

    #[test]
    fn a_failure_of_this_machine_outweighs_what_other_addresses_did() {
        let trouble = |kind| Trouble::new(kind, "");
        let told = |one, other| more_telling(Some(trouble(one)), trouble(other)).kind;
        assert_eq!(told(Failure::Local, Failure::Tls), Failure::Local);
        assert_eq!(told(Failure::Connect, Failure::Local), Failure::Local);
        assert_eq!(told(Failure::Tls, Failure::Connect), Failure::Tls);
    }
}
