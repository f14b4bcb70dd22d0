//! flannel's contract beyond packets: flags, health, rules in nftables, a network config that changes,
//! leases of both families, several networks on one host.

mod flags;
mod networks;
mod rules;
mod running;

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    daemon::Daemon,
    host::Host,
    paths,
    probe::{self, Exchange},
    reach::{self, Effort},
    wait,
    world::World,
};

/// For the agent to answer what was done: it looks every five seconds, and a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(15);

/// Everything arrives between the first containers, both ways.
fn reach_each_other(world: &World) -> Result<()> {
    let (a, b) = world.pair()?;
    let effort = Effort {
        pings: 2,
        packets: 50,
        tcp_bytes: 1 << 20,
    };
    let reached = [
        reach::try_pair(a, b, effort)?,
        reach::try_pair(b, a, effort)?,
    ];
    reach::ensure_all(&reached).with_context(|| world.describe())
}

/// New flows between the first containers are the programs'. A flow that began when its endpoints
/// were not known yet may still be the stack's, which is another test's matter.
fn ensure_fast(world: &World) -> Result<()> {
    let (a, b) = world.pair()?;
    for node in &world.nodes {
        let what = format!("the container on {} is known", node.host.label);
        wait::until_true(&what, PATIENCE, || Ok(!node.host.endpoints()?.is_empty()))?;
    }
    let before = world.counters()?;
    let packets = Exchange {
        port: 9201,
        rate: 1000,
        count: 200,
        size: 64,
    };
    probe::ensure_complete("UDP", packets.run(a, b)?)?;
    probe::transfer(a, b, 9202, 1 << 20)?;
    world.ensure_fast(&before)
}

/// Waits until a part of the agent says something that contains `text`.
fn until_said(host: &Host, part: &str, text: &str) -> Result<()> {
    let what = format!("{part} on {} says {text:?}", host.label);
    wait::until_true(&what, PATIENCE, || Ok(host.component(part)?.contains(text)))
        .with_context(|| host.component(part).unwrap_or_default())
}

/// An agent that must end by itself: its exit code, what it said, and how long it took.
fn refused(host: &Host, flags: &[&str]) -> Result<(i32, String, Duration)> {
    let mut command: Command = host.command(paths::weft()?);
    command.arg("run").args(flags);
    let log: PathBuf = host.folder().join("refused.log");
    // What an earlier one said is not this one's.
    if log.exists() {
        std::fs::remove_file(&log).context("remove a log")?;
    }
    let began = std::time::Instant::now();
    let mut agent = Daemon::start("an agent that is to end", command, log)?;
    let status = agent.wait(PATIENCE)?;
    let took = began.elapsed();
    let code = status.code().context("an exit code")?;
    Ok((code, agent.log(), took))
}

fn ensure_ready(host: &Host) -> Result<()> {
    let (code, table, _) = host.weft(&["status"])?;
    ensure!(code == 0, "{} is not ready:\n{table}", host.label);
    Ok(())
}
