//! Runs programs to their end and names the command line in every error.

use std::{
    ffi::OsStr,
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// The command line as a person would type it.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs to the end, whatever the outcome.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| line(command))
}

/// Runs to a successful end and returns what was written to standard output.
pub fn run(command: &mut Command) -> Result<String> {
    let out = output(command)?;
    if !out.status.success() {
        let errors = String::from_utf8_lossy(&out.stderr);
        let text = String::from_utf8_lossy(&out.stdout);
        bail!(
            "{}: {}: {} {}",
            line(command),
            out.status,
            errors.trim(),
            text.trim()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Splits `words` at white space and runs them, with no shell in between.
pub fn run_words(mut command: Command, words: &str) -> Result<String> {
    run(command.args(words.split_whitespace()))
}
