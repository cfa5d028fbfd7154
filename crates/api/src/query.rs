//! Query strings: decoded by hand, because arrays come in four spellings and dates in many (rest-contract §1.1).
//!
//! What can't be decoded is 400 `generic_error`; what breaks a rule is 422. Unknown parameters are ignored; of a
//! parameter that is given twice the last one counts, except for arrays, which are joined.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use http::request::Parts;
use postrider_domain::names::{Channel, EventTypeName, Tag};
use postrider_domain::time::Timestamp;
use postrider_store::Direction;
use url::form_urlencoded;

use crate::error::{ApiError, Result};
use crate::router::Shared;

/// The parameters of a query string.
pub(crate) struct QueryString<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// What a route reads from its query string.
pub(crate) trait FromQuery: Sized {
    /// Reads the parameters.
    fn from_query(query: &QueryString<'_>) -> Result<Self>;
}

/// The parameters of a route. To be taken first: a list's query is judged before its caller (rest-contract §2).
pub(crate) struct Query<T>(pub(crate) T);

impl<T: FromQuery> FromRequestParts<Shared> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self> {
        T::from_query(&QueryString::parse(parts.uri.query().unwrap_or_default())).map(Self)
    }
}

fn undecodable(name: &str, problem: impl Display) -> ApiError {
    ApiError::bad_request(format!("the query parameter '{name}' can't be decoded: {problem}"))
}

impl<'a> QueryString<'a> {
    /// Splits and decodes a query string, without its question mark.
    pub(crate) fn parse(query: &'a str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).collect())
    }

    /// The text of a parameter.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_ref())
    }

    /// A number.
    pub(crate) fn number<N: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<N>> {
        self.text(name).map(|text| text.parse().map_err(|error| undecodable(name, error))).transpose()
    }

    /// `true` or `false`.
    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.text(name) {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(undecodable(name, "write true or false")),
        }
    }

    /// A date.
    pub(crate) fn date(&self, name: &str) -> Result<Option<Timestamp>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        // The plus of an offset that was not percent-encoded has become a blank.
        Timestamp::parse(text)
            .or_else(|error| {
                text.rsplit_once(' ').map_or(Err(error), |(at, offset)| Timestamp::parse(&format!("{at}+{offset}")))
            })
            .map(Some)
            .map_err(|error| undecodable(name, error))
    }

    /// `ascending` or `descending`.
    pub(crate) fn order(&self, default: Direction) -> Result<Direction> {
        match self.text("order") {
            None => Ok(default),
            Some("ascending") => Ok(Direction::Ascending),
            Some("descending") => Ok(Direction::Descending),
            Some(_) => Err(undecodable("order", "write ascending or descending")),
        }
    }

    /// The texts of an array: `name=a,b`, `name=a&name=b`, `name[]=a` and `name[0]=a`, all together.
    fn array(&self, name: &str) -> impl Iterator<Item = &str> {
        let belongs = move |key: &str| {
            key.strip_prefix(name).is_some_and(|rest| {
                let index = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                rest.is_empty() || index.is_some_and(|index| index.bytes().all(|byte| byte.is_ascii_digit()))
            })
        };
        self.0
            .iter()
            .filter(move |(key, _)| belongs(key))
            .flat_map(|(_, value)| value.split(','))
            .filter(|item| !item.is_empty())
    }

    /// The event types that a list is filtered by; `None` is all.
    pub(crate) fn event_types(&self) -> Result<Option<Vec<EventTypeName>>> {
        let names: Vec<_> = self
            .array("event_types")
            .map(EventTypeName::parse)
            .collect::<Result<_, _>>()
            .map_err(|error| ApiError::invalid(&["query", "event_types"], error.to_string()))?;
        Ok((!names.is_empty()).then_some(names))
    }

    /// The tag that a list is filtered by.
    pub(crate) fn tag(&self) -> Result<Option<Tag>> {
        self.text("tag")
            .map(|text| Tag::parse(text).map_err(|error| ApiError::invalid(&["query", "tag"], error.to_string())))
            .transpose()
    }

    /// The one event type that a stream is filtered by.
    pub(crate) fn event_type(&self) -> Result<Option<EventTypeName>> {
        let parse = |text| EventTypeName::parse(text).map_err(|error| error.to_string());
        let refuse = |msg: String| ApiError::invalid(&["query", "event_type"], msg);
        self.text("event_type").map(parse).transpose().map_err(refuse)
    }

    /// The channel that a list is filtered by.
    pub(crate) fn channel(&self) -> Result<Option<Channel>> {
        self.text("channel")
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
        let names = QueryString::parse(query).event_types().unwrap();
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
        assert!(matches!(QueryString::parse("event_types=a,b%20c").event_types(), Err(ApiError::Invalid(_))));
    }

    #[test]
    fn what_can_not_be_decoded_is_a_bad_request() {
        let query = QueryString::parse("limit=x&big=99999999999999999999&flag=1&flag2=True&before=soon&order=up");
        let bad = |result: Result<()>| assert!(matches!(result, Err(ApiError::General { code: "generic_error", .. })));
        bad(query.number::<usize>("limit").map(drop));
        bad(query.number::<usize>("big").map(drop));
        bad(query.flag("flag", true).map(drop));
        bad(query.flag("flag2", true).map(drop));
        bad(query.date("before").map(drop));
        bad(query.order(Direction::Ascending).map(drop));
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
            assert_eq!(QueryString::parse(&query).date("at").unwrap(), Some(want), "{text}");
        }
    }
}
