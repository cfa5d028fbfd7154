//! Decoding JSON from raw bytes, with errors that say where.
//!
//! What nests deeper than [`MAX_DEPTH`] is refused before anything recursive sees it.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_path_to_error::{Segment, Track};

use crate::wire::error::{ApiError, Result};
use crate::wire::problem::{MAX_DEPTH, Problem};

/// The most values in a body that is decoded whole: each takes memory of its own, however short it is written.
pub(crate) const MAX_VALUES: usize = 100_000;

/// The most elements of a list that are kept, where fewer are allowed: enough to say that it is too long.
const MAX_KEPT: usize = 64;

/// The most values of a member that has few.
const MAX_SMALL: usize = 10_000;

/// How many values a body has. Commas in texts count as well: to tell them apart takes as long as to decode it.
pub(crate) fn values(body: &[u8]) -> usize {
    memchr::memchr3_iter(b',', b'[', b'{', body).count()
}

/// Whether a body has more values than these.
pub(crate) fn has_more_values(body: &[u8], than: usize) -> bool {
    memchr::memchr3_iter(b',', b'[', b'{', body).nth(than).is_some()
}

/// Refuses a body of so many values that decoding it would take many times its size in memory.
pub(crate) fn few_values(body: &[u8], most: usize) -> Result<()> {
    if !has_more_values(body, most) {
        return Ok(());
    }
    // Commas in texts count as well when it comes to this; a body of which that is true is no less unusual.
    let place = crowded(body, most);
    let what = if place.is_empty() { "the body " } else { "" };
    Err(undecodable(place, format!("{what}has more than {most} values")))
}

/// The member that has so many values by itself, and the one in it that does.
#[cold]
fn crowded(body: &[u8], most: usize) -> Vec<Cow<'static, str>> {
    let mut place = Vec::new();
    let mut text = std::str::from_utf8(body).unwrap_or_default();
    while place.len() < 2
        && let Ok(Some((name, value))) = serde_json::Deserializer::from_str(text).deserialize_map(Crowded { most })
    {
        place.push(Cow::Owned(name));
        text = value.get();
    }
    place
}

/// Finds a member of an object with many values, without keeping the others.
struct Crowded {
    most: usize,
}

impl<'de> Visitor<'de> for Crowded {
    type Value = Option<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            if found.is_none() && values(value.get().as_bytes()) > self.most {
                found = Some((name, value));
            }
        }
        Ok(found)
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

/// Refuses a body in which there is nothing.
pub(crate) fn not_missing(text: &str) -> Result<()> {
    if !text.trim_ascii().is_empty() {
        return Ok(());
    }
    Err(undecodable(Vec::new(), "the body is missing: send a JSON object, {} if there is nothing to say".to_owned()))
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
    let mut from = serde_json::Deserializer::from_str(text);
    // The path costs time on every member, so it is only looked for when there is something to say.
    T::deserialize(Object(&mut from))
        .and_then(|value| from.end().map(|()| value))
        .map_err(|error| located::<T>(text).unwrap_or_else(|| undecodable(Vec::new(), error.to_string())))
}

/// Decodes again, to say where it fails.
#[cold]
fn located<'a, T: Deserialize<'a>>(text: &'a str) -> Option<ApiError> {
    let error =
        serde_path_to_error::deserialize::<_, T>(Object(&mut serde_json::Deserializer::from_str(text))).err()?;
    Some(undecodable(places(error.path()).map(Cow::Owned).collect(), error.inner().to_string()))
}

/// Member names, and elements as `[0]`.
fn places(path: &serde_path_to_error::Path) -> impl Iterator<Item = String> {
    path.iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(format!("[{index}]")),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { .. } | Segment::Unknown => None,
    })
}

/// Stands around the places in the text of an error; no JSON text that decodes contains it raw.
const PLACE_MARK: char = '\u{1f}';

/// Decodes a flattened member, which has lost its place: an error says that it is about this member, and where in it.
pub(crate) fn member<'de, D: Deserializer<'de>, T>(
    name: &str,
    from: D,
    decode: impl FnOnce(serde_path_to_error::Deserializer<'_, '_, D>) -> Result<T, D::Error>,
) -> Result<T, D::Error> {
    let mut track = Track::new();
    decode(serde_path_to_error::Deserializer::new(from, &mut track)).map_err(|error| {
        let path: String =
            std::iter::once(name.to_owned()).chain(places(&track.path())).map(|place| marked(&place)).collect();
        Error::custom(format_args!("{path}{error}"))
    })
}

fn marked(place: &str) -> String {
    format!("{PLACE_MARK}{}{PLACE_MARK}", place.replace(PLACE_MARK, ""))
}

pub(crate) fn undecodable(mut path: Vec<Cow<'static, str>>, mut msg: String) -> ApiError {
    while let Some((place, problem)) = msg.strip_prefix(PLACE_MARK).and_then(|rest| rest.split_once(PLACE_MARK)) {
        path.push(Cow::Owned(place.to_owned()));
        msg = problem.to_owned();
    }
    let loc = std::iter::once(Cow::Borrowed("body")).chain(path).collect();
    ApiError::Invalid(vec![Problem { loc, msg, kind: Problem::DECODE }])
}

/// Deserializers that pass everything on, and look at the names of members on the way.
mod noting {
    use serde::Deserializer;
    use serde::de::{DeserializeSeed, Error, MapAccess, Visitor};

    pub(super) struct Noting<D, F> {
        pub(super) from: D,
        pub(super) unknown: F,
    }

    impl<'de, D: Deserializer<'de>, F: FnMut(&str, &'static [&'static str])> Deserializer<'de> for Noting<D, F> {
        type Error = D::Error;

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            known: &'static [&'static str],
            inner: V,
        ) -> Result<V::Value, D::Error> {
            self.from.deserialize_map(Members { inner, known, unknown: self.unknown })
        }

        fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.from.deserialize_any(visitor)
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    /// Stands before a visitor of an object, before its members, and before a name.
    struct Members<I, F> {
        inner: I,
        known: &'static [&'static str],
        unknown: F,
    }

    impl<'de, V: Visitor<'de>, F: FnMut(&str, &'static [&'static str])> Visitor<'de> for Members<V, F> {
        type Value = V::Value;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.inner.expecting(f)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
            self.inner.visit_map(Members { inner: map, known: self.known, unknown: self.unknown })
        }
    }

    impl<'de, A: MapAccess<'de>, F: FnMut(&str, &'static [&'static str])> MapAccess<'de> for Members<A, F> {
        type Error = A::Error;

        fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
            self.inner.next_key_seed(Name { inner: seed, known: self.known, unknown: &mut self.unknown })
        }

        fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
            self.inner.next_value_seed(seed)
        }

        fn size_hint(&self) -> Option<usize> {
            self.inner.size_hint()
        }
    }

    struct Name<'f, I, F> {
        inner: I,
        known: &'static [&'static str],
        unknown: &'f mut F,
    }

    impl<F: FnMut(&str, &'static [&'static str])> Name<'_, (), F> {
        fn look_at(&mut self, name: &str) {
            if !self.known.contains(&name) {
                (self.unknown)(name, self.known);
            }
        }
    }

    impl<'f, I, F> Name<'f, I, F> {
        fn split(self) -> (I, Name<'f, (), F>) {
            (self.inner, Name { inner: (), known: self.known, unknown: self.unknown })
        }
    }

    impl<'de, K: DeserializeSeed<'de>, F: FnMut(&str, &'static [&'static str])> DeserializeSeed<'de> for Name<'_, K, F> {
        type Value = K::Value;

        fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<K::Value, D::Error> {
            let (seed, name) = self.split();
            seed.deserialize(Name { inner: from, known: name.known, unknown: name.unknown })
        }
    }

    impl<'de, D: Deserializer<'de>, F: FnMut(&str, &'static [&'static str])> Deserializer<'de> for Name<'_, D, F> {
        type Error = D::Error;

        fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            let (from, name) = self.split();
            from.deserialize_identifier(Name { inner: visitor, known: name.known, unknown: name.unknown })
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
        }
    }

    impl<'de, V: Visitor<'de>, F: FnMut(&str, &'static [&'static str])> Visitor<'de> for Name<'_, V, F> {
        type Value = V::Value;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.inner.expecting(f)
        }

        fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<V::Value, E> {
            let (visitor, mut name) = self.split();
            name.look_at(text);
            visitor.visit_borrowed_str(text)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<V::Value, E> {
            let (visitor, mut name) = self.split();
            name.look_at(text);
            visitor.visit_str(text)
        }
    }
}

/// Whether brackets outside strings nest at most `max` deep. Does not recurse, and judges nothing else.
fn depth_within(json: &[u8], max: usize) -> bool {
    if memchr::memchr2_iter(b'{', b'[', json).nth(max).is_none() {
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

/// Decodes as [`decode`] does, and tells of each member of the outermost object that is not one of those that are known.
/// That costs a look at each name, and not a second look at the text.
pub(crate) fn decode_noting<'a, T: Deserialize<'a>>(
    text: &'a str,
    unknown: impl FnMut(&str, &'static [&'static str]),
) -> Result<T> {
    let mut from = serde_json::Deserializer::from_str(text);
    T::deserialize(noting::Noting { from: &mut from, unknown })
        .and_then(|value| from.end().map(|()| value))
        .map_err(|error| located::<T>(text).unwrap_or_else(|| undecodable(Vec::new(), error.to_string())))
}

/// Reads structs from JSON objects only. Derived code would take an array of their members too, in the order in which they
/// happen to be declared.
struct Object<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Object<D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// For members that are objects: null is `None`.
pub(crate) fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    struct Member<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Member<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object or null")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
            T::deserialize(Object(from)).map(Some)
        }
    }

    from.deserialize_option(Member(PhantomData))
}

/// For members that are objects of few values, in a body that may have any number: one of more is not decoded.
pub(crate) fn small_object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    let Some(raw) = Option::<&'de RawValue>::deserialize(from)? else { return Ok(None) };
    if memchr::memchr3_iter(b',', b'[', b'{', raw.get().as_bytes()).nth(MAX_SMALL).is_some() {
        return Err(Error::custom(format_args!("has more than {MAX_SMALL} values")));
    }
    decode(raw.get()).map(Some).map_err(|error| match error {
        ApiError::Invalid(problems) => Error::custom(problems.first().map_or_else(String::new, inner)),
        other => Error::custom(format_args!("{other:?}")),
    })
}

/// What is wrong within a member, after its place in that.
fn inner(problem: &Problem) -> String {
    let path: String = problem.loc.iter().skip(1).map(|place| marked(place)).collect();
    // The lines are counted again by whoever decodes what is around it.
    let msg = problem.msg.rsplit_once(" at line ").map_or(problem.msg.as_str(), |(msg, _)| msg);
    format!("{path}{msg}")
}

/// For elements of arrays that are objects.
pub(crate) struct FromObject<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for FromObject<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::deserialize(Object(from)).map(Self)
    }
}

/// A list of which only the first elements are kept, so that a long one takes no memory. It must be one that may have far
/// fewer.
pub(crate) struct Few<T, const MOST: usize = MAX_KEPT>(pub(crate) Vec<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Few<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Elements<T, const MOST: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Elements<T, MOST> {
            type Value = Few<T, MOST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Few<T, MOST>, A::Error> {
                let mut kept = Vec::new();
                while kept.len() < MOST {
                    let Some(element) = elements.next_element()? else { return Ok(Few(kept)) };
                    kept.push(element);
                }
                while elements.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Few(kept))
            }
        }

        from.deserialize_seq(Elements::<T, MOST>(PhantomData))
    }
}

/// A whole number, also if it is written as one with a fraction of zero, as JSON allows and some languages do.
struct Whole<T>(T);

impl<'de, T: TryFrom<u64>> Deserialize<'de> for Whole<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(from)?;
        // Whatever is larger than the largest integer that a float holds exactly is out of range anyway.
        let exact = |number: f64| (number.fract() == 0.0 && (0.0..9e15).contains(&number)).then_some(number as u64);
        let whole = number.as_u64().or_else(|| number.as_f64().and_then(exact));
        let fitting = whole.and_then(|number| T::try_from(number).ok());
        fitting.map(Self).ok_or_else(|| Error::custom(format!("{number} is not a whole number in range")))
    }
}

/// For members that are whole numbers: null is `None`.
pub(crate) fn whole<'de, T: TryFrom<u64>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Whole<T>>::deserialize(from)?.map(|number| number.0))
}

/// For whole numbers in a PATCH that can be cleared, like [`nullable`].
pub(crate) fn nullable_whole<'de, T: TryFrom<u64>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Option<T>>, D::Error> {
    whole(from).map(Some)
}

/// For whole numbers in a PATCH that can't be cleared, like [`present`].
pub(crate) fn present_whole<'de, T: TryFrom<u64>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    Whole::deserialize(from).map(|number| Some(number.0))
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
    fn an_array_is_no_object() {
        #[derive(Debug, serde::Deserialize)]
        struct Tray {
            #[serde(default, deserialize_with = "object")]
            cup: Option<Cup>,
        }
        assert!(decode::<Cup>("[[]]").is_err());
        assert!(decode::<Tray>(r#"{"cup":[[]]}"#).is_err());
        for (text, has_cup) in [("{}", false), (r#"{"cup":null}"#, false), (r#"{"cup":{"leaves":[]}}"#, true)] {
            assert_eq!(decode::<Tray>(text).unwrap().cup.is_some(), has_cup, "{text}");
        }
        assert!(decode::<Vec<FromObject<Cup>>>("[[[]]]").is_err());
        assert_eq!(decode::<Vec<FromObject<Cup>>>(r#"[{"leaves":[]}]"#).unwrap()[0].0.leaves, Vec::<u8>::new());
    }

    #[test]
    fn whole_numbers_may_be_written_with_a_fraction_of_zero() {
        #[derive(Debug, serde::Deserialize)]
        struct Spoon {
            #[serde(default, deserialize_with = "whole")]
            sugar: Option<u16>,
        }
        for (text, want) in [("16", Some(16)), ("16.0", Some(16)), ("1.6e1", Some(16)), ("-0", Some(0)), ("null", None)]
        {
            assert_eq!(decode::<Spoon>(&format!(r#"{{"sugar":{text}}}"#)).unwrap().sugar, want, "{text}");
        }
        for text in ["16.5", "-1", "-1.0", "65536", "65536.0", "1e300", "\"16\"", "true", "[16]"] {
            assert!(decode::<Spoon>(&format!(r#"{{"sugar":{text}}}"#)).is_err(), "{text}");
        }
    }

    #[test]
    fn the_member_is_named_that_has_too_many_values() {
        let many = format!("[{}]", vec!["0"; 100].join(","));
        for (body, place) in [
            (format!(r#"{{"a":1,"schemas":{{"1":{{"enum":{many}}}}}}}"#), &["body", "schemas", "1"][..]),
            (format!(r#"{{"a":[1,2],"leaves":{many}}}"#), &["body", "leaves"]),
            (format!("[{many}]"), &["body"]),
            (format!(r#"{{"a":{}"#, "[".repeat(100)), &["body"]),
        ] {
            let Err(ApiError::Invalid(problems)) = few_values(body.as_bytes(), 50) else { panic!("{body}") };
            assert_eq!(problems[0].loc, place, "{}", problems[0].msg);
            assert!(problems[0].msg.contains("more than 50 values"));
        }
        assert!(few_values(many.as_bytes(), 100).is_ok());
    }

    #[test]
    fn of_a_long_list_only_the_first_elements_are_kept() {
        let list = |count: usize| format!("[{}]", vec!["1"; count].join(","));
        for (count, kept) in [(0, 0), (MAX_KEPT, MAX_KEPT), (10_000, MAX_KEPT)] {
            assert_eq!(decode::<Few<u8>>(&list(count)).map(|Few(kept)| kept.len()).ok(), Some(kept), "{count}");
        }
        assert!(decode::<Few<u8>>(r#"[1,"a"]"#).is_err());
    }

    #[test]
    fn a_small_object_of_many_values_is_not_decoded_and_its_errors_have_their_places() {
        #[derive(Debug, serde::Deserialize)]
        struct Tray {
            #[serde(default, deserialize_with = "small_object")]
            cup: Option<Cup>,
        }
        let tray = |cup: &str| decode::<Tray>(&format!(r#"{{"cup":{cup}}}"#));
        assert_eq!(tray(r#"{"leaves":[1]}"#).unwrap().cup.unwrap().leaves, [1]);
        assert!(tray("null").unwrap().cup.is_none() && decode::<Tray>("{}").unwrap().cup.is_none());
        let crowded = format!(r#"{{"leaves":[],"more":[{}]}}"#, vec!["0"; MAX_SMALL].join(","));
        for (cup, place, word) in [
            (r#"{"leaves":[1,"x"]}"#, &["body", "cup", "leaves", "[1]"][..], "invalid type"),
            ("[[]]", &["body", "cup"], "expected struct Cup"),
            (&crowded, &["body", "cup"], "more than 10000 values"),
        ] {
            let Err(ApiError::Invalid(problems)) = tray(cup) else { panic!("{cup:.40}") };
            assert_eq!(problems[0].loc, place, "{}", problems[0].msg);
            assert!(problems[0].msg.contains(word) && !problems[0].msg.contains(PLACE_MARK), "{}", problems[0].msg);
        }
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
