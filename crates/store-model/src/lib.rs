//! The store as a model: the contract in memory, plain and obviously right instead of fast. For tests and the simulation only.
//!
//! * All that is stored is one `State`: ordered maps behind one lock. Each operation is one critical section, which is
//!   its commit: whoever looks sees all of it or nothing. What is refused is taken back whole.
//! * There are no threads, no indexes and no caches. A list is what its filter lets through of everything, sorted.
//! * A [`Database`] outlives the stores on it, as a file does: a store that is opened on it again finds what was there.
//!
//! What the contract leaves to an engine is as simple as can be here: a page ends early only because of its bytes, counting is done in
//! one step, and nothing is kept longer than it has to be.

mod api_keys;
mod applications;
mod asked;
mod attempted;
mod attempts;
mod endpoints;
mod environments;
mod event_types;
mod idempotency;
mod lists;
mod messages;
mod outbox;
mod records;
mod retention;
mod settle;
mod state;
mod streams;
mod tasks;
mod tokens;
mod urls;
mod wakes;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use postrider_domain::time::Timestamp;
use postrider_store::{ASKED_PER_DAY, Observer, Observers, Store, StoreError};

use state::{News, State};

/// What is stored.
#[derive(Debug)]
pub struct Database(Mutex<State>);

impl Default for Database {
    /// One with nothing in it but what every store has.
    fn default() -> Self {
        Self(Mutex::new(State::empty()))
    }
}

/// A store in memory.
pub struct ModelStore {
    database: Arc<Database>,
    observers: Observers,
    is_closed: AtomicBool,
    /// By which time idempotency keys are old, as far as whoever opened this knows; see `Retention::believed`.
    keys_seen: Mutex<Option<Timestamp>>,
    /// How many attempts an application's callers may ask for in a day: so many by `resend`, and as many by tasks.
    asked_per_day: u64,
    /// See [`ModelStore::failing_at`].
    fails_at: fn(&[u8]) -> bool,
    /// See [`ModelStore::refusing_results`].
    refuses: fn(&[u8]) -> bool,
}

impl ModelStore {
    /// Opens a store on a database.
    pub fn open(database: Arc<Database>) -> Self {
        let (observers, is_closed) = (Observers::default(), AtomicBool::new(false));
        let keys_seen = Mutex::new(database.0.lock().clock_seen().map(|seen| seen.keys));
        Self {
            database,
            observers,
            is_closed,
            keys_seen,
            asked_per_day: ASKED_PER_DAY,
            fails_at: |_| false,
            refuses: |_| false,
        }
    }

    /// The same, with another number of attempts that an application's callers may ask for in a day.
    #[must_use]
    pub fn asked_at_most(self, per_day: u64) -> Self {
        Self { asked_per_day: per_day, ..self }
    }

    /// The same, but a batch fails, as on a full disk, in which a message with such a payload would be accepted.
    #[must_use]
    pub fn failing_at(self, payload: fn(&[u8]) -> bool) -> Self {
        Self { fails_at: payload, ..self }
    }

    /// The same, but the result of an attempt with such an answer cannot be stored.
    #[must_use]
    pub fn refusing_results(self, answer: fn(&[u8]) -> bool) -> Self {
        Self { refuses: answer, ..self }
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.is_closed.load(Ordering::SeqCst) { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// Looks at what is stored.
    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> Result<T, StoreError> {
        self.check_open()?;
        Ok(look(&self.database.0.lock()))
    }

    /// Makes a change that is not refused.
    fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> Result<T, StoreError> {
        self.check_open()?;
        let mut state = self.database.0.lock();
        let changed = change(&mut state);
        let news = std::mem::take(&mut state.news);
        drop(state);
        self.tell(&news);
        Ok(changed)
    }

    /// Makes a change that may be refused, also half way: then nothing was written.
    fn try_write<T, E: From<StoreError>>(&self, change: impl FnOnce(&mut State) -> Result<T, E>) -> Result<T, E> {
        self.write(|state| {
            let before = state.clone();
            change(state).inspect_err(|_| *state = before)
        })?
    }

    fn tell(&self, news: &[News]) {
        for item in news {
            self.observers.tell(|observer| match item {
                News::EndpointChanged(endpoint, of) => observer.endpoint_changed(*endpoint, *of),
                News::WorkAdded(endpoint, of) => observer.work_added(*endpoint, *of),
                News::MessagesExpunged(messages) => observer.messages_expunged(messages),
                News::NoticeAdded => observer.notice_added(),
                News::TaskAdded => observer.task_added(),
                News::ApplicationDeleted => observer.application_deleted(),
            });
        }
    }
}

#[async_trait]
impl Store for ModelStore {
    async fn ping(&self) -> Result<(), StoreError> {
        self.check_open()
    }

    fn observe(&self, observer: Arc<dyn Observer>) {
        self.observers.add(observer);
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
    }
}
