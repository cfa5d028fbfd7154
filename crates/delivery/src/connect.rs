//! Making a connection: resolve the name, check every address, dial the checked ones, and secure the connection.
//!
//! The addresses that were checked are the ones that are dialled: nothing is resolved a second time, so a name that
//! changes its mind in between gains nothing. If one address of a name is forbidden, all are: a name that points both
//! outside and inside is a mistake or an attack.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use postrider_domain::delivery::Failure;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::answer::{Stage, Trouble};
use crate::egress::{Forbidden, Policy};
use crate::http1::Http1;
use crate::http2::Http2;
use crate::resolve::Resolve;
use crate::tls;
use crate::transport::{Transport, Wire};

/// Where connections go: what decides whether two endpoints can share one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) https: bool,
    pub(crate) host: url::Host,
    pub(crate) port: u16,
}

/// A new connection.
pub(crate) enum Link {
    Http1(Box<Http1>),
    Http2(Http2),
}

/// More addresses of one name than this are not tried.
const MAX_ADDRESSES: usize = 8;
/// How long an address may keep the next one waiting (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);

pub(crate) struct Connector {
    policy: Policy,
    resolve: Arc<dyn Resolve>,
    tls: TlsConnector,
}

impl Connector {
    pub(crate) fn new(policy: Policy, resolve: Arc<dyn Resolve>, tls: Arc<rustls::ClientConfig>) -> Self {
        Self { policy, resolve, tls: TlsConnector::from(tls) }
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(crate) async fn connect(&self, to: &Origin, stage: &Stage) -> Result<Link, Trouble> {
        let addresses = self.addresses(to).await?;
        stage.connecting();
        let tcp = dial(&addresses).await.map_err(|error| Trouble::new(Failure::Connect, describe(&error)))?;
        // A request is written at once, and its answer awaited: there is nothing to gather.
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let wire = Wire::new(tcp);
        let transport = if to.https {
            stage.securing();
            self.secure(to, wire).await?
        } else {
            Transport::plain(wire)
        };
        if transport.speaks_http2() {
            Ok(Link::Http2(Http2::start(transport).await?))
        } else {
            Ok(Link::Http1(Box::new(Http1::new(transport))))
        }
    }

    /// The addresses of a host, every one of them allowed.
    async fn addresses(&self, to: &Origin) -> Result<Vec<SocketAddr>, Trouble> {
        let found = match &to.host {
            url::Host::Ipv4(address) => vec![IpAddr::from(*address)],
            url::Host::Ipv6(address) => vec![IpAddr::from(*address)],
            url::Host::Domain(name) => {
                self.resolve.resolve(name).await.map_err(|error| Trouble::new(Failure::Resolve, error.to_string()))?
            }
        };
        for address in &found {
            self.policy.check(*address).map_err(forbidden)?;
        }
        Ok(interleaved(&found).into_iter().map(|address| SocketAddr::new(address, to.port)).collect())
    }

    async fn secure(&self, to: &Origin, wire: Wire) -> Result<Transport, Trouble> {
        let name = match &to.host {
            url::Host::Ipv4(address) => ServerName::from(IpAddr::from(*address)),
            url::Host::Ipv6(address) => ServerName::from(IpAddr::from(*address)),
            // Certificates and SNI have names without the dot of the root (RFC 6066 §3).
            url::Host::Domain(name) => ServerName::try_from(name.trim_end_matches('.').to_owned())
                .map_err(|_| Trouble::new(Failure::Tls, "the host name is none that a certificate can have"))?,
        };
        let stream =
            self.tls.connect(name, wire).await.map_err(|error| Trouble::new(Failure::Tls, tls::describe(&error)))?;
        Ok(Transport::tls(stream))
    }
}

pub(crate) fn forbidden(why: Forbidden) -> Trouble {
    Trouble::new(Failure::Forbidden, why.to_string())
}

/// Both families in turn, each in its own order, beginning with the family of the first (RFC 8305 §4).
fn interleaved(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let Some(first) = addresses.first() else { return Vec::new() };
    let (mut same, mut other): (Vec<IpAddr>, Vec<IpAddr>) =
        addresses.iter().rev().copied().partition(|address| address.is_ipv4() == first.is_ipv4());
    let mut order = Vec::with_capacity(addresses.len());
    while order.len() < MAX_ADDRESSES && !(same.is_empty() && other.is_empty()) {
        order.extend(same.pop().into_iter().chain(other.pop()));
    }
    order
}

/// Connects to the first address that answers. The next one is tried when one fails or takes long.
async fn dial(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    if let [only] = addresses {
        return TcpStream::connect(only).await;
    }
    let mut waiting = addresses.iter();
    let mut trying = FuturesUnordered::new();
    let mut failure = None;
    loop {
        if let Some(next) = waiting.next() {
            trying.push(TcpStream::connect(*next));
        }
        let patience = async {
            if waiting.len() == 0 {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(STAGGER).await;
        };
        tokio::select! {
            result = trying.next() => match result {
                Some(Ok(connection)) => return Ok(connection),
                Some(Err(error)) => failure = Some(error),
                None => return Err(failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())),
            },
            () = patience => {}
        }
    }
}

/// Why no connection could be made, for the endpoint's owner.
fn describe(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "the receiver refused the connection",
        io::ErrorKind::ConnectionReset => "the receiver reset the connection",
        io::ErrorKind::HostUnreachable => "the receiver's host cannot be reached",
        io::ErrorKind::NetworkUnreachable => "the receiver's network cannot be reached",
        io::ErrorKind::TimedOut => "the receiver's host does not answer",
        kind => {
            // Most likely a limit of this machine, such as open files: the operator's business.
            tracing::warn!(%error, ?kind, "a connection could not be opened");
            "no connection could be made"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_take_turns() {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let given = parse(&["2606::1", "2606::2", "2606::3", "1.1.1.1", "1.1.1.2"]);
        assert_eq!(interleaved(&given), parse(&["2606::1", "1.1.1.1", "2606::2", "1.1.1.2", "2606::3"]));
        assert_eq!(interleaved(&parse(&["1.1.1.1", "2606::1"])), parse(&["1.1.1.1", "2606::1"]));
        assert_eq!(interleaved(&[]), Vec::<IpAddr>::new());
    }

    #[tokio::test]
    async fn an_address_that_refuses_leaves_the_turn_to_the_next() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let connection = dial(&[closed, open]).await.unwrap();
        assert_eq!(connection.peer_addr().unwrap(), open);
        assert_eq!(dial(&[closed, closed]).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
