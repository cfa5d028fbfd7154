//! Whether an address is this machine's own. A public one is reached over the loopback interface, past any firewall, as if from
//! inside; services that listen on all addresses take such a request for a neighbour's.
//!
//! The system is asked each time: only it knows, addresses come and go, and an address that it lets a socket be bound to is one
//! of its own. Behind a NAT the public address is the gateway's, of which nothing can be known here.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// Addresses that no machine has: they are for documentation.
const NOBODYS_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NOBODYS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Any port: nothing is sent.
const DISCARD: u16 = 9;

/// Whether the address is one of this machine's.
pub(crate) fn is_own(address: IpAddr) -> bool {
    match UdpSocket::bind((address, 0)) {
        Ok(_) => !binds_anything(address) || leads_to_itself(address),
        // Without a descriptor for this there is none for the connection either.
        Err(error) => error.kind() == ErrorKind::AddrInUse,
    }
}

/// Whether sockets may be bound to addresses that this machine does not have (`ip_nonlocal_bind`, for fail-over).
fn binds_anything(like: IpAddr) -> bool {
    let nobodys = if like.is_ipv4() { IpAddr::V4(NOBODYS_V4) } else { IpAddr::V6(NOBODYS_V6) };
    UdpSocket::bind((nobodys, 0)).is_ok()
}

/// Whether what is sent to the address comes from it, as it does on the way from a machine to itself.
fn leads_to_itself(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let from = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, DISCARD))?;
        socket.local_addr()
    });
    from.is_ok_and(|from| from.ip() == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_the_loopback_interface_is_own_and_others_are_not() {
        for (text, own) in [("127.0.0.1", true), ("127.8.9.10", true), ("8.8.8.8", false), ("2606:4700::1111", false)] {
            assert_eq!(is_own(text.parse().unwrap()), own, "{text}");
        }
    }

    #[test]
    fn where_anything_can_be_bound_the_way_tells() {
        assert!(leads_to_itself(Ipv4Addr::LOCALHOST.into()));
        assert!(!leads_to_itself(Ipv4Addr::new(8, 8, 8, 8).into()));
    }
}
