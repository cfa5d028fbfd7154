//! What the text of a setting must be, beyond what holds for all of them: an address, a URL, a level.

use std::net::SocketAddr;

use tracing_subscriber::EnvFilter;
use url::Url;

/// The levels of the log, by name.
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// What modules in `log.level` can begin with: our own crates, and those below them that log.
const MODULES: [&str; 15] = [
    "postrider",
    "postrider_api",
    "postrider_delivery",
    "postrider_domain",
    "postrider_ingest",
    "postrider_store",
    "postrider_store_sqlite",
    "postrider_upkeep",
    "axum",
    "h2",
    "hyper",
    "hyper_util",
    "rustls",
    "tokio",
    "mio",
];

/// What the modules of our own crates begin with.
const OWN: &str = "postrider";

/// The levels at which everybody's lines are wanted.
const CLOSE_LEVELS: [&str; 2] = ["debug", "trace"];

/// A host or address with a port.
pub(super) fn listen_address(text: &str) -> Result<(), String> {
    let has_port = |(host, port): (&str, &str)| is_host_name(host) && port.parse::<u16>().is_ok();
    if text.parse::<SocketAddr>().is_ok() || text.rsplit_once(':').is_some_and(has_port) {
        return Ok(());
    }
    Err(format!("must be an address and a port, as in 127.0.0.1:8071 or [::1]:8071, not '{text}'"))
}

/// Whether it can be looked up: what is written in digits and dots would have to be an address.
fn is_host_name(text: &str) -> bool {
    let is_name = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    is_name && text.bytes().any(|byte| byte.is_ascii_alphabetic())
}

/// What ends a URL in texts and pages, and is written with a percent sign in one.
const NOT_IN_URLS: &[u8] = b"\"'<>\\^`{|}";

/// An http or https URL to which paths can be added.
pub(super) fn public_url(text: &str) -> Result<(), String> {
    let wrong = |problem: &str| Err(format!("{problem}: write it as in https://hooks.example.com"));
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && !NOT_IN_URLS.contains(&byte)) {
        return wrong("holds a character that cannot stand in a URL as it is");
    }
    let Ok(url) = Url::parse(text) else { return wrong("is not a URL") };
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return wrong("must be an http or https URL");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return wrong("must not hold a name or password: people will see it");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return wrong("must end with its path");
    }
    Ok(())
}

/// `sqlite://` and a path.
pub(super) fn store_url(text: &str) -> Result<(), String> {
    super::sqlite_path(text).map(drop).map_err(|error| error.to_string())
}

/// A level, also per module.
pub(super) fn log_level(text: &str) -> Result<(), String> {
    log_filter(text).map(drop)
}

/// The filter that a level means. Something is always logged: text that is no level is refused, instead of being taken for
/// the name of a module.
///
/// A level is that of our own crates. What others say goes by what receivers and callers send, as often as they send it: it is logged if
/// it is an error, if they are named, or if the level is one for looking closely.
pub(crate) fn log_filter(text: &str) -> Result<EnvFilter, String> {
    let (mut base, mut modules) = ("info", Vec::new());
    for part in text.split(',').map(str::trim) {
        match part.split_once('=') {
            None => {
                level(part)?;
                base = part;
            }
            Some((module, own)) => {
                known_module(module.trim())?;
                if !own.trim().eq_ignore_ascii_case("off") {
                    level(own.trim())?;
                }
                modules.push(part);
            }
        }
    }
    let is_close = CLOSE_LEVELS.iter().any(|level| level.eq_ignore_ascii_case(base));
    let all = if is_close { base.to_owned() } else { format!("error,{OWN}={base}") };
    let text = [&[all.as_str()], &modules[..]].concat().join(",");
    EnvFilter::try_new(&text).map_err(|error| format!("is no level: {error}"))
}

fn level(text: &str) -> Result<(), String> {
    if LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text)) {
        return Ok(());
    }
    Err(format!(
        "must be error, warn, info, debug or trace, also per module, as in info,postrider_delivery=debug, not '{text}'"
    ))
}

fn known_module(module: &str) -> Result<(), String> {
    let base = module.split("::").next().unwrap_or_default();
    let is_path = module
        .split("::")
        .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
    if is_path && MODULES.contains(&base) {
        return Ok(());
    }
    Err(format!("names the module '{module}', which does not log: there are {}", MODULES.join(", ")))
}
