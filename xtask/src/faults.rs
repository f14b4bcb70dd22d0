//! `cargo xtask faults`: the fault lab, row by row, and its table.

use std::{
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use weft_tests::faults::{self, Row, Verdict, table};

use crate::{
    shell, test,
    toolchain::{Lock, root},
};

/// Where the table of a run over all rows stays.
const REPORT: &str = "docs/faults.md";

/// Names the build of the agent with another layout of the maps.
pub(crate) const OTHER_BUILD: &str = "WEFT_OTHER_BIN";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Rows by their numbers; all of them when none is given.
    rows: Vec<u8>,
    /// Each fault as long, and as often, as the matrix says: hours, not minutes.
    #[arg(long)]
    thorough: bool,
    /// Instead, rows at random for so many minutes.
    #[arg(long, value_name = "MINUTES", conflicts_with = "rows")]
    soak: Option<u64>,
    /// For the same faults again; a soak prints the one that it took.
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    // As the user, too: then it is there when we are root.
    if options.wants_other_build() && std::env::var_os(OTHER_BUILD).is_none() {
        return with_other_build();
    }
    if !shell::is_root() {
        return test::again_as_root();
    }
    // After `again_as_root` both are there already, built by the user they belong to.
    if std::env::var_os("WEFT_BIN").is_none() {
        test::build_agent(Lock::MayChange)?;
        test::build_probe(Lock::MayChange)?;
    }
    let seed = options.seed.map_or_else(fresh_seed, Ok)?;
    let chosen = table::chosen(&options.rows);
    let rows = chosen.map_err(|number| anyhow!("no row {number}; there are {}", numbers()))?;
    println!("{}", table::HEADING);
    let verdicts = match options.soak {
        Some(minutes) => soak(&rows, minutes, seed)?,
        None => faults::run_all(rows, options.thorough, seed, tell)?,
    };
    ensure!(!verdicts.is_empty(), "no row was run");
    let whole = options.rows.is_empty() && options.soak.is_none();
    if whole {
        report(&verdicts, options.thorough)?;
    }
    let failed = verdicts.iter().filter(|verdict| !verdict.passed()).count();
    println!("\nfaults: {} rows, {failed} failed", verdicts.len());
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Options {
    /// Some rows need a second build of the agent, which takes a while.
    fn wants_other_build(&self) -> bool {
        self.rows.is_empty()
            || self
                .rows
                .iter()
                .any(|row| table::OF_TWO_BUILDS.contains(row))
    }
}

/// The same again beside a build of the agent with another layout of the maps.
fn with_other_build() -> Result<ExitCode> {
    let other = test::build_other_layout(Lock::MayChange)?;
    let me = std::env::current_exe().context("find this program")?;
    let weft = match std::env::var_os("WEFT_BIN") {
        Some(path) => path,
        None => test::build_agent(Lock::MayChange)?.into(),
    };
    test::build_probe(Lock::MayChange)?;
    let status = std::process::Command::new(me)
        .args(std::env::args_os().skip(1))
        .env(OTHER_BUILD, other)
        .env("WEFT_BIN", weft)
        .status();
    Ok(if status.context("run again")?.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Rows at random until the time is over, each from the seed.
fn soak(rows: &[Row], minutes: u64, seed: u64) -> Result<Vec<Verdict>> {
    println!("soak: {minutes} minutes, --seed {seed}");
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    let order = table::shuffled(rows, seed).take_while(|_| Instant::now() < end);
    faults::run_all(order, false, seed, tell)
}

fn tell(verdict: &Verdict) {
    println!("{}", table::line(verdict));
    for note in &verdict.notes {
        println!("    {note}");
    }
    if let Some(why) = &verdict.failure {
        println!("    FAILED: {why}");
    }
    println!("    took {:.1?}", verdict.took);
}

fn report(verdicts: &[Verdict], thorough: bool) -> Result<()> {
    let how = if thorough {
        "each fault as long as the matrix says"
    } else {
        "each fault for a short while; `--thorough` takes hours"
    };
    let text = format!(
        "# Faults\n\nWritten by `cargo xtask faults`: {how}.\n\
         Three etcd members, three hosts, 1,000 packets a second and a TCP stream each way between \
         containers meanwhile.\n\"Lost\" is both ways together; the longest gap holds the \
         sender's own pauses, too.\n\n{}",
        table::markdown(verdicts)
    );
    let path = root().join(REPORT);
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

fn numbers() -> String {
    let all = table::ROWS.iter().map(|row| row.number.to_string());
    all.collect::<Vec<_>>().join(", ")
}

fn fresh_seed() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(u64::from(now.context("read the clock")?.subsec_nanos()))
}
