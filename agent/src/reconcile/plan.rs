//! What to do: one pure function from the wanted and the observed state to operations in order.

mod datapath;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

pub use self::datapath::{cut, records};
use super::desired::Desired;
use crate::{
    datapath::{DatapathOp, DatapathState},
    model::{net::IfIndex, peer::Peer},
    netlink::{
        HostOp, Link, LinkKind, NeighbourState, ObservedHost, Route, TunnelEntry, VxlanDevice,
    },
};
use ipnet::IpNet;

/// `RTPROT_BOOT`: what flannel's routes carry.
const PROTOCOL_BOOT: u8 = 3;
/// `RTPROT_KERNEL`: routes that come with an address.
const PROTOCOL_KERNEL: u8 = 2;
/// The metric of a route that stands behind the one that came with a bridge's address.
const BEHIND: u32 = 1;

/// Operations in the order of their execution: the kernel's path first, then maps and programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// New peers, made known to the guard before the kernel can send them anything that they would
    /// answer. Nothing is fast by that.
    pub admit: Vec<DatapathOp>,
    /// Links, addresses, neighbours, forwarding entries, routes.
    pub host: Vec<HostOp>,
    /// Maps and programs.
    pub datapath: Vec<DatapathOp>,
    /// The device is not there, or not up: what hangs on it is for the next round.
    pub partial: bool,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.host.is_empty() && self.datapath.is_empty()
    }
}

/// The operations that lead from what is to what should be. Without `datapath` (no programs on
/// this host) the kernel path alone is planned for.
#[must_use]
pub fn plan(desired: &Desired, host: &ObservedHost, datapath: Option<&DatapathState>) -> Plan {
    let (host, partial) = plan_host(desired, host);
    let admit = datapath
        .map(|seen| datapath::admit(&desired.datapath, seen))
        .unwrap_or_default();
    let datapath = datapath
        .map(|seen| datapath::plan(&desired.datapath, seen, partial))
        .unwrap_or_default();
    Plan {
        admit,
        host,
        datapath,
        partial,
    }
}

fn plan_host(desired: &Desired, host: &ObservedHost) -> (Vec<HostOp>, bool) {
    let wanted = &desired.device;
    let Some(link) = host.link_named(&wanted.name) else {
        return (vec![HostOp::CreateVxlan(wanted.clone())], true);
    };
    if !fits(link, wanted) {
        // The entries hang on the device: they are planned anew once the new one is there.
        let name = link.name.clone();
        let remove = HostOp::DeleteLink {
            link: link.index,
            name,
        };
        return (vec![remove, HostOp::CreateVxlan(wanted.clone())], true);
    }
    let mut ops = Vec::new();
    if link.mtu != wanted.mtu {
        ops.push(HostOp::SetMtu {
            link: link.index,
            mtu: wanted.mtu,
        });
    }
    plan_address(desired, host, link.index, &mut ops);
    if !link.up {
        ops.push(HostOp::SetUp(link.index));
        // Routes need a device that is up.
        return (ops, true);
    }
    plan_peers(desired, host, link.index, &mut ops);
    plan_managed(desired, host, &mut ops);
    (ops, false)
}

/// Whether a device that is there can be adopted. Its MAC is adopted before, so a difference means
/// that somebody changed it, which only a new device repairs for good.
fn fits(link: &Link, wanted: &VxlanDevice) -> bool {
    matches!(&link.kind, LinkKind::Vxlan(attrs) if *attrs == wanted.attrs)
        && link.mac == Some(wanted.mac)
}

fn plan_address(desired: &Desired, host: &ObservedHost, link: IfIndex, ops: &mut Vec<HostOp>) {
    let on_device = host.addresses.iter().filter(|(owner, _)| *owner == link);
    for (_, net) in on_device {
        if *net != desired.address && desired.network.contains(&net.addr()) {
            ops.push(HostOp::DeleteAddress(link, *net));
        }
    }
    if !host.addresses.contains(&(link, desired.address)) {
        ops.push(HostOp::PutAddress(link, desired.address));
    }
}

/// For each peer what flannel programs, in its order: neighbour, forwarding entry, route; for one
/// that is reached without encapsulation the route alone. What is there for nobody is removed, after
/// what takes its place.
fn plan_peers(desired: &Desired, host: &ObservedHost, link: IfIndex, ops: &mut Vec<HostOp>) {
    // Collected at once: inserting ten thousand one by one takes several times as long.
    let (mut neighbours, mut tunnels, mut routes) = (Vec::new(), Vec::new(), Vec::new());
    // Where two leases want the same entry, as after a node's address changed, the newer has it.
    let mut peers: Vec<_> = desired.peers.values().collect();
    peers.sort_by_key(|peer| peer.written);
    for peer in peers {
        let mtu = desired.narrow.get(&peer.subnet).copied();
        if let Some(uplink) = desired.direct.get(&peer.subnet) {
            routes.push(Route {
                destination: peer.subnet.net(),
                gateway: Some(peer.vtep_addr),
                link: *uplink,
                onlink: false,
                metric: 0,
                mtu,
                protocol: PROTOCOL_BOOT,
            });
            continue;
        }
        let via = peer.subnet.net().network();
        neighbours.push((via, peer.vtep_mac));
        let mac = peer.vtep_mac;
        tunnels.push((TunnelEntry { link, mac }, peer.vtep_addr));
        routes.push(Route {
            destination: peer.subnet.net(),
            gateway: Some(via),
            link,
            onlink: true,
            metric: if is_former(desired, peer) { BEHIND } else { 0 },
            mtu,
            protocol: PROTOCOL_BOOT,
        });
    }
    let neighbours: BTreeMap<_, _> = neighbours.into_iter().collect();
    let mut tunnels: BTreeMap<_, _> = tunnels.into_iter().collect();
    let routes: BTreeSet<_> = routes.into_iter().collect();

    if desired.cut_off {
        // The routes stay, so that nothing leaves unencapsulated; the device has nowhere to send to.
        tunnels.clear();
    }

    // What is wanted and not there yet replaces what is in its place.
    let missing = routes.iter().filter(|route| !host.routes.contains(*route));
    let places: BTreeSet<_> = missing.map(place).collect();
    let stale_routes = host.routes.iter().filter(|route| {
        ((route.link == link && route.protocol != PROTOCOL_KERNEL) || is_direct(desired, route))
            && !routes.contains(*route)
            && !places.contains(&place(route))
    });
    ops.extend(stale_routes.map(|route| HostOp::DeleteRoute(*route)));
    // Whoever replaced the route left the number, which would be in the way of the next.
    let idle = host
        .idle_hops
        .iter()
        .filter(|(on, gateway)| *on == link && desired.network.contains(&IpAddr::V4(*gateway)));
    ops.extend(idle.map(|(link, gateway)| HostOp::DeleteNextHop(*link, *gateway)));
    let behind = routes.iter().filter(|route| route.metric == BEHIND);
    ops.extend(behind.filter_map(|route| connected(host, link, route.destination)));
    for (addr, mac) in &neighbours {
        let (addr, mac) = (*addr, *mac);
        let there = host.neighbours.get(&(link, addr)).is_some_and(|entry| {
            entry.mac == Some(mac) && entry.state == NeighbourState::Permanent
        });
        if !there {
            ops.push(HostOp::PutNeighbour { link, addr, mac });
        }
    }
    for (entry, vtep) in &tunnels {
        if host.tunnel_fdb.get(entry) != Some(vtep) {
            ops.push(HostOp::PutTunnel(*entry, *vtep));
        }
    }
    for route in routes {
        if !host.routes.contains(&route) {
            ops.push(HostOp::PutRoute(route));
        }
    }

    for ((owner, addr), entry) in &host.neighbours {
        let permanent = entry.state == NeighbourState::Permanent;
        if *owner == link && permanent && addr.is_ipv4() && !neighbours.contains_key(addr) {
            ops.push(HostOp::DeleteNeighbour(link, *addr));
        }
    }
    for entry in host.tunnel_fdb.keys() {
        if entry.link == link && !tunnels.contains_key(entry) {
            ops.push(HostOp::DeleteTunnel(*entry));
        }
    }
}

/// Whether a peer has a former subnet of ours now. Our routes come first, but for this one: the bridge
/// that still has the subnet's addresses keeps its own, and with it the host for the containers behind
/// it. Programs take what new containers send there. Whether they do at this moment is no matter: the
/// bridge's route, once replaced, does not come back by itself.
fn is_former(desired: &Desired, peer: &Peer) -> bool {
    let net = peer.subnet.v4();
    net.is_some_and(|net| desired.lost.contains(&net))
}

/// The route that came with a bridge's address, where nothing but ours leads there any more.
fn connected(host: &ObservedHost, ours: IfIndex, net: IpNet) -> Option<HostOp> {
    let mut routes = host.routes.iter().filter(|route| route.link != ours);
    if routes.any(|route| route.destination == net) || host.nowhere.contains(&net) {
        return None;
    }
    // The kernel makes it only while the bridge is up, and names the first address of the prefix.
    let is_up = |link: &Link| link.up && matches!(link.kind, LinkKind::Bridge { .. });
    let of = |(link, addr): &&(IfIndex, IpNet)| {
        addr.trunc() == net && host.links.get(link).is_some_and(is_up)
    };
    let standing = |(link, addr): &&(IfIndex, IpNet)| host.standings.get(&(*link, addr.addr()));
    let (link, addr) = host.addresses.iter().filter(of).min_by_key(standing)?;
    Some(HostOp::PutConnected(*link, *addr))
}

/// Whether a route is one to a peer without encapsulation, of whichever agent or flannel before us.
fn is_direct(desired: &Desired, route: &Route) -> bool {
    let len = desired.direct_len;
    len.is_some_and(|len| has_direct_form(&desired.network, len, route))
}

/// Whether a route has the form of one to a peer without encapsulation, in a network whose subnets
/// are that long.
#[must_use]
pub fn has_direct_form(network: &IpNet, len: u8, route: &Route) -> bool {
    let IpNet::V4(destination) = route.destination else {
        return false;
    };
    destination.prefix_len() == len
        && network.contains(&route.destination)
        && route.gateway.is_some_and(|via| !network.contains(&via))
        && (route.protocol, route.metric, route.onlink) == (PROTOCOL_BOOT, 0, false)
}

/// What a new route takes the place of.
fn place(route: &Route) -> (IpNet, u32) {
    (route.destination, route.metric)
}

/// Live endpoints' neighbours are kept fresh by the kernel; others no longer.
fn plan_managed(desired: &Desired, host: &ObservedHost, ops: &mut Vec<HostOp>) {
    for (link, addr) in &desired.managed {
        // Only an entry that is there: a missing one would be made, and probed, for a container
        // that may be gone.
        let entry = host.neighbours.get(&(*link, *addr));
        if entry.is_some_and(|entry| !entry.managed && entry.state == NeighbourState::Valid) {
            ops.push(HostOp::ManageNeighbour {
                link: *link,
                addr: *addr,
                managed: true,
            });
        }
    }
    for ((link, addr), entry) in &host.neighbours {
        if entry.managed && is_in(desired.address, addr, desired) {
            let wanted = desired.managed.contains(&(*link, *addr));
            if !wanted {
                ops.push(HostOp::ManageNeighbour {
                    link: *link,
                    addr: *addr,
                    managed: false,
                });
            }
        }
    }
}

/// Whether an address is in our own subnet: the managed flag of others is not ours to take off.
fn is_in(own: IpNet, addr: &IpAddr, desired: &Desired) -> bool {
    desired
        .datapath
        .settings
        .is_some_and(|settings| match (own, addr) {
            (IpNet::V4(_), IpAddr::V4(addr)) => {
                let mask = u32::from_be_bytes(settings.subnet_mask);
                u32::from(*addr) & mask == u32::from_be_bytes(settings.subnet)
            }
            _ => false,
        })
}
