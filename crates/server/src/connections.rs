//! The connections of callers: how many there may be, in all and from one address, and which of them goes when there are
//! too many.
//!
//! A connection is closed for another only where that undoes nothing that its caller could count on. Of the connections of one
//! address they go in this order ([`ORDER`]), and of each kind the one that has been so for longest:
//!
//! 1. A caller without a good token was answered. Whether, and how, he reads that makes no difference: a byte now and then makes the
//!    connection no younger. Or no request came on it yet, for [`NEW_SECONDS`] already. So is it with one who has as many
//!    requests under way as he may have, and was told so. And so is it with any request that was answered before its body had come, until
//!    that has: it has no place among the requests under way any more, and what still comes is thrown away. Its client gets the answer all
//!    the same: what comes is read for [`FAREWELL_SECONDS`], as in 5.
//! 2. A known caller's body that does not come, for [`LATE_SECONDS`] already, where one before it on the same connection was as late.
//!    Half of how late a client was is forgiven with each request: whoever is late once and then sends promptly is not late.
//! 3. It has nothing to do, for [`KEPT_SECONDS`] already; its last request was a known caller's.
//! 4. A request whose body does not come, or an answer to a known caller that is not read: for [`SLOW_SECONDS`] already, where
//!    [`PACE_BYTES`] that come or are read make up for a second. Who keeps that pace is never closed for another.
//! 5. A request whose caller is not known yet. It is answered at once that there is no room, and its connection ends: nothing was
//!    done for it that anybody would miss. If more of its body comes, that is read for [`FAREWELL_SECONDS`], so that its client gets the
//!    answer, and does not count.
//! 6. It is new, and no request came yet.
//! 7. A known caller's request on it was just answered. So whoever has requests of nobody on all connections that he can get does not
//!    end those that known callers use from the same address. But it goes before the fifth and the sixth while there are few of these
//!    ([`COMING_PERCENT`]): it has no place among the requests under way any more, so one caller may have all that there are, use each now
//!    and then, and make room for his next one, of which it is known at once whose it is, by those of others.
//!
//! Of several addresses the kind decides first: what is nobody's (1) goes before all others, whatever addresses they are of; otherwise
//! quiet connections from many addresses would end those of a busy one, which has more than each of them: those that known callers keep,
//! those of who comes anew, and requests whose caller is not known yet, which may be those of known callers, too, while they are looked
//! up. If several addresses have some, the one that has most connections gives it; if there is none, then one of the second kind, then one
//! of the third, and then one of the fourth.
//!
//! Only then it matters who has more. If one of the fifth, sixth or seventh comes from an address that has more than that of the third or
//! fourth, it goes instead: otherwise requests with keys that nobody knows, on all connections of an address, would keep everybody else
//! out. And one of the seventh goes instead of one of the sixth: those who come anew have to get their request through, and if all are in
//! use by one address, that has more.
//!
//! The request of a known caller is answered first: also one that comes in the instant in which its connection is chosen, but for one that
//! was sent ahead and waits for the turn of its connection: that one has not begun, and can be sent again. Such a
//! connection counts again until it may be closed, so that there is one too many for as long; what is too many is closed
//! before the next one is let in, and if nothing may be closed, nothing is let in.

mod entry;
mod place;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8};
use std::time::Duration;

use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use entry::Awaited;
use entry::{Client, Entry, KINDS, Kind};
use place::Sign;
pub(crate) use place::{Busy, Place, Receiving, Told};

postrider_domain::limits! {
    in "Connections of callers";
    /// Connections
    setting "server.max_connections", beyond "one that was last used without a good token, or whose request was answered before its body came, or on which no request comes, is closed: of the address with most connections, the one for which that is true for longest; only if there is none, one of a client that is late again with a body, then one that a known caller leaves idle, and then a slow one; if there is none of these, or its address has fewer, one whose request has no known caller yet, which is answered 503, or one that is new; what a known caller has just used goes after all that is nobody's, but for a few that are new or whose caller is not known yet; if there is none, the new one is answered 503";
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
    /// A known caller's body that does not come, where one before it on the same connection was as late, before its connection may be closed for another
    pub(crate) const LATE_SECONDS: u64 = 1, "seconds", beyond "it goes after what is nobody's, and before what known callers leave idle";
    /// While connections are short, how many gave way or were refused is logged so often
    pub(crate) const SHORTAGE_SECONDS: u64 = 60, "seconds", beyond "the next time, what came meanwhile is counted, too";
    /// A connection without a request, before it may be closed for another
    pub(crate) const NEW_SECONDS: u64 = 1, "seconds", beyond "it goes before what known callers use, and requests whose callers are not known yet; until then after those";
    /// An idle one whose last request was a known caller's
    pub(crate) const KEPT_SECONDS: u64 = 10, "seconds", beyond "it goes after what is nobody's, and before slow ones; until then after all others";
    /// Those on which no request came yet, and as many again whose request has no known caller yet, that are spared while another may go that a known caller has just used; in percent of all that there may be, and of those that there may be from one address
    pub(crate) const COMING_PERCENT: usize = 6, "%", beyond "they go before what a known caller has just used";
    /// Connections that end, after their request was turned away or answered, when its body has come; beside those that count
    pub(crate) const MAX_FAREWELLS: usize = 16, "connections", beyond "closed at once, and a client that still sends may not get its answer";
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
    /// Requests in a row without a good token, after which a connection is carried by a thread for such connections
    pub(crate) const STRANGE_AFTER: u8 = 3, "requests", beyond "it gives way to others, until one has a good token";
    /// What it may write in a turn
    pub(crate) const TURN_BYTES: usize = 32_768, "bytes", beyond "it waits for its next turn";
    /// Connections that have a turn at the same time
    pub(crate) const MAX_TURNS: usize = 8, "turns", beyond "others wait in a line, first come, first served";
}

const SLOW: Duration = Duration::from_secs(SLOW_SECONDS);

const LATE: Duration = Duration::from_secs(LATE_SECONDS);

/// Between two entries in the log about connections that are short.
pub(crate) const SHORTAGE: Duration = Duration::from_secs(SHORTAGE_SECONDS);

const UNREAD_AT_THE_END: Duration = Duration::from_secs(UNREAD_AT_THE_END_SECONDS);

/// A reason for which a connection may be closed for another, when it has been there for so long.
type Step = (Kind, Duration);

/// What is nobody's is closed first: nothing is lost by it.
const NOBODYS: [Step; 2] = [(Kind::Done, Duration::ZERO), (Kind::New, Duration::from_secs(NEW_SECONDS))];

/// Whoever is late with a body, and was so before, goes then.
const LATELY: Step = (Kind::Late, LATE);

/// What a known caller used is closed then.
const KEPT: Step = (Kind::Kept, Duration::from_secs(KEPT_SECONDS));

/// And then what one keeps waiting.
const SLOWLY: Step = (Kind::Slow, SLOW);

/// Who comes with a request is closed when there is none of these, or for an address that has more connections.
const COMING: [Step; 2] = [(Kind::Unknown, Duration::ZERO), (Kind::New, Duration::ZERO)];

/// What a known caller has just used goes last.
const USED: Step = (Kind::Kept, Duration::ZERO);

/// How the connections of one address go, before those who come and what a known caller has just used.
const ORDER: [Step; 5] = [NOBODYS[0], NOBODYS[1], LATELY, KEPT, SLOWLY];

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
    /// Those that may be closed, by [`Kind`].
    of_kind: [usize; KINDS],
    /// So many of a kind that come are few.
    few: usize,
    /// So many of one address are.
    few_of_address: usize,
    /// The addresses that have one that may be closed, by [`Kind`].
    ranks: [Ranks; KINDS],
    shortage: Shortage,
}

/// What is to be said of connections that are short.
#[derive(Debug, Default)]
struct Shortage {
    counts: Short,
    /// When it was said last.
    told: Option<Instant>,
}

/// How many gave way to others, and how many were refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Short {
    gave_way: u64,
    refused: u64,
}

impl Shortage {
    /// What there is to say, if nothing was said for long enough.
    fn take(&mut self, now: Instant) -> Option<Short> {
        let is_due = self.told.is_none_or(|told| has_been(told, now, SHORTAGE));
        if !is_due || self.counts == Short::default() {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.counts))
    }
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

impl Connections {
    pub(crate) fn new(most: u32, most_per_address: u32) -> Arc<Self> {
        let (most, most_per_address) = (most.max(1) as usize, most_per_address.max(1) as usize);
        let [few, few_of_address] = [most, most_per_address].map(|of| of * COMING_PERCENT / 100);
        let state = Mutex::new(State { few, few_of_address, ..State::default() });
        Arc::new(Self { state, most, most_per_address, gone: Notify::new() })
    }

    /// A place for a new connection, for which another one may be closed; `None` if there is none that may.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        self.admit_at(address, Instant::now())
    }

    fn admit_at(self: &Arc<Self>, address: IpAddr, now: Instant) -> Option<Place> {
        let mut state = self.state.lock();
        let has_room = state.make_room(network(address), self.most, self.most_per_address, now);
        if !has_room {
            state.shortage.counts.refused += 1;
        }
        let short = state.shortage.take(now);
        let inserted = has_room.then(|| state.insert(network(address), now));
        drop(state);
        self.log(short);
        let (number, sign) = inserted?;
        let connections = Arc::clone(self);
        let [is_turned_away, says_farewell, is_unwritten] = [false; 3].map(AtomicBool::new);
        let unknown = AtomicU8::new(0);
        Some(Place { connections, number, sign, is_turned_away, unknown, says_farewell, is_unwritten })
    }

    /// Says how many connections gave way to others or were refused, if that was not said for a while.
    pub(crate) fn tell_shortage(&self) {
        let short = self.state.lock().shortage.take(Instant::now());
        self.log(short);
    }

    fn log(&self, short: Option<Short>) {
        if let Some(Short { gave_way, refused }) = short {
            let (most, most_per_address) = (self.most, self.most_per_address);
            tracing::warn!(
                gave_way,
                refused,
                most,
                most_per_address,
                "connections are short: some give way to others, or are refused"
            );
        }
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
            if let Some((Kind::Done, since)) = entry.waits()
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

    /// Which of its connections goes for another. So many that come are few.
    fn to_close(&self, few: usize, now: Instant) -> Option<usize> {
        let many = COMING.into_iter().filter(|(kind, _)| self.waiting[*kind as usize].len() > few);
        let order = ORDER.into_iter().chain(many).chain([USED]).chain(COMING);
        order.into_iter().find_map(|step| self.first(step, now))
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
    /// Closes what has to be closed for a new connection; `false` if there is nothing that may be.
    fn make_room(&mut self, address: IpAddr, most: usize, most_per_address: usize, now: Instant) -> bool {
        if let Some(known) = self.by_address.get(&address).copied() {
            while self.addresses[known].count >= most_per_address {
                let Some(given) = self.addresses[known].to_close(self.few_of_address, now) else { return false };
                self.close(given, now);
            }
        }
        while self.count >= most {
            let Some(given) = self.to_close(now) else { return false };
            self.close(given, now);
        }
        true
    }

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
            body_comes: None,
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
            self.recount(before, waits);
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

    fn recount(&mut self, before: Option<(Kind, Instant)>, after: Option<(Kind, Instant)>) {
        if let Some((kind, _)) = before {
            self.of_kind[kind as usize] -= 1;
        }
        if let Some((kind, _)) = after {
            self.of_kind[kind as usize] += 1;
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
        let first = self.first_of(NOBODYS, now).or_else(|| self.first_of([LATELY], now));
        let (_, number) = first.or_else(|| self.first_of_known(now))?;
        Some(number)
    }

    /// Which goes if none is nobody's, and how many its address has.
    fn first_of_known(&self, now: Instant) -> Option<(usize, usize)> {
        let first = self.first_of([KEPT], now).or_else(|| self.first_of([SLOWLY], now));
        most(first.into_iter().chain(self.last(now)))
    }

    /// Which goes if none has been so for long enough, and how many its address has.
    fn last(&self, now: Instant) -> Option<(usize, usize)> {
        let used = self.first_of([USED], now);
        let is_spared = |kind: Kind| used.is_some() && self.of_kind[kind as usize] <= self.few;
        let [unknown, new] = COMING.map(|step| self.first_of([step], now).filter(|_| !is_spared(step.0)));
        let comes = most(unknown.into_iter().chain(new));
        // Whoever comes anew has nothing to be known by yet; a request that gives way can be made again.
        let is_new_of_few = comes == new && new.zip(used).is_some_and(|((new, _), (used, _))| used > new);
        if is_new_of_few { used } else { comes.or(used) }
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
        self.shortage.counts.gave_way += 1;
        self.tell(number, Told::Refuse, now);
    }

    /// Tells a connection that goes for another how it is to end, by what it waits for now and was told before. It does not count
    /// any more, because it is about to be gone; unless a request is to be answered first.
    fn tell(&mut self, number: usize, before: Told, now: Instant) {
        let entry = &self.all[number];
        let told = match entry.waits() {
            Some((Kind::Done | Kind::New | Kind::Kept, _)) => Told::Close,
            Some((Kind::Slow, since)) if is_slow(since, now) => Told::Close,
            Some((Kind::Late, since)) if has_been(since, now, LATE) => Told::Close,
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
        self.recount(waits, None);
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

/// What counts as one address: whoever has an IPv6 address has all of its network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests;
