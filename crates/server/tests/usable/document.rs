//! The operations that change something, and the members of their bodies, as the OpenAPI document has them; of each member
//! values around its bound. What the document gains is tried from then on, and what nobody here knows how to try fails the test.

use http::Method;
use serde_json::{Map, Value, json};

/// An operation that creates, changes or removes something.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) id: String,
    pub(crate) method: Method,
    /// With its parameters in braces.
    pub(crate) path: String,
    /// The schema of its body, if it has one; nothing in it is a reference.
    pub(crate) body: Option<Value>,
    /// Whether the body may come as lines of JSON, too.
    pub(crate) takes_lines: bool,
}

/// A member of a body: the names that lead to it (`[]` is an item of an array), and its schema.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) names: Vec<String>,
    pub(crate) schema: Value,
}

/// An item of an array, among the names that lead to a member.
const ITEM: &str = "[]";

impl Member {
    pub(crate) fn name(&self) -> &str {
        self.names.last().map_or("", String::as_str)
    }

    /// Whether the place of a problem names the member, or ends at something that it is a part of; or it names the end of the span that it
    /// begins, or the other way round.
    pub(crate) fn is_named_in(&self, place: &[Value]) -> bool {
        let other = match self.name() {
            "since" => "until",
            "until" => "since",
            name => name,
        };
        let names: Vec<_> = self.names.iter().map(String::as_str).filter(|name| *name != ITEM).collect();
        let own = names.last().copied().into_iter().chain([other]).filter(|name| *name != ITEM);
        let ends_at = place.iter().filter_map(Value::as_str).next_back();
        own.into_iter().any(|name| place.iter().any(|part| part == name))
            || ends_at.is_some_and(|end| names.contains(&end))
    }
}

/// All operations of the document that change something.
pub(crate) fn operations(document: &Value) -> Vec<Operation> {
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("the document has paths") {
        for (method, operation) in methods.as_object().expect("a path has methods") {
            if !["post", "put", "patch", "delete"].contains(&&**method) {
                continue;
            }
            let content = &operation["requestBody"]["content"];
            let schema = &content["application/json"]["schema"];
            operations.push(Operation {
                id: operation["operationId"].as_str().expect("an operation has an id").to_owned(),
                method: method.to_uppercase().parse().expect("a method"),
                path: path.clone(),
                body: (!schema.is_null()).then(|| resolved(document, schema)),
                takes_lines: content.get("application/x-ndjson").is_some(),
            });
        }
    }
    operations
}

/// A schema without references, and without `null` beside another one. No schema of a body refers to itself.
fn resolved(document: &Value, schema: &Value) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').expect("a reference within the document");
        return resolved(document, document.pointer(pointer).expect("what is referred to"));
    }
    if let Some(either) = schema["anyOf"].as_array().filter(|_| schema.get("properties").is_none()) {
        let one = either.iter().find(|one| one["type"] != "null").expect("not all are null");
        return resolved(document, one);
    }
    let mut schema = schema.clone();
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(|property| *property = resolved(document, property));
    }
    if schema.get("items").is_some() {
        schema["items"] = resolved(document, &schema["items"]);
    }
    schema
}

/// All members of a body.
pub(crate) fn members(schema: &Value) -> Vec<Member> {
    let mut members = Vec::new();
    collect(schema, &mut Vec::new(), &mut members);
    members
}

fn collect(schema: &Value, names: &mut Vec<String>, members: &mut Vec<Member>) {
    let properties = schema["properties"].as_object().into_iter().flatten();
    for (name, property) in properties {
        names.push(name.clone());
        members.push(Member { names: names.clone(), schema: property.clone() });
        collect(property, names, members);
        names.pop();
    }
    if let Some(items) = schema.get("items") {
        names.push(ITEM.to_owned());
        collect(items, names, members);
        names.pop();
    }
}

/// A body with what must be given, as `plain` gives it, and with `value` at `names`.
pub(crate) fn with(
    schema: &Value,
    names: &[String],
    value: Option<&Value>,
    plain: &mut dyn FnMut(&str) -> Value,
) -> Value {
    let Some((first, rest)) = names.split_first() else {
        return value.cloned().unwrap_or_else(|| with_required(schema, plain));
    };
    if first == ITEM {
        return json!([with(&schema["items"], rest, value, plain)]);
    }
    let mut body = with_required(schema, plain);
    body[first] = with(&schema["properties"][first], rest, value, plain);
    body
}

fn with_required(schema: &Value, plain: &mut dyn FnMut(&str) -> Value) -> Value {
    if let Some(items) = schema.get("items") {
        return json!([with_required(items, plain)]);
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    required.map(|name| (name.to_owned(), plain(name))).collect::<Map<_, _>>().into()
}

/// Values of a member: at its bound, just over it, far over it, and of another kind.
///
/// # Panics
/// If its schema is of a kind that nobody has thought of.
pub(crate) fn extremes(schema: &Value) -> Vec<Value> {
    let bound = |name: &str| schema[name].as_u64().map(|bound| bound as usize);
    let mut values = vec![Value::Null, json!({}), json!([]), json!(""), json!("A"), json!(0), json!(true), nested(100)];
    let mut kinds = match &schema["type"] {
        Value::String(kind) => vec![kind.as_str()],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let words = schema["oneOf"].as_array().into_iter().flatten();
    let words = words.map(|one| one["const"].clone()).collect::<Vec<_>>();
    if !words.is_empty() {
        kinds.push("string");
        values.push(json!(words[0].as_str().expect("a word").to_uppercase()));
        values.extend(words);
    } else if schema["enum"].is_array() {
        values.extend(schema["enum"].as_array().into_iter().flatten().cloned());
    }
    let is_time = schema["format"] == "date-time";
    for kind in kinds.iter().filter(|kind| **kind != "null") {
        match *kind {
            "string" if is_time => values.extend(times()),
            "string" => values.extend(texts(bound("maxLength").unwrap_or(64))),
            "integer" => values.extend(numbers(bound("minimum").unwrap_or(0), bound("maximum").expect("a bound"))),
            "boolean" => values.extend([json!(false), json!("true"), json!(1)]),
            "array" => values.extend(lists(bound("maxItems").expect("a bound"), &schema["items"])),
            "object" => values.extend(objects(bound("maxProperties"), schema)),
            _ => panic!("no extreme value of this is known: {schema}"),
        }
    }
    assert!(!kinds.is_empty() || schema.get("x-max-bytes").is_some(), "no extreme value of this is known: {schema}");
    values
}

/// Pairs of values, at a bound of a member and just over it, where the schema says how a value of that size looks.
pub(crate) fn bounds(schema: &Value) -> Vec<(Value, Value)> {
    let bound = |name: &str| schema[name].as_u64().map(|bound| bound as usize);
    let is_free = schema.get("format").is_none() && schema.get("enum").is_none();
    let is_secret = schema["pattern"].as_str().is_some_and(|pattern| pattern.contains("whsec_"));
    let mut pairs = Vec::new();
    if let Some(most) = bound("maxLength").filter(|_| is_free && !is_secret) {
        pairs.push((json!("b".repeat(most)), json!("b".repeat(most + 1))));
    }
    if let Some(most) = bound("maximum").filter(|_| is_free) {
        let least = bound("minimum").unwrap_or(0) as i64;
        pairs.extend([(json!(most), json!(most + 1)), (json!(least), json!(least - 1))]);
    }
    if let Some(most) = bound("maxItems") {
        pairs.push((items(most, &schema["items"]), items(most + 1, &schema["items"])));
    }
    if let Some(most) = bound("maxProperties") {
        pairs.push((properties(most, schema), properties(most + 1, schema)));
    }
    pairs
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(json!({}), |inner, _| json!({ "a": inner }))
}

/// Of a text, what grows when it is encoded, normalised or put in lower case, what is more than one unit in UTF-16, and what
/// means something in a path, a header or a terminal.
fn texts(bound: usize) -> Vec<Value> {
    // Of a body that is far too large the server reads so much before it answers.
    const MOST_BYTES: usize = 4_000_000;
    let long = |character: &str, length: usize| json!(character.repeat(length.min(MOST_BYTES / character.len())));
    let mut texts = vec![json!("."), json!(".."), json!(" "), json!("\u{0}"), json!("a\u{202e}\u{7f}b")];
    texts.extend([1, bound * 4].map(|length| long("a", length)));
    for character in ["ü", "\u{130}", "\u{fb03}", "\u{10ffff}", "\"", "%"] {
        texts.extend([bound, bound + 1].map(|length| long(character, length)));
    }
    texts
}

fn times() -> Vec<Value> {
    let times = [
        "0000-01-01T00:00:00Z",
        "-009999-01-01T00:00:00Z",
        "1969-12-31T23:59:59.999999999Z",
        "2026-02-29T00:00:00Z",
        "2026-12-31T23:59:60Z",
        "2126-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59.999999-23:59",
        "+010000-01-01T00:00:00Z",
    ];
    let mut times = times.map(|time| json!(time)).to_vec();
    times.extend([json!("1".repeat(64)), json!(format!("2026-01-01T00:00:00.{}Z", "0".repeat(43)))]);
    times.extend([json!(format!("2026-01-01T00:00:00.{}Z", "0".repeat(44))), json!(1e300)]);
    times
}

fn numbers(least: usize, most: usize) -> Vec<Value> {
    let mut numbers = [least + 1, usize::MAX].map(|number| json!(number)).to_vec();
    numbers.extend([json!(i64::MIN), json!(1e300), json!(most as f64 + 0.5)]);
    numbers
}

/// So many items, each another one if that is possible.
fn items(count: usize, item: &Value) -> Value {
    let word = item["oneOf"][0]["const"].as_str();
    let one = |at: usize| match (word, item.get("properties")) {
        (Some(word), _) => json!(word),
        (_, Some(_)) => json!({ "name": format!("l{at}"), "description": "" }),
        _ => json!(format!("l{at}")),
    };
    (0..count).map(one).collect()
}

fn lists(bound: usize, item: &Value) -> Vec<Value> {
    let long = |length: usize| json!(["l".repeat(length)]);
    let length = item["maxLength"].as_u64().map_or(256, |length| length.min(4_000_000)) as usize;
    let twice = json!([items(1, item)[0], items(1, item)[0]]);
    vec![items(1, item), items(bound * 2, item), twice, long(length), long(length + 1), json!([null]), json!([[]])]
}

/// What the members of an object have, whatever their names.
fn property(schema: &Value) -> Value {
    match schema["additionalProperties"]["type"].as_str() {
        Some("string") => json!("v"),
        Some(_) => Value::Null,
        None => json!(true),
    }
}

/// So many members.
fn properties(count: usize, schema: &Value) -> Value {
    (0..count).map(|at| (format!("k{at}"), property(schema))).collect::<Map<_, _>>().into()
}

fn objects(most: Option<usize>, schema: &Value) -> Vec<Value> {
    let Some(most) = most else {
        // Any object, or one whose members are tried by themselves.
        let long = |length: usize| json!({ "a": "x".repeat(length) });
        return vec![json!({ "\u{0}": "\u{10ffff}" }), nested(118), long(1_048_576), long(2_200_000)];
    };
    let value = property(schema);
    let name = schema["propertyNames"]["maxLength"].as_u64().unwrap_or(256) as usize;
    let long_names = [name, name + 1, name * 20].map(|length| json!({ ("k".repeat(length)): value }));
    let long_value = schema["additionalProperties"]["maxLength"].as_u64().unwrap_or(4_096) as usize;
    let long_values = [long_value - 10, long_value, long_value + 1].map(|length| json!({ "k": "v".repeat(length) }));
    let mut values = vec![
        properties(1, schema),
        properties(most * 2, schema),
        json!({ "": value }),
        json!({ "K": value, "k": value }),
    ];
    values.extend([json!({ "\u{130}\u{fb03}": value }), json!({ "k": "\u{fb03}".repeat(1_300) }), json!({ "k": {} })]);
    values.extend(long_names);
    values.extend(long_values);
    values
}

/// What may stand in the place of a parameter of a path, percent-encoded.
pub(crate) fn extreme_names() -> Vec<String> {
    let mut names = [".", "..", "%00", "%FF", "%2F", "%2e%2e", "a%20b", "app_", "ep_1", "msg_", "%E2%80%AE"]
        .map(str::to_owned)
        .to_vec();
    names.extend([256, 257, 2_000].map(|length| "z".repeat(length)));
    names.extend([256, 300].map(|length| "%C4%B0".repeat(length)));
    names
}
