//! How large a packet to a peer may be: as this host knows the way, and as it was measured.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::Ipv4Net;

use super::{View, peers::is_direct};
use crate::{
    model::{
        net::Subnet,
        peer::{Hop, Peer},
    },
    paths::{LEAST, Ways},
    reconcile::underlay::tunnel,
};

/// The largest packets to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Width {
    /// Whole, on the underlay, as this host knows it.
    full: u32,
    /// How much of that is a tunnel's.
    tunnel: u32,
}

impl Width {
    /// By the kernel's path: its routes lead around the tunnel, or into it.
    pub(super) fn of(view: &View<'_>, device: &str, hop: &Hop, lost: &BTreeSet<Ipv4Net>) -> Self {
        let direct = view.network.direct_routing && lost.is_empty();
        if direct && is_direct(hop, view.host, device) {
            return Self {
                full: hop.mtu,
                tunnel: 0,
            };
        }
        let fits = view.underlay.overlay_mtu().saturating_add(tunnel());
        Self {
            full: hop.mtu.min(fits),
            tunnel: tunnel(),
        }
    }

    /// The largest packet of a container that comes through whole, where that is less than this host
    /// would send. Every way takes what every host takes.
    pub(super) fn narrowed(self, most: Option<u32>) -> Option<u32> {
        let most = most?.max(LEAST);
        (most < self.full).then(|| most.saturating_sub(self.tunnel))
    }
}

/// What each route to a narrow peer says, by subnet.
pub(super) fn narrow(
    view: &View<'_>,
    device: &str,
    peers: &BTreeMap<Subnet, Peer>,
    lost: &BTreeSet<Ipv4Net>,
) -> BTreeMap<Subnet, u32> {
    if view.narrow.is_empty() {
        return BTreeMap::new();
    }
    let mtu = |(subnet, peer): (&Subnet, &Peer)| {
        let IpAddr::V4(vtep) = peer.vtep_addr else {
            return None;
        };
        let most = view.narrow.get(&vtep).copied();
        let hop = view.hops.get(&peer.vtep_addr)?;
        let width = Width::of(view, device, hop, lost);
        Some((*subnet, width.narrowed(most)?))
    };
    peers.iter().filter_map(mtu).collect()
}

/// Whom to ask for the width of the way, and how large a packet: never what was found narrow before,
/// or it would not show when it is wide again.
pub(super) fn ways(
    view: &View<'_>,
    device: &str,
    peers: &BTreeMap<Subnet, Peer>,
    lost: &BTreeSet<Ipv4Net>,
) -> Ways {
    let full = |peer: &Peer| match peer.vtep_addr {
        IpAddr::V4(vtep) => {
            let hop = view.hops.get(&peer.vtep_addr);
            let width = hop.map(|hop| Width::of(view, device, hop, lost).full);
            Some((vtep, width))
        }
        IpAddr::V6(_) => None,
    };
    Ways {
        source: Some(view.underlay.address),
        peers: peers
            .values()
            .filter_map(full)
            .collect::<BTreeMap<Ipv4Addr, Option<u32>>>(),
    }
}
