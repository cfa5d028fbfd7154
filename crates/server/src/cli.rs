//! What can be typed: the list of commands and the help around it.
//!
//! Each command's own arguments are defined beside the command, in `commands/`. To add one: a file there with an `Args`
//! and a `run`, a variant here, a line in `main`.

use clap::{Parser, Subcommand};

use crate::commands::{JUDGE, bench, config, judge, key, listen, send, serve};
use crate::terminal;

/// Sends webhooks: accepts events, and delivers each one signed, retried and logged.
#[derive(Debug, Parser)]
#[command(name = "postrider", version, styles = terminal::HELP, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands, in the order in which a newcomer meets them. Where none is given here, the
/// `Args` say what it is for.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server: accept messages, deliver them, keep the log
    Serve(serve::Args),
    Send(Box<send::Args>),
    Listen(listen::Args),
    /// Make, list and revoke API keys
    Key(key::Args),
    /// Show what can be set
    Config(config::Args),
    /// Print the OpenAPI document of the API
    Openapi,
    Bench(Box<bench::Args>),
    /// Run schemas for a server
    #[command(name = JUDGE, hide = true)]
    Judge(judge::Args),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }
}
