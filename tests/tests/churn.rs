//! Containers that come, go and change while packets are on their way to them.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    container::{Container, Place as _},
    crowd::{Crowd, Member},
    load::{Load, backlog_drops},
    probe::{self, Exchange},
    reach::{self, Effort},
    report::{Ping, Udp},
    twins::{Side, Twins},
    wait,
    world::{Plan, World, total},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// A second, and what a busy machine adds.
const SOON: Duration = Duration::from_secs(5);
const FEW: Effort = Effort {
    pings: 2,
    packets: 50,
    tcp_bytes: 1 << 18,
};

/// No flow of an earlier step: those may be the stack's.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A new flow of the pair is carried by the programs, whole.
fn ensure_fast(twins: &Twins) -> Result<()> {
    let before = twins.world.counters()?;
    let (a, b) = twins.pair(Side::Ours)?;
    let packets = Exchange {
        port: port(),
        rate: 1000,
        count: 300,
        size: 64,
    };
    probe::ensure_complete("after it", packets.run(a, b)?)?;
    let share = total(&twins.world.shares(&before)?);
    ensure!(
        share.milli_percent() >= 99_000,
        "{share}\n{}",
        twins.world.describe()
    );
    Ok(())
}

/// Kills the second host's container and makes another with the same address, while the first
/// host's goes on sending. Returns how long the new one waited for the first packet, and what it
/// heard.
fn replace(twins: &mut Twins, side: Side) -> Result<(Duration, Udp)> {
    let port = port();
    let flags = |count| format!("--rate 1000 --count {count} --size 64");
    let (a, b) = twins.pair(side)?;
    let (at, to) = (a.address(), b.address());
    let there = format!("udp --bind {at}:{port} --to {to}:{port}");
    let back = format!("udp --bind {to}:{port} --to {at}:{port}");
    let sender = probe::start(a, &format!("{there} {}", flags(3000)))?;
    let old = probe::start(b, &format!("{back} {}", flags(3000)))?;
    let before = twins.world.counters()?;
    if side == Side::Ours {
        wait::until_true("the flow runs", PATIENCE, || {
            Ok(total(&twins.world.shares(&before)?).taken > 500)
        })?;
    }
    let node = twins.node_mut(side, 1)?;
    let (host, env) = (node.host.clone(), node.env);
    node.containers.clear();
    drop(old);
    let began = Instant::now();
    node.containers.push(Container::new(&host, &env, 1)?);
    let b = node.container(0)?;
    let new = probe::start(b, &format!("{back} {}", flags(500)))?;
    let heard: Udp = new.report()?;
    let _: Udp = sender.report()?;
    Ok((began.elapsed(), heard))
}

#[test]
fn a_container_is_replaced_under_its_address() -> Result<()> {
    let mut twins = Twins::start("replaced", 1)?;
    for side in Side::BOTH {
        let (a, b) = twins.pair(side)?;
        ensure!(reach::try_pair(a, b, FEW)?.complete(), "{side:?}");
    }
    twins.world.until_met()?;
    for side in Side::BOTH {
        let (took, heard) = replace(&mut twins, side)?;
        println!("{side:?}: after {took:?} {heard:?}");
        // It hears the rest of what the old one's partner sends.
        ensure!(
            heard.received + heard.duplicates > 1500,
            "{side:?}: {heard:?}"
        );
    }
    ensure_fast(&twins)
}

#[test]
fn a_container_changes_its_mac() -> Result<()> {
    let twins = Twins::start("mac", 1)?;
    for side in Side::BOTH {
        let (a, b) = twins.pair(side)?;
        ensure!(reach::try_pair(a, b, FEW)?.complete(), "{side:?}");
        // It tells its neighbours, as whoever changes a MAC with intent does.
        b.ns.sysctl("net/ipv4/conf/eth0/arp_notify", "1")?;
    }
    twins.world.until_met()?;
    let start = |side| {
        let (a, b) = twins.pair(side)?;
        Load::start(a, b, Duration::from_secs(3))
    };
    let loads: Vec<_> = Side::BOTH.into_iter().map(start).collect::<Result<_>>()?;
    let carried = twins.world.counters()?;
    wait::until_true("the load runs", PATIENCE, || {
        Ok(total(&twins.world.shares(&carried)?).taken > 1000)
    })?;
    for side in Side::BOTH {
        let (_, b) = twins.pair(side)?;
        b.ip("link set eth0 address 0a:58:00:00:77:01")?;
    }
    let host = &twins.nodes(Side::Ours)?[1].host;
    wait::until_true("the endpoint has the new MAC", PATIENCE, || {
        let endpoints = host.endpoints()?;
        Ok(endpoints.iter().any(|end| end.mac == "0a:58:00:00:77:01"))
    })?;
    for (side, load) in Side::BOTH.into_iter().zip(loads) {
        let outcome = load.finish()?;
        println!("{side:?}\n{outcome}");
        let (a, b) = outcome.udp;
        // A hundred milliseconds' worth.
        ensure!(a.lost() + b.lost() <= 100, "{side:?}: {outcome}");
        ensure!(outcome.tcp.complete(), "{side:?}: {outcome}");
    }
    ensure_fast(&twins)
}

#[test]
fn two_hundred_containers_start_at_once() -> Result<()> {
    const MANY: u8 = 200;
    let world = World::start(&Plan::new("crowd"))?;
    reach::ensure_all(&reach::everybody(&world, FEW)?)?;
    let far = world.node(1)?;
    let began = Instant::now();
    let crowd = Crowd::start(&far.host, &far.env, 10..10 + MANY)?;
    println!("made in {:?}", began.elapsed());
    // Programs are still being attached: what an administrator forbids does not wait for that.
    let forbid = |how: &str| {
        let address = far.env.container(10);
        let rule = format!("iptables {how} FORWARD -s {address} -j DROP");
        far.host.run(&rule).map(drop)
    };
    forbid("-I")?;
    let took = far.host.until_mode("off", "-j DROP", SOON);
    println!("off after {took:?}");
    took.with_context(|| world.describe())?;
    forbid("-D")?;
    far.host.until_mode("on", "", SOON)?;
    let to = world.node(0)?.container(0)?.address();
    everyone(&crowd, to).context("at first")?;
    let known = |count: usize| {
        let what = format!("{count} endpoints");
        wait::until_true(&what, PATIENCE, || Ok(far.host.endpoints()?.len() == count)).with_context(
            || {
                let there = far.host.endpoints().map_or(0, |all| all.len());
                format!("{there} there\n{}", world.describe())
            },
        )
    };
    known(1 + usize::from(MANY))?;
    let hooked = |count: usize| {
        let what = format!("programs at {count} ports");
        wait::until_true(&what, PATIENCE, || {
            let links = "find /sys/fs/bpf/weft -type f -path */links/*";
            let pins = far.host.run(links)?;
            let ports = |hook: &str| pins.lines().filter(|pin| pin.contains(hook)).count();
            Ok(ports("from_container") == count && ports("to_container") == count)
        })
    };
    hooked(1 + usize::from(MANY))?;
    println!("hooked after {:?}", began.elapsed());
    let before = world.counters()?;
    everyone(&crowd, to).context("once they are known")?;
    let share = total(&world.shares(&before)?);
    println!("{share}");
    ensure!(
        share.taken >= 8 * u64::from(MANY) && share.milli_percent() >= 99_000,
        "{share}\n{}",
        world.describe()
    );
    let began = Instant::now();
    drop(crowd);
    println!("removed in {:?}", began.elapsed());
    known(1)?;
    // Nothing of theirs is left behind.
    hooked(1)?;
    reach::ensure_all(&reach::everybody(&world, FEW)?)
}

/// All of them ping the address at the same time; returns those who lost an answer, and what they saw.
fn short_of_answers<'a>(members: &[&'a Member], to: Ipv4Addr) -> Result<Vec<(&'a Member, Ping)>> {
    let start = |member: &&Member| {
        let line = format!("ping --to {to} --count 2 --patience-ms 3000");
        probe::start(*member, &line)
    };
    let all: Vec<_> = members.iter().map(start).collect::<Result<_>>()?;
    let mut short = Vec::new();
    for (member, running) in members.iter().zip(all) {
        let pings: Ping = running.report()?;
        if pings.replies != 2 {
            short.push((*member, pings));
        }
    }
    Ok(short)
}

/// Every one of them is answered. Where requests for two hundred addresses go to two hundred ports,
/// the queues in front of the cores overflow: who lost a packet while they did asks once more.
fn everyone(crowd: &Crowd, to: Ipv4Addr) -> Result<()> {
    let before = backlog_drops()?;
    let all: Vec<_> = crowd.members.iter().collect();
    let short = short_of_answers(&all, to)?;
    if short.is_empty() {
        return Ok(());
    }
    let dropped = backlog_drops()? - before;
    println!("{dropped} packets did not fit into the queues: {short:?}");
    ensure!(dropped > 0, "{short:?}");
    let them: Vec<_> = short.iter().map(|(member, _)| *member).collect();
    let still = short_of_answers(&them, to)?;
    ensure!(still.is_empty(), "still: {still:?}");
    Ok(())
}
