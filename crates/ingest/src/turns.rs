//! Turns: who may have something judged, or something large read or written, next. Environments share the time that this takes, and in
//! each of them its applications: whoever used much waits until the others that want some have had as much ([`shared_time`]). A turn can't
//! be interrupted; so whoever asks for little waits for what is under way, and not for all who ask for much.
//!
//! Whoever has no token shares the time of one caller with all others who have none, and that counts more ([`NO_TOKEN`]).
//!
//! Who may be next is kept in order, so that a turn costs the same however many wait.

mod shared_time;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::ApplicationId;
use postrider_store::ApplicationKey;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::judge::{MAX_WAITING, MAX_WAITING_IN_ALL};
use shared_time::{Bounds, ByKind, Ended, Kind, Member, Nanos, Next, SharedTime, Waits};

postrider_domain::limits! {
    in "Requests";
    /// Of processes that compare payloads, and of large bodies that are read at a time, one part of so many, and at least one if there are two, is kept from those whose turns lately took long
    pub(crate) const KEPT_FOR_SHORT: usize = 4, "parts", beyond "they wait";
    /// A turn is long when it takes so much time
    pub(crate) const LONG_MILLIS: u64 = 20, "ms", beyond "the same";
    /// So much longer than that all turns of an environment may take together that were expected to be short
    pub(crate) const UNEXPECTED_MILLIS: u64 = 2_000, "ms", beyond "all turns of the environment are taken for long until that was long enough ago: it has 1 ms more in each second";
    /// Environments of which is known how much time they used last, while they want none
    pub(crate) const REMEMBERED_ENVIRONMENTS: usize = 256, "environments", beyond "those that used least lately start anew";
    /// And of each of them, applications
    pub(crate) const REMEMBERED_APPLICATIONS: usize = 16, "applications", beyond "the same; what they will take is expected to be what the last took of which nothing was known";
    /// The time of those who have no token counts so many times
    pub(crate) const NO_TOKEN: u64 = 8, "times", beyond "they wait longer than whoever has one";
}

/// A turn takes so long at least, whatever is done in it: somebody has to be woken. So turns that cost nothing are shared, too.
const LEAST: Nanos = 50_000;

/// See [`LONG_MILLIS`].
const LONG: Nanos = LONG_MILLIS * 1_000_000;

/// Who waits for turns: each beside the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Who calls.
    pub caller: Caller,
    /// And whose it is there.
    pub whose: Whose,
}

/// Who shares time with all others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Caller {
    /// Whoever has a token of the environment.
    Environment(EnvironmentId),
    /// Everybody who has none.
    Public,
}

/// What takes turns within that.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Whose {
    /// What concerns all of an environment.
    Environment,
    /// What concerns an application that was found.
    Application(ApplicationKey),
    /// What the tokens of an application ask for.
    Tokens(ApplicationId),
    /// What the operator asks for of the application that he names so.
    Named(Arc<str>),
    /// What an environment has published.
    Published(EnvironmentId),
}

impl Tenant {
    /// What concerns all of an environment.
    pub fn environment(environment: EnvironmentId) -> Self {
        Self { caller: Caller::Environment(environment), whose: Whose::Environment }
    }

    /// Who reads what an environment has published.
    pub fn public(environment: EnvironmentId) -> Self {
        Self { caller: Caller::Public, whose: Whose::Published(environment) }
    }

    /// How often his time counts.
    fn weight(&self) -> u64 {
        match self.caller {
            Caller::Environment(_) => 1,
            Caller::Public => NO_TOKEN,
        }
    }
}

/// Too many wait already.
#[derive(Debug)]
pub(crate) struct Crowded;

pub(crate) struct Turns {
    state: Mutex<State>,
    shares: Shares,
}

/// The most turns at a time.
#[derive(Clone, Copy)]
struct Shares {
    in_all: usize,
    /// Of those that are expected to take long.
    long: usize,
    of_application: usize,
}

struct State {
    taken: usize,
    /// Those of them that were expected to take long.
    taken_long: usize,
    waiting: usize,
    /// Numbers those who come.
    arrivals: u64,
    callers: SharedTime<Caller, Applications>,
}

/// What waits of one caller.
struct Applications {
    waiting: usize,
    applications: SharedTime<Whose, VecDeque<Wait>>,
    unexpected: Unexpected,
    /// All its turns are taken for long.
    is_long: bool,
}

/// How much longer turns took that were expected to be short. Whoever has many applications could have each of them ask for little
/// first, and for much then.
struct Unexpected {
    spent: Nanos,
    at: Instant,
}

impl Unexpected {
    fn new() -> Self {
        Self { spent: 0, at: Instant::now() }
    }

    /// Notes that one took so much longer; whether that makes too much.
    fn note(&mut self, longer: Nanos, now: Instant) -> bool {
        let forgiven = nanos(now.saturating_duration_since(self.at)) / FORGIVEN;
        let most = nanos(Duration::from_millis(UNEXPECTED_MILLIS));
        // One that took very long, because all of the machine stood still, say, is not held against it for a day.
        (self.spent, self.at) = (self.spent.saturating_sub(forgiven).saturating_add(longer).min(2 * most), now);
        self.spent > most
    }
}

/// Of what was unexpected so much is forgiven: one part of the time that passes.
const FORGIVEN: u64 = 1_000;

struct Wait {
    arrival: u64,
    give: oneshot::Sender<Given>,
}

/// What is known of a turn when it is given.
#[derive(Debug, Clone, Copy)]
struct Given {
    at: Instant,
    /// How long it is expected to take by what is known of the application.
    expected: Nanos,
    kind: Kind,
    /// What it would be by that.
    by_itself: Kind,
}

/// A turn; it ends when this is dropped. Whoever works on where nobody can stop him takes it along.
#[must_use]
pub struct Turn {
    turns: Arc<Turns>,
    tenant: Tenant,
    state: Progress,
    /// What it took, if somebody knows better than the clock.
    took: Option<Duration>,
    /// It takes no more than that.
    most: Duration,
}

enum Progress {
    Waits(oneshot::Receiver<Given>),
    Given(Given),
}

impl Turns {
    /// So many at a time.
    pub(crate) fn new(in_all: usize) -> Arc<Self> {
        Self::with(in_all, in_all)
    }

    /// So many at a time, of which those that take long never have all.
    pub(crate) fn for_work(in_all: usize) -> Arc<Self> {
        let kept = (in_all / KEPT_FOR_SHORT).max(1);
        Self::with(in_all, in_all.saturating_sub(kept))
    }

    fn with(in_all: usize, long: usize) -> Arc<Self> {
        let in_all = in_all.max(1);
        let shares = Shares { in_all, long: long.max(1), of_application: (in_all / 4).max(1) };
        let bounds = Bounds { most: (in_all / 2).max(1), remembered: REMEMBERED_ENVIRONMENTS, long: LONG };
        let state = State { taken: 0, taken_long: 0, waiting: 0, arrivals: 0, callers: SharedTime::new(bounds) };
        Arc::new(Self { state: Mutex::new(state), shares })
    }

    /// Waits for a turn.
    pub(crate) async fn take(self: &Arc<Self>, tenant: Tenant) -> Result<Turn, Crowded> {
        let mut turn = self.queue(tenant)?;
        self.give();
        if let Progress::Waits(wait) = &mut turn.state {
            turn.state = Progress::Given(wait.await.map_err(|_| Crowded)?);
        }
        Ok(turn)
    }

    fn queue(self: &Arc<Self>, tenant: Tenant) -> Result<Turn, Crowded> {
        let wait = self.state.lock().queue(&tenant, self.shares)?;
        Ok(Turn { turns: Arc::clone(self), tenant, state: Progress::Waits(wait), took: None, most: Duration::MAX })
    }

    /// Gives turns while there are any.
    fn give(&self) {
        let (mut state, now) = (self.state.lock(), Instant::now());
        while state.taken < self.shares.in_all && state.give_next(self.shares, now) {}
    }

    fn end(&self, tenant: &Tenant, given: Given, took: Option<Duration>, most: Duration) {
        let cost = nanos(took.unwrap_or_else(|| given.at.elapsed()).min(most)).saturating_add(LEAST);
        self.state.lock().end(tenant, given, cost, self.shares);
        self.give();
    }
}

fn nanos(time: Duration) -> Nanos {
    Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX)
}

impl State {
    fn queue(&mut self, tenant: &Tenant, shares: Shares) -> Result<oneshot::Receiver<Given>, Crowded> {
        let of_others = self.waiting - self.callers.get(&tenant.caller).map_or(0, |one| one.waiting.waiting);
        let arrival = self.arrivals;
        self.arrivals += 1;
        let result = self.callers.change(
            &tenant.caller,
            || Applications::new(shares),
            |caller| {
                let caller = &mut caller.waiting;
                caller.is_long = caller.unexpected.note(0, Instant::now());
                // However many take all that they may, there is room for one more.
                if caller.waiting >= (MAX_WAITING_IN_ALL - of_others) / 2 {
                    return Err(Crowded);
                }
                let queue = |application: &mut Member<VecDeque<Wait>>| {
                    if application.waiting.len() >= MAX_WAITING {
                        return Err(Crowded);
                    }
                    let (give, wait) = oneshot::channel();
                    application.waiting.push_back(Wait { arrival, give });
                    Ok(wait)
                };
                caller.applications.change(&tenant.whose, VecDeque::new, queue).inspect(|_| caller.waiting += 1)
            },
        );
        self.waiting += usize::from(result.is_ok());
        result
    }

    /// Gives a turn to whoever is next; `false` if nobody is.
    fn give_next(&mut self, shares: Shares, at: Instant) -> bool {
        let Some((next, kind)) = self.callers.next(self.taken_long >= shares.long) else { return false };
        self.waiting -= 1;
        let begun = self.callers.change(
            &next,
            || Applications::new(shares),
            |caller| {
                let expected = caller.waiting.give(kind, at)?;
                Some(caller.begin(kind, expected))
            },
        );
        if let Some(used) = begun {
            self.callers.begun(used);
            self.taken += 1;
            self.taken_long += usize::from(kind == Kind::Long);
        }
        true
    }

    fn end(&mut self, tenant: &Tenant, given: Given, cost: Nanos, shares: Shares) {
        self.taken -= 1;
        self.taken_long -= usize::from(given.kind == Kind::Long);
        self.callers.done(cost);
        let Given { at, kind, by_itself, expected } = given;
        let ended = Ended { at, kind, expected, cost: cost.saturating_mul(tenant.weight()) };
        let longer = if kind == Kind::Short { cost.saturating_sub(LONG) } else { 0 };
        let new = || Applications::new(shares);
        self.callers.change(&tenant.caller, new, |caller| {
            let caller = &mut caller.waiting;
            caller.is_long = caller.unexpected.note(longer, Instant::now());
            caller.applications.done(ended.cost);
            caller.applications.ended(&tenant.whose, VecDeque::new, Ended { kind: by_itself, ..ended });
        });
        self.callers.ended(&tenant.caller, new, ended);
    }
}

impl Applications {
    fn new(shares: Shares) -> Self {
        let bounds = Bounds { most: shares.of_application, remembered: REMEMBERED_APPLICATIONS, long: LONG };
        Self { waiting: 0, applications: SharedTime::new(bounds), unexpected: Unexpected::new(), is_long: false }
    }

    /// Gives a turn to whoever is next of those who wait for one of a kind; says what it is expected to take. `None` if he does not wait
    /// any more.
    fn give(&mut self, kind: Kind, at: Instant) -> Option<Nanos> {
        let (next, by_itself) = if self.is_long {
            self.applications.next(false)?
        } else {
            (self.applications.next_of(kind)?.clone(), kind)
        };
        let expected = self.applications.firsts()[by_itself as usize]?.expected;
        self.waiting -= 1;
        let used = self.applications.change(&next, VecDeque::new, |application| {
            let given = Given { at, expected, kind, by_itself };
            application.waiting.pop_front()?.give.send(given).ok()?;
            Some(application.begin(by_itself, expected))
        })?;
        self.applications.begun(used);
        Some(expected)
    }
}

impl Waits for Applications {
    fn next(&self, _: Nanos, _: Kind) -> ByKind<Option<Next>> {
        let firsts = self.applications.firsts();
        if !self.is_long {
            return firsts;
        }
        let first = self.applications.next(false).and_then(|(_, kind)| firsts[kind as usize]);
        [None, first]
    }

    fn is_empty(&self) -> bool {
        self.waiting == 0
    }
}

impl Waits for VecDeque<Wait> {
    fn next(&self, expected: Nanos, kind: Kind) -> ByKind<Option<Next>> {
        let next = self.front().map(|wait| Next { arrival: wait.arrival, expected });
        match kind {
            Kind::Short => [next, None],
            Kind::Long => [None, next],
        }
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl Turn {
    /// It took so much time of a processor, however long that was by the clock.
    pub fn took(&mut self, time: Duration) {
        self.took = Some(time);
    }

    /// It takes so much time of a processor at most, whatever becomes of it. What is longer by the clock was waited for one.
    pub(crate) fn takes_at_most(&mut self, most: Duration) {
        self.most = most;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // One that was given counts, also if nobody looked.
        let given = match &mut self.state {
            Progress::Given(given) => Some(*given),
            Progress::Waits(wait) => {
                wait.close();
                wait.try_recv().ok()
            }
        };
        if let Some(given) = given {
            self.turns.end(&self.tenant, given, self.took, self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn tenant(environment: &str, application: i64) -> Tenant {
        let environment = EnvironmentId::parse(&format!("org_{environment}")).unwrap();
        Tenant { caller: Caller::Environment(environment), whose: Whose::Application(ApplicationKey(application)) }
    }

    #[tokio::test(start_paused = true)]
    async fn an_environment_never_has_more_than_half_of_the_turns_as_long_as_they_are_short() {
        let turns = Turns::new(4);
        let (_a, _b) = (turns.take(tenant("a", 1)).await.unwrap(), turns.take(tenant("a", 2)).await.unwrap());
        let mut third = Box::pin(turns.take(tenant("a", 3)));
        assert!(third.as_mut().now_or_never().is_none());
        assert!(turns.take(tenant("b", 4)).now_or_never().is_some());
        drop(_a);
        assert!(third.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_behind_a_thousand_of_another_environment_is_next() {
        let turns = Turns::new(1);
        let first = turns.take(tenant("a", 1)).await.unwrap();
        let mut many: Vec<_> = (0..1_000).map(|n| Box::pin(turns.take(tenant("a", n)))).collect();
        many.iter_mut().for_each(|one| assert!(one.as_mut().now_or_never().is_none()));
        let mut other = Box::pin(turns.take(tenant("b", 1)));
        assert!(other.as_mut().now_or_never().is_none());
        drop(first);
        assert!(other.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_takes_no_turn() {
        let turns = Turns::new(1);
        let first = turns.take(tenant("a", 1)).await.unwrap();
        let mut given_up = Box::pin(turns.take(tenant("b", 1)));
        assert!(given_up.as_mut().now_or_never().is_none());
        drop(given_up);
        let mut given_unseen = Box::pin(turns.take(tenant("c", 1)));
        assert!(given_unseen.as_mut().now_or_never().is_none());
        drop(first);
        drop(given_unseen);
        assert!(turns.take(tenant("d", 1)).now_or_never().is_some());
        let state = turns.state.lock();
        assert_eq!((state.taken, state.waiting, state.callers.is_idle()), (0, 0, true));
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_does_not_queue_without_end() {
        let turns = Turns::new(1);
        let _first = turns.take(tenant("a", 1)).await.unwrap();
        let mut many: Vec<_> = (0..MAX_WAITING).map(|_| Box::pin(turns.take(tenant("a", 1)))).collect();
        many.iter_mut().for_each(|one| assert!(one.as_mut().now_or_never().is_none()));
        assert!(matches!(turns.take(tenant("a", 1)).now_or_never(), Some(Err(Crowded))));
    }

    #[tokio::test(start_paused = true)]
    async fn one_environment_does_not_fill_the_queue_for_others() {
        let turns = Turns::new(1);
        let _first = turns.take(tenant("a", 1)).await.unwrap();
        let mut many = Vec::new();
        for environment in ["a", "b"] {
            loop {
                let mut one = Box::pin(turns.take(tenant(environment, (many.len() / MAX_WAITING) as i64)));
                match one.as_mut().now_or_never() {
                    None => many.push(one),
                    Some(refused) => break assert!(refused.is_err()),
                }
            }
        }
        assert!(many.len() < MAX_WAITING_IN_ALL);
        let mut other = Box::pin(turns.take(tenant("c", 1)));
        assert!(other.as_mut().now_or_never().is_none(), "it waits");
        drop(_first);
        let given = other.now_or_never();
        assert!(given.is_none(), "another came before");
        drop(many);
        assert_eq!(turns.state.lock().taken, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_and_goes_does_not_hold_up_who_waits() {
        let turns = Turns::new(1);
        let first = turns.take(tenant("z", 1)).await.unwrap();
        let mut waits = Box::pin(turns.take(tenant("z", 2)));
        assert!(waits.as_mut().now_or_never().is_none());
        let mut last = first;
        for fresh in 100..200 {
            let mut comes = Box::pin(turns.take(tenant("a", fresh)));
            assert!(comes.as_mut().now_or_never().is_none());
            drop(last);
            if let Some(given) = waits.as_mut().now_or_never() {
                assert!(given.is_ok() && fresh < 103);
                return;
            }
            last = comes.now_or_never().unwrap().unwrap();
        }
        panic!("it is never its turn");
    }

    /// Takes turns of so long, one after the other, over so many connections.
    fn keeps_asking(turns: &Arc<Turns>, tenant: &Tenant, connections: usize, cost: Duration) {
        for _ in 0..connections {
            let (turns, tenant) = (Arc::clone(turns), tenant.clone());
            tokio::spawn(async move {
                while let Ok(turn) = turns.take(tenant.clone()).await {
                    tokio::time::sleep(cost).await;
                    drop(turn);
                }
            });
        }
    }

    /// The longest wait of a tenant for turns of a tenth of a millisecond, sixty times a second for ten seconds. By then it is known how long the turns of the
    /// others are.
    async fn longest_wait(turns: &Arc<Turns>, tenant: Tenant) -> Duration {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let mut longest = Duration::ZERO;
        for _ in 0..600 {
            tokio::time::sleep(Duration::from_millis(16)).await;
            let asked = Instant::now();
            let turn = turns.take(tenant.clone()).await.unwrap();
            longest = longest.max(asked.elapsed());
            tokio::time::sleep(Duration::from_micros(100)).await;
            drop(turn);
        }
        longest
    }

    const LONG: Duration = Duration::from_millis(200);

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_little_waits_for_one_long_turn_however_many_take_long_ones() {
        for heavy in [1, 2, 4, 12] {
            for connections in [1, 4, 50] {
                let turns = Turns::for_work(1);
                for number in 0..heavy {
                    keeps_asking(&turns, &tenant(&format!("heavy{number}"), 1), connections, LONG);
                }
                let waited = longest_wait(&turns, tenant("light", 1)).await;
                assert!(waited <= LONG + Duration::from_millis(2), "{heavy} by {connections}: {waited:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn where_there_are_two_turns_those_that_take_long_leave_one() {
        let turns = Turns::for_work(2);
        for number in 0..4 {
            keeps_asking(&turns, &tenant(&format!("heavy{number}"), 1), 8, LONG);
        }
        let waited = longest_wait(&turns, tenant("light", 1)).await;
        assert!(waited < Duration::from_millis(2), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn so_it_is_among_the_applications_of_an_environment() {
        let turns = Turns::for_work(1);
        for number in 0..5 {
            keeps_asking(&turns, &tenant("one", number), 4, LONG);
        }
        let waited = longest_wait(&turns, tenant("one", 99)).await;
        assert!(waited <= LONG + Duration::from_millis(2), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn where_there_are_two_turns_long_ones_of_an_application_leave_one_for_others_of_its_environment() {
        for heavy in [1, 3] {
            let turns = Turns::for_work(2);
            for number in 0..heavy {
                keeps_asking(&turns, &tenant("one", number), 8, LONG);
            }
            keeps_asking(&turns, &tenant("another", 1), 8, LONG);
            drop(turns.take(tenant("one", 99)).await.unwrap());
            let waited = longest_wait(&turns, tenant("one", 99)).await;
            assert!(waited < Duration::from_millis(2), "{heavy}: {waited:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_very_many_applications_those_that_ask_seldom_do_not_pay_for_one_that_takes_long() {
        let turns = Turns::for_work(2);
        keeps_asking(&turns, &tenant("one", 0), 8, LONG);
        tokio::time::sleep(Duration::from_secs(60)).await;
        // The one before was long, so this is expected to be.
        drop(turns.take(tenant("one", 1)).await.unwrap());
        let mut longest = Duration::ZERO;
        for seldom in 0..2_000 {
            tokio::time::sleep(Duration::from_millis(16)).await;
            let asked = Instant::now();
            let turn = turns.take(tenant("one", 1_000 + seldom % 200)).await.unwrap();
            longest = longest.max(asked.elapsed());
            tokio::time::sleep(Duration::from_micros(100)).await;
            drop(turn);
        }
        assert!(longest < Duration::from_millis(2), "{longest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn short_turns_for_half_a_minute_do_not_make_the_next_long_ones_short() {
        let turns = Turns::for_work(2);
        for number in 0..4 {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move {
                for count in 0_u64.. {
                    let Ok(turn) = turns.take(tenant(&format!("heavy{number}"), 1)).await else { return };
                    tokio::time::sleep(if count % 300 == 0 { LONG } else { Duration::from_millis(1) }).await;
                    drop(turn);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        }
        let waited = longest_wait(&turns, tenant("light", 1)).await;
        assert!(waited < Duration::from_millis(3), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn applications_that_asked_for_little_before_do_not_hide_what_they_take_now() {
        let turns = Turns::for_work(2);
        for operator in 0..3 {
            for connection in 0..12 {
                let turns = Arc::clone(&turns);
                tokio::spawn(async move {
                    for round in 0.. {
                        // Another application each time, which had something little before.
                        let heavy = tenant(&format!("heavy{operator}"), connection + 12 * (round % 33));
                        for cost in [Duration::from_micros(100), LONG] {
                            let turn = turns.take(heavy.clone()).await.unwrap();
                            tokio::time::sleep(cost).await;
                            drop(turn);
                        }
                    }
                });
            }
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        let waited = longest_wait(&turns, tenant("light", 1)).await;
        assert!(waited < Duration::from_millis(2), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_unexpected_now_and_then_is_forgiven() {
        let mut unexpected = Unexpected::new();
        for _ in 0..1_000 {
            tokio::time::advance(Duration::from_secs(10)).await;
            assert!(!unexpected.note(9_000_000, Instant::now()));
        }
        assert!((0..30).any(|_| unexpected.note(100_000_000, Instant::now())));
        assert!(unexpected.note(60_000_000_000, Instant::now()));
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert!(!unexpected.note(0, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_processor_in_his_turn_is_not_taken_for_one_who_takes_long() {
        let turns = Turns::for_work(2);
        for number in 0..4 {
            keeps_asking(&turns, &tenant(&format!("heavy{number}"), 1), 4, LONG);
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        drop(turns.take(tenant("light", 1)).await.unwrap());
        let mut longest = Duration::ZERO;
        for _ in 0..600 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let asked = Instant::now();
            let mut turn = turns.take(tenant("light", 1)).await.unwrap();
            longest = longest.max(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(50)).await;
            turn.took(Duration::from_micros(100));
            drop(turn);
        }
        assert!(longest < Duration::from_millis(2), "{longest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_are_new_each_time_do_not_hide_what_their_environment_takes() {
        let turns = Turns::for_work(1);
        for environment in ["a", "b", "c"] {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move {
                for number in 0.. {
                    let turn = turns.take(tenant(environment, number)).await.unwrap();
                    tokio::time::sleep(LONG).await;
                    drop(turn);
                }
            });
        }
        let waited = longest_wait(&turns, tenant("light", 1)).await;
        assert!(waited <= LONG + Duration::from_millis(2), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn very_many_short_turns_do_not_make_the_next_long_one_short() {
        let turns = Turns::for_work(2);
        for number in 0..2 {
            for _ in 0..4 {
                let (turns, heavy) = (Arc::clone(&turns), tenant(&format!("heavy{number}"), 1));
                tokio::spawn(async move {
                    for count in 0_u64.. {
                        let Ok(turn) = turns.take(heavy.clone()).await else { return };
                        let cost = if count % 40 == 0 { LONG } else { Duration::from_micros(100) };
                        tokio::time::sleep(cost).await;
                        drop(turn);
                    }
                });
            }
        }
        let waited = longest_wait(&turns, tenant("light", 1)).await;
        assert!(waited < Duration::from_millis(2), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_waited_for_nothing_for_long_has_not_saved_anything_up() {
        let turns = Turns::for_work(1);
        keeps_asking(&turns, &tenant("busy", 1), 4, LONG);
        tokio::time::sleep(Duration::from_secs(600)).await;
        // Whoever comes now takes as long turns.
        keeps_asking(&turns, &tenant("late", 1), 4, LONG);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let asked = Instant::now();
        for _ in 0..5 {
            let turn = turns.take(tenant("busy", 2)).await.unwrap();
            drop(turn);
        }
        assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_long_gets_as_much_time_as_another_who_does() {
        let turns = Turns::for_work(1);
        let taken = [20, 200].map(|millis| {
            let (turns, count) = (Arc::clone(&turns), Arc::new(std::sync::atomic::AtomicU64::new(0)));
            let counted = Arc::clone(&count);
            for _ in 0..4 {
                let (turns, counted) = (Arc::clone(&turns), Arc::clone(&counted));
                tokio::spawn(async move {
                    while let Ok(turn) = turns.take(tenant(&format!("e{millis}"), 1)).await {
                        tokio::time::sleep(Duration::from_millis(millis)).await;
                        drop(turn);
                        counted.fetch_add(millis, std::sync::atomic::Ordering::Relaxed);
                    }
                });
            }
            count
        });
        tokio::time::sleep(Duration::from_secs(100)).await;
        let [short, long] = taken.map(|count| count.load(std::sync::atomic::Ordering::Relaxed));
        assert!(short.abs_diff(long) <= 2_000, "{short} and {long} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_no_token_is_one_caller_and_behind_those_who_have_one() {
        let turns = Turns::for_work(1);
        for number in 0..4 {
            let environment = EnvironmentId::parse(&format!("org_published{number}")).unwrap();
            keeps_asking(&turns, &Tenant::public(environment), 4, Duration::from_millis(40));
        }
        let environment = EnvironmentId::parse("org_published0").unwrap();
        let waited =
            longest_wait(&turns, Tenant { caller: Caller::Environment(environment), whose: Whose::Environment });
        assert!(waited.await <= Duration::from_millis(42));
        // One whose turns are long, too, has most of the time.
        let turns = Turns::for_work(1);
        for number in 0..4 {
            let environment = EnvironmentId::parse(&format!("org_published{number}")).unwrap();
            keeps_asking(&turns, &Tenant::public(environment), 4, Duration::from_millis(40));
        }
        let begun = Instant::now();
        for _ in 0..100 {
            let turn = turns.take(tenant("own", 1)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(40)).await;
            drop(turn);
        }
        assert!(begun.elapsed() < Duration::from_millis(8_500), "{:?}", begun.elapsed());
    }
}
