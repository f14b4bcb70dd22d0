//! Subnets that were ours: what still bears their addresses on this host.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::{IpNet, Ipv4Net};
use weft_common::peer::{PEER_LOST, PeerEntry};

use super::View;
use crate::{endpoints, model::net::IfIndex};

/// Bridges that own an address in the overlay: of our subnet, or left over from an earlier one.
pub(super) fn bridges(view: &View<'_>) -> BTreeSet<IfIndex> {
    endpoints::bridges(view.host, view.network.network, view.underlay.link)
}

/// Ours if somebody else has it now, and those that bridges still have addresses of: also one that
/// is down, and may come up, or that forwards by VLAN, whose containers the kernel serves.
pub(super) fn subnets(view: &View<'_>) -> BTreeSet<Ipv4Net> {
    let network = view.network.network;
    let own = view.own.v4();
    let bridges = endpoints::addressed(view.host, network, view.underlay.link);
    let bridges: BTreeSet<IfIndex> = bridges.map(|link| link.index).collect();
    let is_former = |net: &Ipv4Net| {
        let apart = |own: Ipv4Net| !own.contains(net) && !net.contains(&own);
        network.contains(net) && *net != network && own.is_none_or(apart)
    };
    let on_bridges = view.host.addresses.iter();
    let on_bridges = on_bridges.filter(|(link, _)| bridges.contains(link));
    let mut lost: BTreeSet<Ipv4Net> = on_bridges
        .filter_map(|(_, net)| match net {
            IpNet::V4(net) => Some(net.trunc()),
            IpNet::V6(_) => None,
        })
        .filter(is_former)
        .collect();
    if !view.holds {
        lost.extend(own);
    }
    lost
}

/// Tells the programs, in the entry of the peer who has it now where there is one.
pub(super) fn mark(lost: &BTreeSet<Ipv4Net>, peers: &mut BTreeMap<Ipv4Net, PeerEntry>) {
    for net in lost {
        peers.entry(*net).or_insert_with(|| nobody(*net));
        // A smaller subnet inside it is found first.
        for (inside, entry) in peers.iter_mut() {
            if net.contains(inside) {
                entry.flags |= PEER_LOST;
            }
        }
    }
}

fn nobody(net: Ipv4Net) -> PeerEntry {
    let none = Ipv4Addr::UNSPECIFIED.octets();
    PeerEntry {
        subnet: net.network().octets(),
        subnet_len: net.prefix_len().into(),
        vtep_addr: none,
        vtep_mac: [0; 6],
        _pad: [0; 2],
        gateway: none,
        ifindex: 0,
        mtu: 0,
        flags: 0,
    }
}
