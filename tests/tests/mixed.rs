//! One of ours and one host programmed by hand as flannel programs a kernel; and the wire of such
//! a pair beside the wire of two hosts without any code of ours.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    capture::Capture,
    connectivity,
    container::Place as _,
    frame::{Comparable, Overlay},
    probe::{self, Exchange},
    reach::{self, Effort},
    wait,
    world::{Kind, Plan, World},
};

fn pair(test: &str, kinds: [Kind; 2]) -> Result<World> {
    let mut plan = Plan::new(test);
    plan.kinds = kinds.to_vec();
    let world = World::start(&plan)?;
    reach::everybody(
        &world,
        Effort {
            pings: 2,
            packets: 20,
            tcp_bytes: 1 << 16,
        },
    )?;
    Ok(world)
}

#[test]
fn ours_and_flannels_talk() -> Result<()> {
    let world = pair("mixed", [Kind::Weft, Kind::Kernel])?;
    let before = world.counters()?;
    connectivity::check(&world).with_context(|| world.describe())?;
    for share in world.shares(&before)? {
        println!("{share}");
        ensure!(
            share.taken > 0,
            "all of it went through the kernel\n{}",
            world.describe()
        );
    }
    Ok(())
}

/// What the first host of a pair put on the wire, without the lengths that chance decides.
struct Wire {
    /// Echo requests of several sizes and TOS values, and UDP packets of several sizes.
    exact: BTreeSet<String>,
    /// Segments: chance decides their lengths, nothing else.
    tcp: BTreeSet<String>,
    frames: Vec<Overlay>,
}

/// The same traffic for every pair.
fn wire(world: &World) -> Result<Wire> {
    let (a, b) = world.pair()?;
    let capture = Capture::start(&world.node(0)?.host, "eth0")?;
    for tos in [0_u8, 1, 2, 3, 0xb8] {
        for size in [64, 84, 576, 1450] {
            for df in ["", "--df"] {
                let flags = format!("--tos {tos} --size {size} {df} --count 2");
                let pings = probe::ping(a, b.address(), &flags)?;
                ensure!(pings.replies == 2, "{flags}: {pings:?}");
            }
        }
    }
    for (port, size) in [(9000, 16), (9001, 512), (9002, 1422)] {
        let packets = Exchange {
            port,
            rate: 1000,
            count: 50,
            size,
        };
        probe::ensure_complete("UDP", packets.run(a, b)?)?;
    }
    let tcp = probe::transfer(a, b, 9003, 1 << 20)?;
    ensure!(tcp.complete(), "{tcp:?}");

    let source = a.address();
    // Whether a late packet still finds its socket is chance: no ICMP errors, which the kernel
    // marks as internetwork control.
    let ours = |frame: &Overlay| {
        frame
            .inner_ip
            .as_ref()
            .is_some_and(|ip| ip.source == source && ip.tos != 0xc0)
    };
    let expected = 80 + 150 + 20;
    let frames = wait::until("the frames are read", Duration::from_secs(5), || {
        let frames: Vec<_> = capture.overlay().into_iter().filter(ours).collect();
        let segments = frames.iter().filter(|frame| is_of(frame, 6)).count();
        Ok((frames.len() >= expected && segments >= 10).then_some(frames))
    })?;
    let of = |protocol: u8| frames.iter().filter(move |frame| is_of(frame, protocol));
    let exact = of(1)
        .chain(of(17))
        .map(|frame| format!("{:?}", frame.comparable()))
        .collect();
    let tcp = of(6)
        .map(|frame| format!("{:?}", without_lengths(frame.comparable())))
        .collect();
    Ok(Wire { exact, tcp, frames })
}

fn is_of(frame: &Overlay, protocol: u8) -> bool {
    let inner = frame.inner_ip.as_ref();
    inner.is_some_and(|ip| ip.protocol == protocol)
}

fn without_lengths(mut frame: Comparable) -> Comparable {
    frame.length = 0;
    frame.udp_length = 0;
    frame.inner_length = None;
    frame
}

#[test]
fn our_wire_is_the_kernels() -> Result<()> {
    let theirs = wire(&pair("theirs", [Kind::Kernel, Kind::Kernel])?)?;
    let world = pair("ours", [Kind::Weft, Kind::Kernel])?;
    let before = world.counters()?;
    let ours = wire(&world)?;
    let taken = world.shares(&before)?;
    ensure!(
        taken.iter().all(|share| share.taken > 200),
        "the kernel sent it: {taken:?}"
    );

    let only_ours: Vec<_> = ours.exact.difference(&theirs.exact).collect();
    let only_theirs: Vec<_> = theirs.exact.difference(&ours.exact).collect();
    ensure!(
        only_ours.is_empty() && only_theirs.is_empty(),
        "{only_ours:#?}\n{only_theirs:#?}"
    );
    ensure!(ours.tcp == theirs.tcp, "{:#?}\n{:#?}", ours.tcp, theirs.tcp);

    addresses(&world, &ours.frames)?;
    ports_and_ids(&world, &ours.frames)
}

/// The fields that differ between pairs, each against what this pair has.
fn addresses(world: &World, frames: &[Overlay]) -> Result<()> {
    let (first, second) = (world.node(0)?, world.node(1)?);
    let mac = |index: usize, device: &str| -> Result<String> {
        let text = world
            .node(index)?
            .host
            .run(&format!("cat /sys/class/net/{device}/address"))?;
        Ok(text.trim().to_owned())
    };
    let underlay = (mac(0, "eth0")?, mac(1, "eth0")?);
    let overlay = (mac(0, "flannel.1")?, mac(1, "flannel.1")?);
    for frame in frames {
        ensure!(frame.ip.source == first.host.address, "{frame:?}");
        ensure!(frame.ip.destination == second.host.address, "{frame:?}");
        let outer = (
            text(frame.ethernet.source),
            text(frame.ethernet.destination),
        );
        ensure!(outer == underlay, "{frame:?}");
        let inner = (text(frame.inner.source), text(frame.inner.destination));
        ensure!(inner == overlay, "{frame:?}");
    }
    Ok(())
}

/// The source port is the flow's, from the local range; the id varies while DF is clear.
fn ports_and_ids(world: &World, frames: &[Overlay]) -> Result<()> {
    let range = world
        .node(0)?
        .host
        .run("cat /proc/sys/net/ipv4/ip_local_port_range")?;
    let range: Vec<u16> = range
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [low, high] = range.as_slice() else {
        anyhow::bail!("port range {range:?}")
    };
    let mut flows = std::collections::BTreeMap::new();
    for frame in frames {
        ensure!((low..=high).contains(&&frame.source_port), "{frame:?}");
        if let Some(flow) = frame.inner_flow().filter(|flow| flow.0 == 17) {
            flows
                .entry(flow)
                .or_insert_with(BTreeSet::new)
                .insert(frame.source_port);
        }
    }
    ensure!(flows.len() >= 3, "{flows:?}");
    ensure!(
        flows.values().all(|ports| ports.len() == 1),
        "a flow changed its port: {flows:?}"
    );
    let ports: BTreeSet<_> = flows.values().flatten().collect();
    ensure!(ports.len() > 1, "all flows have one port: {flows:?}");
    let ids: BTreeSet<_> = frames.iter().map(|frame| frame.ip.id).collect();
    ensure!(
        ids.len() > frames.len() / 4,
        "{} ids in {} frames",
        ids.len(),
        frames.len()
    );
    Ok(())
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
