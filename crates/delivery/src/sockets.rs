//! How many sockets delivering may have open at a time: what `delivery.max_in_flight` amounts to in file descriptors.
//!
//! Each request under way has one. What else is open has a bound of its own, in proportion: the second connection of those
//! that try two addresses at a time, connections that wait for their next request, and look-ups of names. So descriptors
//! never run out, whatever receivers and their name servers do, if [`descriptors`] are there.

use crate::dns::SOCKETS_PER_LOOK_UP;
use crate::resolve::MAX_LOOK_UPS;

postrider_domain::limits! {
    in "Connections to receivers";
    /// Idle connections in all, of HTTP/1 and HTTP/2 each, or half of `delivery.max_in_flight` if that is less; each holds a socket, and over TLS about 10 KB of memory with HTTP/1, 80 KB with HTTP/2
    pub const MAX_IDLE: usize = 1_024, "connections", beyond "of the environment that has most, and of that one's application that has most, the one that was idle longest is closed";
}

/// How many attempts may try a second address while the first is silent.
pub(crate) fn second_addresses(max_in_flight: u32) -> u32 {
    (max_in_flight / 4).max(1)
}

/// How many names may be looked up at a time.
pub(crate) fn look_ups(max_in_flight: u32) -> u32 {
    (max_in_flight / 4).clamp(4, MAX_LOOK_UPS as u32)
}

/// How many connections may wait for their next request, of HTTP/1 and of HTTP/2 each.
pub(crate) fn idle(max_in_flight: u32) -> usize {
    (max_in_flight as usize / 2).clamp(1, MAX_IDLE)
}

/// The most file descriptors that delivering needs, with so many requests under way.
pub fn descriptors(max_in_flight: u32) -> u64 {
    let looking_up = look_ups(max_in_flight) * SOCKETS_PER_LOOK_UP;
    let connections = [max_in_flight, second_addresses(max_in_flight), looking_up].map(u64::from);
    connections.iter().sum::<u64>() + 2 * idle(max_in_flight) as u64
}
