//! Turns: who may have something judged next. The environment that had its last turn longest ago comes first, and in it
//! the application that did; so whoever asks for much waits behind whoever asks for little.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use postrider_domain::application::EnvironmentId;
use tokio::sync::oneshot;

use super::{MAX_WAITING, MAX_WAITING_IN_ALL, Tenant};

/// Too many wait already.
#[derive(Debug)]
pub(super) struct Crowded;

pub(super) struct Turns {
    state: Mutex<State>,
    in_all: usize,
    by_environment: usize,
    by_application: usize,
}

#[derive(Default)]
struct State {
    taken: usize,
    waiting: usize,
    /// Counts turns.
    turn: u64,
    environments: HashMap<EnvironmentId, Share, foldhash::fast::RandomState>,
    /// Tenants that have a turn, or wait for one.
    tenants: Vec<Place>,
}

#[derive(Default)]
struct Share {
    taken: usize,
    last_turn: u64,
}

struct Place {
    tenant: Tenant,
    taken: usize,
    last_turn: u64,
    waiting: std::collections::VecDeque<oneshot::Sender<()>>,
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
    pub(super) fn new(in_all: usize) -> Arc<Self> {
        let in_all = in_all.max(1);
        let (by_environment, by_application) = ((in_all / 2).max(1), (in_all / 4).max(1));
        Arc::new(Self { state: Mutex::default(), in_all, by_environment, by_application })
    }

    /// Waits for a turn.
    pub(super) async fn take(self: &Arc<Self>, tenant: Tenant) -> Result<Turn, Crowded> {
        let mut turn = self.queue(tenant)?;
        self.give();
        if let Some(wait) = &mut turn.wait {
            wait.await.map_err(|_| Crowded)?;
            turn.wait = None;
        }
        Ok(turn)
    }

    fn queue(self: &Arc<Self>, tenant: Tenant) -> Result<Turn, Crowded> {
        let mut state = self.state.lock();
        let State { waiting, tenants, .. } = &mut *state;
        let place = match tenants.iter().position(|place| place.tenant == tenant) {
            Some(place) => &mut tenants[place],
            None => {
                tenants.push(Place { tenant: tenant.clone(), taken: 0, last_turn: 0, waiting: Default::default() });
                let last = tenants.len() - 1;
                &mut tenants[last]
            }
        };
        if place.waiting.len() >= MAX_WAITING || *waiting >= MAX_WAITING_IN_ALL {
            return Err(Crowded);
        }
        let (give, wait) = oneshot::channel();
        place.waiting.push_back(give);
        *waiting += 1;
        Ok(Turn { turns: Arc::clone(self), tenant, wait: Some(wait) })
    }

    /// Gives turns while there are any.
    fn give(&self) {
        let mut state = self.state.lock();
        while state.taken < self.in_all
            && let Some(next) = self.next(&state)
        {
            let State { waiting, tenants, .. } = &mut *state;
            let Some(give) = tenants[next].waiting.pop_front() else { break };
            *waiting -= 1;
            // Whoever does not wait any more gets none.
            if give.send(()).is_ok() {
                state.take(next);
            }
        }
        state.forget();
    }

    /// The tenant whose turn it is.
    fn next(&self, state: &State) -> Option<usize> {
        let may = |place: &&(usize, &Place)| {
            let share = state.environments.get(&place.1.tenant.environment);
            !place.1.waiting.is_empty()
                && place.1.taken < self.by_application
                && share.is_none_or(|share| share.taken < self.by_environment)
        };
        let since = |place: &(usize, &Place)| {
            let share = state.environments.get(&place.1.tenant.environment);
            (share.map_or(0, |share| share.last_turn), place.1.last_turn)
        };
        let places: Vec<_> = state.tenants.iter().enumerate().collect();
        places.iter().filter(may).min_by_key(|place| since(place)).map(|place| place.0)
    }

    fn end(&self, tenant: &Tenant) {
        let mut state = self.state.lock();
        state.taken -= 1;
        if let Some(share) = state.environments.get_mut(&tenant.environment) {
            share.taken -= 1;
        }
        if let Some(place) = state.tenants.iter_mut().find(|place| place.tenant == *tenant) {
            place.taken -= 1;
        }
        drop(state);
        self.give();
    }
}

impl State {
    fn take(&mut self, place: usize) {
        self.turn += 1;
        self.taken += 1;
        let place = &mut self.tenants[place];
        place.taken += 1;
        place.last_turn = self.turn;
        let share = self.environments.entry(place.tenant.environment.clone()).or_default();
        share.taken += 1;
        share.last_turn = self.turn;
    }

    /// Forgets who neither has a turn nor waits for one.
    fn forget(&mut self) {
        self.tenants.retain(|place| place.taken > 0 || !place.waiting.is_empty());
        let tenants = &self.tenants;
        self.environments.retain(|environment, _| tenants.iter().any(|place| place.tenant.environment == *environment));
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
        Tenant { environment, application: Some(postrider_store::ApplicationKey(application)) }
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
        assert_eq!((state.taken, state.tenants.len()), (0, 0));
    }

    #[tokio::test]
    async fn an_application_does_not_queue_without_end() {
        let turns = Turns::new(1);
        let _first = turns.take(tenant("a", 1)).await.unwrap();
        let mut many: Vec<_> = (0..MAX_WAITING).map(|_| Box::pin(turns.take(tenant("a", 1)))).collect();
        many.iter_mut().for_each(|one| assert!(one.as_mut().now_or_never().is_none()));
        assert!(matches!(turns.take(tenant("a", 1)).now_or_never(), Some(Err(Crowded))));
    }
}
