//! Puts what the tasks tell together to one status.

use std::fmt::Display;

use tokio::sync::watch;
use tracing::info;
use weft_common::stats::Hook;

use super::{
    firewall::RulesState,
    subnet_file::{FileState, SubnetFile},
    systemd,
};
use crate::{
    admin::status::{Component, Ignored, Status},
    paths::Narrow,
    reconcile::{allow::Decision, network::ConfigState, renewal::OwnLease, run::Report},
    store::etcd::Health,
};

/// Each part of the status names this many things at most.
const NAMED: usize = 20;

/// What the tasks told last.
#[derive(Clone, Debug)]
pub struct Told {
    /// The loop.
    pub report: Report,
    /// The way to the store.
    pub way: Health,
    /// Peers that are kept although the store has lost them.
    pub kept: usize,
    /// Peers behind links that are narrower than this host knows.
    pub narrow: Narrow,
    /// The lease.
    pub lease: OwnLease,
    /// The rules; `None` before they have been tried.
    pub rules: Option<RulesState>,
    /// The network config.
    pub network: ConfigState,
    /// `subnet.env`.
    pub subnet_file: FileState,
}

/// Puts the status together whenever a task tells something. `subnet.env` is written after the
/// first complete pass and the first try of the rules: whoever starts by it finds the overlay in
/// place, and is masqueraded from its first packet. It is looked at after every later pass.
pub async fn tell(
    told: watch::Sender<Status>,
    ground: Status,
    mut file: SubnetFile,
    mut report: watch::Receiver<Report>,
    (mut way, mut kept, mut paths): (
        watch::Receiver<Health>,
        watch::Receiver<usize>,
        watch::Receiver<Narrow>,
    ),
    mut lease: watch::Receiver<OwnLease>,
    (mut rules, mut network): (
        watch::Receiver<Option<RulesState>>,
        watch::Receiver<ConfigState>,
    ),
) {
    let mut was_ready = false;
    let mut systemd_knows = false;
    loop {
        let report_now = report.borrow_and_update().clone();
        let rules_now = rules.borrow_and_update().clone();
        if report_now.complete && rules_now.is_some() {
            file.keep(report_now.overlay_mtu);
        }
        let now = Told {
            report: report_now,
            way: way.borrow_and_update().clone(),
            kept: *kept.borrow_and_update(),
            narrow: paths.borrow_and_update().clone(),
            lease: lease.borrow_and_update().clone(),
            rules: rules_now,
            network: network.borrow_and_update().clone(),
            subnet_file: file.state().clone(),
        };
        let status = status(&ground, &now);
        if status.ready != was_ready {
            was_ready = status.ready;
            info!(ready = status.ready, peers = status.peers, "state changed");
        }
        if status.ready && !systemd_knows {
            systemd::ready();
            systemd_knows = true;
        }
        told.send_replace(status);
        let ended = tokio::select! {
            changed = report.changed() => changed.is_err(),
            changed = way.changed() => changed.is_err(),
            changed = kept.changed() => changed.is_err(),
            // Where nobody measures, nobody tells.
            Ok(()) = paths.changed() => false,
            changed = lease.changed() => changed.is_err(),
            changed = rules.changed() => changed.is_err(),
            changed = network.changed() => changed.is_err(),
        };
        if ended {
            return;
        }
    }
}

/// Each reason by a stable name.
fn own_lease(lease: &OwnLease) -> Component {
    match lease {
        OwnLease::Held => Component::good("lease", "held"),
        OwnLease::Unconfirmed { since, why } => {
            let what = format!("degraded: lease unconfirmed since {since}: {why}");
            Component::bad("lease", what)
        }
        OwnLease::Missing(why) => Component::bad("lease", format!("lease_missing: {why}")),
        OwnLease::Lost(why) => Component::bad("lease", format!("subnet_lost: {why}")),
        OwnLease::Conflict(why) => Component::bad("lease", format!("public_ip_conflict: {why}")),
    }
}

fn endpoint(way: &Health) -> Component {
    if way.left_alone.is_empty() {
        return Component::good("endpoint", &way.endpoint);
    }
    let left = way.left_alone.iter().map(|(which, why)| (which, why));
    Component::bad(
        "endpoint",
        format!("{}; left alone: {}", way.endpoint, listed(left)),
    )
}

/// Who has been told of a wider overlay sends what does not fit any more: a warning, since the kernel
/// says so to whoever listens.
fn port_mtu(report: &Report) -> Component {
    const NAME: &str = "port_mtu";
    if report.wide_ports.is_empty() {
        return Component::good(NAME, "none is wider than the overlay");
    }
    let ports = report.wide_ports.iter().map(|(port, mtu)| (port, mtu));
    let overlay = report.overlay_mtu.unwrap_or_default();
    Component::good(
        NAME,
        format!(
            "wider than the overlay's {overlay}, until their containers are restarted: {}",
            listed(ports)
        ),
    )
}

/// What no packet says: see `paths`.
fn path_mtu(narrow: &Narrow) -> Component {
    let Some(least) = narrow.values().min() else {
        return Component::good("path_mtu", "none is known to be narrower");
    };
    let each = narrow.iter().map(|(peer, most)| {
        (
            peer,
            format!("packets above {most} bytes do not come through whole"),
        )
    });
    Component::bad(
        "path_mtu",
        format!(
            "{}: senders of this host are told so, those of a node with flannel are not; widen the way, or set Backend.MTU to {least} in the network config and restart agents and containers",
            listed(each)
        ),
    )
}

fn programs(report: &Report) -> Component {
    let missing = report
        .unattached
        .iter()
        .map(|at| format!("{} at {}", at.hook.name(), at.name));
    let attached = format!("{} attached", report.attached);
    if report.unattached.is_empty() {
        Component::good("programs", attached)
    } else {
        Component::bad(
            "programs",
            format!("{attached}, missing: {}", some(missing, ", ")),
        )
    }
}

/// Whether the programs that every packet of the overlay meets are in place. A port without one is
/// a matter of its container's speed, and by another interface than the uplink only strangers come.
fn is_attached(report: &Report) -> bool {
    let uplink = report.uplink.as_ref();
    report.unattached.iter().all(|at| match at.hook {
        Hook::FromUplink => uplink.is_some_and(|uplink| uplink.name != at.name),
        // Without that of the uplink, peers that need no tunnel are the kernel's.
        Hook::ToOverlay => uplink.is_some_and(|uplink| uplink.name == at.name),
        Hook::FromOverlay => false,
        Hook::FromContainer | Hook::FromBridge | Hook::ToContainer => true,
    })
}

/// What stays with the kernel, and why.
fn listed<K: Display, V: Display>(kept: impl IntoIterator<Item = (K, V)>) -> String {
    let each = kept.into_iter().map(|(what, why)| format!("{what}: {why}"));
    let all = some(each, "; ");
    if all.is_empty() {
        "none".to_owned()
    } else {
        all
    }
}

/// The first of them, and how many more there are: peers may be thousands.
fn some<T: Display>(each: impl IntoIterator<Item = T>, between: &str) -> String {
    let mut each = each.into_iter().map(|one| one.to_string());
    let mut text = each.by_ref().take(NAMED).collect::<Vec<_>>().join(between);
    let more = each.count();
    if more > 0 {
        text.push_str(&format!("{between}and {more} more"));
    }
    text
}

/// The status, on the ground of what does not change.
#[must_use]
pub fn status(ground: &Status, told: &Told) -> Status {
    let Told {
        report,
        way,
        kept,
        narrow,
        lease,
        rules,
        network,
        subnet_file,
    } = told;
    let mut components = vec![
        match &report.store_down {
            None => Component::good("store", "answers"),
            Some(why) => Component::bad("store", why),
        },
        endpoint(way),
        match &way.access {
            None => Component::good("etcd_access", "granted"),
            Some(why) => Component::bad("etcd_access", why),
        },
        match &way.files {
            None => Component::good("etcd_files", "in use as they are"),
            Some(why) => Component::bad("etcd_files", why),
        },
        match kept {
            0 => Component::good("kept_peers", "none"),
            kept => Component::bad(
                "kept_peers",
                format!(
                    "{kept}: the store has their leases no more, all at once or since the last run; they may come back"
                ),
            ),
        },
        path_mtu(narrow),
        own_lease(lease),
        match report.former.as_slice() {
            [] => Component::good("former_subnets", "none"),
            former => Component::bad(
                "former_subnets",
                format!(
                    "{} were this host's: containers with their addresses are cut off from the overlay until they are restarted with the new subnet.env",
                    former.join(", ")
                ),
            ),
        },
        match report.failures.as_slice() {
            [] if report.complete => {
                Component::good("reconcile", format!("{} operations", report.operations))
            }
            [] => Component::bad("reconcile", "no complete pass yet"),
            failures => Component::bad("reconcile", some(failures, "; ")),
        },
        match (&report.uplink_wrong, &report.uplink) {
            (Some(why), _) => Component::bad("uplink", why),
            (None, Some(uplink)) => Component::good("uplink", &uplink.name),
            (None, None) => Component::bad("uplink", "not looked at yet"),
        },
        match rules {
            Some(Ok(detail)) => Component::good("firewall", detail),
            Some(Err(why)) => Component::bad("firewall", why),
            None => Component::bad("firewall", "rules not looked at yet"),
        },
        match network {
            Ok(detail) => Component::good("config", detail),
            Err(why) => Component::bad("config", why),
        },
        match subnet_file {
            Ok(path) => Component::good("subnet_file", path),
            Err(why) => Component::bad("subnet_file", why),
        },
    ];
    let mut mode = ground.mode.clone();
    if ground.mode.datapath == "ebpf" {
        if !report.allowed.why.is_empty() {
            let Decision {
                fast,
                why,
                harmless: _,
                kernel_only,
            } = &report.allowed;
            mode.fast_path = if *fast { "on" } else { "off" }.to_owned();
            mode.why.clone_from(why);
            components.push(Component::good("kernel_only", listed(kernel_only)));
            if !report.routed.is_empty() {
                components.push(Component::good(
                    "direct",
                    format!("without encapsulation: {}", some(&report.routed, ", ")),
                ));
            }
            let ports = report.kept_ports.iter().map(|(port, why)| (port, why));
            components.push(Component::good("kept_ports", listed(ports)));
            components.push(port_mtu(report));
        }
        components.push(if report.strict_tcp {
            Component::bad(
                "fallback",
                "nf_conntrack_tcp_loose is 0: a fast TCP connection that must go back to the stack \
                 dies there; set it to 1",
            )
        } else {
            Component::good("fallback", "conntrack takes up what was fast")
        });
        components.push(programs(report));
        components.push(match &report.flows {
            Some(Ok(detail)) => Component::good("flows", detail),
            Some(Err(why)) => Component::bad("flows", why),
            None => Component::bad("flows", "not compared with conntrack yet"),
        });
    }
    Status {
        // The file is not written before the rules were tried.
        ready: lease.is_held() && report.complete && is_attached(report) && subnet_file.is_ok(),
        mode,
        components,
        uplink: match &report.uplink {
            Some(uplink) => Some(uplink.name.clone()),
            None => ground.uplink.clone(),
        },
        vtep: match &report.uplink {
            Some(uplink) => Some(uplink.address.to_string()),
            None => ground.vtep.clone(),
        },
        mtu: report.overlay_mtu.or(ground.mtu),
        peers: report.peers,
        endpoints: report.endpoints,
        ignored: report
            .ignored
            .iter()
            .map(|(what, why)| Ignored {
                what: what.clone(),
                why: why.clone(),
            })
            .collect(),
        applied_revision: report.applied.map(|revision| revision.0),
        operations: report.operations,
        ..ground.clone()
    }
}

#[cfg(test)]
mod tests;
