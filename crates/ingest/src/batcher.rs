//! Group commit, seen from the side of those who wait: submissions gather while the last batch is being stored.
//!
//! One task takes everything that waits, has it accepted in one call, hands it to the dispatcher, and then answers. It is
//! one task on purpose: the dispatcher is promised batches in the order in which they were announced. Whoever stops waiting
//! (a caller that hung up) changes nothing: the message is accepted and dispatched all the same.
//!
//! What waits is weighed by its bytes and by its fan-out, and no environment or application may have more than its share
//! of the queue: beyond it, its own submissions wait to get in. What is taken out of it next, `queue` says.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::application::EnvironmentId;
use postrider_domain::message::Message;
use postrider_store::{AcceptError, Accepted, ApplicationKey, Dispatch, Fresh, HandOver, NewMessage, Store, Target};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::budget::{Budget, Held, Refused, Share};
use crate::queue::Queue;

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
    /// Rows in one commit: messages, endpoints that they go to, and what payloads and names of their own cost, counted in rows
    pub(crate) const MAX_ROWS: usize = 512, "rows, or those of one message", beyond "another commit";
    /// Rows of one batch request in one commit
    pub(crate) const PART_ROWS: usize = 256, "rows, or those of one message", beyond "a few commits, one after the other";
    /// Rows that are committed together with those of other applications
    pub(crate) const LARGE_ROWS: usize = 32, "rows", beyond "commits without those of others, and as much time between them as they take";
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

    pub(crate) fn rows(&self) -> usize {
        match self {
            Self::One { new, .. } => new.rows(),
            Self::Many { drafts, .. } => drafts.iter().map(|(new, _)| new.rows()).sum(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::One { new, .. } => bytes(new),
            Self::Many { drafts, .. } => drafts.iter().map(|(new, _)| bytes(new)).sum(),
        }
    }
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

/// What waits, with the room that it takes.
pub(crate) type Place = (Waiting, Held<Party>);

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
            if queue.is_closed() {
                return Err(Turned::Closed);
            }
            queue.add(environment, application, (waiting, held));
        }
        self.arrived.notify_one();
        Ok(())
    }

    /// Takes no more; the task ends when the queue is empty.
    pub(crate) fn close(&self) {
        self.queue.lock().close();
        self.arrived.notify_one();
    }

    /// What goes into the next commit, if anything may.
    fn next_at_once(&self) -> Vec<Place> {
        self.queue.lock().take(Instant::now())
    }

    /// What goes into the next commit; `None` if nothing will come any more.
    async fn next(&self) -> Option<Vec<Place>> {
        loop {
            let pause = {
                let (mut queue, now) = (self.queue.lock(), Instant::now());
                let taken = queue.take(now);
                if !taken.is_empty() {
                    return Some(taken);
                }
                if queue.is_closed() && queue.is_empty() {
                    return None;
                }
                queue.pause(now)
            };
            match pause {
                // Either is a reason to look again.
                Some(until) => drop(timeout_at(until, self.arrived.notified()).await),
                None => self.arrived.notified().await,
            }
        }
    }

    /// Stores what was taken last, and notes how long that takes.
    async fn timed<T>(&self, store: impl Future<Output = T>) -> T {
        let since = Instant::now();
        let result = store.await;
        let now = Instant::now();
        self.queue.lock().took(now.saturating_duration_since(since), now);
        result
    }
}

/// To whom results go.
enum Reply {
    One(oneshot::Sender<Answer>),
    Many(oneshot::Sender<Vec<Answer>>, usize),
}

/// A message with its endpoints, and whether those may have changed since they were read.
struct FanOut {
    message: Arc<Message>,
    targets: Vec<Arc<Target>>,
    unchecked: bool,
}

impl FanOut {
    fn of(new: &NewMessage, targets: Vec<Arc<Target>>) -> Self {
        Self { message: Arc::clone(&new.message), targets, unchecked: new.rules.is_some() }
    }
}

/// A batch that is on its way into the store, or there.
struct Batch {
    fan_outs: Vec<FanOut>,
    replies: Vec<Reply>,
    /// Given back when the batch is done with.
    _places: Vec<Held<Party>>,
}

impl Batch {
    /// Parts what is stored from what is needed afterwards.
    fn of(places: Vec<Place>) -> (Vec<NewMessage>, Self) {
        let count = places.iter().map(|(waiting, _)| waiting.count()).sum();
        let mut messages = Vec::with_capacity(count);
        let mut fan_outs = Vec::with_capacity(count);
        let mut replies = Vec::with_capacity(places.len());
        let mut held = Vec::with_capacity(places.len());
        for (waiting, place) in places {
            held.push(place);
            match waiting {
                Waiting::One { new, targets, reply } => {
                    fan_outs.push(FanOut::of(&new, targets));
                    messages.push(new);
                    replies.push(Reply::One(reply));
                }
                Waiting::Many { drafts, reply } => {
                    replies.push(Reply::Many(reply, drafts.len()));
                    for (new, targets) in drafts {
                        fan_outs.push(FanOut::of(&new, targets));
                        messages.push(new);
                    }
                }
            }
        }
        (messages, Self { fan_outs, replies, _places: held })
    }

    /// Tells that these messages are about to be stored.
    fn announce(&self, dispatcher: &dyn Dispatch) {
        let messages: Vec<_> = self.fan_outs.iter().map(|fan_out| fan_out.message.id).collect();
        dispatcher.announce(&messages);
    }

    /// Hands over what was accepted, and answers.
    fn finish(self, results: Vec<Answer>, dispatcher: &dyn Dispatch) {
        let (mut fresh, mut dropped) = (Vec::with_capacity(results.len()), Vec::new());
        for (FanOut { message, targets, unchecked }, result) in self.fan_outs.into_iter().zip(&results) {
            if let Ok(Accepted::New(key)) | Err(AcceptError::Unsure { message: key, .. }) = result {
                fresh.push(Fresh { key: *key, message, targets, unchecked });
            } else {
                dropped.push(message.id);
            }
        }
        dispatcher.dispatch(HandOver { fresh, dropped });
        answer(self.replies, results);
    }
}

/// Runs until the batcher is closed and empty. While one batch is being stored, the one before it is handed over and
/// answered: a message to a thousand endpoints takes its time to hand over, too.
pub(crate) async fn run(batcher: Arc<Batcher>, store: Arc<dyn Store>, dispatcher: Arc<dyn Dispatch>) {
    let mut stored: Option<(Batch, Vec<Answer>)> = None;
    loop {
        let next = match &stored {
            Some(_) => batcher.next_at_once(),
            None => match batcher.next().await {
                Some(next) => next,
                None => return,
            },
        };
        let finish = async {
            if let Some((batch, results)) = stored.take() {
                batch.finish(results, dispatcher.as_ref());
            }
        };
        if next.is_empty() {
            finish.await;
            continue;
        }
        let (messages, batch) = Batch::of(next);
        batch.announce(dispatcher.as_ref());
        // In this order: the first is under way when the second begins.
        let (results, ()) = tokio::join!(biased; batcher.timed(store.accept(messages)), finish);
        stored = Some((batch, results));
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
    use postrider_domain::names::{Channel, EventTypeName, Tag};
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
        let new = NewMessage {
            application: ApplicationKey(1),
            version: 1,
            rules: None,
            message: Arc::new(message),
            endpoints: Vec::new(),
            idempotency: None,
        };
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
        std::iter::from_fn(|| Some(queue.take(Instant::now())).filter(|taken| !taken.is_empty()))
            .map(|batch| batch.iter().map(|(waiting, _)| waiting.count()).collect())
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_has_as_many_rows_as_a_commit_may_have() {
        let batcher = Batcher::new(ROOM);
        for together in [Some(200), None, Some(256), None, Some(256), Some(257), Some(1_000), None] {
            push(&batcher, "org_a", 1, together).await.unwrap();
        }
        assert_eq!(taken(&batcher), [vec![1, 1, 1], vec![200], vec![256], vec![256], vec![257], vec![1_000]]);
        assert_eq!(batcher.room.used(), 0);
        assert!(batcher.queue.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_message_is_never_in_the_commit_of_a_large_request_of_another_application() {
        let batcher = Batcher::new(ROOM);
        for _ in 0..3 {
            push(&batcher, "org_a", 1, Some(256)).await.unwrap();
        }
        for application in [2, 3] {
            push(&batcher, "org_b", application, None).await.unwrap();
        }
        assert_eq!(taken(&batcher), [vec![1, 1], vec![256], vec![256], vec![256]]);
        for application in [2, 1, 1] {
            push(&batcher, "org_b", application, None).await.unwrap();
        }
        push(&batcher, "org_b", 1, Some(256)).await.unwrap();
        assert_eq!(taken(&batcher), [vec![1, 1, 1], vec![256]]);
        assert_eq!(batcher.room.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_one_application_delays_neither_its_neighbour_nor_another_environment() {
        let batcher = Batcher::new(ROOM);
        for _ in 0..50 {
            push(&batcher, "org_a", 1, Some(20)).await.unwrap();
        }
        push(&batcher, "org_a", 2, Some(7)).await.unwrap();
        push(&batcher, "org_b", 3, Some(5)).await.unwrap();
        assert_eq!(taken(&batcher)[0][..4], [20, 5, 7, 20]);
    }

    /// What is taken `now`: how many messages each part has.
    fn takes(batcher: &Batcher, now: Instant) -> Vec<usize> {
        batcher.queue.lock().take(now).iter().map(|(waiting, _)| waiting.count()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn large_commits_leave_as_much_time_as_they_take_to_those_who_send_what_is_small() {
        let (batcher, start) = (Batcher::new(ROOM), Instant::now());
        let ms = |count| start + Duration::from_millis(count);
        for _ in 0..4 {
            push(&batcher, "org_a", 1, Some(200)).await.unwrap();
        }
        push(&batcher, "org_b", 2, None).await.unwrap();
        assert_eq!(takes(&batcher, start), [1]);
        assert_eq!(takes(&batcher, start), [200], "there is company, so it is one part");
        batcher.queue.lock().took(Duration::from_millis(8), ms(8));
        assert!(takes(&batcher, ms(8)).is_empty());
        assert_eq!(batcher.queue.lock().pause(ms(8)), Some(ms(16)));
        push(&batcher, "org_b", 2, None).await.unwrap();
        assert_eq!(takes(&batcher, ms(9)), [1]);
        push(&batcher, "org_b", 2, None).await.unwrap();
        assert_eq!(takes(&batcher, ms(16)), [200], "though small ones wait: they had their turn");
        batcher.queue.lock().took(Duration::from_secs(60), ms(17));
        assert_eq!(takes(&batcher, ms(17)), [1]);
        assert!(takes(&batcher, ms(116)).is_empty(), "however long it took, the pause has an end");
        assert_eq!(takes(&batcher, ms(117)), [200, 200], "there is no company any more");
        batcher.queue.lock().took(Duration::from_millis(8), ms(200));
        push(&batcher, "org_a", 1, Some(200)).await.unwrap();
        assert_eq!(takes(&batcher, ms(200)), [200]);
    }

    #[tokio::test]
    async fn what_payloads_and_names_cost_counts() {
        let batcher = Batcher::new(ROOM);
        let name = |number: u32| Tag::parse(&format!("order-{number}")).unwrap();
        for _ in 0..20 {
            let (mut new, targets) = draft();
            let mut message = Message::clone(&new.message);
            message.payload = Some(bytes::Bytes::from(vec![b' '; 64 * 1024]));
            message.tags = Some((0..10).map(name).collect());
            message.channels = Some((0..5).map(|number| Channel::parse(&format!("c-{number}")).unwrap()).collect());
            new.message = Arc::new(message);
            let waiting = Waiting::One { new, targets, reply: oneshot::channel().0 };
            batcher.push(&environment("org_a"), ApplicationKey(1), waiting).await.unwrap();
        }
        assert_eq!(taken(&batcher).iter().map(Vec::len).collect::<Vec<_>>(), [10, 10]);
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
