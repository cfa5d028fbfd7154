//! Counts what arrived, for tests that send too much to look at one by one: which message where, and how often.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::receiver::Received;
use crate::wait;

/// How long there may be no progress before it is taken for the end of all progress.
const PATIENCE: Duration = Duration::from_secs(60);

/// What arrived, by the path of the endpoint and the id of the message.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<HashMap<(String, String), Arrived>>>);

#[derive(Debug)]
struct Arrived {
    times: u64,
    body: Bytes,
    /// Whether every repetition had the same body.
    same: bool,
}

impl Ledger {
    /// An empty ledger. Clones share it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a request. For the program of a receiver.
    pub fn note(&self, request: &Received) {
        let key = (request.target.clone(), request.id().unwrap_or_default().to_owned());
        match self.0.lock().entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Arrived { times: 1, body: request.body.clone(), same: true });
            }
            Entry::Occupied(mut entry) => {
                let arrived = entry.get_mut();
                arrived.times += 1;
                arrived.same &= arrived.body == request.body;
            }
        }
    }

    /// How many different deliveries arrived.
    pub fn deliveries(&self) -> usize {
        self.0.lock().len()
    }

    /// How many requests were repetitions.
    pub fn repeats(&self) -> u64 {
        self.0.lock().values().map(|arrived| arrived.times - 1).sum()
    }

    /// The deliveries that arrived more than once, with how often.
    pub fn repeated(&self) -> Vec<(String, String, u64)> {
        let ledger = self.0.lock();
        let repeated = ledger.iter().filter(|(_, arrived)| arrived.times > 1);
        repeated.map(|((target, id), arrived)| (target.clone(), id.clone(), arrived.times)).collect()
    }

    /// The body with which a message arrived at a path, if it arrived and every repetition had the same.
    pub fn body(&self, target: &str, id: &str) -> Option<Bytes> {
        let ledger = self.0.lock();
        let arrived = ledger.get(&(target.to_owned(), id.to_owned()))?;
        arrived.same.then(|| arrived.body.clone())
    }

    /// Waits until every message has arrived at every path.
    ///
    /// # Panics
    /// With some that are missing, when nothing new has arrived for a minute.
    pub async fn wait_for(&self, targets: &[String], ids: &[&str]) {
        let missing = || -> Vec<(String, String)> {
            let ledger = self.0.lock();
            let wanted = targets.iter().flat_map(|target| ids.iter().map(|id| (target.clone(), (*id).to_owned())));
            wanted.filter(|key| !ledger.contains_key(key)).collect()
        };
        let mut progress = (usize::MAX, Instant::now());
        wait::until_within(Duration::MAX / 4, "every delivery", async || {
            let missing = missing();
            if missing.len() < progress.0 {
                progress = (missing.len(), Instant::now());
            }
            let some = &missing[..missing.len().min(5)];
            assert!(progress.1.elapsed() < PATIENCE, "{} deliveries never arrived, such as {some:?}", missing.len());
            missing.is_empty().then_some(())
        })
        .await;
    }
}
