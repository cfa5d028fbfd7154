//! Working off background tasks: one step of each in turn, so that a long one does not keep the others waiting.
//!
//! A step is followed by a pause as long as itself, so tasks never have more than half of the store's attention, and
//! less when it is busy. Everything is in the store: whoever starts this agent goes on where the last one was.

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::clock::Clock;
use postrider_domain::ids::TaskId;
use postrider_store::{EndpointKey, MessageKey, Observer, Store, StoreError};
use tokio::sync::Notify;

use crate::pause::{AFTER_FAILURE, sleep, sleep_or};

/// Tasks that are worked on in turn. Later ones wait until one of these has ended.
const AT_A_TIME: usize = 32;

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
    fn endpoint_changed(&self, _: EndpointKey) {}
    fn work_added(&self, _: EndpointKey) {}
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
        loop {
            match self.round().await {
                Ok(true) => {}
                Ok(false) => sleep_or(&self.clock, LONGEST, &self.added.0).await,
                Err(StoreError::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "background tasks have to wait; trying again");
                    sleep(&self.clock, AFTER_FAILURE).await;
                }
            }
        }
    }

    /// One step of each task; false if there are none.
    async fn round(&self) -> Result<bool, StoreError> {
        let tasks = self.store.running_tasks(AT_A_TIME).await?;
        for task in &tasks {
            let began = self.clock.now();
            self.step(*task).await?;
            sleep(&self.clock, self.clock.now().since(began)).await;
        }
        Ok(!tasks.is_empty())
    }

    async fn step(&self, task: TaskId) -> Result<(), StoreError> {
        match self.store.advance_task(task, STEP_ROWS, self.clock.now()).await {
            Ok(_) => Ok(()),
            Err(error @ StoreError::Inconsistent { .. }) => {
                tracing::error!(%task, %error, "a background task is given up");
                self.store.fail_task(task, self.clock.now()).await
            }
            Err(error) => Err(error),
        }
    }
}
