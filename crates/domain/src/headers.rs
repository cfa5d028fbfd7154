//! The extra headers of an endpoint. Names are compared without case everywhere, because receivers do: there is one value
//! for a name, however it is spelled, and the spelling that was written last is the one that is sent.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};

crate::limits! {
    in "Headers of an endpoint";
    /// The extra headers of an endpoint
    pub const MAX_HEADERS: usize = 50, "headers", beyond "422";
    /// The names and values of an endpoint's headers together
    pub const MAX_HEADERS_BYTES: usize = 16_384, "bytes", beyond "422";
    /// The name of a header
    pub const MAX_HEADER_NAME_BYTES: usize = 256, "bytes", beyond "422";
    /// The value of a header
    pub const MAX_HEADER_VALUE_BYTES: usize = 4_096, "bytes", beyond "422";
}

/// The header that says who the sender is.
const AUTHORIZATION: &str = "Authorization";

/// Extra request headers by name. The spelling of names is kept. `Debug` shows no value.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(BTreeMap<Box<str>, Header>);

#[derive(Clone, PartialEq, Eq)]
struct Header {
    name: Box<str>,
    value: Box<str>,
}

/// Changes to headers: values to set, and, without a value, names to remove.
pub type HeaderChanges = BTreeMap<String, Option<String>>;

/// Why headers were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooManyHeaders {
    /// Their number.
    #[error("must be at most {MAX_HEADERS} headers")]
    Number,
    /// Their size.
    #[error("must be at most {MAX_HEADERS_BYTES} bytes of names and values together")]
    Bytes,
}

impl Headers {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a header, in place of the one of the same name.
    pub fn insert(&mut self, name: impl Into<Box<str>>, value: impl Into<Box<str>>) {
        let name = name.into();
        self.0.insert(key(&name), Header { name, value: value.into() });
    }

    /// Removes a header.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(&*key(name));
    }

    /// The value of a header.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(&*key(name)).map(|header| &*header.value)
    }

    /// Names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.values().map(|header| (&*header.name, &*header.value))
    }

    /// Sets the header `Authorization`; what it `inherits` only if it has none. Returns whether it did.
    pub fn authorize(&mut self, authorization: Option<String>, inherits: Option<String>) -> bool {
        let inherited = || inherits.filter(|_| self.get(AUTHORIZATION).is_none());
        let Some(value) = authorization.or_else(inherited) else { return false };
        self.insert(AUTHORIZATION, value);
        true
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of all names and values.
    pub fn bytes(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// Checks their number and size.
    pub fn check(&self) -> Result<(), TooManyHeaders> {
        if self.len() > MAX_HEADERS {
            return Err(TooManyHeaders::Number);
        }
        if self.bytes() > MAX_HEADERS_BYTES {
            return Err(TooManyHeaders::Bytes);
        }
        Ok(())
    }

    /// These headers with changes made to them. What is removed is removed first, so a header that is also set is set.
    /// Headers that were accepted when there could be more may be made fewer, but not more.
    pub fn changed(&self, changes: HeaderChanges) -> Result<Self, TooManyHeaders> {
        let mut changed = self.clone();
        let (set, removed): (Vec<_>, Vec<_>) = changes.into_iter().partition(|(_, value)| value.is_some());
        removed.iter().for_each(|(name, _)| changed.remove(name));
        set.into_iter().for_each(|(name, value)| changed.insert(name, value.unwrap_or_default()));
        match changed.check() {
            Err(TooManyHeaders::Number) if changed.len() > self.len() => Err(TooManyHeaders::Number),
            Err(TooManyHeaders::Bytes) if changed.bytes() > self.bytes() => Err(TooManyHeaders::Bytes),
            _ => Ok(changed),
        }
    }
}

fn key(name: &str) -> Box<str> {
    name.to_ascii_lowercase().into()
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

impl<N: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(headers: I) -> Self {
        let mut all = Self::new();
        headers.into_iter().for_each(|(name, value)| all.insert(name, value));
        all
    }
}

impl<N: Into<Box<str>>, V: Into<Box<str>>, const COUNT: usize> From<[(N, V); COUNT]> for Headers {
    fn from(headers: [(N, V); COUNT]) -> Self {
        headers.into_iter().collect()
    }
}

impl From<BTreeMap<String, String>> for Headers {
    fn from(headers: BTreeMap<String, String>) -> Self {
        headers.into_iter().collect()
    }
}

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// Of a name that comes in several spellings, the last one counts. In what was stored when spellings could differ, they
/// are in the order of their bytes, and the last of them is the one that was sent: so it goes on being sent.
impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Map;

        impl<'de> Visitor<'de> for Map {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("headers by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut headers = Headers::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    headers.insert(name, value);
                }
                Ok(headers)
            }
        }

        from.deserialize_map(Map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(list: &[(&str, Option<&str>)]) -> HeaderChanges {
        list.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect()
    }

    fn shown(headers: &Headers) -> Vec<(&str, &str)> {
        headers.iter().collect()
    }

    #[test]
    fn names_are_compared_without_case_and_the_last_spelling_is_kept() {
        let mut headers = Headers::from([("Authorization", "old"), ("X-A", "1")]);
        headers.insert("AUTHORIZATION", "new");
        assert_eq!(shown(&headers), [("AUTHORIZATION", "new"), ("X-A", "1")]);
        assert_eq!(headers.get("authorization"), Some("new"));
        headers.remove("x-a");
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn changes_in_another_case_change_and_remove() {
        let headers = Headers::from([("Authorization", "old"), ("X-A", "1")]);
        let changed = headers.changed(changes(&[("authorization", None), ("Authorization", Some("new"))])).unwrap();
        assert_eq!(shown(&changed), [("Authorization", "new"), ("X-A", "1")]);
        let changed = headers.changed(changes(&[("AUTHORIZATION", None), ("x-a", None)])).unwrap();
        assert!(changed.is_empty());
    }

    #[test]
    fn of_stored_spellings_that_differ_the_one_that_was_sent_counts() {
        let stored = r#"{"AUTHORIZATION":"a","Authorization":"b","authorization":"c"}"#;
        let headers: Headers = serde_json::from_str(stored).unwrap();
        assert_eq!(shown(&headers), [("authorization", "c")]);
        assert_eq!(serde_json::to_string(&headers).unwrap(), r#"{"authorization":"c"}"#);
    }

    #[test]
    fn too_many_can_become_fewer_but_not_more() {
        let old: Headers = (0..MAX_HEADERS + 10).map(|at| (format!("x-{at}"), "1")).collect();
        assert_eq!(old.check(), Err(TooManyHeaders::Number));
        assert!(old.changed(changes(&[("X-1", None)])).is_ok());
        assert_eq!(old.changed(changes(&[("y", Some(""))])), Err(TooManyHeaders::Number));
        let large: Headers = (0..4).map(|at| (format!("x-{at}"), "v".repeat(MAX_HEADERS_BYTES / 4 - 3))).collect();
        assert_eq!((large.bytes(), large.check()), (MAX_HEADERS_BYTES, Ok(())));
        assert_eq!(large.changed(changes(&[("y", Some(""))])), Err(TooManyHeaders::Bytes));
    }
}
