//! `cargo xtask bench --stages`: what each step of the programs costs, from packets that go further
//! and further through them.

use anyhow::{Context as _, Result, ensure};

use crate::{shell, test::build_programs, toolchain::Lock};

/// The test that times them.
const TEST: &str = "stages::each_step_has_its_cost";
const RUNS: &str = "200000";

/// One step: the program, nanoseconds up to its end, and what it is.
type Step = (String, i64, String);

pub(super) fn run(lock: Lock) -> Result<()> {
    let words = ["-p", "weft", "--features", "fakes", "--test", "programs"];
    let programs = build_programs(lock, &words)?;
    let (program, _) = programs.first().context("the tests of the programs")?;
    let mut command = shell::as_root_with(&[("WEFT_STAGE_RUNS", RUNS.as_ref())], program);
    command.args([TEST, "--exact", "--nocapture"]);
    let steps = steps(&shell::output(&mut command)?);
    ensure!(!steps.is_empty(), "{TEST} printed no step");
    print!("{}", table(&steps));
    Ok(())
}

/// From lines like `stage: from_uplink 47 what is done`, alone or behind the test's name.
fn steps(text: &str) -> Vec<Step> {
    let step = |line: &str| {
        let (_, row) = line.split_once("stage: ")?;
        let (name, row) = row.split_once(' ')?;
        let (nanos, what) = row.split_once(' ')?;
        Some((name.to_owned(), nanos.parse().ok()?, what.to_owned()))
    };
    text.lines().filter_map(step).collect()
}

fn table(steps: &[Step]) -> String {
    let mut text = String::from(
        "| program | ns so far | ns of the step | step |\n| --- | --- | --- | --- |\n",
    );
    let mut before: Option<&Step> = None;
    for step @ (name, nanos, what) in steps {
        let last = before.filter(|(last, ..)| last == name);
        let more = nanos - last.map_or(0, |(_, nanos, _)| *nanos);
        text.push_str(&format!("| `{name}` | {nanos} | {more} | {what} |\n"));
        before = Some(step);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_what_comes_on_top() {
        let said =
            "test a ... stage: out 40 begin\nstage: out 55 a look\nother\nstage: in 30 begin\n";
        let table = table(&steps(said));
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| `out` | 40 | 40 | begin |",
                "| `out` | 55 | 15 | a look |",
                "| `in` | 30 | 30 | begin |"
            ]
        );
    }
}
