//! `cargo xtask test`: everything, from arithmetic to real engines on simulated hosts.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    shell,
    toolchain::{Lock, Object, target},
};

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Only what needs no root: units, properties, contracts.
    #[arg(long, conflicts_with = "suite")]
    unit: bool,
    /// Only these namespace suites, by the name of their file in tests/tests.
    #[arg(long)]
    suite: Vec<String>,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// Test targets that run anywhere, as words for cargo.
const UNITS: &[&[&str]] = &[
    &["-p", "xtask"],
    &["-p", "weft-common"],
    &["-p", "weft-ebpf", "--lib"],
    &["-p", "weft", "--features", "fakes"],
    &["-p", "weft-tests", "--lib"],
];

pub(crate) fn run(lock: Lock, options: &Options) -> Result<()> {
    if options.suite.is_empty() {
        for words in UNITS {
            unit(lock, words, options)?;
        }
    }
    if options.unit {
        Ok(())
    } else {
        namespaces(lock, options)
    }
}

fn unit(lock: Lock, words: &[&str], options: &Options) -> Result<()> {
    let mut command = lock.cargo(Object::Real, "test");
    command.args(words).args(&options.filter);
    counted(&mut command, options)
}

/// The suites that need root: built as the user, run as root.
fn namespaces(lock: Lock, options: &Options) -> Result<()> {
    let weft = build_agent(lock)?;
    let suites = build_suites(lock)?;
    for wanted in &options.suite {
        ensure!(
            suites.iter().any(|suite| suite.name == *wanted),
            "no suite named {wanted}"
        );
    }
    let chosen = |suite: &&Suite| options.suite.is_empty() || options.suite.contains(&suite.name);
    for suite in suites.iter().filter(chosen) {
        let mut command = shell::as_root_with(&[("WEFT_BIN", weft.as_os_str())], &suite.program);
        // Two cores carry one lab at a time; what is measured must not be another's load.
        command.arg("--test-threads=1").args(&options.filter);
        counted(&mut command, options)?;
    }
    Ok(())
}

/// Builds the agent with the real programs inside, and says where it is.
pub(crate) fn build_agent(lock: Lock) -> Result<PathBuf> {
    shell::run(
        lock.cargo(Object::Real, "build")
            .args(["-p", "weft", "--bin", "weft"]),
    )?;
    Ok(target().join("debug/weft"))
}

/// Builds the probe that the lab runs inside containers.
pub(crate) fn build_probe(lock: Lock) -> Result<PathBuf> {
    let mut cargo = lock.cargo(Object::Real, "build");
    shell::run(cargo.args(["-p", "weft-tests", "--bin", "weft-probe"]))?;
    Ok(target().join("debug/weft-probe"))
}

struct Suite {
    name: String,
    program: OsString,
}

fn build_suites(lock: Lock) -> Result<Vec<Suite>> {
    let mut cargo = lock.cargo(Object::Real, "test");
    cargo.args(["-p", "weft-tests", "--test", "*", "--no-run"]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    println!("$ {}", shell::line(&cargo));
    let messages = shell::output(&mut cargo)?;
    let suites: Vec<_> = messages.lines().filter_map(suite).collect();
    ensure!(!suites.is_empty(), "cargo built no namespace suite");
    Ok(suites)
}

fn suite(message: &str) -> Option<Suite> {
    let message: Value = serde_json::from_str(message).ok()?;
    let program = message.get("executable")?.as_str()?.into();
    let target = message.get("target")?;
    let is_test = target
        .get("kind")?
        .as_array()?
        .iter()
        .any(|kind| kind == "test");
    is_test.then_some(Suite {
        name: target.get("name")?.as_str()?.to_owned(),
        program,
    })
}

/// Runs test programs and fails also when they ran nothing: an empty suite proves nothing.
fn counted(command: &mut Command, options: &Options) -> Result<()> {
    println!("$ {}", shell::line(command));
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| shell::line(command))?;
    let mut passed = 0;
    for line in BufReader::new(child.stdout.take().context("output of the tests")?).lines() {
        let line = line.context("read the output of the tests")?;
        passed += passed_tests(&line).unwrap_or(0);
        println!("{line}");
    }
    let status = child.wait().with_context(|| shell::line(command))?;
    if !status.success() {
        bail!("{}: {status}", shell::line(command));
    }
    ensure!(
        passed > 0 || options.filter.is_some(),
        "{}: ran no test",
        shell::line(command)
    );
    Ok(())
}

/// From a line like `test result: ok. 3 passed; 0 failed; …`.
fn passed_tests(line: &str) -> Option<u32> {
    let rest = line.strip_prefix("test result: ok. ")?;
    rest.split_once(" passed")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_counted() {
        let line = "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; finished in 1s";
        assert_eq!(passed_tests(line), Some(12));
        assert_eq!(passed_tests("test a ... ok"), None);
    }

    #[test]
    fn a_suite_is_read_from_cargos_messages() {
        let line = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"lab"},"executable":"/t/lab-1"}"#;
        assert_eq!(suite(line).map(|suite| suite.name).as_deref(), Some("lab"));
        let lib = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"x"},"executable":null}"#;
        assert!(suite(lib).is_none());
    }
}
