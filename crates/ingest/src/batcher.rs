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

/// A result per message.
type Answer = Result<Accepted, AcceptError>;

/// What waits to be stored.
pub(crate) enum Waiting {
    /// A message by itself.
    One { new: NewMessage, targets: Vec<Arc<Target>>, reply: oneshot::Sender<Answer> },
    /// Messages that are stored by one commit, each with the endpoints that it goes to.
    Many { drafts: Vec<(NewMessage, Vec<Arc<Target>>)>, reply: oneshot::Sender<Vec<Answer>> },
}

impl Waiting {
    fn count(&self) -> usize {
        match self {
            Self::One { .. } => 1,
            Self::Many { drafts, .. } => drafts.len(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::One { new, .. } => payload_bytes(new),
            Self::Many { drafts, .. } => drafts.iter().map(|(new, _)| payload_bytes(new)).sum(),
        }
    }
}

fn payload_bytes(new: &NewMessage) -> usize {
    new.message.payload.as_ref().map_or(0, bytes::Bytes::len)
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    count: usize,
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
            if queue.closed || queue.count >= MAX_WAITING || queue.bytes >= MAX_WAITING_BYTES {
                return Err(waiting);
            }
            queue.count += waiting.count();
            queue.bytes += waiting.bytes();
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

/// Takes a batch; what came together stays together, so it may be larger than one.
fn take(queue: &mut Queue) -> Vec<Waiting> {
    if queue.count <= MAX_BATCH {
        (queue.count, queue.bytes) = (0, 0);
        return std::mem::take(&mut queue.waiting);
    }
    let (mut taken, mut count) = (0, 0);
    while count < MAX_BATCH && taken < queue.waiting.len() {
        count += queue.waiting[taken].count();
        taken += 1;
    }
    let rest = queue.waiting.split_off(taken);
    let batch = std::mem::replace(&mut queue.waiting, rest);
    queue.count -= count;
    queue.bytes -= batch.iter().map(Waiting::bytes).sum::<usize>();
    batch
}

/// To whom results go.
enum Reply {
    One(oneshot::Sender<Answer>),
    Many(oneshot::Sender<Vec<Answer>>, usize),
}

/// Runs until the batcher is closed and empty.
pub(crate) async fn run(batcher: Arc<Batcher>, store: Arc<dyn Store>, dispatcher: Arc<dyn Dispatch>) {
    while let Some(batch) = batcher.next().await {
        let count = batch.iter().map(Waiting::count).sum();
        let mut messages = Vec::with_capacity(count);
        let mut fan_outs = Vec::with_capacity(count);
        let mut replies = Vec::with_capacity(batch.len());
        for waiting in batch {
            match waiting {
                Waiting::One { new, targets, reply } => {
                    fan_outs.push((Arc::clone(&new.message), targets));
                    messages.push(new);
                    replies.push(Reply::One(reply));
                }
                Waiting::Many { drafts, reply } => {
                    replies.push(Reply::Many(reply, drafts.len()));
                    for (new, targets) in drafts {
                        fan_outs.push((Arc::clone(&new.message), targets));
                        messages.push(new);
                    }
                }
            }
        }
        let results = store.accept(messages).await;
        let mut fresh = Vec::with_capacity(results.len());
        for ((message, targets), result) in fan_outs.into_iter().zip(&results) {
            if let Ok(Accepted::New(key)) = result {
                fresh.push(Fresh { key: *key, message, targets });
            }
        }
        dispatcher.dispatch(fresh);
        answer(replies, results);
    }
}

/// Tells everybody. Whoever asked may have hung up.
fn answer(replies: Vec<Reply>, results: Vec<Answer>) {
    let mut results = results.into_iter();
    for reply in replies {
        match reply {
            Reply::One(reply) => {
                if let Some(result) = results.next() {
                    let _ = reply.send(result);
                }
            }
            Reply::Many(reply, count) => {
                let _ = reply.send(results.by_ref().take(count).collect());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::entropy::SeededEntropy;
    use postrider_domain::ids::MessageId;
    use postrider_domain::message::Message;
    use postrider_domain::names::EventTypeName;
    use postrider_domain::time::Timestamp;
    use postrider_store::ApplicationKey;

    fn draft() -> (NewMessage, Vec<Arc<Target>>) {
        let message = Message {
            id: MessageId::new(Timestamp::EPOCH, &SeededEntropy::new(1)),
            event_id: None,
            event_type: EventTypeName::from_trusted("a".to_owned()),
            channels: None,
            payload: Some(bytes::Bytes::from_static(b"{}")),
            tags: None,
            deliver_at: None,
            expires_at: None,
            created_at: Timestamp::EPOCH,
        };
        let (message, endpoints) = (Arc::new(message), Vec::new());
        let new = NewMessage { application: ApplicationKey(1), version: 1, message, endpoints, idempotency: None };
        (new, Vec::new())
    }

    /// Something that waits: so many messages together, or one by itself.
    fn waiting(together: Option<usize>) -> Waiting {
        match together {
            Some(count) => Waiting::Many { drafts: (0..count).map(|_| draft()).collect(), reply: oneshot::channel().0 },
            None => {
                let (new, targets) = draft();
                Waiting::One { new, targets, reply: oneshot::channel().0 }
            }
        }
    }

    #[test]
    fn what_came_together_is_taken_together() {
        let batcher = Batcher::default();
        for together in [Some(300), None, Some(1_000), Some(10), None] {
            assert!(batcher.push(waiting(together)).is_ok());
        }
        let mut taken = Vec::new();
        let mut queue = batcher.queue.lock();
        while !queue.waiting.is_empty() {
            taken.push(take(&mut queue).iter().map(Waiting::count).collect::<Vec<_>>());
        }
        assert_eq!(taken, [vec![300, 1, 1_000], vec![10, 1]]);
        assert_eq!((queue.count, queue.bytes), (0, 0));
    }

    #[test]
    fn messages_that_came_together_count_by_their_number() {
        let batcher = Batcher::default();
        for _ in 0..MAX_WAITING / 1_000 + 1 {
            assert!(batcher.push(waiting(Some(1_000))).is_ok());
        }
        assert!(batcher.push(waiting(None)).is_err());
    }
}
