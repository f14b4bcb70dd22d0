//! `cargo xtask`: set-up, run, demo, test, faults, fuzz, bench, vm, verify, lint, tidy, ci.

mod bench;
mod ci;
mod demo;
mod faults;
mod fuzz;
mod lint;
mod run;
mod setup;
mod shell;
mod signals;
mod suites;
mod test;
mod tidy;
mod toolchain;
mod verify;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::toolchain::Lock;

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
    /// Build and run the agent on this host, with an etcd on loopback where none is named.
    Run(run::Options),
    /// Hosts as network namespaces on one wire, an agent on each, and who reaches whom.
    Demo(demo::Options),
    /// Run every test: units, properties, programs, namespaces.
    Test(test::Options),
    /// Inject faults, row by row of the matrix, and leave the table in docs/faults.md.
    Faults(faults::Options),
    /// Run the fuzz targets of all parsers, a minute each.
    Fuzz(fuzz::Options),
    /// Measure networks side by side: bare, routed, flannel's, ours.
    Bench(bench::Options),
    /// Load tests, program tests and two hosts on Linux 6.1, in a virtual machine.
    Vm(vm::Options),
    /// What each program costs the verifier, against ebpf/verified.txt.
    Verify(verify::Options),
    /// Formatting, and clippy with warnings as errors.
    Lint,
    /// The rules of the tree.
    Tidy,
    /// All that CI runs, in order.
    Ci,
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
        Verb::Setup => {
            setup::etcd::newer()?;
            println!("setup: everything is in place");
        }
        Verb::Run(options) => return run::run(&options),
        Verb::Bench(options) => return bench::run(&options),
        Verb::Demo(options) => return demo::run(&options),
        Verb::Faults(options) => return faults::run(&options),
        Verb::Test(options) => test::run(Lock::MayChange, &options)?,
        Verb::Fuzz(options) => fuzz::run(&options)?,
        Verb::Vm(options) => vm::run(&options)?,
        Verb::Verify(options) => verify::run(Lock::MayChange, &options)?,
        Verb::Lint => lint::run(Lock::MayChange)?,
        Verb::Tidy => tidy::run()?,
        Verb::Ci => ci::run()?,
    }
    Ok(ExitCode::SUCCESS)
}
