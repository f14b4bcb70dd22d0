//! Containers that pass on what they get: a bridge with a namespace behind it, and VXLAN of their
//! own inside ours. Bulk both ways, beside the same on hosts without any code of ours.
//!
//! What went wrong here once was no matter of percents: an aggregate that was taken apart on its
//! way made such containers four times slower than on flannel.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weft_tests::{
    container::{Container, NetnsAt, Place},
    netns::Netns,
    probe,
    report::Tcp,
    twins::{Side, Twins},
};

/// A busy machine takes more of them to show what is possible.
const ROUNDS: std::ops::RangeInclusive<usize> = 3..=12;
/// How much of flannel's speed is enough: far from the defect, and far from noise.
const ENOUGH: f64 = 0.6;
/// Of one transfer, in milliseconds: the two sides take turns, so that both meet the same machine.
const TURN: u32 = 250;
/// A whole packet of the underlay; what is larger was put together on the way, or never apart.
const PACKET: u64 = 1500;

/// Bytes and packets that came in by a device; an aggregate counts as one.
fn received(at: &NetnsAt<'_>, device: &str) -> Result<(u64, u64)> {
    let shown = at.ns.ip(&format!("-s -j link show dev {device}"))?;
    let shown: Value = serde_json::from_str(&shown).context("ip -s -j link")?;
    let of = |what: &str| {
        let value = shown.pointer(&format!("/0/stats64/rx/{what}"));
        value.and_then(Value::as_u64).context("a statistic")
    };
    Ok((of("bytes")?, of("packets")?))
}

/// What one side did in all rounds.
#[derive(Debug, Default)]
struct Found {
    /// In each round, in Mbit/s.
    there: Vec<u64>,
    back: Vec<u64>,
    /// In packets of full size.
    carried: u64,
    /// Packets that had to be repaired.
    again: u64,
    /// Mean of what came in at the far end.
    size: u64,
}

fn turn(from: &dyn Place, to: &dyn Place) -> Result<Tcp> {
    let at = format!("{}:9001", to.address());
    let _sink = probe::serve(to, &format!("tcp-sink {at}"))?;
    let bytes = u64::MAX;
    let line = format!("tcp-send --to {at} --bytes {bytes} --stop-after {TURN}");
    let done: Tcp = probe::start(from, &line)?.report()?;
    ensure!(done.complete(), "{done:?}");
    Ok(done)
}

/// All rounds of both sides, and what must hold of them whatever the machine does beside.
fn compare(what: &str, device: &str, pairs: &[[NetnsAt<'_>; 2]; 2]) -> Result<[Found; 2]> {
    let mut found = [Found::default(), Found::default()];
    let mut came = [(0, 0); 2];
    for round in 1..=*ROUNDS.end() {
        for (side, [near, far]) in pairs.iter().enumerate() {
            let found = found.get_mut(side).context("a side")?;
            let came = came.get_mut(side).context("a side")?;
            let before = received(far, device)?;
            let there = turn(near, far).with_context(|| format!("{what}: there"))?;
            let after = received(far, device)?;
            *came = (came.0 + after.0 - before.0, came.1 + after.1 - before.1);
            let back = turn(far, near).with_context(|| format!("{what}: back"))?;
            found.there.push(there.mbit());
            found.back.push(back.mbit());
            found.carried += (there.received + back.received) / PACKET;
            found.again += there.repaired() + back.repaired();
        }
        if ROUNDS.contains(&round) && is_enough(&found) {
            break;
        }
    }
    for (found, (bytes, packets)) in found.iter_mut().zip(came) {
        found.size = bytes / packets.max(1);
    }
    let [ours, theirs] = &found;
    let there = ratio(&ours.there, &theirs.there);
    let back = ratio(&ours.back, &theirs.back);
    println!("{what}: {there:.2} there, {back:.2} back\n  ours {ours:?}\n  flannel's {theirs:?}");
    ensure!(is_enough(&found), "{what}: {there:.2} {back:.2}");
    // A queue that overflows now and then costs a burst.
    ensure!(
        ours.again <= 3 * theirs.again + ours.carried / 100,
        "{what}: {} of {} sent again, on flannel {}",
        ours.again,
        ours.carried,
        theirs.again
    );
    Ok(found)
}

fn is_enough([ours, theirs]: &[Found; 2]) -> bool {
    ratio(&ours.there, &theirs.there) >= ENOUGH && ratio(&ours.back, &theirs.back) >= ENOUGH
}

/// Of the best rounds: what else the machine does only ever takes from one.
fn ratio(ours: &[u64], theirs: &[u64]) -> f64 {
    let best = |all: &[u64]| {
        let best = all.iter().max().copied().unwrap_or_default();
        f64::from(u32::try_from(best).unwrap_or(u32::MAX))
    };
    best(ours) / best(theirs).max(1.0)
}

/// Aggregates that come in stay whole up to the nested end, as they do on flannel.
fn ensure_whole(what: &str, [ours, theirs]: &[Found; 2]) -> Result<()> {
    ensure!(
        theirs.size > 2 * PACKET,
        "{what}: nothing to compare with: {}",
        theirs.size
    );
    ensure!(
        2 * ours.size > theirs.size,
        "{what}: {} bytes a packet, on flannel {}",
        ours.size,
        theirs.size
    );
    Ok(())
}

/// A namespace whose cable `n0` is in the bridge `nb` of a container.
fn nest(inside: &Container, label: &str, address: Ipv4Addr, mtu: u32) -> Result<Netns> {
    let ns = Netns::new(inside.host.lab(), &format!("{}{label}", inside.name()))?;
    let name = ns.name();
    inside.ip(&format!(
        "link add n0 type veth peer name eth0 netns {name}"
    ))?;
    inside.ip(&format!("link set n0 mtu {mtu} master nb up"))?;
    ns.ip(&format!("link set eth0 mtu {mtu} up"))?;
    ns.ip(&format!("address add {address}/24 dev eth0"))?;
    let [a, b, c, _] = address.octets();
    let gateway = Ipv4Addr::new(a, b, c, 1);
    ns.ip(&format!("route add default via {gateway}"))?;
    Ok(ns)
}

/// The container becomes a switch: a bridge with its cable in it, which keeps `address`, if any.
fn bridge(inside: &Container, address: Option<Ipv4Addr>) -> Result<()> {
    inside.ip("address flush dev eth0")?;
    inside.ip("link add nb type bridge")?;
    inside.ip("link set nb mtu 1450 up")?;
    inside.ip("link set eth0 master nb")?;
    if let Some(address) = address {
        inside.ip(&format!("address add {address}/24 dev nb"))?;
    }
    Ok(())
}

/// Bridged: the far containers lend their addresses to namespaces behind them.
fn behind_a_bridge(twins: &Twins) -> Result<Vec<Netns>> {
    let mut nested = Vec::new();
    for side in Side::BOTH {
        let (_, b) = twins.pair(side)?;
        bridge(b, None)?;
        nested.push(nest(b, "n", b.address, 1450)?);
    }
    Ok(nested)
}

/// Forwarded: behind that bridge is a VXLAN to another container of the same host, and the
/// namespace is behind that one.
fn behind_a_tunnel(twins: &Twins) -> Result<Vec<(Netns, Ipv4Addr)>> {
    let mut nested = Vec::new();
    for side in Side::BOTH {
        let [_, far] = twins.nodes(side)?;
        let (switch, end) = (far.container(0)?, far.container(1)?);
        let own = far.env.container(60);
        switch.ip(&format!("address add {own}/24 dev nb"))?;
        end.ip("link add nb type bridge")?;
        end.ip("link set nb up")?;
        for (inside, local, remote) in [(switch, own, end.address), (end, end.address, own)] {
            inside.ip(&format!(
                "link add vx type vxlan id 99 local {local} remote {remote} dstport 4789"
            ))?;
            inside.ip("link set vx mtu 1400 master nb up")?;
        }
        let address = far.env.container(50);
        nested.push((nest(end, "n", address, 1400)?, address));
    }
    Ok(nested)
}

/// The near containers and what stands for the far ones.
fn pairs<'a>(twins: &'a Twins, far: Vec<NetnsAt<'a>>) -> Result<[[NetnsAt<'a>; 2]; 2]> {
    let near = |side| -> Result<NetnsAt<'a>> {
        let (a, _) = twins.pair(side)?;
        let (ns, address) = (&a.ns, a.address);
        Ok(NetnsAt { ns, address })
    };
    let mut far = far.into_iter();
    let mut next = || far.next().context("a far end");
    Ok([
        [near(Side::Ours)?, next()?],
        [near(Side::Flannels)?, next()?],
    ])
}

/// Everybody has spoken once, so that every table knows everybody.
fn greet(pairs: &[[NetnsAt<'_>; 2]; 2]) -> Result<()> {
    for [near, far] in pairs {
        let pings = probe::ping(far, near.address, "--count 3 --patience-ms 2000")?;
        ensure!(
            pings.replies > 0,
            "{} is not reached: {pings:?}",
            near.name()
        );
    }
    Ok(())
}

/// The wire carries whole packets only, and the hosts' cards put them together again. A veth pair
/// does so only where the other end has no segmentation of its own either.
fn narrow(twins: &Twins) -> Result<()> {
    let off = "gso off tso off tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off";
    let lab = &twins.world.lab;
    for (index, host) in lab.hosts.iter().enumerate() {
        lab.switch
            .run(&format!("ethtool -K p{} {off}", index + 1))?;
        host.run(&format!("ethtool -K eth0 {off} gro on"))?;
    }
    Ok(())
}

#[test]
fn what_a_container_passes_on_is_as_fast_as_on_flannel() -> Result<()> {
    let twins = Twins::start("nested", 2)?;
    let bridged = behind_a_bridge(&twins)?;
    let tunnelled = behind_a_tunnel(&twins)?;
    let mut far = Vec::new();
    for (ns, side) in bridged.iter().zip(Side::BOTH) {
        let address = twins.pair(side)?.1.address;
        far.push(NetnsAt { ns, address });
    }
    let bridged = pairs(&twins, far)?;
    let far = tunnelled.iter().map(|(ns, address)| NetnsAt {
        ns,
        address: *address,
    });
    let tunnelled = pairs(&twins, far.collect())?;
    for pairs in [&bridged, &tunnelled] {
        greet(pairs)?;
    }
    for wire in ["a wire that passes aggregates", "a wire of whole packets"] {
        if wire.ends_with("whole packets") {
            narrow(&twins)?;
        }
        for (what, pairs) in [("a bridge", &bridged), ("a tunnel", &tunnelled)] {
            let what = format!("{what} behind {wire}");
            let before = twins.world.counters()?;
            let found = compare(&what, "eth0", pairs).with_context(|| twins.world.describe())?;
            ensure_whole(&what, &found)?;
            for share in twins.world.shares(&before)? {
                println!("  {share}");
                ensure!(share.milli_percent() >= 99_000, "{what}: {share}");
                ensure!(share.aggregates > 0, "{what}: {share}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_tunnel_between_containers_is_as_fast_as_on_flannel() -> Result<()> {
    let twins = Twins::start("tunnel_inside", 1)?;
    let mut ends = Vec::new();
    for side in Side::BOTH {
        let (a, b) = twins.pair(side)?;
        for (own, other, last) in [(a, b, 1), (b, a, 2)] {
            let (local, remote) = (own.address, other.address);
            own.ip(&format!(
                "link add vx type vxlan id 99 local {local} remote {remote} dstport 4789"
            ))?;
            own.ip(&format!("address add 10.99.0.{last}/24 dev vx"))?;
            own.ip("link set vx mtu 1400 up")?;
            let address = Ipv4Addr::new(10, 99, 0, last);
            ends.push(NetnsAt {
                ns: &own.ns,
                address,
            });
        }
    }
    let mut ends = ends.into_iter();
    let mut next = || ends.next().context("an end");
    let pairs = [[next()?, next()?], [next()?, next()?]];
    greet(&pairs)?;
    for wire in ["a wire that passes aggregates", "a wire of whole packets"] {
        if wire.ends_with("whole packets") {
            narrow(&twins)?;
        }
        compare(&format!("a tunnel inside, {wire}"), "vx", &pairs)
            .with_context(|| twins.world.describe())?;
    }
    Ok(())
}
