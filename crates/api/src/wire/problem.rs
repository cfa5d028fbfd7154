//! What is wrong with an input, as callers are told: where, what for people, and what for programs.

use std::borrow::Cow;

use postrider_ingest::Violation;
use schemars::json_schema;

use crate::wire::schema::members;

// A message has one level around its payload, which leaves 127 to the payload: as many as common parsers on the receiving
// side read.
postrider_domain::limits! {
    in "Requests";
    /// How deep a body may nest
    pub(crate) const MAX_DEPTH: usize = 128, "levels", beyond "422";
    in "Errors";
    /// The problems that are told of one body
    pub(crate) const MAX_PROBLEMS: usize = 100, "problems", beyond "the rest is left out";
    /// A name in the place of a problem
    pub(crate) const MAX_PLACE: usize = 256, "characters", beyond "it is cut";
    /// All names in the place of a problem
    pub(crate) const MAX_PLACE_BYTES: usize = 4_096, "bytes", beyond "the inner ones are left out";
    /// The text of a problem
    pub(crate) const MAX_TEXT: usize = 1_024, "characters", beyond "it is cut";
}

members! {
    /// What is wrong with something that was sent.
    ProblemText => json_schema!({ "type": "string", "maxLength": MAX_TEXT + 1 });
    /// A part of the place of a problem.
    Place => json_schema!({ "type": "string", "maxLength": MAX_PLACE + 1 });
}

/// One thing that is wrong with the input.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Problem {
    /// Where: `body`, `query` or `path`, then member names; elements of lists as `[0]`.
    #[schemars(with = "Vec<Place>", length(max = MAX_DEPTH))]
    #[serde(serialize_with = "cut")]
    pub(crate) loc: Vec<Cow<'static, str>>,
    /// What, for people.
    #[schemars(with = "ProblemText")]
    #[serde(serialize_with = "cut_text")]
    pub(crate) msg: String,
    /// What, for programs.
    #[serde(rename = "type")]
    #[schemars(length(max = 64))]
    pub(crate) kind: &'static str,
}

impl Problem {
    /// The text could not be decoded.
    pub(crate) const DECODE: &'static str = "value_error.jsondecode";
    /// A value breaks a rule.
    pub(crate) const VALUE: &'static str = "value_error";
}

/// Shows where a problem is; names that a caller made up are cut, wherever the problem was found.
fn cut<S: serde::Serializer>(loc: &[Cow<'static, str>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(within(loc, MAX_PLACE_BYTES))
}

/// Shows what a problem is; it may repeat what a caller sent.
fn cut_text<S: serde::Serializer>(msg: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&cut_to(msg.into(), MAX_TEXT))
}

impl From<Violation> for Problem {
    fn from(Violation { loc, msg, kind }: Violation) -> Self {
        let loc = std::iter::once(Cow::Borrowed("body")).chain(loc).collect();
        Self { loc, msg, kind }
    }
}

pub(crate) fn cut_name(name: Cow<'static, str>) -> Cow<'static, str> {
    cut_to(name, MAX_PLACE)
}

/// A text of so many characters at most, and one that says that there were more.
pub(crate) fn cut_to(text: Cow<'_, str>, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => text,
    }
}

/// As much of a place as takes so many bytes: what is further out says more.
pub(crate) fn within(loc: &[Cow<'static, str>], most: usize) -> Vec<Cow<'static, str>> {
    let (mut told, mut bytes) = (Vec::with_capacity(loc.len()), 0);
    for name in loc {
        let name = cut_name(name.clone());
        bytes += name.len();
        if bytes > most {
            told.push("…".into());
            break;
        }
        told.push(name);
    }
    told
}
