//! The fault lab: faults injected on purpose while packets travel, and what must hold after each.
//! One table of rows, for `cargo test` and for `cargo xtask faults`.

pub mod auth_rows;
pub mod cluster_rows;
pub mod hang_rows;
pub mod history;
pub mod host_rows;
pub mod invariants;
pub mod lease_rows;
pub mod narrow_rows;
pub mod process_rows;
pub mod pulse;
pub mod record_rows;
pub mod stage;
pub mod switch_rows;
pub mod table;
pub mod truth;
pub mod upgrade_rows;
pub mod uplink_rows;
pub mod vigil;
pub mod way_rows;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

pub use self::table::ROWS;
use self::{
    pulse::Pulse,
    stage::{SETTLE, Stage},
    vigil::Toll,
};
use crate::wait;

/// One fault.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// As in the matrix.
    pub number: u8,
    pub name: &'static str,
    pub criterion: &'static str,
    /// Part of `cargo xtask test`.
    pub fast: bool,
    /// The hosts between which packets travel meanwhile.
    pub between: (usize, usize),
    pub most: Most,
    /// Whether the stage is of no more use afterwards.
    pub wrecks: bool,
    pub inject: Inject,
}

/// Makes a fault and undoes it, or fails by what the row alone asks for.
pub type Inject = fn(&mut Stage) -> Result<Injected>;

/// What a fault may cost.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// Packets.
    pub lost: u64,
    /// Milliseconds without a packet, beyond the sender's own longest pause.
    pub gap_ms: u64,
    /// From its end until I1 to I4 and I6 hold.
    pub settle: Duration,
}

/// A fault that is over.
#[derive(Debug)]
pub struct Injected {
    /// When it ended.
    pub healed: Instant,
    /// What is worth telling.
    pub notes: Vec<String>,
}

impl Injected {
    /// Over just now.
    pub fn now() -> Self {
        Self {
            healed: Instant::now(),
            notes: Vec::new(),
        }
    }

    #[must_use]
    pub fn note(mut self, what: impl Into<String>) -> Self {
        self.notes.push(what.into());
        self
    }
}

/// What came of a row.
#[derive(Debug)]
pub struct Verdict {
    pub row: Row,
    pub toll: Option<Toll>,
    pub settled: Option<Duration>,
    pub notes: Vec<String>,
    pub failure: Option<String>,
    pub took: Duration,
}

impl Verdict {
    pub fn passed(&self) -> bool {
        self.failure.is_none()
    }
}

/// Injects the fault of one row, and judges.
pub fn run(row: Row, stage: &mut Stage) -> Verdict {
    let began = Instant::now();
    let mut verdict = Verdict {
        row,
        toll: None,
        settled: None,
        notes: Vec::new(),
        failure: None,
        took: Duration::ZERO,
    };
    if let Err(error) = inject(row, stage, &mut verdict) {
        verdict.failure = Some(format!("{error:#}"));
        println!("{}", stage.describe());
    }
    stage.spares.clear();
    stage.disturbed.clear();
    verdict.took = began.elapsed();
    verdict
}

fn inject(row: Row, stage: &mut Stage, verdict: &mut Verdict) -> Result<()> {
    stage.settle(SETTLE).context("before the fault")?;
    let before = Pulse::of_all(&stage.nodes)?;
    let began = Instant::now();
    let vigil = stage.vigil(row.between).context("start the load")?;
    let injected = (row.inject)(stage);
    let (healed, outcome) = match injected {
        Ok(Injected { healed, notes }) => {
            verdict.notes = notes;
            (healed, Ok(()))
        }
        Err(error) => (Instant::now(), Err(error)),
    };
    // Also after a failure: a fault that is not made undone is the next row's.
    let settled = if row.wrecks {
        Ok(())
    } else {
        stage.settle(SETTLE).map(drop)
    };
    verdict.settled = (!row.wrecks && settled.is_ok()).then(|| healed.elapsed());
    let toll = vigil.end();
    verdict.toll = toll.as_ref().ok().copied();
    outcome?;
    settled.context("after the fault")?;
    judge(row.most, &toll?, verdict.settled)?;
    // The ways to peers that are new are measured by some dozen sockets at a time.
    wait::until("what the agents use is bounded", SETTLE, || {
        let after = Pulse::of_all(&stage.nodes)?;
        Pulse::ensure_bounded(&before, &after, began.elapsed()).map(Some)
    })
}

fn judge(most: Most, toll: &Toll, settled: Option<Duration>) -> Result<()> {
    ensure!(toll.sent > 0, "nothing was sent");
    // The machine's queues are everybody's: what they dropped was no fault of a row.
    if toll.lost > most.lost + toll.backlog_drops {
        bail!(
            "{} of {} packets lost, {} allowed ({} dropped by the machine's backlog)",
            toll.lost,
            toll.sent,
            most.lost,
            toll.backlog_drops
        );
    }
    let gap = toll.gap_ms.saturating_sub(toll.pause_ms);
    ensure!(
        gap <= most.gap_ms,
        "{gap} ms without a packet, {} allowed",
        most.gap_ms
    );
    if let Some(settled) = settled {
        ensure!(
            settled <= most.settle,
            "I1 to I4 held after {settled:.1?}, not within {:?}",
            most.settle
        );
    }
    Ok(())
}

/// Runs rows one after the other. A stage that a row has wrecked, or failed on, is built anew.
pub fn run_all(
    rows: impl IntoIterator<Item = Row>,
    thorough: bool,
    seed: u64,
    mut tell: impl FnMut(&Verdict),
) -> Result<Vec<Verdict>> {
    let mut stage: Option<Stage> = None;
    let mut verdicts = Vec::new();
    for row in rows {
        let mut current = match stage.take() {
            Some(stage) => stage,
            None => Stage::new(thorough, seed).context("build the stage")?,
        };
        let verdict = run(row, &mut current);
        tell(&verdict);
        if verdict.passed() && !row.wrecks {
            stage = Some(current);
        }
        verdicts.push(verdict);
    }
    Ok(verdicts)
}
