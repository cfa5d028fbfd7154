//! Members that are probably misspelled. What a body has beyond what is known is ignored, because clients of many ages
//! send members that only others know; so `evenTypes` makes an endpoint that gets everything. The response says so: its
//! header `postrider-warning` names such a member and the one that it is much like. The same holds for query parameters.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

postrider_domain::limits! {
    in "Warnings of misspelled members";
    /// The bodies that are looked at
    const MAX_BYTES: usize = 65_536, "bytes", beyond "no warning";
    /// The warnings of one response
    const MAX_WARNINGS: usize = 5, "warnings", beyond "the rest is left out";
    /// The members of one request that are not known and are compared with those that are: each comparison takes time
    const MAX_COMPARED: usize = 100, "members", beyond "no warning of the rest";
    /// The same of the parameters of its query, which anybody may send
    const MAX_PARAMETERS_COMPARED: usize = 10, "parameters", beyond "no warning of the rest";
}

/// A slip or two: what two names may differ by.
const MAX_DISTANCE: usize = 2;

/// The header of the response.
const HEADER: &str = "postrider-warning";

/// Names that are known, but that the schema of a body does not have: each in those that have the two members beside it.
const OTHER_NAMES: [(&str, [&str; 2]); 2] =
    [("filterTypes", ["eventTypes", "url"]), ("data", ["eventType", "payload"])];

/// The other names of members of a body that has these.
fn other_names(has: impl Fn(&str) -> bool) -> impl Iterator<Item = &'static str> {
    OTHER_NAMES.iter().filter(move |(_, beside)| beside.iter().all(|name| has(name))).map(|(name, _)| *name)
}

/// What the response to a request warns of. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Warnings(Arc<Mutex<Search>>);

/// What was found so far.
#[derive(Default)]
struct Search {
    warnings: Vec<String>,
    compared: usize,
}

impl Search {
    fn is_over(&self) -> bool {
        self.warnings.len() >= MAX_WARNINGS || self.compared >= MAX_COMPARED
    }

    /// Notes a name that is not among those that are known, if it is much like one of them.
    fn unknown<'a>(&mut self, what: &str, name: &str, known: impl Iterator<Item = &'a str>) {
        if !self.is_over() {
            self.compared += 1;
            self.warnings.extend(nearest(name, known).map(|near| warning(what, name, near)));
        }
    }
}

impl Warnings {
    /// Looks for members that `T` does not know, but almost.
    pub(crate) fn look_for_typos<T: JsonSchema>(&self, body: &str) {
        if body.len() > MAX_BYTES {
            return;
        }
        // What does not parse is told elsewhere.
        if let Ok(body) = serde_json::from_str(body) {
            members_of::<T>().compare(&body, &mut self.0.lock());
        }
    }

    /// Notes a member that is not among those that are known, if it is much like one of them.
    pub(crate) fn unknown(&self, name: &str, known: &[&str]) {
        let others: Vec<_> = other_names(|name| known.contains(&name)).collect();
        if !others.contains(&name) {
            self.0.lock().unknown("member", name, known.iter().copied().chain(others));
        }
    }

    /// The same of query parameters, before anything else is compared.
    pub(crate) fn unknown_parameters<'a>(&self, names: impl Iterator<Item = &'a str>, known: &[&str]) {
        let mut search = self.0.lock();
        for name in names.take(MAX_PARAMETERS_COMPARED) {
            search.unknown("query parameter", name, known.iter().copied());
        }
    }

    /// Adds the header, if there is anything to say.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        for warning in &self.0.lock().warnings {
            if let Ok(value) = HeaderValue::try_from(warning) {
                headers.append(HEADER, value);
            }
        }
    }
}

/// The members of an object that is known, and those of the objects in them.
#[derive(Debug, Default)]
struct Members(BTreeMap<String, Option<Members>>);

impl Members {
    fn compare(&self, body: &Value, search: &mut Search) {
        match body {
            Value::Array(items) => items.iter().for_each(|item| self.compare(item, search)),
            Value::Object(members) => self.compare_members(members, search),
            _ => {}
        }
    }

    fn compare_members(&self, members: &Map<String, Value>, search: &mut Search) {
        for (name, value) in members {
            match self.0.get(name) {
                Some(Some(known)) => known.compare(value, search),
                Some(None) => {}
                None => search.unknown("member", name, self.0.keys().map(String::as_str)),
            }
            if search.is_over() {
                return;
            }
        }
    }
}

/// The known member that a name is much like: a slip or two away, whatever the case.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > 64 {
        return None;
    }
    let sound = plain(name);
    let length = sound.chars().count();
    // Names whose lengths differ by more differ by more, which is known without the work of comparing them.
    let alike =
        known.map(|known| (known, plain(known))).filter(|(_, other)| other.len().abs_diff(length) <= MAX_DISTANCE);
    let distances = alike.map(|(known, other)| (known, strsim::damerau_levenshtein(&sound, &other)));
    let (near, distance) = distances.min_by_key(|(_, distance)| *distance)?;
    // Of three letters one may be wrong or two changed over, of more than five two.
    (distance <= MAX_DISTANCE && distance * 3 <= length).then_some(near)
}

fn warning(what: &str, name: &str, near: &str) -> String {
    format!("the {what} '{}' is not known and was ignored; did you mean '{near}'?", name.escape_debug())
}

/// A name as it sounds: without case and without what stands between words.
fn plain(name: &str) -> String {
    name.chars().filter(|char| !matches!(char, '_' | '-' | ' ')).flat_map(char::to_lowercase).collect()
}

/// The members of a type, found out once.
fn members_of<T: JsonSchema>() -> Arc<Members> {
    static KNOWN: LazyLock<Mutex<HashMap<Cow<'static, str>, Arc<Members>>>> = LazyLock::new(Mutex::default);
    KNOWN.lock().entry(T::schema_id()).or_insert_with(|| Arc::new(read_members::<T>())).clone()
}

fn read_members<T: JsonSchema>() -> Members {
    let schema = SchemaSettings::draft2020_12().for_deserialize().into_generator().into_root_schema_for::<T>();
    let root = Value::from(schema);
    of_schema(&root, &root, 0).unwrap_or_default()
}

/// The members that a schema describes, wherever it does; `None` if it describes none.
fn of_schema(root: &Value, schema: &Value, depth: usize) -> Option<Members> {
    if depth > 8 {
        return None;
    }
    let mut found = Members::default();
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        let members = properties.iter().map(|(name, schema)| (name.clone(), of_schema(root, schema, depth + 1)));
        found.0.extend(members);
    }
    let target = schema.get("$ref").and_then(Value::as_str).and_then(|path| root.pointer(path.strip_prefix('#')?));
    let listed = ["anyOf", "oneOf", "allOf"].iter().filter_map(|key| schema.get(key)?.as_array()).flatten();
    for part in target.into_iter().chain(listed).chain(schema.get("items")) {
        found.0.extend(of_schema(root, part, depth + 1).unwrap_or_default().0);
    }
    let others: Vec<_> = other_names(|name| found.0.contains_key(name)).collect();
    found.0.extend(others.into_iter().map(|name| (name.to_owned(), None)));
    (!found.0.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::model::application::ApplicationIn;
    use crate::wire::model::authentication::PortalAccessIn;
    use crate::wire::model::endpoint::{EndpointIn, EndpointPatchIn};
    use crate::wire::model::environment::EnvironmentIn;

    fn warnings<T: JsonSchema>(body: &str) -> String {
        let warnings = Warnings::default();
        warnings.look_for_typos::<T>(body);
        warnings.0.lock().warnings.join("\n")
    }

    #[test]
    fn a_member_that_is_almost_known_is_named_with_the_one_that_was_meant() {
        for (body, wrong, meant) in [
            (r#"{"evenTypes":["a"]}"#, "evenTypes", "eventTypes"),
            (r#"{"event_types":["a"]}"#, "event_types", "eventTypes"),
            (r#"{"EventTypes":["a"]}"#, "EventTypes", "eventTypes"),
            (r#"{"chanels":[]}"#, "chanels", "channels"),
            (r#"{"filtertypes":["a"]}"#, "filtertypes", "filterTypes"),
            (r#"{"filterType":["a"]}"#, "filterType", "filterTypes"),
            (r#"{"ulr":""}"#, "ulr", "url"),
        ] {
            for said in [warnings::<EndpointIn>(body), warnings::<EndpointPatchIn>(body)] {
                assert!(said.contains(&format!("'{wrong}'")) && said.contains(&format!("'{meant}'")), "{body}: {said}");
            }
        }
        assert!(warnings::<PortalAccessIn>(r#"{"application":{"nmae":"a"}}"#).contains("'name'"));
        assert!(warnings::<EnvironmentIn>(r#"{"eventTypes":[{"descripton":"a"}]}"#).contains("'description'"));
    }

    #[test]
    fn what_is_known_and_what_is_unlike_everything_is_not_warned_of() {
        for body in [
            r#"{"url":"x","filterTypes":null,"eventTypes":null,"rateLimit":1,"headers":{"evenTypes":"1"}}"#,
            r#"{"metadata":{"urll":"x"},"kind":1,"x":2,"transformationsParams":{},"ü":1}"#,
            "[]",
            "{",
        ] {
            assert_eq!(warnings::<EndpointIn>(body), "", "{body}");
        }
        assert_eq!(warnings::<ApplicationIn>(r#"{"name":"a","uid":"b","rateLimit":1,"throttleRate":1}"#), "");
    }

    #[test]
    fn only_so_many_unknown_members_are_compared_however_many_there_are() {
        let members: Vec<_> = (0..3_000).map(|n| format!(r#""unlike{n}":1"#)).collect();
        let body = format!(r#"{{{},"zz":1}}"#, members.join(","));
        let noted = Warnings::default();
        noted.look_for_typos::<EndpointIn>(&body);
        assert_eq!(noted.0.lock().compared, MAX_COMPARED);
        let noted = Warnings::default();
        (0..100_000).for_each(|n| noted.unknown(&format!("unlike{n}"), &["eventTypes", "channels"]));
        assert_eq!(noted.0.lock().compared, MAX_COMPARED);
        let noted = Warnings::default();
        noted.unknown_parameters(std::iter::repeat_n("unlike", 600), &["limit", "order"]);
        assert_eq!(noted.0.lock().compared, MAX_PARAMETERS_COMPARED);
    }
}
