//! A connection's place, the request under way on it, and what it is told.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Poll;

use futures_util::task::AtomicWaker;
use postrider_api::Progress;
use tokio::time::Instant;

use super::entry::{Awaited, Entry};
use super::{Connections, STRANGE_AFTER};

/// What a connection is told. It looks at it whenever it is polled, which is several times for a request.
#[derive(Default)]
pub(super) struct Sign {
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
    pub(super) connections: Arc<Connections>,
    pub(super) number: usize,
    pub(super) sign: Arc<Sign>,
    /// Its last request was turned away.
    pub(super) is_turned_away: AtomicBool,
    /// How many requests without a good token came on it since the last one that had one, up to [`STRANGE_AFTER`].
    pub(super) unknown: AtomicU8,
    /// It ends, and only takes what is left of a body.
    pub(super) says_farewell: AtomicBool,
    /// What was answered is not written yet, because the client does not read, or others write.
    pub(super) is_unwritten: AtomicBool,
}

/// A request under way on a connection.
pub(crate) struct Busy {
    place: Arc<Place>,
    asks_who: AtomicBool,
    is_known: AtomicBool,
    is_answered: AtomicBool,
    /// More of its body is asked for, and has not come.
    awaits_body: AtomicBool,
    /// If it has a body: whether that still comes.
    body_comes: OnceLock<Arc<AtomicBool>>,
}

/// Kept for as long as the body of a request comes, also when that is answered and the rest only thrown away.
pub(crate) struct Receiving {
    comes: Arc<AtomicBool>,
    busy: Weak<Busy>,
    place: Weak<Place>,
}

impl Sign {
    pub(super) fn tell(&self, told: Told) {
        if self.told.swap(told as u8, Ordering::AcqRel) != told as u8 {
            self.waker.wake();
        }
    }

    pub(super) fn told(&self) -> Option<Told> {
        let told = self.told.load(Ordering::Acquire);
        ALL_TOLD.into_iter().find(|known| *known as u8 == told)
    }
}

impl Place {
    fn change(&self, change: impl FnOnce(&mut Entry, Instant)) {
        let (mut state, now) = (self.connections.state.lock(), Instant::now());
        state.change(self.number, now, |entry| change(entry, now));
    }

    /// Whether [`STRANGE_AFTER`] requests in a row had no good token.
    pub(crate) fn is_strange(&self) -> bool {
        self.unknown.load(Ordering::Acquire) >= STRANGE_AFTER
    }

    fn was_used(&self, by_a_known_caller: bool) {
        let before = self.unknown.load(Ordering::Acquire);
        let unknown = if by_a_known_caller { 0 } else { STRANGE_AFTER.min(before + 1) };
        self.unknown.store(unknown, Ordering::Release);
    }

    /// A request has come, up to its body. It is under way until what is returned is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.change(|entry, _| entry.begin());
        let (place, no) = (Arc::clone(self), || AtomicBool::new(false));
        let (asks_who, is_known, is_answered, awaits_body) = (no(), no(), no(), no());
        Busy { place, asks_who, is_known, is_answered, awaits_body, body_comes: OnceLock::new() }
    }

    /// Whether its request is answered, and more of the body comes, which nobody needs.
    pub(crate) fn body_comes(&self) -> bool {
        self.connections.state.lock().all[self.number].body_comes()
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

    /// Notes that the connection ends, and only takes what is left of a body.
    pub(crate) fn say_farewell(&self) {
        self.says_farewell.store(true, Ordering::Release);
    }

    /// Whether it does.
    pub(crate) fn says_farewell(&self) -> bool {
        self.says_farewell.load(Ordering::Acquire)
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

impl Busy {
    /// It has a body, which comes until what is returned is dropped.
    pub(crate) fn receive(self: &Arc<Self>) -> Receiving {
        let comes = Arc::clone(self.body_comes.get_or_init(|| Arc::new(AtomicBool::new(true))));
        Receiving { comes, busy: Arc::downgrade(self), place: Arc::downgrade(&self.place) }
    }

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
            self.place.was_used(is_known);
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

impl Drop for Receiving {
    fn drop(&mut self) {
        self.comes.store(false, Ordering::Release);
        // While the request is under way that makes no difference, and its end looks at it.
        if self.busy.upgrade().is_none()
            && let Some(place) = self.place.upgrade()
        {
            place.change(|_, _| {});
        }
    }
}

impl Progress for Busy {
    fn caller_is_known(&self) -> bool {
        let goes_elsewhere = self.place.is_strange();
        self.is_known.store(true, Ordering::Release);
        self.place.was_used(true);
        if self.asks_who.swap(false, Ordering::AcqRel) {
            self.place.change(|entry, _| entry.asks_who = false);
        }
        goes_elsewhere
    }

    fn body_is_worked_on(&self) {
        self.go_on();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.go_on();
        let (is_answered, body_comes) = (self.is_answered.load(Ordering::Acquire), self.body_comes.take());
        self.place.change(|entry, now| entry.end(is_answered, body_comes, now));
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
