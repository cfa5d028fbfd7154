//! `postrider`: a menu of subcommands, and nothing else. What they take is in [`cli`], what they do in [`commands`].

mod cli;
mod commands;
mod config;
mod http;
mod limits;
mod terminal;
mod wiring;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(args) => commands::serve::run(&args),
        Command::Send(args) => commands::send::run(*args),
        Command::Listen(args) => commands::listen::run(args),
        Command::Key(args) => commands::key::run(args),
        Command::Config(args) => commands::config::run(&args),
        Command::Openapi => commands::openapi::run(),
        Command::Bench(args) => commands::bench::run(*args),
    };
    result.unwrap_or_else(|error| {
        terminal::error(&error);
        ExitCode::FAILURE
    })
}
