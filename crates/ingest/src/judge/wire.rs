//! What the server and its judging processes say to each other: a question is a kind, two lengths, a schema and a
//! payload; an answer is a kind, the processor time that the question has taken by then, a length and a text. A payload that does not
//! match is answered twice: that it does not,
//! and then what, because finding out may cost the process its life.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::MAX_DETAIL_BYTES;
use crate::submission::Violation;

/// Whether a schema is one, and not too complex.
pub(super) const CHECK: u8 = b'c';
/// Whether a payload matches, and what does not.
pub(super) const COMPARE: u8 = b'j';

/// The bytes before the schema of a question, and before the text of an answer.
pub(super) const QUESTION_HEAD: usize = 9;
pub(super) const ANSWER_HEAD: usize = 9;

/// The most bytes of one answer: what is told of a payload is a part of that. A process that says more is not believed.
pub(super) const MAX_ANSWER: usize = 4 * MAX_DETAIL_BYTES;

const FITS: u8 = b'+';
const DIFFERS: u8 = b'-';
const DETAILS: u8 = b'd';
const PROBLEM: u8 = b'!';
const INCOMPARABLE: u8 = b'?';

#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) kind: u8,
    pub(super) schema: &'a [u8],
    pub(super) payload: &'a [u8],
}

impl Question<'_> {
    /// Kind and lengths.
    pub(super) fn head(&self) -> io::Result<[u8; QUESTION_HEAD]> {
        let mut head = [self.kind; QUESTION_HEAD];
        head[1..5].copy_from_slice(&length(self.schema)?);
        head[5..].copy_from_slice(&length(self.payload)?);
        Ok(head)
    }
}

fn length(bytes: &[u8]) -> io::Result<[u8; 4]> {
    u32::try_from(bytes.len()).map(u32::to_le_bytes).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn number(bytes: &[u8]) -> usize {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[..4]);
    u32::from_le_bytes(four) as usize
}

/// A question as a process reads it: its kind, the schema and the payload.
type Asked = (u8, Vec<u8>, Vec<u8>);

/// The next question; `None` if there is no more.
pub(super) fn read_question(input: &mut impl Read) -> io::Result<Option<Asked>> {
    let mut head = [0; QUESTION_HEAD];
    match input.read_exact(&mut head) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut schema = vec![0; number(&head[1..5])];
    let mut payload = vec![0; number(&head[5..])];
    input.read_exact(&mut schema)?;
    input.read_exact(&mut payload)?;
    Ok(Some((head[0], schema, payload)))
}

/// What is answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Fits,
    Differs(Vec<Violation>),
    /// The schema can't be used.
    Problem(String),
    /// The payload can't be compared with anything.
    Incomparable(String),
}

/// A mismatch in an answer.
#[derive(Serialize, Deserialize)]
struct Detail<'a> {
    loc: Vec<Cow<'a, str>>,
    msg: Cow<'a, str>,
}

/// A part of an answer, as it is written.
pub(super) enum Part<'a> {
    Fits,
    /// What does not match follows.
    Differs,
    Details(&'a [Violation]),
    Problem(&'a str),
    Incomparable(&'a str),
}

/// Writes a part of an answer to a question that has taken so much processor time, in microseconds.
pub(super) fn write_part(output: &mut impl Write, part: &Part<'_>, spent: u32) -> io::Result<()> {
    let (kind, text) = match part {
        Part::Fits => (FITS, Vec::new()),
        Part::Differs => (DIFFERS, Vec::new()),
        Part::Problem(text) => (PROBLEM, text.as_bytes().to_vec()),
        Part::Incomparable(text) => (INCOMPARABLE, text.as_bytes().to_vec()),
        Part::Details(violations) => {
            let detail = |one: &Violation| Detail {
                loc: one.loc.iter().map(|part| part.to_string().into()).collect(),
                msg: one.msg.clone().into(),
            };
            let details: Vec<_> = violations.iter().map(detail).collect();
            (DETAILS, serde_json::to_vec(&details)?)
        }
    };
    output.write_all(&[kind])?;
    output.write_all(&spent.to_le_bytes())?;
    output.write_all(&length(&text)?)?;
    output.write_all(&text)?;
    output.flush()
}

/// The kind of a part, the processor time that was taken by then, and the length of its text.
pub(super) fn part_head(head: [u8; ANSWER_HEAD]) -> (u8, Duration, usize) {
    (head[0], Duration::from_micros(number(&head[1..5]) as u64), number(&head[5..]))
}

/// What the first part of an answer says. Only after `Differs` another follows.
pub(super) fn first_part(kind: u8, text: Vec<u8>) -> Option<Answer> {
    Some(match kind {
        FITS => Answer::Fits,
        DIFFERS => Answer::Differs(vec![Violation::mismatch()]),
        PROBLEM => Answer::Problem(String::from_utf8(text).ok()?),
        INCOMPARABLE => Answer::Incomparable(String::from_utf8(text).ok()?),
        _ => return None,
    })
}

/// What does not match.
pub(super) fn details(kind: u8, text: &[u8]) -> Option<Vec<Violation>> {
    let details: Vec<Detail<'_>> = (kind == DETAILS).then(|| serde_json::from_slice(text).ok())??;
    let violation = |one: Detail<'_>| {
        Violation::of_schema(one.loc.into_iter().map(|part| part.into_owned().into()).collect(), one.msg.into_owned())
    };
    Some(details.into_iter().map(violation).collect())
}
