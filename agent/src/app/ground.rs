//! What does not change while the agent runs: the ground of its status, and subnet.env.

use std::net::IpAddr;

use super::{Failure, prepare::Movers};
use crate::{
    admin::status::{Mode, SCHEMA, Status},
    model::{
        lease::Lease,
        net::{Mac, Mtu},
        network::NetworkConfig,
    },
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
        mtu: Mtu::try_from(underlay.overlay_mtu()).map_err(|error| unusable(&error))?,
        ip_masq: masquerade,
    })
}
