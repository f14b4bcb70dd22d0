//! `cargo xtask test`: everything, from arithmetic to real engines on simulated hosts.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    faults::OTHER_BUILD,
    setup, shell,
    suites::{self, Output, Suite},
    toolchain::{Lock, Object, root, target},
};

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Units, properties, contracts and trial runs, without the namespace suites.
    #[arg(long, conflicts_with = "suite")]
    unit: bool,
    /// Only these namespace suites, by the name of their file in tests/tests.
    #[arg(long)]
    suite: Vec<String>,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// Crates whose tests run as anybody, as words for cargo.
const UNITS: &[&[&str]] = &[
    &["-p", "xtask"],
    &["-p", "weft-bench"],
    &["-p", "weft-common"],
    &["-p", "weft-fuzz"],
    &["-p", "weft-tests", "--lib"],
];

/// The agent's tests load programs and make namespaces. Those of the programs are among them: what
/// runs in the kernel is tested in the kernel.
const AGENT: &[&str] = &["-p", "weft", "--features", "fakes"];

pub(crate) fn run(lock: Lock, options: &Options) -> Result<()> {
    if options.suite.is_empty() {
        for words in UNITS {
            unit(lock, words, options)?;
        }
        agent(lock, options)?;
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
    let name = words.join(" ");
    let suite = Suite { name, command };
    suites::ended(suite, options.filter.is_none(), Output::AsItComes).map(drop)
}

/// Built as the user, run as root.
fn agent(lock: Lock, options: &Options) -> Result<()> {
    let newer = setup::etcd::newer()?;
    let mut chosen = Vec::new();
    for Built { name, program } in build_suites(lock, AGENT)? {
        let once = [("WEFT_ETCD", None)];
        let twice = [("WEFT_ETCD", None), ("WEFT_ETCD", Some(newer.as_os_str()))];
        let runs: &[_] = if name == "store_contract" {
            // With Debian's etcd, and with a newer one.
            &twice
        } else {
            &once
        };
        for (variable, etcd) in runs {
            let variables: Vec<_> = etcd.iter().map(|etcd| (*variable, *etcd)).collect();
            let mut command = shell::as_root_with(&variables, &program);
            // Where cargo would run them.
            command
                .current_dir(root().join("agent"))
                .args(&options.filter);
            let name = name.clone();
            chosen.push(Suite { name, command });
        }
    }
    suites::run(chosen, options.filter.is_none())
}

/// The suites that need root: built as the user, run as root.
fn namespaces(lock: Lock, options: &Options) -> Result<()> {
    let weft = build_agent(lock)?;
    let built = build_suites(lock, &["-p", "weft-tests", "--test", "*"])?;
    for wanted in &options.suite {
        ensure!(
            built.iter().any(|suite| suite.name == *wanted),
            "no suite named {wanted}"
        );
    }
    let wanted = |built: &Built| options.suite.is_empty() || options.suite.contains(&built.name);
    let chosen = built.into_iter().filter(wanted);
    let chosen = chosen.map(|Built { name, program }| {
        let mut command = shell::as_root_with(&[("WEFT_BIN", weft.as_os_str())], program);
        // One lab at a time in each of the two that run side by side.
        command.arg("--test-threads=1").args(&options.filter);
        Suite { name, command }
    });
    suites::run(chosen.collect(), options.filter.is_none())
}

/// Builds the agent with the real programs inside, and says where it is.
pub(crate) fn build_agent(lock: Lock) -> Result<PathBuf> {
    shell::run(
        lock.cargo(Object::Real, "build")
            .args(["-p", "weft", "--bin", "weft"]),
    )?;
    Ok(target().join("debug/weft"))
}

/// Builds the agent with another layout of the maps, and says where it is: beside the real one,
/// which the next build brings back.
pub(crate) fn build_other_layout(lock: Lock) -> Result<PathBuf> {
    let mut cargo = lock.cargo(Object::Real, "build");
    cargo.args(["-p", "weft", "--bin", "weft", "--features", "other-layout"]);
    shell::run(&mut cargo)?;
    let (made, kept) = (
        target().join("debug/weft"),
        target().join("debug/weft-other-layout"),
    );
    std::fs::copy(&made, &kept).with_context(|| format!("copy {}", made.display()))?;
    Ok(kept)
}

/// Builds the probe that the lab runs inside containers.
pub(crate) fn build_probe(lock: Lock) -> Result<PathBuf> {
    let mut cargo = lock.cargo(Object::Real, "build");
    shell::run(cargo.args(["-p", "weft-tests", "--bin", "weft-probe"]))?;
    Ok(target().join("debug/weft-probe"))
}

/// Builds as the user, so that the target folder stays theirs, and runs as root.
pub(crate) fn again_as_root() -> Result<ExitCode> {
    let weft = build_agent(Lock::MayChange)?;
    let probe = build_probe(Lock::MayChange)?;
    let me = std::env::current_exe().context("find this program")?;
    let env = [
        ("WEFT_BIN", weft.as_os_str()),
        ("WEFT_PROBE", probe.as_os_str()),
    ];
    let other = std::env::var_os(OTHER_BUILD);
    let other = other.iter().map(|path| (OTHER_BUILD, path.as_os_str()));
    let env: Vec<_> = env.into_iter().chain(other).collect();
    let mut command = shell::as_root_with(&env, me);
    let status = command
        .args(std::env::args_os().skip(1))
        .status()
        .context("run as root")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Builds test programs; answers with where each is and what it is called.
pub(crate) fn build_programs(lock: Lock, words: &[&str]) -> Result<Vec<(PathBuf, String)>> {
    let suites = build_suites(lock, words)?.into_iter();
    Ok(suites.map(|it| (it.program.into(), it.name)).collect())
}

struct Built {
    name: String,
    program: OsString,
}

fn build_suites(lock: Lock, words: &[&str]) -> Result<Vec<Built>> {
    let mut cargo = lock.cargo(Object::Real, "test");
    cargo.args(words).arg("--no-run");
    cargo.args(["--message-format", "json-render-diagnostics"]);
    println!("$ {}", shell::line(&cargo));
    let messages = shell::output(&mut cargo)?;
    let suites: Vec<_> = messages.lines().filter_map(suite).collect();
    ensure!(!suites.is_empty(), "{} built no suite", shell::line(&cargo));
    Ok(suites)
}

/// A test program, from one of cargo's messages; the `weft` binary holds no tests of its own.
fn suite(message: &str) -> Option<Built> {
    let message: Value = serde_json::from_str(message).ok()?;
    let program = message.get("executable")?.as_str()?.into();
    if message.pointer("/profile/test")? != true {
        return None;
    }
    let target = message.get("target")?;
    let is_binary = target
        .get("kind")?
        .as_array()?
        .iter()
        .any(|kind| kind == "bin");
    (!is_binary).then_some(Built {
        name: target.get("name")?.as_str()?.to_owned(),
        program,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_is_read_from_cargos_messages() {
        let artifact = |kind: &str, test: bool, executable: &str| {
            let target = format!(r#""target":{{"kind":["{kind}"],"name":"lab"}}"#);
            suite(&format!(
                r#"{{{target},"profile":{{"test":{test}}},"executable":{executable}}}"#
            ))
        };
        let found = artifact("test", true, r#""/t/lab-1""#);
        assert_eq!(found.map(|suite| suite.name).as_deref(), Some("lab"));
        assert!(artifact("lib", true, r#""/t/lab-1""#).is_some());
        assert!(artifact("bin", true, r#""/t/lab-1""#).is_none());
        assert!(artifact("bin", false, r#""/t/lab-1""#).is_none());
        assert!(artifact("lib", false, "null").is_none());
    }
}
