//! Working off background tasks, in turns: a step for each environment, and within it for each application and each of its
//! tasks in turn, so that nobody's tasks wait for all of somebody else's.
//!
//! A step is followed by a pause as long as itself, so tasks never have more than half of the store's attention, and
//! less when it is busy. Where an application's tasks have asked for as many attempts as they may in a day, a task waits until
//! they may ask for more, and looks once for each wait. Everything is in the store: whoever starts this agent goes on where the last
//! one was. A task whose step fails waits longer and longer, while the others go on, and is given up after a while, with its
//! error.

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use postrider_domain::clock::Clock;
use postrider_domain::ids::TaskId;
use postrider_domain::time::Timestamp;
use postrider_store::{
    Advanced, ApplicationKey, EndpointKey, MAX_TASKS_OF_APPLICATION, MessageKey, Observer, RunningTask, Store,
    StoreError,
};
use tokio::sync::Notify;

use crate::pause::{AFTER_FAILURE, sleep, sleep_or};

/// Steps of a task that fail before it is given up.
const MAX_TRIES: u32 = 10;

/// The longest wait after a step that failed.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Running tasks of an application: as many that send messages again as that erase. None of them must wait until others have ended,
/// which may take days.
const MAX_RUNNING: usize = 2 * MAX_TASKS_OF_APPLICATION;

/// How many rows a step looks at.
const STEP_ROWS: usize = 500;

/// The longest time without a look. Only news that was missed waits for it.
const LONGEST: Duration = Duration::from_secs(60);

/// Works off background tasks.
pub struct TaskRunner {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    added: Arc<Added>,
}

/// Hears of new tasks.
#[derive(Default)]
struct Added(Notify);

impl Observer for Added {
    fn endpoint_changed(&self, _: EndpointKey, _: Option<ApplicationKey>) {}
    fn work_added(&self, _: EndpointKey, _: Option<ApplicationKey>) {}
    fn messages_expunged(&self, _: &[MessageKey]) {}

    fn task_added(&self) {
        self.0.notify_one();
    }
}

impl TaskRunner {
    /// Makes one that hears of new tasks from now on.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        let added = Arc::new(Added::default());
        store.observe(Arc::clone(&added) as Arc<dyn Observer>);
        Self { store, clock, added }
    }

    /// Runs until the store is closed.
    pub async fn run(self) {
        let mut turns = Turns::default();
        loop {
            match self.round(&mut turns).await {
                Ok(None) => {}
                Ok(Some(pause)) => sleep_or(&self.clock, pause, &self.added.0).await,
                Err(StoreError::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "background tasks have to wait; trying again");
                    sleep(&self.clock, AFTER_FAILURE).await;
                }
            }
        }
    }

    /// One step for each environment. Returns how long there is nothing to do, if there is nothing.
    async fn round(&self, turns: &mut Turns) -> Result<Option<Duration>, StoreError> {
        let running = self.store.running_tasks(MAX_RUNNING).await?;
        let chosen = turns.next(&running, self.clock.now());
        for task in &chosen {
            let began = self.clock.now();
            self.step(*task, turns).await?;
            sleep(&self.clock, self.clock.now().since(began)).await;
        }
        let now = self.clock.now();
        let next = turns.troubles.values().map(|trouble| trouble.not_before).min();
        let pause = next.map_or(LONGEST, |next| next.since(now).max(Duration::from_millis(1)).min(LONGEST));
        Ok(chosen.is_empty().then_some(pause))
    }

    async fn step(&self, task: TaskId, turns: &mut Turns) -> Result<(), StoreError> {
        let step = AssertUnwindSafe(self.store.advance_task(task, STEP_ROWS, self.clock.now())).catch_unwind();
        let (problem, hopeless) = match step.await {
            Ok(Ok(advanced)) => {
                turns.advanced(task, advanced, self.clock.now());
                return Ok(());
            }
            Ok(Err(StoreError::Closed)) => return Err(StoreError::Closed),
            Ok(Err(error)) => (error.to_string(), matches!(error, StoreError::Inconsistent { .. })),
            Err(_) => ("the step panicked".to_owned(), false),
        };
        let now = self.clock.now();
        let tries = turns.failed(task, now);
        if !hopeless && tries < MAX_TRIES {
            tracing::warn!(%task, problem, tries, "failed to take a background task further; trying again");
            return Ok(());
        }
        tracing::error!(%task, problem, tries, "a background task is given up");
        match self.store.fail_task(task, &problem, now).await {
            Err(StoreError::Closed) => Err(StoreError::Closed),
            // Its turn comes again.
            Err(error) => {
                tracing::warn!(%task, %error, "failed to give a background task up; trying again");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

/// Whose turn it is.
#[derive(Default)]
struct Turns {
    /// The application that had the last turn, by environment.
    applications: HashMap<i64, Option<ApplicationKey>>,
    /// The task that had the last turn, by environment and application.
    tasks: HashMap<(i64, Option<ApplicationKey>), TaskId>,
    /// Tasks whose last step failed, or that have to wait for their next one.
    troubles: HashMap<TaskId, Trouble>,
}

struct Trouble {
    tries: u32,
    not_before: Timestamp,
}

impl Turns {
    /// A task of each environment that has one which need not wait.
    fn next(&mut self, running: &[RunningTask], now: Timestamp) -> Vec<TaskId> {
        self.troubles.retain(|task, _| running.iter().any(|one| one.id == *task));
        let mut environments: BTreeMap<i64, BTreeMap<Option<ApplicationKey>, Vec<TaskId>>> = BTreeMap::new();
        for task in running {
            if self.troubles.get(&task.id).is_none_or(|trouble| trouble.not_before <= now) {
                environments.entry(task.environment).or_default().entry(task.application).or_default().push(task.id);
            }
        }
        self.applications.retain(|environment, _| environments.contains_key(environment));
        self.tasks.retain(|(environment, _), _| environments.contains_key(environment));
        environments.iter().filter_map(|(environment, applications)| self.choose(*environment, applications)).collect()
    }

    /// The next application after the last one, and the next of its tasks after the last one.
    fn choose(
        &mut self,
        environment: i64,
        applications: &BTreeMap<Option<ApplicationKey>, Vec<TaskId>>,
    ) -> Option<TaskId> {
        let last = self.applications.get(&environment);
        let after = applications.iter().find(|(application, _)| last.is_none_or(|last| *application > last));
        let (application, tasks) = after.or_else(|| applications.iter().next())?;
        let last = self.tasks.get(&(environment, *application));
        let after = tasks.iter().find(|task| last.is_none_or(|last| *task > last));
        let task = *after.or_else(|| tasks.first())?;
        self.applications.insert(environment, *application);
        self.tasks.insert((environment, *application), task);
        Some(task)
    }

    /// Notes that a step was taken, or that the task has to wait for it.
    fn advanced(&mut self, task: TaskId, advanced: Advanced, now: Timestamp) {
        self.troubles.remove(&task);
        if let Some(wait) = advanced.wait {
            // Where there is room for one message at a time, to look for it each time would cost more than to send it.
            let not_before = now.saturating_add(wait.max(AFTER_FAILURE).min(LONGEST_WAIT));
            self.troubles.insert(task, Trouble { tries: 0, not_before });
        }
    }

    /// Notes that a step failed; returns how many have in a row.
    fn failed(&mut self, task: TaskId, now: Timestamp) -> u32 {
        let trouble = self.troubles.entry(task).or_insert(Trouble { tries: 0, not_before: now });
        trouble.tries += 1;
        let wait = AFTER_FAILURE.saturating_mul(2_u32.saturating_pow(trouble.tries - 1)).min(LONGEST_WAIT);
        trouble.not_before = now.saturating_add(wait);
        trouble.tries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(environment: i64, application: i64, number: u8) -> RunningTask {
        let id = format!("qtask_0ujtsYcgvSTl8PAuAdqWYSMnL{number:02}");
        RunningTask { id: id.parse().unwrap(), environment, application: Some(ApplicationKey(application)) }
    }

    #[test]
    fn environments_take_turns_and_in_them_applications_and_in_those_tasks() {
        let many = (10..30).map(|number| task(1, 1, number));
        let running: Vec<_> = many.chain([task(1, 2, 40), task(2, 3, 50)]).collect();
        let mut turns = Turns::default();
        let mut rounds = || turns.next(&running, Timestamp::EPOCH);
        assert_eq!(rounds(), [task(1, 1, 10).id, task(2, 3, 50).id]);
        assert_eq!(rounds(), [task(1, 2, 40).id, task(2, 3, 50).id]);
        assert_eq!(rounds(), [task(1, 1, 11).id, task(2, 3, 50).id]);
    }

    #[test]
    fn a_task_that_has_to_wait_is_put_off_and_the_others_go_on() {
        let running = [task(1, 1, 10), task(1, 1, 11)];
        let mut turns = Turns::default();
        let status = postrider_domain::task::TaskStatus::Running;
        for (wait, at) in [(Duration::ZERO, AFTER_FAILURE), (Duration::from_secs(86_400), LONGEST_WAIT)] {
            turns.advanced(running[0].id, Advanced { status, wait: Some(wait) }, Timestamp::EPOCH);
            for _ in 0..3 {
                assert_eq!(turns.next(&running, Timestamp::EPOCH), [running[1].id]);
            }
            let later = Timestamp::EPOCH.saturating_add(at);
            assert!((0..2).any(|_| turns.next(&running, later) == [running[0].id]));
        }
        turns.advanced(running[0].id, Advanced { status, wait: None }, Timestamp::EPOCH);
        assert!((0..2).any(|_| turns.next(&running, Timestamp::EPOCH) == [running[0].id]));
    }

    #[test]
    fn a_task_whose_step_failed_waits_while_the_others_go_on() {
        let running = [task(1, 1, 10), task(1, 1, 11)];
        let mut turns = Turns::default();
        turns.failed(running[0].id, Timestamp::EPOCH);
        for _ in 0..3 {
            assert_eq!(turns.next(&running, Timestamp::EPOCH), [running[1].id]);
        }
        let later = Timestamp::EPOCH.saturating_add(AFTER_FAILURE);
        assert!((0..2).any(|_| turns.next(&running, later) == [running[0].id]));
    }
}
