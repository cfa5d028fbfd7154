//! What happened: what was promised to callers, what the store committed, and what receivers saw. Filled from outside the
//! engine, so that it can be held against what the engine says.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use postrider_delivery::Usage;
use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::Next;
use postrider_domain::time::Timestamp;
use postrider_store::{EndpointKey, MessageKey};

/// A message at an endpoint.
pub(crate) type At = (EndpointKey, MessageKey);

/// A request that a receiver saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) at: Timestamp,
    pub(crate) life: usize,
    pub(crate) message: MessageKey,
}

/// A result that was committed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settled {
    pub(crate) trigger: Trigger,
    pub(crate) attempted: bool,
    pub(crate) succeeded: bool,
    pub(crate) next: Next,
}

/// Everything that happened.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// Deliveries that an accept commit made, and when.
    pub(crate) accepted: BTreeMap<At, Timestamp>,
    /// The handles of messages by their ids, which is how receivers know them.
    pub(crate) keys: BTreeMap<String, MessageKey>,
    /// Messages that a caller was told of.
    pub(crate) acked: BTreeSet<String>,
    /// What receivers saw, by endpoint.
    pub(crate) seen: BTreeMap<EndpointKey, Vec<Seen>>,
    /// Results, by delivery.
    pub(crate) settled: BTreeMap<At, Vec<Settled>>,
    /// Results whose commit the engine was told of, and that were successes: when.
    pub(crate) known_successes: BTreeMap<At, Timestamp>,
    /// When somebody asked for a message to be sent again.
    pub(crate) asked_again: BTreeMap<At, Timestamp>,
    /// When somebody asked an endpoint to be sent many messages again.
    pub(crate) replayed: BTreeMap<EndpointKey, Timestamp>,
    /// When payloads were gone for certain.
    pub(crate) erased: BTreeMap<MessageKey, Timestamp>,
    /// When somebody began to erase payloads.
    pub(crate) erasing: BTreeSet<MessageKey>,
    /// Endpoints that somebody disabled or deleted, or that said that they are gone: what waits there may be canceled.
    pub(crate) shut: BTreeSet<EndpointKey>,
    /// Endpoints that somebody deleted, or began to.
    pub(crate) deleted: BTreeSet<EndpointKey>,
    /// Requests per second that an endpoint allows.
    pub(crate) rates: BTreeMap<EndpointKey, u16>,
    /// Endpoints that are disabled at the end, with a cause that is stored.
    pub(crate) failed_for_long: BTreeSet<EndpointKey>,
    /// What the engine still held when all was quiet.
    pub(crate) left_over: Option<Usage>,
    /// A line for each of these, in order.
    pub(crate) trace: Vec<String>,
}

/// The events, and whoever adds to them.
#[derive(Debug, Default)]
pub(crate) struct Book(Mutex<Events>);

impl Book {
    /// Adds something.
    pub(crate) fn note<T>(&self, add: impl FnOnce(&mut Events) -> T) -> T {
        add(&mut self.0.lock())
    }

    /// Adds a line to the trace.
    pub(crate) fn line(&self, at: Timestamp, line: impl FnOnce() -> String) {
        self.0.lock().trace.push(format!("{at} {}", line()));
    }
}
