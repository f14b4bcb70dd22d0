//! What does not change while the agent runs: the ground of its status, and subnet.env.

use std::net::IpAddr;

use ipnet::IpNet;
use tracing::warn;

use super::{Failure, prepare::Movers};
use crate::{
    admin::status::{Mode, SCHEMA, Status},
    model::{
        lease::Lease,
        net::{Mac, Mtu},
        network::NetworkConfig,
    },
    netlink::ObservedHost,
    outputs::subnet_env::SubnetEnv,
    reconcile::underlay::Underlay,
};

/// What does not change while the agent runs.
pub fn ground(
    network: &NetworkConfig,
    lease: &Lease,
    underlay: &Underlay,
    movers: &Movers,
    uplink: &str,
    vtep_mac: Mac,
) -> Status {
    let named = |yes: bool, name: &str, other: &str| if yes { name } else { other }.to_owned();
    Status {
        schema: SCHEMA.to_owned(),
        pid: std::process::id(),
        mode: Mode {
            datapath: named(movers.datapath.is_some(), "ebpf", "kernel"),
            fast_path: named(movers.fast_path, "on", "off"),
            why: movers.why.clone(),
            attach: attached(movers),
        },
        network: Some(network.network.to_string()),
        subnet: Some(lease.subnet.to_string()),
        vni: Some(network.vni.get()),
        vtep: Some(IpAddr::V4(underlay.address).to_string()),
        mac: Some(vtep_mac.to_string()),
        uplink: Some(uplink.to_owned()),
        mtu: Some(underlay.overlay_mtu()),
        ..Status::default()
    }
}

/// What must fit before a subnet is claimed: a lease that nobody can use helps nobody. What is
/// only unwise is said.
pub fn check(
    network: &NetworkConfig,
    underlay: &Underlay,
    host: &ObservedHost,
) -> Result<(), Failure> {
    overlay_mtu(underlay)?;
    let overlay = IpNet::V4(network.network);
    let uplinks = host
        .addresses
        .iter()
        .filter(|(link, _)| *link == underlay.link);
    for (_, net) in uplinks.filter(|(_, net)| overlaps(&overlay, &net.trunc())) {
        warn!(
            "Network {overlay} of the network config overlaps {net} of the uplink: a node whose \
             address lies in a leased subnet is cut off; choose another Network"
        );
    }
    Ok(())
}

fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

fn overlay_mtu(underlay: &Underlay) -> Result<Mtu, Failure> {
    let mtu = underlay.overlay_mtu();
    Mtu::try_from(mtu).map_err(|error| {
        Failure::Usage(format!(
            "an overlay MTU of {mtu}: {error}; raise the MTU of the uplink, or set Backend.MTU"
        ))
    })
}

/// What the kernel lacks is said here: how the programs are attached, and what they do without.
fn attached(movers: &Movers) -> String {
    let Some(datapath) = &movers.datapath else {
        return String::new();
    };
    let blind = if datapath.reads_conntrack {
        ""
    } else {
        "; the kernel does not say where conntrack is on a packet: what no port's program saw \
         counts as translated"
    };
    format!("{} ({}){blind}", datapath.way(), datapath.way_because)
}

/// `subnet.env` of this run.
pub fn subnet_env(
    masquerade: bool,
    network: &NetworkConfig,
    lease: &Lease,
    underlay: &Underlay,
) -> Result<SubnetEnv, Failure> {
    let unusable = |error: &dyn std::fmt::Display| Failure::Usage(format!("overlay: {error}"));
    Ok(SubnetEnv {
        network: network.network,
        subnet: lease
            .subnet
            .v4()
            .ok_or_else(|| unusable(&"the lease is not IPv4"))?,
        mtu: overlay_mtu(underlay)?,
        ip_masq: masquerade,
    })
}
