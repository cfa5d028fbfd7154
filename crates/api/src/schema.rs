//! Whether a JSON value is a JSON Schema of draft 7: its meta-schema
//! (<https://json-schema.org/draft-07/json-schema-validation>), as a table of keywords and the shape each one wants.
//!
//! Unknown keywords are legal, and formats (of a `pattern`, of a `$ref`) are not asserted, as the specification has it.
//! Recursion is bounded by the depth of request bodies.

use serde_json::{Map, Value};

/// What the value of a keyword must be.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Boolean,
    Number,
    PositiveNumber,
    Count,
    List,
    Names,
    Schema,
    Schemas,
    SchemaOrSchemas,
    SchemaMap,
    Dependencies,
    Types,
}

/// The keywords of draft 7; `const` and `default` take anything.
const KEYWORDS: [(&str, Shape); 43] = [
    ("$id", Shape::Text),
    ("$schema", Shape::Text),
    ("$ref", Shape::Text),
    ("$comment", Shape::Text),
    ("title", Shape::Text),
    ("description", Shape::Text),
    ("readOnly", Shape::Boolean),
    ("writeOnly", Shape::Boolean),
    ("examples", Shape::List),
    ("multipleOf", Shape::PositiveNumber),
    ("maximum", Shape::Number),
    ("exclusiveMaximum", Shape::Number),
    ("minimum", Shape::Number),
    ("exclusiveMinimum", Shape::Number),
    ("maxLength", Shape::Count),
    ("minLength", Shape::Count),
    ("pattern", Shape::Text),
    ("additionalItems", Shape::Schema),
    ("items", Shape::SchemaOrSchemas),
    ("maxItems", Shape::Count),
    ("minItems", Shape::Count),
    ("uniqueItems", Shape::Boolean),
    ("contains", Shape::Schema),
    ("maxProperties", Shape::Count),
    ("minProperties", Shape::Count),
    ("required", Shape::Names),
    ("additionalProperties", Shape::Schema),
    ("definitions", Shape::SchemaMap),
    ("properties", Shape::SchemaMap),
    ("patternProperties", Shape::SchemaMap),
    ("dependencies", Shape::Dependencies),
    ("propertyNames", Shape::Schema),
    ("enum", Shape::List),
    ("type", Shape::Types),
    ("format", Shape::Text),
    ("contentMediaType", Shape::Text),
    ("contentEncoding", Shape::Text),
    ("if", Shape::Schema),
    ("then", Shape::Schema),
    ("else", Shape::Schema),
    ("allOf", Shape::Schemas),
    ("anyOf", Shape::Schemas),
    ("oneOf", Shape::Schemas),
];

const TYPES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];

/// Says where and why a value is no schema.
pub(crate) fn check(schema: &Value) -> Result<(), String> {
    match schema {
        Value::Bool(_) => Ok(()),
        Value::Object(members) => check_members(members),
        _ => Err("a schema is an object or a boolean".to_owned()),
    }
}

fn check_members(members: &Map<String, Value>) -> Result<(), String> {
    if let Some(not) = members.get("not") {
        check(not).map_err(|problem| format!("not: {problem}"))?;
    }
    for (keyword, shape) in KEYWORDS {
        if let Some(value) = members.get(keyword) {
            check_shape(shape, value).map_err(|problem| format!("{keyword}: {problem}"))?;
        }
    }
    Ok(())
}

fn check_shape(shape: Shape, value: &Value) -> Result<(), String> {
    let want = |is: bool, what: &str| if is { Ok(()) } else { Err(format!("must be {what}")) };
    match shape {
        Shape::Text => want(value.is_string(), "a string"),
        Shape::Boolean => want(value.is_boolean(), "a boolean"),
        Shape::Number => want(value.is_number(), "a number"),
        Shape::PositiveNumber => want(value.as_f64().is_some_and(|number| number > 0.0), "a number above 0"),
        Shape::Count => want(is_count(value), "an integer from 0 on"),
        Shape::List => want(value.is_array(), "an array"),
        Shape::Names => want(is_names(value), "an array of distinct strings"),
        Shape::Schema => check(value),
        Shape::Schemas => match value.as_array() {
            Some(schemas) if !schemas.is_empty() => schemas.iter().try_for_each(check),
            _ => Err("must be a non-empty array of schemas".to_owned()),
        },
        Shape::SchemaOrSchemas if value.is_array() => check_shape(Shape::Schemas, value),
        Shape::SchemaOrSchemas => check(value),
        Shape::SchemaMap => check_map(value, check),
        Shape::Dependencies => {
            check_map(value, |dependency| if is_names(dependency) { Ok(()) } else { check(dependency) })
        }
        Shape::Types => want(is_types(value), "the name of a type, or a non-empty array of distinct ones"),
    }
}

fn check_map(value: &Value, check: impl Fn(&Value) -> Result<(), String>) -> Result<(), String> {
    let members = value.as_object().ok_or_else(|| "must be an object".to_owned())?;
    members.iter().try_for_each(|(name, schema)| check(schema).map_err(|problem| format!("{name}: {problem}")))
}

fn is_count(value: &Value) -> bool {
    // 2.0 is an integer in JSON Schema.
    value.is_u64() || value.as_f64().is_some_and(|number| number >= 0.0 && number.fract() == 0.0)
}

fn is_names(value: &Value) -> bool {
    value.as_array().is_some_and(|names| names.iter().all(Value::is_string) && distinct(names))
}

fn is_types(value: &Value) -> bool {
    let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    match value.as_array() {
        Some(names) => !names.is_empty() && names.iter().all(is_type) && distinct(names),
        None => is_type(value),
    }
}

fn distinct(values: &[Value]) -> bool {
    let texts: std::collections::HashSet<_> = values.iter().filter_map(Value::as_str).collect();
    texts.len() == values.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn schemas_are_schemas() {
        for schema in [
            json!(true),
            json!({}),
            json!({"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]}),
            json!({"items": [{"minLength": 2.0}, false], "enum": [1, "x"], "const": null, "default": []}),
            json!({"dependencies": {"a": ["b"], "c": {"not": {}}}, "x-unknown": 15, "examples": [{}]}),
            json!({"allOf": [{"$ref": "#/definitions/a"}], "definitions": {"a": {"multipleOf": 0.01}}}),
        ] {
            assert_eq!(check(&schema), Ok(()), "{schema}");
        }
    }

    #[test]
    fn what_is_no_schema_is_refused_with_its_place() {
        for (schema, place) in [
            (json!(15), "a schema is"),
            (json!({"readOnly": 15}), "readOnly:"),
            (json!({"type": "text"}), "type:"),
            (json!({"type": []}), "type:"),
            (json!({"type": ["string", "string"]}), "type:"),
            (json!({"required": "a"}), "required:"),
            (json!({"required": ["a", "a"]}), "required:"),
            (json!({"properties": {"a": {"minLength": -1}}}), "properties: a: minLength:"),
            (json!({"maxItems": 1.5}), "maxItems:"),
            (json!({"multipleOf": 0}), "multipleOf:"),
            (json!({"anyOf": []}), "anyOf:"),
            (json!({"not": 1}), "not:"),
            (json!({"dependencies": {"a": [1]}}), "dependencies: a:"),
            (json!({"items": [1]}), "items:"),
            (json!({"definitions": []}), "definitions:"),
        ] {
            let problem = check(&schema).unwrap_err();
            assert!(problem.starts_with(place), "{problem}");
        }
    }
}
