//! What an operation does to a host, as far as the kernel's rules matter to us.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    model::{net::IfIndex, peer::Hop},
    netlink::{
        HostOp, Link, LinkKind, Neighbour, NeighbourState, ObservedHost, Route, VxlanDevice,
    },
};

pub(super) fn change(host: &mut ObservedHost, op: &HostOp) -> Result<(), i32> {
    match op {
        HostOp::CreateVxlan(device) => create(host, device)?,
        HostOp::DeleteLink { link, name: _ } => delete_link(host, *link),
        HostOp::SetMtu { link, mtu } => find(host, *link)?.mtu = *mtu,
        HostOp::SetUp(link) => {
            let link = find(host, *link)?;
            (link.up, link.carrier) = (true, true);
        }
        HostOp::PutAddress(link, net) => {
            find(host, *link)?;
            host.addresses.insert((*link, *net));
            host.standings.entry((*link, net.addr())).or_default();
        }
        HostOp::DeleteAddress(link, net) => {
            host.addresses.remove(&(*link, *net));
            host.standings.remove(&(*link, net.addr()));
        }
        HostOp::PutNeighbour { link, addr, mac } => {
            find(host, *link)?;
            let neighbour = Neighbour {
                mac: Some(*mac),
                state: NeighbourState::Permanent,
                managed: false,
            };
            host.neighbours.insert((*link, *addr), neighbour);
        }
        HostOp::DeleteNeighbour(link, addr) => {
            host.neighbours.remove(&(*link, *addr));
        }
        HostOp::ManageNeighbour {
            link,
            addr,
            managed,
        } => manage(host, *link, *addr, *managed)?,
        HostOp::PutTunnel(entry, vtep) => {
            if !matches!(find(host, entry.link)?.kind, LinkKind::Vxlan(_)) {
                return Err(libc::EOPNOTSUPP);
            }
            host.tunnel_fdb.insert(*entry, *vtep);
        }
        HostOp::DeleteTunnel(entry) => {
            host.tunnel_fdb.remove(entry);
        }
        HostOp::PutRoute(route) => put_route(host, *route)?,
        HostOp::DeleteRoute(route) => {
            // The kernel asks for no width.
            let way = |route: &Route| Route {
                mtu: None,
                ..*route
            };
            host.routes.retain(|other| way(other) != way(route));
        }
        HostOp::DeleteNextHop(link, gateway) => _ = host.idle_hops.remove(&(*link, *gateway)),
        HostOp::PutConnected(link, net) => put_connected(host, *link, *net)?,
        HostOp::PutBlackhole(net) => {
            let mut others = host.routes.iter();
            if !others.any(|other| (other.destination, other.metric) == (*net, 0)) {
                host.nowhere.insert(*net);
            }
        }
        HostOp::DeleteBlackhole(net) => _ = host.nowhere.remove(net),
    }
    Ok(())
}

fn create(host: &mut ObservedHost, device: &VxlanDevice) -> Result<(), i32> {
    let taken = host.links.values().any(|link| match &link.kind {
        LinkKind::Vxlan(attrs) => (attrs.vni, attrs.port) == (device.attrs.vni, device.attrs.port),
        _ => false,
    });
    if taken || host.link_named(&device.name).is_some() {
        return Err(libc::EEXIST);
    }
    let index = next_index(host);
    host.links.insert(
        index,
        Link {
            index,
            name: device.name.clone(),
            kind: LinkKind::Vxlan(device.attrs.clone()),
            mac: Some(device.mac),
            ethernet: true,
            mtu: device.mtu,
            up: false,
            carrier: false,
            master: None,
            qdisc: None,
        },
    );
    Ok(())
}

fn delete_link(host: &mut ObservedHost, gone: IfIndex) {
    host.links.remove(&gone);
    for link in host.links.values_mut() {
        if link.master == Some(gone) {
            link.master = None;
        }
    }
    host.addresses.retain(|(link, _)| *link != gone);
    host.standings.retain(|(link, _), _| *link != gone);
    host.routes.retain(|route| route.link != gone);
    host.idle_hops.retain(|(link, _)| *link != gone);
    host.neighbours.retain(|(link, _), _| *link != gone);
    host.tunnel_fdb.retain(|entry, _| entry.link != gone);
    host.bridge_fdb
        .retain(|entry| entry.bridge != gone && entry.port != gone);
}

fn manage(host: &mut ObservedHost, link: IfIndex, addr: IpAddr, managed: bool) -> Result<(), i32> {
    if let Some(neighbour) = host.neighbours.get_mut(&(link, addr)) {
        neighbour.managed = managed;
    } else if managed {
        find(host, link)?;
        // The kernel begins to ask for it.
        let neighbour = Neighbour {
            mac: None,
            state: NeighbourState::Incomplete,
            managed,
        };
        host.neighbours.insert((link, addr), neighbour);
    }
    Ok(())
}

fn put_route(host: &mut ObservedHost, mut route: Route) -> Result<(), i32> {
    if !find(host, route.link)?.up {
        return Err(libc::ENETDOWN);
    }
    if let (IpNet::V6(_), 0) = (route.destination, route.metric) {
        route.metric = 1024;
    }
    let same =
        |other: &Route| (other.destination, other.metric) == (route.destination, route.metric);
    host.routes.retain(|other| !same(other));
    host.routes.insert(route);
    Ok(())
}

fn put_connected(host: &mut ObservedHost, link: IfIndex, addr: IpNet) -> Result<(), i32> {
    let route = Route {
        destination: addr.trunc(),
        gateway: None,
        link,
        onlink: false,
        metric: 0,
        mtu: None,
        protocol: 2,
    };
    let mut others = host.routes.iter();
    if others.any(|other| (other.destination, other.metric) == (route.destination, 0)) {
        return Ok(());
    }
    put_route(host, route)
}

/// The longest prefix, then the lowest metric.
pub(super) fn route_to(host: &ObservedHost, destination: IpAddr) -> Option<(Hop, Option<IpAddr>)> {
    let route = host
        .routes
        .iter()
        .filter(|route| route.destination.contains(&destination))
        .min_by_key(|route| (u8::MAX - route.destination.prefix_len(), route.metric))?;
    let link = host.links.get(&route.link)?;
    let source = host
        .addresses
        .iter()
        .find(|(owner, net)| *owner == link.index && net.addr().is_ipv4() == destination.is_ipv4())
        .map(|(_, net)| net.addr());
    let hop = Hop {
        link: link.index,
        gateway: route.gateway,
        mtu: route.mtu.unwrap_or(link.mtu),
    };
    Some((hop, source))
}

fn find(host: &mut ObservedHost, link: IfIndex) -> Result<&mut Link, i32> {
    host.links.get_mut(&link).ok_or(libc::ENODEV)
}

pub(super) fn next_index(host: &ObservedHost) -> IfIndex {
    let last = host.links.keys().next_back().map_or(0, |index| index.get());
    IfIndex::try_from(last + 1).expect("the numbers of a test's links do not run out")
}
