//! Whether packets may be taken at all, and from and to which nodes: by the command line, by the
//! host's packet filter, by IPsec and by policy routing.

mod obstacles;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ipnet::Ipv4Net;
use tokio::sync::watch;
use tracing::{info, warn};
use weft_common::stats::Hook;

pub use self::obstacles::{Obstacles, foreign};
use super::underlay::Underlay;
use crate::{
    datapath::Attachment,
    endpoints::{self, Foreign},
    model::{net::Subnet, network::NetworkConfig},
    netlink::{ObservedHost, RoutingRule},
    policy::{Rules, RulesRead, Scene, Verdict, containers, judge::overlap, tunnels},
};

const UDP: u8 = 17;
/// What the host itself sends has no other interface that it came in by.
const OWN: [&str; 1] = ["lo"];

/// What is allowed, and what it rests on.
#[derive(Debug)]
pub struct Allow {
    /// Whether packets may be taken when no rule speaks against it.
    pub fast: bool,
    /// Why it is so.
    pub why: String,
    /// Whether the packet filter is obeyed. `--fast-path=on` overrides it; IPsec and policy
    /// routing hold all the same.
    pub filtered: bool,
    /// The host's rules; `None` where nobody reads them.
    pub rules: Option<watch::Receiver<Arc<RulesRead>>>,
    /// The last decision, and its ground.
    decided: Option<(Ground, Decision)>,
}

type Ground = (Arc<RulesRead>, Scene, BTreeSet<RoutingRule>, Obstacles);

/// What is allowed now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether packets may be taken.
    pub fast: bool,
    /// Why it is so.
    pub why: String,
    /// The host's rules were read, and let every packet of a container pass, whatever conntrack
    /// says of it, unless it calls it invalid.
    pub harmless: bool,
    /// VTEP addresses whose tunnel packets are the kernel's, and why.
    pub kernel_only: BTreeMap<Ipv4Addr, String>,
}

impl Allow {
    /// By the command line and the configuration alone.
    #[must_use]
    pub fn new(fast: bool, why: String) -> Self {
        Self {
            fast,
            why,
            filtered: false,
            rules: None,
            decided: None,
        }
    }

    /// What is allowed in this scene. Thousands of rules are not judged again for every container
    /// that comes or goes elsewhere.
    pub fn decide(&mut self, scene: Scene, host: &ObservedHost, obstacles: Obstacles) -> &Decision {
        let rules = match &mut self.rules {
            Some(rules) => Arc::clone(&rules.borrow_and_update()),
            None => Arc::new(Ok(Rules::default())),
        };
        let ground: Ground = (rules, scene, host.rules.clone(), obstacles);
        let before = match self.decided.take() {
            Some((before, decision)) if before == ground => {
                return &self.decided.insert((ground, decision)).1;
            }
            other => other.map(|(_, decision)| decision),
        };
        let decision = self.judge(&ground);
        tell(before.as_ref(), &decision);
        &self.decided.insert((ground, decision)).1
    }

    fn judge(&self, (rules, scene, routing, obstacles): &Ground) -> Decision {
        let mut decision = Decision {
            fast: self.fast,
            why: self.why.clone(),
            harmless: false,
            kernel_only: BTreeMap::new(),
        };
        if !self.fast {
            return decision;
        }
        if self.filtered {
            match containers(rules, scene) {
                Verdict::Harmless => decision.harmless = true,
                Verdict::Blocks { rule } => {
                    decision.fast = false;
                    decision.why = rule;
                }
            }
        }
        if let Some(why) = &obstacles.all {
            decision.fast = false;
            decision.why.clone_from(why);
        }
        // Most hosts have nothing that could concern any of the nodes.
        let suspicious = self.filtered && tunnels(rules, scene, &scene.vteps) != Verdict::Harmless;
        for vtep in &scene.vteps {
            let filter = || match tunnels(rules, scene, &[*vtep]) {
                Verdict::Blocks { rule } => Some(rule),
                Verdict::Harmless => None,
            };
            let why = ipsec(rules, scene, *vtep)
                .or_else(|| routed(routing, scene, *vtep))
                .or_else(|| obstacles.diverted.get(vtep).cloned())
                .or_else(|| suspicious.then(filter).flatten());
            if let Some(why) = why {
                decision.kernel_only.insert(*vtep, why);
            }
        }
        decision
    }
}

fn tell(before: Option<&Decision>, now: &Decision) {
    if before.map(|before| (before.fast, &before.why)) != Some((now.fast, &now.why)) {
        info!(fast_path = now.fast, why = now.why, "fast path decided");
    }
    for (vtep, why) in &now.kernel_only {
        if before.is_none_or(|before| before.kernel_only.get(vtep) != Some(why)) {
            warn!(%vtep, why, "this peer is the kernel's alone");
        }
    }
}

/// An IPsec policy for tunnel packets in either direction.
fn ipsec(rules: &RulesRead, scene: &Scene, vtep: Ipv4Addr) -> Option<String> {
    let rules = match rules {
        Ok(rules) => rules,
        Err(why) => return Some(why.clone()),
    };
    let (ours, theirs) = (Ipv4Net::from(scene.vtep), Ipv4Net::from(vtep));
    let (network, port) = (scene.network, Some(scene.port));
    let found = rules.ipsec.iter().find(|policy| {
        policy.concerns(&ours, &theirs, port)
            || policy.concerns(&theirs, &ours, port)
            // And what is inside, before it goes into the tunnel or when it comes out.
            || policy.concerns(&scene.subnet, &network, None)
            || policy.concerns(&network, &scene.subnet, None)
    })?;
    Some(found.to_string())
}

/// A routing rule that chooses another way for tunnel packets than a plain lookup does, or for what
/// is inside them.
fn routed(rules: &BTreeSet<RoutingRule>, scene: &Scene, vtep: Ipv4Addr) -> Option<String> {
    let (ours, theirs) = (Ipv4Net::from(scene.vtep), Ipv4Net::from(vtep));
    let tunnel = |rule: &RoutingRule| {
        came_by(rule, &OWN)
            && concerns(rule, &ours, &theirs)
            && rule.protocol.is_none_or(|protocol| protocol == UDP)
    };
    let ways = scene.ways();
    let inside = |rule: &RoutingRule| {
        (came_by(rule, &scene.bridges) && concerns(rule, &scene.subnet, &scene.network))
            || (came_by(rule, &ways) && concerns(rule, &scene.network, &scene.subnet))
    };
    let found = rules
        .iter()
        .find(|rule| rule.inverted || tunnel(rule) || inside(rule))?;
    Some(format!("ip rule with priority {}", found.priority))
}

fn concerns(rule: &RoutingRule, source: &Ipv4Net, destination: &Ipv4Net) -> bool {
    rule.source.is_none_or(|from| overlap(&from, source))
        && rule.destination.is_none_or(|to| overlap(&to, destination))
}

fn came_by(rule: &RoutingRule, names: &[impl AsRef<str>]) -> bool {
    let input = rule.input.as_ref();
    input.is_none_or(|input| names.iter().any(|name| name.as_ref() == input))
}

/// Where the loop works.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The cluster's configuration.
    pub network: &'a NetworkConfig,
    /// Our subnet.
    pub own: Subnet,
    /// The underlay.
    pub underlay: &'a Underlay,
    /// Name of our device.
    pub device: &'a str,
}

impl Place<'_> {
    /// What packets look like here, with nodes at these addresses.
    #[must_use]
    pub fn scene(&self, nodes: &BTreeSet<IpAddr>, host: &ObservedHost) -> Scene {
        let network = self.network.network;
        let subnet = self.own.v4().unwrap_or(network);
        let bridges = endpoints::bridges(host, subnet, self.underlay.link);
        let ports = endpoints::ports(host, &bridges);
        let name = |link| host.links.get(link).map(|link| link.name.clone());
        let v4 = |address: &IpAddr| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        };
        Scene {
            network,
            subnet,
            vteps: nodes.iter().filter_map(v4).collect(),
            bridges: bridges.iter().filter_map(name).collect(),
            ports: ports.iter().map(|port| port.name.clone()).collect(),
            device: self.device.to_owned(),
            uplink: name(&self.underlay.link).unwrap_or_default(),
            direct: self.network.direct_routing,
            vtep: self.underlay.address,
            port: self.network.port,
        }
    }
}

/// Ports of our bridges whose packets are the kernel's, and why.
#[must_use]
pub fn kept_ports(
    host: &ObservedHost,
    attachments: &BTreeSet<Attachment>,
    foreign: &Foreign,
) -> Vec<(String, String)> {
    let ports = attachments
        .iter()
        .filter(|at| at.hook == Hook::FromContainer);
    ports
        .filter_map(|at| {
            let why = endpoints::kept(host, host.links.get(&at.link)?, foreign)?;
            Some((at.name.clone(), why))
        })
        .collect()
}

/// Ports of containers that are wider than the overlay, and how wide: the overlay has become narrower
/// since they were made, or nobody has told them how wide it is.
pub fn wide_ports(
    host: &ObservedHost,
    attachments: &BTreeSet<Attachment>,
    overlay_mtu: u32,
) -> Vec<(String, u32)> {
    let ports = attachments
        .iter()
        .filter(|at| at.hook == Hook::FromContainer);
    let mtus = ports.filter_map(|at| Some((at.name.clone(), host.links.get(&at.link)?.mtu)));
    mtus.filter(|(_, mtu)| *mtu > overlay_mtu).collect()
}

#[cfg(test)]
mod tests;
