//! The contract between Postrider and a database: traits by area, what they exchange, and their errors.
//!
//! The store is the truth; everything in memory can be rebuilt from it. An engine (`store-sqlite`, later others) has
//! hand-written SQL of its own and passes the suite in the crate `store-conformance`, which is the other half of this
//! contract: what a trait's comment promises, the suite checks.
//!
//! # How to add an operation
//!
//! 1. Add the method to the trait of its area, with what it guarantees and which errors it has.
//! 2. Add cases to `store-conformance/src/<area>.rs`, and see them fail.
//! 3. Implement it in each engine, in the file named after the area. A method that writes takes everything it needs in
//!    one call and commits once; a method that lists takes a [`Scan`] and never an offset.
//!
//! # What every engine guarantees
//!
//! * A write that returned `Ok` has reached the disk. A write whose fate is unknown returns an error; repeating it with
//!   its idempotency key finds out.
//! * Writes are seen by every later call, from whichever task.
//! * Handles ([`ApplicationKey`], [`EndpointKey`], [`MessageKey`]) are the engine's own compact names: stable, never
//!   reused, never shown to callers of the API. Nothing follows from their order.

mod api_keys;
mod applications;
mod asker;
mod attempted;
mod attempts;
mod endpoints;
mod environments;
mod error;
mod event_types;
mod idempotency;
mod messages;
mod observer;
mod outbox;
mod retention;
mod scan;
mod streams;
mod tasks;
mod tokens;
mod work;

use async_trait::async_trait;

pub use api_keys::{ApiKey, ApiKeys, KeyHash};
pub use applications::{ApplicationFilter, ApplicationKey, Applications, Upserted};
pub use asker::{Asker, as_stranger, on_behalf};
pub use attempted::{Attempted, AttemptedFilter, AttemptedMessage, Destination, Standing, Story, Tried};
pub use attempts::{AttemptFilter, AttemptStats, Attempts, shown_bytes};
pub use endpoints::{
    ChangeHeadersError, EndpointKey, Endpoints, FORMER_URLS_PER_DAY, MAX_DELETED_ENDPOINTS, NewEndpoint, RotateError,
    URL_OVERHEAD, limits as endpoint_limits,
};
pub use environments::{EnvironmentKey, Environments, Import, ImportedEventType};
pub use error::{Capped, StoreError, WriteError};
pub use event_types::{EventTypeFilter, EventTypes};
pub use idempotency::{IdempotencyKey, Once, Owner, StoredAnswer, Written};
pub use messages::{MessageFilter, MessageKey, Messages};
pub use observer::{Dispatch, Fresh, HandOver, Observer, Observers};
pub use outbox::{
    MAX_NOTICES_OF_ALL, Notice, NoticeKey, NoticeTurn, Outbox, limits as outbox_limits, share_of_notices,
};
pub use retention::{AHEAD, ClockSeen, DELETED_KEPT, MOST_AHEAD, MOST_AHEAD_OF_KEYS, Retention, Swept};
pub use scan::{Direction, Listed, MAX_CONSUMERS, PAGE_BYTES, PAGE_ROWS, Scan, Walked, limits};
pub use streams::{StreamFilter, StreamNumber, StreamPosition, StreamSlice, Streams};
pub use tasks::{
    ASKED_BY_SCHEDULE, ASKED_PER_DAY, Advanced, Again, Job, MAX_ATTEMPTS_OF_MESSAGE, MAX_COUNTED_APPLICATIONS,
    MAX_COUNTED_TYPES, MAX_ENDED_TASKS, MAX_FIRST_TASKS_OF_ENVIRONMENT, MAX_MANUAL_OF_ENDPOINT, MAX_NOTICES,
    MAX_RECOVERED, MAX_TASKS_OF_APPLICATION, MAX_TASKS_OF_ENVIRONMENT, NewTask, Outcome, ReplayFilter, RunningTask,
    Share, Span, TaskError, TaskFilter, Tasks, WAITING, limits as task_limits,
};
pub use tokens::{IssuedToken, MAX_TOKEN_RULES, TokenExpiry, Tokens, limits as token_limits};
pub use work::{
    AcceptError, Accepted, AttemptRecord, DeliveryKey, Due, DueSlice, Elsewhere, NewMessage, Origin, ResendError,
    Resent, Routes, Settlement, Target, TooLarge, Unstorable, Wakes, Woken, Work,
};

/// A thing with the engine's handle for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<K, T> {
    /// The engine's handle.
    pub key: K,
    /// The thing.
    pub value: T,
}

/// All areas together.
#[async_trait]
pub trait Store:
    Applications
    + Endpoints
    + EventTypes
    + Environments
    + Messages
    + Attempts
    + Attempted
    + Work
    + ApiKeys
    + Tokens
    + Streams
    + Outbox
    + Tasks
    + Retention
    + Send
    + Sync
    + 'static
{
    /// Whether the store can read and write right now. Nobody sees what it writes.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Tells `observer` of changes from now on.
    fn observe(&self, observer: std::sync::Arc<dyn Observer>);

    /// Finishes what was handed over, and lets go of the database. Later calls return [`StoreError::Closed`].
    async fn close(&self);

    /// Whether it can still write: whatever does that runs, or was told to end.
    fn is_alive(&self) -> bool {
        true
    }
}
