//! Failures that are this machine's own: no more open files, buffers, memory or local ports.
//!
//! They say nothing about a receiver, so they are no attempts: the delivery waits a moment and is tried again, and
//! nothing is counted against its endpoint.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// "Too many open files": of this process, and in the whole system. The same number on every Unix.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;
/// "No buffer space available".
const ENOBUFS: i32 = if cfg!(target_os = "linux") { 105 } else { 55 };
/// "Address family not supported by protocol".
const EAFNOSUPPORT: i32 = if cfg!(target_os = "linux") { 97 } else { 47 };

/// Whether a limit of this machine was reached.
pub(crate) fn is_limit(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS)) || error.kind() == io::ErrorKind::OutOfMemory
}

/// Whether all local ports from which an address could be connected to are taken. A machine without IPv6 says the same.
pub(crate) fn lacks_ports(address: SocketAddr, error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse) && has_route(address)
}

/// Whether this machine knows no addresses of this kind: it has no IPv6, say.
pub(crate) fn lacks_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(EAFNOSUPPORT)
}

/// Whether this machine has a way to an address, as far as it can say. Nothing is sent.
pub(crate) fn has_route(address: SocketAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    match UdpSocket::bind((any, 0)) {
        Ok(socket) => socket.connect(address).is_ok(),
        Err(error) => !lacks_family(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_this_machine_are_told_from_what_a_receiver_does() {
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        for number in [EMFILE, ENFILE, ENOBUFS] {
            assert!(is_limit(&io::Error::from_raw_os_error(number)), "{number}");
        }
        assert!(lacks_ports(address, &io::ErrorKind::AddrNotAvailable.into()));
        for kind in [
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::TimedOut,
            io::ErrorKind::HostUnreachable,
            io::ErrorKind::NetworkUnreachable,
            io::ErrorKind::PermissionDenied,
        ] {
            assert!(!lacks_ports(address, &kind.into()) && !is_limit(&kind.into()), "{kind}");
        }
    }
}
