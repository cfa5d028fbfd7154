//! The arguments that say where settings are, of every command that needs some.

use std::path::PathBuf;

use crate::config::{self, Flag, Loaded, Problems};
use crate::terminal::harmless;

/// Where settings come from; shared by the commands that need a store.
#[derive(Debug, clap::Args)]
pub(crate) struct Settings {
    /// File with settings [default: postrider.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything is kept [default: sqlite://postrider.db]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
}

impl Settings {
    /// The options as they were given, for another command that is to find the same store.
    pub(crate) fn as_typed(&self) -> String {
        let config = self.config.as_ref().map(|file| file.to_string_lossy());
        let options = [("--config", config), ("--store", self.store.as_deref().map(Into::into))];
        let given = options.into_iter().filter_map(|(option, value)| Some((option, value?)));
        given.map(|(option, value)| format!(" {option} {}", in_shell(&harmless(&value)))).collect()
    }

    /// Reads file and environment, and applies `--store` and the flag `--listen`, where a command has one.
    pub(crate) fn load(&self, listen: Option<&String>) -> Result<Loaded, Problems> {
        let flags = [
            Flag { setting: "store.url", flag: "--store", value: self.store.clone() },
            Flag { setting: "server.listen", flag: "--listen", value: listen.cloned() },
        ];
        config::load(self.config.as_deref(), std::env::vars_os(), &flags)
    }
}

/// A text as a shell takes it for one word.
fn in_shell(text: &str) -> String {
    let is_plain =
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-:=,+@%".contains(&byte));
    if is_plain { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_shown_as_they_can_be_typed_again() {
        let none = Settings { config: None, store: None };
        assert_eq!(none.as_typed(), "");
        let given = Settings { config: Some("/etc/my shop's.toml".into()), store: Some("sqlite://a.db".to_owned()) };
        assert_eq!(given.as_typed(), r" --config '/etc/my shop'\''s.toml' --store sqlite://a.db");
    }
}
