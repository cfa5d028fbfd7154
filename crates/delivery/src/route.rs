//! Whether the system would keep what goes to an address on this machine.
//!
//! Linux is asked for the route, as `ip route get` does: only that knows all addresses that lead here. A whole network can
//! (`ip route add local`), and where `ip_nonlocal_bind` is set a socket can be bound to anybody's. Nothing is sent. The
//! kernel answers while it is asked, so nobody waits.

use std::io;
use std::net::IpAddr;

/// Whether the route to an address ends here. Fails where that cannot be asked.
#[cfg(target_os = "linux")]
pub(crate) fn ends_here(address: IpAddr) -> io::Result<bool> {
    use netlink::{ANSWER_BYTES, question, read};
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    send(&socket, &question(address), SendFlags::empty())?;
    let mut answer = [0; ANSWER_BYTES];
    let (_, length) = recv(&socket, &mut answer, RecvFlags::DONTWAIT)?;
    read(&answer[..length.min(ANSWER_BYTES)])
}

/// Elsewhere there is no such question.
#[cfg(not(target_os = "linux"))]
pub(crate) fn ends_here(_: IpAddr) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The messages, as rtnetlink(7) has them.
#[cfg(target_os = "linux")]
mod netlink {
    use std::io;
    use std::net::IpAddr;

    /// What is read of an answer. What counts is at its beginning.
    pub(super) const ANSWER_BYTES: usize = 512;

    const RTM_GETROUTE: u16 = 26;
    const RTM_NEWROUTE: u16 = 24;
    const NLMSG_ERROR: u16 = 2;
    const NLM_F_REQUEST: u16 = 1;
    const RTA_DST: u16 = 1;
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    const RTN_LOCAL: u8 = 2;
    const RTN_ANYCAST: u8 = 4;
    const ENETUNREACH: i32 = 101;
    const EHOSTUNREACH: i32 = 113;

    /// `nlmsghdr`, `rtmsg`, `rtattr`.
    const HEADER_BYTES: usize = 16;
    const ROUTE_BYTES: usize = 12;
    const ATTRIBUTE_BYTES: usize = 4;
    /// Where a message has its type, a route its own, and an error its number.
    const MESSAGE_TYPE: usize = 4;
    const ROUTE_TYPE: usize = HEADER_BYTES + 7;
    const ERROR_NUMBER: usize = HEADER_BYTES;

    /// Asks for the route to an address.
    pub(super) fn question(address: IpAddr) -> Vec<u8> {
        let (family, octets) = match address {
            IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
            IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
        };
        let length = (HEADER_BYTES + ROUTE_BYTES + ATTRIBUTE_BYTES + octets.len()) as u32;
        let mut message = Vec::with_capacity(length as usize);
        message.extend(length.to_ne_bytes());
        message.extend(RTM_GETROUTE.to_ne_bytes());
        message.extend(NLM_F_REQUEST.to_ne_bytes());
        // The number of the question, and who asks: the kernel knows.
        message.extend([0; 8]);
        // The family, how many bits of the address count, and nothing else that the route must have.
        message.extend([family, 8 * octets.len() as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        message.extend(((ATTRIBUTE_BYTES + octets.len()) as u16).to_ne_bytes());
        message.extend(RTA_DST.to_ne_bytes());
        message.extend(octets);
        message
    }

    /// What the answer says.
    pub(super) fn read(answer: &[u8]) -> io::Result<bool> {
        match u16::from_ne_bytes(part(answer, MESSAGE_TYPE)?) {
            RTM_NEWROUTE => {
                let [route] = part(answer, ROUTE_TYPE)?;
                Ok([RTN_LOCAL, RTN_ANYCAST].contains(&route))
            }
            NLMSG_ERROR => match i32::from_ne_bytes(part(answer, ERROR_NUMBER)?).saturating_neg() {
                // There is none.
                ENETUNREACH | EHOSTUNREACH => Ok(false),
                number => Err(io::Error::from_raw_os_error(number)),
            },
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn part<const BYTES: usize>(answer: &[u8], at: usize) -> io::Result<[u8; BYTES]> {
        let part = answer.get(at..).and_then(|rest| rest.first_chunk());
        part.copied().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
