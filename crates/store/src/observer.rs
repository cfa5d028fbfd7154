//! How the engine in this process learns of changes that others made through the store. It is a hint that saves time:
//! whoever misses one finds the truth in the store.

use std::sync::Arc;

use postrider_domain::ids::MessageId;
use postrider_domain::message::Message;

use crate::{ApplicationKey, EndpointKey, MessageKey, Target};

/// Is told of changes, after their commit and before the writer's caller hears of it. Must return at once.
pub trait Observer: Send + Sync {
    /// An endpoint (its URL, keys, headers, limits, disabled flag) changed, or it was deleted. `application`: whose it is, so that
    /// applications take turns at what follows.
    fn endpoint_changed(&self, endpoint: EndpointKey, application: Option<ApplicationKey>);
    /// Deliveries were added for an endpoint of `application` by something other than accept.
    fn work_added(&self, endpoint: EndpointKey, application: Option<ApplicationKey>);
    /// The payloads of messages were erased: copies of them are not to be sent.
    fn messages_expunged(&self, messages: &[MessageKey]);
    /// A notice was added to the outbox.
    fn notice_added(&self) {}
    /// A background task was added.
    fn task_added(&self) {}
    /// An application was deleted: its data is to be erased.
    fn application_deleted(&self) {}
}

/// The observers of a store.
#[derive(Default)]
pub struct Observers(std::sync::RwLock<Vec<Arc<dyn Observer>>>);

impl Observers {
    /// Adds one.
    pub fn add(&self, observer: Arc<dyn Observer>) {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner).push(observer);
    }

    /// Tells all.
    pub fn tell(&self, news: impl Fn(&dyn Observer)) {
        for observer in self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
            // Whoever listens must not harm whoever writes.
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| news(observer.as_ref())));
            if told.is_err() {
                tracing::error!("an observer of the store failed unexpectedly");
            }
        }
    }
}

/// A message that was just accepted, with its fan-out, so that it can be sent without being read back.
#[derive(Debug, Clone)]
pub struct Fresh {
    /// The engine's handle of the message.
    pub key: MessageKey,
    /// The message. Its deliveries are due at its `due_at`.
    pub message: Arc<Message>,
    /// The endpoints it goes to, as the accept commit checked them.
    pub targets: Vec<Arc<Target>>,
    /// The accept commit did not check them: they may have changed since they were read, so whoever sends to them looks at them
    /// anew.
    pub unchecked: bool,
}

/// What came of a batch of messages that was announced.
#[derive(Debug, Default)]
pub struct HandOver {
    /// Those that were accepted.
    pub fresh: Vec<Fresh>,
    /// The others: there is nothing to deliver of them.
    pub dropped: Vec<MessageId>,
}

/// Takes over what was accepted.
///
/// Everything that is accepted in this process is announced before, and handed over after its commit exactly once, batch by batch in
/// the order in which they were announced: whoever loads deliveries from the store relies on that to tell those that are still on
/// their way through memory. What cannot be held may be dropped; it is in the store. What has a `deliver_at` is not to be held: its
/// endpoints are to be looked at then.
pub trait Dispatch: Send + Sync {
    /// These messages are about to be stored. Must return at once.
    fn announce(&self, messages: &[MessageId]);
    /// Takes over a batch. Must return at once.
    fn dispatch(&self, batch: HandOver);
}
