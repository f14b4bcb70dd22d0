//! An agent that dies, returns, or is told to go: the packets do not notice.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    connectivity,
    load::Load,
    reach::{self, Effort},
    world::{Plan, World},
};

const LOAD: Duration = Duration::from_secs(8);
/// How long the load runs before, and while the agent is away: the thing that is measured.
const SPELL: Duration = Duration::from_millis(1500);

/// Everything that must be the same before and after.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    subnet: String,
    device: String,
    routes: String,
    neighbours: String,
    maps: Vec<String>,
}

fn identity(world: &World, index: usize) -> Result<Identity> {
    let host = &world.node(index)?.host;
    let mut maps: Vec<_> = host
        .run("find /sys/fs/bpf/weft -type f -name [A-Z]*")?
        .lines()
        .map(|pin| {
            let shown = host.run(&format!("/usr/sbin/bpftool map show pinned {pin}"))?;
            let id = shown.split(':').next().unwrap_or_default().to_owned();
            Ok(format!("{pin} {id}"))
        })
        .collect::<Result<_>>()?;
    maps.sort();
    Ok(Identity {
        subnet: std::fs::read_to_string(host.file("/run/flannel/subnet.env"))?,
        device: host
            .run("cat /sys/class/net/flannel.1/address /sys/class/net/flannel.1/ifindex")?,
        routes: host.ip("route show dev flannel.1")?,
        neighbours: host.ip("neigh show dev flannel.1 nud permanent")?,
        maps,
    })
}

fn warm(test: &str) -> Result<World> {
    let world = World::start(&Plan::new(test))?;
    reach::everybody(
        &world,
        Effort {
            pings: 2,
            packets: 20,
            tcp_bytes: 1 << 16,
        },
    )?;
    Ok(world)
}

#[test]
fn nothing_is_lost_when_nobody_dies() -> Result<()> {
    let world = warm("control")?;
    let (a, b) = world.pair()?;
    let outcome = Load::start(a, b, LOAD)?.finish()?;
    println!("{outcome}");
    outcome.ensure_lossless()
}

#[test]
fn a_killed_agent_returns_without_a_loss() -> Result<()> {
    let mut world = warm("kill")?;
    let before = identity(&world, 0)?;
    ensure!(!before.maps.is_empty(), "no map is pinned");
    let counted = world.counters()?;
    let (a, b) = world.pair()?;
    let load = Load::start(a, b, LOAD)?;
    thread::sleep(SPELL);
    let agent = world.node_mut(0)?.agent()?;
    agent.kill_hard()?;
    thread::sleep(SPELL);
    agent.restart()?;
    agent.ready()?;
    let outcome = load.finish()?;
    println!("{outcome}");
    outcome
        .ensure_lossless()
        .with_context(|| world.describe())?;
    ensure!(
        identity(&world, 0)? == before,
        "changed: {before:?}\n{:?}",
        identity(&world, 0)?
    );
    for share in world.shares(&counted)? {
        println!("{share}");
        ensure!(
            share.milli_percent() >= 99_900,
            "{share}\n{}",
            world.describe()
        );
    }
    Ok(())
}

#[test]
fn an_agent_that_is_told_to_stop_leaves_the_path_running() -> Result<()> {
    let mut world = warm("stop")?;
    let (a, b) = world.pair()?;
    let load = Load::start(a, b, Duration::from_secs(4))?;
    world.node_mut(0)?.agent()?.stop()?;
    let outcome = load.finish()?;
    outcome.ensure_lossless()?;
    let (code, ..) = world.node(0)?.host.weft(&["status", "-o", "json"])?;
    ensure!(
        code == 3,
        "status of a host without an agent ended with {code}"
    );
    Ok(())
}

#[test]
fn a_silent_store_stops_nothing() -> Result<()> {
    let mut world = warm("outage")?;
    world.lab.etcd.outage()?;
    let (a, b) = world.pair()?;
    let outcome = Load::start(a, b, Duration::from_secs(3))?.finish()?;
    outcome.ensure_lossless()?;
    world.lab.etcd.resume()?;
    let status = world.node(0)?.host.status()?;
    ensure!(
        status.get("ready").is_some_and(|ready| ready == true),
        "{status}"
    );
    Ok(())
}

#[test]
fn cleanup_leaves_nothing_and_a_new_start_works() -> Result<()> {
    let mut world = warm("cleanup")?;
    for index in 0..2 {
        world.node_mut(index)?.agent()?.stop()?;
        let host = &world.node(index)?.host;
        let (code, _, errors) = host.weft(&["cleanup"])?;
        ensure!(code == 0, "cleanup ended with {code}: {errors}");
        ensure!(
            host.ip("link show flannel.1").is_err(),
            "the device is still there"
        );
        let pins = host.run("find /sys/fs/bpf -path */weft/* -type f")?;
        ensure!(pins.trim().is_empty(), "still pinned: {pins}");
    }
    for node in &mut world.nodes {
        let agent = node.agent()?;
        agent.restart()?;
        // The lease is still in the store: the subnet stays, and so does the bridge.
        ensure!(agent.ready()?.subnet == node.env.subnet, "another subnet");
    }
    for node in &mut world.nodes {
        node.agent()?.knows(1)?;
    }
    connectivity::check(&world)
}
