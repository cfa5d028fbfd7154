//! A query parameter, as reading a query notes it for the OpenAPI document.

use serde_json::Value;

/// A parameter of a query string, as it was noted when the query was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Parameter {
    /// Its name.
    pub(crate) name: &'static str,
    /// The schema of its value.
    pub(crate) schema: Value,
}
