//! Batches of messages on the wire: a JSON array, or lines of JSON. What is wrong with one item is said of that item, in
//! the words in which a request with that message alone would be answered.
//!
//! Payloads are copied out of the body. A slice would keep all of the body in memory for as long as the slowest of its
//! messages waits to be delivered.

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;

use bytes::Bytes;
use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::{ApplicationId, MessageId};
use postrider_domain::message::MAX_BODY_BYTES;
use postrider_domain::names::{IdOrUid, Uid};
use postrider_domain::time::Timestamp;
use postrider_ingest::{Submission, Submitted};
use postrider_store::IdempotencyKey;
use schemars::JsonSchema;
use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::wire::decode::{self, FromObject};
use crate::wire::error::{ApiError, Result, UNAUTHORIZED};
use crate::wire::model::message::MessageIn;
use crate::wire::problem::{MAX_PROBLEMS, Problem, cut_to, within};
use crate::wire::schema::Said;

postrider_domain::limits! {
    in "Batches of messages";
    /// The items of an array. Lines of JSON may be any number
    pub(crate) const MAX_ITEMS: usize = 1_000, "messages", beyond "422";
    /// After each line of a request that is not accepted, its next ones are read so much later
    pub(crate) const FLAW_MILLIS: u64 = 1, "milliseconds", beyond "they wait";
    /// How often the caller of lines is looked at while none come; he is, too, before lines are taken
    pub(crate) const LOOK_AT_CALLER_SECONDS: u64 = 1, "second", beyond "with a key or token that is good no longer, the last line says 401, and what follows is not taken";
    /// What is told of all that is wrong with the items of an array, or of the lines that are answered together; of a few items,
    /// 32 KiB for each
    pub(crate) const MAX_DETAIL_BYTES: usize = 1_048_576, "bytes", beyond "of each of the others only the first problem is reported, in short";
    /// What the result of an item counts as among the answers, until it is known, beside that
    pub(crate) const RESULT_BYTES: usize = 2_048, "bytes", beyond "waits up to 5 s, then 429 or 503 before anything is stored";
}

/// What each item may say of its problems while there are few.
const ITEM_DETAIL_BYTES: usize = 32 * 1024;

/// The place and the text of a problem that is told in short.
const SHORT_PLACE_BYTES: usize = 128;
const SHORT_TEXT: usize = 96;

/// The most that the results of so many items take.
pub(crate) fn room(items: usize) -> u64 {
    (Details::of(items).left + items * RESULT_BYTES) as u64
}

/// How much may still be said of what is wrong with items.
pub(crate) struct Details {
    left: usize,
}

impl Details {
    /// Of so many items.
    pub(crate) fn of(items: usize) -> Self {
        Self { left: MAX_DETAIL_BYTES.min(items.saturating_mul(ITEM_DETAIL_BYTES)) }
    }

    /// What is said: all, or once that was too much, the first problem and that there may be more.
    fn told(&mut self, problems: Vec<Problem>) -> Vec<u8> {
        if self.left > 0 {
            // Everything in them is made of texts.
            let all = serde_json::to_vec(&problems).unwrap_or_default();
            match self.left.checked_sub(all.len()) {
                Some(left) => {
                    self.left = left;
                    return all;
                }
                None => self.left = 0,
            }
        }
        let first = problems.into_iter().next().map(in_short);
        serde_json::to_vec(first.as_slice()).unwrap_or_default()
    }
}

fn in_short(Problem { loc, msg, kind }: Problem) -> Problem {
    let loc = within(&loc, SHORT_PLACE_BYTES);
    let msg = format!(
        "{} (no more is reported: too much is wrong with the items of this batch)",
        cut_to(msg.into(), SHORT_TEXT)
    );
    Problem { loc, msg, kind }
}

/// Messages, each as it would be created by itself.
#[derive(JsonSchema)]
#[schemars(transparent, inline)]
pub(crate) struct BatchIn(
    #[schemars(length(max = MAX_ITEMS))]
    #[expect(dead_code, reason = "items are decoded one by one; this is for the documentation")]
    Vec<MessageIn<'static>>,
);

/// What became of the items of a batch.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "written by hand; this is for the documentation")]
pub(crate) struct BatchOut {
    /// How many were accepted.
    accepted: usize,
    /// How many were not.
    rejected: usize,
    /// A result for each item, in order.
    #[schemars(length(max = MAX_ITEMS))]
    data: Vec<BatchItemOut>,
}

/// What became of an item: the message, or an error in the words in which it would be answered by itself.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
#[expect(dead_code, reason = "written by hand; this is for the documentation")]
pub(crate) struct BatchItemOut {
    /// Its place in the batch, from 0.
    index: usize,
    /// The status that it would be answered with by itself; 202 if it was accepted.
    #[schemars(range(min = 100, max = 599))]
    status: u16,
    /// The id of the message.
    #[schemars(with = "MessageId", skip_serializing_if = "Option::is_none")]
    id: Option<MessageId>,
    /// Your own identifier.
    #[schemars(skip_serializing_if = "Option::is_none")]
    event_id: Option<Uid>,
    /// How many endpoints it goes to: 0 if none wants such a message.
    #[schemars(skip_serializing_if = "Option::is_none")]
    matched_endpoints: Option<usize>,
    /// When it was accepted.
    #[schemars(with = "Timestamp", skip_serializing_if = "Option::is_none")]
    timestamp: Option<Timestamp>,
    /// What of it does not match the schema of its event type, if the environment only warns of that.
    #[schemars(skip_serializing_if = "Vec::is_empty", length(max = MAX_PROBLEMS))]
    warnings: Vec<Problem>,
    /// Why it was not accepted, for programs.
    #[schemars(with = "Said", skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// Why it was not accepted, for people; with status 422 a list of problems.
    #[schemars(skip_serializing_if = "Option::is_none")]
    detail: Option<Detail>,
}

#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "for the documentation")]
enum Detail {
    Text(#[schemars(with = "Said")] String),
    Problems(#[schemars(length(max = MAX_PROBLEMS))] Vec<Problem>),
}

/// What all items of a batch have in common.
#[derive(Clone)]
pub(crate) struct Batch {
    pub(crate) environment: EnvironmentId,
    pub(crate) application: IdOrUid<ApplicationId>,
    pub(crate) key: Option<IdempotencyKey>,
}

impl Batch {
    /// Reads an array: a submission for each item, or what is wrong with it. `Err` if it is no array of at most
    /// [`MAX_ITEMS`].
    pub(crate) fn read_array(&self, body: &Bytes) -> Result<Vec<Result<Submission>>> {
        let text = decode::utf8(body)?;
        // Usually everything can be decoded, and is, at the first look. Only if not, or if one of them may be too large, items
        // are told apart first.
        if body.len() <= MAX_BODY_BYTES
            && let Ok(Items { items, count }) = serde_json::from_str::<Items<FromObject<MessageIn<'_>>>>(text)
        {
            few_enough(count)?;
            return Ok(items.into_iter().enumerate().map(|(index, item)| self.checked(item.0, index)).collect());
        }
        let Items { items, count } = decode::decode::<Items<&RawValue>>(text)?;
        few_enough(count)?;
        Ok(items.into_iter().enumerate().map(|(index, item)| self.read_item(item.get(), index)).collect())
    }

    /// Reads one line.
    pub(crate) fn read_line(&self, line: &[u8], index: usize) -> Result<Submission> {
        self.read_item(decode::utf8(line)?, index)
    }

    /// Reads what could have been a body by itself, and is no larger than one may be: what is stored must fit into answers.
    fn read_item(&self, text: &str, index: usize) -> Result<Submission> {
        if text.len() > MAX_BODY_BYTES {
            return Err(ApiError::payload_too_large(MAX_BODY_BYTES));
        }
        self.checked(decode::decode::<MessageIn<'_>>(text)?, index)
    }

    fn checked(&self, message: MessageIn<'_>, index: usize) -> Result<Submission> {
        decode::shallow(message.payload(), 1)?;
        let copied = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let read = message.checked(self.environment.clone(), self.application.clone(), self.item_key(index), copied)?;
        Ok(read.submission)
    }

    /// The key of an item: the batch's with the index in its last bytes. So a batch that is repeated after a crash finds
    /// its items.
    fn item_key(&self, index: usize) -> Option<IdempotencyKey> {
        let IdempotencyKey(mut key) = self.key?;
        key[12..].copy_from_slice(&u32::try_from(index).unwrap_or(u32::MAX).to_be_bytes());
        Some(IdempotencyKey(key))
    }
}

fn few_enough(count: usize) -> Result<()> {
    if count > MAX_ITEMS {
        return Err(ApiError::invalid(&["body"], format!("must have at most {MAX_ITEMS} items, and has {count}")));
    }
    Ok(())
}

/// The elements of an array. Beyond [`MAX_ITEMS`] they are only counted.
struct Items<T> {
    items: Vec<T>,
    count: usize,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Items<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Elements<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
            type Value = Items<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of messages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Items<T>, A::Error> {
                let mut items = Vec::new();
                while items.len() < MAX_ITEMS {
                    match elements.next_element()? {
                        Some(item) => items.push(item),
                        None => return Ok(Items { count: items.len(), items }),
                    }
                }
                let mut count = items.len();
                while elements.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Items { items, count })
            }
        }

        from.deserialize_seq(Elements(std::marker::PhantomData))
    }
}

impl ApiError {
    /// The same, said of an item of a list that is the body.
    fn of_item(self, index: usize) -> Self {
        let Self::Invalid(mut problems) = self else { return self };
        for problem in &mut problems {
            let place = 1.min(problem.loc.len());
            problem.loc.insert(place, Cow::Owned(format!("[{index}]")));
        }
        Self::Invalid(problems)
    }
}

/// Writes what became of an item.
pub(crate) fn write_result(out: &mut Vec<u8>, index: usize, result: Result<Submitted>, details: &mut Details) {
    // Writing to a vector does not fail; names need no escapes, because of what they may consist of.
    let _ = match result {
        Ok(Submitted { message, warnings, endpoints, .. }) => {
            let _ = write!(out, r#"{{"index":{index},"status":202,"id":"{}","eventId":"#, message.id);
            let _ = match &message.event_id {
                Some(id) => write!(out, r#""{}""#, id.as_str()),
                None => write!(out, "null"),
            };
            let _ = write!(out, r#","matchedEndpoints":{endpoints},"timestamp":"{}""#, message.created_at);
            if !warnings.is_empty() {
                let warnings = warnings.into_iter().map(Problem::from).collect();
                write_problems(out, "warnings", ApiError::Invalid(warnings).of_item(index), details);
            }
            write!(out, "}}")
        }
        Err(error) => {
            let _ = write!(out, r#"{{"index":{index},"status":{}"#, error.status().as_u16());
            match error.of_item(index) {
                ApiError::General { code, detail, .. } | ApiError::Later { code, detail, .. } => {
                    write_member(out, "code", &code);
                    write_member(out, "detail", &detail);
                }
                invalid @ ApiError::Invalid(_) => write_problems(out, "detail", invalid, details),
                // A batch is one caller's, who was let in, but may be none any more.
                ApiError::Unauthorized(why) => {
                    write_member(out, "code", &UNAUTHORIZED);
                    write_member(out, "detail", &why.reason());
                }
            }
            write!(out, "}}")
        }
    };
}

fn write_problems(out: &mut Vec<u8>, name: &str, error: ApiError, details: &mut Details) {
    if let ApiError::Invalid(problems) = error {
        let _ = write!(out, r#","{name}":"#);
        out.extend_from_slice(&details.told(problems));
    }
}

fn write_member<T: serde::Serialize>(out: &mut Vec<u8>, name: &str, value: &T) {
    let _ = write!(out, r#","{name}":"#);
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        let key = Some(IdempotencyKey([7; 16]));
        Batch { environment: EnvironmentId::default_environment(), application: IdOrUid::parse("shop"), key }
    }

    fn places(results: &[Result<Submission>]) -> Vec<String> {
        let place = |result: &Result<Submission>| match result {
            Ok(_) => String::new(),
            Err(ApiError::Invalid(problems)) => problems[0].loc.join("."),
            Err(error) => format!("{error:?}"),
        };
        results.iter().map(place).collect()
    }

    #[test]
    fn one_item_that_is_wrong_does_not_hurt_the_others() {
        let deep = format!("{}1{}", r#"{"a":"#.repeat(128), "}".repeat(128));
        let body = format!(
            r#"[{{"eventType":"a","payload":{{"n":1}}}}, 5, {{"eventType":"a b","payload":{{}}}}, {{"payload":{{}}}},
               {{"eventType":"a","payload":{deep}}}, {{"eventType":"a","payload":{{}},"eventId":7}}]"#
        );
        let results = batch().read_array(&Bytes::from(body)).unwrap();
        let want = ["", "body", "body.eventType", "body", "body", "body.eventId"];
        assert_eq!(places(&results), want);
        assert_eq!(results[0].as_ref().unwrap().payload, r#"{"n":1}"#);
    }

    #[test]
    fn an_item_is_no_larger_than_a_message_by_itself_may_be() {
        let of = |length: usize| format!(r#"{{"eventType":"a","payload":{{"a":"{}"}}}}"#, "x".repeat(length));
        let most = MAX_BODY_BYTES - of(0).len();
        let body = Bytes::from(format!("[{},{},{}]", of(most), of(most + 1), of(1)));
        let results = batch().read_array(&body).unwrap();
        assert!(results[0].is_ok() && results[2].is_ok());
        let too_large =
            |result: &Result<Submission>| matches!(result, Err(ApiError::General { code: "payload_too_large", .. }));
        assert!(too_large(&results[1]), "{:?}", results[1]);
        let alone = Bytes::from(format!("[{}]", of(most + 1)));
        assert!(too_large(&batch().read_array(&alone).unwrap()[0]));
    }

    #[test]
    fn an_item_that_lists_its_members_without_their_names_is_no_message() {
        let body = Bytes::from_static(br#"[["a", {}, null, null, null, null], {"eventType":"a","payload":{}}]"#);
        assert_eq!(places(&batch().read_array(&body).unwrap()), ["body", ""]);
        assert_eq!(places(&[batch().read_line(br#"["a", {}, null, null, null, null]"#, 0)]), ["body"]);
    }

    #[test]
    fn what_is_told_of_a_batch_is_bounded_and_fits_into_its_room() {
        let nested = |name: &str| -> Vec<Problem> {
            let loc: Vec<_> = std::iter::once("body".into()).chain(vec![Cow::Owned(name.to_owned()); 80]).collect();
            vec![Problem { loc, msg: "is wrong ".repeat(100), kind: Problem::VALUE }; 50]
        };
        for (name, count) in [("x".repeat(256), MAX_ITEMS), ("\u{1}".repeat(256), MAX_ITEMS), ("x".to_owned(), 3)] {
            let (mut out, mut details) = (Vec::new(), Details::of(count));
            for index in 0..count {
                write_result(&mut out, index, Err(ApiError::Invalid(nested(&name))), &mut details);
                out.push(b'\n');
            }
            assert!(out.len() as u64 <= room(count), "{} bytes of {}", out.len(), room(count));
            for line in out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let result: serde_json::Value = serde_json::from_slice(line).unwrap();
                let problems = result["detail"].as_array().unwrap();
                let is_short = problems[0]["msg"].as_str().unwrap().contains("no more is reported");
                assert_eq!(problems.len(), if is_short { 1 } else { 50 });
                assert_eq!(problems[0]["loc"][1], format!("[{}]", result["index"]));
            }
        }
    }

    #[test]
    fn a_payload_does_not_keep_its_body_in_memory() {
        let body = Bytes::from_static(br#"[{"eventType":"a","payload":{"n":1}}]"#);
        let submission = batch().read_array(&body).unwrap().remove(0).unwrap();
        assert!(!body.as_ptr_range().contains(&submission.payload.as_ptr()));
    }

    #[test]
    fn what_is_no_short_array_is_refused_whole() {
        for body in ["", "{}", "[", "[{}]x", "[,]", "\u{0}"] {
            assert!(batch().read_array(&Bytes::from(body)).is_err(), "{body:?}");
        }
        for (item, count) in [("5", 1_001), (r#"{"eventType":"a","payload":{}}"#, 1_001)] {
            let body = format!("[{}]", vec![item; count].join(","));
            let Err(ApiError::Invalid(problems)) = batch().read_array(&Bytes::from(body)) else { panic!("accepted") };
            assert!(problems[0].msg.contains("has 1001"), "{problems:?}");
        }
        let body = format!("[{}]", vec![r#"{"eventType":"a","payload":{}}"#; 1_000].join(","));
        assert_eq!(batch().read_array(&Bytes::from(body)).unwrap().len(), 1_000);
    }

    #[test]
    fn the_keys_of_items_are_neighbours_and_differ() {
        let keys: Vec<_> = (0..300).map(|index| batch().item_key(index).unwrap().0).collect();
        assert!(keys.is_sorted() && keys.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(keys.iter().all(|key| key[..12] == [7; 12]));
        assert!(Batch { key: None, ..batch() }.item_key(0).is_none());
    }
}
