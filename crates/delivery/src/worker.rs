//! A worker: makes one attempt after the other for a lane, until the lane has none for it.
//!
//! It keeps its connection from one attempt to the next. It performs what others decide: the lane what comes next,
//! `domain::delivery::transition` what follows from the outcome, the settler when that is stored.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::{Failure, Next, Outcome, Progress, transition};
use postrider_domain::ids::AttemptId;
use postrider_domain::notice;
use postrider_domain::time::Timestamp;
use postrider_store::{AttemptRecord, DeliveryKey, Elsewhere, EndpointKey, Origin, Settlement};

use crate::holders::Owner;
use crate::lane::{Held, Lane, Ready};
use crate::lanes::Lanes;
use crate::results::Unsettled;
use crate::sender::{Sent, Slot};

/// Runs until the lane has nothing for it, or the engine stops.
pub(crate) async fn run(lanes: Arc<Lanes>, lane: Arc<Lane>, delivery: Held, ready: Arc<Ready>) {
    let mut slot = Slot::default();
    let mut next = Some((delivery, ready));
    while let Some((delivery, ready)) = next.take() {
        let attempt = attempt(&lanes, &lane, delivery.clone(), &ready, &mut slot);
        if AssertUnwindSafe(attempt).catch_unwind().await.is_err() {
            // The delivery is in the store, and its endpoint comes back to it after a pause.
            tracing::error!(message_id = %delivery.message.id, endpoint = %ready.target.endpoint.id, "an attempt failed unexpectedly");
            let now = lanes.clock.now();
            lane.state.lock().failed_unexpectedly(Some(&delivery), now, &lanes.budgets);
            break;
        }
        // An attempt that is refused before it begins waits for nothing, and there may be very many of them.
        tokio::task::consume_budget().await;
        if !lanes.is_stopping() {
            next = lane.state.lock().take(lanes.clock.now(), &lanes.budgets);
        }
    }
    lanes.carrier.release(slot);
    lane.state.lock().worker_left(&lanes.budgets);
    lanes.permit_free();
    lanes.pump(&lane);
    lanes.worker_gone();
}

async fn attempt(lanes: &Arc<Lanes>, lane: &Arc<Lane>, delivery: Held, ready: &Ready, slot: &mut Slot) {
    let started_at = lanes.clock.now();
    let id = AttemptId::new(started_at, lanes.entropy.as_ref());
    let sending = async {
        match lanes.carrier.as_sender() {
            Some(sender) => sender.send(&ready.prepared, &delivery.message, slot).await,
            None => lanes.carrier.send(&ready.target, &ready.prepared, &delivery.message, slot).await,
        }
    };
    // A bug in sending must cost one attempt, not the delivery.
    let sent = AssertUnwindSafe(sending).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(message_id = %delivery.message.id, endpoint = %ready.target.endpoint.id, "sending failed unexpectedly");
        let detail = "the request could not be made because of an internal error".to_owned();
        Sent { outcome: Outcome::Failed { kind: Failure::Protocol, detail }, duration: std::time::Duration::ZERO }
    });
    let now = lanes.clock.now();
    if let Outcome::Failed { kind: Failure::Local, detail } = &sent.outcome {
        let (message_id, endpoint) = (&delivery.message.id, &ready.target.endpoint.id);
        tracing::debug!(%message_id, %endpoint, detail, "failed to make an attempt; it is made later, and not counted");
        return lane.state.lock().put_back(delivery, now, &lanes.budgets);
    }
    let silent = lane.state.lock().pace.is_silent();
    let progress = Progress { made: delivery.made, trigger: delivery.trigger, silent };
    let unit = if sent.outcome.succeeded() { 0.0 } else { lanes.entropy.unit() };
    let decision = transition(progress, &sent.outcome, &lanes.policy, now, unit);
    lane.state.lock().learn(ready.target.receiver, &sent.outcome, &decision, now);
    log(&delivery, ready, &sent, &decision.next);
    let (status_code, succeeded) = (status_code(&sent.outcome), sent.outcome.succeeded());
    let settlement = Settlement {
        endpoint: lane.key,
        delivery: delivery.key,
        made: delivery.made,
        trigger: delivery.trigger,
        attempt: Some(AttemptRecord {
            id,
            started_at,
            url: Arc::clone(&ready.url),
            succeeded,
            status_code,
            response: kept(lanes, Owner::of(&ready.target), response(sent.outcome), now),
            duration_ms: u32::try_from(sent.duration.as_millis()).unwrap_or(u32::MAX),
        }),
        next: decision.next,
        elsewhere: Some(Elsewhere { receiver: ready.target.receiver, next: decision.elsewhere }),
        against: decision.against,
        notice: notice::of_attempt(progress, decision.next),
        origin: Some(Origin { application: ready.target.application, message: Arc::clone(&delivery.message) }),
    };
    let unsettled = Unsettled { lane: Arc::clone(lane), held: Some(delivery), settlement };
    lanes.results.submit(unsettled, &lanes.budgets.memory);
}

/// What is kept of an answer: all of it as far as memory and the application's allowance go.
fn kept(lanes: &Lanes, owner: Owner, answer: Bytes, now: Timestamp) -> Bytes {
    let has_memory = |bytes| lanes.budgets.memory.has_room_for_answer(Some(owner), bytes);
    lanes.kept.cut(owner.application, answer, has_memory, now)
}

/// The end of a delivery whose payload is gone: there is nothing to send.
pub(crate) fn canceled(endpoint: EndpointKey, delivery: DeliveryKey, made: u32, trigger: Trigger) -> Settlement {
    Settlement {
        endpoint,
        delivery,
        made,
        trigger,
        attempt: None,
        next: Next::Canceled,
        elsewhere: None,
        against: None,
        notice: None,
        origin: None,
    }
}

fn status_code(outcome: &Outcome) -> u16 {
    match outcome {
        Outcome::Answered { status, .. } => *status,
        Outcome::Failed { .. } => 0,
    }
}

/// What the log is to say: the first bytes of the answer, or what went wrong.
fn response(outcome: Outcome) -> Bytes {
    match outcome {
        Outcome::Answered { body, .. } => body,
        Outcome::Failed { detail, .. } => detail.into(),
    }
}

/// One line where the outcome is decided; a success is only worth one to those who look closely. (The name `message` is that of
/// the line's text.)
fn log(delivery: &Held, ready: &Ready, sent: &Sent, next: &Next) {
    let (message_id, endpoint) = (&delivery.message.id, &ready.target.endpoint.id);
    // One that somebody asked for is none of the schedule's, and has no number there.
    let attempt = (delivery.trigger == Trigger::Scheduled).then(|| delivery.made.saturating_add(1));
    let manual = (delivery.trigger == Trigger::Manual).then_some(true);
    let (status, reason) = match &sent.outcome {
        Outcome::Answered { status, .. } => (*status, None),
        Outcome::Failed { detail, .. } => (0, Some(detail.as_str())),
    };
    match next {
        Next::Succeeded => tracing::debug!(%message_id, %endpoint, attempt, manual, status, "delivered"),
        Next::Waiting(at) => {
            tracing::debug!(%message_id, %endpoint, attempt, manual, status, reason, next_attempt_at = %at, "attempt failed");
        }
        Next::Exhausted => {
            tracing::info!(%message_id, %endpoint, attempt, manual, status, reason, "attempts exhausted");
        }
        Next::Canceled => tracing::info!(%message_id, %endpoint, attempt, manual, status, reason, "delivery canceled"),
    }
}
