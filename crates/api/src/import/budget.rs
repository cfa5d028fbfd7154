//! What the import of a document may come to. References let a small document say something large, so everything that is
//! copied out of it is counted before it is copied.

use serde_json::Value;

postrider_domain::limits! {
    in "Imports";
    /// Examples of one event type in an OpenAPI document
    pub(crate) const MAX_EXAMPLES: usize = 20, "examples", beyond "the others are left out";
    /// What an OpenAPI document's event types come to, with everything that references repeat
    pub(crate) const MAX_BYTES: usize = 16_777_216, "bytes", beyond "422";
    /// The same, counted in values
    pub(crate) const MAX_VALUES: usize = 500_000, "JSON values", beyond "422";
    /// Imports of one environment at a time
    pub(crate) const AT_A_TIME: usize = 1, "import", beyond "waits for its turn, 503 after 10 s";
}

/// The length of a text as it is written in JSON, without its quotes: a control character takes six bytes.
fn written(text: &str) -> usize {
    let more = |byte: u8| match byte {
        b'"' | b'\\' => 1,
        0..0x20 => 5,
        _ => 0,
    };
    text.len() + text.bytes().map(more).sum::<usize>()
}

/// What is left of what an import may come to.
pub(super) struct Budget {
    bytes: usize,
    values: usize,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { bytes: MAX_BYTES, values: MAX_VALUES }
    }

    /// Whether more was asked for than there is.
    pub(super) fn is_exceeded(&self) -> bool {
        self.bytes == 0 || self.values == 0
    }

    /// Counts a text.
    pub(super) fn text(&mut self, text: &str) -> Result<(), String> {
        self.spend(written(text))
    }

    /// Copies a value.
    pub(super) fn copy(&mut self, value: &Value) -> Result<Value, String> {
        self.count(value)?;
        Ok(value.clone())
    }

    fn count(&mut self, value: &Value) -> Result<(), String> {
        match value {
            Value::String(text) => self.spend(written(text)),
            Value::Array(items) => {
                self.spend(0)?;
                items.iter().try_for_each(|item| self.count(item))
            }
            Value::Object(members) => {
                self.spend(0)?;
                members.iter().try_for_each(|(name, value)| {
                    self.spend(written(name))?;
                    self.count(value)
                })
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => self.spend(8),
        }
    }

    /// Counts one value of so many bytes.
    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), String> {
        // Quotes, commas and colons count, too.
        self.bytes = self.bytes.saturating_sub(bytes + 4);
        self.values = self.values.saturating_sub(1);
        if self.is_exceeded() { Err("is too much".to_owned()) } else { Ok(()) }
    }

    /// What is said of a document that exceeds it.
    pub(super) fn explanation() -> String {
        format!("comes to more than {MAX_BYTES} bytes or {MAX_VALUES} values when its references are followed")
    }
}
