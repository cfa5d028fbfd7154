//! Messages that are on their way through memory: from before they are stored until they were offered to their endpoints.
//!
//! A load finds such a message in the store, and passes it over: it would be delivered twice otherwise. Whoever passed something over is
//! looked after once it has arrived, unless he has it: he may have taken it, and dropped it again, before he passed it over. Nothing is
//! concluded from the order of messages, which other processes may store meanwhile.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use postrider_domain::ids::MessageId;
use postrider_store::{EndpointKey, MessageKey};

use crate::lane::Messages;

postrider_domain::limits! {
    in "Delivering";
    /// Erased messages that are remembered while accepted ones are handed over
    pub(crate) const MAX_ERASED_AHEAD: usize = 16_384, "messages", beyond "nothing of these commits is sent before it is read from the store";
}

#[derive(Default)]
pub(crate) struct OnTheirWay {
    inner: Mutex<Inner>,
    /// Whether anything that is on its way may have been erased: there hardly ever is, and each offer asks.
    any_erased: AtomicBool,
}

#[derive(Default)]
struct Inner {
    /// Each with the endpoints that passed it over: at most those that it goes to.
    messages: HashMap<MessageId, Vec<EndpointKey>, foldhash::fast::RandomState>,
    /// How many batches were announced, and how many of them were handed over.
    announced: u64,
    handed_over: u64,
    erased: Erased,
}

/// Messages whose payloads were erased while something was on its way, which may be they: the commit that erased them came between
/// the one that accepted them and the hand-over. They are not to be taken from there; the store has them, without payload.
#[derive(Default)]
struct Erased {
    /// Each with the batch that was the last one at that time.
    messages: HashMap<MessageKey, u64, foldhash::fast::RandomState>,
    /// There were too many: everything up to this batch may be erased.
    all_until: u64,
}

impl OnTheirWay {
    /// These are about to be stored.
    pub(crate) fn announce(&self, messages: &[MessageId]) {
        let mut inner = self.inner.lock();
        inner.announced += 1;
        inner.messages.extend(messages.iter().map(|message| (*message, Vec::new())));
    }

    /// A message was offered to its endpoints, or was not stored after all. Returns who passed it over.
    pub(crate) fn arrived(&self, message: &MessageId) -> Vec<EndpointKey> {
        self.inner.lock().messages.remove(message).unwrap_or_default()
    }

    /// All messages of a batch have arrived; batches do in the order in which they were announced.
    pub(crate) fn handed_over(&self) {
        let mut inner = self.inner.lock();
        inner.handed_over += 1;
        let handed_over = inner.handed_over;
        if !inner.erased.messages.is_empty() {
            inner.erased.messages.retain(|_, batch| *batch > handed_over);
        }
        if self.any_erased.load(Ordering::SeqCst) {
            let any = inner.erased.all_until > handed_over || !inner.erased.messages.is_empty();
            self.any_erased.store(any, Ordering::SeqCst);
        }
    }

    /// Whether a message is on its way; then it is noted that the endpoint passes it over.
    pub(crate) fn is_passed_over(&self, message: &MessageId, by: EndpointKey) -> bool {
        let mut inner = self.inner.lock();
        let Some(passed_over) = inner.messages.get_mut(message) else { return false };
        if !passed_over.contains(&by) {
            passed_over.push(by);
        }
        true
    }

    /// Notes messages whose payloads were erased.
    pub(crate) fn erase(&self, messages: &Messages) {
        let mut inner = self.inner.lock();
        let (last, is_any) = (inner.announced, inner.announced > inner.handed_over);
        if !is_any {
            return;
        }
        self.any_erased.store(true, Ordering::SeqCst);
        if inner.erased.messages.len() + messages.len() > MAX_ERASED_AHEAD {
            inner.erased.messages.clear();
            inner.erased.all_until = last;
        } else {
            inner.erased.messages.extend(messages.iter().map(|message| (*message, last)));
        }
    }

    /// Whether a message that is being handed over may have been erased.
    pub(crate) fn is_erased(&self, message: MessageKey) -> bool {
        if !self.any_erased.load(Ordering::SeqCst) {
            return false;
        }
        let inner = self.inner.lock();
        inner.erased.all_until > inner.handed_over || inner.erased.messages.contains_key(&message)
    }
}

#[cfg(test)]
mod tests {
    use postrider_domain::entropy::SeededEntropy;
    use postrider_domain::time::Timestamp;

    use super::*;

    fn id(number: u64) -> MessageId {
        MessageId::new(Timestamp::EPOCH, &SeededEntropy::new(number))
    }

    fn keys(numbers: std::ops::Range<i64>) -> Messages {
        numbers.map(MessageKey).collect()
    }

    #[test]
    fn a_message_is_on_its_way_until_it_has_arrived_and_then_those_who_passed_it_over_are_told() {
        let (way, one, other) = (OnTheirWay::default(), EndpointKey(1), EndpointKey(2));
        way.announce(&[id(1), id(2)]);
        assert!(way.is_passed_over(&id(1), one) && way.is_passed_over(&id(1), other));
        assert!(way.is_passed_over(&id(1), one) && !way.is_passed_over(&id(3), one));
        assert_eq!(way.arrived(&id(1)), [one, other]);
        assert!(!way.is_passed_over(&id(1), one));
        assert!(way.arrived(&id(1)).is_empty() && way.arrived(&id(2)).is_empty());
        way.handed_over();
        assert!(way.inner.lock().messages.is_empty());
    }

    #[test]
    fn what_is_erased_is_remembered_while_what_was_announced_before_is_on_its_way() {
        let way = OnTheirWay::default();
        way.erase(&keys(1..2));
        assert!(!way.is_erased(MessageKey(1)), "nothing was on its way");
        way.announce(&[id(1)]);
        way.announce(&[id(2)]);
        way.erase(&keys(1..3));
        way.announce(&[id(3)]);
        for handed_over in 0..3 {
            let erased = handed_over < 2;
            assert_eq!((way.is_erased(MessageKey(1)), way.is_erased(MessageKey(2))), (erased, erased), "{handed_over}");
            assert!(!way.is_erased(MessageKey(3)));
            way.handed_over();
        }
        assert!(way.inner.lock().erased.messages.is_empty());
    }

    #[test]
    fn beyond_a_number_everything_that_is_on_its_way_counts_as_erased() {
        let way = OnTheirWay::default();
        way.announce(&[id(1)]);
        for start in (0..=MAX_ERASED_AHEAD as i64).step_by(1_000) {
            way.erase(&keys(start..start + 1_000));
        }
        assert!(way.inner.lock().erased.messages.len() <= MAX_ERASED_AHEAD);
        way.announce(&[id(2)]);
        assert!(way.is_erased(MessageKey(-1)));
        way.handed_over();
        assert!(!way.is_erased(MessageKey(-1)));
    }
}
