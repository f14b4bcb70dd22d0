//! `cargo xtask fuzz`: each parser that reads what others write, for a minute under libFuzzer.
//!
//! What fails is left in the target's folder in `fuzz/corpus`, where it is an ordinary test from
//! then on. What was found on the way is kept in `target/fuzz/corpus` and is where the next run
//! begins.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    setup, shell,
    toolchain::{Lock, Object, root, target},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Only these targets, by the names of the folders in fuzz/corpus.
    targets: Vec<String>,
}

/// What cargo-fuzz passes as well, less the sanitizer: coverage for every block, and what is
/// compared with what.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// Longer inputs find nothing that shorter ones do not, and slowly.
const MAX_LEN: u32 = 4096;
/// An input that takes longer is a failure.
const SLOW: Duration = Duration::from_secs(5);

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::also(&["g++"])?;
    let corpus = root().join("fuzz/corpus");
    let all = folders(&corpus)?;
    for wanted in &options.targets {
        ensure!(
            all.contains(wanted),
            "no target named {wanted}: there are {}",
            all.join(", ")
        );
    }
    let program = build()?;
    let chosen = |name: &&String| options.targets.is_empty() || options.targets.contains(name);
    let mut failed = Vec::new();
    let mut lines = Vec::new();
    for name in all.iter().filter(chosen) {
        println!("==> {name}");
        let outcome = one(&program, name, options.seconds)?;
        lines.push(match &outcome.failure {
            None => format!("{name:<14} {:>12} inputs, none failed", outcome.inputs),
            Some(why) => format!("{name:<14} FAILED: {why}"),
        });
        if outcome.failure.is_some() {
            failed.push(name.as_str());
        }
    }
    println!("{}", lines.join("\n"));
    if !failed.is_empty() {
        bail!(
            "{}: the inputs are in fuzz/corpus, and `cargo test -p weft-fuzz` runs them",
            failed.join(", ")
        );
    }
    Ok(())
}

struct Outcome {
    inputs: String,
    failure: Option<String>,
}

fn one(program: &PathBuf, name: &str, seconds: u32) -> Result<Outcome> {
    let seeds = root().join("fuzz/corpus").join(name);
    let found = target().join("fuzz/corpus").join(name);
    fs::create_dir_all(&found).with_context(|| format!("make {}", found.display()))?;
    let mut command = Command::new(program);
    command
        .env("WEFT_FUZZ_TARGET", name)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_LEN}"))
        .arg(format!("-timeout={}", SLOW.as_secs()))
        .arg(format!("-artifact_prefix={}/", seeds.display()))
        .args(["-rss_limit_mb=1024", "-print_final_stats=1", "-verbosity=0"])
        .args([&found, &seeds])
        .stdin(Stdio::null());
    println!("$ {}", shell::line(&command));
    let out = command.output().context("run the fuzzer")?;
    let text = String::from_utf8_lossy(&out.stderr);
    let inputs = executed(&text).unwrap_or("no").to_owned();
    let failure = (!out.status.success()).then(|| {
        eprintln!("{text}");
        reason(&text).unwrap_or("see above").to_owned()
    });
    ensure!(
        failure.is_some() || inputs != "no",
        "{name}: the fuzzer ran nothing:\n{text}"
    );
    Ok(Outcome { inputs, failure })
}

/// From the engine's closing figures.
fn executed(text: &str) -> Option<&str> {
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    Some(rest.trim())
}

/// What the target said, or the engine of it.
fn reason(text: &str) -> Option<&str> {
    let said = |sign: &str| text.lines().find(|line| line.contains(sign));
    said("panicked at").or_else(|| said("ERROR: libFuzzer"))
}

fn folders(corpus: &PathBuf) -> Result<Vec<String>> {
    let entries = fs::read_dir(corpus).with_context(|| format!("read {}", corpus.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.context("read the corpus")?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// Builds the engine and all targets as one program, in a folder of its own: nothing else is built
/// with these flags.
fn build() -> Result<PathBuf> {
    let version = shell::output(Command::new("rustc").arg("-vV"))?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc -vV names no host")?;
    let folder = target().join("fuzz");
    let mut cargo = Lock::MayChange.cargo(Object::Stub, "build");
    cargo
        .args(["-p", "weft-fuzz", "--features", "engine"])
        // With a target named, build scripts and macros are left without coverage.
        .args(["--profile", "fuzz", "--target", host])
        .arg("--target-dir")
        .arg(&folder)
        .env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\u{1f}"));
    shell::run(&mut cargo).context("build the fuzz targets")?;
    Ok(folder.join(host).join("fuzz/weft-fuzz"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_words_are_read() {
        let text = "INFO: seed corpus\nstat::number_of_executed_units: 8123\nstat::x: 1\n";
        assert_eq!(executed(text), Some("8123"));
        assert_eq!(executed("nothing"), None);
        let text = "thread '<unnamed>' panicked at fuzz/src/store.rs:1:2:\n==1== ERROR: libFuzzer: deadly signal\n";
        assert!(reason(text).is_some_and(|why| why.contains("panicked at")));
        let text = "==1== ERROR: libFuzzer: timeout after 5 seconds\n";
        assert!(reason(text).is_some_and(|why| why.contains("timeout")));
    }
}
