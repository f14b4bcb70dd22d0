//! The `weft` binary: parse, run, say how it went.

use std::{env, ffi::OsString, process::ExitCode};

use weft::{app, cli};

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().collect();
    match cli::parse(args.clone(), |name| env::var(name).ok()) {
        Ok(cli) => app::main(cli),
        Err(error) => {
            // The error prints itself; a reader that went away changes nothing.
            let _ = cli::print(&error, &args);
            ExitCode::from(cli::usage_code(&error, &args))
        }
    }
}
