//! What comes from a node's own address: the kernel carries it both ways, also where Docker's rules
//! masquerade and what conntrack calls invalid is dropped.

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    container::{BRIDGE, HostAt, Place},
    probe, rules,
    world::Plan,
};

use crate::{
    met,
    services::{TCP, UDP, prepare, servers},
};

#[test]
fn a_nodes_own_address_speaks_with_containers() -> Result<()> {
    let world = met(&Plan::new("node_address"))?;
    prepare(&world)?;
    for node in &world.nodes {
        rules::masquerade(&node.host, node.env.subnet, BRIDGE)?;
    }
    let (a, _) = world.pair()?;
    let far = world.node(1)?;
    let node = HostAt {
        host: far.host.clone(),
        address: far.host.address,
    };
    let _servers = servers(&[a, &node])?;
    for (bridged, client) in [(false, 21_000), (true, 21_010)] {
        for node in &world.nodes {
            rules::bridge_netfilter(&node.host, bridged)?;
        }
        let cases = [(&node as &dyn Place, a as &dyn Place), (a, &node)];
        for (from, to) in cases {
            let at = |port| SocketAddrV4::new(to.address(), port);
            let what = format!("{} to {}", from.name(), to.name());
            let asked = probe::ask_udp(from, client, at(UDP), "--count 3 --pause-ms 1400")?;
            let tcp = probe::reuse(from, client, at(TCP), 4)?;
            probe::ensure_answered(&what, &tcp).with_context(|| world.describe())?;
            probe::ensure_answered(&what, &asked.report()?).with_context(|| world.describe())?;
        }
        let seen = probe::ask(&node, a, 7100)?;
        ensure!(seen == node.address, "the node appears as {seen}");
        let large = probe::transfer(&node, a, 7101, 4 << 20)?;
        ensure!(large.complete(), "{large:?}");
    }
    Ok(())
}
