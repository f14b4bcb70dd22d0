//! Where a thread runs, and how much work the machine has done.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The unit of `/proc/stat` (`USER_HZ`).
const TICKS: f64 = 100.0;

/// Keeps the calling thread on one core.
pub(crate) fn pin(core: Option<usize>) -> Result<()> {
    let Some(core) = core else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .with_context(|| format!("run on core {core}"))
}

/// Fails unless the process may run on these cores: a thread that finds out by itself keeps the
/// others waiting.
pub(crate) fn check(cores: impl Iterator<Item = usize>) -> Result<()> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("read the cores of this process")?;
    for core in cores {
        ensure!(
            allowed.is_set(core).unwrap_or(false),
            "there is no core {core} for this process"
        );
    }
    Ok(())
}

/// CPU time that the machine has spent since its start, in seconds: processes, interrupts and
/// softirqs.
pub(crate) fn busy() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    sum(&text).context("/proc/stat has no first line of numbers")
}

/// `cpu user nice system idle iowait irq softirq …` (proc_stat(5)).
#[expect(clippy::cast_precision_loss, reason = "seconds of a machine's life")]
fn sum(text: &str) -> Option<f64> {
    let mut words = text.lines().next()?.split_ascii_whitespace();
    if words.next()? != "cpu" {
        return None;
    }
    let fields: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields[..] else {
        return None;
    };
    Some((user + nice + system + irq + softirq) as f64 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_no_work() {
        assert_eq!(sum("cpu  100 0 50 9999 77 1 49 3 0 0\ncpu0 …"), Some(2.0));
        assert_eq!(sum("intr 5"), None);
        assert!(busy().unwrap() > 0.0);
    }
}
