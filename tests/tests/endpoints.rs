//! What the kernel's tables do to a container, step by step: when it is an endpoint, and where.

use std::{
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    container::{BRIDGE, Container, Place as _},
    host::Host,
    probe::{self, Exchange},
    reach::{self, Effort},
    report::Tcp,
    wait,
    world::{Plan, World, total},
};

const PATIENCE: Duration = Duration::from_secs(10);
/// Of the bridge's entries.
const LIFETIME: Duration = Duration::from_secs(3);
/// More than two of them.
const SPELL: Duration = Duration::from_secs(7);

/// Something done to the host.
type Change<'a> = &'a dyn Fn() -> Result<()>;
type Step = fn(&World) -> Result<()>;

/// Bridges forget after three seconds, and neighbours are doubted after one.
fn start(test: &str) -> Result<World> {
    let plan = Plan {
        containers: 2,
        ..Plan::new(test)
    };
    let world = World::start(&plan)?;
    for node in &world.nodes {
        // In hundredths of a second.
        node.host
            .ip(&format!("link set {BRIDGE} type bridge ageing_time 300"))?;
        let neighbours = format!("net/ipv4/neigh/{BRIDGE}");
        for (key, value) in [
            ("base_reachable_time_ms", "1000"),
            ("delay_first_probe_time", "1"),
            ("retrans_time_ms", "200"),
            ("interval_probe_time_ms", "1000"),
        ] {
            node.host.ns.sysctl(&format!("{neighbours}/{key}"), value)?;
        }
    }
    let effort = Effort {
        pings: 1,
        packets: 20,
        tcp_bytes: 1 << 16,
    };
    reach::ensure_all(&reach::everybody(&world, effort)?)?;
    Ok(world)
}

/// Where the endpoint of an address is: its port and MAC.
fn endpoint(host: &Host, address: &str) -> Result<Option<(String, String)>> {
    let all = host.endpoints()?;
    let found = all.into_iter().find(|endpoint| endpoint.address == address);
    Ok(found.map(|endpoint| {
        let port = endpoint.port.as_str().map(str::to_owned);
        (
            port.unwrap_or_else(|| endpoint.port.to_string()),
            endpoint.mac,
        )
    }))
}

fn until_at(host: &Host, address: &str, port: &str, mac: &str) -> Result<()> {
    let wanted = Some((port.to_owned(), mac.to_owned()));
    let what = format!("{address} is {mac} behind {port}");
    wait::until_true(&what, PATIENCE, || Ok(endpoint(host, address)? == wanted))
        .with_context(|| format!("{:?}", host.endpoints()))
}

fn until_none(host: &Host, address: &str) -> Result<()> {
    let what = format!("{address} is no endpoint");
    wait::until_true(&what, PATIENCE, || Ok(endpoint(host, address)?.is_none()))
        .with_context(|| format!("{:?}", host.endpoints()))
}

/// A new flow between the two is whole, and carried by the programs.
fn ensure_fast(world: &World, a: &Container, b: &Container) -> Result<()> {
    // No flow of an earlier step: those may be the stack's.
    static PORT: AtomicU16 = AtomicU16::new(20_000);
    // The kernel's own way may have to find its neighbours first.
    wait::until_true("a ping is answered", PATIENCE, || {
        let pings = probe::ping(a, b.address(), "--count 1 --patience-ms 300")?;
        Ok(pings.replies == 1)
    })?;
    for container in [a, b] {
        let address = container.address.to_string();
        let what = format!("{address} is an endpoint");
        wait::until_true(&what, PATIENCE, || {
            Ok(endpoint(&container.host, &address)?.is_some())
        })?;
    }
    let before = world.counters()?;
    let packets = Exchange {
        port: PORT.fetch_add(1, Ordering::Relaxed),
        rate: 1000,
        count: 100,
        size: 64,
    };
    probe::ensure_complete("a new flow", packets.run(a, b)?)?;
    let share = total(&world.shares(&before)?);
    ensure!(
        share.milli_percent() >= 99_000,
        "{share}\n{}",
        world.describe()
    );
    Ok(())
}

fn unanswered(a: &Container, b: &Container) -> Result<()> {
    let pings = probe::ping(a, b.address(), "--count 3 --patience-ms 100")?;
    ensure!(pings.replies == 0, "{pings:?}");
    Ok(())
}

/// The bridge's entry of a MAC, as `bridge fdb` shows it.
fn learned(host: &Host, mac: &str) -> Result<bool> {
    let shown = host.run(&format!("bridge fdb show br {BRIDGE}"))?;
    Ok(shown
        .lines()
        .any(|line| line.starts_with(mac) && !line.contains("permanent") && !line.contains("self")))
}

/// TCP alone, which asks for no neighbour: the bridge would forget the container. The kernel keeps
/// its neighbour fresh because the agent asked it to, and the answers teach the bridge.
fn busy(world: &World) -> Result<()> {
    let (a, b) = world.pair()?;
    let host = &world.node(1)?.host;
    let (_, mac) = endpoint(host, &b.address.to_string())?.context("the endpoint")?;
    let shown = host.ip(&format!("neigh show {} dev {BRIDGE}", b.address))?;
    ensure!(shown.contains("managed"), "{shown}");
    let at = format!("{}:9101", b.address());
    let _sink = probe::serve(b, &format!("tcp-sink {at}"))?;
    let before = world.counters()?;
    let time = SPELL.as_millis();
    let stream = format!(
        "tcp-send --to {at} --pace 20 --bytes {} --stop-after {time}",
        u64::MAX
    );
    let stream = probe::start(a, &stream)?;
    let (began, mut samples, mut hits) = (Instant::now(), 0, 0);
    while began.elapsed() < SPELL {
        if began.elapsed() > LIFETIME {
            samples += 1;
            hits += u32::from(learned(host, &mac)?);
        }
        ensure!(
            endpoint(host, &b.address.to_string())?.is_some(),
            "forgotten"
        );
    }
    let report: Tcp = stream.report()?;
    let share = total(&world.shares(&before)?);
    println!("learned in {hits} of {samples} samples, {share}");
    ensure!(report.complete() && report.repaired() == 0, "{report:?}");
    ensure!(share.milli_percent() >= 99_900, "{share}");
    // Left alone it would be gone by then.
    ensure!(
        hits * 2 > samples,
        "the bridge forgot it: {hits} of {samples}"
    );
    Ok(())
}

/// Another address at the same place: nothing is heard of the old one's end but silence.
fn another_address(world: &World) -> Result<()> {
    let (a, b) = world.pair()?;
    let node = world.node(1)?;
    let (port, mac) = endpoint(&node.host, &b.address.to_string())?.context("the endpoint")?;
    let (old, new) = (b.address, node.env.container(77));
    let change = |to| -> Result<()> {
        b.ip("address flush dev eth0")?;
        b.ip(&format!("address add {to}/24 dev eth0"))?;
        b.ip(&format!("route replace default via {}", node.env.gateway()))?;
        b.run(&format!("ping -c 1 -W 2 {}", node.env.gateway()))
            .map(drop)
    };
    change(new)?;
    until_at(&node.host, &new.to_string(), &port, &mac)?;
    until_none(&node.host, &old.to_string())?;
    unanswered(a, b)?;
    change(old)?;
    until_at(&node.host, &old.to_string(), &port, &mac)?;
    until_none(&node.host, &new.to_string())?;
    ensure_fast(world, a, b)
}

/// The same address and MAC behind another port, as Docker gives them to the next container.
fn another_port(world: &World) -> Result<()> {
    let (a, b) = world.pair()?;
    let node = world.node(1)?;
    let (host, other) = (&node.host, node.container(1)?);
    let (own, spare) = (b.address.to_string(), other.address.to_string());
    let (port, mac) = endpoint(host, &own)?.context("the endpoint")?;
    let (_, other_mac) = endpoint(host, &spare)?.context("the other endpoint")?;
    let swap = |from: &Container, to: &Container, back: &str, address: &str| -> Result<()> {
        from.ip("address flush dev eth0")?;
        from.ip(&format!("link set eth0 address {back}"))?;
        to.ip("address flush dev eth0")?;
        to.ip(&format!("link set eth0 address {mac}"))?;
        to.ip(&format!("address add {address}/24 dev eth0"))?;
        to.ip(&format!("route replace default via {}", node.env.gateway()))?;
        to.run(&format!("ping -c 1 -W 2 {}", node.env.gateway()))
            .map(drop)
    };
    swap(b, other, &other_mac, &own)?;
    until_at(host, &own, &other.port, &mac)?;
    // Its first address is now behind the other cable.
    let echo = probe::ping(a, b.address(), "--count 2 --patience-ms 500")?;
    ensure!(echo.replies == 2, "{echo:?}");
    // And home again.
    other.ip("address flush dev eth0")?;
    other.ip(&format!("link set eth0 address {other_mac}"))?;
    other.ip(&format!("address add {spare}/24 dev eth0"))?;
    other.ip(&format!("route replace default via {}", node.env.gateway()))?;
    b.ip(&format!("link set eth0 address {mac}"))?;
    b.ip(&format!("address add {own}/24 dev eth0"))?;
    b.ip(&format!("route replace default via {}", node.env.gateway()))?;
    for container in [b, other] {
        container.run(&format!("ping -c 1 -W 2 {}", node.env.gateway()))?;
    }
    until_at(host, &own, &port, &mac)?;
    until_at(host, &spare, &other.port, &other_mac)?;
    ensure_fast(world, a, b)
}

/// Out of the bridge, without carrier, or down: no endpoint, no packet; and back.
fn off_and_on(world: &World) -> Result<()> {
    let (a, b) = world.pair()?;
    let node = world.node(1)?;
    let host = &node.host;
    let own = b.address.to_string();
    let (port, mac) = endpoint(host, &own)?.context("the endpoint")?;
    let gateway = node.env.gateway();
    let steps: [(&str, Change<'_>, Change<'_>); 3] = [
        (
            "nomaster",
            &|| host.ip(&format!("link set {port} nomaster")).map(drop),
            &|| {
                host.ip(&format!("link set {port} master {BRIDGE}"))
                    .map(drop)
            },
        ),
        (
            "port down",
            &|| host.ip(&format!("link set {port} down")).map(drop),
            &|| host.ip(&format!("link set {port} up")).map(drop),
        ),
        (
            "no carrier",
            &|| b.ip("link set eth0 down").map(drop),
            &|| {
                b.ip("link set eth0 up")?;
                b.ip(&format!("route replace default via {gateway}"))
                    .map(drop)
            },
        ),
    ];
    for (what, off, on) in steps {
        off().context(what)?;
        until_none(host, &own).context(what)?;
        unanswered(a, b).context(what)?;
        on().context(what)?;
        ensure_fast(world, a, b).context(what)?;
        until_at(host, &own, &port, &mac).context(what)?;
    }
    Ok(())
}

/// The bridge goes, and one of the same name and address comes.
fn another_bridge(world: &World) -> Result<()> {
    let (a, b) = world.pair()?;
    let node = world.node(1)?;
    let host = &node.host;
    let own = b.address.to_string();
    host.ip(&format!("link delete {BRIDGE}"))?;
    until_none(host, &own)?;
    ensure!(host.endpoints()?.is_empty(), "{:?}", host.endpoints());
    unanswered(a, b)?;
    weft_tests::container::add_bridge(host, &node.env)?;
    for container in &node.containers {
        let port = &container.port;
        host.ip(&format!("link set {port} master {BRIDGE}"))?;
        // The bridge has another MAC than the one that the container remembers.
        container.ip("neigh flush dev eth0")?;
    }
    ensure_fast(world, a, b)?;
    let bridge = |endpoint: &weft_tests::dump::EndpointEntry| endpoint.bridge == BRIDGE;
    let all = host.endpoints()?;
    ensure!(!all.is_empty() && all.iter().all(bridge), "{all:?}");
    Ok(())
}

#[test]
fn endpoints_follow_the_kernels_tables() -> Result<()> {
    let world = start("endpoints")?;
    let steps: [(&str, Step); 5] = [
        ("busy", busy),
        ("another address", another_address),
        ("another port", another_port),
        ("off and on", off_and_on),
        ("another bridge", another_bridge),
    ];
    for (what, step) in steps {
        let began = Instant::now();
        step(&world).with_context(|| format!("{what}\n{}", world.describe()))?;
        println!("{what}: {:?}", began.elapsed());
    }
    Ok(())
}
