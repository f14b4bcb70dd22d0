//! `cargo xtask`: set-up, run, demo, test, lint, tidy, ci.

mod setup;
mod shell;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The one front door for developers and CI.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Install and check what this machine needs; every other command does this first.
    Setup,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match setup::run().and_then(|()| dispatch(cli.verb)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Setup => println!("setup: everything is in place"),
    }
    Ok(ExitCode::SUCCESS)
}
