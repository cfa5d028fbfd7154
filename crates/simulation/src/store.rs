//! The store as the engine sees it: the real one, but calls take time, may be refused, and hints of changes go astray.
//!
//! A call of the store below takes effect at one instant of the simulated time, somewhere between its begin and its end. So
//! the order in which calls take effect is the seed's to choose, and every other thing that happens between two of them is
//! something that can happen on a machine.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use postrider_delivery::Engine;
use postrider_domain::attempt::Trigger;
use postrider_domain::clock::Clock;
use postrider_domain::delivery::{Against, Next};
use postrider_domain::ids::TaskId;
use postrider_domain::time::Timestamp;
use postrider_store::{
    AcceptError, Accepted, Advanced, ApplicationKey, DeliveryKey, EndpointKey, MessageKey, NewMessage, Observer, Once,
    ResendError, Resent, Settlement, Store, StoreError, Target, Unstorable, Written,
};
use tokio::runtime::Handle;

use crate::at_once::at_once;
use crate::book::{Book, Events, Present, Settled};
use crate::bounds::MANY;
use crate::broken::Broken;
use crate::dice::Dice;
use crate::health::Health;
use crate::promises::{self, is_same};
use crate::watch::Watch;

/// What the way to the store is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// How long a call takes at most, before and after it takes effect.
    pub(crate) slow: Duration,
    /// How often a call is refused, and nothing came of it.
    pub(crate) refuses: f64,
    /// The disk is full: what writes is refused.
    pub(crate) full: bool,
    /// How often what was accepted is in doubt after its commit.
    pub(crate) doubts: f64,
    /// How often the answer to another write is lost: it took effect, and whoever asked is told that it failed.
    pub(crate) unheard: f64,
    /// How often a hint is lost.
    pub(crate) lost: f64,
    /// How often it is late, and for how long at most.
    pub(crate) late: f64,
    /// How often it comes twice.
    pub(crate) doubled: f64,
}

impl Weather {
    /// Everything works.
    pub(crate) const CALM: Self = Self {
        slow: Duration::from_micros(100),
        refuses: 0.0,
        full: false,
        doubts: 0.0,
        unheard: 0.0,
        lost: 0.0,
        late: 0.0,
        doubled: 0.0,
    };

    pub(crate) fn drawn(dice: &Dice) -> Self {
        let slow = *dice.one(&[0, 1, 20, 200, 2_000]);
        Self {
            slow: Duration::from_millis(slow),
            refuses: *dice.one(&[0.0, 0.0, 0.01, 0.1, 0.3]),
            full: dice.happens(0.1),
            doubts: *dice.one(&[0.0, 0.0, 0.2]),
            unheard: *dice.one(&[0.0, 0.0, 0.03, 0.3]),
            lost: *dice.one(&[0.0, 0.1, 1.0]),
            late: *dice.one(&[0.0, 0.2]),
            doubled: *dice.one(&[0.0, 0.2]),
        }
    }
}

/// The longest time by which a hint is late.
const LATE: Duration = Duration::from_secs(3);

/// The store in one life of the process.
pub(crate) struct Stormy {
    pub(crate) below: Arc<dyn Store>,
    pub(crate) relay: Arc<Relay>,
    pub(crate) weather: Mutex<Weather>,
    pub(crate) dice: Arc<Dice>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) book: Arc<Book>,
    pub(crate) watch: Watch,
    /// The engine that it is the store of, from when there is one.
    pub(crate) engine: Mutex<Weak<Engine>>,
}

/// Calls that write nothing.
const READS: [&str; 10] =
    ["due", "target", "routes", "holds", "hold_of", "health", "backlog", "accepted_under", "running_tasks", "notices"];

/// Writes whose answer is not lost. What was taken is given, as the contract has it; and what became of an accept whose commit is
/// in doubt is told for each message.
const HEARD: [&str; 2] = ["take_wakes", "accept"];

/// More than any payload here.
const ANY_BYTES: usize = 1 << 30;

impl Stormy {
    pub(crate) fn weather(&self) -> Weather {
        *self.weather.lock()
    }

    async fn wait(&self) {
        let slow = self.weather().slow;
        if !slow.is_zero() {
            tokio::time::sleep(self.dice.time(slow)).await;
        }
    }

    /// Makes a call, if the weather allows it.
    pub(crate) async fn call<T, E: From<StoreError>>(
        &self,
        what: &'static str,
        call: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, E> {
        self.wait().await;
        if let Some(engine) = self.engine.lock().upgrade() {
            self.watch.look(&self.book, engine.usage());
        }
        if self.watch.spins(what, self.clock.now()) {
            self.book.note(|events| events.breaks(Broken::Spins(what)));
            // So that it comes to an end.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let weather = self.weather();
        if self.dice.happens(weather.refuses) || (weather.full && !READS.contains(&what)) {
            self.book.line(self.clock.now(), || format!("the store refuses {what}"));
            return Err(StoreError::Unavailable("bad weather".to_owned()).into());
        }
        let result = at_once(call);
        self.relay.pass_on();
        self.book.line(self.clock.now(), || format!("{what}{}", if result.is_ok() { "" } else { " (refused)" }));
        self.wait().await;
        let may_be_lost = result.is_ok() && !READS.contains(&what) && !HEARD.contains(&what);
        if may_be_lost && self.dice.happens(weather.unheard) {
            self.book.line(self.clock.now(), || format!("nobody hears that {what} is done"));
            return Err(StoreError::Unavailable("bad weather".to_owned()).into());
        }
        result
    }

    /// As [`postrider_store::Work::accept`].
    pub(crate) async fn accept_noted(&self, batch: Vec<NewMessage>) -> Vec<Result<Accepted, AcceptError>> {
        let count = batch.len();
        let notes: Vec<_> = batch
            .iter()
            .map(|new| (new.message.id.to_string(), new.endpoints.clone(), new.idempotency.map(|(key, _)| key)))
            .collect();
        let call = async {
            let mut results = self.below.accept(batch).await;
            let now = self.clock.now();
            self.book.note(|events| {
                for ((id, endpoints, key), result) in notes.iter().zip(&results) {
                    let Ok(Accepted::New(message)) = result else { continue };
                    let turn = events.turn();
                    events.keys.insert(id.clone(), *message);
                    events.accepted.extend(endpoints.iter().map(|endpoint| ((*endpoint, *message), turn)));
                    events.trace.push(format!("{now} {id} is message {} for {endpoints:?}", message.0));
                    if let Some(key) = key {
                        events.accepted_under(*key, *message);
                    }
                }
            });
            if self.dice.happens(self.weather().doubts) {
                self.book.line(now, || "it is in doubt whether that lasts".to_owned());
                results = results.into_iter().map(in_doubt).collect();
            }
            Ok::<_, StoreError>(results)
        };
        self.call("accept", call).await.unwrap_or_else(|error| vec![Err(AcceptError::Store(error)); count])
    }

    /// As [`postrider_store::Work::settle`].
    pub(crate) async fn settle_noted(&self, batch: Vec<Settlement>) -> Result<Vec<Unstorable>, StoreError> {
        let mut items = batch.clone();
        let call = async {
            let before = self.receivers(&items).await;
            let waited = self.which_wait(&items).await;
            self.book.note(|events| items.iter().for_each(|item| events.forget_told(item.endpoint)));
            let unstorable = self.below.settle(batch).await?;
            let after = self.receivers(&items).await;
            for place in 0..items.len() {
                let (earlier, rest) = items.split_at_mut(place);
                let item = &mut rest[0];
                // Disabled by another result of the batch, it has another receiver already when this one is stored.
                let comes_after_another =
                    earlier.iter().any(|other| other.endpoint == item.endpoint && other.against.is_some());
                let is_moved = comes_after_another && self.waits_elsewhere(item).await;
                as_it_counts(item, &before, &after, is_moved);
            }
            let now = self.clock.now();
            let is_stored = |place: usize| unstorable.iter().all(|unstorable| unstorable.place != place);
            self.book.note(|events| {
                for (place, (item, waited)) in items.iter().zip(&waited).enumerate() {
                    let (endpoint, message, next) = (item.endpoint.0, item.delivery.message.0, item.next);
                    if is_stored(place) {
                        note_settled(events, item, *waited);
                        events.trace.push(format!("{now} endpoint {endpoint}, message {message}: {next:?}"));
                    } else {
                        events.stuck.insert((item.endpoint, item.delivery));
                        events.trace.push(format!("{now} endpoint {endpoint}, message {message}: cannot be stored"));
                    }
                }
            });
            for Unstorable { place, .. } in unstorable.iter().rev() {
                items.remove(*place);
            }
            self.compare_health(&items).await;
            Ok::<_, StoreError>((unstorable, items))
        };
        let (unstorable, items) = self.call("settle", call).await?;
        let now = self.clock.now();
        self.book.note(|events| {
            for item in &items {
                if item.attempt.is_some() {
                    events.unsettled.remove(&(item.endpoint, item.delivery.message));
                }
                let is_end = match item.next {
                    Next::Succeeded => true,
                    Next::Exhausted | Next::Canceled => item.trigger == Trigger::Scheduled,
                    Next::Waiting(_) => false,
                };
                if is_end {
                    events.known_ends.entry((item.endpoint, item.delivery.message)).or_insert(now);
                }
            }
        });
        Ok(unstorable)
    }

    /// Of each endpoint, which receiver it has, and whether it is disabled.
    async fn receivers(&self, items: &[Settlement]) -> Receivers {
        let mut receivers = Receivers::new();
        for item in items {
            if let Ok(Some(target)) = self.below.target(item.endpoint).await {
                receivers.insert(item.endpoint, (target.receiver, target.endpoint.disabled));
            }
        }
        receivers
    }

    /// Of results: whether the store still waits for them.
    async fn which_wait(&self, items: &[Settlement]) -> Vec<bool> {
        let (mut waited, mut ended) = (Vec::new(), BTreeSet::new());
        for item in items {
            let at = (item.endpoint, item.delivery.message);
            let is_over = item.trigger == Trigger::Scheduled && ended.contains(&at);
            let waits = !is_over && self.waits(item).await;
            if waits && item.trigger == Trigger::Manual && item.next == Next::Succeeded {
                ended.insert(at);
            }
            waited.push(waits);
        }
        waited
    }

    async fn waits(&self, item: &Settlement) -> bool {
        self.has(item.endpoint, item.delivery).await
    }

    /// Whether the delivery of a result waits as it does if the endpoint has another receiver by now.
    async fn waits_elsewhere(&self, item: &Settlement) -> bool {
        let next = item.elsewhere.map(|elsewhere| elsewhere.next);
        let Some(Next::Waiting(due_at)) = next.filter(|next| *next != item.next) else { return false };
        self.has(item.endpoint, DeliveryKey { due_at, message: item.delivery.message }).await
    }

    async fn has(&self, endpoint: EndpointKey, delivery: DeliveryKey) -> bool {
        let DeliveryKey { due_at, message } = delivery;
        let before = DeliveryKey { due_at, message: MessageKey(message.0 - 1) };
        let found = self.below.due(endpoint, due_at, Some(before), HashSet::new(), 1, ANY_BYTES).await;
        found.is_ok_and(|found| found.due.first().is_some_and(|due| due.key == delivery))
    }

    /// Looks whether those endpoints are disabled that must be, and no others.
    async fn compare_health(&self, items: &[Settlement]) {
        let endpoints: BTreeSet<_> =
            items.iter().filter(|item| item.against.is_some()).map(|item| item.endpoint).collect();
        for endpoint in endpoints {
            let Ok(Some(target)) = self.below.target(endpoint).await else { continue };
            self.book.note(|events| {
                if events.deleted.contains(&endpoint) {
                    return;
                }
                let must_be = events.health.get(&endpoint) == Some(&Health::Disabled);
                match (target.endpoint.disabled, must_be) {
                    (true, false) => events.breaks(Broken::DisabledForNothing(endpoint.0)),
                    (false, true) => events.breaks(Broken::NotDisabled(endpoint.0)),
                    _ => {}
                }
                if target.endpoint.disabled {
                    events.health.insert(endpoint, Health::Disabled);
                    events.opens(endpoint, false);
                } else if must_be {
                    events.health.insert(endpoint, Health::Well);
                }
                events.is_now(target);
            });
        }
    }

    /// As [`postrider_store::Work::resend`].
    pub(crate) async fn resend_noted(
        &self,
        endpoint: EndpointKey,
        message: MessageKey,
        now: Timestamp,
        once: Option<Once<Resent>>,
    ) -> Result<Written<Resent>, ResendError> {
        let call = async {
            let result = self.below.resend(endpoint, message, now, once).await;
            if let Ok(Written::Done(Resent::Due | Resent::Held(_))) = &result {
                self.book.note(|events| events.adds((endpoint, message), Trigger::Manual, self.clock.now()));
            }
            result
        };
        self.call("resend", call).await
    }

    /// As [`postrider_store::Tasks::advance_task`].
    pub(crate) async fn advance_noted(&self, id: TaskId, rows: usize, now: Timestamp) -> Result<Advanced, StoreError> {
        let endpoint = self.book.note(|events| events.tasks.get(&id).copied());
        let call = async {
            let before = self.pending(endpoint).await;
            let advanced = self.below.advance_task(id, rows, now).await?;
            let after = self.pending(endpoint).await;
            self.book.note(|events| {
                for (at, trigger) in after.into_iter().filter(|(key, _)| !before.contains_key(key)) {
                    let (endpoint, delivery) = at;
                    events.adds((endpoint, delivery.message), trigger, self.clock.now());
                }
            });
            Ok::<_, StoreError>(advanced)
        };
        self.call("advance_task", call).await
    }

    /// Whether all that an endpoint has is left alone until the next start, because its results cannot be stored.
    pub(crate) async fn is_only_stuck(&self, endpoint: EndpointKey) -> bool {
        if !self.book.note(|events| events.has_stuck(endpoint)) {
            return false;
        }
        let pending = self.pending(Some(endpoint)).await;
        self.book.note(|events| pending.keys().all(|delivery| events.stuck.contains(delivery)))
    }

    /// What an endpoint has to be sent, now or later.
    async fn pending(&self, endpoint: Option<EndpointKey>) -> BTreeMap<(EndpointKey, DeliveryKey), Trigger> {
        let Some(endpoint) = endpoint else { return BTreeMap::new() };
        let found = self.below.due(endpoint, Timestamp::MAX, None, HashSet::new(), MANY, ANY_BYTES).await;
        let due = found.map(|found| found.due).unwrap_or_default();
        due.into_iter().map(|due| ((endpoint, due.key), due.trigger)).collect()
    }

    /// Makes a change of an endpoint, and notes what it is like after it.
    pub(crate) async fn change<T: Send, E: From<StoreError> + Send>(
        &self,
        what: &'static str,
        endpoint: EndpointKey,
        change: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, E> {
        let call = async {
            self.book.note(|events| events.forget_told(endpoint));
            let result = change.await;
            if let Ok(Some(target)) = self.below.target(endpoint).await {
                self.book.note(|events| {
                    let (is, was) = (target.endpoint.disabled, events.health.get(&endpoint) == Some(&Health::Disabled));
                    let present = events.present.get(&endpoint);
                    let moved = present.is_some_and(|present| present.target.endpoint.url != target.endpoint.url);
                    if is != was || moved && !is {
                        events.health.insert(endpoint, if is { Health::Disabled } else { Health::Well });
                    }
                    if is != was {
                        events.opens(endpoint, !is);
                    }
                    events.is_now(target);
                    // What it asked for is over: it may be another receiver now.
                    events.waits.retain(|(whose, _), _| *whose != endpoint);
                });
            }
            result
        };
        self.call(what, call).await
    }
}

impl Events {
    /// From now on it is the next hint that counts.
    fn forget_told(&mut self, endpoint: EndpointKey) {
        self.told.remove(&endpoint);
    }

    /// The engine has heard of a change of an endpoint, the last one or an earlier one.
    fn is_told(&mut self, endpoint: EndpointKey, now: Timestamp) {
        self.progress(endpoint);
        self.told.insert(endpoint, now);
        if let Some(present) = self.present.get_mut(&endpoint) {
            present.told = Some(now);
        }
    }

    /// An endpoint was changed, or looked at.
    pub(crate) fn is_now(&mut self, target: Target) {
        let endpoint = target.key;
        let changed = self.present.get(&endpoint).is_none_or(|present| !is_same(&present.target, &target));
        if changed {
            let told = self.told.get(&endpoint).copied();
            self.present.insert(endpoint, Present { target: Arc::new(target), told });
        }
    }
}

/// Which receivers endpoints have, and whether they are disabled.
type Receivers = BTreeMap<EndpointKey, (u64, bool)>;

/// Makes of a result what must have been stored, if the endpoint had another receiver than the one that was asked.
fn as_it_counts(item: &mut Settlement, before: &Receivers, after: &Receivers, is_moved: bool) {
    let Some(elsewhere) = item.elsewhere.filter(|_| item.next != Next::Succeeded) else { return };
    let (before, after) = (before.get(&item.endpoint), after.get(&item.endpoint));
    let is = |receivers: Option<&(u64, bool)>| receivers.is_some_and(|(receiver, _)| *receiver == elsewhere.receiver);
    // It may have been disabled by this very result, or by another one of the batch.
    let was_disabled = after.is_some_and(|(receiver, disabled)| *disabled && *receiver == elsewhere.receiver + 1);
    if is_moved || !is(before) || !(is(after) || was_disabled) {
        (item.next, item.against) = (elsewhere.next, None);
    }
}

fn note_settled(events: &mut Events, item: &Settlement, waited: bool) {
    let (endpoint, at) = (item.endpoint, (item.endpoint, item.delivery.message));
    let succeeded = item.attempt.as_ref().is_some_and(|attempt| attempt.succeeded);
    let (trigger, attempted, next) = (item.trigger, item.attempt.is_some(), item.next);
    events.progress(endpoint);
    if item.attempt.as_ref().is_some_and(|attempt| !events.logged.insert(attempt.id)) {
        // Stored before, and nobody heard of it.
        return;
    }
    promises::judge_attempt(events, item, waited);
    events.settled.entry(at).or_default().push(Settled { trigger, attempted, succeeded, next });
    match next {
        Next::Waiting(until) => drop(events.waits.insert(at, until)),
        _ => drop(events.waits.remove(&at)),
    }
    let health = events.health.entry(endpoint).or_insert(Health::Well);
    if waited && succeeded {
        *health = health.succeeded();
    }
    if let Some(fact) = item.against.filter(|_| waited) {
        *health = match fact.kind {
            Against::Gone => Health::Disabled,
            Against::Failing { disable_after } => health.failed(fact.at, disable_after),
        };
    }
}

/// What is told of a message whose commit may not last.
fn in_doubt(result: Result<Accepted, AcceptError>) -> Result<Accepted, AcceptError> {
    match result {
        Ok(Accepted::New(message)) => {
            Err(AcceptError::Unsure { message, error: StoreError::Unavailable("bad weather".to_owned()) })
        }
        other => other,
    }
}

/// Passes hints on to the observers of the present life, as the weather allows.
///
/// A store tells of changes on whatever thread it has. It is passed on by the simulated machine's own, when the call that
/// led to it has taken effect: so what comes of it comes in the same order over any store.
#[derive(Default)]
pub(crate) struct Relay {
    listening: Mutex<Option<Arc<Listening>>>,
    /// What the store has told since, in order.
    told: Mutex<Vec<Hint>>,
}

/// What a store tells.
enum Hint {
    EndpointChanged(EndpointKey, Option<ApplicationKey>),
    WorkAdded(EndpointKey, Option<ApplicationKey>),
    MessagesExpunged(Vec<MessageKey>),
    TaskAdded,
}

/// Who listens in one life.
struct Listening {
    observers: Mutex<Vec<Arc<dyn Observer>>>,
    runtime: Handle,
    store: Weak<Stormy>,
}

impl Relay {
    /// A life begins, within its runtime.
    pub(crate) fn begin(&self, store: &Arc<Stormy>) {
        let (observers, runtime) = (Mutex::default(), Handle::current());
        self.told.lock().clear();
        *self.listening.lock() = Some(Arc::new(Listening { observers, runtime, store: Arc::downgrade(store) }));
    }

    /// It ends: nobody listens.
    pub(crate) fn end(&self) {
        *self.listening.lock() = None;
    }

    pub(crate) fn add(&self, observer: Arc<dyn Observer>) {
        if let Some(listening) = self.listening.lock().as_ref() {
            listening.observers.lock().push(observer);
        }
    }

    fn tell(&self, of: Option<EndpointKey>, hint: impl Fn(&dyn Observer) + Clone + Send + 'static) {
        let Some(listening) = self.listening.lock().clone() else { return };
        let Some(store) = listening.store.upgrade() else { return };
        let (weather, dice) = (store.weather(), &store.dice);
        if dice.happens(weather.lost) {
            return;
        }
        let tell = move |listening: &Listening| {
            let observers = listening.observers.lock().clone();
            for observer in observers {
                hint(observer.as_ref());
            }
            if let (Some(endpoint), Some(store)) = (of, listening.store.upgrade()) {
                store.book.note(|events| events.is_told(endpoint, store.clock.now()));
            }
        };
        let again = dice.happens(weather.doubled);
        if dice.happens(weather.late) || again {
            let (late, listening, tell) = (dice.time(LATE), Arc::clone(&listening), tell.clone());
            let runtime = listening.runtime.clone();
            runtime.spawn(async move {
                tokio::time::sleep(late).await;
                tell(&listening);
            });
            if !again {
                return;
            }
        }
        tell(&listening);
    }
}

impl Relay {
    /// Passes on what the store has told. Must be called within the runtime of the present life.
    pub(crate) fn pass_on(&self) {
        let told = std::mem::take(&mut *self.told.lock());
        for hint in told {
            match hint {
                Hint::EndpointChanged(endpoint, application) => {
                    self.tell(Some(endpoint), move |observer| observer.endpoint_changed(endpoint, application));
                }
                Hint::WorkAdded(endpoint, application) => {
                    self.tell(None, move |observer| observer.work_added(endpoint, application));
                }
                Hint::MessagesExpunged(messages) => self.tell_expunged(&messages),
                Hint::TaskAdded => self.tell(None, |observer| observer.task_added()),
            }
        }
    }

    /// Not a hint only: it is what takes payloads out of memory. Within a process it is a call, which is not lost.
    fn tell_expunged(&self, messages: &[MessageKey]) {
        let Some(listening) = self.listening.lock().clone() else { return };
        let observers = listening.observers.lock().clone();
        for observer in observers {
            observer.messages_expunged(messages);
        }
    }
}

impl Observer for Relay {
    fn endpoint_changed(&self, endpoint: EndpointKey, application: Option<ApplicationKey>) {
        self.told.lock().push(Hint::EndpointChanged(endpoint, application));
    }

    fn work_added(&self, endpoint: EndpointKey, application: Option<ApplicationKey>) {
        self.told.lock().push(Hint::WorkAdded(endpoint, application));
    }

    fn messages_expunged(&self, messages: &[MessageKey]) {
        self.told.lock().push(Hint::MessagesExpunged(messages.to_vec()));
    }

    fn task_added(&self) {
        self.told.lock().push(Hint::TaskAdded);
    }
}
