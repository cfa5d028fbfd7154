//! Resolving host names, behind a trait so that tests decide what a name means.
//!
//! Production uses hickory, an asynchronous resolver, and not the system's `getaddrinfo`: that one blocks a thread until
//! it is done, so a few hundred names of hostile name servers that never answer would occupy every thread there is. Here
//! such a name costs a future, which ends with the attempts that wait for it, or after `MAX_LOOK_UP`.
//!
//! * **Names are absolute.** A URL names one host, wherever it is read: the search list, `domain` and `ndots` of
//!   `/etc/resolv.conf` are not used, so no wildcard of a search domain gets what was meant for another host.
//! * **The system's files are followed**: first `/etc/hosts`, then the name servers of `/etc/resolv.conf`. Both are looked
//!   at again every second while names are resolved, and read again when they have changed.
//! * **One family does not wait for the other** (RFC 8305 §3): once one has addresses, the other gets 50 ms. A server
//!   that drops AAAA (or A) queries costs that and no more.
//! * **Bounded**: one look-up per name at a time, however many ask; so many in all; what was not found is remembered for
//!   some seconds, what was found for its time to live, but not for longer than the connections' age allows.
//!
//! That answers are remembered weakens nothing: every address is checked whenever it is dialled.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Either, Shared, WeakShared, select};
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};
use parking_lot::Mutex;
use postrider_domain::clock::Clock;
use postrider_domain::time::Timestamp;

use crate::options::DeliveryOptions;
use crate::ours;

/// A name did not resolve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The name servers say that there is no such name.
    #[error("the host name does not exist")]
    NoSuchName,
    /// The name exists, but has neither an A nor an AAAA record.
    #[error("the host name has no address")]
    NoAddress,
    /// The name servers could not be reached, did not answer, or failed.
    #[error("the host name could not be looked up: the name servers gave no answer")]
    Unanswered,
    /// There is no name server to ask.
    #[error("the host name could not be looked up: no name server is configured")]
    NoNameServer,
    /// This process has reached a limit of its own.
    #[error("the host name could not be looked up: too much is under way here")]
    Busy,
}

/// Finds the addresses of a host.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// All addresses of a host name; never an empty list. Called for names only, not for literal addresses. May take as
    /// long as it likes: the caller has a deadline.
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError>;
}

postrider_domain::limits! {
    in "Name resolution";
    /// Names that are looked up at a time
    pub const MAX_LOOK_UPS: usize = 1_024, "names", beyond "the delivery waits; no attempt is counted";
    /// Names whose addresses are remembered, for their time to live, at most half a minute
    pub const CACHED_NAMES: u64 = 4_096, "names", beyond "the least used is forgotten";
    /// Names that were not found and are remembered for some seconds
    pub const CACHED_MISSES: usize = 4_096, "names", beyond "they are looked up again";
}

/// No name server is trusted to say for longer than this that a name is, or is not, somewhere.
const MAX_POSITIVE_TTL: Duration = Duration::from_secs(30);
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(10);
/// A name that was not found is not looked up again for so long.
const MISS_TTL: Duration = Duration::from_secs(5);
/// How long the addresses of one family wait for those of the other (RFC 8305 §3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// The longest that the look-up of one name takes.
const MAX_LOOK_UP: Duration = Duration::from_secs(10);
/// The most that `/etc/resolv.conf` can ask for: how long a query waits, and how often it is repeated.
const MAX_QUERY_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_REPEATS: usize = 2;
/// How often the system's files are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// More of a file of the system is not read.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// That there is no name server is taken for a passing trouble of this machine for so long, and for its configuration
/// afterwards.
const NO_SERVER_GRACE: Duration = Duration::from_secs(600);

/// Where the system says how names are resolved.
#[derive(Debug, Clone)]
pub struct Files {
    /// The list of name servers.
    pub resolv_conf: PathBuf,
    /// Names that are known without asking.
    pub hosts: PathBuf,
    /// The port that name servers are asked at.
    pub dns_port: u16,
}

impl Default for Files {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into(), dns_port: 53 }
    }
}

/// The resolver of production.
pub struct SystemResolver {
    files: Files,
    max_ttl: Duration,
    clock: Arc<dyn Clock>,
    loaded: Mutex<Loaded>,
    book: Mutex<Book>,
}

/// What the system's files said when they were read last.
struct Loaded {
    looked_at: Timestamp,
    stamps: [Option<Stamp>; 2],
    setup: Arc<Setup>,
}

/// Tells one version of a file from another.
type Stamp = (u64, u64, i64, i64, u64);

struct Setup {
    hosts: Hosts,
    dns: TokioResolver,
    /// Since when there has been no name server.
    without_server: Option<Timestamp>,
}

type Answer = Result<Arc<[IpAddr]>, ResolveError>;
type LookUp = BoxFuture<'static, Answer>;

/// Names that are being looked up, and those that were not found.
#[derive(Default)]
struct Book {
    under_way: HashMap<String, WeakShared<LookUp>>,
    misses: HashMap<String, (ResolveError, Timestamp)>,
}

impl SystemResolver {
    /// A resolver with the system's configuration.
    pub fn new(options: &DeliveryOptions, clock: Arc<dyn Clock>) -> Result<Self, NetError> {
        Self::with_files(options, clock, Files::default())
    }

    /// A resolver that is configured by other files.
    pub fn with_files(options: &DeliveryOptions, clock: Arc<dyn Clock>, files: Files) -> Result<Self, NetError> {
        // Connections leave this much of their age to the answer that they were made by.
        let max_ttl = MAX_POSITIVE_TTL.min(options.connection_max_age.0 / 10);
        let now = clock.now();
        let stamps = files.stamps();
        let setup = Arc::new(Setup::read(&files, max_ttl, None, now)?);
        let loaded = Mutex::new(Loaded { looked_at: now, stamps, setup });
        Ok(Self { files, max_ttl, clock, loaded, book: Mutex::default() })
    }

    /// What the system's files say, read again if they have changed.
    fn setup(&self) -> Arc<Setup> {
        let now = self.clock.now();
        let mut loaded = self.loaded.lock();
        if now.since(loaded.looked_at) >= LOOK_AGAIN {
            loaded.looked_at = now;
            let stamps = self.files.stamps();
            if stamps != loaded.stamps {
                match Setup::read(&self.files, self.max_ttl, loaded.setup.without_server, now) {
                    Ok(setup) => {
                        loaded.setup = Arc::new(setup);
                        loaded.stamps = stamps;
                        *self.book.lock() = Book::default();
                    }
                    Err(error) => tracing::warn!(%error, "failed to read the configuration of name servers anew"),
                }
            }
        }
        Arc::clone(&loaded.setup)
    }

    /// Joins the look-up of a name, or begins it.
    fn look_up(&self, host: &str, name: Name, setup: Arc<Setup>) -> Result<Shared<LookUp>, ResolveError> {
        let now = self.clock.now();
        let mut book = self.book.lock();
        if let Some((error, at)) = book.misses.get(host) {
            if now.since(*at) < MISS_TTL {
                return Err(*error);
            }
            book.misses.remove(host);
        }
        if let Some(under_way) = book.under_way.get(host).and_then(WeakShared::upgrade) {
            return Ok(under_way);
        }
        if book.under_way.len() >= MAX_LOOK_UPS {
            book.under_way.retain(|_, look_up| look_up.upgrade().is_some());
            if book.under_way.len() >= MAX_LOOK_UPS {
                return Err(ResolveError::Busy);
            }
        }
        let look_up = async move {
            let found = tokio::time::timeout(MAX_LOOK_UP, ask(&setup.dns, name)).await;
            found.unwrap_or(Err(ResolveError::Unanswered)).map_err(|error| setup.judge(error, now))
        };
        let look_up = look_up.boxed().shared();
        if let Some(weak) = look_up.downgrade() {
            book.under_way.insert(host.to_owned(), weak);
        }
        Ok(look_up)
    }

    /// Notes what came of a look-up.
    fn note(&self, host: &str, answer: &Answer) {
        let mut book = self.book.lock();
        book.under_way.remove(host);
        let Err(error) = answer else { return };
        if *error == ResolveError::Busy {
            return;
        }
        let now = self.clock.now();
        if book.misses.len() >= CACHED_MISSES {
            book.misses.retain(|_, (_, at)| now.since(*at) < MISS_TTL);
        }
        if book.misses.len() < CACHED_MISSES {
            book.misses.insert(host.to_owned(), (*error, now));
        }
    }
}

impl Files {
    fn stamps(&self) -> [Option<Stamp>; 2] {
        [&self.resolv_conf, &self.hosts].map(|path| std::fs::metadata(path).ok().map(|found| stamp(&found)))
    }
}

fn stamp(file: &Metadata) -> Stamp {
    (file.dev(), file.ino(), file.mtime(), file.mtime_nsec(), file.len())
}

/// The content of a file; nothing if it cannot be read. Fails only if this process can open no file at present.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)) {
        Err(error) if ours::is_limit(&error) => return Err(error),
        Err(error) => tracing::debug!(%error, file = %path.display(), "failed to read a file of the system"),
        Ok(_) => {}
    }
    Ok(bytes)
}

impl Setup {
    /// Reads the system's files. `without_server` is since when there has been no name server.
    fn read(
        files: &Files,
        max_ttl: Duration,
        without_server: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Self, NetError> {
        let file = files.resolv_conf.display();
        let configured = name_servers(&files.resolv_conf)?;
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
        let (servers, options) = configured.unwrap_or_else(|| {
            // What libc does, too: without a configuration there may be a name server on this machine.
            (vec![NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into())], ResolverOpts::default())
        });
        let dns = resolver(servers, options, files.dns_port, max_ttl)?;
        Ok(Self { hosts: hosts(&files.hosts)?, dns, without_server })
    }

    /// What the hosts file says.
    fn in_hosts_file(&self, name: &Name) -> Vec<IpAddr> {
        let lookup = |kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let found = [lookup(RecordType::AAAA), lookup(RecordType::A)];
        let addresses = found.iter().flatten().flat_map(|found| found.answers());
        addresses.filter_map(|record| record.data.ip_addr()).collect()
    }

    /// An answer that did not come because there is nobody to ask is no fault of the name.
    fn judge(&self, error: ResolveError, now: Timestamp) -> ResolveError {
        let lately = self.without_server.is_some_and(|since| now.since(since) < NO_SERVER_GRACE);
        if error == ResolveError::Unanswered && lately { ResolveError::NoNameServer } else { error }
    }
}

/// The name servers and options of a file; `None` if it names none, or is not there. Lines that do not concern this
/// resolver (the search list) are left out, so that a mistake in them does no harm.
fn name_servers(path: &Path) -> io::Result<Option<(Vec<NameServerConfig>, ResolverOpts)>> {
    let text = read(path)?;
    let text = String::from_utf8_lossy(&text);
    let concerns = |line: &&str| matches!(line.split_whitespace().next(), Some("nameserver" | "options"));
    let lines: Vec<&str> = text.lines().filter(concerns).collect();
    let parsed = parse_resolv_conf(lines.join("\n")).ok();
    Ok(parsed.map(|(config, options)| (config.name_servers().to_vec(), options)))
}

fn resolver(
    mut servers: Vec<NameServerConfig>,
    options: ResolverOpts,
    port: u16,
    max_ttl: Duration,
) -> Result<TokioResolver, NetError> {
    for connection in servers.iter_mut().flat_map(|server| &mut server.connections) {
        connection.port = port;
    }
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    let options = builder.options_mut();
    options.timeout = options.timeout.clamp(Duration::from_secs(1), MAX_QUERY_TIMEOUT);
    options.attempts = options.attempts.min(MAX_REPEATS);
    // Looked up here instead: hickory would still ask the name servers for the address family that is not in the file.
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = CACHED_NAMES;
    options.positive_max_ttl = Some(max_ttl);
    options.negative_max_ttl = Some(MAX_NEGATIVE_TTL.min(max_ttl));
    builder.build()
}

fn hosts(path: &Path) -> io::Result<Hosts> {
    // One line that is no text would end the reading of the whole file.
    let text = read(path)?;
    let text = String::from_utf8_lossy(&text);
    let mut hosts = Hosts::default();
    hosts.read_hosts_conf(text.as_bytes())?;
    Ok(hosts)
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let Ok(mut name) = Name::from_utf8(host) else { return Err(ResolveError::NoSuchName) };
        // A name without its last dot would be tried with every domain of the search list first.
        name.set_fqdn(true);
        let setup = self.setup();
        let listed = setup.in_hosts_file(&name);
        if !listed.is_empty() {
            return Ok(listed);
        }
        // RFC 6761 §6.3: always this machine, and never asked of a name server.
        if name.is_localhost() {
            return Ok(vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]);
        }
        let look_up = self.look_up(host, name, setup)?;
        let answer = look_up.await;
        self.note(host, &answer);
        answer.map(|found| found.to_vec())
    }
}

/// Asks for both families at once.
async fn ask(dns: &TokioResolver, name: Name) -> Answer {
    let v6 = query(dns, name.clone(), RecordType::AAAA).boxed();
    let v4 = query(dns, name, RecordType::A).boxed();
    let (v6, v4) = match select(v6, v4).await {
        Either::Left((v6, v4)) => {
            let v4 = second(v4, v6.is_ok()).await;
            (v6, v4)
        }
        Either::Right((v4, v6)) => (second(v6, v4.is_ok()).await, v4),
    };
    match (v6, v4) {
        (Ok(v6), Ok(v4)) => Ok([v6, v4].concat().into()),
        (Ok(found), Err(_)) | (Err(_), Ok(found)) => Ok(found.into()),
        (Err(v6), Err(v4)) => Err(worse(v6, v4)),
    }
}

/// Waits for the second family: as long as it takes if the first has nothing.
async fn second(
    answer: BoxFuture<'_, Result<Vec<IpAddr>, ResolveError>>,
    enough: bool,
) -> Result<Vec<IpAddr>, ResolveError> {
    if !enough {
        return answer.await;
    }
    tokio::time::timeout(RESOLUTION_DELAY, answer).await.unwrap_or(Err(ResolveError::Unanswered))
}

/// Of two failures the one that says less about the name: what was not answered may exist.
fn worse(one: ResolveError, other: ResolveError) -> ResolveError {
    use ResolveError as E;
    let order = [E::Busy, E::Unanswered, E::NoAddress, E::NoSuchName];
    order.into_iter().find(|error| [one, other].contains(error)).unwrap_or(one)
}

async fn query(dns: &TokioResolver, name: Name, kind: RecordType) -> Result<Vec<IpAddr>, ResolveError> {
    let found = dns.lookup(name, kind).await.map_err(|error| read_error(&error))?;
    let addresses: Vec<IpAddr> = found.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
    if addresses.is_empty() { Err(ResolveError::NoAddress) } else { Ok(addresses) }
}

fn read_error(error: &NetError) -> ResolveError {
    tracing::debug!(%error, "a name was not resolved");
    match error {
        NetError::Busy => ResolveError::Busy,
        NetError::Io(error) if ours::is_limit(error) => ResolveError::Busy,
        _ if error.is_nx_domain() => ResolveError::NoSuchName,
        _ if error.is_no_records_found() => ResolveError::NoAddress,
        _ => ResolveError::Unanswered,
    }
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
