//! JSON bodies: decoded from the raw bytes whatever the content type says (rest-contract §1.1), with errors that say where.
//!
//! What nests deeper than [`MAX_DEPTH`] is refused before anything recursive sees it.

use std::borrow::Cow;

use axum::extract::{FromRequest, Request};
use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde_path_to_error::Segment;

use crate::body;
use crate::error::{ApiError, Problem, Result};
use crate::router::Shared;

/// How deep a body may nest. A message has one level around its payload, which leaves 127 to the payload: as many as
/// common parsers on the receiving side read.
const MAX_DEPTH: usize = 128;

/// A body of type `T`. To be taken last: whoever may not do something is told that, not what is wrong with his body.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Shared> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &Shared) -> Result<Self> {
        let bytes = body::read(request.into_body()).await?;
        decode(text(&bytes)?).map(Self)
    }
}

/// The text of a body that is safe to parse: UTF-8, and not too deep.
pub(crate) fn text(body: &[u8]) -> Result<&str> {
    let text = utf8(body)?;
    shallow(text, 0)?;
    Ok(text)
}

/// The text of a body.
pub(crate) fn utf8(body: &[u8]) -> Result<&str> {
    std::str::from_utf8(body).map_err(|_| undecodable(Vec::new(), "the body is not UTF-8".to_owned()))
}

/// Checks that part of a body, which has `around` levels around it, is not too deep.
pub(crate) fn shallow(part: &str, around: usize) -> Result<()> {
    if depth_within(part.as_bytes(), MAX_DEPTH - around) {
        return Ok(());
    }
    Err(undecodable(Vec::new(), format!("the body nests deeper than {MAX_DEPTH} levels")))
}

/// Decodes what [`text`] let pass.
pub(crate) fn decode<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T> {
    // The path costs time on every member, so it is only looked for when there is something to say.
    serde_json::from_str(text)
        .map_err(|error| located::<T>(text).unwrap_or_else(|| undecodable(Vec::new(), error.to_string())))
}

/// Decodes again, to say where it fails.
#[cold]
fn located<'a, T: Deserialize<'a>>(text: &'a str) -> Option<ApiError> {
    let error = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_str(text)).err()?;
    let path = error.path().iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(Cow::Owned(format!("[{index}]"))),
        Segment::Map { key } => Some(Cow::Owned(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    Some(undecodable(path.collect(), error.inner().to_string()))
}

fn undecodable(path: Vec<Cow<'static, str>>, msg: String) -> ApiError {
    let loc = std::iter::once(Cow::Borrowed("body")).chain(path).collect();
    ApiError::Invalid(vec![Problem { loc, msg, kind: Problem::DECODE }])
}

/// Whether brackets outside strings nest at most `max` deep. Does not recurse, and judges nothing else.
fn depth_within(json: &[u8], max: usize) -> bool {
    let opening = json.iter().filter(|&&byte| byte == b'{' || byte == b'[').count();
    if opening <= max {
        return true;
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > max {
            return false;
        }
    }
    true
}

/// For members of a PATCH that can be cleared: absent is `None`, null is `Some(None)`.
pub(crate) fn nullable<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// For members of a PATCH that can't be cleared: absent is `None`, null is an error.
pub(crate) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, serde::Deserialize)]
    struct Cup {
        #[expect(dead_code, reason = "only its decoding is tested")]
        leaves: Vec<u8>,
    }

    fn problem(body: &[u8]) -> Problem {
        match text(body).and_then(decode::<Cup>) {
            Err(ApiError::Invalid(mut problems)) => problems.remove(0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_error_says_where() {
        assert_eq!(problem(br#"{"leaves":[1,"x"]}"#).loc, ["body", "leaves", "[1]"]);
        assert_eq!(problem(br#"{"leaves":[1]"#).loc, ["body"]);
        assert_eq!(problem(b"{}").loc, ["body"]);
        assert_eq!(problem(b"{\"leaves\":[], \"x\": \"\xff\"}").kind, Problem::DECODE);
        assert_eq!(problem(b"").kind, Problem::DECODE);
    }

    #[test]
    fn a_hundred_thousand_nested_arrays_are_refused() {
        let nested = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        assert!(problem(&nested).msg.contains("deeper"));
        assert!(problem(&vec![b'['; 100_000]).msg.contains("deeper"));
    }

    #[test]
    fn brackets_that_do_not_nest_are_no_depth() {
        for text in ["[[],[],[],[]]", r#"["[[[[\"[[["]"#, r#"["\\",[],"\"["]"#] {
            assert!(depth_within(text.as_bytes(), 2), "{text}");
        }
        assert!(!depth_within(br#"["\\",[[]]]"#, 2));
        assert!(!depth_within(b"[[]", 1));
    }

    proptest! {
        #[test]
        fn the_depth_is_that_of_the_value(depth in 1usize..300, padding in 0usize..300) {
            let pad = "[],".repeat(padding);
            let json = format!("{}{pad}1{}", "[".repeat(depth), "]".repeat(depth));
            let whole = depth + usize::from(padding > 0);
            prop_assert!(depth_within(json.as_bytes(), whole));
            prop_assert!(!depth_within(json.as_bytes(), whole - 1));
        }
    }
}
