//! Resolving host names, behind a trait so that tests decide what a name means.
//!
//! Production uses hickory, an asynchronous resolver, and not the system's `getaddrinfo`: that one blocks a thread until
//! it is done, so a few hundred names of hostile name servers that never answer would occupy every thread there is. Here
//! such a name costs a task, which the attempt's deadline ends. The system's configuration is followed all the same: first
//! `/etc/hosts`, then the name servers and search domains of `/etc/resolv.conf`, both as they were at start.
//!
//! Answers are cached for their time to live. That weakens nothing: every address is checked whenever it is dialled.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};

/// A name did not resolve. The texts are for the endpoint's owner.
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
}

/// Finds the addresses of a host.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// All addresses of a host name; never an empty list. Called for names only, not for literal addresses. May take as
    /// long as it likes: the caller has a deadline.
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError>;
}

/// The resolver of production.
pub struct SystemResolver {
    hosts: Hosts,
    dns: TokioResolver,
}

/// No name server is trusted to say for longer than this that a name is, or is not, somewhere.
const MAX_POSITIVE_TTL: Duration = Duration::from_secs(300);
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(10);
/// Names whose addresses are remembered.
const CACHED_NAMES: u64 = 4_096;

impl SystemResolver {
    /// A resolver with the system's configuration. Fails only if that is there and makes no sense.
    pub fn new() -> Result<Self, NetError> {
        let (config, options) = hickory_resolver::system_conf::read_system_conf().unwrap_or_else(|error| {
            // What libc does, too: without a configuration there may be a name server on this machine.
            tracing::debug!(%error, "no name servers are configured: asking the one on this machine");
            let local = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
            (ResolverConfig::from_parts(None, Vec::new(), vec![local]), ResolverOpts::default())
        });
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
        // Looked up here instead: hickory would still ask the name servers for the address family that is not in the file.
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = CACHED_NAMES;
        options.positive_max_ttl = Some(MAX_POSITIVE_TTL);
        options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
        let hosts = Hosts::from_system().unwrap_or_else(|error| {
            tracing::debug!(%error, "the hosts file could not be read");
            Hosts::default()
        });
        Ok(Self { hosts, dns: builder.build()? })
    }

    /// What the hosts file says.
    fn in_hosts_file(&self, name: &Name) -> Vec<IpAddr> {
        let lookup = |kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let found = [lookup(RecordType::AAAA), lookup(RecordType::A)];
        let addresses = found.iter().flatten().flat_map(|found| found.answers());
        addresses.filter_map(|record| record.data.ip_addr()).collect()
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let Ok(name) = Name::from_utf8(host) else { return Err(ResolveError::NoSuchName) };
        let listed = self.in_hosts_file(&name);
        if !listed.is_empty() {
            return Ok(listed);
        }
        // RFC 6761 §6.3: always this machine, and never asked of a name server.
        if name.is_localhost() {
            return Ok(vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]);
        }
        let found = self.dns.lookup_ip(name).await.map_err(|error| read_error(&error))?;
        let addresses: Vec<IpAddr> = found.iter().collect();
        if addresses.is_empty() { Err(ResolveError::NoAddress) } else { Ok(addresses) }
    }
}

fn read_error(error: &NetError) -> ResolveError {
    tracing::debug!(%error, "a name was not resolved");
    if error.is_nx_domain() {
        ResolveError::NoSuchName
    } else if error.is_no_records_found() {
        ResolveError::NoAddress
    } else {
        ResolveError::Unanswered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn localhost_is_this_machine_in_every_spelling_and_without_a_name_server() {
        let resolver = SystemResolver::new().unwrap();
        for host in ["localhost", "localhost.", "LOCALHOST", "sub.localhost"] {
            let addresses = resolver.resolve(host).await.unwrap();
            assert!(addresses.iter().all(IpAddr::is_loopback) && !addresses.is_empty(), "{host}: {addresses:?}");
        }
    }

    #[tokio::test]
    async fn a_name_of_the_hosts_file_is_answered_from_it_alone() {
        let mut resolver = SystemResolver::new().unwrap();
        resolver.hosts = Hosts::default();
        resolver.hosts.read_hosts_conf("192.0.2.7 Printer printer.lan # the third floor\n".as_bytes()).unwrap();
        for host in ["printer", "printer.lan", "PRINTER.lan.", "printer.lan."] {
            assert_eq!(resolver.resolve(host).await, Ok(vec!["192.0.2.7".parse().unwrap()]), "{host}");
        }
    }

    #[tokio::test]
    async fn what_is_no_name_does_not_exist() {
        let resolver = SystemResolver::new().unwrap();
        let long = "a".repeat(300);
        assert_eq!(resolver.resolve(&long).await, Err(ResolveError::NoSuchName));
    }
}
