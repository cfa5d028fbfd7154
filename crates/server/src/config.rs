//! Settings: `postrider.toml`, overridden by environment variables, overridden by flags.
//!
//! Each crate defines its own section with `postrider_domain::options!`; this file puts them together and says where a
//! wrong one stands. A layered-configuration library would do the merging, but not the one thing that matters to an
//! operator: an unknown or malformed setting is one line that names the file or the variable and the nearest real name.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use postrider_api::{AuthOptions, SigningOptions};
use postrider_delivery::options::DeliveryOptions;
use postrider_domain::settings::Setting;
use postrider_upkeep::RetentionOptions;
use serde::Deserialize;
use toml::{Table, Value};

/// What environment variables of settings begin with; section and name are separated by two underscores.
const ENV_PREFIX: &str = "POSTRIDER_";

/// The file that is read if it is there and no other is named.
const DEFAULT_FILE: &str = "postrider.toml";

postrider_domain::options! {
    /// The server itself.
    pub struct ServerOptions in "server" {
        /// The address and port to listen on. Port 0 takes any free port and prints it.
        pub listen: String = "127.0.0.1:8071".to_owned(),
        /// The URL under which people reach this server, for links that are handed out. Without it, links lead to where the
        /// caller reached it.
        pub public_url: Option<String> = None,
        /// Threads that serve and deliver; 0 is one per core.
        pub threads: usize = 0,
    }
}

postrider_domain::options! {
    /// Where everything is kept.
    pub struct StoreOptions in "store" {
        /// `sqlite://` and the path of the file, relative to the folder that the server is started in.
        pub url: String = "sqlite://postrider.db".to_owned(),
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

postrider_domain::options! {
    /// The log, on standard error.
    pub struct LogOptions in "log" {
        /// What is logged: `error`, `warn`, `info`, `debug` (every attempt) or `trace`, also per module, as in
        /// `info,postrider_delivery=debug`.
        pub level: String = "info".to_owned(),
        /// `text` or `json`.
        pub format: LogFormat = LogFormat::Text,
    }
}

/// All settings.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) server: ServerOptions,
    pub(crate) store: StoreOptions,
    pub(crate) auth: AuthOptions,
    pub(crate) delivery: DeliveryOptions,
    pub(crate) signing: SigningOptions,
    pub(crate) retention: RetentionOptions,
    pub(crate) log: LogOptions,
}

/// Every setting there is, in the order of the reference.
pub(crate) fn reference() -> Vec<Setting> {
    [
        ServerOptions::reference(),
        StoreOptions::reference(),
        AuthOptions::reference(),
        DeliveryOptions::reference(),
        SigningOptions::reference(),
        RetentionOptions::reference(),
        LogOptions::reference(),
    ]
    .concat()
}

/// The environment variable of a setting.
pub(crate) fn variable(setting: &Setting) -> String {
    format!("{ENV_PREFIX}{}__{}", setting.section.to_uppercase(), setting.name.to_uppercase())
}

impl Config {
    /// Reads the settings: `file` if named (it must exist), else `postrider.toml` if there is one; then `environment`; then
    /// `flags`, as pairs of `section.name` and value.
    pub(crate) fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let known = reference();
        let mut settings = Table::new();
        if let Some((path, table)) = read_file(file)? {
            check_names(&table, &known).with_context(|| format!("in {}", path.display()))?;
            // Checked by itself first, so that a wrong value is reported with the file it stands in.
            Self::from_table(&table).with_context(|| format!("in {}", path.display()))?;
            settings = table;
        }
        for (name, value) in environment.filter(|(name, _)| name.starts_with(ENV_PREFIX) && name.contains("__")) {
            let setting = known.iter().find(|setting| variable(setting) == name).ok_or_else(|| {
                let near = nearest(&name, known.iter().map(variable));
                anyhow!("unknown setting {name} in the environment{near}: `postrider config reference` lists them all")
            })?;
            set(&mut settings, setting, &value);
            Self::from_table(&settings).with_context(|| format!("in the environment variable {name}"))?;
        }
        for (path, value) in flags {
            if let Some(setting) = known.iter().find(|setting| format!("{}.{}", setting.section, setting.name) == *path)
            {
                set(&mut settings, setting, value);
            }
        }
        Self::from_table(&settings)
    }

    fn from_table(table: &Table) -> anyhow::Result<Self> {
        // `Value`'s own errors name the key's path; only the first line is for people.
        Config::deserialize(Value::Table(table.clone())).map_err(|error| anyhow!("{}", one_line(&error.to_string())))
    }

    /// The path of the store's file.
    pub(crate) fn sqlite_path(&self) -> anyhow::Result<PathBuf> {
        let url = &self.store.url;
        let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")).ok_or_else(|| {
            anyhow!("store.url is '{url}', which this version cannot open: write sqlite:// and a path, as in sqlite://postrider.db")
        })?;
        if path.is_empty() {
            bail!("store.url names no file: write sqlite:// and a path, as in sqlite://postrider.db");
        }
        Ok(path.into())
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn read_file(named: Option<&Path>) -> anyhow::Result<Option<(PathBuf, Table)>> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => bail!("cannot read the settings in {}: {error}", path.display()),
    };
    let table = text.parse::<Table>().map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        anyhow!("{}, line {line}: {}", path.display(), one_line(error.message()))
    })?;
    Ok(Some((path.to_owned(), table)))
}

fn check_names(table: &Table, known: &[Setting]) -> anyhow::Result<()> {
    for (section, value) in table {
        if !known.iter().any(|setting| setting.section == section) {
            let near = nearest(section, known.iter().map(|setting| setting.section.to_owned()));
            bail!("unknown section [{section}]{near}: `postrider config reference` lists them all");
        }
        let Some(entries) = value.as_table() else { bail!("[{section}] must be a section") };
        let names = || known.iter().filter(|setting| setting.section == section).map(|setting| setting.name.to_owned());
        if let Some(unknown) = entries.keys().find(|name| !names().any(|known| known == **name)) {
            let near = nearest(unknown, names());
            bail!("unknown setting {section}.{unknown}{near}: `postrider config reference` lists them all");
        }
    }
    Ok(())
}

/// Sets a setting from text, as environment variables and flags hold it. Its default says what kind of value it is.
fn set(settings: &mut Table, setting: &Setting, text: &str) {
    let is_text = setting.default.as_deref().is_none_or(|default| default.starts_with(['"', '[', '{']));
    let parsed = if is_text {
        None
    } else {
        text.parse::<i64>().map(Value::from).ok().or_else(|| text.parse().map(Value::Boolean).ok())
    };
    let section = settings.entry(setting.section).or_insert_with(|| Value::Table(Table::new()));
    if let Some(section) = section.as_table_mut() {
        section.insert(setting.name.to_owned(), parsed.unwrap_or_else(|| Value::from(text)));
    }
}

/// The known name that looks most like `name`, as a suggestion.
fn nearest(name: &str, known: impl Iterator<Item = String>) -> String {
    let best = known.map(|candidate| (strsim::normalized_damerau_levenshtein(name, &candidate), candidate));
    best.max_by(|(a, _), (b, _)| a.total_cmp(b))
        .filter(|(likeness, _)| *likeness > 0.6)
        .map_or_else(String::new, |(_, candidate)| format!(" (did you mean {candidate}?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(toml: &str, environment: &[(&str, &str)]) -> anyhow::Result<Config> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("postrider.toml");
        std::fs::write(&path, toml)?;
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(Some(&path), environment, &[])
    }

    fn problem(toml: &str, environment: &[(&str, &str)]) -> String {
        let text = format!("{:#}", load(toml, environment).expect_err("should be refused"));
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let config = load(
            "[delivery]\nrequest_timeout = \"5s\"\nconcurrency = 3\nretry_schedule = [\"1s\"]",
            &[
                ("POSTRIDER_DELIVERY__CONCURRENCY", "7"),
                ("POSTRIDER_DELIVERY__RETRY_SCHEDULE", "[\"5s\",\"5m\"]"),
                ("POSTRIDER_DELIVERY__ALLOW_SUBNETS", "127.0.0.0/8,::1"),
                ("POSTRIDER_AUTH__JWT_SECRET", "12345"),
                ("POSTRIDER_LOG", "ignored: it names no setting"),
            ],
        )
        .unwrap();
        assert_eq!(config.delivery.concurrency, 7);
        assert_eq!(config.delivery.request_timeout.0.as_secs(), 5);
        assert_eq!(config.delivery.retry_schedule.wait_after(2).unwrap().as_secs(), 300);
        assert_eq!(config.delivery.allow_subnets.0.len(), 2);
        assert!(config.auth.jwt_secret.is_some());
    }

    #[test]
    fn an_unknown_setting_is_named_with_its_place_and_the_nearest_real_one() {
        let text = problem("[delivery]\nrequest_timout = \"5s\"", &[]);
        assert!(text.contains("delivery.request_timout") && text.contains("request_timeout"), "{text}");
        let text = problem("[delivry]\n", &[]);
        assert!(text.contains("[delivry]") && text.contains("delivery"), "{text}");
        let text = problem("", &[("POSTRIDER_SERVER__LISTN", "x")]);
        assert!(text.contains("POSTRIDER_SERVER__LISTN") && text.contains("POSTRIDER_SERVER__LISTEN?"), "{text}");
    }

    #[test]
    fn a_malformed_value_is_named_with_its_place() {
        let text = problem("[delivery]\nrequest_timeout = \"5 parsecs\"", &[]);
        assert!(text.contains("postrider.toml") && text.contains("5 parsecs"), "{text}");
        let text = problem("", &[("POSTRIDER_DELIVERY__CONCURRENCY", "many")]);
        assert!(text.contains("POSTRIDER_DELIVERY__CONCURRENCY"), "{text}");
        let text = problem("[delivery\n", &[]);
        assert!(text.contains("line 1"), "{text}");
    }

    #[test]
    fn only_sqlite_urls_name_a_store() {
        let path = |url: &str| {
            let store = StoreOptions { url: url.to_owned() };
            Config { store, ..Config::default() }.sqlite_path()
        };
        assert_eq!(path("sqlite:///var/lib/p.db").unwrap(), Path::new("/var/lib/p.db"));
        assert_eq!(path("sqlite://p.db").unwrap(), Path::new("p.db"));
        for url in ["p.db", "sqlite://", "postgres://localhost/p", ""] {
            assert!(path(url).is_err(), "{url}");
        }
    }
}
