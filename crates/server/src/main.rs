//! `postrider`: a menu of subcommands, and nothing else. What they take is in [`cli`], what they do in [`commands`].

mod apart;
mod cli;
mod commands;
mod config;
mod connections;
mod http;
mod limits;
mod log;
mod memory;
mod patient;
mod signals;
mod supervisor;
mod terminal;
mod wiring;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Err(error) = check_environment() {
        terminal::error(&error);
        return ExitCode::FAILURE;
    }
    let result = match Cli::parse().command {
        Command::Serve(args) => commands::serve::run(&args),
        Command::Send(args) => commands::send::run(*args),
        Command::Listen(args) => commands::listen::run(args),
        Command::Key(args) => commands::key::run(args),
        Command::Config(args) => commands::config::run(&args),
        Command::Openapi => commands::openapi::run(),
        Command::Bench(args) => commands::bench::run(*args),
        Command::Judge(args) => Ok(commands::judge::run(&args)),
    };
    result.unwrap_or_else(|error| {
        terminal::error(&error);
        ExitCode::FAILURE
    })
}

/// Whatever the command: a variable that is meant for this program and is no text is an error that names it.
fn check_environment() -> anyhow::Result<()> {
    let wrong = std::env::vars_os().find(|(name, value)| config::is_ours(name) && value.to_str().is_none());
    match wrong {
        Some((name, _)) => Err(anyhow::anyhow!(config::not_utf8(&name.to_string_lossy()))),
        None => Ok(()),
    }
}
