//! The arguments that say where settings are, of every command that needs some.

use std::path::PathBuf;

use crate::config::{self, Flag, Loaded, Problems};

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
    /// Reads file and environment, and applies `--store` and the flag `--listen`, where a command has one.
    pub(crate) fn load(&self, listen: Option<&String>) -> Result<Loaded, Problems> {
        let flags = [
            Flag { setting: "store.url", flag: "--store", value: self.store.clone() },
            Flag { setting: "server.listen", flag: "--listen", value: listen.cloned() },
        ];
        config::load(self.config.as_deref(), std::env::vars_os(), &flags)
    }
}
