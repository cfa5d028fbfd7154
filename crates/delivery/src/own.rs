//! Whether an address is this machine's own. A public one is reached over the loopback interface, past any firewall, as if from
//! inside; services that listen on all addresses take such a request for a neighbour's.
//!
//! The system is asked each time: only it knows, and addresses come and go. It is asked for the route; where that cannot be
//! asked, an address that it lets a socket be bound to is one of its own. If it cannot say (this process has no more
//! descriptors, say), nothing is known, and the address is not taken for anybody else's. Behind a NAT the public address is
//! the gateway's, of which nothing can be known here.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use crate::{ours, route};

/// Addresses that no machine has: they are for documentation.
const NOBODYS_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NOBODYS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Whether the address is one of this machine's. Fails if that cannot be found out.
pub(crate) fn is_own(address: IpAddr) -> io::Result<bool> {
    match route::ends_here(address) {
        Err(error) if ours::is_limit(&error) => Err(error),
        Err(_) => is_bound_here_alone(address),
        known => known,
    }
}

/// Whether a socket can be bound to the address because it is this machine's. Where it can be bound to any (`ip_nonlocal_bind`,
/// for fail-over), that says nothing.
fn is_bound_here_alone(address: IpAddr) -> io::Result<bool> {
    let nobodys = if address.is_ipv4() { IpAddr::V4(NOBODYS_V4) } else { IpAddr::V6(NOBODYS_V6) };
    match (is_bindable(address)?, is_bindable(nobodys)?) {
        (true, true) => Err(io::Error::new(ErrorKind::Unsupported, "sockets can be bound to any address")),
        (bindable, _) => Ok(bindable),
    }
}

fn is_bindable(address: IpAddr) -> io::Result<bool> {
    match UdpSocket::bind((address, 0)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(true),
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable || ours::lacks_family(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_the_loopback_interface_is_own_and_others_are_not() {
        for (text, own) in [("127.0.0.1", true), ("127.8.9.10", true), ("8.8.8.8", false), ("2606:4700::1111", false)] {
            let address = text.parse().unwrap();
            assert_eq!(is_own(address).unwrap(), own, "{text}");
            // Where it tells anything.
            if let Ok(told) = is_bound_here_alone(address) {
                assert_eq!(told, own, "{text}");
            }
        }
    }

    /// So this holds where sockets can be bound to any address, too.
    #[cfg(target_os = "linux")]
    #[test]
    fn linux_is_asked_for_the_route() {
        for (text, own) in [("127.0.0.1", true), ("127.8.9.10", true), ("8.8.8.8", false)] {
            assert_eq!(route::ends_here(text.parse().unwrap()).unwrap(), own, "{text}");
        }
    }
}
