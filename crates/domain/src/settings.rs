//! How settings are written: durations as `250ms`, `5s`, `2h`, `5d`, and a table of settings with their documentation,
//! so that the reference is printed from the place where a setting is defined.

use std::fmt;
use std::time::Duration;

/// A duration as settings write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// The text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a duration: write a number with a unit, as in 250ms, 5s, 10m, 2h or 5d")]
pub struct ParseSpanError(String);

/// Units by suffix; `ms` before `m` and `s`, because suffixes are tried in order.
const UNITS: [(&str, f64); 5] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0), ("d", 86_400.0)];

impl std::str::FromStr for Span {
    type Err = ParseSpanError;

    fn from_str(text: &str) -> Result<Self, ParseSpanError> {
        let refuse = || ParseSpanError(text.to_owned());
        let trimmed = text.trim();
        let (number, factor) = UNITS
            .iter()
            .find_map(|(suffix, factor)| Some((trimmed.strip_suffix(suffix)?, *factor)))
            .ok_or_else(refuse)?;
        let number = number.trim_end();
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return Err(refuse());
        }
        let number: f64 = number.parse().map_err(|_| refuse())?;
        // Microseconds are what the store keeps; rounding to them undoes the error of the decimal fraction.
        let micros = (number * factor * 1e6).round();
        // A century is longer than anything a setting can mean, and far below what a timestamp can add.
        if micros > 100.0 * 365.25 * 86_400.0 * 1e6 {
            return Err(refuse());
        }
        Ok(Self(Duration::from_micros(micros as u64)))
    }
}

impl fmt::Display for Span {
    /// The largest unit that shows the value without a fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        if micros == 0 {
            return f.write_str("0s");
        }
        for (suffix, unit) in
            [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)]
        {
            if micros.is_multiple_of(unit) {
                return write!(f, "{}{suffix}", micros / unit);
            }
        }
        write!(f, "{}ms", micros as f64 / 1_000.0)
    }
}

impl<'de> serde::Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One setting, as `postrider config reference` shows it.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The section it is in, e.g. `delivery`.
    pub section: &'static str,
    /// Its name in the section, e.g. `request_timeout`.
    pub name: &'static str,
    /// What it does.
    pub doc: &'static str,
    /// Its default, as TOML; `None` if it has none.
    pub default: Option<String>,
}

/// Defines a section of settings: the struct, its defaults and its reference come from one list.
///
/// ```
/// postrider_domain::options! {
///     /// Things about tea.
///     pub struct TeaOptions in "tea" {
///         /// How long it steeps.
///         pub steep: postrider_domain::settings::Span = "3m".parse().unwrap(),
///     }
/// }
/// assert_eq!(TeaOptions::reference()[0].default.as_deref(), Some("\"3m\""));
/// ```
#[macro_export]
macro_rules! options {
    (
        $(#[doc = $struct_doc:literal])*
        pub struct $name:ident in $section:literal {
            $( $(#[doc = $doc:literal])* pub $field:ident : $ty:ty = $default:expr, )*
        }
    ) => {
        $(#[doc = $struct_doc])*
        #[derive(Debug, Clone, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $( $(#[doc = $doc])* pub $field: $ty, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        impl $name {
            /// Every setting of the section with its documentation and default.
            pub fn reference() -> Vec<$crate::settings::Setting> {
                let defaults = Self::default();
                vec![$( $crate::settings::Setting {
                    section: $section,
                    name: stringify!($field),
                    doc: concat!($($doc, "\n"),*),
                    default: $crate::settings::shown(&defaults.$field),
                } ),*]
            }
        }
    };
}

/// The items of a list that an environment variable holds as text: `["a","b"]` or `a,b`; blank text is the empty list.
pub fn list_items(text: &str) -> Result<Vec<String>, serde_json::Error> {
    let text = text.trim();
    if text.starts_with('[') {
        return serde_json::from_str(text);
    }
    Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
}

/// Deserialises a list of texts from a list, or from what [`list_items`] reads.
pub fn string_list<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    use serde::Deserialize as _;
    use serde::de::Error;

    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Form {
        List(Vec<String>),
        Text(String),
    }
    match Form::deserialize(deserializer)
        .map_err(|_| D::Error::custom("write a list of texts, as in [\"a\", \"b\"]"))?
    {
        Form::List(items) => Ok(items),
        Form::Text(text) => list_items(&text).map_err(D::Error::custom),
    }
}

/// A default as TOML writes it (JSON and TOML agree on what settings use); `None` for an absent one.
pub fn shown<T: serde::Serialize>(value: &T) -> Option<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::Null) | Err(_) => None,
        Ok(value) => Some(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read() {
        for (text, millis) in
            [("250ms", 250), ("5s", 5_000), ("10m", 600_000), ("2h", 7_200_000), ("5d", 432_000_000), ("0.5s", 500)]
        {
            assert_eq!(text.parse::<Span>().map(|span| span.0.as_millis()), Ok(millis), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_by_name() {
        for text in ["", "5", "-5s", "5 parsecs", "s", "1e9s", "infs", "99999999d", "1.2.3s"] {
            let error = text.parse::<Span>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_duration_is_shown_in_its_largest_whole_unit() {
        for text in ["1ms", "90s", "5m", "36h", "5d", "0s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
    }
}
