//! Rows about builds that differ in the layout of their maps: 3, 33.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{Injected, invariants, stage::Stage, truth};
use crate::{
    cluster::lease_key,
    container::Place as _,
    dialogue::Dialogue,
    paths::{self, BPFTOOL},
    probe, wait,
};

const LIMIT: Duration = Duration::from_secs(30);
/// Hooks of the first host: uplink, device (two), bridge, one container's port (two).
const HOOKS: usize = 6;
/// Peers that the small maps hold.
const ROOM: usize = 64;

/// Replaces the first host's agent by another build.
fn replace(stage: &mut Stage, build: Option<PathBuf>) -> Result<Duration> {
    let agent = stage.agent(0)?;
    agent.kill_hard()?;
    agent.flags.build = build;
    stage.revive(0)
}

/// The versions that have pins on the first host.
fn versions(stage: &Stage) -> Result<BTreeSet<String>> {
    let text = stage.node(0)?.host.run("find /sys/fs/bpf/weft -type f")?;
    let version = |pin: &str| Some(pin.split('/').nth(5)?.to_owned());
    Ok(text.lines().filter_map(version).collect())
}

/// One program at each hook, of whatever build.
fn ensure_hooked_once(stage: &Stage) -> Result<()> {
    let node = stage.node(0)?;
    let port = &node.containers.first().context("a container")?.port;
    let devices = ["eth0", "flannel.1", "cni0", port.as_str()];
    let hooks = invariants::hooked(node, devices.iter())?;
    let counts: Vec<_> = hooks.iter().map(|hook| hook.programs.len()).collect();
    let (all, most) = (counts.iter().sum::<usize>(), counts.iter().max());
    ensure!(
        all == HOOKS && most == Some(&1),
        "programs at hooks: {hooks:?}"
    );
    Ok(())
}

/// Row 3, among flows that the first host's stack translates: the answers to them are the stack's,
/// and whichever build is at work must know that before a program of its own takes anything.
pub fn upgraded(stage: &mut Stage) -> Result<Injected> {
    const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 77), 9377);
    const FLOWS: u32 = 20;
    let backend = SocketAddrV4::new(stage.node(1)?.container(0)?.address(), SERVICE.port());
    let rule = format!(
        "PREROUTING -t nat -d {} -p udp --dport {} -j DNAT --to-destination {backend}",
        SERVICE.ip(),
        SERVICE.port()
    );
    let host = stage.node(0)?.host.clone();
    host.run(&format!("iptables -A {rule}"))?;
    let _server = probe::serve(stage.node(1)?.container(0)?, &format!("udp-echo {backend}"))?;
    let mut flows = Dialogue::udp(stage.node(0)?.container(0)?, 20_000, SERVICE)?;
    flows.open(FLOWS)?;
    flows.complete_round(FLOWS.into())?;
    let over = AtomicBool::new(false);
    let (outcome, answered) = thread::scope(|scope| {
        let asking = scope.spawn(|| -> Result<u32> {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                flows.complete_round(FLOWS.into())?;
                rounds += 1;
            }
            Ok(rounds)
        });
        let outcome = there_and_back(stage);
        over.store(true, Ordering::Relaxed);
        (outcome, asking.join())
    });
    host.run(&format!("iptables -D {rule}"))?;
    let injected = outcome?;
    let answered = answered.map_err(|_panic| anyhow!("who asks the flows panicked"))?;
    let rounds = answered.context("translated flows")?;
    Ok(injected.note(format!(
        "{FLOWS} translated flows were answered {rounds} times meanwhile"
    )))
}

fn there_and_back(stage: &mut Stage) -> Result<Injected> {
    let other = paths::weft_of_other_layout()?;
    let before = versions(stage)?;
    ensure!(before.len() == 1, "versions before: {before:?}");
    let there = replace(stage, Some(other))?;
    // What the other version has left goes once everything is attached anew.
    let swept = wait::until_true("the old version is gone", LIMIT, || {
        let now = versions(stage)?;
        ensure_hooked_once(stage)?;
        Ok(now.len() == 1 && now != before)
    });
    let back = replace(stage, None)?;
    swept?;
    wait::until_true("the other version is gone", LIMIT, || {
        Ok(versions(stage)? == before)
    })?;
    Ok(Injected::now().note(format!("ready after {there:.1?} there and {back:.1?} back")))
}

/// Row 33.
pub fn full_maps(stage: &mut Stage) -> Result<Injected> {
    const MANY: u8 = 100;
    let other = paths::weft_of_other_layout()?;
    replace(stage, Some(other))?;
    let names = |number: u8| format!("188.172.{}.0-24", 100 + number);
    let pair = |number: u8| {
        let address = format!("192.0.2.{}", 100 + number);
        let value = truth::value(&address, &format!("0a:00:00:00:21:{number:02x}"));
        (lease_key(&names(number)), value)
    };
    let pairs: Vec<_> = (0..MANY).map(pair).collect();
    stage.cluster.put_all(&pairs)?;
    let crowded = crowded(stage, usize::from(MANY) + stage.nodes.len() - 1);
    let roomy = crowded.and_then(|()| {
        replace(stage, None)?;
        stage.settle(LIMIT).context("with more room")
    });
    for number in 0..MANY {
        stage.cluster.delete_lease(&names(number))?;
    }
    if roomy.is_err() {
        replace(stage, None)?;
    }
    let roomy = roomy?;
    Ok(Injected::now().note(format!("all in place {roomy:.1?} after there was room")))
}

/// The kernel knows the way to all, the programs as many as they hold, and the status says so.
fn crowded(stage: &Stage, all: usize) -> Result<()> {
    let host = &stage.node(0)?.host;
    let pin = host.run("find /sys/fs/bpf/weft -path */maps/PEERS")?;
    let pin = pin.trim().to_owned();
    wait::until_true("the kernel knows all peers", LIMIT, || {
        Ok(host.ip("route show dev flannel.1")?.lines().count() == all)
    })?;
    let mut seen = (0, String::new());
    let full = wait::until_true("the programs are full, and it is said", LIMIT, || {
        let text = host.run(&format!("{BPFTOOL} -j map dump pinned {pin}"))?;
        let entries: serde_json::Value = serde_json::from_str(&text).context("parse the map")?;
        let known = entries.as_array().map_or(0, Vec::len);
        let status = host.status()?.to_string();
        ensure!(known <= ROOM, "{known} peers where {ROOM} have room");
        let done = known == ROOM && status.contains("PEERS");
        seen = (known, status);
        Ok(done)
    });
    full.with_context(|| format!("{} peers are known: {}", seen.0, seen.1))
}
