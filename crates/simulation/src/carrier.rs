//! The network and the receivers at its other end.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use postrider_delivery::resolve::{Resolve, ResolveError};
use postrider_delivery::sender::{Carrier, Prepared, Sender, Sent, Slot};
use postrider_domain::attempt::MAX_KEPT_ANSWER_BYTES;
use postrider_domain::clock::Clock;
use postrider_domain::delivery::{Failure, Outcome};
use postrider_domain::message::Message;
use postrider_domain::time::Timestamp;
use postrider_store::{EndpointKey, Target};

use crate::book::{Book, Departure, Seen};
use crate::bounds::ON_ITS_WAY;
use crate::broken::Broken;
use crate::dice::Dice;
use crate::{dispatch, image, promises};

/// What a receiver that asks to wait asks for at most.
const ASKED: [Duration; 3] = [Duration::from_secs(4), Duration::from_secs(40), Duration::from_secs(7_200)];

/// How often one answers so that the result cannot be stored, if it does at all: others go into the same commit.
const UNSTORABLE: f64 = 0.3;

/// As much of an answer as is kept.
static LONG_ANSWER: [u8; MAX_KEPT_ANSWER_BYTES] = [b'a'; MAX_KEPT_ANSWER_BYTES];

/// How long a request is waited for.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// What a receiver does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Answers,
    AnswersAtLength,
    IsSlow,
    Hangs,
    Fails,
    AsksForLess,
    AsksToWait,
    IsGone,
    CannotBeReachedFromHere,
    /// What it answers now and then makes a result that cannot be stored.
    AnswersWhatCannotBeStored,
    /// A fault of ours: whatever is sent to it, or prepared for it, ends in a panic.
    MakesUsPanic,
    DoesThisAndThat,
}

impl Manner {
    pub(crate) const ALL: [Self; 12] = [
        Self::Answers,
        Self::AnswersAtLength,
        Self::IsSlow,
        Self::Hangs,
        Self::Fails,
        Self::AsksForLess,
        Self::AsksToWait,
        Self::IsGone,
        Self::CannotBeReachedFromHere,
        Self::AnswersWhatCannotBeStored,
        Self::MakesUsPanic,
        Self::DoesThisAndThat,
    ];
}

/// All receivers.
pub(crate) struct Receivers {
    manners: Mutex<BTreeMap<EndpointKey, Manner>>,
    dice: Arc<Dice>,
    book: Arc<Book>,
}

impl Receivers {
    pub(crate) fn new(dice: Arc<Dice>, book: Arc<Book>) -> Self {
        Self { manners: Mutex::default(), dice, book }
    }

    pub(crate) fn set(&self, endpoint: EndpointKey, manner: Manner) {
        self.manners.lock().insert(endpoint, manner);
    }

    /// From now on all of them answer.
    pub(crate) fn calm(&self) {
        self.manners.lock().clear();
    }

    fn manner(&self, endpoint: EndpointKey) -> Manner {
        let manner = self.manners.lock().get(&endpoint).copied().unwrap_or(Manner::Answers);
        if manner == Manner::DoesThisAndThat { *self.dice.one(&Manner::ALL[..7]) } else { manner }
    }
}

/// The sender of one life of the process.
pub(crate) struct Courier {
    pub(crate) receivers: Arc<Receivers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) life: usize,
    /// The most requests that may be under way.
    pub(crate) most: usize,
    pub(crate) under_way: AtomicUsize,
    /// Prepares endpoints as the real one does, and sends nothing.
    pub(crate) sender: Sender,
}

#[async_trait]
impl Carrier for Courier {
    fn prepare(&self, target: &Target) -> Arc<Prepared> {
        dispatch::may_stop();
        if self.receivers.manner(target.key) == Manner::MakesUsPanic {
            panics();
        }
        self.sender.prepare(target)
    }

    async fn send(&self, target: &Target, _: &Prepared, message: &Message, _: &mut Slot) -> Sent {
        let started = self.clock.now();
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        if under_way > self.most {
            self.receivers.book.note(|events| events.breaks(Broken::TooManyRequests { under_way, most: self.most }));
        }
        let outcome = AssertUnwindSafe(self.exchange(target, message, started)).catch_unwind().await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        let outcome = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Sent { outcome, duration: self.clock.now().since(started) }
    }

    fn release(&self, _: Slot) {}

    fn close_idle(&self) {}

    fn between_messages(&self) {
        dispatch::may_stop();
    }
}

impl Courier {
    async fn exchange(&self, target: &Target, message: &Message, begun: Timestamp) -> Outcome {
        let (receivers, endpoint) = (&self.receivers, target.key);
        let manner = receivers.manner(endpoint);
        let id = message.id.to_string();
        let departs = Departure { at: begun, life: self.life, endpoint, rate: target.endpoint.throttle_rate };
        receivers.book.note(|events| {
            events.departures.push(departs);
            promises::judge_departure(events, departs, target, &id);
        });
        if manner == Manner::MakesUsPanic {
            panics();
        }
        if manner == Manner::CannotBeReachedFromHere {
            return failed(Failure::Local, "no open files are left");
        }
        // On its way.
        tokio::time::sleep(receivers.dice.time(ON_ITS_WAY)).await;
        let at = self.clock.now();
        receivers.book.note(|events| {
            let Some(key) = events.keys.get(&id).copied() else { return };
            events.seen.entry(endpoint).or_default().push(Seen { begun, at, message: key });
        });
        receivers.book.line(at, || format!("endpoint {} sees {id}: {manner:?}", endpoint.0));
        match manner {
            Manner::Hangs => {
                tokio::time::sleep(TIMEOUT).await;
                return failed(Failure::Timeout, "no answer");
            }
            Manner::IsSlow => tokio::time::sleep(receivers.dice.time(TIMEOUT)).await,
            _ => tokio::time::sleep(receivers.dice.time(Duration::from_millis(50))).await,
        }
        match manner {
            Manner::Fails => answered(500, None),
            Manner::AsksForLess => answered(503, None),
            Manner::AsksToWait => {
                let asked = (endpoint, target.endpoint.url.as_str().to_owned());
                receivers.book.note(|events| events.asked_to_wait.insert(asked));
                answered(429, Some(receivers.dice.time(*receivers.dice.one(&ASKED))))
            }
            Manner::IsGone => answered(410, None),
            Manner::AnswersWhatCannotBeStored if receivers.dice.happens(UNSTORABLE) => {
                Outcome::Answered { status: 200, retry_after: None, body: Bytes::from_static(&[image::IS_UNSTORABLE]) }
            }
            Manner::AnswersAtLength => {
                let body = Bytes::from_static(&LONG_ANSWER);
                receivers.book.note(|events| {
                    if let Some(key) = events.keys.get(&id) {
                        events.unsettled.insert((endpoint, *key), body.len() as u64);
                    }
                });
                Outcome::Answered { status: 200, retry_after: None, body }
            }
            _ => answered(204, None),
        }
    }
}

/// A panic that prints nothing.
fn panics() -> ! {
    std::panic::resume_unwind(Box::new("a fault of ours"))
}

fn answered(status: u16, retry_after: Option<Duration>) -> Outcome {
    Outcome::Answered { status, retry_after, body: Bytes::new() }
}

fn failed(kind: Failure, detail: &str) -> Outcome {
    Outcome::Failed { kind, detail: detail.to_owned() }
}

/// There is no network.
pub(crate) struct NoNames;

#[async_trait]
impl Resolve for NoNames {
    async fn resolve(&self, _: &str) -> Result<Vec<std::net::IpAddr>, ResolveError> {
        std::future::pending().await
    }
}
