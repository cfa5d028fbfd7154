//! Pages of lists: what is in the range, sorted, as much as a page may have.

use postrider_domain::message::Message;
use postrider_domain::names::{Channel, EventTypeName, Tag};
use postrider_store::{Direction, Listed, PAGE_BYTES, Scan, Walked};

/// What of all that a filter lets through is on the page. `bytes` says how much of what may be large a row holds.
pub(crate) fn page<C: Ord, T>(
    all: impl IntoIterator<Item = (C, T)>,
    scan: &Scan<C>,
    bytes: impl Fn(&T) -> usize,
) -> Listed<T> {
    let mut within: Vec<(C, T)> = all.into_iter().filter(|(key, _)| scan.contains(key)).collect();
    within.sort_by(|(a, _), (b, _)| a.cmp(b));
    if scan.direction == Direction::Descending {
        within.reverse();
    }
    let (mut rows, mut held) = (Vec::new(), 0);
    for (_, row) in within.into_iter().take(scan.limit) {
        if held >= PAGE_BYTES {
            return Listed { rows, cut: true };
        }
        held += bytes(&row);
        rows.push(row);
    }
    Listed { rows, cut: false }
}

/// The same for lists that may end early because of what they looked at: these do not.
pub(crate) fn walk<C: Ord, T>(
    all: impl IntoIterator<Item = (C, T)>,
    scan: &Scan<C>,
    bytes: impl Fn(&T) -> usize,
) -> Walked<T, C> {
    Walked { listed: page(all, scan, bytes), reached: None }
}

/// Nothing of a row is large.
pub(crate) fn small<T>(_: &T) -> usize {
    0
}

/// The bytes of a message's payload.
pub(crate) fn payload_bytes(message: &Message) -> usize {
    message.payload.as_ref().map_or(0, |payload| payload.len())
}

/// What a filter asks of a message.
pub(crate) struct Names<'a> {
    pub(crate) event_types: Option<&'a [EventTypeName]>,
    pub(crate) channel: Option<&'a Channel>,
    pub(crate) tag: Option<&'a Tag>,
}

impl Names<'_> {
    pub(crate) fn let_through(&self, message: &Message) -> bool {
        self.event_types.is_none_or(|wanted| wanted.contains(&message.event_type))
            && self.channel.is_none_or(|wanted| message.channels.iter().flatten().any(|channel| channel == wanted))
            && self.tag.is_none_or(|wanted| message.tags.iter().flatten().any(|tag| tag == wanted))
    }
}
