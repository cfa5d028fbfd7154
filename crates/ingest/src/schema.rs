//! JSON Schemas: whether a text is one, and what of a payload does not match one.
//!
//! Schemas are written by operators and tried on what anybody sends, so nothing in them can reach beyond them: `$ref`
//! finds what is in the schema itself and the published drafts, which are compiled in, and nothing is ever fetched.
//! Patterns run on an engine that takes linear time; a schema with one that it does not know (look-around,
//! back-references) is refused when it is made, rather than slow later, and so is one with a reference that leads nowhere.
//! What is said of a mismatch names the rule, never the value.
//!
//! All of this runs in a process of its own (`judge/`): a schema may still take exponential time, and saying what does
//! not match one that knows alternatives may where knowing that it does not match does not.

use std::borrow::Cow;

use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::{Location, LocationSegment};
use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde_json::{Value, json};

use crate::complexity;
use crate::judge::{MAX_DETAIL_BYTES, MAX_VIOLATIONS};
use crate::submission::Violation;

/// The most characters of the text of one mismatch: it may list names that the sender chose.
const MAX_TEXT: usize = 300;

/// The most bytes of the names in the place of one mismatch; those further in are left out.
const MAX_PLACE_BYTES: usize = 2_048;

/// What a mismatch takes as JSON beside its texts.
const MISMATCH_BYTES: usize = 64;

/// The memory that a compiled pattern may take, and that it may use for speed.
const PATTERN_BYTES: usize = 1024 * 1024;

/// A schema that is ready to be tried on payloads.
pub(crate) struct Schema(Validator);

/// Keywords that name another schema.
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];

/// Says why a text is no JSON Schema, or one that nothing could be compared with. A schema is judged by the draft that its `$schema`
/// names, or else by draft 7.
pub(crate) fn check_schema(text: &str) -> Result<(), String> {
    let schema: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    complexity::check(&schema)?;
    check_form(&schema)?;
    // What it costs to use is seen here.
    Schema::of(&schema)?.try_out();
    Ok(())
}

/// Says why a value is no JSON Schema.
fn check_form(schema: &Value) -> Result<(), String> {
    let judged = match draft_of(schema) {
        Draft::Draft4 => jsonschema::draft4::meta::validate(schema),
        Draft::Draft6 => jsonschema::draft6::meta::validate(schema),
        Draft::Draft201909 => jsonschema::draft201909::meta::validate(schema),
        Draft::Draft202012 => jsonschema::draft202012::meta::validate(schema),
        _ => jsonschema::draft7::meta::validate(schema),
    };
    judged.map_err(|error| at(&place(error.instance_path()), &text_of(&error)))
}

/// What is wrong, after its place in a schema.
fn at(place: &[Cow<'static, str>], problem: &str) -> String {
    if place.is_empty() { problem.to_owned() } else { format!("{}: {problem}", shortened(place.join("."))) }
}

impl Schema {
    /// Compiles a schema, or says why it can't be used.
    pub(crate) fn compile(text: &str) -> Result<Self, String> {
        let schema: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        complexity::check(&schema)?;
        Self::of(&schema)
    }

    /// Compiles one that is not too complex.
    fn of(schema: &Value) -> Result<Self, String> {
        let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES);
        jsonschema::options()
            .with_draft(draft_of(schema))
            .with_pattern_options(patterns)
            .offline()
            .build(schema)
            .map(Self)
            .map_err(|error| unusable(schema, &error))
    }

    /// Whether a payload matches.
    pub(crate) fn fits(&self, payload: &Value) -> bool {
        self.0.is_valid(payload)
    }

    /// Tries it on a few small values.
    fn try_out(&self) {
        for value in [Value::Null, true.into(), 0.into(), "".into(), json!([0]), json!({ "": 0 })] {
            self.fits(&value);
        }
    }

    /// What of a payload does not match, as far as it may be told.
    pub(crate) fn violations(&self, payload: &Value) -> Vec<Violation> {
        let (mut told, mut bytes) = (Vec::new(), 0);
        for error in self.0.iter_errors(payload).take(MAX_VIOLATIONS) {
            let loc = std::iter::once("payload".into()).chain(within(place(error.instance_path()))).collect();
            let violation = Violation::of_schema(loc, text_of(&error));
            bytes += length_of(&violation);
            if bytes > MAX_DETAIL_BYTES {
                told.push(Violation::of_schema(
                    vec!["payload".into()],
                    "does not match in more places than are listed".to_owned(),
                ));
                break;
            }
            told.push(violation);
        }
        told
    }
}

/// Why nothing can be compared with a schema, and where in it.
fn unusable(schema: &Value, error: &ValidationError<'_>) -> String {
    match error.kind() {
        ValidationErrorKind::Format { format } if format == "regex" => at(
            &place(error.schema_path()),
            &format!(
                "is not a pattern that can be used: look-around, back-references and patterns that take more than \
                 {PATTERN_BYTES} bytes are not supported"
            ),
        ),
        ValidationErrorKind::Referencing(problem) => {
            let (place, reference) = culprit(schema, &problem.to_string()).unwrap_or_default();
            let leads = "leads to nothing in the schema itself, and nothing is fetched from elsewhere";
            at(&place, &format!("the reference {reference:?} {leads} ({})", shortened(problem.to_string())))
        }
        _ => at(&place(error.schema_path()), &text_of(error)),
    }
}

/// The reference that a problem speaks of: the longest whose end it has. The library does not say where it stands.
fn culprit(schema: &Value, problem: &str) -> Option<(Vec<Cow<'static, str>>, String)> {
    let mut found: Option<(usize, Vec<Cow<'static, str>>, String)> = None;
    let mut waiting = vec![(Vec::new(), schema)];
    while let Some((path, value)) = waiting.pop() {
        let below = |name: String| [path.as_slice(), &[Cow::Owned(shortened(name))]].concat();
        match value {
            Value::Array(items) => {
                waiting.extend(items.iter().enumerate().rev().map(|(n, item)| (below(format!("[{n}]")), item)));
            }
            Value::Object(members) => {
                for (name, value) in members.iter().rev() {
                    let reference = value.as_str().filter(|_| REFERENCES.contains(&name.as_str()));
                    let Some(reference) = reference else {
                        waiting.push((below(name.clone()), value));
                        continue;
                    };
                    let end = reference.rsplit('#').find(|part| !part.is_empty()).unwrap_or(reference);
                    let named = if problem.contains(end) { end.len() } else { 0 };
                    if found.as_ref().is_none_or(|(most, ..)| named > *most) {
                        found = Some((named, below(name.clone()), shortened(reference.to_owned())));
                    }
                }
            }
            _ => {}
        }
    }
    found.map(|(_, place, reference)| (place, reference))
}

/// The draft to judge by. One that is not known is taken for the one that clients assume.
fn draft_of(schema: &Value) -> Draft {
    match Draft::Draft7.detect(schema) {
        Draft::Unknown => Draft::Draft7,
        draft => draft,
    }
}

/// Member names, and elements as `[0]`.
fn place(location: &Location) -> Vec<Cow<'static, str>> {
    let part = |segment| match segment {
        LocationSegment::Property(name) => Cow::Owned(shortened(name.into_owned())),
        LocationSegment::Index(index) => Cow::Owned(format!("[{index}]")),
    };
    location.iter().map(part).collect()
}

/// As much of a place as may be told: what is further out says more.
fn within(place: Vec<Cow<'static, str>>) -> impl Iterator<Item = Cow<'static, str>> {
    let mut bytes = 0;
    let mut ended = false;
    place.into_iter().map_while(move |part| {
        bytes += written(&part);
        let is_last = bytes > MAX_PLACE_BYTES;
        (!std::mem::replace(&mut ended, is_last)).then(|| if is_last { "…".into() } else { part })
    })
}

/// How much of an answer a mismatch is.
fn length_of(violation: &Violation) -> usize {
    violation.loc.iter().map(|part| written(part)).sum::<usize>() + written(&violation.msg) + MISMATCH_BYTES
}

/// The length of a text as JSON, with the comma that follows it.
fn written(text: &str) -> usize {
    serde_json::to_string(text).map_or(usize::MAX / 2, |text| text.len() + 1)
}

fn text_of(error: &ValidationError<'_>) -> String {
    shortened(error.masked().to_string())
}

fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_are_schemas() {
        for schema in [
            json!(true),
            json!({}),
            json!({"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]}),
            json!({"items": [{"minLength": 2.0}, false], "enum": [1, "x"], "const": null, "default": []}),
            json!({"dependencies": {"a": ["b"], "c": {"not": {}}}, "x-unknown": 15, "examples": [{}]}),
            json!({"allOf": [{"$ref": "#/definitions/a"}], "definitions": {"a": {"multipleOf": 0.01}}}),
            json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "prefixItems": [{}]}),
            json!({"$schema": "https://example.com/own", "type": "object"}),
            json!({"$ref": "http://json-schema.org/draft-07/schema#"}),
        ] {
            assert_eq!(check_schema(&schema.to_string()), Ok(()), "{schema}");
        }
    }

    #[test]
    fn what_is_no_schema_is_refused_with_its_place() {
        for (schema, place) in [
            (json!(15), ""),
            (json!({"readOnly": 15}), "readOnly:"),
            (json!({"type": "text"}), "type:"),
            (json!({"type": []}), "type:"),
            (json!({"type": ["string", "string"]}), "type:"),
            (json!({"required": "a"}), "required:"),
            (json!({"required": ["a", "a"]}), "required:"),
            (json!({"properties": {"a": {"minLength": -1}}}), "properties.a.minLength:"),
            (json!({"maxItems": 1.5}), "maxItems:"),
            (json!({"multipleOf": 0}), "multipleOf:"),
            (json!({"anyOf": []}), "anyOf:"),
            (json!({"not": 1}), "not:"),
            (json!({"dependencies": {"a": [1]}}), "dependencies.a:"),
            (json!({"items": [1]}), "items:"),
            (json!({"definitions": []}), "definitions:"),
            (json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "prefixItems": []}), "prefixItems:"),
        ] {
            let problem = check_schema(&schema.to_string()).unwrap_err();
            assert!(problem.starts_with(place), "{schema}: {problem}");
        }
        assert!(check_schema("{").is_err());
    }

    #[test]
    fn what_nothing_could_be_compared_with_is_refused_with_its_place() {
        let draft = "https://json-schema.org/draft/2020-12/schema";
        for (schema, place, word) in [
            (json!({"properties": {"a": {"pattern": "^(?!b)"}}}), "properties.a.pattern:", "look-around"),
            (json!({"items": {"pattern": "(a)\\1"}}), "items.pattern:", "back-references"),
            (json!({"pattern": "a{100000}"}), "pattern:", "bytes"),
            (json!({"allOf": [{"patternProperties": {"(?<=x)": {}}}]}), "allOf.[0].patternProperties", "look-around"),
            (json!({"properties": {"a": {"$ref": "http://127.0.0.1:1/a"}}}), "properties.a.$ref:", "127.0.0.1:1/a"),
            (json!({"items": {"$ref": "file:///etc/passwd"}}), "items.$ref:", "nothing is fetched"),
            (json!({"not": {"$ref": "#/definitions/gone"}, "definitions": {}}), "not.$ref:", "#/definitions/gone"),
            (json!({"$schema": draft, "not": {"$ref": "#gone"}}), "not.$ref:", "#gone"),
            (
                json!({"definitions": {"a": {}}, "allOf": [{"$ref": "#/definitions/a"}, {"$ref": "#/definitions/ab"}]}),
                "allOf.[1].$ref:",
                "#/definitions/ab",
            ),
        ] {
            let problem = check_schema(&schema.to_string()).unwrap_err();
            assert!(problem.starts_with(place) && problem.contains(word), "{schema}: {problem}");
        }
    }

    #[test]
    fn a_name_that_a_schema_has_for_a_property_is_no_reference() {
        let schema = json!({"properties": {"$ref": {"type": "string"}, "pattern": {"type": "string"}}, "examples": [{"pattern": "(?=a)"}]});
        assert_eq!(check_schema(&schema.to_string()), Ok(()));
    }

    fn violations(schema: &Value, payload: &str) -> Vec<(String, String)> {
        let schema = Schema::compile(&schema.to_string()).unwrap_or_else(|error| panic!("{schema}: {error}"));
        let violations = schema.violations(&crate::payload::read(payload.as_bytes()).unwrap());
        violations.into_iter().map(|violation| (violation.loc.join("."), violation.msg)).collect()
    }

    #[test]
    fn each_mismatch_has_its_place_and_tells_no_value() {
        let schema = json!({
            "type": "object", "required": ["id"],
            "properties": {"id": {"type": "string"}, "lines": {"items": {"properties": {"n": {"minimum": 1}}}}},
        });
        assert_eq!(violations(&schema, r#"{"id": "a", "lines": [{"n": 1}]}"#), []);
        let found = violations(&schema, r#"{"id": 471147, "lines": [{}, {"n": -471147}]}"#);
        let places: Vec<_> = found.iter().map(|(place, _)| place.as_str()).collect();
        assert_eq!(places, ["payload.id", "payload.lines.[1].n"]);
        assert!(found.iter().all(|(_, text)| !text.contains("471147")), "{found:?}");
        assert_eq!(violations(&schema, "{}")[0].0, "payload");
    }

    #[test]
    fn what_is_said_is_bounded() {
        let schema = json!({"additionalProperties": false, "items": false});
        let (_, text) = &violations(&schema, &format!("{{{:?}: 1}}", "x".repeat(10_000)))[0];
        assert!(text.chars().count() <= MAX_TEXT + 1);
        let many = json!({"items": {"type": "string"}});
        let payload = format!("[{}]", vec!["1"; 10_000].join(","));
        assert_eq!(violations(&many, &payload).len(), MAX_VIOLATIONS);
    }

    #[test]
    fn what_is_told_of_a_deep_payload_with_long_names_is_bounded_and_says_so() {
        let schema = json!({"type": "object", "additionalProperties": {"$ref": "#"}});
        let compiled = Schema::compile(&schema.to_string()).unwrap();
        for (levels, name) in
            [(80, "x".repeat(256)), (100, "\u{1}".repeat(300)), (1, "y".repeat(100_000)), (3, "é".repeat(120))]
        {
            let numbers: Vec<_> = (0..50).map(|n| format!("\"{n}\":{n}")).collect();
            let name = serde_json::to_string(&name).unwrap();
            let payload =
                format!("{}{{{}}}{}", format!("{{{name}:").repeat(levels), numbers.join(","), "}".repeat(levels));
            let told = compiled.violations(&crate::payload::read(payload.as_bytes()).unwrap());
            let bytes =
                serde_json::to_string(&told.iter().map(|one| (&one.loc, &one.msg)).collect::<Vec<_>>()).unwrap().len();
            assert!(told.len() > 1 && bytes <= MAX_DETAIL_BYTES + 512, "{} in {bytes} bytes", told.len());
            let last = told.last().unwrap();
            assert_eq!(
                (last.loc.join("."), last.msg.contains("more places")),
                ("payload".to_owned(), true),
                "{levels}"
            );
            assert!(told[0].loc.len() > 1, "{:?}", told[0].loc);
        }
    }

    #[test]
    fn a_schema_reaches_nothing_beyond_itself() {
        for reference in ["http://127.0.0.1:1/a", "https://example.com/a", "file:///etc/passwd", "other.json", "a#/b"] {
            for schema in [
                json!({"$ref": reference}),
                json!({"properties": {"a": {"$ref": reference}}}),
                json!({"$id": "http://127.0.0.1:1/root", "allOf": [{"$ref": reference}]}),
            ] {
                assert!(Schema::compile(&schema.to_string()).is_err(), "{schema}");
            }
        }
        for named in ["http://127.0.0.1:1/meta", "file:///etc/passwd"] {
            let schema = json!({"$schema": named, "$id": "http://127.0.0.1:1/own", "type": "object"});
            assert!(!violations(&schema, "1").is_empty(), "an unknown draft is read as draft 7");
        }
        let own = json!({"definitions": {"n": {"type": "number"}}, "items": {"$ref": "#/definitions/n"}});
        assert_eq!(violations(&own, "[1, \"a\"]").len(), 1);
        let draft = json!({"$ref": "http://json-schema.org/draft-07/schema#"});
        assert_eq!(violations(&draft, r#"{"type": 5}"#).len(), 1, "the drafts themselves are known");
    }

    #[test]
    fn a_pattern_takes_linear_time_or_is_not_taken() {
        let schema = json!({"pattern": "^(a+)+$"});
        let text = format!("{:?}", format!("{}b", "a".repeat(100_000)));
        assert_eq!(violations(&schema, &text).len(), 1);
        for pattern in ["^(?=a)a$", "(a)\\1", "(", "(?:a{1000}){1000}"] {
            assert!(Schema::compile(&json!({"pattern": pattern}).to_string()).is_err(), "{pattern}");
        }
    }

    #[test]
    fn schemas_that_refer_to_themselves_do_not_run_for_ever() {
        let deep = format!("{}{}", "[".repeat(126), "]".repeat(126));
        let tree = json!({"items": {"$ref": "#"}, "maxItems": 3});
        assert_eq!(violations(&tree, &deep), []);
        for endless in [
            json!({"$ref": "#"}),
            json!({"allOf": [{"$ref": "#"}]}),
            json!({"definitions": {"a": {"$ref": "#/definitions/b"}, "b": {"$ref": "#/definitions/a"}},
                   "$ref": "#/definitions/a"}),
            json!({"anyOf": [{"not": {"$ref": "#"}}]}),
        ] {
            // Either is good: refused, or judged in finite time.
            if let Ok(schema) = Schema::compile(&endless.to_string()) {
                schema.fits(&serde_json::from_str(&deep).unwrap());
                schema.fits(&json!({}));
            }
        }
    }
}
