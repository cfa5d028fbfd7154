//! Deliveries that end without an attempt, because the payloads of their messages were erased before: by retention, or because
//! somebody expunged them. Nobody is answered then, so the log says it.

use postrider_domain::time::Timestamp;
use postrider_store::EndpointKey;

use crate::unsaid::Unsaid;

/// What was not said yet.
#[derive(Default)]
pub(crate) struct Unsent(Unsaid);

impl Unsent {
    /// So many deliveries to an endpoint were found to have nothing to send.
    pub(crate) fn note(&self, endpoint: EndpointKey, deliveries: usize, now: Timestamp) {
        if let Some(canceled) = self.0.to_say(deliveries, now) {
            say(canceled, Some(endpoint));
        }
    }

    /// Says what was not said yet, if it is time for that. To be called now and then: nothing more may happen.
    pub(crate) fn say_the_rest(&self, now: Timestamp) {
        if let Some(canceled) = self.0.to_say(0, now) {
            say(canceled, None);
        }
    }
}

fn say(canceled: usize, endpoint: Option<EndpointKey>) {
    tracing::warn!(
        canceled,
        endpoint = endpoint.map(|endpoint| endpoint.0),
        "deliveries were canceled: the payloads of their messages were erased before they were delivered (retention.payload, \
         payloadRetentionHours, or expunged)"
    );
}
