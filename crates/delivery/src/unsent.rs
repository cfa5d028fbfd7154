//! Deliveries that end without an attempt, because the payloads of their messages were erased before (by retention, or because
//! somebody expunged them), or because their endpoint is disabled. Nobody gets a response then, so the log says it: of each kind in
//! one line a minute at most.

use postrider_domain::ids::EndpointId;
use postrider_domain::time::Timestamp;
use postrider_store::EndpointKey;

use crate::unsaid::Unsaid;

/// What was not said yet.
#[derive(Default)]
pub(crate) struct Unsent {
    erased: Unsaid,
    disabled: Unsaid,
}

impl Unsent {
    /// So many deliveries to an endpoint were found to have nothing to send.
    pub(crate) fn note(&self, endpoint: EndpointKey, deliveries: usize, now: Timestamp) {
        if let Some(canceled) = self.erased.to_say(deliveries, now) {
            say_erased(canceled, Some(endpoint));
        }
    }

    /// So many deliveries were canceled because their endpoint is disabled.
    pub(crate) fn note_disabled(&self, endpoint: Option<EndpointId>, deliveries: usize, now: Timestamp) {
        if let Some(canceled) = self.disabled.to_say(deliveries, now) {
            say_disabled(canceled, endpoint.filter(|_| canceled == deliveries));
        }
    }

    /// Says what was not said yet, if it is time for that. To be called now and then: nothing more may happen.
    pub(crate) fn say_the_rest(&self, now: Timestamp) {
        if let Some(canceled) = self.erased.to_say(0, now) {
            say_erased(canceled, None);
        }
        if let Some(canceled) = self.disabled.to_say(0, now) {
            say_disabled(canceled, None);
        }
    }
}

fn say_erased(canceled: usize, endpoint: Option<EndpointKey>) {
    tracing::warn!(
        canceled,
        endpoint = endpoint.map(|endpoint| endpoint.0),
        "deliveries were canceled: the payloads of their messages were erased before they were delivered (retention.payload, \
         payloadRetentionHours, or expunged)"
    );
}

/// Without an endpoint it was more than one, or it is no longer known which.
fn say_disabled(canceled: usize, endpoint: Option<EndpointId>) {
    let endpoint = endpoint.map(tracing::field::display);
    tracing::info!(canceled, endpoint, "pending deliveries were canceled: their endpoint is disabled");
}
