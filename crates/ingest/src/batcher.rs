//! Group commit, seen from the side of those who wait: submissions gather while the last batch is being stored.
//!
//! One task takes everything that waits, has it accepted in one call, hands it to the dispatcher, and then answers. It is
//! one task on purpose: the dispatcher is promised messages in the order in which they were stored. Whoever stops waiting
//! (a caller that hung up) changes nothing: the message is accepted and dispatched all the same.
//!
//! What waits is weighed by its bytes and by its fan-out, and no environment or application may have more than its share
//! of the queue: beyond it, its own submissions wait to get in. Out of the queue, environments take turns, and within each
//! its applications. So a flood delays, and refuses, only whose it is.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::application::EnvironmentId;
use postrider_store::{AcceptError, Accepted, ApplicationKey, Dispatch, Fresh, NewMessage, Store, Target};
use tokio::sync::{Notify, oneshot};

use crate::budget::{Budget, Held, Refused, Share};

postrider_domain::limits! {
    in "Intake";
    /// Bytes of messages that wait for their commit
    setting "limits.queue_bytes", beyond "waits up to 5 s, then 429 (own share) or 503";
    /// An application's share of that
    pub(crate) const APPLICATION_SHARE: u64 = 3, "parts, of which one", beyond "429";
    /// An environment's share of that
    pub(crate) const ENVIRONMENT_SHARE: u64 = 2, "parts, of which one", beyond "429";
    /// How long a message waits for its share
    pub(crate) const PATIENCE_SECONDS: u64 = 5, "seconds", beyond "429 or 503 with `Retry-After`";
    /// Messages in one commit
    pub(crate) const MAX_BATCH: usize = 512, "messages, or those of one request", beyond "another commit";
    /// Rows in one commit: messages, and endpoints that they go to
    pub(crate) const MAX_ROWS: usize = 4_096, "rows, or those of one message", beyond "another commit";
    /// Rows of one request that is committed together with those of others
    pub(crate) const LARGE_ROWS: usize = 512, "rows", beyond "a commit of its own";
}

/// What a message takes in memory beside its payload, and what each endpoint adds, in bytes.
const MESSAGE_BYTES: usize = 512;
const ENDPOINT_BYTES: usize = 64;

/// A result per message.
type Answer = Result<Accepted, AcceptError>;

/// A message, and the endpoints that it goes to.
pub(crate) type Ready = (NewMessage, Vec<Arc<Target>>);

/// What waits to be stored.
pub(crate) enum Waiting {
    /// A message by itself.
    One { new: NewMessage, targets: Vec<Arc<Target>>, reply: oneshot::Sender<Answer> },
    /// Messages that are stored by one commit, each with the endpoints that it goes to.
    Many { drafts: Vec<Ready>, reply: oneshot::Sender<Vec<Answer>> },
}

impl Waiting {
    fn count(&self) -> usize {
        match self {
            Self::One { .. } => 1,
            Self::Many { drafts, .. } => drafts.len(),
        }
    }

    fn rows(&self) -> usize {
        match self {
            Self::One { new, .. } => rows(new),
            Self::Many { drafts, .. } => drafts.iter().map(|(new, _)| rows(new)).sum(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::One { new, .. } => bytes(new),
            Self::Many { drafts, .. } => drafts.iter().map(|(new, _)| bytes(new)).sum(),
        }
    }
}

/// How many rows a message is stored as.
pub(crate) fn rows(new: &NewMessage) -> usize {
    1 + new.endpoints.len()
}

fn bytes(new: &NewMessage) -> usize {
    let payload = new.message.payload.as_ref().map_or(0, bytes::Bytes::len);
    payload + MESSAGE_BYTES + new.endpoints.len() * ENDPOINT_BYTES
}

/// Who shares the queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Party {
    Environment(EnvironmentId),
    Application(ApplicationKey),
}

/// Why something does not get into the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turned {
    /// The server is ending.
    Closed,
    /// There is no room.
    Away(Refused),
}

type Place = (Waiting, Held<Party>);

/// What waits of one environment: its applications take turns.
#[derive(Default)]
struct Environment {
    turns: VecDeque<ApplicationKey>,
    waiting: HashMap<ApplicationKey, VecDeque<Place>, foldhash::fast::RandomState>,
}

impl Environment {
    fn add(&mut self, application: ApplicationKey, place: Place) {
        let waiting = self.waiting.entry(application).or_insert_with(|| {
            self.turns.push_back(application);
            VecDeque::new()
        });
        waiting.push_back(place);
    }

    fn next(&mut self) -> Option<Place> {
        let application = self.turns.pop_front()?;
        let waiting = self.waiting.get_mut(&application)?;
        let place = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&application);
        } else {
            self.turns.push_back(application);
        }
        place
    }
}

#[derive(Default)]
struct Queue {
    /// A large request whose turn it is: it waits for those before it, and goes by itself.
    aside: Option<Place>,
    turns: VecDeque<EnvironmentId>,
    environments: HashMap<EnvironmentId, Environment, foldhash::fast::RandomState>,
    closed: bool,
}

impl Queue {
    fn add(&mut self, environment: &EnvironmentId, application: ApplicationKey, place: Place) {
        if let Some(of) = self.environments.get_mut(environment) {
            return of.add(application, place);
        }
        self.turns.push_back(environment.clone());
        self.environments.entry(environment.clone()).or_default().add(application, place);
    }

    fn next(&mut self) -> Option<Place> {
        let environment = self.turns.pop_front()?;
        let of = self.environments.get_mut(&environment)?;
        let place = of.next();
        if of.turns.is_empty() {
            self.environments.remove(&environment);
        } else {
            self.turns.push_back(environment);
        }
        place
    }

    /// Takes a batch; what came together stays together, so it may be larger than one. What is large goes by itself:
    /// whoever sends a single message waits for the commit under way, and not for another tenant's thousand rows in his own.
    fn take(&mut self) -> Vec<Place> {
        let (mut taken, mut count, mut rows) = (Vec::new(), 0, 0);
        while count < MAX_BATCH && rows < MAX_ROWS {
            let Some(place) = self.aside.take().or_else(|| self.next()) else { break };
            let is_large = place.0.rows() > LARGE_ROWS;
            if is_large && !taken.is_empty() {
                self.aside = Some(place);
                break;
            }
            count += place.0.count();
            rows += place.0.rows();
            taken.push(place);
            if is_large {
                break;
            }
        }
        taken
    }
}

/// The queue between submitters and the task.
pub(crate) struct Batcher {
    queue: Mutex<Queue>,
    room: Arc<Budget<Party>>,
    arrived: Notify,
}

impl Batcher {
    /// A queue with room for so many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        Self { queue: Mutex::default(), room: Budget::new(bytes), arrived: Notify::new() }
    }

    /// Queues messages of an application, waiting for room if need be.
    pub(crate) async fn push(
        &self,
        environment: &EnvironmentId,
        application: ApplicationKey,
        waiting: Waiting,
    ) -> Result<(), Turned> {
        let shares = Arc::new([
            Share { party: Party::Environment(environment.clone()), divisor: ENVIRONMENT_SHARE - 1 },
            Share { party: Party::Application(application), divisor: APPLICATION_SHARE - 1 },
        ]);
        let patience = Duration::from_secs(PATIENCE_SECONDS);
        let held = self.room.take(&(shares as _), waiting.bytes() as u64, patience).await.map_err(Turned::Away)?;
        {
            let mut queue = self.queue.lock();
            if queue.closed {
                return Err(Turned::Closed);
            }
            queue.add(environment, application, (waiting, held));
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
    async fn next(&self) -> Option<Vec<Place>> {
        loop {
            {
                let mut queue = self.queue.lock();
                let taken = queue.take();
                if !taken.is_empty() {
                    return Some(taken);
                }
                if queue.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }
}

/// To whom results go.
enum Reply {
    One(oneshot::Sender<Answer>),
    Many(oneshot::Sender<Vec<Answer>>, usize),
}

/// Runs until the batcher is closed and empty.
pub(crate) async fn run(batcher: Arc<Batcher>, store: Arc<dyn Store>, dispatcher: Arc<dyn Dispatch>) {
    while let Some(batch) = batcher.next().await {
        let count = batch.iter().map(|(waiting, _)| waiting.count()).sum();
        let mut messages = Vec::with_capacity(count);
        let mut fan_outs = Vec::with_capacity(count);
        let mut replies = Vec::with_capacity(batch.len());
        // Given back when the batch is done with.
        let mut places = Vec::with_capacity(batch.len());
        for (waiting, held) in batch {
            places.push(held);
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
        drop(places);
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

    const ROOM: u64 = 64 * 1024 * 1024;

    fn environment(name: &str) -> EnvironmentId {
        EnvironmentId::parse(name).unwrap()
    }

    async fn push(batcher: &Batcher, name: &str, application: i64, together: Option<usize>) -> Result<(), Turned> {
        batcher.push(&environment(name), ApplicationKey(application), waiting(together)).await
    }

    /// What is taken, batch after batch: how many messages each part has.
    fn taken(batcher: &Batcher) -> Vec<Vec<usize>> {
        let mut queue = batcher.queue.lock();
        std::iter::from_fn(|| Some(queue.take()).filter(|taken| !taken.is_empty()))
            .map(|batch| batch.iter().map(|(waiting, _)| waiting.count()).collect())
            .collect()
    }

    #[tokio::test]
    async fn what_came_together_is_taken_together() {
        let batcher = Batcher::new(ROOM);
        for together in [Some(300), None, Some(1_000), Some(10), None] {
            push(&batcher, "org_a", 1, together).await.unwrap();
        }
        assert_eq!(taken(&batcher), [vec![300, 1], vec![1_000], vec![10, 1]]);
        assert_eq!(batcher.room.used(), 0);
        assert!(batcher.queue.lock().environments.is_empty());
    }

    #[tokio::test]
    async fn a_single_message_is_never_in_the_commit_of_a_large_request() {
        let batcher = Batcher::new(ROOM);
        for _ in 0..3 {
            push(&batcher, "org_a", 1, Some(1_000)).await.unwrap();
        }
        for _ in 0..2 {
            push(&batcher, "org_b", 2, None).await.unwrap();
        }
        assert_eq!(taken(&batcher), [vec![1_000], vec![1], vec![1_000], vec![1], vec![1_000]]);
        assert_eq!(batcher.room.used(), 0);
    }

    #[tokio::test]
    async fn a_flood_of_one_application_delays_neither_its_neighbour_nor_another_environment() {
        let batcher = Batcher::new(ROOM);
        for _ in 0..5 {
            push(&batcher, "org_a", 1, Some(500)).await.unwrap();
        }
        push(&batcher, "org_a", 2, Some(7)).await.unwrap();
        push(&batcher, "org_b", 3, Some(5)).await.unwrap();
        assert_eq!(taken(&batcher)[0], [500, 5, 7]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn whoever_fills_his_share_of_the_queue_leaves_room_for_others() {
        let batcher = Batcher::new(300 * MESSAGE_BYTES as u64);
        push(&batcher, "org_a", 1, Some(90)).await.unwrap();
        let full = tokio::time::timeout(Duration::from_millis(10), push(&batcher, "org_a", 1, Some(90))).await;
        assert!(full.is_err(), "it waits");
        for application in 2..10 {
            push(&batcher, "org_b", application, None).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_closed_queue_takes_nothing() {
        let batcher = Batcher::new(ROOM);
        batcher.close();
        assert_eq!(push(&batcher, "org_a", 1, None).await, Err(Turned::Closed));
    }
}
