//! Group commit, seen from the side of those who wait: submissions gather while the last batch is being stored.
//!
//! One task takes everything that waits, has it accepted in one call, hands it to the dispatcher, and then answers. It is
//! one task on purpose: the dispatcher is promised messages in the order in which they were stored. Whoever stops waiting
//! (a caller that hung up) changes nothing: the message is accepted and dispatched all the same.

use std::sync::Arc;

use parking_lot::Mutex;
use postrider_store::{AcceptError, Accepted, Dispatch, Fresh, NewMessage, Store, Target};
use tokio::sync::{Notify, oneshot};

/// The most messages in one batch, so that no commit takes long.
const MAX_BATCH: usize = 512;

/// The most that may wait. Beyond it, callers are told to come back.
const MAX_WAITING: usize = 16_384;
const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;

/// A message that waits to be stored.
pub(crate) struct Waiting {
    pub(crate) new: NewMessage,
    pub(crate) targets: Vec<Arc<Target>>,
    pub(crate) reply: oneshot::Sender<Result<Accepted, AcceptError>>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    bytes: usize,
    closed: bool,
}

/// The queue between submitters and the task.
#[derive(Default)]
pub(crate) struct Batcher {
    queue: Mutex<Queue>,
    arrived: Notify,
}

impl Batcher {
    /// Queues a message; gives it back if the queue is full.
    pub(crate) fn push(&self, waiting: Waiting) -> Result<(), Waiting> {
        {
            let mut queue = self.queue.lock();
            if queue.closed || queue.waiting.len() >= MAX_WAITING || queue.bytes >= MAX_WAITING_BYTES {
                return Err(waiting);
            }
            queue.bytes += payload_bytes(&waiting);
            queue.waiting.push(waiting);
        }
        self.arrived.notify_one();
        Ok(())
    }

    /// Takes no more; the task ends when the queue is empty.
    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.arrived.notify_one();
    }

    /// What waits, up to a batch; `None` if nothing will come any more.
    async fn next(&self) -> Option<Vec<Waiting>> {
        loop {
            {
                let mut queue = self.queue.lock();
                if !queue.waiting.is_empty() {
                    return Some(take(&mut queue));
                }
                if queue.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }
}

fn take(queue: &mut Queue) -> Vec<Waiting> {
    if queue.waiting.len() <= MAX_BATCH {
        queue.bytes = 0;
        return std::mem::take(&mut queue.waiting);
    }
    let rest = queue.waiting.split_off(MAX_BATCH);
    let batch = std::mem::replace(&mut queue.waiting, rest);
    queue.bytes -= batch.iter().map(payload_bytes).sum::<usize>();
    batch
}

fn payload_bytes(waiting: &Waiting) -> usize {
    waiting.new.message.payload.as_ref().map_or(0, bytes::Bytes::len)
}

/// Runs until the batcher is closed and empty.
pub(crate) async fn run(batcher: Arc<Batcher>, store: Arc<dyn Store>, dispatcher: Arc<dyn Dispatch>) {
    while let Some(batch) = batcher.next().await {
        let mut messages = Vec::with_capacity(batch.len());
        let mut replies = Vec::with_capacity(batch.len());
        for Waiting { new, targets, reply } in batch {
            replies.push((Arc::clone(&new.message), targets, reply));
            messages.push(new);
        }
        let results = store.accept(messages).await;
        let mut fresh = Vec::with_capacity(results.len());
        let mut answers = Vec::with_capacity(results.len());
        for ((message, targets, reply), result) in replies.into_iter().zip(results) {
            if let Ok(Accepted::New(key)) = &result {
                fresh.push(Fresh { key: *key, message, targets });
            }
            answers.push((reply, result));
        }
        dispatcher.dispatch(fresh);
        for (reply, result) in answers {
            // Whoever asked may have hung up.
            let _ = reply.send(result);
        }
    }
}
