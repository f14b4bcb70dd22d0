//! `cargo xtask bench`: networks side by side, measured in turn in short slices over several
//! rounds, so that a machine that drifts drifts for all.

mod figures;
mod lanes;
mod measures;
mod plot;
mod programs;
mod scale;
mod stages;
mod table;
mod worker;
mod yardstick;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use weft_bench::slice::Slice;
use weft_tests::lab::Lab;

use self::{
    figures::Figures,
    lanes::{KINDS, Kind, Lane, ensure_fast},
    measures::{MEASURES, Measure, Wire},
};
use crate::{
    shell,
    toolchain::{Lock, Object, root, target},
};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    of: Option<Of>,
    /// Fewer rounds of shorter slices: to see that it runs.
    #[arg(long)]
    quick: bool,
    /// Rounds; each measures everything once in every lane.
    #[arg(long)]
    rounds: Option<u32>,
    /// Only measurements whose name contains one of these.
    #[arg(long)]
    only: Vec<String>,
    /// Only these lanes, by name.
    #[arg(long)]
    lane: Vec<String>,
    /// Another build of the agent, for a lane `weft_before`: what a change gave shows beside it.
    #[arg(long)]
    before: Option<PathBuf>,
    /// Only what each step of the programs costs.
    #[arg(long)]
    stages: bool,
    /// As what to print.
    #[arg(short, long, value_parser = ["text", "json"], default_value = "text")]
    output: String,
    /// Write the figures and a picture of them into docs/.
    #[arg(long)]
    plot: bool,
    /// Fail unless every target is met.
    #[arg(long)]
    assert: bool,
}

/// What else can be measured.
#[derive(Debug, clap::Subcommand)]
enum Of {
    /// The agent with many peers: start, changes, memory, idling.
    Scale(scale::Options),
}

const QUICK: (u32, u64) = (3, 120);
const WHOLE: (u32, u64) = (9, 300);

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if options.stages {
        stages::run(Lock::MayChange)?;
        return Ok(ExitCode::SUCCESS);
    }
    let weft = build(Lock::MayChange)?;
    // By its name in the environment the lab finds the agent that was just built.
    let unnamed = options.of.is_some() && std::env::var_os("WEFT_BIN").is_none();
    if !shell::is_root() || unnamed {
        return again_as_root(&weft);
    }
    if let Some(Of::Scale(options)) = &options.of {
        return scale::run(options);
    }
    let (rounds, millis) = if options.quick { QUICK } else { WHOLE };
    let rounds = options.rounds.unwrap_or(rounds);
    let chosen: Vec<&Measure> = MEASURES
        .iter()
        .filter(|measure| {
            options.only.is_empty() || options.only.iter().any(|part| measure.name.contains(part))
        })
        .collect();
    let kinds = chosen_lanes(options)?;
    let lanes = Lanes {
        kinds: &kinds,
        weft: &weft,
        before: options.before.as_deref(),
    };
    let report = measure(&lanes, &chosen, rounds, millis)?;
    if options.output == "json" {
        println!("{}", serde_json::to_string_pretty(&report.json)?);
    } else {
        println!("{}", report.text);
    }
    if options.plot {
        let docs = root().join("docs");
        std::fs::create_dir_all(&docs).context("make docs/")?;
        let text = serde_json::to_string_pretty(&report.json)?;
        std::fs::write(docs.join("bench.json"), text + "\n").context("write docs/bench.json")?;
        plot::draw(&docs.join("bench.svg"), &report.figures, &report.caption)?;
    }
    let (verdicts, all) = table::targets(&report.figures);
    if options.assert {
        eprintln!("\n{verdicts}");
        if !all {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Which lanes are built, and with what.
struct Lanes<'a> {
    kinds: &'a [Kind],
    weft: &'a Path,
    before: Option<&'a Path>,
}

fn chosen_lanes(options: &Options) -> Result<Vec<Kind>> {
    let wanted = |kind: &Kind| match kind {
        Kind::WeftBefore => options.before.is_some(),
        kind => options.lane.is_empty() || options.lane.iter().any(|name| name == kind.name()),
    };
    let kinds: Vec<Kind> = KINDS.iter().copied().filter(wanted).collect();
    let names = || KINDS.iter().map(|kind| kind.name()).collect::<Vec<_>>();
    ensure!(
        options
            .lane
            .iter()
            .all(|name| names().contains(&name.as_str()))
            && !kinds.is_empty(),
        "--lane takes {}",
        names().join(", ")
    );
    Ok(kinds)
}

struct Report {
    figures: Figures,
    json: Value,
    text: String,
    caption: String,
}

/// The agent as users get it.
fn build(lock: Lock) -> Result<PathBuf> {
    if let Some(built) = std::env::var_os("WEFT_BIN") {
        return Ok(built.into());
    }
    let mut cargo = lock.cargo(Object::Real, "build");
    shell::run(cargo.args(["--release", "-p", "weft", "--bin", "weft"]))?;
    Ok(target().join("release/weft"))
}

/// Built as the user, run as root.
fn again_as_root(weft: &Path) -> Result<ExitCode> {
    let me = std::env::current_exe().context("find this program")?;
    let mut command = shell::as_root_with(&[("WEFT_BIN", weft.as_os_str())], me);
    command.args(std::env::args_os().skip(1));
    let status = command.status().context("run as root")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn measure(
    &Lanes {
        kinds,
        weft,
        before,
    }: &Lanes<'_>,
    chosen: &[&Measure],
    rounds: u32,
    millis: u64,
) -> Result<Report> {
    let pairs = u8::try_from(kinds.len())?;
    let lab = Lab::cabled("bench", pairs)?;
    let mut lanes = Vec::new();
    for (number, kind) in kinds.iter().enumerate() {
        eprintln!("bench: building {}", kind.name());
        let lane = Lane::build(&lab, number, *kind, weft.as_os_str(), before);
        lanes.push(lane.with_context(|| format!("build the lane {}", kind.name()))?);
    }
    let mut figures = Figures::default();
    let steps = u64::from(rounds) * u64::try_from(chosen.len() * lanes.len())?;
    let bar = ProgressBar::new(steps);
    bar.set_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} {msg}, {eta} left",
    )?);
    // Caches and neighbours warm up, and agents get to know the containers.
    for lane in &mut lanes {
        for measure in chosen {
            slice(lane, measure, 20)?;
        }
        lane.until_known()?;
    }
    let before: Vec<_> = lanes
        .iter()
        .map(|lane| Ok((lane.kind, lane.counters()?)))
        .collect::<Result<_>>()?;
    for round in 0..rounds {
        for measure in chosen {
            set_wires(&lanes, measure.wire)?;
            let first = usize::try_from(round)?
                .checked_rem(lanes.len())
                .unwrap_or(0);
            lanes.rotate_left(first);
            for lane in &mut lanes {
                bar.set_message(format!("{} on {}", measure.name, lane.kind.name()));
                if lane.kind != Kind::WeftMany || measure.many {
                    let sample = slice(lane, measure, millis)?;
                    figures.add(lane.kind.name(), measure, sample);
                }
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    lanes.sort_by_key(|lane| lane.kind);
    for (kind, before) in &before {
        let lane = lanes.iter().find(|lane| lane.kind == *kind);
        lane.map_or(Ok(()), |lane| ensure_fast(lane, before))?;
    }
    let costs = costs(&mut lanes, chosen)?;
    Ok(report(figures, kinds, &costs, rounds, millis))
}

fn slice(lane: &mut Lane, measure: &Measure, millis: u64) -> Result<weft_bench::slice::Sample> {
    let slice = Slice {
        load: measure.load,
        cores: measure.cores,
        millis,
    };
    let sample = lane.pair.run(&slice);
    sample.with_context(|| format!("{} on {}", measure.name, lane.kind.name()))
}

fn set_wires(lanes: &[Lane], wire: Wire) -> Result<()> {
    lanes.iter().try_for_each(|lane| lane.set_wire(wire))
}

/// Nanoseconds a run of each program, by measurement, in the lane with hooks at the ports.
fn costs(lanes: &mut [Lane], chosen: &[&Measure]) -> Result<Value> {
    let mut by_measure = serde_json::Map::new();
    if !programs::can_count() {
        return Ok(Value::Null);
    }
    let _counting = programs::Counting::start()?;
    let Some(lane) = lanes.iter_mut().find(|lane| lane.kind == Kind::Weft) else {
        return Ok(Value::Null);
    };
    for measure in chosen {
        lane.set_wire(measure.wire)?;
        let before = programs::runs()?;
        slice(lane, measure, 200)?;
        let cost = programs::cost(&before, &programs::runs()?);
        let each = cost
            .into_iter()
            .map(|(name, (runs, nanos))| (name, json!({ "runs": runs, "nanos": nanos })));
        by_measure.insert(measure.name.to_owned(), each.collect());
    }
    Ok(Value::Object(by_measure))
}

fn report(figures: Figures, kinds: &[Kind], costs: &Value, rounds: u32, millis: u64) -> Report {
    let lanes: Vec<&'static str> = kinds.iter().map(|kind| kind.name()).collect();
    let machine = machine();
    let date = date();
    let kernel = kernel();
    let caption = format!("{machine}, Linux {kernel}, {date}; {rounds} rounds of {millis} ms");
    let mut json = figures.json(&lanes);
    if let Value::Object(fields) = &mut json {
        fields.insert("schema".to_owned(), json!("weft/bench/v1"));
        fields.insert("machine".to_owned(), json!(machine));
        fields.insert("kernel".to_owned(), json!(kernel));
        fields.insert("date".to_owned(), json!(date));
        fields.insert("rounds".to_owned(), json!(rounds));
        fields.insert("slice_ms".to_owned(), json!(millis));
        fields.insert("programs".to_owned(), costs.clone());
    }
    let text = format!(
        "{caption}\n\nrates (median, half of the whole spread)\n{}\n\nCPU of both hosts\n{}\n\nprograms, ns a run\n{}",
        table::rates(&figures, &lanes),
        table::cpu(&figures, &lanes),
        costs_text(costs),
    );
    Report {
        figures,
        json,
        text,
        caption,
    }
}

fn costs_text(costs: &Value) -> String {
    let Value::Object(by_measure) = costs else {
        return "not counted by this kernel".to_owned();
    };
    let line = |(measure, programs): (&String, &Value)| {
        let programs = programs.as_object().into_iter().flatten();
        let each = programs.map(|(name, cost)| {
            let nanos = cost.get("nanos").and_then(Value::as_f64).unwrap_or(0.0);
            format!("{name} {nanos:.0}")
        });
        format!("{measure:<15}{}", each.collect::<Vec<_>>().join(", "))
    };
    by_measure.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| {
            rest.trim_start_matches(['\t', ':', ' '])
        });
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{cores} cores of {model}")
}

fn kernel() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    text.trim().split('-').next().unwrap_or_default().to_owned()
}

fn date() -> String {
    let date = shell::output(Command::new("date").args(["-u", "+%Y-%m-%d"]));
    date.unwrap_or_default().trim().to_owned()
}
