//! The connections of callers: how many there may be, in all and from one address, and which of them goes when there are
//! too many. What was idle for longest goes first; a connection with a request under way is never closed for another.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

postrider_domain::limits! {
    in "Connections of callers";
    /// Connections
    setting "server.max_connections", beyond "the one that was idle for longest is closed; if none is, 503";
    /// Connections from one address; of IPv6, from one network of 64 bits
    setting "server.max_connections_per_address", beyond "the same, among those of the address";
    /// The first request on a new connection, up to its body
    setting "server.head_timeout", beyond "the connection is closed";
    /// Between requests
    setting "server.idle_timeout", beyond "the connection is closed";
    /// Until a client takes something of its answer
    setting "server.write_timeout", beyond "the connection is cut";
    /// The head of a request, and what is read ahead
    pub(crate) const MAX_HEAD_BYTES: usize = 65_536, "bytes", beyond "431";
}

/// All connections.
pub(crate) struct Connections {
    state: Mutex<State>,
    most: usize,
    most_per_address: usize,
}

#[derive(Default)]
struct State {
    /// Numbers connections, and instants at which one became idle: both only go up.
    next: u64,
    all: HashMap<u64, Entry>,
    /// Idle ones by the instant, then the connection.
    idle: BTreeSet<(u64, u64)>,
    by_address: HashMap<IpAddr, ByAddress>,
    /// Those that are not about to be closed.
    count: usize,
}

#[derive(Default)]
struct ByAddress {
    count: usize,
    idle: BTreeSet<(u64, u64)>,
}

struct Entry {
    address: IpAddr,
    idle_since: Option<u64>,
    closing: bool,
    close: Arc<Notify>,
}

/// A connection's place; given up when it is dropped.
pub(crate) struct Place {
    connections: Arc<Connections>,
    number: u64,
    close: Arc<Notify>,
    requests: AtomicUsize,
}

/// A request under way on a connection.
pub(crate) struct Busy(Arc<Place>);

impl Connections {
    pub(crate) fn new(most: u32, most_per_address: u32) -> Arc<Self> {
        let (most, most_per_address) = (most.max(1) as usize, most_per_address.max(1) as usize);
        Arc::new(Self { state: Mutex::default(), most, most_per_address })
    }

    /// A place for a new connection, for which an idle one may be closed; `None` if all are busy.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let mut state = self.state.lock();
        let of_address = state.by_address.get(&address).map_or(0, |of| of.count);
        if of_address >= self.most_per_address {
            let oldest = state.by_address.get(&address).and_then(|of| of.idle.first().copied());
            state.close(oldest?);
        } else if state.count >= self.most {
            let oldest = state.idle.first().copied();
            state.close(oldest?);
        }
        let number = state.next;
        let close = Arc::new(Notify::new());
        state.next += 1;
        state.count += 1;
        state.by_address.entry(address).or_default().count += 1;
        state.all.insert(number, Entry { address, idle_since: None, closing: false, close: Arc::clone(&close) });
        state.rest(number);
        drop(state);
        Some(Place { connections: Arc::clone(self), number, close, requests: AtomicUsize::new(0) })
    }

    /// Closes the connection that was idle for longest, to free what it takes.
    pub(crate) fn close_one(&self) {
        let mut state = self.state.lock();
        if let Some(oldest) = state.idle.first().copied() {
            state.close(oldest);
        }
    }
}

impl State {
    /// A connection has nothing to do from now on.
    fn rest(&mut self, number: u64) {
        let since = self.next;
        self.next += 1;
        let Some(entry) = self.all.get_mut(&number).filter(|entry| !entry.closing) else { return };
        entry.idle_since = Some(since);
        self.idle.insert((since, number));
        if let Some(of) = self.by_address.get_mut(&entry.address) {
            of.idle.insert((since, number));
        }
    }

    /// A connection has something to do.
    fn work(&mut self, number: u64) {
        let Some(entry) = self.all.get_mut(&number) else { return };
        let Some(since) = entry.idle_since.take() else { return };
        self.idle.remove(&(since, number));
        if let Some(of) = self.by_address.get_mut(&entry.address) {
            of.idle.remove(&(since, number));
        }
    }

    /// Tells a connection to close. It does not count any more: it is about to be gone.
    fn close(&mut self, (_, number): (u64, u64)) {
        self.work(number);
        let Some(entry) = self.all.get_mut(&number) else { return };
        entry.closing = true;
        entry.close.notify_one();
        let address = entry.address;
        self.uncount(address);
    }

    fn uncount(&mut self, address: IpAddr) {
        self.count -= 1;
        if let Some(of) = self.by_address.get_mut(&address) {
            of.count -= 1;
            if of.count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Place {
    /// Marks the connection busy until what is returned is dropped.
    pub(crate) fn work(self: &Arc<Self>) -> Busy {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.connections.state.lock().work(self.number);
        Busy(Arc::clone(self))
    }

    /// Waits until the connection is to be closed for the sake of another.
    pub(crate) async fn closed(&self) {
        self.close.notified().await;
    }

    /// Whether a request is under way: also one that came when the connection was about to be closed.
    pub(crate) fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// Whether the connection is to be closed. It was idle when that was decided.
    pub(crate) fn is_closing(&self) -> bool {
        self.connections.state.lock().all.get(&self.number).is_some_and(|entry| entry.closing)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
        self.0.connections.state.lock().rest(self.0.number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.connections.state.lock();
        state.work(self.number);
        if let Some(entry) = state.all.remove(&self.number)
            && !entry.closing
        {
            state.uncount(entry.address);
        }
    }
}

/// What counts as one address: whoever has an IPv6 address has all of its network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

    fn admit(connections: &Arc<Connections>, address: IpAddr) -> Arc<Place> {
        Arc::new(connections.admit(address).expect("there is room"))
    }

    fn is_closed(place: &Place) -> bool {
        place.closed().now_or_never().is_some()
    }

    #[test]
    fn the_connection_that_was_idle_for_longest_is_closed_for_a_new_one() {
        let connections = Connections::new(3, 3);
        let places = [admit(&connections, HERE), admit(&connections, THERE), admit(&connections, HERE)];
        drop(places[0].work());
        let _busy = places[2].work();
        let fourth = admit(&connections, HERE);
        assert_eq!([0, 1, 2].map(|at| is_closed(&places[at])), [false, true, false]);
        drop(fourth);
        let _fifth = admit(&connections, THERE);
        assert!(!is_closed(&places[0]));
    }

    #[test]
    fn a_busy_connection_is_never_closed_for_another() {
        let connections = Connections::new(2, 2);
        let (first, second) = (admit(&connections, HERE), admit(&connections, HERE));
        let busy = (first.work(), second.work());
        assert!(connections.admit(THERE).is_none());
        drop(busy.1);
        assert!(connections.admit(THERE).is_some());
        assert!(is_closed(&second) && !is_closed(&first));
    }

    #[test]
    fn a_request_that_comes_when_its_connection_is_about_to_be_closed_is_seen() {
        let connections = Connections::new(1, 1);
        let first = admit(&connections, HERE);
        let _second = admit(&connections, HERE);
        assert!(first.is_closing() && !first.is_busy());
        let busy = first.work();
        assert!(is_closed(&first) && first.is_busy());
        drop(busy);
        assert!(!first.is_busy());
        drop(first);
        assert_eq!(connections.state.lock().count, 1);
    }

    #[test]
    fn one_address_closes_its_own_connections_only() {
        let connections = Connections::new(4, 2);
        let other = admit(&connections, THERE);
        let mine: Vec<_> = (0..10).map(|_| admit(&connections, HERE)).collect();
        assert!(!is_closed(&other));
        assert_eq!(mine.iter().filter(|place| is_closed(place)).count(), 8);
        drop((other, mine));
        let state = connections.state.lock();
        assert!(state.all.is_empty() && state.idle.is_empty() && state.by_address.is_empty());
    }
}
