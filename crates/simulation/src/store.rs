//! The store as the engine sees it: the real one, but calls take time, may be refused, and hints of changes go astray.
//!
//! A call of the store below takes effect at one instant of the simulated time, somewhere between its begin and its end. So
//! the order in which calls take effect is the seed's to choose, and every other thing that happens between two of them is
//! something that can happen on a machine.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::clock::Clock;
use postrider_store::{
    AcceptError, Accepted, ApplicationKey, EndpointKey, MessageKey, NewMessage, Observer, Settlement, Store,
    StoreError, Unstorable,
};
use tokio::runtime::Handle;

use crate::book::{Book, Settled};
use crate::dice::Dice;

/// What the way to the store is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// How long a call takes at most, before and after it takes effect.
    pub(crate) slow: Duration,
    /// How often a call is refused, and nothing came of it.
    pub(crate) refuses: f64,
    /// How often what was accepted is in doubt after its commit.
    pub(crate) doubts: f64,
    /// How often a hint is lost.
    pub(crate) lost: f64,
    /// How often it is late, and for how long at most.
    pub(crate) late: f64,
    /// How often it comes twice.
    pub(crate) doubled: f64,
}

impl Weather {
    /// Everything works.
    pub(crate) const CALM: Self =
        Self { slow: Duration::from_micros(100), refuses: 0.0, doubts: 0.0, lost: 0.0, late: 0.0, doubled: 0.0 };

    pub(crate) fn drawn(dice: &Dice) -> Self {
        let slow = *dice.one(&[0, 1, 20, 200, 2_000]);
        Self {
            slow: Duration::from_millis(slow),
            refuses: *dice.one(&[0.0, 0.0, 0.01, 0.1, 0.3]),
            doubts: *dice.one(&[0.0, 0.0, 0.2]),
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
}

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
        if self.dice.happens(self.weather().refuses) {
            self.book.line(self.clock.now(), || format!("the store refuses {what}"));
            return Err(StoreError::Unavailable("bad weather".to_owned()).into());
        }
        let result = at_once(call);
        self.book.line(self.clock.now(), || format!("{what}{}", if result.is_ok() { "" } else { " (refused)" }));
        self.wait().await;
        result
    }

    /// As [`postrider_store::Work::accept`].
    pub(crate) async fn accept_noted(&self, batch: Vec<NewMessage>) -> Vec<Result<Accepted, AcceptError>> {
        let count = batch.len();
        let notes: Vec<_> = batch.iter().map(|new| (new.message.id.to_string(), new.endpoints.clone())).collect();
        let call = async {
            let mut results = self.below.accept(batch).await;
            let now = self.clock.now();
            self.book.note(|events| {
                for ((id, endpoints), result) in notes.iter().zip(&results) {
                    let Ok(Accepted::New(key)) = result else { continue };
                    events.keys.insert(id.clone(), *key);
                    events.accepted.extend(endpoints.iter().map(|endpoint| ((*endpoint, *key), now)));
                    events.trace.push(format!("{now} {id} is message {} for {endpoints:?}", key.0));
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
        let notes: Vec<_> = batch
            .iter()
            .map(|item| {
                let succeeded = item.attempt.as_ref().is_some_and(|attempt| attempt.succeeded);
                let (trigger, attempted, next) = (item.trigger, item.attempt.is_some(), item.next);
                let settled = Settled { trigger, attempted, succeeded, next };
                ((item.endpoint, item.delivery.message), settled)
            })
            .collect();
        let call = async {
            let unstorable = self.below.settle(batch).await?;
            let now = self.clock.now();
            self.book.note(|events| {
                for (at, settled) in &notes {
                    events.settled.entry(*at).or_default().push(*settled);
                    let ((endpoint, message), next) = (at, settled.next);
                    events.trace.push(format!("{now} endpoint {}, message {}: {next:?}", endpoint.0, message.0));
                }
            });
            Ok::<_, StoreError>(unstorable)
        };
        let unstorable = self.call("settle", call).await?;
        let now = self.clock.now();
        self.book.note(|events| {
            for (at, _) in notes.iter().filter(|(_, settled)| settled.succeeded) {
                events.known_successes.entry(*at).or_insert(now);
            }
        });
        Ok(unstorable)
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
#[derive(Default)]
pub(crate) struct Relay(Mutex<Option<Arc<Listening>>>);

/// Who listens in one life.
struct Listening {
    observers: Mutex<Vec<Arc<dyn Observer>>>,
    runtime: Handle,
    store: std::sync::Weak<Stormy>,
}

impl Relay {
    /// A life begins, within its runtime.
    pub(crate) fn begin(&self, store: &Arc<Stormy>) {
        let (observers, runtime) = (Mutex::default(), Handle::current());
        *self.0.lock() = Some(Arc::new(Listening { observers, runtime, store: Arc::downgrade(store) }));
    }

    /// It ends: nobody listens.
    pub(crate) fn end(&self) {
        *self.0.lock() = None;
    }

    pub(crate) fn add(&self, observer: Arc<dyn Observer>) {
        if let Some(listening) = self.0.lock().as_ref() {
            listening.observers.lock().push(observer);
        }
    }

    fn tell(&self, hint: impl Fn(&dyn Observer) + Clone + Send + 'static) {
        let Some(listening) = self.0.lock().clone() else { return };
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

impl Observer for Relay {
    fn endpoint_changed(&self, endpoint: EndpointKey, application: Option<ApplicationKey>) {
        self.tell(move |observer| observer.endpoint_changed(endpoint, application));
    }

    fn work_added(&self, endpoint: EndpointKey, application: Option<ApplicationKey>) {
        self.tell(move |observer| observer.work_added(endpoint, application));
    }

    fn messages_expunged(&self, messages: &[MessageKey]) {
        // Not a hint only: it is what takes payloads out of memory. Within a process it is a call, which is not lost.
        let Some(listening) = self.0.lock().clone() else { return };
        let observers = listening.observers.lock().clone();
        for observer in observers {
            observer.messages_expunged(messages);
        }
    }

    fn task_added(&self) {
        self.tell(|observer| observer.task_added());
    }
}

/// Waits here, so that no simulated time passes and nothing else happens, until a call is done by the threads of the store.
pub(crate) fn at_once<T>(call: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut call = pin!(call);
    loop {
        if let Poll::Ready(result) = call.as_mut().poll(&mut context) {
            return result;
        }
        std::thread::park();
    }
}
