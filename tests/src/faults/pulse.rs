//! What an agent uses: processor time, memory, descriptors, lines of its log (I5).

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::world::{Driver, Node};

/// Of one processor, in percent.
const BUSY: u64 = 10;
const GROWTH_KIB: u64 = 5 * 1024;
/// Members that are asked again have a connection of their own meanwhile.
const DESCRIPTORS: usize = 12;
/// In a minute, or in less.
const LINES: u64 = 60;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulse {
    host: String,
    pid: u32,
    cpu: Duration,
    resident_kib: u64,
    descriptors: usize,
    lines: u64,
}

impl Pulse {
    /// Of every agent that runs.
    pub fn of_all(nodes: &[Node]) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for node in nodes {
            if let Driver::Weft(agent) = &node.driver
                && let Some(pid) = agent.pid()
            {
                let log = node.host.folder().join("weft.log");
                let pulse = Self::of(&node.host.label, pid, &log);
                all.push(pulse.with_context(|| format!("the agent on {}", node.host.label))?);
            }
        }
        Ok(all)
    }

    fn of(host: &str, pid: u32, log: &std::path::Path) -> Result<Self> {
        let process = format!("/proc/{pid}");
        let stat = fs::read_to_string(format!("{process}/stat")).context("read its state")?;
        // The name may hold spaces; what follows it does not.
        let fields = stat.rsplit_once(") ").context("its state")?.1;
        let field = |index: usize| -> Result<u64> {
            let word = fields.split_whitespace().nth(index).context("a field")?;
            word.parse().context("a number")
        };
        let ticks = field(11)? + field(12)?;
        let pages = field(21)?;
        let descriptors = fs::read_dir(format!("{process}/fd")).context("its descriptors")?;
        Ok(Self {
            host: host.to_owned(),
            pid,
            // A hundred ticks a second, in pages of 4 KiB: so it is on every kernel of this lab.
            cpu: Duration::from_millis(ticks * 10),
            resident_kib: pages * 4,
            descriptors: descriptors.count(),
            lines: fs::read_to_string(log)
                .context("read its log")?
                .lines()
                .count() as u64,
        })
    }

    /// Fails when an agent that lived through it grew or talked too much.
    pub fn ensure_bounded(before: &[Self], after: &[Self], time: Duration) -> Result<()> {
        for now in after {
            if let Some(then) = before.iter().find(|then| then.pid == now.pid) {
                then.ensure_small(now, time)?;
            }
        }
        Ok(())
    }

    /// The same, and when it was busy.
    pub fn ensure_calm(before: &[Self], after: &[Self], time: Duration) -> Result<()> {
        for now in after {
            let Some(then) = before.iter().find(|then| then.pid == now.pid) else {
                continue;
            };
            let busy = (now.cpu - then.cpu).as_millis() * 100 / time.as_millis().max(1);
            ensure!(
                busy < u128::from(BUSY),
                "I5: the agent on {} was busy for {busy} % of the time",
                now.host
            );
        }
        Self::ensure_bounded(before, after, time)
    }

    fn ensure_small(&self, now: &Self, time: Duration) -> Result<()> {
        let host = &now.host;
        let growth = now.resident_kib.saturating_sub(self.resident_kib);
        ensure!(
            growth < GROWTH_KIB,
            "I5: the agent on {host} grew by {growth} KiB"
        );
        let (then, there) = (self.descriptors, now.descriptors);
        ensure!(
            there <= then + DESCRIPTORS,
            "I5: the agent on {host} had {then} descriptors and has {there}"
        );
        let (lines, minutes) = (now.lines - self.lines, time.as_secs().div_ceil(60).max(1));
        ensure!(
            lines <= LINES * minutes,
            "I5: the agent on {host} logged {lines} lines"
        );
        Ok(())
    }
}
