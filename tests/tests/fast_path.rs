//! What qualifies for the fast path takes it, and the maps say so by name.

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    paths::{BPFTOOL, required},
    reach::{self, Effort},
    world::{Plan, World},
};

/// In thousandths of a percent point.
const ENOUGH: u64 = 99_900;

#[test]
fn nearly_every_packet_that_qualifies_is_taken() -> Result<()> {
    let world = World::start(&Plan::new("share"))?;
    // The first packets teach both hosts who is where.
    reach::everybody(
        &world,
        Effort {
            pings: 2,
            packets: 20,
            tcp_bytes: 1 << 16,
        },
    )?;
    let before = world.counters()?;
    let effort = Effort {
        pings: 10,
        packets: 3000,
        tcp_bytes: 100 << 20,
    };
    let reached = reach::everybody(&world, effort)?;
    reach::ensure_all(&reached).with_context(|| world.describe())?;
    for (node, share) in world.nodes.iter().zip(world.shares(&before)?) {
        println!("{}: {share}", node.host.label);
        // Two runs of 3,000 packets each way pass each host's hooks.
        let counted = share.qualified > 12_000 && share.milli_percent() >= ENOUGH;
        ensure!(
            counted,
            "{}: {share}\n{}",
            node.host.label,
            world.describe()
        );
        ensure!(share.aggregates > 0, "no aggregate was delivered: {share}");
    }
    Ok(())
}

#[test]
fn the_peer_map_names_its_fields() -> Result<()> {
    let world = World::start(&Plan::new("btf"))?;
    let (first, second) = (world.node(0)?, world.node(1)?);
    let pins = first.host.run("find /sys/fs/bpf/weft -name PEERS")?;
    let pin = pins.lines().next().context("the peer map is not pinned")?;
    required(BPFTOOL)?;
    let dump = first
        .host
        .run(&format!("{BPFTOOL} map dump pinned {pin}"))?;
    for field in ["\"subnet\"", "\"vtep_addr\"", "\"vtep_mac\""] {
        ensure!(dump.contains(field), "no {field} in\n{dump}");
    }
    // The values are byte arrays, printed one number a line.
    let flat: String = dump.split_whitespace().collect();
    let [a, b, c, d] = second.host.address.octets();
    ensure!(
        flat.contains(&format!("\"vtep_addr\":[{a},{b},{c},{d}]")),
        "{dump}"
    );
    let [a, b, c, d] = second.env.overlay().octets();
    ensure!(
        flat.contains(&format!("\"subnet\":[{a},{b},{c},{d}]")),
        "{dump}"
    );
    Ok(())
}

#[test]
fn peers_and_endpoints_are_shown() -> Result<()> {
    let world = World::start(&Plan::new("shown"))?;
    reach::everybody(
        &world,
        Effort {
            pings: 2,
            packets: 20,
            tcp_bytes: 1 << 16,
        },
    )?;
    let (first, second) = (world.node(0)?, world.node(1)?);
    let peers = first.host.peers()?;
    let peer = peers.first().context("one peer")?;
    ensure!(peer.vtep == second.host.address.to_string(), "{peer:?}");
    ensure!(
        peer.subnet == second.env.subnet.trunc().to_string() && peer.fast,
        "{peer:?}"
    );
    let endpoints = first.host.endpoints()?;
    let own = first.container(0)?.address.to_string();
    ensure!(
        endpoints.iter().any(|endpoint| endpoint.address == own),
        "{endpoints:?}"
    );
    Ok(())
}
