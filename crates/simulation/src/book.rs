//! What happened: what was promised to callers, what the store committed, and what receivers saw. Filled from outside the
//! engine, so that it can be held against what the engine says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use postrider_delivery::Usage;
use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::Next;
use postrider_domain::ids::{AttemptId, TaskId};
use postrider_domain::time::Timestamp;
use postrider_store::{ApplicationKey, DeliveryKey, EndpointKey, IdempotencyKey, MessageKey, Target};

use crate::broken::Broken;
use crate::health::Health;

/// A message at an endpoint.
pub(crate) type At = (EndpointKey, MessageKey);

/// The place of an event among all events: several may happen at one instant.
pub(crate) type Turn = u64;

/// A request that a receiver saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) begun: Timestamp,
    pub(crate) at: Timestamp,
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

/// Whether an endpoint wants messages.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shut {
    /// It was disabled or deleted, and has not been enabled since.
    Now,
    /// It was enabled again.
    Until(Turn),
}

/// Whose rate it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Limited {
    Endpoint(EndpointKey),
    Application(ApplicationKey),
}

/// A request that left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Departure {
    pub(crate) at: Timestamp,
    pub(crate) life: usize,
    pub(crate) endpoint: EndpointKey,
    /// The rate of its endpoint that the process knew.
    pub(crate) rate: Option<u16>,
}

/// A rate, in requests per second, that was stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rated {
    pub(crate) at: Timestamp,
    pub(crate) life: usize,
    pub(crate) rate: Option<u16>,
}

impl Rated {
    /// What was in force when the world began.
    pub(crate) fn at_first(rate: Option<u16>) -> Self {
        Self { at: Timestamp::EPOCH, life: 0, rate }
    }
}

/// An endpoint as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Present {
    pub(crate) target: Arc<Target>,
    /// When the process heard of that; nobody has told it yet if there is none.
    pub(crate) told: Option<Timestamp>,
}

/// Deliveries that were added for somebody who asked for them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Added {
    /// When there was one first.
    pub(crate) first: Timestamp,
    /// How many attempts by hand.
    pub(crate) manual: usize,
    /// How many that are tried by the schedule.
    pub(crate) scheduled: usize,
}

/// Everything that happened.
#[derive(Debug, Default)]
pub(crate) struct Events {
    turn: Turn,
    /// Deliveries that an accept commit made, and when.
    pub(crate) accepted: BTreeMap<At, Turn>,
    /// The handles of messages by their ids, which is how receivers know them.
    pub(crate) keys: BTreeMap<String, MessageKey>,
    /// Messages that a caller was told of.
    pub(crate) acked: BTreeSet<String>,
    /// The message that was accepted under a key.
    pub(crate) under: BTreeMap<[u8; 16], MessageKey>,
    /// What receivers saw, by endpoint.
    pub(crate) seen: BTreeMap<EndpointKey, Vec<Seen>>,
    /// Every request, in order.
    pub(crate) departures: Vec<Departure>,
    /// Results, by delivery.
    pub(crate) settled: BTreeMap<At, Vec<Settled>>,
    /// Results whose commit the engine was told of, and that were the end of a delivery: when.
    pub(crate) known_ends: BTreeMap<At, Timestamp>,
    /// When a delivery is tried again, as is stored.
    pub(crate) waits: BTreeMap<At, Timestamp>,
    /// Attempts that are stored.
    pub(crate) logged: BTreeSet<AttemptId>,
    /// Attempts by the schedule that were stored of a delivery, since it was accepted or replayed.
    pub(crate) made: BTreeMap<At, u32>,
    /// What was added for somebody who asked for a message to be sent again.
    pub(crate) added: BTreeMap<At, Added>,
    /// Where tasks send messages again.
    pub(crate) tasks: BTreeMap<TaskId, EndpointKey>,
    /// Deliveries of which a result could not be stored in this life.
    pub(crate) stuck: BTreeSet<(EndpointKey, DeliveryKey)>,
    /// When payloads were gone for certain.
    pub(crate) erased: BTreeMap<MessageKey, Timestamp>,
    /// When somebody began to erase payloads.
    pub(crate) erasing: BTreeSet<MessageKey>,
    /// Endpoints that were disabled or deleted: what was accepted before that may be canceled.
    pub(crate) shut: BTreeMap<EndpointKey, Shut>,
    /// Endpoints that somebody deleted, or began to.
    pub(crate) deleted: BTreeSet<EndpointKey>,
    /// Endpoints as they are stored.
    pub(crate) present: BTreeMap<EndpointKey, Present>,
    /// When the process heard last that an endpoint was changed.
    pub(crate) told: BTreeMap<EndpointKey, Timestamp>,
    /// When deliveries of an endpoint were loaded since anything came of it.
    pub(crate) loads: BTreeMap<EndpointKey, VecDeque<Timestamp>>,
    /// How endpoints must be doing, by what was stored of them.
    pub(crate) health: BTreeMap<EndpointKey, Health>,
    /// What was allowed, in turn, of those that ever had a limit.
    pub(crate) rates: BTreeMap<Limited, Vec<Rated>>,
    /// Whose endpoints they are.
    pub(crate) applications: BTreeMap<EndpointKey, ApplicationKey>,
    /// Endpoints that asked to be left alone, with the URL that they had.
    pub(crate) asked_to_wait: BTreeSet<(EndpointKey, String)>,
    /// Bytes of answers of this life that the store does not have yet.
    pub(crate) unsettled: BTreeMap<At, u64>,
    /// Endpoints that are disabled at the end, with a cause that is stored.
    pub(crate) disabled_with_cause: BTreeSet<EndpointKey>,
    /// What the engine still held when all was quiet.
    pub(crate) left_over: Option<Usage>,
    /// Promises that were broken as it happened.
    pub(crate) broken: Vec<Broken>,
    /// A line for each of these, in order.
    pub(crate) trace: Vec<String>,
}

impl Events {
    /// The next place among all events.
    pub(crate) fn turn(&mut self) -> Turn {
        self.turn += 1;
        self.turn
    }

    /// Notes that an endpoint wants messages from now on, or none.
    pub(crate) fn opens(&mut self, endpoint: EndpointKey, opens: bool) {
        let turn = self.turn();
        match (opens, self.shut.get(&endpoint)) {
            (false, _) => drop(self.shut.insert(endpoint, Shut::Now)),
            (true, Some(Shut::Now)) => drop(self.shut.insert(endpoint, Shut::Until(turn))),
            (true, _) => {}
        }
    }

    /// Whether an endpoint wanted no messages at any time since then.
    pub(crate) fn was_shut_since(&self, endpoint: EndpointKey, turn: Turn) -> bool {
        match self.shut.get(&endpoint) {
            Some(Shut::Now) => true,
            Some(Shut::Until(end)) => turn < *end,
            None => false,
        }
    }

    /// A delivery was added for somebody who asked for it.
    pub(crate) fn adds(&mut self, at: At, trigger: Trigger, now: Timestamp) {
        let added = self.added.entry(at).or_insert(Added { first: now, manual: 0, scheduled: 0 });
        match trigger {
            Trigger::Manual => added.manual += 1,
            Trigger::Scheduled => {
                added.scheduled += 1;
                self.made.remove(&at);
                self.waits.remove(&at);
            }
        }
    }

    /// Whether something of an endpoint is left alone until the next start.
    pub(crate) fn has_stuck(&self, endpoint: EndpointKey) -> bool {
        self.stuck.iter().any(|(whose, _)| *whose == endpoint)
    }

    /// Whether a delivery of a message is left alone until the next start.
    pub(crate) fn is_stuck(&self, (endpoint, message): At) -> bool {
        self.stuck.iter().any(|(whose, delivery)| (*whose, delivery.message) == (endpoint, message))
    }

    /// Something happened that is a reason to load deliveries of an endpoint.
    pub(crate) fn progress(&mut self, endpoint: EndpointKey) {
        self.loads.remove(&endpoint);
    }

    /// A process begins: whatever was in the memory of the one before is gone.
    pub(crate) fn begins_anew(&mut self, now: Timestamp) {
        self.unsettled.clear();
        self.stuck.clear();
        self.loads.clear();
        for present in self.present.values_mut() {
            present.told = Some(now);
        }
    }

    /// Notes that a message was accepted under a key.
    pub(crate) fn accepted_under(&mut self, key: IdempotencyKey, message: MessageKey) {
        if let Some(before) = self.under.insert(key.0, message) {
            self.breaks(Broken::AcceptedTwice { messages: [before.0, message.0] });
        }
    }

    /// Notes a promise that was broken, unless it was before.
    pub(crate) fn breaks(&mut self, broken: Broken) {
        if !self.broken.contains(&broken) {
            self.trace.push(format!("BROKEN: {broken:?}"));
            self.broken.push(broken);
        }
    }
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
