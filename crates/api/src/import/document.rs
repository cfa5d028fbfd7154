//! An OpenAPI document: its webhooks, and what references within it name. Nothing outside of it is ever looked at.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::wire::error::{ApiError, Result};

/// How many references lead from one to the next at most.
const MAX_HOPS: usize = 16;

/// The most text of a reference that is repeated in an answer.
const MAX_SHOWN: usize = 100;

/// How deep YAML may nest. Reading it takes far more of the stack per level than reading JSON.
const MAX_DEPTH: usize = 64;

/// How many nodes aliases may add to a document of YAML.
const MAX_REPLAYED: usize = 100_000;

/// A document of version 3.
pub(crate) struct Document {
    root: Value,
    is_3_0: bool,
}

impl Document {
    /// Checks that it is one. `member` is where it stands in the body.
    pub(crate) fn new(root: Value, member: &'static str) -> Result<Self> {
        if !root.is_object() {
            return Err(ApiError::invalid(&["body", member], "must be an OpenAPI document, which is an object"));
        }
        let version = root.get("openapi").and_then(Value::as_str).unwrap_or_default();
        if !version.starts_with("3.") {
            let msg = "must be the version of an OpenAPI document, 3.0 or later";
            return Err(ApiError::invalid(&["body", member, "openapi"], msg));
        }
        for group in ["webhooks", "x-webhooks"] {
            if root.get(group).is_some_and(|webhooks| !webhooks.is_object() && !webhooks.is_null()) {
                return Err(ApiError::invalid(&["body", member, group], "must be an object"));
            }
        }
        let is_3_0 = version.starts_with("3.0");
        Ok(Self { root, is_3_0 })
    }

    /// Whether its schemas are those of version 3.0, which are no JSON Schemas.
    pub(crate) fn is_3_0(&self) -> bool {
        self.is_3_0
    }

    /// The draft that its schemas are of, if they don't say.
    pub(crate) fn dialect(&self) -> &str {
        let declared = self.root.get("jsonSchemaDialect").and_then(Value::as_str);
        // The default dialect of version 3.1 is this draft with keywords of no consequence.
        declared.filter(|uri| uri.contains("json-schema.org")).unwrap_or("https://json-schema.org/draft/2020-12/schema")
    }

    /// The webhooks: the member that they stand in, name and path item.
    pub(crate) fn webhooks(&self) -> impl Iterator<Item = (&'static str, &str, &Value)> {
        ["webhooks", "x-webhooks"].into_iter().flat_map(|group| {
            let members = self.root.get(group).and_then(Value::as_object);
            members.into_iter().flatten().map(move |(name, item)| (group, name.as_str(), item))
        })
    }

    /// What a value is, if it is a reference; otherwise itself.
    pub(crate) fn resolve<'a>(&'a self, mut value: &'a Value) -> Result<&'a Value, String> {
        for _ in 0..MAX_HOPS {
            match value.get("$ref").and_then(Value::as_str) {
                None => return Ok(value),
                Some(reference) => value = self.named(reference)?,
            }
        }
        Err("refers to itself, or through too many references".to_owned())
    }

    /// What a reference names.
    pub(crate) fn named(&self, reference: &str) -> Result<&Value, String> {
        let shown: Cow<'_, str> = reference.chars().take(MAX_SHOWN).collect();
        let Some(pointer) = reference.strip_prefix('#') else {
            return Err(format!("refers to another document: {shown}"));
        };
        let pointer = percent_decode_str(pointer).decode_utf8_lossy();
        self.root.pointer(&pointer).ok_or_else(|| format!("refers to what names nothing: {shown}"))
    }
}

/// Reads YAML, of which JSON is a part.
pub(crate) fn yaml(text: &str) -> Result<Value, String> {
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    let mut options = serde_saphyr::Options::default();
    if let Some(budget) = &mut options.budget {
        budget.max_depth = MAX_DEPTH;
        budget.max_documents = 1;
    }
    options.alias_limits.max_total_replayed_events = MAX_REPLAYED;
    // "yes" and "no" are words.
    options.strict_booleans = true;
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let text = error.to_string();
        text.lines().next().unwrap_or_default().chars().take(3 * MAX_SHOWN).collect()
    })
}
