//! The `weft` binary: parse, run, say how it went.

use std::{env, ffi::OsString, process::ExitCode};

use weft::{app, cli};

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().collect();
    match cli::parse(args.clone(), |name| env::var(name).ok()) {
        Ok(cli) => {
            // Before anything else begins: the process list shows the command line to everybody.
            if let Some(hidden) = cli::hide_password(&args) {
                app::without_password(&hidden);
            }
            app::main(cli)
        }
        Err(error) => {
            // The error prints itself; a reader that went away changes nothing.
            let _ = cli::print(&error, &args);
            ExitCode::from(cli::usage_code(&error, &args))
        }
    }
}
