//! Connections that the stack has carried since before the programs came: they are taken from it,
//! and may go back to it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    load::Load,
    wait,
    world::{Plan, World},
};

const LOAD: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(8);
/// Packets of the load that are no matter of chance: a second of it is a thousand each way.
const MANY: u64 = 500;

/// Conntrack's entries of the load's two ports, with `word` in them.
fn tracked(world: &World, index: usize, word: &str) -> Result<usize> {
    let host = &world.node(index)?.host;
    let table = host.run("cat /proc/net/nf_conntrack")?;
    let ours = |line: &&str| line.contains("dport=9100 ") || line.contains("dport=9101 ");
    let lines = table.lines().filter(ours);
    Ok(lines.filter(|line| line.contains(word)).count())
}

fn restart_all(world: &mut World, datapath: &'static str) -> Result<()> {
    for node in &mut world.nodes {
        let agent = node.agent()?;
        agent.stop()?;
        agent.flags.datapath = datapath;
        agent.restart()?;
        agent.ready()?;
    }
    Ok(())
}

#[test]
fn connections_of_the_stack_become_fast_and_survive_the_way_back() -> Result<()> {
    let plan = Plan {
        datapath: "kernel",
        ..Plan::new("promote")
    };
    let mut world = World::start(&plan)?;
    for node in &world.nodes {
        let invalid = "-m conntrack --ctstate INVALID -j DROP";
        node.host.run(&format!("iptables -I FORWARD {invalid}"))?;
    }
    let (a, b) = world.pair()?;
    let load = Load::start(a, b, LOAD)?;
    // UDP is called that after two seconds (`nf_conntrack_udp_packet`).
    wait::until_true("conntrack is assured of the load", PATIENCE, || {
        Ok((0..2).all(|index| tracked(&world, index, "[ASSURED]").is_ok_and(|count| count == 2)))
    })?;
    restart_all(&mut world, "ebpf")?;
    for index in 0..2 {
        wait::until_true(
            "both connections are taken from the stack",
            PATIENCE,
            || {
                Ok(world
                    .node(index)?
                    .host
                    .component("flows")?
                    .contains("2 were taken from it"))
            },
        )
        .with_context(|| world.describe())?;
        ensure!(
            tracked(&world, index, "")? == 0,
            "conntrack follows a connection that it should have forgotten"
        );
    }
    let before = world.counters()?;
    wait::until_true("the programs carry the load", PATIENCE, || {
        let shares = world.shares(&before)?;
        Ok(shares
            .iter()
            .all(|share| share.taken + share.aggregates > MANY))
    })
    .with_context(|| world.describe())?;
    // And back: conntrack takes the connections up in mid-stream.
    restart_all(&mut world, "kernel")?;
    let outcome = load.finish()?;
    println!("{outcome}");
    outcome.ensure_lossless()?;
    ensure!(
        tracked(&world, 0, "")? >= 2,
        "the load ended before it was the kernel's again"
    );
    Ok(())
}

#[test]
fn where_conntrack_takes_up_nothing_the_stack_keeps_its_connections() -> Result<()> {
    let plan = Plan {
        datapath: "kernel",
        ..Plan::new("strict")
    };
    let mut world = World::start(&plan)?;
    for node in &world.nodes {
        let invalid = "-m conntrack --ctstate INVALID -j DROP";
        node.host.run(&format!("iptables -I FORWARD {invalid}"))?;
        let loose = "net/netfilter/nf_conntrack_tcp_loose";
        node.host.ns.sysctl(loose, "0")?;
    }
    let (a, b) = world.pair()?;
    let load = Load::start(a, b, Duration::from_secs(10))?;
    wait::until_true("conntrack is assured of the load", PATIENCE, || {
        Ok((0..2).all(|index| tracked(&world, index, "[ASSURED]").is_ok_and(|count| count == 2)))
    })?;
    restart_all(&mut world, "ebpf")?;
    for index in 0..2 {
        let status = world.node(index)?.host.status()?.to_string();
        ensure!(status.contains("nf_conntrack_tcp_loose is 0"), "{status}");
        ensure!(
            !world
                .node(index)?
                .host
                .component("flows")?
                .contains("taken"),
            "{status}"
        );
    }
    load.finish()?.ensure_lossless()?;
    ensure!(tracked(&world, 0, "")? == 2, "conntrack was made to forget");
    Ok(())
}
