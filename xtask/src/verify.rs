//! `cargo xtask verify`: what each program costs the verifier, held against `ebpf/verified.txt`.
//!
//! The figures follow from the kernel and the compiler: on others than those of the record they are
//! printed and not compared.

use std::{fmt::Write as _, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    shell,
    test::build_programs,
    toolchain::{BPF_RUSTC, Lock, root},
};

const RECORD: &str = "ebpf/verified.txt";
/// The test that loads the programs and prints what they cost.
const TEST: &str = "cost::every_program_is_cheap_to_verify";
const REMEDY: &str = "if that is meant, run `cargo xtask verify --update` and commit it with the \
                      change that made it";

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Write the figures into ebpf/verified.txt.
    #[arg(long)]
    update: bool,
}

/// The figures, and what they were taken with.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    kernel: String,
    compiler: String,
    /// Name, verified instructions, bytes.
    programs: Vec<(String, u32, u32)>,
}

pub(crate) fn run(lock: Lock, options: &Options) -> Result<()> {
    let now = measure(lock)?;
    print!("{}", now.text());
    if options.update {
        fs::write(path(), now.text()).context(RECORD)?;
        println!("verify: written to {RECORD}");
        return Ok(());
    }
    let text = fs::read_to_string(path()).context(RECORD)?;
    let record = Figures::parse(&text).with_context(|| format!("{RECORD}: {REMEDY}"))?;
    if let Some(why) = incomparable(&record, &now) {
        println!("verify: NOT COMPARED: {why}");
        return Ok(());
    }
    let changes = changes(&record, &now);
    ensure!(
        changes.is_empty(),
        "{RECORD} says otherwise: {}; {REMEDY}",
        changes.join("; ")
    );
    println!("verify: as in {RECORD}");
    Ok(())
}

fn path() -> PathBuf {
    root().join(RECORD)
}

fn measure(lock: Lock) -> Result<Figures> {
    let words = ["-p", "weft", "--features", "fakes", "--test", "programs"];
    let programs = build_programs(lock, &words)?;
    let (program, _) = programs.first().context("the tests of the programs")?;
    let mut command = shell::as_root(program);
    command.args([TEST, "--exact", "--nocapture"]);
    let costs = costs(&shell::output(&mut command)?);
    ensure!(!costs.is_empty(), "{TEST} printed no cost");
    let compiler = shell::output(Command::new(BPF_RUSTC).arg("--version"))?;
    let kernel = shell::output(Command::new("uname").arg("-r"))?;
    Ok(Figures {
        // What a distributor adds to the release says nothing of the verifier.
        kernel: kernel
            .trim()
            .split('-')
            .next()
            .unwrap_or_default()
            .to_owned(),
        compiler: compiler.trim().to_owned(),
        programs: costs,
    })
}

/// From lines like `cost: from_uplink 4711 2048`, alone or behind the test's name.
fn costs(text: &str) -> Vec<(String, u32, u32)> {
    let rows = text.lines().filter_map(|line| {
        let (_, row) = line.split_once("cost: ")?;
        program(row)
    });
    rows.collect()
}

fn program(row: &str) -> Option<(String, u32, u32)> {
    let mut words = row.split_ascii_whitespace();
    let name = words.next()?.to_owned();
    Some((
        name,
        words.next()?.parse().ok()?,
        words.next()?.parse().ok()?,
    ))
}

impl Figures {
    fn text(&self) -> String {
        let Self {
            kernel,
            compiler,
            programs,
        } = self;
        let mut text = format!(
            "# By `cargo xtask verify --update`: instructions verified, bytes translated.\n\
             kernel: {kernel}\ncompiler: {compiler}\n"
        );
        for (name, verified, bytes) in programs {
            let _ = writeln!(text, "{name:<16} {verified:>7} {bytes:>6}");
        }
        text
    }

    fn parse(text: &str) -> Result<Self> {
        let mut figures = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(kernel) = line.strip_prefix("kernel: ") {
                kernel.clone_into(&mut figures.kernel);
            } else if let Some(compiler) = line.strip_prefix("compiler: ") {
                compiler.clone_into(&mut figures.compiler);
            } else if let Some(row) = program(line) {
                figures.programs.push(row);
            } else {
                bail!("{line:?} is no figure");
            }
        }
        Ok(figures)
    }
}

/// Why the two say nothing about each other.
fn incomparable(record: &Figures, now: &Figures) -> Option<String> {
    let differ = |what: &str, record: &str, now: &str| {
        (record != now).then(|| format!("the record is of {what} {record}, this is {now}"))
    };
    differ("kernel", &record.kernel, &now.kernel)
        .or_else(|| differ("compiler", &record.compiler, &now.compiler))
}

fn changes(record: &Figures, now: &Figures) -> Vec<String> {
    let find = |figures: &Figures, name: &str| {
        let row = figures.programs.iter().find(|row| row.0 == name);
        row.map_or_else(
            || "absent".to_owned(),
            |(_, verified, bytes)| format!("{verified} in {bytes} bytes"),
        )
    };
    let mut names: Vec<&str> = Vec::new();
    for (name, ..) in record.programs.iter().chain(&now.programs) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let pairs = names
        .into_iter()
        .map(|name| (name, find(record, name), find(now, name)));
    pairs
        .filter(|(_, was, is)| was != is)
        .map(|(name, was, is)| format!("{name} was {was}, is {is}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures {
            kernel: "6.18.1".to_owned(),
            compiler: "rustc 1.96.0".to_owned(),
            programs: vec![("a".to_owned(), 10, 20), ("b".to_owned(), 30, 40)],
        }
    }

    #[test]
    fn figures_are_written_as_they_are_read() {
        assert_eq!(Figures::parse(&figures().text()).unwrap(), figures());
        assert!(Figures::parse("nonsense").is_err());
        let printed = "test x ... cost: a 10 20\ncost: b 30 40\nok\n";
        assert_eq!(costs(printed), figures().programs);
    }

    #[test]
    fn any_other_figure_is_a_change() {
        assert!(changes(&figures(), &figures()).is_empty());
        let mut other = figures();
        other.programs.pop();
        other.programs.push(("c".to_owned(), 1, 1));
        if let Some(row) = other.programs.first_mut() {
            row.2 = 24;
        }
        let told = changes(&figures(), &other);
        assert_eq!(told.len(), 3, "{told:?}");
    }

    #[test]
    fn another_kernel_or_compiler_is_not_compared() {
        assert_eq!(incomparable(&figures(), &figures()), None);
        let kernel = Figures {
            kernel: "6.19.0".to_owned(),
            ..figures()
        };
        assert!(incomparable(&figures(), &kernel).is_some());
        let compiler = Figures {
            compiler: String::new(),
            ..figures()
        };
        assert!(incomparable(&figures(), &compiler).is_some());
    }
}
