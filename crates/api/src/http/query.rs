//! Query strings: decoded by hand, because arrays come in four spellings and dates in many (rest-contract §1.1).
//!
//! What can't be decoded is 400 `generic_error`; what breaks a rule is 422, and so is any limit that is none. Unknown parameters are ignored; of a
//! parameter that is given twice the last one counts, except for arrays, which are joined. One that is unknown and much
//! like one that is known is warned of.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use http::request::Parts;
use postrider_domain::names::{Channel, EventTypeName, MAX_NAME_BYTES, Tag};
use postrider_domain::schema::{DATE_CHARS, NAME_PATTERN};
use postrider_domain::time::{ParseTimestampError, Timestamp};
use postrider_store::Direction;
use serde::Serialize;
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::http::account::IsList;
use crate::http::pagination::MAX_ITERATOR;
use crate::http::parameter::Parameter;
use crate::wire::error::{ApiError, Result};
use crate::wire::typos::Warnings;

postrider_domain::limits! {
    in "Lists";
    /// The event types that a list is filtered by
    pub(crate) const MAX_EVENT_TYPES: usize = 500, "event types", beyond "422";
    /// The parameters of a query, each time that one is given: as many as there are event types, and some more
    pub(crate) const MAX_PARAMETERS: usize = 600, "parameters", beyond "422";
}

/// The parameters of a query string.
pub(crate) struct QueryString<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Whether a page's limit was asked for.
    is_list: Cell<bool>,
    /// The names that were asked for.
    asked: RefCell<Vec<&'static str>>,
    /// What was asked for, if that is to be documented.
    noted: Option<RefCell<Vec<Parameter>>>,
}

/// What a route reads from its query string. Every parameter is asked for, whatever the others say: that is also how the
/// document learns about them.
pub(crate) trait FromQuery: Sized {
    /// Reads the parameters.
    fn from_query(query: &QueryString<'_>) -> Result<Self>;
}

/// The parameters of a route. To be taken first: a list's query is judged before its caller (rest-contract §2).
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: FromQuery> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let (read, is_list) = {
            let query = QueryString::parse(parts.uri.query().unwrap_or_default())?;
            let read = T::from_query(&query);
            // Whoever reads stops at what is wrong, and has not asked for the others then.
            if read.is_ok() {
                query.warn_of_typos(parts.extensions.get::<Warnings>());
            }
            (read, query.is_list.get())
        };
        if is_list {
            parts.extensions.insert(IsList);
        }
        read.map(Self)
    }
}

fn undecodable(name: &str, problem: impl Display) -> ApiError {
    ApiError::bad_request(format!("the query parameter '{name}' can't be decoded: {problem}"))
}

/// What is said of a value that is none of those that there are.
fn unknown_value<T: Serialize>(name: &str, known: &[T]) -> ApiError {
    let known: Vec<_> = known.iter().map(|value| json!(value).to_string().replace('"', "")).collect();
    undecodable(name, format_args!("its values are {}", known.join(", ")))
}

/// A date, also one in which the plus of an offset was not percent-encoded and so has become a blank.
fn parse_date(text: &str) -> Result<Timestamp, ParseTimestampError> {
    Timestamp::parse(text).or_else(|error| {
        let with_plus = text.rsplit_once(' ').map(|(at, offset)| Timestamp::parse(&format!("{at}+{offset}")));
        match with_plus {
            None | Some(Err(ParseTimestampError::NotADate)) => Err(error),
            Some(other) => other,
        }
    })
}

impl<'a> QueryString<'a> {
    /// Splits and decodes a query string, without its question mark. Nobody knows yet who sent it, and each parameter that is asked
    /// for is looked for among all, so there are only so many.
    pub(crate) fn parse(query: &'a str) -> Result<Self> {
        let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).take(MAX_PARAMETERS + 1).collect();
        if pairs.len() > MAX_PARAMETERS {
            return Err(ApiError::invalid(&["query"], format!("must have at most {MAX_PARAMETERS} parameters")));
        }
        Ok(Self { pairs, is_list: Cell::new(false), asked: RefCell::default(), noted: None })
    }

    /// The parameters that `T` asks for, when it reads a query that has none of them.
    pub(crate) fn parameters_of<T: FromQuery>() -> Vec<Parameter> {
        let noted = Some(RefCell::default());
        let query = QueryString { pairs: Vec::new(), is_list: Cell::new(false), asked: RefCell::default(), noted };
        // Every parameter can be left out.
        let _ = T::from_query(&query);
        query.noted.map(RefCell::into_inner).unwrap_or_default()
    }

    /// Notes that a parameter is asked for.
    fn note(&self, name: &'static str, schema: impl FnOnce() -> Value) {
        self.asked.borrow_mut().push(name);
        if let Some(noted) = &self.noted {
            let mut noted = noted.borrow_mut();
            // Whoever asks by way of another method says more.
            noted.retain(|parameter| parameter.name != name);
            noted.push(Parameter { name, schema: schema() });
        }
    }

    /// Notes parameters that nobody asked for, if they are much like one that somebody did.
    fn warn_of_typos(&self, warnings: Option<&Warnings>) {
        let Some(warnings) = warnings else { return };
        let asked = self.asked.borrow();
        // Elements of arrays have their place behind the name.
        let names = self.pairs.iter().map(|(key, _)| key.split('[').next().unwrap_or_default());
        warnings.unknown_parameters(names.filter(|name| !asked.contains(name)), &asked);
    }

    /// The text of a parameter.
    pub(crate) fn text(&self, name: &'static str) -> Result<Option<&str>> {
        self.note(name, || json!({ "type": "string", "maxLength": MAX_NAME_BYTES }));
        match self.find(name) {
            Some(text) if text.chars().count() > MAX_NAME_BYTES => {
                Err(ApiError::invalid(&["query", name], format!("must be at most {MAX_NAME_BYTES} characters long")))
            }
            found => Ok(found),
        }
    }

    fn find(&self, name: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_ref())
    }

    /// A whole number up to `most`, by which a list is limited.
    pub(crate) fn count(&self, name: &'static str, default: usize, most: usize) -> Result<usize> {
        self.is_list.set(true);
        self.note(name, || json!({ "type": "integer", "minimum": 0, "maximum": most, "default": default }));
        let Some(text) = self.find(name) else { return Ok(default) };
        let refuse = |_| ApiError::invalid(&["query", name], format!("must be a whole number, at most {most}"));
        let number: usize = text.parse().map_err(refuse)?;
        if number > most {
            return Err(ApiError::invalid(&["query", name], format!("must be at most {most}")));
        }
        Ok(number)
    }

    /// One of these numbers, which stand for something.
    pub(crate) fn code<N: FromStr + PartialEq + Serialize>(
        &self,
        name: &'static str,
        known: &[N],
    ) -> Result<Option<N>> {
        self.note(name, || json!({ "type": "integer", "enum": known }));
        let Some(text) = self.find(name) else { return Ok(None) };
        let code = text.parse().ok().filter(|code| known.contains(code));
        code.map(Some).ok_or_else(|| unknown_value(name, known))
    }

    /// One of these words, which stand for something.
    pub(crate) fn word(&self, name: &'static str, known: &[&str]) -> Result<Option<&str>> {
        self.note(name, || json!({ "type": "string", "enum": known }));
        match self.find(name) {
            Some(word) if !known.contains(&word) => Err(unknown_value(name, known)),
            word => Ok(word),
        }
    }

    /// `true` or `false`.
    pub(crate) fn flag(&self, name: &'static str, default: bool) -> Result<bool> {
        self.note(name, || json!({ "type": "boolean", "default": default }));
        match self.find(name) {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(undecodable(name, "write true or false")),
        }
    }

    /// A date.
    pub(crate) fn date(&self, name: &'static str) -> Result<Option<Timestamp>> {
        self.note(name, || json!({ "type": "string", "format": "date-time", "maxLength": DATE_CHARS }));
        let Some(text) = self.find(name) else { return Ok(None) };
        parse_date(text).map(Some).map_err(|error| undecodable(name, error))
    }

    /// `ascending` or `descending`.
    pub(crate) fn order(&self, default: Direction) -> Result<Direction> {
        let default_word = if default == Direction::Ascending { "ascending" } else { "descending" };
        self.note("order", || json!({ "enum": ["ascending", "descending"], "default": default_word }));
        match self.find("order") {
            None => Ok(default),
            Some("ascending") => Ok(Direction::Ascending),
            Some("descending") => Ok(Direction::Descending),
            Some(_) => Err(undecodable("order", "write ascending or descending")),
        }
    }

    /// The iterator of a list, whose iterators look like this.
    pub(crate) fn iterator(&self, pattern: impl FnOnce() -> String) -> Option<&str> {
        self.note("iterator", || json!({ "type": "string", "pattern": pattern(), "maxLength": MAX_ITERATOR }));
        self.find("iterator")
    }

    /// The texts of an array: `name=a,b`, `name=a&name=b`, `name[]=a` and `name[0]=a`, all together.
    fn array(&self, name: &str) -> impl Iterator<Item = &str> {
        let belongs = move |key: &str| {
            key.strip_prefix(name).is_some_and(|rest| {
                let index = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                rest.is_empty() || index.is_some_and(|index| index.bytes().all(|byte| byte.is_ascii_digit()))
            })
        };
        self.pairs.iter().filter(move |(key, _)| belongs(key)).flat_map(|(_, value)| value.split(','))
    }

    /// The event types that a list is filtered by; `None` is all. Empty ones are passed over: an empty array can't be told
    /// from an array of one empty name. They count towards the bound like all others.
    pub(crate) fn event_types(&self) -> Result<Option<Vec<EventTypeName>>> {
        let item = || json!({ "type": "string", "pattern": format!("{NAME_PATTERN}|^$"), "maxLength": MAX_NAME_BYTES });
        self.note("event_types", || json!({ "type": "array", "items": item(), "maxItems": MAX_EVENT_TYPES }));
        let refuse = |msg| ApiError::invalid(&["query", "event_types"], msg);
        if self.array("event_types").nth(MAX_EVENT_TYPES).is_some() {
            return Err(refuse(format!("must have at most {MAX_EVENT_TYPES} elements")));
        }
        let names: Vec<_> = self
            .array("event_types")
            .filter(|name| !name.is_empty())
            .map(EventTypeName::parse)
            .collect::<Result<_, _>>()
            .map_err(|error| refuse(error.to_string()))?;
        Ok((!names.is_empty()).then_some(names))
    }

    /// The tag that a list is filtered by.
    pub(crate) fn tag(&self) -> Result<Option<Tag>> {
        self.note("tag", || json!({ "type": "string", "pattern": NAME_PATTERN, "maxLength": MAX_NAME_BYTES }));
        self.find("tag")
            .map(|text| Tag::parse(text).map_err(|error| ApiError::invalid(&["query", "tag"], error.to_string())))
            .transpose()
    }

    /// The one event type that a stream is filtered by.
    pub(crate) fn event_type(&self) -> Result<Option<EventTypeName>> {
        self.note("event_type", || json!({ "type": "string", "pattern": NAME_PATTERN, "maxLength": MAX_NAME_BYTES }));
        let refuse = |msg| ApiError::invalid(&["query", "event_type"], msg);
        let parse = |text| EventTypeName::parse(text).map_err(|error| refuse(error.to_string()));
        self.find("event_type").map(parse).transpose()
    }

    /// The channel that a list is filtered by.
    pub(crate) fn channel(&self) -> Result<Option<Channel>> {
        self.note("channel", || json!({ "type": "string", "pattern": NAME_PATTERN, "maxLength": MAX_NAME_BYTES }));
        self.find("channel")
            .map(|text| {
                Channel::parse(text).map_err(|error| ApiError::invalid(&["query", "channel"], error.to_string()))
            })
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(query: &str) -> Vec<String> {
        let names = QueryString::parse(query).unwrap().event_types().unwrap();
        names.unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_spelling_of_an_array_is_read_and_they_are_joined() {
        for query in [
            "event_types=a,b",
            "event_types=a%2Cb",
            "event_types=a&event_types=b",
            "event_types[]=a&event_types[]=b",
            "event_types%5B0%5D=a&event_types%5B1%5D=b",
            "event_types=a&event_types[]=b",
        ] {
            assert_eq!(types(query), ["a", "b"], "{query}");
        }
        assert!(types("event_types=&event_types_2=x&event_types[x]=y").is_empty());
    }

    #[test]
    fn an_illegal_name_in_an_array_is_invalid_and_not_undecodable() {
        assert!(matches!(QueryString::parse("event_types=a,b%20c").unwrap().event_types(), Err(ApiError::Invalid(_))));
    }

    #[test]
    fn there_are_only_so_many_parameters_and_those_of_the_longest_array_are_no_more() {
        assert!(QueryString::parse(&"a&".repeat(MAX_PARAMETERS)).is_ok());
        assert!(matches!(QueryString::parse(&"a&".repeat(MAX_PARAMETERS + 1)), Err(ApiError::Invalid(_))));
        let query = format!("{}limit=50&order=ascending", "event_types=a&".repeat(MAX_EVENT_TYPES));
        assert_eq!(types(&query).len(), MAX_EVENT_TYPES);
        let query = format!("event_types={}", "a,".repeat(MAX_EVENT_TYPES + 1));
        assert!(matches!(QueryString::parse(&query).unwrap().event_types(), Err(ApiError::Invalid(_))));
    }

    #[test]
    fn empty_names_in_an_array_count_towards_its_bound_though_they_are_passed_over() {
        assert!(types(&format!("event_types={}", ",".repeat(MAX_EVENT_TYPES - 1))).is_empty());
        for query in [
            format!("event_types={}", ",".repeat(MAX_EVENT_TYPES)),
            format!("event_types={}a", ",".repeat(MAX_EVENT_TYPES)),
            "event_types=&".repeat(MAX_EVENT_TYPES + 1),
        ] {
            assert!(matches!(QueryString::parse(&query).unwrap().event_types(), Err(ApiError::Invalid(_))), "{query}");
        }
    }

    #[test]
    fn what_can_not_be_decoded_is_a_bad_request() {
        let query = QueryString::parse("limit=x&flag=1&flag2=True&before=soon&order=up").unwrap();
        let bad = |result: Result<()>| assert!(matches!(result, Err(ApiError::General { code: "generic_error", .. })));
        bad(query.code::<u8>("limit", &[1]).map(drop));
        bad(query.code::<u8>("flag", &[2]).map(drop));
        bad(query.flag("flag", true).map(drop));
        bad(query.flag("flag2", true).map(drop));
        bad(query.date("before").map(drop));
        bad(query.order(Direction::Ascending).map(drop));
    }

    #[test]
    fn a_limit_that_is_none_is_refused_as_one_that_is_too_large() {
        for text in ["x", "-1", "", "1.5", "2", "99999999999999999999"] {
            let query = format!("limit={text}");
            let limit = QueryString::parse(&query).unwrap().count("limit", 1, 1);
            assert!(matches!(limit, Err(ApiError::Invalid(_))), "{text}");
        }
        assert_eq!(QueryString::parse("").unwrap().count("limit", 7, 9).unwrap(), 7);
    }

    #[test]
    fn a_value_that_there_is_not_is_answered_with_those_that_there_are() {
        let query = QueryString::parse("status=fail&state=runing").unwrap();
        let detail = |error: Option<ApiError>| match error {
            Some(ApiError::General { detail, .. }) => detail.into_owned(),
            other => panic!("{other:?}"),
        };
        assert!(detail(query.code::<u8>("status", &[0, 2]).err()).ends_with("its values are 0, 2"));
        assert!(detail(query.word("state", &["running", "failed"]).err()).ends_with("its values are running, failed"));
    }

    #[test]
    fn dates_are_read_in_every_spelling_that_clients_send() {
        let want = Timestamp::from_micros(1_767_323_045_123_456);
        for text in [
            "2026-01-02%2003:04:05.123456%20UTC",
            "2026-01-02T03:04:05.123456Z",
            "2026-01-02T03:04:05.123456",
            "2026-01-02T03:04:05.123456%2B00:00",
            "2026-01-02T03:04:05.123456+00:00",
            "2026-01-02T05:04:05.123456+02:00",
            "2026-01-02T03:04:05.123456+0000",
        ] {
            let query = format!("at={text}");
            assert_eq!(QueryString::parse(&query).unwrap().date("at").unwrap(), Some(want), "{text}");
        }
    }
}
