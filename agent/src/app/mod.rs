//! The composition root: picks implementations, runs the loop, owns the order of shutdown.

use std::{fmt, process::ExitCode};

use anyhow::Context as _;

pub use self::again::without_password;
use crate::{
    cli::{Cli, RunArgs, Verb},
    config::Config,
    telemetry,
};

mod address;
mod again;
mod agent;
mod bench;
mod blackhole;
mod cleanup;
mod firewall;
mod ground;
mod lock;
mod prepare;
mod release;
mod renumber;
mod report;
mod subnet_file;
mod systemd;
mod verbs;

/// Why `weft run` ends other than asked.
#[derive(Debug)]
pub enum Failure {
    /// The command line, or a host that it does not fit: exit code 64.
    Usage(String),
    /// The store did not give what is needed: exit code 69.
    Store(String),
    /// A fault of ours: exit code 70.
    Bug(String),
    /// A privilege or a kernel feature is missing: exit code 77.
    Privilege(String),
}

impl Failure {
    /// The exit code.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::Store(_) => 69,
            Self::Bug(_) => 70,
            Self::Privilege(_) => 77,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) | Self::Store(why) | Self::Bug(why) | Self::Privilege(why) => {
                f.write_str(why)
            }
        }
    }
}

/// Does what was typed, and answers with the exit code.
#[must_use]
pub fn main(cli: Cli) -> ExitCode {
    match cli.verb {
        Verb::Run(args) => match run(*args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                complain(&failure);
                ExitCode::from(failure.code())
            }
        },
        Verb::Status(args) => answer(verbs::status(&args)),
        Verb::Dump(args) => answer(verbs::dump(&args)),
        Verb::DockerOpts(args) => answer(verbs::docker_opts(&args)),
        Verb::Bench(args) => answer(bench::bench(&args)),
        Verb::Cleanup(args) => answer(cleanup::cleanup(&args)),
    }
}

fn run(args: RunArgs) -> Result<(), Failure> {
    telemetry::start(&args.log, args.log_format).map_err(Failure::Usage)?;
    let config = Config::try_from(args).map_err(|errors| Failure::Usage(errors.to_string()))?;
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::Privilege(
            "weft run needs root: it programs links, routes and eBPF; try sudo".to_owned(),
        ));
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")
        .map_err(|error| Failure::Bug(format!("{error:#}")))?
        .block_on(agent::run(config))
}

fn answer(outcome: anyhow::Result<u8>) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::from(1)
        }
    }
}

fn complain(what: &dyn fmt::Display) {
    use std::io::Write as _;
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(std::io::stderr(), "weft: {what}");
}
