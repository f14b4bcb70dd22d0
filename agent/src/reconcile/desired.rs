//! What should be: one pure function from leases, host and settings to the wanted state.

mod lost;
mod overlaps;
mod peers;
mod widths;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};
use weft_common::{
    endpoint::EndpointEntry,
    peer::{PEER_DIRECT, VtepEntry},
    settings::{DIRECT_ROUTING, DatapathSettings, FAST_PATH, GUARD_PEERS, GUARD_STRICT},
    stats::Hook,
};

pub use self::peers::kernel_ways;
use self::peers::{direct, peer_entry, peers};
use super::underlay::Underlay;
use crate::{
    datapath::{Attachment, DatapathState},
    endpoints::{self, Endpoints, Foreign},
    model::{
        lease::Snapshot,
        net::{IfIndex, Mac, Subnet},
        network::NetworkConfig,
        peer::{Hop, Peer},
    },
    netlink::{ObservedHost, VxlanAttrs, VxlanDevice},
    paths::{Narrow, Ways},
};

/// What the programs copy from the kernel's own tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelDefaults {
    /// `ip_local_port_range`, both ends included.
    pub ports: (u16, u16),
    /// `ip_default_ttl`.
    pub ttl: u8,
}

/// Everything that the wanted state depends on.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The cluster's configuration.
    pub network: &'a NetworkConfig,
    /// Our subnet.
    pub own: Subnet,
    /// It is not known to be somebody else's.
    pub holds: bool,
    /// The underlay.
    pub underlay: Underlay,
    /// MAC of our device.
    pub vtep_mac: Mac,
    /// All leases.
    pub leases: &'a Snapshot,
    /// The host.
    pub host: &'a ObservedHost,
    /// How the underlay reaches each VTEP address that it reaches at all.
    pub hops: &'a BTreeMap<IpAddr, Hop>,
    /// Ways that are narrower than the host knows.
    pub narrow: &'a Narrow,
    /// Local containers.
    pub endpoints: &'a Endpoints,
    /// Where our programs could not be attached.
    pub unhooked: &'a BTreeSet<(Hook, IfIndex)>,
    /// Kernel defaults.
    pub kernel: KernelDefaults,
    /// Whether packets may be taken.
    pub fast_path: bool,
    /// VTEP addresses whose tunnel packets are the kernel's, and why.
    pub kernel_only: &'a BTreeMap<Ipv4Addr, String>,
    /// Programs of others at ports and bridges.
    pub foreign: &'a Foreign,
    /// What the guard refuses.
    pub guard: Guard,
    /// Whether ports of bridges have programs of their own; else the bridge's program takes all.
    pub hook_ports: bool,
    /// Containers that a port's program has heard of and the kernel's tables do not have yet.
    pub provisional: &'a BTreeMap<Ipv4Addr, EndpointEntry>,
}

/// What the guard refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// Whatever no legitimate peer or container can have sent.
    #[default]
    Strict,
    /// Tunnel packets of senders that are no peer.
    Peers,
    /// Nothing, as flannel.
    Flannel,
}

impl Guard {
    const fn flags(self) -> u32 {
        match self {
            Self::Strict => GUARD_STRICT | GUARD_PEERS,
            Self::Peers => GUARD_PEERS,
            Self::Flannel => 0,
        }
    }
}

impl View<'_> {
    /// Whether a program could not be attached there, or is not to be.
    fn fails(&self, hook: Hook, link: IfIndex) -> bool {
        let left_out = hook == Hook::FromContainer && !self.hook_ports;
        left_out || self.unhooked.contains(&(hook, link))
    }
}

/// The wanted state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The VXLAN device.
    pub device: VxlanDevice,
    /// Its address: the network address of our subnet, alone.
    pub address: IpNet,
    /// The whole overlay: other addresses in it have no place on the device.
    pub network: IpNet,
    /// Peers that the kernel is programmed for.
    pub peers: BTreeMap<Subnet, Peer>,
    /// Those of them that are reached without encapsulation, by this device.
    pub direct: BTreeMap<Subnet, IfIndex>,
    /// VTEP addresses of those that the programs reach so.
    pub routed: BTreeSet<Ipv4Addr>,
    /// The largest packets of containers that come through whole to peers with a narrow way.
    pub narrow: BTreeMap<Subnet, u32>,
    /// Whose way is to be measured.
    pub ways: Ways,
    /// Length of the subnets of a network whose peers are reached like that where they can be; there
    /// a route of that form is ours.
    pub direct_len: Option<u8>,
    /// Containers whose neighbour entry the kernel keeps fresh, with their bridge.
    pub managed: BTreeSet<(IfIndex, IpAddr)>,
    /// Maps and programs.
    pub datapath: DatapathState,
    /// Subnets that were ours: the overlay carries nothing of theirs any more.
    pub lost: BTreeSet<Ipv4Net>,
    /// Our own is among them: nothing leaves or comes in by the device.
    pub cut_off: bool,
    /// Leases that are left out, and why.
    pub ignored: BTreeMap<Subnet, &'static str>,
}

/// The wanted state for what is seen.
#[must_use]
pub fn desired(view: &View<'_>) -> Desired {
    let (peers, ignored) = peers(view);
    let name = view.network.vni.device();
    let device = VxlanDevice {
        name: name.clone(),
        attrs: VxlanAttrs {
            vni: view.network.vni,
            port: view.network.port,
            local: Some(IpAddr::V4(view.underlay.address)),
            lower: Some(view.underlay.link),
            learning: view.network.learning,
            gbp: view.network.gbp,
        },
        mac: view.vtep_mac,
        mtu: view.underlay.overlay_mtu(),
    };
    let own = view.own.net();
    let lost = lost::subnets(view);
    let datapath = view
        .own
        .v4()
        .map(|own| datapath(view, own, &name, &peers, &lost));
    let datapath = datapath.unwrap_or_default();
    let routed = datapath.peers.values();
    let routed = routed.filter(|peer| peer.flags & PEER_DIRECT != 0);
    let routed = routed.map(|peer| peer.vtep_addr.into()).collect();
    Desired {
        address: IpNet::from(own.network()),
        network: IpNet::V4(view.network.network),
        managed: view
            .endpoints
            .iter()
            .map(|(address, endpoint)| (endpoint.bridge, IpAddr::V4(*address)))
            .collect(),
        datapath,
        routed,
        narrow: widths::narrow(view, &name, &peers, &lost),
        ways: widths::ways(view, &name, &peers, &lost),
        // What is cut off leaves by no way where nobody would see it.
        direct: if lost.is_empty() {
            direct(view, &name, &peers)
        } else {
            BTreeMap::new()
        },
        lost,
        cut_off: !view.holds,
        direct_len: (view.network.direct_routing).then_some(view.network.subnet_len),
        device,
        peers,
        ignored,
    }
}

fn datapath(
    view: &View<'_>,
    own: Ipv4Net,
    device: &str,
    peers: &BTreeMap<Subnet, Peer>,
    lost: &BTreeSet<Ipv4Net>,
) -> DatapathState {
    let mut state = DatapathState {
        settings: Some(settings(view, own, device, lost)),
        ..DatapathState::default()
    };
    let known = peers.iter().filter_map(|(subnet, peer)| {
        let IpAddr::V4(vtep) = peer.vtep_addr else {
            return None;
        };
        Some((subnet.v4()?, vtep, peer))
    });
    let entry = |(net, vtep, peer)| (net, peer_entry(view, device, net, vtep, peer, lost));
    state.peers = known.clone().map(entry).collect();
    let mut vteps: Vec<Ipv4Addr> = known.map(|(_, vtep, _)| vtep).collect();
    vteps.sort_unstable();
    let leases = vteps.chunk_by(|one, next| one == next);
    let named = leases.filter_map(|same| {
        let vtep = *same.first()?;
        let leases = u32::try_from(same.len()).unwrap_or(u32::MAX);
        Some((vtep, VtepEntry { leases, _pad: 0 }))
    });
    state.vteps = named.collect();
    lost::mark(lost, &mut state.peers);
    state.locals = endpoints::locals(view.host)
        .into_iter()
        .map(|(address, link)| (address, link.get()))
        .collect();
    let bridges = endpoints::bridges(view.host, own, view.underlay.link);
    state.ports = endpoints::ports(view.host, &bridges)
        .into_iter()
        .filter(|port| !view.fails(Hook::ToContainer, port.index))
        .filter_map(|port| {
            let hooked = !view.fails(Hook::FromContainer, port.index);
            let entry = endpoints::port_entry(view.host, port, hooked, view.foreign)?;
            Some((port.index.get(), entry))
        })
        .collect();
    state.endpoints = view
        .endpoints
        .iter()
        // Where the stack's flows are not recorded, all of them are the stack's.
        .filter(|(_, endpoint)| !view.fails(Hook::ToContainer, endpoint.port))
        .filter_map(|(address, endpoint)| {
            let hooked = !view.fails(Hook::FromContainer, endpoint.port);
            Some((
                *address,
                endpoint.to_entry(view.host, hooked, view.foreign)?,
            ))
        })
        .collect();
    for (address, entry) in view.provisional {
        state.endpoints.entry(*address).or_insert(*entry);
    }
    state.attachments = attachments(view, device);
    state
}

fn settings(
    view: &View<'_>,
    own: Ipv4Net,
    device: &str,
    lost: &BTreeSet<Ipv4Net>,
) -> DatapathSettings {
    let (port_min, port_max) = view.kernel.ports;
    let device = view.host.link_named(device);
    let records = device.is_none_or(|device| !view.fails(Hook::ToOverlay, device.index));
    // A subnet that is somebody else's holds no container of ours.
    let own = if view.holds {
        own
    } else {
        Ipv4Net::from(Ipv4Addr::UNSPECIFIED)
    };
    DatapathSettings {
        subnet: own.network().octets(),
        subnet_mask: own.netmask().octets(),
        network: view.network.network.network().octets(),
        network_mask: view.network.network.netmask().octets(),
        vtep_addr: view.underlay.address.octets(),
        vtep_mac: view.vtep_mac.0,
        port: view.network.port.to_be_bytes(),
        vni: view.network.vni.get(),
        mtu: view.underlay.overlay_mtu(),
        port_min: port_min.into(),
        port_max: port_max.into(),
        ttl: view.kernel.ttl.into(),
        flags: view.guard.flags()
            | flag(FAST_PATH, view.fast_path && records)
            | flag(
                DIRECT_ROUTING,
                view.network.direct_routing && lost.is_empty(),
            ),
        ready: 1,
    }
}

const fn flag(flag: u32, set: bool) -> u32 {
    if set { flag } else { 0 }
}

/// Where our programs belong.
fn attachments(view: &View<'_>, device: &str) -> BTreeSet<Attachment> {
    let mut attachments = BTreeSet::new();
    let mut at = |hook: Hook, link: IfIndex| {
        if let Some(found) = view.host.links.get(&link) {
            attachments.insert(Attachment {
                hook,
                link,
                name: found.name.clone(),
            });
        }
    };
    if let Some(link) = view.host.link_named(device) {
        at(Hook::FromOverlay, link.index);
        at(Hook::ToOverlay, link.index);
    }
    if view.underlay.ethernet {
        at(Hook::FromUplink, view.underlay.link);
        // What leaves the stack without a tunnel; before a peer is reached so.
        if view.network.direct_routing {
            at(Hook::ToOverlay, view.underlay.link);
        }
    }
    let bridges = lost::bridges(view);
    for link in endpoints::side_entrances(view.host, &bridges, device) {
        at(Hook::FromUplink, link.index);
    }
    for bridge in &bridges {
        at(Hook::FromBridge, *bridge);
    }
    for port in endpoints::ports(view.host, &bridges) {
        at(Hook::ToContainer, port.index);
        if view.hook_ports {
            at(Hook::FromContainer, port.index);
        }
    }
    attachments
}
