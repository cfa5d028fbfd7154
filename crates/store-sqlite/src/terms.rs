//! Terms: what a filter can ask for, as numbers. A block of a log has a posting for every term that some row of it meets.
//!
//! A term is a 64-bit hash (FNV-1a) that never changes, because it is stored. Two terms with the same hash only lead to
//! blocks in vain: every row is compared with the filter itself. Each combination of a filter's parts has a term of its
//! own, so a list is a union of terms and never an intersection, which could run through everything and find nothing.
//!
//! A further part of a message by which lists are filtered takes its place beside type and channel in [`Subject::spread`].

use postrider_domain::message::Message;
use postrider_domain::names::{Channel, EventTypeName};
use postrider_store::{EndpointKey, Standing};

/// What a posting is for.
pub(crate) type Term = i64;

/// Met by every block.
pub(crate) const BLOCK: Term = 0;

/// Which log a term is of, and what it asks for besides type and channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    /// Messages.
    Message,
    /// Attempts that ended like this.
    Attempt(Outcome),
    /// Messages of which some attempt to this endpoint succeeded, or failed.
    Attempted(EndpointKey, bool),
    /// Messages that stand like this with the endpoint: postings of single messages. Not for those that were delivered.
    Standing(EndpointKey, Standing),
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With a status code of this hundred.
    Class(u16),
    /// With a failure of any kind.
    Failed,
}

/// The lowest code of the class of a status code.
pub(crate) const fn class_of(status_code: u16) -> u16 {
    status_code / 100 * 100
}

/// The only class in which attempts succeed.
pub(crate) const SUCCESS: u16 = 200;

#[derive(Clone, Copy)]
struct Hash(u64);

impl Hash {
    const EMPTY: Self = Self(0xcbf2_9ce4_8422_2325);

    fn bytes(self, bytes: &[u8]) -> Self {
        Self(bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)))
    }

    /// Adds a name, or nothing in place of a name. Names have no zero byte and are never empty.
    fn name(self, name: Option<&str>) -> Self {
        self.bytes(name.unwrap_or_default().as_bytes()).bytes(&[0])
    }

    fn term(self) -> Term {
        match self.0.cast_signed() {
            BLOCK => 1,
            term => term,
        }
    }
}

impl About {
    fn hash(self) -> Hash {
        match self {
            Self::Message => Hash::EMPTY.bytes(b"m"),
            Self::Attempt(Outcome::Class(class)) => Hash::EMPTY.bytes(b"c").bytes(&class.to_be_bytes()),
            Self::Attempt(Outcome::Failed) => Hash::EMPTY.bytes(b"f"),
            Self::Attempted(endpoint, succeeded) => {
                Hash::EMPTY.bytes(if succeeded { b"s" } else { b"t" }).bytes(&endpoint.0.to_be_bytes())
            }
            Self::Standing(endpoint, standing) => {
                let kind = match standing {
                    Standing::Delivered => b"d",
                    Standing::Failed => b"x",
                    Standing::Waiting => b"w",
                };
                Hash::EMPTY.bytes(kind).bytes(&endpoint.0.to_be_bytes())
            }
        }
    }

    /// The term of one combination.
    pub(crate) fn term(self, event_type: Option<&str>, channel: Option<&str>) -> Term {
        self.hash().name(event_type).name(channel).term()
    }

    /// The terms whose union is what a filter lets through.
    pub(crate) fn asked(
        self,
        event_types: Option<&[EventTypeName]>,
        channel: Option<&Channel>,
    ) -> impl Iterator<Item = Term> {
        let channel = channel.map(Channel::as_str);
        let any = event_types.is_none().then(|| self.term(None, channel));
        let each = event_types.unwrap_or_default().iter().map(move |name| self.term(Some(name.as_str()), channel));
        any.into_iter().chain(each)
    }
}

/// What filters compare of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) event_type: &'a EventTypeName,
    pub(crate) channels: &'a [Channel],
}

impl<'a> Subject<'a> {
    pub(crate) fn of(message: &'a Message) -> Self {
        Self { event_type: &message.event_type, channels: message.channels.as_deref().unwrap_or_default() }
    }

    /// Every term about this that the subject meets.
    pub(crate) fn spread(self, about: About, terms: &mut Vec<Term>) {
        let (any, typed) = (about.hash().name(None), about.hash().name(Some(self.event_type.as_str())));
        // A list of messages that asks for nothing needs no postings.
        if about != About::Message {
            terms.push(any.name(None).term());
        }
        terms.push(typed.name(None).term());
        for channel in self.channels {
            terms.push(any.name(Some(channel.as_str())).term());
            terms.push(typed.name(Some(channel.as_str())).term());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn what_is_asked_for_is_among_what_is_posted() {
        let names = ["a", "b", "ab"].map(|name| EventTypeName::parse(name).unwrap());
        let channels = ["a", "x"].map(|name| Channel::parse(name).unwrap());
        let about = About::Attempt(Outcome::Class(404));
        let mut terms = Vec::new();
        Subject { event_type: &names[0], channels: &channels }.spread(about, &mut terms);
        let posted: HashSet<Term> = terms.iter().copied().collect();
        assert_eq!(posted.len(), 6);
        let asked: Vec<Term> = [None, Some(&channels[0]), Some(&channels[1])]
            .into_iter()
            .flat_map(|channel| about.asked(None, channel).chain(about.asked(Some(&names[..1]), channel)))
            .collect();
        assert_eq!(asked.into_iter().collect::<HashSet<_>>(), posted);
        assert!(about.asked(Some(&names[1..]), Some(&channels[0])).all(|term| !posted.contains(&term)));
    }

    #[test]
    fn terms_never_change_because_they_are_stored() {
        assert_eq!(About::Message.term(Some("invoice.paid"), None), 5_997_282_153_049_794_753);
        assert_eq!(About::Standing(EndpointKey(7), Standing::Waiting).term(None, Some("x")), 5_798_252_729_525_592_173);
    }
}
