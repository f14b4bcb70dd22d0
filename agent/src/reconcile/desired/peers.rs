//! Which leases are peers, and what the programs know of each.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};
use weft_common::{
    peer::{PEER_FAST, PeerEntry},
    wire::OVERHEAD,
};

use super::{View, overlaps::losers};
use crate::{
    model::{
        net::Subnet,
        peer::{Hop, Peer},
    },
    netlink::ObservedHost,
};

/// The other nodes, and the leases that cannot be peers.
pub(super) fn peers(view: &View<'_>) -> (BTreeMap<Subnet, Peer>, BTreeMap<Subnet, &'static str>) {
    let network = IpNet::V4(view.network.network);
    let own_address = IpAddr::V4(view.underlay.public_ip);
    let mut peers = BTreeMap::new();
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
                peers.insert(*subnet, peer);
                continue;
            }
        } else {
            "another backend"
        };
        ignored.insert(*subnet, why);
    }
    let leases = view.leases.leases.iter();
    let candidates = leases.filter(|(subnet, _)| peers.contains_key(subnet));
    let created = candidates.map(|(subnet, lease)| (*subnet, lease.created));
    for loser in losers(&created.collect()) {
        peers.remove(&loser);
        ignored.insert(loser, "overlaps an older lease");
    }
    (peers, ignored)
}

/// Nodes to which the programs have no way, and why.
#[must_use]
pub fn kernel_ways(
    hops: &BTreeMap<IpAddr, Hop>,
    host: &ObservedHost,
    device: &str,
) -> BTreeMap<Ipv4Addr, String> {
    let named = |(vtep, hop): (&IpAddr, &Hop)| match vtep {
        IpAddr::V4(vtep) => Some((*vtep, obstacle(hop, host, device)?)),
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
    let path = hop
        .mtu
        .saturating_sub(u32::try_from(OVERHEAD).unwrap_or(u32::MAX));
    entry.mtu = path.min(view.underlay.overlay_mtu());
    let obstacle = obstacle(hop, view.host, device);
    if obstacle.is_none() && !view.kernel_only.contains_key(&vtep) {
        entry.flags |= PEER_FAST;
    }
    entry
}
