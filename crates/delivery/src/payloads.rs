//! The payloads of large messages that lanes hold. Each is in memory once, and is paid for once, however many endpoints it goes to: by
//! the first of them, until the last one has let it go. All of them are one application's.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use postrider_domain::message::Message;
use postrider_store::MessageKey;

use crate::budget::Part;

#[derive(Debug, Default)]
pub(crate) struct Payloads(Mutex<HashMap<MessageKey, Payload, foldhash::fast::RandomState>>);

#[derive(Debug)]
struct Payload {
    message: Arc<Message>,
    /// Of what its memory was taken.
    part: Part,
    /// Deliveries that are held.
    holders: usize,
}

impl Payloads {
    pub(crate) fn has(&self, key: MessageKey) -> bool {
        self.0.lock().contains_key(&key)
    }

    /// Holds a payload for one more delivery: the one that is there, if `may_share`, else the given one, for which somebody `pays`. `None`
    /// if that is refused.
    pub(crate) fn hold(
        &self,
        key: MessageKey,
        message: &Arc<Message>,
        may_share: impl FnOnce() -> bool,
        pays: impl FnOnce() -> Option<Part>,
    ) -> Option<Arc<Message>> {
        let mut payloads = self.0.lock();
        if let Some(payload) = payloads.get_mut(&key) {
            return may_share().then(|| {
                payload.holders += 1;
                Arc::clone(&payload.message)
            });
        }
        payloads.insert(key, Payload { message: Arc::clone(message), part: pays()?, holders: 1 });
        Some(Arc::clone(message))
    }

    /// A delivery lets it go; says of what its memory was taken, if that was the last one.
    pub(crate) fn let_go(&self, key: MessageKey) -> Option<Part> {
        let mut payloads = self.0.lock();
        let payload = payloads.get_mut(&key)?;
        payload.holders -= 1;
        if payload.holders > 0 {
            return None;
        }
        payloads.remove(&key).map(|payload| payload.part)
    }
}
