//! Where the values of settings come from, and the one place where all of them are checked.
//!
//! Guarantees: every value is checked where it stands, so each problem names its source (file and line, variable or flag);
//! all problems are found at once; what is secret is in none of them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use postrider_domain::settings::{MASK, Setting, list_items};
use serde::Deserialize as _;
use toml::{Table, Value};

use super::{Config, reference, variable};
use crate::terminal::harmless;

/// What environment variables of settings begin with; section and name are separated by two underscores.
pub(super) const ENV_PREFIX: &str = "POSTRIDER_";

/// Variables that are no settings of the server: what clients and the other commands take.
pub(crate) const OTHER_VARIABLES: [(&str, &str); 3] = [
    ("POSTRIDER_URL", "where the server is, for clients as in the guides"),
    ("POSTRIDER_TOKEN", "an API key or token, for clients as in the guides and for `postrider bench --url`"),
    (
        "POSTRIDER_ENDPOINT_SECRET",
        "an endpoint's secret: what `postrider send` signs and `postrider listen` verifies with",
    ),
];

/// The file that is read if it is there and no other is named.
const DEFAULT_FILE: &str = "postrider.toml";

/// A larger file holds no settings.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A secret with fewer bytes can be guessed.
pub(super) const SECRET_BYTES: usize = 32;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Default,
    File { path: PathBuf, line: usize },
    Variable(String),
    Flag(&'static str),
}

impl Source {
    /// What kind of place it is, for programs.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File { .. } => "file",
            Self::Variable(_) => "variable",
            Self::Flag(_) => "flag",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}, line {line}", harmless(&path.to_string_lossy())),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A flag that sets a setting.
#[derive(Debug, Clone)]
pub(crate) struct Flag {
    /// Which, as `section.name`.
    pub(crate) setting: &'static str,
    /// How it is typed, e.g. `--listen`.
    pub(crate) flag: &'static str,
    /// What was given, if anything.
    pub(crate) value: Option<String>,
}

/// A setting with the value that holds. `Debug` shows what [`Valued::shown`] does.
#[derive(Clone)]
pub(crate) struct Valued {
    pub(crate) setting: Setting,
    pub(crate) source: Source,
    value: Option<Value>,
}

impl fmt::Debug for Valued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} ({})", self.setting.path(), self.shown(), self.source)
    }
}

impl Valued {
    /// The value as JSON, for people to see: what is secret is masked; null if there is none.
    pub(crate) fn shown(&self) -> serde_json::Value {
        let value = match &self.value {
            Some(_) if self.setting.is_secret() => return MASK.into(),
            Some(value) => as_json(value),
            None => {
                self.setting.default.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
            }
        };
        let is_list = self.setting.default.as_deref().is_some_and(|default| default.starts_with('['));
        match value.as_str().filter(|_| is_list).map(list_items) {
            Some(Ok(items)) => items.into(),
            _ => value,
        }
    }
}

/// All settings as they hold.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// Each with its source, in the order of the reference.
    pub(crate) values: Vec<Valued>,
}

/// Everything that is wrong with the settings, a line each. There is at least one.
#[derive(Debug)]
pub(crate) struct Problems(pub(crate) Vec<String>);

impl fmt::Display for Problems {
    /// One line: the first, and how many more there are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.first().map_or("", String::as_str))?;
        match self.0.len() {
            0 | 1 => Ok(()),
            all => write!(f, "; and {} more: `postrider config check` lists them", all - 1),
        }
    }
}

impl std::error::Error for Problems {}

/// Reads the settings: `file` if named (it must exist), else `postrider.toml` if there is one; then `environment`; then
/// `flags`.
pub(crate) fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    flags: &[Flag],
) -> Result<Loaded, Problems> {
    let mut loader = Loader { known: reference(), values: BTreeMap::new(), problems: Vec::new() };
    if let Err(problem) = loader.file(file) {
        loader.problems.push(problem);
    }
    loader.environment(environment);
    loader.flags(flags);
    loader.finish()
}

struct Loader {
    known: Vec<Setting>,
    /// By place in the reference.
    values: BTreeMap<usize, (Value, Source)>,
    problems: Vec<String>,
}

impl Loader {
    fn file(&mut self, named: Option<&Path>) -> Result<(), String> {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        let shown = harmless(&path.to_string_lossy()).into_owned();
        let bytes = match read_file(path) {
            Ok(bytes) => bytes,
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(format!("cannot read the settings in {shown}: {}", why_unread(path, named, &error)));
            }
        };
        let text = String::from_utf8(bytes).map_err(|error| {
            let line = line_of(error.as_bytes(), error.utf8_error().valid_up_to());
            format!("{shown}, line {line}: this is not UTF-8 text")
        })?;
        let table = text.parse::<Table>().map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(text.as_bytes(), span.start));
            // The message does not name the key.
            let key = error.span().filter(|_| error.message() == "duplicate key").and_then(|span| text.get(span));
            match key {
                Some(key) => format!(
                    "{shown}, line {line}: {} is there a second time; merge the two, so that each section and each setting stands once",
                    harmless(&one_line(key))
                ),
                None => format!("{shown}, line {line}: {}", one_line(error.message())),
            }
        })?;
        let lines = Lines::of(&text);
        for (section, entries) in table {
            self.section(path, &lines, &section, entries);
        }
        Ok(())
    }

    fn section(&mut self, path: &Path, lines: &Lines, section: &str, entries: Value) {
        let at = |name: Option<&str>| Source::File { path: path.to_owned(), line: lines.find(section, name) };
        let Value::Table(entries) = entries else {
            if let Some(meant) = self.known.iter().find(|setting| setting.name == section) {
                let problem = format!(
                    "{section} stands outside of all sections ({}): did you mean [{}] {section}?",
                    at(None),
                    meant.section
                );
                return self.problems.push(problem);
            }
            let problem = format!("[{}] must be a section ({})", harmless(section), at(None));
            return self.problems.push(problem);
        };
        if !self.known.iter().any(|setting| setting.section == section) {
            let near = nearest(section, self.known.iter().map(|setting| setting.section.to_owned()));
            return self.unknown(&format!("section [{section}]"), &near, &at(None));
        }
        for (name, value) in entries {
            let source = at(Some(&name));
            match self.known.iter().position(|setting| setting.section == section && setting.name == name) {
                Some(index) => self.take(index, value, source),
                None => {
                    let names = self.known.iter().filter(|setting| setting.section == section);
                    let near = nearest(&name, names.map(|setting| setting.name.to_owned()));
                    self.unknown(&format!("setting {section}.{name}"), &near, &source);
                }
            }
        }
    }

    fn environment(&mut self, environment: impl Iterator<Item = (OsString, OsString)>) {
        let mut variables: Vec<_> = environment.filter(|(name, _)| is_ours(name)).collect();
        variables.sort();
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            let index = self.known.iter().position(|setting| variable(setting) == name);
            match (index, value.into_string()) {
                (_, Err(_)) => self.problems.push(not_utf8(&name)),
                (Some(index), Ok(text)) => {
                    let value = parse(&self.known[index], text);
                    self.take(index, value, Source::Variable(name));
                }
                (None, Ok(text)) if is_for_others(&name, &text) => {}
                (None, Ok(_)) => {
                    let others = OTHER_VARIABLES.iter().map(|(name, _)| (*name).to_owned());
                    let name_meant = name.to_ascii_uppercase();
                    // What all of them begin with makes none of them alike.
                    let alike =
                        |other: &String| likeness(&name_meant[ENV_PREFIX.len()..], &other[ENV_PREFIX.len()..]) > 0.4;
                    let near = nearest(&name_meant, self.known.iter().map(variable).chain(others).filter(alike));
                    self.unknown("setting", &near, &Source::Variable(harmless(&name).into_owned()));
                }
            }
        }
    }

    fn flags(&mut self, flags: &[Flag]) {
        for Flag { setting, flag, value } in flags {
            let index = self.known.iter().position(|known| known.path() == *setting);
            if let (Some(index), Some(text)) = (index, value) {
                let value = parse(&self.known[index], text.clone());
                self.take(index, value, Source::Flag(flag));
            }
        }
    }

    fn unknown(&mut self, what: &str, near: &str, source: &Source) {
        let what = harmless(what);
        self.problems.push(format!("unknown {what} ({source}){near}: `postrider config reference` lists them all"));
    }

    /// Checks a value where it stands, and lets it override what was before.
    fn take(&mut self, index: usize, value: Value, source: Source) {
        let setting = &self.known[index];
        match setting.check(&as_json(&value)).and_then(|()| check_type(setting, &value)) {
            Ok(()) => drop(self.values.insert(index, (value, source))),
            Err(problem) => {
                let problem = format!("{} {problem} ({source})", setting.path());
                self.problems.push(harmless(&one_line(&problem)).into_owned());
            }
        }
    }

    fn finish(mut self) -> Result<Loaded, Problems> {
        self.check_lengths();
        let mut table = Table::new();
        for (index, (value, _)) in &self.values {
            put(&mut table, &self.known[*index], value.clone());
        }
        let config = Config::deserialize(Value::Table(table)).map_err(|error| one_line(&error.to_string()));
        match config {
            Ok(config) if self.problems.is_empty() => Ok(Loaded { config, values: self.valued() }),
            Ok(_) => Err(Problems(self.problems)),
            Err(problem) => Err(Problems(self.problems.into_iter().chain([problem]).collect())),
        }
    }

    fn valued(mut self) -> Vec<Valued> {
        let values = self.known.into_iter().enumerate().map(|(index, setting)| {
            let (value, source) =
                self.values.remove(&index).map_or((None, Source::Default), |(value, source)| (Some(value), source));
            Valued { setting, source, value }
        });
        values.collect()
    }

    /// A secret that can be guessed is none, unless the operator says that it will do.
    fn check_lengths(&mut self) {
        let allowed = self.known.iter().position(|setting| setting.path() == "auth.allow_short_secret");
        if allowed.and_then(|index| self.values.get(&index)).is_some_and(|(value, _)| value.as_bool() == Some(true)) {
            return;
        }
        for (index, (value, source)) in &self.values {
            let setting = &self.known[*index];
            let bytes = value.as_str().map_or(0, str::len);
            if setting.is_secret() && bytes < SECRET_BYTES {
                self.problems.push(format!(
                    "{} has {bytes} bytes and must have {SECRET_BYTES} or more, or it can be guessed ({source}): \
                     `openssl rand -hex 32` makes a good one; to try things out, auth.allow_short_secret = true takes it",
                    setting.path()
                ));
            }
        }
    }
}

/// Whether the value is one that the setting's type takes.
fn check_type(setting: &Setting, value: &Value) -> Result<(), String> {
    let mut table = Table::new();
    put(&mut table, setting, value.clone());
    match Config::deserialize(Value::Table(table)) {
        Ok(_) => Ok(()),
        Err(_) if setting.is_secret() => Err("is no secret that can be used".to_owned()),
        // Only the first line is for people; the path that follows is said already.
        Err(error) => Err(format!("is wrong: {}", in_plain_words(error.message()))),
    }
}

/// What the reader of a file says, without the names that types have in Rust.
fn in_plain_words(message: &str) -> String {
    let mut plain = message.replace("expected a boolean", "expected true or false");
    for number in ["usize", "u64", "u32", "u16", "u8", "i64", "f64"] {
        plain = plain.replace(&format!("expected {number}"), "expected a number");
    }
    plain
}

fn put(table: &mut Table, setting: &Setting, value: Value) {
    let section = table.entry(setting.section).or_insert_with(|| Value::Table(Table::new()));
    if let Some(section) = section.as_table_mut() {
        section.insert(setting.name.to_owned(), value);
    }
}

/// A value from text, as environment variables and flags hold it. Its default says what kind of value it is; without one, its
/// range does.
fn parse(setting: &Setting, text: String) -> Value {
    let is_text = match (&setting.default, &setting.range) {
        (Some(default), _) => default.starts_with(['"', '[', '{']),
        (None, Some(range)) => range.low.parse::<u64>().is_err(),
        (None, None) => true,
    };
    let parsed = if is_text {
        None
    } else {
        text.parse::<i64>().map(Value::from).ok().or_else(|| text.parse().map(Value::Boolean).ok())
    };
    parsed.unwrap_or(Value::String(text))
}

fn as_json(value: &Value) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Why a file with settings could not be read, and what to do.
pub(super) fn why_unread(path: &Path, named: Option<&Path>, error: &std::io::Error) -> String {
    if error.kind() != std::io::ErrorKind::PermissionDenied {
        return error.to_string();
    }
    let user = rustix::process::geteuid().as_raw();
    match std::fs::metadata(path) {
        Ok(found) => format!(
            "it belongs to the user {} and the group {} with the mode {:04o}, and this is the user {user}, who may not read it",
            found.uid(),
            found.gid(),
            found.mode() & 0o7777
        ),
        Err(_) if named.is_none() => {
            format!("the user {user} may not enter this folder: give --config, or start it in another folder")
        }
        Err(_) => format!("the user {user} may not enter its folder, or one above that"),
    }
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if read as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other("it is larger than 1 MiB"));
    }
    Ok(bytes)
}

/// The line at a place in a text, from 1.
fn line_of(text: &[u8], at: usize) -> usize {
    text.iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

/// In which lines of a file sections and settings are.
struct Lines(BTreeMap<(String, Option<String>), usize>);

impl Lines {
    /// The text was parsed before; what cannot be found is in line 1.
    fn of(text: &str) -> Self {
        use toml::de::{DeTable, DeValue};

        let mut lines = BTreeMap::new();
        if let Ok(table) = DeTable::parse(text) {
            for (section, entries) in table.get_ref() {
                let name = section.get_ref().to_string();
                lines.insert((name.clone(), None), line_of(text.as_bytes(), section.span().start));
                let DeValue::Table(entries) = entries.get_ref() else { continue };
                for key in entries.keys() {
                    lines.insert(
                        (name.clone(), Some(key.get_ref().to_string())),
                        line_of(text.as_bytes(), key.span().start),
                    );
                }
            }
        }
        Self(lines)
    }

    fn find(&self, section: &str, name: Option<&str>) -> usize {
        self.0.get(&(section.to_owned(), name.map(str::to_owned))).copied().unwrap_or(1)
    }
}

/// Whether a variable's name says that it is meant for this program, in whatever case.
pub(crate) fn is_ours(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    bytes.get(..ENV_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(ENV_PREFIX.as_bytes()))
}

/// What is said of a variable whose value is not UTF-8.
pub(crate) fn not_utf8(name: &str) -> String {
    format!("the environment variable {} is not UTF-8 text", harmless(name))
}

/// Whether a variable is for clients, for other commands, or one that Kubernetes makes for a service named after us.
fn is_for_others(name: &str, value: &str) -> bool {
    let is_link = name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || ((name.ends_with("_PORT") || name.contains("_PORT_")) && value.contains("://"))
        || ["_PROTO", "_ADDR", "_PORT"].iter().any(|end| name.contains("_PORT_") && name.ends_with(end));
    is_link || OTHER_VARIABLES.iter().any(|(other, _)| *other == name)
}

/// How alike two names are: 1 is the same.
fn likeness(one: &str, other: &str) -> f64 {
    strsim::normalized_damerau_levenshtein(one, other)
}

/// The known name that looks most like `name`, as a suggestion.
fn nearest(name: &str, known: impl Iterator<Item = String>) -> String {
    let best = known.map(|candidate| (likeness(name, &candidate), candidate));
    best.max_by(|(a, _), (b, _)| a.total_cmp(b))
        .filter(|(likeness, _)| *likeness > 0.6)
        .map_or_else(String::new, |(_, candidate)| format!(" (did you mean {candidate}?)"))
}
