//! Rows about the agent's process: 1, 2, 4, 5, 23.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{Injected, invariants::hooked, stage::Stage};
use crate::{
    agent::{Agent, Flags},
    dump::Counters,
    host::Host,
    paths::BPFTOOL,
    supervisor::Supervisor,
    world::Node,
};

/// What a restart must keep, and the programs, which it must not.
#[derive(Debug)]
struct Identity {
    links: BTreeSet<u32>,
    programs: BTreeSet<u32>,
    maps: BTreeMap<String, String>,
    counters: Counters,
}

fn identity(node: &Node) -> Result<Identity> {
    let mut devices = vec!["eth0".to_owned(), "flannel.1".to_owned(), "cni0".to_owned()];
    devices.extend(
        node.containers
            .iter()
            .map(|container| container.port.clone()),
    );
    let hooks = hooked(node, devices.iter())?;
    let all = |of: fn(&crate::report::Hooked) -> &Vec<u32>| {
        let numbers = hooks.iter().flat_map(|hook| of(hook).iter().copied());
        numbers.collect::<BTreeSet<u32>>()
    };
    let maps = pins(&node.host, "maps")?.into_iter().map(|pin| {
        let shown = node.host.run(&format!("{BPFTOOL} map show pinned {pin}"))?;
        let id = shown.split(':').next().unwrap_or_default().to_owned();
        Ok((pin, id))
    });
    Ok(Identity {
        links: all(|hook| &hook.links),
        programs: all(|hook| &hook.programs),
        maps: maps.collect::<Result<_>>()?,
        counters: node.host.counters()?,
    })
}

fn pins(host: &Host, kind: &str) -> Result<BTreeSet<String>> {
    let text = host.run(&format!("find /sys/fs/bpf/weft -type f -path */{kind}/*"))?;
    Ok(text.lines().map(str::to_owned).collect())
}

pub fn everything_pinned(host: &Host) -> Result<BTreeSet<String>> {
    Ok(&pins(host, "maps")? | &pins(host, "links")?)
}

/// Row 1.
pub fn killed(stage: &mut Stage) -> Result<Injected> {
    // The programs are as old as the agent that loaded them.
    stage.agent(0)?.kill_hard()?;
    let started = stage.node(0)?.host.run("date -u -d -1second +%FT%TZ")?;
    stage.revive(0)?;
    let ready = stage.node(0)?.host.run("date -u -d +1second +%FT%TZ")?;
    let before = everything_pinned(&stage.node(0)?.host)?;
    stage.agent(0)?.kill_hard()?;
    stage.endure(Duration::from_secs(5), Duration::from_secs(60))?;
    let host = &stage.node(0)?.host;
    let after = everything_pinned(host)?;
    ensure!(
        !before.is_empty() && before == after,
        "pinned: {before:?}, then {after:?}"
    );
    let (code, _, said) = host.weft(&["status"])?;
    ensure!(code == 3, "status ended with {code}: {said}");
    let since = said
        .split_once("agent down, data path up since ")
        .and_then(|(_, rest)| rest.split_once(' '))
        .with_context(|| format!("it does not say since when: {said}"))?
        .0
        .to_owned();
    ensure!(
        started <= since && since <= ready,
        "since {since}, and the agent was started from {started} to {ready}"
    );
    let took = stage.revive(0)?;
    Ok(Injected::now().note(format!(
        "data path up since {since}, started again in {took:.1?}"
    )))
}

/// Row 2.
pub fn killed_and_restarted(stage: &mut Stage) -> Result<Injected> {
    let before = identity(stage.node(0)?)?;
    stage.agent(0)?.kill_hard()?;
    let took = stage.revive(0)?;
    let injected = Injected::now();
    let after = identity(stage.node(0)?)?;
    ensure!(
        !before.links.is_empty() && before.links == after.links,
        "links: {:?}, then {:?}",
        before.links,
        after.links
    );
    ensure!(
        before.programs.is_disjoint(&after.programs),
        "programs: {:?}, then {:?}",
        before.programs,
        after.programs
    );
    ensure!(
        before.maps == after.maps,
        "maps: {:?}, then {:?}",
        before.maps,
        after.maps
    );
    for then in &before.counters.counters {
        let now = after.counters.of(&then.hook, &then.reason);
        ensure!(now >= then.packets, "{then:?} fell to {now}");
    }
    Ok(injected.note(format!("ready after {took:.1?}")))
}

/// Row 4.
pub fn killed_while_starting(stage: &mut Stage) -> Result<Injected> {
    let mut slowest = Duration::ZERO;
    let times = stage.times(20, 200);
    stage.agent(0)?.kill_hard()?;
    // Most of them before it is ready, some just after.
    let whole = stage.revive(0)?;
    let span = u64::try_from((whole * 5 / 4).as_micros())?;
    stage.agent(0)?.kill_hard()?;
    for number in 0..times {
        let after = Duration::from_micros(stage.dice(span));
        let agent = stage.agent(0)?;
        agent.restart()?;
        std::thread::sleep(after);
        agent.kill_hard()?;
        let took = stage.revive(0)?;
        slowest = slowest.max(took);
        stage
            .settle(Duration::from_secs(5))
            .with_context(|| format!("kill {number} after {after:?}"))?;
        stage.agent(0)?.kill_hard()?;
    }
    stage.revive(0)?;
    super::lease_rows::no_orphans(stage)?;
    ensure!(
        slowest < Duration::from_secs(3),
        "the slowest start took {slowest:.1?}"
    );
    Ok(Injected::now().note(format!(
        "{times} kills in the first {:.1?}, the slowest start took {slowest:.1?}",
        whole * 5 / 4
    )))
}

/// Row 5.
pub fn terminated(stage: &mut Stage) -> Result<Injected> {
    let before = everything_pinned(&stage.node(0)?.host)?;
    let mut supervisor = Supervisor::new(stage.folder(), Duration::from_secs(30))?;
    let agent = stage.agent(0)?;
    agent.kill_hard()?;
    agent.flags.environment = supervisor.environment();
    stage.revive(0)?;
    let began = Instant::now();
    let agent = stage.agent(0)?;
    agent.stop()?;
    let took = began.elapsed();
    agent.flags.environment.clear();
    supervisor.until("STOPPING=1", Duration::from_secs(1))?;
    ensure!(took < Duration::from_secs(2), "it took {took:?} to stop");
    stage.endure(Duration::from_secs(2), Duration::from_secs(10))?;
    let after = everything_pinned(&stage.node(0)?.host)?;
    ensure!(before == after, "pinned: {before:?}, then {after:?}");
    stage.revive(0)?;

    stage.agent(2)?.stop()?;
    let host = &stage.node(2)?.host;
    let (code, _, errors) = host.weft(&["cleanup"])?;
    ensure!(code == 0, "cleanup ended with {code}: {errors}");
    ensure!(
        host.ip("link show flannel.1").is_err(),
        "the device is still there"
    );
    let pins = host.run("find /sys/fs/bpf -path */weft/* -type f")?;
    ensure!(pins.trim().is_empty(), "still pinned: {pins}");
    ensure!(
        !host.file("/run/flannel/subnet.env").exists(),
        "subnet.env is still there"
    );
    let rules = host.run("iptables-save")?;
    ensure!(!rules.contains("FLANNEL"), "still there: {rules}");
    let node = stage.node(2)?;
    let ports = node.containers.iter().map(|one| one.port.as_str());
    let hooks = hooked(node, ["eth0", "cni0"].into_iter().chain(ports))?;
    ensure!(
        hooks.iter().all(|hook| hook.programs.is_empty()),
        "programs are still there: {hooks:?}"
    );
    stage.revive(2)?;
    Ok(Injected::now().note(format!("stopped in {took:.1?}")))
}

/// Row 23.
pub fn two_agents(stage: &mut Stage) -> Result<Injected> {
    let first = stage.agent(0)?.pid().context("the first agent")?;
    let host = stage.node(0)?.host.clone();
    for more in [&[][..], &["--socket=/run/weft/second.sock"]] {
        let mut flags = Flags::new(&stage.cluster.endpoints());
        flags.more = more.iter().map(ToString::to_string).collect();
        let began = Instant::now();
        let mut second = Agent::start(&host, flags)?;
        let daemon = second.daemon()?;
        let earlier = daemon.log().len();
        let status = daemon.wait(Duration::from_secs(5))?;
        let took = began.elapsed();
        let log = daemon.log();
        let said = log.get(earlier..).unwrap_or_default();
        ensure!(
            status.code() == Some(64),
            "the second ended with {status}: {said}"
        );
        ensure!(took < Duration::from_secs(1), "it took {took:?}: {said}");
        ensure!(
            said.contains(&first.to_string()),
            "{first} is not named: {said}"
        );
    }
    another_network(stage)
}

/// A network of its own on the same host is no second agent of the first.
fn another_network(stage: &mut Stage) -> Result<Injected> {
    let config = r#"{"Network":"188.173.0.0/16","Backend":{"Type":"vxlan","VNI":2,"Port":8473}}"#;
    stage.cluster.put("/second.network/config", config)?;
    let host = stage.node(0)?.host.clone();
    let mut flags = Flags::new(&stage.cluster.endpoints());
    let more = [
        "--etcd-prefix=/second.network",
        "--socket=/run/weft/second.sock",
        "--subnet-file=/run/flannel/second.env",
    ];
    flags.more = more.iter().map(ToString::to_string).collect();
    let mut second = Agent::start(&host, flags)?;
    crate::wait::until_true("the second network is ready", crate::agent::READY, || {
        second.daemon()?.ensure_running()?;
        let asked = host.weft(&["status", "--socket", "/run/weft/second.sock"])?;
        Ok(asked.0 == 0)
    })?;
    second.stop()?;
    let words = [
        "cleanup",
        "--vni=2",
        "--subnet-file=/run/flannel/second.env",
    ];
    let (code, _, errors) = host.weft(&words)?;
    ensure!(code == 0, "cleanup ended with {code}: {errors}");
    Ok(Injected::now())
}
