//! Settings: `postrider.toml`, overridden by environment variables, overridden by flags.
//!
//! Each crate defines its own section with `postrider_domain::options!`; this file puts them together and says where a
//! wrong one stands. A layered-configuration library would do the merging, but not the one thing that matters to an
//! operator: an unknown or malformed setting is one line that names the file or the variable and the nearest real name.

mod load;
mod rules;
mod warnings;

use std::path::PathBuf;

use anyhow::{anyhow, bail};
use postrider_api::{AuthOptions, SigningOptions};
use postrider_delivery::options::DeliveryOptions;
use postrider_domain::settings::{Setting, Span};
use postrider_ingest::{LimitOptions, SchemaOptions};
use postrider_upkeep::RetentionOptions;
use serde::Deserialize;

pub(crate) use load::{Flag, Loaded, OTHER_VARIABLES, Problems, Valued, is_ours, load, not_utf8};
pub(crate) use rules::log_filter;
use rules::{listen_address, log_level, public_url, store_url};
pub(crate) use warnings::{readable_secret, warnings};

fn span(text: &str) -> Span {
    text.parse().unwrap_or(Span(std::time::Duration::ZERO))
}

postrider_domain::options! {
    /// The server itself.
    pub struct ServerOptions in "server" {
        /// The address and port to listen on. Port 0 takes any free port and prints it.
        #[rule(listen_address)]
        pub listen: String = "127.0.0.1:8071".to_owned(),
        /// The URL under which people reach this server, for links that are handed out. Without it, links lead to where the
        /// caller reached it.
        #[rule(public_url)]
        pub public_url: Option<String> = None,
        /// Threads that serve, and as many that deliver; 0 is one per core each. Those that deliver give way to those that serve while
        /// processors are short.
        #[within(0, 1_024)]
        pub threads: usize = 0,
        /// The most connections of callers. When there are as many, the server makes room for a new one; it closes, in this order:
        ///
        /// 1. an unauthenticated one, which was last used without a good token, or on which no request came for a second: of the
        ///    address that has most, the one for which that has been so for longest. (A request that was responded to before its
        ///    body came counts as unauthenticated until that has come.)
        /// 2. an idle one, which a known caller has not used for ten seconds;
        /// 3. a slow one of a known caller, whose body does not come or whose response is not read;
        /// 4. the new one itself.
        ///
        /// Before 2 and 3, if another address has more connections than the one that would be closed, a request of that address
        /// whose caller is not known yet gets 503, or a new connection of it is closed. What a known caller has just used goes
        /// last, but for new connections of an address that has fewer, and for new connections and requests whose caller is not
        /// known yet while they are few (6 % each). The setting is lowered to fit the limit on open files.
        #[within(1, 1_000_000)]
        pub max_connections: u32 = 2048,
        /// The most connections from one address, so that one caller does not crowd out the others: half of `max_connections`,
        /// if it is not set. Behind a load balancer all callers have its address: set this to `max_connections` there. What is
        /// less is lowered with it to fit the limit on open files.
        #[within(1, 1_000_000)]
        pub max_connections_per_address: Option<u32> = None,
        /// The time for the first request on a new connection to arrive up to its body.
        #[within("100ms", "10m")]
        pub head_timeout: Span = span("10s"),
        /// How long a connection may stay idle between requests.
        #[within("1s", "1h")]
        pub idle_timeout: Span = span("75s"),
        /// The time in which a client must take so much of its answer that the system sees room for more, or its connection is
        /// cut. Linux does when a third of its buffer is free, some 43 KB: at 30s, clients reading less than 1.4 KB/s are disconnected.
        #[within("1s", "1h")]
        pub write_timeout: Span = span("30s"),
    }
}

postrider_domain::options! {
    /// Where everything is kept.
    pub struct StoreOptions in "store" {
        /// `sqlite://` and the path of the file, relative to the folder that the server is started in.
        #[rule(store_url)]
        pub url: String = "sqlite://postrider.db".to_owned(),
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl TryFrom<String> for LogFormat {
    type Error = String;

    /// In whatever case, as the level.
    fn try_from(text: String) -> Result<Self, String> {
        match () {
            () if text.eq_ignore_ascii_case("text") => Ok(Self::Text),
            () if text.eq_ignore_ascii_case("json") => Ok(Self::Json),
            () => Err(format!("must be text or json, not '{text}'")),
        }
    }
}

postrider_domain::options! {
    /// The log, on standard error. It never holds anything up: lines that cannot be written are left out and counted, and the
    /// log says how many there were as soon as it can be written again.
    pub struct LogOptions in "log" {
        /// What is logged: `error`, `warn`, `info`, `debug` (every attempt) or `trace`, also per module, as in
        /// `info,postrider_delivery=debug`. Modules that are not named are at `info` if no level stands alone.
        /// Those of the libraries below (`h2`, say) log errors only, unless they are named or the level is `debug` or `trace`: what
        /// they warn of is up to receivers and callers.
        #[rule(log_level)]
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
    pub(crate) limits: LimitOptions,
    pub(crate) delivery: DeliveryOptions,
    pub(crate) signing: SigningOptions,
    pub(crate) schemas: SchemaOptions,
    pub(crate) retention: RetentionOptions,
    pub(crate) log: LogOptions,
}

impl ServerOptions {
    /// How many of `most` connections, which are what the limit on open files leaves of the setting, one address may have.
    pub(crate) fn most_per_address(&self, most: u32) -> u32 {
        match self.max_connections_per_address {
            None => (most / 2).max(1),
            Some(set) if set >= self.max_connections => most,
            Some(set) => {
                let part = u64::from(most) * u64::from(set) / u64::from(self.max_connections);
                u32::try_from(part).unwrap_or(set).max(1)
            }
        }
    }
}

/// Every setting there is, in the order of the reference.
pub(crate) fn reference() -> Vec<Setting> {
    [
        ServerOptions::reference(),
        StoreOptions::reference(),
        AuthOptions::reference(),
        LimitOptions::reference(),
        DeliveryOptions::reference(),
        SigningOptions::reference(),
        SchemaOptions::reference(),
        RetentionOptions::reference(),
        LogOptions::reference(),
    ]
    .concat()
}

/// The environment variable of a setting.
pub(crate) fn variable(setting: &Setting) -> String {
    format!("{}{}__{}", load::ENV_PREFIX, setting.section.to_uppercase(), setting.name.to_uppercase())
}

impl Config {
    /// The path of the store's file.
    pub(crate) fn sqlite_path(&self) -> anyhow::Result<PathBuf> {
        sqlite_path(&self.store.url)
    }
}

fn sqlite_path(url: &str) -> anyhow::Result<PathBuf> {
    let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")).ok_or_else(|| {
        anyhow!("is '{url}', which this version cannot open: write sqlite:// and a path, as in sqlite://postrider.db")
    })?;
    if path.is_empty() {
        bail!("names no file: write sqlite:// and a path, as in sqlite://postrider.db");
    }
    if path == ":memory:" {
        bail!("would be lost at the end of the server: write sqlite:// and a path, as in sqlite://postrider.db");
    }
    if let Some((_, query)) = path.split_once('?') {
        bail!("ends with '?{query}', which is not known here: write sqlite:// and a path, as in sqlite://postrider.db");
    }
    Ok(path.into())
}

#[cfg(test)]
mod tests;
