//! What must work between two hosts, whatever carries the overlay on them.

use anyhow::{Context as _, Result, ensure};

use crate::{
    container::{BRIDGE, Container, Place},
    probe::{self, Exchange},
    reach::{self, Effort},
    report::{IcmpError, Ping},
    world::{Node, World},
};

const LARGE: u64 = 100 << 20;

/// Everything below, between the first two hosts of a world.
pub fn check(world: &World) -> Result<()> {
    containers(world).context("container to container")?;
    let (first, second) = (world.node(0)?, world.node(1)?);
    for (near, far) in [(first, second), (second, first)] {
        let pair = format!("{} to {}", near.host.label, far.host.label);
        hosts(near, far).with_context(|| pair.clone())?;
        hops(near, far).with_context(|| pair.clone())?;
        sizes(near, far).with_context(|| pair)?;
    }
    Ok(())
}

/// Pings, packets near and above the MTU, 100 MB each way, and nobody's address rewritten.
fn containers(world: &World) -> Result<()> {
    let (a, b) = world.pair()?;
    for (from, to) in [(a, b), (b, a)] {
        let effort = Effort {
            tcp_bytes: LARGE,
            ..Effort::default()
        };
        let reached = reach::try_pair(from, to, effort)?;
        println!("{}\n{}", reach::Reached::header(), reached.line());
        reach::ensure_all(&[reached])?;
        let seen = probe::ask(from, to, 9002)?;
        ensure!(seen == from.address(), "{} appears as {seen}", from.name());
    }
    let full = Exchange {
        port: 9003,
        rate: 1000,
        count: 200,
        size: 1422,
    };
    probe::ensure_complete("UDP that just fits", full.run(a, b)?)?;
    let fragments = Exchange {
        port: 9004,
        rate: 200,
        count: 100,
        size: 8192,
    };
    probe::ensure_complete("UDP in fragments", fragments.run(a, b)?)
}

/// A host and the other's container; its own traffic bears the subnet's network address.
fn hosts(near: &Node, far: &Node) -> Result<()> {
    let (overlay, container) = (near.overlay(), far.container(0)?);
    let seen = probe::ask(&overlay, container, 9010)?;
    ensure!(
        seen == near.env.overlay(),
        "host {} appears as {seen}",
        near.host.label
    );
    for address in [near.env.overlay(), near.env.gateway()] {
        let pings = probe::ping(container, address, "--count 2")?;
        ensure!(
            pings.replies == 2,
            "{} to {address}: {pings:?}",
            container.name()
        );
    }
    probe::ask(container, &overlay, 9011)?;
    probe::ask(container, &near.gateway(), 9012)?;
    let packets = Exchange {
        port: 9013,
        rate: 1000,
        count: 200,
        size: 512,
    };
    probe::ensure_complete("host and container", packets.run(&overlay, container)?)?;
    let tcp = probe::transfer(&overlay, container, 9014, 16 << 20)?;
    ensure!(tcp.complete(), "host to container: {tcp:?}");
    let tcp = probe::transfer(container, &overlay, 9015, 16 << 20)?;
    ensure!(tcp.complete(), "container to host: {tcp:?}");
    Ok(())
}

/// The way is three hops long, and each answers for itself.
fn hops(near: &Node, far: &Node) -> Result<()> {
    let (from, to) = (near.container(0)?, far.container(0)?.address());
    for (ttl, hop) in [(1, near.env.gateway()), (2, far.env.overlay())] {
        let error = only_error(&probe::ping(from, to, &format!("--ttl {ttl}"))?)?;
        ensure!(
            error.is_ttl_exceeded() && error.from == hop,
            "TTL {ttl}: {error:?}"
        );
    }
    let third = probe::ping(from, to, "--ttl 3")?;
    ensure!(third.replies == 1, "TTL 3: {third:?}");
    Ok(())
}

/// What fits passes with DF set; what does not is refused where that is known first.
fn sizes(near: &Node, far: &Node) -> Result<()> {
    let (from, to) = (near.container(0)?, far.container(0)?.address());
    let mtu = near.env.mtu;
    let fits = probe::ping(from, to, &format!("--df --size {mtu}"))?;
    ensure!(fits.replies == 1, "{mtu} bytes: {fits:?}");
    let large = probe::ping(from, to, &format!("--df --size {}", mtu + 1))?;
    ensure!(large.too_big == 1, "{} bytes: {large:?}", mtu + 1);

    // A container whose own MTU is larger hears of it from its host.
    resize(near, from, 1500)?;
    let told = only_error(&probe::ping(from, to, "--df --size 1500")?)?;
    let limit = u16::try_from(mtu).context("the MTU")?;
    ensure!(told.is_too_big() && told.mtu == Some(limit), "{told:?}");
    ensure!(told.from == near.env.gateway(), "{told:?}");
    let whole = probe::ping(from, to, "--size 1500")?;
    ensure!(whole.replies == 1, "1500 bytes in fragments: {whole:?}");
    resize(near, from, mtu)
}

fn resize(node: &Node, container: &Container, mtu: u32) -> Result<()> {
    node.host
        .ip(&format!("link set {} mtu {mtu}", container.port))?;
    node.host.ip(&format!("link set {BRIDGE} mtu {mtu}"))?;
    container.ip(&format!("link set eth0 mtu {mtu}"))?;
    // What was learned about the path belongs to the old size.
    container.ip("route flush cache").map(drop)
}

fn only_error(ping: &Ping) -> Result<IcmpError> {
    match ping.errors.as_slice() {
        [error] if ping.replies == 0 => Ok(*error),
        _ => anyhow::bail!("not one error: {ping:?}"),
    }
}
