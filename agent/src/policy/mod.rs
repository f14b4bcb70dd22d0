//! Whether the host's own rules allow packets past the stack. Pure, but for `read.rs` (runs the
//! programs that print the rules) and `watch.rs` (says when).
//!
//! On the fast path a container's packet passes no netfilter hook of the host, and a tunnel packet
//! neither. A rule that could drop either is a policy, and what it drops must stay dropped.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::netlink::xfrm::Policy;

pub mod chains;
pub mod iptables;
pub mod judge;
pub mod nft;
pub mod read;
pub mod watch;

use chains::{Hook, Table};
use judge::{Names, Packets, blocker, single};

/// What the host forbids, as last read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Chains of iptables and nftables.
    pub tables: Vec<Table>,
    /// IPsec.
    pub ipsec: Vec<Policy>,
}

/// The rules, or why they cannot be read.
pub type RulesRead = Result<Rules, String>;

/// Whether packets may pass the rules by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No rule could drop them.
    Harmless,
    /// This could.
    Blocks {
        /// The rule, as its own program prints it.
        rule: String,
    },
}

/// What packets look like on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// The whole overlay.
    pub network: Ipv4Net,
    /// Our subnet.
    pub subnet: Ipv4Net,
    /// VTEP addresses of the other nodes, whose own packets have them as source.
    pub vteps: Vec<Ipv4Addr>,
    /// Bridges of our containers.
    pub bridges: Vec<String>,
    /// Their ports.
    pub ports: Vec<String>,
    /// `flannel.<VNI>`.
    pub device: String,
    /// The underlay's interface.
    pub uplink: String,
    /// Containers' packets may come and go by it without a tunnel.
    pub direct: bool,
    /// Our VTEP address.
    pub vtep: Ipv4Addr,
    /// UDP port of the overlay.
    pub port: u16,
}

/// Whether a rule could drop packets between our containers and other nodes.
#[must_use]
pub fn containers(rules: &RulesRead, scene: &Scene) -> Verdict {
    either(rules, &[scene.outwards(), scene.inwards()])
}

/// Whether a rule could drop tunnel packets from or to these nodes.
#[must_use]
pub fn tunnels(rules: &RulesRead, scene: &Scene, vteps: &[Ipv4Addr]) -> Verdict {
    if vteps.is_empty() {
        return Verdict::Harmless;
    }
    either(rules, &[scene.sent(vteps), scene.received(vteps)])
}

fn either(rules: &RulesRead, kinds: &[Packets]) -> Verdict {
    match rules {
        Ok(rules) => kinds
            .iter()
            .find_map(|packets| blocker(&rules.tables, packets))
            .map_or(Verdict::Harmless, |rule| Verdict::Blocks { rule }),
        Err(why) => Verdict::Blocks { rule: why.clone() },
    }
}

const THROUGH: &[Hook] = &[Hook::Prerouting, Hook::Forward, Hook::Postrouting];

impl Scene {
    /// Interfaces that lead to other nodes' containers.
    #[must_use]
    pub fn ways(&self) -> Vec<String> {
        let direct = self.direct.then(|| self.uplink.clone());
        [self.device.clone()].into_iter().chain(direct).collect()
    }

    /// From a container to another node.
    fn outwards(&self) -> Packets {
        Packets {
            input: Names::Known(self.bridges.clone()),
            output: Names::Known(self.ways()),
            source: vec![self.subnet],
            destination: vec![self.network],
            ..self.inner()
        }
    }

    /// From another node, or a container of it, to one of ours.
    fn inwards(&self) -> Packets {
        let vteps = self.vteps.iter().copied().map(single);
        Packets {
            input: Names::Known(self.ways()),
            output: Names::Known(self.bridges.clone()),
            source: [self.network].into_iter().chain(vteps).collect(),
            destination: vec![self.subnet],
            ..self.inner()
        }
    }

    fn inner(&self) -> Packets {
        let ways = self.ways();
        let devices = self.bridges.iter().chain(&self.ports).chain(&ways);
        Packets {
            input: Names::Any,
            output: Names::Any,
            source: Vec::new(),
            destination: Vec::new(),
            udp_port: None,
            hooks: THROUGH,
            bridged: true,
            devices: Names::Known(devices.cloned().collect()),
        }
    }

    /// Tunnel packets to other nodes. What hangs at the uplink's way out still sees them.
    fn sent(&self, vteps: &[Ipv4Addr]) -> Packets {
        Packets {
            input: Names::None,
            output: Names::Known(vec![self.uplink.clone()]),
            source: vec![single(self.vtep)],
            destination: vteps.iter().copied().map(single).collect(),
            udp_port: Some(self.port),
            hooks: &[Hook::Output, Hook::Postrouting],
            bridged: false,
            devices: Names::None,
        }
    }

    /// Tunnel packets from other nodes, by the uplink: none that comes in elsewhere is taken.
    fn received(&self, vteps: &[Ipv4Addr]) -> Packets {
        Packets {
            input: Names::Known(vec![self.uplink.clone()]),
            output: Names::None,
            source: vteps.iter().copied().map(single).collect(),
            destination: vec![single(self.vtep)],
            udp_port: Some(self.port),
            hooks: &[Hook::Prerouting, Hook::Input],
            bridged: false,
            devices: Names::Known(vec![self.uplink.clone()]),
        }
    }
}

#[cfg(test)]
mod tests;
