//! `DirectRouting`: nodes on one wire reach each other's containers without a tunnel, for as long as
//! no gateway is between them.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    agent::READY,
    capture::Capture,
    host::Host,
    kernel_host::DEVICE,
    lab::SWITCH,
    load::Load,
    reach::{self, Effort},
    wait,
    world::{Driver, Kind, Plan, World},
};

const SOME: Effort = Effort {
    pings: 3,
    packets: 100,
    tcp_bytes: 4 << 20,
};

const FEW: Effort = Effort {
    pings: 2,
    packets: 20,
    tcp_bytes: 1 << 16,
};

/// Two of ours and one that is programmed as flannel does it.
fn world() -> Result<World> {
    let plan = Plan {
        config: r#"{"Network":"188.172.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}"#
            .to_owned(),
        kinds: vec![Kind::Weft, Kind::Weft, Kind::Kernel],
        ..Plan::new("direct")
    };
    let world = World::start(&plan)?;
    let flannels = world.node(2)?;
    ensure!(matches!(flannels.driver, Driver::Kernel(_)));
    for other in world.nodes.iter().take(2) {
        let (subnet, via) = (other.env.subnet.trunc(), other.host.address);
        let host = &flannels.host;
        host.ip(&format!("route replace {subnet} via {via}"))?;
        host.ip(&format!("neigh del {} dev {DEVICE}", subnet.network()))?;
    }
    Ok(world)
}

/// The route to another node's containers, as flannel makes it.
fn route(world: &World, from: usize, to: usize) -> Result<String> {
    let subnet = world.node(to)?.env.subnet.trunc();
    let text = world.node(from)?.host.ip(&format!("route show {subnet}"))?;
    Ok(text.trim().to_owned())
}

fn until_route(world: &World, from: usize, to: usize, wanted: &str) -> Result<()> {
    let what = format!("the route is {wanted}");
    wait::until_true(&what, READY, || {
        Ok(route(world, from, to)?.starts_with(wanted))
    })
    .with_context(|| route(world, from, to).unwrap_or_default())
}

/// Entries of our device that lead to other nodes.
fn tunnels(host: &Host) -> Result<usize> {
    let entries = host.run(&format!("bridge fdb show dev {DEVICE}"))?;
    let neighbours = host.ip(&format!("-4 neigh show dev {DEVICE} nud permanent"))?;
    let routes = host.ip(&format!("route show dev {DEVICE}"))?;
    Ok([entries, neighbours, routes]
        .iter()
        .map(|text| text.lines().count())
        .sum())
}

#[test]
fn nodes_on_one_wire_need_no_tunnel_until_a_gateway_is_between_them() -> Result<()> {
    let mut world = world()?;
    let (first, second) = (world.node(0)?, world.node(1)?);
    for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2)] {
        let subnet = world.node(to)?.env.subnet.trunc();
        let via = world.node(to)?.host.address;
        let wanted = format!("{subnet} via {via} dev eth0");
        ensure!(
            route(&world, from, to)? == wanted,
            "{}",
            route(&world, from, to)?
        );
        ensure!(tunnels(&world.node(from)?.host)? == 0, "tunnels are left");
        let status = world.node(from)?.host.status()?.to_string();
        ensure!(status.contains("without encapsulation"), "{status}");
    }
    let capture = Capture::start(&first.host, "eth0")?;
    reach::ensure_all(&reach::everybody(&world, FEW)?).with_context(|| world.describe())?;
    // The first packets teach everybody who is where; the others are fast.
    let before = world.counters()?;
    reach::ensure_all(&reach::everybody(&world, SOME)?).with_context(|| world.describe())?;
    world.ensure_fast(&before)?;
    for (now, before) in world.counters()?.iter().zip(&before) {
        for hook in ["from_container", "from_uplink"] {
            for reason in ["taken", "taken_aggregate"] {
                let more = now.of(hook, reason) - before.of(hook, reason);
                ensure!(more > 0, "no {reason} at {hook}\n{}", now.lines());
            }
        }
    }
    let seen = capture.overlay();
    ensure!(
        seen.is_empty(),
        "{} packets in tunnels: {:?}",
        seen.len(),
        seen.first()
    );

    // From here on a gateway is on the way from the first to the second, but not back.
    world.lab.switch.sysctl("net/ipv4/ip_forward", "1")?;
    world
        .lab
        .switch
        .sysctl("net/ipv4/conf/br0/send_redirects", "0")?;
    let (a, b) = world.pair()?;
    let load = Load::start(a, b, Duration::from_secs(6))?;
    let host = Arc::clone(&first.host);
    host.ip(&format!("route add {} via {SWITCH}", second.host.address))?;
    let subnet = second.env.subnet.trunc();
    until_route(
        &world,
        0,
        1,
        &format!("{subnet} via {} dev {DEVICE} onlink", subnet.network()),
    )?;
    wait::until_true("packets are in tunnels", READY, || {
        Ok(!capture.overlay().is_empty())
    })?;
    host.ip(&format!("route del {} via {SWITCH}", second.host.address))?;
    until_route(
        &world,
        0,
        1,
        &format!("{subnet} via {} dev eth0", second.host.address),
    )?;
    wait::until_true("the tunnel's entries are gone", READY, || {
        Ok(tunnels(&host)? == 0)
    })?;
    let outcome = load.finish()?;
    println!("{outcome}");
    outcome
        .ensure_lossless()
        .with_context(|| world.describe())?;

    drop(capture);
    world.node_mut(0)?.agent()?.stop()?;
    let (code, _, errors) = world.node(0)?.host.weft(&["cleanup"])?;
    ensure!(code == 0, "{code}: {errors}");
    for to in [1, 2] {
        let left = route(&world, 0, to)?;
        ensure!(left.is_empty(), "left behind: {left}");
    }
    Ok(())
}
