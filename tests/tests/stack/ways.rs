//! Ways on which packets differ from most: in fragments, where only state opens the way back, and to
//! a peer that only the kernel can reach.

use std::{net::SocketAddrV4, time::Duration};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    container::{BRIDGE, Place as _},
    host::Host,
    probe, reach, rules, wait,
    world::{Plan, World, total},
};

use crate::{SMALL, met, until_fast};

const PATIENCE: Duration = Duration::from_secs(10);
const PORT: u16 = 7000;
/// Six fragments.
const LARGE: usize = 8192;

/// Docker's and firewalld's shape: what containers begin, one port for others, and what belongs to
/// something known. Replies that conntrack takes for the beginning of something are lost.
fn only_known(host: &Host) -> Result<()> {
    let state = "-m conntrack --ctstate";
    host.run("iptables -P FORWARD DROP")?;
    for what in [
        format!("-i {BRIDGE} {state} NEW"),
        format!("-i flannel.1 -p udp -m udp --dport {PORT} {state} NEW"),
        "-p icmp".to_owned(),
        format!("{state} RELATED,ESTABLISHED"),
    ] {
        host.run(&format!("iptables -I FORWARD {what} -j ACCEPT"))?;
    }
    Ok(())
}

#[test]
fn fragments_pass_where_only_state_opens_the_way_back() -> Result<()> {
    let mut plan = Plan::new("fragments");
    // These rules could drop what the programs take: an operator says that they do not.
    plan.fast_path = "on";
    plan.flags = vec!["--iptables-forward-rules=false".to_owned()];
    let world = met(&plan)?;
    for node in &world.nodes {
        only_known(&node.host)?;
    }
    until_fast(&world)?;
    let (a, b) = world.pair()?;
    let before = world.counters()?;
    for (from, to, port) in [(a, b, 7100), (b, a, 7200)] {
        let at = SocketAddrV4::new(to.address(), PORT);
        let _server = probe::serve(to, &format!("udp-echo {at} --least {LARGE}"))?;
        // A small question with an answer in fragments, and both in fragments.
        for (size, port) in [(32, port), (LARGE, port + 1)] {
            let flags = format!("--count 30 --size {size}");
            let asked = probe::ask_udp(from, port, at, &flags)?.report()?;
            let what = format!("{} asks with {size} bytes", from.name());
            probe::ensure_answered(&what, &asked).with_context(|| world.describe())?;
        }
    }
    let share = total(&world.shares(&before)?);
    println!("{share}");
    // Of each answer at least six packets, on two hosts.
    ensure!(share.taken >= 120 * 6 * 2, "{share}\n{}", world.describe());
    Ok(())
}

/// The link-local address of the host's uplink.
fn link_local(host: &Host) -> Result<String> {
    wait::until("the uplink has an IPv6 address", PATIENCE, || {
        let text = host.ip("-6 -brief address show dev eth0 scope link -tentative")?;
        let word = text
            .split_whitespace()
            .find(|word| word.starts_with("fe80:"));
        Ok(word.and_then(|word| Some(word.split('/').next()?.to_owned())))
    })
}

fn kept(world: &World) -> Result<String> {
    world.node(0)?.host.component("kernel_only")
}

#[test]
fn a_peer_behind_an_ipv6_gateway_is_the_kernels() -> Result<()> {
    let world = met(&Plan::new("ipv6_gateway"))?;
    for node in &world.nodes {
        rules::drop_invalid(&node.host)?;
    }
    let (near, far) = (&world.node(0)?.host, &world.node(1)?.host);
    let (peer, gateway) = (far.address, link_local(far)?);
    near.ip(&format!(
        "route replace {peer}/32 via inet6 {gateway} dev eth0"
    ))?;
    wait::until_true("the status says so", PATIENCE, || {
        let kept = kept(&world)?;
        Ok(kept.contains(&peer.to_string()) && kept.contains(&gateway))
    })
    .with_context(|| format!("{:?}", kept(&world)))?;
    let entry = near.peers()?.into_iter().next().context("a peer")?;
    ensure!(!entry.fast, "{entry:?}");

    let before = near.counters()?;
    reach::ensure_all(&reach::everybody(&world, SMALL)?).with_context(|| world.describe())?;
    let now = near.counters()?;
    let share = now.since(&before);
    ensure!(share.taken == 0, "{share}\n{}", world.describe());
    for hook in ["from_container", "from_uplink"] {
        let reason = "peer_kernel_only";
        let more = now.of(hook, reason) - before.of(hook, reason);
        ensure!(more > 0, "{hook}\n{}", now.lines());
    }

    near.ip(&format!("route del {peer}/32"))?;
    wait::until_true("the peer is fast again", PATIENCE, || {
        Ok(kept(&world)? == "none" && near.peers()?.iter().all(|peer| peer.fast))
    })?;
    // What the kernel has begun it keeps; this is new.
    let before = world.counters()?;
    let (a, b) = world.pair()?;
    let sent = probe::transfer(a, b, 7300, 1 << 20)?;
    ensure!(sent.complete(), "{sent:?}");
    world.ensure_fast(&before)
}
