//! What each program costs: the kernel's own count of runs and nanoseconds.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::Value;
use weft_tests::{
    command,
    paths::{BPFTOOL, required},
};

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Runs and nanoseconds of every program of ours, by name.
pub(super) type Runs = BTreeMap<String, (u64, u64)>;

/// Counting costs some twenty nanoseconds a run: it is on for its own measurement alone.
pub(super) struct Counting {
    before: String,
}

impl Counting {
    pub(super) fn start() -> Result<Self> {
        let before = fs::read_to_string(SWITCH).context("read the switch of BPF statistics")?;
        fs::write(SWITCH, "1").context("turn BPF statistics on")?;
        Ok(Self { before })
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(SWITCH, self.before.trim()) {
            eprintln!("bench: {SWITCH} stays on: {error}");
        }
    }
}

/// Summed over all programs of a name.
pub(super) fn runs() -> Result<Runs> {
    let mut bpftool = std::process::Command::new(required(BPFTOOL)?);
    let text = command::run(bpftool.args(["-j", "prog", "show"]))?;
    let all: Vec<Value> = serde_json::from_str(&text).context("bpftool's list of programs")?;
    let mut runs = Runs::new();
    for program in all {
        let number = |field| program.get(field).and_then(Value::as_u64).unwrap_or(0);
        let name = program.get("name").and_then(Value::as_str);
        let name = name.unwrap_or_default().to_owned();
        let sums = runs.entry(name).or_default();
        sums.0 += number("run_cnt");
        sums.1 += number("run_time_ns");
    }
    Ok(runs)
}

/// Nanoseconds a run of each program that ran between the two.
#[expect(clippy::cast_precision_loss, reason = "figures of a measurement")]
pub(super) fn cost(before: &Runs, after: &Runs) -> BTreeMap<String, (u64, f64)> {
    let mut cost = BTreeMap::new();
    for (name, (count, nanos)) in after {
        let (count_then, nanos_then) = before.get(name).copied().unwrap_or_default();
        let ran = count.saturating_sub(count_then);
        if ran > 0 {
            let each = nanos.saturating_sub(nanos_then) as f64 / ran as f64;
            cost.insert(name.clone(), (ran, each));
        }
    }
    cost
}

/// Whether this kernel can count.
pub(super) fn can_count() -> bool {
    Path::new(SWITCH).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ran_meanwhile_counts() {
        let runs = |count, nanos| Runs::from([("from_uplink".to_owned(), (count, nanos))]);
        let cost = cost(&runs(100, 40_000), &runs(300, 100_000));
        assert_eq!(cost.get("from_uplink"), Some(&(200, 300.0)));
        assert!(super::cost(&runs(5, 5), &runs(5, 5)).is_empty());
    }
}
