//! The network and the receivers at its other end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use postrider_delivery::resolve::{Resolve, ResolveError};
use postrider_delivery::sender::{Carrier, Prepared, Sender, Sent, Slot};
use postrider_domain::clock::Clock;
use postrider_domain::delivery::{Failure, Outcome};
use postrider_domain::message::Message;
use postrider_store::{EndpointKey, Target};

use crate::book::{Book, Seen};
use crate::dice::Dice;

/// How long a request is waited for.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// What a receiver does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Answers,
    IsSlow,
    Hangs,
    Fails,
    AsksForLess,
    AsksToWait,
    IsGone,
    CannotBeReachedFromHere,
    DoesThisAndThat,
}

impl Manner {
    pub(crate) const ALL: [Self; 9] = [
        Self::Answers,
        Self::IsSlow,
        Self::Hangs,
        Self::Fails,
        Self::AsksForLess,
        Self::AsksToWait,
        Self::IsGone,
        Self::CannotBeReachedFromHere,
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
        if manner == Manner::DoesThisAndThat { *self.dice.one(&Manner::ALL[..6]) } else { manner }
    }
}

/// The sender of one life of the process.
pub(crate) struct Courier {
    pub(crate) receivers: Arc<Receivers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) life: usize,
    /// Prepares endpoints as the real one does, and sends nothing.
    pub(crate) sender: Sender,
}

#[async_trait]
impl Carrier for Courier {
    fn prepare(&self, target: &Target) -> Arc<Prepared> {
        self.sender.prepare(target)
    }

    async fn send(&self, target: &Target, _: &Prepared, message: &Message, _: &mut Slot) -> Sent {
        let started = self.clock.now();
        let outcome = self.exchange(target, message).await;
        Sent { outcome, duration: self.clock.now().since(started) }
    }

    fn release(&self, _: Slot) {}

    fn close_idle(&self) {}
}

impl Courier {
    async fn exchange(&self, target: &Target, message: &Message) -> Outcome {
        let (receivers, endpoint) = (&self.receivers, target.key);
        let manner = receivers.manner(endpoint);
        if manner == Manner::CannotBeReachedFromHere {
            return failed(Failure::Local, "no open files are left");
        }
        // On its way.
        tokio::time::sleep(receivers.dice.time(Duration::from_millis(20))).await;
        let (id, at) = (message.id.to_string(), self.clock.now());
        receivers.book.note(|events| {
            let Some(key) = events.keys.get(&id).copied() else { return };
            events.seen.entry(endpoint).or_default().push(Seen { at, life: self.life, message: key });
            if manner == Manner::IsGone {
                events.shut.insert(endpoint);
            }
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
            Manner::AsksToWait => answered(429, Some(receivers.dice.time(Duration::from_secs(40)))),
            Manner::IsGone => answered(410, None),
            _ => answered(204, None),
        }
    }
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
