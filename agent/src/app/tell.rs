//! What the agent says of itself while it runs, and when subnet.env is written.

use std::{net::IpAddr, path::PathBuf};

use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    Failure,
    firewall::RulesState,
    prepare::Movers,
    report::{Told, status},
};
use crate::{
    admin::status::{Mode, SCHEMA, Status},
    model::{
        lease::Lease,
        net::{Mac, Mtu},
        network::NetworkConfig,
    },
    outputs::subnet_env::SubnetEnv,
    reconcile::{desired::Underlay, renewal::OwnLease, run::Report},
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
pub fn subnet_file(
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

/// Puts the status together whenever a task tells something. `subnet.env` is written after the
/// first complete pass: whoever starts by it finds the overlay in place.
pub async fn tell(
    told: watch::Sender<Status>,
    ground: Status,
    path: PathBuf,
    env: SubnetEnv,
    mut report: watch::Receiver<Report>,
    mut lease: watch::Receiver<OwnLease>,
    mut rules: watch::Receiver<RulesState>,
) {
    let mut written: Result<String, String> = Err("not written yet".to_owned());
    let mut was_ready = false;
    loop {
        let now = Told {
            report: report.borrow_and_update().clone(),
            lease: lease.borrow_and_update().clone(),
            rules: rules.borrow_and_update().clone(),
            subnet_file: written.clone(),
        };
        if now.report.complete && written.is_err() {
            let outcome = env
                .write(&path)
                .map(|()| path.display().to_string())
                .map_err(|error| format!("{}: {error}", path.display()));
            if let Err(error) = &outcome
                && written.as_ref().err() != Some(error)
            {
                warn!(error, "subnet.env was not written: will retry");
            }
            written = outcome;
            if written.is_ok() {
                continue;
            }
        }
        let status = status(&ground, &now);
        if status.ready != was_ready {
            was_ready = status.ready;
            info!(ready = status.ready, peers = status.peers, "state changed");
        }
        told.send_replace(status);
        let ended = tokio::select! {
            changed = report.changed() => changed.is_err(),
            changed = lease.changed() => changed.is_err(),
            changed = rules.changed() => changed.is_err(),
        };
        if ended {
            return;
        }
    }
}
