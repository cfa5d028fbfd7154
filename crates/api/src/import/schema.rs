//! A schema of an OpenAPI document as a JSON Schema that stands by itself: what it refers to comes along under `$defs`
//! (draft 7: `definitions`), each once, so that recursion stays recursion and nothing multiplies.
//!
//! Schemas of version 3.1 are JSON Schemas of draft 2020-12 and say so from now on. Those of 3.0 are put in the words of
//! draft 7: `nullable`, `exclusiveMinimum: true` and `example` have other names there.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use crate::import::budget::Budget;
use crate::import::document::Document;

/// Keywords whose values are schemas, lists of schemas, and schemas by name. What is not here is kept as it is.
const SCHEMAS: [&str; 12] = [
    "items",
    "additionalItems",
    "additionalProperties",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contains",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
    "contentSchema",
];
const LISTS: [&str; 5] = ["allOf", "anyOf", "oneOf", "prefixItems", "items"];
const MAPS: [&str; 6] = ["properties", "patternProperties", "dependentSchemas", "$defs", "definitions", "dependencies"];

/// How many references lead from one to the next at most.
const MAX_HOPS: usize = 16;

/// A schema by itself.
pub(super) fn standalone(document: &Document, schema: &Value, budget: &mut Budget) -> Result<Value, String> {
    let mut parts = Parts {
        document,
        budget,
        names: HashMap::new(),
        taken: HashSet::new(),
        numbers: HashMap::new(),
        waiting: Vec::new(),
    };
    let root = parts.root(schema)?;
    let mut root = parts.convert(root)?;
    let mut definitions = Map::new();
    while let Some((name, part)) = parts.waiting.pop() {
        let part = parts.convert(part)?;
        definitions.insert(name, part);
    }
    if let Value::Object(members) = &mut root {
        if !definitions.is_empty() {
            let own = members.entry(parts.keyword()).or_insert_with(|| Map::new().into());
            if let Value::Object(own) = own {
                own.extend(definitions);
            }
        }
        let draft = if document.is_3_0() { "http://json-schema.org/draft-07/schema#" } else { document.dialect() };
        members.entry("$schema").or_insert_with(|| draft.into());
    }
    Ok(root)
}

/// What comes along with a schema.
struct Parts<'d, 'b> {
    document: &'d Document,
    budget: &'b mut Budget,
    /// By the address of what a reference of the document names, however it is spelt: the reference that stands for it.
    names: HashMap<usize, String>,
    taken: HashSet<String>,
    /// How often a name was wanted.
    numbers: HashMap<String, usize>,
    waiting: Vec<(String, &'d Value)>,
}

impl<'d> Parts<'d, '_> {
    /// What a schema is if it is nothing but a reference. References to it are references to the root from now on.
    fn root(&mut self, mut schema: &'d Value) -> Result<&'d Value, String> {
        for _ in 0..MAX_HOPS {
            let reference = schema.get("$ref").and_then(Value::as_str);
            let alone = self.document.is_3_0() || schema.as_object().is_some_and(|members| members.len() == 1);
            let Some(reference) = reference.filter(|_| alone) else {
                for keyword in ["$defs", "definitions"] {
                    let own = schema.get(keyword).and_then(Value::as_object);
                    self.taken.extend(own.into_iter().flat_map(Map::keys).cloned());
                }
                return Ok(schema);
            };
            schema = self.document.named(reference)?;
            self.names.insert(address(schema), "#".to_owned());
        }
        Err("refers to itself, or through too many references".to_owned())
    }

    fn keyword(&self) -> &'static str {
        if self.document.is_3_0() { "definitions" } else { "$defs" }
    }

    fn convert(&mut self, schema: &'d Value) -> Result<Value, String> {
        let members = match schema {
            Value::Object(members) => members,
            Value::Bool(_) => return self.budget.copy(schema),
            _ => return Err("refers to, or contains, what is no schema".to_owned()),
        };
        let mut converted = Map::new();
        self.budget.spend(0)?;
        for (keyword, value) in members {
            self.budget.text(keyword)?;
            let value = match (keyword.as_str(), value) {
                ("$ref", Value::String(reference)) => self.reference(reference)?.into(),
                (name, Value::Array(list)) if LISTS.contains(&name) => self.list(list)?,
                (name, Value::Object(map)) if MAPS.contains(&name) => self.map(map)?,
                (name, _) if SCHEMAS.contains(&name) => self.convert(value)?,
                _ => self.budget.copy(value)?,
            };
            converted.insert(keyword.clone(), value);
        }
        if self.document.is_3_0() {
            in_words_of_draft_7(&mut converted);
        }
        if let Some(example) = converted.remove("example") {
            converted.entry("examples").or_insert_with(|| json!([example]));
        }
        Ok(converted.into())
    }

    fn list(&mut self, list: &'d [Value]) -> Result<Value, String> {
        list.iter().map(|schema| self.convert(schema)).collect()
    }

    fn map(&mut self, map: &'d Map<String, Value>) -> Result<Value, String> {
        let mut converted = Map::new();
        for (name, schema) in map {
            // A dependency may be a list of names.
            self.budget.text(name)?;
            let schema = if schema.is_array() { self.budget.copy(schema)? } else { self.convert(schema)? };
            converted.insert(name.clone(), schema);
        }
        Ok(converted.into())
    }

    /// The reference that stands for one of the document's.
    fn reference(&mut self, reference: &str) -> Result<String, String> {
        let part = self.document.named(reference)?;
        if let Some(known) = self.names.get(&address(part)) {
            self.budget.text(known)?;
            return Ok(known.clone());
        }
        let last = reference.rsplit('/').next().unwrap_or_default();
        let plain: String =
            last.chars().filter(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(*letter)).collect();
        let name = self.free_name(&plain);
        self.budget.text(&name)?;
        let own = format!("#/{}/{name}", self.keyword());
        self.names.insert(address(part), own.clone());
        self.waiting.push((name, part));
        Ok(own)
    }

    /// A name that nothing else has, with a number if it must be.
    fn free_name(&mut self, plain: &str) -> String {
        let number = self.numbers.entry(plain.to_owned()).or_insert(1);
        let mut name = plain.to_owned();
        while name.is_empty() || !self.taken.insert(name.clone()) {
            *number += 1;
            name = format!("{plain}{number}");
        }
        name
    }
}

/// By what a part of the document is told from another.
fn address(part: &Value) -> usize {
    std::ptr::from_ref(part).addr()
}

fn in_words_of_draft_7(schema: &mut Map<String, Value>) {
    if schema.remove("nullable") == Some(Value::Bool(true)) {
        if let Some(Value::String(kind)) = schema.get("type") {
            let kinds = json!([kind, "null"]);
            schema.insert("type".to_owned(), kinds);
        }
        if let Some(Value::Array(values)) = schema.get_mut("enum")
            && !values.contains(&Value::Null)
        {
            values.push(Value::Null);
        }
    }
    for (limit, exclusive) in [("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")] {
        if let Some(Value::Bool(is_exclusive)) = schema.get(exclusive) {
            let is_exclusive = *is_exclusive;
            schema.remove(exclusive);
            if is_exclusive && let Some(bound) = schema.remove(limit) {
                schema.insert(exclusive.to_owned(), bound);
            }
        }
    }
}
