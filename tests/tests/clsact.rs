//! Programs as classic filters, as on kernels without TCX: the fast path, a killed agent, cleanup.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    host::Host,
    load::Load,
    reach::{self, Effort},
    world::{Plan, World},
};

const LOAD: Duration = Duration::from_secs(6);
/// How long the load runs before, and while the agent is away: the thing that is measured.
const SPELL: Duration = Duration::from_secs(1);
/// In thousandths of a percent point.
const ENOUGH: u64 = 99_900;

/// Every bpf filter of a host as `device side handle`, and the numbers of their programs.
fn filters(host: &Host) -> Result<(Vec<String>, Vec<String>)> {
    let mut places = Vec::new();
    let mut programs = Vec::new();
    let links = host.ip("-br link show")?;
    for link in links.lines() {
        let name = link.split([' ', '@']).next().unwrap_or_default();
        for side in ["ingress", "egress"] {
            let shown = host.run(&format!("tc filter show dev {name} {side}"))?;
            for line in shown.lines() {
                let mut words = line.split_ascii_whitespace();
                let mut after = |wanted| words.by_ref().find(|w| *w == wanted).and(words.next());
                if let Some(handle) = after("handle") {
                    let program = after("id").with_context(|| line.to_owned())?;
                    places.push(format!("{name} {side} {handle}"));
                    programs.push(program.to_owned());
                }
            }
        }
    }
    Ok((places, programs))
}

#[test]
fn a_killed_agent_finds_its_filters_and_cleanup_removes_them() -> Result<()> {
    let mut plan = Plan::new("clsact");
    plan.flags.push("--attach=clsact".to_owned());
    let mut world = World::start(&plan)?;
    let few = Effort {
        pings: 2,
        packets: 20,
        tcp_bytes: 1 << 16,
    };
    reach::ensure_all(&reach::everybody(&world, few)?).with_context(|| world.describe())?;
    let status = world.node(0)?.host.status()?;
    let attach = status.pointer("/mode/attach").and_then(|it| it.as_str());
    ensure!(
        attach.is_some_and(|it| it.starts_with("clsact")),
        "{status}"
    );
    let (before, old) = filters(&world.node(0)?.host)?;
    // Uplink, both sides of the overlay's device, both sides of one port.
    ensure!(before.len() >= 5, "{before:?}");
    let links = world
        .node(0)?
        .host
        .run("find /sys/fs/bpf/weft/ -name *-*")?;
    ensure!(links.trim().is_empty(), "pinned links: {links}");

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
    let (after, new) = filters(&world.node(0)?.host)?;
    ensure!(after == before, "were {before:?}, are {after:?}");
    ensure!(
        new.iter().all(|id| !old.contains(id)),
        "programs of the killed agent hang there still: {old:?}, {new:?}"
    );
    for share in world.shares(&counted)? {
        println!("{share}");
        ensure!(
            share.milli_percent() >= ENOUGH,
            "{share}\n{}",
            world.describe()
        );
    }

    let uplink = status.get("uplink").and_then(|it| it.as_str());
    let uplink = uplink.context("the uplink's name")?;
    let stranger = "prio 9 protocol ip u32 match u32 0 0 flowid 1:1";
    let add = format!("tc filter add dev {uplink} ingress {stranger}");
    world.node(1)?.host.run(&add)?;
    for index in 0..2 {
        world.node_mut(index)?.agent()?.stop()?;
        let host = &world.node(index)?.host;
        let (code, _, errors) = host.weft(&["cleanup"])?;
        ensure!(code == 0, "cleanup ended with {code}: {errors}");
        let (left, _) = filters(host)?;
        ensure!(left.is_empty(), "still there: {left:?}");
        let pins = host.run("find /sys/fs/bpf -path */weft*")?;
        ensure!(pins.trim().is_empty(), "still in bpffs: {pins}");
        // The stranger's filter stays, and so does the qdisc that it is in.
        let qdiscs = host.run("tc qdisc show")?.matches("clsact").count();
        ensure!(qdiscs == index, "{}", host.run("tc qdisc show")?);
    }
    let shown = format!("tc filter show dev {uplink} ingress");
    let shown = world.node(1)?.host.run(&shown)?;
    ensure!(
        shown.contains("u32"),
        "the stranger's filter is gone: {shown}"
    );
    Ok(())
}
