//! Messages that are on their way through memory: from before they are stored until they were offered to their endpoints.
//!
//! A load finds such a message in the store, and leaves it to the hand-over: it would be delivered twice otherwise. Nothing else is
//! concluded from it, and nothing from the order of messages, which other processes may store meanwhile.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;
use postrider_domain::ids::MessageId;
use postrider_store::MessageKey;

use crate::lane::Messages;

postrider_domain::limits! {
    in "Delivering";
    /// Erased messages that are remembered while accepted ones are handed over
    pub(crate) const MAX_ERASED_AHEAD: usize = 16_384, "messages", beyond "nothing of these commits is sent before it is read from the store";
}

#[derive(Default)]
pub(crate) struct OnTheirWay(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    messages: HashSet<MessageId, foldhash::fast::RandomState>,
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
        let mut inner = self.0.lock();
        inner.announced += 1;
        inner.messages.extend(messages);
    }

    /// A message was offered to its endpoints, or was not stored after all.
    pub(crate) fn arrived(&self, message: &MessageId) {
        self.0.lock().messages.remove(message);
    }

    /// All messages of a batch have arrived; batches do in the order in which they were announced.
    pub(crate) fn handed_over(&self) {
        let mut inner = self.0.lock();
        inner.handed_over += 1;
        let handed_over = inner.handed_over;
        if !inner.erased.messages.is_empty() {
            inner.erased.messages.retain(|_, batch| *batch > handed_over);
        }
    }

    pub(crate) fn has(&self, message: &MessageId) -> bool {
        self.0.lock().messages.contains(message)
    }

    /// Notes messages whose payloads were erased.
    pub(crate) fn erase(&self, messages: &Messages) {
        let mut inner = self.0.lock();
        let (last, is_any) = (inner.announced, inner.announced > inner.handed_over);
        if !is_any {
            return;
        }
        if inner.erased.messages.len() + messages.len() > MAX_ERASED_AHEAD {
            inner.erased.messages.clear();
            inner.erased.all_until = last;
        } else {
            inner.erased.messages.extend(messages.iter().map(|message| (*message, last)));
        }
    }

    /// Whether a message that is being handed over may have been erased.
    pub(crate) fn is_erased(&self, message: MessageKey) -> bool {
        let inner = self.0.lock();
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
    fn a_message_is_on_its_way_until_it_has_arrived() {
        let way = OnTheirWay::default();
        way.announce(&[id(1), id(2)]);
        assert!(way.has(&id(1)) && way.has(&id(2)) && !way.has(&id(3)));
        way.arrived(&id(1));
        assert!(!way.has(&id(1)) && way.has(&id(2)));
        way.arrived(&id(2));
        way.handed_over();
        assert!(way.0.lock().messages.is_empty());
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
        assert!(way.0.lock().erased.messages.is_empty());
    }

    #[test]
    fn beyond_a_number_everything_that_is_on_its_way_counts_as_erased() {
        let way = OnTheirWay::default();
        way.announce(&[id(1)]);
        for start in (0..=MAX_ERASED_AHEAD as i64).step_by(1_000) {
            way.erase(&keys(start..start + 1_000));
        }
        assert!(way.0.lock().erased.messages.len() <= MAX_ERASED_AHEAD);
        way.announce(&[id(2)]);
        assert!(way.is_erased(MessageKey(-1)));
        way.handed_over();
        assert!(!way.is_erased(MessageKey(-1)));
    }
}
