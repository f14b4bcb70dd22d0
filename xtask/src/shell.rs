//! Runs programs, without a shell: prints the command first, and names it when it goes wrong.

use std::{
    ffi::OsStr,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// The command line as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Prints the command, runs it with our own streams, and fails unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    // What we print for machines must not mix with it.
    eprintln!("$ {}", line(command));
    quiet(command)
}

/// As [`run`], without printing the command.
pub(crate) fn quiet(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| line(command))?;
    if !status.success() {
        bail!("{}: {status}", line(command));
    }
    Ok(())
}

/// Runs the command and returns what it wrote to standard output; its errors stay visible.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| line(command))?;
    if !out.status.success() {
        bail!("{}: {}", line(command), out.status);
    }
    String::from_utf8(out.stdout).with_context(|| line(command))
}

/// `program` itself as root, through sudo for everybody else.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

/// As [`as_root`], with variables that sudo would otherwise drop.
pub(crate) fn as_root_with(env: &[(&str, &OsStr)], program: impl AsRef<OsStr>) -> Command {
    if is_root() {
        let mut command = Command::new(program);
        command.envs(env.iter().copied());
        return command;
    }
    let mut command = Command::new("sudo");
    command.arg("env");
    for (key, value) in env {
        let mut pair = std::ffi::OsString::from(key);
        pair.push("=");
        pair.push(value);
        command.arg(pair);
    }
    command.arg(program);
    command
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
