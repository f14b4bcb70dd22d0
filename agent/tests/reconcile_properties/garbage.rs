//! Random leftovers: a device with wrong attributes, stale entries on it, and maps of another time.

use std::net::{IpAddr, Ipv4Addr};

use proptest::{collection::vec, option, prelude::*, sample::select};
use weft::{
    datapath::{Attachment, DatapathState},
    model::net::Mac,
    netlink::{LinkKind, Neighbour, NeighbourState, ObservedHost, Route, TunnelEntry, VxlanAttrs},
};
use weft_common::{
    endpoint::EndpointEntry,
    peer::{PeerEntry, VtepEntry},
    stats::Hook,
};

use crate::world::{DEVICE, OWN_ADDRESS, OWN_MAC, UPLINK, index, link, net};

/// A route's metric and its width.
type Says = (u32, Option<u32>);

#[derive(Clone, Debug)]
pub struct Garbage {
    device: Option<(u8, bool, u32, bool)>,
    addresses: Vec<(u8, u8, u8)>,
    routes: Vec<(u8, u8, bool, Says, u8, bool)>,
    neighbours: Vec<(u8, u8, NeighbourState, bool)>,
    tunnels: Vec<(u8, u8)>,
}

pub fn garbage() -> impl Strategy<Value = Garbage> {
    let state = select(vec![
        NeighbourState::Permanent,
        NeighbourState::Valid,
        NeighbourState::Failed,
        NeighbourState::Incomplete,
    ]);
    // Half of the devices are as they should be.
    let attribute = prop_oneof![5 => Just(0u8), 5 => 1u8..6];
    let device = (
        attribute,
        any::<bool>(),
        select(vec![1450, 1400]),
        any::<bool>(),
    );
    let metric = select(vec![0, 0, 50]);
    let protocol = select(vec![2u8, 3, 4, 16]);
    let node = || 8u8..62;
    (
        option::weighted(0.8, device),
        vec(
            (select(vec![10u8, 172]), node(), select(vec![0u8, 24, 32])),
            0..4,
        ),
        vec(
            (
                node(),
                select(vec![24, 25]),
                any::<bool>(),
                (metric, select(vec![None, Some(1300), Some(1450)])),
                protocol,
                any::<bool>(),
            ),
            0..12,
        ),
        vec((node(), 0u8..62, state, any::<bool>()), 0..12),
        vec((node(), node()), 0..12),
    )
        .prop_map(|(device, addresses, routes, neighbours, tunnels)| Garbage {
            device,
            addresses,
            routes,
            neighbours,
            tunnels,
        })
}

impl Garbage {
    /// Puts it on the host: on `flannel.1`, where that is there, and everything of the same kind on
    /// the uplink and another VXLAN device, where it is not ours.
    pub fn spread(&self, host: &mut ObservedHost) {
        let Self {
            device,
            addresses,
            routes,
            neighbours,
            tunnels,
        } = self;
        let foreign = link(DEVICE + 1, "vx9", LinkKind::Vxlan(attrs(9)), None);
        let mut owners = vec![index(UPLINK), foreign.index];
        host.links.insert(foreign.index, foreign);
        if let Some((wrong, own_mac, mtu, up)) = *device {
            let kind = match wrong {
                5 => LinkKind::Other("dummy".to_owned()),
                wrong => LinkKind::Vxlan(attrs(wrong)),
            };
            let mut link = link(DEVICE, "flannel.1", kind, None);
            (link.mtu, link.up) = (mtu, up);
            if own_mac {
                link.mac = Some(OWN_MAC);
            }
            owners.push(link.index);
            host.links.insert(link.index, link);
        }
        for owner in owners {
            let ours = owner == index(DEVICE);
            for (first, third, length) in addresses {
                let address = net(&format!("{first}.1.{third}.0/{length}"));
                host.addresses.insert((owner, address));
            }
            for (node, length, gateway, (metric, mtu), protocol, onlink) in routes {
                let third = if ours { *node } else { node + 100 };
                let destination = net(&format!("10.1.{third}.0/{length}"));
                host.routes.insert(Route {
                    destination,
                    gateway: gateway.then(|| destination.addr()),
                    link: owner,
                    onlink: *onlink,
                    metric: *metric,
                    mtu: *mtu,
                    protocol: *protocol,
                });
            }
            for (node, mac, state, managed) in neighbours {
                host.neighbours.insert(
                    (owner, IpAddr::V4(Ipv4Addr::new(10, 1, *node, 0))),
                    Neighbour {
                        mac: Some(Mac([2, 9, 0, 0, 0, *mac])),
                        state: *state,
                        managed: *managed,
                    },
                );
            }
            if !matches!(host.links[&owner].kind, LinkKind::Vxlan(_)) {
                continue;
            }
            for (mac, vtep) in tunnels {
                let entry = TunnelEntry {
                    link: owner,
                    mac: Mac([2, 9, 0, 0, 0, *mac]),
                };
                let vtep = Ipv4Addr::new(192, 0, 2, *vtep);
                host.tunnel_fdb.insert(entry, vtep.into());
            }
        }
    }
}

/// The attributes that we want, but for one.
fn attrs(wrong: u8) -> VxlanAttrs {
    let mut attrs = VxlanAttrs {
        vni: 1.try_into().unwrap(),
        port: 8472,
        local: Some(OWN_ADDRESS.into()),
        lower: Some(index(UPLINK)),
        learning: false,
        gbp: false,
    };
    match wrong {
        1 => attrs.port = 4789,
        2 => attrs.local = None,
        3 => attrs.learning = true,
        4 => attrs.lower = None,
        9 => attrs.vni = 9.try_into().unwrap(),
        _ => {}
    }
    attrs
}

/// Maps and programs of another time.
pub fn state() -> impl Strategy<Value = DatapathState> {
    let hook = select(vec![
        Hook::FromContainer,
        Hook::FromBridge,
        Hook::FromUplink,
        Hook::FromOverlay,
        Hook::ToOverlay,
        Hook::ToContainer,
    ]);
    let attachment = (hook, 1u32..24, any::<bool>());
    (
        vec(8u8..62, 0..8),
        vec((8u8..62, 1u32..3), 0..8),
        vec((0u8..8, 1u32..24, 0u8..5, 1u32..24), 0..8),
        vec((0u8..8, 1u32..24), 0..4),
        vec(attachment, 0..8),
    )
        .prop_map(|(peers, vteps, endpoints, locals, attachments)| {
            let mut state = DatapathState::default();
            for node in peers {
                let subnet = format!("10.1.{node}.0/24").parse().unwrap();
                state.peers.insert(subnet, stale_peer(node));
            }
            for (node, leases) in vteps {
                let entry = VtepEntry { leases, _pad: 0 };
                state.vteps.insert(Ipv4Addr::new(192, 0, 2, node), entry);
            }
            for (address, ifindex, mac, bridge) in endpoints {
                let entry = EndpointEntry {
                    ifindex,
                    mac: [2, 1, 0, 0, 0, mac],
                    bridge_mac: [2, 0, 0, 0, 0, 9],
                    bridge_mtu: 1400,
                    bridge,
                    flags: 0,
                };
                state
                    .endpoints
                    .insert(Ipv4Addr::new(10, 1, 2, address), entry);
            }
            for (address, link) in locals {
                state.locals.insert(Ipv4Addr::new(10, 1, 2, address), link);
            }
            for (hook, number, renamed) in attachments {
                let name = if renamed { "old" } else { "eth0" }.to_owned();
                let link = index(number);
                state
                    .attachments
                    .retain(|at| (at.hook, at.link) != (hook, link));
                state.attachments.insert(Attachment { hook, link, name });
            }
            state
        })
}

fn stale_peer(node: u8) -> PeerEntry {
    PeerEntry {
        subnet: [10, 1, node, 0],
        subnet_len: 24,
        vtep_addr: [192, 0, 2, 99],
        vtep_mac: [2, 9, 0, 0, 0, node],
        _pad: [0; 2],
        gateway: [192, 0, 2, 99],
        ifindex: 1,
        mtu: 1400,
        flags: 0,
    }
}
