//! The connections of callers: how many there may be, in all and from one address, and which of them goes when there are
//! too many.
//!
//! A connection is closed for another only while it is not the server that is waited for, in this order:
//!
//! 1. It has nothing to do, or the answer to a caller without a good token is ready and not read to its end. Whatever such a
//!    caller reads of it, a byte now and then, makes it no younger.
//! 2. A request whose body does not come, or an answer to a known caller that is not read: for [`SLOW_SECONDS`] already, where
//!    [`PACE_BYTES`] that come or are read make up for a second. Who keeps that pace is never closed for another.
//!
//! Of the first kind if there is one, of the address that has most connections, the one that has been so for longest. A
//! request that has come is answered first: also one that comes in the instant in which its connection is chosen. Such a
//! connection counts again until it has its answer, so that there is one too many for as long; what is too many is closed
//! before the next one is let in, and if nothing may be closed, nothing is let in.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::future::poll_fn;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

postrider_domain::limits! {
    in "Connections of callers";
    /// Connections
    setting "server.max_connections", beyond "one that is idle, or is not read by a caller without a good token, is closed: of the address with most connections, the one for which that is true for longest; if there is none, a slow one; if there is none, 503";
    /// Connections from one address; of IPv6, from one network of 64 bits
    setting "server.max_connections_per_address", beyond "the same, among those of the address";
    /// The first request on a new connection, up to its body
    setting "server.head_timeout", beyond "the connection is closed";
    /// Between requests
    setting "server.idle_timeout", beyond "the connection is closed";
    /// Until a client has taken so much of its answer that the system sees room for more (Linux: a third of its buffer)
    setting "server.write_timeout", beyond "the connection is cut";
    /// A known caller's answer that is not read, or a body that does not come, before its connection may be closed for another
    pub(crate) const SLOW_SECONDS: u64 = 5, "seconds", beyond "closed if there are too many connections, and none that is idle";
    /// What makes up for a second of that when it is read, or comes
    pub(crate) const PACE_BYTES: usize = 16_384, "bytes", beyond "who keeps this pace is never closed for another";
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

const SLOW: Duration = Duration::from_secs(SLOW_SECONDS);

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
    all: Slab<Entry>,
    addresses: Slab<Address>,
    by_address: HashMap<IpAddr, usize>,
    /// All but those that are about to be gone.
    count: usize,
    /// The addresses that have one that may be closed, by [`Kind`]: first those that have most.
    ranks: [BTreeSet<Rank>; KINDS],
}

/// How many connections an address has, since when the first of a kind may be closed, and where the address is.
type Rank = (Reverse<usize>, Instant, usize);

/// What comes from one address.
struct Address {
    address: IpAddr,
    /// As [`State::count`].
    count: usize,
    /// Those that may be closed, by [`Kind`]: since when, and which.
    waiting: [BTreeSet<(Instant, usize)>; KINDS],
    /// All of them, those that are about to be closed, too.
    places: usize,
}

/// Why a connection may be closed for another, in the order in which they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// There is no request, or its caller is not known, and the answer is ready.
    Done,
    /// The client of a request is slow, and was so since then, had it not paused.
    Slow,
}

const KINDS: usize = 2;

struct Entry {
    /// Where in [`State::addresses`].
    address: usize,
    /// Requests under way: from the end of their heads until their answers are written.
    requests: usize,
    /// Those of them that are not answered yet.
    unanswered: usize,
    /// Whether the last one that was answered was a known caller's.
    is_known: bool,
    /// Since when there is no request, or none that is not answered.
    since: Instant,
    client: Client,
    /// What it may be closed for, and since when: where it is in [`Address::waiting`].
    waits: Option<(Kind, Instant)>,
    /// Whether it is one of [`State::count`].
    is_counted: bool,
    sign: Arc<Sign>,
}

/// What is waited for of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// More of a request's body.
    Body,
    /// That it reads more of an answer.
    Reader,
}

/// How a client keeps pace.
#[derive(Default)]
struct Client {
    awaits_body: bool,
    awaits_reader: bool,
    /// Since when it is waited for, had there been no pause.
    since: Option<Instant>,
    /// How far it is behind while nothing is waited for.
    behind: Duration,
}

/// What a connection is told. It looks at it whenever it is polled, which is several times for a request.
#[derive(Default)]
struct Sign {
    /// It goes for the sake of another, and counts only while a request is to be answered first.
    closing: AtomicBool,
    /// It does not wait for the server: it can go at once.
    leaving: AtomicBool,
    /// The server ends.
    ending: AtomicBool,
    waker: AtomicWaker,
}

/// How a connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// At once, for the sake of another, for which there is no place otherwise.
    Close,
    /// For the same, with its answer: a request came in the instant in which it was chosen.
    Finish,
    /// With its answer, because the server ends.
    End,
}

/// A connection's place; given up when it is dropped.
pub(crate) struct Place {
    connections: Arc<Connections>,
    number: usize,
    sign: Arc<Sign>,
}

/// A request under way on a connection.
pub(crate) struct Busy {
    place: Arc<Place>,
    is_answered: AtomicBool,
}

impl Connections {
    pub(crate) fn new(most: u32, most_per_address: u32) -> Arc<Self> {
        let (most, most_per_address) = (most.max(1) as usize, most_per_address.max(1) as usize);
        Arc::new(Self { state: Mutex::default(), most, most_per_address, gone: Notify::new() })
    }

    /// A place for a new connection, for which another one may be closed; `None` if there is none that may.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        self.admit_at(address, Instant::now())
    }

    fn admit_at(self: &Arc<Self>, address: IpAddr, now: Instant) -> Option<Place> {
        let address = network(address);
        let mut state = self.state.lock();
        if let Some(known) = state.by_address.get(&address).copied() {
            while state.addresses[known].count >= self.most_per_address {
                let given = state.addresses[known].to_close(now)?;
                state.close(given, now);
            }
        }
        while state.count >= self.most {
            let given = state.to_close(now)?;
            state.close(given, now);
        }
        let (number, sign) = state.insert(address, now);
        drop(state);
        Some(Place { connections: Arc::clone(self), number, sign })
    }

    /// Closes a connection, if one may be closed, to free what it takes.
    pub(crate) fn close_one(&self) {
        let (mut state, now) = (self.state.lock(), Instant::now());
        if let Some(given) = state.to_close(now) {
            state.close(given, now);
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

impl Address {
    fn rank(&self, kind: usize, at: usize) -> Option<Rank> {
        self.waiting[kind].first().map(|(since, _)| (Reverse(self.count), *since, at))
    }

    /// Which of its connections goes for another.
    fn to_close(&self, now: Instant) -> Option<usize> {
        let done = self.waiting[Kind::Done as usize].first();
        let slow = self.waiting[Kind::Slow as usize].first().filter(|(since, _)| is_slow(*since, now));
        done.or(slow).map(|(_, number)| *number)
    }
}

/// Whether a client that has been waited for since then has been for too long.
fn is_slow(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) >= SLOW
}

impl State {
    /// Counts a new connection, which has nothing to do.
    fn insert(&mut self, address: IpAddr, now: Instant) -> (usize, Arc<Sign>) {
        let addresses = &mut self.addresses;
        let unknown = || addresses.insert(Address { address, count: 0, waiting: Default::default(), places: 0 });
        let at = *self.by_address.entry(address).or_insert_with(unknown);
        let sign = Arc::new(Sign::default());
        let number = self.all.insert(Entry {
            address: at,
            requests: 0,
            unanswered: 0,
            is_known: false,
            since: now,
            client: Client::default(),
            waits: None,
            is_counted: false,
            sign: Arc::clone(&sign),
        });
        self.addresses[at].places += 1;
        self.count(number);
        self.change(number, now, |_| {});
        (number, sign)
    }

    /// A connection counts.
    fn count(&mut self, number: usize) {
        let entry = &mut self.all[number];
        if !std::mem::replace(&mut entry.is_counted, true) {
            let at = entry.address;
            self.count += 1;
            self.rearrange(at, |address| address.count += 1);
        }
    }

    /// Something happens to a connection: it may be closed from then on, or not any more.
    fn change(&mut self, number: usize, now: Instant, change: impl FnOnce(&mut Entry)) {
        let entry = &mut self.all[number];
        change(entry);
        let (waits, at) = (entry.waits(), entry.address);
        if entry.sign.is_closing() {
            let at_once = waits.is_some_and(|(kind, since)| kind == Kind::Done || is_slow(since, now));
            entry.sign.leave(at_once);
            if at_once {
                self.forget(number);
            } else {
                self.count(number);
            }
            return;
        }
        let before = std::mem::replace(&mut entry.waits, waits);
        if before != waits {
            self.rearrange(at, |address| {
                if let Some((kind, since)) = before {
                    address.waiting[kind as usize].remove(&(since, number));
                }
                if let Some((kind, since)) = waits {
                    address.waiting[kind as usize].insert((since, number));
                }
            });
        }
    }

    /// Changes what is known of an address, and with that its rank.
    fn rearrange(&mut self, at: usize, change: impl FnOnce(&mut Address)) {
        let ranks = |address: &Address| std::array::from_fn::<_, KINDS, _>(|kind| address.rank(kind, at));
        let before = ranks(&self.addresses[at]);
        change(&mut self.addresses[at]);
        let after = ranks(&self.addresses[at]);
        for (ranks, (before, after)) in self.ranks.iter_mut().zip(before.into_iter().zip(after)) {
            if before == after {
                continue;
            }
            if let Some(before) = before {
                ranks.remove(&before);
            }
            ranks.extend(after);
        }
    }

    /// Which connection goes for another.
    fn to_close(&self, now: Instant) -> Option<usize> {
        let done = self.ranks[Kind::Done as usize].first();
        let slow = || self.ranks[Kind::Slow as usize].iter().find(|(_, since, _)| is_slow(*since, now));
        let (.., at) = done.or_else(slow)?;
        self.addresses[*at].to_close(now)
    }

    /// Tells a connection to close. It does not count any more: it is about to be gone, or counts again if a request comes
    /// first.
    fn close(&mut self, number: usize, now: Instant) {
        self.forget(number);
        self.all[number].sign.closing.store(true, Ordering::Release);
        self.change(number, now, |_| {});
        self.all[number].sign.waker.wake();
    }

    /// A connection does not count any more.
    fn forget(&mut self, number: usize) {
        let entry = &mut self.all[number];
        if !std::mem::replace(&mut entry.is_counted, false) {
            return;
        }
        let (at, waits) = (entry.address, entry.waits.take());
        self.count -= 1;
        self.rearrange(at, |address| {
            address.count -= 1;
            if let Some((kind, since)) = waits {
                address.waiting[kind as usize].remove(&(since, number));
            }
        });
    }

    /// A connection is gone.
    fn remove(&mut self, number: usize) {
        self.forget(number);
        let at = self.all.remove(number).address;
        self.addresses[at].places -= 1;
        if self.addresses[at].places == 0 {
            let address = self.addresses.remove(at).address;
            self.by_address.remove(&address);
        }
    }
}

impl Entry {
    /// Whether it may be closed for another.
    fn waits(&self) -> Option<(Kind, Instant)> {
        if self.requests == 0 || (self.unanswered == 0 && !self.is_known) {
            return Some((Kind::Done, self.since));
        }
        // What is answered while its body still comes waits for either.
        let waits = self.client.awaits_body || (self.unanswered == 0 && self.client.awaits_reader);
        self.client.since.filter(|_| waits).map(|since| (Kind::Slow, since))
    }
}

impl Client {
    fn awaits(&mut self, what: Awaited) -> &mut bool {
        match what {
            Awaited::Body => &mut self.awaits_body,
            Awaited::Reader => &mut self.awaits_reader,
        }
    }

    /// It is waited for. Before, so many bytes came or were read.
    fn wait(&mut self, what: Awaited, moved: usize, now: Instant) {
        let made_up = Duration::from_secs_f64(moved as f64 / PACE_BYTES as f64);
        self.behind = self.behind.saturating_sub(made_up);
        *self.awaits(what) = true;
        let behind = self.behind;
        self.since.get_or_insert_with(|| now.checked_sub(behind).unwrap_or(now));
    }

    /// It goes on.
    fn go_on(&mut self, what: Awaited, now: Instant) {
        *self.awaits(what) = false;
        if !self.awaits_body
            && !self.awaits_reader
            && let Some(since) = self.since.take()
        {
            self.behind = now.saturating_duration_since(since);
        }
    }
}

impl Sign {
    fn leave(&self, at_once: bool) {
        if self.leaving.swap(at_once, Ordering::AcqRel) != at_once {
            self.waker.wake();
        }
    }

    fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    fn told(&self) -> Option<Told> {
        if self.ending.load(Ordering::Acquire) {
            return Some(Told::End);
        }
        let at_once = self.leaving.load(Ordering::Acquire);
        self.is_closing().then_some(if at_once { Told::Close } else { Told::Finish })
    }
}

impl Place {
    fn change(&self, change: impl FnOnce(&mut Entry, Instant)) {
        let (mut state, now) = (self.connections.state.lock(), Instant::now());
        state.change(self.number, now, |entry| change(entry, now));
    }

    /// A request has come, up to its body. It is under way until what is returned is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.change(|entry, _| entry.begin());
        Busy { place: Arc::clone(self), is_answered: AtomicBool::new(false) }
    }

    /// The client is waited for, for the first time after so many bytes came or were read.
    pub(crate) fn wait(&self, what: Awaited, moved: usize) {
        self.change(|entry, now| entry.client.wait(what, moved, now));
    }

    /// It goes on.
    pub(crate) fn go_on(&self, what: Awaited) {
        self.change(|entry, now| entry.client.go_on(what, now));
    }

    /// Waits until the connection is told to end, in another way than it was before.
    pub(crate) async fn told(&self, before: Option<Told>) -> Told {
        let news = || self.sign.told().filter(|told| Some(*told) != before);
        poll_fn(|cx| {
            if let Some(told) = news() {
                return Poll::Ready(told);
            }
            self.sign.waker.register(cx.waker());
            // It may have been told in between.
            news().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Whether the connection is to be closed for the sake of another.
    pub(crate) fn is_closing(&self) -> bool {
        self.sign.is_closing()
    }
}

impl Entry {
    fn begin(&mut self) {
        if self.requests == 0 {
            self.client.behind = Duration::ZERO;
        }
        self.requests += 1;
        self.unanswered += 1;
    }

    fn answer(&mut self, is_known: bool, now: Instant) {
        self.unanswered -= 1;
        (self.is_known, self.since) = (is_known, now);
    }

    fn end(&mut self, is_answered: bool, now: Instant) {
        self.requests -= 1;
        self.unanswered -= usize::from(!is_answered);
        if self.requests == 0 {
            self.since = now;
        }
    }
}

impl Busy {
    /// The answer is there, and goes to a caller with a good token or to anybody.
    pub(crate) fn answer(&self, is_known: bool) {
        if !self.is_answered.swap(true, Ordering::AcqRel) {
            self.place.change(|entry, now| entry.answer(is_known, now));
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let is_answered = self.is_answered.load(Ordering::Acquire);
        self.place.change(|entry, now| entry.end(is_answered, now));
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
        place.told(None).now_or_never() == Some(Told::Close)
    }

    /// A request that is answered and not written to its end.
    fn unread(place: &Arc<Place>, is_known: bool) -> Busy {
        let busy = place.begin();
        busy.answer(is_known);
        busy
    }

    /// As long as this after now.
    fn after(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[test]
    fn the_connection_that_was_idle_for_longest_is_closed_for_a_new_one() {
        let connections = Connections::new(3, 3);
        let places = [admit(&connections, HERE), admit(&connections, HERE), admit(&connections, HERE)];
        drop(places[0].begin());
        let _busy = places[2].begin();
        let fourth = admit(&connections, HERE);
        assert_eq!([0, 1, 2].map(|at| is_closed(&places[at])), [false, true, false]);
        drop(fourth);
        let _fifth = admit(&connections, THERE);
        assert!(!is_closed(&places[0]));
    }

    #[test]
    fn the_address_with_most_connections_loses_first() {
        let connections = Connections::new(4, 4);
        let few = admit(&connections, THERE);
        let many = [HERE; 3].map(|address| admit(&connections, address));
        let busy = many.each_ref().map(|place| unread(place, false));
        let _first = admit(&connections, THERE);
        assert!(!is_closed(&few) && is_closed(&many[0]), "what is not read is as good as idle");
        let _second = admit(&connections, THERE);
        assert!(is_closed(&few), "it has as many, and has had nothing to do for longest");
        drop(busy);
    }

    #[test]
    fn a_request_that_is_not_answered_is_never_closed_for_another() {
        let connections = Connections::new(2, 2);
        let (first, second) = (admit(&connections, HERE), admit(&connections, HERE));
        let busy = (first.begin(), second.begin());
        assert!(connections.admit_at(THERE, after(3_600)).is_none());
        drop(busy.1);
        assert!(connections.admit(THERE).is_some());
        assert!(is_closed(&second) && !is_closed(&first));
    }

    #[test]
    fn an_answer_to_nobody_in_particular_is_given_up_however_it_is_read() {
        let connections = Connections::new(2, 2);
        let (first, second) = (admit(&connections, HERE), admit(&connections, HERE));
        let _busy = (unread(&first, false), unread(&second, false));
        // A byte now and then.
        for _ in 0..10 {
            first.wait(Awaited::Reader, 1);
            first.go_on(Awaited::Reader);
        }
        let _third = admit(&connections, THERE);
        assert!(is_closed(&first) && !is_closed(&second));
    }

    #[test]
    fn an_answer_to_a_known_caller_is_given_up_if_it_is_not_read_at_its_pace() {
        let connections = Connections::new(2, 2);
        let (first, second) = (admit(&connections, HERE), admit(&connections, HERE));
        let _busy = (unread(&first, true), unread(&second, true));
        assert!(connections.admit_at(THERE, after(3_600)).is_none(), "they are read");
        let soon = after(SLOW_SECONDS - 1);
        second.wait(Awaited::Reader, 0);
        assert!(connections.admit_at(THERE, soon).is_none(), "not for long");
        assert!(connections.admit_at(THERE, after(SLOW_SECONDS + 1)).is_some());
        assert!(!is_closed(&first) && is_closed(&second));
    }

    #[test]
    fn a_body_that_does_not_come_gives_way() {
        let connections = Connections::new(1, 1);
        let first = admit(&connections, HERE);
        let _busy = first.begin();
        let soon = after(SLOW_SECONDS - 1);
        first.wait(Awaited::Body, 0);
        assert!(connections.admit_at(THERE, soon).is_none());
        first.go_on(Awaited::Body);
        assert!(connections.admit_at(THERE, after(3_600)).is_none(), "now it waits for the server");
        first.wait(Awaited::Body, 1);
        assert!(connections.admit_at(THERE, after(SLOW_SECONDS + 1)).is_some());
        assert!(is_closed(&first));
    }

    #[test]
    fn a_body_that_does_not_go_on_gives_way_also_when_its_answer_has_begun() {
        let connections = Connections::new(1, 1);
        let first = admit(&connections, HERE);
        let busy = first.begin();
        busy.answer(true);
        first.wait(Awaited::Body, 0);
        assert!(connections.admit_at(THERE, after(SLOW_SECONDS + 1)).is_some());
        assert!(is_closed(&first));
    }

    #[test]
    fn what_comes_at_its_pace_makes_up_for_what_was_waited_and_a_byte_now_and_then_does_not() {
        let start = Instant::now();
        for (bytes, is_kept) in [(PACE_BYTES, true), (1, false)] {
            let (mut client, mut now) = (Client::default(), start);
            for _ in 0..=SLOW_SECONDS {
                client.wait(Awaited::Reader, bytes, now);
                now += Duration::from_secs(1);
                client.go_on(Awaited::Reader, now);
            }
            client.wait(Awaited::Reader, bytes, now);
            assert_eq!(client.since.is_some_and(|since| !is_slow(since, now)), is_kept, "{bytes}");
        }
    }

    #[test]
    fn a_request_that_comes_when_its_connection_is_about_to_be_closed_is_answered_and_not_waited_for() {
        let connections = Connections::new(1, 1);
        let first = admit(&connections, HERE);
        let _second = admit(&connections, HERE);
        assert!(first.is_closing() && is_closed(&first));
        let busy = first.begin();
        assert_eq!(first.told(None).now_or_never(), Some(Told::Finish));
        busy.answer(false);
        assert_eq!(first.told(Some(Told::Finish)).now_or_never(), Some(Told::Close), "nobody reads it");
        drop(busy);
        assert!(is_closed(&first));
        drop(first);
        assert_eq!(connections.state.lock().count, 1);
    }

    #[test]
    fn connections_that_get_requests_as_they_are_chosen_count_until_they_are_answered() {
        let connections = Connections::new(4, 2);
        let mut places: Vec<_> = (0..2).map(|_| admit(&connections, HERE)).collect();
        let mut busy = Vec::new();
        // Each new one has an old one closed, which has a request by then.
        for at in 0.. {
            let Some(place) = connections.admit(HERE) else { break };
            assert!(at < 2, "more and more of them are let in");
            places.push(Arc::new(place));
            busy.push(places[at].begin());
        }
        assert_eq!(busy.len(), 2);
        assert_eq!(connections.state.lock().addresses[0].count, 2, "one idle one went, for what was too many");
        let _other = admit(&connections, THERE);
        drop(busy);
        assert!(connections.admit(HERE).is_some());
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
        assert!(state.all.is_empty() && state.ranks.iter().all(BTreeSet::is_empty) && state.by_address.is_empty());
        assert!(state.addresses.is_empty() && state.count == 0);
    }

    #[tokio::test]
    async fn all_are_told_that_the_server_ends_and_waited_for() {
        let connections = Connections::new(3, 3);
        let (first, second) = (admit(&connections, HERE), admit(&connections, THERE));
        let busy = second.begin();
        let mut end = std::pin::pin!(connections.end());
        assert!(end.as_mut().now_or_never().is_none());
        assert_eq!((first.told(None).await, second.told(None).await), (Told::End, Told::End));
        drop(first);
        assert!(end.as_mut().now_or_never().is_none());
        drop((busy, second));
        end.await;
    }
}
