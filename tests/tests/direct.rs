//! `DirectRouting`: nodes on one wire reach each other's containers without a tunnel, for as long as
//! no gateway is between them.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    agent::READY,
    capture::Capture,
    container::BRIDGE,
    host::Host,
    kernel_host::DEVICE,
    lab::SWITCH,
    load::Load,
    probe::{self, Exchange},
    reach::{self, Effort},
    rules::{self, At, Service, Tool},
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

fn config(direct: bool) -> String {
    let backend = format!(r#"{{"Type":"vxlan","DirectRouting":{direct}}}"#);
    format!(r#"{{"Network":"188.172.0.0/16","Backend":{backend}}}"#)
}

/// Two of ours and one that is programmed as flannel does it.
fn world() -> Result<World> {
    let plan = Plan {
        config: config(true),
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
    world.until_met()?;
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

/// Where a service answers that no host has.
const CLUSTER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// Who asks a service of its own host's, that a container elsewhere answers for: by UDP, and by TCP
/// from one port again and again. The asker's address must be seen there.
fn ask(world: &World) -> Result<()> {
    let (a, b) = world.pair()?;
    let near = &world.node(0)?.host;
    let services = [("udp", 7000), ("tcp", 7001)].map(|(protocol, port)| Service {
        at: At::Address(CLUSTER),
        protocol,
        port: port + 1000,
        backend: SocketAddrV4::new(b.address, port),
        masquerade: false,
    });
    rules::serve(near, Tool::Iptables, &services)?;
    let _servers = [
        probe::serve(b, &format!("udp-echo {}:7000", b.address))?,
        probe::serve(b, &format!("tcp-brief {}:7001", b.address))?,
    ];
    let before = near.counters()?;
    let capture = Capture::in_namespace(&b.ns, "eth0")?;
    let to = SocketAddrV4::new(CLUSTER, 8000);
    let asked = probe::ask_udp(a, 30_000, to, "--count 3 --pause-ms 100")?;
    probe::ensure_answered("UDP", &asked.report()?).with_context(|| world.describe())?;
    let to = SocketAddrV4::new(CLUSTER, 8001);
    let asked = probe::reuse(a, 30_001, to, 4)?;
    probe::ensure_answered("TCP", &asked).with_context(|| world.describe())?;
    let (own, hosts) = (a.address.octets(), near.address.octets());
    let is_from = |address: [u8; 4]| {
        let frames = capture.frames();
        let mut sources = frames.iter().filter_map(|frame| frame.get(26..30));
        sources.any(|source| source == address)
    };
    wait::until_true("the asker is seen", READY, || Ok(is_from(own)))?;
    ensure!(!is_from(hosts), "the host's address hides its container's");
    let now = near.counters()?;
    for (hook, reason) in [
        ("to_overlay", "recorded_nat"),
        ("from_uplink", "recorded_flow"),
    ] {
        let more = now.of(hook, reason) - before.of(hook, reason);
        ensure!(more > 0, "no {reason} at {hook}\n{}", now.lines());
    }
    Ok(())
}

/// Until both hosts' programs reach each other so.
fn until_reached(world: &World, direct: bool) -> Result<()> {
    for node in &world.nodes {
        wait::until_true("the peer is reached as it should be", READY, || {
            let peers = node.host.peers()?;
            Ok(peers.iter().all(|peer| peer.fast && peer.direct == direct))
        })
        .with_context(|| world.describe())?;
    }
    Ok(())
}

/// And the load is taken.
fn until_taken(world: &World, direct: bool) -> Result<()> {
    until_reached(world, direct)?;
    // The load brings thousands a second.
    let before = world.counters()?;
    wait::until_true("packets take that way", READY, || {
        let now = world.counters()?;
        let mut hosts = now.iter().zip(&before);
        Ok(hosts.all(|(now, before)| {
            let more = |hook, reason| now.of(hook, reason) > before.of(hook, reason) + 100;
            more("from_container", "taken") && more("from_uplink", "taken")
        }))
    })
    .with_context(|| world.describe())
}

#[test]
fn translated_flows_stay_whole_and_no_switch_of_the_config_loses_a_packet() -> Result<()> {
    let plan = Plan {
        config: config(true),
        ..Plan::new("switched")
    };
    let world = World::start(&plan)?;
    for node in &world.nodes {
        rules::drop_invalid(&node.host)?;
        rules::masquerade(&node.host, node.env.subnet, BRIDGE)?;
    }
    reach::ensure_all(&reach::everybody(&world, FEW)?).with_context(|| world.describe())?;
    world.until_met()?;
    ask(&world)?;

    let (a, b) = world.pair()?;
    let load = Load::start(a, b, Duration::from_secs(10))?;
    until_taken(&world, true)?;
    for direct in [false, true] {
        world.lab.etcd.put_config(&config(direct))?;
        wait::until_true("the rules follow", READY, || {
            let rules = world.node(0)?.host.run("iptables -t nat -S POSTROUTING")?;
            Ok(rules.contains("-o eth0 -m mark") == direct)
        })?;
        // A flow that begins while only one of the two knows may lose its first answer to the rule.
        until_reached(&world, direct)?;
        reach::ensure_all(&reach::everybody(&world, FEW)?).with_context(|| world.describe())?;
    }
    let outcome = load.finish()?;
    println!("{outcome}");
    outcome
        .ensure_lossless()
        .with_context(|| world.describe())?;
    // What was under way while only one of the two knew has met the stack, which keeps it until it
    // is promoted. What begins now has not.
    let before = world.counters()?;
    let udp = Exchange {
        port: 9300,
        rate: 1000,
        count: 300,
        size: 64,
    };
    probe::ensure_complete("UDP afterwards", udp.run(a, b)?)?;
    let tcp = probe::transfer(a, b, 9301, SOME.tcp_bytes)?;
    ensure!(tcp.complete(), "TCP afterwards: {tcp:?}");
    world.ensure_fast(&before)
}
