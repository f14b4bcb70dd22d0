//! Which leases are peers, and what the programs know of each.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};
use weft_common::{
    peer::{PEER_DIRECT, PEER_FAST, PeerEntry},
    stats::Hook,
};

use super::{View, overlaps::losers, widths::Width};
use crate::{
    model::{
        net::{IfIndex, Subnet},
        peer::{Hop, Peer},
    },
    netlink::ObservedHost,
    reconcile::underlay::tunnel,
};

/// The other nodes, and the leases that cannot be peers.
pub(super) fn peers(view: &View<'_>) -> (BTreeMap<Subnet, Peer>, BTreeMap<Subnet, &'static str>) {
    let network = IpNet::V4(view.network.network);
    let own_address = IpAddr::V4(view.underlay.public_ip);
    // In order, so that the maps are made in one go.
    let mut found = Vec::with_capacity(view.leases.leases.len());
    let mut created = Vec::with_capacity(view.leases.leases.len());
    let mut ignored = BTreeMap::new();
    for (subnet, lease) in &view.leases.leases {
        if *subnet == view.own {
            continue;
        }
        let why = if !network.contains(&subnet.net()) {
            "outside the network"
        } else if subnet.overlaps(view.own) {
            "overlaps our own subnet"
        } else if lease.attrs.public_ip == own_address {
            "names our own address"
        } else if let Some(peer) = Peer::from_lease(lease) {
            if peer.vtep_mac == view.vtep_mac {
                "names our own VTEP MAC"
            } else {
                found.push((*subnet, peer));
                created.push((*subnet, lease.created));
                continue;
            }
        } else {
            "another backend"
        };
        ignored.insert(*subnet, why);
    }
    let mut peers: BTreeMap<_, _> = found.into_iter().collect();
    for loser in losers(&created.into_iter().collect()) {
        peers.remove(&loser);
        ignored.insert(loser, "overlaps an older lease");
    }
    (peers, ignored)
}

/// Peers that are reached without encapsulation, and by which device: those that no gateway is in
/// front of, as flannel decides it.
pub(super) fn direct(
    view: &View<'_>,
    device: &str,
    peers: &BTreeMap<Subnet, Peer>,
) -> BTreeMap<Subnet, IfIndex> {
    if !view.network.direct_routing {
        return BTreeMap::new();
    }
    let way = |(subnet, peer): (&Subnet, &Peer)| {
        let hop = view.hops.get(&peer.vtep_addr)?;
        is_direct(hop, view.host, device).then_some((*subnet, hop.link))
    };
    peers.iter().filter_map(way).collect()
}

/// An address of the host's own leads to `lo`: no way to anybody else.
pub(super) fn is_direct(hop: &Hop, host: &ObservedHost, device: &str) -> bool {
    let link = host.links.get(&hop.link);
    hop.gateway.is_none() && link.is_some_and(|link| link.name != device && link.name != "lo")
}

/// Nodes to which the programs have no way, and why. Those in `routed` they reach without
/// encapsulation; while there are subnets that were ours nobody is reached so.
#[must_use]
pub fn kernel_ways(
    hops: &BTreeMap<IpAddr, Hop>,
    host: &ObservedHost,
    device: &str,
    direct_routing: bool,
    routed: &BTreeSet<Ipv4Addr>,
    lost: &BTreeSet<Ipv4Net>,
) -> BTreeMap<Ipv4Addr, String> {
    let why = |vtep: &Ipv4Addr, hop: &Hop| {
        if direct_routing && is_direct(hop, host, device) && !routed.contains(vtep) {
            let why = if lost.is_empty() {
                "reached without encapsulation (DirectRouting)"
            } else {
                "tunnelled while a former subnet is on this host (DirectRouting)"
            };
            return Some(why.to_owned());
        }
        obstacle(hop, host, device)
    };
    let named = |(vtep, hop): (&IpAddr, &Hop)| match vtep {
        IpAddr::V4(vtep) => Some((*vtep, why(vtep, hop)?)),
        IpAddr::V6(_) => None,
    };
    hops.iter().filter_map(named).collect()
}

/// Why a way is none for the programs.
fn obstacle(hop: &Hop, host: &ObservedHost, device: &str) -> Option<String> {
    if let Some(IpAddr::V6(gateway)) = hop.gateway {
        return Some(format!("its route has the IPv6 gateway {gateway}"));
    }
    match host.links.get(&hop.link) {
        // The kernel drops what goes there.
        Some(link) if link.name == device => Some(format!("its route leads into {device} itself")),
        Some(link) if !link.ethernet => Some(format!("{} is not Ethernet", link.name)),
        Some(_) => None,
        None => Some("its route's device is not known yet".to_owned()),
    }
}

/// A peer without a route is known to the guard, and left to the kernel.
pub(super) fn peer_entry(
    view: &View<'_>,
    device: &str,
    net: Ipv4Net,
    vtep: Ipv4Addr,
    peer: &Peer,
    lost: &BTreeSet<Ipv4Net>,
) -> PeerEntry {
    let mut entry = PeerEntry {
        subnet: net.network().octets(),
        subnet_len: net.prefix_len().into(),
        vtep_addr: vtep.octets(),
        vtep_mac: peer.vtep_mac.0,
        _pad: [0; 2],
        gateway: vtep.octets(),
        ifindex: 0,
        mtu: 0,
        flags: 0,
    };
    let Some(hop) = view.hops.get(&peer.vtep_addr) else {
        return entry;
    };
    if let Some(IpAddr::V4(gateway)) = hop.gateway {
        entry.gateway = gateway.octets();
    }
    entry.ifindex = hop.link.get();
    let most = view.narrow.get(&vtep).copied();
    let narrow = Width::of(view, device, hop, lost).narrowed(most);
    let narrow = narrow.unwrap_or(u32::MAX);
    let obstacle = obstacle(hop, view.host, device);
    let fast = obstacle.is_none() && !view.kernel_only.contains_key(&vtep);
    if view.network.direct_routing && is_direct(hop, view.host, device) {
        entry.mtu = hop.mtu.min(narrow);
        if fast && lost.is_empty() && routes(view, hop) {
            entry.flags |= PEER_DIRECT;
        }
        return entry;
    }
    let path = hop.mtu.saturating_sub(tunnel());
    entry.mtu = path.min(view.underlay.overlay_mtu()).min(narrow);
    if fast {
        entry.flags |= PEER_FAST;
    }
    entry
}

/// Whether the programs can route to a peer and from it: by the uplink, whose rules were judged, with
/// a program on its way in and a recorder of the stack's flows on its way out.
fn routes(view: &View<'_>, hop: &Hop) -> bool {
    let uplink = view.underlay.link;
    let fails = |hook| view.fails(hook, uplink);
    hop.link == uplink
        && view.underlay.ethernet
        && !fails(Hook::FromUplink)
        && !fails(Hook::ToOverlay)
}
