//! The engine: starting what delivers, and ending it in order.

use std::pin::pin;
use std::sync::Arc;

use postrider_domain::clock::Clock;
use postrider_domain::entropy::Entropy;
use postrider_domain::retry::jittered_up;
use postrider_store::{Dispatch, Store, StoreError};

use crate::agents::{idle, settle, wake};
use crate::handle::Handle;
use crate::lane::Budgets;
use crate::lanes::Lanes;
use crate::options::DeliveryOptions;
use crate::sender::Carrier;

/// Of the time to end, the last one in so many parts is for storing what is known.
const STORING: u32 = 10;

/// What an engine has under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Requests.
    pub requests: usize,
    /// Permits for requests; an open lane has one.
    pub permits: u32,
    /// Bytes of messages that wait in memory, and of answers that are not stored yet; less than nothing would be a mistake.
    pub memory_bytes: i64,
    /// Bytes of answers that were not kept for want of memory, since the engine was started.
    pub cut_bytes: u64,
}

/// Delivers what the store holds.
pub struct Engine {
    lanes: Arc<Lanes>,
    agents: [(&'static str, tokio::task::AbortHandle); 3],
}

impl Engine {
    /// Starts delivering. Everything that was pending in the store is looked at again. Call it before anything is accepted.
    pub async fn start(
        store: Arc<dyn Store>,
        carrier: Arc<dyn Carrier>,
        options: DeliveryOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, StoreError> {
        let longest = options.retry_schedule.longest().max(jittered_up(options.retry_after_max.0, 1.0));
        let pulled = store.pull_in(clock.now(), longest).await?;
        if pulled > 0 {
            tracing::warn!(
                pulled,
                "deliveries were due later than after their waits, because the clock was wrong or waits are shorter now: they wait from now, if at all"
            );
        }
        let endpoints = store.rebuild_wakes().await?;
        let holds = store.holds().await?;
        if endpoints > 0 {
            tracing::info!(endpoints, "deliveries are pending from before");
        }
        let lanes = Lanes::new(Arc::clone(&store), carrier, options, clock, entropy);
        lanes.remember_holds(holds);
        store.observe(Arc::new(Handle(Arc::clone(&lanes))));
        let agents = [
            ("settler", tokio::spawn(settle::run(Arc::clone(&lanes))).abort_handle()),
            ("waker", tokio::spawn(wake::run(Arc::clone(&lanes))).abort_handle()),
            ("idler", tokio::spawn(idle::run(Arc::clone(&lanes))).abort_handle()),
        ];
        Ok(Self { lanes, agents })
    }

    /// The agents without which it does not work, by name. None ends before [`Engine::shutdown`].
    pub fn agents(&self) -> [(&'static str, tokio::task::AbortHandle); 3] {
        self.agents.clone()
    }

    /// What is under way, and what it takes.
    pub fn usage(&self) -> Usage {
        let Budgets { memory, permits, .. } = &self.lanes.budgets;
        let requests = self.lanes.workers();
        let cut_bytes = self.lanes.kept.cut_bytes();
        Usage { requests, permits: permits.used(), memory_bytes: memory.used(), cut_bytes }
    }

    /// What intake hands accepted messages to.
    pub fn dispatcher(&self) -> Arc<dyn Dispatch> {
        Arc::new(Handle(Arc::clone(&self.lanes)))
    }

    /// Ends in order: starts no more requests, waits for those under way (at most `delivery.drain_timeout`) and for their
    /// results to be stored. Shortly before that is over, those of which the status is known end, with that for their result.
    /// Returns how many requests were left to the next start.
    pub async fn shutdown(&self) -> usize {
        self.lanes.stop();
        let drained = async {
            self.lanes.workers_gone().await;
            self.lanes.results.drained().await;
        };
        let mut drained = pin!(drained);
        let deadline = self.lanes.options.drain_timeout.0;
        let to_store = deadline / STORING;
        if tokio::time::timeout(deadline - to_store, drained.as_mut()).await.is_err() {
            if let Some(sender) = self.lanes.carrier.as_sender() {
                sender.end();
            }
            if tokio::time::timeout(to_store, drained).await.is_err() {
                tracing::warn!(
                    "requests are still in flight after {deadline:?}; they will be made again at the next start"
                );
            }
        }
        for (_, agent) in &self.agents {
            agent.abort();
        }
        self.lanes.workers()
    }
}
