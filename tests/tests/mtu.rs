//! Packets that do not fit somewhere on their way: whoever sends them hears of it, nothing hangs,
//! and all of it as on flannel.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    container::{BRIDGE, Container, Place},
    probe::{self, Exchange},
    report::Udp,
    twins::{Side, Twins},
    wait,
    world::{Node, total},
};

/// The ways to peers are measured some seconds after the start.
const PATIENCE: Duration = Duration::from_secs(20);
const LARGE: u64 = 8 << 20;
/// In UDP's payload what an IP packet has beside it.
const HEADERS: usize = 28;
const COUNT: u64 = 100;
/// What comes through whole to a device of 1400 bytes, which lets a VLAN's tag be used for anything, is
/// this large without the tunnel's headers.
const MEASURED: u32 = 1400 + 4 - 50;

/// Numbered packets of this length in IP, both ways, none of them in fragments.
fn whole(a: &dyn Place, b: &dyn Place, port: u16, size: usize) -> Result<(Udp, Udp)> {
    let side = |from: &dyn Place, to: &dyn Place| {
        let (bind, to) = (from.address(), to.address());
        let size = size - HEADERS;
        probe::start(
            from,
            &format!(
                "udp --df --rate 500 --count {COUNT} --size {size} --bind {bind}:{port} --to {to}:{port}"
            ),
        )
    };
    let (a, b) = (side(a, b)?, side(b, a)?);
    Ok((a.report()?, b.report()?))
}

/// The sender heard of it: nearly all its sends were refused, and nothing arrived.
fn ensure_told(what: &str, sender: &Udp, receiver: &Udp) -> Result<()> {
    ensure!(
        sender.refused >= COUNT - 10 && sender.sent + sender.refused == COUNT,
        "{what}: {sender:?}"
    );
    ensure!(receiver.received <= sender.sent, "{what}: {receiver:?}");
    Ok(())
}

/// A transfer each way arrives, and no write of it waits long.
fn bulk(a: &dyn Place, b: &dyn Place) -> Result<()> {
    for (from, to) in [(a, b), (b, a)] {
        let tcp = probe::transfer(from, to, 9001, LARGE)?;
        ensure!(
            tcp.complete() && tcp.longest_stall_ms < 3000,
            "{}: {tcp:?}",
            from.name()
        );
    }
    Ok(())
}

fn both(what: &str, check: impl Fn(Side) -> Result<()>) -> Result<()> {
    for side in [Side::Flannels, Side::Ours] {
        check(side).with_context(|| format!("{what}, {side:?}"))?;
    }
    Ok(())
}

fn enlarge(node: &Node, container: &Container) -> Result<()> {
    node.host
        .ip(&format!("link set {} mtu 1500", container.port))?;
    node.host.ip(&format!("link set {BRIDGE} mtu 1500"))?;
    container.ip("link set eth0 mtu 1500").map(drop)
}

#[test]
fn a_container_with_a_larger_mtu_finds_no_black_hole() -> Result<()> {
    let twins = Twins::start("large", 1)?;
    for side in Side::BOTH {
        for node in twins.nodes(side)? {
            enlarge(node, node.container(0)?)?;
        }
    }
    // TCP first, while nobody knows anything of the path.
    both("TCP", |side| {
        let (a, b) = twins.pair(side)?;
        bulk(a, b)
    })?;
    for container in [Side::Ours, Side::Flannels].map(|side| twins.pair(side)) {
        let (a, b) = container?;
        a.ip("route flush cache")?;
        b.ip("route flush cache")?;
    }
    both("UDP", |side| {
        let (a, b) = twins.pair(side)?;
        let (near, far) = whole(a, b, 9002, 1500)?;
        ensure_told("there", &near, &far)?;
        ensure_told("back", &far, &near)?;
        ensure!(near.received + far.received == 0, "{near:?} {far:?}");
        let fits = whole(a, b, 9003, 1450)?;
        probe::ensure_complete("what fits", fits)
    })?;
    // In fragments, all of it.
    both("fragments", |side| {
        let (a, b) = twins.pair(side)?;
        let fragments = Exchange {
            port: 9004,
            rate: 500,
            count: COUNT,
            size: 4000,
        };
        probe::ensure_complete("fragments", fragments.run(a, b)?)
    })
}

/// The far hosts' uplinks carry 1400 bytes, and theirs alone.
fn narrow() -> Result<Twins> {
    Twins::start_on("narrow", 1, |lab| {
        for index in [1, 3] {
            lab.host(index)?.ip("link set eth0 mtu 1400")?;
        }
        Ok(())
    })
}

/// What the near one of our hosts sends the far one.
fn until_known(twins: &Twins, mtu: u32) -> Result<()> {
    let [near, far] = twins.nodes(Side::Ours)?;
    let vtep = far.host.address.to_string();
    wait::until_true("the peer's MTU is known", PATIENCE, || {
        let mut peers = near.host.peers()?.into_iter();
        Ok(peers.any(|peer| peer.vtep == vtep && peer.mtu == Some(mtu)))
    })
    .with_context(|| format!("{:?}", near.host.peers()))
}

#[test]
fn peers_with_unequal_uplinks_and_a_route_with_an_mtu() -> Result<()> {
    let twins = narrow()?;
    both("TCP", |side| {
        let [near, far] = twins.nodes(side)?;
        ensure!((near.env.mtu, far.env.mtu) == (1450, 1350), "{near:?}");
        let (a, b) = twins.pair(side)?;
        bulk(a, b)
    })?;
    both("UDP", |side| {
        let (a, b) = twins.pair(side)?;
        probe::ensure_complete("what fits", whole(a, b, 9002, 1350)?)?;
        if side == Side::Ours {
            until_known(&twins, MEASURED)?;
        }
        // Nobody on the way knows: on flannel it is lost without a word, ours has asked. What comes
        // back is too large for its sender.
        let (near, far) = whole(a, b, 9003, 1450)?;
        ensure!(far.refused == COUNT && far.received == 0, "{far:?}");
        match side {
            Side::Ours => ensure_told("there", &near, &far),
            Side::Flannels => {
                ensure!(near.refused == 0, "{near:?}");
                Ok(())
            }
        }
    })?;

    // An administrator tells the near hosts.
    for side in Side::BOTH {
        let [near, far] = twins.nodes(side)?;
        let to = far.host.address;
        near.host.ip(&format!("route add {to} dev eth0 mtu 1400"))?;
    }
    until_known(&twins, 1350)?;
    both("a route's MTU", |side| {
        let (a, b) = twins.pair(side)?;
        let (near, far) = whole(a, b, 9004, 1450)?;
        ensure_told("there", &near, &far)?;
        let told = probe::ping(a, b.address(), "--df --size 1450 --count 2")?;
        ensure!(told.replies == 0 && told.too_big > 0, "{told:?}");
        bulk(a, b)
    })?;
    // What fits is ours again.
    let before = twins.world.counters()?;
    let (a, b) = twins.pair(Side::Ours)?;
    probe::ensure_complete("what fits", whole(a, b, 9005, 1350)?)?;
    let share = total(&twins.world.shares(&before)?);
    ensure!(
        share.taken > 300 && share.milli_percent() >= 99_000,
        "{share}\n{}",
        twins.world.describe()
    );
    Ok(())
}
