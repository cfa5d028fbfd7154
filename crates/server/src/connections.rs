//! The connections of callers: how many there may be, in all and from one address, and which of them goes when there are
//! too many.
//!
//! A connection is closed for another only where that undoes nothing that its caller could count on. Of the connections of one
//! address they go in this order ([`ORDER`]), and of each kind the one that has been so for longest:
//!
//! 1. A caller without a good token was answered. Whether, and how, he reads that makes no difference: a byte now and then makes the
//!    connection no younger. Or no request came on it yet, for [`NEW_SECONDS`] already.
//! 2. It has nothing to do, for [`KEPT_SECONDS`] already; its last request was a known caller's.
//! 3. A request whose body does not come, or an answer to a known caller that is not read: for [`SLOW_SECONDS`] already, where
//!    [`PACE_BYTES`] that come or are read make up for a second. Who keeps that pace is never closed for another.
//! 4. A request whose caller is not known yet. It is answered at once that there is no room, and its connection ends: nothing was
//!    done for it that anybody would miss. If more of its body comes, that is read for [`FAREWELL_SECONDS`], so that its client gets the
//!    answer, and does not count.
//! 5. It is new, and no request came yet.
//! 6. A known caller's request on it was just answered. So whoever has requests of nobody on all connections that he can get does not
//!    end those that known callers use from the same address.
//!
//! Of several addresses the kind decides first: what is nobody's (1) goes before all others, whatever addresses they are of; otherwise
//! quiet connections from many addresses would end those of a busy one, which has more than each of them: those that known callers keep,
//! those of who comes anew, and requests whose caller is not known yet, which may be those of known callers, too, while they are looked
//! up. If several addresses have some, the one that has most connections gives it; if there is none, then one of the second kind, and
//! then one of the third.
//!
//! Only then it matters who has more. If one of the fourth, fifth or sixth comes from an address that has more than that of the second or
//! third, it goes instead: otherwise requests with keys that nobody knows, on all connections of an address, would keep everybody else
//! out. And one of the sixth goes instead of one of the fifth: those who come anew have to get their request through, and if all are in
//! use by one address, that has more.
//!
//! The request of a known caller is answered first: also one that comes in the instant in which its connection is chosen. Such a
//! connection counts again until it may be closed, so that there is one too many for as long; what is too many is closed
//! before the next one is let in, and if nothing may be closed, nothing is let in.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::future::poll_fn;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use postrider_api::Progress;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

postrider_domain::limits! {
    in "Connections of callers";
    /// Connections
    setting "server.max_connections", beyond "one that was last used without a good token, or on which no request comes, is closed: of the address with most connections, the one for which that is true for longest; only if there is none, one that a known caller leaves idle, and then a slow one; if there is none of these, or its address has fewer, one whose request has no known caller yet, which is answered 503, or one that is new; what a known caller has just used goes after all that is nobody's; if there is none, the new one is answered 503";
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
    /// A connection without a request, before it may be closed for another
    pub(crate) const NEW_SECONDS: u64 = 1, "seconds", beyond "it goes before what known callers use, and requests whose callers are not known yet; until then after those";
    /// An idle one whose last request was a known caller's
    pub(crate) const KEPT_SECONDS: u64 = 10, "seconds", beyond "it goes after what is nobody's, and before slow ones; until then after all others";
    /// Connections that end, after their request was turned away, when its body has come; beside those that count
    pub(crate) const MAX_FAREWELLS: usize = 16, "connections", beyond "closed at once, and a client that still sends may not get the 503";
    /// For how long each
    pub(crate) const FAREWELL_SECONDS: u64 = 1, "seconds", beyond "the same";
    /// The answer to a caller without a good token, when the server ends
    pub(crate) const UNREAD_AT_THE_END_SECONDS: u64 = 1, "seconds until it is read", beyond "the connection is closed";
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

const UNREAD_AT_THE_END: Duration = Duration::from_secs(UNREAD_AT_THE_END_SECONDS);

/// A reason for which a connection may be closed for another, when it has been there for so long.
type Step = (Kind, Duration);

/// What is nobody's is closed first: nothing is lost by it.
const NOBODYS: [Step; 2] = [(Kind::Unread, Duration::ZERO), (Kind::New, Duration::from_secs(NEW_SECONDS))];

/// What a known caller used is closed then.
const KEPT: Step = (Kind::Kept, Duration::from_secs(KEPT_SECONDS));

/// And then what one keeps waiting.
const SLOWLY: Step = (Kind::Slow, SLOW);

/// Who comes with a request is closed when there is none of these, or for an address that has more connections.
const COMING: [Step; 2] = [(Kind::Unknown, Duration::ZERO), (Kind::New, Duration::ZERO)];

/// What a known caller has just used goes last.
const USED: Step = (Kind::Kept, Duration::ZERO);

/// How the connections of one address go.
const ORDER: [Step; 7] = [NOBODYS[0], NOBODYS[1], KEPT, SLOWLY, COMING[0], COMING[1], USED];

/// The addresses with most connections at which is looked for one that has been slow, or idle, for long enough. If there is none,
/// the one that has been so for longest is taken.
const LOOKED_AT: usize = 64;

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
    /// The addresses that have one that may be closed, by [`Kind`].
    ranks: [Ranks; KINDS],
}

/// Addresses that have a connection of one [`Kind`].
#[derive(Default)]
struct Ranks {
    /// First those that have most.
    by_count: BTreeSet<Rank>,
    /// First that which has the one that has been so for longest.
    by_age: BTreeSet<(Instant, usize)>,
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

/// Why a connection may be closed for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A caller who is not known was answered, and may have read it.
    Unread,
    /// There was no request yet.
    New,
    /// There is no request, and the last one was a known caller's.
    Kept,
    /// The client of a request is slow, and was so since then, had it not paused.
    Slow,
    /// There is a request, and it is not known yet whose.
    Unknown,
}

const KINDS: usize = 5;

struct Entry {
    /// Where in [`State::addresses`].
    address: usize,
    /// Requests under way: from the end of their heads until their answers are written.
    requests: usize,
    /// Those of them that are not answered yet.
    unanswered: usize,
    /// Whether it takes time to find out who is the caller of one.
    asks_who: bool,
    /// Whether there was none yet.
    is_new: bool,
    /// Whether the last one that was answered was a known caller's.
    is_known: bool,
    /// Since when there is no request, or none that is not answered, or whose caller is known.
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
    /// A [`Told`]; 0 if it is told nothing. Changed by whoever has the lock of all connections.
    told: AtomicU8,
    waker: AtomicWaker,
}

/// How a connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Told {
    /// At once, for the sake of another, for which there is no place otherwise.
    Close = 1,
    /// For the same, when its request is turned away, of which it is not known yet whose it is.
    Refuse,
    /// For the same, with its answer: a request came in the instant in which it was chosen. It counts until then.
    Finish,
    /// With its answer, because the server ends.
    End,
    /// At once, because it took too long for that.
    Cut,
}

const ALL_TOLD: [Told; 5] = [Told::Close, Told::Refuse, Told::Finish, Told::End, Told::Cut];

/// A connection's place; given up when it is dropped.
pub(crate) struct Place {
    connections: Arc<Connections>,
    number: usize,
    sign: Arc<Sign>,
    /// Its last request was turned away.
    is_turned_away: AtomicBool,
    /// What was answered is not written yet, because the client does not read, or others write.
    is_unwritten: AtomicBool,
}

/// A request under way on a connection.
pub(crate) struct Busy {
    place: Arc<Place>,
    asks_who: AtomicBool,
    is_known: AtomicBool,
    is_answered: AtomicBool,
    /// More of its body is asked for, and has not come.
    awaits_body: AtomicBool,
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
        let (is_turned_away, is_unwritten) = (AtomicBool::new(false), AtomicBool::new(false));
        Some(Place { connections: Arc::clone(self), number, sign, is_turned_away, is_unwritten })
    }

    /// Closes a connection, if one may be closed, to free what it takes.
    pub(crate) fn close_one(&self) {
        let (mut state, now) = (self.state.lock(), Instant::now());
        if let Some(given) = state.to_close(now) {
            state.close(given, now);
        }
    }

    /// Tells all connections that the server ends, and waits until they are gone. There must be no new ones. An answer to a caller
    /// without a good token is not waited for until it is read: it may never be.
    pub(crate) async fn end(&self) {
        self.tell_all(Told::End);
        while !self.state.lock().all.is_empty() {
            self.close_unread(Instant::now());
            let _ = tokio::time::timeout(UNREAD_AT_THE_END, self.gone.notified()).await;
        }
    }

    fn close_unread(&self, now: Instant) {
        for (_, entry) in &self.state.lock().all {
            if let Some((Kind::Unread, since)) = entry.waits()
                && has_been(since, now, UNREAD_AT_THE_END)
            {
                entry.sign.tell(Told::Close);
            }
        }
    }

    /// Ends all connections at once, whatever they do.
    pub(crate) fn cut(&self) {
        self.tell_all(Told::Cut);
    }

    fn tell_all(&self, told: Told) {
        for (_, entry) in &self.state.lock().all {
            entry.sign.tell(told);
        }
    }
}

impl Address {
    fn rank(&self, kind: usize, at: usize) -> Option<Rank> {
        self.waiting[kind].first().map(|(since, _)| (Reverse(self.count), *since, at))
    }

    /// Which of its connections goes for another, for this reason.
    fn first(&self, (kind, least): Step, now: Instant) -> Option<usize> {
        let (since, number) = self.waiting[kind as usize].first()?;
        has_been(*since, now, least).then_some(*number)
    }

    /// Which of its connections goes for another.
    fn to_close(&self, now: Instant) -> Option<usize> {
        ORDER.into_iter().find_map(|step| self.first(step, now))
    }
}

impl Ranks {
    fn replace(&mut self, before: Option<Rank>, after: Option<Rank>) {
        if before == after {
            return;
        }
        if let Some((count, since, at)) = before {
            self.by_count.remove(&(count, since, at));
            self.by_age.remove(&(since, at));
        }
        if let Some((count, since, at)) = after {
            self.by_count.insert((count, since, at));
            self.by_age.insert((since, at));
        }
    }

    /// The address, of those that have most connections, of which one has been so for so long.
    fn first(&self, least: Duration, now: Instant) -> Option<usize> {
        let (since, oldest) = self.by_age.first()?;
        if !has_been(*since, now, least) {
            return None;
        }
        let mut most = self.by_count.iter().take(LOOKED_AT);
        Some(most.find(|(_, since, _)| has_been(*since, now, least)).map_or(*oldest, |(.., at)| *at))
    }
}

/// That which comes from an address with most connections; of those from addresses that have as many, the first.
fn most(candidates: impl Iterator<Item = (usize, usize)>) -> Option<(usize, usize)> {
    candidates.min_by_key(|(count, _)| Reverse(*count))
}

/// Whether what has been so since then has been for so long at least.
fn has_been(since: Instant, now: Instant, least: Duration) -> bool {
    now.saturating_duration_since(since) >= least
}

/// Whether a client that has been waited for since then has been for too long.
fn is_slow(since: Instant, now: Instant) -> bool {
    has_been(since, now, SLOW)
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
            asks_who: false,
            is_new: true,
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
        match entry.sign.told() {
            Some(told @ (Told::Close | Told::Refuse | Told::Finish)) => self.tell(number, told, now),
            Some(Told::End | Told::Cut) | None => self.arrange(number),
        }
    }

    /// A connection that counts may be closed from now on, or not any more.
    fn arrange(&mut self, number: usize) {
        let entry = &mut self.all[number];
        if !entry.is_counted {
            return;
        }
        let (waits, at) = (entry.waits(), entry.address);
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
            ranks.replace(before, after);
        }
    }

    /// Which connection goes for another.
    fn to_close(&self, now: Instant) -> Option<usize> {
        // However many another address has: a request whose caller is not known yet may be that of a known one, who is looked up.
        let (_, number) = self.first_of(NOBODYS, now).or_else(|| self.first_of_known(now))?;
        Some(number)
    }

    /// Which goes if none is nobody's, and how many its address has.
    fn first_of_known(&self, now: Instant) -> Option<(usize, usize)> {
        let first = self.first_of([KEPT], now).or_else(|| self.first_of([SLOWLY], now));
        most(first.into_iter().chain(self.last(now)))
    }

    /// Which goes if none has been so for long enough, and how many its address has.
    fn last(&self, now: Instant) -> Option<(usize, usize)> {
        let [unknown, new] = COMING.map(|step| self.first_of([step], now));
        let used = self.first_of([USED], now);
        // Whoever comes anew has nothing to be known by yet; a request that gives way can be made again.
        let is_few = new.zip(used).is_some_and(|((new, _), (used, _))| used > new);
        let coming = most(unknown.into_iter().chain(new.filter(|_| !is_few)));
        coming.or(used)
    }

    /// Which of them goes for one of these reasons, and how many its address has.
    fn first_of<const COUNT: usize>(&self, steps: [Step; COUNT], now: Instant) -> Option<(usize, usize)> {
        most(steps.into_iter().filter_map(|step| {
            let address = &self.addresses[self.ranks[step.0 as usize].first(step.1, now)?];
            Some((address.count, address.first(step, now)?))
        }))
    }

    /// Tells a connection that may be closed to do so, also if a request has no known caller.
    fn close(&mut self, number: usize, now: Instant) {
        self.tell(number, Told::Refuse, now);
    }

    /// Tells a connection that goes for another how it is to end, by what it waits for now and was told before. It does not count
    /// any more, because it is about to be gone; unless a request is to be answered first.
    fn tell(&mut self, number: usize, before: Told, now: Instant) {
        let entry = &self.all[number];
        let told = match entry.waits() {
            Some((Kind::Unread | Kind::New | Kind::Kept, _)) => Told::Close,
            Some((Kind::Slow, since)) if is_slow(since, now) => Told::Close,
            Some((Kind::Unknown, _)) if before == Told::Refuse => Told::Refuse,
            _ => Told::Finish,
        };
        entry.sign.tell(told);
        if told == Told::Finish {
            self.count(number);
            self.arrange(number);
        } else {
            self.forget(number);
        }
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
        // A short answer is not under way any more, but may not have fit beside what its client has not read.
        let is_written = !self.client.awaits_reader;
        if self.requests == 0 && self.is_known && is_written {
            return Some((Kind::Kept, self.since));
        }
        if self.unanswered == 0 && !self.is_known {
            return Some((if self.is_new { Kind::New } else { Kind::Unread }, self.since));
        }
        if self.asks_who {
            return Some((Kind::Unknown, self.since));
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
    fn tell(&self, told: Told) {
        if self.told.swap(told as u8, Ordering::AcqRel) != told as u8 {
            self.waker.wake();
        }
    }

    fn told(&self) -> Option<Told> {
        let told = self.told.load(Ordering::Acquire);
        ALL_TOLD.into_iter().find(|known| *known as u8 == told)
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
        let no = || AtomicBool::new(false);
        Busy { place: Arc::clone(self), asks_who: no(), is_known: no(), is_answered: no(), awaits_body: no() }
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

    /// Whether the connection is to end.
    pub(crate) fn is_ending(&self) -> bool {
        self.sign.told().is_some()
    }

    /// Waits until the request under way is to be turned away. To be polled by the connection's own task, which is woken when it is
    /// told something ([`Self::told`]).
    pub(crate) async fn refused(&self) {
        self.poll_until(|| self.sign.told() == Some(Told::Refuse)).await;
    }

    /// Notes that it is.
    pub(crate) fn turn_away(&self) {
        self.is_turned_away.store(true, Ordering::Release);
    }

    /// Whether it was: then the connection is about to end.
    pub(crate) fn is_turned_away(&self) -> bool {
        self.is_turned_away.load(Ordering::Acquire)
    }

    /// Notes whether there is something that was answered and is not written. Whoever says that there is nothing any more wakes
    /// the connection's task.
    pub(crate) fn set_unwritten(&self, is_unwritten: bool) -> bool {
        self.is_unwritten.swap(is_unwritten, Ordering::AcqRel)
    }

    /// Waits until all that was answered is written. To be polled by the connection's own task.
    pub(crate) async fn written(&self) {
        self.poll_until(|| !self.is_unwritten.load(Ordering::Acquire)).await;
    }

    async fn poll_until(&self, is_so: impl Fn() -> bool) {
        poll_fn(|_| if is_so() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

impl Entry {
    fn begin(&mut self) {
        if self.requests == 0 {
            self.client.behind = Duration::ZERO;
        }
        self.is_new = false;
        self.requests += 1;
        self.unanswered += 1;
    }

    fn answer(&mut self, is_known: bool, now: Instant) {
        self.unanswered -= 1;
        (self.asks_who, self.is_known, self.since) = (false, is_known, now);
    }

    fn end(&mut self, is_answered: bool, now: Instant) {
        self.requests -= 1;
        self.unanswered -= usize::from(!is_answered);
        // Of those that are not answered there is one: the next is begun when that is written.
        self.asks_who &= is_answered;
        if self.requests == 0 {
            self.since = now;
        }
    }
}

impl Busy {
    /// It takes time to find out whose it is, unless that is known. Mostly it is known at once, and nobody has to be told.
    pub(crate) fn ask_who(&self) {
        if !self.is_known.load(Ordering::Acquire) && !self.asks_who.swap(true, Ordering::AcqRel) {
            self.place.change(|entry, now| (entry.asks_who, entry.since) = (true, now));
        }
    }

    /// The answer is there.
    pub(crate) fn answer(&self) {
        if !self.is_answered.swap(true, Ordering::AcqRel) {
            let is_known = self.is_known.load(Ordering::Acquire);
            self.place.change(|entry, now| entry.answer(is_known, now));
        }
    }

    /// More of the body is waited for, after so many bytes have come.
    pub(crate) fn await_body(&self, moved: &mut usize) {
        if !self.awaits_body.swap(true, Ordering::AcqRel) {
            self.place.wait(Awaited::Body, std::mem::take(moved));
        }
    }

    /// It is not, because it came or because nobody asks for it now.
    pub(crate) fn go_on(&self) {
        if self.awaits_body.swap(false, Ordering::AcqRel) {
            self.place.go_on(Awaited::Body);
        }
    }
}

impl Progress for Busy {
    fn caller_is_known(&self) {
        self.is_known.store(true, Ordering::Release);
        if self.asks_who.swap(false, Ordering::AcqRel) {
            self.place.change(|entry, _| entry.asks_who = false);
        }
    }

    fn body_is_worked_on(&self) {
        self.go_on();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.go_on();
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

    impl Ranks {
        fn is_empty(&self) -> bool {
            self.by_count.is_empty() && self.by_age.is_empty()
        }
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

    fn admit(connections: &Arc<Connections>, address: IpAddr) -> Arc<Place> {
        Arc::new(connections.admit(address).expect("there is room"))
    }

    fn is_closed(place: &Place) -> bool {
        place.told(None).now_or_never() == Some(Told::Close)
    }

    /// The request of a known caller.
    fn known(place: &Arc<Place>) -> Busy {
        let busy = place.begin();
        busy.caller_is_known();
        busy
    }

    /// One of which it is not known yet whose it is.
    fn nobodys(place: &Arc<Place>) -> Busy {
        let busy = place.begin();
        busy.ask_who();
        busy
    }

    /// A request that is answered and not written to its end.
    fn unread(place: &Arc<Place>, is_known: bool) -> Busy {
        let busy = if is_known { known(place) } else { place.begin() };
        busy.answer();
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
        drop(unread(&places[0], true));
        let _busy = known(&places[2]);
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
        assert!(!is_closed(&few) && is_closed(&many[1]), "it has as many, but they are new");
        let _third = connections.admit_at(THERE, after(NEW_SECONDS));
        assert!(is_closed(&few), "its address has most now, and it has had nothing to do for longest");
        drop(busy);
    }

    #[test]
    fn the_request_of_a_known_caller_that_is_not_answered_is_never_closed_for_another() {
        let connections = Connections::new(2, 2);
        let (first, second) = (admit(&connections, HERE), admit(&connections, HERE));
        let busy = (known(&first), known(&second));
        assert!(connections.admit_at(THERE, after(3_600)).is_none());
        drop(busy.1);
        assert!(connections.admit(THERE).is_some());
        assert!(is_closed(&second) && !is_closed(&first));
    }

    #[test]
    fn requests_whose_callers_are_not_known_give_way_those_of_the_address_with_most_first() {
        let connections = Connections::new(4, 4);
        let few = admit(&connections, THERE);
        let many = [HERE; 3].map(|address| admit(&connections, address));
        // Those of the other address are there for longer.
        let busy = [&few, &many[0], &many[1], &many[2]].map(nobodys);
        let new = admit(&connections, THERE);
        assert_eq!(many[0].told(None).now_or_never(), Some(Told::Refuse));
        assert!(many[0].refused().now_or_never().is_some() && few.refused().now_or_never().is_none());
        busy[1].answer();
        assert!(is_closed(&many[0]), "it is told so, and does not keep its place");
        // What is known by then stays.
        busy[2].caller_is_known();
        let newer = connections.admit_at(THERE, after(NEW_SECONDS));
        assert!(is_closed(&new), "it has nothing to do, and its address has as many");
        drop((few, newer));
        let _others = [THERE; 2].map(|address| admit(&connections, address));
        let _last = admit(&connections, IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 3)));
        // The others are new, and their address has as many.
        assert_eq!([1, 2].map(|at| many[at].told(None).now_or_never()), [None, Some(Told::Refuse)]);
        assert_eq!(connections.state.lock().count, 4);
    }

    #[test]
    fn who_is_new_is_not_closed_for_an_address_that_has_requests_of_nobody_on_all_of_its_connections() {
        let connections = Connections::new(4, 4);
        let many = [HERE; 3].map(|address| admit(&connections, address));
        let busy = many.each_ref().map(nobodys);
        let new = admit(&connections, THERE);
        let _more = admit(&connections, HERE);
        assert!(!is_closed(&new), "it has nothing to do, but is not one of many");
        assert_eq!(many[0].told(None).now_or_never(), Some(Told::Refuse));
        drop(busy);
    }

    /// Addresses of somebody who has many.
    fn elsewhere(number: u8) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, number))
    }

    #[test]
    fn what_is_nobodys_goes_before_what_known_callers_use_however_many_addresses_it_is_of() {
        let connections = Connections::new(12, 12);
        let kept = [HERE; 5].map(|address| admit(&connections, address));
        kept.iter().for_each(|place| drop(unread(place, true)));
        let just_come = admit(&connections, HERE);
        let others = [0, 1, 2, 3, 4, 5].map(|number| admit(&connections, elsewhere(number)));
        // One with a request after the other, one that waits to be known, one that came a moment ago, and three that had an answer.
        let under_way = (unread(&others[0], false), nobodys(&others[1]));
        others[3..].iter().for_each(|place| drop(unread(place, false)));
        let goes = |seconds| {
            let (mut state, now) = (connections.state.lock(), after(seconds));
            let number = state.to_close(now).unwrap();
            state.close(number, now);
            number
        };
        let first: Vec<_> = (0..4).map(|_| goes(0)).collect();
        assert_eq!(
            first,
            [0, 3, 4, 5].map(|at| others[at].number),
            "they may be younger, and alone at their addresses"
        );
        drop(just_come);
        // The request of nobody goes, and not who comes anew; then what is used by one who has more.
        assert_eq!([goes(0), goes(0)], [others[1].number, kept[0].number]);
        assert_eq!([goes(NEW_SECONDS), goes(KEPT_SECONDS)], [others[2].number, kept[1].number]);
        drop(under_way);
    }

    #[test]
    fn a_caller_who_is_looked_up_at_a_busy_address_is_not_turned_away_for_what_is_nobodys() {
        let connections = Connections::new(6, 6);
        let busy = [HERE; 3].map(|address| admit(&connections, address));
        let looked_up = busy.each_ref().map(nobodys);
        let others = [0, 1, 2].map(|number| admit(&connections, elsewhere(number)));
        // One was answered, one has a request that is, and one is silent.
        drop(unread(&others[0], false));
        let answered = unread(&others[1], false);
        let _new = [3, 4, 5].map(|number| connections.admit_at(elsewhere(number), after(NEW_SECONDS)).unwrap());
        assert_eq!(others.each_ref().map(|place| is_closed(place)), [true; 3]);
        assert_eq!(busy.each_ref().map(|place| place.told(None).now_or_never()), [None; 3]);
        // Those that came have nothing to do either, but came a moment ago.
        let _more = admit(&connections, THERE);
        assert_eq!(busy[0].told(None).now_or_never(), Some(Told::Refuse));
        drop((looked_up, answered));
    }

    #[test]
    fn of_one_address_what_known_callers_use_goes_after_requests_of_nobody() {
        let connections = Connections::new(5, 5);
        let [slow, unknown, read, kept, new] = [HERE; 5].map(|address| admit(&connections, address));
        drop(unread(&kept, true));
        let busy = (known(&slow), nobodys(&unknown), unread(&read, false));
        slow.wait(Awaited::Body, 0);
        let goes = |seconds| {
            let (mut state, now) = (connections.state.lock(), after(seconds));
            let number = state.addresses[0].to_close(now);
            assert_eq!(state.to_close(now), number, "there is one address");
            state.close(number.unwrap(), now);
            number.unwrap()
        };
        assert_eq!(goes(0), read.number);
        assert_eq!(goes(0), unknown.number);
        assert_eq!(goes(0), new.number);
        assert_eq!(goes(0), kept.number);
        drop(busy);
    }

    #[test]
    fn of_one_address_what_has_been_idle_for_long_goes_before_what_is_slow_and_that_before_requests_of_nobody() {
        let connections = Connections::new(4, 4);
        let [unknown, slow, kept, new] = [HERE; 4].map(|address| admit(&connections, address));
        drop(unread(&kept, true));
        let busy = (known(&slow), nobodys(&unknown));
        slow.wait(Awaited::Body, 0);
        let to_close = |seconds| connections.state.lock().to_close(after(seconds));
        assert_eq!(to_close(0), Some(unknown.number));
        assert_eq!(to_close(NEW_SECONDS), Some(new.number));
        drop(new);
        assert_eq!(to_close(SLOW_SECONDS + 1), Some(slow.number));
        assert_eq!(to_close(KEPT_SECONDS), Some(kept.number));
        drop(busy);
    }

    #[test]
    fn who_is_slow_for_long_enough_is_found_behind_any_number_that_are_not_yet() {
        let many = u32::try_from(3 * LOOKED_AT).unwrap();
        let connections = Connections::new(2 * many + 1, 2);
        let slow = |address: IpAddr| {
            let place = admit(&connections, address);
            let busy = known(&place);
            place.wait(Awaited::Body, 0);
            (place, busy)
        };
        let first = slow(HERE);
        let address = |number: u32| IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number / 2));
        let others: Vec<_> = (0..2 * many).map(|number| slow(address(number))).collect();
        // Those go on, and are waited for anew.
        let since = |place: &Place| connections.state.lock().all[place.number].client.since.unwrap();
        let due = since(&first.0) + SLOW;
        for (place, _) in &others {
            connections.state.lock().change(place.number, due, |entry| {
                entry.client.go_on(Awaited::Body, due);
                entry.client.wait(Awaited::Body, PACE_BYTES * 10, due);
            });
        }
        assert_eq!(connections.state.lock().to_close(due - Duration::from_nanos(1)), None);
        assert_eq!(connections.state.lock().to_close(due), Some(first.0.number));
    }

    #[test]
    fn a_caller_that_becomes_known_as_its_request_is_turned_away_is_answered() {
        let connections = Connections::new(1, 1);
        let first = admit(&connections, HERE);
        let busy = nobodys(&first);
        let _second = admit(&connections, THERE);
        busy.caller_is_known();
        busy.ask_who();
        assert_eq!(first.told(None).now_or_never(), Some(Told::Finish));
        assert!(first.refused().now_or_never().is_none());
        assert_eq!(connections.state.lock().count, 2, "one too many until then");
        busy.answer();
        assert_eq!(first.told(None).now_or_never(), Some(Told::Finish), "it is read");
        first.wait(Awaited::Reader, 0);
        let mut state = connections.state.lock();
        state.close(first.number, after(SLOW_SECONDS + 1));
        drop(state);
        assert!(is_closed(&first), "it is not, for long");
    }

    #[test]
    fn a_connection_that_is_answered_first_and_does_not_read_gives_way_in_the_end() {
        let connections = Connections::new(1, 1);
        let first = admit(&connections, HERE);
        let _second = admit(&connections, HERE);
        let busy = known(&first);
        busy.answer();
        let second = known(&_second);
        first.wait(Awaited::Reader, 0);
        assert!(connections.admit_at(THERE, after(SLOW_SECONDS - 1)).is_none(), "both count");
        assert_eq!(first.told(None).now_or_never(), Some(Told::Finish));
        drop(second);
        assert!(connections.admit_at(THERE, after(SLOW_SECONDS + 1)).is_some());
        assert!(is_closed(&first));
    }

    #[test]
    fn a_body_that_is_worked_on_is_not_waited_for() {
        let connections = Connections::new(1, 1);
        let first = admit(&connections, HERE);
        let busy = known(&first);
        busy.await_body(&mut 0);
        busy.body_is_worked_on();
        assert!(connections.admit_at(THERE, after(3_600)).is_none());
        busy.await_body(&mut 0);
        assert!(connections.admit_at(THERE, after(SLOW_SECONDS + 1)).is_some());
        assert!(is_closed(&first));
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
    fn a_known_callers_short_answer_that_did_not_fit_is_not_idle_until_it_is_written() {
        let connections = Connections::new(1, 1);
        let first = admit(&connections, HERE);
        drop(unread(&first, true));
        first.wait(Awaited::Reader, 0);
        assert!(connections.admit_at(THERE, after(SLOW_SECONDS - 1)).is_none());
        first.go_on(Awaited::Reader);
        assert_eq!(connections.state.lock().all[first.number].waits().map(|(kind, _)| kind), Some(Kind::Kept));
        first.wait(Awaited::Reader, 0);
        assert!(connections.admit_at(THERE, after(SLOW_SECONDS + 1)).is_some());
        assert!(is_closed(&first));
    }

    #[test]
    fn a_body_that_does_not_come_gives_way() {
        let connections = Connections::new(1, 1);
        let first = admit(&connections, HERE);
        let _busy = known(&first);
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
        let busy = unread(&first, true);
        first.wait(Awaited::Body, 0);
        assert!(connections.admit_at(THERE, after(SLOW_SECONDS + 1)).is_some());
        assert!(is_closed(&first));
        drop(busy);
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
        assert!(first.is_ending() && is_closed(&first));
        let busy = first.begin();
        assert_eq!(first.told(None).now_or_never(), Some(Told::Finish));
        busy.answer();
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
            busy.push(known(&places[at]));
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
        assert!(state.all.is_empty() && state.ranks.iter().all(Ranks::is_empty) && state.by_address.is_empty());
        assert!(state.addresses.is_empty() && state.count == 0);
    }

    #[test]
    fn what_is_cut_ends_at_once_whatever_it_does() {
        let connections = Connections::new(2, 2);
        let (first, second) = (admit(&connections, HERE), admit(&connections, HERE));
        let busy = first.begin();
        connections.cut();
        busy.caller_is_known();
        busy.answer();
        assert_eq!([first, second].map(|place| place.told(None).now_or_never()), [Some(Told::Cut); 2]);
    }

    #[tokio::test]
    async fn who_has_no_good_token_and_does_not_read_does_not_hold_up_the_end() {
        let connections = Connections::new(5, 5);
        let [nobodys, short, late, known, idle] = [HERE; 5].map(|address| admit(&connections, address));
        let (busy, early, late_one) = (unread(&known, true), unread(&nobodys, false), late.begin());
        known.wait(Awaited::Reader, 0);
        // What is short is under way no longer, but did not fit beside what its client has not read.
        drop(unread(&short, false));
        short.wait(Awaited::Reader, 0);
        assert!(connections.end().now_or_never().is_none());
        let told = || [&nobodys, &short, &late, &known, &idle].map(|place| place.told(None).now_or_never().unwrap());
        assert_eq!(told(), [Told::End; 5], "it may read it yet");
        connections.close_unread(after(UNREAD_AT_THE_END_SECONDS));
        assert_eq!(told(), [Told::Close, Told::Close, Told::End, Told::End, Told::End]);
        late_one.answer();
        connections.close_unread(after(3_600));
        assert_eq!(
            told(),
            [Told::Close, Told::Close, Told::Close, Told::End, Told::End],
            "how long others may take the settings say"
        );
        drop((early, late_one, busy));
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
