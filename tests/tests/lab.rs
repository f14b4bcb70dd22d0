//! The lab itself: two hosts programmed by hand, with no code of ours on the way.
//! What fails here is the lab's fault, not the agent's.

mod common;

use std::sync::Arc;

use anyhow::{Result, ensure};
use weft_tests::{
    container::{Container, HostAt, Place, add_bridge},
    kernel_host::KernelHost,
    lab::Lab,
    probe::{self, Exchange},
};

struct Pair {
    containers: Vec<Container>,
    hosts: Vec<KernelHost>,
    _lab: Lab,
}

fn pair(test: &str) -> Result<Pair> {
    let lab = Lab::new(test, 2)?;
    let hosts = common::kernel_hosts(&lab)?;
    let mut containers = Vec::new();
    for host in &hosts {
        add_bridge(&host.host, &host.env)?;
        containers.push(Container::new(&host.host, &host.env, 1)?);
    }
    Ok(Pair {
        containers,
        hosts,
        _lab: lab,
    })
}

#[test]
fn containers_of_hand_made_hosts_reach_each_other() -> Result<()> {
    let pair = pair("hand_made")?;
    let (a, b) = (&pair.containers[0], &pair.containers[1]);

    let pings = probe::ping(a, b.address(), "--count 3")?;
    ensure!(pings.replies == 3, "{pings:?}");

    let small = Exchange {
        port: 9000,
        rate: 1000,
        count: 500,
        size: 64,
    };
    probe::ensure_complete("small packets", small.run(a, b)?)?;
    let large = Exchange {
        port: 9001,
        rate: 100,
        count: 50,
        size: 8000,
    };
    probe::ensure_complete("fragments", large.run(a, b)?)?;

    for (from, to) in [(a, b), (b, a)] {
        let tcp = probe::transfer(from, to, 9002, 20 << 20)?;
        ensure!(tcp.complete(), "{tcp:?}");
        ensure!(
            probe::ask(from, to, 9003)? == from.address(),
            "the source was rewritten"
        );
    }
    Ok(())
}

#[test]
fn hosts_reach_remote_containers_by_the_overlay_address() -> Result<()> {
    let pair = pair("hand_made_hosts")?;
    let first = &pair.hosts[0];
    let host = HostAt {
        host: Arc::clone(&first.host),
        address: first.env.overlay(),
    };
    let container = &pair.containers[1];
    ensure!(probe::ask(&host, container, 9000)? == first.env.overlay());
    ensure!(probe::ask(container, &host, 9000)? == container.address());
    Ok(())
}

#[test]
fn errors_of_the_path_are_seen() -> Result<()> {
    let pair = pair("path_errors")?;
    let (a, b) = (&pair.containers[0], &pair.containers[1]);

    let first = probe::ping(a, b.address(), "--ttl 1")?;
    ensure!(
        first.errors[0].is_ttl_exceeded() && first.errors[0].from == pair.hosts[0].env.gateway()
    );
    let second = probe::ping(a, b.address(), "--ttl 2")?;
    ensure!(
        second.errors[0].is_ttl_exceeded() && second.errors[0].from == pair.hosts[1].env.overlay(),
        "{second:?}"
    );
    ensure!(probe::ping(a, b.address(), "--ttl 3")?.replies == 1);

    ensure!(probe::ping(a, b.address(), "--df --size 1450")?.replies == 1);
    ensure!(probe::ping(a, b.address(), "--df --size 1451")?.too_big == 1);

    // A container with a larger MTU than the overlay hears of it from its host.
    pair.hosts[0].host.ip("link set cni0 mtu 1500")?;
    pair.hosts[0]
        .host
        .ip(&format!("link set {} mtu 1500", a.port))?;
    a.ip("link set eth0 mtu 1500")?;
    let told = probe::ping(a, b.address(), "--df --size 1500")?;
    ensure!(
        told.errors[0].is_too_big() && told.errors[0].mtu == Some(1450),
        "{told:?}"
    );
    Ok(())
}
