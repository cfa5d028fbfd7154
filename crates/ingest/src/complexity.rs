//! How complex a schema is, told from its text alone and in time that grows with its length: so that one that nobody
//! could use is refused with a reason when it is made, instead of failing at each message. It is a courtesy, not the
//! defence: what gets past it runs in a process with limits all the same.

use std::collections::HashMap;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use crate::judge::{MAX_CHAIN, MAX_EXPANSION, MAX_PATTERNS, MAX_VALUES};

/// Keywords whose subschemas apply to the value that the schema itself applies to.
const ALONE: [&str; 4] = ["not", "if", "then", "else"];
const LISTS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
const BY_NAME: [&str; 2] = ["dependentSchemas", "dependencies"];
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];

/// Says by what a schema is too complex.
pub(crate) fn check(schema: &Value) -> Result<(), String> {
    let mut count = Count::default();
    let mut waiting = vec![schema];
    while let Some(value) = waiting.pop() {
        count.add(value)?;
        match value {
            Value::Array(items) => waiting.extend(items),
            Value::Object(members) => waiting.extend(members.values()),
            _ => {}
        }
    }
    let mut expansion = Expansion { root: schema, known: HashMap::default() };
    let mut waiting = vec![schema];
    while let Some(value) = waiting.pop() {
        if expansion.of(value, 0)? > MAX_EXPANSION {
            return Err(format!("applies more than {MAX_EXPANSION} subschemas to one value"));
        }
        match value {
            Value::Array(items) => waiting.extend(items),
            Value::Object(members) => waiting.extend(members.values()),
            _ => {}
        }
    }
    Ok(())
}

#[derive(Default)]
struct Count {
    values: usize,
    patterns: usize,
}

impl Count {
    fn add(&mut self, value: &Value) -> Result<(), String> {
        self.values += 1;
        if let Value::Object(members) = value {
            let by_name = members.get("patternProperties").and_then(Value::as_object).map_or(0, Map::len);
            self.patterns += by_name + usize::from(members.get("pattern").is_some_and(Value::is_string));
        }
        if self.values > MAX_VALUES {
            return Err(format!("has more than {MAX_VALUES} values"));
        }
        if self.patterns > MAX_PATTERNS {
            return Err(format!("has more than {MAX_PATTERNS} patterns"));
        }
        Ok(())
    }
}

/// How many subschemas apply to one value, each counted as often as there are ways to it.
struct Expansion<'s> {
    root: &'s Value,
    /// By the address of the schema. While one is being counted it is 1: recursion that uses up no part of the value is
    /// none that ends, and no matter of numbers.
    known: HashMap<usize, u64, foldhash::fast::RandomState>,
}

impl<'s> Expansion<'s> {
    fn of(&mut self, schema: &'s Value, steps: usize) -> Result<u64, String> {
        let Value::Object(members) = schema else { return Ok(1) };
        let address = std::ptr::from_ref(schema).addr();
        if let Some(known) = self.known.get(&address) {
            return Ok(*known);
        }
        if steps > MAX_CHAIN {
            return Err(format!("leads through more than {MAX_CHAIN} references and subschemas for one value"));
        }
        self.known.insert(address, 1);
        let mut sum = 1_u64;
        for part in self.parts(members) {
            sum = sum.saturating_add(self.of(part, steps + 1)?);
        }
        self.known.insert(address, sum);
        Ok(sum)
    }

    /// The subschemas that apply to the same value.
    fn parts(&self, members: &'s Map<String, Value>) -> Vec<&'s Value> {
        let member = |name: &&str| members.get(*name);
        let mut parts: Vec<_> = ALONE.iter().filter_map(member).collect();
        parts.extend(LISTS.iter().filter_map(member).filter_map(Value::as_array).flatten());
        parts.extend(BY_NAME.iter().filter_map(member).filter_map(Value::as_object).flat_map(Map::values));
        let references = REFERENCES.iter().filter_map(member).filter_map(Value::as_str);
        parts.extend(references.filter_map(|reference| self.named(reference)));
        parts
    }

    /// What a pointer within the schema names. What is named in other ways shows what it costs when it is tried out.
    fn named(&self, reference: &str) -> Option<&'s Value> {
        let pointer = percent_decode_str(reference.strip_prefix('#')?).decode_utf8().ok()?;
        self.root.pointer(&pointer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn levels(keyword: &str, count: usize) -> Value {
        let mut definitions = Map::new();
        for level in 0..count {
            let next = json!({ "$ref": format!("#/definitions/a{}", level + 1) });
            definitions.insert(format!("a{level}"), json!({ keyword: [next, next] }));
        }
        definitions.insert(format!("a{count}"), json!({ "type": "string" }));
        json!({ "$ref": "#/definitions/a0", "definitions": definitions })
    }

    #[test]
    fn references_that_multiply_are_refused() {
        for keyword in LISTS {
            assert!(check(&levels(keyword, 30)).unwrap_err().contains("subschemas to one value"), "{keyword}");
            assert_eq!(check(&levels(keyword, 5)), Ok(()));
        }
        let hidden =
            json!({ "properties": { "a": levels("anyOf", 30) }, "definitions": levels("anyOf", 30)["definitions"] });
        assert!(check(&hidden).is_err());
        assert!(check(&levels("allOf", 10_000)).unwrap_err().contains("leads through"));
    }

    #[test]
    fn recursion_is_not_refused() {
        let tree = json!({ "oneOf": [{ "properties": { "a": { "$ref": "#" } } }, { "items": { "$ref": "#" } }] });
        assert_eq!(check(&tree), Ok(()));
        assert_eq!(check(&json!({ "allOf": [{ "$ref": "#" }] })), Ok(()));
    }

    #[test]
    fn values_and_patterns_are_counted() {
        let patterns: Vec<_> = (0..=MAX_PATTERNS).map(|n| json!({ "pattern": n.to_string() })).collect();
        assert!(check(&json!({ "anyOf": patterns })).unwrap_err().contains("patterns"));
        let names: Map<_, _> = (0..=MAX_PATTERNS).map(|n| (n.to_string(), json!({}))).collect();
        assert!(check(&json!({ "patternProperties": names })).unwrap_err().contains("patterns"));
        assert!(check(&json!({ "enum": vec![0; MAX_VALUES] })).unwrap_err().contains("values"));
    }
}
