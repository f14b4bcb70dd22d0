//! More translated flows than most hosts ever have, beside plain ones: none of either breaks, also
//! when the record of the stack's flows has no room for all.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    container::Container,
    dialogue::Dialogue,
    load::{Load, Outcome},
    probe,
    rules::{self, At, Service, Tool},
    wait,
    world::{Plan, World, total},
};

use crate::{met, restart, until_fast};

const PATIENCE: Duration = Duration::from_secs(15);
const CLUSTER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);
const PORT: u16 = 7000;
/// Each probe has as many descriptors as one may have without being asked: 50,000 flows in all.
const FIRST_PORTS: [u16; 3] = [1200, 18_200, 35_200];
const EACH: u32 = 16_700;

/// A service of the second host's container, for the first host's.
fn service(world: &World) -> Result<()> {
    let (_, b) = world.pair()?;
    for node in &world.nodes {
        rules::drop_invalid(&node.host)?;
    }
    let services = [Service {
        at: At::Address(CLUSTER),
        protocol: "udp",
        port: PORT,
        backend: SocketAddrV4::new(b.address, PORT),
        masquerade: false,
    }];
    rules::serve(&world.node(0)?.host, Tool::Iptables, &services)
}

/// Nothing was lost on the plain flows. What TCP sends again on a crowded machine may be late
/// rather than lost.
fn ensure_unbroken(outcome: &Outcome) -> Result<()> {
    println!("{outcome}");
    probe::ensure_complete("plain UDP beside the crowd", outcome.udp)?;
    ensure!(outcome.tcp.complete(), "plain TCP: {:?}", outcome.tcp);
    Ok(())
}

fn counted(world: &World, hook: &str, reason: &str) -> Result<u64> {
    world.node(0)?.host.counted(hook, reason)
}

/// Flows to the service that all say something at once, some from each of these.
struct Crowd(Vec<Dialogue>);

impl Crowd {
    /// Every one is answered before the next comes.
    fn gather(members: &[(&Container, u16)]) -> Result<Self> {
        let mut crowd = Vec::new();
        for (container, first) in members {
            let mut flows = Dialogue::udp(*container, *first, SocketAddrV4::new(CLUSTER, PORT))?;
            flows.open(EACH)?;
            flows.complete_round(u64::from(EACH))?;
            crowd.push(flows);
        }
        Ok(Self(crowd))
    }

    fn round(&mut self) -> Result<()> {
        let each = u64::from(EACH);
        self.0
            .iter_mut()
            .try_for_each(|flows| flows.complete_round(each))
    }
}

#[test]
fn fifty_thousand_translated_flows_and_plain_ones_live_together() -> Result<()> {
    let mut plan = Plan::new("crowd");
    plan.containers = 2;
    let world = met(&plan)?;
    service(&world)?;
    let (a, b) = world.pair()?;
    let _server = probe::serve(b, &format!("udp-echo {}:{PORT}", b.address))?;
    let (near, far) = (world.node(0)?.container(1)?, world.node(1)?.container(1)?);
    let load = Load::start(near, far, Duration::from_secs(10))?;
    let mut crowd = Crowd::gather(&FIRST_PORTS.map(|first| (a, first)))?;
    // All of them are there at once, and still themselves.
    crowd.round()?;
    ensure_unbroken(&load.finish()?)?;
    let all = u64::from(EACH) * 3 * 2;
    let recorded = counted(&world, "to_overlay", "recorded_nat")?;
    let lost = counted(&world, "to_overlay", "record_failed")?;
    ensure!(recorded >= all && lost == 0, "{recorded} {lost}");
    // New plain flows are as fast as ever.
    let before = world.counters()?;
    let sent = probe::transfer(near, far, 7300, 1 << 20)?;
    ensure!(sent.complete(), "{sent:?}");
    world.ensure_fast(&before)
}

/// The smallest record that an agent makes.
const LEAST: u32 = 65_536;

/// The kernel's limit cannot be set for a namespace: the agents read a smaller one than there is, as
/// after an operator has raised it.
fn believe_in_few(world: &World) -> Result<()> {
    for node in &world.nodes {
        let limit = node.host.folder().join("few");
        fs::write(&limit, format!("{LEAST}\n")).context("write the limit")?;
        let over = "/proc/sys/net/netfilter/nf_conntrack_max";
        node.host
            .run(&format!("mount --bind {} {over}", limit.display()))?;
    }
    Ok(())
}

fn remember_udp_for(world: &World, seconds: &str) -> Result<()> {
    for node in &world.nodes {
        for key in [
            "nf_conntrack_udp_timeout",
            "nf_conntrack_udp_timeout_stream",
        ] {
            let key = format!("net/netfilter/{key}");
            node.host.ns.sysctl(&key, seconds)?;
        }
    }
    Ok(())
}

#[test]
fn a_record_without_room_sends_all_to_the_stack_until_there_is_room() -> Result<()> {
    let mut plan = Plan::new("no_room");
    plan.datapath = "kernel";
    plan.containers = 2;
    let mut world = met(&plan)?;
    service(&world)?;
    believe_in_few(&world)?;
    restart(&mut world, "ebpf")?;
    until_fast(&world)?;
    let (a, b) = world.pair()?;
    let _server = probe::serve(b, &format!("udp-echo {}:{PORT}", b.address))?;
    let (near, far) = (world.node(0)?.container(1)?, world.node(1)?.container(1)?);
    let before = counted(&world, "from_container", "taken")?;
    let load = Load::start(near, far, Duration::from_secs(12))?;
    wait::until_true("the plain flows are fast", PATIENCE, || {
        Ok(counted(&world, "from_container", "taken")? > before + 100)
    })?;
    let [first, second, third] = FIRST_PORTS;
    let members = [(a, first), (a, second), (a, third), (near, third)];
    let mut crowd = Crowd::gather(&members)?;
    for (hook, reason) in [
        ("to_overlay", "record_failed"),
        ("from_container", "flows_full"),
    ] {
        let count = counted(&world, hook, reason)?;
        ensure!(count > 0, "no {reason} at {hook}\n{}", world.describe());
    }
    // Each flow is forgotten a second after it was heard of last.
    remember_udp_for(&world, "1")?;
    crowd.round().with_context(|| world.describe())?;
    ensure_unbroken(&load.finish()?).with_context(|| world.describe())?;
    drop(crowd);
    wait::until_true("packets are taken again", Duration::from_secs(60), || {
        let before = world.counters()?;
        let sent = probe::transfer(near, far, 7300, 1 << 18)?;
        ensure!(sent.complete(), "{sent:?}");
        Ok(total(&world.shares(&before)?).milli_percent() >= 99_000)
    })
    .with_context(|| world.describe())
}
