//! The connections of callers: how many there may be, in all and from one address, and which of them goes when there are
//! too many. What was idle for longest goes first; a connection with a request under way is never closed for another.

use std::collections::{BTreeSet, HashMap};
use std::future::poll_fn;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use slab::Slab;
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
    /// The head of a request, and what is read ahead. Of what comes in one go, up to twice as much may pass. A head has at most 100 headers, and its URL 65,534 bytes
    pub(crate) const MAX_HEAD_BYTES: usize = 65_536, "bytes", beyond "431, or 414 for the URL, without a body";
    /// What the system takes of an answer before the client has it, whatever the answer. Linux counts twice as much, for what it adds
    pub(crate) const SEND_BUFFER_BYTES: u32 = 65_536, "bytes for each connection", beyond "the rest of the answer, and what was asked after it, waits";
    /// What the system takes of requests before the server reads them, counted in the same way
    pub(crate) const RECEIVE_BUFFER_BYTES: u32 = 131_072, "bytes for each connection", beyond "the client's write waits";
    /// What a connection writes of an answer at once
    pub(crate) const SHARE_BYTES: usize = 16_384, "bytes", beyond "the rest waits for turns";
    /// What it may write in a turn
    pub(crate) const TURN_BYTES: usize = 32_768, "bytes", beyond "it waits for its next turn";
    /// Connections that have a turn at the same time
    pub(crate) const MAX_TURNS: usize = 8, "turns", beyond "others wait in a line, first come, first served";
}

/// All connections.
pub(crate) struct Connections {
    state: Mutex<State>,
    most: usize,
    most_per_address: usize,
    /// Told when the last one is gone.
    gone: Notify,
}

#[derive(Default)]
struct State {
    /// Numbers instants at which a connection became idle, and only goes up.
    next: u64,
    all: Slab<Entry>,
    /// Idle ones by the instant, then the connection.
    idle: BTreeSet<(u64, usize)>,
    addresses: Slab<Address>,
    by_address: HashMap<IpAddr, usize>,
    /// Those that are not about to be closed.
    count: usize,
}

/// What comes from one address.
struct Address {
    address: IpAddr,
    /// As [`State::count`].
    count: usize,
    /// As [`State::idle`].
    idle: BTreeSet<(u64, usize)>,
    /// All of them, those that are about to be closed, too.
    places: usize,
}

struct Entry {
    /// Where in [`State::addresses`].
    address: usize,
    idle_since: Option<u64>,
    sign: Arc<Sign>,
}

/// What a connection is told. It looks at it whenever it is polled, which is several times for a request.
#[derive(Default)]
struct Sign {
    /// It goes for the sake of another. It was idle when that was decided, and does not count any more.
    closing: AtomicBool,
    /// The server ends.
    ending: AtomicBool,
    waker: AtomicWaker,
}

/// Why a connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// For the sake of another, for which there is no place otherwise.
    Close,
    /// Because the server ends.
    End,
}

/// A connection's place; given up when it is dropped.
pub(crate) struct Place {
    connections: Arc<Connections>,
    number: usize,
    sign: Arc<Sign>,
    requests: AtomicUsize,
}

/// A request under way on a connection.
pub(crate) struct Busy(Arc<Place>);

impl Connections {
    pub(crate) fn new(most: u32, most_per_address: u32) -> Arc<Self> {
        let (most, most_per_address) = (most.max(1) as usize, most_per_address.max(1) as usize);
        Arc::new(Self { state: Mutex::default(), most, most_per_address, gone: Notify::new() })
    }

    /// A place for a new connection, for which an idle one may be closed; `None` if all are busy.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let mut state = self.state.lock();
        let known = state.by_address.get(&address).map(|at| &state.addresses[*at]);
        if let Some(known) = known.filter(|known| known.count >= self.most_per_address) {
            let oldest = known.idle.first().copied();
            state.close(oldest?);
        } else if state.count >= self.most {
            let oldest = state.idle.first().copied();
            state.close(oldest?);
        }
        let (number, sign) = state.insert(address);
        drop(state);
        Some(Place { connections: Arc::clone(self), number, sign, requests: AtomicUsize::new(0) })
    }

    /// Closes the connection that was idle for longest, to free what it takes.
    pub(crate) fn close_one(&self) {
        let mut state = self.state.lock();
        if let Some(oldest) = state.idle.first().copied() {
            state.close(oldest);
        }
    }

    /// Tells all connections that the server ends, and waits until they are gone. There must be no new ones.
    pub(crate) async fn end(&self) {
        for (_, entry) in &self.state.lock().all {
            entry.sign.end();
        }
        while !self.state.lock().all.is_empty() {
            self.gone.notified().await;
        }
    }
}

impl State {
    /// Counts a new connection, which is idle.
    fn insert(&mut self, address: IpAddr) -> (usize, Arc<Sign>) {
        let addresses = &mut self.addresses;
        let unknown = || addresses.insert(Address { address, count: 0, idle: BTreeSet::new(), places: 0 });
        let at = *self.by_address.entry(address).or_insert_with(unknown);
        self.addresses[at].count += 1;
        self.addresses[at].places += 1;
        self.count += 1;
        let sign = Arc::new(Sign::default());
        let number = self.all.insert(Entry { address: at, idle_since: None, sign: Arc::clone(&sign) });
        self.rest(number);
        (number, sign)
    }

    /// A connection has nothing to do from now on.
    fn rest(&mut self, number: usize) {
        let entry = &mut self.all[number];
        if entry.sign.is_closing() {
            return;
        }
        let since = self.next;
        self.next += 1;
        entry.idle_since = Some(since);
        self.idle.insert((since, number));
        self.addresses[entry.address].idle.insert((since, number));
    }

    /// A connection has something to do.
    fn work(&mut self, number: usize) {
        let entry = &mut self.all[number];
        if let Some(since) = entry.idle_since.take() {
            self.idle.remove(&(since, number));
            self.addresses[entry.address].idle.remove(&(since, number));
        }
    }

    /// Tells a connection to close. It does not count any more: it is about to be gone.
    fn close(&mut self, (_, number): (u64, usize)) {
        self.work(number);
        let entry = &self.all[number];
        entry.sign.close();
        self.uncount(entry.address);
    }

    fn uncount(&mut self, address: usize) {
        self.count -= 1;
        self.addresses[address].count -= 1;
    }

    /// A connection is gone.
    fn remove(&mut self, number: usize) {
        self.work(number);
        let entry = self.all.remove(number);
        if !entry.sign.is_closing() {
            self.uncount(entry.address);
        }
        let known = &mut self.addresses[entry.address];
        known.places -= 1;
        if known.places == 0 {
            let address = self.addresses.remove(entry.address).address;
            self.by_address.remove(&address);
        }
    }
}

impl Sign {
    fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    fn told(&self) -> Option<Told> {
        if self.ending.load(Ordering::Acquire) { Some(Told::End) } else { self.is_closing().then_some(Told::Close) }
    }
}

impl Place {
    /// Marks the connection busy until what is returned is dropped.
    pub(crate) fn work(self: &Arc<Self>) -> Busy {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.connections.state.lock().work(self.number);
        Busy(Arc::clone(self))
    }

    /// Waits until the connection is told to end.
    pub(crate) async fn told(&self) -> Told {
        poll_fn(|cx| {
            if let Some(told) = self.sign.told() {
                return Poll::Ready(told);
            }
            self.sign.waker.register(cx.waker());
            // It may have been told in between.
            self.sign.told().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Whether a request is under way: also one that came when the connection was about to be closed.
    pub(crate) fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// Whether the connection is to be closed for the sake of another. It was idle when that was decided.
    pub(crate) fn is_closing(&self) -> bool {
        self.sign.is_closing()
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
        state.remove(self.number);
        if state.all.is_empty() {
            self.connections.gone.notify_one();
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
        place.told().now_or_never() == Some(Told::Close)
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
        assert!(state.addresses.is_empty() && state.count == 0);
    }

    #[tokio::test]
    async fn all_are_told_that_the_server_ends_and_waited_for() {
        let connections = Connections::new(3, 3);
        let (first, second) = (admit(&connections, HERE), admit(&connections, THERE));
        let busy = second.work();
        let mut end = std::pin::pin!(connections.end());
        assert!(end.as_mut().now_or_never().is_none());
        assert_eq!((first.told().await, second.told().await), (Told::End, Told::End));
        drop(first);
        assert!(end.as_mut().now_or_never().is_none());
        drop((busy, second));
        end.await;
    }
}
