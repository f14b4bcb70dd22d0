//! Programs as classic filters, as on kernels without TCX: the fast path, a killed agent, cleanup.
//! One test leaves the way to the kernel: it is what `cargo xtask vm` runs on an older one.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    host::Host,
    load::Load,
    reach::{self, Effort},
    wait,
    world::{Plan, World},
};

const LOAD: Duration = Duration::from_secs(4);
/// How long the load runs before the agent goes.
const SPELL: Duration = Duration::from_secs(1);
/// A port's programs follow its first sight.
const SOON: Duration = Duration::from_secs(10);
/// In thousandths of a percent point.
const ENOUGH: u64 = 99_900;

/// What hangs at the devices of a host.
#[derive(Debug)]
struct Hung {
    /// Every bpf filter, as `device side handle`.
    filters: Vec<String>,
    /// Every pinned link.
    links: Vec<String>,
    /// The numbers of the filters' programs.
    programs: Vec<String>,
}

impl Hung {
    fn read(host: &Host) -> Result<Self> {
        let mut hung = Self {
            filters: Vec::new(),
            links: Vec::new(),
            programs: Vec::new(),
        };
        for link in host.ip("-br link show")?.lines() {
            let name = link.split([' ', '@']).next().unwrap_or_default();
            for side in ["ingress", "egress"] {
                let shown = host.run(&format!("tc filter show dev {name} {side}"))?;
                for line in shown.lines().filter(|line| line.contains(" bpf ")) {
                    let after = |wanted| {
                        let mut words = line.split_ascii_whitespace();
                        words.find(|word| *word == wanted).and(words.next())
                    };
                    // The head of a list has no handle.
                    if let Some(handle) = after("handle") {
                        hung.filters.push(format!("{name} {side} {handle}"));
                        let program = after("id").with_context(|| line.to_owned())?;
                        hung.programs.push(program.to_owned());
                    }
                }
            }
        }
        let links = host.run("find /sys/fs/bpf -path */links/*")?;
        hung.links.extend(links.lines().map(str::to_owned));
        hung.links.sort();
        Ok(hung)
    }
}

/// Two hosts meet on the fast path, something happens to the first one's agent, and both are cleaned
/// up. What hangs at devices is the same before and after, by whichever way.
fn live(
    world: &mut World,
    effort: Effort,
    happens: impl FnOnce(&mut World) -> Result<()>,
) -> Result<()> {
    let few = Effort {
        pings: 2,
        packets: 20,
        tcp_bytes: 1 << 16,
    };
    // The first packets teach both hosts who is where.
    reach::everybody(world, few)?;
    let is_clsact = way(world)?.starts_with("clsact");
    // Uplink, both sides of the overlay's device, both sides of one port.
    let before = wait::until("five programs hang", SOON, || {
        let hung = Hung::read(&world.node(0)?.host)?;
        let (filters, links) = (hung.filters.len(), hung.links.len());
        ensure!(
            if is_clsact { links } else { filters } == 0,
            "the other way: {hung:?}"
        );
        Ok((filters.max(links) >= 5).then_some(hung))
    })?;

    let counted = world.counters()?;
    happens(world)?;
    let reached = reach::everybody(world, effort)?;
    reach::ensure_all(&reached).with_context(|| world.describe())?;
    let after = Hung::read(&world.node(0)?.host)?;
    ensure!(
        (&after.filters, &after.links) == (&before.filters, &before.links),
        "were {before:?}, are {after:?}"
    );
    let old = |id| before.programs.contains(id);
    ensure!(
        !after.programs.iter().any(old),
        "programs of the killed agent hang there still: {before:?}, {after:?}"
    );
    for share in world.shares(&counted)? {
        println!("{share}");
        let enough = share.milli_percent() >= ENOUGH && share.qualified > 1000;
        ensure!(enough, "{share}\n{}", world.describe());
    }
    part(world)
}

/// How the first host's programs are attached.
fn way(world: &World) -> Result<String> {
    let status = world.node(0)?.host.status()?;
    let attach = status.pointer("/mode/attach").and_then(|it| it.as_str());
    let attach = attach.with_context(|| status.to_string())?;
    println!("attached by {attach}");
    Ok(attach.to_owned())
}

/// Cleanup leaves nothing but what others have at the second host's uplink.
fn part(world: &mut World) -> Result<()> {
    let stranger = "prio 9 protocol ip u32 match u32 0 0 flowid 1:1";
    let host = &world.node(1)?.host;
    if !host.run("tc qdisc show dev eth0")?.contains("clsact") {
        host.run("tc qdisc add dev eth0 clsact")?;
    }
    host.run(&format!("tc filter add dev eth0 ingress {stranger}"))?;
    for index in 0..2 {
        world.node_mut(index)?.agent()?.stop()?;
        let host = &world.node(index)?.host;
        let (code, _, errors) = host.weft(&["cleanup"])?;
        ensure!(code == 0, "cleanup ended with {code}: {errors}");
        let left = Hung::read(host)?;
        ensure!(left.filters.is_empty(), "still there: {left:?}");
        let pins = host.run("find /sys/fs/bpf -path */weft*")?;
        ensure!(pins.trim().is_empty(), "still in bpffs: {pins}");
        // The stranger's filter stays, and so does the qdisc that it is in.
        let qdiscs = host.run("tc qdisc show")?;
        ensure!(qdiscs.matches("clsact").count() == index, "{qdiscs}");
    }
    let shown = world.node(1)?.host.run("tc filter show dev eth0 ingress")?;
    ensure!(shown.contains("u32"), "the stranger's is gone: {shown}");
    Ok(())
}

fn kill_and_restart(world: &mut World) -> Result<()> {
    let agent = world.node_mut(0)?.agent()?;
    agent.kill_hard()?;
    agent.restart()?;
    agent.ready()?;
    Ok(())
}

#[test]
fn a_killed_agent_finds_its_filters_without_a_loss() -> Result<()> {
    let mut plan = Plan::new("clsact");
    plan.flags.push("--attach=clsact".to_owned());
    let mut world = World::start(&plan)?;
    let effort = Effort {
        pings: 2,
        packets: 300,
        tcp_bytes: 1 << 20,
    };
    live(&mut world, effort, |world| {
        let (a, b) = world.pair()?;
        let load = Load::start(a, b, LOAD)?;
        thread::sleep(SPELL);
        kill_and_restart(world)?;
        let outcome = load.finish()?;
        println!("{outcome}");
        outcome.ensure_lossless().with_context(|| world.describe())
    })
}

#[test]
fn two_hosts_meet_by_the_way_that_the_kernel_has() -> Result<()> {
    let mut world = World::start(&Plan::new("way"))?;
    let effort = Effort {
        pings: 2,
        packets: 1000,
        tcp_bytes: 4 << 20,
    };
    live(&mut world, effort, kill_and_restart)
}
