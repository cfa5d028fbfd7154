//! How settings are written: durations as `250ms`, `5s`, `2h`, `5d`, and a table of settings with their documentation,
//! range and rules, so that the reference is printed from the place where a setting is defined.
//!
//! [`Setting::check`] is the one rule for the values of all settings, wherever they come from.

use icu_properties::props::{BinaryProperty as _, DefaultIgnorableCodePoint};
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

/// A secret from the settings. It is never blank, and neither `Debug` nor serialisation shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

/// A secret is blank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a secret cannot be blank")]
pub struct BlankSecret;

/// What is shown instead of a secret.
pub const MASK: &str = "********";

impl SecretText {
    /// This text as a secret.
    pub fn try_new(text: String) -> Result<Self, BlankSecret> {
        if text.trim().is_empty() { Err(BlankSecret) } else { Ok(Self(text)) }
    }

    /// The secret itself, of which there is at least one byte.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

impl serde::Serialize for SecretText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

impl<'de> serde::Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The values that a number or a duration may have, both ends included, as settings write them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The least.
    pub low: String,
    /// The greatest.
    pub high: String,
}

/// A rule of one setting's own for its text.
pub type TextRule = fn(&str) -> Result<(), String>;

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
    /// The range of a number or duration, also of each one in a list.
    pub range: Option<Range>,
    /// What else its text must be.
    pub rule: Option<TextRule>,
    /// Whether it is a [`SecretText`].
    pub secret: bool,
}

impl Setting {
    /// `section.name`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// Whether its value is shown to nobody. A text whose name sounds like a secret is one, even if its type forgot.
    pub fn is_secret(&self) -> bool {
        let sounds = |word: &&str| self.name.split('_').any(|part| part.trim_end_matches('s') == *word);
        let is_text = self.default.as_deref().is_none_or(|default| default.starts_with('"'));
        self.secret || (is_text && SECRET_WORDS.iter().any(sounds))
    }

    /// What is wrong with a value, as words that follow the setting's name; never what a secret is.
    ///
    /// One rule for all: nothing is blank, has characters that nobody sees, or is out of its range.
    pub fn check(&self, value: &serde_json::Value) -> Result<(), String> {
        use serde_json::Value;
        match value {
            Value::String(text) => self.check_text(text),
            _ if self.is_secret() => Err("must be a text".to_owned()),
            Value::Array(items) if self.is_list() => items.iter().try_for_each(|item| self.check_item(item)),
            // A range says what numbers a text may stand for: a number without a unit is told that it lacks one.
            _ if self.range.is_none() && self.default.as_deref().is_some_and(|default| default.starts_with('"')) => {
                Err(format!("must be a text in quotes, as is {}", self.without()))
            }
            Value::Number(number) => self.check_number(number),
            _ => Ok(()),
        }
    }

    fn check_item(&self, item: &serde_json::Value) -> Result<(), String> {
        match item {
            serde_json::Value::String(text) => {
                visible(text).map_err(|problem| format!("has an item that {problem}"))?;
                self.check_range(text)
            }
            // A list without a range may hold numbers, too: its type says what they mean.
            serde_json::Value::Number(_) if self.range.is_none() => Ok(()),
            _ => Err("must be a list of texts, as in [\"a\", \"b\"]".to_owned()),
        }
    }

    fn check_text(&self, text: &str) -> Result<(), String> {
        visible(text).map_err(|problem| match problem {
            Unseen::Blank => format!("{problem}: leave it out for {}", self.without()),
            _ => problem.to_string(),
        })?;
        if self.is_list() {
            let items = if text.starts_with('[') {
                serde_json::from_str::<Vec<serde_json::Value>>(text).map_err(|_| ParseListError::Json.to_string())?
            } else {
                let items = list_items(text).map_err(|error| error.to_string())?;
                items.into_iter().map(serde_json::Value::from).collect()
            };
            return items.iter().try_for_each(|item| self.check_item(item));
        }
        self.check_range(text)?;
        self.rule.map_or(Ok(()), |rule| rule(text))
    }

    fn check_range(&self, text: &str) -> Result<(), String> {
        let Some(range) = &self.range else { return Ok(()) };
        if let (Ok(low), Ok(high)) = (range.low.parse::<Span>(), range.high.parse::<Span>()) {
            let value: Span = text.parse().map_err(|error: ParseSpanError| format!("is wrong: {error}"))?;
            return range.admit(&value, low <= value && value <= high);
        }
        let wrong = || format!("must be a whole number from {range}, not '{text}'");
        text.parse::<u64>().map_err(|_| wrong()).and_then(|value| self.check_number(&value.into()))
    }

    fn check_number(&self, number: &serde_json::Number) -> Result<(), String> {
        let Some(range) = &self.range else { return Ok(()) };
        let (Ok(low), Ok(high)) = (range.low.parse::<u64>(), range.high.parse::<u64>()) else {
            return Err(format!("needs a unit: write {number}s, or another one of ms, s, m, h, d"));
        };
        range.admit(number, number.as_u64().is_some_and(|value| low <= value && value <= high))
    }

    fn is_list(&self) -> bool {
        self.default.as_deref().is_some_and(|default| default.starts_with('['))
    }

    /// What holds if it is left out.
    fn without(&self) -> String {
        self.default.as_ref().map_or("none".to_owned(), |default| format!("its default, {default}"))
    }
}

/// Words in the name of a text setting that make it a secret.
const SECRET_WORDS: [&str; 6] = ["secret", "key", "token", "password", "passphrase", "credential"];

impl Range {
    fn admit(&self, value: &impl fmt::Display, admitted: bool) -> Result<(), String> {
        if admitted { Ok(()) } else { Err(format!("must be from {self}, not {value}")) }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.low, self.high)
    }
}

/// Why a text is not what it looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unseen {
    /// There is nothing to see.
    #[error("is blank")]
    Blank,
    /// A line end, a control character, or another one without a shape.
    #[error(
        "has a character that cannot be seen (U+{0:04X}, as character {1}): was a line end or a control character pasted?"
    )]
    Character(u32, usize),
    /// White space that nobody meant.
    #[error("begins or ends with white space")]
    Edges,
}

/// Refuses a text that is blank, or that has anything in it that a reader does not see.
pub fn visible(text: &str) -> Result<(), Unseen> {
    if text.trim().is_empty() {
        return Err(Unseen::Blank);
    }
    if let Some((at, letter)) = text.chars().enumerate().find(|(_, letter)| is_unseen(*letter)) {
        return Err(Unseen::Character(letter.into(), at + 1));
    }
    if text.trim() != text { Err(Unseen::Edges) } else { Ok(()) }
}

/// Control characters, separators of lines, what Unicode says is shown as nothing (`Default_Ignorable_Code_Point`: marks without
/// width or that turn the direction of what follows, fillers, selectors of variants), and the pattern of Braille without dots.
pub fn is_unseen(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{2800}')
        || DefaultIgnorableCodePoint::for_char(letter)
}

/// Defines a section of settings: the struct, its defaults, its rules and its reference come from one list.
///
/// Every number and duration has its range (`#[within(low, high)]`, both included; for a list, of each item). A text can
/// have a rule of its own (`#[rule(function)]`, a [`TextRule`]).
///
/// ```
/// postrider_domain::options! {
///     /// Things about tea.
///     pub struct TeaOptions in "tea" {
///         /// How long it steeps.
///         #[within("1s", "10m")]
///         pub steep: postrider_domain::settings::Span = "3m".parse().unwrap(),
///     }
/// }
/// let steep = &TeaOptions::reference()[0];
/// assert_eq!(steep.default.as_deref(), Some("\"3m\""));
/// assert_eq!(steep.check(&"1h".into()).unwrap_err(), "must be from 1s to 10m, not 1h");
/// ```
#[macro_export]
macro_rules! options {
    (
        $(#[doc = $struct_doc:literal])*
        pub struct $name:ident in $section:literal {
            $(
                $(#[doc = $doc:literal])*
                $(#[within($low:expr, $high:expr)])?
                $(#[rule($rule:path)])?
                pub $field:ident : $ty:ty = $default:expr,
            )*
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
                vec![$(
                    #[allow(unused_mut, unused_assignments, reason = "not every setting has all of them")]
                    {
                        let mut range = None;
                        $( range = Some($crate::settings::Range { low: $low.to_string(), high: $high.to_string() }); )?
                        let mut rule: Option<$crate::settings::TextRule> = None;
                        $( rule = Some($rule); )?
                        $crate::settings::Setting {
                            section: $section,
                            name: stringify!($field),
                            doc: concat!($($doc, "\n"),*),
                            default: $crate::settings::shown(&defaults.$field),
                            range,
                            rule,
                            secret: std::any::type_name::<$ty>().contains("SecretText"),
                        }
                    }
                ),*]
            }
        }
    };
}

/// The text is not a list.
#[derive(Debug, thiserror::Error)]
pub enum ParseListError {
    /// It begins like JSON and is none.
    #[error("is not a list: write it as in [\"a\", \"b\"] or a,b")]
    Json,
    /// There is nothing between two commas, or nothing at all.
    #[error("has a blank item: write it as in a,b, or [] for an empty list")]
    Blank,
}

/// The items of a list that an environment variable holds as text: `["a","b"]` or `a,b`. Only `[]` is the empty list.
pub fn list_items(text: &str) -> Result<Vec<String>, ParseListError> {
    let text = text.trim();
    if text.starts_with('[') {
        return serde_json::from_str(text).map_err(|_| ParseListError::Json);
    }
    let items: Vec<_> = text.split(',').map(|item| item.trim().to_owned()).collect();
    if items.iter().any(String::is_empty) { Err(ParseListError::Blank) } else { Ok(items) }
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
#[expect(unreachable_pub, reason = "the macro makes its structs public")]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_sees_is_refused_wherever_in_unicode_it_is() {
        for unseen in "\u{0}\u{7f}\u{85}\u{ad}\u{34f}\u{61c}\u{115f}\u{1160}\u{17b4}\u{180e}\u{200b}\u{200f}\u{2028}\u{202e}\u{2060}\u{2069}\u{206f}\u{2800}\u{3164}\u{fe0f}\u{feff}\u{ffa0}\u{1d173}\u{e0041}\u{e01ef}".chars() {
            let problem = visible(&format!("a{unseen}b"));
            assert!(matches!(problem, Err(Unseen::Character(code, 2)) if code == u32::from(unseen)), "{:x}", u32::from(unseen));
        }
        for seen in ["a b", "Ünïcödé", "日本語", "한국어", "עברית", "é", "e\u{301}", "😀", "a\u{a0}b"]
        {
            assert!(visible(seen).is_ok(), "{seen}");
        }
    }

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

    crate::options! {
        /// For the tests.
        pub struct Tea in "tea" {
            /// How long it steeps.
            #[within("1s", "10m")]
            pub steep: Span = Span(Duration::from_secs(180)),
            /// How many cups.
            #[within(1, 12)]
            pub cups: u32 = 2,
            /// When to stir.
            #[within("1s", "1m")]
            pub stir: Vec<Span> = Vec::new(),
            /// What it is called.
            #[rule(no_coffee)]
            pub name: String = "green".to_owned(),
            /// What opens the cupboard.
            pub cupboard: Option<SecretText> = None,
            /// What opens the cupboard, forgetful.
            pub cupboard_key: Option<String> = None,
            /// Whether a short key will do.
            pub allow_short_secret: bool = false,
        }
    }

    fn no_coffee(text: &str) -> Result<(), String> {
        if text == "coffee" { Err("is no tea".to_owned()) } else { Ok(()) }
    }

    fn problem(name: &str, value: impl Into<serde_json::Value>) -> Option<String> {
        let settings = Tea::reference();
        let setting = settings.iter().find(|setting| setting.name == name).unwrap();
        setting.check(&value.into()).err()
    }

    #[test]
    fn a_value_out_of_its_range_is_refused_with_the_range() {
        for (name, value) in [
            ("steep", serde_json::json!("0s")),
            ("steep", "11m".into()),
            ("cups", 0.into()),
            ("cups", (-1).into()),
            ("cups", 13.into()),
            ("cups", 1.5.into()),
            ("cups", "0".into()),
            ("cups", "many".into()),
            ("stir", "1s,2m".into()),
            ("stir", serde_json::json!(["2m"])),
        ] {
            let problem = problem(name, value.clone()).unwrap_or_else(|| panic!("{name} {value}"));
            assert!(problem.contains(" to "), "{problem}");
        }
        for (name, value) in
            [("steep", serde_json::json!("1s")), ("steep", "10m".into()), ("cups", 12.into()), ("stir", "[]".into())]
        {
            assert_eq!(problem(name, value), None);
        }
        assert!(problem("steep", 5).unwrap().contains("unit"));
    }

    #[test]
    fn a_value_that_is_blank_or_has_what_nobody_sees_is_refused() {
        for name in ["steep", "cups", "stir", "name", "cupboard", "cupboard_key"] {
            for blank in ["", " ", "\t", "\u{a0}"] {
                assert!(problem(name, blank).is_some_and(|text| text.contains("blank")), "{name} {blank:?}");
            }
            for hidden in ["1\n", "a\rb", "a\u{0}", "\u{feff}a", "a\u{85}", "a\u{202e}b", " a", "a "] {
                assert!(problem(name, hidden).is_some(), "{name} {hidden:?}");
            }
        }
        for blank in [",", "1s,", ",1s", "1s,,2s"] {
            assert!(problem("stir", blank).unwrap().contains("blank"), "{blank}");
        }
        assert!(problem("stir", serde_json::json!([""])).is_some());
    }

    #[test]
    fn a_secret_is_known_by_its_type_or_its_name_and_never_shown() {
        let secrets: Vec<_> =
            Tea::reference().into_iter().filter(Setting::is_secret).map(|setting| setting.name).collect();
        assert_eq!(secrets, ["cupboard", "cupboard_key"]);
        assert!(!problem("cupboard_key", 4711).unwrap().contains("4711"));
        let secret = SecretText::try_new("hunter2".to_owned()).unwrap();
        assert!(!format!("{secret:?}{}", serde_json::to_string(&secret).unwrap()).contains("hunter2"));
        assert!(SecretText::try_new(" ".to_owned()).is_err());
    }

    #[test]
    fn a_rule_of_its_own_is_kept() {
        assert_eq!(problem("name", "coffee").as_deref(), Some("is no tea"));
        assert_eq!(problem("name", "black"), None);
    }
}
