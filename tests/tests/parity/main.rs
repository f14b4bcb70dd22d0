//! Two pairs of hosts side by side, one on the kernel's VXLAN programmed as flannel does, one on
//! ours: the same packets are sent through both, and everything that can be observed is compared.

#![allow(
    clippy::indexing_slicing,
    reason = "all of this is tests, which clippy sees only of functions marked so"
)]

mod allowed;
mod build;
mod case;
mod cases;
mod compare;
mod counts;
mod pair;
mod place;
mod runner;
mod seen;
mod sockets;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use weft_tests::world::Kind;

use crate::{
    build::{Hooks, Rules},
    case::{Case, From, Wire},
    pair::Pair,
    runner::Runner,
};

/// What the kernel's VXLAN goes by, and an administrator may change at any time.
const SETTINGS: [(&str, &str); 2] = [
    ("net/ipv4/ip_default_ttl", "77"),
    ("net/ipv4/ip_local_port_range", "40000 40999"),
];

/// The whole table.
fn run(rules: Rules, hooks: Hooks) -> Result<()> {
    let mut runner = Runner::start(rules, hooks)?;
    let table = cases::all();
    let names: BTreeSet<_> = table.iter().map(|case| &case.name).collect();
    ensure!(names.len() == table.len(), "two cases of one name");
    ensure!(table.len() >= 300, "only {} cases", table.len());
    let run = |case: &&Case| rules == Rules::None || !case.stateless;
    for case in table.iter().filter(run) {
        runner.run(case)?;
    }
    if rules == Rules::None && hooks == Hooks::Ports {
        change(&mut runner)?;
    }
    runner.finish()
}

/// What may change while the hosts run.
fn change(runner: &mut Runner) -> Result<()> {
    runner.set(&SETTINGS, &cases::usual())?;

    runner.ip(0, "route add unreachable default table 77")?;
    for object in ["rule", "route"] {
        let words = match object {
            "rule" => format!("to {} lookup 77", cases::BARRED),
            _ => format!("unreachable {}/32", cases::BARRED),
        };
        runner.ip(0, &format!("{object} add {words}"))?;
        runner.until_peer("the peer is the kernel's", |peer| !peer.fast)?;
        runner.run(&cases::unreachable(object))?;
        runner.ip(0, &format!("{object} del {words}"))?;
        runner.until_peer("the peer is ours", |peer| peer.fast)?;
    }
    runner.run(&cases::usual())?;

    runner.ip(1, "link set cni0 mtu 1400")?;
    runner.until_equal(&cases::too_wide())?;
    for case in &cases::small() {
        runner.run(case)?;
    }
    runner.ip(1, "link set cni0 mtu 1450")?;
    runner.until_equal(&cases::wide())?;

    runner.run(&cases::told())?;
    runner.until_peer("the path is known", |peer| peer.mtu == Some(cases::TOLD))?;
    for case in &cases::narrow() {
        runner.run(case)?;
    }
    Ok(())
}

#[test]
fn every_packet_fares_as_in_the_kernel() -> Result<()> {
    run(Rules::None, Hooks::Ports)
}

#[test]
fn every_packet_fares_so_where_connections_are_followed() -> Result<()> {
    run(Rules::Stateful, Hooks::Ports)
}

/// What is measured must be right, too.
#[test]
fn every_packet_fares_so_with_hooks_at_bridges() -> Result<()> {
    run(Rules::None, Hooks::Bridges)
}

/// Those that programs take from end to end.
#[test]
fn every_packet_fares_so_without_a_tunnel() -> Result<()> {
    let mut runner = Runner::start(Rules::None, Hooks::Direct)?;
    let table = cases::all();
    let is_fast = |case: &&Case| {
        // Cut where the tunnel's headers would make it too long for IPv4.
        if case.name.contains("fills IPv4 outside") {
            return false;
        }
        let by_container = matches!(case.from, From::A | From::B);
        let counts = counts::parse(&case.counts);
        let taken = counts.is_ok_and(|counts| counts::is_fast(&counts));
        by_container && case.wire == Wire::Whole && taken
    };
    let fast: Vec<_> = table.iter().filter(is_fast).collect();
    ensure!(fast.len() >= 100, "only {} cases", fast.len());
    println!("{} cases", fast.len());
    for case in fast {
        runner.run(case)?;
    }
    runner.finish()
}

#[test]
fn every_byte_of_sockets_arrives_as_through_the_kernel() -> Result<()> {
    let kernel = Pair::start(Kind::Kernel, Rules::None, Hooks::Ports)?;
    let ours = Pair::start(Kind::Weft, Rules::None, Hooks::Ports)?;
    for case in &sockets::table() {
        let done = sockets::check(case, &kernel, &ours);
        done.with_context(|| format!("{}\n{ours}", case.name))?;
    }
    Ok(())
}
