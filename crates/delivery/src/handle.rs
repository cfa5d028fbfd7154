//! The engine as others see it: what hands it messages, and what tells it of changes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use postrider_domain::ids::MessageId;
use postrider_store::{ApplicationKey, Dispatch, EndpointKey, HandOver, MessageKey, Observer};

use crate::holders::{Owner, Whose};
use crate::lane::State;
use crate::lanes::Lanes;

/// Guards each call: a bug here is no trouble of whoever calls.
pub(crate) struct Handle(pub(crate) Arc<Lanes>);

impl Handle {
    /// Runs what others call; whatever happens in it, they go on.
    fn guarded(&self, what: &str, run: impl FnOnce(&Arc<Lanes>)) {
        if catch_unwind(AssertUnwindSafe(|| run(&self.0))).is_err() {
            tracing::error!("{what} failed unexpectedly; what it was about is in the store");
        }
    }
}

impl Dispatch for Handle {
    fn announce(&self, messages: &[MessageId]) {
        self.0.on_their_way.announce(messages);
    }

    fn dispatch(&self, batch: HandOver) {
        let lanes = &self.0;
        let mut not_taken: Vec<(EndpointKey, Whose)> = Vec::new();
        for fresh in &batch.fresh {
            // All are of one application.
            if let Some(target) = fresh.targets.first() {
                lanes.environments.learn(Owner::of(target));
            }
            for target in &fresh.targets {
                lanes.carrier.between_messages();
                let (key, of) = (target.key, Some(Owner::of(target)));
                if let Some(at) = fresh.message.deliver_at {
                    self.guarded("noting a message for later", |lanes| lanes.later(key, of, at));
                    continue;
                }
                let offered = catch_unwind(AssertUnwindSafe(|| !fresh.unchecked && lanes.offer(fresh, target)));
                if !offered.unwrap_or(false) {
                    not_taken.push((key, of));
                }
            }
            // After the offers: a load that does not find it on its way any more may rely on them.
            for endpoint in lanes.on_their_way.arrived(&fresh.message.id) {
                let has = lanes.with_open(endpoint, |state| state.has(&fresh.message, fresh.key));
                if !has.unwrap_or(false) {
                    let target = fresh.targets.iter().find(|target| target.key == endpoint);
                    not_taken.push((endpoint, target.map(|target| Owner::of(target))));
                }
            }
        }
        for message in &batch.dropped {
            lanes.on_their_way.arrived(message);
        }
        lanes.on_their_way.handed_over();
        // After that: a load that came before has passed over what was not taken.
        if !not_taken.is_empty() {
            not_taken.sort_unstable();
            not_taken.dedup();
            self.guarded("bringing endpoints up", |lanes| lanes.bring_up(not_taken.into_iter()));
        }
    }
}

impl Observer for Handle {
    fn endpoint_changed(&self, endpoint: EndpointKey, of: Option<ApplicationKey>) {
        self.guarded("noting a change of an endpoint", |lanes| {
            let of = lanes.environments.owner(of);
            lanes.shard(endpoint).lock().changed_at = Some(lanes.clock.now());
            // A lane is wanted even if there is none: if the endpoint was disabled, what it has pending is to be canceled.
            lanes.bring_up_now(std::iter::once((endpoint, of)), State::mark_stale);
        });
    }

    fn work_added(&self, endpoint: EndpointKey, of: Option<ApplicationKey>) {
        self.guarded("noting work for an endpoint", |lanes| {
            lanes.bring_up(std::iter::once((endpoint, lanes.environments.owner(of))));
        });
    }

    fn messages_expunged(&self, messages: &[MessageKey]) {
        self.guarded("withdrawing erased messages", |lanes| lanes.withdraw(messages));
    }
}
