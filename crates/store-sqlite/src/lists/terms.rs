//! Terms: what a filter can ask for, as numbers. A block of a log has a posting for every term that some row of it meets.
//!
//! A term is a 64-bit hash (FNV-1a) that never changes, because it is stored. Two terms with the same hash only lead to
//! blocks in vain: every row is compared with the filter itself. Each name that a message has is a term, and no combination of
//! names is: those of a message with five channels and ten tags are 17, and not 132. So whoever asks for a type, a channel and
//! a tag is shown where the postings of all three meet (`postings`).
//!
//! A further part of a message by which lists are filtered takes its place beside type, channel and tag in [`Name`],
//! [`Wanted::clauses`] and [`Subject::spread`].

use postrider_domain::message::Message;
use postrider_domain::names::{Channel, EventTypeName, Tag};
use postrider_store::{EndpointKey, Standing};

/// What a posting is for.
pub(crate) type Term = i64;

/// Met by every block.
pub(crate) const BLOCK: Term = 0;

/// Which log a term is of, and what it asks for besides type, channel and tag.
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

/// What a term asks of the names of a message.
#[derive(Debug, Clone, Copy)]
enum Name<'a> {
    /// Nothing.
    Any,
    EventType(&'a EventTypeName),
    Channel(&'a Channel),
    Tag(&'a Tag),
}

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

    /// The term of what was added, with a name.
    fn of(self, name: Name<'_>) -> Term {
        let (event_type, channel, tag) = match name {
            Name::Any => (None, None, None),
            Name::EventType(event_type) => (Some(event_type.as_str()), None, None),
            Name::Channel(channel) => (None, Some(channel.as_str()), None),
            Name::Tag(tag) => (None, None, Some(tag.as_str())),
        };
        // In this order they have been stored since there are postings.
        self.name(event_type).name(channel).name(tag).term()
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
                    // The postings say what the attempts say.
                    Standing::Waiting | Standing::Canceled => b"w",
                };
                Hash::EMPTY.bytes(kind).bytes(&endpoint.0.to_be_bytes())
            }
        }
    }

    /// The term that asks for nothing else.
    pub(crate) fn any(self) -> Term {
        self.hash().of(Name::Any)
    }
}

/// What a filter asks of messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) event_types: Option<&'a [EventTypeName]>,
    pub(crate) channel: Option<&'a Channel>,
    pub(crate) tag: Option<&'a Tag>,
}

impl Wanted<'_> {
    /// Whether it asks for nothing.
    pub(crate) fn is_all(&self) -> bool {
        self.event_types.is_none() && self.channel.is_none() && self.tag.is_none()
    }

    /// Terms that every row which the filter lets through meets, if it is about one of these: one of each clause. Where
    /// there is more than one, a block may meet them all with different rows.
    pub(crate) fn clauses(&self, abouts: &[About]) -> Vec<Vec<Term>> {
        let types = self.event_types.map(|types| types.iter().map(Name::EventType).collect());
        let (channel, tag) = (self.channel.map(Name::Channel), self.tag.map(Name::Tag));
        let named = [types, channel.map(|name| vec![name]), tag.map(|name| vec![name])];
        let mut asked: Vec<Vec<Name<'_>>> = named.into_iter().flatten().collect();
        if asked.is_empty() {
            asked.push(vec![Name::Any]);
        }
        let terms = |names: Vec<Name<'_>>| {
            abouts.iter().flat_map(|about| names.iter().map(|name| about.hash().of(*name))).collect()
        };
        asked.into_iter().map(terms).collect()
    }
}

/// What filters compare of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) event_type: &'a EventTypeName,
    pub(crate) channels: &'a [Channel],
    pub(crate) tags: &'a [Tag],
}

impl<'a> Subject<'a> {
    pub(crate) fn of(message: &'a Message) -> Self {
        Self {
            event_type: &message.event_type,
            channels: message.channels.as_deref().unwrap_or_default(),
            tags: message.tags.as_deref().unwrap_or_default(),
        }
    }

    /// Every term about this that the subject meets.
    pub(crate) fn spread(self, about: About, terms: &mut Vec<Term>) {
        let hash = about.hash();
        // A list of messages that asks for nothing needs no postings.
        if about != About::Message {
            terms.push(hash.of(Name::Any));
        }
        terms.push(hash.of(Name::EventType(self.event_type)));
        terms.extend(self.channels.iter().map(|channel| hash.of(Name::Channel(channel))));
        terms.extend(self.tags.iter().map(|tag| hash.of(Name::Tag(tag))));
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
        let tags = [Tag::parse("a").unwrap()];
        let about = About::Attempt(Outcome::Class(404));
        let mut terms = Vec::new();
        Subject { event_type: &names[0], channels: &channels, tags: &tags }.spread(about, &mut terms);
        let posted: HashSet<Term> = terms.iter().copied().collect();
        assert_eq!((posted.len(), terms.len()), (5, 5));
        let mut asked = HashSet::new();
        for event_types in [None, Some(&names[..1])] {
            for channel in [None, Some(&channels[0]), Some(&channels[1])] {
                for tag in [None, Some(&tags[0])] {
                    let clauses = Wanted { event_types, channel, tag }.clauses(&[about]);
                    let parts = [event_types.is_some(), channel.is_some(), tag.is_some()];
                    assert_eq!(clauses.len(), parts.into_iter().filter(|part| *part).count().max(1));
                    asked.extend(clauses.into_iter().flatten());
                }
            }
        }
        assert_eq!(asked, posted);
        let other = Wanted { event_types: Some(&names[1..]), channel: Some(&channels[0]), tag: None };
        assert!(other.clauses(&[about])[0].iter().all(|term| !posted.contains(term)));
    }

    #[test]
    fn a_clause_is_about_any_of_several_things() {
        let names = ["a", "b"].map(|name| EventTypeName::parse(name).unwrap());
        let tag = Tag::parse("x").unwrap();
        let wanted = Wanted { event_types: Some(&names), channel: None, tag: Some(&tag) };
        let abouts = [About::Attempt(Outcome::Failed), About::Attempt(Outcome::Class(200))];
        assert_eq!(wanted.clauses(&abouts).iter().map(Vec::len).collect::<Vec<_>>(), [4, 2]);
        assert_eq!(wanted.clauses(&[]), vec![Vec::<Term>::new(); 2], "nothing meets it");
    }

    #[test]
    fn terms_never_change_because_they_are_stored() {
        let kinds = [EventTypeName::parse("invoice.paid").unwrap()];
        let typed = Wanted { event_types: Some(&kinds), channel: None, tag: None };
        assert_eq!(typed.clauses(&[About::Message]), [[-4_663_699_177_153_970_189]]);
        let channel = Channel::parse("x").unwrap();
        let sent = Wanted { event_types: None, channel: Some(&channel), tag: None };
        let waiting = About::Standing(EndpointKey(7), Standing::Waiting);
        assert_eq!(sent.clauses(&[waiting]), [[791_719_415_970_945_335]]);
        assert_eq!(About::Attempt(Outcome::Failed).any(), 902_302_645_486_234_867);
    }
}
