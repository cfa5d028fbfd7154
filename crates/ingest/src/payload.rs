//! Payloads as values that a schema can be tried on. What is JSON by its grammar is never called anything else: half of a
//! pair of surrogates counts as the replacement character, and a number beyond what a float holds as the largest one.

use serde_json::Value;

/// Reads a payload, or says why it can't be compared with a schema.
pub(crate) fn read(payload: &[u8]) -> Result<Value, &'static str> {
    if let Ok(value) = serde_json::from_slice(payload) {
        return Ok(value);
    }
    // Reads on over what a value can't hold, and only over that.
    if serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_err() {
        return Err("is not JSON");
    }
    let Ok(text) = std::str::from_utf8(payload) else { return Err("is not JSON: it is not in UTF-8") };
    serde_json::from_str(&representable(text)).map_err(|_| "is nested too deeply to be compared with a schema")
}

/// The text with what a value can hold in place of what it can't. It must be JSON.
fn representable(text: &str) -> String {
    let (mut made, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => {
                let length = string_length(rest);
                made.push_str(&with_whole_surrogates(&rest[..length]));
                length
            }
            '-' | '0'..='9' => {
                let (length, replacement) = number(rest);
                made.push_str(replacement.unwrap_or(&rest[..length]));
                length
            }
            other => {
                made.push(other);
                other.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    made
}

/// How long the string is that a text begins with, with its quotes.
fn string_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

fn with_whole_surrogates(string: &str) -> String {
    let (mut made, mut rest) = (String::with_capacity(string.len()), string);
    while let Some(at) = rest.find('\\') {
        made.push_str(&rest[..at]);
        rest = &rest[at..];
        let (length, replacement) = escape(rest);
        made.push_str(replacement.unwrap_or(&rest[..length]));
        rest = &rest[length..];
    }
    made + rest
}

/// The length of the escape that a text begins with, and what stands for it if it is half of a pair.
fn escape(text: &str) -> (usize, Option<&'static str>) {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    match (unit(0), unit(6)) {
        (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => (12, None),
        (Some(0xD800..=0xDFFF), _) => (6, Some("\\ufffd")),
        (Some(_), _) => (6, None),
        (None, _) => (2.min(text.len()), None),
    }
}

/// The length of the number that a text begins with, and what stands for it if it is too large.
fn number(text: &str) -> (usize, Option<&'static str>) {
    let ends = |letter: char| !matches!(letter, '0'..='9' | '-' | '+' | '.' | 'e' | 'E');
    let length = text.find(ends).unwrap_or(text.len());
    let value: f64 = text[..length].parse().unwrap_or(0.0);
    let replacement = match value {
        f64::INFINITY => Some("1.7976931348623157e308"),
        f64::NEG_INFINITY => Some("-1.7976931348623157e308"),
        _ => None,
    };
    (length, replacement)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_value_cannot_hold_is_approximated() {
        for (payload, value) in [
            (r#"{"a": "\ud800"}"#, json!({ "a": "\u{fffd}" })),
            (r#"["\udc00\ud800x", "\ud83d\ude00\ud83d"]"#, json!(["\u{fffd}\u{fffd}x", "😀\u{fffd}"])),
            (r#"{"\ud800": [1e400, -1E+400, 1e-400, 1.5]}"#, json!({ "\u{fffd}": [f64::MAX, f64::MIN, 0.0, 1.5] })),
            (r#"["1e400", "\\ud800", "\"\ud800\""]"#, json!(["1e400", "\\ud800", "\"\u{fffd}\""])),
            ("1e400", json!(f64::MAX)),
        ] {
            assert_eq!(read(payload.as_bytes()), Ok(value), "{payload}");
        }
    }

    #[test]
    fn only_what_is_not_json_is_called_so() {
        for payload in ["", "<xml/>", "{", r#"["\ud80"]"#, "01", "1e", "[1,]"] {
            assert_eq!(read(payload.as_bytes()), Err("is not JSON"), "{payload}");
        }
        let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
        assert_eq!(read(deep.as_bytes()), Err("is nested too deeply to be compared with a schema"));
    }
}
