//! The webhooks that an OpenAPI document describes, as event types: `webhooks` of version 3.1 and `x-webhooks` of 3.0.
//!
//! A webhook's name is that of the event type. Its description, first tag and `deprecated` become the event type's, the
//! JSON schema of its request body becomes version 1, and the examples of the body become the schema's.

pub(crate) mod body;
mod budget;
mod document;
mod schema;

use postrider_domain::event_type::{EventType, EventTypePatch, MAX_EVENT_TYPE_DESCRIPTION, MAX_GROUP_NAME, Schemas};
use postrider_domain::names::EventTypeName;
use postrider_domain::time::Timestamp;
use postrider_store::ImportedEventType;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::wire::error::{ApiError, Result};
use crate::wire::model::environment::MAX_IMPORTED;
use crate::wire::model::event_type::check_sizes;
use crate::wire::problem::{MAX_PROBLEMS, Problem};
pub use budget::limits;
use budget::{Budget, MAX_EXAMPLES};
pub(crate) use document::{Document, yaml};

/// The version under which a schema is stored: a document has no versions of its parts.
const VERSION: &str = "1";

/// The methods of a path item, the usual one first.
const METHODS: [&str; 8] = ["post", "put", "patch", "get", "delete", "head", "options", "trace"];

/// An event type, and the member of the document that its webhook stands in.
pub(crate) struct Webhook {
    pub(crate) group: &'static str,
    pub(crate) imported: ImportedEventType,
}

/// The event types of a document, or everything that is wrong with it; whether their schemas are schemas is left to be
/// checked. `member` is where it stands in the body.
pub(crate) fn event_types(document: &Document, member: &'static str, now: Timestamp) -> Result<Vec<Webhook>> {
    let (mut found, mut problems, mut budget) = (Vec::new(), Vec::new(), Budget::new());
    for (group, name, item) in document.webhooks() {
        if found.len() >= MAX_IMPORTED {
            return Err(ApiError::invalid(&["body", member], format!("must have at most {MAX_IMPORTED} webhooks")));
        }
        match event_type(document, name, item, now, &mut budget) {
            Ok(imported) => found.push(Webhook { group, imported }),
            Err(_) if budget.is_exceeded() => return Err(ApiError::invalid(&["body", member], Budget::explanation())),
            Err(_) if problems.len() >= MAX_PROBLEMS => {}
            Err(msg) => {
                let loc = vec!["body".into(), member.into(), group.into(), name.to_owned().into()];
                problems.push(Problem { loc, msg, kind: Problem::VALUE });
            }
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(ApiError::Invalid(problems)) }
}

fn event_type(
    document: &Document,
    name: &str,
    item: &Value,
    now: Timestamp,
    budget: &mut Budget,
) -> Result<ImportedEventType, String> {
    let name = EventTypeName::parse(name).map_err(|error| format!("the name {error}"))?;
    let item = document.resolve(item)?;
    let operation = METHODS.iter().find_map(|method| item.get(method));
    let operation = operation.ok_or("has no operation, such as `post`")?;
    let places = [(operation, "description"), (operation, "summary"), (item, "description"), (item, "summary")];
    let description = places.iter().find_map(|(of, member)| of.get(member)?.as_str()).unwrap_or_default();
    let group_name = operation.get("tags").and_then(|tags| tags.get(0)).and_then(Value::as_str);
    budget.text(description)?;
    budget.text(group_name.unwrap_or_default())?;
    let (description, group_name) = (description.to_owned(), group_name.map(str::to_owned));
    if [Some(&description), group_name.as_ref()].into_iter().flatten().any(|text| text.bytes().any(|byte| byte <= 8)) {
        return Err("must not have control characters".to_owned());
    }
    if description.chars().count() > MAX_EVENT_TYPE_DESCRIPTION {
        return Err(format!("must have a description of at most {MAX_EVENT_TYPE_DESCRIPTION} characters"));
    }
    if group_name.as_ref().is_some_and(|name| name.chars().count() > MAX_GROUP_NAME) {
        return Err(format!("must have a first tag of at most {MAX_GROUP_NAME} characters"));
    }
    let deprecated = operation.get("deprecated").and_then(Value::as_bool).unwrap_or_default();
    let schemas = schema_of(document, operation, budget)?.map(|schema| Schemas::from([(VERSION.to_owned(), schema)]));
    schemas.as_ref().map_or(Ok(()), check_sizes).map_err(|problem| format!("the schema {problem}"))?;
    let patch = EventTypePatch {
        description: Some(description.clone()),
        archived: Some(false),
        deprecated: Some(deprecated),
        schemas: Some(schemas.clone()),
        // What the document does not say was said by somebody else.
        group_name: group_name.clone().map(Some),
        feature_flag: None,
    };
    let new = EventType {
        name,
        description,
        archived: false,
        deprecated,
        schemas,
        feature_flag: None,
        group_name,
        created_at: now,
        updated_at: now,
    };
    Ok(ImportedEventType { new, patch })
}

/// The schema of an operation's JSON body, with its examples.
fn schema_of(document: &Document, operation: &Value, budget: &mut Budget) -> Result<Option<Box<RawValue>>, String> {
    let Some(body) = operation.get("requestBody") else { return Ok(None) };
    let content = document.resolve(body)?.get("content").and_then(Value::as_object);
    let Some(media) = content.and_then(json_media) else { return Ok(None) };
    let mut schema = match media.get("schema") {
        Some(schema) => schema::standalone(document, schema, budget)?,
        None => Map::new().into(),
    };
    let examples = examples(document, media, budget)?;
    if !examples.is_empty() {
        if schema == Value::Bool(true) {
            schema = Map::new().into();
        }
        if let Value::Object(members) = &mut schema {
            let own = members.remove("examples").and_then(|own| own.as_array().cloned()).unwrap_or_default();
            let all = examples.into_iter().chain(own).take(MAX_EXAMPLES);
            members.insert("examples".to_owned(), all.collect());
        }
    }
    RawValue::from_string(schema.to_string()).map(Some).map_err(|error| error.to_string())
}

/// The media type that is JSON.
fn json_media(content: &Map<String, Value>) -> Option<&Value> {
    let is_json = |name: &str| {
        let name = name.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        name == "application/json" || name.ends_with("+json") || name == "*/*" || name == "application/*"
    };
    content.get("application/json").or_else(|| content.iter().find(|(name, _)| is_json(name)).map(|(_, media)| media))
}

/// The first few examples.
fn examples(document: &Document, media: &Value, budget: &mut Budget) -> Result<Vec<Value>, String> {
    let mut found = Vec::new();
    if let Some(example) = media.get("example") {
        found.push(budget.copy(example)?);
    }
    for example in media.get("examples").and_then(Value::as_object).into_iter().flat_map(Map::values) {
        if found.len() == MAX_EXAMPLES {
            break;
        }
        if let Some(value) = document.resolve(example)?.get("value") {
            found.push(budget.copy(value)?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(spec: Value) -> Result<Vec<EventType>> {
        let document = Document::new(spec, "spec")?;
        let found = event_types(&document, "spec", Timestamp::EPOCH)?;
        Ok(found.into_iter().map(|webhook| webhook.imported.new).collect())
    }

    fn one(spec: Value) -> (EventType, Value) {
        let event_type = read(spec).unwrap().remove(0);
        let schema = event_type.newest_schema().map_or(Value::Null, |text| serde_json::from_str(text.get()).unwrap());
        (event_type, schema)
    }

    fn problem(spec: Value) -> (String, String) {
        let Err(ApiError::Invalid(problems)) = read(spec) else { panic!("accepted") };
        (problems[0].loc.join("."), problems[0].msg.clone())
    }

    fn with_schema(version: &str, schema: &Value, components: &Value) -> Value {
        let webhooks = if version.starts_with("3.0") { "x-webhooks" } else { "webhooks" };
        json!({
            "openapi": version,
            webhooks: { "a": { "post": { "requestBody": { "content": { "application/json": { "schema": schema } } } } } },
            "components": { "schemas": components },
        })
    }

    #[test]
    fn a_webhook_is_an_event_type() {
        let (event_type, schema) = one(json!({
            "openapi": "3.1.0",
            "webhooks": { "user.created": { "$ref": "#/components/pathItems/created" } },
            "components": {
                "pathItems": { "created": { "post": {
                    "summary": "short", "description": "A user was made.", "tags": ["user", "x"], "deprecated": true,
                    "requestBody": { "$ref": "#/components/requestBodies/user" },
                } } },
                "requestBodies": { "user": { "content": { "application/cloudevents+json": {
                    "schema": { "type": "object", "examples": [{ "id": 3 }] },
                    "example": { "id": 1 },
                    "examples": { "x": { "$ref": "#/components/examples/two" }, "y": { "externalValue": "z" } },
                } } } },
                "examples": { "two": { "value": { "id": 2 } } },
            },
        }));
        assert_eq!(event_type.name.as_str(), "user.created");
        assert_eq!(
            (event_type.description.as_str(), event_type.group_name.as_deref()),
            ("A user was made.", Some("user"))
        );
        assert!(event_type.deprecated);
        assert_eq!(
            schema,
            json!({
                "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
                "examples": [{ "id": 1 }, { "id": 2 }, { "id": 3 }],
            })
        );
    }

    #[test]
    fn shared_and_recursive_schemas_come_along_once() {
        let node = json!({ "properties": { "next": { "$ref": "#/components/schemas/Node" },
                                           "leaf": { "$ref": "#/components/schemas/Leaf" } } });
        let components = json!({ "Node": node, "Leaf": { "type": "string" }, "Unused": {} });
        let (_, schema) = one(with_schema("3.1.0", &json!({ "$ref": "#/components/schemas/Node" }), &components));
        let own = json!({ "next": { "$ref": "#" }, "leaf": { "$ref": "#/$defs/Leaf" } });
        assert_eq!((&schema["properties"], &schema["$defs"]), (&own, &json!({ "Leaf": { "type": "string" } })));
        let list = json!({ "items": { "$ref": "#/components/schemas/Node" } });
        let (_, schema) = one(with_schema("3.1.0", &list, &components));
        assert_eq!(schema["items"], json!({ "$ref": "#/$defs/Node" }));
        assert_eq!(schema["$defs"]["Node"]["properties"]["next"], json!({ "$ref": "#/$defs/Node" }));
        assert!(schema["$defs"].get("Unused").is_none());
    }

    #[test]
    fn references_that_multiply_stay_small() {
        let mut components = Map::new();
        for level in 0..40 {
            let next = json!({ "$ref": format!("#/components/schemas/L{}", level + 1) });
            components.insert(format!("L{level}"), json!({ "properties": { "a": next, "b": next } }));
        }
        components.insert("L40".to_owned(), json!({}));
        let schema = json!({ "$ref": "#/components/schemas/L0" });
        let (event_type, _) = one(with_schema("3.1.0", &schema, &components.into()));
        assert!(event_type.newest_schema().unwrap().get().len() < 10_000);
    }

    #[test]
    fn what_is_repeated_counts_before_it_is_copied() {
        let large = "x".repeat(900_000);
        let with = |media: Value, rest: Value| {
            let post = json!({ "requestBody": { "content": { "application/json": media } } });
            json!({ "openapi": "3.1.0", "webhooks": { "a": { "post": post } }, "components": rest })
        };
        let example = json!({ "$ref": "#/components/examples/b" });
        let examples: Map<_, _> = (0..5_000).map(|n| (n.to_string(), example.clone())).collect();
        let (_, text) =
            problem(with(json!({ "examples": examples }), json!({ "examples": { "b": { "value": large } } })));
        assert!(text.contains("when its references are followed"), "{text}");

        let webhooks: Map<_, _> =
            (0..100).map(|n| (format!("a{n}"), json!({ "$ref": "#/components/pathItems/b" }))).collect();
        for post in [json!({ "description": large }), json!({ "tags": [large] })] {
            let rest = json!({ "pathItems": { "b": { "post": post } } });
            let spec = json!({ "openapi": "3.1.0", "webhooks": webhooks, "components": rest });
            assert_eq!(problem(spec).0, "body.spec");
        }
    }

    #[test]
    fn one_part_in_many_spellings_comes_along_once() {
        let spelt = |n: u32| {
            let letter = |at: u32| if n >> at & 1 == 1 { "%41" } else { "A" };
            (0..10).map(letter).collect::<String>()
        };
        let references: Vec<_> =
            (0..1_000).map(|n| json!({ "$ref": format!("#/components/schemas/{}", spelt(n)) })).collect();
        let components = json!({ "AAAAAAAAAA": { "const": "x".repeat(100_000) } });
        let (event_type, schema) = one(with_schema("3.1.0", &json!({ "anyOf": references }), &components));
        assert_eq!(schema["$defs"].as_object().unwrap().len(), 1);
        assert!(event_type.newest_schema().unwrap().get().len() < 200_000);
    }

    #[test]
    fn only_the_first_examples_come_along() {
        let examples: Map<_, _> = (0..100).map(|n| (n.to_string(), json!({ "value": n }))).collect();
        let own = vec![0; 100];
        let media = json!({ "schema": { "examples": own }, "examples": examples });
        let post = json!({ "requestBody": { "content": { "application/json": media } } });
        let (_, schema) = one(json!({ "openapi": "3.1.0", "webhooks": { "a": { "post": post } } }));
        assert_eq!(schema["examples"].as_array().unwrap().len(), MAX_EXAMPLES);
    }

    #[test]
    fn a_document_of_too_many_webhooks_is_refused() {
        let webhooks: Map<_, _> = (0..=MAX_IMPORTED).map(|n| (format!("a{n}"), json!({ "post": {} }))).collect();
        assert_eq!(problem(json!({ "openapi": "3.1.0", "webhooks": webhooks })).0, "body.spec");
    }

    #[test]
    fn schemas_of_3_0_become_schemas_of_draft_7() {
        let schema = json!({ "properties": {
            "nullable": { "type": "string", "nullable": true, "enum": ["a"] },
            "n": { "type": "integer", "minimum": 1, "exclusiveMinimum": true, "maximum": 5, "exclusiveMaximum": false },
            "example": { "type": "string", "example": "x" },
            "other": { "$ref": "#/components/schemas/Other" },
        }, "default": { "$ref": "#/kept" } });
        let (_, schema) = one(with_schema("3.0.3", &schema, &json!({ "Other": {} })));
        assert_eq!(
            schema,
            json!({ "$schema": "http://json-schema.org/draft-07/schema#", "properties": {
                "nullable": { "type": ["string", "null"], "enum": ["a", null] },
                "n": { "type": "integer", "exclusiveMinimum": 1, "maximum": 5 },
                "example": { "type": "string", "examples": ["x"] },
                "other": { "$ref": "#/definitions/Other" },
            }, "default": { "$ref": "#/kept" }, "definitions": { "Other": {} } })
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_webhook() {
        let none = json!({});
        for (schema, want) in [
            (json!({ "$ref": "other.yaml#/a" }), "another document"),
            (json!({ "$ref": "http://127.0.0.1/a" }), "another document"),
            (json!({ "$ref": "#/components/schemas/Missing" }), "nothing"),
            (json!({ "properties": { "a": { "$ref": "#/openapi" } } }), "no schema"),
        ] {
            let (place, text) = problem(with_schema("3.1.0", &schema, &none));
            assert!(place == "body.spec.webhooks.a" && text.contains(want), "{schema}: {place}: {text}");
        }
        let endless = json!({ "A": { "$ref": "#/components/schemas/B" }, "B": { "$ref": "#/components/schemas/A" } });
        let (_, text) = problem(with_schema("3.1.0", &json!({ "$ref": "#/components/schemas/A" }), &endless));
        assert!(text.contains("itself"), "{text}");
        for (spec, place) in [
            (json!({ "openapi": "3.1.0", "webhooks": { "a b": { "post": {} } } }), "body.spec.webhooks.a b"),
            (json!({ "openapi": "3.1.0", "webhooks": { "a": {} } }), "body.spec.webhooks.a"),
            (json!({ "openapi": "3.1.0", "webhooks": { "a": { "$ref": "#/webhooks/a" } } }), "body.spec.webhooks.a"),
            (json!({ "swagger": "2.0" }), "body.spec.openapi"),
            (json!({ "openapi": "3.1.0", "webhooks": [] }), "body.spec.webhooks"),
            (json!([]), "body.spec"),
        ] {
            assert_eq!(problem(spec).0, place);
        }
    }

    #[test]
    fn a_webhook_without_a_json_body_has_no_schema() {
        for operation in [
            json!({}),
            json!({ "requestBody": {} }),
            json!({ "requestBody": { "content": { "text/plain": { "schema": { "type": "string" } } } } }),
        ] {
            let (event_type, _) = one(json!({ "openapi": "3.1.0", "webhooks": { "a": { "post": operation } } }));
            assert!(event_type.schemas.is_none());
        }
    }

    #[test]
    fn yaml_is_read_as_people_mean_it() {
        let spec = yaml(
            "openapi: 3.1.0\nwebhooks:\n  user.created: &made\n    post:\n      description: yes\n      responses:\n        \
             200: {description: ok}\n  user.made: *made\n",
        );
        let found = read(spec.unwrap()).unwrap();
        let seen: Vec<_> = found.iter().map(|one| (one.name.as_str(), one.description.as_str())).collect();
        assert_eq!(seen, [("user.created", "yes"), ("user.made", "yes")]);
    }

    #[test]
    fn aliases_that_multiply_are_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let below = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert!(yaml(&text).is_err());
        assert!(yaml(&"[".repeat(100_000)).is_err());
        assert!(yaml(&"- ".repeat(100_000)).is_err());
        assert!(yaml("a: &a [*a]").is_err());
        for (depth, good) in [(60, true), (70, false), (1_000, false)] {
            assert_eq!(yaml(&format!("{}{}", "[".repeat(depth), "]".repeat(depth))).is_ok(), good, "{depth}");
            assert_eq!(yaml(&"- ".repeat(depth)).is_ok(), good, "{depth}");
        }
    }
}
