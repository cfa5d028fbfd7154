//! Turns: who may have something judged, or something large read or written, next. The environment that had its last turn
//! longest ago comes first, and in it the application that did; so whoever asks for much waits behind whoever asks for little.
//! Whoever comes anew is before the one that had the very last turn, and behind all others that wait: coming and going gains
//! nothing.
//!
//! Who may be next is kept in order, so that a turn costs the same however many wait.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::ApplicationId;
use postrider_store::ApplicationKey;
use tokio::sync::oneshot;

use crate::judge::{MAX_WAITING, MAX_WAITING_IN_ALL};

/// Who waits for turns: each beside the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// The environment.
    pub environment: EnvironmentId,
    /// And whose it is there.
    pub whose: Whose,
}

/// What takes turns within an environment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Whose {
    /// What concerns all of it.
    Environment,
    /// What concerns an application that was found.
    Application(ApplicationKey),
    /// What the tokens of an application ask for.
    Tokens(ApplicationId),
    /// What the operator asks for of the application that he names so.
    Named(Arc<str>),
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
    of_environment: usize,
    of_application: usize,
}

#[derive(Default)]
struct State {
    taken: usize,
    waiting: usize,
    /// Counts turns.
    turn: u64,
    /// Those that have a turn, or wait for one.
    environments: HashMap<EnvironmentId, Environment, foldhash::fast::RandomState>,
    /// Those that may be given a turn, in order.
    ready: BTreeSet<(u64, EnvironmentId)>,
}

struct Environment {
    taken: usize,
    waiting: usize,
    /// Its place in the order.
    rank: u64,
    applications: HashMap<Whose, Application, foldhash::fast::RandomState>,
    /// Those that may be given a turn, in order.
    ready: BTreeSet<(u64, Whose)>,
}

struct Application {
    taken: usize,
    rank: u64,
    waiting: VecDeque<oneshot::Sender<()>>,
}

/// A turn; it ends when this is dropped. Whoever works on where nobody can stop him takes it along.
#[must_use]
pub struct Turn {
    turns: Arc<Turns>,
    tenant: Tenant,
    /// Whether it was given yet.
    wait: Option<oneshot::Receiver<()>>,
}

impl Turns {
    /// So many at a time.
    pub(crate) fn new(in_all: usize) -> Arc<Self> {
        let in_all = in_all.max(1);
        let shares = Shares { in_all, of_environment: (in_all / 2).max(1), of_application: (in_all / 4).max(1) };
        Arc::new(Self { state: Mutex::default(), shares })
    }

    /// Waits for a turn.
    pub(crate) async fn take(self: &Arc<Self>, tenant: Tenant) -> Result<Turn, Crowded> {
        let mut turn = self.queue(tenant)?;
        self.give();
        if let Some(wait) = &mut turn.wait {
            wait.await.map_err(|_| Crowded)?;
            turn.wait = None;
        }
        Ok(turn)
    }

    fn queue(self: &Arc<Self>, tenant: Tenant) -> Result<Turn, Crowded> {
        let wait = self.state.lock().queue(&tenant, self.shares)?;
        Ok(Turn { turns: Arc::clone(self), tenant, wait: Some(wait) })
    }

    /// Gives turns while there are any.
    fn give(&self) {
        let mut state = self.state.lock();
        while state.taken < self.shares.in_all && state.give_next(self.shares) {}
    }

    fn end(&self, tenant: &Tenant) {
        self.state.lock().end(tenant, self.shares);
        self.give();
    }
}

impl State {
    /// The place of whoever comes anew: before the last turn, behind those before it.
    fn newcomer(&self) -> u64 {
        (2 * self.turn).saturating_sub(1)
    }

    /// The place of whoever has just been given a turn.
    fn served(&self) -> u64 {
        2 * self.turn
    }

    fn queue(&mut self, tenant: &Tenant, shares: Shares) -> Result<oneshot::Receiver<()>, Crowded> {
        let of_others = self.waiting - self.environments.get(&tenant.environment).map_or(0, |one| one.waiting);
        let rank = self.newcomer();
        let result = self.change(&tenant.environment, shares, |environment| {
            // However many take all that they may, there is room for one more.
            if environment.waiting >= (MAX_WAITING_IN_ALL - of_others) / 2 {
                return Err(Crowded);
            }
            environment
                .change(&tenant.whose, rank, shares, |application| {
                    if application.waiting.len() >= MAX_WAITING {
                        return Err(Crowded);
                    }
                    let (give, wait) = oneshot::channel();
                    application.waiting.push_back(give);
                    Ok(wait)
                })
                .inspect(|_| environment.waiting += 1)
        });
        self.waiting += usize::from(result.is_ok());
        result
    }

    /// Gives a turn to whoever is next; `false` if nobody is.
    fn give_next(&mut self, shares: Shares) -> bool {
        let Some((_, next)) = self.ready.first().cloned() else { return false };
        self.waiting -= 1;
        self.turn += 1;
        let rank = self.served();
        let given = self.change(&next, shares, |environment| {
            let Some((_, application)) = environment.ready.first().cloned() else { return false };
            environment.waiting -= 1;
            let given = environment.change(&application, rank, shares, |application| {
                let give = application.waiting.pop_front();
                // Whoever does not wait any more gets none.
                let given = give.is_some_and(|give| give.send(()).is_ok());
                if given {
                    application.taken += 1;
                    application.rank = rank;
                }
                given
            });
            if given {
                environment.taken += 1;
                environment.rank = rank;
            }
            given
        });
        self.taken += usize::from(given);
        true
    }

    fn end(&mut self, tenant: &Tenant, shares: Shares) {
        self.taken -= 1;
        let rank = self.newcomer();
        self.change(&tenant.environment, shares, |environment| {
            environment.taken -= 1;
            environment.change(&tenant.whose, rank, shares, |application| application.taken -= 1);
        });
    }

    /// Changes an environment, which is made for that if it is not there, and is then where it belongs in the order: nowhere
    /// if it has no turn and waits for none.
    fn change<T>(&mut self, id: &EnvironmentId, shares: Shares, change: impl FnOnce(&mut Environment) -> T) -> T {
        let rank = self.newcomer();
        let environment = self.environments.entry(id.clone()).or_insert_with(|| Environment {
            taken: 0,
            waiting: 0,
            rank,
            applications: HashMap::default(),
            ready: BTreeSet::new(),
        });
        self.ready.remove(&(environment.rank, id.clone()));
        let result = change(environment);
        if environment.taken < shares.of_environment && !environment.ready.is_empty() {
            self.ready.insert((environment.rank, id.clone()));
        }
        if environment.applications.is_empty() {
            self.environments.remove(id);
        }
        result
    }
}

impl Environment {
    /// The same for an application of it. `rank` is for one that is not there.
    fn change<T>(&mut self, id: &Whose, rank: u64, shares: Shares, change: impl FnOnce(&mut Application) -> T) -> T {
        let new = || Application { taken: 0, rank, waiting: VecDeque::new() };
        let application = self.applications.entry(id.clone()).or_insert_with(new);
        self.ready.remove(&(application.rank, id.clone()));
        let result = change(application);
        if application.taken < shares.of_application && !application.waiting.is_empty() {
            self.ready.insert((application.rank, id.clone()));
        }
        if application.taken == 0 && application.waiting.is_empty() {
            self.applications.remove(id);
        }
        result
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // One that was given counts, also if nobody looked.
        let given = match &mut self.wait {
            None => true,
            Some(wait) => {
                wait.close();
                wait.try_recv().is_ok()
            }
        };
        if given {
            self.turns.end(&self.tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn tenant(environment: &str, application: i64) -> Tenant {
        let environment = EnvironmentId::parse(&format!("org_{environment}")).unwrap();
        Tenant { environment, whose: Whose::Application(ApplicationKey(application)) }
    }

    #[tokio::test]
    async fn an_environment_never_has_more_than_half_of_the_turns() {
        let turns = Turns::new(4);
        let (_a, _b) = (turns.take(tenant("a", 1)).await.unwrap(), turns.take(tenant("a", 2)).await.unwrap());
        let mut third = Box::pin(turns.take(tenant("a", 3)));
        assert!(third.as_mut().now_or_never().is_none());
        assert!(turns.take(tenant("b", 4)).now_or_never().is_some());
        drop(_a);
        assert!(third.now_or_never().is_some());
    }

    #[tokio::test]
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

    #[tokio::test]
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
        assert_eq!((state.taken, state.waiting, state.environments.len(), state.ready.len()), (0, 0, 0, 0));
    }

    #[tokio::test]
    async fn an_application_does_not_queue_without_end() {
        let turns = Turns::new(1);
        let _first = turns.take(tenant("a", 1)).await.unwrap();
        let mut many: Vec<_> = (0..MAX_WAITING).map(|_| Box::pin(turns.take(tenant("a", 1)))).collect();
        many.iter_mut().for_each(|one| assert!(one.as_mut().now_or_never().is_none()));
        assert!(matches!(turns.take(tenant("a", 1)).now_or_never(), Some(Err(Crowded))));
    }

    #[tokio::test]
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

    #[tokio::test]
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
}
