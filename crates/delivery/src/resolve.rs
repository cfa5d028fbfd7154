//! Resolving host names, behind a trait so that tests decide what a name means.
//!
//! Production does not use the system's `getaddrinfo`: that one blocks a thread until it is done, so a few hundred names of
//! hostile name servers that never answer would occupy every thread there is. Here such a name costs a future, which ends
//! with the attempts that wait for it, or after `MAX_LOOK_UP`, and `SOCKETS_PER_LOOK_UP` sockets meanwhile.
//!
//! * **Names are absolute.** A URL names one host, wherever it is read: the search list, `domain` and `ndots` of
//!   `/etc/resolv.conf` are not used, so no wildcard of a search domain gets what was meant for another host.
//! * **The system's files are followed**: first `/etc/hosts`, then the name servers of `/etc/resolv.conf`. Both are looked
//!   at again every second while names are resolved, and read again when they have changed, by a thread that may wait.
//! * **One family does not wait for the other** (RFC 8305 §3): once one has addresses, the other gets 50 ms. A server
//!   that drops AAAA (or A) queries costs that and no more. But if this machine has no way to any of them, the other is
//!   waited for; and an answer that lacks a family is not remembered.
//! * **Bounded**: one look-up per name at a time, however many ask; so many in all; what was not found is remembered for
//!   some seconds, what was found for its time to live, but not for longer than the connections' age allows. Of a name a
//!   few addresses are kept, however many it has.
//!
//! That answers are remembered weakens nothing: every address is checked whenever it is dialled.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Either, Shared, WeakShared, select};
use parking_lot::Mutex;
use postrider_domain::clock::Clock;
use postrider_domain::time::Timestamp;
use tokio::sync::oneshot;

use crate::aged::Aged;
pub use crate::dns::ResolveError;
use crate::dns::{Family, Found, Name, Servers};
use crate::options::DeliveryOptions;
use crate::ours;
pub use crate::system::Files;
use crate::system::{Listed, Stamp, plain};

/// Of the thread that looks at the system's files.
const STACK_BYTES: usize = 2 * 1024 * 1024;

/// Finds the addresses of a host.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// What is known of a host name without asking anybody; `None` if it has to be looked up.
    async fn known(&self, _host: &str) -> Option<Result<Vec<IpAddr>, ResolveError>> {
        None
    }

    /// All addresses of a host name; never an empty list. Called for names only, not for literal addresses. May take as
    /// long as it likes: the caller has a deadline.
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError>;
}

postrider_domain::limits! {
    in "Name resolution";
    /// Names that are looked up at a time, or a quarter of `delivery.max_in_flight` if that is less; an application leaves as many free as it has
    pub const MAX_LOOK_UPS: usize = 1_024, "names", beyond "the delivery waits; no attempt is counted";
    /// Names whose addresses are remembered, for their time to live, at most half a minute
    pub const CACHED_NAMES: usize = 4_096, "names", beyond "the one that was looked up longest ago is forgotten";
    /// Names that were not found and are remembered for some seconds
    pub const CACHED_MISSES: usize = 4_096, "names", beyond "they are looked up again";
}

/// No name server is trusted to say for longer than this that a name is somewhere.
const MAX_POSITIVE_TTL: Duration = Duration::from_secs(30);
/// A name that was not found is not looked up again for so long.
const MISS_TTL: Duration = Duration::from_secs(5);
/// How long the addresses of one family wait for those of the other (RFC 8305 §3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// Any port: whether there is a way does not depend on it.
const HTTPS: u16 = 443;
/// The longest that the look-up of one name takes.
const MAX_LOOK_UP: Duration = Duration::from_secs(10);
/// How often the system's files are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// That there is no name server is taken for a passing trouble of this machine for so long, and for its configuration
/// afterwards.
const NO_SERVER_GRACE: Duration = Duration::from_secs(600);

/// The resolver of production.
pub struct SystemResolver {
    clock: Arc<dyn Clock>,
    max_ttl: Duration,
    state: Arc<State>,
}

/// What a thread works on that reads the system's files.
struct State {
    files: Files,
    loaded: Mutex<Loaded>,
    book: Mutex<Book>,
}

/// What the system's files said when they were read last.
struct Loaded {
    looked_at: Timestamp,
    /// Somebody is looking: one thread at a time, also if the disk hangs.
    is_looking: bool,
    stamps: [Option<Stamp>; 2],
    setup: Arc<Setup>,
}

struct Setup {
    listed: Listed,
    servers: Servers,
    /// Since when there has been no name server.
    without_server: Option<Timestamp>,
}

type Answer = Result<Arc<Known>, ResolveError>;
type LookUp = BoxFuture<'static, Answer>;

/// The addresses of a name.
struct Known {
    addresses: Box<[IpAddr]>,
    until: Timestamp,
}

/// Names that are being looked up, those that were found, and those that were not. Each is there as [`plain`] has it.
#[derive(Default)]
struct Book {
    under_way: HashMap<String, WeakShared<LookUp>>,
    found: Aged<Arc<str>, Arc<Known>, CACHED_NAMES>,
    misses: HashMap<String, (ResolveError, Timestamp)>,
}

impl Book {
    /// What is known of a name, if it need not be looked up.
    fn known(&mut self, name: &str, now: Timestamp) -> Option<Answer> {
        if let Some(known) = self.found.get(name).filter(|known| now < known.until) {
            return Some(Ok(Arc::clone(known)));
        }
        let (error, at) = *self.misses.get(name)?;
        if now.since(at) < MISS_TTL {
            return Some(Err(error));
        }
        self.misses.remove(name);
        None
    }
}

impl SystemResolver {
    /// A resolver with the system's configuration.
    pub fn new(options: &DeliveryOptions, clock: Arc<dyn Clock>) -> io::Result<Self> {
        Self::with_files(options, clock, Files::default())
    }

    /// A resolver that is configured by other files.
    pub fn with_files(options: &DeliveryOptions, clock: Arc<dyn Clock>, files: Files) -> io::Result<Self> {
        // Connections leave this much of their age to the answer that they were made by.
        let max_ttl = MAX_POSITIVE_TTL.min(options.connection_max_age.0 / 10);
        let now = clock.now();
        let stamps = files.stamps();
        let setup = Arc::new(Setup::read(&files, None, now)?);
        let loaded = Mutex::new(Loaded { looked_at: now, is_looking: false, stamps, setup });
        Ok(Self { clock, max_ttl, state: Arc::new(State { files, loaded, book: Mutex::default() }) })
    }

    /// What the system's files say. Whoever is first after a while looks whether they have changed; the others go on with what
    /// is known.
    async fn setup(&self) -> Arc<Setup> {
        let now = self.clock.now();
        if self.state.is_due(now) {
            let looking = Looking(Arc::clone(&self.state));
            let (done, is_done) = oneshot::channel::<()>();
            let look = move || {
                looking.0.look_again(now);
                drop(done);
            };
            // A runtime would panic where the system gives no thread.
            match std::thread::Builder::new().name("names".to_owned()).stack_size(STACK_BYTES).spawn(look) {
                Ok(_) => drop(is_done.await),
                Err(error) => tracing::warn!(%error, "failed to look at the configuration of name servers"),
            }
        }
        Arc::clone(&self.state.loaded.lock().setup)
    }

    /// Joins the look-up of a name, or begins it.
    fn look_up(&self, host: &str, name: Name, setup: Arc<Setup>) -> Result<Shared<LookUp>, ResolveError> {
        let mut book = self.state.book.lock();
        if let Some(under_way) = book.under_way.get(host).and_then(WeakShared::upgrade) {
            return Ok(under_way);
        }
        if book.under_way.len() >= MAX_LOOK_UPS {
            book.under_way.retain(|_, look_up| look_up.upgrade().is_some());
            if book.under_way.len() >= MAX_LOOK_UPS {
                return Err(ResolveError::Busy);
            }
        }
        let (clock, max_ttl) = (Arc::clone(&self.clock), self.max_ttl);
        let look_up = async move {
            let found = tokio::time::timeout(MAX_LOOK_UP, ask(&setup.servers, &name, clock.now())).await;
            let now = clock.now();
            let found = found.unwrap_or(Err(ResolveError::Unanswered)).map_err(|error| setup.judge(error, now))?;
            let until = now.saturating_add(found.ttl.min(max_ttl));
            Ok(Arc::new(Known { addresses: found.addresses.into(), until }))
        };
        let look_up = look_up.boxed().shared();
        if let Some(weak) = look_up.downgrade() {
            book.under_way.insert(host.to_owned(), weak);
        }
        Ok(look_up)
    }

    /// Notes what came of a look-up.
    fn note(&self, host: &str, look_up: &Shared<LookUp>, answer: &Answer) {
        let now = self.clock.now();
        let mut book = self.state.book.lock();
        let under_way = book.under_way.get(host).and_then(WeakShared::upgrade);
        if !under_way.is_some_and(|under_way| under_way.ptr_eq(look_up)) {
            // One of the others who waited for it has noted it. The next one of that name may have begun since.
            return;
        }
        book.under_way.remove(host);
        let error = match answer {
            Ok(known) if now >= known.until => return,
            Ok(known) => return book.found.insert(host.into(), Arc::clone(known)),
            Err(ResolveError::Busy | ResolveError::Exhausted) => return,
            Err(error) => *error,
        };
        if book.misses.len() >= CACHED_MISSES {
            book.misses.retain(|_, (_, at)| now.since(*at) < MISS_TTL);
        }
        if book.misses.len() < CACHED_MISSES {
            book.misses.insert(host.to_owned(), (error, now));
        }
    }
}

/// The look at the system's files that is under way, until it is dropped.
struct Looking(Arc<State>);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.loaded.lock().is_looking = false;
    }
}

impl State {
    /// Whether it is time to look at the files; true for one of those who ask.
    fn is_due(&self, now: Timestamp) -> bool {
        let mut loaded = self.loaded.lock();
        let due = !loaded.is_looking && now.since(loaded.looked_at) >= LOOK_AGAIN;
        if due {
            (loaded.looked_at, loaded.is_looking) = (now, true);
        }
        due
    }

    /// Reads the files again if they have changed. Waits for the disk.
    fn look_again(&self, now: Timestamp) {
        let stamps = self.files.stamps();
        let without_server = {
            let loaded = self.loaded.lock();
            if stamps == loaded.stamps {
                return;
            }
            loaded.setup.without_server
        };
        match Setup::read(&self.files, without_server, now) {
            Ok(setup) => {
                let mut loaded = self.loaded.lock();
                loaded.setup = Arc::new(setup);
                loaded.stamps = stamps;
                *self.book.lock() = Book::default();
            }
            Err(error) => tracing::warn!(%error, "failed to read the configuration of name servers again"),
        }
    }
}

impl Setup {
    /// Reads the system's files. `without_server` is since when there has been no name server.
    fn read(files: &Files, without_server: Option<Timestamp>, now: Timestamp) -> io::Result<Self> {
        let file = files.resolv_conf.display();
        let configured = files.servers()?;
        let without_server = match &configured {
            Some(_) if without_server.is_some() => {
                tracing::warn!(%file, "name servers are configured again");
                None
            }
            Some(_) => None,
            None => {
                tracing::warn!(
                    %file,
                    "no name server is configured: host names are asked of this machine (127.0.0.1) until there is one"
                );
                without_server.or(Some(now))
            }
        };
        let servers = configured.unwrap_or_else(|| files.own_server());
        Ok(Self { listed: files.listed()?, servers, without_server })
    }

    /// What is known of a name without any name server.
    fn addresses(&self, name: &str) -> Option<Result<Vec<IpAddr>, ResolveError>> {
        let is_below =
            |domain: &str| name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        let listed = self.listed.addresses(name);
        if !listed.is_empty() {
            return Some(Ok(listed));
        }
        // RFC 6761 §6.3: always this machine, and never asked of a name server.
        if is_below("localhost") {
            return Some(Ok(vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]));
        }
        // RFC 6761 §6.4, RFC 7686: these never are in DNS.
        ["invalid", "onion"].into_iter().any(is_below).then_some(Err(ResolveError::NoSuchName))
    }

    /// An answer that did not come because there is nobody to ask is no fault of the name.
    fn judge(&self, error: ResolveError, now: Timestamp) -> ResolveError {
        let lately = self.without_server.is_some_and(|since| now.since(since) < NO_SERVER_GRACE);
        if error == ResolveError::Unanswered && lately { ResolveError::NoNameServer } else { error }
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn known(&self, host: &str) -> Option<Result<Vec<IpAddr>, ResolveError>> {
        let (host, setup) = (plain(host), self.setup().await);
        if let Some(addresses) = setup.addresses(&host) {
            return Some(addresses);
        }
        let known = self.state.book.lock().known(&host, self.clock.now())?;
        Some(known.map(|known| known.addresses.to_vec()))
    }

    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let Some(name) = Name::parse(host) else { return Err(ResolveError::NoSuchName) };
        if let Some(known) = self.known(host).await {
            return known;
        }
        let host = plain(host);
        let setup = Arc::clone(&self.state.loaded.lock().setup);
        let look_up = self.look_up(&host, name, setup)?;
        let answer = look_up.clone().await;
        self.note(&host, &look_up, &answer);
        answer.map(|known| known.addresses.to_vec())
    }
}

/// Asks for both families at once. What lacks one of them has no time to live: the next look-up may find it.
async fn ask(servers: &Servers, name: &Name, now: Timestamp) -> Result<Found, ResolveError> {
    let v6 = servers.ask(name, Family::V6, now).boxed();
    let v4 = servers.ask(name, Family::V4, now).boxed();
    let (v6, v4) = match select(v6, v4).await {
        Either::Left((v6, v4)) => {
            let v4 = second(v4, &v6).await;
            (v6, v4)
        }
        Either::Right((v4, v6)) => (second(v6, &v4).await, v4),
    };
    match (v6, v4) {
        (Ok(v6), Ok(v4)) => Ok(Found { addresses: [v6.addresses, v4.addresses].concat(), ttl: v6.ttl.min(v4.ttl) }),
        (Ok(found), Err(ResolveError::NoAddress | ResolveError::NoSuchName))
        | (Err(ResolveError::NoAddress | ResolveError::NoSuchName), Ok(found)) => Ok(found),
        (Ok(found), Err(error)) | (Err(error), Ok(found)) => match is_reachable(&found) {
            true => Ok(Found { ttl: Duration::ZERO, ..found }),
            // What could be reached was not said.
            false => Err(error),
        },
        (Err(v6), Err(v4)) => Err(worse(v6, v4)),
    }
}

/// Waits for the second family: as long as it takes if the first has nothing that can be reached.
async fn second(
    answer: BoxFuture<'_, Result<Found, ResolveError>>,
    first: &Result<Found, ResolveError>,
) -> Result<Found, ResolveError> {
    if !first.as_ref().is_ok_and(is_reachable) {
        return answer.await;
    }
    tokio::time::timeout(RESOLUTION_DELAY, answer).await.unwrap_or(Err(ResolveError::Unanswered))
}

/// Whether this machine has a way to any of them. On one without IPv6 it has none to what AAAA records say.
fn is_reachable(found: &Found) -> bool {
    found.addresses.iter().any(|address| ours::has_route(SocketAddr::new(*address, HTTPS)))
}

/// Of two failures the one that says less about the name: what was not answered may exist.
fn worse(one: ResolveError, other: ResolveError) -> ResolveError {
    use ResolveError as E;
    let order = [E::Exhausted, E::Busy, E::Unanswered, E::NoAddress, E::NoSuchName];
    order.into_iter().find(|error| [one, other].contains(error)).unwrap_or(one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::clock::SystemClock;

    fn system() -> SystemResolver {
        SystemResolver::new(&DeliveryOptions::default(), Arc::new(SystemClock::new())).unwrap()
    }

    #[tokio::test]
    async fn localhost_is_this_machine_in_every_spelling_and_without_a_name_server() {
        let resolver = system();
        for host in ["localhost", "localhost.", "LOCALHOST", "sub.localhost"] {
            let addresses = resolver.resolve(host).await.unwrap();
            assert!(addresses.iter().all(IpAddr::is_loopback) && !addresses.is_empty(), "{host}: {addresses:?}");
        }
    }

    #[test]
    fn what_was_not_answered_outweighs_what_was_denied() {
        use ResolveError as E;
        assert_eq!(worse(E::NoSuchName, E::Unanswered), E::Unanswered);
        assert_eq!(worse(E::NoAddress, E::NoSuchName), E::NoAddress);
        assert_eq!(worse(E::NoSuchName, E::NoSuchName), E::NoSuchName);
    }
}
